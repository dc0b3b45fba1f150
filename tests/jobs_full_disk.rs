//! A file system that is full: the job pauses, somebody makes room, and it goes on. The file system is a small one in
//! memory that this program mounts for itself alone, so it needs the right to do so: root's, or user namespaces.
#![allow(clippy::unwrap_used, clippy::expect_used)] // what cannot be done here fails the test

use std::{
    env, fs,
    path::Path,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use holstein::{
    Backup, BackupOptions, Disk, DiskOptions, ErrorKind, ErrorPolicy, Format, JobStatus, RunningTransaction,
    Transaction,
};

/// Set to the folder of the small file system where that is mounted.
const FOLDER: &str = "HOLSTEIN_TEST_SMALL_FOLDER";
const MIB: usize = 1 << 20;

#[test]
fn a_full_file_system() {
    if let Some(folder) = env::var_os(FOLDER) {
        return with_small_file_system(Path::new(&folder));
    }
    let folder = tempfile::tempdir().unwrap();
    let script =
        "mount -t tmpfs -o size=4m small \"$0\" && exec \"$1\" --exact a_full_file_system --nocapture";
    let output = Command::new("unshare")
        .args(["--user", "--map-root-user", "--mount", "sh", "-c", script])
        .arg(folder.path())
        .arg(env::current_exe().unwrap())
        .env(FOLDER, folder.path())
        .output()
        .unwrap();
    let text = [output.stdout, output.stderr].concat();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&text));
}

fn reaches(running: &RunningTransaction, status: JobStatus) {
    let begin = Instant::now();
    while running.jobs()[0].status() != status {
        assert!(begin.elapsed() < Duration::from_secs(60), "{:?}", running.jobs()[0]);
        thread::sleep(Duration::from_millis(1));
    }
}

fn with_small_file_system(folder: &Path) {
    let sources = tempfile::tempdir().unwrap();
    let disk = sources.path().join("disk");
    let contents: Vec<u8> =
        (0..6 * MIB as u32).map(|number| (number.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    fs::write(&disk, &contents).unwrap();
    let target = folder.join("copy.qcow2");
    let start = |on_target_error: ErrorPolicy| {
        let options = DiskOptions { format: Format::Raw, ..DiskOptions::default() };
        let source = Disk::open(&disk, &options).unwrap();
        let options = BackupOptions { on_target_error, ..BackupOptions::default() };
        let mut transaction = Transaction::new();
        transaction.add(Backup { source, target: target.clone(), options });
        transaction.start().unwrap()
    };
    let files = || fs::read_dir(folder).unwrap().count();

    let running = start(ErrorPolicy::Report);
    assert_eq!(running.wait(None).unwrap().unwrap_err().kind(), ErrorKind::NoSpace);
    assert_eq!(files(), 0);

    // Cancelled while it is stopped, it leaves nothing either.
    let running = start(ErrorPolicy::Enospc);
    reaches(&running, JobStatus::Paused);
    running.jobs()[0].cancel().unwrap();
    assert_eq!(running.wait(None).unwrap().unwrap_err().kind(), ErrorKind::Cancelled);
    assert_eq!(files(), 0);

    let running = start(ErrorPolicy::Enospc);
    reaches(&running, JobStatus::Paused);
    let job = &running.jobs()[0];
    assert_eq!(job.stopped_by().unwrap().kind(), ErrorKind::NoSpace);
    // Nobody has made room: it stops again.
    job.resume().unwrap();
    reaches(&running, JobStatus::Paused);
    let resized = Command::new("mount").args(["-o", "remount,size=16m"]).arg(folder).status().unwrap();
    assert!(resized.success());
    job.resume().unwrap();
    running.wait(None).unwrap().unwrap();
    drop(running);
    assert_eq!(files(), 1);
    for arguments in [&["check"][..], &["compare", "-f", "qcow2", "-F", "raw"]] {
        let mut tool = Command::new("qemu-img");
        tool.args(arguments).arg(&target);
        if arguments.len() > 1 {
            tool.arg(&disk);
        }
        let output = tool.output().unwrap();
        assert!(output.status.success(), "{output:?}");
    }
}
