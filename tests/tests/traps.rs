//! What routers in XDP and TC get wrong, one trap a test: frames made by hand go in on the left,
//! and what is on the wires is compared. docs/conformance.md says which trap is whose.

use std::net::{IpAddr, UdpSocket};

use netmesh::demo::traffic::ping;
use netmesh::kernel::netns;
use netmesh_tests::Lab;
use netmesh_tests::field::{
    Field, MARK, PATIENCE, contains, marked, redirects_no_several_buffers, routed,
};
use netmesh_tests::pair::{HOOKS, LEFT, LEFT4, RIGHT, RIGHT4, ROUTER, ends};
use netmesh_tests::wire::{
    ETHERNET, ICMPV6, IPV4, IPV6, UDP, Wire, checked, datagram, frame, ipv4, ipv6, is_from,
    transport_sum,
};

fn six(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

/// What must not leave on the other side, and the reason it is counted under.
fn forbidden() -> Vec<(&'static str, Vec<u8>, &'static str)> {
    let (left, right) = (IpAddr::V6(LEFT), IpAddr::V6(RIGHT));
    let (left4, right4) = (IpAddr::V4(LEFT4), IpAddr::V4(RIGHT4));
    let from = |source: &str| datagram(six(source), right, 64, MARK, 80);
    let to = |destination: &str| datagram(left, six(destination), 64, MARK, 80);
    let from4 = |source: &str| datagram(six(source), right4, 64, MARK, 60);
    let to4 = |destination: &str| datagram(left4, six(destination), 64, MARK, 60);
    let broken = |mut packet: Vec<u8>, at: usize, byte: u8| {
        packet[at] = byte;
        packet
    };
    let good = || datagram(left, right, 64, MARK, 80);
    let good4 = || datagram(left4, right4, 64, MARK, 60);
    vec![
        (
            "hop limit 1",
            datagram(left, right, 1, MARK, 80),
            "hop_limit",
        ),
        (
            "hop limit 0",
            datagram(left, right, 0, MARK, 80),
            "hop_limit",
        ),
        ("TTL 1", datagram(left4, right4, 1, MARK, 60), "hop_limit"),
        ("TTL 0", datagram(left4, right4, 0, MARK, 60), "hop_limit"),
        ("from link-local", from("fe80::77"), "scope"),
        ("to link-local", to("fe80::77"), "scope"),
        ("from a group", from("ff02::1"), "scope"),
        ("to a group of the link", to("ff02::5"), "scope"),
        ("to a global group", to("ff0e::5"), "scope"),
        ("from nobody", from("::"), "scope"),
        ("to nobody", to("::"), "scope"),
        ("from loopback", from("::1"), "scope"),
        ("to loopback", to("::1"), "scope"),
        ("IPv4 from a group", from4("224.0.0.5"), "scope"),
        ("IPv4 to a group", to4("224.0.0.5"), "scope"),
        ("IPv4 broadcast", to4("255.255.255.255"), "scope"),
        ("IPv4 class E", to4("240.0.0.1"), "scope"),
        ("IPv4 from loopback", from4("127.0.0.1"), "scope"),
        ("IPv4 to loopback", to4("127.0.0.1"), "scope"),
        ("IPv4 from this network", from4("0.0.0.0"), "scope"),
        ("IPv4 from the router", from4("100.81.2.1"), "scope"),
        ("directed broadcast", to4("100.81.2.255"), "local"),
        (
            "IPv6 longer than the frame",
            broken(good(), 5, 200),
            "malformed",
        ),
        (
            "IPv6 of another version",
            broken(good(), 0, 0x70),
            "malformed",
        ),
        (
            "IPv4 longer than the frame",
            broken(good4(), 3, 200),
            "malformed",
        ),
        (
            "IPv4 with a header of 16",
            broken(good4(), 0, 0x44),
            "malformed",
        ),
        (
            "IPv4 with a wrong sum",
            broken(good4(), 11, 0x77),
            "malformed",
        ),
    ]
}

#[test]
fn what_never_crosses_does_not_cross() {
    for hook in HOOKS {
        let field = Field::plain(hook);
        for (name, packet, reason) in forbidden() {
            let before = field.ports().punted(reason);
            // The broken version nibble does not choose the EtherType.
            let ethertype = if packet.len() == 60 { IPV4 } else { IPV6 };
            let whole = frame(field.router, field.host, ethertype, &packet);
            field.left.send(&whole);
            field.assert_nothing_crosses(name);
            let counted = field.ports().punted(reason) - before;
            // The hosts' own neighbour discovery counts as these too.
            let chatter = ["scope", "local"].contains(&reason) && counted > 1;
            assert!(
                counted == 1 || chatter,
                "{hook}: {name} is counted as {reason} {counted} times"
            );
        }
        // A frame that was flooded to us and is somebody else's.
        let other = frame([2, 0, 0, 0, 0, 9], field.host, IPV6, &marked());
        field.left.send(&other);
        field.assert_nothing_crosses("another station's frame");
        assert!(field.ports().punted("not_for_us") > 0, "{hook}");
        field.ports().assert_balanced();
    }
}

/// RFC 2827: a source that does not live behind its port goes, and nobody answers it.
#[test]
fn spoofed_sources_are_dropped_without_an_answer() {
    for hook in HOOKS {
        let field = Field::new(hook, "behind", |_| {});
        let spoofed = [
            datagram(six("2a02:1812:2::66"), RIGHT.into(), 64, MARK, 80),
            datagram(six("2a02:1812:ffff::1"), RIGHT.into(), 64, MARK, 80),
            datagram(RIGHT.into(), RIGHT.into(), 64, MARK, 80),
            datagram(ROUTER.into(), RIGHT.into(), 64, MARK, 80),
            datagram(six("2a02:1812:2::66"), RIGHT.into(), 1, MARK, 80),
            datagram(
                six("2a02:1812:2::66"),
                six("2a02:1812:ffff::1"),
                64,
                MARK,
                80,
            ),
            datagram(six("100.81.2.66"), RIGHT4.into(), 64, MARK, 60),
            datagram(six("9.9.9.9"), RIGHT4.into(), 64, MARK, 60),
            // Nobody's, and the kernel would route them.
            datagram(six("::ffff:1.2.3.4"), RIGHT.into(), 64, MARK, 80),
            datagram(six("::1.2.3.4"), RIGHT.into(), 64, MARK, 80),
            datagram(six("169.254.7.7"), RIGHT4.into(), 64, MARK, 60),
            datagram(six("240.0.0.1"), RIGHT4.into(), 64, MARK, 60),
            datagram(six("0.1.2.3"), RIGHT4.into(), 64, MARK, 60),
        ];
        for (n, packet) in spoofed.iter().enumerate() {
            field.send(packet);
            // Neither the packet nor an error about it.
            field.assert_nothing_crosses(&format!("{hook}: {packet:02x?}"));
            assert_eq!(
                field.ports().dropped("source_invalid"),
                n as u64 + 1,
                "{hook}"
            );
        }
        // Neighbour discovery has link-local sources, and both hosts were resolved through these
        // ports; an honest source crosses.
        field.send(&marked());
        assert_eq!(field.arrives(MARK), routed(marked()));
    }
}

/// The kernel takes priority tags off, whatever their number, and routes what is left: a source is
/// looked at behind them. `skb_vlan_untag`.
#[test]
fn priority_tags_hide_no_spoofed_source() {
    const Q: [u8; 4] = [0x81, 0, 0, 0];
    const HIGH: [u8; 4] = [0x81, 0, 0xe0, 0];
    const PROVIDER: [u8; 4] = [0x88, 0xa8, 0, 0];
    let spoofed = [
        datagram(six("2a02:1812:2::66"), RIGHT.into(), 64, MARK, 80),
        datagram(six("100.81.2.66"), RIGHT4.into(), 64, MARK, 60),
    ];
    // Whom nobody listens to is answered by the host on the right, so they have another mark.
    let honest = [
        datagram(LEFT.into(), RIGHT.into(), 64, MARK + 1, 80),
        datagram(LEFT4.into(), RIGHT4.into(), 64, MARK + 1, 60),
    ];
    for hook in HOOKS {
        let field = Field::new(hook, "behind", |_| {});
        let tagged = |packet: &[u8], tags: &[[u8; 4]]| {
            let mut frame = field.framed(packet);
            frame.splice(12..12, tags.concat());
            frame
        };
        let (mut dropped, mut punted) = (0, 0);
        for tags in [&[Q][..], &[PROVIDER], &[HIGH, Q], &[Q, PROVIDER, Q, HIGH]] {
            for packet in &spoofed {
                field.left.send(&tagged(packet, tags));
                field.assert_nothing_crosses(&format!("{hook}: {tags:02x?} {packet:02x?}"));
                dropped += 1;
                assert_eq!(field.ports().dropped("source_invalid"), dropped, "{hook}");
            }
            for packet in &honest {
                field.left.send(&tagged(packet, tags));
                let wanted = routed(packet.clone());
                let arrived = |frame: &[u8]| frame.get(ETHERNET..) == Some(&wanted[..]);
                assert!(field.right.wait(PATIENCE, arrived).is_some(), "{hook}");
                punted += 1;
                assert_eq!(field.ports().punted("vlan"), punted, "{hook}");
            }
        }
        // Behind more of them nobody looks, and nobody believes.
        field.left.send(&tagged(&marked(), &[Q; 6]));
        field.assert_nothing_crosses(&format!("{hook}: six tags"));
        assert_eq!(
            field.ports().dropped("source_invalid"),
            dropped + 1,
            "{hook}"
        );
        field.ports().assert_balanced();
    }
}

/// The node's own addresses, on whatever port, are the node's, also where the table has a default
/// route; so is what is sent to its UDP ports, WireGuard's among them.
#[test]
fn the_node_s_own_addresses_are_its_own() {
    for hook in HOOKS {
        let field = Field::plain(hook);
        for (default, via) in [("::/0", IpAddr::V6(RIGHT)), ("0.0.0.0/0", RIGHT4.into())] {
            let via = via.to_string();
            let route = ["route", "add", default, "via", &via, "dev", "port1"];
            let _ = field.lab.netmesh("router", &route);
        }
        field.lab.resolved("router");
        let before = field.ports().punted("local");
        let left = field.lab.at("left");
        for own in [
            "2a02:1812:1::1",
            "2a02:1812:2::1",
            "2a02:1812:1::",
            "2a02:1812:2::",
        ] {
            let answered = ping(&left, LEFT.into(), six(own), 104, 1).expect("a socket");
            assert_eq!(answered.received, 1, "{hook} {own}");
        }
        for own in ["100.81.1.1", "100.81.2.1"] {
            let answered = ping(&left, LEFT4.into(), six(own), 104, 1).expect("a socket");
            assert_eq!(answered.received, 1, "{hook} {own}");
        }
        let tunnel = netns::run_in(&field.lab.at("router"), || {
            UdpSocket::bind("[::]:51820").expect("WireGuard's port")
        })
        .expect("the router");
        tunnel.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        field.send(&datagram(LEFT.into(), ROUTER.into(), 64, 51_820, 100));
        let mut buffer = [0; 100];
        let length = tunnel.recv(&mut buffer).expect("the datagram");
        assert_eq!(length, 100 - 48, "{hook}");
        assert_eq!(field.ports().punted("local") - before, 7, "{hook}");
        // The same port of somebody else is traffic like any other.
        let kernel = field.kernel();
        let packet = datagram(LEFT.into(), RIGHT.into(), 64, 51_820, 100);
        field.send(&packet);
        assert_eq!(field.arrives(51_820), routed(packet));
        assert_eq!(field.kernel(), kernel, "{hook}");
    }
}

/// A way back through the port of ingress: the kernel sends the packet, once, and tells the
/// sender of the better way (RFC 4861 section 8.2).
#[test]
fn the_way_back_through_one_port_is_the_kernel_s() {
    for hook in HOOKS {
        let field = Field::new(hook, "any", |lab| {
            lab.ip("left", "addr add fe80::2/64 dev eth0 nodad");
            lab.ip("router", "addr add fe80::1/64 dev port0 nodad");
            lab.ip("router", "route add 2a02:1812:7::/64 via fe80::2 dev port0");
        });
        let route = [
            "route",
            "add",
            "2a02:1812:7::/64",
            "via",
            "fe80::2",
            "dev",
            "port0",
        ];
        let _ = field.lab.netmesh("router", &route);
        field.lab.resolved("router");
        // The message is sent before the packet: it gets a look of its own.
        let messages = Wire::open(&field.lab.at("left"), "eth0");
        let packet = datagram(LEFT.into(), six("2a02:1812:7::7"), 64, MARK, 80);
        field.send(&packet);
        let back = field.left.wait(PATIENCE, |frame| {
            frame[..6] == field.host && contains(frame, MARK) && frame[ETHERNET + 6] == UDP
        });
        assert_eq!(
            back.expect("it comes back")[ETHERNET..],
            routed(packet),
            "{hook}"
        );
        assert_eq!(field.ports().punted("same_port"), 1, "{hook}");
        let redirect = messages.wait(PATIENCE, |frame| {
            frame[12..14] == IPV6.to_be_bytes() && frame[ETHERNET + 40] == 137
        });
        assert!(redirect.is_some(), "{hook}: a redirect message");
    }
}

/// One link-local address behind two ports is two next hops.
#[test]
fn the_same_link_local_address_on_two_links_is_two_next_hops() {
    for hook in HOOKS {
        let lab = Lab::pair();
        lab.whole_checksums(true);
        for (host, n) in [("left", 1), ("right", 2)] {
            lab.ip(host, "addr add fe80::9/64 dev eth0 nodad");
            lab.ip(
                host,
                &format!("addr add 2a02:1812:1{n}::1/128 dev lo nodad"),
            );
        }
        lab.attach_pair(hook, "any");
        for n in [1, 2] {
            let prefix = format!("2a02:1812:1{n}::/64");
            let port = format!("port{}", n - 1);
            let _ = lab.netmesh(
                "router",
                &["route", "add", &prefix, "via", "fe80::9", "dev", &port],
            );
        }
        lab.resolved("router");
        // The kernel has no such routes: what arrives came the fast way.
        let (one, two) = (six("2a02:1812:11::1"), six("2a02:1812:12::1"));
        let there = ping(&lab.at("left"), one, two, 104, 3).expect("a socket");
        let back = ping(&lab.at("right"), two, one, 104, 3).expect("a socket");
        assert_eq!((there.received, back.received), (3, 3), "{hook}");
    }
}

/// The kernel finds what it is left as it came: it takes one hop off, not two, and quotes what the
/// sender sent, as much of it as 1280 bytes hold (RFC 4443 section 2.4), from an address the
/// sender can reach, under a right checksum.
#[test]
fn what_is_left_to_the_kernel_is_as_it_came() {
    for hook in HOOKS {
        let field = Field::new(hook, "any", |lab| {
            lab.ip("router", "link set port1 mtu 1400")
        });
        // Hop-by-hop options: one PadN of 6 bytes, then a datagram.
        let inner = datagram(LEFT.into(), RIGHT.into(), 64, MARK, 80);
        let options = [&[UDP, 0, 1, 4, 0, 0, 0, 0][..], &inner[40..]].concat();
        let packet = ipv6(LEFT, RIGHT, 64, 0, &options);
        field.send(&packet);
        assert_eq!(field.arrives(MARK), routed(packet), "{hook}");
        assert_eq!(field.ports().punted("hop_by_hop"), 1, "{hook}");
        // IPv4 options: a no-operation and three ends of the list.
        let inner = ipv4(LEFT4, RIGHT4, 64, UDP, 0x4000, &inner[40..]);
        let mut packet = inner[..20].to_vec();
        packet.extend([1, 0, 0, 0]);
        packet.extend(&inner[20..]);
        packet[0] = 0x46;
        packet[3] += 4;
        packet[8] = 65;
        let mut packet = routed(packet); // Sums it up.
        let ports = (MARK + 1).to_be_bytes();
        packet[24..28].copy_from_slice(&[ports, ports].concat());
        packet[30..32].fill(0); // No UDP checksum.
        field.send(&packet);
        assert_eq!(field.arrives(MARK + 1), routed(packet), "{hook}");
        assert_eq!(field.ports().punted("ipv4_options"), 1, "{hook}");

        for (kind, hops, parameter) in [(3, 1, 0_u32), (2, 64, 1400)] {
            let packet = datagram(LEFT.into(), RIGHT.into(), hops, MARK, 1500);
            field.send(&packet);
            let error = field
                .error(kind)
                .unwrap_or_else(|| panic!("{hook}: type {kind}"));
            assert!(
                is_from(&field.framed(&error), ROUTER.into()),
                "{hook} {kind}"
            );
            assert_eq!(error[41], 0, "{hook} {kind}: code");
            assert_eq!(error[44..48], parameter.to_be_bytes(), "{hook} {kind}");
            assert_eq!(checked(&error), Some(0xffff), "{hook} {kind}");
            assert_eq!(error.len(), 1280, "{hook} {kind}");
            assert_eq!(error[48..], packet[..1280 - 48], "{hook} {kind}");
        }
    }
}

/// RFC 4443 section 2.4(e): an error is never answered by an error; an echo request is.
#[test]
fn no_error_answers_an_error() {
    for hook in HOOKS {
        let field = Field::plain(hook);
        let message = |kind: u8| {
            let mut message = vec![kind, 0, 0, 0, 0, 0, 0, 0];
            message.extend(marked());
            let sum = transport_sum(LEFT.into(), RIGHT.into(), ICMPV6, &message);
            message[2..4].copy_from_slice(&(!sum).to_be_bytes());
            ipv6(LEFT, RIGHT, 1, ICMPV6, &message)
        };
        field.send(&message(1));
        field.send(&message(128));
        let error = field.error(3).expect("the echo request is answered");
        assert_eq!(
            error[48 + 40],
            128,
            "{hook}: the first error is about the request"
        );
        assert_eq!(field.ports().punted("hop_limit"), 2, "{hook}");
    }
}

/// Only the fixed header decides: extension headers, fragments and protocols nobody knows cross
/// as they came.
#[test]
fn what_follows_the_fixed_header_is_not_looked_at() {
    for hook in HOOKS {
        let field = Field::plain(hook);
        let kernel = field.kernel();
        let before = field.ports().forwarded();
        let payload = |port: u16| datagram(LEFT.into(), RIGHT.into(), 64, port, 80).split_off(40);
        // Next header, the eight bytes behind the fixed header.
        let headers: [(u8, [u8; 8]); 7] = [
            (43, [UDP, 0, 4, 0, 0, 0, 0, 0]),    // routing, no segments left
            (60, [UDP, 0, 1, 4, 0, 0, 0, 0]),    // destination options
            (44, [UDP, 0, 0, 1, 0, 0, 0, 7]),    // the first fragment
            (44, [UDP, 0, 1, 0x40, 0, 0, 0, 7]), // a later one
            (60, [UDP, 255, 1, 4, 0, 0, 0, 0]),  // options longer than the packet
            (50, [0; 8]),                        // encrypted
            (253, [0xff; 8]),                    // an experiment
        ];
        for (n, (next_header, header)) in headers.into_iter().enumerate() {
            let port = MARK + n as u16;
            let body = [&header[..], &payload(port)].concat();
            let packet = ipv6(LEFT, RIGHT, 64, next_header, &body);
            field.send(&packet);
            assert_eq!(field.arrives(port), routed(packet), "{hook} {next_header}");
        }
        // IPv4: may be fragmented, more fragments, a later fragment, the reserved bit.
        for (n, flags) in [0, 0x2000, 0x0010, 0x8000].into_iter().enumerate() {
            let port = MARK + 16 + n as u16;
            let packet = ipv4(LEFT4, RIGHT4, 64, UDP, flags, &payload(port));
            field.send(&packet);
            assert_eq!(field.arrives(port), routed(packet), "{hook} {flags:x}");
        }
        assert_eq!(field.kernel(), kernel, "{hook}: the fast path did it");
        assert!(field.ports().forwarded() >= before + 11, "{hook}");
    }
}

/// The MTU counts the whole packet: forty bytes less for IPv6 and every packet in that gap would
/// vanish.
#[test]
fn every_packet_up_to_the_mtu_crosses_and_none_above() {
    for hook in HOOKS {
        let field = Field::new(hook, "any", |lab| {
            lab.ip("router", "link set port1 mtu 1400");
            // As many errors as there are packets.
            lab.set("router", "net/ipv6/icmp/ratelimit", "0");
            lab.set("router", "net/ipv4/icmp_ratelimit", "0");
        });
        for (n, size) in [1399, 1400, 1401, 1420, 1439, 1440, 1441, 1500]
            .into_iter()
            .enumerate()
        {
            for (source, destination) in ends() {
                let port = MARK + 2 * n as u16 + u16::from(source.is_ipv4());
                let packet = datagram(source, destination, 64, port, size);
                let before = (field.ports().forwarded(), field.ports().punted("too_big"));
                field.send(&packet);
                let small = size <= 1400;
                if small {
                    assert_eq!(field.arrives(port), routed(packet), "{hook} {size}");
                } else {
                    let error = field.left.wait(PATIENCE, |frame| {
                        frame[..6] == field.host && contains(frame, port)
                    });
                    let error = error.unwrap_or_else(|| panic!("{hook} {destination} {size}"));
                    let icmp = &error[ETHERNET + if source.is_ipv6() { 40 } else { 20 }..];
                    // Packet too big; fragmentation needed and not allowed (RFC 1191).
                    let (head, mtu) = if source.is_ipv6() {
                        ([2, 0], [icmp[6], icmp[7]])
                    } else {
                        ([3, 4], [icmp[6], icmp[7]])
                    };
                    assert_eq!((icmp[..2] == head, u16::from_be_bytes(mtu)), (true, 1400));
                }
                let after = (field.ports().forwarded(), field.ports().punted("too_big"));
                assert_eq!(after.1 - before.1, u64::from(!small), "{hook} {size}");
                assert!(
                    !small || after.0 > before.0,
                    "{hook} {size} by the fast path"
                );
            }
        }
    }
}

/// Frames of several buffers.
#[test]
fn jumbo_frames_cross() {
    for hook in HOOKS {
        let field = Field::new(hook, "any", |lab| {
            for (machine, link) in [
                ("left", "eth0"),
                ("router", "port0"),
                ("router", "port1"),
                ("right", "eth0"),
            ] {
                lab.ip(machine, &format!("link set {link} mtu 9000"));
            }
        });
        let kernel = field.kernel();
        for (left, right) in ends() {
            for size in [1500, 3000, 4096, 8999, 9000] {
                let there = ping(&field.lab.at("left"), left, right, size, 2).expect("a socket");
                let back = ping(&field.lab.at("right"), right, left, size, 2).expect("a socket");
                assert_eq!(
                    (there.received, back.received),
                    (2, 2),
                    "{hook} {right} {size}"
                );
            }
        }
        if hook == "xdp" && redirects_no_several_buffers() {
            assert_ne!(field.kernel(), kernel, "{hook}: the kernel took over");
        } else {
            assert_eq!(field.kernel(), kernel, "{hook}: the fast path did it");
        }
        field.ports().assert_balanced();
    }
}

/// RFC 8200 section 5: a link below 1280 bytes is none of IPv6's. The kernel takes its addresses
/// and neighbours away, and the fast path has none left to send to.
#[test]
fn a_port_too_small_for_ipv6_carries_none() {
    for hook in HOOKS {
        let field = Field::plain(hook);
        field.send(&marked());
        assert_eq!(field.arrives(MARK), routed(marked()), "{hook}");
        field.lab.ip("router", "link set port1 mtu 1000");
        let before = field.ports().forwarded();
        field.send(&datagram(LEFT.into(), RIGHT.into(), 64, MARK + 1, 80));
        // The right host has answered the first: a datagram to a port nobody listens on.
        let unreachable = field.left.wait(PATIENCE, |frame| {
            frame[..6] == field.host && frame[ETHERNET + 40] == 1 && contains(frame, MARK + 1)
        });
        let unreachable = unreachable.expect("destination unreachable");
        assert!(is_from(&unreachable, ROUTER.into()), "{hook}");
        assert_eq!(field.ports().forwarded(), before, "{hook}");
        assert!(field.ports().punted("unresolved") > 0, "{hook}");
    }
}
