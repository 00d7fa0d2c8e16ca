//! Changes that share lines.

use super::*;
use crate::audit::batch::MAX_CALLS;
use crate::error::Error;
use crate::plugin::{Ended, Noted, Observer};
use crate::policy::storage::{BucketCall, BucketGrant, BucketVerb};
use crate::policy::{Call, Effect, Grants, Occasion, Policy, Verb, When};
use std::collections::BTreeMap;

/// A restore that may write into and delete from the bucket `found`, and its log.
struct Restore {
    bench: Bench,
    policy: Arc<Policy>,
    chain: Arc<Chain>,
    recorder: Arc<Recorder>,
}

impl Restore {
    fn begin() -> Self {
        let bench = Bench::new();
        let grant = BucketGrant {
            may: [BucketVerb::Write, BucketVerb::Delete].into(),
            prefixes: vec![String::new()],
            inspect: false,
            when: When { verbs: [Verb::Restore].into(), effect: Effect::Changes, scratch: false },
        };
        let policy = Arc::new(Policy {
            plugin: "bucket".to_owned(),
            grants: Grants { buckets: BTreeMap::from([("found".to_owned(), vec![grant])]), ..Grants::default() },
            occasion: Occasion { verb: Verb::Restore, plan_only: false },
            settings: serde_json::Value::Null,
        });
        let chain = bench.begin();
        let summary = Summary::new(bench.log.keys().host.as_ref().unwrap(), Default::default());
        let recorder = Recorder::new(chain.clone(), summary, policy.clone());
        Self { bench, policy, chain, recorder }
    }

    async fn decided(&self, verb: BucketVerb, key: &str) -> Noted {
        let call = Call::Bucket(BucketCall { bucket: "found", verb: Some(verb), key: Some(key), part: None });
        let decision = self.policy.decide(&call);
        assert!(decision.allowed, "{decision:?}");
        self.recorder.decided(function(verb), &call, &decision).await.unwrap()
    }

    /// The names of a line before that is in the chain when this is flushed, as it is before every change.
    fn flush(&self) {
        self.recorder.flush().unwrap();
    }

    fn ended(&self, verb: BucketVerb, noted: Noted, error: Option<&Error>) {
        let rule = "plugin.bucket.grant.bucket.found";
        let took = Duration::from_micros(1);
        let ended = Ended { function: function(verb), call: None, rule, noted, error, failed: 0, bytes: 3, took };
        self.recorder.ended(&ended).unwrap();
    }

    /// One after the other, each well.
    async fn each(&self, verb: BucketVerb, keys: impl IntoIterator<Item = String>) {
        for key in keys {
            let noted = self.decided(verb, &key).await;
            self.ended(verb, noted, None);
        }
    }

    /// What the chain has now, of these functions.
    fn lines(&self, event: Event) -> Vec<Line> {
        let of = |line: &Line| line.event == event && line.function.as_deref().is_some_and(|f| f.contains(".bucket."));
        self.bench.lines(self.chain.path()).into_iter().filter(of).collect()
    }

    fn finish(&self) {
        self.recorder.finish().unwrap();
        self.chain.close("ok").unwrap();
        self.bench.check_whole(&[State::Ended]);
    }
}

fn function(verb: BucketVerb) -> &'static str {
    if verb == BucketVerb::Delete { "storage.bucket.delete" } else { "storage.bucket.write" }
}

fn keys(from: u64, n: u64) -> impl Iterator<Item = String> {
    (from..from + n).map(|n| format!("k{n}"))
}

/// What a line names under `key` and `failed key`.
fn named<'a>(line: &'a Line, name: &str) -> Vec<&'a str> {
    line.arguments.iter().filter(|a| a.name == name).map(|a| a.value.as_deref().unwrap()).collect()
}

#[tokio::test]
async fn beyond_the_first_thousand_some_hundreds_share_lines_and_each_is_named_before_it_is_made() {
    let restore = Restore::begin();
    let n = MAX_LINES + 2 * MAX_CALLS as u64 + 7;
    restore.each(BucketVerb::Write, keys(0, MAX_LINES)).await;
    // Seven at a time are under way, of which each flushes, as the bucket's write does before it commits.
    for from in (MAX_LINES..n).step_by(7) {
        let mut under_way = Vec::new();
        for key in keys(from, (n - from).min(7)) {
            under_way.push(restore.decided(BucketVerb::Write, &key).await);
        }
        restore.flush();
        let told: Vec<_> = restore.lines(Event::Before);
        assert_eq!(keys_of(&told), keys(0, (from + 7).min(n)).collect::<Vec<_>>(), "named before they are made");
        under_way.into_iter().for_each(|noted| restore.ended(BucketVerb::Write, noted, None));
    }
    restore.finish();
    let (before, after) = (restore.lines(Event::Before), restore.lines(Event::After));
    assert!(keys_of(&after).is_empty(), "nothing is named twice");
    let is_batch = |line: &&Line| line.detail.as_deref().is_some_and(|d| d.contains("the first of at most 500"));
    let batches: Vec<_> = before.iter().filter(is_batch).collect();
    let names = before.iter().filter(|line| line.before.is_some()).count() as u64;
    assert_eq!(before.len() as u64, MAX_LINES + 3 + names);
    assert!(names <= (n - MAX_LINES) / 7 + 4, "those that are flushed together share a line: {names}");
    let own = usize::try_from(MAX_LINES).unwrap();
    let counted: Vec<_> = after[own..].iter().map(|line| (line.calls[0].calls, line.bytes, line.failed)).collect();
    assert_eq!(counted, [(500, Some(1500), None), (500, Some(1500), None), (7, Some(21), None)]);
    let first: Vec<_> = before[..own].iter().chain(batches).collect();
    assert_eq!(first.len(), after.len());
    for (before, after) in first.into_iter().zip(&after) {
        assert_eq!((after.before, after.outcome.as_deref()), (Some(before.seq), Some("ok")));
        assert_eq!((&after.rule, &before.decision), (&before.rule, &Some(Verdict::Allowed)));
    }
}

/// All objects that these lines name, in their order.
fn keys_of(lines: &[Line]) -> Vec<&str> {
    lines.iter().flat_map(|line| named(line, "key")).collect()
}

/// The log of a run that was killed names what it changed, to the last call.
#[tokio::test]
async fn a_deletion_is_named_on_the_disk_before_it_is_made() {
    let restore = Restore::begin();
    restore.each(BucketVerb::Delete, keys(0, MAX_LINES + 3)).await;
    for key in ["a", "b"] {
        restore.decided(BucketVerb::Delete, key).await;
        let last = restore.lines(Event::Before).pop().unwrap();
        assert_eq!(named(&last, "key"), [key]);
    }
}

#[tokio::test]
async fn a_line_is_there_before_the_first_change_that_it_stands_for_and_says_what_failed() {
    let restore = Restore::begin();
    restore.each(BucketVerb::Delete, keys(0, MAX_LINES)).await;
    let (first, second, third) = (
        restore.decided(BucketVerb::Delete, "a").await,
        restore.decided(BucketVerb::Delete, "b").await,
        restore.decided(BucketVerb::Delete, "c").await,
    );
    assert_eq!([second, third].map(|noted| (noted.line == first.line, noted.nth)), [(true, 1), (true, 2)]);
    assert_eq!(restore.lines(Event::Before).len() as u64, MAX_LINES + 4, "one for all, and each has its name");
    // They end in another order, and one not at all.
    restore.ended(BucketVerb::Delete, third, Some(&Error::not_found("there is no \"c\"")));
    restore.ended(BucketVerb::Delete, first, None);
    assert_eq!(restore.lines(Event::After).len() as u64, MAX_LINES, "others may still join them");
    restore.finish();
    let after = restore.lines(Event::After).pop().unwrap();
    assert_eq!((named(&after, "key"), named(&after, "failed key")), (vec![], vec!["c"]));
    assert_eq!((after.failed, after.outcome.as_deref()), (Some(1), Some("not-found")));
    assert_eq!(after.detail.as_deref(), Some("there is no \"c\"; 1 of them have not told how they ended"));
}

#[tokio::test]
async fn what_has_ended_is_told_before_something_else_changes() {
    use crate::policy::storage::{ArtifactCall, ArtifactVerb};
    let restore = Restore::begin();
    restore.each(BucketVerb::Write, keys(0, MAX_LINES + 3)).await;
    restore.each(BucketVerb::Delete, keys(0, MAX_LINES + 2)).await;
    let under_way = restore.decided(BucketVerb::Delete, "slow").await;
    let before = restore.lines(Event::After).len() as u64;
    assert_eq!(before, 2 * MAX_LINES, "a guest that writes and deletes in turn fills no disk either");
    // Whatever starts a program, stores or changes a cluster comes after what was done before it.
    let call = Call::Artifact(ArtifactCall { verb: ArtifactVerb::Put, name: "x" });
    let allowed = crate::policy::Decision::allow("rule", "reason");
    restore.recorder.decided("storage.put", &call, &allowed).await.unwrap();
    let after = restore.lines(Event::After);
    assert_eq!(after.len() as u64, before + 1, "the writes, and not the deletions, one of which is under way");
    assert_eq!(after.last().unwrap().calls[0].calls, 3);
    restore.ended(BucketVerb::Delete, under_way, None);
    restore.finish();
    assert_eq!(restore.lines(Event::After).last().unwrap().calls[0].calls, 3);
}

#[tokio::test]
async fn names_as_long_and_as_strange_as_they_may_be_make_a_line_that_is_read_back() {
    let restore = Restore::begin();
    restore.each(BucketVerb::Write, keys(0, MAX_LINES)).await;
    // In JSON each of these letters is six. Nobody flushes in between, so that a line names as many as it may.
    restore.each(BucketVerb::Write, (0..400).map(|n| format!("{}{n}", "\u{1}".repeat(4000)))).await;
    restore.finish();
    let shared = restore.lines(Event::Before).split_off(usize::try_from(MAX_LINES).unwrap());
    assert!(shared.len() > 8, "{} lines", shared.len());
    let hashes: std::collections::BTreeSet<_> =
        shared.iter().flat_map(|line| &line.arguments).filter_map(|argument| argument.hash.clone()).collect();
    assert_eq!(hashes.len(), 400, "each can still be told from the others");
}

#[tokio::test]
async fn what_is_not_written_down_is_not_done_when_it_shares_a_line_either() {
    let restore = Restore::begin();
    restore.each(BucketVerb::Write, keys(0, MAX_LINES + 1)).await;
    std::fs::remove_file(restore.chain.path()).unwrap();
    restore.chain.append(call(1)).unwrap();
    restore.chain.flush().unwrap_err();
    let call = Call::Bucket(BucketCall { bucket: "found", verb: Some(BucketVerb::Write), key: Some("x"), part: None });
    let decision = restore.policy.decide(&call);
    let error = restore.recorder.decided("storage.bucket.write", &call, &decision).await.unwrap_err();
    assert!(error.message().contains("could not write the audit log"), "{error:?}");
    assert!(restore.recorder.finish().is_err());
}
