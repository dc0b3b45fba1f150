//! Changes of a disk's bitmaps and snapshots that are durable but for the one sector that decides: a transaction over
//! several disks decides on all of them together.

use std::{
    path::Path,
    sync::{Arc, Condvar, Mutex, PoisonError, atomic::Ordering},
    time::Duration,
};

use super::{
    Disk,
    fingerprint::Fingerprint,
    recover::Switch,
    write::{Pinned, after_change},
};
use crate::{
    bitmap::{self, BitmapChange, NewBitmaps},
    error::{Error, ErrorKind, Result},
    image::{
        Qcow2, SnapshotChange,
        edit::{Edit, HeaderChange, SnapshotPlan, Staged, bases_in, is_marked},
    },
    memory,
    storage::FileId,
};

/// So long a change waits for another of the same disk to be published. Two transactions over the same disks in another
/// order would wait for each other for ever.
const PATIENCE: Duration = Duration::from_secs(if cfg!(test) { 2 } else { 30 });

/// A staged change; dropped undecided, it is taken back.
#[derive(Debug)]
pub(crate) struct StagedBitmaps {
    disk: Disk,
    staged: Option<Staged>,
    /// Tables of the disk are free when it is published.
    frees_tables: bool,
    /// It is about the image as it is: nobody else changes that meanwhile.
    _pinned: Pinned,
    _turn: Turn,
}

/// One change of a disk is staged at a time: another would be about an image that is not there any more when this one is
/// published.
#[derive(Debug, Default)]
pub(super) struct Turns {
    taken: Mutex<bool>,
    free: Condvar,
}

/// The right to stage a change; given back on drop.
#[derive(Debug)]
pub(super) struct Turn(Disk);

impl Drop for Turn {
    fn drop(&mut self) {
        let Turns { taken, free } = &self.0.0.turn;
        *taken.lock().unwrap_or_else(PoisonError::into_inner) = false;
        free.notify_one();
    }
}

/// Changes of an image's bitmaps and snapshots, written but for their refcounts and the header that decides.
pub(super) struct Written<'a> {
    pub(super) edit: Edit<'a>,
    pub(super) change: HeaderChange,
    frees_tables: bool,
}

impl<'a> Written<'a> {
    pub(super) fn new(top: &'a Qcow2, bitmaps: &NewBitmaps, plan: &SnapshotPlan<'_>) -> Result<Self> {
        let mut edit = Edit::begin(top)?;
        let new = edit.change_snapshots(plan)?;
        let lineage = bitmaps.lineage(top);
        let bitmaps = bitmaps.write(top, &mut edit)?;
        let change = HeaderChange {
            bitmaps,
            lineage,
            snapshots: new.table,
            disk: new.disk,
            ..HeaderChange::default()
        };
        Ok(Written { edit, change, frees_tables: new.frees_tables })
    }
}

impl Disk {
    /// Stages changes of bitmaps that are kept, and of snapshots, all decided by one sector; either list may be empty. Until
    /// the result is published or dropped nobody else changes the image: the disk is pinned, and another change waits. Whoever
    /// stages changes of several disks takes them in the order of [`Disk::staging_order`], so that no two wait for each other.
    ///
    /// When a snapshot goes, the tables of the disk move. A backup that began before that may go on reading those at
    /// the old places, so nothing more can be staged until it has ended: `WrongState`. The same when another staged change
    /// is not decided within half a minute.
    pub(crate) fn stage_kept(
        &self,
        bitmaps: &[BitmapChange],
        snapshots: &[SnapshotChange],
    ) -> Result<StagedBitmaps> {
        drop(self.writable_image()?);
        let turn = self.turn()?;
        let mut image = self.0.image.write().unwrap_or_else(PoisonError::into_inner);
        self.refuse_moved()?;
        self.end_writing_locked(&mut image)?;
        let top = super::write::top(&image)?;
        let bitmaps = bitmap::changed(top, bitmaps)?;
        let plan = SnapshotPlan::new(top, snapshots)?;
        let (staged, frees_tables) = self.own_change(top.file(), || {
            let Written { edit, change, frees_tables } = Written::new(top, &bitmaps, &plan)?;
            let staged = edit.stage(HeaderChange { decided_later: true, ..change })?;
            Ok::<_, Error>((staged, frees_tables))
        })?;
        Ok(StagedBitmaps {
            disk: self.clone(),
            staged: Some(staged),
            frees_tables,
            _pinned: self.pin_locked(),
            _turn: turn,
        })
    }

    /// The same number for all handles of a disk, as long as there is one.
    pub(crate) fn staging_order(&self) -> usize {
        Arc::as_ptr(&self.0).addr()
    }

    /// Makes changes of bitmaps that are kept, and of snapshots, at once.
    pub(crate) fn change_kept(&self, bitmaps: &[BitmapChange], snapshots: &[SnapshotChange]) -> Result<()> {
        self.stage_kept(bitmaps, snapshots)?.publish()
    }

    pub(super) fn turn(&self) -> Result<Turn> {
        let Turns { taken, free } = &self.0.turn;
        let taken = taken.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = free.wait_timeout_while(taken, PATIENCE, |taken| *taken);
        let (mut taken, waited) = waited.unwrap_or_else(PoisonError::into_inner);
        if waited.timed_out() {
            let text =
                format!("'{}': another transaction changes it and does not end", self.path().display());
            return Err(Error::new(ErrorKind::WrongState, text));
        }
        *taken = true;
        Ok(Turn(self.clone()))
    }

    /// Finds out whether [`Disk::stage_kept`] would succeed as the image is now. Changes nothing.
    pub(crate) fn rehearse_kept(&self, bitmaps: &[BitmapChange], snapshots: &[SnapshotChange]) -> Result<()> {
        let image = self.writable_image()?;
        self.refuse_moved()?;
        let top = super::write::top(&image)?;
        bitmap::changed(top, bitmaps)?;
        let plan = SnapshotPlan::new(top, snapshots)?;
        Edit::begin(top)?.rehearse_snapshots(&plan)
    }

    /// Refuses to give clusters away that a backup may still read as tables. Whoever asks holds the image.
    fn refuse_moved(&self) -> Result<()> {
        if self.0.tables_moved.load(Ordering::Acquire) && self.0.pins.load(Ordering::Acquire) > 0 {
            let text =
                "a snapshot was deleted while a backup reads the disk; it can be changed when that has ended";
            return Err(Error::new(ErrorKind::WrongState, format!("'{}': {text}", self.path().display())));
        }
        Ok(())
    }
}

impl StagedBitmaps {
    /// For the journal.
    pub(crate) fn switch(&self) -> Result<Switch> {
        let image = self.disk.image();
        let top = super::write::top(&image)?;
        let (file, directory) = (top.file(), bitmap::directory_place(top)?);
        let new_sector = self.staged.as_ref().map(Staged::sector).unwrap_or_default().to_vec();
        let mut old_sector = memory::zeroed(new_sector.len())?;
        file.read_exact(&mut old_sector, 0, "header")?;
        let image = Fingerprint::of_staged(&**image.storage(), image.top(), is_marked(&old_sector))?;
        let old = top.header().extensions.lineage.iter().flat_map(|lineage| &lineage.bases);
        let bases = old.map(|(_, base)| base.backup).chain(bases_in(&new_sector)).collect();
        Ok(Switch { image, directory, bases, old_sector, new_sector })
    }

    /// Decides. After a failure it is unknown which of the two states the image is in.
    pub(crate) fn publish(mut self) -> Result<()> {
        let Some(staged) = self.staged.take() else { return Ok(()) };
        let mut image = self.disk.0.image.write().unwrap_or_else(PoisonError::into_inner);
        let made = self.disk.own_change(image.top().file(), || staged.publish());
        // Somebody else than this change itself.
        if self.frees_tables && self.disk.0.pins.load(Ordering::Acquire) > 1 {
            self.disk.0.tables_moved.store(true, Ordering::Release);
        }
        after_change(&mut image, made)
    }

    /// The disk that is changed.
    pub(crate) fn disk(&self) -> &Disk {
        &self.disk
    }

    /// The file that is changed.
    pub(crate) fn file_id(&self) -> Result<FileId> {
        self.disk.image().top().file().id()
    }

    /// For messages.
    pub(crate) fn path(&self) -> &Path {
        self.disk.path()
    }

    /// Forgets the change without taking it back: who decides on it is not known any more.
    pub(crate) fn leave(mut self) {
        self.staged = None;
        if let Some(top) = self.disk.image().qcow2() {
            top.file().refuse_writes();
        }
    }
}

impl Drop for StagedBitmaps {
    fn drop(&mut self) {
        if let Some(staged) = self.staged.take() {
            let mut image = self.disk.0.image.write().unwrap_or_else(PoisonError::into_inner);
            // What cannot be given back leaks.
            let taken_back = super::write::top(&image)
                .and_then(|top| self.disk.own_change(top.file(), || staged.abandon(top)));
            let _ = after_change(&mut image, taken_back);
        }
    }
}

#[cfg(test)]
mod tests;
