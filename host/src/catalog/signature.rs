//! The vendor's signatures of a plugin, beside the plugin: so that a machine that demands signatures can
//! check them when nothing but the store is left.
//!
//! Nothing here decides whether a signature is good. What is kept was checked when the plugin was
//! loaded; what is read is checked again by whoever loads it.

use super::{Catalog, layout};
use crate::error::{Error, Kind, Result};
use crate::id::ObjectKey;
use crate::store::Condition;
use bytes::Bytes;
use jiff::Timestamp;
use std::collections::BTreeSet;

/// Longest signature that is read, in bytes: two comments and two lines of base64 fit many times.
const MAX_BYTES: u64 = 16 << 10;

/// Most signatures of one plugin that are looked at: a vendor has a few keys in a lifetime, and whoever can
/// write to the store must not keep a restore busy.
const MAX_SIGNATURES: usize = 64;

impl Catalog {
    /// Keeps the text of a signature beside the plugin with this digest, unless the same text is there.
    /// Everything in a store is written once: one that is there stays, and another one, by a newer key of
    /// the vendor's, gets a name of its own.
    ///
    /// Errors: those of the store, and `Invalid` for what is no digest.
    pub async fn keep_signature(&self, sha256: &str, text: &str) -> Result<()> {
        let (first, later) = (layout::signature(sha256)?, layout::later_signature(sha256, text)?);
        let attempt = |what: &str| format!("could not {what} the signature of the plugin in {}", self.store.describe());
        match self.store.get(&first, MAX_BYTES).await {
            Ok((kept, _)) if kept == text.as_bytes() => self.still_locked(&first, &attempt).await,
            // Another one, or something that is none: it stays.
            Ok(_) => self.keep_as(&later, text, &attempt).await,
            Err(error) if error.kind() == Kind::Limit => self.keep_as(&later, text, &attempt).await,
            // Some servers take a deleted name for one that is there, and another run may be faster: what
            // cannot be written under the first name gets the other one.
            Err(error) if error.kind() == Kind::NotFound => match self.keep_as(&first, text, &attempt).await {
                Err(error) if error.kind() == Kind::Conflict => self.keep_as(&later, text, &attempt).await,
                kept => kept,
            },
            Err(error) => Err(error.while_doing(attempt("look for"))),
        }
    }

    /// Writes a signature under a name, unless something is there: then its lock lasts on.
    ///
    /// Errors: `Conflict` when the name is taken meanwhile by another text, or cannot be taken.
    async fn keep_as(&self, key: &ObjectKey, text: &str, attempt: impl Fn(&str) -> String) -> Result<()> {
        match self.store.head(key).await {
            Ok(_) => return self.still_locked(key, attempt).await,
            Err(error) if error.kind() == Kind::NotFound => {}
            Err(error) => return Err(error.while_doing(attempt("look for"))),
        }
        let kept = self.store.put(key, Bytes::copy_from_slice(text.as_bytes()), Condition::Absent).await;
        kept.map(drop).map_err(|error| error.while_doing(attempt("keep")))
    }

    /// A lock must last as long as that of the plugin, which lasts as long as its newest backup.
    async fn still_locked(&self, key: &ObjectKey, attempt: impl Fn(&str) -> String) -> Result<()> {
        self.store.extend_lock(key).await.map_err(|error| error.while_doing(attempt("lock")))
    }

    /// What the store holds as signatures of the plugin with this digest: of each name, the first one's
    /// before the later ones', what it stands for and then its older versions, oldest first. None of it is
    /// believed here, and what is no text or too long is left out.
    ///
    /// Errors: those of the store, and `Invalid` for what is no digest.
    pub async fn signatures(&self, sha256: &str) -> Result<Vec<String>> {
        let unread =
            |error: Error| error.while_doing(format!("could not read the signature of plugin {sha256} from the store"));
        let first = layout::signature(sha256)?;
        let later = self.later_signatures(sha256, &first).await.map_err(unread)?;
        let mut found = Vec::new();
        for key in std::iter::once(&first).chain(&later) {
            match self.store.get(key, MAX_BYTES).await {
                Ok((bytes, _)) => found.push(bytes),
                Err(error) if matches!(error.kind(), Kind::NotFound | Kind::Limit) => {}
                Err(error) => return Err(unread(error)),
            }
            found.extend(self.versions_of(key, MAX_BYTES).await.map_err(unread)?);
        }
        Ok(found.into_iter().filter_map(|bytes| String::from_utf8(bytes.to_vec()).ok()).collect())
    }
    /// The names of later signatures, those that were there first before the others: nobody can push one
    /// out by writing more.
    async fn later_signatures(&self, sha256: &str, first: &ObjectKey) -> Result<Vec<ObjectKey>> {
        let prefix = layout::signatures(sha256)?;
        let mut named: Vec<(Timestamp, String)> = match self.store.versions(&prefix).await {
            Ok(versions) => versions.into_iter().map(|version| (version.modified, version.key)).collect(),
            Err(error) if error.is_retryable() || error.kind() == Kind::Cancelled => return Err(error),
            // Whoever may not list versions is shown names.
            Err(_) => {
                let page = self.store.list(&prefix, None).await?;
                page.objects.into_iter().map(|object| (Timestamp::UNIX_EPOCH, object.key)).collect()
            }
        };
        named.retain(|(_, key)| key.ends_with(".minisig") && key != first.as_str());
        named.sort();
        let mut seen = BTreeSet::new();
        let keys = named.into_iter().filter(|(_, key)| seen.insert(key.clone())).take(MAX_SIGNATURES);
        keys.map(|(_, key)| ObjectKey::parse(&key)).collect()
    }
}
