//! From guest to host: L1 and L2 tables.

use std::{
    ops::Range,
    sync::{Arc, atomic::Ordering},
};

use zerocopy::{FromBytes, big_endian::U64};

use super::{
    super::{Mapping, file_extents::FileExtents},
    Qcow2,
};
use crate::{
    error::{ErrorKind, Result},
    format::{
        l1,
        l2::{Cluster, Compressed},
    },
};

impl Qcow2 {
    /// Where the start of a guest range is, and how far it goes on so. The range must lie in the disk.
    pub(crate) fn map_at(
        &self,
        offset: u64,
        length: u64,
        extents: &mut FileExtents,
    ) -> Result<(Mapping, u64)> {
        let end = offset + length;
        let (mapping, mut found) = self.map_piece(offset, end)?;
        while offset + found < end {
            let (next, more) = self.map_piece(offset + found, end)?;
            if !mapping.continues(found, next) {
                break;
            }
            found += more;
        }
        match mapping {
            Mapping::Data { host, .. } => self.resolve_data(offset, host, found, extents),
            _ => Ok((mapping, found)),
        }
    }

    /// Data must lie inside its file; only the last cluster may be cut short.
    fn resolve_data(
        &self,
        guest: u64,
        host: u64,
        length: u64,
        extents: &mut FileExtents,
    ) -> Result<(Mapping, u64)> {
        let file = self.data_file()?;
        let last = self.geometry().cluster_start(host + length - 1);
        // The length is asked again only when it matters: a shared image may have grown.
        if last >= self.data_length.load(Ordering::Relaxed) {
            let file_length = file.len()?;
            self.data_length.store(file_length, Ordering::Relaxed);
            if last >= file_length {
                let text = format!(
                    "guest offset {guest:#x} is mapped to {length} bytes at {host:#x}, behind the end of '{}' at \
                     {file_length:#x}",
                    file.path().display()
                );
                return Err(self.file.error(ErrorKind::Corrupt, text));
            }
        }
        if self.data_file.is_none() {
            self.refuse_metadata(guest, host..host + length)?;
        }
        if !self.is_preallocated()? {
            return Ok((Mapping::Data { host, hole: false }, length));
        }
        if host >= self.data_length.load(Ordering::Relaxed) {
            return Ok((Mapping::Data { host, hole: true }, length));
        }
        let extent = extents.at(file, host)?;
        let end = extent.end.clamp(host + 1, host + length);
        Ok((Mapping::Data { host, hole: extent.hole }, end - host))
    }

    /// A run within one slice of an L2 table, or behind a missing one.
    fn map_piece(&self, offset: u64, end: u64) -> Result<(Mapping, u64)> {
        let geometry = self.geometry();
        let Some((entries, first)) = self.entries_at(offset)? else {
            let coverage = geometry.l2_coverage();
            let mut index = (offset / coverage) as usize + 1;
            let last = (end.div_ceil(coverage) as usize).min(self.l1.len());
            while index < last && self.l1_entry(index) == 0 {
                index += 1;
            }
            return Ok((Mapping::Unallocated { host: None }, (index as u64 * coverage).min(end) - offset));
        };
        let words = (geometry.l2_entry_size() / 8) as usize;
        let entries = <[U64]>::ref_from_bytes(&entries).unwrap_or_default();
        let inside = offset - geometry.cluster_start(offset);
        let wanted = (end - offset + inside).div_ceil(geometry.cluster_size()) as usize;
        let entries = &entries[first * words..entries.len().min((first + wanted) * words)];

        let (mapping, mut found) = self.decode_at(offset, entries, inside)?;
        let whole = inside + found == geometry.cluster_size();
        if whole && words == 1 {
            found += self.count_alike(mapping, entries) * geometry.cluster_size();
        }
        Ok((mapping, found.min(end - offset)))
    }

    /// How many entries behind the first of `entries` surely go on as it does. Neighbours in a run differ by
    /// one cluster or not at all, so they need no decoding; a run that ends too early here is joined later.
    fn count_alike(&self, mapping: Mapping, entries: &[U64]) -> u64 {
        let step = match mapping {
            Mapping::Data { .. } | Mapping::Zero { host: Some(_) } => self.geometry().cluster_size(),
            Mapping::Unallocated { host: None } | Mapping::Zero { host: None } => 0,
            Mapping::Unallocated { host: Some(_) } => return 0,
            Mapping::Compressed => return 0,
        };
        let mut expected = entries[0].get();
        let alike = |entry: &&U64| {
            expected = expected.wrapping_add(step);
            entry.get() == expected
        };
        entries[1..].iter().take_while(alike).count() as u64
    }

    /// The slice of the L2 table for a guest offset and the index of its entry there.
    fn entries_at(&self, offset: u64) -> Result<Option<(Arc<Vec<u8>>, usize)>> {
        let geometry = self.geometry();
        let index = (offset / geometry.l2_coverage()) as usize;
        let Some(table) = l1::l2_table_offset(self.l1_entry(index), index, geometry)? else {
            return Ok(None);
        };
        let entry = (offset >> geometry.cluster_bits) % geometry.l2_entries();
        let per_slice = self.cache.slice_entries(geometry);
        let slice = self.cache.slice(&self.file, table, entry / per_slice)?;
        Ok(Some((slice, (entry % per_slice) as usize)))
    }

    /// What entry of an L2 table, the one of guest offset `guest`, says.
    pub(crate) fn decode(&self, guest: u64, entries: &[U64]) -> Result<Cluster> {
        let entry = entries.first().map_or(0, |e| e.get());
        let bitmap = self.geometry().extended_l2.then(|| entries.get(1).map_or(0, |e| e.get()));
        self.rules.decode(entry, bitmap).map_err(|problem| {
            let text = format!("the L2 entry {entry:#018x} of guest offset {guest:#x} is invalid: {problem}");
            self.file.error(ErrorKind::Corrupt, text)
        })
    }

    /// What the first of `entries` says of its cluster from byte `inside` on.
    fn decode_at(&self, guest: u64, entries: &[U64], inside: u64) -> Result<(Mapping, u64)> {
        let cluster_size = self.geometry().cluster_size();
        let cluster = self.decode(guest, entries)?;
        self.refuse_moved(guest, &cluster)?;
        let mapping = match cluster {
            Cluster::Unallocated { host } => Mapping::Unallocated { host },
            Cluster::Zero { host } => Mapping::Zero { host },
            Cluster::Data { host } => Mapping::Data { host, hole: false },
            Cluster::Compressed(_) => Mapping::Compressed,
            Cluster::Subclusters { host, allocated, zero } => {
                return Ok(self.decode_subclusters(host, allocated, zero, inside));
            }
        };
        Ok((mapping.advance(inside), cluster_size - inside))
    }

    /// In a data file each guest cluster has its own offset, whatever is there.
    fn refuse_moved(&self, guest: u64, cluster: &Cluster) -> Result<()> {
        let host = match *cluster {
            Cluster::Data { host } => Some(host),
            Cluster::Unallocated { host } | Cluster::Zero { host } | Cluster::Subclusters { host, .. } => {
                host
            }
            Cluster::Compressed(_) => None,
        };
        match host {
            Some(host) if self.rules.data_file && host != self.geometry().cluster_start(guest) => {
                let text =
                    format!("guest offset {guest:#x} is mapped to another offset {host:#x} of its data file");
                Err(self.file.error(ErrorKind::Corrupt, text))
            }
            _ => Ok(()),
        }
    }

    fn decode_subclusters(
        &self,
        host: Option<u64>,
        allocated: u32,
        zero: u32,
        inside: u64,
    ) -> (Mapping, u64) {
        let bits = self.geometry().subcluster_bits();
        let first = (inside >> bits) as u32;
        let at = |mask: u32, index: u32| mask >> index & 1 == 1;
        let kind = |index| (at(allocated, index), at(zero, index));
        let alike = (first..32).take_while(|index| kind(*index) == kind(first)).count() as u64;
        let length = ((u64::from(first) + alike) << bits) - inside;
        let mapping = match (kind(first), host) {
            ((true, _), Some(host)) => Mapping::Data { host, hole: false },
            ((_, true), host) => Mapping::Zero { host },
            (_, host) => Mapping::Unallocated { host },
        };
        (mapping.advance(inside), length)
    }

    /// The stream of the compressed cluster at a guest offset, if it is one.
    pub(crate) fn compressed_at(&self, offset: u64) -> Result<Option<Compressed>> {
        let Some((slice, index)) = self.entries_at(offset)? else { return Ok(None) };
        let words = (self.geometry().l2_entry_size() / 8) as usize;
        let entries = <[U64]>::ref_from_bytes(&slice).unwrap_or_default();
        match self.decode(offset, &entries[index * words..])? {
            Cluster::Compressed(stream) => {
                self.refuse_metadata(offset, stream.host..stream.host + 1)?;
                Ok(Some(stream))
            }
            _ => Ok(None),
        }
    }

    /// Guest data never lies on metadata: a guest would read tables, and one day write them. Neither does it lie
    /// behind a table in the table's last cluster, as a part of a cluster could.
    fn refuse_metadata(&self, guest: u64, host: Range<u64>) -> Result<()> {
        let geometry = self.geometry();
        let last = geometry.cluster_start(host.end - 1);
        let clusters = geometry.cluster_start(host.start)..last + geometry.cluster_size();
        match self.metadata.find(&clusters) {
            None => Ok(()),
            Some(owner) => {
                let text = format!("guest offset {guest:#x} is mapped to {owner}, at {:#x}", host.start);
                Err(self.file.error(ErrorKind::Corrupt, text))
            }
        }
    }
}
