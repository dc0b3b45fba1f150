//! A whole storage at one moment: names, files, folders.

use std::{
    collections::{BTreeMap, BTreeSet, hash_map::DefaultHasher},
    hash::{Hash, Hasher},
    path::{Component, Path, PathBuf},
    sync::Arc,
};

use super::{clock::Times, contents::Contents, crash::Fate, log::Operation};
use crate::storage::RenameRule;

/// Cheap to clone. Files whose last name is gone stay, for somebody may have them open.
#[derive(Clone, Debug, Default)]
pub(super) struct Tree {
    names: Arc<BTreeMap<PathBuf, u64>>,
    files: BTreeMap<u64, Arc<Contents>>,
    times: BTreeMap<u64, Times>,
    folders: Arc<BTreeSet<PathBuf>>,
}

impl Tree {
    /// Puts a file under a name, whatever was there, and makes its folder.
    pub(super) fn insert(&mut self, path: &Path, file: u64, contents: Contents, time: u64) {
        Arc::make_mut(&mut self.names).insert(path.to_owned(), file);
        self.touch(file, time, true);
        self.files.insert(file, Arc::new(contents));
        if let Some(folder) = path.parent() {
            self.make_folder(folder);
        }
    }

    pub(super) fn make_folder(&mut self, folder: &Path) {
        Arc::make_mut(&mut self.folders).extend(folder.ancestors().map(Path::to_owned));
    }

    /// Gives a folder another path, with all that is in it.
    pub(super) fn move_folder(&mut self, from: &Path, to: &Path) {
        let moved = |path: &Path| match path.strip_prefix(from) {
            Ok(rest) if rest.as_os_str().is_empty() => to.to_owned(),
            Ok(rest) => to.join(rest),
            Err(_) => path.to_owned(),
        };
        self.names = Arc::new(self.names.iter().map(|(path, file)| (moved(path), *file)).collect());
        self.folders = Arc::new(self.folders.iter().map(|path| moved(path)).collect());
        self.make_folder(to);
    }

    /// The current folder and the root always exist.
    pub(super) fn is_folder(&self, path: &Path) -> bool {
        path.parent().is_none() || self.folders.contains(path)
    }

    pub(super) fn file(&self, path: &Path) -> Option<u64> {
        self.names.get(path).copied()
    }

    pub(super) fn contents(&self, file: u64) -> Option<&Contents> {
        self.files.get(&file).map(Arc::as_ref)
    }

    pub(super) fn names(&self) -> impl Iterator<Item = (&Path, u64)> {
        self.names.iter().map(|(path, file)| (path.as_path(), *file))
    }

    /// One more than the highest number of a file.
    pub(super) fn next_file(&self) -> u64 {
        self.files.keys().next_back().map_or(0, |last| last + 1)
    }

    /// Forgets the files without a name.
    pub(super) fn forget_nameless(&mut self) {
        let named: BTreeSet<u64> = self.names.values().copied().collect();
        self.files.retain(|file, _| named.contains(file));
        self.times.retain(|file, _| named.contains(file));
    }

    pub(super) fn times(&self, file: u64) -> Times {
        self.times.get(&file).copied().unwrap_or_default()
    }

    pub(super) fn set_times(&mut self, file: u64, times: Times) {
        self.times.insert(file, times);
    }

    /// A file was changed: its bytes or its length, or its names alone.
    pub(super) fn touch(&mut self, file: u64, time: u64, written: bool) {
        let times = self.times.entry(file).or_default();
        times.changed = time;
        if written {
            times.written = time;
        }
    }

    /// Carries out as much of an operation as `fate` lets through.
    pub(super) fn apply(&mut self, operation: &Operation, fate: Fate, time: u64) {
        if fate == Fate::Lost {
            return;
        }
        let is_nothing = operation.changed_bytes().is_some_and(|(_, _, length)| length == 0);
        if let Some(file) = operation.changed_file().filter(|_| !is_nothing) {
            self.touch(file, time, true);
        }
        match operation {
            Operation::Create { path, file } => self.insert(path, *file, Contents::default(), time),
            Operation::Write { file, offset, data } => self.change(*file).write_with(*offset, data, fate),
            Operation::SetLen { file, length } => self.change(*file).set_length(*length),
            Operation::Punch { file, offset, length } => {
                self.change(*file).punch_with(*offset, *length as usize, fate);
            }
            Operation::CloneRange { file, offset, source, source_offset, data } => {
                self.change(*source).place_anew(*source_offset, data.len() as u64);
                self.change(*file).share_with(*offset, data, fate);
            }
            Operation::Rename { from, to, rule } => {
                let names = Arc::make_mut(&mut self.names);
                // Two names of one file stay as they are.
                if names.get(from) == names.get(to) {
                    return;
                }
                let Some(file) = names.remove(from) else { return };
                let other = names.insert(to.clone(), file);
                if let (Some(other), RenameRule::Exchange) = (other, rule) {
                    names.insert(from.clone(), other);
                }
                [Some(file), other].into_iter().flatten().for_each(|file| self.touch(file, time, false));
            }
            Operation::Link { path, file } => {
                Arc::make_mut(&mut self.names).insert(path.clone(), *file);
                self.files.entry(*file).or_default();
                self.touch(*file, time, false);
            }
            Operation::Unlink { path } => {
                if let Some(file) = Arc::make_mut(&mut self.names).remove(path) {
                    self.touch(file, time, false);
                }
            }
            Operation::Open { .. } | Operation::Sync { .. } | Operation::SyncFolder { .. } => {}
        }
    }

    /// A file whose creation was lost can still have had data; it has no name then.
    fn change(&mut self, file: u64) -> &mut Contents {
        Arc::make_mut(self.files.entry(file).or_default())
    }

    /// A hash of what can be seen: names and bytes.
    pub(super) fn digest(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        for (path, file) in self.names() {
            path.hash(&mut hasher);
            self.contents(file).hash(&mut hasher);
        }
        hasher.finish()
    }

    /// A hash of the times as well.
    pub(super) fn digest_with_times(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.digest().hash(&mut hasher);
        self.names().for_each(|(_, file)| self.times(file).hash(&mut hasher));
        hasher.finish()
    }
}

/// One way to write each path: without `.`, and `..` taken by its word.
pub(super) fn normal(path: &Path) -> PathBuf {
    let mut normal = PathBuf::new();
    for part in path.components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir => drop(normal.pop()),
            part => normal.push(part),
        }
    }
    normal
}
