//! Links as the kernel lists them.

use std::collections::{BTreeMap, BTreeSet};

use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{
    InfoData, InfoKind, InfoVlan, LinkAttribute, LinkInfo, LinkLayerType, LinkMessage, LinkXdp,
    VlanProtocol,
};

use super::{Error, Kernel};
use crate::plan::state::Namespace;

/// One link, raw.
#[derive(Clone, Debug, Default)]
pub(super) struct RawLink {
    pub(super) ifindex: u32,
    pub(super) name: String,
    pub(super) kind: String,
    pub(super) alias: Option<String>,
    pub(super) mtu: u32,
    pub(super) master: Option<u32>,
    /// Index of the device below it, or of the other end of a veth.
    pub(super) lower: Option<u32>,
    /// Link-layer address, only where frames have a link-layer header.
    pub(super) mac: Option<[u8; 6]>,
    pub(super) up: bool,
    /// The device below is in another namespace.
    pub(super) lower_elsewhere: bool,
    /// Number of an 802.1Q VLAN, on its sub-interface.
    pub(super) vid: Option<u16>,
    /// Device group; [`UNFINISHED`] on a link of ours that has no alias yet.
    pub(super) group: u32,
    /// Programs that XDP runs on it.
    pub(super) programs: Vec<u32>,
}

/// The group that a link is born into (`IFLA_GROUP`) and leaves when its alias is set: an alias
/// cannot be given at birth, and what a crash leaves in between must be known as ours.
pub(super) const UNFINISHED: u32 = 0x6e6d_6110;

impl Kernel {
    /// Every link of a namespace.
    pub(super) async fn links(&mut self, namespace: &Namespace) -> Result<Vec<RawLink>, Error> {
        let request = RouteNetlinkMessage::GetLink(LinkMessage::default());
        let answers = self.dump(namespace, "links", request).await?;
        Ok(answers
            .into_iter()
            .filter_map(|answer| match answer {
                RouteNetlinkMessage::NewLink(message) => Some(parse(message)),
                _ => None,
            })
            .collect())
    }

    /// The programs that XDP runs on each device of a namespace, by interface index.
    ///
    /// # Errors
    /// When the kernel cannot be read.
    pub async fn xdp_programs(
        &mut self,
        namespace: &Namespace,
    ) -> Result<BTreeMap<u32, BTreeSet<u32>>, Error> {
        let links = self.links(namespace).await?.into_iter();
        Ok(links
            .map(|link| (link.ifindex, link.programs.into_iter().collect()))
            .collect())
    }

    /// The index of a link; `None` when it is gone.
    pub(super) async fn index_if_there(
        &mut self,
        namespace: &Namespace,
        name: &str,
    ) -> Result<Option<u32>, Error> {
        let links = self.links(namespace).await?;
        Ok(links
            .iter()
            .find(|link| link.name == name)
            .map(|link| link.ifindex))
    }

    /// One link by name.
    pub(super) async fn link(
        &mut self,
        namespace: &Namespace,
        name: &str,
    ) -> Result<RawLink, Error> {
        let links = self.links(namespace).await?;
        let known = || {
            links
                .iter()
                .map(|link| link.name.as_str())
                .collect::<Vec<_>>()
                .join(", ")
        };
        links
            .iter()
            .find(|link| link.name == name)
            .cloned()
            .ok_or_else(|| Error::NoLink {
                name: name.to_owned(),
                namespace: namespace.clone(),
                known: known(),
            })
    }
}

fn parse(message: LinkMessage) -> RawLink {
    let ethernet = matches!(
        message.header.link_layer_type,
        LinkLayerType::Ether | LinkLayerType::Loopback
    );
    let mut link = RawLink {
        ifindex: message.header.index,
        up: message
            .header
            .flags
            .contains(netlink_packet_route::link::LinkFlags::Up),
        ..RawLink::default()
    };
    for attribute in message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name = name,
            LinkAttribute::IfAlias(alias) if !alias.is_empty() => link.alias = Some(alias),
            LinkAttribute::Mtu(mtu) => link.mtu = mtu,
            LinkAttribute::Group(group) => link.group = group,
            LinkAttribute::Controller(master) => link.master = Some(master),
            LinkAttribute::Link(lower) => link.lower = Some(lower),
            LinkAttribute::LinkNetNsId(_) => link.lower_elsewhere = true,
            LinkAttribute::Address(bytes) if ethernet => link.mac = bytes.try_into().ok(),
            LinkAttribute::Xdp(attributes) => {
                link.programs = attributes.iter().filter_map(program).collect();
            }
            LinkAttribute::LinkInfo(infos) => {
                for info in infos {
                    match info {
                        LinkInfo::Kind(kind) => link.kind = kind_name(&kind),
                        LinkInfo::Data(InfoData::Vlan(data)) => link.vid = vid(&data),
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    link
}

/// One that is attached; 0 is none.
fn program(attribute: &LinkXdp) -> Option<u32> {
    match attribute {
        LinkXdp::ProgId(id)
        | LinkXdp::DrvProgId(id)
        | LinkXdp::SkbProgId(id)
        | LinkXdp::HwProgId(id) => (*id != 0).then_some(*id),
        _ => None,
    }
}

/// The number of a VLAN whose tag is one of 802.1Q.
fn vid(data: &[InfoVlan]) -> Option<u16> {
    let plain = |info: &InfoVlan| *info == InfoVlan::Protocol(VlanProtocol::Ieee8021Q);
    let number = data.iter().find_map(|info| match info {
        InfoVlan::Id(vid) => Some(*vid),
        _ => None,
    });
    number.filter(|vid| *vid != 0 && data.iter().any(plain))
}

/// The kernel's own word for a kind.
fn kind_name(kind: &InfoKind) -> String {
    kind.to_string()
}
