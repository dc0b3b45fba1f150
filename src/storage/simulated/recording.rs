//! A finished run, and every state that a crash in it can leave.

use std::collections::{HashSet, VecDeque};

use super::{
    SimulatedStorage,
    crash::{Crash, Fate, Level},
    families,
    log::{Record, pending},
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
#[derive(Clone, Debug)]
pub struct Recording {
    log: Vec<Record>,
    /// The storage after each number of operations, all of them present.
    prefixes: Vec<Tree>,
    /// The operations that can be lost in a crash after each number of operations.
    pending: Vec<Vec<usize>>,
    /// Numbers of operations.
    marks: Vec<usize>,
}

impl Recording {
    pub(super) fn new(start: Tree, log: Vec<Record>, marks: Vec<usize>) -> Self {
        let mut prefixes = Vec::with_capacity(log.len() + 1);
        let mut tree = start;
        prefixes.push(tree.clone());
        for record in &log {
            if record.has_effect() {
                tree.apply(&record.operation, Fate::Present);
            }
            prefixes.push(tree.clone());
        }
        Recording { pending: pending(&log), prefixes, log, marks }
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
        self.tree_after(crash).map(SimulatedStorage::from_tree)
    }

    /// The storage after the death of the process alone, when it had done so many operations: all of them are there, and
    /// what was not durable is not durable yet. What is done from then on continues this recording.
    pub fn killed(&self, after: usize) -> Option<SimulatedStorage> {
        let tree = self.prefixes.get(after)?.clone();
        let marks = self.marks.iter().copied().filter(|mark| *mark <= after).collect();
        Some(SimulatedStorage::resumed(self.prefixes[0].clone(), tree, self.log[..after].to_vec(), marks))
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

        let Some(&(first, _)) = crash.fates().first() else {
            return self.prefixes.get(crash.after()).cloned();
        };
        let mut tree = self.prefixes[first].clone();
        let mut fates = crash.fates().iter().peekable();
        let mut lost_names = HashSet::new();
        for (number, record) in self.log.iter().enumerate().take(crash.after()).skip(first) {
            let fate = fates.next_if(|(fated, _)| *fated == number).map_or(Fate::Present, |(_, fate)| *fate);
            if !record.has_effect() {
                continue;
            }
            // A name's changes reach the disk in their order: behind a lost one all are lost.
            let names = record.operation.names();
            if !names.is_empty() && (fate == Fate::Lost || names.iter().any(|n| lost_names.contains(n))) {
                lost_names.extend(names);
                continue;
            }
            tree.apply(&record.operation, fate);
        }
        Some(tree)
    }

    pub(super) fn prefix(&self, after: usize) -> &Tree {
        &self.prefixes[after]
    }
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
                if self.seen.insert((tree.digest(), self.recording.marks_before(&crash))) {
                    self.families.push_back(family);
                    self.left -= 1;
                    return Some((crash, SimulatedStorage::from_tree(tree)));
                }
            }
        }
        None
    }
}
