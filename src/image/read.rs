//! Reading data through a chain.

use super::{Image, Layer, Mapping, Run};
use crate::{
    error::{Error, ErrorKind, Result},
    memory,
    storage::{File, PageCache},
};

impl Image {
    /// Fills `buf` from guest offset `offset`; the range must lie in the disk.
    pub(crate) fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        self.check_range(buf.len() as u64, offset)?;
        for run in self.runs(offset..offset + buf.len() as u64) {
            let run = run?;
            let start = (run.start - offset) as usize;
            self.read_run(&run, &mut buf[start..start + run.length as usize], PageCache::Keep)?;
        }
        Ok(())
    }

    /// Refuses a range that does not lie in the disk.
    pub(crate) fn check_range(&self, length: u64, offset: u64) -> Result<()> {
        match offset.checked_add(length) {
            Some(end) if end <= self.size() => Ok(()),
            _ => {
                let text = format!(
                    "'{}': {length} bytes at offset {offset} do not lie in the disk of {} bytes",
                    self.path().display(),
                    self.size()
                );
                Err(Error::new(ErrorKind::InvalidArgument, text))
            }
        }
    }

    /// Fills `buf` with the data of a run, whose length it has.
    pub(crate) fn read_run(&self, run: &Run, buf: &mut [u8], cache: PageCache) -> Result<()> {
        match run.mapping {
            Mapping::Unallocated { .. } | Mapping::Zero { .. } | Mapping::Data { hole: true, .. } => {
                buf.fill(0);
                Ok(())
            }
            Mapping::Data { host, hole: false } => {
                read_data(self.layer(run.depth)?.data_file()?, buf, host, cache)
            }
            Mapping::Compressed => self.layer(run.depth)?.read_compressed(buf, run.start, cache),
        }
    }
}

/// A last cluster or sector that the file cuts short ends in zeros; the map has checked that there is no more
/// to it than that.
fn read_data(file: &File, buf: &mut [u8], host: u64, cache: PageCache) -> Result<()> {
    let got = file.read_through(cache, buf, host)?;
    buf[got..].fill(0);
    Ok(())
}

impl Layer {
    fn read_compressed(&self, mut buf: &mut [u8], mut offset: u64, cache: PageCache) -> Result<()> {
        let Some(image) = self.qcow2() else { return Ok(()) };
        let geometry = image.geometry();
        let cluster_size = geometry.cluster_size();
        let (mut packed, mut scratch) = (Vec::new(), Vec::new());
        while !buf.is_empty() {
            let start = geometry.cluster_start(offset);
            let inside = (offset - start) as usize;
            let count = buf.len().min(cluster_size as usize - inside);
            let (part, rest) = buf.split_at_mut(count);
            let Some(stream) = image.compressed_at(offset)? else {
                let text = format!("the image changed under us at guest offset {offset:#x}");
                return Err(image.file().error(ErrorKind::Corrupt, text));
            };
            if count as u64 == cluster_size {
                image.inflate(start, stream, &mut packed, part, cache)?;
            } else {
                memory::grow(&mut scratch, cluster_size as usize)?;
                image.inflate(start, stream, &mut packed, &mut scratch, cache)?;
                part.copy_from_slice(&scratch[inside..inside + count]);
            }
            buf = rest;
            offset += count as u64;
        }
        Ok(())
    }
}
