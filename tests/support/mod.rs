//! What the integration tests share: images made by QEMU's tools, and those tools as the judge of ours.
//!
//! Reading order: [`rng`], [`qemu`] (running QEMU's tools), [`layer`] and [`image`] (one generated image, from its
//! number alone), [`campaign`] (many of them, in parallel), [`command`] (running `holstein`), [`judge`]
//! (comparing the two).

// Each test file compiles this module for itself and uses its own part of it.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used, clippy::expect_used)]

pub mod campaign;
pub mod command;
pub mod image;
pub mod judge;
pub mod layer;
pub mod patch;
pub mod qemu;
pub mod qsd;
pub mod rng;
