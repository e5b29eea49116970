//! The maps, private behind functions, and the table view the decision sees.

use aya_ebpf::bindings::{BPF_F_INNER_MAP, BPF_F_MMAPABLE, BPF_F_NO_PREALLOC, BPF_NOEXIST};
use aya_ebpf::btf_maps::{self, ArrayOfMaps};
use aya_ebpf::macros::{btf_map, map};
use aya_ebpf::maps::lpm_trie::{Key, LpmTrie};
use aya_ebpf::maps::{Array, DevMapHash, HashMap, PerCpuArray};
use netmesh_common::class::Address;
use netmesh_common::flow;
use netmesh_common::group::{Group, MAX_GROUPS};
use netmesh_common::intervals::{self, ASK, KEYS, PIECE, Tree};
use netmesh_common::lines::{
    Bucket, Buckets, Class, Direction, GENERATIONS, HEADER, MAX_CLASSES, SlotCounter, find, key_at,
    key_of, tally,
};
use netmesh_common::table::{
    FibEntry, MAX_MARTIANS, MAX_NEXT_HOPS, MAX_PORTS, NeighbourKey, NextHop, Port, PortCounters,
    PrefixCounters, PrefixKey, RibEntry, RibKey, martian_key, vlan_key,
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
static FIB6: LpmTrie<[u8; 16], FibEntry> = LpmTrie::with_max_entries(MAX_ROUTES, BPF_F_NO_PREALLOC);
#[map]
static FIB4: LpmTrie<[u8; 4], FibEntry> = LpmTrie::with_max_entries(MAX_ROUTES, BPF_F_NO_PREALLOC);
// Mapped by user space, which must change a link word only if the follower has not done so first.
/// A table of stage 1. Its size is chosen when it is made, so this one is that of no real one.
type Lines = btf_maps::Array<Bucket, 1, LINES_FLAGS>;
const LINES_FLAGS: usize = (BPF_F_MMAPABLE | BPF_F_INNER_MAP) as usize;

#[btf_map]
static TABLES: ArrayOfMaps<Lines, { GENERATIONS as usize }> = ArrayOfMaps::new();
/// The words of each table's header.
#[map]
static HEADERS: Array<[u64; HEADER]> = Array::with_max_entries(GENERATIONS, BPF_F_MMAPABLE);
/// Which of the tables is asked.
#[map]
static ACTIVE: Array<u64> = Array::with_max_entries(1, BPF_F_MMAPABLE);
#[map]
static CLASSES: Array<u64> = Array::with_max_entries(MAX_CLASSES, BPF_F_MMAPABLE);
/// A piece of the trees' memory. The kernel inlines the look-up of it: all are of one size.
type Piece = btf_maps::Array<[u64; PIECE as usize * KEYS], 1, { BPF_F_MMAPABLE as usize }>;

#[btf_map]
static PIECES: ArrayOfMaps<Piece, { (intervals::GENERATIONS * intervals::PIECES) as usize }> =
    ArrayOfMaps::new();
/// The header of each tree; behind them, which of them is asked, and one, or 0 for none.
#[map]
static TREES: Array<[u64; intervals::HEADER]> =
    Array::with_max_entries(intervals::GENERATIONS + 1, BPF_F_MMAPABLE);
/// What the tallies of stage 1 could not hold, by key.
#[map]
static CARRIED: HashMap<u64, PrefixCounters> =
    HashMap::with_max_entries(MAX_ROUTES / 4, BPF_F_NO_PREALLOC);
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
    FibEntry::from_word(entry_of(upper, lower, family | to << TO))
}

/// [`Group::leads_to`], 1 or 0. A global function for the reasons of [`entry_of`], as the next three:
/// what they go through would otherwise be gone through for each way that leads to them.
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
/// for the reasons of [`entry_of`].
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
///
/// A global function: the verifier looks through it once, and forgets which way it came back, so
/// that the ways of two look-ups do not multiply. It returns one word because such a function cannot
/// return more, and has its own room on the stack.
#[inline(never)]
#[unsafe(no_mangle)]
pub(crate) extern "C" fn entry_of(upper: u64, lower: u64, kind: u32) -> u64 {
    let (key, family) = match Address::of_halves(upper, lower, kind & 7) {
        address @ Address::V6(_) => (key_of(&address), 6),
        address @ Address::V4(_) => (key_of(&address), 4),
    };
    if let Some(key) = key {
        let found = first_hit(key, kind >> TO);
        if let Some(class) = CLASSES
            .get(found as u32)
            .copied()
            .and_then(Class::from_word)
        {
            return class.entry(family, (found >> 32) as u32).word();
        }
        let said = tree_hit(key);
        if said != ASK {
            return said;
        }
    }
    trie_hit(upper, lower, kind)
}

/// What the tree says of a key: a word, 0 for nothing, or that the trie is to be asked. A function
/// apart from [`trie_hit`], whose key leaves no room on the stack.
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn tree_hit(key: u64) -> u64 {
    Grown::valid().map_or(ASK, |tree| intervals::find(&tree, key))
}

/// What the trie says of an address, as a word; 0 for nothing.
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn trie_hit(upper: u64, lower: u64, kind: u32) -> u64 {
    second_stage(&Address::of_halves(upper, lower, kind & 7)).map_or(0, |entry| entry.word())
}

/// The tree that is asked.
struct Grown {
    header: *const u64,
    first: u32,
}

impl Grown {
    #[inline(always)]
    fn valid() -> Option<Self> {
        let valid: *const u64 = TREES.get_ptr(intervals::GENERATIONS)?.cast();
        // SAFETY: the map's own; a writer changes it as a whole.
        let valid = unsafe { valid.read_volatile() } as u32;
        if valid == 0 {
            return None;
        }
        let generation = valid.wrapping_sub(1) & (intervals::GENERATIONS - 1);
        Some(Self {
            header: TREES.get_ptr(generation)?.cast(),
            first: generation * intervals::PIECES,
        })
    }

    #[inline(always)]
    fn piece(&self, index: u32) -> Option<*const u64> {
        let place = (index / PIECE) & (intervals::PIECES - 1);
        Some(PIECES.get(self.first + place)?.get_ptr(0)?.cast())
    }
}

impl Tree for Grown {
    type Line = *const u64;

    #[inline(always)]
    fn header(&self, word: usize) -> u64 {
        // SAFETY: `word` is below `HEADER`, and the map lives as long as the program.
        unsafe { self.header.add(word).read_volatile() }
    }

    #[inline(always)]
    fn line(&self, index: u32) -> Option<*const u64> {
        // SAFETY: a line of the piece's.
        Some(unsafe {
            self.piece(index)?
                .add((index & (PIECE - 1)) as usize * KEYS)
        })
    }

    #[inline(always)]
    fn pair(&self, index: u32) -> Option<*const u64> {
        // SAFETY: a line of the piece's, and not the last.
        Some(unsafe {
            self.piece(index)?
                .add((index & (PIECE - 2)) as usize * KEYS)
        })
    }

    #[inline(always)]
    fn word(&self, line: &*const u64, word: usize) -> u64 {
        // SAFETY: `word` is below `KEYS`, or twice that of a pair. A tree that is asked is not changed.
        unsafe { line.add(word).read_volatile() }
    }
}

/// The trie: what stage 1 does not answer is here, and always current.
#[inline(always)]
pub(crate) fn second_stage(address: &Address) -> Option<FibEntry> {
    match address {
        Address::V6(a) => FIB6.get(Key::new(128, *a)).copied(),
        Address::V4(a) => FIB4.get(Key::new(32, *a)).copied(),
    }
}

/// Class and counter of a key, in the lower and the upper half; class 0 where stage 1 does not
/// answer. A global function for the reasons of [`entry_of`].
#[inline(never)]
#[unsafe(no_mangle)]
pub(crate) extern "C" fn first_hit(key: u64, to: u32) -> u64 {
    let direction = if to == 0 {
        Direction::From
    } else {
        Direction::To
    };
    let Some(generation) = ACTIVE.get(0) else {
        return 0;
    };
    let generation = *generation as u32 & (GENERATIONS - 1);
    let Some(hit) = stage(generation).and_then(|stage| find(&stage, key, direction)) else {
        return 0;
    };
    let counter = SlotCounter {
        generation,
        slot: hit.slot,
    };
    u64::from(hit.class) | u64::from(counter.counter()) << 32
}

/// A table that is there.
#[derive(Clone, Copy)]
pub(crate) struct Stage(&'static Lines, u32);

/// The table of a generation.
#[inline(always)]
pub(crate) fn stage(generation: u32) -> Option<Stage> {
    Some(Stage(TABLES.get(generation)?, generation))
}

impl Buckets for Stage {
    type Bucket = *const u64;

    #[inline(always)]
    fn bucket(&self, index: u32) -> Option<*const u64> {
        Some(self.0.get_ptr(index)?.cast())
    }

    #[inline(always)]
    fn word(&self, bucket: &*const u64, word: usize) -> u64 {
        // SAFETY: `word` is below `WORDS`, and the map lives as long as the program. A writer may
        // change the word meanwhile, but only as a whole.
        unsafe { bucket.add(word).read_volatile() }
    }

    #[inline(always)]
    fn touch(&self, bucket: &*const u64, word: usize) {
        // A load whose value nobody waits for fetches its line beside the next one.
        let _ = self.word(bucket, word);
    }

    #[inline(always)]
    fn header(&self) -> Option<*const u64> {
        // A call less than to ask the table itself.
        Some(HEADERS.get_ptr(self.1)?.cast())
    }
}

/// The tally of a slot.
#[inline(always)]
pub(crate) fn tally(counter: SlotCounter, direction: Direction) -> Option<Word> {
    let (bucket, place) = counter.bucket();
    let bucket = stage(counter.generation)?.0.get_ptr_mut(bucket)?;
    let bucket: *mut u64 = bucket.cast();
    // SAFETY: `place` is below 8, so the word is one of the bucket's 24.
    Some(unsafe { Word::new(bucket.add(tally::word(direction, place))) })
}

/// The key of a slot.
#[inline(always)]
pub(crate) fn key_of_slot(counter: SlotCounter) -> Option<u64> {
    key_at(&stage(counter.generation)?, counter.slot)
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
    core::hint::black_box((
        &raw const RIB,
        &raw const COUNTER_IDS,
        &raw const INSIDE,
        &raw const KEPT,
    ));
}
