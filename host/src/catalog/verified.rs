//! What later verifications of a backup found: one small signed file each, written once.

use super::key::{HostKey, Trust};
use super::{layout, signed};
use crate::error::{Error, Kind, Result};
use crate::id::{BackupId, Label, ObjectKey};
use crate::store::{Condition, Store};
use bytes::Bytes;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
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

/// What trusted verifications of a backup found, oldest first. What is signed by somebody else, or
/// is damaged, is left out: it says nothing.
pub(super) async fn read_all(
    store: &Arc<dyn Store>,
    trust: &Trust,
    job: &Label,
    id: &BackupId,
) -> Result<Vec<Verification>> {
    let prefix = layout::verified(job, id);
    let mut found = Vec::new();
    let mut after = None;
    loop {
        let page = store.list(&prefix, after.as_deref()).await?;
        for object in &page.objects {
            let (bytes, _) = match store.get(&ObjectKey::parse(&object.key)?, MAX_BYTES).await {
                Ok(read) => read,
                Err(error) if matches!(error.kind(), Kind::NotFound | Kind::Limit) => continue,
                Err(error) => return Err(error),
            };
            let Ok(opened) = signed::open::<Verification>(signed::VERIFICATION, &bytes) else {
                tracing::warn!(key = %object.key, "a verification that cannot be read is ignored");
                continue;
            };
            if trust.believes(&opened.signer) && opened.content.job == *job && opened.content.id == *id {
                found.push(opened.content);
            }
        }
        after = page.next;
        if after.is_none() {
            return Ok(found);
        }
    }
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
