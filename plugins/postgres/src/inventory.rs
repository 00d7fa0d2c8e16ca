//! What a backup holds, database by database: the artifact `inventory.json`.

use crate::server::{Session, same_database};
use serde::{Deserialize, Serialize};
use std::io::Read;
use std::ops::ControlFlow;
use strongroom_plugin::exec::Command;
use strongroom_plugin::prelude::*;

/// Name of the artifact.
pub(crate) const ARTIFACT: &str = "inventory.json";

/// The format that this version writes; every released one is read for ever.
const FORMAT: u32 = 1;

/// Everything that was recorded with a backup and that a restore is compared with.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Inventory {
    pub(crate) format: u32,
    pub(crate) server_version_num: u32,
    pub(crate) server_version: String,
    pub(crate) dump_major: u32,
    pub(crate) databases: Vec<DatabaseInventory>,
}

/// One database.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct DatabaseInventory {
    pub(crate) name: String,
    /// Name of the artifact that holds its dump.
    pub(crate) artifact: String,
    pub(crate) tables: Vec<Table>,
    pub(crate) extensions: Vec<Extension>,
    pub(crate) objects: Vec<Objects>,
}

/// A table, partitioned table, materialised view or foreign table.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Table {
    pub(crate) schema: String,
    pub(crate) name: String,
    /// As in `pg_class`: r, p, m or f.
    pub(crate) relkind: String,
    /// As in `pg_class`: p or u.
    pub(crate) persistence: String,
    pub(crate) owner: String,
    /// False for a materialised view that was created with no data.
    pub(crate) populated: bool,
    pub(crate) bytes: u64,
    /// Rows as the planner believes; negative when it never looked.
    pub(crate) estimate: i64,
    /// The extension that it belongs to.
    pub(crate) extension: Option<String>,
    /// Of an extension, and its rows are dumped nevertheless.
    pub(crate) configuration: Option<bool>,
    /// Row security would hide rows from the user of the backup.
    pub(crate) row_security: bool,
    pub(crate) constraints: Vec<String>,
    pub(crate) privileges: Vec<String>,
    /// Rows, counted in the dump's snapshot; none where the time did not suffice.
    #[serde(default)]
    pub(crate) rows: Option<u64>,
}

impl Table {
    /// `schema.table`, for people.
    pub(crate) fn title(&self) -> String {
        format!("{}.{}", self.schema, self.name)
    }

    /// Whether its rows can be counted: not of a partitioned table, whose partitions are listed.
    pub(crate) fn is_counted(&self) -> bool {
        matches!(self.relkind.as_str(), "r" | "m") && self.populated && self.extension.is_none()
    }
}

/// An extension.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Extension {
    pub(crate) name: String,
    pub(crate) version: String,
    pub(crate) schema: String,
}

/// All objects of one kind: how many, and a digest of their names and definitions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Objects {
    pub(crate) what: String,
    pub(crate) count: u64,
    pub(crate) digest: String,
}

/// A line of `snapshot.sql`, `inventory.sql` and `counts.sql`.
#[derive(Debug, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
enum Row {
    Session { database: String, snapshot: String },
    Table(Table),
    Extension(Extension),
    Objects(Objects),
    Count { schema: String, name: String, rows: Option<u64> },
    End,
}

impl Inventory {
    /// An inventory in the present format.
    pub(crate) fn new(server_version_num: u32, server_version: String, dump_major: u32) -> Self {
        Self { format: FORMAT, server_version_num, server_version, dump_major, databases: Vec::new() }
    }

    /// The inventory of the backup in scope.
    pub(crate) fn load() -> Result<Self> {
        let mut json = Vec::new();
        storage::get(ARTIFACT)?.read_to_end(&mut json)?;
        let inventory: Self = serde_json::from_slice(&json)?;
        if inventory.format > FORMAT {
            return Err(Error::failed(format!(
                "inventory has format {}, expected at most {FORMAT}: use a newer version of the plugin",
                inventory.format
            )));
        }
        Ok(inventory)
    }

    /// The server's major version at the backup.
    pub(crate) fn major(&self) -> u32 {
        self.server_version_num / 10_000
    }
}

impl DatabaseInventory {
    /// Whether nothing of a user is in it.
    pub(crate) fn is_empty(&self) -> bool {
        self.tables.is_empty()
            && self.objects.is_empty()
            && self.extensions.iter().all(|extension| extension.name == "plpgsql")
    }

    /// Rows that were counted, all together, and the number of tables that were not.
    pub(crate) fn rows(&self) -> (u64, usize) {
        let counted = self.tables.iter().filter(|table| table.is_counted());
        counted.fold((0, 0), |(rows, unknown), table| match table.rows {
            Some(n) => (rows + n, unknown),
            None => (rows, unknown + 1),
        })
    }

    /// Bytes of its tables, without indexes.
    pub(crate) fn bytes(&self) -> u64 {
        self.tables.iter().map(|table| table.bytes).sum()
    }

    /// Reads the rows of `snapshot.sql` or `inventory.sql`, and the snapshot that stays exported
    /// while the session lives.
    pub(crate) fn read(session: &mut Session, wanted: &str) -> Result<(Self, String)> {
        let mut inventory = Self { name: wanted.to_owned(), ..Self::default() };
        let mut exported = String::new();
        session.rows(|row| {
            match row {
                Row::Session { database, snapshot } => {
                    same_database(wanted, &database)?;
                    exported = snapshot;
                }
                Row::Table(table) => inventory.tables.push(table),
                Row::Extension(extension) => inventory.extensions.push(extension),
                Row::Objects(objects) => inventory.objects.push(objects),
                Row::Count { .. } => {}
                Row::End => return Ok(ControlFlow::Break(())),
            }
            Ok(ControlFlow::Continue(()))
        })?;
        Ok((inventory, exported))
    }

    /// Runs an inventory command to its end.
    pub(crate) fn ask(command: Command, wanted: &str) -> Result<Self> {
        Ok(Self::read(&mut Session::open(command)?, wanted)?.0)
    }

    /// Reads the rows of `counts.sql` into the tables.
    pub(crate) fn count(&mut self, session: &mut Session) -> Result<()> {
        session.rows(|row| {
            match row {
                Row::Session { database, .. } => same_database(&self.name, &database)?,
                Row::Count { schema, name, rows } => {
                    // In the order of the query, which is not that of the inventory.
                    let place = self.tables.iter_mut().find(|table| table.name == name && table.schema == schema);
                    if let Some(table) = place {
                        table.rows = rows;
                    }
                }
                Row::End => return Ok(ControlFlow::Break(())),
                Row::Table(_) | Row::Extension(_) | Row::Objects(_) => {}
            }
            Ok(ControlFlow::Continue(()))
        })
    }
}

/// The name of a dump's artifact: the database's own where the store takes it, else what is left
/// of it and its place in the list, so that no two are the same.
pub(crate) fn artifact_name(database: &str, place: usize) -> String {
    let kept: String = database
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-') { c } else { '_' })
        .take(100)
        .collect();
    if kept == database && kept.starts_with(|c: char| c.is_ascii_alphanumeric()) {
        format!("{kept}.dump")
    } else {
        format!("database-{place}-{kept}.dump")
    }
}

#[cfg(test)]
mod tests {
    use super::{DatabaseInventory, Row, Table, artifact_name};

    #[test]
    fn artifact_names_are_those_of_databases_where_the_store_takes_them() {
        for (database, expected) in [
            ("shop-orders", "shop-orders.dump"),
            ("a.b_c", "a.b_c.dump"),
            ("_x", "database-7-_x.dump"),
            ("my shop", "database-7-my_shop.dump"),
            ("../x", "database-7-.._x.dump"),
            ("größe", "database-7-gr__e.dump"),
        ] {
            assert_eq!(artifact_name(database, 7), expected);
        }
    }

    #[test]
    fn rows_are_summed_over_tables_that_can_be_counted() {
        let table =
            |relkind: &str, rows| Table { relkind: relkind.to_owned(), populated: true, rows, ..Table::default() };
        let inventory = DatabaseInventory {
            tables: vec![
                table("r", Some(3)),
                table("p", None),
                table("m", Some(4)),
                table("r", None),
                table("f", None),
            ],
            ..DatabaseInventory::default()
        };
        assert_eq!(inventory.rows(), (7, 1));
    }

    #[test]
    fn the_lines_of_psql_are_read() {
        let row: Row =
            serde_json::from_str(r#"{"kind" : "count", "schema" : "s", "name" : "t\"\n", "rows" : null}"#).unwrap();
        assert!(matches!(row, Row::Count { name, rows: None, .. } if name == "t\"\n"));
        let row: Row = serde_json::from_str(r#"{"kind" : "end"}"#).unwrap();
        assert!(matches!(row, Row::End));
        let row: Row = serde_json::from_str(
            r#"{"kind" : "table", "schema" : "public", "name" : "customer", "relkind" : "r", "persistence" : "p", "owner" : "o",
            "populated" : true, "bytes" : 57344, "estimate" : -1, "extension" : null, "configuration" : null,
            "row_security" : false, "constraints" : [], "privileges" : ["o=r/o"]}"#,
        )
        .unwrap();
        assert!(matches!(row, Row::Table(table) if table.estimate == -1 && table.is_counted()));
    }
}
