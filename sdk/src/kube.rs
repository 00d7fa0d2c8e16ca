//! Resources of clusters, by the operator's label. Objects travel as JSON text.
//!
//! A plugin sees neither addresses nor credentials, and the data of Secrets is blotted out of whatever
//! comes back: a Secret is stored through [`Listing::body`] and restored through
//! [`Cluster::apply_unseen`], without being seen.

use crate::bindings::strongroom::plugin::kube as wit;
use crate::bindings::strongroom::plugin::types;
use crate::bytes::Source;
use crate::{Error, Outcome, Result, Timestamp};
use std::fmt;
use std::time::Duration;

/// Objects that one page holds at most (`kube.wit`).
pub const MAX_PAGE_OBJECTS: usize = 500;

/// Objects that one call writes or deletes at most (`kube.wit`).
pub const MAX_WRITE_OBJECTS: usize = 1_000;

/// A kind of resource, at one version. `Display` is [`Kind::name`].
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Kind {
    /// Its group; empty for the core group.
    pub group: String,
    /// Its version within the group, such as `v1`.
    pub version: String,
    /// Its name, such as `Deployment`.
    pub kind: String,
    /// Its name in paths, such as `deployments`.
    pub plural: String,
    /// Whether its objects lie in namespaces.
    pub namespaced: bool,
    /// What the server lets be done with it, such as `list`.
    pub verbs: Vec<String>,
}

impl Kind {
    /// `group/Kind` as grants write it; `/Kind` for the core group.
    pub fn name(&self) -> String {
        format!("{}/{}", self.group, self.kind)
    }

    /// What objects of it say in `apiVersion`.
    pub fn api_version(&self) -> String {
        if self.group.is_empty() { self.version.clone() } else { format!("{}/{}", self.group, self.version) }
    }

    /// Whether the server lets this be done with it.
    pub fn offers(&self, verb: &str) -> bool {
        self.verbs.iter().any(|offered| offered == verb)
    }

    fn to_wit(&self) -> wit::Kind {
        let Self { group, version, kind, plural, namespaced, verbs } = self.clone();
        wit::Kind { group, version, kind, plural, namespaced, verbs }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.group, self.kind)
    }
}

impl From<wit::Kind> for Kind {
    fn from(kind: wit::Kind) -> Self {
        let wit::Kind { group, version, kind, plural, namespaced, verbs } = kind;
        Self { group, version, kind, plural, namespaced, verbs }
    }
}

/// What a cluster has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Discovery {
    /// Every kind once, at the version that the server prefers.
    pub kinds: Vec<Kind>,
    /// Group and version of each that did not answer, and why.
    pub failed: Vec<(String, String)>,
}

/// One object by its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reference {
    /// Its kind.
    pub kind: Kind,
    /// Its namespace; none for what lies in none.
    pub namespace: Option<String>,
    /// Its name.
    pub name: String,
}

impl Reference {
    /// The object of this kind and name.
    pub fn new(kind: &Kind, namespace: Option<&str>, name: impl Into<String>) -> Self {
        Self { kind: kind.clone(), namespace: namespace.map(str::to_owned), name: name.into() }
    }

    fn to_wit(&self) -> wit::Reference {
        wit::Reference { kind: self.kind.to_wit(), namespace: self.namespace.clone(), name: self.name.clone() }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.namespace {
            Some(namespace) => write!(f, "{} {namespace}/{}", self.kind, self.name),
            None => write!(f, "{} {}", self.kind, self.name),
        }
    }
}

/// A list that is about to be asked for.
#[derive(Debug)]
#[must_use = "nothing is asked for before it is started"]
pub struct List<'a> {
    cluster: &'a Cluster,
    selection: wit::Selection,
}

impl List<'_> {
    /// Only what lies in this namespace.
    pub fn namespace(mut self, namespace: impl Into<String>) -> Self {
        self.selection.namespace = Some(namespace.into());
        self
    }

    /// Only what these labels choose, such as `app=shop,tier!=test`.
    pub fn labels(mut self, selector: impl Into<String>) -> Self {
        self.selection.label_selector = Some(selector.into());
        self
    }

    /// Only what these fields choose, such as `metadata.name=shop`.
    pub fn fields(mut self, selector: impl Into<String>) -> Self {
        self.selection.field_selector = Some(selector.into());
        self
    }

    /// Asks for its first page, and waits for nothing.
    pub fn start(self) -> Result<Listing> {
        let what = format!("list {} in cluster \"{}\"", self.selection.kind.kind, self.cluster.label);
        let inner = self.cluster.inner.objects(&self.selection).map_err(|error| Error::from(error).context(&what))?;
        Ok(Listing { what, inner })
    }
}

/// A list in progress.
#[derive(Debug)]
pub struct Listing {
    what: String,
    inner: wit::Listing,
}

/// Some objects of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// Their JSON, at most [`MAX_PAGE_OBJECTS`].
    pub objects: Vec<String>,
    /// Whether the list expired and was begun anew behind the last object handed out: then it is not of
    /// one moment. Nothing is handed out twice.
    pub restarted: bool,
}

impl Listing {
    /// The next objects; none at the end.
    pub fn next_page(&mut self) -> Result<Option<Page>> {
        let page = self.inner.next_page().map_err(|error| Error::from(error).context(&self.what))?;
        Ok(page.map(|page| Page { objects: page.objects, restarted: page.restarted }))
    }

    /// The whole object at this place of the last page, as it was listed, to be stored unseen.
    pub fn body(&self, place: usize) -> Result<Source> {
        let place = u32::try_from(place).unwrap_or(u32::MAX);
        Ok(Source(self.inner.body(place).map_err(|error| Error::from(error).context(&self.what))?))
    }
}

/// What a write does with an object that is there already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// [`Error::Conflict`]; recorded managers stay the owners of the fields of what is created.
    Create,
    /// Server-side apply: fields of the object given win, others stay.
    Merge,
    /// The whole object, at the resource version that was seen.
    Replace,
}

/// How objects are written. Nothing is forced, and the object itself is meant, unless said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub struct Write {
    mode: Mode,
    dry_run: bool,
    force: bool,
    status: bool,
}

impl Write {
    /// Writes in this mode.
    pub fn new(mode: Mode) -> Self {
        Self { mode, dry_run: false, force: false, status: false }
    }

    /// The server only says what it would do.
    pub fn dry_run(mut self, dry_run: bool) -> Self {
        self.dry_run = dry_run;
        self
    }

    /// Takes over fields that another manager owns.
    pub fn force(mut self, force: bool) -> Self {
        self.force = force;
        self
    }

    /// Writes the status sub-resource instead of the object.
    pub fn status(mut self, status: bool) -> Self {
        self.status = status;
        self
    }

    fn to_wit(self) -> wit::WriteOptions {
        let Self { mode, dry_run, force, status } = self;
        let mode = match mode {
            Mode::Create => wit::WriteMode::Create,
            Mode::Merge => wit::WriteMode::Merge,
            Mode::Replace => wit::WriteMode::Replace,
        };
        wit::WriteOptions { mode, dry_run, force, status }
    }
}

/// What became of an object that was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// It was not there.
    Created,
    /// It was there and is another now.
    Changed,
    /// It was there as it is.
    Unchanged,
}

/// An object that was written, or in a dry run would be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    /// Its JSON as the server now holds it, without its managed fields.
    pub object: String,
    /// In a dry run: its JSON as it is, where it is there.
    pub before: Option<String>,
    /// What became of it.
    pub change: Change,
}

impl From<wit::Written> for Written {
    fn from(written: wit::Written) -> Self {
        let change = match written.change {
            wit::Change::Created => Change::Created,
            wit::Change::Changed => Change::Changed,
            wit::Change::Unchanged => Change::Unchanged,
        };
        Self { object: written.object, before: written.before, change }
    }
}

/// A stored object that is restored without being seen.
#[derive(Debug)]
pub struct Unseen {
    /// The stored object.
    pub body: Source,
    /// The namespace to put it into, instead of its own.
    pub namespace: Option<String>,
    /// Old and new uid of owners; a reference to any other is dropped.
    pub owners: Vec<(String, String)>,
}

/// Whether something may be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// What, such as `list`.
    pub verb: String,
    /// With which kind.
    pub kind: Kind,
    /// Where; none is everywhere.
    pub namespace: Option<String>,
    /// Asked as who restores, where the operator gives a restore an identity of its own; else as whoever
    /// this run is.
    pub restores: bool,
}

/// A cluster that is granted.
#[derive(Debug)]
pub struct Cluster {
    label: String,
    inner: wit::Cluster,
}

/// Opens the cluster that the operator calls `label`.
pub fn open(label: impl Into<String>) -> Result<Cluster> {
    let label = label.into();
    let inner =
        wit::open(&label).map_err(|error| Error::from(error).context(format_args!("open cluster \"{label}\"")))?;
    Ok(Cluster { label, inner })
}

/// What has its answer, by its place in the list that it was given in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ready {
    /// [`Cluster::kinds`] answers at once.
    Cluster(usize),
    /// [`Listing::next_page`] answers at once.
    Listing(usize),
}

/// Waits for whichever has its answer first, be it an error, so that nothing that is slow holds up the rest.
/// All of them are asked at the same time.
pub fn first_ready(clusters: &[&Cluster], listings: &[&Listing]) -> Result<Ready> {
    let clusters: Vec<&wit::Cluster> = clusters.iter().map(|cluster| &cluster.inner).collect();
    let listings: Vec<&wit::Listing> = listings.iter().map(|listing| &listing.inner).collect();
    let place = |place: u32| usize::try_from(place).unwrap_or(usize::MAX);
    match wit::first_ready(&clusters, &listings) {
        Ok(wit::Ready::Cluster(at)) => Ok(Ready::Cluster(place(at))),
        Ok(wit::Ready::Listing(at)) => Ok(Ready::Listing(place(at))),
        Err(error) => Err(Error::from(error).context("wait for clusters")),
    }
}

impl Cluster {
    /// The operator's name for it.
    pub fn label(&self) -> &str {
        &self.label
    }

    /// The version of its API server, such as `v1.36.3`.
    pub fn version(&self) -> Result<String> {
        self.inner.version().map_err(|error| self.error(error, "ask for its version"))
    }

    /// What kinds it has.
    pub fn kinds(&self) -> Result<Discovery> {
        let found = self.inner.kinds().map_err(|error| self.error(error, "ask for its kinds"))?;
        Ok(Discovery { kinds: found.kinds.into_iter().map(Kind::from).collect(), failed: found.failed })
    }

    /// Objects of a kind, page by page.
    pub fn list(&self, kind: &Kind) -> List<'_> {
        let selection =
            wit::Selection { kind: kind.to_wit(), namespace: None, label_selector: None, field_selector: None };
        List { cluster: self, selection }
    }

    /// The JSON of one object.
    pub fn get(&self, reference: &Reference) -> Result<String> {
        self.inner.get(&reference.to_wit()).map_err(|error| self.error(error, format_args!("get {reference}")))
    }

    /// One object, to be stored unseen.
    pub fn body(&self, reference: &Reference) -> Result<Source> {
        let body = self.inner.body(&reference.to_wit());
        Ok(Source(body.map_err(|error| self.error(error, format_args!("get {reference}")))?))
    }

    /// Writes many objects at once. One result for each, in the order given.
    pub fn apply(&self, objects: &[String], write: Write) -> Result<Vec<Result<Written>>> {
        let written = self.inner.apply(objects, write.to_wit()).map_err(|error| self.error(error, "write objects"))?;
        each(written, objects.len())
    }

    /// The same for stored objects that stay unseen.
    pub fn apply_unseen(&self, objects: Vec<Unseen>, write: Write) -> Result<Vec<Result<Written>>> {
        let expected = objects.len();
        let objects = objects.into_iter().map(|Unseen { body, namespace, owners }| wit::Unseen {
            body: body.0,
            namespace,
            owners,
        });
        let written = self.inner.apply_unseen(objects.collect(), write.to_wit());
        each(written.map_err(|error| self.error(error, "write stored objects"))?, expected)
    }

    /// Deletes objects. One result for each, in the order given.
    pub fn delete(&self, references: &[Reference]) -> Result<Vec<Result<()>>> {
        let references: Vec<wit::Reference> = references.iter().map(Reference::to_wit).collect();
        let deleted = self.inner.delete(&references).map_err(|error| self.error(error, "delete objects"))?;
        Ok(deleted.into_iter().map(|one| one.map_err(Error::from)).collect())
    }

    /// Waits until a status condition has this value, such as `Established` `True`.
    pub fn wait(&self, reference: &Reference, condition: &str, value: &str, timeout: Duration) -> Result<()> {
        let timeout_ms = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
        self.inner
            .wait(&reference.to_wit(), condition, value, timeout_ms)
            .map_err(|error| self.error(error, format_args!("wait for {condition} of {reference}")))
    }

    /// The log of a container, at most its last lines.
    pub fn logs(&self, namespace: &str, pod: &str, container: Option<&str>, tail_lines: Option<u32>) -> Result<Source> {
        let log = self.inner.logs(namespace, pod, container, tail_lines);
        Ok(Source(log.map_err(|error| self.error(error, format_args!("read the log of pod {namespace}/{pod}")))?))
    }

    /// Whether the host's own identity may do this; one answer for each question.
    pub fn can_i(&self, questions: &[Question]) -> Result<Vec<bool>> {
        let asked: Vec<wit::Question> = questions
            .iter()
            .map(|Question { verb, kind, namespace, restores }| wit::Question {
                verb: verb.clone(),
                kind: kind.to_wit(),
                namespace: namespace.clone(),
                restores: *restores,
            })
            .collect();
        self.inner.can_i(&asked).map_err(|error| self.error(error, "ask what may be done"))
    }

    fn error(&self, error: impl Into<Error>, what: impl fmt::Display) -> Error {
        error.into().context(format_args!("{what} in cluster \"{}\"", self.label))
    }
}

/// The results of a call that answers for each object; the host owes as many as it was given.
fn each(
    written: Vec<std::result::Result<wit::Written, types::Error>>,
    expected: usize,
) -> Result<Vec<Result<Written>>> {
    if written.len() != expected {
        return Err(Error::failed("the host answered for another number of objects than it was given"));
    }
    Ok(written.into_iter().map(|one| one.map(Written::from).map_err(Error::from)).collect())
}

/// One step on the way to a cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProbeStep {
    /// `dns`, `tcp`, `tls`, `authentication` or `health`.
    pub step: String,
    /// What came of it; skipped behind one that failed.
    pub outcome: Outcome,
    /// What was seen.
    pub evidence: String,
    /// How long it took.
    pub took: Duration,
}

/// How the host reaches a cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Health {
    /// The steps in their order.
    pub steps: Vec<ProbeStep>,
    /// End of the server's certificate, where it says.
    pub certificate_ends: Option<Timestamp>,
    /// End of the host's token or certificate, where it says.
    pub credential_ends: Option<Timestamp>,
}

/// Tries the way to a cluster. One that does not answer is no error here.
pub fn probe(label: &str) -> Result<Health> {
    let health =
        wit::probe(label).map_err(|error| Error::from(error).context(format_args!("probe cluster \"{label}\"")))?;
    let step = |step: wit::ProbeStep| ProbeStep {
        step: step.step,
        outcome: match step.outcome {
            types::Outcome::Passed => Outcome::Passed,
            types::Outcome::Warned => Outcome::Warned,
            types::Outcome::Failed => Outcome::Failed,
            types::Outcome::Skipped => Outcome::Skipped,
        },
        evidence: step.evidence,
        took: Duration::from_millis(step.took_ms),
    };
    Ok(Health {
        steps: health.steps.into_iter().map(step).collect(),
        certificate_ends: health.certificate_ends_ms.map(|ms| Timestamp { ms }),
        credential_ends: health.credential_ends_ms.map(|ms| Timestamp { ms }),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(group: &str, version: &str, kind: &str) -> Kind {
        let (group, version, kind) = (group.into(), version.into(), kind.into());
        Kind { group, version, kind, plural: "x".into(), namespaced: true, verbs: vec!["list".into()] }
    }

    #[test]
    fn a_kind_is_named_as_in_grants_and_as_in_objects() {
        for (group, version, name, api_version) in [
            ("", "v1", "/Pod", "v1"),
            ("apps", "v1", "apps/Pod", "apps/v1"),
            ("a.b", "v2beta1", "a.b/Pod", "a.b/v2beta1"),
        ] {
            let kind = kind(group, version, "Pod");
            assert_eq!((kind.name().as_str(), kind.api_version().as_str()), (name, api_version));
            assert_eq!(kind.to_string(), name);
        }
        assert!(kind("", "v1", "Pod").offers("list") && !kind("", "v1", "Pod").offers("watch"));
    }

    #[test]
    fn a_reference_names_its_namespace() {
        let pod = kind("", "v1", "Pod");
        assert_eq!(Reference::new(&pod, Some("shop"), "web").to_string(), "/Pod shop/web");
        assert_eq!(Reference::new(&pod, None, "web").to_string(), "/Pod web");
    }

    #[test]
    fn results_that_are_not_one_for_each_are_refused() {
        assert!(each(Vec::new(), 1).is_err());
        assert_eq!(each(Vec::new(), 0), Ok(Vec::new()));
    }
}
