//! `holstein check --chain`: every image of a chain is consistent, and stands on the backup that it was made over.

use std::process::ExitCode;

use holstein::{CheckReport, CheckVerdict, CheckedImage, Disk, DiskOptions, Link};
use serde_json::{Value, json};

use crate::{
    args::OutputFormat,
    check::{CheckArgs, code_of},
    failure::{Failure, verdict_of},
    output::{self, escape_path, json_path},
};

/// Runs the command.
pub(crate) fn run(args: &CheckArgs, options: &DiskOptions) -> Result<ExitCode, Failure> {
    let options =
        DiskOptions { backing_policy: args.backing_policy.clone().unwrap_or_default(), ..options.clone() };
    let chain = Disk::check_chain(&args.image, &options)?;
    let printed = match args.output {
        OutputFormat::Json => {
            let images: Vec<_> = chain.images.iter().map(as_json).collect();
            output::print_json(&json!({ "images": images }))
        }
        OutputFormat::Human => output::print(&chain.images.iter().map(as_text).collect::<String>()),
    };
    verdict_of("the check is complete", printed)?;
    Ok(ExitCode::from(code_of(chain.verdict())))
}

fn link(link: Link) -> &'static str {
    match link {
        Link::Bottom => "bottom",
        Link::Proven => "proven",
        Link::Unknown => "unknown",
        Link::Broken => "broken",
    }
}

fn state(image: &CheckedImage) -> &'static str {
    match image.report.as_ref().map(CheckReport::verdict) {
        None => "raw",
        Some(CheckVerdict::Consistent) => "consistent",
        Some(CheckVerdict::Leaks) => "leaked clusters",
        Some(CheckVerdict::Corrupt) => "corrupt",
        Some(CheckVerdict::Incomplete) => "not checked",
    }
}

fn as_json(image: &CheckedImage) -> Value {
    let layer = &image.layer;
    json!({
        "filename": json_path(&layer.path),
        "format": layer.format.to_string(),
        "state": state(image),
        "identity": layer.identity.map(|identity| identity.to_string()),
        "parent": layer.parent.map(|identity| identity.to_string()),
        "link": link(layer.link),
    })
}

fn as_text(image: &CheckedImage) -> String {
    let layer = &image.layer;
    let text = match (layer.link, layer.parent) {
        (Link::Bottom, _) => "nothing below".to_owned(),
        (Link::Proven, Some(parent)) => format!("stands on its parent {parent}"),
        (Link::Broken, Some(parent)) => {
            format!("BROKEN: its parent {parent} is not what lies below, or was changed since")
        }
        (Link::Broken, None) => "BROKEN: it is a part of a disk, and nothing lies below".to_owned(),
        _ => "whether it stands on its parent is not known".to_owned(),
    };
    let identity = layer.identity.map_or_else(|| "no identity".to_owned(), |identity| identity.to_string());
    format!("{}: {}, {identity}, {text}\n", escape_path(&layer.path), state(image))
}
