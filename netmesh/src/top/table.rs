//! The four tables: their columns, and their lines as words.

use std::collections::BTreeMap;
use std::time::Duration;

use ipnet::IpNet;

use super::figure;
use super::filter::Filter;
use super::sample::{NEVER, PeerId, PortId, PrefixId, ReasonId, Sample};
use super::series::{Ranked, Series};
use crate::plan::state::PublicKey;

/// Which table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Tab {
    #[default]
    Prefixes,
    Ports,
    Reasons,
    Tunnels,
}

impl Tab {
    pub(super) const ALL: [Self; 4] = [Self::Prefixes, Self::Ports, Self::Reasons, Self::Tunnels];

    pub(super) const fn title(self) -> &'static str {
        match self {
            Self::Prefixes => "prefixes",
            Self::Ports => "ports",
            Self::Reasons => "reasons",
            Self::Tunnels => "tunnels",
        }
    }

    /// Columns of words, after that of the namespace.
    pub(super) const fn words(self) -> &'static [&'static str] {
        match self {
            Self::Prefixes => &["prefix", "network"],
            Self::Ports => &["port"],
            Self::Reasons => &["port", "outcome", "reason"],
            Self::Tunnels => &["tunnel", "peer"],
        }
    }

    /// Columns of figures.
    pub(super) const fn columns(self) -> &'static [Column] {
        use Figure::{Age, Bits, Bytes, Count, Rate};
        match self {
            Self::Prefixes => &[
                Column("pkt/s to", Rate(0)),
                Column("bit/s to", Bits(1)),
                Column("pkt/s from", Rate(2)),
                Column("bit/s from", Bits(3)),
                Column("pkts to", Count(0)),
                Column("bytes to", Bytes(1)),
                Column("pkts from", Count(2)),
                Column("bytes from", Bytes(3)),
            ],
            Self::Ports => &[
                Column("received/s", Rate(0)),
                Column("forwarded/s", Rate(1)),
                Column("bit/s", Bits(2)),
                Column("to kernel/s", Rate(3)),
                Column("dropped/s", Rate(4)),
                Column("lost/s", Rate(5)),
                Column("received", Count(0)),
                Column("forwarded", Count(1)),
            ],
            Self::Reasons => &[Column("pkt/s", Rate(0)), Column("packets", Count(0))],
            Self::Tunnels => &[
                Column("handshake", Age(2)),
                Column("bit/s rx", Bits(0)),
                Column("bit/s tx", Bits(1)),
                Column("received", Bytes(0)),
                Column("sent", Bytes(1)),
            ],
        }
    }

    /// The column a table is sorted by until somebody says otherwise.
    pub(super) const fn first_sort(self) -> Sort {
        let (column, rising) = match self {
            Self::Prefixes => (Some(1), false),
            Self::Ports => (None, true),
            Self::Reasons => (Some(0), false),
            Self::Tunnels => (Some(1), false),
        };
        Sort { column, rising }
    }
}

/// A title and what is below it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Column(pub(super) &'static str, pub(super) Figure);

/// What is made of a figure of the series.
#[derive(Clone, Copy, Debug)]
pub(super) enum Figure {
    /// Its rate.
    Rate(usize),
    /// Eight times its rate.
    Bits(usize),
    /// Itself, in packets.
    Count(usize),
    /// Itself, in bytes.
    Bytes(usize),
    /// Itself: seconds since something was.
    Age(usize),
}

/// What a table is sorted by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Sort {
    /// A column of figures; `None` is the order of names.
    pub(super) column: Option<usize>,
    pub(super) rising: bool,
}

/// What things are called.
#[derive(Clone, Debug, Default)]
pub(super) struct Names {
    pub(super) namespaces: Vec<String>,
    pub(super) networks: BTreeMap<IpNet, String>,
    pub(super) peers: BTreeMap<PublicKey, String>,
}

/// A line as it is shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Row {
    pub(super) words: Vec<String>,
    pub(super) figures: Vec<String>,
}

/// The rows of a table that are shown.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Shown {
    pub(super) rows: Vec<Row>,
    /// How many lines passed the filter.
    pub(super) passed: usize,
}

/// A key as words, the namespace first.
trait Words {
    fn words(&self, names: &Names) -> Vec<String>;
    fn prefix(&self) -> Option<IpNet> {
        None
    }
}

fn place(names: &Names, place: u16) -> String {
    let name = names.namespaces.get(usize::from(place));
    name.cloned().unwrap_or_default()
}

impl Words for PrefixId {
    fn words(&self, names: &Names) -> Vec<String> {
        let network = names.networks.get(&self.1).cloned().unwrap_or_default();
        vec![place(names, self.0), self.1.to_string(), network]
    }

    fn prefix(&self) -> Option<IpNet> {
        Some(self.1)
    }
}

impl Words for PortId {
    fn words(&self, names: &Names) -> Vec<String> {
        vec![place(names, self.0), self.1.clone()]
    }
}

impl Words for ReasonId {
    fn words(&self, names: &Names) -> Vec<String> {
        let (at, port, outcome, reason) = self;
        vec![
            place(names, *at),
            port.clone(),
            (*outcome).to_owned(),
            (*reason).to_owned(),
        ]
    }
}

impl Words for PeerId {
    fn words(&self, names: &Names) -> Vec<String> {
        let (at, device, key) = self;
        // One that is not ours is told from others by the start of its public key.
        let peer = names.peers.get(key).cloned();
        let peer = peer.unwrap_or_else(|| key.0.chars().take(8).collect());
        vec![place(names, *at), device.clone(), peer]
    }
}

/// What was counted, now and the moment before.
#[derive(Clone, Debug, Default)]
pub(super) struct Tables {
    pub(super) prefixes: Series<PrefixId, 4>,
    pub(super) ports: Series<PortId, 6>,
    pub(super) reasons: Series<ReasonId, 1>,
    pub(super) peers: Series<PeerId, 3>,
    /// Prefixes there are, also such that never counted anything.
    pub(super) counted: usize,
    /// How long the last reading took.
    pub(super) took: Duration,
}

impl Tables {
    /// Takes the next sample in, so many seconds after the one before.
    pub(super) fn advance(&mut self, sample: Sample, seconds: Option<f64>) {
        self.prefixes.advance(sample.prefixes, seconds);
        self.ports.advance(sample.ports, seconds);
        self.reasons.advance(sample.reasons, seconds);
        self.peers.advance(sample.peers, seconds);
        (self.counted, self.took) = (sample.counted, sample.took);
    }

    /// At most `most` rows of a table.
    pub(super) fn shown(
        &self,
        tab: Tab,
        sort: Sort,
        filter: &Filter,
        most: usize,
        names: &Names,
    ) -> Shown {
        match tab {
            Tab::Prefixes => rows(&self.prefixes, tab, sort, filter, most, names),
            Tab::Ports => rows(&self.ports, tab, sort, filter, most, names),
            Tab::Reasons => rows(&self.reasons, tab, sort, filter, most, names),
            Tab::Tunnels => rows(&self.peers, tab, sort, filter, most, names),
        }
    }
}

fn rows<K: Ord + Words, const N: usize>(
    series: &Series<K, N>,
    tab: Tab,
    sort: Sort,
    filter: &Filter,
    most: usize,
    names: &Names,
) -> Shown {
    let columns = tab.columns();
    let by = sort.column.and_then(|column| columns.get(column));
    let weight = |line: usize| match by {
        Some(Column(_, figure)) => value(series, line, *figure),
        None => line as f64,
    };
    let passes = |line: &super::series::Line<K, N>| {
        filter.passes(line.key.prefix(), || line.key.words(names))
    };
    let Ranked { places, passed } = series.ranked(most, sort.rising, passes, weight);
    let row = |line: usize| Row {
        words: series.lines[line].key.words(names),
        figures: columns
            .iter()
            .map(|Column(_, figure)| text(series, line, *figure))
            .collect(),
    };
    Shown {
        rows: places.into_iter().map(row).collect(),
        passed,
    }
}

/// What a column is sorted by.
fn value<K: Ord, const N: usize>(series: &Series<K, N>, line: usize, figure: Figure) -> f64 {
    match figure {
        Figure::Rate(i) | Figure::Bits(i) => series.rate(line, i).unwrap_or(0.0),
        Figure::Count(i) | Figure::Bytes(i) | Figure::Age(i) => series.lines[line].total[i] as f64,
    }
}

/// What a column shows.
fn text<K: Ord, const N: usize>(series: &Series<K, N>, line: usize, figure: Figure) -> String {
    let total = |i: usize| series.lines[line].total[i];
    match figure {
        Figure::Rate(i) => figure::rate(series.rate(line, i)),
        Figure::Bits(i) => figure::rate(series.rate(line, i).map(|bytes| 8.0 * bytes)),
        Figure::Count(i) => figure::count(total(i)),
        Figure::Bytes(i) => figure::bytes(total(i)),
        Figure::Age(i) => figure::age(Some(total(i)).filter(|age| *age != NEVER)),
    }
}
