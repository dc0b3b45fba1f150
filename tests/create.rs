//! New images: the same as `qemu-img create` makes, or refused; complete, or not there.

#![allow(clippy::unwrap_used, clippy::expect_used)] // a test that cannot go on fails
#![allow(unreachable_pub)] // some modules are shared with other test programs

#[path = "support/crash.rs"]
mod crash;
mod create_cases;
mod support;

use create_cases::{command, compare, crashes, refusals};

/// Whether to run the larger sets.
fn exhaustive() -> bool {
    std::env::var_os("HOLSTEIN_EXHAUSTIVE").is_some()
}

#[test]
fn images_are_those_that_qemu_makes() {
    let numbers = if exhaustive() { 2000 } else { 91 };
    let made = compare::run(numbers);
    println!("{made} images of {numbers} sets of options");
    assert!(made >= 60, "{made}");
}

#[test]
fn a_disk_can_be_empty() {
    compare::smallest();
}

#[test]
fn the_largest_disks_are_those_of_qemu() {
    compare::largest();
}

#[test]
fn contradictory_options_are_refused() {
    refusals::contradictions();
}

#[test]
fn impossible_sizes_are_refused() {
    refusals::sizes();
}

#[test]
fn unusable_backing_files_are_refused() {
    refusals::backing_files();
    refusals::deep_chains();
}

#[test]
fn unusable_data_files_are_refused() {
    refusals::data_files();
}

#[test]
fn names_that_are_taken_are_refused() {
    refusals::targets();
}

#[test]
fn a_new_disk_is_open_as_asked() {
    refusals::opened_as_asked();
}

#[test]
fn a_raw_disk_can_get_an_image() {
    refusals::raw_disks_get_an_image();
}

#[test]
fn a_crash_leaves_a_complete_image_or_none() {
    crashes::crashes();
    crashes::careless_orders_are_found();
}

#[test]
fn a_failure_leaves_everything_as_it_was() {
    crashes::failures();
}

#[test]
fn the_commands_options_arrive() {
    command::options_arrive();
}

#[test]
fn the_command_refuses_wrong_usage() {
    command::wrong_usage_and_failures();
}
