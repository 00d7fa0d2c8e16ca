//! `strongroom store`

use super::exit::Exit;
use super::output::Output;
use super::session::Session;
use super::{Globals, table};
use crate::config::{SecretRef, StorePlace};
use crate::error::{IoContext, Kind, Result};
use crate::plugin::context::{Check, CheckOutcome};
use crate::store::check::{Ability, Finding};
use crate::stream::Identity;
use clap::{Args, Subcommand};
use serde::Serialize;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
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
    #[command(after_help = "\
Examples:
  strongroom store init main > recovery-sheet.txt
  strongroom store init main --new-identity identity.txt   makes an age identity, and names it in [store.main]")]
    Init {
        /// The store, as in [store.NAME]
        store: String,
        /// Make an age identity first, in this new file; its public half becomes the store's recipient
        #[arg(long, value_name = "FILE")]
        new_identity: Option<PathBuf>,
    },
    /// Finds out with real requests what a store can do and what it cannot
    #[command(after_help = "Example:\n  strongroom store check main")]
    Check {
        /// The store, as in [store.NAME]
        store: String,
    },
}

/// Runs it.
pub async fn run(args: StoreArgs, globals: &Globals, cancel: CancellationToken) -> anyhow::Result<Exit> {
    match args.command {
        StoreCommand::Init { store, new_identity } => init(&store, new_identity.as_deref(), globals, cancel).await,
        StoreCommand::Check { store } => check(&store, globals, cancel).await,
    }
}

/// Makes sure that the store can be a destination, and prints the recovery sheet. With
/// `new_identity`, an age identity is made first: its public half goes into the configuration.
async fn init(
    store: &str,
    new_identity: Option<&Path>,
    globals: &Globals,
    cancel: CancellationToken,
) -> anyhow::Result<Exit> {
    if let Some(file) = new_identity {
        make_identity(store, file, globals)?;
    }
    let session = Session::open(globals, cancel)?.in_a_hurry();
    let (label, config) = session.config.store(store)?;
    if let StorePlace::Local { path } = &config.place {
        std::fs::create_dir_all(path)
            .doing(|| format!("make the directory \"{}\" of store \"{label}\"", path.display()))?;
    }
    let catalog = session.catalog(label, None).await?;
    crate::store::check::run(catalog.store()).await?.accept()?;
    let key = session.host_key()?.public().to_string();
    let identity = config.identity.as_ref().map(|identity| match identity {
        SecretRef::Env(name) => format!("the variable {name}"),
        SecretRef::File(path) => path.display().to_string(),
    });
    let sheet = RecoverySheet {
        store: label.as_str(),
        place: &catalog.store().describe(),
        store_url: &config.to_url(),
        public_key: &key,
        recipients: &config.recipients,
        identity: identity.as_deref(),
    };
    drop(catalog);
    sheet.print(&globals.output())
}

/// Writes a new age identity to `file`, which must not exist, and names it in the configuration.
fn make_identity(store: &str, file: &Path, globals: &Globals) -> Result<()> {
    let path = globals.config_file()?;
    let text = crate::config::file::read_guarded(&path)?;
    let identity = Identity::generate();
    let recipients = identity.to_recipients().to_strings();
    let absolute = std::path::absolute(file).doing(|| format!("find \"{}\"", file.display()))?;
    // Before anything is written: what the configuration would be must be one.
    let edited = crate::config::edit::set_identity(&text, store, &recipients, &absolute)?;
    let about = format!(
        "# age identity of strongroom's store \"{store}\"; whoever has it can read the backups\n# public key: {}\n",
        recipients.join(", ")
    );
    let secret = identity.to_secret();
    let mut out = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(file)
        .doing(|| format!("make the identity \"{}\"", file.display()))
        .map_err(|error| match error.kind() {
            Kind::Conflict => error.hint("an identity is never written over: name another file, or move this one away"),
            _ => error,
        })?;
    out.write_all(about.as_bytes())
        .and_then(|()| out.write_all(secret.expose().as_bytes()))
        .and_then(|()| out.write_all(b"\n"))
        .and_then(|()| out.sync_all())
        .doing(|| format!("write the identity \"{}\"", file.display()))?;
    crate::config::file::replace(&path, &text, &edited)
}

async fn check(store: &str, globals: &Globals, cancel: CancellationToken) -> anyhow::Result<Exit> {
    let session = Session::open(globals, cancel)?.in_a_hurry();
    let label = session.config.store(store)?.0;
    let catalog = session.catalog(label, None).await?;
    let report = crate::store::check::run(catalog.store()).await?;
    let checks: Vec<Check> = report.findings.iter().map(as_check).collect();
    StoreChecked { store, place: &report.store, checks: &checks }.print(&globals.output())
}

fn as_check(finding: &Finding) -> Check {
    let outcome = match finding.ability {
        Ability::Able => CheckOutcome::Passed,
        Ability::Unable if finding.refuses => CheckOutcome::Failed,
        Ability::Unable => CheckOutcome::Warned,
        Ability::Unknown if finding.refuses => CheckOutcome::Failed,
        Ability::Unknown => CheckOutcome::Skipped,
    };
    let causes = if finding.consequence.is_empty() { Vec::new() } else { vec![finding.consequence.to_owned()] };
    Check {
        id: format!("store.{}", finding.id),
        title: finding.title.to_owned(),
        outcome,
        evidence: finding.evidence.clone(),
        causes,
        remedies: Vec::new(),
    }
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
