//! What an image consists of, and who owns which part of the file.

use std::ops::Range;

use super::{
    super::{
        budget::{Budget, Grant},
        overlap::Owner,
        snapshot_table::{Item, walk},
    },
    CheckProblemKind, CheckReport,
    read::{read_padded, read_words, span},
    tables::{L2Table, L2Tables},
};
use crate::{
    error::{Error, Result},
    format::{
        bitmap::{self, TableEntry, decode_table_entry},
        geometry::Geometry,
        header::{Header, MAX_SNAPSHOTS},
        refcount,
        text::printable,
    },
    memory,
    storage::File,
};

/// Who refers to a part of the file.
#[derive(Clone, Copy, Debug)]
pub(super) enum Claimant {
    Metadata(Owner),
    /// An L2 table, whichever L1 tables lead to it.
    L2Table(L2Table),
    /// The table of a bitmap, by the bitmap's index in the directory.
    BitmapTable(usize),
    BitmapData(usize),
    /// Entry `index` of an L2 table.
    Guest {
        table: L2Table,
        index: u64,
        compressed: bool,
    },
}

/// Sees all parts of the file that have one owner each; guest data is not among them.
pub(super) trait Visitor {
    /// `owner` refers to `host`, `weight` times.
    fn part(&mut self, host: Range<u64>, owner: Claimant, weight: u32) -> Result<()>;

    /// An entry at a file offset is wrong.
    fn invalid(&mut self, _at: u64, _error: &Error) {}
}

/// The L1 table of a snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct L1Table {
    pub(super) offset: u64,
    pub(super) entries: u32,
}

/// The header and the directories that it names.
#[derive(Debug)]
pub(super) struct Structure<'a> {
    pub(super) file: &'a File,
    pub(super) header: &'a Header,
    /// Length of the file, in whole sectors.
    pub(super) length: u64,
    /// Its length to the byte.
    pub(super) end: u64,
    /// The L1 tables of snapshots, with the snapshots' indices.
    pub(super) snapshots: Vec<(u32, L1Table)>,
    /// Bytes of the snapshot table, as far as it can be made out.
    pub(super) snapshot_bytes: u64,
    directory: Range<u64>,
    bitmaps: Vec<bitmap::Entry>,
    _grants: Vec<Grant>,
}

impl<'a> Structure<'a> {
    pub(super) fn read(
        file: &'a File,
        header: &'a Header,
        budget: &Budget,
        report: &mut CheckReport,
    ) -> Result<Self> {
        let mut structure = Structure::bare(file, header)?;
        structure.read_snapshots(budget, report)?;
        structure.read_bitmaps(budget, report)?;
        Ok(structure)
    }

    /// The same as if there were neither snapshots nor bitmaps.
    pub(super) fn bare(file: &'a File, header: &'a Header) -> Result<Self> {
        let end = file.len()?;
        Ok(Structure {
            file,
            header,
            length: end.next_multiple_of(512),
            end,
            snapshots: Vec::new(),
            snapshot_bytes: 0,
            directory: 0..0,
            bitmaps: Vec::new(),
            _grants: Vec::new(),
        })
    }

    /// Gives it these snapshots; their table has `bytes` bytes.
    pub(super) fn set_snapshots(&mut self, bytes: u64, snapshots: Vec<(u32, L1Table)>) {
        self.snapshot_bytes = bytes;
        self.snapshots = snapshots;
    }

    /// Gives it these bitmaps, which are sound.
    pub(super) fn set_bitmaps(&mut self, directory: Range<u64>, bitmaps: Vec<bitmap::Entry>) {
        self.directory = directory;
        self.bitmaps = bitmaps;
    }

    pub(super) fn geometry(&self) -> &'a Geometry {
        &self.header.geometry
    }

    fn read_snapshots(&mut self, budget: &Budget, report: &mut CheckReport) -> Result<()> {
        let (header, geometry) = (self.header, self.geometry());
        let count = header.snapshot_count;
        self._grants.push(budget.grant(u64::from(count.min(MAX_SNAPSHOTS)) * 24, "snapshot table")?);
        let snapshots = &mut self.snapshots;
        let bytes = walk(self.file, header, |item| {
            let entry = match item {
                Item::Entry(entry) => entry,
                Item::Gap(unread) | Item::Rest(unread) => {
                    let times = unread.count.max(1).into();
                    report.invalid(times, unread.at, || unread.to_string());
                    return Ok(());
                }
            };
            let (index, at, snapshot) = (entry.index, entry.at, &entry.found.snapshot);
            let mut invalid = |text: &str| report.invalid(1, at, || format!("snapshot {index}: {text}"));
            if let Some(damage) = &entry.found.damage {
                invalid(damage);
            }
            if !snapshot.is_complete(header.version) {
                invalid("it lacks its disk size");
            }
            if let Some(reason) = snapshot.doubt_l1_table(geometry) {
                invalid(&reason);
                return Ok(());
            }
            if snapshot.is_empty() && snapshot.is_complete(header.version) {
                report.add(CheckProblemKind::Snapshot, 1, Some(at), 0, || {
                    format!("snapshot {index} is empty: it has neither a name nor an L1 table")
                });
            }
            let table = L1Table { offset: snapshot.l1_offset, entries: snapshot.l1_entries };
            memory::push(snapshots, (index, table))
        })?;
        self.snapshot_bytes = bytes;
        if count > 0 && header.has(crate::format::header::incompatible::DATA_FILE) {
            report.invalid(1, 0, || format!("an image with a data file has {count} internal snapshots"));
        }
        Ok(())
    }

    /// Bitmaps that nobody keeps up to date have no clusters: whoever wrote the image may have reused them. Of
    /// those that cannot be used otherwise, the clusters still count.
    fn read_bitmaps(&mut self, budget: &Budget, report: &mut CheckReport) -> Result<()> {
        let Some(extension) = self.header.extensions.bitmaps.as_ref() else { return Ok(()) };
        if !self.header.bitmaps_are_current() {
            return Ok(());
        }
        let geometry = self.geometry();
        let (offset, count) = (extension.directory_offset.get(), extension.nb_bitmaps.get());
        let mut problem = |error: Error| {
            report.add(CheckProblemKind::Bitmap, 1, Some(offset), 0, || format!("bitmap directory: {error}"));
        };
        if let Err(error) = bitmap::check_extension(extension, geometry) {
            problem(error);
            return Ok(());
        }
        let size = extension.directory_size.get();
        self.directory = span(offset, size);
        self._grants.push(budget.grant(size * 2, "bitmap directory")?);
        let mut bytes = memory::zeroed(size as usize)?;
        read_padded(self.file, &mut bytes, offset)?;

        let most = size / 32 * size_of::<bitmap::Entry>() as u64;
        self._grants.push(budget.grant(most, "bitmap directory")?);
        let bitmaps = &mut self.bitmaps;
        let walked = bitmap::for_each_entry(&bytes, geometry, |entry, verdict| {
            if let Err(error) = verdict {
                problem(error);
            }
            memory::push(bitmaps, entry)
        });
        if let Err(error) = walked.and_then(|()| bitmap::check_names(bitmaps, count)) {
            problem(error);
        }
        bitmaps.retain(|entry| entry.check_table(geometry).is_ok());
        Ok(())
    }

    /// Clusters of the file, the last one perhaps cut short.
    pub(super) fn clusters(&self) -> u64 {
        self.geometry().clusters_for(self.length)
    }

    /// Whether there are bitmaps to look into.
    pub(super) fn has_bitmaps(&self) -> bool {
        !self.bitmaps.is_empty()
    }

    /// The host range of the active L1 table.
    fn l1_range(&self) -> Range<u64> {
        span(self.header.l1_offset, u64::from(self.header.l1_entries) * 8)
    }

    /// Shows all metadata, bitmaps and their data to `visitor`, refcount blocks last.
    pub(super) fn visit(
        &self,
        tables: &L2Tables,
        refcount_table: &[u64],
        visitor: &mut impl Visitor,
    ) -> Result<()> {
        let (header, cluster_size) = (self.header, self.geometry().cluster_size());
        let mut own = |host: Range<u64>, owner| match host.is_empty() {
            true => Ok(()),
            false => visitor.part(host, Claimant::Metadata(owner), 1),
        };
        own(0..cluster_size, Owner::Header)?;
        own(self.l1_range(), Owner::L1Table)?;
        own(span(header.refcount_table_offset, refcount_table.len() as u64 * 8), Owner::RefcountTable)?;
        own(span(header.snapshots_offset, self.snapshot_bytes), Owner::SnapshotTable)?;
        for (index, table) in &self.snapshots {
            own(span(table.offset, u64::from(table.entries) * 8), Owner::SnapshotL1Table(*index))?;
        }
        own(self.directory.clone(), Owner::BitmapDirectory)?;
        for (index, entry) in self.bitmaps.iter().enumerate() {
            self.visit_bitmap(index, entry, visitor)?;
        }
        for table in tables.iter() {
            visitor.part(span(table.offset, cluster_size), Claimant::L2Table(*table), table.all)?;
        }
        for (index, entry) in refcount_table.iter().enumerate() {
            match refcount::block_offset(*entry, index, self.geometry()) {
                Ok(None) => {}
                Ok(Some(offset)) => {
                    let owner = Claimant::Metadata(Owner::RefcountBlock(index as u32));
                    visitor.part(span(offset, cluster_size), owner, 1)?;
                }
                Err(error) => visitor.invalid(header.refcount_table_offset + index as u64 * 8, &error),
            }
        }
        Ok(())
    }

    fn visit_bitmap(&self, index: usize, entry: &bitmap::Entry, visitor: &mut impl Visitor) -> Result<()> {
        let count = u64::from(entry.table_entries);
        visitor.part(span(entry.table_offset, count * 8), Claimant::BitmapTable(index), 1)?;
        read_words(self.file, entry.table_offset, count, |at, word| {
            match decode_table_entry(word, self.geometry()) {
                Ok(TableEntry::Data { host }) => {
                    let cluster_size = self.geometry().cluster_size();
                    visitor.part(span(host, cluster_size), Claimant::BitmapData(index), 1)?;
                }
                Ok(_) => {}
                Err(error) => {
                    let error = error.within(format!("bitmap '{}'", printable(&entry.name)));
                    visitor.invalid(entry.table_offset + at * 8, &error);
                }
            }
            Ok(())
        })
    }

    /// A claimant in words.
    pub(super) fn describe(&self, claimant: Claimant) -> String {
        let bitmap = |index: usize| printable(&self.bitmaps[index].name);
        match claimant {
            Claimant::Metadata(owner) => owner.to_string(),
            Claimant::L2Table(table) => match table.index {
                Some(index) => Owner::L2Table(index).to_string(),
                None => format!("a snapshot's L2 table at {:#x}", table.offset),
            },
            Claimant::BitmapTable(index) => format!("the table of bitmap '{}'", bitmap(index)),
            Claimant::BitmapData(index) => format!("the data of bitmap '{}'", bitmap(index)),
            Claimant::Guest { table, index, .. } => match table.index {
                Some(l1) => {
                    let guest = (u64::from(l1) * self.geometry().l2_entries() + index)
                        << self.geometry().cluster_bits;
                    format!("guest data at {guest:#x}")
                }
                None => {
                    format!("guest data of a snapshot (entry {index} of the L2 table at {:#x})", table.offset)
                }
            },
        }
    }
}
