//! What was done: the operations, and which of them a crash can still undo.

use std::{
    collections::BTreeMap,
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{crash::Fate, faults::OperationKind};
use crate::storage::RenameRule;

/// An operation that was carried out, with everything that is needed to do it again. Files have numbers, for
/// their names change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operation {
    /// A new, empty file got this name.
    Create {
        /// Its name.
        path: PathBuf,
        /// Its number.
        file: u64,
    },
    /// A file was opened.
    Open {
        /// The name it was opened by.
        path: PathBuf,
        /// Its number.
        file: u64,
        /// Also for writing.
        writable: bool,
    },
    /// Bytes were written, as many as `data` has.
    Write {
        /// Where to.
        file: u64,
        /// Offset of the first byte.
        offset: u64,
        /// The bytes.
        data: Arc<[u8]>,
    },
    /// A file got a new length.
    SetLen {
        /// Which.
        file: u64,
        /// In bytes.
        length: u64,
    },
    /// A range of a file became a hole.
    Punch {
        /// Of which.
        file: u64,
        /// Offset of the first byte.
        offset: u64,
        /// How many bytes, all of them inside the file.
        length: u64,
    },
    /// A file got the bytes of another one's range, or of its own.
    CloneRange {
        /// Where to.
        file: u64,
        /// Offset of the first byte.
        offset: u64,
        /// Where from.
        source: u64,
        /// Offset there.
        source_offset: u64,
        /// What the bytes were.
        data: Arc<[u8]>,
    },
    /// A file was made durable.
    Sync {
        /// Which.
        file: u64,
    },
    /// A name was given away.
    Rename {
        /// The old name.
        from: PathBuf,
        /// The new name.
        to: PathBuf,
        /// What became of a file that had the new name.
        rule: RenameRule,
    },
    /// A file got one more name.
    Link {
        /// The new name.
        path: PathBuf,
        /// The file's number.
        file: u64,
    },
    /// A name was removed.
    Unlink {
        /// The name.
        path: PathBuf,
    },
    /// The names of a folder were made durable.
    SyncFolder {
        /// Which.
        folder: PathBuf,
    },
}

/// A line of the log; its sequence number is its place there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// What was to be done.
    pub operation: Operation,
    /// It reported an error.
    pub failed: bool,
    /// What it did.
    pub effect: Effect,
    /// The time that it gave to what it changed.
    pub(super) time: u64,
}

/// What an operation did, whatever it reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Effect {
    /// Nothing; a sync of which it failed made nothing durable, and no later one does.
    None,
    /// All that it was to do.
    Whole,
    /// The change time of its file is new; its process died then.
    Time,
    /// It is a sync: what it did not make durable is gone from the cache.
    Dropped,
}

/// What has to be synced so that an operation is durable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Place {
    File(u64),
    Folder(PathBuf),
}

impl Operation {
    /// Its kind.
    pub fn kind(&self) -> OperationKind {
        match self {
            Operation::Create { .. } => OperationKind::Create,
            Operation::Open { .. } => OperationKind::Open,
            Operation::Write { .. } => OperationKind::Write,
            Operation::SetLen { .. } => OperationKind::SetLen,
            Operation::Punch { .. } => OperationKind::Punch,
            Operation::CloneRange { .. } => OperationKind::CloneRange,
            Operation::Sync { .. } => OperationKind::Sync,
            Operation::Rename { .. } => OperationKind::Rename,
            Operation::Link { .. } => OperationKind::Link,
            Operation::Unlink { .. } => OperationKind::Unlink,
            Operation::SyncFolder { .. } => OperationKind::SyncFolder,
        }
    }

    /// The names that it changes.
    pub(super) fn names(&self) -> Vec<&Path> {
        match self {
            Operation::Create { path, .. } | Operation::Link { path, .. } | Operation::Unlink { path } => {
                vec![path]
            }
            Operation::Rename { from, to, .. } => vec![from, to],
            _ => Vec::new(),
        }
    }

    /// The file whose bytes or length it changes.
    pub(super) fn changed_file(&self) -> Option<u64> {
        match self {
            Operation::Write { file, .. }
            | Operation::SetLen { file, .. }
            | Operation::Punch { file, .. }
            | Operation::CloneRange { file, .. } => Some(*file),
            _ => None,
        }
    }

    /// The file whose bytes it changes, the offset of the first one, and how many: what can tear.
    pub(super) fn changed_bytes(&self) -> Option<(u64, u64, usize)> {
        match self {
            Operation::Write { file, offset, data } | Operation::CloneRange { file, offset, data, .. } => {
                Some((*file, *offset, data.len()))
            }
            Operation::Punch { file, offset, length } => Some((*file, *offset, *length as usize)),
            _ => None,
        }
    }

    /// Whether a crash can do that to it.
    pub(super) fn admits(&self, fate: Fate) -> bool {
        match fate {
            Fate::Present | Fate::Lost => true,
            Fate::Head(_) | Fate::Tail(_) | Fate::Hole(_) | Fate::Bytes(_) | Fate::From(_) => {
                self.changed_bytes().is_some()
            }
            Fate::Length | Fate::Stale | Fate::Data => {
                matches!(self, Operation::Write { .. } | Operation::CloneRange { .. })
            }
        }
    }

    /// What has to be synced until it is durable.
    pub(super) fn awaits(&self) -> Vec<Place> {
        if let Some(file) = self.changed_file() {
            return vec![Place::File(file)];
        }
        let mut folders: Vec<_> = self.names().into_iter().map(|name| Place::Folder(parent(name))).collect();
        folders.dedup();
        folders
    }

    fn syncs(&self) -> Option<Place> {
        match self {
            Operation::Sync { file } => Some(Place::File(*file)),
            Operation::SyncFolder { folder } => Some(Place::Folder(folder.clone())),
            _ => None,
        }
    }
}

/// In a few words, without the data.
impl fmt::Display for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.operation {
            Operation::Create { path, file } => write!(f, "create '{}' as file {file}", path.display()),
            Operation::Open { path, file, writable } => {
                let how = if *writable { " for writing" } else { "" };
                write!(f, "open '{}', file {file}{how}", path.display())
            }
            Operation::Write { file, offset, data } => {
                write!(f, "write {} bytes at {offset} of file {file}", data.len())
            }
            Operation::SetLen { file, length } => write!(f, "set the length of file {file} to {length}"),
            Operation::Punch { file, offset, length } => {
                write!(f, "punch {length} bytes at {offset} of file {file}")
            }
            Operation::CloneRange { file, offset, source, source_offset, data } => {
                let length = data.len();
                write!(
                    f,
                    "clone {length} bytes at {source_offset} of file {source} to {offset} of file {file}"
                )
            }
            Operation::Sync { file } => write!(f, "sync file {file}"),
            Operation::Rename { from, to, rule } => {
                let how = if *rule == RenameRule::Exchange { "swap" } else { "rename" };
                write!(f, "{how} '{}' to '{}'", from.display(), to.display())
            }
            Operation::Link { path, file } => write!(f, "link '{}' to file {file}", path.display()),
            Operation::Unlink { path } => write!(f, "unlink '{}'", path.display()),
            Operation::SyncFolder { folder } => write!(f, "sync folder '{}'", folder.display()),
        }?;
        f.write_str(match (self.failed, self.effect) {
            (_, Effect::Time) => " (its time alone)",
            (_, Effect::Dropped) => " (failed, and was dropped)",
            (true, Effect::Whole) => " (done, and failed)",
            (true, _) => " (failed)",
            (false, _) => "",
        })
    }
}

impl Record {
    /// Whether it changed something that a crash can undo.
    pub(super) fn has_effect(&self) -> bool {
        self.effect == Effect::Whole
            && (self.operation.changed_file().is_some() || !self.operation.names().is_empty())
    }

    /// Whether it changed the bytes or the length of a file.
    pub(super) fn is_change_of_bytes(&self) -> bool {
        self.effect == Effect::Whole && self.operation.changed_file().is_some()
    }

    pub(super) fn is_sync(&self) -> bool {
        self.operation.syncs().is_some()
    }

    /// Whether it is about bytes of this file that are in the cache.
    fn is_data_of(&self, wanted: u64) -> bool {
        match &self.operation {
            Operation::Write { file, .. } | Operation::CloneRange { file, .. } => *file == wanted,
            _ => false,
        }
    }
}

/// The folder of a name, whose paths are all written in one way.
pub(super) fn parent(path: &Path) -> PathBuf {
    path.parent().unwrap_or(Path::new("")).to_owned()
}

/// For each number of operations the numbers of those that a crash after them can undo.
pub(super) fn pending(log: &[Record]) -> Vec<Vec<usize>> {
    struct Item {
        number: usize,
        awaits: Vec<Place>,
        /// A sync of it failed: no later one makes it durable.
        doomed: bool,
    }
    let mut open: Vec<Item> = Vec::new();
    let mut all = vec![Vec::new()];
    for (number, record) in log.iter().enumerate() {
        match record.operation.syncs() {
            Some(place) if record.effect != Effect::Whole => {
                open.iter_mut().for_each(|item| item.doomed |= item.awaits.contains(&place));
            }
            Some(place) => {
                open.iter_mut().filter(|item| !item.doomed).for_each(|i| i.awaits.retain(|p| *p != place));
                open.retain(|item| !item.awaits.is_empty());
            }
            None if record.has_effect() => {
                open.push(Item { number, awaits: record.operation.awaits(), doomed: false });
            }
            None => {}
        }
        all.push(open.iter().map(|item| item.number).collect());
    }
    all
}

/// Of each operation whose data a sync dropped from the cache, after how many operations that was.
pub(super) fn dropped(log: &[Record], pending: &[Vec<usize>]) -> BTreeMap<usize, usize> {
    let mut dropped = BTreeMap::new();
    for (at, record) in log.iter().enumerate().filter(|(_, record)| record.effect == Effect::Dropped) {
        let Operation::Sync { file } = record.operation else { continue };
        let is_its = |number: &&usize| log[**number].is_data_of(file);
        for number in pending[at].iter().filter(is_its) {
            dropped.entry(*number).or_insert(at + 1);
        }
    }
    dropped
}
