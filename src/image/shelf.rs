//! The lower images of a long chain. They are parsed when the chain is opened, then closed, and opened again when they
//! are needed: so descriptors and memory are bounded, however long the chain is.
//!
//! An image that is closed is not locked. When it is opened again it must be the same file, unwritten since; an image
//! whose file does not tell whether it was written is never closed.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use super::{
    Layer, LayerInfo,
    budget::Budget,
    open::{Format, ImageOptions, Sharing},
};
use crate::{
    error::{ErrorKind, Result},
    format::header::CompressionType,
    storage::{File, FileId, RightsLimit, Stamp, Storage},
};

/// So many upper images of a chain stay open as long as the chain is.
pub(super) const STAYING: usize = 48;

/// So many of the others are open at a time.
const TAKING_TURNS: usize = 16;

/// How a lower image is named by the one above it.
#[derive(Clone, Debug)]
pub(super) struct Named {
    /// The path of the image above.
    pub(super) above: PathBuf,
    pub(super) name: Vec<u8>,
    pub(super) format: Format,
}

/// What is known of an image without opening it.
#[derive(Clone, Debug)]
pub(crate) struct LayerFacts {
    pub(crate) info: LayerInfo,
    /// How its compressed clusters are compressed, and the size of its clusters.
    pub(crate) streams: Option<(CompressionType, u64)>,
    /// Its files: the image, then its data file.
    pub(crate) files: Vec<(FileId, PathBuf)>,
    /// What all of them allow, where files have rights.
    pub(crate) limit: Option<RightsLimit>,
}

/// The lower images of one chain.
#[derive(Debug)]
pub(super) struct Shelf {
    storage: Arc<dyn Storage>,
    options: ImageOptions,
    budget: Budget,
    resting: Vec<Resting>,
    /// Those that are open, the one that was used last at the end.
    open: Mutex<Vec<Kept>>,
}

#[derive(Debug)]
struct Resting {
    named: Named,
    facts: LayerFacts,
    stamps: Vec<Stamp>,
}

#[derive(Debug)]
struct Kept {
    index: usize,
    layer: Arc<Layer>,
    /// Whether a write would show while it is closed; found out when it is to be closed.
    may_close: Option<bool>,
}

impl Shelf {
    pub(super) fn new(storage: Arc<dyn Storage>, options: &ImageOptions, budget: Budget) -> Self {
        Shelf { storage, options: options.clone(), budget, resting: Vec::new(), open: Mutex::default() }
    }

    pub(super) fn len(&self) -> usize {
        self.resting.len()
    }

    pub(super) fn facts(&self, index: usize) -> &LayerFacts {
        &self.resting[index].facts
    }

    /// Adds the next lower image, which is open.
    pub(super) fn push(&mut self, named: Named, layer: Layer, stamps: Vec<(File, Stamp)>) -> Result<()> {
        let stamps = stamps.into_iter().map(|(_, stamp)| stamp).collect();
        let (index, facts) = (self.resting.len(), layer.facts()?);
        self.resting.push(Resting { named, facts, stamps });
        let mut open = self.open();
        self.make_room(&mut open, TAKING_TURNS - 1)?;
        open.push(Kept { index, layer: Arc::new(layer), may_close: None });
        Ok(())
    }

    /// An image, opened if it is not.
    pub(super) fn layer(&self, index: usize) -> Result<Arc<Layer>> {
        let mut open = self.open();
        let kept = match open.iter().position(|kept| kept.index == index) {
            Some(at) => open.remove(at),
            None => {
                self.make_room(&mut open, TAKING_TURNS - 1)?;
                let layer = Arc::new(self.with_room(&mut open, || self.reopen(index))?);
                Kept { index, layer, may_close: None }
            }
        };
        let layer = kept.layer.clone();
        open.push(kept);
        Ok(layer)
    }

    /// Fails when one of the images was written since it was opened first.
    pub(super) fn ensure_unchanged(&self) -> Result<()> {
        (0..self.resting.len()).try_for_each(|index| self.check(index, &*self.layer(index)?))
    }

    /// Does what takes memory; images that are not needed now are closed where it does not suffice.
    pub(super) fn make_fit<T>(&self, attempt: impl Fn() -> Result<T>) -> Result<T> {
        self.with_room(&mut self.open(), attempt)
    }

    fn with_room<T>(&self, open: &mut Vec<Kept>, attempt: impl Fn() -> Result<T>) -> Result<T> {
        match attempt() {
            Err(e) if e.kind() == ErrorKind::Limit && !open.is_empty() => {
                self.make_room(open, 0)?;
                attempt()
            }
            result => result,
        }
    }

    fn reopen(&self, index: usize) -> Result<Layer> {
        let Resting { named, facts, .. } = &self.resting[index];
        let same = |file: &File| match file.id()? == facts.files[0].0 {
            true => Ok(()),
            false => {
                Err(file.error(ErrorKind::Io, "another file has taken this name since the chain was opened"))
            }
        };
        let (layer, _) = Layer::open_named(&*self.storage, &self.options, &self.budget, named, same)?;
        self.check(index, &layer)?;
        Ok(layer)
    }

    /// Whether an image is as it was. With force-share others may write it; but it must still be the same one.
    fn check(&self, index: usize, layer: &Layer) -> Result<()> {
        let Resting { facts, stamps, .. } = &self.resting[index];
        let mut same = layer.size == facts.info.size && layer.files().count() == facts.files.len();
        for ((file, (id, _)), stamp) in layer.files().zip(&facts.files).zip(stamps) {
            same &= file.id()? == *id;
            same &= self.options.sharing == Sharing::ForceShare || file.stamp()?.is_same(stamp);
        }
        if same { Ok(()) } else { Err(layer.file().error(ErrorKind::Io, super::WRITTEN)) }
    }

    /// Closes images until `most` are open, as far as they may be closed.
    fn make_room(&self, open: &mut Vec<Kept>, most: usize) -> Result<()> {
        let mut at = 0;
        while open.len() > most && at < open.len() {
            let kept = &mut open[at];
            let may_close = match kept.may_close {
                Some(known) => known,
                None => *kept.may_close.insert(self.may_close(kept.index, &kept.layer)?),
            };
            if may_close { drop(open.remove(at)) } else { at += 1 }
        }
        Ok(())
    }

    /// Whether every write from now on will show. One that has come already shows when the chain is looked at in the end.
    fn may_close(&self, index: usize, layer: &Layer) -> Result<bool> {
        if self.options.sharing == Sharing::ForceShare {
            return Ok(true);
        }
        for (file, stamp) in layer.files().zip(&self.resting[index].stamps) {
            if file.distinct_version()?.is_none() || !file.stamp()?.is_same(stamp) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn open(&self) -> MutexGuard<'_, Vec<Kept>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
