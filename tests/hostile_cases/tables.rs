//! L1 and L2 entries, refcount tables, and metadata that lies on other metadata or past the end of the file.

use super::{Case, Expect, Expect::*, Qemu, Qemu::*, base};
use crate::builder::{Builder, Cluster, Image, field::*, pattern, text};

/// The L2 entry of guest cluster 5 of the base image, changed.
fn entry(
    name: &'static str,
    expect: Expect,
    qemu: Qemu,
    change: impl Fn(&Image, u64) -> u64 + 'static,
) -> Case {
    Case::poke(name, expect, qemu, move |i| {
        let place = i.at.entry[&5];
        let value = change(i, i.get(place));
        i.u64(place, value);
    })
}

/// The only L1 entry of the base image, changed.
fn l1(name: &'static str, expect: Expect, qemu: Qemu, change: impl Fn(&Image, u64) -> u64 + 'static) -> Case {
    Case::poke(name, expect, qemu, move |i| {
        let value = change(i, i.get(i.at.l1));
        i.u64(i.at.l1, value);
    })
}

/// The first refcount table entry of the base image.
fn reftable(name: &'static str, expect: Expect, qemu: Qemu, value: u64) -> Case {
    Case::poke(name, expect, qemu, move |i| i.u64(i.at.reftable, value))
}

/// An image with extended L2 entries; cluster 0 has data in its first subcluster and zeros in its last.
fn extended(name: &'static str, expect: Expect, qemu: Qemu, change: fn(&mut Image)) -> Case {
    Case::new(name, expect, qemu, move |_| {
        let parts = Cluster::Subclusters { contents: pattern(1, 16384), allocated: 1, zero: 1 << 31 };
        let mut spec = Builder::new(14, 8 << 14).cluster(0, parts);
        spec.extended_l2 = true;
        spec.build().edit(change)
    })
}

pub fn cases() -> Vec<Case> {
    let mut cases = l1_entries();
    cases.extend(l2_entries());
    cases.extend(short_tables());
    cases.extend(extended_entries());
    cases.extend(refcounts());
    cases
}

fn l1_entries() -> Vec<Case> {
    vec![
        l1("l1-entry-reserved-low", Open("L1"), Accepts, |_, entry| entry | 1),
        l1("l1-entry-reserved-bit-8", Open("L1"), Accepts, |_, entry| entry | 1 << 8),
        l1("l1-entry-reserved-high", Open("L1"), Accepts, |_, entry| entry | 1 << 56),
        l1("l1-entry-reserved-bit-62", Open("L1"), Accepts, |_, entry| entry | 1 << 62),
        l1("l1-entry-unaligned", Open("L1"), RefusesRead, |_, _| COPIED | 0x4200),
        l1("l1-entry-past-eof", Open("L2"), Accepts, |_, _| COPIED | 0x4000_0000),
        l1("l1-entry-at-eof", Open("L2"), Accepts, |i, _| COPIED | i.len()),
        l1("l1-entry-highest", Open("L2"), Accepts, |_, _| COPIED | 0x00FF_FFFF_FFFF_F000),
        l1("l1-entry-is-the-l1", Open("L2"), Accepts, |i, _| COPIED | i.at.l1),
        l1("l1-entry-is-the-reftable", Open("L2"), Accepts, |i, _| COPIED | i.at.reftable),
        l1("l1-entry-is-a-refblock", Open("L2"), Accepts, |i, _| COPIED | i.at.refblocks[0]),
        l1("l1-entry-is-the-bitmap-directory", Open("L2"), RefusesRead, |i, _| COPIED | i.at.directory),
        Case::new("l1-entries-share-an-l2", Open("L2"), Accepts, |_| {
            base().with(|spec| spec.size = 4 << 20).build().edit(|i| i.u64(i.at.l1 + 8, i.get(i.at.l1)))
        }),
    ]
}

fn l2_entries() -> Vec<Case> {
    vec![
        entry("l2-entry-reserved-low", Read("L2"), Accepts, |_, entry| entry | 2),
        entry("l2-entry-reserved-bit-8", Read("L2"), Accepts, |_, entry| entry | 1 << 8),
        entry("l2-entry-reserved-bit-56", Read("L2"), Accepts, |_, entry| entry | 1 << 56),
        entry("l2-entry-reserved-bit-61", Read("L2"), Accepts, |_, entry| entry | 1 << 61),
        entry("l2-entry-unaligned", Read(""), RefusesRead, |_, entry| entry | 0x200),
        entry("l2-entry-zero-unaligned", Read(""), RefusesRead, |_, entry| entry | 0x201),
        entry("l2-entry-past-eof", Read(""), Accepts, |_, _| COPIED | 0x4000_0000),
        entry("l2-entry-highest", Read(""), Accepts, |_, _| 0xBFFF_FFFF_FFFF_0000),
        entry("l2-entry-zero-past-eof", Same, Accepts, |_, _| COPIED | 0x4000_0000 | ZERO),
        entry("l2-entry-is-the-l2", Read(""), Accepts, |i, _| COPIED | i.at.l2[&0]),
        entry("l2-entry-is-the-l1", Read(""), Accepts, |i, _| COPIED | i.at.l1),
        entry("l2-entry-is-a-refblock", Read(""), Accepts, |i, _| COPIED | i.at.refblocks[0]),
        entry("l2-entry-is-the-reftable", Read(""), Accepts, |i, _| COPIED | i.at.reftable),
        entry("l2-entry-copied-without-offset", Read(""), Accepts, |_, _| COPIED),
        // Two guest clusters on one host cluster, and wrong refcounts: legal to read, not to write.
        entry("l2-entries-share-a-cluster", Same, Accepts, |i, _| i.get(i.at.entry[&0])),
        entry("l2-entry-not-copied", Same, Accepts, |_, entry| entry & !COPIED),
        Case::poke("l2-cluster-refcount-0", Same, Accepts, |i| {
            i.u16(i.at.refblocks[0] + i.at.data[&5] / 4096 * 2, 0);
        }),
        Case::poke("l2-cluster-refcount-2", Same, Accepts, |i| {
            i.u16(i.at.refblocks[0] + i.at.data[&5] / 4096 * 2, 2);
        }),
        Case::new("l2-zero-flag-in-version-2", Read(""), RefusesRead, |_| {
            let mut spec = base();
            spec.version = 2;
            spec.bitmaps.clear();
            spec.clusters.retain(|_, cluster| matches!(cluster, Cluster::Data(_)));
            spec.build().edit(|i| i.or(i.at.entry[&5], ZERO))
        }),
        // A 512 GiB disk all of which maps to one host cluster.
        Case::new("l2-everything-shares-a-cluster", Same, Accepts, |_| {
            let mut spec = Builder::new(21, 512 << 30);
            spec.clusters.insert(0, Cluster::Data(pattern(1, 4096)));
            spec.build().edit(|i| {
                let (table, entry) = (i.at.l2[&0], i.get(i.at.entry[&0]) & !COPIED);
                (0..1 << 18).for_each(|index| i.u64(table + index * 8, entry));
            })
        }),
    ]
}

/// Tables and data that the file's end cuts short. QEMU reads zeros there.
fn short_tables() -> Vec<Case> {
    /// Moves the L2 table to the end of the file, of which it keeps `length` bytes.
    fn l2_at_the_end(i: &mut Image, length: u64) {
        let table = i.append_copy(i.at.l2[&0], length);
        i.u64(i.at.l1, COPIED | table);
    }
    /// An image that ends with the data of its last guest cluster.
    fn data_last() -> Image {
        Builder::new(12, 64 << 12)
            .cluster(0, Cluster::Data(pattern(1, 4096)))
            .cluster(63, Cluster::Data(pattern(63, 4096)))
            .build()
    }
    vec![
        Case::poke("l2-cut-in-the-middle", Open("L2"), Accepts, |i| l2_at_the_end(i, 8 * 6)),
        Case::poke("l2-cut-in-an-entry", Open("L2"), Accepts, |i| l2_at_the_end(i, 8 * 5 + 4)),
        Case::poke("l2-cut-to-nothing", Open("L2"), Accepts, |i| l2_at_the_end(i, 0)),
        Case::poke("reftable-cut", Open("refcount"), Accepts, |i| {
            let table = i.append_copy(i.at.reftable, 12);
            i.u64(REFTABLE_OFFSET, table);
        }),
        // A file may end inside its last data cluster: the rest reads as zero.
        Case::new("data-cut-in-last-cluster", Same, Accepts, |_| {
            data_last().edit(|i| i.truncate(i.at.data[&63] + 1000))
        }),
        Case::new("data-cluster-missing", Read(""), Accepts, |_| {
            data_last().edit(|i| i.truncate(i.at.data[&63]))
        }),
        Case::new("data-cut-at-l1", Open("L1"), Accepts, |_| data_last().edit(|i| i.truncate(i.at.l1))),
        Case::new("data-cut-at-l2", Open("L2"), Accepts, |_| data_last().edit(|i| i.truncate(i.at.l2[&0]))),
    ]
}

fn extended_entries() -> Vec<Case> {
    vec![
        extended("extended-valid", Same, Accepts, |_| {}),
        extended("extended-both-bits", Read(""), RefusesRead, |i| i.or(i.at.entry[&0] + 8, 1 << 32)),
        extended("extended-both-bits-all", Read(""), RefusesRead, |i| {
            i.u64(i.at.entry[&0] + 8, u64::MAX);
        }),
        extended("extended-allocated-nowhere", Read(""), RefusesRead, |i| i.u64(i.at.entry[&0], 0)),
        extended("extended-zero-flag", Read(""), Accepts, |i| i.or(i.at.entry[&0], ZERO)),
        extended("extended-unaligned", Read(""), RefusesRead, |i| i.or(i.at.entry[&0], 0x200)),
        extended("extended-past-eof", Read(""), Accepts, |i| {
            i.u64(i.at.entry[&0], COPIED | 0x4000_0000);
        }),
        // The table's own bytes are in the first subcluster; QEMU reads what is behind them.
        extended("extended-behind-the-l1", Read("L1"), Accepts, |i| {
            i.u64(i.at.entry[&0], COPIED | i.at.l1);
            i.u64(i.at.entry[&0] + 8, 2);
        }),
        extended("extended-l2-past-eof", Open("L2"), Accepts, |i| i.u64(i.at.l1, COPIED | 0x4000_0000)),
        extended("extended-l1-too-small", Open("L1"), RefusesOpen, |i| {
            i.u64(SIZE, (1024 << 14) + 512);
        }),
        Case::new("extended-compressed-with-subclusters", Same, Accepts, |_| {
            let mut spec = Builder::new(14, 8 << 14).cluster(0, Cluster::deflate(text(1, 16384)));
            spec.extended_l2 = true;
            spec.build().edit(|i| i.u64(i.at.entry[&0] + 8, 0x0000_0001_8000_0000))
        }),
    ]
}

/// Reading needs no refcounts, and QEMU does not look at them; what is impossible is refused all the same.
fn refcounts() -> Vec<Case> {
    vec![
        reftable("reftable-entry-reserved", Open("refcount"), Accepts, 0x2001),
        reftable("reftable-entry-unaligned", Open("refcount"), Accepts, 0x2A00),
        reftable("reftable-entry-32-pib", Open("refcount"), Accepts, 0x00FF_FFFF_0000_0000),
        reftable("reftable-entry-overflow", Open("refcount"), Accepts, 0x7FFF_FFFF_FFFF_0000),
        reftable("reftable-entry-past-eof", Open("refcount"), Accepts, 0x4000_0000),
        Case::poke("reftable-entry-twice", Open("refcount"), Accepts, |i| {
            i.u64(i.at.reftable + 8, i.at.refblocks[0]);
        }),
        Case::poke("reftable-entry-is-the-reftable", Open("refcount"), Accepts, |i| {
            i.u64(i.at.reftable, i.at.reftable);
        }),
        Case::poke("refblock-cut", Open("refcount"), Accepts, |i| {
            let block = i.append_copy(i.at.refblocks[0], 20);
            i.u64(i.at.reftable, block);
        }),
    ]
}
