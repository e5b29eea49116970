//! Programs and maps into the kernel.

use std::fs;
use std::path::PathBuf;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use aya::maps::Array;
use aya::programs::links::FdLink;
use aya::programs::{BtfTracePoint, ProgramError, SchedClassifier, Xdp};
use aya::{Btf, Ebpf, EbpfLoader};
use netmesh_common::lines::HEADER;

use super::instance::Capacity;
use super::lines::Lines;
use super::object::Object;
use super::pin::{Folder, NamespaceId};
use super::{Error, growing, kernel_layout, lines, maps, probe, trees};

/// Programs that follow neighbours and lost frames, and the tracepoint each sits on.
pub(super) const FOLLOWERS: [(&str, &str); 5] = [
    ("neigh_update_done", "neigh_update_done"),
    ("neigh_timer_handler", "neigh_timer_handler"),
    ("neigh_cleanup", "neigh_cleanup_and_release"),
    ("xdp_sent", "xdp_devmap_xmit"),
    ("xdp_refused", "xdp_redirect_err"),
];

/// Programs that are pinned to be attached to ports.
pub(super) const PROGRAMS: [&str; 3] = ["netmesh_xdp", "netmesh_pass", "netmesh_tc"];

/// Loads everything, attaches the follower, pins it all into `folder`.
pub(super) fn load(
    folder: &Folder,
    namespace: NamespaceId,
    capacity: Capacity,
) -> Result<(), Error> {
    let mut loaded = load_upon(folder, namespace, capacity, &[])?;
    let follower = match loaded.unfollowed {
        Some(error) => Err(error),
        None => follow(&mut loaded.ebpf, |name| folder.links().join(name)),
    };
    if let Err(error) = follower {
        unfollowed(folder, &error);
    }
    Ok(())
}

/// Loads everything upon the maps of these names, which are in `folder` already, and pins the rest
/// into it. Nothing follows neighbours yet.
pub(super) fn load_upon(
    folder: &Folder,
    namespace: NamespaceId,
    capacity: Capacity,
    there: &[&str],
) -> Result<Loaded, Error> {
    let layout = kernel_layout::read(namespace.inode);
    let known = layout.as_ref().copied().unwrap_or_default();
    let first = lines::make_tables(&folder.map("TABLES"))?;
    trees::make_memory(&folder.map("PIECES"))?;
    let is_there = |name: &str| ["TABLES", "PIECES"].contains(&name) || there.contains(&name);
    let mut loader = EbpfLoader::new();
    for name in maps::NAMES.into_iter().filter(|name| is_there(name)) {
        loader.map_pin_path(name, folder.map(name));
    }
    let mut ebpf = loader
        .override_global("NEIGHBOUR_LAYOUT", &known, true)
        .map_max_entries("FIB6", capacity.routes)
        .map_max_entries("FIB4", capacity.routes)
        .map_max_entries("CARRIED", maps::notes(capacity.routes))
        .map_max_entries("INSIDE", growing::FIRST.min(capacity.routes))
        .map_max_entries("KEPT", growing::FIRST.min(maps::notes(capacity.routes)))
        .map_max_entries("RIB", growing::FIRST.min(capacity.routes.saturating_mul(2)))
        .map_max_entries("PREFIX_CNT", capacity.counters)
        .map_max_entries("COUNTER_IDS", capacity.counters.saturating_add(1))
        .load(Object::default().bytes())
        .map_err(refused)?;

    set_header(&mut ebpf, first.header())?;
    for name in maps::NAMES.into_iter().filter(|name| !is_there(name)) {
        let map = ebpf.map(name).ok_or_else(|| missing(name))?;
        map.pin(folder.map(name)).map_err(refused)?;
    }
    pin_programs(&mut ebpf, |name| folder.program(name))?;
    Ok(Loaded {
        ebpf,
        unfollowed: layout.err(),
    })
}

/// Programs that are loaded and not at work yet.
pub(super) struct Loaded {
    ebpf: Ebpf,
    /// What keeps neighbours from being followed.
    unfollowed: Option<Error>,
}

/// Loads the programs of an object upon the maps that are there, and pins those for ports under
/// the names that `program` gives.
pub(super) fn reload(
    object: &Object,
    folder: &Folder,
    namespace: NamespaceId,
    program: impl Fn(&str) -> PathBuf,
) -> Result<Loaded, Error> {
    let layout = kernel_layout::read(namespace.inode);
    let known = layout.as_ref().copied().unwrap_or_default();
    let mut loader = EbpfLoader::new();
    loader.override_global("NEIGHBOUR_LAYOUT", &known, true);
    for name in maps::NAMES {
        // The shape of the pins was checked when the instance was opened: the library does not.
        loader.map_pin_path(name, folder.map(name));
    }
    let mut ebpf = loader.load(object.bytes()).map_err(refused)?;
    pin_programs(&mut ebpf, program)?;
    let unfollowed = layout.map(drop).and_then(|()| load_followers(&mut ebpf));
    Ok(Loaded {
        ebpf,
        unfollowed: unfollowed.err(),
    })
}

impl Loaded {
    /// Sets the followers to work and pins them under the names that `link` gives. A kernel that
    /// has none goes on with those that run, if any do.
    pub(super) fn follow(
        mut self,
        folder: &Folder,
        link: impl Fn(&str) -> PathBuf,
    ) -> Result<(), Error> {
        match self.unfollowed.take() {
            None => attach_followers(&mut self.ebpf, link),
            Some(error) => {
                unfollowed(folder, &error);
                Ok(())
            }
        }
    }
}

/// Another copy of the programs, upon the tables that are there but with ports and counters of its
/// own, and with what stage 1 says of these keys: what is tried on it leaves no trace. None of its
/// programs is loaded yet.
pub(super) fn copy(
    object: &Object,
    folder: &Folder,
    stage: &Lines,
    keys: &[u64],
) -> Result<Ebpf, Error> {
    static TRIALS: AtomicU32 = AtomicU32::new(0);
    let trial = TRIALS.fetch_add(1, Ordering::Relaxed);
    let pin = folder.map(&format!("trial-{}-{trial}", std::process::id()));
    let first = lines::make_extract(stage, keys, &pin)?;
    let mut loader = EbpfLoader::new();
    loader.map_max_entries("PREFIX_CNT", 1);
    loader.map_max_entries("CARRIED", 1);
    loader.map_max_entries("AYA_LOGS", 4096);
    loader.map_pin_path("TABLES", &pin);
    for name in maps::NAMES {
        if !maps::TOLD.contains(&name) && name != "PORTS" {
            loader.map_pin_path(name, folder.map(name));
        }
    }
    let loaded = loader.load(object.bytes()).map_err(refused);
    // One that is left behind goes with the folder.
    let _ = fs::remove_file(&pin);
    let mut ebpf = loaded?;
    set_header(&mut ebpf, first.header())?;
    Ok(ebpf)
}

/// Tells the programs of the table they begin with.
fn set_header(ebpf: &mut Ebpf, header: [u64; HEADER]) -> Result<(), Error> {
    let headers = ebpf.map_mut("HEADERS").ok_or_else(|| missing("HEADERS"))?;
    let mut headers: Array<_, [u64; HEADER]> = headers.try_into().map_err(refused)?;
    headers.set(0, header, 0).map_err(refused)
}

/// Loads one program of a copy; its tag names its instructions.
pub(super) fn tagged<'a, T>(
    ebpf: &'a mut Ebpf,
    name: &'static str,
    load: impl Fn(&mut T) -> Result<(), ProgramError>,
) -> Result<&'a mut T, Error>
where
    &'a mut T: TryFrom<&'a mut aya::programs::Program, Error = ProgramError>,
{
    let found: &mut T = program(ebpf, name)?;
    verified(|| load(found))?;
    Ok(found)
}

fn pin_programs(ebpf: &mut Ebpf, path: impl Fn(&str) -> PathBuf) -> Result<(), Error> {
    for name in PROGRAMS {
        if name == "netmesh_tc" {
            let classifier: &mut SchedClassifier = program(ebpf, name)?;
            verified(|| classifier.load())?;
            classifier.pin(path(name)).map_err(refused)?;
        } else {
            let xdp: &mut Xdp = program(ebpf, name)?;
            verified(|| xdp.load())?;
            xdp.pin(path(name)).map_err(refused)?;
        }
    }
    Ok(())
}

/// Without the follower the data plane works, and says so.
fn unfollowed(folder: &Folder, error: &Error) {
    tracing::warn!(instance = folder.name, %error, "neighbours are not followed");
}

/// All of the follower, or none of it.
fn follow(ebpf: &mut Ebpf, path: impl Fn(&str) -> PathBuf) -> Result<(), Error> {
    load_followers(ebpf)?;
    attach_followers(ebpf, path)
}

fn load_followers(ebpf: &mut Ebpf) -> Result<(), Error> {
    let btf = kernel_types()?;
    for (name, tracepoint) in FOLLOWERS {
        let follower: &mut BtfTracePoint = program(ebpf, name)?;
        verified(|| follower.load(tracepoint, btf))?;
    }
    Ok(())
}

fn attach_followers(ebpf: &mut Ebpf, path: impl Fn(&str) -> PathBuf) -> Result<(), Error> {
    let mut links = Vec::new();
    for (name, _) in FOLLOWERS {
        let follower: &mut BtfTracePoint = program(ebpf, name)?;
        let link = follower.attach().map_err(refused)?;
        let link: FdLink = follower.take_link(link).map_err(refused)?.into();
        links.push((name, link));
    }
    for (name, link) in links {
        link.pin(path(name)).map_err(refused)?;
    }
    Ok(())
}

/// The kernel's types as the library wants them, read once.
fn kernel_types() -> Result<&'static Btf, Error> {
    static TYPES: OnceLock<Btf> = OnceLock::new();
    if let Some(types) = TYPES.get() {
        return Ok(types);
    }
    let types = Btf::from_sys_fs().map_err(refused)?;
    Ok(TYPES.get_or_init(|| types))
}

/// The verifier gives up with `EAGAIN` when anything wakes the thread it runs on: on a busy
/// machine many times in a row.
fn verified(mut load: impl FnMut() -> Result<(), ProgramError>) -> Result<(), Error> {
    let deadline = Instant::now() + Duration::from_secs(5);
    loop {
        match load() {
            Err(ProgramError::LoadError { io_error, .. })
                if io_error.raw_os_error() == Some(libc::EAGAIN) && Instant::now() < deadline =>
            {
                std::thread::sleep(Duration::from_millis(2));
            }
            result => return result.map_err(refused),
        }
    }
}

fn program<'a, T>(ebpf: &'a mut Ebpf, name: &'static str) -> Result<&'a mut T, Error>
where
    &'a mut T: TryFrom<&'a mut aya::programs::Program, Error = ProgramError>,
{
    ebpf.program_mut(name)
        .ok_or_else(|| missing(name))?
        .try_into()
        .map_err(refused)
}

fn missing(name: &'static str) -> Error {
    refused(std::io::Error::new(
        std::io::ErrorKind::NotFound,
        format!("the embedded object has no {name}"),
    ))
}

/// The kernel's words, at most the last twenty lines: that is where the verifier says why.
fn refused(source: impl std::error::Error + Send + Sync + 'static) -> Error {
    let text = probe::words(&source);
    let lines: Vec<&str> = text.lines().collect();
    let tail = lines[lines.len().saturating_sub(20)..].join("\n");
    Error::Load {
        kernel: release(),
        tail,
    }
}

fn release() -> String {
    fs::read_to_string("/proc/sys/kernel/osrelease")
        .map_or_else(|_| "unknown".to_owned(), |text| text.trim().to_owned())
}
