//! What differs between two objects, field by field. Pure.

use serde_json::Value;
use std::fmt;

/// Characters of a value that are shown.
const SHOWN: usize = 60;
/// Differences that a note names.
const NAMED: usize = 8;

/// One field that differs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Difference {
    /// Such as `spec.template.spec.containers[web].image`.
    pub(crate) path: String,
    /// As it is; none where it is not there.
    pub(crate) from: Option<String>,
    /// As it would be.
    pub(crate) to: Option<String>,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.from, &self.to) {
            (None, Some(to)) => write!(f, "{} + {to}", self.path),
            (Some(from), None) => write!(f, "{} - {from}", self.path),
            (Some(from), Some(to)) => write!(f, "{} {from} -> {to}", self.path),
            (None, None) => f.write_str(&self.path),
        }
    }
}

/// Every field in which two objects differ, in the order of fields.
pub(crate) fn differences(from: &Value, to: &Value) -> Vec<Difference> {
    let mut found = Vec::new();
    compare(&mut String::new(), from, to, &mut found);
    found
}

/// Some differences as one line.
pub(crate) fn show(differences: &[Difference]) -> String {
    let mut shown = differences.iter().take(NAMED).map(ToString::to_string).collect::<Vec<_>>().join("; ");
    if differences.len() > NAMED {
        shown.push_str(&format!("; and {} more fields", differences.len() - NAMED));
    }
    shown
}

fn compare(path: &mut String, from: &Value, to: &Value, found: &mut Vec<Difference>) {
    match (from, to) {
        (Value::Object(old), Value::Object(new)) => {
            let mut fields: Vec<&String> = old.keys().chain(new.keys()).collect();
            fields.sort();
            fields.dedup();
            for field in fields {
                at(path, &step(field, path.is_empty()), found, old.get(field), new.get(field));
            }
        }
        (Value::Array(old), Value::Array(new)) => match (names(old), names(new)) {
            // Lists whose items have names are compared by name, so that one more item is one difference.
            (Some(old_names), Some(new_names)) if old != new => {
                let mut in_order = true;
                let both = |name: &&String| new_names.contains(name) && old_names.contains(name);
                if old_names.iter().filter(both).ne(new_names.iter().filter(both)) {
                    in_order = false;
                }
                for (name, item) in old_names.iter().zip(old) {
                    let there = new_names.iter().position(|other| other == name).and_then(|place| new.get(place));
                    at(path, &format!("[{name}]"), found, Some(item), there);
                }
                for (name, item) in new_names.iter().zip(new).filter(|(name, _)| !old_names.contains(name)) {
                    at(path, &format!("[{name}]"), found, None, Some(item));
                }
                if !in_order {
                    let order = |names: &[String]| Some(brief(&names.join(", ")));
                    found.push(Difference {
                        path: format!("{path} (order)"),
                        from: order(&old_names),
                        to: order(&new_names),
                    });
                }
            }
            _ => {
                for place in 0..old.len().max(new.len()) {
                    at(path, &format!("[{place}]"), found, old.get(place), new.get(place));
                }
            }
        },
        (old, new) if old == new => {}
        (old, new) => found.push(Difference { path: path.clone(), from: Some(value(old)), to: Some(value(new)) }),
    }
}

fn at(path: &mut String, step: &str, found: &mut Vec<Difference>, old: Option<&Value>, new: Option<&Value>) {
    let length = path.len();
    path.push_str(step);
    match (old, new) {
        (Some(old), Some(new)) => compare(path, old, new, found),
        (old, new) => found.push(Difference { path: path.clone(), from: old.map(value), to: new.map(value) }),
    }
    path.truncate(length);
}

/// A field as it follows a path.
pub(crate) fn field(name: &str) -> String {
    step(name, false)
}

/// Keys with dots or slashes, such as labels, are written in brackets.
fn step(field: &str, first: bool) -> String {
    if field.is_empty() || field.contains(['.', '/', '[', ']', ' ']) {
        format!("[{field:?}]")
    } else if first {
        field.to_owned()
    } else {
        format!(".{field}")
    }
}

/// The names of a list's items, where every item has one and no two have the same.
fn names(list: &[Value]) -> Option<Vec<String>> {
    let mut names = Vec::with_capacity(list.len());
    for item in list {
        let text = |field: &str| item.get(field).and_then(Value::as_str);
        let name = match (text("name"), text("key"), item.get("containerPort").or_else(|| item.get("port"))) {
            (Some(name), _, _) => name.to_owned(),
            (None, Some(key), _) => key.to_owned(),
            (None, None, Some(port)) => format!("{port}/{}", text("protocol").unwrap_or("TCP")),
            (None, None, None) => return None,
        };
        if names.contains(&name) {
            return None;
        }
        names.push(name);
    }
    Some(names)
}

fn value(value: &Value) -> String {
    match value {
        Value::Object(map) if map.is_empty() => "{}".to_owned(),
        Value::Object(map) => format!("{{{} fields}}", map.len()),
        Value::Array(list) if list.is_empty() => "[]".to_owned(),
        Value::Array(list) => format!("[{} items]", list.len()),
        scalar => brief(&scalar.to_string()),
    }
}

fn brief(text: &str) -> String {
    if text.chars().count() <= SHOWN {
        return text.to_owned();
    }
    format!("{}… ({} bytes)", text.chars().take(SHOWN).collect::<String>(), text.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn check(from: &Value, to: &Value, expected: &[&str]) {
        let found: Vec<_> = differences(from, to).iter().map(ToString::to_string).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn every_field_that_differs_is_named() {
        check(&json!({"a": 1}), &json!({"a": 1}), &[]);
        check(&json!({"spec": {"replicas": 3}}), &json!({"spec": {"replicas": 5}}), &["spec.replicas 3 -> 5"]);
        check(&json!({"a": {"b": "x"}}), &json!({"a": {}}), &["a.b - \"x\""]);
        check(&json!({}), &json!({"a": {"b": 1, "c": 2}}), &["a + {2 fields}"]);
        check(&json!({"a": null}), &json!({"a": false}), &["a null -> false"]);
        check(
            &json!({"metadata": {"labels": {"a.b/c": "1"}}}),
            &json!({"metadata": {"labels": {"a.b/c": "2"}}}),
            &["metadata.labels[\"a.b/c\"] \"1\" -> \"2\""],
        );
        check(&json!({"a": [1, 2]}), &json!({"a": [1, 3, 4]}), &["a[1] 2 -> 3", "a[2] + 4"]);
        check(
            &json!({"c": [{"name": "web", "image": "a"}, {"name": "log"}]}),
            &json!({"c": [{"name": "new"}, {"name": "web", "image": "b"}]}),
            &["c[web].image \"a\" -> \"b\"", "c[log] - {1 fields}", "c[new] + {1 fields}"],
        );
        check(
            &json!([{"name": "a"}, {"name": "b"}]),
            &json!([{"name": "b"}, {"name": "a"}]),
            &[" (order) a, b -> b, a"],
        );
        check(&json!([{"port": 80}]), &json!([{"port": 80, "x": 1}]), &["[80/TCP].x + 1"]);
        let long = differences(&json!({"a": "x".repeat(500)}), &json!({}));
        assert!(show(&long).len() < 200 && show(&long).contains("502 bytes"), "{}", show(&long));
        let many: Value = (0..20).map(|n| (format!("f{n}"), n.into())).collect::<serde_json::Map<_, _>>().into();
        assert!(show(&differences(&many, &json!({}))).ends_with("and 12 more fields"));
    }

    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            (0_i64..4).prop_map(Value::from),
            "[ab]{0,2}".prop_map(Value::from)
        ];
        leaf.prop_recursive(4, 24, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::btree_map("name|key|[ab]", inner, 0..4)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn equal_objects_have_no_difference_and_others_have_one(one in any_json(), other in any_json()) {
            prop_assert_eq!(differences(&one, &one.clone()), vec![]);
            prop_assert_eq!(differences(&one, &other).is_empty(), one == other);
            prop_assert_eq!(differences(&one, &other).len(), differences(&other, &one).len());
        }
    }
}
