//! How groups end: all or none, whoever fails or is cancelled, and in whatever order.

use holstein::{
    BackupOptions,
    CompletionMode::{Grouped, Individual},
    ErrorKind, JobStatus, LastStep,
};

use crate::{
    site::{Fault, Running, Site},
    watched::Kind,
};

const COMPLETED: &str = "running, waiting, pending, concluded, COMPLETED";

fn plain() -> BackupOptions {
    BackupOptions::default()
}

/// A job that copies for ever, until it is told to be faster.
fn slow() -> BackupOptions {
    BackupOptions { speed: 1, ..plain() }
}

fn unreadable(disk: &'static str) -> Fault {
    Fault { disk, kind: Kind::Read, after: 0, times: usize::MAX, errno: libc::EIO }
}

/// The job's own error is kept.
#[track_caller]
fn failed(running: &Running, index: usize) {
    let error = running.job(index).error().unwrap();
    assert_eq!(error.kind(), ErrorKind::Io);
    assert!(error.to_string().contains("cannot read"), "{error}");
}

/// The job ended because another one did.
#[track_caller]
fn ended_because_of(running: &Running, index: usize, other: &str) {
    let error = running.job(index).error().unwrap();
    assert_eq!(error.kind(), ErrorKind::Cancelled);
    let expected = format!("cancelled because the backup to '/{other}/copy.qcow2' ended");
    assert_eq!(error.to_string(), expected);
}

#[track_caller]
fn was_cancelled(running: &Running, index: usize) {
    assert_eq!(running.job(index).error().unwrap().to_string(), "the backup was cancelled");
}

#[test]
fn one_job() {
    for completion in [Grouped, Individual] {
        let site = Site::new();
        let running = site.start(completion, &[("one", plain())]);
        running.ends().unwrap();
        assert_eq!(running.story(0), COMPLETED);
        site.complete("one");

        let site = Site::new();
        site.hold("one");
        let running = site.start(completion, &[("one", plain())]);
        site.held("one");
        site.fail(unreadable("one"));
        site.release("one");
        assert_eq!(running.ends().unwrap_err().kind(), ErrorKind::Io);
        failed(&running, 0);
        let way = "running, source error: report Io, aborting, concluded, failed: Io";
        assert_eq!(running.story(0), way);
        site.untouched();
        site.can_be_run_again(&["one"]);

        let site = Site::new();
        site.hold("one");
        let running = site.start(completion, &[("one", plain())]);
        site.held("one");
        running.transaction.cancel();
        site.release("one");
        assert_eq!(running.ends().unwrap_err().kind(), ErrorKind::Cancelled);
        was_cancelled(&running, 0);
        assert_eq!(running.story(0), "running, aborting, concluded, CANCELLED");
        site.untouched();
        site.can_be_run_again(&["one"]);
    }
}

#[test]
fn two_jobs_that_succeed() {
    for completion in [Grouped, Individual] {
        let site = Site::new();
        let running = site.start(completion, &[("one", plain()), ("two", plain())]);
        running.ends().unwrap();
        for (index, disk) in ["one", "two"].into_iter().enumerate() {
            assert_eq!(running.story(index), COMPLETED);
            site.complete(disk);
        }
    }
}

/// Job `bad` fails or is cancelled while the other one copies, or when it waits already.
fn one_of_two_ends(bad: usize, other_waits: bool, end: impl Fn(&Site, &Running, usize)) {
    let names = ["one", "two"];
    let site = Site::new();
    let speed = |index: usize| if index != bad && other_waits { plain() } else { slow() };
    let running = site.start(Grouped, &[("one", speed(0)), ("two", speed(1))]);
    running.reaches(bad, JobStatus::Running);
    running.reaches(1 - bad, if other_waits { JobStatus::Waiting } else { JobStatus::Running });
    end(&site, &running, bad);
    assert!(running.ends().is_err());
    ended_because_of(&running, 1 - bad, names[bad]);
    let way = if other_waits { "running, waiting, aborting" } else { "running, aborting" };
    assert_eq!(running.story(1 - bad), format!("{way}, concluded, CANCELLED"));
    site.untouched();
    site.can_be_run_again(&names);
}

#[test]
fn one_of_two_fails() {
    for (bad, other_waits) in [(0, false), (1, false), (0, true), (1, true)] {
        one_of_two_ends(bad, other_waits, |site, running, bad| {
            site.fail(unreadable(["one", "two"][bad]));
            running.job(bad).set_speed(0).unwrap();
            assert!(running.ends().is_err());
            failed(running, bad);
        });
    }
}

#[test]
fn one_of_two_is_cancelled() {
    for (bad, other_waits) in [(0, false), (1, false), (0, true), (1, true)] {
        one_of_two_ends(bad, other_waits, |_, running, bad| {
            running.job(bad).cancel().unwrap();
            was_cancelled(running, bad);
        });
    }
}

/// The one that waits is cancelled: so is the one that copies.
#[test]
fn one_that_waits_is_cancelled() {
    let site = Site::new();
    let running = site.start(Grouped, &[("one", plain()), ("two", slow())]);
    running.reaches(0, JobStatus::Waiting);
    running.job(0).cancel().unwrap();
    assert!(running.ends().is_err());
    was_cancelled(&running, 0);
    ended_because_of(&running, 1, "one");
    assert_eq!(running.story(0), "running, waiting, aborting, concluded, CANCELLED");
    site.untouched();
    site.can_be_run_again(&["one", "two"]);
}

/// A failure and a cancel at the same moment: whichever comes first, nothing is left and both jobs have ended.
#[test]
fn a_failure_and_a_cancel_race() {
    let rounds = if std::env::var_os("HOLSTEIN_EXHAUSTIVE").is_some() { 500 } else { 30 };
    let mut kinds = std::collections::HashSet::new();
    for round in 0..rounds {
        let site = Site::new();
        site.hold("one");
        site.hold("two");
        let running = site.start(Grouped, &[("one", plain()), ("two", plain())]);
        site.held("one");
        site.fail(unreadable("one"));
        std::thread::scope(|scope| {
            scope.spawn(|| site.release("one"));
            if round % 2 == 0 {
                std::thread::sleep(std::time::Duration::from_micros(round * 20));
            }
            let cancelled = running.job(1).cancel();
            assert!(cancelled.is_ok() || running.job(1).status() != JobStatus::Running, "{cancelled:?}");
        });
        site.release("two");
        let error = running.ends().unwrap_err();
        kinds.insert(error.kind());
        for job in running.transaction.jobs() {
            assert_eq!(job.status(), JobStatus::Concluded);
            assert!(job.error().is_some());
        }
        site.untouched();
    }
    println!("{kinds:?}");
}

#[test]
fn alone_each_ends_for_itself() {
    let site = Site::new();
    let running = site.start(Individual, &[("one", slow()), ("two", plain()), ("three", plain())]);
    running.reaches(1, JobStatus::Concluded);
    running.reaches(2, JobStatus::Concluded);
    // They are there, although the first one still copies.
    site.complete("two");
    assert_eq!(running.story(1), COMPLETED);
    site.fail(unreadable("one"));
    running.job(0).set_speed(0).unwrap();
    assert_eq!(running.ends().unwrap_err().kind(), ErrorKind::Io);
    failed(&running, 0);
    site.no_target("one");
    site.complete("three");
}

#[test]
fn a_group_is_finalized_by_hand() {
    let manual = BackupOptions { finalize: LastStep::Manual, ..plain() };
    // One wants it: all wait. Any of them can be told.
    for told in [0, 1] {
        let site = Site::new();
        let running = site.start(Grouped, &[("one", manual.clone()), ("two", plain())]);
        running.reaches(0, JobStatus::Pending);
        running.reaches(1, JobStatus::Pending);
        assert!(running.transaction.wait(Some(std::time::Duration::from_millis(20))).is_none());
        site.no_target_yet();
        running.job(told).finalize().unwrap();
        running.ends().unwrap();
        assert_eq!((running.story(0).as_str(), running.story(1).as_str()), (COMPLETED, COMPLETED));
        site.complete("one");
        site.complete("two");
    }
    // Or cancelled, by a job or all at once.
    for one in [Some(0), Some(1), None] {
        let site = Site::new();
        let running = site.start(Grouped, &[("one", manual.clone()), ("two", manual.clone())]);
        running.reaches(0, JobStatus::Pending);
        match one {
            Some(job) => running.job(job).cancel().unwrap(),
            None => running.transaction.cancel(),
        }
        assert_eq!(running.ends().unwrap_err().kind(), ErrorKind::Cancelled);
        assert_eq!(running.story(0), "running, waiting, pending, aborting, concluded, CANCELLED");
        site.untouched();
        site.can_be_run_again(&["one", "two"]);
    }
    // Alone each waits for its own word.
    let site = Site::new();
    let running = site.start(Individual, &[("one", manual.clone()), ("two", manual), ("three", plain())]);
    running.reaches(2, JobStatus::Concluded);
    running.reaches(0, JobStatus::Pending);
    running.job(0).finalize().unwrap();
    running.reaches(0, JobStatus::Concluded);
    site.complete("one");
    running.reaches(1, JobStatus::Pending);
    drop(running);
    site.no_target("two");
}

/// What can only be found out at the very end fails all of them.
#[test]
fn the_last_step_fails() {
    let manual = BackupOptions { finalize: LastStep::Manual, ..plain() };
    let site = Site::new();
    let running = site.start(Grouped, &[("one", plain()), ("two", manual)]);
    running.reaches(0, JobStatus::Pending);
    running.reaches(1, JobStatus::Pending);
    site.fail(Fault { disk: "two", kind: Kind::Rename, after: 0, times: 1, errno: libc::EIO });
    running.job(0).finalize().unwrap();
    assert!(running.ends().unwrap_err().to_string().starts_with("cannot rename"));
    ended_because_of(&running, 0, "two");
    assert_eq!(running.story(0), "running, waiting, pending, aborting, concluded, CANCELLED");
    assert_eq!(running.story(1), "running, waiting, pending, aborting, concluded, failed: Io");
    assert_eq!(site.storage.paths().len(), 3);
    site.can_be_run_again(&["one", "two"]);
}

/// Transactions do not meet.
#[test]
fn many_at_once() {
    let site = Site::new();
    site.hold("one");
    let first = site.start(Grouped, &[("one", plain())]);
    let second = site.start(Grouped, &[("two", plain())]);
    let third = site.start(Individual, &[("three", plain())]);
    site.held("one");
    second.ends().unwrap();
    third.ends().unwrap();
    first.transaction.cancel();
    site.release("one");
    assert!(first.ends().is_err());
    site.no_target("one");
    site.complete("two");
    site.complete("three");
}
