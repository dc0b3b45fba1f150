//! `holstein check --chain`: every image of a chain is consistent, and stands on the backup that it was made over.

use std::process::ExitCode;

use holstein::{Disk, DiskOptions, Format, LayerInfo, Layers, Link};
use serde_json::{Value, json};

use crate::{
    args::OutputFormat,
    check::{CORRUPT, CheckArgs, LEAKS, MEMORY_LIMIT, exit_code},
    failure::{Failure, verdict_of},
    output::{self, escape_path, json_path},
};

/// One image, and what a check of it found.
struct Checked {
    layer: LayerInfo,
    /// `None` for a raw image, which has nothing to check.
    code: Option<u8>,
}

/// Runs the command.
pub(crate) fn run(args: &CheckArgs, options: &DiskOptions) -> Result<ExitCode, Failure> {
    let options = DiskOptions {
        layers: Layers::Chain,
        backing_policy: args.backing_policy.clone().unwrap_or_default(),
        ..options.clone()
    };
    let disk = Disk::open(&args.image, &options)?;
    let check = |layer: LayerInfo| {
        let options = DiskOptions { layers: Layers::TopOnly, memory_limit: MEMORY_LIMIT, ..options.clone() };
        let code = match layer.format {
            Format::Raw => None,
            Format::Qcow2 => Some(exit_code(&Disk::check(&layer.path, &options)?)),
        };
        Ok(Checked { layer, code })
    };
    let chain = disk.chain().into_iter().map(check).collect::<holstein::Result<Vec<_>>>()?;
    let printed = match args.output {
        OutputFormat::Json => {
            output::print_json(&json!({ "images": chain.iter().map(as_json).collect::<Vec<_>>() }))
        }
        OutputFormat::Human => output::print(&chain.iter().map(as_text).collect::<String>()),
    };
    verdict_of("the check is complete", printed)?;
    let broken = chain.iter().any(|image| image.layer.link == Link::Broken);
    let codes = || chain.iter().filter_map(|image| image.code);
    // What is worst comes first: damage before leaks.
    let worst = [1, CORRUPT, LEAKS].into_iter().find(|code| codes().any(|found| found == *code));
    Ok(ExitCode::from(if broken { CORRUPT } else { worst.unwrap_or(0) }))
}

fn link(link: Link) -> &'static str {
    match link {
        Link::Bottom => "bottom",
        Link::Proven => "proven",
        Link::Unknown => "unknown",
        Link::Broken => "broken",
    }
}

fn state(code: Option<u8>) -> &'static str {
    match code {
        None => "raw",
        Some(0) => "consistent",
        Some(LEAKS) => "leaked clusters",
        Some(CORRUPT) => "corrupt",
        Some(_) => "not checked",
    }
}

fn as_json(image: &Checked) -> Value {
    let Checked { layer, code } = image;
    json!({
        "filename": json_path(&layer.path),
        "format": layer.format.to_string(),
        "state": state(*code),
        "identity": layer.identity.map(|identity| identity.to_string()),
        "parent": layer.parent.map(|identity| identity.to_string()),
        "link": link(layer.link),
    })
}

fn as_text(image: &Checked) -> String {
    let Checked { layer, code } = image;
    let text = match (layer.link, layer.parent) {
        (Link::Bottom, _) => "nothing below".to_owned(),
        (Link::Proven, Some(parent)) => format!("stands on its parent {parent}"),
        (Link::Broken, Some(parent)) => format!("BROKEN: its parent {parent} is not what lies below"),
        _ => "whether it stands on its parent is not known".to_owned(),
    };
    let identity = layer.identity.map_or_else(|| "no identity".to_owned(), |identity| identity.to_string());
    format!("{}: {}, {identity}, {text}\n", escape_path(&layer.path), state(*code))
}
