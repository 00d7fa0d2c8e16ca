//! Failing, stalling and hanging ends: everything is aborted, nothing is visible, nobody waits.

use super::*;

/// A store in memory that does what it is told at one of its calls.
#[derive(Clone, Default)]
struct Faulty {
    inner: MemorySegments,
    plan: Arc<Plan>,
}

#[derive(Default)]
struct Plan {
    /// Number of the call (begin, part and complete are counted together) that fails or hangs.
    at: usize,
    hang: bool,
    abort_hangs: bool,
    n_calls: AtomicUsize,
    n_begun: AtomicUsize,
    n_aborted: AtomicUsize,
    reached: Notify,
}

impl Faulty {
    fn new(plan: Plan) -> Self {
        Self { inner: MemorySegments::default(), plan: Arc::new(plan) }
    }

    async fn call(&self) -> Result<()> {
        let n = self.plan.n_calls.fetch_add(1, Ordering::SeqCst) + 1;
        if n != self.plan.at {
            return Ok(());
        }
        self.plan.reached.notify_one();
        if self.plan.hang {
            std::future::pending::<()>().await;
        }
        Err(Error::unavailable(format!("call {n} failed on purpose")))
    }
}

#[async_trait]
impl Segments for Faulty {
    async fn begin(&self, number: u32) -> Result<Arc<dyn SegmentWrite>> {
        self.call().await?;
        let inner = self.inner.begin(number).await?;
        self.plan.n_begun.fetch_add(1, Ordering::SeqCst);
        Ok(Arc::new(FaultyWrite { inner, faulty: self.clone() }))
    }
}

struct FaultyWrite {
    inner: Arc<dyn SegmentWrite>,
    faulty: Faulty,
}

#[async_trait]
impl SegmentWrite for FaultyWrite {
    async fn part(&self, number: u32, body: Bytes, crc64nvme: u64, is_only: bool) -> Result<()> {
        self.faulty.call().await?;
        self.inner.part(number, body, crc64nvme, is_only).await
    }
    async fn complete(&self, n_parts: u32, stored_bytes: u64, crc64nvme: u64) -> Result<()> {
        self.faulty.call().await?;
        self.inner.complete(n_parts, stored_bytes, crc64nvme).await
    }
    async fn abort(&self) -> Result<()> {
        if self.faulty.plan.abort_hangs {
            std::future::pending::<()>().await;
        }
        self.inner.abort().await?;
        self.faulty.plan.n_aborted.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }
}

/// Bytes and then a failure.
struct Failing(InMemory);

impl ByteSource for Failing {
    fn read(&mut self, buf: &mut [u8]) -> Result<usize> {
        match self.0.read(buf)? {
            0 => Err(Error::failed("exit code 3")),
            n => Ok(n),
        }
    }
}

/// Bytes and then nothing until it is let go, like a producer that hangs.
struct Hanging {
    first: InMemory,
    reached: Arc<Notify>,
    _held: std::sync::mpsc::Sender<()>,
    until: Mutex<std::sync::mpsc::Receiver<()>>,
}

impl ByteSource for Hanging {
    fn read(&mut self, buf: &mut [u8]) -> Result<usize> {
        match self.first.read(buf)? {
            0 => {
                self.reached.notify_one();
                let _ = self.until.lock().unwrap().recv();
                Ok(0)
            }
            n => Ok(n),
        }
    }
}

fn check_nothing_left(kit: &Kit, store: &Faulty, what: &str) {
    wait_until(what, || store.inner.n_pending() == 0);
    assert!(store.inner.visible().is_empty(), "{what}: something is visible");
    let n = |counter: &AtomicUsize| counter.load(Ordering::SeqCst);
    wait_until(what, || n(&store.plan.n_begun) == n(&store.plan.n_aborted));
    wait_until(what, || kit.budget.in_use() == InUse { frame_buffers: 0, parts: 0 });
}

fn n_calls_of_a_good_write(kit: &Kit, plain: &[u8]) -> usize {
    let store = Faulty::default();
    let source = Source::new(Origin::Plugin, InMemory::new(plain.to_vec()));
    kit.write_to(Arc::new(store.clone()), source, options()).unwrap();
    store.plan.n_calls.load(Ordering::SeqCst)
}

#[test]
fn a_store_that_fails_at_any_call_leaves_nothing() {
    let kit = Kit::new();
    let plain = noise(3 * FRAME_BYTES, 20);
    let n_calls = n_calls_of_a_good_write(&kit, &plain);
    assert!(n_calls > 20);
    for at in 1..=n_calls {
        let store = Faulty::new(Plan { at, ..Plan::default() });
        let source = Source::new(Origin::Plugin, InMemory::new(plain.clone()));
        let error = kit.write_to(Arc::new(store.clone()), source, options()).unwrap_err();
        assert_eq!(error.kind(), Kind::Unavailable, "call {at}: {error:?}");
        assert_eq!(error.message(), "could not store artifact \"shop.dump\"");
        assert_eq!(error.origin().message(), format!("call {at} failed on purpose"));
        check_nothing_left(&kit, &store, &format!("call {at}"));
    }
}

#[test]
fn a_producer_that_fails_at_any_point_never_becomes_an_artifact() {
    let kit = Kit::new();
    for len in [0, 1, FRAME_BYTES - 1, FRAME_BYTES, FRAME_BYTES + 1, 3 * FRAME_BYTES, 7 * FRAME_BYTES + 5] {
        let store = Faulty::default();
        let source = Source::new(Origin::Plugin, Failing(InMemory::new(noise(len, 21))));
        let error = kit.write_to(Arc::new(store.clone()), source, options()).unwrap_err();
        assert_eq!(error.origin().message(), "exit code 3", "{len}: {error:?}");
        check_nothing_left(&kit, &store, &format!("{len}"));
    }
}

/// A source that breaks its own contract.
struct Broken(fn(&mut [u8]) -> Result<usize>, Option<u64>);

impl ByteSource for Broken {
    fn open(&mut self) -> Result<SourceInfo> {
        match self.1 {
            Some(0) => Err(Error::not_found("it is gone")),
            len => Ok(SourceInfo { len, attributes: Vec::new() }),
        }
    }
    fn read(&mut self, buf: &mut [u8]) -> Result<usize> {
        (self.0)(buf)
    }
}

#[test]
fn a_source_that_lies_panics_or_does_not_open_fails_the_artifact() {
    let kit = Kit::new();
    let cases: [(&str, Broken); 4] = [
        ("more than there was room for", Broken(|buf| Ok(buf.len() + 1), None)),
        ("shorter than it said", Broken(|_| Ok(0), Some(5))),
        ("a panic", Broken(|_| panic!("on purpose"), None)),
        ("not opened", Broken(|_| Ok(0), Some(0))),
    ];
    for (what, source) in cases {
        let store = Faulty::default();
        let source = Source::new(Origin::Plugin, source);
        assert!(kit.write_to(Arc::new(store.clone()), source, options()).is_err(), "{what}");
        check_nothing_left(&kit, &store, what);
    }
}

/// Fails a part of the first segment at the very moment at which the second one begins.
struct Racing {
    inner: MemorySegments,
    second: Arc<Notify>,
}

#[async_trait]
impl Segments for Racing {
    async fn begin(&self, number: u32) -> Result<Arc<dyn SegmentWrite>> {
        let inner = self.inner.begin(number).await?;
        if number == 2 {
            self.second.notify_one();
        }
        Ok(Arc::new(RacingWrite { inner, number, second: self.second.clone() }))
    }
}

struct RacingWrite {
    inner: Arc<dyn SegmentWrite>,
    number: u32,
    second: Arc<Notify>,
}

#[async_trait]
impl SegmentWrite for RacingWrite {
    async fn part(&self, number: u32, body: Bytes, crc64nvme: u64, is_only: bool) -> Result<()> {
        if (self.number, number) == (1, 17) {
            self.second.notified().await;
            return Err(Error::unavailable("on purpose"));
        }
        self.inner.part(number, body, crc64nvme, is_only).await
    }
    async fn complete(&self, n_parts: u32, stored_bytes: u64, crc64nvme: u64) -> Result<()> {
        self.inner.complete(n_parts, stored_bytes, crc64nvme).await
    }
    async fn abort(&self) -> Result<()> {
        self.inner.abort().await
    }
}

#[test]
fn a_segment_that_begins_while_another_one_fails_is_aborted_too() {
    let kit = Kit::new();
    let plain = noise(3 * FRAME_BYTES, 31);
    for round in 0..40 {
        let inner = MemorySegments::default();
        let store = Racing { inner: inner.clone(), second: Arc::default() };
        let source = Source::new(Origin::Plugin, InMemory::new(plain.clone()));
        let error = kit.write_to(Arc::new(store), source, options()).unwrap_err();
        assert_eq!(error.kind(), Kind::Unavailable, "round {round}: {error:?}");
        wait_until("both aborted", || inner.n_pending() == 0);
    }
}

/// Begins a write, cancels it when `reached` says so, and expects an answer soon.
fn check_cancel(kit: &Kit, store: &Faulty, source: Source, options: WriteOptions, reached: &Notify) {
    let cancel = CancellationToken::new();
    let segments: Arc<dyn Segments> = Arc::new(store.clone());
    let write = kit.begin_write(segments, source, options, |_| {}, cancel.clone());
    let (error, took) = kit.runtime.block_on(async {
        let write = tokio::spawn(write);
        reached.notified().await;
        cancel.cancel();
        let start = std::time::Instant::now();
        (write.await.unwrap().unwrap_err(), start.elapsed())
    });
    assert_eq!(error.kind(), Kind::Cancelled, "{error:?}");
    assert!(took < Duration::from_secs(5), "{took:?}");
}

#[test]
fn a_cancelled_write_ends_promptly_while_the_store_hangs_at_any_call() {
    let kit = Kit::new();
    let plain = noise(3 * FRAME_BYTES, 22);
    let n_calls = n_calls_of_a_good_write(&kit, &plain);
    for at in (1..=n_calls).step_by(3).chain([n_calls]) {
        let store = Faulty::new(Plan { at, hang: true, ..Plan::default() });
        let source = Source::new(Origin::Plugin, InMemory::new(plain.clone()));
        check_cancel(&kit, &store, source, options(), &store.plan.reached);
        check_nothing_left(&kit, &store, &format!("hanging call {at}"));
    }
}

#[test]
fn a_cancelled_write_ends_promptly_even_when_aborting_hangs() {
    let kit = Kit::new();
    let store = Faulty::new(Plan { at: 3, hang: true, abort_hangs: true, ..Plan::default() });
    let source = Source::new(Origin::Plugin, InMemory::new(noise(FRAME_BYTES, 23)));
    let options = WriteOptions { abort_patience: Duration::from_millis(50), ..options() };
    check_cancel(&kit, &store, source, options, &store.plan.reached);
    assert!(store.inner.visible().is_empty());
}

#[test]
fn a_cancelled_write_ends_promptly_while_the_source_hangs() {
    let kit = Kit::new();
    let (held, until) = std::sync::mpsc::channel();
    let reached = Arc::new(Notify::new());
    let first = InMemory::new(noise(3 * FRAME_BYTES + 7, 24));
    let let_go = held.clone();
    let source = Hanging { first, reached: reached.clone(), _held: held, until: Mutex::new(until) };
    let store = Faulty::default();
    check_cancel(&kit, &store, Source::new(Origin::Plugin, source), options(), &reached);
    assert!(store.inner.visible().is_empty());
    let_go.send(()).unwrap();
    check_nothing_left(&kit, &store, "after the source returned");
}

#[test]
fn a_write_that_is_dropped_aborts_in_the_background() {
    let kit = Kit::new();
    let store = Faulty::new(Plan { at: 10, hang: true, ..Plan::default() });
    let source = Source::new(Origin::Plugin, InMemory::new(noise(3 * FRAME_BYTES, 25)));
    let segments: Arc<dyn Segments> = Arc::new(store.clone());
    let write = kit.begin_write(segments, source, options(), |_| {}, CancellationToken::new());
    kit.runtime.block_on(async {
        let write = tokio::spawn(write);
        store.plan.reached.notified().await;
        write.abort();
        assert!(write.await.unwrap_err().is_cancelled());
    });
    check_nothing_left(&kit, &store, "dropped");
}

#[test]
fn a_stalled_store_holds_the_source_back_within_the_published_memory() {
    let kit = Kit::new();
    let store = Faulty::new(Plan { at: 1, hang: true, ..Plan::default() });
    let read = Arc::new(AtomicU64::new(0));
    let progress = {
        let read = read.clone();
        move |n| {
            read.fetch_add(n, Ordering::SeqCst);
        }
    };
    let plain = noise(40 * FRAME_BYTES, 26);
    let source = Source::new(Origin::Plugin, InMemory::new(plain));
    let cancel = CancellationToken::new();
    let segments: Arc<dyn Segments> = Arc::new(store.clone());
    let write = kit.begin_write(segments, source, options(), progress, cancel.clone());
    let write = kit.runtime.spawn(write);
    // Five parts of 256 KiB (K + 1) and five frames (2W + 1) are all that it can take in; after
    // that it waits, and stays there.
    let taken_in = || read.load(Ordering::SeqCst);
    let is_beyond = || taken_in() > 7 * FRAME_BYTES as u64;
    let is_used_up = || kit.budget.in_use() == InUse { frame_buffers: 5, parts: 5 };
    wait_until("the budget is used up", || is_used_up() || is_beyond());
    assert!(!is_beyond(), "{} bytes were read", taken_in());
    cancel.cancel();
    assert_eq!(kit.runtime.block_on(write).unwrap().unwrap_err().kind(), Kind::Cancelled);
    let peak = kit.budget.peak();
    assert!(peak.frame_buffers <= 3 * 2 + 1 && peak.parts <= 4 + 1, "{peak:?}");
    assert!(kit.budget.part_buffers_peak() <= 4 + 1, "{} buffers of parts", kit.budget.part_buffers_peak());
    check_nothing_left(&kit, &store, "stalled");
}

/// A store whose every part waits for its turn.
struct InTurns {
    inner: MemorySegments,
    turns: Arc<Semaphore>,
}

struct InTurnsWrite {
    inner: Arc<dyn SegmentWrite>,
    turns: Arc<Semaphore>,
}

#[async_trait]
impl Segments for InTurns {
    async fn begin(&self, number: u32) -> Result<Arc<dyn SegmentWrite>> {
        let inner = self.inner.begin(number).await?;
        Ok(Arc::new(InTurnsWrite { inner, turns: self.turns.clone() }))
    }
}

#[async_trait]
impl SegmentWrite for InTurnsWrite {
    async fn part(&self, number: u32, body: Bytes, crc64nvme: u64, is_only: bool) -> Result<()> {
        self.turns.acquire().await.unwrap().forget();
        self.inner.part(number, body, crc64nvme, is_only).await
    }
    async fn complete(&self, n_parts: u32, stored_bytes: u64, crc64nvme: u64) -> Result<()> {
        self.inner.complete(n_parts, stored_bytes, crc64nvme).await
    }
    async fn abort(&self) -> Result<()> {
        self.inner.abort().await
    }
}

#[test]
fn transfers_into_a_slow_and_into_a_fast_store_share_the_published_memory() {
    const TRANSFERS: usize = 3;
    for is_slow in [true, false] {
        let kit = Kit::new();
        let turns = Arc::new(Semaphore::new(if is_slow { 0 } else { 1_000_000 }));
        let writes: Vec<_> = (0..TRANSFERS as u64)
            .map(|seed| {
                let source = Source::new(Origin::Plugin, InMemory::new(noise(6 * FRAME_BYTES, seed)));
                let segments = Arc::new(InTurns { inner: MemorySegments::default(), turns: turns.clone() });
                kit.runtime.spawn(kit.begin_write(segments, source, options(), |_| {}, CancellationToken::new()))
            })
            .collect();
        // Slow as can be: one part is let through each time when nothing more can be taken in. There
        // are some 150 of them.
        for _ in 0..if is_slow { 20 } else { 0 } {
            wait_until("the budget is used up", || kit.budget.in_use().parts == 4 + TRANSFERS);
            turns.add_permits(1);
            wait_until("the turn is taken", || turns.available_permits() == 0);
        }
        turns.add_permits(1_000_000);
        for write in writes {
            kit.runtime.block_on(write).unwrap().unwrap();
        }
        let peak = kit.budget.peak();
        assert!(peak.frame_buffers <= 3 * 2 + TRANSFERS && peak.parts <= 4 + TRANSFERS, "{is_slow}: {peak:?}");
        if is_slow {
            assert_eq!(peak.parts, 4 + TRANSFERS, "all of the budget is used when the store is slow");
        }
        assert_eq!(kit.budget.in_use(), InUse { frame_buffers: 0, parts: 0 });
    }
}

#[test]
fn a_consumer_that_is_slow_or_stops_keeps_reading_within_the_budget() {
    let kit = Kit::new();
    let identity = Identity::generate();
    let plain = noise(30 * FRAME_BYTES, 27);
    let (segments, record) = kit.store(&plain, sealed_for(&identity));
    let mut reader = kit.open(&record, &segments, Some(&identity)).unwrap();
    assert!(reader.next_chunk().unwrap().is_some());
    wait_until("the pipeline is full", || kit.budget.in_use().frame_buffers == 5);
    drop(reader);
    wait_until("all is given back", || kit.budget.in_use() == InUse { frame_buffers: 0, parts: 0 });
    let peak = kit.budget.peak();
    assert!(peak.frame_buffers <= 3 * 2 + 1 && peak.parts <= 4 + 1, "{peak:?}");
}

/// Reading that fails or hangs at its n-th call.
struct FaultyReads {
    inner: MemorySegments,
    at: usize,
    hang: bool,
    n_calls: AtomicUsize,
    reached: Arc<Notify>,
}

#[async_trait]
impl SealedSegments for FaultyReads {
    async fn read(&self, number: u32, range: Range<u64>, room: &Room) -> Result<Bytes> {
        let n = self.n_calls.fetch_add(1, Ordering::SeqCst) + 1;
        if n == self.at {
            self.reached.notify_one();
            if self.hang {
                std::future::pending::<()>().await;
            }
            return Err(Error::unavailable("on purpose"));
        }
        let bytes = self.inner.read(number, range, room).await?;
        // A store that answers short once is found as well.
        Ok(if self.at == usize::MAX && n == 5 { bytes.slice(..bytes.len() - 1) } else { bytes })
    }
}

#[test]
fn a_store_that_fails_while_segments_are_named_is_told_and_hides_no_damage() {
    let kit = Kit::new();
    let (segments, record) = kit.store(&noise(4 * FRAME_BYTES, 7), options());
    let good = segments.visible();
    assert_eq!(good.len(), 2);
    segments.put(1, Some(good[&2].clone()));
    segments.put(2, Some(good[&1].clone()));
    // Two reads are of the tails, which do not belong together; the third looks for the segment.
    let (n_calls, reached) = (AtomicUsize::new(0), Arc::default());
    let from = FaultyReads { inner: segments, at: 3, hang: false, n_calls, reached };
    let opened = open_artifact(&record, Arc::new(from), None, &kit.budget, CancellationToken::new());
    let error = kit.runtime.block_on(opened).map(drop).unwrap_err();
    assert_eq!(error.kind(), Kind::Damaged);
    let said = format!("{error:?}");
    assert!(said.contains("which one was not found out") && said.contains("on purpose"), "{said}");
    assert!(error.hint_text().is_some_and(|hint| hint.contains("--depth stored")), "{said}");
}

#[test]
fn a_store_that_fails_while_reading_is_told_from_damage_and_a_short_answer_is_damage() {
    let kit = Kit::new();
    let plain = noise(5 * FRAME_BYTES, 28);
    let (segments, record) = kit.store(&plain, options());
    let read = |at| {
        let from = FaultyReads {
            inner: segments.clone(),
            at,
            hang: false,
            n_calls: AtomicUsize::new(0),
            reached: Arc::default(),
        };
        let from: Arc<dyn SealedSegments> = Arc::new(from);
        let opened = open_artifact(&record, from, None, &kit.budget, CancellationToken::new());
        kit.runtime.block_on(opened).and_then(|mut reader| read_all(&mut reader))
    };
    for at in 1..=8 {
        assert_eq!(read(at).unwrap_err().kind(), Kind::Unavailable, "call {at}");
    }
    assert_eq!(read(usize::MAX).unwrap_err().kind(), Kind::Damaged);
    assert!(read(1000).unwrap() == plain);
}

#[test]
fn reading_is_cancelled_promptly_while_the_store_hangs() {
    let kit = Kit::new();
    let (segments, record) = kit.store(&noise(5 * FRAME_BYTES, 29), options());
    for at in [1, 2, 6] {
        let cancel = CancellationToken::new();
        let reached = Arc::new(Notify::new());
        let from = FaultyReads {
            inner: segments.clone(),
            at,
            hang: true,
            n_calls: AtomicUsize::new(0),
            reached: reached.clone(),
        };
        let stop = cancel.clone();
        kit.runtime.spawn(async move {
            reached.notified().await;
            stop.cancel();
        });
        let opened = open_artifact(&record, Arc::new(from), None, &kit.budget, cancel);
        let error = kit.runtime.block_on(opened).and_then(|mut reader| read_all(&mut reader)).unwrap_err();
        assert_eq!(error.kind(), Kind::Cancelled, "call {at}: {error:?}");
        wait_until("all is given back", || kit.budget.in_use() == InUse { frame_buffers: 0, parts: 0 });
    }
}

/// Reading frames takes its time, in threads that nobody can stop, as those that read a file.
struct SlowReads {
    inner: MemorySegments,
    reached: Arc<Notify>,
    /// Closed when the threads may go on.
    gate: Arc<Semaphore>,
}

#[async_trait]
impl SealedSegments for SlowReads {
    async fn read(&self, number: u32, range: Range<u64>, room: &Room) -> Result<Bytes> {
        let bytes = self.inner.read(number, range, &Room::fresh()).await?;
        if bytes.len() < FRAME_BYTES {
            return Ok(bytes);
        }
        let (room, reached, gate) = (room.clone(), self.reached.clone(), self.gate.clone());
        let read = tokio::task::spawn_blocking(move || {
            let copy = room.copy_of(&bytes);
            drop(room);
            reached.notify_one();
            assert!(crate::stream::blocking::wait_for(gate.acquire()).is_err(), "it is closed");
            copy
        });
        Ok(read.await.unwrap())
    }
}

#[test]
fn a_read_that_was_given_up_counts_until_its_buffer_is_free() {
    let kit = Kit::new();
    let (inner, record) = kit.store(&noise(4 * FRAME_BYTES, 25), options());
    let (reached, gate, cancel) = (Arc::new(Notify::new()), Arc::new(Semaphore::new(0)), CancellationToken::new());
    let from = Arc::new(SlowReads { inner, reached: reached.clone(), gate: gate.clone() });
    let stop = cancel.clone();
    kit.runtime.spawn(async move {
        reached.notified().await;
        stop.cancel();
    });
    let opened = open_artifact(&record, from, None, &kit.budget, cancel);
    let error = kit.runtime.block_on(opened).and_then(|mut reader| read_all(&mut reader)).unwrap_err();
    assert_eq!(error.kind(), Kind::Cancelled);
    std::thread::sleep(Duration::from_millis(100));
    let n_parts = kit.budget.in_use().parts;
    gate.close();
    assert!(n_parts > 0, "threads still read into them");
    wait_until("all is given back", || kit.budget.in_use() == InUse { frame_buffers: 0, parts: 0 });
}
