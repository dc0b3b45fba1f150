//! What C holds pointers into: read when it is asked for, and kept until the handle is freed.

use std::collections::BTreeSet;
use std::ffi::{CString, c_char};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use super::boundary::{Failure, c_text};
use crate::{Disk, image::Image};

/// The texts of one handle, each kept once: a caller that asks again and again is given the same.
#[derive(Default)]
pub(super) struct Texts(Mutex<BTreeSet<CString>>);

impl Texts {
    /// The text for C. It stays where it is as long as this lives.
    pub(super) fn keep(&self, bytes: impl AsRef<[u8]>) -> *const c_char {
        let text = c_text(bytes.as_ref());
        let mut texts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(kept) = texts.get(&text) {
            return kept.as_ptr();
        }
        // The set moves the text, and not the memory that it leads to.
        let kept = text.as_ptr();
        texts.insert(text);
        kept
    }
}

/// A value read from a disk: once, and anew after the disk was changed.
pub(super) struct Cached<T> {
    /// With the state of the disk that it tells of.
    value: Mutex<Option<(Weak<Image>, Arc<T>)>>,
}

impl<T> Cached<T> {
    /// Nothing yet.
    pub(super) fn new() -> Self {
        Cached { value: Mutex::new(None) }
    }

    /// The value for the disk as it is now, made by `read` unless it is there already. Threads that come at once
    /// wait for the first.
    pub(super) fn of(
        &self,
        disk: &Disk,
        read: impl FnOnce() -> Result<T, Failure>,
    ) -> Result<Arc<T>, Failure> {
        let mut kept = self.value.lock().unwrap_or_else(PoisonError::into_inner);
        // Taken before the reading: a change in between makes the next call read again.
        let now = Arc::downgrade(&disk.image_at_rest()?);
        if let Some((_, value)) = kept.as_ref().filter(|(state, _)| state.ptr_eq(&now)) {
            return Ok(value.clone());
        }
        let value = Arc::new(read()?);
        *kept = Some((now, value.clone()));
        Ok(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::CStr;

    #[test]
    fn a_text_is_kept_once_and_stays() {
        let texts = Texts::default();
        let first = texts.keep("one");
        for number in 0..100 {
            texts.keep(format!("text {}", number % 10));
        }
        assert_eq!(texts.keep("one"), first);
        assert_eq!(texts.0.lock().unwrap().len(), 11);
        // SAFETY: the text is kept.
        assert_eq!(unsafe { CStr::from_ptr(first) }, c"one");
    }
}
