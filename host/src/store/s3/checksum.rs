//! Which checksum travels with a body: the best one that the server has shown that it knows.
//!
//! CRC64NVME first, then CRC32C, then Content-MD5. A server that knows a checksum says it back in
//! its answer; one that refuses it or does not say it back is not sent it again. Until it has
//! shown that it knows one, Content-MD5 goes along, so that no write is unproven meanwhile.

use crate::error::{Error, Result};
use crate::failpoint::{self, Breakage};
use crate::store::wrong_checksum;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use crc_fast::CrcAlgorithm;
use md5::{Digest, Md5};
use std::sync::atomic::{AtomicU8, Ordering};

/// A checksum that S3 knows, best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Algorithm {
    Crc64Nvme,
    Crc32c,
    Md5,
}

/// What a server has shown so far.
#[derive(Debug, Default)]
pub(super) struct Known(AtomicU8);

const CRC64NVME_UNPROVEN: u8 = 0;
const CRC64NVME: u8 = 1;
const CRC32C_UNPROVEN: u8 = 2;
const CRC32C: u8 = 3;
const MD5: u8 = 4;

impl Known {
    /// What to send now.
    pub(super) fn best(&self) -> Algorithm {
        match self.0.load(Ordering::Relaxed) {
            CRC64NVME_UNPROVEN | CRC64NVME => Algorithm::Crc64Nvme,
            CRC32C_UNPROVEN | CRC32C => Algorithm::Crc32c,
            _ => Algorithm::Md5,
        }
    }

    /// Whether the server has said this one back before.
    pub(super) fn is_proven(&self, algorithm: Algorithm) -> bool {
        let proven = match algorithm {
            Algorithm::Crc64Nvme => CRC64NVME,
            Algorithm::Crc32c => CRC32C,
            Algorithm::Md5 => return true,
        };
        self.0.load(Ordering::Relaxed) == proven
    }

    /// The server answered a write that carried this checksum, and said it back or not.
    pub(super) fn answered(&self, algorithm: Algorithm, said_back: bool) {
        if said_back { self.step(algorithm, true) } else { self.refused(algorithm) }
    }

    /// The server does not know this one: the next is tried.
    pub(super) fn refused(&self, algorithm: Algorithm) {
        self.step(algorithm, false);
    }

    /// The server took a checksum that it had said back before, and did not say it back: something
    /// between drops checksums, so that only Content-MD5 proves anything.
    pub(super) fn forgot(&self) {
        self.0.store(MD5, Ordering::Relaxed);
    }

    /// Only an open question is answered: what was proven stays so.
    fn step(&self, algorithm: Algorithm, knows: bool) {
        let (from, to) = match (algorithm, knows) {
            (Algorithm::Crc64Nvme, true) => (CRC64NVME_UNPROVEN, CRC64NVME),
            (Algorithm::Crc64Nvme, false) => (CRC64NVME_UNPROVEN, CRC32C_UNPROVEN),
            (Algorithm::Crc32c, true) => (CRC32C_UNPROVEN, CRC32C),
            (Algorithm::Crc32c, false) => (CRC32C_UNPROVEN, MD5),
            (Algorithm::Md5, _) => return,
        };
        // Losing the race means that another answer has settled it.
        let _ = self.0.compare_exchange(from, to, Ordering::Relaxed, Ordering::Relaxed);
    }
}

/// What an answer says of the bytes that were sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The server has checked them.
    Proven,
    /// The server has other bytes.
    Wrong,
    /// Nobody has checked them.
    Open,
}

/// The checksum headers of one body, in the form that S3 takes.
#[derive(Clone, Debug)]
pub(super) struct Sums {
    pub(super) algorithm: Algorithm,
    pub(super) crc64nvme: Option<String>,
    pub(super) crc32c: Option<String>,
    pub(super) md5: Option<String>,
}

impl Sums {
    /// For a body that should have this CRC64NVME. MD5 (790 MB/s a core) is computed only where it
    /// is needed, and on a thread that may be busy. `Damaged` when another checksum would be sent
    /// of bytes that are not the announced ones.
    pub(super) async fn of(algorithm: Algorithm, body: &Bytes, crc64nvme: u64, known: &Known) -> Result<Self> {
        let md5 = algorithm == Algorithm::Md5 || !known.is_proven(algorithm);
        if !md5 && algorithm == Algorithm::Crc64Nvme {
            return Ok(Self::compute(algorithm, md5, body, crc64nvme));
        }
        let body = body.clone();
        tokio::task::spawn_blocking(move || {
            let got = crate::store::crc64nvme(&body);
            if algorithm != Algorithm::Crc64Nvme && got != crc64nvme {
                return Err(wrong_checksum("a body that was to be stored", crc64nvme, got));
            }
            Ok(Self::compute(algorithm, md5, &body, crc64nvme))
        })
        .await
        .map_err(|error| Error::failed("a thread that computes checksums ended early").because(error))?
    }

    fn compute(algorithm: Algorithm, md5: bool, body: &[u8], crc64nvme: u64) -> Self {
        Self {
            algorithm,
            crc64nvme: (algorithm == Algorithm::Crc64Nvme).then(|| encode64(crc64nvme)),
            crc32c: (algorithm == Algorithm::Crc32c).then(|| crc32c(body)),
            md5: md5.then(|| STANDARD.encode(Md5::digest(body))),
        }
    }

    /// What the server's answer says of these bytes, and what is learned of the server from it.
    pub(super) fn judge(&self, known: &Known, crc64nvme: Option<&str>, crc32c: Option<&str>) -> Verdict {
        match self.said_back(crc64nvme, crc32c) {
            _ if failpoint::is_broken(Breakage::IgnoreAnswer) => Verdict::Proven,
            Some(false) => Verdict::Wrong,
            Some(true) => {
                known.answered(self.algorithm, true);
                Verdict::Proven
            }
            None if self.md5.is_some() => {
                known.answered(self.algorithm, false);
                Verdict::Proven
            }
            None => {
                known.forgot();
                Verdict::Open
            }
        }
    }

    /// Whether the server said back what was sent; `None` when it said nothing.
    fn said_back(&self, crc64nvme: Option<&str>, crc32c: Option<&str>) -> Option<bool> {
        match self.algorithm {
            Algorithm::Crc64Nvme => crc64nvme.map(|got| Some(got) == self.crc64nvme.as_deref()),
            Algorithm::Crc32c => crc32c.map(|got| Some(got) == self.crc32c.as_deref()),
            Algorithm::Md5 => None,
        }
    }
}

/// Base64 of the eight bytes, highest first, as S3 writes a CRC64NVME.
pub(super) fn encode64(crc: u64) -> String {
    STANDARD.encode(crc.to_be_bytes())
}

/// The reverse of [`encode64`]; `None` for anything else, such as the checksum of checksums.
pub(super) fn decode64(text: &str) -> Option<u64> {
    let bytes: [u8; 8] = STANDARD.decode(text).ok()?.try_into().ok()?;
    Some(u64::from_be_bytes(bytes))
}

/// Base64 of the four bytes, highest first, as S3 writes a CRC32C.
pub(super) fn encode32(crc: [u8; 4]) -> String {
    STANDARD.encode(crc)
}

/// The reverse of [`encode32`].
pub(super) fn decode32(text: &str) -> Option<[u8; 4]> {
    STANDARD.decode(text).ok()?.try_into().ok()
}

fn crc32c(body: &[u8]) -> String {
    let crc = crc_fast::checksum(CrcAlgorithm::Crc32Iscsi, body);
    // A CRC of 32 bits lies in the lower half.
    STANDARD.encode(&crc.to_be_bytes()[4..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_have_their_published_check_values() {
        // From the catalogue of CRC algorithms, for "123456789".
        let body = Bytes::from_static(b"123456789");
        assert_eq!(super::super::super::crc64nvme(&body), 0xae8b_1486_0a79_9888);
        assert_eq!(crc32c(&body), STANDARD.encode([0xe3, 0x06, 0x92, 0x83]));
        assert_eq!(decode64(&encode64(7)), Some(7));
        assert_eq!(decode64("AAAA"), None);
        assert_eq!(decode32(&crc32c(&body)).map(encode32), Some(crc32c(&body)));
    }

    #[tokio::test]
    async fn a_server_that_knows_nothing_ends_with_md5_and_every_write_was_proven_meanwhile() {
        let (known, body) = (Known::default(), Bytes::from_static(b"x"));
        let crc = crate::store::crc64nvme(&body);
        for expected in [Algorithm::Crc64Nvme, Algorithm::Crc32c, Algorithm::Md5] {
            assert_eq!(known.best(), expected);
            let sums = Sums::of(known.best(), &body, crc, &known).await.unwrap();
            assert!(sums.md5.is_some());
            assert_eq!(sums.judge(&known, None, None), Verdict::Proven);
        }
        assert_eq!(known.best(), Algorithm::Md5);
    }

    #[tokio::test]
    async fn a_server_that_knows_the_best_one_is_not_sent_md5_unless_it_forgets() {
        let (known, body) = (Known::default(), Bytes::from_static(b"x"));
        let crc = crate::store::crc64nvme(&body);
        let said = encode64(crc);
        let first = Sums::of(known.best(), &body, crc, &known).await.unwrap();
        assert_eq!(first.judge(&known, Some(&said), None), Verdict::Proven);
        let second = Sums::of(known.best(), &body, crc, &known).await.unwrap();
        assert!(second.md5.is_none());
        assert_eq!(second.judge(&known, Some("other"), None), Verdict::Wrong);
        assert_eq!(second.judge(&known, None, None), Verdict::Open);
        assert_eq!(known.best(), Algorithm::Md5);
    }

    #[tokio::test]
    async fn bytes_that_are_not_the_announced_ones_are_never_sent_with_another_checksum() {
        let known = Known::default();
        let wrong = Sums::of(Algorithm::Md5, &Bytes::from_static(b"x"), 1, &known).await.unwrap_err();
        assert_eq!(wrong.kind(), crate::error::Kind::Damaged);
    }
}
