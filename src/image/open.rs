//! Opening a chain. The order: open, lock, read the header, check every number in it, check what the tables
//! lie on, then the next image below. Nothing is allocated before the budget has granted it.

use std::{collections::HashSet, fmt, io, path::Path, str::FromStr, sync::Arc};

use super::{
    Image, Layer, LayerKind, Qcow2,
    budget::Budget,
    policy::BackingPolicy,
    raw::Raw,
    shelf::{Named, STAYING, Shelf},
};
use crate::{
    error::{Error, ErrorKind, Result, shown},
    format::{extension::Extensions, header::Header, text::printable},
    storage::{File, FileId, Lock, Stamp, Storage},
};

/// The default of [`ImageOptions::chain_limit`].
const DEFAULT_CHAIN_LIMIT: u32 = 1000;

/// The default of [`ImageOptions::memory_limit`].
const DEFAULT_MEMORY_LIMIT: u64 = 64 << 20;

/// Image formats. A format is told, never guessed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// qcow2, versions 2 and 3.
    #[default]
    Qcow2,
    /// The disk's bytes as they are.
    Raw,
}

impl FromStr for Format {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "qcow2" => Ok(Format::Qcow2),
            "raw" => Ok(Format::Raw),
            _ => Err(Error::new(
                ErrorKind::InvalidArgument,
                format!("unknown image format '{text}'; use qcow2 or raw"),
            )),
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Format::Qcow2 => "qcow2",
            Format::Raw => "raw",
        })
    }
}

/// Whether others may write the image while we read it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sharing {
    /// Nobody may: the image is locked, and an image that somebody writes is refused.
    #[default]
    Locked,
    /// Somebody may. What is read can be torn: for information only, never for a backup.
    ForceShare,
}

/// What may be done with the image.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Access {
    /// It is read.
    #[default]
    Read,
    /// It is written too: its data, its size, its bitmaps. The image is locked against everybody else.
    Write,
}

/// How much of a chain to open.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Layers {
    /// The image, its data file, and all images below it.
    #[default]
    Chain,
    /// The image alone: enough for information and bitmaps; what lies elsewhere cannot be read.
    TopOnly,
}

/// How to open an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageOptions {
    /// The image's format; images below it say their own.
    pub format: Format,
    /// Which files named inside images may be opened.
    pub backing_policy: BackingPolicy,
    /// What may be done with the image; images below it are only ever read.
    pub access: Access,
    /// Whether others may write meanwhile.
    pub sharing: Sharing,
    /// How much of the chain to open.
    pub layers: Layers,
    /// Bytes of memory for the metadata of the whole chain, beside a bitmap in use. 64 MiB by default.
    pub memory_limit: u64,
    /// Most images in the chain, the top included; 0 is not allowed. 1,000 by default. Nothing is made that would stand
    /// on more.
    pub chain_limit: u32,
    /// Most threads that a large read uses; 0, the default: two for each processor, 16 at most. Backups have the limit of
    /// their transaction.
    pub thread_limit: u32,
}

impl Default for ImageOptions {
    fn default() -> Self {
        ImageOptions {
            format: Format::default(),
            backing_policy: BackingPolicy::default(),
            access: Access::default(),
            sharing: Sharing::default(),
            layers: Layers::default(),
            memory_limit: DEFAULT_MEMORY_LIMIT,
            chain_limit: DEFAULT_CHAIN_LIMIT,
            thread_limit: 0,
        }
    }
}

impl ImageOptions {
    /// Refuses what contradicts itself.
    pub(crate) fn check(&self) -> Result<()> {
        if self.access == Access::Write && self.sharing == Sharing::ForceShare {
            let text = "an image that is shared cannot be written";
            return Err(Error::new(ErrorKind::InvalidArgument, text));
        }
        if self.chain_limit == 0 {
            return Err(Error::new(
                ErrorKind::InvalidArgument,
                "a chain has one image at least; the limit is 0",
            ));
        }
        Ok(())
    }
}

impl Image {
    /// Opens the image at `path`, and with [`Layers::Chain`] everything below it.
    pub(crate) fn open(storage: Arc<dyn Storage>, path: &Path, options: &ImageOptions) -> Result<Image> {
        let file = open_locked(&*storage, path, options)?;
        let budget = Budget::new(options.memory_limit);
        let mut stamps = vec![(file.clone(), file.stamp()?)];
        let mut top = Layer::open(file, options.format, &budget)?;
        let mut layers = Vec::new();
        let mut below = Shelf::new(storage.clone(), options, budget.clone());
        if options.layers == Layers::Chain {
            top.open_data_file(&*storage, options, options.access, &mut stamps)?;
            let mut seen = HashSet::from([top.file().id()?]);
            let mut next = top.named_below()?;
            layers.push(Arc::new(top));
            while let Some(named) = next {
                let allowed = |file: &File| {
                    refuse_loop(&seen, file, &named)?;
                    refuse_longer(path, seen.len(), options)
                };
                let open = || Layer::open_named(&*storage, options, &budget, &named, allowed);
                let (layer, files) = below.make_fit(open)?;
                seen.insert(layer.file().id()?);
                next = layer.named_below()?;
                if below.len() == 0 && layers.len() < STAYING && budget.is_half_free() {
                    stamps.extend(files);
                    layers.push(Arc::new(layer));
                } else {
                    below.push(named, layer, files)?;
                }
            }
        } else {
            layers.push(Arc::new(top));
        }
        Ok(Image { layers, below: Arc::new(below), stamps, storage })
    }

    /// Refuses what would stand on this chain and be one image more than may be opened.
    pub(crate) fn ensure_room_above(&self, options: &ImageOptions) -> Result<()> {
        let named = self.qcow2().is_some_and(|top| top.header().backing().is_some());
        if named && options.layers == Layers::TopOnly {
            // How long the chain is has to be found out. Nothing of it is used, so that others may write it.
            let options = ImageOptions {
                access: Access::Read,
                sharing: Sharing::ForceShare,
                layers: Layers::Chain,
                ..options.clone()
            };
            let whole = Image::open(self.storage.clone(), self.path(), &options)?;
            return refuse_longer(self.path(), whole.layer_count(), &options);
        }
        refuse_longer(self.path(), self.layer_count(), options)
    }

    /// The same chain with its top, a qcow2 image that was changed through our own file, read anew.
    pub(crate) fn reread(&self) -> Result<Image> {
        let (mut layers, mut stamps) = (self.layers.clone(), self.stamps.clone());
        for (file, stamp) in &mut stamps[..layers[0].files().count()] {
            *stamp = file.stamp()?;
        }
        layers[0] = Arc::new(layers[0].reread()?);
        Ok(Image { layers, below: self.below.clone(), stamps, storage: self.storage.clone() })
    }

    /// The same chain with all that somebody has written since it was parsed read anew; `None` if nobody has. It has
    /// to name the same files.
    pub(crate) fn refreshed(&self) -> Result<Option<Image>> {
        let (mut layers, mut stamps) = (self.layers.clone(), self.stamps.clone());
        let (mut rest, mut anew) = (&mut stamps[..], false);
        for layer in &mut layers {
            let own;
            (own, rest) = rest.split_at_mut(layer.files().count());
            let mut written = false;
            for (file, stamp) in own {
                let now = file.stamp()?;
                written |= !stamp.is_same(&now);
                *stamp = now;
            }
            if written {
                *layer = Arc::new(layer.refreshed()?);
                anew = true;
            }
        }
        let (below, storage) = (self.below.clone(), self.storage.clone());
        Ok(anew.then(|| Image { layers, below, stamps, storage }))
    }
}

/// Refuses an image that has the chain above it below it.
fn refuse_loop(seen: &HashSet<FileId>, file: &File, named: &Named) -> Result<()> {
    if !seen.contains(&file.id()?) {
        return Ok(());
    }
    let name = printable(&named.name);
    let text =
        format!("'{}': its backing file '{name}' is part of the chain above it: a loop", shown(&named.above));
    Err(Error::new(ErrorKind::Corrupt, text))
}

/// Refuses one image more in a chain of `count`. The same rule holds for those that are opened and that are made.
fn refuse_longer(path: &Path, count: usize, options: &ImageOptions) -> Result<()> {
    let limit = options.chain_limit;
    if count < limit as usize {
        return Ok(());
    }
    let text = format!(
        "'{}': the chain of backing files would have more than {limit} images, which is its limit; make a full copy, copy \
         the chain into one image, or raise the chain limit",
        shown(path)
    );
    Err(Error::new(ErrorKind::Limit, text))
}

/// Opens and locks the file of an image that is named by the caller.
pub(super) fn open_locked(storage: &dyn Storage, path: &Path, options: &ImageOptions) -> Result<File> {
    let cause = |e: io::Error| {
        let denied = matches!(e.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem);
        let for_what = match options.access == Access::Write && denied {
            true => {
                " for writing (it may still be readable: a backup that leaves its bitmap as it is, bitmap mode never, \
                 only reads it)"
            }
            false => "",
        };
        Error::io(format!("cannot open '{}'{for_what}", shown(path)), e)
    };
    options.check().map_err(|e| e.in_file(path))?;
    let (opened, lock) = match (options.access, options.sharing) {
        (Access::Write, _) => (storage.open_writable(path), Lock::Write),
        (Access::Read, Sharing::Locked) => (storage.open(path), Lock::Source),
        (Access::Read, Sharing::ForceShare) => (storage.open(path), Lock::ForceShare),
    };
    let file = File::new(opened.map_err(cause)?, path);
    lock_named(storage, &file, lock)?;
    Ok(file)
}

/// Locks an open file, and makes sure that its name still leads to it.
fn lock_named(storage: &dyn Storage, file: &File, lock: Lock) -> Result<()> {
    file.lock(lock)?;
    match storage.status(file.path()) {
        Ok(status) if status.id == file.id()? => Ok(()),
        _ => Err(file.error(ErrorKind::Locked, "the file was replaced while it was opened; try again")),
    }
}

/// Opens a file that may be read for writing too; false, and it stays as it is, where that is not permitted. Its
/// bitmaps can be changed all the same.
fn reopen_for_writing(storage: &dyn Storage, file: &mut File) -> Result<bool> {
    match storage.open_writable(file.path()) {
        Ok(inner) => {
            let writable = File::new(inner, file.path());
            if writable.id()? != file.id()? {
                return Err(
                    file.error(ErrorKind::Locked, "the file was replaced while it was opened; try again")
                );
            }
            *file = writable;
            Ok(true)
        }
        Err(e) if matches!(e.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem) => {
            Ok(false)
        }
        Err(e) => {
            Err(Error::io(format!("cannot open the data file '{}' for writing", shown(file.path())), e))
        }
    }
}

impl Layer {
    /// Opens an image that another names, with its data file, for reading. `allowed` looks at the file before it is locked.
    /// The files come with what they are by now.
    pub(super) fn open_named(
        storage: &dyn Storage,
        options: &ImageOptions,
        budget: &Budget,
        named: &Named,
        allowed: impl Fn(&File) -> Result<()>,
    ) -> Result<(Layer, Vec<(File, Stamp)>)> {
        let file = options.backing_policy.open(storage, &named.above, &named.name, "backing file")?;
        allowed(&file)?;
        let lock = match options.sharing {
            Sharing::Locked => Lock::Backing,
            Sharing::ForceShare => Lock::ForceShare,
        };
        lock_named(storage, &file, lock)?;
        let mut stamps = vec![(file.clone(), file.stamp()?)];
        let mut layer = Layer::open(file, named.format, budget)?;
        layer.open_data_file(storage, options, Access::Read, &mut stamps)?;
        Ok((layer, stamps))
    }

    fn open(file: File, format: Format, budget: &Budget) -> Result<Layer> {
        match format {
            Format::Raw => {
                let image = Raw::open(file)?;
                Ok(Layer { size: image.size(), kind: LayerKind::Raw(image) })
            }
            Format::Qcow2 => {
                let path = file.path().to_owned();
                let image = Qcow2::open(file, budget).map_err(|e| e.in_file(&path))?;
                Ok(Layer { size: image.header().size, kind: LayerKind::Qcow2(Box::new(image)) })
            }
        }
    }

    /// Opens the external data file, if the image has one.
    fn open_data_file(
        &mut self,
        storage: &dyn Storage,
        options: &ImageOptions,
        access: Access,
        stamps: &mut Vec<(File, Stamp)>,
    ) -> Result<()> {
        let LayerKind::Qcow2(image) = &mut self.kind else { return Ok(()) };
        let Some(name) = image.data_file_name()? else { return Ok(()) };
        let path = image.file().path().to_owned();
        let mut file = options.backing_policy.open(storage, &path, name, "data file")?;
        let writable = access == Access::Write && reopen_for_writing(storage, &mut file)?;
        if file.id()? == image.file().id()? {
            let text = "the image names itself as its data file";
            return Err(image.file().error(ErrorKind::Corrupt, text));
        }
        let lock = match options.sharing {
            Sharing::Locked if writable => Lock::Write,
            Sharing::Locked => Lock::Backing,
            Sharing::ForceShare => Lock::ForceShare,
        };
        lock_named(storage, &file, lock)?;
        stamps.push((file.clone(), file.stamp()?));
        image.set_data_file(file, writable);
        Ok(())
    }

    /// The same image, which somebody else has written, read anew.
    fn refreshed(&self) -> Result<Layer> {
        let Some(old) = self.qcow2() else {
            return Layer::open(self.file().clone(), Format::Raw, &Budget::new(0));
        };
        let layer = self.reread()?;
        let names = |image: &Qcow2| {
            let Header { backing_name, extensions, .. } = image.header();
            let Extensions { backing_format, data_file, .. } = extensions;
            (backing_name.clone(), backing_format.clone(), data_file.clone(), image.external_data_file_bit())
        };
        if layer.qcow2().map(names) != Some(names(old)) {
            let text = "the image names other files than when it was opened; open it anew";
            return Err(self.file().error(ErrorKind::WrongState, text));
        }
        Ok(layer)
    }

    fn reread(&self) -> Result<Layer> {
        let LayerKind::Qcow2(old) = &self.kind else {
            return Err(self.file().error(ErrorKind::InvalidArgument, "a raw image has nothing to change"));
        };
        let path = old.file().path();
        let budget = Budget::new(old.budget().limit());
        let mut image = Qcow2::open(old.file().clone(), &budget).map_err(|e| e.in_file(path))?;
        if let Some(file) = old.external_data_file() {
            image.set_data_file(file.clone(), old.data_file_is_writable());
        }
        Ok(Layer { size: image.header().size, kind: LayerKind::Qcow2(Box::new(image)) })
    }

    /// The image below, as this one names it.
    fn named_below(&self) -> Result<Option<Named>> {
        let named = self.backing()?.map(|(name, format)| Named {
            above: self.file().path().to_owned(),
            name: name.to_vec(),
            format,
        });
        Ok(named)
    }

    fn backing(&self) -> Result<Option<(&[u8], Format)>> {
        let Some(image) = self.qcow2() else { return Ok(None) };
        let Some(name) = image.header().backing() else { return Ok(None) };
        let shown = printable(name);
        match image.header().backing_format() {
            Some(b"qcow2") => Ok(Some((name, Format::Qcow2))),
            Some(b"raw") => Ok(Some((name, Format::Raw))),
            Some(other) => {
                let text =
                    format!("its backing file '{shown}' has the unsupported format '{}'", printable(other));
                Err(self.file().error(ErrorKind::Unsupported, text))
            }
            None => {
                let text = format!(
                    "the format of its backing file '{shown}' is not recorded and is never guessed; record it \
                     with qemu-img rebase -u, -b and -F"
                );
                Err(self.file().error(ErrorKind::Corrupt, text))
            }
        }
    }
}
