//! What was measured of an output beside its source, and the same here.

use crc_fast::{CrcAlgorithm, Digest};

/// What `cksum` or `wc -c` printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::exec) struct Measured {
    crc: Option<u32>,
    bytes: u64,
}

impl Measured {
    /// `CRC COUNT`, or `COUNT` alone.
    pub(in crate::exec) fn parse(text: &str) -> Option<Self> {
        let mut numbers = text.split_ascii_whitespace();
        let (first, second) = (numbers.next()?, numbers.next());
        match second {
            Some(bytes) => Some(Self { crc: Some(first.parse().ok()?), bytes: bytes.parse().ok()? }),
            None => Some(Self { crc: None, bytes: first.parse().ok()? }),
        }
    }
}

impl std::fmt::Display for Measured {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} bytes", self.bytes)?;
        self.crc.map_or(Ok(()), |crc| write!(f, " with the checksum {crc}"))
    }
}

/// Measures what arrives.
pub(in crate::exec) struct Sum {
    digest: Digest,
    bytes: u64,
}

impl Sum {
    pub(in crate::exec) fn new() -> Self {
        Self { digest: Digest::new(CrcAlgorithm::Crc32Cksum), bytes: 0 }
    }

    pub(in crate::exec) fn push(&mut self, bytes: &[u8]) {
        self.digest.update(bytes);
        self.bytes += bytes.len() as u64;
    }

    /// As `cksum` does it: the number of bytes is a part of what is summed, its least byte first.
    /// <https://pubs.opengroup.org/onlinepubs/9799919799/utilities/cksum.html>
    fn measured(&self) -> Measured {
        let mut digest = self.digest;
        let length = self.bytes.to_le_bytes();
        let used = length.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        digest.update(&length[..used]);
        // 32 bits in a wider number.
        let crc = u32::try_from(digest.finalize()).ok();
        Measured { crc, bytes: self.bytes }
    }

    /// Whether this is what was measured beside the source; else what was measured here.
    pub(in crate::exec) fn check(&self, there: Measured) -> Result<(), Measured> {
        let here = self.measured();
        let is_same = here.bytes == there.bytes && (there.crc.is_none() || there.crc == here.crc);
        if is_same { Ok(()) } else { Err(here) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sum_is_that_of_cksum() {
        // Printed by cksum of coreutils 9.1.
        for (bytes, said) in [
            (b"".to_vec(), "4294967295 0"),
            (b"DATA1\nDATA2\n".to_vec(), "3352050827 12"),
            (vec![0; 300_000], "2913298395 300000"),
        ] {
            let mut sum = Sum::new();
            bytes.chunks(7).for_each(|part| sum.push(part));
            let there = Measured::parse(said).unwrap();
            assert_eq!(sum.check(there), Ok(()), "{said}");
            let count = Measured::parse(&format!("  {}", bytes.len())).unwrap();
            assert_eq!(sum.check(count), Ok(()));
            sum.push(b"x");
            assert!(sum.check(there).is_err() && sum.check(count).is_err());
        }
    }

    #[test]
    fn what_is_no_sum_is_none() {
        for text in ["", "x", "1 x", "-1 5", "4294967296 1"] {
            assert_eq!(Measured::parse(text), None, "{text:?}");
        }
    }
}
