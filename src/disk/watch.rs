//! Whether somebody else writes the files of a disk while a backup reads it. What we change ourselves meanwhile, bitmaps
//! and snapshots, is known, and no reason for a backup to fail.

use std::sync::{Arc, MutexGuard, PoisonError};

use super::{
    Disk,
    write::{Pinned, refresh},
};
use crate::{
    error::Result,
    image::Image,
    storage::{File, Stamp},
};

/// Keeps a disk as it is, as [`Pinned`] does, and knows how its files were at the start.
#[derive(Debug)]
pub(crate) struct Watch {
    disk: Disk,
    image: Arc<Image>,
    /// Of all files but the image's own, which we may change.
    others: Vec<(File, Stamp)>,
    /// The number of times that somebody else had written the image by then.
    strangers: u64,
    _pinned: Pinned,
}

/// What is known of the image's own file while it is watched.
#[derive(Debug, Default)]
pub(super) struct Watched {
    watches: usize,
    /// As the last change of our own left it; `None` if that is not known.
    stamp: Option<Stamp>,
    /// So many times it was found otherwise.
    strangers: u64,
}

impl Watched {
    /// Looks whether somebody else has written the file.
    fn look(&mut self, file: &File) -> Result<()> {
        if self.watches > 0 {
            let now = file.stamp()?;
            if !self.stamp.is_some_and(|stamp| stamp.is_same(&now)) {
                self.strangers += 1;
                self.stamp = Some(now);
            }
        }
        Ok(())
    }
}

impl Disk {
    /// Keeps the disk as it is by now. What somebody has written since it was opened is read anew.
    pub(crate) fn watch(&self) -> Result<Watch> {
        let mut image = self.0.image.write().unwrap_or_else(PoisonError::into_inner);
        self.own_change(image.top().file(), || ());
        self.end_writing_locked(&mut image)?;
        refresh(&mut image)?;
        let mut watched = self.watched();
        if watched.watches == 0 {
            watched.stamp = Some(image.top().file().stamp()?);
        }
        watched.watches += 1;
        Ok(Watch {
            disk: self.clone(),
            image: image.clone(),
            others: image.stamps()[1..].to_vec(),
            strangers: watched.strangers,
            _pinned: self.pin_locked(),
        })
    }

    /// Makes a change of our own in the image's file, which no watch takes for a stranger's. Whoever asks holds the image
    /// for writing.
    pub(super) fn own_change<T>(&self, file: &File, change: impl FnOnce() -> T) -> T {
        let mut watched = self.watched();
        if watched.look(file).is_err() {
            watched.strangers += 1;
        }
        let made = change();
        if watched.watches > 0 {
            watched.stamp = file.stamp().ok();
        }
        made
    }

    fn watched(&self) -> MutexGuard<'_, Watched> {
        self.0.watched.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Watch {
    /// Fails when somebody who does not heed locks has written one of the disk's files since.
    pub(crate) fn ensure_unchanged(&self) -> Result<()> {
        let file = self.image.top().file();
        let mut watched = self.disk.watched();
        watched.look(file)?;
        if watched.strangers != self.strangers {
            return Err(Image::written(file));
        }
        drop(watched);
        self.image.ensure_unchanged(&self.others)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.disk.watched().watches -= 1;
    }
}
