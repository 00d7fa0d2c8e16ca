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

/// Of a whole segment: where in it the damage is, only reading its frames tells.
const DIFFERS: &str = "its bytes are not the recorded ones";

/// Which look finds that place, in a backup.
const WHERE: &str = ", where in it `verify --depth contents` reads its frames and says";

/// Reads every stored byte of the artifact and compares sizes, BLAKE3 and CRC64NVME of each segment
/// with the record.
///
/// `progress` is called with the number of stored bytes that were compared since the last call.
/// All segments are looked at; damage is reported for each of them. Memory: K parts.
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
    let check = check_all(record, segments, budget, &progress);
    cancel.run_until_cancelled(check).await.unwrap_or_else(|| Err(Error::cancelled("the check was cancelled")))
}

/// As [`check_stored`], without a way to cancel it.
pub(super) async fn check_all(
    record: &ArtifactRecord,
    segments: &dyn SealedSegments,
    budget: &Arc<Budget>,
    progress: &(dyn Fn(u64) + Send + Sync),
) -> Result<()> {
    let transfer = budget.begin();
    let mut damage: Vec<Error> = Vec::new();
    for i in 0..record.segments.len() {
        match check_segment(record, i, segments, &transfer, progress).await {
            Ok(()) => {}
            Err(error) if error.kind() == Kind::Damaged => damage.push(error),
            Err(error) => return Err(error),
        }
    }
    if record.segments.is_empty() {
        damage.push(Error::damaged("the record names no segment"));
    }
    if damage.is_empty() {
        return Ok(());
    }
    let mut error = Error::damaged(format!("artifact \"{}\" is not stored as it was recorded", record.name));
    for one in damage {
        let what = one.origin().message();
        let facts: String = one.origin().facts().iter().map(|(label, value)| format!(", {label} {value}")).collect();
        let place = if what == DIFFERS { WHERE } else { "" };
        error = error.fact("segment", format!("{}: {what}{facts}{place}", one.message()));
    }
    Err(error)
}

/// As [`check_stored`], of the `i`th segment alone.
pub(crate) async fn check_segment(
    record: &ArtifactRecord,
    i: usize,
    segments: &dyn SealedSegments,
    transfer: &Transfer,
    progress: &(dyn Fn(u64) + Send + Sync),
) -> Result<()> {
    let (number, expected) = (segment_number(i)?, &record.segments[i]);
    let size = expected.stored_bytes;
    // What is no digest is not shown either: it may be anything.
    if blake3::Hash::from_hex(&expected.blake3).is_err() || u64::from_str_radix(&expected.crc64nvme, 16).is_err() {
        let cause = Error::damaged("the record is not true: its digests are not hex digits");
        return Err(in_segment(record, number, cause));
    }
    let known = segments.stored_bytes(number).await.map_err(|error| at(record, number, 0, error))?;
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
        let read = read_exactly(segments, number, start..size.min(start + run_bytes), &room).await;
        let bytes = read.map_err(|error| at(record, number, start, error))?;
        let len = bytes.len() as u64;
        // A run is three quarters of a power of two, and each of them a subtree.
        let pieces = transfer.budget().submit(move |_| pieces(start, &bytes, run_bytes / 3));
        let pieces = pieces.await.map_err(worker_failed)?;
        progress(len);
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
    let cause = Error::damaged(DIFFERS)
        .fact("expected", format!("BLAKE3 {} CRC64NVME {}", expected.blake3, expected.crc64nvme))
        .fact("got", format!("BLAKE3 {blake3} CRC64NVME {crc}"));
    Err(in_segment(record, number, cause))
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
