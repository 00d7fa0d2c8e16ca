//! The tail of a segment: two skippable frames that say what its frames are.
//!
//! ```text
//! frame 1 … frame n | 0x184D2A5B: n chaining values | 0x184D2A5E: seek table
//! ```
//!
//! The seek table is the standard one of zstd's seekable format (facebook/zstd,
//! `contrib/seekable_format/zstd_seekable_compression_format.md`), without checksums; the frame of
//! chaining values has an entry of its own there, with no plaintext. Nothing in a tail is believed:
//! sizes must add up to what the signed record says, and chaining values must merge into its digest.

use super::digest::Chaining;
use super::frame::{FRAME_BYTES, MAX_FRAME_STORED_BYTES};
use crate::error::{Error, Result};
use crate::failpoint::{self, Breakage};

/// Skippable frame with the BLAKE3 chaining value of each frame, 32 bytes each.
const CHAINING_MAGIC: u32 = 0x184D_2A5B;
/// Skippable frame with the seek table.
const SEEK_TABLE_MAGIC: u32 = 0x184D_2A5E;
/// Last four bytes of a seek table.
const SEEKABLE_MAGIC: u32 = 0x8F92_EAB1;
/// Magic and length of a skippable frame.
const SKIPPABLE_HEADER_BYTES: u64 = 8;
/// Number of frames, descriptor, magic.
const FOOTER_BYTES: u64 = 9;
/// One entry of the seek table: stored and plain size.
const ENTRY_BYTES: u64 = 8;

/// The most frames that a segment may hold (128 GiB of plaintext). Only data that compresses a
/// thousandfold gets there before a segment is full; it bounds a tail to 2.5 MiB.
pub const MAX_FRAMES_PER_SEGMENT: u64 = 1 << 16;

/// One frame as its segment's tail describes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameEntry {
    /// Where it starts in the segment's zstd stream, in bytes.
    pub start: u64,
    /// Its length there.
    pub stored_bytes: u32,
    /// Its plaintext: [`FRAME_BYTES`], less only for an artifact's last frame.
    pub plain_bytes: u32,
    /// Its BLAKE3 chaining value.
    pub chaining: Chaining,
}

/// The parsed or growing tail of one segment. Memory: 48 bytes per frame.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tail {
    frames: Vec<FrameEntry>,
    frames_bytes: u64,
}

impl Tail {
    /// Length in bytes of the tail of `n_frames` frames.
    pub const fn len_for(n_frames: u64) -> u64 {
        2 * SKIPPABLE_HEADER_BYTES + 32 * n_frames + ENTRY_BYTES * (n_frames + 1) + FOOTER_BYTES
    }

    /// Adds the next frame of a segment that is being written.
    pub fn push(&mut self, stored_bytes: u32, plain_bytes: u32, chaining: Chaining) {
        self.frames.push(FrameEntry { start: self.frames_bytes, stored_bytes, plain_bytes, chaining });
        self.frames_bytes += u64::from(stored_bytes);
    }

    /// The frames in order.
    pub fn frames(&self) -> &[FrameEntry] {
        &self.frames
    }

    /// How many frames there are.
    pub fn n_frames(&self) -> u64 {
        self.frames.len() as u64
    }

    /// Length of all frames together: where the tail begins in the zstd stream.
    pub fn frames_bytes(&self) -> u64 {
        self.frames_bytes
    }

    /// Length of the whole zstd stream, frames and tail.
    pub fn zstd_bytes(&self) -> u64 {
        self.frames_bytes + Self::len_for(self.n_frames())
    }

    /// The tail as it is stored.
    pub fn encode(&self) -> Result<Vec<u8>> {
        let n = self.n_frames();
        let too_many = |_| Error::failed(format!("a segment of {n} frames has no tail"));
        let chaining_bytes = u32::try_from(32 * n).map_err(too_many)?;
        let table_bytes = u32::try_from(ENTRY_BYTES * (n + 1) + FOOTER_BYTES).map_err(too_many)?;
        let n_entries = u32::try_from(n + 1).map_err(too_many)?;
        let mut out = Vec::with_capacity(usize::try_from(Self::len_for(n)).unwrap_or(0));
        out.extend(chaining_magic().to_le_bytes());
        out.extend(chaining_bytes.to_le_bytes());
        for frame in &self.frames {
            out.extend(frame.chaining);
        }
        out.extend(SEEK_TABLE_MAGIC.to_le_bytes());
        out.extend(table_bytes.to_le_bytes());
        for frame in &self.frames {
            out.extend(frame.stored_bytes.to_le_bytes());
            out.extend(frame.plain_bytes.to_le_bytes());
        }
        // The frame of chaining values is a frame too; it holds no plaintext.
        out.extend((chaining_bytes + 8).to_le_bytes());
        out.extend(0_u32.to_le_bytes());
        out.extend(n_entries.to_le_bytes());
        // Seek_Table_Descriptor: no checksums, reserved bits zero.
        out.push(0);
        out.extend(SEEKABLE_MAGIC.to_le_bytes());
        Ok(out)
    }

    /// Parses the tail of a segment of which the record says `n_frames` and `zstd_bytes`.
    ///
    /// Total: whatever the bytes are, the answer is a tail or `Damaged`. Every byte is checked but
    /// the chaining values, which the caller merges. Memory: 48 bytes per frame of `bytes`.
    pub fn parse(bytes: &[u8], n_frames: u64, zstd_bytes: u64) -> Result<Self> {
        if n_frames == 0 || n_frames > MAX_FRAMES_PER_SEGMENT || bytes.len() as u64 != Self::len_for(n_frames) {
            return Err(Error::damaged("the closing frames do not have the recorded length")
                .fact("expected", format!("{} bytes for {n_frames} frames", Self::len_for(n_frames.min(1 << 32))))
                .fact("got", format!("{} bytes", bytes.len())));
        }
        let mut rest = Rest(bytes);
        rest.expect_u32(chaining_magic().into(), "magic number of the chaining values")?;
        rest.expect_u32(32 * n_frames, "length of the chaining values")?;
        let mut chainings = Rest(rest.take(32 * n_frames)?);
        rest.expect_u32(SEEK_TABLE_MAGIC.into(), "magic number of the seek table")?;
        rest.expect_u32(ENTRY_BYTES * (n_frames + 1) + FOOTER_BYTES, "length of the seek table")?;
        let mut tail = Self::default();
        for i in 0..n_frames {
            let (stored, plain) = (rest.u32()?, rest.u32()?);
            let is_plausible =
                (1..=MAX_FRAME_STORED_BYTES).contains(&(stored as usize)) && plain as usize <= FRAME_BYTES;
            // Only the last frame of an artifact may be shorter, and that is the last of a segment.
            if !is_plausible || (i + 1 < n_frames && plain as usize != FRAME_BYTES) {
                return Err(Error::damaged(format!("entry {i} of the seek table can not be right"))
                    .fact("got", format!("{stored} bytes stored, {plain} bytes of content")));
            }
            let mut chaining = Chaining::default();
            chaining.copy_from_slice(chainings.take(32)?);
            tail.push(stored, plain, chaining);
        }
        rest.expect_u32(32 * n_frames + SKIPPABLE_HEADER_BYTES, "entry of the chaining values")?;
        rest.expect_u32(0, "content of the chaining values' frame")?;
        rest.expect_u32(n_frames + 1, "number of frames")?;
        if rest.take(1)? != [0] {
            return Err(Error::damaged("the descriptor of the seek table is not 0"));
        }
        rest.expect_u32(SEEKABLE_MAGIC.into(), "magic number at the end")?;
        if tail.zstd_bytes() != zstd_bytes {
            return Err(Error::damaged("the frames of the seek table do not add up to the recorded length")
                .fact("expected", format!("{zstd_bytes} bytes"))
                .fact("got", format!("{} bytes", tail.zstd_bytes())));
        }
        Ok(tail)
    }
}

fn chaining_magic() -> u32 {
    if failpoint::is_broken(Breakage::OtherTail) { CHAINING_MAGIC + 1 } else { CHAINING_MAGIC }
}

struct Rest<'a>(&'a [u8]);

impl<'a> Rest<'a> {
    fn take(&mut self, n: u64) -> Result<&'a [u8]> {
        let split = usize::try_from(n).ok().and_then(|n| self.0.split_at_checked(n));
        let (taken, rest) = split.ok_or_else(|| Error::damaged("the closing frames end early"))?;
        self.0 = rest;
        Ok(taken)
    }

    fn u32(&mut self) -> Result<u32> {
        let mut four = [0; 4];
        four.copy_from_slice(self.take(4)?);
        Ok(u32::from_le_bytes(four))
    }

    fn expect_u32(&mut self, expected: u64, what: &str) -> Result<()> {
        let got = u64::from(self.u32()?);
        if got == expected {
            return Ok(());
        }
        Err(Error::damaged(format!("the {what} is wrong"))
            .fact("expected", format!("{expected:#x}"))
            .fact("got", format!("{got:#x}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;
    use proptest::prelude::*;

    fn tail_of(n: u32) -> Tail {
        let mut tail = Tail::default();
        for i in 0..n {
            tail.push(100 + i, if i + 1 == n { 5 } else { FRAME_BYTES as u32 }, [i as u8; 32]);
        }
        tail
    }

    #[test]
    fn a_tail_comes_back_as_it_was() {
        for n in [1, 2, 3, 1000] {
            let tail = tail_of(n);
            let bytes = tail.encode().unwrap();
            assert_eq!(bytes.len() as u64, Tail::len_for(n.into()));
            assert_eq!(Tail::parse(&bytes, n.into(), tail.zstd_bytes()).unwrap(), tail);
        }
    }

    #[test]
    fn every_flipped_bit_outside_the_chaining_values_is_refused() {
        let tail = tail_of(3);
        let bytes = tail.encode().unwrap();
        for at in 0..bytes.len() {
            for bit in 0..8 {
                let mut flipped = bytes.clone();
                flipped[at] ^= 1 << bit;
                match Tail::parse(&flipped, 3, tail.zstd_bytes()) {
                    Err(error) => assert_eq!(error.kind(), Kind::Damaged, "byte {at}"),
                    // Chaining values, and the content of the last frame, are proven by the digest
                    // and the size in the record.
                    Ok(other) => assert!((8..8 + 96).contains(&at) || other.frames()[2].plain_bytes != 5, "byte {at}"),
                }
            }
        }
    }

    #[test]
    fn wrong_counts_and_lengths_are_refused() {
        let tail = tail_of(3);
        let (bytes, zstd) = (tail.encode().unwrap(), tail.zstd_bytes());
        for (n, zstd, bytes) in [
            (0, zstd, &bytes[..]),
            (2, zstd, &bytes[..]),
            (4, zstd, &bytes[..]),
            (u64::MAX, zstd, &bytes[..]),
            (3, zstd + 1, &bytes[..]),
            (3, 0, &bytes[..]),
            (3, zstd, &bytes[1..]),
            (3, zstd, &bytes[..bytes.len() - 1]),
            (3, zstd, &[]),
        ] {
            assert_eq!(Tail::parse(bytes, n, zstd).unwrap_err().kind(), Kind::Damaged, "{n} {zstd}");
        }
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_are_a_tail_or_damaged_and_never_a_panic(bytes: Vec<u8>, n: u64, zstd: u64) {
            let _ = Tail::parse(&bytes, n, zstd);
        }

        #[test]
        fn arbitrary_bytes_of_the_right_length_never_panic(n in 1_u64..5, zstd: u64, seed: u64) {
            let mut bytes = vec![0; usize::try_from(Tail::len_for(n)).unwrap()];
            blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
            prop_assert!(Tail::parse(&bytes, n, zstd).is_err());
        }
    }
}
