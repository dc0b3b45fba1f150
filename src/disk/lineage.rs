//! What a disk's image descends from, and what its bitmaps count from.

use std::{
    collections::HashSet,
    path::{Path, PathBuf},
};

use super::Disk;
use crate::{
    bitmap::{self, BitmapChange},
    error::{Error, ErrorKind, Result, shown},
    format::{
        header::Header,
        lineage::{Base, Identity, Lineage},
    },
    image::{Access, Image, ImageOptions, Layers, Sharing, folder_of, read_first_cluster},
    storage::{File, FileId, FileKind},
};

/// The header of an image, as far as it tells what the image descends from.
#[derive(Clone, Debug)]
pub(crate) struct Relative {
    pub(crate) path: PathBuf,
    pub(crate) file: FileId,
    /// The image says nothing about itself where this is empty.
    pub(crate) lineage: Lineage,
}

/// The images of some folders.
#[derive(Debug, Default)]
pub(crate) struct Relatives {
    pub(crate) images: Vec<Relative>,
    /// What could not be looked at for lack of rights.
    pub(crate) hidden: Vec<Error>,
}

impl Disk {
    /// The identity of the disk's image, if it is a backup that Holstein made, or a copy of one.
    pub fn identity(&self) -> Option<Identity> {
        lineage(&self.image())?.identity
    }

    /// The identity that the disk's image had until Holstein changed the disk: it is not that backup any more.
    pub fn former_identity(&self) -> Option<Identity> {
        lineage(&self.image())?.former
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
        match self.at_rest()?.qcow2() {
            Some(top) => bitmap::base_after(top, changes, name),
            None => Err(self.has_no_bitmaps()),
        }
    }

    /// What the header of the image at `path` says; `None` where no regular file is, or none that is a qcow2 image. Takes no
    /// lock, and opens nothing else.
    ///
    /// # Errors
    /// Those of the file system, and `NoMemory`: then nothing is known about the file.
    pub(crate) fn relative_at(&self, path: &Path) -> Result<Option<Relative>> {
        let image = self.image();
        let storage = image.storage();
        let failed = |e| Error::io(format!("cannot look at '{}'", shown(path)), e);
        let status = match storage.status(path) {
            Ok(status) => status,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(failed(e)),
        };
        if status.kind != FileKind::Regular {
            return Ok(None);
        }
        let opened = match storage.open(path) {
            Ok(opened) => opened,
            // Somebody removed it just now.
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(failed(e)),
        };
        let file = File::new(opened, path);
        match read_first_cluster(&file).and_then(|cluster| Header::parse(&cluster)) {
            Ok(header) => {
                let lineage = header.extensions.lineage.unwrap_or_default();
                Ok(Some(Relative { path: path.to_owned(), file: file.id()?, lineage }))
            }
            Err(error) if error.is_io() => Err(error.in_file(path)),
            Err(_) => Ok(None),
        }
    }

    /// The images in some folders, each file once. The result lists the files that the process may not read.
    ///
    /// # Errors
    /// As [`Disk::relative_at`].
    pub(crate) fn relatives_in<'a>(&self, folders: impl Iterator<Item = &'a Path>) -> Result<Relatives> {
        let mut relatives = Relatives::default();
        let (mut folders_seen, mut files_seen) = (HashSet::new(), HashSet::new());
        for folder in folders.filter(|folder| folders_seen.insert(folder.to_owned())) {
            let listed = self.image().storage().list(folder);
            let mut names = match listed.map_err(|e| Error::io(format!("folder '{}'", shown(folder)), e)) {
                Ok(names) => names,
                Err(error) => {
                    relatives.hide(error)?;
                    continue;
                }
            };
            names.sort();
            for name in names {
                match self.relative_at(&folder.join(name)) {
                    Ok(Some(image)) if files_seen.insert(image.file) => relatives.images.push(image),
                    Ok(_) => {}
                    Err(error) => relatives.hide(error)?,
                }
            }
        }
        Ok(relatives)
    }

    /// Opens the chain of an image to look at it, also while others use it; the image alone where its chain cannot be opened.
    ///
    /// # Errors
    /// As [`Disk::relative_at`].
    pub(crate) fn look_at_chain(&self, path: &Path) -> Result<Option<Image>> {
        let storage = self.image().storage().clone();
        let options = ImageOptions {
            access: Access::Read,
            layers: Layers::Chain,
            sharing: Sharing::ForceShare,
            format: crate::image::Format::Qcow2,
            ..self.options().clone()
        };
        let alone = ImageOptions { layers: Layers::TopOnly, ..options.clone() };
        let is_fatal = |error: &Error| {
            error.is_io() && !matches!(error.kind(), ErrorKind::NotFound | ErrorKind::Permission)
        };
        for options in [options, alone] {
            match Image::open(storage.clone(), path, &options) {
                Ok(image) => return Ok(Some(image)),
                Err(error) if is_fatal(&error) => return Err(error),
                Err(_) => {}
            }
        }
        Ok(None)
    }

    /// The file in the folder of this disk's image that is a backup; for messages.
    pub(crate) fn find_beside(&self, backup: Identity) -> Result<Option<PathBuf>> {
        let relatives = self.relatives_in([folder_of(self.path())].into_iter())?;
        let found = relatives.images.into_iter().find(|image| image.lineage.identity == Some(backup));
        Ok(found.map(|image| image.path))
    }
}

impl Relatives {
    fn hide(&mut self, error: Error) -> Result<()> {
        match error.kind() {
            ErrorKind::Permission => self.hidden.push(error),
            _ => return Err(error),
        }
        Ok(())
    }
}

fn lineage(image: &Image) -> Option<&Lineage> {
    image.qcow2()?.header().extensions.lineage.as_ref()
}
