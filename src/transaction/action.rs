//! What a transaction is made of.

use std::{mem, path::PathBuf, time::SystemTime};

use crate::{
    bitmap::{BitmapChange, Recording},
    disk::Disk,
    image::SnapshotChange,
    job::Backup,
    storage::as_of_now,
};

/// One step of a transaction. Steps take effect in the order of the list: each sees what those before it did, and
/// all of them see the disks at the same instant.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Action {
    /// A backup of one disk into a new file.
    Backup(Backup),
    /// A change of the bitmaps of the image that is on top of the disk at that point of the list.
    Bitmap {
        /// Open for writing.
        disk: Disk,
        /// What is changed.
        change: BitmapChange,
    },
    /// What is dirty in any of the sources becomes dirty in a bitmap of the image that is on top of the disk at that
    /// point of the list.
    Merge {
        /// Open for writing.
        disk: Disk,
        /// The name of the bitmap that changes.
        name: Vec<u8>,
        /// Where the bits come from.
        sources: Vec<MergeFrom>,
    },
    /// A new image on top of the disk. Later actions on the disk are about that, its bitmaps for instance. When the
    /// transaction is done the disk goes on there: it has to be opened under the new name, and the handle that took
    /// part does not write any more.
    ExternalSnapshot {
        /// The disk, whose image will lie below.
        disk: Disk,
        /// The new image, which must not exist. It has the disk's image as its backing file.
        overlay: PathBuf,
        /// How.
        options: OverlayOptions,
    },
    /// A snapshot inside the image that is on top of the disk at that point of the list is taken or goes.
    InternalSnapshot {
        /// Open for writing.
        disk: Disk,
        /// What is changed.
        change: SnapshotChange,
    },
    /// Fails: none of the list is done. Everything before it is checked all the same.
    Abort,
}

/// Where a merge takes bits from: a bitmap as it is at that point of the list.
#[derive(Clone, Debug)]
pub enum MergeFrom {
    /// One of the same image.
    Own(Vec<u8>),
    /// One of the image below it: behind an external snapshot, of the disk as it was before.
    Below(Vec<u8>),
    /// One of the image on top of another disk, which has the same size.
    Other(Disk, Vec<u8>),
}

/// How an overlay is made.
#[derive(Clone, Debug, Default)]
pub struct OverlayOptions {
    /// Bytes of a cluster: a power of two from 512 to 2 MiB. When not given: 64 KiB.
    pub cluster_size: Option<u64>,
    /// The name of the disk's image as the overlay records it; a relative one starts from the overlay's folder. When
    /// not given: the file's name if both are in one folder, else its whole path.
    pub backing_name: Option<PathBuf>,
}

impl Action {
    /// A new bitmap of the disk, clean; see [`BitmapChange::Add`].
    pub fn bitmap_add(
        disk: Disk,
        name: impl Into<Vec<u8>>,
        granularity: Option<u64>,
        recording: Recording,
    ) -> Self {
        Action::Bitmap { disk, change: BitmapChange::Add { name: name.into(), granularity, recording } }
    }

    /// A bitmap of the disk goes.
    pub fn bitmap_remove(disk: Disk, name: impl Into<Vec<u8>>) -> Self {
        Action::Bitmap { disk, change: BitmapChange::Remove { name: name.into() } }
    }

    /// All of a bitmap of the disk becomes clean.
    pub fn bitmap_clear(disk: Disk, name: impl Into<Vec<u8>>) -> Self {
        Action::Bitmap { disk, change: BitmapChange::Clear { name: name.into() } }
    }

    /// A bitmap of the disk records what is written from now on.
    pub fn bitmap_enable(disk: Disk, name: impl Into<Vec<u8>>) -> Self {
        Self::record(disk, name.into(), Recording::Enabled)
    }

    /// A bitmap of the disk records nothing from now on.
    pub fn bitmap_disable(disk: Disk, name: impl Into<Vec<u8>>) -> Self {
        Self::record(disk, name.into(), Recording::Disabled)
    }

    /// Its new files keep the meaning that their paths have now, for its own disk and for `first`.
    pub(super) fn named_now(mut self, first: &Disk) -> Self {
        let (disk, path) = match &mut self {
            Action::Backup(Backup { source, target, .. }) => (source, target),
            Action::ExternalSnapshot { disk, overlay, .. } => (disk, overlay),
            _ => return self,
        };
        for disk in [first, disk] {
            *path = as_of_now(&**disk.image().storage(), mem::take(path));
        }
        self
    }

    fn record(disk: Disk, name: Vec<u8>, recording: Recording) -> Self {
        Action::Bitmap { disk, change: BitmapChange::Record { name, recording } }
    }

    /// A snapshot inside the image of the disk as it is then, with the date of this call.
    pub fn snapshot_create(disk: Disk, name: impl Into<Vec<u8>>) -> Self {
        let change = SnapshotChange::Create { name: name.into(), date: SystemTime::now() };
        Action::InternalSnapshot { disk, change }
    }

    /// A snapshot inside the image goes.
    pub fn snapshot_delete(disk: Disk, id_or_name: impl Into<Vec<u8>>) -> Self {
        Action::InternalSnapshot { disk, change: SnapshotChange::Delete { id_or_name: id_or_name.into() } }
    }

    /// Its disk; [`Action::Abort`] has none.
    pub(super) fn disk(&self) -> Option<&Disk> {
        match self {
            Action::Backup(backup) => Some(&backup.source),
            Action::Bitmap { disk, .. }
            | Action::Merge { disk, .. }
            | Action::ExternalSnapshot { disk, .. }
            | Action::InternalSnapshot { disk, .. } => Some(disk),
            Action::Abort => None,
        }
    }

    /// The file that it makes.
    pub(super) fn target(&self) -> Option<&PathBuf> {
        match self {
            Action::Backup(backup) => Some(&backup.target),
            Action::ExternalSnapshot { overlay, .. } => Some(overlay),
            _ => None,
        }
    }

    /// What messages call it.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Action::Backup(_) => "backup",
            Action::Bitmap { change, .. } => match change {
                BitmapChange::Add { .. } => "bitmap add",
                BitmapChange::Remove { .. } => "bitmap remove",
                BitmapChange::Clear { .. } => "bitmap clear",
                BitmapChange::CountFrom { .. } => "bitmap count from",
                BitmapChange::Record { recording: Recording::Enabled, .. } => "bitmap enable",
                BitmapChange::Record { recording: Recording::Disabled, .. } => "bitmap disable",
                BitmapChange::Rename { .. } => "bitmap rename",
                BitmapChange::Merge { .. } => "bitmap merge",
            },
            Action::Merge { .. } => "bitmap merge",
            Action::ExternalSnapshot { .. } => "external snapshot",
            Action::InternalSnapshot { change: SnapshotChange::Create { .. }, .. } => "internal snapshot",
            Action::InternalSnapshot { change: SnapshotChange::Delete { .. }, .. } => {
                "internal snapshot delete"
            }
            Action::Abort => "abort",
        }
    }
}

impl From<Backup> for Action {
    fn from(backup: Backup) -> Self {
        Action::Backup(backup)
    }
}
