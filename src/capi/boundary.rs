//! The boundary between C and Rust: the one guard against panics, and the one check for each kind of argument.

use std::borrow::Cow;
use std::ffi::{CStr, CString, OsStr, c_char, c_int};
use std::mem::{MaybeUninit, align_of, size_of};
use std::ops::Deref;
use std::os::unix::ffi::OsStrExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, Ordering};
use std::{slice, thread};

use super::error;
use crate::{Error, ErrorKind};

/// Why a C call failed.
pub(super) enum Failure {
    /// The named argument is NULL.
    Null(&'static str),
    /// The named handle was used in a call that panicked.
    Poisoned(&'static str),
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

/// Set in a handle when a call that used it panicked.
#[derive(Default)]
pub(super) struct Poison(AtomicBool);

/// What C holds a pointer to.
pub(super) trait Handle: Send + Sync {
    /// The handle's mark of a panic.
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
            self.handle.poison().0.store(true, Ordering::Release);
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
    if handle.poison().0.load(Ordering::Acquire) {
        return Err(Failure::Poisoned(name));
    }
    Ok(InUse { handle, unwinding_before: thread::panicking() })
}

/// Gives a new handle to C.
pub(super) fn give<T: Handle>(handle: T) -> *mut T {
    Box::into_raw(Box::new(handle))
}

/// Takes a handle back from C; `None` for NULL.
///
/// # Safety
/// A pointer that is not NULL came from [`give`] and is not used again.
pub(super) unsafe fn take<T: Handle>(pointer: *mut T) -> Option<Box<T>> {
    // SAFETY: as promised above.
    (!pointer.is_null()).then(|| unsafe { Box::from_raw(pointer) })
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
fn check_array<T>(
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

/// A structure of the header that begins with its own size, so that it can grow.
///
/// # Safety
/// The type is `repr(C)`, its first field is `struct_size: usize`, and all bytes zero is a value of it.
pub(super) unsafe trait Grows: Copy {}

/// No structure of this ABI comes near this; a size beyond it was never set.
const LARGEST: usize = 64 * 1024;

/// The `struct_size` of a structure from C, checked.
///
/// # Safety
/// `pointer` is not NULL and points to a structure of which at least `struct_size` can be read.
unsafe fn struct_size<T: Grows>(pointer: *const T, name: &'static str) -> Result<usize, Failure> {
    // SAFETY: as promised above, and the size is the first field.
    let size = unsafe { pointer.cast::<usize>().read() };
    // A structure's size is always a multiple of its alignment: anything else was never a `sizeof`.
    if size < size_of::<usize>() || size > LARGEST || size % align_of::<T>() != 0 {
        return Err(invalid(format!("{name}->struct_size is {size}: set it to the sizeof of the structure")));
    }
    Ok(size)
}

/// The options behind a pointer from C: all zero for NULL, a short structure's tail is zero, and a longer one's
/// tail must be.
///
/// # Safety
/// A pointer that is not NULL points to `struct_size` readable bytes.
pub(super) unsafe fn options<T: Grows>(pointer: *const T, name: &'static str) -> Result<T, Failure> {
    let mut value = MaybeUninit::<T>::zeroed();
    if !pointer.is_null() {
        // SAFETY: not NULL, and as promised above.
        let size = unsafe { struct_size(pointer, name) }?;
        let known = size.min(size_of::<T>());
        // SAFETY: `known` bytes can be read from the one and written to the other.
        unsafe { pointer.cast::<u8>().copy_to_nonoverlapping(value.as_mut_ptr().cast(), known) };
        // SAFETY: the caller's structure has `size` bytes, of which these are the last.
        let tail = unsafe { slice::from_raw_parts(pointer.cast::<u8>().add(known), size - known) };
        if tail.iter().any(|&byte| byte != 0) {
            return Err(invalid(format!(
                "{name} sets a field that this version of the library does not know: use a newer library, \
                 or leave that field zero"
            )));
        }
    }
    // SAFETY: zero bytes are a value of the type, and what was copied over them came from one.
    Ok(unsafe { value.assume_init() })
}

/// The `number` structures behind a pointer from C, each as [`options`] reads it. They lie as far apart as the caller's
/// version of them is long, and that is what the first one says.
///
/// # Safety
/// A pointer that is not NULL points to `number` structures of the same `struct_size`.
pub(super) unsafe fn option_array<T: Grows>(
    pointer: *const T,
    number: usize,
    name: &'static str,
) -> Result<Vec<T>, Failure> {
    check_array(pointer, number, 1, name)?;
    if number == 0 {
        return Ok(Vec::new());
    }
    // SAFETY: not NULL, and as promised above.
    let stride = unsafe { struct_size(pointer, name) }?;
    check_array(pointer, number, stride, name)?;
    let read = |index: usize| {
        // SAFETY: as promised above, and the length was checked.
        let place = unsafe { pointer.byte_add(index * stride) };
        // SAFETY: not NULL, and as promised above.
        if unsafe { struct_size(place, name) }? != stride {
            return Err(invalid(format!("{name}[{index}].struct_size differs from that of {name}[0]")));
        }
        // SAFETY: as promised above.
        unsafe { options(place, name) }
    };
    (0..number).map(read).collect()
}

/// A structure that C wants filled.
pub(super) struct Fill<T> {
    pointer: NonNull<T>,
    size: usize,
}

impl<T: Grows> Fill<T> {
    /// Fills the part of the structure that the caller knows; of a longer one the rest becomes zero.
    pub(super) fn set(&self, value: &T) {
        let head = size_of::<usize>();
        let known = self.size.min(size_of::<T>());
        let to = self.pointer.as_ptr().cast::<u8>();
        // SAFETY: `fill`, the one maker, was promised `size` bytes to write; the caller's size stays.
        unsafe {
            (&raw const *value).cast::<u8>().add(head).copy_to_nonoverlapping(to.add(head), known - head);
            to.add(known).write_bytes(0, self.size - known);
        }
    }
}

/// The structure behind an output pointer. Checked before the work, so that no result gets lost.
///
/// # Safety
/// A pointer that is not NULL points to `struct_size` bytes that can be read and written.
pub(super) unsafe fn fill<T: Grows>(pointer: *mut T, name: &'static str) -> Result<Fill<T>, Failure> {
    let place = NonNull::new(pointer).ok_or(Failure::Null(name))?;
    // SAFETY: not NULL, and as promised above.
    let size = unsafe { struct_size(pointer, name) }?;
    Ok(Fill { pointer: place, size })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capi::error::{HOL_ERR_INVALID_ARGUMENT, HOL_ERR_NULL, HOL_ERR_PANIC, hol_last_error_message};

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

    #[repr(C)]
    #[derive(Clone, Copy)]
    struct Small {
        struct_size: usize,
        first: u64,
    }

    #[repr(C)]
    #[derive(Clone, Copy)]
    struct Large {
        struct_size: usize,
        first: u64,
        second: u64,
    }

    // SAFETY: `repr(C)`, size first, integers only.
    unsafe impl Grows for Small {}
    // SAFETY: `repr(C)`, size first, integers only.
    unsafe impl Grows for Large {}

    #[test]
    fn options_of_another_version_are_read_as_far_as_both_know() {
        let small = Small { struct_size: size_of::<Small>(), first: 5 };
        // SAFETY: only `struct_size` bytes are read.
        let large = unsafe { options::<Large>((&raw const small).cast(), "options") }.ok().unwrap();
        assert_eq!((large.first, large.second), (5, 0));

        let mut large = Large { struct_size: size_of::<Large>(), first: 6, second: 0 };
        // SAFETY: `struct_size` bytes are there.
        let small = unsafe { options::<Small>((&raw const large).cast(), "options") }.ok().unwrap();
        assert_eq!(small.first, 6);
        large.second = 1;
        // SAFETY: as above.
        let refused = unsafe { options::<Small>((&raw const large).cast(), "options") };
        assert_eq!(code(refused), HOL_ERR_INVALID_ARGUMENT);
    }

    #[test]
    fn structures_in_a_row_lie_as_far_apart_as_the_caller_says() {
        let row = [5, 6].map(|first| Large { struct_size: size_of::<Large>(), first, second: 0 });
        let read = |row: &[Large; 2], number| {
            // SAFETY: `struct_size` bytes of each are there.
            unsafe { option_array::<Small>(row.as_ptr().cast(), number, "row") }
        };
        let firsts = |row: Vec<Small>| row.iter().map(|small| small.first).collect::<Vec<_>>();
        assert_eq!(read(&row, 2).map(firsts).ok(), Some(vec![5, 6]));
        assert_eq!(read(&row, 0).map(firsts).ok(), Some(vec![]));
        let mut other = row;
        other[1].struct_size = size_of::<Small>();
        assert_eq!(code(read(&other, 2).map(|_| ())), HOL_ERR_INVALID_ARGUMENT);
        assert!(message().contains("row[1]"), "{}", message());
        for number in [usize::MAX, usize::MAX / size_of::<Large>()] {
            assert_eq!(code(read(&row, number).map(|_| ())), HOL_ERR_INVALID_ARGUMENT);
        }
    }

    #[test]
    fn a_size_that_was_never_a_sizeof_is_refused() {
        for struct_size in [0, 7, 12, LARGEST + 8, usize::MAX] {
            let small = Small { struct_size, first: 0 };
            // SAFETY: a refused size is not used.
            assert_eq!(code(unsafe { options(&raw const small, "options") }), HOL_ERR_INVALID_ARGUMENT);
        }
    }

    #[test]
    fn a_structure_is_filled_as_far_as_the_caller_knows_it() {
        let mut places = [Large { struct_size: size_of::<Small>(), first: 1, second: 2 }; 2];
        places[1].struct_size = size_of::<Large>();
        for place in &mut places {
            // SAFETY: `struct_size` bytes are there.
            let fill = unsafe { fill::<Small>((&raw mut *place).cast(), "place") }.ok().unwrap();
            fill.set(&Small { struct_size: 0, first: 9 });
        }
        assert_eq!((places[0].struct_size, places[0].first, places[0].second), (size_of::<Small>(), 9, 2));
        assert_eq!((places[1].struct_size, places[1].first, places[1].second), (size_of::<Large>(), 9, 0));
    }

    #[test]
    fn a_nul_inside_a_name_is_shown_and_does_not_end_it() {
        assert_eq!(c_text(b"a\0b").to_bytes(), b"a\\x00b");
    }
}
