//! Locks on what is written, and folders whose names were deleted.

use super::{S3Store, time};
use crate::error::Result;
use crate::id::ObjectKey;
use crate::store::{Lock, LockMode, ObjectVersion};
use aws_sdk_s3::primitives::DateTime;
use aws_sdk_s3::types::{ObjectLockMode, ObjectLockRetention, ObjectLockRetentionMode};
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

    /// Makes the lock of an object that is there, or of the version of it that is pinned, as long as if it were
    /// written now.
    pub(super) async fn put_retention(&self, key: &ObjectKey) -> Result<()> {
        let Some(lock) = self.inner.lock.filter(|lock| lock.covers(key)) else { return Ok(()) };
        let wanted = lock.until()?;
        // A lock in compliance mode can only be made longer.
        let version = self.pin(key);
        let mut there = self.lock_by_head(key.as_str(), version.as_deref()).await?;
        if let (Lock::Unknown(_), Some(_)) = (&there, &version) {
            // versitygw leaves it out of the description of a version under a deleted name.
            there = self.lock(&pinned(key, version.clone())).await?;
        }
        if matches!(there, Lock::Until { until, .. } if until >= wanted) {
            return Ok(());
        }
        let mode = match lock.mode {
            LockMode::Compliance => ObjectLockRetentionMode::Compliance,
            LockMode::Governance => ObjectLockRetentionMode::Governance,
        };
        let retention = ObjectLockRetention::builder().mode(mode).retain_until_date(end(wanted)).build();
        let request = self
            .client()
            .put_object_retention()
            .bucket(self.bucket())
            .key(self.full_key(key))
            .set_version_id(version)
            .retention(retention);
        self.ask(&format!("lock \"{key}\""), request.send()).await.map_err(|failure| failure.error)?;
        Ok(())
    }

    /// The retention that the description of one version names; a server that named one elsewhere and does
    /// not here leaves it open.
    pub(super) async fn lock_by_head(&self, key: &str, version: Option<&str>) -> Result<Lock> {
        let request = self
            .client()
            .head_object()
            .bucket(self.bucket())
            .key(self.full(key))
            .set_version_id(version.map(str::to_owned));
        let doing = format!("ask for the retention of \"{key}\"");
        let output = self.ask(&doing, request.send()).await.map_err(|failure| failure.error)?;
        let named = output.object_lock_mode().zip(output.object_lock_retain_until_date());
        Ok(named.map_or_else(
            || Lock::Unknown("the server's answer cannot be read".to_owned()),
            |(mode, until)| Lock::Until { mode: mode.as_str().to_lowercase(), until: time(Some(until)) },
        ))
    }

    /// As `folders`, and those that only versions and delete markers lie in.
    pub(super) async fn list_version_folders(&self, prefix: &str) -> Result<Vec<String>> {
        let (full, mut names, mut key_marker, mut id_marker) = (self.full(prefix), Vec::new(), None, None);
        loop {
            let request = self
                .client()
                .list_object_versions()
                .bucket(self.bucket())
                .prefix(&full)
                .delimiter("/")
                .set_key_marker(key_marker)
                .set_version_id_marker(id_marker);
            let doing = format!("list the versions of \"{prefix}\"");
            let output = self.ask(&doing, request.send()).await.map_err(|failure| failure.error)?;
            names.extend(output.common_prefixes().iter().filter_map(|common| {
                let name = common.prefix()?.strip_prefix(&full)?.strip_suffix('/')?;
                (!name.is_empty()).then(|| name.to_owned())
            }));
            if output.is_truncated != Some(true) || output.next_key_marker.is_none() {
                names.sort();
                names.dedup();
                return Ok(names);
            }
            (key_marker, id_marker) = (output.next_key_marker, output.next_version_id_marker);
        }
    }
}

/// A version whose lock is asked for; when it was stored is not known, so a lock of the bucket's own has ended.
fn pinned(key: &ObjectKey, id: Option<String>) -> ObjectVersion {
    let modified = Timestamp::UNIX_EPOCH;
    ObjectVersion { key: key.as_str().to_owned(), id, size: 0, modified, is_latest: false, is_marker: false }
}

/// The end of a lock as the server is told of it: whole seconds, which is all that every server keeps.
fn end(until: Timestamp) -> DateTime {
    DateTime::from_secs(until.as_second())
}
