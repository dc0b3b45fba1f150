//! Lays an image out: offsets, tables, refcounts, and the header last.

use std::collections::BTreeMap;

use super::{
    field::*,
    image::{Image, Places},
    spec::{Bitmap, Builder, Cluster},
};

/// Builds with as many refcount blocks as prove necessary: they count themselves, too.
pub(super) fn build(spec: &Builder) -> Image {
    let per_block = (spec.cluster_size() * 8) >> spec.refcount_order;
    let mut blocks = 1;
    loop {
        let image = Layout::new(spec, blocks).run();
        let needed = image.len().div_ceil(spec.cluster_size()).div_ceil(per_block);
        if needed <= blocks {
            return image;
        }
        blocks = needed;
    }
}

/// A file that grows cluster by cluster, and how often each of its clusters is referenced.
struct Layout<'a> {
    spec: &'a Builder,
    blocks: u64,
    image: Image,
    counts: Vec<u64>,
    directory_length: u64,
}

impl<'a> Layout<'a> {
    fn new(spec: &'a Builder, blocks: u64) -> Self {
        let (bytes, at) = (Vec::new(), Places::default());
        let image = Image { bytes, at, spec: spec.clone(), data_file: None, length: None };
        Layout { spec, blocks, image, counts: Vec::new(), directory_length: 0 }
    }

    fn run(mut self) -> Image {
        let size = self.spec.cluster_size();
        let table_clusters = (self.blocks * 8).div_ceil(size);
        self.allocate(1, 1);
        self.image.at.reftable = self.allocate(table_clusters, 1);
        let first = self.allocate(self.blocks, 1);
        self.image.at.refblocks = (0..self.blocks).map(|i| first + i * size).collect();

        self.active_tables();
        self.snapshots();
        self.bitmaps();
        self.header(table_clusters as u32);
        self.refcounts();
        self.image
    }

    /// Takes `clusters` at the end of the file, each with `references`.
    fn allocate(&mut self, clusters: u64, references: u64) -> u64 {
        let offset = self.image.bytes.len() as u64;
        let length = offset + clusters * self.spec.cluster_size();
        self.image.bytes.resize(length as usize, 0);
        self.counts.resize((length / self.spec.cluster_size()) as usize, references);
        offset
    }

    fn entry_size(&self) -> u64 {
        if self.spec.extended_l2 { 16 } else { 8 }
    }

    /// How many guest clusters one L2 table maps.
    fn per_l2(&self) -> u64 {
        self.spec.cluster_size() / self.entry_size()
    }

    fn l1_entries(&self) -> u64 {
        self.spec.size.div_ceil(self.spec.cluster_size()).div_ceil(self.per_l2())
    }

    /// L1, L2 tables and data. A snapshot shares them all and counts as one more reference to each.
    fn active_tables(&mut self) {
        let spec = self.spec;
        let size = spec.cluster_size();
        let references = 1 + spec.snapshots.len() as u64;
        let copied = if references == 1 { COPIED } else { 0 };

        self.image.at.l1 = self.allocate((self.l1_entries() * 8).div_ceil(size).max(1), 1);
        for &number in spec.clusters.keys() {
            let index = number / self.per_l2();
            if !self.image.at.l2.contains_key(&index) {
                let table = self.allocate(1, references);
                self.image.at.l2.insert(index, table);
                self.image.u64(self.image.at.l1 + index * 8, table | copied);
            }
            let entry = self.image.at.l2[&index] + number % self.per_l2() * self.entry_size();
            self.image.at.entry.insert(number, entry);
        }

        if spec.data_file.is_some() {
            let clusters = spec.size.div_ceil(size);
            self.image.data_file = Some(vec![0; (clusters * size) as usize]);
        }
        for (&number, cluster) in &spec.clusters {
            let (contents, allocated, zero) = match cluster {
                Cluster::Data(contents) => (Some(contents), u32::MAX, 0),
                Cluster::ZeroAllocated(contents) => (Some(contents), 0, u32::MAX),
                Cluster::Subclusters { contents, allocated, zero } => (Some(contents), *allocated, *zero),
                Cluster::Zero => (None, 0, u32::MAX),
                Cluster::Compressed { .. } => continue,
            };
            let place = contents.map(|contents| self.store(number, contents, references));
            let copied = if spec.data_file.is_some() { COPIED } else { copied };
            let mut word = place.map_or(0, |offset| offset | copied);
            let entry = self.image.at.entry[&number];
            if spec.extended_l2 {
                self.image.u64(entry + 8, u64::from(zero) << 32 | u64::from(allocated));
            } else if zero != 0 {
                word |= ZERO;
            }
            self.image.u64(entry, word);
        }
        self.compressed(references);
    }

    /// A host cluster for the contents of a guest cluster, in this file or in the data file.
    fn store(&mut self, number: u64, contents: &[u8], references: u64) -> u64 {
        let offset = match &mut self.image.data_file {
            Some(file) => {
                let offset = number * self.spec.cluster_size();
                file[offset as usize..][..contents.len()].copy_from_slice(contents);
                offset
            }
            None => {
                let offset = self.allocate(1, references);
                self.image.put(offset, contents);
                offset
            }
        };
        self.image.at.data.insert(number, offset);
        offset
    }

    /// Compressed streams, packed one behind the other. Each counts for every cluster it touches.
    fn compressed(&mut self, references: u64) {
        let spec = self.spec;
        let streams: Vec<(u64, &Vec<u8>)> = spec
            .clusters
            .iter()
            .filter_map(|(&number, cluster)| match cluster {
                Cluster::Compressed { stream, .. } => Some((number, stream)),
                _ => None,
            })
            .collect();
        let total: u64 = streams.iter().map(|(_, stream)| stream.len() as u64).sum();
        let mut offset = self.allocate(total.div_ceil(spec.cluster_size()), 0);
        let offset_bits = 62 - (spec.cluster_bits - 8);
        for (number, stream) in streams {
            let last = offset + stream.len() as u64 - 1;
            let sectors = last / 512 - offset / 512;
            assert!(sectors < 1 << (spec.cluster_bits - 8), "a stream too long for its L2 entry");
            self.image.put(offset, stream);
            self.image.u64(self.image.at.entry[&number], COMPRESSED | sectors << offset_bits | offset);
            for cluster in offset >> spec.cluster_bits..=last >> spec.cluster_bits {
                self.counts[cluster as usize] += references;
            }
            self.image.at.data.insert(number, offset);
            offset = last + 1;
        }
    }

    /// Copies of the L1 table, then the snapshot table.
    fn snapshots(&mut self) {
        let spec = self.spec;
        if spec.snapshots.is_empty() {
            return;
        }
        let l1_length = self.l1_entries() * 8;
        let mut table = Vec::new();
        let mut entries = Vec::new();
        for snapshot in &spec.snapshots {
            let l1 = self.allocate(l1_length.div_ceil(spec.cluster_size()).max(1), 1);
            let active = self.image.at.l1 as usize;
            let copy = self.image.bytes[active..active + l1_length as usize].to_vec();
            self.image.put(l1, &copy);
            self.image.at.snapshot_l1.push(l1);

            entries.push(table.len() as u64);
            table.extend(l1.to_be_bytes());
            table.extend((self.l1_entries() as u32).to_be_bytes());
            table.extend((snapshot.id.len() as u16).to_be_bytes());
            table.extend((snapshot.name.len() as u16).to_be_bytes());
            table.extend(1_700_000_000u32.to_be_bytes()); // date: seconds, nanoseconds
            table.extend(0u32.to_be_bytes());
            table.extend(0u64.to_be_bytes()); // guest clock
            table.extend(0u32.to_be_bytes()); // VM state size
            table.extend((snapshot.extra.len() as u32).to_be_bytes());
            table.extend(&snapshot.extra);
            table.extend(&snapshot.id);
            table.extend(&snapshot.name);
            table.resize(table.len().next_multiple_of(8), 0);
        }
        let offset = self.allocate((table.len() as u64).div_ceil(spec.cluster_size()), 1);
        self.image.put(offset, &table);
        self.image.at.snapshots = offset;
        self.image.at.snapshot = entries.into_iter().map(|entry| offset + entry).collect();
    }

    /// Each bitmap's data and table, then the directory.
    fn bitmaps(&mut self) {
        let spec = self.spec;
        if spec.bitmaps.is_empty() {
            return;
        }
        let mut directory = Vec::new();
        let mut entries = Vec::new();
        for bitmap in &spec.bitmaps {
            let (table, length) = self.bitmap_table(bitmap);
            entries.push(directory.len() as u64);
            directory.extend(table.to_be_bytes());
            directory.extend((length as u32).to_be_bytes());
            directory.extend(bitmap.flags.to_be_bytes());
            directory.push(1);
            directory.push(bitmap.granularity_bits as u8);
            directory.extend((bitmap.name.len() as u16).to_be_bytes());
            directory.extend(0u32.to_be_bytes()); // extra data
            directory.extend(&bitmap.name);
            directory.resize(directory.len().next_multiple_of(8), 0);
        }
        let offset = self.allocate((directory.len() as u64).div_ceil(spec.cluster_size()), 1);
        self.image.put(offset, &directory);
        self.image.at.directory = offset;
        self.image.at.bitmap = entries.into_iter().map(|entry| offset + entry).collect();
        self.directory_length = directory.len() as u64;
    }

    /// One bitmap's data clusters and its table: the table's offset and number of entries.
    fn bitmap_table(&mut self, bitmap: &Bitmap) -> (u64, u64) {
        let spec = self.spec;
        let bits = spec.size.div_ceil(1 << bitmap.granularity_bits);
        let mut data = vec![0u8; (bits.div_ceil(64) * 8) as usize];
        for bit in bitmap.bits.iter().cloned().flatten() {
            data[(bit / 8) as usize] |= 1 << (bit % 8); // the lowest bit of a byte is the first
        }
        let mut places = BTreeMap::new();
        let mut words = Vec::new();
        for (index, piece) in data.chunks(spec.cluster_size() as usize).enumerate() {
            if piece.iter().all(|&byte| byte == 0) {
                words.push(0);
            } else if bitmap.all_ones_entries && piece.iter().all(|&byte| byte == 0xFF) {
                words.push(1);
            } else {
                let offset = self.allocate(1, 1);
                self.image.put(offset, piece);
                places.insert(index as u64, offset);
                words.push(offset);
            }
        }
        let table = self.allocate((words.len() as u64 * 8).div_ceil(spec.cluster_size()), 1);
        for (index, &word) in words.iter().enumerate() {
            self.image.u64(table + index as u64 * 8, word);
        }
        self.image.at.bitmap_data.push(places);
        self.image.at.bitmap_table.push(table);
        (table, words.len() as u64)
    }

    fn refcounts(&mut self) {
        let order = self.spec.refcount_order;
        let width = 1u64 << order;
        let per_block = (self.spec.cluster_size() * 8) >> order;
        for (index, &block) in self.image.at.refblocks.clone().iter().enumerate() {
            self.image.u64(self.image.at.reftable + index as u64 * 8, block);
        }
        for (cluster, &count) in self.counts.clone().iter().enumerate() {
            assert!(width == 64 || count < 1 << width, "a refcount too large for its width");
            let Some(&block) = self.image.at.refblocks.get(cluster / per_block as usize) else { return };
            let index = cluster as u64 % per_block;
            match order {
                // Widths below a byte count from the least significant bit.
                0..=2 => {
                    let place = block + index * width / 8;
                    let byte = self.image.bytes[place as usize] | (count << (index * width % 8)) as u8;
                    self.image.u8(place, byte);
                }
                3 => self.image.u8(block + index, count as u8),
                4 => self.image.u16(block + index * 2, count as u16),
                5 => self.image.u32(block + index * 4, count as u32),
                _ => self.image.u64(block + index * 8, count),
            }
        }
    }

    fn header(&mut self, table_clusters: u32) {
        let spec = self.spec;
        let at = self.image.at.clone();
        let l1_entries = self.l1_entries() as u32;
        let image = &mut self.image;
        image.u32(MAGIC, 0x5146_49FB);
        image.u32(VERSION, spec.version);
        image.u32(CLUSTER_BITS, spec.cluster_bits);
        image.u64(SIZE, spec.size);
        image.u32(L1_SIZE, l1_entries);
        image.u64(L1_OFFSET, at.l1);
        image.u64(REFTABLE_OFFSET, at.reftable);
        image.u32(REFTABLE_CLUSTERS, table_clusters);
        image.u32(NB_SNAPSHOTS, spec.snapshots.len() as u32);
        image.u64(SNAPSHOTS_OFFSET, at.snapshots);
        let mut cursor = 72;
        if spec.version > 2 {
            let mut incompatible = spec.incompatible;
            incompatible |= if spec.data_file.is_some() { DATA_FILE } else { 0 };
            incompatible |= if spec.zstd { COMPRESSION } else { 0 };
            incompatible |= if spec.extended_l2 { EXTENDED_L2 } else { 0 };
            let bitmaps = if spec.bitmaps.is_empty() { 0 } else { BITMAPS };
            image.u64(INCOMPATIBLE, incompatible);
            image.u64(COMPATIBLE, spec.compatible);
            image.u64(AUTOCLEAR, spec.autoclear | bitmaps);
            image.u32(REFCOUNT_ORDER, spec.refcount_order);
            image.u32(HEADER_LENGTH, spec.header_length);
            if spec.header_length > 104 {
                image.u8(COMPRESSION_TYPE, u8::from(spec.zstd));
            }
            cursor = u64::from(spec.header_length);
        }

        let mut extensions = spec.extensions.clone();
        if let Some(name) = &spec.data_file {
            extensions.push((EXT_DATA_FILE, name.clone()));
        }
        if !spec.bitmaps.is_empty() {
            let mut data = Vec::new();
            data.extend((spec.bitmaps.len() as u32).to_be_bytes());
            data.extend(0u32.to_be_bytes());
            data.extend(self.directory_length.to_be_bytes());
            data.extend(at.directory.to_be_bytes());
            extensions.push((EXT_BITMAPS, data));
        }
        for (kind, data) in extensions {
            image.at.extension.push(cursor);
            image.u32(cursor, kind);
            image.u32(cursor + 4, data.len() as u32);
            image.put(cursor + 8, &data);
            cursor += 8 + (data.len() as u64).next_multiple_of(8);
        }
        image.at.extensions_end = cursor;
        cursor += 8; // type 0, length 0
        if let Some(name) = &spec.backing {
            image.u64(BACKING_OFFSET, cursor);
            image.u32(BACKING_SIZE, name.len() as u32);
            image.put(cursor, name);
            cursor += name.len() as u64;
        }
        // An area that is exactly full needs no end mark.
        assert!(cursor <= spec.cluster_size() + 8, "the header does not fit into its cluster");
    }
}
