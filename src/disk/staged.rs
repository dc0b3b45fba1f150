//! Changes of a disk's bitmaps and snapshots that are durable but for the one sector that decides: a transaction over
//! several disks decides on all of them together.

use std::{
    path::{Path, PathBuf, absolute},
    sync::{Arc, Condvar, Mutex, PoisonError, atomic::Ordering},
    time::Duration,
};

use super::{
    Disk,
    write::{Pinned, after_change},
};
use crate::{
    bitmap::{self, BitmapChange, NewBitmaps},
    error::{Error, ErrorKind, Result},
    image::{
        Access, ImageOptions, Layers, Qcow2, SnapshotChange,
        edit::{Edit, HeaderChange, SnapshotPlan, Staged},
    },
    storage::{File, FileVersion, Lock, Storage},
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
struct Turn(Disk);

impl Drop for Turn {
    fn drop(&mut self) {
        let Turns { taken, free } = &self.0.0.turn;
        *taken.lock().unwrap_or_else(PoisonError::into_inner) = false;
        free.notify_one();
    }
}

/// What tells later whether an image is still as it was staged, and what then remains to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Switch {
    /// Absolute.
    pub(crate) path: PathBuf,
    pub(crate) inode: u64,
    /// `None` if files do not tell whether the image is written.
    pub(crate) versions: Option<Versions>,
    /// Where the directory of its bitmaps lies by the old sector; 0 if there is none.
    pub(crate) directory: u64,
    pub(crate) old_sector: Vec<u8>,
    pub(crate) new_sector: Vec<u8>,
}

/// The files of an image, as they are when nobody has written it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Versions {
    pub(crate) image: FileVersion,
    /// What its guest data lies in, if that is a file of its own: the path, absolute.
    pub(crate) data_file: Option<(PathBuf, FileVersion)>,
}

/// What recovery found an image to be, and did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Switched {
    /// It was as staged, and has its new sector now.
    Now,
    /// It had its new sector already.
    Before,
    /// Somebody wrote it since, and kept its bitmaps up to date or gave them up: they stay.
    Left,
    /// Somebody wrote it since without recording that: its bitmaps are inconsistent now.
    GivenUp,
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
        let bitmaps = bitmaps.write(top, &mut edit)?;
        let change =
            HeaderChange { bitmaps, snapshots: new.table, disk: new.disk, ..HeaderChange::default() };
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
        self.settle_locked(&mut image)?;
        let top = super::write::top(&image)?;
        let bitmaps = bitmap::changed(top, bitmaps)?;
        let written = Written::new(top, &bitmaps, &SnapshotPlan::new(top, snapshots)?)?;
        let staged = written.edit.stage(written.change)?;
        Ok(StagedBitmaps {
            disk: self.clone(),
            staged: Some(staged),
            frees_tables: written.frees_tables,
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

    fn turn(&self) -> Result<Turn> {
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
        let (file, directory) = (top.file(), bitmap::directory_offset(top));
        let new_sector = self.staged.as_ref().map(Staged::sector).unwrap_or_default().to_vec();
        let mut old_sector = vec![0; new_sector.len()];
        file.read_exact(&mut old_sector, 0, "header")?;
        let (path, inode, versions) = (in_full(file)?, file.id()?.inode, Versions::of(top)?);
        Ok(Switch { path, inode, versions, directory, old_sector, new_sector })
    }

    /// Decides. After a failure it is unknown which of the two states the image is in.
    pub(crate) fn publish(mut self) -> Result<()> {
        let Some(staged) = self.staged.take() else { return Ok(()) };
        let mut image = self.disk.0.image.write().unwrap_or_else(PoisonError::into_inner);
        let made = staged.publish();
        // Somebody else than this change itself.
        if self.frees_tables && self.disk.0.pins.load(Ordering::Acquire) > 1 {
            self.disk.0.tables_moved.store(true, Ordering::Release);
        }
        after_change(&mut image, made)
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
            let _ = after_change(&mut image, staged.abandon());
        }
    }
}

/// Carries out what was decided for an image whose transaction died, unless somebody has written it since. An image that
/// is open for writing in `held` is locked against everybody else, us included, and is written through that.
pub(crate) fn switch(storage: &Arc<dyn Storage>, held: &[Disk], wanted: &Switch) -> Result<Switched> {
    let path = &wanted.path;
    let status =
        storage.status(path).map_err(|e| Error::io(format!("cannot look at '{}'", path.display()), e))?;
    if status.id.inode != wanted.inode {
        let text = format!("another file has taken the name '{}'", path.display());
        return Err(Error::new(ErrorKind::NotFound, text));
    }
    for disk in held.iter().filter(|disk| disk.0.options.access == Access::Write) {
        if disk.image().layers()[0].file().id()? == status.id {
            return switch_open(disk, wanted);
        }
    }
    // Whatever else is wrong with the image: the sector comes first.
    let context = |e| Error::io(format!("cannot open '{}'", path.display()), e);
    let file = File::new(storage.open_writable(path).map_err(context)?, path);
    file.lock(Lock::Write)?;
    match compare(storage, &file, wanted)? {
        Found::New => Ok(Switched::Before),
        Found::Old => write_sector(&file, wanted),
        Found::Other => {
            drop(file);
            let options =
                ImageOptions { access: Access::Write, layers: Layers::TopOnly, ..ImageOptions::default() };
            give_up(&Disk::open_in(storage.clone(), path, &options)?, wanted)
        }
    }
}

fn switch_open(disk: &Disk, wanted: &Switch) -> Result<Switched> {
    let _turn = disk.turn()?;
    disk.settle()?;
    let mut image = disk.0.image.write().unwrap_or_else(PoisonError::into_inner);
    let file = image.layers()[0].file().clone();
    let switched = match compare(image.storage(), &file, wanted)? {
        Found::New => return Ok(Switched::Before),
        Found::Old => write_sector(&file, wanted),
        Found::Other => {
            drop(image);
            return give_up(disk, wanted);
        }
    };
    let made = after_change(&mut image, switched.as_ref().map(drop).map_err(Error::clone));
    made.and(switched)
}

impl Versions {
    /// Those from which every write from now on differs.
    fn of(top: &Qcow2) -> Result<Option<Self>> {
        let Some(image) = top.file().telling_version()? else { return Ok(None) };
        if !top.external_data_file_bit() {
            return Ok(Some(Versions { image, data_file: None }));
        }
        let Some(data) = top.external_data_file() else { return Ok(None) };
        let Some(version) = data.telling_version()? else { return Ok(None) };
        Ok(Some(Versions { image, data_file: Some((in_full(data)?, version)) }))
    }

    /// Whether the files are so still; one that cannot be seen is not.
    fn still_hold(&self, storage: &Arc<dyn Storage>, image: &File) -> Result<bool> {
        let data_file = |(path, version): &(PathBuf, FileVersion)| {
            storage.open(path).and_then(|file| file.version()).is_ok_and(|now| now == *version)
        };
        Ok(image.version()? == self.image && self.data_file.as_ref().is_none_or(data_file))
    }
}

/// What an image is now, compared with how it was staged.
enum Found {
    Old,
    New,
    Other,
}

fn compare(storage: &Arc<dyn Storage>, file: &File, wanted: &Switch) -> Result<Found> {
    let mut sector = vec![0; wanted.new_sector.len()];
    file.read_exact(&mut sector, 0, "header")?;
    if sector == wanted.new_sector {
        // It may not have been durable.
        file.sync()?;
        return Ok(Found::New);
    }
    let same = sector == wanted.old_sector
        && match &wanted.versions {
            Some(versions) => versions.still_hold(storage, file)?,
            None => false,
        };
    Ok(if same { Found::Old } else { Found::Other })
}

fn in_full(file: &File) -> Result<PathBuf> {
    let path = file.path();
    absolute(path).map_err(|e| Error::io(format!("cannot name '{}' in full", path.display()), e))
}

fn write_sector(file: &File, wanted: &Switch) -> Result<Switched> {
    file.write_all(&wanted.new_sector, 0)?;
    file.sync()?;
    Ok(Switched::Now)
}

/// A stranger has written the image. One who knows bitmaps has stored them anew, or left them marked as in use; one who
/// does not has cleared the image's bit for them. Where neither is so, writes are missing in them.
fn give_up(disk: &Disk, wanted: &Switch) -> Result<Switched> {
    let mut image = disk.0.image.write().unwrap_or_else(PoisonError::into_inner);
    let given_up = bitmap::give_up_unless_moved(super::write::top(&image)?, wanted.directory);
    let found = given_up.as_ref().is_ok_and(|found| *found);
    after_change(&mut image, given_up.map(drop))?;
    Ok(if found { Switched::GivenUp } else { Switched::Left })
}

#[cfg(test)]
mod tests;
