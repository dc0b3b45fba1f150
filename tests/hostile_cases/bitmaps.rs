//! The bitmaps extension and the directory. What is wrong there concerns every bitmap, and the image is
//! refused, as QEMU does; the two exceptions are images that have no valid bitmaps to begin with.

use super::{
    Case, Expect,
    Expect::{NoBitmap, Open, Same},
    Qemu,
    Qemu::*,
    base,
};
use crate::builder::{Bitmap, Builder, Image, field::*};

/// The base image's bitmaps extension, changed.
fn extension(
    name: &'static str,
    expect: Expect,
    qemu: Qemu,
    change: impl Fn(&mut Image, u64) + 'static,
) -> Case {
    Case::poke(name, expect, qemu, move |i| change(i, i.at.bitmaps_extension()))
}

/// The base image's directory entry, changed.
fn entry(name: &'static str, expect: Expect, qemu: Qemu, change: impl Fn(&mut Image, u64) + 'static) -> Case {
    Case::poke(name, expect, qemu, move |i| change(i, i.at.bitmap[0]))
}

/// The base image with two bitmaps of these names.
fn two(first: &str, second: &str) -> Builder {
    base().with(|spec| {
        spec.bitmaps = vec![Bitmap::new(first, 12, &[0..1]), Bitmap::new(second, 16, &[0..4])];
    })
}

pub fn cases() -> Vec<Case> {
    let mut cases = extension_cases();
    cases.extend(entry_cases());
    cases.extend(no_bitmaps());
    cases
}

fn extension_cases() -> Vec<Case> {
    vec![
        extension("bitmaps-nb-0", Open("bitmap"), RefusesOpen, |i, at| i.u32(at + EXT_NB_BITMAPS, 0)),
        extension("bitmaps-nb-2-of-1", Open("bitmap"), RefusesOpen, |i, at| {
            i.u32(at + EXT_NB_BITMAPS, 2);
        }),
        extension("bitmaps-nb-65536", Open("bitmap"), RefusesOpen, |i, at| {
            i.u32(at + EXT_NB_BITMAPS, 65_536);
        }),
        extension("bitmaps-nb-max", Open("bitmap"), RefusesOpen, |i, at| {
            i.u32(at + EXT_NB_BITMAPS, u32::MAX);
        }),
        Case::new("bitmaps-nb-1-of-2", Open("bitmap"), RefusesOpen, |_| {
            two("a", "b").build().edit(|i| i.u32(i.at.bitmaps_extension() + EXT_NB_BITMAPS, 1))
        }),
        extension("directory-size-0", Open("bitmap"), RefusesOpen, |i, at| {
            i.u64(at + EXT_DIRECTORY_SIZE, 0);
        }),
        extension("directory-size-above-64-mib", Open("bitmap"), RefusesOpen, |i, at| {
            i.u64(at + EXT_DIRECTORY_SIZE, 1024 * 65_535 + 8);
        }),
        extension("directory-size-at-limit-past-eof", Open("bitmap"), RefusesOpen, |i, at| {
            i.u64(at + EXT_DIRECTORY_SIZE, 1024 * 65_535);
        }),
        extension("directory-size-max", Open("bitmap"), RefusesOpen, |i, at| {
            i.u64(at + EXT_DIRECTORY_SIZE, u64::MAX);
        }),
        extension("directory-trailing-entry", Open("bitmap"), RefusesOpen, |i, at| {
            i.u64(at + EXT_DIRECTORY_SIZE, 64);
        }),
        extension("directory-trailing-8-bytes", Open("bitmap"), RefusesOpen, |i, at| {
            i.u64(at + EXT_DIRECTORY_SIZE, 40);
        }),
        extension("directory-size-too-short", Open("bitmap"), RefusesOpen, |i, at| {
            i.u64(at + EXT_DIRECTORY_SIZE, 24);
        }),
        extension("directory-size-odd", Open("bitmap"), RefusesOpen, |i, at| {
            i.u64(at + EXT_DIRECTORY_SIZE, 31);
        }),
        extension("directory-unaligned", Open("bitmap"), RefusesOpen, |i, at| {
            i.u64(at + EXT_DIRECTORY_OFFSET, i.at.directory + 512);
        }),
        extension("directory-offset-0", Open("bitmap"), RefusesOpen, |i, at| {
            i.u64(at + EXT_DIRECTORY_OFFSET, 0);
        }),
        extension("directory-overflow", Open("bitmap"), RefusesOpen, |i, at| {
            i.u64(at + EXT_DIRECTORY_OFFSET, 0x7FFF_FFFF_FFFF_F000);
        }),
        extension("directory-past-eof", Open("bitmap"), RefusesOpen, |i, at| {
            i.u64(at + EXT_DIRECTORY_OFFSET, 0x4000_0000);
        }),
        extension("directory-is-the-l2", Open("bitmap"), RefusesOpen, |i, at| {
            i.u64(at + EXT_DIRECTORY_OFFSET, i.at.l2[&0]);
        }),
        // The bytes after the file's end would have been the name.
        Case::poke("directory-cut", Open("bitmap"), Accepts, |i| i.truncate(i.at.directory + 24)),
    ]
}

fn entry_cases() -> Vec<Case> {
    vec![
        entry("bitmap-table-offset-0", Open("bitmap"), RefusesOpen, |i, at| {
            i.u64(at + DIR_TABLE_OFFSET, 0);
        }),
        entry("bitmap-table-unaligned", Open("bitmap"), RefusesOpen, |i, at| {
            i.u64(at + DIR_TABLE_OFFSET, i.at.bitmap_table[0] + 512);
        }),
        entry("bitmap-table-size-0", Open("bitmap"), RefusesOpen, |i, at| i.u32(at + DIR_TABLE_SIZE, 0)),
        entry("bitmap-table-size-above-limit", Open("bitmap"), RefusesOpen, |i, at| {
            i.u32(at + DIR_TABLE_SIZE, 0x0800_0001);
        }),
        entry("bitmap-table-size-max", Open("bitmap"), RefusesOpen, |i, at| {
            i.u32(at + DIR_TABLE_SIZE, u32::MAX);
        }),
        entry("bitmap-flags-reserved", Open("bitmap"), RefusesOpen, |i, at| i.u32(at + DIR_FLAGS, AUTO | 8)),
        entry("bitmap-flags-bit-31", Open("bitmap"), RefusesOpen, |i, at| {
            i.u32(at + DIR_FLAGS, AUTO | 1 << 31);
        }),
        entry("bitmap-flags-extra-compatible", Open("bitmap"), RefusesOpen, |i, at| {
            i.u32(at + DIR_FLAGS, AUTO | EXTRA_COMPATIBLE);
        }),
        entry("bitmap-type-0", Open("bitmap"), RefusesOpen, |i, at| i.u8(at + DIR_TYPE, 0)),
        entry("bitmap-type-2", Open("bitmap"), RefusesOpen, |i, at| i.u8(at + DIR_TYPE, 2)),
        entry("bitmap-granularity-8", Open("bitmap"), RefusesOpen, |i, at| i.u8(at + DIR_GRANULARITY, 8)),
        entry("bitmap-granularity-32", Open("bitmap"), RefusesOpen, |i, at| i.u8(at + DIR_GRANULARITY, 32)),
        entry("bitmap-granularity-63", Open("bitmap"), RefusesOpen, |i, at| i.u8(at + DIR_GRANULARITY, 63)),
        entry("bitmap-granularity-255", Open("bitmap"), RefusesOpen, |i, at| {
            i.u8(at + DIR_GRANULARITY, 255);
        }),
        entry("bitmap-name-size-1024", Open("bitmap"), RefusesOpen, |i, at| {
            i.u16(at + DIR_NAME_SIZE, 1024);
            i.u64(i.at.bitmaps_extension() + EXT_DIRECTORY_SIZE, 24 + 1024);
            i.put(at + DIR_NAME, &[b'n'; 1024]);
        }),
        entry("bitmap-name-size-max", Open("bitmap"), RefusesOpen, |i, at| {
            i.u16(at + DIR_NAME_SIZE, u16::MAX);
        }),
        entry("bitmap-name-empty", Open("bitmap"), Accepts, |i, at| {
            i.u16(at + DIR_NAME_SIZE, 0);
            i.u64(i.at.bitmaps_extension() + EXT_DIRECTORY_SIZE, 24);
        }),
        entry("bitmap-name-with-nul", Open("bitmap"), Accepts, |i, at| {
            i.u16(at + DIR_NAME_SIZE, 5);
            i.put(at + DIR_NAME, b"b0\0x!");
        }),
        entry("bitmap-extra-data-8", Open("bitmap"), RefusesOpen, |i, at| {
            i.u32(at + DIR_EXTRA_SIZE, 8);
            i.u64(i.at.bitmaps_extension() + EXT_DIRECTORY_SIZE, 40);
        }),
        // Added up in 32 bits the entry's size would be negative, and the walk would go backwards.
        entry("bitmap-extra-data-negative", Open("bitmap"), RefusesOpen, |i, at| {
            i.u32(at + DIR_EXTRA_SIZE, 0xFFFF_FFE8);
        }),
        Case::new("bitmap-names-equal", Open("bitmap"), RefusesOpen, |_| two("same", "same").build()),
        Case::new("bitmap-name-path", Same, Accepts, |_| two("../../x", "/etc/passwd").build()),
        Case::new("bitmap-name-format-string", Same, Accepts, |_| two("%s%n{}{0}", "--help").build()),
        Case::new("bitmap-name-escapes", Same, Accepts, |_| {
            two("\x1b[2J\x1b]0;x\x07", "a\r\nb\u{9b}").build()
        }),
        Case::new("bitmap-name-not-utf8", Same, Accepts, |_| {
            base().with(|spec| spec.bitmaps[0].name = b"\xff\xfe\x80".into()).build()
        }),
        // As many entries as are allowed, in a directory of 2 MiB, and one bitmap table for all.
        Case::new("bitmaps-65535", Open("bitmap"), NotRun("it loads them all"), |_| {
            base().build().edit(|i| {
                let entry = i.bytes[i.at.directory as usize..][..32].to_vec();
                let directory = i.len();
                for number in 0..65_535u64 {
                    let mut entry = entry.clone();
                    entry[18..20].copy_from_slice(&5u16.to_be_bytes());
                    entry[24..29].copy_from_slice(format!("{number:05}").as_bytes());
                    i.put(directory + number * 32, &entry);
                }
                let at = i.at.bitmaps_extension();
                i.u32(at + EXT_NB_BITMAPS, 65_535);
                i.u64(at + EXT_DIRECTORY_SIZE, 65_535 * 32);
                i.u64(at + EXT_DIRECTORY_OFFSET, directory);
            })
        }),
    ]
}

/// Images whose bitmaps do not count: nobody kept them up to date.
fn no_bitmaps() -> Vec<Case> {
    vec![
        Case::poke("bitmaps-autoclear-off", NoBitmap, Accepts, |i| i.u64(AUTOCLEAR, 0)),
        // Not even a broken directory matters then.
        extension("bitmaps-autoclear-off-directory-past-eof", NoBitmap, Accepts, |i, at| {
            i.u64(AUTOCLEAR, 0);
            i.u64(at + EXT_DIRECTORY_OFFSET, 0x4000_0000);
        }),
        Case::new("bitmaps-in-version-2", NoBitmap, Accepts, |_| {
            let mut spec = base();
            spec.version = 2;
            spec.clusters.retain(|_, cluster| !matches!(cluster, crate::builder::Cluster::Zero));
            spec.clusters.remove(&2);
            spec.build()
        }),
    ]
}
