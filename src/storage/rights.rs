//! Who may use a file: the mode bits and the owner of the operating system's files.
//!
//! A new file is its owner's alone while it is made. What it becomes is never more than its model has: where the model's group
//! cannot be given, our own group gets no more than everybody.

use std::{
    fs, io,
    os::unix::fs::{MetadataExt, PermissionsExt, fchown},
};

use super::sys;

/// Reading and writing, for everybody.
const ALL: u32 = 0o666;
/// What nobody takes from an owner: he could not use his own file.
const OWNER: u32 = 0o600;

/// Who may use a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileRights {
    /// The nine bits `rwxrwxrwx`. Where the file has an access list, its group's bits are no more than those of all others:
    /// they tell of the list then.
    pub mode: u32,
    /// The number of its owner.
    pub owner: u32,
    /// The number of its group.
    pub group: u32,
}

/// Who may use a new file when it is complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NewRights {
    /// As any new file of the process, by its umask and the folder's rules, but nobody beside the owner may do what this mode
    /// does not allow.
    Within(u32),
    /// The same as another file.
    As(FileRights),
}

impl NewRights {
    /// As any new file of the process.
    pub const PLAIN: NewRights = NewRights::Within(ALL);

    /// The mode to create the file with, which the umask makes smaller.
    pub(super) fn first_mode(self) -> u32 {
        match self {
            NewRights::Within(mode) => ALL & (mode | OWNER),
            NewRights::As(_) => OWNER,
        }
    }
}

/// The rights of an open file.
pub(super) fn of(file: &fs::File) -> io::Result<FileRights> {
    let status = file.metadata()?;
    let mut mode = status.mode() & 0o777;
    if sys::has_access_list(file) {
        mode = without_group(mode);
    }
    Ok(FileRights { mode, owner: status.uid(), group: status.gid() })
}

/// The mode where the group has no more than all others.
fn without_group(mode: u32) -> u32 {
    mode & (0o707 | (mode & 0o007) << 3)
}

/// Closes a file that was just created to all but its owner, and says which rights it is to have.
pub(super) fn close(file: &fs::File, rights: NewRights) -> io::Result<NewRights> {
    let NewRights::Within(_) = rights else { return Ok(rights) };
    // What the system has made of it, by the umask or the folder's access list.
    let granted = file.metadata()?.mode() & 0o777;
    set_mode(file, OWNER)?;
    Ok(NewRights::Within(granted))
}

/// Gives a file its rights.
pub(super) fn give(file: &fs::File, rights: NewRights) -> io::Result<()> {
    let model = match rights {
        NewRights::Within(mode) => return set_mode(file, mode),
        NewRights::As(model) => model,
    };
    let own = file.metadata()?;
    if (own.uid(), own.gid()) != (model.owner, model.group) {
        // Only a privileged process may give files away, but everybody to a group of his own.
        let both = fchown(file, Some(model.owner), Some(model.group));
        let _ = both.or_else(|_| fchown(file, None, Some(model.group)));
    }
    let has_group = file.metadata()?.gid() == model.group;
    set_mode(file, if has_group { model.mode } else { without_group(model.mode) })
}

/// Some file systems have no modes: then there is nothing to set.
fn set_mode(file: &fs::File, mode: u32) -> io::Result<()> {
    match file.set_permissions(fs::Permissions::from_mode(mode)) {
        Err(e)
            if matches!(
                e.raw_os_error(),
                Some(libc::EPERM | libc::EOPNOTSUPP | libc::ENOSYS | libc::EINVAL)
            ) =>
        {
            Ok(())
        }
        result => result,
    }
}
