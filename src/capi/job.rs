//! Jobs of a transaction: `hol_job`.

use std::ffi::{c_char, c_int};
use std::ptr;

use super::boundary::{Handle, Poison, boundary, give, handle, invalid, out, take};
use super::cached::Texts;
use super::chain::identity_text;
use super::error::{HOL_OK, code_of, hol_error_details};
use super::structure::{Fill, Grows, fill};
use crate::{Error, Job, JobStatus};

/// A job of a transaction, running or finished. Several threads may use it at the same time; only hol_job_free() must
/// come alone. It may outlive its transaction, and freeing it does not stop the work.
pub struct hol_job {
    job: Job,
    /// Every text that was told: C holds pointers to them.
    texts: Texts,
    poison: Poison,
}

impl Handle for hol_job {
    fn poison(&self) -> &Poison {
        &self.poison
    }
}

impl hol_job {
    pub(super) fn job(&self) -> &Job {
        &self.job
    }

    /// The text of an error, which stays until the handle is freed.
    pub(super) fn keep_text(&self, error: &Error) -> *const c_char {
        self.texts.keep(error.to_string())
    }
}

/// A handle for `job` that belongs to C.
pub(super) fn give_job(job: &Job) -> *mut hol_job {
    give(hol_job { job: job.clone(), texts: Texts::default(), poison: Poison::default() })
}

/// The job has not begun.
pub const HOL_JOB_CREATED: u32 = 1;
/// The job copies.
pub const HOL_JOB_RUNNING: u32 = 2;
/// The job has done its work and waits for the others of its group.
pub const HOL_JOB_WAITING: u32 = 3;
/// The job undoes what it did, after a failure or a cancel; or finishes a partial target (HOL_BITMAP_MODE_ALWAYS).
pub const HOL_JOB_ABORTING: u32 = 4;
/// The job is over: hol_job_error() says how it ended.
pub const HOL_JOB_CONCLUDED: u32 = 5;

/// The job is paused: nothing of it is read or written until it is resumed.
pub const HOL_JOB_PAUSED: u32 = 6;
/// The job and all of its group have done their work; what is left is that the targets appear.
pub const HOL_JOB_PENDING: u32 = 7;
/// The job is over and was dismissed.
pub const HOL_JOB_DISMISSED: u32 = 8;

/// The constant of a status.
pub(super) fn status_of(status: JobStatus) -> u32 {
    match status {
        JobStatus::Created => HOL_JOB_CREATED,
        JobStatus::Running => HOL_JOB_RUNNING,
        JobStatus::Paused => HOL_JOB_PAUSED,
        JobStatus::Waiting => HOL_JOB_WAITING,
        JobStatus::Pending => HOL_JOB_PENDING,
        JobStatus::Aborting => HOL_JOB_ABORTING,
        JobStatus::Concluded => HOL_JOB_CONCLUDED,
        JobStatus::Dismissed => HOL_JOB_DISMISSED,
    }
}

/// What a job copied. Set struct_size to the sizeof of the structure (HOL_OPTIONS_INIT does); the library fills the rest.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct hol_report {
    /// sizeof(hol_report)
    pub struct_size: usize,
    /// Bytes of the disk that are stored in the target as data.
    pub data_bytes: u64,
    /// Bytes of the disk that are recorded in the target as zeros.
    pub zero_bytes: u64,
    /// Bytes that were written to the target for the data.
    pub stored_bytes: u64,
    /// Of a job that failed or was cancelled and whose partial target was kept (HOL_BITMAP_MODE_ALWAYS): the target has
    /// what was to be copied up to this offset of the disk. 0: no partial target was kept.
    pub partial_end: u64,
    /// Bytes of the data that the target shares with the files of the source (HOL_REFLINK_*).
    pub shared_bytes: u64,
}

// SAFETY: `repr(C)`, size first; integers, of which zero is a value.
unsafe impl Grows for hol_report {}

/// Writes the job's status, HOL_JOB_*, to `*status`. Later versions may add statuses.
///
/// Errors: HOL_ERR_NULL, HOL_ERR_PANIC.
///
/// Threads: any. Blocks: no. From callbacks: yes. Since: 0.1.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hol_job_status(job: *const hol_job, status: *mut u32) -> c_int {
    boundary(|| {
        // SAFETY: the arguments are as the header asks.
        let (job, status) = unsafe { (handle(job, "job")?, out(status, "status")?) };
        status.set(status_of(job.job.status()));
        Ok(HOL_OK)
    })
}

/// Writes how many bytes the job has dealt with to `*done`, and of how many to `*total`.
///
/// Errors: HOL_ERR_NULL, HOL_ERR_PANIC.
///
/// Threads: any. Blocks: no. From callbacks: yes. Since: 0.1.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hol_job_progress(job: *const hol_job, done: *mut u64, total: *mut u64) -> c_int {
    boundary(|| {
        // SAFETY: the arguments are as the header asks.
        let (job, done, total) = unsafe { (handle(job, "job")?, out(done, "done")?, out(total, "total")?) };
        let progress = job.job.progress();
        done.set(progress.done);
        total.set(progress.total);
        Ok(HOL_OK)
    })
}

/// Writes how the job failed: its code, HOL_ERR_*, to `*code` and its text to `*message`. While the job has not failed
/// they become HOL_OK and NULL. The text belongs to the job and stays until hol_job_free(). Both are final when the job
/// is concluded: the text may then also tell what was kept or could not be done.
///
/// Returns HOL_OK when both are written, also for a job that failed.
/// Errors: HOL_ERR_NULL, HOL_ERR_PANIC.
///
/// Threads: any. Blocks: no. From callbacks: yes. Since: 0.1.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hol_job_error(
    job: *const hol_job,
    code: *mut c_int,
    message: *mut *const c_char,
) -> c_int {
    boundary(|| {
        // SAFETY: the arguments are as the header asks.
        let (job, code, message) =
            unsafe { (handle(job, "job")?, out(code, "code")?, out(message, "message")?) };
        let error = job.job.error();
        code.set(error.as_ref().map_or(HOL_OK, |error| code_of(error.kind())));
        message.set(error.as_ref().map_or(ptr::null(), |error| job.keep_text(error)));
        Ok(HOL_OK)
    })
}

/// Fills `*details` with how the job failed, as hol_job_error() tells it, and with the operating system's errno. The text
/// belongs to the job and stays until hol_job_free().
///
/// Errors: HOL_ERR_INVALID_ARGUMENT (struct_size), HOL_ERR_NULL, HOL_ERR_PANIC.
///
/// Threads: any. Blocks: no. From callbacks: yes. Since: 0.1.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hol_job_error_details(
    job: *const hol_job,
    details: *mut hol_error_details,
) -> c_int {
    boundary(|| {
        // SAFETY: the arguments are as the header asks.
        let (job, details): (_, Fill<_>) = unsafe { (handle(job, "job")?, fill(details, "details")?) };
        let error = job.job.error();
        details.set(&hol_error_details::of(error.as_ref(), |error| job.keep_text(error)));
        Ok(HOL_OK)
    })
}

/// Fills `*report` with what the job has copied; complete when the job is concluded.
///
/// Errors: HOL_ERR_INVALID_ARGUMENT (struct_size), HOL_ERR_NULL, HOL_ERR_PANIC.
///
/// Threads: any. Blocks: no. From callbacks: yes. Since: 0.1.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hol_job_report(job: *const hol_job, report: *mut hol_report) -> c_int {
    boundary(|| {
        // SAFETY: the arguments are as the header asks.
        let (job, report): (_, Fill<_>) = unsafe { (handle(job, "job")?, fill(report, "report")?) };
        let values = job.job.report();
        report.set(&hol_report {
            struct_size: 0,
            data_bytes: values.data_bytes,
            zero_bytes: values.zero_bytes,
            stored_bytes: values.stored_bytes,
            partial_end: values.partial_end.unwrap_or(0),
            shared_bytes: values.shared_bytes,
        });
        Ok(HOL_OK)
    })
}

/// What a backup descends from. Set struct_size to the sizeof of the structure (HOL_OPTIONS_INIT does); the library fills
/// the rest. Texts belong to the job and stay until hol_job_free().
#[repr(C)]
#[derive(Clone, Copy)]
pub struct hol_lineage {
    /// sizeof(hol_lineage)
    pub struct_size: usize,
    /// The target's own identity, in the form of a UUID; NULL: it gets none (a raw image, or no room in its header).
    pub identity: *const c_char,
    /// The identity of the backup that it stands on; NULL: none, or not known.
    pub parent: *const c_char,
    /// Number of notes: what could not be checked or remembered. hol_job_note() has their texts.
    pub notes: u64,
}

// SAFETY: `repr(C)`, size first; integers and pointers, of which zero and NULL are values.
unsafe impl Grows for hol_lineage {}

/// Fills `*lineage` with what the job's target descends from; complete when the job is concluded.
///
/// Errors: HOL_ERR_INVALID_ARGUMENT (struct_size), HOL_ERR_NULL, HOL_ERR_PANIC.
///
/// Threads: any. Blocks: no. From callbacks: yes. Since: 0.1.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hol_job_lineage(job: *const hol_job, lineage: *mut hol_lineage) -> c_int {
    boundary(|| {
        // SAFETY: the arguments are as the header asks.
        let (job, lineage): (_, Fill<_>) = unsafe { (handle(job, "job")?, fill(lineage, "lineage")?) };
        let values = job.job.lineage();
        lineage.set(&hol_lineage {
            struct_size: 0,
            identity: identity_text(values.identity, &job.texts),
            parent: identity_text(values.parent, &job.texts),
            notes: values.notes.len() as u64,
        });
        Ok(HOL_OK)
    })
}

/// Writes the note at `index`, from 0 to below hol_lineage.notes, to `*note`. The text belongs to the job and stays until
/// hol_job_free().
///
/// Errors: HOL_ERR_INVALID_ARGUMENT (index), HOL_ERR_NULL, HOL_ERR_PANIC.
///
/// Threads: any. Blocks: no. From callbacks: yes. Since: 0.1.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hol_job_note(job: *const hol_job, index: usize, note: *mut *const c_char) -> c_int {
    boundary(|| {
        // SAFETY: the arguments are as the header asks.
        let (job, note) = unsafe { (handle(job, "job")?, out(note, "note")?) };
        let notes = job.job.lineage().notes;
        let found = notes
            .get(index)
            .ok_or_else(|| invalid(format!("there is no note {index}: there are {}", notes.len())))?;
        note.set(job.texts.keep(found));
        Ok(HOL_OK)
    })
}

/// Frees the handle of a job; the job itself goes on. NULL is allowed and does nothing. The text that was borrowed
/// from it ends here.
///
/// Threads: any, but no other call may use the handle. Blocks: no. From callbacks: yes. Since: 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hol_job_free(job: *mut hol_job) {
    boundary(|| {
        // SAFETY: the argument is as the header asks.
        drop(unsafe { take(job, "job") }?);
        Ok(())
    });
}
