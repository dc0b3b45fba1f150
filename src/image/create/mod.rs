//! Making new images, front to back.
//!
//! [`CreateOptions`] is what a caller asks for. A target is written in guest order: [`Layout`] decides where
//! everything goes and keeps the tables, and a [`TargetFile`] is the file until it has its name.
//!
//! Order of writes of a qcow2 target: data and full L2 tables and refcount blocks as they come, then the last
//! of them, the L1 table and the refcount table; sync; the header; sync. Until the header is there the first
//! cluster is a hole, so a crash at any moment leaves a file that is no image at all.

mod header;
mod layout;
mod names;
mod options;
mod target_file;
#[cfg(test)]
mod tests;

use std::sync::{
    Mutex, PoisonError,
    atomic::{AtomicU64, Ordering},
};

use layout::Layout;
pub(crate) use layout::{DataFileName, Extent, LayoutOptions, Origin};
pub(crate) use names::{Recovered, exchange, give, is_placeholder, tidy, transit};
pub(crate) use options::check_cluster_size;
pub use options::{Backing, Compat, CreateOptions, Existing, Preallocation};
pub(crate) use target_file::{OWN_PREFIX, TargetFile, is_absent, place, refuse_existing, refuse_own_name};

use super::Format;
use crate::{
    error::Result,
    storage::{File, PageCache},
};

/// A new image that is being written.
#[derive(Debug)]
pub(crate) struct Target {
    file: File,
    size: u64,
    layout: Option<Mutex<Layout>>,
    /// Drops what is written from the cache.
    page_cache: PageCache,
    /// Up to where that was done, as far as it was written back.
    dropped: AtomicU64,
}

/// Bytes at the end that stay in the cache: the kernel is still writing them back.
const WRITEBACK: u64 = 32 << 20;
/// Bytes between two drops.
const DROP_BYTES: u64 = 64 << 20;

/// What becomes of a guest range of whole target clusters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Content {
    /// Reads as zero, whatever a backing file has.
    Zero,
    /// Data that lies at this position of the writer's buffer.
    Data { at: usize },
    /// Data that another file has, to be shared with it.
    Shared,
    /// One cluster, compressed, as a stream at this position of the writer's buffer.
    Stream { at: usize, length: usize },
}

/// A guest range and what becomes of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Item {
    pub(crate) guest: u64,
    pub(crate) length: u64,
    pub(crate) content: Content,
}

impl Target {
    /// A qcow2 image in an empty file.
    pub(crate) fn qcow2(file: File, options: LayoutOptions) -> Result<Target> {
        let size = options.size;
        Ok(Self::new(file, size, Some(Mutex::new(Layout::new(options)?))))
    }

    /// A raw image in an empty file.
    pub(crate) fn raw(file: File, size: u64) -> Result<Target> {
        file.set_len(size)?;
        Ok(Self::new(file, size, None))
    }

    fn new(file: File, size: u64, layout: Option<Mutex<Layout>>) -> Target {
        Target { file, size, layout, page_cache: PageCache::Keep, dropped: AtomicU64::new(0) }
    }

    /// The same, which does this about the page cache.
    pub(crate) fn with_page_cache(self, page_cache: PageCache) -> Target {
        Target { page_cache, ..self }
    }

    /// Gives each guest cluster of a qcow2 image a place in advance. Nothing can be placed afterwards.
    pub(crate) fn preallocate(&self) -> Result<()> {
        match &self.layout {
            Some(layout) => layout.lock().unwrap_or_else(PoisonError::into_inner).preallocate(&self.file),
            None => Ok(()),
        }
    }

    /// Decides where `items` go. Items must come in guest order over all calls. Tables that are complete are written,
    /// or kept where that fails: [`Target::write_kept`] must follow.
    pub(crate) fn place(&self, items: &[Item]) -> Result<Vec<Extent>> {
        let Some(layout) = &self.layout else { return Ok(self.place_raw(items)) };
        let mut layout = layout.lock().unwrap_or_else(PoisonError::into_inner);
        let mut extents: Vec<Extent> = Vec::with_capacity(items.len());
        for item in items {
            layout.place(&self.file, item, &mut extents)?;
        }
        Ok(extents)
    }

    /// Tells whether a table of what was placed could not be written. When that was told it tries again, and what was
    /// placed keeps its place.
    pub(crate) fn write_kept(&self) -> Result<()> {
        match &self.layout {
            Some(layout) => layout.lock().unwrap_or_else(PoisonError::into_inner).write_kept(&self.file),
            None => Ok(()),
        }
    }

    /// Whether it makes sense to try again what has failed: not after a failed sync.
    pub(crate) fn can_be_retried(&self) -> bool {
        self.file.ensure_writable().is_ok()
    }

    /// In a raw image everything has its place already, and zeros are holes.
    fn place_raw(&self, items: &[Item]) -> Vec<Extent> {
        let extent = |item: &Item| {
            let origin = match item.content {
                Content::Data { at } => Origin::Buffer(at),
                Content::Shared => Origin::Guest(item.guest),
                Content::Zero | Content::Stream { .. } => return None,
            };
            let length = item.length.min(self.size.checked_sub(item.guest)?) as usize;
            (length > 0).then_some(Extent { host: item.guest, origin, length })
        };
        items.iter().filter_map(extent).collect()
    }

    /// What it is.
    pub(crate) fn format(&self) -> Format {
        if self.layout.is_some() { Format::Qcow2 } else { Format::Raw }
    }

    /// Whether several threads that write placed data at once are faster than one after the other.
    pub(crate) fn writes_in_parallel(&self) -> bool {
        self.file.writes_in_parallel()
    }

    /// Writes placed data from the buffer that the items were about.
    pub(crate) fn write(&self, extents: &[Extent], buf: &[u8]) -> Result<()> {
        for extent in extents {
            if let Origin::Buffer(at) = extent.origin {
                self.write_at(&buf[at..at + extent.length], extent.host)?;
            }
        }
        Ok(())
    }

    /// Writes data to its place.
    pub(crate) fn write_at(&self, data: &[u8], host: u64) -> Result<()> {
        self.file.write_all(data, host)?;
        self.file.start_writeback(host, data.len() as u64);
        self.drop_behind(host + data.len() as u64);
        Ok(())
    }

    /// Drops what was written before from the cache. What was not written back the last time may be now, so it begins at
    /// the start each time; what is not there costs nothing.
    fn drop_behind(&self, end: u64) {
        let end = end.saturating_sub(WRITEBACK);
        let dropped = self.dropped.load(Ordering::Relaxed);
        if self.page_cache == PageCache::Drop && end >= dropped.saturating_add(DROP_BYTES) {
            self.dropped.store(end, Ordering::Relaxed);
            self.file.drop_cached(0, end);
        }
    }

    /// Gives data its place by sharing it with `source`.
    pub(crate) fn clone_range(&self, source: &File, from: u64, length: u64, host: u64) -> Result<()> {
        self.file.clone_range(source, from, length, host)
    }

    /// Writes what is missing, after all data, and makes everything durable. Returns the length of the file. After an
    /// error it can be called again while [`Target::can_be_retried`].
    pub(crate) fn finish(&self) -> Result<u64> {
        let length = self.complete()?;
        if self.page_cache == PageCache::Drop {
            self.file.drop_cached(0, length);
        }
        Ok(length)
    }

    fn complete(&self) -> Result<u64> {
        let Some(layout) = &self.layout else {
            self.file.open_up()?;
            self.file.sync()?;
            return self.file.len();
        };
        let mut layout = layout.lock().unwrap_or_else(PoisonError::into_inner);
        let header = layout.finish(&self.file)?;
        self.file.sync()?;
        self.file.write_all(&header, 0)?;
        self.file.open_up()?;
        self.file.sync()?;
        self.file.len()
    }
}
