//! What the kernel does with packets that the fast path leaves to it, and what it does otherwise.

use super::{Finding, Port, Severity, ok};

pub(in crate::doctor) fn forwarding(values: &[Option<String>; 2]) -> Vec<Finding> {
    let names = [
        ("forwarding.ipv6", "net.ipv6.conf.all.forwarding"),
        ("forwarding.ipv4", "net.ipv4.ip_forward"),
    ];
    let meaning = "what the fast path leaves to the kernel is forwarded by it, or dropped";
    names
        .into_iter()
        .zip(values)
        .map(|((check, sysctl), value)| match value.as_deref() {
            Some("0") | None => {
                ok(check, "off", meaning).but(Severity::Warning, format!("sysctl -w {sysctl}=1"))
            }
            Some(_) => ok(check, "on", meaning),
        })
        .collect()
}

pub(super) fn firewall(chains: &Result<Vec<String>, String>) -> Finding {
    let meaning = "the fast path passes the kernel's firewall by: what a chain drops or \
                   translates on its way through is forwarded as it came";
    let check = "firewall.forward";
    match chains {
        Ok(chains) if chains.is_empty() => ok(check, "no chain for what is forwarded", meaning),
        Ok(chains) => ok(check, chains.join(", "), meaning).but(
            Severity::Warning,
            "filter on the hosts behind the ports, or leave it to the kernel: netmesh dataplane \
             detach",
        ),
        Err(why) => ok(check, format!("not seen: {why}"), meaning)
            .but(Severity::Warning, "sudo netmesh doctor; nft list ruleset"),
    }
}

/// A setting of a device as `sysctl -w` takes it. A name with a dot needs slashes.
fn setting(family: &str, device: &str, name: &str) -> String {
    let path = ["net", family, "conf", device, name];
    path.join(if device.contains('.') { "/" } else { "." })
}

/// The kernel's way to the internet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WayOut {
    /// By the device of this index.
    By(u32),
    /// There is none.
    None,
    /// It could not be asked for.
    Unknown,
}

/// Router advertisements: a router that takes them follows whoever sends some, and one that
/// forwards takes them only where it is told to (`accept_ra = 2`).
pub(super) fn advertisements(ports: &[Port], forwards: bool, way_out: WayOut) -> Vec<Finding> {
    let check = "sysctl.accept_ra";
    let mut findings = Vec::new();
    let mut deaf = Vec::new();
    for port in ports {
        let Some(name) = &port.name else { continue };
        match port.accept_ra.as_deref() {
            Some("2") => {
                let meaning = "everybody on that segment can become the router's default route";
                let off = format!("sysctl -w {}=0", setting("ipv6", name, "accept_ra"));
                // Towards a provider it may be meant.
                let meant = port.external || way_out == WayOut::By(port.ifindex);
                let found = format!("{name}: takes router advertisements (2)");
                let finding = ok(check, found, meaning);
                findings.push(if meant {
                    let route = format!("ip -6 route add default via ROUTER dev {name} metric 512");
                    finding.but(Severity::Note, format!("{route}; {off}"))
                } else {
                    finding.but(Severity::Warning, off)
                });
            }
            Some("1") if forwards => deaf.push(name.as_str()),
            _ => {}
        }
    }
    if let (Some(first), WayOut::None) = (deaf.first(), way_out) {
        let meaning = "a kernel that forwards ignores router advertisements, and there is no default \
                       route from elsewhere";
        let found = format!("{}: does not hear routers (1)", deaf.join(", "));
        let remedy = format!("ip -6 route add default via ROUTER dev {first}");
        findings.push(ok(check, found, meaning).but(Severity::Note, remedy));
    }
    if findings.is_empty() {
        let meaning = "no advertisement changes the routes of this router";
        findings.push(ok(check, "no port takes default routes", meaning));
    }
    findings
}

/// The strict check of IPv4 sources, where the fast path makes none.
pub(super) fn reverse_path(ports: &[Port], forwards: bool) -> Vec<Finding> {
    const STRICT: u8 = 1;
    let check = "sysctl.rp_filter";
    let strict = |port: &&Port| port.any_source && port.rp_filter == Some(STRICT);
    let mut findings: Vec<Finding> = ports
        .iter()
        .filter(|_| forwards)
        .filter(strict)
        .filter_map(|port| {
            let name = port.name.as_ref()?;
            let meaning = "the kernel drops IPv4 packets whose way back leads elsewhere, the fast path \
                           forwards them: what gets through changes from packet to packet";
            let remedy = format!(
                "netmesh dataplane attach --port {name} --hook {} --sources behind, or sysctl -w {}=2",
                port.hook(),
                setting("ipv4", name, "rp_filter")
            );
            let found = format!("{name}: strict in the kernel alone");
            Some(ok(check, found, meaning).but(Severity::Warning, remedy))
        })
        .collect();
    if findings.is_empty() {
        let meaning = "kernel and fast path believe the same IPv4 sources";
        findings.push(ok(check, "no port is strict in the kernel alone", meaning));
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    fn port(accept_ra: &str, rp_filter: u8) -> Port {
        Port {
            name: Some("eth0.7".into()),
            ifindex: 2,
            link: "tcx",
            any_source: true,
            accept_ra: Some(accept_ra.into()),
            rp_filter: Some(rp_filter),
            ..Port::default()
        }
    }

    #[test]
    fn advertisements_are_taken_from_nobody_by_chance() {
        use Severity::{Note, Ok, Warning};
        let (elsewhere, here) = (WayOut::By(7), WayOut::By(2));
        for (value, external, forwards, way_out, severity) in [
            ("0", false, true, WayOut::None, Ok),
            ("1", false, true, here, Ok),
            ("1", false, true, WayOut::Unknown, Ok),
            ("1", false, false, WayOut::None, Ok),
            ("1", false, true, WayOut::None, Note),
            ("2", false, true, elsewhere, Warning),
            ("2", false, true, WayOut::None, Warning),
            ("2", false, true, here, Note),
            ("2", true, true, elsewhere, Note),
        ] {
            let mut port = port(value, 0);
            port.external = external;
            let findings = advertisements(&[port], forwards, way_out);
            assert_eq!(findings.len(), 1);
            assert_eq!(findings[0].severity, severity, "{value} {way_out:?}");
        }
        let findings = advertisements(&[port("2", 0)], true, WayOut::None);
        let remedy = findings[0].remedy.as_deref();
        assert_eq!(remedy, Some("sysctl -w net/ipv6/conf/eth0.7/accept_ra=0"));
    }

    #[test]
    fn a_strict_check_of_the_kernel_alone_is_told() {
        use Severity::{Ok, Warning};
        for (value, any_source, forwards, severity) in [
            (0, true, true, Ok),
            (2, true, true, Ok),
            (1, true, false, Ok),
            (1, false, true, Ok),
            (1, true, true, Warning),
        ] {
            let mut port = port("0", value);
            port.any_source = any_source;
            let findings = reverse_path(&[port], forwards);
            assert_eq!(findings[0].severity, severity, "{value}");
        }
    }
}
