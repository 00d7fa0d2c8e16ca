//! Settings and options as `plugin.toml` describes them.

use serde::Deserialize;
use std::collections::BTreeMap;

/// The job's `settings`.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Labels of the clusters.
    pub clusters: Vec<String>,
    /// Patterns of namespaces; all of them when empty.
    #[serde(default)]
    pub namespaces: Vec<String>,
    /// Patterns of namespaces to leave out.
    #[serde(default)]
    pub exclude_namespaces: Vec<String>,
    /// Whether what lies in no namespace is kept too.
    #[serde(default = "yes")]
    pub cluster_resources: bool,
    /// Patterns of kinds; all of them when empty.
    #[serde(default)]
    pub kinds: Vec<String>,
    /// Patterns of kinds to leave out.
    #[serde(default = "made_all_the_time")]
    pub exclude_kinds: Vec<String>,
    /// Patterns of kinds that are left out where a controller owns them.
    #[serde(default = "made_by_controllers")]
    pub exclude_controlled: Vec<String>,
    /// Patterns of objects to leave out.
    #[serde(default = "made_by_the_cluster")]
    pub exclude_objects: Vec<String>,
    /// Types of Secrets to leave out.
    #[serde(default = "tokens")]
    pub exclude_secret_types: Vec<String>,
    /// A label selector.
    #[serde(default)]
    pub labels: String,
    /// The largest object that is kept, in bytes of its JSON.
    #[serde(default = "four_mebibytes")]
    pub max_object_bytes: usize,
    /// Clusters that are listed at the same time.
    #[serde(default = "three")]
    pub parallel_clusters: usize,
    /// How old the last backup may be before `diagnose` fails.
    pub max_age_hours: Option<u64>,
    /// How slow the API server may be before `diagnose` warns, in milliseconds.
    #[serde(default = "a_second")]
    pub slow_ms: u64,
    /// How soon a certificate or token may end before `diagnose` warns, in days.
    #[serde(default = "a_month")]
    pub expiry_days: u64,
}

fn yes() -> bool {
    true
}

fn three() -> usize {
    3
}

fn a_second() -> u64 {
    1_000
}

fn a_month() -> u64 {
    30
}

/// An object that the API server takes is smaller than 1.5 MiB, twice that with what JSON escapes.
fn four_mebibytes() -> usize {
    4 << 20
}

fn owned(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

fn made_all_the_time() -> Vec<String> {
    owned(&[
        "*/Event",
        "coordination.k8s.io/*",
        "/Node",
        "storage.k8s.io/CSINode",
        "storage.k8s.io/CSIStorageCapacity",
        "storage.k8s.io/VolumeAttachment",
        "networking.k8s.io/IPAddress",
        "certificates.k8s.io/CertificateSigningRequest",
        "internal.apiserver.k8s.io/*",
    ])
}

fn made_by_controllers() -> Vec<String> {
    owned(&["/Pod", "apps/ReplicaSet", "apps/ControllerRevision", "batch/Job", "discovery.k8s.io/EndpointSlice"])
}

fn made_by_the_cluster() -> Vec<String> {
    owned(&["/ConfigMap:*/kube-root-ca.crt", "/Service:default/kubernetes", "/Endpoints:default/kubernetes"])
}

fn tokens() -> Vec<String> {
    owned(&["kubernetes.io/service-account-token", "bootstrap.kubernetes.io/token"])
}

/// What a restore does.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum To {
    /// Writes objects into clusters.
    #[default]
    Cluster,
    /// Writes clean manifests into a bucket.
    Files,
    /// Writes one JSON line for each object into a bucket, for [`To::Compare`].
    Lines,
    /// Compares with the lines of another backup, or with the clusters as they are.
    Compare,
}

/// What becomes of an object that is there already.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Existing {
    /// It stays as it is.
    #[default]
    Leave,
    /// Recorded fields win, others stay (server-side apply).
    Merge,
    /// It becomes what was recorded.
    Replace,
}

/// Options of a restore, and of the target of a verification.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields, default)]
pub struct Options {
    /// Where to.
    pub to: To,
    /// Labels of clusters by the labels they were backed up under; the same labels when empty.
    pub to_clusters: BTreeMap<String, String>,
    /// Patterns of the clusters of the backup to restore; all of them when empty.
    pub clusters: Vec<String>,
    /// Patterns of namespaces; all of them when empty.
    pub namespaces: Vec<String>,
    /// Patterns of namespaces to leave out.
    pub exclude_namespaces: Vec<String>,
    /// Whether what lies in no namespace is restored too.
    pub cluster_resources: bool,
    /// Patterns of kinds; all of them when empty.
    pub kinds: Vec<String>,
    /// Patterns of kinds to leave out.
    pub exclude_kinds: Vec<String>,
    /// Patterns of names; all of them when empty.
    pub names: Vec<String>,
    /// A label selector.
    pub labels: String,
    /// Namespaces by their names in the backup.
    pub map_namespaces: BTreeMap<String, String>,
    /// Storage classes by their names in the backup.
    pub map_storage_classes: BTreeMap<String, String>,
    /// Beginnings of image names by those in the backup.
    pub map_images: BTreeMap<String, String>,
    /// What becomes of an object that is there already.
    pub existing: Existing,
    /// With `merge`: take over fields that another manager owns.
    pub force: bool,
    /// Restore status as well.
    pub status: bool,
    /// Keep cluster addresses, node ports and health-check ports of Services.
    pub keep_addresses: bool,
    /// Keep which volume a claim is bound to, and which claim a volume.
    pub keep_volumes: bool,
    /// Keep the node that a Pod ran on.
    pub keep_nodes: bool,
    /// Restore Jobs and Pods that have finished, which runs them again.
    pub finished: bool,
    /// Restore webhooks and admission policies.
    pub webhooks: bool,
    /// Keep finalizers of objects.
    pub finalizers: bool,
    /// How long to wait for definitions and for what converts their objects, in seconds.
    pub wait_seconds: u64,
    /// Verification: put in front of the names of namespaces to restore into, which are removed again.
    pub scratch_prefix: Option<String>,
    /// With `files`, `lines` and `compare`: label of the bucket.
    pub to_bucket: Option<String>,
    /// With `files`, `lines` and `compare`: what keys begin with; ends with a slash.
    pub to_prefix: String,
    /// With `files`: address of the repository that the Argo CD `Application` names.
    pub repository: String,
    /// With `files`: revision that the `Application` follows.
    pub revision: String,
    /// With `files`: path of the export in the repository; ends with a slash.
    pub path: String,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            to: To::Cluster,
            to_clusters: BTreeMap::new(),
            clusters: Vec::new(),
            namespaces: Vec::new(),
            exclude_namespaces: Vec::new(),
            cluster_resources: true,
            kinds: Vec::new(),
            exclude_kinds: Vec::new(),
            names: Vec::new(),
            labels: String::new(),
            map_namespaces: BTreeMap::new(),
            map_storage_classes: BTreeMap::new(),
            map_images: BTreeMap::new(),
            existing: Existing::Leave,
            force: false,
            status: false,
            keep_addresses: false,
            keep_volumes: false,
            keep_nodes: false,
            finished: false,
            webhooks: true,
            finalizers: true,
            wait_seconds: 60,
            scratch_prefix: None,
            to_bucket: None,
            to_prefix: String::new(),
            repository: "https://example.invalid/repository.git".to_owned(),
            revision: "HEAD".to_owned(),
            path: String::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Options, Settings};
    use serde_json::{Map, Value, json};

    /// What the manifest says a setting or option is unless given.
    fn defaults(section: &str) -> Map<String, Value> {
        let manifest: toml::Table = include_str!("../plugin.toml").parse().unwrap();
        let properties = manifest[section]["properties"].as_table().unwrap().clone();
        let default = |(name, property): (String, toml::Value)| {
            Some((name, serde_json::to_value(property.get("default")?).unwrap()))
        };
        properties.into_iter().filter_map(default).collect()
    }

    #[test]
    fn the_manifest_says_the_defaults_that_the_code_has() {
        let mut written = defaults("settings");
        assert!(written.len() > 10);
        written.insert("clusters".into(), json!(["prod"]));
        let written: Settings = serde_json::from_value(written.into()).unwrap();
        assert_eq!(written, serde_json::from_value::<Settings>(json!({"clusters": ["prod"]})).unwrap());
        let written: Options = serde_json::from_value(defaults("options").into()).unwrap();
        assert_eq!(written, Options::default());
    }
}
