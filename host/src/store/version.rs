//! What stores with versions and locks say of an object besides its newest bytes.
//!
//! And the one way to remove something so that it costs nothing any more.

use super::Store;
use crate::error::{Kind, Result};
use crate::id::ObjectKey;
use jiff::Timestamp;
use std::sync::Arc;

/// One version of an object, or the marker that hides the versions before it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectVersion {
    /// Its key.
    pub key: String,
    /// The store's name for this version; `None` where it keeps none.
    pub id: Option<String>,
    /// Its size in bytes; 0 for a marker.
    pub size: u64,
    /// When it was stored, by the store's clock.
    pub modified: Timestamp,
    /// Whether it is what the name stands for now.
    pub is_latest: bool,
    /// A delete marker: somebody removed the name, and the versions before it are still there.
    pub is_marker: bool,
}

impl ObjectVersion {
    /// Every object under `prefix` of a store that keeps no versions, as the only version of its name.
    pub(super) async fn of_all(store: &dyn Store, prefix: &str) -> Result<Vec<Self>> {
        let (mut found, mut after) = (Vec::new(), None);
        loop {
            let page = store.list(prefix, after.as_deref()).await?;
            found.extend(page.objects.into_iter().map(|object| Self {
                key: object.key,
                id: None,
                size: object.size,
                modified: object.modified,
                is_latest: true,
                is_marker: false,
            }));
            after = page.next;
            if after.is_none() {
                return Ok(found);
            }
        }
    }
}

/// What keeps a version from being removed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lock {
    /// Nothing.
    Free,
    /// A retention that has not ended, by the store's clock.
    Until {
        /// `compliance` (nobody can shorten it) or `governance`.
        mode: String,
        /// When it ends.
        until: Timestamp,
    },
    /// A legal hold, which has no end.
    Held,
    /// The store did not say, and why.
    Unknown(String),
}

impl Lock {
    /// From when on it keeps nothing, by the store's clock. What has no known end never does.
    pub fn ends(&self) -> Timestamp {
        match self {
            Self::Free => Timestamp::MIN,
            Self::Until { until, .. } => *until,
            Self::Held | Self::Unknown(_) => Timestamp::MAX,
        }
    }

    /// Why it may not be removed at `now`; `None` when nothing keeps it.
    pub fn keeps(&self, now: Timestamp) -> Option<String> {
        match self {
            Self::Free => None,
            Self::Until { until, .. } if *until <= now => None,
            Self::Until { mode, until } => Some(format!("{mode} retention until {}", crate::clock::show(*until))),
            Self::Held => Some("legal hold".to_owned()),
            Self::Unknown(reason) => Some(format!("not known whether it is locked: {reason}")),
        }
    }
}

/// Removes one version of an object, so that nothing of it is kept and paid for. Whoever may not
/// remove versions hides it at least: without its name it is no part of anything.
pub async fn remove_for_good(store: &Arc<dyn Store>, key: &ObjectKey, version: Option<&str>) -> Result<()> {
    match store.delete(key, version).await {
        Err(error) if error.kind() == Kind::Denied && version.is_some() => {
            store.delete(key, None).await.map_err(|_| error)
        }
        other => other,
    }
}
