//! One disk under both hands, and all that is known about it.

use std::{collections::BTreeSet, fs, path::Path, sync::PoisonError};

use holstein::{Access, BitmapChange, Disk, DiskOptions, Recording};

use crate::{
    model::{Bitmaps, add},
    support::{
        command::Holstein,
        layer::{DataFile, KIB, Layer, MIB, PATTERNS},
        qemu::{Extent, FORKS, Workshop, merged, text},
        rng::Rng,
    },
};

/// The image.
pub const DISK: &str = "disk.qcow2";

/// The disk, a plain model of it, and the tools.
pub struct Subject {
    pub random: Rng,
    pub shop: Workshop,
    pub holstein: Holstein,
    pub layer: Layer,
    pub has_backing: bool,
    pub contents: Vec<u8>,
    pub bitmaps: Bitmaps,
    /// Names, and the contents of the disk when they were taken.
    pub snapshots: Vec<(String, Vec<u8>)>,
    /// The last backup of the chain that the bitmap `nightly` belongs to.
    pub chain: Option<String>,
    /// QEMU has grown the disk since then: its bitmaps do not tell of it.
    pub grown_by_qemu: bool,
    /// All backups, and the contents of the disk then.
    pub backups: Vec<(String, Vec<u8>)>,
    pub features: BTreeSet<String>,
}

impl Subject {
    /// Makes disk `number`.
    pub fn make(seed: u64, number: u32, folder: &Path) -> Subject {
        let mut random = Rng::new(seed, u64::from(number));
        let shop = Workshop::new(folder);
        for (name, stretch) in PATTERNS {
            fs::write(shop.path(name), random.bytes(192 * KIB as usize, stretch)).unwrap();
        }
        let mut layer = Layer::top(&mut random, number);
        let most = (3 * layer.cluster_size()).max(2 * MIB);
        layer.size = random.between(1, most / 512) * 512;
        if random.chance(40) {
            layer.size = layer.size.next_multiple_of(layer.cluster_size());
        }
        let has_backing = random.chance(45);
        if has_backing {
            layer = layer.with_backing();
        }
        let holstein = Holstein::new(&shop);
        let mut subject = Subject {
            random,
            shop,
            holstein,
            layer,
            has_backing,
            contents: Vec::new(),
            bitmaps: Bitmaps(Default::default()),
            snapshots: Vec::new(),
            chain: None,
            grown_by_qemu: false,
            backups: Vec::new(),
            features: BTreeSet::new(),
        };
        subject.create();
        subject
    }

    fn create(&mut self) {
        let mut options = self.layer.options(DISK);
        if self.has_backing {
            let size = match self.random.below(3) {
                0 => self.layer.size,
                1 => (self.layer.size / 2).next_multiple_of(512),
                _ => self.layer.size + self.random.between(1, 2000) * 512,
            };
            let below = Layer { size, ..Layer::below(&mut self.random) };
            self.shop.create("base.qcow2", size, &format!("cluster_size={}", below.cluster_size()));
            let mut writes = below.compressed_writes(&mut self.random);
            writes.truncate(2);
            // Onto what is compressed only after it.
            writes.extend(below.writes(&mut self.random, size, 3));
            self.shop.io("base.qcow2", "qcow2", &writes);
            options += ",backing_file=base.qcow2,backing_fmt=qcow2";
            self.has(match size.cmp(&self.layer.size) {
                std::cmp::Ordering::Less => "shorter backing file",
                std::cmp::Ordering::Equal => "equal backing file",
                std::cmp::Ordering::Greater => "longer backing file",
            });
        }
        self.shop.create(DISK, self.layer.size, &options);
        self.contents = self.qemu_reads(&[]);
        if self.takes_bitmaps() && self.random.chance(70) {
            for (name, granularity) in [("fine", "512"), ("coarse", "64k")] {
                self.shop.img(&["bitmap", "--add", "-g", granularity, DISK, name]);
                let size = if granularity == "512" { 512 } else { 64 * KIB };
                self.changed(&[add(name, size, Recording::Enabled)]);
            }
        }
        for (is, feature) in [
            (self.layer.version == 2, "version 2"),
            (self.layer.extended_l2, "extended L2"),
            (self.layer.data_file != DataFile::None, "data file"),
            (self.layer.data_file == DataFile::ExternalRaw, "raw data file"),
            (self.layer.lazy_refcounts, "lazy refcounts"),
            (self.layer.preallocation.is_some(), "preallocation"),
            (self.layer.zstd, "zstd"),
        ] {
            if is {
                self.has(feature);
            }
        }
        let (clusters, refcounts) = (self.layer.cluster_size(), self.layer.refcount_bits);
        self.has(format!("clusters of {clusters}"));
        self.has(format!("{refcounts} bit refcounts"));
    }

    pub fn has(&mut self, feature: impl Into<String>) {
        self.features.insert(feature.into());
    }

    pub fn size(&self) -> u64 {
        self.contents.len() as u64
    }

    pub fn takes_bitmaps(&self) -> bool {
        self.layer.version > 2
    }

    /// Does something with the open disk, and closes it.
    pub fn with_disk<T>(&self, access: Access, operation: impl FnOnce(Disk) -> T) -> T {
        let _forks = FORKS.read().unwrap_or_else(PoisonError::into_inner);
        let options = DiskOptions { access, ..DiskOptions::default() };
        operation(Disk::open(self.shop.path(DISK), &options).unwrap_or_else(|e| panic!("opening: {e}")))
    }

    /// What QEMU reads from the disk, or from a snapshot.
    fn qemu_reads(&self, of: &[&str]) -> Vec<u8> {
        self.qemu_reads_from(DISK, of)
    }

    pub fn qemu_reads_from(&self, image: &str, of: &[&str]) -> Vec<u8> {
        let args = [&["convert", "-t", "unsafe", "-O", "raw"], of, &[image, "disk.raw"]].concat();
        self.shop.img(&args);
        fs::read(self.shop.path("disk.raw")).unwrap()
    }

    /// Notes that a range was written.
    pub fn record(&mut self, at: u64, length: u64) {
        for bitmap in self.bitmaps.0.values_mut().filter(|bitmap| bitmap.recording) {
            bitmap.dirty.extend(at / bitmap.granularity..(at + length).div_ceil(bitmap.granularity));
        }
    }

    /// Notes changes of bitmaps.
    pub fn changed(&mut self, changes: &[BitmapChange]) {
        self.bitmaps = self.bitmaps.changed(changes);
        // What was merged from a coarser one can reach past the end.
        let size = self.size();
        for bitmap in self.bitmaps.0.values_mut() {
            bitmap.dirty.retain(|granule| granule * bitmap.granularity < size);
        }
    }

    /// The image is sound, and holds what it shall, as we see it and as QEMU does.
    pub fn verify(&self) {
        let output = self.shop.try_run("qemu-img", &["check", "-q", "-T", "unsafe", DISK]);
        assert!(output.status.success(), "qemu-img check: {}", text(&output));
        same("QEMU reads", &self.qemu_reads(&[]), &self.contents);
        let (ours, found) = self.with_disk(Access::Read, |disk| {
            let mut ours = vec![0; disk.size() as usize];
            disk.read_at(&mut ours, 0).unwrap_or_else(|e| panic!("reading: {e}"));
            (ours, Bitmaps::of(&disk).unwrap_or_else(|e| panic!("{e}")))
        });
        same("we read", &ours, &self.contents);
        assert!(
            found == self.bitmaps,
            "the bitmaps are {found:?}\nnot {:?}{}",
            self.bitmaps,
            differences(&found, &self.bitmaps)
        );
        if self.layer.data_file == DataFile::ExternalRaw {
            let mut raw = fs::read(self.shop.path(&format!("{DISK}.data"))).unwrap();
            raw.resize(self.contents.len(), 0);
            same("the raw data file holds", &raw, &self.contents);
        }
    }

    pub fn verify_snapshots(&self) {
        for (name, contents) in &self.snapshots {
            let found = self.qemu_reads(&["-l", name]);
            // QEMU shows as much as the disk is long.
            let length = found.len().min(contents.len());
            same(&format!("snapshot {name} holds"), &found[..length], &contents[..length]);
        }
    }

    /// The bitmaps as QEMU exports them.
    pub fn verify_bitmaps_by_qemu(&self) {
        let names: Vec<String> = self.bitmaps.0.keys().cloned().collect();
        if names.is_empty() {
            return;
        }
        let exported = self.shop.dirty_extents(DISK, &names);
        for (name, found) in names.iter().zip(exported) {
            let bitmap = &self.bitmaps.0[name];
            let extent = |granule: &u64| {
                let start = granule * bitmap.granularity;
                Extent { start, length: bitmap.granularity.min(self.size() - start) }
            };
            assert_eq!(found, merged(bitmap.dirty.iter().map(extent)), "QEMU's view of bitmap {name}");
        }
    }

    /// Takes over what QEMU made of a range: each sector unchanged, or zero.
    pub fn adopt_discard(&mut self, at: u64, length: u64) {
        let found = self.qemu_reads(&[]);
        let range = at as usize..(at + length) as usize;
        for (now, then) in found[range.clone()].chunks(512).zip(self.contents[range.clone()].chunks_mut(512))
        {
            assert!(now == then || now.iter().all(|byte| *byte == 0), "a discard left something else");
            then.copy_from_slice(now);
        }
    }

    /// Takes over the end of the old last cluster after QEMU has grown the disk.
    pub fn adopt_tail(&mut self, old: u64) {
        let end = old.next_multiple_of(self.layer.cluster_size()).min(self.size()) as usize;
        let tail = self.qemu_reads(&[])[old as usize..end].to_vec();
        let copied = self.backups.iter().rev().find(|(name, _)| self.chain.as_ref() == Some(name));
        let copied = copied
            .map(|(_, contents)| &contents[(old as usize).min(contents.len())..end.min(contents.len())]);
        let has_old = tail.iter().any(|byte| *byte != 0);
        if has_old || copied.is_some_and(|copied| copied.iter().any(|byte| *byte != 0)) {
            // Its bitmaps do not know: no increment can have this.
            self.chain = None;
            self.has(if has_old { "QEMU shows an old tail" } else { "QEMU hides an old tail" });
        }
        self.contents[old as usize..end].copy_from_slice(&tail);
    }
}

#[track_caller]
pub fn same(what: &str, found: &[u8], expected: &[u8]) {
    assert_eq!(found.len(), expected.len(), "{what} so many bytes");
    if found != expected {
        let at = found.iter().zip(expected).take_while(|(a, b)| a == b).count();
        panic!("{what} {:#04x} at {at:#x}, not {:#04x}", found[at], expected[at]);
    }
}

fn differences(found: &Bitmaps, expected: &Bitmaps) -> String {
    let mut text = String::new();
    for (name, bitmap) in &found.0 {
        let Some(expected) = expected.0.get(name) else { continue };
        let more: Vec<_> = bitmap.dirty.difference(&expected.dirty).take(8).collect();
        let less: Vec<_> = expected.dirty.difference(&bitmap.dirty).take(8).collect();
        if !more.is_empty() || !less.is_empty() {
            text += &format!("\n{name}: dirty {more:?}, clean {less:?}");
        }
    }
    text
}
