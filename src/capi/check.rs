//! Checking an image, and repairing it: `hol_disk_check`, `hol_disk_repair`, and what they found: `hol_check`.

use std::ffi::{c_char, c_int};
use std::ptr;

use super::boundary::{Failure, Handle, Poison, as_path, boundary, give, handle, invalid, out, take, text};
use super::cached::Texts;
use super::chain::{hol_chain, verdict_of};
use super::error::HOL_OK;
use super::options::{choice, hol_disk_options};
use super::structure::{Fill, Grows, fill, options};
use crate::{
    CheckProblem, CheckProblemKind, CheckSeverity, Disk, Error, ErrorKind, RepairMode, RepairReport,
};

/// Refcounts that are higher than the references go down, so that leaked clusters can be used again.
pub const HOL_REPAIR_LEAKS: u32 = 1;
/// The same; and wrong refcounts are counted anew, and broken bitmaps and snapshots are given up.
pub const HOL_REPAIR_ALL: u32 = 2;

/// A cluster has a lower refcount than references: it may be given away while it is in use.
pub const HOL_PROBLEM_REFCOUNT_TOO_LOW: u32 = 1;
/// A cluster has a higher refcount than references: wasted space, but no harm.
pub const HOL_PROBLEM_LEAK: u32 = 2;
/// A table entry breaks the specification.
pub const HOL_PROBLEM_INVALID_ENTRY: u32 = 3;
/// The flag of a table entry that promises a refcount of 1 disagrees with the refcount.
pub const HOL_PROBLEM_COPIED_FLAG: u32 = 4;
/// A reference leads behind the end of the file.
pub const HOL_PROBLEM_OUTSIDE_FILE: u32 = 5;
/// A refcount cannot be read, since its table entry is invalid.
pub const HOL_PROBLEM_NO_REFCOUNT: u32 = 6;
/// A table begins in the file but is cut short by its end.
pub const HOL_PROBLEM_CUT_SHORT: u32 = 7;
/// Two structures lie on one cluster that only one of them can own.
pub const HOL_PROBLEM_OVERLAP: u32 = 8;
/// The bitmap directory or a bitmap is damaged.
pub const HOL_PROBLEM_BITMAP: u32 = 9;
/// A bitmap is in a state in which its contents cannot be used; no damage.
pub const HOL_PROBLEM_UNUSABLE_BITMAP: u32 = 10;
/// An entry of the snapshot table has neither a name nor tables.
pub const HOL_PROBLEM_SNAPSHOT: u32 = 11;

/// Data is damaged, or will be when the image is written.
pub const HOL_SEVERITY_CORRUPTION: u32 = 1;
/// Space is wasted.
pub const HOL_SEVERITY_LEAK: u32 = 2;
/// Something could not be checked.
pub const HOL_SEVERITY_UNCHECKED: u32 = 3;
/// Worth knowing.
pub const HOL_SEVERITY_NOTE: u32 = 4;

/// What a check found, in numbers; after a repair: what remains, and what was done. Set struct_size to the sizeof of the
/// structure (HOL_OPTIONS_INIT does); the library fills the rest.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct hol_check_report {
    /// sizeof(hol_check_report)
    pub struct_size: usize,
    /// Refcounts that are too low, and entries that are wrong.
    pub corruptions: u64,
    /// Damage that QEMU does not count: overlaps, broken bitmaps, tables that the file's end cuts short.
    pub further_corruptions: u64,
    /// Clusters whose refcount is too high.
    pub leaks: u64,
    /// Clusters that could not be checked.
    pub check_errors: u64,
    /// The end of the last cluster in use, in bytes of the file.
    pub image_end_offset: u64,
    /// Clusters of the disk.
    pub total_clusters: u64,
    /// Clusters of the disk that the image has space for.
    pub allocated_clusters: u64,
    /// Of these, those that do not follow the one before them.
    pub fragmented_clusters: u64,
    /// Clusters of the disk that are compressed.
    pub compressed_clusters: u64,
    /// Number of problems that hol_check_problem() tells: a thousand at most.
    pub problems: u64,
    /// How many more there are.
    pub problems_omitted: u64,
    /// Of a repair: corruptions that are gone.
    pub corruptions_fixed: u64,
    /// Of a repair: damage that QEMU does not count and that is gone.
    pub further_corruptions_fixed: u64,
    /// Of a repair: leaked clusters that are free now.
    pub leaks_fixed: u64,
    /// Of a repair: number of problems found before it that hol_check_found() tells; a thousand at most.
    pub found: u64,
    /// How many more there were.
    pub found_omitted: u64,
    /// Of a repair: bitmaps that were given up, which hol_check_lost_bitmap() tells. The next backup by them is a full one.
    pub lost_bitmaps: u64,
    /// Of a repair: number of things that were not repaired although that might have been expected; hol_check_left() tells
    /// each.
    pub left: u64,
    /// HOL_VERDICT_*
    pub verdict: u32,
    /// 1: everything that can refer to clusters was read, so that leaked clusters are surely not in use; else 0.
    pub leaks_are_certain: u32,
    /// Of a repair: number of parts of the snapshot table that were given up, which hol_check_lost_snapshots() tells.
    pub lost_snapshots: u64,
    /// Of a repair: number of things that were mended in the snapshot table; hol_check_mended_snapshot() tells each.
    pub mended_snapshots: u64,
}

/// One thing that is wrong, or the same thing with several clusters in a row. Set struct_size to the sizeof of the structure
/// (HOL_OPTIONS_INIT does); the library fills the rest. The text belongs to the check.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct hol_problem {
    /// sizeof(hol_problem)
    pub struct_size: usize,
    /// The problem in words.
    pub text: *const c_char,
    /// Where, in bytes of the file; UINT64_MAX: it is not about one place.
    pub offset: u64,
    /// How many clusters from there on; 0: it is not about clusters.
    pub clusters: u64,
    /// HOL_PROBLEM_*. Later versions may add kinds.
    pub kind: u32,
    /// HOL_SEVERITY_*
    pub severity: u32,
}

// SAFETY: `repr(C)`, size first; integers, of which zero is a value.
unsafe impl Grows for hol_check_report {}
// SAFETY: `repr(C)`, size first; integers and a pointer, of which zero and NULL are values.
unsafe impl Grows for hol_problem {}

/// The constant of a kind of problem.
pub(super) fn problem_of(kind: CheckProblemKind) -> u32 {
    match kind {
        CheckProblemKind::RefcountTooLow => HOL_PROBLEM_REFCOUNT_TOO_LOW,
        CheckProblemKind::Leak => HOL_PROBLEM_LEAK,
        CheckProblemKind::InvalidEntry => HOL_PROBLEM_INVALID_ENTRY,
        CheckProblemKind::CopiedFlag => HOL_PROBLEM_COPIED_FLAG,
        CheckProblemKind::OutsideFile => HOL_PROBLEM_OUTSIDE_FILE,
        CheckProblemKind::NoRefcount => HOL_PROBLEM_NO_REFCOUNT,
        CheckProblemKind::CutShort => HOL_PROBLEM_CUT_SHORT,
        CheckProblemKind::Overlap => HOL_PROBLEM_OVERLAP,
        CheckProblemKind::Bitmap => HOL_PROBLEM_BITMAP,
        CheckProblemKind::Snapshot => HOL_PROBLEM_SNAPSHOT,
        CheckProblemKind::UnusableBitmap => HOL_PROBLEM_UNUSABLE_BITMAP,
    }
}

/// What a check or a repair found. Several threads may use it at the same time; only hol_check_free() must come alone.
pub struct hol_check {
    report: RepairReport,
    texts: Texts,
    poison: Poison,
}

impl Handle for hol_check {
    fn poison(&self) -> &Poison {
        &self.poison
    }
}

impl hol_check {
    fn of(report: RepairReport) -> Self {
        hol_check { report, texts: Texts::default(), poison: Poison::default() }
    }

    fn summary(&self) -> hol_check_report {
        let RepairReport { found, remaining, .. } = &self.report;
        hol_check_report {
            struct_size: 0,
            corruptions: remaining.corruptions,
            further_corruptions: remaining.further_corruptions,
            leaks: remaining.leaks,
            check_errors: remaining.check_errors,
            image_end_offset: remaining.image_end_offset,
            total_clusters: remaining.total_clusters,
            allocated_clusters: remaining.allocated_clusters,
            fragmented_clusters: remaining.fragmented_clusters,
            compressed_clusters: remaining.compressed_clusters,
            problems: remaining.problems.len() as u64,
            problems_omitted: remaining.problems_omitted,
            corruptions_fixed: self.report.corruptions_fixed,
            further_corruptions_fixed: self.report.further_corruptions_fixed,
            leaks_fixed: self.report.leaks_fixed,
            found: found.problems.len() as u64,
            found_omitted: found.problems_omitted,
            lost_bitmaps: self.report.lost_bitmaps.len() as u64,
            left: self.report.left.len() as u64,
            verdict: verdict_of(remaining.verdict()),
            leaks_are_certain: remaining.leaks_are_certain.into(),
            lost_snapshots: self.report.lost_snapshots.len() as u64,
            mended_snapshots: self.report.mended_snapshots.len() as u64,
        }
    }

    fn problem(&self, problems: &[CheckProblem], index: usize) -> Result<hol_problem, Failure> {
        let problem = at(problems, index, "problem")?;
        Ok(hol_problem {
            struct_size: 0,
            text: self.texts.keep(&problem.text),
            offset: problem.offset.unwrap_or(u64::MAX),
            clusters: problem.clusters,
            kind: problem_of(problem.kind),
            severity: match problem.kind.severity() {
                CheckSeverity::Corruption => HOL_SEVERITY_CORRUPTION,
                CheckSeverity::Leak => HOL_SEVERITY_LEAK,
                CheckSeverity::Unchecked => HOL_SEVERITY_UNCHECKED,
                CheckSeverity::Note => HOL_SEVERITY_NOTE,
            },
        })
    }
}

/// The item of a list, or an error that says how many there are.
fn at<'a, T>(list: &'a [T], index: usize, what: &str) -> Result<&'a T, Failure> {
    list.get(index).ok_or_else(|| invalid(format!("there is no {what} {index}: there are {}", list.len())))
}

/// Checks the qcow2 image at `path`: whether refcounts and tables agree, whether anything lies on anything else, whether its
/// bitmaps are sound. Looks at the image alone, also at one that is too damaged to be opened, and changes nothing. `options`
/// may be NULL: of them only format, sharing and memory_limit count; the check needs one or two bytes of memory for each
/// cluster of the file.
///
/// On success `*check` belongs to the caller: hol_check_free(). On failure it is NULL. A damaged image is no failure.
///
/// Errors: those of hol_disk_open() for an image that cannot be looked at at all; HOL_ERR_UNSUPPORTED (a raw image has nothing
/// to check), HOL_ERR_LIMIT (too many clusters for the memory limit).
///
/// Threads: any. Blocks: yes, for input. From callbacks: yes. Since: 0.1.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hol_disk_check(
    path: *const c_char,
    options: *const hol_disk_options,
    check: *mut *mut hol_check,
) -> c_int {
    boundary(|| {
        // SAFETY: the argument is as the header asks.
        let check = unsafe { out(check, "check") }?;
        check.set(ptr::null_mut());
        // SAFETY: the arguments are as the header asks.
        let (path, options) = unsafe { (text(path, "path")?, self::options(options, "options")?.read()?) };
        let remaining = Disk::check(as_path(path), &options)?;
        check.set(give(hol_check::of(RepairReport { remaining, ..RepairReport::default() })));
        Ok(HOL_OK)
    })
}

/// Repairs the qcow2 image at `path` as far as `mode`, HOL_REPAIR_*, allows, and checks it before and afterwards. The image is
/// locked against everybody else; what is repaired is durable when this returns. Guest data is never changed. `options` as
/// for hol_disk_check().
///
/// On success `*check` belongs to the caller: hol_check_free(). On failure it is NULL. That something remains is no failure.
///
/// Errors: as hol_disk_check(); HOL_ERR_LOCKED (anybody else has the image open), HOL_ERR_INVALID_ARGUMENT (mode; or the image
/// is to be shared), HOL_ERR_UNSUPPORTED (the header has no room for what has to change), HOL_ERR_LIMIT: nothing has changed.
/// After HOL_ERR_IO and HOL_ERR_NO_SPACE a part may be repaired; the image is not worse than it was, and the repair can be
/// tried again.
///
/// Threads: any. Blocks: yes, for input and output. From callbacks: yes. Since: 0.1.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hol_disk_repair(
    path: *const c_char,
    options: *const hol_disk_options,
    mode: u32,
    check: *mut *mut hol_check,
) -> c_int {
    boundary(|| {
        // SAFETY: the argument is as the header asks.
        let check = unsafe { out(check, "check") }?;
        check.set(ptr::null_mut());
        // SAFETY: the arguments are as the header asks.
        let (path, options) = unsafe { (text(path, "path")?, self::options(options, "options")?.read()?) };
        let modes = [(HOL_REPAIR_LEAKS, RepairMode::Leaks), (HOL_REPAIR_ALL, RepairMode::All)];
        let mode = choice("mode", mode, &modes)?;
        check.set(give(hol_check::of(Disk::repair(as_path(path), &options, mode)?)));
        Ok(HOL_OK)
    })
}

/// Gives what the check of the image at `index` of a chain found. On success `*check` belongs to the caller:
/// hol_check_free(). On failure it is NULL.
///
/// Errors: HOL_ERR_INVALID_ARGUMENT (index), HOL_ERR_UNSUPPORTED (the image is raw and has nothing to check), HOL_ERR_NULL,
/// HOL_ERR_PANIC.
///
/// Threads: any. Blocks: no. From callbacks: yes. Since: 0.1.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hol_chain_check(
    chain: *const hol_chain,
    index: usize,
    check: *mut *mut hol_check,
) -> c_int {
    boundary(|| {
        // SAFETY: the argument is as the header asks.
        let check = unsafe { out(check, "check") }?;
        check.set(ptr::null_mut());
        // SAFETY: the argument is as the header asks.
        let chain = unsafe { handle(chain, "chain") }?;
        let image = at(&chain.chain.images, index, "image")?;
        let raw = || {
            let path = image.layer.path.display();
            Error::new(ErrorKind::Unsupported, format!("'{path}': a raw image has nothing to check"))
        };
        let remaining = image.report.clone().ok_or_else(raw)?;
        check.set(give(hol_check::of(RepairReport { remaining, ..RepairReport::default() })));
        Ok(HOL_OK)
    })
}

/// Fills `*report` with what was found and done, in numbers.
///
/// Errors: HOL_ERR_INVALID_ARGUMENT (struct_size), HOL_ERR_NULL, HOL_ERR_PANIC.
///
/// Threads: any. Blocks: no. From callbacks: yes. Since: 0.1.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hol_check_summary(check: *const hol_check, report: *mut hol_check_report) -> c_int {
    boundary(|| {
        // SAFETY: the arguments are as the header asks.
        let (check, report): (_, Fill<_>) = unsafe { (handle(check, "check")?, fill(report, "report")?) };
        report.set(&check.summary());
        Ok(HOL_OK)
    })
}

/// Fills `*problem` with the problem at `index`, from 0 to below hol_check_report.problems; after a repair those that remain.
/// The text stays until hol_check_free().
///
/// Errors: HOL_ERR_INVALID_ARGUMENT (index, struct_size), HOL_ERR_NULL, HOL_ERR_PANIC.
///
/// Threads: any. Blocks: no. From callbacks: yes. Since: 0.1.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hol_check_problem(
    check: *const hol_check,
    index: usize,
    problem: *mut hol_problem,
) -> c_int {
    // SAFETY: the arguments are as the header asks.
    unsafe { fill_problem(check, |report| &report.remaining.problems, index, problem) }
}

/// Fills `*problem` with the one at `index` of a list.
///
/// # Safety
/// As of a function of the header.
unsafe fn fill_problem(
    check: *const hol_check,
    list: impl FnOnce(&RepairReport) -> &[CheckProblem],
    index: usize,
    problem: *mut hol_problem,
) -> c_int {
    boundary(|| {
        // SAFETY: as promised above.
        let (check, problem): (_, Fill<_>) = unsafe { (handle(check, "check")?, fill(problem, "problem")?) };
        problem.set(&check.problem(list(&check.report), index)?);
        Ok(HOL_OK)
    })
}

/// As hol_check_problem(), of what a repair found before: from 0 to below hol_check_report.found.
///
/// Errors: HOL_ERR_INVALID_ARGUMENT (index, struct_size), HOL_ERR_NULL, HOL_ERR_PANIC.
///
/// Threads: any. Blocks: no. From callbacks: yes. Since: 0.1.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hol_check_found(
    check: *const hol_check,
    index: usize,
    problem: *mut hol_problem,
) -> c_int {
    // SAFETY: the arguments are as the header asks.
    unsafe { fill_problem(check, |report| &report.found.problems, index, problem) }
}

/// Writes the name of a bitmap that a repair gave up to `*name`, and why to `*reason`; `index` is from 0 to below
/// hol_check_report.lost_bitmaps. The name is NULL for all that a directory which makes no sense may have had. Both stay until
/// hol_check_free().
///
/// Errors: HOL_ERR_INVALID_ARGUMENT (index), HOL_ERR_NULL, HOL_ERR_PANIC.
///
/// Threads: any. Blocks: no. From callbacks: yes. Since: 0.1.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hol_check_lost_bitmap(
    check: *const hol_check,
    index: usize,
    name: *mut *const c_char,
    reason: *mut *const c_char,
) -> c_int {
    boundary(|| {
        // SAFETY: the arguments are as the header asks.
        let (check, name, reason) =
            unsafe { (handle(check, "check")?, out(name, "name")?, out(reason, "reason")?) };
        let bitmap = at(&check.report.lost_bitmaps, index, "lost bitmap")?;
        name.set(bitmap.name.as_ref().map_or(ptr::null(), |name| check.texts.keep(name)));
        reason.set(check.texts.keep(&bitmap.reason));
        Ok(HOL_OK)
    })
}

/// Writes which snapshots a repair gave up: the place of the first of them in the snapshot table, from 0, to `*first`, how many
/// follow each other there to `*count`, the name to `*name`, and why to `*reason`; `index` is from 0 to below
/// hol_check_report.lost_snapshots. The name is NULL for several, and where it cannot be made out. Both texts stay until
/// hol_check_free().
///
/// Errors: HOL_ERR_INVALID_ARGUMENT (index), HOL_ERR_NULL, HOL_ERR_PANIC.
///
/// Threads: any. Blocks: no. From callbacks: yes. Since: 0.1.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hol_check_lost_snapshots(
    check: *const hol_check,
    index: usize,
    first: *mut u32,
    count: *mut u32,
    name: *mut *const c_char,
    reason: *mut *const c_char,
) -> c_int {
    boundary(|| {
        // SAFETY: the arguments are as the header asks.
        let (check, first, count) =
            unsafe { (handle(check, "check")?, out(first, "first")?, out(count, "count")?) };
        // SAFETY: the arguments are as the header asks.
        let (name, reason) = unsafe { (out(name, "name")?, out(reason, "reason")?) };
        let lost = at(&check.report.lost_snapshots, index, "lost snapshot")?;
        first.set(lost.first);
        count.set(lost.count);
        name.set(lost.name.as_ref().map_or(ptr::null(), |name| check.texts.keep(name)));
        reason.set(check.texts.keep(&lost.reason));
        Ok(HOL_OK)
    })
}

/// Writes what a repair mended in the snapshot table, with what was wrong, to `*text`; `index` is from 0 to below
/// hol_check_report.mended_snapshots. The text stays until hol_check_free().
///
/// Errors: HOL_ERR_INVALID_ARGUMENT (index), HOL_ERR_NULL, HOL_ERR_PANIC.
///
/// Threads: any. Blocks: no. From callbacks: yes. Since: 0.1.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hol_check_mended_snapshot(
    check: *const hol_check,
    index: usize,
    text: *mut *const c_char,
) -> c_int {
    boundary(|| {
        // SAFETY: the arguments are as the header asks.
        let (check, text) = unsafe { (handle(check, "check")?, out(text, "text")?) };
        text.set(check.texts.keep(at(&check.report.mended_snapshots, index, "mended snapshot")?));
        Ok(HOL_OK)
    })
}

/// Writes what a repair did not do, and why, to `*reason`; `index` is from 0 to below hol_check_report.left. The text stays
/// until hol_check_free().
///
/// Errors: HOL_ERR_INVALID_ARGUMENT (index), HOL_ERR_NULL, HOL_ERR_PANIC.
///
/// Threads: any. Blocks: no. From callbacks: yes. Since: 0.1.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hol_check_left(
    check: *const hol_check,
    index: usize,
    reason: *mut *const c_char,
) -> c_int {
    boundary(|| {
        // SAFETY: the arguments are as the header asks.
        let (check, reason) = unsafe { (handle(check, "check")?, out(reason, "reason")?) };
        reason.set(check.texts.keep(at(&check.report.left, index, "such reason")?));
        Ok(HOL_OK)
    })
}

/// Frees what a check found. NULL is allowed and does nothing. Texts that were borrowed from it end here.
///
/// Threads: any, but no other call may use the check. Blocks: no. From callbacks: yes. Since: 0.1.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hol_check_free(check: *mut hol_check) {
    boundary(|| {
        // SAFETY: the argument is as the header asks.
        drop(unsafe { take(check, "check") }?);
        Ok(())
    });
}
