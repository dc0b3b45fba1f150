//! How a command fails: an exit code, and what to say about it.

use std::{
    io::{self, Write},
    process::ExitCode,
};

use holstein::{Error, ErrorKind};

use crate::output::printable;

/// The exit code of a command that failed.
pub(crate) const FAILED: u8 = 1;

/// The exit code of a command that was used wrongly.
pub(crate) const USAGE: u8 = 2;

/// The exit code of a command that has done its work, and could not write what it has to say about it.
pub(crate) const UNREPORTED: u8 = 5;

/// Why a command ends without having done its work, or without having told of it.
#[derive(Debug)]
pub(crate) struct Failure {
    code: u8,
    texts: Vec<String>,
}

impl Failure {
    /// A failure with its own exit code.
    pub(crate) fn new(code: u8, text: impl Into<String>) -> Self {
        Failure { code, texts: vec![text.into()] }
    }

    /// The command was used wrongly.
    pub(crate) fn usage(text: impl Into<String>) -> Self {
        Failure::new(USAGE, text)
    }

    /// Several things failed, each with its text.
    pub(crate) fn several(code: u8, texts: Vec<String>) -> Self {
        Failure { code, texts }
    }

    /// Nobody reads our output any more: a reason to stop, and nothing to complain about.
    pub(crate) fn reader_gone() -> Self {
        Failure { code: 0, texts: Vec::new() }
    }

    /// Whether it says only that nobody reads our output.
    fn is_reader_gone(&self) -> bool {
        self.texts.is_empty()
    }

    /// The same with another text.
    pub(crate) fn and_also(mut self, other: Failure) -> Self {
        self.texts.extend(other.texts);
        self
    }

    /// The exit code for an error of the library.
    pub(crate) fn code_of(error: &Error) -> u8 {
        match error.kind() {
            ErrorKind::InvalidArgument => USAGE,
            _ => FAILED,
        }
    }

    /// Says it on standard error and gives the exit code.
    pub(crate) fn report(self) -> ExitCode {
        let mut stderr = io::stderr().lock();
        for text in &self.texts {
            // When standard error is closed too there is nobody left to tell.
            let _ = writeln!(stderr, "holstein: {}", printable(text));
        }
        ExitCode::from(self.code)
    }
}

/// The report of work that is done, and cannot be undone: a script must not take it for undone because its output cannot be
/// written. `done` says what it is.
pub(crate) fn report_of(done: &str, report: Result<(), Failure>) -> Result<(), Failure> {
    report.map_err(|failure| {
        let reason = match failure.is_reader_gone() {
            true => "nobody reads standard output any more".to_owned(),
            false => failure.texts.join("; "),
        };
        Failure::new(UNREPORTED, format!("{done}; only the report of it is missing: {reason}"))
    })
}

/// The same for what the exit code tells as well: a reader that went away does not miss the text.
pub(crate) fn verdict_of(done: &str, report: Result<(), Failure>) -> Result<(), Failure> {
    report_of(done, unless_reader_gone(report))
}

/// Goes on although nobody reads standard output any more.
pub(crate) fn unless_reader_gone(report: Result<(), Failure>) -> Result<(), Failure> {
    match report {
        Err(failure) if failure.is_reader_gone() => Ok(()),
        other => other,
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Failure::new(Failure::code_of(&error), error.to_string())
    }
}
