//! What a namespace's data plane holds, as far as it is the objects'.

use std::collections::{BTreeMap, BTreeSet};

use netmesh_common::table::Origin;

use super::{Error, ROUTER_INSTANCE, identity};
use crate::dataplane::{self, View};
use crate::kernel::netns;
use crate::plan::facts::NamespaceFacts;
use crate::plan::state::{self, Namespace, Neighbour};

/// The data plane of a namespace.
#[derive(Debug, Default)]
pub(super) struct Table {
    /// Ports, and the routes of objects. In the node's own namespace only the router's instance is
    /// ours; one made by hand is not.
    pub(super) instance: Option<state::Instance>,
    /// Next hops of routes that are no object's.
    pub(super) others: BTreeSet<Neighbour>,
}

pub(super) fn observe(namespace: &Namespace, facts: &NamespaceFacts) -> Result<Table, Error> {
    let id = identity(namespace)?;
    let seen = netns::run_in(namespace, || -> Result<_, dataplane::Error> {
        let Some(instance) = View::open(id)? else {
            return Ok(Table::default());
        };
        let mut table = Table::default();
        let mut ours = state::Instance {
            name: instance.name().to_owned(),
            ports: BTreeMap::new(),
            fib: BTreeMap::new(),
        };
        for row in instance.routes(facts)? {
            if row.origin == Origin::Object {
                ours.fib.insert(row.prefix, row.route);
            } else {
                table.others.extend(row.route.neighbours());
            }
        }
        if *namespace != Namespace::Node || instance.name() == ROUTER_INSTANCE {
            let ports = instance.ports(facts)?.into_iter();
            ours.ports = ports
                .filter_map(|row| Some((row.name?, row.port)))
                .collect();
            table.instance = Some(ours);
        }
        Ok(table)
    })??;
    Ok(seen)
}
