//! What a restore would do, decided before anything is changed. Pure.

use crate::globals::{DatabaseRow, Globals, Membership, Privileges, Role, Setting, Tablespace};
use crate::inventory::{DatabaseInventory, Inventory};
use crate::server::Cluster;
use crate::settings::{Options, Settings};
use serde::Deserialize;
use std::collections::BTreeMap;

/// The target as it is now.
#[derive(Debug)]
pub(crate) struct Target {
    pub(crate) cluster: Cluster,
    pub(crate) globals: Globals,
    /// What is in those of its databases that are to be restored.
    pub(crate) contents: BTreeMap<String, Contents>,
    /// Extensions that can be created on it.
    pub(crate) extensions: Vec<String>,
}

/// What `contents.sql` answers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub(crate) struct Contents {
    pub(crate) database: String,
    pub(crate) encoding: String,
    pub(crate) owner: String,
    pub(crate) relations: u64,
    pub(crate) schemas: u64,
    pub(crate) functions: u64,
    pub(crate) types: u64,
    pub(crate) large_objects: u64,
}

impl Contents {
    fn is_empty(&self) -> bool {
        [self.relations, self.schemas, self.functions, self.types, self.large_objects] == [0; 5]
    }
}

/// What a restore does, in order.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Plan {
    pub(crate) globals: Vec<Change>,
    pub(crate) databases: Vec<DatabasePlan>,
    /// What keeps it from being done at all; nothing has been changed yet.
    pub(crate) conflicts: Vec<String>,
}

/// One change of what all databases share, or one that is left out.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Change {
    CreateRole(Role),
    /// The row holds the name and what is to be altered.
    AlterRole {
        name: String,
        row: BTreeMap<String, serde_json::Value>,
    },
    /// It is there, and differs in these; it stays as it is.
    LeaveRole {
        name: String,
        differing: Vec<String>,
    },
    /// Gives roles without a password the recorded one.
    Passwords,
    Grant(Membership),
    Set(Setting),
    /// It is there with another value, and stays.
    LeaveSetting(Setting),
    CreateTablespace(Tablespace),
    SkipTablespace(String),
    Privileges(Privileges),
}

/// One database.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct DatabasePlan {
    /// Its name in the backup.
    pub(crate) from: String,
    /// Its name on the target.
    pub(crate) to: String,
    /// Where the dump goes: the target's name, or beside it until it is whole.
    pub(crate) working: String,
    pub(crate) artifact: String,
    pub(crate) action: DatabaseAction,
    pub(crate) settings: Vec<Setting>,
    pub(crate) privileges: Option<Privileges>,
}

/// How a database is brought back.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum DatabaseAction {
    /// It is not there.
    Create(DatabaseRow),
    /// It is there and empty.
    Fill,
    /// It is there and is replaced once the restored one is whole.
    Replace(DatabaseRow),
    /// Neither the recorded one holds anything nor is anything to be created.
    Nothing,
}

/// Plans a restore. `stamp` makes the names of staging databases unique.
pub(crate) fn plan(
    inventory: &Inventory,
    recorded: &Globals,
    target: &Target,
    settings: &Settings,
    options: &Options,
    stamp: &str,
) -> Plan {
    let mut plan = Plan::default();
    if target.cluster.in_recovery {
        plan.conflicts.push("the target is a standby and takes no changes".to_owned());
    }
    if options.with_roles {
        roles(&mut plan, recorded, target, options);
        tablespaces(&mut plan, recorded, target, options);
        parameters(&mut plan, recorded, target);
    }
    for name in options.databases.iter().flatten().chain(options.rename.keys()) {
        if !inventory.databases.iter().any(|database| &database.name == name) {
            plan.conflicts.push(format!("database \"{name}\" is not in the backup"));
        }
    }
    let mut taken: Vec<String> = Vec::new();
    for (place, database) in chosen(inventory, options).into_iter().enumerate() {
        let to = target_name(&database.name, options);
        if taken.contains(&to) {
            plan.conflicts.push(format!("two databases would be restored as \"{to}\""));
        }
        taken.push(to.clone());
        let staging = format!("strongroom_restore_{stamp}n{}", place + 1);
        one_database(&mut plan, database, recorded, target, settings, options, (to, staging));
    }
    plan
}

/// The databases of the backup that are to be restored.
pub(crate) fn chosen<'a>(inventory: &'a Inventory, options: &Options) -> Vec<&'a DatabaseInventory> {
    let wanted =
        |database: &&DatabaseInventory| options.databases.as_ref().is_none_or(|names| names.contains(&database.name));
    inventory.databases.iter().filter(wanted).collect()
}

/// The name of a database on the target.
pub(crate) fn target_name(name: &str, options: &Options) -> String {
    options.rename.get(name).cloned().unwrap_or_else(|| name.to_owned())
}

fn roles(plan: &mut Plan, recorded: &Globals, target: &Target, options: &Options) {
    for role in &recorded.roles {
        let Some(there) = target.globals.role(&role.name) else {
            plan.globals.push(Change::CreateRole(role.clone()));
            continue;
        };
        let mut row = role.difference(there);
        if row.is_empty() {
            continue;
        }
        let name = role.name.clone();
        if options.update_roles {
            row.insert("name".to_owned(), name.clone().into());
            plan.globals.push(Change::AlterRole { name, row });
        } else {
            plan.globals.push(Change::LeaveRole { name, differing: row.into_keys().collect() });
        }
    }
    if !recorded.roles.is_empty() {
        plan.globals.push(Change::Passwords);
    }
    for row in recorded.memberships_in_order() {
        let same =
            |there: &Membership| there.role == row.role && there.member == row.member && (there.admin || !row.admin);
        if !target.globals.memberships.iter().any(same) {
            plan.globals.push(Change::Grant(row));
        }
    }
    for setting in recorded.settings.iter().filter(|setting| setting.database.is_none()) {
        let same_name =
            |there: &&Setting| there.role == setting.role && there.database.is_none() && there.name == setting.name;
        match target.globals.settings.iter().find(same_name) {
            None => plan.globals.push(Change::Set(setting.clone())),
            Some(there) if there.value == setting.value => {}
            Some(_) if options.update_roles => plan.globals.push(Change::Set(setting.clone())),
            Some(_) => plan.globals.push(Change::LeaveSetting(setting.clone())),
        }
    }
}

fn tablespaces(plan: &mut Plan, recorded: &Globals, target: &Target, options: &Options) {
    for tablespace in &recorded.tablespaces {
        let name = &tablespace.name;
        if target.globals.tablespaces.iter().any(|there| &there.name == name) {
            continue;
        }
        if options.skip_tablespaces {
            plan.globals.push(Change::SkipTablespace(name.clone()));
            continue;
        }
        let location = options.tablespaces.get(name).unwrap_or(&tablespace.location).clone();
        plan.globals.push(Change::CreateTablespace(Tablespace { location, ..tablespace.clone() }));
        if let Some(row) = recorded.privileges.iter().find(|row| row.object == "tablespace" && &row.name == name) {
            plan.globals.push(Change::Privileges(row.clone()));
        }
    }
    for name in options.tablespaces.keys() {
        if !recorded.tablespaces.iter().any(|tablespace| &tablespace.name == name) {
            plan.conflicts.push(format!("tablespace \"{name}\" is not in the backup"));
        }
    }
}

fn parameters(plan: &mut Plan, recorded: &Globals, target: &Target) {
    let rows = recorded.privileges.iter().filter(|row| row.object == "parameter" && !row.grants.is_empty());
    for row in rows {
        if target.cluster.major() >= 15 && !target.globals.privileges.contains(row) {
            plan.globals.push(Change::Privileges(row.clone()));
        }
    }
}

fn one_database(
    plan: &mut Plan,
    database: &DatabaseInventory,
    recorded: &Globals,
    target: &Target,
    settings: &Settings,
    options: &Options,
    (to, staging): (String, String),
) {
    let from = &database.name;
    let Some(row) = recorded.database(from) else {
        plan.conflicts.push(format!("the properties of \"{from}\" are not in the backup"));
        return;
    };
    let missing = database.extensions.iter().filter(|extension| !target.extensions.contains(&extension.name));
    for extension in missing {
        plan.conflicts.push(format!("extension {} of \"{from}\" cannot be created on the target", extension.name));
    }
    if to.starts_with("template") || to.starts_with("strongroom_") || to.is_empty() {
        plan.conflicts.push(format!("\"{to}\" is not a name to restore to"));
    }
    let keeps_tablespaces = options.with_roles && !options.skip_tablespaces;
    let row = DatabaseRow {
        name: to.clone(),
        owner: row.owner.clone().filter(|_| options.with_roles),
        tablespace: row.tablespace.clone().filter(|name| keeps_tablespaces && name != "pg_default"),
        ..row.clone()
    };
    if row.provider == "i" && target.cluster.major() < 15 || row.provider == "b" && target.cluster.major() < 17 {
        plan.conflicts.push(format!("the target is too old for the locale provider of \"{from}\""));
    }
    let there = target.cluster.find(&to).map(|found| (found, target.contents.get(&to)));
    let action = match there {
        None => DatabaseAction::Create(row),
        Some(_) if database.is_empty() && from == &to => DatabaseAction::Nothing,
        Some((_, Some(contents))) if contents.is_empty() && contents.encoding == row.encoding => DatabaseAction::Fill,
        Some((_, Some(contents))) if contents.is_empty() && !options.overwrite => {
            plan.conflicts.push(format!(
                "\"{to}\" is empty but has encoding {}, expected {}: drop it, or set overwrite = true",
                contents.encoding, row.encoding
            ));
            DatabaseAction::Nothing
        }
        Some(_) if !options.overwrite => {
            let n = target.contents.get(&to).map_or(0, |contents| contents.relations);
            plan.conflicts.push(format!(
                "\"{to}\" is not empty ({n} relations): restore it under another name with rename, or set overwrite = true"
            ));
            DatabaseAction::Nothing
        }
        Some(_) if to == settings.maintenance_database => {
            plan.conflicts.push(format!(
                "\"{to}\" cannot be replaced while questions go through it: set maintenance_database = \"template1\""
            ));
            DatabaseAction::Nothing
        }
        Some(_) => DatabaseAction::Replace(row),
    };
    let working = if matches!(action, DatabaseAction::Replace(_)) { staging } else { to.clone() };
    let settings = recorded
        .settings
        .iter()
        .filter(|setting| setting.database.as_ref() == Some(from) && (options.with_roles || setting.role.is_none()));
    plan.databases.push(DatabasePlan {
        from: from.clone(),
        settings: settings.map(|setting| Setting { database: Some(working.clone()), ..setting.clone() }).collect(),
        privileges: recorded
            .privileges
            .iter()
            .find(|row| options.with_roles && row.object == "database" && &row.name == from)
            .map(|row| Privileges { name: working.clone(), ..row.clone() }),
        artifact: database.artifact.clone(),
        to,
        working,
        action,
    });
}

#[cfg(test)]
mod tests;
