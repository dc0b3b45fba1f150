//! Bitmaps that a running backup will change: nobody else may, until it has ended.

use std::sync::PoisonError;

use super::Disk;
use crate::{
    bitmap::{self, BitmapChange, DirtyBitmap, MergeSource},
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
    /// Its disk.
    pub(crate) fn disk(&self) -> &Disk {
        &self.disk
    }

    /// The changes that make it clean.
    pub(crate) fn clear(&self) -> Vec<BitmapChange> {
        vec![BitmapChange::Clear { name: self.name.clone() }]
    }

    /// The changes that make it dirty where `dirty` is, and nowhere else.
    pub(crate) fn replace(&self, dirty: DirtyBitmap) -> Vec<BitmapChange> {
        let merge =
            BitmapChange::Merge { name: self.name.clone(), sources: vec![MergeSource::Loaded(dirty)] };
        [self.clear(), vec![merge]].concat()
    }

    /// A clean bitmap of its disk with its granularity.
    pub(crate) fn emptied(&self) -> DirtyBitmap {
        let image = self.disk.image();
        let entry = image.qcow2().and_then(|top| top.bitmaps().iter().find(|entry| entry.name == self.name));
        let bits = entry.map_or(16, |entry| entry.granularity_bits);
        DirtyBitmap::clean(self.name.clone(), bits, image.size())
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
