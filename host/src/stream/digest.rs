//! Digests: BLAKE3 computed by subtrees in parallel, and CRC64NVME of what is stored.
//!
//! A piece of a stream whose length is a power of two, and whose offset is a multiple of it, is a
//! subtree of BLAKE3's tree. Its chaining value is computed on its own and merged with its
//! neighbours' into the digest that `b3sum` prints. Source: the BLAKE3 paper, 2.1, and
//! `blake3::hazmat`.

use blake3::hazmat::{ChainingValue, HasherExt, Mode, merge_subtrees_non_root, merge_subtrees_root};
use crc_fast::CrcParams;
use std::sync::LazyLock;

/// The chaining value of a piece that is not the only one. In bytes: 32.
pub type Chaining = ChainingValue;

/// What one piece contributes to the digest of its stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PieceDigest {
    /// Its chaining value, for a stream of several pieces. All zeros for an empty piece, which can
    /// only be alone.
    pub chaining: Chaining,
    /// The digest of the stream when this piece is the only one.
    pub alone: blake3::Hash,
}

/// Hashes the piece that starts at `offset` of its stream.
///
/// All pieces but the last must have the same length, a power of two of at least 1,024, and
/// `offset` must be a multiple of it.
pub fn piece(offset: u64, bytes: &[u8]) -> PieceDigest {
    let mut growing = GrowingPiece::begin(offset);
    growing.hasher.update(bytes);
    growing.n_hashed = bytes.len();
    growing.finish(bytes)
}

/// What is hashed at a time of a piece that grows, in bytes: half of a small second-level cache, and
/// a power of two, so that it is a whole subtree.
const WINDOW_BYTES: usize = 256 << 10;

/// A piece that is hashed while it is filled from its start to its end, each byte while it is still in the cache
/// of the core that wrote it. Same rules as for [`piece`].
pub struct GrowingPiece {
    hasher: blake3::Hasher,
    offset: u64,
    n_hashed: usize,
}

impl GrowingPiece {
    /// A piece that starts at `offset` of its stream and is empty so far.
    pub fn begin(offset: u64) -> Self {
        let mut hasher = blake3::Hasher::new();
        hasher.set_input_offset(offset);
        Self { hasher, offset, n_hashed: 0 }
    }

    /// `bytes` are those of the piece so far, from its start, and do not change any more. Hashes whole
    /// windows; what is left is hashed later.
    pub fn grown_to(&mut self, bytes: &[u8]) {
        while let Some(window) = bytes.get(self.n_hashed..self.n_hashed + WINDOW_BYTES) {
            self.hasher.update(window);
            self.n_hashed += WINDOW_BYTES;
        }
    }

    /// `bytes` are all of the piece, from its start.
    pub fn finish(mut self, bytes: &[u8]) -> PieceDigest {
        self.hasher.update(bytes.get(self.n_hashed..).unwrap_or_default());
        let chaining = if bytes.is_empty() { [0; 32] } else { self.hasher.finalize_non_root() };
        // A root is only defined for a stream that begins here.
        let alone = if self.offset == 0 { self.hasher.finalize() } else { blake3::Hash::from_bytes(chaining) };
        PieceDigest { chaining, alone }
    }
}

/// A part of what is stored that is hashed while it is sealed: as [`GrowingPiece`], and its CRC64NVME.
pub struct GrowingPart {
    piece: GrowingPiece,
    crc: u64,
}

impl GrowingPart {
    /// As [`GrowingPiece::begin`].
    pub fn begin(offset: u64) -> Self {
        Self { piece: GrowingPiece::begin(offset), crc: crc64nvme(b"") }
    }

    /// As [`GrowingPiece::grown_to`].
    pub fn grown_to(&mut self, bytes: &[u8]) {
        while let Some(grown) = bytes.get(..self.piece.n_hashed + WINDOW_BYTES) {
            let from = self.piece.n_hashed;
            self.piece.grown_to(grown);
            self.add_to_crc(&grown[from..]);
        }
    }

    /// As [`GrowingPiece::finish`], with the checksum before it.
    pub fn finish(mut self, bytes: &[u8]) -> (u64, PieceDigest) {
        self.grown_to(bytes);
        self.add_to_crc(&bytes[self.piece.n_hashed..]);
        (self.crc, self.piece.finish(bytes))
    }

    fn add_to_crc(&mut self, bytes: &[u8]) {
        self.crc = combine_crc64nvme(self.crc, crc64nvme(bytes), bytes.len() as u64);
    }
}

/// Merges the pieces of a stream, pushed in order, into its BLAKE3.
///
/// Memory: one chaining value per level of the tree, at most 2 KiB.
#[derive(Clone, Debug, Default)]
pub struct Tree {
    stack: Vec<Chaining>,
    n_pieces: u64,
    first_alone: Option<blake3::Hash>,
}

impl Tree {
    /// Adds the next piece.
    pub fn push(&mut self, piece: &PieceDigest) {
        if self.n_pieces == 0 {
            self.first_alone = Some(piece.alone);
        }
        self.push_chaining(piece.chaining);
    }

    /// Adds the next piece when only its chaining value is known: [`Tree::finish`] then answers
    /// only if it is not alone.
    pub fn push_chaining(&mut self, chaining: Chaining) {
        // Merging waits until another piece follows, because the topmost merge is special (root).
        while self.stack.len() > self.n_pieces.count_ones() as usize {
            self.merge_top();
        }
        self.stack.push(chaining);
        self.n_pieces += 1;
    }

    /// How many pieces were added.
    pub fn n_pieces(&self) -> u64 {
        self.n_pieces
    }

    /// The digest of the stream: `None` before the first piece, and for a single piece of which
    /// only the chaining value is known.
    pub fn finish(mut self) -> Option<blake3::Hash> {
        if self.n_pieces < 2 {
            return self.first_alone;
        }
        while self.stack.len() > 2 {
            self.merge_top();
        }
        match self.stack.as_slice() {
            [left, right] => Some(merge_subtrees_root(left, right, Mode::Hash)),
            _ => None,
        }
    }

    fn merge_top(&mut self) {
        if let (Some(right), Some(left)) = (self.stack.pop(), self.stack.pop()) {
            self.stack.push(merge_subtrees_non_root(&left, &right, Mode::Hash));
        }
    }
}

/// CRC-64/NVME: width, polynomial, initial value, reflection, final xor, check value. Source: the
/// catalogue of parametrised CRC algorithms. The library knows the algorithm by name too, but
/// inlines that code into its caller, where a development build does not optimise it: there it ran
/// at 0.9 GB/s instead of 24.
static CRC64_NVME: LazyLock<CrcParams> =
    LazyLock::new(|| CrcParams::new("CRC-64/NVME", 64, POLYNOMIAL, u64::MAX, true, u64::MAX, 0xae8b_1486_0a79_9888));

/// Without its highest term, the lowest one in the lowest bit.
const POLYNOMIAL: u64 = 0xad93_d235_94c9_3659;

/// CRC64NVME of `bytes`: the full-object checksum of S3.
pub fn crc64nvme(bytes: &[u8]) -> u64 {
    crc_fast::checksum_with_params(*CRC64_NVME, bytes)
}

/// CRC64NVME of two pieces one after the other, from those of the pieces.
///
/// Bytes that follow multiply what a checksum stands for by x^8 each, modulo the polynomial. The library multiplies
/// matrices for it, which took 0.08 to 0.46 ms for 100 bytes to 8 MiB where products of two polynomials took 0.2 to 2.3 µs.
pub fn combine_crc64nvme(first: u64, second: u64, second_bytes: u64) -> u64 {
    let set = |bit: &usize| second_bytes >> bit & 1 == 1;
    let powers = (0..64).filter(set).map(|bit| X_TO_POWERS[bit + 3]);
    powers.fold(first, product) ^ second
}

/// x^(2^n) modulo the polynomial: a byte is x^(2^3), and the longest length 2^63 of them.
static X_TO_POWERS: LazyLock<[u64; 67]> = LazyLock::new(|| {
    let mut power = 1 << 62;
    std::array::from_fn(|_| {
        let squared = product(power, power);
        std::mem::replace(&mut power, squared)
    })
});

/// The product of two polynomials modulo that of the checksum; the lowest term is in the highest bit, as in checksums.
fn product(a: u64, mut b: u64) -> u64 {
    let mut sum = 0;
    for bit in (0..64).rev() {
        sum ^= b & (a >> bit & 1).wrapping_neg();
        b = b >> 1 ^ POLYNOMIAL.reverse_bits() & (b & 1).wrapping_neg();
    }
    sum
}

/// A CRC as records write it: 16 hex digits.
pub fn show_crc(crc: u64) -> String {
    format!("{crc:016x}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn check_tree_of(pieces_of: usize, bytes: &[u8]) {
        let mut tree = Tree::default();
        let mut offset = 0;
        if bytes.is_empty() {
            tree.push(&piece(0, bytes));
        }
        for part in bytes.chunks(pieces_of) {
            tree.push(&piece(offset, part));
            offset += part.len() as u64;
        }
        assert_eq!(tree.finish(), Some(blake3::hash(bytes)), "{} bytes in pieces of {pieces_of}", bytes.len());
    }

    #[test]
    fn pieces_merge_into_the_digest_of_the_whole_for_up_to_forty_pieces() {
        let bytes: Vec<u8> = (0..40_u32 * 1024 + 1).map(|i| (i / 7) as u8).collect();
        for n in 0..=40 {
            check_tree_of(1024, &bytes[..n * 1024]);
            check_tree_of(1024, &bytes[..n * 1024 + 1]);
            check_tree_of(4096, &bytes[..n * 1024]);
        }
    }

    #[test]
    fn a_piece_that_grew_in_any_steps_has_the_digest_of_one_that_was_whole() {
        let bytes: Vec<u8> = (0..3 * WINDOW_BYTES + 5).map(|i| (i % 253) as u8).collect();
        for len in [0, 1, WINDOW_BYTES - 1, WINDOW_BYTES, WINDOW_BYTES + 1, 2 * WINDOW_BYTES, bytes.len()] {
            for step in [1000, WINDOW_BYTES / 2, WINDOW_BYTES, WINDOW_BYTES + 1, 3 * WINDOW_BYTES] {
                for offset in [0, 4 << 20] {
                    let mut growing = GrowingPiece::begin(offset);
                    (0..len).step_by(step).for_each(|n| growing.grown_to(&bytes[..n]));
                    let whole = piece(offset, &bytes[..len]);
                    assert_eq!(growing.finish(&bytes[..len]), whole, "{len} by {step}");
                    let mut part = GrowingPart::begin(offset);
                    (0..len).step_by(step).for_each(|n| part.grown_to(&bytes[..n]));
                    assert_eq!(part.finish(&bytes[..len]), (crc64nvme(&bytes[..len]), whole), "{len} by {step}");
                }
            }
        }
    }

    #[test]
    fn nothing_has_no_digest_and_a_lone_chaining_value_is_not_one() {
        assert_eq!(Tree::default().finish(), None);
        let mut tree = Tree::default();
        tree.push_chaining([1; 32]);
        assert_eq!(tree.finish(), None);
    }

    #[test]
    fn crc64nvme_is_the_one_of_the_catalogue() {
        // Check value of CRC-64/NVME in the catalogue of parametrised CRC algorithms.
        assert_eq!(crc64nvme(b"123456789"), 0xae8b_1486_0a79_9888);
        let long: Vec<u8> = (0..100_003_u32).map(|i| (i % 249) as u8).collect();
        assert_eq!(crc64nvme(&long), crc_fast::crc64_nvme(&long));
        assert_eq!(show_crc(1), "0000000000000001");
    }

    proptest! {
        #[test]
        fn checksums_combine_wherever_the_cut_is(bytes: Vec<u8>, cut: usize) {
            let (a, b) = bytes.split_at(if bytes.is_empty() { 0 } else { cut % (bytes.len() + 1) });
            prop_assert_eq!(combine_crc64nvme(crc64nvme(a), crc64nvme(b), b.len() as u64), crc64nvme(&bytes));
        }
    }
}
