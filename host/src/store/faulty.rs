//! Test equipment: a store that misbehaves in one chosen way in front of another one.
//!
//! Never part of a configuration; tests of everything that uses a store wrap theirs in it.

use super::{
    Condition, Lock, ObjectInfo, ObjectLock, ObjectVersion, Page, PendingUpload, Properties, Store, Upload, len_of,
};
use crate::clock;
use crate::error::{Error, Result};
use crate::id::ObjectKey;
use crate::stream::Room;
use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use jiff::Timestamp;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// One way to misbehave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// None: for what is only watched.
    None,
    /// The first so many calls of each operation fail as `Unavailable`, without any effect.
    FailFirst(u32),
    /// The first so many calls of this operation fail as `Unavailable`, without any effect.
    FailFirstOf(Op, u32),
    /// Every call of this operation from this one on (from 1) fails for good, without any effect.
    FailFrom(Op, u32),
    /// The first so many calls of this operation take effect, and then their answer is lost.
    LoseAnswer(Op, u32),
    /// Acknowledges what is put or completed, and drops it.
    Lie,
    /// Reads come back one byte short.
    TruncateReads,
    /// Reads come back with the lowest bit of their middle byte flipped.
    FlipReads,
    /// Descriptions of objects carry a checksum that is not theirs.
    WrongChecksum,
    /// Calls of this operation never return.
    Stall(Op),
    /// The store's clock is this much ahead of the times that its objects have: they are that old.
    ClockAhead(Duration),
}

/// The operations of [`Store`] and [`Upload`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// [`Store::put`]
    Put,
    /// [`Store::begin_upload`]
    BeginUpload,
    /// [`Upload::part`]
    Part,
    /// [`Upload::complete`]
    Complete,
    /// [`Upload::abort`]
    Abort,
    /// [`Store::read`]
    Read,
    /// [`Store::get`]
    Get,
    /// [`Store::head`]
    Head,
    /// [`Store::list`]
    List,
    /// [`Store::folders`]
    Folders,
    /// [`Store::delete`]
    Delete,
    /// [`Store::pending_uploads`]
    PendingUploads,
    /// [`Store::abort_pending`]
    AbortPending,
}

const N_OPS: usize = 13;

/// A store with a fault. Clones share the count of calls.
#[derive(Clone, Debug)]
pub struct FaultyStore {
    inner: Arc<dyn Store>,
    fault: Fault,
    calls: Arc<[AtomicU32; N_OPS]>,
    cancelling: Option<(Op, u32, CancellationToken)>,
}

impl FaultyStore {
    /// Puts a fault in front of a store.
    pub fn new(inner: Arc<dyn Store>, fault: Fault) -> Self {
        Self { inner, fault, calls: Arc::default(), cancelling: None }
    }

    /// The same; `token` is cancelled while this call of this operation (from 1) is under way.
    #[must_use]
    pub fn cancelling(self, op: Op, call: u32, token: CancellationToken) -> Self {
        Self { cancelling: Some((op, call, token)), ..self }
    }

    /// How often an operation was called, failures counted.
    pub fn calls(&self, op: Op) -> u32 {
        self.counter(op).load(Ordering::SeqCst)
    }

    fn counter(&self, op: Op) -> &AtomicU32 {
        let index = match op {
            Op::Put => 0,
            Op::BeginUpload => 1,
            Op::Part => 2,
            Op::Complete => 3,
            Op::Abort => 4,
            Op::Read => 5,
            Op::Get => 6,
            Op::Head => 7,
            Op::List => 8,
            Op::Folders => 9,
            Op::Delete => 10,
            Op::PendingUploads => 11,
            Op::AbortPending => 12,
        };
        &self.calls[index]
    }

    /// What happens before a call. Returns the number of the call, from 1.
    async fn before(&self, op: Op) -> Result<u32> {
        let call = self.counter(op).fetch_add(1, Ordering::SeqCst) + 1;
        if let Some((_, _, token)) = self.cancelling.as_ref().filter(|(of, n, _)| (*of, *n) == (op, call)) {
            token.cancel();
        }
        let unavailable = || Error::unavailable(format!("{op:?} number {call} fails, as the test wants it"));
        match self.fault {
            Fault::FailFirst(n) if call <= n => Err(unavailable()),
            Fault::FailFirstOf(which, n) if which == op && call <= n => Err(unavailable()),
            Fault::FailFrom(which, n) if which == op && call >= n => {
                Err(Error::failed(format!("{op:?} number {call} fails for good, as the test wants it")))
            }
            Fault::Stall(which) if which == op => std::future::pending().await,
            _ => Ok(call),
        }
    }

    /// What happens to the answer of a call that took effect.
    fn after<T>(&self, op: Op, call: u32, result: Result<T>) -> Result<T> {
        match self.fault {
            Fault::LoseAnswer(which, n) if which == op && call <= n => {
                result.and_then(|_| Err(Error::unavailable(format!("the answer to {op:?} number {call} was lost"))))
            }
            _ => result,
        }
    }

    async fn through<T>(&self, op: Op, work: impl Future<Output = Result<T>>) -> Result<T> {
        let call = self.before(op).await?;
        self.after(op, call, work.await)
    }

    fn lies(&self) -> bool {
        self.fault == Fault::Lie
    }

    fn bytes(&self, body: Bytes) -> Bytes {
        match self.fault {
            Fault::TruncateReads => body.slice(..body.len().saturating_sub(1)),
            Fault::FlipReads if !body.is_empty() => {
                let mut flipped = BytesMut::from(&body[..]);
                let middle = flipped.len() / 2;
                flipped[middle] ^= 1;
                flipped.freeze()
            }
            _ => body,
        }
    }

    fn info(&self, mut info: ObjectInfo) -> ObjectInfo {
        if self.fault == Fault::WrongChecksum {
            info.crc64nvme = Some(info.crc64nvme.map_or(0, |crc| crc ^ 1));
        }
        info
    }
}

/// What a liar says of an object that it dropped.
fn lie(key: &ObjectKey, size: u64, crc64nvme: u64) -> ObjectInfo {
    ObjectInfo {
        key: key.as_str().to_owned(),
        size,
        crc64nvme: Some(crc64nvme),
        etag: Some("lie".to_owned()),
        version: None,
        modified: clock::now(),
    }
}

#[async_trait]
impl Store for FaultyStore {
    fn describe(&self) -> String {
        format!("{} with a fault ({:?})", self.inner.describe(), self.fault)
    }

    fn local_root(&self) -> Option<std::path::PathBuf> {
        self.inner.local_root()
    }

    async fn put(&self, key: &ObjectKey, body: Bytes, condition: Condition) -> Result<ObjectInfo> {
        self.through(Op::Put, async {
            if self.lies() {
                return Ok(lie(key, len_of(&body), super::crc64nvme(&body)));
            }
            self.inner.put(key, body, condition).await
        })
        .await
    }

    async fn begin_upload(&self, key: &ObjectKey) -> Result<Arc<dyn Upload>> {
        let inner = self.through(Op::BeginUpload, self.inner.begin_upload(key)).await?;
        Ok(Arc::new(FaultyUpload { inner, faulty: self.clone(), key: key.clone() }))
    }

    async fn read_into(&self, key: &ObjectKey, range: Range<u64>, room: &Room) -> Result<Bytes> {
        self.through(Op::Read, self.inner.read_into(key, range, room)).await.map(|body| self.bytes(body))
    }

    async fn get(&self, key: &ObjectKey, limit: u64) -> Result<(Bytes, ObjectInfo)> {
        let (body, info) = self.through(Op::Get, self.inner.get(key, limit)).await?;
        Ok((self.bytes(body), self.info(info)))
    }

    async fn head(&self, key: &ObjectKey) -> Result<ObjectInfo> {
        self.through(Op::Head, self.inner.head(key)).await.map(|info| self.info(info))
    }

    async fn list(&self, prefix: &str, after: Option<&str>) -> Result<Page> {
        self.through(Op::List, self.inner.list(prefix, after)).await
    }

    async fn folders(&self, prefix: &str) -> Result<Vec<String>> {
        self.through(Op::Folders, self.inner.folders(prefix)).await
    }

    async fn delete(&self, key: &ObjectKey, version: Option<&str>) -> Result<()> {
        self.through(Op::Delete, self.inner.delete(key, version)).await
    }

    async fn pending_uploads(&self, prefix: &str) -> Result<Vec<PendingUpload>> {
        self.through(Op::PendingUploads, self.inner.pending_uploads(prefix)).await
    }

    async fn abort_pending(&self, upload: &PendingUpload) -> Result<()> {
        self.through(Op::AbortPending, self.inner.abort_pending(upload)).await
    }

    async fn now(&self) -> Result<Timestamp> {
        let now = self.inner.now().await?;
        match self.fault {
            Fault::ClockAhead(by) => {
                now.checked_add(by).map_err(|error| Error::failed("the test's clock is too far ahead").because(error))
            }
            _ => Ok(now),
        }
    }

    async fn versions(&self, prefix: &str) -> Result<Vec<ObjectVersion>> {
        self.through(Op::List, self.inner.versions(prefix)).await
    }

    async fn lock_of(&self, version: &ObjectVersion) -> Result<Lock> {
        self.inner.lock_of(version).await
    }

    async fn last_part(&self, upload: &PendingUpload) -> Result<Timestamp> {
        self.inner.last_part(upload).await
    }

    async fn properties(&self) -> Result<Properties> {
        self.inner.properties().await
    }

    async fn folders_of_versions(&self, prefix: &str) -> Result<Vec<String>> {
        self.through(Op::Folders, self.inner.folders_of_versions(prefix)).await
    }

    fn pinned(&self, versions: BTreeMap<String, String>) -> Option<Arc<dyn Store>> {
        Some(Arc::new(Self { inner: self.inner.pinned(versions)?, ..self.clone() }))
    }

    fn object_lock(&self) -> Option<ObjectLock> {
        self.inner.object_lock()
    }

    async fn extend_lock(&self, key: &ObjectKey) -> Result<()> {
        self.inner.extend_lock(key).await
    }
}

struct FaultyUpload {
    inner: Arc<dyn Upload>,
    faulty: FaultyStore,
    key: ObjectKey,
}

#[async_trait]
impl Upload for FaultyUpload {
    async fn part(&self, number: u32, body: Bytes, crc64nvme: u64) -> Result<()> {
        self.faulty.through(Op::Part, self.inner.part(number, body, crc64nvme)).await
    }

    fn expect_more(&self) {
        self.inner.expect_more();
    }

    async fn complete(&self, n_parts: u32, size: u64, crc64nvme: u64) -> Result<ObjectInfo> {
        self.faulty
            .through(Op::Complete, async {
                if self.faulty.lies() {
                    self.inner.abort().await?;
                    return Ok(lie(&self.key, size, crc64nvme));
                }
                self.inner.complete(n_parts, size, crc64nvme).await.map(|info| self.faulty.info(info))
            })
            .await
    }

    async fn abort(&self) -> Result<()> {
        self.faulty.through(Op::Abort, self.inner.abort()).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;
    use crate::store::memory::MemoryStore;

    async fn holding_abc(fault: Fault) -> (FaultyStore, ObjectKey) {
        let (memory, key) = (MemoryStore::new(), ObjectKey::parse("k").unwrap());
        memory.put(&key, Bytes::from_static(b"abc"), Condition::Absent).await.unwrap();
        (FaultyStore::new(Arc::new(memory), fault), key)
    }

    #[tokio::test]
    async fn a_liar_acknowledges_and_drops() {
        let (store, _) = holding_abc(Fault::Lie).await;
        let other = ObjectKey::parse("other").unwrap();
        let info = store.put(&other, Bytes::from_static(b"xyz"), Condition::Absent).await.unwrap();
        assert_eq!((info.size, info.crc64nvme), (3, Some(super::super::crc64nvme(b"xyz"))));
        assert_eq!(store.head(&other).await.unwrap_err().kind(), Kind::NotFound);
    }

    #[tokio::test]
    async fn reads_are_cut_or_flipped_and_checksums_lie() {
        let (store, key) = holding_abc(Fault::TruncateReads).await;
        assert_eq!(store.read(&key, 0..3).await.unwrap(), "ab");
        let (store, key) = holding_abc(Fault::FlipReads).await;
        assert_eq!(store.read(&key, 0..3).await.unwrap(), "acc");
        let (store, key) = holding_abc(Fault::WrongChecksum).await;
        assert_ne!(store.head(&key).await.unwrap().crc64nvme, Some(super::super::crc64nvme(b"abc")));
    }

    #[tokio::test]
    async fn an_answer_is_lost_after_the_effect() {
        let (store, key) = holding_abc(Fault::LoseAnswer(Op::Delete, 1)).await;
        assert_eq!(store.delete(&key, None).await.unwrap_err().kind(), Kind::Unavailable);
        assert_eq!(store.head(&key).await.unwrap_err().kind(), Kind::NotFound);
        store.delete(&key, None).await.unwrap();
    }
}
