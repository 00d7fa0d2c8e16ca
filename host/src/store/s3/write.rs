//! Small objects into a bucket, and the question that decides whether a write worked.

use super::S3Store;
use super::body::Progress;
use super::checksum::{Sums, Verdict, decode64};
use super::failure::Failure;
use crate::clock;
use crate::error::{Error, Kind, Result};
use crate::failpoint::{self, Point};
use crate::id::ObjectKey;
use crate::store::{Condition, ObjectInfo, Store, combine_crc64nvme, crc64nvme, len_of};
use bytes::Bytes;

/// Objects without a known checksum are read back in pieces of this size, that of a frame.
const READ_BACK_BYTES: u64 = 2 << 20;

/// What lies under a name, compared with what should.
pub(super) enum Found {
    /// The very object.
    Same(ObjectInfo),
    /// Another one.
    Other(ObjectInfo),
    /// None.
    Nothing,
}

impl S3Store {
    /// One PUT, its CRC64NVME known.
    pub(super) async fn put_with_crc(
        &self,
        key: &ObjectKey,
        body: Bytes,
        condition: Condition,
        crc: u64,
    ) -> Result<ObjectInfo> {
        let failure = loop {
            let sums = Sums::of(self.known().best(), &body, crc, self.known()).await?;
            match self.put_once(key, body.clone(), &condition, &sums, crc).await {
                Ok(info) => return Ok(info),
                Err(failure) if failure.is_unsupported() && !self.known().is_proven(sums.algorithm) => {
                    self.known().refused(sums.algorithm);
                }
                Err(failure) => break failure,
            }
        };
        if !failure.leaves_open() {
            return Err(failure.error);
        }
        match self.find(key, len_of(&body), crc).await {
            Ok(Found::Same(info)) => Ok(info),
            Ok(Found::Other(info)) if condition == Condition::Absent => {
                Err(Error::conflict(format!("\"{key}\" holds something else already"))
                    .fact("store", self.describe())
                    .fact("got", format!("{} bytes, last changed {}", info.size, clock::show(info.modified)))
                    .because(failure.error))
            }
            Ok(_) => Err(failure.error),
            // Asking failed as well: the first error wins, unless only the second allows another try.
            Err(asking) => Err(if asking.is_retryable() { asking.because(failure.error) } else { failure.error }),
        }
    }

    async fn put_once(
        &self,
        key: &ObjectKey,
        body: Bytes,
        condition: &Condition,
        sums: &Sums,
        crc: u64,
    ) -> Result<ObjectInfo, Failure> {
        let doing = format!("store \"{key}\"");
        let plain = |error| Failure { error, status: Some(0), code: None };
        let (absent, unchanged) = match condition {
            Condition::Absent => (Some("*".to_owned()), None),
            Condition::Unchanged(etag) => (None, Some(etag.clone())),
        };
        let size = len_of(&body);
        // What is written over cannot be locked.
        let (mode, until) = match condition {
            Condition::Absent => self.locked(key).map_err(plain)?,
            Condition::Unchanged(_) => (None, None),
        };
        let progress = Progress::new();
        let request = self
            .client()
            .put_object()
            .bucket(self.bucket())
            .key(self.full_key(key))
            .set_if_none_match(absent)
            .set_if_match(unchanged)
            .set_object_lock_mode(mode)
            .set_object_lock_retain_until_date(until)
            .content_length(Self::signed_len(&body).map_err(plain)?)
            .set_checksum_crc64_nvme(sums.crc64nvme.clone())
            .set_checksum_crc32_c(sums.crc32c.clone())
            .set_content_md5(sums.md5.clone())
            .body(self.stream(body, &progress))
            .customize()
            .disable_payload_signing()
            .send();
        let output = self.send(&doing, &progress, self.stall(), request).await?;
        let wrong = || {
            plain(
                Error::damaged(format!("could not {doing}"))
                    .fact("store", self.describe())
                    .fact("expected", "the bytes that were sent")
                    .fact("got", "others, by their checksum")
                    .hint("something between here and the store changes bytes"),
            )
        };
        let dropped = || {
            plain(
                Error::damaged(format!("\"{key}\" is not there after it was acknowledged"))
                    .fact("store", self.describe())
                    .hint("the server acknowledges what it does not keep: do not use it for backups"),
            )
        };
        failpoint::reach(Point::S3Put);
        match sums.judge(self.known(), output.checksum_crc64_nvme(), output.checksum_crc32_c()) {
            Verdict::Proven => {}
            Verdict::Wrong => return Err(wrong()),
            Verdict::Open => {
                return match self.find(key, size, crc).await.map_err(plain)? {
                    Found::Same(info) => Ok(info),
                    Found::Other(_) => Err(wrong()),
                    Found::Nothing => Err(dropped()),
                };
            }
        }
        Ok(ObjectInfo {
            key: key.as_str().to_owned(),
            size,
            crc64nvme: output.checksum_crc64_nvme().and_then(decode64),
            etag: output.e_tag,
            version: output.version_id,
            modified: clock::now(),
        })
    }

    /// Compares what is there with what should be: by the checksum that the server keeps, or by
    /// reading it back where it keeps none.
    pub(super) async fn find(&self, key: &ObjectKey, size: u64, crc: u64) -> Result<Found> {
        let info = match self.head(key).await {
            Ok(info) => info,
            Err(error) if error.kind() == Kind::NotFound => return Ok(Found::Nothing),
            Err(error) => return Err(error),
        };
        if info.size != size {
            return Ok(Found::Other(info));
        }
        let got = match info.crc64nvme {
            Some(got) => got,
            None => self.read_back(key, size).await?,
        };
        Ok(if got == crc { Found::Same(info) } else { Found::Other(info) })
    }

    /// CRC64NVME of an object's bytes, in flat memory.
    async fn read_back(&self, key: &ObjectKey, size: u64) -> Result<u64> {
        let (mut at, mut crc) = (0, crc64nvme(b""));
        while at < size {
            let end = size.min(at + READ_BACK_BYTES);
            let bytes = self.read(key, at..end).await?;
            crc = combine_crc64nvme(crc, crc64nvme(&bytes), end - at);
            at = end;
        }
        Ok(crc)
    }
}
