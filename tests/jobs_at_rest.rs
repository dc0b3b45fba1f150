//! Jobs that have nothing to do take no time of a processor. One test in a program of its own, whose threads are all its.
#![allow(clippy::unwrap_used, clippy::expect_used)] // what cannot be done here fails the test

use std::{fs, sync::Arc, thread, time::Duration};

use holstein::{
    Backup, BackupOptions, CompletionMode, Disk, DiskOptions, ErrorPolicy, Format, Job, JobStatus, LastStep,
    RunningTransaction, Transaction,
    storage::{
        SimulatedStorage,
        simulated::{Failure, Fault, OperationKind},
    },
};

/// How long the threads of a transaction have been at work, in ticks of 10 ms; and how many there are.
fn ticks() -> (u64, usize) {
    let mut sum = (0, 0);
    for task in fs::read_dir("/proc/self/task").unwrap() {
        let folder = task.unwrap().path();
        let name = fs::read_to_string(folder.join("comm")).unwrap_or_default();
        if !name.starts_with("holstein") {
            continue;
        }
        let stat = fs::read_to_string(folder.join("stat")).unwrap();
        // Behind the name, which is in parentheses: state, 10 numbers, user time, system time.
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
        sum.0 += fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
        sum.1 += 1;
    }
    sum
}

/// Starts a backup for each of these options, each for itself.
fn start(storage: &SimulatedStorage, backups: &[(&str, BackupOptions)]) -> RunningTransaction {
    let options = DiskOptions { format: Format::Raw, ..DiskOptions::default() };
    let source = Disk::open_in(Arc::new(storage.clone()), "/disks/disk", &options).unwrap();
    let mut transaction = Transaction::new();
    transaction.set_completion(CompletionMode::Individual);
    for (name, options) in backups {
        let target = format!("/backups/{name}").into();
        transaction.add(Backup { source: source.clone(), target, options: options.clone() });
    }
    transaction.start().unwrap()
}

fn reaches(job: &Job, status: JobStatus) {
    while job.status() != status {
        assert!(job.error().is_none(), "{:?}", job.error());
        thread::sleep(Duration::from_millis(1));
    }
}

fn are_at_rest() {
    thread::sleep(Duration::from_millis(50));
    let (before, threads) = ticks();
    assert!(threads >= 3, "{threads}");
    thread::sleep(Duration::from_millis(1000));
    let (after, _) = ticks();
    // One thread that turned would take 100.
    assert!(after - before <= 5, "{} ticks in a second", after - before);
}

#[test]
fn nothing_turns_while_all_jobs_wait() {
    let storage = SimulatedStorage::new();
    storage.insert("/disks/disk", &vec![7; 4 << 20]);
    storage.make_folder("/backups");
    let slow = BackupOptions { speed: 1, ..BackupOptions::default() };
    let manual = BackupOptions { finalize: LastStep::Manual, ..BackupOptions::default() };
    let running = start(&storage, &[("slow", slow.clone()), ("paused", slow), ("pending", manual)]);
    let jobs = running.jobs();
    jobs[1].pause().unwrap();
    reaches(&jobs[1], JobStatus::Paused);
    reaches(&jobs[2], JobStatus::Pending);
    assert_eq!(jobs[0].status(), JobStatus::Running);
    are_at_rest();
    drop(running);

    let stops = BackupOptions { speed: 1, on_target_error: ErrorPolicy::Stop, ..BackupOptions::default() };
    let running = start(&storage, &[("stopped", stops)]);
    storage.fail(Fault::lasting(OperationKind::Write, 1, Failure::Errno(libc::ENOSPC)));
    running.jobs()[0].set_speed(0).unwrap();
    reaches(&running.jobs()[0], JobStatus::Paused);
    are_at_rest();
    drop(running);
    assert_eq!(storage.paths().len(), 1);
}
