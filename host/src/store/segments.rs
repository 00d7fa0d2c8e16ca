//! The ends of the streaming core over any store: segments as objects under one key prefix.
//!
//! It knows how segments are named and nothing of what is in them.

use super::{Store, Upload};
use crate::error::Result;
use crate::id::{ArtifactName, BackupId, Label, ObjectKey};
use crate::stream::{Room, SealedSegments, SegmentWrite, Segments};
use async_trait::async_trait;
use bytes::Bytes;
use std::ops::Range;
use std::sync::{Arc, OnceLock};

/// Segments of one artifact in a store: `<base>.0001.zst.age`, or `.zst` without encryption.
///
/// Numbers have at least four digits, so that sorting keys as text sorts the first 9,999
/// segments, some 70 TiB at the defaults. The record holds the order for what lies beyond.
#[derive(Clone, Debug)]
pub struct StoreSegments {
    store: Arc<dyn Store>,
    base: ObjectKey,
    encrypted: bool,
}

impl StoreSegments {
    /// Segments of `artifact` of one backup: `<job>/<id>/data/<artifact>.NNNN.zst[.age]`.
    pub fn new(
        store: Arc<dyn Store>,
        job: &Label,
        id: &BackupId,
        artifact: &ArtifactName,
        encrypted: bool,
    ) -> Result<Self> {
        let base = ObjectKey::parse(&format!("{job}/{id}/data/{artifact}"))?;
        Ok(Self { store, base, encrypted })
    }

    /// The key of segment `number` (from 1), relative to the store.
    pub fn key(&self, number: u32) -> Result<ObjectKey> {
        let suffix = if self.encrypted { "zst.age" } else { "zst" };
        ObjectKey::parse(&format!("{}.{number:04}.{suffix}", self.base))
    }
}

#[async_trait]
impl Segments for StoreSegments {
    async fn begin(&self, number: u32) -> Result<Arc<dyn SegmentWrite>> {
        let key = self.key(number)?;
        let upload = self.store.begin_upload(&key).await?;
        Ok(Arc::new(SegmentUpload { store: self.store.clone(), key, upload, completed: OnceLock::new() }))
    }
}

#[async_trait]
impl SealedSegments for StoreSegments {
    async fn read(&self, number: u32, range: Range<u64>, room: &Room) -> Result<Bytes> {
        self.store.read_into(&self.key(number)?, range, room).await
    }

    async fn stored_bytes(&self, number: u32) -> Result<Option<u64>> {
        Ok(Some(self.store.head(&self.key(number)?).await?.size))
    }
}

/// A segment on its way; one that is visible already is deleted when its artifact is abandoned.
struct SegmentUpload {
    store: Arc<dyn Store>,
    key: ObjectKey,
    upload: Arc<dyn Upload>,
    /// Once it is visible: its version, where the store keeps them.
    completed: OnceLock<Option<String>>,
}

#[async_trait]
impl SegmentWrite for SegmentUpload {
    async fn part(&self, number: u32, body: Bytes, crc64nvme: u64, is_only: bool) -> Result<()> {
        if !is_only {
            self.upload.expect_more();
        }
        self.upload.part(number, body, crc64nvme).await
    }

    async fn complete(&self, n_parts: u32, stored_bytes: u64, crc64nvme: u64) -> Result<()> {
        let info = self.upload.complete(n_parts, stored_bytes, crc64nvme).await?;
        self.completed.get_or_init(|| info.version);
        Ok(())
    }

    async fn abort(&self) -> Result<()> {
        if let Some(version) = self.completed.get() {
            return super::version::remove_for_good(&self.store, &self.key, version.as_deref()).await;
        }
        self.upload.abort().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{crc64nvme, memory::MemoryStore};

    fn segments(encrypted: bool) -> (MemoryStore, StoreSegments) {
        let store = MemoryStore::new();
        let id = "20261120T020000Z-x7k2m9qd".parse().unwrap();
        let (job, artifact) = ("orders".parse().unwrap(), "shop.dump".parse().unwrap());
        let segments = StoreSegments::new(Arc::new(store.clone()), &job, &id, &artifact, encrypted).unwrap();
        (store, segments)
    }

    #[tokio::test]
    async fn a_segment_lies_where_the_design_says_and_reads_back() {
        let (store, segments) = segments(true);
        let write = segments.begin(1).await.unwrap();
        write.part(1, Bytes::from_static(b"sealed"), crc64nvme(b"sealed"), true).await.unwrap();
        write.complete(1, 6, crc64nvme(b"sealed")).await.unwrap();
        let listed = store.list("", None).await.unwrap().objects;
        assert_eq!(listed[0].key, "orders/20261120T020000Z-x7k2m9qd/data/shop.dump.0001.zst.age");
        assert_eq!(segments.read(1, 2..6, &Room::fresh()).await.unwrap(), "aled");
    }

    #[test]
    fn numbers_grow_beyond_four_digits_and_the_suffix_says_whether_it_is_encrypted() {
        let (_, segments) = segments(false);
        assert!(segments.key(12_345).unwrap().as_str().ends_with("/shop.dump.12345.zst"));
    }

    #[tokio::test]
    async fn a_segment_that_cannot_be_completed_leaves_no_upload_behind() {
        let (store, segments) = segments(true);
        let write = segments.begin(1).await.unwrap();
        write.part(1, Bytes::from_static(b"sealed"), crc64nvme(b"sealed"), true).await.unwrap();
        assert!(write.complete(1, 7, 0).await.is_err());
        write.abort().await.unwrap();
        assert!(store.pending_uploads("").await.unwrap().is_empty());
    }

    #[tokio::test]
    async fn a_segment_that_was_completed_and_is_abandoned_is_deleted() {
        let (store, segments) = segments(true);
        let write = segments.begin(1).await.unwrap();
        write.part(1, Bytes::from_static(b"sealed"), crc64nvme(b"sealed"), true).await.unwrap();
        write.complete(1, 6, crc64nvme(b"sealed")).await.unwrap();
        write.abort().await.unwrap();
        assert!(store.list("", None).await.unwrap().objects.is_empty());
    }
}
