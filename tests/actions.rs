//! Transactions of more than backups: each list does what its order says, all of it or nothing.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::single_range_in_vec_init)]

use std::{
    collections::BTreeMap,
    fs,
    ops::Range,
    path::{Path, PathBuf},
    process::Command,
};

use holstein::{
    Access, Action, Backup, BackupOptions, BitmapMode, CompletionMode, Disk, DiskOptions, Error, ErrorKind,
    MergeFrom, OverlayOptions, Recording, SyncMode, Transaction,
};

#[path = "actions/command.rs"]
mod command;
#[path = "actions/individual.rs"]
mod individual;
#[path = "actions/meanwhile.rs"]
mod meanwhile;
#[path = "actions/order.rs"]
mod order;
#[path = "actions/qemus_defects.rs"]
mod qemus_defects;
#[path = "actions/qemus_tests.rs"]
mod qemus_tests;
#[path = "actions/refusals.rs"]
mod refusals;
#[path = "actions/side_by_side.rs"]
mod side_by_side;
#[path = "actions/snapshots.rs"]
mod snapshots;
mod support;

use support::qemu::run;

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

/// A folder with disks a, b and c of 4 MiB, the first MiB written, then a bitmap `old` with 64 KiB dirty at 2 MiB and
/// a clean one `new`.
struct Site {
    folder: tempfile::TempDir,
}

impl Site {
    fn new() -> Self {
        let site = Site { folder: tempfile::tempdir().unwrap() };
        for (number, disk) in ["a", "b", "c"].iter().enumerate() {
            let path = site.name(disk);
            run("qemu-img", &["create", "-q", "-f", "qcow2", &path, "4M"]);
            run("qemu-io", &["-f", "qcow2", "-c", &format!("write -P {} 0 1M", number + 1), &path]);
            run("qemu-img", &["bitmap", "--add", &path, "old"]);
            run("qemu-io", &["-f", "qcow2", "-c", &format!("write -P {} 2M 64k", number + 11), &path]);
            run("qemu-img", &["bitmap", "--add", &path, "new"]);
        }
        site
    }

    /// The path of a disk's image, or of another qcow2 image.
    fn path(&self, disk: &str) -> PathBuf {
        self.folder.path().join(format!("{disk}.qcow2"))
    }

    fn name(&self, disk: &str) -> String {
        self.path(disk).to_str().unwrap().to_owned()
    }

    fn open(&self, disk: &str) -> Disk {
        Disk::open(self.path(disk), &DiskOptions { access: Access::Write, ..DiskOptions::default() }).unwrap()
    }

    /// A backup of a disk into an image of that name.
    fn backup(&self, disk: &Disk, target: &str, options: BackupOptions) -> Action {
        Backup { source: disk.clone(), target: self.path(target), options }.into()
    }

    /// Writes a compressed cluster at 3 MiB of a disk and damages its data, which a copy finds out on its way. Returns the
    /// image before the damage.
    fn damage(&self, disk: &str) -> Vec<u8> {
        run("qemu-io", &["-f", "qcow2", "-c", "write -c -P 99 3M 64k", &self.name(disk)]);
        let whole = fs::read(self.path(disk)).unwrap();
        let word = |at: usize| u64::from_be_bytes(whole[at..at + 8].try_into().unwrap());
        let l2 = word(word(40) as usize) & 0x00ff_ffff_ffff_fe00;
        let entry = word(l2 as usize + 48 * 8);
        assert!(entry >> 62 == 1, "{entry:#x} is not compressed");
        let stream = (entry & 0x003f_ffff_ffff_ffff) as usize;
        let mut bytes = whole.clone();
        bytes[stream..stream + 64].fill(0xff);
        fs::write(self.path(disk), bytes).unwrap();
        whole
    }

    /// Names and contents of all files.
    fn everything(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let entries = fs::read_dir(self.folder.path()).unwrap().map(|entry| entry.unwrap().path());
        entries.map(|path| (path.clone(), fs::read(path).unwrap())).collect()
    }

    /// The dirty ranges of a bitmap as QEMU loads it, or that it has no such bitmap.
    fn dirty(&self, disk: &str, bitmap: &str) -> Option<Vec<Range<u64>>> {
        let info = run("qemu-img", &["info", "--output=json", &self.name(disk)]);
        let info: serde_json::Value = serde_json::from_str(&info).unwrap();
        let bitmaps = info["format-specific"]["data"]["bitmaps"].as_array().cloned().unwrap_or_default();
        bitmaps.iter().find(|known| known["name"] == bitmap)?;
        let disk = Disk::open(self.path(disk), &DiskOptions::default()).unwrap();
        Some(disk.bitmap(bitmap.as_bytes()).unwrap().extents().collect())
    }

    /// Whether QEMU says that the bitmap records.
    fn records(&self, disk: &str, bitmap: &str) -> bool {
        let info = run("qemu-img", &["info", "--output=json", &self.name(disk)]);
        let info: serde_json::Value = serde_json::from_str(&info).unwrap();
        let bitmaps = info["format-specific"]["data"]["bitmaps"].as_array().unwrap();
        let found = bitmaps.iter().find(|known| known["name"] == bitmap).unwrap();
        found["flags"].as_array().unwrap().iter().any(|flag| flag == "auto")
    }

    /// QEMU finds all images sound.
    fn check(&self) {
        for path in self.everything().keys().filter(|path| path.extension().is_some_and(|e| e == "qcow2")) {
            run("qemu-img", &["check", "-q", path.to_str().unwrap()]);
        }
    }

    fn same(&self, one: &str, other: &str) {
        run("qemu-img", &["compare", "-q", "-f", "qcow2", "-F", "qcow2", &self.name(one), &self.name(other)]);
    }

    /// The list fails with this text in its error, and nothing has changed.
    fn refuses(&self, completion: CompletionMode, actions: Vec<Action>, text: &str) -> Error {
        let before = self.everything();
        let error = transaction(completion, actions).commit().unwrap_err();
        assert!(error.to_string().contains(text), "{error}\nshould say: {text}");
        assert!(self.everything() == before, "{text}: something has changed");
        error
    }
}

fn transaction(completion: CompletionMode, actions: Vec<Action>) -> Transaction {
    let mut transaction = Transaction::new();
    transaction.set_completion(completion);
    actions.into_iter().for_each(|action| transaction.add(action));
    transaction
}

fn grouped(actions: Vec<Action>) -> Result<(), Error> {
    transaction(CompletionMode::Grouped, actions).commit().map(drop)
}

fn individual(actions: Vec<Action>) -> Result<(), Error> {
    transaction(CompletionMode::Individual, actions).commit().map(drop)
}

/// Options of a backup that goes by a bitmap.
fn by(bitmap: &str, mode: BitmapMode) -> BackupOptions {
    let bitmap = Some(bitmap.into());
    BackupOptions {
        sync: Some(SyncMode::Bitmap),
        bitmap,
        bitmap_mode: Some(mode),
        ..BackupOptions::default()
    }
}

/// The guest ranges that an image holds itself.
fn stored(path: &Path) -> Vec<Range<u64>> {
    let map = run("qemu-img", &["map", "--output=json", path.to_str().unwrap()]);
    let map: Vec<serde_json::Value> = serde_json::from_str(&map).unwrap();
    let own = map.iter().filter(|run| run["depth"] == 0 && run["present"] == true);
    own.map(|run| {
        let start = run["start"].as_u64().unwrap();
        start..start + run["length"].as_u64().unwrap()
    })
    .collect()
}

const DIRTY: Range<u64> = 2 * MIB..2 * MIB + 64 * KIB;
