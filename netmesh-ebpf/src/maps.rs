//! The maps, private behind functions, and the table view the decision sees.

use aya_ebpf::bindings::{BPF_F_MMAPABLE, BPF_F_NO_PREALLOC, BPF_NOEXIST};
use aya_ebpf::btf_maps::{self, ArrayOfMaps};
use aya_ebpf::macros::{btf_map, map};
use aya_ebpf::maps::lpm_trie::{Key, LpmTrie};
use aya_ebpf::maps::{Array, DevMapHash, HashMap, PerCpuArray};
use netmesh_common::class::Address;
use netmesh_common::flow;
use netmesh_common::group::{Group, MAX_GROUPS};
use netmesh_common::lines::{
    Bucket, Buckets, Class, Direction, GENERATIONS, HEADER, MAX_CLASSES, MAX_PIECES, PIECE,
    PIECE_BITS, PIECES, SlotCounter, WORDS, find, key_at, key_of, tally,
};
use netmesh_common::table::{
    FibEntry, MAX_MARTIANS, MAX_NEXT_HOPS, MAX_PORTS, NeighbourKey, NextHop, PORT_PLACES,
    PORT_TRIES, Port, PortCounters, PortPlace, PrefixCounters, PrefixKey, RibEntry, RibKey,
    martian_key, port_place, vlan_key,
};
use netmesh_common::trace::outcome_code;
use netmesh_common::verdict::{Forward, Outcome};
use netmesh_common::view::TableView;

use crate::atomic::Word;

/// Routes a data plane can hold unless its loader says otherwise.
const MAX_ROUTES: u32 = 1 << 20;
/// Prefix counters unless the loader says otherwise.
const MAX_COUNTERS: u32 = 1 << 16;

#[map]
static FIB6: LpmTrie<[u32; 4], FibEntry> = LpmTrie::with_max_entries(MAX_ROUTES, BPF_F_NO_PREALLOC);
#[map]
static FIB4: LpmTrie<u32, FibEntry> = LpmTrie::with_max_entries(MAX_ROUTES, BPF_F_NO_PREALLOC);
/// A piece of a table of stage 1.
type Piece = btf_maps::Array<[Bucket; PIECE], 1, { BPF_F_MMAPABLE as usize }>;

/// The pieces of each generation, one behind the other.
#[btf_map]
static TABLES: ArrayOfMaps<Piece, { PIECES as usize }> = ArrayOfMaps::new();
/// The words of each table's header.
#[map]
static HEADERS: Array<[u64; HEADER]> = Array::with_max_entries(GENERATIONS, BPF_F_MMAPABLE);
/// Which of the tables is asked.
#[map]
static ACTIVE: Array<u64> = Array::with_max_entries(1, BPF_F_MMAPABLE);
#[map]
static CLASSES: Array<u64> = Array::with_max_entries(MAX_CLASSES, BPF_F_MMAPABLE);
/// What the tallies of stage 1 could not hold, by key.
#[map]
static CARRIED: HashMap<u64, PrefixCounters> =
    HashMap::with_max_entries(MAX_ROUTES / 4, BPF_F_NO_PREALLOC);
// Mapped by user space, which must change a link word only if the follower has not done so first.
#[map]
static NEXT_HOPS: Array<NextHop> = Array::with_max_entries(MAX_NEXT_HOPS, BPF_F_MMAPABLE);
#[map]
static GROUPS: Array<Group> = Array::with_max_entries(MAX_GROUPS, 0);
#[map]
static NEIGHBOURS: HashMap<NeighbourKey, u32> = HashMap::with_max_entries(MAX_NEXT_HOPS, 0);
#[map]
static PORTS: Array<PortPlace> = Array::with_max_entries(PORT_PLACES, BPF_F_MMAPABLE);
#[map]
static TX: DevMapHash = DevMapHash::with_max_entries(MAX_PORTS, 0);
// A device map for its side effect: the kernel removes an entry with its sub-interface.
#[map]
static VLANS: DevMapHash = DevMapHash::with_max_entries(MAX_PORTS, 0);
/// What ports say themselves of addresses: 1 a martian, 0 none.
#[map]
static MARTIANS: LpmTrie<[u32; 6], u32> =
    LpmTrie::with_max_entries(MAX_MARTIANS, BPF_F_NO_PREALLOC);
#[map]
static PREFIX_CNT: PerCpuArray<PrefixCounters> = PerCpuArray::with_max_entries(MAX_COUNTERS, 0);
#[map]
static PORT_CNT: PerCpuArray<PortCounters> = PerCpuArray::with_max_entries(MAX_PORTS, 0);
// Device and port slot of the tagged frame that this CPU has handed over last.
#[map]
static LAST_VLAN: PerCpuArray<[u32; 2]> = PerCpuArray::with_max_entries(1, 0);
// The next four are user space's own memory; they are made and pinned with the rest.
#[map]
static RIB: HashMap<RibKey, RibEntry> =
    HashMap::with_max_entries(2 * MAX_ROUTES, BPF_F_NO_PREALLOC);
#[map]
static COUNTER_IDS: HashMap<PrefixKey, u32> =
    HashMap::with_max_entries(MAX_COUNTERS + 1, BPF_F_NO_PREALLOC);
/// What the slots of tables that are gone had counted.
#[map]
static KEPT: HashMap<u64, PrefixCounters> =
    HashMap::with_max_entries(MAX_ROUTES / 4, BPF_F_NO_PREALLOC);
#[map]
static INSIDE: HashMap<u64, u32> = HashMap::with_max_entries(MAX_ROUTES / 4, BPF_F_NO_PREALLOC);

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

// Nor at this.
#[map]
static SCRATCH: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);

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
        look_up(address, Direction::To)
    }

    #[inline(always)]
    fn lookup_source(&self, address: &Address) -> Option<FibEntry> {
        look_up(address, Direction::From)
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
    fn leads_to(&self, group: u32, ifindex: u32) -> bool {
        member_is_on(group, ifindex) != 0
    }

    #[inline(always)]
    fn choose(&self, group: u32, hash: u64) -> Option<u32> {
        match member_for(group, hash) {
            0 => None,
            found => Some(found - 1),
        }
    }

    #[inline(always)]
    fn is_kernel_only(&self, address: &Address) -> bool {
        if address.is_surely_routed() {
            return false;
        }
        let (upper, lower, family) = address.halves();
        scope_of(upper, lower, family) & KERNEL_ONLY != 0
    }

    #[inline(always)]
    fn is_nobodys(&self, address: &Address) -> bool {
        let (upper, lower, family) = address.halves();
        scope_of(upper, lower, family) & NOBODYS != 0
    }

    #[inline(always)]
    fn is_martian(&self, address: &Address) -> bool {
        if address.is_surely_global() {
            return false;
        }
        let (upper, lower, family) = address.halves();
        is_special(upper, lower, family) != 0
    }

    #[inline(always)]
    fn port(&self, ifindex: u32) -> Option<Port> {
        port(ifindex)
    }

    #[inline(always)]
    fn martian(&self, ifindex: u32, address: &Address) -> Option<bool> {
        let (upper, lower, family) = address.halves();
        match said_of(upper, lower, ifindex, family) {
            0 => None,
            said => Some(said == MARTIAN),
        }
    }

    #[inline(always)]
    fn sub_interface(&self, device: u32, vid: u16) -> Option<u32> {
        VLANS.get_ifindex(vlan_key(device, vid)?)
    }
}

/// Stage 1, and what it does not answer, the trie.
#[inline(always)]
fn look_up(address: &Address, direction: Direction) -> Option<FibEntry> {
    let (upper, lower, family) = address.halves();
    let to = u32::from(direction == Direction::To);
    FibEntry::from_word(forgotten(entry_of(upper, lower, family | to << TO)))
}

/// [`Group::leads_to`], 1 or 0.
///
/// A global function, as those that follow: the verifier looks through it once, and forgets which way
/// it came back; what it goes through would otherwise be gone through for each way that leads to it.
/// Such a function takes and returns a number, and has its own room on the stack.
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn member_is_on(group: u32, ifindex: u32) -> u32 {
    u32::from(
        GROUPS
            .get(group)
            .is_some_and(|group| group.leads_to(ifindex)),
    )
}

/// The next hop of a group for a flow, and one; 0 where there is no such group.
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn member_for(group: u32, hash: u64) -> u32 {
    match GROUPS.get(group) {
        Some(group) => group
            .choose(flow::seeded(hash, group.seed), &Tables)
            .wrapping_add(1),
        None => 0,
    }
}

const KERNEL_ONLY: u32 = 1;
const NOBODYS: u32 = 2;

/// [`Address::is_kernel_only`] and [`Address::is_nobodys`], as bits.
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn scope_of(upper: u64, lower: u64, family: u32) -> u32 {
    let address = Address::of_halves(upper, lower, family);
    let mut bits = 0;
    if address.is_kernel_only() {
        bits |= KERNEL_ONLY;
    }
    if address.is_nobodys() {
        bits |= NOBODYS;
    }
    bits
}

/// [`Address::is_martian`], 1 or 0.
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn is_special(upper: u64, lower: u64, family: u32) -> u32 {
    u32::from(Address::of_halves(upper, lower, family).is_martian())
}

/// What [`said_of`] returns for a martian.
const MARTIAN: u32 = 2;

/// What a port says of an address: [`MARTIAN`], 1 for no martian, 0 for nothing. A global function
/// for the reasons of [`member_is_on`].
#[inline(never)]
#[unsafe(no_mangle)]
pub(crate) extern "C" fn said_of(upper: u64, lower: u64, ifindex: u32, family: u32) -> u32 {
    let address = Address::of_halves(upper, lower, family);
    let length = u32::BITS * 6;
    match MARTIANS.get(Key::new(length, martian_key(ifindex, &address))) {
        None => 0,
        Some(0) => 1,
        Some(_) => MARTIAN,
    }
}

/// Bit of a look-up's kind beside the family: what is asked for is a destination.
const TO: u32 = 3;

/// The entry of an address as a word; 0 for none.
#[inline(always)]
pub(crate) fn entry_of(upper: u64, lower: u64, kind: u32) -> u64 {
    let family = if kind & 7 == 6 { 6 } else { 4 };
    if let Some(key) = key_of(&Address::of_halves(upper, lower, kind & 7)) {
        let found = first_hit(key, kind >> TO);
        if let Some(class) = CLASSES.get(found as u32)
            && *class != 0
        {
            return Class::entry_word(*class, family, (found >> 32) as u32);
        }
    }
    trie_hit(upper, lower, kind)
}

/// The same value, of which the verifier knows nothing any more: it would otherwise follow the rest
/// of the program once for every place where it may have been found.
#[inline(always)]
fn forgotten(value: u64) -> u64 {
    let Some(place) = SCRATCH.get_ptr_mut(0) else {
        return value;
    };
    // SAFETY: the map's own, and this CPU's alone; volatile, or the compiler would leave memory out.
    unsafe {
        place.write_volatile(value);
        place.read_volatile()
    }
}

/// What the trie says of an address, as a word; 0 for nothing.
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn trie_hit(upper: u64, lower: u64, kind: u32) -> u64 {
    second_stage(&Address::of_halves(upper, lower, kind & 7)).map_or(0, |entry| entry.word())
}

/// The trie: complete, and always current.
#[inline(always)]
pub(crate) fn second_stage(address: &Address) -> Option<FibEntry> {
    match address {
        Address::V6(upper, lower) => {
            let words = [
                (upper >> 32) as u32,
                *upper as u32,
                (lower >> 32) as u32,
                *lower as u32,
            ];
            FIB6.get(Key::new(128, words.map(u32::to_be))).copied()
        }
        Address::V4(address) => FIB4.get(Key::new(32, address.to_be())).copied(),
    }
}

/// Class and counter of a key, in the lower and the upper half; class 0 where stage 1 does not
/// answer.
#[inline(always)]
pub(crate) fn first_hit(key: u64, to: u32) -> u64 {
    let direction = if to == 0 {
        Direction::From
    } else {
        Direction::To
    };
    let Some(generation) = ACTIVE.get(0) else {
        return 0;
    };
    let generation = *generation as u32 & (GENERATIONS - 1);
    let Some(hit) = find(&Stage(generation), key, direction) else {
        return 0;
    };
    let counter = SlotCounter {
        generation,
        slot: hit.slot,
    };
    u64::from(hit.class) | u64::from(counter.counter()) << 32
}

/// The table of a generation.
#[derive(Clone, Copy)]
pub(crate) struct Stage(pub(crate) u32);

impl Buckets for Stage {
    type Bucket = *mut u64;

    #[inline(always)]
    fn bucket(&self, index: u32) -> Option<*mut u64> {
        let first = if self.0 == 0 { 0 } else { MAX_PIECES };
        let piece = TABLES.get(first.wrapping_add(index >> PIECE_BITS))?;
        let words: *mut u64 = piece.get_ptr_mut(0)?.cast();
        // SAFETY: a piece has so many buckets of so many words.
        Some(unsafe { words.add((index as usize & (PIECE - 1)) * WORDS) })
    }

    #[inline(always)]
    fn word(&self, bucket: &*mut u64, word: usize) -> u64 {
        // SAFETY: `word` is below `WORDS`, and the map lives as long as the program. A writer may
        // change the word meanwhile, but only as a whole.
        unsafe { bucket.add(word).read_volatile() }
    }

    #[inline(always)]
    fn touch(&self, bucket: &*mut u64, word: usize) {
        // A load whose value nobody waits for fetches its line beside the next one.
        let _ = self.word(bucket, word);
    }

    #[inline(always)]
    fn header(&self) -> Option<*mut u64> {
        // A load less than to ask the table itself.
        Some(HEADERS.get_ptr_mut(self.0)?.cast())
    }
}

/// The tally of a slot.
#[inline(always)]
pub(crate) fn tally(counter: SlotCounter, direction: Direction) -> Option<Word> {
    let (bucket, place) = counter.bucket();
    let bucket = Stage(counter.generation).bucket(bucket)?;
    // SAFETY: `place` is below 8, so the word is one of the bucket's 24.
    Some(unsafe { Word::new(bucket.add(tally::word(direction, place))) })
}

/// The key of a slot.
#[inline(always)]
pub(crate) fn key_of_slot(counter: SlotCounter) -> Option<u64> {
    key_at(&Stage(counter.generation), counter.slot)
}

/// Not on the stack: a program and what it calls have half a kilobyte together, and clearing memory
/// is such a call.
static NOTHING: PrefixCounters = PrefixCounters {
    to_packets: 0,
    to_bytes: 0,
    from_packets: 0,
    from_bytes: 0,
};

/// What has been carried from the tallies of a key; made if need be.
#[inline(always)]
pub(crate) fn carried(key: u64) -> Option<*mut PrefixCounters> {
    if let Some(there) = CARRIED.get_ptr_mut(key) {
        return Some(there);
    }
    // Another CPU may be quicker.
    #[expect(
        clippy::needless_borrows_for_generic_args,
        reason = "a copy of it would lie on the stack"
    )]
    let _ = CARRIED.insert(key, &NOTHING, BPF_NOEXIST.into());
    CARRIED.get_ptr_mut(key)
}

/// The port with this interface index.
#[inline(always)]
pub(crate) fn port(ifindex: u32) -> Option<Port> {
    let first = PORTS.get(port_place(ifindex, 0))?;
    if first.ifindex == ifindex {
        return Some(first.port);
    }
    PORTS
        .get(other_place(ifindex).wrapping_sub(1))
        .map(|place| place.port)
}

/// Where else the port is, and one; 0 when there is none. A global function for the reasons of
/// [`member_is_on`].
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn other_place(ifindex: u32) -> u32 {
    let mut attempt = 1;
    while attempt < PORT_TRIES {
        let index = port_place(ifindex, attempt);
        if PORTS
            .get(index)
            .is_some_and(|place| place.ifindex == ifindex)
        {
            return index + 1;
        }
        attempt += 1;
    }
    0
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
    core::hint::black_box((
        &raw const RIB,
        &raw const COUNTER_IDS,
        &raw const INSIDE,
        &raw const KEPT,
    ));
}
