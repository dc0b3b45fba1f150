//! What several commands accept.

use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use holstein::{Access, BackingPolicy, Disk, DiskOptions, Format, Layers, Sharing};

/// For whom a command writes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum OutputFormat {
    /// Text for people.
    #[default]
    Human,
    /// JSON for programs.
    Json,
}

/// The options of every command that opens the images below one.
#[derive(Args)]
pub(crate) struct ChainArgs {
    /// Which files named inside an image may be opened: those in the image's own folder or below, those
    /// under DIR, any, or none [default: beside]
    #[arg(long, value_name = "beside|under=DIR|any|deny")]
    pub(crate) backing_policy: Option<BackingPolicy>,

    /// Most images in a chain of backing files [default: 1000]
    #[arg(long, value_name = "NUMBER")]
    pub(crate) chain_limit: Option<u32>,
}

impl ChainArgs {
    /// How an image of the default format is opened for reading.
    pub(crate) fn options(&self) -> DiskOptions {
        let default = DiskOptions::default();
        DiskOptions {
            backing_policy: self.backing_policy.clone().unwrap_or_default(),
            chain_limit: self.chain_limit.unwrap_or(default.chain_limit),
            ..default
        }
    }
}

/// The options of every command that opens an image for reading.
#[derive(Args)]
pub(crate) struct ImageArgs {
    /// Format of the image, never guessed [default: qcow2]
    #[arg(short, long, value_name = "qcow2|raw")]
    pub(crate) format: Option<Format>,

    #[command(flatten)]
    pub(crate) chain: ChainArgs,

    /// Open the image although another process writes it; what is read may be out of date or torn
    #[arg(short = 'U', long)]
    pub(crate) force_share: bool,

    /// What to print
    #[arg(long, value_enum, default_value_t)]
    pub(crate) output: OutputFormat,
}

impl ImageArgs {
    /// Whether a program reads the output.
    pub(crate) fn json(&self) -> bool {
        self.output == OutputFormat::Json
    }

    /// Opens an image as the options say, with `layers` of its chain.
    pub(crate) fn open(&self, path: &Path, layers: Layers) -> holstein::Result<Disk> {
        self.open_as(path, layers, self.format.unwrap_or_default())
    }

    /// The same for an image with a format of its own.
    pub(crate) fn open_as(&self, path: &Path, layers: Layers, format: Format) -> holstein::Result<Disk> {
        let sharing = if self.force_share { Sharing::ForceShare } else { Sharing::Locked };
        Disk::open(path, &DiskOptions { format, sharing, layers, ..self.chain.options() })
    }
}

/// The image of a command that writes its disk.
#[derive(Args)]
pub(crate) struct WritableArgs {
    /// The image
    pub(crate) image: PathBuf,

    /// Format of the image, never guessed [default: qcow2]
    #[arg(short, long, value_name = "qcow2|raw")]
    pub(crate) format: Option<Format>,

    #[command(flatten)]
    pub(crate) chain: ChainArgs,
}

impl WritableArgs {
    /// Opens the image for writing, with all of its chain.
    pub(crate) fn open(&self) -> holstein::Result<Disk> {
        let format = self.format.unwrap_or_default();
        Disk::open(&self.image, &DiskOptions { format, access: Access::Write, ..self.chain.options() })
    }
}

/// Reads a number of bytes as QEMU's tools do: decimal, with a binary suffix from `k` to `E` in either case and a fraction
/// before it; or hexadecimal (`0x...`), without a suffix.
pub(crate) fn parse_size(text: &str) -> Result<u64, String> {
    let wrong = || {
        format!("'{text}' is not a size: a number with k, M, G, T, P or E is expected, or 0x and hex digits")
    };
    let large = || format!("'{text}' is too large");
    if let Some(digits) = text.strip_prefix("0x").or(text.strip_prefix("0X")) {
        if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(wrong());
        }
        return u64::from_str_radix(digits, 16).map_err(|_| large());
    }
    let number = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let suffix = text[number.len()..].to_ascii_lowercase();
    let shift = match suffix.as_str() {
        "" | "b" => 0,
        "k" => 10,
        "m" => 20,
        "g" => 30,
        "t" => 40,
        "p" => 50,
        "e" => 60,
        _ => return Err(wrong()),
    };
    let (whole, fraction) = match number.split_once('.') {
        // A part of a byte is none.
        Some(_) if shift == 0 => return Err(wrong()),
        Some((whole, fraction)) if !fraction.is_empty() && fraction.len() <= 18 => (whole, fraction),
        Some(_) => return Err(wrong()),
        None => (number, "0"),
    };
    // `parse` alone would take a plus sign.
    if whole.is_empty() || ![whole, fraction].iter().all(|part| part.bytes().all(|b| b.is_ascii_digit())) {
        return Err(wrong());
    }
    let whole: u128 = whole.parse().map_err(|_| large())?;
    let part =
        fraction.parse::<u128>().map_err(|_| large())? * (1 << shift) / 10u128.pow(fraction.len() as u32);
    let bytes = whole.checked_mul(1 << shift).and_then(|bytes| bytes.checked_add(part));
    bytes.and_then(|bytes| u64::try_from(bytes).ok()).ok_or_else(large)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_with_and_without_suffix() {
        assert_eq!(parse_size("0"), Ok(0));
        assert_eq!(parse_size("65536"), Ok(65536));
        assert_eq!(parse_size("512b"), Ok(512));
        assert_eq!(parse_size("64k"), Ok(65536));
        assert_eq!(parse_size("64K"), Ok(65536));
        assert_eq!(parse_size("2M"), Ok(2 << 20));
        assert_eq!(parse_size("1g"), Ok(1 << 30));
        assert_eq!(parse_size("3T"), Ok(3 << 40));
        assert_eq!(parse_size("2P"), Ok(2 << 50));
        assert_eq!(parse_size("1e"), Ok(1 << 60));
        assert_eq!(parse_size("1.5G"), Ok(3 << 29));
        assert_eq!(parse_size("0.25k"), Ok(256));
        assert_eq!(parse_size("0x10"), Ok(16));
        assert_eq!(parse_size("0XfF"), Ok(255));
        assert_eq!(parse_size("18446744073709551615"), Ok(u64::MAX));
    }

    #[test]
    fn what_is_no_size_is_refused() {
        for text in [
            "",
            "k",
            "+1",
            "-1",
            "1.5",
            "1.5b",
            ".5M",
            "1.M",
            "1.-5M",
            "64kB",
            "64x",
            "0x",
            "0x10k",
            "0x-1",
            "16E",
            "0x10000000000000000",
            " 1",
            "1 k",
            "६",
            "18446744073709551616",
            "16777216T",
        ] {
            assert!(parse_size(text).is_err(), "{text:?} was accepted");
        }
    }
}
