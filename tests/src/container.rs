//! A real container: podman with runc over a root file system made of busybox alone.
//!
//! Storage, state and image lie in a scratch directory and go with it; nothing of the machine's own
//! podman is seen or touched.

use anyhow::{Context, Result, bail, ensure};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;
use tempfile::TempDir;

/// How to get what this needs.
const INSTALL: &str = "apt-get install -y --no-install-recommends podman runc busybox-static";

/// How long the host may take to end what a test left running; other tests' programs count too.
const SETTLE: Duration = Duration::from_secs(10);

/// What the image can do besides what a test puts into it.
const APPLETS: [&str; 18] = [
    "sh", "cat", "sleep", "echo", "ps", "kill", "head", "env", "id", "ls", "touch", "rm", "dd", "seq", "true", "false",
    "mkfifo", "wc",
];

/// A running container; removed when it is dropped.
pub struct Container {
    scratch: TempDir,
    name: String,
    client: Vec<String>,
}

impl Container {
    /// Starts a container with `/bin/sh` and a few programs in `/bin`.
    pub fn start() -> Result<Self> {
        Self::start_with(|_| Ok(()))
    }

    /// Starts a container after `prepare` has changed its root file system. Its first process is
    /// `/bin/busybox sleep`, so that even `/bin/sh` may go.
    pub fn start_with(prepare: impl FnOnce(&Path) -> Result<()>) -> Result<Self> {
        for program in ["/usr/bin/podman", "/usr/sbin/runc", "/bin/busybox"] {
            ensure!(Path::new(program).exists(), "{program:?} is missing: run `{INSTALL}` as root");
        }
        let scratch = tempfile::Builder::new().prefix("strongroom-container-").tempdir()?;
        let at = |name: &str| scratch.path().join(name).to_string_lossy().into_owned();
        let client: Vec<String> = [
            "/usr/bin/podman".to_owned(),
            format!("--root={}", at("store")),
            format!("--runroot={}", at("run")),
            "--storage-driver=vfs".to_owned(),
            "--cgroup-manager=cgroupfs".to_owned(),
            "--runtime=runc".to_owned(),
        ]
        .into();
        let root = scratch.path().join("root");
        make_root(&root)?;
        prepare(&root)?;
        let name = scratch.path().file_name().context("a scratch directory has a name")?.to_string_lossy().into_owned();
        let image = at("image.tar");
        let container = Self { scratch, name, client };
        container.run(Path::new("/usr/bin/tar"), &["-C", &root.to_string_lossy(), "-cf", &image, "."])?;
        container.podman(&["import", "--quiet", &image, "local/strongroom-test"])?;
        // runc here must be given limits, and none above the machine's own.
        let limits = ["--ulimit", "nofile=1024:20000", "--ulimit", "nproc=1000:1000"];
        let start = ["run", "--detach", "--network=host", "--name", &container.name];
        let rest = ["local/strongroom-test", "/bin/busybox", "sleep", "3600"];
        container.podman(&[&start[..], &limits[..], &rest[..]].concat())?;
        Ok(container)
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The client with the arguments that come before its verb.
    pub fn client(&self) -> &[String] {
        &self.client
    }

    fn podman(&self, args: &[&str]) -> Result<()> {
        let all: Vec<&str> = self.client[1..].iter().map(String::as_str).chain(args.iter().copied()).collect();
        self.run(Path::new(&self.client[0]), &all)
    }

    fn run(&self, program: &Path, args: &[&str]) -> Result<()> {
        let output = Command::new(program).args(args).stdin(Stdio::null()).output();
        let output = output.with_context(|| format!("could not run {program:?}"))?;
        if !output.status.success() {
            bail!("{program:?} {args:?} failed: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(())
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        // The host looks for left-over programs after a command's handles are gone; a client that comes
        // later than the removal would make the storage anew.
        let settle = || -> std::io::Result<usize> {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
            Ok(runtime.block_on(strongroom::exec::settled(SETTLE)))
        };
        // On a thread of its own: a test's runtime may be the one that drops this.
        let _ = std::thread::spawn(settle).join();
        if let Err(error) = self.podman(&["rm", "--force", "--time", "0", &self.name]) {
            // Said where the test's own failure is read; a panic here would hide that one.
            let _ = std::fs::write("/dev/stderr", format!("{error:#} ({})\n", self.scratch.path().display()));
        }
    }
}

fn make_root(root: &Path) -> Result<()> {
    for dir in ["bin", "tmp", "dev", "proc", "sys", "etc"] {
        std::fs::create_dir_all(root.join(dir))?;
    }
    std::fs::copy("/bin/busybox", root.join("bin/busybox"))?;
    for applet in APPLETS {
        symlink("busybox", root.join("bin").join(applet))?;
    }
    std::fs::write(root.join("etc/passwd"), "root:x:0:0:root:/:/bin/sh\n")?;
    Ok(())
}
