//! A test restore into a database of its own on the named target, dropped in every case.

use super::failed;
use super::scratch::{COUNT_SECONDS, COUNT_TABLE_MS};
use crate::compare::{self, Scope};
use crate::globals::{DatabaseRow, Globals};
use crate::inventory::{DatabaseInventory, Inventory};
use crate::server::{Cluster, Session, ask};
use serde::Deserialize;
use strongroom_plugin::prelude::*;

/// What names of scratch databases begin with; the grant admits no others.
const PREFIX: &str = "strongroom_verify_";

pub(super) fn run(inventory: &Inventory, globals: &Globals, maintenance: &str, checks: &mut Vec<Check>) -> Result<()> {
    let cluster = Cluster::read("cluster", maintenance)?;
    checks.push(role(&cluster));
    if cluster.major() < inventory.major() {
        checks.push(
            Check::failed("postgres.scratch.version", "the target has the dump's version")
                .evidence(format!("target {}, the dump is of {}", cluster.version, inventory.server_version))
                .cause("the target is older than the server that was backed up")
                .remedy("name a target of at least that version"),
        );
        return Ok(());
    }
    let lock = remove_left_over(&cluster, maintenance)?;
    let stamp = base36(run::now().ms);
    for (place, database) in inventory.databases.iter().enumerate() {
        let name = format!("{PREFIX}{stamp}n{}", place + 1);
        let title = format!("\"{}\" can be restored", database.name);
        let restored = restore(database, globals.database(&database.name), &name, maintenance);
        let dropped = remove(&name, maintenance);
        match restored {
            Ok(got) => {
                checks.push(Check::passed("postgres.restore.completes", title).evidence(database.artifact.as_str()));
                let same = cluster.major() == inventory.major();
                let scope = Scope { roles: false, definitions: same, publications: false, rows: true };
                checks.extend(compare::databases(database, &got, scope));
            }
            Err(error) => {
                let cause = "an extension is missing on the target, or its role may not create it";
                checks.push(failed("postgres.restore.completes", &title, error, cause)?);
            }
        }
        dropped.map_err(|error| error.context(format_args!("drop \"{name}\"")))?;
    }
    drop(lock);
    Ok(())
}

/// A dump runs its own code when it is restored: with the rights of who restores it.
fn role(cluster: &Cluster) -> Check {
    const ID: &str = "postgres.scratch.role";
    const TITLE: &str = "the test restore runs without superuser";
    let evidence = format!("user {}", cluster.user);
    if cluster.superuser {
        return Check::warned(ID, TITLE)
            .evidence(format!("{evidence} is a superuser"))
            .cause("functions in the dump run with the rights of the user who restores it")
            .remedy("CREATE ROLE strongroom_verify LOGIN CREATEDB")
            .remedy("set options = { scratch = \"server\" } in the target");
    }
    if !cluster.create_db {
        return Check::failed(ID, TITLE)
            .evidence(format!("{evidence} may not create databases"))
            .cause("the attribute CREATEDB is missing")
            .remedy(format!("ALTER ROLE \"{}\" CREATEDB", cluster.user.replace('"', "\"\"")));
    }
    Check::passed(ID, TITLE).evidence(evidence)
}

/// Drops what killed runs left. The session holds a lock as long as this run lives: without it
/// another verification is at work, and what looks left over is its own.
fn remove_left_over(cluster: &Cluster, maintenance: &str) -> Result<Session> {
    #[derive(Deserialize)]
    struct Lock {
        held: bool,
    }
    let mut session = Session::open(ask("verify_lock", maintenance))?;
    let Lock { held } = session.row()?;
    if held {
        for left in cluster.databases.iter().filter(|database| is_scratch_name(&database.name)) {
            log::warn!(database = left.name, "removing what an earlier verification left");
            remove(&left.name, maintenance)?;
        }
    }
    Ok(session)
}

fn is_scratch_name(name: &str) -> bool {
    let rest = name.strip_prefix(PREFIX).unwrap_or_default();
    !rest.is_empty() && rest.chars().all(|c| c.is_ascii_digit() || c.is_ascii_lowercase())
}

fn remove(name: &str, maintenance: &str) -> Result<()> {
    ask("verify_drop", maintenance).slot("name", name).run()?.success()?;
    Ok(())
}

fn restore(
    database: &DatabaseInventory,
    row: Option<&DatabaseRow>,
    name: &str,
    maintenance: &str,
) -> Result<DatabaseInventory> {
    let row = row.ok_or_else(|| Error::failed("its properties are not in globals.json"))?;
    let row = DatabaseRow { owner: None, tablespace: None, comment: None, connection_limit: -1, ..row.clone() };
    let create = ask("verify_create", maintenance).slot("name", name).slot("row", serde_json::to_string(&row)?);
    create.run()?.success()?;
    ask("verify_restore", name).stdin(storage::get(&database.artifact)?).spawn()?.wait()?.success()?;
    ask("verify_analyze", name).run()?.success()?;
    let mut got = DatabaseInventory::ask(ask("verify_inventory", name), name)?;
    got.count(&mut Session::open(
        ask("verify_counts", name).slot("table_ms", COUNT_TABLE_MS).slot("total_seconds", COUNT_SECONDS),
    )?)?;
    Ok(got)
}

/// Digits and small letters, as names of scratch databases take them.
pub(crate) fn base36(mut n: u64) -> String {
    let mut digits = Vec::new();
    loop {
        let digit = u32::try_from(n % 36).unwrap_or_default();
        digits.push(char::from_digit(digit, 36).unwrap_or('0'));
        n /= 36;
        if n == 0 {
            break;
        }
    }
    digits.iter().rev().collect()
}

#[cfg(test)]
mod tests {
    use super::{base36, is_scratch_name, role};
    use crate::backup::tests::cluster;
    use strongroom_plugin::Outcome;

    #[test]
    fn only_names_of_scratch_databases_are_removed() {
        for (name, expected) in [
            ("strongroom_verify_mf1n1", true),
            ("strongroom_verify_", false),
            ("strongroom_verify_X", false),
            ("strongroom_verify_a;b", false),
            ("shop", false),
        ] {
            assert_eq!(is_scratch_name(name), expected, "{name}");
        }
        assert_eq!([base36(0), base36(35), base36(36), base36(1_795_226_400_000)], ["0", "z", "10", "mwprg3k0"]);
        assert!(is_scratch_name(&format!("strongroom_verify_{}n1", base36(u64::MAX))));
    }

    #[test]
    fn a_superuser_is_warned_about() {
        let mut server = cluster(&[]);
        assert_eq!(role(&server).outcome, Outcome::Failed);
        server.create_db = true;
        assert_eq!(role(&server).outcome, Outcome::Passed);
        server.superuser = true;
        assert_eq!(role(&server).outcome, Outcome::Warned);
    }
}
