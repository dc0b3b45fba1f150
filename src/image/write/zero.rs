//! Zeros and discards: what needs no data.

use std::ops::Range;

use super::{
    Place, Writer,
    data::{subclusters_covered, subclusters_in},
    qcow2,
};
use crate::{
    error::Result,
    format::l2::State,
    image::{Image, Qcow2},
};

/// Zeros are written in pieces of this size where they have to be stored.
static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

impl Writer {
    /// Makes a guest range read as zero; it must lie in the disk. Space is given back where that is possible.
    pub(crate) fn zero(&mut self, image: &Image, range: Range<u64>) -> Result<()> {
        image.check_range(range.end - range.start, range.start)?;
        let top = qcow2(image)?;
        self.clusters.prepare_to_write(top)?;
        let mut at = range.start;
        while at < range.end {
            let geometry = top.geometry();
            if let Some(end) = self.missing_table_end(image, top, at) {
                at = end.min(range.end);
                continue;
            }
            let end = range.end.min(geometry.cluster_start(at) + geometry.cluster_size());
            self.zero_in_cluster(image, top, at..end)?;
            at = end;
            self.relieve(image)?;
        }
        Ok(())
    }

    /// Gives up what a guest range holds, where it covers whole clusters: they read as zero then.
    pub(crate) fn discard(&mut self, image: &Image, range: Range<u64>) -> Result<()> {
        image.check_range(range.end - range.start, range.start)?;
        let top = qcow2(image)?;
        let geometry = top.geometry();
        // Without zero clusters the backing file's data would come to light.
        let cannot = top.is_version_2() && image.layer_count() > 1;
        if cannot || top.has_raw_data_file() {
            return Ok(());
        }
        let start = range.start.next_multiple_of(geometry.cluster_size());
        let end = if range.end == image.size() { range.end } else { geometry.cluster_start(range.end) };
        if start < end { self.zero(image, start..end) } else { Ok(()) }
    }

    /// Where no L2 table and no image below has anything, all is zero already: the end of that part.
    fn missing_table_end(&self, image: &Image, top: &Qcow2, at: u64) -> Option<u64> {
        let coverage = top.geometry().l2_coverage();
        let index = at / coverage;
        let nothing = image.layer_count() == 1 && top.l1_entry(index as usize) == 0;
        nothing.then_some((index + 1) * coverage)
    }

    fn zero_in_cluster(&mut self, image: &Image, top: &Qcow2, part: Range<u64>) -> Result<()> {
        let geometry = top.geometry();
        let guest = geometry.cluster_start(part.start);
        let covered = subclusters_covered(geometry, guest, &part, image.size());
        let all =
            subclusters_in(geometry, guest, &(guest..image.size().min(guest + geometry.cluster_size())));
        let table = self.table(top, guest)?;
        let place = self.place(top, table, guest)?;
        let whole = covered & all == all;
        // Version 2 has no zero clusters, streams no subclusters, and a raw data file must hold the zeros.
        let as_data = match place.state.compressed {
            _ if top.has_raw_data_file() => true,
            _ if top.is_version_2() => !whole || image.layer_count() > 1,
            Some(_) => !whole,
            None => false,
        };
        if as_data || covered == 0 {
            return self.write_zeros(image, part);
        }
        let bits = geometry.subcluster_bits();
        let first = guest + (u64::from(covered.trailing_zeros()) << bits);
        let last = guest + (u64::from(32 - covered.leading_zeros()) << bits);
        self.zero_subclusters(image, top, &place, if whole { geometry.subcluster_mask() } else { covered })?;
        self.write_zeros(image, part.start..first)?;
        self.write_zeros(image, last.min(part.end)..part.end)
    }

    fn zero_subclusters(&mut self, image: &Image, top: &Qcow2, place: &Place, mask: u32) -> Result<()> {
        let old = place.state;
        let nothing_below = image.layer_count() == 1;
        let is_zero = old.zero & mask == mask || (nothing_below && old.data & mask == 0);
        if old.compressed.is_none() && is_zero && (old.host.is_none() || old.data != 0) {
            return Ok(());
        }
        let data = old.data & !mask;
        // Version 2 comes here only where nothing is below.
        let zero = if top.is_version_2() { 0 } else { (old.zero | mask) & !data };
        let host = old.host.filter(|_| data != 0);
        self.set(top, place, State { host, data, zero, compressed: None }, place.ours)
    }

    /// Stores zeros, unless the range is known to read as zero.
    fn write_zeros(&mut self, image: &Image, range: Range<u64>) -> Result<()> {
        let mut known = !qcow2(image)?.has_raw_data_file();
        for run in image.runs(range.clone()) {
            known &= run?.zero();
        }
        if known {
            return Ok(());
        }
        let mut at = range.start;
        while at < range.end {
            let count = (range.end - at).min(ZEROS.len() as u64);
            self.write(image, &ZEROS[..count as usize], at)?;
            at += count;
        }
        Ok(())
    }
}
