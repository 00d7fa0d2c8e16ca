//! A guest that misbehaves in the way that its settings name: `{"do": "loop"}`.
//!
//! It speaks the contract without the SDK, so that it can do what the SDK would not.

mod attack;

// It exports a resource of its own besides the verbs, whose destructor is run when it drops a handle on it.
wit_bindgen::generate!({
    inline: "
        package rogue:inner;
        interface bombs {
            resource bomb { constructor(); }
        }
        world rogue {
            include strongroom:plugin/plugin@0.1.0;
            export bombs;
        }
    ",
    path: "../../../wit",
    world: "rogue:inner/rogue",
    generate_all,
});

use exports::strongroom::plugin::component::{
    BackupReport, BackupRequest, Check, DiagnoseRequest, Guest, RestoreRequest, VerifyRequest,
};
use std::hint::black_box;
use strongroom::plugin::bytes::{self, Source};
use strongroom::plugin::exec::{self, Invocation};
use strongroom::plugin::run;
use strongroom::plugin::storage::{self, Existing, PutOptions, Transfer};
use strongroom::plugin::types::{Error, Outcome, Step};

struct Rogue;

/// What traps when it is dropped.
struct Bomb;

impl Drop for Bomb {
    fn drop(&mut self) {
        trap();
    }
}

impl exports::rogue::inner::bombs::Guest for Rogue {
    type Bomb = Bomb;
}

impl exports::rogue::inner::bombs::GuestBomb for Bomb {
    fn new() -> Self {
        Self
    }
}

fn trap() -> ! {
    #[cfg(target_arch = "wasm32")]
    core::arch::wasm32::unreachable();
    #[cfg(not(target_arch = "wasm32"))]
    std::process::abort();
}

/// Length of the one value that is not given back: nothing else that the guest makes is as long.
const KEPT_BYTES: usize = 12_347;

/// The ordinary allocator, which traps when a value of [`KEPT_BYTES`] is given back. What a verb returns
/// is given back by its `post-return`, after the host has read it.
struct Grudging;

#[expect(unsafe_code, reason = "an allocator that traps is made of the one that does not")]
// SAFETY: every call is handed on as it is to the system's allocator, but for one that does not return.
unsafe impl std::alloc::GlobalAlloc for Grudging {
    unsafe fn alloc(&self, layout: std::alloc::Layout) -> *mut u8 {
        // SAFETY: the caller's promises are those that are asked for.
        unsafe { std::alloc::System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: std::alloc::Layout) {
        if layout.size() == KEPT_BYTES {
            trap();
        }
        // SAFETY: as above.
        unsafe { std::alloc::System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Grudging = Grudging;

type Facts = Vec<(String, String)>;

const PLAIN: PutOptions = PutOptions { media_type: None, compress: true };

/// The value of a key of flat JSON; good enough for what the tests send.
fn setting<'a>(settings: &'a str, key: &str) -> &'a str {
    let mut words = settings.split('"');
    while let Some(word) = words.next() {
        if word == key {
            words.next();
            return words.next().unwrap_or_default();
        }
    }
    ""
}

fn invocation(command: &str) -> Invocation {
    let slots = match command {
        "echo" | "seen" | "other" => vec![("word".to_owned(), "hello".to_owned())],
        _ => vec![],
    };
    Invocation { command: command.to_owned(), slots, stdin: None, timeout_ms: None }
}

fn output_of(command: &str) -> Result<(exec::Process, Source), Error> {
    let process = exec::spawn(invocation(command))?;
    let stdout = process.stdout()?;
    Ok((process, stdout))
}

fn fact(key: &str, value: impl ToString) -> Facts {
    vec![(key.to_owned(), value.to_string())]
}

fn stored(transfer: &Transfer) -> Result<Facts, Error> {
    let artifact = transfer.wait()?;
    Ok(vec![("size".to_owned(), artifact.size.to_string()), ("blake3".to_owned(), artifact.blake3)])
}

#[inline(never)]
#[expect(unconditional_recursion, reason = "that is what it is for")]
fn deeper(n: u64) -> u64 {
    let on_stack = black_box([n; 64]);
    black_box(deeper(black_box(n + 1)) + on_stack[5])
}

#[inline(never)]
#[expect(unconditional_recursion, reason = "that is what it is for")]
fn deeper_without_memory(n: u64) -> u64 {
    let below = deeper_without_memory(n + run::now_ms());
    below ^ black_box(n)
}

#[inline(never)]
fn as_deep_as(n: u64) -> u64 {
    let below = if run::now_ms() > 0 && n > 0 { as_deep_as(n - 1) } else { 0 };
    black_box(below) + 1
}

#[inline(never)]
fn give_up_on_everything() {
    panic!("nothing works");
}

fn act(settings: &str) -> Result<Facts, Error> {
    match setting(settings, "do") {
        "nothing" => Ok(fact("did", "nothing")),
        "loop" => loop {
            black_box(0);
        },
        "memory" => {
            let mut hoard = Vec::new();
            loop {
                hoard.push(black_box(vec![1_u8; 1 << 20]));
            }
        }
        "trap" => trap(),
        "trap-in-destructor" => {
            drop(exports::rogue::inner::bombs::Bomb::new(Bomb));
            Ok(vec![])
        }
        // Made in its place: a copy would be given back before.
        "trap-after-return" => Ok(vec![("kept".to_owned(), "x".repeat(KEPT_BYTES))]),
        "panic" => {
            std::panic::set_hook(Box::new(|info| {
                let place = info.location().map(ToString::to_string).unwrap_or_default();
                let message = info.payload_as_str().unwrap_or_default();
                run::log(run::Level::Error, message, &[("panicked-at".to_owned(), place)]);
            }));
            give_up_on_everything();
            Ok(vec![])
        }
        "recurse" => Ok(fact("sum", deeper(0))),
        "recurse-without-memory" => Ok(fact("sum", deeper_without_memory(0))),
        "recurse-some" => Ok(fact("depth", as_deep_as(3_000))),
        "flood-pipes" => {
            let mut pipes = Vec::new();
            loop {
                pipes.push(bytes::pipe()?);
            }
        }
        "flood-handles" => {
            let mut buckets = Vec::new();
            loop {
                buckets.push(storage::open_bucket("data")?);
            }
        }
        "call-bytes" => {
            let name = "x".repeat(32 << 20);
            storage::get(&name).map(|_| vec![])
        }
        "log-flood" => {
            for n in 0..100_000 {
                run::log(run::Level::Info, &format!("line {n}"), &[]);
            }
            Ok(vec![])
        }
        "steps" => {
            run::report_step(&Step {
                action: "create\u{1b}[31m".to_owned(),
                target: "t".repeat(5000),
                outcome: Outcome::Passed,
                note: String::new(),
            });
            Ok(vec![])
        }
        "sleep" => {
            run::log(run::Level::Info, "asleep", &[]);
            run::sleep_ms(u64::MAX);
            Ok(vec![])
        }
        "sleep-a-little" => {
            for _ in 0..10 {
                run::sleep_ms(20);
            }
            Ok(vec![])
        }
        "speak" => Err(Error::Failed("\u{1b}[2Jforged\nline".to_owned())),
        "cry-denied" => Err(Error::Denied("says who".to_owned())),
        "facts" => Ok(fact("big", "x".repeat(70 << 10))),
        "wait-for-own-pipe" => {
            let (sink, source) = bytes::pipe()?;
            let transfer = storage::put("a", source, &PLAIN)?;
            let waited = stored(&transfer);
            bytes::finish(sink)?;
            waited
        }
        "first-done-of-own-pipes" => {
            let (sink, source) = bytes::pipe()?;
            let transfer = storage::put("a", source, &PLAIN)?;
            let first = storage::first_done(&[&transfer]);
            drop(sink);
            first.map(|n| fact("first", n))
        }
        "first-done-of-none" => storage::first_done(&[]).map(|n| fact("first", n)),
        "put-too-many-own-pipes" => {
            let mut held = Vec::new();
            for n in 0..100 {
                let (sink, source) = bytes::pipe()?;
                held.push((storage::put(&format!("a{n}"), source, &PLAIN)?, sink));
            }
            Ok(vec![])
        }
        "put-beside-too-many-archives" => {
            let mut held = Vec::new();
            for n in 0..100 {
                held.push(storage::create_archive(&format!("a{n}"), &PLAIN)?);
                let (_process, stdout) = output_of("echo")?;
                stored(&storage::put(&format!("b{n}"), stdout, &PLAIN)?)?;
            }
            Ok(vec![])
        }
        "archives-in-turn" => {
            for n in 0..20 {
                let archive = storage::create_archive(&format!("a{n}"), &PLAIN)?;
                if n % 2 == 0 {
                    storage::finish_archive(archive)?;
                }
            }
            let archive = storage::create_archive("last", &PLAIN)?;
            archive.add_bytes("x", &[], b"content")?;
            storage::finish_archive(archive).map(|_| vec![])
        }
        "fill-own-pipe" => {
            let (sink, source) = bytes::pipe()?;
            let filled = (0..10_000).try_for_each(|_| sink.write(&[7; 64 << 10]));
            drop(source);
            filled.map(|()| vec![])
        }
        "read-own-pipe" => {
            let (sink, source) = bytes::pipe()?;
            let read = source.read(10);
            drop(sink);
            read.map(|bytes| fact("read", bytes.len()))
        }
        "read-one-of-tee" => {
            let (_process, stdout) = output_of("seen")?;
            let (one, two) = bytes::tee(stdout)?;
            let read = one.read(10);
            drop(two);
            read.map(|bytes| fact("read", bytes.len()))
        }
        "wait-for-tee-of-split-tee" => {
            let (_process, stdout) = output_of("echo")?;
            let (one, two) = bytes::tee(stdout)?;
            let (three, four) = bytes::tee(two)?;
            let transfer = storage::put("a", one, &PLAIN)?;
            let waited = stored(&transfer);
            drop((three, four));
            waited
        }
        "put-beside-split-tees" => {
            let mut held = Vec::new();
            for n in 0..100 {
                let (process, stdout) = output_of("endless")?;
                let (one, two) = bytes::tee(stdout)?;
                let (three, four) = bytes::tee(two)?;
                let transfers =
                    [("a", one), ("b", three)].map(|(name, half)| storage::put(&format!("{name}{n}"), half, &PLAIN));
                held.push((process, transfers.into_iter().collect::<Result<Vec<_>, _>>()?, four));
            }
            Ok(vec![])
        }
        "wait-with-output-in-hand" => {
            let (process, stdout) = output_of("echo")?;
            let waited = process.wait();
            drop(stdout);
            waited.map(|exit| fact("code", exit.code.unwrap_or(-1)))
        }
        "wait-for-filter-of-own-pipe" => {
            let (sink, source) = bytes::pipe()?;
            let process = exec::spawn(Invocation { stdin: Some(source), ..invocation("copy") })?;
            let transfer = storage::put("a", process.stdout()?, &PLAIN)?;
            let waited = stored(&transfer);
            drop(sink);
            waited
        }
        "fill-filter-of-own-output" => {
            let (sink, source) = bytes::pipe()?;
            let process = exec::spawn(Invocation { stdin: Some(source), ..invocation("copy") })?;
            let stdout = process.stdout()?;
            let filled = (0..10_000).try_for_each(|_| sink.write(&[7; 64 << 10]));
            drop(stdout);
            filled.map(|()| vec![])
        }
        "pipe" => {
            let (sink, source) = bytes::pipe()?;
            let transfer = storage::put("a", source, &PLAIN)?;
            for _ in 0..100 {
                sink.write(&[7; 10_000])?;
            }
            bytes::finish(sink)?;
            stored(&transfer)
        }
        "drop-sink" => {
            let (sink, source) = bytes::pipe()?;
            let transfer = storage::put("a", source, &PLAIN)?;
            sink.write(b"half of it")?;
            drop(sink);
            stored(&transfer)
        }
        "drop-transfer" => {
            let (_process, stdout) = output_of("endless")?;
            drop(storage::put("a", stdout, &PLAIN)?);
            Ok(vec![])
        }
        "leave-transfer" => {
            let (process, stdout) = output_of("endless")?;
            std::mem::forget(storage::put("a", stdout, &PLAIN)?);
            std::mem::forget(process);
            Ok(vec![])
        }
        "put-endless" => {
            let (process, stdout) = output_of("endless")?;
            attack::refused_with_its_process(storage::put("a", stdout, &PLAIN).map(drop), &process)
        }
        "bucket-write-endless" => {
            let bucket = storage::open_bucket("data")?;
            let (process, stdout) = output_of("endless")?;
            let written = bucket.write("new", &[], stdout, Existing::Keep);
            attack::refused_with_its_process(written.map(drop), &process)
        }
        "spawn" => {
            let (_process, stdout) = output_of("echo")?;
            stored(&storage::put("a", stdout, &PLAIN)?)
        }
        "spawn-two" => {
            let (_one, first) = output_of("echo")?;
            let (_two, second) = output_of("echo")?;
            let transfers = [storage::put("a", first, &PLAIN)?, storage::put("b", second, &PLAIN)?];
            stored(&transfers[0])?;
            stored(&transfers[1])
        }
        // Both stay, however quick the machine is.
        "spawn-two-endless" => {
            let _alive = [output_of("endless")?, output_of("endless")?];
            Ok(vec![])
        }
        "store-endless" => {
            let (_process, stdout) = output_of("endless")?;
            stored(&storage::put("a", stdout, &PLAIN)?)
        }
        "spawn-unknown" => exec::spawn(invocation("sh")).map(|_| vec![]),
        "spawn-slot" => {
            let slots = vec![("word".to_owned(), "-n".to_owned())];
            exec::spawn(Invocation { slots, ..invocation("echo") }).map(|_| vec![])
        }
        "run" => {
            let output = exec::run(invocation("seen"))?;
            Ok(fact("output", String::from_utf8_lossy(&output.stdout)))
        }
        "run-unseen" => exec::run(invocation("echo")).map(|_| vec![]),
        "read-unseen" => {
            let (_process, stdout) = output_of("echo")?;
            stdout.read(10).map(|bytes| fact("read", bytes.len()))
        }
        "read-artifact" => {
            let read = storage::get("readable.txt")?.read(100)?;
            Ok(fact("read", String::from_utf8_lossy(&read)))
        }
        "read-hidden-artifact" => storage::get("hidden.txt")?.read(100).map(|_| vec![]),
        "bad-name" => {
            let (_sink, source) = bytes::pipe()?;
            storage::put("../a", source, &PLAIN).map(|_| vec![])
        }
        "archive" => {
            let archive = storage::create_archive("many", &PLAIN)?;
            for n in 0..100 {
                archive.add_bytes(&format!("dir/{n}"), &[], b"content")?;
            }
            let finished = storage::finish_archive(archive)?;
            Ok(fact("size", finished.artifact.size))
        }
        "look-alike-names" => {
            for name in ["..", ".", "a/b", "%2e%2e", "a\0b", "a\nb", "-a", "\u{ff0e}\u{ff0e}", "caf\u{e9}", ""] {
                let (_sink, source) = bytes::pipe()?;
                match storage::put(name, source, &PLAIN) {
                    Err(Error::Invalid(_)) => {}
                    other => return Err(Error::Failed(format!("{name:?}: {:?}", other.map(drop)))),
                }
            }
            Ok(fact("refused", "all"))
        }
        "many-archives-one-limit" => {
            for n in 0..10 {
                let archive = storage::create_archive(&format!("a{n}"), &PLAIN)?;
                for entry in 0..100 {
                    archive.add_bytes(&format!("{entry}"), &[], b"content")?;
                }
                storage::finish_archive(archive)?;
            }
            Ok(vec![])
        }
        "large-entry" => {
            let archive = storage::create_archive("large", &PLAIN)?;
            archive.add_bytes("entry", &[], &vec![7; 1 << 20])?;
            storage::finish_archive(archive).map(|_| vec![])
        }
        "long-path" => {
            let archive = storage::create_archive("long", &PLAIN)?;
            archive.add_bytes(&"p".repeat(4_000), &[], b"content")?;
            storage::finish_archive(archive).map(|_| vec![])
        }
        "add-to-archive" => {
            let archive = storage::create_archive("many", &PLAIN)?;
            let bucket = storage::open_bucket("data")?;
            archive.add("x", &[], bucket.read("one", None)?)?;
            storage::finish_archive(archive).map(|_| vec![])
        }
        "archive-of-output" => {
            let archive = storage::create_archive("many", &PLAIN)?;
            let (_process, stdout) = output_of("echo")?;
            archive.add("x", &[], stdout).map(|()| vec![])
        }
        "bucket" => {
            let bucket = storage::open_bucket("data")?;
            let page = bucket.objects("", None)?;
            let transfer = storage::put("a", bucket.read(&page.objects[0].key, None)?, &PLAIN)?;
            stored(&transfer)
        }
        "bucket-write" => {
            let bucket = storage::open_bucket("data")?;
            let (sink, source) = bytes::pipe()?;
            let writing = bucket.write("new", &[], source, Existing::Keep)?;
            sink.write(b"restored")?;
            bytes::finish(sink)?;
            writing.wait().map(|object| fact("size", object.size))
        }
        "bucket-overwrite" => {
            let bucket = storage::open_bucket("data")?;
            let (sink, source) = bytes::pipe()?;
            let writing = bucket.write("one", &[], source, Existing::Replace)?;
            sink.write(b"replaced")?;
            bytes::finish(sink)?;
            writing.wait().map(|object| fact("size", object.size))
        }
        "leave-writing" => {
            let bucket = storage::open_bucket("data")?;
            let (sink, source) = bytes::pipe()?;
            let writing = bucket.write("new", &[], source, Existing::Keep)?;
            sink.write(b"half of it")?;
            std::mem::forget((sink, writing));
            Ok(vec![])
        }
        "run-thrice" => {
            for _ in 0..3 {
                exec::run(invocation("seen"))?;
            }
            Ok(vec![])
        }
        "bucket-delete" => storage::open_bucket("data")?.delete("one", None).map(|()| vec![]),
        "bucket-delete-version" => storage::open_bucket("data")?.delete("one", Some("v1")).map(|()| vec![]),
        "bucket-read-config" => storage::open_bucket("data")?.read_config("versioning").map(|_| vec![]),
        "bucket-write-config" => storage::open_bucket("data")?.write_config("versioning", "{}").map(|()| vec![]),
        "bucket-write-policy" => storage::open_bucket("data")?.write_config("policy", "{}").map(|()| vec![]),
        "list-artifacts" => storage::artifacts().map(|all| fact("artifacts", all.len())),
        "bucket-unknown" => storage::open_bucket("other").map(|_| vec![]),
        other => attack::act(other).unwrap_or_else(|| Err(Error::Invalid(format!("nothing is named \"{other}\"")))),
    }
}

fn report(facts: Facts) -> BackupReport {
    BackupReport { source_id: None, facts, skipped: vec![], not_captured: vec![], needs: vec![], state: String::new() }
}

fn checks(facts: Facts) -> Vec<Check> {
    let check = |(id, evidence)| Check {
        id,
        title: String::new(),
        outcome: Outcome::Passed,
        evidence,
        causes: vec![],
        remedies: vec![],
    };
    facts.into_iter().map(check).collect()
}

impl Guest for Rogue {
    fn backup(request: BackupRequest) -> Result<BackupReport, Error> {
        if setting(&request.settings, "do") == "handle-of-the-last-run" {
            let kept = request.previous.iter().flat_map(|made| &made.facts).find(|(key, _)| key == "handle");
            return attack::handle_of_the_last_run(kept.and_then(|(_, number)| number.parse().ok())).map(report);
        }
        act(&request.settings).map(report)
    }

    fn verify(request: VerifyRequest) -> Result<Vec<Check>, Error> {
        act(&request.settings).map(checks)
    }

    fn restore(request: RestoreRequest) -> Result<(), Error> {
        act(&request.settings).map(|_| ())
    }

    fn diagnose(request: DiagnoseRequest) -> Result<Vec<Check>, Error> {
        act(&request.settings).map(checks)
    }
}

export!(Rogue);
