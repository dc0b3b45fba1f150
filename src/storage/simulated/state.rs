//! Everything that changes while a simulated storage is used.

use std::{
    collections::{BTreeMap, hash_map::DefaultHasher},
    hash::{Hash, Hasher},
    io,
    path::Path,
    sync::Arc,
};

use super::{
    contents::{Contents, PAGE},
    crash::Fate,
    errno,
    faults::Faults,
    log::{Operation, Record, pending},
    tree::Tree,
};
use crate::storage::{FileId, Lock};

#[derive(Debug, Default)]
pub(super) struct State {
    /// What the log began with.
    pub(super) start: Tree,
    pub(super) tree: Tree,
    pub(super) log: Vec<Record>,
    /// After how many operations something was told to whom it concerns.
    pub(super) marks: Vec<usize>,
    pub(super) faults: Faults,
    pub(super) enforce_locks: bool,
    locks: Vec<Held>,
    /// Files with changes that are not durable; true for those that no sync makes durable any more.
    unsynced: BTreeMap<u64, bool>,
    handles: u64,
    files: u64,
}

/// A lock that a handle holds.
#[derive(Debug)]
struct Held {
    file: u64,
    handle: u64,
    lock: Lock,
}

impl State {
    /// Begins anew with these files, all of them durable.
    pub(super) fn restart(&mut self, tree: Tree) {
        self.files = self.files.max(tree.next_file());
        self.start = tree.clone();
        self.tree = tree;
        self.log.clear();
        self.marks.clear();
        self.unsynced.clear();
    }

    /// Goes on where a log ends.
    pub(super) fn resume(&mut self, start: Tree, tree: Tree, log: Vec<Record>, marks: Vec<usize>) {
        self.restart(tree);
        let failed = |file| {
            let is_its = |record: &Record| record.failed && record.operation == Operation::Sync { file };
            log.iter().any(is_its)
        };
        let pending = pending(&log).pop().unwrap_or_default();
        let files = pending.iter().filter_map(|number| log[*number].operation.changed_file());
        self.unsynced = files.map(|file| (file, failed(file))).collect();
        (self.start, self.log, self.marks) = (start, log, marks);
    }

    pub(super) fn insert(&mut self, path: &Path, contents: Contents) {
        let file = self.next_file();
        self.start.insert(path, file, contents.clone());
        self.tree.insert(path, file, contents);
    }

    pub(super) fn make_folder(&mut self, path: &Path) {
        self.start.make_folder(path);
        self.tree.make_folder(path);
    }

    pub(super) fn next_file(&mut self) -> u64 {
        self.files += 1;
        self.files
    }

    pub(super) fn next_handle(&mut self) -> u64 {
        self.handles += 1;
        self.handles
    }

    pub(super) fn contents(&self, file: u64) -> io::Result<&Contents> {
        self.tree.contents(file).ok_or_else(|| errno(libc::EBADF))
    }

    /// What `length` bytes of one file are, if another one can share them at its place, both told by number and
    /// offset.
    pub(super) fn bytes_to_share(
        &self,
        (source, source_offset): (u64, u64),
        length: u64,
        (target, offset): (u64, u64),
    ) -> io::Result<Arc<[u8]>> {
        let contents = self.contents(source)?;
        let ends = |start: u64| start.checked_add(length).filter(|end| *end <= i64::MAX as u64);
        let (Some(source_end), Some(end)) = (ends(source_offset), ends(offset)) else {
            return Err(errno(libc::EFBIG));
        };
        let overlap = source == target && source_offset.abs_diff(offset) < length;
        let blocks = [source_offset, offset].iter().all(|start| start % PAGE == 0);
        let whole = length.is_multiple_of(PAGE)
            || source_end == contents.length() && end >= self.contents(target)?.length();
        if overlap || !blocks || !whole || source_end > contents.length() {
            return Err(errno(libc::EOPNOTSUPP));
        }
        let mut bytes = vec![0; length as usize];
        contents.read(source_offset, &mut bytes);
        Ok(bytes.into())
    }

    pub(super) fn name_of(&self, file: u64) -> Option<&Path> {
        self.tree.names().find(|(_, named)| *named == file).map(|(path, _)| path)
    }

    pub(super) fn folder_id(&self, path: &Path) -> FileId {
        let mut hasher = DefaultHasher::new();
        path.hash(&mut hasher);
        FileId { device: 1, inode: hasher.finish() }
    }

    /// Lets an operation fail if it is to; it stays in the log then. Otherwise says how many bytes it may
    /// transfer.
    pub(super) fn attempt(&mut self, operation: impl FnOnce() -> Operation) -> io::Result<usize> {
        let operation = operation();
        self.faults.meet(operation.kind()).inspect_err(|_| {
            if let Operation::Sync { file } = &operation
                && let Some(doomed) = self.unsynced.get_mut(file)
            {
                *doomed = true;
            }
            self.log.push(Record { operation, failed: true });
        })
    }

    pub(super) fn carry_out(&mut self, operation: Operation) {
        self.tree.apply(&operation, Fate::Present);
        if let Some(file) = operation.changed_file() {
            self.unsynced.entry(file).or_insert(false);
        }
        if let Operation::Sync { file } = &operation
            && self.unsynced.get(file) == Some(&false)
        {
            self.unsynced.remove(file);
        }
        self.log.push(Record { operation, failed: false });
    }

    pub(super) fn perform(&mut self, operation: Operation) -> io::Result<()> {
        self.attempt(|| operation.clone())?;
        self.carry_out(operation);
        Ok(())
    }

    /// Whether all bytes of a file are durable.
    pub(super) fn is_synced(&self, file: u64) -> bool {
        !self.unsynced.contains_key(&file)
    }

    pub(super) fn is_durable(&self, path: &Path) -> bool {
        let Some(file) = self.tree.file(path) else { return false };
        let pending = pending(&self.log).pop().unwrap_or_default();
        let names_it = |number: &usize| self.log[*number].operation.names().contains(&path);
        self.is_synced(file) && !pending.iter().any(names_it)
    }

    pub(super) fn lock(&mut self, file: u64, handle: u64, lock: Lock) -> io::Result<()> {
        let excludes = |held: Lock| match (held, lock) {
            (Lock::ForceShare, _) | (_, Lock::ForceShare) => false,
            (held, wanted) => held == Lock::Write || wanted == Lock::Write,
        };
        let conflicts = |held: &Held| held.file == file && held.handle != handle && excludes(held.lock);
        if self.enforce_locks && self.locks.iter().any(conflicts) {
            return Err(errno(libc::EWOULDBLOCK));
        }
        self.locks.push(Held { file, handle, lock });
        Ok(())
    }

    pub(super) fn unlock(&mut self, handle: u64) {
        self.locks.retain(|held| held.handle != handle);
    }
}
