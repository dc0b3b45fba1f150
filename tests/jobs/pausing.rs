//! Pause and speed: what rests, what goes on meanwhile, and that nothing is lost by it.

use std::{
    thread,
    time::{Duration, Instant},
};

use holstein::{
    BackupOptions,
    CompletionMode::{Grouped, Individual},
    ErrorKind, EventKind, JobStatus,
};

use crate::{
    site::{DATA, MIB, Running, Site},
    watched::Kind,
};

fn plain() -> BackupOptions {
    BackupOptions::default()
}

fn slow(speed: u64) -> BackupOptions {
    BackupOptions { speed, ..plain() }
}

#[test]
fn a_paused_job_reads_and_writes_nothing() {
    for parallel in [false, true] {
        let site = Site::with(parallel);
        site.hold("one");
        let running = site.start(Grouped, &[("one", plain())]);
        site.held("one");
        let job = running.job(0);
        job.pause().unwrap();
        site.release("one");
        running.reaches(0, JobStatus::Paused);
        let counts = || (site.seen("one", Kind::Read), site.seen("one", Kind::Write), job.progress());
        let before = counts();
        assert!(before.2.done < before.2.total, "{before:?}");
        thread::sleep(Duration::from_millis(50));
        assert_eq!(counts(), before);
        job.resume().unwrap();
        running.ends().unwrap();
        let way = "running, paused, running, waiting, pending, concluded, COMPLETED";
        assert_eq!(running.story(0), way);
        site.complete("one");
    }
}

#[test]
fn many_pauses() {
    let site = Site::new();
    let running = site.start(Grouped, &[("one", plain()), ("two", plain())]);
    let mut pauses = 0;
    for round in 0.. {
        let job = running.job(round % 2);
        if job.pause().is_err() {
            break;
        }
        thread::sleep(Duration::from_micros(200));
        // It may have done its work before it came to rest.
        let status = job.status();
        match job.resume() {
            Ok(()) => pauses += 1,
            Err(error) => assert!(error.kind() == ErrorKind::WrongState, "{status}: {error}"),
        }
    }
    assert!(pauses > 0);
    running.ends().unwrap();
    site.complete("one");
    site.complete("two");
}

/// Events that nobody asks for do not pile up.
#[test]
fn many_pauses_are_few_events() {
    let site = Site::new();
    let running = site.start(Grouped, &[("one", slow(1))]);
    for _ in 0..500 {
        running.job(0).pause().unwrap();
        running.reaches(0, JobStatus::Paused);
        running.job(0).resume().unwrap();
    }
    running.job(0).pause().unwrap();
    running.reaches(0, JobStatus::Paused);
    let states = |running: &Running| {
        let events = std::iter::from_fn(|| running.transaction.next_event());
        let states = events.filter_map(|event| match event.kind {
            EventKind::StateChanged(status) => Some(status),
            _ => None,
        });
        states.collect::<Vec<_>>()
    };
    assert_eq!(states(&running), [JobStatus::Running, JobStatus::Paused]);
    running.job(0).resume().unwrap();
    running.job(0).pause().unwrap();
    running.reaches(0, JobStatus::Paused);
    assert_eq!(states(&running), [JobStatus::Running, JobStatus::Paused]);
}

#[test]
fn a_paused_job_can_be_cancelled() {
    let site = Site::new();
    site.hold("one");
    let running = site.start(Grouped, &[("one", plain()), ("two", plain())]);
    site.held("one");
    running.job(0).pause().unwrap();
    site.release("one");
    running.reaches(0, JobStatus::Paused);
    running.job(0).cancel().unwrap();
    assert_eq!(running.ends().unwrap_err().kind(), ErrorKind::Cancelled);
    assert_eq!(running.story(0), "running, paused, running, aborting, concluded, CANCELLED");
    site.untouched();
    site.can_be_run_again(&["one", "two"]);
}

/// Also by the failure of another one, and by the end of the transaction's handle.
#[test]
fn a_paused_job_ends_with_its_group() {
    let site = Site::new();
    let running = site.start(Grouped, &[("one", slow(1)), ("two", slow(1))]);
    running.job(0).pause().unwrap();
    running.reaches(0, JobStatus::Paused);
    running.job(1).cancel().unwrap();
    assert!(running.ends().is_err());
    assert!(running.job(0).error().unwrap().to_string().starts_with("cancelled because"));
    site.untouched();

    let running = site.start(Grouped, &[("one", slow(1))]);
    running.job(0).pause().unwrap();
    running.reaches(0, JobStatus::Paused);
    let job = running.job(0).clone();
    drop(running);
    assert_eq!(job.error().unwrap().to_string(), "the backup was cancelled");
    site.untouched();
}

#[test]
fn a_paused_job_holds_up_no_other() {
    for parallel in [false, true] {
        let site = Site::with(parallel);
        site.hold("one");
        let running = site.start(Individual, &[("one", plain()), ("two", plain())]);
        site.held("one");
        running.job(0).pause().unwrap();
        site.release("one");
        running.reaches(0, JobStatus::Paused);
        running.reaches(1, JobStatus::Concluded);
        assert!(running.job(1).error().is_none());
        site.complete("two");
        assert_eq!(running.job(0).status(), JobStatus::Paused);
        running.job(0).resume().unwrap();
        running.ends().unwrap();
        site.complete("one");
    }
}

/// Two jobs of one disk: the image changes when neither reads it any more.
#[test]
fn a_bitmap_changes_when_nobody_reads_its_image() {
    let site = Site::new();
    let mut transaction = holstein::Transaction::new();
    transaction.set_completion(Individual);
    let first = site.backup("one", plain());
    let mut second = first.clone();
    second.target = crate::site::target("two");
    second.options = BackupOptions { speed: 1, ..plain() };
    transaction.add(first);
    transaction.add(second);
    let running = transaction.start().unwrap();
    let jobs = running.jobs().to_vec();
    while jobs[0].status() != JobStatus::Pending {
        thread::sleep(Duration::from_millis(1));
    }
    thread::sleep(Duration::from_millis(20));
    assert_eq!(jobs[0].status(), JobStatus::Pending);
    jobs[1].set_speed(0).unwrap();
    running.wait(None).unwrap().unwrap();
    drop(running);
    site.complete("one");
}

#[test]
fn a_job_is_not_faster_than_its_limit() {
    let site = Site::new();
    let begin = Instant::now();
    let running = site.start(Grouped, &[("one", slow(8 * MIB))]);
    running.ends().unwrap();
    let least = Duration::from_secs_f64(DATA as f64 / (8 * MIB) as f64);
    assert!(begin.elapsed() >= least, "{:?} for what takes {least:?}", begin.elapsed());
    site.complete("one");
}

#[test]
fn a_speed_changes_while_the_job_waits() {
    // At one byte a second it would take months.
    let site = Site::new();
    let running = site.start(Grouped, &[("one", slow(1))]);
    running.reaches(0, JobStatus::Running);
    thread::sleep(Duration::from_millis(20));
    let progress = running.job(0).progress();
    assert!(progress.done <= MIB, "{progress:?}");
    let begin = Instant::now();
    running.job(0).set_speed(16 * MIB).unwrap();
    running.ends().unwrap();
    let rest = DATA - MIB;
    let least = Duration::from_secs_f64(rest as f64 / (16 * MIB) as f64);
    assert!(begin.elapsed() >= least, "{:?} for what takes {least:?}", begin.elapsed());
    site.complete("one");

    let site = Site::new();
    let running = site.start(Grouped, &[("one", slow(1)), ("two", slow(1))]);
    running.job(0).set_speed(0).unwrap();
    running.job(1).set_speed(0).unwrap();
    running.ends().unwrap();
    site.complete("one");
    site.complete("two");
}

#[test]
fn a_job_that_waits_for_its_speed_holds_up_no_other() {
    let site = Site::new();
    let running = site.start(Individual, &[("one", slow(1)), ("two", plain())]);
    running.reaches(1, JobStatus::Concluded);
    site.complete("two");
    assert_eq!(running.job(0).status(), JobStatus::Running);
    // It can be paused, and cancelled, at once.
    running.job(0).pause().unwrap();
    running.reaches(0, JobStatus::Paused);
    running.job(0).resume().unwrap();
    running.job(0).cancel().unwrap();
    assert_eq!(running.ends().unwrap_err().kind(), ErrorKind::Cancelled);
    site.no_target("one");
}
