//! What a caller can choose: constants, and the structures that carry the choices.
//!
//! In both, zero is the default, so that a zeroed structure and NULL mean the same.

use std::ffi::c_char;

use super::boundary::{Failure, as_path, invalid, optional_text};
use super::structure::Grows;
use crate::{
    Access, Backing, BackingPolicy, BackupOptions, BitmapMode, CompletionMode, Compression, DiskOptions,
    ErrorPolicy, Existing, Format, LastStep, Layers, LineageCheck, PageCache, Reflink, Sharing, SyncMode,
    ZeroDetection,
};

/// The image is qcow2. The default: a format is what the caller says and never guessed.
pub const HOL_FORMAT_QCOW2: u32 = 0;
/// The image is raw: its bytes are the disk's.
pub const HOL_FORMAT_RAW: u32 = 1;

/// Files that an image names (backing file, data file) are opened when they are regular files in the image's own
/// folder or below it. The default.
pub const HOL_BACKING_BESIDE: u32 = 0;
/// Files that an image names are opened when they are regular files in the folder hol_disk_options.backing_dir or below it.
pub const HOL_BACKING_UNDER: u32 = 1;
/// Files that an image names are opened when they are regular files or block devices, wherever they are.
pub const HOL_BACKING_ANY: u32 = 2;
/// Files that an image names are not opened: it is an error that it names one.
pub const HOL_BACKING_DENY: u32 = 3;

/// The image is locked as QEMU locks it: opening fails while another process writes it. The default.
pub const HOL_SHARING_LOCKED: u32 = 0;
/// The image is opened without locks, for information about an image in use: what is read may be torn.
pub const HOL_SHARING_FORCE: u32 = 1;

/// The image is opened for reading. The default.
pub const HOL_ACCESS_READ: u32 = 0;
/// The image and its external data file are opened for reading and writing: data, size, bitmaps and internal snapshots can be
/// changed. A backup needs this when its bitmap changes (HOL_BITMAP_MODE_ON_SUCCESS, HOL_BITMAP_MODE_ALWAYS), and so do the
/// actions that change bitmaps or snapshots of the disk. As long as it is open the image is locked against all that heed
/// QEMU's locks, other handles of this process included. Images below it are only read, and others may read them. Data is
/// written only with HOL_LAYERS_CHAIN.
pub const HOL_ACCESS_WRITE: u32 = 1;

/// The image is opened with the files that it names. The default.
pub const HOL_LAYERS_CHAIN: u32 = 0;
/// The image alone is opened: for information, since data may be elsewhere.
pub const HOL_LAYERS_TOP_ONLY: u32 = 1;

/// Copy by bitmap when one is named, else everything. The default.
pub const HOL_SYNC_DEFAULT: u32 = 0;
/// Copy the whole disk.
pub const HOL_SYNC_FULL: u32 = 1;
/// Copy what the top image holds itself, without its backing files.
pub const HOL_SYNC_TOP: u32 = 2;
/// Copy what the bitmap says changed; bitmap_mode says what becomes of the bitmap.
pub const HOL_SYNC_BITMAP: u32 = 3;
/// Copy what the bitmap says changed, with HOL_BITMAP_MODE_ON_SUCCESS.
pub const HOL_SYNC_INCREMENTAL: u32 = 4;
/// Copy nothing: the target is an empty image over its backing file, which it needs.
pub const HOL_SYNC_NONE: u32 = 5;

/// The library's choice for the sync mode. The default.
pub const HOL_BITMAP_MODE_DEFAULT: u32 = 0;
/// The bitmap starts anew when the backup has succeeded.
pub const HOL_BITMAP_MODE_ON_SUCCESS: u32 = 1;
/// The bitmap stays as it is.
pub const HOL_BITMAP_MODE_NEVER: u32 = 2;
/// The bitmap loses what is in the target, also when the backup fails or is cancelled: then the target is kept with what
/// it has, and hol_report.partial_end tells how far it goes. Nothing is kept, and the bitmap stays as it is, when nothing
/// was copied yet, when the target itself fails, and when it would replace an existing one. Not for several backups with
/// HOL_COMPLETION_GROUPED.
pub const HOL_BITMAP_MODE_ALWAYS: u32 = 3;

/// Clusters are stored as they are. The default.
pub const HOL_COMPRESSION_NONE: u32 = 0;
/// Clusters are compressed with zlib (deflate).
pub const HOL_COMPRESSION_ZLIB: u32 = 1;
/// Clusters are compressed with zstd.
pub const HOL_COMPRESSION_ZSTD: u32 = 2;

/// An existing target is an error. The default.
pub const HOL_EXISTING_REFUSE: u32 = 0;
/// An existing target is replaced when the new one is complete.
pub const HOL_EXISTING_OVERWRITE: u32 = 1;

/// Zeros within data are found and stored as zero clusters. The default.
pub const HOL_ZERO_DETECTION_ON: u32 = 0;
/// Data is stored without being looked at.
pub const HOL_ZERO_DETECTION_OFF: u32 = 1;

/// An error of input or output makes the job fail. The default.
pub const HOL_ON_ERROR_REPORT: u32 = 0;
/// The same piece is tried again after a pause, from 10 ms up to 1 s, 10 times at most; then the job fails. Nothing is ever
/// left out.
pub const HOL_ON_ERROR_IGNORE: u32 = 1;
/// The job pauses when there is no space left; else it fails.
pub const HOL_ON_ERROR_ENOSPC: u32 = 2;
/// The job pauses; when it is resumed it tries the same piece again.
pub const HOL_ON_ERROR_STOP: u32 = 3;

/// The job takes its last step by itself. The default.
pub const HOL_LAST_STEP_AUTO: u32 = 0;
/// The job takes its last step when it is told to.
pub const HOL_LAST_STEP_MANUAL: u32 = 1;

/// An increment over another image than the backup that its bitmap counts from is refused. The default.
pub const HOL_LINEAGE_STRICT: u32 = 0;
/// It is not: the caller knows better.
pub const HOL_LINEAGE_IGNORE: u32 = 1;

/// The target shares blocks with the source's files where the file system can (XFS, btrfs), and gets a copy of the rest. The
/// default. Shared data is neither read nor written, and zeros in it stay data. A target with compression shares nothing.
pub const HOL_REFLINK_AUTO: u32 = 0;
/// Data that cannot be shared is an error (HOL_ERR_UNSUPPORTED), before anything is copied where that can be known. Less than a
/// block at the end of a file is copied. Not with compression.
pub const HOL_REFLINK_ALWAYS: u32 = 1;
/// All data is copied.
pub const HOL_REFLINK_NEVER: u32 = 2;

/// What the backup alone brings into the page cache is dropped again, of the files that it reads and of its target; what was there
/// before stays. The default. Of files that the process neither owns nor may write nothing is dropped.
pub const HOL_PAGE_CACHE_DROP: u32 = 0;
/// The page cache is left to the kernel.
pub const HOL_PAGE_CACHE_KEEP: u32 = 1;

/// All jobs of a transaction succeed, or none leaves anything behind. The default.
pub const HOL_COMPLETION_GROUPED: u32 = 0;
/// Each job succeeds or fails by itself.
pub const HOL_COMPLETION_INDIVIDUAL: u32 = 1;

/// How a disk is opened. Set struct_size to the sizeof of the structure (HOL_OPTIONS_INIT does); zero in every
/// other field is the default. Texts belong to the caller and are copied.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct hol_disk_options {
    /// sizeof(hol_disk_options)
    pub struct_size: usize,
    /// The folder of HOL_BACKING_UNDER; else NULL.
    pub backing_dir: *const c_char,
    /// Memory that the image's tables may take, in bytes; 0: 64 MiB.
    pub memory_limit: u64,
    /// HOL_FORMAT_*
    pub format: u32,
    /// HOL_BACKING_*
    pub backing_policy: u32,
    /// HOL_SHARING_*
    pub sharing: u32,
    /// HOL_LAYERS_*
    pub layers: u32,
    /// HOL_ACCESS_*
    pub access: u32,
    /// Most images in the chain, the top included; 0: 1000. Nothing is made that would stand on more.
    pub chain_limit: u32,
    /// Most threads that a large read uses; 0: two for each processor, 16 at most. A transaction has a limit of its own.
    pub thread_limit: u32,
    /// Must be 0.
    pub reserved: u32,
}

/// How a disk is backed up. Set struct_size to the sizeof of the structure (HOL_OPTIONS_INIT does); zero in every
/// other field is the default. Texts belong to the caller and are copied.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct hol_backup_options {
    /// sizeof(hol_backup_options)
    pub struct_size: usize,
    /// The persistent bitmap that says what changed; NULL: none.
    pub bitmap: *const c_char,
    /// The backing file to record in the target: what an increment is based on; NULL: none.
    pub backing: *const c_char,
    /// The target's cluster size in bytes; 0: the source's.
    pub cluster_size: u64,
    /// HOL_SYNC_*
    pub sync: u32,
    /// HOL_BITMAP_MODE_*
    pub bitmap_mode: u32,
    /// The target's format: HOL_FORMAT_*
    pub format: u32,
    /// The backing file's format: HOL_FORMAT_*
    pub backing_format: u32,
    /// HOL_COMPRESSION_*
    pub compression: u32,
    /// The level of compression; 0: the library's choice.
    pub compression_level: u32,
    /// HOL_EXISTING_*
    pub existing: u32,
    /// HOL_ZERO_DETECTION_*
    pub zero_detection: u32,
    /// Bytes of data a second that are read at most; 0: without a limit. Zeros, holes and shared data do not count.
    pub speed: u64,
    /// What to do when the source, or an image below it, cannot be read: HOL_ON_ERROR_*
    pub on_source_error: u32,
    /// What to do when the target cannot be written: HOL_ON_ERROR_*
    pub on_target_error: u32,
    /// When the target appears: HOL_LAST_STEP_AUTO, as soon as it can; HOL_LAST_STEP_MANUAL, after hol_job_finalize().
    /// With HOL_COMPLETION_GROUPED one job that waits makes all wait, and one that is told lets all go on.
    pub finalize: u32,
    /// HOL_LAST_STEP_MANUAL: the transaction is over only after hol_job_dismiss(); HOL_LAST_STEP_AUTO: when the job is.
    pub dismiss: u32,
    /// Whether an increment must stand on the backup that its bitmap counts from, where that is known: HOL_LINEAGE_*
    pub lineage: u32,
    /// Whether the target shares blocks with the source's files: HOL_REFLINK_*
    pub reflink: u32,
    /// What is done about the page cache: HOL_PAGE_CACHE_*
    pub page_cache: u32,
    /// Must be 0.
    pub reserved: u32,
}

// SAFETY: `repr(C)`, size first; integers and pointers, of which zero and NULL are values.
unsafe impl Grows for hol_disk_options {}
// SAFETY: `repr(C)`, size first; integers and pointers, of which zero and NULL are values.
unsafe impl Grows for hol_backup_options {}

/// A number that C gave for a constant, looked up: `field` names it in the error.
pub(super) fn choice<T: Copy>(field: &str, value: u32, choices: &[(u32, T)]) -> Result<T, Failure> {
    choices
        .iter()
        .find(|(constant, _)| *constant == value)
        .map(|(_, choice)| *choice)
        .ok_or_else(|| invalid(format!("{field} cannot be {value}")))
}

/// Refuses a field that a later version may give a meaning.
pub(super) fn unused(field: &str, value: u32) -> Result<(), Failure> {
    if value == 0 { Ok(()) } else { Err(invalid(format!("{field} must be 0"))) }
}

/// Refuses flags that are not of the mask, and names them.
pub(super) fn flags(field: &str, value: u32, known: u32) -> Result<(), Failure> {
    match value & !known {
        0 => Ok(()),
        unknown => {
            Err(invalid(format!("{field} has flags that are not known here: {unknown:#x}; leave them out")))
        }
    }
}

/// The format behind a constant.
pub(super) fn format(field: &str, value: u32) -> Result<Format, Failure> {
    choice(field, value, &[(HOL_FORMAT_QCOW2, Format::Qcow2), (HOL_FORMAT_RAW, Format::Raw)])
}

/// What becomes of an existing target, behind a constant.
pub(super) fn existing(field: &str, value: u32) -> Result<Existing, Failure> {
    let existings = [(HOL_EXISTING_REFUSE, Existing::Refuse), (HOL_EXISTING_OVERWRITE, Existing::Overwrite)];
    choice(field, value, &existings)
}

/// The error policy behind a constant.
fn policy(field: &str, value: u32) -> Result<ErrorPolicy, Failure> {
    let policies = [
        (HOL_ON_ERROR_REPORT, ErrorPolicy::Report),
        (HOL_ON_ERROR_IGNORE, ErrorPolicy::Ignore),
        (HOL_ON_ERROR_ENOSPC, ErrorPolicy::Enospc),
        (HOL_ON_ERROR_STOP, ErrorPolicy::Stop),
    ];
    choice(field, value, &policies)
}

/// Who takes a last step, behind a constant.
fn last_step(field: &str, value: u32) -> Result<LastStep, Failure> {
    choice(field, value, &[(HOL_LAST_STEP_AUTO, LastStep::Auto), (HOL_LAST_STEP_MANUAL, LastStep::Manual)])
}

/// The completion mode behind a constant.
pub(super) fn completion(mode: u32) -> Result<CompletionMode, Failure> {
    let modes = [
        (HOL_COMPLETION_GROUPED, CompletionMode::Grouped),
        (HOL_COMPLETION_INDIVIDUAL, CompletionMode::Individual),
    ];
    choice("mode", mode, &modes)
}

impl hol_disk_options {
    /// The options in Rust's words.
    ///
    /// # Safety
    /// The texts are NULL or strings that end with a NUL.
    pub(super) unsafe fn read(&self) -> Result<DiskOptions, Failure> {
        // SAFETY: as promised above.
        let backing_dir = unsafe { optional_text(self.backing_dir) };
        let backing_policy = match (self.backing_policy, backing_dir) {
            (HOL_BACKING_UNDER, Some(dir)) => BackingPolicy::Under(as_path(dir).to_owned()),
            (HOL_BACKING_UNDER, None) => return Err(Failure::Null("options->backing_dir")),
            (_, Some(_)) => {
                return Err(invalid("options->backing_dir is only for backing_policy HOL_BACKING_UNDER"));
            }
            (HOL_BACKING_BESIDE, None) => BackingPolicy::Beside,
            (HOL_BACKING_ANY, None) => BackingPolicy::Any,
            (HOL_BACKING_DENY, None) => BackingPolicy::Deny,
            (other, None) => return Err(invalid(format!("options->backing_policy cannot be {other}"))),
        };
        unused("options->reserved", self.reserved)?;
        let sharings = [(HOL_SHARING_LOCKED, Sharing::Locked), (HOL_SHARING_FORCE, Sharing::ForceShare)];
        let layers = [(HOL_LAYERS_CHAIN, Layers::Chain), (HOL_LAYERS_TOP_ONLY, Layers::TopOnly)];
        let accesses = [(HOL_ACCESS_READ, Access::Read), (HOL_ACCESS_WRITE, Access::Write)];
        let mut options = DiskOptions {
            format: format("options->format", self.format)?,
            backing_policy,
            access: choice("options->access", self.access, &accesses)?,
            sharing: choice("options->sharing", self.sharing, &sharings)?,
            layers: choice("options->layers", self.layers, &layers)?,
            thread_limit: self.thread_limit,
            ..DiskOptions::default()
        };
        if self.memory_limit != 0 {
            options.memory_limit = self.memory_limit;
        }
        if self.chain_limit != 0 {
            options.chain_limit = self.chain_limit;
        }
        Ok(options)
    }
}

impl hol_backup_options {
    /// The options in Rust's words.
    ///
    /// # Safety
    /// The texts are NULL or strings that end with a NUL.
    pub(super) unsafe fn read(&self) -> Result<BackupOptions, Failure> {
        // SAFETY: as promised above.
        let (bitmap, backing) = unsafe { (optional_text(self.bitmap), optional_text(self.backing)) };
        let syncs = [
            (HOL_SYNC_DEFAULT, None),
            (HOL_SYNC_FULL, Some(SyncMode::Full)),
            (HOL_SYNC_TOP, Some(SyncMode::Top)),
            (HOL_SYNC_BITMAP, Some(SyncMode::Bitmap)),
            (HOL_SYNC_INCREMENTAL, Some(SyncMode::Incremental)),
            (HOL_SYNC_NONE, Some(SyncMode::None)),
        ];
        let bitmap_modes = [
            (HOL_BITMAP_MODE_DEFAULT, None),
            (HOL_BITMAP_MODE_ON_SUCCESS, Some(BitmapMode::OnSuccess)),
            (HOL_BITMAP_MODE_NEVER, Some(BitmapMode::Never)),
            (HOL_BITMAP_MODE_ALWAYS, Some(BitmapMode::Always)),
        ];
        let lineages =
            [(HOL_LINEAGE_STRICT, LineageCheck::Strict), (HOL_LINEAGE_IGNORE, LineageCheck::Ignore)];
        unused("options->reserved", self.reserved)?;
        let caches = [(HOL_PAGE_CACHE_DROP, PageCache::Drop), (HOL_PAGE_CACHE_KEEP, PageCache::Keep)];
        let reflinks = [
            (HOL_REFLINK_AUTO, Reflink::Auto),
            (HOL_REFLINK_ALWAYS, Reflink::Always),
            (HOL_REFLINK_NEVER, Reflink::Never),
        ];
        let level = (self.compression_level != 0).then_some(self.compression_level);
        let compressions = [
            (HOL_COMPRESSION_NONE, Compression::None),
            (HOL_COMPRESSION_ZLIB, Compression::Zlib { level }),
            (HOL_COMPRESSION_ZSTD, Compression::Zstd { level }),
        ];
        let detections =
            [(HOL_ZERO_DETECTION_ON, ZeroDetection::On), (HOL_ZERO_DETECTION_OFF, ZeroDetection::Off)];

        let backing_format = format("options->backing_format", self.backing_format)?;
        if backing.is_none() && self.backing_format != 0 {
            return Err(invalid("options->backing_format is only for a target with options->backing"));
        }
        if level.is_some() && self.compression == HOL_COMPRESSION_NONE {
            return Err(invalid("options->compression_level is only for a target with options->compression"));
        }
        Ok(BackupOptions {
            sync: choice("options->sync", self.sync, &syncs)?,
            bitmap: bitmap.map(|name| name.to_bytes().to_vec()),
            bitmap_mode: choice("options->bitmap_mode", self.bitmap_mode, &bitmap_modes)?,
            format: format("options->format", self.format)?,
            backing: backing.map(|name| Backing { name: as_path(name).to_owned(), format: backing_format }),
            cluster_size: (self.cluster_size != 0).then_some(self.cluster_size),
            compression: choice("options->compression", self.compression, &compressions)?,
            existing: existing("options->existing", self.existing)?,
            zero_detection: choice("options->zero_detection", self.zero_detection, &detections)?,
            speed: self.speed,
            on_source_error: policy("options->on_source_error", self.on_source_error)?,
            on_target_error: policy("options->on_target_error", self.on_target_error)?,
            finalize: last_step("options->finalize", self.finalize)?,
            dismiss: last_step("options->dismiss", self.dismiss)?,
            lineage: choice("options->lineage", self.lineage, &lineages)?,
            reflink: choice("options->reflink", self.reflink, &reflinks)?,
            page_cache: choice("options->page_cache", self.page_cache, &caches)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::mem::MaybeUninit;

    fn zeroed<T: Grows>() -> T {
        // SAFETY: zero is a value of every structure that `Grows`.
        unsafe { MaybeUninit::zeroed().assume_init() }
    }

    #[test]
    fn zeroed_options_are_the_rust_defaults() {
        // SAFETY: the texts are NULL.
        let disk = unsafe { zeroed::<hol_disk_options>().read() }.ok().unwrap();
        assert_eq!(format!("{disk:?}"), format!("{:?}", DiskOptions::default()));
        // SAFETY: the texts are NULL.
        let backup = unsafe { zeroed::<hol_backup_options>().read() }.ok().unwrap();
        assert_eq!(format!("{backup:?}"), format!("{:?}", BackupOptions::default()));
        assert_eq!(completion(0).ok(), Some(CompletionMode::default()));
    }

    #[test]
    fn every_field_of_the_backup_options_arrives() {
        let options = hol_backup_options {
            struct_size: 0,
            bitmap: c"nightly".as_ptr(),
            backing: c"base.raw".as_ptr(),
            cluster_size: 4096,
            sync: HOL_SYNC_BITMAP,
            bitmap_mode: HOL_BITMAP_MODE_NEVER,
            format: HOL_FORMAT_QCOW2,
            backing_format: HOL_FORMAT_RAW,
            compression: HOL_COMPRESSION_ZSTD,
            compression_level: 3,
            existing: HOL_EXISTING_OVERWRITE,
            zero_detection: HOL_ZERO_DETECTION_OFF,
            speed: 1 << 40,
            on_source_error: HOL_ON_ERROR_STOP,
            on_target_error: HOL_ON_ERROR_ENOSPC,
            finalize: HOL_LAST_STEP_MANUAL,
            dismiss: HOL_LAST_STEP_MANUAL,
            lineage: HOL_LINEAGE_IGNORE,
            reflink: HOL_REFLINK_NEVER,
            page_cache: HOL_PAGE_CACHE_KEEP,
            reserved: 0,
        };
        // SAFETY: the texts are strings.
        let read = unsafe { options.read() }.ok().unwrap();
        let expected = BackupOptions {
            sync: Some(SyncMode::Bitmap),
            bitmap: Some(b"nightly".to_vec()),
            bitmap_mode: Some(BitmapMode::Never),
            format: Format::Qcow2,
            backing: Some(Backing { name: "base.raw".into(), format: Format::Raw }),
            cluster_size: Some(4096),
            compression: Compression::Zstd { level: Some(3) },
            existing: Existing::Overwrite,
            zero_detection: ZeroDetection::Off,
            speed: 1 << 40,
            on_source_error: ErrorPolicy::Stop,
            on_target_error: ErrorPolicy::Enospc,
            finalize: LastStep::Manual,
            dismiss: LastStep::Manual,
            lineage: LineageCheck::Ignore,
            reflink: Reflink::Never,
            page_cache: PageCache::Keep,
        };
        assert_eq!(format!("{read:?}"), format!("{expected:?}"));
    }
}
