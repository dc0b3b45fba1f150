//! New images: `hol_create_options`, and the call that makes one.

use std::ffi::{c_char, c_int};
use std::ptr;

use super::boundary::{Failure, as_path, boundary, give, invalid, optional_text, out, text};
use super::disk::{HOL_DISK_DATA_FILE_RAW, HOL_DISK_EXTENDED_L2, HOL_DISK_LAZY_REFCOUNTS, hol_disk};
use super::error::HOL_OK;
use super::options::{
    HOL_COMPRESSION_NONE, HOL_COMPRESSION_ZLIB, HOL_COMPRESSION_ZSTD, choice, existing, flags, format,
    hol_disk_options, unused,
};
use super::structure::{Grows, options};
use crate::{Backing, Compat, CompressionType, CreateOptions, Disk, Preallocation};

/// Version 3 of the qcow2 format. The default.
pub const HOL_COMPAT_1_1: u32 = 0;
/// Version 2 of the qcow2 format, for programs that know nothing newer: no zero clusters, no bitmaps.
pub const HOL_COMPAT_0_10: u32 = 1;

/// Nothing is done for the guest's clusters in advance. The default.
pub const HOL_PREALLOCATION_OFF: u32 = 0;
/// Each of the guest's clusters gets its place and its entry in the tables; no data is written.
pub const HOL_PREALLOCATION_METADATA: u32 = 1;

/// All flags that hol_create_options.flags may have; hol_constant() tells which the library knows.
pub const HOL_CREATE_FLAGS_MASK: u32 = 25;

const _: () =
    assert!(HOL_CREATE_FLAGS_MASK == HOL_DISK_EXTENDED_L2 | HOL_DISK_LAZY_REFCOUNTS | HOL_DISK_DATA_FILE_RAW);

/// What a new image shall be. Set struct_size to the sizeof of the structure (HOL_OPTIONS_INIT does); zero in every
/// other field is the default. Texts and structures belong to the caller and are copied.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct hol_create_options {
    /// sizeof(hol_create_options)
    pub struct_size: usize,
    /// The image below, as the new one records it: a relative name starts from the new image's folder. It must
    /// exist, and the policy in `open` must allow to open it. NULL: none.
    pub backing: *const c_char,
    /// The name of a file of its own for the guest's data. A relative one starts from the image's folder; QEMU
    /// starts from its working directory, so an absolute one serves both. The file is made, and must not exist
    /// yet; with HOL_DISK_DATA_FILE_RAW it may: then it is the disk as it is, and is not changed. NULL: none.
    pub data_file: *const c_char,
    /// How the new disk is opened; NULL: all defaults.
    pub open: *const hol_disk_options,
    /// Bytes of a cluster, a power of two from 512 to 2 MiB; 0: 64 KiB.
    pub cluster_size: u64,
    /// HOL_COMPAT_*
    pub compat: u32,
    /// Width of a refcount: 1, 2, 4, 8, 16, 32 or 64 bits; 0: 16.
    pub refcount_bits: u32,
    /// How clusters are compressed that will be: HOL_COMPRESSION_ZLIB or HOL_COMPRESSION_ZSTD; 0: zlib.
    pub compression_type: u32,
    /// The backing file's format: HOL_FORMAT_*
    pub backing_format: u32,
    /// HOL_DISK_EXTENDED_L2, HOL_DISK_LAZY_REFCOUNTS, HOL_DISK_DATA_FILE_RAW, combined
    pub flags: u32,
    /// HOL_PREALLOCATION_*
    pub preallocation: u32,
    /// What becomes of an image that exists: HOL_EXISTING_*. A data file is never replaced.
    pub existing: u32,
    /// 0
    pub reserved: u32,
}

// SAFETY: `repr(C)`, size first; integers and pointers, of which zero and NULL are values.
unsafe impl Grows for hol_create_options {}

impl hol_create_options {
    /// The options in Rust's words.
    ///
    /// # Safety
    /// The texts are NULL or strings that end with a NUL; `open` is as for [`options`], and so are its texts.
    unsafe fn read(&self) -> Result<CreateOptions, Failure> {
        // SAFETY: as promised above.
        let (backing, data_file) = unsafe { (optional_text(self.backing), optional_text(self.data_file)) };
        // SAFETY: as promised above.
        let open = unsafe { options(self.open, "options->open")?.read()? };
        let compats = [(HOL_COMPAT_1_1, Compat::V3), (HOL_COMPAT_0_10, Compat::V2)];
        let compressions = [
            (HOL_COMPRESSION_NONE, CompressionType::Zlib),
            (HOL_COMPRESSION_ZLIB, CompressionType::Zlib),
            (HOL_COMPRESSION_ZSTD, CompressionType::Zstd),
        ];
        let preallocations = [
            (HOL_PREALLOCATION_OFF, Preallocation::Off),
            (HOL_PREALLOCATION_METADATA, Preallocation::Metadata),
        ];
        flags("options->flags", self.flags, HOL_CREATE_FLAGS_MASK)?;
        let flag = |flag| self.flags & flag != 0;
        unused("options->reserved", self.reserved)?;
        let backing_format = format("options->backing_format", self.backing_format)?;
        if backing.is_none() && self.backing_format != 0 {
            return Err(invalid("options->backing_format is only for an image with options->backing"));
        }
        Ok(CreateOptions {
            compat: choice("options->compat", self.compat, &compats)?,
            cluster_size: (self.cluster_size != 0).then_some(self.cluster_size),
            refcount_bits: (self.refcount_bits != 0).then_some(self.refcount_bits),
            extended_l2: flag(HOL_DISK_EXTENDED_L2),
            compression_type: choice("options->compression_type", self.compression_type, &compressions)?,
            backing: backing.map(|name| Backing { name: as_path(name).to_owned(), format: backing_format }),
            data_file: data_file.map(|name| as_path(name).to_owned()),
            data_file_raw: flag(HOL_DISK_DATA_FILE_RAW),
            lazy_refcounts: flag(HOL_DISK_LAZY_REFCOUNTS),
            preallocation: choice("options->preallocation", self.preallocation, &preallocations)?,
            existing: existing("options->existing", self.existing)?,
            open,
        })
    }
}

/// Makes a new qcow2 image at `path`, a disk of `size` bytes (a multiple of 512) that reads as zeros, or as its backing
/// file does; and opens it as options->open says. Size 0: that of the backing file, or of a raw data file that exists.
///
/// The image appears under its name complete and durable, or not at all. `options` may be NULL: all defaults. On success
/// `*disk` belongs to the caller: hol_disk_close(). On failure it is NULL, and nothing was created, unless the message
/// says that the image was created and cannot be opened.
///
/// Errors: HOL_ERR_INVALID_ARGUMENT (options that contradict each other or exceed what the format can hold, the size),
/// HOL_ERR_EXISTS, HOL_ERR_NOT_FOUND, HOL_ERR_POLICY_DENIED (a backing file or data file outside the policy),
/// HOL_ERR_LOCKED, HOL_ERR_NO_SPACE, HOL_ERR_IO; those of hol_disk_open() for a backing file; HOL_ERR_NULL, HOL_ERR_PANIC.
///
/// Threads: any. Blocks: yes, for input and output. From callbacks: yes. Since: 0.1.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hol_disk_create(
    path: *const c_char,
    size: u64,
    options: *const hol_create_options,
    disk: *mut *mut hol_disk,
) -> c_int {
    boundary(|| {
        // SAFETY: the arguments are as the header asks.
        let disk = unsafe { out(disk, "disk") }?;
        disk.set(ptr::null_mut());
        // SAFETY: the arguments are as the header asks.
        let (path, options) = unsafe { (text(path, "path")?, self::options(options, "options")?.read()?) };
        let size = (size != 0).then_some(size);
        disk.set(give(hol_disk::new(Disk::create(as_path(path), size, &options)?)));
        Ok(HOL_OK)
    })
}

#[cfg(test)]
mod tests {
    use super::super::options::{HOL_ACCESS_WRITE, HOL_EXISTING_OVERWRITE, HOL_FORMAT_RAW};
    use super::*;
    use crate::{Access, DiskOptions, Existing, Format};
    use std::mem::MaybeUninit;

    fn zeroed<T: Grows>() -> T {
        // SAFETY: zero is a value of every structure that `Grows`.
        unsafe { MaybeUninit::zeroed().assume_init() }
    }

    #[test]
    fn zeroed_options_are_the_rust_defaults() {
        // SAFETY: the texts are NULL.
        let read = unsafe { zeroed::<hol_create_options>().read() }.ok().unwrap();
        assert_eq!(read, CreateOptions::default());
    }

    #[test]
    fn every_field_arrives() {
        let open = hol_disk_options {
            struct_size: size_of::<hol_disk_options>(),
            access: HOL_ACCESS_WRITE,
            ..zeroed()
        };
        let options = hol_create_options {
            struct_size: 0,
            backing: c"base.raw".as_ptr(),
            data_file: c"disk.raw".as_ptr(),
            open: &raw const open,
            cluster_size: 4096,
            compat: HOL_COMPAT_0_10,
            refcount_bits: 1,
            compression_type: HOL_COMPRESSION_ZSTD,
            backing_format: HOL_FORMAT_RAW,
            flags: HOL_DISK_EXTENDED_L2 | HOL_DISK_LAZY_REFCOUNTS | HOL_DISK_DATA_FILE_RAW,
            preallocation: HOL_PREALLOCATION_METADATA,
            existing: HOL_EXISTING_OVERWRITE,
            reserved: 0,
        };
        // SAFETY: the texts are strings, and `open` is a structure.
        let read = unsafe { options.read() }.ok().unwrap();
        let expected = CreateOptions {
            compat: Compat::V2,
            cluster_size: Some(4096),
            refcount_bits: Some(1),
            extended_l2: true,
            compression_type: CompressionType::Zstd,
            backing: Some(Backing { name: "base.raw".into(), format: Format::Raw }),
            data_file: Some("disk.raw".into()),
            data_file_raw: true,
            lazy_refcounts: true,
            preallocation: Preallocation::Metadata,
            existing: Existing::Overwrite,
            open: DiskOptions { access: Access::Write, ..DiskOptions::default() },
        };
        assert_eq!(read, expected);
    }
}
