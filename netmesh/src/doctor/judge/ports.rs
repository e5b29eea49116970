//! Ports: where packets meet the data plane, by which hook, and why not by a faster one.

use super::{Finding, Severity, ok, quoted};

/// One port of the data plane.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Port {
    /// The device; `None` when it is gone.
    pub name: Option<String>,
    /// Its index.
    pub ifindex: u32,
    /// How the program is attached.
    pub link: &'static str,
    /// What an operator should know.
    pub warning: Option<&'static str>,
    /// The objects say how it is attached.
    pub by_objects: bool,
    /// It believes any source.
    pub any_source: bool,
    /// It faces the outside.
    pub external: bool,
    /// Its frames have a link-layer header.
    pub ethernet: bool,
    /// The device that sends and receives: the one below a VLAN sub-interface, or itself.
    pub below: Below,
    /// `accept_ra`, of a device that takes default routes (`accept_ra_defrtr`).
    pub accept_ra: Option<String>,
    /// `rp_filter` as it is in force: the larger of the device's and that of all.
    pub rp_filter: Option<u8>,
}

impl Port {
    /// The hook as `dataplane attach` takes it.
    pub(super) fn hook(&self) -> &'static str {
        match self.link {
            "xdp" | "xdpvlan" => "xdp",
            "xdpgeneric" => "xdp-generic",
            _ => "tc",
        }
    }
}

/// The device that sends and receives for a port.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Below {
    /// Its name.
    pub name: String,
    /// Its kind (`veth`, …); empty for a physical one.
    pub kind: String,
    /// What its driver does for XDP; `None` before Linux 6.3.
    pub offers: Option<Offers>,
    /// It takes VLAN tags off before XDP sees a frame; `None` where that says nothing.
    pub takes_tags_off: Option<bool>,
}

/// What a driver does for XDP.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offers {
    /// It runs programs that hand frames to other devices.
    pub native: bool,
    /// It takes frames from other devices.
    pub takes: bool,
}

/// A device that has an XDP program of somebody else's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Occupied {
    /// The device.
    pub name: String,
    /// The program.
    pub program: String,
    /// Ours is attached there, too, after it.
    pub attached: bool,
}

pub(super) fn judge(ports: &Result<Vec<Port>, String>, occupied: &[Occupied]) -> Vec<Finding> {
    let mut findings = match ports {
        Err(why) => vec![
            ok(
                "ports",
                format!("not seen: {why}"),
                "where packets meet the data plane",
            )
            .but(Severity::Warning, "sudo netmesh doctor"),
        ],
        Ok(ports) => ports.iter().flat_map(one).collect(),
    };
    findings.extend(occupied.iter().map(other));
    findings
}

fn one(port: &Port) -> Vec<Finding> {
    let Some(name) = &port.name else {
        let found = format!("interface {} is gone or detached", port.ifindex);
        return vec![ok("port", found, "its packets take the kernel's way").but(
            Severity::Error,
            "netmesh apply, or dataplane attach --port DEV",
        )];
    };
    let attached = format!("{name} ({})", port.link);
    let first = match port.warning {
        Some(warning) => ok("port", attached, warning).but(Severity::Warning, remedy(port, name)),
        None => ok("port", attached, "where packets meet the data plane"),
    };
    let mut findings = vec![first, mode(port, name)];
    if is_native(port) {
        findings.extend(
            [transmit(port, name), tags(port, name)]
                .into_iter()
                .flatten(),
        );
    }
    findings
}

fn is_native(port: &Port) -> bool {
    matches!(port.link, "xdp" | "xdpvlan")
}

/// What mends what `dataplane status` warns of.
fn remedy(port: &Port, name: &str) -> String {
    match (port.link, port.below.kind.as_str()) {
        ("xdpvlan", "veth") => "on its other end: ethtool -K DEV gro on txvlan off".into(),
        ("xdpvlan", _) => tags_remedy(port),
        ("xdp", "veth") => "on its other end: ethtool -K DEV gro on tx off".into(),
        _ => format!("netmesh dataplane attach --hook tc --port {}", quoted(name)),
    }
}

/// Where the program sits, and why not in the driver.
fn mode(port: &Port, name: &str) -> Finding {
    let meaning = "native XDP is the fastest hook, TC the next; generic XDP is slower than both";
    let offers = port.below.offers;
    let native = offers.map(|offers| offers.native);
    let say = |text: &str| ok("xdp.mode", format!("{name}: {text}"), meaning);
    let change = |hook: &str| {
        let name = quoted(name);
        format!("netmesh dataplane attach --hook {hook} --port {name}")
    };
    match (port.link, native) {
        ("xdp", _) => say("native XDP"),
        ("xdpvlan", _) => say(&format!("native XDP on {} below it", port.below.name)),
        ("xdpgeneric", Some(true)) => say("generic XDP, though its driver has native XDP")
            .but(Severity::Warning, change("xdp")),
        ("xdpgeneric", Some(false)) => {
            say("generic XDP; its driver has no native XDP").but(Severity::Note, change("tc"))
        }
        ("xdpgeneric", None) => say("generic XDP; what its driver has is told from Linux 6.3 on")
            .but(Severity::Note, change("tc")),
        _ if !port.ethernet => say("TC; without a link-layer header there is no XDP"),
        (_, Some(false)) => say("TC; its driver has no native XDP"),
        (_, None) => say("TC; what its driver has is told from Linux 6.3 on"),
        (_, Some(true)) if port.by_objects => say("TC, by its object; its driver has native XDP"),
        // A device made of software gains little.
        (_, Some(true)) if !port.below.kind.is_empty() => {
            say("TC, as was asked for; its driver has native XDP")
        }
        (_, Some(true)) => {
            say("TC, though its driver has native XDP").but(Severity::Note, change("xdp"))
        }
    }
}

/// Whether a native port can be sent frames.
fn transmit(port: &Port, name: &str) -> Option<Finding> {
    let offers = port.below.offers?;
    let below = &port.below.name;
    if offers.takes {
        let found = format!("{name}: takes frames from other XDP ports");
        let meaning = "what XDP forwards to it leaves";
        return Some(ok("xdp.transmit", found, meaning));
    }
    let found = format!("{name}: takes no frames from other XDP ports");
    let meaning = "what XDP forwards to it is lost (redirect_failed)";
    let remedy = if port.below.kind == "veth" {
        format!("on the other end of {below}: ethtool -K DEV gro on")
    } else {
        let port = quoted(name);
        format!("netmesh dataplane attach --hook tc --port {port}, and the ports that send to it")
    };
    Some(ok("xdp.transmit", found, meaning).but(Severity::Error, remedy))
}

/// Whether XDP sees the tags of VLANs.
fn tags(port: &Port, name: &str) -> Option<Finding> {
    let below = &port.below.name;
    if !port.below.takes_tags_off? {
        let meaning = "XDP tells the frames of VLANs by their tags";
        let found = format!("{name}: {below} leaves tags in frames");
        return Some(ok("xdp.tags", found, meaning));
    }
    let found = format!("{name}: {below} takes tags off (rx-vlan-offload)");
    let (severity, meaning) = if port.link == "xdpvlan" {
        let meaning =
            "XDP does not see whose frames they are: what the VLAN receives is the kernel's";
        (Severity::Warning, meaning)
    } else {
        let meaning = "a frame of a VLAN that this node has not would pass for an untagged one; on an \
                       access port none comes";
        (Severity::Note, meaning)
    };
    Some(ok("xdp.tags", found, meaning).but(severity, tags_remedy(port)))
}

fn tags_remedy(port: &Port) -> String {
    format!("ethtool -K {} rxvlan off", quoted(&port.below.name))
}

fn other(occupied: &Occupied) -> Finding {
    let Occupied {
        name,
        program,
        attached,
    } = occupied;
    let found = format!("{name}: {program}");
    let remedy = format!(
        "ip link set dev {} xdp off, or end who put it there",
        quoted(name)
    );
    if *attached {
        let meaning = "another XDP program sees every frame first: what it drops or redirects never \
                       gets to the data plane";
        return ok("xdp.other", found, meaning).but(Severity::Warning, remedy);
    }
    let meaning = "another XDP program sits where the objects want ours: apply is refused there";
    ok("xdp.other", found, meaning).but(Severity::Error, remedy)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NATIVE: Offers = Offers {
        native: true,
        takes: true,
    };
    const NOTHING: Offers = Offers {
        native: false,
        takes: false,
    };

    fn port(link: &'static str, kind: &str, offers: Option<Offers>) -> Port {
        Port {
            name: Some("eth0".into()),
            ifindex: 2,
            link,
            ethernet: true,
            below: Below {
                name: "eth0".into(),
                kind: kind.into(),
                offers,
                takes_tags_off: None,
            },
            ..Port::default()
        }
    }

    /// The finding of a check.
    fn found(port: Port, check: &str) -> Option<Finding> {
        let all = judge(&Ok(vec![port]), &[]);
        all.into_iter().find(|finding| finding.check == check)
    }

    #[test]
    fn the_mode_of_a_port_is_told_with_its_reason() {
        use Severity::{Note, Ok, Warning};
        let tunnel = Port {
            ethernet: false,
            ..port("tcx", "wireguard", None)
        };
        let by_objects = Port {
            by_objects: true,
            ..port("tcx", "", Some(NATIVE))
        };
        for (port, severity, word) in [
            (port("xdp", "", Some(NATIVE)), Ok, "native XDP"),
            (port("xdpvlan", "", None), Ok, "on eth0 below it"),
            (port("xdpgeneric", "", Some(NATIVE)), Warning, "though"),
            (port("xdpgeneric", "", Some(NOTHING)), Note, "no native"),
            (port("xdpgeneric", "", None), Note, "Linux 6.3"),
            (port("tcx", "", Some(NATIVE)), Note, "though"),
            (port("clsact", "veth", Some(NATIVE)), Ok, "as was asked"),
            (port("tcx", "", Some(NOTHING)), Ok, "no native"),
            (port("tcx", "", None), Ok, "Linux 6.3"),
            (by_objects, Ok, "by its object"),
            (tunnel, Ok, "link-layer header"),
        ] {
            let finding = found(port, "xdp.mode").unwrap();
            assert_eq!(finding.severity, severity, "{finding:?}");
            assert!(finding.found.contains(word), "{finding:?}");
            assert_eq!(finding.remedy.is_some(), severity != Ok, "{finding:?}");
        }
    }

    #[test]
    fn a_native_port_must_take_frames() {
        let deaf = Offers {
            takes: false,
            ..NATIVE
        };
        for (link, kind, offers, severity) in [
            ("xdp", "veth", Some(NATIVE), Some(Severity::Ok)),
            ("xdp", "veth", Some(deaf), Some(Severity::Error)),
            ("xdpvlan", "", Some(deaf), Some(Severity::Error)),
            ("xdp", "", None, None),
            ("tcx", "", Some(deaf), None),
        ] {
            let finding = found(port(link, kind, offers), "xdp.transmit");
            assert_eq!(
                finding.map(|finding| finding.severity),
                severity,
                "{link} {kind}"
            );
        }
    }

    #[test]
    fn tags_that_are_taken_off_matter_most_to_vlans() {
        for (link, off, severity) in [
            ("xdp", Some(false), Some(Severity::Ok)),
            ("xdp", Some(true), Some(Severity::Note)),
            ("xdpvlan", Some(true), Some(Severity::Warning)),
            ("xdpvlan", None, None),
            ("tcx", Some(true), None),
        ] {
            let mut port = port(link, "", Some(NATIVE));
            port.below.takes_tags_off = off;
            let finding = found(port, "xdp.tags");
            if let Some(remedy) = finding.as_ref().and_then(|finding| finding.remedy.as_ref()) {
                assert_eq!(remedy, "ethtool -K eth0 rxvlan off");
            }
            assert_eq!(finding.map(|finding| finding.severity), severity, "{link}");
        }
    }

    #[test]
    fn a_warning_of_a_port_has_the_remedy_of_its_kind() {
        for (link, kind, remedy) in [
            (
                "xdp",
                "veth",
                "on its other end: ethtool -K DEV gro on tx off",
            ),
            (
                "xdpvlan",
                "veth",
                "on its other end: ethtool -K DEV gro on txvlan off",
            ),
            ("xdpvlan", "", "ethtool -K eth0 rxvlan off"),
            ("xdp", "", "netmesh dataplane attach --hook tc --port eth0"),
        ] {
            let mut port = port(link, kind, None);
            port.warning = Some("a warning");
            let finding = found(port, "port").unwrap();
            assert_eq!(finding.remedy.as_deref(), Some(remedy));
        }
    }

    #[test]
    fn another_s_program_is_in_the_way_or_before_ours() {
        for (attached, severity) in [(true, Severity::Warning), (false, Severity::Error)] {
            let occupied = Occupied {
                name: "eth0".into(),
                program: "xdp_drop (12)".into(),
                attached,
            };
            let findings = judge(&Ok(Vec::new()), &[occupied]);
            assert_eq!(findings[0].severity, severity);
            assert_eq!(findings[0].found, "eth0: xdp_drop (12)");
        }
    }
}
