//! The map of a whole chain: which layer decides each guest byte.

use std::{ops::Range, sync::Arc};

use super::{Image, Mapping, Run, file_extents::FileExtents};
use crate::error::Result;

impl Image {
    /// The runs of a guest range (clipped to the disk), in order, as each layer's tables give them. Reads
    /// tables, never data.
    pub(crate) fn runs(&self, range: Range<u64>) -> Runs<'_> {
        Runs { image: self, walk: Walk::new(self, range) }
    }

    /// The same with neighbours joined that differ in nothing that a reader sees.
    pub(crate) fn map(self: &Arc<Self>, range: Range<u64>) -> Map {
        Map { image: self.clone(), walk: Walk::new(self, range), held: None }
    }
}

/// Iterator over the runs of a range; after an error it ends.
#[derive(Debug)]
pub(crate) struct Runs<'a> {
    image: &'a Image,
    walk: Walk,
}

/// A walk over the runs of a range, for those who cannot borrow the image all the way.
#[derive(Debug)]
pub(crate) struct Walk {
    at: u64,
    end: u64,
    /// For each layer the run found last: a layer's long run is looked up once, not once for every short run
    /// of the layers beside it.
    cursors: Vec<Option<Cursor>>,
    /// For each layer what its file said last.
    extents: Vec<FileExtents>,
}

#[derive(Clone, Debug)]
struct Cursor {
    range: Range<u64>,
    mapping: Mapping,
}

impl Walk {
    /// Over a guest range, clipped to the disk.
    pub(crate) fn new(image: &Image, range: Range<u64>) -> Self {
        let end = range.end.min(image.size());
        let count = image.layer_count();
        let (cursors, extents) = (vec![None; count], vec![FileExtents::default(); count]);
        Walk { at: range.start.min(end), end, cursors, extents }
    }

    /// The next run of `image`, which must be the same in each call.
    pub(crate) fn next(&mut self, image: &Image) -> Option<Result<Run>> {
        if self.at >= self.end {
            return None;
        }
        let run = self.next_run(image);
        self.at = run.as_ref().map_or(self.end, Run::end);
        Some(run)
    }

    fn next_run(&mut self, image: &Image) -> Result<Run> {
        let start = self.at;
        let mut run =
            Run { start, length: self.end - start, depth: 0, mapping: Mapping::Unallocated { host: None } };
        for depth in 0..image.layer_count() {
            let size = image.size_of(depth);
            if start >= size {
                // The layer above is longer: what it does not have itself is zero.
                break;
            }
            let (mapping, length) = self.map_layer(image, depth, start, run.length.min(size - start))?;
            run = Run { start, length, depth, mapping };
            if run.present() {
                break;
            }
        }
        Ok(run)
    }

    fn map_layer(&mut self, image: &Image, depth: usize, start: u64, length: u64) -> Result<(Mapping, u64)> {
        if let Some(Cursor { range, mapping }) = &self.cursors[depth]
            && range.contains(&start)
        {
            return Ok((mapping.advance(start - range.start), length.min(range.end - start)));
        }
        let (mapping, found) = image.layer(depth)?.map_at(start, length, &mut self.extents[depth])?;
        self.cursors[depth] = Some(Cursor { range: start..start + found, mapping });
        Ok((mapping, found))
    }
}

impl Iterator for Runs<'_> {
    type Item = Result<Run>;

    fn next(&mut self) -> Option<Result<Run>> {
        self.walk.next(self.image)
    }
}

/// Iterator over the joined runs of a guest range, ascending and without gaps; after an error it ends.
#[derive(Debug)]
pub struct Map {
    image: Arc<Image>,
    walk: Walk,
    held: Option<Run>,
}

impl Iterator for Map {
    type Item = Result<Run>;

    fn next(&mut self) -> Option<Result<Run>> {
        while let Some(run) = self.walk.next(&self.image) {
            let run = match run {
                Ok(run) => run,
                Err(error) => return Some(Err(error)),
            };
            match &mut self.held {
                Some(held) if held.depth == run.depth && held.mapping.continues(held.length, run.mapping) => {
                    held.length += run.length;
                }
                held => {
                    if let Some(done) = held.replace(run) {
                        return Some(Ok(done));
                    }
                }
            }
        }
        self.held.take().map(Ok)
    }
}
