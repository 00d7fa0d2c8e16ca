//! A store in memory: for tests, and the reference for what the other backends must do.
//!
//! Nothing outlives the value. Memory: every byte that is stored or on its way.

use super::{
    Condition, Lock, ObjectInfo, ObjectVersion, PAGE_OBJECTS, Page, PendingUpload, Properties, Store, Upload,
    combine_crc64nvme, crc64nvme, len_of, wrong_checksum,
};
use crate::clock;
use crate::error::{Error, Result};
use crate::id::ObjectKey;
use crate::stream::Room;
use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use jiff::Timestamp;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::{Bound, Range};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A store in memory. Clones share their objects.
#[derive(Clone, Debug, Default)]
pub struct MemoryStore {
    shared: Arc<Mutex<Shared>>,
}

#[derive(Debug, Default)]
struct Shared {
    objects: BTreeMap<String, Stored>,
    uploads: BTreeMap<u64, Begun>,
    /// Source of entity tags and upload ids.
    counter: u64,
    /// Its clock; the machine's unless set.
    now: Option<Timestamp>,
}

#[derive(Debug)]
struct Stored {
    body: Bytes,
    etag: u64,
    modified: Timestamp,
}

#[derive(Debug)]
struct Begun {
    key: ObjectKey,
    at: Timestamp,
    last_part: Timestamp,
    parts: BTreeMap<u32, (Bytes, u64)>,
}

impl MemoryStore {
    /// An empty store.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets its clock, which stands still from then on: what is stored now was stored then.
    pub fn set_now(&self, now: Timestamp) {
        self.lock().now = Some(now);
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shared {
    fn next_number(&mut self) -> u64 {
        self.counter += 1;
        self.counter
    }

    fn now(&self) -> Timestamp {
        self.now.unwrap_or_else(clock::now)
    }

    fn info(&self, key: &str) -> Result<ObjectInfo> {
        self.objects.get(key).map(|object| object.info(key)).ok_or_else(|| missing(key))
    }

    fn insert(&mut self, key: &str, body: Bytes, condition: &Condition) -> Result<ObjectInfo> {
        let there = self.objects.get(key);
        let holds = match (condition, there) {
            (Condition::Absent, None) => true,
            (Condition::Unchanged(etag), Some(object)) => *etag == object.etag.to_string(),
            (Condition::Absent, Some(_)) | (Condition::Unchanged(_), None) => false,
        };
        if !holds {
            return match there {
                Some(object) if object.body == body => Ok(object.info(key)),
                Some(_) => Err(Error::conflict(format!("\"{key}\" holds something else already"))),
                None => Err(Error::conflict(format!("\"{key}\" is gone"))),
            };
        }
        let (etag, modified) = (self.next_number(), self.now());
        self.objects.insert(key.to_owned(), Stored { body, etag, modified });
        self.info(key)
    }
}

impl Stored {
    fn info(&self, key: &str) -> ObjectInfo {
        ObjectInfo {
            key: key.to_owned(),
            size: len_of(&self.body),
            crc64nvme: Some(crc64nvme(&self.body)),
            etag: Some(self.etag.to_string()),
            version: None,
            modified: self.modified,
        }
    }
}

fn missing(key: &str) -> Error {
    Error::not_found(format!("no object \"{key}\" in memory"))
}

/// The bytes of `range` out of a whole object; `Damaged` when it is shorter.
pub(super) fn slice(key: &ObjectKey, body: &Bytes, range: &Range<u64>) -> Result<Bytes> {
    let at = |n: u64| usize::try_from(n).ok().filter(|n| *n <= body.len());
    match (at(range.start), at(range.end)) {
        (Some(start), Some(end)) if start <= end => Ok(body.slice(start..end)),
        _ => Err(too_short(key, range, Some(len_of(body)))),
    }
}

/// The error for an object that does not reach as far as it was recorded to.
pub(super) fn too_short(key: &ObjectKey, range: &Range<u64>, size: Option<u64>) -> Error {
    let error = Error::damaged(format!("object \"{key}\" is shorter than it should be"))
        .fact("expected", format!("bytes {} to {}", range.start, range.end));
    match size {
        Some(size) => error.fact("got", format!("an object of {size} bytes")),
        None => error,
    }
}

#[async_trait]
impl Store for MemoryStore {
    fn describe(&self) -> String {
        "store in memory".to_owned()
    }

    async fn put(&self, key: &ObjectKey, body: Bytes, condition: Condition) -> Result<ObjectInfo> {
        self.lock().insert(key.as_str(), body, &condition)
    }

    async fn begin_upload(&self, key: &ObjectKey) -> Result<Arc<dyn Upload>> {
        let mut shared = self.lock();
        let (id, at) = (shared.next_number(), shared.now());
        shared.uploads.insert(id, Begun { key: key.clone(), at, last_part: at, parts: BTreeMap::new() });
        drop(shared);
        Ok(Arc::new(MemoryUpload { store: self.clone(), id, key: key.clone() }))
    }

    async fn read_into(&self, key: &ObjectKey, range: Range<u64>, room: &Room) -> Result<Bytes> {
        let shared = self.lock();
        let object = shared.objects.get(key.as_str()).ok_or_else(|| missing(key.as_str()))?;
        slice(key, &object.body, &range).map(|bytes| room.copy_of(&bytes))
    }

    async fn get(&self, key: &ObjectKey, limit: u64) -> Result<(Bytes, ObjectInfo)> {
        let shared = self.lock();
        let object = shared.objects.get(key.as_str()).ok_or_else(|| missing(key.as_str()))?;
        check_limit(key, len_of(&object.body), limit)?;
        Ok((object.body.clone(), object.info(key.as_str())))
    }

    async fn head(&self, key: &ObjectKey) -> Result<ObjectInfo> {
        self.lock().info(key.as_str())
    }

    async fn list(&self, prefix: &str, after: Option<&str>) -> Result<Page> {
        let shared = self.lock();
        let from = match after {
            Some(after) if after >= prefix => Bound::Excluded(after.to_owned()),
            _ => Bound::Included(prefix.to_owned()),
        };
        let mut objects: Vec<_> = shared
            .objects
            .range::<String, _>((from, Bound::Unbounded))
            .take_while(|(key, _)| key.starts_with(prefix))
            .take(PAGE_OBJECTS + 1)
            .map(|(key, object)| object.info(key))
            .collect();
        Ok(cut_page(&mut objects))
    }

    async fn folders(&self, prefix: &str) -> Result<Vec<String>> {
        let shared = self.lock();
        let names: BTreeSet<_> = shared
            .objects
            .keys()
            .filter_map(|key| key.strip_prefix(prefix)?.split_once('/').map(|(name, _)| name.to_owned()))
            .collect();
        Ok(names.into_iter().collect())
    }

    async fn delete(&self, key: &ObjectKey, _version: Option<&str>) -> Result<()> {
        self.lock().objects.remove(key.as_str());
        Ok(())
    }

    async fn pending_uploads(&self, prefix: &str) -> Result<Vec<PendingUpload>> {
        let shared = self.lock();
        let under = shared.uploads.iter().filter(|(_, begun)| begun.key.as_str().starts_with(prefix));
        Ok(under
            .map(|(id, begun)| PendingUpload {
                key: begun.key.as_str().to_owned(),
                id: id.to_string(),
                begun: begun.at,
            })
            .collect())
    }

    async fn abort_pending(&self, upload: &PendingUpload) -> Result<()> {
        if let Ok(id) = upload.id.parse::<u64>() {
            self.lock().uploads.remove(&id);
        }
        Ok(())
    }

    async fn now(&self) -> Result<Timestamp> {
        Ok(self.lock().now())
    }

    async fn versions(&self, prefix: &str) -> Result<Vec<ObjectVersion>> {
        ObjectVersion::of_all(self, prefix).await
    }

    async fn lock_of(&self, _version: &ObjectVersion) -> Result<Lock> {
        Ok(Lock::Free)
    }

    async fn last_part(&self, upload: &PendingUpload) -> Result<Timestamp> {
        let begun =
            upload.id.parse::<u64>().ok().and_then(|id| self.lock().uploads.get(&id).map(|begun| begun.last_part));
        Ok(begun.unwrap_or(upload.begun))
    }

    async fn properties(&self) -> Result<Properties> {
        Ok(Properties { versions: Some(false), object_lock: Some(false), locks_for_days: None })
    }
}

/// Refuses an object that is larger than the caller takes into memory.
pub(super) fn check_limit(key: &ObjectKey, size: u64, limit: u64) -> Result<()> {
    if size <= limit {
        return Ok(());
    }
    Err(Error::limit(format!("object \"{key}\" is too large to be read at once"))
        .fact("expected", format!("at most {limit} bytes"))
        .fact("got", format!("{size} bytes")))
}

/// Makes a page of at most [`PAGE_OBJECTS`] out of objects of which there may be one more.
pub(super) fn cut_page(objects: &mut Vec<ObjectInfo>) -> Page {
    let more = objects.len() > PAGE_OBJECTS;
    objects.truncate(PAGE_OBJECTS);
    let next = if more { objects.last().map(|last| last.key.clone()) } else { None };
    Page { objects: std::mem::take(objects), next }
}

#[derive(Debug)]
struct MemoryUpload {
    store: MemoryStore,
    id: u64,
    key: ObjectKey,
}

#[async_trait]
impl Upload for MemoryUpload {
    async fn part(&self, number: u32, body: Bytes, crc: u64) -> Result<()> {
        let got = crc64nvme(&body);
        if got != crc {
            return Err(wrong_checksum(&format!("part {number} of \"{}\"", self.key), crc, got));
        }
        let mut shared = self.store.lock();
        let now = shared.now();
        let begun = shared.uploads.get_mut(&self.id).ok_or_else(|| upload_gone(&self.key))?;
        begun.parts.insert(number, (body, crc));
        begun.last_part = now;
        Ok(())
    }

    async fn complete(&self, n_parts: u32, size: u64, crc: u64) -> Result<ObjectInfo> {
        let mut shared = self.store.lock();
        let Some(begun) = shared.uploads.get(&self.id) else {
            // Completed before and asked again: what is there decides.
            return match shared.info(self.key.as_str()) {
                Ok(info) if info.size == size && info.crc64nvme == Some(crc) => Ok(info),
                _ => Err(upload_gone(&self.key)),
            };
        };
        let sizes = begun.parts.iter().map(|(number, (body, crc))| (*number, len_of(body), *crc));
        check_parts(&self.key, sizes, n_parts, size, crc)?;
        let mut whole = BytesMut::new();
        for (body, _) in begun.parts.values() {
            whole.extend_from_slice(body);
        }
        let info = shared.insert(self.key.as_str(), whole.freeze(), &Condition::Absent)?;
        shared.uploads.remove(&self.id);
        Ok(info)
    }

    async fn abort(&self) -> Result<()> {
        self.store.lock().uploads.remove(&self.id);
        Ok(())
    }
}

/// The error for an upload that was completed or aborted before.
pub(super) fn upload_gone(key: &ObjectKey) -> Error {
    Error::failed(format!("the upload of \"{key}\" is not there any more"))
        .hint("it was completed or aborted, perhaps by another process")
}

/// Checks that parts 1 to `n_parts` are all there and make up the announced size and checksum.
pub(super) fn check_parts(
    key: &ObjectKey,
    parts: impl Iterator<Item = (u32, u64, u64)>,
    n_parts: u32,
    size: u64,
    crc: u64,
) -> Result<()> {
    let (mut count, mut total, mut whole) = (0_u32, 0_u64, 0_u64);
    for (number, part_size, part_crc) in parts {
        count += 1;
        if number != count {
            return Err(Error::invalid(format!("part {count} of \"{key}\" was never stored")));
        }
        total += part_size;
        whole = combine_crc64nvme(whole, part_crc, part_size);
    }
    if count != n_parts || total != size {
        return Err(Error::invalid(format!("the parts of \"{key}\" do not make up the announced object"))
            .fact("expected", format!("{n_parts} parts, {size} bytes"))
            .fact("got", format!("{count} parts, {total} bytes")));
    }
    if count > 0 && whole != crc {
        return Err(wrong_checksum(&format!("object \"{key}\""), crc, whole));
    }
    Ok(())
}
