//! What a machine holds, without what differs between two equal ones.

use std::collections::BTreeMap;
use std::fs;
use std::net::Ipv6Addr;
use std::path::Path;
use std::process::Command;

use netmesh::plan::state::Namespace;
use serde_json::Value;

/// Every file below a folder that can be read.
pub(crate) fn collect(folder: &Path, found: &mut BTreeMap<String, String>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            collect(&path, found);
        } else if let Ok(text) = fs::read_to_string(&path) {
            found.insert(path.display().to_string(), text);
        }
    }
}

/// What a configuration says of the links of a namespace.
pub(crate) fn links(namespace: &str) -> Value {
    let output = Command::new("ip")
        .args(["-n", namespace, "-j", "-d", "link"])
        .output()
        .expect("ip starts");
    let links: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap_or_default();
    let of = |link: Value| {
        let alias = link["ifalias"].as_str().unwrap_or_default();
        // The mark of a namespace ends in the cookie of its node's.
        let alias = alias.split('@').next().unwrap_or_default();
        serde_json::json!({
            "name": link["ifname"], "kind": link["linkinfo"]["info_kind"],
            "mode": link["linkinfo"]["info_data"]["mode"], "mtu": link["mtu"],
            "master": link["master"], "alias": alias, "xdp": link["xdp"]["mode"],
            "up": link["flags"].as_array().map(|flags| flags.contains(&"UP".into())),
        })
    };
    let mut links: Vec<Value> = links.into_iter().map(of).collect();
    links.sort_by_key(ToString::to_string);
    Value::Array(links)
}

/// The WireGuard devices of a namespace: keys, ports, peers.
pub(crate) fn tunnels(namespace: &str) -> Value {
    let namespace = Namespace::Named(namespace.to_owned());
    let devices = netmesh::kernel::netns::run_in(&namespace, || {
        let names = nix::net::if_::if_nameindex().expect("the links");
        let names = names.iter().filter_map(|link| link.name().to_str().ok());
        let mut devices = BTreeMap::new();
        for name in names.filter(|name| name.starts_with("wg-")) {
            let device = netmesh::wireguard::device::observe(name).expect("a device");
            devices.insert(name.to_owned(), device);
        }
        devices
    });
    serde_json::to_value(devices.expect("the namespace")).expect("JSON")
}

/// Takes out what differs between two equal machines, and orders what has no order.
pub(crate) fn normalise(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            for volatile in [
                "ifindex",
                "link_index",
                "link_netnsid",
                "link",
                "address",
                "broadcast",
                "permaddr",
                "stats64",
                "linkmode",
                "operstate",
                "expires",
                "ageing_time",
                "group",
                "txqlen",
                "resolved",
                "id",
            ] {
                fields.remove(volatile);
            }
            // Link-local addresses that the kernel makes of random link-layer addresses.
            if let Some(Value::Array(infos)) = fields.get_mut("addr_info") {
                infos.retain(|info| !made_of_mac(info["local"].as_str().unwrap_or_default()));
            }
            for field in fields.values_mut() {
                normalise(field);
            }
        }
        Value::Array(items) => {
            items.retain(|item| {
                let destination = item["dst"].as_str().unwrap_or_default();
                // Made by the kernel itself, or not, as forwarding and a link come up in turn.
                let anycast = destination == "fe80::" && item["type"] == "anycast";
                !anycast && !made_of_mac(destination)
            });
            for item in items.iter_mut() {
                normalise(item);
            }
            items.sort_by_key(ToString::to_string);
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// `ff:fe` in the middle of the interface identifier.
fn made_of_mac(address: &str) -> bool {
    address.parse::<Ipv6Addr>().is_ok_and(|address| {
        let octets = address.octets();
        octets[0] == 0xfe && octets[11] == 0xff && octets[12] == 0xfe
    })
}
