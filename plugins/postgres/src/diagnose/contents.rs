//! What in one database keeps a dump from working, or from coming back.

use crate::server::{Cluster, Session, ask};
use serde::Deserialize;
use strongroom_plugin::{Check, Result};

/// `pg_dump` keeps an entry for each in memory, and a restore a lock.
const MANY_LARGE_OBJECTS: u64 = 1_000_000;

/// What `diagnose_database.sql` answers.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct DatabaseFacts {
    database: String,
    bytes: u64,
    unreadable: Names,
    row_security: Names,
    unreadable_large_objects: u64,
    large_objects: u64,
    invalid_indexes: Names,
    unlogged: u64,
    extensions_missing: Vec<String>,
    foreign_tables: u64,
    collation: Option<String>,
    #[serde(default)]
    collation_actual: Option<String>,
}

#[derive(Clone, Debug, Deserialize)]
struct Names {
    count: u64,
    first: Option<Vec<String>>,
}

impl Names {
    fn shown(&self) -> String {
        format!("{}, such as {}", self.count, self.first.iter().flatten().cloned().collect::<Vec<_>>().join(", "))
    }
}

impl DatabaseFacts {
    /// Asks the database.
    pub(super) fn ask(database: &str) -> Result<Self> {
        #[derive(Deserialize)]
        struct Collation {
            collation_actual: Option<String>,
        }
        let mut session = Session::open(ask("diagnose_database", database))?;
        let facts: Self = session.row()?;
        crate::server::same_database(database, &facts.database)?;
        let Collation { collation_actual } = session.row()?;
        Ok(Self { collation_actual, ..facts })
    }
}

/// One check for each thing that can go wrong.
pub(super) fn checks(facts: &DatabaseFacts, cluster: &Cluster) -> Vec<Check> {
    let user = cluster.user.replace('"', "\"\"");
    vec![
        privileges(facts, &user),
        row_security(facts, &user),
        extensions(facts),
        indexes(facts),
        collation(facts),
        large_objects(facts),
        left_out(facts, cluster),
    ]
}

fn privileges(facts: &DatabaseFacts, user: &str) -> Check {
    let title = format!("everything in \"{}\" can be read", facts.database);
    let id = "postgres.privileges.read";
    if facts.unreadable.count == 0 && facts.unreadable_large_objects == 0 {
        return Check::passed(id, title).evidence(format!("{} MiB", facts.bytes >> 20));
    }
    let mut evidence = Vec::new();
    if facts.unreadable.count > 0 {
        evidence.push(format!("tables and sequences without SELECT: {}", facts.unreadable.shown()));
    }
    if facts.unreadable_large_objects > 0 {
        evidence.push(format!("large objects without SELECT: {}", facts.unreadable_large_objects));
    }
    Check::failed(id, title)
        .evidence(evidence.join("; "))
        .cause("the user is not a superuser and new tables were not granted to it")
        .remedy(format!("GRANT pg_read_all_data TO \"{user}\""))
        .remedy("large objects: ALTER DATABASE name SET lo_compat_privileges = on, or GRANT SELECT ON LARGE OBJECT")
}

fn row_security(facts: &DatabaseFacts, user: &str) -> Check {
    let title = format!("row security hides nothing in \"{}\"", facts.database);
    let id = "postgres.privileges.row_security";
    if facts.row_security.count == 0 {
        return Check::passed(id, title).evidence("no policy holds for the user");
    }
    Check::failed(id, title)
        .evidence(facts.row_security.shown())
        .cause("policies hold for this user: a dump fails rather than leave rows out")
        .remedy(format!("ALTER ROLE \"{user}\" BYPASSRLS"))
}

fn extensions(facts: &DatabaseFacts) -> Check {
    let title = format!("the extensions of \"{}\" are installed", facts.database);
    let id = "postgres.extensions";
    if facts.extensions_missing.is_empty() {
        return Check::passed(id, title).evidence("all of them can be created here");
    }
    Check::failed(id, title)
        .evidence(facts.extensions_missing.join(", "))
        .cause("their files were removed, or are of another version: a restore here would fail")
        .remedy("install the package of the extension")
        .remedy("ALTER EXTENSION name UPDATE")
}

fn indexes(facts: &DatabaseFacts) -> Check {
    let title = format!("the indexes of \"{}\" are valid", facts.database);
    let id = "postgres.indexes.invalid";
    if facts.invalid_indexes.count == 0 {
        return Check::passed(id, title).evidence("no invalid index");
    }
    Check::warned(id, title)
        .evidence(facts.invalid_indexes.shown())
        .cause("CREATE INDEX CONCURRENTLY failed half-way; such an index is not in a dump")
        .remedy("REINDEX INDEX CONCURRENTLY name, or DROP INDEX name")
}

fn collation(facts: &DatabaseFacts) -> Check {
    let title = format!("the collation of \"{}\" is that of its indexes", facts.database);
    let id = "postgres.collation";
    match (&facts.collation, &facts.collation_actual) {
        (Some(then), Some(now)) if then != now => Check::warned(id, title)
            .evidence(format!("created with {then}, the operating system has {now}"))
            .cause("the operating system was upgraded: indexes on text may be wrong")
            .remedy(format!(
                "REINDEX DATABASE \"{0}\"; ALTER DATABASE \"{0}\" REFRESH COLLATION VERSION",
                facts.database
            )),
        (Some(version), _) => Check::passed(id, title).evidence(format!("version {version}")),
        (None, _) => Check::skipped(id, title).evidence("it has no version"),
    }
}

fn large_objects(facts: &DatabaseFacts) -> Check {
    let title = format!("\"{}\" has no more large objects than a dump can hold in memory", facts.database);
    let id = "postgres.large_objects";
    let evidence = format!("{} large objects, threshold {MANY_LARGE_OBJECTS}", facts.large_objects);
    if facts.large_objects <= MANY_LARGE_OBJECTS {
        return Check::passed(id, title).evidence(evidence);
    }
    Check::warned(id, title)
        .evidence(evidence)
        .cause("an application deletes rows and not the large objects that they name")
        .remedy(format!("vacuumlo -n {}", facts.database))
}

/// What a dump of this database cannot hold whole.
fn left_out(facts: &DatabaseFacts, cluster: &Cluster) -> Check {
    let title = format!("a dump of \"{}\" holds all rows", facts.database);
    let id = "postgres.dump.left_out";
    let mut evidence = Vec::new();
    if facts.foreign_tables > 0 {
        evidence.push(format!("{} foreign tables, whose rows are elsewhere", facts.foreign_tables));
    }
    if facts.unlogged > 0 && cluster.in_recovery {
        evidence.push(format!("{} unlogged tables, which a standby does not have", facts.unlogged));
    }
    if evidence.is_empty() {
        return Check::passed(id, title).evidence("no foreign tables");
    }
    Check::warned(id, title)
        .evidence(evidence.join("; "))
        .cause("these rows are not in this server's own storage")
        .remedy("back up the servers that hold them, or dump the primary")
}

#[cfg(test)]
mod tests {
    use super::{DatabaseFacts, checks};
    use crate::backup::tests::cluster;
    use strongroom_plugin::Outcome;

    const HEALTHY: &str = r#"{"database": "shop", "bytes": 1, "unreadable": {"count": 0, "first": null},
        "row_security": {"count": 0, "first": null}, "unreadable_large_objects": 0, "large_objects": 2,
        "invalid_indexes": {"count": 0, "first": null}, "unlogged": 1, "extensions_missing": [], "subscriptions": 0,
        "foreign_tables": 0, "collation": "2.36", "collation_actual": "2.36"}"#;

    fn check_found(key: &str, value: &str, expected: Option<(&str, Outcome)>) {
        let mut facts: serde_json::Value = serde_json::from_str(HEALTHY).unwrap();
        facts[key] = serde_json::from_str(value).unwrap();
        let facts: DatabaseFacts = serde_json::from_value(facts).unwrap();
        let found: Vec<_> = checks(&facts, &cluster(&[]))
            .into_iter()
            .filter(|check| !matches!(check.outcome, Outcome::Passed | Outcome::Skipped))
            .map(|check| {
                assert!(!check.causes.is_empty() && !check.remedies.is_empty(), "{check:?}");
                (check.id, check.outcome)
            })
            .collect();
        assert_eq!(found, expected.map(|(id, outcome)| (id.to_owned(), outcome)).into_iter().collect::<Vec<_>>());
    }

    #[test]
    fn each_trouble_has_its_check() {
        use Outcome::{Failed, Warned};
        let names = r#"{"count": 2, "first": ["public.a", "public.b"]}"#;
        check_found("bytes", "5", None);
        check_found("unreadable", names, Some(("postgres.privileges.read", Failed)));
        check_found("unreadable_large_objects", "3", Some(("postgres.privileges.read", Failed)));
        check_found("row_security", names, Some(("postgres.privileges.row_security", Failed)));
        check_found("extensions_missing", r#"["postgis"]"#, Some(("postgres.extensions", Failed)));
        check_found("invalid_indexes", names, Some(("postgres.indexes.invalid", Warned)));
        check_found("collation_actual", r#""2.40""#, Some(("postgres.collation", Warned)));
        check_found("large_objects", "1000001", Some(("postgres.large_objects", Warned)));
        check_found("foreign_tables", "1", Some(("postgres.dump.left_out", Warned)));
    }
}
