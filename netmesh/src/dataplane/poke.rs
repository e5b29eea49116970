//! Whether a neighbour answers: the kernel asks it, and we ask the kernel.
//!
//! A neighbour that is put into `NUD_PROBE` is sent a solicitation at once, and is `NUD_REACHABLE` when
//! it has answered. So nothing has to be sent, and no answer read, by this process: no raw socket, no
//! further privilege, and the kernel's own view is the fresher for it.

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsRawFd as _, OwnedFd};

use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, socket,
};

use super::neighbour::{HEADER, NEIGHBOUR, USABLE, question, two};

/// `NTF_EXT_LEARNED` (as ours are entered), of `linux/neighbour.h`.
const EXT_LEARNED: u8 = 0x10;
/// `NTF_EXT_MANAGED`.
const MANAGED: u32 = 1;
/// `NDA_PROTOCOL` and `NDA_FLAGS_EXT`.
const PROTOCOL: u16 = 12;
const FLAGS_EXT: u16 = 15;
/// `IFF_UP` and `IFF_LOWER_UP` of `linux/if.h`.
const UP: u32 = 1 | 1 << 16;

/// A neighbour as the kernel has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    /// `NUD_…`.
    pub(super) state: u16,
    flags: u8,
    flags_ext: u32,
}

impl Entry {
    /// The kernel sends packets to it.
    pub(super) const fn is_usable(self) -> bool {
        self.state & USABLE != 0
    }
}

/// One namespace's kernel.
#[derive(Debug)]
pub(super) struct Poker(OwnedFd);

impl Poker {
    /// In the calling thread's namespace.
    pub(super) fn open() -> io::Result<Self> {
        let flags = SockFlag::SOCK_CLOEXEC;
        let family = AddressFamily::Netlink;
        let kind = SockType::Raw;
        Ok(Self(socket(
            family,
            kind,
            flags,
            SockProtocol::NetlinkRoute,
        )?))
    }

    /// The neighbour's entry, if there is one.
    pub(super) fn entry(&self, ifindex: u32, address: IpAddr) -> io::Result<Option<Entry>> {
        let answer = match self.ask(&question(ifindex, address)) {
            Err(error) if is_missing(&error) => return Ok(None),
            answer => answer?,
        };
        let state = two(&answer, HEADER + 8).ok_or_else(malformed)?;
        let flags = answer.get(HEADER + 10).copied().ok_or_else(malformed)?;
        let mut flags_ext = 0;
        for (kind, value) in attributes(answer.get(HEADER + NEIGHBOUR..).unwrap_or_default()) {
            if kind == FLAGS_EXT {
                flags_ext = value.try_into().map_or(0, u32::from_ne_bytes);
            }
        }
        Ok(Some(Entry {
            state,
            flags: flags & EXT_LEARNED,
            flags_ext,
        }))
    }

    /// Has the kernel ask a neighbour at once.
    ///
    /// The kernel changes no state of a neighbour it is told to keep resolved (`NTF_MANAGED`), and what
    /// is not said is taken away: so that is taken away and given back, in one call.
    pub(super) fn poke(&self, ifindex: u32, address: IpAddr, entry: Entry) -> io::Result<()> {
        let set = |state, flags_ext| {
            let entry = Entry { flags_ext, ..entry };
            change(ifindex, address, state, entry, 0)
        };
        let plain = entry.flags_ext & !MANAGED;
        let mut messages = Vec::new();
        if entry.state & libc::NUD_PROBE != 0 {
            // The same state again is no change: it would not be asked again.
            messages.push(set(libc::NUD_STALE, plain));
        }
        messages.push(set(libc::NUD_PROBE, plain));
        if entry.flags_ext != plain {
            messages.push(set(0, entry.flags_ext));
        }
        send(self.0.as_raw_fd(), &messages.concat(), MsgFlags::empty())?;
        let answers: Vec<_> = messages.iter().map(|_| self.answer()).collect();
        answers.into_iter().try_for_each(|answer| answer.map(drop))
    }

    /// Has the kernel resolve a neighbour that it does not know, and keep it so.
    pub(super) fn resolve(&self, ifindex: u32, address: IpAddr) -> io::Result<()> {
        let entry = Entry {
            state: 0,
            flags: EXT_LEARNED,
            flags_ext: MANAGED,
        };
        let create = libc::NLM_F_CREATE as u16;
        self.ask(&change(ifindex, address, 0, entry, create))
            .map(drop)
    }

    /// The device's name, and whether it is up and has a carrier; `None` when it is gone.
    pub(super) fn device(&self, ifindex: u32) -> io::Result<Option<(String, bool)>> {
        let mut message = header(libc::RTM_GETLINK, 0, 16);
        message.extend([0; 4]); // Family, type.
        message.extend(ifindex.to_ne_bytes());
        message.extend([0; 8]); // Flags, changes.
        let answer = match self.ask(&message) {
            Err(error) if is_missing(&error) => return Ok(None),
            answer => answer?,
        };
        let mut name = String::new();
        for (kind, value) in attributes(answer.get(HEADER + 16..).unwrap_or_default()) {
            if kind == libc::IFLA_IFNAME {
                name = String::from_utf8_lossy(value.strip_suffix(&[0]).unwrap_or(value)).into();
            }
        }
        let flags = answer.get(HEADER + 8..HEADER + 12).ok_or_else(malformed)?;
        let flags = flags.try_into().map_or(0, u32::from_ne_bytes);
        Ok(Some((name, flags & UP == UP)))
    }

    /// A question and its answer; an error in the answer is one here.
    fn ask(&self, message: &[u8]) -> io::Result<Vec<u8>> {
        send(self.0.as_raw_fd(), message, MsgFlags::empty())?;
        self.answer()
    }

    fn answer(&self) -> io::Result<Vec<u8>> {
        let mut answer = vec![0; 1 << 15];
        let length = recv(self.0.as_raw_fd(), &mut answer, MsgFlags::empty())?;
        answer.truncate(length);
        if two(&answer, 4).map(i32::from) != Some(libc::NLMSG_ERROR) {
            return Ok(answer);
        }
        let number = answer.get(HEADER..HEADER + 4).ok_or_else(malformed)?;
        match number.try_into().map_or(0, i32::from_ne_bytes) {
            0 => Ok(answer),
            number => Err(io::Error::from_raw_os_error(-number)),
        }
    }
}

/// `RTM_NEWNEIGH`. Without `NLM_F_REPLACE`: nothing else about the entry is to change.
fn change(ifindex: u32, address: IpAddr, state: u16, entry: Entry, flags: u16) -> Vec<u8> {
    // The question for it names it; behind it comes what it is to be.
    let mut message = question(ifindex, address);
    let all = flags | (libc::NLM_F_REQUEST | libc::NLM_F_ACK) as u16;
    message[4..6].copy_from_slice(&libc::RTM_NEWNEIGH.to_ne_bytes());
    message[6..8].copy_from_slice(&all.to_ne_bytes());
    message[HEADER + 8..HEADER + 10].copy_from_slice(&state.to_ne_bytes());
    message[HEADER + 10] = entry.flags;
    attribute(&mut message, FLAGS_EXT, &entry.flags_ext.to_ne_bytes());
    if flags & libc::NLM_F_CREATE as u16 != 0 {
        attribute(
            &mut message,
            PROTOCOL,
            &[crate::plan::state::ROUTE_PROTOCOL],
        );
    }
    let length = message.len() as u32;
    message[..4].copy_from_slice(&length.to_ne_bytes());
    message
}

/// `struct nlmsghdr` of a message with so many bytes behind it.
fn header(kind: u16, flags: u16, behind: usize) -> Vec<u8> {
    let mut message = Vec::with_capacity(HEADER + behind);
    message.extend(((HEADER + behind) as u32).to_ne_bytes());
    message.extend(kind.to_ne_bytes());
    message.extend((flags | libc::NLM_F_REQUEST as u16).to_ne_bytes());
    message.extend([0; 8]);
    message
}

/// Kinds and values, up to the first that makes no sense.
fn attributes(mut rest: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let (length, kind) = (usize::from(two(rest, 0)?), two(rest, 2)?);
        let value = rest.get(4..length)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

fn attribute(message: &mut Vec<u8>, kind: u16, value: &[u8]) {
    message.resize(message.len().next_multiple_of(4), 0);
    message.extend((4 + value.len() as u16).to_ne_bytes());
    message.extend(kind.to_ne_bytes());
    message.extend(value);
    message.resize(message.len().next_multiple_of(4), 0);
}

fn is_missing(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::ENOENT | libc::ENODEV | libc::ENXIO)
    )
}

fn malformed() -> io::Error {
    io::ErrorKind::InvalidData.into()
}
