//! A finished run, and every state that a crash in it can leave.

use std::collections::{BTreeMap, HashSet, VecDeque};

use super::{
    SimulatedStorage,
    clock::Times,
    crash::{Crash, Fate, Level},
    families,
    log::{Effect, Record, dropped, pending},
    nature::Nature,
    tree::Tree,
};

/// What was done to a [`SimulatedStorage`], to look at and to crash at any moment.
///
/// What a crash can leave follows from these rules. An operation on the bytes or the length of a file is
/// durable when it was done before a sync of that file which succeeded; a change of a name when its folder was
/// synced so (both folders, of a rename between two). All others are pending: of writes, punches and clones any
/// subset of their 512-byte sectors can be on the disk, of changes of names any subset in which those of one name keep their
/// order. What a sync failed to make durable stays pending for ever. That the sync of a file makes its name
/// durable, as some file systems do, is not relied upon: such a name counts as pending, so that states with
/// and without it are legal.
///
/// The change time of a file is none of its bytes: no sync makes it durable. A crash of [`Level::L8`] can take it back to any
/// earlier one. Where inodes are used again a state in which two files had the same is none.
#[derive(Clone, Debug)]
pub struct Recording {
    log: Vec<Record>,
    /// The storage after each number of operations, all of them present.
    prefixes: Vec<Tree>,
    /// The operations that can be lost in a crash after each number of operations.
    pending: Vec<Vec<usize>>,
    /// Of the operations whose data was dropped from the cache, after how many operations that was.
    dropped: BTreeMap<usize, usize>,
    /// Numbers of operations.
    marks: Vec<usize>,
    nature: Nature,
}

impl Recording {
    pub(super) fn new(start: Tree, log: Vec<Record>, marks: Vec<usize>, nature: Nature) -> Self {
        let pending = pending(&log);
        let dropped = dropped(&log, &pending);
        let mut prefixes = vec![start];
        for after in 1..=log.len() {
            let tree = prefixes.last().cloned().unwrap_or_default();
            prefixes.push(match log[after - 1].effect {
                Effect::Dropped => replay(&prefixes[0], &log[..after], 0, after_drop(&dropped, after)),
                _ => replay(&tree, &log[..after], after - 1, |_| Fate::Present),
            });
        }
        Recording { pending, dropped, prefixes, log, marks, nature }
    }

    /// What was done, in order.
    pub fn operations(&self) -> &[Record] {
        &self.log
    }

    /// The numbers of the operations that a crash after the first `after` ones can undo.
    pub fn pending(&self, after: usize) -> &[usize] {
        self.pending.get(after).map_or(&[], Vec::as_slice)
    }

    /// How many [marks](SimulatedStorage::mark) had been made when this crash happened.
    pub fn marks_before(&self, crash: &Crash) -> usize {
        self.marks.partition_point(|mark| *mark <= crash.after())
    }

    pub(super) fn is_marked(&self, after: usize) -> bool {
        self.marks.binary_search(&after).is_ok()
    }

    /// All crashes of a level, except that of many operations a sample is taken, the same for one `seed`.
    /// Several can leave the same state.
    pub fn crashes(&self, level: Level, seed: u64) -> Vec<Crash> {
        families::crashes(self, level, seed)
    }

    /// The storage after this crash; `None` if the crash is not one of this recording.
    pub fn after(&self, crash: &Crash) -> Option<SimulatedStorage> {
        self.tree_after(crash).map(|tree| self.storage(tree))
    }

    fn storage(&self, tree: Tree) -> SimulatedStorage {
        SimulatedStorage::from_tree(tree, self.nature.clone())
    }

    /// The storage after the death of the process alone, when it had done so many operations: all of them are there, and
    /// what was not durable is not durable yet. What is done from then on continues this recording.
    pub fn killed(&self, after: usize) -> Option<SimulatedStorage> {
        self.prefixes.get(after)?;
        Some(self.resumed(self.log[..after].to_vec()))
    }

    /// The same in the middle of the next operation, a write, a punch, a clone or a new length: it has given its file the
    /// new change time, as they do first, and nothing else. `None` if it is none of these.
    pub fn killed_within(&self, after: usize) -> Option<SimulatedStorage> {
        let next = self.log.get(after).filter(|record| record.is_change_of_bytes())?;
        let mut log = self.log[..after].to_vec();
        log.push(Record { failed: true, effect: Effect::Time, ..next.clone() });
        Some(self.resumed(log))
    }

    fn resumed(&self, log: Vec<Record>) -> SimulatedStorage {
        let marks = self.marks.iter().copied().filter(|mark| *mark <= log.len()).collect();
        SimulatedStorage::resumed(Recording::new(self.prefixes[0].clone(), log, marks, self.nature.clone()))
    }

    /// What is needed to go on where it ends: the storage at its beginning and at its end, the operations, the
    /// marks, and the rest.
    pub(super) fn into_parts(mut self) -> (Tree, Tree, Vec<Record>, Vec<usize>, Nature) {
        let end = self.prefixes.pop().unwrap_or_default();
        let start = self.prefixes.into_iter().next().unwrap_or_else(|| end.clone());
        (start, end, self.log, self.marks, self.nature)
    }

    /// The distinct states that crashes of these levels leave. When a level has more than `limit` candidates
    /// a sample of them, always the same for one `seed`, is tried; the levels take turns, and the iterator
    /// ends after `limit` states.
    pub fn states(&self, levels: &[Level], limit: usize, seed: u64) -> CrashStates<'_> {
        let families = levels.iter().map(|level| {
            let mut crashes = self.crashes(*level, seed);
            if crashes.len() > limit {
                families::shuffle(&mut crashes, seed);
            }
            crashes.into()
        });
        CrashStates { recording: self, families: families.collect(), seen: HashSet::new(), left: limit }
    }

    fn tree_after(&self, crash: &Crash) -> Option<Tree> {
        let pending = self.pending.get(crash.after())?;
        let applies = |(number, fate): &(usize, Fate)| {
            let admitted = self.log.get(*number)?.operation.admits(*fate);
            (admitted && pending.binary_search(number).is_ok()).then_some(())
        };
        crash.fates().iter().try_for_each(applies)?;

        let after = crash.after();
        let mut tree = match crash.fates().first() {
            None => self.prefixes.get(after)?.clone(),
            Some(&(first, _)) => {
                let of_dropped = after_drop(&self.dropped, after);
                let fate = |number| match crash.fate_of(number) {
                    Fate::Lost => Fate::Lost,
                    fate if of_dropped(number) == Fate::Present => fate,
                    _ => of_dropped(number),
                };
                // What was dropped later is another thing before.
                let dropped = self.dropped.iter().find(|(_, at)| **at <= after);
                let first = dropped.map_or(first, |(number, _)| first.min(*number));
                replay(&self.prefixes[first], &self.log[..after], first, fate)
            }
        };
        for &(file, moment) in crash.times() {
            let times = match self.log.get(after).filter(|_| moment == after + 1) {
                Some(next) if next.is_change_of_bytes() && next.operation.changed_file() == Some(file) => {
                    Times { changed: next.time, written: next.time }
                }
                None if moment <= after => self.prefixes[moment].times(file),
                _ => return None,
            };
            tree.contents(file)?;
            tree.set_times(file, times);
        }
        let is_legal = !tree.names().any(|(_, file)| self.nature.is_taken(&tree, file));
        is_legal.then_some(tree)
    }

    pub(super) fn prefix(&self, after: usize) -> &Tree {
        &self.prefixes[after]
    }
}

/// What becomes of the data that was dropped by then: of a write that made the file longer only that is left.
pub(super) fn after_drop(dropped: &BTreeMap<usize, usize>, after: usize) -> impl Fn(usize) -> Fate {
    move |number| match dropped.get(&number) {
        Some(at) if *at <= after => Fate::Length,
        _ => Fate::Present,
    }
}

/// Carries out the operations from `first` on, each of them as far as its fate says.
pub(super) fn replay(tree: &Tree, log: &[Record], first: usize, fate: impl Fn(usize) -> Fate) -> Tree {
    let mut tree = tree.clone();
    let mut lost_names = HashSet::new();
    for (number, record) in log.iter().enumerate().skip(first) {
        if let (Effect::Time, Some(file)) = (record.effect, record.operation.changed_file()) {
            tree.touch(file, record.time, true);
        }
        if !record.has_effect() {
            continue;
        }
        let fate = fate(number);
        // A name's changes reach the disk in their order: behind a lost one all are lost.
        let names = record.operation.names();
        if !names.is_empty() && (fate == Fate::Lost || names.iter().any(|n| lost_names.contains(n))) {
            lost_names.extend(names);
            continue;
        }
        tree.apply(&record.operation, fate, record.time);
    }
    tree
}

/// Iterates over crashes and the states that they leave, each state once (once for each number of marks).
#[derive(Debug)]
pub struct CrashStates<'a> {
    recording: &'a Recording,
    families: VecDeque<VecDeque<Crash>>,
    /// By hash and the number of marks.
    seen: HashSet<(u64, usize)>,
    left: usize,
}

impl Iterator for CrashStates<'_> {
    type Item = (Crash, SimulatedStorage);

    fn next(&mut self) -> Option<Self::Item> {
        if self.left == 0 {
            return None;
        }
        while let Some(mut family) = self.families.pop_front() {
            while let Some(crash) = family.pop_front() {
                let Some(tree) = self.recording.tree_after(&crash) else { continue };
                let digest = if crash.times().is_empty() { tree.digest() } else { tree.digest_with_times() };
                if self.seen.insert((digest, self.recording.marks_before(&crash))) {
                    self.families.push_back(family);
                    self.left -= 1;
                    return Some((crash, self.recording.storage(tree)));
                }
            }
        }
        None
    }
}
