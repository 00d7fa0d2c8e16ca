//! Backup: globals, and each database as a dump with the rows of its snapshot counted beside it.

use crate::globals::{self, Globals};
use crate::inventory::{self, DatabaseInventory, Inventory, artifact_name};
use crate::server::{Cluster, ProgramVersion, Session, ask, program_version};
use crate::settings::Settings;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use strongroom_plugin::exec::Process;
use strongroom_plugin::prelude::*;
use strongroom_plugin::storage::Transfer;

/// Facts about single tables may take this much; all facts together have 64 KiB.
const TABLE_FACTS_BYTES: usize = 32 << 10;

/// What a dump never holds, whatever the server.
const NOT_CAPTURED: [&str; 5] = [
    "replication slots",
    "pg_hba.conf and pg_ident.conf",
    "postgresql.conf and what ALTER SYSTEM set",
    "the state of subscriptions",
    "consistency between databases: each is of a moment of its own",
];

/// What is kept for the next backup of the job.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct State {
    /// How long the dump of each database took.
    dump_ms: BTreeMap<String, u64>,
}

/// A database that is being dumped. Its snapshot lives while this does.
struct Dumping {
    inventory: DatabaseInventory,
    started: Timestamp,
    snapshot: Session,
    counts: Option<Session>,
    dump: Process,
    transfer: Transfer,
}

pub(crate) fn run(request: &BackupRequest<Settings>) -> Result<Report> {
    let settings = &request.settings;
    let cluster = Cluster::read("cluster", &settings.maintenance_database)?;
    cluster.check_supported()?;
    let version = program_version("client_version")?;
    check_client(&version, &cluster)?;
    refuse_pooler(&settings.maintenance_database)?;
    let choice = choose(&cluster, settings.databases.as_deref())?;

    let mut report = Report::new().source_id(&cluster.system_identifier);
    report = NOT_CAPTURED.into_iter().fold(report, Report::not_captured);
    if settings.databases.is_none() {
        report = report.not_captured("template databases");
    }
    if cluster.in_recovery {
        report = report.not_captured("rows of unlogged tables, which a standby does not have");
    }
    for (name, why) in choice.skipped {
        report = report.skipped(format!("database {name}"), why);
    }
    report = store_globals(report, &cluster, &settings.maintenance_database)?;

    let state: State =
        request.previous.as_ref().and_then(|previous| serde_json::from_str(&previous.state).ok()).unwrap_or_default();
    let mut inventory = Inventory::new(cluster.version_num, cluster.version.clone(), version.major);
    let mut next_state = State::default();
    let mut waiting = choice.databases.iter().enumerate();
    let mut active: Vec<Dumping> = Vec::new();
    let total = u64::try_from(choice.databases.len()).unwrap_or(u64::MAX);
    loop {
        while active.len() < settings.parallel.max(1) {
            let Some((place, name)) = waiting.next() else { break };
            match start(name, place + 1, settings, state.dump_ms.get(name).copied()) {
                Ok(dumping) => active.push(dumping),
                // The operator named no databases, but granted only some.
                Err(Error::Denied(_)) if settings.databases.is_none() => {
                    report = report.skipped(format!("database {name}"), "the grant does not cover it");
                }
                Err(error) => return Err(error.context(format_args!("database \"{name}\""))),
            }
        }
        if active.is_empty() {
            break;
        }
        let transfers: Vec<&Transfer> = active.iter().map(|dumping| &dumping.transfer).collect();
        let place = storage::first_done(&transfers)?;
        let dumping = active.remove(place);
        let name = dumping.inventory.name.clone();
        let (database, ms) = finish(dumping).map_err(|error| error.context(format_args!("database \"{name}\"")))?;
        next_state.dump_ms.insert(name, ms);
        inventory.databases.push(database);
        run::progress("databases", u64::try_from(inventory.databases.len()).unwrap_or(u64::MAX), Some(total));
    }
    inventory.databases.sort_by(|a, b| a.name.cmp(&b.name));
    storage::put_bytes(inventory::ARTIFACT, "application/json", &serde_json::to_vec(&inventory)?)?;
    let report = facts(report, &cluster, &version, &inventory);
    Ok(report.state(serde_json::to_string(&next_state)?))
}

/// A dump program that is older than the server refuses after it has connected, or worse, does not
/// know what to dump.
pub(crate) fn check_client(version: &ProgramVersion, cluster: &Cluster) -> Result<()> {
    if version.major >= cluster.major() {
        return Ok(());
    }
    Err(Error::failed(format!(
        "pg_dump {} is older than the server {}: install client programs of version {} and approve the plugin again",
        version.text,
        cluster.version,
        cluster.major()
    )))
}

/// Two sessions that live at the same time and have the same backend share it: what one of them
/// sets is lost or leaks, and a snapshot is of no use.
pub(crate) fn refuse_pooler(database: &str) -> Result<()> {
    #[derive(Deserialize)]
    struct Pid {
        pid: u64,
    }
    let mut idle = Session::open(ask("session", database))?;
    let Pid { pid } = idle.row()?;
    let other = Cluster::read("cluster", database)?;
    if other.pid == pid {
        return Err(Error::failed(format!(
            "two sessions share backend {pid}: the connection goes through a pooler in transaction mode, \
             which cannot hold a snapshot; set PGHOST and PGPORT in the job's env to the server itself"
        )));
    }
    Ok(())
}

/// Which databases to dump, and which not.
#[derive(Debug, Default, PartialEq, Eq)]
struct Choice {
    databases: Vec<String>,
    skipped: Vec<(String, String)>,
}

fn choose(cluster: &Cluster, named: Option<&[String]>) -> Result<Choice> {
    let mut choice = Choice::default();
    if let Some(named) = named {
        for name in named {
            let Some(database) = cluster.find(name) else {
                return Err(Error::NotFound(format!("database \"{name}\" is not on the server")));
            };
            if !database.connects {
                return Err(Error::failed(format!("database \"{name}\" takes no connections")));
            }
            choice.databases.push(name.clone());
        }
        return Ok(choice);
    }
    for database in &cluster.databases {
        let name = database.name.clone();
        if database.template || is_scratch(&name) {
            continue;
        } else if !database.connects {
            choice.skipped.push((name, "it takes no connections".to_owned()));
        } else if !database.permitted {
            choice.skipped.push((name, format!("user {} may not connect to it", cluster.user)));
        } else {
            choice.databases.push(name);
        }
    }
    Ok(choice)
}

/// Whether a database is a scratch place of a verification or of a restore.
fn is_scratch(name: &str) -> bool {
    name.starts_with("strongroom_verify_") || name.starts_with("strongroom_restore_")
}

fn store_globals(mut report: Report, cluster: &Cluster, database: &str) -> Result<Report> {
    let label = if cluster.reads_passwords {
        store(&ask("role_passwords", database).spawn()?, globals::PASSWORDS, "application/jsonl")?;
        "globals"
    } else {
        report = report.not_captured(format!("passwords of roles, which user {} may not read", cluster.user));
        "globals_without_passwords"
    };
    store(&exec::command(label).spawn()?, "globals.sql", "application/sql")?;
    let globals = Globals::ask("globals_rows", database)?;
    storage::put_bytes(globals::ARTIFACT, "application/json", &serde_json::to_vec(&globals)?)?;
    Ok(report
        .fact("roles", globals.roles.len())
        .fact("memberships", globals.memberships.len())
        .fact("tablespaces", globals.tablespaces.len()))
}

/// Stores what a program writes.
fn store(process: &Process, name: &str, media_type: &str) -> Result<()> {
    let transfer = storage::put(name, process.stdout()?).media_type(media_type).start()?;
    settle(process, &transfer)
}

/// Waits for both ends; what the program says is better than that its output broke.
fn settle(process: &Process, transfer: &Transfer) -> Result<()> {
    let stored = transfer.wait();
    let exit = process.wait()?.success();
    stored.map_err(|error| exit.clone().err().unwrap_or(error))?;
    exit
}

fn start(name: &str, place: usize, settings: &Settings, last_dump_ms: Option<u64>) -> Result<Dumping> {
    let mut snapshot = Session::open(ask("snapshot", name))?;
    let (mut inventory, exported) = DatabaseInventory::read(&mut snapshot, name)?;
    let hidden: Vec<String> =
        inventory.tables.iter().filter(|table| table.row_security).map(crate::inventory::Table::title).collect();
    if let Some(first) = hidden.first() {
        return Err(Error::failed(format!(
            "row security hides rows of {} tables from this user, such as {first}: give the user BYPASSRLS",
            hidden.len()
        )));
    }
    inventory.artifact = artifact_name(name, place);
    let started = run::now();
    let dump = ask("pg_dump", name)
        .slot("snapshot", &exported)
        .slot("lock_wait_ms", (settings.lock_wait_timeout_seconds * 1000).to_string())
        .spawn()?;
    let transfer =
        storage::put(&inventory.artifact, dump.stdout()?).media_type("application/vnd.postgresql.dump").start()?;
    let counts = match count_budget(settings, last_dump_ms) {
        None => None,
        Some((table_ms, seconds)) => Some(Session::open(
            ask("counts", name)
                .slot("snapshot", &exported)
                .slot("table_ms", table_ms.to_string())
                .slot("total_seconds", seconds.to_string()),
        )?),
    };
    log::info!(database = name, tables = inventory.tables.len(), "dumping with snapshot {exported}");
    Ok(Dumping { inventory, started, snapshot, counts, dump, transfer })
}

/// Milliseconds for one table and seconds for one database; none if nothing is to be counted.
fn count_budget(settings: &Settings, last_dump_ms: Option<u64>) -> Option<(u64, u64)> {
    /// At least a minute, or small databases whose dumps take a second would never be counted.
    const MIN_SECONDS: u64 = 60;
    let seconds = settings.count_seconds.unwrap_or_else(|| MIN_SECONDS.max(last_dump_ms.unwrap_or(0) / 10 / 1000));
    let table_ms = settings.count_table_seconds * 1000;
    (seconds > 0 && table_ms > 0).then_some((table_ms, seconds))
}

fn finish(dumping: Dumping) -> Result<(DatabaseInventory, u64)> {
    let Dumping { mut inventory, started, snapshot, counts, dump, transfer } = dumping;
    settle(&dump, &transfer)?;
    let took = run::now().since(started);
    if let Some(mut counts) = counts {
        // A backup without counts is whole; only its test restore can compare less.
        if let Err(error) = inventory.count(&mut counts) {
            log::warn!(database = inventory.name, "rows were not all counted: {error}");
        }
    }
    drop(snapshot);
    Ok((inventory, u64::try_from(took.as_millis()).unwrap_or(u64::MAX)))
}

fn facts(mut report: Report, cluster: &Cluster, version: &ProgramVersion, inventory: &Inventory) -> Report {
    report = report
        .fact("server.version", &cluster.version)
        .fact("server.system-identifier", &cluster.system_identifier)
        .fact("server.standby", cluster.in_recovery)
        .fact("pg_dump.version", &version.text)
        .fact("databases", inventory.databases.len());
    for database in &inventory.databases {
        let name = &database.name;
        let (rows, unknown) = database.rows();
        let bytes = cluster.find(name).and_then(|database| database.bytes).unwrap_or_else(|| database.bytes());
        report = report
            .fact(format!("database.{name}.artifact"), &database.artifact)
            .fact(format!("database.{name}.bytes"), bytes)
            .fact(format!("database.{name}.tables"), database.tables.len())
            .fact(format!("database.{name}.rows"), rows)
            .fact(format!("database.{name}.tables-not-counted"), unknown);
    }
    let tables: Vec<(String, String)> = inventory
        .databases
        .iter()
        .flat_map(|database| {
            database.tables.iter().filter(|table| table.is_counted()).map(|table| {
                let value = table.rows.map_or_else(|| format!("about {}", table.estimate.max(0)), |n| n.to_string());
                (format!("rows.{}.{}", database.name, table.title()), value)
            })
        })
        .collect();
    let bytes: usize = tables.iter().map(|(name, value)| name.len() + value.len()).sum();
    if bytes > TABLE_FACTS_BYTES {
        return report.fact("rows", format!("of {} tables in {}", tables.len(), inventory::ARTIFACT));
    }
    tables.into_iter().fold(report, |report, (name, value)| report.fact(name, value))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::{Choice, check_client, choose, count_budget};
    use crate::server::{Cluster, Database, ProgramVersion};
    use crate::settings::Settings;
    use strongroom_plugin::Error;

    pub(crate) fn cluster(databases: &[(&str, bool, bool, bool)]) -> Cluster {
        let databases = databases.iter().map(|&(name, template, connects, permitted)| Database {
            name: name.to_owned(),
            template,
            connects,
            permitted,
            bytes: Some(1),
        });
        Cluster {
            pid: 1,
            database: "postgres".to_owned(),
            version_num: 150_020,
            version: "15.20".to_owned(),
            psql_version_num: 150_020,
            system_identifier: "1".to_owned(),
            in_recovery: false,
            user: "backup".to_owned(),
            superuser: false,
            create_db: false,
            reads_passwords: false,
            server_address: None,
            cluster_name: String::new(),
            databases: databases.collect(),
        }
    }

    fn owned(names: &[&str]) -> Vec<String> {
        names.iter().map(|&name| name.to_owned()).collect()
    }

    #[test]
    fn all_databases_but_templates_and_scratch_places_are_chosen() {
        let cluster = cluster(&[
            ("app", false, true, true),
            ("closed", false, false, true),
            ("foreign", false, true, false),
            ("postgres", false, true, true),
            ("strongroom_verify_x1", false, true, true),
            ("template1", true, true, true),
        ]);
        let expected = Choice {
            databases: owned(&["app", "postgres"]),
            skipped: vec![
                ("closed".to_owned(), "it takes no connections".to_owned()),
                ("foreign".to_owned(), "user backup may not connect to it".to_owned()),
            ],
        };
        assert_eq!(choose(&cluster, None).unwrap(), expected);
        assert_eq!(choose(&cluster, Some(&owned(&["app"]))).unwrap().databases, ["app"]);
        assert!(matches!(choose(&cluster, Some(&owned(&["nope"]))), Err(Error::NotFound(_))));
        assert!(matches!(choose(&cluster, Some(&owned(&["closed"]))), Err(Error::Failed(_))));
    }

    #[test]
    fn a_dump_program_older_than_the_server_is_refused() {
        let version = |major: u32| ProgramVersion { major, text: format!("{major}.1") };
        assert!(check_client(&version(15), &cluster(&[])).is_ok());
        assert!(check_client(&version(18), &cluster(&[])).is_ok());
        let error = check_client(&version(14), &cluster(&[])).unwrap_err();
        assert!(error.message().starts_with("pg_dump 14.1 is older than the server 15.20"), "{error}");
    }

    #[test]
    fn counting_has_a_budget() {
        let settings = Settings::default();
        assert_eq!(count_budget(&settings, None), Some((60_000, 60)));
        assert_eq!(count_budget(&settings, Some(3_600_000)), Some((60_000, 360)));
        assert_eq!(count_budget(&Settings { count_seconds: Some(5), ..settings.clone() }, None), Some((60_000, 5)));
        assert_eq!(count_budget(&Settings { count_table_seconds: 0, ..settings }, None), None);
    }
}
