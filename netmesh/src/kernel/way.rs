//! By which device the kernel would send, and how much at once.

use std::net::IpAddr;

use futures_util::StreamExt as _;
use netlink_packet_core::{NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::route::{RouteAttribute, RouteMessage, RouteMetric};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::{Error, Kernel};
use crate::plan::state::Namespace;

/// The kernel's answer to `ip route get`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Way {
    /// The device.
    pub ifindex: u32,
    /// What is known to fit, where that is not the device's MTU: the route's, or the path's.
    pub mtu: Option<u32>,
}

impl Kernel {
    /// The kernel's way to an address; `None` when it has none.
    ///
    /// # Errors
    /// When the kernel cannot be asked.
    pub async fn way(
        &mut self,
        namespace: &Namespace,
        address: IpAddr,
    ) -> Result<Option<Way>, Error> {
        let mut message = RouteMessage::default();
        (
            message.header.address_family,
            message.header.destination_prefix_length,
        ) = match address {
            IpAddr::V4(_) => (AddressFamily::Inet, 32),
            IpAddr::V6(_) => (AddressFamily::Inet6, 128),
        };
        let destination = RouteAttribute::Destination(address.into());
        message.attributes.push(destination);
        let mut request = NetlinkMessage::from(RouteNetlinkMessage::GetRoute(message));
        request.header.flags = NLM_F_REQUEST;
        let answers = self.handle(namespace)?.request(request);
        let mut answers = answers.map_err(|source| Error::Refused {
            what: format!("route get {address} in {namespace}"),
            source,
        })?;
        let answer = answers.next().await.map(|answer| answer.payload);
        // Where there is no way the answer is an error.
        let Some(NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewRoute(found))) = answer
        else {
            return Ok(None);
        };
        let (mut device, mut mtu) = (None, None);
        for attribute in found.attributes {
            match attribute {
                RouteAttribute::Oif(ifindex) => device = Some(ifindex),
                RouteAttribute::Metrics(metrics) => {
                    mtu = metrics.into_iter().find_map(|metric| match metric {
                        RouteMetric::Mtu(mtu) => Some(mtu),
                        _ => None,
                    });
                }
                _ => {}
            }
        }
        Ok(device.map(|ifindex| Way { ifindex, mtu }))
    }
}
