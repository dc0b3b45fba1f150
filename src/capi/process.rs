//! Which process this is, also where a fork has the number of its parent: numbers of processes are given again, and are
//! the same in several name spaces.

use std::{
    process, ptr,
    sync::{
        OnceLock,
        atomic::{AtomicU64, Ordering},
    },
};

/// `MADV_WIPEONFORK`, which not every C library has a name for.
const WIPE_ON_FORK: libc::c_int = 18;

/// Told from all processes that this one was forked from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Process {
    number: u32,
    generation: u64,
}

impl Process {
    /// The one that calls.
    pub(super) fn this() -> Self {
        Process { number: process::id(), generation: generation() }
    }
}

/// How many generations there were up to this process; 0 where the system cannot tell.
fn generation() -> u64 {
    /// Zero in a new process, whatever the parent has there.
    static WIPED: OnceLock<Option<&'static AtomicU64>> = OnceLock::new();
    /// What a fork inherits.
    static KNOWN: AtomicU64 = AtomicU64::new(0);

    let Some(wiped) = WIPED.get_or_init(wiped_page) else { return 0 };
    let known = wiped.load(Ordering::Acquire);
    if known != 0 {
        return known;
    }
    let next = KNOWN.fetch_add(1, Ordering::AcqRel) + 1;
    match wiped.compare_exchange(0, next, Ordering::AcqRel, Ordering::Acquire) {
        Ok(_) => next,
        Err(other) => other,
    }
}

/// A page that the system wipes in each fork. It stays when the library is unloaded.
fn wiped_page() -> Option<&'static AtomicU64> {
    let length = size_of::<AtomicU64>();
    let (access, kind) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
    // SAFETY: a new mapping at a place that the system chooses touches no other memory.
    let page = unsafe { libc::mmap(ptr::null_mut(), length, access, kind, -1, 0) };
    if page == libc::MAP_FAILED {
        return None;
    }
    // SAFETY: the range is the mapping of above, which nobody else knows; only a fork's copy is wiped.
    if unsafe { libc::madvise(page, length, WIPE_ON_FORK) } != 0 {
        // SAFETY: the same, and it is not used again.
        unsafe { libc::munmap(page, length) };
        return None;
    }
    // SAFETY: it begins with a page, so it is aligned; it holds zeros and is never unmapped.
    Some(unsafe { AtomicU64::from_ptr(page.cast()) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_stays_the_same() {
        let this = Process::this();
        assert_eq!(this, Process::this());
        assert_eq!(std::thread::spawn(Process::this).join().unwrap(), this);
        assert_ne!(this.generation, 0);
    }
}
