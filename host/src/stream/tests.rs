//! The whole core, from a source to sealed segments and back, with everything that can go wrong.

use super::budget::{InUse, MIN_PART_BYTES};
use super::frame::FRAME_BYTES;
use super::memory::MemorySegments;
use super::seal::Identity;
use super::source::InMemory;
use super::*;
use crate::error::{Error, Kind, Result};
use crate::record::{ArtifactRecord, SegmentRecord};
use async_trait::async_trait;
use bytes::Bytes;
use proptest::prelude::*;
use std::io::Read as _;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::{Notify, Semaphore};
use tokio_util::sync::CancellationToken;

mod by_hand;
mod damage;
mod faults;
mod level;
mod round_trip;

/// A runtime, a budget and the small parts that make many segments.
struct Kit {
    runtime: tokio::runtime::Runtime,
    budget: Arc<Budget>,
}

impl Kit {
    fn new() -> Self {
        Self::with(BudgetSettings { n_workers: 2, n_parts_in_flight: 4, part_bytes: MIN_PART_BYTES })
    }

    fn with(settings: BudgetSettings) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        Self { runtime, budget: Budget::new(settings).unwrap() }
    }

    fn write_to(&self, segments: Arc<dyn Segments>, source: Source, options: WriteOptions) -> Result<StoredArtifact> {
        let write = write_artifact(source, options, &self.budget, segments, |_| {}, CancellationToken::new());
        self.runtime.block_on(write)
    }

    /// A write that can be spawned.
    fn begin_write(
        &self,
        segments: Arc<dyn Segments>,
        source: Source,
        options: WriteOptions,
        progress: impl Fn(u64) + Send + 'static,
        cancel: CancellationToken,
    ) -> impl Future<Output = Result<StoredArtifact>> + Send + 'static {
        let budget = self.budget.clone();
        async move { write_artifact(source, options, &budget, segments, progress, cancel).await }
    }

    /// Stores `plain` in memory; fails the test if anything is left in use.
    fn store(&self, plain: &[u8], options: WriteOptions) -> (MemorySegments, ArtifactRecord) {
        let segments = MemorySegments::default();
        let source = Source::new(Origin::Plugin, InMemory::new(plain.to_vec()));
        let name = options.name.clone();
        let stored = self.write_to(Arc::new(segments.clone()), source, options).unwrap();
        assert_eq!(segments.n_pending(), 0);
        (segments, record_of(name, stored))
    }

    fn open(
        &self,
        record: &ArtifactRecord,
        from: &MemorySegments,
        identity: Option<&Identity>,
    ) -> Result<ArtifactReader> {
        let from: Arc<dyn SealedSegments> = Arc::new(from.clone());
        self.runtime.block_on(open_artifact(record, from, identity, &self.budget, CancellationToken::new()))
    }

    fn read(&self, record: &ArtifactRecord, from: &MemorySegments, identity: Option<&Identity>) -> Result<Vec<u8>> {
        read_all(&mut self.open(record, from, identity)?)
    }

    fn check(&self, record: &ArtifactRecord, from: &MemorySegments) -> Result<()> {
        self.runtime.block_on(check_stored(record, from, &self.budget, |_| {}, CancellationToken::new()))
    }
}

fn read_all(source: &mut dyn ByteSource) -> Result<Vec<u8>> {
    let mut all = Vec::new();
    while let Some(bytes) = source.next_chunk()? {
        all.extend_from_slice(&bytes);
    }
    Ok(all)
}

fn options() -> WriteOptions {
    // 20 parts of 256 KiB: a segment holds two frames that do not compress.
    WriteOptions { parts_per_segment: 20, ..WriteOptions::new("shop.dump".parse().unwrap()) }
}

fn sealed_for(identity: &Identity) -> WriteOptions {
    WriteOptions { recipients: Some(Arc::new(identity.to_recipients())), ..options() }
}

fn record_of(name: crate::id::ArtifactName, stored: StoredArtifact) -> ArtifactRecord {
    ArtifactRecord {
        name,
        size: stored.size,
        blake3: stored.blake3,
        media_type: None,
        origin: Origin::Plugin,
        encrypted: stored.encrypted,
        segments: stored.segments,
        index: None,
    }
}

/// Bytes that do not compress, the same for the same seed.
fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

/// Lines like those of a dump.
fn text(len: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(len + 100);
    let mut i = 0_u64;
    while bytes.len() < len {
        bytes.extend(
            format!("{i}\tcustomer {}\t{}\tactive\n", i % 977, i.wrapping_mul(2_654_435_761) % 100_003).bytes(),
        );
        i += 1;
    }
    bytes.truncate(len);
    bytes
}

fn wait_until(what: &str, condition: impl Fn() -> bool) {
    let start = std::time::Instant::now();
    while !condition() {
        assert!(start.elapsed() < Duration::from_secs(30), "{what} did not come to pass");
        std::thread::yield_now();
    }
}
