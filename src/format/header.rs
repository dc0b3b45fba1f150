//! The header of an image, versions 2 and 3.

use std::{mem::offset_of, ops::Range};

use zerocopy::{
    FromBytes, Immutable, IntoBytes, KnownLayout,
    big_endian::{U32, U64},
};

use super::{
    corrupt,
    extension::{Extensions, FeatureName},
    geometry::Geometry,
    read_struct,
    text::{printable, until_zero},
};
use crate::error::{Error, ErrorKind, Result};

/// "QFI" and 0xfb.
pub(crate) const MAGIC: u32 = 0x5146_49fb;

/// The longest header that is read before the cluster size is known.
pub(crate) const PREFIX: usize = 512;

/// Largest L1 table in bytes; QEMU's limit, as are the others here.
pub(crate) const MAX_L1_BYTES: u64 = 32 << 20;
/// Largest refcount table in bytes.
pub(crate) const MAX_REFCOUNT_TABLE_BYTES: u64 = 8 << 20;
/// Most internal snapshots.
pub(crate) const MAX_SNAPSHOTS: u32 = 65_536;
/// Longest backing file name in bytes.
pub(crate) const MAX_BACKING_NAME: u32 = 1023;

/// Feature bits that forbid reading by those who do not know them.
pub(crate) mod incompatible {
    pub(crate) const DIRTY: u64 = 1 << 0;
    pub(crate) const CORRUPT: u64 = 1 << 1;
    pub(crate) const DATA_FILE: u64 = 1 << 2;
    pub(crate) const COMPRESSION_TYPE: u64 = 1 << 3;
    pub(crate) const EXTENDED_L2: u64 = 1 << 4;
    pub(crate) const KNOWN: u64 = DIRTY | CORRUPT | DATA_FILE | COMPRESSION_TYPE | EXTENDED_L2;
}

/// Feature bits that may be ignored.
pub(crate) mod compatible {
    pub(crate) const LAZY_REFCOUNTS: u64 = 1 << 0;
}

/// Feature bits that a writer who does not know them clears.
pub(crate) mod autoclear {
    pub(crate) const BITMAPS: u64 = 1 << 0;
    pub(crate) const DATA_FILE_RAW: u64 = 1 << 1;
    /// Ours alone, and only while a change is staged: every writer that follows the specification clears a bit that it does
    /// not know before it writes anything else. So an image that still has it was not written since.
    pub(crate) const STAGED: u64 = 1 << 63;
    /// Beside it: random bits, which tell the changes of one image from each other.
    pub(crate) const STAGED_BY: u64 = 0x7fff_ffff << 32;
}

/// The header as it lies on disk, all fields of version 3 up to the compression type.
#[derive(Clone, Debug, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub(crate) struct RawHeader {
    pub(crate) magic: U32,
    pub(crate) version: U32,
    pub(crate) backing_file_offset: U64,
    pub(crate) backing_file_size: U32,
    pub(crate) cluster_bits: U32,
    pub(crate) size: U64,
    pub(crate) crypt_method: U32,
    pub(crate) l1_size: U32,
    pub(crate) l1_table_offset: U64,
    pub(crate) refcount_table_offset: U64,
    pub(crate) refcount_table_clusters: U32,
    pub(crate) nb_snapshots: U32,
    pub(crate) snapshots_offset: U64,
    pub(crate) incompatible_features: U64,
    pub(crate) compatible_features: U64,
    pub(crate) autoclear_features: U64,
    pub(crate) refcount_order: U32,
    pub(crate) header_length: U32,
    pub(crate) compression_type: u8,
    pub(crate) padding: [u8; 7],
}

/// Bytes of a version 2 header; version 3 fields begin here.
pub(crate) const V2_LENGTH: usize = 72;
/// The shortest version 3 header: the compression type is absent.
pub(crate) const V3_LENGTH: usize = 104;

const _: () = assert!(offset_of!(RawHeader, size) == 24);
const _: () = assert!(offset_of!(RawHeader, snapshots_offset) == 64);
const _: () = assert!(offset_of!(RawHeader, incompatible_features) == V2_LENGTH);
const _: () = assert!(offset_of!(RawHeader, header_length) == 100);
const _: () = assert!(offset_of!(RawHeader, compression_type) == V3_LENGTH);
const _: () = assert!(size_of::<RawHeader>() == 112);

/// Where the number of snapshots is.
pub(crate) const NB_SNAPSHOTS_AT: u64 = offset_of!(RawHeader, nb_snapshots) as u64;
/// Where the offset of the snapshot table is.
pub(crate) const SNAPSHOTS_OFFSET_AT: u64 = offset_of!(RawHeader, snapshots_offset) as u64;

/// How compressed clusters of an image are compressed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CompressionType {
    /// Raw deflate (RFC 1951).
    #[default]
    Zlib,
    /// Zstandard frames.
    Zstd,
}

impl std::fmt::Display for CompressionType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            CompressionType::Zlib => "zlib",
            CompressionType::Zstd => "zstd",
        })
    }
}

/// A checked header.
#[derive(Clone, Debug)]
pub(crate) struct Header {
    pub(crate) version: u32,
    pub(crate) geometry: Geometry,
    /// Virtual size in bytes, a multiple of 512 (QEMU rounds down; so do we, to read what it reads).
    pub(crate) size: u64,
    pub(crate) l1_entries: u32,
    pub(crate) l1_offset: u64,
    pub(crate) refcount_table_offset: u64,
    pub(crate) refcount_table_clusters: u32,
    pub(crate) snapshot_count: u32,
    pub(crate) snapshots_offset: u64,
    pub(crate) incompatible: u64,
    pub(crate) compatible: u64,
    pub(crate) autoclear: u64,
    pub(crate) compression: CompressionType,
    /// As it lies there, a zero byte and what follows included; [`Header::backing`] is the name.
    pub(crate) backing_name: Option<Vec<u8>>,
    /// Bytes of the fixed part.
    pub(crate) length: usize,
    /// Where in the first cluster the extensions are.
    pub(crate) extension_area: Range<usize>,
    pub(crate) extensions: Extensions,
}

/// What must be known before the header's whole cluster can be read.
pub(crate) fn cluster_bits(prefix: &[u8]) -> Result<u32> {
    let Some(fixed) = prefix.first_chunk::<24>() else {
        return Err(corrupt("not a qcow2 image: the file ends inside the header"));
    };
    let word = |at: usize| fixed[at..at + 4].iter().fold(0u32, |value, byte| value << 8 | u32::from(*byte));
    if word(0) != MAGIC {
        return Err(not_qcow2(prefix));
    }
    let version = word(4);
    if version == 1 {
        return Err(other_format("a qcow image of version 1"));
    }
    if !(2..=3).contains(&version) {
        let text = format!("qcow2 version {version} is not supported, only 2 and 3");
        return Err(Error::new(ErrorKind::Unsupported, text));
    }
    Geometry::new(word(20), 4, false).map(|g| g.cluster_bits)
}

/// What a file is by its first bytes, if it is no disk in a format that is read. A raw disk can begin like that, too.
const OTHER_FORMATS: [(usize, &[u8], &str); 13] = [
    (0, b"KDMV", "a VMDK image"),
    (0, b"COWD", "a VMDK image"),
    (0, b"# Disk DescriptorFile", "the description of a VMDK image"),
    (0, b"vhdxfile", "a VHDX image"),
    (0, b"conectix", "a VHD image"),
    (0x40, b"\x7f\x10\xda\xbe", "a VDI image"),
    (0, b"QED\0", "a QED image"),
    (0, b"\x1f\x8b", "compressed with gzip"),
    (0, b"\xfd7zXZ\0", "compressed with xz"),
    (0, b"BZh", "compressed with bzip2"),
    (0, b"\x28\xb5\x2f\xfd", "compressed with zstd"),
    (0, b"LUKS\xba\xbe", "encrypted with LUKS"),
    (0, b"PK\x03\x04", "a ZIP archive"),
];

fn not_qcow2(prefix: &[u8]) -> Error {
    let begins =
        |(at, magic, _): &&(usize, &[u8], &str)| prefix.get(*at..).is_some_and(|p| p.starts_with(magic));
    match OTHER_FORMATS.iter().find(begins) {
        Some((_, _, what)) => other_format(what),
        None => corrupt(
            "not a qcow2 image: the magic bytes are missing; if it is a raw disk, the format has to be given as raw",
        ),
    }
}

fn other_format(what: &str) -> Error {
    let text = format!(
        "not a qcow2 image: the file looks like {what}, which is not supported; convert or unpack it first"
    );
    Error::new(ErrorKind::Unsupported, text)
}

impl Header {
    /// Parses the first cluster of an image, or what the file has of it.
    pub(crate) fn parse(cluster: &[u8]) -> Result<Header> {
        let header = Header::parse_for_check(cluster)?;
        header.refuse_damage()?;
        Ok(header)
    }

    /// The same for a check, which also looks at images whose tables make no sense.
    pub(crate) fn parse_for_check(cluster: &[u8]) -> Result<Header> {
        cluster_bits(cluster)?;
        // A version 2 header may be followed by the end of the file.
        let mut padded = [0; size_of::<RawHeader>()];
        let have = cluster.len().min(padded.len());
        padded[..have].copy_from_slice(&cluster[..have]);
        let mut raw: RawHeader = read_struct(&padded, "header")?;

        let header_length = header_length(&raw, cluster)?;
        raw.clear_absent_fields(header_length);

        let incompatible = raw.incompatible_features.get();
        let extended_l2 = incompatible & incompatible::EXTENDED_L2 != 0;
        let geometry = Geometry::new(raw.cluster_bits.get(), raw.refcount_order.get(), extended_l2)?;
        let area = extension_area(&raw, header_length, geometry.cluster_size(), cluster)?;
        let extensions =
            Extensions::parse(cluster, area.clone(), |names| refuse_unknown_features(incompatible, names))?;

        let header = Header {
            version: raw.version.get(),
            geometry,
            size: raw.size.get() & !511,
            l1_entries: raw.l1_size.get(),
            l1_offset: raw.l1_table_offset.get(),
            refcount_table_offset: raw.refcount_table_offset.get(),
            refcount_table_clusters: raw.refcount_table_clusters.get(),
            snapshot_count: raw.nb_snapshots.get(),
            snapshots_offset: raw.snapshots_offset.get(),
            incompatible,
            compatible: raw.compatible_features.get(),
            autoclear: raw.autoclear_features.get(),
            compression: compression_type(&raw)?,
            backing_name: backing_name(&raw, cluster)?,
            length: header_length,
            extension_area: area,
            extensions,
        };
        refuse_encryption(&raw)?;
        header.check_features()?;
        header.check_tables()?;
        Ok(header)
    }

    /// The name of the backing file, if there is one: none where it is empty, as QEMU has it.
    pub(crate) fn backing(&self) -> Option<&[u8]> {
        self.backing_name.as_deref().map(until_zero).filter(|name| !name.is_empty())
    }

    /// The format of the backing file, as it is recorded.
    pub(crate) fn backing_format(&self) -> Option<&[u8]> {
        self.extensions.backing_format.as_deref().map(until_zero).filter(|format| !format.is_empty())
    }

    /// The name of the external data file, as it is recorded.
    pub(crate) fn data_file(&self) -> Option<&[u8]> {
        self.extensions.data_file.as_deref().map(until_zero)
    }

    pub(crate) fn has(&self, incompatible_bit: u64) -> bool {
        self.incompatible & incompatible_bit != 0
    }

    /// The bitmaps extension may be trusted.
    pub(crate) fn bitmaps_are_current(&self) -> bool {
        self.autoclear & autoclear::BITMAPS != 0
    }

    fn check_features(&self) -> Result<()> {
        if self.extensions.luks {
            return Err(corrupt("the header has an encryption extension but the image is not encrypted"));
        }
        let data_file = self.has(incompatible::DATA_FILE);
        let raw_data_file = self.autoclear & autoclear::DATA_FILE_RAW != 0;
        if raw_data_file && !data_file {
            return Err(corrupt("the header marks a raw data file but the image has no data file"));
        }
        if raw_data_file && self.backing_name.is_some() {
            return Err(corrupt("an image with a raw data file cannot have a backing file"));
        }
        Ok(())
    }

    /// Refuses what a check can look at but nobody can use.
    fn refuse_damage(&self) -> Result<()> {
        if self.l1_entries > 0 && self.l1_offset == 0 {
            return Err(corrupt("the L1 table lies on the header"));
        }
        if self.refcount_table_clusters == 0 || self.refcount_table_offset == 0 {
            return Err(corrupt("the image has no refcount table"));
        }
        Ok(())
    }

    /// Every number that decides how much is read or allocated, before anything is.
    fn check_tables(&self) -> Result<()> {
        let geometry = &self.geometry;
        let aligned = |offset: u64, what: &str| {
            if !geometry.is_aligned(offset) {
                return Err(corrupt(format!(
                    "the {what} offset {offset:#x} is not a multiple of the cluster size"
                )));
            }
            match i64::try_from(offset) {
                Ok(_) => Ok(()),
                Err(_) => Err(corrupt(format!("the {what} offset {offset:#x} is larger than any file"))),
            }
        };
        let l1_bytes = u64::from(self.l1_entries) * 8;
        if l1_bytes > MAX_L1_BYTES {
            return Err(corrupt(format!("the L1 table has {} entries, more than 32 MiB", self.l1_entries)));
        }
        let needed = geometry.l1_entries_for(self.size);
        if u64::from(self.l1_entries) < needed {
            let text = format!("the L1 table is too small: {} entries, {needed} needed", self.l1_entries);
            return Err(corrupt(text));
        }
        aligned(self.l1_offset, "L1 table")?;
        aligned(self.refcount_table_offset, "refcount table")?;
        let bytes = u64::from(self.refcount_table_clusters) << geometry.cluster_bits;
        if bytes > MAX_REFCOUNT_TABLE_BYTES {
            let text =
                format!("the refcount table has {} clusters, over 8 MiB", self.refcount_table_clusters);
            return Err(corrupt(text));
        }
        // The snapshot table is looked at by those who walk it: the disk can be read without it.
        Ok(())
    }
}

impl RawHeader {
    /// A field behind the end of the header is absent, and absent means zero.
    fn clear_absent_fields(&mut self, header_length: usize) {
        if header_length < V3_LENGTH {
            self.incompatible_features = 0.into();
            self.compatible_features = 0.into();
            self.autoclear_features = 0.into();
            self.refcount_order = 4.into();
        }
        if header_length <= V3_LENGTH {
            self.compression_type = 0;
        }
    }
}

fn header_length(raw: &RawHeader, cluster: &[u8]) -> Result<usize> {
    let length = match raw.version.get() {
        2 => V2_LENGTH,
        _ => raw.header_length.get() as usize,
    };
    let valid = length == V2_LENGTH || (length >= V3_LENGTH && length.is_multiple_of(8));
    if cluster.len() < V2_LENGTH || (raw.version.get() > 2 && cluster.len() < V3_LENGTH) {
        return Err(corrupt(format!("the file ends inside the header, after {} bytes", cluster.len())));
    }
    if raw.version.get() > 2 && (length < V3_LENGTH || !valid) {
        return Err(corrupt(format!("header_length is {length}, below 104 or no multiple of 8")));
    }
    if length > 1 << raw.cluster_bits.get() {
        return Err(corrupt(format!("header_length {length} is larger than a cluster")));
    }
    if length > cluster.len() {
        return Err(corrupt("the file ends inside the header"));
    }
    Ok(length)
}

/// Extensions lie between the header and the backing file name, or the end of the first cluster.
fn extension_area(
    raw: &RawHeader,
    header_length: usize,
    cluster_size: u64,
    cluster: &[u8],
) -> Result<Range<usize>> {
    let end = match raw.backing_file_offset.get() {
        0 => cluster_size,
        offset if offset > cluster_size || offset < header_length as u64 => {
            return Err(corrupt(format!(
                "the backing file name's offset {offset:#x} is outside the first cluster"
            )));
        }
        offset => offset,
    };
    Ok(header_length..usize::try_from(end).unwrap_or(usize::MAX).min(cluster.len()))
}

fn backing_name(raw: &RawHeader, cluster: &[u8]) -> Result<Option<Vec<u8>>> {
    let (offset, length) = (raw.backing_file_offset.get(), raw.backing_file_size.get());
    if offset == 0 || length == 0 {
        return Ok(None);
    }
    let room = (1u64 << raw.cluster_bits.get()) - offset;
    if length > MAX_BACKING_NAME || u64::from(length) > room {
        return Err(corrupt(format!("the backing file name is too long: {length} bytes")));
    }
    let start = offset as usize;
    match cluster.get(start..start + length as usize) {
        Some(name) => Ok(Some(name.to_vec())),
        None => Err(corrupt("the file ends inside the backing file name")),
    }
}

fn compression_type(raw: &RawHeader) -> Result<CompressionType> {
    let marked = raw.incompatible_features.get() & incompatible::COMPRESSION_TYPE != 0;
    match (raw.compression_type, marked) {
        (0, false) => Ok(CompressionType::Zlib),
        (1, true) => Ok(CompressionType::Zstd),
        (0, true) => Err(corrupt("the compression type bit is set but the type is zlib")),
        (kind @ 1.., false) => Err(corrupt(format!("compression type {kind} without its feature bit"))),
        (kind, true) => {
            Err(Error::new(ErrorKind::Unsupported, format!("compression type {kind} is not supported")))
        }
    }
}

fn refuse_unknown_features(incompatible: u64, names: &[FeatureName]) -> Result<()> {
    let unknown = incompatible & !incompatible::KNOWN;
    if unknown == 0 {
        return Ok(());
    }
    let name_of = |bit: u32| {
        let known = names.iter().find(|n| n.is_incompatible() && u32::from(n.bit) == bit);
        match known.map(FeatureName::text).filter(|name| !name.is_empty()) {
            Some(name) => format!("'{}' (bit {bit})", printable(name)),
            None => format!("bit {bit}"),
        }
    };
    let list: Vec<_> = (0..64).filter(|bit| unknown >> bit & 1 == 1).map(name_of).collect();
    let text = format!("the image uses incompatible features that are not supported: {}", list.join(", "));
    Err(Error::new(ErrorKind::Unsupported, text))
}

fn refuse_encryption(raw: &RawHeader) -> Result<()> {
    let method = match raw.crypt_method.get() {
        0 => return Ok(()),
        1 => "AES".to_owned(),
        2 => "LUKS".to_owned(),
        other => return Err(corrupt(format!("unknown encryption method {other}"))),
    };
    let text = format!("the image is encrypted ({method}); encrypted images are not supported");
    Err(Error::new(ErrorKind::Encrypted, text))
}
