//! The sums: references are counted, owned clusters remembered, and both compared with the refcounts.

use std::{collections::BTreeSet, ops::Range};

use super::{
    super::{budget::Budget, overlap::Owner},
    CheckProblemKind as Kind, CheckReport,
    counts::{Bits, Counts},
    read::span,
    refcounts::Refcounts,
    structure::{Claimant, Structure, Visitor},
    tables::{L2Table, L2Tables},
};
use crate::{
    error::{Error, Result},
    format::{
        header::incompatible,
        l2,
        refcount::{self, largest},
    },
};

/// So many clusters are looked at more closely for who lies on whom.
const MAX_SUSPECTS: usize = 256;

/// A check under way.
#[derive(Debug)]
pub(super) struct Tally<'a> {
    pub(super) structure: &'a Structure<'a>,
    pub(super) report: CheckReport,
    /// Guest data lies in another file.
    pub(super) data_file: bool,
    /// A refcount is lower than the references that it could hold, or cannot be read.
    pub(super) too_low: bool,
    /// A file that grows beyond this offset comes to hold, as zeros, what something refers to behind its end.
    pub(super) growth_limit: u64,
    /// Where in the file the first thing begins that ends too far behind it to be counted.
    pub(super) reaches_out: u64,
    pub(super) refcounts: Refcounts<'a>,
    /// Clusters of the file, the last one perhaps cut short.
    clusters: u64,
    /// References of each cluster, and of one behind the end: what begins in the file may reach into it.
    pub(super) counts: Counts,
    /// Clusters that have an owner other than guest data.
    owned: Bits,
    /// Clusters that two have a claim on, perhaps.
    suspects: BTreeSet<u64>,
}

impl<'a> Tally<'a> {
    pub(super) fn new(
        structure: &'a Structure<'a>,
        refcounts: Refcounts<'a>,
        clusters: u64,
        budget: &Budget,
        report: CheckReport,
    ) -> Result<Self> {
        Ok(Tally {
            structure,
            report,
            data_file: structure.header.has(incompatible::DATA_FILE),
            too_low: false,
            growth_limit: u64::MAX,
            reaches_out: structure.length,
            refcounts,
            clusters,
            counts: Counts::new(clusters + 1, budget)?,
            owned: Bits::new(clusters + 1, budget)?,
            suspects: BTreeSet::new(),
        })
    }

    /// Counts everything but refcount blocks; with an empty refcount table it is as if there were none.
    pub(super) fn count(&mut self, tables: &L2Tables, refcount_table: &[u64]) -> Result<()> {
        let structure = self.structure;
        structure.visit(tables, refcount_table, self)?;
        tables.for_each_content(structure, |table, words| self.check_l2_table(table, words))
    }

    /// Counts the refcount blocks, when all that refers to them by mistake is counted.
    pub(super) fn count_blocks(&mut self) -> Result<()> {
        let geometry = *self.structure.geometry();
        for (index, entry) in self.refcounts.table().iter().enumerate() {
            if let Ok(Some(offset)) = refcount::block_offset(*entry, index, &geometry) {
                self.check_block(span(offset, geometry.cluster_size()), index as u32)?;
            }
        }
        Ok(())
    }

    /// What was found, and the clusters that may have two owners.
    pub(super) fn finish(self) -> (CheckReport, BTreeSet<u64>) {
        (self.report, self.suspects)
    }

    fn clusters_of(&self, host: &Range<u64>) -> Range<u64> {
        let bits = self.structure.geometry().cluster_bits;
        host.start >> bits..((host.end - 1) >> bits) + 1
    }

    fn suspect(&mut self, cluster: u64) {
        if self.suspects.len() < MAX_SUSPECTS {
            self.suspects.insert(cluster);
        }
    }

    /// Whether a range may be referred to: the file's last cluster may be cut short, but no more.
    fn is_inside(&self, host: &Range<u64>) -> bool {
        host.end.saturating_sub(self.structure.length) < self.structure.geometry().cluster_size()
    }

    fn report_outside(&mut self, host: &Range<u64>, owner: Claimant, times: u64) {
        let structure = self.structure;
        self.growth_limit = self.growth_limit.min(host.start);
        self.reaches_out = self.reaches_out.min(host.start);
        self.report.add(Kind::OutsideFile, times, Some(host.start), 0, || {
            let (owner, end) = (structure.describe(owner), structure.end);
            format!(
                "{owner} ({:#x} to {:#x}) lies behind the end of the file at {end:#x}",
                host.start, host.end
            )
        });
    }

    /// Counts references to the clusters of a range.
    fn refer(&mut self, host: Range<u64>, owner: Claimant, weight: u32) -> Result<()> {
        if !self.is_inside(&host) {
            self.report_outside(&host, owner, weight.into());
            return Ok(());
        }
        self.counts.add(self.clusters_of(&host), weight)
    }

    /// Remembers the owner's clusters, and suspects those that have another.
    fn claim(&mut self, host: &Range<u64>, owner: Claimant) {
        if !self.is_inside(host) {
            return;
        }
        // The header's own cluster may end early, and data of a bitmap that does not fill its last cluster.
        let may_end_early = matches!(owner, Claimant::Metadata(Owner::Header) | Claimant::BitmapData(_));
        if host.end > self.structure.length && !may_end_early {
            let structure = self.structure;
            self.growth_limit = 0;
            self.report.add(Kind::CutShort, 1, Some(host.start), 0, || {
                let (owner, end) = (structure.describe(owner), structure.end);
                format!("{owner} (at {:#x}) is cut short by the end of the file at {end:#x}", host.start)
            });
        }
        let clusters = self.clusters_of(host);
        self.suspect_owned(clusters.clone());
        self.owned.set(clusters);
    }

    fn suspect_owned(&mut self, clusters: Range<u64>) {
        if self.owned.any(clusters.clone()) {
            for cluster in clusters {
                if self.owned.any(cluster..cluster + 1) {
                    self.suspect(cluster);
                }
            }
        }
    }

    /// Counts whole clusters of guest data that lie side by side; the first is that of entry `index`.
    pub(super) fn count_data(&mut self, table: &L2Table, index: u64, clusters: Range<u64>) -> Result<()> {
        let end = clusters.end.min(self.clusters);
        if clusters.start < end {
            self.counts.add(clusters.start..end, table.all)?;
            self.suspect_owned(clusters.start..end);
        }
        let bits = self.structure.geometry().cluster_bits;
        for cluster in clusters.start.max(end)..clusters.end {
            let index = index + (cluster - clusters.start);
            let owner = Claimant::Guest { table: *table, index, compressed: false };
            self.report_outside(&(cluster << bits..(cluster + 1) << bits), owner, table.all.into());
        }
        Ok(())
    }

    /// Counts the clusters that a compressed cluster touches.
    pub(super) fn count_compressed(&mut self, table: &L2Table, index: u64, host: Range<u64>) -> Result<()> {
        self.count_bytes(Claimant::Guest { table: *table, index, compressed: true }, table, host)
    }

    /// Counts the two clusters that a misplaced one reaches into.
    pub(super) fn count_unaligned(&mut self, table: &L2Table, index: u64, offset: u64) -> Result<()> {
        let host = offset..offset + self.structure.geometry().cluster_size();
        self.count_bytes(Claimant::Guest { table: *table, index, compressed: false }, table, host)
    }

    fn count_bytes(&mut self, owner: Claimant, table: &L2Table, host: Range<u64>) -> Result<()> {
        if self.is_inside(&host) {
            self.suspect_owned(self.clusters_of(&host));
        }
        self.refer(host, owner, table.all)
    }

    /// Compares the flag that promises a refcount of 1 with the refcounts of `count` clusters side by side.
    /// Only the active tables keep it up to date.
    pub(super) fn check_copied(&mut self, table: &L2Table, index: u64, entry: u64, count: u64) -> Result<()> {
        let geometry = *self.structure.geometry();
        // QEMU looks into no table that has no refcount itself.
        if table.active == 0 || self.refcounts.is_unreadable(table.offset >> geometry.cluster_bits) {
            return Ok(());
        }
        let copied = entry & l2::COPIED != 0;
        let first = (entry & l2::OFFSET) >> geometry.cluster_bits;
        let clusters = first..first + count;
        let known = clusters.end <= self.clusters && !self.data_file;
        let once = self.refcounts.once();
        if known && (copied && once.all(clusters.clone()) || !copied && !once.any(clusters.clone())) {
            return Ok(());
        }
        for cluster in clusters {
            let refcount = if self.data_file { Some(1) } else { self.refcounts.get(cluster)? };
            let Some(refcount) = refcount.filter(|refcount| (*refcount == 1) != copied) else { continue };
            let index = index + (cluster - first);
            let at = table.offset + index * geometry.l2_entry_size();
            self.report.add(Kind::CopiedFlag, table.active.into(), Some(at), 0, || {
                let flag = if copied { "set" } else { "clear" };
                let place = format!("entry {index} of the L2 table at {:#x}", table.offset);
                format!("{place} has the flag for a refcount of 1 {flag}, but the refcount is {refcount}")
            });
        }
        Ok(())
    }

    /// A refcount block: it must be in the file and refer to itself alone.
    fn check_block(&mut self, host: Range<u64>, index: u32) -> Result<()> {
        let owner = Claimant::Metadata(Owner::RefcountBlock(index));
        let cluster = host.start >> self.structure.geometry().cluster_bits;
        if cluster >= self.checked_clusters() {
            self.report_outside(&host, owner, 1);
            return Ok(());
        }
        self.refer(host.clone(), owner, 1)?;
        let references = self.counts.get(cluster).min(largest(self.structure.geometry().refcount_order));
        if references != 1 {
            self.report.invalid(1, host.start, || {
                format!("refcount block {index} (at {:#x}) has {references} references", host.start)
            });
        }
        Ok(())
    }

    /// The clusters of the file, and the one behind if something reaches into it.
    pub(super) fn checked_clusters(&self) -> u64 {
        self.clusters + u64::from(self.counts.get(self.clusters) > 0)
    }

    /// Compares all references with the refcounts.
    pub(super) fn compare(&mut self) -> Result<()> {
        let clusters = self.checked_clusters();
        let mut highest = 0;
        let mut run = Run::default();
        for first in (0..clusters).step_by(64) {
            let behind = clusters.min(first + 64);
            if behind - first == 64 && behind <= self.clusters {
                if self.refcounts.once().group(first) == u64::MAX && self.counts.group_is(first, 1) {
                    highest = behind - 1;
                    continue;
                }
                if self.refcounts.is_missing(first) && self.counts.group_is(first, 0) {
                    continue;
                }
            }
            for cluster in first..behind {
                if self.compare_cluster(cluster, &mut run)? {
                    highest = cluster;
                }
            }
        }
        self.end_run(&mut run);
        self.report.image_end_offset = (highest + 1) << self.structure.geometry().cluster_bits;
        Ok(())
    }

    /// Whether the cluster is in use.
    fn compare_cluster(&mut self, cluster: u64, run: &mut Run) -> Result<bool> {
        let most = largest(self.structure.geometry().refcount_order);
        let counted = self.counts.get(cluster);
        let references = counted.min(most);
        if counted > most {
            let at = cluster << self.structure.geometry().cluster_bits;
            self.report.add(Kind::RefcountTooLow, counted - most, Some(at), 1, || {
                format!("the cluster at {at:#x} has {counted} references, more than a refcount can hold")
            });
            self.suspect(cluster);
        }
        let refcount = self.refcounts.get(cluster)?;
        let agrees = refcount == Some(references)
            || (references == Counts::MOST && refcount.is_some_and(|count| count >= Counts::MOST));
        if !agrees {
            if references > 1 && refcount.is_some_and(|count| count < references) {
                self.suspect(cluster);
            }
            if !run.is_continued_by(cluster, refcount, references) {
                self.end_run(run);
                *run = Run { start: cluster, length: 0, refcount, references };
            }
            run.length += 1;
        }
        Ok(refcount.is_some_and(|refcount| refcount > 0 || references > 0))
    }

    fn end_run(&mut self, run: &mut Run) {
        let Run { start, length, refcount, references } = std::mem::take(run);
        if length == 0 {
            return;
        }
        let at = start << self.structure.geometry().cluster_bits;
        let kind = match refcount {
            None => Kind::NoRefcount,
            Some(refcount) if refcount < references => Kind::RefcountTooLow,
            Some(_) => Kind::Leak,
        };
        self.too_low |= kind != Kind::Leak;
        self.report.add(kind, length, Some(at), length, || {
            let what = match length {
                1 => format!("the cluster at {at:#x} has"),
                _ => format!("{length} clusters from {at:#x} on have"),
            };
            match refcount {
                None => format!("{what} no readable refcount"),
                Some(refcount) => format!("{what} refcount {refcount} and {references} references"),
            }
        });
    }
}

/// Clusters side by side with the same wrong refcount.
#[derive(Debug, Default)]
struct Run {
    start: u64,
    length: u64,
    refcount: Option<u64>,
    references: u64,
}

impl Run {
    fn is_continued_by(&self, cluster: u64, refcount: Option<u64>, references: u64) -> bool {
        // What is unreadable stays so whatever refers to it.
        let alike = self.refcount == refcount && (self.references == references || refcount.is_none());
        self.length > 0 && self.start + self.length == cluster && alike
    }
}

impl Visitor for Tally<'_> {
    fn part(&mut self, host: Range<u64>, owner: Claimant, weight: u32) -> Result<()> {
        self.claim(&host, owner);
        match owner {
            // Counted last, by `count_blocks`.
            Claimant::Metadata(Owner::RefcountBlock(_)) => Ok(()),
            _ => self.refer(host, owner, weight),
        }
    }

    fn invalid(&mut self, at: u64, error: &Error) {
        self.report.invalid(1, at, || error.to_string());
    }
}
