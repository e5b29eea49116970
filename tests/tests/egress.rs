//! Devices that change behind the data plane's back: what no device takes is never counted as
//! forwarded.

use netmesh_tests::field::{Field, MARK, PATIENCE, contains, routed};
use netmesh_tests::pair::{LEFT, RIGHT};
use netmesh_tests::wire::{ETHERNET, datagram};

/// A tunnel that vanished: the kernel's word on the packet, not a silent loss.
#[test]
fn what_was_for_a_device_that_is_gone_is_the_kernel_s() {
    let field = Field::plain("tc");
    let far = "2a02:1812:77::2".parse().expect("an address");
    field.lab.ip("router", "tuntap add dev t0 mode tun");
    field.lab.ip("router", "link set t0 up");
    let route = ["route", "add", "2a02:1812:77::/64", "dev", "t0"];
    let _ = field.lab.netmesh("router", &route);
    let send = |port| {
        field.send(&datagram(LEFT.into(), far, 64, port, 80));
        field.assert_nothing_crosses("what is for a tunnel");
    };
    let gone = "egress_not_a_port";
    send(MARK);
    assert!(field.ports().forwarded() > 0);
    assert_eq!(field.ports().punted(gone), 0);
    field.lab.ip("router", "link del t0");
    send(MARK + 1);
    let after = field.ports();
    assert_eq!(after.punted(gone), 1);
    after.assert_balanced();
}

/// TC asks the device itself.
#[test]
fn a_smaller_mtu_holds_at_once() {
    let field = Field::plain("tc");
    let packet = |port, size| datagram(LEFT.into(), RIGHT.into(), 64, port, size);
    field.send(&packet(MARK, 1500));
    assert_eq!(field.arrives(MARK), routed(packet(MARK, 1500)));
    field.lab.ip("router", "link set port1 mtu 1400");
    let before = field.ports().punted("too_big");
    field.send(&packet(MARK + 1, 1401));
    let error = field.error(2).expect("packet too big");
    assert!(contains(&error, MARK + 1));
    assert_eq!(error[44..48], 1400_u32.to_be_bytes());
    assert_eq!(field.ports().punted("too_big") - before, 1);
    field.send(&packet(MARK + 2, 1400));
    assert_eq!(field.arrives(MARK + 2), routed(packet(MARK + 2, 1400)));
}

/// XDP has said "redirect" before the device says no; the packet is counted as lost.
#[test]
fn what_xdp_sends_to_a_smaller_mtu_is_counted_as_lost() {
    for hook in ["xdp", "xdp-generic"] {
        let field = Field::plain(hook);
        field.lab.ip("router", "link set port1 mtu 1400");
        let before = field.ports();
        field.send(&datagram(LEFT.into(), RIGHT.into(), 64, MARK, 1500));
        let crossed = field.right.wait(PATIENCE / 10, |frame| {
            frame.len() > ETHERNET && contains(frame, MARK)
        });
        assert!(crossed.is_none(), "{hook}");
        let after = field.ports();
        assert_eq!(after.forwarded(), before.forwarded(), "{hook}");
        after.assert_balanced();
    }
}
