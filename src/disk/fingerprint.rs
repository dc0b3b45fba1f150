//! What tells later whether anybody has written an image.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::Disk;
use crate::{
    error::Result,
    image::{Layer, folder_of},
    storage::{File, FileKind, FileVersion, Storage, in_full},
};

/// An image as it was at some moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fingerprint {
    /// Absolute.
    pub(crate) path: PathBuf,
    /// Its folder, unless that cannot be told.
    pub(crate) folder: Option<Folder>,
    pub(crate) inode: u64,
    /// `None` if its files do not tell whether it is written.
    pub(crate) versions: Option<Versions>,
}

/// What a folder is known by, to tell one that is away from a file that is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Folder {
    pub(crate) inode: u64,
    /// The roots of all file systems of a kind have one number.
    pub(crate) created: Option<i128>,
}

impl Folder {
    /// That of a file.
    pub(crate) fn of(storage: &dyn Storage, file: &Path) -> io::Result<Folder> {
        let folder = folder_of(file);
        let inode = storage.status(folder)?.id.inode;
        Ok(Folder { inode, created: storage.created(folder)? })
    }
}

/// The files of an image, as they are when nobody has written it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Versions {
    /// `None` where something better tells: the mark of a staged change.
    pub(crate) image: Option<FileVersion>,
    /// What its guest data lies in, if that is a file of its own: the path, absolute.
    pub(crate) data_file: Option<(PathBuf, FileVersion)>,
}

impl Disk {
    /// The disk's image, without what lies below, as it is now: every write from now on makes a difference.
    pub(crate) fn fingerprint(&self) -> Result<Fingerprint> {
        let image = self.image();
        Fingerprint::of_staged(&**image.storage(), image.top(), false)
    }
}

impl Fingerprint {
    /// Of an image whose header is `marked` as that of a staged change, or not.
    pub(super) fn of_staged(storage: &dyn Storage, layer: &Layer, marked: bool) -> Result<Self> {
        let file = layer.file();
        let versions = Versions::of(storage, layer, marked)?;
        let path = in_full(storage, file.path())?;
        // Devices have theirs in a folder that is made anew with each start.
        let is_file = file.kind()? == FileKind::Regular;
        let folder = if is_file { Folder::of(storage, &path).ok() } else { None };
        Ok(Fingerprint { path, folder, inode: file.id()?.inode, versions })
    }

    /// Whether the image, whose file this is, is so still.
    pub(super) fn holds(&self, storage: &Arc<dyn Storage>, file: &File) -> Result<bool> {
        match &self.versions {
            Some(versions) => versions.hold(storage, file),
            None => Ok(false),
        }
    }
}

impl Versions {
    /// Those from which every write from now on differs; of the image itself only where no mark tells.
    fn of(storage: &dyn Storage, layer: &Layer, marked: bool) -> Result<Option<Self>> {
        let image = if marked { None } else { layer.file().distinct_version()? };
        if image.is_none() && !marked {
            return Ok(None);
        }
        let Some(top) = layer.qcow2().filter(|top| top.external_data_file_bit()) else {
            return Ok(Some(Versions { image, data_file: None }));
        };
        let Some(data) = top.external_data_file() else { return Ok(None) };
        let Some(version) = data.distinct_version()? else { return Ok(None) };
        Ok(Some(Versions { image, data_file: Some((in_full(storage, data.path())?, version)) }))
    }

    /// A file that cannot be seen may be another one.
    fn hold(&self, storage: &Arc<dyn Storage>, image: &File) -> Result<bool> {
        let data_file = |(path, version): &(PathBuf, FileVersion)| {
            storage.open(path).and_then(|file| file.version()).is_ok_and(|now| now == *version)
        };
        let same = match &self.image {
            Some(version) => image.version()? == *version,
            None => true,
        };
        Ok(same && self.data_file.as_ref().is_none_or(data_file))
    }
}
