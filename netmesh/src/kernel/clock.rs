//! The kernel's clock: whether somebody keeps it right.

use std::io;

/// Whether the clock is kept right (`STA_UNSYNC` is not set); nothing is changed.
///
/// # Errors
/// When the kernel does not tell.
pub fn is_synchronised() -> io::Result<bool> {
    // SAFETY: an all-zero timex is a valid value, and one that changes nothing.
    let mut state: libc::timex = unsafe { std::mem::zeroed() };
    // SAFETY: the pointer is to a live value of the type the call asks for.
    let told = unsafe { libc::adjtimex(&raw mut state) };
    if told < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(state.status & libc::STA_UNSYNC == 0)
}
