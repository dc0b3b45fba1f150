//! What C holds pointers into: read when it is asked for, and kept until the disk is closed.

use std::sync::{Arc, Mutex, PoisonError, Weak};

use super::boundary::Failure;
use crate::{Disk, image::Image};

/// A value read from a disk: once, and anew after the disk was changed. What was read before stays too.
pub(super) struct Kept<T> {
    /// The oldest first, each with the state of the disk that it tells of.
    values: Mutex<Vec<(Weak<Image>, Arc<T>)>>,
}

impl<T> Kept<T> {
    /// Nothing yet.
    pub(super) fn new() -> Self {
        Kept { values: Mutex::new(Vec::new()) }
    }

    /// The value for the disk as it is now, made by `read` unless it is there already. Threads that come at once
    /// wait for the first.
    pub(super) fn of(
        &self,
        disk: &Disk,
        read: impl FnOnce() -> Result<T, Failure>,
    ) -> Result<Arc<T>, Failure> {
        let mut values = self.values.lock().unwrap_or_else(PoisonError::into_inner);
        // Taken before the reading: a change in between makes the next call read again.
        let now = Arc::downgrade(&disk.settled_image()?);
        if let Some((_, value)) = values.last().filter(|(state, _)| state.ptr_eq(&now)) {
            return Ok(value.clone());
        }
        let value = Arc::new(read()?);
        values.push((now, value.clone()));
        Ok(value)
    }
}
