use super::{Change, Contents, DatabaseAction, Plan, Target, plan};
use crate::backup::tests::cluster;
use crate::globals::tests::role;
use crate::globals::{DatabaseRow, Globals, Membership, Role, Setting, Tablespace};
use crate::inventory::{DatabaseInventory, Extension, Inventory, Table};
use crate::settings::{Options, Settings};
use std::collections::BTreeMap;

fn row(name: &str) -> DatabaseRow {
    DatabaseRow {
        name: name.to_owned(),
        owner: Some("app".to_owned()),
        encoding: "UTF8".to_owned(),
        collate: "C".to_owned(),
        ctype: "C".to_owned(),
        provider: "c".to_owned(),
        locale: None,
        icu_rules: None,
        collation_version: None,
        connection_limit: -1,
        tablespace: Some("pg_default".to_owned()),
        comment: None,
    }
}

fn database(name: &str) -> DatabaseInventory {
    DatabaseInventory {
        name: name.to_owned(),
        artifact: format!("{name}.dump"),
        tables: vec![Table::default()],
        extensions: vec![Extension { name: "hstore".to_owned(), version: "1".to_owned(), schema: "public".to_owned() }],
        objects: Vec::new(),
    }
}

/// A backup of `shop` and `bills` with the role `app`, a membership, settings and a tablespace.
fn backup() -> (Inventory, Globals) {
    let mut inventory = Inventory::new(150_020, "15.20".to_owned(), 15);
    inventory.databases = vec![database("bills"), database("shop")];
    let setting = |role: Option<&str>, database: Option<&str>| Setting {
        role: role.map(str::to_owned),
        database: database.map(str::to_owned),
        name: "work_mem".to_owned(),
        value: "7MB".to_owned(),
    };
    let globals = Globals {
        roles: vec![Role { create_db: true, ..role("app") }, role("reader")],
        memberships: vec![Membership {
            role: "reader".to_owned(),
            member: "app".to_owned(),
            grantor: None,
            grantor_bootstrap: true,
            admin: false,
            inherit: None,
            set: None,
        }],
        settings: vec![setting(Some("app"), None), setting(None, Some("shop")), setting(Some("app"), Some("shop"))],
        tablespaces: vec![Tablespace {
            name: "fast".to_owned(),
            owner: "app".to_owned(),
            location: "/fast".to_owned(),
            options: None,
            comment: None,
        }],
        privileges: Vec::new(),
        databases: vec![row("bills"), row("shop")],
    };
    (inventory, globals)
}

fn bare_target() -> Target {
    Target {
        cluster: cluster(&[("postgres", false, true, true)]),
        globals: Globals::default(),
        contents: BTreeMap::new(),
        extensions: vec!["hstore".to_owned()],
    }
}

/// A target on which `shop` has this many relations.
fn target_with_shop(relations: u64) -> Target {
    let contents =
        Contents { database: "shop".to_owned(), encoding: "UTF8".to_owned(), relations, ..Contents::default() };
    Target {
        cluster: cluster(&[("postgres", false, true, true), ("shop", false, true, true)]),
        contents: BTreeMap::from([("shop".to_owned(), contents)]),
        ..bare_target()
    }
}

fn planned(target: &Target, options: &Options) -> Plan {
    let (inventory, globals) = backup();
    plan(&inventory, &globals, target, &Settings::default(), options, "x")
}

fn only_shop() -> Options {
    Options { databases: Some(vec!["shop".to_owned()]), ..Options::default() }
}

fn check_refused(target: &Target, options: &Options, conflict: &str) {
    assert_eq!(planned(target, options).conflicts, [conflict]);
}

#[test]
fn a_bare_target_gets_roles_first_and_then_every_database() {
    let plan = planned(&bare_target(), &Options::default());
    assert!(plan.conflicts.is_empty(), "{:?}", plan.conflicts);
    let globals: Vec<&str> = plan
        .globals
        .iter()
        .map(|change| match change {
            Change::CreateRole(role) => role.name.as_str(),
            Change::Passwords => "passwords",
            Change::Grant(_) => "grant",
            Change::Set(_) => "set",
            Change::CreateTablespace(_) => "tablespace",
            _ => "other",
        })
        .collect();
    assert_eq!(globals, ["app", "reader", "passwords", "grant", "set", "tablespace"]);
    let databases: Vec<(&str, bool, usize)> = plan
        .databases
        .iter()
        .map(|database| {
            let creates =
                matches!(&database.action, DatabaseAction::Create(row) if row.owner.as_deref() == Some("app"));
            (database.working.as_str(), creates, database.settings.len())
        })
        .collect();
    assert_eq!(databases, [("bills", true, 0), ("shop", true, 2)]);
}

#[test]
fn what_is_equal_is_left_alone_and_what_differs_is_named() {
    let (_, recorded) = backup();
    let mut target = bare_target();
    target.globals =
        Globals { roles: vec![Role { login: true, ..recorded.roles[0].clone() }, role("reader")], ..recorded.clone() };
    let plan = planned(&target, &Options::default());
    let left = Change::LeaveRole { name: "app".to_owned(), differing: vec!["login".to_owned()] };
    assert_eq!(plan.globals, [left, Change::Passwords]);
    let plan = planned(&target, &Options { update_roles: true, ..Options::default() });
    let row = BTreeMap::from([("login".to_owned(), false.into()), ("name".to_owned(), "app".into())]);
    assert_eq!(plan.globals[0], Change::AlterRole { name: "app".to_owned(), row });
}

#[test]
fn without_roles_nothing_that_is_shared_is_changed() {
    let plan = planned(&bare_target(), &Options { with_roles: false, ..Options::default() });
    assert!(plan.globals.is_empty());
    assert!(matches!(&plan.databases[1].action, DatabaseAction::Create(row) if row.owner.is_none()));
    assert_eq!(plan.databases[1].settings.len(), 1);
}

#[test]
fn a_database_that_is_not_empty_is_refused() {
    check_refused(
        &target_with_shop(3),
        &Options::default(),
        "\"shop\" is not empty (3 relations): restore it under another name with rename, or set overwrite = true",
    );
}

#[test]
fn an_empty_database_is_filled() {
    let plan = planned(&target_with_shop(0), &only_shop());
    assert_eq!(plan.databases[0].action, DatabaseAction::Fill);
}

#[test]
fn overwriting_restores_beside_the_old_database() {
    let plan = planned(&target_with_shop(3), &Options { overwrite: true, ..only_shop() });
    let database = &plan.databases[0];
    assert!(matches!(database.action, DatabaseAction::Replace(_)));
    assert_eq!((database.working.as_str(), database.to.as_str()), ("strongroom_restore_xn1", "shop"));
    assert!(database.settings.iter().all(|setting| setting.database.as_deref() == Some("strongroom_restore_xn1")));
}

#[test]
fn a_renamed_database_takes_its_properties_along() {
    let rename = BTreeMap::from([("shop".to_owned(), "shop2".to_owned())]);
    let plan = planned(&target_with_shop(3), &Options { rename, ..only_shop() });
    assert!(plan.conflicts.is_empty());
    assert!(matches!(&plan.databases[0].action, DatabaseAction::Create(row) if row.name == "shop2"));
    assert!(plan.databases[0].settings.iter().all(|setting| setting.database.as_deref() == Some("shop2")));
}

#[test]
fn names_that_cannot_be_restored_are_refused() {
    let named = |name: &str| Options { databases: Some(vec![name.to_owned()]), ..Options::default() };
    check_refused(&bare_target(), &named("nope"), "database \"nope\" is not in the backup");
    let rename = |to: &str| Options { rename: BTreeMap::from([("shop".to_owned(), to.to_owned())]), ..only_shop() };
    check_refused(&bare_target(), &rename("template1"), "\"template1\" is not a name to restore to");
    check_refused(
        &bare_target(),
        &rename("strongroom_verify_x"),
        "\"strongroom_verify_x\" is not a name to restore to",
    );
    let rename = BTreeMap::from([("shop".to_owned(), "bills".to_owned())]);
    let both = Options { rename, ..Options::default() };
    check_refused(&bare_target(), &both, "two databases would be restored as \"bills\"");
}

#[test]
fn a_target_that_cannot_hold_it_is_refused() {
    let mut target = bare_target();
    target.extensions.clear();
    check_refused(&target, &only_shop(), "extension hstore of \"shop\" cannot be created on the target");
    let mut target = bare_target();
    target.cluster.in_recovery = true;
    check_refused(&target, &only_shop(), "the target is a standby and takes no changes");
}

#[test]
fn tablespaces_are_mapped_or_skipped() {
    let tablespaces = BTreeMap::from([("fast".to_owned(), "/other".to_owned())]);
    let plan = planned(&bare_target(), &Options { tablespaces, ..only_shop() });
    assert!(
        plan.globals.iter().any(|change| matches!(change, Change::CreateTablespace(row) if row.location == "/other"))
    );
    let plan = planned(&bare_target(), &Options { skip_tablespaces: true, ..only_shop() });
    assert!(plan.globals.contains(&Change::SkipTablespace("fast".to_owned())));
    let tablespaces = BTreeMap::from([("slow".to_owned(), "/other".to_owned())]);
    check_refused(&bare_target(), &Options { tablespaces, ..only_shop() }, "tablespace \"slow\" is not in the backup");
}
