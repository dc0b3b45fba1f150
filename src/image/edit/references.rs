//! How often each host cluster is referred to, whatever the refcounts say.

use std::{collections::HashSet, ops::Range};

use crate::{
    error::{ErrorKind, Result},
    format::{
        bitmap::{TableEntry, decode_table_entry},
        corrupt,
        geometry::Geometry,
    },
    image::{
        Budget, Qcow2,
        check::{Bits, Counts},
        for_each_metadata_range, read_table,
    },
    memory,
};

/// Counting takes one or two bytes for each cluster of the file, far more than reading its tables: so many times the memory
/// that those may take.
const SHARE_OF_COUNTS: u64 = 16;

/// What a number in a set takes at most.
const SET_ENTRY: u64 = 40;

/// The references to each cluster of the file, and to those behind its end that are in use by now.
#[derive(Debug)]
pub(crate) struct References {
    counts: Counts,
    /// Clusters behind the end of the file that a broken bitmap refers to.
    beyond: HashSet<u64>,
    geometry: Geometry,
}

impl References {
    /// Walks everything in the image. Guest data on metadata or behind the end of the file is an error; other
    /// sharing is counted.
    pub(crate) fn collect(image: &Qcow2) -> Result<Self> {
        let geometry = *image.geometry();
        let length = image.file().len()?;
        let clusters = geometry.clusters_for(length) + 1;
        let budget = Budget::new(image.budget().limit().saturating_mul(SHARE_OF_COUNTS));
        let counts = Counts::new(clusters, &budget)?;
        let mut references = References { counts, beyond: HashSet::new(), geometry };

        let mut metadata = Bits::new(clusters, &budget)?;
        let mut full = Ok(());
        for_each_metadata_range(image, |range, _| {
            metadata.set(references.inside(&range));
            full = std::mem::replace(&mut full, Ok(())).and(references.add(range, 1));
        })?;
        full?;
        let (mut wrong, mut full) = (None, Ok(()));
        image.for_each_data_range(0..u64::MAX, |range, times| {
            let last = range.end.saturating_sub(geometry.cluster_size()).max(range.start);
            if last >= length {
                wrong = wrong.take().or(Some((last, "behind the end of the file".to_owned())));
            } else if metadata.any(references.inside(&range)) && wrong.is_none() {
                let shared = references.inside(&range).find(|cluster| metadata.any(*cluster..cluster + 1));
                let start = shared.map_or(0, |cluster| cluster << geometry.cluster_bits);
                let place = image.describe_metadata(&(start..start + geometry.cluster_size()));
                wrong = Some((range.start.max(start), place));
            }
            full = std::mem::replace(&mut full, Ok(())).and(references.add(range, times));
        })?;
        full?;
        if let Some((offset, place)) = wrong {
            let text =
                format!("guest data at {offset:#x} lies {place}; repair the image before it is changed");
            return Err(corrupt(text));
        }
        references.add_bitmaps(image)?;
        Ok(references)
    }

    /// Bitmaps that are broken themselves keep what can be read of them.
    fn add_bitmaps(&mut self, image: &Qcow2) -> Result<()> {
        if !image.header().bitmaps_are_current() {
            return Ok(());
        }
        for entry in image.bitmaps() {
            let bytes = u64::from(entry.table_entries) * 8;
            let Some(end) = entry.table_offset.checked_add(bytes) else { continue };
            self.add(entry.table_offset..end, 1)?;
            let mut grants = Vec::new();
            let table = read_table(
                image.file(),
                entry.table_offset,
                bytes,
                "bitmap table",
                image.budget(),
                &mut grants,
            );
            let table = match table {
                Ok(table) => table,
                Err(e) if e.kind() == ErrorKind::Corrupt => continue,
                Err(e) => return Err(e),
            };
            for word in table {
                if let Ok(TableEntry::Data { host }) = decode_table_entry(word, &self.geometry) {
                    self.add(host..host.saturating_add(self.geometry.cluster_size()), 1)?;
                }
            }
        }
        Ok(())
    }

    fn clusters_of(&self, range: &Range<u64>) -> Range<u64> {
        range.start >> self.geometry.cluster_bits..range.end.div_ceil(self.geometry.cluster_size())
    }

    /// The same, but for those behind the end of the file.
    fn inside(&self, range: &Range<u64>) -> Range<u64> {
        let clusters = self.clusters_of(range);
        clusters.start.min(self.counts.len())..clusters.end.min(self.counts.len())
    }

    fn add(&mut self, range: Range<u64>, times: u32) -> Result<()> {
        let clusters = self.clusters_of(&range);
        let known = self.counts.len();
        if clusters.end > known {
            let beyond = clusters.start.max(known)..clusters.end;
            memory::ensure((beyond.end - beyond.start).saturating_mul(SET_ENTRY) as usize)?;
            self.beyond.extend(beyond);
        }
        let inside = self.inside(&range);
        if inside.is_empty() { Ok(()) } else { self.counts.add(inside, times) }
    }

    /// How many clusters are counted; all of the file's.
    pub(super) fn len(&self) -> u64 {
        self.counts.len()
    }

    /// How often a cluster is referred to.
    pub(crate) fn get(&self, cluster: u64) -> u64 {
        if cluster < self.counts.len() {
            return self.counts.get(cluster);
        }
        u64::from(self.beyond.contains(&cluster))
    }

    /// The first cluster from `from` on that nothing refers to.
    pub(crate) fn next_free(&self, from: u64) -> u64 {
        let mut at = self.counts.next_zero(from);
        while self.beyond.contains(&at) {
            at = self.counts.next_zero(at + 1);
        }
        at
    }

    /// Counts a reference to clusters that were free.
    pub(crate) fn take(&mut self, clusters: Range<u64>) -> Result<()> {
        if clusters.end > self.counts.len() {
            self.counts.grow(clusters.end + clusters.end / 8)?;
            let known = self.counts.len();
            for cluster in memory::collected(self.beyond.extract_if(|cluster| *cluster < known))? {
                self.counts.add(cluster..cluster + 1, 1)?;
            }
        }
        self.counts.add(clusters, 1)
    }

    /// Forgets one reference to a cluster; returns how many are left.
    pub(crate) fn drop_one(&mut self, cluster: u64) -> u64 {
        if cluster < self.counts.len() { self.counts.subtract_one(cluster) } else { self.get(cluster) }
    }
}
