//! The disks that are written: made by QEMU's tools, one for each way in which an image can keep its data.

use std::{fs, path::Path, sync::Arc};

use holstein::{
    Access, Disk, DiskOptions,
    storage::{
        SimulatedStorage,
        simulated::{self, Crash, Level},
    },
};

use crate::{
    images::{DISK, fork, open},
    model::Bitmaps,
    qemu::Workshop,
    refcounts::Refcounts,
    rng::Rng,
};

pub const KIB: u64 = 1 << 10;

/// Hands the names of all specimens to a macro.
macro_rules! for_each_specimen {
    ($macro:ident) => {
        $macro! { snapshot small_clusters shorter_below longer_below extended extended_snapshot large_clusters data_file raw_data_file version_2 version_2_below narrow_refcounts }
    };
}

/// How a disk is made.
#[derive(Clone, Copy)]
pub struct Recipe {
    pub name: &'static str,
    /// Of `qemu-img create`.
    pub options: &'static str,
    /// In bytes.
    pub size: u64,
    /// The size of the image below.
    pub below: Option<u64>,
    /// So many bytes more are written, not in the middle.
    pub fill: u64,
    /// Some clusters are compressed.
    pub compressed: bool,
    /// There is a snapshot, and an autoclear bit that nobody knows.
    pub snapshot: bool,
}

/// An image, the files beside it, and what is known about it.
pub struct Specimen {
    pub recipe: Recipe,
    storage: simulated::Recording,
    pub cluster_size: u64,
    /// The disk's contents.
    pub contents: Arc<Vec<u8>>,
    pub snapshots: Vec<Kept>,
    pub bitmaps: Bitmaps,
    pub refcounts: Option<Refcounts>,
}

impl Recipe {
    pub const fn new(name: &'static str, options: &'static str, size: u64) -> Self {
        Recipe { name, options, size, below: None, fill: 0, compressed: false, snapshot: false }
    }

    pub const fn over(self, below: u64) -> Self {
        Recipe { below: Some(below), ..self }
    }

    pub const fn filled(self, fill: u64) -> Self {
        Recipe { fill, ..self }
    }

    pub const fn compressed(self) -> Self {
        Recipe { compressed: true, ..self }
    }

    pub const fn with_snapshot(self) -> Self {
        Recipe { snapshot: true, ..self }
    }

    pub fn is_version_2(&self) -> bool {
        self.options.contains("compat=0.10")
    }

    pub fn has_raw_data_file(&self) -> bool {
        self.options.contains("data_file_raw=on")
    }

    /// Makes the image. Its bitmaps are `a`, which is fine; `b`, disabled; and `c`, which is coarse.
    pub fn make(self) -> Specimen {
        let folder = tempfile::tempdir().unwrap();
        let shop = Workshop::new(folder.path());
        self.draw(&shop);
        let storage = SimulatedStorage::new();
        for name in ["disk.qcow2", "base.qcow2", "data.raw"] {
            if let Ok(bytes) = fs::read(shop.path(name)) {
                storage.insert(Path::new("/images").join(name), &bytes);
            }
        }
        storage.begin();
        let disk = open(&storage, Access::Read).unwrap();
        let bytes = storage.contents(DISK).unwrap();
        Specimen {
            recipe: self,
            storage: storage.recording(),
            cluster_size: 1 << bytes[23],
            contents: Arc::new(contents(&disk).unwrap()),
            snapshots: snapshots(&storage).unwrap(),
            bitmaps: Bitmaps::of(&disk).unwrap(),
            refcounts: (!self.is_version_2()).then(|| Refcounts::of(&bytes)),
        }
    }

    fn draw(&self, shop: &Workshop) {
        let mut random = Rng::new(self.size, 11);
        fs::write(shop.path("noise.pat"), random.bytes(1 << 20, 0)).unwrap();
        fs::write(shop.path("half.pat"), random.bytes(64 << 10, 64)).unwrap();
        let mut options = self.options.to_owned();
        if let Some(size) = self.below {
            shop.create("base.qcow2", size, "cluster_size=64k");
            let at = self.size.min(size) / 4 / 512 * 512;
            let end = [format!("write -s half.pat {} 3k", size - 3 * KIB)];
            let middle = format!("write -s noise.pat {at} {}", (size - at) / 2 / 512 * 512);
            shop.io("base.qcow2", "qcow2", &[&[middle][..], &end].concat());
            options += ",backing_file=base.qcow2,backing_fmt=qcow2";
        }
        shop.create("disk.qcow2", self.size, &options);
        let io = |commands: &[String]| shop.io("disk.qcow2", "qcow2", commands);
        let size = self.size;
        io(&[
            format!("write -s noise.pat 0 {}", size / 8 / 512 * 512),
            format!("write -s noise.pat {} 3k", size - 3 * KIB),
        ]);
        if self.fill > 0 {
            io(&[format!("write -s noise.pat {} {}", size * 5 / 8 / 512 * 512, self.fill)]);
        }
        if self.compressed {
            let cluster = 64 * KIB;
            let (first, next) = (size / 2 / cluster * cluster, size * 3 / 4 / cluster * cluster);
            io(&[format!("write -c -s half.pat {first} 64k"), format!("write -c -s half.pat {next} 64k")]);
        }
        if self.snapshot {
            shop.img(&["snapshot", "-c", "one", "disk.qcow2"]);
        }
        io(&self.noise(&mut random));
        if !self.is_version_2() {
            for (name, granularity) in [("a", "1k"), ("b", "4k"), ("c", "64k")] {
                shop.img(&["bitmap", "--add", "-g", granularity, "disk.qcow2", name]);
            }
            io(&self.noise(&mut random));
            shop.img(&["bitmap", "--disable", "disk.qcow2", "b"]);
            io(&self.noise(&mut random));
        }
        if self.snapshot && !self.is_version_2() {
            let mut bytes = fs::read(shop.path("disk.qcow2")).unwrap();
            bytes[88] = 0x80;
            fs::write(shop.path("disk.qcow2"), bytes).unwrap();
        }
    }

    /// Small writes here and there.
    fn noise(&self, random: &mut Rng) -> Vec<String> {
        let what = ["write -s noise.pat", "write -P 7", "write -z -u"];
        let some = |_| {
            let length = random.between(1, 20) * 512;
            let at = random.below((self.size - length) / 512) * 512;
            format!("{} {at} {length}", random.pick(&what))
        };
        (0..4).map(some).collect()
    }
}

impl Specimen {
    /// A storage of its own with the image as it was made.
    pub fn storage(&self) -> SimulatedStorage {
        self.storage.after(&Crash::new(Level::L0, 0, [])).unwrap()
    }
}

/// All of a disk.
pub fn contents(disk: &Disk) -> Result<Vec<u8>, String> {
    let mut bytes = vec![0; disk.size() as usize];
    disk.read_at(&mut bytes, 0).map_err(|e| format!("cannot be read: {e}"))?;
    Ok(bytes)
}

/// A snapshot in an image: its name, and what it holds.
pub type Kept = (String, Vec<u8>);

/// All snapshots: each is read through a header that makes it the disk.
pub fn snapshots(storage: &SimulatedStorage) -> Result<Vec<Kept>, String> {
    let image = storage.contents(DISK).ok_or("the image is gone")?;
    let word = |at: usize| u64::from_be_bytes(image[at..at + 8].try_into().unwrap());
    let half = |at: usize| (word(at) >> 32) as usize;
    let mut found = Vec::new();
    let mut at = word(64) as usize;
    for _ in 0..half(60) {
        let (ids, extra) = (half(at + 12), half(at + 36));
        let mut bytes = image.clone();
        bytes[24..32].copy_from_slice(&image[at + 48..at + 56]);
        bytes[36..40].copy_from_slice(&image[at + 8..at + 12]);
        bytes[40..48].copy_from_slice(&image[at..at + 8]);
        bytes[60..64].fill(0);
        let other = fork(storage);
        other.insert(DISK, &bytes);
        let disk = open(&other, Access::Read).map_err(|e| format!("a snapshot does not open: {e}"))?;
        let name_at = at + 40 + extra + (ids >> 16);
        let name = String::from_utf8_lossy(&image[name_at..name_at + (ids & 0xffff)]).into_owned();
        found.push((name, contents(&disk).map_err(|e| format!("a snapshot {e}"))?));
        at = (name_at + (ids & 0xffff)).next_multiple_of(8);
    }
    Ok(found)
}

/// Opens the image for writing, with these options otherwise.
pub fn open_to_write(storage: &SimulatedStorage) -> holstein::Result<Disk> {
    let options = DiskOptions { access: Access::Write, ..DiskOptions::default() };
    Disk::open_in(Arc::new(storage.clone()), DISK, &options)
}

pub fn snapshot() -> Recipe {
    Recipe::new("snapshot", "cluster_size=4k,refcount_bits=32", 3072 * KIB).compressed().with_snapshot()
}

pub fn small_clusters() -> Recipe {
    Recipe::new("small_clusters", "cluster_size=512,refcount_bits=64", 4096 * KIB).filled(1390 * KIB)
}

pub fn shorter_below() -> Recipe {
    Recipe::new("shorter_below", "cluster_size=4k", 1024 * KIB + 1536).over(700 * KIB)
}

pub fn longer_below() -> Recipe {
    Recipe::new("longer_below", "cluster_size=64k,lazy_refcounts=on", 1024 * KIB + 1536)
        .over(2048 * KIB)
        .compressed()
}

pub fn extended() -> Recipe {
    Recipe::new("extended", "cluster_size=16k,extended_l2=on", 1024 * KIB + 1536)
        .over(2048 * KIB)
        .compressed()
}

pub fn extended_snapshot() -> Recipe {
    Recipe::new("extended_snapshot", "cluster_size=32k,extended_l2=on", 1024 * KIB)
        .compressed()
        .with_snapshot()
}

pub fn large_clusters() -> Recipe {
    Recipe::new("large_clusters", "cluster_size=2M,refcount_bits=64", 5120 * KIB + 512)
}

pub fn data_file() -> Recipe {
    Recipe::new("data_file", "cluster_size=16k,data_file=data.raw", 1024 * KIB + 512).over(2048 * KIB)
}

pub fn raw_data_file() -> Recipe {
    Recipe::new("raw_data_file", "cluster_size=16k,data_file=data.raw,data_file_raw=on", 1024 * KIB + 512)
}

pub fn version_2() -> Recipe {
    Recipe::new("version_2", "cluster_size=4k,compat=0.10", 1024 * KIB + 512).compressed()
}

pub fn version_2_below() -> Recipe {
    Recipe::new("version_2_below", "cluster_size=4k,compat=0.10", 1024 * KIB).over(1024 * KIB).with_snapshot()
}

pub fn narrow_refcounts() -> Recipe {
    let options = "cluster_size=8k,refcount_bits=1,compression_type=zstd,lazy_refcounts=on";
    Recipe::new("narrow_refcounts", options, 1536 * KIB).compressed()
}
