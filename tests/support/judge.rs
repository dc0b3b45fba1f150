//! Comparing what Holstein says and does with what QEMU says and does.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use serde_json::Value;

/// Where `ours` lacks or contradicts something of `theirs`; more keys of ours are allowed.
pub fn missing(theirs: &Value, ours: &Value, at: &str) -> Vec<String> {
    match (theirs, ours) {
        (Value::Object(theirs), Value::Object(ours)) => theirs
            .iter()
            .flat_map(|(key, value)| match ours.get(key) {
                Some(found) => missing(value, found, &format!("{at}.{key}")),
                None => vec![format!("{at}.{key} is missing, {value} wanted")],
            })
            .collect(),
        (Value::Array(theirs), Value::Array(ours)) if theirs.len() == ours.len() => {
            let pairs = theirs.iter().zip(ours).enumerate();
            pairs.flat_map(|(i, (theirs, ours))| missing(theirs, ours, &format!("{at}[{i}]"))).collect()
        }
        _ if theirs == ours => Vec::new(),
        _ => vec![format!("{at} is {ours}, {theirs} wanted")],
    }
}

/// Panics at the first element in which two arrays differ.
#[track_caller]
pub fn same_array(what: &str, theirs: &Value, ours: &Value) {
    let (a, b) = (theirs.as_array().expect("an array of QEMU's"), ours.as_array().expect("an array of ours"));
    for i in 0..a.len().max(b.len()) {
        let (theirs, ours) = (a.get(i), b.get(i));
        assert!(
            theirs == ours,
            "{what}: element {i} of {} differs\n  QEMU: {}\n  ours: {}",
            a.len(),
            theirs.unwrap_or(&Value::Null),
            ours.unwrap_or(&Value::Null)
        );
    }
}

/// Panics unless two files hold the same bytes.
#[track_caller]
pub fn same_bytes(theirs: &Path, ours: &Path) {
    let open = |path: &Path| {
        let file = File::open(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let length = file.metadata().unwrap().len();
        (file, length)
    };
    let ((mut theirs, length), (mut ours, our_length)) = (open(theirs), open(ours));
    assert_eq!(our_length, length, "length of the raw copy");
    let (mut a, mut b) = (vec![0; 1 << 20], vec![0; 1 << 20]);
    let mut offset = 0;
    while offset < length {
        let count = (length - offset).min(1 << 20) as usize;
        theirs.read_exact(&mut a[..count]).unwrap();
        ours.read_exact(&mut b[..count]).unwrap();
        if a[..count] != b[..count] {
            let at = (0..count).find(|&i| a[i] != b[i]).unwrap();
            let range = offset + at as u64;
            panic!("contents differ from byte {range} on: QEMU reads {:#04x}, ours {:#04x}", a[at], b[at]);
        }
        offset += count as u64;
    }
}
