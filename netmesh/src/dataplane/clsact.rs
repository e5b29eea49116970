//! TC on kernels without TCX: a filter of the clsact qdisc, found again by its fixed place.
//!
//! Such a filter cannot be pinned, and needs not to be: it stays until it is removed. The
//! program is pinned in its place to record that it is there.

use std::io;
use std::path::Path;

use aya::programs::tc::{NlOptions, SchedClassifierLink, TcAttachOptions, TcHandle};
use aya::programs::{SchedClassifier, TcAttachType, tc};

use super::Error;

/// Priority and handle of our filter.
const PRIORITY: u16 = 50;
const HANDLE: u16 = 1;

/// Puts the program pinned at `program` on the ingress of a device and records it at `record`.
pub(super) fn attach(program: &Path, name: &str, record: &Path) -> Result<(), Error> {
    let fail = |source: Box<dyn std::error::Error + Send + Sync>| Error::Attach {
        hook: "TC (clsact)",
        name: name.to_owned(),
        remedy: "; `tc filter show dev NAME ingress` shows what is there; where it is netmesh_tc, its \
                 data plane is pinned in another bpf file system than the one at /sys/fs/bpf: \
                 `findmnt /sys/fs/bpf` shows whether one is mounted over it, `umount /sys/fs/bpf` \
                 takes that away, and where there is none any more, `tc filter del dev NAME ingress` \
                 the filter",
        source,
    };
    let mut program = SchedClassifier::from_pin(program).map_err(|error| fail(error.into()))?;
    // It may be there already; if it cannot be made, attaching says so.
    let _ = tc::qdisc_add_clsact(name);
    let options = NlOptions {
        priority: PRIORITY,
        handle: TcHandle::new(0, HANDLE),
        ..NlOptions::default()
    };
    let link = program
        .attach_with_options(
            name,
            TcAttachType::Ingress,
            TcAttachOptions::Netlink(options),
        )
        .and_then(|id| program.take_link(id))
        .map_err(|error| fail(error.into()))?;
    program.pin(record).map_err(|error| fail(error.into()))?;
    // Dropping it would remove the filter.
    std::mem::forget(link);
    Ok(())
}

/// Puts another program into the filter of a device; `record` is `clsact-<ifindex>`.
pub(super) fn replace(program: &Path, record: &str, path: &Path) -> Result<(), Error> {
    let Some(name) = record
        .rsplit_once('-')
        .and_then(|(_, ifindex)| name_of(ifindex.parse().ok()?))
    else {
        return Ok(()); // The device is gone.
    };
    let fail = |source: Box<dyn std::error::Error + Send + Sync>| Error::Attach {
        hook: "TC (clsact)",
        name: name.clone(),
        remedy: "; `tc filter show dev NAME ingress` shows what is there",
        source,
    };
    let link = place(&name).map_err(|error| fail(error.into()))?;
    let mut program = SchedClassifier::from_pin(program).map_err(|error| fail(error.into()))?;
    let link = program
        .attach_to_link(link)
        .and_then(|id| program.take_link(id))
        .map_err(|error| fail(error.into()))?;
    std::mem::forget(link); // Dropping it would remove the filter.
    std::fs::remove_file(path).map_err(|error| fail(error.into()))?;
    program.pin(path).map_err(|error| fail(error.into()))
}

/// Removes the filter. A device that is gone has taken it along.
pub(super) fn detach(ifindex: u32) {
    if let Some(link) = name_of(ifindex).and_then(|name| place(&name).ok()) {
        drop(link); // This is what removes it.
    }
}

/// The place of our filter on a device, whether or not it is there.
fn place(name: &str) -> Result<SchedClassifierLink, io::Error> {
    let handle = TcHandle::new(0, HANDLE);
    SchedClassifierLink::attached(name, TcAttachType::Ingress, PRIORITY, handle, None)
}

fn name_of(ifindex: u32) -> Option<String> {
    let name = nix::net::if_::if_indextoname(ifindex).ok()?;
    name.into_string().ok()
}
