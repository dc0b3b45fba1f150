//! A piece of a copy's work, and how far it is: so it can be put aside, and taken up again by any thread.

use std::time::Instant;

use super::{JobReport, plan::Batch};
use crate::image::create::{Extent, Item};

/// What one thread does in one go.
#[derive(Debug)]
pub(crate) struct WorkItem {
    pub(crate) task: Task,
    /// How often it was tried again since it last got on.
    pub(crate) retries: u32,
    /// It is not taken up again before.
    pub(crate) not_before: Option<Instant>,
    /// While it is put aside: what was read for it.
    pub(crate) scratch: Scratch,
}

#[derive(Debug)]
pub(crate) enum Task {
    /// To plan a batch.
    Plan,
    /// To copy one.
    Copy(Box<Load>),
    /// To complete the target.
    Finish,
}

/// A batch on its way.
#[derive(Debug)]
pub(crate) struct Load {
    pub(crate) batch: Batch,
    pub(crate) stage: Stage,
    pub(crate) items: Vec<Item>,
    pub(crate) extents: Vec<Extent>,
    pub(crate) report: JobReport,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// Nothing of it is read that could be used.
    Planned,
    /// What its items are about is in the scratch of who has it.
    Read,
    /// It has its places in the target.
    Placed,
    /// Its turn is over, and it is written beside others.
    Beside,
}

/// What a thread keeps from batch to batch.
#[derive(Debug, Default)]
pub(crate) struct Scratch {
    pub(crate) data: Vec<u8>,
    pub(crate) packed: Vec<u8>,
    pub(crate) stream: Vec<u8>,
}

impl WorkItem {
    pub(crate) fn new() -> Self {
        WorkItem { task: Task::Plan, retries: 0, not_before: None, scratch: Scratch::default() }
    }

    /// The place of its batch in the order. What has no batch comes last.
    pub(crate) fn sequence(&self) -> u64 {
        match &self.task {
            Task::Copy(load) => load.batch.sequence,
            Task::Plan | Task::Finish => u64::MAX,
        }
    }

    /// It got on: an error that comes now is another one.
    pub(crate) fn begins(&mut self, task: Task) {
        self.task = task;
        self.retries = 0;
    }
}

impl Load {
    pub(crate) fn new(batch: Batch) -> Box<Self> {
        let (items, extents, report) = (Vec::new(), Vec::new(), JobReport::default());
        Box::new(Load { batch, stage: Stage::Planned, items, extents, report })
    }
}
