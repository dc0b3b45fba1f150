//! Refcounts while they change: blocks in memory, written when the edit says so.

use std::collections::BTreeMap;

use byteorder::{BigEndian, ByteOrder};

use super::used::UsedClusters;
use crate::{
    error::{ErrorKind, Result},
    format::{geometry::Geometry, refcount},
    image::Qcow2,
    storage::File,
};

/// Where a refcount table that had to grow lies now.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NewTable {
    pub(crate) offset: u64,
    pub(crate) clusters: u64,
}

/// The refcount table and those blocks that were looked at.
#[derive(Debug)]
pub(crate) struct Refcounts {
    geometry: Geometry,
    table: Vec<u64>,
    /// Entries of the table that are not on disk yet.
    new_entries: Vec<usize>,
    grown: bool,
    blocks: BTreeMap<usize, Block>,
    /// Where the search for free clusters goes on.
    cursor: u64,
}

#[derive(Debug)]
struct Block {
    bytes: Vec<u8>,
    dirty: bool,
}

impl Refcounts {
    pub(crate) fn new(image: &Qcow2) -> Self {
        Refcounts {
            geometry: *image.geometry(),
            table: image.refcount_table().to_vec(),
            new_entries: Vec::new(),
            grown: false,
            blocks: BTreeMap::new(),
            cursor: 1,
        }
    }

    fn place(&self, cluster: u64) -> (usize, usize) {
        let per_block = self.geometry.refcount_block_entries();
        ((cluster / per_block) as usize, (cluster % per_block) as usize)
    }

    /// The block of table entry `index`, if there is one.
    fn block(&mut self, image: &Qcow2, index: usize) -> Result<Option<&mut Block>> {
        if !self.blocks.contains_key(&index) {
            let entry = self.table.get(index).copied().unwrap_or(0);
            let Some(offset) = refcount::block_offset(entry, index, &self.geometry)? else { return Ok(None) };
            let mut bytes = vec![0; self.geometry.cluster_size() as usize];
            image.file().read_exact(&mut bytes, offset, "refcount block")?;
            self.blocks.insert(index, Block { bytes, dirty: false });
        }
        Ok(self.blocks.get_mut(&index))
    }

    fn get(&mut self, image: &Qcow2, cluster: u64) -> Result<u64> {
        let (index, entry) = self.place(cluster);
        let order = self.geometry.refcount_order;
        Ok(self.block(image, index)?.map_or(0, |block| refcount::get(&block.bytes, order, entry)))
    }

    /// Takes `count` free clusters in a row, with refcount 1 from now on, and returns their offset.
    pub(crate) fn allocate(&mut self, image: &Qcow2, used: &mut UsedClusters, count: u64) -> Result<u64> {
        let mut first = self.cursor;
        let mut found = 0;
        while found < count {
            let cluster = first + found;
            if used.is_free(cluster) && self.get(image, cluster)? == 0 {
                found += 1;
            } else {
                first = cluster + 1;
                found = 0;
            }
        }
        if (first + count) << self.geometry.cluster_bits >> 56 != 0 {
            return Err(image.file().error(ErrorKind::Limit, "the image has no room left"));
        }
        if count == 1 {
            self.cursor = first + 1;
        }
        (first..first + count).for_each(|cluster| used.take(cluster));
        for cluster in first..first + count {
            self.set(image, used, cluster, 1)?;
        }
        Ok(first << self.geometry.cluster_bits)
    }

    fn set(&mut self, image: &Qcow2, used: &mut UsedClusters, cluster: u64, count: u64) -> Result<()> {
        let (index, entry) = self.place(cluster);
        let order = self.geometry.refcount_order;
        if self.block(image, index)?.is_none() {
            self.add_block(image, used, index)?;
        }
        if let Some(block) = self.block(image, index)? {
            refcount::set(&mut block.bytes, order, entry, count);
            block.dirty = true;
        }
        Ok(())
    }

    /// A block of zeros for table entry `index`, and a longer table if need be. The block is known before its
    /// own refcount is set, which it may hold itself.
    fn add_block(&mut self, image: &Qcow2, used: &mut UsedClusters, index: usize) -> Result<()> {
        if index >= self.table.len() {
            self.grown = true;
            self.table.resize(index + 1, 0);
        }
        let mut cluster = self.cursor;
        while !used.is_free(cluster) || self.get(image, cluster)? != 0 {
            cluster += 1;
        }
        used.take(cluster);
        self.table[index] = cluster << self.geometry.cluster_bits;
        self.new_entries.push(index);
        let bytes = vec![0; self.geometry.cluster_size() as usize];
        self.blocks.insert(index, Block { bytes, dirty: true });
        self.set(image, used, cluster, 1)
    }

    /// The place of the table if it had to grow; it is written there.
    pub(crate) fn new_table(&mut self, image: &Qcow2, used: &mut UsedClusters) -> Result<Option<NewTable>> {
        if !self.grown {
            return Ok(None);
        }
        // Room for half as many blocks again, and for those that the table's own clusters may need.
        let entries = self.table.len() as u64 * 3 / 2 + 2;
        let clusters = self.geometry.clusters_for(entries * 8);
        let capacity = (clusters << self.geometry.cluster_bits) / 8;
        let offset = self.allocate(image, used, clusters)?;
        if self.table.len() as u64 > capacity || clusters << self.geometry.cluster_bits > (8 << 20) {
            return Err(image.file().error(ErrorKind::Limit, "the image needs a refcount table over 8 MiB"));
        }
        self.table.resize(capacity as usize, 0);
        let mut bytes = vec![0; self.table.len() * 8];
        BigEndian::write_u64_into(&self.table, &mut bytes);
        image.file().write_all(&bytes, offset)?;
        Ok(Some(NewTable { offset, clusters }))
    }

    /// Writes all changed blocks.
    pub(crate) fn write_blocks(&mut self, file: &File) -> Result<()> {
        for (index, block) in self.blocks.iter_mut().filter(|(_, block)| block.dirty) {
            file.write_all(&block.bytes, self.table[*index])?;
            block.dirty = false;
        }
        Ok(())
    }

    /// Enters new blocks, which are durable, into a table that stays where it is. False if there are none.
    pub(crate) fn hook_blocks(&mut self, image: &Qcow2) -> Result<bool> {
        if self.grown || self.new_entries.is_empty() {
            return Ok(false);
        }
        for index in &self.new_entries {
            let at = image.header().refcount_table_offset + *index as u64 * 8;
            image.file().write_all(&self.table[*index].to_be_bytes(), at)?;
        }
        Ok(true)
    }

    /// What was new is what there is.
    pub(crate) fn published(&mut self) {
        self.new_entries.clear();
        self.grown = false;
    }

    /// Gives a cluster back whose refcount is 1.
    pub(crate) fn release(&mut self, image: &Qcow2, offset: u64) -> Result<()> {
        let (index, entry) = self.place(offset >> self.geometry.cluster_bits);
        let order = self.geometry.refcount_order;
        if let Some(block) = self.block(image, index)?
            && refcount::get(&block.bytes, order, entry) == 1
        {
            refcount::set(&mut block.bytes, order, entry, 0);
            block.dirty = true;
        }
        Ok(())
    }
}
