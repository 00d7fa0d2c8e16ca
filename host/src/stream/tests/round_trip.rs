//! What goes in comes out, and standard tools can read it.

use super::*;

fn check_round_trip(kit: &Kit, plain: &[u8], options: WriteOptions, identity: Option<&Identity>) {
    let what = format!("{} bytes, {:?}, encrypted {}", plain.len(), options.compression, identity.is_some());
    let (segments, record) = kit.store(plain, options);
    assert_eq!(record.size, plain.len() as u64, "{what}");
    assert_eq!(record.blake3, blake3::hash(plain).to_string(), "{what}");
    assert_eq!(record.encrypted, identity.is_some());
    let visible = segments.visible();
    assert!(visible.keys().copied().eq(1..=record.segments.len() as u32), "{what}");
    for (recorded, stored) in record.segments.iter().zip(visible.values()) {
        assert_eq!(recorded.stored_bytes, stored.len() as u64, "{what}");
        assert_eq!(recorded.blake3, blake3::hash(stored).to_string(), "{what}");
        assert_eq!(recorded.crc64nvme, format!("{:016x}", crc_fast::crc64_nvme(stored)), "{what}");
    }
    assert!(decode_with_standard_parts(&visible.values().cloned().collect::<Vec<_>>(), identity) == plain, "{what}");
    assert!(kit.read(&record, &segments, identity).unwrap() == plain, "{what}");
    kit.check(&record, &segments).unwrap();
    wait_until("everything given back", || kit.budget.in_use() == InUse { frame_buffers: 0, parts: 0 });
}

/// `for s in segments; do age -d "$s"; done | zstd -d`, with the libraries of these tools.
fn decode_with_standard_parts(segments: &[Bytes], identity: Option<&Identity>) -> Vec<u8> {
    let mut zstd = Vec::new();
    for segment in segments {
        match identity {
            None => zstd.extend_from_slice(segment),
            Some(identity) => {
                let secret: age::x25519::Identity = identity.to_secret().expose().trim().parse().unwrap();
                let decryptor = age::Decryptor::new(&segment[..]).unwrap();
                decryptor.decrypt([&secret as &dyn age::Identity].into_iter()).unwrap().read_to_end(&mut zstd).unwrap();
            }
        }
    }
    let mut context = zstd_safe::DCtx::create();
    let mut input = zstd_safe::InBuffer::around(&zstd);
    let (mut plain, mut piece) = (Vec::new(), vec![0; 1 << 17]);
    loop {
        let mut output = zstd_safe::OutBuffer::around(&mut piece[..]);
        context.decompress_stream(&mut output, &mut input).unwrap();
        plain.extend_from_slice(output.as_slice());
        if input.pos() == zstd.len() && output.pos() < output.capacity() {
            return plain;
        }
    }
}

#[test]
fn artifacts_of_every_length_around_the_borders_come_back() {
    let kit = Kit::new();
    let identity = Identity::generate();
    let noise = noise(5 * FRAME_BYTES + 12_345, 1);
    let chunk = seal::CHUNK_BYTES;
    let lengths = [0, 1, chunk - 1, chunk, FRAME_BYTES - 1, FRAME_BYTES, FRAME_BYTES + 1, 2 * FRAME_BYTES, noise.len()];
    for len in lengths {
        for compression in [Compression::default(), Compression::Raw] {
            let options = |options: WriteOptions| WriteOptions { compression, ..options };
            check_round_trip(&kit, &noise[..len], options(super::options()), None);
            check_round_trip(&kit, &noise[..len], options(sealed_for(&identity)), Some(&identity));
        }
    }
    check_round_trip(&kit, &text(9_000_000), sealed_for(&identity), Some(&identity));
}

#[test]
fn an_artifact_rolls_through_a_dozen_segments_and_is_read_back_from_any_offset() {
    let kit = Kit::new();
    let identity = Identity::generate();
    let plain = noise(23 * FRAME_BYTES + 77, 2);
    let (segments, record) = kit.store(&plain, sealed_for(&identity));
    assert_eq!(record.segments.len(), 12);
    assert!(record.segments.iter().all(|segment| segment.stored_bytes <= 20 * MIN_PART_BYTES as u64));
    let reader = kit.open(&record, &segments, Some(&identity)).unwrap();
    assert!(read_all(&mut reader.range(0..reader.size()).unwrap()).unwrap() == plain);
    // More segments than are kept at hand, forwards and backwards.
    for at in (0..24).chain((0..24).rev()).map(|frame| frame * FRAME_BYTES) {
        let len = 10.min(plain.len() - at);
        assert_eq!(reader.read_at(at as u64, len).unwrap(), &plain[at..at + len]);
    }
    for (start, end) in [
        (0, 0),
        (5, 5),
        (FRAME_BYTES - 3, FRAME_BYTES + 3),
        (3 * FRAME_BYTES, 9 * FRAME_BYTES + 1),
        (plain.len(), plain.len()),
    ] {
        let mut range = reader.range(start as u64..end as u64).unwrap();
        assert_eq!(range.open().unwrap().len, Some((end - start) as u64));
        assert!(read_all(&mut range).unwrap() == plain[start..end], "{start} to {end}");
        assert!(reader.read_at(start as u64, end - start).unwrap() == plain[start..end], "{start} to {end}");
    }
    let len = plain.len() as u64;
    for (start, end) in [(len + 1, len + 2), (0, u64::MAX), (7, 6)] {
        assert_eq!(reader.range(start..end).map(|_| ()).unwrap_err().kind(), Kind::Invalid);
    }
    assert_eq!(reader.read_at(u64::MAX, 2).unwrap_err().kind(), Kind::Invalid);
}

#[test]
fn small_reads_give_the_same_bytes_as_chunks() {
    let kit = Kit::new();
    let plain = text(FRAME_BYTES + 1000);
    let (segments, record) = kit.store(&plain, options());
    let mut reader = kit.open(&record, &segments, None).unwrap();
    let (mut back, mut buf) = (Vec::<u8>::new(), [0; 4001]);
    loop {
        match reader.read(&mut buf).unwrap() {
            0 => break,
            n => back.extend(&buf[..n]),
        }
    }
    assert!(back == plain);
    assert_eq!(reader.read(&mut buf).unwrap(), 0, "the end stays the end");
}

#[test]
fn progress_counts_every_byte_once() {
    let kit = Kit::new();
    let seen = Arc::new(AtomicU64::new(0));
    let progress = {
        let seen = seen.clone();
        move |n| {
            seen.fetch_add(n, Ordering::Relaxed);
        }
    };
    let source = Source::new(Origin::Plugin, InMemory::new(text(5_000_000)));
    let segments: Arc<dyn Segments> = Arc::new(MemorySegments::default());
    let write = write_artifact(source, options(), &kit.budget, segments, progress, CancellationToken::new());
    kit.runtime.block_on(write).unwrap();
    assert_eq!(seen.load(Ordering::Relaxed), 5_000_000);
}

#[test]
fn an_artifact_read_back_is_a_source_like_any_other() {
    let kit = Kit::new();
    let identity = Identity::generate();
    let plain = noise(7 * FRAME_BYTES + 1, 3);
    let (segments, record) = kit.store(&plain, sealed_for(&identity));
    let (again, _) = {
        let reader = kit.open(&record, &segments, Some(&identity)).unwrap();
        let copy = MemorySegments::default();
        let stored = kit.write_to(Arc::new(copy.clone()), Source::new(Origin::Archive, reader), options()).unwrap();
        (record_of(record.name.clone(), stored), copy)
    };
    assert_eq!(again.blake3, record.blake3);
}

#[test]
fn many_transfers_at_once_share_one_small_budget_and_all_end() {
    let kit = Kit::with(BudgetSettings { n_workers: 1, n_parts_in_flight: 1, part_bytes: MIN_PART_BYTES });
    let plain = noise(3 * FRAME_BYTES, 4);
    let writes = (0..8).map(|_| {
        let segments: Arc<dyn Segments> = Arc::new(MemorySegments::default());
        let source = Source::new(Origin::Plugin, InMemory::new(plain.clone()));
        write_artifact(source, options(), &kit.budget, segments, |_| {}, CancellationToken::new())
    });
    for stored in kit.runtime.block_on(futures_util::future::join_all(writes)) {
        assert_eq!(stored.unwrap().blake3, blake3::hash(&plain).to_string());
    }
    let peak = kit.budget.peak();
    assert!(peak.frame_buffers <= 3 + 8, "3W + T frames: {peak:?}");
    assert!(peak.parts <= 1 + 8, "K + T parts: {peak:?}");
}

#[test]
fn an_artifact_is_read_back_into_buffers_that_are_used_again() {
    let kit = Kit::with(BudgetSettings { n_workers: 2, n_parts_in_flight: 2, part_bytes: 8 << 20 });
    let plain = noise(20 * FRAME_BYTES, 6);
    let (segments, record) = kit.store(&plain, options());
    let reading = Kit::with(kit.budget.settings());
    assert!(reading.read(&record, &segments, None).unwrap() == plain);
    let peak = reading.budget.read_buffers_peak();
    assert!((1..=3).contains(&peak), "ten runs of frames were read into {peak} buffers of K + T = 3");
    reading.check(&record, &segments).unwrap();
    assert!(reading.budget.read_buffers_peak() <= 3, "so are stored bytes that are only compared");
}

#[test]
fn the_halves_of_a_tee_are_stored_by_two_transfers_without_waiting_in_a_circle() {
    let kit = Kit::with(BudgetSettings { n_workers: 1, n_parts_in_flight: 1, part_bytes: MIN_PART_BYTES });
    let plain = noise(6 * FRAME_BYTES, 5);
    let (a, b) = tee(Source::new(Origin::Plugin, InMemory::new(plain.clone())), CancellationToken::new());
    let write = |source| {
        let segments: Arc<dyn Segments> = Arc::new(MemorySegments::default());
        write_artifact(source, options(), &kit.budget, segments, |_| {}, CancellationToken::new())
    };
    let (a, b) = kit.runtime.block_on(futures_util::future::join(write(a), write(b)));
    assert_eq!((a.unwrap().blake3, b.unwrap().size), (blake3::hash(&plain).to_string(), plain.len() as u64));
}

/// A store that keeps each part that it may keep until its segment is completed.
#[derive(Clone, Default)]
struct Holding {
    inner: MemorySegments,
    /// Segment and number of each part, and whether it may be kept.
    parts: Arc<Mutex<Vec<(u32, u32, bool)>>>,
}

struct HoldingWrite {
    inner: Arc<dyn SegmentWrite>,
    number: u32,
    to: Holding,
    held: Mutex<Vec<Bytes>>,
}

#[async_trait]
impl Segments for Holding {
    async fn begin(&self, number: u32) -> Result<Arc<dyn SegmentWrite>> {
        let inner = self.inner.begin(number).await?;
        Ok(Arc::new(HoldingWrite { inner, number, to: self.clone(), held: Mutex::default() }))
    }
}

#[async_trait]
impl SegmentWrite for HoldingWrite {
    async fn part(&self, number: u32, body: Bytes, crc64nvme: u64, is_only: bool) -> Result<()> {
        self.to.parts.lock().unwrap().push((self.number, number, is_only));
        if is_only {
            self.held.lock().unwrap().push(body.clone());
        }
        self.inner.part(number, body, crc64nvme, is_only).await
    }
    async fn complete(&self, n_parts: u32, stored_bytes: u64, crc64nvme: u64) -> Result<()> {
        self.held.lock().unwrap().clear();
        self.inner.complete(n_parts, stored_bytes, crc64nvme).await
    }
    async fn abort(&self) -> Result<()> {
        self.inner.abort().await
    }
}

#[test]
fn a_store_that_keeps_what_it_may_keep_never_stops_the_halves_of_a_tee() {
    let kit = Kit::with(BudgetSettings { n_workers: 1, n_parts_in_flight: 1, part_bytes: MIN_PART_BYTES });
    let plain = noise(6 * FRAME_BYTES, 6);
    let (a, b) = tee(Source::new(Origin::Plugin, InMemory::new(plain.clone())), CancellationToken::new());
    let stores = [Holding::default(), Holding::default()];
    let writes = [a, b].into_iter().zip(&stores).map(|(source, store)| {
        let segments: Arc<dyn Segments> = Arc::new(store.clone());
        write_artifact(source, options(), &kit.budget, segments, |_| {}, CancellationToken::new())
    });
    let writes = futures_util::future::join_all(writes);
    let stored = kit.runtime.block_on(async { tokio::time::timeout(Duration::from_secs(120), writes).await });
    for stored in stored.expect("two transfers wait for one another") {
        assert_eq!(stored.unwrap().segments.len(), 3);
    }
    for store in stores {
        assert!(store.parts.lock().unwrap().iter().all(|(_, _, is_only)| !is_only), "more followed each of these");
    }
}

#[test]
fn only_the_single_part_of_a_small_artifact_may_be_kept() {
    for (len, expected) in [(100, vec![(1, 1, true)]), (MIN_PART_BYTES + 9, vec![(1, 1, false), (1, 2, false)])] {
        let (kit, store) = (Kit::new(), Holding::default());
        let source = Source::new(Origin::Plugin, InMemory::new(noise(len, 7)));
        kit.write_to(Arc::new(store.clone()), source, options()).unwrap();
        let mut parts = store.parts.lock().unwrap().clone();
        parts.sort_unstable();
        assert_eq!(parts, expected);
    }
}

#[test]
fn segments_of_a_single_part_are_refused() {
    let kit = Kit::with(BudgetSettings { n_workers: 1, n_parts_in_flight: 1, part_bytes: 4 << 20 });
    let source = Source::new(Origin::Plugin, InMemory::new("x"));
    let options = WriteOptions { parts_per_segment: 1, ..options() };
    let error = kit.write_to(Arc::new(MemorySegments::default()), source, options).unwrap_err();
    assert_eq!(error.kind(), Kind::Invalid);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn any_bytes_come_back(len in 0_usize..3 * FRAME_BYTES, seed: u64, is_text: bool, is_raw: bool, is_sealed: bool) {
        let kit = Kit::new();
        let identity = is_sealed.then(Identity::generate);
        let plain = if is_text { text(len) } else { noise(len, seed) };
        let compression = if is_raw { Compression::Raw } else { Compression::Level(1) };
        let options = identity.as_ref().map_or_else(super::options, sealed_for);
        check_round_trip(&kit, &plain, WriteOptions { compression, ..options }, identity.as_ref());
    }
}
