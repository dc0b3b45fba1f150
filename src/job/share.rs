//! Data that the target shares with the files of the source instead of getting a copy of it ([`Reflink`]).
//!
//! What can be shared is known in two steps. Before the copying, [`Sharing::find`] lets the empty target share a block with
//! each file of the source, and takes that back: so it is known which files can share, whatever kind of file system they are
//! on. Then the planner asks [`Sharing::takes`] about each run, by its place alone.
//!
//! Sharing can fail all the same, for one range: with [`Reflink::Auto`] that is copied.

use std::ops::Range;

use super::{
    BackupOptions, Compression, Reflink,
    plan::{Piece, PieceKind},
    policy::Trouble,
};
use crate::{
    error::{Error, ErrorKind, Result},
    image::{
        Image, Mapping, Run,
        create::{Extent, Origin, Target},
    },
    memory,
    storage::{File, PageCache},
};

/// What is copied after all is copied in parts of this size.
const COPY_BYTES: u64 = 1 << 20;

/// Which data is shared.
#[derive(Clone, Debug)]
pub(crate) struct Sharing {
    /// Bytes of a block: places and lengths are multiples of it.
    unit: u64,
    /// For each layer of the source, whether its data can be shared.
    layers: Vec<bool>,
    /// What cannot be shared is an error.
    must: bool,
    page_cache: PageCache,
}

/// What became of data that was to be shared, in bytes.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Stored {
    pub(crate) shared: u64,
    pub(crate) copied: u64,
}

/// What helps who asked for what cannot be.
const REMEDY: &str = "reflink=always needs source and target on one file system that shares blocks, such as XFS or btrfs; use \
                      reflink=auto to copy what cannot be shared";

/// Refuses what contradicts itself.
pub(crate) fn check_options(options: &BackupOptions) -> Result<()> {
    if options.reflink == Reflink::Always && options.compression != Compression::None {
        let text = "reflink=always and compression exclude each other: what is shared is stored as it is in the source";
        return Err(Error::new(ErrorKind::InvalidArgument, text));
    }
    Ok(())
}

impl Sharing {
    /// What an empty target can share with the files of `image`; `None` for nothing.
    pub(crate) fn find(options: &BackupOptions, image: &Image, target: &File) -> Result<Option<Sharing>> {
        let must = match options.reflink {
            Reflink::Never => return Ok(None),
            Reflink::Auto if options.compression != Compression::None => return Ok(None),
            Reflink::Auto => false,
            Reflink::Always => true,
        };
        let Some(unit) = target.clone_unit()? else {
            let text = format!("the target can share no blocks; {REMEDY}");
            return if must { Err(target.error(ErrorKind::Unsupported, text)) } else { Ok(None) };
        };
        let mut layers = Vec::new();
        for depth in 0..image.layer_count() {
            // What has to be opened for it is not looked at when nothing above it can share.
            let can = (must || depth < image.staying_count() || layers.contains(&true))
                && match try_out(image.layer(depth)?.data_file()?, target, unit) {
                    Err(error) if must => return Err(error.and_also(REMEDY)),
                    tried => tried.is_ok(),
                };
            layers.push(can);
        }
        Ok(layers.contains(&true).then_some(Sharing { unit, layers, must, page_cache: options.page_cache }))
    }

    /// The size of the target's clusters, where it can share: that of a raw target, which has none, can be chosen.
    pub(crate) fn cluster_size(&self, target: &File, cluster_size: u64, is_raw: bool) -> Result<Option<u64>> {
        if is_raw || cluster_size >= self.unit {
            return Ok(Some(cluster_size.max(self.unit)));
        }
        if !self.must {
            return Ok(None);
        }
        let text = format!(
            "clusters of {cluster_size} bytes are smaller than the blocks of {} bytes that can be shared; use larger clusters, or \
             reflink=auto",
            self.unit
        );
        Err(target.error(ErrorKind::Unsupported, text))
    }

    /// Whether a run of whole clusters of the target can be shared.
    pub(crate) fn takes(&self, run: &Run) -> bool {
        match run.mapping {
            Mapping::Data { host, hole: false } => {
                // The target's clusters lie as the guest's do.
                self.layers[run.depth]
                    && run.start.is_multiple_of(self.unit)
                    && host.is_multiple_of(self.unit)
            }
            _ => false,
        }
    }

    /// Whether a cluster that consists of these runs can be shared. What is less than a block is only at the end of data.
    pub(crate) fn takes_all(&self, runs: &[Run]) -> bool {
        let mut next = runs.iter().skip(1);
        runs.iter().all(|run| {
            let ends = next.next().is_none_or(Run::zero);
            run.zero() || self.takes(run) && (ends || run.end().is_multiple_of(self.unit))
        })
    }

    /// Refuses to copy data, where all is to be shared.
    pub(crate) fn refuse(&self, image: &Image, runs: &[Run]) -> Result<()> {
        if !self.must {
            return Ok(());
        }
        let run = runs.iter().find(|run| !run.zero() && !self.takes_all(&[**run])).or(runs.first());
        let Some(run) = run else { return Ok(()) };
        let why = match run.mapping {
            Mapping::Compressed => "is compressed",
            _ if !self.layers[run.depth] => "lies in a file that shares no blocks with the target",
            _ => {
                "lies askew in the blocks of the file system, or in parts that are smaller than a cluster of the target"
            }
        };
        let text = format!(
            "what the disk has at offset {} cannot be shared: it {why}; use reflink=auto to copy it",
            run.start
        );
        Err(image.layer(run.depth)?.file().error(ErrorKind::Unsupported, text))
    }

    /// Gives the placed pieces that are to be shared their data.
    pub(crate) fn store(
        &self,
        image: &Image,
        target: &Target,
        pieces: &[Piece],
        extents: &[Extent],
    ) -> Result<Stored, Trouble> {
        let mut stored = Stored::default();
        for extent in extents {
            let Origin::Guest(start) = extent.origin else { continue };
            let range = start..start + extent.length as u64;
            let first = pieces.partition_point(|piece| piece.guest + piece.length <= start);
            for piece in pieces[first..].iter().take_while(|piece| piece.guest < range.end) {
                let PieceKind::Shared(runs) = &piece.kind else { continue };
                for run in runs.iter().filter_map(|run| clip(run, &range)) {
                    self.store_run(image, target, &run, extent.host + (run.start - start), &mut stored)?;
                }
            }
        }
        Ok(stored)
    }

    /// The same for one run, whose place is `host`. What reads as zero stays a hole of the target, which was never written.
    fn store_run(
        &self,
        image: &Image,
        target: &Target,
        run: &Run,
        host: u64,
        stored: &mut Stored,
    ) -> Result<(), Trouble> {
        let Mapping::Data { host: from, hole: false } = run.mapping else { return Ok(()) };
        let layer = image.layer(run.depth).map_err(Trouble::source)?;
        let file = layer.data_file().map_err(Trouble::source)?;
        // A last cluster that the file cuts short ends in zeros.
        let length = run.length.min(file.len().map_err(Trouble::source)?.saturating_sub(from));
        let whole = length - length % self.unit;
        let mut shared = 0;
        if whole > 0 {
            match target.clone_range(file, from, whole, host) {
                Ok(()) => shared = whole,
                Err(error) if self.must => return Err(Trouble::target(error)),
                // Reading and writing say what is truly broken, and what is done in part is done again.
                Err(_) => {}
            }
        }
        copy((image, self.page_cache), target, run, shared..length, host)?;
        stored.shared += shared;
        stored.copied += length - shared;
        Ok(())
    }
}

/// Lets the target share the first block of a file, behind its own first one, and takes it back.
fn try_out(file: &File, target: &File, unit: u64) -> Result<()> {
    let length = file.len()?.min(unit);
    if length == 0 {
        return Ok(());
    }
    match target.clone_range(file, 0, length, unit) {
        // Nothing has changed.
        Err(error) if error.kind() == ErrorKind::Unsupported => Err(error),
        tried => target.set_len(0).and(tried),
    }
}

/// The part of a run that lies in a guest range.
fn clip(run: &Run, range: &Range<u64>) -> Option<Run> {
    let (start, end) = (run.start.max(range.start), run.end().min(range.end));
    let length = end.checked_sub(start).filter(|length| *length > 0)?;
    Some(Run { start, length, mapping: run.mapping.advance(start - run.start), ..*run })
}

/// Copies a part of a run.
fn copy(
    (image, cache): (&Image, PageCache),
    target: &Target,
    run: &Run,
    part: Range<u64>,
    host: u64,
) -> Result<(), Trouble> {
    let mut buffer = Vec::new();
    for at in part.clone().step_by(COPY_BYTES as usize) {
        let length = COPY_BYTES.min(part.end - at);
        let piece = Run { start: run.start + at, length, mapping: run.mapping.advance(at), ..*run };
        memory::grow(&mut buffer, length as usize)
            .and_then(|()| image.read_run(&piece, &mut buffer[..length as usize], cache))
            .map_err(Trouble::source)?;
        target.write_at(&buffer[..length as usize], host + at).map_err(Trouble::target)?;
    }
    Ok(())
}
