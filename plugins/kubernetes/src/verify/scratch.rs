//! A test restore into namespaces that are made for it and removed again. Nothing of it runs: workloads
//! are put to sleep, and what cannot sleep is only tried with a dry run.
//!
//! Their names have a part that no other test restore has, so that several can be under way. What a killed one
//! left is removed by the next one that begins when nothing was heard of it for [`LEFT_AFTER`].

use crate::clean::text;
use crate::compare::{Live, Pair, Seen, join};
use crate::inventory::ClusterInventory;
use crate::kind::is;
use crate::mapping::Mapping;
use crate::recorded;
use crate::restore::engine::{ALIVE_NOTE, Engine, How, SCRATCH_LABEL};
use crate::restore::target;
use crate::restore::told::Told;
use crate::rules::{self, Keep};
use crate::selection::Selection;
use crate::settings::{Options, Settings};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use strongroom_plugin::kube::{Cluster, Kind, Mode, Reference};
use strongroom_plugin::prelude::*;

/// Differences that evidence names.
const NAMED: usize = 10;
/// Longest name of a namespace.
const MAX_NAMESPACE: usize = 63;
/// Digits of what tells the namespaces of one test restore from those of another, in base 36: a
/// millisecond of 25 days.
const TAG_DIGITS: u32 = 6;
/// Tags that are tried, where namespaces of that name are there already.
const TAGS: u64 = 100;
/// How long a test restore may say nothing before it is taken for dead. It speaks every minute, but for one
/// batch of objects, or one kind that is compared.
const LEFT_AFTER: Duration = Duration::from_secs(3600);

pub(super) fn restore(
    cluster: &ClusterInventory,
    selection: &Selection,
    request: &VerifyRequest<Settings, Options>,
    prefix: &str,
) -> Result<Vec<Check>> {
    let options = &request.options;
    let label = target(cluster, options);
    let (id, title) = (
        format!("kubernetes.restore.compares.{label}"),
        format!("a test restore into {label} gives back what was backed up"),
    );
    let mut how = How {
        mode: Mode::Create,
        dry_run: false,
        force: false,
        status: false,
        keep: Keep { webhooks: false, ..Keep::of(options) },
        mapping: Mapping::of(options),
        wait: Duration::from_secs(options.wait_seconds),
        scratch: Some(request.backup.backup_id.clone()),
    };
    let narrowed = Options { cluster_resources: false, ..options.clone() };
    let scratch_selection = Selection::parse(&narrowed)?;
    let names = namespaces(cluster, selection)?;
    let opened = kube::open(&label)?;
    // Who may make namespaces may still not be let list them.
    let others = remove_left(&opened, prefix, run::now())
        .unwrap_or_else(|error| Others { unseen: Some(error.to_string()), ..Others::default() });
    let Some(mapping) = free(&opened, &how.mapping, prefix, &names, run::now())? else {
        let evidence = format!("namespaces {prefix}* are there that no test restore made: nothing was touched");
        return Ok(vec![Check::failed(id, title).evidence(evidence).remedy("use another scratch_prefix")]);
    };
    how.mapping = mapping;
    let mut places: Vec<Reference> = places(&how.mapping, &names);
    let mut engine = Engine::open(&label, cluster, &scratch_selection, &how)?;

    let mut told = Told::silent(false);
    told.cluster(&label);
    let compared = engine.restore(&mut told).and_then(|()| compare(&mut engine, cluster, &scratch_selection, &how));
    let taken = engine.taken_namespaces().clone();
    places.retain(|place| !taken.contains(&place.name));
    let removed = remove(engine.cluster(), &places, how.wait);
    let prefix = &how.mapping.namespace_prefix;
    let check = match compared {
        Ok(_) if !taken.is_empty() => Check::failed(&id, &title)
            .evidence(format!("somebody else made {prefix}* at the same moment: nothing of theirs was removed"))
            .remedy("strongroom verify JOB --depth restore"),
        Ok((_, differing)) if !told.findings().is_empty() => {
            let some: Vec<&str> = told.findings().iter().chain(&differing).take(NAMED).map(String::as_str).collect();
            Check::failed(&id, &title).evidence(some.join("; "))
        }
        Ok((n, differing)) if differing.is_empty() => Check::passed(&id, &title).evidence(format!(
            "{n} objects restored into {} namespaces {prefix}*, with workloads asleep, are those of the backup",
            places.len()
        )),
        Ok((n, differing)) => Check::failed(&id, &title)
            .evidence(format!(
                "of {n} objects: {}",
                differing.iter().take(NAMED).cloned().collect::<Vec<_>>().join("; ")
            ))
            .cause("something in the target changes objects as they are made: a webhook or a controller")
            .remedy("strongroom restore JOB ID --target TARGET --plan"),
        Err(error @ (Error::Denied(_) | Error::Limit(_))) => return Err(error),
        Err(error) => Check::failed(&id, &title).evidence(error.to_string()).remedy("strongroom diagnose JOB"),
    };
    let (id, title) = (format!("kubernetes.restore.removed.{label}"), "the test restore was removed again");
    let gone = match removed {
        Ok(left) if left.is_empty() => {
            Check::passed(id, title).evidence(format!("{} namespaces are gone{}", places.len(), others.shown()))
        }
        Ok(left) => Check::warned(id, title)
            .evidence(format!("being deleted, and still there: {}", left.join(", ")))
            .cause("finalizers hold them, or the cluster's namespace controller does not run")
            .remedy(format!("kubectl get namespaces --selector {SCRATCH_LABEL}")),
        Err(error) => Check::failed(id, title)
            .evidence(error.to_string())
            .remedy(format!("kubectl delete namespaces --selector {SCRATCH_LABEL}")),
    };
    Ok(vec![check, gone])
}

fn namespace_kind() -> Kind {
    Kind {
        group: String::new(),
        version: "v1".to_owned(),
        kind: "Namespace".to_owned(),
        plural: "namespaces".to_owned(),
        namespaced: false,
        verbs: Vec::new(),
    }
}

/// The namespaces of the backup that are meant.
fn namespaces(cluster: &ClusterInventory, selection: &Selection) -> Result<BTreeSet<String>> {
    let mut names = BTreeSet::new();
    for archive in &cluster.archives {
        let kind = archive.kind();
        if is(&kind, "", "Namespace") {
            for recorded in recorded::open(archive)? {
                let name = recorded?.name;
                if selection.place(&kind, None, &name) {
                    names.insert(name);
                }
            }
        }
    }
    Ok(names)
}

/// What earlier test restores left.
#[derive(Debug, Default)]
struct Others {
    removed: usize,
    /// Those that may still be in use.
    kept: Vec<String>,
    /// Why they could not be looked for, or removed.
    unseen: Option<String>,
}

impl Others {
    fn shown(&self) -> String {
        let removed = match self.removed {
            0 => String::new(),
            n => format!("; so are {n} that a killed test restore had left"),
        };
        let kept = match self.kept.as_slice() {
            [] => String::new(),
            [first, ..] => format!(
                "; {} more, such as {first}, belong to another test restore, or were left by one less than {} min ago",
                self.kept.len(),
                LEFT_AFTER.as_secs() / 60
            ),
        };
        let unseen = self.unseen.as_ref().map(|why| format!("; what killed test restores left was not removed: {why}"));
        format!("{removed}{kept}{}", unseen.unwrap_or_default())
    }
}

/// Removes the namespaces with this prefix of test restores of which nothing was heard for long, and does not
/// wait for it.
fn remove_left(cluster: &Cluster, prefix: &str, now: Timestamp) -> Result<Others> {
    let kind = namespace_kind();
    let (mut others, mut left) = (Others::default(), Vec::new());
    let mut listing = cluster.list(&kind).labels(SCRATCH_LABEL).start()?;
    while let Some(page) = listing.next_page()? {
        for json in page.objects {
            let object: Value = serde_json::from_str(&json)?;
            let Some(name) = text(&object, &["metadata", "name"]).filter(|name| name.starts_with(prefix)) else {
                continue;
            };
            if text(&object, &["metadata", "deletionTimestamp"]).is_some() {
                continue;
            }
            if is_left(&object, now) {
                left.push(Reference::new(&kind, None, name));
            } else {
                others.kept.push(name.to_owned());
            }
        }
    }
    if left.is_empty() {
        return Ok(others);
    }
    log::warn!("{} namespaces {prefix}* were left by a test restore that was killed: removed", left.len());
    for result in cluster.delete(&left)? {
        match result {
            Ok(()) | Err(Error::NotFound(_)) => {}
            Err(error) => return Err(error),
        }
    }
    others.removed = left.len();
    Ok(others)
}

/// Whether a namespace is one of a test restore of which nothing was heard for long. Older versions said nothing.
fn is_left(namespace: &Value, now: Timestamp) -> bool {
    let alive = text(namespace, &["metadata", "annotations", ALIVE_NOTE]).and_then(|ms| ms.parse().ok());
    alive.is_none_or(|ms| now.since(Timestamp { ms }) >= LEFT_AFTER)
}

/// The names of a test restore that begins now; none where all that were tried are somebody's.
fn free(
    cluster: &Cluster,
    mapping: &Mapping,
    prefix: &str,
    names: &BTreeSet<String>,
    now: Timestamp,
) -> Result<Option<Mapping>> {
    for number in 0..TAGS {
        let mapping = scratch_names(mapping, &format!("{prefix}{}-", tag(now.ms + number)), names);
        if is_free(cluster, &places(&mapping, names))? {
            return Ok(Some(mapping));
        }
    }
    Ok(None)
}

fn is_free(cluster: &Cluster, places: &[Reference]) -> Result<bool> {
    for place in places {
        match cluster.get(place) {
            Ok(_) => return Ok(false),
            Err(Error::NotFound(_)) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(true)
}

/// The last digits of a number in base 36.
fn tag(mut number: u64) -> String {
    let mut digits = Vec::new();
    for _ in 0..TAG_DIGITS {
        digits.extend(u32::try_from(number % 36).ok().and_then(|digit| char::from_digit(digit, 36)));
        number /= 36;
    }
    digits.iter().rev().collect()
}

/// Other names for namespaces: with this in front, and shortened where that is longer than a name may be.
fn scratch_names(mapping: &Mapping, prefix: &str, names: &BTreeSet<String>) -> Mapping {
    let room = MAX_NAMESPACE - prefix.len();
    let long = names.iter().filter(|name| name.len() > room);
    let shorter = long.map(|name| (name.clone(), format!("{prefix}{}", shortened(name, room)))).collect();
    mapping.moved(shorter, prefix)
}

/// The beginning of a name, and a digest of all of it, so that two names stay two. Names of namespaces are ASCII.
fn shortened(name: &str, room: usize) -> String {
    // FNV-1a: nobody is to be kept from making two that are equal, and the check would fail.
    let digest = name.bytes().fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    let beginning: String = name.chars().take(room - 9).collect();
    format!("{beginning}-{digest:08x}")
}

fn places(mapping: &Mapping, names: &BTreeSet<String>) -> Vec<Reference> {
    names.iter().map(|name| Reference::new(&namespace_kind(), None, mapping.namespace(name))).collect()
}

/// Removes namespaces, waits for it, and names those that are still there.
fn remove(cluster: &Cluster, places: &[Reference], wait: Duration) -> Result<Vec<String>> {
    for result in cluster.delete(places)? {
        match result {
            Ok(()) | Err(Error::NotFound(_)) => {}
            Err(error) => return Err(error),
        }
    }
    let begun = run::now();
    let mut left: Vec<&Reference> = places.iter().collect();
    loop {
        let mut there = Vec::new();
        for place in left {
            match cluster.get(place) {
                Ok(_) => there.push(place),
                Err(Error::NotFound(_)) => {}
                Err(error) => return Err(error),
            }
        }
        left = there;
        if left.is_empty() || run::now().since(begun) >= wait {
            return Ok(left.into_iter().map(|place| place.name.clone()).collect());
        }
        run::sleep(Duration::from_millis(200));
    }
}

/// How many objects were compared, and what differs in them.
fn compare(
    engine: &mut Engine<'_>,
    cluster: &ClusterInventory,
    selection: &Selection,
    how: &How,
) -> Result<(u64, Vec<String>)> {
    let (mut n, mut differing) = (0, Vec::new());
    for archive in cluster.archives.iter().filter(|archive| archive.namespaced) {
        let kind = archive.kind();
        if !selection.kind(&kind) {
            continue;
        }
        engine.keep_alive()?;
        let mut by_namespace: BTreeMap<String, Vec<Seen>> = BTreeMap::new();
        for recorded in recorded::open(archive)? {
            let recorded = recorded?;
            let Some(namespace) = recorded.namespace.as_deref() else { continue };
            let mut object: Value = serde_json::from_str(&recorded.json)?;
            let meant = selection.place(&kind, Some(namespace), &recorded.name)
                && selection.labels(&object)
                && rules::refuses(&kind, &object, how.keep).is_none()
                && rules::put_to_sleep(&kind, &mut object);
            if meant {
                how.mapping.apply(&kind, &mut object);
                crate::clean::remove(&mut object, &["metadata", "ownerReferences"]);
                by_namespace.entry(how.mapping.namespace(namespace)).or_default().push(Seen::new(&kind, object));
            }
        }
        for (namespace, wanted) in by_namespace {
            let found = Live::start(engine.cluster(), &kind, Some(&namespace))?.seen(|_, _, _| true);
            n += wanted.len() as u64;
            join(wanted.into_iter().map(Ok), found, |pair| {
                match pair {
                    Pair::Both(one, other) => {
                        // Owners that are not in the scratch place were dropped on the way.
                        differing.extend(
                            one.without_owners()
                                .differs(&other.without_owners())?
                                .map(|fields| format!("{kind} {}: {fields}", one.key())),
                        );
                    }
                    Pair::Removed(one) => differing.push(format!("{kind} {} is missing", one.key())),
                    // What the cluster itself puts into every namespace.
                    Pair::Added(_) => {}
                }
                Ok(())
            })?;
        }
    }
    Ok((n, differing))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn two_test_restores_have_names_of_their_own_and_long_names_stay_two() {
        assert_eq!((tag(0).as_str(), tag(35).as_str(), tag(36).as_str()), ("000000", "00000z", "000010"));
        let now = 1_795_226_400_000;
        assert_ne!(tag(now), tag(now + 1));
        let long = "a".repeat(60);
        let names: BTreeSet<String> = ["shop".to_owned(), format!("{long}-1"), format!("{long}-2")].into();
        // The longest prefix that the manifest takes.
        let prefix = format!("{}-{}-", "p".repeat(21), tag(now));
        let mapping = scratch_names(&Mapping::default(), &prefix, &names);
        let made: BTreeSet<String> = names.iter().map(|name| mapping.namespace(name)).collect();
        assert_eq!(made.len(), 3);
        assert!(made.iter().all(|name| name.len() <= MAX_NAMESPACE && name.starts_with(&prefix)), "{made:?}");
        assert_eq!(mapping.namespace("shop"), format!("{prefix}shop"));
        assert_eq!(made.iter().map(String::len).max(), Some(MAX_NAMESPACE), "as much of it as there is room for");
    }

    #[test]
    fn what_others_left_is_told_with_what_was_done_about_it() {
        assert_eq!(Others::default().shown(), "");
        let some = Others { removed: 2, kept: vec!["try-a".into(), "try-b".into()], unseen: None }.shown();
        assert!(some.contains("so are 2 that") && some.contains("2 more, such as try-a, belong to another"), "{some}");
        let none = Others { unseen: Some("may not list namespaces".into()), ..Others::default() }.shown();
        assert_eq!(none, "; what killed test restores left was not removed: may not list namespaces");
    }

    #[test]
    fn a_namespace_of_which_nothing_was_heard_for_an_hour_was_left() {
        let now = Timestamp { ms: 1_795_226_400_000 };
        let namespace = |alive: &str| json!({"metadata": {"annotations": {ALIVE_NOTE: alive}}});
        let before = |ago: Duration| namespace(&(now.ms - ago.as_millis() as u64).to_string());
        assert!(!is_left(&before(LEFT_AFTER - Duration::from_millis(1)), now));
        assert!(is_left(&before(LEFT_AFTER), now));
        assert!(!is_left(&namespace(&(now.ms + 60_000).to_string()), now), "another host's clock is ahead");
        assert!(is_left(&json!({"metadata": {}}), now) && is_left(&namespace("x"), now));
    }
}
