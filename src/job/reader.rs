//! From the pieces of a batch to what is written: read, cut into zeros and data, and compressed.

use super::{
    BackupOptions, Compression, ZeroDetection,
    encoders::Encoders,
    plan::{Piece, PieceKind},
    work_item::Scratch,
};
use crate::{
    error::{ErrorKind, Result},
    format::header::CompressionType,
    image::{
        Image, Run,
        create::{Content, Item},
    },
    memory,
    storage::PageCache,
};

/// Reads for one copy, in as many threads as come along.
#[derive(Debug)]
pub(crate) struct Reader {
    /// Of the target.
    cluster_size: usize,
    /// Of a compressing copy.
    encoders: Option<Encoders>,
    zero_detection: ZeroDetection,
    page_cache: PageCache,
}

impl Reader {
    pub(crate) fn new(options: &BackupOptions, cluster_size: usize) -> Self {
        let encoders = match options.compression {
            Compression::None => None,
            Compression::Zlib { level } => Some(Encoders::new(CompressionType::Zlib, level.unwrap_or(6))),
            Compression::Zstd { level } => Some(Encoders::new(CompressionType::Zstd, level.unwrap_or(1))),
        };
        let BackupOptions { zero_detection, page_cache, .. } = *options;
        Reader { cluster_size, encoders, zero_detection, page_cache }
    }

    /// Reads pieces and says what becomes of them. What the items are about is in `scratch`: in `packed` of a
    /// compressing copy, else in `data`.
    pub(crate) fn read(
        &self,
        image: &Image,
        pieces: &[Piece],
        scratch: &mut Scratch,
        items: &mut Vec<Item>,
    ) -> Result<()> {
        items.clear();
        scratch.data.clear();
        scratch.packed.clear();
        pieces.iter().try_for_each(|piece| self.load(image, piece, scratch, items))
    }

    /// A compressing copy collects what it writes, streams and all, in a buffer of its own.
    pub(crate) fn is_packing(&self) -> bool {
        self.encoders.is_some()
    }

    /// Reads one piece and says what becomes of it.
    fn load(&self, image: &Image, piece: &Piece, scratch: &mut Scratch, items: &mut Vec<Item>) -> Result<()> {
        match &piece.kind {
            PieceKind::Zero => {
                items.push(Item { guest: piece.guest, length: piece.length, content: Content::Zero });
                Ok(())
            }
            PieceKind::Shared(_) => {
                items.push(Item { guest: piece.guest, length: piece.length, content: Content::Shared });
                Ok(())
            }
            PieceKind::Data(runs) => {
                let start = scratch.data.len();
                memory::grow(&mut scratch.data, start + piece.length as usize)?;
                self.read_runs(image, runs, &mut scratch.data[start..])?;
                self.sort_out(piece.guest, start, scratch, items)
            }
            PieceKind::Streams { depth } => {
                for guest in (piece.guest..piece.guest + piece.length).step_by(self.cluster_size) {
                    self.take_stream(image, *depth, guest, scratch, items)?;
                }
                Ok(())
            }
        }
    }

    fn read_runs(&self, image: &Image, runs: &[Run], buf: &mut [u8]) -> Result<()> {
        let mut at = 0;
        for run in runs {
            let end = at + run.length as usize;
            image.read_run(run, &mut buf[at..end], self.page_cache)?;
            at = end;
        }
        // What lies behind the end of the disk in its last cluster.
        buf[at..].fill(0);
        Ok(())
    }

    /// Cuts data from `start` on into zeros, streams and data.
    fn sort_out(&self, guest: u64, start: usize, scratch: &mut Scratch, items: &mut Vec<Item>) -> Result<()> {
        let Scratch { data, packed, .. } = scratch;
        for (index, cluster) in data[start..].chunks(self.cluster_size).enumerate() {
            let offset = index * self.cluster_size;
            let content = if self.zero_detection == ZeroDetection::On && is_zero(cluster) {
                Content::Zero
            } else if let Some(encoders) = &self.encoders {
                Self::pack(encoders, cluster, packed)?
            } else {
                Content::Data { at: start + offset }
            };
            push(items, Item { guest: guest + offset as u64, length: cluster.len() as u64, content });
        }
        if self.is_packing() {
            data.truncate(start);
        }
        Ok(())
    }

    /// Appends a cluster to `packed`, compressed if that makes it smaller.
    fn pack(encoders: &Encoders, cluster: &[u8], packed: &mut Vec<u8>) -> Result<Content> {
        let at = packed.len();
        if encoders.with(|encoder| encoder.deflate(cluster, packed))? {
            return Ok(Content::Stream { at, length: packed.len() - at });
        }
        memory::reserve(packed, cluster.len())?;
        packed.extend_from_slice(cluster);
        Ok(Content::Data { at })
    }

    /// Takes a compressed cluster over as it is.
    fn take_stream(
        &self,
        image: &Image,
        depth: usize,
        guest: u64,
        scratch: &mut Scratch,
        items: &mut Vec<Item>,
    ) -> Result<()> {
        let layer = image.layer(depth)?;
        let stream = layer.compressed_at(guest)?;
        let (Some(stream), Some(file)) = (stream, layer.qcow2()) else {
            let text = format!("the image changed under us at guest offset {guest:#x}");
            return Err(layer.file().error(ErrorKind::Corrupt, text));
        };
        let length = self.cluster_size as u64;
        // Inflated all the same, though not compressed again: a backup of a damaged stream would be found out only
        // when it is needed, and only the inflated stream tells where it ends.
        let start = scratch.data.len();
        memory::grow(&mut scratch.data, start + self.cluster_size)?;
        file.inflate(guest, stream, &mut scratch.stream, &mut scratch.data[start..], self.page_cache)?;
        if scratch.stream.len() >= self.cluster_size {
            return self.sort_out(guest, start, scratch, items);
        }
        scratch.data.truncate(start);
        let content = Content::Stream { at: scratch.packed.len(), length: scratch.stream.len() };
        scratch.packed.extend_from_slice(&scratch.stream);
        push(items, Item { guest, length, content });
        Ok(())
    }
}

/// Appends an item, joined with the last one where they are alike.
fn push(items: &mut Vec<Item>, next: Item) {
    if let Some(last) = items.last_mut() {
        let joins = match (last.content, next.content) {
            (Content::Zero, Content::Zero) => true,
            (Content::Data { at }, Content::Data { at: next }) => at + last.length as usize == next,
            _ => false,
        };
        if joins && last.guest + last.length == next.guest {
            last.length += next.length;
            return;
        }
    }
    items.push(next);
}

/// Whether all bytes are zero. Most data shows at once that it is not.
pub(crate) fn is_zero(data: &[u8]) -> bool {
    data.chunks(256).all(|chunk| chunk.iter().fold(0, |all, byte| all | byte) == 0)
}
