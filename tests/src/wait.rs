//! Waiting for what comes true by itself.

use std::time::{Duration, Instant};

/// How much longer than on a machine of its own everything may take: `NETMESH_TEST_PATIENCE`.
#[must_use]
pub fn slowness() -> u32 {
    std::env::var("NETMESH_TEST_PATIENCE")
        .ok()
        .and_then(|factor| factor.parse().ok())
        .unwrap_or(1)
}

/// Waits for a condition.
///
/// # Panics
/// When it does not come true in time.
pub fn eventually(what: &str, patience: Duration, condition: impl FnMut() -> bool) {
    assert!(
        within(patience, condition),
        "{what} did not come true within {:?}",
        patience * slowness()
    );
}

/// Waits for a condition; false if it does not come true in time.
pub fn within(patience: Duration, mut condition: impl FnMut() -> bool) -> bool {
    // Who asks all the time keeps what it waits for from happening.
    let pause = Duration::from_millis(20) * slowness().min(10);
    let deadline = Instant::now() + patience * slowness();
    while !condition() {
        if Instant::now() >= deadline {
            return false;
        }
        std::thread::sleep(pause);
    }
    true
}
