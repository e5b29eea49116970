//! TC on kernels without TCX: a filter of the clsact qdisc, found again by its fixed place.
//!
//! Such a filter cannot be pinned, and needs not to be: it stays until it is removed. The
//! program is pinned in its place to record that it is there.

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
        remedy: "; `tc filter show dev NAME ingress` shows what is there",
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

/// Removes the filter. A device that is gone has taken it along.
pub(super) fn detach(ifindex: u32) {
    let name = nix::net::if_::if_indextoname(ifindex);
    if let Some(name) = name.ok().and_then(|name| name.into_string().ok())
        && let Ok(link) = SchedClassifierLink::attached(
            &name,
            TcAttachType::Ingress,
            PRIORITY,
            TcHandle::new(0, HANDLE),
            None,
        )
    {
        drop(link); // This is what removes it.
    }
}
