//! The new image of an external snapshot, in memory until the transaction is decided.
//!
//! So the actions behind the snapshot can change it at once, its bitmaps for instance, and nothing has to be undone
//! if one of them is refused.

use std::{
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::OverlayOptions;
use crate::{
    disk::{Disk, DiskOptions},
    error::{Error, ErrorKind, Result},
    format::text::printable,
    image::{
        Access, Layers, check_name,
        create::{LayoutOptions, Target, check_cluster_size},
        folder_of,
    },
    memory,
    storage::{File, MemoryStorage, Storage, in_full},
};

const DEFAULT_CLUSTER_SIZE: u64 = 64 << 10;
/// What is copied into the file at a time.
const PIECE: usize = 1 << 20;

#[derive(Debug)]
pub(super) struct Overlay {
    path: PathBuf,
    /// Its image alone, without what lies below.
    disk: Disk,
    file: File,
}

impl Overlay {
    /// An empty image on top of a disk.
    pub(super) fn new(below: &Disk, path: &Path, options: &OverlayOptions) -> Result<Self> {
        let about = |e: Error| e.within(format!("the overlay '{}'", path.display()));
        let cluster_size = options.cluster_size.unwrap_or(DEFAULT_CLUSTER_SIZE);
        check_cluster_size(cluster_size).map_err(about)?;
        below.ensure_room_above().map_err(about)?;
        let name = backing_name(below, path, options).map_err(about)?;
        let backing = Some((name.as_os_str().as_bytes().to_vec(), below.options().format));
        let layout = LayoutOptions { backing, ..LayoutOptions::new(below.size(), cluster_size) };
        let memory: Arc<dyn Storage> = Arc::new(MemoryStorage::new());
        let context = |e| Error::io(format!("cannot make '{}' in memory", path.display()), e);
        let file = File::new(memory.create(path).map_err(context)?, path);
        Target::qcow2(file.clone(), layout).and_then(|target| target.finish()).map_err(about)?;
        let (access, layers) = (Access::Write, Layers::TopOnly);
        let disk = Disk::open_in(memory, path, &DiskOptions { access, layers, ..DiskOptions::default() })?;
        Ok(Overlay { path: path.to_owned(), disk, file })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Its image in memory.
    pub(super) fn disk(&self) -> &Disk {
        &self.disk
    }

    /// Writes it into an empty file, durably.
    pub(super) fn write(&self, to: &File) -> Result<()> {
        self.disk.flush()?;
        let length = self.file.len()?;
        let mut buf = memory::zeroed(PIECE)?;
        let mut at = 0;
        while at < length {
            let piece = &mut buf[..PIECE.min((length - at) as usize)];
            self.file.read_exact(piece, at, "overlay")?;
            to.write_all(piece, at)?;
            at += piece.len() as u64;
        }
        to.open_up()?;
        to.sync()
    }
}

/// The name under which the overlay finds the disk's image.
fn backing_name(below: &Disk, path: &Path, options: &OverlayOptions) -> Result<PathBuf> {
    let image = below.image();
    let (storage, base) = (image.storage(), below.path());
    let name = match (&options.backing_name, base.file_name()) {
        (Some(name), _) => name.clone(),
        (None, Some(name)) if folder_of(base) == folder_of(path) => match check_name(name.as_bytes()) {
            Ok(_) => PathBuf::from(name),
            Err(_) => Path::new(".").join(name),
        },
        _ => in_full(&**storage, base)?,
    };
    let bytes = name.as_os_str().as_bytes();
    let invalid = |text: String| Err(Error::new(ErrorKind::InvalidArgument, text));
    if let Err(problem) = check_name(bytes) {
        return invalid(format!("the backing file's name '{}' {problem}", printable(bytes)));
    }
    let found = storage.status(&folder_of(path).join(&name)).ok().map(|status| status.id);
    if found != Some(image.top().file().id()?) {
        return invalid(format!(
            "the backing file's name '{}' does not lead from its folder to the disk's image '{}'",
            printable(bytes),
            base.display()
        ));
    }
    Ok(name)
}
