//! Structures that begin with their own size: read and filled as far as both sides know them, so that they can grow.

use std::mem::{MaybeUninit, align_of, size_of};
use std::ptr::NonNull;
use std::slice;

use super::boundary::{Failure, check_array, invalid};

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
    check_size::<T>(size, name)?;
    Ok(size)
}

/// Refuses what was never the size of such a structure.
fn check_size<T: Grows>(size: usize, name: &'static str) -> Result<(), Failure> {
    // A structure's size is always a multiple of its alignment: anything else was never a `sizeof`.
    if size < size_of::<usize>() || size > LARGEST || !size.is_multiple_of(align_of::<T>()) {
        return Err(invalid(format!("{name}->struct_size is {size}: set it to the sizeof of the structure")));
    }
    Ok(())
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

/// Makes a structure of C all zero but for its size, which is what the caller says it is.
///
/// # Safety
/// A pointer that is not NULL has `size` bytes behind it that can be written.
pub(super) unsafe fn init<T: Grows>(pointer: *mut T, size: usize, name: &'static str) -> Result<(), Failure> {
    let place = NonNull::new(pointer).ok_or(Failure::Null(name))?.cast::<u8>();
    check_size::<T>(size, name)?;
    // SAFETY: as promised above; the size was checked, and comes first.
    unsafe {
        place.write_bytes(0, size);
        place.cast::<usize>().write(size);
    }
    Ok(())
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
    use crate::capi::boundary::boundary;
    use crate::capi::error::{HOL_ERR_INVALID_ARGUMENT, hol_last_error_message};
    use std::ffi::{CStr, c_int};

    fn message() -> String {
        // SAFETY: the message is a string that ends with a NUL, in this thread's own memory.
        unsafe { CStr::from_ptr(hol_last_error_message()) }.to_str().unwrap().to_owned()
    }

    fn code<T: Copy>(result: Result<T, Failure>) -> c_int {
        boundary(|| result.map(|_| 0))
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
}
