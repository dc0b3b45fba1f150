//! Checking a whole chain: each image, and whether it stands on the backup that it was made over.

use std::{path::Path, sync::Arc};

use super::{Disk, DiskOptions};
use crate::{
    error::Result,
    image::{Access, CheckReport, CheckVerdict, Format, LayerInfo, Layers, Link},
    storage::{HostStorage, Storage},
};

/// One image of a chain that was checked.
#[derive(Clone, Debug)]
pub struct CheckedImage {
    /// The image, and how it stands on the one below.
    pub layer: LayerInfo,
    /// What its check found; `None` for a raw image, which has nothing to check.
    pub report: Option<CheckReport>,
}

/// What a check of a chain found.
#[derive(Clone, Debug)]
pub struct CheckedChain {
    /// All images, the top first.
    pub images: Vec<CheckedImage>,
}

impl CheckedChain {
    /// The worst of all images. A broken link is a corruption.
    pub fn verdict(&self) -> CheckVerdict {
        let broken = self.images.iter().any(|image| image.layer.link == Link::Broken);
        let verdicts = self.images.iter().filter_map(|image| image.report.as_ref()).map(CheckReport::verdict);
        let worst = verdicts.max().unwrap_or(CheckVerdict::Consistent);
        if broken { CheckVerdict::Corrupt } else { worst }
    }
}

impl Disk {
    /// Checks every image of the chain whose top is at `path`, as [`Disk::check`] does, and that each stands on the backup
    /// that it was made over. Nothing is changed. The images below are found as the options allow; `layers` and `access`
    /// do not count.
    ///
    /// # Errors
    /// Those of [`Disk::open`] and [`Disk::check`].
    pub fn check_chain(path: impl AsRef<Path>, options: &DiskOptions) -> Result<CheckedChain> {
        Self::check_chain_in(Arc::new(HostStorage), path, options)
    }

    /// The same for images that live in `storage`.
    ///
    /// # Errors
    /// As [`Disk::check_chain`].
    pub fn check_chain_in(
        storage: Arc<dyn Storage>,
        path: impl AsRef<Path>,
        options: &DiskOptions,
    ) -> Result<CheckedChain> {
        let options = DiskOptions { layers: Layers::Chain, access: Access::Read, ..options.clone() };
        let disk = Disk::open_in(storage.clone(), path, &options)?;
        let check = |layer: LayerInfo| {
            // The chain says what format each has.
            let options = DiskOptions { layers: Layers::TopOnly, format: layer.format, ..options.clone() };
            let report = match layer.format {
                Format::Raw => None,
                Format::Qcow2 => Some(Disk::check_in(storage.clone(), &layer.path, &options)?),
            };
            Ok(CheckedImage { layer, report })
        };
        Ok(CheckedChain { images: disk.chain().into_iter().map(check).collect::<Result<_>>()? })
    }
}
