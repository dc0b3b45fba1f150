//! Long chains of backing files: read right in bounded memory and descriptors, and one limit that holds for what is opened
//! and for what is made.
#![allow(clippy::unwrap_used, clippy::expect_used, unreachable_pub)] // the builder is a module of its own

#[path = "support/builder/mod.rs"]
mod builder;

use std::{
    fs,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use builder::{Builder, Cluster, pattern};
use holstein::{
    Access, Action, Backing, Backup, BackupOptions, CreateOptions, Disk, DiskOptions, ErrorKind, Format,
    OverlayOptions, Sharing, SyncMode, Transaction,
};

const CLUSTER: usize = 512;

/// `count` images, each on top of the one before and with a cluster of its own; the paths, the base first.
fn chain(folder: &Path, count: usize, size: u64) -> Vec<PathBuf> {
    let path = |index: usize| folder.join(format!("{index}"));
    for index in 0..count {
        let mut image =
            Builder::new(9, size).cluster(index as u64, Cluster::Data(pattern(index as u64, CLUSTER)));
        if index > 0 {
            image = image.backing(format!("{}", index - 1), "qcow2");
        }
        image.build().write(&path(index));
    }
    (0..count).map(path).collect()
}

/// What the disk of such a chain reads as.
fn contents(count: usize, size: u64) -> Vec<u8> {
    let mut disk: Vec<u8> = (0..count).flat_map(|index| pattern(index as u64, CLUSTER)).collect();
    disk.resize(size as usize, 0);
    disk
}

fn read(disk: &Disk) -> Vec<u8> {
    let mut buf = vec![0; disk.size() as usize];
    disk.read_at(&mut buf, 0).unwrap();
    buf
}

/// Descriptors of this process that lead into a folder.
fn open_files(folder: &Path) -> usize {
    let folder = folder.canonicalize().unwrap();
    let links =
        fs::read_dir("/proc/self/fd").unwrap().filter_map(|entry| fs::read_link(entry.ok()?.path()).ok());
    links.filter(|to| to.starts_with(&folder)).count()
}

fn full(source: Disk, target: PathBuf, format: Format) -> Backup {
    Backup { source, target, options: BackupOptions { format, ..BackupOptions::default() } }
}

#[test]
fn a_thousand_images_are_read_with_few_descriptors() {
    let folder = tempfile::tempdir().unwrap();
    let size = 1 << 20;
    let images = chain(folder.path(), 1000, size);
    let disk = Disk::open(images.last().unwrap(), &DiskOptions::default()).unwrap();
    assert_eq!(disk.chain().len(), 1000);
    assert_eq!(disk.chain()[999].path.file_name(), images[0].file_name());
    assert!(open_files(folder.path()) <= 64, "{}", open_files(folder.path()));
    let wanted = contents(1000, size);
    assert!(read(&disk) == wanted);
    let depths: Vec<usize> = disk.map(0..size).map(|run| run.unwrap().depth).collect();
    assert_eq!(depths[..1000], (0..1000).rev().collect::<Vec<_>>());
    // Several threads at once.
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let (disk, wanted) = (&disk, &wanted);
            scope.spawn(move || {
                for at in (thread * 512..500 << 10).step_by(100 * 512) {
                    let mut buf = [0; 512];
                    disk.read_at(&mut buf, at as u64).unwrap();
                    assert!(buf[..] == wanted[at..at + 512]);
                }
            });
        }
    });
    assert!(open_files(folder.path()) <= 64, "{}", open_files(folder.path()));

    let copy = folder.path().join("copy.raw");
    let mut transaction = Transaction::new();
    transaction.add(full(disk.clone(), copy.clone(), Format::Raw));
    transaction.commit().unwrap();
    assert!(fs::read(copy).unwrap() == wanted);
}

#[test]
fn memory_for_few_images_is_enough_for_many() {
    let folder = tempfile::tempdir().unwrap();
    let images = chain(folder.path(), 200, 1 << 20);
    let options = DiskOptions { memory_limit: 1 << 20, ..DiskOptions::default() };
    let disk = Disk::open(images.last().unwrap(), &options).unwrap();
    assert!(read(&disk) == contents(200, 1 << 20));
}

#[test]
fn the_image_above_the_limit_is_not_opened_and_not_made() {
    let folder = tempfile::tempdir().unwrap();
    let images = chain(folder.path(), 1001, 1 << 20);
    let error = Disk::open(&images[1000], &DiskOptions::default()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Limit);
    assert!(error.to_string().contains("1000 images"), "{error}");
    let higher = DiskOptions { chain_limit: 1001, ..DiskOptions::default() };
    assert_eq!(Disk::open(&images[1000], &higher).unwrap().chain().len(), 1001);

    let (last, name) = (&images[999], Backing { name: "999".into(), format: Format::Qcow2 });
    let target = folder.path().join("target");
    let refused = |what: &str, error: holstein::Error| {
        assert_eq!(error.kind(), ErrorKind::Limit, "{what}: {error}");
        for words in ["1000 images", "full copy", "chain limit"] {
            assert!(error.to_string().contains(words), "{what}: {error}");
        }
        let left = fs::read_dir(folder.path()).unwrap().count();
        assert_eq!(left, images.len(), "{what}");
    };
    let options = CreateOptions { backing: Some(name.clone()), ..CreateOptions::default() };
    refused("create", Disk::create(&target, None, &options).unwrap_err());

    let before = fs::read(last).unwrap();
    let source = Disk::open(last, &DiskOptions::default()).unwrap();
    for sync in [SyncMode::None, SyncMode::Full, SyncMode::Top] {
        let mut transaction = Transaction::new();
        let options =
            BackupOptions { sync: Some(sync), backing: Some(name.clone()), ..BackupOptions::default() };
        transaction.add(Backup { source: source.clone(), target: target.clone(), options });
        refused("backup", transaction.commit().unwrap_err());
    }
    drop(source);
    let source = Disk::open(last, &DiskOptions { access: Access::Write, ..DiskOptions::default() }).unwrap();
    let mut transaction = Transaction::new();
    transaction.add(Action::ExternalSnapshot {
        disk: source.clone(),
        overlay: target.clone(),
        options: OverlayOptions::default(),
    });
    refused("external snapshot", transaction.commit().unwrap_err());
    drop(source);
    assert!(fs::read(last).unwrap() == before, "the source was changed");

    let raised = CreateOptions { open: higher, ..options };
    assert_eq!(Disk::create(&target, None, &raised).unwrap().chain().len(), 1001);
}

#[test]
fn the_length_of_a_chain_counts_though_the_top_alone_is_open() {
    let folder = tempfile::tempdir().unwrap();
    let images = chain(folder.path(), 5, 1 << 20);
    let options = |chain_limit| DiskOptions {
        access: Access::Write,
        layers: holstein::Layers::TopOnly,
        chain_limit,
        ..DiskOptions::default()
    };
    for (limit, fits) in [(5, false), (6, true)] {
        let disk = Disk::open(&images[4], &options(limit)).unwrap();
        let mut transaction = Transaction::new();
        let target = folder.path().join("overlay");
        transaction.add(Action::ExternalSnapshot {
            disk,
            overlay: target.clone(),
            options: OverlayOptions::default(),
        });
        let made = transaction.commit();
        assert_eq!(made.is_ok(), fits, "{made:?}");
        assert_eq!(target.exists(), fits);
    }
}

#[test]
fn a_limit_of_no_images_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let images = chain(folder.path(), 1, 1 << 20);
    let options = DiskOptions { chain_limit: 0, ..DiskOptions::default() };
    assert_eq!(Disk::open(&images[0], &options).unwrap_err().kind(), ErrorKind::InvalidArgument);
}

#[test]
fn a_loop_is_found_in_a_long_chain() {
    let folder = tempfile::tempdir().unwrap();
    let images = chain(folder.path(), 300, 1 << 20);
    Builder::new(9, 1 << 20).backing("299", "qcow2").build().write(&images[0]);
    let error = Disk::open(&images[299], &DiskOptions::default()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert!(error.to_string().contains("a loop"), "{error}");
}

/// An image far below is closed when others are needed; what is found then must be what was opened.
#[test]
fn an_image_that_changed_while_it_was_closed_is_refused() {
    for replaced in [false, true] {
        let folder = tempfile::tempdir().unwrap();
        let images = chain(folder.path(), 200, 1 << 20);
        let disk = Disk::open(&images[199], &DiskOptions::default()).unwrap();
        // The last one that was opened is the base: reading the upper ones of those that take turns closes it.
        let (mut buf, base) = (vec![0; 64 * CLUSTER], &images[0]);
        disk.read_at(&mut buf, 60 * CLUSTER as u64).unwrap();
        if replaced {
            let copy = folder.path().join("copy");
            fs::copy(base, &copy).unwrap();
            fs::rename(&copy, base).unwrap();
        } else {
            let file = fs::OpenOptions::new().write(true).open(base).unwrap();
            file.write_at(&[0xaa], fs::metadata(base).unwrap().len()).unwrap();
        }
        let error = disk.read_at(&mut buf[..CLUSTER], 0).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Io);
        let words = if replaced { "another file has taken this name" } else { "was written" };
        assert!(error.to_string().contains(words), "{error}");
        let mut transaction = Transaction::new();
        let copy = folder.path().join("copy.raw");
        transaction.add(full(disk, copy.clone(), Format::Raw));
        transaction.commit().unwrap_err();
        assert!(!copy.exists());
    }
}

/// Every image of a chain that is open as a whole is locked; a long one may be read while a writer has locked one of those
/// that are closed, but not that one.
#[test]
fn short_chains_are_locked_and_closed_images_are_locked_when_they_are_needed() {
    let folder = tempfile::tempdir().unwrap();
    let images = chain(folder.path(), 200, 1 << 20);
    let write = DiskOptions { access: Access::Write, ..DiskOptions::default() };
    let short = Disk::open(&images[59], &DiskOptions::default()).unwrap();
    for image in &images[..60] {
        assert_eq!(Disk::open(image, &write).unwrap_err().kind(), ErrorKind::Locked, "{}", image.display());
    }
    drop(short);

    let long = Disk::open(&images[199], &DiskOptions::default()).unwrap();
    let mut buf = vec![0; CLUSTER];
    long.read_at(&mut buf, 100 * CLUSTER as u64).unwrap();
    let writer = Disk::open(&images[0], &write).unwrap();
    long.read_at(&mut buf, 190 * CLUSTER as u64).unwrap();
    assert_eq!(long.read_at(&mut buf, 0).unwrap_err().kind(), ErrorKind::Locked);
    // Nothing was written: the chain is what it was.
    drop(writer);
    long.read_at(&mut buf, 0).unwrap();
    assert!(buf == pattern(0, CLUSTER));

    drop(long);
    let shared = DiskOptions { sharing: Sharing::ForceShare, ..DiskOptions::default() };
    let _writer = Disk::open(&images[0], &write).unwrap();
    assert!(read(&Disk::open(&images[199], &shared).unwrap()) == contents(200, 1 << 20));
}

/// Below the top everything is only read, also what is opened for writing.
#[test]
fn two_disks_over_one_base_with_a_data_file_are_written_side_by_side() {
    let folder = tempfile::tempdir().unwrap();
    let base = CreateOptions { data_file: Some("base.data".into()), ..CreateOptions::default() };
    let mut disk = Disk::create(
        folder.path().join("base"),
        Some(1 << 20),
        &CreateOptions { open: DiskOptions { access: Access::Write, ..DiskOptions::default() }, ..base },
    )
    .unwrap();
    disk.write_at(&[7; 4096], 0).unwrap();
    disk.flush().unwrap();
    drop(disk);
    let data = fs::read(folder.path().join("base.data")).unwrap();
    let mut tops = Vec::new();
    for name in ["a", "b"] {
        let options = CreateOptions {
            backing: Some(Backing { name: "base".into(), format: Format::Qcow2 }),
            open: DiskOptions { access: Access::Write, ..DiskOptions::default() },
            ..CreateOptions::default()
        };
        disk = Disk::create(folder.path().join(name), None, &options).unwrap();
        tops.push(disk.clone());
    }
    for (byte, disk) in (1..).zip(&tops) {
        disk.write_at(&[byte; 512], 0).unwrap();
        disk.flush().unwrap();
    }
    for (byte, disk) in (1..).zip(&tops) {
        let mut buf = vec![0; 1024];
        disk.read_at(&mut buf, 0).unwrap();
        assert!(buf == [[byte; 512], [7; 512]].concat());
    }
    assert!(fs::read(folder.path().join("base.data")).unwrap() == data, "the base was written");
}
