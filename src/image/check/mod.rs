//! Whether an image's tables and refcounts agree.
//!
//! Every reference to a cluster of the file is counted: by the header, L1 and L2 tables of the disk and of all
//! snapshots, guest data, refcount table and blocks, snapshot table, and bitmaps. Then the counts are compared
//! with the refcounts. What is wrong is counted as `qemu-img check` does, whose numbers scripts know; beyond
//! that, clusters with two owners are found and both are named.
//!
//! The usual way of opening an image refuses damaged ones, so a check reads the tables by itself and trusts no
//! number in them. It needs one or two bytes of memory for each cluster of the file.

mod counts;
mod names;
mod read;
mod refcounts;
mod repair;
mod report;
mod structure;
mod tables;
mod tally;

use std::path::Path;

pub(crate) use counts::{Bits, Counts};
pub(super) use read::read_padded;
pub use repair::{LostBitmap, LostSnapshots, RepairMode, RepairReport};
pub use report::{CheckProblem, CheckProblemKind, CheckReport, CheckSeverity, CheckVerdict};

use self::{
    names::report_overlaps, refcounts::Refcounts, repair::Repaired, structure::Structure, tables::L2Tables,
    tally::Tally,
};
use super::{
    Format, ImageOptions, Qcow2, Sharing, budget::Budget, open::open_locked, qcow2::read_first_cluster,
};
use crate::{
    error::{ErrorKind, Result},
    format::header::Header,
    storage::{File, Stamp, Storage},
};

/// An image's file, open and locked: to be checked, and repaired if it was opened for writing.
#[derive(Debug)]
pub(crate) struct ImageFile {
    file: File,
    sharing: Sharing,
    budget: Budget,
}

/// A checked image.
#[derive(Debug)]
pub(crate) struct Checked<'a> {
    pub(crate) report: CheckReport,
    image: &'a ImageFile,
    /// The file as it was before, unless others may write it.
    stamp: Option<Stamp>,
    has_bitmaps: bool,
}

impl ImageFile {
    /// Opens the image at `path`, and nothing that it names.
    pub(crate) fn open(storage: &dyn Storage, path: &Path, options: &ImageOptions) -> Result<ImageFile> {
        let file = open_locked(storage, path, options)?;
        if options.format != Format::Qcow2 {
            let text = format!("images of the format {} have nothing that could be checked", options.format);
            return Err(file.error(ErrorKind::Unsupported, text));
        }
        Ok(ImageFile { file, sharing: options.sharing, budget: Budget::new(options.memory_limit) })
    }

    /// Checks the image.
    pub(crate) fn check(&self) -> Result<Checked<'_>> {
        let stamp = match self.sharing {
            Sharing::Locked => Some(self.file.stamp()?),
            Sharing::ForceShare => None,
        };
        let checked = check_file(&self.file, &self.budget);
        let (report, has_bitmaps) = checked.map_err(|e| e.in_file(self.file.path()))?;
        Ok(Checked { report, image: self, stamp, has_bitmaps })
    }

    /// Repairs the image, which must have been opened for writing.
    pub(crate) fn repair(&self, mode: RepairMode) -> Result<Repaired> {
        repair::repair(&self.file, &self.budget, mode).map_err(|e| e.in_file(self.file.path()))
    }
}

/// What was found, and whether there are bitmaps to look into.
fn check_file(file: &File, budget: &Budget) -> Result<(CheckReport, bool)> {
    let header = Header::parse_for_check(&read_first_cluster(file)?)?;
    let mut report = CheckReport::new();
    report.total_clusters = header.geometry.clusters_for(header.size);

    let structure = Structure::read(file, &header, budget, &mut report)?;
    let (mut tally, tables) = count(&structure, budget, report, Include::Refcounts)?;
    tally.compare()?;
    let refcount_table = tally.refcounts.table();
    let (mut report, suspects) = tally.finish();
    report_overlaps(&structure, &tables, &refcount_table, &suspects, &mut report)?;
    Ok((report, structure.has_bitmaps()))
}

/// Whether the refcount table and its blocks count as references.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Include {
    Refcounts,
    AllButRefcounts,
}

/// Counts all references.
fn count<'a>(
    structure: &'a Structure<'a>,
    budget: &Budget,
    mut report: CheckReport,
    include: Include,
) -> Result<(Tally<'a>, L2Tables)> {
    let clusters = structure.clusters();
    let mut refcounts = Refcounts::read(structure.file, structure.header, clusters, budget)?;
    let tables = L2Tables::gather(structure, &mut refcounts, budget, &mut report)?;
    let refcount_table = refcounts.table();
    let mut tally = Tally::new(structure, refcounts, clusters, budget, report)?;
    match include {
        Include::Refcounts => {
            tally.count(&tables, &refcount_table)?;
            tally.count_blocks()?;
        }
        Include::AllButRefcounts => tally.count(&tables, &[])?,
    }
    Ok((tally, tables))
}

impl Checked<'_> {
    /// The image opened as usual, for a look into its bitmaps; `None` when it has none that can be read.
    pub(crate) fn open_for_bitmaps(&self) -> Option<Result<Qcow2>> {
        self.has_bitmaps.then(|| Qcow2::open(self.image.file.clone(), &self.image.budget))
    }

    /// The report, unless somebody who does not heed locks has written the image meanwhile.
    pub(crate) fn finish(self) -> Result<CheckReport> {
        let file = &self.image.file;
        match self.stamp {
            Some(stamp) if !file.stamp()?.is_same(&stamp) => {
                Err(file.error(ErrorKind::Io, "the image was written while it was checked"))
            }
            _ => Ok(self.report),
        }
    }
}
