//! Tunnels: whether what they carry fits into what carries them, and whether their ports are free.

use std::net::IpAddr;

use super::{Finding, Severity, ok};

/// What WireGuard adds: its header and tag (16 and 16), UDP (8), and IPv6 (40) or IPv4 (20).
const OVER_IPV6: u32 = 80;
const OVER_IPV4: u32 = 60;
/// The least that IPv6 works with (RFC 8200, section 5).
const LEAST: u32 = 1280;

/// A UDP port that an object asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listener {
    /// The WireGuard device.
    pub name: String,
    /// The port.
    pub port: u16,
    /// Somebody who is not this node's WireGuard listens there.
    pub taken: bool,
}

/// A WireGuard device of this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tunnel {
    /// Its namespace; `None` is the node's own.
    pub namespace: Option<String>,
    /// Its name.
    pub name: String,
    /// Its MTU.
    pub mtu: u32,
    /// How its peers are reached.
    pub ways: Vec<Way>,
}

/// How a peer is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Way {
    /// Its endpoint.
    pub endpoint: IpAddr,
    /// The device the kernel sends by.
    pub device: String,
    /// The MTU of that way.
    pub mtu: u32,
}

impl Way {
    const fn overhead(&self) -> u32 {
        match self.endpoint {
            IpAddr::V6(_) => OVER_IPV6,
            IpAddr::V4(_) => OVER_IPV4,
        }
    }

    /// The largest packet that fits.
    const fn room(&self) -> u32 {
        self.mtu.saturating_sub(self.overhead())
    }
}

pub(super) fn judge(listeners: &[Listener], tunnels: &[Tunnel]) -> Vec<Finding> {
    let ports = listeners.iter().map(port);
    ports.chain(tunnels.iter().filter_map(mtu)).collect()
}

fn port(listener: &Listener) -> Finding {
    let meaning = "peers send to this UDP port of the node; while somebody else has it the tunnel \
                   does not come up";
    let Listener { name, port, taken } = listener;
    if *taken {
        let found = format!("{name}: UDP port {port} is somebody else's");
        let remedy = format!(
            "ss -ulnp 'sport = :{port}' names who has it; end it, or give the \
                              object's endpoint another port"
        );
        return ok("wireguard.port", found, meaning).but(Severity::Error, remedy);
    }
    let found = format!("{name}: UDP port {port} is free or its own");
    ok("wireguard.port", found, meaning)
}

/// Of one whose peers have not been heard of nothing is known.
fn mtu(tunnel: &Tunnel) -> Option<Finding> {
    let meaning = "a packet of the tunnel's MTU does not fit into one of the underlay: it is sent in \
                   fragments, or lost";
    let way = tunnel.ways.iter().min_by_key(|way| way.room())?;
    let Tunnel { name, mtu, .. } = tunnel;
    let (device, room, overhead) = (&way.device, way.room(), way.overhead());
    let found = format!("{name} {mtu} + {overhead} over {device} {}", way.mtu);
    if *mtu <= room {
        let meaning = "a packet of the tunnel's MTU fits into one of the underlay";
        return Some(ok("mtu.tunnel", found, meaning));
    }
    let remedy = if room < LEAST {
        // Less than IPv6 needs: the tunnel cannot give way.
        format!("ip link set {device} mtu {}", mtu + overhead)
    } else {
        let at = tunnel.namespace.as_ref();
        let at = at.map(|name| format!("-n {name} ")).unwrap_or_default();
        format!("ip {at}link set {name} mtu {room}; to keep it, mtu = {room} in its object")
    };
    Some(ok("mtu.tunnel", found, meaning).but(Severity::Warning, remedy))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tunnel(mtu: u32, ways: &[(&str, u32)]) -> Tunnel {
        let ways = ways.iter().map(|(endpoint, mtu)| Way {
            endpoint: endpoint.parse().unwrap(),
            device: "eth0".into(),
            mtu: *mtu,
        });
        Tunnel {
            namespace: Some("nm-t-gw".into()),
            name: "wg-1".into(),
            mtu,
            ways: ways.collect(),
        }
    }

    #[test]
    fn a_tunnel_must_fit_into_the_narrowest_way() {
        for (mtu, ways, remedy) in [
            (1420, &[("2001:db8::1", 1500)][..], None),
            (1440, &[("192.0.2.1", 1500)], None),
            (
                1440,
                &[("192.0.2.1", 1500), ("2001:db8::1", 1500)],
                Some("ip -n nm-t-gw link set wg-1 mtu 1420; to keep it, mtu = 1420 in its object"),
            ),
            (
                1420,
                &[("2001:db8::1", 1492)],
                Some("ip -n nm-t-gw link set wg-1 mtu 1412; to keep it, mtu = 1412 in its object"),
            ),
            (
                1420,
                &[("2001:db8::1", 1300)],
                Some("ip link set eth0 mtu 1500"),
            ),
        ] {
            let findings = judge(&[], &[tunnel(mtu, ways)]);
            assert_eq!(findings[0].remedy.as_deref(), remedy, "{ways:?}");
            let wrong = findings[0].severity == Severity::Warning;
            assert_eq!(wrong, remedy.is_some());
        }
        assert_eq!(judge(&[], &[tunnel(9000, &[])]), []);
    }

    #[test]
    fn a_port_that_is_taken_is_named() {
        for (taken, severity) in [(false, Severity::Ok), (true, Severity::Error)] {
            let listener = Listener {
                name: "wg-1".into(),
                port: 51820,
                taken,
            };
            let findings = judge(&[listener], &[]);
            assert_eq!(findings[0].severity, severity);
            assert!(findings[0].found.contains("wg-1: UDP port 51820"));
        }
    }
}
