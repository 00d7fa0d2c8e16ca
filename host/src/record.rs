//! The record of a backup: the shape of `record.json`. A backup exists if and only if its record does.
//!
//! Pure data. Signing and storing are in `catalog`.

use crate::id::{ArtifactName, BackupId, Label};
use crate::stream::Origin;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The record format that this version writes. Every released format is read for ever.
pub const FORMAT: u32 = 1;

/// Everything that is known of a backup, signed by the host that made it.
///
/// It names no store, bucket or version, so that a byte-for-byte copy elsewhere stays valid.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BackupRecord {
    /// [`FORMAT`].
    pub format: u32,
    /// The job that made it.
    pub job: Label,
    /// Its id; sorts by time.
    pub id: BackupId,
    /// When the run started and when the record was written.
    pub started: Timestamp,
    /// See `started`.
    pub finished: Timestamp,
    /// Whole, or with something skipped.
    pub outcome: Outcome,
    /// The plugin that made it; its bytes are at `plugins/<sha256>.wasm` in the same store.
    pub plugin: PluginIdentity,
    /// The host that made it.
    pub host: HostIdentity,
    /// The job's settings then.
    pub settings: serde_json::Value,
    /// Identity of what was backed up, such as a database's system identifier.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_id: Option<String>,
    /// The artifacts in the order in which they were begun.
    pub artifacts: Vec<ArtifactRecord>,
    /// What the plugin found worth recording, in its order.
    #[serde(default)]
    pub facts: Vec<(String, String)>,
    /// What was to be captured and was not, and why.
    #[serde(default)]
    pub skipped: Vec<(String, String)>,
    /// What this method never holds.
    #[serde(default)]
    pub not_captured: Vec<String>,
    /// Ids of other backups of the job that restoring this one needs.
    #[serde(default)]
    pub needs: Vec<BackupId>,
    /// Kept by the plugin for the next backup of the job.
    #[serde(default)]
    pub state: String,
    /// What the host noticed, such as a backup much smaller than the last ones.
    #[serde(default)]
    pub warnings: Vec<String>,
    /// Room for later additions that old readers may ignore, by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub extra: BTreeMap<String, serde_json::Value>,
}

/// The audit log as it was when a record was written: under `audit` in `extra`, so that older versions
/// read the record as well.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditAnchor {
    /// The run whose chain it is: the backup's id.
    pub run: String,
    /// Lines of the chain.
    pub lines: u64,
    /// BLAKE3 of the last of them.
    pub hash: String,
    /// The index of all chains.
    pub index: IndexAnchor,
}

/// The index of the audit log as it was.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IndexAnchor {
    /// Its lines.
    pub lines: u64,
    /// BLAKE3 of the last of them.
    pub hash: String,
}

impl BackupRecord {
    /// The name in `extra` under which the anchor is.
    pub const AUDIT: &'static str = "audit";
    /// The name in `extra` under which the compression level is, where it was not a fixed one: `"auto"`.
    pub const LEVEL: &'static str = "level";

    /// The anchor of the audit log, if the record has one that this version reads.
    pub fn audit(&self) -> Option<AuditAnchor> {
        serde_json::from_value(self.extra.get(Self::AUDIT)?.clone()).ok()
    }
}

/// How a run ended, everywhere the same word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// Everything that was to be captured was.
    Complete,
    /// Something was skipped; `skipped` says what.
    Incomplete,
}

/// A plugin by what it is, not by where it was found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PluginIdentity {
    /// Name from its manifest.
    pub name: String,
    /// Version from its manifest.
    pub version: String,
    /// SHA-256 of the component's bytes, in hex.
    pub sha256: String,
}

/// The host that made a backup.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HostIdentity {
    /// Version of strongroom.
    pub version: String,
    /// Node name of the machine.
    pub machine: String,
}

/// One artifact: what the component produced, and how it lies in the store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ArtifactRecord {
    /// Its name.
    pub name: ArtifactName,
    /// Bytes as the component produced them.
    pub size: u64,
    /// BLAKE3 of those bytes, as `b3sum` prints it.
    pub blake3: String,
    /// Media type, if the plugin gave one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_type: Option<String>,
    /// Where the bytes came from.
    pub origin: Origin,
    /// Whether segments are age files (`.zst.age`) or bare zstd (`.zst`).
    pub encrypted: bool,
    /// Segments in order; their numbers are 1, 2, 3, ….
    pub segments: Vec<SegmentRecord>,
    /// For an archive: the name of the artifact that holds its index.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub index: Option<ArtifactName>,
}

impl ArtifactRecord {
    /// Bytes at rest.
    pub fn stored_bytes(&self) -> u64 {
        self.segments.iter().fold(0, |sum, segment| sum.saturating_add(segment.stored_bytes))
    }
}

/// One segment at rest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SegmentRecord {
    /// Bytes as stored.
    pub stored_bytes: u64,
    /// Bytes inside the age file: frames and their two closing skippable frames. Equal to
    /// `stored_bytes` without encryption.
    pub zstd_bytes: u64,
    /// Frames in it, the skippable ones not counted.
    pub frames: u64,
    /// BLAKE3 of the stored bytes.
    pub blake3: String,
    /// CRC64NVME of the stored bytes, 16 hex digits.
    pub crc64nvme: String,
}
