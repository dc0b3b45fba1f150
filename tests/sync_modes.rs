//! Sync modes and bitmap modes of a disk at rest, cell by cell: what a backup leaves of target and bitmap when it
//! succeeds, fails and is cancelled, and that the next increment then has all that is missing. QEMU judges.
//!
//! Reading order: `storage` (trouble on request), `site` (the disk, and what must hold of it), `cells` (the table),
//! `always` (partial targets of every kind), `command`, `rounds`, `refusals`, `crashes`.
#![allow(clippy::unwrap_used, clippy::expect_used)] // what cannot be done here fails the test
#![allow(unreachable_pub)] // modules of one program

mod support;

#[path = "sync_modes/always.rs"]
mod always;
#[path = "sync_modes/cells.rs"]
mod cells;
#[path = "sync_modes/command.rs"]
mod command;
#[path = "support/crash.rs"]
mod crash;
#[path = "sync_modes/crashes.rs"]
mod crashes;
#[path = "sync_modes/refusals.rs"]
mod refusals;
#[path = "sync_modes/rounds.rs"]
mod rounds;
#[path = "sync_modes/site.rs"]
mod site;
#[path = "support/watched.rs"]
mod storage;
