//! Writing data.

use std::ops::Range;

use super::{Place, Writer, qcow2};
use crate::{
    error::Result,
    format::{geometry::Geometry, l2::State},
    image::{Image, Qcow2},
    memory,
};

/// So much is looked at together, so that neighbours become one write.
const TOGETHER: u64 = 16 << 20;

/// Data that goes from the caller's buffer to the host.
#[derive(Debug)]
struct Extent {
    host: u64,
    at: usize,
    length: usize,
}

impl Writer {
    /// Writes guest data; the range must lie in the disk. On an error the range holds old and new data, and
    /// everything else what it held.
    pub(crate) fn write(&mut self, image: &Image, buf: &[u8], offset: u64) -> Result<()> {
        image.check_range(buf.len() as u64, offset)?;
        let top = qcow2(image)?;
        self.clusters.prepare_to_write(top)?;
        let mut at = 0;
        while at < buf.len() {
            let guest = offset + at as u64;
            let coverage = top.geometry().l2_coverage();
            let room = (coverage - guest % coverage).min(TOGETHER - guest % TOGETHER);
            let count = (buf.len() - at).min(room as usize);
            self.write_together(image, top, &buf[at..at + count], guest)?;
            at += count;
            self.relieve(image)?;
        }
        Ok(())
    }

    /// Writes a range that one L2 table covers.
    fn write_together(&mut self, image: &Image, top: &Qcow2, buf: &[u8], offset: u64) -> Result<()> {
        let geometry = top.geometry();
        let table = self.table(top, offset)?;
        let end = offset + buf.len() as u64;
        let mut places = Vec::new();
        for guest in (geometry.cluster_start(offset)..end).step_by(geometry.cluster_size() as usize) {
            places.push(self.place(top, table, guest)?);
        }
        let new = self.allocate_for(top, &places)?;
        match self.write_places(image, top, &places, &new, buf, offset) {
            Ok(states) => {
                for (place, state) in places.iter().zip(states) {
                    self.set(top, place, state, true)?;
                }
                Ok(())
            }
            Err(error) => {
                new.into_iter().for_each(|range| self.clusters.release(range));
                Err(error)
            }
        }
    }

    /// New host clusters for all places that have none of their own.
    fn allocate_for(&mut self, top: &Qcow2, places: &[Place]) -> Result<Vec<Range<u64>>> {
        let bits = top.geometry().cluster_bits;
        let mut missing = places.iter().filter(|place| !place.ours).count() as u64;
        let mut new: Vec<Range<u64>> = Vec::new();
        while missing > 0 {
            match self.clusters.allocate(missing) {
                Ok(range) => {
                    missing -= (range.end - range.start) >> bits;
                    new.push(range);
                }
                Err(error) => {
                    new.into_iter().for_each(|range| self.clusters.release(range));
                    return Err(error);
                }
            }
        }
        Ok(new)
    }

    /// Puts the data of a range to its places; returns what they are then.
    fn write_places(
        &mut self,
        image: &Image,
        top: &Qcow2,
        places: &[Place],
        new: &[Range<u64>],
        buf: &[u8],
        offset: u64,
    ) -> Result<Vec<State>> {
        let size = top.geometry().cluster_size();
        let end = offset + buf.len() as u64;
        let mut new = new.iter().flat_map(|range| range.clone().step_by(size as usize));
        let (mut states, mut extents) = (Vec::with_capacity(places.len()), Vec::<Extent>::new());
        for place in places {
            let host = match place.state.host {
                _ if top.external_data_file_bit() => place.guest,
                Some(host) if place.ours => host,
                _ => new.next().unwrap_or_default(),
            };
            let piece = offset.max(place.guest)..end.min(place.guest + size);
            let at = (piece.start - offset) as usize;
            let data = &buf[at..at + (piece.end - piece.start) as usize];
            if data.len() as u64 == size {
                let next = Extent { host, at, length: data.len() };
                match extents.last_mut() {
                    Some(last) if last.host + last.length as u64 == host && last.at + last.length == at => {
                        last.length += next.length;
                    }
                    _ => extents.push(next),
                }
                let data = top.geometry().subcluster_mask();
                states.push(State { host: Some(host), data, zero: 0, compressed: None });
            } else {
                states.push(write_part(image, top, place, host, piece, data)?);
            }
        }
        for extent in extents {
            top.data_file()?.write_all(&buf[extent.at..extent.at + extent.length], extent.host)?;
        }
        Ok(states)
    }
}

/// Writes `data` to a part of a cluster, at `host`; what its subclusters hold beside it is copied where it is not
/// there yet. Returns what the cluster is then. The part may lie behind the end of the disk.
pub(super) fn write_part(
    image: &Image,
    top: &Qcow2,
    place: &Place,
    host: u64,
    part: Range<u64>,
    data: &[u8],
) -> Result<State> {
    let geometry = top.geometry();
    let old = place.state;
    let touched = subclusters_in(geometry, place.guest, &part);
    // These are written as a whole.
    let filled = match (place.ours, old.compressed) {
        (true, _) => touched & !old.data,
        (false, None) => touched | old.data,
        (false, Some(_)) => geometry.subcluster_mask(),
    };
    let size = 1 << geometry.subcluster_bits();
    let inside = (part.start - place.guest) as usize;
    let mut content = memory::zeroed(geometry.cluster_size() as usize)?;
    for start in subclusters(filled).map(|index| u64::from(index) * size) {
        let guest = place.guest + start;
        let length = image.size().saturating_sub(guest).min(size);
        let covered = part.start <= guest && guest + length <= part.end;
        if !covered && length > 0 {
            image.read_at(&mut content[start as usize..(start + length) as usize], guest)?;
        }
    }
    content[inside..inside + data.len()].copy_from_slice(data);

    let mut next: Range<u64> = 0..0;
    for index in subclusters(filled | touched) {
        let whole = u64::from(index) * size..(u64::from(index) + 1) * size;
        let range = match filled >> index & 1 {
            1 => whole,
            _ => whole.start.max(inside as u64)..whole.end.min(inside as u64 + data.len() as u64),
        };
        if next.end != range.start {
            write_range(top, &content, host, &next)?;
            next.start = range.start;
        }
        next.end = range.end;
    }
    write_range(top, &content, host, &next)?;
    let data = old.data | touched | filled;
    Ok(State { host: Some(host), data, zero: old.zero & !data, compressed: None })
}

fn write_range(top: &Qcow2, content: &[u8], host: u64, range: &Range<u64>) -> Result<()> {
    if range.is_empty() {
        return Ok(());
    }
    top.data_file()?.write_all(&content[range.start as usize..range.end as usize], host + range.start)
}

fn subclusters(mask: u32) -> impl Iterator<Item = u32> {
    (0..32).filter(move |index| mask >> index & 1 == 1)
}

/// The subclusters of the cluster at `guest` that a part of it touches.
pub(super) fn subclusters_in(geometry: &Geometry, guest: u64, part: &Range<u64>) -> u32 {
    let bits = geometry.subcluster_bits();
    mask((part.start - guest) >> bits..(part.end - guest).div_ceil(1 << bits))
}

/// The subclusters of the cluster at `guest` that a part of it covers, the end of the disk ending them too.
pub(super) fn subclusters_covered(geometry: &Geometry, guest: u64, part: &Range<u64>, disk: u64) -> u32 {
    let bits = geometry.subcluster_bits();
    let last =
        if part.end == disk { (part.end - guest).div_ceil(1 << bits) } else { (part.end - guest) >> bits };
    mask((part.start - guest).div_ceil(1 << bits)..last)
}

fn mask(range: Range<u64>) -> u32 {
    if range.is_empty() {
        return 0;
    }
    (u64::MAX << range.start & !(u64::MAX << range.end)) as u32
}
