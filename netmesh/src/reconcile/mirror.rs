//! The kernel's routes in the table of the data plane: whatever a routing daemon puts into the
//! kernel is forwarded fast. Of one prefix, what objects and operators ask for goes before it.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;
use netmesh_common::table::Origin;

use super::{Error, identity};
use crate::dataplane::{self, Instance};
use crate::kernel::{Kernel, netns};
use crate::plan::facts::NamespaceFacts;
use crate::plan::state::Namespace;

/// What was changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mirrored {
    /// Routes that came or changed.
    pub put: usize,
    /// Routes that went.
    pub removed: usize,
}

/// Makes the routes of the kernel's origin those of the kernel's main table that have one of these
/// protocols; of none, they all go. A namespace without a data plane has nothing to be changed.
///
/// # Errors
/// When the kernel or a map cannot be read or written, or a table is full: then none is there.
pub async fn mirror(
    kernel: &mut Kernel,
    namespace: &Namespace,
    protocols: &BTreeSet<u8>,
) -> Result<Mirrored, Error> {
    let facts = kernel.facts(namespace).await?;
    let wanted = if protocols.is_empty() {
        BTreeMap::new()
    } else {
        kernel.mirror(namespace, protocols, &facts).await?
    };
    let id = identity(namespace)?;
    Ok(netns::run_in(
        namespace,
        || -> Result<_, dataplane::Error> {
            let mut mirrored = Mirrored::default();
            let Some(mut instance) = Instance::open(id)? else {
                return Ok(mirrored);
            };
            // The node's own addresses go before what the kernel's routes say of them.
            instance.set_connected(&facts)?;
            let seen = instance.routes_of(Origin::Kernel, &facts)?;
            // Whatever is there at any moment, no shorter prefix stands in for a longer one that is not
            // there yet, or no more: short ones go first and come last.
            let mut gone: Vec<_> = seen.keys().filter(|p| !wanted.contains_key(p)).collect();
            gone.sort_by_key(|prefix| prefix.prefix_len());
            for prefix in gone {
                instance.remove_route(*prefix, Origin::Kernel)?;
                mirrored.removed += 1;
            }
            let mut new: Vec<_> = wanted
                .iter()
                .filter(|(p, r)| seen.get(p) != Some(*r))
                .collect();
            new.sort_by_key(|(prefix, _)| Reverse(prefix.prefix_len()));
            for (prefix, route) in new {
                if let Err(error) = instance.put_route(*prefix, Origin::Kernel, route, &facts) {
                    // Half a table would forward wrongly; none leaves all to the kernel.
                    clear(&mut instance, &facts)?;
                    return Err(error);
                }
                mirrored.put += 1;
            }
            if mirrored != Mirrored::default() {
                instance.repair(&facts)?;
            }
            Ok(mirrored)
        },
    )??)
}

fn clear(instance: &mut Instance, facts: &NamespaceFacts) -> Result<(), dataplane::Error> {
    let all = instance.routes_of(Origin::Kernel, facts)?;
    let mut all: Vec<_> = all.into_keys().collect();
    all.sort_by_key(IpNet::prefix_len);
    for prefix in all {
        instance.remove_route(prefix, Origin::Kernel)?;
    }
    Ok(())
}
