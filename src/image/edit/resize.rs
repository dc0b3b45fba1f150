//! The tables of a disk of another size.
//!
//! What lies behind the end of the smaller disk is dropped, so that a disk that grows again reads as zero there: also of the
//! cluster that the end lies in, which gets another place. QEMU, when it lets the disk grow, leaves that cluster as it is, and
//! a bitmap would say that nothing has changed.
//! Where an image below is longer than the disk, the new part is filled with zero clusters, so that nothing of
//! it comes to light. L1 and L2 tables are written anew, and the header decides on them together with the size
//! and the bitmaps.

use std::ops::Range;

use byteorder::{BigEndian, ByteOrder};

use super::{Edit, NewDisk};
use crate::{
    error::{ErrorKind, Result},
    format::{
        geometry::Geometry,
        header::MAX_L1_BYTES,
        l1,
        l2::{self, State},
    },
    image::{Image, Qcow2},
    memory,
};

/// Refuses a size that the image cannot have.
pub(crate) fn check_resize(image: &Image, size: u64) -> Result<()> {
    let Some(top) = image.qcow2() else { return Ok(()) };
    let geometry = top.geometry();
    let refuse = |kind, text: String| Err(top.file().error(kind, text));
    if size == 0 {
        return refuse(ErrorKind::InvalidArgument, "a disk of 0 bytes cannot be made".to_owned());
    }
    if size > i64::MAX as u64 || l1_entries(geometry, size) * 8 > MAX_L1_BYTES {
        let cluster_size = geometry.cluster_size();
        let text = format!("a disk of {size} bytes is too large for clusters of {cluster_size} bytes");
        return refuse(ErrorKind::InvalidArgument, text);
    }
    top.ensure_snapshots_known()?;
    if top.header().version < 3 && !top.snapshots().is_empty() {
        let text = "a version 2 image with snapshots cannot be resized, as they do not tell their disk's size; delete them or \
                    upgrade it (qemu-img amend -o compat=1.1)";
        return refuse(ErrorKind::Unsupported, text.to_owned());
    }
    if top.has_raw_data_file() {
        // It is as long as the disk.
        top.ensure_data_file_writable()?;
    }
    let (_, zeros) = parts(image, geometry, size);
    if !zeros.is_empty() && top.header().version < 3 {
        let text = "its backing file is longer than the disk and would come to light, and a version 2 image has no zero \
                    clusters; upgrade it first (qemu-img amend -o compat=1.1)";
        return refuse(ErrorKind::Unsupported, text.to_owned());
    }
    Ok(())
}

/// An empty disk has a table too.
fn l1_entries(geometry: &Geometry, size: u64) -> u64 {
    geometry.l1_entries_for(size).max(1)
}

/// The end of the clusters that are kept, and the range behind it that has to be filled with zeros.
fn parts(image: &Image, geometry: &Geometry, size: u64) -> (u64, Range<u64>) {
    let end = |size: u64| size.next_multiple_of(geometry.cluster_size());
    let keep = end(image.size().min(size));
    let below = image.size_below().unwrap_or(0);
    (keep, keep..end(size.min(below)).max(keep))
}

/// What is dropped of a disk.
struct Cut {
    /// From here on everything.
    keep: u64,
    /// Where zeros take its place.
    zeros: Range<u64>,
    last: Option<LastCluster>,
}

/// The cluster that a smaller disk ends in, and its new place.
struct LastCluster {
    guest: u64,
    host: u64,
}

/// Where the cluster begins that a smaller disk ends in; `None` if it ends where a cluster does.
fn last_cluster(image: &Image, geometry: &Geometry, size: u64) -> Option<u64> {
    let start = size - size % geometry.cluster_size();
    (size < image.size() && start != size).then_some(start)
}

impl Edit<'_> {
    /// Writes the tables of the disk for a size that [`check_resize`] lets pass.
    pub(crate) fn resize(&mut self, image: &Image, size: u64) -> Result<NewDisk> {
        let top = self.image;
        let geometry = *top.geometry();
        let (keep, zeros) = parts(image, &geometry, size);
        let entries = l1_entries(&geometry, size);
        let old: Vec<u64> = memory::collected(top.l1())?;
        let mut table = memory::copied(&old)?;
        memory::grow(&mut table, old.len().max(entries as usize))?;
        for (index, entry) in table.iter_mut().enumerate() {
            let range = index as u64 * geometry.l2_coverage()..(index as u64 + 1) * geometry.l2_coverage();
            let is_filled = range.start < zeros.end && range.end > zeros.start;
            let last = last_cluster(image, &geometry, size).filter(|last| range.contains(last));
            if range.end > keep && (*entry != 0 || is_filled) || last.is_some() && *entry != 0 {
                let last = last.map_or(Ok(None), |last| self.last_cluster(image, last, size))?;
                *entry =
                    self.cut_l2_table(*entry, index, range, &Cut { keep, zeros: zeros.clone(), last })?;
            }
        }
        table.truncate(entries as usize);
        let l1_entries = entries as u32;
        if table == old {
            return Ok(NewDisk { size, l1_offset: top.header().l1_offset, l1_entries });
        }
        let clusters = geometry.clusters_for(entries * 8);
        let mut bytes = memory::zeroed((clusters << geometry.cluster_bits) as usize)?;
        BigEndian::write_u64_into(&table, &mut bytes[..table.len() * 8]);
        let l1_offset = self.allocate(clusters)?;
        self.write(l1_offset, &bytes)?;
        let old_offset = top.header().l1_offset;
        self.release(old_offset..old_offset + old.len() as u64 * 8);
        Ok(NewDisk { size, l1_offset, l1_entries })
    }

    /// A new place for the cluster that the disk ends in, without what lies behind the end. `None` where nothing does, or
    /// where it lies in another file.
    fn last_cluster(&mut self, image: &Image, guest: u64, size: u64) -> Result<Option<LastCluster>> {
        let top = self.image;
        if top.external_data_file_bit() {
            return Ok(None);
        }
        let mut bytes = memory::zeroed(top.geometry().cluster_size() as usize)?;
        let known = (image.size() - guest).min(bytes.len() as u64);
        let mut is_held = false;
        for run in image.runs(guest..guest + known) {
            let run = run?;
            is_held |= run.depth == 0 && run.present() && !run.zero();
        }
        if !is_held {
            return Ok(None);
        }
        image.read_at(&mut bytes[..known as usize], guest)?;
        let is_whole = known == bytes.len() as u64;
        let behind = &mut bytes[(size - guest) as usize..];
        if is_whole && behind.iter().all(|byte| *byte == 0) {
            return Ok(None);
        }
        behind.fill(0);
        let host = self.allocate(1)?;
        self.write(host, &bytes)?;
        Ok(Some(LastCluster { guest, host }))
    }

    /// The L1 entry for the guest range `covered` with what a cut drops dropped.
    fn cut_l2_table(&mut self, entry: u64, index: usize, covered: Range<u64>, cut: &Cut) -> Result<u64> {
        let Cut { keep, zeros, last } = cut;
        let top = self.image;
        let geometry = *top.geometry();
        let old = l1::l2_table_offset(entry, index, &geometry).map_err(|e| e.in_file(top.file().path()))?;
        let mut bytes = memory::zeroed(geometry.cluster_size() as usize)?;
        if let Some(old) = old {
            top.file().read_exact(&mut bytes, old, "L2 table")?;
        }
        let before = memory::copied(&bytes)?;
        let zero = zero_entry(&geometry);
        for (number, entry) in bytes.chunks_exact_mut(geometry.l2_entry_size() as usize).enumerate() {
            let guest = covered.start + ((number as u64) << geometry.cluster_bits);
            if let Some(last) = last.as_ref().filter(|last| last.guest == guest) {
                self.release_entry(top, BigEndian::read_u64(entry));
                let data = geometry.subcluster_mask();
                let state = State { host: Some(last.host), data, zero: 0, compressed: None };
                entry.copy_from_slice(&state.encode(&geometry, true));
            }
            if guest < *keep {
                continue;
            }
            self.release_entry(top, BigEndian::read_u64(entry));
            entry.fill(0);
            if zeros.contains(&guest) {
                entry.copy_from_slice(&zero);
            }
        }
        if bytes == before && (covered.start < *keep || old.is_none()) {
            return Ok(entry);
        }
        if let Some(old) = old {
            self.release(old..old + geometry.cluster_size());
        }
        if bytes.iter().all(|byte| *byte == 0) {
            return Ok(0);
        }
        let new = self.allocate(1)?;
        self.write(new, &bytes)?;
        Ok(new | l1::COPIED)
    }

    fn release_entry(&mut self, top: &Qcow2, entry: u64) {
        let host = l2::host_range(entry, top.geometry());
        if !host.is_empty() && !top.external_data_file_bit() {
            self.release(host);
        }
    }
}

fn zero_entry(geometry: &Geometry) -> Vec<u8> {
    let zero = geometry.subcluster_mask();
    State { host: None, data: 0, zero, compressed: None }.encode(geometry, true)
}
