//! An object that is written in parts: one temporary file, each part at its offset.

use super::place::Temporary;
use super::{Root, on_thread};
use crate::error::{Error, Result};
use crate::id::ObjectKey;
use crate::store::memory::{check_parts, upload_gone};
use crate::store::{Condition, ObjectInfo, Upload, crc64nvme, len_of, wrong_checksum};
use async_trait::async_trait;
use bytes::Bytes;
use cap_std::fs::FileExt;
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::sync::RwLock;

/// Parts go where `(number - 1) x part size` says. Until two parts are known, the size of the
/// first to arrive is taken for it; a larger one then moves that part, which was the last.
pub(super) struct LocalUpload {
    root: Arc<Root>,
    key: ObjectKey,
    /// Write-locked to give out places, read-locked while bytes are written to them.
    layout: RwLock<Layout>,
}

#[derive(Default)]
struct Layout {
    /// `None` once completed or aborted.
    temporary: Option<Arc<Temporary>>,
    part_bytes: u64,
    /// Size and CRC64NVME of each part.
    parts: BTreeMap<u32, (u64, u64)>,
}

impl LocalUpload {
    pub(super) fn new(root: Arc<Root>, key: ObjectKey, temporary: Temporary) -> Self {
        let layout = Layout { temporary: Some(Arc::new(temporary)), ..Layout::default() };
        Self { root, key, layout: RwLock::new(layout) }
    }
}

impl Layout {
    /// Makes room for parts of `len` bytes; a part that was placed by a smaller size is moved.
    fn widen(&mut self, len: u64, key: &ObjectKey) -> Result<()> {
        if self.parts.is_empty() {
            self.part_bytes = len;
        }
        let before = self.part_bytes;
        self.part_bytes = before.max(len);
        if before >= len {
            return Ok(());
        }
        let (Some((&number, &(size, _))), 1, Some(temporary)) =
            (self.parts.first_key_value(), self.parts.len(), self.temporary.as_ref())
        else {
            return Err(uneven(key));
        };
        let mut moved = vec![0; usize::try_from(size).map_err(|_| uneven(key))?];
        let offset = |part_bytes: u64| u64::from(number - 1) * part_bytes;
        temporary
            .file()
            .read_exact_at(&mut moved, offset(before))
            .map_err(|error| super::describe_io(error, &format!("move a part of \"{key}\"")))?;
        temporary.write_at(&moved, offset(len))
    }
}

fn uneven(key: &ObjectKey) -> Error {
    Error::invalid(format!("the parts of \"{key}\" have different sizes"))
        .fact("expected", "every part but the last of the same size")
}

#[async_trait]
impl Upload for LocalUpload {
    async fn part(&self, number: u32, body: Bytes, crc: u64) -> Result<()> {
        if number == 0 {
            return Err(Error::invalid(format!("part 0 of \"{}\": parts are numbered from 1", self.key)));
        }
        let len = len_of(&body);
        let mut layout = self.layout.write().await;
        layout.parts.remove(&number);
        layout.widen(len, &self.key)?;
        let temporary = Arc::clone(layout.temporary.as_ref().ok_or_else(|| upload_gone(&self.key))?);
        let offset = u64::from(number - 1) * layout.part_bytes;
        layout.parts.insert(number, (len, crc));
        let writing = layout.downgrade();
        let what = format!("part {number} of \"{}\"", self.key);
        let written = on_thread(move || {
            let got = crc64nvme(&body);
            if got != crc {
                return Err(wrong_checksum(&what, crc, got));
            }
            temporary.write_at(&body, offset)
        })
        .await;
        drop(writing);
        if written.is_err() {
            self.layout.write().await.parts.remove(&number);
        }
        written
    }

    async fn complete(&self, n_parts: u32, size: u64, crc: u64) -> Result<ObjectInfo> {
        let mut layout = self.layout.write().await;
        let Some(temporary) = layout.temporary.clone() else {
            // Completed before and asked again: what is there decides.
            let (root, key) = (Arc::clone(&self.root), self.key.clone());
            let info = on_thread(move || root.info(&key)).await?;
            return if info.size == size { Ok(info) } else { Err(upload_gone(&self.key)) };
        };
        let sizes = layout.parts.iter().map(|(number, (size, crc))| (*number, *size, *crc));
        check_parts(&self.key, sizes, n_parts, size, crc)?;
        let last = layout.parts.last_key_value().map_or(0, |(number, _)| *number);
        if layout.parts.iter().any(|(number, (size, _))| *number != last && *size != layout.part_bytes) {
            return Err(uneven(&self.key));
        }
        let (root, key) = (Arc::clone(&self.root), self.key.clone());
        let info = on_thread(move || {
            temporary.set_len(size)?;
            temporary.flush()?;
            root.commit(&key, &temporary, &Condition::Absent)
        })
        .await?;
        layout.temporary = None;
        Ok(info)
    }

    async fn abort(&self) -> Result<()> {
        let Some(temporary) = self.layout.write().await.temporary.take() else { return Ok(()) };
        on_thread(move || temporary.remove()).await
    }
}
