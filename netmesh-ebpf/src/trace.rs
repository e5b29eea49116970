//! Telling `netmesh trace` what was decided, while it asks.

use core::ffi::c_void;
use core::hint::black_box;

use aya_ebpf::helpers::generated::bpf_ktime_get_ns;
use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, RingBuf};
use netmesh_common::table::Port;
use netmesh_common::trace::{CAPTURED, RING, TraceEvent, TraceFilter, WINDOW, is_asked, is_wanted};
use netmesh_common::verdict::Forward;
use netmesh_common::view::Ingress;

#[map]
static TRACE: Array<TraceFilter> = Array::with_max_entries(1, 0);
#[map]
static EVENTS: RingBuf = RingBuf::with_byte_size(RING, 0);

/// Words of a packet's beginning that hold its headers: 14 + 4 + 40 bytes.
const CLEARED: usize = 8;

/// What a hook tells of a packet: few words, to be handed to a function that has a stack of its
/// own.
#[derive(Clone, Copy)]
pub(crate) struct Told {
    ifindex: u32,
    egress: u32,
    length: u32,
    code: u8,
    layer3: bool,
}

impl Told {
    /// The packet that came in there and met the outcome with that code.
    #[inline(always)]
    pub(crate) fn new(ingress: &Ingress, code: u8, forward: &Forward, length: usize) -> Self {
        Self {
            ifindex: ingress.ifindex,
            egress: if code == 0 { forward.ifindex } else { 0 },
            length: length as u32,
            code,
            layer3: ingress.port.flags & Port::LAYER3 != 0,
        }
    }

    /// As two words.
    #[inline(always)]
    pub(crate) fn pack(self) -> (u64, u64) {
        let small = u64::from(self.code) | u64::from(self.layer3) << 8;
        (
            u64::from(self.ifindex) << 32 | u64::from(self.egress),
            u64::from(self.length) << 32 | small,
        )
    }

    #[inline(always)]
    fn unpack((devices, rest): (u64, u64)) -> Self {
        Self {
            ifindex: (devices >> 32) as u32,
            egress: devices as u32,
            length: (rest >> 32) as u32,
            code: (rest & 63) as u8,
            layer3: rest & 0x100 != 0,
        }
    }
}

/// The question, while one stands. Costs a load and a branch otherwise.
#[inline(always)]
pub(crate) fn asked() -> Option<*mut TraceFilter> {
    let filter = TRACE.get_ptr_mut(0)?;
    // SAFETY: the map owns the value; a torn question is at worst a wrong line for a person.
    let stands = unsafe { (&raw const (*filter).until).read_volatile() } != 0;
    stands.then_some(filter)
}

/// Tells, if the question is about this packet. `capture` copies that many bytes of the packet,
/// 1 to [`CAPTURED`]; anything but 0 is a failure.
#[inline(always)]
pub(crate) fn tell(words: (u64, u64), capture: impl FnOnce(*mut c_void, u32) -> i64) {
    let (Some(filter), told) = (asked(), Told::unpack(words)) else {
        return;
    };
    // SAFETY: as in `asked`.
    let filter = unsafe { &mut *filter };
    // SAFETY: no memory is involved.
    let now = unsafe { bpf_ktime_get_ns() };
    if now > filter.until {
        // Whoever asked is gone.
        filter.until = 0;
        return;
    }
    if !is_asked(filter, told.ifindex, told.code) {
        return;
    }
    if now.wrapping_sub(filter.window) > WINDOW {
        filter.window = now;
        filter.told = 0;
    }
    let Some(mut entry) = EVENTS.reserve::<TraceEvent>(0) else {
        filter.missed = filter.missed.wrapping_add(1);
        return;
    };
    let event: *mut TraceEvent = entry.as_mut_ptr();
    // The mask changes nothing, but the verifier follows it: 1 to CAPTURED, also on 6.1, where "not 0"
    // is forgotten. The compiler must not see that.
    let room = CAPTURED as u32;
    let captured = (black_box(told.length.min(room).wrapping_sub(1)) & (room - 1)) + 1;
    // SAFETY: the ring gave room for one event. What is not written of its data are old bytes of the
    // ring, which is as much a value, and `captured` tells them apart.
    let wanted = unsafe {
        (&raw mut (*event).time).write(now);
        (&raw mut (*event).ifindex).write(told.ifindex);
        (&raw mut (*event).egress).write(told.egress);
        (&raw mut (*event).length).write(told.length);
        (&raw mut (*event).outcome).write(told.code);
        (&raw mut (*event).layer3).write(told.layer3.into());
        // The headers that the filter reads, word by word and volatile: as a whole the compiler makes
        // it a call, which takes of the stack.
        let words: *mut u64 = (&raw mut (*event).data).cast();
        let mut word = 0;
        while word < CLEARED {
            words.add(word).write_volatile(0);
            word += 1;
        }
        let copied = capture((&raw mut (*event).data).cast(), captured) == 0;
        (&raw mut (*event).captured).write(if copied { captured as u16 } else { 0 });
        is_wanted(filter, &(*event).data, told.layer3)
    };
    if !wanted {
        entry.discard(0);
    } else if filter.told >= filter.limit {
        filter.missed = filter.missed.wrapping_add(1);
        entry.discard(0);
    } else {
        filter.told = filter.told.wrapping_add(1);
        entry.submit(0);
    }
}
