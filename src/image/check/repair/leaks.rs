//! Refcounts that are higher than the references, lowered where they are.
//!
//! A refcount lies in one sector, so a crash leaves each as it was or as it shall be: fewer leaks at worst.

use super::{session::Session, targets::Targets};
use crate::{error::Result, format::refcount, memory};

/// Lowers what is too high in all blocks that can be believed.
pub(super) fn lower(session: &mut Session<'_>, targets: &mut Targets<'_>) -> Result<()> {
    let geometry = targets.geometry;
    let per_block = geometry.refcount_block_entries();
    let mut old = memory::zeroed(geometry.cluster_size() as usize)?;
    let mut new = memory::copied(&old)?;
    for (index, offset) in targets.old_table().iter().enumerate() {
        let first = index as u64 * per_block;
        if !targets.believes_block(index as u64) || first >= targets.checked {
            continue;
        }
        session.file.read_exact(&mut old, *offset, "refcount block")?;
        new.copy_from_slice(&old);
        for cluster in first..targets.checked.min(first + per_block) {
            let entry = (cluster - first) as usize;
            let count = refcount::get(&old, geometry.refcount_order, entry);
            let lowered = targets.lowered(cluster, count);
            if lowered < count {
                refcount::set(&mut new, geometry.refcount_order, entry, lowered);
            }
        }
        session.write_changed(&old, &new, *offset)?;
    }
    Ok(())
}
