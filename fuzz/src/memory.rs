//! An allocator that ends the process, and so makes an input a finding, when too much is asked for, or too little is
//! given back.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    io::Write,
    process::abort,
    sync::atomic::{AtomicUsize, Ordering},
};

/// Bytes in one piece.
const ONE: usize = 24 << 20;
/// Bytes in all, the judges' own included; they allow an image 16 MiB for its tables.
const ALL: usize = 64 << 20;
/// Bytes that may stay in use from one input to any later one: what is made once and kept.
const KEPT: usize = 256 << 10;

/// The system's allocator, with bounds.
pub struct Bounded {
    used: AtomicUsize,
    /// What was in use after the first input.
    first: AtomicUsize,
}

impl Bounded {
    pub const fn new() -> Self {
        Bounded { used: AtomicUsize::new(0), first: AtomicUsize::new(0) }
    }

    /// Tells that an input is done with.
    pub fn settled(&self) {
        let used = self.used.load(Ordering::Relaxed);
        let first = self.first.compare_exchange(0, used, Ordering::Relaxed, Ordering::Relaxed);
        if first.is_err_and(|first| used > first + KEPT) {
            end(b"memory is not given back\n");
        }
    }

    fn take(&self, bytes: usize) {
        let used = self.used.fetch_add(bytes, Ordering::Relaxed) + bytes;
        if bytes > ONE || used > ALL {
            end(b"too much memory is asked for\n");
        }
    }

    fn give_back(&self, bytes: usize) {
        self.used.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// Ends the process; allocates nothing.
fn end(text: &[u8]) -> ! {
    let _ = std::io::stderr().write_all(text);
    abort();
}

// SAFETY: every call goes to the system's allocator as it came.
unsafe impl GlobalAlloc for Bounded {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        self.take(layout.size());
        // SAFETY: the caller keeps the rules of `GlobalAlloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        self.take(layout.size());
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        self.take(size);
        self.give_back(layout.size());
        // SAFETY: as above.
        unsafe { System.realloc(pointer, layout, size) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        self.give_back(layout.size());
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }
}
