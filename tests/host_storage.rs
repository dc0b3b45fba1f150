//! Holes and shared ranges in the operating system's files.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use holstein::storage::{HostStorage, MemoryStorage, Storage};

const BLOCK: usize = 4096;

/// A folder on tmpfs, and one on whatever the tests' target folder lies on.
fn folders() -> [tempfile::TempDir; 2] {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR"));
    [Path::new("/dev/shm"), target].map(|place| tempfile::tempdir_in(place).unwrap())
}

fn bytes(values: &[u8]) -> Vec<u8> {
    values.iter().flat_map(|value| [*value; BLOCK]).collect()
}

fn kind_of(result: std::io::Result<()>) -> ErrorKind {
    result.err().map(|error| error.kind()).unwrap()
}

#[test]
fn a_punch_frees_whole_blocks_and_keeps_the_length() {
    for folder in folders() {
        let path = folder.path().join("f");
        fs::write(&path, &bytes(&[1; 64])[..63 * BLOCK + 100]).unwrap();
        let file = HostStorage.open_writable(&path).unwrap();
        file.sync().unwrap();
        let before = file.allocated().unwrap();
        file.punch(BLOCK as u64 - 5, 40 * BLOCK as u64 + 10).unwrap();
        let mut expected = bytes(&[1; 64]);
        expected.truncate(63 * BLOCK + 100);
        expected[BLOCK - 5..41 * BLOCK + 5].fill(0);
        assert!(fs::read(&path).unwrap() == expected, "{path:?}");
        file.sync().unwrap();
        assert!(file.allocated().unwrap() <= before - 39 * BLOCK as u64, "{path:?}");
        let extent = file.extent_at(BLOCK as u64).unwrap();
        assert!(extent.hole && extent.end >= 40 * BLOCK as u64, "{path:?}: {extent:?}");

        // What lies behind the end is left out, whatever it is.
        file.punch(63 * BLOCK as u64 + 99, u64::MAX).unwrap();
        expected[63 * BLOCK + 99] = 0;
        file.punch(1 << 40, 1).unwrap();
        file.punch(u64::MAX, u64::MAX).unwrap();
        file.punch(0, 0).unwrap();
        assert!(fs::read(&path).unwrap() == expected, "{path:?}");
        let reader = HostStorage.open(&path).unwrap();
        assert_eq!(reader.punch(0, 1).unwrap_err().raw_os_error(), Some(libc::EBADF));
    }
}

#[test]
fn what_a_file_system_cannot_share_is_unsupported() {
    let [memory, disk] = folders();
    let create = |folder: &tempfile::TempDir, name: &str, values: &[u8]| {
        let path = folder.path().join(name);
        fs::write(&path, bytes(values)).unwrap();
        (HostStorage.open_writable(&path).unwrap(), path)
    };
    let (from, _) = create(&memory, "from", &[1, 2]);
    let (to, path) = create(&memory, "to", &[3]);
    let (elsewhere, _) = create(&disk, "elsewhere", &[4]);
    let strange = MemoryStorage::new();
    strange.insert("f", bytes(&[5]));
    let strange = strange.open("f".as_ref()).unwrap();
    // tmpfs shares nothing, no two file systems do, and neither do two storages.
    for source in [&from, &elsewhere, &strange, &to] {
        assert_eq!(kind_of(to.clone_range(&**source, 0, BLOCK as u64, 0)), ErrorKind::Unsupported);
    }
    to.clone_range(&*from, 0, 0, 0).unwrap();
    assert_eq!(fs::read(path).unwrap(), bytes(&[3]));
}

/// ext4 shares nothing; where btrfs or xfs is under the tests, they do.
#[test]
fn a_range_is_shared_or_nothing_has_changed() {
    let [_, disk] = folders();
    let [from, to] = ["from", "to"].map(|name| disk.path().join(name));
    fs::write(&from, &bytes(&[1, 2, 3])[..2 * BLOCK + 100]).unwrap();
    fs::write(&to, bytes(&[9])).unwrap();
    let source = HostStorage.open(&from).unwrap();
    let target = HostStorage.open_writable(&to).unwrap();
    match target.clone_range(&*source, BLOCK as u64, BLOCK as u64 + 100, BLOCK as u64) {
        Ok(()) => assert_eq!(fs::read(&to).unwrap(), bytes(&[9, 2, 3])[..2 * BLOCK + 100]),
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
            assert_eq!(fs::read(&to).unwrap(), bytes(&[9]));
        }
    }
    // In no case what lies askew, or behind the source's end.
    let before = fs::read(&to).unwrap();
    for (offset, length) in [(7, BLOCK as u64), (0, 7), (BLOCK as u64, 8 * BLOCK as u64)] {
        assert_eq!(kind_of(target.clone_range(&*source, offset, length, 0)), ErrorKind::Unsupported);
    }
    assert_eq!(fs::read(&to).unwrap(), before);
}
