//! What lies in the disk's last cluster behind its end. Nobody sees it until the disk grows.

use super::{
    Writer,
    data::{subclusters_in, write_part},
    qcow2,
};
use crate::{error::Result, image::Image, memory};

impl Writer {
    /// Makes sure that the last cluster, where the disk ends inside it, reads as zero behind the end.
    pub(crate) fn zero_behind_the_end(&mut self, image: &Image) -> Result<()> {
        let top = qcow2(image)?;
        let geometry = top.geometry();
        let guest = geometry.cluster_start(image.size());
        let part = image.size()..guest + geometry.cluster_size();
        if guest == part.start {
            return Ok(());
        }
        let index = (guest / geometry.l2_coverage()) as usize;
        let shown_below = image.size_below().is_some_and(|below| below > image.size());
        if top.l1_entry(index) == 0 && !shown_below {
            return Ok(());
        }
        self.clusters.prepare_to_write(top)?;
        let table = self.table(top, guest)?;
        let place = self.place(top, table, guest)?;
        let touched = subclusters_in(geometry, guest, &part);
        let unallocated = touched & !place.state.data & !place.state.zero;
        if place.state.compressed.is_none()
            && place.state.data & touched == 0
            && (unallocated == 0 || !shown_below)
        {
            return Ok(());
        }
        let host = match place.state.host {
            _ if top.external_data_file_bit() => guest,
            Some(host) if place.ours => host,
            _ => self.clusters.allocate(1)?.start,
        };
        let zeros = memory::zeroed((part.end - part.start) as usize)?;
        let state = write_part(image, top, &place, host, part, &zeros)?;
        self.set(top, &place, state, true)
    }
}
