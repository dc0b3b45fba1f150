//! The file: what it says, before anything is opened.

use std::path::{Path, PathBuf};

use holstein::{
    BackupOptions, CompletionMode, Compression, ErrorPolicy, Existing, OverlayOptions, Recording,
    ZeroDetection,
};
use serde_json::Value;

use crate::{
    disk_spec::{self, DiskSpec},
    json_values::Values,
    output::escape,
};

/// Types of actions, each with the keys of its data.
const TYPES: [(&str, &[&str]); 12] = [
    ("blockdev-backup", BACKUP_KEYS),
    ("drive-backup", BACKUP_KEYS),
    ("block-dirty-bitmap-add", &["node", "name", "granularity", "disabled", "persistent"]),
    ("block-dirty-bitmap-remove", &["node", "name"]),
    ("block-dirty-bitmap-clear", &["node", "name"]),
    ("block-dirty-bitmap-enable", &["node", "name"]),
    ("block-dirty-bitmap-disable", &["node", "name"]),
    ("block-dirty-bitmap-merge", &["node", "target", "bitmaps"]),
    (
        "blockdev-snapshot-sync",
        &["device", "node-name", "snapshot-file", "format", "mode", "cluster-size", "backing"],
    ),
    ("blockdev-snapshot-internal-sync", &["device", "name"]),
    ("blockdev-snapshot-delete-internal-sync", &["device", "id", "name"]),
    ("abort", &[]),
];

const BACKUP_KEYS: &[&str] = &[
    "device",
    "target",
    "sync",
    "bitmap",
    "bitmap-mode",
    "format",
    "backing",
    "backing-format",
    "cluster-size",
    "compress",
    "overwrite",
    "detect-zeroes",
    "speed",
    "on-source-error",
    "on-target-error",
    "reflink",
    "page-cache",
];

/// What the file says.
#[derive(Debug)]
pub(super) struct List {
    pub(super) steps: Vec<Step>,
    pub(super) completion: CompletionMode,
}

/// One action, with paths for disks.
#[derive(Debug)]
pub(super) enum Step {
    Backup(Box<DiskSpec>),
    Add {
        node: PathBuf,
        name: Vec<u8>,
        granularity: Option<u64>,
        recording: Recording,
    },
    Remove {
        node: PathBuf,
        name: Vec<u8>,
    },
    Clear {
        node: PathBuf,
        name: Vec<u8>,
    },
    Record {
        node: PathBuf,
        name: Vec<u8>,
        recording: Recording,
    },
    /// Sources without a node are bitmaps of the same one.
    Merge {
        node: PathBuf,
        name: Vec<u8>,
        sources: Vec<(Option<PathBuf>, Vec<u8>)>,
    },
    Snapshot {
        node: PathBuf,
        overlay: PathBuf,
        options: OverlayOptions,
    },
    TakeSnapshot {
        node: PathBuf,
        name: Vec<u8>,
    },
    DeleteSnapshot {
        node: PathBuf,
        id_or_name: Vec<u8>,
    },
    Abort,
}

impl Step {
    /// Every path of an image in it, in the order in which it means them.
    pub(super) fn images(&mut self) -> Vec<&mut PathBuf> {
        match self {
            Step::Backup(spec) => vec![&mut spec.source],
            Step::Add { node, .. }
            | Step::Remove { node, .. }
            | Step::Clear { node, .. }
            | Step::Record { node, .. }
            | Step::TakeSnapshot { node, .. }
            | Step::DeleteSnapshot { node, .. } => vec![node],
            Step::Merge { node, sources, .. } => {
                let others = sources.iter_mut().filter_map(|(from, _)| from.as_mut());
                [node].into_iter().chain(others).collect()
            }
            Step::Snapshot { node, overlay, .. } => vec![node, overlay],
            Step::Abort => Vec::new(),
        }
    }
}

impl List {
    pub(super) fn parse(text: &[u8]) -> Result<Self, String> {
        let value = serde_json::from_slice(text).map_err(|error| format!("it is not JSON: {error}"))?;
        let mut values = Values::of(value)?;
        values.refuse_unknown("the file", &["actions", "properties"])?;
        let actions = values.list("actions", "actions")?;
        let completion = match values.take("properties") {
            None => CompletionMode::default(),
            Some(value) => completion(value).map_err(|text| format!("'properties': {text}"))?,
        };
        let step = |(index, value)| parse_step(value).map_err(|text| format!("action {}: {text}", index + 1));
        let steps = actions.into_iter().enumerate().map(step).collect::<Result<_, _>>()?;
        Ok(List { steps, completion })
    }

    /// The backups, in their order.
    pub(super) fn backups(&self) -> impl Iterator<Item = &DiskSpec> {
        self.steps.iter().filter_map(|step| match step {
            Step::Backup(spec) => Some(&**spec),
            _ => None,
        })
    }

    /// The first new file, or else the first disk.
    pub(super) fn first_path(&self) -> Option<&Path> {
        let new = self.steps.iter().find_map(|step| match step {
            Step::Backup(spec) => Some(spec.target.as_path()),
            Step::Snapshot { overlay, .. } => Some(overlay),
            _ => None,
        });
        new.or_else(|| self.steps.iter().find_map(Step::node))
    }
}

impl Step {
    /// The disk, as the file calls it.
    pub(super) fn node(&self) -> Option<&Path> {
        match self {
            Step::Backup(spec) => Some(&spec.source),
            Step::Add { node, .. }
            | Step::Remove { node, .. }
            | Step::Clear { node, .. }
            | Step::Record { node, .. }
            | Step::Merge { node, .. }
            | Step::Snapshot { node, .. }
            | Step::TakeSnapshot { node, .. }
            | Step::DeleteSnapshot { node, .. } => Some(node),
            Step::Abort => None,
        }
    }
}

fn completion(value: Value) -> Result<CompletionMode, String> {
    let mut values = Values::of(value)?;
    values.refuse_unknown("properties", &["completion-mode"])?;
    match values.optional_text("completion-mode")?.as_deref() {
        None => Ok(CompletionMode::default()),
        Some("grouped") => Ok(CompletionMode::Grouped),
        Some("individual") => Ok(CompletionMode::Individual),
        Some(other) => {
            Err(format!("unknown completion mode '{}'; use grouped or individual", escape(other.as_bytes())))
        }
    }
}

fn parse_step(value: Value) -> Result<Step, String> {
    let mut values = Values::of(value)?;
    values.refuse_unknown("an action", &["type", "data"])?;
    let given = values.text("type")?;
    let Some((kind, keys)) = TYPES.into_iter().find(|(kind, _)| *kind == given) else {
        let all = TYPES.map(|(kind, _)| kind).join(", ");
        return Err(format!("unknown type '{}'; there are {all}", escape(given.as_bytes())));
    };
    let data = values.take("data").unwrap_or_else(|| Value::Object(serde_json::Map::new()));
    let mut data = Values::of(data).map_err(|text| format!("'data': {text}"))?;
    data.refuse_unknown(kind, keys)?;
    parse_data(kind, &mut data).map_err(|text| format!("{kind}: {text}"))
}

fn parse_data(kind: &str, data: &mut Values) -> Result<Step, String> {
    let operation = match kind {
        "blockdev-backup" | "drive-backup" => return Ok(Step::Backup(Box::new(backup(data)?))),
        "blockdev-snapshot-sync" => return snapshot(data),
        "blockdev-snapshot-internal-sync" => {
            let node = data.text("device")?.into();
            return Ok(Step::TakeSnapshot { node, name: data.text("name")?.into_bytes() });
        }
        "blockdev-snapshot-delete-internal-sync" => {
            let node = data.text("device")?.into();
            let id_or_name = match (data.optional_text("id")?, data.optional_text("name")?) {
                (Some(text), None) | (None, Some(text)) => text.into_bytes(),
                _ => return Err("one of 'id' and 'name' is needed".into()),
            };
            return Ok(Step::DeleteSnapshot { node, id_or_name });
        }
        "abort" => return Ok(Step::Abort),
        other => other.trim_start_matches("block-dirty-bitmap-"),
    };
    let node = PathBuf::from(data.text("node")?);
    if operation == "merge" {
        let name = data.text("target")?.into_bytes();
        let sources = data.array("bitmaps", "bitmaps")?.into_iter().map(merge_source);
        return Ok(Step::Merge { node, name, sources: sources.collect::<Result<_, _>>()? });
    }
    let name = data.text("name")?.into_bytes();
    Ok(match operation {
        "add" => {
            if data.take("persistent").is_some_and(|persistent| persistent != Value::Bool(true)) {
                return Err("'persistent' can only be true: a bitmap in memory alone would be gone".into());
            }
            let recording = if data.switch("disabled")? { Recording::Disabled } else { Recording::Enabled };
            Step::Add { node, name, granularity: data.number("granularity")?, recording }
        }
        "remove" => Step::Remove { node, name },
        "clear" => Step::Clear { node, name },
        "enable" => Step::Record { node, name, recording: Recording::Enabled },
        _ => Step::Record { node, name, recording: Recording::Disabled },
    })
}

fn merge_source(value: Value) -> Result<(Option<PathBuf>, Vec<u8>), String> {
    if let Value::String(name) = value {
        return Ok((None, name.into_bytes()));
    }
    let about = |text| format!("'bitmaps': {text}");
    let mut values =
        Values::of(value).map_err(|_| about("one is neither a name nor an object".to_owned()))?;
    values.refuse_unknown("a bitmap", &["node", "name"]).map_err(about)?;
    let node = values.text("node").map_err(about)?;
    Ok((Some(node.into()), values.text("name").map_err(about)?.into_bytes()))
}

fn backup(data: &mut Values) -> Result<DiskSpec, String> {
    let compression = match data.take("compress") {
        None | Some(Value::Bool(false)) => Compression::None,
        Some(Value::Bool(true)) => Compression::Zlib { level: None },
        Some(Value::String(text)) => text.parse().map_err(|error| format!("'compress': {error}"))?,
        Some(_) => return Err("'compress' is neither true, false nor a type of compression".into()),
    };
    let backing_format = data.parsed("backing-format")?;
    let backing = disk_spec::backing(data.optional_text("backing")?.map(PathBuf::from), backing_format)?;
    let detect_zeroes = match data.take("detect-zeroes") {
        None => true,
        Some(value) => value.as_bool().ok_or("'detect-zeroes' is neither true nor false")?,
    };
    let options = BackupOptions {
        sync: data.parsed("sync")?,
        bitmap: data.optional_text("bitmap")?.map(String::into_bytes),
        bitmap_mode: data.parsed("bitmap-mode")?,
        format: data.parsed("format")?.unwrap_or_default(),
        backing,
        cluster_size: data.number("cluster-size")?,
        compression,
        existing: if data.switch("overwrite")? { Existing::Overwrite } else { Existing::Refuse },
        zero_detection: if detect_zeroes { ZeroDetection::On } else { ZeroDetection::Off },
        speed: data.number("speed")?.unwrap_or(0),
        on_source_error: policy(data, "on-source-error")?,
        on_target_error: policy(data, "on-target-error")?,
        reflink: data.parsed("reflink")?.unwrap_or_default(),
        page_cache: data.parsed("page-cache")?.unwrap_or_default(),
        ..BackupOptions::default()
    };
    let (source, target) = (data.text("device")?.into(), data.text("target")?.into());
    Ok(DiskSpec { source, source_format: Default::default(), target, options })
}

/// A policy that needs nobody to resume the job.
fn policy(data: &mut Values, key: &str) -> Result<ErrorPolicy, String> {
    match data.parsed(key)?.unwrap_or_default() {
        policy if !disk_spec::pauses(policy) => Ok(policy),
        _ => Err(format!("'{key}' can only be report or ignore: nobody could resume what was stopped")),
    }
}

fn snapshot(data: &mut Values) -> Result<Step, String> {
    let node = match (data.optional_text("device")?, data.optional_text("node-name")?) {
        (Some(node), None) | (None, Some(node)) => node.into(),
        _ => return Err("one of 'device' and 'node-name' is needed".into()),
    };
    let overlay = data.text("snapshot-file")?.into();
    for (key, only) in [("format", "qcow2"), ("mode", "absolute-paths")] {
        if data.optional_text(key)?.is_some_and(|given| given != only) {
            return Err(format!("'{key}' can only be '{only}': the snapshot file is made anew"));
        }
    }
    let backing_name = data.optional_text("backing")?.map(PathBuf::from);
    let options = OverlayOptions { cluster_size: data.number("cluster-size")?, backing_name };
    Ok(Step::Snapshot { node, overlay, options })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(actions: &str) -> Result<List, String> {
        List::parse(format!(r#"{{"actions": [{actions}]}}"#).as_bytes())
    }

    #[test]
    fn every_type_arrives() {
        let list = parse(
            r#"{"type": "block-dirty-bitmap-add", "data": {"node": "a", "name": "n", "granularity": 4096,
                "disabled": true, "persistent": true}},
               {"type": "block-dirty-bitmap-remove", "data": {"node": "a", "name": "n"}},
               {"type": "block-dirty-bitmap-clear", "data": {"node": "a", "name": "n"}},
               {"type": "block-dirty-bitmap-enable", "data": {"node": "a", "name": "n"}},
               {"type": "block-dirty-bitmap-disable", "data": {"node": "a", "name": "n"}},
               {"type": "block-dirty-bitmap-merge", "data": {"node": "a", "target": "n",
                "bitmaps": ["m", {"node": "b", "name": "o"}]}},
               {"type": "blockdev-snapshot-sync", "data": {"device": "a", "snapshot-file": "o", "format": "qcow2",
                "mode": "absolute-paths", "cluster-size": 512, "backing": "./a"}},
               {"type": "drive-backup", "data": {"device": "a", "target": "t", "sync": "incremental", "bitmap": "n",
                "compress": "zstd:3", "overwrite": true, "detect-zeroes": false}},
               {"type": "blockdev-snapshot-internal-sync", "data": {"device": "a", "name": "n"}},
               {"type": "blockdev-snapshot-delete-internal-sync", "data": {"device": "a", "id": "n"}},
               {"type": "abort"}"#,
        )
        .unwrap();
        assert_eq!(list.completion, CompletionMode::Grouped);
        let shown: Vec<_> = list.steps.iter().map(|step| format!("{step:?}")).collect();
        let name = "name: [110]";
        for (step, parts) in shown.iter().zip([
            &["Add", "\"a\"", name, "Some(4096)", "Disabled"][..],
            &["Remove", "\"a\"", name],
            &["Clear", "\"a\"", name],
            &["Record", "Enabled", name],
            &["Record", "Disabled", name],
            &["Merge", name, "(None, [109])", "(Some(\"b\"), [111])"],
            &["Snapshot", "overlay: \"o\"", "cluster_size: Some(512)", "Some(\"./a\")"],
            &["Backup", "target: \"t\"", "Some(Incremental)", "Zstd { level: Some(3) }", "Overwrite", "Off"],
            &["TakeSnapshot", "\"a\"", name],
            &["DeleteSnapshot", "\"a\"", "id_or_name: [110]"],
            &["Abort"],
        ]) {
            parts.iter().for_each(|part| assert!(step.contains(part), "{step} has no {part}"));
        }
        assert_eq!(list.first_path(), Some(Path::new("o")));
    }

    #[test]
    fn the_completion_mode() {
        let with = |mode: &str| {
            let text =
                r#"{"actions": [{"type": "abort", "data": {}}], "properties": {"completion-mode": MODE}}"#;
            List::parse(text.replace("MODE", mode).as_bytes()).map(|list| list.completion)
        };
        assert_eq!(with(r#""individual""#), Ok(CompletionMode::Individual));
        assert_eq!(with(r#""grouped""#), Ok(CompletionMode::Grouped));
        assert!(with(r#""both""#).unwrap_err().contains("unknown completion mode 'both'"));
    }

    #[test]
    fn a_list_without_actions_is_one() {
        assert_eq!(List::parse(br#"{"actions": []}"#).map(|list| list.steps.len()), Ok(0));
    }

    #[test]
    fn errors_name_the_action_and_the_key() {
        for (actions, part) in [
            ("1", "action 1: it is not an object"),
            (
                r#"{"type": "abort"}, {"type": "abort", "id": 1}"#,
                "action 2: unknown key 'id'; 'an action' has type, data",
            ),
            (r#"{"type": "blockdev-mirror"}"#, "unknown type 'blockdev-mirror'; there are blockdev-backup,"),
            (r#"{"type": "abort", "data": {"x": 1}}"#, "unknown key 'x'; 'abort' has none"),
            (r#"{"type": "abort", "data": 1}"#, "'data': it is not an object"),
            (
                r#"{"type": "blockdev-backup", "data": {"device": "a"}}"#,
                "blockdev-backup: 'target' is missing",
            ),
            (
                r#"{"type": "blockdev-backup", "data": {"device": "a", "target": "t", "sync": "some"}}"#,
                "'sync': unknown sync mode 'some'",
            ),
            (
                r#"{"type": "blockdev-backup", "data": {"device": "a", "target": "t", "backing-format": "raw"}}"#,
                "'backing-format' is given without 'backing'",
            ),
            (
                r#"{"type": "blockdev-backup", "data": {"device": "a", "target": "t", "compress": 1}}"#,
                "'compress' is neither",
            ),
            (
                r#"{"type": "blockdev-backup", "data": {"device": "a", "target": "t", "on-target-error": "stop"}}"#,
                "'on-target-error' can only be report or ignore",
            ),
            (r#"{"type": "block-dirty-bitmap-clear", "data": {"name": "n"}}"#, "'node' is missing"),
            (
                r#"{"type": "block-dirty-bitmap-add", "data": {"node": "a", "name": "n", "persistent": false}}"#,
                "'persistent' can only be true",
            ),
            (
                r#"{"type": "block-dirty-bitmap-merge", "data": {"node": "a", "target": "n", "bitmaps": []}}"#,
                "'bitmaps' is empty",
            ),
            (
                r#"{"type": "block-dirty-bitmap-merge", "data": {"node": "a", "target": "n", "bitmaps": [1]}}"#,
                "'bitmaps': one is neither a name nor an object",
            ),
            (
                r#"{"type": "block-dirty-bitmap-merge", "data": {"node": "a", "target": "n", "bitmaps": [{"name": "b"}]}}"#,
                "'bitmaps': 'node' is missing",
            ),
            (
                r#"{"type": "blockdev-snapshot-sync", "data": {"snapshot-file": "o"}}"#,
                "one of 'device' and 'node-name' is needed",
            ),
            (
                r#"{"type": "blockdev-snapshot-sync", "data": {"device": "a", "snapshot-file": "o", "mode": "existing"}}"#,
                "'mode' can only be 'absolute-paths'",
            ),
        ] {
            let error = parse(actions).unwrap_err();
            assert!(error.contains(part), "{actions} gave {error:?}");
        }
        for (text, part) in
            [("", "it is not JSON"), ("[]", "it is not an object"), ("{}", "'actions' is missing")]
        {
            let error = List::parse(text.as_bytes()).unwrap_err();
            assert!(error.contains(part), "{text} gave {error:?}");
        }
    }
}
