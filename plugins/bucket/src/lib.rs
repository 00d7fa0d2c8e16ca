//! The bucket plugin: any labelled bucket as data, in this version directory trees (`local`).
//!
//! A backup is one archive, `objects`, with the index that the host keeps beside it. The plugin sees
//! keys and attributes; the bytes of objects never enter it, and it asks for no `inspect`.

mod backup;
mod diagnose;
mod glob;
mod restore;
mod scratch;
mod selection;
pub mod settings;
mod tally;
mod verify;
mod writer;

use settings::{Options, Settings};
use strongroom_plugin::prelude::*;

/// Name of the archive that holds a backup's objects.
const ARCHIVE: &str = "objects";

/// The plugin.
#[derive(Debug)]
pub struct BucketPlugin;

impl Plugin for BucketPlugin {
    type Settings = Settings;
    type Options = Options;

    fn backup(request: BackupRequest<Settings>) -> Result<Report> {
        backup::backup(&request)
    }

    fn verify(request: VerifyRequest<Settings, Options>) -> Result<Vec<Check>> {
        verify::verify(&request)
    }

    fn restore(request: RestoreRequest<Settings, Options>) -> Result<()> {
        restore::restore(&request)
    }

    fn diagnose(request: DiagnoseRequest<Settings>) -> Result<Vec<Check>> {
        diagnose::diagnose(&request)
    }
}

strongroom_plugin::export!(BucketPlugin);
