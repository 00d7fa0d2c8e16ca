//! The one layer that tries again.
//!
//! Bodies are [`Bytes`], so sending one again costs no copy. Only what [`Error::is_retryable`]
//! says is tried again: it never guesses, backends classify. How long is a matter of time and not of
//! attempts: a server that refuses fast must not be given up sooner than one that refuses slowly.

use super::{Condition, Lock, ObjectInfo, ObjectLock, ObjectVersion, Page, PendingUpload, Properties, Store, Upload};
use crate::error::{Error, Result};
use crate::id::ObjectKey;
use crate::stream::Room;
use crate::unit;
use async_trait::async_trait;
use bytes::Bytes;
use jiff::Timestamp;
use std::collections::BTreeMap;
use std::future::Future;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::time::Instant;

/// After this many failures of one request somebody who waits is told.
const WARN_AFTER: u32 = 3;

/// How long and how often one request is tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Attempts in all, the first one counted; `None` when the budget alone ends them.
    pub max_attempts: Option<u32>,
    /// The longest wait after the first failure; it doubles with each further one. The wait itself
    /// is random between half of it and all of it, so that many parts do not come back together.
    pub first_wait: Duration,
    /// No wait is longer than this, unless the server asks for it.
    pub longest_wait: Duration,
    /// No attempt begins later than this after the first one began. Once it is spent on one request, the next
    /// ones are given up after [`Self::AFTER_GIVING_UP`] at most, until the store answers again.
    pub budget: Duration,
}

impl Default for RetryPolicy {
    /// Rides out a server that restarts or a network that is away for some minutes: waits of 0.2,
    /// 0.4, … 20 s, then one of 20 s after the other, for 10 minutes.
    fn default() -> Self {
        Self {
            max_attempts: None,
            first_wait: Duration::from_millis(200),
            longest_wait: Duration::from_secs(20),
            budget: Duration::from_secs(600),
        }
    }
}

impl RetryPolicy {
    /// For a question that somebody waits for: an answer within seconds, also that there is none.
    pub const IN_A_HURRY: RetryPolicy = RetryPolicy {
        max_attempts: Some(4),
        first_wait: Duration::from_millis(200),
        longest_wait: Duration::from_secs(1),
        budget: Duration::from_secs(30),
    };

    /// How long a request is tried to a store that was given up already: what tidies up after that must not
    /// wait out the whole budget again for each of its requests.
    pub const AFTER_GIVING_UP: Duration = Duration::from_secs(30);

    /// The same with the budget that somebody wants. In a hurry it only becomes shorter.
    #[must_use]
    pub fn lasting(self, wanted: Duration) -> Self {
        Self { budget: if self.max_attempts.is_some() { wanted.min(self.budget) } else { wanted }, ..self }
    }

    /// The wait after failure number `failed` (from 1); `random` is from 0 to 255.
    fn wait(&self, failed: u32, asked: Option<Duration>, random: u8) -> Duration {
        let doubled = self.first_wait.saturating_mul(1_u32 << (failed - 1).min(20));
        let ceiling = doubled.min(self.longest_wait);
        let wait = ceiling / 2 + ceiling * u32::from(random) / (2 * 255);
        asked.map_or(wait, |asked| wait.max(asked))
    }

    /// `given_up` is of the store: whether the last request that ended did so without an answer.
    async fn run<T, F: Future<Output = Result<T>>>(
        &self,
        clock: &impl Clock,
        given_up: &AtomicBool,
        operation: &'static str,
        attempt: impl Fn() -> F,
    ) -> Result<T> {
        let began = clock.now();
        let mut failed = 0;
        loop {
            let error = match attempt().await {
                Ok(value) => {
                    if failed > 0 {
                        tracing::warn!(operation, failed, "the store recovered");
                    }
                    given_up.store(false, Ordering::Relaxed);
                    return Ok(value);
                }
                Err(error) if error.is_retryable() => error,
                Err(error) => {
                    given_up.store(false, Ordering::Relaxed);
                    return Err(error);
                }
            };
            failed += 1;
            let mut random = [0_u8; 1];
            // Without randomness the wait is the shortest: jitter is a courtesy.
            let _ = getrandom::fill(&mut random);
            let wait = self.wait(failed, error.retry_after_wait(), random[0]);
            let is_given_up = given_up.load(Ordering::Relaxed);
            let budget = if is_given_up { self.budget.min(Self::AFTER_GIVING_UP) } else { self.budget };
            let elapsed = clock.now().saturating_sub(began);
            if self.max_attempts.is_some_and(|most| failed >= most) || elapsed + wait > budget {
                given_up.store(true, Ordering::Relaxed);
                return Err(gave_up(error, failed, elapsed));
            }
            if failed == WARN_AFTER {
                tracing::warn!(operation, failed, %error, "the store is in trouble; trying again");
            } else {
                tracing::debug!(operation, failed, %error, wait_ms = wait.as_millis(), "trying again");
            }
            clock.wait(wait).await;
        }
    }
}

/// What the waits are measured by, so that a test has hours in no time.
trait Clock: Send + Sync {
    /// Time since some fixed moment.
    fn now(&self) -> Duration;
    /// Returns when this much of it has passed.
    fn wait(&self, wait: Duration) -> impl Future<Output = ()> + Send;
}

/// The machine's monotonic clock.
struct Monotonic(Instant);

impl Clock for Monotonic {
    fn now(&self) -> Duration {
        self.0.elapsed()
    }

    async fn wait(&self, wait: Duration) {
        tokio::time::sleep(wait).await;
    }
}

fn gave_up(error: Error, attempts: u32, after: Duration) -> Error {
    if attempts == 1 {
        return error;
    }
    error.fact("attempts", format!("{attempts} in {}", unit::duration(after)))
}

/// A store that tries again what may succeed later.
///
/// State after an error: as after the last attempt. Dropping a call ends its attempts.
#[derive(Clone, Debug)]
pub struct RetryStore {
    inner: Arc<dyn Store>,
    retry: Retry,
}

/// The policy, and what is known of the store; clones share that.
#[derive(Clone, Debug)]
struct Retry {
    policy: RetryPolicy,
    given_up: Arc<AtomicBool>,
}

impl Retry {
    async fn run<T, F: Future<Output = Result<T>>>(
        &self,
        operation: &'static str,
        attempt: impl Fn() -> F,
    ) -> Result<T> {
        self.policy.run(&Monotonic(Instant::now()), &self.given_up, operation, attempt).await
    }
}

impl RetryStore {
    /// Wraps a backend, which must not retry by itself.
    pub fn new(inner: Arc<dyn Store>, policy: RetryPolicy) -> Self {
        Self { inner, retry: Retry { policy, given_up: Arc::default() } }
    }
}

#[async_trait]
impl Store for RetryStore {
    fn describe(&self) -> String {
        self.inner.describe()
    }

    fn local_root(&self) -> Option<std::path::PathBuf> {
        self.inner.local_root()
    }

    async fn put(&self, key: &ObjectKey, body: Bytes, condition: Condition) -> Result<ObjectInfo> {
        self.retry.run("put", || self.inner.put(key, body.clone(), condition.clone())).await
    }

    async fn begin_upload(&self, key: &ObjectKey) -> Result<Arc<dyn Upload>> {
        let inner = self.retry.run("begin upload", || self.inner.begin_upload(key)).await?;
        Ok(Arc::new(RetryUpload { inner, retry: self.retry.clone() }))
    }

    async fn read_into(&self, key: &ObjectKey, range: Range<u64>, room: &Room) -> Result<Bytes> {
        self.retry.run("read", || self.inner.read_into(key, range.clone(), room)).await
    }

    async fn get(&self, key: &ObjectKey, limit: u64) -> Result<(Bytes, ObjectInfo)> {
        self.retry.run("get", || self.inner.get(key, limit)).await
    }

    async fn head(&self, key: &ObjectKey) -> Result<ObjectInfo> {
        self.retry.run("head", || self.inner.head(key)).await
    }

    async fn list(&self, prefix: &str, after: Option<&str>) -> Result<Page> {
        self.retry.run("list", || self.inner.list(prefix, after)).await
    }

    async fn folders(&self, prefix: &str) -> Result<Vec<String>> {
        self.retry.run("list folders", || self.inner.folders(prefix)).await
    }

    async fn delete(&self, key: &ObjectKey, version: Option<&str>) -> Result<()> {
        self.retry.run("delete", || self.inner.delete(key, version)).await
    }

    async fn pending_uploads(&self, prefix: &str) -> Result<Vec<PendingUpload>> {
        self.retry.run("list uploads", || self.inner.pending_uploads(prefix)).await
    }

    async fn abort_pending(&self, upload: &PendingUpload) -> Result<()> {
        self.retry.run("abort an upload", || self.inner.abort_pending(upload)).await
    }

    async fn now(&self) -> Result<Timestamp> {
        self.retry.run("ask for the time", || self.inner.now()).await
    }

    async fn versions(&self, prefix: &str) -> Result<Vec<ObjectVersion>> {
        self.retry.run("list versions", || self.inner.versions(prefix)).await
    }

    async fn lock_of(&self, version: &ObjectVersion) -> Result<Lock> {
        self.retry.run("ask for a lock", || self.inner.lock_of(version)).await
    }

    async fn last_part(&self, upload: &PendingUpload) -> Result<Timestamp> {
        self.retry.run("list parts", || self.inner.last_part(upload)).await
    }

    async fn properties(&self) -> Result<Properties> {
        self.retry.run("ask for properties", || self.inner.properties()).await
    }

    async fn folders_of_versions(&self, prefix: &str) -> Result<Vec<String>> {
        self.retry.run("list folders of versions", || self.inner.folders_of_versions(prefix)).await
    }

    fn pinned(&self, versions: BTreeMap<String, String>) -> Option<Arc<dyn Store>> {
        Some(Arc::new(Self { inner: self.inner.pinned(versions)?, retry: self.retry.clone() }))
    }

    fn object_lock(&self) -> Option<ObjectLock> {
        self.inner.object_lock()
    }

    async fn extend_lock(&self, key: &ObjectKey) -> Result<()> {
        self.retry.run("extend a lock", || self.inner.extend_lock(key)).await
    }
}

struct RetryUpload {
    inner: Arc<dyn Upload>,
    retry: Retry,
}

#[async_trait]
impl Upload for RetryUpload {
    async fn part(&self, number: u32, body: Bytes, crc64nvme: u64) -> Result<()> {
        self.retry.run("upload a part", || self.inner.part(number, body.clone(), crc64nvme)).await
    }

    fn expect_more(&self) {
        self.inner.expect_more();
    }

    async fn complete(&self, n_parts: u32, size: u64, crc64nvme: u64) -> Result<ObjectInfo> {
        self.retry.run("complete an upload", || self.inner.complete(n_parts, size, crc64nvme)).await
    }

    async fn abort(&self) -> Result<()> {
        self.retry.run("abort an upload", || self.inner.abort()).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;
    use crate::store::faulty::{Fault, FaultyStore, Op};
    use crate::store::{crc64nvme, memory::MemoryStore};
    use std::sync::Mutex;

    const QUICK: RetryPolicy = RetryPolicy {
        max_attempts: Some(4),
        first_wait: Duration::from_millis(1),
        longest_wait: Duration::from_millis(2),
        budget: Duration::from_secs(60),
    };

    fn key() -> ObjectKey {
        ObjectKey::parse("job/a").unwrap()
    }

    fn flaky(fault: Fault) -> (Arc<FaultyStore>, RetryStore) {
        let faulty = Arc::new(FaultyStore::new(Arc::new(MemoryStore::new()), fault));
        (Arc::clone(&faulty), RetryStore::new(faulty, QUICK))
    }

    #[tokio::test]
    async fn what_fails_for_a_while_succeeds_in_the_end() {
        let (faulty, store) = flaky(Fault::FailFirst(3));
        store.put(&key(), Bytes::from_static(b"x"), Condition::Absent).await.unwrap();
        assert_eq!(faulty.calls(Op::Put), 4);
        assert_eq!(store.read(&key(), 0..1).await.unwrap(), "x");
    }

    #[tokio::test]
    async fn every_step_of_an_upload_is_tried_again() {
        let (faulty, store) = flaky(Fault::FailFirst(2));
        let upload = store.begin_upload(&key()).await.unwrap();
        upload.part(1, Bytes::from_static(b"x"), crc64nvme(b"x")).await.unwrap();
        upload.complete(1, 1, crc64nvme(b"x")).await.unwrap();
        let calls = [Op::BeginUpload, Op::Part, Op::Complete].map(|op| faulty.calls(op));
        assert_eq!(calls, [3, 3, 3]);
    }

    #[tokio::test]
    async fn it_gives_up_after_the_attempts_that_it_has_and_says_so() {
        let (faulty, store) = flaky(Fault::FailFirst(4));
        let error = store.head(&key()).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Unavailable);
        assert!(error.facts().iter().any(|(label, value)| *label == "attempts" && value.starts_with("4 in ")));
        assert_eq!(faulty.calls(Op::Head), 4);
    }

    #[tokio::test]
    async fn what_cannot_succeed_later_is_not_tried_again() {
        let (faulty, store) = flaky(Fault::FailFirst(0));
        assert_eq!(store.head(&key()).await.unwrap_err().kind(), Kind::NotFound);
        assert_eq!(faulty.calls(Op::Head), 1);
    }

    #[tokio::test]
    async fn no_attempt_begins_after_the_budget_is_spent() {
        let faulty = Arc::new(FaultyStore::new(Arc::new(MemoryStore::new()), Fault::FailFirst(u32::MAX)));
        let policy = RetryPolicy { max_attempts: None, budget: Duration::from_millis(40), ..QUICK };
        let began = Instant::now();
        let store = RetryStore::new(faulty, policy);
        assert_eq!(store.head(&key()).await.unwrap_err().kind(), Kind::Unavailable);
        assert!(began.elapsed() >= Duration::from_millis(38), "{:?}", began.elapsed());
    }

    /// A clock that is where it was told to wait until.
    #[derive(Default)]
    struct Simulated(Mutex<Duration>);

    impl Clock for Simulated {
        fn now(&self) -> Duration {
            *self.0.lock().unwrap()
        }

        async fn wait(&self, wait: Duration) {
            *self.0.lock().unwrap() += wait;
        }
    }

    const MINUTE: Duration = Duration::from_secs(60);

    /// One request to a store that refuses for this long, as fast as it can, and then answers. How it ends, and
    /// after how long.
    async fn refused_for(down: Duration, policy: RetryPolicy, given_up: &AtomicBool) -> (Result<()>, Duration) {
        let clock = Simulated::default();
        let attempt = || async { if clock.now() < down { Err(Error::unavailable("503 SlowDown")) } else { Ok(()) } };
        let end = policy.run(&clock, given_up, "put", attempt).await;
        assert_eq!(given_up.load(Ordering::Relaxed), end.is_err());
        (end, clock.now())
    }

    #[tokio::test]
    async fn a_server_that_refuses_for_nine_minutes_is_ridden_out_and_one_that_does_for_eleven_is_given_up() {
        let (end, after) = refused_for(9 * MINUTE, RetryPolicy::default(), &AtomicBool::default()).await;
        end.unwrap();
        assert!((9 * MINUTE..10 * MINUTE).contains(&after), "{after:?}");
        let (end, after) = refused_for(11 * MINUTE, RetryPolicy::default(), &AtomicBool::default()).await;
        let error = end.unwrap_err();
        assert!((9 * MINUTE..=10 * MINUTE).contains(&after), "{after:?}");
        let (_, said) = error.facts().iter().find(|(label, _)| *label == "attempts").expect("how long it was tried");
        assert!(said.contains(" in 9 min ") || said.contains(" in 10 min "), "{said}");
    }

    #[tokio::test]
    async fn whoever_wants_more_patience_has_it_and_a_question_stays_in_a_hurry() {
        let for_an_hour = RetryPolicy::default().lasting(60 * MINUTE);
        refused_for(50 * MINUTE, for_an_hour, &AtomicBool::default()).await.0.unwrap();
        let for_seconds = RetryPolicy::default().lasting(Duration::from_secs(5));
        let (end, after) = refused_for(MINUTE, for_seconds, &AtomicBool::default()).await;
        assert_eq!(end.unwrap_err().kind(), Kind::Unavailable);
        assert!(after <= Duration::from_secs(5), "{after:?}");
        let hurried = RetryPolicy::IN_A_HURRY;
        assert_eq!(hurried.lasting(60 * MINUTE), hurried);
        assert_eq!(hurried.lasting(Duration::from_secs(2)).budget, Duration::from_secs(2));
        refused_for(MINUTE, hurried, &AtomicBool::default()).await.0.unwrap_err();
    }

    #[tokio::test]
    async fn a_store_that_was_given_up_is_not_waited_for_by_each_request_until_it_answers_again() {
        let (policy, given_up) = (RetryPolicy::default(), AtomicBool::default());
        let after = async |down| refused_for(down, policy, &given_up).await.1;
        assert!(after(60 * MINUTE).await > 9 * MINUTE);
        let tidying = after(60 * MINUTE).await;
        assert!(tidying > Duration::ZERO && tidying <= RetryPolicy::AFTER_GIVING_UP, "{tidying:?}");
        assert_eq!(after(Duration::ZERO).await, Duration::ZERO);
        assert!(after(60 * MINUTE).await > 9 * MINUTE, "it had answered");
    }

    #[test]
    fn waits_double_up_to_the_longest_and_a_server_may_ask_for_more() {
        let policy = RetryPolicy::default();
        let longest: Vec<_> = [1, 2, 3, 8, 9, 30].map(|n| policy.wait(n, None, 255).as_millis()).into();
        assert_eq!(longest, [200, 400, 800, 20_000, 20_000, 20_000]);
        assert_eq!(policy.wait(1, None, 0), Duration::from_millis(100));
        assert_eq!(policy.wait(1, Some(Duration::from_secs(45)), 0), Duration::from_secs(45));
    }
}
