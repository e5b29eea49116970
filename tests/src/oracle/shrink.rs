//! A case made small: routes and bytes that make no difference to the difference are taken out.

use std::time::{Duration, Instant};

use super::routes::Route;
use super::suite::{Case, Difference, differs, hex};
use super::twins::{Mode, Out, Twins};

/// A case that is not small by then stays as it is.
const PATIENCE: Duration = Duration::from_secs(20);

/// The smallest case found near one that differs.
pub(super) fn shrink(
    twins: &mut Twins,
    mode: Mode,
    routes: &[Route],
    port: usize,
    frame: &[u8],
) -> Difference {
    let deadline = Instant::now() + PATIENCE;
    let mut routes = routes.to_vec();
    let mut frame = frame.to_vec();
    let mut last: (Out, Out) = differs(twins, port, &frame).unwrap_or_default();

    // Routes: halves first, then one by one.
    let mut size = routes.len() / 2;
    while size > 0 && Instant::now() < deadline {
        let mut at = 0;
        while at < routes.len() && Instant::now() < deadline {
            let mut fewer = routes.clone();
            fewer.drain(at..(at + size).min(fewer.len()));
            twins.set_routes(&fewer);
            match differs(twins, port, &frame) {
                Some(found) => (routes, last) = (fewer, found),
                None => at += size,
            }
        }
        size /= 2;
    }
    twins.set_routes(&routes);
    // Bytes: from the end, then to zero.
    let mut cut = frame.len() / 2;
    while cut > 0 && Instant::now() < deadline {
        let shorter = &frame[..frame.len() - cut];
        match differs(twins, port, shorter) {
            Some(found) => (frame, last) = (shorter.to_vec(), found),
            None => cut /= 2,
        }
        cut = cut.min(frame.len() / 2);
    }
    for at in (0..frame.len()).rev() {
        if frame[at] == 0 || Instant::now() > deadline {
            continue;
        }
        let mut simpler = frame.clone();
        simpler[at] = 0;
        if let Some(found) = differs(twins, port, &simpler) {
            (frame, last) = (simpler, found);
        }
    }
    let (kernel, ours) = last;
    Difference {
        case: Case {
            mode: mode.name().to_owned(),
            routes,
            port,
            frame: hex(&frame),
            note: String::new(),
        },
        kernel,
        ours,
    }
}
