//! What is refused, how it is told, and that nothing has changed then.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::SystemTime,
};

use holstein::{Access, Backup, BackupOptions, DiskOptions, ErrorKind, Format, Transaction};

use crate::{
    site::{DISK, MIB, Site},
    support::{
        command::mentions,
        patch::{peek64, poke},
    },
};

fn now() -> SystemTime {
    SystemTime::now()
}

impl Site {
    /// Refuses to take a snapshot and to delete one.
    #[track_caller]
    fn refuses_both(&self, kind: ErrorKind, words: &[&str], options: &DiskOptions) {
        let disk = self.open_as(options);
        self.refuses(kind, words, || disk.create_snapshot(b"new", now()));
        self.refuses(kind, words, || disk.delete_snapshot(b"one"));
    }

    fn take(&self, name: &str) {
        self.workshop.img(&["snapshot", "-c", name, DISK]);
    }
}

#[test]
fn names() {
    let site = Site::new("");
    site.take("one");
    site.take("5");
    let disk = site.open();
    let cannot_be = ["disk.qcow2", "a snapshot's name has 1 to 255 bytes, none of them zero"];
    for name in [&b""[..], &[b'x'; 256], b"a\0b"] {
        site.refuses(ErrorKind::InvalidArgument, &cannot_be, || disk.create_snapshot(name, now()));
    }
    for name in ["one", "1", "5"] {
        let words = ["disk.qcow2", &format!("has a snapshot with the name or id '{name}' already")];
        site.refuses(ErrorKind::Exists, &words, || disk.create_snapshot(name.as_bytes(), now()));
    }
    for name in [&b""[..], b"two", b"3", b"on", b"one\0"] {
        site.refuses(ErrorKind::NotFound, &["disk.qcow2", "the image has no snapshot '"], || {
            disk.delete_snapshot(name)
        });
    }
    // The longest, any bytes, and the id that is free next.
    for name in [&[0xff; 255][..], b"6", b"*?%s\n"] {
        assert_eq!(disk.create_snapshot(name, now()).unwrap().name, String::from_utf8_lossy(name));
    }
    let ids: Vec<_> = disk.info().unwrap().snapshots.into_iter().map(|snapshot| snapshot.id).collect();
    assert_eq!(ids, ["1", "2", "3", "4", "7"]);
    disk.close().unwrap();
    site.workshop.check(DISK);
}

/// QEMU takes names twice, and such that are the id of another.
#[test]
fn ambiguous_names() {
    let site = Site::new("");
    for name in ["twice", "twice", "1"] {
        site.take(name);
    }
    let disk = site.open();
    for (name, words) in [
        ("twice", "'twice' is the id or the name of several snapshots (their ids: 1, 2)"),
        ("1", "'1' is the id or the name of several snapshots (their ids: 1, 3)"),
    ] {
        let words = ["disk.qcow2", words, "use one that is of one alone"];
        site.refuses(ErrorKind::InvalidArgument, &words, || disk.delete_snapshot(name.as_bytes()));
    }
    disk.delete_snapshot(b"2").unwrap();
    disk.delete_snapshot(b"twice").unwrap();
    disk.delete_snapshot(b"1").unwrap();
    drop(disk);
    site.workshop.check(DISK);
}

#[test]
fn data_files() {
    let site = Site::empty();
    site.create("data_file=data.raw", 4 * MIB);
    site.io(&["write -P 1 0 1M"]);
    let words = ["disk.qcow2", "an image with a data file cannot have internal snapshots"];
    site.refuses_both(ErrorKind::Unsupported, &words, &Site::options());
}

/// An image with a data file that says it has a snapshot can only be read: what its tables lead to lies in the other file,
/// and must not be given back in this one.
#[test]
fn a_snapshot_beside_a_data_file() {
    let site = Site::empty();
    site.create("data_file=data.raw", 4 * MIB);
    site.io(&["write -P 1 0 1M"]);
    let path = site.path();
    let end = std::fs::metadata(&path).unwrap().len().next_multiple_of(64 << 10);
    poke(&path, end, &peek64(&path, peek64(&path, 40)).to_be_bytes());
    let mut entry = [0; 72];
    entry[..8].copy_from_slice(&end.to_be_bytes());
    entry[8..16].copy_from_slice(&[0, 0, 0, 1, 0, 1, 0, 3]);
    entry[39] = 24;
    entry[48..56].copy_from_slice(&(4 * MIB).to_be_bytes());
    entry[64..68].copy_from_slice(b"1one");
    poke(&path, end + (64 << 10), &entry);
    poke(&path, 60, &[0, 0, 0, 1]);
    poke(&path, 64, &(end + (64 << 10)).to_be_bytes());
    let words = ["disk.qcow2", "an image with a data file cannot have internal snapshots"];
    site.refuses_both(ErrorKind::Corrupt, &words, &Site::options());
    let disk = site.open();
    site.refuses(ErrorKind::Corrupt, &words, || disk.write_at(&[1; 512], 0));
    let mut byte = [0];
    disk.read_at(&mut byte, 0).unwrap();
    assert_eq!(byte, [1]);
}

#[test]
fn raw_images() {
    let site = Site::empty();
    std::fs::write(site.path(), vec![5; MIB as usize]).unwrap();
    let options = DiskOptions { format: Format::Raw, ..Site::options() };
    site.refuses_both(ErrorKind::Unsupported, &["disk.qcow2", "only qcow2 images are written"], &options);
}

#[test]
fn a_disk_that_was_opened_for_reading() {
    let site = Site::new("");
    site.take("one");
    let options = DiskOptions { access: Access::Read, ..Site::options() };
    let words = ["disk.qcow2", "was opened for reading; it cannot be written"];
    site.refuses_both(ErrorKind::WrongState, &words, &options);
}

#[test]
fn images_marked_dirty_or_corrupt() {
    for (bit, words) in [
        (1, "the refcounts are marked as stale; repair the image first"),
        (2, "the image is marked as corrupt; repair it first"),
    ] {
        let site = Site::new("");
        site.take("one");
        poke(&site.path(), 79, &[bit]);
        site.refuses_both(ErrorKind::Corrupt, &["disk.qcow2", words], &Site::options());
    }
}

/// Unknown autoclear bits are cleared before a change, and not before a refusal.
#[test]
fn refcounts_that_cannot_tell() {
    for (bits, most) in [(1, 1), (2, 3), (4, 15)] {
        let site = Site::new(&format!("cluster_size=4k,refcount_bits={bits}"));
        for number in 1..most {
            site.open().create_snapshot(format!("s{number}").as_bytes(), now()).unwrap();
        }
        site.workshop.check(DISK);
        poke(&site.path(), 88, &[0x80]);
        let disk = site.open();
        let words = [
            "disk.qcow2",
            &format!(
                "would be referred to {} times, and its refcounts of {bits} bits tell at most {most}",
                most + 1
            ),
            "delete a snapshot, or give the image wider refcounts (qemu-img amend -o refcount_bits=64)",
        ];
        site.refuses(ErrorKind::Limit, &words, || disk.create_snapshot(b"new", now()));
        if most > 1 {
            disk.delete_snapshot(b"s1").unwrap();
            disk.create_snapshot(b"new", now()).unwrap();
        }
        drop(disk);
        site.workshop.check(DISK);
    }
}

/// What would be shared is damaged: an entry that cannot be.
#[test]
fn a_disk_with_an_invalid_entry() {
    let site = Site::new("");
    poke(&site.path(), 88, &[0x80]);
    poke(&site.path(), site.l2_table() + 40 * 8, &0x0200_0000_0000_0000_u64.to_be_bytes());
    let disk = site.open();
    site.refuses(ErrorKind::Corrupt, &["disk.qcow2", "L2 entry", "guest offset 0x280000 is invalid"], || {
        disk.create_snapshot(b"new", now())
    });
}

/// Guest data on the table of a snapshot: what is free cannot be told.
#[test]
fn guest_data_on_metadata() {
    let site = Site::new("");
    site.take("one");
    site.io(&["write 0 1"]);
    let l1 = peek64(&site.path(), peek64(&site.path(), 64));
    poke(&site.path(), site.l2_table() + 40 * 8, &(l1 | 1 << 63).to_be_bytes());
    let words = ["disk.qcow2", "lies on the L1 table of snapshot 0", "repair the image before it is changed"];
    site.refuses_both(ErrorKind::Corrupt, &words, &Site::options());
}

#[test]
fn a_disk_that_a_backup_reads() {
    let site = Site::new("");
    site.take("one");
    let storage = site.simulated();
    let disk = site.open_in(Arc::new(storage.clone()), &Site::options());
    let target = site.folder().join("copy.qcow2");
    let seen = Arc::new(AtomicUsize::new(0));
    {
        let (disk, seen) = (disk.clone(), seen.clone());
        storage.before_write(move |notice| {
            assert!(!notice.path.ends_with(DISK), "the source is written");
            let taken = disk.create_snapshot(b"new", now()).map(drop);
            for error in [taken.unwrap_err(), disk.delete_snapshot(b"one").unwrap_err()] {
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
    disk.create_snapshot(b"new", now()).unwrap();
    disk.delete_snapshot(b"one").unwrap();
}
