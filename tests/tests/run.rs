//! `netmesh run`: objects and kernel are followed, others are left alone, forwarding outlives it.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::process::Command;
use std::time::{Duration, Instant};

use netmesh::demo::traffic::ping;
use netmesh_tests::daemon::{Daemon, SOON};
use netmesh_tests::pair::RIGHT;
use netmesh_tests::stack::counted;
use netmesh_tests::stream::Stream;
use netmesh_tests::{INTERNET, Lab, OutputText as _, RESOURCES, eventually};
use nix::sys::signal::Signal;
use serde_json::Value;

fn ip(namespace: &str, words: &str) -> String {
    let output = Command::new("ip")
        .args(["-n", namespace])
        .args(words.split(' '))
        .output()
        .expect("ip starts");
    assert!(output.status.success(), "ip -n {namespace} {words}");
    output.stdout_text()
}

fn tunnel(lab: &Lab) -> String {
    let [_, _, _, _, _, _, hi, lo, ..] = lab.address(&RESOURCES[0]).octets();
    format!("wg-{:x}", u16::from_be_bytes([hi, lo]))
}

#[test]
fn objects_and_kernel_are_followed_without_anybody_asking() {
    let lab = Lab::mesh();
    let daemons: Vec<Daemon> = lab
        .nodes()
        .iter()
        .map(|node| Daemon::start(&lab, node, &["-v"]))
        .collect();
    for (node, daemon) in lab.nodes().iter().zip(&daemons) {
        daemon.until_told("READY=1");
        lab.settles(node);
    }
    let web = lab.address(&RESOURCES[1]);
    let reaches = |lab: &Lab| {
        let pings = ping(&lab.resource("web"), web.into(), INTERNET.into(), 104, 1);
        pings.is_ok_and(|pings| pings.received == 1)
    };
    eventually("the mesh carries packets", SOON, || reaches(&lab));

    // A link that somebody takes down.
    let (gw, tunnel) = (lab.resource("gw").to_string(), tunnel(&lab));
    ip(&gw, &format!("link set {tunnel} down"));
    eventually("the tunnel is up again", SOON, || {
        ip(&gw, &format!("link show {tunnel}")).contains(",UP")
    });
    lab.settles("node-1");
    // A return route that somebody removes.
    let (router, prefix) = (lab.name("router"), lab.prefix(&RESOURCES[1]));
    ip(&router, &format!("-6 route del {prefix}"));
    eventually("the return route is back", SOON, || {
        ip(&router, &format!("-6 route show {prefix}")).contains("via")
    });
    // A peer that somebody removes: nobody tells of that.
    let peers = || {
        netmesh::kernel::netns::run_in(&lab.resource("gw"), || {
            netmesh::wireguard::device::observe(&tunnel)
        })
        .expect("the namespace")
        .expect("a device")
        .expect("a device")
        .peers
    };
    let before: Vec<_> = peers().into_keys().collect();
    assert_eq!(before.len(), 2, "web and home");
    netmesh::kernel::netns::run_in(&lab.resource("gw"), || {
        netmesh::wireguard::device::delete_peer(&tunnel, &before[0])
    })
    .expect("the namespace")
    .expect("it goes");
    eventually("the peer is back", SOON, || {
        peers().into_keys().eq(before.iter().cloned())
    });
    // A whole namespace.
    assert!(
        Command::new("ip")
            .args(["netns", "del", &gw])
            .status()
            .is_ok_and(|status| status.success())
    );
    lab.settles("node-1");
    eventually("the mesh carries packets again", SOON, || reaches(&lab));

    // An object that holds less: everywhere at once, and its namespace goes with it.
    let key = lab.public_key(&RESOURCES[1]).to_owned();
    lab.write_network(&[RESOURCES[0], RESOURCES[2]]);
    eventually("the namespace of web is gone", SOON, || {
        !netmesh::kernel::netns::path(&lab.resource("web")).exists()
    });
    for node in lab.nodes() {
        lab.settles(&node);
    }
    let rest = lab.dump("node-1", &["gw"]).to_string();
    assert!(!rest.contains(&key), "a trace of web on node-1: {rest}");
    // The same, set aside and renamed into place as editors and tools do.
    let file = lab.config("node-2").join("networks/network.toml");
    let aside = lab.config("node-2").join("networks/.network.toml.tmp");
    lab.write_network(&RESOURCES);
    fs::copy(&file, &aside).expect("a copy");
    fs::rename(&aside, &file).expect("a rename");
    eventually("web is back", SOON, || reaches(&lab));
    for daemon in &daemons {
        let bad: Vec<Value> = daemon
            .log()
            .into_iter()
            .filter(|line| line["level"] == "ERROR")
            .collect();
        assert!(bad.is_empty(), "{bad:?}");
    }
}

#[test]
fn objects_that_are_wrong_change_nothing_and_leak_nothing() {
    let lab = Lab::mesh();
    let daemon = Daemon::start(&lab, "node-1", &["-vv"]);
    daemon.until_told("READY=1");
    lab.settles("node-1");
    let before = lab.dump("node-1", &["gw"]);
    let file = lab.config("node-1").join("networks/network.toml");
    let good = fs::read_to_string(&file).expect("the object");
    // A private key where none belongs, in a field, in a value and in no syntax at all.
    let secret = "cFJpdmF0ZUtleVRoYXRNdXN0TmV2ZXJCZVNlZW4xMjM=";
    for wrong in [
        format!("private_key = \"{secret}\"\n{good}"),
        good.replacen("endpoint = \"", &format!("endpoint = \"{secret}"), 1),
        format!("{good}\n[[resource]]\nname = \"x\" {secret}\n"),
        format!("{good}\n{secret}"),
    ] {
        fs::write(&file, wrong).expect("the object");
        let rejected = || {
            let log = daemon.log();
            log.iter()
                .filter(|line| line["message"] == "objects rejected")
                .count()
        };
        eventually("the fault is told", SOON, || rejected() > 0);
        eventually("the service manager knows", SOON, || {
            let told = daemon.told();
            told.iter().any(|word| word.contains("STATUS=objects rej"))
        });
        // Everything is looked at, and nothing is done about it.
        daemon.signal(Signal::SIGHUP);
        daemon.until_told("READY=1");
        assert_eq!(lab.dump("node-1", &["gw"]), before);
        fs::write(&file, &good).expect("the object");
        eventually("the service manager is told that all is well", SOON, || {
            let told = daemon.told();
            told.iter().any(|word| word.contains("is what its objects"))
        });
    }
    assert!(daemon.says("the node is kept what the last good objects said"));
    assert!(daemon.says("the objects are right again"));
    // Neither that one nor the node's own is anywhere in the log, at its most talkative.
    let own = lab.config("node-1").join("keys").join(lab.network());
    let own = fs::read_to_string(own.join("gw.key")).expect("the key");
    let text = daemon.text();
    assert!(text.contains("DEBUG"), "it was talkative");
    for key in [secret, own.trim()] {
        assert!(!text.contains(key), "a private key in the log");
        assert!(!text.contains(&key[..20]), "half a private key in the log");
    }
}

/// The daemons of the router and of the exit's node end, by a signal or without a word, twenty times
/// under traffic: every packet arrives, once, and is counted on both.
#[test]
fn forwarding_outlives_the_daemon_unless_it_is_told_otherwise() {
    let lab = Lab::mesh();
    let _ = lab.netmesh("node-2", &["apply"]);
    let start = |node| {
        let daemon = Daemon::start(&lab, node, &[]);
        daemon.until_told("READY=1");
        daemon
    };
    let mut router = start("router");
    let mut daemon = start("node-1");
    for node in ["router", "node-1"] {
        lab.settles(node);
    }
    daemon.until_told("WATCHDOG=1");
    let second = lab.try_netmesh("node-1", &["run"]);
    assert_eq!(second.status.code(), Some(1), "one daemon a node");
    let web = lab.address(&RESOURCES[1]);
    let (here, web) = (lab.resource("web"), web.into());
    eventually("the mesh carries packets", SOON, || {
        ping(&here, web, INTERNET.into(), 104, 1).is_ok_and(|pings| pings.received == 1)
    });
    // Until then it is the kernel that forwards.
    lab.resolved("router");
    let before = [("node-1", &["gw"][..]), ("router", &[])].map(|(n, r)| lab.dump(n, r));
    let prefix = lab.prefix(&RESOURCES[1]);
    let planes = [lab.at("router"), lab.resource("gw")];
    let counted = || planes.each_ref().map(|plane| counted(plane, &prefix));
    // The exit's neighbours are resolved by what has just crossed it.
    eventually("both count every packet", SOON, || {
        let at = counted();
        let pings = ping(&here, web, INTERNET.into(), 104, 5);
        let more = at.map(|packets| packets.map(|n| n + 5));
        pings.is_ok_and(|pings| pings.received == 5) && counted() == more
    });

    let at = counted();
    let (far, period) = (lab.at("provider"), Duration::from_millis(2));
    let ends = ((&here, web), (&far, INTERNET.into()));
    let out = Stream::start(ends.0, ends.1, period);
    let back = Stream::start(ends.1, ends.0, period);
    for round in 0..20 {
        let daemons = [(&mut router, "router"), (&mut daemon, "node-1")];
        for (daemon, node) in daemons {
            if round % 2 == 0 {
                assert_eq!(daemon.ends(Signal::SIGKILL), None);
            } else {
                assert_eq!(daemon.ends(Signal::SIGTERM), Some(0));
                assert!(daemon.told().iter().any(|word| word == "STOPPING=1\n"));
            }
            *daemon = start(node);
        }
    }
    let (out, back) = (out.end(), back.end());
    println!(
        "20 restarts of two daemons: {} packets out, {} back, {} lost, {} twice",
        out.sent,
        back.sent,
        out.lost.len() + back.lost.len(),
        out.twice.len() + back.twice.len()
    );
    for account in [&out, &back] {
        account.assert_whole(1000);
    }
    for (plane, (now, at)) in planes.iter().zip(counted().iter().zip(&at)) {
        let more = [now[0] - at[0], now[1] - at[1]];
        assert_eq!(
            more,
            [back.sent, out.sent],
            "to and from {prefix} by {plane}"
        );
    }
    let after = [("node-1", &["gw"][..]), ("router", &[])].map(|(n, r)| lab.dump(n, r));
    assert_eq!(after, before);

    // A reload is told from beginning to end.
    let _ = daemon.told();
    daemon.signal(Signal::SIGHUP);
    let mut told = Vec::new();
    eventually("the reload has ended", SOON, || {
        told.extend(daemon.told());
        told.iter().any(|word| word.contains("READY=1"))
    });
    let begun = told.iter().position(|word| word.contains("RELOADING=1"));
    let ended = told.iter().position(|word| word.contains("READY=1"));
    let begun = begun.expect("RELOADING=1");
    assert!(Some(begun) < ended && told[begun].contains("MONOTONIC_USEC="));

    assert_eq!(daemon.ends(Signal::SIGTERM), Some(0));
    let mut daemon = Daemon::start(&lab, "node-1", &["--flush-on-exit"]);
    daemon.until_told("READY=1");
    assert_eq!(daemon.ends(Signal::SIGTERM), Some(0));
    assert!(daemon.says("what netmesh made on this node is removed"));
    assert!(!netmesh::kernel::netns::path(&lab.resource("gw")).exists());
    let residue: Vec<String> = lab
        .residue("node-1")
        .into_keys()
        .filter(|path| !path.starts_with("/proc"))
        .collect();
    assert!(
        residue.iter().all(|path| !path.contains("bpf")),
        "{residue:?}"
    );
}

#[test]
fn what_others_do_is_neither_undone_nor_fought_over() {
    let lab = Lab::mesh();
    let machine = lab.name("node-1");
    for words in [
        "-6 route add 2001:db8:77::/64 via 2001:db8:0:1::12 dev eth0 proto static",
        "-6 addr add 2001:db8:0:1::77/64 dev eth0 nodad",
        "-6 neigh add 2001:db8:0:1::78 lladdr 02:00:00:00:00:78 dev eth0 nud permanent",
    ] {
        ip(&machine, words);
    }
    let foreign = || {
        [
            ip(&machine, "-6 route show proto static"),
            ip(&machine, "-6 addr show dev eth0 scope global"),
            ip(&machine, "-6 neigh show nud permanent"),
        ]
    };
    let before = foreign();
    let daemon = Daemon::start(&lab, "node-1", &["--resync", "1"]);
    daemon.until_told("READY=1");
    lab.settles("node-1");
    // Looking at everything again and again says nothing when there is nothing to say.
    let lines = daemon.log().len();
    let until = Instant::now() + Duration::from_secs(4);
    eventually("four rounds", SOON, || Instant::now() > until);
    let log = daemon.log();
    assert_eq!(log.len(), lines, "{:?}", &log[lines..]);
    assert_eq!(foreign(), before, "what others made");

    // Somebody takes our link down whenever it is up.
    let (gw, tunnel) = (lab.resource("gw").to_string(), tunnel(&lab));
    let until = Instant::now() + Duration::from_secs(12);
    let mut downs = 0;
    while Instant::now() < until {
        if ip(&gw, &format!("link show {tunnel}")).contains(",UP") {
            ip(&gw, &format!("link set {tunnel} down"));
            downs += 1;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    assert!((4..=8).contains(&downs), "put right {downs} times in 12 s");
    assert!(daemon.says("somebody undoes this step; it is left alone for a while"));
    // The operator is not held up by that.
    daemon.signal(Signal::SIGHUP);
    eventually("the link is up at once", Duration::from_secs(5), || {
        ip(&gw, &format!("link show {tunnel}")).contains(",UP")
    });
    lab.settles("node-1");
    assert_eq!(foreign(), before, "what others made");
}

#[test]
fn a_service_manager_that_does_not_listen_holds_up_nobody() {
    let lab = Lab::mesh();
    let folder = tempfile::tempdir().expect("a folder");
    let socket = folder.path().join("notify");
    let _deaf = std::os::unix::net::UnixDatagram::bind(&socket).expect("a socket");
    let mut daemon = lab
        .command("router", &["run", "--quiet"])
        .env("NOTIFY_SOCKET", &socket)
        // A word every 10 ms: nobody holds more than a few.
        .env("WATCHDOG_USEC", "30000")
        .spawn()
        .expect("netmesh starts");
    lab.settles("router");
    let (router, prefix) = (lab.name("router"), lab.prefix(&RESOURCES[1]));
    for _ in 0..2 {
        std::thread::sleep(Duration::from_secs(1));
        ip(&router, &format!("-6 route del {prefix}"));
        eventually("the return route is back", SOON, || {
            ip(&router, &format!("-6 route show {prefix}")).contains("via")
        });
    }
    let pid = nix::unistd::Pid::from_raw(daemon.id() as i32);
    nix::sys::signal::kill(pid, Signal::SIGTERM).expect("it runs");
    let ended = daemon.wait().expect("it ends");
    assert_eq!(ended.code(), Some(0));
}

#[test]
fn what_no_device_took_is_told() {
    let lab = Lab::pair();
    lab.attach_pair("xdp", "any");
    lab.configure("router", "node = \"router\"\n");
    let daemon = Daemon::start(&lab, "router", &[]);
    daemon.until_told("READY=1");
    // Without NAPI a veth end takes no frame of XDP (`veth_xdp_xmit`).
    netmesh::kernel::ethtool::set_gro(&lab.at("right"), "eth0", false).expect("GRO off");
    let lost = netmesh::kernel::netns::run_in(&lab.at("left"), || {
        let socket = std::net::UdpSocket::bind("[::]:0")?;
        for _ in 0..5 {
            socket.send_to(&[0; 100], (RIGHT, 9))?;
        }
        std::io::Result::Ok(())
    });
    lost.expect("the namespace").expect("a socket");
    let entry = || {
        let text = daemon.text();
        let line = text.lines().find(|line| line.contains("no device took"));
        line.map(|line| serde_json::from_str::<serde_json::Value>(line).expect("JSON"))
    };
    eventually("the loss is told", SOON, || entry().is_some());
    let entry = entry().expect("a line");
    assert_eq!(entry["level"], "WARN", "{entry}");
    let port0 = netmesh::kernel::netns::run_in(&lab.at("router"), || {
        nix::net::if_::if_nametoindex("port0").expect("it is there")
    });
    let wanted = format!("interface {}", port0.expect("the namespace"));
    assert!(entry.to_string().contains(&wanted), "{entry}");
    // The next hops are those of routes that are no object's: nobody took them away.
    assert!(!daemon.says("neigh del"), "{}", daemon.text());
    // What is told is counted too.
    let rows = lab.json("router", &["counters", "--drops"]);
    assert!(rows.to_string().contains("\"redirect_failed\":5"), "{rows}");
}

#[test]
fn it_ends_when_told_also_while_it_waits_for_another_writer() {
    let lab = Lab::mesh();
    let mut daemon = Daemon::start(&lab, "router", &[]);
    daemon.until_told("READY=1");
    lab.settles("router");
    let (cookie, _) = netmesh::kernel::netns::identity(&lab.at("router")).expect("it is there");
    let folder = std::path::PathBuf::from(format!("/run/netmesh/{cookie:x}"));
    assert!(folder.join("daemon").exists());
    // Somebody changes the node and takes his time.
    let writer = loop {
        let writer = fs::File::create(folder.join("lock")).expect("a file");
        writer.lock().expect("a lock");
        // Whoever had it before may have removed it.
        let ours = writer.metadata().expect("a file").ino();
        if fs::metadata(folder.join("lock")).is_ok_and(|there| there.ino() == ours) {
            break writer;
        }
    };
    let (router, prefix) = (lab.name("router"), lab.prefix(&RESOURCES[1]));
    ip(&router, &format!("-6 route del {prefix}"));
    std::thread::sleep(Duration::from_secs(2));
    assert!(
        ip(&router, &format!("-6 route show {prefix}")).is_empty(),
        "it waits"
    );
    let _ = daemon.told();
    eventually("it lives", SOON, || {
        daemon.told().iter().any(|word| word == "WATCHDOG=1\n")
    });
    let begun = Instant::now();
    assert_eq!(daemon.ends(Signal::SIGTERM), Some(0));
    assert!(
        begun.elapsed() < Duration::from_secs(10),
        "{:?}",
        begun.elapsed()
    );
    assert!(!folder.join("daemon").exists(), "it leaves nothing behind");
    drop(writer);
    let _ = fs::remove_file(folder.join("lock"));
    let daemon = Daemon::start(&lab, "router", &[]);
    daemon.until_told("READY=1");
    assert!(
        !ip(&router, &format!("-6 route show {prefix}")).is_empty(),
        "and goes on"
    );
}
