//! What can go wrong in the data plane.

use std::io;
use std::net::IpAddr;
use std::path::PathBuf;

use ipnet::IpNet;
use netmesh_common::table::LAYOUT;
use thiserror::Error;

/// Why the data plane did not do what it was told.
#[derive(Debug, Error)]
pub enum Error {
    /// bpffs is not mounted and could not be.
    #[error("no bpf file system at {path}; mount it: mount -t bpf bpf {path}")]
    NoBpffs {
        /// Where it was looked for.
        path: PathBuf,
        /// Why mounting failed.
        source: nix::Error,
    },
    /// A mount namespace without bpffs.
    #[error(
        "no bpf file system at /sys/fs/bpf among this process' mounts, which are not the machine's (`ip \
         netns exec` gives a command a /sys of its own): what it pins would be gone with it; name \
         the namespace from outside instead: netmesh -n {} ...",
        .0.netns
    )]
    PrivateMounts(super::pin::Hidden),
    /// A file operation on the pin folder.
    #[error("{action} {path}{}", root_only(.source))]
    Pin {
        /// What was being done.
        action: &'static str,
        /// To what.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The object did not load.
    #[error("the programs do not load on this kernel ({kernel}): {tail}")]
    Load {
        /// Kernel release.
        kernel: String,
        /// The end of the verifier's log, or the loader's own words.
        tail: String,
    },
    /// A file that is no object of ours.
    #[error("{path} is not an object of this netmesh")]
    Object {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A new program that decides otherwise than it must.
    #[error("{0}")]
    SelfTest(Box<super::self_test::Wrong>),
    /// An instance of an older layout, which can be taken over.
    #[error(
        "a data plane of layout {layout} serves this namespace ({path}), and goes on; `netmesh \
         dataplane upgrade` takes it over with its routes and counters, without losing a packet"
    )]
    OlderLayout {
        /// Its layout.
        layout: u32,
        /// Its folder.
        path: PathBuf,
    },
    /// An instance of another layout.
    #[error(
        "a data plane of layout {layout} serves this namespace ({path}), and this netmesh knows \
         layout {LAYOUT} only; keep the routes that were set by hand with the netmesh that made it \
         (`netmesh route export`), then `netmesh dataplane detach` and `attach` or `apply` with this \
         one"
    )]
    OtherLayout {
        /// Its layout.
        layout: u32,
        /// Its folder.
        path: PathBuf,
    },
    /// An upgrade that failed and could not be undone.
    #[error("the upgrade failed halfway, and these could not be put back: {left}; upgrade again")]
    HalfUpgraded {
        /// Hooks and pins that are not what they were.
        left: String,
        /// Why it failed.
        source: Box<Error>,
    },
    /// A packet on trial.
    #[error("the program cannot be tried")]
    Trial {
        /// The cause.
        source: io::Error,
    },
    /// The pinned program is another than this binary's.
    #[error(
        "the pinned {name} (tag {pinned:016x}) is not this binary's (tag {own:016x}), so a trial would \
         prove nothing; explain with the netmesh that loaded it, or detach and attach its ports \
         with this one"
    )]
    OtherProgram {
        /// The program.
        name: &'static str,
        /// Its tag.
        pinned: u64,
        /// The tag of this binary's.
        own: u64,
    },
    /// Somebody else traces.
    #[error("data plane {name} is being traced already; end the other `netmesh trace` first")]
    Traced {
        /// The instance.
        name: String,
    },
    /// A map operation.
    #[error("map {map}: cannot {action}")]
    Map {
        /// Name of the map.
        map: &'static str,
        /// What was being done.
        action: &'static str,
        /// The cause.
        source: aya::maps::MapError,
    },
    /// A pinned map is not what this binary expects.
    #[error(
        "pinned map {map} has {field} {found}, this binary expects {expected}; detach with the \
         version that made it, or remove {path} (that stops its data plane)"
    )]
    Incompatible {
        /// Name of the map.
        map: &'static str,
        /// Which property.
        field: &'static str,
        /// As found.
        found: u64,
        /// As expected.
        expected: u64,
        /// The instance's folder.
        path: PathBuf,
    },
    /// More next hops than a route can have.
    #[error("a route with {found} next hops; at most {most}")]
    TooManyPaths {
        /// As asked for.
        found: usize,
        /// As possible.
        most: usize,
    },
    /// A table is full.
    #[error("{table} is full ({capacity} entries); {remedy}")]
    Full {
        /// Which.
        table: &'static str,
        /// Its size.
        capacity: u64,
        /// What to do.
        remedy: &'static str,
    },
    /// Not the name of an instance.
    #[error(
        "`{name}` cannot name a data plane: at most 128 characters without blanks, `/`, `@` or `%`"
    )]
    Name {
        /// As given.
        name: String,
    },
    /// The namespace has an instance already.
    #[error(
        "this namespace is served by the data plane `{name}`; detach it before `{wanted}` is \
         loaded"
    )]
    Served {
        /// Asked for.
        wanted: String,
        /// What is there.
        name: String,
    },
    /// The calling thread is in another namespace.
    #[error("the data plane `{name}` can only be changed from inside the namespace it serves")]
    Elsewhere {
        /// The instance.
        name: String,
    },
    /// The calling thread's namespace.
    #[error("cannot tell which network namespace this is")]
    Namespace {
        /// The cause.
        source: io::Error,
    },
    /// The kernel's neighbour table.
    #[error("cannot ask the kernel for neighbour {address}")]
    Neighbour {
        /// The neighbour.
        address: IpAddr,
        /// The cause.
        source: io::Error,
    },
    /// A step for an instance that is not loaded.
    #[error("no data plane `{name}` is loaded in this namespace; `netmesh apply` loads it")]
    NoInstance {
        /// Its name.
        name: String,
    },
    /// There is no such device in the namespace.
    #[error("no device {name} in this namespace; there are {known}")]
    NoDevice {
        /// Asked for.
        name: String,
        /// What there is.
        known: String,
    },
    /// XDP on a device that cannot have it.
    #[error("{name} has no Ethernet header; XDP cannot be attached to it, use --hook tc")]
    NoXdp {
        /// The device.
        name: String,
    },
    /// XDP on the device below a VLAN sub-interface.
    #[error("XDP cannot stand in for {name}: {reason}; use --hook tc")]
    NoXdpBelow {
        /// The sub-interface.
        name: String,
        /// Why.
        reason: &'static str,
    },
    /// XDP would take frames of a VLAN for untagged ones.
    #[error(
        "{name} is attached by XDP, or was to be, and carries {vlan}: XDP may see frames of \
         {vlan} without their tag and take them for its own; {remedy}"
    )]
    TagsHidden {
        /// The device below.
        name: String,
        /// A VLAN sub-interface on it.
        vlan: String,
        /// What to do.
        remedy: &'static str,
    },
    /// Attaching failed.
    #[error("cannot attach {hook} to {name}{remedy}")]
    Attach {
        /// The hook.
        hook: &'static str,
        /// The device.
        name: String,
        /// What to do, where it is known.
        remedy: &'static str,
        /// The cause.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A data plane of ours whose pins are out of sight.
    #[error(
        "{program} is on {name} already, and no pin below /sys/fs/bpf leads to it: its data plane is \
         pinned in another bpf file system than the one that is mounted there now, and forwards by \
         the routes it had; `findmnt /sys/fs/bpf` shows whether one is mounted over it, `umount \
         /sys/fs/bpf` takes that away"
    )]
    OutOfSight {
        /// The program.
        program: &'static str,
        /// The device.
        name: String,
    },
    /// A route that is not there.
    #[error("no route {prefix} of origin {origin}; `netmesh route list` shows what there is")]
    NoRoute {
        /// The prefix.
        prefix: IpNet,
        /// The origin.
        origin: &'static str,
    },
    /// The kernel's type information.
    #[error("the kernel's BTF does not describe {what}: neighbours cannot be followed")]
    Btf {
        /// Which field.
        what: &'static str,
        /// The cause.
        source: io::Error,
    },
}

/// What mends it that somebody may not do something.
fn root_only(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::PermissionDenied => ": the data plane is root's; use sudo",
        _ => "",
    }
}
