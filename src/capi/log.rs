//! What happens in a transaction, as lines for people: `hol_txn_set_log`.

use std::ffi::{CStr, c_char, c_int, c_void};

use super::boundary::{Failure, boundary, c_text, handle};
use super::error::HOL_OK;
use super::txn::hol_txn;
use crate::LogLevel;

/// A line about something that failed.
pub const HOL_LOG_ERROR: u32 = 1;
/// A line about something that is not as it should be, or was asked to end early.
pub const HOL_LOG_WARNING: u32 = 2;
/// A line about anything else.
pub const HOL_LOG_INFO: u32 = 3;

/// Receives a line of a transaction's log: HOL_LOG_*, the index of the job that it is about (-1: the transaction), and a
/// text that is valid during the callback.
///
/// It is called by the transaction's own threads, never by two at once, in the order in which things happen, with no lock
/// held. It may call the library, hol_txn_cancel() and the functions of jobs among it; but it must not wait for its own
/// transaction (hol_txn_wait(), hol_txn_commit()), nor free it. While it works other threads go on, and their lines wait.
/// No exception may leave it. The last call is over when hol_txn_free() returns.
pub type hol_log_cb =
    Option<unsafe extern "C" fn(level: u32, job: i64, message: *const c_char, opaque: *mut c_void)>;

/// What C gave to be called.
struct Target {
    callback: unsafe extern "C" fn(level: u32, job: i64, message: *const c_char, opaque: *mut c_void),
    opaque: *mut c_void,
}

// SAFETY: the header says that the callback comes from other threads; what `opaque` points to is the caller's.
unsafe impl Send for Target {}
// SAFETY: it is never called by two threads at once.
unsafe impl Sync for Target {}

impl Target {
    fn tell(&self, level: LogLevel, job: Option<usize>, text: &CStr) {
        let level = match level {
            LogLevel::Error => HOL_LOG_ERROR,
            LogLevel::Warning => HOL_LOG_WARNING,
            LogLevel::Info => HOL_LOG_INFO,
        };
        let job = job.and_then(|job| i64::try_from(job).ok()).unwrap_or(-1);
        // SAFETY: the callback is as the header asks; the text lives as long as the call.
        unsafe { (self.callback)(level, job, text.as_ptr(), self.opaque) }
    }
}

/// Ends what was handed over with a callback: frees `opaque`, lets a reference go. It must not call the library, and no exception
/// may leave it.
pub type hol_destroy_cb = Option<unsafe extern "C" fn(opaque: *mut c_void)>;

/// What a callback was given, to be ended when nobody calls it any more.
pub(super) struct Owned {
    destroy: unsafe extern "C" fn(opaque: *mut c_void),
    opaque: *mut c_void,
}

// SAFETY: the header says that it is ended by whichever call comes last; what `opaque` points to is the caller's.
unsafe impl Send for Owned {}
// SAFETY: only dropping it does anything, and that comes alone.
unsafe impl Sync for Owned {}

impl Drop for Owned {
    fn drop(&mut self) {
        // SAFETY: the callback is as the header asks, and is called once.
        unsafe { (self.destroy)(self.opaque) }
    }
}

/// Sets what receives the log, and what owns its `opaque` from now on. After a failure that is ended.
fn set_log(
    txn: &hol_txn,
    callback: hol_log_cb,
    opaque: *mut c_void,
    owned: Option<Owned>,
) -> Result<c_int, Failure> {
    let target = callback.map(|callback| Target { callback, opaque });
    let owned = owned.filter(|_| target.is_some());
    txn.plan(|planned| match target {
        Some(target) => {
            planned.set_log(move |level, job, text| target.tell(level, job, &c_text(text.as_bytes())));
        }
        None => planned.unset_log(),
    })?;
    // The one before is ended outside of the lock.
    let before = std::mem::replace(&mut *txn.log_owner(), owned);
    drop(before);
    Ok(HOL_OK)
}

/// Lets `callback` receive the transaction's log from its start on; NULL: nobody does, as by default. `opaque` is handed
/// to it, and must be valid until hol_txn_free() returns; hol_txn_set_log_owned() can end it.
///
/// Errors: HOL_ERR_WRONG_STATE (started already), HOL_ERR_NULL, HOL_ERR_PANIC.
///
/// Threads: any. Blocks: no. From callbacks: yes. Since: 0.1.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hol_txn_set_log(
    txn: *mut hol_txn,
    callback: hol_log_cb,
    opaque: *mut c_void,
) -> c_int {
    boundary(|| {
        // SAFETY: the argument is as the header asks.
        let txn = unsafe { handle(txn, "txn") }?;
        set_log(&txn, callback, opaque, None)
    })
}

/// As hol_txn_set_log(), and hands `opaque` over: `destroy(opaque)` is called once, when `callback` is not called any more and its
/// last call is over. That is in hol_txn_free(), in the next call that sets the log, or in this call when it fails or `callback`
/// is NULL; and in the thread of that call. `destroy` may be NULL: then this is hol_txn_set_log().
///
/// Errors: as hol_txn_set_log(); `opaque` is ended then, too.
///
/// Threads: any. Blocks: no. From callbacks: yes. Since: 0.1.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hol_txn_set_log_owned(
    txn: *mut hol_txn,
    callback: hol_log_cb,
    opaque: *mut c_void,
    destroy: hol_destroy_cb,
) -> c_int {
    boundary(|| {
        // First: it is taken also on failure.
        let owned = destroy.map(|destroy| Owned { destroy, opaque });
        // SAFETY: the argument is as the header asks.
        let txn = unsafe { handle(txn, "txn") }?;
        set_log(&txn, callback, opaque, owned)
    })
}
