//! The vendor's signature of a plugin, beside the plugin: so that a machine that demands signatures can
//! check them when nothing but the store is left.
//!
//! Nothing here decides whether a signature is good. What is kept was checked when the plugin was
//! loaded; what is read is checked again by whoever loads it.

use super::{Catalog, layout};
use crate::error::{Error, Kind, Result};
use crate::store::Condition;
use bytes::Bytes;

/// Longest signature that is read, in bytes: two comments and two lines of base64 fit many times.
const MAX_BYTES: u64 = 16 << 10;

impl Catalog {
    /// Keeps the text of a signature beside the plugin with this digest. It is written once: one that
    /// is there stays, whoever signed later, as everything in a store does.
    ///
    /// Errors: those of the store, and `Invalid` for what is no digest.
    pub async fn keep_signature(&self, sha256: &str, text: &str) -> Result<()> {
        let key = layout::signature(sha256)?;
        let attempt = |what: &str| format!("could not {what} the signature of the plugin in {}", self.store.describe());
        match self.store.head(&key).await {
            // A lock must last as long as that of the plugin, which lasts as long as its newest backup.
            Ok(_) => {
                return self.store.extend_lock(&key).await.map_err(|error| error.while_doing(attempt("lock")));
            }
            Err(error) if error.kind() == Kind::NotFound => {}
            Err(error) => return Err(error.while_doing(attempt("look for"))),
        }
        match self.store.put(&key, Bytes::copy_from_slice(text.as_bytes()), Condition::Absent).await {
            Ok(_) => Ok(()),
            // Another run was faster.
            Err(error) if error.kind() == Kind::Conflict => Ok(()),
            Err(error) => Err(error.while_doing(attempt("keep"))),
        }
    }

    /// What the store holds as signatures of the plugin with this digest: what the name stands for,
    /// then its older versions, oldest first. None of it is believed here, and what is no text or too
    /// long is left out.
    ///
    /// Errors: those of the store, and `Invalid` for what is no digest.
    pub async fn signatures(&self, sha256: &str) -> Result<Vec<String>> {
        let key = layout::signature(sha256)?;
        let mut found = Vec::new();
        match self.store.get(&key, MAX_BYTES).await {
            Ok((bytes, _)) => found.push(bytes),
            Err(error) if matches!(error.kind(), Kind::NotFound | Kind::Limit) => {}
            Err(error) => return Err(unread(error, sha256)),
        }
        found.extend(self.versions_of(&key, MAX_BYTES).await.map_err(|error| unread(error, sha256))?);
        Ok(found.into_iter().filter_map(|bytes| String::from_utf8(bytes.to_vec()).ok()).collect())
    }
}

fn unread(error: Error, sha256: &str) -> Error {
    error.while_doing(format!("could not read the signature of plugin {sha256} from the store"))
}
