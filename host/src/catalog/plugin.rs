//! The plugin of a backup, beside the backups: so that restoring needs nothing from elsewhere.
//!
//! It is named after its digest and written once. In a store that locks what is written, its lock lasts as
//! long as that of the newest backup that needs it, whatever became of its name. Nothing of it runs here.

use super::version::has_digest;
use super::{Catalog, layout};
use crate::error::{Error, Kind, Result};
use crate::id::ObjectKey;
use crate::store::{Condition, ObjectInfo, Store};
use bytes::Bytes;
use std::sync::Arc;

impl Catalog {
    /// Keeps the plugin's bytes beside the backups, so that restoring needs nothing from elsewhere. Where they
    /// are there already, under their name or in an older version of it, their lock is made as long as if they
    /// were written now.
    ///
    /// Errors: `Damaged` when something else lies under the name and nothing beneath it; those of the store.
    pub async fn keep_plugin(&self, sha256: &str, bytes: &Bytes) -> Result<()> {
        let key = layout::plugin(sha256)?;
        match self.store.head(&key).await {
            Ok(there) => return self.keep_there(&key, sha256, bytes, &there).await,
            Err(error) if error.kind() == Kind::NotFound => {}
            Err(error) => return Err(error),
        }
        let unkept =
            |error: Error| error.while_doing(format!("could not keep the plugin in {}", self.store.describe()));
        let refused = match self.store.put(&key, bytes.clone(), Condition::Absent).await {
            Ok(_) => return Ok(()),
            Err(error) if error.kind() == Kind::Conflict => error,
            Err(error) => return Err(unkept(error)),
        };
        // Another run was faster, or the name was deleted and this server takes that for present.
        match self.store.head(&key).await {
            Ok(there) => self.keep_there(&key, sha256, bytes, &there).await,
            Err(error) if error.kind() == Kind::NotFound => match self.keep_older(sha256, bytes).await? {
                true => Ok(()),
                false => Err(unkept(refused)),
            },
            Err(error) => Err(error),
        }
    }

    /// As [`Self::keep_plugin`], where `there` is what the name stands for.
    async fn keep_there(&self, key: &ObjectKey, sha256: &str, bytes: &Bytes, there: &ObjectInfo) -> Result<()> {
        let same = match there.crc64nvme {
            Some(crc) => there.size == bytes.len() as u64 && crc == crate::store::crc64nvme(bytes),
            None => self.store.get(key, bytes.len() as u64).await.is_ok_and(|(kept, _)| kept == *bytes),
        };
        if same {
            return self.lock_plugin(&self.store, key).await;
        }
        if self.keep_older(sha256, bytes).await? {
            return Ok(());
        }
        Err(Error::damaged(format!(
            "the plugin at \"{key}\" in {} is not the one it is named after",
            self.store.describe()
        ))
        .fact("expected", format!("{} bytes with that SHA-256", bytes.len()))
        .fact("got", format!("{} bytes", there.size))
        .hint("remove that object and run the backup again: without it a lost machine cannot be restored"))
    }

    /// Makes the lock of an older version with these bytes last on; `false` when there is none.
    async fn keep_older(&self, sha256: &str, bytes: &Bytes) -> Result<bool> {
        let Some((version, _)) = self.older_plugin(sha256, bytes.len() as u64).await? else { return Ok(false) };
        self.lock_plugin(&version, &layout::plugin(sha256)?).await?;
        Ok(true)
    }

    /// A lock must last as long as that of the newest backup which needs it.
    async fn lock_plugin(&self, store: &Arc<dyn Store>, key: &ObjectKey) -> Result<()> {
        let locked = store.extend_lock(key).await;
        locked.map_err(|error| error.while_doing(format!("could not lock the plugin in {}", self.store.describe())))
    }

    /// The plugin with this digest, from the store.
    pub async fn plugin(&self, sha256: &str, limit: u64) -> Result<Bytes> {
        let key = layout::plugin(sha256)?;
        let named = self.store.get(&key, limit).await.map(|(bytes, _)| bytes);
        match &named {
            Ok(bytes) if has_digest(bytes, sha256) => return named,
            Err(error) if !matches!(error.kind(), Kind::NotFound | Kind::Limit) => return named,
            _ => {}
        }
        // Somebody else's bytes are told apart by their digest, which the caller compares.
        self.older_plugin(sha256, limit).await?.map_or(named, |(_, bytes)| Ok(bytes))
    }
}
