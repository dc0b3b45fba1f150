//! A set of bits that takes memory only where it is mixed: stretches that are all clear or all set cost
//! nothing, so a bitmap of a huge disk is as small as what is dirty in it.

use std::ops::Range;

use crate::{error::Result, memory};

/// Bits of one chunk, and its words.
const CHUNK_BITS: u64 = 1 << 15;
const CHUNK_WORDS: usize = (CHUNK_BITS / 64) as usize;

/// A fixed number of bits.
#[derive(Clone, Debug)]
pub(crate) struct BitSet {
    chunks: Vec<Chunk>,
    length: u64,
}

#[derive(Clone, Debug)]
enum Chunk {
    Clear,
    Set,
    Mixed(Box<[u64; CHUNK_WORDS]>),
}

impl BitSet {
    /// `length` clear bits.
    ///
    /// # Errors
    /// `NoMemory`.
    pub(crate) fn new(length: u64) -> Result<Self> {
        let chunks = memory::collected((0..length.div_ceil(CHUNK_BITS)).map(|_| Chunk::Clear))?;
        Ok(BitSet { chunks, length })
    }

    /// Bytes of memory that it takes.
    pub(crate) fn memory(&self) -> usize {
        let mixed = self.chunks.iter().filter(|chunk| matches!(chunk, Chunk::Mixed(_))).count();
        self.chunks.len() * size_of::<Chunk>() + mixed * size_of::<[u64; CHUNK_WORDS]>()
    }

    /// The most that it can take.
    pub(crate) fn most_memory(&self) -> usize {
        self.chunks.len() * (size_of::<Chunk>() + size_of::<[u64; CHUNK_WORDS]>())
    }

    /// Sets every bit of `range`, which must lie in the set.
    pub(crate) fn set(&mut self, range: Range<u64>) {
        debug_assert!(range.end <= self.length);
        let mut at = range.start;
        while at < range.end {
            let index = (at / CHUNK_BITS) as usize;
            let chunk_start = at - at % CHUNK_BITS;
            let end = range.end.min(chunk_start + CHUNK_BITS);
            let chunk = &mut self.chunks[index];
            if end - at == CHUNK_BITS {
                *chunk = Chunk::Set;
            } else if let Some(words) = chunk.words_mut() {
                set_in_words(words, at - chunk_start..end - chunk_start);
            }
            at = end;
        }
    }

    /// Puts 64 bits at once at `start`, a multiple of 64; bits behind the end must be clear.
    pub(crate) fn set_word(&mut self, start: u64, word: u64) {
        if word != 0
            && let Some(words) = self.chunks[(start / CHUNK_BITS) as usize].words_mut()
        {
            words[(start % CHUNK_BITS / 64) as usize] |= word;
        }
    }

    /// The 64 bits from `start` on, a multiple of 64; those behind the end are clear.
    pub(crate) fn word(&self, start: u64) -> u64 {
        let present = self.length.saturating_sub(start).min(64);
        let all = if present == 64 { u64::MAX } else { (1 << present) - 1 };
        match self.chunks.get((start / CHUNK_BITS) as usize) {
            Some(Chunk::Set) => all,
            Some(Chunk::Mixed(words)) => words[(start % CHUNK_BITS / 64) as usize],
            Some(Chunk::Clear) | None => 0,
        }
    }

    /// The same with the bits of `range` set.
    pub(crate) fn word_with(&self, start: u64, range: &Range<u64>) -> u64 {
        let (from, to) =
            (range.start.clamp(start, start + 64) - start, range.end.clamp(start, start + 64) - start);
        let set = if from < to { (u64::MAX >> (64 - (to - from))) << from } else { 0 };
        self.word(start) | set
    }

    /// How many bits are set.
    pub(crate) fn count(&self) -> u64 {
        let count = |(index, chunk): (usize, &Chunk)| match chunk {
            Chunk::Clear => 0,
            Chunk::Set => CHUNK_BITS.min(self.length - index as u64 * CHUNK_BITS),
            Chunk::Mixed(words) => words.iter().map(|word| u64::from(word.count_ones())).sum(),
        };
        self.chunks.iter().enumerate().map(count).sum()
    }

    /// The first run of set bits at or behind `from`.
    pub(crate) fn next_set_run(&self, from: u64) -> Option<Range<u64>> {
        let start = self.find(from, true)?;
        Some(start..self.find(start, false).unwrap_or(self.length))
    }

    /// The first bit at or behind `from` that is `wanted`.
    fn find(&self, from: u64, wanted: bool) -> Option<u64> {
        let mut at = from;
        while at < self.length {
            let chunk_start = at - at % CHUNK_BITS;
            let found = match (&self.chunks[(at / CHUNK_BITS) as usize], wanted) {
                (Chunk::Set, true) | (Chunk::Clear, false) => Some(at),
                (Chunk::Set, false) | (Chunk::Clear, true) => None,
                (Chunk::Mixed(words), _) => {
                    find_in_words(&words[..], at - chunk_start, wanted).map(|i| chunk_start + i)
                }
            };
            match found {
                Some(found) => return (found < self.length).then_some(found),
                None => at = chunk_start + CHUNK_BITS,
            }
        }
        None
    }
}

impl Chunk {
    /// The words to write set bits into; `None` when all are set already.
    fn words_mut(&mut self) -> Option<&mut [u64; CHUNK_WORDS]> {
        if let Chunk::Clear = self {
            *self = Chunk::Mixed(Box::new([0; CHUNK_WORDS]));
        }
        match self {
            Chunk::Mixed(words) => Some(words),
            _ => None,
        }
    }
}

fn set_in_words(words: &mut [u64], range: Range<u64>) {
    let (first, last) = (range.start / 64, (range.end - 1) / 64);
    let (head, tail) = (u64::MAX << (range.start % 64), u64::MAX >> (63 - (range.end - 1) % 64));
    for index in first..=last {
        let mut mask = u64::MAX;
        if index == first {
            mask &= head;
        }
        if index == last {
            mask &= tail;
        }
        words[index as usize] |= mask;
    }
}

fn find_in_words(words: &[u64], from: u64, wanted: bool) -> Option<u64> {
    let flip = if wanted { 0 } else { u64::MAX };
    let mut mask = u64::MAX << (from % 64);
    for index in from / 64..words.len() as u64 {
        let word = (words[index as usize] ^ flip) & mask;
        if word != 0 {
            return Some(index * 64 + u64::from(word.trailing_zeros()));
        }
        mask = u64::MAX;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn runs(bits: &BitSet) -> Vec<Range<u64>> {
        let next = |last: &Range<u64>| bits.next_set_run(last.end);
        std::iter::successors(bits.next_set_run(0), next).collect()
    }

    #[test]
    fn runs_join_across_words_and_chunks() {
        let mut bits = BitSet::new(200_000).unwrap();
        bits.set(10..20);
        bits.set(20..70);
        bits.set(CHUNK_BITS - 1..3 * CHUNK_BITS + 1);
        bits.set(199_999..200_000);
        let expected = [10..70, CHUNK_BITS - 1..3 * CHUNK_BITS + 1, 199_999..200_000];
        assert_eq!(runs(&bits), expected);
        assert_eq!(bits.count(), 60 + 2 * CHUNK_BITS + 2 + 1);
    }

    #[test]
    fn agrees_with_a_plain_list_of_bools() {
        let mut state = 7u64;
        let mut random = |below: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 33) % below
        };
        for round in 0..50 {
            let length = 1 + random(3 * CHUNK_BITS);
            let (mut bits, mut model) = (BitSet::new(length).unwrap(), vec![false; length as usize]);
            for _ in 0..round {
                let start = random(length);
                let end = start + random(length - start + 1).min(1 + random(CHUNK_BITS));
                bits.set(start..end);
                model[start as usize..end as usize].fill(true);
            }
            assert_eq!(bits.count(), model.iter().filter(|bit| **bit).count() as u64);
            let mut found = vec![false; length as usize];
            for run in runs(&bits) {
                found[run.start as usize..run.end as usize].fill(true);
            }
            assert_eq!(found, model);
        }
    }

    #[test]
    fn words_with_more_bits() {
        let mut bits = BitSet::new(200).unwrap();
        bits.set(3..4);
        let with = |start, range: Range<u64>| bits.word_with(start, &range);
        assert_eq!(
            [with(0, 0..2), with(0, 5..5), with(64, 0..64), with(64, 60..66)],
            [0b1011, 0b1000, 0, 0b11]
        );
        assert_eq!(
            [with(64, 0..200), with(128, 190..200), with(0, 63..64)],
            [u64::MAX, 0x3ff << 62, 1 << 63 | 8]
        );
    }

    #[test]
    fn the_last_word_may_be_partial() {
        let mut bits = BitSet::new(70).unwrap();
        bits.set(0..70);
        assert_eq!(runs(&bits), vec![0..70]);
        let mut bits = BitSet::new(70).unwrap();
        bits.set_word(64, 0b10_0001);
        assert_eq!(runs(&bits), [64..65, 69..70]);
    }
}
