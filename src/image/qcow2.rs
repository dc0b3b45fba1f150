//! One qcow2 file, open for reading: its checked header and tables, and the way from guest to host.

use std::sync::{
    Mutex, OnceLock, PoisonError,
    atomic::{AtomicU64, Ordering},
};

use zerocopy::{FromBytes, IntoBytes, big_endian::U64};

use super::{
    Mapping,
    budget::{Budget, Grant},
    cache::L2Cache,
    overlap,
};
use crate::{
    error::{ErrorKind, Result},
    format::{
        bitmap,
        compressed::Decoder,
        corrupt,
        geometry::Geometry,
        header::{self, Header, incompatible},
        l1,
        l2::{Cluster, Compressed, Rules},
        refcount,
        snapshot::{self, Snapshot},
    },
    storage::File,
};

/// An open qcow2 image.
#[derive(Debug)]
pub(crate) struct Qcow2 {
    file: File,
    data_file: Option<File>,
    header: Header,
    rules: Rules,
    l1: Vec<u64>,
    refcount_table: Vec<u64>,
    snapshots: Vec<Snapshot>,
    bitmaps: Vec<bitmap::Entry>,
    cache: L2Cache,
    decoders: Mutex<Vec<Decoder>>,
    /// Bytes of the snapshot table.
    snapshot_bytes: u64,
    /// Length of the data file when it was looked at last.
    data_length: AtomicU64,
    /// Data was preallocated without being written, so that the file's holes matter.
    preallocated: OnceLock<bool>,
    budget: Budget,
    _grants: Vec<Grant>,
}

impl Qcow2 {
    /// Reads and checks header and tables. Opens no other file.
    pub(crate) fn open(file: File, budget: &Budget) -> Result<Qcow2> {
        let header = read_header(&file)?;
        let geometry = header.geometry;
        let mut grants = Vec::new();

        let l1_bytes = u64::from(header.l1_entries) * 8;
        let l1 = read_table(&file, header.l1_offset, l1_bytes, "L1 table", budget, &mut grants)?;
        let table_bytes = u64::from(header.refcount_table_clusters) << geometry.cluster_bits;
        let at = header.refcount_table_offset;
        let refcount_table = read_table(&file, at, table_bytes, "refcount table", budget, &mut grants)?;
        let (snapshots, snapshot_bytes) = read_snapshots(&file, &header, budget, &mut grants)?;
        let bitmaps = read_bitmap_directory(&file, &header, budget, &mut grants)?;

        let rules =
            Rules { geometry, version: header.version, data_file: header.has(incompatible::DATA_FILE) };
        let cache = L2Cache::new(&geometry, budget)?;
        let image = Qcow2 {
            file,
            data_file: None,
            header,
            rules,
            l1,
            refcount_table,
            snapshots,
            bitmaps,
            cache,
            decoders: Mutex::default(),
            snapshot_bytes,
            data_length: AtomicU64::new(0),
            preallocated: OnceLock::new(),
            budget: budget.clone(),
            _grants: grants,
        };
        overlap::check(&image)?;
        Ok(image)
    }

    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    pub(crate) fn header(&self) -> &Header {
        &self.header
    }

    pub(crate) fn geometry(&self) -> &Geometry {
        &self.header.geometry
    }

    pub(crate) fn l1(&self) -> &[u64] {
        &self.l1
    }

    pub(crate) fn refcount_table(&self) -> &[u64] {
        &self.refcount_table
    }

    pub(crate) fn snapshots(&self) -> &[Snapshot] {
        &self.snapshots
    }

    pub(crate) fn snapshot_bytes(&self) -> u64 {
        self.snapshot_bytes
    }

    /// The bitmap directory; also when nobody kept the bitmaps up to date.
    pub(crate) fn bitmaps(&self) -> &[bitmap::Entry] {
        &self.bitmaps
    }

    pub(crate) fn budget(&self) -> &Budget {
        &self.budget
    }

    pub(crate) fn external_data_file(&self) -> Option<&File> {
        self.data_file.as_ref()
    }

    pub(crate) fn set_data_file(&mut self, file: File) {
        self.data_file = Some(file);
    }

    /// The name of the external data file, if the image has one.
    pub(crate) fn data_file_name(&self) -> Result<Option<&[u8]>> {
        if !self.rules.data_file {
            return Ok(None);
        }
        match self.header.extensions.data_file.as_deref() {
            Some(name) => Ok(Some(name)),
            None => {
                Err(self.file.error(ErrorKind::Corrupt, "the image has a data file but does not name it"))
            }
        }
    }

    /// The file that guest data lies in.
    pub(crate) fn data_file(&self) -> Result<&File> {
        match (&self.data_file, self.rules.data_file) {
            (Some(file), _) => Ok(file),
            (None, false) => Ok(&self.file),
            (None, true) => Err(self.file.error(ErrorKind::WrongState, "its data file was not opened")),
        }
    }

    /// Where the start of a guest range is, and how far it goes on so. The range must lie in the disk.
    pub(crate) fn map_at(&self, offset: u64, length: u64) -> Result<(Mapping, u64)> {
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
            Mapping::Data { host, .. } => self.resolve_data(offset, host, found),
            _ => Ok((mapping, found)),
        }
    }

    /// Data must lie inside its file; only the last cluster may be cut short.
    fn resolve_data(&self, guest: u64, host: u64, length: u64) -> Result<(Mapping, u64)> {
        let file = self.data_file()?;
        let last = self.geometry().cluster_start(host + length - 1).max(host);
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
        if !self.is_preallocated()? {
            return Ok((Mapping::Data { host, hole: false }, length));
        }
        let extent = file.extent_at(host)?;
        // A block that the file system cut inside a sector is read as a whole.
        let end = extent.end.next_multiple_of(512).min(host + length).max(host + 1);
        Ok((Mapping::Data { host, hole: extent.hole }, end - host))
    }

    /// A run within one slice of an L2 table, or behind a missing one.
    fn map_piece(&self, offset: u64, end: u64) -> Result<(Mapping, u64)> {
        let geometry = self.geometry();
        let Some((entries, first)) = self.entries_at(offset)? else {
            let coverage = geometry.l2_coverage();
            let mut index = (offset / coverage) as usize + 1;
            let last = (end.div_ceil(coverage) as usize).min(self.l1.len());
            while index < last && self.l1[index] == 0 {
                index += 1;
            }
            return Ok((Mapping::Unallocated, (index as u64 * coverage).min(end) - offset));
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
            Mapping::Unallocated | Mapping::Zero { host: None } => 0,
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
    fn entries_at(&self, offset: u64) -> Result<Option<(std::sync::Arc<Vec<u8>>, usize)>> {
        let geometry = self.geometry();
        let index = (offset / geometry.l2_coverage()) as usize;
        let Some(table) = l1::l2_table_offset(self.l1[index], index, geometry)? else { return Ok(None) };
        let entry = (offset >> geometry.cluster_bits) % geometry.l2_entries();
        let per_slice = self.cache.slice_entries(geometry);
        let slice = self.cache.slice(&self.file, table, entry / per_slice)?;
        Ok(Some((slice, (entry % per_slice) as usize)))
    }

    fn decode(&self, guest: u64, entries: &[U64]) -> Result<Cluster> {
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
        let mapping = match self.decode(guest, entries)? {
            Cluster::Unallocated => Mapping::Unallocated,
            Cluster::Zero { host } => Mapping::Zero { host },
            Cluster::Data { host } => {
                if self.rules.data_file && host != self.geometry().cluster_start(guest) {
                    let text = format!(
                        "guest offset {guest:#x} is mapped to another offset {host:#x} of its data file"
                    );
                    return Err(self.file.error(ErrorKind::Corrupt, text));
                }
                Mapping::Data { host, hole: false }
            }
            Cluster::Compressed(_) => Mapping::Compressed,
            Cluster::Subclusters { host, allocated, zero } => {
                return Ok(self.decode_subclusters(host, allocated, zero, inside));
            }
        };
        Ok((mapping.advance(inside), cluster_size - inside))
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
            _ => Mapping::Unallocated,
        };
        (mapping.advance(inside), length)
    }

    /// The stream of the compressed cluster at a guest offset, if it is one.
    pub(crate) fn compressed_at(&self, offset: u64) -> Result<Option<Compressed>> {
        let Some((slice, index)) = self.entries_at(offset)? else { return Ok(None) };
        let words = (self.geometry().l2_entry_size() / 8) as usize;
        let entries = <[U64]>::ref_from_bytes(&slice).unwrap_or_default();
        match self.decode(offset, &entries[index * words..])? {
            Cluster::Compressed(stream) => Ok(Some(stream)),
            _ => Ok(None),
        }
    }

    /// The bytes of a compressed cluster as stored, up to the end of its last sector or of the file.
    pub(crate) fn read_stream(&self, stream: Compressed, buf: &mut Vec<u8>) -> Result<()> {
        buf.resize(stream.length as usize, 0);
        let got = self.file.read_up_to(buf, stream.host)?;
        buf.truncate(got);
        Ok(())
    }

    /// Inflates the compressed cluster at guest offset `guest`, a cluster's start, into `cluster`.
    pub(crate) fn inflate(&self, guest: u64, stream: Compressed, cluster: &mut [u8]) -> Result<()> {
        let mut packed = Vec::new();
        self.read_stream(stream, &mut packed)?;
        let idle = self.decoders.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut decoder = idle.unwrap_or_else(|| Decoder::new(self.header.compression));
        let done = decoder.inflate(&packed, cluster);
        self.decoders.lock().unwrap_or_else(PoisonError::into_inner).push(decoder);
        if !done {
            let text = format!(
                "the compressed cluster of guest offset {guest:#x} ({} bytes at {:#x}) is damaged",
                stream.length, stream.host
            );
            return Err(self.file.error(ErrorKind::Corrupt, text));
        }
        Ok(())
    }

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
    fn is_preallocated(&self) -> Result<bool> {
        if let Some(known) = self.preallocated.get() {
            return Ok(*known);
        }
        let geometry = self.geometry();
        let stored = geometry.clusters_for(self.file.allocated()?);
        let cutoff = (stored.saturating_mul(10) / 9).max(stored + 2);
        let clusters = geometry.clusters_for(self.file.len()?);
        let found = if clusters < cutoff { false } else { self.has_used_clusters(clusters, cutoff)? };
        Ok(*self.preallocated.get_or_init(|| found))
    }

    /// Whether at least `cutoff` of the first `clusters` host clusters have a refcount.
    fn has_used_clusters(&self, clusters: u64, cutoff: u64) -> Result<bool> {
        let geometry = self.geometry();
        let per_block = geometry.refcount_block_entries();
        let mut block = vec![0; geometry.cluster_size() as usize];
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

fn read_header(file: &File) -> Result<Header> {
    let mut cluster = vec![0; header::PREFIX];
    let got = file.read_up_to(&mut cluster, 0)?;
    cluster.truncate(got);
    let bits = header::cluster_bits(&cluster)?;
    cluster.resize(1 << bits, 0);
    let got = file.read_up_to(&mut cluster, 0)?;
    cluster.truncate(got);
    Header::parse(&cluster)
}

/// Reads a table of big-endian words that must lie in the file as a whole.
pub(crate) fn read_table(
    file: &File,
    offset: u64,
    bytes: u64,
    what: &str,
    budget: &Budget,
    grants: &mut Vec<Grant>,
) -> Result<Vec<u64>> {
    check_inside(file, offset, bytes, what)?;
    grants.push(budget.grant(bytes, what)?);
    let mut table = vec![0u64; (bytes / 8) as usize];
    file.read_exact(table.as_mut_bytes(), offset, what)?;
    for word in &mut table {
        *word = u64::from_be(*word);
    }
    Ok(table)
}

fn check_inside(file: &File, offset: u64, bytes: u64, what: &str) -> Result<()> {
    let length = file.len()?;
    match offset.checked_add(bytes) {
        Some(end) if end <= length => Ok(()),
        _ => Err(corrupt(format!(
            "the {what} ({bytes} bytes at {offset:#x}) does not lie in the file of {length:#x} bytes"
        ))),
    }
}

/// The snapshot table is walked in pieces of this size.
const SNAPSHOT_WINDOW: usize = 4 * snapshot::LARGEST_ENTRY;

/// The snapshots, and how many bytes their table has.
fn read_snapshots(
    file: &File,
    header: &Header,
    budget: &Budget,
    grants: &mut Vec<Grant>,
) -> Result<(Vec<Snapshot>, u64)> {
    let mut snapshots = Vec::new();
    if header.snapshot_count > 0 && header.snapshots_offset == 0 {
        return Err(corrupt("the snapshot table lies on the header"));
    }
    let mut at = 0;
    let mut window = Vec::new();
    let mut window_start = 0;
    for _ in 0..header.snapshot_count {
        if at + snapshot::LARGEST_ENTRY as u64 > window_start + window.len() as u64 {
            window.resize(SNAPSHOT_WINDOW, 0);
            window_start = at;
            let got = file.read_up_to(&mut window, header.snapshots_offset.saturating_add(at))?;
            window.truncate(got);
        }
        let rest = window.get((at - window_start) as usize..).unwrap_or_default();
        let (snapshot, length) = snapshot::parse(rest, header.version, &header.geometry)?;
        check_inside(file, snapshot.l1_offset, u64::from(snapshot.l1_entries) * 8, "L1 table of a snapshot")?;
        at += length as u64;
        if at > snapshot::MAX_TABLE_BYTES {
            return Err(corrupt("the snapshot table is larger than 64 MiB"));
        }
        grants.push(budget.grant(size_of::<Snapshot>() as u64 + length as u64, "snapshot table")?);
        snapshots.push(snapshot);
    }
    Ok((snapshots, at))
}

fn read_bitmap_directory(
    file: &File,
    header: &Header,
    budget: &Budget,
    grants: &mut Vec<Grant>,
) -> Result<Vec<bitmap::Entry>> {
    let Some(extension) = &header.extensions.bitmaps else { return Ok(Vec::new()) };
    let read = |grants: &mut Vec<Grant>| {
        bitmap::check_extension(extension, &header.geometry)?;
        let (offset, size) = (extension.directory_offset.get(), extension.directory_size.get());
        check_inside(file, offset, size, "bitmap directory")?;
        // The bytes, and about as much again for the parsed entries.
        grants.push(budget.grant(size * 4, "bitmap directory")?);
        let mut bytes = vec![0; size as usize];
        file.read_exact(&mut bytes, offset, "bitmap directory")?;
        bitmap::parse_directory(&bytes, extension.nb_bitmaps.get(), &header.geometry)
    };
    match read(grants) {
        // Nobody maintains this directory, so its state says nothing about the image.
        Err(e) if !header.bitmaps_are_current() && e.kind() != ErrorKind::Io => Ok(Vec::new()),
        result => result,
    }
}
