//! Changes of bitmaps on trial: whatever crashes and whatever fails, the bitmaps are the old ones or the new ones,
//! the disk holds what it held, and QEMU agrees.
//!
//! Reading order: `images` (what is changed), `model` (the changes, and what they shall do), `judge`, then
//! `crashes`, `failures` and `backup`.
#![allow(clippy::unwrap_used, clippy::expect_used)] // what cannot be done here fails the test
#![allow(dead_code, unreachable_pub)] // some modules are shared with other test programs

#[path = "bitmap_crashes/backup.rs"]
mod backup;
#[path = "support/crash.rs"]
mod crash;
#[path = "bitmap_crashes/crashes.rs"]
mod crashes;
#[path = "support/trials/failing.rs"]
mod failing;
#[path = "bitmap_crashes/failures.rs"]
mod failures;
#[path = "support/trials/images.rs"]
mod images;
#[path = "support/trials/judge.rs"]
mod judge;
#[path = "support/trials/model.rs"]
mod model;
#[path = "support/qemu.rs"]
mod qemu;
#[path = "support/qsd.rs"]
mod qsd;
#[path = "support/trials/refcounts.rs"]
mod refcounts;
#[path = "support/rng.rs"]
mod rng;

use std::sync::OnceLock;

use images::{Image, Recipe, Special};

/// The tests of each image.
macro_rules! trials {
    ($($module:ident: $options:literal, $size:literal, $special:expr;)*) => {$(
        mod $module {
            use super::*;

            fn image() -> &'static Image {
                static IMAGE: OnceLock<Image> = OnceLock::new();
                IMAGE.get_or_init(|| {
                    let name = stringify!($module);
                    Recipe { name, options: $options, size: $size, special: $special }.make()
                })
            }

            #[test]
            fn crashes_leave_old_or_new() {
                crashes::leave_old_or_new(image());
            }

            #[test]
            fn failures_leave_old_or_new() {
                failures::leave_old_or_new(image());
            }

            #[test]
            fn failed_syncs_leave_old_or_new() {
                failures::of_a_sync_leave_old_or_new(image());
            }

            #[test]
            fn failures_of_a_backup_keep_what_it_has_not() {
                backup::failures_keep_what_it_has_not(image());
            }

            #[test]
            fn a_bitmap_is_clean_only_where_its_increment_is() {
                backup::keeps_what_it_has_not(image());
            }
        }
    )*};
}

trials! {
    straddling: "cluster_size=64k", 49152, Special::Straddling;
    small_clusters: "cluster_size=512", 49152, Special::None;
    narrow_refcounts: "cluster_size=4k,refcount_bits=1", 49152, Special::None;
    large_clusters: "cluster_size=2M,refcount_bits=64", 49152, Special::LargeClusters;
    extended_l2: "cluster_size=16k,extended_l2=on", 49152, Special::None;
    short_backing_name: "cluster_size=4k", 49152, Special::Backing(12);
    long_backing_name: "cluster_size=4k", 49152, Special::Backing(900);
    snapshot: "cluster_size=4k,refcount_bits=32", 49152, Special::Snapshot;
    full_refcount_blocks: "cluster_size=512,refcount_bits=64", 1024, Special::FullBlocks;
    full_refcount_table: "cluster_size=512,refcount_bits=64", 3072, Special::FullTable;
}
