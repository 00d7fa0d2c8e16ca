//! A hostile plugin that is granted everything, for every verb: through no function does a backup, a
//! diagnosis, a plan or a verification change anything.

use super::decode::{bare, manifest};
use super::flow::made;
use super::{Bench, all_grants, exec, in_full};
use crate::error::{Error, Kind};
use crate::plugin::capability::{CAPABILITIES, Risk};
use crate::plugin::component::{digest, embed_manifest};
use crate::plugin::guard::lock;
use crate::plugin::verb::{BackupRequest, Depth, DiagnoseRequest, RestoreRequest, VerifyRequest};
use crate::plugin::{Cache, Plugin};
use crate::policy::exec::{ExecGrant, StdinGrant};
use crate::policy::slot::Template;
use crate::policy::storage::{BucketGrant, BucketVerb};
use crate::policy::{Effect, Grants, Occasion, Policy, Verb, When};
use serde_json::json;
use std::path::Path;
use std::sync::Arc;

const VERBS: [Verb; 4] = [Verb::Backup, Verb::Verify, Verb::Restore, Verb::Diagnose];

/// Functions that could change something, and a deed of the guest that tries each.
const TRIED: &[(&str, &str)] = &[
    ("exec.spawn", "spawn"),
    ("exec.process.wait", "spawn"),
    ("exec.run", "run"),
    ("storage.bucket.write", "bucket-write"),
    ("storage.bucket.write", "bucket-overwrite"),
    ("storage.writing.wait", "bucket-write"),
    ("storage.bucket.delete", "bucket-delete"),
    ("storage.bucket.write-config", "bucket-configure"),
    ("storage.put", "pipe"),
    ("storage.transfer.wait", "pipe"),
    ("storage.first-done", "first-done-of-own-pipes"),
    ("storage.create-archive", "archive"),
    ("storage.archive.add", "archive-of-output"),
    ("storage.archive.add-bytes", "archive"),
    ("storage.finish-archive", "archive"),
];

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
        let tried = elsewhere || TRIED.iter().any(|(function, _)| *function == name);
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
    let may = [
        BucketVerb::List,
        BucketVerb::Read,
        BucketVerb::Write,
        BucketVerb::Overwrite,
        BucketVerb::Delete,
        BucketVerb::DeleteVersion,
        BucketVerb::ReadConfig,
        BucketVerb::WriteConfig,
    ];
    let bucket = BucketGrant { may: may.into(), prefixes: vec![String::new()], inspect: true, when };
    grants.buckets = [("data".to_owned(), vec![bucket])].into();
    grants
}

/// Does `deed` on this occasion, granted everything; the error, if any, and whether the bucket changed.
async fn attempt(plugin: &Plugin, deed: &str, occasion: Occasion, mark: &Path) -> (Bench, Option<Error>, bool) {
    let bench = Bench::with(|bench| {
        bench.verb = occasion.verb;
        bench.grants = everything(mark);
    });
    let mut context = bench.context(deed);
    context.policy = Arc::new(Policy { occasion, ..(*context.policy).clone() });
    let before = lock(&bench.drawer.0).clone();
    let instance = plugin.start(context).await.unwrap();
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
    (bench, error, changed)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hostile_plugin_changes_nothing_in_a_backup_a_diagnosis_a_verification_or_a_plan() {
    let dir = tempfile::tempdir().unwrap();
    let bytes = greedy();
    let sha256 = digest(&bytes);
    let plugin = Plugin::load("rogue", bytes, &sha256, &everything(dir.path()), &Cache::none())
        .await
        .unwrap_or_else(|e| panic!("{}", in_full(&e)));
    let (mut n_tried, mut n_changed, mut marks) = (0, 0, Vec::new());
    for (function, deed) in TRIED {
        for (verb, plan_only) in VERBS.into_iter().flat_map(|verb| [(verb, false), (verb, true)]) {
            let what = format!("{function} by {deed:?} in {verb:?}, plan {plan_only}");
            // Of its own: a program that was told to end may still leave its mark later.
            let mark = dir.path().join(format!("mark-{n_tried}"));
            n_tried += 1;
            let (bench, error, changed) = attempt(&plugin, deed, Occasion { verb, plan_only }, &mark).await;
            if verb == Verb::Restore && !plan_only {
                n_changed += usize::from(changed || mark.exists());
                continue;
            }
            assert!(!changed, "{what} changed the bucket");
            assert!(verb == Verb::Backup || bench.shelf.is_empty(), "{what} stored something");
            // A backup stores artifacts; that is no change of what is backed up.
            let stores = verb == Verb::Backup && function.starts_with("storage.") && !deed.starts_with("bucket");
            if !stores {
                let error = error.unwrap_or_else(|| panic!("{what} was not refused"));
                assert_eq!(error.kind(), Kind::Denied, "{what}: {}", in_full(&error));
            }
            marks.push((what, mark));
        }
    }
    for (what, mark) in marks {
        assert!(!mark.exists(), "{what} ran its command");
    }
    // The deeds do change something where they may, or all this would show nothing.
    assert!(n_changed >= 5, "{n_changed}");
}
