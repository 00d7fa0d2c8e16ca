//! What the server's own statistics say. Pure.

use crate::settings::Settings;
use serde::Deserialize;
use strongroom_plugin::Check;

/// A transaction older than this holds back cleaning and may hold locks, in seconds.
const LONG_TRANSACTION_SECONDS: i64 = 3600;
/// WAL that a slot may hold back before it is worth a look, and before it is alarming, in bytes.
const SLOT_LAG_BYTES: (i64, i64) = (1 << 30, 16 << 30);
/// Age of the oldest transaction id at which the server begins to force cleaning is 200 million;
/// at 2 thousand million it stops.
const WRAPAROUND_AGE: (i64, i64) = (1_000_000_000, 1_600_000_000);
/// Free disk space below this percentage is worth a look, below that alarming.
const DISK_USED_PERCENT: (u32, u32) = (80, 90);
/// Connections of one database that is dumped: snapshot, dump and counts.
const CONNECTIONS_PER_DUMP: i64 = 3;

/// What `diagnose.sql` answers.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct ServerFacts {
    pub(super) data_checksums: String,
    sees_statistics: bool,
    pub(super) data_directory: Option<String>,
    connections: i64,
    max_connections: i64,
    reserved_connections: i64,
    transactions: Vec<Transaction>,
    dumps: Vec<Backend>,
    locks: Vec<Lock>,
    prepared: Vec<Prepared>,
    archive_mode: String,
    archiver: Archiver,
    max_slot_wal_keep_size: String,
    slots: Vec<Slot>,
    wraparound: Wraparound,
    standby_delay: Option<String>,
    hot_standby_feedback: Option<String>,
    role_settings: Vec<String>,
}

#[derive(Clone, Debug, Deserialize)]
struct Transaction {
    pid: i64,
    user: Option<String>,
    database: Option<String>,
    application: Option<String>,
    state: Option<String>,
    seconds: i64,
}

#[derive(Clone, Debug, Deserialize)]
struct Backend {
    pid: i64,
    database: Option<String>,
    seconds: i64,
}

#[derive(Clone, Debug, Deserialize)]
struct Lock {
    pid: i64,
    database: Option<String>,
    granted: bool,
    application: Option<String>,
    seconds: Option<i64>,
}

#[derive(Clone, Debug, Deserialize)]
struct Prepared {
    gid: String,
    database: String,
    seconds: i64,
}

#[derive(Clone, Debug, Deserialize)]
struct Archiver {
    archived: i64,
    failed: i64,
    last_failed_wal: Option<String>,
    failing: bool,
    failed_seconds_ago: Option<i64>,
}

#[derive(Clone, Debug, Deserialize)]
struct Slot {
    name: String,
    active: bool,
    status: Option<String>,
    lag_bytes: Option<i64>,
}

#[derive(Clone, Debug, Deserialize)]
struct Wraparound {
    database: String,
    age: i64,
}

/// One check for each thing that can go wrong.
pub(super) fn checks(facts: &ServerFacts, settings: &Settings) -> Vec<Check> {
    vec![
        statistics(facts),
        transactions(facts),
        locks(facts, settings),
        dumps(facts),
        prepared(facts),
        connections(facts, settings),
        archiver(facts),
        slots(facts),
        checksums(facts),
        wraparound(facts),
        standby(facts),
        role_settings(facts),
    ]
}

/// Without this right the transactions of others look as if there were none.
fn statistics(facts: &ServerFacts) -> Check {
    const ID: &str = "postgres.privileges.statistics";
    const TITLE: &str = "the user sees the sessions of others";
    if facts.sees_statistics {
        return Check::passed(ID, TITLE).evidence("it has the rights of pg_read_all_stats");
    }
    Check::warned(ID, TITLE)
        .evidence("it has not the rights of pg_read_all_stats")
        .cause("long transactions and the data directory are hidden from the user")
        .remedy("GRANT pg_monitor TO the user")
}

fn transactions(facts: &ServerFacts) -> Check {
    const ID: &str = "postgres.transactions.long";
    const TITLE: &str = "no transaction is older than an hour";
    let long: Vec<&Transaction> =
        facts.transactions.iter().filter(|row| row.seconds > LONG_TRANSACTION_SECONDS).collect();
    let Some(first) = long.first() else {
        return Check::passed(ID, TITLE).evidence(format!("{} older than 15 min", facts.transactions.len()));
    };
    Check::warned(ID, TITLE)
        .evidence(format!(
            "{}; the oldest is pid {} of {} in {} ({}, {}), {} min",
            long.len(),
            first.pid,
            first.user.as_deref().unwrap_or("?"),
            first.database.as_deref().unwrap_or("?"),
            first.application.as_deref().unwrap_or("?"),
            first.state.as_deref().unwrap_or("?"),
            first.seconds / 60
        ))
        .cause("an application leaves transactions open")
        .cause("a long report or another dump is at work")
        .remedy(format!("SELECT * FROM pg_stat_activity WHERE pid = {}", first.pid))
        .remedy(format!("SELECT pg_terminate_backend({})", first.pid))
        .remedy("set idle_in_transaction_session_timeout for the application's role")
}

fn locks(facts: &ServerFacts, settings: &Settings) -> Check {
    const ID: &str = "postgres.locks.exclusive";
    const TITLE: &str = "no lock keeps a dump waiting";
    let Some(first) = facts.locks.first() else {
        return Check::passed(ID, TITLE).evidence("no exclusive lock on a table");
    };
    let state = if first.granted { "holds" } else { "waits for" };
    let evidence = format!(
        "{} exclusive locks; pid {} ({}) {state} one in {} for {} s; a dump waits {} s",
        facts.locks.len(),
        first.pid,
        first.application.as_deref().unwrap_or("?"),
        first.database.as_deref().unwrap_or("?"),
        first.seconds.unwrap_or(0),
        settings.lock_wait_timeout_seconds
    );
    Check::warned(ID, TITLE)
        .evidence(evidence)
        .cause("ALTER TABLE, TRUNCATE, VACUUM FULL, CLUSTER or REINDEX is at work or waits")
        .remedy(format!("SELECT pid, pg_blocking_pids(pid), query FROM pg_stat_activity WHERE pid = {}", first.pid))
        .remedy("run the backup at another time, or raise lock_wait_timeout_seconds in the job's settings")
}

fn dumps(facts: &ServerFacts) -> Check {
    const ID: &str = "postgres.dumps.overlap";
    const TITLE: &str = "no other dump is at work";
    let Some(first) = facts.dumps.first() else {
        return Check::passed(ID, TITLE).evidence("no pg_dump or pg_basebackup is connected");
    };
    Check::warned(ID, TITLE)
        .evidence(format!(
            "{} connected; pid {} in {} for {} min",
            facts.dumps.len(),
            first.pid,
            first.database.as_deref().unwrap_or("?"),
            first.seconds / 60
        ))
        .cause("jobs overlap, or an older backup script still runs")
        .cause("a dump of a run that was killed has not noticed it yet")
        .remedy(format!("SELECT * FROM pg_stat_activity WHERE pid = {}", first.pid))
        .remedy("start the jobs at different times")
}

fn prepared(facts: &ServerFacts) -> Check {
    const ID: &str = "postgres.transactions.prepared";
    const TITLE: &str = "no prepared transaction was forgotten";
    let Some(first) = facts.prepared.iter().find(|row| row.seconds > LONG_TRANSACTION_SECONDS) else {
        return Check::passed(ID, TITLE).evidence(format!("{} prepared transactions", facts.prepared.len()));
    };
    Check::warned(ID, TITLE)
        .evidence(format!("\"{}\" in {} for {} min", first.gid, first.database, first.seconds / 60))
        .cause("a transaction manager has lost it; it holds its locks for ever")
        .remedy(format!("ROLLBACK PREPARED '{}'", first.gid.replace('\'', "''")))
}

fn connections(facts: &ServerFacts, settings: &Settings) -> Check {
    const ID: &str = "postgres.connections";
    const TITLE: &str = "there are connections left for a backup";
    let parallel = i64::try_from(settings.parallel).unwrap_or(i64::MAX);
    let needed = parallel.saturating_mul(CONNECTIONS_PER_DUMP) + 1;
    let left = facts.max_connections - facts.reserved_connections - facts.connections;
    let evidence = format!("{} of {} taken, a backup needs {needed}", facts.connections, facts.max_connections);
    if left >= needed {
        return Check::passed(ID, TITLE).evidence(evidence);
    }
    Check::failed(ID, TITLE)
        .evidence(evidence)
        .cause("an application keeps too many connections")
        .remedy("SELECT usename, application_name, count(*) FROM pg_stat_activity GROUP BY 1, 2 ORDER BY 3 DESC")
        .remedy("set parallel = 1 in the job's settings, or raise max_connections")
}

fn archiver(facts: &ServerFacts) -> Check {
    const ID: &str = "postgres.archiver";
    const TITLE: &str = "WAL is archived";
    let Archiver { archived, failed, last_failed_wal, failing, failed_seconds_ago } = &facts.archiver;
    if facts.archive_mode == "off" {
        return Check::skipped(ID, TITLE).evidence("archive_mode is off");
    }
    let evidence = format!("{archived} archived, {failed} failures");
    if !failing {
        return Check::passed(ID, TITLE).evidence(evidence);
    }
    Check::failed(ID, TITLE)
        .evidence(format!(
            "{evidence}, the last {} s ago on {}",
            failed_seconds_ago.unwrap_or(0),
            last_failed_wal.as_deref().unwrap_or("?")
        ))
        .cause("archive_command fails: the destination is full, gone or refuses it")
        .cause("WAL piles up until the server's disk is full")
        .remedy("SHOW archive_command; read the server's log")
        .remedy("SELECT * FROM pg_stat_archiver")
}

fn slots(facts: &ServerFacts) -> Check {
    const ID: &str = "postgres.slots";
    const TITLE: &str = "no replication slot holds WAL back";
    let limited = facts.max_slot_wal_keep_size != "-1";
    let lost: Vec<&Slot> =
        facts.slots.iter().filter(|slot| matches!(slot.status.as_deref(), Some("lost" | "unreserved"))).collect();
    let worst = facts.slots.iter().max_by_key(|slot| slot.lag_bytes);
    let lag = worst.and_then(|slot| slot.lag_bytes).unwrap_or(0);
    let keep = format!("max_slot_wal_keep_size = {}", facts.max_slot_wal_keep_size);
    let (look, alarm) = SLOT_LAG_BYTES;
    let evidence = match worst {
        None => return Check::passed(ID, TITLE).evidence("no slots"),
        Some(slot) => {
            let state = if slot.active { "active" } else { "inactive" };
            format!("{} slots; \"{}\" ({state}) holds {} MiB back; {keep}", facts.slots.len(), slot.name, lag >> 20)
        }
    };
    let check = if let Some(slot) = lost.first() {
        Check::failed(ID, TITLE)
            .evidence(format!("\"{}\" has lost its WAL; {evidence}", slot.name))
            .cause("its reader was away longer than max_slot_wal_keep_size allows")
            .remedy(format!("SELECT pg_drop_replication_slot('{}'), and set its reader up again", slot.name))
    } else if lag > alarm {
        Check::failed(ID, TITLE).evidence(evidence)
    } else if lag > look || facts.slots.iter().any(|slot| !slot.active && !limited) {
        Check::warned(ID, TITLE).evidence(evidence)
    } else {
        return Check::passed(ID, TITLE).evidence(evidence);
    };
    check
        .cause("the slot's reader is stopped or too slow")
        .cause("without max_slot_wal_keep_size a forgotten slot fills the disk")
        .remedy("SELECT slot_name, active, wal_status, restart_lsn FROM pg_replication_slots")
        .remedy("ALTER SYSTEM SET max_slot_wal_keep_size = '64GB'; SELECT pg_reload_conf()")
}

fn checksums(facts: &ServerFacts) -> Check {
    const ID: &str = "postgres.checksums";
    const TITLE: &str = "data checksums are on";
    let evidence = format!("data_checksums = {}", facts.data_checksums);
    if facts.data_checksums == "on" {
        return Check::passed(ID, TITLE).evidence(evidence);
    }
    Check::warned(ID, TITLE)
        .evidence(evidence)
        .cause("initdb was run without --data-checksums: a damaged page is dumped as if it were good")
        .remedy("stop the server, then pg_checksums --enable -D DATA")
}

fn wraparound(facts: &ServerFacts) -> Check {
    const ID: &str = "postgres.wraparound";
    const TITLE: &str = "old transaction ids are cleaned";
    let Wraparound { database, age } = &facts.wraparound;
    let (look, alarm) = WRAPAROUND_AGE;
    let evidence = format!("oldest age {} million in \"{database}\"", age / 1_000_000);
    let check = match age {
        age if *age > alarm => Check::failed(ID, TITLE),
        age if *age > look => Check::warned(ID, TITLE),
        _ => return Check::passed(ID, TITLE).evidence(evidence),
    };
    check
        .evidence(evidence)
        .cause("a long transaction, a prepared one or a slot keeps vacuum from cleaning")
        .remedy("vacuumdb --all --freeze")
}

fn standby(facts: &ServerFacts) -> Check {
    const ID: &str = "postgres.standby.conflicts";
    const TITLE: &str = "a standby does not cancel dumps";
    let (Some(delay), Some(feedback)) = (&facts.standby_delay, &facts.hot_standby_feedback) else {
        return Check::skipped(ID, TITLE).evidence("the server is a primary");
    };
    let evidence = format!("max_standby_streaming_delay = {delay}, hot_standby_feedback = {feedback}");
    if delay == "-1" || feedback == "on" {
        return Check::passed(ID, TITLE).evidence(evidence);
    }
    Check::warned(ID, TITLE)
        .evidence(evidence)
        .cause("rows that the dump needs are cleaned on the primary: canceling statement due to conflict with recovery")
        .remedy("ALTER SYSTEM SET hot_standby_feedback = on; SELECT pg_reload_conf()")
        .remedy("ALTER SYSTEM SET max_standby_streaming_delay = -1; SELECT pg_reload_conf()")
}

fn role_settings(facts: &ServerFacts) -> Check {
    const ID: &str = "postgres.settings.role";
    const TITLE: &str = "no setting of the user changes what a dump sees";
    if facts.role_settings.is_empty() {
        return Check::passed(ID, TITLE).evidence("no other role, no row security setting");
    }
    Check::warned(ID, TITLE)
        .evidence(facts.role_settings.join("; "))
        .cause("a setting of the role or of a database makes sessions begin as somebody else, or see less")
        .remedy("ALTER ROLE name RESET setting")
}

/// What `df -Pk` says about the data directory.
pub(super) fn disk(text: &str, path: &str) -> Check {
    const ID: &str = "postgres.disk.free";
    const TITLE: &str = "the server has disk space left";
    let fields: Vec<&str> = text.lines().nth(1).unwrap_or_default().split_whitespace().collect();
    let used = fields.get(4).and_then(|used| used.strip_suffix('%')).and_then(|used| used.parse::<u32>().ok());
    let free = fields.get(3).and_then(|free| free.parse::<u64>().ok());
    let (Some(used), Some(free)) = (used, free) else {
        return Check::skipped(ID, TITLE).evidence(format!("unexpected answer of df: {text:?}"));
    };
    let (look, alarm) = DISK_USED_PERCENT;
    let evidence =
        format!("{path}: {used} % used, {} MiB free (warning from {look} %, failure from {alarm} %)", free >> 10);
    let check = match used {
        used if used >= alarm => Check::failed(ID, TITLE),
        used if used >= look => Check::warned(ID, TITLE),
        _ => return Check::passed(ID, TITLE).evidence(evidence),
    };
    check
        .evidence(evidence)
        .cause("WAL piles up behind a slot or a failing archiver")
        .cause("tables have grown, or old dumps lie beside them")
        .remedy(format!("du -xh --max-depth=2 {path} | sort -h | tail"))
        .remedy("SELECT datname, pg_size_pretty(pg_database_size(datname)) FROM pg_database ORDER BY pg_database_size(datname) DESC")
}

#[cfg(test)]
mod tests {
    use super::{ServerFacts, checks, disk};
    use crate::settings::Settings;
    use strongroom_plugin::Outcome;

    const HEALTHY: &str = r#"{"data_checksums": "on", "sees_statistics": true, "data_directory": "/d", "connections": 5,
        "max_connections": 100, "reserved_connections": 3, "transactions": [], "dumps": [], "locks": [], "prepared": [], "archive_mode": "on",
        "archiver": {"archived": 3, "failed": 0, "last_failed_wal": null, "failing": false, "failed_seconds_ago": null,
        "archived_seconds_ago": 5}, "max_slot_wal_keep_size": "-1", "slots": [], "wraparound": {"database": "a", "age": 70},
        "standby_delay": null, "hot_standby_feedback": null, "role_settings": []}"#;

    /// Replaces one value of a healthy server's answer; the checks that then do not pass.
    fn check_found(key: &str, value: &str, expected: &[(&str, Outcome)]) {
        let mut facts: serde_json::Value = serde_json::from_str(HEALTHY).unwrap();
        facts[key] = serde_json::from_str(value).unwrap();
        let facts: ServerFacts = serde_json::from_value(facts).unwrap();
        let found: Vec<(String, Outcome)> = checks(&facts, &Settings::default())
            .into_iter()
            .filter(|check| !matches!(check.outcome, Outcome::Passed | Outcome::Skipped))
            .map(|check| {
                assert!(!check.causes.is_empty() && !check.remedies.is_empty(), "{check:?}");
                (check.id, check.outcome)
            })
            .collect();
        let expected: Vec<(String, Outcome)> = expected.iter().map(|&(id, outcome)| (id.to_owned(), outcome)).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn a_healthy_server_passes() {
        check_found("connections", "5", &[]);
    }

    #[test]
    fn each_trouble_has_its_check() {
        use Outcome::{Failed, Warned};
        let transaction =
            r#"[{"pid": 7, "user": "a", "database": "b", "application": null, "state": "active", "seconds": 4000}]"#;
        check_found("transactions", transaction, &[("postgres.transactions.long", Warned)]);
        let lock = r#"[{"pid": 7, "database": "b", "relation": "1", "granted": true, "user": "x", "application": "y", "seconds": 4}]"#;
        check_found("locks", lock, &[("postgres.locks.exclusive", Warned)]);
        check_found("dumps", r#"[{"pid": 7, "database": "b", "seconds": 400}]"#, &[("postgres.dumps.overlap", Warned)]);
        let prepared = r#"[{"gid": "x", "database": "b", "seconds": 4000}]"#;
        check_found("prepared", prepared, &[("postgres.transactions.prepared", Warned)]);
        check_found("connections", "95", &[("postgres.connections", Failed)]);
        let archiver =
            r#"{"archived": 1, "failed": 9, "last_failed_wal": "0001", "failing": true, "failed_seconds_ago": 3}"#;
        check_found("archiver", archiver, &[("postgres.archiver", Failed)]);
        let slot = |active: bool, status: &str, lag: i64| {
            format!(r#"[{{"name": "s", "active": {active}, "status": "{status}", "lag_bytes": {lag}}}]"#)
        };
        check_found("slots", &slot(true, "reserved", 5), &[]);
        check_found("slots", &slot(false, "reserved", 5), &[("postgres.slots", Warned)]);
        check_found("slots", &slot(true, "extended", 2 << 30), &[("postgres.slots", Warned)]);
        check_found("slots", &slot(true, "extended", 20 << 30), &[("postgres.slots", Failed)]);
        check_found("slots", &slot(false, "lost", 0), &[("postgres.slots", Failed)]);
        check_found("sees_statistics", "false", &[("postgres.privileges.statistics", Warned)]);
        check_found("data_checksums", r#""off""#, &[("postgres.checksums", Warned)]);
        check_found("wraparound", r#"{"database": "a", "age": 1100000000}"#, &[("postgres.wraparound", Warned)]);
        check_found("wraparound", r#"{"database": "a", "age": 1700000000}"#, &[("postgres.wraparound", Failed)]);
        check_found("role_settings", r#"["role=x"]"#, &[("postgres.settings.role", Warned)]);
    }

    #[test]
    fn disk_space_is_judged_by_what_df_says() {
        let df = |used: &str| {
            format!("Filesystem 1024-blocks Used Available Capacity Mounted on\n/dev/x 100 50 2048 {used} /")
        };
        for (text, expected) in [
            (df("50%"), Outcome::Passed),
            (df("80%"), Outcome::Warned),
            (df("90%"), Outcome::Failed),
            ("nonsense".to_owned(), Outcome::Skipped),
        ] {
            assert_eq!(disk(&text, "/d").outcome, expected, "{text}");
        }
    }
}
