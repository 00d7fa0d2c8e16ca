//! Where things lie in a store, relative to its prefix.

use crate::error::{Error, Result};
use crate::id::{ArtifactName, BackupId, Label, ObjectKey};

/// The folder that holds plugins; no job can have this name.
pub const PLUGINS: &str = "plugins";

/// The folder of a backup that holds what verifications found.
pub const VERIFIED: &str = "verified";

/// The folder of a backup that holds the notes of its removal.
pub const REMOVED: &str = "removed";

/// `<job>/<id>/record.json`
pub fn record(job: &Label, id: &BackupId) -> Result<ObjectKey> {
    ObjectKey::parse(&format!("{job}/{id}/record.json"))
}

/// `<job>/<id>/data/<artifact>`: the segments add `.0001.zst.age` and so on.
pub fn artifact(job: &Label, id: &BackupId, name: &ArtifactName) -> Result<ObjectKey> {
    ObjectKey::parse(&format!("{job}/{id}/data/{name}"))
}

/// `<job>/<id>/verified/`
pub fn verified(job: &Label, id: &BackupId) -> String {
    format!("{job}/{id}/{VERIFIED}/")
}

/// `<job>/<id>/removed/`
pub fn removed(job: &Label, id: &BackupId) -> String {
    format!("{job}/{id}/{REMOVED}/")
}

/// `<job>/lease.json`
pub fn lease(job: &Label) -> Result<ObjectKey> {
    ObjectKey::parse(&format!("{job}/{}", crate::store::lock::LEASE))
}

/// `plugins/<sha256>.wasm`
pub fn plugin(sha256: &str) -> Result<ObjectKey> {
    of_plugin(sha256, "")
}

/// `plugins/<sha256>.wasm.minisig`: the first signature that was kept.
pub fn signature(sha256: &str) -> Result<ObjectKey> {
    of_plugin(sha256, ".minisig")
}

/// `plugins/<sha256>.wasm.<first 16 digits of the text's BLAKE3>.minisig`: any later one.
pub fn later_signature(sha256: &str, text: &str) -> Result<ObjectKey> {
    of_plugin(sha256, &format!(".{}.minisig", &blake3::hash(text.as_bytes()).to_hex()[..16]))
}

/// What the names of a plugin's signatures begin with.
pub fn signatures(sha256: &str) -> Result<String> {
    Ok(format!("{}.", plugin(sha256)?))
}

fn of_plugin(sha256: &str, suffix: &str) -> Result<ObjectKey> {
    if sha256.len() == 64 && sha256.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
        ObjectKey::parse(&format!("{PLUGINS}/{sha256}.wasm{suffix}"))
    } else {
        Err(Error::invalid(format!("\"{}\" is not a SHA-256 digest", sha256.escape_debug()))
            .fact("expected", "64 hexadecimal digits in lower case"))
    }
}
