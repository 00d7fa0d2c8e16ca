//! Comparing stored bytes with a record, without any key: `verify --depth stored`.
//!
//! This module never decrypts and never decodes.

use super::budget::{Budget, Transfer, worker_failed};
use super::digest::{self, GrowingPart, PieceDigest, Tree};
use super::index::{at, in_segment, read_exactly, segment_number};
use super::segment::SealedSegments;
use crate::error::{Error, Kind, Result};
use crate::failpoint::{self, Breakage};
use crate::record::ArtifactRecord;
use futures_util::stream::{StreamExt, TryStreamExt};
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// Who says where in a segment the damage is: the digests are of the whole.
const WHERE: &str = "`verify --depth contents` reads its frames and says";

/// Reads every stored byte of the artifact and compares sizes, BLAKE3 and CRC64NVME of each segment
/// with the record.
///
/// `progress` is called with the number of stored bytes that were compared since the last call.
/// All segments are looked at; damage is reported for each of them. Memory: K parts, and the one whose digests are awaited.
///
/// Errors: `Damaged` with one `segment` fact for each segment that is not as recorded; a store
/// that can not be read ends it at once with its own error.
pub async fn check_stored(
    record: &ArtifactRecord,
    segments: &dyn SealedSegments,
    budget: &Arc<Budget>,
    progress: impl Fn(u64) + Send + Sync,
    cancel: CancellationToken,
) -> Result<()> {
    let look = Look { record, segments, transfer: &budget.begin(), progress: &progress, place: Some(WHERE) };
    let check = look.all_segments();
    cancel.run_until_cancelled(check).await.unwrap_or_else(|| Err(Error::cancelled("the check was cancelled")))
}

/// A look at what is stored of an artifact, without any key.
pub(crate) struct Look<'a> {
    /// What it must be.
    pub record: &'a ArtifactRecord,
    /// Where it lies.
    pub segments: &'a dyn SealedSegments,
    /// Whose buffers and workers are used.
    pub transfer: &'a Transfer,
    /// Called with the number of stored bytes that were read since the last call.
    pub progress: &'a (dyn Fn(u64) + Send + Sync),
    /// Who can tell where in a segment the damage is, if anybody can.
    pub place: Option<&'static str>,
}

impl Look<'_> {
    /// As [`check_stored`], without a way to cancel it.
    pub(super) async fn all_segments(&self) -> Result<()> {
        let mut damage: Vec<Error> = Vec::new();
        for i in 0..self.record.segments.len() {
            match self.segment(i).await {
                Ok(()) => {}
                Err(error) if error.kind() == Kind::Damaged => damage.push(error),
                Err(error) => return Err(error),
            }
        }
        if self.record.segments.is_empty() {
            damage.push(Error::damaged("the record names no segment"));
        }
        if damage.is_empty() {
            return Ok(());
        }
        let mut error = Error::damaged(format!("artifact \"{}\" is not stored as it was recorded", self.record.name));
        for one in damage {
            let facts = one.origin().facts().iter().map(|(label, value)| format!(", {label} {value}"));
            let what = format!("{}: {}{}", one.message(), one.origin().message(), facts.collect::<String>());
            error = error.fact("segment", what);
        }
        Err(error)
    }

    /// Compares the `i`th segment of the record with what is stored. Errors: `Damaged` with its number, and those
    /// of the store.
    pub(crate) async fn segment(&self, i: usize) -> Result<()> {
        let (record, transfer) = (self.record, self.transfer);
        let (number, expected) = (segment_number(i)?, &record.segments[i]);
        let size = expected.stored_bytes;
        // What is no digest is not shown either: it may be anything.
        if blake3::Hash::from_hex(&expected.blake3).is_err() || u64::from_str_radix(&expected.crc64nvme, 16).is_err() {
            let cause = Error::damaged("the record is not true: its digests are not hex digits");
            return Err(in_segment(record, number, cause));
        }
        let known = self.segments.stored_bytes(number).await.map_err(|error| at(record, number, 0, error))?;
        if let Some(known) = known.filter(|known| *known != size) {
            let cause = Error::damaged("its size is not the recorded one")
                .fact("expected", format!("{size} bytes"))
                .fact("got", format!("{known} bytes"));
            return Err(at(record, number, size.min(known), cause));
        }
        let run_bytes = transfer.budget().run_bytes();
        let n_ahead = transfer.budget().settings().n_parts_in_flight;
        let runs = futures_util::stream::iter(0..size.div_ceil(run_bytes)).map(|run| async move {
            let start = run * run_bytes;
            let room = transfer.room().await;
            let read = read_exactly(self.segments, number, start..size.min(start + run_bytes), &room).await;
            let bytes = read.map_err(|error| at(record, number, start, error))?;
            let len = bytes.len() as u64;
            // A run is three quarters of a power of two, and each of them a subtree.
            let pieces = transfer.budget().submit(move |_| pieces(start, &bytes, run_bytes / 3));
            let pieces = pieces.await.map_err(worker_failed)?;
            (self.progress)(len);
            Ok::<_, Error>(pieces)
        });
        let (mut tree, mut crc) = (Tree::default(), 0);
        let mut runs = runs.buffered(n_ahead);
        while let Some(pieces) = runs.try_next().await? {
            for (piece_crc, piece, len) in pieces {
                crc = digest::combine_crc64nvme(crc, piece_crc, len);
                tree.push(&piece);
            }
        }
        let blake3 = tree.finish().map_or_else(String::new, |digest| digest.to_string());
        let crc = digest::show_crc(crc);
        let is_right = blake3 == expected.blake3 && crc == expected.crc64nvme;
        if is_right || failpoint::is_broken(Breakage::IgnoreStoredDigest) {
            return Ok(());
        }
        let cause = Error::damaged("its bytes are not the recorded ones")
            .fact("expected", format!("BLAKE3 {} CRC64NVME {}", expected.blake3, expected.crc64nvme))
            .fact("got", format!("BLAKE3 {blake3} CRC64NVME {crc}"));
        let cause = self.place.into_iter().fold(cause, |cause, place| cause.fact("where in it", place));
        Err(in_segment(record, number, cause))
    }
}

/// Digests and lengths of `bytes`, which begin at `start`, in pieces of as many bytes as a subtree has.
fn pieces(start: u64, bytes: &[u8], piece_bytes: u64) -> Vec<(u64, PieceDigest, u64)> {
    let most = usize::try_from(piece_bytes).unwrap_or(usize::MAX);
    let digests = (start..).step_by(most).zip(bytes.chunks(most)).map(|(start, piece)| {
        let (crc, digest) = GrowingPart::begin(start).finish(piece);
        (crc, digest, piece.len() as u64)
    });
    digests.collect()
}
