//! Offload switches by the `SIOCETHTOOL` ioctl: no netlink library sets them yet.

use std::os::fd::AsRawFd as _;

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

use super::{Error, netns};
use crate::plan::state::Namespace;

/// `ETHTOOL_SGRO`: a veth end with GRO on runs NAPI, without which frames redirected to it are lost.
const SET_GRO: u32 = 0x2c;
/// `ETHTOOL_STXCSUM`.
const SET_TX_CHECKSUM: u32 = 0x17;

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

fn set(namespace: &Namespace, name: &str, command: u32, on: bool) -> Result<(), Error> {
    netns::run_in(namespace, || ioctl(name, command, on))?.map_err(|source| Error::Namespace {
        action: "set an offload of a device in",
        namespace: namespace.clone(),
        source,
    })
}

fn ioctl(name: &str, command: u32, on: bool) -> Result<(), nix::Error> {
    let socket = socket(
        AddressFamily::Inet,
        SockType::Datagram,
        SockFlag::SOCK_CLOEXEC,
        None,
    )?;
    let mut value = EthtoolValue {
        command,
        data: u32::from(on),
    };
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
    nix::Error::result(result).map(drop)
}
