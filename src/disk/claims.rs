//! What a running transaction will change, bitmaps above all: nobody else may, until it has ended.

use std::{
    collections::HashSet,
    sync::{MutexGuard, PoisonError},
};

use super::Disk;
use crate::{
    bitmap::{self, BitmapChange, DirtyBitmap, MergeSource, Purpose},
    error::{Error, ErrorKind, Result},
    format::{lineage::Identity, text::printable},
};

/// The right to change one bitmap; given back on drop.
#[derive(Debug)]
pub(crate) struct BitmapClaim {
    disk: Disk,
    name: Vec<u8>,
    /// So many changes of the disk's bitmaps come before its own.
    position: usize,
}

/// What running transactions will change in one disk's image.
#[derive(Debug, Default)]
pub(super) struct Claims {
    bitmaps: HashSet<Vec<u8>>,
    scopes: Vec<Scope>,
}

/// What the actions of a transaction beside its backups change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scope {
    /// Bitmaps; others may change other ones meanwhile.
    Bitmaps,
    /// Snapshots are taken; nobody else takes some meanwhile.
    Snapshots,
    /// Tables move, or another image will lie on top: nobody else changes the image meanwhile.
    Image,
}

/// The right to change what the actions of a transaction are about; given back on drop.
#[derive(Debug)]
pub(crate) struct Claim {
    disk: Disk,
    bitmaps: Vec<Vec<u8>>,
    scope: Scope,
}

impl Disk {
    /// Claims bitmaps, and more by `scope`, for a transaction whose backups keep the bitmaps in `own`. Two transactions that
    /// would be in each other's way do not both start.
    pub(crate) fn claim(&self, scope: Scope, names: &[&Vec<u8>], own: &[&Vec<u8>]) -> Result<Claim> {
        let mut claims = self.claims();
        self.refuse_claimed(&claims)?;
        let others = claims.bitmaps.iter().any(|name| !own.contains(&name));
        let taken = match scope {
            Scope::Bitmaps => false,
            Scope::Snapshots => claims.scopes.contains(&Scope::Snapshots),
            Scope::Image => others || !claims.scopes.is_empty(),
        };
        if taken {
            let text =
                "another transaction that runs will change the image, too; try again when that has ended";
            return Err(Error::new(ErrorKind::WrongState, format!("'{}': {text}", self.path().display())));
        }
        let names: HashSet<_> = names.iter().filter(|name| !own.contains(name)).copied().collect();
        if let Some(name) = names.iter().find(|name| claims.bitmaps.contains(**name)) {
            return Err(self.busy_error(name));
        }
        let bitmaps: Vec<_> = names.into_iter().cloned().collect();
        claims.bitmaps.extend(bitmaps.iter().cloned());
        claims.scopes.push(scope);
        Ok(Claim { disk: self.clone(), bitmaps, scope })
    }

    /// Refuses to change an image that somebody else changes as a whole.
    fn refuse_claimed(&self, claims: &Claims) -> Result<()> {
        if !claims.scopes.contains(&Scope::Image) {
            return Ok(());
        }
        let text = "a running transaction deletes a snapshot of it or lays an image over it; it can be changed when that \
                    has ended";
        Err(Error::new(ErrorKind::WrongState, format!("'{}': {text}", self.path().display())))
    }

    fn claims(&self) -> MutexGuard<'_, Claims> {
        self.0.claims.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps a bitmap for a backup that will clear it, after changes that are made before. Everything that could speak
    /// against clearing it is found out now.
    pub(crate) fn keep_bitmap(&self, name: &[u8], before: &[BitmapChange]) -> Result<BitmapClaim> {
        self.rehearse_kept(&[before, &[BitmapChange::Clear { name: name.to_vec() }]].concat(), &[])?;
        let mut claims = self.claims();
        self.refuse_claimed(&claims)?;
        if !claims.bitmaps.insert(name.to_vec()) {
            return Err(self.busy_error(name));
        }
        Ok(BitmapClaim { disk: self.clone(), name: name.to_vec(), position: before.len() })
    }

    /// Finds out whether a list of changes makes sense, by the bitmaps alone.
    pub(crate) fn validate_bitmaps(&self, changes: &[BitmapChange]) -> Result<()> {
        let image = self.writable_image()?;
        image.qcow2().map_or(Ok(()), |top| bitmap::validate(top, changes))
    }

    /// Loads a bitmap as changes that are still to be made will have made it.
    pub(crate) fn bitmap_after(
        &self,
        changes: &[BitmapChange],
        name: &[u8],
        purpose: Purpose,
    ) -> Result<DirtyBitmap> {
        match self.at_rest()?.qcow2() {
            Some(top) => bitmap::load_after(top, changes, name, purpose),
            None => Err(self.has_no_bitmaps()),
        }
    }

    /// Loads a bitmap of the image below the top one.
    pub(crate) fn bitmap_below(&self, name: &[u8]) -> Result<DirtyBitmap> {
        let image = self.image();
        if image.layer_count() == 1 {
            let text = format!("'{}' has no image below it, or was opened without", self.path().display());
            return Err(Error::new(ErrorKind::BitmapNotFound, text));
        }
        match image.layer(1)?.qcow2() {
            Some(below) => bitmap::load(below, name),
            None => Err(self.has_no_bitmaps()),
        }
    }

    pub(super) fn has_no_bitmaps(&self) -> Error {
        let text = format!("'{}': a raw image has no bitmaps", self.path().display());
        Error::new(ErrorKind::BitmapNotFound, text)
    }

    /// A bitmap of this disk, for messages.
    pub(crate) fn bitmap_text(&self, name: &[u8]) -> String {
        format!("bitmap '{}' of '{}'", printable(name), self.path().display())
    }

    /// Refuses names of bitmaps that are kept.
    pub(crate) fn refuse_busy(&self, names: &[&Vec<u8>]) -> Result<()> {
        let claims = self.claims();
        match names.iter().find(|name| claims.bitmaps.contains(**name)) {
            Some(name) => Err(self.busy_error(name)),
            None => Ok(()),
        }
    }

    fn busy_error(&self, name: &[u8]) -> Error {
        let text = format!(
            "'{}': bitmap '{}' is in use by a running backup",
            self.path().display(),
            printable(name)
        );
        Error::new(ErrorKind::WrongState, text)
    }
}

impl BitmapClaim {
    /// Its disk.
    pub(crate) fn disk(&self) -> &Disk {
        &self.disk
    }

    /// So many changes of the disk's bitmaps come before its own.
    pub(crate) fn position(&self) -> usize {
        self.position
    }

    /// The changes that make it clean, and count from a backup from then on.
    pub(crate) fn clear(&self, backup: Option<Identity>) -> Vec<BitmapChange> {
        let name = || self.name.clone();
        vec![BitmapChange::Clear { name: name() }, BitmapChange::CountFrom { name: name(), backup }]
    }

    /// The same, but dirty where `dirty` is.
    pub(crate) fn replace(&self, dirty: DirtyBitmap, backup: Option<Identity>) -> Vec<BitmapChange> {
        let merge =
            BitmapChange::Merge { name: self.name.clone(), sources: vec![MergeSource::Loaded(dirty)] };
        [self.clear(backup), vec![merge]].concat()
    }

    /// Whether it remembers that it counts from this backup: its image's header had room for that.
    pub(crate) fn counts_from(&self, backup: Identity) -> bool {
        self.disk.bitmap_base(&self.name).is_ok_and(|base| base.is_some_and(|base| base.backup == backup))
    }

    /// A clean bitmap of its disk with its granularity.
    pub(crate) fn emptied(&self) -> Result<DirtyBitmap> {
        let image = self.disk.image();
        let entry = image.qcow2().and_then(|top| top.bitmaps().iter().find(|entry| entry.name == self.name));
        let bits = entry.map_or(16, |entry| entry.granularity_bits);
        DirtyBitmap::clean(self.name.clone(), bits, image.size())
    }

    /// For messages.
    pub(crate) fn text(&self) -> String {
        self.disk.bitmap_text(&self.name)
    }
}

impl Drop for BitmapClaim {
    fn drop(&mut self) {
        self.disk.claims().bitmaps.remove(&self.name);
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let mut claims = self.disk.claims();
        claims.bitmaps.retain(|name| !self.bitmaps.contains(name));
        if let Some(at) = claims.scopes.iter().position(|scope| *scope == self.scope) {
            claims.scopes.swap_remove(at);
        }
    }
}
