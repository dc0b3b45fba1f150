//! Images for the tests of `holstein check`.

pub mod clean;
pub mod damaged;
pub mod image;
pub mod random;
