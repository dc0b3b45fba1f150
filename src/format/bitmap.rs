//! The bitmap directory and bitmap tables of persistent dirty bitmaps.

use zerocopy::{
    FromBytes, Immutable, IntoBytes, KnownLayout,
    big_endian::{U16, U32, U64},
};

use super::{corrupt, extension::BitmapsExtension, geometry::Geometry, read_struct, text::printable};
use crate::error::{Error, ErrorKind, Result};

/// Most bitmaps of an image; QEMU's limit, as are the others here.
const MAX_BITMAPS: u32 = 65_535;
/// Largest directory in bytes.
pub(crate) const MAX_DIRECTORY_BYTES: u64 = 1024 * 65_535;
/// Longest name in bytes.
const MAX_NAME: usize = 1023;
/// Most entries of a bitmap table.
const MAX_TABLE_ENTRIES: u32 = 0x800_0000;
/// Most bytes of one bitmap's data.
const MAX_DATA_BYTES: u64 = 512 << 20;
/// Granularities from 512 bytes to 2 GiB.
const GRANULARITY_BITS: std::ops::RangeInclusive<u8> = 9..=31;

const IN_USE: u32 = 1 << 0;
const AUTO: u32 = 1 << 1;
const TYPE_DIRTY_TRACKING: u8 = 1;

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
struct RawEntry {
    table_offset: U64,
    table_size: U32,
    flags: U32,
    kind: u8,
    granularity_bits: u8,
    name_size: U16,
    extra_data_size: U32,
}
const _: () = assert!(size_of::<RawEntry>() == 24);

/// Where in an entry of the directory its flags are.
pub(crate) const FLAGS: std::ops::Range<usize> = 12..16;
const _: () = assert!(std::mem::offset_of!(RawEntry, flags) == FLAGS.start);

/// One entry of the bitmap directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) name: Vec<u8>,
    pub(crate) table_offset: u64,
    /// Entries of the bitmap table.
    pub(crate) table_entries: u32,
    /// A writer has not stored this bitmap yet, or never will.
    pub(crate) in_use: bool,
    /// Writes to the disk are recorded.
    pub(crate) auto: bool,
    pub(crate) granularity_bits: u8,
}

/// Checks the extension's numbers, before the directory is read.
pub(crate) fn check_extension(extension: &BitmapsExtension, geometry: &Geometry) -> Result<()> {
    let (count, size) = (extension.nb_bitmaps.get(), extension.directory_size.get());
    if count == 0 || count > MAX_BITMAPS {
        return Err(corrupt(format!(
            "the bitmaps extension counts {count} bitmaps, outside 1 to {MAX_BITMAPS}"
        )));
    }
    if extension.reserved.get() != 0 {
        return Err(corrupt("reserved bytes of the bitmaps extension are set"));
    }
    if size == 0 || size > MAX_DIRECTORY_BYTES {
        return Err(corrupt(format!(
            "the bitmap directory has {size} bytes, outside 1 to {MAX_DIRECTORY_BYTES}"
        )));
    }
    let offset = extension.directory_offset.get();
    if offset == 0 || !geometry.is_aligned(offset) {
        return Err(corrupt(format!("the bitmap directory's offset {offset:#x} is invalid")));
    }
    Ok(())
}

/// Parses the whole directory, which must hold exactly `count` entries.
pub(crate) fn parse_directory(bytes: &[u8], count: u32, geometry: &Geometry) -> Result<Vec<Entry>> {
    let mut entries = Vec::new();
    for_each_entry(bytes, geometry, |entry, verdict| {
        entries.push(entry);
        verdict
    })?;
    check_names(&entries, count)?;
    Ok(entries)
}

/// Hands each entry of a directory to `see`, with what is wrong with it, until that fails.
pub(crate) fn for_each_entry(
    bytes: &[u8],
    geometry: &Geometry,
    mut see: impl FnMut(Entry, Result<()>) -> Result<()>,
) -> Result<()> {
    let mut rest = bytes;
    while !rest.is_empty() {
        let (entry, length, verdict) = parse_entry(rest, geometry)?;
        see(entry, verdict)?;
        rest = &rest[length..];
    }
    Ok(())
}

/// Refuses a directory that has not `count` entries, or two of one name.
pub(crate) fn check_names(entries: &[Entry], count: u32) -> Result<()> {
    if entries.len() != count as usize {
        let text = format!("the bitmap directory has {} entries instead of {count}", entries.len());
        return Err(corrupt(text));
    }
    let mut names: Vec<_> = entries.iter().map(|e| &e.name).collect();
    names.sort();
    if let Some(twice) = names.windows(2).find(|pair| pair[0] == pair[1]) {
        return Err(corrupt(format!("two bitmaps have the name '{}'", printable(twice[0]))));
    }
    Ok(())
}

/// The entry at the start of `bytes`, how many of them it takes, and what is wrong with it.
fn parse_entry(bytes: &[u8], geometry: &Geometry) -> Result<(Entry, usize, Result<()>)> {
    let raw: RawEntry = read_struct(bytes, "bitmap directory")?;
    let name_size = usize::from(raw.name_size.get());
    if name_size == 0 || name_size > MAX_NAME {
        return Err(corrupt(format!("a bitmap's name has {name_size} bytes, outside 1 to {MAX_NAME}")));
    }
    if raw.extra_data_size.get() != 0 {
        return Err(corrupt("a bitmap has extra data, which is not supported"));
    }
    let start = size_of::<RawEntry>();
    let length = (start + name_size).next_multiple_of(8);
    if bytes.len() < length {
        return Err(corrupt("the bitmap directory is cut short"));
    }
    let entry = Entry {
        name: bytes[start..start + name_size].to_vec(),
        table_offset: raw.table_offset.get(),
        table_entries: raw.table_size.get(),
        in_use: raw.flags.get() & IN_USE != 0,
        auto: raw.flags.get() & AUTO != 0,
        granularity_bits: raw.granularity_bits,
    };
    let about = |e: Error| e.within(format!("bitmap '{}'", printable(&entry.name)));
    let verdict = entry.check(&raw, geometry).map_err(about);
    Ok((entry, length, verdict))
}

impl Entry {
    fn check(&self, raw: &RawEntry, geometry: &Geometry) -> Result<()> {
        if self.name.contains(&0) {
            return Err(corrupt("its name contains a zero byte"));
        }
        if raw.flags.get() & !(IN_USE | AUTO) != 0 {
            return Err(corrupt(format!("unknown flags {:#x}", raw.flags.get())));
        }
        if raw.kind != TYPE_DIRTY_TRACKING {
            return Err(corrupt(format!("unknown type {}", raw.kind)));
        }
        if !GRANULARITY_BITS.contains(&self.granularity_bits) {
            return Err(corrupt(format!("granularity of {} bits, outside 9 to 31", self.granularity_bits)));
        }
        self.check_table(geometry)
    }

    /// Refuses a table that cannot be one, so that nothing it says can be used.
    pub(crate) fn check_table(&self, geometry: &Geometry) -> Result<()> {
        if self.table_offset == 0 || !geometry.is_aligned(self.table_offset) {
            return Err(corrupt(format!("the table's offset {:#x} is invalid", self.table_offset)));
        }
        let bytes = u64::from(self.table_entries) << geometry.cluster_bits;
        if self.table_entries == 0 || self.table_entries > MAX_TABLE_ENTRIES || bytes > MAX_DATA_BYTES {
            return Err(corrupt(format!("a table of {} entries is out of range", self.table_entries)));
        }
        Ok(())
    }

    pub(crate) fn granularity(&self) -> u64 {
        1 << self.granularity_bits
    }

    /// Bits for a disk of `size` bytes.
    pub(crate) fn bits(&self, size: u64) -> u64 {
        size.div_ceil(self.granularity())
    }

    /// Table entries that a bitmap of a disk of `size` bytes has: data is a multiple of 8 bytes, cut into clusters.
    pub(crate) fn expected_table_entries(&self, size: u64, geometry: &Geometry) -> u64 {
        geometry.clusters_for(self.bits(size).div_ceil(64) * 8)
    }
}

impl Entry {
    /// Appends the entry to a directory.
    pub(crate) fn append(&self, directory: &mut Vec<u8>) {
        let flags = if self.in_use { IN_USE } else { 0 } | if self.auto { AUTO } else { 0 };
        let raw = RawEntry {
            table_offset: self.table_offset.into(),
            table_size: self.table_entries.into(),
            flags: flags.into(),
            kind: TYPE_DIRTY_TRACKING,
            granularity_bits: self.granularity_bits,
            name_size: (self.name.len() as u16).into(),
            extra_data_size: 0.into(),
        };
        directory.extend_from_slice(raw.as_bytes());
        directory.extend_from_slice(&self.name);
        directory.resize(directory.len().next_multiple_of(8), 0);
    }

    /// Refuses a new bitmap that could not be stored for a disk of `size` bytes.
    pub(crate) fn check_new(&self, size: u64, geometry: &Geometry) -> Result<()> {
        let invalid = |text: String| Error::new(ErrorKind::InvalidArgument, text);
        if self.name.is_empty() || self.name.len() > MAX_NAME || self.name.contains(&0) {
            return Err(invalid(format!("a bitmap's name has 1 to {MAX_NAME} bytes and no zero byte")));
        }
        if !GRANULARITY_BITS.contains(&self.granularity_bits) {
            return Err(invalid(
                "the granularity must be a power of two from 512 to 2147483648 (2 GiB)".to_owned(),
            ));
        }
        let entries = self.expected_table_entries(size, geometry);
        if entries == 0 {
            return Err(invalid("a disk of 0 bytes can have no bitmaps".to_owned()));
        }
        if entries << geometry.cluster_bits > MAX_DATA_BYTES || entries > u64::from(MAX_TABLE_ENTRIES) {
            return Err(invalid("the bitmap would take over 512 MiB; use a larger granularity".to_owned()));
        }
        Ok(())
    }
}

/// Whether a directory of `count` bitmaps and `bytes` bytes may be.
pub(crate) fn check_directory(count: usize, bytes: usize) -> Result<()> {
    if count > MAX_BITMAPS as usize || bytes as u64 > MAX_DIRECTORY_BYTES {
        let text = format!(
            "an image cannot have more than {MAX_BITMAPS} bitmaps, or {MAX_DIRECTORY_BYTES} bytes of them"
        );
        return Err(Error::new(ErrorKind::Limit, text));
    }
    Ok(())
}

/// What a bitmap table entry says about one cluster of bitmap data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TableEntry {
    /// No bit is set.
    Zeros,
    /// Every bit is set.
    Ones,
    /// The bits are stored at this host offset.
    Data { host: u64 },
}

const TABLE_OFFSET: u64 = 0x00ff_ffff_ffff_fe00;
const TABLE_ONES: u64 = 1;
const TABLE_RESERVED: u64 = 0xff00_0000_0000_01fe;

/// Decodes a bitmap table entry.
pub(crate) fn decode_table_entry(entry: u64, geometry: &Geometry) -> Result<TableEntry> {
    let offset = entry & TABLE_OFFSET;
    let valid = entry & TABLE_RESERVED == 0 && geometry.is_aligned(offset);
    match (offset, entry & TABLE_ONES) {
        (0, 0) if valid => Ok(TableEntry::Zeros),
        (0, _) if valid => Ok(TableEntry::Ones),
        (host, 0) if valid => Ok(TableEntry::Data { host }),
        _ => Err(corrupt(format!("its table has an invalid entry {entry:#018x}"))),
    }
}
