//! Real PostgreSQL servers, 15 and 18, in scratch directories on free loopback ports.
//!
//! A server refuses to run as root: as root the kit runs it as `nobody`, which the cache of test servers
//! admits (`/var/cache/strongroom-test`). Everybody on this machine may connect as anybody, through the
//! socket as well as through the port; [`Access::Password`] asks for [`PASSWORD`] instead.

pub mod job;

use crate::{cached, free_port, wait_until};
use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use std::fs::{self, File};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// The superuser of every server here.
pub const USER: &str = "postgres";

/// The superuser's password where one is asked for.
pub const PASSWORD: &str = "strongroom-test-password";

/// A name that every machine knows for nobody, by its number.
const NOBODY: u32 = 65_534;

/// Starting takes 0.2 s on an idle machine, and tests share theirs with builds.
const START_WAIT: Duration = Duration::from_secs(60);

/// Two databases with roles, grants, settings, large objects, partitions, extensions, generated columns,
/// a materialised view, row security and names that need quoting.
const SAMPLE: &str = include_str!("postgres/sample.sql");

/// Which server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// Debian's 15.
    V15,
    /// The newest.
    V18,
}

impl Version {
    /// Both.
    pub const ALL: [Version; 2] = [Version::V15, Version::V18];

    fn folder(self) -> &'static str {
        match self {
            Version::V15 => "postgres-15",
            Version::V18 => "postgres-18",
        }
    }

    /// One of its programs, such as `pg_dump`.
    pub fn program(self, name: &str) -> Result<PathBuf> {
        let path = cached(self.folder())?.join("bin").join(name);
        if !path.exists() {
            bail!("there is no program at {}: run `cargo xtask test prerequisites`", path.display());
        }
        // Resolved, since the servers find their other files by their real place.
        fs::canonicalize(&path).with_context(|| format!("could not resolve {}", path.display()))
    }
}

/// Who may connect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Everybody on this machine, as anybody.
    Trust,
    /// Who knows the password.
    Password,
}

/// A running server; stopped, and its directory removed, when this is dropped.
#[derive(Debug)]
pub struct Postgres {
    version: Version,
    port: u16,
    child: Child,
    // After the child: fields are dropped in this order.
    scratch: tempfile::TempDir,
}

impl Postgres {
    /// Makes an empty server and starts it; returns when it answers.
    pub fn start(version: Version) -> Result<Self> {
        Self::start_with(version, Access::Trust, &[])
    }

    /// The same with settings, such as `("max_connections", "20")`.
    pub fn start_with(version: Version, access: Access, settings: &[(&str, &str)]) -> Result<Self> {
        let mut last = None;
        // Somebody else may take the free port first.
        for _ in 0..3 {
            match Self::start_once(version, access, settings) {
                Ok(server) => return Ok(server),
                Err(error) => last = Some(error),
            }
        }
        Err(last.context("no attempt was made")?)
    }

    fn start_once(version: Version, access: Access, settings: &[(&str, &str)]) -> Result<Self> {
        // A socket's path may have 107 bytes, and every user of the machine must reach it.
        let scratch = tempfile::Builder::new().prefix("strongroom-pg-").tempdir_in("/tmp")?;
        fs::set_permissions(scratch.path(), fs::Permissions::from_mode(0o755))?;
        let password = scratch.path().join("password");
        fs::write(&password, PASSWORD)?;
        give_away(scratch.path())?;
        give_away(&password)?;
        let method = match access {
            Access::Trust => "trust",
            Access::Password => "scram-sha-256",
        };
        let initdb = as_nobody(Command::new(version.program("initdb")?))
            .args(["--no-sync", "--encoding=UTF8", "--locale=C.UTF-8", "--username", USER, "--auth", method])
            .arg("--pgdata")
            .arg(scratch.path().join("data"))
            .arg("--pwfile")
            .arg(&password)
            .current_dir(scratch.path())
            .stdin(Stdio::null())
            .output()
            .context("could not start initdb")?;
        if !initdb.status.success() {
            bail!("initdb ended with {}: {}", initdb.status, String::from_utf8_lossy(&initdb.stderr));
        }
        let port = free_port()?;
        let child = spawn(version, scratch.path(), port, settings)?;
        let mut server = Self { version, port, child, scratch };
        server.wait_ready()?;
        Ok(server)
    }

    /// Its version.
    pub fn version(&self) -> Version {
        self.version
    }

    /// Its port on 127.0.0.1, and the number in the name of its socket.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The directory of its socket, which every user may enter.
    pub fn socket_dir(&self) -> &Path {
        self.scratch.path()
    }

    /// What a job's `env` needs to reach it through its port.
    pub fn env(&self) -> [(&'static str, String); 3] {
        [("PGHOST", "127.0.0.1".to_owned()), ("PGPORT", self.port.to_string()), ("PGUSER", USER.to_owned())]
    }

    /// Where it logs.
    pub fn log(&self) -> String {
        fs::read_to_string(self.scratch.path().join("log")).unwrap_or_default()
    }

    /// A directory that the server may use, such as for a tablespace.
    pub fn directory(&self, name: &str) -> Result<PathBuf> {
        let path = self.scratch.path().join(name);
        fs::create_dir(&path)?;
        give_away(&path)?;
        Ok(path)
    }

    /// One of the server's own programs with the environment to reach it, as its superuser.
    pub fn command(&self, program: &str) -> Result<Command> {
        let mut command = Command::new(self.version.program(program)?);
        command.env_clear().env("LANG", "C.UTF-8").env("PGPASSWORD", PASSWORD).envs(self.env());
        command.current_dir(self.scratch.path()).stdin(Stdio::null());
        Ok(command)
    }

    /// Runs SQL in a database and returns what it prints, bare; stops at the first error. Meta-commands
    /// of psql work.
    pub fn sql(&self, database: &str, sql: &str) -> Result<String> {
        let script = self.scratch.path().join("script.sql");
        fs::write(&script, sql)?;
        let output = self
            .command("psql")?
            .args(["-X", "-A", "-t", "-q", "-v", "ON_ERROR_STOP=1", "-f"])
            .arg(&script)
            .env("PGDATABASE", database)
            .output()
            .context("could not start psql")?;
        if !output.status.success() {
            bail!("psql ended with {}: {}", output.status, String::from_utf8_lossy(&output.stderr));
        }
        Ok(String::from_utf8(output.stdout)?.trim_end().to_owned())
    }

    /// Fills it with the sample: databases `shop-orders` and `billing`, roles, a tablespace.
    pub fn fill(&self) -> Result<()> {
        self.sql("postgres", SAMPLE)?;
        let location = self.directory("fast-disk")?;
        let tablespace = format!(
            "CREATE TABLESPACE \"fast disk\" OWNER app_owner LOCATION '{}' WITH (random_page_cost = 1.1);\n\
             GRANT CREATE ON TABLESPACE \"fast disk\" TO reader;\n\\connect billing\n\
             CREATE TABLE quick (i int) TABLESPACE \"fast disk\";",
            location.display()
        );
        self.sql("postgres", &tablespace)?;
        Ok(())
    }

    /// Stops it at once, as a crash would; it does not come back.
    pub fn crash(&mut self) {
        self.end(Signal::QUIT);
    }

    fn wait_ready(&mut self) -> Result<()> {
        let ready = self.version.program("pg_isready")?;
        let port = self.port.to_string();
        let (child, log) = (&mut self.child, self.scratch.path().join("log"));
        wait_until("the PostgreSQL server", START_WAIT, || {
            if let Some(status) = child.try_wait()? {
                bail!("it ended with {status}: {}", fs::read_to_string(&log).unwrap_or_default());
            }
            let asked = Command::new(&ready)
                .args(["-q", "-h", "127.0.0.1", "-p", &port])
                .env_clear()
                .stdin(Stdio::null())
                .status()?;
            Ok(asked.success().then_some(()))
        })
    }

    fn end(&mut self, signal: Signal) {
        let Ok(pid) = i32::try_from(self.child.id()) else { return };
        if self.child.try_wait().is_ok_and(|status| status.is_none())
            && let Some(pid) = Pid::from_raw(pid)
        {
            // It may have ended by itself meanwhile.
            let _ = kill_process(pid, signal);
        }
        let _ = self.child.wait();
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        // Fast shutdown: sessions are ended, and nothing is waited for.
        self.end(Signal::INT);
    }
}

fn spawn(version: Version, scratch: &Path, port: u16, settings: &[(&str, &str)]) -> Result<Child> {
    let log = File::create(scratch.join("log"))?;
    let mut command = as_nobody(Command::new(version.program("postgres")?));
    command.arg("-D").arg(scratch.join("data")).arg("-k").arg(scratch);
    command.args(["-p", &port.to_string(), "-c", "listen_addresses=127.0.0.1"]);
    // A test that loses power has other worries.
    for (name, value) in [("fsync", "off"), ("full_page_writes", "off")].iter().chain(settings) {
        command.arg("-c").arg(format!("{name}={value}"));
    }
    command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
    command.current_dir(scratch).spawn().context("could not start the PostgreSQL server")
}

/// Makes a command run as `nobody` when the tests run as root.
fn as_nobody(mut command: Command) -> Command {
    command.env_clear().env("LANG", "C.UTF-8");
    if rustix::process::geteuid().is_root() {
        command.uid(NOBODY).gid(NOBODY);
    }
    command
}

/// Gives a file or directory to the user that the servers run as.
fn give_away(path: &Path) -> Result<()> {
    if rustix::process::geteuid().is_root() {
        chown(path, Some(NOBODY), Some(NOBODY)).with_context(|| format!("could not give {} away", path.display()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{Access, Postgres, Version};

    #[test]
    fn servers_of_both_versions_start_with_the_sample_and_stop() {
        for version in Version::ALL {
            let server = Postgres::start(version).unwrap();
            server.fill().unwrap();
            assert_eq!(server.sql("billing", "SELECT count(*) FROM invoice").unwrap(), "20000");
            let dir = server.socket_dir().to_path_buf();
            drop(server);
            assert!(!dir.exists());
        }
    }

    #[test]
    fn a_server_that_asks_for_a_password_refuses_a_wrong_one() {
        let server = Postgres::start_with(Version::V18, Access::Password, &[("max_connections", "20")]).unwrap();
        assert_eq!(server.sql("postgres", "SHOW max_connections").unwrap(), "20");
        let refused =
            server.command("psql").unwrap().args(["-X", "-c", "SELECT 1"]).env("PGPASSWORD", "wrong").output().unwrap();
        assert!(String::from_utf8_lossy(&refused.stderr).contains("password authentication failed"));
    }
}
