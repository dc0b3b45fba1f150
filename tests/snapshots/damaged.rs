//! Refcounts that are wrong while snapshots come and go: they cost no data.

use std::time::SystemTime;

use holstein::{CheckProblemKind, Disk, DiskOptions};

use crate::{
    judge::exhaustive,
    site::{DISK, KIB, Site, read},
    support::patch::{extension, peek64, poke},
};

const CLUSTER: u64 = 64 * KIB;
const OFFSET: u64 = 0x00ff_ffff_ffff_fe00;

fn at(site: &Site, offset: u64) -> u64 {
    peek64(&site.path(), offset) & OFFSET
}

fn refcount_of(site: &Site, host: u64) -> u64 {
    at(site, at(site, 48)) + host / CLUSTER * 2
}

/// Two snapshots, of which the second shares with the disk what was not written since.
fn site() -> Site {
    let site = Site::new("");
    site.workshop.img(&["snapshot", "-c", "one", DISK]);
    site.io(&["write -P 4 512k 64k"]);
    site.workshop.img(&["snapshot", "-c", "two", DISK]);
    site.io(&["write -P 5 640k 64k", "write -P 6 3M 64k"]);
    site.add_bitmap("a");
    site
}

fn snapshot(site: &Site, name: &str) -> Vec<u8> {
    site.workshop.img(&["convert", "-l", name, "-O", "raw", DISK, "out.raw"]);
    std::fs::read(site.workshop.path("out.raw")).unwrap()
}

/// Each structure in turn has no refcount, or only a part of it, or too much of it.
#[test]
fn a_wrong_refcount_costs_no_data() {
    let first = site();
    let snapshots = at(&first, 64);
    let (one, two) = (at(&first, snapshots), at(&first, snapshots + 72));
    let directory = at(&first, extension(&first.path(), 0x2385_2875).0 + 16);
    let structures = [
        ("data of all", at(&first, first.l2_table() + 3 * 8)),
        ("data of two", at(&first, first.l2_table() + 8 * 8)),
        ("data of the disk", at(&first, first.l2_table() + 10 * 8)),
        ("data of the snapshots", at(&first, at(&first, two) + 10 * 8)),
        ("data of the first snapshot", at(&first, at(&first, one) + 8 * 8)),
        ("the L2 table", first.l2_table()),
        ("the L2 table of the first snapshot", at(&first, one)),
        ("the L2 table of the second", at(&first, two)),
        ("the L1 table", at(&first, 40)),
        ("the L1 table of the first snapshot", one),
        ("the L1 table of the second", two),
        ("the snapshot table", snapshots),
        ("the refcount table", at(&first, 48)),
        ("the refcount block", at(&first, at(&first, 48))),
        ("the bitmap directory", directory),
    ];
    for (number, (name, host)) in structures.into_iter().enumerate() {
        // In a normal run two of them each.
        for count in [0, 1, 2, 9].into_iter().filter(|count| exhaustive() || (number + count) % 2 == 0) {
            let about = format!("{name}, {count}");
            let site = site();
            let kept = snapshot(&site, "two");
            poke(&site.path(), refcount_of(&site, host), &[0, count as u8]);
            let disk = site.open();
            let mut contents = read(&disk);
            let mut write = |disk: &Disk, byte: u8| {
                for start in [200_000, 530_000, 650_000, 2_000_000, 3_150_000] {
                    disk.write_at(&[byte; 70_000], start).unwrap();
                    contents[start as usize..][..70_000].fill(byte);
                }
                disk.flush().unwrap();
                contents.clone()
            };
            disk.create_snapshot(b"new", SystemTime::now()).unwrap();
            let then = read(&disk);
            write(&disk, 7);
            disk.delete_snapshot(b"one").unwrap();
            write(&disk, 8);
            assert!(snapshot_now(&site, "new") == then, "{about}");
            disk.delete_snapshot(b"new").unwrap();
            let now = write(&disk, 9);
            disk.close().unwrap();
            assert!(read(&site.open()) == now, "{about}: the disk");
            assert!(snapshot(&site, "two") == kept, "{about}: the snapshot");
            // Nothing got a refcount that is too low but what had one from the beginning.
            let report = Disk::check(site.path(), &DiskOptions::default()).unwrap();
            let low = report.problems.iter().filter(|p| p.kind == CheckProblemKind::RefcountTooLow);
            assert!(low.clone().all(|p| p.offset == Some(host)), "{about}: {:?}", low.collect::<Vec<_>>());
        }
    }
}

/// The same while we have the image open.
fn snapshot_now(site: &Site, name: &str) -> Vec<u8> {
    site.workshop.img(&["convert", "-U", "-l", name, "-O", "raw", DISK, "out.raw"]);
    std::fs::read(site.workshop.path("out.raw")).unwrap()
}
