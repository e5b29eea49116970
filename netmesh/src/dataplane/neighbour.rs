//! Neighbours: what the kernel knows of one right now, and whether its changes are followed.

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsRawFd as _, OwnedFd};

use netlink_packet_core::{NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
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
        let mut request = NeighbourMessage::default();
        request.header.ifindex = ifindex;
        let destination = match address {
            IpAddr::V6(a) => {
                request.header.family = AddressFamily::Inet6;
                NeighbourAddress::Inet6(a)
            }
            IpAddr::V4(a) => {
                request.header.family = AddressFamily::Inet;
                NeighbourAddress::Inet(a)
            }
        };
        request
            .attributes
            .push(NeighbourAttribute::Destination(destination));
        let mut message = NetlinkMessage::from(RouteNetlinkMessage::GetNeighbour(request));
        message.header.flags = NLM_F_REQUEST;
        message.finalize();
        let mut buffer = vec![0; message.buffer_len().max(8192)];
        message.serialize(&mut buffer);
        let length = message.buffer_len();
        let fd = socket.as_raw_fd();
        send(
            fd,
            buffer.get(..length).unwrap_or_default(),
            MsgFlags::empty(),
        )
        .map_err(|error| fail(error.into()))?;
        let length =
            recv(fd, &mut buffer, MsgFlags::empty()).map_err(|error| fail(error.into()))?;
        let answer = NetlinkMessage::<RouteNetlinkMessage>::deserialize(
            buffer.get(..length).unwrap_or_default(),
        )
        .map_err(|error| fail(io::Error::other(error)))?;
        match answer.payload {
            NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewNeighbour(found)) => {
                Ok(usable(&found))
            }
            NetlinkPayload::Error(error) => match error.to_io().raw_os_error() {
                Some(libc::ENOENT | libc::ENODEV | libc::ENXIO) => Ok(None),
                _ => Err(fail(error.to_io())),
            },
            _ => Err(fail(io::ErrorKind::InvalidData.into())),
        }
    }
}

/// `NUD_VALID` without `NUD_NOARP`, as the follower judges it.
fn usable(message: &NeighbourMessage) -> Option<[u8; 6]> {
    let valid = matches!(
        message.header.state,
        NeighbourState::Permanent
            | NeighbourState::Reachable
            | NeighbourState::Stale
            | NeighbourState::Delay
            | NeighbourState::Probe
    );
    message
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            NeighbourAttribute::LinkLayerAddress(bytes) if valid => {
                bytes.as_slice().try_into().ok()
            }
            _ => None,
        })
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
