//! The same objects on another machine are the same state.

use std::net::IpAddr;
use std::time::Duration;

use netmesh::demo::traffic::ping;
use netmesh_tests::{INTERNET, Lab, OutputText as _, RESOURCES, eventually};

#[test]
fn a_router_recreated_elsewhere_is_the_same_router() {
    let mut lab = Lab::mesh();
    lab.apply_all();
    let reaches = |lab: &Lab| {
        let web = lab.address(&RESOURCES[1]);
        ping(
            &lab.resource("web"),
            IpAddr::V6(web),
            INTERNET.into(),
            104,
            1,
        )
        .unwrap()
        .received
            == 1
    };
    eventually("traffic flows", Duration::from_secs(10), || reaches(&lab));
    let digest = lab.netmesh("router", &["plan", "--digest"]).stdout_text();
    let dump = lab.dump("router", &[]);

    let _ = lab.netmesh("router", &["destroy", "--yes"]);
    let files = lab.config("router");
    lab.remove_machine("router");
    eventually("its wires are gone", Duration::from_secs(5), || {
        !netmesh::kernel::netns::run_in(&lab.at("provider"), || {
            nix::net::if_::if_nametoindex("eth0").is_ok()
        })
        .unwrap()
    });
    lab.machine("spare");
    lab.segment_wire("spare");
    lab.uplink_wire("spare");
    std::fs::rename(files, lab.config("spare")).unwrap();
    let _ = lab.netmesh("spare", &["apply"]);

    assert_eq!(
        lab.netmesh("spare", &["plan", "--digest"]).stdout_text(),
        digest
    );
    assert_eq!(lab.dump("spare", &[]), dump);
    eventually("traffic flows again", Duration::from_secs(10), || {
        reaches(&lab)
    });
    lab.assert_settled();
}
