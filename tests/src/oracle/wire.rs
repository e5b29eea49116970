//! The ends of the wires: frames in, frames out, nothing of the kernel in between.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt as _;

use nix::errno::Errno;
use nix::libc;
use nix::net::if_::if_nametoindex;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, setsockopt, socket,
    sockopt,
};

/// Room for what a burst leaves behind.
const BUFFER: usize = 32 << 20;

/// One end.
#[derive(Debug)]
pub(super) enum End {
    /// The far end of a veth pair.
    Packet(OwnedFd),
    /// The device itself.
    Tun(File),
}

impl End {
    /// A socket on an interface of the calling thread's namespace.
    pub(super) fn packet(name: &str) -> io::Result<Self> {
        // Without a protocol nothing arrives before it is bound to its interface.
        let socket = socket(
            AddressFamily::Packet,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK,
            None,
        )?;
        setsockopt(&socket, sockopt::RcvBufForce, &BUFFER)?;
        ignore_outgoing(&socket)?;
        let index = if_nametoindex(name)?;
        // SAFETY: all zero is a value of this plain structure.
        let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_protocol = (SockProtocol::EthAll as i32) as u16;
        address.sll_ifindex = index.cast_signed();
        // SAFETY: the address is a whole sockaddr_ll of the length that is given.
        let result = unsafe {
            libc::bind(
                socket.as_raw_fd(),
                (&raw const address).cast(),
                size_of::<libc::sockaddr_ll>() as u32,
            )
        };
        Errno::result(result)?;
        Ok(Self::Packet(socket))
    }

    /// A new tun device in the calling thread's namespace.
    pub(super) fn tun(name: &str) -> io::Result<Self> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NONBLOCK)
            .open("/dev/net/tun")?;
        // SAFETY: all zero is a value of this plain structure.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
            *to = from as libc::c_char;
        }
        request.ifr_ifru.ifru_flags = (libc::IFF_TUN | libc::IFF_NO_PI) as i16;
        // SAFETY: the request is a whole ifreq that outlives the call.
        let result = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &raw const request) };
        Errno::result(result)?;
        Ok(Self::Tun(file))
    }

    /// Puts a frame on the wire. One that no device takes is no frame.
    pub(super) fn send(&mut self, frame: &[u8]) -> io::Result<()> {
        let result = match self {
            Self::Packet(socket) => send(socket.as_raw_fd(), frame, MsgFlags::empty())
                .map(drop)
                .map_err(io::Error::from),
            Self::Tun(file) => file.write(frame).map(drop),
        };
        match result {
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Ok(()),
            other => other,
        }
    }

    /// The next frame that came out; `None` when there is none yet.
    pub(super) fn receive(&mut self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        let result = match self {
            Self::Packet(socket) => {
                recv(socket.as_raw_fd(), buffer, MsgFlags::MSG_TRUNC).map_err(io::Error::from)
            }
            Self::Tun(file) => file.read(buffer),
        };
        match result {
            Ok(length) => Ok(Some(length)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        }
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Packet(socket) => socket.as_fd(),
            Self::Tun(file) => file.as_fd(),
        }
    }
}

/// What is sent on a wire is not to be seen on it (`PACKET_IGNORE_OUTGOING`).
fn ignore_outgoing(socket: &OwnedFd) -> io::Result<()> {
    const PACKET_IGNORE_OUTGOING: libc::c_int = 23;
    let on: libc::c_int = 1;
    // SAFETY: the option takes one int.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_PACKET,
            PACKET_IGNORE_OUTGOING,
            (&raw const on).cast(),
            size_of::<libc::c_int>() as u32,
        )
    };
    Errno::result(result)?;
    Ok(())
}
