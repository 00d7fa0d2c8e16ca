use super::*;
use crate::catalog::{Trust, signed, verified};
use crate::id::ObjectKey;
use crate::progress::Silent;
use crate::record::{BackupRecord, FORMAT, HostIdentity, PluginIdentity};
use crate::run::leftover::{GRACE, ORPHAN_AGE, Why};
use crate::store::faulty::{Fault, FaultyStore, Op};
use crate::store::memory::MemoryStore;
use crate::store::{Condition, Store, crc64nvme};
use bytes::Bytes;
use jiff::SignedDuration;

const DAY: SignedDuration = SignedDuration::from_hours(24);

/// A job `orders` in a store in memory whose clock the test sets.
struct World {
    memory: MemoryStore,
    key: Arc<HostKey>,
    locks: tempfile::TempDir,
    now: Timestamp,
}

fn world() -> World {
    let w = World {
        memory: MemoryStore::new(),
        key: Arc::new(HostKey::ephemeral().unwrap()),
        locks: tempfile::tempdir().unwrap(),
        now: "2026-11-01T02:00:00Z".parse().unwrap(),
    };
    w.memory.set_now(w.now);
    w
}

fn job() -> Label {
    "orders".parse().unwrap()
}

fn body() -> Bytes {
    Bytes::from_static(b"data")
}

impl World {
    fn pass(&mut self, time: SignedDuration) {
        self.now += time;
        self.memory.set_now(self.now);
    }

    fn store(&self) -> Arc<dyn Store> {
        Arc::new(self.memory.clone())
    }

    fn catalog(&self, store: Arc<dyn Store>) -> Catalog {
        Catalog::new(store, Trust::new([self.key.public().clone()]))
    }

    fn request(&self) -> Request {
        self.request_over(self.store())
    }

    /// Keeps the newest one.
    fn request_over(&self, store: Arc<dyn Store>) -> Request {
        Request {
            job: job(),
            catalog: self.catalog(store),
            keep: Keep { last: 1, ..Keep::default() },
            zone: TimeZone::UTC,
            with_orphans: true,
            host_key: self.key.clone(),
            lock_dir: self.locks.path().to_owned(),
            lease_duration: Duration::from_millis(300),
            progress: Arc::new(Silent),
            cancel: CancellationToken::new(),
        }
    }

    fn record(&self, needs: &[&BackupId]) -> BackupRecord {
        let id: BackupId = format!("{}-aaaaaaaa", self.now.strftime("%Y%m%dT%H%M%SZ")).parse().unwrap();
        BackupRecord {
            format: FORMAT,
            job: job(),
            id,
            started: self.now,
            finished: self.now,
            outcome: Outcome::Complete,
            plugin: PluginIdentity { name: "p".into(), version: "1.0.0".into(), sha256: "0".repeat(64) },
            host: HostIdentity { version: "0.1.0".into(), machine: "here".into() },
            settings: serde_json::json!({}),
            source_id: Some("a".into()),
            artifacts: Vec::new(),
            facts: Vec::new(),
            skipped: Vec::new(),
            not_captured: Vec::new(),
            needs: needs.iter().map(|id| (*id).clone()).collect(),
            state: String::new(),
            warnings: Vec::new(),
            extra: Default::default(),
        }
    }

    async fn put_data(&self, id: &BackupId, name: &str) -> ObjectKey {
        let key = ObjectKey::parse(&format!("orders/{id}/data/{name}")).unwrap();
        self.memory.put(&key, body(), Condition::Absent).await.unwrap();
        key
    }

    /// A backup with two objects of data, made now; a day passes.
    async fn backup(&mut self, needs: &[&BackupId]) -> BackupId {
        let record = self.record(needs);
        self.put_data(&record.id, "a.0001.zst").await;
        self.put_data(&record.id, "b.0001.zst").await;
        self.catalog(self.store()).commit(&record, &self.key).await.unwrap();
        self.pass(DAY);
        record.id
    }

    /// What a run leaves that is killed now.
    async fn killed(&self) -> BackupId {
        let id: BackupId = format!("{}-bbbbbbbb", self.now.strftime("%Y%m%dT%H%M%SZ")).parse().unwrap();
        self.put_data(&id, "a.0001.zst").await;
        id
    }

    async fn prune(&self) -> Pruned {
        prune_all(&self.request()).await.unwrap()
    }

    async fn ids(&self) -> Vec<BackupId> {
        let listed = self.catalog(self.store()).backups(&job()).await.unwrap();
        listed.into_iter().map(|listed| listed.id).collect()
    }

    async fn n_objects(&self, id: &BackupId) -> usize {
        self.memory.list(&format!("orders/{id}/"), None).await.unwrap().objects.len()
    }
}

/// Does what the plan says, which nobody had to be shown.
async fn prune_all(request: &Request) -> Result<Pruned> {
    let shown = plan(request).await?;
    prune(request, &shown).await
}

#[tokio::test]
async fn a_record_goes_at_once_and_its_data_after_a_day() {
    let mut w = world();
    let (old, new) = (w.backup(&[]).await, w.backup(&[]).await);
    let done = w.prune().await;
    assert_eq!((done.backups, done.n_objects), (vec![old.clone()], 0));
    assert_eq!(w.ids().await, std::slice::from_ref(&new));
    // Two objects and the note: whoever read the record can go on reading.
    assert_eq!(w.n_objects(&old).await, 3);
    w.pass(GRACE);
    assert_eq!(w.prune().await.n_objects, 0, "not sooner than it says");
    w.pass(SignedDuration::from_secs(1));
    let done = w.prune().await;
    assert_eq!((done.folders, done.n_objects), (vec![old.clone()], 3));
    assert_eq!((w.n_objects(&old).await, w.n_objects(&new).await), (0, 3));
    assert!(plan(&w.request()).await.unwrap().is_empty());
}

#[tokio::test]
async fn data_of_removed_backups_goes_without_asking_for_orphans_and_orphans_do_not() {
    let mut w = world();
    let killed = w.killed().await;
    let old = w.backup(&[]).await;
    w.backup(&[]).await;
    let plain = Request { with_orphans: false, ..w.request() };
    prune_all(&plain).await.unwrap();
    w.pass(ORPHAN_AGE + DAY);
    let plain = Request { with_orphans: false, ..w.request() };
    let done = prune_all(&plain).await.unwrap();
    assert_eq!(done.folders, [old]);
    let left = plan(&plain).await.unwrap().folders;
    assert_eq!((left.len(), &left[0].folder.id, &left[0].fate), (1, &killed, &Fate::Ask));
    assert_eq!(w.prune().await.folders, [killed]);
}

#[tokio::test]
async fn a_removal_that_was_interrupted_long_ago_begins_its_day_anew() {
    let mut w = world();
    let old = w.backup(&[]).await;
    w.backup(&[]).await;
    // The note is written, and the record cannot be removed.
    let stubborn = w.request_over(Arc::new(FaultyStore::new(w.store(), Fault::FailFrom(Op::Delete, 1))));
    let done = prune_all(&stubborn).await.unwrap();
    assert_eq!(done.failed.unwrap().kind(), Kind::Failed);
    assert_eq!(w.ids().await.len(), 2);
    w.pass(DAY * 30);
    assert_eq!(w.prune().await.backups, std::slice::from_ref(&old));
    assert_eq!(w.prune().await.n_objects, 0, "the record was removed just now");
    w.pass(GRACE + SignedDuration::from_secs(1));
    // Two objects and two notes.
    assert_eq!(w.prune().await.n_objects, 4);
    assert_eq!(w.n_objects(&old).await, 0);
}

#[tokio::test]
async fn failing_or_killed_at_any_request_it_goes_on_the_next_time_and_never_breaks_a_backup() {
    for op in [Op::Put, Op::Delete] {
        for call in 1.. {
            let mut w = world();
            let full = w.backup(&[]).await;
            let first = w.backup(&[&full]).await;
            let second = w.backup(&[&first]).await;
            let kept = w.backup(&[]).await;
            // Some of the data is due in the same prune.
            let faulty = Arc::new(FaultyStore::new(w.store(), Fault::FailFrom(op, call)));
            let broken = prune_all(&w.request_over(faulty.clone())).await;
            let done = broken.is_ok_and(|done| done.failed.is_none());
            for listed in w.catalog(w.store()).backups(&job()).await.unwrap() {
                for needed in &listed.trusted().unwrap().needs {
                    assert!(w.ids().await.contains(needed), "{} needs {needed}; {op:?} {call}", listed.id);
                }
                assert_eq!(w.n_objects(&listed.id).await.min(3), 3, "its data is there; {op:?} {call}");
            }
            assert_eq!(w.ids().await.last(), Some(&kept));
            // A lease that was not given back is taken over; then it goes on.
            w.prune().await;
            w.pass(GRACE + SignedDuration::from_secs(1));
            let last = w.prune().await;
            assert!(last.failed.is_none());
            assert_eq!(w.ids().await, [kept]);
            for id in [&full, &first, &second] {
                assert_eq!(w.n_objects(id).await, 0, "{op:?} {call}");
            }
            if done {
                assert!(call > 2, "the fault was met before");
                break;
            }
        }
    }
}

#[tokio::test]
async fn what_could_not_be_removed_keeps_what_it_needs() {
    let mut w = world();
    let full = w.backup(&[]).await;
    let first = w.backup(&[&full]).await;
    let second = w.backup(&[&first]).await;
    let kept = w.backup(&[]).await;
    // The first record to go is that of the newest; it fails, and every other removal would succeed.
    let once = w.request_over(Arc::new(FaultyStore::new(w.store(), Fault::FailFirstOf(Op::Delete, 1))));
    let done = prune_all(&once).await.unwrap();
    assert_eq!(done.failed.unwrap().kind(), Kind::Unavailable);
    assert_eq!(done.backups, []);
    assert_eq!(w.ids().await, [full.clone(), first.clone(), second.clone(), kept.clone()]);
    assert_eq!(w.prune().await.backups, [second, first, full]);
    assert_eq!(w.ids().await, [kept]);
}

#[tokio::test]
async fn what_needs_another_one_goes_first_whatever_the_clocks_said() {
    let mut w = world();
    w.pass(DAY * 9);
    let full = w.backup(&[]).await;
    // The clock is set back: each of the next ones seems to be older than what it needs.
    w.pass(-DAY * 4);
    let second = w.backup(&[&full]).await;
    w.pass(-DAY * 4);
    let third = w.backup(&[&second, &full]).await;
    w.pass(DAY * 20);
    let kept = w.backup(&[]).await;
    assert!(third < second && second < full, "by their names they are in the wrong order");
    assert_eq!(w.prune().await.backups, [third, second, full]);
    assert_eq!(w.ids().await, [kept]);
}

#[tokio::test]
async fn what_was_not_shown_keeps_what_it_needs() {
    let mut w = world();
    let full = w.backup(&[]).await;
    w.backup(&[]).await;
    let request = w.request();
    let shown = plan(&request).await.unwrap();
    assert_eq!(
        shown.removed().iter().map(|planned| planned.listed.id.clone()).collect::<Vec<_>>(),
        std::slice::from_ref(&full)
    );
    // Meanwhile one is made that needs it, and another one because of which no rule keeps that.
    let increment = w.backup(&[&full]).await;
    w.backup(&[]).await;
    assert_eq!(prune(&request, &shown).await.unwrap().backups, []);
    assert!(w.ids().await.contains(&full) && w.ids().await.contains(&increment));
}

#[tokio::test]
async fn an_orphan_is_a_week_old_by_its_youngest_object_or_part() {
    let mut w = world();
    w.backup(&[]).await;
    let killed = w.killed().await;
    let key = ObjectKey::parse(&format!("orders/{killed}/data/big.0001.zst")).unwrap();
    let upload = w.memory.begin_upload(&key).await.unwrap();
    w.pass(DAY * 5);
    // The run is at work still: a part arrives.
    upload.part(1, body(), crc64nvme(&body())).await.unwrap();
    w.pass(DAY * 3);
    let shown = plan(&w.request()).await.unwrap();
    assert!(matches!(shown.folders[0].fate, Fate::Wait(Why::Orphan, _)), "its youngest part is young: {shown:?}");
    assert!(w.prune().await.folders.is_empty());
    upload.part(2, body(), crc64nvme(&body())).await.unwrap();
    w.pass(ORPHAN_AGE);
    assert!(plan(&w.request()).await.unwrap().is_empty(), "not sooner than it says");
    w.pass(SignedDuration::from_secs(1));
    let done = w.prune().await;
    assert_eq!((done.folders, done.n_uploads), (vec![killed], 1));
    assert!(w.memory.pending_uploads("").await.unwrap().is_empty());
}

#[tokio::test]
async fn uploads_that_belong_to_no_job_are_abandoned_by_the_same_age() {
    let mut w = world();
    w.backup(&[]).await;
    let plugin = ObjectKey::parse("plugins/x.wasm").unwrap();
    let others = ObjectKey::parse("other/20261101T020000Z-aaaaaaaa/data/a").unwrap();
    for key in [&plugin, &others] {
        w.memory.begin_upload(key).await.unwrap();
    }
    w.pass(ORPHAN_AGE);
    assert_eq!(w.prune().await.n_uploads, 0);
    w.pass(SignedDuration::from_secs(1));
    assert_eq!(w.prune().await.n_uploads, 1);
    let left = w.memory.pending_uploads("").await.unwrap();
    assert_eq!(left.iter().map(|upload| upload.key.as_str()).collect::<Vec<_>>(), [others.as_str()], "its own job's");
}

#[tokio::test]
async fn what_the_lease_names_stays_however_old_it_is() {
    let mut w = world();
    w.backup(&[]).await;
    let silent = w.killed().await;
    let held = format!(r#"{{"state":"held","holder":"far","run":"{silent}","counter":5,"duration_ms":300}}"#);
    let lease = layout::lease(&job()).unwrap();
    w.memory.put(&lease, held.into_bytes().into(), Condition::Absent).await.unwrap();
    w.pass(DAY * 100);
    let shown = plan(&w.request()).await.unwrap();
    assert!(matches!(shown.folders[0].fate, Fate::Keep(why) if why.contains("lease")), "{shown:?}");
    // Taken over, it is spared all the same: nobody knows whether its run is at work.
    let mut all = shown.clone();
    all.folders[0].fate = Fate::Remove(Why::Orphan);
    let done = prune(&w.request(), &all).await.unwrap();
    assert!(done.folders.is_empty() && done.failed.is_none(), "{done:?}");
    // Now the lease is free and names nobody.
    assert_eq!(w.prune().await.folders, [silent]);
}

#[tokio::test]
async fn a_prune_waits_for_no_run_that_is_at_work() {
    let mut w = world();
    w.backup(&[]).await;
    w.backup(&[]).await;
    let request = w.request();
    let asked = crate::run::lease_request(&job(), &w.record(&[]).id, request.lease_duration, w.locks.path());
    let running = Lease::take(&w.store(), asked, &CancellationToken::new()).await.unwrap();
    let error = prune_all(&request).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Conflict);
    assert_eq!(w.ids().await.len(), 2);
    running.release().await.unwrap();
    assert_eq!(w.prune().await.backups.len(), 1);
}

#[tokio::test]
async fn only_what_was_shown_is_removed() {
    let mut w = world();
    let old = w.backup(&[]).await;
    let shown_as_kept = w.backup(&[]).await;
    let request = w.request();
    let shown = plan(&request).await.unwrap();
    // A backup is made while somebody reads the plan.
    let newest = w.backup(&[]).await;
    let done = prune(&request, &shown).await.unwrap();
    assert_eq!(done.backups, [old]);
    assert_eq!(w.ids().await, [shown_as_kept, newest]);
}

#[tokio::test]
async fn what_was_shown_and_became_the_last_verified_one_is_kept() {
    let mut w = world();
    let old = w.backup(&[]).await;
    w.backup(&[]).await;
    let request = w.request();
    let shown = plan(&request).await.unwrap();
    assert_eq!(shown.removed().len(), 1);
    let found = Verification {
        job: job(),
        id: old.clone(),
        at: w.now,
        depth: "restore".to_owned(),
        passed: true,
        findings: Vec::new(),
    };
    verified::write(&w.store(), &found, &w.key).await.unwrap();
    assert!(prune(&request, &shown).await.unwrap().backups.is_empty());
    assert!(w.ids().await.contains(&old));
}

#[tokio::test]
async fn a_record_that_is_not_believed_or_not_understood_stops_it() {
    let stranger = HostKey::ephemeral().unwrap();
    for (case, kind) in [("stranger", Kind::Denied), ("future", Kind::Failed), ("changed", Kind::Damaged)] {
        let mut w = world();
        w.backup(&[]).await;
        w.backup(&[]).await;
        let mut record = w.record(&[]);
        record.format += u32::from(case == "future");
        let key = if case == "stranger" { &stranger } else { &w.key };
        let mut bytes = signed::seal(signed::RECORD, &record, key).unwrap();
        if case == "changed" {
            bytes[10] ^= 1;
        }
        let at = layout::record(&job(), &record.id).unwrap();
        w.memory.put(&at, bytes.into(), Condition::Absent).await.unwrap();
        let error = plan(&w.request()).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{case}: {error:?}");
        assert!(error.message().contains("nothing of job \"orders\" is pruned"), "{case}: {error:?}");
        assert_eq!(w.ids().await.len(), 3);
    }
}

#[tokio::test]
async fn a_note_of_a_stranger_and_one_beside_a_record_say_nothing() {
    let mut w = world();
    let kept = w.backup(&[]).await;
    let killed = w.killed().await;
    let stranger = HostKey::ephemeral().unwrap();
    for (id, key) in [(&killed, &stranger), (&kept, &*w.key)] {
        let note = crate::catalog::removal::Removal { job: job(), id: id.clone(), at: w.now, run: killed.clone() };
        let at = ObjectKey::parse(&format!("{}x.json", layout::removed(&job(), id))).unwrap();
        let bytes = signed::seal(signed::REMOVAL, &note, key).unwrap();
        w.memory.put(&at, bytes.into(), Condition::Absent).await.unwrap();
    }
    w.pass(DAY * 2);
    let shown = plan(&w.request()).await.unwrap();
    assert!(shown.is_empty(), "{shown:?}");
    assert!(matches!(shown.folders[0].fate, Fate::Wait(Why::Orphan, _)), "its age counts: {shown:?}");
}

#[tokio::test]
async fn cancelled_it_stops_between_two_removals_and_says_so() {
    let mut w = world();
    let (old, middle, new) = (w.backup(&[]).await, w.backup(&[]).await, w.backup(&[]).await);
    let cancel = CancellationToken::new();
    // The operator cancels while the first of the two records is removed.
    let store = Arc::new(FaultyStore::new(w.store(), Fault::None).cancelling(Op::Delete, 1, cancel.clone()));
    let request = Request { cancel, ..w.request_over(store.clone()) };
    let shown = plan(&request).await.unwrap();
    assert_eq!(shown.removed().len(), 2);
    let done = prune(&request, &shown).await.unwrap();
    assert_eq!(done.failed.unwrap().kind(), Kind::Cancelled);
    assert_eq!((done.backups, store.calls(Op::Delete)), (vec![middle], 1), "what was begun is ended, and no more");
    assert_eq!(w.ids().await, [old, new]);
}

#[tokio::test]
async fn whatever_lies_beside_the_folders_of_runs_is_left_alone() {
    let mut w = world();
    w.backup(&[]).await;
    for key in ["orders/readme.txt", "orders/by-hand/a", "plugins/x.wasm", "other/20261101T020000Z-aaaaaaaa/data/a"] {
        w.memory.put(&ObjectKey::parse(key).unwrap(), body(), Condition::Absent).await.unwrap();
    }
    w.pass(DAY * 100);
    assert!(plan(&w.request()).await.unwrap().is_empty());
}
