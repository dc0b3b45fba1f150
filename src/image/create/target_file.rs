//! A file that is being made: nameless to others until it is complete.
//!
//! It is written under a temporary name in its final folder. Publishing renames it and makes the folder
//! durable; abandoning removes it. Whatever happens before publishing, also a panic, removes it.

use std::{
    hash::{BuildHasher, Hasher, RandomState},
    io, mem,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{
    Existing,
    names::{Recovered, Way, exchange, give, leads, tidy, transit},
};
use crate::{
    error::{Error, ErrorKind, Result},
    image::folder_of,
    storage::{File, FileId, FileKind, Lock, NewRights, Storage, create_under_own_name},
};

/// What the names of temporary files and journals begin with. A recovery removes such files, so nothing else has such a name.
pub(crate) const OWN_PREFIX: &str = ".holstein-";

/// A target file that is not published, or can still be withdrawn.
#[derive(Debug)]
pub(crate) struct TargetFile {
    storage: Arc<dyn Storage>,
    file: File,
    path: PathBuf,
    temporary: PathBuf,
    /// The file to be replaced, locked so that nobody uses it meanwhile.
    replaced: Option<File>,
    recovered: Recovered,
    state: State,
    /// How it got its final name.
    way: Way,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// The data is under the temporary name.
    Temporary,
    /// The rename failed, and which name the data has is not known.
    Unknown,
    /// The data is under the final name, which was free.
    Published,
    /// The data is under the final name and the file that was there under the temporary one.
    Exchanged,
    /// The data is under the final name, and under the temporary one a file that somebody put there in the moment before.
    Displaced,
    /// As exchanged, and it stays so.
    Staying,
    /// Nothing is left to do.
    Settled,
}

impl TargetFile {
    /// A name for the temporary file of a target, which nobody else uses.
    pub(crate) fn temporary_name(path: &Path) -> PathBuf {
        // The hasher's keys are random, and differ for each one that is made.
        let number = RandomState::new().build_hasher().finish();
        folder_of(path).join(format!("{OWN_PREFIX}{number:016x}.tmp"))
    }

    /// Creates the temporary file under a name of its own, which no journal has, locked against everybody else. When it is
    /// complete others may use it as `rights` say, and no more than the file that it replaces.
    pub(crate) fn create(
        storage: Arc<dyn Storage>,
        path: &Path,
        existing: Existing,
        rights: NewRights,
    ) -> Result<Self> {
        let mut target = Self::create_as(storage, path, Self::temporary_name(path), existing, rights)?;
        target.recovered = Recovered::No;
        Ok(target)
    }

    /// The same under this temporary name, in the folder of the final one, which a journal has.
    pub(crate) fn create_as(
        storage: Arc<dyn Storage>,
        path: &Path,
        temporary: PathBuf,
        existing: Existing,
        rights: NewRights,
    ) -> Result<Self> {
        let replaced = match existing {
            Existing::Overwrite if storage.entry(path).is_ok() => Some(lock_existing(&*storage, path)?),
            _ => None,
        };
        let kept = replaced.as_ref().map(File::rights).transpose()?.flatten();
        let rights = kept.map_or(rights, |old| rights.replacing(old));
        let inner = create_under_own_name(&*storage, &temporary, Some(rights))
            .map_err(|e| Error::io(format!("cannot create the target '{}'", path.display()), e))?;
        // Messages name the file by the name that people know.
        let file = File::new(inner, path);
        let path = path.to_owned();
        let (recovered, state) = (Recovered::Yes, State::Temporary);
        let way = Way::AtOnce;
        let target = TargetFile { storage, file, path, temporary, replaced, recovered, state, way };
        target.file.lock(Lock::Write)?;
        Ok(target)
    }

    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    /// The final name.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Gives the file its final name. The name is durable after [`TargetFile::sync_folder`]; until
    /// [`TargetFile::finish`] it can be withdrawn.
    pub(crate) fn publish(&mut self) -> Result<()> {
        let (done, state) = match &self.replaced {
            None => (give(&*self.storage, &self.temporary, &self.path), State::Published),
            Some(file) => {
                // What is replaced is what was looked at and locked, nothing that came in between.
                if self.storage.entry(&self.path).map(|entry| entry.id).ok() != Some(file.id()?) {
                    return Err(self.replaced_meanwhile());
                }
                (exchange(&*self.storage, &self.temporary, &self.path, self.recovered), State::Exchanged)
            }
        };
        let failure = match done {
            Ok(Way::Replaced) => {
                self.state = State::Settled;
                return Ok(());
            }
            Ok(way) => {
                self.way = way;
                // What came in between after all shows now.
                let is_sure = self.replaced.as_ref().is_none_or(|old| self.leads_to(&self.temporary, old));
                self.state = if is_sure { state } else { self.look() };
                None
            }
            Err(e) => {
                // Network file systems report an error of what they did, too.
                self.way = Way::InSteps;
                self.state = self.look();
                Some(e)
            }
        };
        if self.state == state {
            return Ok(());
        }
        if self.state == State::Displaced {
            return Err(self.make_way());
        }
        Err(match failure {
            Some(e) if e.kind() == io::ErrorKind::AlreadyExists => exists_already(&self.path),
            Some(e) => {
                Error::io(format!("cannot rename the finished target to '{}'", self.path.display()), e)
            }
            None => self.unknown_name(),
        })
    }

    /// Gives a file its name back that somebody put in the place of the old one in the moment before the swap.
    fn make_way(&mut self) -> Error {
        let back = self.exchange_back();
        self.state = if back.is_ok() { State::Temporary } else { self.look() };
        if self.state == State::Temporary {
            return self.replaced_meanwhile();
        }
        let text = format!(
            "another file took this name in the moment when the target got it, and is called '{}' now",
            self.temporary.display()
        );
        let error = self.file.error(ErrorKind::Exists, text);
        back.err().map_or(error.clone(), |e| error.and_also(format!("it could not be renamed: {e}")))
    }

    fn replaced_meanwhile(&self) -> Error {
        let text =
            "the file that was to be overwritten was replaced meanwhile; the one that is there now stays";
        self.file.error(ErrorKind::Exists, text)
    }

    fn unknown_name(&self) -> Error {
        self.file.error(ErrorKind::Io, "which file has this name is not known after a rename that failed")
    }

    /// Whether a power cut can leave its names half changed until the folder is durable.
    pub(crate) fn went_in_steps(&self) -> bool {
        self.way == Way::InSteps
    }

    /// The state that the names tell, when what was begun is finished or taken back.
    fn look(&self) -> State {
        let _ = tidy(&*self.storage, &self.temporary, &self.path);
        if !is_absent(&*self.storage, &transit(&self.temporary)) {
            return State::Unknown;
        }
        let published = self.leads_to(&self.path, &self.file);
        if self.leads_to(&self.temporary, &self.file) {
            // Of two names none goes that may be the only durable one.
            let is_left = published && (self.recovered == Recovered::Yes || !self.remove(&self.path));
            return if is_left { State::Unknown } else { State::Temporary };
        }
        match &self.replaced {
            _ if !published => State::Unknown,
            None => State::Published,
            Some(old) if self.leads_to(&self.temporary, old) => State::Exchanged,
            Some(_) if self.storage.entry(&self.temporary).is_ok() => State::Displaced,
            Some(_) => State::Unknown,
        }
    }

    /// Whether it is proven that a name is that of this file.
    fn leads_to(&self, path: &Path, file: &File) -> bool {
        file.id().is_ok_and(|id| leads(&*self.storage, path, id))
    }

    /// Takes the final name back: the file has its temporary name, and what was there before its own.
    pub(crate) fn withdraw(&mut self) -> Result<()> {
        if self.state == State::Unknown {
            self.state = self.look();
        }
        let done = match self.state {
            State::Published => self.take_name(),
            State::Exchanged | State::Displaced => self.exchange_back(),
            State::Temporary | State::Staying | State::Settled => return Ok(()),
            State::Unknown => return Err(self.unknown_name()),
        };
        self.state = if done.is_ok() { State::Temporary } else { self.look() };
        match done {
            Err(e) if self.state != State::Temporary => {
                Err(Error::io(format!("cannot take back the name '{}'", self.path.display()), e))
            }
            _ => Ok(()),
        }
    }

    /// Gives the file its temporary name, if it is the file that has the final one.
    fn take_name(&self) -> io::Result<()> {
        self.ensure_named()?;
        give(&*self.storage, &self.path, &self.temporary)?;
        self.ensure_taken().inspect_err(|_| {
            let _ = give(&*self.storage, &self.temporary, &self.path);
        })
    }

    /// The same where another file has the temporary name, which gets the final one.
    fn exchange_back(&self) -> io::Result<()> {
        self.ensure_named()?;
        let exchange = || exchange(&*self.storage, &self.temporary, &self.path, self.recovered);
        exchange()?;
        self.ensure_taken().inspect_err(|_| {
            let _ = exchange();
        })
    }

    fn ensure_named(&self) -> io::Result<()> {
        if self.leads_to(&self.path, &self.file) { Ok(()) } else { Err(taken_by_another()) }
    }

    /// Whether it was this file that got the temporary name, and none that somebody put in its place in the moment before.
    fn ensure_taken(&self) -> io::Result<()> {
        if self.leads_to(&self.temporary, &self.file) { Ok(()) } else { Err(taken_by_another()) }
    }

    /// From here on the file keeps its name, whatever happens; [`TargetFile::finish`] is still to come.
    pub(crate) fn stay(&mut self) {
        self.state = match self.state {
            State::Exchanged => State::Staying,
            State::Published => State::Settled,
            state => state,
        };
    }

    /// Leaves everything as it is, for a recovery to finish.
    pub(crate) fn leave(mut self) {
        self.state = State::Settled;
    }

    /// The name of the file before it is published, and of the file that it replaces afterwards.
    pub(crate) fn temporary(&self) -> &Path {
        &self.temporary
    }

    /// The file that it replaces.
    pub(crate) fn replaced(&self) -> Option<&File> {
        self.replaced.as_ref()
    }

    /// Makes the names in the target's folder durable.
    pub(crate) fn sync_folder(&self) -> Result<()> {
        let folder = folder_of(&self.path);
        let context = || format!("cannot make the folder '{}' durable", folder.display());
        self.storage.sync_folder(folder).map_err(|e| Error::io(context(), e))
    }

    /// Drops the way back: a file that was replaced goes, durably where that can be. False if it is still there under the
    /// temporary name.
    pub(crate) fn finish(mut self) -> bool {
        match mem::replace(&mut self.state, State::Settled) {
            State::Exchanged | State::Staying => {
                self.replaced.as_ref().is_none_or(|old| self.remove_temporary(old))
            }
            _ => true,
        }
    }

    /// Takes everything back, durably where that can be: the final name is as it was before, and the temporary file is gone.
    /// False if it is still there.
    pub(crate) fn take_back(mut self) -> bool {
        self.undo()
    }

    fn undo(&mut self) -> bool {
        let _ = self.withdraw();
        match mem::replace(&mut self.state, State::Settled) {
            State::Temporary => self.remove_temporary(&self.file),
            // It could not get its other name.
            State::Published => !self.leads_to(&self.path, &self.file) || self.remove(&self.path),
            // Nothing is removed that is not proven to be our own file: each of the names may have the only copy of
            // what was there before.
            State::Unknown | State::Exchanged | State::Displaced => true,
            State::Staying | State::Settled => true,
        }
    }

    /// Removes the temporary name, unless it is proven that another file than this has it.
    fn remove_temporary(&self, file: &File) -> bool {
        match (self.storage.entry(&self.temporary), file.id()) {
            (Ok(entry), Ok(id)) if entry.id != id => true,
            _ => self.remove(&self.temporary),
        }
    }

    fn remove(&self, path: &Path) -> bool {
        let gone = self.storage.unlink(path);
        let gone = gone.is_ok() || is_absent(&*self.storage, path);
        // Where this fails a power cut may bring the name back, which harms nobody.
        let _ = self.sync_folder();
        gone
    }
}

impl Drop for TargetFile {
    fn drop(&mut self) {
        let _ = self.undo();
    }
}

/// Whether it is certain that nothing has this name: an unlink can have happened that reports an error.
pub(crate) fn is_absent(storage: &dyn Storage, path: &Path) -> bool {
    storage.entry(path).is_err_and(|e| e.kind() == io::ErrorKind::NotFound)
}

/// Opens and locks a file that will be replaced: somebody who has it open would go on with a file that has no
/// name any more.
fn lock_existing(storage: &dyn Storage, path: &Path) -> Result<File> {
    let context = || format!("cannot open the target '{}' that is to be overwritten", path.display());
    let file = File::new(storage.open_writable(path).map_err(|e| Error::io(context(), e))?, path);
    file.lock(Lock::Write)?;
    Ok(file)
}

/// Looks at what is there already, before anything is created. A target never replaces one of the files
/// `in_use`, which are read for it, nor anything but a file.
pub(crate) fn refuse_existing(
    storage: &dyn Storage,
    path: &Path,
    existing: Existing,
    in_use: &[(FileId, PathBuf)],
) -> Result<()> {
    let status = match storage.entry(path) {
        Ok(status) => status,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(Error::io(format!("cannot look at the target '{}'", path.display()), e)),
    };
    // A link that leads to a file in use is told as what it leads to.
    let id = storage.status(path).map_or(status.id, |followed| followed.id);
    if let Some((_, used)) = in_use.iter().find(|(used, _)| *used == id) {
        let text = format!("the target '{}' is '{}', which this run reads", path.display(), used.display());
        return Err(Error::new(ErrorKind::InvalidArgument, text));
    }
    if existing == Existing::Refuse {
        return Err(exists_already(path));
    }
    if status.kind != FileKind::Regular {
        let text = format!("the target '{}' exists and is no regular file", path.display());
        return Err(Error::new(ErrorKind::InvalidArgument, text));
    }
    Ok(())
}

/// What tells one target from another, whatever way leads there: the folder and the name in it. Refuses a name that no target
/// may have.
pub(crate) fn place(storage: &dyn Storage, path: &Path) -> Result<(FileId, Vec<u8>)> {
    let name = path.file_name().filter(|_| !path.as_os_str().as_bytes().ends_with(b"/"));
    let Some(name) = name else {
        let text = format!("the target '{}' has no file name", path.display());
        return Err(Error::new(ErrorKind::InvalidArgument, text));
    };
    refuse_own_name("target", path)?;
    let folder = folder_of(path);
    let status = storage.status(folder).map_err(|e| {
        let text =
            format!("cannot create the target '{}': its folder '{}'", path.display(), folder.display());
        Error::io(text, e)
    })?;
    Ok((status.id, name.as_bytes().to_vec()))
}

/// Refuses a file called like our own temporary files and journals: the next recovery in its folder could remove it.
pub(crate) fn refuse_own_name(role: &str, path: &Path) -> Result<()> {
    let name = path.file_name().unwrap_or_default();
    if !name.as_bytes().starts_with(OWN_PREFIX.as_bytes()) {
        return Ok(());
    }
    let text = format!(
        "the {role} '{}' is called like the temporary files and journals of Holstein, which a recovery removes; choose a \
         name that does not begin with '{OWN_PREFIX}'",
        path.display()
    );
    Err(Error::new(ErrorKind::InvalidArgument, text))
}

fn taken_by_another() -> io::Error {
    io::Error::new(io::ErrorKind::AlreadyExists, "another file has the name now, and keeps it")
}

fn exists_already(path: &Path) -> Error {
    let text =
        format!("the target '{}' exists already; choose another name or allow overwriting", path.display());
    Error::new(ErrorKind::Exists, text)
}

#[cfg(test)]
mod tests;
