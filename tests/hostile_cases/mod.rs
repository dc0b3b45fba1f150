//! The hostile set: tables of cases, one module for each part of the format, and what judges them.

pub mod bitmaps;
pub mod broken_bitmaps;
pub mod compressed;
pub mod damage;
pub mod features;
pub mod header;
pub mod judge;
pub mod names;
#[path = "../support/process.rs"]
pub mod process;
pub mod snapshots;
pub mod tables;

use std::path::Path;

use crate::builder::{Bitmap, Builder, Cluster, Image, pattern, text};

/// What is expected of us. Texts are searched for without regard to case.
#[derive(Clone, Copy, Debug)]
pub enum Expect {
    /// Every command refuses the image, with this in the text.
    Open(&'static str),
    /// `info` works; the full copy is refused, with this in the text.
    Read(&'static str),
    /// Everything works and equals what QEMU says, and what was laid out.
    Same,
    /// As `Same`, but bitmaps show more than was laid out.
    Dirtier,
    /// The disk reads as it was laid out; this bitmap is listed as unusable, with this in the reason, and a
    /// backup by it is refused.
    Bitmap(&'static str, &'static str),
    /// The disk reads as it was laid out, and no bitmap is listed as usable (or at all).
    NoBitmap,
}

/// What `qemu-img` 10 does with the image. We may be stricter, never laxer, but for a single bad bitmap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Qemu {
    /// `info`, `map` and `convert` succeed.
    Accepts,
    /// `info` fails.
    RefusesOpen,
    /// `info` succeeds, `map` or `convert` fails.
    RefusesRead,
    /// Not asked, for this reason.
    NotRun(&'static str),
}

/// One hostile image.
pub struct Case {
    /// Its name, and that of its folder.
    pub name: &'static str,
    /// What we must do.
    pub expect: Expect,
    /// What QEMU does.
    pub qemu: Qemu,
    /// The `--backing-policy`.
    pub policy: &'static str,
    /// Makes the image; files beside it are put into the folder.
    pub make: Box<dyn Fn(&Path) -> Image>,
}

impl Case {
    /// A case whose image needs files beside it.
    pub fn new(
        name: &'static str,
        expect: Expect,
        qemu: Qemu,
        make: impl Fn(&Path) -> Image + 'static,
    ) -> Self {
        Case { name, expect, qemu, policy: "beside", make: Box::new(make) }
    }

    /// The base image, with some bytes changed.
    pub fn poke(
        name: &'static str,
        expect: Expect,
        qemu: Qemu,
        change: impl Fn(&mut Image) + 'static,
    ) -> Self {
        Case::new(name, expect, qemu, move |_| base().build().edit(|image| change(image)))
    }

    /// The base image, laid out differently.
    pub fn spec(
        name: &'static str,
        expect: Expect,
        qemu: Qemu,
        change: impl Fn(&mut Builder) + 'static,
    ) -> Self {
        Case::new(name, expect, qemu, move |_| base().with(|spec| change(spec)).build())
    }

    /// The same under another backing policy.
    pub fn policy(mut self, policy: &'static str) -> Self {
        self.policy = policy;
        self
    }
}

/// The image that most cases break: 64 clusters of 4 KiB, seven of them used, and one bitmap, `b0`.
///
/// ```text
/// 0x0000 header       0x3000 L1    0x9000 compressed data of cluster 3
/// 0x1000 refcounts:   0x4000 L2    0xA000 data of bitmap b0
/// 0x2000 table, block 0x5000 data  0xB000 its table    0xC000 the directory
/// ```
pub fn base() -> Builder {
    Builder::new(12, 64 << 12)
        .cluster(0, Cluster::Data(pattern(1, 4096)))
        .cluster(1, Cluster::Zero)
        .cluster(2, Cluster::ZeroAllocated(pattern(2, 4096)))
        .cluster(3, Cluster::deflate(text(3, 4096)))
        .cluster(5, Cluster::Data(pattern(5, 4096)))
        .cluster(63, Cluster::Data(pattern(63, 4096)))
        .bitmap(Bitmap::new("b0", 12, &[0..1, 5..6, 9..30, 63..64]))
}
