//! Who holds a lock: this process, by another open file?

use std::{
    error::Error,
    fmt, fs, io,
    os::{
        fd::{AsRawFd, BorrowedFd},
        unix::fs::MetadataExt,
    },
    path::Path,
};

/// The cause of a `WouldBlock` of [`StorageFile::lock`](super::StorageFile::lock) where this process itself has the locks,
/// by another open file.
#[derive(Debug)]
pub struct HeldHere;

impl fmt::Display for HeldHere {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("this process holds the lock by another open file")
    }
}

impl Error for HeldHere {}

/// The error of a lock that somebody else has on `byte`; `file` itself has none.
pub(super) fn conflict(file: &fs::File, byte: i64) -> io::Error {
    match is_held_here(file, byte) {
        true => io::Error::new(io::ErrorKind::WouldBlock, HeldHere),
        false => io::ErrorKind::WouldBlock.into(),
    }
}

/// Whether another descriptor of this process has `byte` of the file locked. The system tells of such locks for each
/// descriptor; where it does not, the answer is no.
fn is_held_here(file: &fs::File, byte: i64) -> bool {
    let (Ok(own), Ok(descriptors)) = (file.metadata(), fs::read_dir("/proc/self/fd")) else { return false };
    let holds = |name: &Path| {
        let is_same = fs::metadata(Path::new("/proc/self/fd").join(name))
            .is_ok_and(|other| (other.dev(), other.ino()) == (own.dev(), own.ino()));
        let locks = || fs::read_to_string(Path::new("/proc/self/fdinfo").join(name)).unwrap_or_default();
        is_same && locks().lines().any(|line| locks_byte(line, byte))
    };
    let ours = file.as_raw_fd().to_string();
    descriptors.flatten().map(|entry| entry.file_name()).any(|name| *name != *ours && holds(name.as_ref()))
}

/// Whether the open file of a descriptor has locks of its own; no where the system does not tell.
pub(super) fn has_locks(descriptor: BorrowedFd<'_>) -> bool {
    let path = format!("/proc/self/fdinfo/{}", descriptor.as_raw_fd());
    let status = fs::read_to_string(path).unwrap_or_default();
    status.lines().any(|line| line.starts_with("lock:") && line.contains("OFDLCK"))
}

/// Whether a line of a descriptor's status tells of a lock of an open file on `byte`:
/// `lock: 1: OFDLCK ADVISORY READ -1 08:01:1234 100 100`.
fn locks_byte(line: &str, byte: i64) -> bool {
    let mut words = line.split_whitespace();
    if words.next() != Some("lock:") || !words.any(|word| word == "OFDLCK") {
        return false;
    }
    let end = words.next_back().map(|end| end.parse().unwrap_or(i64::MAX));
    let start = words.next_back().and_then(|start| start.parse().ok());
    matches!((start, end), (Some(start), Some(end)) if (start..=end).contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_a_descriptors_status() {
        let line = "lock:\t1: OFDLCK ADVISORY  READ -1 00:31:3408 100 103";
        assert!(locks_byte(line, 100) && locks_byte(line, 103));
        assert!(!locks_byte(line, 99) && !locks_byte(line, 104));
        assert!(locks_byte("lock:\t1: OFDLCK ADVISORY  WRITE -1 00:31:3408 0 EOF", 203));
        assert!(!locks_byte("lock:\t1: POSIX  ADVISORY  READ 17 00:31:3408 100 103", 100));
        assert!(!locks_byte("pos:\t100", 100) && !locks_byte("", 0));
    }
}
