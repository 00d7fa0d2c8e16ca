//! A guest that calls every function of the contract at random, with arguments that are right, wrong
//! or hostile, and with any handle that it finds. Equal seeds make equal calls.
//!
//! It speaks the contract without the SDK, so that it can do what the SDK would not.

mod cluster;
mod random;

wit_bindgen::generate!({ path: "../../../wit", world: "plugin" });

use exports::strongroom::plugin::component::{
    BackupReport, BackupRequest, Check, DiagnoseRequest, Guest, RestoreRequest, VerifyRequest,
};
use random::Random;
use strongroom::plugin::bytes::{self, Sink, Source};
use strongroom::plugin::exec::{self, Invocation, Process};
use strongroom::plugin::kube::{Cluster, Listing};
use strongroom::plugin::run;
use strongroom::plugin::storage::{self, Archive, ArchiveReader, Bucket, Existing, PutOptions, Transfer, Writing};
use strongroom::plugin::types::{Error, Outcome, Step};

struct Chaos;

/// Words for every place that takes text: names that exist, names that do not, and what an attacker sends.
const WORDS: &[&str] = &[
    "a",
    "b",
    "seen.txt",
    "hidden.txt",
    "many",
    "one",
    "data",
    "echo",
    "policy",
    "acl",
    "changed-x",
    "hello",
    "",
    ".",
    "..",
    "../a",
    "../../etc/passwd",
    "/etc/passwd",
    "a/b",
    "a//b",
    "a/../b",
    "%2e%2e%2f",
    "a\0b",
    "a\nb",
    "-n",
    "--help",
    "-",
    "\u{ff0e}\u{ff0e}\u{2215}",
    "\u{202e}txt.exe",
    "a\u{0301}",
    "\u{1b}[2J",
    "con",
    "A",
    "*",
    "[a-z]+",
    "{word}",
    "{scratch}",
    "$(id)",
    "`id`",
    "host=127.0.0.1 dbname=x",
    "postgres://127.0.0.1/x",
    "record.json",
    "lease.json",
    ".tmp",
    "x.0001.zst.age",
];

const COMMANDS: &[&str] = &["echo", "seen", "much", "fail", "copy", "change", "sh", "", "../echo", "Echo"];

/// All handles that the guest has at the moment.
#[derive(Default)]
struct Hands {
    sources: Vec<Source>,
    sinks: Vec<Sink>,
    processes: Vec<Process>,
    transfers: Vec<Transfer>,
    archives: Vec<Archive>,
    readers: Vec<ArchiveReader>,
    buckets: Vec<Bucket>,
    writings: Vec<Writing>,
    clusters: Vec<Cluster>,
    lists: Vec<Listing>,
    /// The namespace that is granted.
    namespace: String,
}

/// Takes any element out.
fn any<T>(from: &mut Vec<T>, random: &mut Random) -> Option<T> {
    if from.is_empty() {
        return None;
    }
    let at = random.below(from.len());
    Some(from.swap_remove(at))
}

/// Looks at any element.
fn some<'a, T>(from: &'a [T], random: &mut Random) -> Option<&'a T> {
    if from.is_empty() { None } else { Some(&from[random.below(from.len())]) }
}

fn word(random: &mut Random) -> String {
    match random.below(40) {
        0 => "x".repeat(random.below(70_000)),
        1 => char::from_u32(random.below(0xd800) as u32).map(String::from).unwrap_or_default(),
        2..=12 => ["a", "b", "c", "seen.txt", "one"][random.below(5)].to_owned(),
        _ => WORDS[random.below(WORDS.len())].to_owned(),
    }
}

/// A name for an artifact: any word, or one that is not taken yet, as each is taken once.
fn name(random: &mut Random) -> String {
    if random.below(2) == 0 { format!("n{}", random.next()) } else { word(random) }
}

fn pairs(random: &mut Random) -> Vec<(String, String)> {
    (0..random.below(4)).map(|_| (word(random), word(random))).collect()
}

fn options(random: &mut Random) -> PutOptions {
    PutOptions { media_type: (random.below(4) == 0).then(|| word(random)), compress: random.below(2) == 0 }
}

fn invocation(hands: &mut Hands, random: &mut Random) -> Invocation {
    let command = COMMANDS[random.below(COMMANDS.len())].to_owned();
    let slots = match (&*command, random.below(3)) {
        ("echo" | "seen", 1..) => vec![("word".to_owned(), "hello".to_owned())],
        ("change", 1..) => vec![("word".to_owned(), "changed-it".to_owned())],
        (_, 0) => pairs(random),
        _ => vec![],
    };
    let wants = command == "copy" || random.below(8) == 0;
    let stdin = if wants { any(&mut hands.sources, random) } else { None };
    let timeout_ms = match random.below(6) {
        0 => Some(random.below(2000) as u64),
        1 => Some(u64::MAX),
        _ => None,
    };
    Invocation { command, slots, stdin, timeout_ms }
}

/// One call. What it answers is of no interest: the host must take whatever comes.
fn call(hands: &mut Hands, random: &mut Random) {
    match random.below(72) {
        0 => run::log(run::Level::Info, &word(random), &pairs(random)),
        1 => run::progress(&word(random), random.next(), Some(random.next())),
        2 => run::report_step(&Step {
            action: word(random),
            target: word(random),
            outcome: Outcome::Passed,
            note: word(random),
        }),
        3 => drop(run::now_ms()),
        4 => run::sleep_ms(random.below(5) as u64),
        5 | 6 => {
            if let Ok((sink, source)) = bytes::pipe() {
                hands.sinks.push(sink);
                hands.sources.push(source);
            }
        }
        7 => {
            if let Some(source) = some(&hands.sources, random) {
                drop(source.read([0, 1, 10, 70_000, u32::MAX][random.below(5)]));
            }
        }
        8..=10 => {
            if let Some(sink) = some(&hands.sinks, random) {
                let size = [0, 1, 1000, 60_000, 2 << 20][random.below(5)];
                drop(sink.write(&vec![7; size]));
            }
        }
        11 | 12 => {
            if let Some(sink) = any(&mut hands.sinks, random) {
                drop(bytes::finish(sink));
            }
        }
        13 => {
            if let Some(source) = any(&mut hands.sources, random)
                && let Ok((one, two)) = bytes::tee(source)
            {
                hands.sources.extend([one, two]);
            }
        }
        14 | 15 => {
            let invocation = invocation(hands, random);
            hands.processes.extend(exec::spawn(invocation));
        }
        16 => {
            let invocation = invocation(hands, random);
            drop(exec::run(invocation));
        }
        17 | 18 => {
            if let Some(process) = some(&hands.processes, random)
                && let Ok(stdout) = process.stdout()
            {
                hands.sources.push(stdout);
            }
        }
        19 => {
            if let Some(process) = some(&hands.processes, random) {
                drop(process.wait());
            }
        }
        20..=22 => {
            if let Some(source) = any(&mut hands.sources, random) {
                hands.transfers.extend(storage::put(&name(random), source, &options(random)));
            }
        }
        23 => {
            if let Some(transfer) = some(&hands.transfers, random) {
                drop(transfer.wait());
            }
        }
        24 => {
            let borrowed: Vec<&Transfer> =
                (0..random.below(4)).filter_map(|_| some(&hands.transfers, random)).collect();
            drop(storage::first_done(&borrowed));
        }
        25 | 52 => hands.archives.extend(storage::create_archive(&name(random), &options(random))),
        26 | 53..=55 => {
            let (path, attributes) = (word(random), pairs(random));
            match (some(&hands.archives, random), random.below(3)) {
                (Some(archive), 0) => drop(archive.add_bytes(&path, &attributes, b"content")),
                (Some(_), _) => {
                    if let Some(source) = any(&mut hands.sources, random)
                        && let Some(archive) = some(&hands.archives, random)
                    {
                        drop(archive.add(&path, &attributes, source));
                    }
                }
                (None, _) => {}
            }
        }
        27 => {
            if let Some(archive) = any(&mut hands.archives, random) {
                drop(storage::finish_archive(archive));
            }
        }
        28 => {
            drop(storage::artifacts());
            hands.sources.extend(storage::get(&word(random)));
        }
        29 | 56 => {
            let name = if random.below(2) == 0 { "many".to_owned() } else { word(random) };
            hands.readers.extend(storage::open_archive(&name));
        }
        30 | 57..=59 => {
            if let Some(reader) = some(&hands.readers, random) {
                let found =
                    if random.below(2) == 0 { reader.open(&word(random)).ok() } else { reader.next().ok().flatten() };
                hands.sources.extend(found.map(|(_, source)| source));
            }
        }
        31 | 60 | 61 => hands.buckets.extend(storage::open_bucket(if random.below(4) == 0 { "other" } else { "data" })),
        32 => {
            if let Some(bucket) = some(&hands.buckets, random) {
                let key = word(random);
                match random.below(6) {
                    0 => drop(bucket.objects(&key, Some(&word(random)))),
                    1 => drop(bucket.objects(&key, None)),
                    2 => drop(bucket.attributes(&key, None)),
                    3 => drop(bucket.delete(&key, (random.below(2) == 0).then(|| word(random)).as_deref())),
                    4 => drop(bucket.read_config(&key)),
                    _ => drop(bucket.write_config(&key, &word(random))),
                }
                hands.sources.extend(bucket.read(&word(random), None));
            }
        }
        33 | 62 | 63 => {
            if let Some(source) = any(&mut hands.sources, random)
                && let Some(bucket) = some(&hands.buckets, random)
            {
                let existing = if random.below(2) == 0 { Existing::Keep } else { Existing::Replace };
                hands.writings.extend(bucket.write(&word(random), &pairs(random), source, existing));
            }
        }
        34 | 64 | 65 => {
            if let Some(writing) = some(&hands.writings, random) {
                drop(writing.wait());
            }
        }
        35..=37 => let_go(hands, random),
        38 | 39 => cluster::measure(random),
        _ => cluster::call(hands, random),
    }
}

/// Drops a handle, or forgets it so that the host finds it at the end.
fn let_go(hands: &mut Hands, random: &mut Random) {
    fn away<T>(from: &mut Vec<T>, random: &mut Random) {
        if let Some(handle) = any(from, random) {
            if random.below(4) == 0 { std::mem::forget(handle) } else { drop(handle) }
        }
    }
    match random.below(10) {
        0 => away(&mut hands.sources, random),
        1 => away(&mut hands.sinks, random),
        2 => away(&mut hands.processes, random),
        3 => away(&mut hands.transfers, random),
        4 => away(&mut hands.archives, random),
        5 => away(&mut hands.readers, random),
        6 => away(&mut hands.buckets, random),
        7 => away(&mut hands.clusters, random),
        8 => away(&mut hands.lists, random),
        _ => away(&mut hands.writings, random),
    }
}

/// Uses a number as a handle, of whatever kind it may be.
#[expect(unsafe_code, reason = "what no bindings would let it do is what it is for")]
fn forge(random: &mut Random) {
    let handle = [0, 1, 2, 3, 7, 100, 0x7fff_ffff, u32::MAX - 1][random.below(8)];
    // SAFETY: a handle is a number that the host checks; a wrong one ends this guest, which is what is tried.
    unsafe {
        match random.below(12) {
            0 => drop(Source::from_handle(handle)),
            1 => drop(Source::from_handle(handle).read(10)),
            2 => drop(Transfer::from_handle(handle).wait()),
            3 => drop(bytes::finish(Sink::from_handle(handle))),
            4 => drop(Process::from_handle(handle).stdout()),
            5 => drop(Bucket::from_handle(handle).objects("", None)),
            6 => drop(storage::finish_archive(Archive::from_handle(handle))),
            7 => drop(Archive::from_handle(handle).add_bytes("forged", &[], b"content")),
            8 => drop(Cluster::from_handle(handle).version()),
            9 => drop(Listing::from_handle(handle).next_page()),
            10 => drop(Writing::from_handle(handle).wait()),
            _ => drop(storage::put(
                "forged",
                Source::from_handle(handle),
                &PutOptions { media_type: None, compress: true },
            )),
        }
    }
}

/// The text behind a key of flat JSON.
fn text<'a>(settings: &'a str, key: &str) -> &'a str {
    let rest = settings.split_once(&format!("\"{key}\":\"")).map(|(_, rest)| rest).unwrap_or_default();
    rest.split('"').next().unwrap_or_default()
}

/// The number behind a key of flat JSON.
fn number(settings: &str, key: &str) -> Option<u64> {
    let rest = settings.split_once(&format!("\"{key}\":"))?.1.trim_start();
    let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
    rest[..digits].parse().ok()
}

fn act(settings: &str, verb: u64) {
    let seed = number(settings, "seed").unwrap_or(0);
    let forging = settings.contains("\"forge\":true");
    for sequence in 0..number(settings, "sequences").unwrap_or(1) {
        let mut random = Random::new(seed ^ (verb << 56) ^ (sequence << 32));
        let mut hands = Hands { namespace: text(settings, "namespace").to_owned(), ..Hands::default() };
        for _ in 0..number(settings, "calls").unwrap_or(50) {
            call(&mut hands, &mut random);
            if forging && random.below(30) == 0 {
                forge(&mut random);
            }
        }
        if random.below(3) == 0 {
            std::mem::forget(hands);
        }
    }
}

/// Stores as a plugin should: there is something to read back then.
fn calm() -> Result<(), Error> {
    for (command, name) in [("seen", "seen.txt"), ("echo", "hidden.txt")] {
        let slots = vec![("word".to_owned(), "hello".to_owned())];
        let process = exec::spawn(Invocation { command: command.to_owned(), slots, stdin: None, timeout_ms: None })?;
        storage::put(name, process.stdout()?, &PutOptions { media_type: None, compress: true })?.wait()?;
    }
    let archive = storage::create_archive("many", &PutOptions { media_type: None, compress: true })?;
    for path in ["a", "b", "dir/c"] {
        archive.add_bytes(path, &[], b"content")?;
    }
    storage::finish_archive(archive).map(drop)
}

impl Guest for Chaos {
    fn backup(request: BackupRequest) -> Result<BackupReport, Error> {
        calm()?;
        act(&request.settings, 1);
        let facts = vec![("seed".to_owned(), request.settings)];
        Ok(BackupReport {
            source_id: None,
            facts,
            skipped: vec![],
            not_captured: vec![],
            needs: vec![],
            state: String::new(),
        })
    }

    fn verify(request: VerifyRequest) -> Result<Vec<Check>, Error> {
        act(&request.settings, 2);
        Ok(vec![])
    }

    fn restore(request: RestoreRequest) -> Result<(), Error> {
        act(&request.settings, if request.plan_only { 3 } else { 4 });
        Ok(())
    }

    fn diagnose(request: DiagnoseRequest) -> Result<Vec<Check>, Error> {
        act(&request.settings, 5);
        Ok(vec![])
    }
}

export!(Chaos);
