//! The images of a chain, and what each stands on: `hol_disk_layer`, and a check of all of them: `hol_chain`.

use std::ffi::{c_char, c_int};
use std::ptr;

use super::boundary::{Handle, Poison, as_path, boundary, give, handle, invalid, out, take, text};
use super::cached::Texts;
use super::disk::hol_disk;
use super::error::HOL_OK;
use super::options::{HOL_FORMAT_QCOW2, HOL_FORMAT_RAW, hol_disk_options};
use super::structure::{Fill, Grows, fill, options};
use crate::{CheckReport, CheckVerdict, CheckedChain, Disk, Format, Identity, LayerInfo, Link};

/// Nothing lies below, and nothing has to.
pub const HOL_LINK_BOTTOM: u32 = 1;
/// The image below is the backup that this one was made over.
pub const HOL_LINK_PROVEN: u32 = 2;
/// This image, or the one below, says nothing about that.
pub const HOL_LINK_UNKNOWN: u32 = 3;
/// The image below is another backup, or nothing lies below an increment.
pub const HOL_LINK_BROKEN: u32 = 4;

/// The image was not checked: nobody asked for it, or it is raw and has nothing to check.
pub const HOL_VERDICT_NONE: u32 = 0;
/// Nothing is wrong.
pub const HOL_VERDICT_CONSISTENT: u32 = 1;
/// Space is wasted, and nothing else is wrong.
pub const HOL_VERDICT_LEAKS: u32 = 2;
/// Data is damaged, or will be when the image is written; of a chain also: a link is broken.
pub const HOL_VERDICT_CORRUPT: u32 = 3;
/// A part could not be checked.
pub const HOL_VERDICT_INCOMPLETE: u32 = 4;

/// One image of a chain. Set struct_size to the sizeof of the structure (HOL_OPTIONS_INIT does); the library fills the
/// rest. Texts belong to the handle that was asked and stay until it is freed.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct hol_layer {
    /// sizeof(hol_layer)
    pub struct_size: usize,
    /// Where the image was opened.
    pub path: *const c_char,
    /// The identity of the image, in the form of a UUID; NULL: it has none.
    pub identity: *const c_char,
    /// The identity of the backup that it was made over, by its own header; NULL: not known.
    pub parent: *const c_char,
    /// Size of its disk in bytes.
    pub virtual_size: u64,
    /// HOL_FORMAT_*
    pub format: u32,
    /// How it stands on the image below: HOL_LINK_*
    pub link: u32,
    /// What a check of the image alone found: HOL_VERDICT_*
    pub verdict: u32,
    /// 0
    pub reserved: u32,
}

// SAFETY: `repr(C)`, size first; integers and pointers, of which zero and NULL are values.
unsafe impl Grows for hol_layer {}

/// The text of an identity, kept by a handle; NULL for none.
pub(super) fn identity_text(identity: Option<Identity>, texts: &Texts) -> *const c_char {
    identity.map_or(ptr::null(), |identity| texts.keep(identity.to_string()))
}

/// The constant of a verdict.
pub(super) fn verdict_of(verdict: CheckVerdict) -> u32 {
    match verdict {
        CheckVerdict::Consistent => HOL_VERDICT_CONSISTENT,
        CheckVerdict::Leaks => HOL_VERDICT_LEAKS,
        CheckVerdict::Corrupt => HOL_VERDICT_CORRUPT,
        CheckVerdict::Incomplete => HOL_VERDICT_INCOMPLETE,
    }
}

impl hol_layer {
    fn of(layer: &LayerInfo, report: Option<&CheckReport>, texts: &Texts) -> Self {
        hol_layer {
            struct_size: 0,
            path: texts.keep(layer.path.as_os_str().as_encoded_bytes()),
            identity: identity_text(layer.identity, texts),
            parent: identity_text(layer.parent, texts),
            virtual_size: layer.size,
            format: match layer.format {
                Format::Qcow2 => HOL_FORMAT_QCOW2,
                Format::Raw => HOL_FORMAT_RAW,
            },
            link: match layer.link {
                Link::Bottom => HOL_LINK_BOTTOM,
                Link::Proven => HOL_LINK_PROVEN,
                Link::Unknown => HOL_LINK_UNKNOWN,
                Link::Broken => HOL_LINK_BROKEN,
            },
            verdict: report.map_or(HOL_VERDICT_NONE, |report| verdict_of(report.verdict())),
            reserved: 0,
        }
    }
}

/// Fills `*layer` with what is known of the image at `index` of the disk's chain: 0 is the disk's own,
/// hol_disk_details.layers is their number. Nothing is checked but the link. The texts belong to the disk.
///
/// Errors: HOL_ERR_INVALID_ARGUMENT (index, struct_size), HOL_ERR_NULL, HOL_ERR_PANIC.
///
/// Threads: any. Blocks: while another thread changes the disk. From callbacks: yes. Since: 0.1.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hol_disk_layer(disk: *const hol_disk, index: usize, layer: *mut hol_layer) -> c_int {
    boundary(|| {
        // SAFETY: the arguments are as the header asks.
        let (disk, layer): (_, Fill<_>) = unsafe { (handle(disk, "disk")?, fill(layer, "layer")?) };
        let chain = disk.disk.chain();
        let found = chain
            .get(index)
            .ok_or_else(|| invalid(format!("there is no image {index}: there are {}", chain.len())))?;
        layer.set(&hol_layer::of(found, None, &disk.texts));
        Ok(HOL_OK)
    })
}

/// What a check of a chain found. Several threads may use it at the same time; only hol_chain_free() must come alone.
pub struct hol_chain {
    pub(super) chain: CheckedChain,
    texts: Texts,
    poison: Poison,
}

impl Handle for hol_chain {
    fn poison(&self) -> &Poison {
        &self.poison
    }
}

/// Checks every image of the chain whose top is at `path`, and that each stands on the backup that it was made over.
/// Nothing is changed. `options` may be NULL; they say how the images below are found (layers and access do not count), and
/// how much memory the check of one image may take: one or two bytes for each cluster of the file.
///
/// On success `*chain` belongs to the caller: hol_chain_free(). On failure it is NULL. A damaged image is no failure, unless
/// its chain cannot be opened.
///
/// Errors: those of hol_disk_open(), HOL_ERR_LIMIT (too many clusters for the memory limit).
///
/// Threads: any. Blocks: yes, for input. From callbacks: yes. Since: 0.1.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hol_disk_check_chain(
    path: *const c_char,
    options: *const hol_disk_options,
    chain: *mut *mut hol_chain,
) -> c_int {
    boundary(|| {
        // SAFETY: the argument is as the header asks.
        let chain = unsafe { out(chain, "chain") }?;
        chain.set(ptr::null_mut());
        // SAFETY: the arguments are as the header asks.
        let (path, options) = unsafe { (text(path, "path")?, self::options(options, "options")?.read()?) };
        let checked = Disk::check_chain(as_path(path), &options)?;
        chain.set(give(hol_chain { chain: checked, texts: Texts::default(), poison: Poison::default() }));
        Ok(HOL_OK)
    })
}

/// Writes the number of images to `*number`, and the verdict on the whole chain, HOL_VERDICT_*, to `*verdict`: the worst of
/// its images, and HOL_VERDICT_CORRUPT where a link is broken. Each of the two may be NULL.
///
/// Errors: HOL_ERR_NULL (chain), HOL_ERR_PANIC.
///
/// Threads: any. Blocks: no. From callbacks: yes. Since: 0.1.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hol_chain_summary(
    chain: *const hol_chain,
    number: *mut usize,
    verdict: *mut u32,
) -> c_int {
    boundary(|| {
        // SAFETY: the argument is as the header asks.
        let chain = unsafe { handle(chain, "chain") }?;
        // SAFETY: the arguments are as the header asks.
        if let Ok(number) = unsafe { out(number, "number") } {
            number.set(chain.chain.images.len());
        }
        // SAFETY: the arguments are as the header asks.
        if let Ok(verdict) = unsafe { out(verdict, "verdict") } {
            verdict.set(verdict_of(chain.chain.verdict()));
        }
        Ok(HOL_OK)
    })
}

/// Fills `*layer` with what is known of the image at `index`, the top first, and what its check found. The texts belong to
/// the chain.
///
/// Errors: HOL_ERR_INVALID_ARGUMENT (index, struct_size), HOL_ERR_NULL, HOL_ERR_PANIC.
///
/// Threads: any. Blocks: no. From callbacks: yes. Since: 0.1.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hol_chain_layer(
    chain: *const hol_chain,
    index: usize,
    layer: *mut hol_layer,
) -> c_int {
    boundary(|| {
        // SAFETY: the arguments are as the header asks.
        let (chain, layer): (_, Fill<_>) = unsafe { (handle(chain, "chain")?, fill(layer, "layer")?) };
        let images = &chain.chain.images;
        let found = images
            .get(index)
            .ok_or_else(|| invalid(format!("there is no image {index}: there are {}", images.len())))?;
        layer.set(&hol_layer::of(&found.layer, found.report.as_ref(), &chain.texts));
        Ok(HOL_OK)
    })
}

/// Frees a chain. NULL is allowed and does nothing. Texts that were borrowed from it end here.
///
/// Threads: any, but no other call may use the chain. Blocks: no. From callbacks: yes. Since: 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hol_chain_free(chain: *mut hol_chain) {
    boundary(|| {
        // SAFETY: the argument is as the header asks.
        drop(unsafe { take(chain, "chain") }?);
        Ok(())
    });
}
