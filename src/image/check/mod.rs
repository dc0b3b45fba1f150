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
mod report;
mod structure;
mod tables;
mod tally;

use std::{path::Path, sync::Arc};

pub(crate) use counts::Counts;
pub use report::{CheckProblem, CheckProblemKind, CheckReport, CheckSeverity};

use self::{
    names::report_overlaps, refcounts::Refcounts, structure::Structure, tables::L2Tables, tally::Tally,
};
use super::{
    Format, ImageOptions, Qcow2, Sharing, budget::Budget, open::open_locked, qcow2::read_first_cluster,
};
use crate::{
    error::{ErrorKind, Result},
    format::header::Header,
    storage::{File, FileVersion, Storage},
};

/// A checked image. Its file stays open and locked.
#[derive(Debug)]
pub(crate) struct Checked {
    pub(crate) report: CheckReport,
    file: File,
    /// The file as it was before, unless others may write it.
    version: Option<FileVersion>,
    budget: Budget,
    has_bitmaps: bool,
}

/// Checks the image at `path`, and nothing that it names.
pub(crate) fn check(storage: &Arc<dyn Storage>, path: &Path, options: &ImageOptions) -> Result<Checked> {
    let file = open_locked(&**storage, path, options)?;
    if options.format != Format::Qcow2 {
        let text = format!("images of the format {} have nothing that could be checked", options.format);
        return Err(file.error(ErrorKind::Unsupported, text));
    }
    let version = match options.sharing {
        Sharing::Locked => Some(file.version()?),
        Sharing::ForceShare => None,
    };
    let budget = Budget::new(options.memory_limit);
    let (report, has_bitmaps) = check_file(&file, &budget).map_err(|e| e.in_file(path))?;
    Ok(Checked { report, file, version, budget, has_bitmaps })
}

/// What was found, and whether there are bitmaps to look into.
fn check_file(file: &File, budget: &Budget) -> Result<(CheckReport, bool)> {
    let header = Header::parse_for_check(&read_first_cluster(file)?)?;
    let mut report = CheckReport { leaks_are_certain: true, ..CheckReport::default() };
    report.total_clusters = header.geometry.clusters_for(header.size);

    let structure = Structure::read(file, &header, budget, &mut report)?;
    let clusters = header.geometry.clusters_for(structure.length);
    let mut refcounts = Refcounts::read(file, &header, clusters, budget)?;
    let tables = L2Tables::gather(&structure, &mut refcounts, budget, &mut report)?;
    let refcount_table = refcounts.table();

    let mut tally = Tally::new(&structure, refcounts, clusters, budget, report)?;
    tally.count(&tables)?;
    tally.count_blocks()?;
    tally.compare()?;
    let (mut report, suspects) = tally.finish();
    report_overlaps(&structure, &tables, &refcount_table, &suspects, &mut report)?;
    Ok((report, structure.has_bitmaps()))
}

impl Checked {
    /// The image opened as usual, for a look into its bitmaps; `None` when it has none that can be read.
    pub(crate) fn open_for_bitmaps(&self) -> Option<Result<Qcow2>> {
        self.has_bitmaps.then(|| Qcow2::open(self.file.clone(), &self.budget))
    }

    /// The report, unless somebody who does not heed locks has written the image meanwhile.
    pub(crate) fn finish(self) -> Result<CheckReport> {
        match self.version {
            Some(version) if self.file.version()? != version => {
                Err(self.file.error(ErrorKind::Io, "the image was written while it was checked"))
            }
            _ => Ok(self.report),
        }
    }
}
