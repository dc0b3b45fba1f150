//! Bitmaps that a running backup will change: nobody else may, until it has ended.

use std::sync::PoisonError;

use super::Disk;
use crate::{
    bitmap::{self, BitmapChange},
    error::{Error, ErrorKind, Result},
    format::text::printable,
};

/// The right to change one bitmap; given back on drop.
#[derive(Debug)]
pub(crate) struct BusyBitmap {
    disk: Disk,
    name: Vec<u8>,
}

impl Disk {
    /// Keeps a bitmap for a backup that will clear it. Everything that could speak against clearing it is
    /// found out now.
    pub(crate) fn keep_bitmap(&self, name: &[u8]) -> Result<BusyBitmap> {
        let image = self.writable_image()?;
        if let Some(top) = image.qcow2() {
            bitmap::rehearse(top, &[BitmapChange::Clear { name: name.to_vec() }])?;
        }
        let mut busy = self.0.busy.lock().unwrap_or_else(PoisonError::into_inner);
        if !busy.insert(name.to_vec()) {
            return Err(self.busy_error(name));
        }
        Ok(BusyBitmap { disk: self.clone(), name: name.to_vec() })
    }

    /// Refuses changes of bitmaps that are kept.
    pub(super) fn refuse_busy(&self, changes: &[BitmapChange]) -> Result<()> {
        let busy = self.0.busy.lock().unwrap_or_else(PoisonError::into_inner);
        match changes.iter().flat_map(BitmapChange::names).find(|name| busy.contains(*name)) {
            Some(name) => Err(self.busy_error(name)),
            None => Ok(()),
        }
    }

    fn busy_error(&self, name: &[u8]) -> Error {
        let text = format!(
            "'{}': bitmap '{}' is in use by a running backup",
            self.path().display(),
            printable(name)
        );
        Error::new(ErrorKind::WrongState, text)
    }
}

impl BusyBitmap {
    /// Makes the bitmap clean, durably.
    pub(crate) fn clear(&self) -> Result<()> {
        self.disk.change_kept_bitmaps(&[BitmapChange::Clear { name: self.name.clone() }])
    }

    /// For messages.
    pub(crate) fn text(&self) -> String {
        format!("bitmap '{}' of '{}'", printable(&self.name), self.disk.path().display())
    }
}

impl Drop for BusyBitmap {
    fn drop(&mut self) {
        self.disk.0.busy.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.name);
    }
}
