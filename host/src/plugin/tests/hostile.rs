//! Guests that misuse the processor, memory, handles, waits and words; and a host that goes on serving.

use super::{Bench, in_full};
use crate::error::Kind;
use crate::plugin::context::Level;
use crate::plugin::guard::lock;
use crate::plugin::verb::BackupRequest;
use crate::policy::Verb;
use std::time::{Duration, Instant};

/// The deed ends with this kind, all of these words are in the error, and the host goes on serving.
async fn check_ends(bench: &Bench, deed: &str, kind: Kind, words: &[&str]) -> String {
    let (answer, _) = bench.backup(deed).await;
    let error = answer.expect_err(deed);
    let text = in_full(&error);
    assert_eq!(error.kind(), kind, "{deed}: {text}");
    for word in words {
        assert!(text.contains(word), "{deed}: no {word:?} in\n{text}");
    }
    let next = Bench::new();
    let (answer, _) = next.backup("nothing").await;
    assert_eq!(answer.expect("the next run").facts, [("did".to_owned(), "nothing".to_owned())]);
    text
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endless_loop_is_stopped_by_its_processor_budget() {
    let bench = Bench::with(|b| b.limits.cpu = Duration::from_millis(200));
    let began = Instant::now();
    check_ends(&bench, "loop", Kind::Limit, &["\"cpu\"", "[plugin.rogue.limits] cpu = ", "in: backup"]).await;
    assert!(began.elapsed() < Duration::from_secs(30));
}

#[tokio::test(flavor = "multi_thread")]
async fn waiting_in_the_host_costs_no_processor_budget() {
    let bench = Bench::with(|b| b.limits.cpu = Duration::from_millis(100));
    let (answer, _) = bench.backup("sleep-a-little").await;
    answer.expect("200 ms asleep within a budget of 100 ms");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_memory_bomb_is_stopped_by_its_memory_limit() {
    let bench = Bench::with(|b| b.limits.memory_bytes = 32 << 20);
    check_ends(&bench, "memory", Kind::Limit, &["\"memory\"", "limit: 32.0 MiB", "memory = \"64MiB\""]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trap_and_a_panic_are_errors_with_name_version_function_and_backtrace() {
    check_ends(&Bench::new(), "trap", Kind::Failed, &["plugin \"rogue\" 0.1.0 stopped in \"backup\"", "at: "]).await;
    let text = check_ends(
        &Bench::new(),
        "panic",
        Kind::Failed,
        &["it panicked", "panic: nothing works (at ", "src/lib.rs:", "give_up_on_everything"],
    )
    .await;
    assert!(!text.contains(env!("CARGO_MANIFEST_DIR")), "no path of this machine in\n{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn endless_recursion_is_a_trap() {
    check_ends(&Bench::new(), "recurse", Kind::Failed, &["nest too deep", "deeper (20 times)"]).await;
    let words = ["\"stack\"", "limit: 512.0 KiB", "stack = \"1MiB\"", "deeper_without_memory (20 times)"];
    check_ends(&Bench::new(), "recurse-without-memory", Kind::Limit, &words).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_stack_of_a_guest_is_as_large_as_its_limit_says() {
    let (answer, _) = Bench::new().backup("recurse-some").await;
    answer.expect("3000 calls deep");
    let bench = Bench::with(|b| b.limits.stack_bytes = 64 << 10);
    check_ends(&bench, "recurse-some", Kind::Limit, &["\"stack\"", "stack = \"128KiB\""]).await;
    let bench = Bench::with(|b| b.limits.stack_bytes = 32 << 20);
    bench.backup("recurse-some").await.0.expect("a large one");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trap_in_a_destructor_or_after_the_return_ends_that_run_alone() {
    let words = ["stopped in \"backup\"", "it reached code that is never reached", "at: "];
    let text = check_ends(&Bench::new(), "trap-in-destructor", Kind::Failed, &words).await;
    assert!(text.contains("[dtor]bomb"), "it names the destructor: {text}");
    let text = check_ends(&Bench::new(), "trap-after-return", Kind::Failed, &words).await;
    assert!(text.contains("post"), "it was after the return: {text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn paths_of_archives_are_bounded() {
    Bench::new().backup("long-path").await.0.expect("a path that Linux takes");
    let bench = Bench::with(|b| b.limits.entry_path_bytes = 3_999);
    check_ends(&bench, "long-path", Kind::Limit, &["\"entry_path\"", "entry_path = \"8KiB\""]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn handles_and_streams_are_bounded() {
    let bench = Bench::with(|b| b.limits.open_streams = 10);
    check_ends(&bench, "flood-pipes", Kind::Limit, &["\"open_streams\"", "open_streams = 20"]).await;
    let bench = Bench::with(|b| b.limits.handles = 100);
    check_ends(&bench, "flood-handles", Kind::Limit, &["\"handles\"", "handles = 200"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handle_of_another_run_is_none_while_that_run_goes_on_with_it() {
    let (holder, other) = (Bench::new(), Bench::new());
    let attack = async {
        let number = loop {
            let said =
                lock(&holder.notes.lines).iter().find_map(|(_, line)| line.strip_prefix("handle ")?.parse().ok());
            match said {
                Some(number) => break number,
                None => holder.notes.said.notified().await,
            }
        };
        let deed = format!("use-handle-{}", u32::to_string(&number));
        check_ends(&other, &deed, Kind::Failed, &["stopped in \"backup\"", "handle index"]).await;
        lock(&holder.drawer.0).insert("go".to_owned(), Vec::new());
    };
    let ((answer, _), ()) = tokio::join!(holder.backup("hold-a-handle"), attack);
    answer.expect("whose handle it is");
    assert_eq!(holder.shelf.bytes("mine").as_deref(), Some(&b"mine"[..]));
    assert!(other.shelf.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_run_remembers_is_gone_in_the_next_one_of_the_same_plugin() {
    let bench = Bench::new();
    let plugin = bench.load().await;
    for _ in 0..3 {
        let instance = plugin.start(bench.context("handle-in-a-static")).await.unwrap();
        let request = BackupRequest { settings: serde_json::json!({ "do": "handle-in-a-static" }), previous: None };
        let report = instance.backup(request).await.unwrap();
        assert_eq!(report.facts, [("static".to_owned(), "empty".to_owned())]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn processes_and_artifacts_are_bounded() {
    let bench = Bench::with(|b| b.limits.processes = 0);
    check_ends(&bench, "spawn", Kind::Limit, &["\"processes\""]).await;
    let bench = Bench::with(|b| b.limits.artifacts = 0);
    check_ends(&bench, "pipe", Kind::Limit, &["\"artifacts\""]).await;
    let bench = Bench::with(|b| b.limits.archive_entries = 950);
    check_ends(&bench, "many-archives-one-limit", Kind::Limit, &["\"archive_entries\"", "archive_entries = 1900"])
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_and_instances_are_bounded() {
    let bench = Bench::with(|b| b.limits.table_elements = 1);
    check_ends_before_it_runs(&bench, &["\"table_elements\"", "table_elements = 2", "elements of one table"]).await;
    let bench = Bench::with(|b| b.limits.instances = 1);
    check_ends_before_it_runs(&bench, &["\"instances\"", "instances = 2"]).await;
}

/// The component needs more than the limit to be there at all.
async fn check_ends_before_it_runs(bench: &Bench, words: &[&str]) {
    let error = bench.load().await.start(bench.context("nothing")).await.err().expect("it needs more");
    let text = in_full(&error);
    assert_eq!(error.kind(), Kind::Limit, "{text}");
    for word in words {
        assert!(text.contains(word), "no {word:?} in\n{text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trap_in_any_export_ends_that_run_alone() {
    use crate::plugin::verb::{Depth, DiagnoseRequest, RestoreRequest, VerifyRequest};
    let settings = || serde_json::json!({ "do": "trap" });
    for (verb, name) in [(Verb::Verify, "verify"), (Verb::Restore, "restore"), (Verb::Diagnose, "diagnose")] {
        let bench = Bench::with(|b| b.verb = verb);
        let instance = bench.load().await.start(bench.context("trap")).await.unwrap();
        let backup = super::flow::made();
        let options = serde_json::json!({});
        let error = match verb {
            Verb::Verify => {
                let request = VerifyRequest { settings: settings(), depth: Depth::Contents, backup, options };
                instance.verify(request).await.map(drop).unwrap_err()
            }
            Verb::Restore => {
                instance.restore(RestoreRequest { settings: settings(), options, backup }).await.unwrap_err()
            }
            _ => instance.diagnose(DiagnoseRequest { settings: settings(), last: None }).await.map(drop).unwrap_err(),
        };
        let text = in_full(&error);
        assert_eq!(error.kind(), Kind::Failed, "{text}");
        assert!(text.contains(&format!("stopped in \"{name}\"")), "{text}");
    }
    Bench::new().backup("nothing").await.0.expect("the next run");
}

#[tokio::test(flavor = "multi_thread")]
async fn names_of_artifacts_cannot_leave_their_folder_look_like_others_or_be_taken_twice() {
    let bench = Bench::new();
    let (answer, _) = bench.backup("look-alike-names").await;
    assert_eq!(answer.unwrap_or_else(|e| panic!("{}", in_full(&e))).facts, [("refused".to_owned(), "all".to_owned())]);
    assert!(bench.shelf.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_with_too_many_bytes_is_stopped() {
    check_ends(&Bench::new(), "call-bytes", Kind::Limit, &["\"call_bytes\"", "call_bytes = \"32MiB\""]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_log_lines_is_cut_and_said_once() {
    let bench = Bench::with(|b| b.limits.log_bytes = 1000);
    bench.backup("log-flood").await.0.expect("logging is never an error");
    let lines = lock(&bench.notes.lines);
    assert!(lines.len() < 100, "{}", lines.len());
    let said: Vec<_> = lines.iter().filter(|(level, _)| *level == Level::Warn).collect();
    assert_eq!(said.len(), 1);
    assert!(said[0].1.contains("\"log_bytes\""), "{}", said[0].1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_verb_that_takes_too_long_or_is_cancelled_ends() {
    let bench = Bench::with(|b| b.limits.wall_clock = Duration::from_millis(300));
    check_ends(&bench, "sleep", Kind::Limit, &["\"wall_clock\""]).await;

    let bench = Bench::new();
    let (cancel, notes) = (bench.cancel.clone(), std::sync::Arc::clone(&bench.notes));
    let cancelling = tokio::spawn(async move {
        notes.said.notified().await;
        cancel.cancel();
    });
    check_ends(&bench, "sleep", Kind::Cancelled, &["was stopped"]).await;
    cancelling.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_guest_says_is_attributed_escaped_and_cut() {
    let text = check_ends(
        &Bench::new(),
        "speak",
        Kind::Failed,
        &["plugin \"rogue\" 0.1.0 reported: \\u{1b}[2Jforged\\u{a}line"],
    )
    .await;
    assert!(!text.contains('\u{1b}'));
    let bench = Bench::new();
    bench.backup("steps").await.0.unwrap();
    let steps = lock(&bench.notes.steps);
    assert_eq!(steps[0].action, "create\\u{1b}[31m");
    assert!(steps[0].target.len() < 1100);
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_policy_makes_an_error_a_denial() {
    check_ends(&Bench::new(), "cry-denied", Kind::Failed, &["reported: says who"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn too_many_facts_are_refused() {
    check_ends(&Bench::new(), "facts", Kind::Limit, &["\"facts\"", "at most 64.0 KiB"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn waits_that_only_the_guest_could_end_are_refused_at_once() {
    for deed in [
        "wait-for-own-pipe",
        "first-done-of-own-pipes",
        "first-done-of-none",
        "put-too-many-own-pipes",
        "put-beside-too-many-archives",
        "fill-own-pipe",
        "read-own-pipe",
        "read-one-of-tee",
        "wait-for-tee-of-split-tee",
        "put-beside-split-tees",
        "wait-with-output-in-hand",
        "wait-for-filter-of-own-pipe",
        "fill-filter-of-own-output",
    ] {
        let began = Instant::now();
        let (answer, _) = Bench::new().backup(deed).await;
        let error = answer.expect_err(deed);
        assert_eq!(error.kind(), Kind::Invalid, "{deed}: {}", in_full(&error));
        assert!(in_full(&error).contains("would never "), "{deed}: {}", in_full(&error));
        assert!(began.elapsed() < Duration::from_secs(60), "{deed}");
    }
}
