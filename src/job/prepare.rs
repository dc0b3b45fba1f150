//! Everything that can be refused, before anything is changed.

use std::{collections::HashSet, os::unix::ffi::OsStrExt, sync::Arc};

use super::{
    Backup, BackupOptions, BitmapMode, Compression, SyncMode,
    copy::is_zero,
    plan::{CopySet, PlanOptions},
};
use crate::{
    bitmap::{self, DirtyBitmap},
    disk::{BusyBitmap, Disk, Pinned},
    error::{Error, ErrorKind, Result},
    format::header::CompressionType,
    image::{
        Format, Image, Layers, Sharing,
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
    pub(crate) backup: Backup,
    pub(crate) storage: Arc<dyn Storage>,
    pub(crate) set: CopySet,
    /// The bitmap that changes when the target is there.
    pub(crate) bitmap: Option<KeptBitmap>,
    pub(crate) plan: PlanOptions,
    /// Of a qcow2 target.
    pub(crate) layout: Option<LayoutOptions>,
    /// The image below the target, held open so that it stays what it is.
    pub(crate) backing: Option<Disk>,
    /// Zeros must be recorded: what is left out would show what is below.
    pub(crate) record_zeros: bool,
    /// Nobody writes the source from now on.
    pub(crate) pinned: Pinned,
}

/// The bitmap of a backup that changes it.
#[derive(Debug)]
pub(crate) struct KeptBitmap {
    pub(crate) busy: BusyBitmap,
    /// It also changes when the backup ends early: the target is kept, and the bitmap has the rest.
    pub(crate) always: bool,
}

fn invalid(text: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidArgument, text)
}

/// Checks one backup against its source, its options against each other, and what its target stands on.
pub(crate) fn prepare(backup: Backup) -> Result<Prepared> {
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
    let pinned = source.pin()?;
    let (mut set, bitmap) = copy_set(&backup)?;
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
            let layout = layout(&backup, cluster_size)?;
            (Some(layout), open_backing(&backup)?)
        }
    };
    if let (CopySet::Dirty(bitmap), Some(backing)) = (&mut set, &backing) {
        add_hidden_zeros(bitmap, &image, &backing.image())?;
    }
    let kind = stream_kind(backup.options.compression);
    let copy_streams = image.layers().iter().map(|layer| {
        let same = |top: &crate::image::Qcow2| {
            Some(top.header().compression) == kind && top.geometry().cluster_size() == cluster_size
        };
        layer.qcow2().is_some_and(same)
    });
    let plan = PlanOptions { cluster_size, batch_bytes: BATCH_BYTES, copy_streams: copy_streams.collect() };
    let record_zeros = backing.is_some() || !matches!(set, CopySet::All);
    Ok(Prepared { storage, set, bitmap, plan, layout, backing, record_zeros, pinned, backup })
}

fn stream_kind(compression: Compression) -> Option<CompressionType> {
    match compression {
        Compression::None => None,
        Compression::Zlib { .. } => Some(CompressionType::Zlib),
        Compression::Zstd { .. } => Some(CompressionType::Zstd),
    }
}

/// What to copy, and what becomes of the bitmap afterwards, from the sync mode, the bitmap and its mode.
fn copy_set(backup: &Backup) -> Result<(CopySet, Option<KeptBitmap>)> {
    let BackupOptions { sync, bitmap, bitmap_mode, .. } = &backup.options;
    let sync = sync.unwrap_or(if bitmap.is_some() { SyncMode::Bitmap } else { SyncMode::Full });
    if sync == SyncMode::None && backup.options.backing.is_none() {
        return Err(invalid(
            "sync mode none copies nothing, so that all of the target would read as zero; give it a backing file",
        ));
    }
    let Some(name) = bitmap else {
        return match sync {
            _ if bitmap_mode.is_some() => Err(invalid("a bitmap mode was given without a bitmap")),
            SyncMode::Full => Ok((CopySet::All, None)),
            SyncMode::Top => Ok((CopySet::Top, None)),
            SyncMode::None => Ok((CopySet::Nothing, None)),
            _ => Err(invalid(format!("sync mode {sync} needs the name of a bitmap"))),
        };
    };
    let mode = match (sync, bitmap_mode) {
        (SyncMode::None, _) => {
            return Err(invalid("sync mode none copies nothing, so that a bitmap has no use with it"));
        }
        (SyncMode::Incremental, Some(BitmapMode::Never | BitmapMode::Always)) => {
            return Err(invalid("sync mode incremental has bitmap mode on-success; use sync mode bitmap"));
        }
        (SyncMode::Full | SyncMode::Top, None | Some(BitmapMode::Never)) => {
            return Err(invalid(format!(
                "a bitmap has no use with sync mode {sync} unless its mode is on-success or always"
            )));
        }
        (SyncMode::Incremental, None) => BitmapMode::OnSuccess,
        (_, mode) => mode.unwrap_or(BitmapMode::Never),
    };
    let set = match sync {
        SyncMode::Full => CopySet::All,
        SyncMode::Top => CopySet::Top,
        SyncMode::None => CopySet::Nothing,
        SyncMode::Bitmap | SyncMode::Incremental => {
            let bitmap = backup.source.bitmap(name)?;
            if let Some(image) = backup.source.image().qcow2() {
                bitmap::ensure_recorded(image, name)?;
            }
            CopySet::Dirty(bitmap)
        }
    };
    if mode == BitmapMode::Never {
        return Ok((set, None));
    }
    let busy = backup.source.keep_bitmap(name)?;
    Ok((set, Some(KeptBitmap { busy, always: mode == BitmapMode::Always })))
}

/// Refuses what contradicts that several backups are all or none.
pub(crate) fn check_group(list: &[Prepared]) -> Result<()> {
    match list.iter().find(|prepared| prepared.bitmap.as_ref().is_some_and(|bitmap| bitmap.always)) {
        Some(prepared) if list.len() > 1 => Err(invalid(format!(
            "the backup to '{}' has bitmap mode always, which keeps what an unfinished backup has; a group of backups is \
             all or none: use individual completion, or mode on-success",
            prepared.backup.target.display()
        ))),
        _ => Ok(()),
    }
}

/// Makes dirty what reads as zero in the source but not in the image below the target. Such a place has
/// changed, whatever the bitmap says: a disk that is shrunk and grown again loses data there, and QEMU's
/// bitmaps do not tell. Compares maps; reads only what is stored below such a place, as larger clusters there
/// may hold zeros too.
fn add_hidden_zeros(bitmap: &mut DirtyBitmap, source: &Image, backing: &Image) -> Result<()> {
    const PIECE: u64 = 64 << 10;
    let mut buf = vec![0; PIECE as usize];
    for run in source.runs(0..source.size().min(backing.size())) {
        let run = run?;
        if !run.zero() {
            continue;
        }
        for below in backing.runs(run.start..run.end()) {
            let below = below?;
            if below.zero() {
                continue;
            }
            for start in (below.start..below.end()).step_by(PIECE as usize) {
                let end = below.end().min(start + PIECE);
                let known =
                    bitmap.next_extent(start).is_some_and(|dirty| dirty.start <= start && end <= dirty.end);
                let piece = &mut buf[..(end - start) as usize];
                if known {
                    continue;
                }
                backing.read_at(piece, start)?;
                if !is_zero(piece) {
                    bitmap.add(start..end);
                }
            }
        }
    }
    Ok(())
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

/// Checks the targets of all backups against what exists, against each other, and against everything that is
/// read: a target must never replace a file that the run, or the target itself, stands on.
pub(crate) fn check_together(list: &[Prepared]) -> Result<()> {
    let mut in_use = Vec::new();
    for prepared in list {
        for disk in [Some(&prepared.backup.source), prepared.backing.as_ref()].into_iter().flatten() {
            in_use.extend(disk.files()?);
        }
    }
    let mut places = HashSet::new();
    for prepared in list {
        let path = &prepared.backup.target;
        if !places.insert(place(&*prepared.storage, path)?) {
            return Err(invalid(format!("two backups have the same target '{}'", path.display())));
        }
        refuse_existing(&*prepared.storage, path, prepared.backup.options.existing, &in_use)?;
    }
    Ok(())
}
