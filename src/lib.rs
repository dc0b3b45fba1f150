//! Holstein backs up virtual disks in qcow2: several at once, all or none, only what changed.
//!
//! A [`Transaction`] is a list of [`Backup`]s, each from a [`Disk`] to a new file. [`Transaction::commit`] runs
//! them together; either every target appears, complete and durable, under its final name, or none does.
//! [`Disk::create`] makes a new image in the same way.
//!
//! # Reading order
//! From the format up to the C ABI: `format` (bytes as values), `storage` (where bytes live), `image` (a chain
//! of images: `mapping`, then `chain`, then `read` and `create`), `bitmap` (which parts changed), `disk`, `job`
//! (the copier and the backup), `transaction` (all or none), `capi` (the same for C). Each layer uses only
//! those before it.

#![warn(missing_docs)]

mod bitmap;
#[allow(unsafe_code)]
pub mod capi;
mod disk;
mod error;
mod format;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod image;
mod job;
mod memory;
mod recovery;
pub mod storage;
mod transaction;

pub use bitmap::{BitmapChange, BitmapInfo, DirtyBitmap, MergeSource, Recording};
pub use disk::{CheckedChain, CheckedImage, Disk, DiskOptions};
pub use error::{Error, ErrorKind, Result};
pub use format::{
    header::CompressionType,
    lineage::{Base, Identity},
    outline::HeaderOutline,
};
pub use image::{
    Access, Backing, BackingInfo, BackingPolicy, BitmapEntryInfo, CheckProblem, CheckProblemKind,
    CheckReport, CheckSeverity, CheckVerdict, Compat, CreateOptions, DiskInfo, Existing, Format,
    ImageOptions, LayerInfo, Layers, Link, LostBitmap, LostSnapshots, Map, Mapping, Preallocation, Qcow2Info,
    RepairMode, RepairReport, Run, Sharing, SnapshotChange, SnapshotInfo,
};
pub use job::{
    Backup, BackupOptions, BitmapMode, Compression, ErrorAction, ErrorPolicy, ErrorSide, Job, JobLineage,
    JobReport, JobStatus, LastStep, LineageCheck, Progress, Reflink, SyncMode, Verb, ZeroDetection,
};
pub use recovery::{Recovery, RecoveryItem, RecoveryKind};
pub use storage::{FileKind, PageCache, same_file};
pub use transaction::{
    Action, CompletionMode, Event, EventKind, LogLevel, MergeFrom, OverlayOptions, RunningTransaction,
    Transaction, recover, recover_in,
};
