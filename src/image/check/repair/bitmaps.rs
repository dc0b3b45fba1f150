//! Which bitmaps can be kept. A bitmap that says "clean" wrongly loses data, so one is given up when its table
//! or data is broken, ends too early, or lies on anything else.
//!
//! A wrong refcount alone is no reason: whoever writes the image and knows bitmaps reads them first and stores
//! them anew, and who does not know them clears the bit that says they are current.

use std::ops::Range;

use byteorder::{ByteOrder, LittleEndian};

use super::{
    super::{
        read::{read_words, span},
        structure::Structure,
        tally::Tally,
    },
    report::LostBitmap,
};
use crate::{
    error::Result,
    format::{
        bitmap::{self, Entry, TableEntry, decode_table_entry},
        corrupt,
    },
    image::budget::{Budget, Grant},
    memory,
};

/// The bitmaps of an image, judged.
#[derive(Debug, Default)]
pub(super) struct Bitmaps {
    /// The directory as it is; empty if there is none, or none that makes sense.
    pub(super) directory: Range<u64>,
    pub(super) kept: Vec<Entry>,
    pub(super) lost: Vec<LostBitmap>,
    /// Entries of lost bitmaps that seem to be in order: where they are, and what they are.
    pub(super) to_mark: Vec<(u64, Entry)>,
    _grants: Vec<Grant>,
}

impl Bitmaps {
    /// Looks at all bitmaps, after all references were counted.
    pub(super) fn judge(tally: &Tally<'_>, budget: &Budget) -> Result<Bitmaps> {
        let structure = tally.structure;
        let header = structure.header;
        let Some(extension) = header.extensions.bitmaps.as_ref().filter(|_| header.bitmaps_are_current())
        else {
            return Ok(Bitmaps::default());
        };
        if let Err(error) = bitmap::check_extension(extension, structure.geometry()) {
            return Ok(all_lost(error.to_string()));
        }
        let judge = Judge { tally, structure, length: structure.file.len()? };
        let size = extension.directory_size.get();
        let directory = span(extension.directory_offset.get(), size);
        if let Some(reason) = judge.doubt_place(&directory) {
            return Ok(all_lost(format!("the bitmap directory {reason}")));
        }
        let count = extension.nb_bitmaps.get() as usize;
        let most = count as u64 * (size_of::<Found>() as u64 + TEXT);
        let grant = budget.grant(size * 2 + most, "bitmap directory")?;
        let mut bytes = memory::zeroed(size as usize)?;
        structure.file.read_exact(&mut bytes, directory.start, "bitmap directory")?;

        let mut found: Vec<Found> = Vec::new();
        memory::ensure(most as usize)?;
        memory::reserve(&mut found, count)?;
        let mut at = directory.start;
        let walked = bitmap::for_each_entry(&bytes, structure.geometry(), |entry, verdict| {
            if found.len() == count {
                return Err(corrupt(format!("there are more than {count} entries")));
            }
            let mut stored = Vec::new();
            entry.append(&mut stored);
            found.push(Found { at, entry, doubt: verdict.err().map(|error| error.to_string()) });
            at += stored.len() as u64;
            Ok(())
        });
        if let Err(error) = walked.and_then(|()| match found.len() {
            fewer if fewer < count => Err(corrupt(format!("there are {fewer} entries instead of {count}"))),
            _ => Ok(()),
        }) {
            return Ok(all_lost(format!("the bitmap directory makes no sense: {error}")));
        }

        let mut bitmaps = Bitmaps { directory, _grants: vec![grant], ..Bitmaps::default() };
        let twice = named_twice(&found)?;
        for (Found { at, entry, doubt }, twice) in found.into_iter().zip(twice) {
            let orderly = doubt.is_none();
            let doubt = match doubt {
                None if twice => Some("there are several of its name".to_owned()),
                None => judge.doubt(&entry)?,
                doubt => doubt,
            };
            match doubt {
                None => memory::push(&mut bitmaps.kept, entry)?,
                Some(reason) => {
                    bitmaps.lost.push(LostBitmap { name: Some(entry.name.clone()), reason });
                    if orderly && !entry.in_use {
                        bitmaps.to_mark.push((at, entry));
                    }
                }
            }
        }
        Ok(bitmaps)
    }

    /// The directory with those that are kept.
    pub(super) fn new_directory(&self) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        memory::reserve(&mut bytes, (self.directory.end - self.directory.start) as usize)?;
        self.kept.iter().for_each(|entry| entry.append(&mut bytes));
        Ok(bytes)
    }

    /// Those that are kept.
    pub(super) fn copy_of_kept(&self) -> Result<Vec<Entry>> {
        memory::ensure(self.kept.iter().map(|entry| size_of::<Entry>() + entry.name.len()).sum())?;
        Ok(self.kept.clone())
    }
}

/// An entry of the directory, where it is, and what is wrong with it.
#[derive(Debug)]
struct Found {
    at: u64,
    entry: Entry,
    doubt: Option<String>,
}

/// What the reason for giving a bitmap up takes.
const TEXT: u64 = 160;

fn named_twice(found: &[Found]) -> Result<Vec<bool>> {
    let name = |index: usize| &found[index].entry.name;
    let mut order = memory::collected(0..found.len())?;
    order.sort_unstable_by_key(|index| name(*index));
    let mut twice = memory::zeroed(found.len())?;
    for pair in order.windows(2) {
        if name(pair[0]) == name(pair[1]) {
            pair.iter().for_each(|index| twice[*index] = true);
        }
    }
    Ok(twice)
}

fn all_lost(reason: String) -> Bitmaps {
    Bitmaps { lost: vec![LostBitmap { name: None, reason }], ..Bitmaps::default() }
}

struct Judge<'a> {
    tally: &'a Tally<'a>,
    structure: &'a Structure<'a>,
    /// Exact length of the file.
    length: u64,
}

impl Judge<'_> {
    /// What speaks against a part of the file: it must be there, and have one owner.
    fn doubt_place(&self, host: &Range<u64>) -> Option<String> {
        if host.end > self.length {
            return Some(format!("(at {:#x}) does not lie in the file as a whole", host.start));
        }
        let bits = self.structure.geometry().cluster_bits;
        let mut clusters = host.start >> bits..((host.end - 1) >> bits) + 1;
        let shared = clusters.find(|cluster| self.tally.counts.get(*cluster) != 1)?;
        Some(format!("(at {:#x}) lies on something else, at {:#x}", host.start, shared << bits))
    }

    /// What speaks against a bitmap whose entry is in order.
    fn doubt(&self, entry: &Entry) -> Result<Option<String>> {
        let geometry = self.structure.geometry();
        let count = u64::from(entry.table_entries);
        let size = self.structure.header.size;
        if let Some(reason) = self.doubt_place(&span(entry.table_offset, count * 8)) {
            return Ok(Some(format!("its table {reason}")));
        }
        // While it is in use the disk may be on the way to another size.
        let expected = entry.expected_table_entries(size, geometry);
        if !entry.in_use && count != expected {
            return Ok(Some(format!("its table has {count} entries, but the disk's size needs {expected}")));
        }
        let per_cluster = geometry.cluster_size() * 8;
        let mut reason = None;
        read_words(self.structure.file, entry.table_offset, count, |index, word| {
            if reason.is_some() {
                return Ok(());
            }
            match decode_table_entry(word, geometry) {
                Ok(TableEntry::Data { host }) => {
                    let bits = entry.bits(size).saturating_sub(index * per_cluster).min(per_cluster);
                    reason = self.doubt_data(host, bits, entry)?;
                }
                Ok(_) => {}
                Err(error) => reason = Some(error.to_string()),
            }
            Ok(())
        })?;
        Ok(reason)
    }

    /// The same for a cluster that holds its next `bits` bits.
    fn doubt_data(&self, host: u64, bits: u64, entry: &Entry) -> Result<Option<String>> {
        let bytes = (bits.div_ceil(64) * 8).max(8);
        if let Some(reason) = self.doubt_place(&span(host, bytes)) {
            return Ok(Some(format!("its data {reason}")));
        }
        if entry.in_use || bits.is_multiple_of(64) {
            return Ok(None);
        }
        let mut last = [0; 8];
        self.structure.file.read_exact(&mut last, host + bytes - 8, "bitmap data")?;
        let behind = LittleEndian::read_u64(&last) >> (bits % 64) != 0;
        Ok(behind.then(|| "bits are set behind the end of the disk".to_owned()))
    }
}
