//! Work in the background: what a backup is, what it copies, and how.
//!
//! [`options`] is what the caller asks for, [`plan`] turns it into batches in guest order, [`copy`] moves a
//! batch, [`turns`] keeps batches in order, and [`status`] is what others see of it meanwhile.

mod copy;
mod encoders;
mod options;
mod plan;
mod prepare;
mod status;
mod turns;

pub(crate) use copy::{Copy, Partial, Scratch, Step, cancelled};
pub use options::{Backup, BackupOptions, BitmapMode, Compression, SyncMode, ZeroDetection};
pub(crate) use prepare::{BitmapView, NewFile, Prepared, check_together, prepare};
pub use status::{Job, JobReport, JobStatus, Progress};
