//! Headers: whatever is accepted says what the bytes say, and stays within the format's limits.

use holstein::fuzzing::{self, HeaderFields};

use super::{check_text, u32_at, u64_at};
use crate::builder::field::*;

/// The first cluster of an image, or less.
pub fn judge(data: &[u8]) {
    let cluster = &data[..data.len().min(2 << 20)];
    match fuzzing::header(cluster) {
        Ok(fields) => compare(cluster, &fields),
        Err(error) => check_text(&error),
    }
}

fn compare(bytes: &[u8], fields: &HeaderFields) {
    let version = u32_at(bytes, VERSION);
    assert_eq!((u32_at(bytes, MAGIC), u64::from(fields.version)), (0x5146_49FB, version));
    assert!(matches!(version, 2 | 3), "version {version}");
    let length = if version == 2 { 72 } else { u32_at(bytes, HEADER_LENGTH) };
    assert!(length == 72 || length >= 104 && length.is_multiple_of(8), "a header of {length} bytes");
    assert!(length <= bytes.len() as u64);

    // Fields behind the end of the header are zero, but for the width of refcounts.
    let v3 = |at| if version == 2 { 0 } else { u64_at(bytes, at) };
    let features = [v3(INCOMPATIBLE), v3(COMPATIBLE), v3(AUTOCLEAR)];
    assert_eq!(fields.features, features);
    assert_eq!(features[0] & !0x1F, 0, "unknown incompatible features");
    let order = if version == 2 { 4 } else { u32_at(bytes, REFCOUNT_ORDER) };
    assert!(u64::from(fields.refcount_order) == order && order <= 6);
    let compression = if length > 104 { bytes[104] } else { 0 };
    assert_eq!((fields.zstd, compression), (features[0] & COMPRESSION != 0, u8::from(fields.zstd)));
    assert_eq!(u32_at(bytes, CRYPT_METHOD), 0);

    let bits = u32_at(bytes, CLUSTER_BITS);
    assert_eq!(u64::from(fields.cluster_bits), bits);
    let extended = features[0] & EXTENDED_L2 != 0;
    assert!((9..=21).contains(&bits) && (!extended || bits >= 14), "{bits} bits");
    let cluster = 1 << bits;
    assert_eq!(fields.size, u64_at(bytes, SIZE) / 512 * 512);
    let per_l2 = cluster / if extended { 16 } else { 8 };
    let l2_tables = u128::from(fields.size).div_ceil(u128::from(per_l2) * u128::from(cluster));

    let table = |offset, count| (u64_at(bytes, offset), u32_at(bytes, count) as u32);
    assert_eq!(fields.l1, table(L1_OFFSET, L1_SIZE));
    assert!(u128::from(fields.l1.1) >= l2_tables && u64::from(fields.l1.1) * 8 <= 32 << 20);
    assert_eq!(fields.refcount_table, table(REFTABLE_OFFSET, REFTABLE_CLUSTERS));
    let clusters = u64::from(fields.refcount_table.1);
    assert!(clusters > 0 && clusters << bits <= 8 << 20, "{clusters} clusters of refcount table");
    assert_eq!(fields.snapshots, table(SNAPSHOTS_OFFSET, NB_SNAPSHOTS));
    for (offset, _) in [fields.l1, fields.refcount_table] {
        assert!(offset.is_multiple_of(cluster) && offset >> 63 == 0, "a table at {offset:#x}");
    }

    let name_at = u64_at(bytes, BACKING_OFFSET);
    let name_size = u32_at(bytes, BACKING_SIZE);
    let name = (name_at != 0 && name_size != 0)
        .then(|| bytes[name_at as usize..(name_at + name_size) as usize].to_vec());
    assert!(name_size <= 1023 || name.is_none());
    assert!(name.is_none() || name_at + name_size <= cluster);
    assert_eq!(fields.backing_name, name);
    let end = if name_at == 0 { cluster } else { name_at };
    compare_extensions(bytes, length, end.min(bytes.len() as u64), fields);
}

fn compare_extensions(bytes: &[u8], start: u64, end: u64, fields: &HeaderFields) {
    let mut at = start;
    let mut unknown = Vec::new();
    let (mut format, mut data_file, mut bitmaps) = (None, None, None);
    while at + 8 <= end {
        let (kind, length) = (u32_at(bytes, at) as u32, u32_at(bytes, at + 4));
        at += 8;
        assert!(at + length <= end, "an extension that is too long was accepted");
        let data = &bytes[at as usize..(at + length) as usize];
        at += length.next_multiple_of(8);
        match kind {
            0 => break,
            EXT_BACKING_FORMAT => assert!(length <= 15 && format.replace(data.to_vec()).is_none()),
            EXT_DATA_FILE => assert!(data_file.replace(data.to_vec()).is_none()),
            EXT_FEATURE_NAMES => assert!(length.is_multiple_of(48)),
            EXT_LUKS => panic!("an encryption header was accepted"),
            EXT_BITMAPS => {
                assert_eq!(length, 24);
                let directory = (u64_at(data, EXT_DIRECTORY_OFFSET), u64_at(data, EXT_DIRECTORY_SIZE));
                let found = (u32_at(data, EXT_NB_BITMAPS) as u32, directory.0, directory.1);
                assert!(bitmaps.replace(found).is_none());
            }
            _ => unknown.push((kind, data.to_vec())),
        }
    }
    assert_eq!(fields.backing_format, format);
    assert_eq!(fields.data_file, data_file);
    assert_eq!(fields.bitmaps, bitmaps);
    assert_eq!(fields.unknown_extensions, unknown, "unknown extensions are kept as they are");
}
