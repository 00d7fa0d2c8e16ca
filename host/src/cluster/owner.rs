//! Who owns an object, and who manages its fields: what a restore puts back.

use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// The field manager of whatever is written by this host.
pub(super) const MANAGER: &str = "strongroom";

/// Longest name of a field manager that the server takes, in bytes.
const MAX_MANAGER_BYTES: usize = 128;

/// Gives references to owners the uid that the owner has now; drops those whose owner is not known: an
/// object that refers to an owner that is not there is removed at once by the garbage collector.
pub(super) fn rebuild(metadata: &mut Map<String, Value>, owners: &BTreeMap<String, String>) {
    let Some(Value::Array(references)) = metadata.get_mut("ownerReferences") else { return };
    references.retain_mut(|reference| {
        let new = reference.get("uid").and_then(Value::as_str).and_then(|uid| owners.get(uid));
        match (new, reference.as_object_mut()) {
            (Some(new), Some(reference)) => {
                reference.insert("uid".to_owned(), new.clone().into());
                true
            }
            _ => false,
        }
    });
    if references.is_empty() {
        metadata.remove("ownerReferences");
    }
}

/// How the managers that were recorded become the managers again.
#[derive(Debug, PartialEq)]
pub(super) enum Managers {
    /// None were recorded: the fields are ours.
    Ours,
    /// There was one, which wrote as we do: the object is created under its name.
    One(String),
    /// There was one, which applied it: the object is applied under its name, and it is looked whether it
    /// has become the manager of the same fields.
    Applied(String, Vec<Value>),
    /// They are written once the object is there, for the server gives all fields of a new object to
    /// whoever creates it.
    Several(Vec<Value>),
}

/// Takes the recorded managers out of an object that is about to be created. Those of its status are
/// left: it has none yet.
pub(super) fn take(metadata: &mut Map<String, Value>) -> Managers {
    let Some(Value::Array(recorded)) = metadata.remove("managedFields") else { return Managers::Ours };
    let of_object: Vec<Value> =
        recorded.into_iter().filter(|entry| entry["subresource"].as_str().unwrap_or_default().is_empty()).collect();
    let fits = |name: &str| !name.is_empty() && name.len() <= MAX_MANAGER_BYTES && !name.chars().any(char::is_control);
    match of_object.as_slice() {
        [] => Managers::Ours,
        [one] if one["operation"] == "Update" => match one["manager"].as_str() {
            Some(name) if fits(name) => Managers::One(name.to_owned()),
            _ => Managers::Ours,
        },
        [one] if one["operation"] == "Apply" => match one["manager"].as_str().filter(|name| fits(name)) {
            Some(name) => Managers::Applied(name.to_owned(), of_object),
            None => Managers::Several(of_object),
        },
        _ => Managers::Several(of_object),
    }
}

/// Whether an object just created has the managers that were recorded, of the same fields of the same
/// version. When they last wrote does not count: it is given anew.
pub(super) fn are_managers(now: Option<&Value>, recorded: &[Value]) -> bool {
    const COUNTS: [&str; 4] = ["manager", "operation", "apiVersion", "fieldsV1"];
    let now = now.and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    now.len() == recorded.len()
        && now.iter().zip(recorded).all(|(one, other)| COUNTS.iter().all(|key| one.get(key) == other.get(key)))
}

/// The managers of an object just created, with those that were recorded in the place of ours. What
/// others have written since (a controller is quick) stays theirs.
pub(super) fn put_back(created: &Map<String, Value>, recorded: &[Value]) -> Vec<Value> {
    let same = |a: &Value, b: &Value| {
        ["manager", "operation", "subresource"]
            .iter()
            .all(|key| a[key].as_str().unwrap_or_default() == b[key].as_str().unwrap_or_default())
    };
    let now = created.get("managedFields").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let others = now.iter().filter(|entry| entry["manager"] != MANAGER && !recorded.iter().any(|one| same(one, entry)));
    recorded.iter().chain(others).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn entry(manager: &str, operation: &str, subresource: &str) -> Value {
        json!({"manager": manager, "operation": operation, "subresource": subresource, "fieldsV1": {"f:data": {}}})
    }

    fn taken(recorded: Value) -> Managers {
        let mut metadata = Map::from_iter([("managedFields".to_owned(), recorded)]);
        let managers = take(&mut metadata);
        assert!(metadata.is_empty(), "a new object may not name its managers itself");
        managers
    }

    #[test]
    fn one_manager_that_wrote_as_we_do_needs_no_second_request() {
        assert_eq!(taken(json!([entry("helm", "Update", "")])), Managers::One("helm".to_owned()));
        let with_status = json!([entry("helm", "Update", ""), entry("kubelet", "Update", "status")]);
        assert_eq!(taken(with_status), Managers::One("helm".to_owned()));
        assert_eq!(taken(json!([])), Managers::Ours);
        assert_eq!(taken(json!([entry(&"x".repeat(129), "Update", "")])), Managers::Ours);
        let one = entry("argocd", "Apply", "");
        assert_eq!(taken(json!([one])), Managers::Applied("argocd".to_owned(), vec![one.clone()]));
        assert!(matches!(taken(json!([entry("a\nb", "Apply", "")])), Managers::Several(_)));
        assert!(matches!(taken(json!([one, entry("helm", "Update", "")])), Managers::Several(_)));
    }

    #[test]
    fn managers_are_those_recorded_when_they_have_the_same_fields() {
        let are = |now: Value, recorded: Value| are_managers(Some(&now), recorded.as_array().unwrap());
        let mut later = entry("argocd", "Apply", "");
        later["time"] = json!("2026-01-01T00:00:00Z");
        assert!(are(json!([later]), json!([entry("argocd", "Apply", "")])));
        let mut more = entry("argocd", "Apply", "");
        more["fieldsV1"]["f:spec"] = json!({});
        for other in [json!([more]), json!([entry("argocd", "Update", "")]), json!([]), json!([later, more])] {
            assert!(!are(other.clone(), json!([entry("argocd", "Apply", "")])), "{other}");
        }
        assert!(!are_managers(None, &[entry("argocd", "Apply", "")]));
    }

    #[test]
    fn recorded_managers_take_our_place_and_nobody_elses() {
        let created = json!({"managedFields": [
            entry(MANAGER, "Update", ""), entry("controller", "Update", ""), entry("argocd", "Apply", ""),
        ]});
        let recorded = [entry("argocd", "Apply", ""), entry("kubectl", "Update", "")];
        let back = put_back(created.as_object().unwrap(), &recorded);
        let names: Vec<_> = back.iter().map(|entry| entry["manager"].as_str().unwrap()).collect();
        assert_eq!(names, ["argocd", "kubectl", "controller"]);
    }
}
