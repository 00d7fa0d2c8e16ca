use super::*;
use crate::policy::exec::ExecCall;
use crate::policy::{Grants, Occasion, Policy};
use serde_json::json;
use std::collections::BTreeMap;
use std::sync::Arc;

fn patterns(texts: &[&str]) -> Vec<Pattern> {
    texts.iter().map(|text| Pattern::parse(text).unwrap()).collect()
}

fn bounds() -> Bounds {
    Bounds { verbs: BTreeSet::new(), effect: Effect::Reads, inspect: false }
}

/// psql, with its settings file left out, one variable and one family of queries.
fn psql() -> ExecRule {
    ExecRule {
        place: Place { line: 7, span: 0..4 },
        program: Pattern::parse("/usr/lib/postgresql/[0-9]+/bin/psql").unwrap(),
        args: Some(patterns(&["-X", "-At", "--dbname=[a-z]+"])),
        must_have: vec!["-X".to_owned()],
        env: Some(patterns(&["PG[A-Z]+"])),
        dangerous_env: BTreeSet::new(),
        secrets: Some(patterns(&["PGPASSWORD"])),
        stdin_from_plugin: false,
        stdin_text: Vec::new(),
        bounds: bounds(),
    }
}

fn ceiling(rule: ExecRule) -> Ceiling {
    Ceiling { file: "ceiling.toml".to_owned(), exec: Allowed::Rules(vec![rule]), ..Ceiling::default() }
}

fn pair(variable: &str, secret: &str) -> BTreeMap<String, String> {
    BTreeMap::from([(variable.to_owned(), secret.to_owned())])
}

fn grant() -> ExecGrant {
    ExecGrant {
        args: ["-X", "-At", "--dbname={database}"].map(|text| Template::parse(text).unwrap()).into(),
        env: BTreeMap::from([("PGOPTIONS".to_owned(), Template::parse("x").unwrap())]),
        slots: BTreeMap::from([("database".to_owned(), SlotRule::pattern("[a-z/=:]+").unwrap())]),
        secrets: vec!["PGPASSWORD".to_owned()],
        ..ExecGrant::reading("/usr/lib/postgresql/18/bin/psql")
    }
}

#[test]
fn a_grant_within_the_ceiling_is_allowed_and_every_way_over_it_is_named() {
    assert_eq!(ceiling(psql()).exec_grant(&grant()), Ok(()));
    let args = |args: &[&str]| args.iter().map(|text| Template::parse(text).unwrap()).collect();
    let changes = When { effect: Effect::Changes, ..grant().when };
    for (key, grant) in [
        ("program", ExecGrant { program: "/usr/lib/postgresql/18/bin/../../../../../bin/sh".to_owned(), ..grant() }),
        ("program", ExecGrant { program: "/tmp/usr/lib/postgresql/18/bin/psql".to_owned(), ..grant() }),
        ("program", ExecGrant { program: "/usr/lib/postgresql/18/bin/psql2".to_owned(), ..grant() }),
        ("args", ExecGrant { args: args(&["-X", "-c", "DROP TABLE x"]), ..grant() }),
        ("args", ExecGrant { args: args(&["-At"]), ..grant() }),
        ("env", ExecGrant { env: BTreeMap::from([("EVIL".to_owned(), Template::parse("x").unwrap())]), ..grant() }),
        ("secrets", ExecGrant { secrets: vec!["AWS_SECRET".to_owned()], ..grant() }),
        ("secrets", ExecGrant { secret_files: pair("PGDATABASE", "AWS_SECRET"), ..grant() }),
        ("env", ExecGrant { secret_files: pair("EVIL", "PGPASSWORD"), ..grant() }),
        ("stdin", ExecGrant { stdin: StdinGrant::Plugin, ..grant() }),
        ("stdin", ExecGrant { stdin: StdinGrant::Text { text: "\\! sh\n".to_owned(), hold: false }, ..grant() }),
        ("inspect", ExecGrant { inspect: true, ..grant() }),
        ("effect", ExecGrant { when: changes, ..grant() }),
    ] {
        let over = ceiling(psql()).exec_grant(&grant).expect_err(key);
        assert_eq!(over.key, key, "{over:?}");
        assert_eq!(over.at(), if key == "program" { "ceiling.toml" } else { "ceiling.toml:7" });
        assert!(!over.reason.is_empty());
    }
    let only_verify = ExecRule { bounds: Bounds { verbs: [Verb::Verify].into(), ..bounds() }, ..psql() };
    assert_eq!(ceiling(only_verify).exec_grant(&grant()).unwrap_err().key, "verbs");
}

#[test]
fn what_a_ceiling_does_not_name_cannot_be_granted_and_any_is_not_limited() {
    let nothing = Ceiling { file: "c".to_owned(), ..Ceiling::default() };
    assert!(nothing.exec_grant(&grant()).unwrap_err().reason.contains("does not name \"exec\""));
    assert!(nothing.artifact_grant(&ArtifactGrant::default()).is_err());
    let any = Ceiling { exec: Allowed::Any, artifacts: Allowed::Any, ..nothing };
    assert_eq!(any.exec_grant(&ExecGrant { program: "/bin/sh".to_owned(), ..grant() }), Ok(()));
    assert_eq!(any.artifact_grant(&ArtifactGrant::default()), Ok(()));
}

/// The decision on a call that fills the slot `database`, under these ceilings.
fn decide(ceilings: &[Ceiling], database: &str) -> Result<(), String> {
    let policy = Policy {
        plugin: "pg".to_owned(),
        grants: Grants {
            // With a secret no grant would let such a slot be a URI.
            exec: [("query".to_owned(), ExecGrant { secrets: Vec::new(), ..grant() })].into(),
            ceilings: ceilings.iter().cloned().map(Arc::new).collect(),
            ..Grants::default()
        },
        occasion: Occasion { verb: Verb::Backup, plan_only: false },
        settings: json!({}),
    };
    let slots = [("database".to_owned(), database.to_owned())];
    let call = ExecCall { command: "query", slots: &slots, stdin: None, reads_output: false, program: None };
    policy.command_line(&call, None).map(drop).map_err(|decision| format!("{} {}", decision.rule, decision.reason))
}

#[test]
fn arguments_with_slots_are_held_against_the_ceiling_at_each_call() {
    assert_eq!(decide(&[ceiling(psql())], "shop"), Ok(()));
    let refused = decide(&[ceiling(psql())], "postgres://evil").unwrap_err();
    assert!(
        refused.contains("under the ceiling ceiling.toml:7") && refused.contains("none of the ceiling's"),
        "{refused}"
    );
    assert_eq!(decide(&[], "postgres://evil"), Ok(()), "without a ceiling the grant decides");
}

#[test]
fn the_scratch_directory_is_the_same_in_every_run() {
    let rule = ExecRule { args: Some(patterns(&["--dir=[{]scratch[}]"])), must_have: Vec::new(), ..psql() };
    let grant =
        ExecGrant { args: vec![Template::parse("--dir={scratch}").unwrap()], slots: BTreeMap::new(), ..grant() };
    let policy = Policy {
        plugin: "pg".to_owned(),
        grants: Grants {
            exec: [("dump".to_owned(), grant)].into(),
            ceilings: vec![Arc::new(ceiling(rule))],
            ..Grants::default()
        },
        occasion: Occasion { verb: Verb::Backup, plan_only: false },
        settings: json!({}),
    };
    let call = ExecCall { command: "dump", slots: &[], stdin: None, reads_output: false, program: None };
    for path in ["/tmp/strongroom-1", "/scratch"] {
        let line = policy.command_line(&call, Some(path)).unwrap();
        assert_eq!(line.args, [format!("--dir={path}")], "what runs has the real path");
    }
    assert!(policy.decide(&crate::policy::Call::Exec(call)).allowed);
}

#[test]
fn a_second_ceiling_takes_away_and_never_gives() {
    let any = Ceiling { file: "any".to_owned(), exec: Allowed::Any, ..Ceiling::default() };
    let nothing = Ceiling { file: "nothing".to_owned(), ..Ceiling::default() };
    assert!(decide(&[ceiling(psql()), any.clone()], "postgres://evil").is_err());
    assert!(decide(&[any.clone(), ceiling(psql())], "postgres://evil").is_err());
    assert!(decide(&[any.clone(), nothing], "shop").is_err());
    assert_eq!(decide(&[any, ceiling(psql())], "shop"), Ok(()));
}

fn bucket(may: &[BucketVerb], effect: Effect) -> BucketGrant {
    BucketGrant {
        may: may.iter().copied().collect(),
        prefixes: vec![String::new()],
        inspect: false,
        when: When { verbs: [Verb::Restore].into(), effect, scratch: false },
    }
}

#[test]
fn buckets_are_compared_by_their_place() {
    let rule = BucketRule {
        place: Place::default(),
        path: PathBuf::from("/srv/data"),
        may: [BucketVerb::List, BucketVerb::Read, BucketVerb::Write].into(),
        bounds: Bounds { effect: Effect::Changes, ..bounds() },
    };
    let ceiling = Ceiling { buckets: Allowed::Rules(vec![rule]), ..Ceiling::default() };
    let reads = bucket(&[BucketVerb::Read], Effect::Reads);
    for (path, allowed) in [
        ("/srv/data", true),
        ("/srv/data/shop", true),
        ("/srv/database", false),
        ("/srv", false),
        ("/srv/data/../../etc", false),
    ] {
        assert_eq!(ceiling.bucket_grant(Path::new(path), &reads).is_ok(), allowed, "{path}");
    }
    let place = Path::new("/srv/data");
    assert!(ceiling.bucket_grant(place, &bucket(&[BucketVerb::Write], Effect::Changes)).is_ok());
    assert_eq!(ceiling.bucket_grant(place, &bucket(&[BucketVerb::Delete], Effect::Changes)).unwrap_err().key, "may");
    assert_eq!(ceiling.bucket_grant(place, &BucketGrant { inspect: true, ..reads }).unwrap_err().key, "inspect");
}

#[test]
fn clusters_and_metrics_are_known_to_a_ceiling() {
    let kube = KubeRule {
        place: Place::default(),
        server: Pattern::parse("https://prod[.]example[.]org").unwrap(),
        may: [KubeVerb::List, KubeVerb::Get].into(),
        kinds: ["*".to_owned(), "/Pod".to_owned()].into(),
        namespaces: Some(patterns(&["shop-.*"])),
        exec_credentials: false,
        bounds: bounds(),
    };
    let metrics = MetricsRule { place: Place::default(), prefixes: vec!["shop_".to_owned()], query: patterns(&["up"]) };
    let ceiling =
        Ceiling { kube: Allowed::Rules(vec![kube]), metrics: Allowed::Rules(vec![metrics]), ..Ceiling::default() };
    let when = When { verbs: [Verb::Backup].into(), effect: Effect::Reads, scratch: false };
    let grant = |kind: &str, namespace: &str| KubeGrant {
        may: [KubeVerb::Get].into(),
        kinds: [kind.to_owned()].into(),
        namespaces: (!namespace.is_empty()).then(|| NamePattern::new(namespace)).into_iter().collect(),
        names: Vec::new(),
        labels: BTreeMap::new(),
        inspect: false,
        secret_data: false,
        when: when.clone(),
    };
    let server = "https://prod.example.org";
    assert_eq!(ceiling.kube_grant(server, &grant("/ConfigMap", "shop-a")), Ok(()));
    assert_eq!(ceiling.kube_grant(server, &grant("/Pod", "shop-a")), Ok(()), "it is named");
    for covered in ["shop-*", "shop-eu-*", "shop-*-test"] {
        assert_eq!(ceiling.kube_grant(server, &grant("/ConfigMap", covered)), Ok(()), "{covered}");
    }
    let shows = KubeGrant { secret_data: true, ..grant("/Pod", "shop-a") };
    assert_eq!(ceiling.kube_grant(server, &shows).unwrap_err().key, "inspect", "values of Secrets are bytes as well");
    for (server, kind, namespace, key) in [
        ("https://prod.example.org.evil", "/ConfigMap", "shop-a", "cluster"),
        (server, "/Secret", "shop-a", "kinds"),
        (server, "/ConfigMap", "kube-system", "namespaces"),
        (server, "/ConfigMap", "", "namespaces"),
        // What could stand for another namespace is not covered.
        (server, "/ConfigMap", "*", "namespaces"),
        (server, "/ConfigMap", "sho*", "namespaces"),
        (server, "/ConfigMap", "*shop-a", "namespaces"),
    ] {
        assert_eq!(ceiling.kube_grant(server, &grant(kind, namespace)).unwrap_err().key, key, "{kind} {namespace}");
    }
    let metrics = |prefix: &str, query: &str| MetricsGrant {
        prefix: Some(prefix.to_owned()),
        query: [query.to_owned()].into(),
        labels: Default::default(),
        when: when.clone(),
    };
    assert_eq!(ceiling.metrics_grant(&metrics("shop_orders", "up")), Ok(()));
    assert_eq!(ceiling.metrics_grant(&metrics("node_", "up")).unwrap_err().key, "prefix");
    assert_eq!(ceiling.metrics_grant(&metrics("shop_", "secrets")).unwrap_err().key, "query");
}
