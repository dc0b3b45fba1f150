//! Who may use a file: the mode bits and the owner of the operating system's files.
//!
//! A new file is its owner's alone while it is made. What it becomes is never more than its model has, and never more than the
//! files have that it is made from: where its group is another one, group and others get what both have there.

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

/// What group and others of a new file may do at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RightsLimit {
    /// Mode bits; those of the owner limit nothing.
    pub mode: u32,
    /// The group that the group's bits are about. Members of other groups may do what both the group and all others may.
    pub group: Option<u32>,
}

impl RightsLimit {
    /// Of a file that is made from two.
    pub(crate) fn and(self, other: RightsLimit) -> RightsLimit {
        match self.group == other.group {
            true => RightsLimit { mode: self.mode & other.mode, ..self },
            false => RightsLimit { mode: self.of(None) & other.of(None), group: None },
        }
    }

    /// The mode of a file with this group.
    fn of(self, group: Option<u32>) -> u32 {
        if group.is_some() && self.group == group { self.mode } else { without_group(self.mode) }
    }
}

impl From<FileRights> for RightsLimit {
    fn from(rights: FileRights) -> Self {
        RightsLimit { mode: rights.mode, group: Some(rights.group) }
    }
}

/// Who may use a new file when it is complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NewRights {
    /// As any new file of the process, by its umask and the folder's rules, but nobody beside the owner may do what this
    /// does not allow.
    Within(RightsLimit),
    /// The same as another file.
    As(FileRights),
}

impl NewRights {
    /// As any new file of the process.
    pub const PLAIN: NewRights = NewRights::Within(RightsLimit { mode: 0o777, group: None });

    /// Of a file that takes the place of one with these rights: it keeps them, but its limits hold as well.
    pub(crate) fn replacing(self, old: FileRights) -> NewRights {
        match self {
            NewRights::Within(limit) => {
                NewRights::As(FileRights { mode: old.mode & (0o700 | limit.of(Some(old.group))), ..old })
            }
            NewRights::As(_) => NewRights::As(old),
        }
    }

    /// The mode to create the file with, which the umask makes smaller.
    pub(super) fn first_mode(self) -> u32 {
        match self {
            NewRights::Within(limit) => ALL & (limit.mode | OWNER),
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

/// The mode for a file of another group: members of the old group are among all others there, and members of the new group were
/// before.
fn without_group(mode: u32) -> u32 {
    let both = mode & mode >> 3 & 0o007;
    mode & 0o700 | both << 3 | both
}

/// Closes a file that was just created to all but its owner, and says which rights it is to have.
pub(super) fn close(file: &fs::File, rights: NewRights) -> io::Result<NewRights> {
    let NewRights::Within(limit) = rights else { return Ok(rights) };
    // What the system has made of it, by the umask or the folder's access list.
    let made = file.metadata()?;
    set_mode(file, OWNER)?;
    let group = Some(made.gid());
    let mode = made.mode() & (0o700 | limit.of(group));
    Ok(NewRights::Within(RightsLimit { mode, group }))
}

/// Gives a file its rights.
pub(super) fn give(file: &fs::File, rights: NewRights) -> io::Result<()> {
    let model = match rights {
        NewRights::Within(limit) => return set_mode(file, limit.mode),
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
