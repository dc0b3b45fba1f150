//! Bitmap directories, with the tables and data that they name: which bitmaps can be trusted, and their bits.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use holstein::{Access, Disk, fuzzing, storage::MemoryStorage};

use super::{IMAGE, check_text, number, open, u16_at, u32_at, u64_at};
use crate::builder::{Bitmap, Builder, Cluster, field::*};

/// The first bytes of an input say what image its other bytes, the body, are appended to.
const HEAD: usize = 12;

/// The body begins with the directory.
pub struct Input<'a> {
    bits: u32,
    size: u64,
    count: u32,
    directory_size: u64,
    features: u8,
    /// The cluster of the body that the guest has data in, and that with another refcount than 1, and which.
    guest: u64,
    odd: (u64, u16),
    body: &'a [u8],
}

impl Input<'_> {
    /// The parts of an input, if it has them.
    pub fn parse(data: &[u8]) -> Option<Input<'_>> {
        let (head, body) = data.split_at_checked(HEAD)?;
        let bits = 9 + u32::from(head[0] % 4);
        // The refcounts of all clusters fit into one block, with room for those before the body.
        let most = ((1usize << bits) / 2 - 32) << bits;
        Some(Input {
            bits,
            size: (u16_at(head, 1) + 1) * 512,
            count: u32::from(head[3]),
            directory_size: u16_at(head, 4),
            features: head[6],
            guest: u64::from(head[7]),
            odd: (u64::from(head[8]), u16::from(head[9] % 3)),
            body: &body[..body.len().min(most)],
        })
    }

    fn cluster(&self) -> u64 {
        1 << self.bits
    }

    /// Clusters of the body, the last one maybe cut short.
    pub fn clusters(&self) -> u64 {
        (self.body.len() as u64).div_ceil(self.cluster()).max(1)
    }

    /// Where the body begins in the image.
    pub fn start(&self) -> u64 {
        self.image().1
    }

    /// Table entries of a bitmap with this granularity.
    pub fn table_entries(&self, granularity_bits: u32) -> u64 {
        self.size.div_ceil(1 << granularity_bits).div_ceil(64).div_ceil(self.cluster() / 8)
    }

    fn image(&self) -> (Vec<u8>, u64) {
        let mut spec = Builder::new(self.bits, self.size).cluster(0, Cluster::Data(vec![1]));
        // Makes room for the extension; its directory is replaced.
        spec = spec.bitmap(Bitmap::new("x", 16, &[]));
        let mut image = spec.build();
        let start = image.len();
        image.put(start, self.body);
        let extension = image.at.bitmaps_extension();
        image.u32(extension + EXT_NB_BITMAPS, self.count);
        image.u64(extension + EXT_DIRECTORY_SIZE, self.directory_size);
        image.u64(extension + EXT_DIRECTORY_OFFSET, start);
        // What the builder made of its own bitmap is free then, and the body is in use.
        for cluster in image.at.bitmap_table[0] >> self.bits..image.len().div_ceil(self.cluster()) {
            let count = u16::from(cluster >= start >> self.bits);
            image.u16(image.at.refblocks[0] + cluster * 2, count);
        }
        if self.features & 0x10 != 0 {
            image.u16(image.at.refblocks[0] + self.odd_cluster(start) * 2, self.odd.1);
        }
        if self.features & 0x08 != 0 {
            image.u16(image.at.refblocks[0] + (image.at.data[&0] >> self.bits) * 2, 0);
            image.u64(image.at.entry[&0], COPIED | self.guest_cluster(start) << self.bits);
        }
        image.u64(INCOMPATIBLE, u64::from(self.features & 0x03));
        image.u64(AUTOCLEAR, if self.features & 0x04 != 0 { 0 } else { BITMAPS });
        (image.bytes, start)
    }

    fn odd_cluster(&self, start: u64) -> u64 {
        (start >> self.bits) + self.odd.0 % self.clusters()
    }

    fn guest_cluster(&self, start: u64) -> u64 {
        (start >> self.bits) + self.guest % self.clusters()
    }
}

pub fn judge(data: &[u8]) {
    let Some(input) = Input::parse(data) else { return };
    judge_parser(&input);
    let (bytes, start) = input.image();
    let storage = Arc::new(MemoryStorage::new());
    storage.insert(IMAGE, bytes.clone());
    let entries = directory(&input, &bytes, start);
    let disk = match (open(&storage, Access::Read), entries) {
        (Err(_), None) => return,
        (Err(error), Some(_)) => panic!("refused: {error}"),
        (Ok(disk), Some(entries)) => {
            compare(&input, &bytes, start, &disk, &entries);
            return;
        }
        (Ok(disk), None) => disk,
    };
    // Nobody maintained it, so it may say anything; but then no bitmap is there.
    assert!(input.features & 0x04 != 0, "a broken directory was accepted");
    assert!(disk.bitmaps().unwrap().is_empty());
}

/// The parser alone, on bytes that no image limits.
fn judge_parser(input: &Input<'_>) {
    let (bits, body) = (input.bits, input.body);
    match fuzzing::bitmap_directory(body, input.count, bits) {
        Err(error) => check_text(&error),
        Ok(again) => {
            let entries = parse(body, input.cluster()).expect("a broken directory was accepted");
            assert_eq!(entries.len() as u32, input.count);
            assert_eq!(again, without_padding(body, &entries), "it is not written as it was read");
        }
    }
}

/// An entry of the directory, and where it stands there.
#[derive(Clone, Debug)]
struct Entry {
    at: Range<u64>,
    name: Vec<u8>,
    table: u64,
    table_entries: u64,
    flags: u32,
    granularity_bits: u32,
}

/// All entries of a directory; `None` when one breaks the format.
fn parse(bytes: &[u8], cluster: u64) -> Option<Vec<Entry>> {
    let mut entries: Vec<Entry> = Vec::new();
    let mut at = 0;
    while at < bytes.len() as u64 {
        if at + 24 > bytes.len() as u64 {
            return None;
        }
        let name_size = u16_at(bytes, at + DIR_NAME_SIZE);
        let end = at + (24 + name_size).next_multiple_of(8);
        if end > bytes.len() as u64 || name_size == 0 || name_size > 1023 {
            return None;
        }
        let name = bytes[(at + 24) as usize..(at + 24 + name_size) as usize].to_vec();
        let (table, table_entries) = (u64_at(bytes, at), u32_at(bytes, at + DIR_TABLE_SIZE));
        let (flags, kind) = (u32_at(bytes, at + DIR_FLAGS), number::<1>(bytes, at + DIR_TYPE));
        let granularity_bits = number::<1>(bytes, at + DIR_GRANULARITY) as u32;
        let valid = kind == 1
            && flags & !3 == 0
            && (9..=31).contains(&granularity_bits)
            && u32_at(bytes, at + DIR_EXTRA_SIZE) == 0
            && table != 0
            && table.is_multiple_of(cluster)
            && (1..=0x800_0000).contains(&table_entries)
            && table_entries * cluster <= 512 << 20
            && !name.contains(&0)
            && entries.iter().all(|other| other.name != name);
        if !valid {
            return None;
        }
        entries.push(Entry {
            at: at..end,
            name,
            table,
            table_entries,
            flags: flags as u32,
            granularity_bits,
        });
        at = end;
    }
    Some(entries)
}

/// A directory with zeros for what pads its entries.
fn without_padding(bytes: &[u8], entries: &[Entry]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    for entry in entries {
        bytes[entry.at.start as usize + 24 + entry.name.len()..entry.at.end as usize].fill(0);
    }
    bytes
}

/// The directory of the image; `None` when it makes the image unusable.
fn directory(input: &Input<'_>, bytes: &[u8], start: u64) -> Option<Vec<Entry>> {
    let end = start + input.directory_size;
    if input.count == 0 || input.directory_size == 0 || end > bytes.len() as u64 {
        return None;
    }
    let entries = parse(&bytes[start as usize..end as usize], input.cluster())?;
    (entries.len() as u32 == input.count).then_some(entries)
}

/// The bitmaps as the library tells them are those of a plain reading.
fn compare(input: &Input<'_>, bytes: &[u8], start: u64, disk: &Disk, entries: &[Entry]) {
    let listed = disk.bitmaps().expect("bitmaps can be listed");
    assert_eq!(listed.len(), entries.len());
    let tables = tables(input, bytes, entries);
    for (index, (info, entry)) in listed.iter().zip(entries).enumerate() {
        assert_eq!((&info.name, info.granularity), (&entry.name, 1 << entry.granularity_bits));
        assert_eq!((info.in_use, info.auto), (entry.flags & 1 != 0, entry.flags & 2 != 0));
        let expected = contents(input, bytes, start, entries, &tables, index);
        let loaded = disk.bitmap(&entry.name).inspect_err(check_text);
        let usable = expected.is_some() && info.auto;
        assert_eq!(info.unusable.is_none(), usable, "{entry:?}: {:?}", info.unusable);
        assert_eq!(loaded.is_ok(), expected.is_some(), "{entry:?}: {:?}", loaded.err());
        let (Ok(bitmap), Some(bits)) = (loaded, expected) else { continue };
        assert_eq!(bitmap.extents().collect::<Vec<_>>(), extents(&bits, entry.granularity_bits, input.size));
        let count = bits.iter().filter(|bit| **bit).count() as u64;
        assert_eq!(bitmap.count(), count << entry.granularity_bits);
        assert_eq!(info.count, Some(bitmap.count()));
    }
}

/// The table of each bitmap that nothing speaks against before it is read, and that can be read.
fn tables(input: &Input<'_>, bytes: &[u8], entries: &[Entry]) -> Vec<Option<Vec<u64>>> {
    let doubtful = |entry: &Entry| {
        let length = input.table_entries(entry.granularity_bits);
        input.features & 0x07 != 0 || entry.flags & 1 != 0 || entry.table_entries != length
    };
    let range = |entry: &Entry| entry.table..entry.table.saturating_add(entry.table_entries * 8);
    let table = |(index, entry): (usize, &Entry)| {
        let own = range(entry);
        let shared = entries.iter().enumerate().any(|(other, entry)| {
            let other_range = range(entry);
            other != index && other_range.start < own.end && own.start < other_range.end
        });
        if doubtful(entry) || shared || own.end > bytes.len() as u64 {
            return None;
        }
        let words: Vec<u64> =
            (0..entry.table_entries).map(|word| u64_at(bytes, own.start + word * 8)).collect();
        // An offset, or the flag that all bits are set, or nothing; all other bits are reserved.
        let valid = |word: &u64| {
            let offset = word & !1;
            let placed = offset.is_multiple_of(input.cluster()) && offset < bytes.len() as u64;
            placed && (offset == 0 || word & 1 == 0)
        };
        words.iter().all(valid).then_some(words)
    };
    entries.iter().enumerate().map(table).collect()
}

/// The bits of a bitmap that can be trusted.
fn contents(
    input: &Input<'_>,
    bytes: &[u8],
    start: u64,
    entries: &[Entry],
    tables: &[Option<Vec<u64>>],
    index: usize,
) -> Option<Vec<bool>> {
    let table = tables[index].as_ref()?;
    // How often the bitmaps use each cluster.
    let mut uses = BTreeMap::<u64, u32>::new();
    for (entry, table) in entries.iter().zip(tables) {
        let Some(table) = table else { continue };
        for cluster in clusters_of(input, entry, table) {
            *uses.entry(cluster).or_default() += 1;
        }
    }
    let directory = (start >> input.bits)..(start + input.directory_size).div_ceil(input.cluster());
    let foreign = |cluster: u64| {
        // Before the body there are the header and tables of the image, and free clusters.
        let (guest, odd) = (input.guest_cluster(start), input.odd_cluster(start));
        cluster < start >> input.bits
            || directory.contains(&cluster)
            || input.features & 0x08 != 0 && cluster == guest
            || input.features & 0x10 != 0 && cluster == odd && input.odd.1 != 1
            || cluster >= (bytes.len() as u64).div_ceil(input.cluster())
    };
    let own = clusters_of(input, &entries[index], table);
    if own.iter().any(|cluster| uses[cluster] > 1 || foreign(*cluster)) {
        return None;
    }
    let granularity_bits = entries[index].granularity_bits;
    let total = input.size.div_ceil(1 << granularity_bits);
    let mut bits = Vec::new();
    for word in table {
        let count = (input.cluster() * 8).min(total - bits.len() as u64);
        match word {
            0 | 1 => bits.extend((0..count).map(|_| *word == 1)),
            host => {
                let length = count.div_ceil(64) * 8;
                let data = bytes.get(*host as usize..(host + length) as usize)?;
                let bit = |number: u64| data[(number / 8) as usize] >> (number % 8) & 1 == 1;
                if (count..length * 8).any(bit) {
                    return None; // set behind the end of the disk
                }
                bits.extend((0..count).map(bit));
            }
        }
    }
    Some(bits)
}

/// The clusters that a bitmap's table and data lie in.
fn clusters_of(input: &Input<'_>, entry: &Entry, table: &[u64]) -> Vec<u64> {
    let first = entry.table >> input.bits;
    let of_table = first..first + (entry.table_entries * 8).div_ceil(input.cluster());
    of_table.chain(table.iter().filter(|word| **word > 1).map(|word| word >> input.bits)).collect()
}

/// Runs of set bits in bytes of the disk.
fn extents(bits: &[bool], granularity_bits: u32, size: u64) -> Vec<Range<u64>> {
    let mut extents: Vec<Range<u64>> = Vec::new();
    for (number, _) in bits.iter().enumerate().filter(|(_, bit)| **bit) {
        let start = (number as u64) << granularity_bits;
        let end = (start + (1 << granularity_bits)).min(size);
        match extents.last_mut() {
            Some(last) if last.end == start => last.end = end,
            _ => extents.push(start..end),
        }
    }
    extents
}
