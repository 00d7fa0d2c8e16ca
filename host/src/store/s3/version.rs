//! Versions, locks, ages and the clock of a bucket: what removing something safely asks for.

use super::failure::Failure;
use super::{S3Store, size, time};
use crate::error::{Error, Kind, Result};
use crate::store::{Lock, ObjectVersion, PendingUpload, Store};
use aws_sdk_s3::error::SdkError;
use aws_sdk_s3::operation::get_object_lock_configuration::GetObjectLockConfigurationOutput;
use aws_sdk_s3::primitives::{DateTime, DateTimeFormat};
use aws_sdk_s3::types::{BucketVersioningStatus, DefaultRetention, ObjectLockLegalHoldStatus};
use jiff::{SignedDuration, Timestamp};

/// A name that no object of ours has: asking for it gives an answer with the server's time and nothing else.
const NOTHING: &str = "strongroom-clock";

/// Codes that servers answer with where an object, or the whole bucket, has no lock.
const NO_LOCK: [&str; 5] = [
    "NoSuchObjectLockConfiguration",
    "ObjectLockConfigurationNotFoundError",
    "InvalidRequest",
    "NotImplemented",
    "MethodNotAllowed",
];

/// How long a bucket locks whatever is stored in it.
#[derive(Clone, Debug)]
pub(super) struct DefaultLock {
    mode: String,
    lasts: SignedDuration,
}

impl S3Store {
    /// The time in the header of an answer, which every server sends.
    pub(super) async fn server_time(&self) -> Result<Timestamp> {
        let request = self.client().head_object().bucket(self.bucket()).key(self.full(NOTHING));
        let progress = super::Progress::new();
        let answer = progress.watch(self.stall(), Box::pin(request.send())).await;
        let unknown = || {
            Error::failed("could not find out what time it is for the store")
                .fact("store", self.describe())
                .hint("its answers have no Date header: nothing can be removed by its age")
        };
        match answer {
            None => Err(super::stalled(self.place(), "ask for the time", self.stall()).error),
            Some(Err(SdkError::ServiceError(service))) if service.raw().status().as_u16() < 500 => {
                let date = service.raw().headers().get("date").ok_or_else(unknown)?;
                let date = DateTime::from_str(date, DateTimeFormat::HttpDate)
                    .map_err(|error| unknown().fact("got", self.place().scrub(date)).because(error))?;
                Ok(time(Some(&date)))
            }
            Some(Err(error)) => Err(super::explain(self.place(), "ask for the time", &error).error),
            // Somebody stored an object of that name: its answer has no time that the SDK hands on.
            Some(Ok(_)) => Err(unknown().fact("got", format!("an object \"{NOTHING}\", which should not be there"))),
        }
    }

    /// Whether versions are kept, or were once.
    async fn has_versions(&self) -> Result<bool> {
        let request = self.client().get_bucket_versioning().bucket(self.bucket());
        match self.ask("ask whether versions are kept", request.send()).await {
            Ok(output) => {
                Ok(matches!(output.status(), Some(BucketVersioningStatus::Enabled | BucketVersioningStatus::Suspended)))
            }
            Err(failure) if failure.error.is_retryable() => Err(failure.error),
            // A server that does not know the question has none; one that does not answer it shows
            // what is visible, and removing that hides it.
            Err(_) => Ok(false),
        }
    }

    /// Every version under `prefix`, or every object of a bucket without versions.
    pub(super) async fn all_versions(&self, prefix: &str) -> Result<Vec<ObjectVersion>> {
        if !self.has_versions().await? {
            return ObjectVersion::of_all(self, prefix).await;
        }
        let (mut found, mut key_marker, mut id_marker) = (Vec::new(), None, None);
        loop {
            let request = self
                .client()
                .list_object_versions()
                .bucket(self.bucket())
                .prefix(self.full(prefix))
                .set_key_marker(key_marker)
                .set_version_id_marker(id_marker);
            let output = self
                .ask(&format!("list the versions of \"{prefix}\""), request.send())
                .await
                .map_err(|failure| failure.error)?;
            found.extend(output.versions().iter().filter_map(|version| {
                Some(ObjectVersion {
                    key: self.relative(version.key()?)?,
                    id: version.version_id().map(str::to_owned),
                    size: size(version.size()),
                    modified: time(version.last_modified()),
                    is_latest: version.is_latest().unwrap_or(false),
                    is_marker: false,
                })
            }));
            found.extend(output.delete_markers().iter().filter_map(|marker| {
                Some(ObjectVersion {
                    key: self.relative(marker.key()?)?,
                    id: marker.version_id().map(str::to_owned),
                    size: 0,
                    modified: time(marker.last_modified()),
                    is_latest: marker.is_latest().unwrap_or(false),
                    is_marker: true,
                })
            }));
            if output.is_truncated != Some(true) || output.next_key_marker.is_none() {
                return Ok(found);
            }
            (key_marker, id_marker) = (output.next_key_marker, output.next_version_id_marker);
        }
    }

    /// Retention and legal hold of one version. Whoever may not ask is told so, never that it is free.
    pub(super) async fn lock(&self, version: &ObjectVersion) -> Result<Lock> {
        let (key, full) = (&version.key, self.full(&version.key));
        let request = self.client().get_object_legal_hold().bucket(self.bucket()).key(&full);
        let request = request.set_version_id(version.id.clone());
        match self.ask(&format!("ask for the legal hold of \"{key}\""), request.send()).await {
            Ok(output) => {
                let status = output.legal_hold().and_then(|hold| hold.status());
                if status == Some(&ObjectLockLegalHoldStatus::On) {
                    return Ok(Lock::Held);
                }
            }
            Err(failure) if is_no_lock(&failure) => {}
            Err(failure) => return unanswered(failure),
        }
        let request = self.client().get_object_retention().bucket(self.bucket()).key(&full);
        let request = request.set_version_id(version.id.clone());
        let doing = format!("ask for the retention of \"{key}\"");
        match super::Progress::new().watch(self.stall(), Box::pin(request.send())).await {
            None => return Err(super::stalled(self.place(), &doing, self.stall()).error),
            Some(Ok(output)) => {
                let retention = output.retention.and_then(|found| Some((found.mode?, found.retain_until_date?)));
                if let Some((mode, until)) = retention {
                    return Ok(Lock::Until { mode: mode.as_str().to_lowercase(), until: time(Some(&until)) });
                }
            }
            Some(Err(error)) => {
                // versitygw gives the answer another root element than the SDK takes, and leaves the lock of a
                // version under a deleted name out of its description.
                let raw = error.raw_response().filter(|raw| raw.status().as_u16() == 200);
                if let Some(lock) = raw.and_then(|raw| retention_in(raw.body().bytes()?)) {
                    return Ok(lock);
                }
                let failure = super::explain(self.place(), &doing, &error);
                if failure.status == Some(200) {
                    return self.lock_by_head(key, version.id.as_deref()).await;
                }
                if !is_no_lock(&failure) {
                    return unanswered(failure);
                }
            }
        }
        // versitygw keeps the bucket's own retention without writing it to the objects.
        let default = self.inner.default_lock.get_or_try_init(|| self.ask_for_default_lock()).await?;
        Ok(default.as_ref().map_or(Lock::Free, |default| Lock::Until {
            mode: default.mode.clone(),
            until: version.modified.saturating_add(default.lasts).unwrap_or(Timestamp::MAX),
        }))
    }

    async fn ask_for_default_lock(&self) -> Result<Option<DefaultLock>> {
        let request = self.client().get_object_lock_configuration().bucket(self.bucket());
        let output = match self.ask("ask how long the bucket locks its objects", request.send()).await {
            Ok(output) => output,
            Err(failure) if failure.error.is_retryable() => return Err(failure.error),
            // The locks of the objects themselves were asked for, and answered.
            Err(_) => return Ok(None),
        };
        Ok(default_of(output).and_then(|retention| {
            let lasts = SignedDuration::from_hours(i64::from(days_of(&retention)) * 24);
            Some(DefaultLock { mode: retention.mode?.as_str().to_lowercase(), lasts })
        }))
    }

    /// When the youngest part of an upload was stored; its beginning without any.
    pub(super) async fn youngest_part(&self, upload: &PendingUpload) -> Result<Timestamp> {
        let (mut youngest, mut marker) = (upload.begun, None);
        loop {
            let request = self
                .client()
                .list_parts()
                .bucket(self.bucket())
                .key(self.full(&upload.key))
                .upload_id(&upload.id)
                .set_part_number_marker(marker);
            let doing = format!("list the parts of \"{}\"", upload.key);
            let output = match self.ask(&doing, request.send()).await {
                Ok(output) => output,
                // Completed or aborted meanwhile: whoever did that is at work now.
                Err(failure) if failure.is("NoSuchUpload") => return self.server_time().await,
                Err(failure) => return Err(failure.error),
            };
            youngest = output.parts().iter().map(|part| time(part.last_modified())).fold(youngest, Timestamp::max);
            marker = output.next_part_number_marker.clone().filter(|_| output.is_truncated == Some(true));
            if marker.is_none() {
                return Ok(youngest);
            }
        }
    }
}

fn default_of(output: GetObjectLockConfigurationOutput) -> Option<DefaultRetention> {
    output.object_lock_configuration?.rule?.default_retention
}

/// Days of a retention, those of a year as many as it can have.
fn days_of(retention: &DefaultRetention) -> i32 {
    retention.days.unwrap_or(0).max(retention.years.unwrap_or(0).saturating_mul(366))
}

/// For how many days the bucket locks whatever is stored in it, if it does.
pub(super) fn default_days(output: GetObjectLockConfigurationOutput) -> Option<u32> {
    default_of(output).and_then(|retention| u32::try_from(days_of(&retention)).ok()).filter(|days| *days > 0)
}

/// The retention in the body of an answer, whatever its root element is.
fn retention_in(body: &[u8]) -> Option<Lock> {
    let text = std::str::from_utf8(body).ok()?;
    let inside = |name: &str| {
        let (_, rest) = text.split_once(&format!("<{name}>"))?;
        Some(rest.split_once('<')?.0.trim())
    };
    let mode = inside("Mode").filter(|mode| ["GOVERNANCE", "COMPLIANCE"].contains(mode))?.to_lowercase();
    Some(Lock::Until { mode, until: inside("RetainUntilDate")?.parse().ok()? })
}

fn is_no_lock(failure: &Failure) -> bool {
    NO_LOCK.iter().any(|code| failure.is(code))
}

/// What is not there has no lock; what may not be asked is not known.
fn unanswered(failure: Failure) -> Result<Lock> {
    match failure.error.kind() {
        Kind::NotFound => Ok(Lock::Free),
        Kind::Denied => Ok(Lock::Unknown(failure.error.to_string())),
        _ => Err(failure.error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_retention_is_read_under_any_root_and_nothing_else_is_taken_for_one() {
        let answer =
            |inside: &str| format!("<?xml version=\"1.0\"?>\n<ObjectLockRetention>{inside}</ObjectLockRetention>");
        let date = "<RetainUntilDate>2026-11-30T00:00:00Z</RetainUntilDate>";
        let until = "2026-11-30T00:00:00Z".parse().unwrap();
        for (mode, word) in [("GOVERNANCE", "governance"), ("COMPLIANCE", "compliance")] {
            let lock = retention_in(answer(&format!("<Mode>{mode}</Mode>{date}")).as_bytes());
            assert_eq!(lock, Some(Lock::Until { mode: word.to_owned(), until }));
        }
        for inside in ["", date, "<Mode>GOVERNANCE</Mode>", "<Mode>OFF</Mode><RetainUntilDate>2026-11-30T00:00:00Z<"] {
            assert_eq!(retention_in(answer(inside).as_bytes()), None, "{inside}");
        }
        assert_eq!(retention_in(b"<Mode>GOVERNANCE</Mode><RetainUntilDate>soon</RetainUntilDate>"), None);
        assert_eq!(retention_in(&[0xff]), None);
    }
}
