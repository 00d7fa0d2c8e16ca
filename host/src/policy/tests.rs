use super::exec::{ExecCall, ExecGrant, StdinGrant};
use super::kube::{KubeCall, KubeGrant, KubeObject, KubeVerb};
use super::metrics::{MetricsCall, MetricsGrant};
use super::scratch::ScratchGrant;
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
        sha256: None,
        args: Vec::new(),
        env: BTreeMap::new(),
        stdin: StdinGrant::None,
        slots: BTreeMap::new(),
        secrets: Vec::new(),
        secret_files: BTreeMap::new(),
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
    let cluster = KubeGrant {
        may: BTreeSet::from(KubeVerb::ALL),
        kinds: BTreeSet::from([CONFIG_MAP.kind.to_owned()]),
        namespaces: Vec::new(),
        names: Vec::new(),
        labels: BTreeMap::new(),
        inspect: true,
        secret_data: false,
        when: when.clone(),
    };
    let metrics = MetricsGrant {
        prefix: Some("p_".to_owned()),
        query: BTreeSet::from(["up".to_owned()]),
        labels: BTreeMap::new(),
        when: when.clone(),
    };
    Policy {
        plugin: "p".to_owned(),
        grants: Grants {
            exec: [("x".to_owned(), exec)].into(),
            buckets: [("b".to_owned(), vec![bucket])].into(),
            kube: [("c".to_owned(), vec![cluster])].into(),
            artifacts: Some(ArtifactGrant::default()),
            scratch: Some(ScratchGrant { bytes: 1 << 20, verbs: when.verbs.clone() }),
            metrics: Some(metrics),
            withheld: BTreeMap::new(),
            ceilings: Vec::new(),
        },
        occasion,
        settings: json!({}),
    }
}

/// What decides whether a call changes something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Changes {
    /// The effect of its grant, as with a command that nobody looks into.
    ByGrant,
    /// The call itself does, whatever its grant says; and needs one that says so.
    Yes,
    /// The call itself does not, whatever its grant says.
    No,
}

/// An object that a call is about.
const CONFIG_MAP: KubeObject<'static> =
    KubeObject { kind: "/ConfigMap", namespaced: true, namespace: Some("n"), name: Some("x"), labels: None };

/// Every function that the policy is asked about, with every verb; but for artifacts.
fn calls() -> impl Iterator<Item = (Call<'static>, Changes)> {
    let exec = [false, true].map(|reads_output| {
        (Call::Exec(ExecCall { command: "x", slots: &[], stdin: None, reads_output, program: None }), Changes::ByGrant)
    });
    let bucket = BUCKET_VERBS.map(|verb| {
        (
            Call::Bucket(BucketCall { bucket: "b", verb: Some(verb), key: Some("k"), part: Some("versioning") }),
            if verb.changes() { Changes::Yes } else { Changes::ByGrant },
        )
    });
    let kube = KubeVerb::ALL.map(|verb| {
        let call = KubeCall { cluster: "c", verb: Some(verb), objects: &[CONFIG_MAP] };
        (Call::Kube(call), if verb.changes() { Changes::Yes } else { Changes::No })
    });
    let about = (Call::Kube(KubeCall { cluster: "c", verb: None, objects: &[] }), Changes::No);
    let metrics = [MetricsCall::Write("p_x"), MetricsCall::Query(&[Some("up")])];
    let metrics = metrics.map(|call| (Call::Metrics(call), Changes::ByGrant));
    let scratch = (Call::Scratch, Changes::No);
    exec.into_iter().chain(bucket).chain(kube).chain(metrics).chain([about, scratch])
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
            let may_change =
                !still && (occasion.verb == Verb::Restore || (occasion.verb == Verb::Verify && when.scratch));
            // A backup has no use for what a change would do.
            let is_idle = occasion.verb == Verb::Backup
                && matches!(&call, Call::Kube(KubeCall { verb: Some(KubeVerb::DryRun), .. }));
            let by_right = when.verbs.contains(&occasion.verb)
                && match (call_changes, when.effect) {
                    (Changes::No, _) => !is_idle,
                    (Changes::ByGrant, Effect::Reads) => true,
                    (Changes::Yes, Effect::Reads) => false,
                    (_, Effect::Changes) => may_change,
                };
            assert_eq!(decision.allowed, by_right, "{call:?} {when:?} {occasion:?}");
            let changes = match call_changes {
                Changes::Yes => true,
                Changes::ByGrant => when.effect == Effect::Changes,
                Changes::No => false,
            };
            if still && changes {
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
        for what in [ArtifactVerb::Put, ArtifactVerb::Get, ArtifactVerb::List] {
            assert!(!policy.decide(&Call::Artifact(ArtifactCall { verb: what, name: "a" })).allowed);
        }
        assert!(!policy.inspects_command("x") && !policy.inspects_object("b", "k") && !policy.inspects_artifact("a"));
        assert!(!policy.kube_inspects("c", KubeVerb::Get, &CONFIG_MAP) && policy.scratch().is_none());
    }
}

#[test]
fn reading_bytes_follows_the_source_and_names_the_rule() {
    let when = When { verbs: BTreeSet::from(VERBS), effect: Effect::Reads, scratch: false };
    let policy = policy(&when, Occasion { verb: Verb::Backup, plan_only: false });
    let artifact = Origin::Artifact { name: "a.dump".to_owned(), made_by: Box::new(Origin::Plugin) };
    for (origin, rule, missing) in [
        (
            Origin::Exec { command: "x".to_owned(), proof: None },
            "plugin.p.grant.exec.x",
            "[plugin.p.grant.exec.x]\ninspect = true",
        ),
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
    let exec = Call::Exec(ExecCall { command: evil, slots: &[], stdin: None, reads_output: false, program: None });
    let bucket = Call::Bucket(BucketCall { bucket: evil, verb: Some(BucketVerb::Read), key: Some(evil), part: None });
    for call in [exec, bucket] {
        let decision = policy.decide(&call);
        for text in [&decision.reason, &decision.rule, &decision.missing] {
            assert!(!text.chars().any(char::is_control), "{text:?}");
        }
    }
}
