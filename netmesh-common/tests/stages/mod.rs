//! The two stages in this process's memory, and the slow, obvious longest-prefix match.
#![expect(clippy::unwrap_used, reason = "helpers of a test")]

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering, fence};
use std::sync::{Arc, RwLock};

use netmesh_common::class::Address;
use netmesh_common::lines::{
    self, Backing, Class, MAX_CLASSES, Memory, Note, Place, Shape, Table, WORDS, key_of, place,
    prefix_of,
};
use netmesh_common::table::{FibEntry, PrefixKey};

/// Zeroed memory for a table.
pub(crate) fn memory(shape: &Shape) -> Vec<AtomicU64> {
    let words = shape.buckets() as usize * WORDS;
    (0..words).map(|_| AtomicU64::new(0)).collect()
}

/// Prefixes that lie inside each other in every way.
pub(crate) fn universe() -> Vec<PrefixKey> {
    let mut prefixes = Vec::new();
    let mut add = |text: &str| {
        let (address, length) = text.split_once('/').unwrap();
        let (address, family) = bytes(address);
        let length = length.parse().unwrap();
        prefixes.push(PrefixKey {
            address,
            family,
            length,
            reserved: [0; 2],
        });
    };
    for text in [
        "::/0",
        "2a02::/16",
        "2a02:1800::/24",
        "2a02:18aa::/40",
        "2a02:18aa:1::/48",
    ] {
        add(text);
    }
    for text in ["0.0.0.0/0", "10.0.0.0/8", "10.1.0.0/16", "10.1.2.0/23"] {
        add(text);
    }
    for n in 0..6 {
        add(&format!("2a02:18aa:1:{n}::/64"));
        add(&format!("2a02:18aa:1:{n}:8000::/65"));
        add(&format!("2a02:18aa:1:{n}::1/128"));
        add(&format!("10.1.{n}.0/24"));
        add(&format!("10.1.{n}.128/25"));
        add(&format!("10.1.{n}.1/32"));
    }
    add("2a02:18aa:1:8::/61");
    prefixes
}

/// Addresses in and beside them.
pub(crate) fn probes() -> Vec<Address> {
    let mut probes = Vec::new();
    let mut add = |text: &str| {
        let address: IpAddr = text.parse().unwrap();
        probes.push(address.into());
    };
    for n in [0, 1, 3, 5, 6, 9] {
        for rest in [":", ":1", ":2", "8000::1"] {
            add(&format!("2a02:18aa:1:{n}:{rest}"));
        }
        for rest in [0, 1, 2, 129] {
            add(&format!("10.1.{n}.{rest}"));
        }
    }
    for text in [
        "2a02:18aa:2::1",
        "2a02:1900::1",
        "2a03::1",
        "10.2.0.1",
        "11.0.0.1",
        "ff02::1",
    ] {
        add(text);
    }
    probes
}

fn bytes(text: &str) -> ([u8; 16], u8) {
    match text.parse().unwrap() {
        IpAddr::V6(a) => (a.octets(), 6),
        IpAddr::V4(a) => {
            let mut bytes = [0; 16];
            bytes[..4].copy_from_slice(&a.octets());
            (bytes, 4)
        }
    }
}

/// Length and next hop of the longest prefix that matches.
fn longest<T>(table: &BTreeMap<PrefixKey, T>, address: &Address) -> Option<(PrefixKey, T)>
where
    T: Copy,
{
    let (address, family) = bytes(&IpAddr::from(*address).to_string());
    let bit = |bytes: &[u8; 16], n: usize| bytes[n / 8] & (0x80 >> (n % 8)) != 0;
    table
        .iter()
        .filter(|(prefix, _)| {
            let same = |n| bit(&prefix.address, n) == bit(&address, n);
            prefix.family == family && (0..usize::from(prefix.length)).all(same)
        })
        .max_by_key(|(prefix, _)| prefix.length)
        .map(|(prefix, value)| (*prefix, *value))
}

/// What ought to be there.
#[derive(Clone, Default)]
pub(crate) struct Model(BTreeMap<PrefixKey, u32>);

impl Model {
    pub(crate) fn lookup(&self, address: &Address) -> Option<(u8, u32)> {
        longest(&self.0, address).map(|(prefix, next_hop)| (prefix.length, next_hop))
    }

    /// What the other prefixes say than the one of its key, and whether that is there.
    pub(crate) fn second(&self, address: &Address) -> (Option<(u8, u32)>, bool) {
        let mut others = self.clone();
        let exact = key_of(address).and_then(|key| others.remove(&prefix_of(key)));
        (others.lookup(address), exact.is_some())
    }
}

impl Deref for Model {
    type Target = BTreeMap<PrefixKey, u32>;

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl DerefMut for Model {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.0
    }
}

/// What readers see.
pub(crate) struct Shared {
    tables: [RwLock<Arc<Vec<AtomicU64>>>; 2],
    active: AtomicUsize,
    classes: Vec<AtomicU64>,
    trie: RwLock<BTreeMap<PrefixKey, FibEntry>>,
    /// Of each reader: odd while it asks.
    asking: [AtomicU64; READERS],
}

/// Readers that a writer may have to wait for.
pub(crate) const READERS: usize = 2;

impl Shared {
    /// As [`lookup`](Self::lookup), by a reader that writers wait for.
    pub(crate) fn lookup_as(&self, reader: usize, address: &Address) -> Option<FibEntry> {
        self.asking[reader].fetch_add(1, Ordering::SeqCst);
        let found = self.lookup(address);
        self.asking[reader].fetch_add(1, Ordering::SeqCst);
        found
    }

    /// Every reader that asks now has ended.
    fn wait_for_readers(&self) {
        // What has been written before is seen by whoever begins from here on.
        fence(Ordering::SeqCst);
        for reader in &self.asking {
            let now = reader.load(Ordering::SeqCst);
            while now % 2 == 1 && reader.load(Ordering::SeqCst) == now {
                std::thread::yield_now();
            }
        }
    }

    fn memory(&self) -> Arc<Vec<AtomicU64>> {
        let active = self.active.load(Ordering::SeqCst);
        self.tables[active].read().unwrap().clone()
    }

    /// As the programs do it.
    pub(crate) fn lookup(&self, address: &Address) -> Option<FibEntry> {
        let (family, key) = match address {
            Address::V6(..) => (6, key_of(address)),
            Address::V4(_) => (4, key_of(address)),
        };
        let memory = self.memory();
        if let Some(hit) = key.and_then(|key| Memory(&memory).find(key)) {
            let word = self.classes[hit.class as usize].load(Ordering::SeqCst);
            return Class::from_word(word).map(|class| class.entry(family, hit.slot));
        }
        let trie = self.trie.read().unwrap();
        longest(&trie, address).map(|(_, entry)| entry)
    }
}

/// A writer's view. Dies, if it is told to, before one of its changes.
pub(crate) struct Stages {
    pub(crate) shared: Arc<Shared>,
    memory: Arc<Vec<AtomicU64>>,
    notes: BTreeMap<u64, Note>,
    left: Vec<u64>,
    random: [u64; 4],
    /// Classes there may be.
    pub(crate) classes_fit: usize,
    /// Changes until the writer is killed.
    pub(crate) dies_after: Option<usize>,
    /// Asked at every call.
    pub(crate) watch: Option<Watch>,
}

type Watch = Box<dyn Fn(&Shared)>;

#[derive(Debug)]
pub(crate) struct Killed;

impl Stages {
    pub(crate) fn new(random: [u64; 4]) -> Self {
        let shape = Shape::for_entries(1, 1, random);
        let first = Arc::new(memory(&shape));
        Table::make(&first, shape).unwrap();
        let shared = Shared {
            tables: [RwLock::new(first.clone()), RwLock::new(first.clone())],
            active: AtomicUsize::new(0),
            classes: (0..MAX_CLASSES).map(|_| AtomicU64::new(0)).collect(),
            trie: RwLock::default(),
            asking: Default::default(),
        };
        Self {
            shared: Arc::new(shared),
            memory: first,
            notes: BTreeMap::new(),
            left: Vec::new(),
            random,
            classes_fit: usize::MAX,
            dies_after: None,
            watch: None,
        }
    }

    /// The prefix is in the one stage that should answer for it, and in no other.
    pub(crate) fn is_in_its_place(&self, prefix: &PrefixKey) -> bool {
        let trie = self.shared.trie.read().unwrap().contains_key(prefix);
        match place(prefix) {
            Place::Exact(key) => {
                let note = self.notes.get(&key).copied().unwrap_or_default();
                let first = Memory(&self.memory).find(key).is_some();
                first != trie && trie == note.itself && trie == (note.inside != 0)
            }
            _ => trie,
        }
    }

    /// Nothing is noted, and nothing is in the trie.
    pub(crate) fn is_bare(&self) -> bool {
        self.notes.is_empty() && self.shared.trie.read().unwrap().is_empty()
    }

    /// Takes out of the trie what stage 1 answers for by now.
    pub(crate) fn retire(&mut self) {
        self.shared.wait_for_readers();
        for key in std::mem::take(&mut self.left) {
            lines::retire(self, key).unwrap();
        }
    }

    /// Puts a new table, with other keys, in the place of the one that is there. One of so many
    /// prefixes finds no room in it.
    pub(crate) fn renew(&mut self, homeless: u64) {
        for word in &mut self.random {
            *word = word.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        }
        let shape = Shape::for_entries(1, 1, self.random);
        let new = Arc::new(memory(&shape));
        let table = Table::make(&new, shape).unwrap();
        let old = self.memory.clone();
        for entry in Table::open(&old).unwrap().entries() {
            let Some(index) = entry.class else {
                continue;
            };
            if entry.key % homeless != 0 {
                table.put(entry.key, index, entry.longer).unwrap();
            } else if !entry.longer {
                let class = self.class_at(index).unwrap();
                lines::copy_out(self, entry.key, class).unwrap();
            }
        }
        let noted: Vec<u64> = self.notes.keys().copied().collect();
        for key in noted {
            let there = Memory(&old).find(key).is_some();
            let entry = self.trie_get(&prefix_of(key)).unwrap();
            if let Some(entry) = entry
                && !there
                && self.notes[&key].inside == 0
                && let Some(index) = self.class(entry.class()).unwrap()
            {
                table.put(key, index, false).unwrap();
                self.left.push(key);
            }
        }
        let next = 1 - self.shared.active.load(Ordering::SeqCst);
        *self.shared.tables[next].write().unwrap() = new.clone();
        self.shared.active.store(next, Ordering::SeqCst);
        self.memory = new;
        self.shared.wait_for_readers();
    }

    /// What the next writer does when one was killed: see `renew_notes` of the data plane.
    pub(crate) fn mend(&mut self, model: &Model) {
        let mut inside = BTreeMap::<u64, u32>::new();
        for prefix in model.keys() {
            if let Place::Inside(key) = place(prefix)
                && self.trie_get(prefix).unwrap().is_some()
            {
                *inside.entry(key).or_default() += 1;
            }
        }
        for (key, note) in self.notes.clone() {
            let itself = note.itself && self.trie_get(&prefix_of(key)).unwrap().is_some();
            let inside = inside.remove(&key).unwrap_or(0);
            self.set_note(key, Note { inside, itself }).unwrap();
        }
        assert!(inside.is_empty(), "what is in the trie is noted");
        for (prefix, next_hop) in model.iter() {
            lines::publish(self, prefix, class(*next_hop)).unwrap();
        }
    }

    fn look(&self) {
        if let Some(watch) = &self.watch {
            watch(&self.shared);
        }
    }

    fn live(&mut self) -> Result<(), Killed> {
        self.look();
        match &mut self.dies_after {
            Some(0) => Err(Killed),
            Some(left) => {
                *left -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }
}

impl Backing for Stages {
    type Error = Killed;

    fn trie_get(&self, prefix: &PrefixKey) -> Result<Option<FibEntry>, Killed> {
        self.look();
        Ok(self.shared.trie.read().unwrap().get(prefix).copied())
    }

    fn trie_put(&mut self, prefix: &PrefixKey, entry: FibEntry) -> Result<(), Killed> {
        self.live()?;
        self.shared.trie.write().unwrap().insert(*prefix, entry);
        self.live()
    }

    fn trie_remove(&mut self, prefix: &PrefixKey) -> Result<(), Killed> {
        self.live()?;
        self.shared.trie.write().unwrap().remove(prefix);
        self.live()
    }

    fn note(&self, key: u64) -> Result<Note, Killed> {
        self.look();
        Ok(self.notes.get(&key).copied().unwrap_or_default())
    }

    fn set_note(&mut self, key: u64, note: Note) -> Result<(), Killed> {
        self.live()?;
        if note == Note::default() {
            self.notes.remove(&key);
        } else {
            self.notes.insert(key, Note::from_word(note.word()));
        }
        self.live()
    }

    fn table(&self) -> Option<Table<'_>> {
        self.look();
        Table::open(&self.memory)
    }

    fn class(&mut self, class: Class) -> Result<Option<u32>, Killed> {
        for (index, word) in self.shared.classes.iter().enumerate().skip(1) {
            if index > self.classes_fit {
                break;
            }
            match word.load(Ordering::SeqCst) {
                0 => word.store(class.word(), Ordering::SeqCst),
                known if known != class.word() => continue,
                _ => {}
            }
            return Ok(Some(index as u32));
        }
        Ok(None)
    }

    fn class_at(&self, index: u32) -> Option<Class> {
        Class::from_word(self.shared.classes[index as usize].load(Ordering::SeqCst))
    }

    fn grow(&mut self, _class: u32) -> Result<(), Killed> {
        Ok(())
    }

    fn counter(&mut self, _prefix: &PrefixKey, _origin: u8) -> Result<u32, Killed> {
        self.live()?;
        Ok(1)
    }

    fn leave(&mut self, key: u64) -> Result<(), Killed> {
        self.live()?;
        self.left.push(key);
        Ok(())
    }
}

/// A class of this next hop.
pub(crate) const fn class(next_hop: u32) -> Class {
    Class {
        next_hop,
        action: 1,
        origin: 3,
    }
}
