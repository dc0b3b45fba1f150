//! The one error type: a kind to decide by, a text for people, and the cause.
//!
//! The kind is what a program matches on (and what C sees as a `HOL_ERR_*` number); the text says what is
//! wrong, where, and what to do; the source is the operating system's error, where there is one.

use std::{fmt, io, sync::Arc};

/// `Result` with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What class of failure an [`Error`] is. Each kind has exactly one code in the C ABI.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// An argument is outside its range, or arguments contradict each other.
    InvalidArgument,
    /// A file or folder does not exist.
    NotFound,
    /// A file exists already and may not be overwritten.
    Exists,
    /// Another process uses the image in a way that excludes ours.
    Locked,
    /// The operating system reported a failure of input or output.
    Io,
    /// The file system (or quota) is full.
    NoSpace,
    /// The image breaks the qcow2 specification.
    Corrupt,
    /// The image is valid but uses something that this version cannot handle.
    Unsupported,
    /// The image is encrypted.
    Encrypted,
    /// The image names another file that the backing policy does not allow.
    PolicyDenied,
    /// The image would need more memory than the budget allows.
    Limit,
    /// The image has no bitmap of that name.
    BitmapNotFound,
    /// The bitmap exists but cannot be trusted.
    BitmapUnusable,
    /// The work was cancelled, by the caller or because another job of its group ended.
    Cancelled,
    /// The object is not in a state that allows this call.
    WrongState,
    /// A defect of this library: a panic was caught. The object it happened in must not be used again.
    Internal,
}

/// A failure: kind, text and cause. Cheap to clone, since a job keeps its error and also returns it.
#[derive(Clone, Debug, thiserror::Error)]
pub struct Error {
    kind: ErrorKind,
    context: String,
    #[source]
    source: Option<Arc<io::Error>>,
}

impl Error {
    /// An error without an operating system error below it.
    pub fn new(kind: ErrorKind, context: impl Into<String>) -> Self {
        Error { kind, context: context.into(), source: None }
    }

    /// An error caused by the operating system; the kind follows from the cause.
    pub fn io(context: impl Into<String>, source: io::Error) -> Self {
        let kind = match source.kind() {
            io::ErrorKind::NotFound => ErrorKind::NotFound,
            io::ErrorKind::AlreadyExists => ErrorKind::Exists,
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => ErrorKind::NoSpace,
            _ => ErrorKind::Io,
        };
        Error { kind, context: context.into(), source: Some(Arc::new(source)) }
    }

    /// The class of the failure.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// The operating system's error number, where there is one.
    pub fn errno(&self) -> Option<i32> {
        self.source.as_ref().and_then(|e| e.raw_os_error())
    }

    /// Whether input or output failed, of whatever kind: it says nothing about what is in a file.
    pub(crate) fn is_io(&self) -> bool {
        self.kind == ErrorKind::Io || self.source.is_some()
    }

    /// The same error with the name of the file it is about before its text, unless it is there already.
    #[must_use]
    pub(crate) fn in_file(self, path: &std::path::Path) -> Self {
        let shown = format!("'{}'", path.display());
        if self.context.contains(&shown) { self } else { self.within(shown) }
    }

    /// The same error with more to say at the end of its own text.
    #[must_use]
    pub(crate) fn and_also(mut self, text: impl fmt::Display) -> Self {
        // The operating system's word would come last otherwise.
        if let Some(source) = &self.source {
            self.context = format!("{}: {source}", self.context);
        }
        self.context = format!("{}; {text}", self.context);
        self.source = None;
        self
    }

    /// The same error with `prefix: ` before its text.
    #[must_use]
    pub fn within(mut self, prefix: impl fmt::Display) -> Self {
        self.context = format!("{prefix}: {}", self.context);
        self
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.context)?;
        match &self.source {
            Some(source) => write!(f, ": {source}"),
            None => Ok(()),
        }
    }
}
