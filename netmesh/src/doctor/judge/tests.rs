//! A good machine, and every fault of it alone.

use super::links::KINDS;
use super::*;

fn good() -> Machine {
    Machine {
        kernel: Kernel {
            release: "6.12.90-amd64".into(),
            bpffs: Bpffs::Mounted,
            tcx: Seen::Yes,
            clsact: Seen::Yes,
            follower: Seen::Yes,
            jit: Jit::Is("1".into()),
            unprivileged: Some("2".into()),
            lockdown: Some("[none] integrity confidentiality".into()),
        },
        root: true,
        limits: Limits {
            files: Some(1024),
            locked: Some(8 << 20),
        },
        kinds: Ok(KINDS.iter().map(|(kind, ..)| (*kind, None)).collect()),
        clock: Clock {
            synchronised: Some(true),
            now: 1 << 31,
            written: Some(1 << 30),
        },
        objects: Some(Ok(())),
        files: vec![Held {
            path: "/etc/netmesh/keys/alice/gw.key".into(),
            kind: Kind::Key,
            mode: 0o600,
            owned: true,
            link: false,
        }],
        listeners: vec![Listener {
            name: "wg-1".into(),
            port: 51820,
            taken: false,
        }],
        tunnels: vec![Tunnel {
            namespace: None,
            name: "wg-1".into(),
            mtu: 1420,
            ways: vec![Way {
                endpoint: "2001:db8::1".parse().unwrap(),
                device: "eth0".into(),
                mtu: 1500,
            }],
        }],
        leftovers: Ok(Vec::new()),
        forwarding: [Some("1".into()), Some("1".into())],
        firewall: Ok(Vec::new()),
        ports: Ok(vec![Port {
            name: Some("eth0".into()),
            ifindex: 2,
            link: "xdp",
            any_source: true,
            ethernet: true,
            below: Below {
                name: "eth0".into(),
                kind: String::new(),
                offers: Some(Offers {
                    native: true,
                    takes: true,
                }),
                takes_tags_off: Some(false),
            },
            accept_ra: Some("0".into()),
            rp_filter: Some(0),
            ..Port::default()
        }]),
        occupied: Vec::new(),
        way_out: WayOut::By(7),
        tables: Some(Tables {
            fill: vec![Fill {
                what: "routes",
                used: 1,
                capacity: 10,
                remedy: "netmesh route",
                spills: false,
            }],
            neighbours: [1, 1],
            most: [Some(1024), Some(1024)],
        }),
    }
}

/// The findings that are not as they should be.
fn bad(change: impl FnOnce(&mut Machine)) -> Vec<(&'static str, Severity)> {
    let mut machine = good();
    change(&mut machine);
    judge(&machine)
        .into_iter()
        .inspect(|finding| assert!(CHECKS.contains(&finding.check), "{finding:?}"))
        .filter(|finding| finding.severity != Severity::Ok)
        .inspect(|finding| assert!(finding.remedy.is_some(), "{finding:?}"))
        .map(|finding| (finding.check, finding.severity))
        .collect()
}

#[test]
fn a_good_machine_has_nothing_to_mend() {
    assert_eq!(bad(|_| ()), []);
}

#[test]
fn checks_have_one_name_each() {
    let names: std::collections::BTreeSet<&str> = CHECKS.into();
    assert_eq!(names.len(), CHECKS.len());
}

type Change = fn(&mut Machine);

#[test]
fn each_fault_of_the_kernel_is_one_finding_with_a_remedy() {
    use Severity::{Error, Note, Warning};
    let table: [(Change, &'static str, Severity); 17] = [
        (
            |m| m.kernel.release = "5.12.0-31-amd64".into(),
            "kernel.version",
            Error,
        ),
        (
            |m| m.kernel.release = "6.0.19".into(),
            "kernel.version",
            Error,
        ),
        (
            |m| m.kernel.release = "strange".into(),
            "kernel.version",
            Warning,
        ),
        (
            |m| m.kernel.unprivileged = Some("0".into()),
            "kernel.unprivileged_bpf",
            Warning,
        ),
        (
            |m| m.kernel.lockdown = Some("none integrity [confidentiality]".into()),
            "kernel.lockdown",
            Note,
        ),
        (|m| m.root = false, "privileges", Error),
        (|m| m.kernel.bpffs = Bpffs::Missing, "bpf.fs", Note),
        (|m| m.kernel.bpffs = Bpffs::Hidden, "bpf.fs", Error),
        (|m| m.kernel.jit = Jit::Is("0".into()), "bpf.jit", Warning),
        (|m| m.kernel.jit = Jit::Missing, "bpf.jit", Warning),
        (|m| m.kernel.jit = Jit::Unseen, "bpf.jit", Note),
        (
            |m| m.kernel.tcx = Seen::No("6.6".into()),
            "tc.attachment",
            Note,
        ),
        (
            |m| {
                m.kernel.tcx = Seen::No("6.6".into());
                m.kernel.clsact = Seen::No("ENOENT".into());
            },
            "tc.attachment",
            Error,
        ),
        (
            |m| m.kernel.follower = Seen::No("no BTF".into()),
            "bpf.btf",
            Warning,
        ),
        (|m| m.kinds = Err("EPERM".into()), "link", Warning),
        (|m| m.limits.files = Some(256), "limits.files", Warning),
        (|m| m.clock.now = 0, "clock.time", Error),
    ];
    for (change, check, severity) in table {
        assert_eq!(bad(change), [(check, severity)]);
    }
}

#[test]
fn each_fault_of_a_node_is_one_finding_with_a_remedy() {
    use Severity::{Error, Note, Warning};
    let table: [(Change, &'static str, Severity); 14] = [
        (
            |m| m.objects = Some(Err("network.toml: no prefix".into())),
            "objects",
            Warning,
        ),
        (|m| m.files[0].mode = 0o644, "keys.files", Error),
        (|m| m.listeners[0].taken = true, "wireguard.port", Error),
        (|m| m.tunnels[0].mtu = 1500, "mtu.tunnel", Warning),
        (|m| m.leftovers = Err("EPERM".into()), "pins", Note),
        (
            |m| m.forwarding[0] = Some("0".into()),
            "forwarding.ipv6",
            Warning,
        ),
        (
            |m| m.firewall = Ok(vec!["inet filter forward".into()]),
            "firewall.forward",
            Warning,
        ),
        (
            |m| m.firewall = Err("EPERM".into()),
            "firewall.forward",
            Warning,
        ),
        (|m| m.ports.as_mut().unwrap()[0].name = None, "port", Error),
        (|m| m.ports = Err("EPERM".into()), "ports", Warning),
        (
            |m| m.ports.as_mut().unwrap()[0].accept_ra = Some("2".into()),
            "sysctl.accept_ra",
            Warning,
        ),
        (
            |m| m.ports.as_mut().unwrap()[0].rp_filter = Some(1),
            "sysctl.rp_filter",
            Warning,
        ),
        (
            |m| m.tables.as_mut().unwrap().fill[0].used = 10,
            "table.fill",
            Error,
        ),
        (
            |m| m.tables.as_mut().unwrap().neighbours[1] = 1000,
            "neighbours.ipv4",
            Warning,
        ),
    ];
    for (change, check, severity) in table {
        assert_eq!(bad(change), [(check, severity)]);
    }
}

#[test]
fn a_kind_that_is_missing_is_as_bad_as_what_needs_it() {
    for (kind, check, severity, _) in KINDS {
        let lacks = |machine: &mut Machine| {
            let kinds = machine.kinds.as_mut().unwrap();
            kinds.insert(kind, Some("Operation not supported".into()));
        };
        assert_eq!(bad(lacks), [(check, severity)]);
    }
}
