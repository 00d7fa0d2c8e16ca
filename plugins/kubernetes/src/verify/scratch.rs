//! A test restore into namespaces that are made for it and removed again. Nothing of it runs: workloads
//! are put to sleep, and what cannot sleep is only tried with a dry run.

use crate::compare::{Live, Pair, Seen, join};
use crate::inventory::ClusterInventory;
use crate::kind::is;
use crate::mapping::Mapping;
use crate::recorded;
use crate::restore::engine::{Engine, How, SCRATCH_LABEL};
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
    let mut mapping = Mapping::of(options);
    mapping.namespaces.clear();
    prefix.clone_into(&mut mapping.namespace_prefix);
    let how = How {
        mode: Mode::Create,
        dry_run: false,
        force: false,
        status: false,
        keep: Keep { webhooks: false, ..Keep::of(options) },
        mapping,
        wait: Duration::from_secs(options.wait_seconds),
        scratch: Some(request.backup.backup_id.clone()),
    };
    let narrowed = Options { cluster_resources: false, ..options.clone() };
    let scratch_selection = Selection::parse(&narrowed)?;
    let names = namespaces(cluster, selection)?;
    if let Some(name) = names.iter().find(|name| prefix.len() + name.len() > MAX_NAMESPACE) {
        let evidence = format!("{prefix}{name} is longer than {MAX_NAMESPACE} characters");
        return Ok(vec![Check::failed(id, title).evidence(evidence).remedy("use a shorter scratch_prefix")]);
    }
    let mut engine = Engine::open(&label, cluster, &scratch_selection, &how)?;
    let places: Vec<Reference> =
        names.iter().map(|name| Reference::new(&namespace_kind(), None, how.mapping.namespace(name))).collect();
    if let Some(taken) = foreign(engine.cluster(), &places)? {
        return Ok(vec![
            Check::failed(id, title)
                .evidence(format!("namespace {taken} is there, and no test restore made it: nothing was touched"))
                .remedy("use another scratch_prefix"),
        ]);
    }
    remove(engine.cluster(), &places, how.wait)?;

    let mut told = Told::silent(false);
    told.cluster(&label);
    let compared =
        engine.restore(&mut told).and_then(|()| compare(engine.cluster(), cluster, &scratch_selection, &how));
    let removed = remove(engine.cluster(), &places, how.wait);
    let check = match compared {
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
            Check::passed(id, title).evidence(format!("{} namespaces are gone", places.len()))
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

/// A namespace of these that is there and was not made by a test restore.
fn foreign(cluster: &Cluster, places: &[Reference]) -> Result<Option<String>> {
    for place in places {
        match cluster.get(place) {
            Ok(json) => {
                let object: Value = serde_json::from_str(&json)?;
                if crate::clean::text(&object, &["metadata", "labels", SCRATCH_LABEL]).is_none() {
                    return Ok(Some(place.name.clone()));
                }
            }
            Err(Error::NotFound(_)) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(None)
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
fn compare(live: &Cluster, cluster: &ClusterInventory, selection: &Selection, how: &How) -> Result<(u64, Vec<String>)> {
    let (mut n, mut differing) = (0, Vec::new());
    for archive in cluster.archives.iter().filter(|archive| archive.namespaced) {
        let kind = archive.kind();
        if !selection.kind(&kind) {
            continue;
        }
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
            let found = Live::start(live, &kind, Some(&namespace))?.seen(|_, _, _| true);
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
