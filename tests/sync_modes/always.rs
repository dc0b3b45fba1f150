//! Partial targets of every kind: bitmap mode always, and a backup that ends in the midst.

use std::fs;

use holstein::{
    Access, Backing, Backup, BackupOptions,
    BitmapMode::{Always, OnSuccess},
    CompletionMode, Compression, Disk, DiskOptions, ErrorKind, Existing, Format,
    SyncMode::{Bitmap, Full, Top},
    Transaction,
};

use crate::{
    cells::{After, Cell, Target},
    site::{KIB, MIB, MIDST, Order, SIZE, Site, Trouble},
    support::{
        patch::{compressed_clusters, poke},
        qemu::Extent,
    },
};

fn always(sync: holstein::SyncMode) -> Order {
    Order::new(sync, Some(Always))
}

/// The backup fails in the midst and its part is kept; judged up to the next increment.
fn is_kept(site: &Site, order: Order) {
    let cell = Cell::run(site, order, &[Trouble::Unreadable(MIDST)]);
    cell.fails(ErrorKind::Io);
    let end = cell.partial_end();
    assert!(end.is_multiple_of(cell.order.cluster_size) && (10 * MIB..=MIDST).contains(&end), "{end}");
    cell.leaves(Target::Partial, After::Rest);
}

#[test]
fn granules_and_clusters_of_any_size() {
    for (granularity, cluster_size) in
        [(512, 2 * MIB), (4 * KIB, 64 * KIB), (2 * MIB, 4 * KIB), (8 * MIB, 512)]
    {
        let site = Site::new(granularity);
        for sync in [Bitmap, Full, Top] {
            is_kept(&site, Order { cluster_size, ..always(sync) });
        }
    }
}

#[test]
fn compressed_parts() {
    let site = Site::new(32 * KIB);
    for compression in [Compression::Zlib { level: Some(1) }, Compression::Zstd { level: None }] {
        for (sync, cluster_size) in [(Bitmap, 64 * KIB), (Full, 16 * KIB), (Top, 256 * KIB)] {
            is_kept(&site, Order { compression, cluster_size, parallel: true, ..always(sync) });
        }
    }
}

/// Larger clusters than granules, and nothing below that could fill up a cluster.
#[test]
fn a_part_without_a_backing_file() {
    let site = Site::new(4 * KIB);
    let order = Order { alone: true, cluster_size: MIB, ..always(Bitmap) };
    let cell = Cell::run(&site, order, &[Trouble::Unreadable(MIDST)]);
    let end = cell.partial_end();
    assert_eq!(site.dirty(), cell.past.rest(end));
    site.workshop.check("target.qcow2");
    site.workshop.img(&["rebase", "-u", "-b", "full.qcow2", "-F", "qcow2", "target.qcow2"]);
    site.next_increment_is_complete("target.qcow2");
}

#[test]
fn a_part_of_a_raw_copy() {
    let site = Site::new(64 * KIB);
    site.reset();
    let options = BackupOptions { format: Format::Raw, cluster_size: None, ..always(Full).options() };
    let ended = site.back_up_as(options, &always(Full), &[Trouble::Unreadable(MIDST)]);
    let end = ended.job.report().partial_end.unwrap();
    assert!(end.is_multiple_of(64 * KIB) && (MIDST - MIB..=MIDST).contains(&end), "{end}");
    assert_eq!(site.dirty(), [Extent { start: end, length: (SIZE - end).next_multiple_of(512) }]);
    assert_eq!(fs::metadata(site.path("target.qcow2")).unwrap().len(), SIZE);
    site.workshop.img(&["convert", "-O", "raw", "disk.qcow2", "whole.raw"]);
    let (whole, part) =
        (fs::read(site.path("whole.raw")).unwrap(), fs::read(site.path("target.qcow2")).unwrap());
    assert!(part[..end as usize] == whole[..end as usize]);
    assert!(part[end as usize..].iter().all(|byte| *byte == 0));
}

/// What shrinking and growing hid from the bitmap is in the part, or is dirty.
#[test]
fn hidden_zeros_are_not_lost() {
    let site = Site::new(64 * KIB);
    site.workshop.img(&["resize", "-q", "--shrink", "disk.qcow2", "28M"]);
    site.workshop.img(&["resize", "-q", "disk.qcow2", &SIZE.to_string()]);
    site.workshop.img(&["convert", "-O", "qcow2", "disk.qcow2", "disk.kept"]);
    let hidden = |dirty: &[Extent]| dirty.iter().any(|part| part.start <= 30 * MIB && 30 * MIB < part.end());
    assert!(!hidden(&site.dirty()), "QEMU's bitmap does not know of it");
    let ended = site.back_up(&always(Bitmap), &[Trouble::Unreadable(MIDST)]);
    assert_eq!(ended.job.report().partial_end, Some(20 * MIB));
    assert!(hidden(&site.dirty()));
    site.next_increment_is_complete("target.qcow2");
}

#[test]
fn an_old_target_goes_only_when_the_new_one_is_complete() {
    let site = Site::new(64 * KIB);
    for sync in [Bitmap, Full, Top] {
        site.reset();
        let before = site.dirty();
        fs::write(site.path("target.qcow2"), b"precious").unwrap();
        let options = BackupOptions { existing: Existing::Overwrite, ..always(sync).options() };
        for trouble in [Trouble::Unreadable(MIDST), Trouble::Cancel(3 * MIB), Trouble::LateCancel] {
            let ended = site.back_up_as(options.clone(), &always(sync), &[trouble]);
            assert!(ended.text().starts_with("what was copied is not kept, since it would replace '"));
            assert_eq!(ended.job.report().partial_end, None);
            assert_eq!(fs::read(site.path("target.qcow2")).unwrap(), b"precious");
            site.nothing_else_changed(true);
            assert_eq!(site.dirty(), before);
        }
        site.back_up_as(options, &always(sync), &[]).result.unwrap();
        site.workshop.identical(("disk.qcow2", "qcow2"), ("target.qcow2", "qcow2"));
        assert_eq!(site.dirty(), []);
    }
}

#[test]
fn no_target_is_kept_when_the_bitmap_cannot_be_changed() {
    let site = Site::new(64 * KIB);
    let cell = Cell::run(&site, always(Bitmap), &[Trouble::Unreadable(MIDST), Trouble::SourceWrites]);
    cell.says("could not be kept (cannot change bitmap 'b'");
    cell.says(": cannot write");
    cell.says("): cannot read");
    cell.leaves_nothing(ErrorKind::Io);

    let cell = Cell::run(&site, always(Bitmap), &[Trouble::SourceWrites]);
    cell.says("cannot change bitmap 'b'");
    cell.leaves_nothing(ErrorKind::Io);
}

/// A defect elsewhere does not touch what is written; one in the writing does.
#[test]
fn panics() {
    let site = Site::new(64 * KIB);
    let cell = Cell::run(&site, always(Bitmap), &[Trouble::PanicInRead(MIDST)]);
    cell.fails(ErrorKind::Internal);
    assert_eq!(cell.partial_end(), 20 * MIB);
    cell.leaves(Target::Partial, After::Rest);
    Cell::run(&site, always(Bitmap), &[Trouble::PanicInWrite]).leaves_nothing(ErrorKind::Internal);
}

#[test]
fn each_disk_for_itself() {
    let site = Site::new(64 * KIB);
    fs::copy(site.path("disk.qcow2"), site.path("other.qcow2")).unwrap();
    // One disk has a damaged cluster.
    site.write(&["write -c -P 7 29M 64k"]);
    let damaged = &compressed_clusters(&site.path("disk.qcow2"))[0];
    poke(&site.path("disk.qcow2"), damaged.offset, &[0xff; 16]);
    let broken = fs::read(site.path("disk.qcow2")).unwrap();
    let options = DiskOptions { access: Access::Write, ..DiskOptions::default() };
    let run = |completion, modes: [holstein::BitmapMode; 2]| {
        let mut transaction = Transaction::new();
        transaction.set_completion(completion);
        for (name, mode) in ["disk", "other"].into_iter().zip(modes) {
            let source = Disk::open(site.path(&format!("{name}.qcow2")), &options).unwrap();
            let target = site.path(&format!("{name}.copy"));
            let options = BackupOptions {
                bitmap: Some(b"b".to_vec()),
                bitmap_mode: Some(mode),
                backing: Some(Backing { name: "full.qcow2".into(), format: Format::Qcow2 }),
                ..BackupOptions::default()
            };
            transaction.add(Backup { source, target, options });
        }
        let running = transaction.start()?;
        let _ = running.wait(None);
        Ok::<_, holstein::Error>(running.jobs().to_vec())
    };
    // All or none, and a part of one of them, contradict each other.
    for modes in [[Always, OnSuccess], [OnSuccess, Always], [Always, Always]] {
        let error = run(CompletionMode::Grouped, modes).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument);
        for words in ["bitmap mode always", "all or none", "use individual completion"] {
            assert!(error.to_string().contains(words), "{error}");
        }
        assert!(!site.path("disk.copy").exists() && !site.path("other.copy").exists());
        assert!(fs::read(site.path("disk.qcow2")).unwrap() == broken);
    }
    let jobs = run(CompletionMode::Individual, [Always, Always]).unwrap();
    assert_eq!(jobs[0].error().unwrap().kind(), ErrorKind::Corrupt, "{:?}", jobs[0].error());
    let end = jobs[0].report().partial_end.unwrap();
    assert!((25 * MIB..=29 * MIB).contains(&end), "{end}");
    let begin = |name: &str| {
        let mut bytes = vec![0; end as usize];
        let disk = Disk::open(site.path(name), &DiskOptions::default()).unwrap();
        disk.read_at(&mut bytes, 0).unwrap();
        bytes
    };
    assert!(begin("disk.copy") == begin("disk.kept"));
    assert!(jobs[1].error().is_none() && jobs[1].report().partial_end.is_none());
    for name in ["disk.copy", "other.copy"] {
        site.workshop.check(name);
    }
    site.workshop.identical(("other.qcow2", "qcow2"), ("other.copy", "qcow2"));
    site.workshop.identical(("disk.kept", "qcow2"), ("other.qcow2", "qcow2"));
    let count = |name: &str| {
        Disk::open(site.path(name), &DiskOptions::default()).unwrap().bitmap(b"b").unwrap().count()
    };
    assert_eq!(count("other.qcow2"), 0);
    assert!((64 * KIB..5 * MIB).contains(&count("disk.qcow2")), "{}", count("disk.qcow2"));
}
