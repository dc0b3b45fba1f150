//! What the actions other than backups make of disks, from the plan to the commit.

use std::path::PathBuf;

use super::{
    commit::{Commit, Problem, Publication, StagedDisk},
    journal::Journal,
    overlay::Overlay,
};
use crate::{
    bitmap::BitmapChange,
    disk::{Claim, Disk, Pinned},
    error::Result,
    image::{Existing, Format, SnapshotChange, create::TargetFile},
    storage::{FileRights, NewRights},
};

/// What becomes of one disk.
#[derive(Debug)]
pub(super) struct Change {
    pub(super) disk: Disk,
    /// Changes of its own bitmaps, in order.
    pub(super) bitmaps: Vec<BitmapChange>,
    /// Its bitmaps that begin to count at the instant of a backup, and the job of that.
    pub(super) counting: Option<(usize, Vec<Vec<u8>>)>,
    /// And of its own snapshots.
    pub(super) snapshots: Vec<SnapshotChange>,
    /// The image on top of it.
    pub(super) overlay: Option<Overlay>,
    pub(super) _claim: Option<Claim>,
    pub(super) _pinned: Pinned,
}

/// What becomes of all disks of a list, with the files for it: decided together.
#[derive(Debug, Default)]
pub(super) struct Changes {
    list: Vec<Change>,
    /// The files of overlays, in their order.
    files: Vec<TargetFile>,
}

/// What is to be staged in one image, for some jobs.
#[derive(Debug)]
pub(super) struct ToStage<'a> {
    pub(super) disk: &'a Disk,
    pub(super) jobs: Vec<usize>,
    pub(super) bitmaps: Vec<BitmapChange>,
    pub(super) snapshots: &'a [SnapshotChange],
}

impl ToStage<'_> {
    pub(super) fn stage(self) -> Result<StagedDisk> {
        let bitmaps = self.disk.stage_kept(&self.bitmaps, self.snapshots)?;
        Ok(StagedDisk { jobs: self.jobs, bitmaps })
    }
}

/// The order in which disks are staged by all transactions, so that no two wait for each other.
pub(super) fn in_order(mut disks: Vec<ToStage<'_>>) -> Vec<ToStage<'_>> {
    disks.sort_by_key(|to_stage| to_stage.disk.staging_order());
    disks
}

/// The names under which the overlays of some changes are made.
pub(super) fn temporary_names(list: &[Change]) -> Vec<PathBuf> {
    overlays(list).map(|(_, overlay)| TargetFile::temporary_name(overlay.path())).collect()
}

fn overlays(list: &[Change]) -> impl Iterator<Item = (&Disk, &Overlay)> {
    list.iter().filter_map(|change| Some((&change.disk, change.overlay.as_ref()?)))
}

impl Changes {
    /// Creates the files, still empty, under `names`, which a journal leads to.
    pub(super) fn begin(list: Vec<Change>, names: &[PathBuf]) -> Result<Self> {
        let create = |((disk, overlay), name): ((&Disk, &Overlay), &PathBuf)| {
            let storage = disk.image().storage().clone();
            // The guest goes on in it: who may use its disk shall be able to.
            let rights = match disk.image().top().file().rights()? {
                Some(rights) => NewRights::As(FileRights { mode: rights.mode | 0o600, ..rights }),
                None => NewRights::PLAIN,
            };
            TargetFile::create_as(storage, overlay.path(), name.clone(), Existing::Refuse, rights)
        };
        let files = overlays(&list).zip(names).map(create).collect::<Result<_>>()?;
        Ok(Changes { list, files })
    }

    /// The overlay that lives in memory as this disk.
    pub(super) fn overlay_of(&self, disk: &Disk) -> Option<&Overlay> {
        overlays(&self.list).map(|(_, overlay)| overlay).find(|overlay| overlay.disk().is_same(disk))
    }

    /// What is to be staged in each disk's own image.
    pub(super) fn to_stage(&self) -> impl Iterator<Item = ToStage<'_>> {
        let changed =
            self.list.iter().filter(|change| !change.bitmaps.is_empty() || !change.snapshots.is_empty());
        changed.map(|change| ToStage {
            disk: &change.disk,
            jobs: Vec::new(),
            bitmaps: change.bitmaps.clone(),
            snapshots: &change.snapshots,
        })
    }

    /// The bitmaps that begin to count with a backup: of which disk, their names, and the job of the backup.
    pub(super) fn counting(&self) -> impl Iterator<Item = (&Disk, &[u8], usize)> {
        self.list
            .iter()
            .filter_map(move |change| {
                let (job, names) = change.counting.as_ref()?;
                Some(names.iter().map(move |name| (&change.disk, &name[..], *job)))
            })
            .flatten()
    }

    /// Writes the overlays, durably, under their temporary names.
    pub(super) fn write_overlays(&self) -> Result<()> {
        overlays(&self.list).zip(&self.files).try_for_each(|((_, overlay), file)| overlay.write(file.file()))
    }

    /// The files of the overlays, which a commit publishes.
    pub(super) fn take_files(&mut self, job: usize) -> Vec<Publication> {
        let files = std::mem::take(&mut self.files);
        let covering = |((disk, _), file): ((&Disk, _), _)| {
            let covers = Some(disk.clone());
            Publication { job, file, format: Format::Qcow2, covers, reads: Vec::new() }
        };
        overlays(&self.list).zip(files).map(covering).collect()
    }

    /// Everything is decided: the disks go on in their overlays.
    pub(super) fn done(&self) {
        overlays(&self.list).for_each(|(disk, overlay)| disk.cover(overlay.path()));
    }

    /// Commits them alone.
    pub(super) fn commit(mut self, journal: Journal) -> Result<()> {
        let staged = self.write_overlays().and_then(|()| {
            let disks = in_order(self.to_stage().collect());
            disks.into_iter().map(ToStage::stage).collect::<Result<Vec<_>>>()
        });
        let targets = self.take_files(0);
        let problems = Commit::conclude(journal, targets, staged.map_err(|error| (0, error)))
            .map_err(|(_, error)| error)?;
        self.done();
        problems.into_iter().next().map_or(Ok(()), |Problem { error, .. }| Err(error))
    }
}
