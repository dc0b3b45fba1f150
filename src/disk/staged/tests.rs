//! Bitmaps and snapshots that change together, through crashes and recoveries.

use std::{sync::Arc, time::SystemTime};

use crate::{
    bitmap::{BitmapChange, Recording},
    disk::{Disk, DiskOptions, Switch, Switched, fingerprint::Fingerprint, switch},
    error::{Error, ErrorKind, Result},
    image::{Access, CheckSeverity, CreateOptions, SnapshotChange},
    storage::{
        RenameRule, SimulatedStorage, Storage,
        simulated::{Crash, Level},
    },
};

const DISK: &str = "/images/disk.qcow2";

/// A disk of 1 MiB with a bitmap that is dirty, and a snapshot of its first half.
fn image() -> SimulatedStorage {
    let storage = SimulatedStorage::new();
    storage.make_folder("/images");
    let options = CreateOptions { cluster_size: Some(4096), ..CreateOptions::default() };
    let disk = Disk::create_in(Arc::new(storage.clone()), DISK, Some(1 << 20), &options).unwrap();
    drop(disk);
    let disk = open(&storage);
    disk.write_at(&[1; 100_000], 0).unwrap();
    disk.create_snapshot(b"old", SystemTime::UNIX_EPOCH).unwrap();
    let add = BitmapChange::Add { name: b"a".to_vec(), granularity: None, recording: Recording::Enabled };
    disk.change_bitmaps(&[add]).unwrap();
    disk.write_at(&[2; 100_000], 50_000).unwrap();
    disk.close().unwrap();
    storage.begin();
    storage
}

fn open(storage: &SimulatedStorage) -> Disk {
    let options = DiskOptions { access: Access::Write, ..DiskOptions::default() };
    Disk::open_in(Arc::new(storage.clone()), DISK, &options).unwrap()
}

fn clear() -> Vec<BitmapChange> {
    vec![BitmapChange::Clear { name: b"a".to_vec() }]
}

fn create(name: &str) -> SnapshotChange {
    SnapshotChange::Create { name: name.into(), date: SystemTime::UNIX_EPOCH }
}

fn delete(name: &str) -> SnapshotChange {
    SnapshotChange::Delete { id_or_name: name.into() }
}

/// Which bytes are dirty, and the names of the snapshots; nothing may be worse than leaked, or not even that.
fn state(storage: &SimulatedStorage, worst: Option<CheckSeverity>) -> (u64, Vec<String>) {
    let options = DiskOptions::default();
    let report = Disk::check_in(Arc::new(storage.clone()), DISK, &options).unwrap();
    for problem in &report.problems {
        assert_eq!(Some(problem.kind.severity()), worst, "{}", problem.text);
    }
    let disk = Disk::open_in(Arc::new(storage.clone()), DISK, &options).unwrap();
    let mut contents = vec![0; 1 << 20];
    disk.read_at(&mut contents, 0).unwrap();
    let expected = [(0, 1), (50_000, 2), (149_999, 2), (150_000, 0)];
    assert!(expected.iter().all(|(at, byte)| contents[*at] == *byte));
    let dirty = disk.bitmap(b"a").unwrap().extents().map(|extent| extent.end - extent.start).sum();
    (dirty, disk.info().unwrap().snapshots.into_iter().map(|snapshot| snapshot.name).collect())
}

/// The dirty bytes before all changes.
const DIRTY: u64 = 102_400;

fn before() -> (u64, Vec<String>) {
    (DIRTY, vec!["old".into()])
}

fn after() -> (u64, Vec<String>) {
    (0, vec!["new".into()])
}

#[test]
fn a_crash_leaves_both_old_or_both_new() {
    let storage = image();
    assert_eq!(state(&storage, None), before());
    storage.begin();
    let changes = [create("new"), delete("old")];
    open(&storage).stage_kept(&clear(), &changes).unwrap().publish().unwrap();
    assert_eq!(state(&storage, None), after());
    let mut found = [0, 0];
    let recording = storage.recording();
    for (_, storage) in recording.states(&Level::ALL, 300, 1) {
        let state = state(&storage, Some(CheckSeverity::Leak));
        assert!(state == before() || state == after(), "{state:?}");
        found[usize::from(state == after())] += 1;
    }
    assert!(found[0] > 50 && found[1] > 1, "{found:?}");
}

#[test]
fn what_is_dropped_undecided_is_taken_back() {
    let storage = image();
    let disk = open(&storage);
    for snapshots in [&[create("new"), delete("old")][..], &[delete("old")], &[create("new")], &[]] {
        disk.rehearse_kept(&clear(), snapshots).unwrap();
        drop(disk.stage_kept(&clear(), snapshots).unwrap());
        assert_eq!(state(&storage, None), before());
    }
    // The same disk goes on.
    disk.delete_snapshot(b"old").unwrap();
    disk.write_at(&[2; 512], 149_000).unwrap();
    disk.close().unwrap();
    assert_eq!(state(&storage, None), (DIRTY, vec![]));
}

#[test]
fn a_recovery_carries_out_what_was_decided() {
    let storage = image();
    let staged = open(&storage).stage_kept(&clear(), &[delete("old"), create("new")]).unwrap();
    let wanted = staged.switch().unwrap();
    storage.begin();
    let survivor = storage.recording().after(&Crash::new(Level::L0, 0, [])).unwrap();
    let wanted = Switch { image: fingerprint(&survivor), ..wanted };
    staged.leave();
    assert_eq!(state(&survivor, Some(CheckSeverity::Leak)), before());
    let shared: Arc<dyn Storage> = Arc::new(survivor.clone());
    for expected in [Switched::Now, Switched::Before] {
        assert_eq!(switch(&shared, &[], &wanted).unwrap(), expected);
        assert_eq!(state(&survivor, Some(CheckSeverity::Leak)), after());
    }
    let disk = open(&survivor);
    disk.delete_snapshot(b"new").unwrap();
    drop(disk);
    assert_eq!(state(&survivor, Some(CheckSeverity::Leak)), (0, vec![]));
}

fn fingerprint(storage: &SimulatedStorage) -> Fingerprint {
    open(storage).fingerprint().unwrap()
}

#[test]
fn what_is_refused_changes_nothing() {
    let storage = image();
    let disk = open(&storage);
    let contents = storage.contents(DISK).unwrap();
    let absent = BitmapChange::Clear { name: b"absent".to_vec() };
    let cases: [(Vec<BitmapChange>, Vec<SnapshotChange>, ErrorKind, &str); 6] = [
        (vec![absent], vec![create("new")], ErrorKind::BitmapNotFound, "no bitmap 'absent'"),
        (clear(), vec![delete("absent")], ErrorKind::NotFound, "no snapshot 'absent'"),
        (clear(), vec![create("old")], ErrorKind::Exists, "'old' already"),
        (
            clear(),
            vec![create("x"), create("y")],
            ErrorKind::Unsupported,
            "one snapshot of an image can be taken at a time",
        ),
        (clear(), vec![delete("old"), delete("1")], ErrorKind::NotFound, "no snapshot '1'"),
        (clear(), vec![create(&"x".repeat(256))], ErrorKind::InvalidArgument, "1 to 255 bytes"),
    ];
    for (bitmaps, snapshots, kind, words) in cases {
        let rehearsed = disk.rehearse_kept(&bitmaps, &snapshots);
        let staged = disk.stage_kept(&bitmaps, &snapshots).map(drop);
        for error in [rehearsed.unwrap_err(), staged.unwrap_err()] {
            assert_eq!(error.kind(), kind, "{error}");
            assert!(error.to_string().contains(words), "{error}");
        }
        assert!(storage.contents(DISK).unwrap() == contents, "{snapshots:?}");
    }
    // One that comes and goes, and a name that is free again.
    let changes = [create("x"), delete("x"), delete("old"), create("old")];
    disk.stage_kept(&[], &changes).unwrap().publish().unwrap();
    assert_eq!(state(&storage, None), before());
}

/// A backup that began before reads tables at their old places for as long as it lasts.
#[test]
fn tables_that_a_backup_reads_are_not_given_away() {
    let refused = |result: Result<(), Error>| {
        let error = result.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::WrongState, "{error}");
        let words =
            "a snapshot was deleted while a backup reads the disk; it can be changed when that has ended";
        assert!(error.to_string().contains(words), "{error}");
    };
    let storage = image();
    let disk = open(&storage);
    let (one, other) = (disk.pin().unwrap(), disk.pin().unwrap());
    // Taking one gives nothing away.
    disk.stage_kept(&clear(), &[create("new")]).unwrap().publish().unwrap();
    disk.stage_kept(&[], &[delete("old")]).unwrap().publish().unwrap();
    let old = disk.image();
    disk.stage_kept(&[], &[delete("new")]).unwrap().publish().unwrap();
    for _ in 0..2 {
        refused(disk.stage_kept(&clear(), &[]).map(drop));
        refused(disk.rehearse_kept(&clear(), &[]));
    }
    let mut contents = vec![0; 1 << 20];
    old.read_at(&mut contents, 0).unwrap();
    assert_eq!((contents[0], contents[50_000]), (1, 2));
    drop(one);
    refused(disk.stage_kept(&clear(), &[]).map(drop));
    drop(other);
    disk.stage_kept(&clear(), &[create("last")]).unwrap().publish().unwrap();
    let _next = disk.pin().unwrap();
    disk.stage_kept(&clear(), &[]).unwrap().publish().unwrap();
    assert_eq!(state(&storage, None), (0, vec!["last".into()]));
}

/// Two transactions that wait for each other do not wait for ever.
#[test]
fn patience_ends() {
    let storage = image();
    let disk = open(&storage);
    let staged = disk.stage_kept(&clear(), &[create("new"), delete("old")]).unwrap();
    let error = disk.stage_kept(&clear(), &[]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::WrongState);
    assert_eq!(error.to_string(), "'/images/disk.qcow2': another transaction changes it and does not end");
    staged.publish().unwrap();
    assert_eq!(state(&storage, None), after());
    disk.stage_kept(&clear(), &[]).unwrap().publish().unwrap();
}

/// What is staged is about the image as it is: nothing else changes that, and another change waits.
#[test]
fn one_change_at_a_time() {
    let storage = image();
    let disk = open(&storage);
    let staged = disk.stage_kept(&clear(), &[create("new")]).unwrap();
    let refused = [
        disk.write_at(&[9; 512], 0),
        disk.resize(1 << 19),
        disk.change_bitmaps(&clear()),
        disk.create_snapshot(b"other", SystemTime::now()).map(drop),
        disk.delete_snapshot(b"old"),
    ];
    for error in refused.map(Result::unwrap_err) {
        assert_eq!(error.kind(), ErrorKind::WrongState, "{error}");
    }
    let other = disk.clone();
    let waiting = std::thread::spawn(move || {
        let add = BitmapChange::Add { name: b"b".to_vec(), granularity: None, recording: Recording::Enabled };
        other.stage_kept(&[add], &[delete("old")]).unwrap().publish().unwrap();
    });
    std::thread::sleep(std::time::Duration::from_millis(100));
    assert!(!waiting.is_finished());
    staged.publish().unwrap();
    waiting.join().unwrap();
    assert_eq!(state(&storage, None), after());
    disk.bitmap(b"b").unwrap();
    disk.delete_snapshot(b"new").unwrap();
}

/// A disk of 1 MiB whose data lies in a file of its own, with a bitmap; and a clear of that, decided and not made.
fn decided_with_data_file() -> (SimulatedStorage, Arc<dyn Storage>, Switch) {
    let storage = SimulatedStorage::new();
    storage.make_folder("/images");
    let shared: Arc<dyn Storage> = Arc::new(storage.clone());
    let options = CreateOptions { data_file: Some("disk.data".into()), ..CreateOptions::default() };
    drop(Disk::create_in(shared.clone(), DISK, Some(1 << 20), &options).unwrap());
    let disk = open(&storage);
    disk.write_at(&[1; 65536], 0).unwrap();
    let add = BitmapChange::Add { name: b"a".to_vec(), granularity: None, recording: Recording::Enabled };
    disk.change_bitmaps(&[add]).unwrap();
    let staged = disk.stage_kept(&clear(), &[]).unwrap();
    let wanted = staged.switch().unwrap();
    staged.leave();
    (storage, shared, wanted)
}

const DATA: &str = "/images/disk.data";

/// Whether the bitmap is inconsistent.
fn is_given_up(shared: &Arc<dyn Storage>) -> bool {
    Disk::open_in(shared.clone(), DISK, &DiskOptions::default()).unwrap().bitmap(b"a").is_err()
}

#[test]
fn who_writes_the_data_file_alone_is_a_stranger() {
    let (_, shared, wanted) = decided_with_data_file();
    assert_eq!(switch(&shared, &[], &wanted).unwrap(), Switched::Now);
    assert!(!is_given_up(&shared));

    let (_, shared, wanted) = decided_with_data_file();
    shared.open_writable(DATA.as_ref()).unwrap().write_at(&[2; 512], 0).unwrap();
    assert_eq!(switch(&shared, &[], &wanted).unwrap(), Switched::GivenUp);
    assert!(is_given_up(&shared));

    // What cannot be looked at may have been written.
    let (_, shared, wanted) = decided_with_data_file();
    shared.rename(DATA.as_ref(), "/images/elsewhere".as_ref(), RenameRule::NoReplace).unwrap();
    assert_eq!(switch(&shared, &[], &wanted).unwrap(), Switched::GivenUp);
    shared.rename("/images/elsewhere".as_ref(), DATA.as_ref(), RenameRule::NoReplace).unwrap();
    assert!(is_given_up(&shared));
}

#[test]
fn where_files_do_not_tell_somebody_may_have_written() {
    let (_, shared, wanted) = decided_with_data_file();
    let image = Fingerprint { versions: None, ..wanted.image.clone() };
    let wanted = Switch { image, ..wanted };
    assert_eq!(switch(&shared, &[], &wanted).unwrap(), Switched::GivenUp);
    assert!(is_given_up(&shared));
}
