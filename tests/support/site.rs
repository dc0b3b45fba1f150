//! A folder with an image that QEMU's tools made, and what has to hold after a refusal.

use std::{fs, path::Path, sync::Arc};

use holstein::{
    Access, Disk, DiskOptions, Error, ErrorKind, Layers,
    storage::{SimulatedStorage, Storage},
};

use crate::support::{
    command::{Holstein, mentions},
    patch::peek64,
    qemu::Workshop,
    rng::Rng,
};

pub const KIB: u64 = 1 << 10;
pub const MIB: u64 = 1 << 20;

/// The image.
pub const DISK: &str = "disk.qcow2";

/// The folder, with `disk.qcow2`.
pub struct Site {
    folder: tempfile::TempDir,
    pub workshop: Workshop,
    pub holstein: Holstein,
}

impl Site {
    /// A disk of 4 MiB with data in its first.
    pub fn new(options: &str) -> Self {
        let site = Self::empty();
        site.create(options, 4 * MIB);
        site.io(&["write -s noise.pat 0 1M"]);
        site
    }

    /// The same over `base.qcow2`, of that size, all of it written.
    pub fn over(below: u64, options: &str) -> Self {
        let site = Self::empty();
        site.workshop.create("base.qcow2", below, "");
        site.workshop.io("base.qcow2", "qcow2", &[format!("write -s noise.pat 0 {below}")]);
        let comma = if options.is_empty() { "" } else { "," };
        site.create(&format!("{options}{comma}backing_file=base.qcow2,backing_fmt=qcow2"), 4 * MIB);
        site
    }

    /// A folder with data to write, and no image.
    pub fn empty() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let workshop = Workshop::new(folder.path());
        fs::write(workshop.path("noise.pat"), Rng::new(1, 1).bytes(MIB as usize, 0)).unwrap();
        let holstein = Holstein::new(&workshop);
        Site { folder, workshop, holstein }
    }

    pub fn create(&self, options: &str, size: u64) {
        self.workshop.create(DISK, size, options);
    }

    pub fn io(&self, commands: &[&str]) {
        self.workshop.io(DISK, "qcow2", commands);
    }

    pub fn add_bitmap(&self, name: &str) {
        self.workshop.img(&["bitmap", "--add", "-g", "128k", DISK, name]);
    }

    pub fn path(&self) -> std::path::PathBuf {
        self.workshop.path(DISK)
    }

    pub fn options() -> DiskOptions {
        DiskOptions { access: Access::Write, ..DiskOptions::default() }
    }

    pub fn top_only() -> DiskOptions {
        DiskOptions { layers: Layers::TopOnly, ..Self::options() }
    }

    pub fn open(&self) -> Disk {
        self.open_as(&Self::options())
    }

    pub fn open_as(&self, options: &DiskOptions) -> Disk {
        Disk::open(self.path(), options).unwrap()
    }

    /// Everything in the folder.
    pub fn files(&self) -> Vec<(std::path::PathBuf, Vec<u8>)> {
        self.workshop.listing().into_iter().map(|path| (path.clone(), fs::read(&path).unwrap())).collect()
    }

    /// Does something that must be refused, and must have changed nothing.
    #[track_caller]
    pub fn refuses<T: std::fmt::Debug>(
        &self,
        kind: ErrorKind,
        words: &[&str],
        operation: impl FnOnce() -> Result<T, Error>,
    ) {
        let before = self.files();
        let error = operation().unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        mentions(&error.to_string(), words);
        assert!(self.files() == before, "the refusal changed something: {error}");
    }

    /// Refuses to write, to zero, to discard and to resize.
    #[track_caller]
    pub fn refuses_all(&self, kind: ErrorKind, words: &[&str], options: &DiskOptions) {
        let disk = self.open_as(options);
        self.refuses(kind, words, || disk.write_at(&[1; 700], 100));
        self.refuses(kind, words, || disk.write_zeroes(0..MIB));
        self.refuses(kind, words, || disk.discard(0..MIB));
        self.refuses(kind, words, || disk.resize(8 * MIB));
    }

    /// QEMU finds the image sound, and its disk to hold this.
    #[track_caller]
    pub fn holds(&self, contents: &[u8]) {
        self.workshop.check(DISK);
        self.workshop.img(&["convert", "-O", "raw", DISK, "disk.raw"]);
        let found = fs::read(self.workshop.path("disk.raw")).unwrap();
        fs::remove_file(self.workshop.path("disk.raw")).unwrap();
        assert_eq!(found.len(), contents.len(), "the size of the disk");
        let same = found.iter().zip(contents).take_while(|(a, b)| a == b).count();
        assert!(same == contents.len(), "the disk differs at {same:#x}");
    }

    /// What `qemu-img info` says of a bitmap: its flags.
    pub fn flags(&self, bitmap: &str) -> String {
        let info = self.workshop.img_json(&["info", DISK]);
        let bitmaps = info["format-specific"]["data"]["bitmaps"].as_array().unwrap();
        bitmaps.iter().find(|found| found["name"] == bitmap).unwrap()["flags"].to_string()
    }

    /// Where the L2 table of the disk's beginning lies.
    pub fn l2_table(&self) -> u64 {
        peek64(&self.path(), peek64(&self.path(), 40)) & 0x00ff_ffff_ffff_fe00
    }

    /// The files in memory.
    pub fn simulated(&self) -> SimulatedStorage {
        let storage = SimulatedStorage::new();
        for (path, bytes) in self.files() {
            storage.insert(path, &bytes);
        }
        storage.begin();
        storage
    }

    /// Opens the image in another storage.
    pub fn open_in(&self, storage: Arc<dyn Storage>, options: &DiskOptions) -> Disk {
        Disk::open_in(storage, self.path(), options).unwrap()
    }

    /// Brings the files back from another storage.
    pub fn restore(&self, storage: &SimulatedStorage) {
        for path in storage.paths() {
            fs::write(&path, storage.contents(&path).unwrap()).unwrap();
        }
    }

    pub fn noise(&self) -> Vec<u8> {
        fs::read(self.workshop.path("noise.pat")).unwrap()
    }

    /// The contents of a disk that [`Site::new`] made.
    pub fn contents(&self) -> Vec<u8> {
        let mut contents = self.noise();
        contents.resize(4 * MIB as usize, 0);
        contents
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }
}

/// All of a disk.
pub fn read(disk: &Disk) -> Vec<u8> {
    let mut bytes = vec![0; disk.size() as usize];
    disk.read_at(&mut bytes, 0).unwrap();
    bytes
}
