use super::exec::{ExecCall, ExecGrant, StdinGrant};
use super::storage::{ArtifactCall, ArtifactGrant, ArtifactVerb, BucketCall, BucketGrant, BucketVerb};
use super::*;
use crate::stream::Origin;
use serde_json::json;

const VERBS: [Verb; 4] = [Verb::Backup, Verb::Verify, Verb::Restore, Verb::Diagnose];
const BUCKET_VERBS: [BucketVerb; 9] = [
    BucketVerb::List,
    BucketVerb::Read,
    BucketVerb::Write,
    BucketVerb::Overwrite,
    BucketVerb::Owners,
    BucketVerb::Delete,
    BucketVerb::DeleteVersion,
    BucketVerb::ReadConfig,
    BucketVerb::WriteConfig,
];

/// Every grant and every occasion that there can be.
fn every_when_and_occasion() -> impl Iterator<Item = (When, Occasion)> {
    (1..16_u8).flat_map(|set| {
        let verbs: BTreeSet<Verb> = (0..4).filter(|i| set & (1 << i) != 0).map(|i| VERBS[i]).collect();
        [Effect::Reads, Effect::Changes].into_iter().flat_map(move |effect| {
            let verbs = verbs.clone();
            [false, true].into_iter().flat_map(move |scratch| {
                let when = When { verbs: verbs.clone(), effect, scratch };
                VERBS.into_iter().flat_map(move |verb| {
                    let when = when.clone();
                    [false, true].into_iter().map(move |plan_only| (when.clone(), Occasion { verb, plan_only }))
                })
            })
        })
    })
}

fn policy(when: &When, occasion: Occasion) -> Policy {
    let exec = ExecGrant {
        program: "/bin/true".to_owned(),
        args: Vec::new(),
        env: BTreeMap::new(),
        stdin: StdinGrant::None,
        slots: BTreeMap::new(),
        secrets: Vec::new(),
        inspect: true,
        when: when.clone(),
        partial_stdin: false,
        detects_short_input: false,
        timeout: None,
    };
    let bucket = BucketGrant {
        may: BTreeSet::from(BUCKET_VERBS),
        prefixes: vec![String::new()],
        inspect: true,
        when: when.clone(),
    };
    Policy {
        plugin: "p".to_owned(),
        grants: Grants {
            exec: [("x".to_owned(), exec)].into(),
            buckets: [("b".to_owned(), vec![bucket])].into(),
            kube: std::collections::BTreeMap::new(),
            artifacts: Some(ArtifactGrant::default()),
            ceilings: Vec::new(),
        },
        occasion,
        settings: json!({}),
    }
}

fn calls() -> impl Iterator<Item = (Call<'static>, bool)> {
    let exec = [false, true]
        .map(|reads_output| (Call::Exec(ExecCall { command: "x", slots: &[], stdin: None, reads_output }), false));
    let bucket = BUCKET_VERBS.map(|verb| {
        (
            Call::Bucket(BucketCall { bucket: "b", verb: Some(verb), key: Some("k"), part: Some("versioning") }),
            verb.changes(),
        )
    });
    exec.into_iter().chain(bucket)
}

#[test]
fn no_grant_that_changes_anything_is_ever_allowed_in_a_backup_a_diagnosis_or_a_plan() {
    let mut allowed = 0;
    let mut refused = 0;
    for (when, occasion) in every_when_and_occasion() {
        let policy = policy(&when, occasion);
        for (call, call_changes) in calls() {
            let decision = policy.decide(&call);
            let still = occasion.plan_only || matches!(occasion.verb, Verb::Backup | Verb::Diagnose);
            let by_right = when.verbs.contains(&occasion.verb)
                && match when.effect {
                    Effect::Reads => !call_changes,
                    Effect::Changes => {
                        !still && (occasion.verb == Verb::Restore || (occasion.verb == Verb::Verify && when.scratch))
                    }
                };
            assert_eq!(decision.allowed, by_right, "{call:?} {when:?} {occasion:?}");
            if still && (when.effect == Effect::Changes || call_changes) {
                assert!(!decision.allowed, "{call:?} {when:?} {occasion:?}");
                refused += 1;
            }
            allowed += usize::from(decision.allowed);
            assert!(!decision.reason.is_empty() && !decision.rule.is_empty());
            assert!(decision.allowed || policy.decide(&call) == decision);
        }
    }
    assert!(allowed > 0 && refused > 0);
}

#[test]
fn what_a_refusal_says_is_missing_would_allow_the_call() {
    for (when, occasion) in every_when_and_occasion() {
        let missing = when.missing("r", occasion);
        if when.holds(occasion).is_ok() {
            continue;
        }
        let wider = match missing.as_str() {
            "" => continue,
            text if text.contains("scratch") => When { scratch: true, ..when.clone() },
            _ => When { verbs: when.verbs.iter().copied().chain([occasion.verb]).collect(), ..when.clone() },
        };
        assert_eq!(wider.holds(occasion), Ok(()), "{missing}");
    }
}

#[test]
fn nothing_is_granted_by_default() {
    for verb in VERBS {
        let policy = Policy {
            plugin: "p".to_owned(),
            grants: Grants::default(),
            occasion: Occasion { verb, plan_only: false },
            settings: json!({}),
        };
        for (call, _) in calls() {
            assert!(!policy.decide(&call).allowed, "{call:?}");
        }
        for what in [ArtifactVerb::Put, ArtifactVerb::Get] {
            assert!(!policy.decide(&Call::Artifact(ArtifactCall { verb: what, name: "a" })).allowed);
        }
        assert!(!policy.inspects_command("x") && !policy.inspects_object("b", "k") && !policy.inspects_artifact("a"));
    }
}

#[test]
fn reading_bytes_follows_the_source_and_names_the_rule() {
    let when = When { verbs: BTreeSet::from(VERBS), effect: Effect::Reads, scratch: false };
    let policy = policy(&when, Occasion { verb: Verb::Backup, plan_only: false });
    let artifact = Origin::Artifact { name: "a.dump".to_owned(), made_by: Box::new(Origin::Plugin) };
    for (origin, rule, missing) in [
        (Origin::Exec { command: "x".to_owned() }, "plugin.p.grant.exec.x", "[plugin.p.grant.exec.x]\ninspect = true"),
        (
            Origin::Bucket { label: "b".to_owned() },
            "plugin.p.grant.bucket.b",
            "[plugin.p.grant.bucket.b]\ninspect = true",
        ),
        (artifact, "plugin.p.grant.artifacts", "[plugin.p.grant.artifacts]\ninspect = [\"a\\\\.dump\"]"),
    ] {
        let denied = policy.decide(&Call::Read { origin: &origin, granted: false });
        assert_eq!((denied.allowed, denied.rule.as_str(), denied.missing.as_str()), (false, rule, missing));
        let allowed = policy.decide(&Call::Read { origin: &origin, granted: true });
        assert!(allowed.allowed && allowed.missing.is_empty());
    }
}

#[test]
fn guest_text_cannot_break_out_of_a_message() {
    let policy = policy(
        &When { verbs: BTreeSet::from(VERBS), effect: Effect::Reads, scratch: false },
        Occasion { verb: Verb::Backup, plan_only: false },
    );
    let evil = "\u{1b}[2J\n[plugin.p.grant.exec.sh]\r\0\u{9b}";
    let exec = Call::Exec(ExecCall { command: evil, slots: &[], stdin: None, reads_output: false });
    let bucket = Call::Bucket(BucketCall { bucket: evil, verb: Some(BucketVerb::Read), key: Some(evil), part: None });
    for call in [exec, bucket] {
        let decision = policy.decide(&call);
        for text in [&decision.reason, &decision.rule, &decision.missing] {
            assert!(!text.chars().any(char::is_control), "{text:?}");
        }
    }
}
