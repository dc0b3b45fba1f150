//! Reading refcounts.

use super::Qcow2;
use crate::{error::Result, format::refcount, memory};

impl Qcow2 {
    /// Refcount of the host cluster at `offset`.
    pub(crate) fn refcount(&self, offset: u64) -> Result<u64> {
        let geometry = self.geometry();
        let cluster = offset >> geometry.cluster_bits;
        let (table, entry) =
            (cluster / geometry.refcount_block_entries(), cluster % geometry.refcount_block_entries());
        let block = match self.refcount_table.get(table as usize) {
            Some(entry) => refcount::block_offset(*entry, table as usize, geometry)?,
            None => None,
        };
        let Some(block) = block else { return Ok(0) };
        // Eight neighbours share a byte-aligned group, whatever the width.
        let group = entry / 8;
        let mut bytes = [0; 64];
        let bytes = &mut bytes[..1 << geometry.refcount_order];
        self.file.read_exact(bytes, block + group * bytes.len() as u64, "refcount block")?;
        Ok(refcount::get(bytes, geometry.refcount_order, (entry % 8) as usize))
    }

    /// Whether much more is allocated in the image than the file system has stored: then data clusters may be
    /// holes. Decides as QEMU does, so that maps agree: the file's allocation is compared with the number of
    /// clusters that are in use.
    pub(super) fn is_preallocated(&self) -> Result<bool> {
        if let Some(known) = self.preallocated.get() {
            return Ok(*known);
        }
        let geometry = self.geometry();
        let stored = self.file.allocated()? >> geometry.cluster_bits;
        let cutoff = (stored.saturating_mul(10) / 9).max(stored + 2);
        let clusters = geometry.clusters_for(self.file.len()?);
        let found = if clusters < cutoff { false } else { self.has_used_clusters(clusters, cutoff)? };
        Ok(*self.preallocated.get_or_init(|| found))
    }

    /// Whether at least `cutoff` of the first `clusters` host clusters have a refcount.
    fn has_used_clusters(&self, clusters: u64, cutoff: u64) -> Result<bool> {
        let geometry = self.geometry();
        let per_block = geometry.refcount_block_entries();
        let mut block = memory::zeroed(geometry.cluster_size() as usize)?;
        let mut used = 0;
        for (index, entry) in
            self.refcount_table.iter().enumerate().take(clusters.div_ceil(per_block) as usize)
        {
            let Some(at) = refcount::block_offset(*entry, index, geometry)? else { continue };
            self.file.read_exact(&mut block, at, "refcount block")?;
            let count = per_block.min(clusters - index as u64 * per_block) as usize;
            used +=
                (0..count).filter(|i| refcount::get(&block, geometry.refcount_order, *i) != 0).count() as u64;
            if used >= cutoff {
                return Ok(true);
            }
        }
        Ok(false)
    }
}
