//! The budget of a process: worker threads and pooled buffers, shared by all open transfers.
//!
//! Peak memory of T open transfers with W workers and K parts in flight, whatever the size of the data
//! and the speed of the store:
//!
//! ```text
//! about 21 MiB + 2 MiB x (3W + T) + part_bytes x (K + T)
//! ```
//!
//! At fixed levels above 3, and with a level that follows the queues, a worker's compressor takes more than the
//! 1 MiB that is counted here: 5 MiB more at level 6, the highest that is chosen by itself.
//!
//! One thing grows: segments are completed only after the source has ended well, and a multipart
//! upload is completed with a list of its parts. So a store keeps some 60 bytes for each part that it
//! has, entity tag and checksum, until its artifact is whole: about 8 MiB for each TiB at rest of an
//! open transfer with parts of 8 MiB. Nothing else is kept for each part.
//!
//! Who reads an artifact back holds the frame that it was given last beyond that, and a part counts as 4 MiB at least.
//! It is read in runs of three quarters of that, since a connection holds up to 2 MiB of what comes while a buffer is
//! filled from it.
//!
//! Two kinds of permits bound it: frames under way (2W + T) and parts under way (K + T). Each
//! transfer has one permit of each kind of its own, the rest is shared in the order in which the
//! transfers began. So a transfer can always go on with what is its own: transfers never wait for
//! one another in a circle, whatever reads from whatever. Workers wait for nothing: a frame's
//! permit covers the buffer that its worker writes to. This module knows nothing of frames,
//! ciphers or stores.

use super::frame::{FrameDecoder, FrameEncoder, MAX_FRAME_STORED_BYTES};
use super::level::SharedLevel;
use super::pool::{Buffer, Pool, Room};
use crate::error::{Error, Result};
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::oneshot;

/// The default size of a part in bytes: with 950 of them in a segment any S3-compatible server
/// takes it, and K + 1 of them stay within the published memory.
pub const DEFAULT_PART_BYTES: usize = 8 << 20;

/// The smallest part in bytes: several sealed messages of 64 KiB, so that one of them never
/// reaches over more than two parts.
pub const MIN_PART_BYTES: usize = 256 << 10;

/// Reading back takes a frame at a time at least, sealed and with the end of its segment: room for that in bytes.
const MIN_READ_BYTES: usize = 4 << 20;

/// How much a process may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BudgetSettings {
    /// Worker threads: one for each core.
    pub n_workers: usize,
    /// Parts on their way to or from stores that are shared (K).
    pub n_parts_in_flight: usize,
    /// Size of a part in bytes: a power of two, because parts are hashed as subtrees of BLAKE3, and
    /// at least [`MIN_PART_BYTES`].
    pub part_bytes: usize,
}

impl Default for BudgetSettings {
    /// A worker for each core, 4 parts of 8 MiB in flight.
    fn default() -> Self {
        let n_workers = std::thread::available_parallelism().map_or(2, std::num::NonZero::get);
        Self { n_workers, n_parts_in_flight: 4, part_bytes: DEFAULT_PART_BYTES }
    }
}

/// What is in use at the same time, in buffers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InUse {
    /// Buffers of one frame.
    pub frame_buffers: usize,
    /// Buffers of one part, and as much of what is read back.
    pub parts: usize,
}

/// Threads and memory of a process. Made once, shared as an `Arc`.
pub struct Budget {
    settings: BudgetSettings,
    jobs: crossbeam_channel::Sender<Job>,
    frames: Arc<Allotment>,
    parts: Arc<Allotment>,
    frame_pool: Arc<Pool>,
    part_pool: Arc<Pool>,
    /// The same as that of parts, unless they are small.
    read_pool: Arc<Pool>,
    next_transfer: AtomicU64,
    level: SharedLevel,
}

type Job = Box<dyn FnOnce(&mut Bench) + Send>;

/// What a worker thread keeps from one job to the next.
#[derive(Default)]
pub(crate) struct Bench {
    /// Its compressor.
    pub(crate) encoder: FrameEncoder,
    /// Its decompressor.
    pub(crate) decoder: FrameDecoder,
    /// Room for one frame that was just decrypted; grows to one frame and two messages.
    pub(crate) scratch: Vec<u8>,
}

impl Budget {
    /// Starts the worker threads; they end when the budget is dropped.
    pub fn new(settings: BudgetSettings) -> Result<Arc<Self>> {
        let is_valid = settings.part_bytes.is_power_of_two() && settings.part_bytes >= MIN_PART_BYTES;
        if !is_valid || settings.n_workers == 0 || settings.n_parts_in_flight == 0 {
            return Err(Error::invalid("these limits of the streaming core can not work")
                .fact(
                    "expected",
                    format!("workers, parts in flight, and a power of two of at least {MIN_PART_BYTES} bytes a part"),
                )
                .fact("got", format!("{settings:?}")));
        }
        let (jobs, queue) = crossbeam_channel::unbounded::<Job>();
        for i in 0..settings.n_workers {
            let queue = queue.clone();
            std::thread::Builder::new()
                .name(format!("stream-worker-{i}"))
                .spawn(move || work(&queue))
                .map_err(|error| Error::failed("could not start a worker thread").because_of_io(error))?;
        }
        let part_pool = Pool::new(settings.part_bytes);
        let has_room = settings.part_bytes >= MIN_READ_BYTES;
        let read_pool = if has_room { part_pool.clone() } else { Pool::new(MIN_READ_BYTES) };
        Ok(Arc::new(Self {
            settings,
            jobs,
            frames: Allotment::new(2 * settings.n_workers),
            parts: Allotment::new(settings.n_parts_in_flight),
            frame_pool: Pool::new(MAX_FRAME_STORED_BYTES),
            part_pool,
            read_pool,
            next_transfer: AtomicU64::new(0),
            level: SharedLevel::new(),
        }))
    }

    /// What it was made with.
    pub fn settings(&self) -> BudgetSettings {
        self.settings
    }

    /// The most that was in use at the same time so far.
    pub fn peak(&self) -> InUse {
        InUse { frame_buffers: self.frame_pool.peak(), parts: self.parts.peak() }
    }

    /// Buffers and permits in use now; both 0 when nothing is open.
    pub fn in_use(&self) -> InUse {
        InUse { frame_buffers: self.frame_pool.in_use(), parts: self.parts.in_use() }
    }

    /// The most buffers of parts that were in use at the same time so far, whoever held permits.
    #[cfg(test)]
    pub(crate) fn part_buffers_peak(&self) -> usize {
        self.part_pool.peak()
    }

    /// The most buffers for what is read back that were in use at the same time so far.
    #[cfg(test)]
    pub(crate) fn read_buffers_peak(&self) -> usize {
        self.read_pool.peak()
    }

    /// The level of frames whose level follows what is waited for.
    pub(super) fn level(&self) -> &SharedLevel {
        &self.level
    }

    /// Joins the queue as the youngest transfer.
    pub(crate) fn begin(self: &Arc<Self>) -> Transfer {
        let number = self.next_transfer.fetch_add(1, Ordering::Relaxed);
        self.frames.join(number);
        self.parts.join(number);
        Transfer { budget: self.clone(), number }
    }

    /// Runs `job` on a worker. The receiver fails only if the job panicked.
    pub(crate) fn submit<T: Send + 'static>(
        &self,
        job: impl FnOnce(&mut Bench) -> T + Send + 'static,
    ) -> oneshot::Receiver<T> {
        let (reply, answer) = oneshot::channel();
        let job: Job = Box::new(move |bench| {
            // Nobody waits any more when the transfer ended early; what the job made is dropped.
            let _ = reply.send(job(bench));
        });
        // Workers live as long as the sender that is used here; a failure drops the job and with it
        // `reply`, which the receiver notices.
        let _ = self.jobs.send(job);
        answer
    }

    /// Gives the memory of buffers that nobody uses now back to the system. For when nothing more is transferred: the
    /// next transfer would have to ask for them anew.
    pub fn let_go(&self) {
        self.frame_pool.let_go();
        self.part_pool.let_go();
        self.read_pool.let_go();
    }

    /// A buffer for one frame. Who takes one holds a frame's permit.
    pub(crate) fn frame_buffer(&self) -> Buffer {
        self.frame_pool.take()
    }

    /// A buffer for one part. Who takes one holds a part's permit.
    pub(crate) fn part_buffer(&self) -> Buffer {
        self.part_pool.take()
    }

    /// How much is read back at a time, in bytes: three quarters of a buffer. A quarter is a power of two, which is a
    /// subtree of BLAKE3.
    pub(crate) fn run_bytes(&self) -> u64 {
        self.read_pool.buffer_bytes() as u64 / 4 * 3
    }
}

impl std::fmt::Debug for Budget {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Budget").field("settings", &self.settings).finish_non_exhaustive()
    }
}

/// What a job that never answered means: it panicked, which is a bug of the host.
pub(crate) fn worker_failed(_: oneshot::error::RecvError) -> Error {
    Error::failed("a worker thread stopped in the middle of a job").hint("this is a bug; please report it")
}

fn work(queue: &crossbeam_channel::Receiver<Job>) {
    let mut bench = Bench::default();
    while let Ok(job) = queue.recv() {
        // A job that panics drops its reply, so that its transfer fails; the others go on.
        if catch_unwind(AssertUnwindSafe(|| job(&mut bench))).is_err() {
            bench = Bench::default();
        }
    }
}

/// One open transfer: its place in the order, and its way to permits.
pub(crate) struct Transfer {
    budget: Arc<Budget>,
    number: u64,
}

impl Transfer {
    /// The budget that it draws on.
    pub(crate) fn budget(&self) -> &Arc<Budget> {
        &self.budget
    }

    /// Waits for the right to have one more frame under way. Must be asked for in the order of
    /// the frames: a later frame never holds what an earlier one waits for.
    pub(crate) async fn frame_permit(&self) -> Permit {
        self.budget.frames.acquire(self.number).await
    }

    /// Waits for the right to have one more part under way, in the order of the parts.
    pub(crate) async fn part_permit(&self) -> Permit {
        self.budget.parts.acquire(self.number).await
    }

    /// Waits for room for one more run of what is read back, in the order of the runs. It counts as a part under way
    /// until what was read into it is dropped.
    pub(crate) async fn room(&self) -> Room {
        Room::of(&self.budget.read_pool, self.part_permit().await)
    }
}

impl Drop for Transfer {
    fn drop(&mut self) {
        self.budget.frames.leave(self.number);
        self.budget.parts.leave(self.number);
    }
}

/// One kind of permit: one for each transfer, and some for all.
struct Allotment {
    state: Mutex<AllotmentState>,
}

struct AllotmentState {
    n_shared_free: usize,
    /// Whether the own permit of each open transfer is free.
    own_free: BTreeMap<u64, bool>,
    /// Who waits, the oldest transfer first, and within one transfer the oldest request.
    waiting: BTreeMap<(u64, u64), oneshot::Sender<Permit>>,
    next_ticket: u64,
    n_in_use: usize,
    n_peak: usize,
}

/// The right to have one frame or part under way; given back when it is dropped.
pub(crate) struct Permit {
    allotment: Arc<Allotment>,
    transfer: u64,
    is_own: bool,
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.allotment.release(self.transfer, self.is_own);
    }
}

impl Allotment {
    fn new(n_shared: usize) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::new(AllotmentState {
                n_shared_free: n_shared,
                own_free: BTreeMap::new(),
                waiting: BTreeMap::new(),
                next_ticket: 0,
                n_in_use: 0,
                n_peak: 0,
            }),
        })
    }

    fn lock(&self) -> MutexGuard<'_, AllotmentState> {
        // Nothing that can panic happens under the lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn join(&self, transfer: u64) {
        self.lock().own_free.insert(transfer, true);
    }

    fn leave(&self, transfer: u64) {
        self.lock().own_free.remove(&transfer);
    }

    fn in_use(&self) -> usize {
        self.lock().n_in_use
    }

    fn peak(&self) -> usize {
        self.lock().n_peak
    }

    async fn acquire(self: &Arc<Self>, transfer: u64) -> Permit {
        loop {
            let waiting = match self.request(transfer) {
                Ok(permit) => return permit,
                Err(waiting) => waiting,
            };
            // The sender stays in the map until it is used, so this can not fail; if it did, asking
            // again would be right.
            if let Ok(permit) = waiting.await {
                return permit;
            }
        }
    }

    /// A permit at once, or a place in the queue.
    fn request(self: &Arc<Self>, transfer: u64) -> Result<Permit, oneshot::Receiver<Permit>> {
        let mut state = self.lock();
        let is_own = state.own_free.get(&transfer) == Some(&true);
        if is_own {
            state.own_free.insert(transfer, false);
        } else if state.n_shared_free > 0 {
            // Free ones exist only while nobody waits: `release` serves the waiting first.
            state.n_shared_free -= 1;
        } else {
            let (permit, waiting) = oneshot::channel();
            let ticket = state.next_ticket;
            state.next_ticket += 1;
            state.waiting.insert((transfer, ticket), permit);
            return Err(waiting);
        }
        state.n_in_use += 1;
        state.n_peak = state.n_peak.max(state.n_in_use);
        Ok(Permit { allotment: self.clone(), transfer, is_own })
    }

    fn release(self: &Arc<Self>, transfer: u64, is_own: bool) {
        let mut state = self.lock();
        loop {
            let next = if is_own {
                let mut of_transfer = state.waiting.range((transfer, 0)..=(transfer, u64::MAX));
                of_transfer.next().map(|(key, _)| *key)
            } else {
                state.waiting.first_key_value().map(|(key, _)| *key)
            };
            let Some((key, sender)) = next.and_then(|key| state.waiting.remove(&key).map(|sender| (key, sender)))
            else {
                break;
            };
            // A request that was given up is passed over without making a permit for it: dropping
            // one here would come back to this lock.
            if sender.is_closed() {
                continue;
            }
            drop(state);
            // If it is given up right now, the permit is dropped with the channel and comes back.
            let _ = sender.send(Permit { allotment: self.clone(), transfer: key.0, is_own });
            return;
        }
        state.n_in_use -= 1;
        if is_own {
            if let Some(free) = state.own_free.get_mut(&transfer) {
                *free = true;
            }
        } else {
            state.n_shared_free += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stream::blocking::wait_for;
    use futures_util::FutureExt;

    fn small(n_workers: usize, n_parts: usize) -> Arc<Budget> {
        Budget::new(BudgetSettings { n_workers, n_parts_in_flight: n_parts, part_bytes: MIN_PART_BYTES }).unwrap()
    }

    #[test]
    fn every_transfer_can_always_have_one_part_of_its_own() {
        let budget = small(1, 2);
        let (first, second) = (budget.begin(), budget.begin());
        let mut held: Vec<_> = (0..3).map(|_| first.part_permit().now_or_never().unwrap()).collect();
        assert!(first.part_permit().now_or_never().is_none(), "two shared and one own are all there is");
        let own = second.part_permit().now_or_never().expect("the second has its own");
        assert!(second.part_permit().now_or_never().is_none());
        held.pop();
        assert!(second.part_permit().now_or_never().is_some(), "a shared one came back");
        drop(own);
        assert!(second.part_permit().now_or_never().is_some());
    }

    #[test]
    fn shared_permits_go_to_the_transfer_that_began_first() {
        let budget = small(1, 1);
        let (first, second) = (budget.begin(), budget.begin());
        let _own = (first.part_permit().now_or_never().unwrap(), second.part_permit().now_or_never().unwrap());
        let shared = first.part_permit().now_or_never().unwrap();
        let mut late = Box::pin(second.part_permit());
        assert!(late.as_mut().now_or_never().is_none());
        let mut early = Box::pin(first.part_permit());
        assert!(early.as_mut().now_or_never().is_none());
        drop(shared);
        assert!(late.as_mut().now_or_never().is_none(), "the second asked first but began later");
        let got = early.as_mut().now_or_never().expect("the first began first");
        drop(got);
        assert!(late.as_mut().now_or_never().is_some());
    }

    #[test]
    fn requests_that_are_given_up_lose_no_permit() {
        let budget = small(1, 1);
        let transfer = budget.begin();
        for _ in 0..3 {
            let held = [transfer.part_permit().now_or_never().unwrap(), transfer.part_permit().now_or_never().unwrap()];
            let mut given_up: Vec<_> = (0..5).map(|_| Box::pin(transfer.part_permit())).collect();
            assert!(given_up.iter_mut().all(|request| request.as_mut().now_or_never().is_none()));
            drop(given_up);
            drop(held);
            assert_eq!(budget.in_use().parts, 0);
        }
        assert_eq!(budget.peak().parts, 2);
    }

    #[test]
    fn a_panicking_job_fails_alone() {
        let budget = small(1, 1);
        let failed = wait_for(budget.submit(|_| assert!(std::hint::black_box(false), "on purpose")));
        assert!(failed.is_err());
        assert_eq!(wait_for(budget.submit(|_| 7)).unwrap(), 7);
    }

    #[test]
    fn buffers_come_back_and_are_used_again() {
        let budget = small(1, 1);
        let transfer = budget.begin();
        let permit = wait_for(transfer.part_permit());
        let mut buffer = budget.part_buffer().with(permit);
        buffer[0] = 9;
        let bytes = buffer.freeze(1);
        let clone = bytes.clone();
        drop(bytes);
        assert_eq!((&clone[..], budget.in_use().parts), (&[9][..], 1));
        drop(clone);
        assert_eq!(budget.in_use().parts, 0);
        assert_eq!(budget.part_buffer()[0], 9, "the same memory again");
        budget.let_go();
        assert_eq!(budget.part_buffer()[0], 0, "other memory, since that was given back");
    }

    #[test]
    fn limits_that_can_not_work_are_refused() {
        for (n_workers, n_parts_in_flight, part_bytes) in
            [(0, 1, MIN_PART_BYTES), (1, 0, MIN_PART_BYTES), (1, 1, 3 << 20), (1, 1, MIN_PART_BYTES / 2)]
        {
            assert!(Budget::new(BudgetSettings { n_workers, n_parts_in_flight, part_bytes }).is_err());
        }
    }
}
