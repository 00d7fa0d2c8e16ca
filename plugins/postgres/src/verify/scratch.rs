//! A test restore into a server of its own, which lives as long as its handle.

use super::failed;
use crate::compare::{self, Scope};
use crate::globals::{DatabaseRow, Globals, Membership};
use crate::inventory::{DatabaseInventory, Inventory};
use crate::server::{Cluster, ProgramVersion, Session, ask, program_version};
use std::time::Duration;
use strongroom_plugin::exec::Process;
use strongroom_plugin::prelude::*;

/// The superuser of the scratch server (`plugin.toml`).
const SUPERUSER: &str = "strongroom";

/// `cluster_name` of the scratch server: proof that a command reached it and no other.
const CLUSTER_NAME: &str = "strongroom_verify";

/// How often the scratch server is asked whether it is up, and how many times: a minute in all.
const POLL: (Duration, u32) = (Duration::from_millis(100), 600);

pub(super) fn run(inventory: &Inventory, globals: &Globals, checks: &mut Vec<Check>) -> Result<()> {
    const ID: &str = "postgres.scratch.starts";
    const TITLE: &str = "a scratch server starts";
    let version = program_version("scratch_version")?;
    if let Some(check) = unfit(&version, inventory) {
        checks.push(check);
        return Ok(());
    }
    let (server, cluster) = match start() {
        Ok(started) => started,
        Err(error) => {
            let cause = "PostgreSQL refuses to run as root: give the job or target a user that it may run as";
            checks.push(failed(ID, TITLE, error, cause)?);
            return Ok(());
        }
    };
    checks.push(Check::passed(ID, TITLE).evidence(format!("PostgreSQL {}", cluster.version)));
    let same_major = cluster.major() == inventory.major();
    checks.push(restore_roles(globals)?);
    for (place, database) in inventory.databases.iter().enumerate() {
        let name = format!("strongroom_verify_{}", place + 1);
        let row = globals.database(&database.name);
        match restore(database, row, &name) {
            Ok(got) => {
                let title = format!("\"{}\" can be restored", database.name);
                checks.push(Check::passed("postgres.restore.completes", title).evidence(database.artifact.as_str()));
                let scope = Scope { roles: true, definitions: same_major, publications: true, rows: true };
                checks.extend(compare::databases(database, &got, scope));
                checks.push(amcheck(database, &name)?);
            }
            Err(error) => {
                let title = format!("\"{}\" can be restored", database.name);
                checks.push(failed(
                    "postgres.restore.completes",
                    &title,
                    error,
                    "an extension or locale is missing here",
                )?);
            }
        }
        // One database at a time, so that the largest decides how much room is needed.
        ask_drop(&name)?;
    }
    drop(server);
    Ok(())
}

/// A check if these programs cannot stand for the dump's server.
fn unfit(version: &ProgramVersion, inventory: &Inventory) -> Option<Check> {
    const ID: &str = "postgres.scratch.version";
    const TITLE: &str = "the scratch server has the dump's version";
    if version.major >= inventory.major() {
        return None;
    }
    Some(
        Check::failed(ID, TITLE)
            .evidence(format!("PostgreSQL {} here, the dump is of {}", version.text, inventory.server_version))
            .cause("the server programs on the machine that verifies are older")
            .remedy(format!("apt-get install postgresql-{}", inventory.major()))
            .remedy("strongroom plugin approve PLUGIN"),
    )
}

fn start() -> Result<(Process, Cluster)> {
    exec::command("scratch_initdb").spawn()?.wait()?.success()?;
    let server = exec::command("scratch_server").spawn()?;
    let (pause, times) = POLL;
    for _ in 0..times {
        match Cluster::read("scratch_cluster", "postgres") {
            Ok(cluster) if cluster.cluster_name == CLUSTER_NAME && cluster.user == SUPERUSER => {
                return Ok((server, cluster));
            }
            Ok(_) => {
                return Err(Error::invalid(
                    "a command for the scratch server reached another one: remove PGHOSTADDR and PGSERVICE from the env",
                ));
            }
            Err(Error::Failed(_)) => run::sleep(pause),
            Err(error) => return Err(error),
        }
    }
    Err(Error::TimedOut("the scratch server did not answer within a minute".to_owned()))
}

fn restore_roles(globals: &Globals) -> Result<Check> {
    // The scratch server's own superuser cannot be made twice.
    let expected = Globals {
        roles: globals.roles.iter().filter(|role| role.name != SUPERUSER).cloned().collect(),
        memberships: globals.memberships.iter().filter(|row| row.member != SUPERUSER).cloned().collect(),
        ..Globals::default()
    };
    let create = || -> Result<Globals> {
        for role in &expected.roles {
            apply("create-role", &serde_json::to_string(role)?)?;
        }
        for row in globals.memberships_in_order().iter().filter(|row| row.member != SUPERUSER) {
            let row = Membership { grantor_bootstrap: row.grantor_bootstrap || row.grantor.is_none(), ..row.clone() };
            apply("grant-role", &serde_json::to_string(&row)?)?;
        }
        Globals::ask("scratch_globals_rows", "postgres")
    };
    match create() {
        Ok(got) => Ok(compare::globals(&expected, &got)),
        Err(error) => {
            failed("postgres.restore.roles", "roles came back", error, "the scratch server is of an older version")
        }
    }
}

fn apply(action: &str, row: &str) -> Result<()> {
    ask("scratch_apply_global", "postgres").slot("action", action).slot("row", row).run()?.success()?;
    Ok(())
}

fn restore(database: &DatabaseInventory, row: Option<&DatabaseRow>, name: &str) -> Result<DatabaseInventory> {
    let row = row.ok_or_else(|| Error::failed("its properties are not in globals.json"))?;
    let row = DatabaseRow { tablespace: None, connection_limit: -1, ..row.clone() };
    ask("scratch_create", "postgres").slot("name", name).slot("row", serde_json::to_string(&row)?).run()?.success()?;
    ask("scratch_restore", name).stdin(storage::get(&database.artifact)?).spawn()?.wait()?.success()?;
    ask("scratch_analyze", name).run()?.success()?;
    let mut got = DatabaseInventory::ask(ask("scratch_inventory", name), name)?;
    got.count(&mut Session::open(
        ask("scratch_counts", name).slot("table_ms", COUNT_TABLE_MS).slot("total_seconds", COUNT_SECONDS),
    )?)?;
    Ok(got)
}

/// Nobody waits for a scratch place: every table is counted.
pub(super) const COUNT_TABLE_MS: &str = "86400000";
/// See [`COUNT_TABLE_MS`].
pub(super) const COUNT_SECONDS: &str = "604800";

/// Reads every page of every table and index, where the server has the extension for it.
fn amcheck(database: &DatabaseInventory, name: &str) -> Result<Check> {
    const ID: &str = "postgres.restore.amcheck";
    let title = format!("tables and indexes of \"{}\" are sound", database.name);
    let installed = ask("scratch_amcheck_install", name).run().and_then(strongroom_plugin::exec::Output::success);
    if let Err(error) = installed {
        return Ok(Check::skipped(ID, title)
            .evidence(error.message())
            .cause("the extension amcheck is not installed here"));
    }
    match ask("scratch_amcheck", name).run().and_then(|output| output.exit.success()) {
        Ok(()) => Ok(Check::passed(ID, title)),
        Err(error @ (Error::Denied(_) | Error::NotFound(_))) => Ok(Check::skipped(ID, title).evidence(error.message())),
        Err(error) => failed(ID, &title, error, "a collation of this machine orders text in another way"),
    }
}

fn ask_drop(name: &str) -> Result<()> {
    exec::command("scratch_drop").slot("name", name).run()?.success()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::unfit;
    use crate::inventory::Inventory;
    use crate::server::ProgramVersion;

    #[test]
    fn an_older_scratch_server_is_refused() {
        let inventory = Inventory::new(160_004, "16.4".to_owned(), 16);
        for (major, fits) in [(15, false), (16, true), (18, true)] {
            let version = ProgramVersion { major, text: major.to_string() };
            assert_eq!(unfit(&version, &inventory).is_none(), fits);
        }
    }
}
