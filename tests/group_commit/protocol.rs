//! The protocol alone, as small as it can be told: every order of steps, deaths, power cuts, failed syncs and strangers
//! is tried, for two disks and for three.
//!
//! What is stored is a handful of variables. Each has a durable value and those that were written since, of which a
//! power cut leaves any one; a death leaves the last one, not durable.

use std::collections::{HashMap, VecDeque};

/// What is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Var {
    /// The journal has its name.
    Journal,
    /// Its first block.
    Begun,
    /// Its second block.
    Decided,
    /// Of a target: [`NONE`], [`TEMPORARY`] or [`FINAL`].
    Name(usize),
    /// A target's data is complete.
    Data(usize),
    /// A source's new bitmaps are in free clusters.
    Staged(usize),
    /// A source's first sector is the new one.
    Sector(usize),
    /// A source's bitmaps are inconsistent.
    GivenUp(usize),
    /// A stranger has written a source, and recorded nothing.
    Written(usize),
}
use Var::*;

const NONE: u8 = 0;
const TEMPORARY: u8 = 1;
const FINAL: u8 = 2;

/// What a process does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Step {
    Set(Var, u8),
    Sync(Var),
    SyncNames,
    /// Recovery reads the journal.
    Read,
    /// Recovery lets a target have its name.
    Publish(usize),
    /// Recovery switches a source.
    Switch(usize),
    /// A temporary name goes.
    Remove(usize),
}
use Step::*;

/// Parts of the protocol that can be left out, to see that they are needed.
#[derive(Clone, Copy)]
struct Rules {
    recovery_syncs_the_journal: bool,
    withdrawn_names_are_synced: bool,
    removed_names_are_synced: bool,
    strangers_are_noticed: bool,
    targets_come_first: bool,
}

const ALL_RULES: Rules = Rules {
    recovery_syncs_the_journal: true,
    withdrawn_names_are_synced: true,
    removed_names_are_synced: true,
    strangers_are_noticed: true,
    targets_come_first: true,
};

#[derive(Clone, PartialEq, Eq, Hash)]
struct World {
    disks: usize,
    /// Durable value, and those that were written since.
    vars: Vec<(Var, Vec<u8>)>,
    todo: VecDeque<Step>,
    who: Who,
    /// A recovery has found all targets.
    complete: bool,
    /// The journal could not be made durable. Nothing leads to the temporary files while they are removed then: a crash
    /// leaves some, which harm nobody.
    journal_failed: bool,
    /// The run has told its caller: true for success.
    told: Option<bool>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Who {
    Nobody,
    Run,
    /// The run after a failure.
    Undo,
    Recovery,
}

impl World {
    fn new(disks: usize, rules: Rules) -> Self {
        let of_disk = |i| [Name(i), Data(i), Staged(i), Sector(i), GivenUp(i), Written(i)];
        let vars = [Journal, Begun, Decided].into_iter().chain((0..disks).flat_map(of_disk));
        let all = |step: fn(usize) -> Vec<Step>| (0..disks).flat_map(step).collect::<Vec<_>>();
        let names = [all(|i| vec![Set(Name(i), FINAL)]), vec![SyncNames]].concat();
        let sectors = all(|i| vec![Set(Sector(i), 1), Sync(Sector(i))]);
        let switch = if rules.targets_come_first { [names, sectors] } else { [sectors, names] };
        let todo = [
            vec![Set(Journal, 1), Set(Begun, 1), Sync(Begun), Sync(Journal)],
            all(|i| vec![Set(Name(i), TEMPORARY)]),
            all(|i| vec![Set(Data(i), 1), Sync(Data(i))]),
            all(|i| vec![Set(Staged(i), 1), Sync(Staged(i))]),
            vec![SyncNames, Set(Decided, 1), Sync(Decided)],
            switch.concat(),
            vec![Set(Journal, 0), Sync(Journal)],
        ];
        World {
            disks,
            vars: vars.map(|var| (var, vec![0])).collect(),
            todo: todo.concat().into(),
            who: Who::Run,
            complete: true,
            journal_failed: false,
            told: None,
        }
    }

    fn values(&self, var: Var) -> &Vec<u8> {
        &self.vars.iter().find(|(known, _)| *known == var).unwrap().1
    }

    fn values_mut(&mut self, var: Var) -> &mut Vec<u8> {
        &mut self.vars.iter_mut().find(|(known, _)| *known == var).unwrap().1
    }

    /// What a process reads.
    fn get(&self, var: Var) -> u8 {
        *self.values(var).last().unwrap()
    }

    fn set(&mut self, var: Var, value: u8) {
        let values = self.values_mut(var);
        if values.last() != Some(&value) {
            values.push(value);
        }
    }

    fn sync(&mut self, var: Var) {
        let last = self.get(var);
        *self.values_mut(var) = vec![last];
    }

    fn is(&self, var: Var, value: u8) -> bool {
        self.values(var) == &[value]
    }

    /// All worlds that can follow, each with what happened.
    fn next(&self, rules: Rules) -> Vec<(String, World)> {
        let mut found = Vec::new();
        let mut cut = self.clone();
        (cut.who, cut.complete) = (Who::Nobody, true);
        cut.todo.clear();
        if self.who != Who::Nobody {
            found.push(("death".to_owned(), cut.clone()));
        }
        let mut cuts = vec![cut];
        for (index, (_, values)) in self.vars.iter().enumerate().filter(|(_, (_, values))| values.len() > 1) {
            let one = |cut: &World| {
                let mut kept: Vec<u8> = values.clone();
                kept.sort_unstable();
                kept.dedup();
                let keep = |value: u8| {
                    let mut cut = cut.clone();
                    cut.vars[index].1 = vec![value];
                    cut
                };
                kept.into_iter().map(keep).collect::<Vec<_>>()
            };
            cuts = cuts.iter().flat_map(one).collect();
        }
        found.extend(cuts.into_iter().filter(|cut| cut != self).map(|cut| ("power cut".to_owned(), cut)));
        if self.who == Who::Nobody {
            if self.get(Journal) == 1 {
                let mut begun = self.clone();
                begun.who = Who::Recovery;
                begun.todo = [Read].into();
                found.push(("recovery begins".to_owned(), begun));
            }
            for i in (0..self.disks).filter(|i| self.is(Sector(*i), 0) && self.get(Written(*i)) == 0) {
                let mut written = self.clone();
                written.set(Written(i), 1);
                written.sync(Written(i));
                found.push((format!("a stranger writes {i}"), written));
            }
            return found;
        }
        let mut world = self.clone();
        let step = world.todo.pop_front().unwrap();
        if matches!(step, Sync(_) | SyncNames) {
            found.extend(self.fail(rules).map(|failed| (format!("{step:?} fails"), failed)));
        }
        world.carry_out(step, rules);
        if world.todo.is_empty() {
            match world.who {
                Who::Run => world.told = Some(true),
                Who::Undo => world.told = Some(false),
                _ => {}
            }
            (world.who, world.complete) = (Who::Nobody, true);
        }
        found.push((format!("{:?}: {step:?}", self.who), world));
        found
    }

    fn carry_out(&mut self, step: Step, rules: Rules) {
        match step {
            Set(var, value) => self.set(var, value),
            Sync(var) => self.sync(var),
            SyncNames => (0..self.disks).for_each(|i| self.sync(Name(i))),
            Remove(i) if self.get(Name(i)) == TEMPORARY => self.set(Name(i), NONE),
            Publish(i) => match self.get(Name(i)) {
                NONE => self.complete = false,
                TEMPORARY => self.set(Name(i), FINAL),
                _ => {}
            },
            Switch(i) if self.complete => {
                if self.get(Sector(i)) == 0 && self.get(Written(i)) == 1 && rules.strangers_are_noticed {
                    self.set(GivenUp(i), 1);
                    self.sync(GivenUp(i));
                } else {
                    self.set(Sector(i), 1);
                    self.sync(Sector(i));
                }
            }
            Read => {
                if rules.recovery_syncs_the_journal {
                    self.sync(Begun);
                    self.sync(Decided);
                }
                let all = |step: fn(usize) -> Step| (0..self.disks).map(step).collect::<Vec<_>>();
                let mut todo = Vec::new();
                if self.get(Begun) == 1 && self.get(Decided) == 1 {
                    todo = [all(Publish), vec![SyncNames], all(Switch)].concat();
                }
                todo.extend(all(Remove));
                todo.extend([SyncNames, Set(Journal, 0), Sync(Journal)]);
                self.todo = todo.into();
            }
            Remove(_) | Switch(_) => {}
        }
    }

    /// What the run does when a sync fails before it has changed a source.
    fn fail(&self, rules: Rules) -> Option<World> {
        if self.who != Who::Run || (0..self.disks).any(|i| self.get(Sector(i)) == 1) {
            return None;
        }
        let mut world = self.clone();
        let mut todo = Vec::new();
        if (0..self.disks).any(|i| self.get(Name(i)) == FINAL) {
            todo.extend((0..self.disks).map(|i| Set(Name(i), TEMPORARY)));
            todo.extend(rules.withdrawn_names_are_synced.then_some(SyncNames));
            todo.extend([Set(Decided, 0), Sync(Decided)]);
        } else if self.get(Decided) == 1 {
            world.journal_failed = true;
            // The file is not to be trusted any more; its name is.
            todo.extend([Set(Journal, 0), Sync(Journal)]);
        }
        todo.extend((0..self.disks).map(Remove));
        todo.extend(rules.removed_names_are_synced.then_some(SyncNames));
        todo.extend([Set(Journal, 0), Sync(Journal)]);
        world.who = Who::Undo;
        world.todo = todo.into();
        Some(world)
    }

    /// What holds always, and once nothing is left to be done.
    fn judge(&self) -> Result<(), String> {
        let disks = || 0..self.disks;
        if disks().any(|i| self.values(Sector(i)).contains(&1)) {
            if !disks().all(|i| self.is(Data(i), 1) && self.is(Name(i), FINAL) && self.is(Staged(i), 1)) {
                return Err("a bitmap can be clear, and a target can be gone".into());
            }
            if disks().any(|i| self.get(Sector(i)) == 1 && self.get(Written(i)) == 1) {
                return Err("a bitmap is clear where a stranger has written".into());
            }
        }
        let all =
            disks().all(|i| self.is(Name(i), FINAL) && (self.is(Sector(i), 1) || self.is(GivenUp(i), 1)));
        let is_gone = |i| {
            let litter = self.journal_failed && !self.values(Name(i)).contains(&FINAL);
            (self.is(Name(i), NONE) || litter) && self.is(Sector(i), 0)
        };
        let nothing = disks().all(is_gone);
        if self.told == Some(true) && !all {
            return Err("success was told, and can be lost".into());
        }
        // Before it has begun there is nothing either.
        if self.who == Who::Nobody && self.is(Journal, 0) && !all && !nothing {
            return Err("nothing leads to what is there of it in part".into());
        }
        if self.told == Some(false) && self.who == Who::Nobody && self.is(Journal, 0) && !nothing {
            return Err("failure was told, and it was carried out".into());
        }
        Ok(())
    }
}

/// Visits every world; the number of them, or how a bad one comes to be.
fn explore(disks: usize, rules: Rules) -> Result<usize, String> {
    let start = World::new(disks, rules);
    let mut from: HashMap<World, Option<(String, World)>> = HashMap::from([(start.clone(), None)]);
    let mut queue = VecDeque::from([start]);
    while let Some(world) = queue.pop_front() {
        if let Err(reason) = world.judge() {
            let mut path = Vec::new();
            let mut at = &world;
            while let Some(Some((how, before))) = from.get(at) {
                path.push(how.clone());
                at = before;
            }
            path.reverse();
            return Err(format!("{reason}: {}", path.join("; ")));
        }
        for (how, next) in world.next(rules) {
            if !from.contains_key(&next) {
                from.insert(next.clone(), Some((how, world.clone())));
                queue.push_back(next);
            }
        }
    }
    Ok(from.len())
}

#[test]
fn the_protocol_holds() {
    for disks in [1, 2, 3] {
        let states = explore(disks, ALL_RULES).unwrap_or_else(|bad| panic!("{disks} disks: {bad}"));
        println!("the protocol with {disks} disks has {states} states");
        assert!(states > 100);
    }
}

#[test]
fn each_rule_of_the_protocol_is_needed() {
    type LeaveOut = fn(&mut Rules);
    let without: [(&str, LeaveOut); 5] = [
        ("in part", |rules| rules.recovery_syncs_the_journal = false),
        ("in part", |rules| rules.withdrawn_names_are_synced = false),
        ("in part", |rules| rules.removed_names_are_synced = false),
        ("a stranger has written", |rules| rules.strangers_are_noticed = false),
        ("a target can be gone", |rules| rules.targets_come_first = false),
    ];
    for (number, (reason, leave_out)) in without.into_iter().enumerate() {
        let mut rules = ALL_RULES;
        leave_out(&mut rules);
        let bad = explore(2, rules).expect_err("a rule that is not needed");
        println!("without rule {number}: {bad}");
        assert!(bad.contains(reason), "rule {number}: {bad}");
    }
}
