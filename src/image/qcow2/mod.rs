//! One qcow2 file, open for reading: its checked header and tables, and the way from guest to host.

mod map;
mod refcounts;
mod tables;

use std::sync::{
    Mutex, OnceLock, PoisonError,
    atomic::{AtomicU64, Ordering},
};

use tables::{Snapshots, read_bitmap_directory, read_snapshots};
pub(crate) use tables::{read_first_cluster, read_table};

use super::{
    budget::{Budget, Grant},
    cache::L2Cache,
    overlap::MetadataMap,
};
use crate::{
    error::{ErrorKind, Result},
    format::{
        bitmap,
        compressed::Decoder,
        geometry::Geometry,
        header::{Header, incompatible},
        l2::{Compressed, Rules},
        snapshot::Snapshot,
    },
    memory,
    storage::{File, PageCache},
};

/// An open qcow2 image.
#[derive(Debug)]
pub(crate) struct Qcow2 {
    file: File,
    data_file: Option<File>,
    data_file_is_writable: bool,
    header: Header,
    rules: Rules,
    /// Atomic, since guest writes hang L2 tables in while others read.
    l1: Vec<AtomicU64>,
    refcount_table: Vec<u64>,
    snapshots: Snapshots,
    bitmaps: Vec<bitmap::Entry>,
    cache: L2Cache,
    decoders: Mutex<Vec<Decoder>>,
    metadata: MetadataMap,
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
        let header = Header::parse(&read_first_cluster(&file)?)?;
        let geometry = header.geometry;
        let mut grants = Vec::new();

        let l1_bytes = u64::from(header.l1_entries) * 8;
        let l1 = read_table(&file, header.l1_offset, l1_bytes, "L1 table", budget, &mut grants)?;
        let l1 = l1.into_iter().map(AtomicU64::new).collect();
        let table_bytes = u64::from(header.refcount_table_clusters) << geometry.cluster_bits;
        let at = header.refcount_table_offset;
        let refcount_table = read_table(&file, at, table_bytes, "refcount table", budget, &mut grants)?;
        let snapshots = read_snapshots(&file, &header, budget, &mut grants)?;
        let bitmaps = read_bitmap_directory(&file, &header, budget, &mut grants)?;

        let rules =
            Rules { geometry, version: header.version, data_file: header.has(incompatible::DATA_FILE) };
        let cache = L2Cache::new(&geometry, budget)?;
        let mut image = Qcow2 {
            file,
            data_file: None,
            data_file_is_writable: false,
            header,
            rules,
            l1,
            refcount_table,
            snapshots,
            bitmaps,
            cache,
            decoders: Mutex::default(),
            metadata: MetadataMap::default(),
            data_length: AtomicU64::new(0),
            preallocated: OnceLock::new(),
            budget: budget.clone(),
            _grants: grants,
        };
        image.metadata = match MetadataMap::new(&image) {
            Err(error) if error.kind() == ErrorKind::Corrupt && image.header.snapshot_count > 0 => {
                // A snapshot table that lies on something else, or leads there, keeps nobody from reading the disk.
                let damage = image.snapshots.damage.take().unwrap_or_else(|| error.to_string());
                image.snapshots = Snapshots { damage: Some(damage), ..Snapshots::default() };
                MetadataMap::new(&image).map_err(|_| error)?
            }
            map => map?,
        };
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

    /// The entries of the L1 table.
    pub(crate) fn l1(&self) -> impl ExactSizeIterator<Item = u64> + '_ {
        self.l1.iter().map(|entry| entry.load(Ordering::Acquire))
    }

    /// Entry `index` of the L1 table, which must have it.
    pub(crate) fn l1_entry(&self, index: usize) -> u64 {
        self.l1[index].load(Ordering::Acquire)
    }

    /// Changes an entry of the L1 table in memory.
    pub(super) fn set_l1_entry(&self, index: usize, entry: u64) {
        self.l1[index].store(entry, Ordering::Release);
    }

    pub(super) fn cache(&self) -> &L2Cache {
        &self.cache
    }

    pub(crate) fn refcount_table(&self) -> &[u64] {
        &self.refcount_table
    }

    /// The snapshots, as far as they can be made out.
    pub(crate) fn snapshots(&self) -> &[Snapshot] {
        &self.snapshots.list
    }

    /// The snapshots, none if the table is damaged: what it says may lead anywhere then.
    pub(crate) fn known_snapshots(&self) -> &[Snapshot] {
        if self.snapshots.damage.is_some() { &[] } else { &self.snapshots.list }
    }

    pub(crate) fn snapshot_bytes(&self) -> u64 {
        self.snapshots.bytes
    }

    /// Why nobody knows what the snapshots own; `None` where that is known.
    pub(crate) fn snapshot_damage(&self) -> Option<&str> {
        self.snapshots.damage.as_deref()
    }

    /// Refuses an image whose snapshots may own what nobody knows of.
    pub(crate) fn ensure_snapshots_known(&self) -> Result<()> {
        let Some(damage) = self.snapshot_damage() else { return Ok(()) };
        let text = format!(
            "the snapshot table is damaged ({damage}), so that what its snapshots own is not known: the disk can be read, but \
             the image cannot be changed; repair it (holstein check --repair all), or copy the disk to a new image"
        );
        Err(self.file.error(ErrorKind::Corrupt, text))
    }

    /// The bitmap directory; also when nobody kept the bitmaps up to date.
    pub(crate) fn bitmaps(&self) -> &[bitmap::Entry] {
        &self.bitmaps
    }

    pub(crate) fn metadata(&self) -> &MetadataMap {
        &self.metadata
    }

    pub(crate) fn budget(&self) -> &Budget {
        &self.budget
    }

    pub(crate) fn external_data_file(&self) -> Option<&File> {
        self.data_file.as_ref()
    }

    pub(crate) fn set_data_file(&mut self, file: File, writable: bool) {
        self.data_file = Some(file);
        self.data_file_is_writable = writable;
    }

    pub(crate) fn data_file_is_writable(&self) -> bool {
        self.data_file_is_writable
    }

    pub(crate) fn external_data_file_bit(&self) -> bool {
        self.rules.data_file
    }

    /// The name of the external data file, if the image has one.
    pub(crate) fn data_file_name(&self) -> Result<Option<&[u8]>> {
        if !self.rules.data_file {
            return Ok(None);
        }
        match self.header.data_file() {
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

    /// Refuses an image of which nobody knows what its files hold, after a failure.
    pub(crate) fn ensure_known(&self) -> Result<()> {
        self.data_file.iter().chain([&self.file]).try_for_each(File::ensure_writable)
    }

    /// Inflates the compressed cluster at guest offset `guest`, a cluster's start, into `cluster`. Leaves the
    /// stream as it is stored in `packed`.
    pub(crate) fn inflate(
        &self,
        guest: u64,
        stream: Compressed,
        packed: &mut Vec<u8>,
        cluster: &mut [u8],
        cache: PageCache,
    ) -> Result<()> {
        // Up to the end of the last sector, or of the file: the stream may end sooner.
        memory::grow(packed, stream.length as usize)?;
        let got = self.file.read_through(cache, packed, stream.host)?;
        packed.truncate(got);
        let idle = self.decoders.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut decoder = match idle {
            Some(decoder) => decoder,
            None => Decoder::new(self.header.compression)?,
        };
        let length = decoder.inflate(packed, cluster);
        self.decoders.lock().unwrap_or_else(PoisonError::into_inner).push(decoder);
        let Some(length) = length else {
            let text = format!(
                "the compressed cluster of guest offset {guest:#x} ({} bytes at {:#x}) is damaged",
                stream.length, stream.host
            );
            return Err(self.file.error(ErrorKind::Corrupt, text));
        };
        packed.truncate(length);
        Ok(())
    }
}
