//! Everything that changes while a simulated storage is used.

use std::{collections::BTreeMap, io, path::Path, sync::Arc};

use super::{
    contents::{Contents, PAGE, SECTOR},
    crash::Fate,
    errno,
    faults::{Faults, Leave},
    log::{Effect, Operation, Record, dropped, pending},
    nature::Nature,
    recording::{Recording, after_drop, replay},
    tree::Tree,
};
use crate::storage::{FileId, FileVersion, Lock};

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
    /// The file of each open handle.
    open: BTreeMap<u64, u64>,
    pub(super) nature: Nature,
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
        self.nature.files = self.nature.files.max(tree.next_file());
        self.start = tree.clone();
        self.tree = tree;
        self.log.clear();
        self.marks.clear();
        self.unsynced.clear();
    }

    /// Goes on where a recording ends.
    pub(super) fn resume(&mut self, recording: Recording) {
        let (start, tree, log, marks, nature) = recording.into_parts();
        self.nature = nature;
        self.restart(tree);
        let failed = |file| {
            let is_its = |record: &Record| {
                record.effect != Effect::Whole && record.operation == Operation::Sync { file }
            };
            log.iter().any(is_its)
        };
        let pending = pending(&log).pop().unwrap_or_default();
        let files = pending.iter().filter_map(|number| log[*number].operation.changed_file());
        self.unsynced = files.map(|file| (file, failed(file))).collect();
        (self.start, self.log, self.marks) = (start, log, marks);
    }

    pub(super) fn insert(&mut self, path: &Path, contents: Contents) {
        let file = self.next_file();
        let time = self.nature.pass();
        self.start.insert(path, file, contents.clone(), time);
        self.tree.insert(path, file, contents, time);
    }

    pub(super) fn make_folder(&mut self, path: &Path) {
        self.start.make_folder(path);
        self.tree.make_folder(path);
    }

    pub(super) fn move_folder(&mut self, from: &Path, to: &Path) {
        self.nature.move_folder(from, to);
        self.start.move_folder(from, to);
        self.tree.move_folder(from, to);
    }

    pub(super) fn next_file(&mut self) -> u64 {
        let named = self.tree.names().map(|(_, file)| file);
        self.nature.next_file(named.chain(self.open.values().copied()))
    }

    pub(super) fn next_handle(&mut self, file: u64) -> u64 {
        self.handles += 1;
        self.open.insert(self.handles, file);
        self.handles
    }

    pub(super) fn close(&mut self, handle: u64) {
        self.open.remove(&handle);
        self.locks.retain(|held| held.handle != handle);
    }

    pub(super) fn file_id(&self, file: u64) -> FileId {
        FileId { device: 0, inode: self.nature.inode(file) }
    }

    /// Length and change time.
    pub(super) fn version(&self, file: u64) -> io::Result<FileVersion> {
        let length = self.contents(file)?.length();
        Ok(FileVersion { length, modified: self.tree.times(file).changed.into() })
    }

    /// The same, in a later tick of the clock than that of the last change; `None` if that never comes.
    pub(super) fn distinct_version(&mut self, file: u64) -> io::Result<Option<FileVersion>> {
        let (changed, clock) = (self.tree.times(file).changed, self.nature.clock);
        // As one does who sees the file's time and has a clock of his own.
        if changed >= clock.begin(self.nature.now) {
            match clock.next(self.nature.now) {
                Some(next) => self.nature.now = next,
                None => return Ok(None),
            }
        }
        self.version(file).map(Some)
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
        FileId { device: 1, inode: self.nature.folder(path) }
    }

    /// Lets an operation fail if it is to; it stays in the log then. Otherwise says what becomes of it when it is
    /// [carried out](Self::carry_out), if nothing else is in the way.
    pub(super) fn attempt(&mut self, operation: impl FnOnce() -> Operation) -> io::Result<Leave> {
        let operation = operation();
        let leave = self.faults.judge(operation.kind());
        let Some((number, effect)) = leave.failure.filter(|(_, effect)| *effect != Effect::Whole) else {
            return Ok(leave);
        };
        if let Operation::Sync { file } = &operation
            && let Some(doomed) = self.unsynced.get_mut(file)
        {
            *doomed = true;
        }
        let time = self.nature.pass();
        self.log.push(Record { operation, failed: true, effect, time });
        if effect == Effect::Dropped {
            let dropped = dropped(&self.log, &pending(&self.log));
            self.tree = replay(&self.start, &self.log, 0, after_drop(&dropped, self.log.len()));
        }
        Err(errno(number))
    }

    /// Does it, and reports the error that comes all the same.
    pub(super) fn carry_out(&mut self, operation: Operation, leave: Leave) -> io::Result<()> {
        let time = self.nature.pass();
        self.tree.apply(&operation, Fate::Present, time);
        if let Some(file) = operation.changed_file() {
            self.unsynced.entry(file).or_insert(false);
        }
        if let Operation::Sync { file } = &operation
            && self.unsynced.get(file) == Some(&false)
        {
            self.unsynced.remove(file);
        }
        let failed = leave.failure.is_some();
        self.log.push(Record { operation, failed, effect: Effect::Whole, time });
        leave.failure.map_or(Ok(()), |(number, _)| Err(errno(number)))
    }

    pub(super) fn perform(&mut self, operation: Operation) -> io::Result<()> {
        let leave = self.attempt(|| operation.clone())?;
        self.carry_out(operation, leave)
    }

    /// Changes a file as another program does, which never fails: in place where its bytes differ, or, `anew`, all of it
    /// after its length was set to 0.
    pub(super) fn change(&mut self, file: u64, bytes: &[u8], anew: bool) {
        let old = self.tree.contents(file).map(Contents::to_bytes).unwrap_or_default();
        let mut operations = Vec::new();
        if anew {
            operations.push(Operation::SetLen { file, length: 0 });
            if !bytes.is_empty() {
                operations.push(Operation::Write { file, offset: 0, data: bytes.into() });
            }
        } else {
            let sectors = bytes.chunks(SECTOR as usize).enumerate();
            for (number, sector) in sectors {
                let offset = number as u64 * SECTOR;
                if old.get(offset as usize..offset as usize + sector.len()) != Some(sector) {
                    operations.push(Operation::Write { file, offset, data: sector.into() });
                }
            }
            if old.len() > bytes.len() {
                operations.push(Operation::SetLen { file, length: bytes.len() as u64 });
            }
        }
        for operation in operations {
            // It reports nothing without a failure.
            let _ = self.carry_out(operation, Leave { most: usize::MAX, failure: None });
        }
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
}
