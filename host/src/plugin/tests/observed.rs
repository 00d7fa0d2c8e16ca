//! What an observer is told: every call once, its end, and what handles were used for; and that nothing
//! happens which it could not write down.

use super::{Bench, in_full};
use crate::error::{Error, Kind, Result};
use crate::plugin::guard::lock;
use crate::plugin::verb::{BackupRequest, RestoreRequest};
use crate::plugin::{Ended, HandleUse, Noted, Observer, Stop};
use crate::policy::{Call, Decision, Verb};
use async_trait::async_trait;
use serde_json::json;
use std::sync::{Arc, Mutex};

/// Notes everything, as one line each.
#[derive(Default)]
struct Told {
    lines: Mutex<Vec<String>>,
    /// The function whose call cannot be written down.
    refuses: Option<&'static str>,
}

impl Told {
    fn say(&self, line: String) -> u64 {
        let mut lines = lock(&self.lines);
        lines.push(line);
        lines.len() as u64
    }

    /// Checks for a refusal to write.
    fn check(&self, function: &str) -> Result<()> {
        if self.refuses == Some(function) {
            Err(Error::failed("could not write \"/audit\"").hint("make room"))
        } else {
            Ok(())
        }
    }
}

#[async_trait]
impl Observer for Told {
    async fn decided(&self, function: &'static str, call: &Call<'_>, decision: &Decision) -> Result<Noted> {
        self.check(function)?;
        let word = if decision.allowed { "allowed" } else { "denied" };
        let line = self.say(format!("{word} {function}"));
        Ok(Noted { line: if call.acts() && decision.allowed { line } else { 0 }, nth: 0 })
    }

    fn ended(&self, ended: &Ended<'_>) -> Result<()> {
        let outcome = ended.error.map_or("ok".to_owned(), |error| format!("{:?}", error.kind()));
        self.say(format!(
            "ended {} of line {} with {} bytes: {outcome}",
            ended.function, ended.noted.line, ended.bytes
        ));
        Ok(())
    }

    fn closed(&self, used: &HandleUse) {
        let HandleUse { kind, subject, calls, failed, bytes, outcome, .. } = used;
        self.say(format!("closed {kind} {subject:?} {calls:?} {failed} failed {bytes} bytes {outcome:?}"));
    }

    fn stopped(&self, how: Stop, message: &str) {
        self.say(format!("{how:?}: {message}"));
    }

    fn flush(&self) -> Result<()> {
        self.check("flush")
    }
}

async fn observe(bench: &Bench, deed: &str, told: &Arc<Told>) -> Result<()> {
    let instance = bench.load().await.start_observed(bench.context(deed), told.clone()).await?;
    instance.backup(BackupRequest { settings: json!({ "do": deed }), previous: None }).await.map(drop)
}

/// Everything that is told of one deed.
async fn lines(bench: &Bench, deed: &str) -> String {
    let told = Arc::new(Told::default());
    // Whether it succeeds is for other tests; what is told is for this one.
    drop(observe(bench, deed, &told).await);
    lock(&told.lines).join("\n")
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_that_change_something_are_told_before_and_when_their_work_has_ended() {
    insta::assert_snapshot!(lines(&Bench::new(), "spawn").await, @r#"
    allowed exec.spawn
    ended exec.spawn of line 1 with 0 bytes: ok
    allowed storage.put
    ended storage.put of line 3 with 6 bytes: ok
    closed process "echo" {"exec.process.stdout": 1} 0 failed 0 bytes None
    closed run "rogue" {"storage.transfer.wait": 1} 0 failed 0 bytes None
    "#);
    assert_eq!(lines(&Bench::new(), "spawn-unknown").await, "denied exec.spawn");
    let archive = lines(&Bench::new(), "archive").await;
    for says in [
        "allowed storage.create-archive",
        "ended storage.create-archive of line",
        "closed archive",
        "\"storage.finish-archive\": 1",
    ] {
        assert!(archive.contains(says), "{says}: {archive}");
    }
    let bucket = lines(&Bench::new(), "bucket").await;
    for says in ["ended storage.open-bucket of line 0", "closed bucket \"data\"", "\"storage.bucket.read\": 1"] {
        assert!(bucket.contains(says), "{says}: {bucket}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn work_that_was_given_up_is_told_as_such() {
    let text = lines(&Bench::new(), "drop-transfer").await;
    assert!(text.contains("ended storage.put of line") && text.contains(": Cancelled"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn traps_and_limits_are_told() {
    assert!(lines(&Bench::new(), "trap").await.contains("Trap: plugin \"rogue\""));
    let short = |bench: &mut Bench| bench.limits.cpu = std::time::Duration::from_millis(200);
    assert!(lines(&Bench::with(short), "loop").await.contains("Limit: plugin \"rogue\" has used up its limit \"cpu\""));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_written_down_does_not_happen_and_ends_the_guest() {
    for refused in ["exec.spawn", "storage.put"] {
        let bench = Bench::new();
        let told = Arc::new(Told { refuses: Some(refused), ..Told::default() });
        let error = observe(&bench, "spawn", &told).await.unwrap_err();
        assert_eq!(
            (error.kind(), error.message()),
            (Kind::Failed, "could not write \"/audit\""),
            "{}",
            in_full(&error)
        );
        assert_eq!(error.hint_text(), Some("make room"));
        assert!(bench.shelf.is_empty());
        assert!(!lock(&told.lines).iter().any(|line| line.contains(&format!("ended {refused}"))));
    }
}

/// A write is written down together with others, and is not begun before that is durable.
#[tokio::test(flavor = "multi_thread")]
async fn a_write_whose_line_cannot_be_flushed_does_not_happen() {
    let bench = Bench::with(|bench| bench.verb = Verb::Restore);
    let before = lock(&bench.drawer.0).clone();
    for (refuses, is_written) in [(Some("flush"), false), (None, true)] {
        let told = Arc::new(Told { refuses, ..Told::default() });
        let instance =
            bench.load().await.start_observed(bench.context("bucket-write"), told.clone()).await.expect("it starts");
        let settings = json!({ "do": "bucket-write" });
        let request = RestoreRequest { settings, options: json!({}), backup: super::flow::made() };
        let answer = instance.restore(request).await;
        assert_eq!(answer.is_ok(), is_written, "{answer:?}");
        assert_eq!(*lock(&bench.drawer.0) != before, is_written);
        let lines = lock(&told.lines).join("\n");
        let ended = lines.lines().find(|line| line.starts_with("ended storage.bucket.write")).expect("it is told");
        assert!(ended.ends_with(if is_written { ": ok" } else { ": Failed" }), "{lines}");
    }
}
