//! `holstein check`: whether an image is consistent, in `qemu-img check`'s JSON or as text; and repairs.

use std::{path::PathBuf, process::ExitCode};

use clap::Args;
use holstein::{
    BackingPolicy, CheckProblem, CheckProblemKind, CheckReport, CheckSeverity, CheckVerdict, Disk,
    DiskOptions, ErrorKind, Format, Layers, LostBitmap, LostSnapshots, RepairMode, RepairReport, Sharing,
};
use serde_json::{Map, Value, json};

use crate::{
    args::OutputFormat,
    chain,
    failure::{FAILED, Failure, report_of, verdict_of},
    output::{self, escape, json_name, json_path, printable},
};

/// The exit codes of `qemu-img check`.
const CORRUPT: u8 = 2;
const LEAKS: u8 = 3;
const NO_CHECKS: u8 = 63;

/// A check needs one or two bytes for each cluster of the file; with this much, 32 TiB at the usual cluster size.
const MEMORY_LIMIT: u64 = 1 << 30;

/// Check that an image is consistent: refcounts, tables, snapshots and bitmaps; and repair it.
///
/// Only the image itself is opened, so files it refers to may be missing. Nothing is changed without --repair,
/// and guest data never. The JSON has the keys of `qemu-img check`; what Holstein adds is under the key
/// "holstein". Exit codes, after a repair for what remains: 0 consistent, 1 not checked or not repaired,
/// 2 corrupt, 3 only leaked clusters, 5 done and not reported, 63 the format has nothing to check.
#[derive(Args)]
pub(crate) struct CheckArgs {
    /// The image
    pub(crate) image: PathBuf,

    /// Format of the image, never guessed [default: qcow2]
    #[arg(short, long, value_name = "qcow2|raw")]
    format: Option<Format>,

    /// Repair what is found: free leaked clusters; or also count wrong refcounts anew, and give up broken
    /// bitmaps. Nobody else may have the image open
    #[arg(short, long, value_name = "leaks|all", conflicts_with = "force_share")]
    repair: Option<RepairMode>,

    /// Check the image although another process writes it; what is found may be wrong then
    #[arg(short = 'U', long)]
    force_share: bool,

    /// Check all images of the chain, and that each stands on the backup that it was made over
    #[arg(long, conflicts_with = "repair")]
    chain: bool,

    /// With --chain: which files named inside an image may be opened [default: beside]
    #[arg(long, value_name = "beside|under=DIR|any|deny", requires = "chain")]
    pub(crate) backing_policy: Option<BackingPolicy>,

    /// What to print
    #[arg(long, value_enum, default_value_t)]
    pub(crate) output: OutputFormat,
}

/// Runs the command.
pub(crate) fn run(args: &CheckArgs) -> Result<ExitCode, Failure> {
    let options = DiskOptions {
        format: args.format.unwrap_or_default(),
        sharing: if args.force_share { Sharing::ForceShare } else { Sharing::Locked },
        layers: Layers::TopOnly,
        memory_limit: MEMORY_LIMIT,
        ..DiskOptions::default()
    };
    if args.chain {
        return chain::run(args, &options);
    }
    let outcome = match args.repair {
        Some(mode) => Disk::repair(&args.image, &options, mode),
        // What a repair that does nothing finds.
        None => Disk::check(&args.image, &options)
            .map(|remaining| RepairReport { remaining, ..RepairReport::default() }),
    };
    let report = outcome.map_err(|error| {
        let code = match (options.format, error.kind()) {
            (Format::Raw, ErrorKind::Unsupported) => NO_CHECKS,
            _ => FAILED,
        };
        Failure::new(code, error.to_string())
    })?;
    let printed = match args.output {
        OutputFormat::Json => output::print_json(&as_json(args, &report)),
        OutputFormat::Human => output::print(&as_text(args, &report)),
    };
    match args.repair {
        Some(_) => report_of("the repair was done", printed)?,
        None => verdict_of("the check is complete", printed)?,
    }
    Ok(ExitCode::from(exit_code(&report.remaining)))
}

fn exit_code(report: &CheckReport) -> u8 {
    code_of(report.verdict())
}

/// The exit code of a verdict.
pub(crate) fn code_of(verdict: CheckVerdict) -> u8 {
    match verdict {
        CheckVerdict::Consistent => 0,
        CheckVerdict::Leaks => LEAKS,
        CheckVerdict::Corrupt => CORRUPT,
        CheckVerdict::Incomplete => FAILED,
    }
}

fn as_json(args: &CheckArgs, repaired: &RepairReport) -> Value {
    let report = &repaired.remaining;
    let mut value = Map::new();
    // QEMU leaves out what is zero, except for errors.
    let mut number = |key: &str, number: u64| {
        if number > 0 || key == "check-errors" {
            value.insert(key.to_owned(), json!(number));
        }
    };
    number("image-end-offset", report.image_end_offset);
    number("total-clusters", report.total_clusters);
    number("corruptions", report.corruptions);
    number("corruptions-fixed", repaired.corruptions_fixed);
    number("check-errors", report.check_errors);
    number("leaks", report.leaks);
    number("leaks-fixed", repaired.leaks_fixed);
    number("allocated-clusters", report.allocated_clusters);
    number("fragmented-clusters", report.fragmented_clusters);
    number("compressed-clusters", report.compressed_clusters);
    value.insert("filename".into(), json_path(&args.image));
    value.insert("format".into(), json!(args.format.unwrap_or_default().to_string()));
    let mut own = json!({
        "further-corruptions": report.further_corruptions,
        "leaks-are-certain": report.leaks_are_certain,
        "problems": problems_json(report),
        "problems-omitted": report.problems_omitted,
    });
    if args.repair.is_some() {
        own["further-corruptions-fixed"] = json!(repaired.further_corruptions_fixed);
        own["lost-bitmaps"] = repaired.lost_bitmaps.iter().map(lost_bitmap_json).collect();
        own["lost-snapshots"] = repaired.lost_snapshots.iter().map(lost_snapshots_json).collect();
        own["mended-snapshots"] = json!(repaired.mended_snapshots);
        own["left"] = json!(repaired.left);
        own["found"] = problems_json(&repaired.found);
        own["found-omitted"] = json!(repaired.found.problems_omitted);
    }
    value.insert("holstein".into(), own);
    Value::Object(value)
}

fn problems_json(report: &CheckReport) -> Value {
    report.problems.iter().map(problem_json).collect()
}

fn lost_bitmap_json(bitmap: &LostBitmap) -> Value {
    let name = bitmap.name.as_ref().map_or(Value::Null, |name| json_name(name));
    json!({ "name": name, "reason": bitmap.reason })
}

fn lost_snapshots_json(lost: &LostSnapshots) -> Value {
    let name = lost.name.as_ref().map_or(Value::Null, |name| json_name(name));
    json!({ "first": lost.first, "count": lost.count, "name": name, "reason": lost.reason })
}

fn problem_json(problem: &CheckProblem) -> Value {
    let mut value = json!({
        "severity": severity(problem.kind),
        "kind": problem.kind.name(),
        "text": problem.text,
    });
    if let Some(offset) = problem.offset {
        value["offset"] = json!(offset);
    }
    if problem.clusters > 0 {
        value["clusters"] = json!(problem.clusters);
    }
    value
}

fn severity(kind: CheckProblemKind) -> &'static str {
    match kind.severity() {
        CheckSeverity::Corruption => "corruption",
        CheckSeverity::Leak => "leak",
        CheckSeverity::Unchecked => "unchecked",
        CheckSeverity::Note => "note",
    }
}

fn as_text(args: &CheckArgs, repaired: &RepairReport) -> String {
    let mut text = String::new();
    if args.repair.is_some() {
        text = repair_text(repaired);
    }
    text.push_str(&check_text(&repaired.remaining));
    text
}

/// What was found and repaired; nothing about an image in which there was nothing.
fn repair_text(repaired: &RepairReport) -> String {
    let mut text = String::new();
    problems_text(&repaired.found, &mut text);
    let mut line = |line: String| text.push_str(&format!("{line}\n"));
    let corruptions = repaired.corruptions_fixed + repaired.further_corruptions_fixed;
    if corruptions + repaired.leaks_fixed > 0 {
        line(format!("repaired: {corruptions} corruptions, {} leaked clusters", repaired.leaks_fixed));
    }
    for bitmap in &repaired.lost_bitmaps {
        let which = match &bitmap.name {
            Some(name) => format!("bitmap '{}' was", escape(name)),
            None => "all bitmaps were".to_owned(),
        };
        line(format!("{which} given up: {}", printable(&bitmap.reason)));
    }
    for lost in &repaired.lost_snapshots {
        let which = match (&lost.name, lost.count) {
            (Some(name), _) => format!("snapshot {} ('{}') was", lost.first, escape(name)),
            (None, 1) => format!("snapshot {} was", lost.first),
            (None, count) => {
                format!("snapshots {} to {} were", lost.first, u64::from(lost.first) + u64::from(count) - 1)
            }
        };
        line(format!("{which} given up: {}", printable(&lost.reason)));
    }
    for mended in &repaired.mended_snapshots {
        line(format!("mended: {}", printable(mended)));
    }
    for reason in &repaired.left {
        line(format!("not repaired: {}", printable(reason)));
    }
    if !text.is_empty() {
        text.push_str("\nafter the repair:\n");
    }
    text
}

fn problems_text(report: &CheckReport, text: &mut String) {
    for problem in &report.problems {
        text.push_str(&format!("{}: {}\n", severity(problem.kind), printable(&problem.text)));
    }
    if report.problems_omitted > 0 {
        text.push_str(&format!("and {} more\n", report.problems_omitted));
    }
    if !report.problems.is_empty() {
        text.push('\n');
    }
}

fn check_text(report: &CheckReport) -> String {
    let mut text = String::new();
    problems_text(report, &mut text);
    let corruptions = report.corruptions + report.further_corruptions;
    let mut found = |count: u64, what: &str| {
        if count > 0 {
            text.push_str(&format!("{count} {what}\n"));
        }
        count > 0
    };
    let any = [
        found(corruptions, "corruptions: data may be damaged, or become so when the image is written"),
        found(report.leaks, "leaked clusters: wasted space, but no harm"),
        found(report.check_errors, "clusters could not be checked"),
    ];
    if any == [false; 3] {
        text.push_str("the image is consistent\n");
    }
    let percent = |part: u64, whole: u64| 100.0 * part as f64 / whole.max(1) as f64;
    let allocated = report.allocated_clusters;
    text.push_str(&format!(
        "{allocated} of {} clusters allocated ({:.2}%), of these {:.2}% fragmented, {:.2}% compressed\n",
        report.total_clusters,
        percent(allocated, report.total_clusters),
        percent(report.fragmented_clusters, allocated),
        percent(report.compressed_clusters, allocated),
    ));
    text.push_str(&format!("the image ends at byte {}\n", report.image_end_offset));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_are_those_of_qemu_img() {
        let code = |corruptions, further_corruptions, leaks, check_errors| {
            let report = CheckReport {
                corruptions,
                further_corruptions,
                leaks,
                check_errors,
                ..CheckReport::default()
            };
            exit_code(&report)
        };
        assert_eq!(code(0, 0, 0, 0), 0);
        assert_eq!(code(1, 0, 1, 1), 1);
        assert_eq!(code(1, 0, 1, 0), 2);
        assert_eq!(code(0, 1, 1, 0), 2);
        assert_eq!(code(0, 0, 1, 0), 3);
    }
}
