//! The kernel's steps, executed. Each can be repeated: what a crash left half done is finished.

use std::os::fd::AsRawFd as _;

use netlink_packet_route::link::{InfoData, InfoVeth, LinkMessage, MacVlanMode};
use netlink_packet_route::neighbour::{
    NeighbourAttribute, NeighbourExtFlags, NeighbourFlags, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::route::RouteProtocol;
use rtnetlink::{LinkBridge, LinkMacVlan, LinkMessageBuilder, LinkUnspec, LinkVeth};

use super::link::UNFINISHED;
use super::observe::{is_virgin, mark};
use super::{Error, Kernel, netns, sysctl};
use crate::plan::state::{
    ALIAS_PREFIX, Link, LinkKind, MOVED_SUFFIX, Namespace, Neighbour, ROUTE_PROTOCOL,
};
use crate::plan::step::Step;

impl Kernel {
    /// Executes one step of the kernel's.
    ///
    /// # Errors
    /// When the kernel refuses it, or the step is another room's.
    pub async fn execute(&mut self, step: &Step, node: &str) -> Result<(), Error> {
        match step {
            Step::AddNamespace { namespace } => self.add_namespace(namespace, node).await,
            Step::DeleteNamespace { namespace } => {
                self.forget(namespace);
                netns::delete(namespace)
            }
            Step::SetSysctl {
                namespace,
                path,
                value,
                ..
            } => sysctl::write(namespace, path, value),
            Step::RestoreSysctl { path, .. } => sysctl::restore(path),
            Step::AddLink {
                namespace,
                name,
                link,
            } => self.add_link(namespace, name, link).await,
            Step::SetLink {
                namespace,
                name,
                link,
            } => self.set_link(namespace, name, link).await,
            Step::DeleteLink {
                namespace,
                name,
                link,
            } => self.delete_link(namespace, name, link).await,
            Step::AddAddress { namespace, address } => self.add_address(namespace, address).await,
            Step::DeleteAddress { namespace, address } => {
                self.delete_address(namespace, address).await
            }
            Step::PutRoute {
                namespace,
                key,
                route,
                old,
            } => self.put_route(namespace, key, route, old.as_ref()).await,
            Step::DeleteRoute {
                namespace,
                key,
                route,
            } => self.delete_route(namespace, key, route).await,
            Step::AddNeighbour {
                namespace,
                neighbour,
            } => self.add_neighbour(namespace, neighbour).await,
            Step::DeleteNeighbour {
                namespace,
                neighbour,
            } => self.delete_neighbour(namespace, neighbour).await,
            other => Err(Error::NotOurs(other.to_string())),
        }
    }

    async fn add_namespace(&mut self, namespace: &Namespace, node: &str) -> Result<(), Error> {
        let exists = netns::path(namespace).exists();
        if !exists || netns::is_stub(namespace) {
            self.forget(namespace);
            netns::add(namespace)?;
        }
        let links = self.links(namespace).await?;
        let mark = mark(node)?;
        let marked = links.iter().any(|link| link.alias.as_ref() == Some(&mark));
        if !marked && !is_virgin(&links) {
            return Err(Error::ForeignNamespace {
                namespace: namespace.clone(),
            });
        }
        let lo = self.link(namespace, "lo").await?.ifindex;
        let message = LinkUnspec::new_with_index(lo).alias(mark).up().build();
        self.change_link(namespace, "lo", message).await
    }

    async fn add_link(
        &mut self,
        namespace: &Namespace,
        name: &str,
        link: &Link,
    ) -> Result<(), Error> {
        if link.kind == LinkKind::Moved {
            return self.fetch_link(namespace, name, link).await;
        }
        let leftover = self
            .links(namespace)
            .await?
            .into_iter()
            .find(|found| found.name == name);
        if let Some(leftover) = leftover {
            let alias = leftover.alias.as_deref();
            let ours = alias.is_some_and(|alias| alias.starts_with(ALIAS_PREFIX));
            if !ours && leftover.group != UNFINISHED {
                let (name, namespace) = (name.to_owned(), namespace.clone());
                return Err(Error::ForeignLink { name, namespace });
            }
            // A crash left it half made.
            self.remove_link(namespace, leftover.ifindex, name).await?;
        }
        let target = netns::open(namespace)?;
        let (from, message) = match &link.kind {
            LinkKind::Bridge => (
                namespace.clone(),
                LinkMessageBuilder::<LinkBridge>::new(name)
                    .link_group(UNFINISHED)
                    .build(),
            ),
            LinkKind::Veth {
                peer,
                peer_namespace,
            } => {
                let peer_file = netns::open(peer_namespace)?;
                let peer = LinkUnspec::new_with_name(peer)
                    .link_group(UNFINISHED)
                    .setns_by_fd(peer_file.as_raw_fd())
                    .build();
                let message = LinkMessageBuilder::<LinkVeth>::new_with_info_kind(
                    netlink_packet_route::link::InfoKind::Veth,
                )
                .name(name)
                .link_group(UNFINISHED)
                .set_info_data(InfoData::Veth(InfoVeth::Peer(peer)))
                .build();
                return self
                    .create(namespace, name, link, message, (target, peer_file))
                    .await;
            }
            LinkKind::Macvlan { parent } => {
                let parent = self.link(&Namespace::Node, parent).await?.ifindex;
                let message = LinkMacVlan::new(name, parent, MacVlanMode::Bridge)
                    .link_group(UNFINISHED)
                    .setns_by_fd(target.as_raw_fd())
                    .build();
                (Namespace::Node, message)
            }
            LinkKind::Wireguard | LinkKind::Moved | LinkKind::Foreign => {
                return Err(Error::NotOurs(format!("link add {name}")));
            }
        };
        self.handle(&from)?
            .link()
            .add(message)
            .execute()
            .await
            .map_err(|source| refused(format!("link add {name} in {namespace}"), source))?;
        drop(target);
        self.set_link(namespace, name, link).await
    }

    /// Creates a link whose message names namespaces by open files, which must live until then.
    async fn create<F>(
        &mut self,
        namespace: &Namespace,
        name: &str,
        link: &Link,
        message: LinkMessage,
        files: F,
    ) -> Result<(), Error> {
        self.handle(namespace)?
            .link()
            .add(message)
            .execute()
            .await
            .map_err(|source| refused(format!("link add {name} in {namespace}"), source))?;
        drop(files);
        self.set_link(namespace, name, link).await
    }

    /// Takes a device of the node into a namespace.
    async fn fetch_link(
        &mut self,
        namespace: &Namespace,
        name: &str,
        link: &Link,
    ) -> Result<(), Error> {
        let here = self
            .links(namespace)
            .await?
            .iter()
            .any(|found| found.name == name);
        if !here {
            let device = self.link(&Namespace::Node, name).await?.ifindex;
            let target = netns::open(namespace)?;
            // Marked first: wherever a crash leaves it, it is known as one to go back.
            self.mark_link(name, link).await?;
            let message = LinkUnspec::new_with_index(device)
                .setns_by_fd(target.as_raw_fd())
                .build();
            self.change_link(&Namespace::Node, name, message).await?;
        }
        self.set_link(namespace, name, link).await
    }

    /// Alias, MTU, master, up.
    ///
    /// # Errors
    /// When the link is not there or the kernel refuses.
    pub async fn set_link(
        &mut self,
        namespace: &Namespace,
        name: &str,
        link: &Link,
    ) -> Result<(), Error> {
        let index = self.link(namespace, name).await?.ifindex;
        let mut message = LinkUnspec::new_with_index(index).up();
        if let Some(alias) = &link.alias {
            message = message.alias(alias.clone());
        }
        if let Some(mtu) = link.mtu {
            message = message.mtu(mtu);
        }
        message = match &link.master {
            Some(master) => message.controller(self.link(namespace, master).await?.ifindex),
            None => message.nocontroller(),
        };
        // It has its mark now.
        self.change_link(namespace, name, message.link_group(0).build())
            .await
    }

    /// Puts our mark on a link of the node's that is to be moved. It stays down: a kernel
    /// WireGuard device that comes up turns off redirects in the namespace it is in (`wg_open`).
    ///
    /// # Errors
    /// When the link is not there or the kernel refuses.
    pub async fn mark_link(&mut self, name: &str, link: &Link) -> Result<(), Error> {
        let index = self.link(&Namespace::Node, name).await?.ifindex;
        let message = LinkUnspec::new_with_index(index)
            .alias(link.alias.clone().unwrap_or_default())
            .link_group(0)
            .build();
        self.change_link(&Namespace::Node, name, message).await
    }

    /// Moves a link from the node's namespace into another one.
    ///
    /// # Errors
    /// When either is not there or the kernel refuses.
    pub async fn move_link(&mut self, name: &str, target: &Namespace) -> Result<(), Error> {
        let index = self.link(&Namespace::Node, name).await?.ifindex;
        let file = netns::open(target)?;
        let message = LinkUnspec::new_with_index(index)
            .setns_by_fd(file.as_raw_fd())
            .build();
        self.change_link(&Namespace::Node, name, message).await
    }

    /// Keeps the kernel from giving a link a random link-local address of its own when it comes
    /// up (`IN6_ADDR_GEN_MODE_NONE`): the derived one is the only one.
    ///
    /// # Errors
    /// When the link is not there.
    pub fn forbid_own_address(&self, namespace: &Namespace, name: &str) -> Result<(), Error> {
        sysctl::write(
            namespace,
            &format!("net/ipv6/conf/{name}/addr_gen_mode"),
            "1",
        )
    }

    /// Makes a WireGuard device of the kernel's in the node's namespace.
    ///
    /// # Errors
    /// When the kernel has no WireGuard.
    pub async fn add_wireguard(&mut self, name: &str) -> Result<(), Error> {
        let message = rtnetlink::LinkWireguard::new(name)
            .link_group(UNFINISHED)
            .build();
        self.handle(&Namespace::Node)?
            .link()
            .add(message)
            .execute()
            .await
            .map_err(|source| refused(format!("link add {name} type wireguard"), source))
    }

    /// Whether a namespace has a link of that name.
    ///
    /// # Errors
    /// When the kernel cannot be read.
    pub async fn has_link(&mut self, namespace: &Namespace, name: &str) -> Result<bool, Error> {
        Ok(self
            .links(namespace)
            .await?
            .iter()
            .any(|link| link.name == name))
    }

    /// Removes a link; one that is not there is fine.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub async fn remove_named(&mut self, namespace: &Namespace, name: &str) -> Result<(), Error> {
        let found = self
            .links(namespace)
            .await?
            .into_iter()
            .find(|link| link.name == name);
        match found {
            Some(link) => self.remove_link(namespace, link.ifindex, name).await,
            None => Ok(()),
        }
    }

    async fn delete_link(
        &mut self,
        namespace: &Namespace,
        name: &str,
        link: &Link,
    ) -> Result<(), Error> {
        if link.kind != LinkKind::Moved {
            return self.remove_named(namespace, name).await;
        }
        let Ok(found) = self.link(namespace, name).await else {
            return Ok(());
        };
        debug_assert!(
            found
                .alias
                .is_none_or(|alias| alias.ends_with(MOVED_SUFFIX))
        );
        let clean = LinkUnspec::new_with_index(found.ifindex)
            .alias("")
            .down()
            .build();
        self.change_link(namespace, name, clean).await?;
        let node = netns::open(&Namespace::Node)?;
        let message = LinkUnspec::new_with_index(found.ifindex)
            .setns_by_fd(node.as_raw_fd())
            .build();
        self.change_link(namespace, name, message).await
    }

    async fn change_link(
        &mut self,
        namespace: &Namespace,
        name: &str,
        message: LinkMessage,
    ) -> Result<(), Error> {
        self.handle(namespace)?
            .link()
            .set(message)
            .execute()
            .await
            .map_err(|source| refused(format!("link set {name} in {namespace}"), source))
    }

    async fn remove_link(
        &mut self,
        namespace: &Namespace,
        index: u32,
        name: &str,
    ) -> Result<(), Error> {
        let result = self.handle(namespace)?.link().del(index).execute().await;
        gone_is_fine(result, libc::ENODEV)
            .map_err(|source| refused(format!("link del {name} in {namespace}"), source))
    }

    /// `NTF_MANAGED`: the kernel resolves the neighbour at once and keeps it resolved.
    async fn add_neighbour(
        &mut self,
        namespace: &Namespace,
        neighbour: &Neighbour,
    ) -> Result<(), Error> {
        let index = self.link(namespace, &neighbour.link).await?.ifindex;
        let handle = self.handle(namespace)?;
        let mut request = handle
            .neighbours()
            .add(index, neighbour.address)
            .replace()
            .state(NeighbourState::None)
            .flags(NeighbourFlags::ExtLearned);
        request.message_mut().attributes.extend([
            NeighbourAttribute::ExtFlags(NeighbourExtFlags::Managed),
            NeighbourAttribute::Protocol(RouteProtocol::from(ROUTE_PROTOCOL)),
        ]);
        request.execute().await.map_err(|source| {
            refused(
                format!(
                    "neigh add {} dev {} in {namespace}",
                    neighbour.address, neighbour.link
                ),
                source,
            )
        })
    }

    async fn delete_neighbour(
        &mut self,
        namespace: &Namespace,
        neighbour: &Neighbour,
    ) -> Result<(), Error> {
        let Some(index) = self.index_if_there(namespace, &neighbour.link).await? else {
            return Ok(());
        };
        let mut message = NeighbourMessage::default();
        message.header.ifindex = index;
        message.header.family = match neighbour.address {
            std::net::IpAddr::V6(_) => netlink_packet_route::AddressFamily::Inet6,
            std::net::IpAddr::V4(_) => netlink_packet_route::AddressFamily::Inet,
        };
        message
            .attributes
            .push(NeighbourAttribute::Destination(neighbour.address.into()));
        let result = self
            .handle(namespace)?
            .neighbours()
            .del(message)
            .execute()
            .await;
        gone_is_fine(result, libc::ENOENT).map_err(|source| {
            refused(
                format!(
                    "neigh del {} dev {} in {namespace}",
                    neighbour.address, neighbour.link
                ),
                source,
            )
        })
    }
}

pub(super) fn refused(what: String, source: rtnetlink::Error) -> Error {
    Error::Refused { what, source }
}

/// What is gone already needs no removing.
pub(super) fn gone_is_fine(
    result: Result<(), rtnetlink::Error>,
    errno: i32,
) -> Result<(), rtnetlink::Error> {
    match result {
        Err(rtnetlink::Error::NetlinkError(message))
            if message.raw_code().unsigned_abs() as i32 == errno =>
        {
            Ok(())
        }
        other => other,
    }
}
