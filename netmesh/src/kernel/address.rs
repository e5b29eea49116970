//! Addresses: added without duplicate address detection and waited for, removed.

use std::net::IpAddr;
use std::time::Duration;

use futures_util::StreamExt as _;
use ipnet::IpNet;
use netlink_packet_core::{NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::address::{
    AddressAttribute, AddressFlags, AddressHeaderFlags, AddressProtocol,
};
use netlink_packet_route::route::{RouteAttribute, RouteMessage, RouteType};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use rtnetlink::AddressMessageBuilder;

use super::apply::{gone_is_fine, refused};
use super::{Error, Kernel};
use crate::plan::state::{Address, Namespace, ROUTE_PROTOCOL};

/// How many milliseconds the kernel is given to use a new address.
const LOCAL_ATTEMPTS: u32 = 300;

impl Kernel {
    pub(super) async fn add_address(
        &mut self,
        namespace: &Namespace,
        address: &Address,
    ) -> Result<(), Error> {
        let index = self.link(namespace, &address.link).await?.ifindex;
        let handle = self.handle(namespace)?;
        let mut request = handle
            .address()
            .add(index, address.address.addr(), address.address.prefix_len())
            .replace();
        let message = request.message_mut();
        message
            .attributes
            .push(AddressAttribute::Protocol(AddressProtocol::from(
                ROUTE_PROTOCOL,
            )));
        if let IpNet::V6(_) = address.address {
            // No duplicate detection: the address is derived, and must work at once.
            message.header.flags = AddressHeaderFlags::Nodad;
            message
                .attributes
                .push(AddressAttribute::Flags(AddressFlags::Nodad));
        }
        request.execute().await.map_err(|source| {
            refused(
                format!(
                    "addr add {} dev {} in {namespace}",
                    address.address, address.link
                ),
                source,
            )
        })?;
        self.until_local(namespace, index, address.address.addr())
            .await
    }

    /// Waits for the route that makes packets to a new address ours. IPv6 adds it from a work
    /// queue after the request has been acknowledged (`addrconf_dad_work`); until then packets to
    /// it are dropped, or forwarded. While a link is down the kernel waits too, so this does not
    /// wait for long.
    async fn until_local(
        &mut self,
        namespace: &Namespace,
        index: u32,
        address: IpAddr,
    ) -> Result<(), Error> {
        if address.is_ipv4() {
            return Ok(());
        }
        for _ in 0..LOCAL_ATTEMPTS {
            if self.is_local(namespace, index, address).await? {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        tracing::warn!("{namespace}: the kernel does not use {address} yet");
        Ok(())
    }

    pub(super) async fn delete_address(
        &mut self,
        namespace: &Namespace,
        address: &Address,
    ) -> Result<(), Error> {
        let Some(index) = self.index_if_there(namespace, &address.link).await? else {
            return Ok(());
        };
        let message = match address.address {
            IpNet::V6(net) => AddressMessageBuilder::<std::net::Ipv6Addr>::new()
                .index(index)
                .address(net.addr(), net.prefix_len())
                .build(),
            IpNet::V4(net) => AddressMessageBuilder::<std::net::Ipv4Addr>::new()
                .index(index)
                .address(net.addr(), net.prefix_len())
                .build(),
        };
        let result = self
            .handle(namespace)?
            .address()
            .del(message)
            .execute()
            .await;
        gone_is_fine(result, libc::EADDRNOTAVAIL).map_err(|source| {
            refused(
                format!(
                    "addr del {} dev {} in {namespace}",
                    address.address, address.link
                ),
                source,
            )
        })
    }

    /// Whether the kernel delivers packets to an address on a link to itself.
    async fn is_local(
        &mut self,
        namespace: &Namespace,
        index: u32,
        address: IpAddr,
    ) -> Result<bool, Error> {
        let mut message = RouteMessage::default();
        (
            message.header.address_family,
            message.header.destination_prefix_length,
        ) = match address {
            IpAddr::V4(_) => (AddressFamily::Inet, 32),
            IpAddr::V6(_) => (AddressFamily::Inet6, 128),
        };
        // A link-local address is one per link.
        message.attributes.extend([
            RouteAttribute::Destination(address.into()),
            RouteAttribute::Oif(index),
        ]);
        let mut request = NetlinkMessage::from(RouteNetlinkMessage::GetRoute(message));
        request.header.flags = NLM_F_REQUEST;
        let answers = self.handle(namespace)?.request(request);
        let mut answers = answers.map_err(|source| Error::Refused {
            what: format!("route get {address} in {namespace}"),
            source,
        })?;
        Ok(match answers.next().await.map(|answer| answer.payload) {
            Some(NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewRoute(found))) => {
                found.header.kind == RouteType::Local
            }
            _ => false,
        })
    }
}
