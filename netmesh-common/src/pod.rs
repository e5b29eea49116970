//! The map types as plain bytes for the user-space side.

use crate::group::Group;
use crate::lines::Bucket;
use crate::table::{
    FibEntry, NeighbourKey, NeighbourLayout, NextHop, Port, PortCounters, PortPlace,
    PrefixCounters, PrefixKey, RibEntry, RibKey,
};
use crate::trace::TraceFilter;

macro_rules! pod {
    ($($name:ident)+) => {$(
        // SAFETY: `repr(C)`, `Copy`, without padding (const asserts in `table`), any bit pattern
        // is a value.
        unsafe impl aya::Pod for $name {}
    )+};
}

pod!(Bucket FibEntry Group NeighbourKey NeighbourLayout NextHop Port PortCounters PortPlace PrefixCounters PrefixKey RibEntry RibKey TraceFilter);
