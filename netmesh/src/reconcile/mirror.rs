//! The kernel's routes in the table of the data plane: whatever a routing daemon puts into the
//! kernel is forwarded fast. Of one prefix, what objects and operators ask for goes before it.

use std::collections::{BTreeMap, BTreeSet};

use netmesh_common::table::Origin;

use super::{Error, identity};
use crate::dataplane::{self, Instance};
use crate::kernel::{Kernel, netns};
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
/// When the kernel or a map cannot be read or written, or a table is full; what was changed stays.
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
            // Room first: a table that is full of what goes has room for what comes.
            for prefix in seen.keys().filter(|prefix| !wanted.contains_key(prefix)) {
                instance.remove_route(*prefix, Origin::Kernel)?;
                mirrored.removed += 1;
            }
            for (prefix, route) in &wanted {
                if seen.get(prefix) != Some(route) {
                    instance.put_route(*prefix, Origin::Kernel, route, &facts)?;
                    mirrored.put += 1;
                }
            }
            if mirrored != Mirrored::default() {
                instance.repair(&facts)?;
            }
            Ok(mirrored)
        },
    )??)
}
