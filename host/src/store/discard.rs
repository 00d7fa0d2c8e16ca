//! A store that keeps nothing but sizes and checksums: what `backup --dry-run` writes into.
//!
//! It never holds a byte of what it was given, and so it can give none back.

use super::memory::{check_parts, cut_page, upload_gone};
use super::{
    Condition, Lock, ObjectInfo, ObjectVersion, PAGE_OBJECTS, Page, PendingUpload, Properties, Store, Upload,
    crc64nvme, len_of, wrong_checksum,
};
use crate::clock;
use crate::error::{Error, Result};
use crate::id::ObjectKey;
use crate::stream::Room;
use async_trait::async_trait;
use bytes::Bytes;
use jiff::Timestamp;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Accepts everything and keeps what is known of it. Clones share what they know.
///
/// Memory: about 200 bytes an object and 16 bytes a part of an open upload.
#[derive(Clone, Debug, Default)]
pub struct DiscardStore {
    objects: Arc<Mutex<BTreeMap<String, ObjectInfo>>>,
}

impl DiscardStore {
    /// A store that has seen nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Objects that would be there, and their bytes in total.
    pub fn totals(&self) -> (usize, u64) {
        let objects = self.lock();
        (objects.len(), objects.values().map(|object| object.size).sum())
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, ObjectInfo>> {
        self.objects.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn keep(&self, key: &ObjectKey, size: u64, crc: u64, condition: &Condition) -> Result<ObjectInfo> {
        let etag = format!("{size:x}-{crc:016x}");
        let mut objects = self.lock();
        let holds = match (condition, objects.get(key.as_str())) {
            (Condition::Absent, there) => there.is_none_or(|info| info.etag.as_ref() == Some(&etag)),
            (Condition::Unchanged(tag), there) => there.is_some_and(|info| info.etag.as_ref() == Some(tag)),
        };
        if !holds {
            return Err(Error::conflict(format!("\"{key}\" holds something else already, or is gone")));
        }
        let info = ObjectInfo {
            key: key.as_str().to_owned(),
            size,
            crc64nvme: Some(crc),
            etag: Some(etag),
            version: None,
            modified: clock::now(),
        };
        objects.insert(key.as_str().to_owned(), info.clone());
        Ok(info)
    }
}

fn discarded(key: &ObjectKey) -> Error {
    Error::failed(format!("object \"{key}\" was discarded, since this is a dry run"))
}

fn missing(key: &ObjectKey) -> Error {
    Error::not_found(format!("no object \"{key}\" in this dry run"))
}

#[async_trait]
impl Store for DiscardStore {
    fn describe(&self) -> String {
        "dry run that stores nothing".to_owned()
    }

    async fn put(&self, key: &ObjectKey, body: Bytes, condition: Condition) -> Result<ObjectInfo> {
        self.keep(key, len_of(&body), crc64nvme(&body), &condition)
    }

    async fn begin_upload(&self, key: &ObjectKey) -> Result<Arc<dyn Upload>> {
        let parts = Mutex::new(Some(BTreeMap::new()));
        Ok(Arc::new(DiscardUpload { store: self.clone(), key: key.clone(), parts }))
    }

    async fn read_into(&self, key: &ObjectKey, _range: Range<u64>, _room: &Room) -> Result<Bytes> {
        Err(if self.lock().contains_key(key.as_str()) { discarded(key) } else { missing(key) })
    }

    async fn get(&self, key: &ObjectKey, _limit: u64) -> Result<(Bytes, ObjectInfo)> {
        Err(if self.lock().contains_key(key.as_str()) { discarded(key) } else { missing(key) })
    }

    async fn head(&self, key: &ObjectKey) -> Result<ObjectInfo> {
        self.lock().get(key.as_str()).cloned().ok_or_else(|| missing(key))
    }

    async fn list(&self, prefix: &str, after: Option<&str>) -> Result<Page> {
        let objects = self.lock();
        let wanted = |key: &str| key.starts_with(prefix) && after.is_none_or(|after| key > after);
        let mut page: Vec<_> =
            objects.values().filter(|info| wanted(&info.key)).take(PAGE_OBJECTS + 1).cloned().collect();
        Ok(cut_page(&mut page))
    }

    async fn folders(&self, prefix: &str) -> Result<Vec<String>> {
        let objects = self.lock();
        let names: BTreeSet<_> = objects
            .keys()
            .filter_map(|key| key.strip_prefix(prefix)?.split_once('/').map(|(name, _)| name.to_owned()))
            .collect();
        Ok(names.into_iter().collect())
    }

    async fn delete(&self, key: &ObjectKey, _version: Option<&str>) -> Result<()> {
        self.lock().remove(key.as_str());
        Ok(())
    }

    async fn pending_uploads(&self, _prefix: &str) -> Result<Vec<PendingUpload>> {
        Ok(Vec::new())
    }

    async fn abort_pending(&self, _upload: &PendingUpload) -> Result<()> {
        Ok(())
    }

    async fn now(&self) -> Result<Timestamp> {
        Ok(clock::now())
    }

    async fn versions(&self, prefix: &str) -> Result<Vec<ObjectVersion>> {
        ObjectVersion::of_all(self, prefix).await
    }

    async fn lock_of(&self, _version: &ObjectVersion) -> Result<Lock> {
        Ok(Lock::Free)
    }

    async fn last_part(&self, upload: &PendingUpload) -> Result<Timestamp> {
        Ok(upload.begun)
    }

    async fn properties(&self) -> Result<Properties> {
        Ok(Properties { versions: Some(false), object_lock: Some(false), locks_for_days: None })
    }
}

/// Size and CRC64NVME of each part; `None` once completed or aborted.
type Parts = Option<BTreeMap<u32, (u64, u64)>>;

#[derive(Debug)]
struct DiscardUpload {
    store: DiscardStore,
    key: ObjectKey,
    parts: Mutex<Parts>,
}

impl DiscardUpload {
    fn lock(&self) -> MutexGuard<'_, Parts> {
        self.parts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Upload for DiscardUpload {
    async fn part(&self, number: u32, body: Bytes, crc: u64) -> Result<()> {
        let got = crc64nvme(&body);
        if got != crc {
            return Err(wrong_checksum(&format!("part {number} of \"{}\"", self.key), crc, got));
        }
        self.lock().as_mut().ok_or_else(|| upload_gone(&self.key))?.insert(number, (len_of(&body), crc));
        Ok(())
    }

    async fn complete(&self, n_parts: u32, size: u64, crc: u64) -> Result<ObjectInfo> {
        let mut guard = self.lock();
        if let Some(parts) = guard.as_ref() {
            let sizes = parts.iter().map(|(number, (size, crc))| (*number, *size, *crc));
            check_parts(&self.key, sizes, n_parts, size, crc)?;
        }
        let info = self.store.keep(&self.key, size, crc, &Condition::Absent)?;
        *guard = None;
        Ok(info)
    }

    async fn abort(&self) -> Result<()> {
        *self.lock() = None;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn sizes_and_checksums_are_kept_and_bytes_are_not() {
        let store = DiscardStore::new();
        let key = ObjectKey::parse("job/a").unwrap();
        let upload = store.begin_upload(&key).await.unwrap();
        upload.part(1, Bytes::from_static(b"one"), crc64nvme(b"one")).await.unwrap();
        upload.part(2, Bytes::from_static(b"two"), crc64nvme(b"two")).await.unwrap();
        upload.complete(2, 6, crc64nvme(b"onetwo")).await.unwrap();
        assert_eq!(store.head(&key).await.unwrap().crc64nvme, Some(crc64nvme(b"onetwo")));
        assert_eq!(store.totals(), (1, 6));
        assert_eq!(store.read(&key, 0..1).await.unwrap_err().kind(), crate::error::Kind::Failed);
        let other = store.put(&key, Bytes::from_static(b"x"), Condition::Absent).await;
        assert_eq!(other.unwrap_err().kind(), crate::error::Kind::Conflict);
    }

    #[tokio::test]
    async fn a_wrong_checksum_is_refused_even_when_nothing_is_kept() {
        let store = DiscardStore::new();
        let upload = store.begin_upload(&ObjectKey::parse("a").unwrap()).await.unwrap();
        let refused = upload.part(1, Bytes::from_static(b"one"), 1).await.unwrap_err();
        assert_eq!(refused.kind(), crate::error::Kind::Damaged);
    }
}
