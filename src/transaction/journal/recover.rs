//! What is done about transactions that died: a decision that is whole is carried out, anything else is taken back.
//!
//! Each step can be repeated, and is done in the order that the transaction itself keeps: names, folders durable,
//! images, files that were replaced, the journal. So a crash in here leaves what the next recovery finishes.

use std::{
    collections::BTreeSet,
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{
    SUFFIX, folder_of,
    record::{ALIGNMENT, Begun, Block, Content, Decided, LARGEST, Look, TargetRecord},
};
use crate::{
    disk::{
        Disk, Folder, Switch, Switched, give_up_bitmaps, give_up_if_switched, is_as_covered, is_superseded,
        switch,
    },
    error::{Error, ErrorKind, Result},
    image::create::{OWN_PREFIX, Recovered, exchange, give, is_absent, is_placeholder, tidy, transit},
    memory,
    recovery::{Recovery, RecoveryItem, RecoveryKind},
    storage::{File, Lock, Storage},
};

/// Finishes or takes back every transaction that died and has its journal in `folder`. Doing it again changes nothing.
/// Images that are open in `held`, for writing, are written through that.
pub(crate) fn recover(storage: &Arc<dyn Storage>, folder: &Path, held: &[Disk]) -> Result<Recovery> {
    let names = storage
        .list(folder)
        .map_err(|e| Error::io(format!("cannot look into the journal folder '{}'", folder.display()), e))?;
    let is_journal = |name: &&std::ffi::OsString| {
        name.to_str().is_some_and(|name| name.starts_with(OWN_PREFIX) && name.ends_with(SUFFIX))
    };
    let mut recovery = Recovery::default();
    let sorted: BTreeSet<_> = names.iter().filter(is_journal).collect();
    for name in sorted {
        let path = folder.join(name);
        let mut dead = Dead { storage, held, journal: &path, items: &mut recovery.items };
        if let Err(error) = dead.recover(&path) {
            dead.tell(RecoveryKind::Unfinished, &path, error);
        }
    }
    Ok(recovery)
}

/// Why bitmaps do not change, or are given up.
const INCOMPLETE: &str = "a target of the transaction is missing";
const SUPERSEDED: &str = "a newer backup of a disk of the transaction was made since";

/// Where a target is.
#[derive(Debug)]
enum Place {
    /// It has its name.
    Published,
    /// It can have its name, which is free.
    Free,
    /// It can swap its name with this file, which is what it replaces: locked, so that nobody uses it meanwhile.
    Replaces(File),
    Gone,
}

/// The transaction of one journal.
struct Dead<'a> {
    storage: &'a Arc<dyn Storage>,
    held: &'a [Disk],
    journal: &'a Path,
    items: &'a mut Vec<RecoveryItem>,
}

impl Dead<'_> {
    fn tell(&mut self, kind: RecoveryKind, path: &Path, reason: impl ToString) {
        let (path, reason, journal) = (path.to_owned(), reason.to_string(), self.journal.to_owned());
        self.items.push(RecoveryItem { kind, path, reason, journal });
    }

    fn recover(&mut self, path: &Path) -> Result<()> {
        let file = match self.storage.open_writable(path) {
            Ok(file) => File::new(file, path),
            // Its owner has just finished.
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(e) => return Err(Error::io(format!("cannot open the journal '{}'", path.display()), e)),
        };
        match file.lock(Lock::Write) {
            Err(e) if e.kind() == ErrorKind::Locked => {
                self.tell(RecoveryKind::AtWork, path, "");
                return Ok(());
            }
            other => other?,
        }
        // Another recovery has finished it while we waited.
        if self.storage.status(path).ok().map(|status| status.id) != Some(file.id()?) {
            return Ok(());
        }
        let bytes = read_all(&file)?;
        let (begun, length) = match Begun::look(&bytes) {
            Look::Begun(begun, length) => (begun, length),
            Look::Empty => return self.forget(path),
            Look::Strange(reason) => {
                self.tell(RecoveryKind::Unfinished, path, format!("{reason}; nothing was done about it"));
                return Ok(());
            }
        };
        let second = length.next_multiple_of(ALIGNMENT as usize);
        let decided = bytes.get(second..).and_then(Decided::decode);
        let finished = match decided {
            Some((decided, _)) => {
                // The process alone may have died: what is acted on must not be lost in a power cut that follows. A sync may
                // have failed, behind which nothing is written that is not written anew.
                file.write_all(&bytes, 0)?;
                file.sync()?;
                self.roll_forward(&decided)?
            }
            None => {
                // It leads to what is to go. A full disk might not let it be written.
                file.sync()?;
                self.take_back(&begun)?;
                true
            }
        };
        if finished {
            self.forget(path)?;
        }
        Ok(())
    }

    /// Nothing was decided: the temporary files go.
    fn take_back(&mut self, begun: &Begun) -> Result<()> {
        let mut folders = BTreeSet::new();
        for path in &begun.temporaries {
            if self.remove(path)? {
                self.tell(RecoveryKind::TemporaryRemoved, path, "");
                folders.insert(folder_of(path)?);
            }
        }
        folders.into_iter().try_for_each(|folder| self.sync_folder(folder))
    }

    /// Carries out what was decided; false if something has to wait.
    fn roll_forward(&mut self, decided: &Decided) -> Result<bool> {
        let places = decided.targets.iter().map(|target| self.find(target)).collect::<Result<Vec<_>>>()?;
        let complete = !places.iter().any(|place| matches!(place, Place::Gone));
        // No source is switched before all targets have their names.
        let superseded = || {
            !places.iter().all(|place| matches!(place, Place::Published))
                && decided.sources.iter().any(|source| is_superseded(self.storage, self.held, source))
        };
        let hindrance = match complete {
            false => Some(INCOMPLETE),
            true if superseded() => Some(SUPERSEDED),
            true => None,
        };
        let complete = hindrance.is_none();
        let mut finished = true;
        // Before it has its name, so that nobody ever sees in it what is not so any more.
        for (target, place) in decided.targets.iter().zip(&places) {
            if let Some(below) = &target.below {
                let sound = complete && is_as_covered(self.storage, below, &decided.sources);
                finished &= sound || self.give_up(target, place, hindrance)?;
            }
        }
        for (target, place) in decided.targets.iter().zip(&places) {
            self.publish(target, place, hindrance)?;
        }
        let folders: BTreeSet<&Path> =
            decided.targets.iter().map(|target| folder_of(&target.path)).collect::<Result<_>>()?;
        folders.iter().try_for_each(|folder| self.sync_folder(folder))?;
        for source in &decided.sources {
            finished &= self.switch(source, hindrance);
        }
        if !finished {
            return Ok(false);
        }
        let mut removed = false;
        for (target, place) in decided.targets.iter().zip(&places) {
            removed |= self.clear(target, place, complete)?;
        }
        if removed {
            folders.iter().try_for_each(|folder| self.sync_folder(folder))?;
        }
        Ok(true)
    }

    /// Looks where a target is.
    fn find(&mut self, target: &TargetRecord) -> Result<Place> {
        tidy(&**self.storage, &target.temporary, &target.path).map_err(|e| unnamed(&target.path, e))?;
        let (there, temporary) = (self.inode(&target.path)?, self.inode(&target.temporary)?);
        let is_it = |path: &Path, inode: Option<u64>| match inode {
            // An overlay is written by its guest as soon as it has its name, and by a recovery that gives its bitmaps up
            // and may have died then. No backup depends on what is in it.
            Some(inode) if inode == target.content.inode && target.below.is_some() => Ok(true),
            Some(inode) if inode == target.content.inode => self.has(path, &target.content),
            _ => Ok(false),
        };
        let other = "another file has taken its name";
        let reason = if is_it(&target.path, there)? {
            if !self.swapped_with_another(target, temporary)? {
                return Ok(Place::Published);
            }
            other
        } else if !is_it(&target.temporary, temporary)? {
            match there {
                Some(there) if there == target.content.inode => {
                    "it was written since, or another file has its name"
                }
                _ => "it was moved, removed or written",
            }
        } else if there.is_none() {
            return Ok(Place::Free);
        } else if let Some(replaced) = &target.replaced {
            match self.lock_replaced(&target.path, there, replaced)? {
                Some(file) => return Ok(Place::Replaces(file)),
                None => "the file that it replaces was written since, or another one has its name",
            }
        } else if self.is_placeholder(&target.path)? {
            // It took the name, and the finished file did not get it.
            self.remove(&target.path)?;
            return Ok(Place::Free);
        } else {
            other
        };
        self.refuse_another_folder(&target.path, target.folder)?;
        self.tell(RecoveryKind::TargetMissing, &target.path, reason);
        Ok(Place::Gone)
    }

    /// The file that a target replaces, if that is what has the target's name: locked.
    fn lock_replaced(&self, path: &Path, there: Option<u64>, replaced: &Content) -> Result<Option<File>> {
        if there != Some(replaced.inode) {
            return Ok(None);
        }
        let context = |e| {
            Error::io(format!("cannot open the target '{}' that is to be overwritten", path.display()), e)
        };
        let file = File::new(self.storage.open_writable(path).map_err(context)?, path);
        file.lock(Lock::Write)?;
        Ok(replaced.is(&file)?.then_some(file))
    }

    /// Somebody put a file under a target's name in the moment in which it was swapped with the one that it replaces: that
    /// file gets the name back.
    fn swapped_with_another(&self, target: &TargetRecord, temporary: Option<u64>) -> Result<bool> {
        let (Some(replaced), Some(inode)) = (&target.replaced, temporary) else { return Ok(false) };
        if [replaced.inode, target.content.inode].contains(&inode)
            || self.is_placeholder(&target.temporary)?
        {
            return Ok(false);
        }
        exchange(&**self.storage, &target.temporary, &target.path, Recovered::Yes)
            .map_err(|e| unnamed(&target.path, e))?;
        Ok(true)
    }

    /// Where a file is not found as it was: a folder that is not mounted, or another one in its place, tells nothing about the
    /// files in it.
    fn refuse_another_folder(&self, path: &Path, folder: Option<Folder>) -> Result<()> {
        let Some(recorded) = folder else { return Ok(()) };
        let text = match Folder::of(&**self.storage, path) {
            Ok(folder) if folder == recorded => return Ok(()),
            Ok(_) => "is another one",
            Err(e) if e.kind() == io::ErrorKind::NotFound => "is not there",
            Err(e) => return Err(Error::io(format!("cannot look at the folder of '{}'", path.display()), e)),
        };
        let text = format!(
            "the folder of '{}' {text}: mount it and recover again; if it is gone for good, remove the journal and begin \
             with full backups",
            path.display()
        );
        Err(Error::new(ErrorKind::Io, text))
    }

    /// The number of the file that has a name.
    fn inode(&self, path: &Path) -> Result<Option<u64>> {
        match self.storage.entry(path) {
            Ok(status) => Ok(Some(status.id.inode)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(Error::io(format!("cannot look at '{}'", path.display()), e)),
        }
    }

    fn is_placeholder(&self, path: &Path) -> Result<bool> {
        let context = |e| Error::io(format!("cannot look at '{}'", path.display()), e);
        is_placeholder(&**self.storage, path).map_err(context)
    }

    /// The name that the file has which the target replaces, if that is not its own.
    fn replaced(&self, target: &TargetRecord) -> Option<PathBuf> {
        let replaced = target.replaced?.inode;
        let leads = |path: &PathBuf| self.storage.entry(path).is_ok_and(|entry| entry.id.inode == replaced);
        [target.temporary.clone(), transit(&target.temporary)].into_iter().find(leads)
    }

    /// Whether the file at a path is a target as it was completed.
    fn has(&self, path: &Path, content: &Content) -> Result<bool> {
        let context = |e| Error::io(format!("cannot look at '{}'", path.display()), e);
        content.is(&File::new(self.storage.open(path).map_err(context)?, path))
    }

    /// Gives up the bitmaps of a new image that are about what is not there any more: backups that are gone, or the disk as
    /// it was before somebody wrote the image below. False if that has to wait.
    fn give_up(&mut self, target: &TargetRecord, place: &Place, hindrance: Option<&str>) -> Result<bool> {
        let at = match place {
            Place::Published => &target.path,
            Place::Free | Place::Replaces(_) => &target.temporary,
            Place::Gone => return Ok(true),
        };
        match give_up_bitmaps(self.storage, self.held, at) {
            Ok(false) => {}
            Ok(true) => {
                let written = "the image below it was written since, or may have been";
                let reason = hindrance.unwrap_or(written);
                self.tell(RecoveryKind::BitmapsGivenUp, &target.path, reason);
            }
            Err(e) if matches!(place, Place::Published) => {
                self.tell_unfinished(&target.path, &e);
                return Ok(false);
            }
            Err(e) => return Err(e),
        }
        Ok(true)
    }

    fn tell_unfinished(&mut self, path: &Path, error: &Error) {
        let reason = format!("{error}; the journal '{}' stays", self.journal.display());
        self.tell(RecoveryKind::Unfinished, path, reason);
    }

    /// Lets a target have its name. Of a group that cannot be completed none replaces anything: no bitmap counts from it, and
    /// what it would replace may be what a newer backup stands on.
    fn publish(&mut self, target: &TargetRecord, place: &Place, hindrance: Option<&str>) -> Result<()> {
        let (temporary, path) = (&target.temporary, &target.path);
        let done = match place {
            Place::Gone => return Ok(()),
            Place::Published => {
                let kept = self.replaced(target).filter(|_| hindrance.is_some());
                let reason = kept.map_or_else(String::new, |kept| kept_as(&kept));
                self.tell(RecoveryKind::TargetWasPublished, path, reason);
                return Ok(());
            }
            Place::Replaces(_) => match hindrance {
                None => exchange(&**self.storage, temporary, path, Recovered::Yes),
                Some(reason) => {
                    let reason = format!("{reason}; the file that it would replace stays");
                    self.tell(RecoveryKind::TargetMissing, path, reason);
                    return Ok(());
                }
            },
            Place::Free => give(&**self.storage, temporary, path),
        };
        if let Err(e) = done {
            // It may have happened all the same.
            tidy(&**self.storage, temporary, path).map_err(|e| unnamed(path, e))?;
            if self.inode(path)? != Some(target.content.inode) {
                return Err(unnamed(path, e));
            }
        }
        if let Place::Replaces(old) = place {
            let swapped = self.inode(temporary)?;
            if swapped != Some(old.id()?.inode) && self.swapped_with_another(target, swapped)? {
                let text = format!("another file has just taken the name '{}'", path.display());
                return Err(Error::new(ErrorKind::Exists, text));
            }
        }
        self.tell(RecoveryKind::TargetPublished, path, "");
        Ok(())
    }

    /// Removes what is left under the temporary name of a target; false if nothing was.
    fn clear(&mut self, target: &TargetRecord, place: &Place, complete: bool) -> Result<bool> {
        if !complete
            && !matches!(place, Place::Replaces(_))
            && let Some(kept) = self.replaced(target)
        {
            // A backup that no bitmap counts from, or none: what it replaced may be all that is left.
            if matches!(place, Place::Gone) {
                self.tell(RecoveryKind::TargetMissing, &target.path, kept_as(&kept));
            }
            if kept == target.temporary {
                return Ok(false);
            }
        }
        let own = [Some(target.content.inode), target.replaced.map(|replaced| replaced.inode)];
        match self.inode(&target.temporary)? {
            // Whatever it is, it is none of ours.
            Some(inode) if !own.contains(&Some(inode)) && !self.is_placeholder(&target.temporary)? => {
                Ok(false)
            }
            _ => self.remove(&target.temporary),
        }
    }

    /// Switches one image; false if that has to wait.
    fn switch(&mut self, source: &Switch, hindrance: Option<&str>) -> bool {
        let path = &source.image.path;
        let done = match hindrance {
            None => switch(self.storage, self.held, source),
            Some(_) => give_up_if_switched(self.storage, self.held, source),
        };
        let done = done.map_err(|error| match self.refuse_another_folder(path, source.image.folder) {
            Err(away) if error.kind() == ErrorKind::NotFound => away,
            _ => error,
        });
        let unrecorded = "it was written since by a program that did not record it";
        match done {
            Ok(Switched::Now) => self.tell(RecoveryKind::BitmapsChanged, path, ""),
            Ok(Switched::Before) => self.tell(RecoveryKind::BitmapsWereChanged, path, ""),
            Ok(Switched::Left) => {
                self.tell(RecoveryKind::BitmapsLeft, path, hindrance.unwrap_or("it was written since"));
            }
            Ok(Switched::GivenUp) => {
                self.tell(RecoveryKind::BitmapsGivenUp, path, hindrance.unwrap_or(unrecorded));
            }
            Err(e) if e.kind() == ErrorKind::NotFound => {
                self.tell(RecoveryKind::BitmapsLeft, path, e);
            }
            Err(e) => {
                self.tell_unfinished(path, &e);
                return false;
            }
        }
        true
    }

    fn remove(&self, path: &Path) -> Result<bool> {
        match self.storage.unlink(path) {
            Ok(()) => Ok(true),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
            // It happened, whatever was reported.
            Err(_) if is_absent(&**self.storage, path) => Ok(true),
            Err(e) => Err(Error::io(format!("cannot remove '{}'", path.display()), e)),
        }
    }

    fn forget(&self, path: &Path) -> Result<()> {
        self.remove(path)?;
        self.sync_folder(folder_of(path)?)
    }

    fn sync_folder(&self, folder: &Path) -> Result<()> {
        let context = || format!("cannot make the folder '{}' durable", folder.display());
        self.storage.sync_folder(folder).map_err(|e| Error::io(context(), e))
    }
}

fn kept_as(kept: &Path) -> String {
    format!("the file that it replaced is kept as '{}'", kept.display())
}

fn unnamed(path: &Path, cause: io::Error) -> Error {
    Error::io(format!("cannot rename the finished target to '{}'", path.display()), cause)
}

fn read_all(file: &File) -> Result<Vec<u8>> {
    let length = file.len()?;
    if length > 2 * LARGEST {
        return Err(file.error(ErrorKind::Corrupt, format!("{length} bytes are no journal of Holstein")));
    }
    let mut bytes = memory::zeroed(length as usize)?;
    // One that seems shorter than it is would be taken for undecided.
    file.read_exact(&mut bytes, 0, "journal")?;
    Ok(bytes)
}
