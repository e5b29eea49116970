//! Small things a new user stumbles over: slips of the pen, what is said and by which exit code, what
//! stays behind.

use netmesh_tests::pair::{LEFT, RIGHT};
use netmesh_tests::{Lab, OutputText as _};
use serde_json::Value;

fn lab() -> Lab {
    let lab = Lab::pair();
    lab.attach_pair("tc", "any");
    lab
}

/// What a command says on stderr, and its exit code.
fn fails(lab: &Lab, words: &str) -> (Option<i32>, String) {
    let words: Vec<&str> = words.split(' ').collect();
    let output = lab.try_netmesh("router", &words);
    assert!(
        !output.status.success(),
        "{words:?}: {}",
        output.stdout_text()
    );
    (output.status.code(), output.stderr_text())
}

fn says(lab: &Lab, words: &str) -> String {
    let words: Vec<&str> = words.split(' ').collect();
    lab.netmesh("router", &words).stdout_text()
}

#[test]
fn slips_are_named_and_change_nothing() {
    let lab = lab();
    let before = lab.json("router", &["route", "list"]);
    for words in [
        "counters 2a02:1812:1::7/64",
        "trace --prefix 2a02:1812:1::7/64",
        "route list 2a02:1812:1::7/64",
        "route del 2a02:1812:1::7/64",
    ] {
        let (code, text) = fails(&lab, words);
        assert_eq!(code, Some(2), "{words}");
        assert!(
            text.contains("the prefix is 2a02:1812:1::/64"),
            "{words}: {text}"
        );
    }
    let (code, text) = fails(&lab, &format!("counters --drops {LEFT}/128"));
    assert_eq!(code, Some(2));
    assert!(text.contains("cannot be used with"), "{text}");
    let (code, text) = fails(&lab, "route add blackhol 2a02:1812:7::/64");
    assert_eq!(code, Some(3));
    assert!(
        text.contains("`blackhol` is neither a prefix nor an action"),
        "{text}"
    );

    // Rejected, and nothing was changed: 3.
    for (words, what) in [
        (format!("route add {LEFT} dev port1"), "is there already"),
        ("route del 2a02:1812:7::/64".to_owned(), "no route"),
    ] {
        let (code, text) = fails(&lab, &words);
        assert_eq!(code, Some(3), "{words}: {text}");
        assert!(
            text.contains(what) && text.contains("nothing was changed"),
            "{text}"
        );
    }
    assert_eq!(lab.json("router", &["route", "list"]), before);

    // With --json a fault is one object, whatever was wrong.
    for words in [
        "--json explain nowhere 2a02:1812:2::2".to_owned(),
        "explain -j 2a02:1812:1::2".to_owned(),
        format!("--json explain {LEFT} 10.0.0.1"),
        format!("--json explain {LEFT} {RIGHT} --in port7"),
    ] {
        let (code, text) = fails(&lab, &words);
        let fault: Value =
            serde_json::from_str(&text).unwrap_or_else(|_| panic!("{words}: {text}"));
        assert_eq!(fault["exit_code"].as_i64(), code.map(i64::from), "{fault}");
        assert!(
            fault["error"].as_str().is_some_and(|text| !text.is_empty()),
            "{fault}"
        );
    }
}

#[test]
fn brief_is_one_line_an_item() {
    let lab = lab();
    let text = says(&lab, &format!("-b explain {LEFT} {RIGHT} --in port0"));
    assert_eq!(text, format!("forward via {RIGHT} dev port1\n"));
    let text = says(
        &lab,
        &format!("-b explain {LEFT} {RIGHT} --in port0 --hop-limit 1"),
    );
    assert_eq!(text, "punt hop_limit\n");
    let text = says(&lab, "-b counters");
    assert_eq!(text.lines().count(), 4, "{text}");
    assert!(
        text.lines().all(|line| line.split(' ').count() == 5),
        "{text}"
    );
    assert!(!text.contains("prefix"), "{text}");
    let header = says(&lab, "dataplane status");
    let header = header.lines().nth(1).expect("a header");
    assert!(header.trim_end().ends_with("lost"), "{header}");
}

fn ports(lab: &Lab) -> Vec<String> {
    let status = lab.json("router", &["dataplane", "status"]);
    let rows = status["instance"]["ports"]
        .as_array()
        .expect("ports")
        .clone();
    rows.iter()
        .map(|row| format!("{} {} {}", row["name"], row["link"], row["sources"]))
        .collect()
}

#[test]
fn a_port_keeps_its_sources_and_all_of_them_their_hook_when_one_refuses() {
    let lab = Lab::pair();
    let _ = says(
        &lab,
        "dataplane attach --hook tc --sources behind --port port0",
    );
    let _ = says(
        &lab,
        "dataplane attach --hook tc --sources external --martian 2a02:1812:99::/48 --port port1",
    );
    let before = ports(&lab);
    // Nothing is said of sources: they stay, and so does the list.
    let _ = says(&lab, "dataplane attach --hook tc --port port0 --port port1");
    assert_eq!(ports(&lab), before);
    let text = says(&lab, "dataplane status");
    assert!(text.contains("2a02:1812:99::/48 is a martian"), "{text}");
    // Another hook for both, and the second refuses: a bridge has no native XDP.
    lab.ip("router", "link add name other0 type bridge");
    let (code, text) = fails(
        &lab,
        "dataplane attach --hook xdp --sources any --port port0 --port other0",
    );
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("every port is what it was"), "{text}");
    assert_eq!(ports(&lab), before);
    let text = says(&lab, "dataplane status");
    assert!(text.contains("2a02:1812:99::/48 is a martian"), "{text}");
    let _ = says(
        &lab,
        "dataplane attach --hook tc --sources any --port port1",
    );
    assert!(
        ports(&lab).iter().any(|port| port.contains("any")),
        "{:?}",
        ports(&lab)
    );
}

fn managed(lab: &Lab) -> String {
    let output = std::process::Command::new("ip")
        .args(["-n", &lab.name("router"), "neigh", "show"])
        .output()
        .expect("ip starts");
    let text = output.stdout_text();
    let lines = text.lines().filter(|line| line.contains("managed"));
    lines
        .map(|line| format!("{}\n", line.split(' ').next().unwrap_or_default()))
        .collect()
}

#[test]
fn neighbours_go_with_the_last_route_that_needs_them() {
    let lab = lab();
    let _ = says(
        &lab,
        &format!("route add 2a02:1812:7::/64 via {LEFT} dev port0"),
    );
    assert!(
        managed(&lab).contains(&format!("{LEFT}\n")),
        "{}",
        managed(&lab)
    );
    let _ = says(&lab, "route del 2a02:1812:7::/64");
    assert!(
        managed(&lab).contains(&format!("{LEFT}\n")),
        "another route needs it"
    );
    let _ = says(&lab, &format!("route del {LEFT}"));
    assert!(
        !managed(&lab).contains(&format!("{LEFT}\n")),
        "{}",
        managed(&lab)
    );
    let _ = says(&lab, &format!("route replace blackhole {RIGHT}"));
    assert!(
        !managed(&lab).contains(&format!("{RIGHT}\n")),
        "{}",
        managed(&lab)
    );
    assert_ne!(managed(&lab), "");
    let _ = says(&lab, "dataplane detach");
    assert_eq!(managed(&lab), "");
}

#[test]
fn a_gateway_off_the_link_is_warned_of() {
    let lab = lab();
    for (gateway, warns) in [
        ("2a02:1899::1", true),
        ("2a02:1812:1::77", false),
        ("fe80::77", false),
    ] {
        let words = [
            "route",
            "replace",
            "2a02:1812:7::/64",
            "via",
            gateway,
            "dev",
            "port0",
        ];
        let text = lab.netmesh("router", &words).stderr_text();
        assert_eq!(
            text.contains("is on no subnet of port0"),
            warns,
            "{gateway}: {text}"
        );
    }
}
