//! What a recovery tells.

use std::path::PathBuf;

/// What recovery found in a journal folder, and did about it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recovery {
    /// Each thing that was looked at, in order.
    pub items: Vec<RecoveryItem>,
}

/// One thing that recovery found or did.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RecoveryItem {
    /// What became of it.
    pub kind: RecoveryKind,
    /// The file it is about.
    pub path: PathBuf,
    /// The reason, where there is more to say than the kind does; else empty.
    pub reason: String,
    /// The journal of its transaction.
    pub journal: PathBuf,
}

/// What became of one file of a transaction that died.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RecoveryKind {
    /// A temporary file of a transaction that was never decided was removed.
    TemporaryRemoved,
    /// A target got its name.
    TargetPublished,
    /// A target had its name already.
    TargetWasPublished,
    /// A target is not there any more, or its name is taken: the bitmaps of its transaction stay dirty, or are given up.
    TargetMissing,
    /// The bitmaps of an image are as the transaction makes them.
    BitmapsChanged,
    /// They were so already.
    BitmapsWereChanged,
    /// The bitmaps stay as they are, dirtier than they could be.
    BitmapsLeft,
    /// What somebody wrote meanwhile, or may have, is not in an image's bitmaps, or the backup that they are about is gone:
    /// they are inconsistent now, and the next backup is a full one.
    BitmapsGivenUp,
    /// Something cannot be finished now; the journal stays for the next recovery.
    Unfinished,
    /// The transaction is at work: nothing was touched.
    AtWork,
}
