//! Actions, the steps of a transaction: `hol_action`.

use std::ffi::c_char;

use super::boundary::{Failure, Handle, Poison, as_path, boundary, give, handle, take, text};
use super::disk::hol_disk;
use super::error::note_action_made;
use super::options::hol_backup_options;
use super::structure::options;
use crate::{Action, Backup};

/// One step of a transaction, not yet run. It belongs to one thread at a time.
pub struct hol_action {
    pub(super) action: Action,
    poison: Poison,
}

impl Handle for hol_action {
    fn poison(&self) -> &Poison {
        &self.poison
    }
}

/// Gives the caller a new action; on a failure nothing, which hol_txn_add() will report.
pub(super) fn make(build: impl FnOnce() -> Result<Action, Failure>) -> *mut hol_action {
    let action = boundary(|| Ok(give(hol_action { action: build()?, poison: Poison::default() })));
    note_action_made(!action.is_null());
    action
}

/// Makes the action that copies `source` to a new image file at `target`. Nothing is checked against the disk or the
/// file system yet, and nothing written.
///
/// `options` may be NULL: all defaults, a full copy. The action belongs to the caller until hol_txn_add() takes it; one
/// that is not added is freed by hol_action_free(). It keeps what it needs of the disk, which may be closed.
///
/// Returns NULL on failure, which hol_txn_add() accepts and reports, so that calls can be nested; or see
/// hol_last_error_code(): HOL_ERR_INVALID_ARGUMENT (options), HOL_ERR_NULL, HOL_ERR_PANIC.
///
/// Threads: any. Blocks: no. From callbacks: yes. Since: 0.1.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hol_action_backup(
    source: *mut hol_disk,
    target: *const c_char,
    options: *const hol_backup_options,
) -> *mut hol_action {
    make(|| {
        // SAFETY: the arguments are as the header asks.
        let (source, target, options) = unsafe {
            (handle(source, "source")?, text(target, "target")?, self::options(options, "options")?.read()?)
        };
        let (source, target) = (source.disk.clone(), as_path(target).to_owned());
        Ok(Backup { source, target, options }.into())
    })
}

/// Makes the action that fails: nothing of the list is done. For tests of what comes before it.
///
/// Returns NULL on failure: HOL_ERR_PANIC. Otherwise as hol_action_backup().
///
/// Threads: any. Blocks: no. From callbacks: yes. Since: 0.1.
#[must_use]
#[unsafe(no_mangle)]
pub extern "C" fn hol_action_abort() -> *mut hol_action {
    make(|| Ok(Action::Abort))
}

/// Frees an action that was not added to a transaction. NULL is allowed and does nothing.
///
/// Threads: any. Blocks: while files are closed, where its disk was closed before. From callbacks: yes. Since: 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hol_action_free(action: *mut hol_action) {
    boundary(|| {
        // SAFETY: the argument is as the header asks.
        drop(unsafe { take(action, "action") }?);
        Ok(())
    });
}
