//! The kubernetes plugin: the resources of one or several clusters, as data.
//!
//! A backup is one archive for each cluster and kind, in restore order, and `inventory.json`, which
//! says what they are. Objects are stored as they were listed, so that a restore can decide what of
//! them to bring back. Secrets are stored and restored unseen: the plugin knows their metadata and the
//! names of their keys, never their data.

mod backup;
mod clean;
mod compare;
mod conversion;
mod diagnose;
mod difference;
mod explain;
mod export;
mod head;
mod inventory;
mod kind;
mod mapping;
mod owner;
mod pattern;
mod policy;
mod recorded;
mod restore;
mod rules;
mod secret;
mod selection;
mod selector;
pub mod settings;
mod verify;
mod yaml;

use settings::{Options, Settings, To};
use strongroom_plugin::prelude::*;

/// The plugin.
#[derive(Debug)]
pub struct KubernetesPlugin;

impl Plugin for KubernetesPlugin {
    type Settings = Settings;
    type Options = Options;

    fn backup(request: BackupRequest<Settings>) -> Result<Report> {
        backup::backup(&request)
    }

    fn verify(request: VerifyRequest<Settings, Options>) -> Result<Vec<Check>> {
        verify::verify(&request)
    }

    fn restore(request: RestoreRequest<Settings, Options>) -> Result<()> {
        match request.options.to {
            To::Cluster => restore::restore(&request),
            To::Files => export::manifests(&request),
            To::Lines => export::lines(&request),
            To::Compare => compare::compare(&request),
        }
    }

    fn diagnose(request: DiagnoseRequest<Settings>) -> Result<Vec<Check>> {
        diagnose::diagnose(&request)
    }
}

strongroom_plugin::export!(KubernetesPlugin);
