//! Comparing a backup with another one, or with the clusters as they are: what was added, removed and
//! changed, per object and field. Changes nothing.
//!
//! Both sides come in the order in which a cluster lists, so that few objects wait for their counterpart.
//! Where the orders differ, more of them do; nothing is lost.

use crate::clean::text;
use crate::difference::{differences, show};
use crate::head::Head;
use crate::inventory::{Archive, Inventory};
use crate::kind::{self, is, is_secret};
use crate::policy::{Policy, Verdict};
use crate::recorded;
use crate::restore::served::{Served, group, served};
use crate::restore::{chosen, target};
use crate::rules;
use crate::secret;
use crate::selection::Selection;
use crate::settings::{Options, Settings};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::{BTreeMap, HashMap, HashSet};
use strongroom_plugin::bytes::Source;
use strongroom_plugin::kube::{Cluster, Kind, Listing};
use strongroom_plugin::prelude::*;

/// Objects that are named one by one; the host keeps 20,000 steps.
const MAX_NAMED: u64 = 12_000;

/// What an object means, on one side of a comparison. Of Secrets with marks in the place of their values.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Seen {
    key: String,
    /// Of Secrets: who it is, and when it was last written, for those whose values have no marks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    uid: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    version: Option<String>,
    object: String,
}

impl Seen {
    /// What is meant by an object.
    pub(crate) fn new(kind: &Kind, mut object: Value) -> Self {
        let of = |object: &Value, field: &str| {
            text(object, &["metadata", field]).filter(|_| is_secret(kind)).map(str::to_owned)
        };
        let (uid, version) = (of(&object, "uid"), of(&object, "resourceVersion"));
        let namespace = text(&object, &["metadata", "namespace"]).unwrap_or("_");
        let key = format!("{namespace}/{}", text(&object, &["metadata", "name"]).unwrap_or_default());
        rules::intent(kind, &mut object);
        Self { key, uid, version, object: object.to_string() }
    }

    /// The objects of an archive that are meant.
    pub(crate) fn recorded(
        archive: &Archive,
        selection: &Selection,
    ) -> Result<impl Iterator<Item = Result<Self>> + use<>> {
        let (kind, selection) = (archive.kind(), selection.clone());
        Ok(recorded::open(archive)?.filter_map(move |recorded| {
            let seen = recorded.and_then(|recorded| {
                if !selection.place(&kind, recorded.namespace.as_deref(), &recorded.name) {
                    return Ok(None);
                }
                let object: Value = serde_json::from_str(recorded.marked.as_ref().unwrap_or(&recorded.json))?;
                Ok(selection.labels(&object).then(|| Self::new(&kind, object)))
            });
            seen.transpose()
        }))
    }

    /// Namespace and name.
    pub(crate) fn key(&self) -> &str {
        &self.key
    }

    /// The same without references to owners and without what only Secrets have.
    pub(crate) fn without_owners(&self) -> Self {
        let mut seen = Self { uid: None, version: None, ..self.clone() };
        if let Ok(mut object) = serde_json::from_str::<Value>(&self.object) {
            crate::clean::remove(&mut object, &["metadata", "ownerReferences"]);
            seen.object = object.to_string();
        }
        seen
    }

    /// What differs between the two, for a person; `None` if nothing does.
    pub(crate) fn differs(&self, other: &Self) -> Result<Option<String>> {
        // Only Secrets have a version here.
        let is_secret = self.version.is_some() && other.version.is_some();
        if !is_secret && self.object == other.object {
            return Ok(None);
        }
        let (mut one, mut another) = (serde_json::from_str(&self.object)?, serde_json::from_str(&other.object)?);
        let told = secret::compare(&mut one, &mut another);
        let mut found = differences(&one, &another);
        found.extend(told.changed);
        if !found.is_empty() {
            return Ok(Some(show(&found)));
        }
        let rewritten = self.uid.is_some() && self.uid == other.uid && self.version != other.version;
        Ok((is_secret && !told.is_all && rewritten).then(|| {
            format!(
                "written again since (version {} -> {}); its data is not shown, and may differ",
                self.version.as_deref().unwrap_or_default(),
                other.version.as_deref().unwrap_or_default()
            )
        }))
    }
}

/// The file of lines of a kind.
pub(crate) fn key(cluster: &str, group: &str, kind: &str) -> String {
    format!("{cluster}/{group}_{kind}.jsonl")
}

/// Cluster, group and kind of a file of lines.
fn parse_key(key: &str) -> Option<(&str, &str, &str)> {
    let (cluster, file) = key.split_once('/')?;
    let (group, kind) = file.strip_suffix(".jsonl")?.split_once('_')?;
    Some((cluster, group, kind))
}

/// An object that is on both sides, or on one.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Pair {
    Both(Seen, Seen),
    Removed(Seen),
    Added(Seen),
}

/// Brings the objects of both sides together, whatever their order.
pub(crate) fn join(
    mut left: impl Iterator<Item = Result<Seen>>,
    mut right: impl Iterator<Item = Result<Seen>>,
    mut tell: impl FnMut(Pair) -> Result<()>,
) -> Result<()> {
    let (mut lonely_left, mut lonely_right) = (HashMap::<String, Seen>::new(), HashMap::<String, Seen>::new());
    loop {
        let (one, other) = (left.next().transpose()?, right.next().transpose()?);
        if one.is_none() && other.is_none() {
            break;
        }
        for (seen, is_left) in one.map(|seen| (seen, true)).into_iter().chain(other.map(|seen| (seen, false))) {
            let (own, opposite) =
                if is_left { (&mut lonely_left, &mut lonely_right) } else { (&mut lonely_right, &mut lonely_left) };
            match opposite.remove(&seen.key) {
                Some(found) if is_left => tell(Pair::Both(seen, found))?,
                Some(found) => tell(Pair::Both(found, seen))?,
                None => drop(own.insert(seen.key.clone(), seen)),
            }
        }
    }
    let in_order = |lonely: HashMap<String, Seen>| lonely.into_iter().collect::<BTreeMap<_, _>>().into_values();
    in_order(lonely_left).try_for_each(|seen| tell(Pair::Removed(seen)))?;
    in_order(lonely_right).try_for_each(|seen| tell(Pair::Added(seen)))
}

/// Objects of a live cluster.
pub(crate) struct Live {
    kind: Kind,
    listing: Listing,
    page: std::vec::IntoIter<String>,
}

impl Live {
    /// All of a kind, or those of one namespace.
    pub(crate) fn start(cluster: &Cluster, kind: &Kind, namespace: Option<&str>) -> Result<Self> {
        let list = cluster.list(kind);
        let list = namespace.map_or_else(|| cluster.list(kind), |namespace| list.namespace(namespace));
        Ok(Self { kind: kind.clone(), listing: list.start()?, page: Vec::new().into_iter() })
    }

    /// The next object's JSON.
    fn next_json(&mut self) -> Result<Option<String>> {
        loop {
            if let Some(json) = self.page.next() {
                return Ok(Some(json));
            }
            match self.listing.next_page()? {
                Some(page) => self.page = page.objects.into_iter(),
                None => return Ok(None),
            }
        }
    }

    /// The objects that `wanted` holds.
    pub(crate) fn seen(mut self, wanted: impl Fn(&Kind, &str, &Value) -> bool) -> impl Iterator<Item = Result<Seen>> {
        std::iter::from_fn(move || {
            loop {
                let json = match self.next_json().transpose()? {
                    Ok(json) => json,
                    Err(error) => return Some(Err(error)),
                };
                match serde_json::from_str::<Value>(&json) {
                    Ok(object) if wanted(&self.kind, &json, &object) => {
                        return Some(Ok(Seen::new(&self.kind, object)));
                    }
                    Ok(_) => {}
                    Err(error) => return Some(Err(error.into())),
                }
            }
        })
    }
}

/// Lines that an export of another backup wrote.
fn lines(source: Source, selection: &Selection, kind: &Kind) -> impl Iterator<Item = Result<Seen>> {
    let (selection, kind) = (selection.clone(), kind.clone());
    source.lines().filter_map(move |line| {
        let seen = line.map_err(Error::from).and_then(|line| {
            let seen: Seen = serde_json::from_str(&line)?;
            let (namespace, name) = seen.key.split_once('/').unwrap_or(("_", &seen.key));
            let meant = selection.place(&kind, (namespace != "_").then_some(namespace), name);
            Ok(meant.then_some(seen))
        });
        seen.transpose()
    })
}

/// What was found, and how much of it has been named.
#[derive(Debug, Default)]
struct Found {
    same: u64,
    differing: u64,
}

impl Found {
    fn tell(&mut self, cluster: &str, kind: &Kind, pair: Pair) -> Result<()> {
        let (action, seen, note) = match pair {
            Pair::Both(left, right) => match left.differs(&right)? {
                None => {
                    self.same += 1;
                    return Ok(());
                }
                Some(note) => ("changed", right, note),
            },
            Pair::Removed(left) => ("removed", left, String::new()),
            Pair::Added(right) => ("added", right, String::new()),
        };
        self.differing += 1;
        if self.differing <= MAX_NAMED {
            let shown = seen.key.strip_prefix("_/").unwrap_or(&seen.key);
            Step::warned(action, format!("{cluster}: {kind} {shown}")).note(note).report();
        }
        Ok(())
    }

    fn report(&self) {
        if self.differing > MAX_NAMED {
            let more = self.differing - MAX_NAMED;
            Step::warned("name", format!("{more} more objects")).note("only the first are named one by one").report();
        }
        Step::skipped("same", format!("{} objects", self.same)).report();
    }
}

/// A kind and, where the backup in scope has it, its archive.
type Side<'a> = (Kind, Option<&'a Archive>);

pub(crate) fn compare(request: &RestoreRequest<Settings, Options>) -> Result<()> {
    let options = &request.options;
    let selection = Selection::parse(options)?;
    let inventory = Inventory::read()?;
    let clusters = chosen(&inventory, &selection, options)?;
    let mut found = Found::default();
    match options.to_bucket.as_deref() {
        Some(bucket) => {
            let bucket = storage::open_bucket(bucket)?;
            let mut others: BTreeMap<String, String> = BTreeMap::new();
            for object in bucket.objects(&options.to_prefix) {
                let key = object?.key;
                if let Some(file) =
                    key.strip_prefix(options.to_prefix.as_str()).filter(|file| parse_key(file).is_some())
                {
                    others.insert(file.to_owned(), key.clone());
                }
            }
            for cluster in &clusters {
                for archive in &cluster.archives {
                    let kind = archive.kind();
                    if !selection.kind(&kind) {
                        continue;
                    }
                    let left = Seen::recorded(archive, &selection)?;
                    let label = target(cluster, options);
                    let other = others.remove(&key(&label, &archive.group, &archive.kind));
                    let right = other.map(|key| bucket.read(&key, None)).transpose()?;
                    let right = right.into_iter().flat_map(|source| lines(source, &selection, &kind));
                    join(left, right, |pair| found.tell(&label, &kind, pair))?;
                }
            }
            for (file, key) in others {
                let Some((cluster, kind)) = only_there(&file) else { continue };
                if is_compared_with(&cluster, &selection, options) && selection.kind(&kind) {
                    let right = lines(bucket.read(&key, None)?, &selection, &kind);
                    join(std::iter::empty(), right, |pair| found.tell(&cluster, &kind, pair))?;
                }
            }
        }
        None => {
            let policy = Policy::parse(&request.settings)?;
            for cluster in &clusters {
                let label = target(cluster, options);
                let live = kube::open(&label)?;
                let there = live.kinds()?;
                for (api, why) in there.failed.iter().filter(|(api, _)| policy.wants_group(group(api))) {
                    let note =
                        format!("the API does not answer: {why}; kubectl get apiservices says what is behind it");
                    Step::failed("compare", format!("{label}: {api}")).note(note).report();
                }
                let is_down = |kind: &Kind| there.failed.iter().any(|(api, _)| group(api) == kind.group);
                let mut kinds: Vec<Kind> =
                    there.kinds.iter().filter(|kind| policy.wants(kind) && selection.kind(kind)).cloned().collect();
                kind::sort(&mut kinds);
                for (kind, archive) in sides(&cluster.archives, kinds, &selection) {
                    if is_down(&kind) && !there.kinds.iter().any(|live| is(live, &kind.group, &kind.kind)) {
                        continue;
                    }
                    if let Some(archive) = archive
                        && let Served::No(why) = served(&live, &there.kinds, &[], &HashSet::new(), archive)?
                        && there.kinds.iter().any(|live| is(live, &kind.group, &kind.kind))
                    {
                        Step::failed("compare", format!("{label}: {kind}")).note(why).report();
                        continue;
                    }
                    let left = archive.map(|archive| Seen::recorded(archive, &selection)).transpose()?;
                    let right = match Live::start(&live, &kind, None) {
                        Ok(listing) => Some(listing),
                        Err(Error::NotFound(_)) => None,
                        Err(error) => return Err(error),
                    };
                    let wanted =
                        |kind: &Kind, json: &str, object: &Value| is_wanted(&policy, &selection, kind, json, object);
                    let right = right.into_iter().flat_map(|live| live.seen(wanted));
                    join(left.into_iter().flatten(), right, |pair| found.tell(&label, &kind, pair))?;
                }
            }
        }
    }
    found.report();
    Ok(())
}

/// Whether a cluster is the other side of one that is chosen: of itself, or of the one that the options
/// compare with it.
pub(crate) fn is_compared_with(label: &str, selection: &Selection, options: &Options) -> bool {
    let named = options.to_clusters.iter().any(|(from, to)| to == label && selection.cluster(from));
    named || (!options.to_clusters.contains_key(label) && selection.cluster(label))
}

/// Cluster and kind of a file of lines that the backup in scope has nothing of.
fn only_there(file: &str) -> Option<(String, Kind)> {
    let (cluster, group, kind) = parse_key(file)?;
    let (group, kind) = (group.to_owned(), kind.to_owned());
    let kind = Kind { group, version: String::new(), kind, plural: String::new(), namespaced: true, verbs: Vec::new() };
    Some((cluster.to_owned(), kind))
}

/// Kinds of both sides: of those that the backup has, the version that it has.
fn sides<'a>(archives: &'a [Archive], live: Vec<Kind>, selection: &Selection) -> Vec<Side<'a>> {
    let of = |archive: &Archive, kind: &Kind| archive.group == kind.group && archive.kind == kind.kind;
    let mut sides: Vec<Side<'a>> = archives
        .iter()
        .map(|archive| (archive.kind(), Some(archive)))
        .filter(|(kind, _)| selection.kind(kind))
        .collect();
    sides.extend(
        live.into_iter().filter(|kind| !archives.iter().any(|archive| of(archive, kind))).map(|kind| (kind, None)),
    );
    sides
}

fn is_wanted(policy: &Policy, selection: &Selection, kind: &Kind, json: &str, object: &Value) -> bool {
    let kept = Head::parse(json).is_ok_and(|head| {
        policy.judge(kind, &head, json.len()) == Verdict::Keep
            && selection.place(kind, head.namespace(), head.metadata.name.as_ref())
    });
    kept && selection.labels(object)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn seen(key: &str, object: u8) -> Seen {
        Seen { key: key.to_owned(), uid: None, version: None, object: json!({"n": object}).to_string() }
    }

    fn joined(left: &[(&str, u8)], right: &[(&str, u8)]) -> Vec<String> {
        let side = |all: &[(&str, u8)]| all.iter().map(|(key, n)| Ok(seen(key, *n))).collect::<Vec<_>>().into_iter();
        let mut told = Vec::new();
        join(side(left), side(right), |pair| {
            told.push(match pair {
                Pair::Both(one, other) => match one.differs(&other)? {
                    Some(note) => format!("{} {note}", one.key),
                    None => one.key,
                },
                Pair::Removed(one) => format!("-{}", one.key),
                Pair::Added(one) => format!("+{}", one.key),
            });
            Ok(())
        })
        .unwrap();
        told
    }

    #[test]
    fn objects_are_brought_together_whatever_their_order() {
        assert_eq!(
            joined(&[("a", 1), ("b", 1), ("c", 1)], &[("a", 1), ("b", 2), ("d", 1)]),
            ["a", "b n 1 -> 2", "-c", "+d"]
        );
        assert_eq!(joined(&[("a", 1), ("b", 1)], &[("b", 1), ("a", 1)]).len(), 2);
        assert_eq!(joined(&[], &[("a", 1)]), ["+a"]);
        let broken = vec![Err(Error::failed("broke"))].into_iter();
        assert!(join(broken, std::iter::empty(), |_| Ok(())).is_err());
    }

    #[test]
    fn one_cluster_may_be_the_other_side_of_another() {
        let options = |json: Value| serde_json::from_value::<Options>(json).unwrap();
        for (given, label, expected) in [
            (json!({}), "a", true),
            (json!({"clusters": ["a"]}), "b", false),
            (json!({"clusters": ["a"], "to_clusters": {"a": "b"}}), "b", true),
            (json!({"clusters": ["a"], "to_clusters": {"a": "b"}}), "a", false),
            (json!({"clusters": ["b"], "to_clusters": {"a": "b"}}), "b", true),
            (json!({"clusters": ["c"], "to_clusters": {"a": "b"}}), "b", false),
        ] {
            let options = options(given.clone());
            let selection = Selection::parse(&options).unwrap();
            assert_eq!(is_compared_with(label, &selection, &options), expected, "{given} {label}");
        }
    }

    #[test]
    fn a_secret_that_was_written_again_may_differ() {
        let of = |uid: &str, version: &str| {
            let object = json!({"data": {"password": "cmVkYWN0ZWQgYnkgc3Ryb25ncm9vbQ=="}}).to_string();
            Seen { key: "a".into(), uid: Some(uid.into()), version: Some(version.into()), object }
        };
        assert_eq!(of("u", "1").differs(&of("u", "1")).unwrap(), None);
        assert!(of("u", "1").differs(&of("u", "2")).unwrap().unwrap().contains("1 -> 2"));
        assert_eq!(of("u", "1").differs(&of("v", "2")).unwrap(), None, "of two clusters nothing can be said");
        // With marks there is no doubt, in one cluster or two.
        let marked = |uid: &str, version: &str, value: &str| {
            let mark = format!("cmVkYWN0ZWQgYnkgc3Ryb25ncm9vbTsgKEYKEYKE{value:_<24}");
            Seen { object: json!({"data": {"password": mark}}).to_string(), ..of(uid, version) }
        };
        assert_eq!(marked("u", "1", "x").differs(&marked("u", "2", "x")).unwrap(), None);
        for uid in ["u", "v"] {
            let found = marked("u", "1", "x").differs(&marked(uid, "2", "y")).unwrap();
            assert_eq!(found.as_deref(), Some("data.password (its value is not shown)"));
        }
        assert!(of("u", "1").differs(&marked("u", "2", "x")).unwrap().unwrap().contains("1 -> 2"));
    }

    #[test]
    fn a_file_of_lines_names_its_kind() {
        for (cluster, group, kind) in [("prod", "", "Secret"), ("prod-eu", "apps", "Deployment"), ("a", "x.y.z", "Q")] {
            assert_eq!(parse_key(&key(cluster, group, kind)), Some((cluster, group, kind)));
        }
        assert!(parse_key("strongroom-export.txt").is_none() && parse_key("a/b").is_none());
    }

    proptest! {
        #[test]
        fn every_object_is_told_once(
            left in prop::collection::hash_map("[a-e]{1,2}", 0_u8..3, 0..12),
            right in prop::collection::hash_map("[a-e]{1,2}", 0_u8..3, 0..12),
        ) {
            let side = |map: &std::collections::HashMap<String, u8>| {
                map.iter().map(|(key, n)| Ok(seen(key, *n))).collect::<Vec<_>>().into_iter()
            };
            let mut keys = Vec::new();
            join(side(&left), side(&right), |pair| {
                let (key, ok) = match pair {
                    Pair::Both(one, other) => (one.key.clone(), one.key == other.key),
                    Pair::Removed(one) => (one.key.clone(), !right.contains_key(&one.key)),
                    Pair::Added(one) => (one.key.clone(), !left.contains_key(&one.key)),
                };
                assert!(ok, "{key}");
                keys.push(key);
                Ok(())
            }).unwrap();
            keys.sort();
            let mut expected: Vec<String> = left.keys().chain(right.keys()).cloned().collect();
            expected.sort();
            expected.dedup();
            prop_assert_eq!(keys, expected);
        }
    }
}
