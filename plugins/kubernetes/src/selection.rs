//! Which objects of a backup are meant. Pure.

use crate::clean::text;
use crate::kind::is;
use crate::pattern::{Globs, Kinds};
use crate::selector::Selector;
use crate::settings::Options;
use serde_json::Value;
use strongroom_plugin::Result;
use strongroom_plugin::kube::Kind;

/// The options that choose, parsed.
#[derive(Clone, Debug)]
pub(crate) struct Selection {
    clusters: Globs,
    namespaces: Globs,
    exclude_namespaces: Globs,
    cluster_resources: bool,
    kinds: Kinds,
    exclude_kinds: Kinds,
    names: Globs,
    labels: Selector,
}

impl Selection {
    /// Errors: `Invalid` for patterns and selectors that are none.
    pub(crate) fn parse(options: &Options) -> Result<Self> {
        Ok(Self {
            clusters: Globs::parse(&options.clusters)?,
            namespaces: Globs::parse(&options.namespaces)?,
            exclude_namespaces: Globs::parse(&options.exclude_namespaces)?,
            cluster_resources: options.cluster_resources,
            kinds: Kinds::parse(&options.kinds)?,
            exclude_kinds: Kinds::parse(&options.exclude_kinds)?,
            names: Globs::parse(&options.names)?,
            labels: Selector::parse(&options.labels)?,
        })
    }

    /// Whether a cluster of the backup is meant.
    pub(crate) fn cluster(&self, label: &str) -> bool {
        self.clusters.none_or_any(label)
    }

    /// Whether objects of this kind may be meant.
    pub(crate) fn kind(&self, kind: &Kind) -> bool {
        (kind.namespaced || self.cluster_resources || is(kind, "", "Namespace"))
            && self.kinds.none_or_any(kind)
            && !self.exclude_kinds.any(kind)
    }

    /// Whether the object of this place may be meant.
    pub(crate) fn place(&self, kind: &Kind, namespace: Option<&str>, name: &str) -> bool {
        let within = namespace.or_else(|| is(kind, "", "Namespace").then_some(name));
        let inside =
            within.is_none_or(|within| self.namespaces.none_or_any(within) && !self.exclude_namespaces.any(within));
        inside && self.names.none_or_any(name)
    }

    /// Whether the labels of an object are.
    pub(crate) fn labels(&self, object: &Value) -> bool {
        self.labels.is_everything() || self.labels.chooses(|label| text(object, &["metadata", "labels", label]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn kind(group: &str, name: &str, namespaced: bool) -> Kind {
        let (group, kind) = (group.to_owned(), name.to_owned());
        Kind { group, version: "v1".into(), kind, plural: "x".into(), namespaced, verbs: Vec::new() }
    }

    #[test]
    fn options_choose_by_cluster_kind_place_and_label() {
        let options: Options = serde_json::from_value(json!({
            "clusters": ["prod-*"], "namespaces": ["shop"], "exclude_kinds": ["/Secret"], "names": ["web*"],
            "labels": "app=web", "cluster_resources": false,
        }))
        .unwrap();
        let chosen = Selection::parse(&options).unwrap();
        assert!(chosen.cluster("prod-eu") && !chosen.cluster("test"));
        let map = kind("", "ConfigMap", true);
        assert!(chosen.kind(&map) && !chosen.kind(&kind("", "Secret", true)));
        assert!(!chosen.kind(&kind("", "PersistentVolume", false)) && chosen.kind(&kind("", "Namespace", false)));
        assert!(chosen.place(&map, Some("shop"), "web-1"));
        assert!(!chosen.place(&map, Some("shop"), "db") && !chosen.place(&map, Some("db"), "web"));
        assert!(chosen.labels(&json!({"metadata": {"labels": {"app": "web"}}})) && !chosen.labels(&json!({})));
        let all = Selection::parse(&Options::default()).unwrap();
        assert!(all.kind(&kind("", "PersistentVolume", false)) && all.place(&map, None, "x") && all.labels(&json!({})));
        let namespaces = Selection { names: Globs::default(), ..chosen };
        assert!(namespaces.place(&kind("", "Namespace", false), None, "shop"));
        assert!(!namespaces.place(&kind("", "Namespace", false), None, "db"));
    }
}
