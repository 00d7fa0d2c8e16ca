//! Talking to a server: fixed questions, answers as JSON.

use serde::Deserialize;
use serde::de::DeserializeOwned;
use std::io::{BufReader, Lines};
use strongroom_plugin::bytes::Source;
use strongroom_plugin::exec::{Command, Process};
use strongroom_plugin::prelude::*;

/// The oldest server that the questions are written for.
const OLDEST_MAJOR: u32 = 13;

/// The granted command `label` in this database.
pub(crate) fn ask(label: &str, database: &str) -> Command {
    exec::command(label).slot("database", database)
}

/// What `cluster.sql` answers.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Cluster {
    pub(crate) pid: u64,
    pub(crate) database: String,
    pub(crate) version_num: u32,
    pub(crate) version: String,
    pub(crate) psql_version_num: u32,
    pub(crate) system_identifier: String,
    pub(crate) in_recovery: bool,
    pub(crate) user: String,
    pub(crate) superuser: bool,
    pub(crate) create_db: bool,
    pub(crate) reads_passwords: bool,
    pub(crate) server_address: Option<String>,
    pub(crate) cluster_name: String,
    pub(crate) databases: Vec<Database>,
}

/// A database as the server lists it.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Database {
    pub(crate) name: String,
    pub(crate) template: bool,
    /// It takes connections: allowed, and not left half-dropped.
    pub(crate) connects: bool,
    /// The user may connect.
    pub(crate) permitted: bool,
    pub(crate) bytes: Option<u64>,
}

impl Cluster {
    /// Asks through `label`; `database` must be the one that answers.
    pub(crate) fn read(label: &str, database: &str) -> Result<Self> {
        let cluster: Self = ask(label, database).run()?.json()?;
        same_database(database, &cluster.database)?;
        Ok(cluster)
    }

    /// The server's major version.
    pub(crate) fn major(&self) -> u32 {
        self.version_num / 10_000
    }

    /// Refuses a server that is older than the questions.
    pub(crate) fn check_supported(&self) -> Result<()> {
        if self.major() >= OLDEST_MAJOR {
            return Ok(());
        }
        Err(Error::failed(format!("server is PostgreSQL {}, expected {OLDEST_MAJOR} or newer", self.version)))
    }

    /// The database of this name.
    pub(crate) fn find(&self, name: &str) -> Option<&Database> {
        self.databases.iter().find(|database| database.name == name)
    }
}

/// The job's `env` wins over a grant's, so that a `PGDATABASE` in it would send every command to
/// one database: found out before anything is stored or changed.
pub(crate) fn same_database(wanted: &str, got: &str) -> Result<()> {
    if wanted == got {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "asked for database \"{wanted}\" and reached \"{got}\": remove PGDATABASE from the job's env"
    )))
}

/// The version that a program prints, such as `pg_dump (PostgreSQL) 15.20 (Debian 15.20-0+deb12u1)`.
pub(crate) fn program_version(label: &str) -> Result<ProgramVersion> {
    ProgramVersion::parse(&exec::command(label).run()?.text()?)
}

/// Version of a client program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ProgramVersion {
    pub(crate) major: u32,
    pub(crate) text: String,
}

impl ProgramVersion {
    fn parse(line: &str) -> Result<Self> {
        let unknown = || Error::failed(format!("unexpected version line: {line:?}"));
        let rest = line.split_once("(PostgreSQL) ").ok_or_else(unknown)?.1;
        let text = rest.split_whitespace().next().ok_or_else(unknown)?;
        let digits: String = text.chars().take_while(char::is_ascii_digit).collect();
        Ok(Self { major: digits.parse().map_err(|_| unknown())?, text: text.to_owned() })
    }
}

/// A psql that answers one JSON object a line, and may stay connected after it.
#[derive(Debug)]
pub(crate) struct Session {
    process: Process,
    lines: Lines<BufReader<Source>>,
}

impl Session {
    /// Starts the command.
    pub(crate) fn open(command: Command) -> Result<Self> {
        let process = command.spawn()?;
        let lines = process.stdout()?.lines();
        Ok(Self { process, lines })
    }

    /// The next row. The text before the end is an error with what psql said.
    pub(crate) fn row<T: DeserializeOwned>(&mut self) -> Result<T> {
        let line = match self.lines.next() {
            Some(Ok(line)) => line,
            // psql has ended, well or not: what it says is better than that the stream broke.
            Some(Err(error)) => return Err(self.process.wait()?.success().err().unwrap_or_else(|| error.into())),
            None => {
                self.process.wait()?.success()?;
                return Err(Error::failed("psql ended before it had answered all"));
            }
        };
        serde_json::from_str(&line).map_err(|error| Error::failed(format!("unexpected answer of psql: {error}")))
    }

    /// Gives every row to `each` until it says that it was the last.
    pub(crate) fn rows<T: DeserializeOwned>(
        &mut self,
        mut each: impl FnMut(T) -> Result<std::ops::ControlFlow<()>>,
    ) -> Result<()> {
        while each(self.row()?)?.is_continue() {}
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::{ProgramVersion, same_database};
    use strongroom_plugin::Error;

    #[test]
    fn version_lines_of_every_packager_are_read() {
        for (line, major, text) in [
            ("pg_dump (PostgreSQL) 15.20 (Debian 15.20-0+deb12u1)", 15, "15.20"),
            ("pg_restore (PostgreSQL) 18.6", 18, "18.6"),
            ("postgres (PostgreSQL) 19beta1", 19, "19beta1"),
        ] {
            assert_eq!(ProgramVersion::parse(line).unwrap(), ProgramVersion { major, text: text.to_owned() });
        }
        for line in ["", "pg_dump 15", "pg_dump (PostgreSQL) ", "pg_dump (PostgreSQL) x"] {
            assert!(matches!(ProgramVersion::parse(line), Err(Error::Failed(_))), "{line:?}");
        }
    }

    #[test]
    fn another_database_than_asked_for_is_refused() {
        assert!(same_database("a", "a").is_ok());
        let error = same_database("a", "b").unwrap_err();
        assert_eq!(error.message(), "asked for database \"a\" and reached \"b\": remove PGDATABASE from the job's env");
    }
}
