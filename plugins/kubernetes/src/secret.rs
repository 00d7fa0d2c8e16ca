//! What the host writes in the place of a Secret's values: a text of its own, or a mark, by which equal
//! values are told from others and nothing else. Pure; the plugin sees no value, ever.

use crate::difference::{Difference, field};
use serde_json::{Map, Value};

/// The text: base64 of "redacted by strongroom".
const TEXT: &str = "cmVkYWN0ZWQgYnkgc3Ryb25ncm9vbQ==";

/// How a mark begins: base64 of "redacted by strongroom; ". Whose key made it follows, and then what stands
/// for the value.
const MARK: &str = "cmVkYWN0ZWQgYnkgc3Ryb25ncm9vbTsg";

/// Characters of a mark that say whose key made it. Marks of two keys say nothing about each other.
const KEY: usize = 8;

/// Longest text of a Secret that is kept: the host takes 64 KiB of attributes with an entry, and their
/// names count.
const KEPT_BYTES: usize = 63 << 10;

/// What stands for the keys of a Secret that has too many of them.
const MANY: &str = "(too many keys to list)";

/// The text of a Secret as it is kept beside its sealed body. What makes it too long is left out of it, one
/// after the other: managers of fields, marks, keys, annotations. The body has everything.
pub(crate) fn to_keep(json: &str) -> String {
    let mut kept = json.to_owned();
    if kept.len() <= KEPT_BYTES {
        return kept;
    }
    let Ok(mut object) = serde_json::from_str::<Value>(json) else { return kept };
    let shorten: [fn(&mut Value); 4] = [
        |object| crate::clean::remove(object, &["metadata", "managedFields"]),
        forget_marks,
        |object| {
            if let Some(data) = data_mut(object) {
                data.clear();
                data.insert(MANY.to_owned(), TEXT.into());
            }
        },
        |object| crate::clean::remove(object, &["metadata", "annotations"]),
    ];
    for shorten in shorten {
        if kept.len() <= KEPT_BYTES {
            break;
        }
        shorten(&mut object);
        kept = object.to_string();
    }
    kept
}

/// Whether the text of an object may hold marks.
pub(crate) fn may_be_marked(json: &str) -> bool {
    json.contains(MARK)
}

/// Puts the text in the place of marks: two objects that differ in nothing else are then equal.
pub(crate) fn forget_marks(object: &mut Value) {
    for value in data_mut(object).into_iter().flat_map(|data| data.values_mut()) {
        if value.as_str().is_some_and(|value| value.starts_with(MARK)) {
            *value = TEXT.into();
        }
    }
}

fn data_mut(object: &mut Value) -> Option<&mut Map<String, Value>> {
    object.get_mut("data")?.as_object_mut()
}

/// What the marks of two Secrets tell.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Told {
    /// Keys whose values differ.
    pub(crate) changed: Vec<Difference>,
    /// Whether every value that both have was compared.
    pub(crate) is_all: bool,
}

/// Compares the values that both have by their marks, and forgets the marks.
pub(crate) fn compare(one: &mut Value, other: &mut Value) -> Told {
    let mut told = Told { changed: Vec::new(), is_all: true };
    if let (Some(one), Some(other)) = (data_mut(one), data_mut(other)) {
        // Of one side the keys are not known, so nothing is said of those of the other.
        if one.contains_key(MANY) {
            other.clone_from(one);
        } else if other.contains_key(MANY) {
            one.clone_from(other);
        }
        for (key, value) in one.iter() {
            match (value.as_str(), other.get(key).map(Value::as_str)) {
                (_, None) => {}
                (Some(mark), Some(Some(another))) if key_of(mark).is_some() && key_of(mark) == key_of(another) => {
                    if mark != another {
                        let path = format!("data{} (its value is not shown)", field(key));
                        told.changed.push(Difference { path, from: None, to: None });
                    }
                }
                _ => told.is_all = false,
            }
        }
    }
    forget_marks(one);
    forget_marks(other);
    told
}

/// Whose key made a mark; `None` for what is none.
fn key_of(mark: &str) -> Option<&str> {
    mark.strip_prefix(MARK)?.get(..KEY)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn mark(key: &str, value: &str) -> String {
        format!("{MARK}{key:_<8}{value:_<24}")
    }

    fn told(one: &Value, other: &Value) -> (Vec<String>, bool) {
        let (mut one, mut other) = (json!({"data": one}), json!({"data": other}));
        let told = compare(&mut one, &mut other);
        assert!(!may_be_marked(&one.to_string()) && !may_be_marked(&other.to_string()));
        (told.changed.iter().map(ToString::to_string).collect(), told.is_all)
    }

    #[test]
    fn values_are_compared_by_marks_of_one_key_and_by_nothing_else() {
        let (one, two) = (mark("host", "1"), mark("host", "2"));
        assert_eq!(told(&json!({"a": one}), &json!({"a": one})), (vec![], true));
        let changed = vec!["data.a (its value is not shown)".to_owned()];
        assert_eq!(told(&json!({"a": one, "b": one}), &json!({"a": two, "b": one})), (changed, true));
        // A key that only one side has is a difference of the objects themselves.
        assert_eq!(told(&json!({"a": one, "b": one}), &json!({"a": one})), (vec![], true));
        for (left, right) in [
            (json!(one), json!(mark("other", "1"))),
            (json!(TEXT), json!(one)),
            (json!(TEXT), json!(TEXT)),
            (json!(7), json!(7)),
        ] {
            assert_eq!(told(&json!({"a": left}), &json!({"a": right})), (vec![], false), "{left} {right}");
        }
        let dotted = told(&json!({"tls.crt": one}), &json!({"tls.crt": two})).0;
        assert_eq!(dotted, ["data[\"tls.crt\"] (its value is not shown)"]);
        assert_eq!(told(&Value::Null, &json!({"a": one})), (vec![], true));
        let (many, keys) = (json!({"data": {MANY: TEXT}}), json!({"data": {"a": one, "b": two}}));
        for (mut left, mut right) in [(many.clone(), keys.clone()), (keys, many.clone())] {
            assert!(!compare(&mut left, &mut right).is_all);
            assert_eq!((&left, &right), (&many, &many));
        }
    }

    #[test]
    fn what_makes_a_secret_too_long_is_left_out_of_what_is_kept() {
        let of = |n: usize, note: &str| {
            let data: Map<String, Value> = (0..n).map(|n| (format!("k{n}"), mark("k", "v").into())).collect();
            let metadata = json!({"name": "x", "annotations": {"note": note}, "managedFields": ["m".repeat(10_000)]});
            json!({"kind": "Secret", "metadata": metadata, "data": data})
        };
        let kept = |n: usize, note: &str| {
            let kept = to_keep(&of(n, note).to_string());
            assert!(kept.len() <= KEPT_BYTES, "{}", kept.len());
            serde_json::from_str::<Value>(&kept).unwrap()
        };
        assert_eq!(kept(100, "y"), of(100, "y"));
        let without_managers = kept(750, "y");
        assert!(without_managers["metadata"].get("managedFields").is_none());
        assert!(may_be_marked(&without_managers.to_string()) && without_managers["data"].get("k749").is_some());
        let without_marks = kept(1_200, "y");
        assert!(!may_be_marked(&without_marks.to_string()) && without_marks["data"].get("k1199").is_some());
        assert_eq!(
            kept(20_000, "y"),
            json!({"kind": "Secret", "metadata": {"name": "x", "annotations": {"note": "y"}}, "data": {MANY: TEXT}})
        );
        let least = json!({"kind": "Secret", "metadata": {"name": "x"}, "data": {MANY: TEXT}});
        assert_eq!(kept(1, &"y".repeat(200_000)), least);
    }

    #[test]
    fn what_is_no_mark_stays() {
        let mut object = json!({"kind": "Secret", "data": {"a": mark("k", "v"), "b": "aHVudGVyMg==", "c": null}});
        assert!(may_be_marked(&object.to_string()));
        forget_marks(&mut object);
        assert_eq!(object, json!({"kind": "Secret", "data": {"a": TEXT, "b": "aHVudGVyMg==", "c": null}}));
        let mut none = json!({"kind": "Secret"});
        forget_marks(&mut none);
        assert_eq!(none, json!({"kind": "Secret"}));
    }
}
