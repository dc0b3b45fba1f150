//! The value of `--disk`: `KEY=VALUE,...`, where a doubled comma is a comma inside a value.

use std::{
    ffi::{OsStr, OsString},
    fmt::Display,
    os::unix::ffi::{OsStrExt, OsStringExt},
    path::PathBuf,
    str::FromStr,
};

use holstein::{
    Access, Backing, BackupOptions, BitmapMode, ErrorPolicy, Existing, Format, SyncMode, ZeroDetection,
};

use crate::{args::parse_size, output::escape};

/// All keys, in the order in which help and errors name them.
const KEYS: [&str; 19] = [
    "source",
    "source-format",
    "target",
    "format",
    "backing",
    "backing-format",
    "bitmap",
    "bitmap-mode",
    "sync",
    "cluster-size",
    "compress",
    "overwrite",
    "detect-zeroes",
    "speed",
    "on-source-error",
    "on-target-error",
    "lineage",
    "reflink",
    "page-cache",
];

/// The keys that mean `on` when they stand alone.
const SWITCHES: [&str; 2] = ["overwrite", "detect-zeroes"];

/// One disk to back up.
#[derive(Clone, Debug)]
pub(crate) struct DiskSpec {
    /// The image to copy from.
    pub(crate) source: PathBuf,
    /// Its format.
    pub(crate) source_format: Format,
    /// The image to make.
    pub(crate) target: PathBuf,
    /// Everything else.
    pub(crate) options: BackupOptions,
}

impl DiskSpec {
    /// Reads the value of `--disk`; the error says which key is wrong.
    pub(crate) fn parse(text: &OsStr) -> Result<DiskSpec, String> {
        let mut values = Values::split(text.as_bytes())?;
        let source = values.path("source")?.ok_or_else(|| missing("source"))?;
        let target = values.path("target")?.ok_or_else(|| missing("target"))?;
        let source_format = values.choice("source-format", "qcow2, raw")?.unwrap_or_default();

        let format = values.choice("format", "qcow2, raw")?.unwrap_or_default();
        let backing = self::backing(values.path("backing")?, values.choice("backing-format", "qcow2, raw")?)?;
        let bitmap = values.take("bitmap").map(OsString::into_vec);
        let bitmap_mode = values.choice("bitmap-mode", "on-success, never, always")?;
        let sync = values.choice("sync", "full, top, bitmap, incremental, none")?;
        if bitmap.is_none() {
            if bitmap_mode.is_some() {
                return Err("'bitmap-mode' is given without 'bitmap'".into());
            }
            if matches!(sync, Some(SyncMode::Bitmap | SyncMode::Incremental)) {
                return Err("'sync' asks for what a bitmap marks, but 'bitmap' is missing".into());
            }
        }
        let overwrite = values.switch("overwrite")?.unwrap_or(false);
        let detect_zeroes = values.switch("detect-zeroes")?.unwrap_or(true);
        let options = BackupOptions {
            sync,
            bitmap,
            bitmap_mode,
            format,
            backing,
            cluster_size: values.parsed("cluster-size", parse_size)?,
            compression: values
                .choice("compress", "none, zlib, zlib:LEVEL, zstd, zstd:LEVEL")?
                .unwrap_or_default(),
            existing: if overwrite { Existing::Overwrite } else { Existing::Refuse },
            zero_detection: if detect_zeroes { ZeroDetection::On } else { ZeroDetection::Off },
            speed: values.parsed("speed", parse_size)?.unwrap_or_default(),
            on_source_error: values.policy("on-source-error")?,
            on_target_error: values.policy("on-target-error")?,
            lineage: values.choice("lineage", "strict, ignore")?.unwrap_or_default(),
            reflink: values.choice("reflink", "auto, always, never")?.unwrap_or_default(),
            page_cache: values.choice("page-cache", "drop, keep")?.unwrap_or_default(),
            // Nobody could tell a job of a command to take its last step.
            ..BackupOptions::default()
        };
        Ok(DiskSpec { source, source_format, target, options })
    }

    /// Whether the source's bitmap will be changed.
    pub(crate) fn access(&self) -> Access {
        match (self.sync(), self.options.bitmap_mode) {
            (_, Some(BitmapMode::OnSuccess | BitmapMode::Always)) | (SyncMode::Incremental, None) => {
                Access::Write
            }
            _ => Access::Read,
        }
    }

    /// What is copied, with the default that depends on the bitmap.
    pub(crate) fn sync(&self) -> SyncMode {
        let default = if self.options.bitmap.is_some() { SyncMode::Bitmap } else { SyncMode::Full };
        self.options.sync.unwrap_or(default)
    }
}

/// The image below a target, from two keys of which the second one needs the first.
pub(crate) fn backing(name: Option<PathBuf>, format: Option<Format>) -> Result<Option<Backing>, String> {
    if name.is_none() && format.is_some() {
        return Err("'backing-format' is given without 'backing'".into());
    }
    Ok(name.map(|name| Backing { name, format: format.unwrap_or_default() }))
}

/// Whether a job can come to wait for somebody to resume it, whom a command does not have.
pub(crate) fn pauses(policy: ErrorPolicy) -> bool {
    matches!(policy, ErrorPolicy::Enospc | ErrorPolicy::Stop)
}

fn missing(key: &str) -> String {
    format!("'{key}' is missing; {}", allowed_keys())
}

fn allowed_keys() -> String {
    format!("the keys are {}", KEYS.join(", "))
}

/// The values by key, each key known and given once.
struct Values(Vec<(&'static str, OsString)>);

impl Values {
    fn split(text: &[u8]) -> Result<Values, String> {
        let mut values = Values(Vec::new());
        for part in split_at_commas(text) {
            let equals = part.iter().position(|byte| *byte == b'=');
            let given = &part[..equals.unwrap_or(part.len())];
            let key = KEYS
                .into_iter()
                .find(|key| key.as_bytes() == given)
                .ok_or_else(|| format!("unknown key '{}'; {}", escape(given), allowed_keys()))?;
            let value = match equals {
                Some(equals) => &part[equals + 1..],
                None if SWITCHES.contains(&key) => b"on",
                None => return Err(format!("'{key}' needs a value: {key}=...")),
            };
            if value.is_empty() {
                return Err(format!("the value of '{key}' is empty"));
            }
            if values.0.iter().any(|(other, _)| *other == key) {
                return Err(format!("'{key}' is given twice; each of the keys is allowed once"));
            }
            values.0.push((key, OsString::from_vec(value.to_vec())));
        }
        Ok(values)
    }

    fn take(&mut self, key: &str) -> Option<OsString> {
        let index = self.0.iter().position(|(other, _)| *other == key)?;
        Some(self.0.swap_remove(index).1)
    }

    fn path(&mut self, key: &str) -> Result<Option<PathBuf>, String> {
        match self.take(key) {
            // No system call takes such a path; said here, the error names the key.
            Some(value) if value.as_bytes().contains(&0) => Err(format!("'{key}' has a NUL byte")),
            value => Ok(value.map(PathBuf::from)),
        }
    }

    fn parsed<T, E: Display>(
        &mut self,
        key: &str,
        parse: impl FnOnce(&str) -> Result<T, E>,
    ) -> Result<Option<T>, String> {
        let Some(value) = self.take(key) else { return Ok(None) };
        let text = value.to_str().ok_or_else(|| format!("the value of '{key}' is not UTF-8"))?;
        parse(text).map(Some).map_err(|error| format!("'{key}': {error}"))
    }

    fn choice<T: FromStr>(&mut self, key: &str, choices: &str) -> Result<Option<T>, String> {
        self.parsed(key, |text| {
            text.parse().map_err(|_| format!("'{}' is none of {choices}", escape(text.as_bytes())))
        })
    }

    /// A policy that needs nobody to resume the job.
    fn policy(&mut self, key: &str) -> Result<ErrorPolicy, String> {
        let found = self.parsed(key, |text| match text.parse() {
            Ok(policy) if !pauses(policy) => Ok(policy),
            Ok(_) => Err(format!("'{text}' pauses a job, which nobody could resume; use report or ignore")),
            Err(_) => Err(format!("'{}' is neither report nor ignore", escape(text.as_bytes()))),
        })?;
        Ok(found.unwrap_or_default())
    }

    fn switch(&mut self, key: &str) -> Result<Option<bool>, String> {
        self.parsed(key, |text| match text {
            "on" | "true" => Ok(true),
            "off" | "false" => Ok(false),
            _ => Err(format!("'{}' is neither on nor off", escape(text.as_bytes()))),
        })
    }
}

/// Splits at single commas; two in a row are one comma of the value.
fn split_at_commas(text: &[u8]) -> Vec<Vec<u8>> {
    let mut parts = vec![Vec::new()];
    let mut bytes = text.iter().copied().peekable();
    while let Some(byte) = bytes.next() {
        if byte == b',' && bytes.next_if_eq(&b',').is_none() {
            parts.push(Vec::new());
        } else if let Some(part) = parts.last_mut() {
            part.push(byte);
        }
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;
    use holstein::{BitmapMode, PageCache, Reflink};

    fn parse(text: &str) -> Result<DiskSpec, String> {
        DiskSpec::parse(OsStr::new(text))
    }

    #[test]
    fn two_keys_are_enough() {
        let spec = parse("source=a.qcow2,target=b.qcow2").unwrap();
        assert_eq!(spec.source, PathBuf::from("a.qcow2"));
        assert_eq!(spec.target, PathBuf::from("b.qcow2"));
        assert_eq!(spec.source_format, Format::Qcow2);
        assert_eq!(spec.options.format, Format::Qcow2);
        assert_eq!(spec.options.existing, Existing::Refuse);
        assert_eq!(spec.options.zero_detection, ZeroDetection::On);
        assert_eq!(spec.options.bitmap, None);
        assert_eq!(spec.options.backing, None);
        assert_eq!(spec.sync(), SyncMode::Full);
    }

    #[test]
    fn every_key_arrives() {
        let spec = parse(
            "target=inc.qcow2,source=a.raw,source-format=raw,format=qcow2,backing=../full.raw,\
             backing-format=raw,bitmap=nightly,bitmap-mode=never,sync=incremental,cluster-size=128k,\
             overwrite,detect-zeroes=off,speed=3M,on-source-error=ignore,on-target-error=report,\
             reflink=always,page-cache=keep",
        )
        .unwrap();
        assert_eq!(spec.source_format, Format::Raw);
        assert_eq!(spec.options.backing, Some(Backing { name: "../full.raw".into(), format: Format::Raw }));
        assert_eq!(spec.options.bitmap.as_deref(), Some(&b"nightly"[..]));
        assert_eq!(spec.options.bitmap_mode, Some(BitmapMode::Never));
        assert_eq!(spec.sync(), SyncMode::Incremental);
        assert_eq!(spec.options.cluster_size, Some(128 << 10));
        assert_eq!(spec.options.existing, Existing::Overwrite);
        assert_eq!(spec.options.zero_detection, ZeroDetection::Off);
        assert_eq!(spec.options.reflink, Reflink::Always);
        assert_eq!(spec.options.page_cache, PageCache::Keep);
        assert_eq!(spec.options.speed, 3 << 20);
        assert_eq!(spec.options.on_source_error, ErrorPolicy::Ignore);
        assert_eq!(spec.options.on_target_error, ErrorPolicy::Report);
    }

    #[test]
    fn a_bitmap_changes_the_default_of_sync() {
        assert_eq!(parse("source=a,target=b,bitmap=n").unwrap().sync(), SyncMode::Bitmap);
        assert_eq!(parse("source=a,target=b,bitmap=n,sync=full").unwrap().sync(), SyncMode::Full);
    }

    #[test]
    fn a_source_is_opened_for_writing_if_its_bitmap_may_change() {
        for (options, access) in [
            ("sync=none,backing=c", Access::Read),
            ("bitmap=n", Access::Read),
            ("bitmap=n,bitmap-mode=never", Access::Read),
            ("bitmap=n,bitmap-mode=on-success", Access::Write),
            ("bitmap=n,sync=incremental", Access::Write),
            ("bitmap=n,sync=full,bitmap-mode=always", Access::Write),
        ] {
            assert_eq!(parse(&format!("source=a,target=b,{options}")).unwrap().access(), access, "{options}");
        }
        assert_eq!(parse("source=a,target=b,sync=none").unwrap().sync(), SyncMode::None);
    }

    #[test]
    fn doubled_commas_are_commas() {
        let spec = parse("source=a,,b,target=,,,,c,,,overwrite=off").unwrap();
        assert_eq!(spec.source, PathBuf::from("a,b"));
        assert_eq!(spec.target, PathBuf::from(",,c,"));
        assert_eq!(spec.options.existing, Existing::Refuse);
    }

    #[test]
    fn values_are_bytes_and_may_hold_equals_signs() {
        let spec = DiskSpec::parse(OsStr::from_bytes(b"source=a=b,target=\xff,bitmap=\xfe=")).unwrap();
        assert_eq!(spec.source, PathBuf::from("a=b"));
        assert_eq!(spec.target.as_os_str().as_bytes(), b"\xff");
        assert_eq!(spec.options.bitmap.as_deref(), Some(&b"\xfe="[..]));
    }

    #[test]
    fn errors_name_the_key() {
        for (text, part) in [
            ("", "unknown key ''"),
            ("source=a,target=b,", "unknown key ''"),
            ("source=a", "'target' is missing"),
            ("target=a", "'source' is missing"),
            ("source=a,target=b,colour=red", "unknown key 'colour'; the keys are source,"),
            ("source=a,target=b,\x1b[2J=1", "unknown key '\\x1b[2J'"),
            ("source=a,target=b,Source=c", "unknown key 'Source'"),
            ("source=a,source=b,target=c", "'source' is given twice"),
            ("source=a,target=b,overwrite,overwrite=off", "'overwrite' is given twice"),
            ("source,target=b", "'source' needs a value"),
            ("source=a,target=", "'target' is empty"),
            ("source=a,target=b,format=vmdk", "'format': 'vmdk' is none of qcow2, raw"),
            ("source=a,target=b,sync=some", "'sync': 'some' is none of full,"),
            ("source=a,target=b,sync=incremental", "'bitmap' is missing"),
            ("source=a,target=b,bitmap-mode=never", "without 'bitmap'"),
            ("source=a,target=b,backing-format=raw", "without 'backing'"),
            ("source=a,target=b,overwrite=yes", "'overwrite': 'yes' is neither on nor off"),
            ("source=a,target=b,cluster-size=big", "'cluster-size': 'big' is not a size"),
            ("source=a,target=b,speed=-1", "'speed': '-1' is not a size"),
            (
                "source=a,target=b,on-source-error=auto",
                "'on-source-error': 'auto' is neither report nor ignore",
            ),
            ("source=a,target=b,on-target-error=enospc", "'on-target-error': 'enospc' pauses a job"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(part), "{text:?} gave {error:?}");
        }
    }
}
