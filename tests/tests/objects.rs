//! Bad objects: every fault at once, exit 3, nothing changed.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;

use netmesh_tests::{Lab, OutputText as _, binary};
use serde_json::Value;

const KEY_1: &str = "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=";
const KEY_2: &str = "AgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgI=";

/// One file: its name, what is wrong with it, the text, the codes with their lines.
struct Case {
    name: &'static str,
    text: String,
    faults: &'static [(&'static str, u64)],
}

/// A network whose allocation and two resources are given line by line; the first resource is
/// the exit and begins at line 4, the second at line 11.
fn network(allocation: &str, one: &[&str], two: &[&str]) -> String {
    let mut text = format!("network = \"t\"\nallocation = \"{allocation}\"\n\n[[resource]]\n");
    text.push_str(&one.join("\n"));
    text.push_str("\n\n[[resource]]\n");
    text.push_str(&two.join("\n"));
    text.push('\n');
    text
}

fn lines(name: &str, prefix: &str, key: &str, last: &str) -> Vec<String> {
    vec![
        format!("name = \"{name}\""),
        "node = \"node-1\"".to_owned(),
        format!("prefix = \"{prefix}\""),
        format!("public_key = \"{key}\""),
        last.to_owned(),
    ]
}

/// The two resources in the usual allocation.
fn with(one: &[String], two: &[String]) -> String {
    let one: Vec<&str> = one.iter().map(String::as_str).collect();
    let two: Vec<&str> = two.iter().map(String::as_str).collect();
    network("2a02:1802:5e::/48", &one, &two)
}

const EXIT: &str = "endpoint = \"[2001:db8::1]:51820\"\nexit = { }";

fn good() -> Vec<String> {
    lines("gw", "2a02:1802:5e:1001::/64", KEY_1, EXIT)
}

#[expect(clippy::too_many_lines, reason = "a table of cases")]
fn cases() -> Vec<Case> {
    let web = |prefix: &str, key: &str, last: &str| with(&good(), &lines("web", prefix, key, last));
    let prefix = "2a02:1802:5e:100a::/64";
    let case = |name, text, faults| Case { name, text, faults };
    vec![
        case(
            "not TOML",
            "network = \"t\nallocation = 5".into(),
            &[("NM0001", 1)],
        ),
        case(
            "empty",
            String::new(),
            &[("NM0004", 1), ("NM0004", 1), ("NM0004", 1)],
        ),
        case(
            "allocation too long, name with capitals",
            network("2a02:1802:5e::/61", &["name = \"Gw\""], &["node = \"n\""])
                .replace("node = \"n\"", "x = 1"),
            &[
                ("NM0005", 2),
                ("NM0005", 5),
                ("NM0004", 4),
                ("NM0004", 4),
                ("NM0004", 4),
                ("NM0002", 8),
                ("NM0004", 7),
                ("NM0004", 7),
                ("NM0004", 7),
                ("NM0004", 7),
            ],
        ),
        case(
            "allocation with host bits",
            web(prefix, KEY_2, "").replace("5e::/48", "5e::1/48"),
            &[("NM0005", 2)],
        ),
        case(
            "allocation of IPv4",
            web(prefix, KEY_2, "").replace("2a02:1802:5e::/48", "10.0.0.0/8"),
            &[("NM0005", 2)],
        ),
        case(
            "prefix is no /64",
            web("2a02:1802:5e:1000::/56", KEY_2, ""),
            &[("NM0005", 15)],
        ),
        case(
            "prefix outside",
            web("2a02:1802:5f:100a::/64", KEY_2, ""),
            &[("NM0101", 15)],
        ),
        case(
            "index 0",
            web("2a02:1802:5e::/64", KEY_2, ""),
            &[("NM0102", 15), ("NM0103", 15)],
        ),
        case(
            "the same prefix",
            web("2a02:1802:5e:1001::/64", KEY_2, ""),
            &[("NM0202", 15), ("NM0203", 12), ("NM0204", 12)],
        ),
        case("the same key", web(prefix, KEY_1, ""), &[("NM0207", 16)]),
        case(
            "the same name",
            web(prefix, KEY_2, "").replace("\"web\"", "\"gw\""),
            &[("NM0201", 13), ("NM0209", 13)],
        ),
        case("key too short", web(prefix, "AQEB", ""), &[("NM0005", 16)]),
        case("key is no base64", web(prefix, "!!", ""), &[("NM0005", 16)]),
        case(
            "key is zero",
            web(prefix, "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=", ""),
            &[("NM0005", 16)],
        ),
        case(
            "endpoint without port",
            web(prefix, KEY_2, "endpoint = \"2001:db8::2\""),
            &[("NM0005", 17)],
        ),
        case(
            "endpoint is a name",
            web(prefix, KEY_2, "endpoint = \"example.net:1\""),
            &[("NM0005", 17)],
        ),
        case(
            "endpoint unspecified",
            web(prefix, KEY_2, "endpoint = \"[::]:1\""),
            &[("NM0007", 17)],
        ),
        case(
            "endpoint port 0",
            web(prefix, KEY_2, "endpoint = \"[2001:db8::2]:0\""),
            &[("NM0007", 17)],
        ),
        case(
            "unknown field",
            web(prefix, KEY_2, "end_point = \"[2001:db8::2]:1\""),
            &[("NM0002", 17)],
        ),
        case(
            "wrong kind",
            web(prefix, KEY_2, "mtu = \"1420\""),
            &[("NM0003", 17)],
        ),
        case(
            "MTU too small",
            web(prefix, KEY_2, "mtu = 1279"),
            &[("NM0006", 17)],
        ),
        case(
            "IPv4 collides",
            web(prefix, KEY_2, "ipv4 = \"10.16.1.0/24\""),
            &[("NM0203", 17), ("NM0204", 17)],
        ),
        case(
            "exit missing",
            web(prefix, KEY_2, "").replace("exit = { }", ""),
            &[("NM0104", 4)],
        ),
        case(
            "exit hidden, everybody hidden",
            web(prefix, KEY_2, "").replace("endpoint = \"[2001:db8::1]:51820\"\n", ""),
            &[("NM0106", 9), ("NM0107", 4)],
        ),
        case(
            "isolated with an exit",
            format!("isolated = true\n{}", web(prefix, KEY_2, "")),
            &[("NM0105", 1)],
        ),
        case(
            "interface that every namespace has",
            web(prefix, KEY_2, "interface = \"lo\""),
            &[("NM0005", 17)],
        ),
        case(
            "interface of a tunnel module",
            web(prefix, KEY_2, "interface = \"sit0\""),
            &[("NM0005", 17)],
        ),
        case(
            "interface name too long",
            web(prefix, KEY_2, "interface = \"a-very-long-name\""),
            &[("NM0005", 17)],
        ),
    ]
}

fn check(folder: &std::path::Path, file: &std::path::Path) -> (Option<i32>, String, Value) {
    let output = Command::new(binary())
        .arg("--config")
        .arg(folder)
        .args(["--json", "check"])
        .arg(file)
        .output()
        .expect("netmesh starts");
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    let json = serde_json::from_str(&stderr).unwrap_or_default();
    (output.status.code(), stderr, json)
}

#[test]
fn every_fault_of_a_bad_file_is_told_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let mut wrong = Vec::new();
    for case in cases() {
        let file = folder.path().join("bad.toml");
        fs::write(&file, &case.text).unwrap();
        let (code, stderr, json) = check(folder.path(), &file);
        let found: Vec<(String, u64)> = json["faults"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|fault| {
                (
                    fault["code"].as_str().unwrap().to_owned(),
                    fault["line"].as_u64().unwrap(),
                )
            })
            .collect();
        let as_set = |list: Vec<(String, u64)>| list.into_iter().collect::<BTreeSet<_>>();
        let expected = case
            .faults
            .iter()
            .map(|(code, line)| ((*code).to_owned(), *line))
            .collect();
        if code != Some(3) || as_set(found.clone()) != as_set(expected) {
            wrong.push(format!(
                "{}: exit {code:?}, found {found:?}\n{stderr}\n{}",
                case.name, case.text
            ));
        }
        for fault in json["faults"].as_array().into_iter().flatten() {
            for field in ["object", "cause", "remedy", "file"] {
                assert!(
                    !fault[field].as_str().unwrap().is_empty(),
                    "{}: {field}",
                    case.name
                );
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n---\n"));
    assert!(cases().len() >= 20);
}

#[test]
fn people_see_file_line_and_remedy() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("bad.toml");
    let text = with(
        &good(),
        &lines("web", "2a02:1802:5e::/64", KEY_2, "end_point = 5"),
    );
    fs::write(&file, text).unwrap();
    let output = Command::new(binary())
        .arg("check")
        .arg(&file)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(3));
    assert!(output.stdout.is_empty(), "errors are no data");
    let stderr = String::from_utf8_lossy(&output.stderr);
    for word in [
        "bad.toml:17:1",
        "did you mean `endpoint`?",
        "nothing was changed",
    ] {
        assert!(stderr.contains(word), "{word} in\n{stderr}");
    }
    assert!(!stderr.contains('\x1b'), "no colour into a pipe");
}

#[test]
fn a_warning_is_told_and_refuses_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a.toml");
    fs::write(
        &file,
        with(&good(), &lines("web", "2a02:1802:5e:a::/64", KEY_2, "")),
    )
    .unwrap();
    let output = Command::new(binary())
        .arg("check")
        .arg(&file)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(0));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(
        stderr.contains("NM0103") && stderr.contains("169.254.0.10"),
        "{stderr}"
    );
}

#[test]
fn json_and_toml_are_the_same_object() {
    let folder = tempfile::tempdir().unwrap();
    let toml = folder.path().join("a.toml");
    fs::write(
        &toml,
        with(&good(), &lines("web", "2a02:1802:5e:100a::/64", KEY_2, "")),
    )
    .unwrap();
    let json = folder.path().join("a.json");
    let resource = |name: &str, prefix: &str, key: &str| serde_json::json!({ "name": name, "node": "node-1", "prefix": prefix, "public_key": key });
    let mut one = resource("gw", "2a02:1802:5e:1001::/64", KEY_1);
    one["endpoint"] = "[2001:db8::1]:51820".into();
    one["exit"] = serde_json::json!({});
    let two = resource("web", "2a02:1802:5e:100a::/64", KEY_2);
    let object = serde_json::json!({
        "network": "t", "allocation": "2a02:1802:5e::/48", "resource": [one, two],
    });
    fs::write(&json, serde_json::to_string_pretty(&object).unwrap()).unwrap();
    let print = |file: &std::path::Path| {
        let output = Command::new(binary())
            .args(["--json", "check", "--print"])
            .arg(file)
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        output.stdout
    };
    assert_eq!(print(&toml), print(&json));
}

#[test]
fn a_bad_object_changes_nothing_on_the_machine() {
    let lab = Lab::mesh();
    let before = lab.dump("node-1", &[]);
    for case in cases() {
        fs::write(
            lab.config("node-1").join("networks/network.toml"),
            &case.text,
        )
        .unwrap();
        for command in [&["apply"][..], &["plan"], &["status"]] {
            let output = lab.try_netmesh("node-1", command);
            assert_eq!(output.status.code(), Some(3), "{}: {command:?}", case.name);
        }
    }
    assert_eq!(lab.dump("node-1", &[]), before);
    assert!(
        !netmesh::kernel::netns::path(&netmesh::plan::state::Namespace::Named("nm-t-gw".into()))
            .exists()
    );
}

/// The router's martians are its uplink's, follow the file, and go with it.
#[test]
fn the_router_s_martians_follow_the_file() {
    let lab = Lab::mesh();
    let said = || {
        let status = lab.json("router", &["dataplane", "status"]);
        let ports = status["instance"]["ports"].as_array().unwrap().clone();
        let port = |name: &str| {
            let found = ports.iter().find(|port| port["name"] == name).unwrap();
            found["martians"].clone()
        };
        assert_eq!(port("eth1"), Value::Null);
        port("eth0")
    };
    let _ = lab.netmesh("router", &["apply"]);
    assert_eq!(said(), Value::Null);
    let lists = "not_martians = [\"100.64.0.0/10\"]\nmartians = [\"2a02:1899::/32\"]\n";
    lab.configure("router", &(Lab::router_file() + lists));
    let output = lab.netmesh("router", &["apply"]);
    let told = output.stdout_text();
    assert!(told.contains("martian 2a02:1899::/32"), "{told}");
    let wanted = serde_json::json!({ "100.64.0.0/10": false, "2a02:1899::/32": true });
    assert_eq!(said(), wanted);
    let again = lab.json("router", &["plan"]);
    assert_eq!(again["steps"], serde_json::json!([]), "{again}");
    lab.configure("router", &Lab::router_file());
    let _ = lab.netmesh("router", &["apply"]);
    assert_eq!(said(), Value::Null);
}

#[test]
fn what_the_machine_lacks_is_told_before_anything_is_touched() {
    let lab = Lab::mesh();
    let before = lab.dump("node-1", &[]);
    let exit = |output: std::process::Output| {
        (
            output.status.code(),
            String::from_utf8_lossy(&output.stderr).into_owned(),
        )
    };
    // A segment that is no interface.
    lab.configure(
        "node-1",
        "node = \"node-1\"\n[segment]\nparent = \"nothing0\"\n",
    );
    let (code, stderr) = exit(lab.try_netmesh("node-1", &["apply"]));
    assert_eq!(code, Some(3), "{stderr}");
    assert!(
        stderr.contains("nothing0") && stderr.contains("eth1"),
        "{stderr}"
    );
    // An exit without a segment.
    lab.configure("node-1", "node = \"node-1\"\n");
    let (code, stderr) = exit(lab.try_netmesh("node-1", &["apply"]));
    assert_eq!(code, Some(3), "{stderr}");
    assert!(stderr.contains("NM0304"), "{stderr}");
    // A key that is not there, and one that others may read.
    lab.configure(
        "node-1",
        "node = \"node-1\"\n[segment]\nparent = \"eth1\"\n",
    );
    let key = lab
        .config("node-1")
        .join("keys")
        .join(lab.network())
        .join("gw.key");
    let content = fs::read(&key).unwrap();
    fs::remove_file(&key).unwrap();
    let (code, stderr) = exit(lab.try_netmesh("node-1", &["apply"]));
    assert_eq!(code, Some(3), "{stderr}");
    assert!(stderr.contains("netmesh key gen"), "{stderr}");
    fs::write(&key, &content).unwrap();
    let (code, stderr) = exit(lab.try_netmesh("node-1", &["apply"]));
    assert_eq!(code, Some(3), "{stderr}");
    assert!(stderr.contains("chmod 600"), "{stderr}");
    let secret = String::from_utf8(content).unwrap();
    assert!(!stderr.contains(secret.trim()), "a key in an error");
    assert_eq!(lab.dump("node-1", &[]), before);
}

#[test]
fn objects_that_have_nothing_for_the_node_take_nothing_from_it() {
    let lab = Lab::mesh();
    let _ = lab.netmesh("node-1", &["apply"]);
    let before = lab.dump("node-1", &["gw"]);
    let run = |arguments: &[&str]| {
        let output = lab.try_netmesh("node-1", arguments);
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (
            output.status.code(),
            text(&output.stdout),
            text(&output.stderr),
        )
    };
    // A slip of the finger in the node's name.
    let file = "node = \"node-11\"\n[segment]\nparent = \"eth1\"\n";
    lab.configure("node-1", file);
    for command in ["check", "plan", "status"] {
        let (_, _, stderr) = run(&[command]);
        assert!(stderr.contains("NM0306"), "{command}: {stderr}");
        assert!(stderr.contains("node-1, node-2, node-3"), "{stderr}");
        let meant = "did you mean node = \"node-1\"?";
        assert!(stderr.contains(meant), "{stderr}");
    }
    let (_, _, stderr) = run(&["apply"]);
    assert!(stderr.contains("NM0306"), "{stderr}");
    assert_eq!(lab.dump("node-1", &["gw"]), before);
    // A folder that is not there.
    lab.configure("node-1", &file.replace("node-11", "node-1"));
    let networks = lab.config("node-1").join("networks");
    let aside = lab.config("node-1").join("aside");
    fs::rename(&networks, &aside).unwrap();
    let (code, stdout, stderr) = run(&["plan"]);
    assert_eq!(code, Some(0), "{stderr}");
    assert!(stdout.contains("netns del"), "{stdout}");
    let (code, _, stderr) = run(&["apply"]);
    assert_eq!(code, Some(3), "{stderr}");
    for word in [
        &lab.resource("gw").to_string(),
        "netmesh destroy",
        "apply --empty",
        "nothing was changed",
    ] {
        assert!(stderr.contains(word), "{word}: {stderr}");
    }
    assert_eq!(lab.dump("node-1", &["gw"]), before);
    let (code, _, stderr) = run(&["apply", "--empty"]);
    assert_eq!(code, Some(0), "{stderr}");
    assert!(!netmesh::kernel::netns::path(&lab.resource("gw")).exists());
    // A router without resources is none of this.
    let (code, _, stderr) = {
        let output = lab.try_netmesh("router", &["check"]);
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.status.code(), (), stderr)
    };
    assert_eq!(code, Some(0), "{stderr}");
    assert!(!stderr.contains("NM0306"), "{stderr}");
}

#[test]
fn a_misspelt_wireguard_is_refused_with_the_word_that_was_meant() {
    let folder = tempfile::tempdir().unwrap();
    let check = |value: &str| {
        let text = format!("node = \"a\"\nwireguard = \"{value}\"\n");
        fs::write(folder.path().join("node.toml"), text).unwrap();
        let output = Command::new(binary())
            .arg("--config")
            .arg(folder.path())
            .arg("check")
            .output()
            .unwrap();
        (
            output.status.code(),
            String::from_utf8_lossy(&output.stderr).into_owned(),
        )
    };
    let (code, stderr) = check("kernal");
    assert_eq!(code, Some(3), "{stderr}");
    assert!(stderr.contains("did you mean `kernel`?"), "{stderr}");
    assert!(stderr.contains("node.toml:2:"), "{stderr}");
    for value in ["kernel", "wireguard-go", "/opt/kernal"] {
        assert_eq!(check(value).0, Some(0), "{value}");
    }
}

#[test]
fn what_two_networks_share_is_told_with_the_place_of_the_other() {
    let folder = tempfile::tempdir().unwrap();
    let networks = folder.path().join("networks");
    fs::create_dir(&networks).unwrap();
    fs::write(folder.path().join("node.toml"), "node = \"node-1\"\n").unwrap();
    let one = |network: &str, prefix: &str, key: &str| {
        let resource = lines("gw", prefix, key, "interface = \"wg-x\"").join("\n");
        let text = format!(
            "network = \"{network}\"\nallocation = \"2a02:1802:5e::/48\"\nisolated = true\n\
             [[resource]]\n{resource}\n"
        );
        fs::write(networks.join(format!("{network}.toml")), text).unwrap();
    };
    one("alice", "2a02:1802:5e:1001::/64", KEY_1);
    one("bob", "2a02:1802:5e:1002::/64", KEY_2);
    let check = |color: &str| {
        let output = Command::new(binary())
            .args(["--color", color, "check", "--config"])
            .arg(folder.path())
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(3));
        String::from_utf8(output.stderr).unwrap()
    };
    // Long lines are broken to fit a terminal.
    let stderr = check("auto");
    let words: String = stderr
        .split_whitespace()
        .filter(|word| *word != "|")
        .collect();
    let place = networks.join("alice.toml");
    for said in [
        "\"gw\"ofnetworkalicetoo",
        &format!("({}:9)", place.display()),
    ] {
        assert!(words.contains(said), "{said}: {stderr}");
    }
    // A file gets no colours unless they are asked for.
    for (color, expected) in [("auto", false), ("never", false), ("always", true)] {
        assert_eq!(check(color).contains('\u{1b}'), expected, "{color}");
    }
}
