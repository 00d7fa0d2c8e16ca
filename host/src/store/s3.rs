//! A bucket of an S3-compatible server as a store.
//!
//! The SDK signs, speaks and parses; it neither retries nor computes checksums here. Bodies travel
//! unsigned with a checksum of ours: TLS protects them on the way, and plain HTTP is refused
//! except to this machine itself, or where it is allowed by name. No request has a limit on its
//! whole time, only on the time without progress.
//!
//! Whether a write worked is decided by what is there, not by the answer alone: after an answer
//! that leaves it open (lost, 5xx, 409, 412, an error inside a 200, `NoSuchUpload`) the object is
//! asked for its size and checksum, or compared byte for byte.

mod body;
mod checksum;
mod failure;
mod lock;
mod place;
mod upload;
mod version;
mod write;

pub use place::{CONNECT_WAIT, S3Credentials, S3Spec, STALL_WAIT};

use super::bandwidth::Bandwidth;
use super::memory::{check_limit, too_short};
use super::{
    Condition, Lock, ObjectInfo, ObjectLock, ObjectVersion, PAGE_OBJECTS, Page, PendingUpload, Properties, Store,
    Upload, crc64nvme,
};
use crate::error::{Error, Kind, Result};
use crate::id::ObjectKey;
use crate::secret::{MIN_SECRET_BYTES, Redactor};
use crate::stream::Room;
use async_trait::async_trait;
use aws_sdk_s3::Client;
use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::config::retry::RetryConfig;
use aws_sdk_s3::config::timeout::TimeoutConfig;
use aws_sdk_s3::config::{
    BehaviorVersion, Credentials, Region, RequestChecksumCalculation, ResponseChecksumValidation,
    StalledStreamProtectionConfig,
};
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_s3::primitives::{ByteStream, DateTime, SdkBody};
use aws_sdk_s3::types::{BucketVersioningStatus, ChecksumMode, ObjectLockEnabled};
use body::{Progress, Sliced};
use bytes::Bytes;
use checksum::{Known, decode64};
use failure::{Failure, explain, stalled};
use jiff::Timestamp;
use place::{Place, check_endpoint};
use std::collections::BTreeMap;
use std::future::Future;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::OnceCell;

/// How many times `stall` a server may take to put the parts of an object together, during which nothing needs
/// to move: the "several minutes" of AWS with the default. One that takes longer goes on with it while it is
/// asked again, and what is there decides.
/// <https://docs.aws.amazon.com/AmazonS3/latest/API/API_CompleteMultipartUpload.html>
const COMPLETE_STALLS: u32 = 5;
/// A bucket as a store. Clones share connections and what is known of the server.
#[derive(Clone, Debug)]
pub struct S3Store {
    inner: Arc<Inner>,
    /// Versions that are read instead of what the names stand for now.
    pins: Arc<BTreeMap<String, String>>,
}

#[derive(Debug)]
struct Inner {
    client: Client,
    place: Place,
    known: Known,
    stall: Duration,
    lock: Option<ObjectLock>,
    upload: Option<Arc<Bandwidth>>,
    download: Option<Arc<Bandwidth>>,
    /// The bucket was seen to exist: a 404 without a code means the object.
    bucket_seen: AtomicBool,
    /// How long the bucket locks whatever is stored in it, once that was asked for.
    default_lock: OnceCell<Option<version::DefaultLock>>,
}

impl S3Store {
    /// Prepares a client; asks the server nothing yet. `Invalid` for an endpoint that is no URL,
    /// holds credentials, or is plain HTTP to another machine.
    pub async fn open(spec: S3Spec) -> Result<Self> {
        Self::open_limited(spec, None, None).await
    }

    /// As [`Self::open`]; bytes of objects go to the server and come from it no faster than these
    /// allow, slice by slice.
    pub async fn open_limited(
        spec: S3Spec,
        upload: Option<Arc<Bandwidth>>,
        download: Option<Arc<Bandwidth>>,
    ) -> Result<Self> {
        if let Some(endpoint) = &spec.endpoint {
            check_endpoint(endpoint, spec.allow_plaintext)?;
        }
        let region = Region::new(spec.region.clone());
        let mut config = aws_sdk_s3::Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(region.clone())
            .retry_config(RetryConfig::disabled())
            .timeout_config(TimeoutConfig::builder().connect_timeout(CONNECT_WAIT).build())
            .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
            .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
            .response_checksum_validation(ResponseChecksumValidation::WhenRequired)
            .force_path_style(spec.path_style);
        let redactor = Redactor::new(&spec.blotted);
        if let Some(credentials) = spec.credentials {
            config = config.credentials_provider(Credentials::new(
                credentials.access_key.expose(),
                credentials.secret_key.expose(),
                credentials.session_token.as_ref().map(|token| token.expose().to_owned()),
                None,
                "strongroom",
            ));
            [Some(credentials.access_key), Some(credentials.secret_key), credentials.session_token]
                .iter()
                .flatten()
                .filter(|secret| secret.expose().len() >= MIN_SECRET_BYTES)
                .for_each(|secret| redactor.learn(secret));
        } else {
            // Only credentials are taken from the platform: where the store is, the configuration says.
            let platform = Box::pin(aws_config::defaults(BehaviorVersion::latest()).region(region).load()).await;
            config.set_credentials_provider(platform.credentials_provider());
        }
        config.set_endpoint_url(spec.endpoint.clone());
        let place = Place {
            bucket: spec.bucket,
            prefix: spec.prefix.trim_matches('/').to_owned(),
            endpoint: spec.endpoint,
            region: spec.region,
            redactor,
        };
        let inner = Inner {
            client: Client::from_conf(config.build()),
            place,
            known: Known::default(),
            stall: spec.stall,
            lock: spec.lock,
            upload,
            download,
            bucket_seen: AtomicBool::new(false),
            default_lock: OnceCell::new(),
        };
        Ok(Self { inner: Arc::new(inner), pins: Arc::default() })
    }

    /// Creates the bucket; one that is there already and is ours is a success.
    pub async fn create_bucket(&self) -> Result<()> {
        let request = self.client().create_bucket().bucket(self.bucket());
        match self.ask(&format!("create bucket \"{}\"", self.bucket()), request.send()).await {
            Err(failure) if failure.is("BucketAlreadyOwnedByYou") => Ok(()),
            Err(failure) => Err(failure.error),
            Ok(_) => Ok(()),
        }
    }

    fn client(&self) -> &Client {
        &self.inner.client
    }

    fn place(&self) -> &Place {
        &self.inner.place
    }

    fn bucket(&self) -> &str {
        &self.inner.place.bucket
    }

    fn known(&self) -> &Known {
        &self.inner.known
    }

    fn stall(&self) -> Duration {
        self.inner.stall
    }

    /// How long the completion of an upload may take.
    fn complete_wait(&self) -> Duration {
        self.stall().saturating_mul(COMPLETE_STALLS)
    }

    /// The version of an object that is read, where it is not the latest.
    fn pin(&self, key: &ObjectKey) -> Option<String> {
        self.pins.get(key.as_str()).cloned()
    }

    /// The key as the bucket knows it.
    fn full_key(&self, key: &ObjectKey) -> String {
        self.full(key.as_str())
    }

    fn full(&self, key: &str) -> String {
        match self.place().prefix.as_str() {
            "" => key.to_owned(),
            prefix => format!("{prefix}/{key}"),
        }
    }

    /// The reverse of [`Self::full`]; `None` for what is not ours.
    fn relative(&self, full: &str) -> Option<String> {
        match self.place().prefix.as_str() {
            "" => Some(full.to_owned()),
            prefix => full.strip_prefix(prefix)?.strip_prefix('/').map(str::to_owned),
        }
    }

    fn stream(&self, body: Bytes, progress: &Arc<Progress>) -> ByteStream {
        let sliced = Sliced::new(body, Arc::clone(progress), self.inner.upload.clone());
        ByteStream::new(SdkBody::from_body_1_x(sliced))
    }

    fn signed_len(body: &Bytes) -> Result<i64> {
        i64::try_from(body.len()).map_err(|_| Error::invalid(format!("a body of {} bytes is too large", body.len())))
    }

    /// Sends a request once and waits for its answer as long as something moves.
    async fn send<T, E>(
        &self,
        doing: &str,
        progress: &Arc<Progress>,
        stall: Duration,
        request: impl Future<Output = Result<T, SdkError<E, HttpResponse>>>,
    ) -> Result<T, Failure>
    where
        E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
    {
        match progress.watch(stall, Box::pin(request)).await {
            Some(Ok(output)) => {
                self.inner.bucket_seen.store(true, Ordering::Relaxed);
                Ok(output)
            }
            Some(Err(error)) => Err(explain(self.place(), doing, &error)),
            None => Err(stalled(self.place(), doing, stall)),
        }
    }

    /// A request without a body worth watching.
    async fn ask<T, E>(
        &self,
        doing: &str,
        request: impl Future<Output = Result<T, SdkError<E, HttpResponse>>>,
    ) -> Result<T, Failure>
    where
        E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
    {
        self.send(doing, &Progress::new(), self.stall(), request).await
    }

    async fn abort_by_id(&self, full_key: &str, id: &str) -> Result<()> {
        let doing = format!("abort the upload of \"{full_key}\"");
        let request = self.client().abort_multipart_upload().bucket(self.bucket()).key(full_key).upload_id(id);
        match self.ask(&doing, request.send()).await {
            Err(failure) if failure.is("NoSuchUpload") => Ok(()),
            Err(failure) if failure.error.kind() == Kind::NotFound => Ok(()),
            Err(failure) => Err(failure.error),
            Ok(_) => Ok(()),
        }
    }

    /// A 404 without a code may mean the bucket: asks once, so that a missing bucket never looks
    /// like a missing object.
    async fn missing(&self, failure: Failure) -> Error {
        if failure.error.kind() != Kind::NotFound || self.inner.bucket_seen.load(Ordering::Relaxed) {
            return failure.error;
        }
        let asked = self.ask("find the bucket", self.client().head_bucket().bucket(self.bucket()).send()).await;
        match asked {
            Err(bucket) if bucket.status == Some(404) => {
                Error::failed(format!("there is no bucket \"{}\"", self.bucket()))
                    .fact("store", self.describe())
                    .hint("create it, or correct `bucket`, `region` and `endpoint`")
                    .because(failure.error)
            }
            _ => failure.error,
        }
    }

    /// Bytes of an object, each slice copied once, to where it belongs in one buffer of `room`.
    async fn fetch(&self, key: &ObjectKey, range: &Range<u64>, len: usize, room: &Room) -> Result<Bytes> {
        let doing = format!("read \"{key}\"");
        let request = self
            .client()
            .get_object()
            .bucket(self.bucket())
            .key(self.full_key(key))
            .set_version_id(self.pin(key))
            .range(format!("bytes={}-{}", range.start, range.end - 1));
        let output = match self.ask(&doing, request.send()).await {
            Ok(output) => output,
            Err(failure) if failure.status == Some(416) => {
                return Err(too_short(key, range, None).fact("store", self.describe()));
            }
            Err(failure) => return Err(self.missing(failure).await),
        };
        if output.content_range().is_none() && (range.start != 0 || output.content_length() != i64::try_from(len).ok())
        {
            return Err(Error::failed(format!("could not {doing}"))
                .fact("store", self.describe())
                .fact("got", "the whole object instead of a range")
                .hint("this server does not know ranges and cannot be used"));
        }
        let body = self.collect(&doing, output.body, len, room).await?;
        if body.len() != len {
            return Err(too_short(key, range, None)
                .fact("got", format!("{} bytes", body.len()))
                .fact("store", self.describe()));
        }
        Ok(body)
    }

    /// At most `len` bytes of an answer's body, each wait for more of them watched.
    async fn collect(&self, doing: &str, mut body: ByteStream, len: usize, room: &Room) -> Result<Bytes> {
        let (mut bytes, mut at) = (room.take(len), 0);
        let progress = Progress::new();
        loop {
            match progress.watch(self.stall(), body.next()).await {
                None => return Err(stalled(self.place(), doing, self.stall()).error),
                Some(None) => return Ok(bytes.freeze(at)),
                Some(Some(Ok(slice))) if at + slice.len() > len => {
                    return Err(Error::damaged(format!("could not {doing}"))
                        .fact("store", self.describe())
                        .fact("expected", format!("{len} bytes"))
                        .fact("got", "more"));
                }
                Some(Some(Ok(slice))) => {
                    bytes[at..at + slice.len()].copy_from_slice(&slice);
                    at += slice.len();
                    // What is not read yet waits at the server.
                    if let Some(limit) = &self.inner.download {
                        limit.pass(slice.len()).await;
                    }
                }
                Some(Some(Err(error))) => {
                    return Err(Error::unavailable(format!("could not {doing}"))
                        .fact("store", self.describe())
                        .fact("got", format!("{at} of {len} bytes"))
                        .hint("the connection broke in the middle of the answer")
                        .because(self.place().scrub(&failure::chain(&error))));
                }
            }
        }
    }
}

fn time(at: Option<&DateTime>) -> Timestamp {
    at.and_then(|at| Timestamp::new(at.secs(), i32::try_from(at.subsec_nanos()).ok()?).ok())
        .unwrap_or(Timestamp::UNIX_EPOCH)
}

fn size(bytes: Option<i64>) -> u64 {
    bytes.and_then(|bytes| u64::try_from(bytes).ok()).unwrap_or(0)
}

#[async_trait]
impl Store for S3Store {
    fn describe(&self) -> String {
        self.place().describe()
    }

    async fn put(&self, key: &ObjectKey, body: Bytes, condition: Condition) -> Result<ObjectInfo> {
        let crc = crc64nvme(&body);
        self.put_with_crc(key, body, condition, crc).await
    }

    async fn begin_upload(&self, key: &ObjectKey) -> Result<Arc<dyn Upload>> {
        Ok(Arc::new(upload::S3Upload::new(self.clone(), key.clone())))
    }

    async fn read_into(&self, key: &ObjectKey, range: Range<u64>, room: &Room) -> Result<Bytes> {
        let len = range
            .end
            .checked_sub(range.start)
            .and_then(|len| usize::try_from(len).ok())
            .ok_or_else(|| Error::invalid(format!("bytes {} to {} are not a range", range.start, range.end)))?;
        if len > 0 {
            return self.fetch(key, &range, len, room).await;
        }
        // S3 has no empty ranges.
        let info = self.head(key).await?;
        if info.size < range.end { Err(too_short(key, &range, Some(info.size))) } else { Ok(Bytes::new()) }
    }

    async fn get(&self, key: &ObjectKey, limit: u64) -> Result<(Bytes, ObjectInfo)> {
        let doing = format!("read \"{key}\"");
        let request =
            self.client().get_object().bucket(self.bucket()).key(self.full_key(key)).set_version_id(self.pin(key));
        let output = match self.ask(&doing, request.send()).await {
            Ok(output) => output,
            Err(failure) => return Err(self.missing(failure).await),
        };
        let size = size(output.content_length());
        check_limit(key, size, limit)?;
        let info = ObjectInfo {
            key: key.as_str().to_owned(),
            size,
            crc64nvme: None,
            etag: output.e_tag.clone(),
            version: output.version_id.clone(),
            modified: time(output.last_modified()),
        };
        let len = usize::try_from(size).map_err(|_| Error::limit(format!("\"{key}\" does not fit memory")))?;
        let body = self.collect(&doing, output.body, len, &Room::fresh()).await?;
        if body.len() != len {
            return Err(too_short(key, &(0..size), None).fact("store", self.describe()));
        }
        Ok((body, info))
    }

    async fn head(&self, key: &ObjectKey) -> Result<ObjectInfo> {
        let request = self
            .client()
            .head_object()
            .bucket(self.bucket())
            .key(self.full_key(key))
            .set_version_id(self.pin(key))
            .checksum_mode(ChecksumMode::Enabled);
        let output = match self.ask(&format!("look at \"{key}\""), request.send()).await {
            Ok(output) => output,
            Err(failure) => return Err(self.missing(failure).await),
        };
        Ok(ObjectInfo {
            key: key.as_str().to_owned(),
            size: size(output.content_length()),
            // A CRC64NVME is always of the whole object: S3 has no composite ones.
            crc64nvme: output.checksum_crc64_nvme().and_then(decode64),
            etag: output.e_tag.clone(),
            version: output.version_id.clone(),
            modified: time(output.last_modified()),
        })
    }

    async fn list(&self, prefix: &str, after: Option<&str>) -> Result<Page> {
        let request = self
            .client()
            .list_objects_v2()
            .bucket(self.bucket())
            .prefix(self.full(prefix))
            .max_keys(i32::try_from(PAGE_OBJECTS).unwrap_or(i32::MAX))
            .set_start_after(after.map(|after| self.full(after)));
        let output = self.ask(&format!("list \"{prefix}\""), request.send()).await.map_err(|failure| failure.error)?;
        let objects: Vec<_> = output
            .contents()
            .iter()
            .filter_map(|object| {
                Some(ObjectInfo {
                    key: self.relative(object.key()?)?,
                    size: size(object.size()),
                    crc64nvme: None,
                    etag: object.e_tag().map(str::to_owned),
                    version: None,
                    modified: time(object.last_modified()),
                })
            })
            .collect();
        let more = output.is_truncated().unwrap_or(false);
        let next = if more { objects.last().map(|last| last.key.clone()) } else { None };
        Ok(Page { objects, next })
    }

    async fn folders(&self, prefix: &str) -> Result<Vec<String>> {
        let (full, mut names, mut token) = (self.full(prefix), Vec::new(), None);
        loop {
            let request = self
                .client()
                .list_objects_v2()
                .bucket(self.bucket())
                .prefix(&full)
                .delimiter("/")
                .set_continuation_token(token);
            let output =
                self.ask(&format!("list \"{prefix}\""), request.send()).await.map_err(|failure| failure.error)?;
            names.extend(output.common_prefixes().iter().filter_map(|common| {
                let name = common.prefix()?.strip_prefix(&full)?.strip_suffix('/')?;
                (!name.is_empty()).then(|| name.to_owned())
            }));
            token = output.next_continuation_token.filter(|_| output.is_truncated == Some(true));
            if token.is_none() {
                names.sort();
                names.dedup();
                return Ok(names);
            }
        }
    }

    async fn delete(&self, key: &ObjectKey, version: Option<&str>) -> Result<()> {
        let request = self
            .client()
            .delete_object()
            .bucket(self.bucket())
            .key(self.full_key(key))
            .set_version_id(version.map(str::to_owned));
        match self.ask(&format!("remove \"{key}\""), request.send()).await {
            Err(failure) if failure.error.kind() == Kind::NotFound => Ok(()),
            Err(failure) => Err(failure.error),
            Ok(_) => Ok(()),
        }
    }

    /// Some servers (MinIO) list uploads by a prefix only where it is a whole key, so an answer
    /// without any is asked for again without the prefix and sorted out here.
    async fn pending_uploads(&self, prefix: &str) -> Result<Vec<PendingUpload>> {
        let full = self.full(prefix);
        let mut found = self.uploads(Some(&full)).await?;
        if found.is_empty() && !full.is_empty() {
            found = self.uploads(None).await?;
        }
        found.retain(|upload| upload.key.starts_with(prefix));
        Ok(found)
    }

    async fn abort_pending(&self, upload: &PendingUpload) -> Result<()> {
        self.abort_by_id(&self.full(&upload.key), &upload.id).await
    }

    async fn now(&self) -> Result<Timestamp> {
        self.server_time().await
    }

    async fn versions(&self, prefix: &str) -> Result<Vec<ObjectVersion>> {
        self.all_versions(prefix).await
    }

    async fn lock_of(&self, version: &ObjectVersion) -> Result<Lock> {
        self.lock(version).await
    }

    async fn last_part(&self, upload: &PendingUpload) -> Result<Timestamp> {
        self.youngest_part(upload).await
    }

    async fn properties(&self) -> Result<Properties> {
        let versioning = self.client().get_bucket_versioning().bucket(self.bucket());
        let versions = match self.ask("ask whether versions are kept", versioning.send()).await {
            Ok(output) => Some(output.status() == Some(&BucketVersioningStatus::Enabled)),
            Err(failure) if failure.error.is_retryable() => return Err(failure.error),
            Err(_) => None,
        };
        let lock = self.client().get_object_lock_configuration().bucket(self.bucket());
        let (object_lock, locks_for_days) = match self.ask("ask whether objects can be locked", lock.send()).await {
            Ok(output) => {
                let enabled = output.object_lock_configuration().and_then(|lock| lock.object_lock_enabled());
                (Some(enabled == Some(&ObjectLockEnabled::Enabled)), version::default_days(output))
            }
            Err(failure) if failure.is("ObjectLockConfigurationNotFoundError") => (Some(false), None),
            Err(failure) if failure.error.is_retryable() => return Err(failure.error),
            Err(_) => (None, None),
        };
        Ok(Properties { versions, object_lock, locks_for_days })
    }

    async fn folders_of_versions(&self, prefix: &str) -> Result<Vec<String>> {
        self.list_version_folders(prefix).await
    }

    fn pinned(&self, versions: BTreeMap<String, String>) -> Option<Arc<dyn Store>> {
        Some(Arc::new(Self { inner: Arc::clone(&self.inner), pins: Arc::new(versions) }))
    }

    fn object_lock(&self) -> Option<ObjectLock> {
        self.inner.lock
    }

    async fn extend_lock(&self, key: &ObjectKey) -> Result<()> {
        self.put_retention(key).await
    }
}

impl S3Store {
    /// Every upload that was begun, on as many pages as there are.
    async fn uploads(&self, full_prefix: Option<&str>) -> Result<Vec<PendingUpload>> {
        let (mut found, mut key_marker, mut id_marker) = (Vec::new(), None, None);
        loop {
            let request = self
                .client()
                .list_multipart_uploads()
                .bucket(self.bucket())
                .set_prefix(full_prefix.filter(|prefix| !prefix.is_empty()).map(str::to_owned))
                .set_key_marker(key_marker)
                .set_upload_id_marker(id_marker);
            let output = self.ask("list pending uploads", request.send()).await.map_err(|failure| failure.error)?;
            found.extend(output.uploads().iter().filter_map(|upload| {
                Some(PendingUpload {
                    key: self.relative(upload.key()?)?,
                    id: upload.upload_id()?.to_owned(),
                    begun: time(upload.initiated()),
                })
            }));
            if output.is_truncated != Some(true) || output.next_key_marker.is_none() {
                return Ok(found);
            }
            (key_marker, id_marker) = (output.next_key_marker, output.next_upload_id_marker);
        }
    }
}
