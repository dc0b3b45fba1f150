//! Bitmaps as they are stored in qcow2: which there are, which can be trusted, and their bits.
//!
//! A bitmap that says "clean" wrongly loses data, so everything that casts doubt on one makes it unusable,
//! with the reason: flags, its length, every cluster it lies on, and every bit behind the disk's end.

use std::{fmt::Display, ops::Range};

use byteorder::{ByteOrder, LittleEndian};

use super::{BitSet, DirtyBitmap};
use crate::{
    error::{Error, ErrorKind, Result},
    format::{
        bitmap::{Entry, TableEntry, decode_table_entry},
        corrupt,
        header::incompatible,
        lineage::Base,
        text::printable,
    },
    image::{CheckProblemKind, CheckReport, Grant, Qcow2, for_each_metadata_range, read_table},
    memory,
};

/// One bitmap of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BitmapInfo {
    /// Bytes, 1 to 1023, usually UTF-8.
    pub name: Vec<u8>,
    /// Bytes of disk that one bit stands for.
    pub granularity: u64,
    /// A writer has not stored the bitmap yet, or never will.
    pub in_use: bool,
    /// Writes to the disk are recorded.
    pub auto: bool,
    /// Dirty bytes in whole granules; `None` when the contents cannot be trusted to mean anything.
    pub count: Option<u64>,
    /// Why the bitmap cannot be the basis of a backup; `None` when it can.
    pub unusable: Option<String>,
    /// From which backup on it counts, if that is known.
    pub base: Option<Base>,
}

/// All bitmaps of an image. Their data is read for the count, one cluster at a time, and not kept.
pub(crate) fn list(image: &Qcow2) -> Result<Vec<BitmapInfo>> {
    let lineage = image.header().extensions.lineage.as_ref();
    let mut infos = Vec::new();
    for (entry, table) in image.bitmaps().iter().zip(tables(image)?) {
        let mut count = 0;
        let read = table.and_then(|table| {
            for_each_set(image, entry, &table.entries, |_, set| {
                count += set.count();
            })
        });
        // A failing disk is not a property of the bitmap.
        let doubt = match read {
            Ok(()) => None,
            Err(e) if e.is_io() => return Err(e),
            Err(e) => Some(e.to_string()),
        };
        infos.push(BitmapInfo {
            name: entry.name.clone(),
            granularity: entry.granularity(),
            in_use: entry.in_use,
            auto: entry.auto,
            count: doubt.is_none().then_some(count << entry.granularity_bits),
            unusable: doubt.or_else(|| doubt_recording(entry)),
            base: lineage.and_then(|lineage| lineage.base(&entry.name)),
        });
    }
    Ok(infos)
}

/// Adds what is wrong with the bitmaps to a check's report. That one is in use, or that the whole image is in
/// doubt, is no damage of the bitmap.
pub(crate) fn check(image: &Qcow2, report: &mut CheckReport) -> Result<()> {
    let marked = image.header().has(incompatible::CORRUPT) || image.header().has(incompatible::DIRTY);
    let in_doubt = marked || image.snapshot_damage().is_some();
    for info in list(image)? {
        let Some(reason) = info.unusable.filter(|_| info.count.is_none()) else { continue };
        let kind = match info.in_use || in_doubt {
            true => CheckProblemKind::UnusableBitmap,
            false => CheckProblemKind::Bitmap,
        };
        let text = || format!("bitmap '{}' cannot be used: {reason}", printable(&info.name));
        report.add(kind, 1, None, 0, text);
    }
    Ok(())
}

/// Loads one bitmap, whose contents must be sound. A disabled bitmap can be loaded, to be looked at; as the
/// basis of a backup ask [`ensure_recorded`] too.
pub(crate) fn load(image: &Qcow2, name: &[u8]) -> Result<DirtyBitmap> {
    load_with(image, name, &mut None)
}

/// The same; the tables of all bitmaps, which the first call finds, serve the next ones on the unchanged image too.
pub(super) fn load_with(
    image: &Qcow2,
    name: &[u8],
    known: &mut Option<Vec<Result<Table>>>,
) -> Result<DirtyBitmap> {
    let about =
        |e: Error| e.within(format!("'{}': bitmap '{}'", image.file().path().display(), printable(name)));
    let Some(index) = image.bitmaps().iter().position(|entry| entry.name == name) else {
        let known: Vec<_> = image.bitmaps().iter().map(|entry| printable(&entry.name)).collect();
        let have =
            if known.is_empty() { "it has none".to_owned() } else { format!("it has: {}", known.join(", ")) };
        let text = format!("the image has no bitmap '{}' ({have})", printable(name));
        return Err(image.file().error(ErrorKind::BitmapNotFound, text));
    };
    let entry = &image.bitmaps()[index];
    let unusable = |e: Error| match e.kind() {
        _ if e.is_io() => about(e),
        ErrorKind::Limit => about(e),
        _ => about(Error::new(ErrorKind::BitmapUnusable, format!("cannot be used: {e}"))),
    };
    let tables = match known {
        Some(tables) => tables,
        None => known.insert(tables(image).map_err(about)?),
    };
    let table = tables[index].as_ref().map_err(|e| unusable(e.clone()))?;
    table.load(image, entry).map_err(unusable)
}

/// Whether a bitmap shall record writes, and nothing but its contents could keep it from doing so.
pub(super) fn recording(image: &Qcow2, entry: &Entry) -> bool {
    image.header().bitmaps_are_current() && entry.auto && !entry.in_use
}

/// Refuses a bitmap that missed writes because it was disabled.
pub(crate) fn ensure_recorded(image: &Qcow2, name: &[u8]) -> Result<()> {
    match image.bitmaps().iter().find(|entry| entry.name == name).and_then(doubt_recording) {
        None => Ok(()),
        Some(reason) => {
            let text = format!("bitmap '{}' cannot be used: {reason}", printable(name));
            Err(image.file().error(ErrorKind::BitmapUnusable, text))
        }
    }
}

fn doubt_recording(entry: &Entry) -> Option<String> {
    (!entry.auto).then(|| "it is disabled: writes to the disk were not recorded".to_owned())
}

/// What speaks against a bitmap before any of it is read.
fn doubt_contents(image: &Qcow2, entry: &Entry) -> Result<()> {
    let header = image.header();
    if header.version < 3 {
        return Err(corrupt("a version 2 image cannot tell whether its bitmaps were kept up to date"));
    }
    if !header.bitmaps_are_current() {
        return Err(corrupt(
            "the image was written by a program that does not know bitmaps (autoclear bit 0 is off)",
        ));
    }
    if header.has(incompatible::CORRUPT) {
        return Err(corrupt("the image is marked as corrupt"));
    }
    if header.has(incompatible::DIRTY) {
        return Err(corrupt("the image was not closed cleanly (its dirty bit is set)"));
    }
    if let Some(damage) = image.snapshot_damage() {
        return Err(corrupt(format!(
            "the snapshot table is damaged ({damage}), so that a snapshot may lie on the bitmap; repair the image first \
             (holstein check --repair all)"
        )));
    }
    if entry.in_use {
        return Err(corrupt(
            "it is in use: a program is writing the image or did not close it cleanly; if none is, remove the bitmap, \
             add it again and begin with a full copy",
        ));
    }
    let (have, need) =
        (u64::from(entry.table_entries), entry.expected_table_entries(header.size, image.geometry()));
    if have != need {
        return Err(corrupt(format!(
            "its table has the wrong length: {have} entries, but the disk's size needs {need}"
        )));
    }
    Ok(())
}

/// A bitmap's table, as long as its memory is granted.
#[derive(Debug, Default)]
pub(super) struct Table {
    pub(super) entries: Vec<TableEntry>,
    _grants: Vec<Grant>,
}

impl Table {
    /// The bits.
    pub(super) fn load(&self, image: &Qcow2, entry: &Entry) -> Result<DirtyBitmap> {
        let mut bits = BitSet::new(entry.bits(image.header().size))?;
        let mixed = self.entries.iter().filter(|part| matches!(part, TableEntry::Data { .. })).count();
        let data = mixed.saturating_mul(image.geometry().cluster_size() as usize);
        memory::ensure(data.min(bits.most_memory()))?;
        for_each_set(image, entry, &self.entries, |start, set| match set {
            SetBits::Range(length) => bits.set(start..start + length),
            SetBits::Word(word) => bits.set_word(start, word),
        })?;
        Ok(DirtyBitmap::new(entry.name.clone(), entry.granularity_bits, image.header().size, bits))
    }
}

/// The table of each bitmap whose contents can be trusted, and why that of another cannot.
pub(super) fn tables(image: &Qcow2) -> Result<Vec<Result<Table>>> {
    let tables = trusted_tables(image)?;
    // Others' tables too: a cluster that two bitmaps share belongs to neither.
    let foreign = find_foreign_clusters(image, &tables)?;
    let verdict = |((entry, table), foreign): ((&Entry, Result<Table>), Result<()>)| {
        doubt_contents(image, entry).and(foreign).and(table)
    };
    Ok(image.bitmaps().iter().zip(tables).zip(foreign).map(verdict).collect())
}

/// The tables of all bitmaps, or what is wrong with each; empty where the contents are in doubt anyway. Tables
/// that lie on each other are not read at all: many entries for one large table are a trap.
fn trusted_tables(image: &Qcow2) -> Result<Vec<Result<Table>>> {
    let range = |entry: &Entry| {
        let end = entry.table_offset.saturating_add(u64::from(entry.table_entries) * 8);
        entry.table_offset..end
    };
    let mut order: Vec<usize> = (0..image.bitmaps().len()).collect();
    order.sort_unstable_by_key(|index| image.bitmaps()[*index].table_offset);
    let mut shared = vec![false; order.len()];
    let mut end_of_others = 0;
    let mut last = None;
    for index in order {
        let range = range(&image.bitmaps()[index]);
        if let Some(last) = last.filter(|_| range.start < end_of_others) {
            shared[index] = true;
            shared[last] = true;
        }
        if range.end > end_of_others {
            (end_of_others, last) = (range.end, Some(index));
        }
    }
    let read = |(entry, shared): (&Entry, bool)| match doubt_contents(image, entry) {
        Err(_) => Ok(Ok(Table::default())),
        Ok(()) if shared => Ok(Err(corrupt("its table lies on the table of another bitmap"))),
        Ok(()) => match read_bitmap_table(image, entry) {
            Err(e) if e.is_io() || e.kind() == ErrorKind::Limit => Err(e),
            result => Ok(result),
        },
    };
    image.bitmaps().iter().zip(shared).map(read).collect()
}

/// The table of one bitmap, whatever its contents are worth.
pub(super) fn read_bitmap_table(image: &Qcow2, entry: &Entry) -> Result<Table> {
    let bytes = u64::from(entry.table_entries) * 8;
    let decoded = u64::from(entry.table_entries) * size_of::<TableEntry>() as u64;
    let mut grants = vec![image.budget().grant(decoded, "bitmap table")?];
    let words =
        read_table(image.file(), entry.table_offset, bytes, "bitmap table", image.budget(), &mut grants)?;
    let length = image.file().len()?;
    let decode = |word: &u64| match decode_table_entry(*word, image.geometry())? {
        TableEntry::Data { host } if host >= length => {
            Err(corrupt(format!("its data at {host:#x} lies behind the end of the file")))
        }
        entry => Ok(entry),
    };
    let mut entries = Vec::new();
    memory::reserve(&mut entries, words.len())?;
    for word in &words {
        entries.push(decode(word)?);
    }
    Ok(Table { entries, _grants: grants })
}

/// For each bitmap, what is wrong with the clusters that it lies on: each must have a refcount of exactly 1
/// and belong to nothing else.
fn find_foreign_clusters(image: &Qcow2, tables: &[Result<Table>]) -> Result<Vec<Result<()>>> {
    let geometry = image.geometry();
    let mut verdicts: Vec<Result<()>> = tables.iter().map(|_| Ok(())).collect();
    let own = tables.iter().flatten().map(|table| table.entries.len() as u64).sum::<u64>();
    let _grant = image.budget().grant(own * 16 + tables.len() as u64 * 32, "list of bitmap clusters")?;

    // (host cluster, bitmap), sorted.
    let mut clusters = Vec::new();
    memory::reserve(&mut clusters, own as usize + tables.len())?;
    for (index, (entry, table)) in image.bitmaps().iter().zip(tables).enumerate() {
        let Ok(table) = table else { continue };
        let table_clusters = geometry.clusters_for(table.entries.len() as u64 * 8);
        let first = entry.table_offset >> geometry.cluster_bits;
        clusters.extend((first..first + table_clusters).map(|cluster| (cluster, index)));
        clusters.extend(table.entries.iter().filter_map(|entry| match entry {
            TableEntry::Data { host } => Some((host >> geometry.cluster_bits, index)),
            _ => None,
        }));
    }
    clusters.sort_unstable();
    let mut blame = |(cluster, index): (u64, usize), text: &dyn Display| {
        if verdicts[index].is_ok() {
            let at = cluster << geometry.cluster_bits;
            verdicts[index] = Err(corrupt(format!("its cluster at {at:#x} {text}")));
        }
    };
    let lying_in = |host: Range<u64>| {
        let range = host.start >> geometry.cluster_bits..host.end.div_ceil(geometry.cluster_size());
        let first = clusters.partition_point(|(cluster, _)| *cluster < range.start);
        clusters[first..].iter().take_while(move |(cluster, _)| *cluster < range.end)
    };

    for pair in clusters.windows(2) {
        if pair[0].0 == pair[1].0 {
            pair.iter().for_each(|own| blame(*own, &"is used twice by bitmaps"));
        }
    }
    for own in &clusters {
        match image.refcount(own.0 << geometry.cluster_bits) {
            Ok(1) => {}
            Ok(count) => blame(*own, &format!("has refcount {count} instead of 1")),
            Err(e) if e.is_io() => return Err(e),
            Err(e) => blame(*own, &format!("has no valid refcount: {e}")),
        }
    }
    let (Some(first), Some(last)) = (clusters.first(), clusters.last()) else { return Ok(verdicts) };
    for_each_metadata_range(image, |host, owner| {
        lying_in(host).for_each(|own| blame(*own, &format!("belongs to {owner}")));
    })?;
    let all = first.0 << geometry.cluster_bits..(last.0 + 1) << geometry.cluster_bits;
    image.for_each_data_range(all, |host, _| {
        lying_in(host).for_each(|own| blame(*own, &"belongs to guest data"))
    })?;
    Ok(verdicts)
}

/// Set bits as they are found in storage.
#[derive(Clone, Copy)]
enum SetBits {
    Range(u64),
    Word(u64),
}

impl SetBits {
    fn count(self) -> u64 {
        match self {
            SetBits::Range(length) => length,
            SetBits::Word(word) => word.count_ones().into(),
        }
    }
}

/// Hands all set bits to `see`, with the index of the first bit of each range or word.
fn for_each_set(
    image: &Qcow2,
    entry: &Entry,
    table: &[TableEntry],
    mut see: impl FnMut(u64, SetBits),
) -> Result<()> {
    let cluster_size = image.geometry().cluster_size();
    let bits = entry.bits(image.header().size);
    let per_cluster = cluster_size * 8;
    let mut buf = Vec::new();
    for (index, part) in table.iter().enumerate() {
        let first = index as u64 * per_cluster;
        let count = per_cluster.min(bits - first);
        match part {
            TableEntry::Zeros => {}
            TableEntry::Ones => see(first, SetBits::Range(count)),
            TableEntry::Data { host } => {
                memory::grow(&mut buf, (count.div_ceil(64) * 8) as usize)?;
                image.file().read_exact(&mut buf, *host, "bitmap data")?;
                for (at, bytes) in buf.chunks_exact(8).enumerate() {
                    // Bit n is bit n % 8 of byte n / 8: the order of little-endian words.
                    let word = LittleEndian::read_u64(bytes);
                    let start = first + at as u64 * 64;
                    if bits - start < 64 && word >> (bits - start) != 0 {
                        return Err(corrupt("bits are set behind the end of the disk"));
                    }
                    if word != 0 {
                        see(start, SetBits::Word(word));
                    }
                }
            }
        }
    }
    Ok(())
}
