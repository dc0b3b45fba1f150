//! Transactions: `hol_txn`, and their events.

use std::ffi::{c_char, c_int};
use std::os::fd::AsRawFd;
use std::ptr;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use super::action::hol_action;
use super::boundary::{
    Failure, Handle, InUse, Poison, as_path, boundary, give, handle, invalid, out, take, text,
};
use super::error::{HOL_OK, code_of, no_action};
use super::job::{give_job, hol_job, status_of};
use super::log::Owned;
use super::options::completion;
use super::structure::{Fill, Grows, fill};
use crate::{
    Error, ErrorAction, ErrorKind, ErrorSide, Event, EventKind, Recovery, RunningTransaction, Transaction,
};

/// A transaction: actions that take effect together. Several threads may use it at the same time; only hol_txn_free()
/// must come alone. Two transactions over one disk work side by side; one that would be in the way of another that runs
/// (the same bitmap, a snapshot deleted or an overlay made beside other changes) is refused at its start with HOL_ERR_WRONG_STATE.
pub struct hol_txn {
    /// The transaction until it is started.
    planned: Mutex<Option<Transaction>>,
    /// The transaction from when its start succeeded.
    running: OnceLock<RunningTransaction>,
    /// What the recovery found that is the reason why its start failed.
    pub(super) recovered: OnceLock<Recovery>,
    /// What the log's callback was given. Behind the transaction: that has ended when this goes.
    log_owner: Mutex<Option<Owned>>,
    poison: Poison,
}

impl Handle for hol_txn {
    fn poison(&self) -> &Poison {
        &self.poison
    }
}

/// hol_txn_wait() ended because its time did; the transaction still runs.
pub const HOL_TIMED_OUT: c_int = 1;

/// The job's status is now the event's status.
pub const HOL_EVENT_STATUS: u32 = 1;
/// The job has dealt with done of total bytes.
pub const HOL_EVENT_PROGRESS: u32 = 2;
/// The job failed with code; hol_job_error() has the text.
pub const HOL_EVENT_FAILED: u32 = 3;
/// The job was cancelled.
pub const HOL_EVENT_CANCELLED: u32 = 4;
/// The job succeeded.
pub const HOL_EVENT_COMPLETED: u32 = 5;
/// The whole transaction is over: hol_txn_wait() no longer blocks. The last event.
pub const HOL_EVENT_FINISHED: u32 = 6;

/// The job met an error with code, when reading or writing (side), and does action about it.
pub const HOL_EVENT_ERROR: u32 = 7;

/// The error came from reading the source or an image below it.
pub const HOL_SIDE_SOURCE: u32 = 1;
/// The error came from writing the target.
pub const HOL_SIDE_TARGET: u32 = 2;

/// The job fails.
pub const HOL_ACTION_REPORT: u32 = 1;
/// The job tries the same piece again, after a pause.
pub const HOL_ACTION_IGNORE: u32 = 2;
/// The job pauses: hol_job_resume() lets it try the same piece again. hol_job_stop_error() has the text.
pub const HOL_ACTION_STOP: u32 = 3;

/// Something that happened in a running transaction. Set struct_size to the sizeof of the structure (HOL_OPTIONS_INIT
/// does); the library fills the rest.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct hol_event {
    /// sizeof(hol_event)
    pub struct_size: usize,
    /// Index of the job, in the order in which the actions were added; -1: the whole transaction.
    pub job: i64,
    /// With HOL_EVENT_PROGRESS: bytes dealt with.
    pub done: u64,
    /// With HOL_EVENT_PROGRESS: bytes to deal with.
    pub total: u64,
    /// HOL_EVENT_*. Later versions may add events: ignore those that are unknown.
    pub kind: u32,
    /// With HOL_EVENT_STATUS: HOL_JOB_*.
    pub status: u32,
    /// With HOL_EVENT_FAILED and HOL_EVENT_ERROR: HOL_ERR_*.
    pub code: i32,
    /// 0
    pub reserved: u32,
    /// With HOL_EVENT_ERROR: HOL_SIDE_*.
    pub side: u32,
    /// With HOL_EVENT_ERROR: HOL_ACTION_*.
    pub action: u32,
    /// With HOL_EVENT_FAILED and HOL_EVENT_ERROR: the operating system's errno; 0: it had no part.
    pub os_error: i32,
    /// 0
    pub reserved2: u32,
}

// SAFETY: `repr(C)`, size first; integers, of which zero is a value.
unsafe impl Grows for hol_event {}

impl hol_event {
    fn of(event: &Event) -> Self {
        let mut values = hol_event {
            struct_size: 0,
            job: event.job.and_then(|job| i64::try_from(job).ok()).unwrap_or(-1),
            done: 0,
            total: 0,
            kind: 0,
            status: 0,
            code: 0,
            reserved: 0,
            side: 0,
            action: 0,
            os_error: 0,
            reserved2: 0,
        };
        values.kind = match &event.kind {
            EventKind::StateChanged(status) => {
                values.status = status_of(*status);
                HOL_EVENT_STATUS
            }
            EventKind::Progress(progress) => {
                (values.done, values.total) = (progress.done, progress.total);
                HOL_EVENT_PROGRESS
            }
            EventKind::Error { side, action, error } => {
                (values.code, values.os_error) = (code_of(error.kind()), error.errno().unwrap_or(0));
                values.side = match side {
                    ErrorSide::Source => HOL_SIDE_SOURCE,
                    ErrorSide::Target => HOL_SIDE_TARGET,
                };
                values.action = match action {
                    ErrorAction::Report => HOL_ACTION_REPORT,
                    ErrorAction::Ignore => HOL_ACTION_IGNORE,
                    ErrorAction::Stop => HOL_ACTION_STOP,
                };
                HOL_EVENT_ERROR
            }
            EventKind::Failed(error) => {
                (values.code, values.os_error) = (code_of(error.kind()), error.errno().unwrap_or(0));
                HOL_EVENT_FAILED
            }
            EventKind::Cancelled => HOL_EVENT_CANCELLED,
            EventKind::Completed => HOL_EVENT_COMPLETED,
            EventKind::Finished => HOL_EVENT_FINISHED,
        };
        values
    }
}

fn wrong_state(text: &str) -> Failure {
    Failure::Error(Error::new(ErrorKind::WrongState, text))
}

impl hol_txn {
    /// Changes the transaction before its start.
    pub(super) fn plan(&self, change: impl FnOnce(&mut Transaction)) -> Result<(), Failure> {
        let mut planned = self.planned.lock().unwrap_or_else(PoisonError::into_inner);
        let planned = planned.as_mut().ok_or_else(|| wrong_state("the transaction was started already"))?;
        change(planned);
        Ok(())
    }

    /// What the log's callback was given.
    pub(super) fn log_owner(&self) -> MutexGuard<'_, Option<Owned>> {
        self.log_owner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts the transaction. The lock is not held meanwhile: others learn at once that it has been started.
    fn start(&self) -> Result<(), Failure> {
        let planned = self.planned.lock().unwrap_or_else(PoisonError::into_inner).take();
        let planned = planned.ok_or_else(|| wrong_state("the transaction was started already"))?;
        // Only the one call that took the plan comes here, so the cell is empty.
        self.running.get_or_init({
            let running = planned.start().inspect_err(|error| {
                if let Some(recovery) = error.recovery() {
                    let _ = self.recovered.set(recovery.clone());
                }
            })?;
            || running
        });
        Ok(())
    }

    fn running(&self) -> Result<&RunningTransaction, Failure> {
        self.running.get().ok_or_else(|| {
            match self.planned.lock().unwrap_or_else(PoisonError::into_inner).is_some() {
                true => wrong_state("the transaction was not started yet: call hol_txn_start() first"),
                false => {
                    wrong_state("the transaction has not started: hol_txn_start() failed, or still works")
                }
            }
        })
    }

    /// Waits for the end; the time is in milliseconds, and less than zero is for ever.
    fn wait(&self, timeout_ms: i64) -> Result<c_int, Failure> {
        match self.running()?.wait(u64::try_from(timeout_ms).ok().map(Duration::from_millis)) {
            None => Ok(HOL_TIMED_OUT),
            Some(ended) => Ok(ended.map(|()| HOL_OK)?),
        }
    }
}

/// Makes a transaction without actions, with HOL_COMPLETION_GROUPED. It belongs to the caller: hol_txn_free(). Returns
/// NULL on failure: hol_last_error_code().
///
/// Threads: any. Blocks: no. From callbacks: yes. Since: 0.1.
#[must_use]
#[unsafe(no_mangle)]
pub extern "C" fn hol_txn_new() -> *mut hol_txn {
    boundary(|| {
        Ok(give(hol_txn {
            planned: Mutex::new(Some(Transaction::new())),
            running: OnceLock::new(),
            recovered: OnceLock::new(),
            log_owner: Mutex::new(None),
            poison: Poison::default(),
        }))
    })
}

/// Chooses what the failure of one job means for the others: HOL_COMPLETION_*.
///
/// Errors: HOL_ERR_INVALID_ARGUMENT (mode), HOL_ERR_WRONG_STATE (started already), HOL_ERR_NULL, HOL_ERR_PANIC.
///
/// Threads: any. Blocks: no. From callbacks: yes. Since: 0.1.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hol_txn_set_completion(txn: *mut hol_txn, mode: u32) -> c_int {
    boundary(|| {
        // SAFETY: the argument is as the header asks.
        let txn = unsafe { handle(txn, "txn") }?;
        let mode = completion(mode)?;
        txn.plan(|planned| planned.set_completion(mode))?;
        Ok(HOL_OK)
    })
}

/// Sets the folder that the transaction's journal is kept in while it runs; it must exist. The default is that of the
/// first target. hol_recover() finishes there what a crash interrupted. A relative path starts from the folder that the
/// process is in during this call.
///
/// Errors: HOL_ERR_WRONG_STATE (started already), HOL_ERR_NULL, HOL_ERR_PANIC.
///
/// Threads: any. Blocks: no. From callbacks: yes. Since: 0.1.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hol_txn_set_journal(txn: *mut hol_txn, journal_dir: *const c_char) -> c_int {
    boundary(|| {
        // SAFETY: the arguments are as the header asks.
        let (txn, folder) = unsafe { (handle(txn, "txn")?, text(journal_dir, "journal_dir")?) };
        txn.plan(|planned| planned.set_journal(as_path(folder)))?;
        Ok(HOL_OK)
    })
}

/// Sets how many threads copy at most; 0, the default: two for each processor, 16 at most. A higher number than that changes
/// nothing. One more thread leads them.
///
/// Errors: HOL_ERR_WRONG_STATE (started already), HOL_ERR_NULL, HOL_ERR_PANIC.
///
/// Threads: any. Blocks: no. From callbacks: yes. Since: 0.1.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hol_txn_set_thread_limit(txn: *mut hol_txn, most: u32) -> c_int {
    boundary(|| {
        // SAFETY: the argument is as the header asks.
        let txn = unsafe { handle(txn, "txn") }?;
        txn.plan(|planned| planned.set_thread_limit(most))?;
        Ok(HOL_OK)
    })
}

/// Adds an action to a transaction that is not started yet. It takes the action, also when it fails: the action must not
/// be used or freed after this call. Relative paths of new files start from the folder that the process is in during this
/// call; it may go to another one at once.
///
/// When `action` is NULL because its constructor has just failed in this thread, that failure is returned and stays
/// the last error, so that the two calls can be nested.
///
/// Errors: HOL_ERR_WRONG_STATE (started already), HOL_ERR_NULL, HOL_ERR_PANIC, and those of the action's constructor.
///
/// Threads: any. Blocks: no. From callbacks: yes. Since: 0.1.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hol_txn_add(txn: *mut hol_txn, action: *mut hol_action) -> c_int {
    boundary(|| {
        // SAFETY: the arguments are as the header asks. The action comes first: it is taken also on failure.
        let (action, txn) = unsafe { (take(action, "action")?, handle(txn, "txn")?) };
        let action = action.ok_or_else(|| no_action("action"))?.action;
        txn.plan(|planned| planned.add(action))?;
        Ok(HOL_OK)
    })
}

/// Starts a transaction: everything is checked, then the jobs run in the library's own threads. Returns when the point in
/// time of the copies is taken; without a backup among the actions, when all is done. A transaction whose start failed has
/// changed nothing and can only be freed.
///
/// Errors: HOL_ERR_CANCELLED (hol_action_abort()), HOL_ERR_EXISTS (a target), HOL_ERR_NOT_FOUND (a target's folder), HOL_ERR_BITMAP_NOT_FOUND,
/// HOL_ERR_BITMAP_UNUSABLE, HOL_ERR_INVALID_ARGUMENT, HOL_ERR_UNSUPPORTED, HOL_ERR_IO, HOL_ERR_NO_SPACE, HOL_ERR_LIMIT,
/// HOL_ERR_WRONG_STATE (started already; or a recovery at the start changed what this transaction goes by, see
/// hol_txn_recovery()), HOL_ERR_NULL, HOL_ERR_PANIC.
///
/// Threads: any. Blocks: yes, for input and output of tables, for a recovery, while another transaction changes one of the
/// disks, and without a backup for all of the work. From callbacks: yes. Since: 0.1.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hol_txn_start(txn: *mut hol_txn) -> c_int {
    boundary(|| {
        // SAFETY: the argument is as the header asks.
        let txn = unsafe { handle(txn, "txn") }?;
        txn.start()?;
        Ok(HOL_OK)
    })
}

/// Waits until a started transaction is over, at most `timeout_ms` milliseconds; less than 0 is for ever, 0 only asks.
///
/// Returns HOL_OK: over, and every job succeeded; HOL_TIMED_OUT: it still runs; else how it failed, the same each
/// time: the first failure of a job, HOL_ERR_CANCELLED after hol_txn_cancel(); hol_job_error() tells it for each
/// job. Further errors: HOL_ERR_WRONG_STATE (not started, or called by what receives its own log), HOL_ERR_NULL,
/// HOL_ERR_PANIC.
///
/// Threads: any. Blocks: yes. From callbacks: those of other transactions. Since: 0.1.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hol_txn_wait(txn: *mut hol_txn, timeout_ms: i64) -> c_int {
    boundary(|| {
        // SAFETY: the argument is as the header asks.
        let txn = unsafe { handle(txn, "txn") }?;
        txn.wait(timeout_ms)
    })
}

/// Asks a started transaction to stop, and does not wait for it. Jobs that are not concluded end with HOL_ERR_CANCELLED
/// and leave no target behind, but for a partial one with HOL_BITMAP_MODE_ALWAYS. No effect once targets have begun to
/// appear: then the transaction succeeds.
///
/// Errors: HOL_ERR_WRONG_STATE (not started), HOL_ERR_NULL, HOL_ERR_PANIC.
///
/// Threads: any. Blocks: no. From callbacks: yes. Since: 0.1.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hol_txn_cancel(txn: *mut hol_txn) -> c_int {
    boundary(|| {
        // SAFETY: the argument is as the header asks.
        let txn = unsafe { handle(txn, "txn") }?;
        txn.running()?.cancel();
        Ok(HOL_OK)
    })
}

/// Runs a transaction: hol_txn_start(), then hol_txn_wait() without end. Jobs and events can be asked for afterwards.
///
/// Errors: as those two.
///
/// Threads: any. Blocks: yes. From callbacks: those of other transactions. Since: 0.1.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hol_txn_commit(txn: *mut hol_txn) -> c_int {
    boundary(|| {
        // SAFETY: the argument is as the header asks.
        let txn: InUse<'_, hol_txn> = unsafe { handle(txn, "txn") }?;
        txn.start()?;
        txn.wait(-1)
    })
}

/// Returns a file descriptor for poll() or select(): readable while hol_txn_next_event() has events to give. It belongs
/// to the transaction and ends with hol_txn_free(); neither read nor close it.
///
/// Errors: HOL_ERR_WRONG_STATE (not started), HOL_ERR_NULL, HOL_ERR_PANIC.
///
/// Threads: any. Blocks: no. From callbacks: yes. Since: 0.1.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hol_txn_event_fd(txn: *mut hol_txn) -> c_int {
    boundary(|| {
        // SAFETY: the argument is as the header asks.
        let txn = unsafe { handle(txn, "txn") }?;
        Ok(txn.running()?.event_fd().as_raw_fd())
    })
}

/// Takes the oldest waiting event and fills `*event` with it.
///
/// Returns 1 when there was one, 0 when none waits.
/// Errors: HOL_ERR_WRONG_STATE (not started), HOL_ERR_INVALID_ARGUMENT (struct_size), HOL_ERR_NULL, HOL_ERR_PANIC.
///
/// Threads: any; each event is given once. Blocks: no. From callbacks: yes. Since: 0.1.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hol_txn_next_event(txn: *mut hol_txn, event: *mut hol_event) -> c_int {
    boundary(|| {
        // SAFETY: the arguments are as the header asks.
        let (txn, event): (_, Fill<_>) = unsafe { (handle(txn, "txn")?, fill(event, "event")?) };
        match txn.running()?.next_event() {
            None => Ok(0),
            Some(next) => {
                event.set(&hol_event::of(&next));
                Ok(1)
            }
        }
    })
}

/// Writes the number of jobs of a started transaction to `*number`: one for each backup action.
///
/// Errors: HOL_ERR_WRONG_STATE (not started), HOL_ERR_NULL, HOL_ERR_PANIC.
///
/// Threads: any. Blocks: no. From callbacks: yes. Since: 0.1.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hol_txn_job_count(txn: *mut hol_txn, number: *mut usize) -> c_int {
    boundary(|| {
        // SAFETY: the arguments are as the header asks.
        let (txn, number) = unsafe { (handle(txn, "txn")?, out(number, "number")?) };
        number.set(txn.running()?.jobs().len());
        Ok(HOL_OK)
    })
}

/// Gives the job at `index` of a started transaction; jobs have the order in which the actions were added. On success
/// `*job` belongs to the caller: hol_job_free(). On failure it is NULL.
///
/// Errors: HOL_ERR_INVALID_ARGUMENT (index), HOL_ERR_WRONG_STATE (not started), HOL_ERR_NULL, HOL_ERR_PANIC.
///
/// Threads: any. Blocks: no. From callbacks: yes. Since: 0.1.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hol_txn_job(txn: *mut hol_txn, index: usize, job: *mut *mut hol_job) -> c_int {
    boundary(|| {
        // SAFETY: the argument is as the header asks.
        let job = unsafe { out(job, "job") }?;
        job.set(ptr::null_mut());
        // SAFETY: the argument is as the header asks.
        let txn = unsafe { handle(txn, "txn") }?;
        let jobs = txn.running()?.jobs();
        let found = jobs.get(index);
        let found =
            found.ok_or_else(|| invalid(format!("there is no job {index}: there are {}", jobs.len())))?;
        job.set(give_job(found));
        Ok(HOL_OK)
    })
}

/// Frees a transaction. One that still runs is cancelled, and its end waited for: afterwards nothing of it works in the
/// background. NULL is allowed and does nothing.
///
/// Threads: any, but no other call may use the transaction. Blocks: yes, while it runs. From callbacks: those of other
/// transactions. Since: 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hol_txn_free(txn: *mut hol_txn) {
    boundary(|| {
        // SAFETY: the argument is as the header asks. Dropping what runs cancels it and waits.
        drop(unsafe { take(txn, "txn") }?);
        Ok(())
    });
}
