//! What is backed up: bytes that are the same in every run on every machine, made from a seed.
//!
//! Nothing in them repeats over the whole length, so that a contender that stores equal pieces once has no
//! more to find than in real data. Changing a generator makes all earlier tables incomparable, so a test
//! pins what it makes.

use anyhow::Result;
use std::io::Write;

const MIB: u64 = 1 << 20;
/// Of the mixed input: text, then noise, and so on (`docs/performance.md`).
const MIXED_TEXT_BYTES: u64 = 48 * MIB;
const MIXED_NOISE_BYTES: u64 = 16 * MIB;

/// Words and phrases of a row at most, tuned so that text shrinks like dumps do.
const WORDS_PER_ROW: u64 = 20;
const PHRASES_PER_ROW: u64 = 2;

/// A kind of input.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Input {
    /// Like a dump of a database as text: zstd makes it 2.7 to 2.9 times smaller.
    Text,
    /// 48 MiB of text and 16 MiB of noise, alternating: about 1.9 times.
    Mixed,
    /// Noise, as media, archives and encrypted columns are: not at all.
    Noise,
}

impl Input {
    /// Every kind, the one that the goals are about first.
    pub const ALL: [Self; 3] = [Self::Mixed, Self::Text, Self::Noise];

    /// Its name in tables, and of its file.
    pub fn name(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Mixed => "mixed",
            Self::Noise => "incompressible",
        }
    }

    /// The kind of this name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|input| input.name() == name)
    }

    /// Writes its first `bytes` bytes.
    pub fn write(self, bytes: u64, out: &mut impl Write) -> Result<()> {
        let (mut text, mut noise) = (Text::new(), Noise::new());
        let mut left = bytes;
        while left > 0 {
            match self {
                Self::Text => left -= text.write(left, out)?,
                Self::Noise => left -= noise.write(left, out)?,
                Self::Mixed => {
                    left -= text.write(left.min(MIXED_TEXT_BYTES), out)?;
                    left -= noise.write(left.min(MIXED_NOISE_BYTES), out)?;
                }
            }
        }
        Ok(())
    }
}

/// Marsaglia's xorshift64*, whose upper bits no compressor shrinks.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    /// Evenly below `n`, from the upper 32 bits.
    fn below(&mut self, n: u64) -> u64 {
        ((self.next() >> 32) * n) >> 32
    }

    /// Below `n`, the small ones more often, as words of a language are.
    fn skewed(&mut self, n: u64) -> u64 {
        let (a, b) = (self.below(n), self.below(n));
        a * b / n
    }

    fn of<'a>(&mut self, words: &[&'a str]) -> &'a str {
        let n = u64::try_from(words.len()).unwrap_or(1);
        usize::try_from(self.skewed(n)).ok().and_then(|at| words.get(at)).copied().unwrap_or_default()
    }
}

/// Rows as `pg_dump` writes them after `COPY`: keys, times, names, amounts, a digest, and prose.
struct Text {
    random: Random,
    row: u64,
    /// What did not fit into the last piece.
    rest: Vec<u8>,
}

impl Text {
    fn new() -> Self {
        Self { random: Random(0x5DEE_CE66_D1CE_4E5B), row: 0, rest: Vec::new() }
    }

    /// Writes exactly `bytes` bytes and returns that number.
    fn write(&mut self, bytes: u64, out: &mut impl Write) -> Result<u64> {
        let mut left = usize::try_from(bytes)?;
        while left > 0 {
            if self.rest.is_empty() {
                for _ in 0..512 {
                    self.add_row();
                }
            }
            let n = left.min(self.rest.len());
            out.write_all(&self.rest[..n])?;
            self.rest.drain(..n);
            left -= n;
        }
        Ok(bytes)
    }

    fn add_row(&mut self) {
        const FIRST: [&str; 24] = [
            "Anna", "Ben", "Carla", "David", "Elif", "Farid", "Greta", "Hugo", "Ines", "Jonas", "Katja", "Liam",
            "Mara", "Nils", "Olga", "Paul", "Quentin", "Rosa", "Sven", "Tara", "Uwe", "Vera", "Wim", "Yara",
        ];
        const LAST: [&str; 24] = [
            "Abel", "Baker", "Costa", "Dubois", "Eriksen", "Fischer", "Garcia", "Haddad", "Ivanova", "Jensen",
            "Kowalski", "Lopez", "Meyer", "Novak", "Okafor", "Peeters", "Quist", "Rossi", "Schmidt", "Tanaka",
            "Umarov", "Virtanen", "Weber", "Yilmaz",
        ];
        const STATES: [&str; 6] = ["delivered", "shipped", "paid", "open", "returned", "cancelled"];
        const PHRASES: [&str; 32] = [
            "the parcel was left with a neighbour",
            "customer asked for a refund",
            "delivered to the back door",
            "invoice sent again by post",
            "the courier could not find the address",
            "payment confirmed by card",
            "item arrived damaged and was replaced",
            "please call before delivery",
            "wrong size, exchange agreed",
            "two days late because of customs",
            "signed by the warehouse",
            "gift wrapping was missing",
            "the colour differs from the picture",
            "left a message on the answering machine",
            "subscription renewed for another year",
            "express delivery was paid for",
            "box was open on arrival",
            "street and number were swapped",
            "waiting for an answer from the supplier",
            "discount granted once",
            "asked to be called in the morning",
            "the order was split into two parcels",
            "returned without a note",
            "cancelled before it was packed",
            "international shipment, form attached",
            "card was declined twice",
            "the weekend slot was not available",
            "replacement sent on the same day",
            "see the earlier complaint",
            "no further action needed",
            "customer confirmed the new address",
            "picked up at the counter",
        ];
        const WORDS: [&str; 48] = [
            "the",
            "of",
            "and",
            "to",
            "order",
            "in",
            "customer",
            "was",
            "for",
            "delivery",
            "with",
            "on",
            "not",
            "parcel",
            "by",
            "asked",
            "at",
            "address",
            "from",
            "refund",
            "is",
            "warehouse",
            "after",
            "invoice",
            "has",
            "been",
            "please",
            "called",
            "again",
            "before",
            "street",
            "door",
            "number",
            "left",
            "neighbour",
            "item",
            "damaged",
            "replaced",
            "colour",
            "size",
            "wrong",
            "blue",
            "two",
            "days",
            "late",
            "courier",
            "note",
            "box",
        ];
        self.row += 1;
        let random = &mut self.random;
        let (first, last) = (random.of(&FIRST), random.of(&LAST));
        let (second, cents) = (random.below(86_400), random.below(100));
        let day = self.row / 4000 % 28 + 1;
        let month = self.row / 112_000 % 12 + 1;
        let row = format!(
            "{}\t{}\t2026-{month:02}-{day:02} {:02}:{:02}:{:02}+00\t{first} {last}\t{}.{}{}@example.org\t{}\t{}.{cents:02}\t{:016x}{:016x}{:016x}{:016x}\t",
            1_000_000 + self.row,
            random.below(400_000),
            second / 3600,
            second / 60 % 60,
            second % 60,
            first.to_lowercase(),
            last.to_lowercase(),
            random.below(1000),
            random.of(&STATES),
            random.skewed(2000),
            random.next(),
            random.next(),
            random.next(),
            random.next(),
        );
        self.rest.extend_from_slice(row.as_bytes());
        for _ in 0..random.below(WORDS_PER_ROW) {
            self.rest.extend_from_slice(random.of(&WORDS).as_bytes());
            self.rest.push(b' ');
        }
        for _ in 0..random.below(PHRASES_PER_ROW) {
            self.rest.extend_from_slice(random.of(&PHRASES).as_bytes());
            self.rest.extend_from_slice(b"; ");
        }
        self.rest.push(b'\n');
    }
}

/// Bytes that nothing shrinks.
struct Noise {
    random: Random,
    block: Vec<u8>,
}

impl Noise {
    fn new() -> Self {
        Self { random: Random(0x9E37_79B9_7F4A_7C15), block: Vec::with_capacity(64 << 10) }
    }

    /// Writes exactly `bytes` bytes and returns that number.
    fn write(&mut self, bytes: u64, out: &mut impl Write) -> Result<u64> {
        let mut left = usize::try_from(bytes)?;
        while left > 0 {
            self.block.clear();
            while self.block.len() < (64 << 10) {
                self.block.extend_from_slice(&self.random.next().to_le_bytes());
            }
            let n = left.min(self.block.len());
            out.write_all(&self.block[..n])?;
            left -= n;
        }
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(input: Input, bytes: u64) -> Vec<u8> {
        let mut out = Vec::new();
        input.write(bytes, &mut out).unwrap();
        out
    }

    /// FNV-1a, enough to see a change.
    fn sum(bytes: &[u8]) -> u64 {
        bytes.iter().fold(0xCBF2_9CE4_8422_2325, |sum, byte| (sum ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01B3))
    }

    #[test]
    fn every_input_is_what_it_was_when_the_last_table_was_made() {
        let sums: Vec<_> =
            Input::ALL.map(|input| format!("{} {:016x}", input.name(), sum(&made(input, 100_000)))).into();
        assert_eq!(sums, ["mixed f96f3995c4d75b13", "text f96f3995c4d75b13", "incompressible 7b4ac8ba37fef38f"]);
    }

    #[test]
    fn a_shorter_input_is_the_beginning_of_a_longer_one() {
        for input in Input::ALL {
            let long = made(input, 200_001);
            assert_eq!(long.len(), 200_001);
            assert_eq!(made(input, 70_000), long[..70_000], "{}", input.name());
        }
    }

    #[test]
    fn the_mixed_input_is_text_and_then_noise() {
        let mixed = made(Input::Mixed, MIXED_TEXT_BYTES + 5000);
        let (text, noise) = mixed.split_at(usize::try_from(MIXED_TEXT_BYTES).unwrap());
        assert!(text.iter().all(u8::is_ascii));
        assert_eq!(noise, made(Input::Noise, 5000));
    }
}
