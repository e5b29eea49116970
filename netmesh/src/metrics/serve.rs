//! `GET /metrics`, on a thread of its own: a scrape never holds up the daemon.

use std::io;
use std::net::TcpListener as Listener;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use hyper::header::{ACCEPT, ALLOW, CONTENT_TYPE};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Mutex, Semaphore};
use tokio::time::{sleep, timeout};

use super::body::{Answer, answer};
use super::classic::Classic;
use super::encode::write;
use super::read::{Memory, read};
use super::select::Selection;
use super::told::Told;

/// Connections at once; others wait.
const CONNECTIONS: usize = 16;
/// How long a request may take to say what it wants.
const HEADER: Duration = Duration::from_secs(5);
/// How long a connection may last.
const CONNECTION: Duration = Duration::from_secs(60);

const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
const CLASSIC: &str = "text/plain; version=0.0.4; charset=utf-8";

/// What a connection needs.
struct Server {
    told: Arc<Told>,
    selection: Selection,
    /// One reading at a time: two would take twice the memory.
    memory: Mutex<Memory>,
}

/// Serves until the process ends.
///
/// # Errors
/// When there is no thread to be had, or the socket is of no use.
pub fn serve(listener: Listener, told: Arc<Told>, selection: Selection) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(CONNECTIONS)
        .build()?;
    let server = Arc::new(Server {
        told,
        selection,
        memory: Mutex::default(),
    });
    thread::Builder::new()
        .name("metrics".into())
        .spawn(move || runtime.block_on(accept(listener, server)))?;
    Ok(())
}

async fn accept(listener: Listener, server: Arc<Server>) {
    let listener = match TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => {
            tracing::error!("metrics are not served: {error}");
            return;
        }
    };
    let slots = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(slot) = Arc::clone(&slots).acquire_owned().await else {
            return;
        };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::debug!("metrics: no connection: {error}");
                sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let server = Arc::clone(&server);
        tokio::spawn(async move {
            let _slot = slot;
            if timeout(CONNECTION, connection(stream, server))
                .await
                .is_err()
            {
                tracing::debug!("metrics: a connection took too long");
            }
        });
    }
}

async fn connection(stream: TcpStream, server: Arc<Server>) {
    let service = service_fn(|request| respond(request, Arc::clone(&server)));
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER)
        .keep_alive(false)
        .max_buf_size(16 << 10)
        .serve_connection(TokioIo::new(stream), service)
        .await;
    if let Err(error) = served {
        tracing::debug!("metrics: {error}");
    }
}

async fn respond<B>(
    request: Request<B>,
    server: Arc<Server>,
) -> Result<Response<Answer>, hyper::http::Error> {
    let plain = |status| {
        Response::builder()
            .status(status)
            .header(CONTENT_TYPE, "text/plain")
    };
    if request.method() != Method::GET && request.method() != Method::HEAD {
        return plain(StatusCode::METHOD_NOT_ALLOWED)
            .header(ALLOW, "GET, HEAD")
            .body(Answer::of("only GET and HEAD\n"));
    }
    match request.uri().path() {
        "/metrics" => {}
        "/" => return plain(StatusCode::OK).body(Answer::of("netmesh: see /metrics\n")),
        _ => return plain(StatusCode::NOT_FOUND).body(Answer::of("there is only /metrics\n")),
    }
    let accepted = request.headers().get_all(ACCEPT).iter();
    let open = accepted
        .filter_map(|value| value.to_str().ok())
        .any(|value| value.contains("application/openmetrics-text"));
    let reading = {
        let mut memory = server.memory.lock().await;
        read(server.told.report(), server.selection, &mut memory).await
    };
    let (mut writer, answer) = answer();
    tokio::task::spawn_blocking(move || {
        if open {
            let written = write(reading, &mut writer);
            writer.end(written);
        } else {
            let mut classic = Classic::new(writer);
            let written = write(reading, &mut classic);
            classic.into_inner().end(written);
        }
    });
    let kind = if open { OPEN_METRICS } else { CLASSIC };
    Response::builder().header(CONTENT_TYPE, kind).body(answer)
}
