//! The dump's own reader accepts the stored bytes, to the last one.

use super::failed;
use crate::compare::listed;
use crate::inventory::{DatabaseInventory, Table};
use std::collections::HashSet;
use strongroom_plugin::prelude::*;

/// Every table of the inventory has its rows in the dump's table of contents. That says nothing
/// about the rows themselves: the list stands at the beginning of the dump.
pub(super) fn lists(database: &DatabaseInventory) -> Result<Check> {
    const ID: &str = "postgres.dump.lists";
    let title = format!("the dump of \"{}\" lists every table", database.name);
    match list(&database.artifact) {
        Err(error) => failed(ID, &title, error, "the dump does not begin as one"),
        Ok(entries) => {
            let expected: Vec<&Table> = database.tables.iter().filter(|table| has_data(table)).collect();
            let missing: Vec<String> =
                expected.iter().filter(|table| !entries.contains(&entry(table))).map(|table| table.title()).collect();
            if missing.is_empty() {
                let evidence = format!("rows of {} tables among {} entries", expected.len(), entries.len());
                return Ok(Check::passed(ID, title).evidence(evidence));
            }
            Ok(Check::failed(ID, title)
                .evidence(format!("no rows of {}", listed(&missing)))
                .cause("an extension or a policy keeps the table out of dumps")
                .remedy("strongroom backup JOB"))
        }
    }
}

/// The dump is read to its end, every block of it.
pub(super) fn decodes(database: &DatabaseInventory) -> Result<Check> {
    const ID: &str = "postgres.dump.decodes";
    let title = format!("the dump of \"{}\" can be read to its end", database.name);
    let read = || exec::command("decode").stdin(storage::get(&database.artifact)?).spawn()?.wait()?.success();
    match read() {
        Ok(()) => Ok(Check::passed(ID, title).evidence(database.artifact.as_str())),
        Err(error) => failed(ID, &title, error, "the dump is cut or damaged"),
    }
}

/// The entries of the dump's table of contents.
fn list(artifact: &str) -> Result<HashSet<String>> {
    let process = exec::command("list").stdin(storage::get(artifact)?).spawn()?;
    let mut entries = HashSet::new();
    for line in process.stdout()?.lines() {
        match line {
            Ok(line) => entries.extend(parse_entry(&line)),
            Err(error) => return Err(process.wait()?.success().err().unwrap_or_else(|| error.into())),
        }
    }
    process.wait()?.success()?;
    Ok(entries)
}

/// What a line of `pg_restore --list` says after its three numbers, such as
/// `TABLE DATA public customer app`.
fn parse_entry(line: &str) -> Option<String> {
    let (number, rest) = line.split_once("; ")?;
    number.parse::<u64>().ok()?;
    let mut rest = rest;
    for _ in 0..2 {
        let (number, after) = rest.split_once(' ')?;
        number.parse::<u64>().ok()?;
        rest = after;
    }
    Some(rest.to_owned())
}

/// The entry of a table's rows, as `pg_restore` writes it: line ends in names become spaces.
fn entry(table: &Table) -> String {
    let Table { schema, name, owner, .. } = table;
    let what = if table.relkind == "m" { "MATERIALIZED VIEW DATA" } else { "TABLE DATA" };
    format!("{what} {schema} {name} {owner}").replace(['\n', '\r'], " ")
}

/// Whether a dump holds the rows of a table, or the order to fill a materialised view.
fn has_data(table: &Table) -> bool {
    match table.relkind.as_str() {
        "r" => table.extension.is_none() && table.persistence == "p",
        "m" => table.extension.is_none() && table.populated,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::{entry, has_data, parse_entry};
    use crate::inventory::Table;

    #[test]
    fn lines_of_the_list_are_read() {
        for (line, expected) in [
            ("3345; 0 16386 TABLE DATA public t1 app", Some("TABLE DATA public t1 app")),
            ("5; 2615 2200 SCHEMA - my schema owner", Some("SCHEMA - my schema owner")),
            ("; Archive created at 2026-11-21", None),
            (";", None),
            ("", None),
        ] {
            assert_eq!(parse_entry(line).as_deref(), expected, "{line}");
        }
    }

    #[test]
    fn a_table_is_found_by_schema_name_and_owner() {
        let table = Table {
            schema: "Odd Schema".to_owned(),
            name: "a\nb".to_owned(),
            owner: "app".to_owned(),
            relkind: "r".to_owned(),
            persistence: "p".to_owned(),
            ..Table::default()
        };
        assert_eq!(entry(&table), "TABLE DATA Odd Schema a b app");
        assert!(has_data(&table));
        assert!(!has_data(&Table { relkind: "p".to_owned(), ..table.clone() }));
        assert!(!has_data(&Table { extension: Some("postgis".to_owned()), ..table }));
    }
}
