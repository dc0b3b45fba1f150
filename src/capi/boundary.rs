//! The boundary between C and Rust: the one guard against panics, and the one check for each kind of argument.

use std::borrow::Cow;
use std::ffi::{CStr, CString, OsStr, c_char, c_int};
use std::mem::size_of;
use std::ops::Deref;
use std::os::unix::ffi::OsStrExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, Ordering};
use std::{slice, thread};

use super::error;
use super::process::Process;
use crate::{Error, ErrorKind};

/// Why a C call failed.
pub(super) enum Failure {
    /// The named argument is NULL.
    Null(&'static str),
    /// The named handle was used in a call that panicked.
    Poisoned(&'static str),
    /// The named handle was made by another process, of which this one is a fork.
    Forked(&'static str),
    /// This call panicked, with this text.
    Panic(Cow<'static, str>),
    /// The thread's last error tells this failure already; only the code goes back to the caller.
    Reported(c_int),
    /// The library refused or failed.
    Error(Error),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Failure::Error(error)
    }
}

/// An `InvalidArgument` failure with this text.
pub(super) fn invalid(text: impl Into<String>) -> Failure {
    Failure::Error(Error::new(ErrorKind::InvalidArgument, text))
}

/// A value that a C function returns, and what it is when the function fails.
pub(super) trait Outcome {
    /// The returned value after a failure with `code`.
    fn failed(code: c_int) -> Self;
}

impl Outcome for c_int {
    fn failed(code: c_int) -> Self {
        code
    }
}

impl<T> Outcome for *mut T {
    fn failed(_: c_int) -> Self {
        std::ptr::null_mut()
    }
}

impl Outcome for () {
    fn failed(_: c_int) {}
}

/// Runs the body of a C function: an error or a panic becomes the thread's last error and a failed outcome.
pub(super) fn boundary<T: Outcome>(body: impl FnOnce() -> Result<T, Failure>) -> T {
    // Unwind safety: what a panic leaves half done is behind a handle, and the handle is poisoned.
    let failure = match catch_unwind(AssertUnwindSafe(body)) {
        Ok(Ok(value)) => return value,
        Ok(Err(failure)) => failure,
        Err(payload) => Failure::Panic(match payload.downcast::<&'static str>() {
            Ok(text) => Cow::Borrowed(*text),
            Err(payload) => match payload.downcast::<String>() {
                Ok(text) => Cow::Owned(*text),
                Err(payload) => {
                    // A payload of a type unknown here could panic again when dropped.
                    std::mem::forget(payload);
                    Cow::Borrowed("(no text)")
                }
            },
        }),
    };
    T::failed(error::report(&failure))
}

/// Whether a handle may be used: not when a call that used it panicked, nor in a fork of the process that made it. There
/// the threads that work for it are missing, and its locks and files are those of the parent.
pub(super) struct Poison {
    panicked: AtomicBool,
    process: Process,
}

impl Default for Poison {
    fn default() -> Self {
        Poison { panicked: AtomicBool::new(false), process: Process::this() }
    }
}

impl Poison {
    fn is_inherited(&self) -> bool {
        self.process != Process::this()
    }
}

/// What C holds a pointer to.
pub(super) trait Handle: Send + Sync {
    /// What keeps it from being used.
    fn poison(&self) -> &Poison;
}

/// A handle in use by one call; a panic while it lives poisons the handle.
pub(super) struct InUse<'a, T: Handle> {
    handle: &'a T,
    unwinding_before: bool,
}

impl<T: Handle> Deref for InUse<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        self.handle
    }
}

impl<T: Handle> Drop for InUse<'_, T> {
    fn drop(&mut self) {
        if thread::panicking() && !self.unwinding_before {
            self.handle.poison().panicked.store(true, Ordering::Release);
        }
    }
}

/// The handle behind a pointer from C.
///
/// # Safety
/// A pointer that is not NULL is a live handle of this type, and stays so for the call.
pub(super) unsafe fn handle<'a, T: Handle>(
    pointer: *const T,
    name: &'static str,
) -> Result<InUse<'a, T>, Failure> {
    // SAFETY: as promised above; handles are only lent out shared.
    let handle = unsafe { pointer.as_ref() }.ok_or(Failure::Null(name))?;
    if handle.poison().is_inherited() {
        return Err(Failure::Forked(name));
    }
    if handle.poison().panicked.load(Ordering::Acquire) {
        return Err(Failure::Poisoned(name));
    }
    Ok(InUse { handle, unwinding_before: thread::panicking() })
}

/// Gives a new handle to C.
pub(super) fn give<T: Handle>(handle: T) -> *mut T {
    Box::into_raw(Box::new(handle))
}

/// Takes a handle back from C; `None` for NULL. A fork leaves it to its parent.
///
/// # Safety
/// A pointer that is not NULL came from [`give`] and is not used again.
pub(super) unsafe fn take<T: Handle>(pointer: *mut T, name: &'static str) -> Result<Option<Box<T>>, Failure> {
    // SAFETY: as promised above; nobody else uses it any more.
    match unsafe { pointer.as_ref() } {
        None => Ok(None),
        Some(handle) if handle.poison().is_inherited() => Err(Failure::Forked(name)),
        // SAFETY: as promised above.
        Some(_) => Ok(Some(unsafe { Box::from_raw(pointer) })),
    }
}

/// Where C wants a result.
pub(super) struct Out<T>(NonNull<T>);

impl<T: Copy> Out<T> {
    /// Writes the result.
    pub(super) fn set(&self, value: T) {
        // SAFETY: `out`, the one maker, was promised a place that can be written.
        unsafe { self.0.write(value) };
    }
}

/// The place behind an output pointer.
///
/// # Safety
/// A pointer that is not NULL can be written during the call.
pub(super) unsafe fn out<T: Copy>(pointer: *mut T, name: &'static str) -> Result<Out<T>, Failure> {
    NonNull::new(pointer).map(Out).ok_or(Failure::Null(name))
}

/// The buffer of `length` bytes behind an output pointer.
///
/// # Safety
/// A pointer that is not NULL has `length` bytes behind it that nobody else uses during the call.
pub(super) unsafe fn buffer<'a>(
    pointer: *mut u8,
    length: usize,
    name: &'static str,
) -> Result<&'a mut [u8], Failure> {
    if pointer.is_null() {
        return Err(Failure::Null(name));
    }
    if isize::try_from(length).is_err() {
        return Err(invalid(format!("{name} cannot have {length} bytes")));
    }
    // SAFETY: as promised above, and the length was checked; any byte is a valid `u8`.
    Ok(unsafe { slice::from_raw_parts_mut(pointer, length) })
}

/// The `length` bytes behind an input pointer.
///
/// # Safety
/// A pointer that is not NULL has `length` bytes behind it that nobody writes during the call.
pub(super) unsafe fn bytes<'a>(
    pointer: *const u8,
    length: usize,
    name: &'static str,
) -> Result<&'a [u8], Failure> {
    // SAFETY: as promised above; what is made of it is only read.
    unsafe { buffer(pointer.cast_mut(), length, name) }.map(|bytes| &*bytes)
}

/// The text behind a pointer from C; `None` for NULL.
///
/// # Safety
/// A pointer that is not NULL is a string that ends with a NUL and stays unchanged during the call.
pub(super) unsafe fn optional_text<'a>(pointer: *const c_char) -> Option<&'a CStr> {
    // SAFETY: as promised above.
    (!pointer.is_null()).then(|| unsafe { CStr::from_ptr(pointer) })
}

/// The text behind a pointer from C.
///
/// # Safety
/// As for [`optional_text`].
pub(super) unsafe fn text<'a>(pointer: *const c_char, name: &'static str) -> Result<&'a CStr, Failure> {
    // SAFETY: as promised above.
    unsafe { optional_text(pointer) }.ok_or(Failure::Null(name))
}

/// The `number` texts behind a pointer from C to pointers.
///
/// # Safety
/// A pointer that is not NULL has `number` pointers behind it, each as for [`optional_text`].
pub(super) unsafe fn texts<'a>(
    pointer: *const *const c_char,
    number: usize,
    name: &'static str,
) -> Result<Vec<&'a CStr>, Failure> {
    check_array(pointer, number, size_of::<*const c_char>(), name)?;
    // SAFETY: as promised above, and the length was checked.
    let pointers = unsafe { slice::from_raw_parts(pointer, number) };
    // SAFETY: as promised above.
    pointers.iter().map(|pointer| unsafe { text(*pointer, name) }).collect()
}

/// Refuses NULL, and an array that memory cannot hold.
pub(super) fn check_array<T>(
    pointer: *const T,
    number: usize,
    stride: usize,
    name: &'static str,
) -> Result<(), Failure> {
    if pointer.is_null() {
        return Err(Failure::Null(name));
    }
    match number.checked_mul(stride).is_some_and(|bytes| isize::try_from(bytes).is_ok()) {
        true => Ok(()),
        false => Err(invalid(format!("{name} cannot be {number}"))),
    }
}

/// A text from C as a path: bytes, as the operating system takes them.
pub(super) fn as_path(text: &CStr) -> &Path {
    Path::new(OsStr::from_bytes(text.to_bytes()))
}

/// Bytes as a text for C. Names come from images and may hold a NUL, which C would take for the end.
pub(super) fn c_text(bytes: &[u8]) -> CString {
    CString::new(bytes).unwrap_or_else(|_| {
        let escaped: Vec<u8> = bytes
            .iter()
            .flat_map(|byte| match byte {
                0 => b"\\x00".as_slice(),
                byte => slice::from_ref(byte),
            })
            .copied()
            .collect();
        CString::new(escaped).unwrap_or_default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capi::error::{HOL_ERR_NULL, HOL_ERR_PANIC, hol_last_error_message};

    #[derive(Default)]
    struct Thing(Poison);

    impl Handle for Thing {
        fn poison(&self) -> &Poison {
            &self.0
        }
    }

    fn message() -> String {
        // SAFETY: the message is a string that ends with a NUL, in this thread's own memory.
        unsafe { CStr::from_ptr(hol_last_error_message()) }.to_str().unwrap().to_owned()
    }

    fn code<T: Copy>(result: Result<T, Failure>) -> c_int {
        boundary(|| result.map(|_| 0))
    }

    #[test]
    fn a_panic_becomes_a_code_and_poisons_the_handle_it_happened_in() {
        let (thing, other) = (Thing::default(), Thing::default());
        let call = |thing: &Thing, panics: bool| -> c_int {
            boundary(|| {
                // SAFETY: a reference is a live handle.
                let _in_use = unsafe { handle(thing, "thing") }?;
                assert!(!panics, "the sky fell");
                Ok(7)
            })
        };
        assert_eq!(call(&thing, false), 7);
        assert_eq!(call(&thing, true), HOL_ERR_PANIC);
        assert!(message().contains("the sky fell"), "{}", message());
        assert_eq!(call(&thing, false), HOL_ERR_PANIC);
        assert!(message().contains("thing"), "{}", message());
        assert_eq!(call(&other, false), 7);
    }

    #[test]
    fn a_panic_with_a_strange_payload_is_caught_and_a_pointer_becomes_null() {
        let pointer: *mut Thing = boundary(|| std::panic::panic_any(42));
        assert!(pointer.is_null());
        assert!(message().contains("(no text)"), "{}", message());
    }

    #[test]
    fn null_is_reported_by_name() {
        // SAFETY: NULL is allowed.
        assert_eq!(code(unsafe { handle::<Thing>(std::ptr::null(), "thing") }.map(|_| ())), HOL_ERR_NULL);
        assert!(message().contains("thing"), "{}", message());
    }

    #[test]
    fn a_nul_inside_a_name_is_shown_and_does_not_end_it() {
        assert_eq!(c_text(b"a\0b").to_bytes(), b"a\\x00b");
    }
}
