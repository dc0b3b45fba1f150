//! One number and a few bits for each host cluster.

use crate::memory;
use std::ops::Range;

use super::super::budget::{Budget, Grant};
use crate::error::Result;

const WHAT: &str = "count of references";

/// How often each host cluster is referred to. A byte each while that is enough, then two; what is more than
/// two bytes can tell stays at [`Counts::MOST`].
#[derive(Debug)]
pub(crate) struct Counts {
    width: Width,
    budget: Budget,
    grants: Vec<Grant>,
}

#[derive(Debug)]
enum Width {
    Byte(Vec<u8>),
    Word(Vec<u16>),
}

impl Counts {
    /// The largest count: this many references or more.
    pub(crate) const MOST: u64 = u16::MAX as u64;

    pub(crate) fn new(clusters: u64, budget: &Budget) -> Result<Self> {
        let grant = budget.grant(clusters, WHAT)?;
        let width = Width::Byte(memory::zeroed(clusters as usize)?);
        Ok(Counts { width, budget: budget.clone(), grants: vec![grant] })
    }

    /// How many clusters are counted.
    pub(crate) fn len(&self) -> u64 {
        match &self.width {
            Width::Byte(counts) => counts.len() as u64,
            Width::Word(counts) => counts.len() as u64,
        }
    }

    /// Counts `clusters` clusters from now on, the new ones without references.
    pub(crate) fn grow(&mut self, clusters: u64) -> Result<()> {
        let more = clusters.saturating_sub(self.len());
        let width = if matches!(self.width, Width::Byte(_)) { 1 } else { 2 };
        self.grants.push(self.budget.grant(more * width, WHAT)?);
        let end = (self.len() + more) as usize;
        match &mut self.width {
            Width::Byte(counts) => memory::grow(counts, end)?,
            Width::Word(counts) => memory::grow(counts, end)?,
        }
        Ok(())
    }

    /// The first cluster from `from` on without references, be it behind those that are counted.
    pub(crate) fn next_zero(&self, from: u64) -> u64 {
        fn find<T: Copy + PartialEq + Default>(counts: &[T], from: usize) -> usize {
            let rest = counts.get(from..).unwrap_or_default();
            from + rest.iter().position(|count| *count == T::default()).unwrap_or(rest.len())
        }
        match &self.width {
            Width::Byte(counts) => find(counts, from as usize) as u64,
            Width::Word(counts) => find(counts, from as usize) as u64,
        }
    }

    /// Takes one reference of a counted cluster away; returns how many are left.
    pub(crate) fn subtract_one(&mut self, cluster: u64) -> u64 {
        match &mut self.width {
            Width::Byte(counts) => {
                counts[cluster as usize] = counts[cluster as usize].saturating_sub(1);
            }
            // What is more than can be told stays so.
            Width::Word(counts) if counts[cluster as usize] == u16::MAX => {}
            Width::Word(counts) => counts[cluster as usize] = counts[cluster as usize].saturating_sub(1),
        }
        self.get(cluster)
    }

    pub(crate) fn get(&self, cluster: u64) -> u64 {
        match &self.width {
            Width::Byte(counts) => counts[cluster as usize].into(),
            Width::Word(counts) => counts[cluster as usize].into(),
        }
    }

    /// Adds `weight` to each of `clusters`.
    pub(crate) fn add(&mut self, clusters: Range<u64>, weight: u32) -> Result<()> {
        let range = clusters.start as usize..clusters.end as usize;
        if let Width::Byte(counts) = &mut self.width {
            let part = &mut counts[range.clone()];
            let highest = part.iter().fold(0, |highest: u8, count| highest.max(*count));
            if u32::from(highest).saturating_add(weight) <= u8::MAX.into() {
                part.iter_mut().for_each(|count| *count += weight as u8);
                return Ok(());
            }
            self.widen()?;
        }
        if let Width::Word(counts) = &mut self.width {
            let weight = u16::try_from(weight).unwrap_or(u16::MAX);
            counts[range].iter_mut().for_each(|count| *count = count.saturating_add(weight));
        }
        Ok(())
    }

    fn widen(&mut self) -> Result<()> {
        if let Width::Byte(counts) = &self.width {
            let grant = self.budget.grant(counts.len() as u64 * 2, WHAT)?;
            let wide = memory::collected(counts.iter().map(|count| u16::from(*count)))?;
            self.grants = vec![grant];
            self.width = Width::Word(wide);
        }
        Ok(())
    }

    /// Whether each of the 64 clusters from `first` on, or those of them that there are, has `count` references.
    pub(crate) fn group_is(&self, first: u64, count: u8) -> bool {
        fn all<T: Copy + PartialEq>(counts: &[T], first: u64, count: T) -> bool {
            let first = (first as usize).min(counts.len());
            let group = &counts[first..counts.len().min(first + 64)];
            group.iter().fold(true, |same, have| same & (*have == count))
        }
        match &self.width {
            Width::Byte(counts) => all(counts, first, count),
            Width::Word(counts) => all(counts, first, count.into()),
        }
    }
}

/// One bit for each host cluster.
#[derive(Debug)]
pub(crate) struct Bits {
    words: Vec<u64>,
    _grant: Grant,
}

impl Bits {
    pub(crate) fn new(clusters: u64, budget: &Budget) -> Result<Self> {
        let words = clusters.div_ceil(64);
        let grant = budget.grant(words * 8, WHAT)?;
        Ok(Bits { words: memory::zeroed(words as usize)?, _grant: grant })
    }

    /// The 64 bits from `first`, a multiple of 64, on.
    pub(crate) fn group(&self, first: u64) -> u64 {
        self.words[first as usize / 64]
    }

    pub(crate) fn set_group(&mut self, first: u64, bits: u64) {
        self.words[first as usize / 64] = bits;
    }

    pub(crate) fn set(&mut self, range: Range<u64>) {
        for_each_word(range, |index, mask| {
            self.words[index] |= mask;
            true
        });
    }

    /// Whether any bit of a range is set.
    pub(crate) fn any(&self, range: Range<u64>) -> bool {
        !for_each_word(range, |index, mask| self.words[index] & mask == 0)
    }

    /// Whether all bits of a range are set.
    pub(super) fn all(&self, range: Range<u64>) -> bool {
        for_each_word(range, |index, mask| self.words[index] & mask == mask)
    }
}

/// Hands the words that a range touches to `see`, with a mask of the bits in it, until that says false.
/// Returns what it said last.
fn for_each_word(range: Range<u64>, mut see: impl FnMut(usize, u64) -> bool) -> bool {
    let mut at = range.start;
    while at < range.end {
        let next = (at / 64 + 1) * 64;
        let mut mask = u64::MAX << (at % 64);
        if range.end < next {
            mask &= u64::MAX >> (next - range.end);
        }
        if !see((at / 64) as usize, mask) {
            return false;
        }
        at = next;
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_grow_wider_and_then_stay() {
        let budget = Budget::new(1 << 20);
        let mut counts = Counts::new(200, &budget).unwrap();
        counts.add(10..150, 255).unwrap();
        assert!(matches!(counts.width, Width::Byte(_)));
        counts.add(149..151, 1).unwrap();
        assert!(matches!(counts.width, Width::Word(_)));
        assert_eq!([9, 10, 148, 149, 150, 151].map(|at| counts.get(at)), [0, 255, 255, 256, 1, 0]);
        counts.add(149..150, 65_278).unwrap();
        assert_eq!(counts.get(149), 65_534);
        counts.add(149..150, u32::MAX).unwrap();
        assert_eq!(counts.get(149), Counts::MOST);
        assert!(counts.group_is(20, 255) && !counts.group_is(100, 255) && counts.group_is(151, 0));
        assert!(counts.group_is(199, 0));
    }

    #[test]
    fn memory_is_granted() {
        let budget = Budget::new(300);
        let mut counts = Counts::new(200, &budget).unwrap();
        counts.add(0..1, 300).unwrap_err();
        Bits::new(2000, &budget).unwrap_err();
        counts.add(7..8, 3).unwrap();
        counts.grow(301).unwrap_err();
        assert_eq!((counts.len(), counts.get(7), counts.get(0)), (200, 3, 0));
        counts.grow(300).unwrap();
        assert_eq!((counts.len(), counts.get(7), counts.get(299)), (300, 3, 0));
    }

    #[test]
    fn memory_may_be_refused() {
        let budget = Budget::new(1 << 20);
        let pieces = memory::refusal::of_each(|| {
            let mut counts = Counts::new(100_000, &budget)?;
            counts.add(7..8, 200)?;
            counts.add(7..8, 100).inspect_err(|_| assert_eq!(counts.get(7), 200))
        });
        assert_eq!(pieces, 2);
    }

    #[test]
    fn ranges_of_bits() {
        let mut bits = Bits::new(300, &Budget::new(1 << 20)).unwrap();
        bits.set(60..200);
        assert!(bits.all(60..200) && bits.all(100..128) && bits.all(64..128));
        assert!(!bits.all(59..200) && !bits.all(60..201));
        assert!(!bits.any(0..60) && !bits.any(200..300) && bits.any(0..61) && bits.any(199..300));
        assert!(bits.all(5..5) && !bits.any(5..5));
        assert_eq!(bits.group(64), u64::MAX);
        bits.set_group(64, 1);
        assert!(bits.any(64..65) && !bits.any(65..128));
    }
}
