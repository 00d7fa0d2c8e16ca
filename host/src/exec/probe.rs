//! Whether a granted program is there, and what version it says it is: for `diagnose`.
//!
//! A grant is a whole command line, so a program is never started with arguments that nobody
//! granted, unless it is one of a few that are known to do nothing with `--version` but print it.

use super::{Place, Program, RunIn, check_unpinned, pinned, spawn_opened};
use crate::error::{Error, IoContext, Result};
use crate::policy::exec::CommandLine;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Programs that print their version and end when they are given `--version`.
const TELL_VERSION: &[&str] = &[
    "createdb",
    "dropdb",
    "initdb",
    "pg_amcheck",
    "pg_basebackup",
    "pg_ctl",
    "pg_dump",
    "pg_dumpall",
    "pg_isready",
    "pg_restore",
    "pg_verifybackup",
    "postgres",
    "psql",
    "redis-cli",
    "redis-server",
    "tar",
    "vacuumdb",
    "valkey-cli",
];

/// How long it may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// Says what is known of `program` where the job's commands run: its version, or that it is there.
///
/// Errors: `NotFound`, `Denied` (not executable, or not the file of this digest), and those of running it.
pub async fn probe(place: &Arc<Place>, program: &str, sha256: Option<&str>) -> Result<String> {
    let name = program.rsplit('/').next().unwrap_or(program);
    let version =
        CommandLine { sha256: sha256.map(str::to_owned), ..CommandLine::plain("version", program, &["--version"]) };
    let opened = match &place.run_in {
        RunIn::Local { .. } => pinned(&version, None).await?,
        RunIn::Container { .. } | RunIn::Pod(_) => check_unpinned(&version, "somewhere else").map(|()| None)?,
    };
    if TELL_VERSION.contains(&name) {
        let output = run(place, version, opened).await?;
        let said = String::from_utf8_lossy(&output).lines().next().unwrap_or_default().trim().to_owned();
        return Ok(if said.is_empty() { "it is there, and says no version".to_owned() } else { said });
    }
    match &place.run_in {
        RunIn::Local { .. } => {
            let about = std::fs::metadata(program).doing(|| format!("find the program \"{program}\""))?;
            if !about.is_file() || about.permissions().mode() & 0o111 == 0 {
                return Err(Error::denied(format!("\"{program}\" cannot be executed"))
                    .fact("got", format!("mode {:04o}", about.permissions().mode() & 0o7777)));
            }
        }
        // A fixed text of the host's own; the path is an argument of it.
        RunIn::Container { .. } | RunIn::Pod(_) => {
            let command = CommandLine::plain("version", "/bin/sh", &["-c", "test -x \"$1\"", "sh", program]);
            run(place, command, None).await?;
        }
    }
    Ok("it is there".to_owned())
}

async fn run(place: &Arc<Place>, command: CommandLine, opened: Option<Program>) -> Result<Vec<u8>> {
    let program = command.program.clone();
    let command = CommandLine { inspect: true, timeout: Some(PATIENCE), ..command };
    let cancel = CancellationToken::new();
    let process = spawn_opened(command, opened, place.clone(), None, None, PATIENCE, cancel).await?;
    let output = process.run_to_end(64 * 1024).await?;
    if output.exit.is_success() {
        return Ok(output.stdout);
    }
    Err(Error::not_found(format!("\"{program}\" does not answer"))
        .fact("got", format!("exit code {:?}: {}", output.exit.code, output.exit.stderr.trim())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secret::Secrets;
    use std::collections::BTreeMap;

    fn here() -> Arc<Place> {
        Arc::new(Place {
            run_in: RunIn::Local { user: None },
            env: BTreeMap::new(),
            secrets: Secrets::default(),
            pod: None,
        })
    }

    #[tokio::test]
    async fn known_programs_tell_their_version_and_others_are_only_looked_at() {
        let probe = async |program: &str| probe(&here(), program, None).await;
        assert!(probe("/usr/bin/tar").await.unwrap().starts_with("tar"), "its version");
        // Started with any arguments, this one would not end.
        assert_eq!(probe("/usr/bin/yes").await.unwrap(), "it is there");
        assert!(probe("/nonexistent/psql").await.is_err());
        assert!(probe("/etc/passwd").await.is_err());
    }

    #[tokio::test]
    async fn a_program_that_is_pinned_is_neither_run_nor_called_there_when_it_is_another() {
        for program in ["/usr/bin/tar", "/usr/bin/yes"] {
            let sha256 = Program::open(program).unwrap().sha256().to_owned();
            assert!(probe(&here(), program, Some(&sha256)).await.is_ok());
            let error = probe(&here(), program, Some(&"0".repeat(64))).await.unwrap_err();
            assert_eq!(error.kind(), crate::error::Kind::Denied, "{error:?}");
        }
    }
}
