//! What a recovery does to the images of a transaction that died, unless somebody has written them since.

use std::{
    path::Path,
    sync::{Arc, PoisonError},
};

use super::{Disk, fingerprint::Fingerprint, write::after_change};
use crate::{
    bitmap::{self, DirectoryPlace},
    error::{Error, ErrorKind, Result},
    format::lineage::Identity,
    image::{
        Access, ImageOptions, Layers, Sharing,
        edit::{is_marked, without_mark},
    },
    memory,
    storage::{File, FileId, Lock, Storage},
};

/// What a disk writes as a whole, and a change of an image at last.
const SECTOR: usize = 512;

/// What tells later whether an image is still as it was staged, and what then remains to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Switch {
    /// The image as staged.
    pub(crate) image: Fingerprint,
    /// The directory of its bitmaps by the old sector.
    pub(crate) directory: DirectoryPlace,
    /// What its bitmaps count from, by either sector. A stranger adds nothing to it.
    pub(crate) bases: Vec<Identity>,
    /// With the mark of a staged change, where the version has such bits.
    pub(crate) old_sector: Vec<u8>,
    pub(crate) new_sector: Vec<u8>,
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

/// Carries out what was decided for an image whose transaction died, unless somebody has written it since. An image that
/// is open for writing in `held` is locked against everybody else, us included, and is written through that.
pub(crate) fn switch(storage: &Arc<dyn Storage>, held: &[Disk], wanted: &Switch) -> Result<Switched> {
    let path = &wanted.image.path;
    let id = id_of_same(storage, &wanted.image)?;
    if let Some(disk) = find(held, id)? {
        return switch_open(disk, wanted);
    }
    // Whatever else is wrong with the image: the sector comes first.
    let context = |e| Error::io(format!("cannot open '{}'", path.display()), e);
    let file = File::new(storage.open_writable(path).map_err(context)?, path);
    file.lock(Lock::Write)?;
    match compare(storage, &file, wanted)? {
        Found::New => write_again(&file).map(|()| Switched::Before),
        Found::Old => write_sector(&file, wanted),
        Found::Other => {
            drop(file);
            give_up_after_strangers(&open_alone(storage, path)?, wanted)
        }
    }
}

fn switch_open(disk: &Disk, wanted: &Switch) -> Result<Switched> {
    let _turn = disk.turn()?;
    disk.end_writing()?;
    let mut image = disk.0.image.write().unwrap_or_else(PoisonError::into_inner);
    let file = image.top().file().clone();
    let switched = match compare(image.storage(), &file, wanted)? {
        Found::New => {
            return disk.own_change(&file, || write_again(&file)).map(|()| Switched::Before);
        }
        Found::Old => disk.own_change(&file, || write_sector(&file, wanted)),
        Found::Other => {
            drop(image);
            return give_up_after_strangers(disk, wanted);
        }
    };
    let made = after_change(&mut image, switched.as_ref().map(drop).map_err(Error::clone));
    made.and(switched)
}

/// Behind a newer backup of ours, the bitmaps are those that it made.
fn give_up_after_strangers(disk: &Disk, wanted: &Switch) -> Result<Switched> {
    match wanted.is_superseded(disk) {
        true => Ok(Switched::Left),
        false => give_up(disk, wanted.directory.offset),
    }
}

/// Whether another backup has been made of an image since it was staged; false where that cannot be seen.
pub(crate) fn is_superseded(storage: &Arc<dyn Storage>, held: &[Disk], wanted: &Switch) -> bool {
    let look = || {
        let id = id_of_same(storage, &wanted.image)?;
        if let Some(disk) = find(held, id)? {
            return Ok(wanted.is_superseded(disk));
        }
        let (layers, sharing) = (Layers::TopOnly, Sharing::ForceShare);
        let options = ImageOptions { layers, sharing, ..ImageOptions::default() };
        Ok(wanted.is_superseded(&Disk::open_in(storage.clone(), &wanted.image.path, &options)?))
    };
    let seen: Result<bool> = look();
    seen.unwrap_or(false)
}

/// What an image is now, compared with how it was staged.
enum Found {
    Old,
    New,
    Other,
}

fn compare(storage: &Arc<dyn Storage>, file: &File, wanted: &Switch) -> Result<Found> {
    let mut sector = memory::zeroed(wanted.new_sector.len())?;
    file.read_exact(&mut sector, 0, "header")?;
    if sector == wanted.new_sector {
        return Ok(Found::New);
    }
    let old = sector == wanted.old_sector || wanted.is_torn(&sector);
    Ok(match old && wanted.directory.holds(file)? && wanted.image.holds(storage, file)? {
        true => Found::Old,
        false => Found::Other,
    })
}

impl Switch {
    fn is_superseded(&self, disk: &Disk) -> bool {
        let image = disk.image();
        let lineage = image.qcow2().and_then(|top| top.header().extensions.lineage.as_ref());
        lineage.is_some_and(|now| now.bases.iter().any(|(_, base)| !self.bases.contains(&base.backup)))
    }

    /// Whether a sector is the new one up to some byte and the old one behind it, or the other way round: its write was
    /// torn. The old one without its mark is what a stranger leaves.
    fn is_torn(&self, sector: &[u8]) -> bool {
        let (old, new) = (&self.old_sector, &self.new_sector);
        if !is_marked(old) || sector == without_mark(old) || sector.len() != old.len() {
            return false;
        }
        let common = |other: &[u8]| sector.iter().zip(other).take_while(|(a, b)| a == b).count();
        let torn = |first: &[u8], second: &[u8]| {
            let at = common(first);
            sector[at..] == second[at..]
        };
        torn(new, old) || torn(old, new)
    }
}

/// Makes the first sector of an image durable as it is read. If a sync of it has failed before it may be in memory alone, and
/// another sync would report success without having written it: so it is written again.
fn write_again(file: &File) -> Result<()> {
    let mut sector = [0; SECTOR];
    file.read_exact(&mut sector, 0, "header")?;
    file.write_all(&sector, 0)?;
    file.sync()
}

fn write_sector(file: &File, wanted: &Switch) -> Result<Switched> {
    file.write_all(&wanted.new_sector, 0)?;
    file.sync()?;
    Ok(Switched::Now)
}

/// Whether an image that a new one covers is as it was then. One that cannot be looked at may not be, nor one that has its
/// new sector already: that was a write, too, behind which others do not show.
///
/// A power cut can take its change time back. If the transaction changes it too, it is among these `sources`, and the mark in
/// its header tells better.
pub(crate) fn is_as_covered(storage: &Arc<dyn Storage>, below: &Fingerprint, sources: &[Switch]) -> bool {
    let is_same = |file: File| {
        let mut staged = sources.iter().filter(|source| source.image.path == below.path);
        let is_staged = |source| compare(storage, &file, source).map(|found| matches!(found, Found::Old));
        Ok(staged.try_fold(true, |all, source| is_staged(source).map(|one| all && one))?
            && below.holds(storage, &file)?)
    };
    open_same(storage, below).and_then(is_same).unwrap_or(false)
}

/// Gives up the bitmaps that record, of the image at `path`: durably. False if there are none.
pub(crate) fn give_up_bitmaps(storage: &Arc<dyn Storage>, held: &[Disk], path: &Path) -> Result<bool> {
    let opened;
    let disk = match find(held, id_of(storage, path)?)? {
        Some(disk) => {
            disk.end_writing()?;
            disk
        }
        None => {
            opened = open_alone(storage, path)?;
            &opened
        }
    };
    let image = disk.image();
    let top = super::write::top(&image)?;
    let found = give_up(disk, bitmap::directory_offset(top))? == Switched::GivenUp;
    if found {
        top.file().sync()?;
    }
    Ok(found)
}

/// Gives up the bitmaps of an image that has its new sector already, though what that is about is not there: its bitmaps
/// are clean for a backup that may be lost.
pub(crate) fn give_up_if_switched(
    storage: &Arc<dyn Storage>,
    held: &[Disk],
    wanted: &Switch,
) -> Result<Switched> {
    Ok(match compare(storage, &open_same(storage, &wanted.image)?, wanted)? {
        Found::New if give_up_bitmaps(storage, held, &wanted.image.path)? => Switched::GivenUp,
        Found::New | Found::Old => Switched::Left,
        Found::Other => {
            // An earlier recovery may have given them up, and failed to make that durable.
            make_durable(storage, held, &wanted.image.path)?;
            Switched::Left
        }
    })
}

/// [`write_again`], unless somebody has the image open: he goes by what is read, too.
fn make_durable(storage: &Arc<dyn Storage>, held: &[Disk], path: &Path) -> Result<()> {
    if let Some(disk) = find(held, id_of(storage, path)?)? {
        let image = disk.0.image.write().unwrap_or_else(PoisonError::into_inner);
        let file = image.top().file();
        return disk.own_change(file, || write_again(file));
    }
    let context = |e| Error::io(format!("cannot open '{}'", path.display()), e);
    let file = File::new(storage.open_writable(path).map_err(context)?, path);
    match file.lock(Lock::Write) {
        Err(e) if e.kind() == ErrorKind::Locked => Ok(()),
        locked => locked.and_then(|()| write_again(&file)),
    }
}

/// What has an image's name now, if that is the image.
fn id_of_same(storage: &Arc<dyn Storage>, image: &Fingerprint) -> Result<FileId> {
    let id = id_of(storage, &image.path)?;
    if id.inode != image.inode {
        let text = format!("another file has taken the name '{}'", image.path.display());
        return Err(Error::new(ErrorKind::NotFound, text));
    }
    Ok(id)
}

/// The image's file, to look at.
fn open_same(storage: &Arc<dyn Storage>, image: &Fingerprint) -> Result<File> {
    id_of_same(storage, image)?;
    let context = |e| Error::io(format!("cannot open '{}'", image.path.display()), e);
    Ok(File::new(storage.open(&image.path).map_err(context)?, &image.path))
}

fn id_of(storage: &Arc<dyn Storage>, path: &Path) -> Result<FileId> {
    let status = storage.status(path);
    status.map(|status| status.id).map_err(|e| Error::io(format!("cannot look at '{}'", path.display()), e))
}

/// The disk that has a file open for writing.
fn find(held: &[Disk], id: FileId) -> Result<Option<&Disk>> {
    for disk in held.iter().filter(|disk| disk.0.options.access == Access::Write) {
        if disk.image().top().file().id()? == id {
            return Ok(Some(disk));
        }
    }
    Ok(None)
}

/// An image without what lies below it.
fn open_alone(storage: &Arc<dyn Storage>, path: &Path) -> Result<Disk> {
    let (access, layers) = (Access::Write, Layers::TopOnly);
    Disk::open_in(storage.clone(), path, &ImageOptions { access, layers, ..ImageOptions::default() })
}

/// A stranger has written the image. One who knows bitmaps has stored them anew, or left them marked as in use; one who
/// does not has cleared the image's bit for them. Where neither is so, writes are missing in them.
fn give_up(disk: &Disk, directory: u64) -> Result<Switched> {
    let mut image = disk.0.image.write().unwrap_or_else(PoisonError::into_inner);
    let top = super::write::top(&image)?;
    let given_up = disk.own_change(top.file(), || {
        // An earlier recovery may have given them up, and failed to make that durable.
        write_again(top.file()).and_then(|()| bitmap::give_up_unless_moved(top, directory))
    });
    let found = given_up.as_ref().is_ok_and(|found| *found);
    after_change(&mut image, given_up.map(drop))?;
    Ok(if found { Switched::GivenUp } else { Switched::Left })
}
