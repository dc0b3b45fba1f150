//! Refcounts while they change: blocks in memory, written when the change says so.

use std::{collections::BTreeMap, ops::Range};

use byteorder::{BigEndian, ByteOrder};

use super::references::References;
use crate::{
    error::{ErrorKind, Result},
    format::{geometry::Geometry, header::MAX_REFCOUNT_TABLE_BYTES, refcount},
    image::Qcow2,
    memory,
    storage::File,
};

/// More unchanged blocks than this are not kept in memory.
const MAX_CLEAN_BLOCKS: usize = 64;

/// Where a refcount table lies.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NewTable {
    pub(crate) offset: u64,
    pub(crate) clusters: u64,
}

/// The refcount table and those blocks that were looked at.
#[derive(Debug)]
pub(crate) struct Refcounts {
    file: File,
    geometry: Geometry,
    /// Where the table lies on disk.
    place: NewTable,
    table: Vec<u64>,
    /// Entries of the table that are not on disk yet.
    new_entries: Vec<usize>,
    grown: bool,
    /// Where blocks will lie, by their index in the table. Until that is published those at the old places count.
    moved: BTreeMap<usize, u64>,
    /// Where the table will lie.
    new_place: Option<NewTable>,
    blocks: BTreeMap<usize, Block>,
    /// No cluster before this one is free.
    cursor: u64,
}

#[derive(Debug)]
struct Block {
    bytes: Vec<u8>,
    dirty: bool,
}

impl Refcounts {
    pub(crate) fn new(image: &Qcow2) -> Result<Self> {
        let header = image.header();
        Ok(Refcounts {
            file: image.file().clone(),
            geometry: header.geometry,
            place: NewTable {
                offset: header.refcount_table_offset,
                clusters: header.refcount_table_clusters.into(),
            },
            table: memory::copied(image.refcount_table())?,
            new_entries: Vec::new(),
            grown: false,
            moved: BTreeMap::new(),
            new_place: None,
            blocks: BTreeMap::new(),
            cursor: 1,
        })
    }

    fn index_of(&self, cluster: u64) -> (usize, usize) {
        let per_block = self.geometry.refcount_block_entries();
        ((cluster / per_block) as usize, (cluster % per_block) as usize)
    }

    /// The block of table entry `index`, if there is one.
    fn block(&mut self, index: usize) -> Result<Option<&mut Block>> {
        if !self.blocks.contains_key(&index) {
            let entry = self.table.get(index).copied().unwrap_or(0);
            let Some(offset) = refcount::block_offset(entry, index, &self.geometry)? else { return Ok(None) };
            let mut bytes = memory::zeroed(self.geometry.cluster_size() as usize)?;
            self.file.read_exact(&mut bytes, offset, "refcount block")?;
            if self.blocks.len() >= MAX_CLEAN_BLOCKS {
                self.blocks.retain(|_, block| block.dirty);
            }
            self.blocks.insert(index, Block { bytes, dirty: false });
        }
        Ok(self.blocks.get_mut(&index))
    }

    /// The refcount of a cluster.
    pub(crate) fn get(&mut self, cluster: u64) -> Result<u64> {
        let (index, entry) = self.index_of(cluster);
        let order = self.geometry.refcount_order;
        Ok(self.block(index)?.map_or(0, |block| refcount::get(&block.bytes, order, entry)))
    }

    /// Sets the refcount of a cluster that has a block.
    pub(crate) fn lower(&mut self, cluster: u64, count: u64) -> Result<()> {
        let (index, entry) = self.index_of(cluster);
        let order = self.geometry.refcount_order;
        if let Some(block) = self.block(index)? {
            refcount::set(&mut block.bytes, order, entry, count);
            block.dirty = true;
        }
        if count == 0 {
            self.cursor = self.cursor.min(cluster);
        }
        Ok(())
    }

    /// The first cluster from `from` on that nothing refers to and whose refcount is zero.
    fn next_free(&mut self, references: &References, from: u64) -> Result<u64> {
        let mut cluster = references.next_free(from);
        while self.get(cluster)? != 0 {
            cluster = references.next_free(cluster + 1);
        }
        Ok(cluster)
    }

    /// Takes up to `wanted` clusters, at least one, that follow each other; returns the first one and how many.
    pub(crate) fn allocate(&mut self, references: &mut References, wanted: u64) -> Result<(u64, u64)> {
        let first = self.next_free(references, self.cursor)?;
        let mut count = 1;
        while count < wanted && self.next_free(references, first + count)? == first + count {
            count += 1;
        }
        self.take(references, first, count)?;
        self.cursor = first + count;
        Ok((first, count))
    }

    /// Takes `count` clusters that follow each other; returns the first one.
    pub(crate) fn allocate_row(&mut self, references: &mut References, count: u64) -> Result<u64> {
        let mut first = self.next_free(references, self.cursor)?;
        let mut found = 1;
        while found < count {
            let next = self.next_free(references, first + found)?;
            (first, found) = if next == first + found { (first, found + 1) } else { (next, 1) };
        }
        self.take(references, first, count)?;
        Ok(first)
    }

    fn take(&mut self, references: &mut References, first: u64, count: u64) -> Result<()> {
        if (first + count) << self.geometry.cluster_bits >> 56 != 0 {
            return Err(self.file.error(ErrorKind::Limit, "the image has no room left"));
        }
        references.take(first..first + count)?;
        for cluster in first..first + count {
            if let Err(error) = self.set_used(references, cluster) {
                // All or nothing: what was allocated before must not be lost with this.
                for taken in first..first + count {
                    references.drop_one(taken);
                    if taken < cluster {
                        let _ = self.lower(taken, 0);
                    }
                }
                return Err(error);
            }
        }
        Ok(())
    }

    /// Sets the refcount of a cluster that was taken to 1.
    fn set_used(&mut self, references: &mut References, cluster: u64) -> Result<()> {
        let (index, entry) = self.index_of(cluster);
        let order = self.geometry.refcount_order;
        if self.block(index)?.is_none() {
            self.add_block(references, index)?;
        }
        if let Some(block) = self.block(index)? {
            refcount::set(&mut block.bytes, order, entry, 1);
            block.dirty = true;
        }
        Ok(())
    }

    /// A block of zeros for table entry `index`, and a longer table if need be. The block is known before its
    /// own refcount is set, which it may hold itself. All or nothing.
    fn add_block(&mut self, references: &mut References, index: usize) -> Result<()> {
        // What the system can refuse comes first: a table entry without its block would be written later.
        let bytes = memory::zeroed(self.geometry.cluster_size() as usize)?;
        let (length, grown) = (self.table.len(), self.grown);
        memory::reserve(&mut self.table, (index + 1).saturating_sub(length))?;
        let cluster = self.next_free(references, self.cursor)?;
        references.take(cluster..cluster + 1)?;
        if index >= length {
            self.grown = true;
            self.table.resize(index + 1, 0);
        }
        self.table[index] = cluster << self.geometry.cluster_bits;
        self.new_entries.push(index);
        self.blocks.insert(index, Block { bytes, dirty: true });
        let used = self.set_used(references, cluster);
        if used.is_err() {
            references.drop_one(cluster);
            self.blocks.remove(&index);
            self.new_entries.pop();
            self.table[index] = 0;
            self.table.truncate(length);
            self.grown = grown;
        }
        used
    }

    /// Finds other places for the blocks of these table entries, ascending, that have one or none.
    pub(super) fn move_blocks(&mut self, references: &mut References, indices: &[usize]) -> Result<()> {
        if let Some(last) = indices.last().filter(|last| **last >= self.table.len()) {
            memory::grow(&mut self.table, last + 1)?;
            self.grown = true;
        }
        let mut rest = indices.iter();
        while rest.len() > 0 {
            let (first, count) = self.allocate(references, rest.len() as u64)?;
            let places = (first..first + count).map(|cluster| cluster << self.geometry.cluster_bits);
            self.moved.extend(rest.by_ref().take(count as usize).copied().zip(places));
        }
        Ok(())
    }

    /// Writes each block that moves to its new place, as `change` makes it.
    pub(super) fn write_moved_blocks(&mut self, mut change: impl FnMut(usize, &mut [u8])) -> Result<()> {
        let moved = memory::collected(self.moved.iter().map(|(index, place)| (*index, *place)))?;
        for (index, place) in moved {
            let size = self.geometry.cluster_size() as usize;
            let mut bytes = memory::zeroed(size)?;
            if let Some(block) = self.block(index)? {
                bytes.copy_from_slice(&block.bytes);
            }
            change(index, &mut bytes);
            self.file.write_all(&bytes, place)?;
        }
        Ok(())
    }

    /// Where the blocks lie that move.
    pub(super) fn old_blocks(&self) -> impl Iterator<Item = Range<u64>> {
        let old = self.moved.keys().map(|index| self.table[*index]).filter(|offset| *offset != 0);
        old.map(|offset| offset..offset + self.geometry.cluster_size())
    }

    /// Leaves blocks and table where they are; returns the places that were found for them.
    pub(super) fn stay(&mut self) -> Vec<Range<u64>> {
        let size = self.geometry.cluster_size();
        let blocks = std::mem::take(&mut self.moved).into_values().map(|offset| offset..offset + size);
        let table = self.new_place.take().map(|table| table.offset..table.offset + table.clusters * size);
        blocks.chain(table).collect()
    }

    /// The place of the table if it had to grow, or some of its blocks move; it is written there.
    pub(crate) fn write_new_table(&mut self, references: &mut References) -> Result<Option<NewTable>> {
        if !self.grown && self.moved.is_empty() {
            return Ok(None);
        }
        // Room for half as many blocks again, and for those that the table's own clusters may need.
        let used = self.table.iter().rposition(|entry| *entry != 0).map_or(0, |last| last as u64 + 1);
        let entries = (used * 3 / 2 + 2).max(self.table.len() as u64).min(MAX_REFCOUNT_TABLE_BYTES / 8);
        let clusters = self.geometry.clusters_for(entries * 8);
        let capacity = (clusters << self.geometry.cluster_bits) / 8;
        let offset = self.allocate_row(references, clusters)? << self.geometry.cluster_bits;
        self.new_place = Some(NewTable { offset, clusters });
        if self.table.len() as u64 > capacity {
            return Err(self.file.error(ErrorKind::Limit, "the image needs a refcount table over 8 MiB"));
        }
        memory::grow(&mut self.table, capacity as usize)?;
        let mut bytes = memory::zeroed(self.table.len() * 8)?;
        BigEndian::write_u64_into(&self.table, &mut bytes);
        for (index, place) in &self.moved {
            BigEndian::write_u64(&mut bytes[index * 8..], *place);
        }
        self.file.write_all(&bytes, offset)?;
        Ok(self.new_place)
    }

    /// Writes all changed blocks.
    pub(crate) fn write_blocks(&mut self) -> Result<()> {
        for (index, block) in self.blocks.iter_mut().filter(|(_, block)| block.dirty) {
            self.file.write_all(&block.bytes, self.table[*index])?;
            block.dirty = false;
        }
        Ok(())
    }

    /// Enters new blocks, which are durable, into a table that stays where it is. False if there are none.
    pub(crate) fn hook_blocks(&mut self) -> Result<bool> {
        if self.grown || self.new_entries.is_empty() {
            return Ok(false);
        }
        for index in &self.new_entries {
            let at = self.place.offset + *index as u64 * 8;
            self.file.write_all(&self.table[*index].to_be_bytes(), at)?;
        }
        Ok(true)
    }

    /// What was new is what there is, and durable; returns the place of the table that was replaced.
    pub(crate) fn published(&mut self, table: Option<NewTable>) -> Option<NewTable> {
        self.new_entries.clear();
        self.grown = false;
        self.new_place = None;
        for (index, place) in std::mem::take(&mut self.moved) {
            self.table[index] = place;
            self.blocks.remove(&index);
        }
        table.map(|table| std::mem::replace(&mut self.place, table))
    }
}
