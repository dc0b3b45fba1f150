//! What can be asked of a job: `hol_job_pause` and the like.
//!
//! Which verb is heard in which state is in docs/jobs.md.

use std::ffi::{c_char, c_int};
use std::ptr;

use super::boundary::{boundary, handle, out};
use super::error::{HOL_OK, code_of, hol_error_details};
use super::job::hol_job;
use super::structure::{Fill, fill};

/// Asks the job to begin nothing more, and does not wait: it is HOL_JOB_PAUSED when what is at work is done. Other jobs go
/// on, but those of its group wait for it in the end.
///
/// Errors: HOL_ERR_WRONG_STATE (paused already, or its work is done), HOL_ERR_NULL, HOL_ERR_PANIC.
///
/// Threads: any. Blocks: no. From callbacks: yes. Since: 0.1.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hol_job_pause(job: *mut hol_job) -> c_int {
    boundary(|| {
        // SAFETY: the argument is as the header asks.
        let job = unsafe { handle(job, "job") }?;
        job.job().pause()?;
        Ok(HOL_OK)
    })
}

/// Lets a job that is paused go on. What stopped it (HOL_ON_ERROR_STOP, HOL_ON_ERROR_ENOSPC) is tried again.
///
/// Errors: HOL_ERR_WRONG_STATE (not paused), HOL_ERR_NULL, HOL_ERR_PANIC.
///
/// Threads: any. Blocks: no. From callbacks: yes. Since: 0.1.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hol_job_resume(job: *mut hol_job) -> c_int {
    boundary(|| {
        // SAFETY: the argument is as the header asks.
        let job = unsafe { handle(job, "job") }?;
        job.job().resume()?;
        Ok(HOL_OK)
    })
}

/// Asks the job to end without a target, and does not wait. With HOL_COMPLETION_GROUPED all jobs end with it.
///
/// Errors: HOL_ERR_WRONG_STATE (it has ended, or its target is about to appear), HOL_ERR_NULL, HOL_ERR_PANIC.
///
/// Threads: any. Blocks: no. From callbacks: yes. Since: 0.1.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hol_job_cancel(job: *mut hol_job) -> c_int {
    boundary(|| {
        // SAFETY: the argument is as the header asks.
        let job = unsafe { handle(job, "job") }?;
        job.job().cancel()?;
        Ok(HOL_OK)
    })
}

/// Limits how many bytes of data a second the job reads from now on; 0 is without a limit.
///
/// Errors: HOL_ERR_WRONG_STATE (its work is done), HOL_ERR_NULL, HOL_ERR_PANIC.
///
/// Threads: any. Blocks: no. From callbacks: yes. Since: 0.1.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hol_job_set_speed(job: *mut hol_job, bytes_per_second: u64) -> c_int {
    boundary(|| {
        // SAFETY: the argument is as the header asks.
        let job = unsafe { handle(job, "job") }?;
        job.job().set_speed(bytes_per_second)?;
        Ok(HOL_OK)
    })
}

/// Lets the target of a job that is HOL_JOB_PENDING appear, and those of its group; does not wait.
///
/// Errors: HOL_ERR_WRONG_STATE (not pending), HOL_ERR_NULL, HOL_ERR_PANIC.
///
/// Threads: any. Blocks: no. From callbacks: yes. Since: 0.1.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hol_job_finalize(job: *mut hol_job) -> c_int {
    boundary(|| {
        // SAFETY: the argument is as the header asks.
        let job = unsafe { handle(job, "job") }?;
        job.job().finalize()?;
        Ok(HOL_OK)
    })
}

/// Says of a job that is HOL_JOB_CONCLUDED that somebody took note of how it ended. The handle stays valid.
///
/// Errors: HOL_ERR_WRONG_STATE (not concluded), HOL_ERR_NULL, HOL_ERR_PANIC.
///
/// Threads: any. Blocks: no. From callbacks: yes. Since: 0.1.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hol_job_dismiss(job: *mut hol_job) -> c_int {
    boundary(|| {
        // SAFETY: the argument is as the header asks.
        let job = unsafe { handle(job, "job") }?;
        job.job().dismiss()?;
        Ok(HOL_OK)
    })
}

/// Writes the error that made the job pause (HOL_ACTION_STOP): its code, HOL_ERR_*, to `*code` and its text to
/// `*message`. While no error has, and after hol_job_resume(), they become HOL_OK and NULL. The text belongs to the job
/// and stays until hol_job_free().
///
/// Returns HOL_OK when both are written. Errors: HOL_ERR_NULL, HOL_ERR_PANIC.
///
/// Threads: any. Blocks: no. From callbacks: yes. Since: 0.1.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hol_job_stop_error(
    job: *const hol_job,
    code: *mut c_int,
    message: *mut *const c_char,
) -> c_int {
    boundary(|| {
        // SAFETY: the arguments are as the header asks.
        let (job, code, message) =
            unsafe { (handle(job, "job")?, out(code, "code")?, out(message, "message")?) };
        let error = job.job().stopped_by();
        code.set(error.as_ref().map_or(HOL_OK, |error| code_of(error.kind())));
        message.set(error.as_ref().map_or(ptr::null(), |error| job.keep_text(error)));
        Ok(HOL_OK)
    })
}

/// Fills `*details` with the error that made the job pause, as hol_job_stop_error() tells it, and with the operating
/// system's errno. The text belongs to the job and stays until hol_job_free().
///
/// Errors: HOL_ERR_INVALID_ARGUMENT (struct_size), HOL_ERR_NULL, HOL_ERR_PANIC.
///
/// Threads: any. Blocks: no. From callbacks: yes. Since: 0.1.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hol_job_stop_error_details(
    job: *const hol_job,
    details: *mut hol_error_details,
) -> c_int {
    boundary(|| {
        // SAFETY: the arguments are as the header asks.
        let (job, details): (_, Fill<_>) = unsafe { (handle(job, "job")?, fill(details, "details")?) };
        let error = job.job().stopped_by();
        details.set(&hol_error_details::of(error.as_ref(), |error| job.keep_text(error)));
        Ok(HOL_OK)
    })
}
