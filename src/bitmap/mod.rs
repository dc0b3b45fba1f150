//! Which parts of a disk changed: dirty bitmaps, in memory and as they are stored in qcow2.

mod bits;
mod change;
mod dirty;
mod persistent;
mod record;
mod store;

pub(crate) use bits::BitSet;
pub use change::{BitmapChange, MergeSource, Recording};
pub use dirty::DirtyBitmap;
pub use persistent::BitmapInfo;
pub(crate) use persistent::{check, list, load};
pub(crate) use record::Recorder;
pub(crate) use store::{
    DirectoryPlace, NewBitmaps, Purpose, base_after, change, changed, directory_offset, directory_place,
    give_up_unless_moved, give_up_untrusted, load_after, resized, validate,
};
