//! What later verifications of a backup found: one small signed file each, written once.
//!
//! What was put over one of them later, or deleted its name, hides nothing where the store keeps versions:
//! the oldest version that is believed is read, and what happened to the name is said.

use super::key::{HostKey, Trust};
use super::version::{self, at, is_gone};
use super::{layout, signed};
use crate::error::{Error, Kind, Result};
use crate::id::{BackupId, Label, ObjectKey};
use crate::store::{Condition, Store};
use bytes::Bytes;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Longest file that is read, in bytes.
const MAX_BYTES: u64 = 4 << 20;

/// One verification of one backup.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Verification {
    /// The backup's job.
    pub job: Label,
    /// The backup.
    pub id: BackupId,
    /// When it finished.
    pub at: Timestamp,
    /// `stored`, `contents` or `restore`.
    pub depth: String,
    /// Whether nothing failed.
    pub passed: bool,
    /// Ids of checks that warned or failed, with their evidence.
    pub findings: Vec<(String, String)>,
}

/// Keeps what a verification found.
pub async fn write(store: &Arc<dyn Store>, found: &Verification, key: &HostKey) -> Result<()> {
    let name = found.at.strftime("%Y%m%dT%H%M%S%.3fZ").to_string();
    let at = ObjectKey::parse(&format!("{}{name}.json", layout::verified(&found.job, &found.id)))?;
    let bytes = Bytes::from(signed::seal(signed::VERIFICATION, found, key)?);
    match store.put(&at, bytes.clone(), Condition::Absent).await {
        Ok(_) => Ok(()),
        // The answer to the first attempt may have been lost.
        Err(error) if error.kind() == Kind::Conflict => match store.get(&at, MAX_BYTES).await {
            Ok((there, _)) if there == bytes => Ok(()),
            _ => Err(error),
        },
        Err(error) => Err(error),
    }
}

/// What was found in the folder of a backup.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// Its trusted verifications, oldest first.
    pub verified: Vec<Verification>,
    /// What happened to their names, a sentence each; empty when nothing did.
    pub tampered: Vec<String>,
}

/// What trusted verifications of a backup found. What is signed by somebody else, or is damaged, is left out: it
/// says nothing. With `versions` what lies beneath such a name, or beneath a deleted one, is read as well.
pub(super) async fn read_all(
    store: &Arc<dyn Store>,
    trust: &Trust,
    job: &Label,
    id: &BackupId,
    versions: bool,
) -> Result<Found> {
    let prefix = layout::verified(job, id);
    let mut found = BTreeMap::new();
    let mut after = None;
    loop {
        let page = store.list(&prefix, after.as_deref()).await?;
        for object in page.objects {
            if let Some(one) = read(store, &object.key, trust, job, id).await? {
                found.insert(object.key, one);
            }
        }
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    let mut tampered = Vec::new();
    let names = if versions {
        version::names(store, &prefix, |version| version.size <= MAX_BYTES).await?
    } else {
        BTreeMap::new()
    };
    for (key, name) in names.iter().filter(|(_, name)| !name.is_plain()) {
        for version in name.oldest_first() {
            let Some(pinned) = at(store, version) else { break };
            let Some(one) = read(&pinned, key, trust, job, id).await? else { continue };
            // One that was written twice with the same bytes: the answer to the first attempt was lost.
            if !name.stands_for(version) && found.get(key) != Some(&one) {
                tampered.push(name.story(key, version));
                found.insert(key.clone(), one);
            }
            break;
        }
    }
    let mut verified: Vec<_> = found.into_values().collect();
    verified.sort_by_key(|one| one.at);
    Ok(Found { verified, tampered })
}

/// One of them, if it is there and is to be believed.
async fn read(
    store: &Arc<dyn Store>,
    key: &str,
    trust: &Trust,
    job: &Label,
    id: &BackupId,
) -> Result<Option<Verification>> {
    let bytes = match store.get(&ObjectKey::parse(key)?, MAX_BYTES).await {
        Ok((bytes, _)) => bytes,
        Err(error) if is_gone(&error) => return Ok(None),
        Err(error) => return Err(error),
    };
    let Ok(opened) = signed::open::<Verification>(signed::VERIFICATION, &bytes) else {
        tracing::warn!(%key, "a verification that cannot be read is ignored");
        return Ok(None);
    };
    let is_of_it = trust.believes(&opened.signer) && opened.content.job == *job && opened.content.id == *id;
    Ok(is_of_it.then_some(opened.content))
}

impl Verification {
    /// Depths in rising order of what they prove.
    pub fn depth_rank(depth: &str) -> Result<u8> {
        match depth {
            "stored" => Ok(0),
            "contents" => Ok(1),
            "restore" => Ok(2),
            _ => Err(Error::invalid(format!("\"{}\" is not a depth", depth.escape_debug()))
                .fact("expected", "stored, contents or restore")),
        }
    }
}
