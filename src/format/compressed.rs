//! Compressed clusters: streams into exactly one cluster, and back.

use zstd::zstd_safe::{self, CCtx, CParameter, DCtx, DParameter, InBuffer, OutBuffer, ResetDirective};

use super::header::CompressionType;
use crate::{
    error::{Error, ErrorKind, Result},
    memory,
};

/// Largest zstd window that is accepted, as a power of two: what the largest cluster could need, doubled.
const MAX_ZSTD_WINDOW_BITS: u32 = 23;

/// What a deflate stream takes at most: the window, hash chains and the pending output, whatever the level.
const DEFLATE_MEMORY: usize = 512 << 10;

/// What a zstd stream for clusters takes at the usual levels. A stronger one may take more, and may be refused that.
const ZSTD_MEMORY: usize = 2 << 20;

fn no_context() -> Error {
    Error::new(ErrorKind::NoMemory, "the system has no memory to give for a zstd stream")
}

/// Inflates clusters of one compression type; keeps its buffers for the next cluster.
pub(crate) enum Decoder {
    Zlib(Box<flate2::Decompress>),
    Zstd(DCtx<'static>),
}

impl std::fmt::Debug for Decoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Decoder")
    }
}

impl Decoder {
    pub(crate) fn new(kind: CompressionType) -> Result<Self> {
        Ok(match kind {
            CompressionType::Zlib => {
                memory::ensure(DEFLATE_MEMORY)?;
                Decoder::Zlib(Box::new(flate2::Decompress::new(false)))
            }
            CompressionType::Zstd => {
                let mut context = DCtx::try_create().ok_or_else(no_context)?;
                // Refusing the parameter would only mean the decoder's own, larger limit.
                let _ = context.set_parameter(DParameter::WindowLogMax(MAX_ZSTD_WINDOW_BITS));
                Decoder::Zstd(context)
            }
        })
    }

    /// Fills `output`, one whole cluster, from the stream at the start of `input`; what follows the stream is
    /// ignored, as the true end of a stream is not recorded. Returns the stream's length, or `None` for a stream
    /// that is broken or ends too early.
    pub(crate) fn inflate(&mut self, input: &[u8], output: &mut [u8]) -> Option<usize> {
        match self {
            Decoder::Zlib(stream) => {
                stream.reset(false);
                // One call into the whole cluster; a stream that would go on is cut, as QEMU does.
                let status = stream.decompress(input, output, flate2::FlushDecompress::Finish).ok()?;
                let length = match status {
                    flate2::Status::StreamEnd => stream.total_in() as usize,
                    _ => input.len(),
                };
                (stream.total_out() == output.len() as u64).then_some(length)
            }
            Decoder::Zstd(context) => inflate_zstd(context, input, output),
        }
    }
}

/// Several frames may follow each other until the cluster is full.
fn inflate_zstd(context: &mut DCtx<'_>, input: &[u8], output: &mut [u8]) -> Option<usize> {
    context.reset(ResetDirective::SessionOnly).ok()?;
    let mut from = InBuffer::around(input);
    let mut to = OutBuffer::around(output);
    let mut unfinished = 0;
    while to.pos() < to.capacity() {
        let before = (from.pos(), to.pos());
        unfinished = match context.decompress_stream(&mut to, &mut from) {
            Ok(hint) if before != (from.pos(), to.pos()) => hint,
            _ => return None,
        };
    }
    // A frame that has more than fits is no cluster.
    (unfinished == 0).then_some(from.pos())
}

/// Compresses clusters; keeps its buffers for the next cluster.
pub(crate) enum Encoder {
    Zlib(Box<flate2::Compress>),
    Zstd(CCtx<'static>),
}

impl std::fmt::Debug for Encoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Encoder")
    }
}

impl Encoder {
    /// `level` as the library counts: zlib 1 to 9, zstd 1 to 19.
    pub(crate) fn new(kind: CompressionType, level: u32) -> Result<Self> {
        Ok(match kind {
            CompressionType::Zlib => {
                // QEMU inflates with a 4 KiB window, so no distance may be longer. The backend's level 1 is made
                // for larger windows and fails with this one.
                let level = flate2::Compression::new(level.max(2));
                memory::ensure(DEFLATE_MEMORY)?;
                Encoder::Zlib(Box::new(flate2::Compress::new_with_window_bits(level, false, 12)))
            }
            CompressionType::Zstd => {
                // It takes most of its memory with the first cluster.
                memory::ensure(ZSTD_MEMORY)?;
                let mut context = CCtx::try_create().ok_or_else(no_context)?;
                let _ = context.set_parameter(CParameter::CompressionLevel(level as i32));
                Encoder::Zstd(context)
            }
        })
    }

    /// About how many bytes of memory it holds, once it has been used.
    pub(crate) fn memory(&self) -> usize {
        match self {
            Encoder::Zlib(_) => DEFLATE_MEMORY,
            Encoder::Zstd(context) => context.sizeof().max(1),
        }
    }

    /// Appends `input`, one whole cluster, compressed to `output`. False, and nothing appended, when it does
    /// not become smaller.
    pub(crate) fn deflate(&mut self, input: &[u8], output: &mut Vec<u8>) -> Result<bool> {
        let start = output.len();
        let length = match self {
            Encoder::Zlib(stream) => {
                // Room for whatever comes out: a stream that was stopped halfway cannot be used again.
                memory::grow(output, start + input.len() + input.len() / 4 + 64)?;
                stream.reset();
                let status = stream.compress(input, &mut output[start..], flate2::FlushCompress::Finish);
                let length = stream.total_out() as usize;
                let done = matches!(status, Ok(flate2::Status::StreamEnd));
                (done && length < input.len()).then_some(length)
            }
            Encoder::Zstd(context) => {
                memory::grow(output, start + input.len() - 1)?;
                zstd_safe::CCtx::compress2(context, &mut output[start..], input).ok()
            }
        };
        output.truncate(start + length.unwrap_or(0));
        Ok(length.is_some())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(length: usize) -> Vec<u8> {
        (0..length).flat_map(|i| format!("{} ", i * i % 977).into_bytes()).take(length).collect()
    }

    #[test]
    fn what_goes_in_comes_out() {
        for kind in [CompressionType::Zlib, CompressionType::Zstd] {
            let (mut encoder, mut decoder) = (Encoder::new(kind, 3).unwrap(), Decoder::new(kind).unwrap());
            for cluster in [512, 65_536, 1 << 21] {
                let input = text(cluster);
                let mut packed = Vec::new();
                assert!(encoder.deflate(&input, &mut packed).unwrap(), "text compresses");
                let length = packed.len();
                let mut output = vec![0; cluster];
                // Bytes behind the stream do not matter.
                packed.resize(length + 100, 0xaa);
                assert_eq!(decoder.inflate(&packed, &mut output), Some(length));
                assert_eq!(output, input);
                assert_eq!(
                    decoder.inflate(&packed[..length / 2], &mut output),
                    None,
                    "a stream that is cut short"
                );
            }
        }
    }

    #[test]
    fn every_deflate_level_survives_data_that_does_not_shrink() {
        let mut state = 1u64;
        for level in 1..=9 {
            let mut encoder = Encoder::new(CompressionType::Zlib, level).unwrap();
            let mut decoder = flate2::Decompress::new_with_window_bits(false, 12);
            for round in 0..40 {
                let noisy = |i: usize| round % 2 == 0 || (i / 3000).is_multiple_of(2);
                let input: Vec<u8> = (0..65_536)
                    .map(|i| {
                        state = state
                            .wrapping_mul(6_364_136_223_846_793_005)
                            .wrapping_add(1_442_695_040_888_963_407);
                        if noisy(i) { (state >> 56) as u8 } else { (i % 7000 / 9) as u8 }
                    })
                    .collect();
                let mut packed = Vec::new();
                if !encoder.deflate(&input, &mut packed).unwrap() {
                    continue;
                }
                // Into a small buffer, so that the decoder has nothing but its window to look back into.
                decoder.reset(false);
                let (mut output, mut piece) = (Vec::new(), [0; 100]);
                while output.len() < input.len() {
                    let (read, written) = (decoder.total_in() as usize, decoder.total_out());
                    decoder.decompress(&packed[read..], &mut piece, flate2::FlushDecompress::None).unwrap();
                    output.extend_from_slice(&piece[..(decoder.total_out() - written) as usize]);
                }
                assert!(output == input, "level {level}");
            }
        }
    }

    #[test]
    fn what_does_not_shrink_is_left_alone() {
        let mut state = 1u64;
        let noise: Vec<u8> = std::iter::repeat_with(|| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 56) as u8
        })
        .take(4096)
        .collect();
        for kind in [CompressionType::Zlib, CompressionType::Zstd] {
            let mut packed = vec![1, 2, 3];
            assert!(!Encoder::new(kind, 3).unwrap().deflate(&noise, &mut packed).unwrap());
            assert_eq!(packed, [1, 2, 3]);
        }
    }

    #[test]
    fn a_zstd_frame_with_a_huge_window_is_refused() {
        // Magic, no single segment, window descriptor 0xa8: 2^31 bytes.
        let frame = [0x28, 0xb5, 0x2f, 0xfd, 0x00, 0xa8, 0x01, 0x00, 0x00];
        assert_eq!(Decoder::new(CompressionType::Zstd).unwrap().inflate(&frame, &mut [0; 512]), None);
    }
}
