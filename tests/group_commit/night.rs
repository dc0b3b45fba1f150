//! Groups of backups: several disks with their bitmaps, and the targets that appear together.

use std::{collections::BTreeSet, fs, path::Path, path::PathBuf, sync::Arc};

use holstein::{
    Access, Action, Backing, Backup, BackupOptions, Disk, DiskOptions, Existing, Format, OverlayOptions,
    Recording as Records, Recovery, SyncMode, Transaction, recover_in,
    storage::{
        SimulatedStorage, Storage,
        simulated::{Crash, Lack, Level, Recording},
    },
};

use crate::{
    images::{Guest, guest},
    model::Bitmaps,
    qemu::Workshop,
    refcounts::Refcounts,
    rng::Rng,
};

/// How a group of backups is made.
pub struct Recipe {
    pub name: &'static str,
    /// Of each disk: options of `qemu-img create`, and its size in KiB.
    pub disks: &'static [(&'static str, u64)],
    /// Disk, target, bitmap.
    pub backups: &'static [(usize, &'static str, &'static str)],
    /// What else is in the list, behind them.
    pub others: &'static [Other],
    /// Targets that are there already, and are to be overwritten.
    pub replaced: &'static [&'static str],
    /// The journal's folder where it is not that of the first target.
    pub journal: Option<&'static str>,
    /// What the file system cannot do.
    pub lacks: &'static [Lack],
}

/// An action other than a backup, on the disk with a number.
#[derive(Clone, Copy)]
pub enum Other {
    Clear(usize, &'static str),
    Disable(usize, &'static str),
    Remove(usize, &'static str),
    Overlay(usize, &'static str),
    /// Behind an overlay: a bitmap in it.
    Add(usize, &'static str),
    /// An internal snapshot.
    Take(usize, &'static str),
}

impl Other {
    fn action(self, disks: &[Disk]) -> Action {
        match self {
            Other::Clear(disk, name) => Action::bitmap_clear(disks[disk].clone(), name),
            Other::Disable(disk, name) => Action::bitmap_disable(disks[disk].clone(), name),
            Other::Add(disk, name) => {
                let (granularity, recording) = (Some(4096), Records::Enabled);
                Action::bitmap_add(disks[disk].clone(), name, granularity, recording)
            }
            Other::Remove(disk, name) => Action::bitmap_remove(disks[disk].clone(), name),
            Other::Take(disk, name) => Action::snapshot_create(disks[disk].clone(), name),
            Other::Overlay(disk, path) => Action::ExternalSnapshot {
                disk: disks[disk].clone(),
                overlay: path.into(),
                options: OverlayOptions::default(),
            },
        }
    }

    /// What it makes of the bitmaps of a disk.
    fn apply(self, number: usize, bitmaps: &mut Bitmaps) {
        match self {
            Other::Clear(disk, name) if disk == number => bitmaps.0.get_mut(name).unwrap().dirty.clear(),
            Other::Disable(disk, name) if disk == number => {
                bitmaps.0.get_mut(name).unwrap().recording = false;
            }
            Other::Remove(disk, name) if disk == number => drop(bitmaps.0.remove(name).unwrap()),
            _ => {}
        }
    }
}

/// A group of backups that is about to run, and what is known about it.
pub struct Night {
    pub name: &'static str,
    pub disks: Vec<Source>,
    pub backups: Vec<Planned>,
    others: &'static [Other],
    count: usize,
    journal: Option<&'static str>,
    start: Recording,
    /// What is there from the beginning.
    paths: BTreeSet<PathBuf>,
}

pub struct Source {
    pub path: String,
    pub guest: Guest,
    pub old: Bitmaps,
    /// After the group has succeeded.
    pub new: Bitmaps,
    pub old_refcounts: Refcounts,
    pub new_refcounts: Refcounts,
}

pub struct Planned {
    pub disk: usize,
    pub target: &'static str,
    pub bitmap: &'static str,
    /// The contents of the file that is to be overwritten.
    pub replaced: Option<Vec<u8>>,
}

impl Recipe {
    pub fn make(&self) -> Night {
        let storage = SimulatedStorage::new();
        storage.lack(self.lacks);
        let folder = tempfile::tempdir().unwrap();
        let shop = Workshop::new(folder.path());
        for (number, (options, kib)) in self.disks.iter().enumerate() {
            draw(&shop, number, options, *kib);
            storage.insert(source_path(number), &fs::read(shop.path("disk.qcow2")).unwrap());
            for (_, target, _) in self.backups.iter().filter(|backup| backup.0 == number) {
                let full = Path::new(target).with_file_name(full_name(number));
                storage.insert(full, &fs::read(shop.path("full.qcow2")).unwrap());
            }
        }
        for target in self.replaced {
            storage.insert(target, &[0x5A; 3000]);
        }
        if let Some(folder) = self.journal {
            storage.make_folder(folder);
        }
        storage.begin();
        let backups = self.backups.iter().map(|&(disk, target, bitmap)| Planned {
            disk,
            target,
            bitmap,
            replaced: storage.contents(target),
        });
        let mut night = Night {
            name: self.name,
            disks: Vec::new(),
            backups: backups.collect(),
            others: self.others,
            count: self.disks.len(),
            journal: self.journal,
            start: storage.recording(),
            paths: storage.paths().into_iter().collect(),
        };
        let done = night.storage();
        let look = |storage: &SimulatedStorage, number: usize| {
            let disk = open(storage, &source_path(number), Access::Read).unwrap();
            let refcounts = Refcounts::of(&storage.contents(source_path(number)).unwrap());
            (guest(&disk).unwrap(), Bitmaps::of(&disk).unwrap(), refcounts)
        };
        let before: Vec<_> = (0..self.disks.len()).map(|number| look(&storage, number)).collect();
        night.run(&done).unwrap();
        for (number, (guest, old, old_refcounts)) in before.into_iter().enumerate() {
            let (_, _, new_refcounts) = look(&done, number);
            let mut new = old.clone();
            for backup in night.backups.iter().filter(|backup| backup.disk == number) {
                let bitmap = new.0.get_mut(backup.bitmap).unwrap();
                assert!(!bitmap.dirty.is_empty());
                bitmap.dirty.clear();
            }
            self.others.iter().for_each(|other| other.apply(number, &mut new));
            let path = source_path(number);
            night.disks.push(Source { path, guest, old, new, old_refcounts, new_refcounts });
        }
        night
    }
}

fn source_path(number: usize) -> String {
    format!("/images/disk{number}.qcow2")
}

fn full_name(number: usize) -> String {
    format!("full{number}.qcow2")
}

/// Makes `disk.qcow2` with the bitmaps `a` and `b`, and `full.qcow2`, from which on they record.
fn draw(shop: &Workshop, number: usize, options: &str, kib: u64) {
    for name in ["disk.qcow2", "full.qcow2"] {
        let _ = fs::remove_file(shop.path(name));
    }
    shop.create("disk.qcow2", kib << 10, options);
    shop.io("disk.qcow2", "qcow2", &["write -P 1 0 24k", &format!("write -P 2 {}k 9k", kib / 2)]);
    shop.img(&["bitmap", "--add", "-g", "4096", "disk.qcow2", "a"]);
    shop.img(&["bitmap", "--add", "-g", "64k", "disk.qcow2", "b"]);
    shop.img(&["convert", "-m", "1", "-O", "qcow2", "disk.qcow2", "full.qcow2"]);
    let mut random = Rng::new(number as u64, 3);
    let noise = |_| format!("write -P {} {}k 3k", random.between(3, 200), random.below(kib - 3));
    let mut commands: Vec<String> = (0..6).map(noise).collect();
    commands.push("write -z 8k 8k".into());
    shop.io("disk.qcow2", "qcow2", &commands);
}

/// Opens an image by its path.
pub fn open(storage: &SimulatedStorage, path: &str, access: Access) -> holstein::Result<Disk> {
    Disk::open_in(Arc::new(storage.clone()), path, &DiskOptions { access, ..DiskOptions::default() })
}

impl Night {
    /// A storage of its own, as it is before the run.
    pub fn storage(&self) -> SimulatedStorage {
        self.start.after(&Crash::new(Level::L0, 0, [])).unwrap()
    }

    pub fn journal_folder(&self) -> &Path {
        self.journal.map_or_else(|| Path::new(self.backups[0].target).parent().unwrap(), Path::new)
    }

    /// The group, ready to be run.
    pub fn transaction(&self, storage: &SimulatedStorage) -> holstein::Result<Transaction> {
        self.following(storage, self.others, |backup| {
            (PathBuf::from(backup.target), full_name(backup.disk), SyncMode::Incremental)
        })
    }

    /// The next night's increments, which stand on this night's.
    pub fn next_transaction(&self, storage: &SimulatedStorage) -> holstein::Result<Transaction> {
        self.following(storage, &[], |backup| {
            let name = Path::new(backup.target).file_name().unwrap().to_str().unwrap().to_owned();
            (PathBuf::from(next(backup.target)), name, SyncMode::Incremental)
        })
    }

    /// The same command again, which may replace what is there, or has other names.
    pub fn again_as(
        &self,
        storage: &SimulatedStorage,
        overwrite: bool,
        place: impl Fn(&str) -> PathBuf,
    ) -> holstein::Result<Transaction> {
        self.made(storage, self.others, overwrite, |backup| {
            (place(backup.target), full_name(backup.disk), SyncMode::Incremental)
        })
    }

    fn following(
        &self,
        storage: &SimulatedStorage,
        others: &[Other],
        place: impl Fn(&Planned) -> (PathBuf, String, SyncMode),
    ) -> holstein::Result<Transaction> {
        self.made(storage, others, false, place)
    }

    fn made(
        &self,
        storage: &SimulatedStorage,
        others: &[Other],
        overwrite: bool,
        place: impl Fn(&Planned) -> (PathBuf, String, SyncMode),
    ) -> holstein::Result<Transaction> {
        let disks = (0..self.count)
            .map(|number| open(storage, &source_path(number), Access::Write))
            .collect::<holstein::Result<Vec<_>>>()?;
        let mut transaction = Transaction::new();
        if let Some(folder) = self.journal {
            transaction.set_journal(folder);
        }
        for backup in &self.backups {
            let (target, below, sync) = place(backup);
            let options = BackupOptions {
                sync: Some(sync),
                bitmap: Some(backup.bitmap.into()),
                backing: Some(Backing { name: below.into(), format: Format::Qcow2 }),
                existing: if overwrite || backup.replaced.is_some() {
                    Existing::Overwrite
                } else {
                    Existing::Refuse
                },
                ..BackupOptions::default()
            };
            transaction.add(Backup { source: disks[backup.disk].clone(), target, options });
        }
        others.iter().for_each(|other| transaction.add(other.action(&disks)));
        Ok(transaction)
    }

    /// The number of a source's file.
    pub fn inode(&self, disk: usize) -> u64 {
        self.storage().status(self.disks[disk].path.as_ref()).unwrap().id.inode
    }

    pub fn run(&self, storage: &SimulatedStorage) -> holstein::Result<()> {
        self.transaction(storage)?.commit().map(drop)
    }

    /// A recording of the whole run, marked when it had succeeded.
    pub fn recording(&self) -> Recording {
        let storage = self.storage();
        self.run(&storage).unwrap();
        storage.mark();
        storage.recording()
    }

    pub fn recover(&self, storage: &SimulatedStorage) -> holstein::Result<Recovery> {
        let storage: Arc<dyn Storage> = Arc::new(storage.clone());
        recover_in(&storage, self.journal_folder())
    }

    /// The names that are there before the run, or after it.
    pub fn expected_paths(&self, all: bool) -> BTreeSet<PathBuf> {
        self.paths.iter().cloned().chain(self.new_files().map(PathBuf::from).filter(|_| all)).collect()
    }

    /// The images on top of disks, each with the number of its disk.
    pub fn overlays(&self) -> impl Iterator<Item = (usize, &'static str)> {
        self.others.iter().filter_map(|other| match other {
            Other::Overlay(disk, path) => Some((*disk, *path)),
            _ => None,
        })
    }

    /// Whether an action makes a bitmap clean.
    pub fn clears(&self, number: usize, name: &str) -> bool {
        self.others.iter().any(|other| matches!(other, Other::Clear(d, n) if *d == number && *n == name))
    }

    /// Whether a snapshot of a disk is taken.
    pub fn takes(&self, number: usize) -> bool {
        self.others.iter().any(|other| matches!(other, Other::Take(disk, _) if *disk == number))
    }

    /// Whether this is the name of a target or an overlay.
    pub fn is_new(&self, path: &Path) -> bool {
        self.new_files().any(|new| Path::new(new) == path)
    }

    /// Targets and overlays.
    pub fn new_files(&self) -> impl Iterator<Item = &'static str> {
        self.backups.iter().map(|backup| backup.target).chain(self.overlays().map(|(_, path)| path))
    }
}

/// The name of the next night's increment.
pub fn next(target: &str) -> String {
    format!("{target}.next")
}
