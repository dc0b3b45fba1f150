//! L2 tables in memory: a small direct-mapped cache of table slices.

use std::sync::{Arc, Mutex, PoisonError};

use super::budget::{Budget, Grant};
use crate::{error::Result, format::geometry::Geometry, storage::File};

/// L2 tables are read in slices of at most this size.
const MAX_SLICE: u64 = 64 << 10;

/// Slices of L2 tables, each in the one slot that its place decides.
#[derive(Debug)]
pub(crate) struct L2Cache {
    slots: Vec<Mutex<Option<Slice>>>,
    slice_bytes: u64,
    _grant: Grant,
}

#[derive(Debug)]
struct Slice {
    host: u64,
    bytes: Arc<Vec<u8>>,
}

impl L2Cache {
    pub(crate) fn new(geometry: &Geometry, budget: &Budget) -> Result<Self> {
        let slice_bytes = geometry.cluster_size().min(MAX_SLICE);
        let total = (budget.limit() / 128).max(2 * slice_bytes);
        let grant = budget.grant(total, "L2 cache")?;
        let slots = (0..total / slice_bytes).map(|_| Mutex::new(None)).collect();
        Ok(L2Cache { slots, slice_bytes, _grant: grant })
    }

    /// Entries in one slice.
    pub(crate) fn slice_entries(&self, geometry: &Geometry) -> u64 {
        self.slice_bytes / geometry.l2_entry_size()
    }

    /// Slice `index` of the L2 table at `table`.
    pub(crate) fn slice(&self, file: &File, table: u64, index: u64) -> Result<Arc<Vec<u8>>> {
        let host = table + index * self.slice_bytes;
        let slot = &self.slots[(host / self.slice_bytes % self.slots.len() as u64) as usize];
        if let Some(slice) = &*slot.lock().unwrap_or_else(PoisonError::into_inner)
            && slice.host == host
        {
            return Ok(slice.bytes.clone());
        }
        let mut bytes = vec![0; self.slice_bytes as usize];
        file.read_exact(&mut bytes, host, "L2 table")?;
        let bytes = Arc::new(bytes);
        *slot.lock().unwrap_or_else(PoisonError::into_inner) = Some(Slice { host, bytes: bytes.clone() });
        Ok(bytes)
    }
}
