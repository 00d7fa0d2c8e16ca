//! Restore: what is shared first, then each database, every step reported as it happens.

mod plan;

use crate::compare::{self, Scope};
use crate::globals::{Globals, PASSWORDS};
use crate::inventory::{DatabaseInventory, Inventory};
use crate::server::{Cluster, ask, program_version};
use crate::settings::{Options, Settings};
use crate::verify::base36;
use plan::{Change, Contents, DatabaseAction, DatabasePlan, Target};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use strongroom_plugin::prelude::*;

pub(crate) fn run(request: &RestoreRequest<Settings, Options>) -> Result<()> {
    let (settings, options) = (&request.settings, &request.options);
    let inventory = Inventory::load()?;
    let globals = Globals::load()?;
    let version = program_version("restore_version")?;
    if version.major < inventory.dump_major {
        return Err(Error::failed(format!(
            "pg_restore {} cannot read a dump of pg_dump {}: install client programs of version {} and approve the plugin again",
            version.text, inventory.dump_major, inventory.dump_major
        )));
    }
    let target = look(&inventory, settings, options)?;
    let plan = plan::plan(&inventory, &globals, &target, settings, options, &base36(run::now().ms));
    if !plan.conflicts.is_empty() {
        // No step: a step that failed would say that the target may have been changed.
        return Err(Error::conflict(plan.conflicts.join("; ")));
    }
    if target.cluster.major() < inventory.major() {
        Step::warned("check target", format!("PostgreSQL {}", target.cluster.version))
            .note(format!(
                "older than {}, where the backup was made: its objects may not be known",
                inventory.server_version
            ))
            .report();
    }
    let context = Context { settings, options, plan_only: request.plan_only };
    for change in &plan.globals {
        context.change(change)?;
    }
    for database in &plan.databases {
        let recorded = inventory.databases.iter().find(|recorded| recorded.name == database.from);
        context.database(database, recorded, inventory.major() == target.cluster.major())?;
    }
    Ok(())
}

/// Looks at the target without changing it.
fn look(inventory: &Inventory, settings: &Settings, options: &Options) -> Result<Target> {
    #[derive(Deserialize)]
    struct Available {
        extensions: Vec<String>,
    }
    let maintenance = &settings.maintenance_database;
    let cluster = Cluster::read("cluster", maintenance)?;
    cluster.check_supported()?;
    let globals = Globals::ask("globals_rows", maintenance)?;
    let mut contents = BTreeMap::new();
    for database in plan::chosen(inventory, options) {
        let name = plan::target_name(&database.name, options);
        if cluster.find(&name).is_some() {
            let found: Contents = ask("contents", &name).run()?.json()?;
            crate::server::same_database(&name, &found.database)?;
            contents.insert(name, found);
        }
    }
    let Available { extensions } = ask("available", maintenance).run()?.json()?;
    Ok(Target { cluster, globals, contents, extensions })
}

struct Context<'a> {
    settings: &'a Settings,
    options: &'a Options,
    plan_only: bool,
}

impl Context<'_> {
    /// Reports one step; in a plan only that. On a failure `note` says what the target holds now.
    fn step(&self, action: &str, target: &str, note: &str, work: impl FnOnce() -> Result<()>) -> Result<()> {
        if self.plan_only {
            Step::passed(action, target).report();
            return Ok(());
        }
        match work() {
            Ok(()) => {
                Step::passed(action, target).report();
                Ok(())
            }
            Err(error) => {
                Step::failed(action, target).note(format!("{error}; {note}")).report();
                Err(error.context(format_args!("{action} {target}")))
            }
        }
    }

    fn apply(&self, action: &str, row: &impl Serialize) -> Result<()> {
        let row = serde_json::to_string(row)?;
        let maintenance = &self.settings.maintenance_database;
        ask("apply_global", maintenance).slot("action", action).slot("row", row).run()?.success()?;
        Ok(())
    }

    fn change(&self, change: &Change) -> Result<()> {
        const AGAIN: &str = "what was created before it stays and is left alone when the restore is started again";
        match change {
            Change::CreateRole(role) => self.step("create role", &role.name, AGAIN, || self.apply("create-role", role)),
            Change::AlterRole { name, row } => self.step("alter role", name, AGAIN, || self.apply("alter-role", row)),
            Change::LeaveRole { name, differing } => {
                let note = format!(
                    "it is there and differs in {}; set update_roles = true to change it",
                    differing.join(", ")
                );
                Step::skipped("alter role", name).note(note).report();
                Ok(())
            }
            Change::Passwords => self.passwords(),
            Change::Grant(row) => {
                let target = format!("{} to {}", row.role, row.member);
                self.step("grant role", &target, AGAIN, || self.apply("grant-role", row))
            }
            Change::Set(row) => {
                let target = format!("{} of {}", row.name, row.role.as_deref().unwrap_or("all roles"));
                self.step("set", &target, AGAIN, || self.apply("set", row))
            }
            Change::LeaveSetting(row) => {
                let target = format!("{} of {}", row.name, row.role.as_deref().unwrap_or("all roles"));
                Step::skipped("set", target)
                    .note("it is there with another value; set update_roles = true to change it")
                    .report();
                Ok(())
            }
            Change::CreateTablespace(row) => {
                let note = format!(
                    "create the directory {} on the target's server for its user, name another one with \
                     tablespaces = {{ {:?} = \"/path\" }}, or set skip_tablespaces = true; {AGAIN}",
                    row.location, row.name
                );
                self.step("create tablespace", &row.name, &note, || self.apply("create-tablespace", row))
            }
            Change::SkipTablespace(name) => {
                Step::skipped("create tablespace", name).note("skip_tablespaces is set").report();
                Ok(())
            }
            Change::Privileges(row) => {
                self.step("grant privileges", &format!("{} {}", row.object, row.name), AGAIN, || {
                    self.apply("privileges", row)
                })
            }
        }
    }

    /// The stored forms go from the store to the server; who may not write them goes on without.
    fn passwords(&self) -> Result<()> {
        let recorded = storage::artifacts()?.iter().any(|artifact| artifact.name == PASSWORDS);
        if !recorded {
            Step::skipped("set passwords", "roles")
                .note("the backup holds none: its user could not read them")
                .report();
            return Ok(());
        }
        if self.plan_only {
            Step::passed("set passwords", "roles without one").report();
            return Ok(());
        }
        let restore = ask("restore_passwords", &self.settings.maintenance_database).stdin(storage::get(PASSWORDS)?);
        match restore.spawn()?.wait()?.success() {
            Ok(()) => Step::passed("set passwords", "roles without one").report(),
            Err(error) => Step::warned("set passwords", "roles without one")
                .note(format!(
                    "{error}; only a superuser may write stored passwords: set them with ALTER ROLE … PASSWORD"
                ))
                .report(),
        }
        Ok(())
    }

    fn database(&self, plan: &DatabasePlan, recorded: Option<&DatabaseInventory>, same_major: bool) -> Result<()> {
        let DatabasePlan { from, to, working, artifact, .. } = plan;
        let title = if from == to { format!("\"{to}\"") } else { format!("\"{from}\" as \"{to}\"") };
        let create = match &plan.action {
            DatabaseAction::Nothing => {
                Step::skipped("restore database", title)
                    .note("the backup holds nothing of it and it is there")
                    .report();
                return Ok(());
            }
            DatabaseAction::Create(row) | DatabaseAction::Replace(row) => Some(row),
            DatabaseAction::Fill => None,
        };
        let maintenance = &self.settings.maintenance_database;
        if let Some(row) = create {
            self.step("create database", working, &format!("\"{to}\" is as it was"), || {
                let row = serde_json::to_string(row)?;
                ask("create_database", maintenance).slot("name", working).slot("row", row).run()?.success()?;
                Ok(())
            })?;
        }
        let done = self.fill(plan, &title, artifact, recorded, same_major);
        let replaces = matches!(plan.action, DatabaseAction::Replace(_));
        if replaces && done.is_err() && !self.plan_only {
            self.remove_staging(to, working);
        }
        done?;
        if replaces {
            let note = format!("the restored database is whole and is called \"{working}\": rename it to \"{to}\"");
            self.step("replace database", to, &note, || {
                let command = ask("replace_database", maintenance).slot("staging", working).slot("name", to);
                command.run()?.success()?;
                Ok(())
            })?;
        }
        Ok(())
    }

    /// Everything between a database's creation and the moment when it is whole.
    fn fill(
        &self,
        plan: &DatabasePlan,
        title: &str,
        artifact: &str,
        recorded: Option<&DatabaseInventory>,
        same_major: bool,
    ) -> Result<()> {
        let working = &plan.working;
        let note = if matches!(plan.action, DatabaseAction::Replace(_)) {
            format!("\"{}\" is as it was", plan.to)
        } else {
            format!(
                "\"{working}\" holds a part of the backup: DROP DATABASE \"{}\", then start the restore again",
                working.replace('"', "\"\"")
            )
        };
        let label = match (self.options.with_roles, self.options.skip_tablespaces) {
            (false, _) => "pg_restore_without_roles",
            (true, true) => "pg_restore_without_tablespaces",
            (true, false) => "pg_restore",
        };
        self.step("restore database", title, &note, || {
            ask(label, working).stdin(storage::get(artifact)?).spawn()?.wait()?.success()
        })?;
        for row in &plan.settings {
            let target = format!("{} in \"{}\"", row.name, plan.to);
            self.step("set", &target, &note, || self.apply("set", row))?;
        }
        if let Some(row) = &plan.privileges {
            let target = format!("database {}", plan.to);
            self.step("grant privileges", &target, &note, || self.apply("privileges", row))?;
        }
        if self.options.analyze {
            self.step("analyze", &plan.to, "the data is whole; run ANALYZE by hand", || {
                ask("analyze", working).run()?.success()?;
                Ok(())
            })?;
        }
        if let (false, Some(recorded)) = (self.plan_only, recorded) {
            let scope =
                Scope { roles: self.options.with_roles, definitions: same_major, publications: true, rows: false };
            let got = DatabaseInventory::ask(ask("inventory", working), working)?;
            for check in compare::databases(recorded, &got, scope) {
                let outcome = if check.outcome == Outcome::Failed { Outcome::Warned } else { check.outcome };
                Step::new(outcome, "compare", check.title).note(check.evidence).report();
            }
        }
        Ok(())
    }

    fn remove_staging(&self, to: &str, working: &str) {
        let removed = ask("drop_staging", &self.settings.maintenance_database)
            .slot("name", working)
            .run()
            .and_then(strongroom_plugin::exec::Output::success);
        match removed {
            Ok(_) => {
                Step::passed("remove half-restored database", working).note(format!("\"{to}\" is as it was")).report();
            }
            Err(error) => Step::failed("remove half-restored database", working)
                .note(format!("{error}; DROP DATABASE \"{working}\"; \"{to}\" is as it was"))
                .report(),
        }
    }
}
