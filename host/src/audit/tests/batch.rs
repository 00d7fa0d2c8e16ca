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
async fn beyond_the_first_thousand_writes_some_hundreds_share_a_line_that_names_each() {
    let restore = Restore::begin();
    let n = MAX_LINES + 2 * MAX_CALLS as u64 + 7;
    restore.each(BucketVerb::Write, keys(0, n)).await;
    let last = restore.lines(Event::Before).pop().unwrap();
    assert!(last.detail.unwrap().contains("the first of at most 500"), "and it says that others follow");
    assert_eq!(last.arguments.len(), 2, "where, and what is done");
    restore.finish();
    let (before, after) = (restore.lines(Event::Before), restore.lines(Event::After));
    assert_eq!((before.len() as u64, after.len()), (MAX_LINES + 3, before.len()));
    // Every object is named once: by a line of its own, or by the line after that it shares.
    let own: Vec<_> = before.iter().flat_map(|line| named(line, "key")).collect();
    let shared: Vec<_> = after.iter().flat_map(|line| named(line, "key")).collect();
    assert_eq!([own, shared].concat(), keys(0, n).collect::<Vec<_>>());
    let batches = &after[usize::try_from(MAX_LINES).unwrap()..];
    let counted: Vec<_> = batches.iter().map(|line| (line.calls[0].calls, line.bytes, line.failed)).collect();
    assert_eq!(counted, [(500, Some(1500), None), (500, Some(1500), None), (7, Some(21), None)]);
    for (before, after) in before.iter().zip(&after) {
        assert_eq!((after.before, after.outcome.as_deref()), (Some(before.seq), Some("ok")));
        assert_eq!((&after.rule, &before.decision), (&before.rule, &Some(Verdict::Allowed)));
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
    assert_eq!(restore.lines(Event::Before).len() as u64, MAX_LINES + 1);
    // They end in another order, and one not at all.
    restore.ended(BucketVerb::Delete, third, Some(&Error::not_found("there is no \"c\"")));
    restore.ended(BucketVerb::Delete, first, None);
    assert_eq!(restore.lines(Event::After).len() as u64, MAX_LINES, "others may still join them");
    restore.finish();
    let after = restore.lines(Event::After).pop().unwrap();
    assert_eq!((named(&after, "key"), named(&after, "failed key")), (vec!["a", "b"], vec!["c"]));
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
    assert_eq!(named(after.last().unwrap(), "key"), ["k1000", "k1001", "k1002"]);
    restore.ended(BucketVerb::Delete, under_way, None);
    restore.finish();
    assert_eq!(named(restore.lines(Event::After).last().unwrap(), "key"), ["k1000", "k1001", "slow"]);
}

#[tokio::test]
async fn names_as_long_and_as_strange_as_they_may_be_make_a_line_that_is_read_back() {
    let restore = Restore::begin();
    restore.each(BucketVerb::Write, keys(0, MAX_LINES)).await;
    // In JSON each of these letters is six.
    restore.each(BucketVerb::Write, (0..400).map(|n| format!("{}{n}", "\u{1}".repeat(4000)))).await;
    restore.finish();
    let shared: Vec<_> = restore.lines(Event::After).split_off(usize::try_from(MAX_LINES).unwrap());
    assert!(shared.len() > 4, "{} lines", shared.len());
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
