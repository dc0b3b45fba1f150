//! What a crash does not change: the clock, and the numbers that files have.

use std::{
    collections::{BTreeMap, hash_map::DefaultHasher},
    hash::{Hash, Hasher},
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{clock::Clock, tree::Tree};

/// What some file systems cannot do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lack {
    /// A rename that refuses to replace: `EINVAL`.
    NoReplace,
    /// A rename that swaps: `EINVAL`.
    Exchange,
    /// A second name for a file: `EPERM`.
    Links,
}

/// How a storage is, whatever is done to it.
#[derive(Clone, Debug, Default)]
pub(super) struct Nature {
    pub(super) clock: Clock,
    /// So many operations were done, or waited for, since the beginning.
    pub(super) now: u64,
    /// How many files there were.
    pub(super) files: u64,
    /// Whether a new file gets the lowest inode that is free; else none comes twice.
    pub(super) reuse_inodes: bool,
    /// Whether files share blocks unasked.
    pub(super) shares_blocks: bool,
    /// What it cannot do.
    pub(super) lacks: Vec<Lack>,
    /// Where they are not the numbers of the files.
    inodes: Arc<BTreeMap<u64, u64>>,
    /// Those of folders that were moved, or that took the path of one.
    folders: Arc<BTreeMap<PathBuf, u64>>,
}

impl Nature {
    /// Lets the clock move on, and says what time an operation gives to what it changes.
    pub(super) fn pass(&mut self) -> u64 {
        self.now += 1;
        self.clock.stamp(self.now)
    }

    pub(super) fn inode(&self, file: u64) -> u64 {
        self.inodes.get(&file).copied().unwrap_or(file)
    }

    pub(super) fn folder(&self, path: &Path) -> u64 {
        let by_path = || {
            let mut hasher = DefaultHasher::new();
            path.hash(&mut hasher);
            hasher.finish()
        };
        self.folders.get(path).copied().unwrap_or_else(by_path)
    }

    /// A folder has another path now, and the next one at its old path will be another folder.
    pub(super) fn move_folder(&mut self, from: &Path, to: &Path) {
        let moved = self.folder(from);
        let folders = Arc::make_mut(&mut self.folders);
        folders.insert(to.to_owned(), moved);
        folders.insert(from.to_owned(), !moved);
    }

    /// A new file, whose inode is none of those of the files `in_use`.
    pub(super) fn next_file(&mut self, in_use: impl Iterator<Item = u64>) -> u64 {
        self.files += 1;
        if self.reuse_inodes {
            let mut taken: Vec<u64> = in_use.map(|file| self.inode(file)).collect();
            taken.sort_unstable();
            let free = taken.iter().fold(1, |free, inode| if *inode == free { free + 1 } else { free });
            Arc::make_mut(&mut self.inodes).insert(self.files, free);
        }
        self.files
    }

    /// Whether another file that has a name has the inode of this one: no disk ever looks so.
    pub(super) fn is_taken(&self, tree: &Tree, file: u64) -> bool {
        let inode = self.inode(file);
        self.inodes.contains_key(&file)
            && tree.names().any(|(_, other)| other != file && self.inode(other) == inode)
    }
}
