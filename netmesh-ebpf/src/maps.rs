//! The maps, private behind functions, and the table view the decision sees.

use aya_ebpf::bindings::{BPF_F_MMAPABLE, BPF_F_NO_PREALLOC};
use aya_ebpf::macros::map;
use aya_ebpf::maps::lpm_trie::{Key, LpmTrie};
use aya_ebpf::maps::{Array, DevMapHash, HashMap, PerCpuArray};
use netmesh_common::class::Address;
use netmesh_common::group::{Group, MAX_GROUPS};
use netmesh_common::table::{
    FibEntry, MAX_NEXT_HOPS, MAX_PORTS, NeighbourKey, NextHop, Port, PortCounters, PrefixCounters,
    PrefixKey, RibEntry, RibKey, vlan_key,
};
use netmesh_common::trace::outcome_code;
use netmesh_common::verdict::{Forward, Outcome};
use netmesh_common::view::TableView;

/// Routes a data plane can hold unless its loader says otherwise.
const MAX_ROUTES: u32 = 1 << 20;
/// Prefix counters unless the loader says otherwise.
const MAX_COUNTERS: u32 = 1 << 16;

#[map]
static FIB6: LpmTrie<[u8; 16], FibEntry> = LpmTrie::with_max_entries(MAX_ROUTES, BPF_F_NO_PREALLOC);
#[map]
static FIB4: LpmTrie<[u8; 4], FibEntry> = LpmTrie::with_max_entries(MAX_ROUTES, BPF_F_NO_PREALLOC);
// Mapped by user space, which must change a link word only if the follower has not done so first.
#[map]
static NEXT_HOPS: Array<NextHop> = Array::with_max_entries(MAX_NEXT_HOPS, BPF_F_MMAPABLE);
#[map]
static GROUPS: Array<Group> = Array::with_max_entries(MAX_GROUPS, 0);
#[map]
static NEIGHBOURS: HashMap<NeighbourKey, u32> = HashMap::with_max_entries(MAX_NEXT_HOPS, 0);
#[map]
static PORTS: HashMap<u32, Port> = HashMap::with_max_entries(MAX_PORTS, 0);
#[map]
static TX: DevMapHash = DevMapHash::with_max_entries(MAX_PORTS, 0);
// A device map for its side effect: the kernel removes an entry with its sub-interface.
#[map]
static VLANS: DevMapHash = DevMapHash::with_max_entries(MAX_PORTS, 0);
#[map]
static PREFIX_CNT: PerCpuArray<PrefixCounters> = PerCpuArray::with_max_entries(MAX_COUNTERS, 0);
#[map]
static PORT_CNT: PerCpuArray<PortCounters> = PerCpuArray::with_max_entries(MAX_PORTS, 0);
// Device and port slot of the tagged frame that this CPU has handed over last.
#[map]
static LAST_VLAN: PerCpuArray<[u32; 2]> = PerCpuArray::with_max_entries(1, 0);
// The next two are user space's own memory; they are made and pinned with the rest.
#[map]
static RIB: HashMap<RibKey, RibEntry> =
    HashMap::with_max_entries(2 * MAX_ROUTES, BPF_F_NO_PREALLOC);
#[map]
static COUNTER_IDS: HashMap<PrefixKey, u32> =
    HashMap::with_max_entries(MAX_COUNTERS + 1, BPF_F_NO_PREALLOC);

/// What a program has decided, off its stack: with all it calls it has 512 bytes.
pub(crate) struct Decision {
    /// Where the packet goes.
    pub(crate) forward: Forward,
    code: u8,
}

impl Decision {
    /// The code of the outcome, through memory: what follows is then the same for the verifier
    /// whatever the outcome was, and it looks at it once instead of once for every reason.
    #[inline(always)]
    pub(crate) fn code(&mut self, outcome: Outcome) -> u8 {
        let place = &raw mut self.code;
        // SAFETY: the place is the map's own; volatile, or the compiler would leave memory out.
        unsafe {
            place.write_volatile(outcome_code(outcome));
            place.read_volatile()
        }
    }
}

// Not pinned: nobody else looks at it.
#[map]
static DECISION: PerCpuArray<Decision> = PerCpuArray::with_max_entries(1, 0);

/// This CPU's. Programs run with bottom halves off, none inside another.
#[inline(always)]
pub(crate) fn decision() -> Option<&'static mut Decision> {
    let pointer = DECISION.get_ptr_mut(0)?;
    // SAFETY: the map owns the value, which only this CPU uses; its first zeros are values of all
    // its fields (`Family::V6`, `false`), and only whole ones are written later.
    Some(unsafe { &mut *pointer })
}

/// The tables as the decision sees them.
pub(crate) struct Tables;

impl TableView for Tables {
    #[inline(always)]
    fn lookup(&self, address: &Address) -> Option<FibEntry> {
        match address {
            Address::V6(a) => FIB6.get(Key::new(128, *a)).copied(),
            Address::V4(a) => FIB4.get(Key::new(32, *a)).copied(),
        }
    }

    #[inline(always)]
    fn next_hop(&self, index: u32) -> Option<NextHop> {
        NEXT_HOPS.get(index).copied()
    }

    #[inline(always)]
    fn group(&self, index: u32) -> Option<&Group> {
        GROUPS.get(index)
    }

    #[inline(always)]
    fn port(&self, ifindex: u32) -> Option<Port> {
        port(ifindex)
    }

    #[inline(always)]
    fn sub_interface(&self, device: u32, vid: u16) -> Option<u32> {
        VLANS.get_ifindex(vlan_key(device, vid)?)
    }
}

/// The port with this interface index.
#[inline(always)]
pub(crate) fn port(ifindex: u32) -> Option<Port> {
    // SAFETY: the value is copied out at once; an entry is replaced as a whole.
    unsafe { PORTS.get(ifindex) }.copied()
}

/// Arms the redirection to a port; `false` when `ifindex` is none.
#[inline(always)]
pub(crate) fn redirect(ifindex: u32) -> bool {
    TX.redirect(ifindex, 0).is_ok()
}

/// Notes whose frame the kernel is about to send, for the case that nobody takes it.
#[inline(always)]
pub(crate) fn note_vlan(device: u32, slot: u32) {
    if let Some(pointer) = LAST_VLAN.get_ptr_mut(0) {
        // SAFETY: the map owns the value and this CPU alone writes it.
        unsafe { *pointer = [device, slot] };
    }
}

/// Slot of the VLAN sub-interface whose frame this device had handed over last on this CPU.
#[inline(always)]
pub(crate) fn last_vlan(device: u32) -> Option<u32> {
    let [of, slot] = LAST_VLAN.get(0).copied()?;
    (of == device).then_some(slot)
}

/// This CPU's counters of a prefix.
#[inline(always)]
pub(crate) fn prefix_counters(index: u32) -> Option<*mut PrefixCounters> {
    PREFIX_CNT.get_ptr_mut(index)
}

/// This CPU's counters of a port.
#[inline(always)]
pub(crate) fn port_counters(slot: u32) -> Option<*mut PortCounters> {
    PORT_CNT.get_ptr_mut(slot)
}

/// The next hop that stands for a neighbour, for the follower to update in place.
#[inline(always)]
pub(crate) fn next_hop_of(neighbour: &NeighbourKey) -> Option<*mut NextHop> {
    // SAFETY: the value is copied out at once.
    let index = *unsafe { NEIGHBOURS.get(neighbour) }?;
    NEXT_HOPS.get_ptr_mut(index)
}

/// Names the maps that only user space reads, so that the linker keeps them.
#[inline(always)]
pub(crate) fn keep() {
    core::hint::black_box((&raw const RIB, &raw const COUNTER_IDS));
}
