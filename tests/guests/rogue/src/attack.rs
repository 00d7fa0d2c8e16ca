//! Attacks that are told apart by what the operator sees of them: they are run by the real binary, and
//! the audit log of the run is looked at.

use super::{Facts, PLAIN, fact, invocation, output_of, stored};
use crate::strongroom::plugin::bytes::{self, Source};
use crate::strongroom::plugin::exec::{self, Invocation};
use crate::strongroom::plugin::run;
use crate::strongroom::plugin::storage::{self, Existing};
use crate::strongroom::plugin::types::{Error, Outcome, Step};
use std::hint::black_box;
use std::sync::atomic::{AtomicU32, Ordering};

/// Does what is named; `None` when it is not one of these.
pub fn act(deed: &str) -> Option<Result<Facts, Error>> {
    Some(match deed {
        "drip" => drip(),
        "nibble" => nibble(),
        "nap-with-a-process" => nap_with_a_process(),
        "wait-for-endless" => wait_for("endless"),
        "spin-beside-a-process" => spin_beside_a_process(),
        "huge-argument" => huge_argument(),
        "use-a-handle-twice" => use_a_handle_twice(),
        "hold-a-handle" => hold_a_handle(),
        "handle-in-a-static" => handle_in_a_static(),
        "look-alike-labels" => refused("label", LABELS, |label| {
            storage::open_bucket(label)?.objects("", None).map(drop)?;
            Ok(())
        }),
        "look-alike-commands" => refused("command", COMMANDS, |command| exec::spawn(invocation(command)).map(drop)),
        "bad-slots" => refused("slot", SLOTS, |value| {
            let slots = vec![("word".to_owned(), value.to_owned())];
            exec::spawn(Invocation { slots, ..invocation("echo") }).map(drop)
        })
        .and_then(|_| with_its_slot()),
        "slots-beside" => slots_beside(),
        "read-bad-keys" => read_bad_keys(),
        "write-bad-keys" => write_bad_keys(),
        "flood-processes" => flood_processes(),
        "overwrite" => overwrite(),
        "names-as-a-channel" => names_as_a_channel(),
        "words-as-a-channel" => words_as_a_channel(),
        "swap" => swap(),
        "feed-swapped" => {
            let stdin = Some(storage::get("expected.sql").ok()?);
            exec::spawn(Invocation { stdin, ..invocation("feed") }).and_then(|process| process.wait()).map(|_| vec![])
        }
        "other-job" => other_job(),
        "read-unseen-tee" => read_unseen_tee(),
        "program-of-its-own" => program_of_its_own(),
        "read-unseen-entry" => storage::open_archive("many")
            .and_then(|archive| archive.next())
            .and_then(|entry| entry.map_or(Ok(vec![]), |(_, source)| source.read(100).map(|_| vec![]))),
        "open-unseen-entry" => storage::open_archive("many")
            .and_then(|archive| archive.open("dir/7"))
            .and_then(|(_, source)| source.read(100).map(|_| vec![])),
        // A number that somebody who is in another run has told.
        told => use_handle(told.strip_prefix("use-handle-")?.parse().ok()?),
    })
}

/// Labels that look like the granted "data", or lead elsewhere.
const LABELS: &[&str] = &[
    "d\u{430}ta",
    "data\u{200b}",
    "Data",
    "data ",
    " data",
    "data\0",
    "data\n",
    "../data",
    "data/../data",
    "-data",
    "%64ata",
    "",
];

/// Commands that look like the granted "echo", or are no label at all.
const COMMANDS: &[&str] =
    &["\u{435}cho", "echo ", "Echo", "/bin/echo", "echo\0", "../echo", "-echo", "sh", "echo;sh", "echo\u{202e}", ""];

/// Values for a slot that admits `[a-z]{1,20}`.
const SLOTS: &[&str] = &[
    "",
    "-n",
    "--help",
    "hello\n",
    "hello\0",
    "../../etc/passwd",
    "%2e%2e",
    "h\u{435}llo",
    "$(id)",
    "`id`",
    "a;id",
    "host=127.0.0.1 port=1 dbname=x",
    "postgresql://attacker@127.0.0.1:1/x",
    "service=production",
    "abcdefghijklmnopqrstuvwxyz",
];

/// Keys that lead out of a bucket, or look as if they did.
const KEYS: &[&str] = &[
    "../outside.txt",
    "/etc/passwd",
    "a/../../outside.txt",
    "./one",
    "a//b",
    "..",
    ".",
    "",
    "one\0",
    "%2e%2e/outside.txt",
    "\u{ff0e}\u{ff0e}/outside.txt",
    "..\u{200b}/outside.txt",
    "link/outside.txt",
];

/// Tries each and succeeds only if every one is refused; then stores something, so that there is a backup.
fn refused(what: &str, all: &[&str], attempt: impl Fn(&str) -> Result<(), Error>) -> Result<Facts, Error> {
    for one in all {
        if attempt(one).is_ok() {
            return Err(Error::Failed(format!("{what} {one:?} was not refused")));
        }
    }
    harmless()
}

/// A small artifact of its own bytes.
fn harmless() -> Result<Facts, Error> {
    let (sink, source) = bytes::pipe()?;
    let transfer = storage::put("harmless", source, &PLAIN)?;
    sink.write(b"harmless")?;
    bytes::finish(sink)?;
    stored(&transfer)
}

/// A byte now and then, for ever: there is always progress.
fn drip() -> Result<Facts, Error> {
    let (sink, source) = bytes::pipe()?;
    let _transfer = storage::put("a", source, &PLAIN)?;
    loop {
        sink.write(&[7])?;
        run::sleep_ms(20);
    }
}

/// An endless stream, one byte a call.
fn nibble() -> Result<Facts, Error> {
    let (_process, stdout) = output_of("watched")?;
    loop {
        black_box(stdout.read(1)?);
    }
}

/// Holds a process and its stream, and calls nothing that could stall.
fn nap_with_a_process() -> Result<Facts, Error> {
    let _held = output_of("endless")?;
    loop {
        run::sleep_ms(20);
    }
}

fn wait_for(command: &str) -> Result<Facts, Error> {
    let (_process, stdout) = output_of(command)?;
    stored(&storage::put("a", stdout, &PLAIN)?)
}

/// Has a process and a transfer under way, and never calls the host again.
fn spin_beside_a_process() -> Result<Facts, Error> {
    let (_process, stdout) = output_of("endless")?;
    let _transfer = storage::put("a", stdout, &PLAIN)?;
    loop {
        black_box(0);
    }
}

/// A label of 4 GiB less one byte, which no memory of 32 bits holds beside anything else.
#[cfg(target_arch = "wasm32")]
#[expect(unsafe_code, reason = "no bindings would make a text that is not there")]
fn huge_argument() -> Result<Facts, Error> {
    // SAFETY: the name and the numbers are those that the contract gives this function.
    #[link(wasm_import_module = "strongroom:plugin/storage@0.1.0")]
    unsafe extern "C" {
        #[link_name = "open-bucket"]
        fn open_bucket(label: usize, length: usize, answer: usize);
    }
    let mut answer = [0_u64; 8];
    // SAFETY: the host checks what it is given; a text that does not fit ends this guest, which is tried.
    unsafe { open_bucket(16, usize::MAX, answer.as_mut_ptr() as usize) };
    Ok(fact("answer", answer[0]))
}

#[cfg(not(target_arch = "wasm32"))]
fn huge_argument() -> Result<Facts, Error> {
    Err(Error::Failed("only a component has this memory".to_owned()))
}

fn use_a_handle_twice() -> Result<Facts, Error> {
    let (_sink, source) = bytes::pipe()?;
    let number = source.handle();
    drop(source);
    use_handle(number)
}

/// Reads what a number stands for that this run was not given, or not any more.
#[expect(unsafe_code, reason = "what no bindings would let it do is what it is for")]
fn use_handle(number: u32) -> Result<Facts, Error> {
    // SAFETY: a handle is a number that the host checks; one that is not there ends this guest, which is tried.
    let source = unsafe { Source::from_handle(number) };
    source.read(1).map(|bytes| fact("read", bytes.len()))
}

/// Has a handle, says its number, and uses it when it is told to: by an object in a bucket.
fn hold_a_handle() -> Result<Facts, Error> {
    let (sink, source) = bytes::pipe()?;
    run::log(run::Level::Info, &format!("handle {}", source.handle()), &[]);
    let bucket = storage::open_bucket("data")?;
    while bucket.objects("go", None)?.objects.is_empty() {
        run::sleep_ms(5);
    }
    let transfer = storage::put("mine", source, &PLAIN)?;
    sink.write(b"mine")?;
    bytes::finish(sink)?;
    stored(&transfer)
}

/// The number of a handle that an earlier run had, as the record of its backup tells it; without one it has
/// a handle and tells its number.
pub fn handle_of_the_last_run(kept: Option<u32>) -> Result<Facts, Error> {
    if let Some(number) = kept {
        return use_handle(number);
    }
    let (_sink, source) = bytes::pipe()?;
    harmless()?;
    Ok(fact("handle", source.handle()))
}

/// A handle that is remembered where a program would keep it from one call to the next.
fn handle_in_a_static() -> Result<Facts, Error> {
    static KEPT: AtomicU32 = AtomicU32::new(0);
    let (_sink, source) = bytes::pipe()?;
    match KEPT.swap(source.handle(), Ordering::Relaxed) {
        0 => harmless().map(|_| fact("static", "empty")),
        number => use_handle(number),
    }
}

/// The command with its slot as it should be filled: it is the value alone that was refused elsewhere.
fn with_its_slot() -> Result<Facts, Error> {
    let (_process, stdout) = output_of("echo")?;
    stored(&storage::put("accepted", stdout, &PLAIN)?)
}

/// The slot of a command and others beside it, which it does not have, and many of them.
fn slots_beside() -> Result<Facts, Error> {
    let beside = |names: &mut dyn Iterator<Item = String>| {
        let slots = names.map(|name| (name, "hello".to_owned())).collect();
        exec::spawn(Invocation { slots, ..invocation("echo") })
    };
    let attempts: [&mut dyn Iterator<Item = String>; 6] = [
        &mut ["word", "w\u{43e}rd"].map(str::to_owned).into_iter(),
        &mut ["w\u{43e}rd"].map(str::to_owned).into_iter(),
        &mut ["word", "Word"].map(str::to_owned).into_iter(),
        &mut ["word", "word"].map(str::to_owned).into_iter(),
        &mut std::iter::empty(),
        &mut std::iter::once("word".to_owned()).chain((0..5_000).map(|n| format!("slot{n}"))),
    ];
    for (n, attempt) in attempts.into_iter().enumerate() {
        if beside(attempt).is_ok() {
            return Err(Error::Failed(format!("attempt {n} was not refused")));
        }
    }
    with_its_slot()
}

/// A script for whatever `endless` is, through its standard input: from a pipe, and as the output of another
/// command.
fn program_of_its_own() -> Result<Facts, Error> {
    let (sink, script) = bytes::pipe()?;
    let piped = exec::spawn(Invocation { stdin: Some(script), ..invocation("endless") });
    drop((sink.write(b"echo stolen > outside.txt\n"), bytes::finish(sink)));
    if piped.is_ok() {
        return Err(Error::Failed("it ran a script of the plugin".to_owned()));
    }
    let (_process, script) = output_of("echo")?;
    exec::spawn(Invocation { stdin: Some(script), ..invocation("endless") }).map(|_| vec![])
}

/// The refusal of what was to take a process's output, once the process has ended by it: nobody reads it any
/// more. Until then it waits.
pub fn refused_with_its_process(taken: Result<(), Error>, process: &exec::Process) -> Result<Facts, Error> {
    let Err(refusal) = taken else { return Err(Error::Failed("it was not refused".to_owned())) };
    let exit = process.wait()?;
    run::log(run::Level::Info, &format!("its process ended: code {:?}, signal {:?}", exit.code, exit.signal), &[]);
    Err(refusal)
}

/// A source may be opened late: storing it fails at the latest.
fn read_bad_keys() -> Result<Facts, Error> {
    let bucket = storage::open_bucket("data")?;
    for (n, key) in KEYS.iter().enumerate() {
        let store = |source| stored(&storage::put(&format!("stolen-{n}"), source, &PLAIN)?);
        if bucket.attributes(key, None).is_ok() || bucket.read(key, None).and_then(store).is_ok() {
            return Err(Error::Failed(format!("{key:?} was read")));
        }
    }
    harmless()
}

/// Whether a write or a deletion has left the bucket is for the test to see.
fn write_bad_keys() -> Result<Facts, Error> {
    let bucket = storage::open_bucket("data")?;
    for key in KEYS {
        for existing in [Existing::Keep, Existing::Replace] {
            let (sink, source) = bytes::pipe()?;
            if let Ok(writing) = bucket.write(key, &[], source, existing) {
                drop(bytes::finish(sink));
                drop(writing.wait());
            }
        }
        drop(bucket.delete(key, None));
    }
    Ok(vec![])
}

/// Commands that never end, one after the other.
fn flood_processes() -> Result<Facts, Error> {
    let mut held = Vec::new();
    loop {
        held.push(output_of("endless")?);
    }
}

/// The second artifact of a name, and one whose name is that of another's segments.
fn overwrite() -> Result<Facts, Error> {
    harmless()?;
    if harmless().is_ok() {
        return Err(Error::Failed("a name was taken twice".to_owned()));
    }
    Ok(vec![])
}

/// As much as fits into names, and more.
fn names_as_a_channel() -> Result<Facts, Error> {
    let long = "x".repeat(129);
    let (_sink, source) = bytes::pipe()?;
    if storage::put(&long, source, &PLAIN).is_ok() {
        return Err(Error::Failed("a name of 129 bytes was not refused".to_owned()));
    }
    loop {
        for n in 0_u64.. {
            let (sink, source) = bytes::pipe()?;
            let transfer = storage::put(&format!("{n:0128}"), source, &PLAIN)?;
            bytes::finish(sink)?;
            transfer.wait()?;
        }
    }
}

/// As much as fits into what a person or a log reads, and more: text, fields, steps and progress.
fn words_as_a_channel() -> Result<Facts, Error> {
    let long = "x".repeat(100_000);
    let fields: Vec<_> = (0..100).map(|n| (format!("field{n}"), long.clone())).collect();
    run::log(run::Level::Warn, &long, &fields);
    for n in 0..20_000 {
        run::progress(&format!("step {n} \u{1b}[31m"), n, Some(u64::MAX));
    }
    run::progress(&long, u64::MAX, Some(0));
    let step = Step { action: long.clone(), target: long.clone(), outcome: Outcome::Warned, note: long };
    run::report_step(&step);
    harmless()
}

/// Stores what one command writes under the name that another's output is expected under.
fn swap() -> Result<Facts, Error> {
    let (_process, stdout) = output_of("echo")?;
    stored(&storage::put("expected.sql", stdout, &PLAIN)?)
}

/// Artifacts of another job, by every name that might lead there; the test has put one beside.
fn other_job() -> Result<Facts, Error> {
    let own: Vec<String> = storage::artifacts()?.into_iter().map(|artifact| artifact.name).collect();
    if own.len() != 1 {
        return Err(Error::Failed(format!("it sees {own:?}")));
    }
    for name in [
        "other",
        "../../../orders/other",
        "../other",
        "orders/other",
        "other.0001.zst",
        "record.json",
        "%2e%2e",
        "harmless.0001.zst",
        "/etc/passwd",
    ] {
        if storage::get(name).is_ok() || storage::open_archive(name).is_ok() {
            return Err(Error::Failed(format!("{name:?} was opened")));
        }
    }
    Ok(fact("seen", own.join(",")))
}

/// Both halves of a stream whose bytes it may not see, the one stored while the other is read.
fn read_unseen_tee() -> Result<Facts, Error> {
    let (_process, stdout) = output_of("echo")?;
    let (one, two) = bytes::tee(stdout)?;
    let _transfer = storage::put("a", one, &PLAIN)?;
    two.read(10).map(|bytes| fact("read", bytes.len()))
}
