//! Operations that fail on request.

use std::io;

use super::log::Effect;

/// Kinds of operations, to count them and to let them fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum OperationKind {
    /// Opening a file that exists.
    Open,
    /// Creating a file.
    Create,
    /// Reading.
    Read,
    /// Writing.
    Write,
    /// Setting a length.
    SetLen,
    /// Making a range a hole.
    Punch,
    /// Sharing a range of another file.
    CloneRange,
    /// Making a file durable.
    Sync,
    /// Renaming.
    Rename,
    /// Giving a file a second name.
    Link,
    /// Removing a name.
    Unlink,
    /// Making the names of a folder durable.
    SyncFolder,
    /// Asking for a length, an identity, or what a name leads to.
    Status,
    /// Looking for data and holes.
    Extent,
    /// Locking.
    Lock,
}

impl OperationKind {
    /// All of them.
    pub const ALL: [OperationKind; 15] = [
        OperationKind::Open,
        OperationKind::Create,
        OperationKind::Read,
        OperationKind::Write,
        OperationKind::SetLen,
        OperationKind::Punch,
        OperationKind::CloneRange,
        OperationKind::Sync,
        OperationKind::Rename,
        OperationKind::Link,
        OperationKind::Unlink,
        OperationKind::SyncFolder,
        OperationKind::Status,
        OperationKind::Extent,
        OperationKind::Lock,
    ];
}

/// How an operation fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// With this error number of the operating system, and without any effect, except that a failed sync
    /// poisons what it was to make durable.
    Errno(i32),
    /// With this error number, after it has taken effect: as on a network file system whose answer was lost.
    Late(i32),
    /// Of a sync: with this error number, and what was written to the file and was not durable is gone from the cache. From now on
    /// the old bytes are read there, or zeros where there were none. Of others the same as `Errno`.
    Dropped(i32),
    /// A read or write transfers so many bytes at most and succeeds; operations of other kinds never fail so.
    AtMost(usize),
}

/// An order to fail.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The kinds that are counted and that fail.
    pub kinds: Vec<OperationKind>,
    /// Which of them fails, counted from 1 and from the moment of the order.
    pub nth: u64,
    /// How.
    pub failure: Failure,
    /// Whether all of them fail from that one on.
    pub lasting: bool,
}

impl Fault {
    /// Only the `nth` operation of this kind fails.
    pub fn once(kind: OperationKind, nth: u64, failure: Failure) -> Self {
        Fault { kinds: vec![kind], nth, failure, lasting: false }
    }

    /// The `nth` operation of this kind fails, and all behind it.
    pub fn lasting(kind: OperationKind, nth: u64, failure: Failure) -> Self {
        Fault { lasting: true, ..Fault::once(kind, nth, failure) }
    }
}

/// The orders in force, and how often each kind of operation was called.
#[derive(Debug, Default)]
pub(super) struct Faults {
    armed: Vec<(Fault, u64)>,
    calls: [u64; OperationKind::ALL.len()],
}

impl Faults {
    pub(super) fn arm(&mut self, fault: Fault) {
        self.armed.push((fault, 0));
    }

    pub(super) fn disarm(&mut self) {
        self.armed.clear();
    }

    pub(super) fn calls(&self, kind: OperationKind) -> u64 {
        self.calls[kind as usize]
    }

    /// Counts a call that changes nothing and says how many bytes it may transfer.
    pub(super) fn meet(&mut self, kind: OperationKind) -> io::Result<usize> {
        let leave = self.judge(kind);
        leave.failure.map_or(Ok(leave.most), |(number, _)| Err(io::Error::from_raw_os_error(number)))
    }

    /// Counts a call and says what becomes of it.
    pub(super) fn judge(&mut self, kind: OperationKind) -> Leave {
        self.calls[kind as usize] += 1;
        let mut leave = Leave { most: usize::MAX, failure: None };
        for (fault, seen) in self.armed.iter_mut().filter(|(fault, _)| fault.kinds.contains(&kind)) {
            *seen += 1;
            if *seen != fault.nth && !(fault.lasting && *seen > fault.nth) {
                continue;
            }
            match fault.failure {
                Failure::Errno(number) => leave.failure = Some((number, Effect::None)),
                Failure::Late(number) => leave.failure = Some((number, Effect::Whole)),
                Failure::Dropped(number) if kind == OperationKind::Sync => {
                    leave.failure = Some((number, Effect::Dropped));
                }
                Failure::Dropped(number) => leave.failure = Some((number, Effect::None)),
                Failure::AtMost(count) => leave.most = leave.most.min(count),
            }
        }
        leave
    }
}

/// What becomes of an operation.
#[derive(Clone, Copy, Debug)]
pub(super) struct Leave {
    /// So many bytes it may transfer.
    pub(super) most: usize,
    /// The error that it reports, and what it does all the same.
    pub(super) failure: Option<(i32, Effect)>,
}
