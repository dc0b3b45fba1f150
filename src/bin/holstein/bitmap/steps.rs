//! The file of `holstein bitmap apply`: a JSON array of steps. A key or an operation that is not known is an error, so that
//! nothing is left undone in silence.

use std::{
    fs,
    path::{Path, PathBuf},
};

use holstein::{BitmapChange, Recording};
use serde_json::Value;

use super::change::sources;
use crate::{
    failure::{FAILED, Failure},
    json_values::Values,
    output::{escape, escape_path},
};

/// The operations, each with its keys beside "op".
const OPERATIONS: [(&str, &[&str]); 7] = [
    ("add", &["name", "granularity", "disabled"]),
    ("remove", &["name"]),
    ("clear", &["name"]),
    ("enable", &["name"]),
    ("disable", &["name"]),
    ("rename", &["name", "to"]),
    ("merge", &["name", "sources", "from"]),
];

/// One step of the file.
#[derive(Debug)]
enum Step {
    /// A change that is complete.
    Change(BitmapChange),
    /// A merge whose sources may have to be loaded.
    Merge { name: Vec<u8>, sources: Vec<Vec<u8>>, from: Option<PathBuf> },
}

/// Reads the file, and the bitmaps that it takes from other images.
pub(super) fn read(file: &Path) -> Result<Vec<BitmapChange>, Failure> {
    let shown = escape_path(file);
    let text =
        fs::read(file).map_err(|error| Failure::new(FAILED, format!("cannot read '{shown}': {error}")))?;
    let steps = parse(&text).map_err(|text| Failure::usage(format!("'{shown}': {text}")))?;
    let complete = |step| match step {
        Step::Change(change) => Ok(change),
        Step::Merge { name, sources: names, from } => {
            Ok(BitmapChange::Merge { name, sources: sources(names, from.as_deref())? })
        }
    };
    steps.into_iter().map(complete).collect()
}

fn parse(text: &[u8]) -> Result<Vec<Step>, String> {
    let value = serde_json::from_slice(text).map_err(|error| format!("it is not JSON: {error}"))?;
    let Value::Array(steps) = value else { return Err("it is not an array of steps".into()) };
    let step = |(index, value)| parse_step(value).map_err(|text| format!("step {}: {text}", index + 1));
    steps.into_iter().enumerate().map(step).collect()
}

fn parse_step(value: Value) -> Result<Step, String> {
    let mut values = Values::of(value)?;
    let given = values.text("op")?;
    let Some((operation, keys)) = OPERATIONS.into_iter().find(|(operation, _)| *operation == given) else {
        let all = OPERATIONS.map(|(operation, _)| operation).join(", ");
        return Err(format!("unknown operation '{}'; there are {all}", escape(given.as_bytes())));
    };
    values.refuse_unknown(operation, &[&["op"], keys].concat())?;
    let name = values.text("name")?.into_bytes();
    let change = match operation {
        "add" => {
            let recording = if values.switch("disabled")? { Recording::Disabled } else { Recording::Enabled };
            BitmapChange::Add { name, granularity: values.number("granularity")?, recording }
        }
        "remove" => BitmapChange::Remove { name },
        "clear" => BitmapChange::Clear { name },
        "enable" => BitmapChange::Record { name, recording: Recording::Enabled },
        "disable" => BitmapChange::Record { name, recording: Recording::Disabled },
        "rename" => BitmapChange::Rename { name, to: values.text("to")?.into_bytes() },
        _ => {
            let sources = values.names("sources")?;
            let from = values.optional_text("from")?.map(PathBuf::from);
            return Ok(Step::Merge { name, sources, from });
        }
    };
    Ok(Step::Change(change))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_operation_and_key_arrives() {
        let text = br#"[
            {"op": "add", "name": "a", "granularity": 4096, "disabled": true},
            {"name": "\u00e9", "op": "add"},
            {"op": "remove", "name": "a"},
            {"op": "clear", "name": "a"},
            {"op": "enable", "name": "a"},
            {"op": "disable", "name": "a"},
            {"op": "rename", "name": "a", "to": "b"},
            {"op": "merge", "name": "a", "sources": ["b", "c"]},
            {"op": "merge", "name": "a", "sources": ["b"], "from": "other.qcow2"}
        ]"#;
        let steps: Vec<_> = parse(text).unwrap().iter().map(|step| format!("{step:?}")).collect();
        let expected = [
            Step::Change(BitmapChange::Add {
                name: b"a".into(),
                granularity: Some(4096),
                recording: Recording::Disabled,
            }),
            Step::Change(BitmapChange::Add {
                name: b"\xc3\xa9".into(),
                granularity: None,
                recording: Recording::Enabled,
            }),
            Step::Change(BitmapChange::Remove { name: b"a".into() }),
            Step::Change(BitmapChange::Clear { name: b"a".into() }),
            Step::Change(BitmapChange::Record { name: b"a".into(), recording: Recording::Enabled }),
            Step::Change(BitmapChange::Record { name: b"a".into(), recording: Recording::Disabled }),
            Step::Change(BitmapChange::Rename { name: b"a".into(), to: b"b".into() }),
            Step::Merge { name: b"a".into(), sources: vec![b"b".into(), b"c".into()], from: None },
            Step::Merge { name: b"a".into(), sources: vec![b"b".into()], from: Some("other.qcow2".into()) },
        ];
        assert_eq!(steps, expected.iter().map(|step| format!("{step:?}")).collect::<Vec<_>>());
        assert!(parse(b"[]").unwrap().is_empty());
    }

    #[test]
    fn errors_name_the_step_and_the_key() {
        for (text, part) in [
            ("", "it is not JSON"),
            ("[", "it is not JSON"),
            ("[] []", "it is not JSON"),
            ("{}", "it is not an array"),
            ("[1]", "step 1: it is not an object"),
            ("[{}]", "step 1: 'op' is missing"),
            (r#"[{"op": 1}]"#, "step 1: 'op' is not a text"),
            (r#"[{"op": "copy"}]"#, "step 1: unknown operation 'copy'; there are add, remove,"),
            (r#"[{"op": "\u001b[2J"}]"#, "unknown operation '\\x1b[2J'"),
            (r#"[{"op": "clear", "name": "a"}, {"op": "clear"}]"#, "step 2: 'name' is missing"),
            (r#"[{"op": "clear", "name": 7}]"#, "step 1: 'name' is not a text"),
            (r#"[{"op": "clear", "name": "a", "to": "b"}]"#, "unknown key 'to'; 'clear' has op, name"),
            (r#"[{"op": "add", "name": "a", "Granularity": 1}]"#, "unknown key 'Granularity'"),
            (r#"[{"op": "add", "name": "a", "granularity": "64k"}]"#, "'granularity' is not a number"),
            (r#"[{"op": "add", "name": "a", "granularity": -1}]"#, "'granularity' is not a number"),
            (r#"[{"op": "add", "name": "a", "disabled": 1}]"#, "'disabled' is neither true nor false"),
            (r#"[{"op": "rename", "name": "a"}]"#, "step 1: 'to' is missing"),
            (r#"[{"op": "merge", "name": "a"}]"#, "'sources' is missing"),
            (r#"[{"op": "merge", "name": "a", "sources": []}]"#, "'sources' is empty"),
            (r#"[{"op": "merge", "name": "a", "sources": "b"}]"#, "'sources' is not an array of names"),
            (r#"[{"op": "merge", "name": "a", "sources": [1]}]"#, "'sources' is not an array of names"),
            (r#"[{"op": "merge", "name": "a", "sources": ["b"], "from": null}]"#, "'from' is not a text"),
        ] {
            let error = parse(text.as_bytes()).unwrap_err();
            assert!(error.contains(part), "{text:?} gave {error:?}");
        }
    }
}
