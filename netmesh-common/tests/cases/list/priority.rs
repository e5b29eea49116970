//! Priority tags: what they hide.

use netmesh_common::verdict::{DropReason as D, PuntReason as P};

use super::vlan::{ON_TAGGED, ON_TRUNKED, ON_TRUNKED4, in_data};
use super::{BCP38, BEHIND, BEHIND4, EXTERNAL, INSIDE, PLAIN};
use crate::cases::lab::{TAGGED, TAGGED_TC_VID, TAGGED_VID, TRUNKED_VID, macs};
use crate::cases::packet::{ethernet, plain, tag, v4, v6};
use crate::cases::{Case, Input, Outcome};

/// Priority tags in front of a packet, whatever the kernel would take off: where sources are
/// checked they are checked behind them.
pub(super) fn tags() -> Vec<Case> {
    const Q: [u8; 2] = [0x81, 0];
    const AD: [u8; 2] = [0x88, 0xa8];
    let good = ethernet(v6(BEHIND, INSIDE, 64, 60));
    let good4 = ethernet(v4(BEHIND4, "10.1.1.11", 64, 60));
    let spoofed = ethernet(v6(INSIDE, ON_TRUNKED, 64, 60));
    let spoofed4 = ethernet(v4("10.1.1.11", ON_TRUNKED4, 64, 60));
    let nobodys = ethernet(v4("240.0.0.1", "10.1.1.11", 64, 60));
    let martian = ethernet(v6("fd00::1", INSIDE, 64, 60));
    let mut options = v6(INSIDE, ON_TRUNKED, 64, 60);
    options[6] = 0;
    let options = ethernet(options);
    let stacked = |frame: &[u8], tags: &[([u8; 2], u16)]| {
        let mut frame = frame.to_vec();
        for (protocol, control) in tags.iter().rev() {
            let [c0, c1] = control.to_be_bytes();
            frame.splice(12..12, [protocol[0], protocol[1], c0, c1]);
        }
        frame
    };
    let own = |mut frame: Vec<u8>| {
        frame[..6].copy_from_slice(&macs(TAGGED).1);
        frame
    };
    let (vid, other) = (TAGGED_VID, TRUNKED_VID);
    let [p, ad, high] = [(Q, 0), (AD, 0), (Q, 0xf000)];
    let kernel = Outcome::Punt(P::Vlan);
    let spoof = Outcome::Drop(D::SourceInvalid);
    let both = |name, flags, frame: &[u8], tags: &[_], outcome: &Outcome| Case {
        name,
        flags,
        input: plain(stacked(frame, tags)),
        tc: outcome.clone(),
        xdp: Some(outcome.clone()),
    };
    let mut cases = vec![
        both("behind a priority tag", BCP38, &good, &[p], &kernel),
        both(
            "behind a priority tag, IPv4",
            BCP38,
            &good4,
            &[high],
            &kernel,
        ),
        both("behind four", BCP38, &good, &[p, ad, high, ad], &kernel),
        both("behind five", BCP38, &good, &[p, ad, p, p, p], &spoof),
        both("a spoof behind one", BCP38, &spoofed, &[p], &spoof),
        both("a spoof behind one, IPv4", BCP38, &spoofed4, &[p], &spoof),
        both("a spoof behind 802.1ad's", BCP38, &spoofed, &[ad], &spoof),
        both(
            "a spoof behind four",
            BCP38,
            &spoofed4,
            &[high, p, ad, p],
            &spoof,
        ),
        both(
            "options and a spoof behind one",
            BCP38,
            &options,
            &[high],
            &spoof,
        ),
        both("nobody's behind one", BCP38, &nobodys, &[p], &spoof),
        both(
            "nobody's behind one, plain port",
            PLAIN,
            &nobodys,
            &[p],
            &kernel,
        ),
        both(
            "a spoof behind one, plain port",
            PLAIN,
            &spoofed,
            &[p],
            &kernel,
        ),
        both(
            "one of ours from outside behind one",
            EXTERNAL,
            &spoofed,
            &[p, p],
            &spoof,
        ),
        both(
            "a martian from outside behind one",
            EXTERNAL,
            &martian,
            &[ad],
            &Outcome::Drop(D::Martian),
        ),
        both(
            "an unknown VLAN behind one",
            BCP38,
            &spoofed,
            &[p, (Q, other)],
            &kernel,
        ),
        both(
            "an unknown VLAN before one",
            BCP38,
            &spoofed,
            &[(Q, other), p],
            &kernel,
        ),
        both(
            "cut behind one",
            BCP38,
            &spoofed[..14],
            &[p],
            &Outcome::Punt(P::Malformed),
        ),
    ];
    for (name, protocol) in [
        ("EtherType 0 behind one", [0, 0]),
        ("EtherType 0xffff behind one", [0xff, 0xff]),
    ] {
        let mut frame = spoofed.clone();
        frame[12..14].copy_from_slice(&protocol);
        cases.push(both(name, BCP38, &frame, &[p], &Outcome::Punt(P::NotIp)));
    }
    cases.push(in_data(
        "five, plain port",
        stacked(&good, &[p; 5]),
        spoof.clone(),
    ));
    let on_vlan = ethernet(v6(ON_TAGGED, INSIDE, 64, 60));
    for (name, frame, tags, xdp) in [
        (
            "the VLAN's, behind one",
            &on_vlan,
            vec![p, (Q, vid)],
            &kernel,
        ),
        (
            "the VLAN's, before one",
            &on_vlan,
            vec![(Q, vid), ad],
            &kernel,
        ),
        (
            "the VLAN's, between",
            &on_vlan,
            vec![ad, (Q, vid), high, p],
            &kernel,
        ),
        (
            "spoofed in the VLAN, behind one",
            &spoofed,
            vec![p, (Q, vid)],
            &spoof,
        ),
        (
            "spoofed in the VLAN, before one",
            &spoofed,
            vec![(Q, vid), p],
            &spoof,
        ),
        (
            "spoofed in the VLAN, between",
            &spoofed4,
            vec![p, (Q, vid), ad],
            &spoof,
        ),
        (
            "spoofed in the VLAN, too deep",
            &spoofed,
            vec![(Q, vid), p, p, p, p],
            &spoof,
        ),
        (
            "spoofed in the VLAN, deeper",
            &spoofed,
            vec![p, p, p, p, p, (Q, vid)],
            &spoof,
        ),
    ] {
        cases.push(in_data(name, own(stacked(frame, &tags)), xdp.clone()));
    }
    cases.push(in_data(
        "behind one, of a sub-interface that TC serves",
        stacked(&spoofed, &[p, (Q, TAGGED_TC_VID)]),
        Outcome::NotOurs,
    ));
    cases
}

/// The first of them as TC sees it: taken off, the others still in the frame.
pub(super) fn beside() -> Vec<Case> {
    let spoofed = ethernet(v6(INSIDE, ON_TRUNKED, 64, 60));
    let good = ethernet(v6(BEHIND, INSIDE, 64, 60));
    let kernel = Outcome::Punt(P::Vlan);
    let spoof = Outcome::Drop(D::SourceInvalid);
    let tagged = |frame: &[u8], control| {
        let mut frame = frame.to_vec();
        frame.splice(12..12, tag(control));
        frame
    };
    [
        (
            "beside: a spoof behind one",
            0x8100,
            0,
            spoofed.clone(),
            &spoof,
        ),
        (
            "beside: a spoof behind 802.1ad's",
            0x88a8,
            0xe000,
            spoofed.clone(),
            &spoof,
        ),
        (
            "beside: a spoof behind two",
            0x8100,
            0,
            tagged(&spoofed, 0),
            &spoof,
        ),
        ("beside: behind two", 0x8100, 0, tagged(&good, 0), &kernel),
        ("beside: behind one, checked", 0x88a8, 0, good, &kernel),
        (
            "beside: a VLAN behind one",
            0x8100,
            0,
            tagged(&spoofed, TAGGED_VID),
            &kernel,
        ),
        ("beside: unknown, a spoof", 0x8100, 8, spoofed, &kernel),
    ]
    .into_iter()
    .map(|(name, protocol, control, bytes, tc)| Case {
        name,
        flags: BCP38,
        input: Input {
            bytes,
            tag: Some((protocol, control)),
            ..Input::default()
        },
        tc: tc.clone(),
        xdp: None,
    })
    .collect()
}
