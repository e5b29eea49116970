//! What the kernel's firewall would do to packets on their way through: asked of nf_tables
//! (linux/netfilter/nf_tables.h) and of the older tables' list, never changed.

use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};

use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendto,
    setsockopt, socket, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike as _};

/// `NFNL_SUBSYS_NFTABLES << 8`, with `NFT_MSG_GETCHAIN` and `NFT_MSG_NEWCHAIN`.
const GET_CHAIN: u16 = 10 << 8 | 4;
const NEW_CHAIN: u16 = 10 << 8 | 3;
/// `NLM_F_REQUEST | NLM_F_DUMP`.
const DUMP: u16 = 0x301;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
/// Length of a `struct nlmsghdr`, and of the `struct nfgenmsg` behind it.
const HEADER: usize = 16;
const GENERIC: usize = 4;

/// Attributes of a chain, and of the hook in it.
const CHAIN_TABLE: u16 = 1;
const CHAIN_NAME: u16 = 3;
const CHAIN_HOOK: u16 = 4;
const CHAIN_POLICY: u16 = 5;
const CHAIN_USE: u16 = 6;
const CHAIN_TYPE: u16 = 7;
const HOOK_NUMBER: u16 = 1;
/// Without `NLA_F_NESTED` and `NLA_F_NET_BYTEORDER`.
const ATTRIBUTE: u16 = 0x3fff;

/// `NF_INET_FORWARD`.
const FORWARD: u32 = 2;
/// `NF_ACCEPT`.
const ACCEPT: u32 = 1;

/// Chains of the calling thread's namespace that filter or translate forwarded packets: `inet
/// filter forward`. One without a rule that accepts does neither.
///
/// # Errors
/// When the kernel does not answer. One without nf_tables has no chain.
pub fn chains() -> io::Result<Vec<String>> {
    let mut found = match nf_tables() {
        Err(error) if is_missing(&error) => Vec::new(),
        other => other?,
    };
    for (family, file) in [("ip", "ip_tables_names"), ("ip6", "ip6_tables_names")] {
        // Only where the older tables are in use is there a list of them.
        let names = std::fs::read_to_string(format!("/proc/thread-self/net/{file}"));
        let tables = names.unwrap_or_default();
        let matter = |table: &&str| ["filter", "nat", "mangle"].contains(table);
        found.extend(
            tables
                .lines()
                .filter(matter)
                .map(|table| format!("{family} {table} (iptables-legacy)")),
        );
    }
    Ok(found)
}

fn is_missing(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EOPNOTSUPP | libc::EINVAL | libc::EPROTONOSUPPORT)
    )
}

fn nf_tables() -> io::Result<Vec<String>> {
    let socket = socket(
        AddressFamily::Netlink,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::NetlinkNetFilter,
    )?;
    setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::seconds(5))?;
    let length = (HEADER + GENERIC) as u32;
    let mut request = length.to_ne_bytes().to_vec();
    request.extend(GET_CHAIN.to_ne_bytes());
    request.extend(DUMP.to_ne_bytes());
    // Sequence, port, all families, version, resource.
    request.extend([0; 12]);
    sendto(
        socket.as_raw_fd(),
        &request,
        &NetlinkAddr::new(0, 0),
        MsgFlags::empty(),
    )?;
    answer(&socket)
}

fn answer(socket: &OwnedFd) -> io::Result<Vec<String>> {
    let mut chains = Vec::new();
    let mut buffer = vec![0; 64 << 10];
    loop {
        let length = recv(socket.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
        let mut rest = buffer.get(..length).unwrap_or_default();
        while let Some((kind, body, next)) = message(rest) {
            match kind {
                NLMSG_DONE => return Ok(chains),
                NLMSG_ERROR => {
                    let code = body
                        .first_chunk()
                        .map_or(0, |code| i32::from_ne_bytes(*code));
                    return Err(io::Error::from_raw_os_error(-code));
                }
                NEW_CHAIN => chains.extend(chain(body)),
                _ => {}
            }
            rest = next;
        }
    }
}

/// Type and body of the first message, and what follows it.
fn message(bytes: &[u8]) -> Option<(u16, &[u8], &[u8])> {
    let length = u32::from_ne_bytes(*bytes.first_chunk()?) as usize;
    let kind = u16::from_ne_bytes(*bytes.get(4..)?.first_chunk()?);
    let body = bytes.get(HEADER..length)?;
    Some((
        kind,
        body,
        bytes.get(length.next_multiple_of(4)..).unwrap_or_default(),
    ))
}

/// A chain in words, if it has a say in what is forwarded.
fn chain(body: &[u8]) -> Option<String> {
    let family = match body.first()? {
        1 => "inet",
        2 => "ip",
        10 => "ip6",
        _ => return None, // Bridges, ARP, one device: not what is routed.
    };
    let attributes = body.get(GENERIC..)?;
    let text = |kind| {
        let value = attribute(attributes, kind)?;
        std::str::from_utf8(value)
            .ok()
            .map(|text| text.trim_end_matches('\0'))
    };
    // A chain without a hook is called by others.
    let hook = number(attribute(attributes, CHAIN_HOOK)?, HOOK_NUMBER)?;
    let translates = text(CHAIN_TYPE) == Some("nat");
    let idle = number(attributes, CHAIN_USE).unwrap_or(0) == 0
        && number(attributes, CHAIN_POLICY).unwrap_or(ACCEPT) == ACCEPT;
    ((hook == FORWARD || translates) && !idle).then(|| {
        Some(format!(
            "{family} {} {}",
            text(CHAIN_TABLE)?,
            text(CHAIN_NAME)?
        ))
    })?
}

/// The value of an attribute (`struct nlattr`).
fn attribute(mut bytes: &[u8], wanted: u16) -> Option<&[u8]> {
    loop {
        let length = usize::from(u16::from_ne_bytes(*bytes.first_chunk()?));
        let kind = u16::from_ne_bytes(*bytes.get(2..)?.first_chunk()?) & ATTRIBUTE;
        let value = bytes.get(4..length)?;
        if kind == wanted {
            return Some(value);
        }
        bytes = bytes.get(length.next_multiple_of(4)..)?;
    }
}

/// A number attribute, in network order.
fn number(bytes: &[u8], wanted: u16) -> Option<u32> {
    Some(u32::from_be_bytes(
        *attribute(bytes, wanted)?.first_chunk()?,
    ))
}
