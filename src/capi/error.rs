//! Error codes, and the last error of each thread.

use std::cell::Cell;
use std::ffi::{c_char, c_int};
use std::fmt::{self, Write};

use super::boundary::Failure;
use super::structure::Grows;
use crate::{Error, ErrorKind};

/// Success.
pub const HOL_OK: c_int = 0;
/// An argument that must not be NULL is NULL; the message names it.
pub const HOL_ERR_NULL: c_int = -1;
/// A defect of the library, caught in this call. The handle it happened in must only be freed.
pub const HOL_ERR_PANIC: c_int = -2;
/// An argument is outside its range, or arguments contradict each other.
pub const HOL_ERR_INVALID_ARGUMENT: c_int = -3;
/// A file or folder does not exist.
pub const HOL_ERR_NOT_FOUND: c_int = -4;
/// A file exists already and may not be overwritten.
pub const HOL_ERR_EXISTS: c_int = -5;
/// Somebody uses the image in a way that excludes this use: another process, or this one by another handle. The message says
/// which.
pub const HOL_ERR_LOCKED: c_int = -6;
/// The operating system reported a failure of input or output: hol_last_error_errno().
pub const HOL_ERR_IO: c_int = -7;
/// The file system (or quota) is full.
pub const HOL_ERR_NO_SPACE: c_int = -8;
/// The image breaks the qcow2 specification.
pub const HOL_ERR_CORRUPT: c_int = -9;
/// The image is valid but uses something that this version cannot handle.
pub const HOL_ERR_UNSUPPORTED: c_int = -10;
/// The image is encrypted.
pub const HOL_ERR_ENCRYPTED: c_int = -11;
/// The image names another file that the backing policy does not allow.
pub const HOL_ERR_POLICY_DENIED: c_int = -12;
/// The image would need more memory than the budget allows.
pub const HOL_ERR_LIMIT: c_int = -13;
/// The image has no bitmap of that name.
pub const HOL_ERR_BITMAP_NOT_FOUND: c_int = -14;
/// The bitmap exists but cannot be trusted.
pub const HOL_ERR_BITMAP_UNUSABLE: c_int = -15;
/// The work was cancelled, by the caller or because another job of its group ended.
pub const HOL_ERR_CANCELLED: c_int = -16;
/// The handle is not in a state that allows this call.
pub const HOL_ERR_WRONG_STATE: c_int = -17;
/// A defect of the library, caught in a job.
pub const HOL_ERR_INTERNAL: c_int = -18;
/// The operating system does not permit the access.
pub const HOL_ERR_PERMISSION: c_int = -19;
/// Memory is short; nothing is wrong with the image. Give memory free, or a smaller hol_disk_options.memory_limit.
pub const HOL_ERR_NO_MEMORY: c_int = -20;

/// A failure as a job tells it. Set struct_size to the sizeof of the structure (HOL_OPTIONS_INIT does); the library
/// fills the rest.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct hol_error_details {
    /// sizeof(hol_error_details)
    pub struct_size: usize,
    /// What is wrong, where, and what to do; NULL: nothing has failed. The text belongs to the handle that was asked, as
    /// the function says.
    pub message: *const c_char,
    /// HOL_ERR_*, or HOL_OK: nothing has failed.
    pub code: i32,
    /// The operating system's errno; 0: it had no part.
    pub os_error: i32,
}

// SAFETY: `repr(C)`, size first; integers and a pointer, of which zero and NULL are values.
unsafe impl Grows for hol_error_details {}

impl hol_error_details {
    /// What is told of an error, or of there being none.
    pub(super) fn of(error: Option<&Error>, text: impl FnOnce(&Error) -> *const c_char) -> Self {
        hol_error_details {
            struct_size: 0,
            message: error.map_or(std::ptr::null(), text),
            code: error.map_or(HOL_OK, |error| code_of(error.kind())),
            os_error: error.and_then(Error::errno).unwrap_or(0),
        }
    }
}

/// The code of a kind of error.
pub(super) fn code_of(kind: ErrorKind) -> c_int {
    match kind {
        ErrorKind::InvalidArgument => HOL_ERR_INVALID_ARGUMENT,
        ErrorKind::NotFound => HOL_ERR_NOT_FOUND,
        ErrorKind::Exists => HOL_ERR_EXISTS,
        ErrorKind::Locked => HOL_ERR_LOCKED,
        ErrorKind::Io => HOL_ERR_IO,
        ErrorKind::NoSpace => HOL_ERR_NO_SPACE,
        ErrorKind::Corrupt => HOL_ERR_CORRUPT,
        ErrorKind::Unsupported => HOL_ERR_UNSUPPORTED,
        ErrorKind::Encrypted => HOL_ERR_ENCRYPTED,
        ErrorKind::PolicyDenied => HOL_ERR_POLICY_DENIED,
        ErrorKind::Limit => HOL_ERR_LIMIT,
        ErrorKind::BitmapNotFound => HOL_ERR_BITMAP_NOT_FOUND,
        ErrorKind::BitmapUnusable => HOL_ERR_BITMAP_UNUSABLE,
        ErrorKind::Cancelled => HOL_ERR_CANCELLED,
        ErrorKind::WrongState => HOL_ERR_WRONG_STATE,
        ErrorKind::Internal => HOL_ERR_INTERNAL,
        ErrorKind::Permission => HOL_ERR_PERMISSION,
        ErrorKind::NoMemory => HOL_ERR_NO_MEMORY,
    }
}

/// Room for the text of the last error, with its final NUL.
const TEXT_SIZE: usize = 2048;

/// The last error of one thread: plain bytes of fixed size, so that no destructor runs when the thread ends
/// (the library may have been unloaded by then) and nothing is allocated when memory is short.
struct LastError {
    code: Cell<c_int>,
    errno: Cell<c_int>,
    /// Whether this is the failure of a constructor of actions, which `hol_txn_add(txn, NULL)` reports.
    of_action: Cell<bool>,
    length: Cell<usize>,
    text: [Cell<u8>; TEXT_SIZE],
}

thread_local! {
    static LAST: LastError = const {
        LastError {
            code: Cell::new(HOL_OK),
            errno: Cell::new(0),
            of_action: Cell::new(false),
            length: Cell::new(0),
            text: [const { Cell::new(0) }; TEXT_SIZE],
        }
    };
}

const _: () = assert!(!std::mem::needs_drop::<LastError>());

impl LastError {
    fn begin(&self, code: c_int, errno: c_int) {
        self.code.set(code);
        self.errno.set(errno);
        self.of_action.set(false);
        self.length.set(0);
        self.text[0].set(0);
    }

    /// Makes the text no longer than `length`, and whole characters.
    fn truncate(&self, length: usize) {
        let mut end = length.min(self.length.get());
        // The bytes of a character behind its first begin with the bits 10.
        while end > 0 && self.text[end].get() & 0xc0 == 0x80 {
            end -= 1;
        }
        self.length.set(end);
    }
}

/// What stands at the end of a text that did not fit.
const CUT: &str = "...";

/// Writes the text; when the room ends it is cut at a character, and ends in [`CUT`].
struct Text<'a>(&'a LastError);

impl Write for Text<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let start = self.0.length.get();
        let taken = cut(text, TEXT_SIZE - 1 - start);
        self.put(start, &text.as_bytes()[..taken]);
        if taken == text.len() {
            return Ok(());
        }
        self.0.truncate(TEXT_SIZE - 1 - CUT.len());
        self.put(self.0.length.get(), CUT.as_bytes());
        Err(fmt::Error)
    }
}

impl Text<'_> {
    /// Puts what fits at `start`, with the NUL behind it.
    fn put(&self, start: usize, bytes: &[u8]) {
        for (cell, byte) in self.0.text[start..].iter().zip(bytes) {
            // C would take a NUL for the end of the text.
            cell.set(if *byte == 0 { b'?' } else { *byte });
        }
        self.0.text[start + bytes.len()].set(0);
        self.0.length.set(start + bytes.len());
    }
}

/// The last place not after `index` where `text` can be cut (`str::floor_char_boundary` needs Rust 1.91).
fn cut(text: &str, index: usize) -> usize {
    (0..=index.min(text.len())).rev().find(|&i| text.is_char_boundary(i)).unwrap_or(0)
}

/// Makes `failure` the last error of this thread; gives its code.
pub(super) fn report(failure: &Failure) -> c_int {
    LAST.with(|last| {
        let (code, errno) = match failure {
            Failure::Reported(code) => return *code,
            Failure::Null(_) => (HOL_ERR_NULL, 0),
            Failure::Poisoned(_) | Failure::Panic(_) => (HOL_ERR_PANIC, 0),
            Failure::Forked(_) => (HOL_ERR_WRONG_STATE, 0),
            Failure::Error(error) => (code_of(error.kind()), error.errno().unwrap_or(0)),
        };
        last.begin(code, errno);
        // The only failure of writing is the end of the room, and the text says that it was cut.
        let _ = match failure {
            Failure::Reported(_) => Ok(()),
            Failure::Null(name) => write!(Text(last), "{name} cannot be NULL"),
            Failure::Poisoned(name) => {
                write!(
                    Text(last),
                    "{name} must only be freed: an earlier call on it met a defect of the library"
                )
            }
            Failure::Forked(name) => {
                write!(Text(last), "{name} belongs to the process that made it, and this is a fork of that")
            }
            Failure::Panic(text) => write!(Text(last), "a defect of the library: {text}"),
            Failure::Error(error) => write!(Text(last), "{error}"),
        };
        code
    })
}

/// Notes whether an action could be made, for `hol_txn_add(txn, NULL)` to report.
pub(super) fn note_action_made(made: bool) {
    LAST.with(|last| last.of_action.set(!made));
}

/// Why there is NULL instead of an action.
pub(super) fn no_action(name: &'static str) -> Failure {
    LAST.with(|last| match last.of_action.get() {
        true => Failure::Reported(last.code.get()),
        false => Failure::Null(name),
    })
}

/// The text of the last failure in the calling thread: what is wrong, where, and what to do. UTF-8 where the
/// names in it are; one of more than 2047 bytes is cut and ends in "...". "" when nothing failed yet; never NULL.
///
/// The text belongs to the library and stays until the next failing call in this thread. A call that
/// succeeds leaves it alone.
///
/// Threads: any, each has its own. Blocks: no. From callbacks: yes. Since: 0.1.
#[unsafe(no_mangle)]
pub extern "C" fn hol_last_error_message() -> *const c_char {
    // The memory is the thread's own and lives as long as the thread.
    LAST.with(|last| last.text.as_ptr().cast())
}

/// The code of the last failure in the calling thread, HOL_ERR_*, or HOL_OK when nothing failed yet. For
/// functions that return a pointer.
///
/// Threads: any, each has its own. Blocks: no. From callbacks: yes. Since: 0.1.
#[unsafe(no_mangle)]
pub extern "C" fn hol_last_error_code() -> c_int {
    LAST.with(|last| last.code.get())
}

/// The operating system's errno of the last failure in the calling thread; 0 when it had no part in it.
///
/// Threads: any, each has its own. Blocks: no. From callbacks: yes. Since: 0.1.
#[unsafe(no_mangle)]
pub extern "C" fn hol_last_error_errno() -> c_int {
    LAST.with(|last| last.errno.get())
}

/// Forgets the last failure of the calling thread.
///
/// Threads: any, each has its own. Blocks: no. From callbacks: yes. Since: 0.1.
#[unsafe(no_mangle)]
pub extern "C" fn hol_last_error_clear() {
    LAST.with(|last| last.begin(HOL_OK, 0));
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::CStr;

    fn message() -> Vec<u8> {
        // SAFETY: the message is a string that ends with a NUL, in this thread's own memory.
        unsafe { CStr::from_ptr(hol_last_error_message()) }.to_bytes().to_vec()
    }

    #[test]
    fn a_long_text_is_cut_at_a_character_and_says_so() {
        for before in ["", "x", "xy", "xyz"] {
            for letter in ["x", "é", "€", "𝄞"] {
                let text = format!("{before}{}", letter.repeat(TEXT_SIZE));
                report(&Failure::Error(Error::new(ErrorKind::Corrupt, text.as_str())));
                let message = String::from_utf8(message()).unwrap();
                assert!((TEXT_SIZE - 4..TEXT_SIZE).contains(&message.len()), "{}", message.len());
                assert!(text.starts_with(message.strip_suffix(CUT).unwrap()));
            }
        }
    }

    #[test]
    fn a_text_that_just_fits_is_whole() {
        for (length, whole) in [(TEXT_SIZE - 1, true), (TEXT_SIZE, false)] {
            let text = "x".repeat(length);
            report(&Failure::Error(Error::new(ErrorKind::Corrupt, text.as_str())));
            assert_eq!(message() == text.as_bytes(), whole, "{length}");
        }
    }

    #[test]
    fn the_errno_is_kept_and_cleared() {
        let error = Error::io("a.qcow2", std::io::Error::from_raw_os_error(libc::ENOSPC));
        assert_eq!(report(&Failure::Error(error)), HOL_ERR_NO_SPACE);
        assert_eq!(hol_last_error_errno(), libc::ENOSPC);
        assert_eq!(hol_last_error_code(), HOL_ERR_NO_SPACE);
        hol_last_error_clear();
        assert_eq!((hol_last_error_errno(), hol_last_error_code(), message()), (0, HOL_OK, vec![]));
    }

    #[test]
    fn null_instead_of_an_action_tells_the_constructors_failure_only_while_it_is_the_last() {
        report(&Failure::Error(Error::new(ErrorKind::Exists, "target exists")));
        note_action_made(false);
        assert_eq!(report(&no_action("action")), HOL_ERR_EXISTS);
        assert_eq!(message(), b"target exists");
        report(&Failure::Null("other"));
        assert_eq!(report(&no_action("action")), HOL_ERR_NULL);
    }
}
