//! `holstein info`: what an image says about itself, in `qemu-img info`'s JSON or as text.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::Args;
use holstein::{
    Disk, DiskInfo, ErrorKind, FileKind, HeaderOutline, Identity, Layers, Qcow2Info, SnapshotInfo,
};
use serde_json::{Value, json};

use crate::{
    args::{ImageArgs, OutputFormat},
    failure::Failure,
    output::{self, escape, json_name, json_path},
};

/// Show what an image is: its size, features, backing file, snapshots and bitmaps.
///
/// Only the image itself is opened, so files it refers to may be missing. The JSON has the keys of `qemu-img
/// info`; what Holstein adds is under the key "holstein".
#[derive(Args)]
pub(crate) struct InfoArgs {
    /// The image
    image: PathBuf,
    #[command(flatten)]
    open: ImageArgs,
}

/// Runs the command.
pub(crate) fn run(args: &InfoArgs) -> Result<ExitCode, Failure> {
    let info =
        args.open.open(&args.image, Layers::TopOnly).and_then(|disk| disk.info()).map_err(|error| {
            // The header can be shown all the same.
            let unusable =
                matches!(error.kind(), ErrorKind::Encrypted | ErrorKind::Corrupt | ErrorKind::Unsupported);
            let outline = unusable.then(|| Disk::outline(&args.image).ok()).flatten();
            let failure = Failure::from(error);
            match outline.map(|outline| show_outline(&args.image, &outline, args.open.output)) {
                Some(Err(unwritten)) => failure.and_also(unwritten),
                _ => failure,
            }
        })?;
    show(&args.image, &info, args.open.output)?;
    Ok(ExitCode::SUCCESS)
}

/// Prints what an image is.
pub(crate) fn show(image: &Path, info: &DiskInfo, output: OutputFormat) -> Result<(), Failure> {
    match output {
        OutputFormat::Json => output::print_json(&as_json(image, info)),
        OutputFormat::Human => output::print(&as_text(image, info)),
    }
}

/// Prints what the header of an image says that cannot be opened.
fn show_outline(image: &Path, outline: &HeaderOutline, output: OutputFormat) -> Result<(), Failure> {
    let encryption = match outline.encryption {
        0 => "none".to_owned(),
        1 => "AES".to_owned(),
        2 => "LUKS".to_owned(),
        other => format!("unknown ({other})"),
    };
    match output {
        OutputFormat::Json => output::print_json(&json!({
            "filename": json_path(image),
            "format": "qcow2",
            "holstein": { "unchecked-header": {
                "version": outline.version,
                "virtual-size": outline.virtual_size,
                "cluster-size": outline.cluster_size,
                "encryption": encryption,
                "backing-filename": outline.backing.as_deref().map(json_name),
                "snapshots": outline.snapshots,
                "incompatible-features": outline.incompatible_features,
            }},
        })),
        OutputFormat::Human => {
            let mut text = String::from("The image cannot be opened. Its header says, unchecked:\n");
            let mut row = |name: &str, value: String| text += &format!("  {name}: {value}\n");
            row("version", outline.version.to_string());
            row(
                "virtual size",
                format!("{} ({} bytes)", output::size(outline.virtual_size), outline.virtual_size),
            );
            row("cluster size", outline.cluster_size.map_or_else(|| "impossible".into(), output::size));
            row("encryption", encryption);
            if let Some(backing) = &outline.backing {
                row("backing file", escape(backing));
            }
            row("snapshots", outline.snapshots.to_string());
            row("incompatible features", format!("{:#x}", outline.incompatible_features));
            output::print(&text)
        }
    }
}

/// QEMU counts files in whole sectors, the last one padded.
fn whole_sectors(bytes: u64) -> u64 {
    bytes.checked_next_multiple_of(512).unwrap_or(bytes)
}

fn as_json(image: &Path, info: &DiskInfo) -> Value {
    let mut value = json!({
        "filename": json_path(image),
        "format": info.format.to_string(),
        "virtual-size": info.virtual_size,
        "actual-size": info.actual_size,
        "dirty-flag": info.qcow2.as_ref().is_some_and(|qcow2| qcow2.dirty),
    });
    if let Some(qcow2) = &info.qcow2 {
        value["cluster-size"] = json!(qcow2.cluster_size);
    }
    if let Some(backing) = &info.backing {
        value["backing-filename"] = json!(backing.name);
        if let Some(full_name) = &backing.full_name {
            value["full-backing-filename"] = json!(full_name);
        }
        if let Some(format) = &backing.format {
            value["backing-filename-format"] = json!(format);
        }
    }
    if !info.snapshots.is_empty() {
        value["snapshots"] = info.snapshots.iter().map(snapshot_json).collect();
    }
    if let Some(qcow2) = &info.qcow2 {
        value["format-specific"] = json!({ "type": "qcow2", "data": qcow2_json(qcow2) });
    }
    value["children"] = json!([{ "name": "file", "info": file_json(image, info) }]);
    value["holstein"] = own_json(info);
    value
}

fn snapshot_json(snapshot: &SnapshotInfo) -> Value {
    const SECOND: u64 = 1_000_000_000;
    let mut value = json!({
        "id": snapshot.id,
        "name": snapshot.name,
        "vm-state-size": snapshot.vm_state_size,
        "date-sec": snapshot.date_sec,
        "date-nsec": snapshot.date_nsec,
        "vm-clock-sec": snapshot.vm_clock_nsec / SECOND,
        "vm-clock-nsec": snapshot.vm_clock_nsec % SECOND,
    });
    if let Some(icount) = snapshot.icount {
        value["icount"] = json!(icount);
    }
    value
}

fn qcow2_json(qcow2: &Qcow2Info) -> Value {
    let mut value = json!({
        "compat": compat(qcow2),
        "compression-type": qcow2.compression.to_string(),
        "refcount-bits": qcow2.refcount_bits,
    });
    if qcow2.version >= 3 {
        value["lazy-refcounts"] = json!(qcow2.lazy_refcounts);
        value["corrupt"] = json!(qcow2.corrupt);
        value["extended-l2"] = json!(qcow2.extended_l2);
    }
    if let Some(data_file) = &qcow2.data_file {
        value["data-file"] = json!(data_file);
        value["data-file-raw"] = json!(qcow2.data_file_raw);
    }
    if !qcow2.bitmaps.is_empty() {
        let bitmaps = qcow2.bitmaps.iter().map(|bitmap| {
            json!({
                "name": json_name(&bitmap.name),
                "granularity": bitmap.granularity,
                "flags": flags(bitmap.in_use, bitmap.auto),
            })
        });
        value["bitmaps"] = bitmaps.collect();
    }
    value
}

/// The flags of a bitmap by their names in QEMU's output, and in its order.
pub(crate) fn flags(in_use: bool, auto: bool) -> Vec<&'static str> {
    [("in-use", in_use), ("auto", auto)].into_iter().filter_map(|(name, set)| set.then_some(name)).collect()
}

/// The file below the format.
fn file_json(image: &Path, info: &DiskInfo) -> Value {
    let is_device = info.file_kind == FileKind::BlockDevice;
    json!({
        "filename": json_path(image),
        "format": if is_device { "host_device" } else { "file" },
        "virtual-size": whole_sectors(info.file_length),
        "actual-size": info.actual_size,
        "dirty-flag": false,
        "format-specific": { "type": "file", "data": {} },
        "children": [],
    })
}

/// What QEMU does not tell.
fn own_json(info: &DiskInfo) -> Value {
    let mut value = json!({ "file-length": info.file_length });
    if let Some(qcow2) = &info.qcow2 {
        let text = |identity: Option<Identity>| identity.map(|identity| identity.to_string());
        value["identity"] = json!(text(qcow2.identity));
        value["former-identity"] = json!(text(qcow2.former_identity));
        value["parent"] = json!(text(qcow2.parent));
        value["bitmaps-count-from"] = qcow2
            .bitmaps
            .iter()
            .filter_map(|bitmap| {
                let base = bitmap.base?;
                let (name, backup) = (json_name(&bitmap.name), base.backup.to_string());
                Some(json!({ "name": name, "backup": backup, "disk-size": base.disk_size }))
            })
            .collect();
        if let Some(damage) = &qcow2.snapshot_damage {
            value["snapshot-damage"] = json!(damage);
        }
        value["unknown-header-extensions"] = qcow2
            .unknown_extensions
            .iter()
            .map(|(kind, length)| json!({ "type": kind, "length": length }))
            .collect();
    }
    value
}

/// The version by the name that QEMU's `compat` option gives it.
fn compat(qcow2: &Qcow2Info) -> &'static str {
    if qcow2.version >= 3 { "1.1" } else { "0.10" }
}

fn as_text(image: &Path, info: &DiskInfo) -> String {
    let mut text = String::new();
    let mut line = |name: &str, value: String| text.push_str(&format!("{:<17}{value}\n", format!("{name}:")));
    line("image", output::escape_path(image));
    line("format", info.format.to_string());
    line("virtual size", bytes(info.virtual_size));
    line("allocated", bytes(info.actual_size));
    line("file length", bytes(info.file_length));
    if let Some(backing) = &info.backing {
        let format =
            backing.format.as_ref().map_or("not recorded".into(), |format| escape(format.as_bytes()));
        line("backing file", escape(backing.name.as_bytes()));
        line("backing format", format);
        if let Some(full_name) = backing.full_name.as_ref().filter(|full_name| **full_name != backing.name) {
            line("backing path", escape(full_name.as_bytes()));
        }
    }
    if let Some(qcow2) = &info.qcow2 {
        line("version", format!("{} (compat {})", qcow2.version, compat(qcow2)));
        line("cluster size", output::size(qcow2.cluster_size));
        line("refcount width", format!("{} bits", qcow2.refcount_bits));
        line("compression", qcow2.compression.to_string());
        if let Some(data_file) = &qcow2.data_file {
            let layout = if qcow2.data_file_raw { " (also a valid raw image)" } else { "" };
            line("data file", format!("{}{layout}", escape(data_file.as_bytes())));
        }
        line("features", features(qcow2));
        if let Some(identity) = qcow2.identity {
            line("identity", identity.to_string());
        }
        if let Some(former) = qcow2.former_identity {
            line("former identity", format!("{former} (its disk was changed since)"));
        }
        if let Some(parent) = qcow2.parent {
            line("parent", parent.to_string());
        }
        if let Some(damage) = &qcow2.snapshot_damage {
            line("snapshot table", format!("damaged: {}", output::printable(damage)));
        }
        for (kind, length) in &qcow2.unknown_extensions {
            line("unknown header", format!("extension {kind:#010x}, {length} bytes, kept as it is"));
        }
    }
    if !info.snapshots.is_empty() {
        text.push_str("\nSnapshots:\n");
        text.push_str(&snapshot_table(&info.snapshots));
    }
    if let Some(qcow2) = info.qcow2.as_ref().filter(|qcow2| !qcow2.bitmaps.is_empty()) {
        text.push_str("\nBitmaps (`holstein bitmap list` tells which can be used):\n");
        text.push_str(&bitmap_table(qcow2));
    }
    text
}

fn bytes(bytes: u64) -> String {
    if bytes < 1024 { output::size(bytes) } else { format!("{} ({bytes} bytes)", output::size(bytes)) }
}

fn features(qcow2: &Qcow2Info) -> String {
    let set: Vec<_> = [
        ("lazy refcounts", qcow2.lazy_refcounts),
        ("extended L2", qcow2.extended_l2),
        ("dirty: was not closed cleanly", qcow2.dirty),
        ("corrupt: only `qemu-img check -r` should write it", qcow2.corrupt),
    ]
    .into_iter()
    .filter_map(|(name, set)| set.then_some(name))
    .collect();
    if set.is_empty() { "none".into() } else { set.join(", ") }
}

/// Prints snapshots alone.
pub(crate) fn print_snapshots(snapshots: &[SnapshotInfo], format: OutputFormat) -> Result<(), Failure> {
    match format {
        OutputFormat::Json => output::print_json(&snapshots.iter().map(snapshot_json).collect()),
        OutputFormat::Human if snapshots.is_empty() => output::print("The image has no snapshots.\n"),
        OutputFormat::Human => output::print(&snapshot_table(snapshots)),
    }
}

fn snapshot_table(snapshots: &[SnapshotInfo]) -> String {
    let rows: Vec<_> = snapshots
        .iter()
        .map(|snapshot| {
            [
                escape(snapshot.id.as_bytes()),
                escape(snapshot.name.as_bytes()),
                date(u64::from(snapshot.date_sec)),
                output::size(snapshot.vm_state_size),
                clock(snapshot.vm_clock_nsec),
                snapshot.icount.map_or("-".into(), |icount| icount.to_string()),
                snapshot.disk_size.map_or("-".into(), output::size),
            ]
        })
        .collect();
    output::table(["ID", "NAME", "DATE (UTC)", "VM STATE", "VM CLOCK", "ICOUNT", "DISK SIZE"], &rows)
}

fn bitmap_table(qcow2: &Qcow2Info) -> String {
    let rows: Vec<_> = qcow2
        .bitmaps
        .iter()
        .map(|bitmap| {
            let flags = flags(bitmap.in_use, bitmap.auto);
            let base = bitmap.base.map_or("not known".into(), |base| base.backup.to_string());
            [escape(&bitmap.name), output::size(bitmap.granularity), flags_text(&flags), base]
        })
        .collect();
    output::table(["NAME", "GRANULARITY", "FLAGS", "COUNTS FROM"], &rows)
}

/// The flags of a bitmap for people.
pub(crate) fn flags_text(flags: &[&str]) -> String {
    if flags.is_empty() { "-".into() } else { flags.join(", ") }
}

/// Seconds since 1970 as a date and time in UTC.
fn date(seconds: u64) -> String {
    let (days, time) = (seconds / 86_400, seconds % 86_400);
    // Counted from 1 March of year 0, a leap day is the last day of its year, and years and months follow from
    // the number of days alone.
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = (month_from_march + 2) % 12 + 1;
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02} {:02}:{:02}:{:02}", time / 3_600, time / 60 % 60, time % 60)
}

/// Nanoseconds that a guest has run, as hours, minutes, seconds and milliseconds.
fn clock(nanoseconds: u64) -> String {
    let milliseconds = nanoseconds / 1_000_000;
    let seconds = milliseconds / 1_000;
    let (hours, minutes, seconds) = (seconds / 3_600, seconds / 60 % 60, seconds % 60);
    format!("{hours}:{minutes:02}:{seconds:02}.{:03}", milliseconds % 1_000)
}

#[cfg(test)]
mod tests {
    use holstein::Format;

    use super::*;

    #[test]
    fn dates() {
        assert_eq!(date(0), "1970-01-01 00:00:00");
        assert_eq!(date(951_782_400), "2000-02-29 00:00:00");
        assert_eq!(date(951_868_799), "2000-02-29 23:59:59");
        assert_eq!(date(951_868_800), "2000-03-01 00:00:00");
        assert_eq!(date(1_735_689_599), "2024-12-31 23:59:59");
        assert_eq!(date(u64::from(u32::MAX)), "2106-02-07 06:28:15");
    }

    #[test]
    fn clocks() {
        assert_eq!(clock(0), "0:00:00.000");
        assert_eq!(clock(3_723_004_999_999), "1:02:03.004");
    }

    #[test]
    fn the_file_below_has_whole_sectors() {
        let info = DiskInfo {
            format: Format::Raw,
            virtual_size: 1024,
            actual_size: 4096,
            file_length: 1000,
            file_kind: FileKind::Regular,
            backing: None,
            snapshots: Vec::new(),
            qcow2: None,
        };
        let value = as_json(Path::new("odd.raw"), &info);
        let file = &value["children"][0]["info"];
        assert_eq!(file["virtual-size"], 1024);
        assert_eq!(file["format"], "file");
        assert_eq!(value["holstein"]["file-length"], 1000);
        assert!(value.get("format-specific").is_none());
        assert!(value.get("cluster-size").is_none());
    }

    #[test]
    fn flags_are_named_as_by_qemu() {
        assert_eq!(flags(true, true), ["in-use", "auto"]);
        assert_eq!(flags_text(&flags(false, true)), "auto");
        assert_eq!(flags_text(&flags(false, false)), "-");
    }
}
