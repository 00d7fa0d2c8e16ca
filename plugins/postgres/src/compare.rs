//! Compares what came back with what was recorded. Pure.

use crate::globals::Globals;
use crate::inventory::{DatabaseInventory, Objects, Table};
use std::collections::BTreeMap;
use strongroom_plugin::{Check, Outcome};

/// How many names are written out where more differ.
const SHOWN: usize = 5;

/// An estimate that is off by more than this factor is worth a look.
const ESTIMATE_FACTOR: u64 = 2;

/// Below this many rows an estimate says nothing.
const ESTIMATE_FLOOR: u64 = 1_000;

/// What can be compared besides names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Scope {
    /// Owners and privileges were restored too.
    pub(crate) roles: bool,
    /// Definitions are spelled alike: the same major version on both sides.
    pub(crate) definitions: bool,
    /// Publications were restored too.
    pub(crate) publications: bool,
    /// Rows were counted in what came back.
    pub(crate) rows: bool,
}

/// One check for each kind of thing.
pub(crate) fn databases(expected: &DatabaseInventory, got: &DatabaseInventory, scope: Scope) -> Vec<Check> {
    let mut checks = vec![tables(expected, got), constraints(expected, got, scope), objects(expected, got, scope)];
    if scope.rows {
        checks.push(rows(expected, got));
    }
    if scope.roles {
        checks.push(privileges(expected, got, scope));
    }
    checks
}

fn by_name(inventory: &DatabaseInventory) -> BTreeMap<(&str, &str), &Table> {
    inventory.tables.iter().map(|table| ((table.schema.as_str(), table.name.as_str()), table)).collect()
}

/// Tables that are on both sides.
fn pairs<'a>(expected: &'a DatabaseInventory, got: &'a DatabaseInventory) -> Vec<(&'a Table, &'a Table)> {
    let found = by_name(got);
    let name = |table: &'a Table| (table.schema.as_str(), table.name.as_str());
    expected.tables.iter().filter_map(|table| Some((table, *found.get(&name(table))?))).collect()
}

fn check(id: &str, title: String, good: String, wrong: &[String], cause: &str) -> Check {
    if wrong.is_empty() {
        return Check::passed(id, title).evidence(good);
    }
    Check::failed(id, title)
        .evidence(listed(wrong))
        .cause(cause)
        .remedy("strongroom backup JOB && strongroom verify JOB --depth restore")
}

/// The first few, and how many there are.
pub(crate) fn listed(names: &[String]) -> String {
    let shown = names[..names.len().min(SHOWN)].join("; ");
    if names.len() > SHOWN { format!("{shown}; and {} more", names.len() - SHOWN) } else { shown }
}

fn tables(expected: &DatabaseInventory, got: &DatabaseInventory) -> Check {
    let (wanted, found) = (by_name(expected), by_name(got));
    let mut wrong: Vec<String> = Vec::new();
    for (name, table) in &wanted {
        match found.get(name) {
            None => wrong.push(format!("{} is missing", table.title())),
            Some(other) if other.relkind != table.relkind => {
                wrong.push(format!("{} has kind {}, expected {}", table.title(), other.relkind, table.relkind));
            }
            Some(_) => {}
        }
    }
    wrong.extend(
        found
            .iter()
            .filter(|(name, _)| !wanted.contains_key(*name))
            .map(|(_, table)| format!("{} is new", table.title())),
    );
    let title = format!("tables of \"{}\" came back", expected.name);
    check(
        "postgres.restore.tables",
        title,
        format!("{} tables", wanted.len()),
        &wrong,
        "the dump does not hold what its snapshot held",
    )
}

fn constraints(expected: &DatabaseInventory, got: &DatabaseInventory, scope: Scope) -> Check {
    let mut wrong = Vec::new();
    let mut n = 0;
    for (table, found) in pairs(expected, got) {
        // Without the definition: its spelling may change between versions.
        let key = |text: &String| if scope.definitions { text.clone() } else { head(text) };
        let there: Vec<String> = found.constraints.iter().map(key).collect();
        n += table.constraints.len();
        for constraint in table.constraints.iter().map(key).filter(|text| !there.contains(text)) {
            wrong.push(format!("{}: {constraint} is missing", table.title()));
        }
    }
    let title = format!("constraints of \"{}\" came back", expected.name);
    check(
        "postgres.restore.constraints",
        title,
        format!("{n} constraints"),
        &wrong,
        "an error while constraints were added",
    )
}

/// A constraint's name and kind: what stands before its first bracket.
fn head(text: &str) -> String {
    text.split_once('(').map_or(text, |(head, _)| head).trim_end().to_owned()
}

fn objects(expected: &DatabaseInventory, got: &DatabaseInventory, scope: Scope) -> Check {
    let relevant = |objects: &&Objects| scope.publications || objects.what != "publications";
    let mut wrong = Vec::new();
    for wanted in expected.objects.iter().filter(relevant) {
        match got.objects.iter().find(|found| found.what == wanted.what) {
            None => wrong.push(format!("0 {}, expected {}", wanted.what, wanted.count)),
            Some(found) if found.count != wanted.count => {
                wrong.push(format!("{} {}, expected {}", found.count, wanted.what, wanted.count));
            }
            // Privileges are part of the definitions of schemas and functions.
            Some(found) if scope.definitions && scope.roles && found.digest != wanted.digest => {
                wrong.push(format!("{} differ in name or definition", wanted.what));
            }
            Some(_) => {}
        }
    }
    for extension in &expected.extensions {
        if !got.extensions.iter().any(|found| found.name == extension.name) {
            wrong.push(format!("extension {} is missing", extension.name));
        }
    }
    let good: Vec<String> =
        expected.objects.iter().map(|objects| format!("{} {}", objects.count, objects.what)).collect();
    let title = format!("everything else of \"{}\" came back", expected.name);
    check(
        "postgres.restore.objects",
        title,
        good.join(", "),
        &wrong,
        "another version of the server or of an extension",
    )
}

fn rows(expected: &DatabaseInventory, got: &DatabaseInventory) -> Check {
    let (mut wrong, mut doubtful) = (Vec::new(), Vec::new());
    let (mut exact, mut n_rows, mut estimated) = (0_usize, 0_u64, 0_usize);
    for (table, found) in pairs(expected, got).into_iter().filter(|(table, _)| table.is_counted()) {
        let title = table.title();
        match (table.rows, found.rows) {
            (Some(wanted), Some(rows)) if wanted != rows => {
                wrong.push(format!("{title} has {rows} rows, expected {wanted}"));
            }
            (Some(wanted), Some(_)) => {
                exact += 1;
                n_rows += wanted;
            }
            (_, None) => doubtful.push(format!("{title} could not be counted")),
            (None, Some(rows)) => {
                estimated += 1;
                let Ok(estimate) = u64::try_from(table.estimate) else { continue };
                let (low, high) = (estimate.min(rows), estimate.max(rows));
                if high > ESTIMATE_FLOOR && low.saturating_mul(ESTIMATE_FACTOR) < high {
                    doubtful.push(format!("{title} has {rows} rows, estimated {estimate}"));
                }
            }
        }
    }
    let good = format!("{n_rows} rows in {exact} tables, exactly as in the snapshot; {estimated} tables by estimate");
    let title = format!("rows of \"{}\" came back", expected.name);
    let checked =
        check("postgres.restore.rows", title, good, &wrong, "the dump and its counts are not of one snapshot");
    if checked.outcome == Outcome::Passed && !doubtful.is_empty() {
        let Check { id, title, .. } = checked;
        return Check::warned(id, title)
            .evidence(listed(&doubtful))
            .cause("the planner's estimate was old when the backup was made")
            .remedy("set count_seconds and count_table_seconds in the job's settings to count every table");
    }
    checked
}

fn privileges(expected: &DatabaseInventory, got: &DatabaseInventory, scope: Scope) -> Check {
    let mut wrong = Vec::new();
    for (table, found) in pairs(expected, got) {
        if table.owner != found.owner {
            wrong.push(format!("{} belongs to {}, expected {}", table.title(), found.owner, table.owner));
        }
        // A new version may know privileges that the old one did not, such as MAINTAIN.
        if scope.definitions && table.privileges != found.privileges {
            let (got, wanted) = (found.privileges.join(","), table.privileges.join(","));
            wrong.push(format!("{} grants {got}, expected {wanted}", table.title()));
        }
    }
    let title = format!("owners and privileges in \"{}\" came back", expected.name);
    let good = format!("{} tables", expected.tables.len());
    check("postgres.restore.privileges", title, good, &wrong, "a role of the backup is missing")
}

/// Roles and memberships, as far as they were to be restored.
pub(crate) fn globals(expected: &Globals, got: &Globals) -> Check {
    let mut wrong = Vec::new();
    for role in &expected.roles {
        match got.role(&role.name) {
            None => wrong.push(format!("role {} is missing", role.name)),
            Some(there) => {
                let keys: Vec<String> = role.difference(there).into_keys().collect();
                if !keys.is_empty() {
                    wrong.push(format!("role {} differs in {}", role.name, keys.join(", ")));
                }
            }
        }
    }
    for row in &expected.memberships {
        let there = |found: &&crate::globals::Membership| found.role == row.role && found.member == row.member;
        match got.memberships.iter().find(there) {
            None => wrong.push(format!("{} is not a member of {}", row.member, row.role)),
            Some(found) if found.admin != row.admin => {
                wrong.push(format!("{} holds {} with another admin option", row.member, row.role));
            }
            Some(_) => {}
        }
    }
    let good = format!("{} roles, {} memberships", expected.roles.len(), expected.memberships.len());
    check("postgres.restore.roles", "roles came back".to_owned(), good, &wrong, "the roles could not be created")
}

#[cfg(test)]
mod tests {
    use super::{Scope, databases, globals};
    use crate::globals::Globals;
    use crate::globals::tests::role;
    use crate::inventory::{DatabaseInventory, Objects, Table};
    use strongroom_plugin::Outcome;

    const ALL: Scope = Scope { roles: true, definitions: true, publications: true, rows: true };

    fn table(name: &str, rows: Option<u64>) -> Table {
        Table {
            schema: "public".to_owned(),
            name: name.to_owned(),
            relkind: "r".to_owned(),
            owner: "app".to_owned(),
            populated: true,
            estimate: 10_000,
            constraints: vec![format!("{name}_pkey PRIMARY KEY (id)")],
            rows,
            ..Table::default()
        }
    }

    fn database(tables: Vec<Table>) -> DatabaseInventory {
        let objects = vec![Objects { what: "views".to_owned(), count: 2, digest: "x".to_owned() }];
        DatabaseInventory { name: "shop".to_owned(), tables, objects, ..DatabaseInventory::default() }
    }

    fn check_compared(got: &DatabaseInventory, scope: Scope, expected: &[(&str, Outcome, &str)]) {
        let recorded = database(vec![table("a", Some(3)), table("b", None)]);
        let mut seen = Vec::new();
        for check in databases(&recorded, got, scope) {
            if check.outcome != Outcome::Passed {
                seen.push((check.id, check.outcome, check.evidence));
            }
        }
        let seen: Vec<_> = seen.iter().map(|(id, outcome, text)| (id.as_str(), *outcome, text.as_str())).collect();
        assert_eq!(seen, expected);
    }

    #[test]
    fn what_came_back_whole_passes() {
        check_compared(&database(vec![table("a", Some(3)), table("b", Some(9_000))]), ALL, &[]);
    }

    #[test]
    fn a_missing_and_a_new_table_fail() {
        let got = database(vec![table("a", Some(3)), table("c", Some(1))]);
        check_compared(
            &got,
            ALL,
            &[("postgres.restore.tables", Outcome::Failed, "public.b is missing; public.c is new")],
        );
    }

    #[test]
    fn a_wrong_count_fails_and_a_wrong_estimate_warns() {
        let got = database(vec![table("a", Some(4)), table("b", Some(9_000))]);
        check_compared(&got, ALL, &[("postgres.restore.rows", Outcome::Failed, "public.a has 4 rows, expected 3")]);
        let got = database(vec![table("a", Some(3)), table("b", Some(100))]);
        check_compared(
            &got,
            ALL,
            &[("postgres.restore.rows", Outcome::Warned, "public.b has 100 rows, estimated 10000")],
        );
    }

    #[test]
    fn constraints_owners_and_objects_are_compared() {
        let mut a = table("a", Some(3));
        a.constraints.clear();
        a.owner = "other".to_owned();
        let mut got = database(vec![a, table("b", Some(9_000))]);
        got.objects.clear();
        check_compared(
            &got,
            ALL,
            &[
                ("postgres.restore.constraints", Outcome::Failed, "public.a: a_pkey PRIMARY KEY (id) is missing"),
                ("postgres.restore.objects", Outcome::Failed, "0 views, expected 2"),
                ("postgres.restore.privileges", Outcome::Failed, "public.a belongs to other, expected app"),
            ],
        );
    }

    #[test]
    fn definitions_are_compared_only_between_equal_versions() {
        let mut got = database(vec![table("a", Some(3)), table("b", Some(9_000))]);
        got.objects[0].digest = "y".to_owned();
        got.tables[0].constraints = vec!["a_pkey PRIMARY KEY (id) spelled anew".to_owned()];
        check_compared(&got, Scope { definitions: false, ..ALL }, &[]);
        check_compared(
            &got,
            ALL,
            &[
                ("postgres.restore.constraints", Outcome::Failed, "public.a: a_pkey PRIMARY KEY (id) is missing"),
                ("postgres.restore.objects", Outcome::Failed, "views differ in name or definition"),
            ],
        );
    }

    #[test]
    fn roles_are_compared() {
        let recorded = Globals { roles: vec![role("a"), role("b")], ..Globals::default() };
        let mut changed = role("b");
        changed.login = true;
        let got = Globals { roles: vec![changed], ..Globals::default() };
        let check = globals(&recorded, &got);
        assert_eq!(
            (check.outcome, check.evidence.as_str()),
            (Outcome::Failed, "role a is missing; role b differs in login")
        );
    }
}
