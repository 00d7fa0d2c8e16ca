use super::*;
use crate::plugin::manifest::{RawSlot, RawStdin};

const DOCUMENT: &str = r#"# Ours. Ask ops before changing anything.

[plugin.other]              # stays
source = "other.wasm"

[plugin.postgres]
source = "postgres.wasm"    # built by CI
sha256 = "old"              # approved by hand

# The dump itself.
[plugin.postgres.grant.exec.pg_dump]
program = "/usr/bin/pg_dump"
args = [
    "--format=custom",      # never plain
    "--compress=none",
]
verbs = ["backup"]          # nothing else
effect = "reads"

# Goes away.
[plugin.postgres.grant.exec.psql]
program = "/usr/bin/psql"
verbs = ["backup"]
effect = "reads"

[job.orders]                # last
plugin = "postgres"
"#;

fn exec(program: &str, args: &[&str]) -> RawExec {
    RawExec {
        program: program.to_owned(),
        sha256: None,
        grant: RawExecGrant {
            args: args.iter().map(|arg| (*arg).to_owned()).collect(),
            verbs: [Verb::Backup].into(),
            effect: Some(Effect::Reads),
            ..RawExecGrant::default()
        },
    }
}

fn bucket(verb: Verb, effect: Effect) -> RawBucket {
    let may = match effect {
        Effect::Reads => [BucketVerb::List, BucketVerb::Read].into(),
        Effect::Changes => [BucketVerb::Write].into(),
    };
    RawBucket { may, prefixes: Vec::new(), inspect: false, verbs: [verb].into(), effect, scratch: false }
}

/// One of everything.
fn all() -> RawGrants {
    let mut dump = exec("/usr/lib/postgresql/18/bin/pg_dump", &["--format=custom", "--snapshot={snapshot}"]);
    dump.grant.env = [("PGDATABASE".to_owned(), "{database}".to_owned())].into();
    dump.grant.slots = [
        (
            "database".to_owned(),
            RawSlot::Table {
                pattern: None,
                glob: None,
                setting: Some("databases".to_owned()),
                max_bytes: Some(63),
                max_count: None,
            },
        ),
        ("snapshot".to_owned(), RawSlot::Pattern("[0-9A-F-]{1,40}".to_owned())),
    ]
    .into();
    dump.grant.secrets = vec!["PGPASSWORD".to_owned()];
    dump.grant.timeout = Some("10m".to_owned());
    let mut restore = exec("/usr/bin/pg_restore", &["--list"]);
    restore.grant.stdin = Some(RawStdin::Artifact { artifact: ".*[.]dump".to_owned(), made_by: "pg_dump".to_owned() });
    restore.grant.verbs = [Verb::Verify].into();
    restore.grant.scratch = true;
    let mut sql = exec(
        "/usr/bin/psql",
        &[
            "-X",
            "-At",
            "--set=ON_ERROR_STOP=1",
            "--no-psqlrc",
            "--quiet",
            "--tuples-only",
            "--no-align",
            "--field-separator-zero",
        ],
    );
    sql.grant.stdin = Some(RawStdin::Text { text: "SELECT \"x\";\n".to_owned(), hold: true });
    RawGrants {
        exec: [("pg_dump".to_owned(), dump), ("pg_restore".to_owned(), restore), ("counts".to_owned(), sql)].into(),
        bucket: [
            ("one".to_owned(), vec![bucket(Verb::Backup, Effect::Reads)]),
            ("two".to_owned(), vec![bucket(Verb::Backup, Effect::Reads), bucket(Verb::Restore, Effect::Changes)]),
        ]
        .into(),
        kube: BTreeMap::new(),
        artifacts: Some(RawArtifacts { inspect: vec!["globals[.]sql".to_owned()] }),
        scratch: None,
        metrics: Some(RawMetrics { prefix: Some("postgres_".to_owned()), ..RawMetrics::default() }),
    }
}

/// Approves, and checks that approving the same again changes nothing.
fn check_stable(document: &str, grants: &RawGrants) -> String {
    let once = approve(document, "postgres", "new", grants).unwrap();
    assert_eq!(approve(&once, "postgres", "new", grants).unwrap(), once, "not stable");
    once
}

#[test]
fn a_digest_of_a_program_is_found_and_stays_as_it_is_written() {
    let digest = "AB".repeat(32);
    let pinned = DOCUMENT.replace(
        "program = \"/usr/bin/pg_dump\"\n",
        &format!("program = \"/usr/bin/pg_dump\"\nsha256 = \"{digest}\"   # of 18.1\n"),
    );
    let pinned = pinned.replace("program = \"/usr/bin/psql\"\n", "program = \"/usr/bin/psql\"\nsha256 = \"none\"\n");
    let found = pins(&pinned, "postgres");
    assert_eq!(found, BTreeMap::from([("pg_dump".to_owned(), ("/usr/bin/pg_dump".to_owned(), digest.clone()))]));
    assert_eq!((pins(DOCUMENT, "postgres"), pins("[", "postgres")), (BTreeMap::new(), BTreeMap::new()));
    let mut dump = exec("/usr/bin/pg_dump", &["--format=custom", "--compress=none", "--verbose"]);
    dump.sha256 = Some(digest.clone());
    let grants = RawGrants { exec: [("pg_dump".to_owned(), dump.clone())].into(), ..RawGrants::default() };
    let edited = check_stable(&pinned, &grants);
    assert!(edited.contains(&format!("sha256 = \"{digest}\"   # of 18.1\n")), "{edited}");
    assert!(edited.contains("--verbose"), "{edited}");
    dump.sha256 = Some("00".repeat(32));
    let grants = RawGrants { exec: [("pg_dump".to_owned(), dump)].into(), ..RawGrants::default() };
    assert!(check_stable(DOCUMENT, &grants).contains(&format!("sha256 = \"{}\"", "00".repeat(32))));
}

#[test]
fn comments_and_formatting_survive_and_only_what_changed_changes() {
    let grants = RawGrants {
        exec: [(
            "pg_dump".to_owned(),
            exec("/usr/lib/postgresql/18/bin/pg_dump", &["--format=custom", "--compress=none"]),
        )]
        .into(),
        ..RawGrants::default()
    };
    let edited = check_stable(DOCUMENT, &grants);
    insta::assert_snapshot!(super::super::diff::unified("strongroom.toml", DOCUMENT, &edited), @r#"
    --- a/strongroom.toml
    +++ b/strongroom.toml
    @@ -5,22 +5,16 @@
     
     [plugin.postgres]
     source = "postgres.wasm"    # built by CI
    -sha256 = "old"              # approved by hand
    +sha256 = "new"              # approved by hand
     
     # The dump itself.
     [plugin.postgres.grant.exec.pg_dump]
    -program = "/usr/bin/pg_dump"
    +program = "/usr/lib/postgresql/18/bin/pg_dump"
     args = [
         "--format=custom",      # never plain
         "--compress=none",
     ]
     verbs = ["backup"]          # nothing else
    -effect = "reads"
    -
    -# Goes away.
    -[plugin.postgres.grant.exec.psql]
    -program = "/usr/bin/psql"
    -verbs = ["backup"]
     effect = "reads"
     
     [job.orders]                # last
    "#);
}

#[test]
fn everything_that_can_be_granted_is_written_and_means_what_was_approved() {
    let document = "[plugin.postgres]\nsource = \"p.wasm\"\n\n[bucket]\none = { type = \"local\", path = \"1\" }\ntwo = { type = \"local\", path = \"2\" }\n";
    let digest = "ab".repeat(32);
    let edited = approve(document, "postgres", &digest, &all()).unwrap();
    assert_eq!(approve(&edited, "postgres", &digest, &all()).unwrap(), edited, "not stable");
    let path = std::path::Path::new("strongroom.toml");
    let config = crate::config::Config::parse(&edited, path, std::path::Path::new("/")).unwrap_or_else(|error| {
        panic!("what was written is refused: {error:?}\n{edited}");
    });
    let (_, plugin) = config.plugin("postgres").unwrap();
    assert_eq!(plugin.sha256.as_deref(), Some(digest.as_str()));
    assert_eq!(plugin.grants.exec.len(), 3);
    assert_eq!(plugin.grants.exec["pg_dump"].slots["database"].max_bytes, 63);
    assert!(plugin.grants.exec["pg_restore"].when.scratch);
    assert_eq!(plugin.grants.buckets["two"].len(), 2);
    insta::assert_snapshot!(edited);
}

#[test]
fn approving_what_is_approved_changes_nothing_however_it_is_written() {
    let written = r#"plugin.postgres.source = "p.wasm"
[plugin.postgres.grant.exec.pg_dump]
effect = "reads"
verbs = ["backup"]
inspect = false
args = ['--format=custom']
program = '''/usr/bin/pg_dump'''
"#;
    let sha = written.replacen("plugin.postgres.source", "plugin.postgres.sha256 = \"new\"\nplugin.postgres.source", 1);
    let grants = RawGrants {
        exec: [("pg_dump".to_owned(), exec("/usr/bin/pg_dump", &["--format=custom"]))].into(),
        ..RawGrants::default()
    };
    for text in [
        sha.as_str(),
        "[plugin]\n# above\npostgres = { source = \"p\", sha256 = \"new\", grant = { exec = { pg_dump = { program = \"/usr/bin/pg_dump\", args = [\"--format=custom\"], slots = {}, verbs = [\"backup\"], effect = \"reads\" } } } }\n",
    ] {
        match text.parse::<DocumentMut>() {
            Ok(_) => assert_eq!(approve(text, "postgres", "new", &grants).unwrap(), text),
            Err(error) => panic!("the test's own document: {error}\n{text}"),
        }
    }
}

#[test]
fn a_grant_replaces_and_never_adds() {
    let edited = check_stable(DOCUMENT, &RawGrants::default());
    assert!(!edited.contains("grant"), "{edited}");
    assert!(edited.contains("# Ours.") && edited.contains("# last"), "{edited}");
    let three = check_stable(DOCUMENT, &all());
    let two = RawGrants { bucket: BTreeMap::new(), ..all() };
    assert!(!check_stable(&three, &two).contains("grant.bucket"));
    let one = RawGrants { artifacts: None, metrics: None, ..two };
    let none = check_stable(&three, &one);
    assert!(!none.contains("artifacts") && !none.contains("metrics"), "{none}");
}

#[test]
fn a_part_that_is_no_longer_granted_is_taken_out_of_its_grant() {
    let document = "[plugin.postgres]\nsource = \"p\"\n[plugin.postgres.grant.exec.pg_dump]\nprogram = \"/usr/bin/pg_dump\"\nverbs = [\"backup\"]\neffect = \"reads\"\ninspect = true\nenv = { A = \"b\" }\n";
    let grants =
        RawGrants { exec: [("pg_dump".to_owned(), exec("/usr/bin/pg_dump", &[]))].into(), ..RawGrants::default() };
    let edited = check_stable(document, &grants);
    assert!(!edited.contains("inspect") && !edited.contains("env"), "{edited}");
}

#[test]
fn a_plugin_that_is_not_configured_and_what_is_not_toml_are_refused() {
    use crate::error::Kind;
    let refused = |document: &str| approve(document, "postgres", "new", &all()).unwrap_err().kind();
    assert_eq!(refused(""), Kind::NotFound);
    assert_eq!(refused("[plugin.other]\n"), Kind::NotFound);
    assert_eq!(refused("plugin = 3\n"), Kind::NotFound);
    assert_eq!(refused("[[plugin]]\npostgres = {}\n"), Kind::NotFound);
    assert_eq!(refused("[plugin\n"), Kind::Invalid);
    assert_eq!(refused("[plugin]\npostgres = 3\n"), Kind::Invalid);
    assert_eq!(refused("[plugin.postgres]\ngrant = 3\n"), Kind::Invalid);
}

#[test]
fn a_plugin_that_is_written_inline_gets_tables_of_its_own() {
    let document = "# Ours.\n[plugin]\n# above\npostgres = { source = \"p.wasm\" } # inline\n\n[job.orders]\nplugin = \"postgres\"\n";
    let grants =
        RawGrants { exec: [("pg_dump".to_owned(), exec("/usr/bin/pg_dump", &[]))].into(), ..RawGrants::default() };
    insta::assert_snapshot!(check_stable(document, &grants), @r#"
    # Ours.
    [plugin]
    # above
    [plugin.postgres] # inline
    source = "p.wasm"
    sha256 = "new"

    [plugin.postgres.grant.exec.pg_dump]
    program = "/usr/bin/pg_dump"
    verbs = ["backup"]
    effect = "reads"

    [job.orders]
    plugin = "postgres"
    "#);
    let whole = "plugin = { postgres = { source = \"p.wasm\" } }\n";
    insta::assert_snapshot!(check_stable(whole, &RawGrants::default()), @r#"
    [plugin.postgres]
    source = "p.wasm"
    sha256 = "new"
    "#);
}

#[test]
fn a_scratch_directory_is_granted_changed_and_taken_away() {
    let before = "[plugin.p]\nsource = \"p.wasm\"\n";
    let scratch = |bytes: &str| RawGrants {
        scratch: Some(RawScratch { bytes: bytes.to_owned(), verbs: [Verb::Backup].into() }),
        ..RawGrants::default()
    };
    let granted = approve(before, "p", "aa", &scratch("64MiB")).unwrap();
    assert!(granted.contains("[plugin.p.grant.scratch]\nbytes = \"64MiB\"\nverbs = [\"backup\"]\n"), "{granted}");
    assert_eq!(approve(&granted, "p", "aa", &scratch("64MiB")).unwrap(), granted);
    assert!(approve(&granted, "p", "bb", &scratch("1MiB")).unwrap().contains("bytes = \"1MiB\""));
    let without = approve(&granted, "p", "bb", &RawGrants::default()).unwrap();
    assert!(!without.contains("scratch"), "{without}");
}
