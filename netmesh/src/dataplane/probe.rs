//! What this kernel offers a data plane, asked without changing anything.

use std::io;

use aya::programs::tc::TcAttachType;
use aya::programs::{ProgramError, ProgramInfo, SchedClassifier, loaded_programs, tc};

use super::kernel_layout;
use super::pin;

/// What was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offer {
    /// bpffs is mounted where pins go.
    pub bpffs: bool,
    /// It is not, and this process' mounts are not the machine's.
    pub hidden: bool,
    /// TCX links (Linux 6.6); otherwise programs go into clsact filters.
    pub tcx: Result<bool, String>,
    /// The kernel's type information describes what the neighbour follower reads; or why not.
    pub follower: Result<(), String>,
}

/// Looks at the kernel of this machine.
#[must_use]
pub fn offer() -> Offer {
    Offer {
        bpffs: pin::mounted(),
        hidden: pin::hidden().is_some(),
        tcx: tcx(),
        follower: kernel_layout::read(0)
            .map(drop)
            .map_err(|error| words(&error)),
    }
}

/// Asks which programs sit on `lo`: a kernel without TCX does not know the question.
fn tcx() -> Result<bool, String> {
    match SchedClassifier::query_tcx("lo", TcAttachType::Ingress) {
        Ok(_) => Ok(true),
        Err(error) => match errno(&error) {
            Some(libc::EINVAL) => Ok(false),
            _ => Err(words(&error)),
        },
    }
}

/// Puts a clsact qdisc on `lo` of the calling thread's namespace: call it in one made for that.
///
/// # Errors
/// When the kernel has none.
pub fn clsact() -> Result<(), String> {
    match tc::qdisc_add_clsact("lo") {
        Ok(()) => Ok(()),
        Err(error) => Err(words(&error)),
    }
}

/// The name of a program that somebody has loaded; `None` when it is gone.
#[must_use]
pub fn program_name(id: u32) -> Option<String> {
    let is_it = |program: &ProgramInfo| program.id() == id;
    let program = loaded_programs().filter_map(Result::ok).find(is_it)?;
    program.name_as_str().map(ToOwned::to_owned)
}

fn errno(error: &ProgramError) -> Option<i32> {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<io::Error>() {
            return error.raw_os_error();
        }
        cause = error.source();
    }
    None
}

/// An error and its causes in one line.
pub fn words(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text.push_str(": ");
        text.push_str(&inner.to_string());
        cause = inner.source();
    }
    text
}
