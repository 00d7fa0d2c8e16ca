//! Buckets whose objects can be locked, and locks on single objects, on any of the servers here.

use crate::s3::client;
use anyhow::Result;
use aws_sdk_s3::primitives::DateTime;
use aws_sdk_s3::types::{
    DefaultRetention, ObjectLockConfiguration, ObjectLockEnabled, ObjectLockLegalHold, ObjectLockLegalHoldStatus,
    ObjectLockRetention, ObjectLockRetentionMode, ObjectLockRule,
};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Creates a bucket at a port of the loopback that keeps versions and whose objects can be locked; with
/// `days`, everything that is stored there is locked for so long in compliance mode.
pub async fn create_bucket(port: u16, bucket: &str, days: Option<i32>) -> Result<()> {
    let client = client(port);
    client.create_bucket().bucket(bucket).object_lock_enabled_for_bucket(true).send().await?;
    if let Some(days) = days {
        let retention = DefaultRetention::builder().mode(ObjectLockRetentionMode::Compliance).days(days).build();
        let configuration = ObjectLockConfiguration::builder()
            .object_lock_enabled(ObjectLockEnabled::Enabled)
            .rule(ObjectLockRule::builder().default_retention(retention).build())
            .build();
        let request = client.put_object_lock_configuration().bucket(bucket);
        request.object_lock_configuration(configuration).send().await?;
    }
    Ok(())
}

/// Puts a legal hold on the newest version of an object.
pub async fn hold(port: u16, bucket: &str, key: &str) -> Result<()> {
    let hold = ObjectLockLegalHold::builder().status(ObjectLockLegalHoldStatus::On).build();
    client(port).put_object_legal_hold().bucket(bucket).key(key).legal_hold(hold).send().await?;
    Ok(())
}

/// Makes the lock of one version longer: it ends this many days from now, in compliance mode.
pub async fn extend(port: u16, bucket: &str, key: &str, version: &str, days: u64) -> Result<()> {
    let end = SystemTime::now() + Duration::from_secs(days * 24 * 3600);
    lock_until(port, bucket, (key, version), ObjectLockRetentionMode::Compliance, end).await
}

/// Makes the lock of one version in governance mode end within some seconds, and says when that is.
pub async fn end_soon(port: u16, bucket: &str, key: &str, version: &str) -> Result<SystemTime> {
    let end = SystemTime::now() + Duration::from_secs(3);
    lock_until(port, bucket, (key, version), ObjectLockRetentionMode::Governance, end).await?;
    Ok(end)
}

async fn lock_until(
    port: u16,
    bucket: &str,
    (key, version): (&str, &str),
    mode: ObjectLockRetentionMode,
    end: SystemTime,
) -> Result<()> {
    // Whole seconds, which is all that every server keeps.
    let end = DateTime::from_secs(i64::try_from(end.duration_since(UNIX_EPOCH)?.as_secs())?);
    let retention = ObjectLockRetention::builder().mode(mode.clone()).retain_until_date(end).build();
    let request = client(port).put_object_retention().bucket(bucket).key(key).version_id(version);
    // Nothing else can make a lock shorter; compliance cannot be bypassed.
    let bypass = (mode == ObjectLockRetentionMode::Governance).then_some(true);
    request.retention(retention).set_bypass_governance_retention(bypass).send().await?;
    Ok(())
}
