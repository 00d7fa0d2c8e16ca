//! SIGKILL at every named point and at random times: nothing half-made is visible, what is listed is whole,
//! and the next run succeeds.
//!
//! The short form kills at every point once, the long one (`cargo xtask soak kill`) as often as it is told.
//! `STRONGROOM_SEED` repeats a run.

#![allow(clippy::print_stdout, reason = "the soak reads how much was done from standard output")]

use rustix::process::Signal;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};
use strongroom::failpoint::Point;
use strongroom::store::Store;
use strongroom::store::local::LocalStore;
use strongroom::store::s3::{S3Spec, S3Store};
use strongroom_tests::behind::Seen;
use strongroom_tests::dice::Dice;
use strongroom_tests::documents::Documents;
use strongroom_tests::proxy::{Act, Proxy, Rule};
use strongroom_tests::relay::{Relay, Setup, sh};
use strongroom_tests::s3::{self, ACCESS_KEY, S3Server, SECRET_KEY, Server};
use strongroom_tests::{Output, Sandbox, wait_until};
use xtask::soak;

/// Kills of one world, before the next one begins with an empty store: every one of its backups is verified
/// after every kill.
const KILLS_PER_WORLD: usize = 8;
/// A lease that stood still for this long is taken over: the shortest that a lease may ask for is 200 ms.
const IN_A_HURRY: &str = "lease=300";

const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(24 * 3600);
/// After this long, what belongs to no backup is taken to be left.
const WEEK: Duration = Duration::from_secs(7 * 24 * 3600);

/// What is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Deed {
    Backup,
    /// Its producer stands still long enough for the lease to be renewed.
    SlowBackup,
    /// Its plugin fails at the end, so what was stored is removed again.
    FailedBackup,
    VerifyContents,
    VerifyStored,
    Restore,
    /// Removes the records of backups that no rule keeps.
    Prune,
    /// Removes what killed runs left and what is old. Files of a local store are made old; of a bucket the prune
    /// is told a later time.
    PruneOrphans,
}

impl Deed {
    const ALL: &[Self] = &[
        Self::Backup,
        Self::SlowBackup,
        Self::FailedBackup,
        Self::VerifyContents,
        Self::VerifyStored,
        Self::Restore,
        Self::Prune,
        Self::PruneOrphans,
    ];

    fn args(self) -> &'static [&'static str] {
        match self {
            Self::Backup | Self::SlowBackup | Self::FailedBackup => &["backup", "orders"],
            Self::VerifyContents => &["verify", "orders", "latest", "--depth", "contents"],
            Self::VerifyStored => &["verify", "orders", "latest", "--depth", "stored"],
            Self::Restore => &["restore", "orders", "latest"],
            Self::Prune => &["prune", "orders", "--yes"],
            Self::PruneOrphans => &["prune", "orders", "--orphans", "--yes"],
        }
    }

    /// Exit code of a run that nobody kills.
    fn code(self) -> i32 {
        i32::from(self == Self::FailedBackup)
    }

    /// Whether it may add a backup.
    fn adds(self) -> bool {
        matches!(self, Self::Backup | Self::SlowBackup)
    }

    fn prunes(self) -> bool {
        matches!(self, Self::Prune | Self::PruneOrphans)
    }
}

/// When it is killed.
#[derive(Clone, Debug)]
enum When {
    /// At this point, reached for this time.
    At(&'static str, u64),
    After(Duration),
}

/// Which store, and how large the artifacts are.
#[derive(Clone, Debug)]
struct Shape {
    place: String,
    store: &'static str,
    produce: &'static str,
    artifacts: &'static [&'static str],
    /// Of a bucket: how its time is told.
    bucket: Option<Bucket>,
}

/// A bucket that a test asks by itself, and whose time a prune is told.
#[derive(Clone, Debug)]
struct Bucket {
    server: u16,
    /// Goes between the prune that removes what is old and the server.
    proxy: Arc<Proxy>,
    /// Of the test: worlds run on a thread that may wait.
    runtime: tokio::runtime::Handle,
}

impl Bucket {
    /// From now on who comes through the proxy takes everything for this much older.
    fn pass(&self, time: Duration) {
        self.proxy.set_rules(vec![Rule::always("", "", Act::Later(time))]);
    }

    /// What lies below a world's prefix, asked without the proxy.
    fn seen(&self, world: &str) -> Seen {
        self.runtime.block_on(async {
            let spec = S3Spec { prefix: world.to_owned(), ..s3::spec(self.server) };
            let store: Arc<dyn Store> = Arc::new(S3Store::open(spec).await.unwrap());
            Seen::of(&store).await
        })
    }
}

/// Three artifacts of one part each.
const TINY: (&str, &[&str]) = ("seq 1 2000", &["a", "b", "c"]);

/// A job with its store, and what is known to be in it.
struct World {
    relay: Relay,
    shape: Shape,
    /// Backups that `list` showed, with the digests of their artifacts.
    known: BTreeMap<String, BTreeSet<String>>,
    /// How often each deed reaches each point, and how long it takes.
    reached: BTreeMap<Deed, (BTreeMap<&'static str, u64>, Duration)>,
    /// What a prune may remove: backups by their ids, and files of a local store.
    condemned: (BTreeSet<String>, BTreeSet<PathBuf>),
    /// What it must remove from a bucket: keys of objects and of uploads that were begun.
    condemned_keys: BTreeSet<String>,
    /// What was killed last, for messages.
    story: String,
}

impl World {
    /// A job with a store of this shape and nothing in it.
    fn new_relay(shape: &Shape) -> Relay {
        let artifacts: Vec<_> = shape.artifacts.iter().map(|name| format!("{name:?}")).collect();
        let mut relay = Relay::cold(Setup::default());
        relay.sandbox.set_env("ACCESS_KEY", ACCESS_KEY).set_env("SECRET_KEY", SECRET_KEY);
        relay.sandbox.set_env("STRONGROOM_FAIL", IN_A_HURRY);
        let dir = relay.sandbox.dir().display().to_string();
        // A world is alone in its store: another host's backups would be of an unknown signer.
        let place = shape.place.replace("WORLD", &world_of(&relay));
        relay.configure(&Setup {
            produce: sh(&format!("test ! -e {dir}/slow || sleep 0.3; {}", shape.produce)),
            // Each restore into a place of its own: what a killed one started may live on for a moment.
            consume: sh(&format!("b3sum >> {dir}/restored-$PPID")),
            settings: format!("artifacts = [{}]\nfail = false", artifacts.join(", ")),
            place,
            store: shape.store.into(),
            ..Setup::default()
        });
        let config = relay.sandbox.path("strongroom.toml");
        let text = std::fs::read_to_string(&config).unwrap();
        std::fs::write(config, text.replace("[job.orders]\n", "[job.orders]\nkeep = { last = 1 }\n")).unwrap();
        relay
    }

    /// A world whose very first run was killed at `first`, and that has one backup.
    fn new(shape: &Shape, first: Point) -> Self {
        let mut world = Self {
            relay: Self::new_relay(shape),
            shape: shape.clone(),
            known: BTreeMap::new(),
            reached: BTreeMap::new(),
            condemned: Default::default(),
            condemned_keys: BTreeSet::new(),
            story: format!("the first run, killed at {}", first.name()),
        };
        let output = world.run_killed(Deed::Backup, &When::At(first.name(), 1));
        assert_eq!(output.signal, Some(9), "{}: {output:?}", world.story);
        world.check(Deed::Backup, &When::At(first.name(), 1));
        world
    }

    /// What lies in its bucket and belongs to no backup: objects, and uploads that were begun.
    fn left_in_bucket(&self) -> BTreeSet<String> {
        let bucket = self.shape.bucket.as_ref().expect("a world in a bucket");
        let seen = bucket.seen(&world_of(&self.relay));
        seen.orphans.into_iter().chain(seen.pending).collect()
    }

    fn sandbox(&self) -> &Sandbox {
        &self.relay.sandbox
    }

    /// Sees to it that a prune has something to do, and notes what it may remove.
    fn condemn(&mut self, deed: Deed) {
        while self.known.len() < 2 {
            self.prepare(Deed::Backup);
            self.relay.run(Deed::Backup.args()).check_code(0);
            self.look(true, 1);
        }
        let mut files = BTreeSet::new();
        if let Some(bucket) = self.shape.bucket.clone().filter(|_| deed == Deed::PruneOrphans) {
            for point in ["part.stored", "segment.complete"] {
                let output = self.run_killed(Deed::Backup, &When::At(point, 1));
                assert_eq!(output.signal, Some(9), "{point}: {output:?}");
            }
            // Who comes after a dead run knows that it may be at work still: what its lease names stays.
            self.relay.run(Deed::Backup.args()).check_code(0);
            self.look(true, 1);
            self.condemned_keys = self.left_in_bucket();
            assert!(!self.condemned_keys.is_empty());
            bucket.pass(WEEK + DAY);
        } else if deed == Deed::PruneOrphans {
            let before: BTreeSet<_> = self.left_over().into_iter().collect();
            // Of the first a folder stays, of the second a file that has not got its name.
            for point in ["segment.complete", "local.written"] {
                let output = self.run_killed(Deed::Backup, &When::At(point, 1));
                assert_eq!(output.signal, Some(9), "{point}: {output:?}");
            }
            files = self.left_over().into_iter().filter(|path| !before.contains(path)).collect();
            assert!(!files.is_empty());
            files.iter().for_each(|path| grow_old(path));
        }
        let plan = self.relay.run(&["prune", "orders", "--dry-run", "--output", "json"]);
        let plan = plan.check_code(0).json();
        let backups = plan["backups"].as_array().expect("backups");
        let ids = backups.iter().filter(|backup| backup["keep"] == false).map(|backup| &backup["id"]);
        self.condemned = (ids.map(|id| id.as_str().expect("an id").to_owned()).collect(), files);
        assert!(!self.condemned.0.is_empty(), "{plan}");
    }

    /// Files of a local store that belong to no backup which `list` shows.
    fn left_over(&self) -> Vec<PathBuf> {
        let jobs = self.relay.store().join("orders");
        let is_of_a_backup = |path: &PathBuf| self.known.keys().any(|id| path.starts_with(jobs.join(id)));
        self.relay.stored().into_iter().filter(|path| !is_of_a_backup(path)).collect()
    }

    /// All of a bucket that was condemned is gone; what `look` says of the rest comes after it.
    fn check_bucket_pruned(&self) {
        let listed: BTreeSet<_> = self.relay.listed().into_iter().collect();
        let records: Vec<_> = self.condemned.0.intersection(&listed).collect();
        assert!(records.is_empty(), "{records:?} are there after {}", self.story);
        let left = self.left_in_bucket();
        let stays: Vec<_> = self.condemned_keys.intersection(&left).collect();
        assert!(stays.is_empty(), "{stays:?} is there after {}", self.story);
    }

    /// Nothing left the store but what was condemned, and all of that did.
    fn check_pruned(&self, before: &BTreeSet<PathBuf>) {
        let (ids, files) = &self.condemned;
        let jobs = self.relay.store().join("orders");
        let records: BTreeSet<_> = ids.iter().map(|id| jobs.join(id).join("record.json")).collect();
        let after: BTreeSet<_> = self.relay.stored().into_iter().collect();
        let condemned: BTreeSet<_> = files.union(&records).cloned().collect();
        let gone: Vec<_> = before.difference(&after).filter(|path| !condemned.contains(*path)).collect();
        assert!(gone.is_empty(), "{gone:?} is gone after {}", self.story);
        let stays: Vec<_> = condemned.intersection(&after).collect();
        assert!(stays.is_empty(), "{stays:?} is there after {}", self.story);
    }

    /// The end of a world: what is young stays, and everything that is old and no backup goes. Returns how many
    /// files or objects that were.
    fn end(&mut self) -> usize {
        self.story = "the end of a world".into();
        if let Some(bucket) = self.shape.bucket.clone() {
            return self.end_in(&bucket);
        }
        self.prepare(Deed::Backup);
        let young: BTreeSet<_> = self.left_over().into_iter().collect();
        self.relay.run(Deed::PruneOrphans.args()).check_code(0);
        self.forget_what_is_gone();
        let there: BTreeSet<_> = self.relay.stored().into_iter().collect();
        assert!(young.is_subset(&there), "young and gone: {:?}", young.difference(&there).collect::<Vec<_>>());
        self.relay.stored().iter().for_each(|path| grow_old(path));
        self.relay.run(Deed::PruneOrphans.args()).check_code(0);
        self.look(false, 0);
        assert_eq!(self.left_over(), Vec::<PathBuf>::new(), "old, and of no backup");
        // The next run with a scratch directory removes those of the dead ones.
        self.relay.run(Deed::Backup.args()).check_code(0);
        let scratch: Vec<_> = std::fs::read_dir(self.sandbox().path("tmp")).unwrap().flatten().collect();
        assert!(scratch.is_empty(), "scratch directories of dead runs: {scratch:?}");
        young.len()
    }

    /// The end of a world in a bucket, by the time that the prune is told.
    fn end_in(&mut self, bucket: &Bucket) -> usize {
        // The lease of a dead run names it, until somebody else has given the lease back.
        self.prepare(Deed::Backup);
        self.relay.run(Deed::Backup.args()).check_code(0);
        self.look(true, 1);
        let young = self.left_in_bucket();
        // The data of backups that were removed goes after a day, whatever runs left after a week.
        let of_removed: BTreeSet<_> =
            young.iter().filter(|key| key.contains("/removed/")).filter_map(|key| key.split('/').nth(1)).collect();
        let is_removed = |key: &str| key.split('/').nth(1).is_some_and(|id| of_removed.contains(id));
        for (passed, stays) in [
            (DAY - HOUR, young.clone()),
            (WEEK - HOUR, young.iter().filter(|key| !is_removed(key)).cloned().collect()),
            (WEEK + DAY, BTreeSet::new()),
        ] {
            bucket.pass(passed);
            self.prepare(Deed::PruneOrphans);
            self.relay.run(Deed::PruneOrphans.args()).check_code(0);
            self.forget_what_is_gone();
            let there = self.left_in_bucket();
            let gone: Vec<_> = stays.difference(&there).collect();
            assert!(gone.is_empty(), "young and gone after {passed:?}: {gone:?}");
        }
        // Records that were removed just now left their data for the next one.
        self.relay.run(Deed::PruneOrphans.args()).check_code(0);
        self.prepare(Deed::Backup);
        self.look(false, 0);
        assert_eq!(self.left_in_bucket(), BTreeSet::new(), "old, and of no backup");
        young.len()
    }

    /// After a prune: the records that it removed are not missed.
    fn forget_what_is_gone(&mut self) {
        let listed = self.relay.listed();
        assert!(!listed.is_empty(), "nothing is left after {}", self.story);
        self.known.retain(|id, _| listed.contains(id));
    }

    fn prepare(&self, deed: Deed) {
        let slow = self.sandbox().path("slow");
        if deed == Deed::SlowBackup {
            std::fs::write(slow, "").unwrap();
        } else if slow.exists() {
            std::fs::remove_file(slow).unwrap();
        }
        let config = self.sandbox().path("strongroom.toml");
        let mut text = std::fs::read_to_string(&config).unwrap();
        if let Some(bucket) = &self.shape.bucket {
            let [server, proxy] = [bucket.server, bucket.proxy.port()].map(|port| format!("127.0.0.1:{port}\""));
            let (from, to) = if deed == Deed::PruneOrphans { (server, proxy) } else { (proxy, server) };
            text = text.replace(&from, &to);
            std::fs::write(&config, &text).unwrap();
        }
        let fails = deed == Deed::FailedBackup;
        if !text.contains(&format!("fail = {fails}")) {
            std::fs::write(config, text.replace(&format!("fail = {}", !fails), &format!("fail = {fails}"))).unwrap();
        }
    }

    /// Runs a deed with nobody killing it: how often it reaches which point, and how long it takes.
    fn survey(&mut self, deed: Deed) {
        let trace = self.sandbox().path("trace");
        if deed.prunes() {
            self.condemn(deed);
        }
        self.prepare(deed);
        let began = Instant::now();
        let fail = format!("{IN_A_HURRY},trace={}", trace.display());
        let output = self.sandbox().strongroom(deed.args()).env("STRONGROOM_FAIL", fail).run();
        let took = began.elapsed();
        output.check_code(deed.code());
        let text = std::fs::read_to_string(&trace).unwrap();
        std::fs::remove_file(trace).unwrap();
        let mut counts = BTreeMap::new();
        for line in text.lines() {
            let point = Point::ALL.iter().find(|point| point.name() == line).expect("a point");
            *counts.entry(point.name()).or_insert(0) += 1;
        }
        self.reached.insert(deed, (counts, took));
        self.story = format!("{deed:?}, not killed");
        if deed.prunes() {
            self.forget_what_is_gone();
        }
        self.look(deed.adds(), 1);
    }

    fn run_killed(&self, deed: Deed, when: &When) -> Output {
        self.prepare(deed);
        let fail = match when {
            When::At(point, n) => format!("{IN_A_HURRY},{point}@{n}=kill"),
            When::After(_) => IN_A_HURRY.to_owned(),
        };
        let running = self.sandbox().strongroom(deed.args()).env("STRONGROOM_FAIL", fail).start().unwrap();
        if let When::After(time) = when {
            std::thread::sleep(*time);
            // It may have ended by itself; then this is no kill, and is not counted.
            drop(running.signal(Signal::KILL));
        }
        running.finish(strongroom_tests::TIMEOUT).unwrap()
    }

    /// One kill and all checks after it; false when the run ended before.
    fn kill(&mut self, deed: Deed, when: &When) -> bool {
        self.story = format!("{deed:?} killed {when:?} in {:?}", self.shape);
        if deed.prunes() {
            self.condemn(deed);
            self.story = format!("{deed:?} killed {when:?} in {:?}", self.shape);
        }
        let before: BTreeSet<_> = self.relay.stored().into_iter().collect();
        let output = self.run_killed(deed, when);
        let killed = output.signal == Some(9);
        if !killed {
            output.check_code(deed.code());
        }
        if deed.prunes() {
            self.check_prune(deed, &before, killed);
            return killed;
        }
        if !killed {
            self.look(deed.adds(), 1);
            return false;
        }
        self.check(deed, when);
        if deed == Deed::Restore {
            self.check_restored(when);
        }
        true
    }

    /// What must hold after a prune: a backup that it was to remove is there, whole, or is not.
    fn check_prune(&mut self, deed: Deed, before: &BTreeSet<PathBuf>, killed: bool) {
        if killed {
            let listed: BTreeSet<_> = self.relay.listed().into_iter().collect();
            for id in self.known.keys().filter(|id| !self.condemned.0.contains(*id)) {
                assert!(listed.contains(id), "{id} vanished after {}", self.story);
            }
            for id in &listed {
                let output = self.relay.run(&["verify", "orders", id, "--depth", "stored"]);
                assert_eq!(output.code, Some(0), "verify {id} after {}: {output:?}", self.story);
            }
            let output = self.relay.run(deed.args());
            assert_eq!(output.code, Some(0), "the run after {}: {output:?}", self.story);
        }
        if self.shape.bucket.is_none() {
            self.check_pruned(before);
        } else if deed == Deed::PruneOrphans {
            self.check_bucket_pruned();
            // The data of what it removed is left, and is taken for a week old by the next one: not condemned.
            self.condemned_keys.clear();
            self.prepare(Deed::Backup);
        }
        self.forget_what_is_gone();
        self.look(false, 0);
    }

    /// What must hold after every kill of a run that removes nothing.
    fn check(&mut self, deed: Deed, when: &When) {
        self.look(deed.adds(), 1);
        let next = if deed == Deed::FailedBackup { Deed::Backup } else { deed };
        if next != Deed::Restore {
            self.prepare(next);
            let left = self.interrupted();
            let output = self.relay.run(next.args());
            assert_eq!(output.code, Some(0), "the run after {}: {output:?}", self.story);
            if next.adds() {
                let leaves = matches!(when, When::At(point, _) if deed.adds() && LEAVES.contains(point));
                assert!(!leaves || !left.is_empty(), "nothing was left after {}", self.story);
                self.check_told(&left, &output);
            }
            self.look(next.adds(), if next.adds() { 1 } else { 0 });
        }
    }

    /// Runs of which an object or a begun upload lies in the store, and no backup: what the next one should tell.
    fn interrupted(&self) -> BTreeSet<String> {
        let seen = match &self.shape.bucket {
            Some(bucket) => bucket.seen(&world_of(&self.relay)),
            None => {
                let store: Arc<dyn Store> = Arc::new(LocalStore::open(&self.relay.store()).unwrap());
                tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(Seen::of(&store))
            }
        };
        let id = |key: &String| key.split('/').nth(1).expect("an id").to_owned();
        let keys: Vec<_> = seen.orphans.into_iter().chain(seen.pending).filter(|key| is_of_a_run(key)).collect();
        // Of a backup that a prune removed the data stays for a day.
        let removed: BTreeSet<_> = keys.iter().filter(|key| key.contains("/removed/")).map(id).collect();
        let of_backups = keys.iter().filter(|key| !key.contains("/verified/") && !key.contains("/removed/"));
        of_backups.map(id).filter(|id| !removed.contains(id) && !seen.recorded.contains(id)).collect()
    }

    /// A backup says which runs before it left something and no backup, and says nothing when there are none.
    fn check_told(&self, left: &BTreeSet<String>, next: &Output) {
        let runs = if left.len() == 1 { "1 earlier run".to_owned() } else { format!("{} earlier runs", left.len()) };
        let says = left.last().map(|newest| {
            format!(
                "{runs} of job \"orders\" did not end and left no backup, the newest {newest}: this one begins anew"
            )
        });
        match says {
            Some(says) => assert!(next.stderr.contains(&says), "{left:?} after {}: {next:?}", self.story),
            None => assert!(!next.stderr.contains("did not end"), "after {}: {next:?}", self.story),
        }
    }

    /// `list` shows what it showed, and of a backup at most one more; `verify` passes on all of them.
    fn look(&mut self, may_add: bool, most: usize) {
        let output = self.relay.run(&["list", "orders", "--output", "json"]);
        assert_eq!(output.code, Some(0), "list after {}: {output:?}", self.story);
        let listed = output.json();
        assert_eq!(listed["unreadable"], Value::Array(Vec::new()), "after {}", self.story);
        let backups = listed["backups"].as_array().expect("a list");
        let ids: BTreeSet<String> = backups.iter().map(|b| b["id"].as_str().expect("an id").to_owned()).collect();
        let gone: Vec<_> = self.known.keys().filter(|id| !ids.contains(*id)).collect();
        assert!(gone.is_empty(), "{gone:?} vanished after {}", self.story);
        let new: Vec<_> = ids.iter().filter(|id| !self.known.contains_key(*id)).collect();
        assert!(new.len() <= if may_add { most } else { 0 }, "{new:?} appeared after {}", self.story);
        for backup in backups {
            assert_eq!(backup["outcome"], "complete", "after {}: {backup}", self.story);
        }
        for id in &ids {
            // What was not looked at yet is decrypted and decoded, the rest compared with its record.
            let depth = if self.known.contains_key(id) { "stored" } else { "contents" };
            let output = self.relay.run(&["verify", "orders", id, "--depth", depth]);
            assert_eq!(output.code, Some(0), "verify {id} after {}: {output:?}", self.story);
        }
        let new: Vec<String> = new.into_iter().cloned().collect();
        for id in new {
            let digests = self.digests(&id);
            self.known.insert(id, digests);
        }
    }

    /// Digests of a backup's artifacts, as its record names them: as many as there should be.
    fn digests(&self, id: &str) -> BTreeSet<String> {
        let shown = self.relay.run(&["show", "orders", id, "--output", "json"]);
        let shown = shown.check_code(0).json();
        let artifacts = shown["record"]["artifacts"].as_array().expect("artifacts");
        let names: Vec<_> = artifacts.iter().map(|artifact| artifact["name"].as_str().expect("a name")).collect();
        assert_eq!(names, self.shape.artifacts, "{id} after {}", self.story);
        artifacts.iter().map(|artifact| artifact["blake3"].as_str().expect("a digest").to_owned()).collect()
    }

    /// After a killed restore the next one says so where the target may have changed, and restores all.
    fn check_restored(&self, when: &When) {
        // By its id: within one second, ids do not sort by time.
        let id = self.known.keys().next_back().expect("a backup");
        let running = self.sandbox().strongroom(["restore", "orders", id]).start().unwrap();
        let restored = self.sandbox().path(format!("restored-{}", running.pid()));
        let output = running.finish(strongroom_tests::TIMEOUT).unwrap();
        assert_eq!(output.code, Some(0), "the run after {}: {output:?}", self.story);
        let text = std::fs::read_to_string(restored).unwrap();
        let digests: BTreeSet<_> =
            text.lines().filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect();
        assert_eq!(digests, self.known[id], "after {}", self.story);
        let says = output.stderr.contains("was interrupted after it had begun to change");
        if let When::At(point, _) = when {
            let had_begun = ["restore.changing", "restore.returned", "restore.flushed"].contains(point);
            assert_eq!(says, had_begun, "after {}: {output:?}", self.story);
        }
    }
}

/// Points at which the first run of all can be killed: later ones do not make a key, compile the plugin or keep
/// it in the store. The last is of a local store.
const FIRST: &[Point] =
    &[Point::KeyFlushed, Point::KeyNamed, Point::CacheWritten, Point::CacheNamed, Point::LocalFlushed];

/// Points at which a backup has something in the store for sure, and no record. A first part may be in memory only.
const LEAVES: &[&str] =
    &["s3.begun", "s3.part", "segment.complete", "artifact.stored", "backup.confirmed", "record.writing"];

/// Kills in worlds of these shapes until there were `kills` of them, `wanted` points first.
fn kill_until(shapes: &[Shape], deeds: &[Deed], wanted: &BTreeSet<&'static str>, kills: usize) {
    let mut dice = Dice::seeded();
    let mut missing: BTreeSet<&'static str> =
        wanted.iter().copied().filter(|name| !FIRST[..4].iter().any(|first| first.name() == *name)).collect();
    let (mut done, mut named, mut worlds, mut swept) = (0, 0, 0, 0);
    let n_first = FIRST.len() - usize::from(wanted.iter().any(|name| is_of_s3(name)));
    let first = &FIRST[..n_first];
    while done < kills || !missing.is_empty() {
        let mut world = World::new(&shapes[worlds % shapes.len()], first[worlds % first.len()]);
        worlds += 1;
        done += 1;
        assert!(worlds < 20 + 2 * kills / KILLS_PER_WORLD, "never reached: {missing:?}");
        for deed in deeds {
            world.survey(*deed);
        }
        for _ in 1..KILLS_PER_WORLD {
            let (deed, when) = choose(&world, &mut dice, &missing, deeds);
            if world.kill(deed, &when) {
                done += 1;
                if let When::At(point, _) = when {
                    missing.remove(point);
                    named += 1;
                }
            }
        }
        swept += world.end();
    }
    assert!(swept > 0, "the kills left nothing to remove");
    println!(
        "soak: {done} kills in {worlds} worlds, {named} of them at named points, {swept} files or objects left and found by their age"
    );
}

/// Whether a key is of a run of the job, and not of its lease or the plugin.
fn is_of_a_run(key: &str) -> bool {
    key.starts_with("orders/") && key.matches('/').count() > 1
}

/// The prefix of a world in a bucket.
fn world_of(relay: &Relay) -> String {
    relay.sandbox.dir().file_name().expect("a name").to_string_lossy().into_owned()
}

/// Makes a file of a local store eight days old, by the clock of its file system.
fn grow_old(path: &Path) {
    let file = std::fs::File::open(path).unwrap();
    file.set_modified(SystemTime::now() - Duration::from_secs(8 * 24 * 3600)).unwrap();
}

/// A point that nobody was killed at yet; else any point, or any time.
fn choose(world: &World, dice: &mut Dice, missing: &BTreeSet<&'static str>, deeds: &[Deed]) -> (Deed, When) {
    let mut open = Vec::new();
    let mut any = Vec::new();
    for (deed, (counts, _)) in world.reached.iter().filter(|(deed, _)| deeds.contains(deed)) {
        for (point, n) in counts {
            any.push((*deed, *point, *n));
            if missing.contains(point) {
                open.push((*deed, *point, *n));
            }
        }
    }
    if dice.below(if open.is_empty() { 2 } else { 6 }) == 0 {
        let deed = *dice.pick(deeds);
        let took = u64::try_from(world.reached[&deed].1.as_micros()).expect("a duration");
        return (deed, When::After(Duration::from_micros(dice.below(took.max(1)))));
    }
    let (deed, point, n) = *dice.pick(if open.is_empty() { &any } else { &open });
    // Threads and times differ between runs: of what comes often, one of the first is there for sure.
    (deed, When::At(point, 1 + dice.below(n.div_ceil(2))))
}

/// How many kills to do: of those that the long form was told, this share in percent; `short` in the short one.
fn share(percent: usize, short: usize) -> usize {
    let told: usize = std::env::var(soak::COUNT).map_or(0, |text| text.parse().expect("a number of kills"));
    if told > 0 { told * percent / 100 } else { short }
}

/// Names of the points that `wanted` says yes to.
fn points(wanted: impl Fn(&str) -> bool) -> BTreeSet<&'static str> {
    Point::ALL.iter().map(|point| point.name()).filter(|name| wanted(name)).collect()
}

fn is_of_s3(name: &str) -> bool {
    name.starts_with("s3.") || name == "lease.renewed"
}

#[test]
fn killed_anywhere_a_local_store_shows_only_whole_backups_and_the_next_run_succeeds() {
    let (place, bucket) = ("type = \"local\"\npath = \"store\"".to_owned(), None);
    let shapes = [
        Shape { place: place.clone(), store: "", produce: TINY.0, artifacts: TINY.1, bucket: bucket.clone() },
        Shape {
            place,
            store: "part_bytes = \"1MiB\"\nparts_per_segment = 4",
            produce: "head -c 5000000 /dev/urandom",
            artifacts: &["large"],
            bucket,
        },
    ];
    let deeds: Vec<_> = Deed::ALL.iter().copied().filter(|deed| *deed != Deed::SlowBackup).collect();
    // The textfile has a test of its own, in the suite `metrics`.
    let wanted = points(|name| !is_of_s3(name) && !name.starts_with("bucket.") && name != "registry.textfile");
    kill_until(&shapes, &deeds, &wanted, share(65, 40));
}

/// Shapes of worlds in a bucket: tiny artifacts, and one of two segments that are uploaded in parts.
fn shapes_in(port: u16, bucket: Option<Bucket>) -> [Shape; 2] {
    let place = format!(
        "type = \"s3\"\nbucket = \"{}\"\nendpoint = \"http://127.0.0.1:{port}\"\nregion = \"us-east-1\"\n\
         prefix = \"WORLD\"\naccess_key = {{ env = \"ACCESS_KEY\" }}\nsecret_key = {{ env = \"SECRET_KEY\" }}",
        s3::BUCKET
    );
    [
        Shape { place: place.clone(), store: "", produce: TINY.0, artifacts: TINY.1, bucket: bucket.clone() },
        Shape {
            place,
            store: "part_bytes = \"8MiB\"\nparts_per_segment = 2",
            produce: "head -c 18000000 /dev/urandom",
            artifacts: &["large"],
            bucket,
        },
    ]
}

async fn check_server(server: Server, wanted: &BTreeSet<&'static str>, kills: usize) {
    let server = S3Server::start(server).await.unwrap();
    let proxy = Arc::new(Proxy::start(server.port(), (ACCESS_KEY, SECRET_KEY), Vec::new()).await.unwrap());
    let bucket = Bucket { server: server.port(), proxy, runtime: tokio::runtime::Handle::current() };
    let shapes = shapes_in(server.port(), Some(bucket));
    let wanted = wanted.clone();
    tokio::task::spawn_blocking(move || kill_until(&shapes, Deed::ALL, &wanted, kills)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_anywhere_a_bucket_shows_only_whole_backups_and_the_next_run_succeeds() {
    let wanted = points(|name| {
        is_of_s3(name) || ["lease.", "record."].iter().any(|of| name.starts_with(of)) || name == "prune.upload"
    });
    check_server(Server::Versitygw, &wanted, share(20, 16)).await;
    // Four seconds to start: the long form only.
    let kills = share(10, 0);
    if kills > 0 {
        check_server(Server::Minio, &wanted, kills).await;
    }
}

#[test]
fn killed_while_it_writes_files_a_restore_is_done_again_and_the_tree_is_whole() {
    let documents = Documents::new();
    for n in 0..6 {
        std::fs::write(documents.source().join(format!("file-{n}")), format!("{n}\n").repeat(10_000)).unwrap();
    }
    let id = documents.backup(0);
    let kills = share(5, 4);
    for n in 0..kills {
        let point = ["bucket.written", "bucket.named"][n % 2];
        let fail = format!("{point}@{}=kill", 1 + n / 2 % 5);
        let args = ["restore", "documents", &id, "--target", "found", "--option", "overwrite=true"];
        let killed = documents.sandbox.strongroom(args).env("STRONGROOM_FAIL", &fail).run();
        assert_eq!(killed.signal, Some(9), "{fail}: {killed:?}");
        // A plan says it as well, and changes nothing of it.
        let plan = documents.run(&["restore", "documents", &id, "--target", "found", "--plan"]);
        plan.check_stderr(&id).check_stderr("target \"found\", which may hold a part of it");
        let again = documents.run(&args);
        again.check_code(0).check_stderr("was interrupted after it had begun to change");
        for entry in std::fs::read_dir(documents.source()).unwrap() {
            let path = entry.unwrap().path();
            let copy = documents.found().join(path.file_name().unwrap());
            assert_eq!(std::fs::read(&path).unwrap(), std::fs::read(copy).unwrap(), "{fail}");
        }
        let after = documents.run(&args);
        after.check_code(0);
        assert!(!after.stderr.contains("interrupted"), "it was told before: {after:?}");
    }
    println!("soak: {kills} kills of restores into a bucket");
}

/// A backup of `relay` that stands still at `point`: whatever a prune is asked meanwhile, `says` on `code`, it
/// takes nothing of it, and the backup ends well. `age` makes everything look old, and ends that.
fn check_left_alone(relay: &Relay, point: &str, age: impl Fn(&Relay, bool), code: i32, says: &str) {
    let gate = relay.sandbox.path("gate");
    let fail = format!("{IN_A_HURRY},{point}=stop:{}", gate.display());
    let running = relay.sandbox.strongroom(Deed::Backup.args()).env("STRONGROOM_FAIL", fail).start().unwrap();
    wait_until("the backup to stand still", strongroom_tests::TIMEOUT, || Ok(gate.exists().then_some(()))).unwrap();
    age(relay, true);
    let prune = relay.run(Deed::PruneOrphans.args());
    age(relay, false);
    prune.check_code(code);
    assert!(format!("{}{}", prune.stdout, prune.stderr).contains(says), "{prune:?}");
    std::fs::remove_file(gate).unwrap();
    running.finish(strongroom_tests::TIMEOUT).unwrap().check_code(0);
    assert_eq!(relay.listed().len(), 1);
    relay.run(&["verify", "orders", "latest"]).check_code(0);
}

#[test]
fn what_a_running_backup_stored_is_never_pruned_from_a_local_store_however_old_it_looks() {
    let place = "type = \"local\"\npath = \"store\"".to_owned();
    // One artifact: what another one writes meanwhile would be young again.
    let shape = Shape { place, store: "", produce: TINY.0, artifacts: &["a"], bucket: None };
    for point in ["part.stored", "segment.complete", "record.writing"] {
        let old = |relay: &Relay, is_old| relay.stored().iter().filter(|_| is_old).for_each(|path| grow_old(path));
        check_left_alone(&World::new_relay(&shape), point, old, 1, "another run of job \"orders\" is at work");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_running_backup_stored_is_never_pruned_from_a_bucket() {
    let server = S3Server::start(Server::Versitygw).await.unwrap();
    let later = Rule::always("", "", Act::Later(WEEK + DAY));
    let proxy = Proxy::start(server.port(), (ACCESS_KEY, SECRET_KEY), vec![later]).await.unwrap();
    let shapes = shapes_in(server.port(), None);
    let (direct, later) = (format!("127.0.0.1:{}\"", server.port()), format!("127.0.0.1:{}\"", proxy.port()));
    let check = move || {
        // The backup goes to the server. Who comes through the proxy, as the prune does, is told a time that is a
        // day more than a week later.
        let later = |relay: &Relay, is_old| {
            let (from, to) = if is_old { (&direct, &later) } else { (&later, &direct) };
            let config = relay.sandbox.path("strongroom.toml");
            let text = std::fs::read_to_string(&config).unwrap();
            assert!(text.contains(from), "{text}");
            std::fs::write(config, text.replace(from, to)).unwrap();
        };
        for (shape, point) in
            [(&shapes[0], "segment.complete"), (&shapes[0], "record.writing"), (&shapes[1], "s3.part")]
        {
            check_left_alone(&World::new_relay(shape), point, later, 0, "there is nothing to remove");
        }
    };
    tokio::task::spawn_blocking(check).await.unwrap();
}
