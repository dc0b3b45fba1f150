//! L2 tables in memory: a small direct-mapped cache of table slices, and those that guest writes have changed.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError, RwLock},
};

use super::budget::{Budget, Grant};
use crate::{error::Result, format::geometry::Geometry, memory, storage::File};

/// L2 tables are read in slices of at most this size.
const MAX_SLICE: u64 = 64 << 10;

/// Slices of L2 tables, each in the one slot that its place decides.
#[derive(Debug)]
pub(crate) struct L2Cache {
    slots: Vec<Mutex<Option<Slice>>>,
    /// By their offset, those that differ from the file. They stay until they were written.
    changed: RwLock<BTreeMap<u64, Arc<Vec<u8>>>>,
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
        Ok(L2Cache { slots, changed: RwLock::default(), slice_bytes, _grant: grant })
    }

    /// Entries in one slice.
    pub(crate) fn slice_entries(&self, geometry: &Geometry) -> u64 {
        self.slice_bytes / geometry.l2_entry_size()
    }

    /// Slice `index` of the L2 table at `table`.
    pub(crate) fn slice(&self, file: &File, table: u64, index: u64) -> Result<Arc<Vec<u8>>> {
        let host = table + index * self.slice_bytes;
        if let Some(bytes) = self.changed.read().unwrap_or_else(PoisonError::into_inner).get(&host) {
            return Ok(bytes.clone());
        }
        // Held while the file is read: what was read before a change must not replace what the change left here.
        let mut slot = self.slot(host).lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(slice) = &*slot
            && slice.host == host
        {
            return Ok(slice.bytes.clone());
        }
        let mut bytes = memory::zeroed(self.slice_bytes as usize)?;
        file.read_exact(&mut bytes, host, "L2 table")?;
        let bytes = Arc::new(bytes);
        *slot = Some(Slice { host, bytes: bytes.clone() });
        Ok(bytes)
    }

    fn slot(&self, host: u64) -> &Mutex<Option<Slice>> {
        &self.slots[(host / self.slice_bytes % self.slots.len() as u64) as usize]
    }

    /// Puts `bytes` at `offset` of the L2 table at `table`, in memory; they lie in one slice.
    pub(crate) fn change(&self, file: &File, table: u64, offset: u64, bytes: &[u8]) -> Result<()> {
        let slice = self.slice(file, table, offset / self.slice_bytes)?;
        let at = (offset % self.slice_bytes) as usize;
        let host = table + offset - at as u64;
        let mut changed = self.changed.write().unwrap_or_else(PoisonError::into_inner);
        let slice = Arc::make_mut(changed.entry(host).or_insert(slice));
        slice[at..at + bytes.len()].copy_from_slice(bytes);
        Ok(())
    }

    /// Makes the L2 table at `table`, which is new, a copy of the one at `old`, or all zeros. In memory.
    pub(crate) fn add_table(&self, file: &File, table: u64, old: Option<u64>, size: u64) -> Result<()> {
        for index in 0..size / self.slice_bytes {
            let slice = match old {
                Some(old) => self.slice(file, old, index)?,
                None => Arc::new(memory::zeroed(self.slice_bytes as usize)?),
            };
            let host = table + index * self.slice_bytes;
            self.changed.write().unwrap_or_else(PoisonError::into_inner).insert(host, slice);
        }
        Ok(())
    }

    /// The changed slices with their offsets.
    pub(crate) fn changed(&self) -> Vec<(u64, Arc<Vec<u8>>)> {
        let changed = self.changed.read().unwrap_or_else(PoisonError::into_inner);
        changed.iter().map(|(host, bytes)| (*host, bytes.clone())).collect()
    }

    /// How many slices are changed.
    pub(crate) fn changed_count(&self) -> usize {
        self.changed.read().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// The file has all changed slices now.
    pub(crate) fn written(&self) {
        for (host, bytes) in
            std::mem::take(&mut *self.changed.write().unwrap_or_else(PoisonError::into_inner))
        {
            *self.slot(host).lock().unwrap_or_else(PoisonError::into_inner) = Some(Slice { host, bytes });
        }
    }
}
