//! What does not cross the outer edge: special-purpose addresses, and what a port lists itself.

use std::net::IpAddr;

use netmesh_tests::field::{Field, MARK, routed};
use netmesh_tests::pair::{HOOKS, RIGHT, RIGHT4};
use netmesh_tests::wire::datagram;

fn six(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

/// RFC 6890: special-purpose sources do not come in through the outer edge, overlay networks'
/// addresses do.
#[test]
fn martians_do_not_pass_the_outer_edge() {
    for hook in HOOKS {
        let field = Field::new(hook, "external", |_| {});
        for source in ["fd00::1", "2001:db8::1", "100::1", "3fff::1", "fec0::1"] {
            let before = field.ports().dropped("martian");
            field.send(&datagram(six(source), RIGHT.into(), 64, MARK, 80));
            field.assert_nothing_crosses(source);
            assert_eq!(
                field.ports().dropped("martian"),
                before + 1,
                "{hook} {source}"
            );
        }
        for source in [
            "10.9.9.9",
            "192.168.1.1",
            "172.16.0.1",
            "203.0.113.1",
            "198.18.0.1",
        ] {
            let before = field.ports().dropped("martian");
            field.send(&datagram(six(source), RIGHT4.into(), 64, MARK, 60));
            field.assert_nothing_crosses(source);
            assert_eq!(
                field.ports().dropped("martian"),
                before + 1,
                "{hook} {source}"
            );
        }
        for (n, source) in ["200::1", "400::1"].into_iter().enumerate() {
            let port = MARK + 1 + n as u16;
            let packet = datagram(six(source), RIGHT.into(), 64, port, 80);
            field.send(&packet);
            assert_eq!(field.arrives(port), routed(packet), "{hook} {source}");
        }
    }
}

/// What a port lists comes before the registries, the longest prefix first, for that port and that
/// family; an attach without a list takes it away.
#[test]
fn a_port_says_itself_what_is_a_martian() {
    const LISTS: [&str; 10] = [
        "--martian",
        "2a02:1899::/32",
        "--not-martian",
        "fd00:7::/32",
        "--martian",
        "fd00:7:1::/48",
        "--not-martian",
        "100.64.0.0/10",
        "--not-martian",
        "::/2",
    ];
    for hook in HOOKS {
        let field = Field::new(hook, "external", |_| {});
        let attach = |lists: &[&str]| {
            let mut words = vec!["dataplane", "attach", "--port", "port0", "--hook", hook];
            words.extend(["--sources", "external"]);
            words.extend(lists);
            let _ = field.lab.netmesh("router", &words);
        };
        let crosses = |source: &str, port: u16| {
            let (to, size) = match six(source) {
                IpAddr::V6(_) => (IpAddr::V6(RIGHT), 80),
                IpAddr::V4(_) => (IpAddr::V4(RIGHT4), 60),
            };
            let before = field.ports().dropped("martian");
            let packet = datagram(six(source), to, 64, port, size);
            field.send(&packet);
            let arrived = field.ports().dropped("martian") == before;
            if arrived {
                assert_eq!(field.arrives(port), routed(packet), "{hook} {source}");
            } else {
                field.assert_nothing_crosses(source);
            }
            arrived
        };
        let sources = [
            // Listed as one; listed as none, and one inside it; said nothing of.
            ("2a02:1899::1", true, false),
            ("fd00:7::1", false, true),
            ("fd00:7:1::1", false, false),
            ("fd00:8::1", false, false),
            ("100.64.1.1", false, true),
            // IPv6's exception is none for IPv4.
            ("10.1.2.3", false, false),
            ("2a02:1898::1", true, true),
        ];
        let mut port = MARK + 20;
        for listed in [false, true, false] {
            attach(if listed { &LISTS } else { &[] });
            let status = field.lab.json("router", &["dataplane", "status"]);
            let said = &status["instance"]["ports"][0]["martians"];
            assert_eq!(said["fd00:7:1::/48"].as_bool(), listed.then_some(true));
            assert_eq!(said["::/2"].as_bool(), listed.then_some(false));
            for (source, before, with) in sources {
                port += 1;
                let wanted = if listed { with } else { before };
                assert_eq!(crosses(source, port), wanted, "{hook} {source}");
            }
        }
        field.ports().assert_balanced();
    }
}
