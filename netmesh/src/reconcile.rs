//! Observe, compare, execute, once: what `apply`, `plan` and `destroy` share.

mod error;
mod lock;
mod mirror;
mod record;
mod table;

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv6Addr, SocketAddrV6, UdpSocket};
use std::time::{Duration, Instant};

use netmesh_common::table::Origin;

use crate::dataplane::pin::{Folder, NamespaceId};
use crate::dataplane::{self, Instance};
use crate::kernel::observe::Query;
use crate::kernel::{self, Kernel, netns};
use crate::plan::conflict::conflicts;
use crate::plan::diff::diff;
use crate::plan::facts::NamespaceFacts;
use crate::plan::state::{Link, LinkKind, LinkName, Namespace, NamespaceState, State};
use crate::plan::step::Step;
use crate::wireguard::key::KeyStore;
use crate::wireguard::{self, device, userspace};

pub use error::Error;
pub use lock::Lock;
pub use mirror::{Mirrored, mirror};
pub use record::{Applied, NETWORKS, NODE_FILE, Pending, Record, Snapshot, now};

/// Name of a router's instance.
pub const ROUTER_INSTANCE: &str = "router";

/// Name of an instance made by hand.
pub const BY_HAND: &str = "ports";

/// How long what is being removed may hold on to a UDP port.
const GONE: Duration = Duration::from_secs(30);

/// Which WireGuard a node runs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Implementation {
    /// The kernel's where it is there, else the embedded one.
    #[default]
    Auto,
    /// The kernel's or none.
    Kernel,
    /// The embedded one.
    Embedded,
    /// Another program.
    Program(String),
}

/// Everything that changes one node.
#[derive(Debug)]
pub struct Reconciler {
    kernel: Kernel,
    node: String,
    namespace_prefix: String,
    keys: KeyStore,
    wireguard: Implementation,
}

impl Reconciler {
    /// For the node this process lives in.
    #[must_use]
    pub fn new(
        node: &str,
        namespace_prefix: &str,
        keys: KeyStore,
        wireguard: Implementation,
    ) -> Self {
        Self {
            kernel: Kernel::default(),
            node: node.to_owned(),
            namespace_prefix: namespace_prefix.to_owned(),
            keys,
            wireguard,
        }
    }

    /// What the node is. `reference` tells which foreign links, addresses and sysctls are of
    /// interest: the state the objects ask for.
    ///
    /// # Errors
    /// When the machine cannot be read.
    pub async fn observe(&mut self, reference: &State) -> Result<State, Error> {
        let mut query = Query {
            node: self.node.clone(),
            namespace_prefix: self.namespace_prefix.clone(),
            ..Query::default()
        };
        for (namespace, wanted) in &reference.namespaces {
            let paths = wanted.sysctls.keys().cloned().collect();
            query.sysctls.insert(namespace.clone(), paths);
            let routes = wanted.routes.keys().copied().collect();
            query.routes.insert(namespace.clone(), routes);
        }
        if let Some(node) = reference.namespaces.get(&Namespace::Node) {
            query.foreign = foreign(node);
        }
        let mut state = self.kernel.observe(&query).await?;
        for (namespace, seen) in &mut state.namespaces {
            for (name, link) in &seen.links {
                if link.kind == LinkKind::Wireguard
                    && let Some(device) = netns::run_in(namespace, || device::observe(name))??
                {
                    seen.wireguard.insert(name.clone(), device);
                }
            }
            // Born, which is here, and not yet marked: the process that serves it tells whose it is.
            if *namespace == Namespace::Node {
                seen.foreign
                    .links
                    .retain(|name| userspace::find(name).is_none());
            }
            let facts = self.kernel.facts(namespace).await?;
            let table = table::observe(namespace, &facts)?;
            seen.instance = table.instance;
            // What keeps the next hops of other routes resolved is not the objects' to remove.
            for neighbour in table.others {
                if seen.neighbours.remove(&neighbour) {
                    seen.foreign.neighbours.insert(neighbour);
                }
            }
        }
        Ok(state)
    }

    /// The steps to the desired state, after checking that they can be taken at all.
    ///
    /// # Errors
    /// When the machine cannot be read, a key is missing, an interface is not there, or something
    /// of somebody else's is in the way.
    pub async fn plan(&mut self, desired: &State) -> Result<Vec<Step>, Error> {
        self.check(desired).await?;
        let observed = self.observe(desired).await?;
        let conflicts = conflicts(&observed, desired);
        if !conflicts.is_empty() {
            return Err(Error::Conflicts(conflicts));
        }
        Ok(diff(&observed, desired))
    }

    /// The steps that remove everything of ours that `keep` does not hold. `reference` is what the
    /// objects ask for: it tells which addresses on foreign links are ours.
    ///
    /// # Errors
    /// When the machine cannot be read.
    pub async fn plan_removal(
        &mut self,
        reference: &State,
        keep: &State,
    ) -> Result<Vec<Step>, Error> {
        let observed = self.observe(reference).await?;
        Ok(diff(&observed, keep))
    }

    /// Takes the steps in order; `told` hears of each before it is taken.
    ///
    /// # Errors
    /// At the first step that fails. What was done stays; the next apply goes on from there.
    pub async fn execute(
        &mut self,
        steps: &[Step],
        mut told: impl FnMut(usize, &Step),
    ) -> Result<(), Error> {
        let total = steps.len();
        let mut done = 0;
        while let Some(step) = steps.get(done) {
            let batch = batch(&steps[done..]);
            if batch == 0 {
                told(done, step);
                self.one(step)
                    .await
                    .map_err(|source| failed(done, total, step, source))?;
                done += 1;
                continue;
            }
            let namespace = step.namespace();
            let facts = self.kernel.facts(namespace).await?;
            let id = identity(namespace)?;
            let group = &steps[done..done + batch];
            for (i, step) in group.iter().enumerate() {
                told(done + i, step);
            }
            netns::run_in(namespace, || dataplane_steps(group, id, &facts))?
                .map_err(|(i, source)| failed(done + i, total, &group[i], source))?;
            done += batch;
        }
        wake(steps)
    }

    /// Brings what follows the kernel rather than the objects up to date in every instance: the
    /// node's own addresses, resolved neighbours, leftovers of a writer that died.
    ///
    /// # Errors
    /// When a map or the kernel cannot be read or written.
    pub async fn refresh(&mut self, desired: &State) -> Result<(), Error> {
        for (namespace, wanted) in &desired.namespaces {
            if wanted.instance.is_some() {
                refresh_instance(&mut self.kernel, namespace).await?;
            }
        }
        self.discard_dead()
    }

    /// Removes the pins of resources whose namespace is gone: removed by hand, or together with
    /// the machine it was on. An instance of ours is named after its namespace.
    fn discard_dead(&self) -> Result<(), Error> {
        for folder in Folder::list()? {
            if !folder.name.starts_with(&self.namespace_prefix) {
                continue;
            }
            let namespace = Namespace::Named(folder.name.clone());
            let lives = match netns::identity(&namespace) {
                Ok((cookie, _)) => cookie == folder.cookie,
                // Being made, or being removed: whoever does it looks after it.
                Err(_) => netns::path(&namespace).exists(),
            };
            if !lives {
                tracing::info!("discarding the data plane of {namespace}, which is gone");
                folder.discard()?;
            }
        }
        Ok(())
    }

    /// The kernel access, for read-outs.
    pub const fn kernel(&mut self) -> &mut Kernel {
        &mut self.kernel
    }

    /// Everything a plan needs that is not on the machine's network: keys and interfaces.
    async fn check(&mut self, desired: &State) -> Result<(), Error> {
        for wanted in desired.namespaces.values() {
            for device in wanted.wireguard.values() {
                let (Some((network, resource)), Some(expected)) =
                    (&device.key_of, &device.public_key)
                else {
                    continue;
                };
                let found = self.keys.public(network, resource)?;
                if found != *expected {
                    return Err(wireguard::Error::OtherKey {
                        network: network.clone(),
                        resource: resource.clone(),
                        found: found.0,
                        expected: expected.0.clone(),
                    }
                    .into());
                }
            }
        }
        let Some(node) = desired.namespaces.get(&Namespace::Node) else {
            return Ok(());
        };
        for name in foreign(node) {
            if !self.kernel.has_link(&Namespace::Node, &name).await? {
                return Err(Error::NoInterface { name });
            }
        }
        Ok(())
    }

    async fn one(&mut self, step: &Step) -> Result<(), Error> {
        match step {
            Step::AddWireguard {
                namespace,
                name,
                link,
            } => self.add_wireguard(namespace, name, link).await,
            Step::SetLink {
                namespace,
                name,
                link,
            } if link.kind == LinkKind::Wireguard => self.take_up(namespace, name, link).await,
            Step::DeleteWireguard { namespace, name } => {
                userspace::stop(name)?;
                Ok(self.kernel.remove_named(namespace, name).await?)
            }
            Step::SetDevice {
                namespace,
                name,
                key_of: (network, resource),
                listen_port,
            } => {
                let key = self.keys.private(network, resource)?;
                if let Some(port) = listen_port
                    && userspace::find(name).is_some()
                    && device::observe(name)?.and_then(|seen| seen.listen_port) != Some(*port)
                {
                    userspace::check_port(name, *port)?;
                }
                let begun = Instant::now();
                let deadline = begun + GONE;
                let mut told = false;
                // The kernel logs an error for every attempt.
                let mut pause = Duration::from_millis(20);
                loop {
                    let set =
                        netns::run_in(namespace, || device::set_device(name, &key, *listen_port))?;
                    match set {
                        // A namespace that was removed lets go of its devices' ports only later
                        // (`cleanup_net`).
                        Err(error) if error.is_address_in_use() && Instant::now() < deadline => {
                            if !told && begun.elapsed() > Duration::from_secs(1) {
                                told = true;
                                tracing::info!(
                                    "{name}: its UDP port is in use; it is waited for, up to {GONE:?}"
                                );
                            }
                            tokio::time::sleep(pause).await;
                            pause = (2 * pause).min(Duration::from_millis(500));
                        }
                        set => return Ok(set?),
                    }
                }
            }
            Step::PutPeer {
                namespace,
                name,
                peer,
                endpoint,
                config,
            } => Ok(netns::run_in(namespace, || {
                device::put_peer(name, peer, *endpoint, config)
            })??),
            Step::DeletePeer {
                namespace,
                name,
                peer,
            } => Ok(netns::run_in(namespace, || {
                device::delete_peer(name, peer)
            })??),
            kernel => Ok(self.kernel.execute(kernel, &self.node).await?),
        }
    }

    /// Born in the node's namespace, where its socket stays; marked there, so that a crash before
    /// the move leaves something recognisable; then moved.
    async fn add_wireguard(
        &mut self,
        namespace: &Namespace,
        name: &str,
        link: &Link,
    ) -> Result<(), Error> {
        if !self.kernel.has_link(namespace, name).await? {
            if !self.kernel.has_link(&Namespace::Node, name).await? {
                self.make_wireguard(name).await?;
            }
            self.kernel.mark_link(name, link).await?;
            self.kernel.move_link(name, namespace).await?;
        }
        self.take_up(namespace, name, link).await
    }

    /// Before it comes up for the first time, and whoever was killed before that.
    async fn take_up(
        &mut self,
        namespace: &Namespace,
        name: &str,
        link: &Link,
    ) -> Result<(), Error> {
        self.kernel.forbid_own_address(namespace, name)?;
        Ok(self.kernel.set_link(namespace, name, link).await?)
    }

    async fn make_wireguard(&mut self, name: &str) -> Result<(), Error> {
        // A process whose device is in neither namespace has lost it: somebody removed the
        // namespace under it.
        userspace::stop(name)?;
        match &self.wireguard {
            Implementation::Kernel => self.kernel.add_wireguard(name).await?,
            Implementation::Auto => {
                if self.kernel.add_wireguard(name).await.is_err() {
                    userspace::start(name, None)?;
                }
            }
            Implementation::Embedded => userspace::start(name, None)?,
            Implementation::Program(program) => userspace::start(name, Some(program))?,
        }
        Ok(())
    }
}

/// Says a word to every peer that can be reached and was just set up. A hidden resource is heard
/// of only once it has spoken; and a peer that still holds a session with what was here before
/// would go on sending into it for 15 s (whitepaper section 6.5) until it tries anew.
fn wake(steps: &[Step]) -> Result<(), Error> {
    for step in steps {
        let Step::PutPeer {
            namespace,
            name,
            config,
            ..
        } = step
        else {
            continue;
        };
        if config.endpoint.is_none() {
            continue;
        }
        let link_locals = config
            .allowed_ips
            .iter()
            .filter_map(|net| match net.addr() {
                IpAddr::V6(address) if net.prefix_len() == 128 => Some(address),
                _ => None,
            });
        for address in link_locals {
            let sent = netns::run_in(namespace, || -> std::io::Result<usize> {
                let scope = nix::net::if_::if_nametoindex(name.as_str())?;
                // The discard port: nobody listens, the handshake is what counts.
                let to = SocketAddrV6::new(address, 9, 0, scope);
                UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0))?.send_to(&[0], to)
            })?;
            if let Err(error) = sent {
                tracing::debug!("{name}: no first word to {address}: {error}");
            }
        }
    }
    Ok(())
}

/// Brings the instance of one namespace up to date with the kernel.
///
/// # Errors
/// When a map or the kernel cannot be read or written.
pub async fn refresh_instance(kernel: &mut Kernel, namespace: &Namespace) -> Result<(), Error> {
    let facts = kernel.facts(namespace).await?;
    let id = identity(namespace)?;
    Ok(netns::run_in(namespace, || match Instance::open(id)? {
        Some(mut instance) => {
            instance.set_connected(&facts)?;
            instance.repair(&facts)
        }
        None => Ok(()),
    })??)
}

/// What names a namespace for the data plane.
///
/// # Errors
/// When it is not there.
pub fn identity(namespace: &Namespace) -> Result<NamespaceId, Error> {
    let (cookie, inode) = netns::identity(namespace)?;
    Ok(NamespaceId { cookie, inode })
}

/// The interface names of foreign links in a namespace.
fn foreign(state: &NamespaceState) -> BTreeSet<LinkName> {
    let foreign = state
        .links
        .iter()
        .filter(|(_, link)| link.kind == LinkKind::Foreign);
    foreign.map(|(name, _)| name.clone()).collect()
}

/// How many of the first steps are the data plane's and of one namespace: they share one opening
/// of its tables.
fn batch(steps: &[Step]) -> usize {
    let Some(first) = steps.first() else { return 0 };
    steps
        .iter()
        .take_while(|step| is_dataplane(step) && step.namespace() == first.namespace())
        .count()
}

const fn is_dataplane(step: &Step) -> bool {
    matches!(
        step,
        Step::AddInstance { .. }
            | Step::DeleteInstance { .. }
            | Step::PutPort { .. }
            | Step::DeletePort { .. }
            | Step::PutFib { .. }
            | Step::DeleteFib { .. }
    )
}

/// Takes the steps of one namespace; an error names the step by its place.
fn dataplane_steps(
    steps: &[Step],
    id: NamespaceId,
    facts: &NamespaceFacts,
) -> Result<(), (usize, Error)> {
    let mut instance = Instance::open(id).map_err(|error| (0, error.into()))?;
    for (i, step) in steps.iter().enumerate() {
        dataplane_step(step, id, facts, &mut instance).map_err(|error| (i, error))?;
    }
    Ok(())
}

fn dataplane_step(
    step: &Step,
    id: NamespaceId,
    facts: &NamespaceFacts,
    open: &mut Option<Instance>,
) -> Result<(), Error> {
    match step {
        Step::AddInstance {
            namespace,
            instance,
        } => {
            if let Some(found) = open.as_ref().filter(|found| found.name() != instance) {
                let (namespace, found) = (namespace.clone(), found.name().to_owned());
                return Err(Error::OtherInstance { namespace, found });
            }
            if open.is_none() {
                *open = Some(Instance::create(instance, id)?);
            }
            // The node's own addresses first: a port that comes up must know them.
            if let Some(instance) = open {
                instance.set_connected(facts)?;
            }
        }
        Step::DeleteInstance { .. } => {
            if let Some(instance) = open.take() {
                instance.delete()?;
            }
        }
        Step::PutPort {
            instance,
            name,
            port,
            ..
        } => {
            loaded(open, instance)?.attach(name, port, facts)?;
        }
        Step::DeletePort { instance, name, .. } => loaded(open, instance)?.detach(name, facts)?,
        Step::PutFib {
            instance,
            destination,
            route,
            ..
        } => {
            loaded(open, instance)?.put_route(*destination, Origin::Object, route, facts)?;
        }
        Step::DeleteFib {
            instance,
            destination,
            ..
        } => match loaded(open, instance)?.remove_route(*destination, Origin::Object) {
            Ok(()) | Err(dataplane::Error::NoRoute { .. }) => {}
            Err(error) => return Err(error.into()),
        },
        other => return Err(kernel::Error::NotOurs(other.to_string()).into()),
    }
    Ok(())
}

fn loaded<'a>(
    open: &'a mut Option<Instance>,
    name: &str,
) -> Result<&'a mut Instance, dataplane::Error> {
    open.as_mut().ok_or_else(|| dataplane::Error::NoInstance {
        name: name.to_owned(),
    })
}

fn failed(done: usize, total: usize, step: &Step, source: Error) -> Error {
    Error::Step {
        number: done + 1,
        total,
        step: step.to_string(),
        source: Box::new(source),
    }
}
