//! Names of namespaces, made and taken away by another process.
//!
//! The name of a network namespace is a mount. A daemon that a service manager gives mounts of its own
//! would make names that nobody else sees, and that go with it. So it asks whoever listens on a
//! socket: `netmesh names`, started for each connection (`Accept=yes` in `netmesh-names.socket`), with
//! the machine's mounts and no other privilege.
//!
//! ```text
//!   add NAME, and the namespace as a descriptor (SCM_RIGHTS)  | ok
//!   delete NAME                                               | what went wrong, in one line
//! ```
//! The namespace is made here, not there: the kernel's own packets in one, neighbour solicitations among
//! them, are those of sockets in the control group of whoever made it, and a filter of addresses on
//! that group drops them.

use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut, Read as _, Write};
use std::os::fd::{AsFd, AsRawFd as _, FromRawFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::thread;
use std::time::Duration;

use nix::sched::{CloneFlags, unshare};
use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, UnixAddr, recvmsg, sendmsg};

use super::{Error, netns};
use crate::plan::state::Namespace;

/// Longest request: a word and a file name.
const LONGEST: usize = 300;

/// Nobody takes longer for a name.
const PATIENCE: Duration = Duration::from_secs(20);

static ASKED: OnceLock<PathBuf> = OnceLock::new();

/// From now on names are made by whoever listens here. The first one counts.
pub fn ask_at(socket: &Path) {
    let _ = ASKED.get_or_init(|| socket.to_owned());
}

/// What is done with a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    Add,
    Delete,
}

impl Change {
    const fn word(self) -> &'static str {
        match self {
            Self::Add => "add",
            Self::Delete => "delete",
        }
    }
}

/// Has it done by whoever was named to do it; `None` when that is nobody.
pub(super) fn by_others(change: Change, namespace: &Namespace) -> Option<Result<(), Error>> {
    let socket = ASKED.get()?;
    let fail = |source| Error::Names {
        action: change.word(),
        namespace: namespace.clone(),
        socket: socket.clone(),
        source,
    };
    Some(ask(socket, change, namespace).map_err(fail))
}

fn ask(socket: &Path, change: Change, namespace: &Namespace) -> io::Result<()> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let made = match change {
        Change::Add => Some(new()?),
        Change::Delete => None,
    };
    let descriptors: Vec<_> = made.iter().map(|file| file.as_raw_fd()).collect();
    let rights = [ControlMessage::ScmRights(&descriptors)];
    let rights = if descriptors.is_empty() {
        &[][..]
    } else {
        &rights
    };
    let line = format!("{} {namespace}\n", change.word());
    let (fd, flags) = (stream.as_raw_fd(), MsgFlags::MSG_NOSIGNAL);
    let text = [IoSlice::new(line.as_bytes())];
    let sent = sendmsg::<UnixAddr>(fd, &text, rights, flags, None)?;
    if sent != line.len() {
        return Err(io::ErrorKind::WriteZero.into());
    }
    let mut answer = String::new();
    (&mut stream).take(4096).read_to_string(&mut answer)?;
    match answer.trim() {
        "ok" => {}
        "" => return Err(io::ErrorKind::UnexpectedEof.into()),
        said => return Err(io::Error::other(said.to_owned())),
    }
    // It has been made with the machine's mounts; ours follow them, or it is of no use to us.
    if change == Change::Add && netns::is_stub(namespace) {
        let text = "it was made, but is not among the mounts of this process";
        return Err(io::Error::other(text));
    }
    Ok(())
}

/// A namespace without a name.
fn new() -> io::Result<File> {
    let make = || -> io::Result<File> {
        unshare(CloneFlags::CLONE_NEWNET)?;
        File::open(netns::SELF)
    };
    let made = thread::spawn(make).join();
    made.unwrap_or_else(|_| Err(io::Error::other("the thread that made it panicked")))
}

/// Does what one request on a socket asks for, and answers it there. Only names that begin with
/// `prefix` are touched.
///
/// # Errors
/// When nobody reads the answer.
pub fn answer(socket: impl AsFd, mut reply: impl Write, prefix: &str) -> io::Result<()> {
    let done = match request(&socket) {
        Ok((line, namespace)) => obey(&line, namespace, prefix),
        Err(error) => Err(format!("there is no request: {error}")),
    };
    match done {
        Ok(()) => writeln!(reply, "ok"),
        Err(error) => writeln!(reply, "{}", error.replace('\n', " ")),
    }
}

/// What is asked for, and what came with it.
fn request(socket: &impl AsFd) -> io::Result<(String, Option<OwnedFd>)> {
    let mut bytes = [0; LONGEST];
    let mut room = nix::cmsg_space!([std::os::fd::RawFd; 1]);
    let mut text = [IoSliceMut::new(&mut bytes)];
    let flags = MsgFlags::MSG_CMSG_CLOEXEC;
    let fd = socket.as_fd().as_raw_fd();
    let message = recvmsg::<UnixAddr>(fd, &mut text, Some(&mut room), flags)?;
    let mut namespace = None;
    for rights in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(descriptors) = rights {
            for descriptor in descriptors {
                // SAFETY: the kernel has just made this descriptor for us.
                namespace = Some(unsafe { OwnedFd::from_raw_fd(descriptor) });
            }
        }
    }
    let length = message.bytes;
    let line = String::from_utf8_lossy(bytes.get(..length).unwrap_or_default());
    Ok((line.into_owned(), namespace))
}

fn obey(request: &str, made: Option<OwnedFd>, prefix: &str) -> Result<(), String> {
    let unknown = || {
        let said = request.trim_end();
        Err(format!(
            "`{said}` is no request; there are add NAME, delete NAME"
        ))
    };
    let Some((word, name)) = request.trim_end_matches('\n').split_once(' ') else {
        return unknown();
    };
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if !name.starts_with(prefix) || !name.chars().all(plain) {
        return Err(format!(
            "`{name}` is no name of netmesh: {prefix} and a-z, 0-9, -"
        ));
    }
    let namespace = Namespace::Named(name.to_owned());
    let done = match (word, made) {
        ("add", Some(_)) if netns::is_there(&namespace) => return Err(format!("{name} is there")),
        ("add", Some(made)) => netns::name(&namespace, made.as_fd()),
        ("add", None) => return Err(format!("no namespace came with `add {name}`")),
        ("delete", _) => netns::delete(&namespace),
        _ => return unknown(),
    };
    done.map_err(|error| match std::error::Error::source(&error) {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(request: &str) -> String {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        theirs.write_all(request.as_bytes()).unwrap();
        theirs.shutdown(std::net::Shutdown::Write).unwrap();
        let mut reply = Vec::new();
        answer(ours, &mut reply, "nm-").unwrap();
        String::from_utf8(reply).unwrap()
    }

    #[test]
    fn a_name_needs_a_namespace() {
        assert!(said("add nm-nobody\n").contains("no namespace came with"));
        let (ours, theirs) = UnixStream::pair().unwrap();
        let file = File::open("/dev/null").unwrap();
        let rights = [file.as_raw_fd()];
        let rights = [ControlMessage::ScmRights(&rights)];
        let text = [IoSlice::new(b"add nm-nobody\n")];
        let fd = theirs.as_raw_fd();
        sendmsg::<UnixAddr>(fd, &text, &rights, MsgFlags::empty(), None).unwrap();
        let mut reply = Vec::new();
        answer(ours, &mut reply, "nm-").unwrap();
        let reply = String::from_utf8(reply).unwrap();
        assert!(reply.contains("is no network namespace"), "{reply}");
        assert!(!Path::new(netns::FOLDER).join("nm-nobody").exists());
    }

    #[test]
    fn names_of_others_are_left_alone() {
        for request in [
            "delete blue\n",
            "add ../nm-x\n",
            "add nm-../x\n",
            "delete nm-a b\n",
            "delete nm-a\0\n",
            "add nm-A\n",
            "add \n",
        ] {
            assert!(
                said(request).contains("is no name of netmesh"),
                "{request:?}"
            );
        }
    }

    #[test]
    fn what_is_no_request_is_told() {
        for request in ["", "\n", "add\n", "mount nm-x\n", "Delete nm-x\n"] {
            assert!(said(request).contains("is no request"), "{request:?}");
        }
        // What is longer than any request is cut, and is none either.
        assert_ne!(said(&format!("delete nm-{}", "a".repeat(1000))), "ok\n");
    }
}
