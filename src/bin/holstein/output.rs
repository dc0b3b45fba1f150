//! Standard output: text, JSON, tables and long listings. Names from images are bytes of unknown origin, so
//! nothing here reaches a terminal unescaped.

use std::{
    fmt::Write as _,
    io::{self, ErrorKind, Write},
    os::unix::ffi::OsStrExt,
    path::Path,
};

use serde_json::Value;

use crate::failure::{FAILED, Failure};

/// Prints a whole text.
pub(crate) fn print(text: &str) -> Result<(), Failure> {
    write_out(text.as_bytes()).map_err(cannot_write)
}

/// Prints JSON over several lines.
pub(crate) fn print_json(value: &Value) -> Result<(), Failure> {
    let mut text = format!("{value:#}\n");
    // JSON escapes only the first 32 control characters; the others steer some terminals too. They can only
    // stand in strings, where an escape means the same.
    if text.contains(is_late_control) {
        let escape = |c: char| match is_late_control(c) {
            true => format!("\\u{:04x}", u32::from(c)),
            false => c.to_string(),
        };
        text = text.chars().map(escape).collect();
    }
    print(&text)
}

fn is_late_control(c: char) -> bool {
    ('\u{7f}'..='\u{9f}').contains(&c)
}

fn write_out(bytes: &[u8]) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(bytes)?;
    stdout.flush()
}

fn cannot_write(error: io::Error) -> Failure {
    if error.kind() == ErrorKind::BrokenPipe {
        return Failure::reader_gone();
    }
    Failure::new(FAILED, format!("cannot write to standard output: {error}"))
}

/// A listing of any length. The beginning is held back, so that a command that fails has printed nothing;
/// only a listing too long to hold is written as it grows.
pub(crate) struct Listing {
    buffer: Vec<u8>,
    limit: usize,
}

impl Listing {
    /// How much is held back before the first byte is written.
    const HELD: usize = 8 << 20;
    /// How much is written at once after that.
    const PIECE: usize = 256 << 10;

    /// An empty listing.
    pub(crate) fn new() -> Self {
        Listing { buffer: Vec::new(), limit: Self::HELD }
    }

    /// Adds text.
    pub(crate) fn text(&mut self, text: &str) -> &mut Self {
        self.buffer.extend_from_slice(text.as_bytes());
        self
    }

    /// Adds a decimal number; listings are long, so without the formatting machinery.
    pub(crate) fn number(&mut self, mut number: u64) -> &mut Self {
        let mut digits = [0; 20];
        let mut first = digits.len();
        loop {
            first -= 1;
            digits[first] = b'0' + (number % 10) as u8;
            number /= 10;
            if number == 0 {
                break;
            }
        }
        self.buffer.extend_from_slice(&digits[first..]);
        self
    }

    /// Adds `true` or `false`.
    pub(crate) fn boolean(&mut self, value: bool) -> &mut Self {
        self.text(if value { "true" } else { "false" })
    }

    /// Ends a row.
    pub(crate) fn row(&mut self) -> Result<(), Failure> {
        if self.buffer.len() < self.limit { Ok(()) } else { self.flush() }
    }

    /// Writes what is left.
    pub(crate) fn finish(mut self) -> Result<(), Failure> {
        self.flush()
    }

    /// What is held back, to look at in tests.
    #[cfg(test)]
    pub(crate) fn into_bytes(self) -> Vec<u8> {
        self.buffer
    }

    fn flush(&mut self) -> Result<(), Failure> {
        let written = write_out(&self.buffer);
        self.buffer.clear();
        self.limit = Self::PIECE;
        written.map_err(cannot_write)
    }
}

/// A name for people: control characters and bytes that are no UTF-8 as `\xNN`, and so a backslash doubled.
pub(crate) fn escape(name: &[u8]) -> String {
    let mut text = String::with_capacity(name.len());
    for chunk in name.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '\\' => text.push_str("\\\\"),
                c => push_printable(&mut text, c),
            }
        }
        for byte in chunk.invalid() {
            push_hex(&mut text, u32::from(*byte));
        }
    }
    text
}

/// A path for people.
pub(crate) fn escape_path(path: &Path) -> String {
    escape(path.as_os_str().as_bytes())
}

/// A message for people: it may quote a hostile name, whose control characters must not reach the terminal.
/// Line breaks stay, since messages of our own have them.
pub(crate) fn printable(message: &str) -> String {
    let mut text = String::with_capacity(message.len());
    for c in message.chars() {
        match c {
            '\n' => text.push(c),
            c => push_printable(&mut text, c),
        }
    }
    text
}

fn push_printable(text: &mut String, c: char) {
    // Beside control characters those that reorder the text around them.
    match c {
        '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => text.extend(c.escape_unicode()),
        c if c.is_control() => push_hex(text, u32::from(c)),
        c => text.push(c),
    }
}

fn push_hex(text: &mut String, value: u32) {
    // Writing to a String cannot fail.
    let _ = write!(text, "\\x{value:02x}");
}

/// A name for JSON, which has no bytes: what is no UTF-8 becomes U+FFFD, as in QEMU's output.
pub(crate) fn json_name(name: &[u8]) -> Value {
    Value::from(String::from_utf8_lossy(name))
}

/// A path for JSON.
pub(crate) fn json_path(path: &Path) -> Value {
    json_name(path.as_os_str().as_bytes())
}

/// A number of bytes for people, with three digits: `1.25 GiB`.
pub(crate) fn size(bytes: u64) -> String {
    const UNITS: [&str; 7] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let unit = (bytes.max(1).ilog2() / 10) as usize;
    let value = bytes as f64 / (1u64 << (10 * unit)) as f64;
    let decimals = match value {
        v if v >= 100.0 => 0,
        v if v >= 10.0 => 1,
        _ => 2,
    };
    let mut text = format!("{value:.decimals$}");
    if text.contains('.') {
        text.truncate(text.trim_end_matches('0').trim_end_matches('.').len());
    }
    format!("{text} {}", UNITS[unit])
}

/// Rows under their headings, in columns as wide as needed.
pub(crate) fn table<const N: usize>(headings: [&str; N], rows: &[[String; N]]) -> String {
    let mut widths = headings.map(|heading| heading.chars().count());
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut text = String::new();
    for row in std::iter::once(&headings.map(String::from)).chain(rows) {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(widths) {
            let _ = write!(line, "{cell:<width$}  ");
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_names_are_escaped() {
        assert_eq!(escape(b"plain name.qcow2"), "plain name.qcow2");
        assert_eq!(escape("größe".as_bytes()), "größe");
        assert_eq!(escape(b"\x1b[2J\n\x7f"), "\\x1b[2J\\x0a\\x7f");
        assert_eq!(escape(b"a\xff\xfeb\\"), "a\\xff\\xfeb\\\\");
        assert_eq!(escape("\u{85}\u{202e}".as_bytes()), "\\x85\\u{202e}");
        assert_eq!(printable("one\ntwo\x1b[2J\\"), "one\ntwo\\x1b[2J\\");
    }

    #[test]
    fn json_names_stay_valid_json() {
        let text = json_name(b"x\xff\"\\\x01\n").to_string();
        assert_eq!(text, "\"x\u{fffd}\\\"\\\\\\u0001\\n\"");
        assert!(serde_json::from_str::<Value>(&text).is_ok());
    }

    #[test]
    fn sizes_for_people() {
        for (bytes, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1 KiB"),
            (1536, "1.5 KiB"),
            (100 << 10, "100 KiB"),
            (10 << 20, "10 MiB"),
            (5 << 28, "1.25 GiB"),
            (u64::MAX, "16 EiB"),
        ] {
            assert_eq!(size(bytes), text);
        }
    }

    #[test]
    fn listings_write_numbers() {
        let mut listing = Listing::new();
        listing.number(0).text(" ").number(10).text(" ").number(u64::MAX).text(" ").boolean(true);
        assert_eq!(listing.buffer, b"0 10 18446744073709551615 true");
    }

    #[test]
    fn tables_have_aligned_columns() {
        let rows = [["é".into(), "1".into()], ["long name".into(), String::new()]];
        assert_eq!(table(["NAME", "SIZE"], &rows), "NAME       SIZE\né          1\nlong name\n");
    }
}
