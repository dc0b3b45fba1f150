//! The commit of a group: from "everything is durable, under other names" to "everything is in place".
//!
//! The protocol is that of `docs/commit.md`; the steps here bear its numbers.

use std::{
    collections::{BTreeSet, HashSet},
    path::PathBuf,
};

use super::journal::{Content, Journal, TargetSwitch};
use crate::{
    disk::{Disk, StagedBitmaps},
    error::{Error, Result},
    image::{Format, create::TargetFile, folder_of},
};

/// A file that gets its name. The number is that of the job it belongs to.
#[derive(Debug)]
pub(crate) struct Publication {
    pub(crate) job: usize,
    pub(crate) file: TargetFile,
    pub(crate) format: Format,
    /// The disk whose image it covers, if it does.
    pub(crate) covers: Option<Disk>,
    /// What it was made from, and what it stands on.
    pub(crate) reads: Vec<Disk>,
}

/// What is committed together.
#[derive(Debug)]
pub(crate) struct Commit {
    targets: Vec<Publication>,
    staged: Vec<StagedDisk>,
    // Dropped last, be it by a panic: until the files are gone it leads to them.
    journal: Journal,
}

/// The new bitmaps of one disk, for all jobs that change them.
#[derive(Debug)]
pub(crate) struct StagedDisk {
    pub(crate) jobs: Vec<usize>,
    pub(crate) bitmaps: StagedBitmaps,
}

/// The bitmaps of one disk may be as before, although everything else is done.
#[derive(Debug)]
pub(crate) struct Problem {
    pub(crate) jobs: Vec<usize>,
    pub(crate) error: Error,
}

impl Commit {
    /// Carries out what could be staged; what could not be is taken back, and fails.
    pub(crate) fn conclude(
        journal: Journal,
        targets: Vec<Publication>,
        staged: Result<Vec<StagedDisk>, (usize, Error)>,
    ) -> Result<Vec<Problem>, (usize, Error)> {
        match staged {
            Ok(staged) => Commit { targets, staged, journal }.carry_out(),
            Err(failed) => {
                Self::abandon(journal, targets);
                Err(failed)
            }
        }
    }

    /// Takes targets back that are not to be.
    pub(crate) fn abandon(journal: Journal, targets: Vec<Publication>) {
        Commit { targets, staged: Vec::new(), journal }.take_back();
    }

    /// Carries it out. Fails, with the job it is because of, if nothing has changed. Else the targets are there, and told
    /// is whose bitmaps may be as before, which a recovery looks after.
    fn carry_out(mut self) -> Result<Vec<Problem>, (usize, Error)> {
        let first = self.targets.first().map_or(0, |target| target.job);
        if let Err(failed) = self.sync_what_was_read().and_then(|()| self.sync_what_is_replaced()) {
            self.take_back();
            return Err(failed);
        }
        if let Err(error) = self.sync_folders() {
            self.take_back();
            return Err((first, error));
        }
        if let Err(error) = self.decide() {
            return Err((first, self.revoke(error)));
        }
        if let Err((index, error)) = self.publish() {
            return Err((index, self.revoke(error)));
        }
        if let Err((index, error)) = self.sync_names() {
            // The way back changes the same names anew, so that its own sync is about them, too: what a recovery in the same
            // boot would sync, it finds as it should be. But what a power cut leaves of several steps only a recovery knows,
            // for as long as it has the decision.
            let in_steps = self.targets.iter().any(|target| target.file.went_in_steps());
            return Err((index, if in_steps { self.leave(error) } else { self.revoke(error) }));
        }
        self.targets.iter_mut().for_each(|target| target.file.stay());
        let Commit { mut journal, targets, staged } = self;
        let mut problems = Vec::new();
        for StagedDisk { jobs, bitmaps } in staged {
            let path = bitmaps.path().to_owned();
            if let Err(error) = bitmaps.publish() {
                let what = if jobs.is_empty() { "the transaction" } else { "the backup" };
                let text = format!(
                    "{what} is complete, but the bitmaps of '{}' may be as before; 'holstein recover {}' looks after them",
                    path.display(),
                    journal.folder().display()
                );
                problems.push(Problem { jobs, error: error.within(text) });
            }
        }
        let finished: Vec<_> = targets.into_iter().map(|target| target.file.finish()).collect();
        if problems.is_empty() && !finished.contains(&false) {
            // One that stays tells of what is done, and does no harm.
            let _ = journal.forget();
        } else {
            // Undecided it leads to files that have to go, and to nothing else.
            let _ = if problems.is_empty() { journal.revoke() } else { Ok(()) };
            journal.keep();
        }
        Ok(problems)
    }

    /// Step 4: what the targets were made from, and what they stand on, is durable. A power cut must not take a disk back
    /// behind its own bitmap. Who wrote it may have died before an fsync.
    fn sync_what_was_read(&self) -> Result<(), (usize, Error)> {
        let is_about_disks = |target: &Publication| target.covers.is_some();
        if self.staged.is_empty() && !self.targets.iter().any(is_about_disks) {
            return Ok(());
        }
        let mut durable = HashSet::new();
        for StagedDisk { jobs, bitmaps } in &self.staged {
            let job = jobs.first().or(self.targets.first().map(|target| &target.job)).copied().unwrap_or(0);
            // Staging has synced the image itself, whose contents nobody else writes.
            durable.insert(bitmaps.file_id().map_err(|error| (job, error))?);
            bitmaps.disk().make_durable(&mut durable).map_err(|error| (job, error))?;
        }
        for Publication { job, covers, reads, .. } in &self.targets {
            for disk in covers.iter().chain(reads) {
                disk.make_durable(&mut durable).map_err(|error| (*job, error))?;
            }
        }
        Ok(())
    }

    /// Step 4: what is replaced is durable. A power cut must not make another file of it than the record knows.
    fn sync_what_is_replaced(&self) -> Result<(), (usize, Error)> {
        let mut replaced =
            self.targets.iter().filter_map(|target| Some((target.job, target.file.replaced()?)));
        replaced.try_for_each(|(job, file)| file.sync_what_is_read().map_err(|error| (job, error)))
    }

    /// Step 4: the temporary names are durable, so that a decision leads to something.
    fn sync_folders(&self) -> Result<()> {
        let mut folders = BTreeSet::new();
        for Publication { file, .. } in &self.targets {
            if folders.insert(folder_of(file.temporary()).to_owned()) {
                file.sync_folder()?;
            }
        }
        Ok(())
    }

    /// Step 5: the record that decides.
    fn decide(&mut self) -> Result<()> {
        let target = |Publication { file, format, covers, .. }: &Publication| {
            Ok(TargetSwitch {
                temporary: file.temporary().to_owned(),
                path: file.path().to_owned(),
                content: Content::of(file.file(), *format)?,
                replaced: file.replaced().map(|file| Content::of(file, Format::Raw)).transpose()?,
                below: covers.as_ref().map(Disk::fingerprint).transpose()?,
            })
        };
        let targets = self.targets.iter().map(target).collect::<Result<_>>()?;
        let sources = self.staged.iter().map(|disk| disk.bitmaps.switch()).collect::<Result<_>>()?;
        self.journal.decide(targets, sources)
    }

    /// Step 6: the final names.
    fn publish(&mut self) -> Result<(), (usize, Error)> {
        for Publication { job, file, .. } in &mut self.targets {
            file.publish().map_err(|error| (*job, error))?;
        }
        Ok(())
    }

    /// Step 7: they are durable.
    fn sync_names(&self) -> Result<(), (usize, Error)> {
        let mut folders: BTreeSet<PathBuf> = BTreeSet::new();
        for Publication { job, file, .. } in &self.targets {
            if folders.insert(folder_of(file.path()).to_owned()) {
                file.sync_folder().map_err(|error| (*job, error))?;
            }
        }
        Ok(())
    }

    /// Nothing was decided: targets and staged bitmaps go, then the journal that leads to them; where one may be left the
    /// journal stays.
    fn take_back(self) {
        let Commit { journal, targets, staged } = self;
        let gone: Vec<_> = targets.into_iter().map(|target| target.file.take_back()).collect();
        drop(staged);
        if gone.contains(&false) {
            journal.keep();
        }
    }

    /// Takes a decision back of which nothing has come to pass but names: these first, durably, for as long as the record
    /// is there a recovery wants them, and without it nothing leads to them. Where that fails too, all is left for a recovery to finish.
    fn revoke(mut self, error: Error) -> Error {
        let withdrawn = self.targets.iter_mut().try_for_each(|target| target.file.withdraw());
        let durable = withdrawn.and_then(|()| self.sync_folders());
        if durable.and_then(|()| self.journal.revoke()).is_ok() {
            self.take_back();
            return error;
        }
        self.leave(error)
    }

    /// Leaves everything to a recovery.
    fn leave(self, error: Error) -> Error {
        let Commit { journal, targets, staged } = self;
        let folder = journal.folder().display().to_string();
        journal.keep();
        targets.into_iter().for_each(|target| target.file.leave());
        staged.into_iter().for_each(|disk| disk.bitmaps.leave());
        let text =
            format!("whether the transaction was decided is not known; 'holstein recover {folder}' ends it");
        error.and_also(text)
    }
}
