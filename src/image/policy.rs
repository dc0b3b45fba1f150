//! Which files that are named inside an image may be opened.

use std::{
    ffi::OsStr,
    io,
    os::unix::ffi::OsStrExt,
    path::{Component, Path, PathBuf},
    str::FromStr,
};

use crate::{
    error::{Error, ErrorKind, Result, shown},
    format::text::printable,
    storage::{File, FileKind, Storage, in_full},
};

/// What may be opened because an image names it as its backing file or data file. Whatever the policy, such
/// a name is a path: URLs and `json:` are refused.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum BackingPolicy {
    /// Regular files in the folder of the image that names them, or below it.
    #[default]
    Beside,
    /// Regular files in this folder or below it.
    Under(PathBuf),
    /// Any regular file and block device.
    Any,
    /// Nothing.
    Deny,
}

impl FromStr for BackingPolicy {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "beside" => Ok(BackingPolicy::Beside),
            "any" => Ok(BackingPolicy::Any),
            "deny" => Ok(BackingPolicy::Deny),
            _ => match text.strip_prefix("under=") {
                Some(folder) if !folder.is_empty() => Ok(BackingPolicy::Under(folder.into())),
                _ => {
                    let text = format!("unknown backing policy '{text}'; use beside, under=DIR, any or deny");
                    Err(Error::new(ErrorKind::InvalidArgument, text))
                }
            },
        }
    }
}

impl BackingPolicy {
    /// Opens the file that the image at `image` names as its `role` ("backing file", "data file").
    pub(crate) fn open(&self, storage: &dyn Storage, image: &Path, name: &[u8], role: &str) -> Result<File> {
        let printed = printable(name);
        let fail = |kind, text: String| Error::new(kind, format!("'{}': {text}", shown(image)));
        let deny = |text: &str| fail(ErrorKind::PolicyDenied, format!("its {role} '{printed}' {text}"));

        let name = check_name(name).map_err(|problem| {
            let instead = match role {
                "data file" => "qemu-img amend -o data_file=PATH",
                _ => "qemu-img rebase -u -b PATH -F FORMAT",
            };
            deny(&format!("{problem}; record a path in its place ({instead})"))
        })?;
        let own_folder = folder_of(image);
        let path = own_folder.join(name);
        let folder = match self {
            BackingPolicy::Deny => return Err(deny("may not be opened: the backing policy is deny")),
            BackingPolicy::Any => None,
            BackingPolicy::Beside => Some(own_folder),
            BackingPolicy::Under(folder) => Some(folder.as_path()),
        };
        let opened = match folder {
            None => storage.open(&path),
            Some(folder) => {
                let outside = || {
                    let place = shown(folder);
                    deny(&format!(
                        "lies outside '{place}'; allow it with the backing policy under=DIR or any"
                    ))
                };
                let inside = relative_to(storage, folder, &path).ok_or_else(outside)?;
                match storage.open_beneath(folder, &inside) {
                    Err(e) if e.kind() == io::ErrorKind::CrossesDevices => return Err(outside()),
                    other => other,
                }
            }
        };
        let file = match opened {
            Ok(inner) => File::new(inner, &path),
            Err(e) => {
                let text = format!("'{}': cannot open its {role} '{printed}'", shown(image));
                return Err(Error::io(text, e));
            }
        };
        if folder.is_some() && file.kind()? != FileKind::Regular {
            return Err(deny("is no regular file; allow it with the backing policy any"));
        }
        Ok(file)
    }
}

/// The folder that relative names in an image start from.
pub(crate) fn folder_of(image: &Path) -> &Path {
    match image.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

/// A name from an image as a path, unless it could be read as anything else. Names are bytes.
pub(crate) fn check_name(name: &[u8]) -> Result<&Path, &'static str> {
    if name.is_empty() || name.contains(&0) {
        return Err("is empty or has a zero byte, which no path has");
    }
    match name.iter().find(|byte| matches!(byte, b':' | b'/')) {
        Some(b':') => Err("looks like a URL or pseudo protocol, which is never opened"),
        _ => Ok(Path::new(OsStr::from_bytes(name))),
    }
}

/// `path` as seen from `folder`, by its words alone. That the words lead to the same file as the whole path
/// does, whatever symbolic links say, is checked when the file is locked.
fn relative_to(storage: &dyn Storage, folder: &Path, path: &Path) -> Option<PathBuf> {
    let (folder, path) = (plain(storage, folder)?, plain(storage, path)?);
    path.strip_prefix(folder).ok().map(Path::to_owned)
}

/// An absolute path without `..`.
fn plain(storage: &dyn Storage, path: &Path) -> Option<PathBuf> {
    let mut plain = PathBuf::new();
    for part in in_full(storage, path).ok()?.components() {
        match part {
            Component::ParentDir => drop(plain.pop()),
            part => plain.push(part),
        }
    }
    Some(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_are_no_paths() {
        for name in ["json:{}", "nbd://host/x", "fat:rw:/etc", "a:b/c", "", "a\0b"] {
            assert!(check_name(name.as_bytes()).is_err(), "{name:?}");
        }
        for name in ["base.qcow2", "/srv/base:1.qcow2", "sub/a:b", "../x"] {
            assert!(check_name(name.as_bytes()).is_ok(), "{name:?}");
        }
        for name in [&b"\xff"[..], b"caf\xe9.raw", b"a\tb", b"a\nb"] {
            assert!(check_name(name).is_ok(), "{name:?}");
        }
    }

    #[test]
    fn paths_seen_from_a_folder() {
        let seen = |folder: &str, path: &str| {
            relative_to(&crate::storage::HostStorage, Path::new(folder), Path::new(path))
        };
        assert_eq!(seen("/a/b", "/a/b/c/d"), Some("c/d".into()));
        assert_eq!(seen("/a/b", "/a/bc"), None);
        assert_eq!(seen("a", "a/./b"), Some("b".into()));
        assert_eq!(seen("/a", "/a/b/../c"), Some("c".into()));
        assert_eq!(seen("/a/b", "/a/c/../b/d"), Some("d".into()));
        assert_eq!(seen("/a/b", "/a/b/../c"), None);
    }
}
