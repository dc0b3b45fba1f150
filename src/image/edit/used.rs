//! Which host clusters something refers to, whatever the refcounts say.

use std::{collections::HashSet, ops::Range};

use crate::{
    error::{ErrorKind, Result},
    format::{
        bitmap::{TableEntry, decode_table_entry},
        corrupt,
        geometry::Geometry,
    },
    image::{Qcow2, budget::Grant, for_each_metadata_range, read_table},
};

/// For each cluster of the file: referred to never, once, or more often.
#[derive(Debug)]
pub(crate) struct UsedClusters {
    once: Vec<u64>,
    more: Vec<u64>,
    /// Clusters behind the end of the file that a broken bitmap refers to.
    beyond: HashSet<u64>,
    geometry: Geometry,
    _grant: Grant,
}

impl UsedClusters {
    /// Walks everything in the image. Guest data or a bitmap on metadata is an error; other sharing is
    /// remembered.
    pub(crate) fn collect(image: &Qcow2) -> Result<Self> {
        let geometry = *image.geometry();
        let length = image.file().len()?;
        let words = (geometry.clusters_for(length) / 64 + 1) as usize;
        let grant = image.budget().grant(words as u64 * 16, "map of used clusters")?;
        let mut used = UsedClusters {
            once: vec![0; words],
            more: vec![0; words],
            beyond: HashSet::new(),
            geometry,
            _grant: grant,
        };

        for_each_metadata_range(image, |range, _| used.add(range))?;
        let metadata = used.once.clone();
        let mut wrong = None;
        image.for_each_data_range(0..u64::MAX, |range| {
            if range.start >= length {
                wrong = wrong.or(Some((range.start, "behind the end of the file")));
            } else if used.touches(&metadata, &range) {
                wrong = wrong.or(Some((range.start, "on metadata")));
            }
            used.add(range);
        })?;
        if let Some((offset, place)) = wrong {
            let text =
                format!("guest data at {offset:#x} lies {place}; repair the image before it is changed");
            return Err(corrupt(text));
        }
        used.add_bitmaps(image)?;
        Ok(used)
    }

    /// Bitmaps that are broken themselves keep what can be read of them.
    fn add_bitmaps(&mut self, image: &Qcow2) -> Result<()> {
        if !image.header().bitmaps_are_current() {
            return Ok(());
        }
        for entry in image.bitmaps() {
            let bytes = u64::from(entry.table_entries) * 8;
            let Some(end) = entry.table_offset.checked_add(bytes) else { continue };
            self.add(entry.table_offset..end);
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
                    self.add(host..host.saturating_add(self.geometry.cluster_size()));
                }
            }
        }
        Ok(())
    }

    fn clusters(&self, range: &Range<u64>) -> Range<u64> {
        range.start >> self.geometry.cluster_bits..range.end.div_ceil(self.geometry.cluster_size())
    }

    fn add(&mut self, range: Range<u64>) {
        for cluster in self.clusters(&range) {
            let (word, bit) = ((cluster / 64) as usize, 1 << (cluster % 64));
            match self.once.get_mut(word) {
                Some(once) => {
                    self.more[word] |= *once & bit;
                    *once |= bit;
                }
                None => drop(self.beyond.insert(cluster)),
            }
        }
    }

    fn touches(&self, set: &[u64], range: &Range<u64>) -> bool {
        self.clusters(range).any(|c| set.get((c / 64) as usize).is_some_and(|word| word >> (c % 64) & 1 == 1))
    }

    /// Nothing refers to the cluster.
    pub(crate) fn is_free(&self, cluster: u64) -> bool {
        let once = self.once.get((cluster / 64) as usize);
        once.is_none_or(|word| word >> (cluster % 64) & 1 == 0) && !self.beyond.contains(&cluster)
    }

    /// At most one thing refers to the cluster.
    pub(crate) fn is_exclusive(&self, cluster: u64) -> bool {
        self.more.get((cluster / 64) as usize).is_none_or(|word| word >> (cluster % 64) & 1 == 0)
    }

    /// Remembers a cluster that was handed out.
    pub(crate) fn take(&mut self, cluster: u64) {
        let words = (cluster / 64) as usize + 1;
        if self.once.len() < words {
            self.once.resize(words, 0);
            self.more.resize(words, 0);
        }
        self.once[words - 1] |= 1 << (cluster % 64);
    }
}
