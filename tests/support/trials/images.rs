//! The images that are changed: made by QEMU's tools, one for each way in which a header, its extensions and the
//! refcounts can be in the way of a change.

use std::{fs, path::Path, sync::Arc};

use holstein::{
    Access, Disk, DiskOptions, Mapping, Recording,
    storage::{
        SimulatedStorage,
        simulated::{self, Crash, Level},
    },
};

use crate::{
    model::{Bitmaps, add},
    qemu::Workshop,
    refcounts::Refcounts,
    rng::Rng,
};

/// The image on trial.
pub const DISK: &str = "/images/disk.qcow2";
/// A complete copy of the disk as it was when the bitmaps were added.
pub const FULL: &str = "/images/full.qcow2";

/// How an image is made.
pub struct Recipe {
    pub name: &'static str,
    /// Of `qemu-img create`.
    pub options: &'static str,
    /// Of the disk, in KiB.
    pub size: u64,
    pub special: Special,
}

/// What is special about an image.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Special {
    None,
    /// Clusters larger than what is written at a time.
    LargeClusters,
    /// The bitmaps extension lies across the end of the first sector.
    Straddling,
    /// The name of a backing file, so long.
    Backing(usize),
    /// An internal snapshot, and an autoclear bit that nobody knows.
    Snapshot,
    /// No room in the refcount blocks.
    FullBlocks,
    /// No room in the refcount table either.
    FullTable,
}

/// An image, the files beside it, and what is known about it.
pub struct Image {
    pub name: &'static str,
    pub special: Special,
    storage: simulated::Recording,
    /// The disk's contents.
    pub guest: Guest,
    pub bitmaps: Bitmaps,
    pub refcounts: Refcounts,
}

impl Recipe {
    /// Makes the image. Its bitmaps are `a`, which has seen everything since [`FULL`]; `b`, disabled; and `c`,
    /// which is coarse.
    pub fn make(&self) -> Image {
        let folder = tempfile::tempdir().unwrap();
        let shop = Workshop::new(folder.path());
        self.draw(&shop);
        let storage = SimulatedStorage::new();
        for name in ["disk.qcow2", "full.qcow2", "base.qcow2"] {
            if let Ok(bytes) = fs::read(shop.path(name)) {
                storage.insert(Path::new("/images").join(name), &bytes);
            }
        }
        if matches!(self.special, Special::FullBlocks | Special::FullTable) {
            fill_with_bitmaps(&storage, self.special);
        }
        storage.begin();

        let disk = open(&storage, Access::Read).unwrap();
        let bytes = storage.contents(DISK).unwrap();
        if self.special == Special::Straddling {
            let extension = bitmaps_extension(&bytes);
            assert!(extension < 512 && extension + 32 > 512, "the extension lies at {extension}");
        }
        Image {
            name: self.name,
            special: self.special,
            storage: storage.recording(),
            guest: guest(&disk).unwrap(),
            bitmaps: Bitmaps::of(&disk).unwrap(),
            refcounts: Refcounts::of(&bytes),
        }
    }

    fn draw(&self, shop: &Workshop) {
        let kib = self.size;
        let mut options = self.options.to_owned();
        if let Special::Backing(length) = self.special {
            shop.create("base.qcow2", kib << 10, "cluster_size=64k");
            shop.io("base.qcow2", "qcow2", &[format!("write -P 3 {}k 200k", kib / 2)]);
            let name = format!("{}base.qcow2", "./".repeat((length - 10) / 2));
            options += &format!(",backing_file={name},backing_fmt=qcow2");
        }
        shop.create("disk.qcow2", kib << 10, &options);
        let io = |commands: &[String]| shop.io("disk.qcow2", "qcow2", commands);
        let fill = if self.special == Special::FullTable { 1792 } else { 128 };
        io(&[format!("write -P 1 0 {fill}k"), format!("write -P 2 {}k 3k", kib * 3 / 4)]);
        if self.special != Special::LargeClusters {
            io(&[format!("write -c -P 4 {}k 64k", kib - 64)]);
        }
        if self.special == Special::Snapshot {
            shop.img(&["snapshot", "-c", "one", "disk.qcow2"]);
        }
        let bitmap = |options: &[&str]| drop(shop.img(&[&["bitmap"], options].concat()));
        bitmap(&["--add", "-g", "512", "disk.qcow2", "a"]);
        bitmap(&["--add", "-g", "4096", "disk.qcow2", "b"]);
        bitmap(&["--add", "-g", "64k", "disk.qcow2", "c"]);
        shop.img(&["convert", "-m", "1", "-O", "qcow2", "disk.qcow2", "full.qcow2"]);
        let mut random = Rng::new(self.size, 7);
        io(&self.noise(&mut random));
        bitmap(&["--disable", "disk.qcow2", "b"]);

        let mut commands = self.noise(&mut random);
        // As many clusters of data as leave some for the bitmaps, which QEMU stores anew each time.
        let refcounts = Refcounts::of(&fs::read(shop.path("disk.qcow2")).unwrap());
        let free = match self.special {
            Special::FullTable => refcounts.free_below(4096),
            Special::FullBlocks => refcounts.free(),
            _ => 0,
        };
        let sectors = free.saturating_sub(16) * 60 / 64;
        if sectors > 0 {
            commands.push(format!("write -P 8 {}k {}", kib * 21 / 32 / 32 * 32, sectors * 512));
        }
        io(&commands);
        if self.special == Special::Snapshot {
            let mut bytes = fs::read(shop.path("disk.qcow2")).unwrap();
            bytes[88] = 0x80;
            fs::write(shop.path("disk.qcow2"), bytes).unwrap();
        }
    }

    /// Small writes all over the disk, so that the bitmaps have bits in all of their sectors.
    fn noise(&self, random: &mut Rng) -> Vec<String> {
        let writes = self.size / 256;
        let mut commands = vec![format!("write -P 5 {}k 5k", random.between(1, 32))];
        for _ in 0..writes {
            let at = random.below((self.size - 128) * 2) * 512;
            commands.push(format!("write -z {at} {}", random.between(1, 4) * 512));
        }
        commands
    }
}

impl Image {
    /// A storage of its own with the image as it was made.
    pub fn storage(&self) -> SimulatedStorage {
        self.storage.after(&Crash::new(Level::L0, 0, [])).unwrap()
    }
}

/// Adds bitmaps until the next one needs a new refcount block, or a new refcount table.
fn fill_with_bitmaps(storage: &SimulatedStorage, special: Special) {
    let full = |before: &Refcounts, after: &Refcounts| match special {
        Special::FullTable => after.table_offset != before.table_offset,
        _ => after.blocks != before.blocks,
    };
    for number in 0..40 {
        let next = fork(storage);
        let name = format!("more{number}");
        let change = [add(&name, 1 << 20, Recording::Enabled)];
        open(&next, Access::Write).unwrap().change_bitmaps(&change).unwrap();
        let bytes = next.contents(DISK).unwrap();
        if full(&Refcounts::of(&storage.contents(DISK).unwrap()), &Refcounts::of(&bytes)) {
            return;
        }
        storage.insert(DISK, &bytes);
    }
    panic!("the image has more room than this is made for");
}

/// Opens the image on trial.
pub fn open(storage: &SimulatedStorage, access: Access) -> holstein::Result<Disk> {
    Disk::open_in(Arc::new(storage.clone()), DISK, &DiskOptions { access, ..DiskOptions::default() })
}

/// A disk's contents: the offset of each block that is not zero, and its bytes.
pub type Guest = Vec<(u64, Vec<u8>)>;

/// All of a disk.
pub fn guest(disk: &Disk) -> Result<Guest, String> {
    const BLOCK: u64 = 4096;
    let mut blocks = Vec::new();
    let mut end = 0;
    for run in disk.map(0..disk.size()) {
        let run = run.map_err(|e| format!("cannot be mapped: {e}"))?;
        if matches!(run.mapping, Mapping::Zero { .. } | Mapping::Unallocated { .. }) {
            continue;
        }
        // Whole blocks, each once.
        let start = (run.start / BLOCK * BLOCK).max(end);
        end = (run.start + run.length).next_multiple_of(BLOCK).min(disk.size()).max(start);
        let mut bytes = vec![0; (end - start) as usize];
        disk.read_at(&mut bytes, start).map_err(|e| format!("cannot be read: {e}"))?;
        let block = |(number, block): (usize, &[u8])| {
            let is_zero = block.iter().all(|byte| *byte == 0);
            (!is_zero).then(|| (start + number as u64 * BLOCK, block.to_vec()))
        };
        blocks.extend(bytes.chunks(BLOCK as usize).enumerate().filter_map(block));
    }
    Ok(blocks)
}

/// The storage as it looks now, on its own. Its recording begins anew: a long one takes a lot of memory.
pub fn fork(storage: &SimulatedStorage) -> SimulatedStorage {
    storage.begin();
    storage.recording().after(&Crash::new(Level::L0, 0, [])).unwrap()
}

/// Where the bitmaps extension is.
fn bitmaps_extension(image: &[u8]) -> usize {
    let word = |at: usize| u32::from_be_bytes(image[at..at + 4].try_into().unwrap());
    let mut at = word(100) as usize;
    while word(at) != 0x2385_2875 {
        assert_ne!(word(at), 0, "there is no bitmaps extension");
        at += 8 + (word(at + 4) as usize).next_multiple_of(8);
    }
    at
}
