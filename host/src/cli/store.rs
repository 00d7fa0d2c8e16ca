//! `strongroom store`

use super::exit::Exit;
use super::output::Output;
use super::{Globals, table};
use crate::error::Error;
use crate::plugin::context::Check;
use clap::{Args, Subcommand};
use serde::Serialize;
use tokio_util::sync::CancellationToken;

/// Arguments of `store`.
#[derive(Debug, Args)]
pub struct StoreArgs {
    /// What to do.
    #[command(subcommand)]
    pub command: StoreCommand,
}

/// What `store` can do.
#[derive(Debug, Subcommand)]
pub enum StoreCommand {
    /// Prepares a store, and prints the recovery sheet: what must be kept elsewhere
    #[command(after_help = "Example:\n  strongroom store init main > recovery-sheet.txt")]
    Init {
        /// The store, as in [store.NAME]
        store: String,
    },
    /// Finds out with real requests what a store can do and what it cannot
    #[command(after_help = "Example:\n  strongroom store check main")]
    Check {
        /// The store, as in [store.NAME]
        store: String,
    },
}

/// Runs it.
pub async fn run(_args: StoreArgs, _globals: &Globals, _cancel: CancellationToken) -> anyhow::Result<Exit> {
    Err(Error::failed("internal error: `strongroom store` is not wired to its run").into())
}

/// The result of `store init` as JSON, and the recovery sheet as text. Holds nothing secret.
/// Documented; keys are only ever added.
#[derive(Debug, Serialize)]
pub struct RecoverySheet<'a> {
    /// Label of the store.
    pub store: &'a str,
    /// Where it is, without credentials.
    pub place: &'a str,
    /// Its address for `--store-url`.
    pub store_url: &'a str,
    /// Public key of this host.
    pub public_key: &'a str,
    /// age public keys that can read the backups.
    pub recipients: &'a [String],
    /// Where the configuration expects the identity; `null` when this host only writes.
    pub identity: Option<&'a str>,
}

impl RecoverySheet<'_> {
    /// Prints it.
    pub fn print(&self, output: &Output) -> anyhow::Result<Exit> {
        output.result(self, || self.text())?;
        Ok(Exit::Done)
    }

    fn text(&self) -> String {
        let recipients = if self.recipients.is_empty() {
            "none: backups are NOT encrypted".to_owned()
        } else {
            self.recipients.join("\n")
        };
        let mut text =
            format!("Recovery sheet of store \"{}\". Print it, and keep it away from this machine.\n\n", self.store);
        text.push_str(&table::pairs(
            [
                ("store", self.place.to_owned()),
                ("signed by", self.public_key.to_owned()),
                ("readable by", recipients),
                ("identity", self.identity.unwrap_or("not on this machine").to_owned()),
            ],
            "  ",
        ));
        text.push_str(&format!(
            "\nTo restore, you need the strongroom binary, credentials of the store, and the private identity\n\
             of one of the keys above. Without it nobody can read the backups. In an empty directory:\n\n  \
             strongroom list --store-url '{0}'\n  \
             strongroom restore JOB latest --store-url '{0}' --identity identity.txt --trust-signer {1} --plan\n",
            self.store_url, self.public_key
        ));
        text
    }
}

/// The result of `store check` as JSON. Documented; keys are only ever added.
#[derive(Debug, Serialize)]
pub struct StoreChecked<'a> {
    /// Label of the store.
    pub store: &'a str,
    /// Where it is, without credentials.
    pub place: &'a str,
    /// One for each thing that a store can do.
    pub checks: &'a [Check],
}

impl StoreChecked<'_> {
    /// Prints it and says how the process ends: 5 when the store cannot be a destination.
    pub fn print(&self, output: &Output) -> anyhow::Result<Exit> {
        if output.is_json() {
            output.result(self, String::new)?;
            return Ok(Exit::of_checks(self.checks));
        }
        output.write(&format!("{}\n", super::vendor::line(self.place, 512)))?;
        super::check::Findings::new(self.store, None, None, self.checks).print(output)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_recovery_sheet_is_all_that_somebody_needs_who_has_nothing_else() {
        let recipients = ["age1first".to_owned(), "age1second".to_owned()];
        let sheet = RecoverySheet {
            store: "main",
            place: "s3 bucket \"backups\" at AWS",
            store_url: "s3://backups/prod?region=eu-west-1",
            public_key: "KEY",
            recipients: &recipients,
            identity: None,
        };
        insta::assert_snapshot!(sheet.text(), @r#"
        Recovery sheet of store "main". Print it, and keep it away from this machine.

          store:       s3 bucket "backups" at AWS
          signed by:   KEY
          readable by: age1first
                       age1second
          identity:    not on this machine

        To restore, you need the strongroom binary, credentials of the store, and the private identity
        of one of the keys above. Without it nobody can read the backups. In an empty directory:

          strongroom list --store-url 's3://backups/prod?region=eu-west-1'
          strongroom restore JOB latest --store-url 's3://backups/prod?region=eu-west-1' --identity identity.txt --trust-signer KEY --plan
        "#);
    }
}
