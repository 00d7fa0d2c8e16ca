//! The one layer that tries again.
//!
//! Bodies are [`Bytes`], so sending one again costs no copy. Only what [`Error::is_retryable`]
//! says is tried again: it never guesses, backends classify.

use super::{Condition, Lock, ObjectInfo, ObjectLock, ObjectVersion, Page, PendingUpload, Properties, Store, Upload};
use crate::error::{Error, Result};
use crate::id::ObjectKey;
use crate::unit;
use async_trait::async_trait;
use bytes::Bytes;
use jiff::Timestamp;
use std::collections::BTreeMap;
use std::future::Future;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// After this many failures of one request somebody who waits is told.
const WARN_AFTER: u32 = 3;

/// How long and how often one request is tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Attempts in all, the first one counted.
    pub max_attempts: u32,
    /// The longest wait after the first failure; it doubles with each further one. The wait itself
    /// is random between half of it and all of it, so that many parts do not come back together.
    pub first_wait: Duration,
    /// No wait is longer than this, unless the server asks for it.
    pub longest_wait: Duration,
    /// No attempt begins later than this after the first one began.
    pub budget: Duration,
}

impl Default for RetryPolicy {
    /// Rides out a server that restarts or a network that is away for some minutes: waits of 0.2,
    /// 0.4, … 20 s, about 80 s in all, within 10 minutes.
    fn default() -> Self {
        Self {
            max_attempts: 10,
            first_wait: Duration::from_millis(200),
            longest_wait: Duration::from_secs(20),
            budget: Duration::from_secs(600),
        }
    }
}

impl RetryPolicy {
    /// For a question that somebody waits for: an answer within seconds, also that there is none.
    pub const IN_A_HURRY: RetryPolicy = RetryPolicy {
        max_attempts: 4,
        first_wait: Duration::from_millis(200),
        longest_wait: Duration::from_secs(1),
        budget: Duration::from_secs(30),
    };

    /// The wait after failure number `failed` (from 1); `random` is from 0 to 255.
    fn wait(&self, failed: u32, asked: Option<Duration>, random: u8) -> Duration {
        let doubled = self.first_wait.saturating_mul(1_u32 << (failed - 1).min(20));
        let ceiling = doubled.min(self.longest_wait);
        let wait = ceiling / 2 + ceiling * u32::from(random) / (2 * 255);
        asked.map_or(wait, |asked| wait.max(asked))
    }

    async fn run<T, F: Future<Output = Result<T>>>(
        &self,
        operation: &'static str,
        attempt: impl Fn() -> F,
    ) -> Result<T> {
        let began = Instant::now();
        let mut failed = 0;
        loop {
            let error = match attempt().await {
                Ok(value) => {
                    if failed > 0 {
                        tracing::warn!(operation, failed, "the store recovered");
                    }
                    return Ok(value);
                }
                Err(error) if error.is_retryable() => error,
                Err(error) => return Err(error),
            };
            failed += 1;
            let mut random = [0_u8; 1];
            // Without randomness the wait is the shortest: jitter is a courtesy.
            let _ = getrandom::fill(&mut random);
            let wait = self.wait(failed, error.retry_after_wait(), random[0]);
            if failed >= self.max_attempts || began.elapsed() + wait > self.budget {
                return Err(gave_up(error, failed, began.elapsed()));
            }
            if failed == WARN_AFTER {
                tracing::warn!(operation, failed, %error, "the store is in trouble; trying again");
            } else {
                tracing::debug!(operation, failed, %error, wait_ms = wait.as_millis(), "trying again");
            }
            tokio::time::sleep(wait).await;
        }
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
    policy: RetryPolicy,
}

impl RetryStore {
    /// Wraps a backend, which must not retry by itself.
    pub fn new(inner: Arc<dyn Store>, policy: RetryPolicy) -> Self {
        Self { inner, policy }
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
        self.policy.run("put", || self.inner.put(key, body.clone(), condition.clone())).await
    }

    async fn begin_upload(&self, key: &ObjectKey) -> Result<Arc<dyn Upload>> {
        let inner = self.policy.run("begin upload", || self.inner.begin_upload(key)).await?;
        Ok(Arc::new(RetryUpload { inner, policy: self.policy }))
    }

    async fn read(&self, key: &ObjectKey, range: Range<u64>) -> Result<Bytes> {
        self.policy.run("read", || self.inner.read(key, range.clone())).await
    }

    async fn get(&self, key: &ObjectKey, limit: u64) -> Result<(Bytes, ObjectInfo)> {
        self.policy.run("get", || self.inner.get(key, limit)).await
    }

    async fn head(&self, key: &ObjectKey) -> Result<ObjectInfo> {
        self.policy.run("head", || self.inner.head(key)).await
    }

    async fn list(&self, prefix: &str, after: Option<&str>) -> Result<Page> {
        self.policy.run("list", || self.inner.list(prefix, after)).await
    }

    async fn folders(&self, prefix: &str) -> Result<Vec<String>> {
        self.policy.run("list folders", || self.inner.folders(prefix)).await
    }

    async fn delete(&self, key: &ObjectKey, version: Option<&str>) -> Result<()> {
        self.policy.run("delete", || self.inner.delete(key, version)).await
    }

    async fn pending_uploads(&self, prefix: &str) -> Result<Vec<PendingUpload>> {
        self.policy.run("list uploads", || self.inner.pending_uploads(prefix)).await
    }

    async fn abort_pending(&self, upload: &PendingUpload) -> Result<()> {
        self.policy.run("abort an upload", || self.inner.abort_pending(upload)).await
    }

    async fn now(&self) -> Result<Timestamp> {
        self.policy.run("ask for the time", || self.inner.now()).await
    }

    async fn versions(&self, prefix: &str) -> Result<Vec<ObjectVersion>> {
        self.policy.run("list versions", || self.inner.versions(prefix)).await
    }

    async fn lock_of(&self, version: &ObjectVersion) -> Result<Lock> {
        self.policy.run("ask for a lock", || self.inner.lock_of(version)).await
    }

    async fn last_part(&self, upload: &PendingUpload) -> Result<Timestamp> {
        self.policy.run("list parts", || self.inner.last_part(upload)).await
    }

    async fn properties(&self) -> Result<Properties> {
        self.policy.run("ask for properties", || self.inner.properties()).await
    }

    async fn folders_of_versions(&self, prefix: &str) -> Result<Vec<String>> {
        self.policy.run("list folders of versions", || self.inner.folders_of_versions(prefix)).await
    }

    fn pinned(&self, versions: BTreeMap<String, String>) -> Option<Arc<dyn Store>> {
        Some(Arc::new(Self { inner: self.inner.pinned(versions)?, policy: self.policy }))
    }

    fn object_lock(&self) -> Option<ObjectLock> {
        self.inner.object_lock()
    }

    async fn extend_lock(&self, key: &ObjectKey) -> Result<()> {
        self.policy.run("extend a lock", || self.inner.extend_lock(key)).await
    }
}

struct RetryUpload {
    inner: Arc<dyn Upload>,
    policy: RetryPolicy,
}

#[async_trait]
impl Upload for RetryUpload {
    async fn part(&self, number: u32, body: Bytes, crc64nvme: u64) -> Result<()> {
        self.policy.run("upload a part", || self.inner.part(number, body.clone(), crc64nvme)).await
    }

    fn expect_more(&self) {
        self.inner.expect_more();
    }

    async fn complete(&self, n_parts: u32, size: u64, crc64nvme: u64) -> Result<ObjectInfo> {
        self.policy.run("complete an upload", || self.inner.complete(n_parts, size, crc64nvme)).await
    }

    async fn abort(&self) -> Result<()> {
        self.policy.run("abort an upload", || self.inner.abort()).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;
    use crate::store::faulty::{Fault, FaultyStore, Op};
    use crate::store::{crc64nvme, memory::MemoryStore};

    const QUICK: RetryPolicy = RetryPolicy {
        max_attempts: 4,
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
        let policy = RetryPolicy { max_attempts: u32::MAX, budget: Duration::from_millis(40), ..QUICK };
        let began = Instant::now();
        let store = RetryStore::new(faulty, policy);
        assert_eq!(store.head(&key()).await.unwrap_err().kind(), Kind::Unavailable);
        assert!(began.elapsed() >= Duration::from_millis(38), "{:?}", began.elapsed());
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
