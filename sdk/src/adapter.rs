//! Between the generated trait and [`Plugin`]: settings are parsed, errors and reports translated.

use crate::bindings::exports::strongroom::plugin::component as wit;
use crate::request::Made;
use crate::{BackupRequest, Check, Depth, DiagnoseRequest, Plugin, RestoreRequest, VerifyRequest, run, settings};
use std::marker::PhantomData;

/// Gives a [`Plugin`] the shape of the component's exports.
#[derive(Debug)]
pub struct Adapter<P>(PhantomData<P>);

impl<P: Plugin> Adapter<P> {
    /// Only proves that `P` is a plugin.
    #[expect(clippy::new_without_default, reason = "it is never made but to be type-checked")]
    pub const fn new() -> Self {
        Self(PhantomData)
    }
}

impl<P: Plugin> wit::Guest for Adapter<P> {
    fn backup(request: wit::BackupRequest) -> Result<wit::BackupReport, wit::Error> {
        run::install_panic_hook();
        let settings = settings::parse("settings", &request.settings)?;
        let report = P::backup(BackupRequest { settings, previous: request.previous.map(Made::from) })?;
        Ok(report.into_wit())
    }

    fn verify(request: wit::VerifyRequest) -> Result<Vec<wit::Check>, wit::Error> {
        run::install_panic_hook();
        let checks = P::verify(VerifyRequest {
            settings: settings::parse("settings", &request.settings)?,
            options: settings::parse("options", &request.options)?,
            depth: match request.depth {
                wit::Depth::Contents => Depth::Contents,
                wit::Depth::Restore => Depth::Restore,
            },
            backup: request.backup.into(),
        })?;
        Ok(checks.into_iter().map(Check::into_wit).collect())
    }

    fn restore(request: wit::RestoreRequest) -> Result<(), wit::Error> {
        run::install_panic_hook();
        P::restore(RestoreRequest {
            settings: settings::parse("settings", &request.settings)?,
            options: settings::parse("options", &request.options)?,
            plan_only: request.plan_only,
            backup: request.backup.into(),
        })?;
        Ok(())
    }

    fn diagnose(request: wit::DiagnoseRequest) -> Result<Vec<wit::Check>, wit::Error> {
        run::install_panic_hook();
        let settings = settings::parse("settings", &request.settings)?;
        let checks = P::diagnose(DiagnoseRequest { settings, last: request.last.map(Made::from) })?;
        Ok(checks.into_iter().map(Check::into_wit).collect())
    }
}
