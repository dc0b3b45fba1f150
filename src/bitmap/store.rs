//! Storing bitmaps: new data, tables and directory in new clusters, then the switch, then the old ones go.
//!
//! The order of writes is that of [`crate::image::edit`]. A crash leaves the old bitmaps or the new ones, all
//! of them, and at worst leaked clusters.

use byteorder::{BigEndian, ByteOrder, LittleEndian};

use super::{
    DirtyBitmap,
    change::{BitmapChange, Draft, Slot},
    persistent::{ensure_recorded, load, read_bitmap_table, recording, tables},
};
use crate::{
    error::{Error, ErrorKind, Result},
    format::{
        bitmap::{Entry, MAX_DIRECTORY_BYTES, TableEntry, check_directory},
        lineage::{self, Base, Lineage},
        text::printable,
    },
    image::{
        Qcow2,
        edit::{BitmapsField, Edit, HeaderChange, check_room_for_bitmaps},
    },
    memory,
    storage::File,
};

/// The bitmaps as a list of changes makes them, to be written.
pub(crate) fn changed(image: &Qcow2, changes: &[BitmapChange]) -> Result<NewBitmaps> {
    let slots = draft(image, changes)?;
    Ok(NewBitmaps((!changes.is_empty()).then_some(slots)))
}

/// Finds out whether a list of changes makes sense, by the bitmaps alone.
pub(crate) fn validate(image: &Qcow2, changes: &[BitmapChange]) -> Result<()> {
    draft(image, changes).map(drop)
}

/// Loads a bitmap as a list of changes would make it. As the basis of a backup it must have been enabled.
pub(crate) fn load_after(
    image: &Qcow2,
    changes: &[BitmapChange],
    name: &[u8],
    purpose: Purpose,
) -> Result<DirtyBitmap> {
    if changes.is_empty() {
        let bitmap = load(image, name)?;
        if purpose == Purpose::Backup {
            ensure_recorded(image, name)?;
        }
        return Ok(bitmap);
    }
    let mut draft = Draft::after(image, changes)?;
    if purpose == Purpose::Backup {
        draft.ensure_recorded(name)?;
    }
    draft.contents(name)
}

/// What a bitmap is loaded for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// To know what changed since the last backup: writes must not be missing.
    Backup,
    /// To be looked at, or merged.
    Look,
}

/// The bitmaps as a list of changes makes them.
fn draft(image: &Qcow2, changes: &[BitmapChange]) -> Result<Vec<Slot>> {
    let draft = Draft::after(image, changes)?;
    let mut directory = Vec::new();
    draft.slots.iter().for_each(|slot| slot.entry.append(&mut directory));
    check_directory(draft.slots.len(), directory.len())?;
    if !draft.slots.is_empty() && !changes.is_empty() {
        check_room_for_bitmaps(image.file(), image.header())?;
    }
    Ok(draft.slots)
}

/// Carries out a list of changes as one step. On an error nothing has changed, unless the error says that this is
/// unknown.
pub(crate) fn change(image: &Qcow2, changes: &[BitmapChange]) -> Result<()> {
    let slots = draft(image, changes).map_err(|error| match failing(image, changes) {
        Some(number) if changes.len() > 1 => error.within(format!("change {number} of {}", changes.len())),
        _ => error,
    })?;
    if changes.is_empty() { Ok(()) } else { store(image, &slots) }
}

/// Which of several changes cannot be made, from 1.
fn failing(image: &Qcow2, changes: &[BitmapChange]) -> Option<usize> {
    let mut draft = Draft::new(image);
    changes.iter().position(|change| draft.apply(change).is_err()).map(|index| index + 1)
}

/// Where the directory of an image's bitmaps lies; 0 if there is none.
pub(crate) fn directory_offset(image: &Qcow2) -> u64 {
    image.header().extensions.bitmaps.as_ref().map_or(0, |bitmaps| bitmaps.directory_offset.get())
}

/// A directory of bitmaps as it lies in the file: a program that knows bitmaps changes it, durably, before it writes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct DirectoryPlace {
    /// 0 if there is none.
    pub(crate) offset: u64,
    /// Bytes.
    pub(crate) length: u64,
    /// BLAKE3 of them: their flags, and where the tables of the bitmaps are.
    pub(crate) digest: [u8; 32],
}

/// The directory of an image's bitmaps.
pub(crate) fn directory_place(image: &Qcow2) -> Result<DirectoryPlace> {
    let Some(extension) = &image.header().extensions.bitmaps else { return Ok(DirectoryPlace::default()) };
    let (offset, length) = (extension.directory_offset.get(), extension.directory_size.get());
    Ok(DirectoryPlace { offset, length, digest: directory_digest(image.file(), offset, length)? })
}

impl DirectoryPlace {
    /// Whether a file has the same directory there. One that is shorter has not.
    pub(crate) fn holds(&self, file: &File) -> Result<bool> {
        if self.length == 0 {
            return Ok(true);
        }
        let end = self.offset.checked_add(self.length).filter(|_| self.length <= MAX_DIRECTORY_BYTES);
        let there = match end {
            Some(end) => end <= file.len()?,
            None => false,
        };
        Ok(there && directory_digest(file, self.offset, self.length)? == self.digest)
    }
}

fn directory_digest(file: &File, offset: u64, length: u64) -> Result<[u8; 32]> {
    const PIECE: u64 = 64 << 10;
    let mut hasher = blake3::Hasher::new();
    let mut bytes = [0; PIECE as usize];
    for at in (0..length).step_by(PIECE as usize) {
        let piece = &mut bytes[..PIECE.min(length - at) as usize];
        file.read_exact(piece, offset + at, "bitmap directory")?;
        hasher.update(piece);
    }
    Ok(*hasher.finalize().as_bytes())
}

/// Marks the bitmaps that record as inconsistent, unless their directory lies elsewhere than at `before`: then whoever
/// wrote has stored them. False if there are none.
pub(crate) fn give_up_unless_moved(image: &Qcow2, before: u64) -> Result<bool> {
    let mut slots = Draft::new(image).slots;
    let recording: Vec<_> = slots.iter_mut().filter(|slot| recording(image, &slot.entry)).collect();
    if recording.is_empty() || directory_offset(image) != before {
        return Ok(false);
    }
    recording.into_iter().for_each(|slot| slot.entry.in_use = true);
    store(image, &slots).map(|()| true)
}

/// Marks bitmaps as inconsistent that should record what is written from now on but cannot be trusted; false if
/// there are none.
pub(crate) fn give_up_untrusted(image: &Qcow2) -> Result<bool> {
    let mut slots = Draft::new(image).slots;
    let mut found = false;
    for (slot, table) in slots.iter_mut().zip(tables(image)?) {
        let trusted = table.and_then(|table| table.load(image, &slot.entry));
        if recording(image, &slot.entry) && !is_trusted(trusted)? {
            slot.entry.in_use = true;
            found = true;
        }
    }
    if found {
        store(image, &slots)?;
    }
    Ok(found)
}

/// The bitmaps of an image as a change makes them; `None` while they stay.
#[derive(Debug, Default)]
pub(crate) struct NewBitmaps(Option<Vec<Slot>>);

/// All bitmaps as they are for a disk of `size` bytes; refuses a size that one of them cannot have. Those that cannot
/// be trusted are marked as inconsistent, since their length may be another than the disk's.
pub(crate) fn resized(image: &Qcow2, size: u64) -> Result<NewBitmaps> {
    let mut slots = Draft::new(image).slots;
    slots.iter_mut().for_each(|slot| slot.base = slot.base.map(|base| base.resized(size)));
    for (slot, table) in slots.iter_mut().zip(tables(image)?).filter(|(slot, _)| !slot.entry.in_use) {
        match table.and_then(|table| table.load(image, &slot.entry)) {
            Ok(bitmap) => {
                let name = printable(&slot.entry.name);
                let about = |e: Error| image.file().error(e.kind(), format!("bitmap '{name}': {e}"));
                slot.entry.check_new(size, image.geometry()).map_err(about)?;
                slot.contents = Some(bitmap.resized(size)?);
            }
            Err(error) => {
                is_trusted(Err(error))?;
                slot.entry.in_use = true;
            }
        }
    }
    if !slots.is_empty() {
        check_room_for_bitmaps(image.file(), image.header())?;
    }
    Ok(NewBitmaps((!slots.is_empty()).then_some(slots)))
}

impl NewBitmaps {
    /// What they count from, if they change.
    pub(crate) fn lineage(&self, image: &Qcow2) -> Option<Lineage> {
        self.0.as_ref().map(|slots| lineage_of(image, slots))
    }

    /// Writes them, as a part of a change; `None` if they stay.
    pub(crate) fn write(&self, image: &Qcow2, edit: &mut Edit<'_>) -> Result<Option<BitmapsField>> {
        self.0.as_ref().map(|slots| write_all(image, edit, slots)).transpose()
    }
}

/// Whether a bitmap could be loaded; a failing disk says nothing about it.
fn is_trusted(loaded: Result<DirtyBitmap>) -> Result<bool> {
    match loaded {
        Ok(_) => Ok(true),
        Err(e) if e.is_io() || e.kind() == ErrorKind::Limit => Err(e),
        Err(_) => Ok(false),
    }
}

fn store(image: &Qcow2, slots: &[Slot]) -> Result<()> {
    let mut edit = Edit::begin(image)?;
    let bitmaps = Some(write_all(image, &mut edit, slots)?);
    let lineage = Some(lineage_of(image, slots));
    edit.commit(HeaderChange { bitmaps, lineage, ..HeaderChange::default() })
}

/// The lineage of an image with these bitmaps; what is new in it comes first.
fn lineage_of(image: &Qcow2, slots: &[Slot]) -> Lineage {
    let old = image.header().extensions.lineage.clone().unwrap_or_default();
    // A bitmap that does not record has none, also where QEMU disabled it: enabled again, it lacks writes.
    let recorded = |slot: &Slot| slot.base.filter(|_| slot.entry.auto);
    let base = |slot: &Slot| Some((lineage::key(&slot.entry.name), recorded(slot)?));
    let same = |a: &([u8; 8], Base), b: &([u8; 8], Base)| a.0 == b.0 && a.1.backup == b.1.backup;
    let bases: Vec<_> = slots.iter().filter_map(base).collect();
    let is_old = |base: &&([u8; 8], Base)| old.bases.iter().any(|old| same(old, base));
    let (known, new): (Vec<_>, Vec<_>) = bases.iter().partition(is_old);
    let in_order = old.bases.iter().filter_map(|old| known.iter().find(|base| same(old, base)).copied());
    let bases = new.into_iter().chain(in_order).collect();
    Lineage { bases, ..old }
}

/// From which backup on a bitmap counts after a list of changes, if that is known.
pub(crate) fn base_after(image: &Qcow2, changes: &[BitmapChange], name: &[u8]) -> Result<Option<Base>> {
    Draft::after(image, changes)?.base(name)
}

/// Writes new contents and a new directory, and releases what they replace.
fn write_all(image: &Qcow2, edit: &mut Edit<'_>, slots: &[Slot]) -> Result<BitmapsField> {
    let mut directory = Vec::new();
    for slot in slots {
        let entry = match &slot.contents {
            None => slot.entry.clone(),
            Some(_) => write_contents(image, edit, slot)?,
        };
        entry.append(&mut directory);
    }
    release_replaced(image, edit, slots);
    if slots.is_empty() {
        return Ok(BitmapsField::None);
    }
    let clusters = image.geometry().clusters_for(directory.len() as u64);
    let (count, size) = (slots.len() as u32, directory.len() as u64);
    memory::grow(&mut directory, (clusters << image.geometry().cluster_bits) as usize)?;
    let offset = edit.allocate(clusters)?;
    edit.write(offset, &directory)?;
    Ok(BitmapsField::Directory { count, offset, size })
}

/// Writes data and table of a bitmap; returns the entry that refers to them.
fn write_contents(image: &Qcow2, edit: &mut Edit<'_>, slot: &Slot) -> Result<Entry> {
    let geometry = image.geometry();
    let Some(bitmap) = &slot.contents else { return Ok(slot.entry.clone()) };
    let entries = slot.entry.expected_table_entries(bitmap.disk_size(), geometry).max(1);
    let bits_per_cluster = geometry.cluster_size() * 8;
    let mut data = memory::zeroed(geometry.cluster_size() as usize)?;
    let mut table = memory::zeroed::<u64>(entries as usize)?;
    for (index, place) in table.iter_mut().enumerate() {
        let first = index as u64 * bits_per_cluster;
        for (at, bytes) in data.chunks_exact_mut(8).enumerate() {
            LittleEndian::write_u64(bytes, bitmap.bits().word(first + at as u64 * 64));
        }
        if data.iter().any(|byte| *byte != 0) {
            *place = edit.allocate(1)?;
            edit.write(*place, &data)?;
        }
    }
    let clusters = geometry.clusters_for(entries * 8);
    let mut bytes = memory::zeroed((clusters << geometry.cluster_bits) as usize)?;
    BigEndian::write_u64_into(&table, &mut bytes[..table.len() * 8]);
    let table_offset = edit.allocate(clusters)?;
    edit.write(table_offset, &bytes)?;
    Ok(Entry { table_offset, table_entries: entries as u32, in_use: false, ..slot.entry.clone() })
}

/// The old directory, and the tables and data of all bitmaps that are gone or were written anew.
fn release_replaced(image: &Qcow2, edit: &mut Edit<'_>, slots: &[Slot]) {
    let header = image.header();
    let Some(extension) = header.extensions.bitmaps.as_ref().filter(|_| header.bitmaps_are_current()) else {
        return;
    };
    let directory = extension.directory_offset.get();
    edit.release(directory..directory + extension.directory_size.get());
    let kept = |old: &Entry| {
        let same = |slot: &Slot| slot.contents.is_none() && slot.entry.table_offset == old.table_offset;
        slots.iter().any(same)
    };
    for old in image.bitmaps().iter().filter(|old| !kept(old)) {
        // What cannot be read cannot be given back: it leaks.
        let Ok(table) = read_bitmap_table(image, old) else { continue };
        edit.release(old.table_offset..old.table_offset + u64::from(old.table_entries) * 8);
        for entry in table.entries {
            if let TableEntry::Data { host } = entry {
                edit.release(host..host + image.geometry().cluster_size());
            }
        }
    }
}
