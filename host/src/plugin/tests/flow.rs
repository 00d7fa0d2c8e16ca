//! What is granted works, what is not is denied, and what is given up leaves nothing.

use super::{Bench, in_full};
use crate::error::{Error, Kind};
use crate::plugin::Denials;
use crate::plugin::guard::{DENIED, lock};
use crate::plugin::verb::{BackupRequest, Depth, DiagnoseRequest, Made, RestoreRequest, VerifyRequest};
use crate::policy::Verb;
use crate::policy::slot::Template;
use serde_json::json;

/// The deed is denied: the operator is told rule and reason, the guest nothing; nothing is stored.
async fn check_denied(bench: &Bench, deed: &str, function: &str, rule: &str) {
    let (answer, denials) = bench.backup(deed).await;
    let error = answer.expect_err(deed);
    let text = in_full(&error);
    assert_eq!(error.kind(), Kind::Denied, "{deed}: {text}");
    assert!(error.message().ends_with(DENIED), "{deed}: the guest was told more: {error}");
    assert!(text.contains(rule), "{deed}: {text}");
    let denials = denials.list();
    assert_eq!(denials.len(), 1, "{deed}: {denials:?}");
    assert_eq!((denials[0].function, denials[0].count), (function, 1), "{deed}");
    assert!(denials[0].rule.contains(rule) && !denials[0].reason.is_empty(), "{deed}: {denials:?}");
    assert!(bench.shelf.is_empty());
}

pub(super) fn made() -> Made {
    Made {
        backup_id: "20261120T020000Z-x7k2m9qd".to_owned(),
        created_ms: 0,
        plugin_version: "0.1.0".to_owned(),
        settings: json!({}),
        source_id: None,
        facts: vec![],
        skipped: vec![],
        state: String::new(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_go_from_process_pipe_and_bucket_to_the_store() {
    let bench = Bench::new();
    bench.backup("spawn").await.0.expect("spawn");
    assert_eq!(bench.shelf.bytes("a").unwrap(), b"hello\n");

    let bench = Bench::new();
    let report = bench.backup("pipe").await.0.expect("pipe");
    assert_eq!(bench.shelf.bytes("a").unwrap(), vec![7; 1_000_000]);
    assert_eq!(report.facts[0], ("size".to_owned(), "1000000".to_owned()));

    let bench = Bench::new();
    bench.backup("bucket").await.0.expect("bucket");
    assert_eq!(bench.shelf.bytes("a").unwrap(), b"first");

    let bench = Bench::new();
    let report = bench.backup("archive").await.0.expect("archive");
    assert_eq!(report.facts, [("size".to_owned(), "700".to_owned())]);

    let bench = Bench::new();
    bench.backup("archives-in-turn").await.0.expect("archives in turn");
    assert_eq!(bench.shelf.bytes("last").unwrap(), b"content");

    let bench = Bench::new();
    let report = bench.backup("run").await.0.expect("run");
    assert_eq!(report.facts, [("output".to_owned(), "hello\n".to_owned())]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_is_not_granted_or_filled_wrongly_is_denied() {
    check_denied(&Bench::new(), "spawn-unknown", "exec.spawn", "plugin.rogue.grant.exec.sh").await;
    check_denied(&Bench::new(), "spawn-slot", "exec.spawn", "plugin.rogue.grant.exec.echo").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_enter_the_guest_only_with_inspect() {
    check_denied(&Bench::new(), "run-unseen", "exec.run", "plugin.rogue.grant.exec.echo").await;
    check_denied(&Bench::new(), "read-unseen", "bytes.source.read", "plugin.rogue.grant.exec.echo").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_is_used_as_it_is_granted_and_no_further() {
    check_denied(&Bench::new(), "bucket-unknown", "storage.open-bucket", "plugin.rogue.grant.bucket.other").await;
    check_denied(&Bench::new(), "bucket-delete", "storage.bucket.delete", "plugin.rogue.grant.bucket.data").await;
    for (deed, function) in
        [("bucket-read-config", "storage.bucket.read-config"), ("bucket-write-config", "storage.bucket.write-config")]
    {
        check_denied(&Bench::new(), deed, function, "plugin.rogue.grant.bucket.data").await;
    }
    // Granted, but it changes something, and a backup changes nothing.
    check_denied(&Bench::new(), "bucket-write", "storage.bucket.write", "plugin.rogue.grant.bucket.data").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_manifest_does_not_request_is_not_effective_even_if_it_is_granted() {
    let bench = Bench::with(|b| b.grants.exec.get_mut("echo").unwrap().inspect = true);
    check_denied(&bench, "run-unseen", "exec.run", "plugin.rogue.grant.exec.echo").await;
    // One that is not requested at all does not get this far: the plugin is not loaded. Whoever starts it with
    // wider grants than it was loaded with gets no more.
    let plugin = Bench::new().load().await;
    let wider = Bench::with(|b| {
        let everything = b.grants.exec["echo"].clone();
        b.grants.exec.insert("sh".to_owned(), everything);
    });
    let instance = plugin.start(wider.context("spawn-unknown")).await.unwrap();
    let denials = instance.denials();
    let request = BackupRequest { settings: json!({ "do": "spawn-unknown" }), previous: None };
    assert_eq!(instance.backup(request).await.unwrap_err().kind(), Kind::Denied);
    assert_eq!(denials.list()[0].rule, "plugin.rogue.grant.exec.sh");
}

#[tokio::test(flavor = "multi_thread")]
async fn artifacts_are_read_back_only_to_verify_or_restore_and_seen_only_by_pattern() {
    let bench = Bench::with(|b| b.verb = Verb::Verify);
    bench.shelf.lay("readable.txt", b"seen");
    bench.shelf.lay("hidden.txt", b"unseen");
    let verify = async |deed: &str| {
        let instance = bench.load().await.start(bench.context(deed)).await.unwrap();
        let denials = instance.denials();
        let settings = json!({ "do": deed });
        let request = VerifyRequest { settings, depth: Depth::Contents, backup: made(), options: json!({}) };
        (instance.verify(request).await, denials.list())
    };
    let (checks, denials) = verify("read-artifact").await;
    assert_eq!(checks.unwrap()[0].evidence, "seen");
    assert!(denials.is_empty());

    let (checks, denials) = verify("read-hidden-artifact").await;
    assert_eq!(checks.unwrap_err().kind(), Kind::Denied);
    assert_eq!(denials[0].function, "bytes.source.read");

    let (answer, denials) = Bench::new().backup("read-artifact").await;
    assert_eq!(answer.unwrap_err().kind(), Kind::Denied);
    assert_eq!(denials.list()[0].function, "storage.get");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restore_writes_into_a_granted_bucket() {
    let bench = Bench::with(|b| b.verb = Verb::Restore);
    let instance = bench.load().await.start(bench.context("bucket-write")).await.unwrap();
    let request = RestoreRequest { settings: json!({ "do": "bucket-write" }), options: json!({}), backup: made() };
    instance.restore(request).await.unwrap_or_else(|e| panic!("{}", in_full(&e)));
    assert_eq!(lock(&bench.drawer.0)["new"], b"restored");
}

/// After a denied call that was to take the output of an endless command, the guest waits for that command
/// in the same run: nothing else ends it there.
async fn check_process_ended(bench: &Bench, deed: &str, error: Option<Error>, denials: &Denials, function: &str) {
    let error = error.unwrap_or_else(|| panic!("{deed} was not refused"));
    assert_eq!(error.kind(), Kind::Denied, "{}", in_full(&error));
    assert_eq!(denials.list().last().map(|denial| denial.function), Some(function));
    let lines = lock(&bench.notes.lines).clone();
    let ended = lines.iter().any(|(_, line)| line.starts_with("its process ended") && line.contains("signal Some"));
    assert!(ended, "{deed}: {lines:?}");
    assert!(bench.shelf.is_empty() && !lock(&bench.drawer.0).contains_key("new"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_denied_put_leaks_no_process() {
    let word = "strongroom-test-denied-put";
    let bench = Bench::with(|b| {
        b.verb = Verb::Diagnose;
        mark(b, word);
    });
    let instance = bench.load().await.start(bench.context("put-endless")).await.unwrap();
    let denials = instance.denials();
    let request = DiagnoseRequest { settings: json!({ "do": "put-endless" }), last: None };
    let error = instance.diagnose(request).await.err();
    check_process_ended(&bench, "put-endless", error, &denials, "storage.put").await;
    check_gone(word).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_denied_write_leaks_no_process() {
    let word = "strongroom-test-denied-write";
    let bench = Bench::with(|b| mark(b, word));
    let (answer, denials) = bench.backup("bucket-write-endless").await;
    check_process_ended(&bench, "bucket-write-endless", answer.err(), &denials, "storage.bucket.write").await;
    check_gone(word).await;
}

/// A word in the command line of the endless producer that no other test writes there.
fn mark(bench: &mut Bench, word: &str) {
    bench.grants.exec.get_mut("endless").unwrap().args = vec![Template::parse(word).unwrap()];
}

/// No process has this word in its command line, or soon none has. Nothing tells a test of the end
/// of a process that is not its own child, so it looks again and again.
async fn check_gone(word: &str) {
    let runs = || {
        let processes = std::fs::read_dir("/proc").unwrap().flatten();
        let command_lines = processes.filter_map(|process| std::fs::read(process.path().join("cmdline")).ok());
        command_lines.filter(|line| line.split(|byte| *byte == 0).any(|arg| arg == word.as_bytes())).count()
    };
    for _ in 0..500 {
        if runs() == 0 {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    panic!("{} processes still run", runs());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_verb_that_takes_too_long_leaves_no_process_behind() {
    let word = "strongroom-test-too-long";
    let bench = Bench::with(|b| {
        b.limits.wall_clock = std::time::Duration::from_secs(3);
        let silent = b.grants.exec.get_mut("seen").unwrap();
        silent.program = "/bin/sh".to_owned();
        let args = ["-c", "while :; do sleep 1; done", word, "{word}"];
        silent.args = args.iter().map(|arg| Template::parse(arg).unwrap()).collect();
    });
    let error = bench.backup("run").await.0.unwrap_err();
    assert_eq!(error.kind(), Kind::Limit, "{}", in_full(&error));
    // Long before anything would call it stalled.
    assert!(bench.limits.stall > std::time::Duration::from_secs(30));
    check_gone(word).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_is_cancelled_already_starts_nothing() {
    let bench = Bench::new();
    let plugin = bench.load().await;
    bench.cancel.cancel();
    let error = plugin.start(bench.context("nothing")).await.err().unwrap();
    assert_eq!(error.kind(), Kind::Cancelled, "{}", in_full(&error));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_producer_that_stops_half_way_makes_no_artifact() {
    let bench = Bench::new();
    let error = bench.backup("drop-sink").await.0.unwrap_err();
    assert_eq!(error.kind(), Kind::Failed, "{}", in_full(&error));
    assert!(bench.shelf.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transfer_that_is_dropped_or_left_behind_makes_no_artifact() {
    for deed in ["drop-transfer", "leave-transfer"] {
        let word = format!("strongroom-test-{deed}");
        let bench = Bench::with(|b| mark(b, &word));
        bench.backup(deed).await.0.unwrap_or_else(|e| panic!("{deed}: {}", in_full(&e)));
        assert!(bench.shelf.is_empty(), "{deed}");
        check_gone(&word).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn malformed_calls_are_invalid() {
    for (deed, word) in [("bad-name", "artifact name"), ("archive-of-output", "not known beforehand")] {
        let error = Bench::new().backup(deed).await.0.unwrap_err();
        assert_eq!(error.kind(), Kind::Invalid, "{deed}: {}", in_full(&error));
        assert!(in_full(&error).contains(word), "{deed}: {}", in_full(&error));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_is_for_one_verb_only() {
    let bench = Bench::with(|b| b.verb = Verb::Diagnose);
    let error = bench.backup("nothing").await.0.unwrap_err();
    assert_eq!(error.message(), "\"backup\" was called in a run that is for \"diagnose\"");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_that_returns_while_a_write_is_open_has_failed() {
    let bench = Bench::with(|b| b.verb = Verb::Restore);
    let instance = bench.load().await.start(bench.context("leave-writing")).await.unwrap();
    let request = RestoreRequest { settings: json!({ "do": "leave-writing" }), options: json!({}), backup: made() };
    let error = instance.restore(request).await.unwrap_err();
    assert!(error.message().contains("returned before its writes had ended"), "{}", in_full(&error));
    assert!(!lock(&bench.drawer.0).contains_key("new"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_has_ended_does_not_count_any_more() {
    let bench = Bench::with(|b| b.limits.processes = 1);
    bench.backup("run-thrice").await.0.unwrap_or_else(|e| panic!("{}", in_full(&e)));
}

#[tokio::test(flavor = "multi_thread")]
async fn artifacts_are_seen_only_where_the_request_asks_for_it_whatever_is_granted() {
    use crate::policy::slot::SlotRule;
    let bench = Bench::with(|b| {
        b.verb = Verb::Verify;
        b.grants.artifacts.as_mut().unwrap().inspect = vec![SlotRule::pattern(".*").unwrap()];
    });
    bench.shelf.lay("hidden.txt", b"unseen");
    let instance = bench.load().await.start(bench.context("read-hidden-artifact")).await.unwrap();
    let settings = json!({ "do": "read-hidden-artifact" });
    let request = VerifyRequest { settings, depth: Depth::Contents, backup: made(), options: json!({}) };
    assert_eq!(instance.verify(request).await.unwrap_err().kind(), Kind::Denied);
}
