//! The refcounts of an image, read in the plainest way.

/// Of each cluster that a refcount block exists for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Refcounts {
    pub counts: Vec<u64>,
    /// Entries of the table that name a block.
    pub blocks: usize,
    pub table_offset: u64,
}

impl Refcounts {
    pub fn of(image: &[u8]) -> Self {
        let u32_at = |at: usize| u32::from_be_bytes(image[at..at + 4].try_into().unwrap());
        let u64_at = |at: usize| u64::from_be_bytes(image[at..at + 8].try_into().unwrap());
        let cluster = 1_usize << u32_at(20);
        let bits = 1_usize << u32_at(96);
        let (table_offset, table_clusters) = (u64_at(48), u32_at(56) as usize);
        let mut found = Refcounts { table_offset, ..Refcounts::default() };
        for index in 0..table_clusters * cluster / 8 {
            let block = u64_at(table_offset as usize + index * 8) as usize;
            if block == 0 {
                continue;
            }
            found.blocks += 1;
            found.counts.resize(index * cluster * 8 / bits, 0);
            for entry in 0..cluster * 8 / bits {
                let at = entry * bits;
                let count = match bits {
                    64 => u64_at(block + at / 8),
                    32 => u32_at(block + at / 8).into(),
                    16 => u16::from_be_bytes([image[block + at / 8], image[block + at / 8 + 1]]).into(),
                    _ => u64::from(image[block + at / 8]) >> (at % 8) & ((1 << bits) - 1),
                };
                found.counts.push(count);
            }
        }
        found
    }

    pub fn get(&self, cluster: usize) -> u64 {
        self.counts.get(cluster).copied().unwrap_or(0)
    }

    /// How many clusters are free as far as the blocks go.
    pub fn free(&self) -> usize {
        self.counts.iter().filter(|count| **count == 0).count()
    }

    /// The same, as far as a number of clusters.
    pub fn free_below(&self, clusters: usize) -> usize {
        (0..clusters).filter(|cluster| self.get(*cluster) == 0).count()
    }

    /// Whether nothing has a lower count here than in `needed`, and nothing a higher one than in either.
    pub fn are_between(&self, needed: &Refcounts, other: &Refcounts) -> Result<(), String> {
        let clusters = self.counts.len().max(needed.counts.len()).max(other.counts.len());
        for cluster in 0..clusters {
            let (is, low) = (self.get(cluster), needed.get(cluster));
            let high = low.max(other.get(cluster));
            if !(low..=high).contains(&is) {
                return Err(format!("cluster {cluster} has refcount {is}, not {low} to {high}"));
            }
        }
        Ok(())
    }
}
