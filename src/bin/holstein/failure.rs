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

/// What the library advises, and how the command spells it. The library's words are those of all of its users.
const SPELLINGS: [(&str, &str); 10] = [
    (
        "information alone can be had by force-share",
        "info, map, check and compare read it all the same with -U, --force-share",
    ),
    (
        "choose another name or allow overwriting",
        "choose another name or allow overwriting (overwrite=on for a target, --overwrite for a new image)",
    ),
    ("with the backing policy under=DIR or any", "with --backing-policy under=DIR or any"),
    ("with the backing policy any", "with --backing-policy any"),
    ("the backing policy is deny", "it was called with --backing-policy deny"),
    ("raise the chain limit", "raise --chain-limit"),
    ("the format has to be given as raw", "say --format raw (source-format=raw for the source of a backup)"),
    ("bitmap mode never, only reads it", "bitmap-mode=never, only reads it"),
    ("use individual completion", "use individual completion (--individual)"),
    ("or make it raw if it holds the disk", "or add --data-file-raw if it holds the disk"),
];

/// A text of the library, with options as the command spells them.
pub(crate) fn spelled(text: &str) -> String {
    SPELLINGS.iter().fold(text.to_owned(), |text, (words, spelling)| text.replace(words, spelling))
}

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
            let _ = writeln!(stderr, "holstein: {}", printable(&spelled(text)));
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

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use super::*;

    fn sources(folder: &Path) -> String {
        let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        let own = |path: &std::path::PathBuf| !path.ends_with("bin");
        let text = |path: std::path::PathBuf| match path.is_dir() {
            true => sources(&path),
            false => fs::read_to_string(path).unwrap(),
        };
        entries.filter(own).map(text).collect()
    }

    #[test]
    fn the_library_says_what_is_spelled_otherwise_here() {
        // Long texts go on in another line.
        let library = sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"));
        let library: String = library.split("\\\n").map(str::trim_start).collect();
        for (words, _) in SPELLINGS {
            assert!(library.contains(words), "nobody says '{words}'");
        }
    }

    #[test]
    fn a_spelling_is_not_spelled_again() {
        for (words, spelling) in SPELLINGS {
            assert_eq!(spelled(words), spelling);
        }
    }
}
