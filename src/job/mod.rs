//! Work in the background: what a backup is, what it copies, and how.
//!
//! [`options`] is what the caller asks for, [`plan`] turns it into batches in guest order, [`copy`] moves a
//! batch ([`work_item`]) from its [`reader`] to the target, or lets the target [`share`] it, [`write_order`] keeps batches in order, and [`status`] is what others see of it meanwhile.
//!
//! How a job moves is in [`states`], two tables, and [`board`], which moves the jobs of a transaction by them; what it
//! does about errors is in [`policy`], how fast it may be in [`rate_limit`].

mod board;
mod copy;
mod encoders;
mod hidden;
mod lineage;
mod options;
mod permit;
mod plan;
mod policy;
mod prepare;
mod rate_limit;
mod reader;
mod share;
mod states;
mod status;
mod sync;
mod work_item;
mod write_order;

pub(crate) use board::Board;
pub(crate) use copy::{Copy, Partial, Step};
pub(crate) use lineage::keep_ancestors;
pub use options::{
    Backup, BackupOptions, BitmapMode, Compression, LastStep, LineageCheck, Reflink, SyncMode, ZeroDetection,
};
pub(crate) use permit::{Left, Listener, Notice, Permit, Verdict};
pub(crate) use plan::CopySet;
pub use policy::{ErrorAction, ErrorPolicy, ErrorSide};
pub(crate) use prepare::{BitmapView, NewFile, Prepared, check_together, prepare, seats};
pub use states::{JobStatus, Verb};
pub use status::{Job, JobLineage, JobReport, Progress};
pub(crate) use work_item::Scratch;
