//! The two tables, typed out from the description of QEMU's job machine without the columns that no backup comes to.

use holstein::{JobStatus, Verb};

/// Rows: from this state. Columns: created, running, paused, waiting, pending, aborting, concluded, dismissed.
const FOLLOWS: [(&str, &str); 8] = [
    ("created", ".R...X.."),
    ("running", "..PW.X.."),
    ("paused", ".R......"),
    ("waiting", "....DX.."),
    ("pending", ".....XE."),
    ("aborting", "......E."),
    ("concluded", ".......N"),
    ("dismissed", "........"),
];

/// Rows: the verb. Columns as above: an x where it is heard.
const HEARD: [(&str, &str); 6] = [
    ("cancel", "xxxxx..."),
    ("pause", "xxx....."),
    ("resume", "xxx....."),
    ("set its speed", "xxx....."),
    ("finalize", "....x..."),
    ("dismiss", "......x."),
];

#[test]
fn states_follow_each_other() {
    for (from, (name, row)) in JobStatus::ALL.into_iter().zip(FOLLOWS) {
        assert_eq!(from.to_string(), name);
        for (to, cell) in JobStatus::ALL.into_iter().zip(row.chars()) {
            assert_eq!(from.may_become(to), cell != '.', "{from} to {to}");
        }
    }
}

#[test]
fn verbs_are_heard() {
    for (verb, (name, row)) in Verb::ALL.into_iter().zip(HEARD) {
        assert_eq!(verb.to_string(), name);
        for (status, cell) in JobStatus::ALL.into_iter().zip(row.chars()) {
            assert_eq!(status.hears(verb), cell == 'x', "{verb} while {status}");
        }
    }
}
