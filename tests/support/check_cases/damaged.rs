//! Small images that are damaged, at offsets typed from the specification.

use super::image::Image;

/// "The refcount is exactly 1": bit 63 of L1 and L2 entries.
const COPIED: u64 = 1 << 63;
/// "The cluster is compressed": bit 62 of L2 entries.
const COMPRESSED: u64 = 1 << 62;

/// Name, kind of image, and what is done to it.
type Damage = (&'static str, fn(&str) -> Image, fn(&Image));

fn wide(name: &str) -> Image {
    let image = Image::create(name, "cluster_size=64k", "2G");
    image.io(&["write 0 1M"]);
    image
}

fn with_snapshots(name: &str) -> Image {
    let image = Image::small(name);
    image.tool("qemu-img", &["snapshot", "-c", "one", "disk.qcow2"]);
    image.io(&["write 0 128k"]);
    image.tool("qemu-img", &["snapshot", "-c", "two", "disk.qcow2"]);
    image
}

fn with_bitmap(name: &str) -> Image {
    let image = Image::small(name);
    image.tool("qemu-img", &["bitmap", "--add", "disk.qcow2", "b0"]);
    image.io(&["write 0 128k"]);
    image
}

fn compressed(name: &str) -> Image {
    let image = Image::create(name, "cluster_size=64k", "4M");
    image.io(&["write -c 0 128k"]);
    image
}

fn extended(name: &str) -> Image {
    let image = Image::create(name, "cluster_size=64k,extended_l2=on", "4M");
    image.io(&["write 0 256k", "write 1M 4k"]);
    image
}

fn one_bit(name: &str) -> Image {
    let image = Image::create(name, "cluster_size=64k,refcount_bits=1", "4M");
    image.io(&["write 0 1M"]);
    image
}

fn data_file(name: &str) -> Image {
    let image = Image::create(name, "cluster_size=64k,data_file=disk.data", "4M");
    image.io(&["write 0 1M"]);
    image
}

fn crashed(name: &str) -> Image {
    let image = Image::create(name, "cluster_size=64k,lazy_refcounts=on", "4M");
    image.io_and_crash("open -o lazy-refcounts=on disk.qcow2", &["write 0 1M"]);
    image
}

fn entry(image: &Image, index: u64) -> u64 {
    image.l2(0) + index * 8
}

pub const DAMAGES: &[Damage] = &[
    ("leaked-cluster", Image::small, |i| i.set_refcount(9, 2)),
    ("leaked-entry", Image::small, |i| i.set_word(entry(i, 3), 0)),
    ("leaked-behind", Image::small, |i| {
        let bytes = [i.bytes(), vec![0; 0x30000]].concat();
        i.write(&bytes);
        i.set_refcount(22, 1);
    }),
    ("refcount-0-data", Image::small, |i| i.set_refcount(5, 0)),
    ("refcount-0-l2", Image::small, |i| i.set_refcount(4, 0)),
    ("refcount-0-l1", Image::small, |i| i.set_refcount(3, 0)),
    ("refcount-0-header", Image::small, |i| i.set_refcount(0, 0)),
    ("refcount-0-block", Image::small, |i| i.set_refcount(2, 0)),
    ("refcount-too-high", Image::small, |i| i.set_refcount(4, 7)),
    ("refcounts-all-high", Image::small, |i| (5..21).for_each(|cluster| i.set_refcount(cluster, 2))),
    ("copied-clear", Image::small, |i| i.set_word(entry(i, 1), 0x60000)),
    ("copied-clear-l1", Image::small, |i| i.set_word(i.l1(), 0x40000)),
    ("copied-on-snapshot", with_snapshots, |i| i.set_word(entry(i, 6), i.word(entry(i, 6)) | COPIED)),
    ("entry-unaligned", Image::small, |i| i.set_word(entry(i, 0), COPIED | 0x50200)),
    ("entry-unaligned-zero", Image::small, |i| i.set_word(entry(i, 0), COPIED | 0x50201)),
    ("entry-reserved-bit", Image::small, |i| i.set_word(entry(i, 0), COPIED | 0x50002)),
    ("entry-reserved-high", Image::small, |i| i.set_word(entry(i, 0), COPIED | 0x50000 | 1 << 61)),
    ("entry-outside", Image::small, |i| i.set_word(entry(i, 0), COPIED | 0xf5_0000)),
    ("entry-at-end", Image::small, |i| i.set_word(entry(i, 0), COPIED | 0x15_0000)),
    ("entry-far-outside", Image::small, |i| i.set_word(entry(i, 0), COPIED | 0x00ff_ffff_ffff_0000)),
    ("entry-of-header", Image::small, |i| i.set_word(entry(i, 0), COPIED)),
    ("duplicate", Image::small, |i| i.set_word(entry(i, 1), COPIED | 0x50000)),
    ("duplicate-run", Image::small, |i| {
        (0..8).for_each(|index| i.set_word(entry(i, index + 8), i.word(entry(i, index))));
    }),
    ("data-on-l2", Image::small, |i| i.set_word(entry(i, 1), COPIED | 0x40000)),
    ("data-on-block", Image::small, |i| i.set_word(entry(i, 1), COPIED | 0x20000)),
    ("block-missing", Image::small, |i| i.set_word(0x10000, 0)),
    ("block-outside", Image::small, |i| i.set_word(0x10000, 0xf0_0000)),
    ("block-reserved-bit", Image::small, |i| i.set_word(0x10000, 0x20001)),
    ("block-unaligned", Image::small, |i| i.set_word(0x10000, 0x20200)),
    ("block-twice", Image::small, |i| i.set_word(0x10008, 0x20000)),
    ("block-on-l2", Image::small, |i| i.set_word(0x10008, 0x40000)),
    ("block-three-times", Image::small, |i| {
        i.set_word(0x10008, 0x20000);
        i.set_word(entry(i, 1), COPIED | 0x20000);
    }),
    ("table-outside", Image::small, |i| i.set_word(48, 0xf0_0000)),
    ("table-on-header", Image::small, |i| i.set_word(48, 0)),
    ("table-empty", Image::small, |i| i.set_half_word(56, 0)),
    ("l1-reserved-bit", wide, |i| i.set_word(i.l1() + 8, 1 << 56 | 0x40000)),
    ("l1-twice", wide, |i| i.set_word(i.l1() + 8, COPIED | 0x40000)),
    ("l1-outside", wide, |i| i.set_word(i.l1(), COPIED | 0xf0_0000)),
    ("l1-unaligned", wide, |i| i.set_word(i.l1(), COPIED | 0x40200)),
    ("l1-to-data", wide, |i| i.set_word(i.l1() + 8, COPIED | 0x50000)),
    ("l1-table-outside", wide, |i| i.set_word(40, 0xf0_0000)),
    ("cut-in-data", Image::small, |i| i.write(&i.bytes()[..0x8_1000])),
    ("cut-in-last", Image::small, |i| i.write(&i.bytes()[..0x14_1000])),
    ("snapshot-l1-unaligned", with_snapshots, |i| i.poke(i.snapshots() + 6, &[2])),
    ("snapshot-l1-large", with_snapshots, |i| i.poke(i.snapshots() + 8, &[1])),
    ("snapshot-l1-outside", with_snapshots, |i| i.poke(i.snapshots() + 5, &[0xf1])),
    ("snapshot-l2-lost", with_snapshots, |i| i.set_word(i.word(i.snapshots()), 0)),
    ("snapshot-l2-entry", with_snapshots, |i| {
        let l2 = i.word(i.word(i.snapshots())) & !COPIED;
        i.set_word(l2 + 8 * 8, 0x50202);
    }),
    ("snapshots-lost", with_snapshots, |i| i.set_half_word(60, 0)),
    ("snapshots-outside", with_snapshots, |i| i.set_word(64, 0xf00_0000)),
    ("snapshots-on-l2", with_snapshots, |i| i.set_word(64, 0x14_0000)),
    ("snapshot-large-extra", with_snapshots, |i| i.set_half_word(i.snapshots() + 36, 1028)),
    ("snapshots-zeroed", with_snapshots, |i| i.poke(i.snapshots(), &[0; 140])),
    ("snapshots-too-many", with_snapshots, |i| i.set_half_word(60, 70_000)),
    ("snapshots-unaligned", with_snapshots, |i| i.poke(70, &[2])),
    ("snapshot-l1-on-header", with_snapshots, |i| i.set_word(i.snapshots(), 0)),
    ("compressed-copied", compressed, |i| i.set_word(entry(i, 0), i.word(entry(i, 0)) | COPIED)),
    ("compressed-outside", compressed, |i| i.set_word(entry(i, 0), COMPRESSED | 0xff_0000)),
    ("compressed-lost", compressed, |i| i.set_word(entry(i, 0), 0)),
    ("compressed-long", compressed, |i| i.set_word(entry(i, 0), i.word(entry(i, 0)) | 0x7f << 54)),
    ("extended-both", extended, |i| i.poke(i.l2(0) + 8 + 3, &[1])),
    ("extended-nowhere", extended, |i| i.poke(i.l2(0) + 80 + 15, &[1])),
    ("extended-compressed", extended, |i| i.poke(i.l2(0), &[0x40])),
    ("extended-unaligned", extended, |i| i.poke(i.l2(0) + 6, &[2])),
    ("extended-copied", extended, |i| i.poke(i.l2(0) + 16, &[0])),
    ("one-bit-twice", one_bit, |i| i.set_word(entry(i, 1), i.word(entry(i, 0)))),
    ("one-bit-on-block", one_bit, |i| i.set_word(entry(i, 1), COPIED | i.refcount_block())),
    ("data-file-copied", data_file, |i| i.poke(entry(i, 0), &[0])),
    ("data-file-copied-clear", data_file, |i| i.set_word(entry(i, 2), 0x20000)),
    ("data-file-compressed", data_file, |i| i.set_word(entry(i, 0), COMPRESSED | 0x50000)),
    ("data-file-unaligned", data_file, |i| i.set_word(entry(i, 0), COPIED | 0x200)),
    ("data-file-snapshot", data_file, |i| {
        // A snapshot table of one entry with 16 bytes of extra data, no tables and no name.
        let mut table = vec![0; 0x10000];
        table[39] = 16;
        let at = i.bytes().len() as u64;
        i.write(&[i.bytes(), table].concat());
        i.set_half_word(60, 1);
        i.set_word(64, at);
    }),
    ("dirty", crashed, |_| ()),
    ("bitmap-off", with_bitmap, |i| i.poke(95, &[0])),
    ("bitmap-data-refcount-0", with_bitmap, |i| {
        i.set_refcount(i.word(i.word(i.bitmap_directory())) >> 16, 0);
    }),
    ("bitmap-table-refcount-0", with_bitmap, |i| i.set_refcount(i.word(i.bitmap_directory()) >> 16, 0)),
    ("bitmap-directory-refcount-2", with_bitmap, |i| i.set_refcount(i.bitmap_directory() >> 16, 2)),
    ("bitmap-data-outside", with_bitmap, |i| i.set_word(i.word(i.bitmap_directory()), 0xf0_0000)),
    ("bitmap-data-lost", with_bitmap, |i| i.set_word(i.word(i.bitmap_directory()), 0)),
    ("bitmap-data-on-data", with_bitmap, |i| i.set_word(i.word(i.bitmap_directory()), 0x5_0000)),
    ("bitmap-table-outside", with_bitmap, |i| i.set_word(i.bitmap_directory(), 0xf0_0000)),
];

/// Makes one of them.
pub fn make((name, create, damage): &Damage) -> Image {
    let image = create(&format!("damaged-{name}"));
    damage(&image);
    image
}
