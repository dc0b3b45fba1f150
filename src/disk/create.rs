//! New disks: a qcow2 image, and its data file where it has one.
//!
//! Everything that can be refused is, before anything is created. Then, in this order:
//!
//! 1. Both files are created under temporary names, written and made durable; the image's header comes last.
//! 2. The data file gets its name; its folder is made durable.
//! 3. The image gets its name; its folder is made durable.
//!
//! A crash leaves temporary files, or the data file alone, which holds nothing yet, or everything. So an image
//! never names a data file that is not there.

use std::{
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{Disk, DiskOptions};
use crate::{
    error::{Error, ErrorKind, Result},
    format::text::printable,
    image::{
        Access, Backing, Compat, CreateOptions, Existing, check_name,
        create::{DataFileName, LayoutOptions, Target, TargetFile, place, refuse_existing, refuse_own_name},
        folder_of,
    },
    storage::{File, FileId, HostStorage, Lock, NewRights, Storage, anchored},
};

/// An image that has been found possible. Nothing has been created yet.
#[derive(Debug)]
struct Plan {
    layout: LayoutOptions,
    preallocated: bool,
    data_file: Option<DataFile>,
    /// The image below, held open so that it stays what it is.
    _backing: Option<Disk>,
}

#[derive(Debug)]
enum DataFile {
    /// It will be made here.
    New(PathBuf),
    /// It is there, holds the disk, and is left as it is.
    Kept { file: File, length: u64 },
}

fn invalid(text: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidArgument, text)
}

impl Disk {
    /// Makes a new qcow2 image at `path`, a disk of `size` bytes (a multiple of 512) that reads as zero, or as
    /// its backing file does; and opens it as the options say. Without a size the disk is as large as its
    /// backing file, or as an existing raw data file.
    ///
    /// The image appears under its name complete and durable, or not at all.
    ///
    /// # Errors
    /// `InvalidArgument` for options that contradict each other or exceed what the format can hold; `Exists`;
    /// `NotFound` and `Io` from the file system; `PolicyDenied` for a backing file or data file that
    /// `options.open` does not allow to open; what [`Disk::open`] says about a backing file. Nothing was
    /// created then, unless the text says that the image was created and cannot be opened.
    pub fn create(path: impl AsRef<Path>, size: Option<u64>, options: &CreateOptions) -> Result<Disk> {
        Self::create_in(Arc::new(HostStorage), path, size, options)
    }

    /// The same for an image that will live in `storage`.
    ///
    /// # Errors
    /// As [`Disk::create`].
    pub fn create_in(
        storage: Arc<dyn Storage>,
        path: impl AsRef<Path>,
        size: Option<u64>,
        options: &CreateOptions,
    ) -> Result<Disk> {
        let (storage, path) = (anchored(storage), path.as_ref());
        let plan = Plan::new(&storage, path, size, options).map_err(|e| e.in_file(path))?;
        plan.carry_out(&storage, path, options.existing)?;
        Disk::open_in(storage, path, &options.open)
            .map_err(|e| e.within(format!("'{}' was created, but cannot be opened", path.display())))
    }

    /// Opens what a target will stand on, as its readers will: a name that leads nowhere makes it useless.
    pub(crate) fn open_backing(
        storage: &Arc<dyn Storage>,
        target: &Path,
        backing: &Backing,
        options: &DiskOptions,
    ) -> Result<Disk> {
        let name = backing.name.as_os_str().as_bytes();
        refuse_strange_name("backing file", name)?;
        let path = folder_of(target).join(&backing.name);
        let options = DiskOptions { format: backing.format, access: Access::Read, ..options.clone() };
        let opened = Disk::open_in(storage.clone(), &path, &options);
        let fits = opened.and_then(|disk| disk.ensure_room_above().map(|()| disk));
        fits.map_err(|e| {
            let name = printable(name);
            e.within(format!("cannot use '{name}' as the backing file of '{}'", target.display()))
        })
    }

    /// Refuses what would stand on this disk and be one image more than a chain may have: nobody could open it.
    pub(crate) fn ensure_room_above(&self) -> Result<()> {
        self.image().ensure_room_above(self.options())
    }

    /// Every file that the disk is read from.
    pub(crate) fn files(&self) -> Result<Vec<(FileId, PathBuf)>> {
        let image = self.image();
        let files = image.facts().map(|facts| Ok(facts?.files)).collect::<Result<Vec<_>>>()?;
        Ok(files.into_iter().flatten().collect())
    }
}

/// A name that will be recorded must be one that is opened later.
fn refuse_strange_name(role: &str, name: &[u8]) -> Result<()> {
    check_name(name).map(drop).map_err(|problem| {
        invalid(format!("the {role}'s name '{}' {problem}; begin a plain name with './'", printable(name)))
    })
}

impl Plan {
    fn new(
        storage: &Arc<dyn Storage>,
        path: &Path,
        size: Option<u64>,
        options: &CreateOptions,
    ) -> Result<Plan> {
        options.check()?;
        let own_place = place(&**storage, path)?;
        let backing = backing(storage, path, options)?;
        let data_file = DataFile::look(&**storage, path, options)?;
        if let Some(DataFile::New(data)) = &data_file {
            let its_place = place(&**storage, data).map_err(|e| e.within("its data file"))?;
            if its_place == own_place {
                return Err(invalid("the image and its data file cannot be the same file"));
            }
        }
        let mut in_use = backing.as_ref().map_or(Ok(Vec::new()), Disk::files)?;
        if let Some(DataFile::Kept { file, .. }) = &data_file {
            in_use.push((file.id()?, file.path().to_owned()));
        }
        refuse_existing(&**storage, path, options.existing, &in_use)?;

        let size = disk_size(size, backing.as_ref(), data_file.as_ref())?;
        let layout = layout(size, options);
        let preallocated = options.is_preallocated();
        if preallocated { layout.check_preallocated() } else { layout.check() }?;
        Ok(Plan { layout, preallocated, data_file, _backing: backing })
    }

    fn carry_out(self, storage: &Arc<dyn Storage>, path: &Path, existing: Existing) -> Result<()> {
        // What is dropped first is taken back first: the image before the file that it names.
        let mut data_file = None;
        let mut image = TargetFile::create(storage.clone(), path, existing, NewRights::PLAIN)?;
        if let Some(DataFile::New(data)) = &self.data_file {
            // Who may not use the image may not use its data.
            let kept = image.replaced().map(File::rights).transpose()?.flatten();
            let rights = kept.map_or(NewRights::PLAIN, NewRights::As);
            data_file = Some(TargetFile::create(storage.clone(), data, Existing::Refuse, rights)?);
        }
        if let Some(data) = &data_file {
            data.file().set_len(self.layout.size)?;
            data.file().open_up()?;
            data.file().sync()?;
        }
        let target = Target::qcow2(image.file().clone(), self.layout)?;
        if self.preallocated {
            target.preallocate()?;
        }
        target.finish()?;
        if let Some(data) = &mut data_file {
            data.publish()?;
            data.sync_folder()?;
        }
        image.publish()?;
        image.sync_folder()?;
        let _ = image.finish();
        if let Some(file) = data_file {
            let _ = file.finish();
        }
        Ok(())
    }
}

/// Opens the image below, if the policy will let the new disk do so.
fn backing(storage: &Arc<dyn Storage>, path: &Path, options: &CreateOptions) -> Result<Option<Disk>> {
    let Some(backing) = &options.backing else { return Ok(None) };
    let name = backing.name.as_os_str().as_bytes();
    refuse_strange_name("backing file", name)?;
    options.open.backing_policy.open(&**storage, path, name, "backing file")?;
    let disk = Disk::open_backing(storage, path, backing, &options.open)?;
    Ok(Some(disk))
}

impl DataFile {
    /// Whether the data file is there already, and may be.
    fn look(storage: &dyn Storage, path: &Path, options: &CreateOptions) -> Result<Option<DataFile>> {
        let Some(name) = &options.data_file else { return Ok(None) };
        let bytes = name.as_os_str().as_bytes();
        refuse_strange_name("data file", bytes)?;
        let whole = folder_of(path).join(name);
        refuse_own_name("data file", &whole)?;
        let file = match options.open.backing_policy.open(storage, path, bytes, "data file") {
            Ok(file) if options.data_file_raw => file,
            // A link that leads nowhere is a name in use as well.
            Err(e) if e.kind() == ErrorKind::NotFound && storage.entry(&whole).is_err() => {
                return Ok(Some(DataFile::New(whole)));
            }
            Err(e) if e.kind() != ErrorKind::NotFound => return Err(e),
            _ => {
                let text = format!(
                    "the data file '{}' exists already; choose another name, or make it raw if it holds the disk",
                    printable(bytes)
                );
                return Err(Error::new(ErrorKind::Exists, text));
            }
        };
        file.lock(Lock::Backing)?;
        let length = file.len()?;
        if !length.is_multiple_of(512) {
            let text = format!(
                "the data file '{}' has {length} bytes, no multiple of 512; make it longer first",
                printable(bytes)
            );
            return Err(invalid(text));
        }
        Ok(Some(DataFile::Kept { file, length }))
    }
}

fn disk_size(asked: Option<u64>, backing: Option<&Disk>, data_file: Option<&DataFile>) -> Result<u64> {
    let kept = match data_file {
        Some(DataFile::Kept { length, .. }) => Some(*length),
        _ => None,
    };
    let Some(size) = asked.or(backing.map(Disk::size)).or(kept) else {
        return Err(invalid(
            "a size is needed; only a backing file or an existing raw data file has one itself",
        ));
    };
    if !size.is_multiple_of(512) {
        let (below, above) = (size / 512 * 512, size.checked_next_multiple_of(512));
        let above = above.map_or(String::new(), |above| format!(" or {above}"));
        return Err(invalid(format!("size {size} is no multiple of 512 bytes; use {below}{above}")));
    }
    match kept {
        Some(length) if length != size => Err(invalid(format!(
            "the data file has {length} bytes, and the disk would have {size}; leave out the size"
        ))),
        _ => Ok(size),
    }
}

fn layout(size: u64, options: &CreateOptions) -> LayoutOptions {
    let backing = options.backing.as_ref().map(|b| (b.name.as_os_str().as_bytes().to_vec(), b.format));
    let data_file = options
        .data_file
        .as_ref()
        .map(|name| DataFileName { name: name.as_os_str().as_bytes().to_vec(), raw: options.data_file_raw });
    LayoutOptions {
        size,
        version: if options.compat == Compat::V2 { 2 } else { 3 },
        cluster_size: options.cluster_size(),
        refcount_bits: options.refcount_bits(),
        extended_l2: options.extended_l2,
        lazy_refcounts: options.lazy_refcounts,
        compression: options.compression_type,
        backing,
        data_file,
        ..LayoutOptions::new(size, options.cluster_size())
    }
}
