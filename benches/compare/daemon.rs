//! The peer of an incremental copy: `qemu-storage-daemon` running one `blockdev-backup` job, driven over QMP.

use crate::Result;
use crate::qmp::{Client, Patience};
use crate::tools::Sample;
use serde_json::{Value, json};
use std::fs::{self, File};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How the daemon is set up; every setting is tried and the fastest one counts.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Setting {
    /// Concurrent copy requests of the job.
    pub(crate) workers: u32,
    /// Whether the target ignores flushes while the job runs (its one flush comes at the end, in our hands).
    pub(crate) lazy_flush: bool,
}

/// Whether the target's data has to be on stable storage within the time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Durability {
    /// Synchronised within the time.
    Synced,
    /// All files are in memory: there is nothing to synchronise.
    Memory,
}

/// One disk of a transaction: names of files in the folder.
#[derive(Clone, Debug)]
pub(crate) struct Copied {
    pub(crate) source: String,
    /// It exists and has its backing file.
    pub(crate) target: String,
}

/// Copies the dirty clusters of `bitmap` of each disk, all in one transaction.
///
/// The time begins with a daemon that runs and waits; it ends when the daemon has closed all images and gone.
pub(crate) fn backup(
    folder: &Path,
    disks: &[Copied],
    bitmap: &str,
    setting: Setting,
    durability: Durability,
) -> Result<Sample> {
    let mut daemon = Daemon::start(folder)?;
    let start = Instant::now();
    // The bitmap stays as it is, so the source can be opened for reading only: that spares the daemon from
    // marking the bitmap as in use and from storing it again.
    for (number, disk) in disks.iter().enumerate() {
        daemon.execute("blockdev-add", node(&format!("source{number}"), &disk.source, true, false))?;
        let target = node(&format!("target{number}"), &disk.target, false, setting.lazy_flush);
        daemon.execute("blockdev-add", target)?;
    }
    let job_start = Instant::now();
    let action = |number: usize| {
        json!({"type": "blockdev-backup", "data": {
            "job-id": format!("backup{number}"), "device": format!("source{number}"),
            "target": format!("target{number}"), "auto-dismiss": false,
            "sync": "bitmap", "bitmap": bitmap, "bitmap-mode": "never",
            "x-perf": {"max-workers": setting.workers}}})
    };
    let actions: Vec<Value> = (0..disks.len()).map(action).collect();
    let properties = json!({"completion-mode": "grouped"});
    daemon.execute("transaction", json!({"actions": actions, "properties": properties}))?;
    for number in 0..disks.len() {
        daemon.wait_for(&format!("backup{number}"))?;
    }
    let job = job_start.elapsed();
    let peak_kib = daemon.peak_kib();
    daemon.quit()?;
    let mut sync = Duration::ZERO;
    if durability == Durability::Synced {
        for disk in disks {
            sync += synchronise(folder, &disk.target)?;
        }
    }
    Ok(Sample { seconds: start.elapsed().as_secs_f64(), job: Some((job + sync).as_secs_f64()), peak_kib })
}

/// Makes `file` and its name in `folder` durable; the time that took.
pub(crate) fn synchronise(folder: &Path, file: &str) -> Result<Duration> {
    let start = Instant::now();
    File::open(folder.join(file))?.sync_all()?;
    File::open(folder.join(file).parent().unwrap_or(folder))?.sync_all()?;
    Ok(start.elapsed())
}

fn node(name: &str, file: &str, read_only: bool, no_flush: bool) -> Value {
    json!({"driver": "qcow2", "node-name": name, "read-only": read_only, "discard": "unmap",
           "cache": {"no-flush": no_flush},
           "file": {"driver": "file", "filename": file, "aio": "threads", "cache": {"no-flush": no_flush}}})
}

/// How long the daemon may be silent. A job may wait for the disk for minutes.
const PATIENCE: Patience = Patience {
    answer: Duration::from_secs(300),
    job: Duration::from_secs(300),
    event: Duration::from_secs(10),
};

/// How long the daemon may take to end.
const END: Duration = Duration::from_secs(300);

/// A running daemon; killed when it is dropped before [`Daemon::quit`].
struct Daemon {
    process: Child,
    client: Client,
}

impl Daemon {
    fn start(folder: &Path) -> Result<Daemon> {
        let mut process = Command::new("qemu-storage-daemon")
            .args(["--chardev", "stdio,id=qmp", "--monitor", "chardev=qmp"])
            .current_dir(folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|e| format!("qemu-storage-daemon: {e}"))?;
        let input = process.stdin.take().ok_or("no way to the daemon")?;
        let output = process.stdout.take().ok_or("no way from the daemon")?;
        match Client::greet(input, output, PATIENCE) {
            Ok(client) => Ok(Daemon { process, client }),
            Err(error) => {
                let _ = process.kill();
                let _ = process.wait();
                Err(error)
            }
        }
    }

    fn execute(&mut self, command: &str, arguments: Value) -> Result<Value> {
        self.client.execute(command, arguments)
    }

    fn wait_for(&mut self, id: &str) -> Result<()> {
        self.client.wait_for(id)
    }

    fn peak_kib(&self) -> Option<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.process.id())).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
        line.trim().trim_end_matches("kB").trim().parse().ok()
    }

    fn quit(mut self) -> Result<()> {
        self.execute("quit", json!({}))?;
        let status = self.client.closed(END).and_then(|()| Ok(self.process.wait()?))?;
        if status.success() { Ok(()) } else { Err(format!("qemu-storage-daemon: {status}").into()) }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // After `quit` the process is gone and both calls have nothing to do.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
