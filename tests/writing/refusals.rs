//! What is refused: with which words, and that nothing has changed.

use std::{
    fs,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use holstein::{Access, Backup, BackupOptions, DiskOptions, ErrorKind, Format, Transaction};

use super::site::{DISK, KIB, MIB, Site};
use crate::support::{
    command::mentions,
    patch::{peek32, peek64, poke},
    qsd::Qsd,
};

#[test]
fn ranges_outside_the_disk() {
    let site = Site::new("");
    let disk = site.open();
    let words = |text| ["disk.qcow2", text, "do not lie in the disk of 4194304 bytes"];
    for (at, length, text) in [
        (4 * MIB, 1, "1 bytes at offset 4194304"),
        (4 * MIB - 511, 512, "512 bytes at offset 4193793"),
        (u64::MAX - 100, 200, "at offset 18446744073709551515"),
    ] {
        let bytes = vec![1; length as usize];
        site.refuses(ErrorKind::InvalidArgument, &words(text), || disk.write_at(&bytes, at));
        let end = at.saturating_add(length);
        site.refuses(ErrorKind::InvalidArgument, &words("bytes at offset"), || disk.write_zeroes(at..end));
        site.refuses(ErrorKind::InvalidArgument, &words("bytes at offset"), || disk.discard(at..end));
    }
    let backwards = std::ops::Range { start: 2, end: 1 };
    let text = &["the range ends before it begins"];
    site.refuses(ErrorKind::InvalidArgument, text, || disk.write_zeroes(backwards.clone()));
    site.refuses(ErrorKind::InvalidArgument, text, || disk.discard(backwards));

    // Nothing at all, at the very end, is in the disk.
    let before = site.files();
    disk.write_at(&[], 4 * MIB).unwrap();
    disk.write_zeroes(4 * MIB..4 * MIB).unwrap();
    disk.close().unwrap();
    assert!(site.files() == before);
}

#[test]
fn a_disk_that_was_opened_for_reading() {
    let site = Site::new("");
    let words = &["disk.qcow2", "was opened for reading; it cannot be written"];
    site.refuses_all(ErrorKind::WrongState, words, &DiskOptions::default());
    let disk = site.open_as(&DiskOptions::default());
    disk.flush().unwrap();
    disk.close().unwrap();
}

#[test]
fn a_chain_that_is_not_open_as_a_whole() {
    let site = Site::over(4 * MIB, "");
    site.add_bitmap("a");
    // It would be given up before the first write.
    spoil_bitmap(&site);
    let words = &["disk.qcow2", "was opened without its backing files; open all of the chain"];
    site.refuses_all(ErrorKind::WrongState, words, &Site::top_only());
    assert_eq!(site.flags("a"), r#"["auto"]"#);
}

/// Makes the image's only bitmap one that cannot be trusted, in a way that leaves everything else sound: bits
/// behind the end of the disk.
pub fn spoil_bitmap(site: &Site) {
    site.io(&["write 0 1"]);
    let path = site.path();
    let (extension, _) = crate::support::patch::extension(&path, 0x2385_2875);
    let table = peek64(&path, peek64(&path, extension + 16));
    let data = peek64(&path, table);
    assert_ne!(data, 0, "the bitmap has no data");
    poke(&path, data + 5, &[1]);
}

#[test]
fn raw_images() {
    let site = Site::empty();
    fs::write(site.path(), vec![5; MIB as usize]).unwrap();
    let options = DiskOptions { format: Format::Raw, ..Site::options() };
    site.refuses_all(ErrorKind::Unsupported, &["disk.qcow2", "only qcow2 images are written"], &options);
}

#[test]
fn a_disk_that_a_backup_reads() {
    let site = Site::new("");
    let storage = site.simulated();
    let disk = site.open_in(Arc::new(storage.clone()), &Site::options());
    let target = site.folder().join("copy.qcow2");
    let seen = Arc::new(AtomicUsize::new(0));
    {
        let (disk, seen) = (disk.clone(), seen.clone());
        storage.before_write(move |notice| {
            if notice.path.ends_with(DISK) {
                panic!("the source is written");
            }
            for result in [
                disk.write_at(&[1; 512], 0),
                disk.write_zeroes(0..512),
                disk.discard(0..MIB),
                disk.resize(MIB),
                disk.change_bitmaps(&[]),
            ] {
                let error = result.unwrap_err();
                assert_eq!(error.kind(), ErrorKind::WrongState);
                mentions(&error.to_string(), &["disk.qcow2", "is read by a running backup"]);
            }
            seen.fetch_add(1, Ordering::Relaxed);
        });
    }
    let mut transaction = Transaction::new();
    transaction.add(Backup { source: disk.clone(), target, options: BackupOptions::default() });
    transaction.commit().unwrap();
    assert!(seen.load(Ordering::Relaxed) > 2);
    storage.before_write(|_| {});
    disk.write_at(&[1; 512], 0).unwrap();
}

#[test]
fn an_image_that_qemu_uses() {
    let site = Site::new("");
    site.add_bitmap("a");
    let mut daemon = Qsd::start(&site.workshop);
    daemon.open("vm", DISK, false);
    let words = ["disk.qcow2", "the image is in use by another process"];
    site.refuses(ErrorKind::Locked, &words, || holstein::Disk::open(site.path(), &Site::options()));
    let before = site.files();
    for args in [
        &["write", DISK, "0", "--zero", "1M"][..],
        &["write", DISK, "0", "--from", "noise.pat"],
        &["resize", DISK, "+1M"],
    ] {
        mentions(&site.holstein.error(args, 1), &words);
        assert!(site.files() == before, "{args:?}");
    }
    daemon.quit();
    // One that reads it is in the way too, and we are in the way of QEMU.
    let mut daemon = Qsd::start(&site.workshop);
    daemon.open("vm", DISK, true);
    mentions(&site.holstein.error(&["write", DISK, "0", "--zero", "1M"], 1), &words);
    daemon.quit();
    let disk = site.open();
    let output = site.workshop.try_io(DISK, "qcow2", &["write 0 512"]);
    assert!(!output.status.success());
    drop(disk);
}

#[test]
fn images_marked_dirty_or_corrupt() {
    for (bit, words) in [
        (1, "the refcounts are marked as stale; repair the image first"),
        (2, "the image is marked as corrupt; repair it first"),
    ] {
        let site = Site::new("");
        site.add_bitmap("a");
        poke(&site.path(), 79, &[bit]);
        site.refuses_all(ErrorKind::Corrupt, &["disk.qcow2", words], &Site::options());
    }
}

/// Guest data that lies on each structure, which is named.
#[test]
fn guest_data_on_metadata() {
    let image = || {
        let site = Site::new("");
        site.workshop.img(&["snapshot", "-c", "one", DISK]);
        // The active L2 table becomes another one than the snapshot's.
        site.io(&["write 0 1"]);
        site.add_bitmap("a");
        site
    };
    let site = image();
    let at = |offset| peek64(&site.path(), offset) & 0x00ff_ffff_ffff_fe00;
    let refcount_table = at(48);
    let (snapshots, directory) = (at(64), crate::support::patch::extension(&site.path(), 0x2385_2875).0);
    let snapshot_l1 = at(snapshots);
    let length = fs::metadata(site.path()).unwrap().len().next_multiple_of(64 * KIB);
    let structures = [
        (at(40), "on the L1 table"),
        (site.l2_table(), "on the L2 table of L1 entry 0"),
        (refcount_table, "on the refcount table"),
        (at(refcount_table), "on refcount block 0"),
        (snapshots, "on the snapshot table"),
        (snapshot_l1, "on the L1 table of snapshot 0"),
        (at(snapshot_l1), "on an L2 table of a snapshot"),
        (at(directory + 16), "on the bitmap directory"),
        (length + MIB, "behind the end of the file"),
    ];
    for (host, words) in structures {
        let site = image();
        assert_eq!(peek32(&site.path(), 20), 16);
        // The guest's cluster 40 was not written yet.
        poke(&site.path(), site.l2_table() + 40 * 8, &(host | 1 << 63).to_be_bytes());
        let guest_data = format!("guest data at {host:#x} lies {words}");
        let words = ["disk.qcow2", &guest_data, "repair the image before it is changed"];
        site.refuses_all(ErrorKind::Corrupt, &words, &Site::options());
        let args = ["write", DISK, "0", "--zero", "1M"];
        mentions(&site.holstein.error(&args, 1), &words);
    }
}

#[test]
fn sharing_what_is_written() {
    let site = Site::new("");
    let options = DiskOptions { sharing: holstein::Sharing::ForceShare, ..Site::options() };
    assert_eq!(options.access, Access::Write);
    let words = &["disk.qcow2", "an image that is shared cannot be written"];
    site.refuses(ErrorKind::InvalidArgument, words, || holstein::Disk::open(site.path(), &options));
}
