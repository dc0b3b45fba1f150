//! What the durable commit of a group costs by itself, as disks are added: from "everything is copied" to "everything is in
//! place". A transaction that is finalized by hand stops between the two.

use std::{
    ffi::OsString,
    io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use holstein::{
    Access, Backup, BackupOptions, Disk, DiskOptions, EventKind, JobStatus, LastStep, SyncMode, Transaction,
    storage::{
        FileExtent, FileId, FileKind, FileStatus, FileVersion, HostStorage, Lock, RenameRule, Storage,
        StorageFile,
    },
};

use crate::{
    Result,
    disks::qemu_img,
    tools::{output, run},
};

/// Numbers of disks.
const DISKS: [usize; 7] = [1, 2, 4, 8, 16, 32, 64];

/// Measures and prints a table of its own.
pub(crate) fn measure(folder: &Path, rounds: usize) -> Result<()> {
    let folder = folder.join("commit");
    std::fs::create_dir_all(&folder)?;
    for number in 0..DISKS[DISKS.len() - 1] {
        let disk = format!("{number}.qcow2");
        qemu_img(&folder, &["create", "-q", "-f", "qcow2", &disk, "64M"])?;
        qemu_img(&folder, &["bitmap", "--add", &disk, "b"])?;
    }
    println!("\n| disks | commit | lowest .. highest | for each disk | fsyncs |\n|---:|---:|---|---:|---:|");
    for disks in DISKS {
        let mut times = Vec::new();
        let mut syncs = 0;
        for round in 0..=rounds {
            for number in 0..disks {
                write(&folder, number)?;
            }
            let (time, count) = commit(&folder, disks)?;
            // The first one warms up.
            if round > 0 {
                times.push(time);
            }
            syncs = count;
        }
        times.sort_unstable();
        let ms = |time: Duration| time.as_secs_f64() * 1e3;
        let median = ms(times[times.len() / 2]);
        println!(
            "| {disks} | {median:.1} ms | {:.1} .. {:.1} | {:.1} ms | {syncs} |",
            ms(times[0]),
            ms(times[times.len() - 1]),
            median / disks as f64,
        );
    }
    Ok(())
}

fn write(folder: &Path, number: usize) -> Result<()> {
    let mut command = std::process::Command::new("qemu-io");
    command.current_dir(folder).args(["-f", "qcow2", "-c", "write -q 1M 64k", &format!("{number}.qcow2")]);
    run(&mut command)
}

/// One increment of every disk; the time from the finalizing to the end, and the fsyncs in it.
fn commit(folder: &Path, disks: usize) -> Result<(Duration, usize)> {
    let syncs = Arc::new(AtomicUsize::new(0));
    let storage: Arc<dyn Storage> = Arc::new(Counting { inner: HostStorage, syncs: syncs.clone() });
    let targets: Vec<PathBuf> =
        (0..disks).map(|number| folder.join(format!("target-{number}.qcow2"))).collect();
    let mut transaction = Transaction::new();
    for (number, target) in targets.iter().enumerate() {
        let path = folder.join(format!("{number}.qcow2"));
        let options = DiskOptions { access: Access::Write, ..DiskOptions::default() };
        let source = Disk::open_in(storage.clone(), path, &options)?;
        let options = BackupOptions {
            sync: Some(SyncMode::Incremental),
            bitmap: Some(b"b".to_vec()),
            finalize: LastStep::Manual,
            ..BackupOptions::default()
        };
        transaction.add(Backup { source, target: target.clone(), options });
    }
    let running = transaction.start()?;
    let mut pending = 0;
    while pending < disks {
        match running.next_event().map(|event| event.kind) {
            Some(EventKind::StateChanged(JobStatus::Pending)) => pending += 1,
            Some(EventKind::Failed(error)) => return Err(error.into()),
            Some(_) => {}
            None => std::thread::sleep(Duration::from_millis(1)),
        }
    }
    nix::unistd::sync();
    let before = syncs.load(Ordering::Relaxed);
    let start = Instant::now();
    running.jobs()[0].finalize()?;
    let ended = running.wait(None).unwrap_or(Ok(()));
    let time = start.elapsed();
    ended?;
    let count = syncs.load(Ordering::Relaxed) - before;
    drop(running);
    for target in &targets {
        let mut check = std::process::Command::new("qemu-img");
        output(check.args(["check", "-q"]).arg(target))?;
        std::fs::remove_file(target)?;
    }
    Ok((time, count))
}

/// Real files, of which the fsyncs are counted.
#[derive(Debug)]
struct Counting {
    inner: HostStorage,
    syncs: Arc<AtomicUsize>,
}

#[derive(Debug)]
struct CountingFile {
    inner: Arc<dyn StorageFile>,
    syncs: Arc<AtomicUsize>,
}

impl Counting {
    fn count(&self, file: io::Result<Arc<dyn StorageFile>>) -> io::Result<Arc<dyn StorageFile>> {
        Ok(Arc::new(CountingFile { inner: file?, syncs: self.syncs.clone() }))
    }
}

impl Storage for Counting {
    fn open(&self, path: &Path) -> io::Result<Arc<dyn StorageFile>> {
        self.count(self.inner.open(path))
    }

    fn open_writable(&self, path: &Path) -> io::Result<Arc<dyn StorageFile>> {
        self.count(self.inner.open_writable(path))
    }

    fn open_beneath(&self, folder: &Path, name: &Path) -> io::Result<Arc<dyn StorageFile>> {
        self.count(self.inner.open_beneath(folder, name))
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn StorageFile>> {
        self.count(self.inner.create(path))
    }

    fn rename(&self, from: &Path, to: &Path, rule: RenameRule) -> io::Result<()> {
        self.inner.rename(from, to, rule)
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.inner.link(from, to)
    }

    fn unlink(&self, path: &Path) -> io::Result<()> {
        self.inner.unlink(path)
    }

    fn sync_folder(&self, folder: &Path) -> io::Result<()> {
        self.syncs.fetch_add(1, Ordering::Relaxed);
        self.inner.sync_folder(folder)
    }

    fn list(&self, folder: &Path) -> io::Result<Vec<OsString>> {
        self.inner.list(folder)
    }

    fn status(&self, path: &Path) -> io::Result<FileStatus> {
        self.inner.status(path)
    }

    fn entry(&self, path: &Path) -> io::Result<FileStatus> {
        self.inner.entry(path)
    }
}

impl StorageFile for CountingFile {
    fn len(&self) -> io::Result<u64> {
        self.inner.len()
    }

    fn version(&self) -> io::Result<FileVersion> {
        self.inner.version()
    }

    fn allocated(&self) -> io::Result<u64> {
        self.inner.allocated()
    }

    fn id(&self) -> io::Result<FileId> {
        self.inner.id()
    }

    fn kind(&self) -> io::Result<FileKind> {
        self.inner.kind()
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.inner.read_at(buf, offset)
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<usize> {
        self.inner.write_at(buf, offset)
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        self.inner.set_len(length)
    }

    fn sync(&self) -> io::Result<()> {
        self.syncs.fetch_add(1, Ordering::Relaxed);
        self.inner.sync()
    }

    fn extent_at(&self, offset: u64) -> io::Result<FileExtent> {
        self.inner.extent_at(offset)
    }

    fn lock(&self, lock: Lock) -> io::Result<()> {
        self.inner.lock(lock)
    }
}
