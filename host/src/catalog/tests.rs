use super::*;
use crate::catalog::lease::{Lease, Monotonic, Request};
use crate::id::ObjectKey;
use crate::record::{HostIdentity, PluginIdentity};
use crate::store::memory::MemoryStore;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

fn label(text: &str) -> Label {
    text.parse().unwrap()
}

fn id(second: u8) -> BackupId {
    format!("20261120T0200{second:02}Z-aaaaaaaa").parse().unwrap()
}

fn record(job: &str, second: u8, outcome: Outcome) -> BackupRecord {
    BackupRecord {
        format: FORMAT,
        job: label(job),
        id: id(second),
        started: jiff::Timestamp::UNIX_EPOCH,
        finished: jiff::Timestamp::UNIX_EPOCH,
        outcome,
        plugin: PluginIdentity { name: "p".into(), version: "1.0.0".into(), sha256: "0".repeat(64) },
        host: HostIdentity { version: "0.1.0".into(), machine: "here".into() },
        settings: serde_json::json!({}),
        source_id: None,
        artifacts: Vec::new(),
        facts: Vec::new(),
        skipped: Vec::new(),
        not_captured: Vec::new(),
        needs: Vec::new(),
        state: String::new(),
        warnings: Vec::new(),
        extra: Default::default(),
    }
}

struct World {
    store: Arc<dyn Store>,
    key: HostKey,
    catalog: Catalog,
}

fn world() -> World {
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
    let key = HostKey::ephemeral().unwrap();
    let catalog = Catalog::new(store.clone(), Trust::new([key.public().clone()]));
    World { store, key, catalog }
}

#[tokio::test]
async fn backups_of_one_second_are_in_the_order_in_which_they_started() {
    let w = world();
    for (suffix, nanosecond) in [("bbbbbbbb", 1), ("aaaaaaaa", 3), ("cccccccc", 2)] {
        let mut record = record("orders", 1, Outcome::Complete);
        record.id = format!("20261120T020001Z-{suffix}").parse().unwrap();
        record.started = jiff::Timestamp::from_nanosecond(nanosecond).unwrap();
        w.catalog.commit(&record, &w.key).await.unwrap();
    }
    let listed = w.catalog.backups(&label("orders")).await.unwrap();
    let ends: Vec<_> = listed.iter().map(|listed| &listed.id.as_str()[17..18]).collect();
    assert_eq!(ends, ["b", "c", "a"]);
    assert!(w.catalog.find(&label("orders"), "latest").await.unwrap().id.as_str().ends_with("aaaaaaaa"));
}

#[tokio::test]
async fn what_was_committed_is_listed_in_order_and_found_by_id_beginning_and_latest() {
    let w = world();
    for second in [3, 1, 2] {
        w.catalog.commit(&record("orders", second, Outcome::Complete), &w.key).await.unwrap();
    }
    let ids: Vec<_> = w.catalog.backups(&label("orders")).await.unwrap().into_iter().map(|b| b.id).collect();
    assert_eq!(ids, [id(1), id(2), id(3)]);
    assert_eq!(w.catalog.jobs().await.unwrap(), [label("orders")]);
    assert_eq!(w.catalog.find(&label("orders"), "latest").await.unwrap().id, id(3));
    assert_eq!(w.catalog.find(&label("orders"), "20261120T020002").await.unwrap().id, id(2));
    let error = w.catalog.find(&label("orders"), "20261120").await.unwrap_err();
    assert_eq!(error.kind(), Kind::Invalid);
    assert!(error.message().contains("names 3 backups"), "{error}");
    let error = w.catalog.find(&label("orders"), id(9).as_str()).await.unwrap_err();
    assert_eq!(error.kind(), Kind::NotFound);
}

#[tokio::test]
async fn a_record_is_never_written_over() {
    let w = world();
    w.catalog.commit(&record("orders", 1, Outcome::Complete), &w.key).await.unwrap();
    // The same bytes again: the answer to the first attempt may have been lost.
    w.catalog.commit(&record("orders", 1, Outcome::Complete), &w.key).await.unwrap();
    let refused = w.catalog.commit(&record("orders", 1, Outcome::Incomplete), &w.key).await.unwrap_err();
    assert!(matches!(refused, NotCommitted::Refused(error) if error.kind() == Kind::Conflict));
    let there = w.catalog.read(&label("orders"), &id(1)).await.unwrap();
    assert!(there.is_good());
}

#[tokio::test]
async fn a_commit_that_the_store_did_not_answer_is_decided_by_what_is_there_or_stays_unknown() {
    use crate::store::faulty::{Fault, FaultyStore, Op};
    let w = world();
    let over = |fault| Catalog::new(Arc::new(FaultyStore::new(w.store.clone(), fault)), Trust::default());
    // It fails before anything is stored, and cannot be asked: it may still arrive.
    let dead = over(Fault::FailFirst(99));
    let outcome = dead.commit(&record("orders", 1, Outcome::Complete), &w.key).await.unwrap_err();
    assert!(matches!(outcome, NotCommitted::Unknown(_)), "{outcome:?}");
    let unsure = over(Fault::FailFirstOf(Op::Put, 1));
    let outcome = unsure.commit(&record("orders", 1, Outcome::Complete), &w.key).await.unwrap_err();
    assert!(matches!(outcome, NotCommitted::Unknown(_)), "a timeout may arrive later: {outcome:?}");
    let liar = over(Fault::Lie);
    let outcome = liar.commit(&record("orders", 2, Outcome::Complete), &w.key).await.unwrap_err();
    assert!(matches!(outcome, NotCommitted::Refused(error) if error.kind() == Kind::Damaged));
}

#[tokio::test]
async fn records_of_others_are_listed_never_hidden_and_never_believed() {
    let w = world();
    let stranger = HostKey::ephemeral().unwrap();
    w.catalog.commit(&record("orders", 1, Outcome::Complete), &w.key).await.unwrap();
    w.catalog.commit(&record("orders", 2, Outcome::Complete), &stranger).await.unwrap();
    let found = w.catalog.backups(&label("orders")).await.unwrap();
    assert_eq!(found[1].standing, Standing::UnknownSigner(stranger.public().clone()));
    assert!(!found[1].is_good() && found[1].trusted().is_none());
    assert_eq!(w.catalog.find(&label("orders"), "latest").await.unwrap().id, id(1), "latest is the newest trusted one");
    let trusting = w.catalog.clone().trusting(stranger.public().clone());
    assert!(trusting.read(&label("orders"), &id(2)).await.unwrap().is_good());
}

#[tokio::test]
async fn a_record_that_was_moved_edited_or_is_from_the_future_is_not_believed() {
    let w = world();
    w.catalog.commit(&record("orders", 1, Outcome::Complete), &w.key).await.unwrap();
    let (bytes, _) = w.store.get(&layout::record(&label("orders"), &id(1)).unwrap(), MAX_RECORD_BYTES).await.unwrap();
    let place = |key: &str, bytes: Vec<u8>| {
        let (store, key) = (w.store.clone(), ObjectKey::parse(key).unwrap());
        async move { store.put(&key, bytes.into(), Condition::Absent).await.unwrap() }
    };
    place(&format!("orders/{}/record.json", id(2)), bytes.to_vec()).await;
    place(&format!("billing/{}/record.json", id(1)), bytes.to_vec()).await;
    let edited = String::from_utf8(bytes.to_vec()).unwrap().replace("\"here\"", "\"there\"");
    place(&format!("orders/{}/record.json", id(3)), edited.into_bytes()).await;
    let mut future = record("orders", 4, Outcome::Complete);
    future.format = FORMAT + 1;
    let future = signed::seal(signed::RECORD, &future, &w.key).unwrap();
    place(&format!("orders/{}/record.json", id(4)), future).await;
    place(&format!("orders/{}/record.json", id(5)), b"not a record".to_vec()).await;
    let found = w.catalog.backups(&label("orders")).await.unwrap();
    let standings: Vec<_> = found
        .iter()
        .map(|b| match &b.standing {
            Standing::Trusted => "trusted",
            Standing::UnknownSigner(_) => "unknown",
            Standing::Forged(_) => "forged",
            Standing::Unreadable(_) => "unreadable",
        })
        .collect();
    assert_eq!(standings, ["trusted", "forged", "forged", "unreadable", "forged"]);
    assert!(matches!(w.catalog.read(&label("billing"), &id(1)).await.unwrap().standing, Standing::Forged(_)));
}

#[tokio::test]
async fn what_a_failed_run_left_is_removed_and_a_backup_never_is() {
    let w = world();
    for name in ["data/a.0001.zst.age", "data/a.0002.zst.age"] {
        let key = ObjectKey::parse(&format!("orders/{}/{name}", id(1))).unwrap();
        w.store.put(&key, Bytes::from_static(b"x"), Condition::Absent).await.unwrap();
    }
    assert_eq!(w.catalog.discard(&label("orders"), &id(1)).await.unwrap(), 2);
    assert!(w.store.list("orders/", None).await.unwrap().objects.is_empty());
    w.catalog.commit(&record("orders", 2, Outcome::Complete), &w.key).await.unwrap();
    assert_eq!(w.catalog.discard(&label("orders"), &id(2)).await.unwrap_err().kind(), Kind::Conflict);
    assert!(w.catalog.read(&label("orders"), &id(2)).await.unwrap().is_good());
}

#[tokio::test]
async fn only_uploads_of_a_backup_are_of_one_that_did_not_end() {
    let w = world();
    let mut uploads = Vec::new();
    for (second, name) in [(1, "data/a.0001.zst"), (2, "record.json"), (3, "verified/1.json"), (4, "removed/1.json")] {
        let key = ObjectKey::parse(&format!("orders/{}/{name}", id(second))).unwrap();
        uploads.push(w.store.begin_upload(&key).await.unwrap());
    }
    let survey = w.catalog.survey(&label("orders")).await.unwrap();
    assert_eq!(w.catalog.interrupted(&label("orders"), &survey).await.unwrap(), [id(1), id(2)]);
}

#[tokio::test]
async fn verifications_are_kept_once_each_and_only_trusted_ones_count() {
    let w = world();
    w.catalog.commit(&record("orders", 1, Outcome::Complete), &w.key).await.unwrap();
    let found = Verification {
        job: label("orders"),
        id: id(1),
        at: jiff::Timestamp::UNIX_EPOCH,
        depth: "contents".into(),
        passed: true,
        findings: Vec::new(),
    };
    verified::write(&w.store, &found, &w.key).await.unwrap();
    verified::write(&w.store, &found, &w.key).await.unwrap();
    let later = Verification { at: jiff::Timestamp::from_second(1).unwrap(), ..found.clone() };
    verified::write(&w.store, &later, &HostKey::ephemeral().unwrap()).await.unwrap();
    let backups = w.catalog.backups(&label("orders")).await.unwrap();
    let backups = w.catalog.with_verifications(backups).await.unwrap();
    assert_eq!(backups[0].verified, [found]);
}

fn request(lock_dir: &std::path::Path, run: u8) -> Request {
    Request {
        job: label("orders"),
        run: id(run),
        holder: format!("host process {run}"),
        duration: Duration::from_millis(300),
        lock_dir: lock_dir.to_owned(),
        pace: Arc::new(Monotonic::new()),
    }
}

#[tokio::test]
async fn a_lease_that_is_renewed_keeps_others_out_and_a_released_one_does_not() {
    let w = world();
    let locks = tempfile::tempdir().unwrap();
    let lost = CancellationToken::new();
    let first = Lease::take(&w.store, request(locks.path(), 1), &lost).await.unwrap();
    let error = Lease::take(&w.store, request(locks.path(), 2), &lost).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Conflict);
    assert_eq!(error.facts()[0].1, format!("host process 1 (run {})", id(1)));
    first.release().await.unwrap();
    let second = Lease::take(&w.store, request(locks.path(), 2), &lost).await.unwrap();
    second.release().await.unwrap();
    assert!(!lost.is_cancelled());
}

#[tokio::test]
async fn a_lease_whose_holder_died_is_taken_over_once_it_stood_still() {
    let w = world();
    let locks = tempfile::tempdir().unwrap();
    let key = layout::lease(&label("orders")).unwrap();
    let dead = format!(r#"{{"state":"held","holder":"dead","run":"{}","counter":5,"duration_ms":300}}"#, id(1));
    w.store.put(&key, dead.into_bytes().into(), Condition::Absent).await.unwrap();
    let begun = std::time::Instant::now();
    let lost = CancellationToken::new();
    let lease = Lease::take(&w.store, request(locks.path(), 2), &lost).await.unwrap();
    assert!(begun.elapsed() >= Duration::from_millis(300), "it was watched for a whole duration");
    lease.release().await.unwrap();
}

#[tokio::test]
async fn a_run_whose_lease_was_taken_over_is_told() {
    let w = world();
    let locks = tempfile::tempdir().unwrap();
    let lost = CancellationToken::new();
    let _lease = Lease::take(&w.store, request(locks.path(), 1), &lost).await.unwrap();
    let key = layout::lease(&label("orders")).unwrap();
    let (_, info) = w.store.get(&key, 1 << 16).await.unwrap();
    let other = format!(r#"{{"state":"held","holder":"other","run":"{}","counter":9,"duration_ms":300}}"#, id(2));
    w.store.put(&key, other.into_bytes().into(), Condition::Unchanged(info.etag.unwrap())).await.unwrap();
    tokio::time::timeout(Duration::from_secs(10), lost.cancelled()).await.unwrap();
}
