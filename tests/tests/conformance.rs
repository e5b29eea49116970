//! Packet for packet what the Linux kernel would do: see `netmesh_tests::oracle`.
//!
//! `cargo xtask conformance` runs more of it, with its own seed:
//! `NETMESH_CONFORMANCE_CASES`, `NETMESH_CONFORMANCE_SEED`, `NETMESH_CONFORMANCE_MODES`,
//! `NETMESH_CONFORMANCE_ROUTES`, `NETMESH_CONFORMANCE_CHURN`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use netmesh_tests::oracle::{Mode, Options, run};

/// Cases of an ordinary run, over all modes.
const CASES: usize = 60_000;

/// Other routes of the run with a writer.
const CROWD: usize = 20_000;

/// Outcomes without which a run proves too little.
const MUST_BE_MET: [&str; 16] = [
    "not_ip",
    "vlan",
    "not_for_us",
    "malformed",
    "hop_limit",
    "too_big",
    "local",
    "connected",
    "no_route",
    "scope",
    "hop_by_hop",
    "ipv4_options",
    "same_port",
    "action",
    "source_invalid",
    "blackhole",
];

/// A machine in an emulator is given a smaller share.
fn share() -> usize {
    CASES / usize::try_from(netmesh_tests::slowness()).unwrap_or(1)
}

fn number<T: std::str::FromStr>(name: &str) -> Option<T> {
    let text = std::env::var(name).ok()?;
    let number = text.parse().ok();
    assert!(number.is_some(), "{name}={text} is no number");
    number
}

fn kept() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("conformance")
}

/// Stage 1 of the table answers, grows, and leaves it to the trie and back, while packets come.
#[test]
fn a_crowd_of_routes_and_a_writer_change_nothing() {
    let options = Options {
        cases: share() / 10,
        seed: 2,
        modes: vec![Mode::Xdp],
        tagged: false,
        crowd: CROWD / usize::try_from(netmesh_tests::slowness()).unwrap_or(1),
        churn: true,
        kept: kept(),
    };
    let summary = run(&options, |_| ());
    for difference in &summary.differences {
        println!("{difference}");
    }
    println!(
        "{} cases among {} other routes, {} changes meanwhile, {} s",
        summary.cases,
        options.crowd,
        summary.changes,
        summary.took.as_secs()
    );
    assert!(summary.differences.is_empty(), "the routers differ");
    assert!(summary.changes > 500, "the writer did little");
}

#[test]
fn whatever_comes_out_is_what_the_kernel_sends() {
    let modes = std::env::var("NETMESH_CONFORMANCE_MODES").unwrap_or_default();
    let mut modes: Vec<Mode> = modes.split(',').filter_map(Mode::of).collect();
    if modes.is_empty() {
        modes = Mode::ALL.to_vec();
    }
    compare(&Options {
        cases: number("NETMESH_CONFORMANCE_CASES").unwrap_or_else(share),
        seed: number("NETMESH_CONFORMANCE_SEED").unwrap_or(1),
        modes,
        tagged: false,
        crowd: number("NETMESH_CONFORMANCE_ROUTES").unwrap_or(0),
        churn: number("NETMESH_CONFORMANCE_CHURN").unwrap_or(false),
        kept: kept(),
    });
}

/// The same where every Ethernet port is a VLAN sub-interface: XDP takes the tag off and puts it on.
#[test]
#[ignore = "needs VLAN sub-interfaces (8021q)"]
fn with_a_tag_whatever_comes_out_is_what_the_kernel_sends() {
    compare(&Options {
        cases: number("NETMESH_CONFORMANCE_CASES").unwrap_or_else(share),
        seed: 1,
        modes: Mode::ALL.to_vec(),
        tagged: true,
        crowd: 0,
        churn: false,
        kept: kept(),
    });
}

/// Runs the cases, and looks at the sums.
fn compare(options: &Options) {
    let summary = run(options, |line| println!("{line}"));
    for difference in &summary.differences {
        println!("{difference}");
    }
    println!(
        "{} cases and {} kept ones, seed {}: {} packets out of each router, {} differences, {} \
         batches late, {} s",
        summary.cases,
        summary.replayed,
        options.seed,
        summary.out,
        summary.differences.len(),
        summary.unconfirmed,
        summary.took.as_secs()
    );
    if options.crowd != 0 || options.churn {
        let (crowd, changes) = (options.crowd, summary.changes);
        println!("among {crowd} other routes, {changes} changes meanwhile");
    }
    assert!(summary.differences.is_empty(), "the routers differ");
    assert!(
        summary.cases + options.modes.len() >= options.cases,
        "all were run"
    );
    // Late frames are the machine's, but not many.
    assert!(
        summary.unconfirmed <= summary.cases / 2560 + 2,
        "too many batches were late"
    );
    for (mode, balances) in &summary.balances {
        let mut injected = 0;
        let mut forwarded = 0;
        let mut reasons: BTreeMap<&str, u64> = BTreeMap::new();
        for port in balances {
            for (reason, packets) in &port.reasons {
                *reasons.entry(reason).or_default() += packets;
            }
            println!(
                "{mode:?} {}: in {}, forwarded {}, punted {}, dropped {}, lost {}",
                port.port, port.injected, port.forwarded, port.punted, port.dropped, port.lost
            );
            assert_eq!(
                port.received,
                port.forwarded + port.punted + port.dropped + port.lost,
                "{mode:?}: every packet has one outcome: {port:?}"
            );
            injected += port.injected;
            forwarded += port.forwarded;
        }
        println!("{mode:?}: {reasons:?}");
        for reason in MUST_BE_MET {
            assert!(
                reasons.contains_key(reason),
                "{mode:?}: {reason} was never met"
            );
        }
        assert!(
            forwarded * 5 > injected,
            "{mode:?}: the fast path did little"
        );
    }
}
