//! Which of several exits a resource uses.
//!
//! WireGuard takes a packet only from the peer whose allowed IPs hold its source, and only one
//! peer of a device can hold the whole internet: a resource uses one exit, both ways. Several
//! exits share a network resource by resource.

use super::network::{Network, Resource};

impl Network {
    /// The exits that are used: those of the lowest priority.
    pub fn exits(&self) -> impl Iterator<Item = &Resource> {
        let priority = |resource: &Resource| resource.exit.map(|exit| exit.priority);
        let lowest = self.resources.iter().filter_map(priority).min();
        self.resources
            .iter()
            .filter(move |resource| lowest.is_some() && priority(resource) == lowest)
    }

    /// The exit a resource sends its default route to, one of [`exits`](Self::exits); an exit has
    /// none but itself.
    ///
    /// Drawn by weight from the two prefixes alone (rendezvous hashing, Thaler and Ravishankar
    /// 1998): the same on every node, and where an exit comes or goes only its own resources
    /// change.
    #[must_use]
    pub fn exit_for(&self, resource: &Resource) -> Option<&Resource> {
        if resource.exit.is_some() {
            return None;
        }
        let ticket = |exit: &Resource| {
            let weight = u64::from(exit.exit.map_or(1, |exit| exit.weight));
            let pair = mix(mix(prefix(resource)) ^ prefix(exit));
            (0..weight).map(|lot| mix(pair ^ lot)).max()
        };
        self.exits().max_by_key(|exit| (ticket(exit), prefix(exit)))
    }

    /// The exit through which packets from the internet reach a resource: its own, or itself.
    #[must_use]
    pub fn entrance_of<'a>(&'a self, resource: &'a Resource) -> Option<&'a Resource> {
        if resource.exit.is_some() {
            Some(resource)
        } else {
            self.exit_for(resource)
        }
    }
}

fn prefix(resource: &Resource) -> u64 {
    (u128::from(resource.prefix.net().network()) >> 64) as u64
}

/// The finalizer of SplitMix64 (Steele, Lea and Flood 2014).
const fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ value >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ value >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ value >> 31
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::network::parse_network;
    use super::*;

    /// Exits by name, priority and weight, and 2,000 resources.
    fn network(exits: &[(&str, u16, u16)]) -> Network {
        let mut text = String::from("network = \"a\"\nallocation = \"2a02:1802:5e::/48\"\n");
        let mut resource = |name: &str, index: usize, exit: &str| {
            text += &format!(
                "[[resource]]\nname = \"{name}\"\nnode = \"n\"\n\
                 prefix = \"2a02:1802:5e:{index:x}::/64\"\n\
                 public_key = \"AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=\"\n{exit}"
            );
        };
        for (name, priority, weight) in exits {
            let index = 1 + usize::from(name.as_bytes()[0]);
            let exit = format!("exit = {{ priority = {priority}, weight = {weight} }}\n");
            resource(name, index, &exit);
        }
        for n in 0..2000 {
            resource(&format!("r{n}"), 0x1000 + n, "");
        }
        parse_network("a.toml", &text).unwrap()
    }

    fn uses(network: &Network) -> BTreeMap<String, String> {
        let resources = network.resources.iter();
        resources
            .filter_map(|resource| {
                let exit = network.exit_for(resource)?;
                Some((resource.name.to_string(), exit.name.to_string()))
            })
            .collect()
    }

    fn share(uses: &BTreeMap<String, String>, exit: &str) -> usize {
        uses.values().filter(|used| *used == exit).count()
    }

    #[test]
    fn the_lowest_priority_is_used_by_weight() {
        let uses = uses(&network(&[("b", 10, 3), ("c", 10, 1), ("d", 20, 200)]));
        let (b, c) = (share(&uses, "b"), share(&uses, "c"));
        assert_eq!(b + c, 2000, "nobody uses the one in reserve");
        // Four standard deviations around 1500.
        assert!((1423..1577).contains(&b), "{b}");
    }

    #[test]
    fn only_the_resources_of_an_exit_that_goes_change() {
        let before = uses(&network(&[("b", 10, 2), ("c", 10, 1), ("d", 10, 1)]));
        let after = uses(&network(&[("b", 10, 2), ("c", 10, 1)]));
        for (resource, exit) in &before {
            if exit != "d" {
                assert_eq!(&after[resource], exit, "{resource}");
            }
        }
        assert!(share(&before, "d") > 400);
        assert!(share(&after, "c") > share(&before, "c") + 100);
    }

    #[test]
    fn an_exit_is_reached_by_itself_whatever_its_priority() {
        let network = network(&[("b", 10, 1), ("d", 20, 1)]);
        for exit in &network.resources[..2] {
            assert_eq!(network.entrance_of(exit), Some(exit));
            assert_eq!(network.exit_for(exit), None);
        }
        let other = &network.resources[2];
        assert_eq!(network.entrance_of(other), network.exit_for(other));
    }
}
