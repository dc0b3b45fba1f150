//! Where the fields of a qcow2 file are, as byte offsets, and the numbers that stand there.

/// Header: u32.
pub const MAGIC: u64 = 0;
/// Header: u32, 2 or 3.
pub const VERSION: u64 = 4;
/// Header: u64, 0 when there is no backing file.
pub const BACKING_OFFSET: u64 = 8;
/// Header: u32.
pub const BACKING_SIZE: u64 = 16;
/// Header: u32, 9 to 21.
pub const CLUSTER_BITS: u64 = 20;
/// Header: u64, the virtual size in bytes.
pub const SIZE: u64 = 24;
/// Header: u32, 0 none, 1 AES, 2 LUKS.
pub const CRYPT_METHOD: u64 = 32;
/// Header: u32, in entries.
pub const L1_SIZE: u64 = 36;
/// Header: u64.
pub const L1_OFFSET: u64 = 40;
/// Header: u64.
pub const REFTABLE_OFFSET: u64 = 48;
/// Header: u32.
pub const REFTABLE_CLUSTERS: u64 = 56;
/// Header: u32.
pub const NB_SNAPSHOTS: u64 = 60;
/// Header: u64.
pub const SNAPSHOTS_OFFSET: u64 = 64;
/// Header of version 3: u64.
pub const INCOMPATIBLE: u64 = 72;
/// Header of version 3: u64.
pub const COMPATIBLE: u64 = 80;
/// Header of version 3: u64.
pub const AUTOCLEAR: u64 = 88;
/// Header of version 3: u32, the refcount width is `1 << order` bits.
pub const REFCOUNT_ORDER: u64 = 96;
/// Header of version 3: u32.
pub const HEADER_LENGTH: u64 = 100;
/// Header of version 3, when `header_length` is above 104: u8, 0 deflate, 1 zstd.
pub const COMPRESSION_TYPE: u64 = 104;

/// Header extension type: the backing file's format.
pub const EXT_BACKING_FORMAT: u32 = 0xE279_2ACA;
/// Header extension type: names of feature bits, 48 bytes each.
pub const EXT_FEATURE_NAMES: u32 = 0x6803_F857;
/// Header extension type: bitmaps, 24 bytes.
pub const EXT_BITMAPS: u32 = 0x2385_2875;
/// Header extension type: LUKS header, 16 bytes.
pub const EXT_LUKS: u32 = 0x0537_BE77;
/// Header extension type: the external data file's name.
pub const EXT_DATA_FILE: u32 = 0x4441_5441;

/// Incompatible feature: refcounts may be stale.
pub const DIRTY: u64 = 1 << 0;
/// Incompatible feature: the image is known to be corrupt.
pub const CORRUPT: u64 = 1 << 1;
/// Incompatible feature: guest data is in another file.
pub const DATA_FILE: u64 = 1 << 2;
/// Incompatible feature: the compression type is not deflate.
pub const COMPRESSION: u64 = 1 << 3;
/// Incompatible feature: L2 entries of 16 bytes, 32 subclusters each.
pub const EXTENDED_L2: u64 = 1 << 4;
/// Autoclear feature: the bitmaps extension can be trusted.
pub const BITMAPS: u64 = 1 << 0;
/// Autoclear feature: the data file can be read as a raw disk.
pub const RAW_EXTERNAL: u64 = 1 << 1;

/// L1 and L2 entry: the refcount is exactly one.
pub const COPIED: u64 = 1 << 63;
/// L2 entry: a compressed cluster.
pub const COMPRESSED: u64 = 1 << 62;
/// Standard L2 entry: reads as zero.
pub const ZERO: u64 = 1 << 0;

/// Bitmaps extension, from the start of its data: u32.
pub const EXT_NB_BITMAPS: u64 = 0;
/// Bitmaps extension, from the start of its data: u32, zero.
pub const EXT_RESERVED: u64 = 4;
/// Bitmaps extension, from the start of its data: u64.
pub const EXT_DIRECTORY_SIZE: u64 = 8;
/// Bitmaps extension, from the start of its data: u64.
pub const EXT_DIRECTORY_OFFSET: u64 = 16;

/// Bitmap directory entry: u64.
pub const DIR_TABLE_OFFSET: u64 = 0;
/// Bitmap directory entry: u32, in entries.
pub const DIR_TABLE_SIZE: u64 = 8;
/// Bitmap directory entry: u32.
pub const DIR_FLAGS: u64 = 12;
/// Bitmap directory entry: u8, 1 is a dirty bitmap.
pub const DIR_TYPE: u64 = 16;
/// Bitmap directory entry: u8, the granularity's power of two.
pub const DIR_GRANULARITY: u64 = 17;
/// Bitmap directory entry: u16.
pub const DIR_NAME_SIZE: u64 = 18;
/// Bitmap directory entry: u32.
pub const DIR_EXTRA_SIZE: u64 = 20;
/// Bitmap directory entry: extra data, then the name.
pub const DIR_NAME: u64 = 24;

/// Bitmap flag: a writer had it open; its contents are stale.
pub const IN_USE: u32 = 1 << 0;
/// Bitmap flag: it records all writes.
pub const AUTO: u32 = 1 << 1;
/// Bitmap flag: unknown extra data may be ignored.
pub const EXTRA_COMPATIBLE: u32 = 1 << 2;

/// Snapshot table entry: u64.
pub const SNAP_L1_OFFSET: u64 = 0;
/// Snapshot table entry: u32.
pub const SNAP_L1_SIZE: u64 = 8;
/// Snapshot table entry: u16.
pub const SNAP_ID_SIZE: u64 = 12;
/// Snapshot table entry: u16.
pub const SNAP_NAME_SIZE: u64 = 14;
/// Snapshot table entry: u32.
pub const SNAP_EXTRA_SIZE: u64 = 36;
