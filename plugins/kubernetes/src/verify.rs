//! `verify`: every object of every archive is read and decoded, the counts are compared with the
//! inventory and the facts; with depth `restore`, the target's servers say whether they would take every
//! object, and, where the target names a scratch prefix, a restore into namespaces of its own is compared
//! and removed.

mod scratch;

use crate::head::Head;
use crate::inventory::{ClusterInventory, Inventory};
use crate::mapping::Mapping;
use crate::recorded;
use crate::restore::engine::{Engine, How};
use crate::restore::told::{Deed, Told};
use crate::restore::{chosen, target};
use crate::rules::Keep;
use crate::selection::Selection;
use crate::settings::{Options, Settings};
use std::time::Duration;
use strongroom_plugin::kube::Mode;
use strongroom_plugin::prelude::*;

/// Problems that evidence names.
const NAMED: usize = 10;

/// What was found in the archives.
#[derive(Debug, Default)]
struct Contents {
    objects: u64,
    wrong: Vec<String>,
    n_wrong: u64,
    miscounted: Vec<String>,
}

impl Contents {
    fn wrong(&mut self, what: String) {
        self.n_wrong += 1;
        if self.wrong.len() < NAMED {
            self.wrong.push(what);
        }
    }
}

pub(crate) fn verify(request: &VerifyRequest<Settings, Options>) -> Result<Vec<Check>> {
    let title = "every object of the backup can be read and decoded";
    let read = Inventory::read().and_then(|inventory| Ok((contents(&inventory)?, inventory)));
    let (contents, inventory) = match read {
        Ok(read) => read,
        Err(error @ (Error::Denied(_) | Error::Unavailable(_) | Error::TimedOut(_) | Error::Limit(_))) => {
            return Err(error);
        }
        Err(error) => {
            return Ok(vec![
                Check::failed("kubernetes.archive.reads", title)
                    .evidence(error.to_string())
                    .cause("an artifact or its index was changed or damaged")
                    .remedy("strongroom verify JOB --depth stored")
                    .remedy("strongroom backup JOB"),
            ]);
        }
    };
    let mut checks = vec![decodes(&contents), counts(&contents, &inventory, &request.backup)];
    if let [(what, why), ..] = request.backup.skipped.as_slice() {
        checks.push(
            Check::warned("kubernetes.complete", "everything that was to be captured was")
                .evidence(format!("{} were skipped, such as {what}: {why}", request.backup.skipped.len()))
                .remedy(format!("strongroom show JOB {}", request.backup.backup_id)),
        );
    }
    if request.depth == Depth::Restore {
        let selection = Selection::parse(&request.options)?;
        for cluster in chosen(&inventory, &selection, &request.options)? {
            checks.push(accepted(cluster, &selection, &request.options)?);
            if let Some(prefix) = &request.options.scratch_prefix {
                checks.extend(scratch::restore(cluster, &selection, request, prefix)?);
            }
        }
    }
    Ok(checks)
}

fn contents(inventory: &Inventory) -> Result<Contents> {
    let mut contents = Contents::default();
    for cluster in &inventory.clusters {
        for archive in &cluster.archives {
            let mut n = 0;
            for recorded in recorded::open(archive)? {
                let recorded = recorded?;
                n += 1;
                let place = || format!("{}: {}/{} {}", cluster.label, archive.group, archive.kind, recorded.path);
                match Head::parse(&recorded.json) {
                    Ok(head) => {
                        let same =
                            head.metadata.name == recorded.name && head.namespace() == recorded.namespace.as_deref();
                        if !same {
                            contents.wrong(format!("{} names itself otherwise", place()));
                        }
                    }
                    Err(error) => contents.wrong(format!("{}: {error}", place())),
                }
            }
            contents.objects += n;
            run::progress("objects", contents.objects, None);
            if n != archive.objects {
                contents
                    .miscounted
                    .push(format!("{}: {n} of kind {} instead of {}", cluster.label, archive.kind, archive.objects));
            }
        }
    }
    Ok(contents)
}

fn decodes(contents: &Contents) -> Check {
    let (id, title) = ("kubernetes.archive.reads", "every object of the backup can be read and decoded");
    if contents.n_wrong == 0 {
        return Check::passed(id, title).evidence(format!("{} objects", contents.objects));
    }
    Check::failed(id, title)
        .evidence(format!("{} of {}: {}", contents.n_wrong, contents.objects, contents.wrong.join("; ")))
        .cause("the archive was made by something else than this plugin")
}

fn counts(contents: &Contents, inventory: &Inventory, backup: &Made) -> Check {
    let (id, title) = ("kubernetes.counts.match", "the archives hold as many objects as was recorded");
    let mut wrong = contents.miscounted.clone();
    for cluster in &inventory.clusters {
        let n: u64 = cluster.archives.iter().map(|archive| archive.objects).sum();
        let fact = backup.fact(&format!("{}.objects", cluster.label));
        if fact.and_then(|fact| fact.parse().ok()) != Some(n) {
            wrong.push(format!(
                "{}: {n} objects, and the signed facts say {}",
                cluster.label,
                fact.unwrap_or("nothing")
            ));
        }
    }
    wrong.truncate(NAMED);
    if wrong.is_empty() {
        Check::passed(id, title).evidence(format!(
            "{} objects of {} clusters",
            contents.objects,
            inventory.clusters.len()
        ))
    } else {
        Check::failed(id, title)
            .evidence(wrong.join("; "))
            .cause("the archives were made by something else than this plugin")
            .remedy("strongroom verify JOB --depth stored")
    }
}

/// Asks the target what it would do with every object.
fn accepted(cluster: &ClusterInventory, selection: &Selection, options: &Options) -> Result<Check> {
    let label = target(cluster, options);
    let id = format!("kubernetes.restore.accepted.{label}");
    let title = format!("cluster {label} would take every object");
    let how = How {
        // Applied and forced, an object is looked at by the server whether it is there or not.
        mode: Mode::Merge,
        dry_run: true,
        force: true,
        status: false,
        keep: Keep::of(options),
        mapping: Mapping::of(options),
        wait: Duration::from_secs(options.wait_seconds),
        scratch: None,
    };
    let mut told = Told::silent(true);
    told.cluster(&label);
    let asked = Engine::open(&label, cluster, selection, &how).and_then(|engine| engine.run(&mut told));
    Ok(match asked {
        Ok(()) => judged(Check::passed(&id, &title), Check::failed(&id, &title), &told),
        Err(error @ (Error::Denied(_) | Error::Limit(_))) => return Err(error),
        Err(error) => Check::failed(id, title)
            .evidence(error.to_string())
            .cause("the cluster does not answer, or does not let the host in")
            .remedy("strongroom diagnose JOB"),
    })
}

fn judged(passed: Check, failed: Check, told: &Told) -> Check {
    let n = |deed| told.n(deed);
    let evidence = format!(
        "{} would be created, {} changed, {} are as recorded, {} are not restored",
        n(Deed::Created),
        n(Deed::Changed),
        n(Deed::Unchanged),
        n(Deed::NotMeant)
    );
    if told.findings().is_empty() {
        return passed.evidence(evidence);
    }
    let some: Vec<&str> = told.findings().iter().take(NAMED).map(String::as_str).collect();
    failed
        .evidence(format!("{evidence}; {} are refused: {}", n(Deed::Refused), some.join("; ")))
        .cause("the target lacks a kind, a right, a quota or a namespace that the objects need")
        .remedy("strongroom restore JOB ID --target TARGET --plan")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(facts: &[(&str, &str)]) -> Made {
        Made {
            backup_id: "20261120T020000Z-x7k2m9qd".into(),
            created: Timestamp { ms: 0 },
            plugin_version: "0.1.0".into(),
            settings_json: "{}".into(),
            source_id: None,
            facts: facts.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect(),
            skipped: Vec::new(),
            state: String::new(),
        }
    }

    #[test]
    fn counts_are_held_against_inventory_and_facts() {
        let inventory = Inventory {
            clusters: vec![ClusterInventory { label: "prod".into(), ..ClusterInventory::default() }],
            ..Inventory::new()
        };
        let good = Contents::default();
        assert_eq!(counts(&good, &inventory, &made(&[("prod.objects", "0")])).outcome, Outcome::Passed);
        assert_eq!(counts(&good, &inventory, &made(&[("prod.objects", "1")])).outcome, Outcome::Failed);
        assert_eq!(counts(&good, &inventory, &made(&[])).outcome, Outcome::Failed);
        let bad = Contents { miscounted: vec!["x".into()], ..Contents::default() };
        assert_eq!(counts(&bad, &inventory, &made(&[("prod.objects", "0")])).outcome, Outcome::Failed);
    }

    #[test]
    fn one_object_that_is_none_fails() {
        let mut contents = Contents { objects: 3, ..Contents::default() };
        assert_eq!(decodes(&contents).outcome, Outcome::Passed);
        (0..20).for_each(|n| contents.wrong(n.to_string()));
        let check = decodes(&contents);
        assert!(check.outcome == Outcome::Failed && check.evidence.starts_with("20 of 3: 0; 1"));
    }

    #[test]
    fn a_refusal_fails_the_dry_run() {
        let check = |told: &Told| judged(Check::passed("a", "b"), Check::failed("a", "b"), told).outcome;
        let mut told = Told::silent(true);
        told.count("/ConfigMap", Deed::Created);
        assert_eq!(check(&told), Outcome::Passed);
        told.name(Outcome::Failed, "restore", "/ConfigMap a/b", "no".into());
        assert_eq!(check(&told), Outcome::Failed);
    }
}
