//! A sandbox with a job of the plugin `postgres`: approved by the real `plugin approve`, with the programs
//! of one version, a store with encryption, and a server that a test names.

use super::{PASSWORD, Postgres, Version};
use crate::relay::{private, sha256};
use crate::s3::{ACCESS_KEY, BUCKET, S3Server, SECRET_KEY, Server};
use crate::warm::Warm;
use crate::{Output, Sandbox, plugin};
use age::secrecy::ExposeSecret;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use strongroom::store::Store;
use strongroom::store::s3::S3Store;
use tokio::runtime::Runtime;

/// What the plugin asks for of an installation of PostgreSQL.
const PROGRAMS: [&str; 7] = ["initdb", "pg_amcheck", "pg_dump", "pg_dumpall", "pg_restore", "postgres", "psql"];

/// The table that everything behind was written by `plugin approve`.
const PLUGIN: &str = "[plugin.postgres]";

/// The job `orders`.
#[derive(Debug)]
pub struct Job {
    /// Where everything is.
    pub sandbox: Sandbox,
    /// The server that receives the backups, unless it is a directory.
    s3: Option<S3Server>,
    recipient: String,
    approved: String,
    // Beside the sandbox, which is private: the scratch server runs as somebody else.
    _scratch: tempfile::TempDir,
}

/// Where the backups go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Into {
    /// A directory of the sandbox.
    Folder,
    /// versitygw.
    S3,
}

/// What differs between one configuration and another.
#[derive(Clone, Debug, Default)]
pub struct Setup {
    /// The job's `settings`, as TOML lines.
    pub settings: String,
    /// The job's password; the right one unless set.
    pub password: Option<String>,
    /// More tables, such as a target.
    pub more: String,
    /// The job's `run_in`; this machine unless set.
    pub run_in: Option<String>,
}

impl Job {
    /// Approves the plugin with the programs of `clients`.
    pub fn new(into: Into, clients: Version) -> Self {
        let mut job = Self::unapproved(into);
        job.use_programs(clients);
        job
    }

    /// Approves the plugin again with the programs of another version. The job has to be configured
    /// after that.
    pub fn use_programs(&mut self, clients: Version) {
        self.approve(|name| installed(clients, name));
    }

    /// The same with the programs of a directory, which need not be on this machine.
    pub fn use_programs_in(&mut self, dir: &Path) {
        self.approve(|name| dir.join(name));
    }

    /// Approves the plugin with a script in place of one program, which is told the sandbox's folder.
    pub fn with_program(into: Into, clients: Version, name: &str, script: impl FnOnce(&Path) -> String) -> Self {
        let mut job = Self::unapproved(into);
        let path = job.sandbox.write(name, script(job.sandbox.dir()));
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("its mode");
        job.approve(|wanted| if wanted == name { path.clone() } else { installed(clients, wanted) });
        job
    }

    fn unapproved(into: Into) -> Self {
        static WARM: Warm = Warm::new("postgres");
        let job = Self::cold(into);
        WARM.give(&job.sandbox, || {
            // A server that is nowhere: the plugin is compiled to find that out.
            let mut job = Self::cold(Into::Folder);
            job.use_programs(Version::V18);
            job.configure_env(
                "env = { PGHOST = \"127.0.0.1\", PGPORT = \"1\", PGUSER = \"nobody\" }",
                &Setup::default(),
            );
            job.sandbox.run(["diagnose", "orders"]);
            job.sandbox
        });
        job
    }

    fn cold(into: Into) -> Self {
        let mut sandbox = Sandbox::new();
        let scratch = tempfile::Builder::new().prefix("strongroom-tmp-").tempdir_in("/tmp").expect("a folder");
        std::fs::set_permissions(scratch.path(), std::fs::Permissions::from_mode(0o755)).expect("its mode");
        for (name, value) in [("S3_KEY", ACCESS_KEY), ("S3_SECRET", SECRET_KEY)] {
            sandbox.set_env(name, value);
        }
        sandbox.set_env("TMPDIR", scratch.path());
        let identity = age::x25519::Identity::generate();
        private(&sandbox.write("identity.txt", identity.to_string().expose_secret()));
        std::fs::create_dir(sandbox.path("store")).expect("the store's folder");
        let s3 = (into == Into::S3).then(|| {
            let started = runtime().block_on(S3Server::start(Server::Versitygw));
            started.unwrap_or_else(|error| panic!("{error:#}"))
        });
        let component = plugin("postgres").unwrap_or_else(|error| panic!("{error:#}"));
        let recipient = identity.to_public().to_string();
        let approved = format!("{PLUGIN}\nsource = {component:?}\n");
        Self { sandbox, s3, recipient, approved, _scratch: scratch }
    }

    /// Approves the plugin as an operator does who has looked at it: this digest, these programs.
    fn approve(&mut self, path_of: impl Fn(&str) -> PathBuf) {
        self.write("", &Setup::default());
        let component = plugin("postgres").expect("the plugin was found before");
        let digest = sha256(&std::fs::read(component).expect("the plugin"));
        let mut args: Vec<String> = ["plugin", "approve", "postgres", "--digest", &digest].map(str::to_owned).into();
        for name in PROGRAMS {
            args.extend(["--program".to_owned(), format!("{name}={}", path_of(name).display())]);
        }
        self.sandbox.run(&args).check_code(0);
        let text = std::fs::read_to_string(self.sandbox.path("strongroom.toml")).expect("the configuration");
        self.approved = text[text.find(PLUGIN).expect("the plugin's table")..].to_owned();
    }

    /// Makes `server` the one that is backed up.
    pub fn configure(&self, server: &Postgres, setup: &Setup) {
        self.configure_env(&env(server), setup);
    }

    /// The same for a server that the kit did not start: `env` is a TOML line that says where it is.
    pub fn configure_env(&self, env: &str, setup: &Setup) {
        self.write(env, setup);
    }

    fn write(&self, env: &str, setup: &Setup) {
        let place = match &self.s3 {
            None => "type = \"local\"\npath = \"store\"".to_owned(),
            Some(server) => format!(
                "type = \"s3\"\nbucket = \"{BUCKET}\"\nendpoint = \"http://127.0.0.1:{}\"\n\
                 access_key = {{ env = \"S3_KEY\" }}\nsecret_key = {{ env = \"S3_SECRET\" }}",
                server.port()
            ),
        };
        let Setup { settings, password, more, run_in } = setup;
        let run_in = run_in.as_ref().map(|place| format!("run_in = {place}")).unwrap_or_default();
        let password = self.sandbox.write("password", password.as_deref().unwrap_or(PASSWORD));
        private(&password);
        self.sandbox.config(&format!(
            r#"
[store.main]
{place}
recipients = ["{recipient}"]
identity = {{ file = "identity.txt" }}

# A scratch server of its own: PostgreSQL refuses to run as root.
[target.own-server]
run_in = {{ user = "nobody" }}

{more}

[job.orders]
plugin = "postgres"
store = "main"
secrets = {{ PGPASSWORD = {{ file = "password" }} }}
{env}
{run_in}

[job.orders.settings]
{settings}

{approved}"#,
            recipient = self.recipient,
            approved = self.approved,
        ));
    }

    /// Runs `strongroom` with these arguments.
    pub fn run(&self, args: &[&str]) -> Output {
        self.sandbox.run(args)
    }

    /// Makes a backup that must succeed, and returns its id.
    #[track_caller]
    pub fn backup(&self) -> String {
        let made = self.run(&["backup", "orders", "--output", "json"]);
        made.check_code(0);
        made.json()["id"].as_str().expect("a backup has an id").to_owned()
    }

    /// Makes the first backup of a server that took the place of another one: refused, until it is said
    /// that this is on purpose.
    #[track_caller]
    pub fn backup_of_another_server(&self) -> String {
        let refused = self.run(&["backup", "orders", "--output", "json"]).check_code(4).json();
        let facts = refused["error"]["facts"].as_array().expect("facts");
        let got = facts.iter().find(|fact| fact["name"] == "got").expect("the new source");
        let source = got["value"].as_str().expect("an id of a server");
        let made = self.run(&["backup", "orders", "--new-source", source, "--output", "json"]);
        made.check_code(0).json()["id"].as_str().expect("a backup has an id").to_owned()
    }

    /// Fails unless nothing of a backup is to be seen: no entry, no object, no upload under way.
    #[track_caller]
    pub fn check_nothing_stored(&self) {
        let listed = self.run(&["list", "orders", "--output", "json"]);
        assert_eq!(listed.check_code(0).json()["backups"], serde_json::json!([]));
        assert_eq!(listed.json()["unreadable"], serde_json::json!([]));
        let stored = self.stored();
        assert!(!stored.iter().any(|path| path.ends_with("record.json")), "{stored:?}");
        let pending = self.pending_uploads();
        assert!(pending.is_empty(), "{pending:?}");
    }

    /// Keys of the uploads that S3 knows of and that nobody has finished or aborted.
    pub fn pending_uploads(&self) -> Vec<String> {
        let Some(server) = &self.s3 else { return Vec::new() };
        let pending = runtime().block_on(async {
            S3Store::open(server.spec()).await.expect("the store").pending_uploads("").await.expect("uploads")
        });
        pending.into_iter().map(|upload| upload.key).collect()
    }

    /// Files beneath the store, be it a directory or versitygw's.
    fn stored(&self) -> Vec<PathBuf> {
        let root = self.s3.as_ref().map_or_else(|| self.sandbox.path("store"), |server| server.dir().join("data"));
        crate::files(&root).expect("the files of the store")
    }
}

/// `env` of a job or target, as a TOML line.
pub fn env(server: &Postgres) -> String {
    let pairs: Vec<_> = server.env().iter().map(|(name, value)| format!("{name} = {value:?}")).collect();
    format!("env = {{ {} }}", pairs.join(", "))
}

fn installed(version: Version, name: &str) -> PathBuf {
    version.program(name).unwrap_or_else(|error| panic!("{error:#}"))
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")
}
