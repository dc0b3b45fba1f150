//! Signals: those that ask to stop, and the one that a limit of file sizes sends. What was ignored when the command was
//! started (`nohup`, a job in the background) stays ignored.

use std::{
    ffi::c_int,
    fs,
    sync::{
        Arc, LazyLock,
        atomic::{AtomicBool, Ordering},
    },
};

use signal_hook::{
    consts::{SIGHUP, SIGINT, SIGTERM, SIGXFSZ},
    flag,
};

use crate::failure::{FAILED, Failure};

static STOP: LazyLock<Arc<AtomicBool>> = LazyLock::new(Arc::default);

/// From here on an interrupt, a hangup or a termination signal no longer ends the process but is to be asked for with
/// [`stop_requested`], so that what was begun can be removed.
pub(crate) fn catch() -> Result<(), Failure> {
    let ignored = ignored();
    let mut asked = [SIGINT, SIGTERM, SIGHUP].into_iter().filter(|signal| !contains(ignored, *signal));
    asked
        .try_for_each(|signal| flag::register(signal, STOP.clone()).map(drop))
        .map_err(|error| Failure::new(FAILED, format!("cannot catch signals: {error}")))
}

/// Whether a signal asked to stop.
pub(crate) fn stop_requested() -> bool {
    STOP.load(Ordering::Relaxed)
}

/// A write behind the limit of file sizes (`ulimit -f`) is an error from here on, and does not end the process with its files half
/// made.
pub(crate) fn survive_size_limit() {
    if !contains(ignored(), SIGXFSZ) {
        // A handler does what ignoring would, and goes when another program is started. Without it nothing else is lost.
        let _ = flag::register(SIGXFSZ, Arc::default());
    }
}

/// The signals that are ignored, one bit each.
fn ignored() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
}

fn contains(mask: u64, signal: c_int) -> bool {
    mask >> (signal - 1) & 1 == 1
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The runtime of Rust ignores it.
    #[test]
    fn what_is_ignored_is_known() {
        assert!(contains(ignored(), signal_hook::consts::SIGPIPE));
        assert!(!contains(ignored(), signal_hook::consts::SIGTERM));
    }
}
