//! One open image and the images below it.
//!
//! An [`Image`] is a chain of layers, the top first. Everything about it is decided in two steps: first
//! *where* a guest range is ([`Image::runs`], no data is touched), then its data is moved ([`Image::read_at`]).
//! [`create`] makes new images, [`edit`] changes the metadata of one that exists, [`write`] its guest data.

mod budget;
mod cache;
mod chain;
mod check;
pub(crate) mod create;
pub(crate) mod edit;
mod file_extents;
mod info;
mod mapping;
mod open;
mod overlap;
mod policy;
mod qcow2;
mod raw;
mod read;
mod shelf;
mod snapshot_table;
mod write;

use std::{ops::Deref, path::Path, sync::Arc};

pub(crate) use budget::{Budget, Grant};
pub use chain::Map;
pub(crate) use chain::Walk;
pub(crate) use check::ImageFile;
pub use check::{
    CheckProblem, CheckProblemKind, CheckReport, CheckSeverity, CheckVerdict, LostBitmap, LostSnapshots,
    RepairMode, RepairReport,
};
pub use create::{Backing, Compat, CreateOptions, Existing, Preallocation};
pub use edit::SnapshotChange;
use file_extents::FileExtents;
pub use info::{BackingInfo, BitmapEntryInfo, DiskInfo, LayerInfo, Link, Qcow2Info, SnapshotInfo};
pub use mapping::{Mapping, Run};
pub use open::{Access, Format, ImageOptions, Layers, Sharing};
pub(crate) use overlap::for_each_metadata_range;
pub use policy::BackingPolicy;
pub(crate) use policy::{check_name, folder_of};
pub(crate) use qcow2::{Qcow2, read_first_cluster, read_table};
pub(crate) use shelf::LayerFacts;
use shelf::Shelf;
pub(crate) use write::Writer;

use crate::{
    error::{Error, ErrorKind, Result},
    format::l2::Compressed,
    storage::{File, RightsLimit, Stamp},
};

/// What two files allow, where files have rights.
fn both(one: Option<RightsLimit>, other: Option<RightsLimit>) -> Option<RightsLimit> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.and(other)),
        (one, other) => one.or(other),
    }
}

/// What a source that changed meanwhile is refused with.
const WRITTEN: &str = "the image was written while it was read; nothing made from it can be trusted";

/// A chain of layers, open for reading.
#[derive(Debug)]
pub(crate) struct Image {
    /// The upper ones, which stay open: in most chains all.
    layers: Vec<Arc<Layer>>,
    /// The others, opened when they are needed.
    below: Arc<Shelf>,
    /// Each file that stays open as it was before it was parsed.
    stamps: Vec<(File, Stamp)>,
    storage: Arc<dyn crate::storage::Storage>,
}

/// One image file of a chain.
#[derive(Debug)]
pub(crate) struct Layer {
    kind: LayerKind,
    size: u64,
}

/// A layer that is open as long as this is held.
#[derive(Debug)]
pub(crate) enum OpenLayer<'a> {
    Staying(&'a Layer),
    Taken(Arc<Layer>),
}

impl Deref for OpenLayer<'_> {
    type Target = Layer;

    fn deref(&self) -> &Layer {
        match self {
            OpenLayer::Staying(layer) => layer,
            OpenLayer::Taken(layer) => layer,
        }
    }
}

#[derive(Debug)]
enum LayerKind {
    Qcow2(Box<Qcow2>),
    Raw(raw::Raw),
}

impl Image {
    /// Virtual size of the top layer in bytes.
    pub(crate) fn size(&self) -> u64 {
        self.layers[0].size
    }

    pub(crate) fn path(&self) -> &Path {
        self.layers[0].file().path()
    }

    /// The top layer.
    pub(crate) fn top(&self) -> &Layer {
        &self.layers[0]
    }

    /// How many layers the chain has, as far as it was opened.
    pub(crate) fn layer_count(&self) -> usize {
        self.layers.len() + self.below.len()
    }

    /// How many of the upper ones stay open.
    pub(crate) fn staying_count(&self) -> usize {
        self.layers.len()
    }

    /// What was read of its files without leaving it in the cache is dropped now.
    pub(crate) fn end_uncached(&self) {
        // Of the others when they are closed.
        self.layers.iter().filter_map(|layer| layer.data_file().ok()).for_each(File::end_uncached);
    }

    /// The layer so many below the top; there must be one.
    pub(crate) fn layer(&self, depth: usize) -> Result<OpenLayer<'_>> {
        Ok(match depth.checked_sub(self.layers.len()) {
            None => OpenLayer::Staying(&self.layers[depth]),
            Some(index) => OpenLayer::Taken(self.below.layer(index)?),
        })
    }

    /// The virtual size of a layer, as [`Image::layer`] counts them.
    pub(crate) fn size_of(&self, depth: usize) -> u64 {
        match depth.checked_sub(self.layers.len()) {
            None => self.layers[depth].size,
            Some(index) => self.below.facts(index).info.size,
        }
    }

    /// The virtual size of the layer below the top one, if it is open.
    pub(crate) fn size_below(&self) -> Option<u64> {
        (self.layer_count() > 1).then(|| self.size_of(1))
    }

    /// What is known of each layer, the top first.
    pub(crate) fn facts(&self) -> impl Iterator<Item = Result<LayerFacts>> + '_ {
        let staying = self.layers.iter().map(|layer| layer.facts());
        staying.chain((0..self.below.len()).map(|index| Ok(self.below.facts(index).clone())))
    }

    /// What all of its files allow: a copy has something of each.
    pub(crate) fn limit(&self) -> Result<Option<RightsLimit>> {
        self.facts().try_fold(None, |limit, facts| Ok(both(limit, facts?.limit)))
    }

    /// The top layer, if it is a qcow2 image.
    pub(crate) fn qcow2(&self) -> Option<&Qcow2> {
        self.layers[0].qcow2()
    }

    /// Fails when somebody who does not heed locks has written one of the chain's files since they had these stamps.
    pub(crate) fn ensure_unchanged(&self, stamps: &[(File, Stamp)]) -> Result<()> {
        for (file, stamp) in stamps {
            if !file.stamp()?.is_same(stamp) {
                return Err(Self::written(file));
            }
        }
        self.below.ensure_unchanged()
    }

    /// The error of a file that somebody has written.
    pub(crate) fn written(file: &File) -> Error {
        file.error(ErrorKind::Io, WRITTEN)
    }

    /// Each file that stays open as it was before it was parsed.
    pub(crate) fn stamps(&self) -> &[(File, Stamp)] {
        &self.stamps
    }

    pub(crate) fn storage(&self) -> &Arc<dyn crate::storage::Storage> {
        &self.storage
    }
}

impl Layer {
    pub(crate) fn qcow2(&self) -> Option<&Qcow2> {
        match &self.kind {
            LayerKind::Qcow2(image) => Some(image),
            LayerKind::Raw(_) => None,
        }
    }

    /// The image file itself.
    pub(crate) fn file(&self) -> &File {
        match &self.kind {
            LayerKind::Qcow2(image) => image.file(),
            LayerKind::Raw(image) => image.file(),
        }
    }

    /// All files that this layer keeps open.
    pub(crate) fn files(&self) -> impl Iterator<Item = &File> {
        [Some(self.file()), self.qcow2().and_then(Qcow2::external_data_file)].into_iter().flatten()
    }

    fn facts(&self) -> Result<LayerFacts> {
        let files =
            self.files().map(|file| Ok((file.id()?, file.path().to_owned()))).collect::<Result<_>>()?;
        let streams = self.qcow2().map(|image| (image.header().compression, image.geometry().cluster_size()));
        let limit = self
            .files()
            .try_fold(None, |limit, file| Ok(both(limit, file.rights()?.map(RightsLimit::from))))?;
        Ok(LayerFacts { info: self.info(), streams, files, limit })
    }

    /// Where the start of a guest range is, and how far (up to `length`) it goes on so.
    fn map_at(&self, offset: u64, length: u64, extents: &mut FileExtents) -> Result<(Mapping, u64)> {
        match &self.kind {
            LayerKind::Qcow2(image) => image.map_at(offset, length, extents),
            LayerKind::Raw(image) => image.map_at(offset, length, extents),
        }
    }

    /// The file that a [`Mapping::Data`] of this layer lies in.
    pub(crate) fn data_file(&self) -> Result<&File> {
        match &self.kind {
            LayerKind::Qcow2(image) => image.data_file(),
            LayerKind::Raw(image) => Ok(image.file()),
        }
    }

    /// The stream of the compressed cluster that covers guest byte `offset`, if there is one.
    pub(crate) fn compressed_at(&self, offset: u64) -> Result<Option<Compressed>> {
        self.qcow2().map_or(Ok(None), |image| image.compressed_at(offset))
    }
}
