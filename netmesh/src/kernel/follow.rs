//! What changes in a namespace, as the kernel tells it while it happens (rtnetlink multicast).
//!
//! Only *that* something changed is told, not what: whoever hears of it reads the kernel anew, so
//! that an event that was lost, doubled or overtaken can do no harm.

use std::collections::HashMap;
use std::io;

use netlink_packet_core::NetlinkBuffer;
use rtnetlink::MulticastGroup;
use rtnetlink::sys::{
    AsyncSocket as _, AsyncSocketExt as _, SocketAddr, TokioSocket, protocols::NETLINK_ROUTE,
};

use super::{Error, netns};
use crate::plan::state::{Namespace, ROUTE_PROTOCOL};

/// What the kernel tells about one object never fills this (`NLMSG_GOODSIZE`, and links with many
/// attributes).
const BUFFER: usize = 1 << 16;

/// The kernel keeps so many bytes of events for us before it says that it lost some.
const BACKLOG: u32 = 1 << 20;

/// Groups below 32 are a bit each at bind.
const GROUPS: [MulticastGroup; 6] = [
    MulticastGroup::Link,
    MulticastGroup::Neigh,
    MulticastGroup::Ipv4Ifaddr,
    MulticastGroup::Ipv6Ifaddr,
    MulticastGroup::Ipv4Route,
    MulticastGroup::Ipv6Route,
];

/// Message types of `linux/rtnetlink.h`.
mod kind {
    pub(super) const NEW_LINK: u16 = 16;
    pub(super) const DEL_LINK: u16 = 17;
    pub(super) const NEW_ADDRESS: u16 = 20;
    pub(super) const DEL_ADDRESS: u16 = 21;
    pub(super) const NEW_ROUTE: u16 = 24;
    pub(super) const DEL_ROUTE: u16 = 25;
    pub(super) const NEW_NEIGHBOUR: u16 = 28;
    pub(super) const DEL_NEIGHBOUR: u16 = 29;
}

/// Protocol numbers from here on are routing daemons' (`RTPROT_GATED` in `linux/rtnetlink.h`):
/// their routes come and go by the thousand and are none of ours.
const DAEMONS: u8 = 8;

/// Where a route message tells its protocol (`struct rtmsg.rtm_protocol`).
const PROTOCOL: usize = 5;

/// States in which a neighbour's link-layer address may be used (`NUD_VALID`).
const USABLE: u16 = libc::NUD_PERMANENT
    | libc::NUD_NOARP
    | libc::NUD_REACHABLE
    | libc::NUD_STALE
    | libc::NUD_DELAY
    | libc::NUD_PROBE;

/// What has changed since the last time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Links, addresses, routes, or a neighbour that went: what a plan compares.
    pub network: bool,
    /// Neighbours that were resolved, or that no longer answer.
    pub neighbours: bool,
    /// Routes of others: what is mirrored.
    pub routes: bool,
    /// The kernel had more to tell than it could keep: anything may have changed.
    pub lost: bool,
}

impl Changes {
    fn any(self) -> bool {
        self != Self::default()
    }
}

/// Hears what changes in one namespace. It keeps the namespace alive, also when its name is gone.
pub struct Follower {
    socket: TokioSocket,
    namespace: Namespace,
    inode: u64,
    buffer: Vec<u8>,
    known: Known,
}

/// Neighbours by device and address, with the link-layer address that may be used: the kernel also
/// tells of each question and answer, which change nothing.
type Known = HashMap<Vec<u8>, Option<Vec<u8>>>;

/// More than this are forgotten and learnt anew.
const MOST: usize = 8192;

impl Follower {
    /// Begins to listen: what changes from here on is told. Must be called within a runtime.
    ///
    /// # Errors
    /// When the namespace is not there or the socket cannot be opened.
    pub fn open(namespace: &Namespace) -> Result<Self, Error> {
        let inode = netns::inode(namespace)?;
        let runtime = tokio::runtime::Handle::current();
        let opened = netns::run_in(namespace, || -> io::Result<TokioSocket> {
            let _guard = runtime.enter();
            let mut socket = TokioSocket::new(NETLINK_ROUTE)?;
            let groups = GROUPS
                .iter()
                .fold(0, |mask, group| mask | 1 << (*group as u32 - 1));
            socket.socket_mut().set_rx_buf_sz(BACKLOG)?;
            socket.socket_mut().bind(&SocketAddr::new(0, groups))?;
            Ok(socket)
        })?;
        Ok(Self {
            socket: opened.map_err(|source| failed(namespace, source))?,
            namespace: namespace.clone(),
            inode,
            buffer: Vec::with_capacity(BUFFER),
            known: Known::new(),
        })
    }

    /// The namespace that is listened to, by its number among those alive.
    #[must_use]
    pub const fn inode(&self) -> u64 {
        self.inode
    }

    /// Waits until something of interest changes.
    ///
    /// # Errors
    /// When the socket fails; the follower is of no use then.
    pub async fn next(&mut self) -> Result<Changes, Error> {
        loop {
            self.buffer.clear();
            match self.socket.recv(&mut self.buffer).await {
                Ok(()) => {}
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {
                    return Ok(Changes {
                        lost: true,
                        ..Changes::default()
                    });
                }
                Err(source) => return Err(failed(&self.namespace, source)),
            }
            let changes = read(&self.buffer, &mut self.known);
            if changes.any() {
                return Ok(changes);
            }
        }
    }
}

fn failed(namespace: &Namespace, source: io::Error) -> Error {
    Error::Follow {
        namespace: namespace.clone(),
        source,
    }
}

/// What a datagram of the kernel's tells.
fn read(mut datagram: &[u8], known: &mut Known) -> Changes {
    let mut changes = Changes::default();
    while !datagram.is_empty() {
        let Ok(message) = NetlinkBuffer::new_checked(datagram) else {
            // Cut: it did not fit.
            changes.lost = true;
            break;
        };
        match message.message_type() {
            kind::NEW_LINK | kind::DEL_LINK | kind::NEW_ADDRESS | kind::DEL_ADDRESS => {
                changes.network = true;
            }
            kind::DEL_NEIGHBOUR => {
                changes.network = true;
                let (name, _) = neighbour(message.payload());
                known.remove(&name);
            }
            kind::NEW_NEIGHBOUR => {
                let (name, usable) = neighbour(message.payload());
                if known.len() >= MOST {
                    known.clear();
                }
                changes.neighbours |= known.insert(name, usable.clone()) != Some(usable);
            }
            kind::NEW_ROUTE | kind::DEL_ROUTE => {
                let protocol = message.payload().get(PROTOCOL).copied().unwrap_or_default();
                changes.network |= protocol == ROUTE_PROTOCOL || protocol < DAEMONS;
                changes.routes |= protocol != ROUTE_PROTOCOL;
            }
            _ => {}
        }
        let length = (message.length() as usize).next_multiple_of(4);
        datagram = datagram.get(length..).unwrap_or_default();
    }
    changes
}

/// What names the neighbour of a message, and its link-layer address if it may be used.
fn neighbour(payload: &[u8]) -> (Vec<u8>, Option<Vec<u8>>) {
    let (header, mut rest) = payload.split_at(payload.len().min(12));
    let mut name = header.get(..8).unwrap_or_default().to_vec();
    let state = header.get(8..10).and_then(|state| state.try_into().ok());
    let usable = state.map_or(0, u16::from_ne_bytes) & USABLE != 0;
    let mut address = None;
    while let Some([l0, l1, k0, k1]) = rest.first_chunk() {
        let length = usize::from(u16::from_ne_bytes([*l0, *l1]));
        let Some(value) = rest.get(4..length) else {
            break;
        };
        match u16::from_ne_bytes([*k0, *k1]) {
            libc::NDA_DST => name.extend(value),
            libc::NDA_LLADDR => address = Some(value.to_vec()),
            _ => {}
        }
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    (name, address.filter(|_| usable))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(datagram: &[u8]) -> Changes {
        super::read(datagram, &mut Known::new())
    }

    #[test]
    fn a_neighbour_that_is_asked_and_answers_has_not_changed() {
        let told = |state: u16, address: u8| {
            let mut payload = vec![libc::AF_INET as u8, 0, 0, 0, 7, 0, 0, 0];
            payload.extend(state.to_ne_bytes());
            payload.extend([0, 1]);
            payload.extend([8, 0, 1, 0, 10, 0, 0, 1]);
            payload.extend([10, 0, 2, 0, 2, 0, 0, 0, 0, address, 0, 0]);
            message(kind::NEW_NEIGHBOUR, &payload)
        };
        let mut known = Known::new();
        let mut seen = |state, address| super::read(&told(state, address), &mut known).neighbours;
        assert!(seen(libc::NUD_REACHABLE, 1), "new");
        assert!(!seen(libc::NUD_PROBE, 1));
        assert!(!seen(libc::NUD_REACHABLE, 1));
        assert!(seen(libc::NUD_REACHABLE, 2), "another address");
        assert!(seen(libc::NUD_FAILED, 2), "it may not be used");
        assert!(seen(libc::NUD_STALE, 2), "it may again");
    }

    fn message(kind: u16, payload: &[u8]) -> Vec<u8> {
        let length = 16 + payload.len();
        let mut bytes = (length as u32).to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend([0; 10]);
        bytes.extend(payload);
        bytes.resize(length.next_multiple_of(4), 0);
        bytes
    }

    fn route(protocol: u8) -> Vec<u8> {
        let mut header = [0; 12];
        header[PROTOCOL] = protocol;
        message(kind::NEW_ROUTE, &header)
    }

    #[test]
    fn every_message_of_a_datagram_is_read() {
        let neighbour = message(kind::NEW_NEIGHBOUR, &[0; 13]);
        let link = message(kind::NEW_LINK, &[0; 16]);
        let seen = read(&[neighbour.clone(), link].concat());
        assert!(seen.neighbours && seen.network && !seen.lost);
        let seen = read(&neighbour);
        assert!(seen.neighbours && !seen.network);
    }

    #[test]
    fn the_routes_of_routing_daemons_are_mirrored_and_none_of_ours() {
        assert!(read(&route(ROUTE_PROTOCOL)).network);
        assert!(read(&route(4)).network, "static");
        for daemon in [11, 12, 186] {
            let seen = read(&route(daemon));
            assert!(!seen.network && seen.routes, "{daemon}");
        }
    }

    #[test]
    fn a_message_that_was_cut_means_that_something_was_lost() {
        let link = message(kind::NEW_LINK, &[0; 16]);
        assert!(read(&link[..20]).lost);
    }
}
