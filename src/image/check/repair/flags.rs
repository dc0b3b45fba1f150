//! The flags of L1 and L2 entries that promise a refcount of exactly 1.
//!
//! A program that writes trusts a flag that is set: it writes in place. So one is cleared before anything else,
//! and set only when the refcount is durable. Only tables that nothing else lies on are written: they could be
//! somebody's data. Of tables that snapshots share all flags are clear.

use zerocopy::IntoBytes;

use super::{
    super::{read::PIECE, structure::Structure, tables::L2Tables},
    session::Session,
    targets::Targets,
};
use crate::{
    error::Result,
    format::{header::incompatible, l1, l2},
    memory,
};

/// What is done to flags.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Those that promise too much are cleared.
    Clear,
    /// Those that could promise more are set.
    Set,
}

/// Looks at all flags of the active tables.
#[derive(Debug)]
pub(super) struct Flags<'a, 'f, 't> {
    pub(super) structure: &'a Structure<'a>,
    pub(super) tables: &'a L2Tables,
    pub(super) session: &'a mut Session<'f>,
    pub(super) targets: &'a mut Targets<'t>,
    pub(super) step: Step,
}

impl Flags<'_, '_, '_> {
    /// Changes the flags that the step is about; returns how many.
    pub(super) fn run(mut self) -> Result<u64> {
        Ok(self.l1_table()? + self.l2_tables()?)
    }

    fn l1_table(&mut self) -> Result<u64> {
        let header = self.structure.header;
        let bytes = u64::from(header.l1_entries) * 8;
        if !self.is_alone(header.l1_offset, bytes, 1)? {
            return Ok(0);
        }
        let mut changed = 0;
        let mut old = memory::zeroed(bytes.min(PIECE as u64) as usize)?;
        for at in (0..bytes).step_by(PIECE) {
            let old = &mut old[..(bytes - at).min(PIECE as u64) as usize];
            let offset = header.l1_offset + at;
            self.session.file.read_exact(old, offset, "L1 table")?;
            let mut new = memory::copied(old)?;
            for word in new.chunks_exact_mut(8) {
                let entry = word.iter().fold(0, |entry, byte| entry << 8 | u64::from(*byte));
                let host = entry & l1::OFFSET;
                let valid = entry & l1::RESERVED == 0 && self.structure.geometry().is_aligned(host);
                if host != 0 && self.is_wrong(entry, l1::COPIED, Some(host), valid)? {
                    word.copy_from_slice(&(entry ^ l1::COPIED).to_be_bytes());
                    changed += 1;
                }
            }
            self.session.write_changed(old, &new, offset)?;
        }
        Ok(changed)
    }

    fn l2_tables(&mut self) -> Result<u64> {
        let (tables, structure) = (self.tables, self.structure);
        let mut changed = 0;
        tables.for_each_content(structure, |table, words| {
            if !self.is_alone(table.offset, words.len() as u64 * 8, table.all.into())? {
                return Ok(());
            }
            let mut new = memory::copied(words)?;
            let step = (structure.geometry().l2_entry_size() / 8) as usize;
            for index in (0..words.len()).step_by(step) {
                let bitmap = if step == 1 { 0 } else { words[index + 1].get() };
                let entry = words[index].get();
                let wrong = match entry & l2::COMPRESSED != 0 {
                    // It means nothing there.
                    true => self.step == Step::Clear && entry & l2::COPIED != 0,
                    false => table.active > 0 && self.l2_flag_is_wrong(entry, bitmap)?,
                };
                if wrong {
                    new[index] = (words[index].get() ^ l2::COPIED).into();
                    changed += 1;
                }
            }
            self.session.write_changed(words.as_bytes(), new.as_bytes(), table.offset)
        })?;
        Ok(changed)
    }

    /// Whether the step changes the flag of an L2 entry.
    fn l2_flag_is_wrong(&mut self, entry: u64, bitmap: u64) -> Result<bool> {
        let geometry = self.structure.geometry();
        let data_file = self.structure.header.has(incompatible::DATA_FILE);
        let host = entry & l2::OFFSET;
        let is_zero = entry & l2::ZERO != 0 && !geometry.extended_l2;
        let nowhere = host == 0 && (is_zero || !data_file || entry & l2::COPIED == 0);
        if nowhere {
            return Ok(false);
        }
        let valid = entry & l2::RESERVED == 0 && bitmap >> 32 & bitmap == 0 && geometry.is_aligned(host);
        self.is_wrong(entry, l2::COPIED, (!data_file).then_some(host), valid)
    }

    /// The same for any entry; without `host` what it refers to has no refcount and no other references.
    fn is_wrong(&mut self, entry: u64, flag: u64, host: Option<u64>, valid: bool) -> Result<bool> {
        let copied = entry & flag != 0;
        if copied != (self.step == Step::Clear) {
            return Ok(false);
        }
        let Some(host) = host else { return Ok(!copied && valid) };
        let cluster = host >> self.structure.geometry().cluster_bits;
        let Some(refcount) = self.targets.get(cluster)? else { return Ok(false) };
        Ok(match self.step {
            Step::Clear => refcount != 1,
            Step::Set => {
                let alone = self.targets.certain && self.targets.references(cluster) == 1;
                refcount == 1 && alone && valid
            }
        })
    }

    /// Whether a table lies in the file as a whole, and each of its clusters has only these references.
    fn is_alone(&self, offset: u64, bytes: u64, references: u64) -> Result<bool> {
        let geometry = self.structure.geometry();
        let end = offset.saturating_add(bytes);
        let mut clusters = offset >> geometry.cluster_bits..end.div_ceil(geometry.cluster_size());
        let inside = end <= self.structure.file.len()? && geometry.is_aligned(offset);
        Ok(inside && clusters.all(|cluster| self.targets.references(cluster) == references))
    }
}
