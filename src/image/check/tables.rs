//! L1 and L2 tables. Snapshots share most of their L2 tables, so each is read once and counts as often as it
//! is referred to.

use zerocopy::{FromBytes, big_endian::U64};

use super::{
    super::budget::{Budget, Grant},
    CheckProblemKind, CheckReport,
    read::{PIECE, read_padded, read_words},
    refcounts::Refcounts,
    structure::{L1Table, Structure},
    tally::Tally,
};
use crate::{
    error::Result,
    format::{l1, l2},
    memory,
};

/// More L1 entries that share a table are not told.
const MAX_SHARED: usize = 1000;

/// An L2 table and how often it is referred to.
#[derive(Clone, Copy, Debug)]
pub(super) struct L2Table {
    pub(super) offset: u64,
    /// By the active L1 table.
    pub(super) active: u32,
    /// By all L1 tables.
    pub(super) all: u32,
    /// An entry of the active L1 table that leads to it; `None` when only snapshots have it.
    pub(super) index: Option<u32>,
}

/// All L2 tables, in the order of the file.
#[derive(Debug)]
pub(super) struct L2Tables {
    tables: Vec<L2Table>,
    /// Two entries of the active L1 table that lead to one L2 table, and its offset: a write through one of them
    /// changes what the other shows.
    shared: Vec<(u32, u32, u64)>,
    budget: Budget,
    grants: Vec<Grant>,
}

impl L2Tables {
    /// Reads all L1 tables.
    pub(super) fn gather(
        structure: &Structure<'_>,
        refcounts: &mut Refcounts<'_>,
        budget: &Budget,
        report: &mut CheckReport,
    ) -> Result<Self> {
        let mut tables =
            L2Tables { tables: Vec::new(), shared: Vec::new(), budget: budget.clone(), grants: Vec::new() };
        let header = structure.header;
        let active = L1Table { offset: header.l1_offset, entries: header.l1_entries };
        tables.read(structure, active, 1, Some(refcounts), report)?;

        let mut snapshots = memory::collected(structure.snapshots.iter().map(|(_, table)| *table))?;
        snapshots.sort_unstable();
        for alike in snapshots.chunk_by(|a, b| a == b) {
            tables.read(structure, alike[0], alike.len() as u32, None, report)?;
        }
        tables.merge();
        for (first, second, offset) in std::mem::take(&mut tables.shared) {
            report.add(CheckProblemKind::Overlap, 1, Some(offset), 1, || {
                format!("L1 entries {first} and {second} lead to one L2 table, at {offset:#x}")
            });
        }
        Ok(tables)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &L2Table> {
        self.tables.iter()
    }

    /// Reads one L1 table that is there `weight` times; the active one comes with the refcounts that its
    /// flags are compared with.
    fn read(
        &mut self,
        structure: &Structure<'_>,
        table: L1Table,
        weight: u32,
        mut refcounts: Option<&mut Refcounts<'_>>,
        report: &mut CheckReport,
    ) -> Result<()> {
        let geometry = structure.geometry();
        let times = u64::from(weight);
        read_words(structure.file, table.offset, table.entries.into(), |index, entry| {
            if entry == 0 {
                return Ok(());
            }
            let at = table.offset + index * 8;
            let offset = entry & l1::OFFSET;
            let problems = [
                (offset == 0, "points to the header"),
                (entry & l1::RESERVED != 0 && offset != 0, "has reserved bits set"),
                (!geometry.is_aligned(offset), "points to no cluster's start"),
            ];
            for (_, problem) in problems.iter().filter(|(found, _)| *found) {
                report.invalid(times, at, || format!("L1 entry {index} ({entry:#018x}) {problem}"));
            }
            if offset == 0 {
                return Ok(());
            }
            let mut reference = L2Table { offset, active: 0, all: weight, index: None };
            if let Some(refcounts) = &mut refcounts {
                reference.active = weight;
                reference.index = Some(index as u32);
                let copied = entry & l1::COPIED != 0;
                let refcount = refcounts.get(offset >> geometry.cluster_bits)?;
                if let Some(refcount) = refcount.filter(|refcount| (*refcount == 1) != copied) {
                    report.add(CheckProblemKind::CopiedFlag, 1, Some(at), 0, || {
                        let flag = if copied { "set" } else { "clear" };
                        format!(
                            "L1 entry {index} has the flag for a refcount of 1 {flag}, but the refcount is {refcount}"
                        )
                    });
                }
            }
            self.add(reference)
        })
    }

    fn add(&mut self, table: L2Table) -> Result<()> {
        if self.tables.len() == self.tables.capacity() {
            self.merge();
            if self.tables.len() > self.tables.capacity() / 2 || self.tables.is_empty() {
                let more = self.tables.len().max(512);
                self.grants
                    .push(self.budget.grant((more * size_of::<L2Table>()) as u64, "list of L2 tables")?);
                memory::reserve(&mut self.tables, more)?;
            }
        }
        self.tables.push(table);
        Ok(())
    }

    fn merge(&mut self) {
        self.tables.sort_unstable_by_key(|table| table.offset);
        let shared = &mut self.shared;
        self.tables.dedup_by(|table, kept| {
            let same = table.offset == kept.offset;
            if same {
                if let (Some(first), Some(second)) = (kept.index, table.index)
                    && shared.len() < MAX_SHARED
                {
                    shared.push((first.min(second), first.max(second), table.offset));
                }
                kept.active = kept.active.saturating_add(table.active);
                kept.all = kept.all.saturating_add(table.all);
                kept.index = kept.index.or(table.index);
            }
            same
        });
    }

    /// Reads all L2 tables, several at a time where they lie side by side.
    pub(super) fn for_each_content(
        &self,
        structure: &Structure<'_>,
        mut see: impl FnMut(&L2Table, &[U64]) -> Result<()>,
    ) -> Result<()> {
        let size = structure.geometry().cluster_size();
        let mut buffer = memory::zeroed((size as usize).max(PIECE))?;
        let together = buffer.len() / size as usize;
        let mut rest = self.tables.as_slice();
        while let Some(first) = rest.first() {
            let beside =
                |(index, table): &(usize, &L2Table)| table.offset == first.offset + *index as u64 * size;
            let count = rest.iter().take(together).enumerate().take_while(beside).count();
            let bytes = &mut buffer[..count * size as usize];
            read_padded(structure.file, bytes, first.offset)?;
            for (table, content) in rest.iter().zip(bytes.chunks_exact(size as usize)) {
                see(table, <[U64]>::ref_from_bytes(content).unwrap_or_default())?;
            }
            rest = &rest[count..];
        }
        Ok(())
    }
}

/// Whether an entry describes a whole cluster of its own and nothing is wrong with it. `bitmap` is its second
/// word, 0 if it has none.
fn is_plain(entry: u64, bitmap: u64, offset_mask: u64) -> bool {
    let offset = entry & l2::OFFSET;
    entry & (l2::COMPRESSED | l2::RESERVED) == 0
        && offset != 0
        && offset & offset_mask == 0
        && bitmap >> 32 & bitmap == 0
}

impl Tally<'_> {
    /// Counts what an L2 table refers to, and looks at every entry.
    pub(super) fn check_l2_table(&mut self, table: &L2Table, words: &[U64]) -> Result<()> {
        let geometry = *self.structure.geometry();
        let step = (geometry.l2_entry_size() / 8) as usize;
        let at = |index: usize| match words.get(index * step..index * step + step) {
            Some([entry]) => Some((entry.get(), 0)),
            Some([entry, bitmap]) => Some((entry.get(), bitmap.get())),
            _ => None,
        };
        let mut index = 0;
        let mut behind_last = 0;
        while let Some((entry, bitmap)) = at(index) {
            if entry == 0 && bitmap == 0 {
                index += 1;
                continue;
            }
            if !is_plain(entry, bitmap, geometry.cluster_size() - 1) {
                self.check_odd_entry(table, index as u64, entry, bitmap, &mut behind_last)?;
                index += 1;
                continue;
            }
            // A run: neighbours that lie side by side and have the same flags differ by one cluster.
            let first = index;
            let mut expected = entry.wrapping_add(geometry.cluster_size());
            index += 1;
            if step == 1 {
                let follows = |word: &&U64| {
                    let follows = word.get() == expected;
                    expected = expected.wrapping_add(geometry.cluster_size());
                    follows
                };
                index += words[index..].iter().take_while(follows).count();
            } else {
                while at(index).is_some_and(|(next, map)| next == expected && map >> 32 & map == 0) {
                    expected = expected.wrapping_add(geometry.cluster_size());
                    index += 1;
                }
            }
            let offset = entry & l2::OFFSET;
            let count = (index - first) as u64;
            let fragment = u64::from(behind_last != 0 && behind_last != offset);
            self.count_guest_clusters(table, count, fragment);
            behind_last = offset.wrapping_add(count << geometry.cluster_bits);
            self.check_run(table, first as u64, entry, count)?;
        }
        Ok(())
    }

    fn count_guest_clusters(&mut self, table: &L2Table, clusters: u64, fragments: u64) {
        self.report.allocated_clusters += clusters * u64::from(table.active);
        self.report.fragmented_clusters += fragments * u64::from(table.active);
    }

    /// `count` plain entries that lie side by side.
    fn check_run(&mut self, table: &L2Table, index: u64, entry: u64, count: u64) -> Result<()> {
        let first = (entry & l2::OFFSET) >> self.structure.geometry().cluster_bits;
        if !self.data_file {
            self.count_data(table, index, first..first + count)?;
        }
        self.check_copied(table, index, entry, count)
    }

    /// An entry that is compressed, empty or wrong.
    fn check_odd_entry(
        &mut self,
        table: &L2Table,
        index: u64,
        entry: u64,
        bitmap: u64,
        behind_last: &mut u64,
    ) -> Result<()> {
        let geometry = *self.structure.geometry();
        let times = u64::from(table.all);
        let place = table.offset + index * geometry.l2_entry_size();
        let data_file = self.data_file;
        let told = |problem: &str| {
            format!("entry {index} ({entry:#018x}) of the L2 table at {:#x} {problem}", table.offset)
        };
        if entry & l2::COMPRESSED != 0 && entry & l2::COPIED != 0 {
            self.report.add(CheckProblemKind::CopiedFlag, times, Some(place), 0, || {
                told("is compressed and has the flag for a refcount of 1")
            });
        }
        let mut invalid = |problem: &str| self.report.invalid(times, place, || told(problem));
        if entry & l2::COMPRESSED != 0 {
            if data_file {
                invalid("is compressed in an image with a data file");
                return Ok(());
            }
            if bitmap != 0 {
                invalid("is compressed and has subclusters");
                return Ok(());
            }
            self.count_guest_clusters(table, 1, 1);
            self.report.compressed_clusters += u64::from(table.active);
            return self.count_compressed(table, index, l2::host_range(entry, &geometry));
        }
        let offset = entry & l2::OFFSET;
        if entry & l2::RESERVED != 0 {
            invalid("has reserved bits set");
        }
        let is_zero = entry & l2::ZERO != 0 && !geometry.extended_l2;
        if offset == 0 && (is_zero || !data_file || entry & l2::COPIED == 0) {
            if !is_zero && bitmap as u32 != 0 {
                invalid("has subclusters but no cluster");
            }
            return Ok(());
        }
        if bitmap >> 32 & bitmap != 0 {
            invalid("has subclusters that are both data and zero");
        }
        let aligned = geometry.is_aligned(offset);
        if !aligned {
            invalid("points to no cluster's start");
        }
        let fragment = u64::from(*behind_last != 0 && *behind_last != offset);
        self.count_guest_clusters(table, 1, fragment);
        *behind_last = offset + geometry.cluster_size();
        if aligned {
            return self.check_run(table, index, entry, 1);
        }
        if !data_file {
            // It reaches into two clusters.
            self.count_unaligned(table, index, offset)?;
        }
        self.check_copied(table, index, entry, 1)
    }
}
