//! QEMU's ways to hold an image.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};

use crate::site::Site;
use crate::support::qemu::text;

/// A tool that was started by a line and holds its images until this is dropped.
pub(crate) struct Held<'a> {
    site: &'a Site,
    shell: Option<Child>,
}

/// Starts it, and returns when it has the locks. Daemons write their number to `held.pid`.
pub(crate) fn hold<'a>(site: &'a Site, line: &str) -> Held<'a> {
    let words = site.words(line);
    let mut command = Command::new(&words[0]);
    command.args(&words[1..]).current_dir(site.workshop.folder());
    if words[0] != "qemu-io" {
        let output = command.stdin(Stdio::null()).output().unwrap();
        assert!(output.status.success(), "{line}: {}", text(&output));
        return Held { site, shell: None };
    }
    let mut shell = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    shell.stdin.as_mut().unwrap().write_all(b"read 0 512\n").unwrap();
    let mut answer = String::new();
    BufReader::new(shell.stdout.as_mut().unwrap()).read_line(&mut answer).unwrap();
    assert!(answer.contains("read 512/512"), "{line}: {answer}");
    Held { site, shell: Some(shell) }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        if let Some(shell) = &mut self.shell {
            shell.kill().unwrap();
            shell.wait().unwrap();
        }
        self.site.end_daemon("held.pid");
    }
}
