//! The programs of netmesh: contexts in, verdicts out. What happens to a packet is decided in
//! `netmesh-common`.
#![no_std]
#![no_main]
#![cfg_attr(target_arch = "bpf", feature(asm_experimental_arch))]
#![expect(
    missing_docs,
    reason = "the macros make public items of the entry points"
)]
#![expect(
    unreachable_pub,
    reason = "the macros make public items of the entry points"
)]

mod atomic;
mod count;
mod follow;
mod loss;
mod maps;
mod tags;
mod tc;
mod trace;
mod wide;
mod xdp;

use aya_ebpf::bindings::xdp_action;
use aya_ebpf::macros::{btf_tracepoint, classifier, xdp};
use aya_ebpf::programs::{BtfTracePointContext, TcContext, XdpContext};

use follow::Event;

/// Every frame of an Ethernet port.
#[xdp(frags)]
pub fn netmesh_xdp(context: XdpContext) -> u32 {
    xdp::run::<_, true>(&context, &maps::Tables)
}

/// Lets every frame pass; its presence makes a veth end run NAPI, without which frames
/// redirected to it are lost.
#[xdp(frags)]
pub fn netmesh_pass(_context: XdpContext) -> u32 {
    maps::keep();
    xdp_action::XDP_PASS
}

/// Every packet of an Ethernet port, and of a port without a link-layer header: the port's entry
/// tells them apart.
#[classifier]
pub fn netmesh_tc(context: TcContext) -> i32 {
    tc::run(&context)
}

/// `neigh_update_done(struct neighbour *, int)`: net/core/neighbour.c `__neigh_update`.
#[btf_tracepoint(function = "neigh_update_done")]
pub fn neigh_update_done(context: BtfTracePointContext) -> i32 {
    follow::neighbour(context.arg(0), Event::Changed);
    0
}

/// `neigh_timer_handler(struct neighbour *, int)`: reachability runs out or probing fails.
#[btf_tracepoint(function = "neigh_timer_handler")]
pub fn neigh_timer_handler(context: BtfTracePointContext) -> i32 {
    follow::neighbour(context.arg(0), Event::Changed);
    0
}

/// `neigh_cleanup_and_release(struct neighbour *, int)`: the entry is deleted.
#[btf_tracepoint(function = "neigh_cleanup_and_release")]
pub fn neigh_cleanup(context: BtfTracePointContext) -> i32 {
    follow::neighbour(context.arg(0), Event::Gone);
    0
}

/// `xdp_devmap_xmit(from, to, sent, drops, err)`: kernel/bpf/devmap.c `bq_xmit_all`, once for up to
/// 16 frames.
#[btf_tracepoint(function = "xdp_devmap_xmit")]
pub fn xdp_sent(context: BtfTracePointContext) -> i32 {
    let drops: i32 = context.arg(3);
    if drops > 0 {
        loss::lost(&context, context.arg(0), drops);
    }
    0
}

/// `xdp_redirect_err(device, program, target, err, …)`: net/core/filter.c `xdp_do_redirect`; the frame
/// never reached a queue.
#[btf_tracepoint(function = "xdp_redirect_err")]
pub fn xdp_refused(context: BtfTracePointContext) -> i32 {
    loss::lost(&context, context.arg(0), 1);
    0
}

/// The kernel hands GPL-only helpers to programs under a compatible licence.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[cfg(not(test))]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    loop {}
}
