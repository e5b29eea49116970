//! File systems that go, hide each other or are full: what was forwarded is forwarded, what is there
//! stays whole, and who is in the way is named with the remedy.

use std::collections::BTreeMap;
use std::fs;
use std::net::IpAddr;
use std::path::Path;
use std::process::Output;
use std::time::Duration;

use netmesh::demo::traffic::ping;
use netmesh::kernel::snmp;
use netmesh_tests::daemon::{Daemon, SOON};
use netmesh_tests::own::{BPFFS, fill, machine, mounted};
use netmesh_tests::pair::{LEFT, RIGHT};
use netmesh_tests::stack::{Ports, counted};
use netmesh_tests::stream::Stream;
use netmesh_tests::{INTERNET, Lab, OutputText as _, RESOURCES, eventually};
use nix::mount::umount;

const PERIOD: Duration = Duration::from_millis(2);

/// A command that must fail with this code, and say these words.
fn refused(output: &Output, code: i32, words: &[&str]) {
    let text = output.stderr_text();
    assert_eq!(output.status.code(), Some(code), "{text}");
    for word in words {
        assert!(text.contains(word), "{word} in {text}");
    }
}

/// Another bpffs is mounted over the pins.
fn hidden_pins_are_named(hook: &str) {
    let lab = Lab::pair();
    lab.whole_checksums(true);
    lab.attach_pair(hook, "any");
    let list = || lab.netmesh("router", &["route", "list"]).stdout_text();
    let (router, before) = (lab.at("router"), list());
    let ends = [("left", LEFT), ("right", RIGHT)].map(|(host, address)| (lab.at(host), address));
    let [left, right] = ends
        .each_ref()
        .map(|(at, address)| (at, IpAddr::from(*address)));
    let (there, back) = (
        Stream::start(left, right, PERIOD),
        Stream::start(right, left, PERIOD),
    );
    eventually("a stream", SOON, || there.sent() > 20);
    let kernel = snmp::forwarded(&router).expect("counters").ipv6;

    mounted("bpf", BPFFS, "mode=0700");
    let route = ["route", "add", "2a02:181b::/48", "dev", "port1"];
    refused(
        &lab.try_netmesh("router", &route),
        1,
        &["no data plane serves this namespace"],
    );
    for _ in 0..3 {
        let attach = [
            "dataplane",
            "attach",
            "--hook",
            hook,
            "--port",
            "port1",
            "--port",
            "port0",
        ];
        let attached = lab.try_netmesh("router", &attach);
        refused(&attached, 1, &["umount /sys/fs/bpf", "nothing is attached"]);
    }
    eventually("a stream", SOON, || there.sent() > 1000);
    umount(BPFFS).expect("it is mounted");

    let _ = lab.netmesh("router", &route);
    let _ = lab.netmesh("router", &["route", "del", "2a02:181b::/48"]);
    assert_eq!(list(), before);
    let after = snmp::forwarded(&router).expect("counters").ipv6;
    assert_eq!(after, kernel, "the programs have forwarded all of it");
    let (there, back) = (there.end(), back.end());
    println!(
        "{hook}: another bpffs over the pins: {} + {} packets",
        there.sent, back.sent
    );
    there.assert_whole(1000);
    back.assert_whole(500);
    Ports::of(&router).assert_balanced();
}

#[test]
fn pins_below_another_bpffs_are_named_by_xdp() {
    machine("pins_below_another_bpffs_are_named_by_xdp", || {
        hidden_pins_are_named("xdp")
    });
}

#[test]
fn pins_below_another_bpffs_are_named_by_generic_xdp() {
    machine("pins_below_another_bpffs_are_named_by_generic_xdp", || {
        hidden_pins_are_named("xdp-generic");
    });
}

#[test]
fn pins_below_another_bpffs_are_named_by_tc() {
    machine("pins_below_another_bpffs_are_named_by_tc", || {
        hidden_pins_are_named("tc")
    });
}

fn reaches(lab: &Lab) -> bool {
    let web = lab.address(&RESOURCES[1]).into();
    let pings = ping(&lab.resource("web"), web, INTERNET.into(), 104, 1);
    pings.is_ok_and(|pings| pings.received == 1)
}

/// Packets both ways between web and the internet.
fn streams(lab: &Lab) -> [Stream; 2] {
    let (web, far) = (lab.resource("web"), lab.at("provider"));
    let web = (&web, lab.address(&RESOURCES[1]).into());
    let far = (&far, INTERNET.into());
    [
        Stream::start(web, far, PERIOD),
        Stream::start(far, web, PERIOD),
    ]
}

/// What `apply` and the daemon say of pins that are hidden, on a router and on an exit: nobody puts
/// another data plane beside the one that forwards.
#[test]
fn an_apply_puts_no_data_plane_beside_one_that_is_hidden() {
    machine(
        "an_apply_puts_no_data_plane_beside_one_that_is_hidden",
        || {
            let lab = Lab::mesh();
            for node in ["node-1", "node-2", "router"] {
                let _ = lab.netmesh(node, &["apply"]);
            }
            eventually("the mesh carries packets", SOON, || reaches(&lab));
            lab.resolved("router");
            let nodes = [("node-1", &["gw"][..]), ("router", &[])];
            let dump = || nodes.map(|(node, resources)| lab.dump(node, resources));
            let before = dump();
            let running = streams(&lab);
            mounted("bpf", BPFFS, "mode=0700");
            for node in ["node-1", "router"] {
                for _ in 0..2 {
                    let words = ["umount /sys/fs/bpf", "cannot attach"];
                    // By XDP the kernel refuses, by TC we do.
                    let words = &words[..if node == "router" { 2 } else { 1 }];
                    refused(&lab.try_netmesh(node, &["apply"]), 1, words);
                }
            }
            let daemon = Daemon::start(&lab, "router", &["--resync", "1"]);
            eventually("the daemon says so, too", SOON, || {
                daemon.text().contains("umount /sys/fs/bpf")
            });
            umount(BPFFS).expect("it is mounted");
            let [out, back] = running.map(Stream::end);
            println!("hidden from apply: {} and {} packets", out.sent, back.sent);
            out.assert_whole(200);
            back.assert_whole(200);
            daemon.signal(nix::sys::signal::Signal::SIGHUP);
            as_before(&lab, &before, &dump);
        },
    );
}

/// The pins go with their bpffs: the kernel forwards, and the next apply, or the daemon, begins anew.
#[test]
fn a_bpffs_that_goes_leaves_the_kernel_to_forward_until_somebody_applies() {
    machine(
        "a_bpffs_that_goes_leaves_the_kernel_to_forward_until_somebody_applies",
        || {
            let lab = Lab::mesh();
            for node in ["node-1", "node-2", "router"] {
                let _ = lab.netmesh(node, &["apply"]);
            }
            eventually("the mesh carries packets", SOON, || reaches(&lab));
            lab.resolved("router");
            let nodes = [("node-1", &["gw"][..]), ("router", &[])];
            let dump = || nodes.map(|(node, resources)| lab.dump(node, resources));
            let before = dump();

            let running = streams(&lab);
            eventually("a stream", SOON, || running[0].sent() > 50);
            umount(BPFFS).expect("it is mounted");
            let said = lab
                .netmesh("router", &["dataplane", "status"])
                .stdout_text();
            assert!(
                said.contains("no bpf file system is mounted at /sys/fs/bpf"),
                "{said}"
            );
            let words = [
                "no bpf file system is mounted",
                "netmesh apply",
                "begins anew",
            ];
            refused(&lab.try_netmesh("router", &["route"]), 1, &words);
            for node in ["node-1", "router"] {
                let plan = lab.try_netmesh(node, &["plan", "--exit-code"]);
                assert_eq!(plan.status.code(), Some(5), "the loss is seen on {node}");
            }
            eventually("the stream goes on", SOON, || running[0].sent() > 300);
            for node in ["node-1", "router"] {
                apply_anew(&lab, node);
            }
            for (way, account) in ["out", "back"].iter().zip(running.map(Stream::end)) {
                println!("{way}: {} packets, lost {:?}", account.sent, account.lost);
                // What is in the queues of XDP when its program goes is lost with them.
                assert!(account.lost.len() < 20, "{:?}", account.lost);
                assert!(account.twice.is_empty(), "{:?}", account.twice);
            }
            as_before(&lab, &before, &dump);

            // The daemon sees it by itself.
            let daemon = Daemon::start(&lab, "router", &["--resync", "1"]);
            daemon.until_told("READY=1");
            umount(BPFFS).expect("it is mounted");
            eventually("the daemon has made it anew", SOON, || {
                let status = lab.json("router", &["dataplane", "status"]);
                status["instance"]["ports"]
                    .as_array()
                    .is_some_and(|ports| ports.len() == 2)
            });
            apply_anew(&lab, "node-1");
            as_before(&lab, &before, &dump);
        },
    );
}

/// Applies where the pins are gone. A filter of the clsact qdisc, before Linux 6.6, needs none and stays:
/// the message tells how to take it away.
fn apply_anew(lab: &Lab, node: &str) {
    let applied = lab.try_netmesh(node, &["apply"]);
    let said = applied.stderr_text();
    if applied.status.success() {
        return;
    }
    assert!(said.contains("tc filter del dev NAME ingress"), "{said}");
    let gw = lab.resource("gw").to_string();
    let links = std::process::Command::new("ip")
        .args(["-n", &gw, "-j", "link"])
        .output();
    let links: Vec<serde_json::Value> =
        serde_json::from_slice(&links.expect("ip starts").stdout).expect("JSON");
    for link in links {
        let name = link["ifname"].as_str().expect("a name");
        let words = ["-n", &gw, "filter", "del", "dev", name, "ingress"];
        // Not every link has one.
        let _ = std::process::Command::new("tc").args(words).output();
    }
    let _ = lab.netmesh(node, &["apply"]);
}

/// All is what it was, and the programs forward every packet.
fn as_before(
    lab: &Lab,
    before: &[serde_json::Value; 2],
    dump: &impl Fn() -> [serde_json::Value; 2],
) {
    lab.settles("router");
    lab.settles("node-1");
    lab.resolved("router");
    assert_eq!(dump(), *before);
    let (plane, prefix) = (lab.at("router"), lab.prefix(&RESOURCES[1]));
    let count = || counted(&plane, &prefix);
    let at = count();
    let running = streams(lab);
    eventually("a stream", SOON, || {
        running.iter().all(|stream| stream.sent() > 100)
    });
    let [out, back] = running.map(Stream::end);
    out.assert_whole(100);
    back.assert_whole(100);
    let now = count();
    assert_eq!([now[0] - at[0], now[1] - at[1]], [back.sent, out.sent]);
}

/// Every file below a folder with what is in it.
fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(files(&path));
        } else if entry.file_name() != "fill" {
            found.insert(path.display().to_string(), fs::read(&path).expect("a file"));
        }
    }
    found
}

/// What is unmounted in the end, or nobody could remove the folder.
struct Mounted<'a>(&'a Path);

impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        let _ = umount(self.0);
    }
}

const FULL: &str = "No space left on device";

/// Neither the folder of the objects nor `/run` has room.
#[test]
fn a_full_disk_changes_nothing_and_tears_nothing() {
    machine("a_full_disk_changes_nothing_and_tears_nothing", || {
        let lab = Lab::mesh();
        let config = lab.config("node-1");
        // The folder in a small file system of its own.
        let held = files(&config);
        mounted("tmpfs", &config, "size=128k");
        let _small = Mounted(&config);
        for (path, text) in held {
            fs::create_dir_all(Path::new(&path).parent().expect("a folder")).expect("a folder");
            fs::write(&path, text).expect("a file");
        }
        for key in files(&config.join("keys")).keys() {
            let mode = <fs::Permissions as std::os::unix::fs::PermissionsExt>::from_mode(0o600);
            fs::set_permissions(key, mode).expect("a file");
        }
        for node in ["node-1", "node-2", "router"] {
            let _ = lab.netmesh(node, &["apply"]);
        }
        eventually("the mesh carries packets", SOON, || reaches(&lab));
        let dump = || lab.dump("node-1", &["gw"]);
        let (good, before) = (files(&config), dump());
        let run = Path::new("/run");
        let records = || files(&run.join("netmesh"));

        // A key is there as a whole or not at all.
        fill(&config);
        let new = format!("{}/new", lab.network());
        refused(
            &lab.try_netmesh("node-1", &["key", "gen", &new]),
            1,
            &["new", FULL],
        );
        assert_eq!(files(&config), good);
        // Applying what is there writes nothing there.
        let _ = lab.netmesh("node-1", &["apply"]);
        fs::remove_file(config.join("fill")).expect("it is there");

        // A change that could not be undone is not made.
        lab.write_network(&[RESOURCES[0], RESOURCES[2]]);
        let (changed, kept) = (files(&config), records());
        fill(run);
        let within = ["apply", "--confirm-within", "60"];
        let words = ["/run/netmesh", FULL, "nothing was changed"];
        refused(&lab.try_netmesh("node-1", &within), 1, &words);
        assert_eq!((dump(), records()), (before.clone(), kept));
        assert!(reaches(&lab));
        fs::remove_file(run.join("fill")).expect("it is there");

        // One that is made and cannot be noted is not gone back beyond.
        lab.write_network(&RESOURCES[..2]);
        fill(run);
        let applied = lab.netmesh("node-1", &["apply"]);
        let said = applied.stderr_text();
        assert!(
            said.contains("cannot be undone") && said.contains(FULL),
            "{said}"
        );
        lab.settles("node-1");
        fs::remove_file(run.join("fill")).expect("it is there");
        let noted = dump();
        lab.write_network(&RESOURCES);
        refused(
            &lab.try_netmesh("node-1", &within),
            3,
            &["kept no record", "nothing was changed"],
        );
        assert_eq!(dump(), noted);

        // The way back has no room for the files: the node is what it was, no file is torn.
        lab.write_network(&RESOURCES);
        let _ = lab.netmesh("node-1", &["apply"]);
        assert_eq!(dump(), before);
        lab.write_network(&[RESOURCES[0], RESOURCES[2]]);
        assert_eq!(files(&config), changed);
        let _ = lab.netmesh("node-1", &within);
        assert!(!reaches(&lab), "web is cut off");
        fill(&config);
        let back = lab.try_netmesh("node-1", &["rollback"]);
        refused(&back, 1, &[FULL, "the node is what it was before"]);
        assert_eq!(dump(), before);
        for (path, text) in files(&config) {
            let whole = [good.get(&path), changed.get(&path)].contains(&Some(&text));
            assert!(whole, "{path} is torn");
        }
        fs::remove_file(config.join("fill")).expect("it is there");
        eventually("web is back", SOON, || reaches(&lab));
    });
}
