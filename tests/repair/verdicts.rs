//! Images with all kinds of damage, each repaired by us and, in a copy, by `qemu-img check -r`: the same numbers
//! and exit codes, but for the differences listed here.

use std::{collections::BTreeMap, fs, process::Command};

use holstein::RepairMode;
use serde_json::{Value, json};

use crate::{
    check_cases::{
        damaged::DAMAGES,
        image::{Image, Verdict, reads_snapshots_otherwise},
        random,
    },
    memory::repaired,
    plain::{Plain, difference},
};

/// Why a repair of ours differs from that of QEMU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Because {
    /// QEMU repairs nothing, also no leaks, when it would have to rebuild refcounts but may not, or fails at it, or
    /// does not open the image.
    QemuGivesUp,
    /// QEMU frees, and discards, what a damaged entry may have led to. We keep it, and where refcounts are
    /// counted anew, the old ones too.
    DamagedEntries,
    /// QEMU gives what a bitmap lies on to it as well, or leaves it broken. We give the bitmap up.
    LostBitmap,
    /// QEMU keeps a snapshot without tables, and one whose L1 table cannot be where its entry says; what that had it frees.
    /// We give such snapshots up. A repair of leaks of QEMU fails; ours frees nothing.
    Snapshots,
    /// QEMU takes what lies at a wrong place for a snapshot table, and frees what the snapshots had. We change nothing.
    WrongPlace,
    /// QEMU believes an entry that claims too much extra data, and loses those behind it. We find all of them.
    MendedSnapshots,
    /// QEMU never clears the flag for a refcount of 1 of a compressed cluster.
    CompressedFlag,
    /// QEMU grows the file until a refcount block lies inside, and counts it.
    BlockOutside,
    /// QEMU is content when guest data and a table on one cluster have a refcount of 2, and changes flags in the
    /// table. We leave the table alone, and report the overlap.
    GuestData,
    /// QEMU gives up where a refcount of one bit would have to hold two, although one of the two references goes.
    OneBit,
    /// QEMU forgets the space of a cluster of zeros that lies askew. We change no broken entry.
    ZeroEntry,
}

/// Differences that the numbers do not explain by themselves.
const DIFFERENCES: &[(&str, &str, Because)] = &[
    ("block-outside", "all", Because::BlockOutside),
    ("table-on-header", "all", Because::BlockOutside),
    ("snapshots-outside", "leaks", Because::Snapshots),
    ("snapshots-outside", "all", Because::WrongPlace),
    ("snapshots-on-l2", "all", Because::WrongPlace),
    ("snapshots-zeroed", "leaks", Because::Snapshots),
    ("snapshot-large-extra", "all", Because::MendedSnapshots),
    ("compressed-copied", "leaks", Because::CompressedFlag),
    ("compressed-copied", "all", Because::CompressedFlag),
    ("one-bit-on-block", "all", Because::OneBit),
    ("entry-unaligned-zero", "all", Because::ZeroEntry),
];

/// Why two verdicts differ; `None` if they do not.
pub fn why(ours: &Verdict, own: &Value, qemu: &Verdict) -> Option<Result<Because, ()>> {
    let (Some(a), Some(b)) = (&ours.json, &qemu.json) else {
        return match (&ours.json, &qemu.json) {
            (None, None) => None,
            (Some(_), None) => Some(Ok(Because::QemuGivesUp)),
            _ => Some(Err(())),
        };
    };
    let without = |json: &Value, keys: &[&str]| {
        let mut json = json.clone();
        keys.iter().for_each(|key| json[*key] = json!(null));
        json
    };
    // Where the image ends depends on where new refcounts lie.
    let same = |keys: &[&str]| without(a, keys) == without(b, keys);
    if ours.code == qemu.code && same(&["image-end-offset"]) {
        return None;
    }
    let leaks = ["image-end-offset", "leaks", "leaks-fixed"];
    let damaged = own["leaks-are-certain"] == false && ours.code == qemu.code && same(&leaks);
    let gives_up = |key: &str| own[key] != json!([]) && ours.code == Some(0);
    let overlap = own["further-corruptions"] != 0 && ours.code == Some(2);
    Some(match (damaged, overlap) {
        (true, _) => Ok(Because::DamagedEntries),
        _ if gives_up("lost-bitmaps") => Ok(Because::LostBitmap),
        _ if gives_up("lost-snapshots") => Ok(Because::Snapshots),
        (_, true) => Ok(Because::GuestData),
        _ => Err(()),
    })
}

/// Runs `qemu-img check -r` on a copy of the image as it is.
pub fn qemu_repair(image: &Image, mode: &str) -> Verdict {
    let bytes = image.bytes();
    let verdict = verdict(
        image,
        "qemu-img",
        &["check", "-f", "qcow2", "-T", "unsafe", "-r", mode, "--output=json", "disk.qcow2"],
    )
    .0;
    image.write(&bytes);
    verdict
}

/// Our repair, and what only we say.
fn repair(image: &Image, mode: &str) -> (Verdict, Value) {
    let holstein = env!("CARGO_BIN_EXE_holstein");
    verdict(image, holstein, &["check", "--repair", mode, "--output", "json", "disk.qcow2"])
}

fn verdict(image: &Image, program: &str, args: &[&str]) -> (Verdict, Value) {
    let output = Command::new(program).args(args).current_dir(&image.dir).output().unwrap();
    let mut json: Option<Value> = serde_json::from_slice(&output.stdout).ok();
    let own = json.as_mut().and_then(|json| json.as_object_mut()?.remove("holstein"));
    let own = own.unwrap_or_else(|| String::from_utf8_lossy(&output.stderr).into());
    (Verdict { code: output.status.code(), json }, own)
}

/// Repairs an image and holds the result against everything that must be so; returns our verdict.
/// QEMU's check after it has written may end with one of `codes`.
fn judge(image: &Image, mode: &str, codes: &[i32]) -> Result<(Verdict, Value), String> {
    let before = image.bytes();
    let limit = before.len() as u64;
    // Repair changes refcounts, also those that damage makes a table of.
    let refcounts = Plain(&before).refcount_clusters();
    let (ours, own) = repair(image, mode);
    let after = image.bytes();
    let (old, new) = (Plain(&before), Plain(&after));
    let tables = new.l1_tables();
    let guest = |image: &Plain<'_>| image.guest_of(&tables, limit, &refcounts);
    if let Some(difference) = difference(&guest(&old), &guest(&new)) {
        return Err(format!("guest data changed: {difference}"));
    }
    // Where the snapshot table is written anew, the L1 tables are those of the snapshots that are kept.
    let texts = |key: &str| own[key].as_array().cloned().unwrap_or_default();
    let (lost, mended) = (texts("lost-snapshots"), texts("mended-snapshots"));
    let given_up = lost.iter().map(|lost| lost["count"].as_u64().unwrap()).sum::<u64>();
    let same_tables = !lost.is_empty() || !mended.is_empty() || old.l1_tables() == tables;
    if !same_tables || old.half(60) != new.half(60) + given_up {
        return Err(format!("the L1 tables are {tables:x?} instead of {:x?}", old.l1_tables()));
    }
    if ours.json.is_none() {
        return match before == after {
            true => Ok((ours, own)),
            false => Err(format!("it failed ({own}) and changed the image")),
        };
    }
    // What we print is what a check finds.
    let (check, found) = image.check();
    let mut expected = ours.json.clone().unwrap();
    let fixed = ["leaks-fixed", "corruptions-fixed"];
    fixed.iter().for_each(|key| drop(expected.as_object_mut().unwrap().remove(*key)));
    if check.json.as_ref() != Some(&expected) || check.code != ours.code {
        return Err(format!("it says {expected}, but a check {check:?}"));
    }
    let qemu = image.qemu_check();
    // QEMU takes the header for an L2 table where an L1 entry says so, and other bytes for the name of a snapshot.
    let otherwise = found["problems"].to_string().contains("points to the header")
        || reads_snapshots_otherwise(&found) && ours.code != Some(0);
    let same = qemu.json.as_ref() == Some(&expected);
    let gives_up = qemu.json.is_none() && ours.code != Some(0);
    let more = found["further-corruptions"] != 0 && ours.code == Some(2);
    if !(otherwise || gives_up || same && (more || qemu.code == ours.code)) {
        return Err(format!("it says {ours:?}, but QEMU's check {qemu:?}"));
    }
    repair(image, mode);
    if image.bytes() != after {
        return Err("a second repair changes something".into());
    }
    if ours.code == Some(0) && mode == "all" {
        writes_stay_apart(image, codes)?;
    }
    image.write(&after);
    Ok((ours, own))
}

/// After a complete repair QEMU can write everywhere, and each write changes what it is meant to change.
pub fn writes_stay_apart(image: &Image, codes: &[i32]) -> Result<(), String> {
    let tool = |program: &str, args: &[&str]| {
        let output = Command::new(program).args(args).current_dir(&image.dir).output().unwrap();
        match output.status.success() {
            true => Ok(()),
            false => Err(format!("{program} {args:?}: {}", String::from_utf8_lossy(&output.stderr))),
        }
    };
    let raw = || {
        tool("qemu-img", &["convert", "-f", "qcow2", "-O", "raw", "disk.qcow2", "raw"])?;
        Ok::<_, String>(fs::read(image.dir.join("raw")).unwrap())
    };
    // A data file is damaged in ways that a check does not see.
    let Ok(mut expected) = raw() else { return Ok(()) };
    let size = expected.len() as u64;
    let mut args = vec!["-f".to_owned(), "qcow2".to_owned(), "-t".to_owned(), "unsafe".to_owned()];
    for (at, pattern) in [(0, 0xa1), (64 << 10, 0xa2), (size - 4096, 0xa3), (128 << 10, 0xa4)] {
        args.extend(["-c".to_owned(), format!("write -P {pattern} {at} 4k")]);
        expected[at as usize..at as usize + 4096].fill(pattern);
    }
    args.push("disk.qcow2".to_owned());
    tool("qemu-io", &args.iter().map(String::as_str).collect::<Vec<_>>())?;
    if raw()? != expected {
        return Err("a write changed something else".into());
    }
    match image.qemu_check() {
        Verdict { code: Some(code), .. } if codes.contains(&code) => Ok(()),
        // QEMU forgets to set the flag of the last of several entries for one cluster, which does no harm.
        verdict => {
            let (_, own) = image.check();
            let harmless = |problem: &Value| {
                problem["kind"] == "copied-flag"
                    && problem["text"].as_str().unwrap().contains("clear, but the refcount is 1")
            };
            match own["problems"].as_array().unwrap().iter().all(harmless) {
                true => Ok(()),
                false => Err(format!("after QEMU has written: {}", short(&verdict))),
            }
        }
    }
}

/// A verdict in short.
pub fn short(verdict: &Verdict) -> String {
    let Some(json) = &verdict.json else { return format!("{:?}", verdict.code) };
    let keys =
        ["corruptions", "corruptions-fixed", "leaks", "leaks-fixed", "check-errors", "image-end-offset"];
    let numbers = keys.iter().filter(|key| json[**key].as_u64().unwrap_or(0) > 0);
    format!("{:?} {}", verdict.code, numbers.map(|key| format!("{key} {} ", json[*key])).collect::<String>())
}

/// All images of the check's tests.
fn all_damages(mode: &str) {
    let mut wrong = Vec::new();
    let mut reasons: BTreeMap<Option<Because>, usize> = BTreeMap::new();
    for (name, create, damage) in DAMAGES {
        let image = create(&format!("repair-{mode}-{name}"));
        damage(&image);
        let qemu = qemu_repair(&image, mode);
        let (ours, own) = match judge(&image, mode, &[0]) {
            Ok(verdict) => verdict,
            Err(reason) => {
                wrong.push(format!("{name}: {reason}"));
                continue;
            }
        };
        let named = DIFFERENCES.iter().find(|difference| (difference.0, difference.1) == (*name, mode));
        let because = match (why(&ours, &own, &qemu), named) {
            (Some(Err(())), Some((_, _, because))) => Some(*because),
            (Some(Ok(because)), None) => Some(because),
            (None, None) => None,
            (found, named) => {
                wrong.push(format!(
                    "{name} ({found:?}, {named:?}): {}; QEMU: {}\n{own:#}",
                    short(&ours),
                    short(&qemu)
                ));
                continue;
            }
        };
        *reasons.entry(because).or_default() += 1;
    }
    println!("{mode}: {reasons:?}");
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
    assert!(reasons[&None] > 30 && reasons[&Some(Because::QemuGivesUp)] > 1, "{reasons:?}");
}

#[test]
fn leaks_are_repaired_as_by_qemu() {
    all_damages("leaks");
}

#[test]
fn all_is_repaired_as_by_qemu() {
    all_damages("all");
}

/// The exhaustive form takes five minutes on two cores: QEMU's tools run several times for each image.
#[test]
fn random_damage_is_never_made_worse() {
    let seeds = if std::env::var_os("HOLSTEIN_EXHAUSTIVE").is_some() { 180 } else { 12 };
    let mut wrong = Vec::new();
    let mut reasons: BTreeMap<Option<Result<Because, ()>>, usize> = BTreeMap::new();
    for victim in random::victims("repair") {
        for seed in 0..seeds {
            let mode = if seed % 3 == 0 { "leaks" } else { "all" };
            let image = victim.damage(seed + 5000);
            let damaged = image.bytes();
            let qemu = qemu_repair(image, mode);
            // What QEMU leaks where much was damaged harms nobody.
            match judge(image, mode, &[0, 3]) {
                Ok((ours, own)) => *reasons.entry(why(&ours, &own, &qemu)).or_default() += 1,
                Err(reason) => {
                    let kept = image.dir.join(format!("seed-{seed}"));
                    fs::write(&kept, damaged).unwrap();
                    wrong.push(format!("{} ({mode}): {reason}", kept.display()));
                }
            }
        }
    }
    println!("{reasons:?}");
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
    // Differences that need an eye to explain them are few.
    let others = reasons.get(&Some(Err(()))).copied().unwrap_or(0);
    assert!(reasons[&None] > seeds as usize && others < seeds as usize, "{reasons:?}");
}

/// Seeds of damages after which a second repair once found something new: an L1 table that lay on the header, so that each
/// repair changed what the next one took for it.
const SEEN: [u64; 5] = [35, 344, 350, 547, 961];

/// Repairs of such images in memory, twice: the first leaves nothing for the second. The exhaustive form takes two minutes.
#[test]
fn a_second_repair_changes_nothing() {
    let seeds = if std::env::var_os("HOLSTEIN_EXHAUSTIVE").is_some() { 5000 } else { 40 };
    let mut wrong = Vec::new();
    for (number, victim) in random::victims("again").iter().enumerate() {
        let seen = SEEN.into_iter().filter(|seed| *seed >= seeds);
        for seed in (0..seeds).chain(seen) {
            let mode = if seed % 3 == 0 { RepairMode::Leaks } else { RepairMode::All };
            let (first, once) = repaired(&victim.damaged_bytes(seed + 5000), mode);
            let (second, twice) = repaired(&once, mode);
            if once != twice || first.is_ok() != second.is_ok() {
                wrong.push(format!("victim {number}, seed {seed}: {first:#?}\nand again: {second:#?}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
}
