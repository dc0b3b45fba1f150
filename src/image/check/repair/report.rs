//! What a repair is to do, and what it did.

use std::{fmt, str::FromStr};

use super::super::CheckReport;
use crate::error::{Error, ErrorKind, Result};

/// How much a repair may change. In neither mode does guest data change, nor does any cluster that could hold
/// some become free, but for what only bitmaps and snapshots had that are given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RepairMode {
    /// Refcounts that are higher than the references go down, so that leaked clusters can be used again; only
    /// when everything that can refer to clusters was read. When nothing else is wrong, flags of L1 and L2
    /// entries follow the refcounts.
    Leaks,
    /// The same, and wrong or unreadable refcounts are counted anew, flags follow them, and broken bitmaps are
    /// given up, and so are snapshots whose tables cannot be found. What a broken entry of an L1 or L2 table led to cannot
    /// be repaired. Nothing is repaired where the header names a wrong place for the snapshot table.
    All,
}

impl FromStr for RepairMode {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "leaks" => Ok(RepairMode::Leaks),
            "all" => Ok(RepairMode::All),
            _ => {
                let text = format!("unknown kind of repair '{text}'; use leaks or all");
                Err(Error::new(ErrorKind::InvalidArgument, text))
            }
        }
    }
}

impl fmt::Display for RepairMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            RepairMode::Leaks => "leaks",
            RepairMode::All => "all",
        })
    }
}

/// A bitmap that was given up since it could not be trusted any more. The next backup by it has to be a full one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LostBitmap {
    /// Its name; `None` for all that a directory which makes no sense may have had.
    pub name: Option<Vec<u8>>,
    /// Why.
    pub reason: String,
}

/// Snapshots that were given up since their entries in the snapshot table lead to nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LostSnapshots {
    /// The place of the first of them in the table, from 0.
    pub first: u32,
    /// How many there are, one after the other.
    pub count: u32,
    /// The name of the one, if it can be made out.
    pub name: Option<Vec<u8>>,
    /// Why.
    pub reason: String,
}

/// What a repair found, did and left.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RepairReport {
    /// What a check found before.
    pub found: CheckReport,
    /// What a check found afterwards.
    pub remaining: CheckReport,
    /// Leaked clusters that are free now.
    pub leaks_fixed: u64,
    /// Corruptions that are gone, counted as `qemu-img check` counts them: wrong refcounts, broken entries of the
    /// refcount table, and flags that were changed.
    pub corruptions_fixed: u64,
    /// Damage that QEMU does not count and that is gone.
    pub further_corruptions_fixed: u64,
    /// Bitmaps that were given up.
    pub lost_bitmaps: Vec<LostBitmap>,
    /// Snapshots that were given up.
    pub lost_snapshots: Vec<LostSnapshots>,
    /// Snapshots whose entries in the table were mended, with what was wrong.
    pub mended_snapshots: Vec<String>,
    /// What was not repaired although it might have been expected, with the reason.
    pub left: Vec<String>,
}

/// What a repair did, before its result is checked.
#[derive(Debug, Default)]
pub(crate) struct Repaired {
    /// Flags of L1 and L2 entries that were changed.
    pub(crate) flags: u64,
    pub(crate) lost_bitmaps: Vec<LostBitmap>,
    pub(crate) lost_snapshots: Vec<LostSnapshots>,
    pub(crate) mended_snapshots: Vec<String>,
    pub(crate) left: Vec<String>,
    /// Something was written.
    pub(crate) written: bool,
}
