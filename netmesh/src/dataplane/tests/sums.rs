//! Sums over all routes are those of the rows.

use std::collections::BTreeMap;

use netmesh_common::table::Origin;

use super::lab::{alone, facts, here, ip, veth};
use crate::dataplane::Instance;
use crate::dataplane::sums::RouteSums;
use crate::plan::facts::NamespaceFacts;
use crate::plan::state::FibRoute;

fn from_rows(instance: &Instance, facts: &NamespaceFacts) -> RouteSums {
    let mut sums = RouteSums::default();
    for row in instance.routes(facts).unwrap() {
        *sums.origins.entry(row.origin).or_default() += 1;
        sums.unresolved += u64::from(row.active && row.resolved == Some(false));
        if row.origin == Origin::Connected {
            sums.connected.insert(row.prefix);
        }
    }
    sums
}

#[test]
fn sums_of_routes_are_those_of_their_rows() {
    alone(|| {
        veth("one", "other");
        ip("address add 2001:db8:f::1/64 dev one nodad");
        ip("address add 10.15.0.1/24 dev one");
        ip("neigh add 2001:db8:f::2 dev one lladdr 02:00:00:00:00:02 nud permanent");
        let facts = facts();
        let mut instance = Instance::create("router", here()).unwrap();
        assert_eq!(instance.route_sums(&facts).unwrap(), RouteSums::default());
        instance.set_connected(&facts).unwrap();
        let via = |gateway: &str| FibRoute::Via {
            gateway: Some(gateway.parse().unwrap()),
            link: "one".to_owned(),
        };
        let (known, unknown) = (via("2001:db8:f::2"), via("2001:db8:f::99"));
        for (prefix, origin, route) in [
            ("2001:db8:1::/64", Origin::Object, &known),
            // Not in use.
            ("2001:db8:1::/64", Origin::Kernel, &unknown),
            ("2001:db8:2::/64", Origin::Static, &unknown),
            ("2001:db8:2::/64", Origin::Kernel, &known),
            ("2001:db8:3::/48", Origin::Static, &unknown),
            ("2001:db8:4::/64", Origin::Static, &FibRoute::Blackhole),
            ("10.16.0.0/24", Origin::Kernel, &via("10.15.0.9")),
        ] {
            let prefix = prefix.parse::<ipnet::IpNet>().unwrap().trunc();
            instance.put_route(prefix, origin, route, &facts).unwrap();
        }
        let sums = instance.route_sums(&facts).unwrap();
        assert_eq!(sums, from_rows(&instance, &facts));
        assert_eq!(sums.unresolved, 3);
        let of: BTreeMap<Origin, u64> = sums.origins;
        assert_eq!((of[&Origin::Static], of[&Origin::Kernel]), (3, 3));
    });
}
