//! PostgreSQL for Strongroom: dumps with a shared snapshot, test restores, restores with roles.
//!
//! The plugin never sees a row of a user's table, a password or an address. Every command is a fixed
//! line of the manifest (`plugin.toml`); every SQL text is fixed (`sql/`), and what was recorded goes
//! back in as data from which the server itself builds its statements.

mod backup;
mod compare;
mod diagnose;
mod globals;
mod inventory;
mod restore;
mod server;
mod settings;
mod verify;

use settings::{Options, Settings};
use strongroom_plugin::prelude::*;

/// The plugin.
#[derive(Debug)]
pub struct Postgres;

impl Plugin for Postgres {
    type Settings = Settings;
    type Options = Options;

    fn backup(request: BackupRequest<Settings>) -> Result<Report> {
        backup::run(&request)
    }

    fn verify(request: VerifyRequest<Settings, Options>) -> Result<Vec<Check>> {
        verify::run(&request)
    }

    fn restore(request: RestoreRequest<Settings, Options>) -> Result<()> {
        restore::run(&request)
    }

    fn diagnose(request: DiagnoseRequest<Settings>) -> Result<Vec<Check>> {
        diagnose::run(&request)
    }
}

strongroom_plugin::export!(Postgres);
