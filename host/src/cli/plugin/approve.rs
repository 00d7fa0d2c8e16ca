//! `strongroom plugin approve`: from what a vendor asks for to what an operator grants.

mod ask;

use super::super::exit::Exit;
use super::super::output::Output;
use super::super::session::{read_component, read_signature};
use super::super::{Globals, propose, vendor};
use super::inspect::signature;
use crate::config::ceiling::Ceilings;
use crate::config::edit::{self, RawGrants};
use crate::config::{Config, environment, file};
use crate::error::{Error, Result};
use crate::exec::Program;
use crate::id::Label;
use crate::plugin::component::Component;
use crate::plugin::inspect::{Surroundings, inspect_in};
use crate::plugin::manifest::RawSlot;
use crate::policy::slot::SlotRule;
use clap::Args;
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::Path;

/// Arguments of `plugin approve`.
#[derive(Debug, Args)]
pub struct ApproveArgs {
    /// The plugin, as in [plugin.NAME]
    pub plugin: String,
    /// Print a patch and write nothing
    #[arg(long)]
    pub print: bool,
    /// Approve exactly the component with this SHA-256, without asking
    #[arg(long, value_name = "SHA256")]
    pub digest: Option<String>,
    /// Path of a program that the plugin asks for, where its commands run [default: looked for on this machine]
    #[arg(long = "program", value_name = "NAME=PATH", value_parser = parse_program)]
    pub programs: Vec<(String, String)>,
    /// Pin each program by the digest of its file as it is now; for commands that run on this machine
    #[arg(long)]
    pub pin_programs: bool,
    /// What may fill a slot, instead of what the vendor proposes; a regular expression over the whole value
    #[arg(long = "slot", value_name = "SLOT=PATTERN", value_parser = parse_slot)]
    pub slots: Vec<(String, String)>,
    /// A bucket besides those that jobs and targets name, by the setting or option that names it
    #[arg(long = "bucket", value_name = "SETTING=LABEL", value_parser = super::super::restore::parse_pair)]
    pub buckets: Vec<(String, String)>,
    /// A cluster besides those that jobs and targets name, by the setting or option that names it
    #[arg(long = "cluster", value_name = "SETTING=LABEL", value_parser = super::super::restore::parse_pair)]
    pub clusters: Vec<(String, String)>,
    /// A namespace of a cluster that it may use, where * stands for any characters; `*` alone is all of them, and what lies in none
    #[arg(long = "namespace", value_name = "CLUSTER=NAME", value_parser = super::super::restore::parse_pair)]
    pub namespaces: Vec<(String, String)>,
    /// A namespace of a cluster that test restores may make and remove, such as `try-*`; without one they are granted nothing
    #[arg(long = "scratch-namespace", value_name = "CLUSTER=NAME", value_parser = super::super::restore::parse_pair)]
    pub scratch_namespaces: Vec<(String, String)>,
}

/// `NAME=PATH`, as `--program` takes it.
pub(crate) fn parse_program(text: &str) -> std::result::Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, path)) if !name.is_empty() && path.starts_with('/') => Ok((name.to_owned(), path.to_owned())),
        _ => Err("expected NAME=PATH with an absolute path".to_owned()),
    }
}

fn parse_slot(text: &str) -> std::result::Result<(String, String), String> {
    let (name, pattern) = text.split_once('=').ok_or("expected SLOT=PATTERN")?;
    SlotRule::pattern(pattern).map_err(|error| error.to_string())?;
    Ok((name.to_owned(), pattern.to_owned()))
}

/// The result of `plugin approve` as JSON. Documented; keys are only ever added.
#[derive(Debug, Serialize)]
struct ShownApproval<'a> {
    plugin: &'a str,
    sha256: &'a str,
    /// What it is granted now.
    grants: &'a RawGrants,
    /// Whether the configuration was changed.
    changed: bool,
}

/// Shows what a plugin asks for and what it would be granted, asks, and writes it.
pub(super) fn approve(args: &ApproveArgs, globals: &Globals) -> anyhow::Result<Exit> {
    let output = globals.output();
    let path = globals.config_file()?;
    let text = file::read_guarded(&path)?;
    let ceilings = globals.ceilings()?;
    let Read { config, base_text } = read(&text, &path, &args.plugin, &ceilings)?;
    if base_text.is_some() {
        output.note(&format!("note: what [plugin.{}] is granted now is not valid, and is replaced", args.plugin));
    }
    let (label, plugin) = config.plugin(&args.plugin)?;
    let bytes = read_component(&plugin.source)?;
    let trust = config.trust(plugin);
    trust.check_revoked(label.as_str(), &crate::plugin::component::digest(&bytes))?;
    let signed = read_signature(&plugin.signature)?;
    trust.check_signature(label.as_str(), &bytes, signed.as_deref())?;
    let component =
        Component::decode(&bytes).map_err(|error| error.while_doing(format!("could not read plugin \"{label}\"")))?;
    check_digest(args, label, &component)?;
    let asks = args.digest.is_none() && !args.print;
    if asks && !super::super::ask::is_possible() {
        return Err(Error::denied(format!("nobody can be asked whether plugin \"{label}\" is approved"))
            .fact("reason", "this is not a terminal")
            .hint(format!(
                "after looking at it, approve exactly these bytes: strongroom plugin approve {label} --digest {}",
                component.sha256
            ))
            .into());
    }
    check_clusters(args, &config)?;
    let mut known = known(args, &config, label, &component);
    if asks {
        let surroundings = Surroundings {
            signature: signature(&bytes, signed.as_deref(), &trust),
            ceilings: ceilings.names(),
            ..Surroundings::default()
        };
        output.complain(&inspect_in(&component, surroundings).to_string());
        ask::buckets(&component.manifest, &config, &mut known, &output)?;
        let settings = ask::Settings::of(&config, label);
        ask::clusters(&component.manifest, &config, &settings, &mut known, &output)?;
    }
    let search = environment::process("PATH").and_then(|path| path.into_string().ok()).unwrap_or_default();
    let mut grants = propose::grants(&component.manifest, &known, &search)?;
    replace_slots(&mut grants, &args.slots)?;
    pin(&mut grants, &edit::pins(&text, label.as_str()), args.pin_programs, &output)?;
    if asks {
        grants = ask::grants(&component.manifest, grants, &ask::Settings::of(&config, label), &output)?;
    }
    let edited = write(&text, base_text.as_deref(), label, &component.sha256, &grants, &path, &ceilings)?;
    // The vendor's text is in it: nothing of it may drive the terminal that it is reviewed on.
    let patch = vendor::lines(&crate::config::diff::unified(&path.display().to_string(), &text, &edited));
    if args.print {
        output.write(&patch)?;
        return Ok(Exit::Done);
    }
    if asks {
        output.complain(&format!("\n{patch}"));
        if !ask::yes("write exactly this into the configuration?")? {
            return Err(Error::cancelled("nothing was written").into());
        }
    }
    super::super::audit::approved(globals, &config, label, &component.sha256)?;
    file::replace(&path, &text, &edited)?;
    let shown =
        ShownApproval { plugin: label.as_str(), sha256: &component.sha256, grants: &grants, changed: text != edited };
    output.result(&shown, || {
        let what = if shown.changed { "approved" } else { "was approved already" };
        format!("{patch}plugin \"{}\" {what}: sha256 {}\n", shown.plugin, shown.sha256)
    })?;
    Ok(Exit::Done)
}

/// The configuration, and its text without the plugin's grants where they cannot be read.
struct Read {
    config: Config,
    base_text: Option<String>,
}

/// Grants that are about to be replaced may be wrong; everything else must be right.
fn read(text: &str, path: &Path, plugin: &str, ceilings: &Ceilings) -> Result<Read> {
    let directory = file::directory_of(path)?;
    let error = match Config::parse_under(text, path, &directory, ceilings) {
        Ok(config) => return Ok(Read { config, base_text: None }),
        Err(error) => error,
    };
    let Ok(without) = edit::without_grants(text, plugin) else { return Err(error) };
    match Config::parse_under(&without, path, &directory, ceilings) {
        Ok(config) => Ok(Read { config, base_text: Some(without) }),
        // Something else is wrong as well: the whole text says where.
        Err(_) => Err(error),
    }
}

fn check_digest(args: &ApproveArgs, label: &Label, component: &Component) -> Result<()> {
    match &args.digest {
        Some(digest) if !digest.eq_ignore_ascii_case(&component.sha256) => {
            Err(Error::denied(format!("plugin \"{label}\" is not the one that --digest names"))
                .fact("expected", format!("sha256 {digest}"))
                .fact("got", format!("sha256 {}", component.sha256))
                .hint("look at what it is: strongroom plugin inspect"))
        }
        _ => Ok(()),
    }
}

/// A label that was mistyped would otherwise grant nothing, without a word.
fn check_clusters(args: &ApproveArgs, config: &Config) -> Result<()> {
    for (cluster, _) in args.namespaces.iter().chain(&args.scratch_namespaces) {
        if !config.clusters.keys().any(|label| label.as_str() == cluster) {
            let labels: Vec<&str> = config.clusters.keys().map(Label::as_str).collect();
            return Err(Error::invalid(format!("there is no cluster \"{}\"", vendor::line(cluster, 64)))
                .fact("expected", format!("the label of a cluster: {}", labels.join(", ")))
                .hint("write CLUSTER=NAME with one of them, or add it to the configuration first"));
        }
    }
    Ok(())
}

fn known(args: &ApproveArgs, config: &Config, label: &Label, component: &Component) -> propose::Known {
    let mut known = propose::Known { programs: args.programs.iter().cloned().collect(), ..propose::Known::default() };
    let jobs = config.jobs.values().filter(|job| job.plugin == *label).map(|job| &job.settings);
    let targets = config.targets.values().map(|target| &target.options);
    for table in jobs.chain(targets) {
        propose::buckets_named(&component.manifest, table, &mut known.buckets);
        propose::clusters_named(&component.manifest, table, &mut known.clusters);
    }
    for (setting, cluster) in &args.clusters {
        known.clusters.entry(setting.clone()).or_default().insert(cluster.clone());
    }
    for (cluster, namespace) in &args.namespaces {
        known.namespaces.entry(cluster.clone()).or_default().insert(namespace.clone());
    }
    for (cluster, namespace) in &args.scratch_namespaces {
        known.scratch_namespaces.entry(cluster.clone()).or_default().insert(namespace.clone());
    }
    for (setting, bucket) in &args.buckets {
        known.buckets.entry(setting.clone()).or_default().insert(bucket.clone());
    }
    known
}

/// Keeps the digests of programs that stay, or takes those of the files that are there.
fn pin(
    grants: &mut RawGrants,
    written: &BTreeMap<String, (String, String)>,
    anew: bool,
    output: &Output,
) -> Result<()> {
    for (name, exec) in &mut grants.exec {
        if anew {
            exec.sha256 = Some(Program::open(&exec.program)?.sha256().to_owned());
            continue;
        }
        match written.get(name) {
            Some((program, sha256)) if *program == exec.program => exec.sha256 = Some(sha256.clone()),
            Some((program, _)) => output.note(&format!(
                "note: \"{name}\" was pinned by the digest of \"{}\", and \"{}\" is not pinned: --pin-programs does",
                vendor::line(program, 512),
                vendor::line(&exec.program, 512)
            )),
            None => {}
        }
    }
    Ok(())
}

fn replace_slots(grants: &mut RawGrants, slots: &[(String, String)]) -> Result<()> {
    for (name, pattern) in slots {
        let mut found = false;
        for slot in grants.exec.values_mut().filter_map(|exec| exec.grant.slots.get_mut(name)) {
            *slot = RawSlot::Pattern(pattern.clone());
            found = true;
        }
        if !found {
            return Err(Error::invalid(format!(
                "no command that the plugin asks for has a slot \"{}\"",
                vendor::line(name, 64)
            )));
        }
    }
    Ok(())
}

/// The text with digest and grants; never one that cannot be loaded.
fn write(
    text: &str,
    without: Option<&str>,
    label: &Label,
    sha256: &str,
    grants: &RawGrants,
    path: &Path,
    ceilings: &Ceilings,
) -> Result<String> {
    let directory = file::directory_of(path)?;
    let attempt = |text: &str| {
        let edited = edit::approve(text, label.as_str(), sha256, grants)?;
        Config::parse_under(&edited, path, &directory, ceilings)?;
        Ok(edited)
    };
    match (attempt(text), without) {
        // What is broken and not one of the grants' own keys goes with all of them.
        (Err(_), Some(without)) => attempt(without),
        (attempted, _) => attempted,
    }
}
