//! Creating images while the machine crashes or the storage fails: an image is complete, or it is not there.

use std::{collections::BTreeMap, path::Path, sync::Arc};

use holstein::{
    Backing, CreateOptions, Disk, DiskOptions, Error, Existing, Format, Preallocation,
    storage::{
        SimulatedStorage,
        simulated::{Failure, Fault, Level, OperationKind, Recording},
    },
};

use crate::crash::Trial;

const IMAGE: &str = "/images/new";
const DATA: &str = "/images/data";
const BASE: &str = "/images/base";

const SIZE: u64 = 700 << 10;

/// One new image.
#[derive(Clone)]
struct Case {
    name: &'static str,
    options: CreateOptions,
    /// What a guest reads.
    guest: Vec<u8>,
    /// What is there before.
    files: Vec<(&'static str, Vec<u8>)>,
}

fn small() -> CreateOptions {
    CreateOptions { cluster_size: Some(4096), ..CreateOptions::default() }
}

fn bytes() -> Vec<u8> {
    (0..SIZE).map(|at| (at / 512 % 251) as u8).collect()
}

impl Case {
    fn new(name: &'static str, options: CreateOptions) -> Self {
        Case { name, options, guest: vec![0; SIZE as usize], files: Vec::new() }
    }

    /// Tables of many clusters, and refcounts of one bit.
    fn preallocated() -> Self {
        let preallocation = Preallocation::Metadata;
        let options = CreateOptions {
            cluster_size: Some(512),
            refcount_bits: Some(1),
            preallocation,
            ..CreateOptions::default()
        };
        Case::new("preallocated", options)
    }

    /// Over a backing file that shows through preallocated subclusters.
    fn backing() -> Self {
        let options = CreateOptions {
            cluster_size: Some(16 << 10),
            extended_l2: true,
            preallocation: Preallocation::Metadata,
            backing: Some(Backing { name: "base".into(), format: Format::Raw }),
            ..CreateOptions::default()
        };
        Case { guest: bytes(), files: vec![(BASE, bytes())], ..Case::new("backing", options) }
    }

    fn data_file() -> Self {
        Case::new("data-file", CreateOptions { data_file: Some("data".into()), ..small() })
    }

    /// A raw data file that is there.
    fn kept_data_file() -> Self {
        let options = CreateOptions { data_file: Some("data".into()), data_file_raw: true, ..small() };
        Case { guest: bytes(), files: vec![(DATA, bytes())], ..Case::new("kept-data-file", options) }
    }

    /// In the place of an older image, with a data file of its own.
    fn overwrite() -> Self {
        let storage = SimulatedStorage::new();
        storage.make_folder("/images");
        Case::old().create(&storage).unwrap();
        let old = storage.contents(IMAGE).unwrap();
        let options = CreateOptions {
            data_file: Some("data".into()),
            data_file_raw: true,
            existing: Existing::Overwrite,
            ..small()
        };
        Case { files: vec![(IMAGE, old)], ..Case::new("overwrite", options) }
    }

    fn old() -> Self {
        Case::new("old", CreateOptions { cluster_size: Some(8192), ..CreateOptions::default() })
    }

    fn all() -> [Case; 6] {
        [
            Case::new("plain", small()),
            Case::preallocated(),
            Case::backing(),
            Case::data_file(),
            Case::kept_data_file(),
            Case::overwrite(),
        ]
    }

    fn storage(&self) -> SimulatedStorage {
        let storage = SimulatedStorage::new();
        storage.make_folder("/images");
        self.files.iter().for_each(|(path, bytes)| storage.insert(path, bytes));
        storage.enforce_locks();
        storage
    }

    fn create(&self, storage: &SimulatedStorage) -> Result<Disk, Error> {
        Disk::create_in(Arc::new(storage.clone()), IMAGE, Some(SIZE), &self.options)
    }

    fn recorded(&self) -> Recording {
        let storage = self.storage();
        self.create(&storage).unwrap();
        storage.mark();
        storage.recording()
    }

    fn replaces(&self) -> bool {
        self.options.existing == Existing::Overwrite
    }

    /// Whether the image is there as it shall be, or not yet where that is `allowed`.
    fn judge(&self, storage: &SimulatedStorage, absence_is_allowed: bool) -> Result<(), String> {
        for (path, bytes) in self.files.iter().filter(|(path, _)| *path != IMAGE) {
            if storage.contents(path).as_ref() != Some(bytes) {
                return Err(format!("{path} was changed"));
            }
        }
        for path in storage.paths() {
            // What has no name yet is complete, or no image at all.
            if path.to_string_lossy().ends_with(".tmp") && open(storage, &path).is_ok() {
                self.judge_image(storage, &path)?;
            }
        }
        if storage.contents(IMAGE).is_none() {
            let allowed = absence_is_allowed && !self.replaces();
            return if allowed { Ok(()) } else { Err("the image is not there".into()) };
        }
        let info = open(storage, Path::new(IMAGE))?.info().map_err(|e| e.to_string())?;
        let is_old = info.qcow2.is_some_and(|qcow2| Some(qcow2.cluster_size) != self.options.cluster_size);
        match is_old {
            true if absence_is_allowed && self.replaces() => Case::old().judge_image(storage, IMAGE.as_ref()),
            true => Err("the image is the old one".into()),
            false => self.judge_image(storage, IMAGE.as_ref()),
        }
    }

    fn judge_image(&self, storage: &SimulatedStorage, path: &Path) -> Result<(), String> {
        let disk = open(storage, path)?;
        let mut read = vec![0; disk.size() as usize];
        disk.read_at(&mut read, 0).map_err(|e| format!("cannot be read: {e}"))?;
        if read != self.guest {
            return Err(format!("{} reads wrongly", path.display()));
        }
        let report = Disk::check_in(Arc::new(storage.clone()), path, &DiskOptions::default());
        let report = report.map_err(|e| format!("cannot be checked: {e}"))?;
        if report.is_corrupt() || report.leaks > 0 {
            return Err(format!("{:?}", report.problems));
        }
        match &self.options.data_file {
            Some(_) if storage.contents(DATA).is_none_or(|data| data.len() as u64 != SIZE) => {
                Err("the data file is not complete".into())
            }
            _ => Ok(()),
        }
    }
}

/// Opens an image with all that it names.
fn open(storage: &SimulatedStorage, path: &Path) -> Result<Disk, String> {
    let opened = Disk::open_in(Arc::new(storage.clone()), path, &DiskOptions::default());
    opened.map_err(|e| format!("does not open: {e}"))
}

/// A crash at any moment leaves an image that is complete, or none.
pub fn crashes() {
    let mut all = 0;
    for case in Case::all() {
        let recording = case.recorded();
        let trial = Trial { name: case.name, recording: &recording, limit: 600, seed: 3 };
        let judged = trial.judge(|crash, storage| case.judge(storage, recording.marks_before(crash) == 0));
        let Some(judged) = judged else { continue };
        println!("{}: {judged:?}", case.name);
        // Writes of one sector cannot be torn, be it alone or beside a loss: these are two levels.
        assert!(judged.len() + 2 >= Level::ALL.len(), "{}: {judged:?}", case.name);
        all += judged.values().sum::<usize>();
    }
    assert!(all > 800 || std::env::var_os("HOLSTEIN_CRASH").is_some(), "{all}");
}

/// The trials would find an image that gets its name before what it names.
pub fn careless_orders_are_found() {
    let case = Case::data_file();
    let whole = case.storage();
    case.create(&whole).unwrap();
    let storage = case.storage();
    let put = |path: &str| {
        let file = holstein::storage::Storage::create(&storage, path.as_ref()).unwrap();
        let bytes = whole.contents(path).unwrap();
        file.write_at(&bytes, 0).unwrap();
        file.sync().unwrap();
    };
    put(IMAGE);
    put(DATA);
    holstein::storage::Storage::sync_folder(&storage, "/images".as_ref()).unwrap();
    let recording = storage.recording();
    let bad = recording.states(&Level::ALL, 500, 1).filter(|(_, state)| case.judge(state, true).is_err());
    assert!(bad.count() > 0);
}

/// What fails leaves everything as it was; unless the image was complete, and then the error says so.
pub fn failures() {
    let mut ends = BTreeMap::new();
    for case in Case::all() {
        let before = case.storage();
        let whole = case.storage();
        case.create(&whole).unwrap();
        let calls = OperationKind::ALL.map(|kind| (kind, whole.calls(kind)));
        for (kind, count) in calls {
            // All of them would be many; the first ones, the last ones, and some between.
            for nth in (1..=count).filter(|nth| *nth < 12 || count - nth < 12 || nth % 37 == 0) {
                for errno in [libc::EIO, libc::ENOSPC] {
                    let storage = case.storage();
                    storage.fail(Fault::once(kind, nth, Failure::Errno(errno)));
                    let result = case.create(&storage);
                    storage.stop_failing();
                    let told = format!("{}: {kind:?} {nth}: {:?}", case.name, result.as_ref().err());
                    let end = match result {
                        Ok(disk) => {
                            drop(disk);
                            case.judge(&storage, false).unwrap_or_else(|e| panic!("{told}: {e}"));
                            "made"
                        }
                        Err(error) if error.to_string().contains("was created, but cannot be opened") => {
                            case.judge(&storage, false).unwrap_or_else(|e| panic!("{told}: {e}"));
                            "made, not opened"
                        }
                        Err(_) => {
                            assert_eq!(storage.digest(), before.digest(), "{told}: {:?}", storage.paths());
                            "not made"
                        }
                    };
                    *ends.entry(end).or_insert(0) += 1;
                }
            }
        }
    }
    println!("{ends:?}");
    assert!(ends["not made"] > 200 && ends["made, not opened"] > 20, "{ends:?}");
}
