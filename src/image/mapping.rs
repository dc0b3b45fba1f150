//! Where guest bytes are.

/// What a run of guest bytes is, within the layer that decides it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mapping {
    /// No layer has it: reads as zero. (Within one layer: the layer below decides.)
    Unallocated {
        /// Byte offset in the layer's file of space that is kept for it.
        host: Option<u64>,
    },
    /// Reads as zero; `host` is the offset of space kept for it.
    Zero {
        /// Byte offset in the layer's file, if space is kept.
        host: Option<u64>,
    },
    /// Stored as it is.
    Data {
        /// Byte offset in the layer's file, or in its external data file.
        host: u64,
        /// The file has a hole there, so it reads as zero. Told for raw layers, and for qcow2 layers whose
        /// data was preallocated without being written.
        hole: bool,
    },
    /// Stored compressed, cluster by cluster.
    Compressed,
}

impl Mapping {
    /// The mapping of what begins `delta` bytes later in the same run.
    pub(crate) fn advance(self, delta: u64) -> Mapping {
        match self {
            Mapping::Unallocated { host } => Mapping::Unallocated { host: host.map(|host| host + delta) },
            Mapping::Zero { host } => Mapping::Zero { host: host.map(|host| host + delta) },
            Mapping::Data { host, hole } => Mapping::Data { host: host + delta, hole },
            Mapping::Compressed => self,
        }
    }

    /// Whether `next` goes on where this mapping, `length` bytes long, ends.
    pub(crate) fn continues(self, length: u64, next: Mapping) -> bool {
        self.advance(length) == next
    }
}

/// A run of guest bytes that are all alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// Guest offset in bytes.
    pub start: u64,
    /// Length in bytes, never 0.
    pub length: u64,
    /// The layer that decides, 0 is the top.
    pub depth: usize,
    /// What and where it is.
    pub mapping: Mapping,
}

impl Run {
    /// The guest offset behind the run.
    pub fn end(&self) -> u64 {
        self.start + self.length
    }

    /// A layer of the chain has it, be it as zeros.
    pub fn present(&self) -> bool {
        !matches!(self.mapping, Mapping::Unallocated { .. })
    }

    /// It reads as zero, known without reading it.
    pub fn zero(&self) -> bool {
        matches!(
            self.mapping,
            Mapping::Unallocated { .. } | Mapping::Zero { .. } | Mapping::Data { hole: true, .. }
        )
    }

    /// It is stored as data.
    pub fn data(&self) -> bool {
        matches!(self.mapping, Mapping::Data { .. } | Mapping::Compressed)
    }

    /// It is stored compressed.
    pub fn compressed(&self) -> bool {
        self.mapping == Mapping::Compressed
    }

    /// Its byte offset in the deciding layer's file, where it has one.
    pub fn offset(&self) -> Option<u64> {
        match self.mapping {
            Mapping::Unallocated { host } | Mapping::Zero { host } => host,
            Mapping::Data { host, .. } => Some(host),
            Mapping::Compressed => None,
        }
    }
}
