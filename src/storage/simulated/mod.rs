//! Storage that can be put on trial: for the tests of this crate, and of programs that embed it.
//!
//! [`SimulatedStorage`] keeps files in memory and a log of every operation. From its [`Recording`] every state
//! can be rebuilt that a crash at any moment may legally leave on a disk; each has a name, its [`Crash`]. And
//! operations fail where a [`Fault`] says so: without any effect, behind it, or with the old bytes back.
//!
//! Files have change times by a [`Clock`] of the file system, which are no part of their bytes: no sync makes them durable, and a
//! power cut can take them back. Their inodes can come again when they are gone. Other programs write files
//! [in place](SimulatedStorage::change) or [anew](SimulatedStorage::rewrite), into the cache alone.
//!
//! Operations take place one after the other, whatever threads they come from: a write that runs beside a sync
//! is either before or behind it.

mod clock;
mod contents;
mod crash;
mod families;
mod faults;
mod file;
mod log;
mod nature;
mod recording;
mod state;
mod tree;

use std::{
    ffi::OsString,
    fmt, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

pub use clock::Clock;
pub use crash::{Crash, Fate, Level, ParseCrashError};
pub use faults::{Failure, Fault, OperationKind};
pub use log::{Effect, Operation, Record};
pub use nature::Lack;
pub use recording::{CrashStates, Recording};

use self::{
    contents::Contents,
    file::SimulatedFile,
    log::parent,
    nature::Nature,
    state::State,
    tree::{Tree, normal},
};
use super::{FileKind, FileStatus, RenameRule, Storage, StorageFile};

/// Files in memory that can crash and fail. Clones are the same storage.
///
/// Folders exist once something was [inserted](Self::insert) into them or they were
/// [made](Self::make_folder). Symbolic links do not exist, and `..` is taken by its word.
#[derive(Clone, Debug, Default)]
pub struct SimulatedStorage(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    hook: Mutex<Hook>,
    rename_hook: Mutex<RenameHook>,
}

/// Called before each write, punch and clone.
type WriteHook = Arc<dyn Fn(&WriteNotice<'_>) + Send + Sync>;

#[derive(Default)]
struct Hook(Option<WriteHook>);

/// Called before each rename.
type OnRename = Box<dyn Fn(&Path, &Path) + Send + Sync>;

#[derive(Default)]
struct RenameHook(Option<OnRename>);

/// A write that is about to be done; a punch is one of zeros, a clone one of the bytes that it shares.
#[derive(Clone, Copy, Debug)]
pub struct WriteNotice<'a> {
    /// The file's name, or the one it was opened by if it has none any more.
    pub path: &'a Path,
    /// Offset of the first byte.
    pub offset: u64,
    /// The bytes.
    pub data: &'a [u8],
    /// Everything that was done to this file before is durable.
    pub earlier_durable: bool,
}

impl SimulatedStorage {
    /// An empty storage.
    pub fn new() -> Self {
        Self::default()
    }

    fn from_tree(mut tree: Tree, nature: Nature) -> Self {
        tree.forget_nameless();
        let storage = Self::new();
        let mut state = storage.0.state();
        state.nature = nature;
        state.restart(tree);
        drop(state);
        storage
    }

    fn resumed(recording: Recording) -> Self {
        let storage = Self::new();
        storage.0.state().resume(recording);
        storage
    }

    /// Puts a file with these contents under `path`, replacing what was there, before the run that is to be
    /// recorded: it was there, durable, from the beginning. This is no operation, and never fails.
    pub fn insert(&self, path: impl AsRef<Path>, contents: &[u8]) {
        self.0.state().insert(&normal(path.as_ref()), Contents::from_bytes(contents));
    }

    /// Makes a folder, and those above it. This is no operation either.
    pub fn make_folder(&self, path: impl AsRef<Path>) {
        self.0.state().make_folder(&normal(path.as_ref()));
    }

    /// Gives a folder another path, as it is when something is not mounted where it was. What takes its path later is another
    /// folder. This is no operation either.
    pub fn move_folder(&self, from: impl AsRef<Path>, to: impl AsRef<Path>) {
        self.0.state().move_folder(&normal(from.as_ref()), &normal(to.as_ref()));
    }

    /// The contents of a file.
    pub fn contents(&self, path: impl AsRef<Path>) -> Option<Vec<u8>> {
        let state = self.0.state();
        let file = state.tree.file(&normal(path.as_ref()))?;
        state.tree.contents(file).map(Contents::to_bytes)
    }

    /// Lets a file have other contents, as another program does that writes in place, sector by sector. It never fails, and
    /// nothing of it is durable: before the run that is to be recorded, it leaves a file whose last writes are in the
    /// cache alone. Nothing happens if there is no such file.
    pub fn change(&self, path: impl AsRef<Path>, contents: &[u8]) {
        self.change_as(path.as_ref(), contents, false);
    }

    /// The same, but all of it is written anew after the length was set to 0, as `cp` does: the file keeps its inode.
    pub fn rewrite(&self, path: impl AsRef<Path>, contents: &[u8]) {
        self.change_as(path.as_ref(), contents, true);
    }

    fn change_as(&self, path: &Path, contents: &[u8], anew: bool) {
        let mut state = self.0.state();
        if let Some(file) = state.tree.file(&normal(path)) {
            state.change(file, contents, anew);
        }
    }

    /// From now on the times of files are those of this clock.
    pub fn set_clock(&self, clock: Clock) {
        self.0.state().nature.clock = clock;
    }

    /// From now on a new file gets the lowest inode that no file has any more. Otherwise none comes twice.
    pub fn reuse_inodes(&self) {
        self.0.state().nature.reuse_inodes = true;
    }

    /// From now on renames and links fail as on a file system that lacks this.
    pub fn lack(&self, lacks: &[Lack]) {
        self.0.state().nature.lacks = lacks.to_vec();
    }

    /// From now on files offer to share their blocks, as on a file system with reflinks. A clone that is asked for is made
    /// in any case.
    pub fn share_blocks(&self) {
        self.0.state().nature.shares_blocks = true;
    }

    /// The names of all files, sorted.
    pub fn paths(&self) -> Vec<PathBuf> {
        self.0.state().tree.names().map(|(path, _)| path.to_owned()).collect()
    }

    /// A hash of all names and contents: equal for storages that look the same.
    pub fn digest(&self) -> u64 {
        self.0.state().tree.digest()
    }

    /// What was done since the beginning, or since [`Self::begin`].
    pub fn recording(&self) -> Recording {
        let state = self.0.state();
        Recording::new(state.start.clone(), state.log.clone(), state.marks.clone(), state.nature.clone())
    }

    /// Begins a new recording: what there is counts as durable from now on.
    pub fn begin(&self) {
        let mut state = self.0.state();
        let tree = state.tree.clone();
        state.restart(tree);
    }

    /// Notes that from now on more is expected than before, for instance since a commit has reported success.
    /// A state that crashes before and after this moment can leave is judged for both.
    pub fn mark(&self) {
        let mut state = self.0.state();
        let now = state.log.len();
        state.marks.push(now);
    }

    /// Lets an operation fail. Several orders can be in force.
    pub fn fail(&self, fault: Fault) {
        self.0.state().faults.arm(fault);
    }

    /// Takes back all orders to fail. What a failed sync did remains.
    pub fn stop_failing(&self) {
        self.0.state().faults.disarm();
    }

    /// How often operations of a kind were called, failed ones included.
    pub fn calls(&self, kind: OperationKind) -> u64 {
        self.0.state().faults.calls(kind)
    }

    /// Whether the name and everything that was done to its file are durable: no crash can undo them.
    pub fn is_durable(&self, path: impl AsRef<Path>) -> bool {
        self.0.state().is_durable(&normal(path.as_ref()))
    }

    /// Calls `hook` before each write, punch and clone, to check that the order of writes is right. It may look into the
    /// storage; what it panics with goes to whoever writes.
    pub fn before_write(&self, hook: impl Fn(&WriteNotice<'_>) + Send + Sync + 'static) {
        self.0.hook.lock().unwrap_or_else(PoisonError::into_inner).0 = Some(Arc::new(hook));
    }

    /// Calls `hook` with the old and the new name before each rename: the moment between a look at a name and its change. It
    /// may change the storage, as another program does; what it renames itself is not told to it.
    pub fn before_rename(&self, hook: impl Fn(&Path, &Path) + Send + Sync + 'static) {
        self.0.rename_hook().0 = Some(Box::new(hook));
    }

    /// Refuses from now on what conflicts: a `Write` lock beside another handle's lock on the file, except
    /// `ForceShare`. Otherwise all locks are granted.
    pub fn enforce_locks(&self) {
        self.0.state().enforce_locks = true;
    }

    fn handle(&self, state: &mut State, path: PathBuf, file: u64, writable: bool) -> Arc<dyn StorageFile> {
        let handle = state.next_handle(file);
        Arc::new(SimulatedFile { shared: self.0.clone(), file, path, writable, handle })
    }

    fn open_as(&self, path: &Path, writable: bool) -> io::Result<Arc<dyn StorageFile>> {
        let path = normal(path);
        let mut state = self.0.state();
        let file = state.tree.file(&path);
        let open = || Operation::Open { path: path.clone(), file: file.unwrap_or(u64::MAX), writable };
        let leave = state.attempt(open)?;
        let file = match file {
            Some(file) => file,
            None if state.tree.is_folder(&path) => return Err(errno(libc::EISDIR)),
            None => return Err(errno(libc::ENOENT)),
        };
        state.carry_out(open(), leave)?;
        Ok(self.handle(&mut state, path, file, writable))
    }
}

impl Storage for SimulatedStorage {
    fn open(&self, path: &Path) -> io::Result<Arc<dyn StorageFile>> {
        self.open_as(path, false)
    }

    fn open_writable(&self, path: &Path) -> io::Result<Arc<dyn StorageFile>> {
        self.open_as(path, true)
    }

    fn open_beneath(&self, folder: &Path, name: &Path) -> io::Result<Arc<dyn StorageFile>> {
        let (folder, path) = (normal(folder), normal(&folder.join(name)));
        if name.is_absolute() || !path.starts_with(&folder) {
            return Err(errno(libc::EXDEV));
        }
        self.open_as(&path, false)
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn StorageFile>> {
        let path = normal(path);
        let mut state = self.0.state();
        let file = state.next_file();
        let create = Operation::Create { path: path.clone(), file };
        let leave = state.attempt(|| create.clone())?;
        if state.tree.file(&path).is_some() || state.tree.is_folder(&path) {
            return Err(errno(libc::EEXIST));
        }
        if !state.tree.is_folder(&parent(&path)) {
            return Err(errno(libc::ENOENT));
        }
        state.carry_out(create, leave)?;
        Ok(self.handle(&mut state, path, file, true))
    }

    fn rename(&self, from: &Path, to: &Path, rule: RenameRule) -> io::Result<()> {
        let (from, to) = (normal(from), normal(to));
        self.0.tell_rename(&from, &to);
        let mut state = self.0.state();
        let rename = Operation::Rename { from: from.clone(), to: to.clone(), rule };
        let leave = state.attempt(|| rename.clone())?;
        let lack = match rule {
            RenameRule::NoReplace => Some(Lack::NoReplace),
            RenameRule::Exchange => Some(Lack::Exchange),
            RenameRule::Replace => None,
        };
        let taken = state.tree.file(&to).is_some();
        if state.tree.file(&from).is_none() || !state.tree.is_folder(&parent(&to)) {
            return Err(errno(libc::ENOENT));
        }
        match rule {
            // The kernel looks for the name before it asks the file system.
            _ if lack.is_some_and(|lack| state.nature.lacks.contains(&lack))
                && (rule == RenameRule::Exchange || !taken) =>
            {
                Err(errno(libc::EINVAL))
            }
            RenameRule::NoReplace if taken || state.tree.is_folder(&to) => Err(errno(libc::EEXIST)),
            RenameRule::Exchange if !taken => Err(errno(libc::ENOENT)),
            RenameRule::Replace if state.tree.is_folder(&to) => Err(errno(libc::EISDIR)),
            _ => state.carry_out(rename, leave),
        }
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        let (from, to) = (normal(from), normal(to));
        let mut state = self.0.state();
        let file = state.tree.file(&from);
        let link = Operation::Link { path: to.clone(), file: file.unwrap_or(u64::MAX) };
        let leave = state.attempt(|| link.clone())?;
        if state.nature.lacks.contains(&Lack::Links) {
            return Err(errno(libc::EPERM));
        }
        if file.is_none() || !state.tree.is_folder(&parent(&to)) {
            return Err(errno(libc::ENOENT));
        }
        if state.tree.file(&to).is_some() || state.tree.is_folder(&to) {
            return Err(errno(libc::EEXIST));
        }
        state.carry_out(link, leave)
    }

    fn unlink(&self, path: &Path) -> io::Result<()> {
        let path = normal(path);
        let mut state = self.0.state();
        let unlink = Operation::Unlink { path: path.clone() };
        let leave = state.attempt(|| unlink.clone())?;
        state.tree.file(&path).ok_or_else(|| errno(libc::ENOENT))?;
        state.carry_out(unlink, leave)
    }

    fn sync_folder(&self, folder: &Path) -> io::Result<()> {
        let folder = normal(folder);
        let mut state = self.0.state();
        if !state.tree.is_folder(&folder) {
            return Err(errno(libc::ENOENT));
        }
        state.perform(Operation::SyncFolder { folder })
    }

    fn list(&self, folder: &Path) -> io::Result<Vec<OsString>> {
        let folder = normal(folder);
        let mut state = self.0.state();
        state.faults.meet(OperationKind::Status)?;
        if !state.tree.is_folder(&folder) {
            return Err(errno(libc::ENOENT));
        }
        let inside = state.tree.names().filter(|(name, _)| parent(name) == folder);
        Ok(inside.filter_map(|(name, _)| name.file_name()).map(OsString::from).collect())
    }

    fn status(&self, path: &Path) -> io::Result<FileStatus> {
        let path = normal(path);
        let mut state = self.0.state();
        state.faults.meet(OperationKind::Status)?;
        match state.tree.file(&path) {
            Some(file) => Ok(FileStatus { id: state.file_id(file), kind: FileKind::Regular }),
            None if state.tree.is_folder(&path) => {
                Ok(FileStatus { id: state.folder_id(&path), kind: FileKind::Other })
            }
            None => Err(errno(libc::ENOENT)),
        }
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn hook(&self) -> Option<WriteHook> {
        self.hook.lock().unwrap_or_else(PoisonError::into_inner).0.clone()
    }

    fn rename_hook(&self) -> MutexGuard<'_, RenameHook> {
        self.rename_hook.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell_rename(&self, from: &Path, to: &Path) {
        let hook = self.rename_hook().0.take();
        if let Some(hook) = hook {
            hook(from, to);
            self.rename_hook().0.get_or_insert(hook);
        }
    }
}

impl fmt::Debug for RenameHook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "set" } else { "none" })
    }
}

impl fmt::Debug for Hook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "set" } else { "none" })
    }
}

fn errno(number: i32) -> io::Error {
    io::Error::from_raw_os_error(number)
}
