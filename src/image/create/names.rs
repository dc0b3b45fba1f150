//! Names of finished files, on file systems of every kind.
//!
//! A rename that refuses to replace, and one that swaps, are not known everywhere, and neither are second names. Where one is
//! missing several steps do the same; a crash between them leaves what [`tidy`] finishes or takes back. `docs/commit.md` has
//! the steps.

use std::{
    ffi::OsString,
    io,
    path::{Path, PathBuf},
};

use super::is_absent;
use crate::{
    image::folder_of,
    storage::{FileId, FileKind, RenameRule, Storage, lacks_links, lacks_rule},
};

/// Whether a recovery would finish what a crash interrupts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Recovered {
    /// A journal has the names.
    Yes,
    /// The final name must lead to a file at every moment.
    No,
}

/// How names were changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// By one atomic step.
    AtOnce,
    /// By several: a power cut can leave what is between them, until the folder is durable.
    InSteps,
    /// The file that had the final name is gone: there is no way back.
    Replaced,
}

/// Gives a file a name that is free.
pub(crate) fn give(storage: &dyn Storage, from: &Path, to: &Path) -> io::Result<Way> {
    match storage.rename(from, to, RenameRule::NoReplace) {
        Err(e) if lacks_rule(&e) => {}
        done => return done.map(|()| Way::AtOnce),
    }
    let file = storage.entry(from)?.id;
    if link(storage, from, to, file)? {
        // Without this a power cut could leave neither name.
        sync(storage, to)?;
        return storage.unlink(from).map(|()| Way::InSteps);
    }
    let placeholder = take(storage, to)?;
    let replaced = replace(storage, from, to, file).inspect_err(|_| {
        if leads(storage, to, placeholder) {
            let _ = storage.unlink(to);
        }
    });
    replaced.map(|()| Way::InSteps)
}

/// Lets the files of two names swap them.
pub(crate) fn exchange(
    storage: &dyn Storage,
    temporary: &Path,
    path: &Path,
    recovered: Recovered,
) -> io::Result<Way> {
    match storage.rename(temporary, path, RenameRule::Exchange) {
        Err(e) if lacks_rule(&e) => {}
        done => return done.map(|()| Way::AtOnce),
    }
    let transit = transit(temporary);
    let (new, old) = (storage.entry(temporary)?.id, storage.entry(path)?.id);
    if link(storage, path, &transit, old)? {
        // Without this a power cut could leave the old file without a name.
        sync(storage, path)?;
        replace(storage, temporary, path, new)?;
    } else if recovered == Recovered::No {
        return replace(storage, temporary, path, new).map(|()| Way::Replaced);
    } else {
        replace(storage, path, &transit, old)?;
        give(storage, temporary, path)?;
    }
    replace(storage, &transit, temporary, old).map(|()| Way::InSteps)
}

/// Finishes, or takes back, a swap that was interrupted: none of the two files has the name in between any more, but where
/// somebody else has taken the final name.
pub(crate) fn tidy(storage: &dyn Storage, temporary: &Path, path: &Path) -> io::Result<()> {
    let transit = transit(temporary);
    let id = |path: &Path| match storage.entry(path) {
        Ok(entry) => Ok(Some(entry.id)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    };
    let Some(between) = id(&transit)? else { return Ok(()) };
    match (id(temporary)?, id(path)?) {
        (_, Some(there)) if there == between => remove(storage, &transit),
        (None, _) => replace(storage, &transit, temporary, between),
        (_, None) => give(storage, &transit, path).map(drop),
        _ if is_placeholder(storage, path)? => replace(storage, &transit, path, between),
        _ => Ok(()),
    }
}

/// The name that the old file has for a moment while two files swap their names.
pub(crate) fn transit(temporary: &Path) -> PathBuf {
    let mut name = temporary.file_stem().map_or_else(OsString::new, OsString::from);
    name.push(".swap.tmp");
    temporary.with_file_name(name)
}

/// Whether this is an empty file: one that takes a name until the finished file has it, or one like it.
pub(crate) fn is_placeholder(storage: &dyn Storage, path: &Path) -> io::Result<bool> {
    let is_file = storage.entry(path)?.kind == FileKind::Regular;
    Ok(is_file && storage.open(path)?.len()? == 0)
}

/// Removes a name, whatever is reported.
fn remove(storage: &dyn Storage, path: &Path) -> io::Result<()> {
    storage.unlink(path).or_else(|e| if is_absent(storage, path) { Ok(()) } else { Err(e) })
}

/// Renames a file, whatever has the new name, and whatever is reported.
fn replace(storage: &dyn Storage, from: &Path, to: &Path, file: FileId) -> io::Result<()> {
    let renamed = storage.rename(from, to, RenameRule::Replace);
    renamed.or_else(|e| if leads(storage, to, file) { Ok(()) } else { Err(e) })
}

/// Gives a file a second name; false where that cannot be.
fn link(storage: &dyn Storage, from: &Path, to: &Path, file: FileId) -> io::Result<bool> {
    match storage.link(from, to) {
        _ if leads(storage, to, file) => Ok(true),
        // Some file systems give each name a number of its own: nothing shows there that it is one file.
        Ok(()) => remove(storage, to).map(|()| false),
        Err(e) if lacks_links(&e) => Ok(false),
        Err(e) => Err(e),
    }
}

/// Takes a name that is free with an empty file.
fn take(storage: &dyn Storage, path: &Path) -> io::Result<FileId> {
    let taken = storage.create(path).and_then(|file| file.id());
    taken.inspect_err(|e| {
        // It can have been made all the same.
        if e.kind() != io::ErrorKind::AlreadyExists && is_placeholder(storage, path).unwrap_or(false) {
            let _ = storage.unlink(path);
        }
    })
}

fn sync(storage: &dyn Storage, path: &Path) -> io::Result<()> {
    storage.sync_folder(folder_of(path))
}

/// Whether it is proven that a name is that of this file.
pub(super) fn leads(storage: &dyn Storage, path: &Path, file: FileId) -> bool {
    storage.entry(path).is_ok_and(|entry| entry.id == file)
}
