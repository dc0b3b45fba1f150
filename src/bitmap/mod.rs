//! Which parts of a disk changed: dirty bitmaps, in memory and as they are stored in qcow2.

mod bits;
mod dirty;
mod persistent;

pub(crate) use bits::BitSet;
pub use dirty::DirtyBitmap;
pub use persistent::BitmapInfo;
pub(crate) use persistent::{check, ensure_recorded, list, load};
