//! Guest writes and resizes, case by case: what is refused, what comes first, what threads see, and the commands.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::type_complexity)] // what cannot be done here fails the test
#![allow(dead_code, unreachable_pub)] // its modules use each a part of what they share
#![allow(clippy::single_range_in_vec_init)] // one extent of a bitmap

mod support;

#[path = "writing/commands.rs"]
mod commands;
#[path = "writing/damaged.rs"]
mod damaged;
#[path = "writing/data_files.rs"]
mod data_files;
#[path = "writing/order.rs"]
mod order;
#[path = "writing/paused.rs"]
mod paused;
#[path = "writing/refusals.rs"]
mod refusals;
#[path = "writing/resizing.rs"]
mod resizing;
#[path = "support/site.rs"]
mod site;
#[path = "writing/threads.rs"]
mod threads;
