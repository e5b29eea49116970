//! A data plane of layout 4 is taken over while it forwards.
//!
//! `layout-4.o` is that layout's object as commit 74722b9 builds it, without its debug information
//! (`llvm-objcopy --strip-debug`). An instance of today is turned into one of its time: the maps that
//! both have, and the old ones beside them, filled as that netmesh filled them.

use std::fs::DirBuilder;
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use aya::EbpfLoader;
use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::{Array, HashMap, MapData};
use aya::programs::{SchedClassifier, Xdp};
use aya_obj::generated::{BPF_F_INNER_MAP, BPF_F_MMAPABLE, bpf_map_type};
use netmesh_common::lines::{Bucket, Class, GENERATIONS, HEADER, MAX_CLASSES, Place, Shape, Table};
use netmesh_common::table::{FibEntry, LAYOUT, Origin, Port as PortEntry, PrefixKey, RibEntry};

use super::lab::{alone, facts, here, tc_link, towards};
use super::traffic::{COUNT, Lab, listen, port, receive, send};
use crate::dataplane::older::{self, Older};
use crate::dataplane::pin::{self, BPFFS, Folder};
use crate::dataplane::sys::{self, Mapping};
use crate::dataplane::{Error, Instance, View, clsact, kernel_layout, lines, load, maps};
use crate::plan::state::{FibRoute, Hook};

static OBJECT: &[u8] = aya::include_bytes_aligned!("layout-4.o");

/// The router, with routes that stage 1 answers and one that the tries do.
fn make(lab: &Lab, hook: Hook) {
    let mut instance = Instance::create("router", here()).unwrap();
    Lab::route(&mut instance);
    let facts = facts();
    let route = FibRoute::Via {
        gateway: Some("2001:db8:f1::2".parse().unwrap()),
        link: "port1".to_owned(),
    };
    for prefix in ["2001:db8:1:8000::/52", "2001:db8:1::1/128"] {
        let prefix = prefix.parse().unwrap();
        instance
            .put_route(prefix, Origin::Static, &route, &facts)
            .unwrap();
    }
    for name in ["port0", "port1"] {
        instance.attach(name, &port(hook), &facts).unwrap();
    }
    for machine in [&lab.left, &lab.right] {
        machine.run(|| {
            let peer = super::lab::facts().devices["up0"].ifindex;
            instance.attach_pass(peer).unwrap();
        });
    }
    drop(instance);
    make_older(&Folder::find(here()).unwrap().unwrap());
    assert!(Folder::find(here()).unwrap().is_none());
}

/// Turns an instance of this layout into one of layout 4.
fn make_older(folder: &Folder) -> PathBuf {
    let view = View::open(here()).unwrap().unwrap();
    let file = folder.path.file_name().unwrap();
    let path = Path::new(BPFFS).join("netmesh/v4").join(file);
    let old = Folder {
        path: path.clone(),
        ..folder.clone()
    };
    for sub in ["maps", "progs", "links"] {
        let mut builder = DirBuilder::new();
        builder.recursive(true).create(path.join(sub)).unwrap();
    }
    let (table, first) = first_table(&old);
    let known = kernel_layout::read(here().inode).unwrap_or_default();
    let mut loader = EbpfLoader::new();
    loader
        .override_global("NEIGHBOUR_LAYOUT", &known, true)
        .map_pin_path("TABLES", old.map("TABLES"))
        .map_max_entries("FIB6", view.capacity().routes)
        .map_max_entries("FIB4", view.capacity().routes)
        .map_max_entries("INSIDE", 1024);
    for shape in older::SAME {
        let map = maps::raw(folder, shape).unwrap();
        sys::pin(map.as_fd(), &old.map(shape.name)).unwrap();
        loader.map_pin_path(shape.name, old.map(shape.name));
    }
    let mut ebpf = loader.load(OBJECT).unwrap();
    let headers = ebpf.map_mut("HEADERS").unwrap();
    let mut headers: Array<_, [u64; HEADER]> = headers.try_into().unwrap();
    headers.set(0, first.header(), 0).unwrap();
    for name in [
        "FIB6", "FIB4", "HEADERS", "ACTIVE", "CLASSES", "INSIDE", "PORTS", "TRACE", "EVENTS",
    ] {
        ebpf.map(name).unwrap().pin(old.map(name)).unwrap();
    }
    for name in load::PROGRAMS {
        let program = ebpf.program_mut(name).unwrap();
        if name == "netmesh_tc" {
            let program: &mut SchedClassifier = program.try_into().unwrap();
            program.load().unwrap();
            program.pin(old.program(name)).unwrap();
        } else {
            let program: &mut Xdp = program.try_into().unwrap();
            program.load().unwrap();
            program.pin(old.program(name)).unwrap();
        }
    }
    let ports = ebpf.map_mut("PORTS").unwrap();
    let mut ports: HashMap<_, u32, PortEntry> = ports.try_into().unwrap();
    for (ifindex, port) in view.maps.ports.iter() {
        ports.insert(ifindex, port, 0).unwrap();
    }
    fill(&view, &old, &Table::open(table.words()).unwrap());
    drop(view);
    for name in pin::entries(&folder.links()).unwrap() {
        let Some((hook, _)) = name.split_once('-') else {
            continue;
        };
        let (from, to) = (folder.links().join(&name), old.links().join(&name));
        let program = match hook {
            "pass" => "netmesh_pass",
            "tcx" | "clsact" => "netmesh_tc",
            _ => "netmesh_xdp",
        };
        if hook == "clsact" {
            clsact::replace(&old.program(program), &name, &from).unwrap();
        } else {
            let link = sys::open(&from).unwrap();
            let program = sys::open(&old.program(program)).unwrap();
            sys::update(link.as_fd(), program.as_fd()).unwrap();
        }
        std::fs::rename(from, to).unwrap();
    }
    folder.forget().unwrap();
    path
}

/// Stage 1 as it was: one map a table.
fn first_table(old: &Folder) -> (Mapping, Shape) {
    let shape = Shape::for_entries(16, MAX_CLASSES - 1, lines::random().unwrap());
    let bytes = size_of::<Bucket>();
    let map = aya_obj::Map::new_from_params(
        bpf_map_type::BPF_MAP_TYPE_ARRAY as u32,
        4,
        bytes as u32,
        shape.buckets(),
        BPF_F_MMAPABLE | BPF_F_INNER_MAP,
    );
    let map = MapData::create(map, "older_lines", None).unwrap();
    let outer = sys::array_of_maps(map.fd().as_fd(), GENERATIONS).unwrap();
    let fd = map.fd().as_fd().as_raw_fd();
    sys::put(outer.as_fd(), &0_u32, &fd).unwrap();
    sys::pin(outer.as_fd(), &old.map("TABLES")).unwrap();
    let table = Mapping::new(map.fd().as_fd(), bytes * shape.buckets() as usize).unwrap();
    Table::make(table.words(), shape).unwrap();
    (table, shape)
}

/// Every prefix into the tries, and those that can be into stage 1.
fn fill(view: &View, old: &Folder, table: &Table<'_>) {
    let open = |name: &str| {
        let map = MapData::from_pin(old.map(name)).unwrap();
        aya::maps::Map::from_map_data(map).unwrap()
    };
    let mut fib6: LpmTrie<_, [u8; 16], FibEntry> = open("FIB6").try_into().unwrap();
    let mut fib4: LpmTrie<_, [u8; 4], FibEntry> = open("FIB4").try_into().unwrap();
    let mut classes: Array<_, u64> = open("CLASSES").try_into().unwrap();
    let mut counters = std::collections::BTreeMap::new();
    view.maps
        .each_counter(|prefix, id| {
            let _ = counters.insert(prefix, id);
        })
        .unwrap();
    let mut routes: Vec<(PrefixKey, u8, RibEntry)> = Vec::new();
    view.maps
        .each_rib(|key, entry| routes.push((key.prefix, key.origin, entry)))
        .unwrap();
    // The most preferred origin comes last, and stays.
    routes.sort_by_key(|(prefix, origin, _)| (*prefix, std::cmp::Reverse(*origin)));
    let longer = |key: u64| {
        let inside =
            |prefix: &PrefixKey| netmesh_common::lines::place(prefix) == Place::Inside(key);
        routes.iter().any(|(prefix, ..)| inside(prefix))
    };
    let mut next = 0;
    for (prefix, origin, route) in &routes {
        let mut entry = FibEntry {
            next_hop: route.next_hop,
            action: route.action,
            origin: *origin,
            prefix_length: prefix.length,
            counter: counters.get(prefix).copied().unwrap_or(FibEntry::UNCOUNTED),
            ..FibEntry::NONE
        };
        if let Place::Exact(key) = netmesh_common::lines::place(prefix) {
            next += 1;
            let Class {
                next_hop,
                action,
                origin,
            } = entry.class();
            let word = u64::from(next_hop) | u64::from(action) << 32 | u64::from(origin) << 40;
            classes.set(next, word | 1 << 63, 0).unwrap();
            table.put(key, next, longer(key)).unwrap();
            entry.counter = FibEntry::UNCOUNTED;
        }
        let length = prefix.length.into();
        let [a, b, c, d, ..] = prefix.address;
        if prefix.family == 6 {
            fib6.insert(&Key::new(length, prefix.address), entry, 0)
                .unwrap();
        } else {
            fib4.insert(&Key::new(length, [a, b, c, d]), entry, 0)
                .unwrap();
        }
    }
}

/// What flows through the router, and what its counters must say of it in the end.
const FLOWS: [(&str, &str, &str); 4] = [
    ("2001:db8:0::1", "2001:db8:1:0::1", "2001:db8:1::1/128"),
    ("2001:db8:1::1", "2001:db8:0::1", "2001:db8::/64"),
    ("10.16.0.1", "10.16.1.1", "10.16.1.0/24"),
    ("10.16.1.1", "10.16.0.1", "10.16.0.0/24"),
];

/// Datagrams on every flow while work is done: all come, once and in order. Returns how many each
/// flow had.
fn under_traffic(lab: &Lab, work: impl FnOnce()) -> Vec<u64> {
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let flows = FLOWS.map(|(from, to, _)| {
            let from_left = from.starts_with("2001:db8:0") || from.starts_with("10.16.0");
            let (sender, receiver) = match from_left {
                true => (&lab.left, &lab.right),
                false => (&lab.right, &lab.left),
            };
            let stop = &stop;
            scope.spawn(move || {
                let socket = receiver.run(|| listen(to));
                let mut sent = 0;
                while !stop.load(Ordering::Relaxed) {
                    sender.run(|| send(from, to));
                    receive(&socket);
                    sent += COUNT;
                }
                sent
            })
        });
        std::thread::sleep(std::time::Duration::from_millis(200));
        work();
        std::thread::sleep(std::time::Duration::from_millis(200));
        stop.store(true, Ordering::Relaxed);
        flows.into_iter().map(|flow| flow.join().unwrap()).collect()
    })
}

fn counted(sent: &[u64]) {
    let view = View::open(here()).unwrap().unwrap();
    let towards = towards(&view);
    for ((_, _, prefix), sent) in FLOWS.iter().zip(sent) {
        assert_eq!(towards[*prefix], *sent, "{prefix}: {towards:?}");
    }
}

fn is_refused() {
    for error in [
        View::open(here()).err().unwrap(),
        Instance::open(here()).err().unwrap(),
        Instance::create("router", here()).err().unwrap(),
    ] {
        assert!(
            matches!(error, Error::OlderLayout { layout: 4, .. }),
            "{error}"
        );
    }
}

/// The hooks and the routes of the instance.
fn is_whole(link: &str) {
    let view = View::open(here()).unwrap().unwrap();
    let rows = view.ports(&facts()).unwrap();
    let links: Vec<_> = rows.iter().map(|row| row.link).collect();
    assert_eq!(links, [link; 2], "{rows:?}");
    let routes = view.routes(&facts()).unwrap();
    let routes: Vec<String> = routes.iter().map(|row| row.prefix.to_string()).collect();
    for prefix in ["2001:db8:1:8000::/52", "2001:db8:1::1/128", "10.16.0.0/24"] {
        assert!(routes.contains(&prefix.to_owned()), "{routes:?}");
    }
    assert!(
        pin::entries(&Path::new(BPFFS).join("netmesh/v4"))
            .unwrap()
            .is_empty()
    );
}

#[test]
fn what_layout_4_was_is_taken_over_with_its_counters() {
    alone(|| taken_over(Hook::Xdp, "xdp"));
    alone(|| taken_over(Hook::Tc, tc_link()));
}

fn taken_over(hook: Hook, link: &str) {
    let lab = Lab::new();
    make(&lab, hook);
    is_refused();
    let sent = under_traffic(&lab, || {
        let instance = Instance::take_over(here()).unwrap();
        assert_eq!(instance.unwrap().name(), "router");
    });
    is_whole(link);
    counted(&sent);
    assert!(Instance::take_over(here()).unwrap().is_none(), "once");
    let more = under_traffic(&lab, || {
        let mut instance = Instance::open(here()).unwrap().unwrap();
        Lab::route(&mut instance);
    });
    let sum: Vec<u64> = sent
        .iter()
        .zip(more)
        .map(|(one, more)| one + more)
        .collect();
    counted(&sum);
}

/// Whoever is killed on the way leaves what the next one takes up: once before a program has changed,
/// once when all have.
#[test]
fn a_take_over_that_was_killed_is_taken_up() {
    alone(|| {
        let lab = Lab::new();
        make(&lab, Hook::Tc);
        let begin = |upgrade: bool| {
            let (layout, folder) = Folder::find_other(here()).unwrap().unwrap();
            let older = Older::open(layout, folder).unwrap().unwrap();
            let folder = Folder::of(older.name(), here()).unwrap();
            folder.build(|new| older.fill(new, here())).unwrap();
            if upgrade {
                let mut instance = Instance::open_folder(folder).unwrap().unwrap();
                instance
                    .upgrade(here(), &crate::dataplane::object::Object::default())
                    .unwrap();
            }
        };
        let sent = under_traffic(&lab, || {
            begin(false);
            is_refused();
            begin(true);
            is_refused();
            assert_eq!(Folder::layout_of(here()).unwrap(), Some(4));
        });
        let more = under_traffic(&lab, || {
            let _ = Instance::take_over(here()).unwrap().unwrap();
        });
        is_whole(tc_link());
        assert_eq!(Folder::layout_of(here()).unwrap(), Some(LAYOUT));
        let sum: Vec<u64> = sent
            .iter()
            .zip(more)
            .map(|(one, more)| one + more)
            .collect();
        counted(&sum);
    });
}

/// Where it cannot be made the older one goes on, and nothing is left of the attempt.
#[test]
fn what_cannot_be_taken_over_goes_on() {
    alone(|| {
        let lab = Lab::new();
        make(&lab, Hook::Xdp);
        let (_, folder) = Folder::find_other(here()).unwrap().unwrap();
        // A link that cannot be opened: its pin is something else.
        let stranger = folder.links().join("xdp-4711");
        std::fs::create_dir(&stranger).unwrap();
        let sent = under_traffic(&lab, || {
            assert!(Instance::take_over(here()).is_err());
        });
        assert!(sent.iter().all(|sent| *sent > 0));
        assert!(Folder::find(here()).unwrap().is_none());
        assert!(pin::entries(&pin::root()).unwrap().is_empty());
        is_refused();
        std::fs::remove_dir(&stranger).unwrap();
        let more = under_traffic(&lab, || {
            let _ = Instance::take_over(here()).unwrap().unwrap();
        });
        let sum: Vec<u64> = sent
            .iter()
            .zip(more)
            .map(|(one, more)| one + more)
            .collect();
        counted(&sum);
    });
}
