//! SIGKILL at every named point and at random times: nothing half-made is visible, what is listed is whole,
//! and the next run succeeds.
//!
//! The short form kills at every point once, the long one (`cargo xtask soak kill`) as often as it is told.
//! `STRONGROOM_SEED` repeats a run.

use rustix::process::Signal;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};
use strongroom::failpoint::Point;
use strongroom_tests::documents::Documents;
use strongroom_tests::relay::{Relay, Setup, sh};
use strongroom_tests::s3::{self, ACCESS_KEY, S3Server, SECRET_KEY, Server};
use strongroom_tests::{Output, Sandbox};
use xtask::soak;

/// Kills of one world, before the next one begins with an empty store: every one of its backups is verified
/// after every kill.
const KILLS_PER_WORLD: usize = 8;
/// A lease that stood still for this long is taken over: the shortest that a lease may ask for is 200 ms.
const IN_A_HURRY: &str = "lease=300";

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
}

impl Deed {
    const ALL: &[Self] =
        &[Self::Backup, Self::SlowBackup, Self::FailedBackup, Self::VerifyContents, Self::VerifyStored, Self::Restore];

    fn args(self) -> &'static [&'static str] {
        match self {
            Self::Backup | Self::SlowBackup | Self::FailedBackup => &["backup", "orders"],
            Self::VerifyContents => &["verify", "orders", "latest", "--depth", "contents"],
            Self::VerifyStored => &["verify", "orders", "latest", "--depth", "stored"],
            Self::Restore => &["restore", "orders", "latest"],
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
}

/// Three artifacts of one part each.
const TINY: (&str, &[&str]) = ("seq 1 2000", &["a", "b", "c"]);

/// Numbers that look random and can be repeated (splitmix64).
struct Dice(u64);

impl Dice {
    fn seeded() -> Self {
        let seed = std::env::var("STRONGROOM_SEED").ok().map_or(20_261_121, |text| text.parse().expect("a number"));
        Self(seed)
    }

    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % n
    }

    fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[usize::try_from(self.below(from.len() as u64)).expect("an index")]
    }
}

/// A job with its store, and what is known to be in it.
struct World {
    relay: Relay,
    shape: Shape,
    /// Backups that `list` showed, with the digests of their artifacts.
    known: BTreeMap<String, BTreeSet<String>>,
    /// How often each deed reaches each point, and how long it takes.
    reached: BTreeMap<Deed, (BTreeMap<&'static str, u64>, Duration)>,
    /// What was killed last, for messages.
    story: String,
}

impl World {
    /// A world whose very first run was killed at `first`, and that has one backup.
    fn new(shape: &Shape, first: Point) -> Self {
        let artifacts: Vec<_> = shape.artifacts.iter().map(|name| format!("{name:?}")).collect();
        let mut relay = Relay::new(Setup::default());
        relay.sandbox.set_env("ACCESS_KEY", ACCESS_KEY).set_env("SECRET_KEY", SECRET_KEY);
        relay.sandbox.set_env("STRONGROOM_FAIL", IN_A_HURRY);
        let dir = relay.sandbox.dir().display().to_string();
        // A world is alone in its store: another host's backups would be of an unknown signer.
        let name = relay.sandbox.dir().file_name().expect("a name").to_string_lossy().into_owned();
        let place = shape.place.replace("WORLD", &name);
        relay.configure(&Setup {
            produce: sh(&format!("test ! -e {dir}/slow || sleep 0.3; {}", shape.produce)),
            // Each restore into a place of its own: what a killed one started may live on for a moment.
            consume: sh(&format!("b3sum >> {dir}/restored-$PPID")),
            settings: format!("artifacts = [{}]\nfail = false", artifacts.join(", ")),
            place,
            store: shape.store.into(),
            ..Setup::default()
        });
        let mut world = Self {
            relay,
            shape: shape.clone(),
            known: BTreeMap::new(),
            reached: BTreeMap::new(),
            story: format!("the first run, killed at {}", first.name()),
        };
        let output = world.run_killed(Deed::Backup, &When::At(first.name(), 1));
        assert_eq!(output.signal, Some(9), "{}: {output:?}", world.story);
        world.check(Deed::Backup);
        world
    }

    fn sandbox(&self) -> &Sandbox {
        &self.relay.sandbox
    }

    fn prepare(&self, deed: Deed) {
        let slow = self.sandbox().path("slow");
        if deed == Deed::SlowBackup {
            std::fs::write(slow, "").unwrap();
        } else if slow.exists() {
            std::fs::remove_file(slow).unwrap();
        }
        let config = self.sandbox().path("strongroom.toml");
        let text = std::fs::read_to_string(&config).unwrap();
        let fails = deed == Deed::FailedBackup;
        if !text.contains(&format!("fail = {fails}")) {
            std::fs::write(config, text.replace(&format!("fail = {}", !fails), &format!("fail = {fails}"))).unwrap();
        }
    }

    /// Runs a deed with nobody killing it: how often it reaches which point, and how long it takes.
    fn survey(&mut self, deed: Deed) {
        let trace = self.sandbox().path("trace");
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
        let output = self.run_killed(deed, when);
        if output.signal != Some(9) {
            output.check_code(deed.code());
            self.look(deed.adds(), 1);
            return false;
        }
        self.check(deed);
        if deed == Deed::Restore {
            self.check_restored(when);
        }
        true
    }

    /// What must hold after every kill.
    fn check(&mut self, deed: Deed) {
        self.look(deed.adds(), 1);
        let next = if deed == Deed::FailedBackup { Deed::Backup } else { deed };
        if next != Deed::Restore {
            self.prepare(next);
            let output = self.relay.run(next.args());
            assert_eq!(output.code, Some(0), "the run after {}: {output:?}", self.story);
            self.look(next.adds(), if next.adds() { 1 } else { 0 });
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

/// Points at which the first run of all can be killed: later ones do not make a key or compile the plugin.
const FIRST: &[Point] = &[Point::KeyFlushed, Point::KeyNamed, Point::CacheWritten, Point::CacheNamed];

/// Kills in worlds of these shapes until there were `kills` of them, `wanted` points first. Returns the
/// points that a run was killed at.
fn kill_until(shapes: &[Shape], deeds: &[Deed], wanted: &BTreeSet<&'static str>, kills: usize) -> usize {
    let mut dice = Dice::seeded();
    let mut missing: BTreeSet<&'static str> =
        wanted.iter().copied().filter(|name| !FIRST.iter().any(|first| first.name() == *name)).collect();
    let (mut done, mut named, mut worlds) = (0, 0, 0);
    while done < kills || !missing.is_empty() {
        let mut world = World::new(&shapes[worlds % shapes.len()], FIRST[worlds % FIRST.len()]);
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
    }
    println!("soak: {done} kills in {worlds} worlds, {named} of them at named points");
    done
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
    let place = "type = \"local\"\npath = \"store\"".to_owned();
    let shapes = [
        Shape { place: place.clone(), store: "", produce: TINY.0, artifacts: TINY.1 },
        Shape {
            place,
            store: "part_bytes = \"1MiB\"\nparts_per_segment = 4",
            produce: "head -c 5000000 /dev/urandom",
            artifacts: &["large"],
        },
    ];
    let deeds: Vec<_> = Deed::ALL.iter().copied().filter(|deed| *deed != Deed::SlowBackup).collect();
    let wanted = points(|name| !is_of_s3(name) && !name.starts_with("bucket."));
    kill_until(&shapes, &deeds, &wanted, share(65, 40));
}

/// Shapes of worlds in a bucket: tiny artifacts, and one of two segments that are uploaded in parts.
fn shapes_in(port: u16) -> [Shape; 2] {
    let place = format!(
        "type = \"s3\"\nbucket = \"{}\"\nendpoint = \"http://127.0.0.1:{port}\"\nregion = \"us-east-1\"\n\
         prefix = \"WORLD\"\naccess_key = {{ env = \"ACCESS_KEY\" }}\nsecret_key = {{ env = \"SECRET_KEY\" }}",
        s3::BUCKET
    );
    [
        Shape { place: place.clone(), store: "", produce: TINY.0, artifacts: TINY.1 },
        Shape {
            place,
            store: "part_bytes = \"8MiB\"\nparts_per_segment = 2",
            produce: "head -c 18000000 /dev/urandom",
            artifacts: &["large"],
        },
    ]
}

async fn check_server(server: Server, wanted: &BTreeSet<&'static str>, kills: usize) {
    let server = S3Server::start(server).await.unwrap();
    let shapes = shapes_in(server.port());
    let wanted = wanted.clone();
    tokio::task::spawn_blocking(move || kill_until(&shapes, Deed::ALL, &wanted, kills)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_anywhere_a_bucket_shows_only_whole_backups_and_the_next_run_succeeds() {
    let wanted = points(|name| is_of_s3(name) || name.starts_with("lease.") || name.starts_with("record."));
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
