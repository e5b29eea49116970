//! Programs that measure: look-ups in a loop, and the two ends of a wire with a router between.
//! They ask the tables by the same functions as the programs that forward.
#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]
#![expect(
    missing_docs,
    reason = "the macros make public items of the entry points"
)]
#![expect(
    unreachable_pub,
    reason = "the macros make public items of the entry points"
)]
#![expect(dead_code, reason = "not all that forwards is measured by itself")]

mod atomic;
mod count;
mod maps;
mod scratch;
mod tags;
mod trace;
mod wide;
mod xdp;

use core::arch::asm;

use aya_ebpf::EbpfContext as _;
use aya_ebpf::bindings::{BPF_F_MMAPABLE, TC_ACT_SHOT, bpf_fib_lookup as FibLookup, xdp_action};
use aya_ebpf::helpers::{bpf_fib_lookup, bpf_redirect};
use aya_ebpf::macros::{classifier, map, xdp};
use aya_ebpf::maps::{Array, HashMap, PerCpuArray};
use aya_ebpf::programs::{TcContext, XdpContext};
use netmesh_common::class::Address;
use netmesh_common::lines::{Buckets, Direction, find};
use netmesh_common::table::{FibEntry, NextHop, Port};
use netmesh_common::verdict::Forward;
use netmesh_common::view::TableView;

/// Addresses of the stream; the loader may use fewer of them, a power of two.
const STREAM_LENGTH: u32 = 1 << 20;
/// Look-ups of one run.
const STEPS: u32 = 64;

/// Upper halves of the addresses that are looked up, one after the other.
#[map]
static STREAM: Array<u64> = Array::with_max_entries(STREAM_LENGTH, BPF_F_MMAPABLE);
#[map]
static HASH: HashMap<u64, FibEntry> = HashMap::with_max_entries(1, 0);
/// A line of memory for each number, to be loaded at random: what a miss costs.
#[map]
static CHASE: Array<[u64; 8]> = Array::with_max_entries(1, BPF_F_MMAPABLE);
#[map]
static STATE: PerCpuArray<State> = PerCpuArray::with_max_entries(1, 0);

/// Where a CPU is.
#[repr(C)]
struct State {
    /// In the stream.
    position: u64,
    /// Of the next hops that were found: the same for every method.
    sum: u64,
    /// Frames that have arrived.
    frames: u64,
    /// Not 0 makes each look-up wait for the one before, 0 does not.
    dependent: u64,
    /// Last place in the stream.
    last: u64,
    /// The device of the kernel's look-ups.
    ifindex: u64,
}

/// What is counted.
static ONE: Forward = Forward {
    packets: 1,
    bytes: 64,
    ..Forward::EMPTY
};

/// One method of looking up.
macro_rules! method {
    ($name:ident, |$context:ident, $state:ident, $key:ident| $lookup:expr) => {
        #[xdp]
        pub fn $name($context: XdpContext) -> u32 {
            let Some(state) = STATE.get_ptr_mut(0) else {
                return xdp_action::XDP_ABORTED;
            };
            // SAFETY: this CPU's own.
            let $state = unsafe { &mut *state };
            let (mut position, mut sum) = ($state.position, $state.sum);
            let last = $state.last;
            let mut before = 0;
            for _ in 0..STEPS {
                // What was found is below 2^32, so that nothing is added; nobody knows beforehand.
                let mut place = position;
                if $state.dependent != 0 {
                    place = place.wrapping_add(opaque(before) >> 32);
                }
                let place = place & last;
                let Some(&$key) = STREAM.get(place as u32) else {
                    return xdp_action::XDP_ABORTED;
                };
                before = $lookup;
                sum = sum.wrapping_add(before);
                position = position.wrapping_add(1);
            }
            $state.position = position;
            $state.sum = sum;
            xdp_action::XDP_PASS
        }
    };
}

method!(bench_nothing, |_context, _state, key| key & 1);
method!(bench_table, |_context, _state, key| {
    let found = maps::Tables.lookup(&Address::V6(key, 1));
    u64::from(found.map_or(0, |entry| entry.next_hop))
});
method!(bench_counted, |_context, _state, key| {
    let found = maps::Tables.lookup(&Address::V6(key, 1));
    let entry = found.unwrap_or(FibEntry::NONE);
    count::on_prefix(entry.counter, Direction::To, &ONE);
    u64::from(entry.next_hop)
});
method!(bench_stage, |_context, _state, key| maps::first_hit(key, 1)
    & 0xffff_ffff);
method!(bench_entries, |_context, _state, key| {
    let hit = find(&Entries(maps::Stage(0)), key, Direction::To);
    u64::from(hit.map_or(0, |hit| hit.class))
});
method!(bench_trie, |_context, _state, key| {
    let found = maps::second_stage(&Address::V6(key, 1));
    u64::from(found.map_or(0, |entry| entry.next_hop))
});
method!(bench_hash, |_context, _state, key| {
    // SAFETY: nobody writes while this is measured.
    let found = unsafe { HASH.get(key) };
    u64::from(found.map_or(0, |entry| entry.next_hop))
});
method!(bench_chase, |_context, _state, key| {
    // The stream of this one is of numbers of lines; all lines hold 1.
    CHASE.get(key as u32).map_or(0, |line| line[0])
});
method!(bench_fib, |context, state, key| {
    // SAFETY: all zero is a value of this plain structure.
    let mut question: FibLookup = unsafe { core::mem::zeroed() };
    question.family = 10;
    question.ifindex = state.ifindex as u32;
    question.__bindgen_anon_4.ipv6_dst = [
        ((key >> 32) as u32).to_be(),
        (key as u32).to_be(),
        0,
        1_u32.to_be(),
    ];
    let size = size_of::<FibLookup>() as i32;
    // SAFETY: the context is this program's own, the structure as long as is said.
    let answer = unsafe { bpf_fib_lookup(context.as_ptr(), (&raw mut question).cast(), size, 0) };
    u64::from(answer == 0)
});

/// Stage 1 without the line of its counters: what that costs is the difference.
struct Entries(maps::Stage);

impl Buckets for Entries {
    type Bucket = <maps::Stage as Buckets>::Bucket;

    #[inline(always)]
    fn bucket(&self, index: u32) -> Option<Self::Bucket> {
        self.0.bucket(index)
    }

    #[inline(always)]
    fn word(&self, bucket: &Self::Bucket, word: usize) -> u64 {
        self.0.word(bucket, word)
    }

    #[inline(always)]
    fn touch(&self, _bucket: &Self::Bucket, _word: usize) {}

    #[inline(always)]
    fn header(&self) -> Option<Self::Bucket> {
        self.0.header()
    }
}

/// The address in the middle of a /64.
#[inline(always)]
fn address(key: u64) -> [u8; 16] {
    let [a, b, c, d, e, f, g, h] = key.to_be_bytes();
    [a, b, c, d, e, f, g, h, 0, 0, 0, 0, 0, 0, 0, 1]
}

/// Sends the frame to the next address of the stream, out of the device it seems to have come in.
/// What it finds in the frame may be what the router has made of it.
#[xdp]
pub fn bench_source(context: XdpContext) -> u32 {
    let Some(state) = STATE.get_ptr_mut(0) else {
        return xdp_action::XDP_ABORTED;
    };
    // SAFETY: this CPU's own.
    let state = unsafe { &mut *state };
    let place = state.position & state.last;
    state.position = state.position.wrapping_add(1);
    let Some(&key) = STREAM.get(place as u32) else {
        return xdp_action::XDP_ABORTED;
    };
    let start = context.data();
    if start + 14 + 40 > context.data_end() {
        return xdp_action::XDP_ABORTED;
    }
    let [d, s] = [ROUTER_MAC, SOURCE_MAC];
    let a = address(key);
    // SAFETY: 54 bytes lie inside the frame.
    unsafe {
        *(start as *mut [u8; 6]) = d;
        *((start + 6) as *mut [u8; 6]) = s;
        *((start + 21) as *mut u8) = 64;
        *((start + 38) as *mut [u8; 16]) = a;
    }
    xdp_action::XDP_TX
}

const ROUTER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];
const SOURCE_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];

/// The end of the way.
#[xdp]
pub fn bench_sink(_context: XdpContext) -> u32 {
    arrived();
    xdp_action::XDP_DROP
}

/// The end of the way of what is a socket buffer by then.
#[classifier]
pub fn bench_sink_tc(_context: TcContext) -> i32 {
    arrived();
    TC_ACT_SHOT
}

#[inline(always)]
fn arrived() {
    if let Some(state) = STATE.get_ptr_mut(0) {
        // SAFETY: this CPU's own.
        let state = unsafe { &mut *state };
        state.frames = state.frames.wrapping_add(1);
    }
}

/// A router that looks nothing up: the bound of all others.
#[xdp]
pub fn bench_redirect(context: XdpContext) -> u32 {
    let addresses = ([2, 0, 0, 0, 0, 4], [2, 0, 0, 0, 0, 3]);
    if !readdress(context.data(), context.data_end(), addresses) {
        return xdp_action::XDP_ABORTED;
    }
    redirect()
}

/// The same behind the other hook.
#[classifier]
pub fn bench_redirect_tc(context: TcContext) -> i32 {
    let addresses = ([2, 0, 0, 0, 0, 4], [2, 0, 0, 0, 0, 3]);
    let Some(state) = STATE.get(0) else {
        return TC_ACT_SHOT;
    };
    if !readdress(context.data(), context.data_end(), addresses) {
        return TC_ACT_SHOT;
    }
    // SAFETY: no memory is involved.
    (unsafe { bpf_redirect(state.ifindex as u32, 0) }) as i32
}

/// A router upon the kernel's own table, as `xdp-forward` of xdp-tools is one: the answer's
/// addresses, but another device, so that the frame ends where the others' do.
#[xdp]
pub fn bench_forward_fib(context: XdpContext) -> u32 {
    let start = context.data();
    if start + 14 + 40 > context.data_end() {
        return xdp_action::XDP_ABORTED;
    }
    // SAFETY: all zero is a value of this plain structure.
    let mut question: FibLookup = unsafe { core::mem::zeroed() };
    question.family = 10;
    question.ifindex = context.ingress_ifindex() as u32;
    // SAFETY: 54 bytes lie inside the frame.
    unsafe {
        question.l4_protocol = *((start + 20) as *const u8);
        question.__bindgen_anon_3.ipv6_src = *((start + 22) as *const [u32; 4]);
        question.__bindgen_anon_4.ipv6_dst = *((start + 38) as *const [u32; 4]);
    }
    let size = size_of::<FibLookup>() as i32;
    // SAFETY: the context is this program's own, the structure as long as is said.
    let answer = unsafe { bpf_fib_lookup(context.as_ptr(), (&raw mut question).cast(), size, 0) };
    if answer != 0 {
        return xdp_action::XDP_PASS;
    }
    let addresses = (question.dmac, question.smac);
    if !readdress(context.data(), context.data_end(), addresses) {
        return xdp_action::XDP_ABORTED;
    }
    redirect()
}

/// New link-layer addresses, and one hop less.
#[inline(always)]
fn readdress(start: usize, end: usize, (to, from): ([u8; 6], [u8; 6])) -> bool {
    if start + 14 + 40 > end {
        return false;
    }
    // SAFETY: 54 bytes lie inside the frame.
    unsafe {
        *(start as *mut [u8; 6]) = to;
        *((start + 6) as *mut [u8; 6]) = from;
        let hop_limit = (start + 21) as *mut u8;
        *hop_limit = (*hop_limit).wrapping_sub(1);
    }
    true
}

#[inline(always)]
fn redirect() -> u32 {
    let Some(state) = STATE.get(0) else {
        return xdp_action::XDP_ABORTED;
    };
    if maps::redirect(state.ifindex as u32) {
        xdp_action::XDP_REDIRECT
    } else {
        xdp_action::XDP_ABORTED
    }
}

/// The router as it is.
#[xdp(frags)]
pub fn bench_router(context: XdpContext) -> u32 {
    xdp::run::<_, true>(&context, &maps::Tables)
}

/// The router without the counters of prefixes.
#[xdp(frags)]
pub fn bench_uncounted(context: XdpContext) -> u32 {
    xdp::run::<_, false>(&context, &maps::Tables)
}

/// The router that takes every address for one that crosses routers.
#[xdp(frags)]
pub fn bench_unclassed(context: XdpContext) -> u32 {
    xdp::run::<_, true>(&context, &Without::<CLASSES>(maps::Tables))
}

/// The router that does not look up sources: for a port that believes all.
#[xdp(frags)]
pub fn bench_sourceless(context: XdpContext) -> u32 {
    xdp::run::<_, true>(&context, &Without::<SOURCES>(maps::Tables))
}

const CLASSES: u8 = 1;
const SOURCES: u8 = 2;

/// The tables without something.
struct Without<const WHAT: u8>(maps::Tables);

impl<const WHAT: u8> TableView for Without<WHAT> {
    #[inline(always)]
    fn lookup(&self, address: &Address) -> Option<FibEntry> {
        self.0.lookup(address)
    }

    #[inline(always)]
    fn lookup_source(&self, address: &Address) -> Option<FibEntry> {
        if WHAT == SOURCES {
            None
        } else {
            self.0.lookup_source(address)
        }
    }

    #[inline(always)]
    fn next_hop(&self, index: u32) -> Option<NextHop> {
        self.0.next_hop(index)
    }

    #[inline(always)]
    fn leads_to(&self, group: u32, ifindex: u32) -> bool {
        self.0.leads_to(group, ifindex)
    }

    #[inline(always)]
    fn choose(&self, group: u32, hash: u64) -> Option<u32> {
        self.0.choose(group, hash)
    }

    #[inline(always)]
    fn is_kernel_only(&self, address: &Address) -> bool {
        WHAT != CLASSES && self.0.is_kernel_only(address)
    }

    #[inline(always)]
    fn is_nobodys(&self, address: &Address) -> bool {
        WHAT != CLASSES && self.0.is_nobodys(address)
    }

    #[inline(always)]
    fn is_martian(&self, address: &Address) -> bool {
        WHAT != CLASSES && self.0.is_martian(address)
    }

    #[inline(always)]
    fn port(&self, ifindex: u32) -> Option<Port> {
        self.0.port(ifindex)
    }

    #[inline(always)]
    fn martian(&self, ifindex: u32, address: &Address) -> Option<bool> {
        self.0.martian(ifindex, address)
    }

    #[inline(always)]
    fn sub_interface(&self, device: u32, vid: u16) -> Option<u32> {
        self.0.sub_interface(device, vid)
    }
}

/// The value, of which the compiler knows nothing any more.
#[inline(always)]
fn opaque(value: u64) -> u64 {
    let mut value = value;
    // SAFETY: a register is copied to itself. No instruction at all would leave the kernel two
    // source lines for the next one, which it refuses.
    unsafe { asm!("{value} = {value}", value = inout(reg) value, options(pure, nomem, nostack)) };
    value
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
