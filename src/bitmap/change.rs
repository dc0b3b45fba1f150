//! Changing the bitmaps of an image: a list of changes is one step, done whole or not at all.
//!
//! The list is carried out on a copy of the directory in memory, where every change sees those before it.
//! Then whatever differs is written by [`super::store`], and one sector decides.

use super::{
    DirtyBitmap,
    persistent::{Table, ensure_recorded, load_with},
};
use crate::{
    error::{Error, ErrorKind, Result},
    format::{
        bitmap::Entry,
        lineage::{Base, Identity},
        text::printable,
    },
    image::Qcow2,
};

/// One change of an image's bitmaps.
#[derive(Clone, Debug)]
pub enum BitmapChange {
    /// A new, clean bitmap.
    Add {
        /// 1 to 1023 bytes, no zero byte, not in use yet.
        name: Vec<u8>,
        /// Bytes of disk for one bit: a power of two from 512 to 2 GiB. When not given: the image's cluster
        /// size, within 4 KiB and 64 KiB.
        granularity: Option<u64>,
        /// Whether it records.
        recording: Recording,
    },
    /// The bitmap goes; also one that cannot be used.
    Remove {
        /// Its name.
        name: Vec<u8>,
    },
    /// All of it becomes clean.
    Clear {
        /// Its name.
        name: Vec<u8>,
    },
    /// It counts from a backup: that has the disk as it is at this point, or as it was when the bitmap began to count.
    /// Backups do so by themselves; this is for one that another program made.
    CountFrom {
        /// Its name.
        name: Vec<u8>,
        /// The backup; `None` forgets what is known.
        backup: Option<Identity>,
    },
    /// Writes are, or are not, recorded from now on.
    Record {
        /// Its name.
        name: Vec<u8>,
        /// Whether it records.
        recording: Recording,
    },
    /// It gets another name.
    Rename {
        /// Its name.
        name: Vec<u8>,
        /// A name that is not in use.
        to: Vec<u8>,
    },
    /// What is dirty in any of the sources becomes dirty in it too.
    Merge {
        /// The name of the bitmap that changes.
        name: Vec<u8>,
        /// Bitmaps of this image, or of others of the same size; of any granularity.
        sources: Vec<MergeSource>,
    },
}

impl BitmapChange {
    /// The names of the image's bitmaps that it is about.
    pub(crate) fn names(&self) -> Vec<&Vec<u8>> {
        match self {
            BitmapChange::Add { name, .. }
            | BitmapChange::Remove { name }
            | BitmapChange::Clear { name }
            | BitmapChange::CountFrom { name, .. }
            | BitmapChange::Record { name, .. } => vec![name],
            BitmapChange::Rename { name, to } => vec![name, to],
            BitmapChange::Merge { name, sources } => {
                let named = sources.iter().filter_map(|source| match source {
                    MergeSource::Name(name) => Some(name),
                    MergeSource::Loaded(_) => None,
                });
                named.chain([name]).collect()
            }
        }
    }
}

/// Whether a bitmap records writes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Recording {
    /// It does.
    #[default]
    Enabled,
    /// It does not; writes are missing in it then.
    Disabled,
}

/// Where to merge from.
#[derive(Clone, Debug)]
pub enum MergeSource {
    /// A bitmap of the same image, as it is at that point of the list.
    Name(Vec<u8>),
    /// A bitmap that was loaded, be it of another image.
    Loaded(DirtyBitmap),
}

/// A bitmap while a list of changes is carried out.
#[derive(Debug)]
pub(super) struct Slot {
    /// What the directory will say; table and length are known when it is stored.
    pub(super) entry: Entry,
    /// New contents; `None` while those on disk stay.
    pub(super) contents: Option<DirtyBitmap>,
    /// From which backup on it counts, if that is known.
    pub(super) base: Option<Base>,
    /// The name that the contents on disk have.
    stored_as: Option<Vec<u8>>,
}

/// The bitmaps of an image, with changes that are not stored yet.
#[derive(Debug)]
pub(super) struct Draft<'a> {
    image: &'a Qcow2,
    pub(super) slots: Vec<Slot>,
    /// The tables on disk, once one was needed.
    tables: Option<Vec<Result<Table>>>,
}

impl<'a> Draft<'a> {
    pub(super) fn new(image: &'a Qcow2) -> Self {
        // Bitmaps that nobody kept up to date do not exist any more.
        let current = image.bitmaps().iter().filter(|_| image.header().bitmaps_are_current());
        let (lineage, size) = (image.header().extensions.lineage.as_ref(), image.header().size);
        let slot = |entry: &Entry| Slot {
            entry: entry.clone(),
            contents: None,
            base: lineage.and_then(|lineage| lineage.base(&entry.name)).map(|base| base.resized(size)),
            stored_as: Some(entry.name.clone()),
        };
        Draft { image, slots: current.map(slot).collect(), tables: None }
    }

    /// The same after a list of changes.
    pub(super) fn after(image: &'a Qcow2, changes: &[BitmapChange]) -> Result<Self> {
        let mut draft = Draft::new(image);
        changes.iter().try_for_each(|change| draft.apply(change))?;
        Ok(draft)
    }

    /// Carries out one change.
    pub(super) fn apply(&mut self, change: &BitmapChange) -> Result<()> {
        match change {
            BitmapChange::Add { name, granularity, recording } => self.add(name, *granularity, *recording),
            BitmapChange::Remove { name } if self.is_gone(name) => Ok(()),
            BitmapChange::Remove { name } => {
                let index = self.find(name)?;
                self.slots.remove(index);
                Ok(())
            }
            BitmapChange::Clear { name } => {
                let size = self.image.header().size;
                let slot = self.sound(name)?;
                let bits = slot.entry.granularity_bits;
                slot.base = None;
                slot.contents = Some(DirtyBitmap::clean(name.clone(), bits, size)?);
                Ok(())
            }
            BitmapChange::CountFrom { name, backup } => {
                let disk_size = self.image.header().size;
                let slot = self.sound(name)?;
                let recording = slot.entry.auto;
                slot.base = backup.filter(|_| recording).map(|backup| Base::new(backup, disk_size));
                Ok(())
            }
            BitmapChange::Record { name, recording } => {
                let slot = self.sound(name)?;
                let enabled = *recording == Recording::Enabled;
                // What was written while it did not record is missing in it. QEMU, which may enable it, knows no bases.
                if !enabled || !slot.entry.auto {
                    slot.base = None;
                }
                slot.entry.auto = enabled;
                Ok(())
            }
            BitmapChange::Rename { name, to } => {
                self.ensure_free(to)?;
                self.sound(name)?;
                let index = self.find(name)?;
                self.slots[index].entry.name = to.clone();
                self.check_new(&self.slots[index].entry)
            }
            BitmapChange::Merge { name, sources } => self.merge(name, sources),
        }
    }

    /// Whether a bitmap is one of those that nobody kept up to date. The first change of any bitmap leaves them all behind.
    fn is_gone(&self, name: &[u8]) -> bool {
        let named = || self.image.bitmaps().iter().any(|entry| entry.name == name);
        !self.image.header().bitmaps_are_current() && self.find(name).is_err() && named()
    }

    fn error(&self, kind: ErrorKind, text: String) -> Error {
        self.image.file().error(kind, text)
    }

    fn find(&self, name: &[u8]) -> Result<usize> {
        self.slots.iter().position(|slot| slot.entry.name == name).ok_or_else(|| {
            self.error(ErrorKind::BitmapNotFound, format!("the image has no bitmap '{}'", printable(name)))
        })
    }

    fn ensure_free(&self, name: &[u8]) -> Result<()> {
        match self.find(name) {
            Ok(_) => {
                let text = format!("the image has a bitmap '{}' already", printable(name));
                Err(self.error(ErrorKind::Exists, text))
            }
            Err(_) => Ok(()),
        }
    }

    /// A bitmap that may be changed: not one that a writer left behind.
    fn sound(&mut self, name: &[u8]) -> Result<&mut Slot> {
        let index = self.find(name)?;
        if self.slots[index].entry.in_use {
            let text = format!(
                "bitmap '{}' is inconsistent: a program did not close the image cleanly; it can only be removed",
                printable(name)
            );
            return Err(self.error(ErrorKind::BitmapUnusable, text));
        }
        Ok(&mut self.slots[index])
    }

    fn check_new(&self, entry: &Entry) -> Result<()> {
        let about = |e: Error| self.error(e.kind(), format!("bitmap '{}': {e}", printable(&entry.name)));
        entry.check_new(self.image.header().size, self.image.geometry()).map_err(about)
    }

    fn add(&mut self, name: &[u8], granularity: Option<u64>, recording: Recording) -> Result<()> {
        if self.image.header().version < 3 {
            let text =
                "a version 2 image cannot have bitmaps; upgrade it first (qemu-img amend -o compat=1.1)";
            return Err(self.error(ErrorKind::Unsupported, text.to_owned()));
        }
        self.ensure_free(name)?;
        let default = self.image.geometry().cluster_size().clamp(4 << 10, 64 << 10);
        let granularity = granularity.unwrap_or(default);
        let bits = if granularity.is_power_of_two() { granularity.ilog2() as u8 } else { 0 };
        let entry = Entry {
            name: name.to_vec(),
            table_offset: 0,
            table_entries: 0,
            in_use: false,
            auto: recording == Recording::Enabled,
            granularity_bits: bits,
        };
        self.check_new(&entry)?;
        let contents = Some(DirtyBitmap::clean(name.to_vec(), bits, self.image.header().size)?);
        self.slots.push(Slot { entry, contents, base: None, stored_as: None });
        Ok(())
    }

    fn merge(&mut self, name: &[u8], sources: &[MergeSource]) -> Result<()> {
        self.sound(name)?;
        let mut merged = self.contents(name)?;
        for source in sources {
            let from = match source {
                MergeSource::Loaded(bitmap) => bitmap.copied()?,
                MergeSource::Name(source) => {
                    self.sound(source)?;
                    self.contents(source)?
                }
            };
            if from.disk_size() != merged.disk_size() {
                let text = format!(
                    "bitmap '{}' belongs to a disk of {} bytes and '{}' to one of {}; they cannot be merged",
                    printable(name),
                    merged.disk_size(),
                    printable(from.name()),
                    from.disk_size()
                );
                return Err(self.error(ErrorKind::InvalidArgument, text));
            }
            merged.merge(&from)?;
        }
        self.sound(name)?.contents = Some(merged);
        Ok(())
    }

    /// Refuses a bitmap that missed writes because it was disabled when the image was opened. What the list itself made or
    /// disables has missed nothing yet.
    pub(super) fn ensure_recorded(&self, name: &[u8]) -> Result<()> {
        match &self.slots[self.find(name)?].stored_as {
            Some(stored) => ensure_recorded(self.image, stored),
            None => Ok(()),
        }
    }

    /// From which backup on a bitmap counts by now, if that is known.
    pub(super) fn base(&self, name: &[u8]) -> Result<Option<Base>> {
        Ok(self.slots[self.find(name)?].base)
    }

    /// The contents of a bitmap as they are by now.
    pub(super) fn contents(&mut self, name: &[u8]) -> Result<DirtyBitmap> {
        let index = self.find(name)?;
        let slot = &self.slots[index];
        match (&slot.contents, &slot.stored_as) {
            (Some(contents), _) => contents.copied(),
            (None, Some(stored)) => load_with(self.image, stored, &mut self.tables),
            (None, None) => {
                Err(self.error(ErrorKind::BitmapNotFound, "the bitmap has no contents".to_owned()))
            }
        }
    }
}
