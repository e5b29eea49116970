//! The plan's words for an instance: steps in, state out.

use netmesh_common::table::Origin;

use super::instance::View;
use super::pin::NamespaceId;
use super::{Error, Instance};
use crate::plan::facts::NamespaceFacts;
use crate::plan::state;
use crate::plan::step::Step;

impl View {
    /// The instance as the plan sees it: ports whose device is there, routes of origin `object`.
    ///
    /// A port or a next hop whose device is gone differs from any wish, so that the next apply
    /// makes it anew.
    ///
    /// # Errors
    /// When pins or maps cannot be read.
    pub fn observe(&self, facts: &NamespaceFacts) -> Result<state::Instance, Error> {
        let ports = self.ports(facts)?.into_iter();
        Ok(state::Instance {
            name: self.name().to_owned(),
            ports: ports
                .filter_map(|row| Some((row.name?, row.port)))
                .collect(),
            fib: self.routes_of(Origin::Object, facts)?,
        })
    }
}

/// Takes one step of the data plane in the calling thread's namespace.
///
/// `open` is the namespace's instance, opened on first use and kept by the caller for the steps
/// that follow. A step that finds its work done is fine.
///
/// # Errors
/// When the step is another room's, its instance is not loaded, or the work fails.
pub fn execute(
    step: &Step,
    namespace: NamespaceId,
    open: &mut Option<Instance>,
    facts: &NamespaceFacts,
) -> Result<(), Error> {
    match step {
        Step::AddInstance { instance, .. } => {
            if open.as_ref().is_none_or(|open| open.name() != instance) {
                *open = None; // Its lock would keep us out.
                *open = Some(Instance::create(instance, namespace)?);
            }
            Ok(())
        }
        Step::DeleteInstance { instance, .. } => match opened(open, namespace)? {
            Some(found) if found.name() == instance => open.take().map_or(Ok(()), Instance::delete),
            _ => Ok(()),
        },
        Step::PutPort {
            instance,
            name,
            port,
            ..
        } => named(open, namespace, instance)?.attach(name, *port, facts),
        Step::DeletePort { instance, name, .. } => {
            named(open, namespace, instance)?.detach(name, facts)
        }
        Step::PutFib {
            instance,
            destination,
            route,
            ..
        } => {
            named(open, namespace, instance)?.put_route(*destination, Origin::Object, route, facts)
        }
        Step::DeleteFib {
            instance,
            destination,
            ..
        } => match named(open, namespace, instance)?.remove_route(*destination, Origin::Object) {
            Err(Error::NoRoute { .. }) => Ok(()),
            other => other,
        },
        other => Err(Error::NotOurs {
            step: other.to_string(),
        }),
    }
}

fn opened(
    open: &mut Option<Instance>,
    namespace: NamespaceId,
) -> Result<Option<&mut Instance>, Error> {
    if open.is_none() {
        *open = Instance::open(namespace)?;
    }
    Ok(open.as_mut())
}

fn named<'a>(
    open: &'a mut Option<Instance>,
    namespace: NamespaceId,
    name: &str,
) -> Result<&'a mut Instance, Error> {
    opened(open, namespace)?
        .filter(|instance| instance.name() == name)
        .ok_or_else(|| Error::NoInstance {
            name: name.to_owned(),
        })
}
