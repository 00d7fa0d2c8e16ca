//! One object: what it is, what of it is nobody's business, and what of it only the server that it
//! came from could know.

use super::Cluster;
use super::blot::{self, Values};
use super::failure::{self, Doing};
use super::path;
use super::request::Ask;
use super::{Kind, owner};
use crate::error::{Error, Result};
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// Longest object that is taken: more than the server itself takes (3 MiB of a request,
/// `MaxRequestBodyBytes` of the API server), so that the server's own words are heard.
pub const MAX_OBJECT_BYTES: usize = 4 << 20;

/// What only the server that an object came from could know, in its metadata.
const OF_ITS_SERVER: [&str; 7] = [
    "uid",
    "resourceVersion",
    "generation",
    "creationTimestamp",
    "selfLink",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
];

/// Types of Secrets that are credentials of the cluster itself: whoever writes one gets a token.
const TOKENS: [&str; 2] = ["kubernetes.io/service-account-token", "bootstrap.kubernetes.io/token"];

/// Labels of an object.
pub type Labels = BTreeMap<String, String>;

/// Whether objects of this kind are Secrets.
pub fn is_secret(group: &str, kind: &str) -> bool {
    group.is_empty() && kind == "Secret"
}

/// Where a stored object is to lie, and whose it is there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Moved {
    /// Instead of its own namespace.
    pub namespace: Option<String>,
    /// Old and new uid of owners; a reference to any other is dropped.
    pub owners: BTreeMap<String, String>,
}

/// An object, decoded: what is judged is what is sent.
#[derive(Clone, Debug)]
pub struct Object {
    pub(super) body: Map<String, Value>,
}

impl Object {
    /// Decodes one. An error says nothing of what is in it.
    ///
    /// Errors: `Invalid`, `Limit`.
    pub fn parse(text: &[u8]) -> Result<Self> {
        if text.len() > MAX_OBJECT_BYTES {
            return Err(Error::limit("the object is longer than any server takes")
                .fact("expected", format!("at most {}", crate::unit::bytes(MAX_OBJECT_BYTES as u64)))
                .fact("got", crate::unit::bytes(text.len() as u64)));
        }
        let body: Value = serde_json::from_slice(text).map_err(|error| {
            Error::invalid("the object is not JSON")
                .fact("at", format!("line {}, column {}", error.line(), error.column()))
        })?;
        let Value::Object(body) = body else {
            return Err(Error::invalid("the object is a JSON value of another sort"));
        };
        let object = Self { body };
        for (what, text) in
            [("apiVersion", object.api_version()), ("kind", object.kind()), ("metadata.name", object.name())]
        {
            if text.is_empty() {
                return Err(Error::invalid(format!("the object has no {what}")));
            }
        }
        let bad = |key: &str| object.metadata(key).is_some_and(|value| !value.is_string());
        if ["namespace", "uid", "resourceVersion"].into_iter().any(bad) {
            return Err(Error::invalid("the object's metadata is not as it must be"));
        }
        Ok(object)
    }

    fn text(&self, key: &str) -> &str {
        self.body.get(key).and_then(Value::as_str).unwrap_or_default()
    }

    pub(super) fn metadata(&self, key: &str) -> Option<&Value> {
        self.body.get("metadata")?.get(key).filter(|value| !value.is_null())
    }

    /// Whether it has this annotation.
    pub(super) fn is_annotated(&self, name: &str) -> bool {
        self.metadata("annotations").is_some_and(|annotations| annotations.get(name).is_some())
    }

    pub(super) fn metadata_mut(&mut self) -> Option<&mut Map<String, Value>> {
        self.body.get_mut("metadata")?.as_object_mut()
    }

    /// Its `apiVersion`.
    pub fn api_version(&self) -> &str {
        self.text("apiVersion")
    }

    /// Its `kind`.
    pub fn kind(&self) -> &str {
        self.text("kind")
    }

    /// Its name.
    pub fn name(&self) -> &str {
        self.metadata("name").and_then(Value::as_str).unwrap_or_default()
    }

    /// Its namespace, if it says one.
    pub fn namespace(&self) -> Option<&str> {
        self.metadata("namespace").and_then(Value::as_str).filter(|namespace| !namespace.is_empty())
    }

    /// Its labels.
    pub fn labels(&self) -> Labels {
        let labels = self.metadata("labels").and_then(Value::as_object);
        let text = |(key, value): (&String, &Value)| Some((key.clone(), value.as_str()?.to_owned()));
        labels.into_iter().flatten().filter_map(text).collect()
    }

    /// Whether it is a Secret that is a credential of the cluster itself.
    pub fn is_token(&self) -> bool {
        // Whatever it says its group is: servers take "/v1" for "v1".
        self.kind() == "Secret" && TOKENS.contains(&self.text("type"))
    }

    /// Whether values of it were blotted out: written so, a Secret would be lost.
    pub fn is_blotted(&self) -> bool {
        self.kind() == "Secret" && blot::is_blotted(&self.body)
    }

    /// Makes an object that was stored one that can be written: what only its old server could know is
    /// dropped, and it lies where it is to lie. The managers of its fields stay, for `create`.
    pub fn prepare(&mut self, moved: &Moved, keep_status: bool) {
        if !keep_status {
            self.body.remove("status");
        }
        let Some(metadata) = self.metadata_mut() else { return };
        OF_ITS_SERVER.iter().for_each(|key| drop(metadata.remove(*key)));
        if let Some(namespace) =
            moved.namespace.as_ref().filter(|_| metadata.get("namespace").is_some_and(Value::is_string))
        {
            metadata.insert("namespace".to_owned(), namespace.clone().into());
        }
        owner::rebuild(metadata, &moved.owners);
    }

    /// Forgets who managed its fields, for modes in which the server knows better.
    pub fn forget_managers(&mut self) {
        if let Some(metadata) = self.metadata_mut() {
            metadata.remove("managedFields");
        }
    }

    /// The text of it, without a Secret's values unless they are granted, and without the managers of
    /// its fields, which are half of many an object.
    pub(super) fn shown(mut self, secret_data: bool) -> String {
        if let Some(metadata) = self.metadata_mut() {
            metadata.remove("managedFields");
        }
        if !secret_data && self.kind() == "Secret" {
            // What comes back from a write has no marks: see `blot`.
            blot::blot(&mut self.body, None);
        }
        Value::Object(self.body).to_string()
    }
}

impl Cluster {
    /// One object as the server gives it, whole.
    ///
    /// Errors: `NotFound`, and those of the server.
    pub async fn whole(&self, kind: &Kind, namespace: Option<&str>, name: &str) -> Result<bytes::Bytes> {
        let doing = Doing::to("get", kind, namespace, Some(name));
        self.send_ok(&Ask::get(path::object(kind, namespace, name)?, doing)).await
    }

    /// One object as text, a Secret with its values as `values` says; and its labels.
    pub async fn get(
        &self,
        kind: &Kind,
        namespace: Option<&str>,
        name: &str,
        values: Values<'_>,
    ) -> Result<(String, Labels)> {
        let body = self.whole(kind, namespace, name).await?;
        let text =
            std::str::from_utf8(&body).map_err(|_| Error::failed(format!("{self} answered with what is not text")))?;
        let labels = if text.contains("\"labels\"") { labels_of(text) } else { Labels::new() };
        if let Values::Blotted(marks) = values
            && is_secret(&kind.group, &kind.kind)
        {
            return Ok((blot::blotted(text, marks)?, labels));
        }
        Ok((text.trim_end().to_owned(), labels))
    }

    /// The object that is there now, decoded; `None` when there is none.
    pub(super) async fn existing(&self, kind: &Kind, namespace: Option<&str>, name: &str) -> Result<Option<Object>> {
        match self.whole(kind, namespace, name).await {
            Ok(body) => match serde_json::from_slice(&body) {
                Ok(Value::Object(body)) => Ok(Some(Object { body })),
                Ok(_) => Err(Error::failed(format!("{self} answered with what is no object"))),
                Err(error) => Err(failure::not_json(self, &error)),
            },
            Err(error) if super::request::is_absent(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// Labels in the body of an object; none where they cannot be read.
pub fn labels_in(body: &[u8]) -> Labels {
    std::str::from_utf8(body).map(labels_of).unwrap_or_default()
}

/// Labels in the text of an object.
pub(super) fn labels_of(text: &str) -> Labels {
    #[derive(serde::Deserialize)]
    struct Only {
        metadata: Metadata,
    }
    #[derive(serde::Deserialize)]
    struct Metadata {
        labels: Option<Labels>,
    }
    serde_json::from_str::<Only>(text).ok().and_then(|only| only.metadata.labels).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::super::blot::{LAST_APPLIED, blotted};
    use super::*;
    use serde_json::json;

    fn object(value: &Value) -> Object {
        Object::parse(value.to_string().as_bytes()).unwrap()
    }

    #[test]
    fn what_a_secret_holds_is_blotted_out_and_its_keys_stay() {
        let secret = json!({"apiVersion": "v1", "kind": "Secret", "type": "Opaque",
            "data": {"password": "aHVudGVyMg=="}, "stringData": {"other": "hunter2"},
            "metadata": {"name": "db", "annotations": {"a": "b", LAST_APPLIED: "{\"data\":{\"password\":\"aHVudGVyMg==\"}}"}}});
        for text in [object(&secret).shown(false), blotted(&secret.to_string(), None).unwrap()] {
            assert!(!text.contains("aHVudGVyMg") && !text.contains("hunter2"), "{text}");
            assert!(text.contains("password") && text.contains("other") && text.contains("\"a\":\"b\""), "{text}");
            assert!(Object::parse(text.as_bytes()).unwrap().is_blotted());
        }
        assert!(object(&secret).shown(true).contains("aHVudGVyMg=="));
        assert!(!object(&secret).is_blotted());
        // Data of a shape that no server gives is not shown either.
        let odd = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "x"}, "data": ["aHVudGVyMg=="]});
        assert!(!object(&odd).shown(false).contains("aHVudGVyMg"));
        assert!(blotted("[]", None).is_err());
    }

    #[test]
    fn what_stands_twice_is_judged_as_it_is_sent() {
        let twice = r#"{"apiVersion":"v1","kind":"ConfigMap","kind":"Secret","metadata":{"name":"x","name":"y"}}"#;
        let object = Object::parse(twice.as_bytes()).unwrap();
        let sent = Value::Object(object.body.clone()).to_string();
        assert_eq!((object.kind(), object.name()), ("Secret", "y"));
        assert!(!sent.contains("ConfigMap"));
    }

    #[test]
    fn a_stored_object_loses_what_its_server_knew() {
        let mut stored = object(&json!({"apiVersion": "v1", "kind": "Pod", "status": {"x": 1}, "metadata": {
            "name": "a", "namespace": "old", "uid": "1", "resourceVersion": "2", "creationTimestamp": "t",
            "generation": 3, "deletionTimestamp": "t", "selfLink": "s", "labels": {"app": "x"}, "managedFields": [{}],
            "ownerReferences": [{"uid": "o1", "name": "kept"}, {"uid": "o2", "name": "gone"}],
        }}));
        let moved = Moved { namespace: Some("new".to_owned()), owners: [("o1".to_owned(), "n1".to_owned())].into() };
        stored.prepare(&moved, false);
        assert_eq!(
            Value::Object(stored.body),
            json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a", "namespace": "new",
                "labels": {"app": "x"}, "managedFields": [{}], "ownerReferences": [{"uid": "n1", "name": "kept"}]}})
        );
        let mut cluster_wide = object(&json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "a"}}));
        cluster_wide.prepare(&moved, false);
        assert_eq!(cluster_wide.namespace(), None, "what lies in no namespace is not put into one");
    }

    #[test]
    fn what_is_no_object_says_nothing_of_itself() {
        for text in
            ["", "[]", "{}", "\"hunter2\"", r#"{"apiVersion":"v1","kind":"Secret","metadata":{"name":7}}"#, "{hunter2"]
        {
            let error = Object::parse(text.as_bytes()).unwrap_err();
            assert!(!format!("{error:?}").contains("hunter2"), "{error:?}");
        }
        assert!(Object::parse(&vec![b' '; MAX_OBJECT_BYTES + 1]).is_err());
        for version in ["v1", "/v1"] {
            let token = json!({"apiVersion": version, "kind": "Secret", "metadata": {"name": "t"}, "type": TOKENS[0]});
            assert!(object(&token).is_token(), "{version}");
        }
    }
}
