//! An object on its way into a bucket: one PUT, or a multipart upload of unknown length.

use super::S3Store;
use super::body::Progress;
use super::checksum::{Algorithm, Sums, Verdict, decode32, encode32, encode64};
use super::failure::Failure;
use super::write::Found;
use crate::error::{Error, Kind, Result};
use crate::failpoint::{self, Point};
use crate::id::ObjectKey;
use crate::store::memory::upload_gone;
use crate::store::{Condition, ObjectInfo, Store, Upload, len_of, wrong_checksum};
use async_trait::async_trait;
use aws_sdk_s3::types::{ChecksumAlgorithm, ChecksumType, CompletedMultipartUpload, CompletedPart};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::sync::Mutex;

/// Holds the first part back until a second one arrives or the upload is completed, so that one
/// part is one PUT, unless it is told to expect more. Memory: that part, and some 60 bytes for each
/// part that was sent, which the completion lists.
pub(super) struct S3Upload {
    store: S3Store,
    key: ObjectKey,
    /// Whether the first part is sent at once.
    expects_more: AtomicBool,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// The first part and its CRC64NVME, while it is not sent.
    held: Option<(Bytes, u64)>,
    begun: Option<Begun>,
    sent: BTreeMap<u32, Sent>,
    /// The answer to a creation was lost: there may be an upload whose id nobody knows.
    unknown_upload: bool,
    over: bool,
}

/// A multipart upload that the server knows.
#[derive(Clone)]
struct Begun {
    id: String,
    algorithm: Algorithm,
}

/// A part that the server has.
#[derive(Clone)]
struct Sent {
    etag: Option<Etag>,
    crc64nvme: u64,
    crc32c: Option<[u8; 4]>,
}

/// The entity tag of a part, as small as it gets: there is one for each part until the end.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Etag {
    /// 32 hexadecimal digits in quotation marks, as nearly every server says.
    Hex([u8; 16]),
    Other(Box<str>),
}

impl Etag {
    fn parse(text: &str) -> Self {
        let digits = text.strip_prefix('"').and_then(|text| text.strip_suffix('"'));
        // Only what comes out again as it was: digits in upper case do not.
        match digits.and_then(|digits| u128::from_str_radix(digits, 16).ok()).map(|hex| Self::Hex(hex.to_be_bytes())) {
            Some(short) if short.show() == text => short,
            _ => Self::Other(text.into()),
        }
    }

    fn show(&self) -> String {
        match self {
            Self::Hex(bytes) => format!("\"{:032x}\"", u128::from_be_bytes(*bytes)),
            Self::Other(text) => text.to_string(),
        }
    }
}

impl S3Upload {
    pub(super) fn new(store: S3Store, key: ObjectKey) -> Self {
        Self { store, key, expects_more: AtomicBool::new(false), state: Mutex::new(State::default()) }
    }

    /// The upload's id at the server, which is asked for one first if need be.
    async fn begin(&self, state: &mut State) -> Result<Begun> {
        if state.over {
            return Err(upload_gone(&self.key));
        }
        if let Some(begun) = &state.begun {
            return Ok(begun.clone());
        }
        loop {
            let algorithm = self.store.known().best();
            match self.create(algorithm).await {
                Ok(id) => {
                    let begun = Begun { id, algorithm };
                    state.begun = Some(begun.clone());
                    failpoint::reach(Point::S3Begun);
                    return Ok(begun);
                }
                Err(failure) if failure.is_unsupported() && !self.store.known().is_proven(algorithm) => {
                    self.store.known().refused(algorithm);
                }
                Err(failure) => {
                    state.unknown_upload |= failure.leaves_open();
                    return Err(failure.error);
                }
            }
        }
    }

    async fn create(&self, algorithm: Algorithm) -> Result<String, Failure> {
        let doing = format!("begin the upload of \"{}\"", self.key);
        let (name, kind) = match algorithm {
            Algorithm::Crc64Nvme => (Some(ChecksumAlgorithm::Crc64Nvme), Some(ChecksumType::FullObject)),
            Algorithm::Crc32c => (Some(ChecksumAlgorithm::Crc32C), Some(ChecksumType::Composite)),
            Algorithm::Md5 => (None, None),
        };
        let (mode, until) =
            self.store.locked(&self.key).map_err(|error| Failure { error, status: Some(0), code: None })?;
        let request = self
            .store
            .client()
            .create_multipart_upload()
            .bucket(self.store.bucket())
            .key(self.store.full_key(&self.key))
            .set_object_lock_mode(mode)
            .set_object_lock_retain_until_date(until)
            .set_checksum_algorithm(name)
            .set_checksum_type(kind);
        let output = self.store.send(&doing, &Progress::new(), self.store.stall(), request.send()).await?;
        output.upload_id.ok_or_else(|| Failure {
            error: Error::failed(format!("could not {doing}")).fact("got", "an answer without an upload id"),
            status: None,
            code: None,
        })
    }

    async fn send_part(&self, begun: &Begun, number: u32, body: Bytes, crc: u64) -> Result<Sent> {
        let doing = format!("store part {number} of \"{}\"", self.key);
        let part_number =
            i32::try_from(number).map_err(|_| Error::invalid(format!("part number {number} is too large")))?;
        // At most twice: without an answer that proves the bytes they go again with Content-MD5.
        loop {
            let sums = Sums::of(begun.algorithm, &body, crc, self.store.known()).await?;
            let progress = Progress::new();
            let request = self
                .store
                .client()
                .upload_part()
                .bucket(self.store.bucket())
                .key(self.store.full_key(&self.key))
                .upload_id(&begun.id)
                .part_number(part_number)
                .content_length(S3Store::signed_len(&body)?)
                .set_checksum_crc64_nvme(sums.crc64nvme.clone())
                .set_checksum_crc32_c(sums.crc32c.clone())
                .set_content_md5(sums.md5.clone())
                .body(self.store.stream(body.clone(), &progress))
                .customize()
                .disable_payload_signing()
                .send();
            let output = self
                .store
                .send(&doing, &progress, self.store.stall(), request)
                .await
                .map_err(|failure| failure.error)?;
            match sums.judge(self.store.known(), output.checksum_crc64_nvme(), output.checksum_crc32_c()) {
                Verdict::Proven => {
                    let crc32c = sums.crc32c.as_deref().and_then(decode32);
                    failpoint::reach(Point::S3Part);
                    return Ok(Sent { etag: output.e_tag.as_deref().map(Etag::parse), crc64nvme: crc, crc32c });
                }
                Verdict::Open => {}
                Verdict::Wrong => {
                    return Err(Error::damaged(format!("could not {doing}"))
                        .fact("expected", "the checksum that was sent along")
                        .fact("got", "another one in the answer"));
                }
            }
        }
    }

    /// Sends the first part, if it is still here.
    async fn send_held(&self, begun: &Begun, held: Option<(Bytes, u64)>) -> Result<()> {
        let Some((body, crc)) = held else { return Ok(()) };
        let sent = self.send_part(begun, 1, body.clone(), crc).await;
        let mut state = self.state.lock().await;
        match sent {
            Ok(sent) => {
                state.sent.insert(1, sent);
                Ok(())
            }
            Err(error) => {
                // The next part, or the completion, tries it again.
                state.held = Some((body, crc));
                Err(error)
            }
        }
    }

    /// One PUT for an object of one part.
    async fn put_whole(&self, state: &mut State, body: Bytes, size: u64, crc: u64) -> Result<ObjectInfo> {
        if len_of(&body) != size {
            return Err(Error::invalid(format!("the part of \"{}\" does not make up the announced object", self.key))
                .fact("expected", format!("{size} bytes"))
                .fact("got", format!("{} bytes", body.len())));
        }
        let info = self.store.put_with_crc(&self.key, body, Condition::Absent, crc).await?;
        state.held = None;
        state.over = true;
        Ok(info)
    }

    async fn complete_parts(
        &self,
        begun: &Begun,
        parts: Vec<CompletedPart>,
        size: u64,
        crc: u64,
    ) -> Result<(), Failure> {
        let doing = format!("complete the upload of \"{}\"", self.key);
        let full = begun.algorithm == Algorithm::Crc64Nvme && self.store.known().is_proven(Algorithm::Crc64Nvme);
        let request = self
            .store
            .client()
            .complete_multipart_upload()
            .bucket(self.store.bucket())
            .key(self.store.full_key(&self.key))
            .upload_id(&begun.id)
            .if_none_match("*")
            .set_mpu_object_size(i64::try_from(size).ok())
            .set_checksum_type(full.then_some(ChecksumType::FullObject))
            .set_checksum_crc64_nvme(full.then(|| encode64(crc)))
            .multipart_upload(CompletedMultipartUpload::builder().set_parts(Some(parts)).build());
        self.store.send(&doing, &Progress::new(), self.store.complete_wait(), request.send()).await?;
        failpoint::reach(Point::S3Completed);
        Ok(())
    }

    /// Asks what is there and decides from that whether the upload succeeded.
    async fn decide(&self, failure: Failure, size: u64, crc: u64) -> Result<ObjectInfo> {
        match self.store.find(&self.key, size, crc).await {
            Ok(Found::Same(info)) => Ok(info),
            Ok(Found::Other(info)) => Err(Error::conflict(format!("\"{}\" holds something else already", self.key))
                .fact("expected", format!("{size} bytes, CRC64NVME {crc:016x}"))
                .fact("got", format!("{} bytes, last changed {}", info.size, crate::clock::show(info.modified)))
                .because(failure.error)),
            Ok(Found::Nothing) => Err(failure.error),
            // Asking failed as well: the first error wins, unless only the second allows another try.
            Err(asking) => Err(if asking.is_retryable() { asking.because(failure.error) } else { failure.error }),
        }
    }

    /// Aborts at the server; what is not there is aborted.
    async fn abort_at_server(&self, state: &mut State) -> Result<()> {
        if let Some(begun) = state.begun.clone() {
            self.store.abort_by_id(&self.store.full_key(&self.key), &begun.id).await?;
            state.begun = None;
        }
        if state.unknown_upload {
            for pending in self.store.pending_uploads(self.key.as_str()).await? {
                if pending.key == self.key.as_str() {
                    self.store.abort_pending(&pending).await?;
                }
            }
            state.unknown_upload = false;
        }
        Ok(())
    }

    fn completed_parts(&self, state: &State, n_parts: u32, begun: &Begun) -> Result<Vec<CompletedPart>> {
        // A server that ignores a checksum may refuse a list of parts that has it.
        let proven = self.store.known().is_proven(begun.algorithm);
        let crc64nvme = proven && begun.algorithm == Algorithm::Crc64Nvme;
        let mut parts = Vec::new();
        for number in 1..=n_parts {
            let sent = state
                .sent
                .get(&number)
                .ok_or_else(|| Error::invalid(format!("part {number} of \"{}\" was never stored", self.key)))?;
            parts.push(
                CompletedPart::builder()
                    .set_part_number(i32::try_from(number).ok())
                    .set_e_tag(sent.etag.as_ref().map(Etag::show))
                    .set_checksum_crc64_nvme(crc64nvme.then(|| encode64(sent.crc64nvme)))
                    .set_checksum_crc32_c(sent.crc32c.filter(|_| proven).map(encode32))
                    .build(),
            );
        }
        if state.sent.len() != parts.len() {
            return Err(Error::invalid(format!("the parts of \"{}\" do not make up the announced object", self.key))
                .fact("expected", format!("{n_parts} parts"))
                .fact("got", format!("{} parts", state.sent.len())));
        }
        Ok(parts)
    }
}

#[async_trait]
impl Upload for S3Upload {
    async fn part(&self, number: u32, body: Bytes, crc64nvme: u64) -> Result<()> {
        let mut state = self.state.lock().await;
        if state.over {
            return Err(upload_gone(&self.key));
        }
        let may_hold = !self.expects_more.load(Ordering::Acquire);
        if number == 1 && may_hold && state.begun.is_none() && state.sent.is_empty() {
            // It is refused now rather than at the end: the server would refuse it too.
            let got = crate::store::crc64nvme(&body);
            if got != crc64nvme {
                return Err(wrong_checksum(&format!("part 1 of \"{}\"", self.key), crc64nvme, got));
            }
            state.held = Some((body, crc64nvme));
            return Ok(());
        }
        let begun = self.begin(&mut state).await?;
        let held = if number == 1 { None } else { state.held.take() };
        drop(state);
        // Both are waited for, so that the first part is never lost half-way.
        let (sent, held) =
            futures_util::join!(self.send_part(&begun, number, body, crc64nvme), self.send_held(&begun, held));
        let mut state = self.state.lock().await;
        state.sent.insert(number, sent?);
        if number == 1 {
            state.held = None;
        }
        held
    }

    fn expect_more(&self) {
        self.expects_more.store(true, Ordering::Release);
    }

    async fn complete(&self, n_parts: u32, size: u64, crc64nvme: u64) -> Result<ObjectInfo> {
        let mut state = self.state.lock().await;
        if state.over {
            return match self.store.find(&self.key, size, crc64nvme).await? {
                Found::Same(info) => Ok(info),
                _ => Err(upload_gone(&self.key)),
            };
        }
        if n_parts == 0 && size == 0 && state.held.is_none() && state.begun.is_none() {
            return self.put_whole(&mut state, Bytes::new(), 0, crate::store::crc64nvme(b"")).await;
        }
        if n_parts == 1
            && state.begun.is_none()
            && let Some((body, _)) = state.held.clone()
        {
            return self.put_whole(&mut state, body, size, crc64nvme).await;
        }
        let begun = self.begin(&mut state).await?;
        if let Some((body, crc)) = state.held.clone() {
            let sent = self.send_part(&begun, 1, body, crc).await?;
            state.sent.insert(1, sent);
            state.held = None;
        }
        let parts = self.completed_parts(&state, n_parts, &begun)?;
        let info = match self.complete_parts(&begun, parts, size, crc64nvme).await {
            Ok(()) => match self.store.find(&self.key, size, crc64nvme).await? {
                Found::Same(info) => info,
                Found::Nothing => {
                    return Err(Error::damaged(format!("\"{}\" is not there after it was completed", self.key))
                        .fact("store", self.store.describe())
                        .hint("the server acknowledges what it does not keep: do not use it for backups"));
                }
                Found::Other(info) => {
                    return Err(Error::damaged(format!("\"{}\" is not what was sent", self.key))
                        .fact("expected", format!("{size} bytes, CRC64NVME {crc64nvme:016x}"))
                        .fact("got", format!("{} bytes, CRC64NVME {:016x?}", info.size, info.crc64nvme)));
                }
            },
            Err(failure) if failure.leaves_open() => {
                let info = self.decide(failure, size, crc64nvme).await?;
                // Ours may still be pending where an equal object was there before.
                if let Err(error) = self.abort_at_server(&mut state).await {
                    tracing::warn!(%error, key = %self.key, "a left-over upload could not be removed; pruning finds it");
                }
                info
            }
            Err(failure) => return Err(failure.error),
        };
        state.begun = None;
        state.over = true;
        if state.unknown_upload
            && let Err(error) = self.abort_at_server(&mut state).await
        {
            tracing::warn!(%error, key = %self.key, "a left-over upload could not be removed; pruning finds it");
        }
        Ok(info)
    }

    async fn abort(&self) -> Result<()> {
        let mut state = self.state.lock().await;
        state.held = None;
        match self.abort_at_server(&mut state).await {
            Err(error) if error.kind() != Kind::NotFound => Err(error),
            _ => {
                state.over = true;
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entity_tags_come_out_as_they_went_in() {
        let usual = "\"0cc175b9c0f1b6a831c399e269772661\"";
        assert!(matches!(Etag::parse(usual), Etag::Hex(_)));
        for text in [
            usual,
            "0cc175b9c0f1b6a831c399e269772661",
            "\"0CC175B9C0F1B6A831C399E269772661\"",
            "\"+cc175b9c0f1b6a831c399e269772661\"",
            "\"0cc175b9c0f1b6a831c399e269772661-2\"",
            "\"abc\"",
            "",
        ] {
            assert_eq!(Etag::parse(text).show(), text);
        }
    }
}
