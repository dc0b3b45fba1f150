//! Refcounts and references that do not agree: neither may cost data.

use holstein::Disk;

use super::site::{DISK, KIB, MIB, Site, read};
use crate::support::{
    patch::{extension, peek64, poke},
    rng::Rng,
};

const CLUSTER: u64 = 64 * KIB;
const OFFSET: u64 = 0x00ff_ffff_ffff_fe00;

fn at(site: &Site, offset: u64) -> u64 {
    peek64(&site.path(), offset) & OFFSET
}

/// Sets the 16-bit refcount of the cluster at a host offset.
fn set_refcount(site: &Site, host: u64, count: u16) {
    let block = at(site, at(site, 48));
    poke(&site.path(), block + host / CLUSTER * 2, &count.to_be_bytes());
}

/// Writes, frees and writes again all over the disk's second half, so that whatever seems free is used.
fn churn(disk: &Disk, contents: &mut [u8]) {
    let mut random = Rng::new(1, 6);
    for round in 0..6 {
        for _ in 0..6 {
            let (start, length) = (random.between(2 * MIB, 3 * MIB), random.between(1, 200_000));
            let bytes = random.bytes(length as usize, 0);
            disk.write_at(&bytes, start).unwrap();
            contents[start as usize..][..bytes.len()].copy_from_slice(&bytes);
        }
        disk.flush().unwrap();
        if round % 2 == 0 {
            disk.write_zeroes(2 * MIB..3 * MIB).unwrap();
            contents[2 << 20..3 << 20].fill(0);
        }
        disk.flush().unwrap();
        assert!(read(disk) == contents, "round {round}");
    }
}

/// Each structure in turn has no refcount, so it seems free.
#[test]
fn what_is_referred_to_is_not_given_away() {
    let site = || {
        let site = Site::new("");
        site.io(&["write -P 3 3M 64k"]);
        site.workshop.img(&["snapshot", "-c", "one", DISK]);
        site.io(&["write -P 4 512k 64k"]);
        site.add_bitmap("a");
        site.io(&["write -P 5 640k 64k"]);
        site
    };
    let first = site();
    let directory = at(&first, extension(&first.path(), 0x2385_2875).0 + 16);
    let snapshot_l1 = at(&first, at(&first, 64));
    let structures = [
        ("guest data", at(&first, first.l2_table() + 3 * 8)),
        ("guest data of its own", at(&first, first.l2_table() + 8 * 8)),
        ("the L2 table", first.l2_table()),
        ("the L1 table", at(&first, 40)),
        ("the refcount table", at(&first, 48)),
        ("the refcount block", at(&first, at(&first, 48))),
        ("the snapshot table", at(&first, 64)),
        ("the L1 table of the snapshot", snapshot_l1),
        ("the L2 table of the snapshot", at(&first, snapshot_l1)),
        ("the bitmap directory", directory),
        ("the bitmap's table", at(&first, directory)),
        ("the bitmap's data", at(&first, at(&first, directory))),
    ];
    for (name, host) in structures {
        let site = site();
        set_refcount(&site, host, 0);
        let disk = site.open();
        let mut contents = read(&disk);
        churn(&disk, &mut contents);
        // What is not written in place is copied.
        for start in [200_000, 600_000] {
            disk.write_at(&[9; 1000], start).unwrap();
            contents[start as usize..][..1000].fill(9);
        }
        disk.resize(5 * MIB + 512).unwrap();
        contents.resize(5 * MIB as usize + 512, 0);
        assert!(read(&disk) == contents, "{name}");
        disk.close().unwrap_or_else(|e| panic!("{name}: {e}"));
        assert!(read(&site.open()) == contents, "{name}");
        site.workshop.img(&["convert", "-l", "one", "-O", "raw", DISK, "one.raw"]);
        let snapshot = std::fs::read(site.workshop.path("one.raw")).unwrap();
        assert!(snapshot[..MIB as usize] == site.contents()[..MIB as usize], "{name}");
        assert!(snapshot[3 << 20..][..64 << 10].iter().all(|byte| *byte == 3), "{name}");
    }
}

/// Two entries refer to one cluster that has a refcount of one.
#[test]
fn what_two_refer_to_is_not_written_in_place() {
    let site = Site::new("");
    let entry: [u8; 8] = peek64(&site.path(), site.l2_table() + 2 * 8).to_be_bytes();
    poke(&site.path(), site.l2_table() + 40 * 8, &entry);
    let disk = site.open();
    let mut contents = read(&disk);
    assert!(contents[40 << 16..41 << 16] == contents[2 << 16..3 << 16]);
    for start in [2 * CLUSTER + 100, 40 * CLUSTER + 200] {
        disk.write_at(&[7; 100], start).unwrap();
        contents[start as usize..][..100].fill(7);
        assert!(read(&disk) == contents);
    }
    disk.discard(2 * CLUSTER..3 * CLUSTER).unwrap();
    contents[2 << 16..3 << 16].fill(0);
    churn(&disk, &mut contents);
    disk.close().unwrap();
    assert!(read(&site.open()) == contents);
}

/// A refcount that is too high keeps a cluster from being written in place, and leaks.
#[test]
fn what_may_have_another_user_is_copied() {
    let site = Site::new("");
    let host = at(&site, site.l2_table() + 2 * 8);
    set_refcount(&site, host, 2);
    let before = std::fs::read(site.path()).unwrap()[host as usize..][..CLUSTER as usize].to_vec();
    let disk = site.open();
    let mut contents = read(&disk);
    disk.write_at(&[7; 100], 2 * CLUSTER).unwrap();
    contents[2 << 16..][..100].fill(7);
    churn(&disk, &mut contents);
    disk.close().unwrap();
    assert!(std::fs::read(site.path()).unwrap()[host as usize..][..CLUSTER as usize] == before);
    let output = site.workshop.try_run("qemu-img", &["check", "-r", "leaks", DISK]);
    assert!(output.status.success());
    site.holds(&contents);
}
