//! What a crash leaves: its name, and how one reads it.

use std::{fmt, str::FromStr};

/// Classes of states that a crash can leave, each one a family of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Level {
    /// Every prefix of the operations, as after the death of the process alone.
    L0,
    /// Every prefix without one or two of the operations that were not durable.
    L1,
    /// Every subset of the operations between two syncs; of many operations the pairs and a sample.
    L2,
    /// Torn writes, punches and clones: cut after each changed sector from either end, or without one changed
    /// sector.
    L3,
    /// A length without its data, which then reads as zeros or as stale bytes; data without its length.
    L4,
    /// Every subset of the changes of names, with and without the data of the files.
    L5,
    /// Each file and each folder by itself: some of what was pending of one beside any of what was of the others.
    L6,
    /// A torn write, punch or clone beside the loss of another operation, or of all others.
    L7,
    /// The change time of a file taken back to an earlier one, whatever became of its bytes; or a new one without them.
    L8,
    /// The first sector of a file torn between two bytes.
    L9,
}

impl Level {
    /// All those of a disk that writes its sectors as a whole, on a file system whose change times are as durable as the
    /// bytes that they are about. The others are to be asked for.
    pub const ALL: [Level; 8] =
        [Level::L0, Level::L1, Level::L2, Level::L3, Level::L4, Level::L5, Level::L6, Level::L7];

    /// The others.
    pub const MORE: [Level; 2] = [Level::L8, Level::L9];
}

/// What becomes of one operation in a crash.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Fate {
    /// It is on the disk.
    Present,
    /// It never got there.
    Lost,
    /// Of a write, a punch or a clone: only so many of its sectors did, the first ones; the file ends with them
    /// if it grew.
    Head(u32),
    /// Of the same: only the sectors from this one on did, counted from its first.
    Tail(u32),
    /// Of the same: all but this sector did.
    Hole(u32),
    /// Of a write or a clone: only the length that it gave the file; new bytes read as zero.
    Length,
    /// Of a write: its length and its place, which still has old bytes where nothing was written before. Of a
    /// clone the same, where the source's bytes had not arrived themselves.
    Stale,
    /// Of a write or a clone: its data, but not the length; what lies behind the old end is lost.
    Data,
    /// Of a write, a punch or a clone: only so many bytes of it, the first ones.
    Bytes(u32),
    /// Of the same: only the bytes from this one on.
    From(u32),
}

/// A crash: after how many operations, and what becomes of those that were not durable then. It says
/// everything that is needed to rebuild its state from a [`super::Recording`], and has a short text for it:
/// `L3@42:-17,-19..21,30.head3` is the crash after 42 operations in which the operations 17 and 19 to 21 (the
/// first of all is 0) are lost and of the write 30 only three sectors arrived. In `L8@42:t3=17` file 3 has the change
/// time that it had after 17 operations.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Crash {
    level: Level,
    after: usize,
    fates: Vec<(usize, Fate)>,
    times: Vec<(u64, usize)>,
}

impl Crash {
    /// A crash after `after` operations; those without a fate are present.
    pub fn new(level: Level, after: usize, fates: impl IntoIterator<Item = (usize, Fate)>) -> Self {
        let mut fates: Vec<_> = fates.into_iter().filter(|(_, fate)| *fate != Fate::Present).collect();
        fates.sort_unstable();
        fates.dedup_by_key(|(number, _)| *number);
        Crash { level, after, fates, times: Vec::new() }
    }

    /// The same, but each of these files has the change time that it had after so many operations, whatever became of
    /// its bytes. At most it is one more than those of the crash: then the next one, a write, a punch, a clone or a new
    /// length, had begun with the time, as they do.
    pub fn with_times(mut self, times: impl IntoIterator<Item = (u64, usize)>) -> Self {
        self.times = times.into_iter().collect();
        self.times.sort_unstable();
        self.times.dedup_by_key(|(file, _)| *file);
        self
    }

    /// The family that it belongs to.
    pub fn level(&self) -> Level {
        self.level
    }

    /// How many operations had been done.
    pub fn after(&self) -> usize {
        self.after
    }

    /// The operations that are not wholly present, in their order.
    pub fn fates(&self) -> &[(usize, Fate)] {
        &self.fates
    }

    /// What becomes of one operation.
    pub(super) fn fate_of(&self, number: usize) -> Fate {
        let found = self.fates.binary_search_by_key(&number, |(number, _)| *number);
        found.map_or(Fate::Present, |at| self.fates[at].1)
    }

    /// The files whose change time is not that of their last operation that is present, and the moment whose time they
    /// have.
    pub fn times(&self) -> &[(u64, usize)] {
        &self.times
    }
}

impl fmt::Display for Crash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}@{}", self.level, self.after)?;
        let (mut at, mut separator) = (0, ':');
        while let Some(&(number, fate)) = self.fates.get(at) {
            write!(f, "{separator}")?;
            separator = ',';
            at += 1;
            if fate != Fate::Lost {
                write!(f, "{number}.{fate}")?;
                continue;
            }
            let start = at - 1;
            while self.fates.get(at) == Some(&(number + at - start, Fate::Lost)) {
                at += 1;
            }
            match at - start {
                1 => write!(f, "-{number}")?,
                length => write!(f, "-{number}..{}", number + length - 1)?,
            }
        }
        for (file, moment) in &self.times {
            write!(f, "{separator}t{file}={moment}")?;
            separator = ',';
        }
        Ok(())
    }
}

impl fmt::Display for Fate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fate::Present => f.write_str("present"),
            Fate::Lost => f.write_str("lost"),
            Fate::Head(count) => write!(f, "head{count}"),
            Fate::Tail(first) => write!(f, "tail{first}"),
            Fate::Hole(missing) => write!(f, "hole{missing}"),
            Fate::Length => f.write_str("length"),
            Fate::Stale => f.write_str("stale"),
            Fate::Data => f.write_str("data"),
            Fate::Bytes(count) => write!(f, "bytes{count}"),
            Fate::From(first) => write!(f, "from{first}"),
        }
    }
}

/// A text that names no crash.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' names no crash; an example is L1@42:-17,30.head3")]
pub struct ParseCrashError(String);

impl FromStr for Crash {
    type Err = ParseCrashError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        parse(text).ok_or_else(|| ParseCrashError(text.to_owned()))
    }
}

fn parse(text: &str) -> Option<Crash> {
    let (head, list) = text.split_once(':').unwrap_or((text, ""));
    let (level, after) = head.split_once('@')?;
    let level = Level::ALL.into_iter().chain(Level::MORE).find(|known| format!("{known:?}") == level)?;
    let after = after.parse().ok()?;
    let (mut fates, mut times) = (Vec::new(), Vec::new());
    for item in list.split(',').filter(|item| !item.is_empty()) {
        if let Some(lost) = item.strip_prefix('-') {
            let (first, last) = lost.split_once("..").unwrap_or((lost, lost));
            let (first, last): (usize, usize) = (first.parse().ok()?, last.parse().ok()?);
            if last >= after {
                return None;
            }
            fates.extend((first..=last).map(|number| (number, Fate::Lost)));
        } else if let Some(time) = item.strip_prefix('t') {
            let (file, moment) = time.split_once('=')?;
            times.push((file.parse().ok()?, moment.parse().ok()?));
        } else {
            let (number, fate) = item.split_once('.')?;
            fates.push((number.parse().ok()?, parse_fate(fate)?));
        }
    }
    Some(Crash::new(level, after, fates).with_times(times))
}

fn parse_fate(text: &str) -> Option<Fate> {
    let digits = text.find(|c: char| c.is_ascii_digit()).unwrap_or(text.len());
    let (word, number) = text.split_at(digits);
    match (word, number.parse().ok()) {
        ("head", Some(count)) => Some(Fate::Head(count)),
        ("tail", Some(first)) => Some(Fate::Tail(first)),
        ("hole", Some(missing)) => Some(Fate::Hole(missing)),
        ("length", None) => Some(Fate::Length),
        ("stale", None) => Some(Fate::Stale),
        ("data", None) => Some(Fate::Data),
        ("bytes", Some(count)) => Some(Fate::Bytes(count)),
        ("from", Some(first)) => Some(Fate::From(first)),
        _ => None,
    }
}
