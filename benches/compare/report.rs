//! What is printed: where it ran, each row's figures as they come, and one table in the end.

use crate::Result;
use crate::disks::Workspace;
use crate::measure::{Outcome, Series, median, ratios, spread};
use crate::options::{Options, Sides};
use crate::tools::output;
use std::fs;
use std::process::Command;

/// The machine and the terms of the comparison.
pub(crate) fn surroundings(options: &Options, workspace: &Workspace) -> Result<()> {
    let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let cpu = cpu.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or("unknown");
    let cores = std::thread::available_parallelism()?;
    println!("machine:     {}, {cores} cores", cpu.trim_start_matches(['\t', ' ', ':']));
    println!("kernel:      {}", fs::read_to_string("/proc/sys/kernel/osrelease")?.trim());
    println!("qemu:        {}", first_line(&output(Command::new("qemu-img").arg("--version"))?));
    for (name, folder) in [("on disk:    ", &workspace.disk), ("on tmpfs:   ", &workspace.tmpfs)] {
        let kind = output(Command::new("stat").args(["-f", "-c", "%T"]).arg(folder))?;
        println!("{name} {}", first_line(&kind));
    }
    println!("page cache:  warm for every side (each ran once before; that run's target is verified)");
    println!("durability:  on disk every side ends with its target synchronised, within its time");
    println!("in turns:    {} pairs, dirty pages written out before every run", options.pairs);
    if options.sides == Sides::Peers {
        println!("sides:       the peers alone");
    }
    println!();
    Ok(())
}

/// Every side of a row, with all its seconds.
pub(crate) fn details(outcome: &Outcome) {
    println!("{} ({})", outcome.name, outcome.title);
    for series in outcome.ours.iter().chain(&outcome.peers).chain(&outcome.floor) {
        let seconds = series.seconds();
        let (low, high) = spread(&seconds);
        let job =
            series.jobs().map(|jobs| format!(", its job alone {:.3}", median(&jobs))).unwrap_or_default();
        println!(
            "  {:<44} {:>8.3} s  ({low:.3} .. {high:.3}){job}  {}",
            series.name,
            median(&seconds),
            peak(series)
        );
    }
    if let Some(failure) = &outcome.failure {
        println!("  holstein FAILED: {failure}");
    }
    println!();
}

/// The table of all rows, ready for `docs/performance.md`: the peer's fastest setting first, since it is the
/// one that counts, then its other settings.
pub(crate) fn table(outcomes: &[Outcome]) {
    println!(
        "| work | ours | peer | ratio | spread | at most | aim | result | peak memory | over plain copy |"
    );
    println!("|---|---:|---:|---:|---|---:|---:|---|---:|---:|");
    for outcome in outcomes {
        for (rank, peer) in outcome.peers_by_speed().into_iter().enumerate() {
            line(outcome, if rank == 0 { outcome.name } else { "" }, peer);
        }
    }
}

fn line(outcome: &Outcome, name: &str, peer: &Series) {
    let target = outcome.target;
    let limits = format!("{:.2} | {:.2}", target.limit, target.aim);
    let theirs = peer.seconds();
    let peer = format!("{:.3} s ({})", median(&theirs), peer.name);
    let Some(ours) = &outcome.ours else {
        let why = if outcome.failure.is_some() { "FAILED" } else { outcome.missing };
        println!("| {name} | | {peer} | | | {limits} | {why} | | |");
        return;
    };
    let seconds = ours.seconds();
    let ratios = ratios(&seconds, &theirs);
    let (ratio, (low, high)) = (median(&ratios), spread(&ratios));
    let result = match ratio {
        ratio if ratio <= target.aim => "met, aim met",
        ratio if ratio <= target.limit => "met",
        _ => "NOT MET",
    };
    let floor = outcome.floor.as_ref().map_or(String::new(), |floor| {
        format!("{:.2}", median(&crate::measure::ratios(&seconds, &floor.seconds())))
    });
    println!(
        "| {name} | {:.3} s | {peer} | {ratio:.2} | {low:.2} .. {high:.2} | {limits} | {result} | {} | {floor} |",
        median(&seconds),
        peak(ours),
    );
}

fn peak(series: &Series) -> String {
    series.peak_kib().map_or(String::new(), |kib| format!("{} MiB", kib.div_ceil(1024)))
}

fn first_line(text: &[u8]) -> String {
    String::from_utf8_lossy(text).lines().next().unwrap_or_default().to_string()
}
