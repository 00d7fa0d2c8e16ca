//! `inventory.json`: which archives a backup has, in restore order.

use serde::{Deserialize, Serialize};
use std::io::Read;
use strongroom_plugin::kube::Kind;
use strongroom_plugin::{Error, Result, storage};

/// Name of the artifact.
pub(crate) const NAME: &str = "inventory.json";
/// What this version of the plugin writes, and the newest that it reads.
const FORMAT: u32 = 1;
/// The longest inventory that is read: 10,000 archives of less than 1 KiB.
const MAX_BYTES: u64 = 16 << 20;
/// The longest part of an artifact's name that comes from names in the cluster.
const MAX_NAMED: usize = 80;

/// Attributes of the entries of archives of Secrets.
pub(crate) mod attribute {
    /// The object without its data, as the plugin saw it.
    pub(crate) const SEEN: &str = "seen";
}

/// What a backup holds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Inventory {
    pub(crate) format: u32,
    pub(crate) clusters: Vec<ClusterInventory>,
}

/// What it holds of one cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ClusterInventory {
    pub(crate) label: String,
    pub(crate) version: String,
    /// The uid of its namespace `kube-system`, which no other cluster has.
    #[serde(default)]
    pub(crate) uid: Option<String>,
    pub(crate) archives: Vec<Archive>,
}

/// The objects of one kind.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Archive {
    pub(crate) artifact: String,
    pub(crate) group: String,
    pub(crate) version: String,
    pub(crate) kind: String,
    pub(crate) plural: String,
    pub(crate) namespaced: bool,
    pub(crate) objects: u64,
    /// Bytes of the objects' JSON.
    pub(crate) bytes: u64,
    /// The list expired and was begun anew: it is not of one moment.
    #[serde(default)]
    pub(crate) restarted: bool,
    /// Its definition converts through a webhook.
    #[serde(default)]
    pub(crate) converted: bool,
}

impl Archive {
    /// The kind, as it was listed.
    pub(crate) fn kind(&self) -> Kind {
        Kind {
            group: self.group.clone(),
            version: self.version.clone(),
            kind: self.kind.clone(),
            plural: self.plural.clone(),
            namespaced: self.namespaced,
            verbs: Vec::new(),
        }
    }
}

impl Inventory {
    /// An inventory of nothing.
    pub(crate) fn new() -> Self {
        Self { format: FORMAT, clusters: Vec::new() }
    }

    /// Reads that of the backup in scope. Errors: `Failed` for one that a newer plugin wrote.
    pub(crate) fn read() -> Result<Self> {
        let mut text = String::new();
        storage::get(NAME)?.take(MAX_BYTES).read_to_string(&mut text)?;
        Self::parse(&text)
    }

    fn parse(text: &str) -> Result<Self> {
        let inventory: Self = serde_json::from_str(text).map_err(|error| Error::from(error).context(NAME))?;
        if inventory.format > FORMAT {
            return Err(Error::failed(format!(
                "the backup has format {}, and this plugin reads formats up to {FORMAT}: use a newer one",
                inventory.format
            )));
        }
        Ok(inventory)
    }

    /// Its JSON.
    pub(crate) fn to_json(&self) -> Result<Vec<u8>> {
        let mut json = serde_json::to_vec_pretty(self)?;
        json.push(b'\n');
        Ok(json)
    }
}

/// The name of an archive: unique within a backup by its number within the cluster.
pub(crate) fn artifact(cluster: &str, number: usize, kind: &Kind, unseen: bool) -> String {
    let named: String = format!("{}.{}", kind.plural, kind.group)
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '_' })
        .take(MAX_NAMED - cluster.len().min(MAX_NAMED / 2))
        .collect();
    let what = if unseen { "unseen" } else { "objects" };
    format!("{cluster}.{what}.{number:04}.{}", named.trim_end_matches('.'))
}

/// The path of an object within its archive.
pub(crate) fn path(namespace: Option<&str>, name: &str) -> String {
    format!("{}/{name}.json", namespace.unwrap_or("_"))
}

/// Namespace and name of the object at a path.
pub(crate) fn place(path: &str) -> Option<(Option<&str>, &str)> {
    let (namespace, name) = path.split_once('/')?;
    Some(((namespace != "_").then_some(namespace), name.strip_suffix(".json")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(group: &str, plural: &str) -> Kind {
        let (group, plural) = (group.to_owned(), plural.to_owned());
        Kind { group, version: "v1".into(), kind: "X".into(), plural, namespaced: true, verbs: Vec::new() }
    }

    #[test]
    fn names_of_archives_are_names_of_artifacts() {
        assert_eq!(artifact("prod", 7, &kind("apps", "deployments"), false), "prod.objects.0007.deployments.apps");
        assert_eq!(artifact("prod", 12, &kind("", "secrets"), true), "prod.unseen.0012.secrets");
        for (cluster, group) in [("a".repeat(63), "g".repeat(253)), ("a".into(), "ä/".repeat(200))] {
            let name = artifact(&cluster, 9_999, &kind(&group, "x"), false);
            assert!(name.len() <= 120 && name.is_ascii() && !name.contains('/'), "{name}");
        }
    }

    #[test]
    fn a_path_tells_namespace_and_name() {
        for (namespace, name) in
            [(Some("shop"), "web"), (None, "system:node"), (Some("a"), "x.json"), (Some("a"), "b:c.d")]
        {
            assert_eq!(place(&path(namespace, name)), Some((namespace, name)));
        }
        assert_eq!(place("rubbish"), None);
        assert_eq!(place("a/b"), None);
    }

    #[test]
    fn an_inventory_is_read_as_it_was_written_and_a_newer_one_is_refused() {
        let archive = Archive {
            artifact: "prod.objects.0001.x".into(),
            group: String::new(),
            version: "v1".into(),
            kind: "X".into(),
            plural: "xs".into(),
            namespaced: true,
            objects: 3,
            bytes: 10,
            restarted: true,
            converted: false,
        };
        let cluster =
            ClusterInventory { label: "prod".into(), version: "v1.36.3".into(), uid: None, archives: vec![archive] };
        let inventory = Inventory { format: FORMAT, clusters: vec![cluster] };
        let json = String::from_utf8(inventory.to_json().unwrap()).unwrap();
        assert_eq!(Inventory::parse(&json).unwrap(), inventory);
        let newer = json.replacen("\"format\": 1", "\"format\": 2", 1);
        assert!(Inventory::parse(&newer).unwrap_err().to_string().contains("newer"));
    }
}
