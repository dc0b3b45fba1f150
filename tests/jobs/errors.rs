//! Error policies: what each does about each error, on either side; and that what is tried again comes out as if
//! nothing had happened.

use std::{thread, time::Duration};

use holstein::{
    BackupOptions, BitmapMode,
    CompletionMode::{Grouped, Individual},
    Compression, ErrorKind,
    ErrorPolicy::{self, Enospc, Ignore, Report, Stop},
    Format, JobStatus, SyncMode, Transaction,
};

use crate::{
    site::{Fault, Site, target},
    watched::Kind::{self, Read, SetLen, Sync, Write},
};

const FOR_EVER: usize = usize::MAX;

fn on_errors(policy: ErrorPolicy) -> BackupOptions {
    BackupOptions { on_source_error: policy, on_target_error: policy, ..BackupOptions::default() }
}

fn fault(kind: Kind, after: usize, times: usize, errno: i32) -> Fault {
    Fault { disk: "one", kind, after, times, errno }
}

/// A backup that reads nothing but what it copies.
fn without_bitmap(site: &Site, options: &BackupOptions) -> Transaction {
    let mut backup = site.backup("one", options.clone());
    (backup.options.bitmap, backup.options.bitmap_mode) = (None, None);
    let mut transaction = Transaction::new();
    transaction.add(backup);
    transaction
}

/// How often each operation can fail, and what the target is when none does.
fn calls_and_target(site: &Site, options: &BackupOptions) -> ([(Kind, usize); 3], Vec<u8>) {
    without_bitmap(site, options).commit().unwrap();
    let calls = [Read, Write, SetLen].map(|kind| (kind, site.seen("one", kind)));
    (calls, site.storage.contents(target("one")).unwrap())
}

/// Targets of every kind, each written by turns and by several threads at once.
fn kinds() -> Vec<(bool, BackupOptions)> {
    let small = BackupOptions { cluster_size: Some(4096), ..BackupOptions::default() };
    let packed =
        BackupOptions { compression: Compression::Zlib { level: Some(1) }, ..BackupOptions::default() };
    let raw = BackupOptions { format: Format::Raw, ..BackupOptions::default() };
    let all = [BackupOptions::default(), small, packed, raw];
    all.into_iter().flat_map(|options| [(false, options.clone()), (true, options)]).collect()
}

/// Each operation fails in turn, once; the target is the same to the byte.
#[test]
fn what_failed_once_is_made_up_for() {
    let exhaustive = std::env::var_os("HOLSTEIN_EXHAUSTIVE").is_some();
    for (parallel, options) in kinds() {
        let (calls, expected) = calls_and_target(&Site::with(parallel), &options);
        let mut tried = 0;
        for (kind, count) in calls {
            // A raw target has its length from the start.
            if kind == SetLen && options.format == Format::Raw {
                continue;
            }
            // Opening reads, too; that is nothing a job could try again.
            let most = if exhaustive { count } else { 8 };
            for after in (0..count).step_by(count.div_ceil(most).max(1)) {
                let site = Site::with(parallel);
                let policies =
                    BackupOptions { on_source_error: Ignore, on_target_error: Ignore, ..options.clone() };
                let transaction = without_bitmap(&site, &policies);
                let opening = site.seen("one", kind);
                if after < opening {
                    continue;
                }
                site.fail(fault(kind, after - opening, 1, libc::EIO));
                let result = transaction.commit();
                let what = format!("{kind:?} {after}, parallel: {parallel}, {options:?}: {result:?}");
                assert!(result.is_ok(), "{what}");
                let made = site.storage.contents(target("one")).unwrap();
                if options.compression == Compression::None {
                    assert!(without_identity(made) == without_identity(expected.clone()), "{what}");
                }
                tried += 1;
            }
        }
        println!("{tried} failures, parallel: {parallel}, {options:?}");
        assert!(tried >= 8, "{tried}");
        let site = Site::with(parallel);
        site.fail(fault(Write, 3, 2, libc::EIO));
        site.start(Grouped, &[("one", BackupOptions { on_target_error: Ignore, ..options.clone() })])
            .ends()
            .unwrap();
        if options.format == Format::Qcow2 {
            site.complete("one");
        }
    }
}

#[test]
fn report() {
    for (kind, way) in [(Read, "source"), (Write, "target")] {
        for errno in [libc::EIO, libc::ENOSPC] {
            let site = Site::new();
            site.hold("one");
            let running = site.start(Grouped, &[("one", on_errors(Report)), ("two", on_errors(Report))]);
            site.held("one");
            site.fail(fault(kind, 0, 1, errno));
            site.release("one");
            let error = running.ends().unwrap_err();
            let kind = if errno == libc::EIO { ErrorKind::Io } else { ErrorKind::NoSpace };
            assert_eq!(error.kind(), kind);
            assert_eq!(
                running.story(0),
                format!("running, {way} error: report {kind:?}, aborting, concluded, failed: {kind:?}")
            );
            site.untouched();
        }
    }
}

#[test]
fn ignore_gives_up() {
    for kind in [Read, Write] {
        let site = Site::new();
        site.hold("one");
        let running = site.start(Individual, &[("one", on_errors(Ignore)), ("two", on_errors(Ignore))]);
        site.held("one");
        site.fail(fault(kind, 0, FOR_EVER, libc::EIO));
        let begin = std::time::Instant::now();
        site.release("one");
        // The other one goes on meanwhile.
        running.reaches(1, JobStatus::Concluded);
        site.complete("two");
        let error = running.ends().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Io);
        assert!(error.to_string().starts_with("given up after 10 retries: cannot "), "{error}");
        // 10 + 20 + 40 + 80 + 160 + 320 + 640 + 3 * 1000 milliseconds.
        assert!(begin.elapsed() >= Duration::from_millis(4270), "{:?}", begin.elapsed());
        site.no_target("one");
    }
}

/// The last failure that is allowed, and the first that is not.
#[test]
fn ignore_counts() {
    for (times, succeeds) in [(10, true), (11, false)] {
        let site = Site::new();
        site.fail(fault(Write, 1, times, libc::ENOSPC));
        let running = site.start(Grouped, &[("one", on_errors(Ignore))]);
        assert_eq!(running.ends().is_ok(), succeeds, "{times}");
        if succeeds {
            site.complete("one");
        } else {
            site.untouched();
        }
    }
}

/// Nobody spends the time of others while a job is stopped, and it goes on where it was.
#[test]
fn stop() {
    for (kind, side) in [(Read, "source"), (Write, "target")] {
        for (parallel, errno) in [(false, libc::EIO), (true, libc::ENOSPC)] {
            let site = Site::with(parallel);
            site.hold("one");
            let running = site.start(Individual, &[("one", on_errors(Stop)), ("two", on_errors(Stop))]);
            site.held("one");
            site.fail(fault(kind, 0, FOR_EVER, errno));
            site.release("one");
            running.reaches(0, JobStatus::Paused);
            let expected = if errno == libc::EIO { ErrorKind::Io } else { ErrorKind::NoSpace };
            let stopped_by = running.job(0).stopped_by().unwrap();
            assert_eq!(stopped_by.kind(), expected);
            assert!(running.job(0).error().is_none());
            assert!(running.job(0).pause().unwrap_err().to_string().ends_with("is already paused"));
            running.reaches(1, JobStatus::Concluded);
            site.complete("two");
            assert_eq!(running.job(0).status(), JobStatus::Paused);

            // It is not over yet.
            running.job(0).resume().unwrap();
            running.reaches(0, JobStatus::Paused);
            site.stop_failing();
            running.job(0).resume().unwrap();
            assert!(running.job(0).stopped_by().is_none());
            running.ends().unwrap();
            site.complete("one");
            let story = running.story(0);
            let event = format!("running, {side} error: stop {expected:?}");
            assert!(story.starts_with(&event), "{story}");
            assert!(story.ends_with("running, waiting, pending, concluded, COMPLETED"), "{story}");
        }
    }
}

#[test]
fn a_stopped_job_can_be_cancelled() {
    for kind in [Read, Write] {
        for mode in [BitmapMode::OnSuccess, BitmapMode::Always] {
            let site = Site::new();
            let options = BackupOptions { bitmap_mode: Some(mode), ..on_errors(Stop) };
            site.hold("one");
            let running = site.start(Individual, &[("one", options), ("two", on_errors(Stop))]);
            site.held("one");
            site.fail(fault(kind, 0, FOR_EVER, libc::EIO));
            site.release("one");
            running.reaches(0, JobStatus::Paused);
            site.stop_failing();
            running.job(0).cancel().unwrap();
            let error = running.ends().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Cancelled);
            site.complete("two");
            // A target that could not be written is in doubt, so nothing of it is kept.
            let kept = running.job(0).report().partial_end.is_some();
            assert!(!kept || (kind == Read && mode == BitmapMode::Always));
            assert_eq!(site.storage.contents(target("one")).is_some(), kept);
        }
    }
}

#[test]
fn enospc_stops_when_there_is_no_space_only() {
    let site = Site::new();
    site.fail(fault(Write, 8, FOR_EVER, libc::ENOSPC));
    let running = site.start(Grouped, &[("one", on_errors(Enospc))]);
    running.reaches(0, JobStatus::Paused);
    assert_eq!(running.job(0).stopped_by().unwrap().kind(), ErrorKind::NoSpace);
    site.stop_failing();
    running.job(0).resume().unwrap();
    running.ends().unwrap();
    site.complete("one");

    let site = Site::new();
    site.fail(fault(Write, 8, FOR_EVER, libc::EIO));
    assert_eq!(site.start(Grouped, &[("one", on_errors(Enospc))]).ends().unwrap_err().kind(), ErrorKind::Io);
    site.untouched();
}

/// The two sides have policies of their own.
#[test]
fn each_side_for_itself() {
    let site = Site::new();
    let options = BackupOptions { on_target_error: Stop, ..BackupOptions::default() };
    site.hold("one");
    let running = site.start(Grouped, &[("one", options.clone())]);
    site.held("one");
    site.fail(fault(Read, 0, 1, libc::EIO));
    site.release("one");
    assert!(running.ends().is_err());
    site.untouched();

    let site = Site::new();
    let options = BackupOptions { on_source_error: Stop, on_target_error: Report, ..options };
    site.fail(fault(Write, 8, 1, libc::EIO));
    assert!(site.start(Grouped, &[("one", options)]).ends().is_err());
    site.untouched();
}

/// After a failed sync nobody knows what is on the disk: no policy has a say.
#[test]
fn a_sync_is_never_tried_again() {
    for policy in [Report, Ignore, Enospc, Stop] {
        for (after, errno) in [(0, libc::EIO), (1, libc::EIO), (0, libc::ENOSPC)] {
            let site = Site::new();
            site.fail(fault(Sync, after, 1, errno));
            let running = site.start(Grouped, &[("one", on_errors(policy))]);
            let error = running.ends().unwrap_err();
            assert!(error.to_string().starts_with("cannot make durable"), "{error}");
            assert_eq!(site.seen("one", Sync), after + 1);
            assert!(!running.story(0).contains("error:"), "{}", running.story(0));
            site.untouched();
        }
    }
}

/// Damage does not go away by trying again.
#[test]
fn damage_is_never_tried_again() {
    for policy in [Ignore, Stop] {
        let site = Site::new();
        // An L2 entry with a reserved bit.
        let path = crate::site::source("one");
        let mut bytes = site.storage.contents(&path).unwrap();
        let offset =
            |bytes: &[u8], at: usize| u64::from_be_bytes(bytes[at..at + 8].try_into().unwrap()) as usize;
        let l1 = offset(&bytes, 40);
        let l2 = offset(&bytes, l1) & 0x00ff_ffff_ffff_fe00;
        bytes[l2 + 8 * 100 + 6] |= 1;
        site.storage.insert(&path, &bytes);
        let running = site
            .start(Grouped, &[("one", BackupOptions { sync: Some(SyncMode::Full), ..on_errors(policy) })]);
        assert_eq!(running.ends().unwrap_err().kind(), ErrorKind::Corrupt);
        assert!(!running.story(0).contains("error:"), "{}", running.story(0));
    }
}

/// Every thread meets the error, and every batch that was begun is put aside; the others still get on.
#[test]
fn a_stopped_job_holds_no_thread() {
    for parallel in [false, true] {
        let site = Site::with(parallel);
        let stops = || on_errors(Stop);
        site.hold("one");
        site.hold("two");
        let running = site.start(Individual, &[("one", stops()), ("two", stops()), ("three", stops())]);
        site.held("one");
        site.held("two");
        for disk in ["one", "two"] {
            site.fail(Fault { disk, ..fault(Read, 0, FOR_EVER, libc::EIO) });
            site.release(disk);
        }
        running.reaches(0, JobStatus::Paused);
        running.reaches(1, JobStatus::Paused);
        running.reaches(2, JobStatus::Concluded);
        site.complete("three");
        thread::sleep(Duration::from_millis(10));
        site.stop_failing();
        running.job(0).resume().unwrap();
        running.job(1).resume().unwrap();
        running.ends().unwrap();
        site.complete("one");
        site.complete("two");
    }
}

/// A target without what is random in it: the data of the extension "HOLS".
fn without_identity(mut image: Vec<u8>) -> Vec<u8> {
    if let Some(at) = image.windows(4).take(512).position(|bytes| bytes == b"HOLS") {
        image[at + 8..at + 48].fill(0);
    }
    image
}
