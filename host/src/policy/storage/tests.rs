use super::*;
use crate::policy::slot::SlotRule;
use crate::policy::{Call, Grants};
use serde_json::json;

const ALL: [BucketVerb; 9] = [
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

fn on(verb: Verb) -> Occasion {
    Occasion { verb, plan_only: false }
}

fn when(verb: Verb, effect: Effect) -> When {
    When { verbs: BTreeSet::from([verb]), effect, scratch: false }
}

fn reader() -> BucketGrant {
    BucketGrant {
        may: BTreeSet::from([BucketVerb::List, BucketVerb::Read]),
        prefixes: vec!["photos/".to_owned(), "docs/".to_owned()],
        inspect: false,
        when: when(Verb::Backup, Effect::Reads),
    }
}

fn writer() -> BucketGrant {
    BucketGrant {
        may: BTreeSet::from([BucketVerb::List, BucketVerb::Write]),
        prefixes: vec![String::new()],
        inspect: false,
        when: when(Verb::Restore, Effect::Changes),
    }
}

fn policy(occasion: Occasion, grants: Vec<BucketGrant>) -> Policy {
    Policy {
        plugin: "bucket".to_owned(),
        grants: Grants { buckets: [("media".to_owned(), grants)].into(), ..Grants::default() },
        occasion,
        settings: json!({}),
    }
}

fn call(verb: BucketVerb, key: &str) -> BucketCall<'_> {
    BucketCall { bucket: "media", verb: Some(verb), key: Some(key), part: None }
}

#[track_caller]
fn check_allowed(policy: &Policy, call: BucketCall<'_>) {
    let decision = policy.decide(&Call::Bucket(call));
    assert!(decision.allowed, "{decision:#?}");
    assert_eq!(decision.rule, "plugin.bucket.grant.bucket.media");
}

#[track_caller]
fn check_denied(policy: &Policy, call: BucketCall<'_>, reason: &str, missing: &str) {
    let decision = policy.decide(&Call::Bucket(call));
    assert!(!decision.allowed, "{decision:#?}");
    assert!(decision.reason.contains(reason), "{decision:#?}");
    assert!(decision.missing.contains(missing), "{decision:#?}");
    assert_eq!(decision.missing.is_empty(), missing.is_empty(), "{decision:#?}");
}

#[test]
fn a_bucket_is_granted_by_label_verb_and_prefix() {
    let policy = policy(on(Verb::Backup), vec![reader()]);
    check_allowed(&policy, BucketCall { bucket: "media", verb: None, key: None, part: None });
    check_allowed(&policy, call(BucketVerb::Read, "photos/a.jpg"));
    check_allowed(&policy, call(BucketVerb::Read, "docs/a/b"));
    check_allowed(&policy, call(BucketVerb::List, "photos/2026/"));

    let other = BucketCall { bucket: "secrets", ..call(BucketVerb::Read, "photos/a") };
    check_denied(&policy, other, "not granted", "[plugin.bucket.grant.bucket.secrets]");
    for key in ["", "photos", "Photos/a", "private/photos/a", "/photos/a"] {
        check_denied(&policy, call(BucketVerb::Read, key), "none of the granted prefixes", "prefixes = [");
        check_denied(&policy, call(BucketVerb::List, key), "none of the granted prefixes", "prefixes = [");
    }
    for key in ["photos/../private/a", "photos/..", "photos/./a", "photos/a\0b"] {
        check_denied(&policy, call(BucketVerb::Read, key), "is not a key for it", "");
    }
    check_denied(&policy, BucketCall { key: None, ..call(BucketVerb::Read, "") }, "names no key", "");
    check_denied(&policy, BucketCall { key: None, ..call(BucketVerb::List, "") }, "prefixes", "prefixes = [");
    let long = "photos/".repeat(4096);
    check_denied(&policy, call(BucketVerb::Read, &long), "bytes long", "");
}

#[test]
fn what_is_granted_to_one_verb_is_not_granted_to_another() {
    let policy = policy(on(Verb::Backup), vec![reader()]);
    for verb in [BucketVerb::Write, BucketVerb::Overwrite, BucketVerb::Delete, BucketVerb::DeleteVersion] {
        check_denied(&policy, call(verb, "photos/a"), "does not grant", &format!("\"{}\"", verb.name()));
    }
    let restore = self::policy(on(Verb::Restore), vec![reader()]);
    check_denied(&restore, call(BucketVerb::Read, "photos/a"), "not granted for restore", "verbs = [");
}

#[test]
fn any_grant_of_a_bucket_that_holds_allows() {
    let both = || vec![reader(), writer()];
    check_allowed(&policy(on(Verb::Backup), both()), call(BucketVerb::Read, "photos/a"));
    check_denied(&policy(on(Verb::Backup), both()), call(BucketVerb::Write, "photos/a"), "not granted for backup", "");
    check_allowed(&policy(on(Verb::Restore), both()), call(BucketVerb::Write, "new/a"));
    let restore = policy(on(Verb::Restore), both());
    check_denied(
        &restore,
        call(BucketVerb::Overwrite, "new/a"),
        "does not grant overwrite",
        r#""write", "overwrite"]"#,
    );
    let plan = Occasion { verb: Verb::Restore, plan_only: true };
    check_denied(&policy(plan, both()), call(BucketVerb::Write, "new/a"), "a plan changes nothing", "");
    check_denied(&policy(plan, vec![writer()]), call(BucketVerb::Write, "new/a"), "a plan changes nothing", "");
}

#[test]
fn a_grant_that_reads_gives_no_verb_that_changes() {
    for verb in ALL.into_iter().filter(|verb| verb.changes()) {
        let grant = BucketGrant { may: BTreeSet::from(ALL), when: when(Verb::Restore, Effect::Reads), ..writer() };
        let call = BucketCall { part: Some("versioning"), ..call(verb, "a") };
        check_denied(&policy(on(Verb::Restore), vec![grant]), call, "only reads", "effect = \"changes\"");
    }
}

#[test]
fn a_part_of_the_configuration_that_gives_power_is_not_granted_with_the_rest() {
    let grant = BucketGrant { may: BTreeSet::from(ALL), ..writer() };
    let policy = policy(on(Verb::Restore), vec![grant]);
    let part = |verb, part| BucketCall { bucket: "media", verb: Some(verb), key: None, part };
    check_allowed(&policy, part(BucketVerb::WriteConfig, Some("versioning")));
    check_allowed(&policy, part(BucketVerb::ReadConfig, Some("policy")));
    check_denied(&policy, part(BucketVerb::WriteConfig, None), "names no part", "");
    for name in ["policy", "acl", "ACL", "notification", "replication", "lifecycle", "website"] {
        check_denied(&policy, part(BucketVerb::WriteConfig, Some(name)), "gives power", "");
    }
}

#[test]
fn a_bucket_grant_says_everything_that_is_wrong_with_it() {
    assert_eq!(reader().check(), []);
    assert_eq!(writer().check(), []);
    for (grant, key) in [
        (BucketGrant { may: BTreeSet::new(), ..reader() }, "may"),
        (BucketGrant { may: BTreeSet::from([BucketVerb::Delete]), ..reader() }, "effect"),
        (BucketGrant { prefixes: Vec::new(), ..reader() }, "prefixes"),
        (BucketGrant { prefixes: vec!["a/../".to_owned()], ..reader() }, "prefixes"),
        (BucketGrant { inspect: true, ..writer() }, "inspect"),
        (BucketGrant { when: when(Verb::Diagnose, Effect::Changes), ..writer() }, "effect"),
    ] {
        let mistakes = grant.check();
        assert!(mistakes.iter().any(|mistake| mistake.key == key), "{key}: {mistakes:#?}");
    }
}

#[test]
fn artifacts_are_stored_by_backup_and_read_back_by_verify_and_restore() {
    use ArtifactVerb::{Get, Put};
    for (verb, what, allowed) in [
        (Verb::Backup, Put, true),
        (Verb::Backup, Get, false),
        (Verb::Verify, Put, false),
        (Verb::Verify, Get, true),
        (Verb::Restore, Put, false),
        (Verb::Restore, Get, true),
        (Verb::Diagnose, Put, false),
        (Verb::Diagnose, Get, false),
    ] {
        let mut policy = policy(on(verb), Vec::new());
        let call = Call::Artifact(ArtifactCall { verb: what, name: "a.dump" });
        let denied = policy.decide(&call);
        assert!(!denied.allowed && denied.missing.contains("[plugin.bucket.grant.artifacts]"), "{denied:#?}");
        policy.grants.artifacts = Some(ArtifactGrant::default());
        assert_eq!(policy.decide(&call).allowed, allowed, "{verb:?} {what:?}");
    }
}

#[test]
fn inspect_is_given_by_the_grant_that_allows_the_call() {
    let eyes = BucketGrant { inspect: true, prefixes: vec!["docs/".to_owned()], ..reader() };
    let both = policy(on(Verb::Backup), vec![reader(), eyes.clone()]);
    assert!(both.inspects_object("media", "docs/a"));
    assert!(!both.inspects_object("media", "photos/a"));
    assert!(!both.inspects_object("other", "docs/a"));
    assert!(!policy(on(Verb::Verify), vec![eyes]).inspects_object("media", "docs/a"));

    let mut verify = policy(on(Verb::Verify), Vec::new());
    assert!(!verify.inspects_artifact("globals.json"));
    let inspect = vec![SlotRule::pattern("globals[.]json").unwrap()];
    verify.grants.artifacts = Some(ArtifactGrant { inspect, requested: None });
    assert!(verify.inspects_artifact("globals.json"));
    assert!(!verify.inspects_artifact("shop.dump"));
    assert!(!verify.inspects_artifact("globalsxjson"));
    verify.occasion = on(Verb::Backup);
    assert!(!verify.inspects_artifact("globals.json"));
}

#[test]
fn owners_are_kept_only_where_a_holding_grant_says_so() {
    let owners = || BucketGrant {
        may: BTreeSet::from([BucketVerb::Write, BucketVerb::Owners]),
        prefixes: vec!["new/".to_owned()],
        ..writer()
    };
    let restore = policy(on(Verb::Restore), vec![writer(), owners()]);
    assert!(restore.keeps_owners("media", "new/a"));
    assert!(!restore.keeps_owners("media", "old/a"), "the prefix is another one");
    assert!(!restore.keeps_owners("other", "new/a"), "the bucket is another one");
    for (name, policy) in [
        ("write alone", policy(on(Verb::Restore), vec![writer()])),
        ("another verb", policy(on(Verb::Verify), vec![owners()])),
        ("a plan", policy(Occasion { verb: Verb::Restore, plan_only: true }, vec![owners()])),
        (
            "reads",
            policy(on(Verb::Restore), vec![BucketGrant { when: when(Verb::Restore, Effect::Reads), ..owners() }]),
        ),
    ] {
        assert!(!policy.keeps_owners("media", "new/a"), "{name}");
    }
}
