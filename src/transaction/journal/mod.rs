//! The journal of a transaction: one file that decides for all of its targets and sources together.
//!
//! The protocol, its order of writes, and what each crash leaves are in `docs/commit.md`.

mod record;
mod recover;

use std::{
    hash::{BuildHasher, Hasher, RandomState},
    path::{Path, PathBuf},
    sync::Arc,
};

pub(crate) use record::Content;
use record::{ALIGNMENT, Begun, Block, Decided, TargetRecord};
pub(crate) use recover::recover;

use crate::{
    disk::{Fingerprint, Folder, Switch},
    error::{Error, ErrorKind, Result},
    image::create::{OWN_PREFIX, is_absent},
    storage::{File, Lock, Storage, create_under_own_name, in_full},
};

/// How often a new journal is tried that others take away.
const ATTEMPTS: usize = 8;

/// What the name of a journal ends with.
const SUFFIX: &str = ".journal";

/// The journal of a transaction at work. Its file is locked, so nobody takes it for that of one that died.
#[derive(Debug)]
pub(crate) struct Journal {
    storage: Arc<dyn Storage>,
    file: File,
    folder: PathBuf,
    path: PathBuf,
    /// Where the decision goes.
    second: u64,
    /// It stays when it is dropped, or is gone.
    released: bool,
}

/// A target that shall get its name.
#[derive(Debug)]
pub(crate) struct TargetSwitch {
    pub(crate) temporary: PathBuf,
    pub(crate) path: PathBuf,
    pub(crate) content: Content,
    /// The file that is replaced, if one is.
    pub(crate) replaced: Option<Content>,
    /// The image that it covers, if it does.
    pub(crate) below: Option<Fingerprint>,
}

impl Journal {
    /// Begins a journal in `folder`, which is durable before this returns: the files that are made from now on under
    /// `temporaries` are found, and removed, if the transaction dies.
    pub(crate) fn begin(storage: Arc<dyn Storage>, folder: &Path, temporaries: &[PathBuf]) -> Result<Self> {
        let begun = Begun {
            temporaries: temporaries.iter().map(|path| in_full(&*storage, path)).collect::<Result<_>>()?,
        };
        let bytes = begun.encode();
        let second = (bytes.len() as u64).next_multiple_of(ALIGNMENT);
        let journal = Self::create(storage, folder, second)?;
        journal.file.write_all(&bytes, 0)?;
        journal.file.sync()?;
        journal.sync_folder()?;
        Ok(journal)
    }

    /// An empty journal that is locked.
    fn create(storage: Arc<dyn Storage>, folder: &Path, second: u64) -> Result<Self> {
        let context = |e| Error::io(format!("cannot create the journal in '{}'", folder.display()), e);
        for _ in 0..ATTEMPTS {
            let path = folder.join(format!("{OWN_PREFIX}{}{SUFFIX}", random_name()));
            let file = File::new(create_under_own_name(&*storage, &path, None).map_err(context)?, &path);
            let folder = folder.to_owned();
            let journal = Journal { storage: storage.clone(), file, folder, path, second, released: false };
            match journal.file.lock(Lock::Write) {
                Err(e) if e.kind() == ErrorKind::Locked => continue,
                other => other?,
            }
            // A recovery that came in between has taken it for the journal of a dead transaction.
            if let Ok(status) = storage.status(&journal.path)
                && status.id == journal.file.id()?
            {
                return Ok(journal);
            }
        }
        let text = format!("the journal in '{}' was removed each time while it was made", folder.display());
        Err(Error::new(ErrorKind::Locked, text))
    }

    /// Decides, durably. On an error nobody knows whether the decision is there. From here on the journal stays when it is
    /// dropped.
    pub(crate) fn decide(&mut self, targets: Vec<TargetSwitch>, sources: Vec<Switch>) -> Result<()> {
        let storage = &*self.storage;
        let target = |target: TargetSwitch| {
            let path = in_full(storage, &target.path)?;
            Ok(TargetRecord {
                temporary: in_full(storage, &target.temporary)?,
                folder: Folder::of(storage, &path).ok(),
                path,
                content: target.content,
                replaced: target.replaced,
                below: target.below,
            })
        };
        let targets = targets.into_iter().map(target).collect::<Result<_>>()?;
        self.released = true;
        self.file.write_all(&Decided { targets, sources }.encode(), self.second)?;
        self.file.sync()
    }

    /// Removes the journal: what it says is done, or shall not be done. Durable when this returns; after an error it may
    /// still be there.
    pub(crate) fn forget(mut self) -> Result<()> {
        self.released = true;
        self.remove()
    }

    /// Takes the decision back, durably; the journal of what is still to be removed stays. After an error nobody knows
    /// whether the decision is there.
    pub(crate) fn revoke(&mut self) -> Result<()> {
        let nothing = [0; ALIGNMENT as usize];
        let overwritten = self.file.write_all(&nothing, self.second).and_then(|()| self.file.sync());
        // A file whose sync has failed is not written any more, but it can go.
        overwritten.or_else(|_| self.remove())?;
        self.released = false;
        Ok(())
    }

    /// Leaves the journal to a later recovery.
    pub(crate) fn keep(mut self) {
        self.released = true;
    }

    fn remove(&self) -> Result<()> {
        let context = || format!("cannot remove the journal '{}'", self.path.display());
        match self.storage.unlink(&self.path) {
            // It happened, whatever was reported.
            Err(_) if is_absent(&*self.storage, &self.path) => {}
            other => other.map_err(|e| Error::io(context(), e))?,
        }
        self.sync_folder()
    }

    fn sync_folder(&self) -> Result<()> {
        let context = || format!("cannot make the folder '{}' durable", self.folder.display());
        self.storage.sync_folder(&self.folder).map_err(|e| Error::io(context(), e))
    }

    /// For messages.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }
}

impl Drop for Journal {
    /// If nothing is decided, what was made is gone.
    fn drop(&mut self) {
        if !self.released {
            let _ = self.remove();
        }
    }
}

/// 16 digits; the hasher's keys are random, and differ for each one that is made.
fn random_name() -> String {
    format!("{:016x}", RandomState::new().build_hasher().finish())
}

/// The parent of a path, for names alone the current folder.
fn folder_of(path: &Path) -> Result<&Path> {
    match path.parent() {
        Some(folder) if folder.as_os_str().is_empty() => Ok(Path::new(".")),
        Some(folder) => Ok(folder),
        None => {
            Err(Error::new(ErrorKind::InvalidArgument, format!("'{}' is no file's path", path.display())))
        }
    }
}
