//! `strongroom plugin inspect` and `strongroom plugin diff`: nothing is run, nothing is changed.

use super::super::Globals;
use super::super::exit::Exit;
use super::super::session::{read_component, read_signature};
use crate::config::{Config, PluginConfig};
use crate::error::Result;
use crate::id::Label;
use crate::plugin::Trust;
use crate::plugin::component::Component;
use crate::plugin::inspect::diff;
use crate::plugin::inspect::{ApprovalState, Concern, Inspection, Signature, SignatureState, Surroundings, inspect_in};
use crate::plugin::signature::{self, TrustedKey};
use crate::policy::narrowing::Narrowing;
use clap::Args;
use clap::builder::PossibleValuesParser;
use std::path::{Path, PathBuf};

/// Arguments of `plugin inspect`.
#[derive(Debug, Args)]
pub struct InspectArgs {
    /// A component's file, or a plugin as in [plugin.NAME]
    pub plugin: String,
    /// End with exit code 5 when one of these holds: of a file what it asks for, of a plugin what is effective
    #[arg(
        long,
        value_name = "WORDS",
        value_delimiter = ',',
        value_parser = PossibleValuesParser::new(Concern::ALL.map(Concern::name))
    )]
    pub fail_on: Vec<String>,
    /// A minisign public key that is trusted to have signed a file, besides those of a configuration
    #[arg(long = "trusted-key", value_name = "KEY", value_parser = parse_key)]
    pub trusted_keys: Vec<TrustedKey>,
}

/// Arguments of `plugin diff`.
#[derive(Debug, Args)]
pub struct DiffArgs {
    /// The component that is there, or a plugin as in [plugin.NAME]
    pub old: String,
    /// The one that is to replace it
    pub new: String,
    /// End with exit code 5 when the new one can do, or asks for, anything that the old one could not
    #[arg(long)]
    pub fail_on_more: bool,
}

/// A public key, as `--trusted-key` takes it.
pub(crate) fn parse_key(text: &str) -> std::result::Result<TrustedKey, String> {
    TrustedKey::parse(text).map_err(|error| error.to_string())
}

/// Whether the words name a file and not a plugin of the configuration.
fn is_file(name: &str) -> bool {
    Path::new(name).is_file() || name.contains('/')
}

/// What a signature is worth; whatever it is, that is shown and no error.
pub(super) fn signature(bytes: &[u8], text: Option<&str>, trust: &Trust) -> Signature {
    let Some(text) = text else { return Signature::default() };
    match signature::verify(bytes, text, &trust.keys) {
        Ok(signed) => Signature {
            state: SignatureState::Good,
            key_id: Some(signed.key_id),
            comment: Some(signed.comment),
            reason: None,
        },
        Err(_) if trust.keys.is_empty() => Signature { state: SignatureState::Unchecked, ..Signature::default() },
        Err(error) => {
            Signature { state: SignatureState::Refused, reason: Some(error.to_string()), ..Signature::default() }
        }
    }
}

/// A component's file needs no configuration; a plugin of the configuration is shown with what is
/// effective.
pub(super) fn inspect(args: &InspectArgs, globals: &Globals) -> anyhow::Result<Exit> {
    let inspection = if is_file(&args.plugin) { of_file(args, globals)? } else { of_plugin(args, globals)? };
    globals.output().result(&inspection, || inspection.to_string())?;
    let wanted = |concern: &&Concern| args.fail_on.iter().any(|word| word == concern.name());
    let found: Vec<&str> = inspection.concerns.iter().filter(wanted).map(|concern| concern.name()).collect();
    if found.is_empty() {
        return Ok(Exit::Done);
    }
    globals.output().note(&format!("fails on: {}", found.join(", ")));
    Ok(Exit::CheckFailed)
}

fn of_file(args: &InspectArgs, globals: &Globals) -> Result<Inspection> {
    let path = PathBuf::from(&args.plugin);
    let bytes = read_component(&path)?;
    let component = Component::decode(&bytes)
        .map_err(|error| error.while_doing(format!("could not look into \"{}\"", args.plugin)))?;
    let mut beside = path.into_os_string();
    beside.push(signature::SUFFIX);
    let text = read_signature(Path::new(&beside))?;
    let trust = Trust { keys: args.trusted_keys.clone(), ..Trust::default() };
    Ok(inspect_in(
        &component,
        Surroundings {
            signature: signature(&bytes, text.as_deref(), &trust),
            ceilings: globals.ceilings()?.names(),
            ..Surroundings::default()
        },
    ))
}

fn of_plugin(args: &InspectArgs, globals: &Globals) -> Result<Inspection> {
    let config = globals.load()?;
    let (label, plugin) = config.plugin(&args.plugin)?;
    let bytes = read_component(&plugin.source)?;
    let component =
        Component::decode(&bytes).map_err(|error| error.while_doing(format!("could not read plugin \"{label}\"")))?;
    let mut trust = config.trust(plugin);
    trust.keys.extend(args.trusted_keys.iter().cloned());
    let text = read_signature(&plugin.signature)?;
    Ok(inspect_in(
        &component,
        Surroundings {
            grants: Some(&plugin.grants),
            signature: signature(&bytes, text.as_deref(), &trust),
            approval: Some(approval(&config, plugin, &component.sha256)),
            ceilings: config.ceilings.names(),
            narrowed: narrowed(&config, label),
        },
    ))
}

/// What holds of a plugin's grants in the jobs that narrow them, and in verbs that narrow them further.
fn narrowed(config: &Config, label: &Label) -> Vec<String> {
    let of_plugin = config.jobs.values().filter(|job| job.plugin == *label);
    let all =
        of_plugin.flat_map(|job| job.grants.iter().chain(job.verbs.values().filter_map(|own| own.grants.as_ref())));
    let names = |narrowing: &Narrowing| match narrowing.names.iter().map(String::as_str).collect::<Vec<_>>() {
        names if names.is_empty() => "nothing".to_owned(),
        names => names.join(", "),
    };
    all.map(|narrowing| format!("{} narrows its grants; in it hold: {}", narrowing.table, names(narrowing))).collect()
}

fn approval(config: &Config, plugin: &PluginConfig, sha256: &str) -> ApprovalState {
    match &plugin.sha256 {
        _ if config.trust(plugin).revoked.contains(sha256) => ApprovalState::Revoked,
        None => ApprovalState::NeverApproved,
        Some(pinned) if pinned == sha256 => ApprovalState::Approved,
        Some(_) => ApprovalState::OtherBytes,
    }
}

/// Shows what one component can do and another could not.
pub(super) fn diff(args: &DiffArgs, globals: &Globals) -> anyhow::Result<Exit> {
    let (old, new) = (component(&args.old, globals)?, component(&args.new, globals)?);
    let difference = diff::diff(&old, &new);
    globals.output().result(&difference, || difference.to_string())?;
    Ok(if args.fail_on_more && difference.is_more() { Exit::CheckFailed } else { Exit::Done })
}

fn component(name: &str, globals: &Globals) -> Result<Component> {
    let path = if is_file(name) { PathBuf::from(name) } else { globals.load()?.plugin(name)?.1.source.clone() };
    Component::decode(&read_component(&path)?)
        .map_err(|error| error.while_doing(format!("could not look into \"{}\"", path.display())))
}
