//! The C ABI: `include/holstein.h` is made from this module.
//!
//! One C type a file. Every function is one expression inside `boundary::boundary`, which turns errors and
//! panics into codes; every pointer from C passes one of the checks of `boundary`, or of `structure`. The doc comments
//! of the exported items are the header's text, so they speak to readers of C.
//!
//! The header is made by `packaging/header.sh`, which knows the files below in the header's order.

// The names are C's, so that header and source can be searched alike.
#![allow(non_camel_case_types)]
// The docs of an `unsafe` function are the C header's; what its pointers must be is said there.
#![allow(clippy::missing_safety_doc)]
// All pointers of one C call come under one contract, the header's: one block and one comment for them.
#![allow(clippy::multiple_unsafe_ops_per_block)]

mod boundary;
mod cached;
mod process;
mod structure;

pub mod action;
pub mod actions;
pub mod bitmap;
pub mod bitmap_change;
pub mod chain;
pub mod check;
pub mod constant;
pub mod create;
pub mod disk;
pub mod error;
pub mod extent;
pub mod init;
pub mod job;
pub mod log;
pub mod options;
pub mod recover;
pub mod snapshot;
pub mod txn;
pub mod verbs;
pub mod version;
pub mod write;
