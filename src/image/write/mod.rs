//! Guest writes into an image that exists.
//!
//! Data goes where the guest's cluster is, if that cluster is proven to be its alone; else into a new one, with
//! what else the cluster holds copied from wherever the guest sees it now. L2 tables are changed in memory,
//! where readers find them, until [`Writer::flush`]. Order of writes, and what a crash leaves:
//!
//! 1. Unknown autoclear bits are cleared (only where there are any); sync.
//! 2. Data, in place or into new clusters, as it comes. A crash leaves a part of it in those places that the
//!    guest had already, as it does in a disk, and nothing else.
//! 3. *Own*: new L2 tables, and the refcounts of all new clusters; sync. A crash leaks these clusters.
//! 4. New refcount blocks are hooked into the refcount table, or, where that had to grow, the header names
//!    another one; sync. A crash leaks.
//! 5. *Publish*: entries of the L2 tables and of the L1 table, in place; sync. A crash leaves each entry old or
//!    new, and both are whole.
//! 6. *Release*: the refcounts of what was replaced go down. A crash leaks.
//!
//! A cluster that was released is free for others from step 6 on, when nothing on disk refers to it any more.

mod data;
mod tail;
mod zero;

use std::{collections::BTreeSet, ops::Range};

use zerocopy::{FromBytes, big_endian::U64};

use super::{Image, Qcow2, edit::Clusters};
use crate::{
    error::{Error, ErrorKind, Result},
    format::{
        header::{autoclear, incompatible},
        l1,
        l2::State,
    },
};

/// So many bytes of changed L2 tables are kept in memory.
const MAX_CHANGED: u64 = 16 << 20;
/// So many released ranges are remembered.
const MAX_RELEASED: usize = 1 << 16;

/// The writing side of one open image. It is about the image that it began with, which nobody else may change.
#[derive(Debug)]
pub(crate) struct Writer {
    clusters: Clusters,
    /// Entries of the L1 table that the file does not have yet.
    changed_l1: BTreeSet<usize>,
    /// L2 tables that nothing on disk refers to yet.
    new_tables: BTreeSet<u64>,
    /// Refcount tables that were replaced. As long as the image goes by its old metadata map their clusters
    /// are not used for anything else.
    retired: Vec<Range<u64>>,
}

/// A guest cluster that is about to change, and what its entry says.
#[derive(Clone, Copy, Debug)]
struct Place {
    /// Its guest offset.
    guest: u64,
    /// The L2 table with its entry.
    table: u64,
    state: State,
    /// Its host cluster may be written in place.
    ours: bool,
}

impl Writer {
    /// Begins to write. Refuses an image that cannot be trusted to say what is free, and a chain that is not
    /// open as a whole.
    pub(crate) fn begin(image: &Image) -> Result<Self> {
        let top = qcow2(image)?;
        if top.header().backing().is_some() && image.layer_count() == 1 {
            let text = "the image was opened without its backing files; open all of the chain";
            return Err(top.file().error(ErrorKind::WrongState, text));
        }
        top.ensure_data_file_writable()?;
        Ok(Writer {
            clusters: Clusters::begin(top)?,
            changed_l1: BTreeSet::new(),
            new_tables: BTreeSet::new(),
            retired: Vec::new(),
        })
    }

    /// For those who keep something beside the guest's data up to date: bitmaps.
    pub(crate) fn clusters(&mut self) -> &mut Clusters {
        &mut self.clusters
    }

    /// Makes everything durable that was written.
    pub(crate) fn flush(&mut self, image: &Image) -> Result<()> {
        let top = qcow2(image)?;
        if top.external_data_file_bit() {
            top.data_file()?.sync()?;
        }
        let (new, old): (Vec<_>, Vec<_>) = top
            .cache()
            .changed()
            .into_iter()
            .partition(|(host, _)| self.new_tables.contains(&top.geometry().cluster_start(*host)));
        for (host, bytes) in new {
            top.file().write_all(&bytes, host)?;
        }
        self.own(top)?;
        let publishes = !old.is_empty() || !self.changed_l1.is_empty();
        for (host, bytes) in old {
            top.file().write_all(&bytes, host)?;
        }
        for index in &self.changed_l1 {
            let at = top.header().l1_offset + *index as u64 * 8;
            top.file().write_all(&top.l1_entry(*index).to_be_bytes(), at)?;
        }
        if publishes {
            top.file().sync()?;
        }
        top.cache().written();
        self.changed_l1.clear();
        self.new_tables.clear();
        // What cannot be given back leaks; what was written is durable all the same.
        let _ = self.clusters.give_back();
        Ok(())
    }

    /// The same, for the last time: the image is read anew after this.
    pub(crate) fn finish(mut self, image: &Image) -> Result<()> {
        self.flush(image)?;
        self.end();
        Ok(())
    }

    /// Ends writing when all was flushed.
    pub(crate) fn end(mut self) {
        let retired = std::mem::take(&mut self.retired);
        retired.into_iter().for_each(|range| self.clusters.release(range));
        let _ = self.clusters.give_back();
    }

    /// Makes the refcounts of new clusters durable, and what was written into them.
    pub(crate) fn own(&mut self, top: &Qcow2) -> Result<()> {
        let Some(decision) = self.clusters.own(top, None)? else { return Ok(()) };
        if let Some(old) = self.clusters.decide(&decision)? {
            self.retired.push(old.offset..old.offset + (old.clusters << top.geometry().cluster_bits));
        }
        Ok(())
    }

    /// Keeps memory bounded, between two operations.
    fn relieve(&mut self, image: &Image) -> Result<()> {
        let top = qcow2(image)?;
        let changed = top.cache().changed_count() as u64 * top.geometry().cluster_size().min(64 << 10);
        if changed > MAX_CHANGED || self.clusters.waiting() > MAX_RELEASED {
            self.flush(image)?;
        }
        Ok(())
    }

    /// The L2 table for a guest offset, which may be changed; made or copied if need be.
    fn table(&mut self, top: &Qcow2, guest: u64) -> Result<u64> {
        let geometry = top.geometry();
        let index = (guest / geometry.l2_coverage()) as usize;
        let entry = top.l1_entry(index);
        let old = l1::l2_table_offset(entry, index, geometry).map_err(|e| e.in_file(top.file().path()))?;
        let table = match old {
            Some(table) if self.clusters.is_exclusive(table)? => {
                if entry & l1::COPIED != 0 {
                    return Ok(table);
                }
                table
            }
            _ => {
                let table = self.clusters.allocate(1)?.start;
                top.cache().add_table(top.file(), table, old, geometry.cluster_size())?;
                self.new_tables.insert(table);
                table
            }
        };
        top.set_l1_entry(index, table | l1::COPIED);
        self.changed_l1.insert(index);
        if let Some(old) = old.filter(|old| *old != table) {
            self.clusters.release(old..old + geometry.cluster_size());
        }
        Ok(table)
    }

    /// What is at a guest cluster, whose L2 table is `table`.
    fn place(&mut self, top: &Qcow2, table: u64, guest: u64) -> Result<Place> {
        let geometry = top.geometry();
        let offset = entry_offset(top, guest);
        let per_slice = top.cache().slice_entries(geometry) * geometry.l2_entry_size();
        let slice = top.cache().slice(top.file(), table, offset / per_slice)?;
        let entries = <[U64]>::ref_from_bytes(&slice[(offset % per_slice) as usize..]).unwrap_or_default();
        let state = State::new(top.decode(guest, entries)?, geometry);
        let ours = match state.host {
            _ if top.external_data_file_bit() => true,
            Some(host) => self.clusters.is_exclusive(host)?,
            None => false,
        };
        Ok(Place { guest, table, state, ours })
    }

    /// Changes the entry of a guest cluster; what it referred to before, and does not any more, is released.
    fn set(&mut self, top: &Qcow2, place: &Place, state: State, exclusive: bool) -> Result<()> {
        if state != place.state {
            let bytes = state.encode(top.geometry(), exclusive);
            top.cache().change(top.file(), place.table, entry_offset(top, place.guest), &bytes)?;
        }
        if let Some(stream) = place.state.compressed {
            self.clusters.release(stream.host..stream.host + u64::from(stream.length));
        }
        match place.state.host {
            Some(old) if state.host != Some(old) && !top.external_data_file_bit() => {
                self.clusters.release(old..old + top.geometry().cluster_size());
            }
            _ => {}
        }
        Ok(())
    }
}

/// Where the entry of a guest offset is in its L2 table.
fn entry_offset(top: &Qcow2, guest: u64) -> u64 {
    let geometry = top.geometry();
    (guest >> geometry.cluster_bits) % geometry.l2_entries() * geometry.l2_entry_size()
}

/// The top image, which can be written.
fn qcow2(image: &Image) -> Result<&Qcow2> {
    image.qcow2().ok_or_else(|| {
        let text = format!("'{}': only qcow2 images are written", image.path().display());
        Error::new(ErrorKind::Unsupported, text)
    })
}

impl Qcow2 {
    /// Whether the external data file shall be a raw image of the disk by itself.
    pub(crate) fn has_raw_data_file(&self) -> bool {
        self.header().has(incompatible::DATA_FILE) && self.header().autoclear & autoclear::DATA_FILE_RAW != 0
    }

    /// Refuses an image with a data file that cannot be written.
    pub(crate) fn ensure_data_file_writable(&self) -> Result<()> {
        let (kind, text) = match self.external_data_file() {
            _ if !self.external_data_file_bit() => return Ok(()),
            Some(_) if self.data_file_is_writable() => return Ok(()),
            Some(_) => (ErrorKind::Io, "its data file cannot be opened for writing"),
            None => {
                let text = "the image was opened without its data file; open all of the chain";
                (ErrorKind::WrongState, text)
            }
        };
        Err(self.file().error(kind, text))
    }

    fn is_version_2(&self) -> bool {
        self.header().version < 3
    }
}
