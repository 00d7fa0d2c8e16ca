//! Artifacts of the run, and labelled buckets as data.

use super::When;
use std::collections::BTreeSet;

/// What may be done with a bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BucketVerb {
    /// List keys.
    List,
    /// Hand on an object's bytes and attributes.
    Read,
    /// Write objects that are not there.
    Write,
    /// Replace objects that are there.
    Overwrite,
    /// Delete the current object.
    Delete,
    /// Delete one version for good.
    DeleteVersion,
    /// Read the bucket's configuration.
    ReadConfig,
    /// Write the bucket's configuration.
    WriteConfig,
}

/// A bucket that the operator granted.
#[derive(Clone, Debug)]
pub struct BucketGrant {
    /// What may be done.
    pub may: BTreeSet<BucketVerb>,
    /// Keys it holds for: prefixes; `""` is the whole bucket.
    pub prefixes: Vec<String>,
    /// Whether the guest may read the objects' bytes.
    pub inspect: bool,
    /// When it holds.
    pub when: When,
}

/// What may be done with the artifacts of the run.
#[derive(Clone, Debug, Default)]
pub struct ArtifactGrant {
    /// Artifacts whose bytes the guest may read: patterns of the slots' language.
    pub inspect: Vec<super::slot::SlotRule>,
}

/// What a guest asks of a bucket.
#[derive(Clone, Debug)]
pub struct BucketCall<'a> {
    /// The operator's label.
    pub bucket: &'a str,
    /// What it wants to do; `None` only opens the bucket.
    pub verb: Option<BucketVerb>,
    /// The key or prefix it is about.
    pub key: Option<&'a str>,
    /// The part of the configuration it is about.
    pub part: Option<&'a str>,
}

/// What a guest asks of the run's artifacts.
#[derive(Clone, Debug)]
pub struct ArtifactCall<'a> {
    /// What it wants to do.
    pub verb: ArtifactVerb,
    /// The artifact.
    pub name: &'a str,
}

/// What may be done with an artifact.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ArtifactVerb {
    /// Store a new one: only in a backup.
    Put,
    /// Read one back: only in a verification or a restore.
    Get,
}
