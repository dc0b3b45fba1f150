//! What an image is to contain: the builder's input, and the guest's view of it.

use std::{collections::BTreeMap, ops::Range};

use super::{deflate, deflate_stored, field, image::Image, layout, zstd_frame};

/// A header extension: its type and its data.
pub type Extension = (u32, Vec<u8>);

/// One guest cluster of the image. Contents shorter than a cluster are filled up with zeros.
#[derive(Clone, Debug)]
pub enum Cluster {
    /// A plain data cluster.
    Data(Vec<u8>),
    /// Reads as zero and owns no host cluster.
    Zero,
    /// Reads as zero and owns a host cluster with these contents, which nobody must see.
    ZeroAllocated(Vec<u8>),
    /// Compressed: what the guest reads, and the stream that is stored for it.
    Compressed { contents: Vec<u8>, stream: Vec<u8> },
    /// Extended L2 only: a host cluster, and which of its 32 subclusters are data or zeros.
    Subclusters { contents: Vec<u8>, allocated: u32, zero: u32 },
}

impl Cluster {
    /// A deflate cluster.
    pub fn deflate(contents: Vec<u8>) -> Self {
        Cluster::Compressed { stream: deflate(&contents), contents }
    }

    /// A deflate cluster whose stream is longer than the cluster.
    pub fn deflate_stored(contents: Vec<u8>) -> Self {
        Cluster::Compressed { stream: deflate_stored(&contents), contents }
    }

    /// A zstd cluster.
    pub fn zstd(contents: Vec<u8>) -> Self {
        Cluster::Compressed { stream: zstd_frame(&contents), contents }
    }
}

/// An internal snapshot of the image as it is built; it shares the L2 tables and all data.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// Its id.
    pub id: Vec<u8>,
    /// Its name.
    pub name: Vec<u8>,
    /// Its extra data; version 3 asks for 16 bytes at least.
    pub extra: Vec<u8>,
}

impl Snapshot {
    /// A snapshot of a disk of `size` bytes, without VM state.
    pub fn new(id: &str, name: &str, size: u64) -> Self {
        let extra = [0, size, u64::MAX].iter().flat_map(|word: &u64| word.to_be_bytes()).collect();
        Snapshot { id: id.into(), name: name.into(), extra }
    }
}

/// A persistent bitmap.
#[derive(Clone, Debug)]
pub struct Bitmap {
    /// Its name, as bytes.
    pub name: Vec<u8>,
    /// Log2 of the bytes that one bit stands for.
    pub granularity_bits: u32,
    /// `IN_USE`, `AUTO`, ...
    pub flags: u32,
    /// The numbers of the set bits.
    pub bits: Vec<Range<u64>>,
    /// Write full data clusters as table entries with the all-ones flag.
    pub all_ones_entries: bool,
}

impl Bitmap {
    /// A bitmap that records, with these bits set.
    pub fn new(name: &str, granularity_bits: u32, bits: &[Range<u64>]) -> Self {
        Bitmap {
            name: name.into(),
            granularity_bits,
            flags: field::AUTO,
            bits: bits.to_vec(),
            all_ones_entries: false,
        }
    }

    /// The dirty extents of a disk of `size` bytes: ascending, merged, clipped.
    pub fn extents(&self, size: u64) -> Vec<Range<u64>> {
        let mut extents: Vec<Range<u64>> = Vec::new();
        let mut bits = self.bits.clone();
        bits.sort_by_key(|range| range.start);
        for bits in bits {
            let start = bits.start << self.granularity_bits;
            let end = (bits.end << self.granularity_bits).min(size);
            match extents.last_mut() {
                Some(last) if last.end >= start => last.end = last.end.max(end),
                _ if start < end => extents.push(start..end),
                _ => {}
            }
        }
        extents
    }

    /// How many bits are set, times the granularity.
    pub fn count(&self) -> u64 {
        self.bits.iter().map(|bits| (bits.end - bits.start) << self.granularity_bits).sum()
    }
}

/// What to build. The defaults of [`Builder::new`] are those of a new image made by QEMU 10.
#[derive(Clone, Debug)]
pub struct Builder {
    /// 2 or 3.
    pub version: u32,
    /// 9 to 21.
    pub cluster_bits: u32,
    /// The virtual size in bytes.
    pub size: u64,
    /// 0 to 6; version 2 knows 4 only.
    pub refcount_order: u32,
    /// Version 3: 104 or more. Version 2 ends at 72.
    pub header_length: u32,
    /// Incompatible feature bits, besides those that follow from the other fields.
    pub incompatible: u64,
    /// Compatible feature bits.
    pub compatible: u64,
    /// Autoclear feature bits, besides that of the bitmaps.
    pub autoclear: u64,
    /// Compressed clusters are zstd.
    pub zstd: bool,
    /// L2 entries of 16 bytes.
    pub extended_l2: bool,
    /// The backing file's name; its format is an extension like others.
    pub backing: Option<Vec<u8>>,
    /// The external data file's name; its contents become [`Image::data_file`].
    pub data_file: Option<Vec<u8>>,
    /// Extensions, in this order, before that of the bitmaps.
    pub extensions: Vec<Extension>,
    /// Guest clusters by number; the others are unallocated.
    pub clusters: BTreeMap<u64, Cluster>,
    /// Internal snapshots.
    pub snapshots: Vec<Snapshot>,
    /// Persistent bitmaps.
    pub bitmaps: Vec<Bitmap>,
}

impl Builder {
    /// An empty version 3 image.
    pub fn new(cluster_bits: u32, size: u64) -> Self {
        Builder {
            version: 3,
            cluster_bits,
            size,
            refcount_order: 4,
            header_length: 112,
            incompatible: 0,
            compatible: 0,
            autoclear: 0,
            zstd: false,
            extended_l2: false,
            backing: None,
            data_file: None,
            extensions: Vec::new(),
            clusters: BTreeMap::new(),
            snapshots: Vec::new(),
            bitmaps: Vec::new(),
        }
    }

    /// The same with guest cluster `number`.
    pub fn cluster(mut self, number: u64, cluster: Cluster) -> Self {
        self.clusters.insert(number, cluster);
        self
    }

    /// The same with one more extension.
    pub fn extension(mut self, kind: u32, data: impl Into<Vec<u8>>) -> Self {
        self.extensions.push((kind, data.into()));
        self
    }

    /// The same with a backing file and its format.
    pub fn backing(mut self, name: impl Into<Vec<u8>>, format: &str) -> Self {
        self.backing = Some(name.into());
        self.extension(field::EXT_BACKING_FORMAT, format)
    }

    /// The same with one more bitmap.
    pub fn bitmap(mut self, bitmap: Bitmap) -> Self {
        self.bitmaps.push(bitmap);
        self
    }

    /// The same with one more snapshot.
    pub fn snapshot(mut self, id: &str, name: &str) -> Self {
        self.snapshots.push(Snapshot::new(id, name, self.size));
        self
    }

    /// The same after a change to any field.
    pub fn with(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }

    /// The image's bytes.
    pub fn build(&self) -> Image {
        layout::build(self)
    }

    /// The cluster size in bytes.
    pub fn cluster_size(&self) -> u64 {
        1 << self.cluster_bits
    }

    /// What the guest reads in `range`, where what no cluster covers reads as zero.
    pub fn guest(&self, range: Range<u64>) -> Vec<u8> {
        let size = self.cluster_size();
        let mut out = vec![0; (range.end - range.start) as usize];
        for (&number, cluster) in &self.clusters {
            let from = range.start.max(number * size);
            let to = range.end.min((number + 1) * size);
            if from >= to {
                continue;
            }
            let contents = self.contents(cluster);
            let inside = (from - number * size) as usize..(to - number * size) as usize;
            out[(from - range.start) as usize..(to - range.start) as usize]
                .copy_from_slice(&contents[inside]);
        }
        out
    }

    /// What the guest reads from one cluster.
    fn contents(&self, cluster: &Cluster) -> Vec<u8> {
        let size = self.cluster_size() as usize;
        let mut out = vec![0; size];
        match cluster {
            Cluster::Data(contents) | Cluster::Compressed { contents, .. } => {
                out[..contents.len()].copy_from_slice(contents);
            }
            Cluster::Zero | Cluster::ZeroAllocated(_) => {}
            Cluster::Subclusters { contents, allocated, .. } => {
                let part = size / 32;
                for i in (0..32).filter(|i| allocated >> i & 1 == 1) {
                    let range = i * part..((i + 1) * part).min(contents.len());
                    if !range.is_empty() {
                        out[range.clone()].copy_from_slice(&contents[range]);
                    }
                }
            }
        }
        out
    }
}
