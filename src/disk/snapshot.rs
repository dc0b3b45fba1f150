//! Internal snapshots: the disk as it was at some time, kept in its own image.

use std::{sync::Arc, time::SystemTime};

use super::{
    Disk,
    staged::Written,
    write::{after_change, top},
};
use crate::{
    bitmap::NewBitmaps,
    error::{Error, ErrorKind, Result},
    image::{Image, SnapshotChange, SnapshotInfo, edit::SnapshotPlan},
};

impl Disk {
    /// Takes an internal snapshot of the disk as it is, called `name` (1 to 255 bytes) and with this date. Durable when
    /// this returns, all of it or nothing. Bitmaps are not part of a snapshot, and stay as they are. The disk must have
    /// been opened with [`Access::Write`](crate::Access::Write). Blocks; other calls wait for it.
    ///
    /// # Errors
    /// `InvalidArgument` for a name that cannot be; `Exists` for one that is the name or id of a snapshot;
    /// `Unsupported` for raw images and those with a data file; `Limit` when there are too many snapshots, or a
    /// cluster has more users than its refcount can tell; otherwise as [`Disk::write_at`]. Nothing has changed then,
    /// unless the error's text says that the change was made, or that this is unknown.
    pub fn create_snapshot(&self, name: &[u8], date: SystemTime) -> Result<SnapshotInfo> {
        let (id, image) = self.change_snapshot(SnapshotChange::Create { name: name.to_vec(), date })?;
        let missing =
            || Error::new(ErrorKind::Internal, "the change was made, but the snapshot is not there");
        id.and_then(|id| image.snapshot(&id)).ok_or_else(missing)
    }

    /// Deletes an internal snapshot, by its id or its name. Otherwise as [`Disk::create_snapshot`].
    ///
    /// # Errors
    /// `NotFound`; `InvalidArgument` for what is the id of one snapshot and the name of another, or the name of
    /// several; otherwise as [`Disk::create_snapshot`].
    pub fn delete_snapshot(&self, id_or_name: &[u8]) -> Result<()> {
        self.change_snapshot(SnapshotChange::Delete { id_or_name: id_or_name.to_vec() }).map(drop)
    }

    /// Makes a change; returns the id of a new snapshot, and the image as it is then.
    fn change_snapshot(&self, change: SnapshotChange) -> Result<(Option<Vec<u8>>, Arc<Image>)> {
        let mut image = self.image_to_write()?;
        self.end_writing_locked(&mut image)?;
        let plan = SnapshotPlan::new(top(&image)?, &[change])?;
        let id = plan.new_id().map(<[u8]>::to_vec);
        let made = Written::new(top(&image)?, &NewBitmaps::default(), &plan)
            .and_then(|written| written.edit.commit(written.change));
        after_change(&mut image, made)?;
        Ok((id, image.clone()))
    }
}
