//! Everything that can be refused, before anything is changed.

use std::{collections::HashMap, os::unix::ffi::OsStrExt, path::Path, sync::Arc};

use super::{
    Backup, BackupOptions, BitmapMode, Compression, JobLineage, LastStep, LineageCheck, SyncMode,
    hidden::add_hidden,
    lineage,
    permit::Seat,
    plan::{CopySet, PlanOptions},
    share,
};
use crate::{
    bitmap::{BitmapChange, Purpose},
    disk::{BitmapClaim, Disk, Watch},
    error::{Error, ErrorKind, Result},
    format::{header::CompressionType, lineage::Identity},
    image::{
        Existing, Format, Layers, Sharing,
        create::{LayoutOptions, check_cluster_size, place, refuse_existing},
    },
    storage::Storage,
};

/// Clusters of a target whose source has none, and the unit that raw targets are written in.
const DEFAULT_CLUSTER_SIZE: u64 = 64 << 10;

/// Large enough for long writes, small enough to stay in a processor's cache for some of the way.
const BATCH_BYTES: u64 = 1 << 20;
/// Where memory is written and nothing waits, the cache is all that counts.
pub(super) const SMALL_BATCH_BYTES: u64 = 256 << 10;

/// A backup that has been found possible. Nothing has been created yet.
#[derive(Debug)]
pub(crate) struct Prepared {
    /// Its place in the list, counted from 1.
    pub(crate) action: usize,
    pub(crate) backup: Backup,
    pub(crate) storage: Arc<dyn Storage>,
    pub(crate) set: CopySet,
    /// The bitmap that changes when the target is there.
    pub(crate) bitmap: Option<BitmapClaim>,
    pub(crate) plan: PlanOptions,
    /// Of a qcow2 target.
    pub(crate) layout: Option<LayoutOptions>,
    /// The image below the target, held open so that it stays what it is.
    pub(crate) backing: Option<Disk>,
    /// Zeros must be recorded: what is left out would show what is below.
    pub(crate) record_zeros: bool,
    /// Nobody writes the source from now on, or it is seen.
    pub(crate) watch: Watch,
    /// What the target descends from.
    pub(crate) lineage: JobLineage,
    /// The backup that must stay, with all that it stands on, since this one is an increment over it.
    pub(super) stands_on: Option<Identity>,
}

fn invalid(text: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidArgument, text)
}

/// Where the bitmaps of a backup lie, and what has been done to them by then.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BitmapView<'a> {
    /// The source, or the new image on top of it.
    pub(crate) disk: &'a Disk,
    /// Changes that come before the backup, and are made with it.
    pub(crate) before: &'a [BitmapChange],
}

/// Checks one backup against its source, its options against each other, and what its target stands on.
pub(crate) fn prepare(backup: Backup, bitmaps: BitmapView<'_>, action: usize) -> Result<Prepared> {
    let source = &backup.source;
    if source.options().sharing == Sharing::ForceShare {
        let text = format!(
            "'{}' was opened with force-share: it may change while it is copied",
            source.path().display()
        );
        return Err(invalid(text));
    }
    if source.options().layers == Layers::TopOnly {
        return Err(invalid(format!("'{}' was opened without the images below it", source.path().display())));
    }
    share::check_options(&backup.options)?;
    let watch = source.watch()?;
    let (mut set, bitmap) = copy_set(&backup, bitmaps)?;
    let image = source.image();
    let own = image.qcow2().map(|top| top.geometry().cluster_size());
    let cluster_size = backup.options.cluster_size.or(own).unwrap_or(DEFAULT_CLUSTER_SIZE);
    let storage = image.storage().clone();
    let (layout, backing) = match backup.options.format {
        Format::Raw => {
            check_raw_target(&backup, &set)?;
            (None, None)
        }
        Format::Qcow2 => {
            if matches!(set, CopySet::Nothing) && backup.options.backing.is_none() {
                let text = format!(
                    "the target '{}' of sync mode none would be an empty disk: give it a backing file, which it \
                     shows, such as the source",
                    backup.target.display()
                );
                return Err(invalid(text));
            }
            (Some(layout(&backup, cluster_size)?), open_backing(&backup)?)
        }
    };
    let by = backup.options.bitmap.as_deref().filter(|_| matches!(set, CopySet::Dirty(_)));
    let base = by.map(|name| bitmaps.disk.base_after(bitmaps.before, name)).transpose()?.flatten();
    let lineage = lineage::check(&backup, by, base.map(|base| base.backup), backing.as_ref())?;
    let stands_on = base.map(|base| base.backup).filter(|_| backup.options.lineage == LineageCheck::Strict);
    let layout = layout.map(|layout| LayoutOptions {
        lineage: lineage::recorded(&lineage, &set, &image, backing.as_ref()),
        ..layout
    });
    if let CopySet::Dirty(bitmap) = &mut set {
        let below = backing.as_ref().map(Disk::image);
        add_hidden(bitmap, &image, below.as_deref(), base)?;
    }
    let kind = stream_kind(backup.options.compression);
    let wanted = kind.map(|kind| (kind, cluster_size));
    let copy_streams = image.facts().map(|layer| Ok(wanted.is_some() && layer?.streams == wanted));
    let copy_streams = copy_streams.collect::<Result<_>>()?;
    // What can be shared is known when the target is there.
    let plan = PlanOptions { cluster_size, batch_bytes: BATCH_BYTES, copy_streams, sharing: None };
    let record_zeros = backing.is_some() || !matches!(set, CopySet::All);
    Ok(Prepared {
        action,
        storage,
        set,
        bitmap,
        plan,
        layout,
        backing,
        record_zeros,
        watch,
        lineage,
        stands_on,
        backup,
    })
}

fn stream_kind(compression: Compression) -> Option<CompressionType> {
    match compression {
        Compression::None => None,
        Compression::Zlib { .. } => Some(CompressionType::Zlib),
        Compression::Zstd { .. } => Some(CompressionType::Zstd),
    }
}

/// What to copy, and the bitmap that changes afterwards, from the sync mode, the bitmap and its mode.
fn copy_set(backup: &Backup, bitmaps: BitmapView<'_>) -> Result<(CopySet, Option<BitmapClaim>)> {
    let BackupOptions { sync, bitmap, bitmap_mode, .. } = &backup.options;
    let sync = sync.unwrap_or(if bitmap.is_some() { SyncMode::Bitmap } else { SyncMode::Full });
    let Some(name) = bitmap else {
        return match sync {
            SyncMode::Bitmap | SyncMode::Incremental => {
                Err(invalid(format!("sync mode {sync} needs the name of a bitmap")))
            }
            _ if bitmap_mode.is_some() => Err(invalid("a bitmap mode was given without a bitmap")),
            SyncMode::Full => Ok((CopySet::All, None)),
            SyncMode::Top => Ok((CopySet::Top, None)),
            SyncMode::None => Ok((CopySet::Nothing, None)),
        };
    };
    let mode = bitmap_mode_for(sync, *bitmap_mode)?;
    let set = match sync {
        SyncMode::None => CopySet::Nothing,
        SyncMode::Full => CopySet::All,
        SyncMode::Top => CopySet::Top,
        SyncMode::Bitmap | SyncMode::Incremental => {
            let bitmap = bitmaps.disk.bitmap_after(bitmaps.before, name, Purpose::Backup)?;
            CopySet::Dirty(bitmap)
        }
    };
    let keep = || bitmaps.disk.keep_bitmap(name, bitmaps.before);
    let kept = (mode != BitmapMode::Never).then(keep).transpose()?;
    Ok((set, kept))
}

/// The bitmap mode of a backup with a bitmap, if it means something with the sync mode.
fn bitmap_mode_for(sync: SyncMode, mode: Option<BitmapMode>) -> Result<BitmapMode> {
    let wrong = match (sync, mode) {
        (SyncMode::None, _) => {
            "sync mode none copies nothing, so that a bitmap neither says what to copy nor what was copied; \
             leave the bitmap out"
                .to_owned()
        }
        (SyncMode::Incremental, Some(mode @ (BitmapMode::Never | BitmapMode::Always))) => format!(
            "sync mode incremental has bitmap mode on-success, not {mode}; use sync mode bitmap for the others"
        ),
        (SyncMode::Full | SyncMode::Top, None) => format!(
            "sync mode {sync} does not go by a bitmap: say by the bitmap mode (on-success or always) when what \
             was copied becomes clean in it, or leave the bitmap out"
        ),
        (SyncMode::Full | SyncMode::Top, Some(BitmapMode::Never)) => format!(
            "bitmap mode never has no effect with sync mode {sync}, which does not go by a bitmap; leave both out"
        ),
        (SyncMode::Incremental, None) => return Ok(BitmapMode::OnSuccess),
        (_, mode) => return Ok(mode.unwrap_or(BitmapMode::Never)),
    };
    Err(invalid(wrong))
}

fn check_raw_target(backup: &Backup, set: &CopySet) -> Result<()> {
    let options = &backup.options;
    let wrong = if !matches!(set, CopySet::All) {
        "cannot tell what is unchanged from what is zero; only sync mode full can be raw"
    } else if options.backing.is_some() {
        "cannot have a backing file"
    } else if options.compression != Compression::None {
        "cannot be compressed"
    } else if options.cluster_size.is_some() {
        "has no clusters"
    } else {
        return Ok(());
    };
    Err(invalid(format!("the raw target '{}' {wrong}", backup.target.display())))
}

fn layout(backup: &Backup, cluster_size: u64) -> Result<LayoutOptions> {
    let options = &backup.options;
    check_cluster_size(cluster_size)?;
    options.compression.check_level()?;
    let backing = options.backing.as_ref().map(|b| (b.name.as_os_str().as_bytes().to_vec(), b.format));
    let layout = LayoutOptions {
        compression: stream_kind(options.compression).unwrap_or(CompressionType::Zlib),
        backing,
        ..LayoutOptions::new(backup.source.size(), cluster_size)
    };
    layout.check().map_err(|e| e.within(format!("the target '{}'", backup.target.display())))?;
    Ok(layout)
}

/// Opens what the target will stand on.
fn open_backing(backup: &Backup) -> Result<Option<Disk>> {
    let Some(backing) = &backup.options.backing else { return Ok(None) };
    let source = &backup.source;
    Disk::open_backing(source.image().storage(), &backup.target, backing, source.options()).map(Some)
}

/// The places of these jobs on the board; `grouped` says whether they stand and fall together.
pub(crate) fn seats(list: &[Prepared], grouped: bool) -> Vec<Seat> {
    let seat = |(index, prepared): (usize, &Prepared)| {
        let Backup { source, target, options } = &prepared.backup;
        let same = |other: &Prepared| other.backup.source.is_same(source);
        Seat {
            name: format!("the backup to '{}'", target.display()),
            group: if grouped { 0 } else { index },
            disk: list.iter().position(same).unwrap_or(index),
            changes_disk: prepared.bitmap.is_some(),
            speed: options.speed,
            auto_finalize: options.finalize == LastStep::Auto,
            auto_dismiss: options.dismiss == LastStep::Auto,
        }
    };
    list.iter().enumerate().map(seat).collect()
}

/// A file that will be made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NewFile<'a> {
    pub(crate) storage: &'a dyn Storage,
    pub(crate) path: &'a Path,
    pub(crate) existing: Existing,
    /// The action that makes it, counted from 1.
    pub(crate) action: usize,
}

/// Checks new files against what exists, against each other, and against all `disks` that are read: a target must never
/// replace a file that the run, or the target itself, stands on.
pub(crate) fn check_together<'a>(
    disks: impl Iterator<Item = &'a Disk>,
    files: impl Iterator<Item = NewFile<'a>>,
) -> Result<()> {
    let mut in_use = Vec::new();
    for disk in disks {
        in_use.extend(disk.files()?);
    }
    let mut places = HashMap::new();
    for NewFile { storage, path, existing, action } in files {
        if let Some(other) = places.insert(place(storage, path)?, action) {
            let (first, second) = (other.min(action), other.max(action));
            let text = format!(
                "actions {first} and {second} would both make '{}'; give each file a name of its own",
                path.display()
            );
            return Err(invalid(text));
        }
        refuse_existing(storage, path, existing, &in_use)?;
    }
    Ok(())
}

impl Prepared {
    /// The disks that it reads.
    pub(crate) fn disks(&self) -> impl Iterator<Item = &Disk> {
        [Some(&self.backup.source), self.backing.as_ref()].into_iter().flatten()
    }

    /// Its target.
    pub(crate) fn new_file(&self) -> NewFile<'_> {
        let existing = self.backup.options.existing;
        NewFile { storage: &*self.storage, path: &self.backup.target, existing, action: self.action }
    }
}
