//! Whether the server can be reached, by whom, and what it lets this user see. Pure.

use crate::server::Cluster;
use crate::settings::Settings;
use strongroom_plugin::{Check, Error};

const ID: &str = "postgres.connect";
const TITLE: &str = "the server answers and lets the user in";

/// What the text of libpq says about why, and what to do.
struct Reason {
    /// A piece of the message.
    says: &'static str,
    cause: &'static str,
    remedies: &'static [&'static str],
}

const REASONS: [Reason; 14] = [
    Reason {
        says: "password authentication failed",
        cause: "the password is wrong or has changed",
        remedies: &["compare secrets.PGPASSWORD of the job with the role's password", "ALTER ROLE name PASSWORD '…'"],
    },
    Reason {
        says: "no password supplied",
        cause: "the grant names no secret, or the job has none of that name",
        remedies: &["add secrets = { PGPASSWORD = { env = \"…\" } } to the job"],
    },
    Reason {
        says: "no pg_hba.conf entry",
        cause: "the server does not admit this user from this address",
        remedies: &["add a line for the address, database and user to pg_hba.conf", "SELECT pg_reload_conf()"],
    },
    Reason {
        says: "Peer authentication failed",
        cause: "through the socket only the operating system's user of that name is admitted",
        remedies: &[
            "set run_in = { user = \"postgres\" } in the job",
            "or set PGHOST = \"127.0.0.1\" in the job's env",
        ],
    },
    Reason {
        says: "Connection refused",
        cause: "the server does not run, or listens on another address or port",
        remedies: &["pg_isready -h HOST -p PORT", "systemctl status postgresql", "SHOW listen_addresses"],
    },
    Reason {
        says: "No such file or directory",
        cause: "the server does not run, or its socket is in another directory",
        remedies: &["pg_isready", "set PGHOST in the job's env to the socket's directory or to a host"],
    },
    Reason {
        says: "could not translate host name",
        cause: "the host name in PGHOST cannot be resolved",
        remedies: &["getent hosts HOST"],
    },
    Reason {
        says: "timeout expired",
        cause: "a firewall drops the packets, or the network is down",
        remedies: &["nc -vz HOST PORT"],
    },
    Reason {
        says: "starting up",
        cause: "the server has just been started or recovers after a crash",
        remedies: &["wait, then read the server's log"],
    },
    Reason { says: "shutting down", cause: "the server is being stopped", remedies: &["systemctl status postgresql"] },
    Reason {
        says: "remaining connection slots",
        cause: "all connections are taken",
        remedies: &["SELECT count(*) FROM pg_stat_activity", "raise max_connections or use reserved_connections"],
    },
    Reason {
        says: "too many connections",
        cause: "the role's or the database's connection limit is reached",
        remedies: &["ALTER ROLE name CONNECTION LIMIT n"],
    },
    Reason {
        says: "does not exist",
        cause: "the database or the role is not on this server",
        remedies: &["psql -l", "set maintenance_database in the job's settings", "set PGUSER in the job's env"],
    },
    Reason {
        says: "SSL",
        cause: "server and client do not agree about TLS",
        remedies: &[
            "set PGSSLMODE and PGSSLROOTCERT in the job's env",
            "openssl s_client -starttls postgres -connect HOST:PORT",
        ],
    },
];

/// The server did not answer, or sent us away.
pub(super) fn refused(database: &str, error: &Error) -> Check {
    let text = error.message();
    let check = Check::failed(ID, TITLE).evidence(format!("database \"{database}\": {text}"));
    match REASONS.iter().find(|reason| text.contains(reason.says)) {
        Some(reason) => reason.remedies.iter().fold(check.cause(reason.cause), |check, remedy| check.remedy(*remedy)),
        None if matches!(error, Error::NotFound(_)) => {
            check.cause("psql is not installed where the command runs").remedy("apt-get install postgresql-client")
        }
        None => check.cause("the server does not run or cannot be reached").remedy("pg_isready -h HOST -p PORT"),
    }
}

/// It answered.
pub(super) fn reached(cluster: &Cluster) -> Check {
    let place = cluster.server_address.as_deref().unwrap_or("a local socket");
    let kind = if cluster.in_recovery { "standby" } else { "primary" };
    Check::passed(ID, TITLE).evidence(format!("PostgreSQL {} ({kind}) at {place} as {}", cluster.version, cluster.user))
}

/// The plugin was written for servers of this age.
pub(super) fn supported(cluster: &Cluster) -> Check {
    const ID: &str = "postgres.version.server";
    const TITLE: &str = "the server is PostgreSQL 13 or newer";
    match cluster.check_supported() {
        Ok(()) => Check::passed(ID, TITLE).evidence(cluster.version.as_str()),
        Err(error) => Check::failed(ID, TITLE)
            .evidence(error.message())
            .cause("the server is older than the versions that are supported")
            .remedy("pg_dumpall > all.sql, and upgrade the server"),
    }
}

/// psql is not the dump program, but an old one beside a new one says that two installations are mixed.
pub(super) fn psql_version(cluster: &Cluster) -> Check {
    const ID: &str = "postgres.version.psql";
    const TITLE: &str = "psql is at least as new as the server";
    let evidence = format!("psql {}, server {}", cluster.psql_version_num / 10_000, cluster.major());
    if cluster.psql_version_num / 10_000 >= cluster.major() {
        return Check::passed(ID, TITLE).evidence(evidence);
    }
    Check::warned(ID, TITLE)
        .evidence(evidence)
        .cause("the grants name programs of an older installation")
        .remedy("strongroom plugin approve PLUGIN")
}

/// Whether restored roles will be able to log in.
pub(super) fn passwords(cluster: &Cluster) -> Check {
    const ID: &str = "postgres.privileges.passwords";
    const TITLE: &str = "passwords of roles can be captured";
    let evidence = format!("user {}", cluster.user);
    if cluster.reads_passwords {
        return Check::passed(ID, TITLE).evidence(evidence);
    }
    Check::warned(ID, TITLE)
        .evidence(format!("{evidence} may not read pg_authid"))
        .cause("the user is not a superuser; managed servers give this to nobody")
        .remedy("keep role passwords elsewhere, or back up as a superuser")
}

/// Whether the databases that the settings name, or all, can be dumped.
pub(super) fn databases(cluster: &Cluster, settings: &Settings) -> Check {
    const ID: &str = "postgres.databases";
    const TITLE: &str = "every database can be connected to";
    let mut wrong = Vec::new();
    for name in settings.databases.iter().flatten() {
        if cluster.find(name).is_none() {
            wrong.push(format!("\"{name}\" is not on the server"));
        }
    }
    let named = |name: &String| settings.databases.as_ref().is_none_or(|names| names.contains(name));
    for database in cluster.databases.iter().filter(|database| !database.template && named(&database.name)) {
        if !database.connects {
            wrong.push(format!("\"{}\" takes no connections", database.name));
        } else if !database.permitted {
            wrong.push(format!("\"{}\" is closed to {}", database.name, cluster.user));
        }
    }
    let bytes: u64 = cluster.databases.iter().filter_map(|database| database.bytes).sum();
    if wrong.is_empty() {
        return Check::passed(ID, TITLE).evidence(format!(
            "{} databases, {} MiB",
            cluster.databases.len(),
            bytes >> 20
        ));
    }
    Check::failed(ID, TITLE)
        .evidence(wrong.join("; "))
        .cause("a database was dropped or renamed, or CONNECT was revoked")
        .remedy(format!("GRANT CONNECT ON DATABASE name TO \"{}\"", cluster.user.replace('"', "\"\"")))
        .remedy("correct databases in the job's settings")
}

#[cfg(test)]
mod tests {
    use super::{databases, refused};
    use crate::backup::tests::cluster;
    use crate::settings::Settings;
    use strongroom_plugin::{Error, Outcome};

    #[test]
    fn what_libpq_says_has_a_cause_and_a_command() {
        for (text, cause) in [
            ("FATAL:  password authentication failed for user \"x\"", "the password is wrong or has changed"),
            ("FATAL:  database \"x\" does not exist", "the database or the role is not on this server"),
            ("port 1 failed: Connection refused", "the server does not run, or listens on another address or port"),
            ("something new", "the server does not run or cannot be reached"),
        ] {
            let check = refused("postgres", &Error::failed(text));
            assert_eq!((check.outcome, check.causes[0].as_str()), (Outcome::Failed, cause));
            assert!(!check.remedies.is_empty());
        }
    }

    #[test]
    fn a_named_database_must_be_there() {
        let cluster = cluster(&[("app", false, true, true), ("other", false, true, false)]);
        let named = |name: &str| Settings { databases: Some(vec![name.to_owned()]), ..Settings::default() };
        assert_eq!(databases(&cluster, &named("app")).outcome, Outcome::Passed);
        assert_eq!(databases(&cluster, &named("nope")).evidence, "\"nope\" is not on the server");
        assert_eq!(databases(&cluster, &Settings::default()).evidence, "\"other\" is closed to backup");
    }
}
