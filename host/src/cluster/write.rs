//! Writing objects: create, merge, replace, delete. What was there before is known for each, so that a
//! change is told from none.

use super::blot::LAST_APPLIED;
use super::failure::Doing;
use super::object::Object;
use super::owner::{self, MANAGER, Managers};
use super::request::{Ask, JSON};
use super::seen::Before;
use super::{Cluster, Kind, Labels, failure, path};
use crate::error::{Error, Result};
use http::{Method, StatusCode};
use serde_json::{Map, Value, json};

/// <https://kubernetes.io/docs/reference/using-api/server-side-apply/>
const APPLY: &str = "application/apply-patch+yaml";
const MERGE: &str = "application/merge-patch+json";

/// What the server changes of an object without anybody having changed it.
const BOOK_KEEPING: [&str; 3] = ["managedFields", "resourceVersion", "generation"];

/// A version that no object has: an object that is there conflicts with it, and one that is not is created.
const NO_VERSION: &str = "9223372036854775807";

/// How an object is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteMode {
    /// Only what is not there. The recorded managers stay the owners of its fields.
    Create,
    /// Server-side apply, as the manager `strongroom`.
    Merge,
    /// The whole object, at the version that was seen; created where it is not there.
    Replace,
}

/// How objects are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WriteOptions {
    /// See [`WriteMode`].
    pub mode: WriteMode,
    /// The server says what it would do, and does nothing.
    pub dry_run: bool,
    /// Fields of other managers are taken over.
    pub force: bool,
    /// The status is written instead of the object.
    pub status: bool,
    /// Whether the values of Secrets are shown in what comes back.
    pub secret_data: bool,
}

/// What became of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// It was not there.
    Created,
    /// It was there, and is another now.
    Changed,
    /// It was there, and is as it was.
    Unchanged,
}

/// An object that was written.
#[derive(Clone, Debug)]
pub struct Written {
    /// As the server now holds it, or in a dry run would.
    pub object: String,
    /// In a dry run: as it is, if it is there.
    pub before: Option<String>,
    /// What became of it.
    pub change: Change,
}

/// Whether an object that is there may be touched, by its labels.
pub type MayTouch<'a> = &'a (dyn Fn(&Labels) -> bool + Send + Sync);

impl Cluster {
    /// Writes one object. What a list showed of it saves a merge the question what is there.
    ///
    /// Errors: `Conflict` for one that exists (create), for fields of another manager (merge, which
    /// names manager and fields) and for one that has changed since it was seen (replace); `Denied`
    /// where `may_touch` says no or the server does; `Invalid` for what the server's rules, a webhook
    /// or an immutable field refuse.
    pub async fn write(
        &self,
        kind: &Kind,
        object: Object,
        before: Before,
        options: WriteOptions,
        may_touch: MayTouch<'_>,
    ) -> Result<Written> {
        let doing = match (options.dry_run, options.mode) {
            (true, _) => "try to write",
            (false, WriteMode::Create) => "create",
            (false, WriteMode::Merge) => "merge",
            (false, WriteMode::Replace) => "replace",
        };
        let doing = Doing::to(doing, kind, object.namespace(), Some(object.name()));
        if options.status && (options.mode == WriteMode::Create || !kind.has_status) {
            return Err(Error::invalid(format!("{self}: could not {doing}: it has no status that is written so")));
        }
        if object.is_blotted() {
            return Err(Error::invalid(format!("{self}: could not {doing}: its values were blotted out"))
                .hint("a Secret is stored and restored unseen: `body` and `apply-unseen`"));
        }
        if options.mode == WriteMode::Create {
            return Box::pin(self.create(kind, object, options, doing)).await;
        }
        let (namespace, name) = (object.namespace().map(str::to_owned), object.name().to_owned());
        let existing = || Box::pin(self.existing(kind, namespace.as_deref(), &name));
        let denied = Error::denied(format!("{self}: could not {doing}: the one that is there is not granted"));
        let granted = |before: Option<Object>| match before {
            Some(before) if !may_touch(&before.labels()) => None,
            before => Some(before),
        };
        let (before, is_listed) = match before {
            Before::Listed(before) if options.mode == WriteMode::Merge && options.dry_run => (before, true),
            _ => (existing().await?, false),
        };
        let Some(mut before) = granted(before) else { return Err(denied) };
        let after = match options.mode {
            WriteMode::Merge => Box::pin(self.merge(kind, object, options, doing)).await?,
            _ if before.is_none() => return Box::pin(self.create(kind, object, options, doing)).await,
            _ => Box::pin(self.replace(kind, object, before.as_ref(), options, doing)).await?,
        };
        // It may be another since it was listed. Nothing was written, so what is there now is what was tried on.
        let version = |object: &Object| object.metadata("resourceVersion").cloned();
        if is_listed && before.as_ref().and_then(version) != version(&after) {
            before = match granted(existing().await?) {
                Some(before) => before,
                None => return Err(denied),
            };
        }
        let change = match &before {
            None => Change::Created,
            Some(before) if is_same(&before.body, &after.body) => Change::Unchanged,
            Some(_) => Change::Changed,
        };
        let before = before.filter(|_| options.dry_run).map(|before| before.shown(options.secret_data));
        Ok(Written { object: after.shown(options.secret_data), before, change })
    }

    async fn create(&self, kind: &Kind, mut object: Object, options: WriteOptions, doing: Doing) -> Result<Written> {
        let target = path::collection(kind, object.namespace())?;
        // The path of the object itself is what refuses a name or namespace that is none.
        path::object(kind, object.namespace(), object.name())?;
        let (namespace, name) = (object.namespace().map(str::to_owned), object.name().to_owned());
        let managers = object.metadata_mut().map_or(Managers::Ours, |metadata| {
            ["uid", "resourceVersion"].iter().for_each(|key| drop(metadata.remove(*key)));
            owner::take(metadata)
        });
        let manager = match &managers {
            Managers::One(name) => name.as_str(),
            Managers::Ours | Managers::Applied(..) | Managers::Several(_) => MANAGER,
        };
        let applied = match &managers {
            // The server would write what is applied into this annotation.
            Managers::Applied(name, _) if !options.dry_run && !object.is_annotated(LAST_APPLIED) => {
                Box::pin(self.create_applied(kind, &mut object, name, &doing)).await?
            }
            _ => None,
        };
        let mut created = match applied {
            Some(created) => created,
            None => {
                let query =
                    path::query(&[("fieldManager", Some(manager)), ("dryRun", options.dry_run.then_some("All"))]);
                let body = Value::Object(object.body).to_string().into_bytes();
                let ask = Ask::send(Method::POST, format!("{target}{query}"), JSON, body, doing);
                self.object(&self.send_ok(&ask).await?)?
            }
        };
        if let Managers::Applied(_, recorded) | Managers::Several(recorded) = &managers
            && !options.dry_run
            && !owner::are_managers(created.metadata("managedFields"), recorded)
        {
            created = Box::pin(self.put_managers_back(kind, namespace.as_deref(), &name, created, recorded)).await?;
        }
        Ok(Written { object: created.shown(options.secret_data), before: None, change: Change::Created })
    }

    /// Creates an object by applying it as its only manager, which saves the request that gives it its fields
    /// back. An object that is there is never touched: it cannot have the version that this one asks for.
    /// `None` where the server does not take it so, and it is to be created in the ordinary way.
    async fn create_applied(
        &self,
        kind: &Kind,
        object: &mut Object,
        manager: &str,
        doing: &Doing,
    ) -> Result<Option<Object>> {
        let target = path::object(kind, object.namespace(), object.name())?;
        let set = |object: &mut Object, version: Option<&str>| {
            if let Some(metadata) = object.metadata_mut() {
                match version {
                    Some(version) => drop(metadata.insert("resourceVersion".to_owned(), version.into())),
                    None => drop(metadata.remove("resourceVersion")),
                }
            }
        };
        set(object, Some(NO_VERSION));
        let body = serde_json::to_vec(&object.body)
            .map_err(|error| Error::failed("the host could not write an object as JSON").because(error))?;
        set(object, None);
        let query = path::query(&[("fieldManager", Some(manager))]);
        let mut ask = Ask::send(Method::PATCH, format!("{target}{query}"), APPLY, body, doing.clone());
        // As little as creating: the second time it would be there.
        ask.repeatable = false;
        let answer = self.send(&ask).await?;
        if answer.status == StatusCode::CREATED {
            return self.object(&answer.body).map(Some);
        }
        let status = failure::Status::of(&answer);
        if answer.status == StatusCode::CONFLICT && status.is_about_one_that_exists(kind, object.name()) {
            return Err(failure::exists(self, doing));
        }
        Ok(None)
    }

    /// Gives the fields of an object just created to those that managed them. A controller may write it
    /// at the same moment: then it is looked at again.
    async fn put_managers_back(
        &self,
        kind: &Kind,
        namespace: Option<&str>,
        name: &str,
        mut created: Object,
        recorded: &[Value],
    ) -> Result<Object> {
        const ATTEMPTS: usize = 5;
        let doing = Doing::to("give back the managers of", kind, namespace, Some(name));
        let target = format!("{}?fieldManager={MANAGER}", path::object(kind, namespace, name)?);
        for attempt in 1.. {
            let Some(metadata) = created.body.get("metadata").and_then(Value::as_object) else { break };
            let patch = json!({"metadata": {
                "managedFields": owner::put_back(metadata, recorded),
                "resourceVersion": metadata.get("resourceVersion"),
            }});
            let ask = Ask::send(Method::PATCH, target.clone(), MERGE, patch.to_string().into_bytes(), doing.clone());
            let answer = self.send(&ask).await?;
            if answer.status.is_success() {
                return self.object(&answer.body);
            }
            if answer.status != StatusCode::CONFLICT || attempt == ATTEMPTS {
                return Err(failure::refused(self, &doing, &answer));
            }
            match Box::pin(self.existing(kind, namespace, name)).await? {
                Some(now) => created = now,
                // Somebody has deleted it again.
                None => break,
            }
        }
        Ok(created)
    }

    async fn merge(&self, kind: &Kind, mut object: Object, options: WriteOptions, doing: Doing) -> Result<Object> {
        let target = self.target(kind, &object, options.status)?;
        if let Some(metadata) = object.metadata_mut() {
            metadata.remove("managedFields");
            metadata.remove("resourceVersion");
            metadata.remove("uid");
        }
        let body = Value::Object(object.body).to_string().into_bytes();
        let ask = |force: bool| {
            let query = path::query(&[
                ("fieldManager", Some(MANAGER)),
                ("force", force.then_some("true")),
                ("dryRun", options.dry_run.then_some("All")),
            ]);
            Ask::send(Method::PATCH, format!("{target}{query}"), APPLY, body.clone(), doing.clone())
        };
        let mut answer = self.send(&ask(options.force)).await?;
        // What we created or replaced is ours in another way than what we merged: no conflict with anybody.
        if answer.status == StatusCode::CONFLICT && failure::Status::of(&answer).is_conflict_with(MANAGER) {
            answer = self.send(&ask(true)).await?;
        }
        if !answer.status.is_success() {
            return Err(failure::refused(self, &doing, &answer));
        }
        self.object(&answer.body)
    }

    async fn replace(
        &self,
        kind: &Kind,
        mut object: Object,
        before: Option<&Object>,
        options: WriteOptions,
        doing: Doing,
    ) -> Result<Object> {
        let target = self.target(kind, &object, options.status)?;
        if let Some(metadata) = object.metadata_mut() {
            metadata.remove("managedFields");
            metadata.remove("uid");
            if let Some(seen) = before.and_then(|before| before.metadata("resourceVersion"))
                && !metadata.contains_key("resourceVersion")
            {
                metadata.insert("resourceVersion".to_owned(), seen.clone());
            }
        }
        let query = path::query(&[("fieldManager", Some(MANAGER)), ("dryRun", options.dry_run.then_some("All"))]);
        let body = Value::Object(object.body).to_string().into_bytes();
        let answer = self.send_ok(&Ask::send(Method::PUT, format!("{target}{query}"), JSON, body, doing)).await?;
        self.object(&answer)
    }

    fn target(&self, kind: &Kind, object: &Object, status: bool) -> Result<String> {
        let path = path::object(kind, object.namespace(), object.name())?;
        Ok(if status { format!("{path}/status") } else { path })
    }

    fn object(&self, body: &[u8]) -> Result<Object> {
        match serde_json::from_slice(body) {
            Ok(Value::Object(body)) => Ok(Object { body }),
            Ok(_) => Err(Error::failed(format!("{self} answered with what is no object"))),
            Err(error) => Err(failure::not_json(self, &error)),
        }
    }

    /// Deletes one object; what depends on it follows in the background.
    ///
    /// Errors: `NotFound`; `Denied` where `may_touch` says no or the server does.
    pub async fn delete(
        &self,
        kind: &Kind,
        namespace: Option<&str>,
        name: &str,
        may_touch: Option<MayTouch<'_>>,
    ) -> Result<()> {
        let doing = Doing::to("delete", kind, namespace, Some(name));
        let target = path::object(kind, namespace, name)?;
        let mut options = json!({"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": "Background"});
        if let Some(may_touch) = may_touch {
            let absent = || Error::not_found(format!("{self}: could not {doing}: it is not there"));
            let existing = Box::pin(self.existing(kind, namespace, name)).await?.ok_or_else(absent)?;
            if !may_touch(&existing.labels()) {
                return Err(Error::denied(format!("{self}: could not {doing}: it is not granted")));
            }
            // Exactly this one, as it was looked at.
            let seen = |key: &str| existing.metadata(key).cloned().unwrap_or_default();
            options["preconditions"] = json!({"uid": seen("uid"), "resourceVersion": seen("resourceVersion")});
        }
        let body = options.to_string().into_bytes();
        self.send_ok(&Ask::send(Method::DELETE, target, JSON, body, doing)).await.map(drop)
    }
}

/// Whether nothing of an object was changed but what the server keeps of it for itself.
fn is_same(before: &Map<String, Value>, after: &Map<String, Value>) -> bool {
    const METADATA: &str = "metadata";
    let same = |one: &Map<String, Value>, other: &Map<String, Value>, left_out: &[&str]| {
        let rest = |map: &'_ Map<String, Value>| map.keys().filter(|key| !left_out.contains(&key.as_str())).count();
        rest(one) == rest(other)
            && one.iter().all(|(key, value)| left_out.contains(&key.as_str()) || other.get(key) == Some(value))
    };
    let metadata = match (before.get(METADATA), after.get(METADATA)) {
        (Some(Value::Object(before)), Some(Value::Object(after))) => same(before, after, &BOOK_KEEPING),
        (before, after) => before == after,
    };
    metadata && same(before, after, &[METADATA])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_server_keeps_for_itself_is_no_change() {
        let object = |version: &str, replicas: u32| {
            let value = json!({"metadata": {"name": "a", "resourceVersion": version, "generation": 1, "managedFields": [version]},
                "spec": {"replicas": replicas}});
            value.as_object().unwrap().clone()
        };
        assert!(is_same(&object("1", 2), &object("7", 2)));
        assert!(!is_same(&object("1", 2), &object("1", 3)));
        let (mut labelled, mut more) = (object("1", 2), object("1", 2));
        labelled["metadata"]["labels"] = json!({"a": "b"});
        more.insert("status".to_owned(), json!({}));
        for other in [labelled, more] {
            assert!(!is_same(&object("1", 2), &other) && !is_same(&other, &object("1", 2)));
            assert!(is_same(&other, &other));
        }
    }
}
