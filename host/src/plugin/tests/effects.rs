//! A hostile plugin that is granted everything, for every verb: through no function does a backup, a
//! diagnosis, a plan or a verification change anything.

use super::decode::{bare, manifest};
use super::flow::made;
use super::{Bench, Compiled, all_grants, exec, in_full};
use crate::error::{Error, Kind};
use crate::plugin::capability::{CAPABILITIES, Risk};
use crate::plugin::component::{digest, embed_manifest};
use crate::plugin::guard::lock;
use crate::plugin::verb::{BackupRequest, Depth, DiagnoseRequest, RestoreRequest, VerifyRequest};
use crate::plugin::{Denial, Plugin};
use crate::policy::exec::{ExecGrant, StdinGrant};
use crate::policy::slot::Template;
use crate::policy::storage::{BucketGrant, BucketVerb};
use crate::policy::{Effect, Grants, Occasion, Policy, Verb, When};
use serde_json::json;
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

const VERBS: [Verb; 4] = [Verb::Backup, Verb::Verify, Verb::Restore, Verb::Diagnose];

/// Functions that could change something, a deed of the guest that tries each, and the function at which it is
/// stopped where it may not: itself, unless its handle is made by another one.
const TRIED: &[(&str, &str, &str)] = &[
    ("exec.spawn", "spawn", "exec.spawn"),
    ("exec.process.wait", "spawn", "exec.spawn"),
    ("exec.run", "run", "exec.run"),
    ("storage.bucket.write", "bucket-write", "storage.bucket.write"),
    ("storage.bucket.write", "bucket-overwrite", "storage.bucket.write"),
    ("storage.writing.wait", "bucket-write", "storage.bucket.write"),
    ("storage.bucket.delete", "bucket-delete", "storage.bucket.delete"),
    ("storage.bucket.delete", "bucket-delete-version", "storage.bucket.delete"),
    ("storage.bucket.write-config", "bucket-write-config", "storage.bucket.write-config"),
    ("storage.put", "pipe", "storage.put"),
    ("storage.transfer.wait", "pipe", "storage.put"),
    ("storage.first-done", "first-done-of-own-pipes", "storage.put"),
    ("storage.create-archive", "archive", "storage.create-archive"),
    ("storage.archive.add", "add-to-archive", "storage.create-archive"),
    ("storage.archive.add-bytes", "archive", "storage.create-archive"),
    ("storage.finish-archive", "archive", "storage.create-archive"),
];

/// Deeds that do something to the bucket where a plugin is granted it.
const CHANGE_BUCKET: &[&str] =
    &["bucket-write", "bucket-overwrite", "bucket-delete", "bucket-delete-version", "bucket-write-config"];

/// Functions that only tell, and change nothing by their nature.
const ONLY_TELL: &[&str] = &["storage.artifacts"];

/// Functions that change clusters: `tests/tests/kube.rs` tries them against a real one, in
/// `nothing_changes_a_cluster_but_a_restore_that_is_no_plan`.
const TRIED_ON_CLUSTERS: &[&str] = &["kube.cluster.apply", "kube.cluster.apply-unseen", "kube.cluster.delete"];

#[test]
fn every_function_that_could_change_something_is_tried() {
    let could = CAPABILITIES
        .iter()
        .filter(|c| matches!(c.risk, Risk::Stores | Risk::Changes | Risk::Executes | Risk::Administers));
    for capability in could {
        let name = format!("{}.{}", capability.interface, capability.function);
        let elsewhere = ONLY_TELL.iter().chain(TRIED_ON_CLUSTERS).any(|function| *function == name);
        let tried = elsewhere || TRIED.iter().any(|(function, ..)| *function == name);
        assert!(tried, "{name}: add a deed of the guest that tries it in a plan");
    }
}

/// The guest's manifest, asking for everything on every occasion.
fn greedy() -> Vec<u8> {
    let mut text = manifest();
    for verbs in [r#"["backup", "diagnose"]"#, r#"["backup"]"#, r#"["backup", "restore"]"#] {
        text = text.replace(&format!("verbs = {verbs}"), r#"verbs = ["backup", "verify", "restore", "diagnose"]"#);
    }
    let may =
        r#"may = ["list", "read", "write", "overwrite", "delete", "delete-version", "read-config", "write-config"]"#;
    let text =
        text.replace(r#"may = ["list", "read", "write"]"#, may).replace(r#"effect = "reads""#, r#"effect = "changes""#);
    embed_manifest(bare(), &text)
}

/// Everything, for every verb; commands leave a mark at `mark`.
fn everything(mark: &Path) -> Grants {
    let when = When { verbs: VERBS.into(), effect: Effect::Changes, scratch: false };
    let touch = |inspect| ExecGrant {
        args: vec![
            Template::parse(mark.to_str().unwrap()).unwrap(),
            Template::parse("/tmp/{word}/no/such/place").unwrap(),
        ],
        inspect,
        stdin: StdinGrant::None,
        when: when.clone(),
        ..exec("/usr/bin/touch", &["{word}"])
    };
    let mut grants = all_grants();
    grants.exec = [("echo".to_owned(), touch(false)), ("seen".to_owned(), touch(true))].into();
    let bucket = |may: &[BucketVerb], effect| BucketGrant {
        may: may.iter().copied().collect(),
        prefixes: vec![String::new()],
        inspect: true,
        when: When { effect, ..when.clone() },
    };
    // The one that reads holds on every occasion: what is refused is refused with the bucket's handle in hand.
    let reads = bucket(&[BucketVerb::List, BucketVerb::Read, BucketVerb::ReadConfig], Effect::Reads);
    let changes = [
        BucketVerb::Write,
        BucketVerb::Overwrite,
        BucketVerb::Delete,
        BucketVerb::DeleteVersion,
        BucketVerb::WriteConfig,
    ];
    grants.buckets = [("data".to_owned(), vec![reads, bucket(&changes, Effect::Changes)])].into();
    grants
}

/// What came of a deed.
struct Attempt {
    bench: Bench,
    error: Option<Error>,
    denials: Vec<Denial>,
    /// Whether the bucket changed.
    changed: bool,
}

/// Does `deed` on this occasion, granted everything.
async fn attempt(plugin: &Plugin, deed: &str, occasion: Occasion, mark: &Path) -> Attempt {
    let bench = Bench::with(|bench| {
        bench.verb = occasion.verb;
        bench.grants = everything(mark);
    });
    let mut context = bench.context(deed);
    context.policy = Arc::new(Policy { occasion, ..(*context.policy).clone() });
    let before = lock(&bench.drawer.0).clone();
    let instance = plugin.start(context).await.unwrap();
    let denials = instance.denials();
    let (settings, options) = (json!({ "do": deed }), json!({}));
    let error = match occasion.verb {
        Verb::Backup => instance.backup(BackupRequest { settings, previous: None }).await.err(),
        Verb::Verify => {
            instance.verify(VerifyRequest { settings, depth: Depth::Restore, backup: made(), options }).await.err()
        }
        Verb::Restore => instance.restore(RestoreRequest { settings, options, backup: made() }).await.err(),
        Verb::Diagnose => instance.diagnose(DiagnoseRequest { settings, last: None }).await.err(),
    };
    let changed = *lock(&bench.drawer.0) != before;
    Attempt { bench, error, denials: denials.list(), changed }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hostile_plugin_changes_nothing_in_a_backup_a_diagnosis_a_verification_or_a_plan() {
    let dir = tempfile::tempdir().unwrap();
    let bytes = greedy();
    let (sha256, compiled) = (digest(&bytes), Compiled::get());
    let plugin = Plugin::load("rogue", bytes, &sha256, &everything(dir.path()), &compiled.cache)
        .await
        .unwrap_or_else(|e| panic!("{}", in_full(&e)));
    let (mut n_tried, mut changed_by, mut marks) = (0, BTreeSet::new(), Vec::new());
    for (function, deed, stopped_at) in TRIED {
        for (verb, plan_only) in VERBS.into_iter().flat_map(|verb| [(verb, false), (verb, true)]) {
            let what = format!("{function} by {deed:?} in {verb:?}, plan {plan_only}");
            // Of its own: a program that was told to end may still leave its mark later.
            let mark = dir.path().join(format!("mark-{n_tried}"));
            n_tried += 1;
            let Attempt { bench, error, denials, changed } =
                attempt(&plugin, deed, Occasion { verb, plan_only }, &mark).await;
            if verb == Verb::Restore && !plan_only {
                if changed || mark.exists() {
                    changed_by.insert(*deed);
                }
                continue;
            }
            assert!(!changed, "{what} changed the bucket");
            assert!(verb == Verb::Backup || bench.shelf.is_empty(), "{what} stored something");
            // A backup stores artifacts; that is no change of what is backed up.
            let stores = verb == Verb::Backup && function.starts_with("storage.") && !deed.starts_with("bucket");
            if !stores {
                let error = error.unwrap_or_else(|| panic!("{what} was not refused"));
                assert_eq!(error.kind(), Kind::Denied, "{what}: {}", in_full(&error));
                // Stopped there, and not by something before it.
                assert_eq!(denials.last().map(|denial| denial.function), Some(*stopped_at), "{what}: {denials:?}");
            }
            marks.push((what, mark));
        }
    }
    for (what, mark) in marks {
        assert!(!mark.exists(), "{what} ran its command");
    }
    // The deeds do change something where they may, or all this would show nothing. A command that was spawned
    // is told to end when its output may not be stored, and may have left its mark before.
    let expected: BTreeSet<_> = CHANGE_BUCKET.iter().chain(&["run"]).copied().collect();
    changed_by.remove("spawn");
    assert_eq!(changed_by, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn parts_of_a_configuration_that_give_power_are_written_on_no_occasion() {
    let dir = tempfile::tempdir().unwrap();
    let bytes = greedy();
    let (sha256, compiled) = (digest(&bytes), Compiled::get());
    let plugin = Plugin::load("rogue", bytes, &sha256, &everything(dir.path()), &compiled.cache).await.unwrap();
    let occasion = Occasion { verb: Verb::Restore, plan_only: false };
    let policy = attempt(&plugin, "bucket-write-policy", occasion, &dir.path().join("mark")).await;
    assert_eq!((policy.denials[0].function, policy.changed), ("storage.bucket.write-config", false));
    assert!(policy.denials[0].reason.contains("gives power over the bucket"), "{:?}", policy.denials);
    assert_eq!(policy.error.unwrap().kind(), Kind::Denied);
}
