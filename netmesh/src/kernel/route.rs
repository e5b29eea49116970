//! Routes of the main table, always with our protocol number.

use std::net::IpAddr;

use ipnet::IpNet;
use netlink_packet_route::route::{RouteMessage, RouteProtocol, RouteScope, RouteType};
use rtnetlink::RouteMessageBuilder;

use super::apply::{gone_is_fine, refused};
use super::{Error, Kernel};
use crate::plan::state::{Namespace, ROUTE_PROTOCOL, Route, RouteAction, RouteKey};

impl Kernel {
    /// A route that replaces none of ours may replace no other's (`NLM_F_EXCL`): somebody may have
    /// put one there since the machine was read.
    pub(super) async fn put_route(
        &mut self,
        namespace: &Namespace,
        key: &RouteKey,
        route: &Route,
        old: Option<&Route>,
    ) -> Result<(), Error> {
        let message = self.route_message(namespace, key, route).await?;
        let (verb, request) = {
            let request = self.handle(namespace)?.route().add(message);
            match old {
                Some(_) => ("replace", request.replace()),
                None => ("add", request),
            }
        };
        request
            .execute()
            .await
            .map_err(|source| refused(format!("route {verb} {key} in {namespace}"), source))
    }

    pub(super) async fn delete_route(
        &mut self,
        namespace: &Namespace,
        key: &RouteKey,
        route: &Route,
    ) -> Result<(), Error> {
        let message = match self.route_message(namespace, key, route).await {
            Err(Error::NoLink { .. }) => return Ok(()), // It went with its link.
            message => message?,
        };
        let result = self.handle(namespace)?.route().del(message).execute().await;
        gone_is_fine(result, libc::ESRCH)
            .map_err(|source| refused(format!("route del {key} in {namespace}"), source))
    }

    async fn route_message(
        &mut self,
        namespace: &Namespace,
        key: &RouteKey,
        route: &Route,
    ) -> Result<RouteMessage, Error> {
        let protocol = RouteProtocol::from(ROUTE_PROTOCOL);
        let invalid = |_| Error::NotOurs(format!("route {key}: mixed address families"));
        let mut message = RouteMessageBuilder::<IpAddr>::new()
            .destination_prefix(key.destination.addr(), key.destination.prefix_len())
            .map_err(invalid)?
            .protocol(protocol);
        if let Some(metric) = key.metric {
            message = message.priority(metric);
        }
        if let Some(source) = route.source {
            message = message.pref_source(source).map_err(invalid)?;
        }
        message = match &route.action {
            RouteAction::Via { gateway, link } => {
                let index = self.link(namespace, link).await?.ifindex;
                message = message.output_interface(index);
                match gateway {
                    // On-link whatever the addresses say: the mesh's next hops are derived.
                    Some(gateway) => message.gateway(*gateway).map_err(invalid)?.onlink(),
                    None => message.scope(match key.destination {
                        IpNet::V4(_) => RouteScope::Link,
                        IpNet::V6(_) => RouteScope::Universe,
                    }),
                }
            }
            RouteAction::Unreachable => message.kind(RouteType::Unreachable),
            RouteAction::Prohibit => message.kind(RouteType::Prohibit),
            RouteAction::Blackhole => message.kind(RouteType::BlackHole),
        };
        Ok(message.build())
    }
}
