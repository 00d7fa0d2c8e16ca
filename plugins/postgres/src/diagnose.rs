//! Diagnose: what keeps a backup or a restore from working, or will. Changes nothing.

mod connect;
mod contents;
mod health;

use crate::backup;
use crate::server::{Cluster, ask, program_version};
use crate::settings::Settings;
use contents::DatabaseFacts;
use health::ServerFacts;
use strongroom_plugin::prelude::*;

pub(crate) fn run(request: &DiagnoseRequest<Settings>) -> Result<Vec<Check>> {
    let settings = &request.settings;
    let mut checks = vec![age(request.last.as_ref().map(|last| run::now().since(last.created).as_secs()), settings)];
    let maintenance = &settings.maintenance_database;
    let cluster = match Cluster::read("cluster", maintenance) {
        Ok(cluster) => cluster,
        Err(error @ Error::Denied(_)) => return Err(error),
        Err(error) => {
            checks.push(connect::refused(maintenance, &error));
            return Ok(checks);
        }
    };
    checks.push(connect::reached(&cluster));
    checks.push(connect::supported(&cluster));
    checks.push(connect::psql_version(&cluster));
    checks.push(client(&cluster));
    checks.push(pooler(maintenance));
    checks.push(connect::passwords(&cluster));
    checks.push(connect::databases(&cluster, settings));
    match ask("diagnose_server", maintenance).run().and_then(strongroom_plugin::exec::Output::json::<ServerFacts>) {
        Ok(facts) => {
            checks.extend(health::checks(&facts, settings));
            checks.push(disk(&cluster, &facts));
        }
        Err(error) => checks.push(not_looked("postgres.server.statistics", "the server tells its statistics", &error)),
    }
    let named = settings.databases.as_ref();
    let wanted = |name: &String| named.is_none_or(|names| names.contains(name));
    for database in
        cluster.databases.iter().filter(|database| !database.template && database.connects && database.permitted)
    {
        if !wanted(&database.name) {
            continue;
        }
        match DatabaseFacts::ask(&database.name) {
            Ok(facts) => checks.extend(contents::checks(&facts, &cluster)),
            Err(error) => {
                let title = format!("database \"{}\" can be looked at", database.name);
                checks.push(not_looked("postgres.database.reads", &title, &error));
            }
        }
    }
    Ok(checks)
}

/// Something that could not be looked at.
fn not_looked(id: &str, title: &str, error: &Error) -> Check {
    Check::skipped(id, title)
        .evidence(error.message())
        .cause("the grant does not cover it, or the user may not read it")
}

/// The age of the last backup against the objective in the settings.
fn age(seconds: Option<u64>, settings: &Settings) -> Check {
    const ID: &str = "postgres.backup.age";
    let title = format!("the last backup is younger than {} h", settings.max_age_hours);
    match seconds {
        None => Check::warned(ID, title)
            .evidence("there is no backup yet")
            .cause("no backup has succeeded so far")
            .remedy("strongroom backup JOB"),
        Some(seconds) if seconds > settings.max_age_hours * 3600 => Check::failed(ID, title)
            .evidence(format!("{} h old", seconds / 3600))
            .cause("the schedule does not run, or the last runs failed")
            .cause("credentials, permissions or firewall rules have changed")
            .cause("runs overlap or take longer than the time between them")
            .remedy("strongroom list JOB")
            .remedy("strongroom backup JOB"),
        Some(seconds) => Check::passed(ID, title).evidence(format!("{} h old", seconds / 3600)),
    }
}

fn client(cluster: &Cluster) -> Check {
    const ID: &str = "postgres.version.client";
    const TITLE: &str = "pg_dump is at least as new as the server";
    let version = match program_version("client_version") {
        Ok(version) => version,
        Err(error) => {
            return Check::failed(ID, TITLE)
                .evidence(error.message())
                .cause("the client programs are not installed where the command runs")
                .remedy(format!("apt-get install postgresql-client-{}", cluster.major()));
        }
    };
    let evidence = format!("pg_dump {}, server {}", version.text, cluster.version);
    match backup::check_client(&version, cluster) {
        Ok(()) => Check::passed(ID, TITLE).evidence(evidence),
        Err(_) => Check::failed(ID, TITLE)
            .evidence(evidence)
            .cause("the server was upgraded and the clients were not")
            .remedy("pg_dump --version; psql -Atc 'SHOW server_version'")
            .remedy(format!("apt-get install postgresql-client-{}", cluster.major()))
            .remedy("strongroom plugin approve PLUGIN"),
    }
}

fn pooler(database: &str) -> Check {
    const ID: &str = "postgres.connect.pooler";
    const TITLE: &str = "sessions are not shared by a pooler";
    match backup::refuse_pooler(database) {
        Ok(()) => Check::passed(ID, TITLE).evidence("two sessions have two backends"),
        Err(Error::Failed(text)) => Check::failed(ID, TITLE)
            .evidence(text)
            .cause("PGHOST or PGPORT names a pooler such as PgBouncer, in transaction mode")
            .remedy("set PGHOST and PGPORT in the job's env to the server itself")
            .remedy("or give the backup a database entry with pool_mode=session"),
        Err(error) => not_looked(ID, TITLE, &error),
    }
}

/// Free space where the server keeps its data, against what it keeps there.
fn disk(cluster: &Cluster, facts: &ServerFacts) -> Check {
    const ID: &str = "postgres.disk.free";
    const TITLE: &str = "the server has disk space left";
    let local = cluster.server_address.as_deref().is_none_or(|address| address == "127.0.0.1" || address == "::1");
    let Some(path) = facts.data_directory.as_deref().filter(|_| local) else {
        return Check::skipped(ID, TITLE)
            .evidence("the server is on another machine, or its data directory is not told");
    };
    match exec::command("disk").slot("path", path).run().and_then(strongroom_plugin::exec::Output::text) {
        Ok(text) => health::disk(&text, path),
        Err(error) => not_looked(ID, TITLE, &error),
    }
}

#[cfg(test)]
mod tests {
    use super::age;
    use crate::settings::Settings;
    use strongroom_plugin::Outcome;

    #[test]
    fn the_last_backup_may_not_be_older_than_the_objective() {
        let settings = Settings::default();
        for (seconds, expected) in
            [(None, Outcome::Warned), (Some(86_400), Outcome::Passed), (Some(86_401), Outcome::Failed)]
        {
            assert_eq!(age(seconds, &settings).outcome, expected);
        }
    }
}
