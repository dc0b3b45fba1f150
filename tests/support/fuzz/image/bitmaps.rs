//! A change of the bitmaps: they are as it says, guest data stays.

use std::collections::BTreeMap;

use holstein::{Access, BitmapChange, ErrorKind, MergeSource, Recording};

use super::{
    seen::{Bits, Seen, is_damaged},
    store,
};
use crate::{
    builder::field::{AUTOCLEAR, BITMAPS, VERSION},
    judges::{check_text, open, u32_at, u64_at},
};

/// Changes the bitmaps of a copy.
pub(super) fn judge(file: &[u8], choice: u8, before: &Seen, damaged: Option<bool>) {
    let storage = store(file);
    let Ok(disk) = open(&storage, Access::Write) else { return };
    let current = u32_at(file, VERSION) > 2 && u64_at(file, AUTOCLEAR) & BITMAPS != 0;
    let (changes, expected) = plan(before, choice, current);
    let changed = disk.change_bitmaps(&changes).inspect_err(check_text);
    drop(disk);
    let disk = open(&storage, Access::Read).expect("a changed image opens");
    let after = before.again(&disk);
    drop(disk);
    assert_eq!(after.runs, before.runs, "guest data moved");
    assert!(after.contents == before.contents, "guest data changed");
    match changed {
        Ok(()) => after.has(&expected),
        // Bitmaps that nobody kept up to date are gone with the first change alone.
        Err(_) => assert_eq!(after.bitmaps, before.bitmaps, "a refused change changed something"),
    }
    // In a damaged one more can be found damaged as the file grows: what a broken table refers to lay behind the end
    // before.
    if damaged == Some(false) {
        assert_eq!(is_damaged(&storage), Some(false), "the change did damage");
    }
    if changed.is_ok() {
        let later =
            BitmapChange::Add { name: b"later".to_vec(), granularity: None, recording: Recording::Enabled };
        let again = open(&storage, Access::Write).unwrap().change_bitmaps(&[later]);
        // What can still be in the way: its name is taken, the disk is too large for it, there is no room.
        use ErrorKind::{Exists, InvalidArgument, Limit, Unsupported};
        let kind = again.err().map(|error| error.kind());
        assert!(matches!(kind, None | Some(Exists | InvalidArgument | Limit | Unsupported)), "{kind:?}");
    }
}

/// A change, and what has to be there when it is made.
fn plan(before: &Seen, choice: u8, current: bool) -> (Vec<BitmapChange>, BTreeMap<Vec<u8>, Option<Bits>>) {
    let mut expected = match &before.bitmaps {
        Some(bitmaps) if current => bitmaps.clone(),
        _ => BTreeMap::new(),
    };
    let sound: Vec<Vec<u8>> =
        expected.iter().filter(|(_, bits)| bits.is_some()).map(|(name, _)| name.clone()).collect();
    let granularity = 1 << (9 + choice / 8 % 23);
    let added = b"fuzz".to_vec();
    let add = BitmapChange::Add {
        name: added.clone(),
        granularity: Some(granularity),
        recording: Recording::Disabled,
    };
    let clean = Bits { granularity, recording: false, extents: Vec::new() };
    let mut changes = Vec::new();
    match (choice % 8, expected.keys().next().cloned(), sound.first().cloned()) {
        (1, _, Some(name)) => {
            expected
                .insert(name.clone(), Some(Bits { extents: Vec::new(), ..expected[&name].clone().unwrap() }));
            changes.push(BitmapChange::Clear { name });
        }
        (2, Some(name), _) => {
            expected.remove(&name);
            changes.push(BitmapChange::Remove { name });
        }
        (3, _, Some(name)) => {
            let merged = merged(before.size, expected[&name].clone().unwrap(), &expected);
            expected.insert(name.clone(), Some(merged));
            let sources = sound.iter().cloned().map(MergeSource::Name).collect();
            changes.push(BitmapChange::Merge { name, sources });
        }
        (4, Some(name), _) => {
            let bits = expected.remove(&name).unwrap();
            expected.insert(b"renamed".to_vec(), bits);
            changes.push(BitmapChange::Rename { name, to: b"renamed".to_vec() });
        }
        (5, _, Some(name)) => {
            let bits = expected[&name].clone().unwrap();
            let recording = if bits.recording { Recording::Disabled } else { Recording::Enabled };
            expected.insert(name.clone(), Some(Bits { recording: !bits.recording, ..bits }));
            changes.push(BitmapChange::Record { name, recording });
        }
        (6, _, Some(_)) => {
            // Everything into the new one, which changes nothing else.
            expected.insert(added.clone(), Some(merged(before.size, clean, &expected)));
            let sources = sound.iter().cloned().map(MergeSource::Name).collect();
            changes.extend([add, BitmapChange::Merge { name: added, sources }]);
        }
        (7, Some(_), _) => {
            for (name, _) in std::mem::take(&mut expected) {
                changes.push(BitmapChange::Remove { name });
            }
        }
        _ => {
            expected.insert(added, Some(clean));
            changes.push(add);
        }
    }
    (changes, expected)
}

/// What is dirty in any bitmap, in whole granules of this one.
fn merged(size: u64, into: Bits, all: &BTreeMap<Vec<u8>, Option<Bits>>) -> Bits {
    into.with(all.values().flatten().flat_map(|bits| bits.extents.clone()), size)
}
