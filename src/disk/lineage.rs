//! What a disk's image descends from, and what its bitmaps count from.

use std::{path::Path, path::PathBuf};

use super::Disk;
use crate::{
    bitmap::{self, BitmapChange},
    error::Result,
    format::lineage::{Base, Identity, Lineage},
    image::{Access, Image, ImageOptions, Layers, Sharing, folder_of},
};

/// So many files of a folder are looked at, to name one in a message.
const MOST_FILES: usize = 1000;

impl Disk {
    /// The identity of the disk's image, if it is a backup that Holstein made, or a copy of one.
    pub fn identity(&self) -> Option<Identity> {
        lineage(&self.image())?.identity
    }

    /// The identity of the backup below it, by its own header.
    pub fn parent(&self) -> Option<Identity> {
        lineage(&self.image())?.parent
    }

    /// From which backup on a bitmap counts, if that is known: it is for bitmaps that a backup of Holstein cleared, or that
    /// were added or cleared in one transaction with a backup.
    ///
    /// # Errors
    /// `BitmapNotFound`.
    pub fn bitmap_base(&self, name: &[u8]) -> Result<Option<Base>> {
        self.base_after(&[], name)
    }

    /// The same after changes that are still to be made.
    pub(crate) fn base_after(&self, changes: &[BitmapChange], name: &[u8]) -> Result<Option<Base>> {
        match self.settled()?.qcow2() {
            Some(top) => bitmap::base_after(top, changes, name),
            None => Err(self.has_no_bitmaps()),
        }
    }

    /// The identity of the image at a path, as far as it can be found out.
    pub(crate) fn identity_at(&self, path: &Path) -> Option<Identity> {
        let options = ImageOptions {
            access: Access::Read,
            layers: Layers::TopOnly,
            sharing: Sharing::ForceShare,
            ..ImageOptions::default()
        };
        let image = Image::open(self.image().storage().clone(), path, &options).ok()?;
        lineage(&image)?.identity
    }

    /// The file in the folder of this disk's image that is a backup; for messages.
    pub(crate) fn find_beside(&self, backup: Identity) -> Option<PathBuf> {
        let folder = folder_of(self.path());
        let names = self.image().storage().list(folder).ok()?;
        let mut paths: Vec<_> = names.into_iter().take(MOST_FILES).map(|name| folder.join(name)).collect();
        paths.sort();
        paths.into_iter().find(|path| self.identity_at(path) == Some(backup))
    }
}

fn lineage(image: &Image) -> Option<&Lineage> {
    image.qcow2()?.header().extensions.lineage.as_ref()
}
