//! What one file of a chain is: its options and what is written into it, drawn at random.

use super::rng::Rng;

pub const KIB: u64 = 1 << 10;
pub const MIB: u64 = 1 << 20;

/// Files whose bytes are written into images: one that compresses to about a half, one that does not compress.
pub const PATTERNS: [(&str, usize); 2] = [("half.pat", 64), ("noise.pat", 0)];

/// What a qcow2 file is made with.
#[derive(Clone, Debug)]
pub struct Layer {
    pub version: u32,
    pub cluster_bits: u32,
    pub refcount_bits: u32,
    pub extended_l2: bool,
    pub zstd: bool,
    pub lazy_refcounts: bool,
    pub data_file: DataFile,
    pub preallocation: Option<&'static str>,
    pub size: u64,
}

/// Where the guest's data lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DataFile {
    None,
    External,
    /// External, and readable as a raw disk.
    ExternalRaw,
}

impl Layer {
    /// The top layer of image `number`. The options that matter most go round with the number, at periods without
    /// common factors, so that every value occurs, and with every other.
    pub fn top(rng: &mut Rng, number: u32) -> Layer {
        let mut layer = Layer::any(rng, 9 + number % 13);
        layer.version = if number % 9 == 8 { 2 } else { 3 };
        layer.refcount_bits = 1 << (number % 7);
        layer.extended_l2 = number % 5 == 3;
        layer.data_file = match number % 16 {
            5 => DataFile::External,
            13 => DataFile::ExternalRaw,
            _ => DataFile::None,
        };
        layer.consistent()
    }

    /// A layer below the top.
    pub fn below(rng: &mut Rng) -> Layer {
        let cluster_bits = rng.between(9, 21) as u32;
        Layer::any(rng, cluster_bits).consistent()
    }

    fn any(rng: &mut Rng, cluster_bits: u32) -> Layer {
        Layer {
            version: if rng.chance(15) { 2 } else { 3 },
            cluster_bits,
            refcount_bits: *rng.pick(&[16, 16, 16, 1, 2, 4, 8, 32, 64]),
            extended_l2: rng.chance(20),
            zstd: rng.chance(45),
            lazy_refcounts: rng.chance(20),
            data_file: if rng.chance(6) { DataFile::External } else { DataFile::None },
            preallocation: *rng.pick(&[
                None,
                None,
                None,
                None,
                None,
                None,
                None,
                Some("metadata"),
                Some("falloc"),
            ]),
            size: disk_size(rng, cluster_bits),
        }
    }

    /// Takes away what QEMU does not combine.
    fn consistent(mut self) -> Layer {
        if self.version == 2 {
            self.refcount_bits = 16;
            self.extended_l2 = false;
            self.zstd = false;
            self.lazy_refcounts = false;
            self.data_file = DataFile::None;
        }
        self.extended_l2 &= self.cluster_bits >= 14;
        if self.data_file != DataFile::None {
            self.zstd = false;
        }
        if self.size > 64 * MIB {
            self.preallocation = None;
        }
        self
    }

    /// The same layer over a backing file, with which some options do not go.
    pub fn with_backing(mut self) -> Layer {
        if self.data_file == DataFile::ExternalRaw {
            self.data_file = DataFile::External;
        }
        if !self.extended_l2 {
            self.preallocation = None;
        }
        self
    }

    pub fn cluster_size(&self) -> u64 {
        1 << self.cluster_bits
    }

    pub fn compresses(&self) -> bool {
        self.data_file == DataFile::None && self.preallocation.is_none()
    }

    pub fn takes_snapshots(&self) -> bool {
        self.refcount_bits >= 8 && self.data_file == DataFile::None
    }

    /// The value of `-o` for the image `name`.
    pub fn options(&self, name: &str) -> String {
        let mut options = format!("cluster_size={}", self.cluster_size());
        if self.version == 2 {
            options += ",compat=0.10";
        } else {
            options += &format!(",compat=1.1,refcount_bits={}", self.refcount_bits);
        }
        for (set, option) in [
            (self.extended_l2, "extended_l2=on"),
            (self.zstd, "compression_type=zstd"),
            (self.lazy_refcounts, "lazy_refcounts=on"),
            (self.data_file == DataFile::ExternalRaw, "data_file_raw=on"),
        ] {
            if set {
                options += &format!(",{option}");
            }
        }
        if self.data_file != DataFile::None {
            options += &format!(",data_file={name}.data");
        }
        if let Some(mode) = self.preallocation {
            options += &format!(",preallocation={mode}");
        }
        options
    }

    /// Commands of qemu-io that write compressed clusters, each onto clusters not yet written.
    pub fn compressed_writes(&self, rng: &mut Rng) -> Vec<String> {
        let cluster = self.cluster_size();
        let clusters = self.size.div_ceil(cluster);
        let mut commands = Vec::new();
        let mut next = rng.below(3);
        while next < clusters && commands.len() < 16 {
            let count = rng.between(1, 4);
            let offset = next * cluster;
            let length = (count * cluster).min(self.size - offset);
            commands.push(format!("write -c {} {offset} {length}", contents(rng)));
            next += count + rng.below(clusters / 12 + 3);
        }
        commands
    }

    /// Commands of qemu-io that write, zero and discard here and there.
    pub fn writes(&self, rng: &mut Rng, size: u64, count: u64) -> Vec<String> {
        (0..count)
            .map(|_| {
                let (offset, length) = self.place(rng, size);
                let verb = match rng.below(100) {
                    0..60 => format!("write {}", contents(rng)),
                    60..72 => "write -z".to_string(),
                    72..83 => "write -z -u".to_string(),
                    _ => "discard".to_string(),
                };
                format!("{verb} {offset} {length}")
            })
            .collect()
    }

    /// A range of the disk: some bytes, some sectors, or whole clusters.
    fn place(&self, rng: &mut Rng, size: u64) -> (u64, u64) {
        let cluster = self.cluster_size();
        let (unit, most) = match rng.below(10) {
            0..3 => (1, 6000),
            3..6 => (512, (2 * cluster / 512).min(1024)),
            _ => (cluster, (MIB / cluster).clamp(3, 200)),
        };
        let offset = match rng.below(12) {
            0 => 0,
            1 => (size - rng.between(1, size.min(2 * cluster))) / unit * unit,
            _ => rng.below(size) / unit * unit,
        };
        (offset, (rng.between(1, most) * unit).min(size - offset))
    }
}

/// What a write fills its range with.
fn contents(rng: &mut Rng) -> String {
    match rng.below(5) {
        0 => format!("-s {}", PATTERNS[0].0),
        1 => format!("-s {}", PATTERNS[1].0),
        _ => format!("-P {}", rng.between(1, 255)),
    }
}

/// A size that is mostly small, mostly no multiple of the cluster, sometimes large and then sparse.
fn disk_size(rng: &mut Rng, cluster_bits: u32) -> u64 {
    let cluster = 1 << cluster_bits;
    let whole = match cluster_bits {
        0..=12 if rng.chance(94) => rng.between(1, 8 * MIB / cluster),
        13..=17 if rng.chance(94) => rng.between(1, 24 * MIB / cluster),
        18.. if rng.chance(94) => rng.between(1, 64 * MIB / cluster),
        _ => rng.between(128, 1024) * MIB / cluster,
    };
    let rest = if rng.chance(60) { rng.below(cluster / 512) * 512 } else { 0 };
    whole * cluster + rest
}
