//! Owners of objects: their references are rebuilt with the uids that the target gave them. Pure.

use crate::clean::{at_mut, remove, text};
use serde_json::Value;
use std::collections::HashMap;

/// A reference to an owner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct OwnerReference {
    pub(crate) group: String,
    pub(crate) kind: String,
    pub(crate) name: String,
    pub(crate) uid: String,
}

/// New uids by old ones, of what was restored. Some 100 bytes each.
#[derive(Debug, Default)]
pub(crate) struct Owners(HashMap<String, String>);

impl Owners {
    /// Notes what became of an object.
    pub(crate) fn restored(&mut self, old: &str, new: &str) {
        self.0.insert(old.to_owned(), new.to_owned());
    }

    /// The new uid of an owner.
    pub(crate) fn new_uid(&self, old: &str) -> Option<&str> {
        self.0.get(old).map(String::as_str)
    }

    /// The references of an object to owners whose new uid is not known.
    pub(crate) fn unknown(&self, object: &Value) -> Vec<OwnerReference> {
        references(object).into_iter().filter(|owner| self.new_uid(&owner.uid).is_none()).collect()
    }

    /// Puts new uids into the references of an object, and drops those that have none. Returns what was
    /// dropped: a reference to an owner that is not there would have the object deleted at once.
    pub(crate) fn rebuild(&self, object: &mut Value) -> Vec<OwnerReference> {
        let dropped = self.unknown(object);
        if let Some(list) = at_mut(object, &["metadata", "ownerReferences"]).and_then(Value::as_array_mut) {
            list.retain_mut(|owner| {
                let new = text(owner, &["uid"]).and_then(|old| self.new_uid(old)).map(str::to_owned);
                if let (Some(new), Some(owner)) = (&new, owner.as_object_mut()) {
                    owner.insert("uid".to_owned(), new.as_str().into());
                }
                new.is_some()
            });
            if list.is_empty() {
                remove(object, &["metadata", "ownerReferences"]);
            }
        }
        dropped
    }

    /// Old and new uids of the owners of an object that are known.
    pub(crate) fn pairs(&self, object: &Value) -> Vec<(String, String)> {
        let pair = |owner: OwnerReference| Some((owner.uid.clone(), self.new_uid(&owner.uid)?.to_owned()));
        references(object).into_iter().filter_map(pair).collect()
    }
}

/// The references to owners of an object.
pub(crate) fn references(object: &Value) -> Vec<OwnerReference> {
    let list = object.get("metadata").and_then(|metadata| metadata.get("ownerReferences")).and_then(Value::as_array);
    let reference = |owner: &Value| {
        let api_version = text(owner, &["apiVersion"])?;
        Some(OwnerReference {
            group: api_version.split_once('/').map_or("", |(group, _)| group).to_owned(),
            kind: text(owner, &["kind"])?.to_owned(),
            name: text(owner, &["name"])?.to_owned(),
            uid: text(owner, &["uid"])?.to_owned(),
        })
    };
    list.into_iter().flatten().filter_map(reference).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn owned(uids: &[&str]) -> Value {
        let owner = |uid: &&str| json!({"apiVersion": "apps/v1", "kind": "Deployment", "name": "web", "uid": uid, "controller": true});
        json!({"metadata": {"name": "x", "ownerReferences": uids.iter().map(owner).collect::<Vec<_>>()}})
    }

    #[test]
    fn references_get_new_uids_or_are_dropped() {
        let mut owners = Owners::default();
        owners.restored("old-1", "new-1");
        let mut object = owned(&["old-1", "old-2"]);
        assert_eq!(owners.pairs(&object), [("old-1".to_owned(), "new-1".to_owned())]);
        let dropped = owners.rebuild(&mut object);
        assert_eq!(object, owned(&["new-1"]));
        assert_eq!((dropped.len(), dropped[0].uid.as_str(), dropped[0].group.as_str()), (1, "old-2", "apps"));
        let mut orphan = owned(&["old-2"]);
        owners.rebuild(&mut orphan);
        assert_eq!(orphan, json!({"metadata": {"name": "x"}}));
        let mut free = json!({"metadata": {"name": "x"}});
        assert!(owners.rebuild(&mut free).is_empty() && references(&free).is_empty());
    }
}
