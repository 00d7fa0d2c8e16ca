//! PostgreSQL end to end: the real binary, the real plugin, real servers, a real S3 store.

use serde_json::Value;
use std::collections::BTreeMap;
use std::process::{Child, Stdio};
use std::time::Duration;
use strongroom_tests::postgres::job::{Into, Job, Setup};
use strongroom_tests::postgres::{Postgres, Version};
use strongroom_tests::wait_until;

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

#[test]
fn a_busy_server_comes_back_from_an_encrypted_backup_in_a_real_s3_store() {
    let server = Postgres::start(Version::V15).unwrap();
    server.fill().unwrap();
    server.sql("postgres", MUCH).unwrap();
    let made = server.command("pgbench").unwrap().args(["-i", "-q", "-s", "1", "billing"]).output().unwrap();
    text(made);
    let job = Job::new(Into::S3, Version::V15, &[]);
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
