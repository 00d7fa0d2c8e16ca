//! The objects: config maps and objects of a kind that is defined in the cluster, in turn, each of 2 KB as it is sent.
//! They are made from their number, so that whoever writes one writes the same.

use serde_json::{Map, Value, json};
use std::ops::Range;

/// Bytes of an object as it is sent, without what the server adds.
const OBJECT_BYTES: usize = 2_000;
/// Objects of one namespace, of both kinds together.
const NAMESPACE_OBJECTS: u64 = 500;
/// Fields that carry text.
const FIELDS: u64 = 14;
/// The field that fills an object up.
const FILLER: &str = "note";
/// Where each kind lies.
pub(crate) const COLLECTIONS: [&str; 2] = ["/api/v1/configmaps", "/apis/bench.example.org/v1/widgets"];

/// An object and where it lies.
pub(crate) struct Object {
    pub(crate) path: String,
    pub(crate) json: Value,
}

/// The namespaces of so many objects.
pub(crate) fn namespaces(objects: u64) -> impl Iterator<Item = String> {
    (0..objects.div_ceil(NAMESPACE_OBJECTS)).map(name_of_namespace)
}

fn name_of_namespace(n: u64) -> String {
    format!("bench-{n:03}")
}

/// The definition of the second kind.
pub(crate) fn definition() -> Value {
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "widgets.bench.example.org"},
        "spec": {
            "group": "bench.example.org", "scope": "Namespaced",
            "names": {"kind": "Widget", "plural": "widgets", "singular": "widget"},
            "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {
                "type": "object",
                "properties": {"spec": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}},
            }}}],
        },
    })
}

/// Object number `n`. One field of it says the variant.
pub(crate) fn object(n: u64, variant: u64) -> Object {
    let namespace = name_of_namespace(n / NAMESPACE_OBJECTS);
    let name = format!("object-{n:06}");
    let metadata = json!({
        "name": name, "namespace": namespace,
        "labels": {"app.kubernetes.io/name": format!("app-{}", n % 7), "app.kubernetes.io/part-of": "bench"},
        "annotations": {"bench.example.org/owner": format!("team-{}", n % 11)},
    });
    let mut random = n;
    let mut fields: Map<String, Value> =
        (0..FIELDS).map(|field| (format!("setting-{field:02}"), text(&mut random).into())).collect();
    fields.insert("variant".to_owned(), variant.to_string().into());
    fields.insert(FILLER.to_owned(), "".into());
    let is_map = n.is_multiple_of(2);
    let (version, kind, holder) =
        if is_map { ("v1", "ConfigMap", "data") } else { ("bench.example.org/v1", "Widget", "spec") };
    let mut json = json!({"apiVersion": version, "kind": kind, "metadata": metadata, holder: fields});
    let missing = OBJECT_BYTES.saturating_sub(json.to_string().len());
    json[holder][FILLER] = "n".repeat(missing).into();
    let path = if is_map {
        format!("/api/v1/namespaces/{namespace}/configmaps/{name}")
    } else {
        format!("/apis/bench.example.org/v1/namespaces/{namespace}/widgets/{name}")
    };
    Object { path, json }
}

/// A line that shrinks as configuration does: words, and a number that no other line has.
fn text(random: &mut u64) -> String {
    const WORDS: [&str; 8] = ["timeout", "replica", "endpoint", "https", "retry", "secure", "region", "cache"];
    *random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    let word = |shift: u32| WORDS[usize::try_from((*random >> shift) & 7).unwrap_or(0)];
    format!("{}.{}={:016x} {} {} {} every day and night", word(60), word(57), random, word(54), word(51), word(48))
}

/// Objects as a file for kubectl.
pub(crate) fn list(range: Range<u64>, variant: u64) -> String {
    let items: Vec<Value> = range.map(|n| object(n, variant).json).collect();
    json!({"apiVersion": "v1", "kind": "List", "items": items}).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_is_made_from_its_number_and_has_two_thousand_bytes() {
        for n in [0, 1, 499, 500, 199_999] {
            let one = object(n, 0);
            assert_eq!(one.json.to_string().len(), OBJECT_BYTES, "{n}");
            assert_eq!(one.json, object(n, 0).json);
            assert_ne!(one.json, object(n, 1).json);
        }
        assert!(object(500, 0).path.contains("/bench-001/configmaps/object-000500"));
        assert_eq!(namespaces(501).collect::<Vec<_>>(), ["bench-000", "bench-001"]);
    }
}
