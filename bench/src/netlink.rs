//! Routes into the kernel's table, as fast as netlink takes them: as many requests at a time as a socket holds,
//! no answers but errors.

use std::os::fd::AsRawFd as _;

use anyhow::bail;
use nix::net::if_::if_nametoindex;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendto, socket,
};

use crate::sets::Set;
use crate::usage::Cpu;

/// Bytes of one send.
const CHUNK: usize = 1 << 17;
const RTM_NEWROUTE: u16 = 24;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const NLM_F_CREATE: u16 = 0x400;
const NLMSG_ERROR: u16 = 2;
const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;

/// Adds a /64 for each key, with the next hops in turn; how many seconds it took.
pub(crate) fn add(set: &Set, dev: &str) -> anyhow::Result<f64> {
    let socket = socket(
        AddressFamily::Netlink,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::NetlinkRoute,
    )?;
    let kernel = NetlinkAddr::new(0, 0);
    let dev = if_nametoindex(dev)?;
    let clock = Cpu::thread()?;
    let mut requests = Vec::with_capacity(CHUNK);
    let last = set.keys.len().saturating_sub(1);
    for (n, key) in set.keys.iter().enumerate() {
        put(&mut requests, *key, n, dev, n == last);
        if requests.len() + 128 > CHUNK || n == last {
            let sent = sendto(socket.as_raw_fd(), &requests, &kernel, MsgFlags::empty())?;
            if sent != requests.len() {
                bail!("the kernel took {sent} bytes of {}", requests.len());
            }
            requests.clear();
        }
    }
    // One answer: that to the last request, unless an earlier one was refused.
    let mut answer = [0; 1024];
    let length = recv(socket.as_raw_fd(), &mut answer, MsgFlags::empty())?;
    let error = match answer.get(..length.min(20)) {
        Some([_, _, _, _, k0, k1, .., e0, e1, e2, e3])
            if u16::from_ne_bytes([*k0, *k1]) == NLMSG_ERROR =>
        {
            i32::from_ne_bytes([*e0, *e1, *e2, *e3])
        }
        _ => bail!("the kernel answers something else"),
    };
    if error != 0 {
        bail!(
            "the kernel refuses a route: {}",
            std::io::Error::from_raw_os_error(-error)
        );
    }
    clock.elapsed()
}

/// `struct nlmsghdr`, `struct rtmsg`, three attributes: rtnetlink(7).
fn put(requests: &mut Vec<u8>, key: u64, n: usize, dev: u32, answer: bool) {
    let ack = if answer { NLM_F_ACK } else { 0 };
    let begin = requests.len();
    requests.extend([0; 4]);
    requests.extend(RTM_NEWROUTE.to_ne_bytes());
    requests.extend((NLM_F_REQUEST | NLM_F_CREATE | ack).to_ne_bytes());
    requests.extend([0; 8]);
    // IPv6, a prefix of 64 bits, main table, static, universe, unicast.
    requests.extend([10, 64, 0, 0, 254, 4, 0, 1, 0, 0, 0, 0]);
    let mut destination = [0; 16];
    destination[..8].copy_from_slice(&key.to_be_bytes());
    attribute(requests, RTA_DST, &destination);
    let mut gateway = [0; 16];
    gateway[..2].copy_from_slice(&[0xfe, 0x80]);
    gateway[15] = 0x10 + (n % crate::forward::NEXT_HOPS) as u8;
    attribute(requests, RTA_GATEWAY, &gateway);
    attribute(requests, RTA_OIF, &dev.to_ne_bytes());
    let length = (requests.len() - begin) as u32;
    requests[begin..begin + 4].copy_from_slice(&length.to_ne_bytes());
}

fn attribute(requests: &mut Vec<u8>, kind: u16, value: &[u8]) {
    requests.extend((value.len() as u16 + 4).to_ne_bytes());
    requests.extend(kind.to_ne_bytes());
    requests.extend(value);
}
