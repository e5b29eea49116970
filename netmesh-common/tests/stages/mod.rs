//! The two stages in this process's memory, and the slow, obvious longest-prefix match.
#![expect(clippy::unwrap_used, reason = "helpers of a test")]

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, RwLock};

use netmesh_common::class::Address;
use netmesh_common::lines::{
    Backing, Class, MAX_CLASSES, Memory, Place, Shape, Table, WORDS, key_of, place,
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
}

impl Shared {
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
    inside: HashMap<u64, u32>,
    random: [u64; 4],
    /// Classes there may be.
    pub(crate) classes_fit: usize,
    /// Changes until the writer is killed.
    pub(crate) dies_after: Option<usize>,
}

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
        };
        Self {
            shared: Arc::new(shared),
            memory: first,
            inside: HashMap::new(),
            random,
            classes_fit: usize::MAX,
            dies_after: None,
        }
    }

    /// The prefix, if stage 1 could answer for it, is answered by stage 1.
    pub(crate) fn first_answers(&self, prefix: &PrefixKey) -> bool {
        match place(prefix) {
            Place::Exact(key) => {
                let longer = self.inside.get(&key).is_some_and(|count| *count != 0);
                Memory(&self.memory).find(key).is_some() != longer
            }
            _ => true,
        }
    }

    /// Puts a new table, with other keys, in the place of the one that is there.
    pub(crate) fn renew(&mut self) {
        for word in &mut self.random {
            *word = word.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        }
        let shape = Shape::for_entries(1, 1, self.random);
        let new = Arc::new(memory(&shape));
        let table = Table::make(&new, shape).unwrap();
        for entry in Table::open(&self.memory).unwrap().entries() {
            if let Some(class) = entry.class {
                table.put(entry.key, class, entry.longer).unwrap();
            }
        }
        let next = 1 - self.shared.active.load(Ordering::SeqCst);
        *self.shared.tables[next].write().unwrap() = new.clone();
        self.shared.active.store(next, Ordering::SeqCst);
        self.memory = new;
    }

    /// Counts anew what lies inside what.
    pub(crate) fn renew_notes(&mut self) {
        self.inside.clear();
        for prefix in self.shared.trie.read().unwrap().keys() {
            if let Place::Inside(key) = place(prefix) {
                *self.inside.entry(key).or_default() += 1;
            }
        }
    }

    fn live(&mut self) -> Result<(), Killed> {
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

    fn inside(&self, key: u64) -> Result<u32, Killed> {
        Ok(self.inside.get(&key).copied().unwrap_or(0))
    }

    fn set_inside(&mut self, key: u64, count: u32) -> Result<(), Killed> {
        self.live()?;
        self.inside.insert(key, count);
        self.live()
    }

    fn table(&self) -> Option<Table<'_>> {
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

    fn grow(&mut self, _class: u32) -> Result<(), Killed> {
        Ok(())
    }

    fn counter(&mut self, _prefix: &PrefixKey, _origin: u8) -> Result<u32, Killed> {
        self.live()?;
        Ok(1)
    }

    fn known_counter(&self, _prefix: &PrefixKey) -> Result<u32, Killed> {
        Ok(FibEntry::UNCOUNTED)
    }
}
