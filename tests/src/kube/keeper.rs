//! The processes of a cluster, and their end.
//!
//! Guarantee: no process of a cluster and no file of it is left, however the process that started it ends:
//! a shell script holds the other end of a pipe, and when that closes (also because the test was killed)
//! it ends the servers in order, then what the node's pods have left, and removes the directory.

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};

/// Arguments: the directory, the servers in the order in which they end. The node is asked, since it ends its pods;
/// the others have nothing to save. Who has the number of a server but not its directory on its command
/// line is somebody else, or has ended. What runs in a pod carries its directory in its environment.
const SCRIPT: &str = r#"dir=$1; shift
cat >/dev/null
is_mine() { tr '\0' ' ' <"/proc/$1/cmdline" | grep -qF -- "$dir"; } 2>/dev/null
for name in "$@"; do
  pid=$(cat "$dir/$name.pid" 2>/dev/null) || continue
  turns=0
  while is_mine "$pid"; do
    signal=KILL
    if [ "$name" = podlet ] && [ "$turns" -lt 100 ]; then signal=TERM; fi
    kill -s "$signal" "$pid"
    kill -s CONT "$pid"
    turns=$((turns + 1))
    sleep 0.05
  done
done
for file in $(grep -lzsF -- "POD_DIR=$dir/" /proc/[0-9]*/environ); do
  pid=${file#/proc/}
  kill -s KILL "${pid%/environ}"
done
rm -rf -- "$dir""#;

/// A server of a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Server {
    /// The node.
    Podlet,
    /// What acts on objects: Deployments, garbage, namespaces.
    ControllerManager,
    /// What clients talk to.
    ApiServer,
    /// Where objects are.
    Etcd,
}

impl Server {
    /// All of them, in the order in which they are stopped: each before those that it needs.
    pub const ALL: [Server; 4] = [Server::Podlet, Server::ControllerManager, Server::ApiServer, Server::Etcd];

    fn name(self) -> &'static str {
        match self {
            Server::Podlet => "podlet",
            Server::ControllerManager => "controller-manager",
            Server::ApiServer => "api-server",
            Server::Etcd => "etcd",
        }
    }
}

/// The processes of one cluster; dropping this ends them and removes their directory.
#[derive(Debug)]
pub struct Keeper {
    dir: PathBuf,
    script: Child,
    /// What every server but the node gets: what the node has, its pods have too.
    environment: Vec<(String, String)>,
    servers: Mutex<Vec<(Server, Child)>>,
}

impl Keeper {
    /// Makes a directory whose content this will keep. Servers get `environment`, but not the node.
    pub(super) fn start(environment: &[(&str, &str)]) -> Result<(Self, PathBuf)> {
        // Everybody may enter: containers may run as other users.
        let dir = tempfile::Builder::new().prefix("strongroom-kube-").tempdir()?.keep();
        std::fs::set_permissions(&dir, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
        let script = Command::new("/bin/sh")
            .args(["-c", SCRIPT, "keeper"])
            .arg(&dir)
            .args(Server::ALL.map(Server::name))
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .current_dir("/")
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("could not start /bin/sh")?;
        let environment = environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Ok((Self { dir: dir.clone(), script, environment, servers: Mutex::default() }, dir))
    }

    /// Starts a server, which has the directory somewhere on its command line.
    pub(super) fn spawn(&mut self, server: Server, mut command: Command) -> Result<()> {
        let log = File::create(self.log_file(server))?;
        // A key press in the terminal is not for servers.
        command.process_group(0).current_dir(&self.dir).env_clear().env("PATH", "/usr/local/bin:/usr/bin:/bin");
        command.env("HOME", &self.dir).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        if server != Server::Podlet {
            command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        }
        let child = command.spawn().with_context(|| format!("could not start {}", server.name()))?;
        std::fs::write(self.dir.join(format!("{}.pid", server.name())), child.id().to_string())?;
        self.servers.get_mut().unwrap_or_else(PoisonError::into_inner).push((server, child));
        Ok(())
    }

    /// Fails when a server has ended.
    pub(super) fn check_alive(&mut self) -> Result<()> {
        for (server, child) in self.servers.get_mut().unwrap_or_else(PoisonError::into_inner) {
            if let Some(status) = child.try_wait()? {
                bail!("{} ended with {status}", server.name());
            }
        }
        Ok(())
    }

    fn log_file(&self, server: Server) -> PathBuf {
        self.dir.join(format!("{}.log", server.name()))
    }

    /// What a server wrote.
    pub(super) fn log(&self, server: Server) -> String {
        let bytes = std::fs::read(self.log_file(server)).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// The last lines that a server wrote, for an error; nothing where it was not started.
    pub(super) fn end_of_log(&self, server: Server) -> String {
        let log = self.log(server);
        let lines: Vec<&str> = log.lines().rev().take(5).collect();
        lines.iter().rev().map(|line| format!("{}: {line}\n", server.name())).collect()
    }

    /// Stops a server until the guard is dropped.
    pub(super) fn pause(&self, server: Server) -> Result<Paused<'_>> {
        self.signal(server, Signal::STOP)?;
        Ok(Paused { keeper: self, server })
    }

    fn signal(&self, server: Server, signal: Signal) -> Result<()> {
        let mut servers = self.servers.lock().unwrap_or_else(PoisonError::into_inner);
        let found = servers.iter_mut().find(|(known, _)| *known == server);
        let (_, child) = found.with_context(|| format!("{} was not started", server.name()))?;
        if let Some(status) = child.try_wait()? {
            bail!("{} ended with {status}", server.name());
        }
        let pid = Pid::from_raw(i32::try_from(child.id())?).context("a process has a number")?;
        kill_process(pid, signal).with_context(|| format!("could not signal {}", server.name()))
    }

    /// Its directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        // The end of its input is what the script waits for.
        drop(self.script.stdin.take());
        let _ = self.script.wait();
        for (_, child) in self.servers.get_mut().unwrap_or_else(PoisonError::into_inner) {
            let _ = child.wait();
        }
    }
}

/// A server that stands still; it goes on when this is dropped.
#[derive(Debug)]
pub struct Paused<'a> {
    keeper: &'a Keeper,
    server: Server,
}

impl Drop for Paused<'_> {
    fn drop(&mut self) {
        // A server that has ended meanwhile cannot go on.
        let _ = self.keeper.signal(self.server, Signal::CONT);
    }
}
