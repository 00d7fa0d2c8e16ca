//! Strongroom as a user has it: the release binary, a configuration file, a plugin, an age identity.
//!
//! The plugin is the test guest `relay`, which stores what a granted command writes and hands it back to
//! another one; the commands are the producer and the consumer of [`super::role`].

mod kube;

use super::measure::Process;
use super::place::{ACCESS_KEY, Place, SECRET_KEY};
use super::scratch::Scratch;
use super::sink::BUCKET;
use crate::command::{self, Output};
use crate::workspace::Workspace;
use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// The job of every configuration here.
pub const JOB: &str = "bench";

/// What the job backs up.
#[derive(Clone, Debug)]
pub enum Job {
    /// One artifact, from a producer of so many bytes of a file.
    Stream {
        /// The file.
        file: PathBuf,
        /// Bytes; more than it has means again from its beginning.
        bytes: u64,
    },
    /// So many artifacts of a line each, each the output of a command.
    Lines(u64),
    /// So many artifacts of some bytes that the plugin makes itself.
    Tiny(u64),
    /// A directory tree as one archive, with the plugin `bucket`.
    Tree(PathBuf),
    /// Two kinds of objects of a cluster, with the plugin `kubernetes`.
    Objects {
        /// How the cluster is reached, in the context `admin`.
        kubeconfig: PathBuf,
    },
    /// The same as [`Job::Stream`], from a producer in the pod `worker`.
    Pod {
        /// How its cluster is reached.
        kubeconfig: PathBuf,
        /// Its namespace.
        namespace: String,
        /// The file.
        file: PathBuf,
        /// Bytes.
        bytes: u64,
    },
}

/// Paths of everything that it needs.
#[derive(Debug)]
pub struct Host {
    program: PathBuf,
    role: PathBuf,
    dir: PathBuf,
    log: PathBuf,
    recipient: String,
    plugins: [Plugin; 3],
}

#[derive(Debug)]
struct Plugin {
    path: PathBuf,
    digest: String,
}

impl Host {
    /// Makes an identity and builds the plugins with the release host.
    pub fn prepare(workspace: &Workspace, scratch: &Scratch, keygen: &Path) -> Result<Self> {
        let dir = scratch.empty("host")?;
        let program = workspace.release("strongroom");
        let crates = ["tests/guests/relay", "plugins/bucket", "plugins/kubernetes"];
        let [relay, bucket, kubernetes] = crates.map(|krate| Plugin::build(workspace, &program, krate));
        let identity = dir.join("identity.txt");
        command::run(keygen).arg("-o").arg(&identity).read()?;
        private(&identity)?;
        let recipient = command::run(keygen).arg("-y").arg(&identity).read()?;
        let role = workspace.release("xtask");
        let log = scratch.path("role.log");
        Ok(Self { program, role, dir, log, recipient, plugins: [relay?, bucket?, kubernetes?] })
    }

    /// The age recipient, for whoever else encrypts.
    pub fn recipient(&self) -> &str {
        &self.recipient
    }

    /// The age identity, for whoever else decrypts.
    pub fn identity(&self) -> PathBuf {
        self.dir.join("identity.txt")
    }

    /// What it says its version is.
    pub fn version(&self) -> Result<String> {
        command::run(&self.program).arg("--version").read()
    }

    /// Writes the configuration of a job into a place, at a level.
    pub fn configure(&self, place: &Place, level: u32, job: &Job) -> Result<()> {
        let store = match (place.endpoint(), place.folder()) {
            (Some(endpoint), _) => format!(
                "type = \"s3\"\nbucket = \"{BUCKET}\"\nprefix = \"strongroom\"\nendpoint = \"{endpoint}\"\n\
                 access_key = {{ env = \"AWS_ACCESS_KEY_ID\" }}\nsecret_key = {{ env = \"AWS_SECRET_ACCESS_KEY\" }}\n"
            ),
            (None, Some(folder)) => {
                let folder = folder.join("strongroom");
                std::fs::create_dir_all(&folder)?;
                format!("type = \"local\"\npath = \"{}\"\n", folder.display())
            }
            (None, None) => bail!("a place is a server or a folder"),
        };
        let text = format!(
            "[store.main]\n{store}level = {level}\nrecipients = [\"{}\"]\nidentity = {{ file = \"identity.txt\" }}\n\n{}",
            self.recipient,
            self.describe(job)
        );
        let path = self.dir.join("strongroom.toml");
        std::fs::write(&path, text)?;
        private(&path)
    }

    fn describe(&self, job: &Job) -> String {
        let role = |args: &[&str]| {
            let quoted: Vec<_> = args.iter().map(|arg| format!("\"{arg}\"")).collect();
            format!("program = \"{}\"\nargs = [\"bench\", {}]\n", self.role.display(), quoted.join(", "))
        };
        let log = self.log.display().to_string();
        let (produce, settings) = match job {
            Job::Tree(root) => return self.describe_tree(root),
            Job::Objects { kubeconfig } => return self.describe_objects(kubeconfig),
            Job::Pod { kubeconfig, namespace, file, bytes } => {
                let stream = Job::Stream { file: file.clone(), bytes: *bytes };
                return self.describe(&stream) + &kube::run_in_pod(kubeconfig, namespace);
            }
            Job::Stream { file, bytes } => {
                (role(&["produce", &file.display().to_string(), &bytes.to_string(), &log]), String::new())
            }
            Job::Tiny(n) => ("program = \"/bin/true\"\n".to_owned(), format!("artifacts = []\ntiny = {n}")),
            Job::Lines(n) => {
                let names: Vec<_> = (0..*n).map(|n| format!("\"line-{n:06}\"")).collect();
                (
                    "program = \"/bin/echo\"\nargs = [\"a\", \"line\"]\n".to_owned(),
                    format!("artifacts = [{}]", names.join(", ")),
                )
            }
        };
        let Plugin { path, digest } = &self.plugins[0];
        let consume = role(&["consume", &log]);
        let stdin = "stdin = { artifact = \"[A-Za-z0-9._-]+\", made_by = \"produce\" }";
        format!(
            "[plugin.relay]\nsource = \"{}\"\nsha256 = \"{digest}\"\n\n\
             [plugin.relay.limits]\nprocesses = 4096\nopen_streams = 65536\n\n\
             [plugin.relay.grant.artifacts]\n\n\
             [plugin.relay.grant.exec.produce]\n{produce}verbs = [\"backup\"]\neffect = \"reads\"\n\n\
             [plugin.relay.grant.exec.consume]\n{consume}{stdin}\nverbs = [\"restore\"]\neffect = \"changes\"\n\n\
             [job.{JOB}]\nplugin = \"relay\"\nstore = \"main\"\n\n[job.{JOB}.settings]\n{settings}\n",
            path.display()
        )
    }

    fn describe_tree(&self, root: &Path) -> String {
        let Plugin { path, digest } = &self.plugins[1];
        format!(
            "[bucket.tree]\ntype = \"local\"\npath = \"{}\"\n\n\
             [plugin.bucket]\nsource = \"{}\"\nsha256 = \"{digest}\"\n\n\
             [plugin.bucket.grant.artifacts]\n\n\
             [plugin.bucket.grant.bucket.tree]\nmay = [\"list\", \"read\"]\nverbs = [\"backup\"]\neffect = \"reads\"\n\n\
             [job.{JOB}]\nplugin = \"bucket\"\nstore = \"main\"\nsettings = {{ bucket = \"tree\" }}\n",
            root.display(),
            path.display()
        )
    }

    /// The binary with these arguments, as it is measured.
    pub fn process(&self, arguments: &[&str]) -> Process {
        Process::new(&self.program)
            .args(arguments)
            .dir(&self.dir)
            .env("STRONGROOM_STATE_DIR", self.dir.join("state"))
            .env("STRONGROOM_CACHE_DIR", self.dir.join("cache"))
            .env("AWS_ACCESS_KEY_ID", ACCESS_KEY)
            .env("AWS_SECRET_ACCESS_KEY", SECRET_KEY)
            .env("NO_COLOR", "1")
    }

    /// A producer as the first process of a pipeline.
    pub fn producer(&self, file: &Path, bytes: u64) -> Process {
        Process::new(&self.role).args(["bench", "produce"]).args([file]).args([bytes.to_string()]).args([&self.log])
    }

    /// A consumer as the last process of a pipeline.
    pub fn consumer(&self) -> Process {
        Process::new(&self.role).args(["bench", "consume"]).args([&self.log])
    }

    /// Where producers and consumers say what they did.
    pub fn log(&self) -> &Path {
        &self.log
    }
}

impl Plugin {
    fn build(workspace: &Workspace, program: &Path, krate: &str) -> Result<Self> {
        let name = Path::new(krate).file_name().context("a crate has a folder")?.to_string_lossy().into_owned();
        let path = workspace.target.join("bench").join(format!("{name}.wasm"));
        std::fs::create_dir_all(workspace.target.join("bench"))?;
        command::run(program)
            .args(["plugin", "build", krate, "--out"])
            .arg(&path)
            .dir(&workspace.root)
            .env("CARGO_TARGET_DIR", &workspace.target)
            .read()?;
        let said = command::run(program).args(["plugin", "inspect"]).arg(&path).args(["--output", "json"]).read()?;
        let inspected: Value = serde_json::from_str(&said).context("plugin inspect does not speak JSON")?;
        let digest = inspected["sha256"].as_str().context("plugin inspect names no digest")?.to_owned();
        Ok(Self { path, digest })
    }
}

/// Whether a command of the host ended well; its words if not.
pub fn check(output: &Output) -> Result<()> {
    if output.code != Some(0) {
        bail!("strongroom failed with {}\n{}{}", command::exit(output.code), output.stdout, output.stderr);
    }
    Ok(())
}

/// Takes a file's rights away from everybody else: what others can write is refused.
fn private(path: &Path) -> Result<()> {
    Ok(std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?)
}
