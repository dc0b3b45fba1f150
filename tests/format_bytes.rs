//! The format, byte by byte: images whose every byte was typed from the specification are read through the
//! Rust API, and what comes back is what was laid out. `qemu-img check` agrees that the images are valid.
#![allow(clippy::unwrap_used, clippy::expect_used)] // a test that cannot go on fails
#![allow(unreachable_pub)] // the modules are shared with other test programs
#![allow(clippy::single_range_in_vec_init)] // a bitmap's bits are a list of ranges, often of one

#[path = "support/builder/mod.rs"]
mod builder;
#[path = "support/process.rs"]
mod process;

use std::{ops::Range, path::PathBuf};

use builder::{Bitmap, Builder, Cluster, field, pattern, text};
use holstein::{CompressionType, Disk, DiskOptions, Mapping, Run};

/// A folder for one test, empty at the start.
fn folder(name: &str) -> PathBuf {
    process::fresh_folder(&format!("format-bytes/{name}"))
}

/// Writes the image, has QEMU check and read it (so that the builder's own errors show), and opens it.
fn open(name: &str, spec: &Builder) -> Disk {
    let dir = folder(name);
    let path = dir.join("image.qcow2");
    let image = spec.build();
    image.write(&path);
    if let (Some(name), Some(data)) = (&spec.data_file, &image.data_file) {
        std::fs::write(dir.join(str::from_utf8(name).unwrap()), data).unwrap();
    }
    let check = process::qemu_img(&dir, &["check", "-f", "qcow2", "image.qcow2"]);
    assert_eq!(check.code, Some(0), "{name}: qemu-img check: {}{}", check.stdout, check.stderr);
    let convert = ["convert", "-f", "qcow2", "-O", "raw", "image.qcow2", "guest.raw.qemu"];
    assert!(process::qemu_img(&dir, &convert).ok(), "{name}: qemu-img convert");
    let read = std::fs::read(dir.join("guest.raw.qemu")).unwrap();
    assert!(read == spec.guest(0..spec.size), "{name}: qemu-img reads something else than was laid out");
    Disk::open(&path, &DiskOptions::default()).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// What the disk reads equals what was laid out, whole and in odd pieces, and so do its bitmaps.
fn assert_reads(name: &str, disk: &Disk, spec: &Builder) {
    assert_eq!(disk.size(), spec.size, "{name}: size");
    let expected = spec.guest(0..spec.size);
    let mut whole = vec![0xEE; spec.size as usize];
    disk.read_at(&mut whole, 0).unwrap_or_else(|error| panic!("{name}: {error}"));
    assert!(whole == expected, "{name}: contents, first at {:?}", first_difference(&whole, &expected));
    let cluster = spec.cluster_size();
    for offset in [1, cluster / 2 - 1, cluster - 1, cluster + 3, spec.size - 1] {
        let length = (cluster + 7).min(spec.size - offset);
        let mut piece = vec![0xEE; length as usize];
        disk.read_at(&mut piece, offset).unwrap();
        assert!(
            piece == expected[offset as usize..(offset + length) as usize],
            "{name}: {length} bytes at {offset}"
        );
    }
    assert!(disk.read_at(&mut [0; 2], spec.size - 1).is_err(), "{name}: a read past the end");

    let listed = disk.bitmaps().unwrap();
    assert_eq!(listed.len(), spec.bitmaps.len(), "{name}: bitmaps");
    for (info, bitmap) in listed.iter().zip(&spec.bitmaps) {
        assert_eq!(info.name, bitmap.name, "{name}");
        assert_eq!(info.granularity, 1 << bitmap.granularity_bits, "{name}");
        assert!(info.auto && !info.in_use, "{name}");
        assert_eq!(info.unusable, None, "{name}");
        assert_eq!(info.count, Some(bitmap.count()), "{name}");
        let loaded = disk.bitmap(&bitmap.name).unwrap_or_else(|error| panic!("{name}: {error}"));
        let extents: Vec<Range<u64>> = loaded.extents().collect();
        assert_eq!(extents, bitmap.extents(spec.size), "{name}: extents");
        assert_eq!(loaded.count(), bitmap.count(), "{name}");
        assert_eq!(loaded.granularity(), 1 << bitmap.granularity_bits, "{name}");
    }
}

fn first_difference(a: &[u8], b: &[u8]) -> Option<usize> {
    a.iter().zip(b).position(|(a, b)| a != b)
}

fn map(disk: &Disk) -> Vec<Run> {
    disk.map(0..disk.size()).collect::<Result<_, _>>().unwrap()
}

/// An image that uses most of the format: nine guest clusters of all kinds, the last one cut by the
/// disk's end, and one bitmap.
fn everything(cluster_bits: u32, version: u32) -> Builder {
    let cluster = 1usize << cluster_bits;
    let mut spec = Builder::new(cluster_bits, 8 * cluster as u64 + 512)
        .cluster(0, Cluster::Data(pattern(1, cluster)))
        .cluster(1, Cluster::Data(pattern(2, cluster)))
        .cluster(3, Cluster::deflate(text(3, cluster)))
        .cluster(4, Cluster::deflate(text(4, cluster)))
        .cluster(8, Cluster::Data(pattern(5, 512)));
    spec.version = version;
    if version > 2 {
        spec = spec
            .cluster(5, Cluster::Zero)
            .cluster(6, Cluster::ZeroAllocated(pattern(6, cluster)))
            .bitmap(Bitmap::new("nightly", 9, &[0..1, 3..7, 8..9]));
    }
    spec
}

#[test]
fn every_cluster_size_in_both_versions() {
    for version in [2, 3] {
        for cluster_bits in 9..=21 {
            let name = format!("v{version}-bits-{cluster_bits}");
            let spec = everything(cluster_bits, version);
            let disk = open(&name, &spec);
            assert_reads(&name, &disk, &spec);
            let info = disk.info().unwrap().qcow2.unwrap();
            assert_eq!((info.version, info.cluster_size), (version, 1 << cluster_bits), "{name}");
            assert_eq!(info.compression, CompressionType::Zlib, "{name}");
            assert!(!info.extended_l2 && !info.dirty && !info.corrupt && !info.lazy_refcounts, "{name}");
        }
    }
}

#[test]
fn every_refcount_order() {
    for order in 0..=6 {
        let name = format!("refcount-order-{order}");
        let mut spec = everything(12, 3);
        spec.refcount_order = order;
        if order == 0 {
            // One-bit refcounts cannot count two streams in one cluster.
            spec.clusters.remove(&4);
        }
        let disk = open(&name, &spec);
        assert_reads(&name, &disk, &spec);
        assert_eq!(disk.info().unwrap().qcow2.unwrap().refcount_bits, 1 << order, "{name}");
    }
}

#[test]
fn many_refcount_blocks() {
    // 512-byte clusters and 64-bit refcounts: a block counts 64 clusters, a table cluster names 64 blocks.
    let mut spec = Builder::new(9, 4500 * 512).bitmap(Bitmap::new("b", 9, &[0..4500]));
    spec.refcount_order = 6;
    for number in 0..4500 {
        spec.clusters.insert(number, Cluster::Data(pattern(number, 512)));
    }
    assert!(spec.build().at.refblocks.len() > 64);
    let disk = open("many-refcount-blocks", &spec);
    assert_reads("many-refcount-blocks", &disk, &spec);
}

#[test]
fn header_lengths_and_unknown_extensions() {
    for header_length in [104, 112, 120, 256] {
        let name = format!("header-length-{header_length}");
        let mut spec = everything(12, 3)
            .extension(0x1234_5678, "kept as read")
            .extension(field::EXT_FEATURE_NAMES, vec![0; 96])
            .extension(0x0BAD_CAFE, "");
        spec.header_length = header_length;
        spec.compatible = 1 | 1 << 40; // lazy refcounts, and one that nobody knows
        spec.autoclear = 1 << 63;
        let disk = open(&name, &spec);
        assert_reads(&name, &disk, &spec);
        let info = disk.info().unwrap().qcow2.unwrap();
        assert!(info.lazy_refcounts, "{name}");
        assert_eq!(info.unknown_extensions, [(0x1234_5678, 12), (0x0BAD_CAFE, 0)], "{name}");
    }
}

#[test]
fn extensions_that_fill_the_cluster_need_no_end_mark() {
    let spec = Builder::new(9, 4096).extension(0x1234_5678, vec![7; 512 - 112 - 8]);
    let disk = open("no-end-mark", &spec);
    assert_reads("no-end-mark", &disk, &spec);
}

#[test]
fn dirty_and_corrupt_images_can_be_read() {
    // QEMU's check would complain: that is what the bits say.
    for (name, bit) in [("dirty", field::DIRTY), ("corrupt", field::CORRUPT)] {
        let dir = folder(name);
        let spec = Builder::new(12, 65536).cluster(2, Cluster::Data(pattern(1, 4096)));
        let path = dir.join("image.qcow2");
        spec.clone().with(|spec| spec.incompatible = bit).build().write(&path);
        let disk = Disk::open(&path, &DiskOptions::default()).unwrap();
        assert_reads(name, &disk, &spec);
        let info = disk.info().unwrap().qcow2.unwrap();
        assert_eq!((info.dirty, info.corrupt), (bit == field::DIRTY, bit == field::CORRUPT));
    }
}

#[test]
fn zstd_clusters() {
    let cluster = 65536;
    let two_frames =
        [builder::zstd_frame(&text(2, cluster)[..40_000]), builder::zstd_frame(&text(2, cluster)[40_000..])];
    let mut spec = Builder::new(16, 8 * cluster as u64)
        .cluster(0, Cluster::zstd(text(1, cluster)))
        .cluster(1, Cluster::Compressed { contents: text(2, cluster), stream: two_frames.concat() })
        .cluster(7, Cluster::Data(pattern(3, cluster)));
    spec.zstd = true;
    let disk = open("zstd", &spec);
    assert_reads("zstd", &disk, &spec);
    assert_eq!(disk.info().unwrap().qcow2.unwrap().compression, CompressionType::Zstd);
}

#[test]
fn deflate_streams_longer_than_a_cluster() {
    let spec = Builder::new(12, 65536)
        .cluster(0, Cluster::deflate_stored(pattern(1, 4096)))
        .cluster(9, Cluster::deflate_stored(pattern(2, 4096)));
    let disk = open("deflate-stored", &spec);
    assert_reads("deflate-stored", &disk, &spec);
}

#[test]
fn extended_l2_subclusters() {
    let cluster = 16384;
    let parts = |allocated, zero| Cluster::Subclusters { contents: pattern(9, cluster), allocated, zero };
    let mut spec = Builder::new(14, 1100 * cluster as u64)
        .cluster(0, Cluster::Data(pattern(1, cluster)))
        .cluster(1, parts(0x8000_0001, 0x0000_FFF0))
        .cluster(2, parts(0, 0x0000_0001))
        .cluster(3, Cluster::Zero)
        .cluster(4, Cluster::deflate(text(4, cluster)))
        .cluster(5, Cluster::ZeroAllocated(pattern(5, cluster)))
        .cluster(1099, parts(0x5555_5555, 0xAAAA_AAAA));
    spec.extended_l2 = true;
    let disk = open("extended-l2", &spec);
    assert_reads("extended-l2", &disk, &spec);
    assert!(disk.info().unwrap().qcow2.unwrap().extended_l2);
}

#[test]
fn runs_are_what_the_tables_say() {
    let spec = everything(16, 3);
    let image = spec.build();
    let disk = open("runs", &spec);
    let cluster = 65536;
    let run = |from: u64, to: u64, mapping| Run {
        start: from * cluster,
        length: (to * cluster).min(spec.size) - from * cluster,
        depth: 0,
        mapping,
    };
    let runs = map(&disk);
    assert_eq!(runs[0], run(0, 2, Mapping::Data { host: image.at.data[&0], hole: false }));
    assert_eq!(runs[1], run(2, 3, Mapping::Unallocated { host: None }));
    assert!(runs[2].compressed() && runs[2].data() && runs[2].offset().is_none());
    assert_eq!((runs[2].start, runs[2].length), (3 * cluster, 2 * cluster));
    assert_eq!(runs.iter().map(|run| run.length).sum::<u64>(), spec.size);
    let last = runs.last().unwrap();
    assert_eq!(last.mapping, Mapping::Data { host: image.at.data[&8], hole: false });
    assert_eq!((last.start, last.length), (8 * cluster, 512));
    let zeros: u64 =
        runs.iter().filter(|run| run.zero() && run.start >= 5 * cluster).map(|run| run.length).sum();
    assert_eq!(zeros, 3 * cluster, "clusters 5 to 7 read as zero");
}

#[test]
fn snapshots_are_listed_and_share_data() {
    let spec = everything(12, 3).snapshot("1", "before").snapshot("27", "w\u{e9}ird name");
    let disk = open("snapshots", &spec);
    assert_reads("snapshots", &disk, &spec);
    let listed = disk.info().unwrap().snapshots;
    let names: Vec<_> = listed.iter().map(|s| (s.id.as_str(), s.name.as_str())).collect();
    assert_eq!(names, [("1", "before"), ("27", "w\u{e9}ird name")]);
    assert!(listed.iter().all(|s| s.disk_size == Some(spec.size) && s.icount.is_none()));
    assert!(listed.iter().all(|s| s.date_sec == 1_700_000_000 && s.vm_state_size == 0));
}

#[test]
fn bitmaps_of_many_shapes() {
    // 32 MiB at 512-byte granularity is 65,536 bits: two data clusters of 4 KiB; the second disk ends
    // inside a granule.
    for (name, size) in [("bitmap-shapes", 32 << 20), ("bitmap-shapes-odd", (32 << 20) + 512 * 3)] {
        let mut all = Bitmap::new("all", 9, &[0..32768]);
        all.all_ones_entries = true;
        let spec = Builder::new(12, size)
            .bitmap(Bitmap::new("sparse", 9, &[0..1, 7..9, 63..65, 40000..40001, 65535..65536]))
            .bitmap(all)
            .bitmap(Bitmap::new("empty", 16, &[]))
            .bitmap(Bitmap::new("coarse", 31, &[0..1]))
            .bitmap(Bitmap::new(&"n".repeat(1023), 16, &[511..512]))
            .bitmap(Bitmap::new("na\u{efef}me, with = signs", 20, &[0..32]));
        let disk = open(name, &spec);
        assert_reads(name, &disk, &spec);
    }
}

#[test]
fn external_data_file() {
    let mut spec = Builder::new(16, 8 << 16)
        .cluster(0, Cluster::Data(pattern(1, 65536)))
        .cluster(2, Cluster::Zero)
        .cluster(7, Cluster::Data(pattern(2, 65536)));
    spec.data_file = Some(b"guest.raw".to_vec());
    let disk = open("data-file", &spec);
    assert_reads("data-file", &disk, &spec);
    let info = disk.info().unwrap().qcow2.unwrap();
    assert_eq!(info.data_file.as_deref(), Some("guest.raw"));
    assert!(!info.data_file_raw);
}

#[test]
fn several_l2_tables() {
    // 512-byte clusters: an L2 table maps 32 KiB, an L1 cluster 2 MiB.
    let mut spec = Builder::new(9, 5 << 20);
    for number in (0..10240).step_by(61) {
        spec.clusters.insert(number, Cluster::Data(pattern(number, 512)));
    }
    let disk = open("several-l2", &spec);
    assert_reads("several-l2", &disk, &spec);
}
