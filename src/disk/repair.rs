//! Checking an image, and repairing what is found.

use std::{path::Path, sync::Arc};

use super::{Disk, DiskOptions};
use crate::{
    bitmap,
    error::{ErrorKind, Result},
    image::{Access, CheckProblemKind, CheckReport, ImageFile, RepairMode, RepairReport},
    storage::{HostStorage, Storage},
};

impl Disk {
    /// Checks the qcow2 image at `path`: whether refcounts and tables agree, whether anything lies on anything
    /// else, whether its bitmaps are sound. Looks at the image alone, also at one that is too damaged to be
    /// opened. Needs one or two bytes of memory for each cluster of the file.
    ///
    /// # Errors
    /// As [`Disk::open`] for an image that cannot be looked at at all; `Unsupported` for formats other than
    /// qcow2; `Limit` when the file has more clusters than the memory limit allows to count; `Io`, also when
    /// somebody wrote the image meanwhile.
    pub fn check(path: impl AsRef<Path>, options: &DiskOptions) -> Result<CheckReport> {
        Self::check_in(Arc::new(HostStorage), path, options)
    }

    /// The same for an image that lives in `storage`.
    ///
    /// # Errors
    /// As [`Disk::check`].
    pub fn check_in(
        storage: Arc<dyn Storage>,
        path: impl AsRef<Path>,
        options: &DiskOptions,
    ) -> Result<CheckReport> {
        check(&ImageFile::open(&*storage, path.as_ref(), options)?)
    }

    /// Repairs the qcow2 image at `path`, as far as `mode` allows, and checks it before and afterwards. The image
    /// is locked against everybody else, whatever `options` say about access; what is repaired is durable when
    /// this returns. Guest data is never changed: what a broken entry led to stays lost, and is reported as
    /// remaining. Needs the memory that a check needs.
    ///
    /// # Errors
    /// As [`Disk::check`], and `Locked` when anybody else has the image open, `InvalidArgument` for an image that
    /// is to be shared, `Unsupported` when the header has no room for what has to change, `Limit` when a refcount
    /// cannot be counted or the image needs a refcount table over 8 MiB. Nothing has changed then. After a failure
    /// of input or output a part may be repaired; the image is not worse than it was, and the repair can be tried
    /// again.
    pub fn repair(path: impl AsRef<Path>, options: &DiskOptions, mode: RepairMode) -> Result<RepairReport> {
        Self::repair_in(Arc::new(HostStorage), path, options, mode)
    }

    /// The same for an image that lives in `storage`.
    ///
    /// # Errors
    /// As [`Disk::repair`].
    pub fn repair_in(
        storage: Arc<dyn Storage>,
        path: impl AsRef<Path>,
        options: &DiskOptions,
        mode: RepairMode,
    ) -> Result<RepairReport> {
        let options = DiskOptions { access: Access::Write, ..options.clone() };
        let file = ImageFile::open(&*storage, path.as_ref(), &options)?;
        let found = check(&file)?;
        let done = file.repair(mode)?;
        let remaining = if done.written { check(&file)? } else { found.clone() };

        let unflagged = |report: &CheckReport| report.corruptions - report.copied_flags;
        Ok(RepairReport {
            leaks_fixed: found.leaks.saturating_sub(remaining.leaks),
            corruptions_fixed: unflagged(&found).saturating_sub(unflagged(&remaining)) + done.flags,
            further_corruptions_fixed: found
                .further_corruptions
                .saturating_sub(remaining.further_corruptions),
            lost_bitmaps: done.lost_bitmaps,
            lost_snapshots: done.lost_snapshots,
            mended_snapshots: done.mended_snapshots,
            left: done.left,
            found,
            remaining,
        })
    }
}

/// Checks the image and looks into its bitmaps.
fn check(file: &ImageFile) -> Result<CheckReport> {
    let mut checked = file.check()?;
    let looked = match checked.open_for_bitmaps() {
        Some(opened) => opened.and_then(|image| bitmap::check(&image, &mut checked.report)),
        None => Ok(()),
    };
    match looked {
        Err(e) if e.is_io() || e.kind() == ErrorKind::Limit => return Err(e),
        Err(e) => checked.report.add(CheckProblemKind::UnusableBitmap, 1, None, 0, || {
            format!("the image's damage keeps the bitmaps from being looked into: {e}")
        }),
        Ok(()) => {}
    }
    checked.finish()
}
