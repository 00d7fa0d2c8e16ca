//! Verify: the dumps are read by their own reader, or restored and compared.

mod contents;
mod database;
mod scratch;

pub(crate) use database::base36;

use crate::globals::Globals;
use crate::inventory::Inventory;
use crate::settings::{Options, Scratch, Settings};
use strongroom_plugin::prelude::*;

pub(crate) fn run(request: &VerifyRequest<Settings, Options>) -> Result<Vec<Check>> {
    const TITLE: &str = "inventory and roles can be read";
    let (inventory, globals) = match Inventory::load().and_then(|inventory| Ok((inventory, Globals::load()?))) {
        Ok(read) => read,
        Err(error @ Error::Denied(_)) => return Err(error),
        Err(error) => {
            return Ok(vec![
                Check::failed("postgres.inventory.reads", TITLE)
                    .evidence(error.to_string())
                    .cause("the backup was made by a newer version of the plugin")
                    .cause("the stored bytes are damaged")
                    .remedy("strongroom verify JOB --depth stored"),
            ]);
        }
    };
    let evidence = format!("{} databases, {} roles", inventory.databases.len(), globals.roles.len());
    let mut checks = vec![Check::passed("postgres.inventory.reads", TITLE).evidence(evidence)];
    for database in &inventory.databases {
        checks.push(contents::lists(database)?);
        if request.depth == Depth::Contents {
            checks.push(contents::decodes(database)?);
        }
    }
    if request.depth == Depth::Restore {
        match request.options.scratch {
            Scratch::Server => scratch::run(&inventory, &globals, &mut checks)?,
            Scratch::Database => {
                database::run(&inventory, &globals, &request.settings.maintenance_database, &mut checks)?;
            }
        }
    }
    Ok(checks)
}

/// A check for something that ended in an error, unless the operator's grant was the reason.
fn failed(id: &str, title: &str, error: Error, cause: &str) -> Result<Check> {
    if matches!(error, Error::Denied(_)) {
        return Err(error);
    }
    Ok(Check::failed(id, title).evidence(error.message()).cause(cause).remedy("strongroom verify JOB --depth stored"))
}
