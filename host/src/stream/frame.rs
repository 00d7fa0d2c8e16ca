//! Frames: pieces of 2 MiB of plaintext, each a zstd frame of its own.
//!
//! Every zstd decoder reads them one after another as one stream. This module never encrypts and
//! never hashes. Format: RFC 8878; what a reader needs beyond it is in [`super::tail`].

use crate::error::{Error, Result};
use zstd_safe::{CCtx, CParameter, DCtx, ResetDirective};

/// Plaintext of a frame in bytes; only an artifact's last frame may hold less. A power of two, so
/// that each frame is a subtree of BLAKE3.
pub const FRAME_BYTES: usize = 2 << 20;

/// The largest frame at rest: `ZSTD_COMPRESSBOUND` of [`FRAME_BYTES`] (n + n/256 above 128 KiB),
/// which also covers raw frames (17 blocks of 3 bytes and a header of 9).
pub const MAX_FRAME_STORED_BYTES: usize = FRAME_BYTES + (FRAME_BYTES >> 8);

/// `Block_Maximum_Size` of RFC 8878, 3.1.1.2.4.
const MAX_BLOCK_BYTES: usize = 128 << 10;

/// `Magic_Number` of a zstd frame, RFC 8878, 3.1.1.
const FRAME_MAGIC: u32 = 0xFD2F_B528;

/// Bytes before the first block of a raw frame: magic, descriptor, content size in 4 bytes.
const RAW_HEADER_BYTES: usize = 9;

/// How the plaintext of frames is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// A zstd level; 1 to 3 are what `performance.md` measured, 2 is the default.
    Level(i32),
    /// A level that follows what the transfer waits for, see [`super::level`]. A frame by itself waits for
    /// nothing: it gets the default.
    Auto,
    /// Raw blocks: nothing is compressed, and the reader is the same.
    Raw,
}

impl Default for Compression {
    /// Level 2: a third faster than 3 for 1 % of size (`performance.md`).
    fn default() -> Self {
        Self::Level(2)
    }
}

/// Turns plaintext into frames. One per worker thread, used again for every frame.
pub struct FrameEncoder {
    context: CCtx<'static>,
    level: Option<i32>,
}

impl FrameEncoder {
    /// A context of about 1 MiB at levels 1 to 3.
    pub fn new() -> Self {
        Self { context: CCtx::create(), level: None }
    }

    /// Writes one frame of `plain` (at most [`FRAME_BYTES`]) to the start of `out`, which must hold
    /// [`MAX_FRAME_STORED_BYTES`], and returns its length. The header states the content's size.
    pub fn encode(&mut self, plain: &[u8], compression: Compression, out: &mut [u8]) -> Result<usize> {
        match compression {
            Compression::Raw => encode_raw(plain, out),
            Compression::Auto => self.encode(plain, Compression::default(), out),
            Compression::Level(level) => {
                if self.level != Some(level) {
                    self.context
                        .reset(ResetDirective::SessionAndParameters)
                        .and_then(|_| self.context.set_parameter(CParameter::CompressionLevel(level)))
                        .and_then(|_| self.context.set_parameter(CParameter::ContentSizeFlag(true)))
                        .and_then(|_| self.context.set_parameter(CParameter::ChecksumFlag(false)))
                        .map_err(|code| zstd_error(format!("could not set zstd level {level}"), code))?;
                    self.level = Some(level);
                }
                self.context.compress2(out, plain).map_err(|code| {
                    zstd_error(format!("could not compress a frame of {} bytes at level {level}", plain.len()), code)
                })
            }
        }
    }
}

impl Default for FrameEncoder {
    fn default() -> Self {
        Self::new()
    }
}

/// Turns frames back into plaintext. One per worker thread.
pub struct FrameDecoder {
    context: DCtx<'static>,
}

impl FrameDecoder {
    /// A context of about 160 KiB.
    pub fn new() -> Self {
        Self { context: DCtx::create() }
    }

    /// Decodes `stored` into `out`, which has exactly the length that the frame must have.
    ///
    /// Never writes beyond `out` and allocates nothing for what a frame claims. What was decoded is
    /// not proven until its chaining value was compared. Errors: `Damaged`.
    pub fn decode(&mut self, stored: &[u8], out: &mut [u8]) -> Result<()> {
        let expected = out.len();
        let got = self
            .context
            .decompress(out, stored)
            .map_err(|code| Error::damaged("a frame is not readable zstd").because(zstd_safe::get_error_name(code)))?;
        if got != expected {
            return Err(Error::damaged("a frame does not hold as many bytes as it must")
                .fact("expected", format!("{expected} bytes"))
                .fact("got", format!("{got} bytes")));
        }
        Ok(())
    }
}

impl Default for FrameDecoder {
    fn default() -> Self {
        Self::new()
    }
}

fn zstd_error(message: String, code: usize) -> Error {
    Error::failed(message).because(zstd_safe::get_error_name(code))
}

/// A frame of raw blocks, written by hand: libzstd has no way to ask for one.
fn encode_raw(plain: &[u8], out: &mut [u8]) -> Result<usize> {
    // An empty frame still has one (empty) block, because a frame ends at a block marked as last.
    let n_blocks = plain.len().div_ceil(MAX_BLOCK_BYTES).max(1);
    let total = RAW_HEADER_BYTES + 3 * n_blocks + plain.len();
    let content = u32::try_from(plain.len()).ok().filter(|n| *n as usize <= FRAME_BYTES);
    let (Some(content), Some(out)) = (content, out.get_mut(..total)) else {
        return Err(Error::failed(format!("a frame of {} bytes does not fit its buffer", plain.len())));
    };
    out[..4].copy_from_slice(&FRAME_MAGIC.to_le_bytes());
    // Frame_Content_Size_flag 2 (four bytes), Single_Segment_flag: the window is the content.
    out[4] = 0b1010_0000;
    out[5..RAW_HEADER_BYTES].copy_from_slice(&content.to_le_bytes());
    let mut at = RAW_HEADER_BYTES;
    for i in 0..n_blocks {
        let start = i * MAX_BLOCK_BYTES;
        let block = &plain[start..plain.len().min(start + MAX_BLOCK_BYTES)];
        let is_last = u32::from(i + 1 == n_blocks);
        let size = u32::try_from(block.len()).map_err(|_| Error::failed("a block is larger than 128 KiB"))?;
        // Block_Header: last block in bit 0, type 0 (raw) in bits 1 and 2, size above.
        out[at..at + 3].copy_from_slice(&(is_last | (size << 3)).to_le_bytes()[..3]);
        at += 3;
        out[at..at + block.len()].copy_from_slice(block);
        at += block.len();
    }
    Ok(at)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_context_stays_small_at_every_level_that_is_chosen_by_itself() {
        let mut encoder = FrameEncoder::new();
        let (plain, mut out) = (FRAME_BYTES_OF_TEXT.repeat(FRAME_BYTES / 16), vec![0; MAX_FRAME_STORED_BYTES]);
        for level in crate::stream::level::RANGE {
            encoder.encode(&plain, Compression::Level(level), &mut out).unwrap();
            let size = encoder.context.sizeof();
            assert!(size <= crate::stream::level::CONTEXT_BYTES, "{size} bytes at level {level}");
        }
    }

    /// 16 of them.
    const FRAME_BYTES_OF_TEXT: &[u8] = b"a line of a dump";

    fn check_round_trip(plain: &[u8], compression: Compression) {
        let mut stored = vec![0; MAX_FRAME_STORED_BYTES];
        let n = FrameEncoder::new().encode(plain, compression, &mut stored).unwrap();
        assert_eq!(zstd_safe::get_frame_content_size(&stored[..n]).unwrap(), Some(plain.len() as u64));
        let mut back = vec![0; plain.len()];
        FrameDecoder::new().decode(&stored[..n], &mut back).unwrap();
        assert!(back == plain, "{} bytes, {compression:?}", plain.len());
    }

    #[test]
    fn frames_of_every_kind_round_trip_at_every_border() {
        let noise: Vec<u8> = blake3::Hasher::new().finalize_xof_vec(FRAME_BYTES);
        for len in [0, 1, MAX_BLOCK_BYTES - 1, MAX_BLOCK_BYTES, MAX_BLOCK_BYTES + 1, FRAME_BYTES - 1, FRAME_BYTES] {
            for compression in [Compression::Raw, Compression::Level(1), Compression::Level(3), Compression::Level(19)]
            {
                check_round_trip(&noise[..len], compression);
                check_round_trip(&vec![7; len], compression);
            }
        }
    }

    #[test]
    fn a_frame_that_is_longer_or_shorter_than_it_must_be_is_refused() {
        let mut stored = vec![0; MAX_FRAME_STORED_BYTES];
        let n = FrameEncoder::new().encode(&[1; 1000], Compression::Raw, &mut stored).unwrap();
        for wrong in [0, 999, 1001] {
            let error = FrameDecoder::new().decode(&stored[..n], &mut vec![0; wrong]).unwrap_err();
            assert_eq!(error.kind(), crate::error::Kind::Damaged, "{wrong}");
        }
    }

    #[test]
    fn more_than_a_frame_is_refused() {
        let mut out = vec![0; 2 * MAX_FRAME_STORED_BYTES];
        assert!(FrameEncoder::new().encode(&vec![0; FRAME_BYTES + 1], Compression::Raw, &mut out).is_err());
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_make_the_decoder_panic(bytes: Vec<u8>, len in 0_usize..4096) {
            let _ = FrameDecoder::new().decode(&bytes, &mut vec![0; len]);
        }
    }

    trait Noise {
        fn finalize_xof_vec(&self, len: usize) -> Vec<u8>;
    }

    impl Noise for blake3::Hasher {
        fn finalize_xof_vec(&self, len: usize) -> Vec<u8> {
            let mut noise = vec![0; len];
            self.finalize_xof().fill(&mut noise);
            noise
        }
    }
}
