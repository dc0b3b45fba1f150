//! Groups of backups on trial: all disks or none, through any crash, any failure, and any stranger.
//!
//! Reading order: `night` (what is run), `judge` (what has to hold), then `crashes`,
//! `strangers`, `names`, `known`, `failures`, `synced`, `panics`, `journals`, `killed`; and `protocol`, which is the same without files.
#![allow(clippy::unwrap_used, clippy::expect_used)] // what cannot be done here fails the test
#![allow(dead_code, unreachable_pub)] // some modules are shared with other test programs

#[path = "group_commit/again.rs"]
mod again;
#[path = "group_commit/clocks.rs"]
mod clocks;
#[path = "support/crash.rs"]
mod crash;
#[path = "group_commit/crashes.rs"]
mod crashes;
#[path = "group_commit/durable.rs"]
mod durable;
#[path = "group_commit/failures.rs"]
mod failures;
#[path = "support/trials/images.rs"]
mod images;
#[path = "group_commit/journals.rs"]
mod journals;
#[path = "group_commit/judge.rs"]
mod judge;
#[path = "group_commit/killed.rs"]
mod killed;
#[path = "group_commit/known.rs"]
mod known;
#[path = "support/trials/model.rs"]
mod model;
#[path = "group_commit/names.rs"]
mod names;
#[path = "group_commit/night.rs"]
mod night;
#[path = "group_commit/panics.rs"]
mod panics;
#[path = "group_commit/protocol.rs"]
mod protocol;
#[path = "support/qemu.rs"]
mod qemu;
#[path = "support/qsd.rs"]
mod qsd;
#[path = "support/trials/refcounts.rs"]
mod refcounts;
#[path = "support/rng.rs"]
mod rng;

#[path = "group_commit/strangers.rs"]
mod strangers;
#[path = "group_commit/synced.rs"]
mod synced;

use std::sync::OnceLock;

use holstein::storage::simulated::Lack;
use night::{Night, Other, Recipe};

/// The tests of each group.
macro_rules! nights {
    ($($module:ident: $recipe:expr;)*) => {$(
        mod $module {
            use super::*;

            pub fn night() -> &'static Night {
                static NIGHT: OnceLock<Night> = OnceLock::new();
                NIGHT.get_or_init(|| $recipe.make())
            }

            #[test]
            fn crashes_leave_all_or_nothing() {
                crashes::leave_all_or_nothing(night());
            }

            #[test]
            fn crashes_in_recovery_change_nothing() {
                crashes::in_recovery_change_nothing(night());
            }

            #[test]
            fn crashes_after_a_kill_leave_all_or_nothing() {
                crashes::after_a_kill_leave_all_or_nothing(night());
            }

            #[test]
            fn decisive_steps_find_everything_durable() {
                crashes::find_everything_durable(night());
            }

            #[test]
            fn strangers_are_noticed() {
                strangers::are_noticed(night());
            }

            #[test]
            fn strangers_are_noticed_through_a_power_cut() {
                strangers::are_noticed_through_a_power_cut(night());
            }

            #[test]
            fn the_same_command_again_loses_nothing() {
                again::loses_nothing(night());
            }

            #[test]
            fn times_and_torn_sectors_cost_nothing() {
                clocks::cost_nothing(night());
            }

            #[test]
            fn lost_targets_clear_nothing() {
                strangers::who_remove_targets_clear_nothing(night());
            }

            #[test]
            fn damaged_journals_decide_nothing() {
                journals::decide_nothing_when_damaged(night());
            }

            #[test]
            fn panics_lose_nothing() {
                panics::lose_nothing(night());
            }

            #[test]
            fn failures_are_told_as_they_are() {
                failures::are_told_as_they_are(night());
            }

            #[test]
            fn syncs_that_failed_in_the_run_are_not_believed() {
                synced::after_a_run(night());
            }

            #[test]
            fn syncs_that_failed_in_a_recovery_are_not_believed() {
                synced::after_a_recovery(night());
            }

            #[test]
            fn failures_of_a_recovery_are_made_up_for() {
                failures::of_a_recovery_are_made_up_for(night());
            }
        }
    )*};
}

nights! {
    one: Recipe {
        name: "one",
        disks: &[("cluster_size=4k", 768)],
        backups: &[(0, "/backups/inc.qcow2", "a")],
        others: &[],
        replaced: &[],
        journal: None,
        lacks: &[],
    };
    two: Recipe {
        name: "two",
        disks: &[("cluster_size=4k", 768), ("cluster_size=64k", 1024)],
        backups: &[(0, "/backups/inc0.qcow2", "a"), (1, "/backups/inc1.qcow2", "b")],
        others: &[],
        replaced: &["/backups/inc1.qcow2"],
        journal: None,
        lacks: &[],
    };
    three: Recipe {
        name: "three",
        disks: &[
            ("cluster_size=512", 512),
            ("cluster_size=16k,extended_l2=on", 768),
            ("cluster_size=4k,refcount_bits=1", 512),
        ],
        backups: &[
            (0, "/backups/one/inc.qcow2", "a"),
            (1, "/backups/two/inc.qcow2", "a"),
            (2, "/backups/inc2.qcow2", "b"),
        ],
        others: &[],
        replaced: &["/backups/two/inc.qcow2"],
        journal: Some("/journals"),
        lacks: &[],
    };
    twice: Recipe {
        name: "twice",
        disks: &[("cluster_size=4k", 768), ("cluster_size=4k", 512)],
        backups: &[
            (0, "/backups/a.qcow2", "a"),
            (0, "/backups/b.qcow2", "b"),
            (1, "/backups/c.qcow2", "a"),
        ],
        others: &[],
        replaced: &[],
        journal: None,
        lacks: &[],
    };
    mixed: Recipe {
        name: "mixed",
        disks: &[("cluster_size=4k", 512), ("cluster_size=64k", 768), ("cluster_size=2k", 512)],
        backups: &[(0, "/backups/a.qcow2", "a")],
        others: &[
            Other::Disable(0, "b"),
            Other::Clear(1, "a"),
            Other::Overlay(1, "/images/over.qcow2"),
            Other::Add(1, "over"),
            Other::Remove(2, "b"),
            Other::Take(2, "night"),
            Other::Take(0, "night"),
        ],
        replaced: &[],
        journal: None,
        lacks: &[],
    };
    no_flags: Recipe {
        name: "no_flags",
        disks: &[("cluster_size=4k", 512)],
        backups: &[(0, "/backups/a.qcow2", "a"), (0, "/backups/b.qcow2", "b")],
        others: &[],
        replaced: &["/backups/b.qcow2"],
        journal: None,
        lacks: &[Lack::NoReplace, Lack::Exchange],
    };
    no_links: Recipe {
        name: "no_links",
        disks: &[("cluster_size=4k", 512)],
        backups: &[(0, "/backups/a.qcow2", "a"), (0, "/backups/b.qcow2", "b")],
        others: &[],
        replaced: &["/backups/b.qcow2"],
        journal: None,
        lacks: &[Lack::NoReplace, Lack::Exchange, Lack::Links],
    };
}
