//! Jobs on trial: how they move, what each verb does in each state, how a group ends, and what each error policy does.
//!
//! Reading order: `site` (disks, trouble on request, and what must hold), `tables` (typed out from QEMU's), `verbs`,
//! `groups`, `pausing`, `errors`, `log`.
#![allow(clippy::unwrap_used, clippy::expect_used)] // what cannot be done here fails the test
#![allow(dead_code, unreachable_pub)] // modules of one program, some of them shared with others

#[path = "jobs/errors.rs"]
mod errors;
#[path = "jobs/groups.rs"]
mod groups;
#[path = "jobs/log.rs"]
mod log;
#[path = "jobs/pausing.rs"]
mod pausing;
#[path = "support/qemu.rs"]
mod qemu;
#[path = "support/qsd.rs"]
mod qsd;
#[path = "support/rng.rs"]
mod rng;
#[path = "jobs/site.rs"]
mod site;
#[path = "jobs/tables.rs"]
mod tables;
#[path = "jobs/verbs.rs"]
mod verbs;
#[path = "support/watched.rs"]
mod watched;
