//! Objects and unfinished uploads in memory. Knows nothing of HTTP.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::SystemTime;

/// A body: slices in their order, or only its length.
#[derive(Clone, Debug)]
pub(super) enum Body {
    /// As it came, one slice for each part.
    Kept(Vec<Arc<Vec<u8>>>),
    /// Thrown away.
    Dropped,
}

/// Some of a part.
#[derive(Clone, Debug)]
pub(super) struct Slice {
    part: Arc<Vec<u8>>,
    range: Range<usize>,
}

impl Slice {
    /// All of these bytes.
    pub(super) fn of(bytes: Vec<u8>) -> Self {
        let range = 0..bytes.len();
        Self { part: Arc::new(bytes), range }
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.part[self.range.clone()]
    }
}

/// One object.
#[derive(Clone, Debug)]
pub(super) struct Object {
    pub(super) body: Body,
    pub(super) bytes: u64,
    pub(super) etag: String,
    /// The CRC64NVME that the client stated, in Base64; said back, never computed.
    pub(super) crc64nvme: Option<String>,
    pub(super) modified: SystemTime,
}

impl Object {
    /// The slices that make up a range within the object; `None` when the body was thrown away.
    pub(super) fn slices(&self, range: Range<u64>) -> Option<Vec<Slice>> {
        let Body::Kept(parts) = &self.body else { return None };
        let mut slices = Vec::new();
        let mut at = 0_u64;
        for part in parts {
            let len = u64::try_from(part.len()).ok()?;
            let (start, end) = (range.start.max(at), range.end.min(at + len));
            if start < end {
                let range = usize::try_from(start - at).ok()?..usize::try_from(end - at).ok()?;
                slices.push(Slice { part: Arc::clone(part), range });
            }
            at += len;
        }
        Some(slices)
    }
}

#[derive(Debug)]
struct Upload {
    key: String,
    parts: BTreeMap<u32, (Body, u64)>,
}

/// Everything that is there, by key.
#[derive(Debug, Default)]
pub(super) struct Objects {
    objects: BTreeMap<String, Object>,
    uploads: BTreeMap<String, Upload>,
    /// The key of each upload that was completed.
    completed: BTreeMap<String, String>,
    /// What makes names and ETags differ from one another.
    counter: u64,
}

impl Objects {
    pub(super) fn get(&self, key: &str) -> Option<&Object> {
        self.objects.get(key)
    }

    /// Objects whose key begins with `prefix` and comes after `after`, in order.
    pub(super) fn list<'a>(
        &'a self,
        prefix: &'a str,
        after: &'a str,
    ) -> impl Iterator<Item = (&'a String, &'a Object)> {
        let in_range = self.objects.range(prefix.to_owned()..);
        in_range.take_while(move |(key, _)| key.starts_with(prefix)).filter(move |(key, _)| key.as_str() > after)
    }

    pub(super) fn put(&mut self, key: &str, body: Body, bytes: u64, crc64nvme: Option<String>) -> &Object {
        let etag = self.next_etag();
        let object = Object { body, bytes, etag, crc64nvme, modified: SystemTime::now() };
        self.objects.insert(key.to_owned(), object);
        &self.objects[key]
    }

    pub(super) fn remove(&mut self, key: &str) {
        self.objects.remove(key);
    }

    /// Begins an upload and returns its id.
    pub(super) fn begin(&mut self, key: &str) -> String {
        self.counter += 1;
        let id = format!("upload-{}", self.counter);
        self.uploads.insert(id.clone(), Upload { key: key.to_owned(), parts: BTreeMap::new() });
        id
    }

    /// Adds a part and returns its ETag; `None` when there is no such upload.
    pub(super) fn add_part(&mut self, id: &str, number: u32, body: Body, bytes: u64) -> Option<String> {
        self.uploads.get_mut(id)?.parts.insert(number, (body, bytes));
        Some(self.next_etag())
    }

    /// Makes an object of an upload's parts in the order of their numbers; `None` when there is no such
    /// upload. Who asks again, since the answer did not come, gets the object that was made: AWS, "Amazon S3 API
    /// Reference", CompleteMultipartUpload.
    pub(super) fn complete(&mut self, id: &str, crc64nvme: Option<String>) -> Option<&Object> {
        let Some(upload) = self.uploads.remove(id) else { return self.objects.get(self.completed.get(id)?) };
        self.completed.insert(id.to_owned(), upload.key.clone());
        let bytes = upload.parts.values().map(|(_, bytes)| bytes).sum();
        let mut slices = Some(Vec::new());
        for (body, _) in upload.parts.into_values() {
            match (body, slices.as_mut()) {
                (Body::Kept(mut more), Some(slices)) => slices.append(&mut more),
                _ => slices = None,
            }
        }
        Some(self.put(&upload.key, slices.map_or(Body::Dropped, Body::Kept), bytes, crc64nvme))
    }

    pub(super) fn abort(&mut self, id: &str) {
        self.uploads.remove(id);
    }

    /// Removes every object whose key begins with `prefix`, and every upload, completed or not.
    pub(super) fn clear(&mut self, prefix: &str) {
        self.objects.retain(|key, _| !key.starts_with(prefix));
        self.uploads.clear();
        self.completed.clear();
    }

    /// Never looks like an MD5, which clients would compare with their own.
    fn next_etag(&mut self) -> String {
        self.counter += 1;
        format!("\"sink{}-1\"", self.counter)
    }
}
