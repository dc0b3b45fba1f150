//! What a check has found.

/// What is wrong. The first five kinds are those that `qemu-img check` counts as corruptions and leaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum CheckProblemKind {
    /// A cluster has a lower refcount than references: it may be given away while it is in use.
    RefcountTooLow,
    /// A cluster has a higher refcount than references: wasted space, but no harm.
    Leak,
    /// A table entry breaks the specification.
    InvalidEntry,
    /// The flag of an L1 or L2 entry that promises a refcount of 1 disagrees with the refcount.
    CopiedFlag,
    /// A reference leads behind the end of the file.
    OutsideFile,
    /// A refcount cannot be read, since its table entry is invalid.
    NoRefcount,
    /// A table begins in the file but is cut short by its end.
    CutShort,
    /// Two structures lie on one cluster that only one of them can own.
    Overlap,
    /// The bitmap directory or a bitmap is damaged.
    Bitmap,
    /// An entry of the snapshot table has neither a name nor tables.
    Snapshot,
    /// A bitmap is in a state in which its contents cannot be used; no damage.
    UnusableBitmap,
}

/// How bad a problem is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CheckSeverity {
    /// Data is damaged, or will be when the image is written.
    Corruption,
    /// Space is wasted.
    Leak,
    /// Something could not be checked.
    Unchecked,
    /// Worth knowing.
    Note,
}

impl CheckProblemKind {
    /// All of them.
    #[cfg(test)]
    pub(crate) const ALL: &[CheckProblemKind] = &[
        CheckProblemKind::RefcountTooLow,
        CheckProblemKind::Leak,
        CheckProblemKind::InvalidEntry,
        CheckProblemKind::CopiedFlag,
        CheckProblemKind::OutsideFile,
        CheckProblemKind::NoRefcount,
        CheckProblemKind::CutShort,
        CheckProblemKind::Overlap,
        CheckProblemKind::Bitmap,
        CheckProblemKind::Snapshot,
        CheckProblemKind::UnusableBitmap,
    ];

    /// A short name for programs: "leak". It never changes.
    pub fn name(self) -> &'static str {
        match self {
            CheckProblemKind::RefcountTooLow => "refcount-too-low",
            CheckProblemKind::Leak => "leak",
            CheckProblemKind::InvalidEntry => "invalid-entry",
            CheckProblemKind::CopiedFlag => "copied-flag",
            CheckProblemKind::OutsideFile => "outside-file",
            CheckProblemKind::NoRefcount => "no-refcount",
            CheckProblemKind::CutShort => "cut-short",
            CheckProblemKind::Overlap => "overlap",
            CheckProblemKind::Bitmap => "bitmap",
            CheckProblemKind::Snapshot => "snapshot",
            CheckProblemKind::UnusableBitmap => "unusable-bitmap",
        }
    }

    /// How bad it is.
    pub fn severity(self) -> CheckSeverity {
        match self {
            CheckProblemKind::Leak => CheckSeverity::Leak,
            CheckProblemKind::NoRefcount => CheckSeverity::Unchecked,
            CheckProblemKind::UnusableBitmap => CheckSeverity::Note,
            _ => CheckSeverity::Corruption,
        }
    }
}

/// What a check found, in one word; the best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CheckVerdict {
    /// Nothing is wrong.
    Consistent,
    /// Space is wasted, and nothing else is wrong.
    Leaks,
    /// Data is damaged, or will be when the image is written.
    Corrupt,
    /// A part could not be checked.
    Incomplete,
}

/// One thing that is wrong, or the same thing with several clusters in a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckProblem {
    /// What is wrong.
    pub kind: CheckProblemKind,
    /// Where, in bytes of the image file; `None` when it is not about one place.
    pub offset: Option<u64>,
    /// How many clusters from there on; 0 when it is not about clusters.
    pub clusters: u64,
    /// The problem in words.
    pub text: String,
}

/// What a check of a qcow2 image found. All numbers but `further_corruptions` are counted as `qemu-img check`
/// counts them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CheckReport {
    /// Refcounts that are too low, and entries that are wrong.
    pub corruptions: u64,
    /// Of these, flags of L1 and L2 entries that disagree with the refcount.
    pub copied_flags: u64,
    /// Clusters whose refcount is too high.
    pub leaks: u64,
    /// Clusters that could not be checked.
    pub check_errors: u64,
    /// Damage that QEMU does not count: overlaps, L2 tables that two L1 entries share, broken bitmaps, tables that the
    /// file's end cuts short, entries of the snapshot table that are empty.
    pub further_corruptions: u64,
    /// The end of the last cluster in use.
    pub image_end_offset: u64,
    /// Clusters of the disk.
    pub total_clusters: u64,
    /// Clusters of the disk that the image has space for.
    pub allocated_clusters: u64,
    /// Of these, those that do not follow the one before them; compressed ones never do.
    pub fragmented_clusters: u64,
    /// Clusters of the disk that are compressed.
    pub compressed_clusters: u64,
    /// Whether everything that can refer to clusters was read: only then are leaked clusters surely unused.
    pub leaks_are_certain: bool,
    /// The problems, the first thousand.
    pub problems: Vec<CheckProblem>,
    /// How many more there are.
    pub problems_omitted: u64,
}

impl CheckReport {
    /// What a check begins with.
    pub(super) fn new() -> Self {
        CheckReport { leaks_are_certain: true, ..CheckReport::default() }
    }

    /// Whether anything is corrupt, by QEMU's count or ours.
    pub fn is_corrupt(&self) -> bool {
        self.corruptions > 0 || self.further_corruptions > 0
    }

    /// The whole report in one word.
    pub fn verdict(&self) -> CheckVerdict {
        match self {
            _ if self.check_errors > 0 => CheckVerdict::Incomplete,
            _ if self.is_corrupt() => CheckVerdict::Corrupt,
            _ if self.leaks > 0 => CheckVerdict::Leaks,
            _ => CheckVerdict::Consistent,
        }
    }

    /// Adds a problem that counts `times`.
    pub(crate) fn add(
        &mut self,
        kind: CheckProblemKind,
        times: u64,
        offset: Option<u64>,
        clusters: u64,
        text: impl FnOnce() -> String,
    ) {
        use CheckProblemKind as Kind;
        // Whatever the wrong or missing reference should lead to counts as leaked.
        if matches!(
            kind,
            Kind::InvalidEntry | Kind::OutsideFile | Kind::CutShort | Kind::Bitmap | Kind::Snapshot
        ) {
            self.leaks_are_certain = false;
        }
        match kind {
            Kind::Leak => self.leaks += times,
            Kind::NoRefcount => self.check_errors += times,
            Kind::CutShort | Kind::Overlap | Kind::Bitmap | Kind::Snapshot => {
                self.further_corruptions += times
            }
            Kind::UnusableBitmap => {}
            _ => self.corruptions += times,
        }
        if kind == Kind::CopiedFlag {
            self.copied_flags += times;
        }
        if self.problems.len() < MAX_PROBLEMS {
            self.problems.push(CheckProblem { kind, offset, clusters, text: text() });
        } else {
            self.problems_omitted += 1;
        }
    }

    /// Adds a wrong table entry at a file offset.
    pub(super) fn invalid(&mut self, times: u64, offset: u64, text: impl FnOnce() -> String) {
        self.add(CheckProblemKind::InvalidEntry, times, Some(offset), 0, text);
    }
}

/// More are only counted.
const MAX_PROBLEMS: usize = 1000;
