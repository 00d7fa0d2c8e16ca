//! Retention through the real binary: what is removed, what never is, and when; on a directory and on
//! both real servers, with versions and locks too.

use serde_json::Value;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use strongroom::catalog::{Catalog, HostKey, Trust};
use strongroom::id::{BackupId, ObjectKey};
use strongroom::progress::Silent;
use strongroom::run::prune::{self, Pruned};
use strongroom::run::retention::Keep;
use strongroom::store::Store;
use strongroom::store::faulty::{Fault, FaultyStore};
use strongroom::store::s3::{S3Spec, S3Store};
use strongroom_tests::documented::check_documented;
use strongroom_tests::postgres::{Postgres, Version, job};
use strongroom_tests::proxy::{Act, Proxy, Rule};
use strongroom_tests::relay::{Relay, Setup, sh};
use strongroom_tests::s3::{self, ACCESS_KEY, BUCKET, S3Server, SECRET_KEY, Server};
use strongroom_tests::{Output, Running, TIMEOUT, files, object_lock, wait_until};

const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(24 * 3600);

/// A job that keeps its newest backup.
fn keeps_one() -> Setup {
    Setup { produce: sh("echo data"), settings: "[job.orders.keep]\nlast = 1".into(), ..Setup::default() }
}

/// The same into a bucket at a port of the loopback.
fn keeps_one_in(port: u16, bucket: &str) -> Setup {
    let place = format!(
        "type = \"s3\"\nbucket = \"{bucket}\"\nendpoint = \"http://127.0.0.1:{port}\"\n\
         access_key = {{ env = \"ACCESS_KEY\" }}\nsecret_key = {{ env = \"SECRET_KEY\" }}"
    );
    Setup { place, ..keeps_one() }
}

fn keeps_one_at(port: u16, bucket: &str) -> Relay {
    let mut relay = Relay::new(keeps_one_in(port, bucket));
    relay.sandbox.set_env("ACCESS_KEY", ACCESS_KEY).set_env("SECRET_KEY", SECRET_KEY);
    relay
}

fn prune(relay: &Relay, args: &[&str]) -> Output {
    relay.run(&[&["prune", "orders"], args].concat())
}

/// What it would do, or did, as JSON.
#[track_caller]
fn prune_json(relay: &Relay, args: &[&str]) -> Value {
    let output = prune(relay, &[args, &["--output", "json"]].concat());
    output.check_code(0);
    let json = output.json();
    check_documented(&json, "Prune");
    json
}

fn texts(list: &Value) -> Vec<&str> {
    list.as_array().expect("a list").iter().map(|text| text.as_str().expect("text")).collect()
}

/// Makes everything in a folder of a local store this old, and the temporary files for it.
fn age(relay: &Relay, folder: &Path, by: Duration) {
    let then = SystemTime::now() - by;
    let temporary = relay.store().join(".tmp");
    for path in [files(folder).unwrap_or_default(), files(&temporary).unwrap()].concat() {
        std::fs::File::options().append(true).open(&path).unwrap().set_modified(then).unwrap();
    }
}

// What is kept.

#[test]
fn a_job_that_does_not_say_what_is_kept_loses_nothing() {
    let relay = Relay::new(Setup { produce: sh("echo data"), ..Setup::default() });
    relay.backup();
    let refused = prune(&relay, &["--yes"]);
    refused.check_code(2).check_stderr("does not say what is kept").check_stderr("keep in [job.orders]");
    assert_eq!(relay.listed().len(), 1);
}

#[test]
fn the_plan_says_why_and_nothing_is_removed_before_somebody_agrees() {
    let relay = Relay::new(keeps_one());
    let (old, new) = (relay.backup(), relay.backup());
    let plan = prune_json(&relay, &["--dry-run"]);
    let shown: Vec<_> = plan["backups"]
        .as_array()
        .unwrap()
        .iter()
        .map(|b| (b["id"].as_str().unwrap(), b["keep"].as_bool().unwrap()))
        .collect();
    assert_eq!(shown, [(old.as_str(), false), (new.as_str(), true)]);
    assert_eq!(texts(&plan["backups"][0]["reasons"]), ["no rule keeps it"]);
    assert_eq!(texts(&plan["backups"][1]["reasons"]), ["last", "the last good one"]);
    prune(&relay, &["--dry-run"]).check_code(0).check_stdout("REMOVE").check_stdout("nothing was removed");
    // Nobody can be asked here.
    prune(&relay, &[]).check_code(4).check_stderr("REMOVE").check_stderr("not a terminal").check_stderr("--yes");
    assert_eq!(relay.listed(), [old, new]);
}

#[test]
fn on_a_terminal_somebody_is_asked_after_the_plan() {
    let relay = Relay::new(keeps_one());
    let (old, new) = (relay.backup(), relay.backup());
    let binary = strongroom_tests::host_binary().unwrap();
    let script = strongroom_tests::program("script").unwrap();
    let line = format!("'{}' prune orders", binary.display());
    let answer = |answer: &str| {
        let args = ["-qec", &line, "/dev/null"];
        relay.sandbox.command(&script, args).env("SHELL", "/bin/sh").stdin(answer).run()
    };
    for no in ["n\n", "\n"] {
        answer(no).check_code(130).check_stdout("no rule keeps it").check_stdout("nothing was removed");
    }
    assert_eq!(relay.listed(), [old, new.clone()]);
    answer("y\n").check_code(0).check_stdout("removed 1 backup");
    assert_eq!(relay.listed(), [new]);
}

#[test]
fn a_record_goes_at_once_its_data_a_day_later_and_what_is_kept_stays_whole() {
    let relay = Relay::new(keeps_one());
    let (old, new) = (relay.backup(), relay.backup());
    let done = prune_json(&relay, &["--yes"]);
    assert_eq!(texts(&done["removed"]), [old.as_str()]);
    assert_eq!(relay.listed(), std::slice::from_ref(&new));
    assert!(!relay.segments(&old).is_empty(), "the data stays for a day");
    let folder = relay.store().join("orders").join(&old);
    // However old the data is: what counts is when the record was removed.
    age(&relay, &folder.join("data"), 100 * DAY);
    let plan = prune_json(&relay, &["--dry-run", "--orphans"]);
    assert!(plan["folders"][0]["reason"].as_str().unwrap().contains("not before"), "{plan:#}");
    prune(&relay, &["--yes", "--orphans"]).check_code(0).check_stdout("nothing to remove");
    age(&relay, &folder, DAY + HOUR);
    let done = prune_json(&relay, &["--yes"]);
    assert_eq!(done["removed_objects"], 2, "the segment and the note: {done:#}");
    assert!(!folder.exists());
    relay.run(&["verify", "orders", &new]).check_code(0);
}

#[test]
fn the_last_verified_one_stays_though_newer_ones_are_damaged() {
    let relay = Relay::new(keeps_one());
    let verified = relay.backup();
    relay.run(&["verify", "orders", &verified]).check_code(0);
    let damaged = relay.backup();
    std::fs::write(&relay.segments(&damaged)[0], b"rotten").unwrap();
    relay.run(&["verify", "orders", &damaged, "--depth", "stored"]).check_code(5);
    let plan = prune_json(&relay, &["--dry-run"]);
    assert!(texts(&plan["backups"][0]["reasons"]).contains(&"the last good one"), "{plan:#}");
    let newer = relay.backup();
    let plan = prune_json(&relay, &["--yes"]);
    assert_eq!(
        texts(&plan["backups"][0]["reasons"]),
        ["the last one verified by its stored bytes", "the last one verified by its contents"]
    );
    assert_eq!(relay.listed(), [verified, damaged, newer]);
}

#[test]
fn a_record_by_an_unknown_key_stops_it() {
    let relay = Relay::new(keeps_one());
    relay.backup();
    relay.backup();
    let keys: Vec<_> = files(&relay.sandbox.path("home")).unwrap();
    let key = keys.iter().find(|path| path.ends_with("host.key")).expect("the host's key");
    std::fs::remove_file(key).unwrap();
    let stopped = prune(&relay, &["--yes"]);
    stopped.check_code(4).check_stderr("nothing of job \"orders\" is pruned").check_stderr("not trusted");
    assert_eq!(relay.listed().len(), 2);
}

// Sources.

fn from_source(id: &str) -> Setup {
    Setup { settings: format!("source_id = \"{id}\"\n[job.orders.keep]\nlast = 1"), ..keeps_one() }
}

#[test]
fn another_source_fails_the_job_until_it_is_confirmed_and_never_rotates_the_old_one_out() {
    let relay = Relay::new(from_source("cluster-1"));
    let good = relay.backup();
    relay.configure(&from_source("cluster-2"));
    let refused = relay.run(&["backup", "orders"]);
    refused.check_code(4).check_stderr("cluster-1").check_stderr("cluster-2").check_stderr("--new-source 'cluster-2'");
    assert_eq!(relay.listed(), std::slice::from_ref(&good), "nothing was recorded");
    assert_eq!(relay.stored().len(), 2, "and nothing is left: {:?}", relay.stored());
    relay.run(&["backup", "orders", "--new-source", "cluster-3"]).check_code(4).check_stderr("cluster-3");
    let confirmed = relay.run(&["backup", "orders", "--new-source", "cluster-2", "--output", "json"]);
    let confirmed = confirmed.check_code(0).json()["id"].as_str().unwrap().to_owned();
    let shown = relay.run(&["show", "orders", &confirmed, "--output", "json"]).json();
    let noted = &shown["record"]["extra"]["new_source"];
    assert_eq!(*noted, serde_json::json!({ "confirmed": "cluster-2", "before": ["cluster-1"] }), "{shown:#}");
    // Said once: from now on it is known, and so is the old one.
    let second = relay.backup();
    prune(&relay, &["--yes"]).check_code(0);
    assert_eq!(relay.listed(), [good, second], "the good one of the old source stays");
    relay.configure(&from_source("cluster-1"));
    relay.backup();
}

#[test]
fn a_database_that_was_replaced_by_an_empty_one_never_rotates_its_backups_out() {
    let keep = job::Setup { settings: "[job.orders.keep]\nlast = 1".into(), ..job::Setup::default() };
    let full = Postgres::start(Version::V18).unwrap();
    full.sql("postgres", "CREATE DATABASE shop;\n\\connect shop\nCREATE TABLE t AS SELECT generate_series(1, 1000)")
        .unwrap();
    let orders = job::Job::new(job::Into::Folder, Version::V18);
    orders.configure(&full, &keep);
    let good = orders.backup();
    let identifier =
        |server: &Postgres| server.sql("postgres", "SELECT system_identifier FROM pg_control_system()").unwrap();
    let old = identifier(&full);
    drop(full);

    let empty = Postgres::start(Version::V18).unwrap();
    let new = identifier(&empty);
    orders.configure(&empty, &keep);
    for _ in 0..2 {
        let refused = orders.run(&["backup", "orders"]);
        refused.check_code(4).check_stderr(&old).check_stderr(&format!("--new-source '{new}'"));
    }
    let listed = || -> Vec<String> {
        let json = orders.run(&["list", "orders", "--output", "json"]).json();
        json["backups"].as_array().unwrap().iter().map(|b| b["id"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(listed(), std::slice::from_ref(&good));
    orders.run(&["backup", "orders", "--new-source", &new]).check_code(0);
    let newest = orders.backup();
    orders.run(&["prune", "orders", "--yes"]).check_code(0);
    assert_eq!(listed(), [good, newest], "one of each source");
}

// Runs that were killed, and runs that are at work.

/// A backup whose producer has begun and does not end.
fn stuck_backup(relay: &Relay, setup: &Setup) -> Running {
    let marker = relay.sandbox.path("begun");
    let script = format!("head -c 20000000 /dev/urandom; echo begun > {}; exec sleep 600", marker.display());
    relay.configure(&Setup { produce: sh(&script), ..setup.clone() });
    let running = relay.sandbox.strongroom(["backup", "orders"]).start().unwrap();
    wait_until("the producer", Duration::from_secs(60), || Ok(marker.exists().then_some(()))).unwrap();
    running
}

/// Kills it and waits until it is gone, and its locks with it.
fn kill(running: Running) {
    running.signal(rustix::process::Signal::KILL).unwrap();
    assert_eq!(running.finish(Duration::from_secs(60)).unwrap().code, None);
}

#[test]
fn what_a_killed_run_left_is_told_by_the_next_one_and_removed_when_it_is_a_week_old() {
    let relay = Relay::new(keeps_one());
    kill(stuck_backup(&relay, &keeps_one()));
    relay.configure(&keeps_one());
    let next = relay.run(&["backup", "orders"]);
    next.check_code(0).check_stderr("did not end and left no backup").check_stderr("--orphans");
    let kept = relay.listed();
    let pending = || files(&relay.store().join(".tmp")).unwrap().iter().filter(|path| path.ends_with("key")).count();
    let left = || relay.stored().len();
    let n_left = left();
    assert_eq!(n_left, 4, "a record, a segment, and a temporary file with its note: {:?}", relay.stored());
    // Not while it is young, and not unless it was asked for.
    prune(&relay, &["--yes", "--orphans"]).check_code(0).check_stdout("nothing to remove");
    age(&relay, &relay.sandbox.path("none"), 8 * DAY);
    prune(&relay, &["--yes"]).check_code(0).check_stdout("nothing to remove");
    let done = prune_json(&relay, &["--yes", "--orphans"]);
    assert_eq!(done["aborted_uploads"], 1, "{done:#}");
    assert_eq!((left(), pending()), (2, 0), "{:?}", relay.stored());
    assert_eq!(relay.listed(), kept);
    let quiet = relay.run(&["backup", "orders"]);
    assert!(!quiet.check_code(0).stderr.contains("did not end"), "{}", quiet.stderr);
}

#[test]
fn a_prune_and_a_backup_of_one_job_do_not_overlap() {
    let relay = Relay::new(keeps_one());
    relay.backup();
    relay.backup();
    let running = stuck_backup(&relay, &keeps_one());
    prune(&relay, &["--yes"]).check_code(1).check_stderr("another run of job \"orders\" is at work");
    assert_eq!(relay.listed().len(), 2);
    kill(running);
    prune(&relay, &["--yes"]).check_code(0);
    assert_eq!(relay.listed().len(), 1);
}

#[test]
fn a_restore_that_has_read_the_record_finishes_while_prune_works() {
    let relay = Relay::new(Setup { produce: sh("head -c 60000000 /dev/urandom"), ..keeps_one() });
    let old = relay.backup();
    let [begun, go, restored] = ["begun", "go", "restored"].map(|name| relay.sandbox.path(name));
    let consume = format!(
        "head -c 100000 > {2}; touch {0}; while [ ! -e {1} ]; do sleep 0.05; done; cat >> {2}",
        begun.display(),
        go.display(),
        restored.display()
    );
    relay.configure(&Setup { consume: sh(&consume), ..keeps_one() });
    relay.backup();
    let restore = relay.sandbox.strongroom(["restore", "orders", &old]).start().unwrap();
    wait_until("the restore", Duration::from_secs(60), || Ok(begun.exists().then_some(()))).unwrap();
    let done = prune_json(&relay, &["--yes"]);
    assert_eq!(texts(&done["removed"]), [old.as_str()]);
    std::fs::write(&go, "").unwrap();
    restore.finish(Duration::from_secs(120)).unwrap().check_code(0);
    assert_eq!(std::fs::metadata(&restored).unwrap().len(), 60_000_000);
    // Whoever comes later finds no such backup.
    relay.run(&["restore", "orders", &old]).check_code(1).check_stderr("there is no backup");
}

// Real servers.

async fn store_at(server: &S3Server, bucket: &str) -> Arc<dyn Store> {
    Arc::new(S3Store::open(S3Spec { bucket: bucket.to_owned(), ..server.spec() }).await.unwrap())
}

/// A prune in this process, for a store whose clock is ahead: nobody can make a server's objects older.
async fn prune_later(relay: &Relay, store: Arc<dyn Store>, later: Duration) -> Pruned {
    let keys = files(&relay.sandbox.path("home")).unwrap();
    let key = HostKey::load_or_create(keys.iter().find(|path| path.ends_with("host.key")).unwrap()).unwrap();
    let trust = Trust::new([key.public().clone()]);
    let ahead: Arc<dyn Store> = Arc::new(FaultyStore::new(store, Fault::ClockAhead(later)));
    let request = prune::Request {
        job: "orders".parse().unwrap(),
        catalog: Catalog::new(ahead, trust),
        keep: Keep { last: 1, ..Keep::default() },
        zone: strongroom::clock::TimeZone::UTC,
        with_orphans: true,
        host_key: Arc::new(key),
        lock_dir: relay.sandbox.path("locks"),
        lease_duration: Duration::from_secs(60),
        progress: Arc::new(Silent),
        cancel: Default::default(),
    };
    let plan = prune::plan(&request).await.unwrap();
    let done = prune::prune(&request, &plan).await.unwrap();
    assert!(done.failed.is_none(), "{done:?}");
    done
}

/// Keys of every version in the folder of a backup, with how many there are of each.
async fn versions(store: &Arc<dyn Store>, id: &str) -> Vec<String> {
    store.versions(&format!("orders/{id}/")).await.unwrap().into_iter().map(|version| version.key).collect()
}

async fn check_server(kind: Server, with_versions: bool) {
    let server = S3Server::start(kind).await.unwrap();
    if with_versions {
        s3::keep_versions(server.port()).await.unwrap();
    }
    let relay = keeps_one_at(server.port(), BUCKET);
    let store = store_at(&server, BUCKET).await;
    let (old, new) = (relay.backup(), relay.backup());
    let done = prune_json(&relay, &["--yes"]);
    assert_eq!(texts(&done["removed"]), [old.as_str()], "{kind:?}");
    assert_eq!(relay.listed(), std::slice::from_ref(&new));
    let left = versions(&store, &old).await;
    assert_eq!(left.len(), 2, "the segment and the note, and no version of the record: {kind:?} {left:?}");
    assert!(left.iter().all(|key| !key.ends_with("record.json")), "{kind:?} {left:?}");

    // What killed runs leave: an object, and an upload with a part.
    let orphan = "20260101T000000Z-aaaaaaaa";
    let key = |name: &str| ObjectKey::parse(&format!("orders/{orphan}/data/{name}")).unwrap();
    let body = strongroom::store::conformance::sample(1, 5 << 20);
    store.put(&key("a.0001.zst"), body.slice(..100), strongroom::store::Condition::Absent).await.unwrap();
    let upload = store.begin_upload(&key("b.0001.zst")).await.unwrap();
    upload.expect_more();
    upload.part(1, body.clone(), strongroom::store::crc64nvme(&body)).await.unwrap();

    // The clock is that of the server.
    let now = prune_json(&relay, &["--dry-run"])["now"].as_str().unwrap().to_owned();
    assert!(now.starts_with("20"), "{now}");
    let early = prune_later(&relay, store.clone(), DAY - HOUR).await;
    assert_eq!((early.n_objects, early.n_uploads), (0, 0), "{kind:?}");
    let later = prune_later(&relay, store.clone(), DAY + HOUR).await;
    assert_eq!(
        later.folders.iter().map(ToString::to_string).collect::<Vec<_>>(),
        std::slice::from_ref(&old),
        "{kind:?}"
    );
    assert_eq!(versions(&store, &old).await, Vec::<String>::new(), "no version is left to pay for: {kind:?}");
    assert_eq!(store.pending_uploads("orders/").await.unwrap().len(), 1);
    let last = prune_later(&relay, store.clone(), 8 * DAY).await;
    assert_eq!((last.folders.len(), last.n_uploads), (1, 1), "{kind:?}");
    assert!(store.pending_uploads("orders/").await.unwrap().is_empty());
    relay.run(&["verify", "orders", &new]).check_code(0);

    if with_versions {
        // Somebody removes the record by its name: the backup is hidden, and no orphan.
        store.delete(&ObjectKey::parse(&format!("orders/{new}/record.json")).unwrap(), None).await.unwrap();
        assert_eq!(relay.listed(), Vec::<String>::new());
        let hidden = versions(&store, &new).await;
        let spared = prune_later(&relay, store.clone(), 100 * DAY).await;
        assert!(spared.folders.is_empty(), "{kind:?} {spared:?}");
        assert_eq!(versions(&store, &new).await, hidden);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn versitygw_is_pruned_by_age_and_never_more() {
    check_server(Server::Versitygw, false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn versitygw_with_versions_is_pruned_by_version() {
    check_server(Server::Versitygw, true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn minio_is_pruned_by_age_and_never_more() {
    check_server(Server::Minio, false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn minio_with_versions_is_pruned_by_version() {
    check_server(Server::Minio, true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_store_has_locked_is_kept_and_the_plan_says_until_when() {
    for kind in [Server::Versitygw, Server::Minio] {
        let server = S3Server::start(kind).await.unwrap();
        object_lock::create_bucket(server.port(), "locked", Some(1)).await.unwrap();
        let relay = keeps_one_at(server.port(), "locked");
        let (old, new) = (relay.backup(), relay.backup());
        relay.run(&["verify", "orders", &old]).check_code(0);
        relay.backup();
        let done = prune_json(&relay, &["--yes"]);
        assert!(texts(&done["removed"]).is_empty(), "{kind:?} {done:#}");
        let reasons = texts(&done["backups"][1]["reasons"]);
        assert!(
            reasons.iter().any(|reason| reason.starts_with("locked: compliance retention until 20")),
            "{reasons:?}"
        );
        assert_eq!(relay.listed().len(), 3, "{kind:?}");
        // When the lock has ended, by the store's clock, it goes like any other.
        let store = store_at(&server, "locked").await;
        let ahead: Arc<dyn Store> = Arc::new(FaultyStore::new(store.clone(), Fault::ClockAhead(2 * DAY)));
        let now = ahead.now().await.unwrap();
        let catalog = Catalog::new(ahead, Trust::default());
        let contents = catalog.contents(&"orders".parse().unwrap(), &new.parse().unwrap()).await.unwrap();
        assert_eq!(catalog.lock_of(&contents.versions, now).await.unwrap(), None, "{kind:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_legal_hold_on_one_segment_keeps_its_backup() {
    for kind in [Server::Versitygw, Server::Minio] {
        let server = S3Server::start(kind).await.unwrap();
        object_lock::create_bucket(server.port(), "held", None).await.unwrap();
        let relay = keeps_one_at(server.port(), "held");
        let (held, free, new) = (relay.backup(), relay.backup(), relay.backup());
        let segment = format!("orders/{held}/data/out.0001.zst.age");
        object_lock::hold(server.port(), "held", &segment).await.unwrap();
        let done = prune_json(&relay, &["--yes"]);
        assert_eq!(texts(&done["removed"]), [free.as_str()], "{kind:?} {done:#}");
        assert_eq!(texts(&done["backups"][0]["reasons"]), ["locked: legal hold"], "{kind:?}");
        assert_eq!(relay.listed(), [held, new], "{kind:?}");
    }
}

// Leases.

#[tokio::test(flavor = "multi_thread")]
async fn two_hosts_that_want_one_job_at_once_do_not_overlap() {
    let server = S3Server::start(Server::Versitygw).await.unwrap();
    let (one, other) = (keeps_one_at(server.port(), BUCKET), keeps_one_at(server.port(), BUCKET));
    let running = stuck_backup(&one, &keeps_one_in(server.port(), BUCKET));
    // Each has its own home, state and key: they meet in the store alone. Both watch the counter until it moves.
    let backup = other.sandbox.strongroom(["backup", "orders"]).start().unwrap();
    let prune = other.sandbox.strongroom(["prune", "orders", "--orphans", "--yes"]).start().unwrap();
    let refused = backup.finish(Duration::from_secs(100)).unwrap();
    refused.check_code(1).check_stderr("another run of job \"orders\" is at work").check_stderr("holder");
    prune.finish(Duration::from_secs(100)).unwrap().check_code(0).check_stdout("nothing to remove");
    running.signal(rustix::process::Signal::INT).unwrap();
    running.finish(Duration::from_secs(60)).unwrap().check_code(130);
    // It gave the lease back.
    other.backup();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prune_that_slept_while_another_host_took_over_removes_nothing() {
    let server = S3Server::start(Server::Versitygw).await.unwrap();
    let (mut one, mut other) = (keeps_one_at(server.port(), BUCKET), keeps_one_at(server.port(), BUCKET));
    for relay in [&mut one, &mut other] {
        relay.sandbox.set_env("STRONGROOM_FAIL", "lease=300");
    }
    let (old, new) = (one.backup(), one.backup());
    let gate = one.sandbox.path("gate");
    let fail = format!("lease=300,prune.planned=stop:{}", gate.display());
    let pruning = one.sandbox.strongroom(["prune", "orders", "--yes"]).env("STRONGROOM_FAIL", fail).start().unwrap();
    wait_until("the plan", TIMEOUT, || Ok(gate.exists().then_some(()))).unwrap();
    // It holds the lease and is about to remove the first record. Meanwhile it does nothing, like a machine that sleeps.
    pruning.signal(rustix::process::Signal::STOP).unwrap();
    other.backup();
    std::fs::remove_file(gate).unwrap();
    pruning.signal(rustix::process::Signal::CONT).unwrap();
    let stopped = pruning.finish(TIMEOUT).unwrap();
    stopped.check_error(1, &["the lease of job \"orders\" was taken over by another run", "goes on where it stopped"]);
    stopped.check_stderr("removed 0 backups");
    // The other host's is listed too, as one of a stranger.
    let listed = one.listed();
    assert_eq!((listed.len(), listed.contains(&old), listed.contains(&new)), (3, true, true), "{listed:?}");
    let store = store_at(&server, BUCKET).await;
    assert!(versions(&store, &old).await.iter().all(|key| !key.contains("/removed/")), "not even a note");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_backup_with_a_deleted_name_needs_is_kept() {
    let server = S3Server::start(Server::Versitygw).await.unwrap();
    s3::keep_versions(server.port()).await.unwrap();
    let relay = keeps_one_at(server.port(), BUCKET);
    let full = relay.backup();
    // No plugin here says what it needs: the record of one is made as its run would.
    let store = store_at(&server, BUCKET).await;
    let keys = files(&relay.sandbox.path("home")).unwrap();
    let key = HostKey::load_or_create(keys.iter().find(|path| path.ends_with("host.key")).unwrap()).unwrap();
    let catalog = Catalog::new(store.clone(), Trust::new([key.public().clone()]));
    let (job, id) = ("orders".parse().unwrap(), full.parse().unwrap());
    let mut record = catalog.read(&job, &id).await.unwrap().trusted().unwrap().clone();
    record.id = BackupId::generate(record.started).unwrap();
    record.needs = vec![id];
    record.artifacts = Vec::new();
    catalog.commit(&record, &key).await.unwrap_or_else(|error| panic!("{error:?}"));
    let increment = record.id.to_string();
    relay.backup();
    // Both may go, and somebody deletes the name of the one that needs the other.
    let plan = prune_json(&relay, &["--dry-run"]);
    assert!(plan["backups"].as_array().unwrap()[..2].iter().all(|backup| backup["keep"] == false), "{plan:#}");
    store.delete(&ObjectKey::parse(&format!("orders/{increment}/record.json")).unwrap(), None).await.unwrap();
    let done = prune_json(&relay, &["--yes"]);
    assert_eq!(texts(&done["removed"]), [""; 0], "{done:#}");
    let reasons = texts(&done["backups"][0]["reasons"]);
    assert_eq!(
        (&done["backups"][0]["id"], reasons),
        (&full.as_str().into(), vec![format!("needed by {increment}").as_str()])
    );
    // It can be restored by its id, and so it has what it needs.
    relay.run(&["show", "orders", &increment]).check_code(0).check_stderr("was deleted");
    relay.run(&["verify", "orders", &full]).check_code(0);
}

async fn check_careless(rule: Rule) {
    let server = S3Server::start(Server::Versitygw).await.unwrap();
    let proxy = Proxy::start(server.port(), (ACCESS_KEY, SECRET_KEY), vec![rule]).await.unwrap();
    let relay = keeps_one_at(proxy.port(), BUCKET);
    for _ in 0..2 {
        let backup = relay.run(&["backup", "orders"]);
        backup.check_code(0).check_stderr("cannot hold a lease").check_stderr("only runs on this machine");
    }
    prune(&relay, &["--yes"]).check_code(0).check_stderr("cannot hold a lease");
    let running = stuck_backup(&relay, &keeps_one_in(proxy.port(), BUCKET));
    relay.run(&["backup", "orders"]).check_code(1).check_stderr("another run of job \"orders\" is at work");
    kill(running);
    let checked = relay.run(&["store", "check", "main"]);
    checked.check_stdout("leases are kept by a lock on this machine only");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_ignores_if_match_is_found_out_and_every_run_warns() {
    check_careless(Rule::always("", "", Act::Strip(&["If-Match"]))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_does_not_know_if_match_is_found_out_and_every_run_warns() {
    check_careless(Rule::always("PUT", "", Act::NotImplemented(&["if-match"]))).await;
}
