//! The snapshot table. It is walked only to list the snapshots and to know which clusters they own: where it is damaged
//! the disk is read all the same, and no bitmap is trusted.

use super::{Case, Expect, Expect::*, Qemu, Qemu::*, base};
use crate::builder::{Builder, Image, field::*};

/// The base image with two snapshots, changed.
fn two(name: &'static str, expect: Expect, qemu: Qemu, change: fn(&mut Image)) -> Case {
    Case::new(name, expect, qemu, move |_| {
        base().snapshot("1", "before").snapshot("2", "after").build().edit(change)
    })
}

/// A version 2 image, which asks for no extra data: entries of 40 zero bytes are whole snapshots.
fn version_2(snapshots: u32) -> Image {
    let mut spec = Builder::new(12, 1 << 16);
    spec.version = 2;
    spec.build().edit(|i| {
        i.u32(NB_SNAPSHOTS, snapshots);
        i.u64(SNAPSHOTS_OFFSET, i.len());
        i.length = Some(i.len() + u64::from(snapshots) * 40);
    })
}

pub fn cases() -> Vec<Case> {
    vec![
        two("snapshots-valid", Same, Accepts, |_| {}),
        two("snapshots-nb-max", Bitmap("b0", "snapshot"), RefusesOpen, |i| i.u32(NB_SNAPSHOTS, u32::MAX)),
        two("snapshots-nb-65537", Bitmap("b0", "snapshot"), RefusesOpen, |i| i.u32(NB_SNAPSHOTS, 65_537)),
        two("snapshots-nb-3", Bitmap("b0", "snapshot"), Accepts, |i| i.u32(NB_SNAPSHOTS, 3)),
        two("snapshots-offset-unaligned", Bitmap("b0", "snapshot"), RefusesOpen, |i| {
            i.u64(SNAPSHOTS_OFFSET, i.at.snapshots + 512);
        }),
        two("snapshots-offset-overflow", Bitmap("b0", "snapshot"), RefusesOpen, |i| {
            i.u64(SNAPSHOTS_OFFSET, 0x7FFF_FFFF_FFFF_F000);
        }),
        two("snapshots-offset-past-eof", Bitmap("b0", "snapshot"), Accepts, |i| {
            i.u64(SNAPSHOTS_OFFSET, 0x4000_0000);
        }),
        two("snapshots-on-the-l1", Bitmap("b0", "snapshot"), Accepts, |i| i.u64(SNAPSHOTS_OFFSET, i.at.l1)),
        two("snapshots-on-the-header", Bitmap("b0", "snapshot"), Accepts, |i| i.u64(SNAPSHOTS_OFFSET, 0)),
        two("snapshot-extra-64-kib", Bitmap("b0", "snapshot"), RefusesOpen, |i| {
            i.u32(i.at.snapshot[0] + SNAP_EXTRA_SIZE, 0x0001_0000);
        }),
        two("snapshot-extra-max", Bitmap("b0", "snapshot"), RefusesOpen, |i| {
            i.u32(i.at.snapshot[0] + SNAP_EXTRA_SIZE, u32::MAX);
        }),
        two("snapshot-extra-1025", Bitmap("b0", "snapshot"), RefusesOpen, |i| {
            i.u32(i.at.snapshot[0] + SNAP_EXTRA_SIZE, 1025);
        }),
        two("snapshot-extra-8", Bitmap("b0", "snapshot"), Accepts, |i| {
            i.u32(i.at.snapshot[1] + SNAP_EXTRA_SIZE, 8);
        }),
        two("snapshot-id-past-eof", Bitmap("b0", "snapshot"), Accepts, |i| {
            i.u16(i.at.snapshot[1] + SNAP_ID_SIZE, 0xFFFF);
        }),
        two("snapshot-name-past-eof", Bitmap("b0", "snapshot"), Accepts, |i| {
            i.u16(i.at.snapshot[1] + SNAP_NAME_SIZE, 0xFFFF);
        }),
        two("snapshot-name-escapes", Same, Accepts, |i| {
            i.put(i.at.snapshot[0] + 40 + 24, b"\x1b[2J\n\xff\r");
        }),
        two("snapshot-l1-size-large", Bitmap("b0", "snapshot"), Accepts, |i| {
            i.u32(i.at.snapshot[0] + SNAP_L1_SIZE, 0x1000_0000);
        }),
        two("snapshot-l1-size-max", Bitmap("b0", "snapshot"), Accepts, |i| {
            i.u32(i.at.snapshot[0] + SNAP_L1_SIZE, u32::MAX);
        }),
        two("snapshot-l1-unaligned", Bitmap("b0", "snapshot"), Accepts, |i| {
            i.u64(i.at.snapshot[0] + SNAP_L1_OFFSET, i.at.snapshot_l1[0] + 8);
        }),
        two("snapshot-l1-overflow", Bitmap("b0", "snapshot"), Accepts, |i| {
            i.u64(i.at.snapshot[0] + SNAP_L1_OFFSET, 0x7FFF_FFFF_FFFF_F000);
        }),
        two("snapshot-l1-past-eof", Bitmap("b0", "snapshot"), Accepts, |i| {
            i.u64(i.at.snapshot[0] + SNAP_L1_OFFSET, 0x4000_0000);
        }),
        two("snapshot-l1-is-the-refblock", Bitmap("b0", "snapshot"), Accepts, |i| {
            i.u64(i.at.snapshot[0] + SNAP_L1_OFFSET, i.at.refblocks[0]);
        }),
        two("snapshot-table-cut", Bitmap("b0", "snapshot"), Accepts, |i| {
            let table = i.append_copy(i.at.snapshots, 60);
            i.u64(SNAPSHOTS_OFFSET, table);
        }),
        Case::new("snapshots-65536-of-zeros", NoBitmap, Accepts, |_| version_2(65_536)),
        Case::new("snapshots-131072-of-zeros", NoBitmap, RefusesOpen, |_| version_2(131_072)),
        // 65,536 entries of more than 1 KiB each: beyond what the table may be.
        Case::new("snapshots-table-above-64-mib", NoBitmap, RefusesOpen, |_| {
            version_2(65_536).edit(|i| {
                let mut entry = vec![0; 40 + 1024];
                entry[36..40].copy_from_slice(&1024u32.to_be_bytes());
                let table = entry.repeat(65_536);
                i.length = None;
                i.put(i.len(), &table);
            })
        }),
    ]
}
