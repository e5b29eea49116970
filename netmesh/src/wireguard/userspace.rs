//! Userspace WireGuard: one process a device, which outlives whoever started it and is found
//! again through its control socket.

use std::fs::{self, File};
use std::io::{self, BufRead as _, BufReader, Read as _, Seek as _, Write as _};
use std::net::{Ipv6Addr, UdpSocket};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use boringtun::device::{DeviceConfig, DeviceHandle};
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use nix::unistd::{Pid, setsid};
use rustix::net::{ipproto, sockopt};
use rustix::process::{PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};

use super::Error;

/// Where every implementation puts its control socket; shared by all network namespaces.
const FOLDER: &str = "/var/run/wireguard";

/// How long a process may take to come up, or to go.
const PATIENCE: Duration = Duration::from_secs(10);

/// The subcommand of our own binary that serves one device.
pub const SUBCOMMAND: &str = "wireguard-userspace";

/// Serves one device until its control socket is removed. The body of the hidden subcommand.
///
/// The device is born in the network namespace of this process, and so are its UDP sockets: they
/// stay there when the device moves.
///
/// # Errors
/// When the device cannot be made.
pub fn serve(name: &str) -> Result<(), Error> {
    let fail = |said: String| Error::NotStarted {
        program: "the embedded WireGuard".into(),
        name: name.into(),
        said,
    };
    // A terminal that closes must not take the tunnel along. A session leader stays one.
    let _ = setsid();
    // Keys in memory stay out of core dumps.
    setrlimit(Resource::RLIMIT_CORE, 0, 0).map_err(|error| fail(error.to_string()))?;
    nix::sys::prctl::set_dumpable(false).map_err(|error| fail(error.to_string()))?;
    let config = DeviceConfig {
        n_threads: 2,
        // One socket for all peers: a peer that roams is heard at once.
        use_connected_socket: false,
        use_multi_queue: false,
        uapi_fd: -1,
    };
    let mut device = DeviceHandle::new(name, config).map_err(|error| fail(error.to_string()))?;
    device.wait();
    Ok(())
}

/// Starts a process for a device in the namespace of the caller and waits until its control
/// socket answers. `program` names another implementation than the embedded one.
///
/// # Errors
/// When it does not come up.
pub fn start(name: &str, program: Option<&str>) -> Result<(), Error> {
    if find(name).is_some() {
        return Ok(());
    }
    let _ = fs::remove_file(socket(name)); // Left by a process that was killed.
    fs::create_dir_all(FOLDER).map_err(|source| Error::File {
        action: "cannot make",
        path: FOLDER.into(),
        source,
    })?;
    let label = program.unwrap_or("the embedded WireGuard").to_owned();
    let fail = |said: String| Error::NotStarted {
        program: label.clone(),
        name: name.into(),
        said,
    };
    let mut log = tempfile::tempfile().map_err(|error| fail(error.to_string()))?;
    let stderr = log.try_clone().map_err(|error| fail(error.to_string()))?;
    let mut command = match program {
        Some(program) => Command::new(program),
        None => {
            let mut own = Command::new("/proc/self/exe");
            own.arg(SUBCOMMAND);
            own
        }
    };
    let mut child = command
        .arg(name)
        .current_dir("/")
        // wireguard-go would hand its socket to a child and end: nobody could tell who serves.
        .env("WG_PROCESS_FOREGROUND", "1")
        // A terminal that closes must not take the tunnel along.
        .process_group(0)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(stderr)
        .spawn()
        .map_err(|error| fail(error.to_string()))?;
    let deadline = Instant::now() + PATIENCE;
    loop {
        // A socket takes connections before anybody serves it.
        if find(name).is_some() && ask(name).is_some() {
            return Ok(());
        }
        // An implementation that puts itself into the background exits with success.
        let exited = child.try_wait().map_err(|error| fail(error.to_string()))?;
        if exited.is_some_and(|status| !status.success()) {
            return Err(fail(words(&mut log)));
        }
        if Instant::now() > deadline {
            let _ = child.kill();
            let _ = child.wait();
            return Err(fail(format!(
                "no answer at {} {}",
                socket(name).display(),
                words(&mut log)
            )));
        }
        sleep(Duration::from_millis(5));
    }
}

/// The process that serves a device.
#[must_use]
pub fn find(name: &str) -> Option<Pid> {
    let stream = UnixStream::connect(socket(name)).ok()?;
    let credentials = getsockopt(&stream, PeerCredentials).ok()?;
    Some(Pid::from_raw(credentials.pid()))
}

/// Receive buffer of a device's UDP sockets in bytes, as wireguard-go has it
/// (`conn.socketBufferSize`). The system's default loses a tenth of a bulk transfer.
const RECEIVE_BUFFER: usize = 7 << 20;

/// Widens the receive buffers of a device's UDP sockets, which boringtun leaves as they come, and
/// makes anew with every port. From outside: it gives its sockets to nobody.
///
/// # Errors
/// When the process cannot be looked into, or has no such right.
pub(super) fn widen(name: &str) -> io::Result<()> {
    let Some(pid) = find(name) else {
        return Err(io::ErrorKind::NotFound.into());
    };
    let process = rustix::process::Pid::from_raw(pid.as_raw()).ok_or(io::ErrorKind::NotFound)?;
    let process = pidfd_open(process, PidfdFlags::empty())?;
    for entry in fs::read_dir(format!("/proc/{pid}/fd"))? {
        let entry = entry?;
        // One may be closed meanwhile.
        let is_socket = fs::read_link(entry.path())
            .is_ok_and(|link| link.as_os_str().as_bytes().starts_with(b"socket:"));
        let number = entry
            .file_name()
            .to_str()
            .and_then(|text| text.parse().ok());
        let Some(number) = number.filter(|_| is_socket) else {
            continue;
        };
        let Ok(socket) = pidfd_getfd(&process, number, PidfdGetfdFlags::empty()) else {
            continue;
        };
        if sockopt::socket_protocol(&socket)? == Some(ipproto::UDP) {
            sockopt::set_socket_recv_buffer_size_force(&socket, RECEIVE_BUFFER)?;
        }
    }
    Ok(())
}

/// Ends the process of a device; with it the device goes. One that does not run is fine.
///
/// # Errors
/// When it does not end.
pub fn stop(name: &str) -> Result<(), Error> {
    let Some(pid) = find(name) else {
        let _ = fs::remove_file(socket(name));
        return Ok(());
    };
    let _ = kill(pid, Signal::SIGTERM);
    let deadline = Instant::now() + PATIENCE;
    let mut killed = false;
    while find(name).is_some() {
        if Instant::now() > deadline {
            let source = io::Error::from(io::ErrorKind::TimedOut);
            return Err(Error::File {
                action: "cannot end the process of",
                path: socket(name),
                source,
            });
        }
        if !killed && Instant::now() + PATIENCE - Duration::from_millis(500) > deadline {
            let _ = kill(pid, Signal::SIGKILL);
            killed = true;
        }
        sleep(Duration::from_millis(5));
    }
    let _ = fs::remove_file(socket(name));
    Ok(())
}

/// Whether a device could listen on a port, tried in the namespace of the caller: boringtun gives
/// up its old socket before it learns that the new port is taken, and is deaf then.
///
/// # Errors
/// When somebody else holds the port.
pub fn check_port(name: &str, port: u16) -> Result<(), Error> {
    let refused = |source| Error::Refused {
        name: name.to_owned(),
        what: "its key and port",
        hint: ": is the port in use? `ss -ulnp` shows it",
        source,
    };
    UdpSocket::bind((Ipv6Addr::UNSPECIFIED, port))
        .map(drop)
        .map_err(refused)
}

/// The device's own public key as it tells it, in hex. boringtun reports it under a name of its
/// own instead of the private key, and wireguard-control has no field for it.
pub(super) fn own_public_key(name: &str) -> Option<String> {
    ask(name)?
        .iter()
        .find_map(|line| line.strip_prefix("own_public_key=").map(ToOwned::to_owned))
}

/// What a device says of itself (the `get` of the cross-platform interface); `None` until it is
/// served.
fn ask(name: &str) -> Option<Vec<String>> {
    let mut stream = UnixStream::connect(socket(name)).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).ok()?;
    stream.write_all(b"get=1\n\n").ok()?;
    let mut lines = Vec::new();
    for line in BufReader::new(stream).lines() {
        let line = line.ok()?;
        if line.starts_with("errno=") {
            return Some(lines);
        }
        lines.push(line);
    }
    None
}

fn socket(name: &str) -> PathBuf {
    PathBuf::from(FOLDER).join(format!("{name}.sock"))
}

fn words(log: &mut File) -> String {
    let mut text = String::new();
    let read = log
        .rewind()
        .and_then(|()| log.take(4096).read_to_string(&mut text).map(drop));
    match read {
        Ok(()) if !text.trim().is_empty() => text.trim().to_owned(),
        _ => "it said nothing".to_owned(),
    }
}
