//! `holstein resize`: another size of a disk, bitmaps and all.

use std::process::ExitCode;

use clap::Args;

use crate::{
    args::{WritableArgs, parse_size},
    failure::Failure,
};

/// Change the size of an image's disk.
///
/// All bitmaps are written for the new size with the same step; what the disk gains is dirty in them and reads as
/// zero.
#[derive(Args)]
pub(crate) struct ResizeArgs {
    #[command(flatten)]
    image: WritableArgs,

    /// The new size in bytes; +SIZE grows the disk by so much, -SIZE shrinks it
    #[arg(value_name = "[+|-]SIZE", allow_hyphen_values = true, value_parser = parse_new_size)]
    size: NewSize,

    /// Allow the disk to become smaller: what lies behind its new end is lost
    #[arg(long)]
    shrink: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum NewSize {
    To(u64),
    By(u64),
    LessBy(u64),
}

fn parse_new_size(text: &str) -> Result<NewSize, String> {
    match text.as_bytes() {
        [b'+', ..] => parse_size(&text[1..]).map(NewSize::By),
        [b'-', ..] => parse_size(&text[1..]).map(NewSize::LessBy),
        _ => parse_size(text).map(NewSize::To),
    }
}

/// Runs the command.
pub(crate) fn run(args: &ResizeArgs) -> Result<ExitCode, Failure> {
    let disk = args.image.open()?;
    let old = disk.size();
    let size = match args.size {
        NewSize::To(size) => Some(size),
        NewSize::By(more) => old.checked_add(more),
        NewSize::LessBy(less) => old.checked_sub(less),
    };
    let size =
        size.ok_or_else(|| Failure::usage(format!("the disk of {old} bytes cannot be changed by so much")))?;
    if size < old && !args.shrink {
        let text = format!(
            "'{}' would shrink from {old} to {size} bytes, and what lies behind would be lost; use --shrink if that is meant",
            disk.path().display()
        );
        return Err(Failure::usage(text));
    }
    disk.resize(size)?;
    disk.close()?;
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_changes_of_size() {
        assert_eq!(parse_new_size("64M"), Ok(NewSize::To(64 << 20)));
        assert_eq!(parse_new_size("+512"), Ok(NewSize::By(512)));
        assert_eq!(parse_new_size("-1k"), Ok(NewSize::LessBy(1024)));
        assert!(
            parse_new_size("+").is_err() && parse_new_size("--1").is_err() && parse_new_size("").is_err()
        );
    }
}
