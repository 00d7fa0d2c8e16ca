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

/// Longest text of a Secret that is kept as it is: the attributes of an entry have at most 512 KiB.
const KEPT_BYTES: usize = 480 << 10;

/// What stands for the keys of a Secret that has too many of them.
const MANY: &str = "(too many keys to list)";

/// The text of a Secret as it is kept beside its sealed body: without marks where it has some thousand keys,
/// and without the keys where it has more. The body has all of them.
pub(crate) fn to_keep(json: &str) -> String {
    let mut kept = json.to_owned();
    if kept.len() > KEPT_BYTES
        && let Ok(mut object) = serde_json::from_str(json)
    {
        forget_marks(&mut object);
        kept = object.to_string();
        if kept.len() > KEPT_BYTES
            && let Some(data) = data_mut(&mut object)
        {
            data.clear();
            data.insert(MANY.to_owned(), TEXT.into());
            kept = object.to_string();
        }
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
#[derive(Debug, Default, PartialEq, Eq)]
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
    }

    #[test]
    fn a_secret_of_many_keys_is_kept_without_marks_and_one_of_more_without_keys() {
        let of = |n: usize| {
            let data: Map<String, Value> = (0..n).map(|n| (format!("k{n}"), mark("k", "v").into())).collect();
            json!({"kind": "Secret", "data": data}).to_string()
        };
        assert_eq!(to_keep(&of(100)), of(100));
        let kept = to_keep(&of(7_000));
        assert!(!may_be_marked(&kept) && kept.len() < KEPT_BYTES && kept.contains("k6999"), "{}", kept.len());
        let kept = to_keep(&of(20_000));
        assert_eq!(kept, json!({"kind": "Secret", "data": {MANY: TEXT}}).to_string());
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
