//! Buckets whose objects can be locked, and locks on single objects, on any of the servers here.

use crate::s3::client;
use anyhow::Result;
use aws_sdk_s3::types::{
    DefaultRetention, ObjectLockConfiguration, ObjectLockEnabled, ObjectLockLegalHold, ObjectLockLegalHoldStatus,
    ObjectLockRetentionMode, ObjectLockRule,
};

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
