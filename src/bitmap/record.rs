//! Recording guest writes in the persistent bitmaps of an image, before the data is written.
//!
//! A bit is set where the bitmap lies, and durable, before the guest's data can be. A set bit too many costs a
//! copy, one too few loses data; so bits in place are safe at any moment, also torn ones, and no crash makes
//! the bitmap inconsistent. Only a part of a bitmap that was all clean needs a new cluster: it is owned first,
//! and entered into the bitmap's table when it is durable.

use std::ops::Range;

use byteorder::{ByteOrder, LittleEndian};

use super::{
    DirtyBitmap,
    persistent::{recording, tables},
};
use crate::{
    error::Result,
    format::bitmap::TableEntry,
    image::{Qcow2, Writer},
    memory,
};

/// Bits are written in units that arrive as a whole.
const SECTOR: usize = 512;

/// The bitmaps that record, as they are on disk.
#[derive(Debug)]
pub(crate) struct Recorder {
    bitmaps: Vec<Recorded>,
}

#[derive(Debug)]
struct Recorded {
    table_offset: u64,
    table: Vec<TableEntry>,
    bitmap: DirtyBitmap,
}

/// A cluster of bits that was written and is not in its bitmap's table yet.
#[derive(Clone, Copy, Debug)]
struct NewCluster {
    bitmap: usize,
    index: usize,
    host: u64,
}

impl Recorder {
    /// All bitmaps of an image that record. Those that cannot be trusted are given up beforehand.
    pub(crate) fn begin(image: &Qcow2) -> Result<Self> {
        let mut bitmaps = Vec::new();
        for (entry, table) in image.bitmaps().iter().zip(tables(image)?) {
            if recording(image, entry) {
                let table = table?;
                let bitmap = table.load(image, entry)?;
                bitmaps.push(Recorded { table_offset: entry.table_offset, table: table.entries, bitmap });
            }
        }
        Ok(Recorder { bitmaps })
    }

    /// Makes a guest range dirty, durably, in every bitmap.
    pub(crate) fn record(&mut self, image: &Qcow2, writer: &mut Writer, range: &Range<u64>) -> Result<()> {
        if range.is_empty() || self.bitmaps.iter().all(|recorded| recorded.bitmap.contains(range)) {
            return Ok(());
        }
        writer.clusters().prepare_to_write(image)?;
        let mut new = Vec::new();
        let written = self.write_bits(image, writer, range, &mut new).and_then(|()| writer.own(image));
        if let Err(error) = written {
            let size = image.geometry().cluster_size();
            new.iter().for_each(|cluster| writer.clusters().release(cluster.host..cluster.host + size));
            return Err(error);
        }
        for cluster in &new {
            let at = self.bitmaps[cluster.bitmap].table_offset + cluster.index as u64 * 8;
            image.file().write_all(&cluster.host.to_be_bytes(), at)?;
        }
        if !new.is_empty() {
            image.file().sync()?;
        }
        for NewCluster { bitmap, index, host } in new {
            self.bitmaps[bitmap].table[index] = TableEntry::Data { host };
        }
        self.bitmaps.iter_mut().for_each(|recorded| recorded.bitmap.add(range.clone()));
        Ok(())
    }

    fn write_bits(
        &self,
        image: &Qcow2,
        writer: &mut Writer,
        range: &Range<u64>,
        new: &mut Vec<NewCluster>,
    ) -> Result<()> {
        let per_cluster = image.geometry().cluster_size() * 8;
        for (number, recorded) in self.bitmaps.iter().enumerate() {
            let bits = recorded.bitmap.granules(range);
            for index in bits.start / per_cluster..bits.end.div_ceil(per_cluster) {
                let first = index * per_cluster;
                let part = bits.start.max(first)..bits.end.min(first + per_cluster);
                match recorded.table[index as usize] {
                    TableEntry::Ones => {}
                    TableEntry::Data { host } => recorded.write_in_place(image, host, first, &part)?,
                    TableEntry::Zeros => {
                        let host = writer.clusters().allocate(1)?.start;
                        new.push(NewCluster { bitmap: number, index: index as usize, host });
                        let mut bytes = memory::zeroed(image.geometry().cluster_size() as usize)?;
                        recorded.fill(&mut bytes, first, &part);
                        image.file().write_all(&bytes, host)?;
                    }
                }
            }
        }
        Ok(())
    }
}

impl Recorded {
    /// Sets the bits of `part` in the data cluster at `host`, whose first bit is `first`.
    fn write_in_place(&self, image: &Qcow2, host: u64, first: u64, part: &Range<u64>) -> Result<()> {
        const BITS: u64 = SECTOR as u64 * 8;
        let (mut old, mut new) = ([0; SECTOR], [0; SECTOR]);
        for sector in (part.start - first) / BITS..(part.end - first).div_ceil(BITS) {
            let start = first + sector * BITS;
            self.fill(&mut old, start, &(start..start));
            self.fill(&mut new, start, part);
            if old != new {
                image.file().write_all(&new, host + sector * SECTOR as u64)?;
            }
        }
        Ok(())
    }

    /// The bitmap's bits from `start` on as they are stored, with those of `part` set.
    fn fill(&self, bytes: &mut [u8], start: u64, part: &Range<u64>) {
        for (at, word) in bytes.chunks_exact_mut(8).enumerate() {
            let start = start + at as u64 * 64;
            LittleEndian::write_u64(word, self.bitmap.bits().word_with(start, part));
        }
    }
}
