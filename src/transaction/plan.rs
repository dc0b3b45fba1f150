//! The list of a transaction, gone through once before anything is touched: each action is checked against the disks as
//! the actions before it leave them, and what it does is remembered.

use std::path::PathBuf;

use super::{Action, CompletionMode, MergeFrom, OverlayOptions, changes::Change, overlay::Overlay};
use crate::{
    bitmap::{BitmapChange, DirtyBitmap, MergeSource, Purpose},
    disk::{Claim, Disk, Pinned, Scope},
    error::{Error, ErrorKind, Result},
    format::text::printable,
    image::{Existing, Sharing, SnapshotChange},
    job::{
        Backup, BitmapMode, BitmapView, CopySet, NewFile, Prepared, check_together, keep_ancestors, prepare,
    },
};

/// What a list comes to.
#[derive(Debug)]
pub(super) struct Plan {
    /// In the order of the list.
    pub(super) backups: Vec<Prepared>,
    sites: Vec<Site>,
    completion: CompletionMode,
}

/// A disk, and what the actions so far make of it.
#[derive(Debug)]
struct Site {
    disk: Disk,
    pinned: Pinned,
    /// Changes of its own bitmaps.
    bitmaps: Vec<BitmapChange>,
    /// Changes of its own snapshots.
    snapshots: Vec<SnapshotChange>,
    /// The image on top of it, from the external snapshot on.
    overlay: Option<Overlay>,
    /// The place in the list of the action that makes it.
    covered_by: usize,
    /// The bitmaps of the image on top that backups go by.
    used: Vec<Used>,
    /// Bitmaps of its own image that backups of the list will change.
    kept: Vec<Vec<u8>>,
    claim: Option<Claim>,
}

#[derive(Debug)]
struct Used {
    name: Vec<u8>,
    /// It becomes clean when the backup is done.
    changes: bool,
    /// Its place in the list, from 1.
    action: usize,
}

impl Plan {
    /// Goes through a list. Nothing is changed, whatever comes of it.
    pub(super) fn new(actions: Vec<Action>, completion: CompletionMode) -> Result<Self> {
        if completion == CompletionMode::Grouped && actions.len() > 1 {
            refuse_partial_groups(&actions)?;
        }
        let count = actions.len();
        let mut plan = Plan { backups: Vec::new(), sites: Vec::new(), completion };
        for (index, action) in actions.into_iter().enumerate() {
            let kind = action.kind();
            plan.add(action, index + 1).map_err(|error| match count {
                1 => error,
                _ => error.within(format!("action {} ({kind})", index + 1)),
            })?;
        }
        plan.check()?;
        Ok(plan)
    }

    fn add(&mut self, action: Action, number: usize) -> Result<()> {
        match action {
            Action::Backup(backup) => self.back_up(backup, number),
            Action::Bitmap { disk, change } => self.change_bitmap(&disk, change),
            Action::Merge { disk, name, sources } => {
                let sources =
                    sources.into_iter().map(|from| self.merge_source(&disk, from)).collect::<Result<_>>()?;
                self.change_bitmap(&disk, BitmapChange::Merge { name, sources })
            }
            Action::ExternalSnapshot { disk, overlay, options } => {
                self.cover(&disk, overlay, &options, number)
            }
            Action::InternalSnapshot { disk, change } => self.change_snapshots(&disk, change),
            Action::Abort => {
                Err(Error::new(ErrorKind::Cancelled, "it makes the transaction fail; nothing was done"))
            }
        }
    }

    /// The place of a disk, which stays as it is from now on.
    fn site(&mut self, disk: &Disk) -> Result<&mut Site> {
        let index = match self.sites.iter().position(|site| site.disk.is_same(disk)) {
            Some(index) => index,
            None => {
                let pinned = disk.pin()?;
                self.sites.push(Site {
                    disk: disk.clone(),
                    pinned,
                    bitmaps: Vec::new(),
                    snapshots: Vec::new(),
                    overlay: None,
                    covered_by: 0,
                    used: Vec::new(),
                    kept: Vec::new(),
                    claim: None,
                });
                self.sites.len() - 1
            }
        };
        Ok(&mut self.sites[index])
    }

    fn back_up(&mut self, backup: Backup, action: usize) -> Result<()> {
        let individual = self.completion == CompletionMode::Individual;
        let site = self.site(&backup.source.clone())?;
        let name = backup.options.bitmap.clone();
        let prepared = prepare(backup, site.view(), action)?;
        if let Some(name) = name {
            let changes = prepared.bitmap.is_some();
            if changes && individual && site.overlay.is_some() {
                let text = format!(
                    "bitmap '{}' lies in the overlay of an earlier action, and would change only when the backup \
                     is done; use grouped completion",
                    printable(&name)
                );
                return Err(Error::new(ErrorKind::InvalidArgument, text));
            }
            if changes && site.overlay.is_none() {
                site.kept.push(name.clone());
            }
            site.used.push(Used { name, changes, action });
        }
        self.backups.push(prepared);
        Ok(())
    }

    fn change_bitmap(&mut self, disk: &Disk, change: BitmapChange) -> Result<()> {
        let completion = self.completion;
        let site = self.site(disk)?;
        site.refuse_used(&change, completion)?;
        match &site.overlay {
            Some(overlay) => overlay.disk().change_kept(&[change], &[]),
            None => {
                site.bitmaps.push(change);
                site.disk.validate_bitmaps(&site.bitmaps)
            }
        }
    }

    fn change_snapshots(&mut self, disk: &Disk, change: SnapshotChange) -> Result<()> {
        let site = self.site(disk)?;
        match &site.overlay {
            Some(overlay) => overlay.disk().change_kept(&[], &[change]),
            None => {
                site.snapshots.push(change);
                site.disk.rehearse_kept(&site.bitmaps, &site.snapshots)
            }
        }
    }

    fn merge_source(&mut self, disk: &Disk, from: MergeFrom) -> Result<MergeSource> {
        let loaded = match from {
            MergeFrom::Own(name) => return Ok(MergeSource::Name(name)),
            MergeFrom::Below(name) => self.site(disk)?.bitmap_below(&name)?,
            MergeFrom::Other(other, name) => {
                let completion = self.completion;
                self.site(&other)?.bitmap(&name, completion)?
            }
        };
        Ok(MergeSource::Loaded(loaded))
    }

    fn cover(&mut self, disk: &Disk, path: PathBuf, options: &OverlayOptions, action: usize) -> Result<()> {
        let individual = self.completion == CompletionMode::Individual;
        let site = self.site(disk)?;
        if let Some(overlay) = &site.overlay {
            let text = format!(
                "'{}' has the overlay '{}' by an earlier action already; take the next snapshot in a transaction \
                 of its own",
                disk.path().display(),
                overlay.path().display()
            );
            return Err(Error::new(ErrorKind::Unsupported, text));
        }
        if disk.options().sharing == Sharing::ForceShare {
            let text =
                format!("'{}' was opened with force-share: somebody may write it", disk.path().display());
            return Err(Error::new(ErrorKind::InvalidArgument, text));
        }
        if individual && let Some(used) = site.used.iter().find(|used| used.changes) {
            let text = format!(
                "bitmap '{}' would change when the backup of action {} is done, and its image lies below the overlay \
                 then; use grouped completion",
                printable(&used.name),
                used.action
            );
            return Err(Error::new(ErrorKind::InvalidArgument, text));
        }
        disk.refuse_covered()?;
        site.overlay = Some(Overlay::new(disk, &path, options)?);
        site.covered_by = action;
        // What was used so far are bitmaps of the image below, which nothing changes any more.
        site.used.clear();
        Ok(())
    }

    /// What can be said only of all actions together.
    fn check(&mut self) -> Result<()> {
        self.refuse_moving_tables()?;
        self.sites.iter_mut().try_for_each(Site::claim)?;
        for site in self.sites.iter().filter(|site| site.changes_image()) {
            site.disk.rehearse_kept(&site.bitmaps, &site.snapshots)?;
        }
        let images: Vec<_> = self.sites.iter().map(|site| site.disk.image()).collect();
        let disks = self.backups.iter().flat_map(Prepared::disks);
        let overlays = self.sites.iter().zip(&images).filter_map(|(site, image)| {
            let path = site.overlay.as_ref()?.path();
            let storage = &**image.storage();
            Some(NewFile { storage, path, existing: Existing::Refuse, action: site.covered_by })
        });
        let files = self.backups.iter().map(Prepared::new_file).chain(overlays);
        check_together(disks.chain(self.sites.iter().map(|site| &site.disk)), files)?;
        keep_ancestors(&mut self.backups)
    }

    /// The tables of a disk move when a snapshot goes, and its image can be changed again when nobody reads it any more.
    fn refuse_moving_tables(&self) -> Result<()> {
        let individual = self.completion == CompletionMode::Individual;
        let goes = |site: &&Site| {
            site.snapshots.iter().any(|change| matches!(change, SnapshotChange::Delete { .. }))
                && self
                    .backups
                    .iter()
                    .any(|prepared| prepared.bitmap.is_some() && prepared.backup.source.is_same(&site.disk))
        };
        let Some(site) = self.sites.iter().find(goes).filter(|_| individual) else { return Ok(()) };
        let text = format!(
            "a snapshot of '{}' would go before a backup of it, which then could not change its bitmap; use \
             grouped completion",
            site.disk.path().display()
        );
        Err(Error::new(ErrorKind::InvalidArgument, text))
    }

    /// The backups, and what the other actions make of each disk.
    pub(super) fn into_parts(self) -> (Vec<Prepared>, Vec<Change>) {
        let Plan { backups, sites, completion } = self;
        let changed = sites.into_iter().filter(Site::changes);
        let change = |site: Site| {
            let counting = site.counting(&backups).filter(|_| completion == CompletionMode::Grouped);
            let Site { disk, pinned, bitmaps, snapshots, overlay, claim, .. } = site;
            Change { disk, bitmaps, counting, snapshots, overlay, _claim: claim, _pinned: pinned }
        };
        let changes = changed.map(change).collect();
        (backups, changes)
    }
}

/// A target that is kept after a failure, and the others not, would be some of all.
fn refuse_partial_groups(actions: &[Action]) -> Result<()> {
    let always = |action: &&Action| match action {
        Action::Backup(backup) => backup.options.bitmap_mode == Some(BitmapMode::Always),
        _ => false,
    };
    let Some(Action::Backup(backup)) = actions.iter().find(always) else { return Ok(()) };
    let text = format!(
        "bitmap mode always would keep a part of the target '{}' after a failure, but several actions in a \
         grouped transaction are all or none; use individual completion",
        backup.target.display()
    );
    Err(Error::new(ErrorKind::InvalidArgument, text))
}

impl Site {
    fn changes(&self) -> bool {
        self.changes_image() || self.overlay.is_some()
    }

    /// The bitmaps that the list adds or clears, and the one backup of the disk as it is at that instant, from which they
    /// count then. With several backups nobody says which of them is meant.
    fn counting(&self, backups: &[Prepared]) -> Option<(usize, Vec<Vec<u8>>)> {
        let of_this = |prepared: &Prepared| {
            prepared.backup.source.is_same(&self.disk) && !matches!(prepared.set, CopySet::Nothing)
        };
        let mut jobs = (0..backups.len()).filter(|index| of_this(&backups[*index]));
        let (Some(job), None) = (jobs.next(), jobs.next()) else { return None };
        let mut names: Vec<Vec<u8>> = Vec::new();
        for change in &self.bitmaps {
            match change {
                BitmapChange::Add { name, .. } | BitmapChange::Clear { name } => names.push(name.clone()),
                BitmapChange::Record { .. } => {}
                other => names.retain(|name| !other.names().contains(&name)),
            }
        }
        names.dedup();
        (!names.is_empty()).then_some((job, names))
    }

    /// The disk's own image changes.
    fn changes_image(&self) -> bool {
        !self.bitmaps.is_empty() || !self.snapshots.is_empty()
    }

    /// Keeps others from changing what this changes, until the transaction has ended.
    fn claim(&mut self) -> Result<()> {
        if !self.changes() {
            return Ok(());
        }
        let deletes = |change: &SnapshotChange| matches!(change, SnapshotChange::Delete { .. });
        let scope = match () {
            () if self.overlay.is_some() || self.snapshots.iter().any(deletes) => Scope::Image,
            () if self.snapshots.is_empty() => Scope::Bitmaps,
            () => Scope::Snapshots,
        };
        let names: Vec<_> = self.bitmaps.iter().flat_map(BitmapChange::names).collect();
        self.claim = Some(self.disk.claim(scope, &names, &self.kept.iter().collect::<Vec<_>>())?);
        Ok(())
    }

    /// The bitmaps of the image on top, as they are by now.
    fn view(&self) -> BitmapView<'_> {
        match &self.overlay {
            Some(overlay) => BitmapView { disk: overlay.disk(), before: &[] },
            None => BitmapView { disk: &self.disk, before: &self.bitmaps },
        }
    }

    fn bitmap(&self, name: &[u8], completion: CompletionMode) -> Result<DirtyBitmap> {
        if let Some(used) = self.used.iter().find(|used| used.changes && used.name == name) {
            return Err(used.error(completion));
        }
        let BitmapView { disk, before } = self.view();
        disk.bitmap_after(before, name, Purpose::Look)
    }

    fn bitmap_below(&self, name: &[u8]) -> Result<DirtyBitmap> {
        match &self.overlay {
            Some(_) => self.disk.bitmap_after(&self.bitmaps, name, Purpose::Look),
            None => self.disk.bitmap_below(name),
        }
    }

    /// Refuses to change a bitmap that an earlier backup goes by, unless both are decided together and the order says
    /// what is meant; and to merge from one that the backup will change.
    fn refuse_used(&mut self, change: &BitmapChange, completion: CompletionMode) -> Result<()> {
        let names = change.names();
        let target = match change {
            BitmapChange::Merge { name, .. } => vec![name],
            _ => names.clone(),
        };
        let in_use =
            |used: &&Used| target.contains(&&used.name) || used.changes && names.contains(&&used.name);
        let Some(used) = self.used.iter().find(in_use) else {
            // A new one is nobody's, and others' bitmaps are those of the disk.
            let is_new = matches!(change, BitmapChange::Add { .. });
            return if is_new || self.overlay.is_some() { Ok(()) } else { self.disk.refuse_busy(&target) };
        };
        let is_simple = matches!(
            change,
            BitmapChange::Clear { .. } | BitmapChange::Remove { .. } | BitmapChange::Record { .. }
        );
        if is_simple && completion == CompletionMode::Grouped && self.overlay.is_none() {
            if let BitmapChange::Remove { name } = change {
                self.used.retain(|used| used.name != *name);
            }
            return Ok(());
        }
        Err(used.error(completion))
    }
}

impl Used {
    fn error(&self, completion: CompletionMode) -> Error {
        let (name, action) = (printable(&self.name), self.action);
        let text = match completion {
            CompletionMode::Individual => format!(
                "bitmap '{name}' is in use by the backup of action {action}, which may fail when this is done; put \
                 this before it, or use grouped completion"
            ),
            CompletionMode::Grouped => {
                format!("bitmap '{name}' is in use by the backup of action {action}; put this before it")
            }
        };
        Error::new(ErrorKind::WrongState, text)
    }
}
