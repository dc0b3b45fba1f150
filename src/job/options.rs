//! What a caller can ask of a backup.

use std::{fmt, path::PathBuf, str::FromStr};

use super::ErrorPolicy;
use crate::{
    disk::Disk,
    error::{Error, ErrorKind, Result},
    image::{Backing, Existing, Format},
    storage::PageCache,
};

/// Which parts of the source are copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SyncMode {
    /// Nothing: the target is an empty image over its backing file.
    None,
    /// The whole disk, as the chain shows it.
    Full,
    /// The clusters that the top image has.
    Top,
    /// The dirty parts of a bitmap.
    Bitmap,
    /// The same as `Bitmap`, with the bitmap mode fixed.
    Incremental,
}

/// What becomes of the bitmap afterwards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BitmapMode {
    /// Cleared if the backup succeeds.
    OnSuccess,
    /// Left as it is.
    Never,
    /// Cleared of all that is in the target, also if the backup fails or is cancelled: then the target is kept
    /// with what it has, and a next increment on top of it takes the rest.
    ///
    /// What was copied is everything up to some offset of the disk ([`JobReport::partial_end`]). Nothing is kept,
    /// and the bitmap stays as it is, when nothing was copied yet, when the target itself fails, and when it
    /// would replace an existing one. Not for several backups in a grouped transaction, which is all or none.
    ///
    /// [`JobReport::partial_end`]: crate::JobReport::partial_end
    Always,
}

/// How a qcow2 target stores data.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Compression {
    /// As it is.
    #[default]
    None,
    /// Deflate.
    Zlib {
        /// 1 to 9; 6 when not given.
        level: Option<u32>,
    },
    /// Zstandard.
    Zstd {
        /// 1 to 19; 1 when not given: it is several times as fast as 3, for nearly the same size.
        level: Option<u32>,
    },
}

/// Whether an increment must stand on the backup that its bitmap counts from. Where that is not known (bitmaps of
/// other programs) an increment is made, and [`Job::lineage`](crate::Job::lineage) tells.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LineageCheck {
    /// Another image below, and a target that would replace that backup, are refused.
    #[default]
    Strict,
    /// They are not: the caller knows better.
    Ignore,
}

/// Whether data is searched for clusters that are all zero.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ZeroDetection {
    /// They are stored as zero clusters.
    #[default]
    On,
    /// They are stored as data.
    Off,
}

/// Whether the target shares blocks with the source's files instead of getting a copy of them, on file systems that know how
/// to (XFS, btrfs). Shared data is neither read nor written: it takes no time, no room, and no place in the page cache.
/// The file system copies a block when one of the files is written later.
///
/// Whole clusters of the target are shared, where they are stored as they are in the source and lie alike in the file
/// system's blocks. They are not looked at, so zeros in data stay data ([`ZeroDetection`] sees what is copied), and a
/// damaged block of the disk below is not found. A target with compression shares nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Reflink {
    /// What can be shared is, and the rest is copied.
    #[default]
    Auto,
    /// What cannot be shared is an error, before anything is copied where that can be known. Less than a block at the
    /// end of a file is copied.
    Always,
    /// Everything is copied.
    Never,
}

/// Whether a job takes its last step by itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LastStep {
    /// By itself.
    #[default]
    Auto,
    /// When it is told to.
    Manual,
}

/// Options of a [`Backup`]; the default is a full copy into a new qcow2 image.
#[derive(Clone, Debug, Default)]
pub struct BackupOptions {
    /// What to copy. When not given: the bitmap's dirty parts if there is a bitmap, else everything.
    pub sync: Option<SyncMode>,
    /// The name of a persistent bitmap of the source.
    pub bitmap: Option<Vec<u8>>,
    /// What becomes of the bitmap. The default is never, and on success for [`SyncMode::Incremental`]; the
    /// source must be open for writing if the bitmap is to change.
    pub bitmap_mode: Option<BitmapMode>,
    /// The target's format.
    pub format: Format,
    /// The image below the target; it must exist and be readable.
    pub backing: Option<Backing>,
    /// Whether the image below must be the backup that the bitmap counts from.
    pub lineage: LineageCheck,
    /// Bytes of a target cluster: a power of two from 512 to 2 MiB. When not given: the source's, or 64 KiB.
    pub cluster_size: Option<u64>,
    /// How data is stored.
    pub compression: Compression,
    /// What to do when the target exists.
    pub existing: Existing,
    /// Whether data is searched for zeros.
    pub zero_detection: ZeroDetection,
    /// Whether the target shares blocks with the source's files.
    pub reflink: Reflink,
    /// What is done about the page cache.
    pub page_cache: PageCache,
    /// Bytes of data a second that are read at most; 0 is without a limit. Zeros, holes and what is shared do not count.
    pub speed: u64,
    /// What to do when the source, or an image below it, cannot be read.
    pub on_source_error: ErrorPolicy,
    /// What to do when the target cannot be written.
    pub on_target_error: ErrorPolicy,
    /// Whether the target appears as soon as it can, or when [`Job::finalize`] says so. In a group one that waits
    /// makes all wait, and one that is told lets all go on.
    ///
    /// [`Job::finalize`]: crate::Job::finalize
    pub finalize: LastStep,
    /// Whether the job is done with when it has ended, or keeps its transaction from finishing until
    /// [`Job::dismiss`] says that somebody took note of how.
    ///
    /// [`Job::dismiss`]: crate::Job::dismiss
    pub dismiss: LastStep,
}

/// A backup of one disk into one new file.
#[derive(Clone, Debug)]
pub struct Backup {
    /// The disk to copy.
    pub source: Disk,
    /// The file that appears when everything is copied and durable.
    pub target: PathBuf,
    /// How.
    pub options: BackupOptions,
}

fn unknown(what: &str, text: &str, allowed: &str) -> Error {
    Error::new(ErrorKind::InvalidArgument, format!("unknown {what} '{text}'; use {allowed}"))
}

impl FromStr for SyncMode {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "none" => Ok(SyncMode::None),
            "full" => Ok(SyncMode::Full),
            "top" => Ok(SyncMode::Top),
            "bitmap" => Ok(SyncMode::Bitmap),
            "incremental" => Ok(SyncMode::Incremental),
            _ => Err(unknown("sync mode", text, "full, top, bitmap, incremental or none")),
        }
    }
}

impl fmt::Display for SyncMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            SyncMode::Full => "full",
            SyncMode::Top => "top",
            SyncMode::Bitmap => "bitmap",
            SyncMode::Incremental => "incremental",
            SyncMode::None => "none",
        })
    }
}

impl FromStr for BitmapMode {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "on-success" => Ok(BitmapMode::OnSuccess),
            "never" => Ok(BitmapMode::Never),
            "always" => Ok(BitmapMode::Always),
            _ => Err(unknown("bitmap mode", text, "on-success, never or always")),
        }
    }
}

impl fmt::Display for BitmapMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            BitmapMode::OnSuccess => "on-success",
            BitmapMode::Never => "never",
            BitmapMode::Always => "always",
        })
    }
}

impl FromStr for LineageCheck {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "strict" => Ok(LineageCheck::Strict),
            "ignore" => Ok(LineageCheck::Ignore),
            _ => Err(unknown("lineage check", text, "strict or ignore")),
        }
    }
}

impl FromStr for Reflink {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "auto" => Ok(Reflink::Auto),
            "always" => Ok(Reflink::Always),
            "never" => Ok(Reflink::Never),
            _ => Err(unknown("reflink mode", text, "auto, always or never")),
        }
    }
}

impl FromStr for PageCache {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "drop" => Ok(PageCache::Drop),
            "keep" => Ok(PageCache::Keep),
            _ => Err(unknown("treatment of the page cache", text, "drop or keep")),
        }
    }
}

impl FromStr for Compression {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let (name, level) = match text.split_once(':') {
            Some((name, level)) => {
                let level = level.parse().map_err(|_| unknown("compression level", level, "a number"))?;
                (name, Some(level))
            }
            None => (text, None),
        };
        let compression = match name {
            "none" if level.is_none() => Compression::None,
            "zlib" => Compression::Zlib { level },
            "zstd" => Compression::Zstd { level },
            _ => return Err(unknown("compression", text, "none, zlib[:1-9] or zstd[:1-19]")),
        };
        compression.check_level().map(|()| compression)
    }
}

impl FromStr for ErrorPolicy {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "report" => Ok(ErrorPolicy::Report),
            "ignore" => Ok(ErrorPolicy::Ignore),
            "enospc" => Ok(ErrorPolicy::Enospc),
            "stop" => Ok(ErrorPolicy::Stop),
            _ => Err(unknown("error policy", text, "report, ignore, enospc or stop")),
        }
    }
}

impl Compression {
    pub(crate) fn check_level(self) -> Result<()> {
        let (level, most) = match self {
            Compression::None => return Ok(()),
            Compression::Zlib { level } => (level, 9),
            Compression::Zstd { level } => (level, 19),
        };
        match level {
            Some(level) if level == 0 || level > most => Err(Error::new(
                ErrorKind::InvalidArgument,
                format!("compression level {level} is outside 1 to {most}"),
            )),
            _ => Ok(()),
        }
    }
}
