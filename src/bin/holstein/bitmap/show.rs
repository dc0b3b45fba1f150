//! `holstein bitmap list` and `dump`: which dirty bitmaps an image holds, and which parts of the disk one of them calls
//! dirty.

use std::{ffi::OsString, os::unix::ffi::OsStrExt, path::PathBuf};

use clap::Args;
use holstein::{BitmapInfo, Layers};
use serde_json::{Value, json};

use crate::{
    args::{ImageArgs, OutputFormat},
    failure::Failure,
    info::{flags, flags_text},
    output::{self, Listing, escape, json_name, printable},
};

/// List the bitmaps of an image, also those that cannot be trusted, with the reason.
#[derive(Args)]
pub(super) struct ListArgs {
    /// The image
    image: PathBuf,
    #[command(flatten)]
    open: ImageArgs,
}

/// List the parts of the disk that a bitmap marks as changed, in bytes.
#[derive(Args)]
pub(super) struct DumpArgs {
    /// The image
    image: PathBuf,
    /// The name of the bitmap
    name: OsString,
    #[command(flatten)]
    open: ImageArgs,
}

/// Lists the bitmaps of an image.
pub(super) fn list(args: &ListArgs) -> Result<(), Failure> {
    print_list(&args.open.open(&args.image, Layers::TopOnly)?.bitmaps()?, args.open.output)
}

/// Prints the bitmaps of an image.
pub(super) fn print_list(bitmaps: &[BitmapInfo], output: OutputFormat) -> Result<(), Failure> {
    if output == OutputFormat::Json {
        return output::print_json(&bitmaps.iter().map(bitmap_json).collect());
    }
    if bitmaps.is_empty() {
        return output::print("The image has no bitmaps.\n");
    }
    let rows: Vec<_> = bitmaps
        .iter()
        .map(|bitmap| {
            [
                escape(&bitmap.name),
                output::size(bitmap.granularity),
                flags_text(&flags(bitmap.in_use, bitmap.auto)),
                bitmap.count.map_or("-".into(), output::size),
                bitmap.unusable.as_ref().map_or("yes".into(), |reason| format!("no: {}", printable(reason))),
            ]
        })
        .collect();
    output::print(&output::table(["NAME", "GRANULARITY", "FLAGS", "DIRTY", "USABLE"], &rows))
}

fn bitmap_json(bitmap: &BitmapInfo) -> Value {
    json!({
        "name": json_name(&bitmap.name),
        "granularity": bitmap.granularity,
        "flags": flags(bitmap.in_use, bitmap.auto),
        "count": bitmap.count,
        "usable": bitmap.unusable.is_none(),
        "reason": bitmap.unusable,
    })
}

/// Lists what a bitmap marks.
pub(super) fn dump(args: &DumpArgs) -> Result<(), Failure> {
    let disk = args.open.open(&args.image, Layers::TopOnly)?;
    let bitmap = disk.bitmap(args.name.as_bytes())?;
    let mut listing = Listing::new();
    if args.open.json() {
        let mut separator = "[";
        for extent in bitmap.extents() {
            listing.text(separator).text("{ \"start\": ").number(extent.start);
            listing.text(", \"length\": ").number(extent.end - extent.start).text("}");
            listing.row()?;
            separator = ",\n";
        }
        listing.text(if separator == "[" { "[]\n" } else { "]\n" });
    } else {
        listing.text(&format!("{:<20}Length\n", "Start"));
        for extent in bitmap.extents() {
            listing.text(&format!("{:<20}{}\n", extent.start, extent.end - extent.start));
            listing.row()?;
        }
    }
    listing.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_has_the_agreed_keys() {
        let mut bitmap = BitmapInfo {
            name: b"nightly".to_vec(),
            granularity: 65536,
            in_use: false,
            auto: true,
            count: Some(131072),
            unusable: None,
            base: None,
        };
        let expected = json!({ "name": "nightly", "granularity": 65536, "flags": ["auto"], "count": 131072,
            "usable": true, "reason": null });
        assert_eq!(bitmap_json(&bitmap), expected);

        bitmap.in_use = true;
        bitmap.count = None;
        bitmap.unusable = Some("it was not closed".into());
        let expected = json!({ "name": "nightly", "granularity": 65536, "flags": ["in-use", "auto"],
            "count": null, "usable": false, "reason": "it was not closed" });
        assert_eq!(bitmap_json(&bitmap), expected);
    }
}
