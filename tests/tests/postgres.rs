//! PostgreSQL end to end: the real binary, the real plugin, real servers, a real S3 store.

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::Duration;
use strongroom_tests::container::Container;
use strongroom_tests::postgres::job::{Into, Job, Setup, env};
use strongroom_tests::postgres::{Access, PASSWORD, Postgres, Version};
use strongroom_tests::{Output, wait_until};

/// Longer than anything here takes on a busy machine.
const LONG: Duration = Duration::from_secs(120);

/// About 150 MiB that hardly compress away, and what the sample lacks; pgbench's tables are in `billing`.
const MUCH: &str = r#"
\connect "shop-orders"
CREATE TABLE ledger AS SELECT g AS id, md5(g::text) || md5((g * 7)::text) || md5((g * 13)::text) AS body
  FROM generate_series(1, 1100000) g;
ALTER TABLE ledger ADD PRIMARY KEY (id);
COMMENT ON COLUMN ledger.body IS 'what was booked';
CREATE SEQUENCE tickets START 100 INCREMENT 5;
SELECT nextval('tickets'), nextval('tickets');
REFRESH MATERIALIZED VIEW totals;
"#;

/// Digests of every table that does not change, of the large objects and of the sequences.
const DIGEST: &str = r#"
SELECT format('SELECT %L, count(*), md5(string_agg(md5(t::text), '''' ORDER BY t::text COLLATE "C")) FROM ONLY %I.%I AS t',
  n.nspname || '.' || c.relname, n.nspname, c.relname)
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'm') AND n.nspname NOT IN ('pg_catalog', 'information_schema') AND n.nspname !~ '^pg_'
  AND c.relname !~ '^pgbench_'
ORDER BY 1 \gexec
SELECT oid, md5(lo_get(oid)) FROM pg_largeobject_metadata ORDER BY oid;
SELECT schemaname, sequencename, last_value FROM pg_sequences ORDER BY 1, 2;
"#;

/// What pgbench keeps equal in every snapshot: four sums, and whether they are one.
const SUMS: &str = "SELECT count(DISTINCT s) FROM (
  SELECT sum(abalance) AS s FROM pgbench_accounts UNION ALL SELECT sum(bbalance) FROM pgbench_branches
  UNION ALL SELECT sum(tbalance) FROM pgbench_tellers UNION ALL SELECT COALESCE(sum(delta), 0) FROM pgbench_history) AS sums";

fn text(output: std::process::Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// The definitions in a database with its properties, as `pg_dump` writes them. Sorted: the order of an
/// object's grants means nothing.
fn schema(server: &Postgres, database: &str) -> Vec<String> {
    let mut command = server.command("pg_dump").unwrap();
    sorted(&text(command.args(["--schema-only", "--create"]).env("PGDATABASE", database).output().unwrap()))
}

/// Roles, memberships, role settings and tablespaces, the place of which differs. A password that is
/// there stays, and each cluster's superuser has one.
fn globals(server: &Postgres) -> Vec<String> {
    let all = text(server.command("pg_dumpall").unwrap().arg("--globals-only").output().unwrap());
    let mut lines = sorted(&all.replace(server.socket_dir().to_str().unwrap(), "PLACE"));
    lines.retain(|line| !line.starts_with("ALTER ROLE postgres "));
    lines
}

/// Without `\restrict` and its end, which have a new key each time.
fn sorted(dump: &str) -> Vec<String> {
    let keep = |line: &&str| !line.starts_with("\\restrict") && !line.starts_with("\\unrestrict");
    let mut lines: Vec<String> = dump.lines().filter(keep).map(str::to_owned).collect();
    lines.sort();
    lines
}

/// Shows only the lines that one side has.
#[track_caller]
fn check_same(before: &[String], after: &[String]) {
    let lost: Vec<_> = before.iter().filter(|line| !after.contains(line)).collect();
    let new: Vec<_> = after.iter().filter(|line| !before.contains(line)).collect();
    assert!(before == after, "lost {lost:#?}, new {new:#?}");
}

/// pgbench at work; ended when this is dropped.
struct Load(Child);

impl Load {
    fn start(server: &Postgres, database: &str) -> Self {
        let mut command = server.command("pgbench").unwrap();
        command.args(["-n", "-c", "2", "-R", "200", "-T", "600"]).arg(database);
        let load = Self(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
        wait_until("pgbench", LONG, || {
            Ok((server.sql(database, "SELECT count(*) > 0 FROM pgbench_history")? == "t").then_some(()))
        })
        .unwrap();
        load
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

/// The checks of a verdict with this id, which must have this outcome.
#[track_caller]
fn check_outcome(verdict: &Value, id: &str, outcome: &str) {
    let found: Vec<&Value> = verdict["checks"].as_array().unwrap().iter().filter(|check| check["id"] == id).collect();
    assert!(!found.is_empty(), "no check {id} in {verdict:#}");
    assert!(found.iter().all(|check| check["outcome"] == outcome), "{found:#?}");
}

/// A granted `pg_dump` that says when it has written some MiB, and waits for the test.
struct Paused<'a>(&'a Job);

impl Paused<'_> {
    /// The program; stands in for the real one while there is a file `pause`.
    fn script(dir: &Path) -> String {
        let (real, dir) = (Version::V15.program("pg_dump").unwrap(), dir.display());
        format!(
            r#"#!/bin/sh
[ -e {dir}/pause ] && [ "$1" != --version ] || exec {real:?} "$@"
mkfifo {dir}/fifo
{real:?} "$@" > {dir}/fifo &
exec 3< {dir}/fifo
head -c 60000000 <&3
echo $! > {dir}/begun.tmp && mv {dir}/begun.tmp {dir}/begun
while [ ! -e {dir}/go ]; do sleep 0.05; done
cat <&3
wait $! || kill -KILL $$
"#
        )
    }

    /// Starts a backup, and calls `act` with the process id of `pg_dump` when it is half-way.
    #[track_caller]
    fn backup(&self, act: impl FnOnce(Pid)) -> Output {
        let sandbox = &self.0.sandbox;
        sandbox.write("pause", "");
        let running = sandbox.strongroom(["backup", "orders"]).start().unwrap();
        let begun = sandbox.path("begun");
        wait_until("the dump", LONG, || Ok(begun.exists().then_some(()))).unwrap();
        let pid = std::fs::read_to_string(begun).unwrap().trim().parse().unwrap();
        act(Pid::from_raw(pid).unwrap());
        sandbox.write("go", "");
        let output = running.finish(LONG).unwrap();
        std::fs::remove_file(sandbox.path("pause")).unwrap();
        output
    }
}

/// One check of a verdict has this id, this outcome and this in its evidence; a bad one says why and
/// what to do.
#[track_caller]
fn check_found(verdict: &Value, id: &str, outcome: &str, evidence: &str) {
    let all: Vec<&Value> = verdict["checks"].as_array().unwrap().iter().filter(|check| check["id"] == id).collect();
    let fits = |check: &&&Value| check["outcome"] == outcome && check["evidence"].as_str().unwrap().contains(evidence);
    let Some(found) = all.iter().find(fits) else { panic!("expected {id} {outcome} with {evidence:?}, got {all:#?}") };
    for list in ["causes", "remedies"] {
        assert!(!found[list].as_array().unwrap().is_empty(), "{found:#}");
    }
}

#[test]
fn a_busy_server_comes_back_from_an_encrypted_backup_in_a_real_s3_store() {
    let server = Postgres::start(Version::V15).unwrap();
    server.fill().unwrap();
    server.sql("postgres", MUCH).unwrap();
    let made = server.command("pgbench").unwrap().args(["-i", "-q", "-s", "1", "billing"]).output().unwrap();
    text(made);
    let job = Job::new(Into::S3, Version::V15);
    job.configure(&server, &Setup::default());
    let load = Load::start(&server, "billing");
    let id = job.backup();
    drop(load);
    let grown = server.sql("billing", "SELECT count(*) FROM pgbench_history").unwrap();
    let before = [schema(&server, "shop-orders"), schema(&server, "billing"), globals(&server)];
    let digest = server.sql("shop-orders", DIGEST).unwrap();

    let shown = job.run(&["show", "orders", &id, "--output", "json"]);
    let facts: Vec<(String, String)> = serde_json::from_value(shown.json()["record"]["facts"].clone()).unwrap();
    let facts: BTreeMap<_, _> = facts.into_iter().collect();
    assert_eq!(facts["rows.shop-orders.public.ledger"], "1100000");
    let recorded: u64 = facts["rows.billing.public.pgbench_history"].parse().unwrap();
    assert!(recorded <= grown.parse().unwrap());

    job.run(&["verify", "orders", &id, "--depth", "contents"]).check_code(0);
    let args = ["verify", "orders", &id, "--depth", "restore", "--target", "own-server", "--output", "json"];
    let verified = job.run(&args);
    let verdict = verified.check_code(0).json();
    for check in ["completes", "roles", "tables", "constraints", "objects", "rows", "privileges", "amcheck"] {
        check_outcome(&verdict, &format!("postgres.restore.{check}"), "passed");
    }

    drop(server);
    let fresh = Postgres::start(Version::V15).unwrap();
    let place = fresh.directory("fast-disk").unwrap();
    job.configure(&fresh, &Setup::default());
    let option = format!("tablespaces={{\"fast disk\":{place:?}}}");
    let plan = job.run(&["restore", "orders", &id, "--option", &option, "--plan"]);
    for line in ["create role reader", "create tablespace fast disk", "create database shop-orders"] {
        plan.check_code(0).check_stdout(line);
    }
    assert_eq!(fresh.sql("postgres", "SELECT count(*) FROM pg_database").unwrap(), "3", "a plan changes nothing");
    let restored = job.run(&["restore", "orders", &id, "--option", &option, "--output", "json"]);
    let steps = restored.check_code(0).json()["steps"].as_array().unwrap().clone();
    let bad: Vec<_> = steps.iter().filter(|step| step["outcome"] == "failed" || step["outcome"] == "warned").collect();
    assert!(bad.is_empty(), "{bad:#?}");
    let after = [schema(&fresh, "shop-orders"), schema(&fresh, "billing"), globals(&fresh)];
    for (before, after) in before.iter().zip(&after) {
        check_same(before, after);
    }
    assert_eq!(digest, fresh.sql("shop-orders", DIGEST).unwrap());
    assert_eq!(fresh.sql("billing", "SELECT count(*) FROM pgbench_history").unwrap(), recorded.to_string());
    assert_eq!(fresh.sql("billing", SUMS).unwrap(), "1");
}

#[test]
fn a_dump_that_dies_half_way_leaves_no_backup_and_no_upload() {
    let mut server = Postgres::start(Version::V15).unwrap();
    server
        .sql(
            "postgres",
            "CREATE TABLE big AS SELECT g, md5(g::text) || md5((g * 3)::text) FROM generate_series(1, 1200000) g",
        )
        .unwrap();
    for kill in [true, false] {
        let job = Job::with_program(Into::S3, Version::V15, "pg_dump", Paused::script);
        job.configure(&server, &Setup::default());
        let output = Paused(&job).backup(|pid| {
            let begun = || Ok(job.pending_uploads().iter().any(|key| key.contains("postgres.dump")).then_some(()));
            wait_until("the upload", LONG, begun).unwrap();
            if kill {
                kill_process(pid, Signal::KILL).unwrap();
            } else {
                server.crash();
            }
        });
        output.check_code(1).check_stderr("pg_dump").check_stderr("database \"postgres\"");
        output.check_stderr(if kill { "signal 9" } else { "server closed the connection" });
        job.check_nothing_stored();
        if kill {
            // What was left behind keeps nobody from the next one.
            job.backup();
        }
    }
}

#[test]
fn what_the_server_refuses_is_said_and_nothing_is_stored() {
    let server = Postgres::start_with(Version::V15, Access::Password, &[]).unwrap();
    let job = Job::new(Into::Folder, Version::V15);
    let wrong = Setup { password: Some("wrong-password".to_owned()), ..Setup::default() };
    let named = |line: &str| Setup { settings: line.to_owned(), ..Setup::default() };
    for (setup, says) in [
        (&wrong, "password authentication failed for user \"postgres\""),
        (&named("databases = [\"nope\"]"), "database \"nope\" is not on the server"),
        (&named("maintenance_database = \"nope\""), "database \"nope\" does not exist"),
    ] {
        job.configure(&server, setup);
        let output = job.run(&["backup", "orders"]);
        output.check_code(1).check_stderr(says);
        assert!(!output.stderr.contains("wrong-password") && !output.stderr.contains(PASSWORD), "{}", output.stderr);
        job.check_nothing_stored();
    }
    job.configure(&server, &wrong);
    let verdict = job.run(&["diagnose", "orders", "--output", "json"]).check_code(5).json();
    check_found(&verdict, "postgres.connect", "failed", "password authentication failed");
    job.configure(&server, &Setup::default());
    job.backup();

    let newer = Postgres::start(Version::V18).unwrap();
    let job = Job::new(Into::Folder, Version::V15);
    job.configure(&newer, &Setup::default());
    job.run(&["backup", "orders"]).check_code(1).check_stderr("is older than the server 18");
    job.check_nothing_stored();
    let verdict = job.run(&["diagnose", "orders", "--output", "json"]).check_code(5).json();
    check_found(&verdict, "postgres.version.client", "failed", "pg_dump 15");
    check_found(&verdict, "postgres.version.psql", "warned", "psql 15, server 18");
}

#[test]
fn a_restore_takes_some_databases_and_other_names_and_replaces_only_when_told() {
    let server = Postgres::start(Version::V15).unwrap();
    server.fill().unwrap();
    let job = Job::new(Into::Folder, Version::V15);
    // A role that is not a superuser tests a restore in a database of its own.
    server.sql("postgres", "CREATE ROLE verifier LOGIN CREATEDB").unwrap();
    let target = format!(
        "[target.own-database]\n{}\noptions = {{ scratch = \"database\" }}",
        env(&server).replace("\"postgres\"", "\"verifier\"")
    );
    job.configure(&server, &Setup { more: target, ..Setup::default() });
    let id = job.backup();
    let args = ["verify", "orders", &id, "--depth", "restore", "--target", "own-database", "--output", "json"];
    let verdict = job.run(&args).check_code(0).json();
    for id in ["postgres.scratch.role", "postgres.restore.completes", "postgres.restore.rows"] {
        check_outcome(&verdict, id, "passed");
    }
    let databases = || server.sql("postgres", "SELECT string_agg(datname, ' ' ORDER BY datname) FROM pg_database");
    let all = "billing postgres shop-orders template0 template1";
    assert_eq!(databases().unwrap(), all);

    let refused = job.run(&["restore", "orders", &id]);
    refused.check_code(1).check_stderr("\"billing\" is not empty").check_stderr("\"shop-orders\" is not empty");
    refused.check_stderr("overwrite");
    assert_eq!(databases().unwrap(), all);
    let only = "databases=[\"billing\"]";
    for (option, says) in [
        ("databases=[\"nope\"]", "database \"nope\" is not in the backup"),
        ("rename={\"billing\":\"template1\"}", "\"template1\" is not a name to restore to"),
        ("rename={\"billing\":\"shop-orders\"}", "two databases would be restored as \"shop-orders\""),
    ] {
        job.run(&["restore", "orders", &id, "--option", option]).check_code(1).check_stderr(says);
    }
    job.run(&["restore", "orders", &id, "--option", "overwrit=true"]).check_code(2).check_stderr("overwrit");

    let rename = "rename={\"billing\":\"billing of \\\"old\\\"\"}";
    job.run(&["restore", "orders", &id, "--option", only, "--option", rename]).check_code(0);
    let counted = |database: &str| server.sql(database, "SELECT count(*), min(id) FROM invoice").unwrap();
    assert_eq!(counted("billing of \"old\""), "20000|1");

    for _ in 0..2 {
        server.sql("billing", "DELETE FROM invoice WHERE id < 100; CREATE TABLE newer (i int)").unwrap();
        job.run(&["restore", "orders", &id, "--option", only, "--option", "overwrite=true"]).check_code(0);
        assert_eq!(counted("billing"), "20000|1");
        assert_eq!(server.sql("billing", "SELECT to_regclass('newer') IS NULL").unwrap(), "t");
    }
    assert_eq!(databases().unwrap(), all.replace("billing ", "billing billing of \"old\" "));
}

#[test]
fn a_restore_that_fails_half_way_says_what_was_done_and_a_test_restore_finds_it_before() {
    let server = Postgres::start(Version::V15).unwrap();
    // The function finds its table only through the search path, which a restore empties.
    server
        .sql(
            "postgres",
            "CREATE ROLE keeper; CREATE DATABASE fragile OWNER keeper;\n\\connect fragile\n\
             CREATE TABLE rates (i int); INSERT INTO rates VALUES (1);\n\
             CREATE FUNCTION known(int) RETURNS bool LANGUAGE plpgsql AS \
             'BEGIN RETURN EXISTS (SELECT FROM rates WHERE i = $1); END';\n\
             CREATE TABLE sale (i int CHECK (known(i))); INSERT INTO sale VALUES (1);",
        )
        .unwrap();
    let job = Job::new(Into::Folder, Version::V15);
    job.configure(&server, &Setup { settings: "databases = [\"fragile\"]".to_owned(), ..Setup::default() });
    let id = job.backup();
    job.run(&["verify", "orders", &id, "--depth", "contents"]).check_code(0);
    let args = ["verify", "orders", &id, "--depth", "restore", "--target", "own-server", "--output", "json"];
    let verdict = job.run(&args).check_code(5).json();
    check_found(&verdict, "postgres.restore.completes", "failed", "relation \"rates\" does not exist");

    let over = job.run(&["restore", "orders", &id, "--option", "overwrite=true"]);
    over.check_code(6).check_stderr("what was done before it stopped").check_stderr("create database");
    over.check_stderr("relation \"rates\" does not exist").check_stderr("\"fragile\" is as it was");
    assert_eq!(server.sql("fragile", "SELECT count(*) FROM sale").unwrap(), "1");
    assert_eq!(server.sql("postgres", "SELECT count(*) FROM pg_database").unwrap(), "4", "the staging one is gone");

    let renamed = job.run(&["restore", "orders", &id, "--option", "rename={\"fragile\":\"again\"}"]);
    renamed.check_code(6).check_stderr("\"again\" holds a part of the backup: DROP DATABASE \"again\"");
}

#[test]
fn a_backup_of_15_comes_back_in_18_and_that_server_in_another_one() {
    let mut source = Postgres::start(Version::V15).unwrap();
    source.fill().unwrap();
    let mut job = Job::new(Into::Folder, Version::V15);
    let settings = Setup { settings: "databases = [\"billing\", \"shop-orders\"]".to_owned(), ..Setup::default() };
    job.configure(&source, &settings);
    let mut id = job.backup();
    job.use_programs(Version::V18);
    for same_version in [false, true] {
        let target = Postgres::start(Version::V18).unwrap();
        job.configure(&target, &settings);
        job.run(&["verify", "orders", &id, "--depth", "restore", "--target", "own-server"]).check_code(0);
        let option = format!("tablespaces={{\"fast disk\":{:?}}}", target.directory("fast-disk").unwrap());
        job.run(&["restore", "orders", &id, "--option", &option]).check_code(0);
        for database in ["billing", "shop-orders"] {
            assert_eq!(source.sql(database, DIGEST).unwrap(), target.sql(database, DIGEST).unwrap());
            if same_version {
                check_same(&schema(&source, database), &schema(&target, database));
            }
        }
        if same_version {
            check_same(&globals(&source), &globals(&target));
        }
        id = job.backup_of_another_server();
        source = target;
    }
    let verdict = job.run(&["diagnose", "orders", "--output", "json"]).check_code(0).json();
    for id in HEALTHY {
        check_outcome(&verdict, id, "passed");
    }
}

/// What `diagnose` finds in order on a server of its own, 18.
const HEALTHY: [&str; 21] = [
    "postgres.backup.age",
    "postgres.connect",
    "postgres.connect.pooler",
    "postgres.version.server",
    "postgres.version.client",
    "postgres.version.psql",
    "postgres.privileges.passwords",
    "postgres.privileges.read",
    "postgres.privileges.statistics",
    "postgres.privileges.row_security",
    "postgres.databases",
    "postgres.transactions.long",
    "postgres.transactions.prepared",
    "postgres.locks.exclusive",
    "postgres.dumps.overlap",
    "postgres.connections",
    "postgres.slots",
    "postgres.checksums",
    "postgres.wraparound",
    "postgres.settings.role",
    "postgres.extensions",
];

#[test]
fn diagnose_names_what_is_wrong_with_a_server_why_and_what_to_do() {
    let settings = [("archive_mode", "on"), ("archive_command", "/bin/false"), ("max_connections", "10")];
    let server = Postgres::start_with(Version::V15, Access::Trust, &settings).unwrap();
    server.fill().unwrap();
    server
        .sql(
            "postgres",
            "SELECT pg_create_physical_replication_slot('forgotten', true), pg_switch_wal();\n\
             CREATE ROLE weak LOGIN; ALTER ROLE weak SET row_security = off;\n\
             \\connect billing\nCREATE TABLE hidden (i int); ALTER TABLE hidden ENABLE ROW LEVEL SECURITY;",
        )
        .unwrap();
    let unique = server.sql("billing", "INSERT INTO invoice VALUES (0, repeat('x', 100));\n\\set ON_ERROR_STOP off\nCREATE UNIQUE INDEX CONCURRENTLY ON invoice (body)");
    unique.unwrap();
    wait_until("the archiver", LONG, || {
        Ok((server.sql("postgres", "SELECT failed_count > 0 FROM pg_stat_archiver")? == "t").then_some(()))
    })
    .unwrap();
    let job = Job::new(Into::Folder, Version::V15);
    let only = Setup { settings: "databases = [\"billing\", \"shop-orders\"]".to_owned(), ..Setup::default() };
    job.configure(&server, &only);
    let lock = Holding::start(&server, "billing", "LOCK TABLE invoice");
    let verdict = job.run(&["diagnose", "orders", "--output", "json"]).check_code(5).json();
    drop(lock);
    for (id, outcome, evidence) in [
        ("postgres.backup.age", "warned", "no backup yet"),
        ("postgres.archiver", "failed", "failures, the last"),
        ("postgres.slots", "warned", "\"forgotten\" (inactive)"),
        ("postgres.checksums", "warned", "data_checksums = off"),
        ("postgres.connections", "failed", "of 10 taken, a backup needs 7"),
        ("postgres.locks.exclusive", "warned", "holds one in billing"),
        ("postgres.indexes.invalid", "warned", "invoice"),
    ] {
        check_found(&verdict, id, outcome, evidence);
    }

    let text = std::fs::read_to_string(job.sandbox.path("strongroom.toml")).unwrap();
    job.sandbox.config(&text.replace("PGUSER = \"postgres\"", "PGUSER = \"weak\""));
    let verdict = job.run(&["diagnose", "orders", "--output", "json"]).check_code(5).json();
    for (id, outcome, evidence) in [
        ("postgres.privileges.passwords", "warned", "weak may not read pg_authid"),
        ("postgres.privileges.read", "failed", "invoice"),
        ("postgres.privileges.statistics", "warned", "pg_read_all_stats"),
        ("postgres.privileges.row_security", "failed", "hidden"),
        ("postgres.databases", "failed", "\"shop-orders\" is closed to weak"),
        ("postgres.settings.role", "warned", "row_security=off"),
    ] {
        check_found(&verdict, id, outcome, evidence);
    }

    let port = server.port().to_string();
    drop(server);
    let verdict = job.run(&["diagnose", "orders", "--output", "json"]).check_code(5).json();
    check_found(&verdict, "postgres.connect", "failed", &port);
}

/// Copies programs of 15 into `/postgres` of a container, each with the libraries that it names.
fn install(root: &Path) -> anyhow::Result<()> {
    std::fs::create_dir(root.join("postgres"))?;
    for name in ["pg_dump", "pg_dumpall", "pg_restore", "psql"] {
        let program = Version::V15.program(name)?;
        std::fs::copy(&program, root.join("postgres").join(name))?;
        let listed = text(std::process::Command::new("ldd").arg(&program).output()?);
        for library in listed.split_whitespace().filter(|word| word.starts_with('/')) {
            let copy = root.join(&library[1..]);
            std::fs::create_dir_all(copy.parent().unwrap())?;
            std::fs::copy(library, copy)?;
        }
    }
    Ok(())
}

#[test]
fn a_job_in_a_container_uses_only_the_programs_in_it() {
    let server = Postgres::start_with(Version::V15, Access::Password, &[]).unwrap();
    server.fill().unwrap();
    let container = Container::start_with(install).unwrap();
    let mut job = Job::new(Into::Folder, Version::V15);
    job.use_programs_in(Path::new("/postgres"));
    let place = format!("{{ container = {:?}, client = {:?} }}", container.name(), container.client());
    let settings = "databases = [\"billing\", \"shop-orders\"]".to_owned();
    job.configure(&server, &Setup { settings, run_in: Some(place), ..Setup::default() });
    let id = job.backup();
    let verdict = job.run(&["verify", "orders", &id, "--depth", "contents", "--output", "json"]).check_code(0).json();
    check_outcome(&verdict, "postgres.dump.decodes", "passed");
    let verdict = job.run(&["diagnose", "orders", "--output", "json"]).json();
    check_outcome(&verdict, "postgres.version.client", "passed");
    server.sql("postgres", "ALTER DATABASE \"shop-orders\" RENAME TO before").unwrap();
    job.run(&["restore", "orders", &id, "--option", "databases=[\"shop-orders\"]"]).check_code(0);
    assert_eq!(server.sql("before", DIGEST).unwrap(), server.sql("shop-orders", DIGEST).unwrap());
}

/// A session that has done something and stays; ended when this is dropped.
struct Holding(Child);

impl Holding {
    fn start(server: &Postgres, database: &str, sql: &str) -> Self {
        let mut command = server.command("psql").unwrap();
        command.args(["-X", "-c", &format!("{sql}; SELECT pg_sleep(600)")]).env("PGDATABASE", database);
        command.env("PGAPPNAME", "holding").stdout(Stdio::null()).stderr(Stdio::null());
        let holding = Self(command.spawn().unwrap());
        let asleep =
            "SELECT count(*) > 0 FROM pg_stat_activity WHERE application_name = 'holding' AND wait_event = 'PgSleep'";
        wait_until("the session", LONG, || Ok((server.sql("postgres", asleep)? == "t").then_some(()))).unwrap();
        holding
    }
}

impl Drop for Holding {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}
