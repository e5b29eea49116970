//! Neighbours: what the kernel knows of one right now, and whether its changes are followed.

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsRawFd as _, OwnedFd};

use nix::sys::socket::{
    AddressFamily as SocketFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, socket,
};

use super::instance::View;
use super::{Error, kernel_layout, load, pin};

/// Whether link-layer addresses of next hops stay right by themselves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Follower {
    /// Every change is copied into the next-hop table as it happens.
    Follows,
    /// Not on this kernel; whoever runs [`repair`](super::Instance::repair) brings the table up
    /// to date.
    Missing {
        /// Why.
        reason: String,
    },
}

impl View {
    /// Whether the neighbour follower runs, and why not.
    ///
    /// # Errors
    /// When the pins cannot be read.
    pub fn follower(&self) -> Result<Follower, Error> {
        let links = pin::entries(&self.folder.links())?;
        let missing: Vec<&str> = load::FOLLOWERS
            .iter()
            .map(|(name, _)| *name)
            .filter(|name| !links.iter().any(|link| link == name))
            .collect();
        if missing.is_empty() {
            return Ok(Follower::Follows);
        }
        let reason = match kernel_layout::read(0) {
            Err(error) => error.to_string(),
            Ok(_) => format!(
                "the kernel refused the tracing programs {} when the instance was loaded",
                missing.join(", ")
            ),
        };
        Ok(Follower::Missing { reason })
    }
}

/// Who knows link-layer addresses.
pub(super) trait Lookup {
    /// The link-layer address of a neighbour that is usable now.
    fn lookup(&self, ifindex: u32, address: IpAddr) -> Result<Option<[u8; 6]>, Error>;
}

/// The neighbour table of the calling thread's namespace.
pub(super) fn kernel() -> impl Lookup {
    Kernel(
        socket(
            SocketFamily::Netlink,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC,
            SockProtocol::NetlinkRoute,
        )
        .map_err(io::Error::from),
    )
}

struct Kernel(io::Result<OwnedFd>);

impl Lookup for Kernel {
    fn lookup(&self, ifindex: u32, address: IpAddr) -> Result<Option<[u8; 6]>, Error> {
        let fail = |source| Error::Neighbour { address, source };
        let socket = self
            .0
            .as_ref()
            .map_err(|error| fail(io::Error::new(error.kind(), error.to_string())))?;
        let fd = socket.as_raw_fd();
        let sent = send(fd, &question(ifindex, address), MsgFlags::empty());
        sent.map_err(|error| fail(error.into()))?;
        let mut buffer = [0; 4096];
        let length = recv(fd, &mut buffer, MsgFlags::empty());
        let length = length.map_err(|error| fail(error.into()))?;
        answer(buffer.get(..length).unwrap_or_default()).map_err(fail)
    }
}

/// `struct nlmsghdr`, and `struct ndmsg` behind it.
pub(super) const HEADER: usize = 16;
pub(super) const NEIGHBOUR: usize = 12;

/// `NUD_VALID` of include/net/neighbour.h, as the follower judges it.
pub(super) const USABLE: u16 = libc::NUD_PERMANENT
    | libc::NUD_NOARP
    | libc::NUD_REACHABLE
    | libc::NUD_STALE
    | libc::NUD_DELAY
    | libc::NUD_PROBE;

/// `RTM_GETNEIGH` for one neighbour.
pub(super) fn question(ifindex: u32, address: IpAddr) -> Vec<u8> {
    let (family, bytes) = encode(address);
    let (family, bytes) = if family == 6 {
        (libc::AF_INET6, &bytes[..])
    } else {
        (libc::AF_INET, &bytes[..4])
    };
    let attribute = 4 + bytes.len();
    let mut message = Vec::with_capacity(HEADER + NEIGHBOUR + attribute);
    let length = (HEADER + NEIGHBOUR + attribute) as u32;
    message.extend(length.to_ne_bytes());
    message.extend(libc::RTM_GETNEIGH.to_ne_bytes());
    message.extend((libc::NLM_F_REQUEST as u16).to_ne_bytes());
    message.extend([0; 8]); // Sequence number and port: the socket asks one question at a time.
    message.extend([family as u8, 0, 0, 0]);
    message.extend(ifindex.to_ne_bytes());
    message.extend([0; 4]); // State, flags, type.
    message.extend((attribute as u16).to_ne_bytes());
    message.extend(libc::NDA_DST.to_ne_bytes());
    message.extend(bytes);
    message
}

/// The link-layer address in the kernel's answer, if the neighbour is known and usable.
fn answer(message: &[u8]) -> io::Result<Option<[u8; 6]>> {
    let malformed = || io::Error::from(io::ErrorKind::InvalidData);
    let kind = two(message, 4).ok_or_else(malformed)?;
    if i32::from(kind) == libc::NLMSG_ERROR {
        let bytes = message.get(HEADER..HEADER + 4).ok_or_else(malformed)?;
        let number = i32::from_ne_bytes(bytes.try_into().map_err(|_| malformed())?);
        return match -number {
            libc::ENOENT | libc::ENODEV | libc::ENXIO => Ok(None),
            number => Err(io::Error::from_raw_os_error(number)),
        };
    }
    if kind != libc::RTM_NEWNEIGH {
        return Err(malformed());
    }
    let state = two(message, HEADER + 8).ok_or_else(malformed)?;
    if state & USABLE == 0 {
        return Ok(None);
    }
    let mut rest = message.get(HEADER + NEIGHBOUR..).ok_or_else(malformed)?;
    while let (Some(length), Some(kind)) = (two(rest, 0), two(rest, 2)) {
        let length = usize::from(length);
        let value = rest.get(4..length).ok_or_else(malformed)?;
        if kind == libc::NDA_LLADDR {
            return Ok(value.try_into().ok());
        }
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(None)
}

pub(super) fn two(bytes: &[u8], at: usize) -> Option<u16> {
    let bytes = bytes.get(at..at + 2)?;
    Some(u16::from_ne_bytes(bytes.try_into().ok()?))
}

/// Family and bytes of an address as the maps hold them.
pub(super) fn encode(address: IpAddr) -> (u8, [u8; 16]) {
    match address {
        IpAddr::V6(a) => (6, a.octets()),
        IpAddr::V4(a) => {
            let mut bytes = [0; 16];
            bytes[..4].copy_from_slice(&a.octets());
            (4, bytes)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_that_is_cut_short_is_refused() {
        let mut message = question(3, IpAddr::from([10, 0, 0, 1]));
        message[4..6].copy_from_slice(&libc::RTM_NEWNEIGH.to_ne_bytes());
        message[HEADER + 8] = libc::NUD_STALE as u8;
        assert_eq!(answer(&message).unwrap(), None, "no link-layer address");
        message.extend([10, 0, libc::NDA_LLADDR as u8, 0, 2, 0, 0, 0, 0, 9, 0, 0]);
        assert_eq!(answer(&message).unwrap(), Some([2, 0, 0, 0, 0, 9]));
        for length in [0, 5, HEADER, HEADER + 9, message.len() - 4] {
            assert!(answer(&message[..length]).is_err(), "{length}");
        }
        message[HEADER + 8] = libc::NUD_FAILED as u8;
        assert_eq!(answer(&message).unwrap(), None, "not usable");
    }
}
