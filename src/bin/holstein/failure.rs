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

/// Why a command ends without having done its work.
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

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Failure::new(Failure::code_of(&error), error.to_string())
    }
}
