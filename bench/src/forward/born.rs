//! Packets that are born as socket buffers: those of a socket in a namespace behind a veth.

use std::io::IoSlice;
use std::os::fd::AsRawFd as _;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use nix::net::if_::if_nametoindex;
use nix::sys::socket::{
    AddressFamily, LinkAddr, MsgFlags, MultiHeaders, SockFlag, SockType, bind, sendmmsg, socket,
};

use super::clock::Clock;
use super::wires::Wires;

/// Packets that are handed over by one call.
const BATCH: usize = 64;

/// Sends a frame to one destination after the other; nanoseconds each took until it had arrived.
pub(super) fn send(
    wires: &Wires,
    port: usize,
    frame: &[u8],
    keys: &[u64],
    count: usize,
) -> anyhow::Result<f64> {
    let took = wires.inside("src", || -> anyhow::Result<Duration> {
        let index = if_nametoindex(format!("s{port}").as_str())?;
        // Without a protocol nothing is received.
        let socket = socket(
            AddressFamily::Packet,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC,
            None,
        )?;
        bind(socket.as_raw_fd(), &crate::memory::interface(index)?)?;
        let mut frames = vec![frame.to_vec(); BATCH];
        let mut headers: MultiHeaders<LinkAddr> = MultiHeaders::preallocate(BATCH, None);
        let mut keys = keys.iter().cycle();
        let clock = Clock::start()?;
        for _ in 0..count / BATCH {
            for frame in &mut frames {
                let key = keys.next().context("no destination")?;
                frame[38..46].copy_from_slice(&key.to_be_bytes());
            }
            let slices: Vec<[IoSlice<'_>; 1]> =
                frames.iter().map(|frame| [IoSlice::new(frame)]).collect();
            let none = [None::<LinkAddr>; BATCH];
            let raw = socket.as_raw_fd();
            let sent = sendmmsg(raw, &mut headers, &slices, none, [], MsgFlags::empty())?.count();
            ensure!(sent == BATCH, "{sent} of {BATCH} packets were taken");
        }
        clock.elapsed()
    })??;
    Ok(took.as_nanos() as f64 / count as f64)
}
