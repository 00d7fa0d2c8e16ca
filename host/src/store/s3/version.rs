//! Versions of objects, and locks on them.
//!
//! Versions are only listed here; one is read through a store with pins. What is removed is removed
//! elsewhere.

use super::{S3Store, size, time};
use crate::error::Result;
use crate::id::ObjectKey;
use crate::store::{LockMode, ObjectVersion, PAGE_OBJECTS, VersionMark, VersionPage};
use aws_sdk_s3::operation::list_object_versions::ListObjectVersionsOutput;
use aws_sdk_s3::primitives::DateTime;
use aws_sdk_s3::types::{ObjectLockLegalHoldStatus, ObjectLockMode, ObjectLockRetention, ObjectLockRetentionMode};
use jiff::Timestamp;

/// Mode and end of the lock of an object that is about to be written; nothing for one that is not locked.
pub(super) type Locked = (Option<ObjectLockMode>, Option<DateTime>);

impl S3Store {
    /// The lock that an object with this key is written with.
    pub(super) fn locked(&self, key: &ObjectKey) -> Result<Locked> {
        let Some(lock) = self.inner.lock.filter(|lock| lock.covers(key)) else { return Ok((None, None)) };
        let mode = match lock.mode {
            LockMode::Compliance => ObjectLockMode::Compliance,
            LockMode::Governance => ObjectLockMode::Governance,
        };
        Ok((Some(mode), Some(end(lock.until()?))))
    }

    pub(super) async fn list_versions(&self, prefix: &str, after: Option<&VersionMark>) -> Result<VersionPage> {
        let full = self.full(prefix);
        let output = self.versions_page(&full, None, after).await?;
        let mut found: Vec<ObjectVersion> = Vec::new();
        for version in output.versions() {
            let (Some(key), Some(id)) = (version.key().and_then(|key| self.relative(key)), version.version_id()) else {
                continue;
            };
            found.push(ObjectVersion {
                key,
                id: id.to_owned(),
                size: size(version.size()),
                modified: time(version.last_modified()),
                is_latest: version.is_latest().unwrap_or(false),
                is_marker: false,
            });
        }
        for marker in output.delete_markers() {
            let (Some(key), Some(id)) = (marker.key().and_then(|key| self.relative(key)), marker.version_id()) else {
                continue;
            };
            found.push(ObjectVersion {
                key,
                id: id.to_owned(),
                size: 0,
                modified: time(marker.last_modified()),
                is_latest: marker.is_latest().unwrap_or(false),
                is_marker: true,
            });
        }
        // Versions and markers come apart. Within a second the server's own order of versions stays.
        found.sort_by(|a, b| {
            (&a.key, !a.is_latest).cmp(&(&b.key, !b.is_latest)).then_with(|| b.modified.cmp(&a.modified))
        });
        Ok(VersionPage { versions: found, next: self.next_mark(&output) })
    }

    pub(super) async fn list_version_folders(&self, prefix: &str) -> Result<Vec<String>> {
        let full = self.full(prefix);
        let (mut names, mut after): (Vec<String>, Option<VersionMark>) = (Vec::new(), None);
        loop {
            let output = self.versions_page(&full, Some("/"), after.as_ref()).await?;
            names.extend(output.common_prefixes().iter().filter_map(|common| {
                let name = common.prefix()?.strip_prefix(&full)?.strip_suffix('/')?;
                (!name.is_empty()).then(|| name.to_owned())
            }));
            after = self.next_mark(&output);
            if after.is_none() {
                names.sort();
                names.dedup();
                return Ok(names);
            }
        }
    }

    async fn versions_page(
        &self,
        full: &str,
        delimiter: Option<&str>,
        after: Option<&VersionMark>,
    ) -> Result<ListObjectVersionsOutput> {
        let request = self
            .client()
            .list_object_versions()
            .bucket(self.bucket())
            .prefix(full)
            .set_delimiter(delimiter.map(str::to_owned))
            .max_keys(i32::try_from(PAGE_OBJECTS).unwrap_or(i32::MAX))
            .set_key_marker(after.map(|mark| self.full(&mark.key)))
            .set_version_id_marker(after.and_then(|mark| mark.id.clone()));
        self.ask(&format!("list the versions under \"{full}\""), request.send()).await.map_err(|failure| failure.error)
    }

    fn next_mark(&self, output: &ListObjectVersionsOutput) -> Option<VersionMark> {
        if output.is_truncated != Some(true) {
            return None;
        }
        let key = self.relative(output.next_key_marker()?)?;
        Some(VersionMark { key, id: output.next_version_id_marker().filter(|id| !id.is_empty()).map(str::to_owned) })
    }

    pub(super) async fn put_retention(&self, key: &ObjectKey) -> Result<()> {
        let Some(lock) = self.inner.lock.filter(|lock| lock.covers(key)) else { return Ok(()) };
        let until = lock.until()?;
        // A lock in compliance mode can only be made longer.
        if self.retained_until(key, None).await?.is_some_and(|there| there >= until) {
            return Ok(());
        }
        let mode = match lock.mode {
            LockMode::Compliance => ObjectLockRetentionMode::Compliance,
            LockMode::Governance => ObjectLockRetentionMode::Governance,
        };
        let retention = ObjectLockRetention::builder().mode(mode).retain_until_date(end(until)).build();
        let request =
            self.client().put_object_retention().bucket(self.bucket()).key(self.full_key(key)).retention(retention);
        self.ask(&format!("lock \"{key}\""), request.send()).await.map_err(|failure| failure.error)?;
        Ok(())
    }

    pub(super) async fn retained_until(&self, key: &ObjectKey, version: Option<&str>) -> Result<Option<Timestamp>> {
        let request = self
            .client()
            .head_object()
            .bucket(self.bucket())
            .key(self.full_key(key))
            .set_version_id(version.map(str::to_owned));
        let output = match self.ask(&format!("ask for the lock of \"{key}\""), request.send()).await {
            Ok(output) => output,
            Err(failure) => return Err(self.missing(failure).await),
        };
        // A hold has no end.
        if output.object_lock_legal_hold_status() == Some(&ObjectLockLegalHoldStatus::On) {
            return Ok(Some(Timestamp::MAX));
        }
        let until = output.object_lock_retain_until_date().map(|until| time(Some(until)));
        Ok(until.filter(|until| *until > crate::clock::now()))
    }
}

/// The end of a lock as the server is told of it: whole seconds, which is all that every server keeps.
fn end(until: Timestamp) -> DateTime {
    DateTime::from_secs(until.as_second())
}
