use super::super::Verb;
use super::*;
use crate::policy::{Call, Grants};
use proptest::prelude::*;

const BACKUP: Occasion = Occasion { verb: Verb::Backup, plan_only: false };
const RESTORE: Occasion = Occasion { verb: Verb::Restore, plan_only: false };
const PLAN: Occasion = Occasion { verb: Verb::Restore, plan_only: true };

fn set(words: &[&str]) -> BTreeSet<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

fn patterns(words: &[&str]) -> Vec<NamePattern> {
    words.iter().map(|word| NamePattern::new(*word)).collect()
}

fn grant(may: &[KubeVerb], kinds: &[&str]) -> KubeGrant {
    let changes = may.iter().any(|verb| verb.changes());
    KubeGrant {
        may: may.iter().copied().collect(),
        kinds: set(kinds),
        namespaces: patterns(&["shop"]),
        names: Vec::new(),
        labels: BTreeMap::new(),
        inspect: false,
        secret_data: false,
        when: When {
            verbs: [Verb::Backup, Verb::Verify, Verb::Restore, Verb::Diagnose].into(),
            effect: if changes { Effect::Changes } else { Effect::Reads },
            scratch: false,
        },
    }
}

fn policy(grants: Vec<KubeGrant>, occasion: Occasion) -> Policy {
    let grants = Grants { kube: [("prod".to_owned(), grants)].into(), ..Grants::default() };
    Policy { plugin: "kube".to_owned(), grants, occasion, settings: serde_json::Value::Null }
}

fn object<'a>(kind: &'a str, namespace: Option<&'a str>, name: Option<&'a str>) -> KubeObject<'a> {
    KubeObject { kind, namespaced: namespace.is_some(), namespace, name, labels: None }
}

fn decided(grants: &[KubeGrant], verb: KubeVerb, object: KubeObject<'_>, occasion: Occasion) -> Decision {
    let policy = policy(grants.to_vec(), occasion);
    let call = KubeCall { cluster: "prod", verb: Some(verb), objects: &[object] };
    let decision = policy.decide(&Call::Kube(call));
    assert!(decision.rule == "plugin.kube.grant.kube.prod" && !decision.reason.is_empty());
    assert_eq!(decision.allowed, policy.kube_allows("prod", verb, &object), "both ways agree");
    decision
}

fn allowed(grant: &KubeGrant, verb: KubeVerb, kind: &str, namespace: Option<&str>, occasion: Occasion) -> bool {
    decided(std::slice::from_ref(grant), verb, object(kind, namespace, Some("x")), occasion).allowed
}

#[test]
fn kinds_that_give_power_are_covered_only_when_named() {
    let all = grant(&[KubeVerb::List, KubeVerb::Get], &["*"]);
    assert!(allowed(&all, KubeVerb::Get, "/ConfigMap", Some("shop"), BACKUP));
    for kind in
        ["/Secret", "/TokenSecret", "/Pod", "apps/Deployment", "rbac.authorization.k8s.io/ClusterRole", "/secret"]
    {
        assert!(is_powerful(kind), "{kind}");
        assert!(!allowed(&all, KubeVerb::Get, kind, Some("shop"), BACKUP), "{kind}");
        let named = grant(&[KubeVerb::Get], &["*", kind]);
        assert!(allowed(&named, KubeVerb::Get, kind, Some("shop"), BACKUP), "{kind}");
    }
    let secrets = grant(&[KubeVerb::Apply], &["/Secret"]);
    assert!(!allowed(&secrets, KubeVerb::Apply, TOKEN_SECRET, Some("shop"), RESTORE), "a token is more than a Secret");
}

#[test]
fn nothing_outside_the_granted_namespaces_names_and_verbs_is_reached() {
    let get = grant(&[KubeVerb::Get], &["/ConfigMap", "/Node"]);
    assert!(!allowed(&get, KubeVerb::Get, "/ConfigMap", Some("kube-system"), BACKUP));
    assert!(!allowed(&get, KubeVerb::Get, "/Node", None, BACKUP), "what lies in none is in none of them");
    assert!(!allowed(&get, KubeVerb::List, "/ConfigMap", Some("shop"), BACKUP));
    assert!(!allowed(&get, KubeVerb::Get, "/Service", Some("shop"), BACKUP));
    let named = KubeGrant { names: patterns(&["y*"]), ..get };
    assert!(!allowed(&named, KubeVerb::Get, "/ConfigMap", Some("shop"), BACKUP));
}

#[test]
fn a_namespace_is_the_object_of_its_name() {
    let grant = KubeGrant { namespaces: patterns(&["shop-*"]), ..grant(&[KubeVerb::Get], &["/Namespace"]) };
    let get =
        |name| decided(std::slice::from_ref(&grant), KubeVerb::Get, object("/Namespace", None, Some(name)), BACKUP);
    assert!(get("shop-eu").allowed && !get("kube-system").allowed);
}

#[test]
fn a_list_looks_only_where_it_is_granted() {
    let list = |namespaces: &[&str]| KubeGrant {
        namespaces: patterns(namespaces),
        ..grant(&[KubeVerb::List], &["/ConfigMap"])
    };
    let scope = |grants: Vec<KubeGrant>| policy(grants, BACKUP).kube_scope("prod", "/ConfigMap", true);
    assert_eq!(
        scope(vec![list(&["a"]), list(&["b", "c-*"])]),
        KubeScope::Some { names: set(&["a", "b"]), patterns: patterns(&["c-*"]) }
    );
    assert_eq!(scope(vec![list(&["a"]), list(&[])]), KubeScope::All);
    let other = grant(&[KubeVerb::List], &["/Service"]);
    assert_eq!(scope(vec![other]), KubeScope::Some { names: set(&[]), patterns: Vec::new() });
    // All namespaces at once is a list of those that are granted; each object is looked at again.
    let everywhere = KubeObject { kind: "/ConfigMap", namespaced: true, namespace: None, name: None, labels: None };
    assert!(decided(&[list(&["a"])], KubeVerb::List, everywhere, BACKUP).allowed);
    assert!(!decided(&[list(&["a"])], KubeVerb::List, object("/ConfigMap", Some("b"), Some("x")), BACKUP).allowed);
}

#[test]
fn labels_are_asked_for_once_they_are_known() {
    let labelled = KubeGrant {
        labels: [("app".to_owned(), NamePattern::new("shop*"))].into(),
        ..grant(&[KubeVerb::Get], &["/ConfigMap"])
    };
    let policy = policy(vec![labelled], BACKUP);
    let at = object("/ConfigMap", Some("shop"), Some("x"));
    let with = |value: &str| BTreeMap::from([("app".to_owned(), value.to_owned())]);
    let allows = |labels: &BTreeMap<String, String>| {
        policy.kube_allows("prod", KubeVerb::Get, &KubeObject { labels: Some(labels), ..at })
    };
    assert!(policy.kube_allows("prod", KubeVerb::Get, &at) && policy.kube_asks_for_labels("prod", KubeVerb::Get, &at));
    assert!(allows(&with("shop-1")) && !allows(&with("other")) && !allows(&BTreeMap::new()));
}

#[test]
fn a_cluster_changes_in_a_restore_only_and_never_in_a_plan() {
    for verb in [Verb::Backup, Verb::Verify, Verb::Restore, Verb::Diagnose] {
        for plan_only in [false, true] {
            for deed in [KubeVerb::Apply, KubeVerb::Delete] {
                let grant = grant(&[KubeVerb::Apply, KubeVerb::Delete], &["/ConfigMap"]);
                let is = allowed(&grant, deed, "/ConfigMap", Some("shop"), Occasion { verb, plan_only });
                assert_eq!(is, verb == Verb::Restore && !plan_only, "{verb:?} {plan_only} {deed:?}");
            }
        }
    }
    let reads =
        KubeGrant { when: When { effect: Effect::Reads, ..grant(&[], &[]).when }, ..grant(&[KubeVerb::Apply], &["*"]) };
    assert!(!allowed(&reads, KubeVerb::Apply, "/ConfigMap", Some("shop"), RESTORE));
    assert!(allowed(&reads, KubeVerb::DryRun, "/ConfigMap", Some("shop"), PLAN), "a dry run changes nothing");
    assert_eq!(reads.check()[0].key, "effect");
}

#[test]
fn what_changes_may_be_tried_in_a_plan() {
    let changes = grant(&[KubeVerb::Apply], &["/ConfigMap"]);
    assert!(allowed(&changes, KubeVerb::DryRun, "/ConfigMap", Some("shop"), PLAN));
    assert!(!allowed(&changes, KubeVerb::Apply, "/ConfigMap", Some("shop"), PLAN));
    assert!(!allowed(&changes, KubeVerb::DryRun, "/ConfigMap", Some("shop"), BACKUP), "a backup tries nothing");
}

#[test]
fn bodies_of_secrets_are_read_only_where_their_values_are_shown() {
    let at = object("/Secret", Some("shop"), Some("x"));
    let inspects = |inspect: bool, secret_data: bool| {
        let grant = KubeGrant { inspect, secret_data, ..grant(&[KubeVerb::Get], &["/Secret"]) };
        let policy = policy(vec![grant], BACKUP);
        (policy.kube_inspects("prod", KubeVerb::Get, &at), policy.kube_shows_secret("prod", KubeVerb::Get, &at))
    };
    assert_eq!(inspects(true, false), (false, false));
    assert_eq!(inspects(false, true), (false, true));
    assert_eq!(inspects(true, true), (true, true));
}

#[test]
fn who_may_change_what_gives_power_or_read_every_secret_is_the_administrator() {
    assert!(!grant(&[KubeVerb::Apply], &["*"]).is_administrator());
    assert!(grant(&[KubeVerb::Apply], &["apps/Deployment"]).is_administrator());
    assert!(!grant(&[KubeVerb::Get], &["apps/Deployment"]).is_administrator());
    for namespaces in [patterns(&[]), patterns(&["*"])] {
        let secrets = KubeGrant { secret_data: true, namespaces, ..grant(&[KubeVerb::Get], &["/Secret"]) };
        assert!(secrets.is_administrator());
    }
}

#[test]
fn a_grant_that_means_nothing_is_a_mistake() {
    let keys = |grant: KubeGrant| grant.check().into_iter().map(|mistake| mistake.key).collect::<Vec<_>>();
    assert!(grant(&[], &[]).check().len() >= 2);
    for kinds in [["apps/*"], ["ConfigMap"], ["apps/v1/Deployment"], ["apps/"]] {
        assert_eq!(keys(grant(&[KubeVerb::Get], &kinds)), ["kinds"], "{kinds:?}");
    }
    assert_eq!(keys(KubeGrant { secret_data: true, ..grant(&[KubeVerb::Get], &["/ConfigMap"]) }), ["secret_data"]);
    assert_eq!(keys(grant(&[KubeVerb::Logs], &["/ConfigMap"])), ["may"]);
    assert_eq!(keys(KubeGrant { names: patterns(&["a/b"]), ..grant(&[KubeVerb::Get], &["/ConfigMap"]) }), ["names"]);
}

#[test]
fn a_refusal_says_what_it_would_take() {
    let get = grant(&[KubeVerb::Get], &["/ConfigMap"]);
    let missing = |verb, kind, namespace| {
        let decision = decided(std::slice::from_ref(&get), verb, object(kind, namespace, Some("x")), RESTORE);
        assert!(!decision.allowed);
        decision.missing.lines().skip(1).collect::<Vec<_>>().join("; ")
    };
    assert_eq!(missing(KubeVerb::List, "/ConfigMap", Some("shop")), "may = [\"get\", \"list\"]");
    assert_eq!(
        missing(KubeVerb::Apply, "/ConfigMap", Some("shop")),
        "may = [\"get\", \"apply\"]; effect = \"changes\""
    );
    assert_eq!(missing(KubeVerb::Get, "/Secret", Some("shop")), "kinds = [\"/ConfigMap\", \"/Secret\"]");
    assert_eq!(missing(KubeVerb::Get, "/ConfigMap", Some("other")), "namespaces = [\"shop\", \"other\"]");
    let elsewhere = KubeCall { cluster: "other", verb: None, objects: &[] };
    let decision = policy(vec![get.clone()], RESTORE).decide(&Call::Kube(elsewhere));
    assert!(!decision.allowed && decision.missing.contains("plugin.kube.grant.kube.other"));
}

proptest! {
    #[test]
    fn a_pattern_matches_what_a_regular_expression_would(pattern in "[ab*]{0,6}", text in "[ab]{0,8}") {
        let regex = regex::Regex::new(&format!("^{}$", pattern.replace('*', ".*"))).unwrap();
        prop_assert_eq!(NamePattern::new(pattern.as_str()).admits(&text), regex.is_match(&text), "{} {}", pattern, text);
    }
}
