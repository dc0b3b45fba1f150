//! One generated image: a chain of files made by QEMU's tools, all of it following from a seed and a number.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;

use serde_json::Value;

use super::layer::{DataFile, KIB, Layer, MIB, PATTERNS};
use super::qemu::{Workshop, extent, text};
use super::qsd::Qsd;
use super::rng::Rng;

/// The name of the top file in the image's folder.
pub const TOP: &str = "disk.qcow2";

/// A finished image in a folder of its own.
pub struct Image {
    pub number: u32,
    pub workshop: Workshop,
    /// `qcow2`, or for a few images `raw`.
    pub format: &'static str,
    /// The name of the top file in the folder.
    pub top: &'static str,
    /// The file right below the top, as the image names it, with its format.
    pub backing: Option<(String, &'static str)>,
    pub bitmaps: Vec<Bitmap>,
    /// What occurs in it, for the count over all images.
    pub features: BTreeSet<String>,
}

/// A persistent bitmap of an image.
pub struct Bitmap {
    pub name: String,
    /// A copy of the whole disk from the moment since when the bitmap has recorded everything.
    pub base: Option<String>,
}

/// Whether copies of the disk are kept from when a bitmap began to record.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Bases {
    Keep,
    Omit,
}

impl Image {
    /// Makes image `number` of `seed` in `folder`.
    pub fn make(seed: u64, number: u32, folder: &Path, bases: Bases) -> Image {
        let workshop = Workshop::new(folder);
        let mut maker =
            Maker { rng: Rng::new(seed, number.into()), workshop, features: BTreeSet::new(), bases };
        maker.patterns();
        if number % 29 == 11 { maker.raw(number) } else { maker.qcow2(number) }
    }

    /// Bitmaps whose contents QEMU can export: all, or none when the image was left in use.
    pub fn readable_bitmaps(&self) -> Vec<String> {
        let readable = !self.features.contains("bitmaps in use");
        self.bitmaps.iter().filter(|_| readable).map(|bitmap| bitmap.name.clone()).collect()
    }
}

struct Maker {
    rng: Rng,
    workshop: Workshop,
    features: BTreeSet<String>,
    bases: Bases,
}

impl Maker {
    fn has(&mut self, feature: impl Into<String>) {
        self.features.insert(feature.into());
    }

    fn patterns(&mut self) {
        for (name, stretch) in PATTERNS {
            fs::write(self.workshop.path(name), self.rng.bytes(192 * KIB as usize, stretch)).unwrap();
        }
    }

    fn finish(self, number: u32, format: &'static str, top: &'static str) -> Image {
        // Where a file system allocates late, a file's allocation would otherwise change between two looks at it;
        // `actual-size` tells it, and QEMU's maps depend on it.
        for path in self.workshop.listing().iter().filter(|path| path.is_file()) {
            File::open(path).and_then(|file| file.sync_all()).unwrap();
        }
        let Maker { workshop, features, .. } = self;
        Image { number, workshop, format, top, backing: None, bitmaps: Vec::new(), features }
    }

    /// A raw disk with data and holes, of any length.
    fn raw(mut self, number: u32) -> Image {
        self.raw_file("disk.raw");
        self.has("raw disk");
        self.finish(number, "raw", "disk.raw")
    }

    fn raw_file(&mut self, name: &str) {
        let odd = if self.rng.chance(50) { self.rng.below(5000) } else { 0 };
        let size = self.rng.between(1, 96) * 128 * KIB + odd;
        let file = File::create(self.workshop.path(name)).unwrap();
        file.set_len(size).unwrap();
        for _ in 0..self.rng.between(1, 12) {
            let offset = self.rng.below(size);
            let length = self.rng.between(1, 300_000).min(size - offset);
            file.write_all_at(&self.rng.bytes(length as usize, 0), offset).unwrap();
        }
        self.workshop.note(&format!("# {name}: raw, {size} bytes"));
    }

    fn qcow2(mut self, number: u32) -> Image {
        let top = Layer::top(&mut self.rng, number);
        let depth = [0, 1, 0, 2, 1, 0, 3, 0, 4, 1][number as usize % 10];
        let backing = if top.data_file == DataFile::ExternalRaw { None } else { self.chain(depth) };
        self.count_features(&top);
        let mut size = self.file(TOP, &top, backing.as_ref());
        let bitmaps =
            if top.version == 3 && number % 4 < 2 { self.record(&top, &mut size) } else { Vec::new() };
        self.end(&top, size, &bitmaps);
        Image { backing, bitmaps, ..self.finish(number, "qcow2", TOP) }
    }

    fn count_features(&mut self, top: &Layer) {
        self.has(format!("version {}", top.version));
        self.has(format!("cluster size {}", top.cluster_size()));
        self.has(format!("refcount bits {}", top.refcount_bits));
        for (present, feature) in [
            (top.extended_l2, "extended L2"),
            (top.lazy_refcounts, "lazy refcounts"),
            (top.data_file == DataFile::External, "data file"),
            (top.data_file == DataFile::ExternalRaw, "raw data file"),
            (!top.size.is_multiple_of(top.cluster_size()), "part of a cluster at the end"),
        ] {
            if present {
                self.has(feature);
            }
        }
    }

    /// The files below the top, from the bottom up; the name and format of the uppermost.
    fn chain(&mut self, depth: usize) -> Option<(String, &'static str)> {
        self.has(format!("depth {depth}"));
        // The lower part of some chains lies in a folder below.
        let folder_from = if self.rng.chance(25) { self.rng.between(1, 4) as usize } else { usize::MAX };
        if depth >= folder_from {
            fs::create_dir(self.workshop.path("lower")).unwrap();
        }
        let mut below: Option<(String, &'static str)> = None;
        for level in (1..=depth).rev() {
            let folder = if level >= folder_from { "lower/" } else { "" };
            let format = if level == depth && self.rng.chance(40) { "raw" } else { "qcow2" };
            let path = format!("{folder}base{level}.{format}");
            if format == "raw" {
                self.raw_file(&path);
                self.has("raw backing file");
            } else {
                let mut layer = Layer::below(&mut self.rng);
                if !folder.is_empty() {
                    // qemu-img makes a data file relative to where it runs, and finds it relative to the image.
                    layer.data_file = DataFile::None;
                }
                self.file(&path, &layer, below.as_ref());
            }
            // An image names its backing file relative to its own folder.
            let name = if level > folder_from { path.trim_start_matches("lower/").to_string() } else { path };
            below = Some((name, format));
        }
        below
    }

    /// Makes one qcow2 file and writes into it; gives its size.
    fn file(&mut self, path: &str, layer: &Layer, backing: Option<&(String, &'static str)>) -> u64 {
        let layer = &if backing.is_some() { layer.clone().with_backing() } else { layer.clone() };
        let mut size = layer.size;
        let options = layer.options(path);
        let convert = backing.is_none() && layer.data_file == DataFile::None && self.rng.chance(15);
        if let Some(mode) = layer.preallocation {
            self.has(format!("preallocation {mode}"));
        }
        if convert {
            size = self.convert(path, layer, &options);
        } else {
            let backing = backing.map(|(name, format)| format!(",backing_file={name},backing_fmt={format}"));
            self.workshop.create(path, size, &(options + &backing.unwrap_or_default()));
            if layer.compresses() && self.rng.chance(45) {
                self.has(if layer.zstd { "zstd clusters" } else { "zlib clusters" });
                let commands = layer.compressed_writes(&mut self.rng);
                self.workshop.io(path, "qcow2", &commands);
            }
        }
        self.write(path, layer, size);
        if layer.takes_snapshots() && self.rng.chance(25) {
            self.has("snapshot");
            for name in ["one", "two"] {
                self.workshop.img(&["snapshot", "-c", name, path]);
                self.write(path, layer, size);
            }
        }
        // QEMU does not resize a version 2 image with snapshots.
        if self.rng.chance(15) && layer.version == 3 {
            size = self.resize(path, layer, size);
        }
        size
    }

    fn write(&mut self, path: &str, layer: &Layer, size: u64) {
        let count = self.rng.between(2, 16);
        self.workshop.io(path, "qcow2", &layer.writes(&mut self.rng, size, count));
    }

    fn convert(&mut self, path: &str, layer: &Layer, options: &str) -> u64 {
        let raw = format!("{path}.contents");
        self.raw_file(&raw);
        let compress: &[&str] = if layer.compresses() && self.rng.chance(50) {
            self.has(if layer.zstd { "zstd clusters" } else { "zlib clusters" });
            &["-c"]
        } else {
            &[]
        };
        let arguments: &[&str] = &["-f", "raw", "-O", "qcow2", "-o", options, &raw, path];
        self.workshop.img(&[&["convert"], compress, arguments].concat());
        let size = fs::metadata(self.workshop.path(&raw)).unwrap().len();
        fs::remove_file(self.workshop.path(&raw)).unwrap();
        self.has("converted");
        size.next_multiple_of(512)
    }

    /// Grows the disk, and writes near its new end.
    fn resize(&mut self, path: &str, layer: &Layer, size: u64) -> u64 {
        let grown = size + self.rng.between(1, 4 * MIB / 512) * 512;
        let output =
            self.workshop.try_run("qemu-img", &["resize", "-q", "-f", "qcow2", path, &grown.to_string()]);
        if !output.status.success() {
            // Over a longer backing file QEMU cannot always zero what comes into sight; it then grows nothing.
            assert!(text(&output).contains("Failed to zero out"), "{}", text(&output));
            let info = self.workshop.img_json(&["info", "-f", "qcow2", path]);
            assert_eq!(info["virtual-size"], size, "size after a failed resize");
            return size;
        }
        self.has("resized");
        if self.rng.chance(60) {
            self.write(path, layer, grown);
        }
        grown
    }

    /// Bitmaps come, record, are merged, cleared and disabled.
    fn record(&mut self, layer: &Layer, size: &mut u64) -> Vec<Bitmap> {
        self.has("bitmaps");
        let names = ["nightly", "week, 2", "ü-Σ", "../escape", "a \"quoted\" one"];
        let first = self.rng.below(5) as usize;
        let count = self.rng.between(1, 4) as usize;
        let mut bitmaps: Vec<_> =
            (0..count).map(|i| Bitmap { name: names[(first + i) % 5].to_string(), base: None }).collect();
        let grains: Vec<u64> = bitmaps.iter().map(|_| 512 << self.rng.below(13)).collect();
        for grain in &grains {
            let cluster = layer.cluster_size();
            self.has(if *grain > cluster {
                "granularity above the cluster"
            } else {
                "granularity up to the cluster"
            });
        }
        let base = self.base(0);
        if self.rng.chance(30) {
            self.record_in_daemon(layer, *size, &bitmaps, &grains);
        } else {
            for (bitmap, grain) in bitmaps.iter().zip(&grains) {
                let grain = grain.to_string();
                self.workshop.img(&["bitmap", "--add", "-g", &grain, TOP, &bitmap.name]);
            }
            self.write(TOP, layer, *size);
        }
        for bitmap in &mut bitmaps {
            bitmap.base = base.clone();
        }
        if count > 1 && self.rng.chance(50) {
            // What happens while a bitmap is disabled is missing in it.
            let bitmap = &mut bitmaps[1];
            self.workshop.img(&["bitmap", "--disable", TOP, &bitmap.name]);
            bitmap.base = None;
            self.has("disabled bitmap");
        }
        if self.rng.chance(35) {
            *size = self.resize(TOP, layer, *size);
            self.has("bitmaps of a grown disk");
        }
        if count > 2 && self.rng.chance(60) {
            self.workshop.img(&["bitmap", "--merge", &bitmaps[0].name, TOP, &bitmaps[2].name]);
            self.has("merged bitmap");
        }
        if self.rng.chance(30) {
            let base = self.base(1);
            self.workshop.img(&["bitmap", "--clear", TOP, &bitmaps[0].name]);
            bitmaps[0].base = base;
            self.has("cleared bitmap");
        }
        if self.rng.chance(70) {
            self.write(TOP, layer, *size);
        }
        if self.rng.chance(30) {
            let base = self.base(2);
            self.workshop.img(&["bitmap", "--add", TOP, "late"]);
            bitmaps.push(Bitmap { name: "late".to_string(), base });
            self.has("empty bitmap");
        }
        bitmaps
    }

    /// The same by a daemon that makes the bitmaps and takes the writes over NBD.
    fn record_in_daemon(&mut self, layer: &Layer, size: u64, bitmaps: &[Bitmap], grains: &[u64]) {
        let mut daemon = Qsd::start(&self.workshop);
        daemon.open("disk", TOP, false);
        for (bitmap, grain) in bitmaps.iter().zip(grains) {
            let arguments = serde_json::json!({
                "node": "disk", "name": bitmap.name, "persistent": true, "granularity": grain });
            daemon.execute("block-dirty-bitmap-add", arguments);
        }
        let socket = daemon.export("disk", &[], true);
        let count = self.rng.between(2, 16);
        let writes = layer.writes(&mut self.rng, size, count);
        self.workshop.io(&format!("nbd:unix:{socket}:exportname=disk"), "raw", &writes);
        daemon.quit();
        self.features.insert("written through the storage daemon".to_string());
    }

    /// A copy of the disk as it is now, where copies are wanted.
    fn base(&mut self, index: u32) -> Option<String> {
        // Drawn in any case, so that the image is the same with and without.
        let cluster_size = 512u64 << self.rng.below(13);
        if self.bases == Bases::Omit {
            return None;
        }
        let name = format!("full{index}.qcow2");
        let options = format!("cluster_size={cluster_size}");
        self.workshop.img(&["convert", "-f", "qcow2", "-O", "qcow2", "-o", &options, TOP, &name]);
        Some(name)
    }

    /// What befalls the image last.
    fn end(&mut self, layer: &Layer, size: u64, bitmaps: &[Bitmap]) {
        match self.rng.below(10) {
            0 if !bitmaps.is_empty() || layer.lazy_refcounts => {
                let mut commands = layer.writes(&mut self.rng, size, 5);
                commands.extend(["flush".to_string(), "sigraise 9".to_string()]);
                let output = self.workshop.try_io(TOP, "qcow2", &commands);
                assert!(!output.status.success(), "qemu-io outlived its end");
                self.has(if bitmaps.is_empty() { "dirty" } else { "bitmaps in use" });
            }
            1 | 2 if layer.version == 2 => {
                self.workshop.img(&["amend", "-f", "qcow2", "-o", "compat=1.1", TOP]);
                self.has("amended");
            }
            1..5 if bitmaps.is_empty() => self.cut(layer),
            _ => {}
        }
    }

    /// Cuts the file in the middle of its last cluster, when that is one of data.
    fn cut(&mut self, layer: &Layer) {
        let cluster = layer.cluster_size();
        let path = self.workshop.path(TOP);
        let length = fs::metadata(&path).unwrap().len();
        let last = (length - 1) / cluster * cluster;
        let map = self.workshop.img_json(&["map", "-f", "qcow2", TOP]);
        let holds_last = |run: &&Value| {
            let host = run["offset"].as_u64();
            let own = run["depth"] == 0 && run["data"] == true && layer.data_file == DataFile::None;
            own && host.is_some_and(|host| host <= last && last < host + extent(run).length)
        };
        if map.as_array().unwrap().iter().find(holds_last).is_some() {
            let rest = self.rng.between(1, length - last - 1);
            OpenOptions::new().write(true).open(&path).unwrap().set_len(last + rest).unwrap();
            self.workshop.note(&format!("truncate -s {} {TOP}", last + rest));
            self.has("last cluster cut short");
        }
    }
}
