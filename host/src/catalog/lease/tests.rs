use super::*;
use crate::id::ObjectKey;
use crate::store::faulty::{Fault, FaultyStore, Op};
use crate::store::memory::MemoryStore;
use crate::store::{Lock, ObjectInfo, ObjectVersion, Page, PendingUpload, Upload};
use crate::stream::Room;
use async_trait::async_trait;
use jiff::Timestamp;
use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use tokio::sync::oneshot;

/// A clock that jumps to the next moment that somebody waits for, once nobody has anything to do.
#[derive(Debug, Default)]
struct Simulated {
    state: Mutex<Waiting>,
}

#[derive(Debug, Default)]
struct Waiting {
    now: Duration,
    n_waits: u64,
    wakers: BTreeMap<(Duration, u64), oneshot::Sender<()>>,
}

impl Simulated {
    fn lock(&self) -> std::sync::MutexGuard<'_, Waiting> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Drives time until `until`. Everything runs on one thread, and a store in memory answers at
    /// once, so that yielding often enough lets every task get to its next wait.
    async fn run(&self, until: Duration) {
        loop {
            for _ in 0..64 {
                tokio::task::yield_now().await;
            }
            let mut state = self.lock();
            let Some(((at, n), _)) = state.wakers.first_key_value().map(|(key, waker)| (*key, waker)) else {
                state.now = until;
                return;
            };
            if at > until {
                state.now = until;
                return;
            }
            // Who slept wakes up late.
            state.now = state.now.max(at);
            // Whoever gave up waiting hears nothing.
            let woken = state.wakers.remove(&(at, n)).map(|waker| waker.send(()));
            assert!(woken.is_some());
        }
    }
}

#[async_trait]
impl Pace for Simulated {
    fn now(&self) -> Duration {
        self.lock().now
    }

    async fn wait(&self, duration: Duration) {
        let (waker, woken) = oneshot::channel();
        {
            let mut state = self.lock();
            state.n_waits += 1;
            let key = (state.now + duration, state.n_waits);
            state.wakers.insert(key, waker);
        }
        drop(woken.await);
    }
}

const MINUTE: Duration = Duration::from_secs(60);

struct World {
    store: Arc<dyn Store>,
    pace: Arc<Simulated>,
    locks: tempfile::TempDir,
}

fn world() -> World {
    over(Arc::new(MemoryStore::new()))
}

fn over(store: Arc<dyn Store>) -> World {
    World { store, pace: Arc::default(), locks: tempfile::tempdir().unwrap() }
}

impl World {
    fn request(&self, run: u8) -> Request {
        Request {
            job: "orders".parse().unwrap(),
            run: format!("20261120T0200{run:02}Z-aaaaaaaa").parse().unwrap(),
            holder: format!("host {run}"),
            duration: DURATION,
            lock_dir: self.locks.path().to_owned(),
            pace: self.pace.clone(),
        }
    }

    /// Asks for the lease on a task of its own.
    fn take(&self, run: u8) -> tokio::task::JoinHandle<Result<Lease>> {
        let (store, request) = (self.store.clone(), self.request(run));
        tokio::spawn(async move { Lease::take(&store, request, &CancellationToken::new()).await })
    }

    async fn file(&self) -> LeaseFile {
        let key = layout::lease(&"orders".parse().unwrap()).unwrap();
        read(&self.store.get(&key, MAX_BYTES).await.unwrap().0).unwrap()
    }
}

#[tokio::test]
async fn for_thirty_hours_a_live_lease_is_renewed_and_never_taken_over() {
    let w = world();
    let lost = CancellationToken::new();
    let held = Lease::take(&w.store, w.request(1), &lost).await.unwrap();
    let hours = 30 * 60 * MINUTE;
    // Another host wants it all the time.
    let other = {
        let (store, request, pace) = (w.store.clone(), w.request(2), w.pace.clone());
        tokio::spawn(async move {
            let mut refused = 0_u32;
            while pace.now() < hours {
                let error = Lease::take(&store, request.clone(), &CancellationToken::new()).await.unwrap_err();
                assert_eq!(error.kind(), Kind::Conflict, "{error:?}");
                refused += 1;
            }
            refused
        })
    };
    w.pace.run(hours + MINUTE).await;
    let refused = other.await.unwrap();
    let renewals = w.file().await.counter;
    assert!(!lost.is_cancelled());
    // Every third of the duration: 20 s.
    assert!((5400..=5404).contains(&renewals), "{renewals} renewals");
    assert!(refused > 3000, "{refused} attempts");
    held.release().await.unwrap();
    assert_eq!(w.file().await.state, State::Free);
}

#[tokio::test]
async fn who_waits_takes_a_lease_that_is_given_back_meanwhile() {
    let w = world();
    let first = Lease::take(&w.store, w.request(1), &CancellationToken::new()).await.unwrap();
    let taking = w.take(2);
    // It was looked at once, and is looked at again before it is renewed.
    w.pace.run(Duration::from_secs(5)).await;
    assert!(!taking.is_finished());
    first.release().await.unwrap();
    w.pace.run(MINUTE).await;
    let second = taking.await.unwrap().unwrap();
    assert_eq!((w.file().await.holder.as_str(), &second.taken_from), ("host 2", &None));
    second.release().await.unwrap();
}

#[tokio::test]
async fn a_lease_whose_last_renewal_got_no_answer_is_given_back_all_the_same() {
    let w = world();
    let held = Lease::take(&w.store, w.request(1), &CancellationToken::new()).await.unwrap();
    let job = "orders".parse().unwrap();
    let key = layout::lease(&job).unwrap();
    // Its own renewal arrived, and it never heard of it.
    let mut renewed = w.file().await;
    renewed.counter += 1;
    let there = w.store.head(&key).await.unwrap().etag.unwrap();
    w.store.put(&key, encode(&renewed).unwrap(), Condition::Unchanged(there)).await.unwrap();
    held.release().await.unwrap();
    assert_eq!(held_by(&w.store, &job).await.unwrap(), None);
}

#[tokio::test]
async fn a_lease_is_taken_over_only_after_its_counter_stood_still_for_a_whole_duration() {
    let w = world();
    let first = Lease::take(&w.store, w.request(1), &CancellationToken::new()).await.unwrap();
    w.pace.run(10 * MINUTE).await;
    // Its host dies: nothing renews it, and nothing gives it back.
    drop(first);
    let taking = w.take(2);
    w.pace.run(11 * MINUTE - Duration::from_millis(1)).await;
    assert!(!taking.is_finished(), "it stood still for less than its duration");
    assert_eq!(w.file().await.holder, "host 1");
    w.pace.run(12 * MINUTE).await;
    let second = taking.await.unwrap().unwrap();
    assert_eq!(w.file().await.holder, "host 2");
    assert_eq!(second.taken_from, Some(w.request(1).run), "the run that may be at work still is known");
    second.release().await.unwrap();
    // What was given back is free at once, and names nobody.
    let third = Lease::take(&w.store, w.request(3), &CancellationToken::new()).await.unwrap();
    assert_eq!(third.taken_from, None);
    third.release().await.unwrap();
}

#[tokio::test]
async fn the_duration_that_counts_is_the_holders() {
    let w = world();
    let patient = Request { duration: 5 * MINUTE, ..w.request(1) };
    drop(Lease::take(&w.store, patient, &CancellationToken::new()).await.unwrap());
    let taking = w.take(2);
    w.pace.run(5 * MINUTE - Duration::from_millis(1)).await;
    assert!(!taking.is_finished());
    w.pace.run(6 * MINUTE).await;
    taking.await.unwrap().unwrap();
}

#[tokio::test]
async fn of_many_that_take_over_at_once_one_has_it() {
    let w = world();
    drop(Lease::take(&w.store, w.request(1), &CancellationToken::new()).await.unwrap());
    let takers: Vec<_> = (2..10).map(|run| w.take(run)).collect();
    w.pace.run(3 * MINUTE).await;
    let mut held = Vec::new();
    for taker in takers {
        match taker.await.unwrap() {
            Ok(lease) => held.push(lease),
            Err(error) => assert_eq!(error.kind(), Kind::Conflict, "{error:?}"),
        }
    }
    assert_eq!(held.len(), 1);
}

#[tokio::test]
async fn who_wakes_up_after_the_lease_was_taken_over_is_told_and_does_not_take_it_back() {
    let w = world();
    let lost = CancellationToken::new();
    let asleep = Arc::new(Simulated::default());
    let sleeper = Request { pace: asleep.clone(), ..w.request(1) };
    let first = Lease::take(&w.store, sleeper, &lost).await.unwrap();
    let taking = w.take(2);
    w.pace.run(2 * MINUTE).await;
    let second = taking.await.unwrap().unwrap();
    assert!(!lost.is_cancelled(), "its own clock stood still");
    asleep.run(MINUTE / 3).await;
    lost.cancelled().await;
    assert_eq!(first.release().await.unwrap_err().kind(), Kind::Conflict);
    assert_eq!(w.file().await.holder, "host 2");
    second.release().await.unwrap();
}

#[tokio::test]
async fn whether_a_lease_stands_is_sure_after_a_sleep_of_any_length() {
    let w = world();
    let (lost, asleep) = (CancellationToken::new(), Arc::new(Simulated::default()));
    let sleeper = Request { pace: asleep.clone(), ..w.request(1) };
    let held = Arc::new(Lease::take(&w.store, sleeper, &lost).await.unwrap());
    assert!(held.stands(&lost).await, "taken just now");
    asleep.run(DURATION / 2).await;
    assert!(held.stands(&lost).await, "renewed ten seconds ago");
    let ask = || {
        let (held, lost) = (held.clone(), lost.clone());
        tokio::spawn(async move { held.stands(&lost).await })
    };
    let before = w.file().await.counter;
    // An hour passes in which it could renew nothing, and nobody wanted the lease.
    asleep.lock().now = 60 * MINUTE;
    let asked = ask();
    asleep.run(60 * MINUTE).await;
    assert!(asked.await.unwrap(), "it was renewed before it answered");
    assert!(w.file().await.counter > before);
    // Another one, and meanwhile somebody takes it.
    let taking = w.take(2);
    w.pace.run(2 * MINUTE).await;
    let second = taking.await.unwrap().unwrap();
    asleep.lock().now = 120 * MINUTE;
    let asked = ask();
    asleep.run(120 * MINUTE).await;
    assert!(!asked.await.unwrap() && lost.is_cancelled());
    second.release().await.unwrap();
}

#[tokio::test]
async fn a_lease_that_cannot_be_renewed_does_not_stand_and_nobody_waits_for_ever() {
    let faulty = Arc::new(FaultyStore::new(Arc::new(MemoryStore::new()), Fault::FailFrom(Op::Put, 3)));
    let (w, lost) = (over(faulty), CancellationToken::new());
    let held = Arc::new(Lease::take(&w.store, w.request(1), &lost).await.unwrap());
    w.pace.run(10 * MINUTE).await;
    let asked = {
        let (held, lost) = (held.clone(), lost.clone());
        tokio::spawn(async move { held.stands(&lost).await })
    };
    w.pace.run(11 * MINUTE + DURATION / 3).await;
    assert!(!asked.await.unwrap());
    assert!(!lost.is_cancelled(), "nobody has taken it");
}

/// A server that does whatever it is asked, whatever the condition, or says that it does not know it.
#[derive(Debug)]
struct Careless {
    inner: MemoryStore,
    knows: bool,
}

#[async_trait]
impl Store for Careless {
    fn describe(&self) -> String {
        "careless store".to_owned()
    }

    async fn put(&self, key: &ObjectKey, body: Bytes, condition: Condition) -> Result<ObjectInfo> {
        if let Condition::Unchanged(_) = condition {
            if !self.knows {
                return Err(Error::failed("501 NotImplemented"));
            }
            self.inner.delete(key, None).await?;
            return self.inner.put(key, body, Condition::Absent).await;
        }
        self.inner.put(key, body, condition).await
    }

    async fn begin_upload(&self, key: &ObjectKey) -> Result<Arc<dyn Upload>> {
        self.inner.begin_upload(key).await
    }

    async fn read_into(&self, key: &ObjectKey, range: std::ops::Range<u64>, room: &Room) -> Result<Bytes> {
        self.inner.read_into(key, range, room).await
    }

    async fn get(&self, key: &ObjectKey, limit: u64) -> Result<(Bytes, ObjectInfo)> {
        self.inner.get(key, limit).await
    }

    async fn head(&self, key: &ObjectKey) -> Result<ObjectInfo> {
        self.inner.head(key).await
    }

    async fn list(&self, prefix: &str, after: Option<&str>) -> Result<Page> {
        self.inner.list(prefix, after).await
    }

    async fn folders(&self, prefix: &str) -> Result<Vec<String>> {
        self.inner.folders(prefix).await
    }

    async fn delete(&self, key: &ObjectKey, version: Option<&str>) -> Result<()> {
        self.inner.delete(key, version).await
    }

    async fn pending_uploads(&self, prefix: &str) -> Result<Vec<PendingUpload>> {
        self.inner.pending_uploads(prefix).await
    }

    async fn abort_pending(&self, upload: &PendingUpload) -> Result<()> {
        self.inner.abort_pending(upload).await
    }

    async fn now(&self) -> Result<Timestamp> {
        self.inner.now().await
    }

    async fn versions(&self, prefix: &str) -> Result<Vec<ObjectVersion>> {
        self.inner.versions(prefix).await
    }

    async fn lock_of(&self, version: &ObjectVersion) -> Result<Lock> {
        self.inner.lock_of(version).await
    }

    async fn last_part(&self, upload: &PendingUpload) -> Result<Timestamp> {
        self.inner.last_part(upload).await
    }
}

#[tokio::test]
async fn a_store_that_does_not_keep_the_condition_is_leased_on_this_machine_and_every_run_is_warned() {
    for knows in [true, false] {
        let w = over(Arc::new(Careless { inner: MemoryStore::new(), knows }));
        for run in 1..4 {
            let lease = Lease::take(&w.store, w.request(run), &CancellationToken::new()).await.unwrap();
            let warning = lease.warning.as_ref().unwrap();
            assert!(warning.contains("only runs on this machine"), "{warning}");
            let second = Lease::take(&w.store, w.request(9), &CancellationToken::new()).await.unwrap_err();
            assert_eq!(second.kind(), Kind::Conflict, "this machine is kept out: {second:?}");
            assert_eq!(held_by(&w.store, &"orders".parse().unwrap()).await.unwrap(), None);
            lease.release().await.unwrap();
        }
        assert_eq!(w.pace.now(), Duration::ZERO, "nobody waited for a lease that nobody can hold");
    }
}

#[tokio::test]
async fn a_store_that_is_away_is_no_store_without_conditions() {
    let memory: Arc<dyn Store> = Arc::new(MemoryStore::new());
    let w = over(Arc::new(FaultyStore::new(memory, Fault::FailFirstOf(Op::Put, 1))));
    let error = Lease::take(&w.store, w.request(1), &CancellationToken::new()).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unavailable);
}

#[tokio::test]
async fn the_lease_says_which_run_holds_it() {
    let w = world();
    let job: Label = "orders".parse().unwrap();
    assert_eq!(held_by(&w.store, &job).await.unwrap(), None);
    let lease = Lease::take(&w.store, w.request(1), &CancellationToken::new()).await.unwrap();
    assert_eq!(held_by(&w.store, &job).await.unwrap(), Some(w.request(1).run));
    lease.release().await.unwrap();
    assert_eq!(held_by(&w.store, &job).await.unwrap(), None);
}
