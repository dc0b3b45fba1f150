//! The log: what it says, in order, from one thread at a time; and that its receiver may do what it likes.

use std::sync::{
    Arc, Mutex, OnceLock,
    atomic::{AtomicUsize, Ordering},
};

use holstein::{
    BackupOptions, CompletionMode::Grouped, ErrorKind, ErrorPolicy, JobStatus, LogLevel, RunningTransaction,
    Transaction,
};

use crate::{
    site::{Fault, Site},
    watched::Kind,
};

type Lines = Arc<Mutex<Vec<(LogLevel, Option<usize>, String)>>>;

fn transaction(site: &Site, options: BackupOptions) -> Transaction {
    let mut transaction = Transaction::new();
    transaction.set_completion(Grouped);
    transaction.add(site.backup("one", options));
    transaction
}

#[test]
fn it_tells_what_happens() {
    let site = Site::new();
    site.fail(Fault { disk: "one", kind: Kind::Write, after: 8, times: 1, errno: libc::EIO });
    let options = BackupOptions { on_target_error: ErrorPolicy::Ignore, ..BackupOptions::default() };
    let mut transaction = transaction(&site, options);
    let lines = Lines::default();
    transaction.set_log({
        let (lines, inside) = (lines.clone(), AtomicUsize::new(0));
        move |level, job, text| {
            assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0);
            lines.lock().unwrap().push((level, job, text.to_owned()));
            inside.fetch_sub(1, Ordering::SeqCst);
        }
    });
    transaction.commit().unwrap();
    let lines: Vec<_> = lines.lock().unwrap().clone();
    let (level, job, text) = lines.iter().find(|(level, ..)| *level != LogLevel::Info).unwrap();
    assert_eq!((*level, *job), (LogLevel::Warning, Some(0)));
    let name = "the backup to '/one/copy.qcow2'";
    let begin = format!("{name} met an error of its target (ignore): cannot write ");
    assert!(text.starts_with(&begin), "{text}");
    let others: Vec<&str> = lines
        .iter()
        .filter(|(level, ..)| *level == LogLevel::Info)
        .map(|(.., text)| text.strip_prefix(name).unwrap_or(text).trim_start())
        .collect();
    let states = ["is running", "is waiting", "is pending", "is concluded"];
    assert_eq!(others, [&states[..], &["is complete", "the transaction has ended"]].concat());
}

/// Asking, telling and cancelling from within the receiver.
#[test]
fn its_receiver_may_call_back() {
    let site = Site::new();
    let mut transaction = transaction(&site, BackupOptions { speed: 1, ..BackupOptions::default() });
    let running = Arc::new(OnceLock::<RunningTransaction>::new());
    let lines = Lines::default();
    transaction.set_log({
        let (running, lines) = (Arc::downgrade(&running), lines.clone());
        move |level, job, text| {
            lines.lock().unwrap().push((level, job, text.to_owned()));
            // The handle is there once the start has returned; before the end it stays.
            let Some(handle) = running.upgrade() else { return };
            let Some(running) = handle.get() else { return };
            let job = &running.jobs()[0];
            match job.status() {
                JobStatus::Running => drop(job.pause()),
                JobStatus::Paused => job.cancel().unwrap(),
                _ => assert!(job.set_speed(5).is_err() && job.progress().total > 0),
            }
            while running.next_event().is_some() {}
        }
    });
    running.set(transaction.start().unwrap()).unwrap();
    let handle = running.get().unwrap();
    // Where the first lines came before there was a handle, somebody else begins.
    let _ = handle.jobs()[0].pause();
    assert_eq!(handle.wait(None).unwrap().unwrap_err().kind(), ErrorKind::Cancelled);
    drop(running);
    let last = lines.lock().unwrap().last().unwrap().clone();
    assert_eq!(last, (LogLevel::Info, None, "the transaction has ended".into()));
    site.untouched();
}

/// Who has waited may take away what receives the lines.
#[test]
fn the_last_line_comes_before_the_end() {
    for _ in 0..50 {
        let site = Site::new();
        let mut transaction = transaction(&site, BackupOptions::default());
        let lines = Lines::default();
        let receiver = lines.clone();
        transaction.set_log(move |level, job, text| {
            std::thread::sleep(std::time::Duration::from_millis(1));
            receiver.lock().unwrap().push((level, job, text.to_owned()));
        });
        let running = transaction.start().unwrap();
        running.wait(None).unwrap().unwrap();
        assert_eq!(lines.lock().unwrap().last().unwrap().2, "the transaction has ended");
    }
}

#[test]
fn a_receiver_that_panics_ends_nothing() {
    let site = Site::new();
    let mut transaction = transaction(&site, BackupOptions::default());
    let count = Arc::new(AtomicUsize::new(0));
    transaction.set_log({
        let count = count.clone();
        move |_, _, text| {
            count.fetch_add(1, Ordering::SeqCst);
            panic!("the receiver does not like '{text}'");
        }
    });
    transaction.commit().unwrap();
    assert_eq!(count.load(Ordering::SeqCst), 6);
    site.complete("one");
}
