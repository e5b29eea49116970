//! What the kernel's firewall would do to packets on their way through: asked of nf_tables
//! (linux/netfilter/nf_tables.h) and of the older tables' list, never changed.

use std::io;

use netlink_packet_core::{
    NLM_F_DUMP, NLM_F_REQUEST, NetlinkBuffer, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_netfilter::nftables::{
    ChainAttribute, ChainMessage, Hook, HookNumber, InetHookNumber, NfTablesMessage,
};
use netlink_packet_netfilter::{
    NetfilterHeader, NetfilterMessage, NetfilterMessageInner, NetfilterProtoFamily,
};
use netlink_sys::protocols::NETLINK_NETFILTER;
use netlink_sys::{Socket, SocketAddr};
use nix::sys::socket::{setsockopt, sockopt};
use nix::sys::time::{TimeVal, TimeValLike as _};

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
    let socket = Socket::new(NETLINK_NETFILTER)?;
    setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::seconds(5))?;
    let all = NetfilterHeader::new(NetfilterProtoFamily::Unspec, 0, 0);
    let chains = ChainMessage {
        attributes: Vec::new(),
    };
    let message = NetfilterMessage::new(all, NfTablesMessage::GetChain(chains));
    let mut request = NetlinkMessage::from(message);
    request.header.flags = NLM_F_REQUEST | NLM_F_DUMP;
    request.finalize();
    let mut bytes = vec![0; request.buffer_len()];
    request.serialize(&mut bytes);
    socket.send_to(&bytes, &SocketAddr::new(0, 0), 0)?;
    answer(&socket)
}

fn answer(socket: &Socket) -> io::Result<Vec<String>> {
    let mut chains = Vec::new();
    loop {
        let (bytes, _) = socket.recv_from_full()?;
        let mut rest = bytes.as_slice();
        while let Ok(frame) = NetlinkBuffer::new_checked(rest) {
            let length = frame.length() as usize;
            // What the library cannot read says nothing of forwarded packets.
            if let Ok(message) = NetlinkMessage::<NetfilterMessage>::deserialize(rest) {
                match message.payload {
                    NetlinkPayload::Done(_) => return Ok(chains),
                    NetlinkPayload::Error(error) if error.code.is_some() => {
                        return Err(error.to_io());
                    }
                    NetlinkPayload::InnerMessage(message) => chains.extend(chain(message)),
                    _ => {}
                }
            }
            rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        }
    }
}

/// A chain in words, if it has a say in what is forwarded.
fn chain(message: NetfilterMessage) -> Option<String> {
    let family = match message.header.family {
        NetfilterProtoFamily::Inet => "inet",
        NetfilterProtoFamily::IPv4 => "ip",
        NetfilterProtoFamily::IPv6 => "ip6",
        _ => return None, // Bridges, ARP, one device: not what is routed.
    };
    let NetfilterMessageInner::NfTables(NfTablesMessage::NewChain(chain)) = message.inner else {
        return None;
    };
    let (mut table, mut name, mut hook) = (None, None, None);
    let (mut translates, mut uses, mut policy) = (false, 0, ACCEPT);
    for attribute in chain.attributes {
        match attribute {
            ChainAttribute::Table(text) => table = Some(text),
            ChainAttribute::Name(text) => name = Some(text),
            ChainAttribute::Hook(hooks) => hook = hooks.into_iter().find_map(number),
            ChainAttribute::Policy(number) => policy = number,
            ChainAttribute::Use(number) => uses = number,
            ChainAttribute::Type(text) => translates = text == "nat",
            _ => {}
        }
    }
    // A chain without a hook is called by others.
    let forwards = hook? == InetHookNumber::Forward;
    let idle = uses == 0 && policy == ACCEPT;
    if idle || !(forwards || translates) {
        return None;
    }
    Some(format!("{family} {} {}", table?, name?))
}

fn number(hook: Hook) -> Option<InetHookNumber> {
    match hook {
        Hook::Number(HookNumber::Inet(number)) => Some(number),
        _ => None,
    }
}
