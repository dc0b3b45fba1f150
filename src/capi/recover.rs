//! What is done about transactions that a crash interrupted: `hol_recover`.

use std::ffi::{CString, c_char, c_int, c_void};

use super::boundary::{Failure, as_path, boundary, c_text, handle, text};
use super::error::HOL_OK;
use super::extent::HOL_STOPPED;
use super::structure::{Fill, Grows, fill};
use super::txn::hol_txn;
use crate::{Recovery, RecoveryKind, recover};

/// A temporary file of a transaction that was never decided was removed.
pub const HOL_RECOVERED_TEMPORARY_REMOVED: u32 = 1;
/// A target got its name.
pub const HOL_RECOVERED_TARGET_PUBLISHED: u32 = 2;
/// A target had its name already.
pub const HOL_RECOVERED_TARGET_WAS_PUBLISHED: u32 = 3;
/// A target is not there any more, or its name is taken: the bitmaps of its transaction stay dirty.
pub const HOL_RECOVERED_TARGET_MISSING: u32 = 4;
/// The bitmaps of an image are as the transaction makes them.
pub const HOL_RECOVERED_BITMAPS_CHANGED: u32 = 5;
/// They were so already.
pub const HOL_RECOVERED_BITMAPS_WERE_CHANGED: u32 = 6;
/// The bitmaps stay as they are, dirtier than they could be.
pub const HOL_RECOVERED_BITMAPS_LEFT: u32 = 7;
/// What somebody wrote meanwhile, or may have, is not in an image's bitmaps, or the backup that they are about is gone: they
/// are inconsistent now, and the next backup is a full one.
pub const HOL_RECOVERED_BITMAPS_GIVEN_UP: u32 = 8;
/// Something cannot be finished now; the journal stays for the next recovery.
pub const HOL_RECOVERED_UNFINISHED: u32 = 9;
/// The transaction is at work: nothing was touched.
pub const HOL_RECOVERED_AT_WORK: u32 = 10;

/// One thing that recovery found or did. Texts are valid during the callback.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct hol_recovered {
    /// sizeof(hol_recovered)
    pub struct_size: usize,
    /// The file it is about.
    pub path: *const c_char,
    /// The reason, where there is more to say than the kind does; else NULL.
    pub reason: *const c_char,
    /// HOL_RECOVERED_*. Later versions may add kinds.
    pub kind: u32,
    /// 0
    pub reserved: u32,
}

/// What a recovery has found and done, in numbers. Set struct_size to the sizeof of the structure (HOL_OPTIONS_INIT
/// does); the library fills the rest.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct hol_recover_report {
    /// sizeof(hol_recover_report)
    pub struct_size: usize,
    /// Targets that have their names now, or had them already.
    pub targets: u64,
    /// Temporary files that were removed.
    pub removed: u64,
    /// Images whose bitmaps are as their transaction makes them.
    pub bitmaps: u64,
    /// Images whose bitmaps stay dirtier than they could be, or were given up for a full copy.
    pub left: u64,
    /// Things that cannot be finished now: call again later.
    pub unfinished: u64,
    /// Transactions that are at work.
    pub at_work: u64,
}

// SAFETY: `repr(C)`, size first; integers, of which zero is a value.
unsafe impl Grows for hol_recover_report {}

/// Receives what a recovery has found and done, in the calling thread and with no lock held: it may call the library.
/// `recovered` is valid during the callback only. Return 0 to go on, anything else to stop hearing of it; all is done by
/// then. No exception may leave it.
pub type hol_recovered_cb =
    Option<unsafe extern "C" fn(recovered: *const hol_recovered, opaque: *mut c_void) -> c_int>;

/// Finishes or takes back every transaction that died, by a crash of the process or of the machine, and has its journal in
/// the folder `journal_dir`: where it was decided its targets get their names and its bitmaps change, where it was not
/// its temporary files go. Transactions at work are left alone. Doing it again changes nothing. hol_txn_start() does the
/// same for the transaction's own journal folder.
///
/// `report` and `callback` may be NULL.
///
/// Returns HOL_OK, also when something is unfinished, or HOL_STOPPED when the callback asked to stop.
/// Errors: HOL_ERR_NOT_FOUND, HOL_ERR_IO (the folder), HOL_ERR_INVALID_ARGUMENT (struct_size), HOL_ERR_NULL,
/// HOL_ERR_PANIC.
///
/// Threads: any. Blocks: yes, for input and output. From callbacks: yes. Since: 0.1.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hol_recover(
    journal_dir: *const c_char,
    report: *mut hol_recover_report,
    callback: hol_recovered_cb,
    opaque: *mut c_void,
) -> c_int {
    boundary(|| {
        // SAFETY: the arguments are as the header asks.
        let folder = unsafe { text(journal_dir, "journal_dir") }?;
        // SAFETY: the argument is as the header asks.
        let report = unsafe { optional_report(report) }?;
        let recovery = recover(as_path(folder))?;
        // SAFETY: the callback and its argument are as the header asks.
        unsafe { tell(&recovery, report, callback, opaque) }
    })
}

/// Gives what a recovery found: the numbers, then each item.
///
/// # Safety
/// `callback` may be called with `opaque`.
unsafe fn tell(
    recovery: &Recovery,
    report: Option<Fill<hol_recover_report>>,
    callback: hol_recovered_cb,
    opaque: *mut c_void,
) -> Result<c_int, Failure> {
    let count = |kinds: &[RecoveryKind]| {
        recovery.items.iter().filter(|item| kinds.contains(&item.kind)).count() as u64
    };
    if let Some(report) = report {
        report.set(&hol_recover_report {
            struct_size: 0,
            targets: count(&[RecoveryKind::TargetPublished, RecoveryKind::TargetWasPublished]),
            removed: count(&[RecoveryKind::TemporaryRemoved]),
            bitmaps: count(&[RecoveryKind::BitmapsChanged, RecoveryKind::BitmapsWereChanged]),
            left: count(&[RecoveryKind::BitmapsLeft, RecoveryKind::BitmapsGivenUp]),
            unfinished: count(&[RecoveryKind::Unfinished]),
            at_work: count(&[RecoveryKind::AtWork]),
        });
    }
    let Some(callback) = callback else { return Ok(HOL_OK) };
    for item in &recovery.items {
        let path = c_text(item.path.as_os_str().as_encoded_bytes());
        let reason: Option<CString> = (!item.reason.is_empty()).then(|| c_text(item.reason.as_bytes()));
        let recovered = hol_recovered {
            struct_size: size_of::<hol_recovered>(),
            path: path.as_ptr(),
            reason: reason.as_ref().map_or(std::ptr::null(), |text| text.as_ptr()),
            kind: kind_of(item.kind),
            reserved: 0,
        };
        // SAFETY: as promised above; what the callback gets outlives the call.
        if unsafe { callback(&raw const recovered, opaque) } != 0 {
            return Ok(HOL_STOPPED);
        }
    }
    Ok(HOL_OK)
}

/// Tells what a recovery found that is the reason why hol_txn_start() or hol_txn_commit() failed with HOL_ERR_WRONG_STATE: a
/// transaction that a crash had interrupted was ended in the journal folder, and changed bitmaps that this one goes by, or
/// made a target that it would replace. After any other failure, and without one, there is nothing to tell.
///
/// `report` and `callback` may be NULL; they are those of hol_recover().
///
/// Returns HOL_OK, or HOL_STOPPED when the callback asked to stop.
/// Errors: HOL_ERR_INVALID_ARGUMENT (struct_size), HOL_ERR_NULL, HOL_ERR_PANIC.
///
/// Threads: any. Blocks: no. From callbacks: yes. Since: 0.1.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hol_txn_recovery(
    txn: *const hol_txn,
    report: *mut hol_recover_report,
    callback: hol_recovered_cb,
    opaque: *mut c_void,
) -> c_int {
    boundary(|| {
        // SAFETY: the argument is as the header asks.
        let txn = unsafe { handle(txn, "txn") }?;
        // SAFETY: the argument is as the header asks.
        let report = unsafe { optional_report(report) }?;
        let nothing = Recovery::default();
        // SAFETY: the callback and its argument are as the header asks.
        unsafe { tell(txn.recovered.get().unwrap_or(&nothing), report, callback, opaque) }
    })
}

/// The report that C wants filled, if it does.
///
/// # Safety
/// As for [`fill`].
unsafe fn optional_report(
    report: *mut hol_recover_report,
) -> Result<Option<Fill<hol_recover_report>>, Failure> {
    // SAFETY: as promised above.
    (!report.is_null()).then(|| unsafe { fill(report, "report") }).transpose()
}

fn kind_of(kind: RecoveryKind) -> u32 {
    match kind {
        RecoveryKind::TemporaryRemoved => HOL_RECOVERED_TEMPORARY_REMOVED,
        RecoveryKind::TargetPublished => HOL_RECOVERED_TARGET_PUBLISHED,
        RecoveryKind::TargetWasPublished => HOL_RECOVERED_TARGET_WAS_PUBLISHED,
        RecoveryKind::TargetMissing => HOL_RECOVERED_TARGET_MISSING,
        RecoveryKind::BitmapsChanged => HOL_RECOVERED_BITMAPS_CHANGED,
        RecoveryKind::BitmapsWereChanged => HOL_RECOVERED_BITMAPS_WERE_CHANGED,
        RecoveryKind::BitmapsLeft => HOL_RECOVERED_BITMAPS_LEFT,
        RecoveryKind::BitmapsGivenUp => HOL_RECOVERED_BITMAPS_GIVEN_UP,
        RecoveryKind::Unfinished => HOL_RECOVERED_UNFINISHED,
        RecoveryKind::AtWork => HOL_RECOVERED_AT_WORK,
    }
}
