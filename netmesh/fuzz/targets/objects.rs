//! Hostile object files, as TOML and as JSON: every fault is told with a place inside the file,
//! what is accepted can be checked and derived, and nothing panics.
#![no_main]

use netmesh::model::check::check;
use netmesh::model::fault::Faults;
use netmesh::model::network::{Network, parse_network};
use netmesh::model::node::parse_node;

/// What people write: the first corpus.
const SEEDS: [(&str, &str); 3] = [
    (
        "network",
        r#"network    = "alice"
allocation = "2a02:1802:5e::/48"
isolated   = false
wireguard_ipv4 = "169.254.0.0/16"

[[resource]]
name       = "gw"
node       = "node-1"
prefix     = "2a02:1802:5e:1001::/64"
public_key = "JRI8Xc0zKP9kXk8qP84NdUQA04h6DLfFbwJn4g+/PFs="
endpoint   = "[2001:db8:0:1::10]:51820"
exit       = { priority = 10, numbered = true, ipv4 = true }

[[resource]]
name       = "web"
node       = "node-2"
prefix     = "2a02:1802:5e:a1c2::/64"
public_key = "h7cBvzXZLYAbNnWWvGl/Lfzy9qCLXVAWnGOAJJzmFgw="
listen_port = 51821
keepalive  = 25
mtu        = 1420
interface  = "wg-x"
ipv4       = "10.1.2.0/24"
"#,
    ),
    (
        "network-json",
        r#"{"network": "bob", "allocation": "2a02:1802:5f::/40", "resource": [
  {"name": "a", "node": "node-1", "prefix": "2a02:1802:5f:1::/64", "exit": {},
   "public_key": "JRI8Xc0zKP9kXk8qP84NdUQA04h6DLfFbwJn4g+/PFs="}]}"#,
    ),
    (
        "node",
        r#"node = "router-1"
wireguard = "embedded"
[router]
allocations = ["2a02:1802:5e::/48"]
uplink   = "eth0"
gateway  = "2a02:1800:10:1052::4"
segment  = "eth1"
[segment]
parent = "br-seg"
device = "eth3"
"#,
    ),
];

fn plant() {
    let Some(folder) = std::env::var_os("NETMESH_SEEDS") else {
        return;
    };
    for (name, text) in SEEDS {
        let file = std::path::Path::new(&folder).join(name);
        std::fs::write(file, text).expect("the folder of NETMESH_SEEDS is there");
    }
}

libfuzzer_sys::fuzz_target!(init: plant(), |data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let node = ["node.toml", "node.json"].map(|file| kept(parse_node(file, text), text));
    let networks = ["a.toml", "a.json"].map(|file| kept(parse_network(file, text), text));
    for network in networks.into_iter().flatten() {
        derive(&network);
        for node in [None].into_iter().chain(node.iter().map(Option::as_ref)) {
            if let Err(faults) = check(std::slice::from_ref(&network), node) {
                told(&faults, text);
            }
        }
    }
});

/// Everything that follows from a network by pure functions.
fn derive(network: &Network) {
    for resource in &network.resources {
        std::hint::black_box(network.derive(resource));
        assert!(
            network
                .peers_of(resource)
                .all(|peer| peer.name != resource.name)
        );
        std::hint::black_box(network.exit_for(resource));
        std::hint::black_box(network.exits().count());
        std::hint::black_box(resource.mtu());
    }
}

/// What was read; its faults must be fit to be shown.
fn kept<T>(read: Result<T, Faults>, text: &str) -> Option<T> {
    match read {
        Ok(object) => Some(object),
        Err(faults) => {
            assert!(!faults.is_empty(), "refused without a reason");
            told(&faults, text);
            None
        }
    }
}

fn told(faults: &Faults, text: &str) {
    for fault in faults.sorted() {
        let span = &fault.place.span;
        assert!(
            span.start <= span.end && span.end <= text.len(),
            "{fault:?}"
        );
        let (line, column) = fault.place.line_column();
        assert!(line >= 1 && column >= 1, "{fault:?}");
    }
    assert!(!faults.render(false).is_empty());
}
