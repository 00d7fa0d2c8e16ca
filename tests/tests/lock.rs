//! Object lock in compliance mode on real servers: what was backed up comes back whatever the writer's own
//! credentials do to it, and it is said what they did.

use aws_sdk_s3::types::ObjectLockMode;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};
use strongroom::store::s3::{S3Spec, S3Store};
use strongroom::store::{Lock, Store};
use strongroom_tests::behind::{TWO_PARTS, at, relay_with, setup_at};
use strongroom_tests::proxy::{Act, Proxy, Rule};
use strongroom_tests::relay::{Relay, Setup, private, sh};
use strongroom_tests::s3::{self, ACCESS_KEY, BUCKET, S3Server, SECRET_KEY, Server};
use strongroom_tests::{Output, Sandbox, TIMEOUT, object_lock, wait_until};

/// The bucket whose objects can be locked.
const LOCKING: &str = "locking";
const LOCK: &str = "object_lock = { mode = \"compliance\", days = 1 }";
/// Segments of two parts, so that the artifact has two.
const SEGMENTS: &str = "parts_per_segment = 2";
const PRODUCE: &str = "head -c 20000000 /dev/urandom";

/// A server, and a relay whose store is its bucket [`LOCKING`].
async fn start(kind: Server) -> (S3Server, Relay) {
    let server = S3Server::start(kind).await.unwrap();
    object_lock::create_bucket(server.port(), LOCKING, None).await.unwrap();
    let setup = setup_at(server.port(), LOCKING);
    let relay = relay_with(Setup { produce: sh(PRODUCE), store: format!("{SEGMENTS}\n{LOCK}"), ..setup });
    (server, relay)
}

/// A version of an object, or the marker of a deleted name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Version {
    key: String,
    id: String,
    is_marker: bool,
}

async fn versions(server: &S3Server, prefix: &str) -> Vec<Version> {
    let listed = s3::client(server.port()).list_object_versions().bucket(LOCKING).prefix(prefix).send().await.unwrap();
    assert_ne!(listed.is_truncated(), Some(true));
    let version = |key: Option<&str>, id: Option<&str>, is_marker| Version {
        key: key.unwrap().to_owned(),
        id: id.unwrap().to_owned(),
        is_marker,
    };
    let found = listed.versions().iter().map(|found| version(found.key(), found.version_id(), false));
    let markers = listed.delete_markers().iter().map(|found| version(found.key(), found.version_id(), true));
    found.chain(markers).collect()
}

/// Whether an object's current version is locked in compliance mode.
async fn is_locked(server: &S3Server, key: &str) -> bool {
    let head = s3::client(server.port()).head_object().bucket(LOCKING).key(key).send().await.unwrap();
    let until = head.object_lock_retain_until_date();
    head.object_lock_mode() == Some(&ObjectLockMode::Compliance) && until.is_some()
}

/// What somebody does to a name.
#[derive(Clone, Copy, Debug)]
enum Deed {
    Overwrite,
    Delete,
    OverwriteAndDelete,
}

/// Does it to every object under `prefix`, with the writer's own credentials, and tries to remove each
/// version for good, which the lock refuses.
async fn tamper(server: &S3Server, prefix: &str, deed: Deed) -> usize {
    let client = s3::client(server.port());
    let there = versions(server, prefix).await;
    // Versions come newest first: the oldest of each name is what was backed up, and is locked.
    let ours: BTreeMap<&str, &str> = there
        .iter()
        .filter(|version| !version.is_marker)
        .map(|found| (found.key.as_str(), found.id.as_str()))
        .collect();
    for (key, id) in &ours {
        let removed = client.delete_object().bucket(LOCKING).key(*key).version_id(*id).send().await;
        assert!(removed.is_err(), "{key} was removed although it is locked");
    }
    let kept: Vec<&str> = ours.into_keys().collect();
    for key in kept.iter().copied() {
        if matches!(deed, Deed::Overwrite | Deed::OverwriteAndDelete) {
            let body = b"not what was here".to_vec().into();
            client.put_object().bucket(LOCKING).key(key).body(body).send().await.unwrap();
        }
        if matches!(deed, Deed::Delete | Deed::OverwriteAndDelete) {
            client.delete_object().bucket(LOCKING).key(key).send().await.unwrap();
        }
    }
    kept.len()
}

/// Restores a backup into a file and returns what was said; the file must hold what was recorded.
#[track_caller]
fn check_restores(relay: &Relay, server: &S3Server, id: &str) -> Output {
    let copy = relay.sandbox.path("copy");
    let consume = sh(&format!("cat > {0}.tmp && mv {0}.tmp {0}", copy.display()));
    let setup = setup_at(server.port(), LOCKING);
    relay.configure(&Setup { consume, store: format!("{SEGMENTS}\n{LOCK}"), produce: sh(PRODUCE), ..setup });
    let restored = relay.run(&["restore", "orders", id]);
    restored.check_code(0);
    let shown = relay.run(&["show", "orders", id, "--output", "json"]);
    let record = shown.check_code(0).json();
    assert_eq!(b3sum(relay, &copy), record["record"]["artifacts"][0]["blake3"].as_str().unwrap());
    std::fs::remove_file(copy).unwrap();
    restored
}

fn b3sum(relay: &Relay, path: &PathBuf) -> String {
    let output = relay.sandbox.command(strongroom_tests::program("b3sum").unwrap(), [path]).run();
    output.check_code(0).stdout.split_whitespace().next().unwrap().to_owned()
}

async fn check_a_locked_backup(kind: Server) {
    let (server, relay) = start(kind).await;
    // The bucket can do it, and finding that out leaves nothing behind that is locked.
    let checked = relay.run(&["store", "check", "main", "--output", "json"]).check_code(0).json();
    let checks = checked["checks"].as_array().unwrap().clone();
    let lock = checks.iter().find(|check| check["id"] == "store.object-lock").unwrap();
    assert_eq!(lock["outcome"], "passed", "{lock:#}");
    assert_eq!(versions(&server, "strongroom-check/").await, []);

    let id = relay.backup();
    relay.run(&["verify", "orders", "latest"]).check_code(0);
    // Everything is locked but the lease.
    let (folder, mut n_locked) = (format!("orders/{id}/"), 0);
    for Version { key, .. } in versions(&server, "").await {
        if key == "orders/lease.json" {
            assert!(!is_locked(&server, &key).await);
        } else {
            assert!(is_locked(&server, &key).await, "{key} is not locked");
            n_locked += 1;
        }
    }
    // Two segments, the record, the verification and the plugin.
    assert_eq!(n_locked, 5);

    check_prune_keeps_what_is_locked(&relay, &server);

    // Nothing happened yet, and nothing is said.
    let quiet = check_restores(&relay, &server, &id);
    assert!(!quiet.stderr.contains("tampered"), "{}", quiet.stderr);
    for deed in [Deed::Overwrite, Deed::Delete, Deed::OverwriteAndDelete] {
        let id = if matches!(deed, Deed::Overwrite) { id.clone() } else { relay.backup() };
        let folder = format!("orders/{id}/");
        assert!(tamper(&server, &folder, deed).await >= 3);
        let restored = check_restores(&relay, &server, &id);
        for name in ["record.json", "out.0001", "out.0002"] {
            let said = |line: &str| line.contains("tampered") && line.contains(name) && line.contains("version");
            assert!(restored.stderr.lines().any(said), "{deed:?} of {name} is not said: {}", restored.stderr);
        }
        for depth in ["stored", "contents"] {
            let verified = relay.run(&["verify", "orders", &id, "--depth", depth, "--output", "json"]);
            let found = verified.check_code(0).json();
            let names = found["checks"].as_array().unwrap().iter().find(|check| check["id"] == "host.names").cloned();
            let names = names.unwrap_or_else(|| panic!("{deed:?}, depth {depth}: {found:#}"));
            assert_eq!(names["outcome"], "warned");
            assert!(names["evidence"].as_str().unwrap().contains("out.0002"), "{names:#}");
        }
        check_listing(&relay, &id, deed);
    }
    // What happened to one is no obstacle to the next, not even when lease and plugin are gone.
    assert_eq!(tamper(&server, "plugins/", Deed::OverwriteAndDelete).await, 1);
    s3::client(server.port()).delete_object().bucket(LOCKING).key("orders/lease.json").send().await.unwrap();
    let next = relay.backup();
    relay.run(&["verify", "orders", &next]).check_code(0);
    // Servers differ in whether that run could store the plugin again.
    assert_eq!(tamper(&server, "plugins/", Deed::OverwriteAndDelete).await, 1);
    check_a_lost_machine(&relay, &server, &id);
    // Nor does a prune take for rubbish what only lost its name.
    check_prune_keeps_what_is_locked(&relay, &server);
    assert!(versions(&server, &folder).await.len() > 3);
    relay.run(&["verify", "orders", &id, "--depth", "stored"]).check_code(0);
}

/// A prune that would keep the newest backup alone works, removes nothing that is locked, and says why.
#[track_caller]
fn check_prune_keeps_what_is_locked(relay: &Relay, server: &S3Server) {
    let setup = setup_at(server.port(), LOCKING);
    let settings = "[job.orders.keep]\nlast = 1".into();
    relay.configure(&Setup { settings, store: format!("{SEGMENTS}\n{LOCK}"), produce: sh(PRODUCE), ..setup });
    // One that is neither the newest nor verified.
    relay.backup();
    relay.backup();
    let pruned = relay.run(&["prune", "orders", "--yes", "--orphans", "--output", "json"]);
    let done = pruned.check_code(0).json();
    assert_eq!(done["removed"], serde_json::json!([]), "{done:#}");
    let reasons = done["backups"].as_array().unwrap().iter().map(|backup| backup["reasons"].to_string());
    assert!(reasons.into_iter().any(|reasons| reasons.contains("locked: compliance")), "{done:#}");
}

/// A record that was overwritten is listed by what it was; one whose name was deleted only when asked.
#[track_caller]
fn check_listing(relay: &Relay, id: &str, deed: Deed) {
    let row = |args: &[&str]| {
        let listed = relay.run(args).check_code(0).json();
        listed["backups"].as_array().unwrap().iter().find(|row| row["id"] == id).cloned()
    };
    let (shown, hidden) =
        (row(&["list", "orders", "--output", "json"]), row(&["list", "orders", "--hidden", "--output", "json"]));
    if matches!(deed, Deed::Overwrite) {
        let shown = shown.expect("an overwritten record is listed");
        assert!(shown["tampered"][0].as_str().unwrap().contains("overwritten"), "{shown:#}");
        assert_eq!((&shown["hidden"], &shown["signer"]), (&false.into(), &"own".into()));
    } else {
        assert_eq!(shown, None, "{deed:?}");
        let hidden = hidden.expect("a record under a deleted name");
        assert!(hidden["tampered"][0].as_str().unwrap().contains("deleted"), "{hidden:#}");
        assert_eq!(hidden["hidden"], true);
        relay.run(&["list", "orders", "--hidden"]).check_code(0).check_stdout("hidden").check_stdout("tampered with");
    }
}

/// Who has nothing but the store, the identity and the key gets it back as well, the plugin too.
#[track_caller]
fn check_a_lost_machine(relay: &Relay, server: &S3Server, id: &str) {
    let key = relay.run(&["key", "show"]).check_code(0).stdout.clone();
    let key = key.split_whitespace().find(|word| word.starts_with("srhost1-")).unwrap().to_owned();
    let mut empty = Sandbox::new();
    std::fs::copy(relay.sandbox.path("identity.txt"), empty.path("identity.txt")).unwrap();
    private(&empty.path("identity.txt"));
    empty.set_env("AWS_ACCESS_KEY_ID", ACCESS_KEY).set_env("AWS_SECRET_ACCESS_KEY", SECRET_KEY);
    let url = format!("s3://{LOCKING}?endpoint=http://127.0.0.1:{}&region=us-east-1", server.port());
    empty.run(["list", "--store-url", &url, "--hidden"]).check_code(0).check_stdout(id);
    let restore = ["restore", "orders", id, "--store-url", &url, "--identity", "identity.txt", "--trust-signer", &key];
    let restored = empty.run(restore.iter().copied().chain(["--grant-requested"]));
    restored.check_code(0).check_stderr("plugins/").check_stderr("tampered");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_locked_backup_in_versitygw_comes_back_whatever_its_writer_does_to_it() {
    check_a_locked_backup(Server::Versitygw).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_locked_backup_in_minio_comes_back_whatever_its_writer_does_to_it() {
    check_a_locked_backup(Server::Minio).await;
}

/// Bytes of every version under `prefix`, and when its lock in compliance mode ends, in seconds.
async fn locks(server: &S3Server, prefix: &str) -> Vec<(u64, i64)> {
    let store = S3Store::open(S3Spec { bucket: LOCKING.to_owned(), ..server.spec() }).await.unwrap();
    let mut found = Vec::new();
    for version in store.versions(prefix).await.unwrap().iter().filter(|version| !version.is_marker) {
        match store.lock_of(version).await.unwrap() {
            Lock::Until { mode, until } if mode == "compliance" => found.push((version.size, until.as_second())),
            Lock::Free => {}
            other => panic!("{version:?} is {other:?}"),
        }
    }
    found
}

/// A backup makes the lock of the plugin's own bytes last as long as its own, whatever became of the name.
async fn check_the_plugin_stays_locked(kind: Server) {
    let (server, relay) = start(kind).await;
    let configure = |days: u32| {
        let setup = setup_at(server.port(), LOCKING);
        let store = LOCK.replace("days = 1", &format!("days = {days}"));
        relay.configure(&Setup { produce: sh("seq 1 1000"), store, ..setup });
    };
    configure(1);
    relay.backup();
    let [(size, mut before)] = locks(&server, "plugins/").await[..] else { panic!("one plugin") };
    for (days, deed) in
        [(3, None), (5, Some(Deed::Overwrite)), (7, Some(Deed::Delete)), (9, Some(Deed::OverwriteAndDelete))]
    {
        if let Some(deed) = deed {
            tamper(&server, "plugins/", deed).await;
        }
        configure(days);
        let id = relay.backup();
        let [(_, of_backup)] = locks(&server, &format!("orders/{id}/record.json")).await[..] else { panic!("{id}") };
        let ends = locks(&server, "plugins/").await.into_iter().filter(|(bytes, _)| *bytes == size);
        let end = ends.map(|(_, end)| end).max().unwrap();
        assert!(end > before, "{kind:?}, {deed:?}: from {before} to {end}");
        // The record was written some moments later than the plugin was locked.
        assert!(of_backup - end < 300, "{kind:?}, {deed:?}: the plugin until {end}, the backup until {of_backup}");
        before = end;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_lock_of_a_plugin_lasts_as_long_as_its_newest_backup_whatever_became_of_its_name() {
    for kind in [Server::Versitygw, Server::Minio] {
        check_the_plugin_stays_locked(kind).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_verification_that_was_written_over_or_deleted_is_not_forgotten() {
    for kind in [Server::Versitygw, Server::Minio] {
        let (server, relay) = start(kind).await;
        let setup = setup_at(server.port(), LOCKING);
        let settings = "[job.orders.keep]\nlast = 1".into();
        relay.configure(&Setup { produce: sh("seq 1 1000"), settings, store: LOCK.into(), ..setup });
        let id = relay.backup();
        relay.run(&["verify", "orders", &id]).check_code(0);
        relay.backup();
        for deed in [Deed::Overwrite, Deed::Delete] {
            tamper(&server, &format!("orders/{id}/verified/"), deed).await;
            let shown = relay.run(&["show", "orders", &id, "--output", "json"]);
            let shown = shown.check_code(0).json();
            assert!(shown["tampered"][0].as_str().unwrap().contains("/verified/"), "{kind:?} {shown:#}");
            relay.run(&["show", "orders", &id]).check_code(0).check_stderr("was tampered with");
            let verified = shown["verified"].clone();
            assert_eq!((verified.as_array().unwrap().len(), &verified[0]["passed"]), (1, &true.into()), "{kind:?}");
            let row = relay.run(&["list", "orders", "--output", "json"]).check_code(0).json();
            let row = row["backups"].as_array().unwrap().iter().find(|row| row["id"] == id.as_str()).cloned().unwrap();
            assert!(row["tampered"][0].as_str().unwrap().contains("/verified/"), "{kind:?} {row:#}");
            let plan = relay.run(&["prune", "orders", "--dry-run", "--output", "json"]).check_code(0).json();
            let reasons = plan["backups"][0]["reasons"].to_string();
            assert!(reasons.contains("the last one verified by its contents"), "{kind:?}, {deed:?}: {reasons}");
        }
    }
}

/// What `store check` says of one ability of the store.
#[track_caller]
fn checked(relay: &Relay, id: &str) -> Option<serde_json::Value> {
    let found = relay.run(&["store", "check", "main", "--output", "json"]).json();
    found["checks"].as_array().unwrap().iter().find(|check| check["id"] == id).cloned()
}

#[tokio::test(flavor = "multi_thread")]
async fn store_check_warns_where_versions_are_not_listed_and_where_leases_would_be_locked() {
    for kind in [Server::Versitygw, Server::Minio] {
        let (server, relay) = start(kind).await;
        assert_eq!(checked(&relay, "store.list-versions").unwrap()["outcome"], "passed", "{kind:?}");
        assert_eq!(checked(&relay, "store.lease"), None, "{kind:?}");
        let denied = Rule::always("GET", "versions", Act::Answer(403, "AccessDenied", "Access Denied"));
        let proxy = Proxy::start(server.port(), (ACCESS_KEY, SECRET_KEY), vec![denied]).await.unwrap();
        relay.configure(&Setup { store: LOCK.into(), ..setup_at(proxy.port(), LOCKING) });
        let warned = checked(&relay, "store.list-versions").unwrap();
        assert_eq!(warned["outcome"], "warned", "{kind:?} {warned:#}");
        assert!(warned["causes"][0].as_str().unwrap().contains("s3:ListBucketVersions"), "{kind:?} {warned:#}");
        // Without locks of its own nothing needs that right.
        relay.configure(&setup_at(proxy.port(), LOCKING));
        assert_eq!(checked(&relay, "store.list-versions"), None, "{kind:?}");

        object_lock::create_bucket(server.port(), "default", Some(1)).await.unwrap();
        relay.configure(&setup_at(server.port(), "default"));
        let warned = checked(&relay, "store.lease").unwrap();
        assert_eq!(warned["outcome"], "warned", "{kind:?} {warned:#}");
        assert!(warned["evidence"].as_str().unwrap().contains("for 1 days"), "{kind:?} {warned:#}");
        assert!(warned["causes"][0].as_str().unwrap().contains("default retention locks leases"), "{kind:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_latest_backup_is_never_an_older_one_without_a_word() {
    for kind in [Server::Versitygw, Server::Minio] {
        let (server, relay) = start(kind).await;
        let setup = setup_at(server.port(), LOCKING);
        relay.configure(&Setup { produce: sh("seq 1 1000"), store: LOCK.into(), ..setup });
        let first = relay.backup();
        // Ids have whole seconds, and the order of two within one is not that of their names.
        let mut second = relay.backup();
        while second.split('-').next() == first.split('-').next() {
            second = relay.backup();
        }
        tamper(&server, &format!("orders/{second}/"), Deed::Delete).await;
        let shown = relay.run(&["show", "orders", "latest", "--output", "json"]);
        shown.check_code(0).check_stderr(&second).check_stderr("--hidden");
        assert_ne!(shown.json()["record"]["id"], second.as_str());
        relay.run(&["verify", "orders", &second]).check_code(0);
        for id in relay.listed() {
            tamper(&server, &format!("orders/{id}/"), Deed::Delete).await;
        }
        relay.run(&["restore", "orders", "latest"]).check_error(1, &["names were deleted", "list orders --hidden"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_that_cannot_lock_is_refused_before_anything_is_stored() {
    for kind in [Server::Versitygw, Server::Minio] {
        let server = S3Server::start(kind).await.unwrap();
        let relay = relay_with(Setup {
            produce: sh(TWO_PARTS),
            place: at(server.port(), BUCKET),
            store: LOCK.into(),
            ..Setup::default()
        });
        relay.run(&["backup", "orders"]).check_error(1, &["cannot lock objects", "object_lock"]);
        relay.run(&["store", "check", "main"]).check_code(5).check_stdout("can lock objects");
        relay.run(&["store", "init", "main"]).check_error(4, &["object-lock"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_fails_in_a_locking_bucket_leaves_nothing_that_looks_like_a_backup() {
    for kind in [Server::Versitygw, Server::Minio] {
        let server = S3Server::start(kind).await.unwrap();
        object_lock::create_bucket(server.port(), LOCKING, None).await.unwrap();
        let denied = Rule::always("PUT", "record.json", Act::Answer(403, "AccessDenied", "Access Denied"));
        let proxy = Proxy::start(server.port(), (ACCESS_KEY, SECRET_KEY), vec![denied]).await.unwrap();
        let setup = setup_at(proxy.port(), LOCKING);
        let relay = relay_with(Setup { produce: sh("seq 1 1000"), store: LOCK.into(), ..setup });
        let failed = relay.run(&["backup", "orders"]);
        failed.check_error(4, &["AccessDenied", "record.json"]);
        // What is locked cannot be removed: it is hidden, until its lock ends.
        let (client, prefix) = (s3::client(server.port()), "orders/2");
        let named = client.list_objects_v2().bucket(LOCKING).prefix(prefix).send().await.unwrap();
        let left = versions(&server, prefix).await.into_iter().filter(|version| !version.is_marker).count();
        assert_eq!(named.contents().len(), if failed.stderr.contains("left behind") { 1 } else { 0 }, "{failed:#?}");
        assert_eq!(left, 1, "{kind:?}");
        let list = relay.run(&["list", "orders", "--hidden", "--output", "json"]).check_code(0).json();
        assert_eq!(list["backups"], serde_json::json!([]), "{kind:?}");
        proxy.set_rules(Vec::new());
        let id = relay.backup();
        relay.run(&["verify", "orders", &id]).check_code(0);
        check_hidden_leavings_go_with_their_lock(&relay, &server, &proxy, &id).await;
    }
}

/// What a failed run could only hide is found, stays for as long as it is locked, and then goes for good.
async fn check_hidden_leavings_go_with_their_lock(relay: &Relay, server: &S3Server, proxy: &Proxy, kept: &str) {
    let setup = setup_at(proxy.port(), LOCKING);
    let keep = |lock: &str| Setup {
        settings: "[job.orders.keep]\nlast = 1".into(),
        produce: sh("seq 1 1000"),
        store: lock.into(),
        ..setup.clone()
    };
    relay.configure(&keep(LOCK));
    let prune = |args: &[&str]| {
        let pruned = relay.run(&[&["prune", "orders", "--output", "json"], args].concat());
        pruned.check_code(0).json()
    };
    let days = |n: u64| Rule::always("", "", Act::Later(Duration::from_secs(n * 24 * 3600)));
    // The lock of a day ends long before the week is over: of the two, the later one is said.
    let young = prune(&["--dry-run", "--orphans"]);
    let folder = &young["folders"][0];
    assert_eq!((young["folders"].as_array().unwrap().len(), &folder["remove"]), (1, &false.into()), "{young:#}");
    assert!(folder["reason"].as_str().unwrap().contains("made no backup, not before 20"), "{young:#}");
    // A longer one keeps it when the week is over, and it is said until when.
    let hidden: Vec<_> = versions(server, &format!("orders/{}/", folder["id"].as_str().unwrap())).await;
    let version = hidden.iter().find(|version| !version.is_marker).expect("what is locked");
    object_lock::extend(server.port(), LOCKING, &version.key, &version.id, 20).await.unwrap();
    proxy.set_rules(vec![days(8)]);
    let locked = prune(&["--yes", "--orphans"]);
    let reason = locked["folders"][0]["reason"].as_str().unwrap();
    assert!(reason.contains("made no backup, locked: compliance retention until 20"), "{locked:#}");
    assert_eq!(locked["removed_objects"], 0, "{locked:#}");
    // Both servers go by their own clock, which nobody moves: they refuse, and that is said.
    proxy.set_rules(vec![days(21)]);
    let planned = prune(&["--dry-run", "--orphans"]);
    assert_eq!(planned["folders"][0]["remove"], true, "{planned:#}");
    relay.run(&["prune", "orders", "--yes", "--orphans"]).check_stderr("could not remove what is left under");
    assert_eq!(versions(server, &version.key).await.iter().filter(|version| !version.is_marker).count(), 1);
    proxy.set_rules(Vec::new());
    relay.run(&["verify", "orders", kept]).check_code(0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_failed_run_could_only_hide_goes_for_good_once_its_lock_has_ended() {
    for kind in [Server::Versitygw, Server::Minio] {
        let server = S3Server::start(kind).await.unwrap();
        object_lock::create_bucket(server.port(), LOCKING, None).await.unwrap();
        let proxy = Proxy::start(server.port(), (ACCESS_KEY, SECRET_KEY), Vec::new()).await.unwrap();
        // A lock that whoever has the right to can end early: nobody can move a server's clock.
        let relay = relay_with(Setup {
            settings: "[job.orders.keep]\nlast = 1".into(),
            produce: sh("seq 1 1000"),
            store: LOCK.replace("compliance", "governance"),
            ..setup_at(proxy.port(), LOCKING)
        });
        let id = relay.backup();
        let denied = || Rule::always("PUT", "record.json", Act::Answer(403, "AccessDenied", "Access Denied"));
        proxy.set_rules(vec![denied()]);
        relay.run(&["backup", "orders"]).check_code(4);
        let is_left = |found: &Version| found.key.contains("/data/") && !found.key.contains(&id);
        let left: Vec<_> = versions(&server, "orders/").await.into_iter().filter(is_left).collect();
        let locked = left.iter().find(|found| !found.is_marker).expect("a locked version");

        let end = object_lock::end_soon(server.port(), LOCKING, &locked.key, &locked.id).await.unwrap();
        wait_until("the end of the lock", TIMEOUT, || Ok((SystemTime::now() > end).then_some(()))).unwrap();
        proxy.set_rules(vec![Rule::always("", "", Act::Later(Duration::from_secs(8 * 24 * 3600)))]);
        let pruned = relay.run(&["prune", "orders", "--yes", "--orphans", "--output", "json"]).check_code(0).json();
        assert_eq!(pruned["folders"][0]["remove"], true, "{kind:?} {pruned:#}");
        let left: Vec<_> = versions(&server, "orders/").await.into_iter().filter(is_left).collect();
        assert_eq!(left, [], "{kind:?} {pruned:#}");
        proxy.set_rules(Vec::new());
        relay.run(&["verify", "orders", &id]).check_code(0);
    }
}
