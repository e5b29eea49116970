//! The objects' JSON Schema, for editors.
//!
//! The types here describe the documents; what is read and checked is in `network` and `node`. A
//! test holds the two together.

use schemars::{JsonSchema, Schema, schema_for};

/// The schema of a user network.
#[must_use]
pub fn network() -> Schema {
    schema_for!(NetworkDocument)
}

/// The schema of `node.toml`.
#[must_use]
pub fn node() -> Schema {
    schema_for!(NodeDocument)
}

macro_rules! documents {
    ($($(#[$doc:meta])* $name:ident { $($(#[$field_doc:meta])* $field:ident: $type:ty,)+ })+) => {$(
        $(#[$doc])*
        #[derive(JsonSchema)]
        #[schemars(deny_unknown_fields)]
        #[expect(dead_code, reason = "only its schema is used")]
        struct $name { $($(#[$field_doc])* $field: $type,)+ }
    )+};
}

documents! {
    /// A user network: a named full mesh of network resources.
    NetworkDocument {
        /// Name of the network: a-z, 0-9 and -, at most 15.
        network: String,
        /// The IPv6 block its prefixes are cut from, /16 to /60.
        allocation: String,
        /// The /16 of the WireGuard interfaces' IPv4 addresses; 169.254.0.0/16 by default.
        wireguard_ipv4: Option<String>,
        /// The network has no exit, on purpose.
        isolated: Option<bool>,
        /// The resources.
        resource: Vec<ResourceDocument>,
    }

    /// A network namespace with one WireGuard interface and a /64 of its own.
    ResourceDocument {
        /// Name, unique in the network.
        name: String,
        /// The node that hosts it.
        node: String,
        /// Its /64.
        prefix: String,
        /// Its WireGuard public key, base64.
        public_key: String,
        /// Address and port of its node; left out when hidden behind a NAT.
        endpoint: Option<String>,
        /// UDP port where that differs from the endpoint's.
        listen_port: Option<u16>,
        /// Seconds between a hidden resource's keepalives; 25 by default.
        keepalive: Option<u16>,
        /// MTU of its WireGuard interface; 1420 by default.
        mtu: Option<u16>,
        /// Name of its WireGuard interface where the derived one is taken.
        interface: Option<String>,
        /// Its IPv4 /24 where the derived one collides.
        ipv4: Option<String>,
        /// Makes it an exit.
        exit: Option<ExitDocument>,
    }

    /// What makes a resource an exit.
    ExitDocument {
        /// Only those of the lowest are used; 100 by default.
        priority: Option<u16>,
        /// Its share of the resources among exits of its priority; 1 by default, at most 256.
        weight: Option<u16>,
        /// Return routes use the numbered address on the segment.
        numbered: Option<bool>,
        /// Members send their IPv4 default route here too.
        ipv4: Option<bool>,
    }

    /// A node's own configuration.
    NodeDocument {
        /// Name of the node, as the objects use it.
        node: String,
        /// auto, kernel, embedded, or a program: which WireGuard.
        wireguard: Option<String>,
        /// Its role as an upstream router.
        router: Option<RouterDocument>,
        /// How its exits reach the segment.
        segment: Option<SegmentDocument>,
    }

    /// The upstream router.
    RouterDocument {
        /// The blocks it routes.
        allocations: Vec<String>,
        /// Interface to the provider.
        uplink: String,
        /// Addresses to put on the uplink; none leaves them to the operator.
        uplink_addresses: Option<Vec<String>>,
        /// The provider's address.
        gateway: Option<String>,
        /// Prefixes that must not cross the uplink, besides the special-purpose ones (RFC 6890).
        martians: Option<Vec<String>>,
        /// Special-purpose prefixes that may cross the uplink.
        not_martians: Option<Vec<String>>,
        /// Interface to the segment.
        segment: String,
    }

    /// How an exit reaches the segment: one of the two.
    SegmentDocument {
        /// A bridge (by a veth) or a NIC (by a macvlan).
        parent: Option<String>,
        /// A device that is moved into the exit.
        device: Option<String>,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::super::{network as model_network, node as model_node};
    use super::*;

    fn fields(schema: &Schema, definition: Option<&str>) -> BTreeSet<String> {
        let value = schema.as_value();
        let object = match definition {
            Some(name) => &value["$defs"][name],
            None => value,
        };
        object["properties"]
            .as_object()
            .unwrap()
            .keys()
            .cloned()
            .collect()
    }

    fn known(fields: &[&str]) -> BTreeSet<String> {
        fields.iter().map(|field| (*field).to_owned()).collect()
    }

    #[test]
    fn the_schema_has_the_fields_that_are_read() {
        let network = network();
        assert_eq!(
            fields(&network, None),
            known(&model_network::NETWORK_FIELDS)
        );
        let resource = fields(&network, Some("ResourceDocument"));
        assert_eq!(resource, known(&model_network::RESOURCE_FIELDS));
        assert_eq!(
            fields(&network, Some("ExitDocument")),
            known(&model_network::EXIT_FIELDS)
        );
        let node = node();
        assert_eq!(fields(&node, None), known(&model_node::NODE_FIELDS));
        assert_eq!(
            fields(&node, Some("RouterDocument")),
            known(&model_node::ROUTER_FIELDS)
        );
        assert_eq!(
            fields(&node, Some("SegmentDocument")),
            known(&model_node::SEGMENT_FIELDS)
        );
    }
}
