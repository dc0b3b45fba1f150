//! Compressed clusters: streams into exactly one cluster, and back.

use zstd::zstd_safe::{self, CCtx, CParameter, DCtx, DParameter, InBuffer, OutBuffer, ResetDirective};

use super::header::CompressionType;

/// Largest zstd window that is accepted, as a power of two: what the largest cluster could need, doubled.
const MAX_ZSTD_WINDOW_BITS: u32 = 23;

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
    pub(crate) fn new(kind: CompressionType) -> Self {
        match kind {
            CompressionType::Zlib => Decoder::Zlib(Box::new(flate2::Decompress::new(false))),
            CompressionType::Zstd => {
                let mut context = DCtx::create();
                // Refusing the parameter would only mean the decoder's own, larger limit.
                let _ = context.set_parameter(DParameter::WindowLogMax(MAX_ZSTD_WINDOW_BITS));
                Decoder::Zstd(context)
            }
        }
    }

    /// Fills `output`, one whole cluster, from the stream at the start of `input`; what follows the stream is
    /// ignored, as the true end of a stream is not recorded. Returns false for a stream that is broken or ends
    /// too early.
    pub(crate) fn inflate(&mut self, input: &[u8], output: &mut [u8]) -> bool {
        match self {
            Decoder::Zlib(stream) => {
                stream.reset(false);
                // One call into the whole cluster; a stream that would go on is cut, as QEMU does.
                let done = stream.decompress(input, output, flate2::FlushDecompress::Finish);
                done.is_ok() && stream.total_out() == output.len() as u64
            }
            Decoder::Zstd(context) => inflate_zstd(context, input, output),
        }
    }
}

/// Several frames may follow each other until the cluster is full.
fn inflate_zstd(context: &mut DCtx<'_>, input: &[u8], output: &mut [u8]) -> bool {
    if context.reset(ResetDirective::SessionOnly).is_err() {
        return false;
    }
    let mut from = InBuffer::around(input);
    let mut to = OutBuffer::around(output);
    let mut unfinished = 0;
    while to.pos() < to.capacity() {
        let before = (from.pos(), to.pos());
        unfinished = match context.decompress_stream(&mut to, &mut from) {
            Ok(hint) if before != (from.pos(), to.pos()) => hint,
            _ => return false,
        };
    }
    // A frame that has more than fits is no cluster.
    unfinished == 0
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
    pub(crate) fn new(kind: CompressionType, level: u32) -> Self {
        match kind {
            CompressionType::Zlib => {
                // QEMU inflates with a 4 KiB window, so no distance may be longer.
                let level = flate2::Compression::new(level);
                Encoder::Zlib(Box::new(flate2::Compress::new_with_window_bits(level, false, 12)))
            }
            CompressionType::Zstd => {
                let mut context = CCtx::create();
                let _ = context.set_parameter(CParameter::CompressionLevel(level as i32));
                Encoder::Zstd(context)
            }
        }
    }

    /// Compresses `input`, one whole cluster, into `output`. `None` when it does not become smaller than
    /// `output`.
    pub(crate) fn deflate(&mut self, input: &[u8], output: &mut [u8]) -> Option<usize> {
        match self {
            Encoder::Zlib(stream) => {
                stream.reset();
                let status = stream.compress(input, output, flate2::FlushCompress::Finish).ok()?;
                (status == flate2::Status::StreamEnd).then_some(stream.total_out() as usize)
            }
            Encoder::Zstd(context) => zstd_safe::CCtx::compress2(context, output, input).ok(),
        }
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
            let (mut encoder, mut decoder) = (Encoder::new(kind, 3), Decoder::new(kind));
            for cluster in [512, 65_536, 1 << 21] {
                let input = text(cluster);
                let mut packed = vec![0; cluster];
                let length = encoder.deflate(&input, &mut packed).expect("text compresses");
                let mut output = vec![0; cluster];
                // Bytes behind the stream do not matter.
                assert!(decoder.inflate(&packed[..(length + 100).min(cluster)], &mut output));
                assert_eq!(output, input);
                assert!(!decoder.inflate(&packed[..length / 2], &mut output), "a stream that is cut short");
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
            assert_eq!(Encoder::new(kind, 3).deflate(&noise, &mut [0; 4095]), None);
        }
    }

    #[test]
    fn a_zstd_frame_with_a_huge_window_is_refused() {
        // Magic, no single segment, window descriptor 0xa8: 2^31 bytes.
        let frame = [0x28, 0xb5, 0x2f, 0xfd, 0x00, 0xa8, 0x01, 0x00, 0x00];
        assert!(!Decoder::new(CompressionType::Zstd).inflate(&frame, &mut [0; 512]));
    }
}
