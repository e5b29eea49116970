//! An answer that is made while it is sent: whoever reads slowly holds up its making.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use hyper::body::{Body, Bytes, Frame};
use tokio::sync::mpsc;

/// Bytes sent at once.
const CHUNK: usize = 32 << 10;
/// Chunks that may wait to be sent.
const WAITING: usize = 4;

type Piece = Result<Bytes, io::Error>;

/// The end that hyper sends from.
pub(super) struct Answer(mpsc::Receiver<Piece>);

/// The end that is written to, from a thread that may block.
pub(super) struct Writer {
    sender: mpsc::Sender<Piece>,
    chunk: Vec<u8>,
}

/// Both ends of an answer.
pub(super) fn answer() -> (Writer, Answer) {
    let (sender, receiver) = mpsc::channel(WAITING);
    let chunk = Vec::with_capacity(CHUNK);
    (Writer { sender, chunk }, Answer(receiver))
}

impl Answer {
    /// One that is known as a whole.
    pub(super) fn of(text: &'static str) -> Self {
        let (writer, answer) = answer();
        // There is room for it.
        let _ = writer
            .sender
            .try_send(Ok(Bytes::from_static(text.as_bytes())));
        answer
    }
}

impl Body for Answer {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        let piece = self.0.poll_recv(context);
        piece.map(|piece| piece.map(|piece| piece.map(Frame::data)))
    }
}

impl Writer {
    /// Ends the answer. One that is not whole must not look as if it were.
    pub(super) fn end(mut self, written: fmt::Result) {
        let rest = Bytes::from(std::mem::take(&mut self.chunk));
        let last = match written {
            Ok(()) if rest.is_empty() => return,
            Ok(()) => Ok(rest),
            Err(fmt::Error) => Err(io::Error::other("the answer was not finished")),
        };
        // Nobody may be there to take it.
        let _ = self.sender.blocking_send(last);
    }
}

impl fmt::Write for Writer {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.chunk.extend_from_slice(text.as_bytes());
        if self.chunk.len() < CHUNK {
            return Ok(());
        }
        let full = std::mem::replace(&mut self.chunk, Vec::with_capacity(CHUNK));
        // The reader has gone: so may we.
        self.sender
            .blocking_send(Ok(full.into()))
            .map_err(|_| fmt::Error)
    }
}
