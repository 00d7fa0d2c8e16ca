//! PostgreSQL in a pod, with the plugin that knows nothing of pods.

use serde_json::json;
use strongroom_tests::dice::Dice;
use strongroom_tests::kube::Cluster;
use strongroom_tests::postgres::job::{self, Job, Setup};
use strongroom_tests::postgres::{PASSWORD, USER, Version};
use strongroom_tests::tool::LONG;
use strongroom_tests::wire::{Way, Wire};
use strongroom_tests::{free_port, wait_until};

/// A pod that is a PostgreSQL server of its own, with a database `shop` that asks for a password.
struct PostgresPod {
    cluster: &'static Cluster,
    namespace: String,
    port: u16,
}

impl PostgresPod {
    fn start() -> Self {
        let cluster = Cluster::shared("pod");
        let (namespace, port) = (cluster.namespace("postgres").unwrap(), free_port().unwrap());
        let [initdb, postgres] = ["initdb", "postgres"].map(|name| Version::V15.program(name).unwrap());
        let script = format!(
            "printf %s \"$SUPERUSER\" >password && {} --no-sync --username={USER} --auth=scram-sha-256 --pwfile=password \
             --encoding=UTF8 --locale=C.UTF-8 --pgdata=data && \
             exec {} -D data -k \"$POD_DIR\" -p {port} -c listen_addresses=127.0.0.1 -c fsync=off",
            initdb.display(),
            postgres.display(),
        );
        let spec = json!({
            "securityContext": {"runAsUser": 65534, "runAsGroup": 65534},
            "containers": [{"name": "postgres", "image": "postgres:15", "command": ["/bin/sh", "-c", script],
                "env": [{"name": "SUPERUSER", "value": PASSWORD}]}],
        });
        cluster.pod(&namespace, "pg-0", &json!({"app": "pg"}), &spec).unwrap();
        let pod = Self { cluster, namespace, port };
        wait_until("PostgreSQL in its pod", LONG, || pod.sql("postgres", "SELECT 1").map(Some)).unwrap();
        pod
    }

    fn sql(&self, database: &str, sql: &str) -> anyhow::Result<String> {
        let output = std::process::Command::new(Version::V15.program("psql")?)
            .args(["-X", "-A", "-t", "-q", "-v", "ON_ERROR_STOP=1", "-c", sql])
            .env_clear()
            .envs([("PGHOST", "127.0.0.1"), ("PGUSER", USER), ("PGPASSWORD", PASSWORD), ("PGDATABASE", database)])
            .env("PGPORT", self.port.to_string())
            .output()?;
        anyhow::ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8(output.stdout)?.trim().to_owned())
    }

    /// Rows and digest of what a restore has to bring back.
    fn digest(&self, database: &str) -> String {
        let sql = "SELECT count(*), md5(string_agg(t::text, '' ORDER BY id)) FROM ledger AS t";
        self.sql(database, sql).unwrap()
    }

    /// Configures the job with commands in this pod, through a port of the loopback.
    fn configure(&self, job: &Job, port: u16) {
        let kubeconfig = self.cluster.kubeconfig_at(self.cluster.admin(), port).unwrap();
        let place = format!(
            "{{ pod = {{ cluster = \"test\", namespace = {:?}, selector = \"app=pg\", container = \"postgres\" }} }}",
            self.namespace
        );
        let env =
            |user: &str| format!("env = {{ PGHOST = \"127.0.0.1\", PGPORT = \"{}\", PGUSER = {user:?} }}", self.port);
        let more = format!(
            "[cluster.test]\nkubeconfig = {kubeconfig:?}\ncontext = \"admin\"\n\n[target.beside]\nrun_in = {place}\n{}\n\
             secrets = {{ PGPASSWORD = {{ file = \"password\" }} }}\noptions = {{ scratch = \"database\" }}",
            env("verifier"),
        );
        let settings = "databases = [\"shop\"]".to_owned();
        job.configure_env(&env(USER), &Setup { settings, more, run_in: Some(place), ..Setup::default() });
    }
}

#[test]
fn postgres_in_a_pod_is_backed_up_verified_and_restored_through_exec_alone_and_a_cut_is_never_a_success() {
    let pod = PostgresPod::start();
    pod.sql("postgres", "CREATE DATABASE shop").unwrap();
    // 6 MB that hardly compress away.
    let rows = "SELECT g AS id, md5(g::text) || md5((g * 7)::text) AS body FROM generate_series(1, 60000) g";
    pod.sql("shop", &format!("CREATE TABLE ledger AS {rows}; ALTER TABLE ledger ADD PRIMARY KEY (id)")).unwrap();
    // A role that is not a superuser tests a restore in a database of its own.
    pod.sql("postgres", &format!("CREATE ROLE verifier LOGIN CREATEDB PASSWORD '{PASSWORD}'")).unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let wire = runtime.block_on(Wire::to(pod.cluster.port())).unwrap();
    let job = Job::new(job::Into::Folder, Version::V15);
    pod.configure(&job, wire.port());

    let id = job.backup();
    let shown = job.run(&["show", "orders", &id, "--output", "json"]).check_code(0).json();
    let artifacts = shown["record"]["artifacts"].as_array().unwrap();
    let dump = artifacts.iter().find(|artifact| artifact["name"] == "shop.dump").unwrap();
    assert_eq!(dump["origin"], json!({"kind": "exec", "command": "pg_dump", "proof": "cksum"}));
    let passed = wire.passed(Way::Down);
    job.run(&["verify", "orders", &id, "--depth", "restore", "--target", "beside"]).check_code(0);

    let before = pod.digest("shop");
    assert!(before.starts_with("60000|"), "{before}");
    pod.sql("postgres", "ALTER DATABASE shop RENAME TO before").unwrap();
    job.run(&["restore", "orders", &id]).check_code(0);
    assert_eq!(pod.digest("shop"), before);

    // The dump lies in the last three quarters of what came down: somewhere in there the wire is cut. Before it lie
    // questions that are asked again when their answer is lost.
    let mut dice = Dice::seeded();
    for turn in xtask::soak::turns(3, "cuts of a backup of PostgreSQL") {
        let (cuts, at) = (wire.cuts(), passed / 4 + dice.below(passed * 5 / 8));
        wire.cut_after(Way::Down, at);
        let failed = job.run(&["backup", "orders"]);
        let what = format!("turn {turn}, cut after {at} of {passed} bytes: {}", failed.shown());
        assert_eq!((failed.code, wire.cuts()), (Some(1), cuts + 1), "{what}");
        let listed = job.run(&["list", "orders", "--output", "json"]).check_code(0).json();
        assert_eq!(listed["backups"].as_array().map(Vec::len), Some(1), "{what}");
    }
    job.backup();
}
