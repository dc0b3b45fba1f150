//! Jobs that have nothing to do take no time of a processor. One test in a program of its own, whose threads are all its.
#![allow(clippy::unwrap_used, clippy::expect_used)] // what cannot be done here fails the test

use std::{fs, sync::Arc, thread, time::Duration};

use holstein::{
    Backup, BackupOptions, CompletionMode, Disk, DiskOptions, ErrorPolicy, Format, JobStatus, LastStep,
    Transaction,
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

#[test]
fn nothing_turns_while_all_jobs_wait() {
    let storage = SimulatedStorage::new();
    storage.insert("/disks/disk", &vec![7; 4 << 20]);
    storage.make_folder("/backups");
    let options = DiskOptions { format: Format::Raw, ..DiskOptions::default() };
    let source = Disk::open_in(Arc::new(storage.clone()), "/disks/disk", &options).unwrap();
    let mut transaction = Transaction::new();
    transaction.set_completion(CompletionMode::Individual);
    let slow = BackupOptions { speed: 1, ..BackupOptions::default() };
    let stops = BackupOptions { on_target_error: ErrorPolicy::Stop, ..BackupOptions::default() };
    let manual = BackupOptions { finalize: LastStep::Manual, ..BackupOptions::default() };
    for (name, options) in [("slow", slow.clone()), ("paused", slow), ("stopped", stops), ("pending", manual)]
    {
        let target = format!("/backups/{name}").into();
        transaction.add(Backup { source: source.clone(), target, options });
    }
    let running = transaction.start().unwrap();
    storage.fail(Fault::lasting(OperationKind::Write, 1, Failure::Errno(libc::ENOSPC)));
    let jobs = running.jobs();
    jobs[1].pause().unwrap();
    let reaches = |index: usize, status: JobStatus| {
        while jobs[index].status() != status {
            assert!(jobs[index].error().is_none(), "{:?}", jobs[index].error());
            thread::sleep(Duration::from_millis(1));
            // The others may write: only one stops for good.
            if index == 3 {
                storage.stop_failing();
            }
        }
    };
    reaches(1, JobStatus::Paused);
    reaches(2, JobStatus::Paused);
    reaches(3, JobStatus::Pending);
    thread::sleep(Duration::from_millis(50));
    let (before, threads) = ticks();
    assert!(threads >= 3, "{threads}");
    thread::sleep(Duration::from_millis(1000));
    let (after, _) = ticks();
    // One thread that turned would take 100.
    assert!(after - before <= 5, "{} ticks in a second", after - before);
    drop(running);
    assert_eq!(storage.paths().len(), 1);
}
