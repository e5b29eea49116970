//! Offload switches by the `SIOCETHTOOL` ioctl: no netlink library sets them yet.

use std::os::fd::AsRawFd as _;

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

use super::{Error, netns};
use crate::plan::state::Namespace;

/// `ETHTOOL_SGRO`: a veth end with GRO on runs NAPI, without which frames redirected to it are lost.
const SET_GRO: u32 = 0x2c;
/// `ETHTOOL_STXCSUM`.
const SET_TX_CHECKSUM: u32 = 0x17;

/// `ETHTOOL_GFLAGS` and `ETHTOOL_SFLAGS`.
const GET_FLAGS: u32 = 0x25;
const SET_FLAGS: u32 = 0x26;
/// `ETH_FLAG_TXVLAN`: tags are kept beside the frame until the device sends it.
const TX_VLAN: u32 = 1 << 7;
/// `ETH_FLAG_RXVLAN`: tags are taken off what the device receives.
const RX_VLAN: u32 = 1 << 8;

/// `struct ethtool_value`.
#[repr(C)]
struct EthtoolValue {
    command: u32,
    data: u32,
}

/// Turns generic receive offload on or off.
///
/// # Errors
/// When the device is not there or its driver refuses.
pub fn set_gro(namespace: &Namespace, name: &str, on: bool) -> Result<(), Error> {
    set(namespace, name, SET_GRO, on)
}

/// Turns transmit checksum offload on or off.
///
/// # Errors
/// When the device is not there or its driver refuses.
pub fn set_tx_checksum(namespace: &Namespace, name: &str, on: bool) -> Result<(), Error> {
    set(namespace, name, SET_TX_CHECKSUM, on)
}

/// Turns VLAN acceleration on or off, both ways: off, tags stay in the frame.
///
/// # Errors
/// When the device is not there or its driver refuses.
pub fn set_vlan(namespace: &Namespace, name: &str, on: bool) -> Result<(), Error> {
    run(namespace, || {
        let flags = ioctl(name, GET_FLAGS, 0)? & !(TX_VLAN | RX_VLAN);
        let wanted = flags | if on { TX_VLAN | RX_VLAN } else { 0 };
        ioctl(name, SET_FLAGS, wanted).map(drop)
    })
}

/// The device takes VLAN tags off what it receives. One that cannot be asked is taken for one
/// that does.
#[must_use]
pub fn takes_tags_off(namespace: &Namespace, name: &str) -> bool {
    let flags = run(namespace, || ioctl(name, GET_FLAGS, 0));
    flags.map_or(true, |flags| flags & RX_VLAN != 0)
}

fn set(namespace: &Namespace, name: &str, command: u32, on: bool) -> Result<(), Error> {
    run(namespace, || ioctl(name, command, u32::from(on)).map(drop))
}

fn run<T: Send>(
    namespace: &Namespace,
    call: impl FnOnce() -> Result<T, nix::Error> + Send,
) -> Result<T, Error> {
    netns::run_in(namespace, call)?.map_err(|source| Error::Namespace {
        action: "reach an offload of a device in",
        namespace: namespace.clone(),
        source,
    })
}

/// The value that the kernel answers with, or `data` where it has none.
fn ioctl(name: &str, command: u32, data: u32) -> Result<u32, nix::Error> {
    let socket = socket(
        AddressFamily::Inet,
        SockType::Datagram,
        SockFlag::SOCK_CLOEXEC,
        None,
    )?;
    let mut value = EthtoolValue { command, data };
    // SAFETY: an all-zero ifreq is a valid value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    if name.len() >= request.ifr_name.len() {
        return Err(nix::Error::ENODEV);
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    request.ifr_ifru.ifru_data = (&raw mut value).cast();
    // SAFETY: the request points at `value`, which outlives the call.
    let result =
        unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCETHTOOL as _, &raw mut request) };
    nix::Error::result(result).map(|_| value.data)
}
