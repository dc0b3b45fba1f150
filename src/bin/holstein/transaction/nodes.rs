//! Paths become disks: each image is opened once, whatever number of actions is about it.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use holstein::{Access, Action, Backup, Disk, DiskOptions, Error, ErrorKind, MergeFrom, Result, same_file};

use super::list::{List, Step};
use crate::{output::escape_path, run::folder_of};

struct Nodes {
    options: DiskOptions,
    /// Paths of images that are changed.
    written: BTreeSet<PathBuf>,
    /// Every disk, by the path of the image on top of it.
    disks: BTreeMap<PathBuf, Disk>,
    /// Paths of images that lie below another since an earlier action, with the path of that.
    covered: BTreeMap<PathBuf, PathBuf>,
}

/// The actions of a list, with their disks open.
pub(super) fn actions(mut list: List, options: DiskOptions) -> Result<Vec<Action>> {
    name_alike(&mut list);
    let writes = |step: &&Step| !matches!(step, Step::Backup(spec) if spec.access() == Access::Read);
    let written = list.steps.iter().filter(writes).filter_map(Step::node).map(Path::to_owned).collect();
    let mut nodes = Nodes { options, written, disks: BTreeMap::new(), covered: BTreeMap::new() };
    list.steps.into_iter().map(|step| nodes.action(step)).collect()
}

/// Gives each image the path by which the list names it first: opened twice it would be in its own way.
fn name_alike(list: &mut List) {
    let mut known: Vec<PathBuf> = Vec::new();
    for path in list.steps.iter_mut().flat_map(Step::images) {
        match known.iter().find(|other| is_same(other, path)) {
            Some(other) => path.clone_from(other),
            None => known.push(path.clone()),
        }
    }
}

/// Whether two paths mean one file, which need not be there yet.
fn is_same(a: &Path, b: &Path) -> bool {
    a == b || same_file(a, b) || (a.file_name() == b.file_name() && same_file(folder_of(a), folder_of(b)))
}

impl Nodes {
    fn action(&mut self, step: Step) -> Result<Action> {
        Ok(match step {
            Step::Backup(spec) => {
                let source = match self.covered.get(&spec.source) {
                    // What both show is the same.
                    Some(above) if spec.options.bitmap.is_none() => self.top(&above.clone())?,
                    _ => self.top(&spec.source)?,
                };
                Backup { source, target: spec.target, options: spec.options }.into()
            }
            Step::Add { node, name, granularity, recording } => {
                Action::bitmap_add(self.top(&node)?, name, granularity, recording)
            }
            Step::Remove { node, name } => Action::bitmap_remove(self.top(&node)?, name),
            Step::Clear { node, name } => Action::bitmap_clear(self.top(&node)?, name),
            Step::Record { node, name, recording } => Action::Bitmap {
                disk: self.top(&node)?,
                change: holstein::BitmapChange::Record { name, recording },
            },
            Step::Merge { node, name, sources } => {
                let disk = self.top(&node)?;
                let from = |(from, name)| self.merge_from(&node, from, name);
                Action::Merge { disk, name, sources: sources.into_iter().map(from).collect::<Result<_>>()? }
            }
            Step::Snapshot { node, overlay, options } => {
                let disk = self.top(&node)?;
                self.disks.remove(&node);
                self.disks.insert(overlay.clone(), disk.clone());
                self.covered.insert(node, overlay.clone());
                Action::ExternalSnapshot { disk, overlay, options }
            }
            Step::TakeSnapshot { node, name } => Action::snapshot_create(self.top(&node)?, name),
            Step::DeleteSnapshot { node, id_or_name } => {
                Action::snapshot_delete(self.top(&node)?, id_or_name)
            }
            Step::Abort => Action::Abort,
        })
    }

    fn merge_from(&mut self, node: &Path, from: Option<PathBuf>, name: Vec<u8>) -> Result<MergeFrom> {
        Ok(match from {
            None => MergeFrom::Own(name),
            Some(from) if from == node => MergeFrom::Own(name),
            Some(from) if self.covered.get(&from).is_some_and(|above| above == node) => {
                MergeFrom::Below(name)
            }
            Some(from) => MergeFrom::Other(self.top(&from)?, name),
        })
    }

    /// The disk whose top image has this path.
    fn top(&mut self, path: &Path) -> Result<Disk> {
        if let Some(above) = self.covered.get(path) {
            let text = format!(
                "'{}' lies below '{}' since an earlier action: name that, or merge from a bitmap of the former",
                escape_path(path),
                escape_path(above)
            );
            return Err(Error::new(ErrorKind::InvalidArgument, text));
        }
        if let Some(disk) = self.disks.get(path) {
            return Ok(disk.clone());
        }
        let access = if self.written.contains(path) { Access::Write } else { Access::Read };
        let options = DiskOptions { access, ..self.options.clone() };
        let disk = Disk::open(path, &options)?;
        self.disks.insert(path.to_owned(), disk.clone());
        Ok(disk)
    }
}
