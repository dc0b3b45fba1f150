//! What can be said about an image without reading its data.

use std::path::{Path, PathBuf};

use super::{Format, Image, Layer, policy};
use crate::{
    error::Result,
    format::{
        bitmap,
        header::{CompressionType, autoclear, compatible, incompatible},
        lineage::{Base, Identity},
        snapshot::Snapshot,
    },
    storage::FileKind,
};

/// What an image says about itself: the facts behind `qemu-img info`, and some more.
#[derive(Clone, Debug)]
pub struct DiskInfo {
    /// The image's format.
    pub format: Format,
    /// Size of the disk in bytes.
    pub virtual_size: u64,
    /// Bytes that the file occupies on its file system.
    pub actual_size: u64,
    /// Length of the file in bytes.
    pub file_length: u64,
    /// What kind of file the image is.
    pub file_kind: FileKind,
    /// The image below, if there is one.
    pub backing: Option<BackingInfo>,
    /// Internal snapshots.
    pub snapshots: Vec<SnapshotInfo>,
    /// What only qcow2 images have.
    pub qcow2: Option<Qcow2Info>,
}

/// How an image names the image below it.
#[derive(Clone, Debug)]
pub struct BackingInfo {
    /// The name as recorded (invalid UTF-8 replaced).
    pub name: String,
    /// The name seen from the caller's folder, where it is a path.
    pub full_name: Option<String>,
    /// The recorded format.
    pub format: Option<String>,
}

/// The qcow2 part of [`DiskInfo`].
#[derive(Clone, Debug)]
pub struct Qcow2Info {
    /// 2 or 3.
    pub version: u32,
    /// Bytes of a cluster.
    pub cluster_size: u64,
    /// How compressed clusters are compressed.
    pub compression: CompressionType,
    /// Writers may postpone refcount updates.
    pub lazy_refcounts: bool,
    /// Width of refcounts in bits.
    pub refcount_bits: u32,
    /// The image is marked as corrupt.
    pub corrupt: bool,
    /// The refcounts are marked as possibly stale.
    pub dirty: bool,
    /// What is wrong with the snapshot table, if anything: the disk can be read, the image not be changed before a repair.
    pub snapshot_damage: Option<String>,
    /// Clusters are divided into subclusters.
    pub extended_l2: bool,
    /// The name of the external data file.
    pub data_file: Option<String>,
    /// The external data file is a valid raw image.
    pub data_file_raw: bool,
    /// The bitmap directory, if its contents are maintained.
    pub bitmaps: Vec<BitmapEntryInfo>,
    /// The identity of the image, if it is a backup that Holstein made, or a copy of one.
    pub identity: Option<Identity>,
    /// The one that it had until Holstein changed its disk.
    pub former_identity: Option<Identity>,
    /// That of the backup below it.
    pub parent: Option<Identity>,
    /// Types and lengths of header extensions that this version does not know.
    pub unknown_extensions: Vec<(u32, u32)>,
}

/// What the bitmap directory says about one bitmap.
#[derive(Clone, Debug)]
pub struct BitmapEntryInfo {
    /// Bytes, 1 to 1023, usually UTF-8.
    pub name: Vec<u8>,
    /// Bytes of disk that one bit stands for.
    pub granularity: u64,
    /// A writer has not stored the bitmap yet, or never will.
    pub in_use: bool,
    /// Writes are recorded.
    pub auto: bool,
    /// From which backup on it counts, if that is known.
    pub base: Option<Base>,
}

/// An internal snapshot.
#[derive(Clone, Debug)]
pub struct SnapshotInfo {
    /// Its number, as text (invalid UTF-8 replaced).
    pub id: String,
    /// Its name (invalid UTF-8 replaced).
    pub name: String,
    /// Bytes of VM state.
    pub vm_state_size: u64,
    /// Seconds since 1970.
    pub date_sec: u32,
    /// And nanoseconds.
    pub date_nsec: u32,
    /// Nanoseconds that the guest had run.
    pub vm_clock_nsec: u64,
    /// Instructions that the guest had run, if they were counted.
    pub icount: Option<u64>,
    /// Size of the disk at the time, in bytes.
    pub disk_size: Option<u64>,
}

/// One image of a chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayerInfo {
    /// Where it was opened.
    pub path: PathBuf,
    /// Its format.
    pub format: Format,
    /// Its virtual size in bytes.
    pub size: u64,
    /// Its identity, if it is a backup that Holstein made, or a copy of one.
    pub identity: Option<Identity>,
    /// The identity that it had until Holstein changed its disk.
    pub former_identity: Option<Identity>,
    /// That of the backup below it, by its own header.
    pub parent: Option<Identity>,
    /// It is only a part of a disk, as what the top image of a chain holds: an image has to lie below.
    pub is_part: bool,
    /// Whether what lies below is that.
    pub link: Link,
}

/// How an image of a chain stands on the one below it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Link {
    /// Nothing lies below, and nothing has to.
    Bottom,
    /// The image below is the backup that it was made over.
    Proven,
    /// It, or the image below, says nothing about that.
    Unknown,
    /// The image below is another backup, or was changed since it was that, or nothing
    /// lies below a part of a disk, such as an increment.
    Broken,
}

impl Link {
    fn between(image: &LayerInfo, below: Option<&LayerInfo>) -> Self {
        let (parent, below) = match (image.parent, below) {
            (None, None) if !image.is_part => return Link::Bottom,
            (_, None) => return Link::Broken,
            (None, Some(_)) => return Link::Unknown,
            (Some(parent), Some(below)) => (parent, below),
        };
        match below.identity {
            Some(identity) if identity == parent => Link::Proven,
            Some(_) => Link::Broken,
            None if below.former_identity.is_some() => Link::Broken,
            None => Link::Unknown,
        }
    }
}

impl Image {
    /// What the top layer says about itself.
    pub(crate) fn info(&self) -> Result<DiskInfo> {
        let top = &self.layers[0];
        let header = top.qcow2().map(|image| image.header());
        let backing = header.and_then(|header| {
            let name = lossy(header.backing()?);
            let format = header.backing_format().map(lossy);
            Some(BackingInfo { full_name: full_name(self.path(), &name), name, format })
        });
        Ok(DiskInfo {
            format: top.format(),
            virtual_size: top.size,
            actual_size: top.file().allocated()?,
            file_length: top.file().len()?,
            file_kind: top.file().kind()?,
            backing,
            snapshots: top
                .qcow2()
                .map(|i| i.snapshots().iter().map(snapshot_info).collect())
                .unwrap_or_default(),
            qcow2: top.qcow2_info(),
        })
    }

    /// The snapshot of the top layer that has this id.
    pub(crate) fn snapshot(&self, id: &[u8]) -> Option<SnapshotInfo> {
        self.qcow2()?.snapshots().iter().find(|snapshot| snapshot.id == id).map(snapshot_info)
    }

    /// All images of the chain, the top first.
    pub(crate) fn chain(&self) -> Vec<LayerInfo> {
        let below = (0..self.below.len()).map(|index| self.below.facts(index).info.clone());
        let mut chain: Vec<_> = self.layers.iter().map(|layer| layer.info()).chain(below).collect();
        for index in 0..chain.len() {
            chain[index].link = Link::between(&chain[index], chain.get(index + 1));
        }
        chain
    }
}

impl Layer {
    pub(super) fn info(&self) -> LayerInfo {
        let lineage = self.qcow2().and_then(|top| top.header().extensions.lineage.as_ref());
        LayerInfo {
            path: self.file().path().to_owned(),
            format: self.format(),
            size: self.size,
            identity: lineage.and_then(|lineage| lineage.identity),
            former_identity: lineage.and_then(|lineage| lineage.former),
            parent: lineage.and_then(|lineage| lineage.parent),
            is_part: lineage.is_some_and(|lineage| lineage.is_part),
            // Told where the whole chain is.
            link: Link::Unknown,
        }
    }

    pub(crate) fn format(&self) -> Format {
        if self.qcow2().is_some() { Format::Qcow2 } else { Format::Raw }
    }

    fn qcow2_info(&self) -> Option<Qcow2Info> {
        let image = self.qcow2()?;
        let header = image.header();
        let lineage = header.extensions.lineage.as_ref();
        let entry = |entry: &bitmap::Entry| BitmapEntryInfo {
            name: entry.name.clone(),
            granularity: entry.granularity(),
            in_use: entry.in_use,
            auto: entry.auto,
            base: lineage.and_then(|lineage| lineage.base(&entry.name)),
        };
        let bitmaps = match header.bitmaps_are_current() {
            true => image.bitmaps().iter().map(entry).collect(),
            false => Vec::new(),
        };
        Some(Qcow2Info {
            version: header.version,
            cluster_size: header.geometry.cluster_size(),
            compression: header.compression,
            lazy_refcounts: header.compatible & compatible::LAZY_REFCOUNTS != 0,
            refcount_bits: 1 << header.geometry.refcount_order,
            corrupt: header.has(incompatible::CORRUPT),
            dirty: header.has(incompatible::DIRTY),
            snapshot_damage: image.snapshot_damage().map(str::to_owned),
            extended_l2: header.geometry.extended_l2,
            data_file: header.data_file().map(lossy),
            data_file_raw: header.autoclear & autoclear::DATA_FILE_RAW != 0,
            bitmaps,
            identity: lineage.and_then(|lineage| lineage.identity),
            former_identity: lineage.and_then(|lineage| lineage.former),
            parent: lineage.and_then(|lineage| lineage.parent),
            unknown_extensions: header
                .extensions
                .unknown
                .iter()
                .map(|e| (e.kind, e.data.len() as u32))
                .collect(),
        })
    }
}

fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A relative name starts from the image's folder.
fn full_name(image: &Path, name: &str) -> Option<String> {
    if name.find([':', '/']).is_some_and(|at| name.as_bytes()[at] == b':') {
        // No path: told as it is.
        return Some(name.to_owned());
    }
    let folder = policy::folder_of(image);
    let path = if folder == Path::new(".") && image.parent() == Some(Path::new("")) {
        PathBuf::from(name)
    } else {
        folder.join(name)
    };
    Some(path.to_string_lossy().into_owned())
}

fn snapshot_info(snapshot: &Snapshot) -> SnapshotInfo {
    SnapshotInfo {
        id: lossy(&snapshot.id),
        name: lossy(&snapshot.name),
        vm_state_size: snapshot.vm_state_size,
        date_sec: snapshot.date_sec,
        date_nsec: snapshot.date_nsec,
        vm_clock_nsec: snapshot.vm_clock_nsec,
        icount: snapshot.icount,
        disk_size: snapshot.disk_size,
    }
}
