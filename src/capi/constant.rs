//! Names for numbers, and numbers for names: `hol_error_name` and its kin, and `hol_constant`.

use std::ffi::{CStr, c_char, c_int};

use super::boundary::{boundary, invalid, out, text};
use super::error::{self, HOL_OK};
use super::{
    actions, bitmap, bitmap_change, chain, check, create, disk, extent, job, log, options, recover, snapshot,
    txn,
};

/// What every function here gives for a number that it does not know.
const UNKNOWN: &CStr = c"unknown";

fn name(number: i64, names: &[(i64, &'static CStr)]) -> *const c_char {
    names.iter().find(|(known, _)| *known == number).map_or(UNKNOWN, |(_, name)| name).as_ptr()
}

/// The short name of a code, for logs and for programs: "no-space" of HOL_ERR_NO_SPACE, "ok" of HOL_OK, "unknown" of a
/// number that is no code. The same in all bindings. The text is static.
///
/// Threads: any. Blocks: no. From callbacks: yes. Since: 0.1.
#[unsafe(no_mangle)]
pub extern "C" fn hol_error_name(code: c_int) -> *const c_char {
    const NAMES: &[(i64, &CStr)] = &[
        (error::HOL_OK as i64, c"ok"),
        (error::HOL_ERR_NULL as i64, c"null"),
        (error::HOL_ERR_PANIC as i64, c"panic"),
        (error::HOL_ERR_INVALID_ARGUMENT as i64, c"invalid-argument"),
        (error::HOL_ERR_NOT_FOUND as i64, c"not-found"),
        (error::HOL_ERR_EXISTS as i64, c"exists"),
        (error::HOL_ERR_LOCKED as i64, c"locked"),
        (error::HOL_ERR_IO as i64, c"io"),
        (error::HOL_ERR_NO_SPACE as i64, c"no-space"),
        (error::HOL_ERR_CORRUPT as i64, c"corrupt"),
        (error::HOL_ERR_UNSUPPORTED as i64, c"unsupported"),
        (error::HOL_ERR_ENCRYPTED as i64, c"encrypted"),
        (error::HOL_ERR_POLICY_DENIED as i64, c"policy-denied"),
        (error::HOL_ERR_LIMIT as i64, c"limit"),
        (error::HOL_ERR_BITMAP_NOT_FOUND as i64, c"bitmap-not-found"),
        (error::HOL_ERR_BITMAP_UNUSABLE as i64, c"bitmap-unusable"),
        (error::HOL_ERR_CANCELLED as i64, c"cancelled"),
        (error::HOL_ERR_WRONG_STATE as i64, c"wrong-state"),
        (error::HOL_ERR_INTERNAL as i64, c"internal"),
        (error::HOL_ERR_PERMISSION as i64, c"permission"),
        (error::HOL_ERR_NO_MEMORY as i64, c"no-memory"),
    ];
    name(code.into(), NAMES)
}

/// The short name of a job's status: "running" of HOL_JOB_RUNNING, "unknown" of a number that is none. The text is static.
///
/// Threads: any. Blocks: no. From callbacks: yes. Since: 0.1.
#[unsafe(no_mangle)]
pub extern "C" fn hol_status_name(status: u32) -> *const c_char {
    const NAMES: &[(i64, &CStr)] = &[
        (job::HOL_JOB_CREATED as i64, c"created"),
        (job::HOL_JOB_RUNNING as i64, c"running"),
        (job::HOL_JOB_WAITING as i64, c"waiting"),
        (job::HOL_JOB_ABORTING as i64, c"aborting"),
        (job::HOL_JOB_CONCLUDED as i64, c"concluded"),
        (job::HOL_JOB_PAUSED as i64, c"paused"),
        (job::HOL_JOB_PENDING as i64, c"pending"),
        (job::HOL_JOB_DISMISSED as i64, c"dismissed"),
    ];
    name(status.into(), NAMES)
}

/// The short name of a kind of event: "progress" of HOL_EVENT_PROGRESS, "unknown" of a number that is none. The text is
/// static.
///
/// Threads: any. Blocks: no. From callbacks: yes. Since: 0.1.
#[unsafe(no_mangle)]
pub extern "C" fn hol_event_name(kind: u32) -> *const c_char {
    const NAMES: &[(i64, &CStr)] = &[
        (txn::HOL_EVENT_STATUS as i64, c"status"),
        (txn::HOL_EVENT_PROGRESS as i64, c"progress"),
        (txn::HOL_EVENT_FAILED as i64, c"failed"),
        (txn::HOL_EVENT_CANCELLED as i64, c"cancelled"),
        (txn::HOL_EVENT_COMPLETED as i64, c"completed"),
        (txn::HOL_EVENT_FINISHED as i64, c"finished"),
        (txn::HOL_EVENT_ERROR as i64, c"error"),
    ];
    name(kind.into(), NAMES)
}

/// The short name of what a recovery did: "target-published" of HOL_RECOVERED_TARGET_PUBLISHED, "unknown" of a number that
/// is none. The text is static.
///
/// Threads: any. Blocks: no. From callbacks: yes. Since: 0.1.
#[unsafe(no_mangle)]
pub extern "C" fn hol_recovered_name(kind: u32) -> *const c_char {
    const NAMES: &[(i64, &CStr)] = &[
        (recover::HOL_RECOVERED_TEMPORARY_REMOVED as i64, c"temporary-removed"),
        (recover::HOL_RECOVERED_TARGET_PUBLISHED as i64, c"target-published"),
        (recover::HOL_RECOVERED_TARGET_WAS_PUBLISHED as i64, c"target-was-published"),
        (recover::HOL_RECOVERED_TARGET_MISSING as i64, c"target-missing"),
        (recover::HOL_RECOVERED_BITMAPS_CHANGED as i64, c"bitmaps-changed"),
        (recover::HOL_RECOVERED_BITMAPS_WERE_CHANGED as i64, c"bitmaps-were-changed"),
        (recover::HOL_RECOVERED_BITMAPS_LEFT as i64, c"bitmaps-left"),
        (recover::HOL_RECOVERED_BITMAPS_GIVEN_UP as i64, c"bitmaps-given-up"),
        (recover::HOL_RECOVERED_UNFINISHED as i64, c"unfinished"),
        (recover::HOL_RECOVERED_AT_WORK as i64, c"at-work"),
    ];
    name(kind.into(), NAMES)
}

/// The short name of a kind of problem that a check finds: "leak" of HOL_PROBLEM_LEAK, "unknown" of a number that is none. The
/// text is static.
///
/// Threads: any. Blocks: no. From callbacks: yes. Since: 0.1.
#[unsafe(no_mangle)]
pub extern "C" fn hol_problem_name(kind: u32) -> *const c_char {
    const NAMES: &[(i64, &CStr)] = &[
        (check::HOL_PROBLEM_REFCOUNT_TOO_LOW as i64, c"refcount-too-low"),
        (check::HOL_PROBLEM_LEAK as i64, c"leak"),
        (check::HOL_PROBLEM_INVALID_ENTRY as i64, c"invalid-entry"),
        (check::HOL_PROBLEM_COPIED_FLAG as i64, c"copied-flag"),
        (check::HOL_PROBLEM_OUTSIDE_FILE as i64, c"outside-file"),
        (check::HOL_PROBLEM_NO_REFCOUNT as i64, c"no-refcount"),
        (check::HOL_PROBLEM_CUT_SHORT as i64, c"cut-short"),
        (check::HOL_PROBLEM_OVERLAP as i64, c"overlap"),
        (check::HOL_PROBLEM_BITMAP as i64, c"bitmap"),
        (check::HOL_PROBLEM_UNUSABLE_BITMAP as i64, c"unusable-bitmap"),
        (check::HOL_PROBLEM_SNAPSHOT as i64, c"snapshot"),
    ];
    name(kind.into(), NAMES)
}

/// Entries of the table of constants: each with its name.
macro_rules! constants {
    ($($module:ident: $($name:ident)*;)*) => {
        &[$($((stringify!($name), $module::$name as i64),)*)*]
    };
}

/// Every constant of the header, but for the version.
const CONSTANTS: &[(&str, i64)] = constants! {
    error: HOL_OK HOL_ERR_NULL HOL_ERR_PANIC HOL_ERR_INVALID_ARGUMENT HOL_ERR_NOT_FOUND HOL_ERR_EXISTS
        HOL_ERR_LOCKED HOL_ERR_IO HOL_ERR_NO_SPACE HOL_ERR_CORRUPT HOL_ERR_UNSUPPORTED HOL_ERR_ENCRYPTED
        HOL_ERR_POLICY_DENIED HOL_ERR_LIMIT HOL_ERR_BITMAP_NOT_FOUND HOL_ERR_BITMAP_UNUSABLE
        HOL_ERR_CANCELLED HOL_ERR_WRONG_STATE HOL_ERR_INTERNAL HOL_ERR_PERMISSION HOL_ERR_NO_MEMORY;
    options: HOL_FORMAT_QCOW2 HOL_FORMAT_RAW HOL_BACKING_BESIDE HOL_BACKING_UNDER HOL_BACKING_ANY
        HOL_BACKING_DENY HOL_SHARING_LOCKED HOL_SHARING_FORCE HOL_ACCESS_READ HOL_ACCESS_WRITE
        HOL_LAYERS_CHAIN HOL_LAYERS_TOP_ONLY HOL_SYNC_DEFAULT HOL_SYNC_FULL HOL_SYNC_TOP HOL_SYNC_BITMAP
        HOL_SYNC_INCREMENTAL HOL_SYNC_NONE HOL_BITMAP_MODE_DEFAULT HOL_BITMAP_MODE_ON_SUCCESS
        HOL_BITMAP_MODE_NEVER HOL_BITMAP_MODE_ALWAYS HOL_COMPRESSION_NONE HOL_COMPRESSION_ZLIB
        HOL_COMPRESSION_ZSTD HOL_EXISTING_REFUSE HOL_EXISTING_OVERWRITE HOL_ZERO_DETECTION_ON
        HOL_ZERO_DETECTION_OFF HOL_ON_ERROR_REPORT HOL_ON_ERROR_IGNORE HOL_ON_ERROR_ENOSPC
        HOL_ON_ERROR_STOP HOL_LAST_STEP_AUTO HOL_LAST_STEP_MANUAL HOL_LINEAGE_STRICT HOL_LINEAGE_IGNORE
        HOL_REFLINK_AUTO HOL_REFLINK_ALWAYS HOL_REFLINK_NEVER HOL_PAGE_CACHE_DROP HOL_PAGE_CACHE_KEEP
        HOL_COMPLETION_GROUPED HOL_COMPLETION_INDIVIDUAL;
    extent: HOL_STOPPED HOL_EXTENT_PRESENT HOL_EXTENT_ZERO HOL_EXTENT_DATA HOL_EXTENT_COMPRESSED
        HOL_EXTENT_OFFSET HOL_EXTENT_DIRTY HOL_EXTENT_FLAGS_MASK;
    disk: HOL_DISK_LAZY_REFCOUNTS HOL_DISK_CORRUPT HOL_DISK_DIRTY HOL_DISK_EXTENDED_L2
        HOL_DISK_DATA_FILE_RAW HOL_DISK_FLAGS_MASK;
    check: HOL_REPAIR_LEAKS HOL_REPAIR_ALL HOL_PROBLEM_REFCOUNT_TOO_LOW HOL_PROBLEM_LEAK HOL_PROBLEM_INVALID_ENTRY
        HOL_PROBLEM_COPIED_FLAG HOL_PROBLEM_OUTSIDE_FILE HOL_PROBLEM_NO_REFCOUNT HOL_PROBLEM_CUT_SHORT
        HOL_PROBLEM_OVERLAP HOL_PROBLEM_BITMAP HOL_PROBLEM_UNUSABLE_BITMAP HOL_PROBLEM_SNAPSHOT HOL_SEVERITY_CORRUPTION
        HOL_SEVERITY_LEAK HOL_SEVERITY_UNCHECKED HOL_SEVERITY_NOTE;
    snapshot: HOL_SNAPSHOT_DISK_SIZE HOL_SNAPSHOT_ICOUNT HOL_SNAPSHOT_FLAGS_MASK;
    chain: HOL_LINK_BOTTOM HOL_LINK_PROVEN HOL_LINK_UNKNOWN HOL_LINK_BROKEN HOL_VERDICT_NONE HOL_VERDICT_CONSISTENT
        HOL_VERDICT_LEAKS HOL_VERDICT_CORRUPT HOL_VERDICT_INCOMPLETE;
    create: HOL_COMPAT_1_1 HOL_COMPAT_0_10 HOL_PREALLOCATION_OFF HOL_PREALLOCATION_METADATA HOL_CREATE_FLAGS_MASK;
    bitmap: HOL_BITMAP_IN_USE HOL_BITMAP_AUTO HOL_BITMAP_USABLE HOL_BITMAP_COUNTED HOL_BITMAP_FLAGS_MASK;
    bitmap_change: HOL_RECORDING_ENABLED HOL_RECORDING_DISABLED HOL_CHANGE_ADD HOL_CHANGE_REMOVE
        HOL_CHANGE_CLEAR HOL_CHANGE_ENABLE HOL_CHANGE_DISABLE HOL_CHANGE_RENAME HOL_CHANGE_MERGE;
    actions: HOL_LAYER_TOP HOL_LAYER_BELOW;
    job: HOL_JOB_CREATED HOL_JOB_RUNNING HOL_JOB_WAITING HOL_JOB_ABORTING HOL_JOB_CONCLUDED
        HOL_JOB_PAUSED HOL_JOB_PENDING HOL_JOB_DISMISSED;
    txn: HOL_TIMED_OUT HOL_EVENT_STATUS HOL_EVENT_PROGRESS HOL_EVENT_FAILED HOL_EVENT_CANCELLED
        HOL_EVENT_COMPLETED HOL_EVENT_FINISHED HOL_EVENT_ERROR HOL_SIDE_SOURCE HOL_SIDE_TARGET
        HOL_ACTION_REPORT HOL_ACTION_IGNORE HOL_ACTION_STOP;
    log: HOL_LOG_ERROR HOL_LOG_WARNING HOL_LOG_INFO;
    recover: HOL_RECOVERED_TEMPORARY_REMOVED HOL_RECOVERED_TARGET_PUBLISHED
        HOL_RECOVERED_TARGET_WAS_PUBLISHED HOL_RECOVERED_TARGET_MISSING HOL_RECOVERED_BITMAPS_CHANGED
        HOL_RECOVERED_BITMAPS_WERE_CHANGED HOL_RECOVERED_BITMAPS_LEFT HOL_RECOVERED_BITMAPS_GIVEN_UP
        HOL_RECOVERED_UNFINISHED HOL_RECOVERED_AT_WORK;
};

/// Writes the value of the constant called `constant_name` ("HOL_EVENT_FINISHED") to `*value`: lets bindings in other
/// languages do without numbers of their own. HOL_ERR_INVALID_ARGUMENT when this library has no such constant, which
/// tells what it knows; the HOL_*_MASK are all flags that it knows.
///
/// Threads: any. Blocks: no. From callbacks: yes. Since: 0.1.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hol_constant(constant_name: *const c_char, value: *mut i64) -> c_int {
    boundary(|| {
        // SAFETY: the arguments are as the header asks.
        let (wanted, value) = unsafe { (text(constant_name, "constant_name")?, out(value, "value")?) };
        let found = CONSTANTS.iter().find(|(name, _)| name.as_bytes() == wanted.to_bytes());
        let (_, found) =
            found.ok_or_else(|| invalid(format!("no constant is called '{}'", wanted.to_string_lossy())))?;
        value.set(*found);
        Ok(HOL_OK)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{CheckProblemKind, ErrorKind, JobStatus};

    fn text_of(name: *const c_char) -> &'static str {
        // SAFETY: the names are static strings that end with a NUL.
        unsafe { CStr::from_ptr(name) }.to_str().unwrap()
    }

    #[test]
    fn kinds_and_statuses_have_the_names_that_rust_gives_them() {
        for kind in ErrorKind::ALL {
            assert_eq!(text_of(hol_error_name(error::code_of(*kind))), kind.name());
        }
        for status in JobStatus::ALL {
            assert_eq!(text_of(hol_status_name(job::status_of(status))), status.to_string());
        }
        for kind in CheckProblemKind::ALL {
            assert_eq!(text_of(hol_problem_name(check::problem_of(*kind))), kind.name());
        }
        assert_eq!(text_of(hol_error_name(HOL_OK)), "ok");
        for unknown in [hol_error_name(1), hol_error_name(-1000), hol_status_name(0), hol_event_name(99)] {
            assert_eq!(text_of(unknown), "unknown");
        }
    }

    #[test]
    fn names_are_those_of_the_constants() {
        for (constant, value) in CONSTANTS {
            let number = u32::try_from(*value);
            let (group, given) = match constant.split_once('_').and_then(|(_, rest)| rest.split_once('_')) {
                Some(("ERR", rest)) => (rest, hol_error_name(c_int::try_from(*value).unwrap())),
                Some(("EVENT", rest)) => (rest, hol_event_name(number.unwrap())),
                Some(("JOB", rest)) => (rest, hol_status_name(number.unwrap())),
                Some(("PROBLEM", rest)) => (rest, hol_problem_name(number.unwrap())),
                Some(("RECOVERED", rest)) => (rest, hol_recovered_name(number.unwrap())),
                _ => continue,
            };
            assert_eq!(text_of(given), group.to_lowercase().replace('_', "-"), "{constant}");
        }
    }

    #[test]
    fn no_constant_is_told_twice() {
        let mut names: Vec<_> = CONSTANTS.iter().map(|(name, _)| name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), CONSTANTS.len());
    }
}
