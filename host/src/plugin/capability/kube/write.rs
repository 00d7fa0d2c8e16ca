//! Writing and deleting many objects at once. Each is decided on its own; one call is one line of the
//! audit log before, and one after.

use super::{GuestCluster, MAX_OBJECTS, Named, Open, too_many};
use crate::cluster::{Before, Change, Labels, Object, Seen, WriteMode, WriteOptions, Written};
use crate::error::{Error, Result};
use crate::plugin::bindings::strongroom::plugin::{kube, types};
use crate::plugin::guard::{Deadline, Guard, Refusal};
use crate::plugin::state::State;
use crate::policy::kube::{KubeCall, KubeVerb, TOKEN_SECRET};
use crate::policy::{Call, Policy};
use futures_util::StreamExt;
use std::sync::atomic::{AtomicUsize, Ordering};
use wasmtime::component::Resource;

/// Results of one call are not longer than so many times the limit `call_bytes`: the guest has to hold
/// them. What comes behind is not written.
const RESULTS_OF_CALL_BYTES: usize = 4;

/// Something that is to be done with one object.
pub(super) struct Deed<T> {
    pub(super) named: Named,
    /// Labels of the new object; none for one that is only named.
    labels: Option<Labels>,
    pub(super) what: T,
}

impl Deed<Object> {
    /// Writing this object.
    pub(super) fn write(object: Object) -> Self {
        let (group, _) = object.api_version().rsplit_once('/').unwrap_or(("", ""));
        let kind = if object.is_token() { TOKEN_SECRET.to_owned() } else { format!("{group}/{}", object.kind()) };
        let namespace = object.namespace().map(str::to_owned);
        let named = Named { kind, namespaced: namespace.is_some(), namespace, name: Some(object.name().to_owned()) };
        Self { named, labels: Some(object.labels()), what: object }
    }
}

/// Deeds that go on, and what became of the others, by their places.
type Sorted<T> = (Vec<(usize, Deed<T>)>, Vec<(usize, Refusal)>);

/// Lets go on what is granted. What is not is told once: a line of the audit log for all of them.
async fn sort<T>(
    guard: &Guard,
    function: &'static str,
    label: &str,
    verb: KubeVerb,
    deeds: Vec<(usize, Deed<T>)>,
) -> Sorted<T> {
    let policy = guard.policy();
    let allows = |deed: &Deed<T>| policy.kube_allows(label, verb, &deed.named.object(deed.labels.as_ref()));
    let (go_on, refused): (Vec<_>, Vec<_>) = deeds.into_iter().partition(|(_, deed)| allows(deed));
    let mut answers = Vec::new();
    if !refused.is_empty() {
        let objects: Vec<_> = refused.iter().map(|(_, deed)| deed.named.object(deed.labels.as_ref())).collect();
        let call = Call::Kube(KubeCall { cluster: label, verb: Some(verb), objects: &objects });
        let told = guard.pass(function, Some(&call), Deadline::Own, async { Ok(()) }).await;
        let mut told = told.err();
        for (place, _) in &refused {
            // The first has the operator's words; a guest is told the same of each.
            let one = told.take().unwrap_or_else(|| Refusal::Denied(Error::denied("it is not granted")));
            answers.push((*place, one));
        }
    }
    (go_on, answers)
}

/// Whether an object that is there may be touched: where labels decide, by its own.
fn may_touch(policy: &Policy, label: &str, verb: KubeVerb, named: &Named, labels: &Labels) -> bool {
    policy.kube_allows(label, verb, &named.object(Some(labels)))
}

impl State {
    pub(super) async fn apply_objects(
        &mut self,
        this: &Resource<GuestCluster>,
        objects: Vec<String>,
        options: kube::WriteOptions,
    ) -> Result<Vec<Result<kube::Written, types::Error>>, Refusal> {
        let open = self.kube(this)?;
        if objects.len() > MAX_OBJECTS {
            return Err(too_many("objects", objects.len()).into());
        }
        let n_objects = objects.len();
        let (mut deeds, mut answers) = (Vec::new(), Vec::new());
        for (place, text) in objects.into_iter().enumerate() {
            match Object::parse(text.as_bytes()) {
                Ok(object) => deeds.push((place, Deed::write(object))),
                Err(error) => answers.push((place, Err(error.into()))),
            }
        }
        let room = AtomicUsize::new(self.room());
        answers.extend(self.write_all(&open, "kube.cluster.apply", deeds, options, &room).await?);
        self.in_order(n_objects, answers)
    }

    /// Bytes that the results of one call may have.
    pub(super) fn room(&self) -> usize {
        self.run.limits.call_bytes.saturating_mul(RESULTS_OF_CALL_BYTES)
    }

    /// Writes what is granted of these; every one of them has an answer.
    pub(super) async fn write_all(
        &mut self,
        open: &Open,
        function: &'static str,
        deeds: Vec<(usize, Deed<Object>)>,
        options: kube::WriteOptions,
        room: &AtomicUsize,
    ) -> Result<Vec<(usize, Result<kube::Written, Refusal>)>, Refusal> {
        let guard = self.guard.clone();
        let verb = if options.dry_run { KubeVerb::DryRun } else { KubeVerb::Apply };
        let (go_on, refused) = Box::pin(sort(&guard, function, &open.label, verb, deeds)).await;
        let mut answers: Vec<_> = refused.into_iter().map(|(place, refusal)| (place, Err(refusal))).collect();
        if go_on.is_empty() {
            return Ok(answers);
        }
        let shown: Vec<_> = go_on.iter().map(|(_, deed)| (deed.named.clone(), deed.labels.clone())).collect();
        let objects: Vec<_> = shown.iter().map(|(named, labels)| named.object(labels.as_ref())).collect();
        let call = Call::Kube(KubeCall { cluster: &open.label, verb: Some(verb), objects: &objects });
        let work = async {
            let seen = match options.mode {
                kube::WriteMode::Merge if options.dry_run => {
                    Box::pin(Seen::read(&open.cluster, go_on.iter().map(|(_, deed)| &deed.what))).await
                }
                _ => Seen::default(),
            };
            let write = |(place, deed): (usize, Deed<Object>)| {
                let (guard, before) = (&guard, seen.before(&deed.what));
                async move {
                    let written = Box::pin(write_one(guard, open, verb, deed, before, options, room)).await;
                    (place, written)
                }
            };
            let done = futures_util::stream::iter(go_on).map(write).buffer_unordered(open.cluster.in_flight());
            let done: Vec<_> = done.collect().await;
            let bytes = |written: &kube::Written| written.object.len() + written.before.as_ref().map_or(0, String::len);
            guard.moved(done.iter().filter_map(|(_, written)| written.as_ref().ok()).map(bytes).sum());
            guard.failed(done.iter().filter(|(_, written)| written.is_err()).count());
            Ok(done)
        };
        // Each request has its own time.
        let done = if options.dry_run {
            guard.pass_on(&open.ledger, function, Some(&call), Deadline::Own, work).await?
        } else {
            guard.pass(function, Some(&call), Deadline::Own, work).await?
        };
        answers.extend(done.into_iter().map(|(place, written)| (place, written.map_err(Refusal::from))));
        Ok(answers)
    }

    /// One answer for each place, in order; those that are errors in the guest's terms.
    pub(super) fn in_order<T>(
        &mut self,
        n_places: usize,
        answers: Vec<(usize, Result<T, Refusal>)>,
    ) -> Result<Vec<Result<T, types::Error>>, Refusal> {
        let mut places: Vec<Option<Result<T, types::Error>>> = (0..n_places).map(|_| None).collect();
        for (place, answer) in answers {
            let answer = match answer {
                Ok(value) => Ok(value),
                Err(refusal) => Err(types::Host::convert_error(self, refusal).map_err(Refusal::End)?),
            };
            if let Some(at) = places.get_mut(place) {
                *at = Some(answer);
            }
        }
        let missing = || Err(types::Error::Failed("the host has no answer for it".to_owned()));
        Ok(places.into_iter().map(|place| place.unwrap_or_else(missing)).collect())
    }

    pub(super) async fn delete_objects(
        &mut self,
        this: &Resource<GuestCluster>,
        references: Vec<kube::Reference>,
    ) -> Result<Vec<Result<(), types::Error>>, Refusal> {
        let (guard, open) = (self.guard.clone(), self.kube(this)?);
        let n_references = references.len();
        if n_references > MAX_OBJECTS {
            return Err(too_many("references", n_references).into());
        }
        let (verb, function) = (KubeVerb::Delete, "kube.cluster.delete");
        let deed = |reference: kube::Reference| {
            let kube::Reference { kind, namespace, name } = reference;
            Deed { named: Named::of(&kind, namespace, Some(name.clone())), labels: None, what: (kind, name) }
        };
        let deeds = references.into_iter().map(deed).enumerate().collect();
        let (go_on, refused) = Box::pin(sort(&guard, function, &open.label, verb, deeds)).await;
        let mut answers: Vec<_> = refused.into_iter().map(|(place, refusal)| (place, Err(refusal))).collect();
        if !go_on.is_empty() {
            let shown: Vec<_> = go_on.iter().map(|(_, deed)| deed.named.clone()).collect();
            let objects: Vec<_> = shown.iter().map(|named| named.object(None)).collect();
            let call = Call::Kube(KubeCall { cluster: &open.label, verb: Some(verb), objects: &objects });
            let (guard, open) = (&guard, &open);
            let delete = |(place, deed): (usize, Deed<(kube::Kind, String)>)| async move {
                (place, Box::pin(delete_one(guard, open, deed)).await)
            };
            let work = async {
                let done = futures_util::stream::iter(go_on).map(delete).buffer_unordered(open.cluster.in_flight());
                let done: Vec<_> = done.collect().await;
                guard.failed(done.iter().filter(|(_, gone)| gone.is_err()).count());
                Ok(done)
            };
            let done = guard.pass(function, Some(&call), Deadline::Own, work).await?;
            answers.extend(done.into_iter().map(|(place, gone)| (place, gone.map_err(Refusal::from))));
        }
        self.in_order(n_references, answers)
    }
}

async fn write_one(
    guard: &Guard,
    open: &Open,
    verb: KubeVerb,
    deed: Deed<Object>,
    before: Before,
    options: kube::WriteOptions,
    room: &AtomicUsize,
) -> Result<kube::Written> {
    if room.load(Ordering::Relaxed) == 0 {
        return Err(Error::limit("the results of this call are too long: it was not written"));
    }
    let Deed { named, what: object, .. } = deed;
    let kind = Box::pin(open.cluster.resolve_object(object.api_version(), object.kind())).await?;
    let labels = object.labels();
    let secret_data = guard.policy().kube_shows_secret(&open.label, verb, &named.object(Some(&labels)));
    let options = WriteOptions {
        mode: match options.mode {
            kube::WriteMode::Create => WriteMode::Create,
            kube::WriteMode::Merge => WriteMode::Merge,
            kube::WriteMode::Replace => WriteMode::Replace,
        },
        dry_run: options.dry_run,
        force: options.force,
        status: options.status,
        secret_data,
    };
    let touch = |labels: &Labels| may_touch(guard.policy(), &open.label, verb, &named, labels);
    let Written { object, before, change } =
        Box::pin(open.cluster.write(&kind, object, before, options, &touch)).await?;
    let len = object.len() + before.as_ref().map_or(0, String::len);
    // A race over the last of it is none: what is counted is only what was made.
    let _ = room.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| Some(left.saturating_sub(len)));
    Ok(kube::Written {
        object,
        before,
        change: match change {
            Change::Created => kube::Change::Created,
            Change::Changed => kube::Change::Changed,
            Change::Unchanged => kube::Change::Unchanged,
        },
    })
}

async fn delete_one(guard: &Guard, open: &Open, deed: Deed<(kube::Kind, String)>) -> Result<()> {
    let Deed { named, what: (kind, name), .. } = deed;
    let kind = open.resolve(&kind).await?;
    let asks = guard.policy().kube_asks_for_labels(&open.label, KubeVerb::Delete, &named.object(None));
    let touch = |labels: &Labels| may_touch(guard.policy(), &open.label, KubeVerb::Delete, &named, labels);
    let touch: crate::cluster::MayTouch<'_> = &touch;
    Box::pin(open.cluster.delete(&kind, named.namespace.as_deref(), &name, asks.then_some(touch))).await
}
