//! One bitmap that cannot be trusted: the disk stays readable, where QEMU may refuse the whole image or take
//! the bitmap as it is; the bitmap is listed with a reason, and no backup is made by it.

use super::{Case, Expect, Expect::*, Qemu, Qemu::*, base};
use crate::builder::{self, Builder, Cluster, Image, field::*, pattern};

/// The base image's directory entry, changed.
fn entry(name: &'static str, expect: Expect, qemu: Qemu, change: impl Fn(&mut Image, u64) + 'static) -> Case {
    Case::poke(name, expect, qemu, move |i| change(i, i.at.bitmap[0]))
}

/// The first word of the base image's bitmap table.
fn word(
    name: &'static str,
    expect: Expect,
    qemu: Qemu,
    change: impl Fn(&Image, u64) -> u64 + 'static,
) -> Case {
    Case::poke(name, expect, qemu, move |i| {
        let place = i.at.bitmap_table[0];
        let value = change(i, i.get(place));
        i.u64(place, value);
    })
}

/// The table's offset in the base image's directory.
fn table_at(name: &'static str, expect: Expect, qemu: Qemu, place: impl Fn(&Image) -> u64 + 'static) -> Case {
    Case::poke(name, expect, qemu, move |i| i.u64(i.at.bitmap[0] + DIR_TABLE_OFFSET, place(i)))
}

/// A disk of 64 MiB at 512 bytes a bit: four table entries.
fn four_entries() -> Builder {
    Builder::new(12, 64 << 20).cluster(0, Cluster::Data(pattern(1, 4096))).bitmap(builder::Bitmap::new(
        "b0",
        9,
        &[0..1, 40_000..40_010, 131_071..131_072],
    ))
}

pub fn cases() -> Vec<Case> {
    let mut cases = states();
    cases.extend(tables());
    cases.extend(foreign_clusters());
    cases.extend(bombs());
    cases
}

fn states() -> Vec<Case> {
    vec![
        entry("bitmap-in-use", Bitmap("b0", "use"), Accepts, |i, at| {
            i.u32(at + DIR_FLAGS, AUTO | IN_USE);
        }),
        // Nobody knows what a writer that died has left behind, so its table may even be of a wrong length.
        entry("bitmap-in-use-wrong-length", Bitmap("b0", "use"), Accepts, |i, at| {
            i.u32(at + DIR_FLAGS, AUTO | IN_USE);
            i.u32(at + DIR_TABLE_SIZE, 7);
        }),
        // It did not record: what it shows is true, but not all that changed.
        entry("bitmap-disabled", Bitmap("b0", ""), Accepts, |i, at| i.u32(at + DIR_FLAGS, 0)),
    ]
}

fn tables() -> Vec<Case> {
    vec![
        Case::new("bitmap-table-too-short", Bitmap("b0", "length"), RefusesOpen, |_| {
            four_entries().build().edit(|i| i.u32(i.at.bitmap[0] + DIR_TABLE_SIZE, 3))
        }),
        entry("bitmap-table-too-long", Bitmap("b0", "length"), RefusesOpen, |i, at| {
            i.u32(at + DIR_TABLE_SIZE, 2);
        }),
        entry("bitmap-table-much-too-long", Bitmap("b0", "length"), RefusesOpen, |i, at| {
            i.u32(at + DIR_TABLE_SIZE, 0x0002_0000);
        }),
        // The disk was grown by somebody who did not grow the bitmap.
        Case::new("bitmap-of-a-smaller-disk", Bitmap("b0", "length"), RefusesOpen, |_| {
            four_entries().build().edit(|i| {
                i.u64(SIZE, (64 << 20) + 4096);
                i.u32(L1_SIZE, 33); // the entry is there, and zero
            })
        }),
        Case::new("bitmap-granularity-coarser", Bitmap("b0", "length"), RefusesOpen, |_| {
            four_entries().build().edit(|i| i.u8(i.at.bitmap[0] + DIR_GRANULARITY, 10))
        }),
        word("bitmap-entry-reserved-low", Bitmap("b0", ""), RefusesOpen, |_, word| word | 2),
        word("bitmap-entry-reserved-bit-8", Bitmap("b0", ""), RefusesOpen, |_, word| word | 1 << 8),
        word("bitmap-entry-reserved-bit-56", Bitmap("b0", ""), RefusesOpen, |_, word| word | 1 << 56),
        word("bitmap-entry-reserved-bit-63", Bitmap("b0", ""), RefusesOpen, |_, word| word | 1 << 63),
        word("bitmap-entry-unaligned", Bitmap("b0", ""), RefusesOpen, |_, word| word | 0x200),
        word("bitmap-entry-offset-and-ones", Bitmap("b0", ""), RefusesOpen, |_, word| word | 1),
        // QEMU reads zeros past the end of the file, and so believes that nothing is dirty.
        word("bitmap-entry-past-eof", Bitmap("b0", ""), Accepts, |_, _| 0x4000_0000),
        word("bitmap-entry-at-eof", Bitmap("b0", ""), Accepts, |i, _| i.len()),
        word("bitmap-entry-highest", Bitmap("b0", ""), Accepts, |_, _| 0x00FF_FFFF_FFFF_F000),
        table_at("bitmap-table-past-eof", Bitmap("b0", ""), Accepts, |_| 0x4000_0000),
        table_at("bitmap-table-at-eof", Bitmap("b0", ""), Accepts, Image::len),
        table_at("bitmap-table-overflow", Bitmap("b0", ""), RefusesOpen, |_| 0x7FFF_FFFF_FFFF_F000),
        Case::new("bitmap-table-cut", Bitmap("b0", ""), Accepts, |_| {
            four_entries().build().edit(|i| {
                let table = i.append_copy(i.at.bitmap_table[0], 20);
                i.u64(i.at.bitmap[0] + DIR_TABLE_OFFSET, table);
            })
        }),
        Case::new("bitmap-data-cut", Bitmap("b0", ""), Accepts, |_| {
            four_entries().build().edit(|i| {
                let data = i.append_copy(i.at.bitmap_data[0][&3], 900);
                i.u64(i.at.bitmap_table[0] + 24, data);
            })
        }),
        word("bitmap-entry-all-ones", Dirtier, Accepts, |_, _| 1),
        // Bits past the disk's end mean nothing.
        Case::poke("bitmap-bits-beyond-the-disk", Same, Accepts, |i| {
            i.put(i.at.bitmap_data[0][&0] + 8, &[0xFF; 4088]);
        }),
        // The directory's last bytes are the file's last: nothing is missing.
        Case::poke("bitmap-directory-ends-the-file", Same, Accepts, |i| i.truncate(i.at.directory + 32)),
    ]
}

/// Bitmaps on clusters that belong to somebody else. QEMU has no overlap check for them.
fn foreign_clusters() -> Vec<Case> {
    vec![
        table_at("bitmap-table-is-the-reftable", Bitmap("b0", ""), Accepts, |i| i.at.reftable),
        table_at("bitmap-table-is-the-header", Open("table"), RefusesOpen, |_| 0),
        table_at("bitmap-table-is-the-l1", Bitmap("b0", ""), RefusesOpen, |i| i.at.l1),
        table_at("bitmap-table-is-the-l2", Bitmap("b0", ""), RefusesOpen, |i| i.at.l2[&0]),
        table_at("bitmap-table-is-guest-data", Bitmap("b0", ""), RefusesOpen, |i| i.at.data[&5]),
        word("bitmap-data-is-the-l1", Bitmap("b0", ""), Accepts, |i, _| i.at.l1),
        word("bitmap-data-is-the-l2", Bitmap("b0", ""), Accepts, |i, _| i.at.l2[&0]),
        word("bitmap-data-is-a-refblock", Bitmap("b0", ""), Accepts, |i, _| i.at.refblocks[0]),
        word("bitmap-data-is-guest-data", Bitmap("b0", ""), Accepts, |i, _| i.at.data[&5]),
        word("bitmap-data-is-compressed-data", Bitmap("b0", ""), Accepts, |i, _| i.at.data[&3] & !0xFFF),
        word("bitmap-data-is-its-table", Bitmap("b0", ""), Accepts, |i, _| i.at.bitmap_table[0]),
        word("bitmap-data-is-the-directory", Bitmap("b0", ""), Accepts, |i, _| i.at.directory),
        Case::new("bitmap-data-is-a-snapshot-l1", Bitmap("b0", ""), Accepts, |_| {
            base().snapshot("1", "s").build().edit(|i| i.u64(i.at.bitmap_table[0], i.at.snapshot_l1[0]))
        }),
        Case::new("bitmap-data-is-the-snapshot-table", Bitmap("b0", ""), Accepts, |_| {
            base().snapshot("1", "s").build().edit(|i| i.u64(i.at.bitmap_table[0], i.at.snapshots))
        }),
        Case::new("bitmap-entries-share-data", Bitmap("b0", ""), Accepts, |_| {
            four_entries().build().edit(|i| i.u64(i.at.bitmap_table[0] + 8, i.get(i.at.bitmap_table[0])))
        }),
        Case::new("bitmaps-share-a-table", Bitmap("b1", ""), Accepts, |_| {
            let second = builder::Bitmap::new("b1", 12, &[2..3]);
            base().bitmap(second).build().edit(|i| {
                i.u64(i.at.bitmap[1] + DIR_TABLE_OFFSET, i.at.bitmap_table[0]);
            })
        }),
        Case::new("bitmaps-share-data", Bitmap("b0", ""), Accepts, |_| {
            let second = builder::Bitmap::new("b1", 12, &[2..3]);
            base().bitmap(second).build().edit(|i| i.u64(i.at.bitmap_table[1], i.get(i.at.bitmap_table[0])))
        }),
        Case::poke("bitmap-data-refcount-0", Bitmap("b0", ""), Accepts, |i| {
            i.u16(i.at.refblocks[0] + i.at.bitmap_data[0][&0] / 4096 * 2, 0);
        }),
    ]
}

/// Small files that ask for much memory.
fn bombs() -> Vec<Case> {
    let large = NotRun("it takes 1.6 GB");
    vec![
        // Three bitmaps, one table, 512 MiB of bits each.
        Case::new("bitmap-bomb", Bitmap("b1", ""), large, |_| {
            let mut spec = Builder::new(16, 2 << 40).cluster(0, Cluster::Data(pattern(1, 4096)));
            for name in ["b0", "b1", "b2"] {
                spec.bitmaps.push(builder::Bitmap::new(name, 20, &[0..1]));
            }
            spec.build().edit(|i| {
                // 2 TiB at 512 bytes a bit: 2^32 bits, 512 MiB, 8192 entries of 64 KiB.
                let table = i.len();
                (0..8192).for_each(|index| i.u64(table + index * 8, 1));
                for bitmap in i.at.bitmap.clone() {
                    i.u64(bitmap + DIR_TABLE_OFFSET, table);
                    i.u32(bitmap + DIR_TABLE_SIZE, 8192);
                    i.u8(bitmap + DIR_GRANULARITY, 9);
                }
            })
        }),
    ]
}
