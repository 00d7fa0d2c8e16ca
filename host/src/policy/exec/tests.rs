use super::*;
use crate::policy::{Call, Effect, Grants, Occasion, Verb};
use serde_json::json;

const BACKUP: Occasion = Occasion { verb: Verb::Backup, plan_only: false };
const RESTORE: Occasion = Occasion { verb: Verb::Restore, plan_only: false };

fn template(text: &str) -> Template {
    Template::parse(text).unwrap()
}

impl ExecGrant {
    /// A program without arguments that reads in backups: what tests begin with.
    pub(crate) fn reading(program: &str) -> Self {
        Self {
            program: program.to_owned(),
            sha256: None,
            args: Vec::new(),
            env: BTreeMap::new(),
            stdin: StdinGrant::None,
            slots: BTreeMap::new(),
            secrets: Vec::new(),
            secret_files: BTreeMap::new(),
            inspect: false,
            when: When { verbs: BTreeSet::from([Verb::Backup]), effect: Effect::Reads, scratch: false },
            partial_stdin: false,
            detects_short_input: false,
            timeout: None,
        }
    }
}

/// `pg_dump` of a database that the job names, as in `docs/exec.md`.
fn pg_dump() -> ExecGrant {
    ExecGrant {
        args: vec![template("--format=custom"), template("--snapshot={snapshot}")],
        env: BTreeMap::from([("PGDATABASE".to_owned(), template("{database}"))]),
        slots: BTreeMap::from([
            ("database".to_owned(), SlotRule::setting("databases").unwrap()),
            ("snapshot".to_owned(), SlotRule::pattern("[0-9A-F-]{1,40}").unwrap()),
        ]),
        secrets: vec!["PGPASSWORD".to_owned()],
        ..ExecGrant::reading("/usr/bin/pg_dump")
    }
}

/// `pg_restore` of a dump that `pg_dump` made.
fn pg_restore() -> ExecGrant {
    ExecGrant {
        program: "/usr/bin/pg_restore".to_owned(),
        args: vec![template("--dbname={database}")],
        env: BTreeMap::new(),
        stdin: StdinGrant::Artifact {
            name: SlotRule::pattern("[a-z]+[.]dump").unwrap(),
            made_by: "pg_dump".to_owned(),
        },
        slots: BTreeMap::from([("database".to_owned(), SlotRule::glob("shop-*").unwrap())]),
        when: When { verbs: BTreeSet::from([Verb::Restore]), effect: Effect::Changes, scratch: false },
        ..pg_dump()
    }
}

fn policy(occasion: Occasion, grants: &[(&str, ExecGrant)]) -> Policy {
    let exec = grants.iter().map(|(label, grant)| ((*label).to_owned(), grant.clone())).collect();
    Policy {
        plugin: "postgres".to_owned(),
        grants: Grants { exec, ..Grants::default() },
        occasion,
        settings: json!({ "databases": ["shop", "billing"] }),
    }
}

fn slots(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn artifact(name: &str, made_by: Origin) -> Origin {
    Origin::Artifact { name: name.to_owned(), made_by: Box::new(made_by) }
}

fn command(label: &str) -> Origin {
    Origin::Exec { command: label.to_owned(), proof: None }
}

fn asks<'a>(command: &'a str, slots: &'a [(String, String)]) -> ExecCall<'a> {
    ExecCall { command, slots, stdin: None, reads_output: false, program: None }
}

fn feeds<'a>(command: &'a str, slots: &'a [(String, String)], stdin: Option<&'a Origin>) -> ExecCall<'a> {
    ExecCall { stdin, ..asks(command, slots) }
}

#[track_caller]
fn check_denied(policy: &Policy, call: &ExecCall<'_>, reason: &str, missing: &str) {
    let decision = policy.decide(&Call::Exec(call.clone()));
    assert!(!decision.allowed, "allowed: {call:?}");
    assert!(decision.rule.starts_with("plugin.postgres.grant.exec."), "{decision:?}");
    assert!(decision.reason.contains(reason), "{decision:#?}");
    assert!(decision.missing.contains(missing), "{decision:#?}");
    assert_eq!(decision.missing.is_empty(), missing.is_empty(), "{decision:#?}");
    assert!(policy.command_line(call, Some("/scratch")).is_err());
}

#[test]
fn a_granted_command_becomes_exactly_the_command_line_of_its_grant() {
    let values = slots(&[("snapshot", "0000-1B"), ("database", "shop")]);
    let call = ExecCall { command: "pg_dump", slots: &values, stdin: None, reads_output: false, program: None };
    let policy = policy(BACKUP, &[("pg_dump", pg_dump())]);
    let line = policy.command_line(&call, None).unwrap();
    assert_eq!(line.program, "/usr/bin/pg_dump");
    assert_eq!(line.args, ["--format=custom", "--snapshot=0000-1B"]);
    assert_eq!(line.env, [("PGDATABASE".to_owned(), "shop".to_owned())]);
    assert_eq!(line.secrets, ["PGPASSWORD"]);
    let decision = policy.decide(&Call::Exec(call));
    assert!(decision.allowed);
    assert_eq!(decision.rule, "plugin.postgres.grant.exec.pg_dump");
    assert_eq!(decision.missing, "");
}

#[test]
fn what_is_not_granted_is_denied_with_what_is_missing() {
    let good = slots(&[("snapshot", "0000-1B"), ("database", "shop")]);
    let backup = policy(BACKUP, &[("pg_dump", pg_dump())]);
    check_denied(&backup, &asks("sh", &[]), "not granted", "[plugin.postgres.grant.exec.sh]");
    check_denied(&backup, &asks("PG_DUMP", &good), "not granted", "[plugin.postgres.grant.exec.PG_DUMP]");
    check_denied(&backup, &asks("a\"]\nb", &[]), "not granted", r#"[plugin.postgres.grant.exec."a\"]\u000Ab"]"#);
    let reads = ExecCall { reads_output: true, ..asks("pg_dump", &good) };
    check_denied(&backup, &reads, "may not read the output", "inspect = true");
    let restore = policy(RESTORE, &[("pg_dump", pg_dump())]);
    check_denied(&restore, &asks("pg_dump", &good), "not granted for restore", r#"verbs = ["backup", "restore"]"#);

    for (bad, reason, missing) in [
        (vec![("snapshot", "0")], "\"database\" is not given", ""),
        (vec![], "is not given", ""),
        (vec![("snapshot", "0"), ("database", "shop"), ("host", "x")], "no slot \"host\"", ""),
        (vec![("snapshot", "0"), ("snapshot", "1"), ("database", "shop")], "given twice", "max_count = 2"),
        (vec![("snapshot", "0 1"), ("database", "shop")], "does not match", "snapshot = \"[0-9A-F-]{1,40}|0 1\""),
        (vec![("snapshot", "0"), ("database", "payroll")], "setting \"databases\"", "databases = [\"payroll\"]"),
        (vec![("snapshot", "0"), ("database", "host=evil dbname=x")], "setting", "databases"),
        (vec![("snapshot", "-x"), ("database", "shop")], "begins with \"-\"", "snapshot"),
        (vec![("snapshot", "0\n"), ("database", "shop")], "control character", ""),
        (vec![("snapshot", "0\0"), ("database", "shop")], "control character", ""),
        (vec![("scratch", "/etc"), ("snapshot", "0"), ("database", "shop")], "the host fills {scratch}", ""),
    ] {
        let bad = slots(&bad);
        check_denied(&backup, &asks("pg_dump", &bad), reason, missing);
    }
    let long = "A".repeat(1 << 20);
    let long = slots(&[("snapshot", &long)]);
    check_denied(&backup, &asks("pg_dump", &long), "1048576 bytes long", "");
}

#[test]
fn a_missing_setting_admits_nothing() {
    let mut policy = policy(BACKUP, &[("pg_dump", pg_dump())]);
    policy.settings = json!({});
    let values = slots(&[("snapshot", "0"), ("database", "shop")]);
    let call = ExecCall { command: "pg_dump", slots: &values, stdin: None, reads_output: false, program: None };
    check_denied(&policy, &call, "does not name it", "databases = [\"shop\"]");
}

#[test]
fn standard_input_is_held_against_where_it_came_from() {
    let values = slots(&[("database", "shop-new")]);
    let policy = policy(RESTORE, &[("pg_restore", pg_restore())]);
    assert!(
        policy
            .decide(&Call::Exec(feeds("pg_restore", &values, Some(&artifact("shop.dump", command("pg_dump"))))))
            .allowed
    );
    for (origin, reason, missing) in [
        (artifact("evil.sql", command("pg_dump")), "does not match", r#"artifact = "evil\\.sql""#),
        (artifact("shop.dump", command("pg_dumpall")), "not made by \"pg_dump\"", "made_by = \"pg_dumpall\""),
        (artifact("shop.dump", Origin::Plugin), "but the plugin", "stdin = \"plugin\""),
        (artifact("shop.dump", artifact("shop.dump", command("pg_dump"))), "not made by", "stdin = \"plugin\""),
        (command("pg_dump"), "artifacts of the backup only", "stdin = \"plugin\""),
        (Origin::Plugin, "artifacts of the backup only", "stdin = \"plugin\""),
        (Origin::Bucket { label: "pg_dump".to_owned() }, "artifacts of the backup only", "stdin = \"plugin\""),
    ] {
        check_denied(&policy, &feeds("pg_restore", &values, Some(&origin)), reason, missing);
    }
    check_denied(&policy, &feeds("pg_restore", &values, None), "none is given", "");
}

#[test]
fn a_command_without_standard_input_takes_none() {
    let values = slots(&[("snapshot", "0"), ("database", "shop")]);
    let text = StdinGrant::Text { text: "SELECT 1;".to_owned(), hold: false };
    for stdin in [StdinGrant::None, text] {
        let policy = policy(BACKUP, &[("pg_dump", ExecGrant { stdin, ..pg_dump() })]);
        assert!(policy.decide(&Call::Exec(feeds("pg_dump", &values, None))).allowed);
        check_denied(&policy, &feeds("pg_dump", &values, Some(&Origin::Plugin)), "takes none", "stdin = \"plugin\"");
    }
}

#[test]
fn a_command_that_reads_the_plugin_takes_any_source_and_needs_one() {
    let grant = ExecGrant { stdin: StdinGrant::Plugin, ..pg_restore() };
    let policy = policy(RESTORE, &[("pg_restore", grant)]);
    let values = slots(&[("database", "shop-new")]);
    for origin in [Origin::Plugin, Origin::Archive, command("x"), artifact("a", Origin::Plugin)] {
        assert!(policy.decide(&Call::Exec(feeds("pg_restore", &values, Some(&origin)))).allowed, "{origin}");
    }
    check_denied(&policy, &feeds("pg_restore", &values, None), "none is given", "");
}

#[test]
fn a_repeated_slot_repeats_its_argument() {
    let files = SlotRule { max_count: 3, ..SlotRule::pattern("[a-z]+").unwrap() };
    let grant = ExecGrant {
        args: vec![template("-x"), template("{file}"), template("--"), template("{file}")],
        env: BTreeMap::new(),
        slots: BTreeMap::from([("file".to_owned(), files)]),
        ..pg_dump()
    };
    assert_eq!(grant.check(), []);
    let run = |grant: &ExecGrant, values: &[(&str, &str)]| {
        let values = slots(values);
        let call = ExecCall { command: "tar", slots: &values, stdin: None, reads_output: false, program: None };
        policy(BACKUP, &[("tar", grant.clone())]).command_line(&call, None)
    };
    let two = [("file", "a"), ("file", "b")];
    assert_eq!(run(&grant, &two).unwrap().args, ["-x", "a", "b", "--", "a", "b"]);
    assert!(run(&grant, &[]).unwrap_err().reason.contains("not given"));
    let four = [("file", "a"), ("file", "b"), ("file", "c"), ("file", "d")];
    assert!(run(&grant, &four).unwrap_err().reason.contains("more than 3 times"));

    let inside = ExecGrant { args: vec![template("--file={file}")], ..grant };
    assert!(inside.check()[0].message.contains("part of other text"));
    assert!(run(&inside, &two).unwrap_err().reason.contains("repeats inside other text"));
}

#[test]
fn the_host_fills_the_scratch_directory() {
    let grant = ExecGrant {
        args: vec![template("-D"), template("{scratch}/data")],
        env: BTreeMap::new(),
        slots: BTreeMap::new(),
        ..pg_dump()
    };
    assert_eq!(grant.check(), []);
    let policy = policy(BACKUP, &[("initdb", grant)]);
    let call = ExecCall { command: "initdb", slots: &[], stdin: None, reads_output: false, program: None };
    let line = policy.command_line(&call, Some("/run/x")).unwrap();
    assert_eq!(
        (line.args.as_slice(), line.uses_scratch),
        (["-D".to_owned(), "/run/x/data".to_owned()].as_slice(), true)
    );
    assert!(policy.command_line(&call, None).unwrap_err().reason.contains("no scratch directory"));
}

#[test]
fn a_value_is_never_read_as_a_template_again() {
    let grant = ExecGrant {
        slots: BTreeMap::from([
            ("database".to_owned(), SlotRule::pattern(".*").unwrap()),
            ("snapshot".to_owned(), SlotRule::pattern(".*").unwrap()),
        ]),
        ..pg_dump()
    };
    let values = slots(&[("database", "{snapshot}"), ("snapshot", "{scratch}$(id)`id`;id")]);
    let call = ExecCall { command: "pg_dump", slots: &values, stdin: None, reads_output: false, program: None };
    let line = policy(BACKUP, &[("pg_dump", grant)]).command_line(&call, Some("/run/x")).unwrap();
    assert_eq!(line.args[1], "--snapshot={scratch}$(id)`id`;id");
    assert_eq!(line.env[0].1, "{snapshot}");
    assert!(!line.uses_scratch);
}

#[track_caller]
fn check_mistake(grant: &ExecGrant, key: &str, message: &str) {
    let mistakes = grant.check();
    assert!(mistakes.iter().any(|m| m.key == key && m.message.contains(message)), "{key} {message}: {mistakes:#?}");
}

#[test]
fn a_grant_says_everything_that_is_wrong_with_it() {
    assert_eq!(pg_dump().check(), []);
    assert_eq!(pg_restore().check(), []);
    for program in ["pg_dump", "", "./pg_dump", "/usr/bin/", "/usr/../bin/sh", "/bin/sh\n"] {
        check_mistake(&ExecGrant { program: program.to_owned(), ..pg_dump() }, "program", "not an absolute path");
    }
    check_mistake(&ExecGrant { args: vec![template("{nowhere}")], ..pg_dump() }, "args", "\"nowhere\" is not one of");
    check_mistake(
        &ExecGrant { args: Vec::new(), ..pg_dump() },
        "slots.snapshot",
        "no argument and no variable uses it",
    );
    let scratch = BTreeMap::from([(SCRATCH.to_owned(), SlotRule::pattern(".*").unwrap())]);
    check_mistake(&ExecGrant { slots: scratch, ..pg_dump() }, "slots.scratch", "the host fills");
    check_mistake(&ExecGrant { timeout: Some(Duration::ZERO), ..pg_dump() }, "timeout", "at once");
    check_mistake(&ExecGrant { partial_stdin: true, ..pg_dump() }, "partial_stdin", "no standard input");
    check_mistake(&ExecGrant { detects_short_input: true, ..pg_dump() }, "detects_short_input", "reads no artifact");
    let secrets = vec!["PGDATABASE".to_owned(), "LD_PRELOAD".to_owned(), "1X".to_owned()];
    let grant = ExecGrant { secrets, ..pg_dump() };
    check_mistake(&grant, "secrets", "is a secret and a variable");
    check_mistake(&grant, "secrets", "LD_PRELOAD");
    check_mistake(&grant, "secrets", "not the name of a variable");
    let files = [("LD_PRELOAD", "A"), ("PGDATABASE", "A"), ("PGPASSWORD", "A"), ("1X", "A"), ("X", "a b")];
    let secret_files = files.map(|(variable, name)| (variable.to_owned(), name.to_owned())).into();
    let grant = ExecGrant { secret_files, ..pg_dump() };
    check_mistake(&grant, "secret_files.LD_PRELOAD", "the loader takes code from it");
    check_mistake(&grant, "secret_files.PGDATABASE", "set by the grant already");
    check_mistake(&grant, "secret_files.PGPASSWORD", "set by the grant already");
    check_mistake(&grant, "secret_files.1X", "not the name of a variable");
    check_mistake(&grant, "secret_files.X", "not the name of a variable");
    // What a grant may not set may still be where a program looks for a file that the host made.
    let secret_files = BTreeMap::from([("PGPASSFILE".to_owned(), "PGPASS".to_owned())]);
    assert_eq!(ExecGrant { secret_files, ..pg_dump() }.check(), []);
    let backup = When { verbs: BTreeSet::from([Verb::Backup]), ..pg_restore().when };
    let grant = ExecGrant { when: backup, ..pg_restore() };
    check_mistake(&grant, "verbs", "read back by verify and restore only");
    check_mistake(&grant, "effect", "never holds");
    let never = When { verbs: BTreeSet::new(), ..pg_dump().when };
    check_mistake(&ExecGrant { when: never, ..pg_dump() }, "verbs", "no verb");
}

#[test]
fn a_grant_may_not_set_what_chooses_code_or_credentials() {
    for name in [
        "LD_PRELOAD",
        "LD_LIBRARY_PATH",
        "ld_preload",
        "PATH",
        "HOME",
        "PGSERVICEFILE",
        "PGPASSFILE",
        "PGSERVICE",
        "PYTHONPATH",
        "PYTHONSTARTUP",
        "PERL5OPT",
        "RUBYOPT",
        "NODE_OPTIONS",
        "BASH_ENV",
        "ENV",
        "BASH_FUNC_x%%",
        "JAVA_TOOL_OPTIONS",
        "_JAVA_OPTIONS",
        "PSQLRC",
        "PSQL_PAGER",
        "PAGER",
        "EDITOR",
        "GIT_SSH_COMMAND",
        "OPENSSL_CONF",
        "SSLKEYLOGFILE",
        "DOCKER_HOST",
        "KUBECONFIG",
        "GLIBC_TUNABLES",
        "STRONGROOM_EXEC",
        "strongroom_config",
    ] {
        let env = BTreeMap::from([(name.to_owned(), template("x"))]);
        let grant = ExecGrant { env, args: Vec::new(), slots: BTreeMap::new(), ..pg_dump() };
        assert!(!grant.check().is_empty(), "{name}");
    }
    let grant = ExecGrant { secrets: vec!["STRONGROOM_EXEC".to_owned()], ..pg_dump() };
    check_mistake(&grant, "secrets", "strongroom itself reads it");
    for name in ["PGDATABASE", "PGAPPNAME", "TZ", "LANG", "MAX_RATE"] {
        assert_eq!(forbidden_name(name), None);
        assert!(!names_a_destination(name));
    }
}

#[test]
fn what_decides_where_a_secret_goes_is_never_a_slot() {
    for name in ["PGHOST", "PGHOSTADDR", "PGPORT", "PGUSER", "PGSSLMODE", "REDIS_URL", "NEO4J_URI", "HTTPS_PROXY"] {
        let env = |text| BTreeMap::from([(name.to_owned(), template(text))]);
        let grant = |text| ExecGrant { env: env(text), args: vec![template("{database}{snapshot}")], ..pg_dump() };
        check_mistake(&grant("{database}"), &format!("env.{name}"), "decides where a secret goes");
        check_mistake(&grant("x{database}"), &format!("env.{name}"), "decides where a secret goes");
        assert_eq!(grant("fixed").check(), [], "{name}");
    }
    let with = |args: &[&str], pattern: &str| ExecGrant {
        args: args.iter().map(|arg| template(arg)).collect(),
        env: BTreeMap::new(),
        slots: BTreeMap::from([("x".to_owned(), SlotRule::pattern(pattern).unwrap())]),
        ..pg_dump()
    };
    for args in [&["--host={x}"][..], &["-h", "{x}"], &["-p{x}"], &["--username", "{x}"], &["--endpoint-url={x}"]] {
        check_mistake(&with(args, "[a-z]+"), "args", "decides where a secret goes");
        assert_eq!(ExecGrant { secrets: Vec::new(), ..with(args, "[a-z]+") }.check(), [], "{args:?} without a secret");
    }
    for args in [&["--dbname={x}"][..], &["-d", "{x}"], &["{x}"], &["-X", "{x}"]] {
        check_mistake(&with(args, "[a-z=]+"), "args", "a program can read that as where a secret goes");
        assert_eq!(with(args, "[a-z0-9_-]+").check(), [], "{args:?}");
        assert_eq!(ExecGrant { secrets: Vec::new(), ..with(args, ".+") }.check(), [], "{args:?} without a secret");
        // A pattern that hides it well is not found out before its value is.
        let grant = with(args, "[a-z]{9}|hidden[=]away|hidden [/] away");
        assert_eq!(grant.check(), [], "{args:?}");
        let policy = policy(BACKUP, &[("dump", grant)]);
        for value in ["hidden=away", "hidden / away"] {
            let values = slots(&[("x", value)]);
            check_denied(&policy, &asks("dump", &values), "a program could read it as where its secret goes", "");
        }
        assert!(policy.command_line(&asks("dump", &slots(&[("x", "databases")])), None).is_ok());
    }
}

#[test]
fn a_program_that_is_pinned_is_run_while_its_digest_is_the_one_that_is_written() {
    let pinned = "ab".repeat(32);
    let grant = ExecGrant { sha256: Some(pinned.clone()), ..pg_dump() };
    let policy = policy(BACKUP, &[("pg_dump", grant), ("other", pg_dump())]);
    let values = slots(&[("database", "shop"), ("snapshot", "0-1")]);
    let asked = asks("pg_dump", &values);
    assert_eq!(policy.pinned_program(&asked), Some("/usr/bin/pg_dump"));
    assert_eq!(policy.pinned_program(&asks("other", &values)), None, "nothing is pinned");
    assert_eq!(policy.pinned_program(&asks("pg_dump", &[])), None, "it is denied anyway: no file is read");
    // Whoever opens nothing compares where it is opened.
    assert_eq!(policy.command_line(&asked, None).unwrap().sha256.as_ref(), Some(&pinned));
    let same = ExecCall { program: Some(&pinned), ..asked.clone() };
    assert!(policy.decide(&Call::Exec(same)).allowed);
    let got = "cd".repeat(32);
    let other = ExecCall { program: Some(&got), ..asked };
    check_denied(
        &policy,
        &other,
        &format!("expected sha256 {pinned}, got sha256 {got}"),
        &format!("[plugin.postgres.grant.exec.pg_dump]\nsha256 = \"{got}\""),
    );
}
