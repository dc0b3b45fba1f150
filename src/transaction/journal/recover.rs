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
    disk::{Disk, Switch, Switched, give_up_bitmaps, give_up_if_switched, is_as_covered, switch},
    error::{Error, ErrorKind, Result},
    image::create::{OWN_PREFIX, Recovered, exchange, give, is_absent, is_placeholder, tidy, transit},
    memory,
    recovery::{Recovery, RecoveryItem, RecoveryKind},
    storage::{File, Lock, RenameRule, Storage},
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
        let mut dead = Dead { storage, held, items: &mut recovery.items };
        if let Err(error) = dead.recover(&path) {
            dead.tell(RecoveryKind::Unfinished, &path, error);
        }
    }
    Ok(recovery)
}

/// Why bitmaps do not change, or are given up.
const INCOMPLETE: &str = "a target of the transaction is missing";

/// Where a target is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// It has its name.
    Published,
    /// It can have its name, which is free, or swap it with the file that it replaces.
    Ready(RenameRule),
    Gone,
}

/// The transaction of one journal.
struct Dead<'a> {
    storage: &'a Arc<dyn Storage>,
    held: &'a [Disk],
    items: &'a mut Vec<RecoveryItem>,
}

impl Dead<'_> {
    fn tell(&mut self, kind: RecoveryKind, path: &Path, reason: impl ToString) {
        self.items.push(RecoveryItem { kind, path: path.to_owned(), reason: reason.to_string() });
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
        // The process alone may have died: what is acted on must not be lost in a power cut that follows.
        file.sync()?;
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
            Some((decided, _)) => self.roll_forward(path, &decided)?,
            _ => {
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
    fn roll_forward(&mut self, journal: &Path, decided: &Decided) -> Result<bool> {
        let places = decided.targets.iter().map(|target| self.find(target)).collect::<Result<Vec<_>>>()?;
        let complete = !places.contains(&Place::Gone);
        let mut finished = true;
        // Before it has its name, so that nobody ever sees in it what is not so any more.
        for (target, place) in decided.targets.iter().zip(&places) {
            if let Some(below) = &target.below {
                let sound = complete && is_as_covered(self.storage, below, &decided.sources);
                finished &= sound || self.give_up(target, place, complete, journal)?;
            }
        }
        for (target, place) in decided.targets.iter().zip(&places) {
            self.publish(target, *place)?;
        }
        let folders: BTreeSet<&Path> =
            decided.targets.iter().map(|target| folder_of(&target.path)).collect::<Result<_>>()?;
        for folder in &folders {
            if self.storage.status(folder).is_ok() {
                self.sync_folder(folder)?;
            }
        }
        for source in &decided.sources {
            finished &= self.switch(source, complete, journal);
        }
        if !finished {
            return Ok(false);
        }
        let mut removed = false;
        for (target, place) in decided.targets.iter().zip(&places) {
            if *place == Place::Gone
                && let Some(kept) = self.replaced(target)
            {
                // The target that took its name is gone: what it replaced is all that is left.
                let reason = format!("the file that it replaced is kept as '{}'", kept.display());
                self.tell(RecoveryKind::TargetMissing, &target.path, reason);
                if kept == target.temporary {
                    continue;
                }
            }
            removed |= self.remove(&target.temporary)?;
        }
        if removed {
            folders.iter().try_for_each(|folder| self.sync_folder(folder))?;
        }
        Ok(true)
    }

    /// Looks where a target is.
    fn find(&mut self, target: &TargetRecord) -> Result<Place> {
        let inode = |path: &Path| match self.storage.entry(path) {
            Ok(status) => Ok(Some(status.id.inode)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(Error::io(format!("cannot look at '{}'", path.display()), e)),
        };
        tidy(&**self.storage, &target.temporary, &target.path).map_err(|e| unnamed(&target.path, e))?;
        let (there, temporary) = (inode(&target.path)?, inode(&target.temporary)?);
        let is_it = |path: &Path, inode: Option<u64>| match inode {
            // An overlay is written by its guest as soon as it has its name, and by a recovery that gives its bitmaps up
            // and may have died then. No backup depends on what is in it.
            Some(inode) if inode == target.content.inode && target.below.is_some() => Ok(true),
            Some(inode) if inode == target.content.inode => self.has(path, &target.content),
            _ => Ok(false),
        };
        if is_it(&target.path, there)? {
            return Ok(Place::Published);
        }
        let ready = is_it(&target.temporary, temporary)?;
        let reason = match there {
            None if ready => return Ok(Place::Ready(RenameRule::NoReplace)),
            Some(_) if ready && there == target.replaced => return Ok(Place::Ready(RenameRule::Exchange)),
            // It took the name, and the finished file did not get it.
            Some(_) if ready && target.replaced.is_none() && self.is_placeholder(&target.path)? => {
                self.remove(&target.path)?;
                return Ok(Place::Ready(RenameRule::NoReplace));
            }
            Some(_) if ready => "another file has taken its name",
            Some(there) if there == target.content.inode => {
                "it was written since, or another file has its name"
            }
            _ => "it was moved, removed or written",
        };
        self.tell(RecoveryKind::TargetMissing, &target.path, reason);
        Ok(Place::Gone)
    }

    fn is_placeholder(&self, path: &Path) -> Result<bool> {
        let context = |e| Error::io(format!("cannot look at '{}'", path.display()), e);
        is_placeholder(&**self.storage, path).map_err(context)
    }

    /// The name that the file has which the target replaces, if that is not its own.
    fn replaced(&self, target: &TargetRecord) -> Option<PathBuf> {
        let replaced = target.replaced?;
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
    fn give_up(
        &mut self,
        target: &TargetRecord,
        place: &Place,
        complete: bool,
        journal: &Path,
    ) -> Result<bool> {
        let at = match place {
            Place::Published => &target.path,
            Place::Ready(_) => &target.temporary,
            Place::Gone => return Ok(true),
        };
        match give_up_bitmaps(self.storage, self.held, at) {
            Ok(false) => {}
            Ok(true) => {
                let written = "the image below it was written since, or may have been";
                let reason = if complete { written } else { INCOMPLETE };
                self.tell(RecoveryKind::BitmapsGivenUp, &target.path, reason);
            }
            Err(e) if *place == Place::Published => {
                self.tell_unfinished(&target.path, &e, journal);
                return Ok(false);
            }
            Err(e) => return Err(e),
        }
        Ok(true)
    }

    fn tell_unfinished(&mut self, path: &Path, error: &Error, journal: &Path) {
        let reason = format!("{error}; the journal '{}' stays", journal.display());
        self.tell(RecoveryKind::Unfinished, path, reason);
    }

    /// Lets a target have its name.
    fn publish(&mut self, target: &TargetRecord, place: Place) -> Result<()> {
        let rule = match place {
            Place::Gone => return Ok(()),
            Place::Published => {
                self.tell(RecoveryKind::TargetWasPublished, &target.path, "");
                return Ok(());
            }
            Place::Ready(rule) => rule,
        };
        let (temporary, path) = (&target.temporary, &target.path);
        let done = match rule {
            RenameRule::Exchange => exchange(&**self.storage, temporary, path, Recovered::Yes),
            _ => give(&**self.storage, temporary, path),
        };
        if let Err(e) = done {
            // It may have happened all the same.
            tidy(&**self.storage, temporary, path).map_err(|e| unnamed(path, e))?;
            let there = self.storage.entry(&target.path).map(|entry| entry.id.inode);
            if there.ok() != Some(target.content.inode) {
                return Err(unnamed(path, e));
            }
        }
        self.tell(RecoveryKind::TargetPublished, &target.path, "");
        Ok(())
    }

    /// Switches one image; false if that has to wait.
    fn switch(&mut self, source: &Switch, complete: bool, journal: &Path) -> bool {
        let path = &source.image.path;
        let done = if complete {
            switch(self.storage, self.held, source)
        } else {
            give_up_if_switched(self.storage, self.held, source)
        };
        match done {
            Ok(Switched::Left) if !complete => self.tell(RecoveryKind::BitmapsLeft, path, INCOMPLETE),
            Ok(Switched::GivenUp) if !complete => self.tell(RecoveryKind::BitmapsGivenUp, path, INCOMPLETE),
            Ok(Switched::Now) => self.tell(RecoveryKind::BitmapsChanged, path, ""),
            Ok(Switched::Before) => self.tell(RecoveryKind::BitmapsWereChanged, path, ""),
            Ok(Switched::Left) => self.tell(RecoveryKind::BitmapsLeft, path, "it was written since"),
            Ok(Switched::GivenUp) => {
                let reason = "it was written since by a program that did not record it";
                self.tell(RecoveryKind::BitmapsGivenUp, path, reason);
            }
            Err(e) if e.kind() == ErrorKind::NotFound => {
                self.tell(RecoveryKind::BitmapsLeft, path, e);
            }
            Err(e) => {
                self.tell_unfinished(path, &e, journal);
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
