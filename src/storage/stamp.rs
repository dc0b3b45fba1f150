//! What tells later whether a file was written.

use super::File;
use crate::error::{ErrorKind, Result};

/// So much of a file's start is compared: all fields of a header.
const HEAD: usize = 4096;

/// A file as it was at some moment: its length, when its contents changed last, and how it begins. A rename, another
/// link, other rights or a label leave all three.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stamp {
    length: u64,
    changed: i128,
    /// `None` if it could not be read: then the file's contents are an error elsewhere.
    head: Option<blake3::Hash>,
}

impl Stamp {
    pub(super) fn of(file: &File) -> Result<Self> {
        let version = file.version()?;
        let changed = file.content_time()?.unwrap_or(version.modified);
        let mut head = [0; HEAD];
        let head = &mut head[..version.length.min(HEAD as u64) as usize];
        let head = match file.read_up_to(head, 0) {
            // What a short read did not bring is not known.
            Ok(got) if got < head.len() => {
                let text = format!("it ends at byte {got}, and has {} bytes", version.length);
                return Err(file.error(ErrorKind::Corrupt, text));
            }
            Err(error) if error.errno().is_none() => return Err(error),
            read => read.ok().map(|_| blake3::hash(head)),
        };
        Ok(Stamp { length: version.length, changed, head })
    }

    /// Whether nobody has written the file between the two.
    pub(crate) fn is_same(&self, other: &Stamp) -> bool {
        let heads = self.head.zip(other.head);
        self.length == other.length && self.changed == other.changed && heads.is_none_or(|(a, b)| a == b)
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt};

    use crate::storage::{File, HostStorage, Storage};

    #[test]
    fn a_stamp_tells_a_write_from_all_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("image");
        fs::write(&path, vec![1; 10_000]).unwrap();
        let written = fs::metadata(&path).unwrap().modified().unwrap();
        let file = File::new(HostStorage.open_writable(&path).unwrap(), &path);
        let stamp = file.stamp().unwrap();
        let is_same = || file.stamp().unwrap().is_same(&stamp);
        let set_back = || {
            let times = fs::FileTimes::new().set_modified(written);
            fs::File::options().write(true).open(&path).unwrap().set_times(times).unwrap();
        };
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        fs::hard_link(&path, folder.path().join("link")).unwrap();
        assert!(is_same());
        set_back();
        assert!(is_same());
        file.write_all(&[2], 4095).unwrap();
        assert!(!is_same());
        set_back();
        assert!(!is_same(), "its header is another");
        file.write_all(&[1], 4095).unwrap();
        set_back();
        assert!(is_same());
        file.set_len(10_001).unwrap();
        set_back();
        assert!(!is_same(), "its length is another");
    }
}
