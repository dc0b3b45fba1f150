//! Each verb in each state: what is refused says which job, its state and the verb, and changes nothing.

use holstein::{
    BackupOptions, CompletionMode::Grouped, Error, ErrorKind, EventKind, Job, JobStatus, LastStep, Verb,
};

use crate::site::{Running, Site};

fn tell(job: &Job, verb: Verb) -> Result<(), Error> {
    match verb {
        Verb::Cancel => job.cancel(),
        Verb::Pause => job.pause(),
        Verb::Resume => job.resume(),
        Verb::SetSpeed => job.set_speed(1 << 40),
        Verb::Finalize => job.finalize(),
        Verb::Dismiss => job.dismiss(),
    }
}

/// All verbs but these are refused.
fn hears_only(running: &Running, heard: &[Verb]) {
    let job = running.job(0);
    let status = job.status();
    for verb in Verb::ALL.into_iter().filter(|verb| !heard.contains(verb)) {
        let error = tell(job, verb).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::WrongState);
        let expected = format!("the backup to '/one/copy.qcow2' is {status} and cannot be told to {verb}; ");
        assert!(error.to_string().starts_with(&expected), "{error}");
        assert_eq!(job.status(), status);
    }
}

fn manual() -> BackupOptions {
    BackupOptions { finalize: LastStep::Manual, dismiss: LastStep::Manual, ..BackupOptions::default() }
}

#[test]
fn what_is_refused_changes_nothing() {
    use Verb::{Cancel, Dismiss, Finalize, Pause, Resume, SetSpeed};
    let site = Site::new();
    site.hold("one");
    let slow = BackupOptions { speed: 1, ..manual() };
    let running = site.start(Grouped, &[("one", manual()), ("two", slow)]);
    site.held("one");
    let job = running.job(0);
    assert_eq!(job.status(), JobStatus::Running);
    hears_only(&running, &[Cancel, Pause, Resume, SetSpeed]);
    let error = job.resume().unwrap_err();
    assert_eq!(error.to_string(), "the backup to '/one/copy.qcow2' is not paused");
    assert_eq!(error.kind(), ErrorKind::WrongState);

    job.pause().unwrap();
    let error = job.pause().unwrap_err();
    assert_eq!(error.to_string(), "the backup to '/one/copy.qcow2' is already paused");
    assert_eq!(error.kind(), ErrorKind::WrongState);
    // Something is at work still.
    assert_eq!(job.status(), JobStatus::Running);
    site.release("one");
    running.reaches(0, JobStatus::Paused);
    hears_only(&running, &[Cancel, Pause, Resume, SetSpeed]);
    assert!(job.pause().unwrap_err().to_string().ends_with("is already paused"));
    job.set_speed(1 << 41).unwrap();

    job.resume().unwrap();
    running.reaches(0, JobStatus::Waiting);
    hears_only(&running, &[Cancel]);
    let error = job.pause().unwrap_err();
    assert!(error.to_string().ends_with("that is for jobs that are created or running or paused"), "{error}");
    running.job(1).set_speed(0).unwrap();
    running.reaches(0, JobStatus::Pending);
    hears_only(&running, &[Cancel, Finalize]);
    job.finalize().unwrap();
    running.reaches(0, JobStatus::Concluded);
    hears_only(&running, &[Dismiss]);
    job.dismiss().unwrap();
    hears_only(&running, &[]);
    running.reaches(1, JobStatus::Concluded);
    running.job(1).dismiss().unwrap();
    running.ends().unwrap();
    let way = "running, paused, running, waiting, pending, concluded, COMPLETED, dismissed";
    assert_eq!(running.story(0), way);
    site.complete("one");
    site.complete("two");
}

#[test]
fn a_job_that_ends_early_hears_nothing_before_it_is_over() {
    let site = Site::new();
    site.hold("one");
    let running = site.start(Grouped, &[("one", manual())]);
    site.held("one");
    running.job(0).cancel().unwrap();
    running.reaches(0, JobStatus::Aborting);
    hears_only(&running, &[]);
    site.release("one");
    running.reaches(0, JobStatus::Concluded);
    hears_only(&running, &[Verb::Dismiss]);
    running.job(0).dismiss().unwrap();
    assert_eq!(running.ends().unwrap_err().to_string(), "the backup was cancelled");
    assert_eq!(running.story(0), "running, aborting, concluded, CANCELLED, dismissed");
    site.untouched();
}

/// A transaction ends when its jobs are dismissed; or when nobody is left to do so.
#[test]
fn jobs_wait_to_be_dismissed() {
    let site = Site::new();
    let options = BackupOptions { dismiss: LastStep::Manual, ..BackupOptions::default() };
    let running = site.start(Grouped, &[("one", options), ("two", BackupOptions::default())]);
    running.reaches(0, JobStatus::Concluded);
    running.reaches(1, JobStatus::Concluded);
    assert!(running.transaction.wait(Some(std::time::Duration::from_millis(20))).is_none());
    // It has its target, and nobody holds the disk.
    site.complete("one");
    running.job(0).dismiss().unwrap();
    running.ends().unwrap();
    let job = running.job(0).clone();
    drop(running);
    assert_eq!(job.status(), JobStatus::Dismissed);
    assert!(job.error().is_none());

    let site = Site::new();
    let options = BackupOptions { dismiss: LastStep::Manual, ..BackupOptions::default() };
    let running = site.start(Grouped, &[("one", options)]);
    running.reaches(0, JobStatus::Concluded);
    let job = running.job(0).clone();
    drop(running);
    assert_eq!(job.status(), JobStatus::Concluded);
}

#[test]
fn nothing_comes_behind_the_last_event() {
    let site = Site::new();
    let running = site.start(Grouped, &[("one", BackupOptions::default())]);
    assert!(running.transaction.wait(None).unwrap().is_ok());
    running.job(0).dismiss().unwrap();
    let events: Vec<_> = std::iter::from_fn(|| running.transaction.next_event()).collect();
    assert!(matches!(events.last().unwrap().kind, EventKind::Finished), "{events:?}");
}

#[test]
fn a_transaction_that_is_committed_takes_its_last_steps_itself() {
    let site = Site::new();
    for options in [
        BackupOptions { finalize: LastStep::Manual, ..BackupOptions::default() },
        BackupOptions { dismiss: LastStep::Manual, ..BackupOptions::default() },
    ] {
        let mut transaction = holstein::Transaction::new();
        transaction.add(site.backup("one", options));
        let error = transaction.commit().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument);
        assert!(
            error.to_string().contains("'/one/copy.qcow2' waits to be finalized or dismissed"),
            "{error}"
        );
        site.untouched();
    }
}
