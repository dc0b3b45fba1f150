//! `make bench`: the `holstein` command beside QEMU's own tools, measured side by side in one run.
//!
//! Every row makes one side do its work, then the other, again and again in turns; what counts is the median
//! of the ratios of the pairs, since machines differ and their speed drifts. The disks are made here, by QEMU's
//! tools. Reading order: [`options`], [`rows`] (what is compared), [`measure`] (how), [`report`] (the table).

mod commit;
mod daemon;
mod disks;
mod measure;
mod options;
mod plain;
mod qmp;
mod report;
mod rows;
mod tools;

use std::process::ExitCode;

pub(crate) use qmp::Result;

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1).peekable();
    if arguments.peek().map(String::as_str) == Some(tools::WATCH) {
        return tools::watch(arguments.skip(1).collect());
    }
    match options::parse(arguments).and_then(|options| run(&options)) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("bench: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Measures the chosen rows; whether every side of every row did its work.
fn run(options: &options::Options) -> Result<bool> {
    let workspace = disks::Workspace::new(options)?;
    report::surroundings(options, &workspace)?;
    let mut outcomes = Vec::new();
    for name in &options.rows {
        eprintln!("bench: {name}");
        if *name == "commit" {
            commit::measure(&workspace.disk, options.pairs)?;
            continue;
        }
        let mut row = rows::build(name, options, &workspace)?;
        let outcome = measure::run(&mut row, options.pairs)?;
        report::details(&outcome);
        outcomes.push(outcome);
    }
    report::table(&outcomes);
    Ok(outcomes.iter().all(|outcome| outcome.failure.is_none()))
}
