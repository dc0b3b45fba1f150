//! The one error type: a kind to decide by, a text for people, and the cause.
//!
//! The kind is what a program matches on (and what C sees as a `HOL_ERR_*` number); the text says what is
//! wrong, where, and what to do; the source is the operating system's error, where there is one.

use std::{fmt, io, sync::Arc};

use crate::recovery::Recovery;

/// `Result` with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A path for a message: control characters, which could steer a terminal, are escaped. Paths come from images, too.
pub(crate) fn shown(path: &std::path::Path) -> String {
    let escape = |c: char| match c.is_control() {
        true => c.escape_debug().to_string(),
        false => c.to_string(),
    };
    path.display().to_string().chars().map(escape).collect()
}

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
    /// Somebody uses the image in a way that excludes ours: another process, or this one by another handle. The text says
    /// which.
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
    /// The operating system does not permit the access.
    Permission,
    /// Memory is short. Nothing is wrong with the image.
    NoMemory,
}

impl ErrorKind {
    /// All of them.
    #[cfg(test)]
    pub(crate) const ALL: &[ErrorKind] = &[
        ErrorKind::InvalidArgument,
        ErrorKind::NotFound,
        ErrorKind::Exists,
        ErrorKind::Locked,
        ErrorKind::Io,
        ErrorKind::NoSpace,
        ErrorKind::Corrupt,
        ErrorKind::Unsupported,
        ErrorKind::Encrypted,
        ErrorKind::PolicyDenied,
        ErrorKind::Limit,
        ErrorKind::BitmapNotFound,
        ErrorKind::BitmapUnusable,
        ErrorKind::Cancelled,
        ErrorKind::WrongState,
        ErrorKind::Internal,
        ErrorKind::Permission,
        ErrorKind::NoMemory,
    ];

    /// A short name for programs: "no-space". It never changes; C (`hol_error_name`) and Python use the same.
    pub fn name(self) -> &'static str {
        match self {
            ErrorKind::InvalidArgument => "invalid-argument",
            ErrorKind::NotFound => "not-found",
            ErrorKind::Exists => "exists",
            ErrorKind::Locked => "locked",
            ErrorKind::Io => "io",
            ErrorKind::NoSpace => "no-space",
            ErrorKind::Corrupt => "corrupt",
            ErrorKind::Unsupported => "unsupported",
            ErrorKind::Encrypted => "encrypted",
            ErrorKind::PolicyDenied => "policy-denied",
            ErrorKind::Limit => "limit",
            ErrorKind::BitmapNotFound => "bitmap-not-found",
            ErrorKind::BitmapUnusable => "bitmap-unusable",
            ErrorKind::Cancelled => "cancelled",
            ErrorKind::WrongState => "wrong-state",
            ErrorKind::Internal => "internal",
            ErrorKind::Permission => "permission",
            ErrorKind::NoMemory => "no-memory",
        }
    }
}

/// A failure: kind, text and cause. Cheap to clone, since a job keeps its error and also returns it.
#[derive(Clone, Debug, thiserror::Error)]
pub struct Error {
    kind: ErrorKind,
    context: String,
    #[source]
    source: Option<Arc<io::Error>>,
    /// The text has the operating system's word already.
    told: bool,
    recovery: Option<Arc<Recovery>>,
}

impl Error {
    /// An error without an operating system error below it.
    pub fn new(kind: ErrorKind, context: impl Into<String>) -> Self {
        Error { kind, context: context.into(), source: None, told: false, recovery: None }
    }

    /// An error caused by the operating system; the kind follows from the cause.
    pub fn io(context: impl Into<String>, source: io::Error) -> Self {
        let kind = match source.kind() {
            io::ErrorKind::NotFound => ErrorKind::NotFound,
            io::ErrorKind::AlreadyExists => ErrorKind::Exists,
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => ErrorKind::NoSpace,
            io::ErrorKind::PermissionDenied => ErrorKind::Permission,
            io::ErrorKind::OutOfMemory => ErrorKind::NoMemory,
            _ => ErrorKind::Io,
        };
        Error { kind, context: context.into(), source: Some(Arc::new(source)), told: false, recovery: None }
    }

    /// The same error of another class.
    #[must_use]
    pub(crate) fn of_kind(self, kind: ErrorKind) -> Self {
        Error { kind, ..self }
    }

    /// The class of the failure.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// What the recovery found that is the reason of this error, if one is.
    pub fn recovery(&self) -> Option<&Recovery> {
        self.recovery.as_deref()
    }

    /// The same error with that.
    #[must_use]
    pub(crate) fn with_recovery(mut self, recovery: Recovery) -> Self {
        self.recovery = Some(Arc::new(recovery));
        self
    }

    /// The operating system's error number, where there is one.
    pub fn errno(&self) -> Option<i32> {
        let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(self.source.as_deref()?);
        while let Some(error) = cause {
            let io = error.downcast_ref::<io::Error>();
            if let Some(number) = io.and_then(io::Error::raw_os_error) {
                return Some(number);
            }
            // One that was given another kind on the way has the original inside.
            cause = match io.and_then(io::Error::get_ref) {
                Some(inner) => Some(inner),
                None => error.source(),
            };
        }
        None
    }

    /// Whether input or output failed, of whatever kind, or memory is short: it says nothing about what is in a file.
    pub(crate) fn is_io(&self) -> bool {
        matches!(self.kind, ErrorKind::Io | ErrorKind::NoMemory) || self.source.is_some()
    }

    /// The same error with the name of the file it is about before its text, unless it is there already.
    #[must_use]
    pub(crate) fn in_file(self, path: &std::path::Path) -> Self {
        let shown = format!("'{}'", shown(path));
        if self.context.contains(&shown) { self } else { self.within(shown) }
    }

    /// The same error with more to say at the end of its own text.
    #[must_use]
    pub(crate) fn and_also(mut self, text: impl fmt::Display) -> Self {
        // The operating system's word would come last otherwise.
        self.context = format!("{self}; {text}");
        self.told = true;
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
            Some(source) if !self.told => write!(f, ": {source}"),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn os(number: i32) -> io::Error {
        io::Error::from_raw_os_error(number)
    }

    #[test]
    fn permission_and_memory_are_kinds_of_their_own() {
        let kind = |number| Error::io("x", os(number)).kind();
        assert_eq!(kind(libc::EACCES), ErrorKind::Permission);
        assert_eq!(kind(libc::EPERM), ErrorKind::Permission);
        assert_eq!(kind(libc::ENOMEM), ErrorKind::NoMemory);
        assert_eq!(kind(libc::EIO), ErrorKind::Io);
    }

    #[test]
    fn what_is_added_to_an_error_leaves_its_number_and_says_its_cause_once() {
        let error =
            Error::io("cannot write 'a'", os(libc::EIO)).and_also("the rest stays").and_also("so there");
        assert_eq!(error.errno(), Some(libc::EIO));
        let text = error.within("job").to_string();
        assert!(
            text.starts_with("job: cannot write 'a': ") && text.ends_with("; the rest stays; so there"),
            "{text}"
        );
        assert_eq!(text.matches("os error").count(), 1, "{text}");
    }

    #[test]
    fn the_number_is_found_behind_another_kind() {
        let inner = io::Error::new(io::ErrorKind::Unsupported, os(libc::EXDEV));
        assert_eq!(Error::io("x", io::Error::other(inner)).errno(), Some(libc::EXDEV));
        assert_eq!(Error::io("x", io::Error::other("no number")).errno(), None);
        assert_eq!(Error::new(ErrorKind::Io, "x").errno(), None);
    }
}
