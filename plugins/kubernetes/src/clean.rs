//! Taking out of an object what only the server that it came from could know. Pure.

use serde_json::{Map, Value};

/// Metadata that a server gives an object and nobody else may.
const SERVER_METADATA: &[&str] = &[
    "uid",
    "resourceVersion",
    "generation",
    "creationTimestamp",
    "selfLink",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
];

/// Annotations that tools and controllers keep for themselves; they say nothing that the object does not.
const NOTES_OF_TOOLS: &[&str] = &[
    "kubectl.kubernetes.io/last-applied-configuration",
    "deployment.kubernetes.io/revision",
    "deprecated.daemonset.template.generation",
    "control-plane.alpha.kubernetes.io/leader",
    "endpoints.kubernetes.io/last-change-trigger-time",
    "autoscaling.alpha.kubernetes.io/conditions",
    "autoscaling.alpha.kubernetes.io/current-metrics",
];

/// The value at a path of fields.
pub(crate) fn at<'a>(value: &'a Value, path: &[&str]) -> Option<&'a Value> {
    path.iter().try_fold(value, |value, field| value.get(field))
}

/// The value at a path of fields, to be changed.
pub(crate) fn at_mut<'a>(value: &'a mut Value, path: &[&str]) -> Option<&'a mut Value> {
    path.iter().try_fold(value, |value, field| value.get_mut(field))
}

/// The text at a path of fields.
pub(crate) fn text<'a>(value: &'a Value, path: &[&str]) -> Option<&'a str> {
    at(value, path)?.as_str()
}

/// The object at a path of fields, to be changed.
pub(crate) fn map_mut<'a>(value: &'a mut Value, path: &[&str]) -> Option<&'a mut Map<String, Value>> {
    at_mut(value, path)?.as_object_mut()
}

/// Takes the field at the end of a path out, and what lies above it where nothing else is left there.
pub(crate) fn remove(value: &mut Value, path: &[&str]) {
    let Some((field, above)) = path.split_last() else { return };
    let Some(map) = map_mut(value, above) else { return };
    if map.remove(*field).is_some() && map.is_empty() && above.len() > 1 {
        remove(value, above);
    }
}

/// Drops what the server wrote into the metadata.
pub(crate) fn server_metadata(object: &mut Value) {
    if let Some(metadata) = map_mut(object, &["metadata"]) {
        SERVER_METADATA.iter().for_each(|field| drop(metadata.remove(*field)));
    }
}

/// Drops everything that is not meant: server metadata, managed fields, status, notes of tools, empty
/// times in templates. What is left of two equal objects of two clusters is equal.
pub(crate) fn to_intent(object: &mut Value) {
    server_metadata(object);
    if let Some(metadata) = map_mut(object, &["metadata"]) {
        metadata.remove("managedFields");
    }
    if let Some(map) = object.as_object_mut() {
        map.remove("status");
    }
    for note in NOTES_OF_TOOLS {
        remove(object, &["metadata", "annotations", note]);
    }
    for field in ["annotations", "labels", "finalizers", "ownerReferences"] {
        let empty = |value: &Value| match value {
            Value::Object(map) => map.is_empty(),
            Value::Array(list) => list.is_empty(),
            other => other.is_null(),
        };
        if at(object, &["metadata", field]).is_some_and(empty) {
            remove(object, &["metadata", field]);
        }
    }
    empty_times(object);
}

/// Templates carry `creationTimestamp: null`, depending on who wrote them.
fn empty_times(value: &mut Value) {
    match value {
        Value::Object(map) => {
            if map.get("creationTimestamp").is_some_and(Value::is_null) {
                map.remove("creationTimestamp");
            }
            map.values_mut().for_each(empty_times);
        }
        Value::Array(list) => list.iter_mut().for_each(empty_times),
        _ => {}
    }
}

/// References to owners without their uids, which differ from cluster to cluster.
pub(crate) fn owners_by_name(object: &mut Value) {
    if let Some(owners) = at_mut(object, &["metadata", "ownerReferences"]).and_then(Value::as_array_mut) {
        owners.iter_mut().filter_map(Value::as_object_mut).for_each(|owner| drop(owner.remove("uid")));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_is_meant_stays_and_what_the_server_added_goes() {
        let mut object = json!({
            "apiVersion": "apps/v1", "kind": "Deployment",
            "metadata": {
                "name": "web", "namespace": "shop", "uid": "u", "resourceVersion": "7", "generation": 3,
                "creationTimestamp": "2026-01-01T00:00:00Z", "managedFields": [{}], "labels": {},
                "annotations": {"kubectl.kubernetes.io/last-applied-configuration": "{}"},
            },
            "spec": {"template": {"metadata": {"creationTimestamp": null, "labels": {"app": "web"}}}, "unknown": [null, {}]},
            "status": {"replicas": 3},
        });
        to_intent(&mut object);
        assert_eq!(
            object,
            json!({
                "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web", "namespace": "shop"},
                "spec": {"template": {"metadata": {"labels": {"app": "web"}}}, "unknown": [null, {}]},
            })
        );
        let mut again = object.clone();
        to_intent(&mut again);
        assert_eq!(again, object, "once is enough");
    }

    #[test]
    fn a_field_takes_empty_ones_above_it_along() {
        let mut object = json!({"metadata": {"annotations": {"a/b": "1"}, "name": "x"}});
        remove(&mut object, &["metadata", "annotations", "nothing"]);
        remove(&mut object, &["metadata", "annotations", "a/b"]);
        assert_eq!(object, json!({"metadata": {"name": "x"}}));
        remove(&mut object, &["metadata", "name"]);
        assert_eq!(object, json!({"metadata": {}}), "never the object's own fields");
        remove(&mut object, &["spec", "x"]);
    }
}
