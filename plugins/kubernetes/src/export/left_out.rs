//! Which objects do not belong into a repository. Pure.

use crate::clean::{at, text};
use crate::pattern::ObjectPattern;
use crate::rules::{self, Keep};
use serde_json::Value;
use strongroom_plugin::kube::Kind;

/// Objects that every cluster has by itself.
const OF_THE_CLUSTER: &[&str] = &[
    "/Namespace:default",
    "/Namespace:kube-system",
    "/Namespace:kube-public",
    "/Namespace:kube-node-lease",
    "/Service:default/kubernetes",
    "/ConfigMap:kube-system/extension-apiserver-authentication",
    "/ConfigMap:kube-system/kube-apiserver-legacy-service-account-token-tracking",
    "scheduling.k8s.io/PriorityClass:system-*",
    "networking.k8s.io/ServiceCIDR:kubernetes",
];

/// Why an object is left out of the manifests; `None` for one that belongs in.
pub(super) fn left_out(kind: &Kind, object: &Value) -> Option<String> {
    if crate::kind::is_secret(kind) {
        let keys: Vec<&str> = ["data", "stringData"]
            .iter()
            .filter_map(|field| object.get(field)?.as_object())
            .flat_map(|map| map.keys().map(String::as_str))
            .collect();
        let of = text(object, &["type"]).unwrap_or("Opaque");
        return Some(format!("a Secret of type {of} with the keys {}", keys.join(", ")));
    }
    if let Some(why) = rules::refuses(kind, object, Keep { finished: false, ..Keep::INTENT }) {
        return Some(why.to_owned());
    }
    let name = text(object, &["metadata", "name"]).unwrap_or_default();
    let namespace = text(object, &["metadata", "namespace"]);
    let owners = at(object, &["metadata", "ownerReferences"]).and_then(Value::as_array);
    let controller = owners.into_iter().flatten().find(|owner| owner.get("controller") == Some(&Value::Bool(true)));
    if let Some(owner) = controller {
        let of = |field| text(owner, &[field]).unwrap_or_default();
        return Some(format!("{} {} makes it", of("kind"), of("name")));
    }
    let label = |name: &str| text(object, &["metadata", "labels", name]);
    let annotation = |name: &str| text(object, &["metadata", "annotations", name]);
    let of_the_cluster = OF_THE_CLUSTER
        .iter()
        .any(|pattern| ObjectPattern::parse(pattern).is_ok_and(|pattern| pattern.matches(kind, namespace, name)))
        || label("kubernetes.io/bootstrapping").is_some()
        || annotation("apf.kubernetes.io/autoupdate-spec") == Some("true")
        || is_default_account(kind, object, name);
    if of_the_cluster {
        return Some("every cluster has it by itself".to_owned());
    }
    if crate::kind::is(kind, "", "PersistentVolume") && annotation("pv.kubernetes.io/provisioned-by").is_some() {
        return Some("it was made for a claim".to_owned());
    }
    None
}

/// The account `default` of a namespace, as long as nobody has given it anything.
fn is_default_account(kind: &Kind, object: &Value, name: &str) -> bool {
    crate::kind::is(kind, "", "ServiceAccount")
        && name == "default"
        && at(object, &["imagePullSecrets"]).is_none()
        && at(object, &["metadata", "labels"]).is_none()
        && at(object, &["metadata", "annotations"]).is_none()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn check(of: &str, object: &Value, why: Option<&str>) {
        let (group, name) = of.split_once('/').unwrap();
        let kind = Kind {
            group: group.into(),
            version: "v1".into(),
            kind: name.into(),
            plural: "x".into(),
            namespaced: true,
            verbs: Vec::new(),
        };
        assert_eq!(left_out(&kind, object).as_deref(), why, "{of} {object}");
    }

    #[test]
    fn what_somebody_wrote_belongs_in_and_what_was_made_does_not() {
        let own = "every cluster has it by itself";
        check("/ConfigMap", &json!({"metadata": {"name": "a", "namespace": "shop"}}), None);
        check(
            "/Secret",
            &json!({"metadata": {"name": "a"}, "type": "Opaque", "data": {"password": "x", "user": "y"}}),
            Some("a Secret of type Opaque with the keys password, user"),
        );
        check(
            "/Pod",
            &json!({"metadata": {"name": "a", "ownerReferences": [{"kind": "ReplicaSet", "name": "web", "controller": true}]}}),
            Some("ReplicaSet web makes it"),
        );
        check("/ConfigMap", &json!({"metadata": {"ownerReferences": [{"kind": "X", "name": "y"}]}}), None);
        check("/Namespace", &json!({"metadata": {"name": "default"}}), Some(own));
        check("/Namespace", &json!({"metadata": {"name": "shop"}}), None);
        check(
            "rbac.authorization.k8s.io/ClusterRole",
            &json!({"metadata": {"name": "admin", "labels": {"kubernetes.io/bootstrapping": "rbac-defaults"}}}),
            Some(own),
        );
        check("scheduling.k8s.io/PriorityClass", &json!({"metadata": {"name": "system-node-critical"}}), Some(own));
        check("/ServiceAccount", &json!({"metadata": {"name": "default", "namespace": "a"}}), Some(own));
        check("/ServiceAccount", &json!({"metadata": {"name": "default"}, "imagePullSecrets": [{"name": "x"}]}), None);
        check(
            "/PersistentVolume",
            &json!({"metadata": {"name": "pv", "annotations": {"pv.kubernetes.io/provisioned-by": "x"}}}),
            Some("it was made for a claim"),
        );
    }
}
