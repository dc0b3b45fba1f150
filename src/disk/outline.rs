//! A look at the header of an image that cannot be opened.

use std::path::Path;

use super::Disk;
use crate::{
    error::{Error, ErrorKind, Result},
    format::outline::HeaderOutline,
    storage::{File, HostStorage, Storage},
};

impl Disk {
    /// What the header of the qcow2 image at `path` says, unchecked: for an image that [`Disk::open`] refuses. Reads 4 KiB, and
    /// takes no lock.
    ///
    /// # Errors
    /// `NotFound`, `Permission` and `Io` from the file system; `Unsupported` for a file that does not begin as a qcow2 image.
    pub fn outline(path: impl AsRef<Path>) -> Result<HeaderOutline> {
        let path = path.as_ref();
        let opened = HostStorage.open(path).map_err(|e| Error::io(format!("'{}'", path.display()), e))?;
        let file = File::new(opened, path);
        let mut start = [0; HeaderOutline::BYTES];
        let length = file.read_up_to(&mut start, 0)?;
        HeaderOutline::of(&start[..length])
            .ok_or_else(|| file.error(ErrorKind::Unsupported, "the file has no header of a qcow2 image"))
    }
}
