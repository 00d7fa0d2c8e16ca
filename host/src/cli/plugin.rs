//! `strongroom plugin`

use super::exit::Exit;
use super::output::Output;
use super::session::read_component;
use super::{Globals, propose, vendor};
use crate::config::edit::RawGrants;
use crate::config::{Config, environment};
use crate::error::{Error, IoContext, Result};
use crate::plugin::build::BuildOptions;
use crate::plugin::component::Component;
use clap::{Args, Subcommand};
use serde::Serialize;
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use tokio_util::sync::CancellationToken;

/// Arguments of `plugin`.
#[derive(Debug, Args)]
pub struct PluginArgs {
    /// What to do.
    #[command(subcommand)]
    pub command: PluginCommand,
}

/// What `plugin` can do.
#[derive(Debug, Subcommand)]
pub enum PluginCommand {
    /// Builds a plugin: a component with its manifest inside
    #[command(
        after_help = "Examples:\n  strongroom plugin build plugins/postgres\n  strongroom plugin build . --out postgres.wasm"
    )]
    Build {
        /// Folder of the plugin's crate, with plugin.toml
        #[arg(default_value = ".")]
        folder: PathBuf,
        /// Where to put the component [default: NAME.wasm in this directory]
        #[arg(long, short, value_name = "FILE")]
        out: Option<PathBuf>,
    },
    /// Shows what a plugin is, what it imports, what it asks for and why; runs nothing
    #[command(
        after_help = "Examples:\n  strongroom plugin inspect postgres.wasm\n  strongroom plugin inspect postgres --output json"
    )]
    Inspect {
        /// A component's file, or a plugin as in [plugin.NAME]
        plugin: String,
    },
    /// Shows what a plugin asks for, and writes digest and grants into the configuration
    #[command(after_help = "\
Examples:
  strongroom plugin approve postgres           asks, then writes
  strongroom plugin approve postgres --print   a patch for review instead
  strongroom plugin approve postgres --digest SHA256 --program pg_dump=/usr/lib/postgresql/18/bin/pg_dump")]
    Approve(ApproveArgs),
}

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
    /// A bucket besides those that jobs and targets name, by the setting or option that names it
    #[arg(long = "bucket", value_name = "SETTING=LABEL", value_parser = super::restore::parse_pair)]
    pub buckets: Vec<(String, String)>,
}

pub(super) fn parse_program(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, path)) if !name.is_empty() && path.starts_with('/') => Ok((name.to_owned(), path.to_owned())),
        _ => Err("expected NAME=PATH with an absolute path".to_owned()),
    }
}

/// Runs it.
pub async fn run(args: PluginArgs, globals: &Globals, _cancel: CancellationToken) -> anyhow::Result<Exit> {
    match args.command {
        PluginCommand::Build { folder, out } => build(folder, out, globals).await,
        PluginCommand::Inspect { plugin } => inspect(&plugin, globals),
        PluginCommand::Approve(args) => approve(&args, globals),
    }
}

async fn build(folder: PathBuf, out: Option<PathBuf>, globals: &Globals) -> anyhow::Result<Exit> {
    let cargo = environment::process("CARGO").unwrap_or_else(|| "cargo".into());
    let options = BuildOptions { crate_dir: folder, out, cargo };
    let built = tokio::task::spawn_blocking(move || crate::plugin::build::build(&options)).await??;
    let shown = ShownBuild {
        file: built.path.display().to_string(),
        name: &built.component.manifest.name,
        version: &built.component.manifest.version,
        sha256: &built.component.sha256,
    };
    globals
        .output()
        .result(&shown, || format!("{}\n  {} {}, sha256 {}\n", shown.file, shown.name, shown.version, shown.sha256))?;
    Ok(Exit::Done)
}

/// The result of `plugin build` as JSON. Documented; keys are only ever added.
#[derive(Debug, Serialize)]
struct ShownBuild<'a> {
    /// Where the component is.
    file: String,
    /// Name and version from its manifest.
    name: &'a str,
    version: &'a str,
    /// SHA-256 of its bytes.
    sha256: &'a str,
}

/// A component's file needs no configuration; a plugin of the configuration is shown with what is
/// effective.
fn inspect(plugin: &str, globals: &Globals) -> anyhow::Result<Exit> {
    let as_file = Path::new(plugin);
    let inspection = if as_file.is_file() || plugin.contains('/') {
        let component = Component::decode(&read_component(as_file)?)
            .map_err(|error| error.while_doing(format!("could not look into \"{plugin}\"")))?;
        crate::plugin::inspect::inspect(&component, None)
    } else {
        let config = globals.load()?;
        let (label, plugin) = config.plugin(plugin)?;
        let component = Component::decode(&read_component(&plugin.source)?)
            .map_err(|error| error.while_doing(format!("could not read plugin \"{label}\"")))?;
        crate::plugin::inspect::inspect(&component, Some(&plugin.grants))
    };
    globals.output().result(&inspection, || inspection.to_string())?;
    Ok(Exit::Done)
}

/// Shows what a plugin asks for and what it would be granted, asks, and writes it.
fn approve(args: &ApproveArgs, globals: &Globals) -> anyhow::Result<Exit> {
    let output = globals.output();
    let path = globals.config_file()?;
    let text = crate::config::file::read_guarded(&path)?;
    // Grants that are about to be replaced may be wrong; everything else must be right.
    let config = globals.load()?;
    let (label, plugin) = config.plugin(&args.plugin)?;
    let component = Component::decode(&read_component(&plugin.source)?)
        .map_err(|error| error.while_doing(format!("could not read plugin \"{label}\"")))?;
    if let Some(digest) = &args.digest
        && !digest.eq_ignore_ascii_case(&component.sha256)
    {
        return Err(Error::denied(format!("plugin \"{label}\" is not the one that --digest names"))
            .fact("expected", format!("sha256 {digest}"))
            .fact("got", format!("sha256 {}", component.sha256))
            .hint("look at what it is: strongroom plugin inspect")
            .into());
    }
    let asks = args.digest.is_none() && !args.print;
    if asks && !(std::io::stdin().is_terminal() && std::io::stderr().is_terminal()) {
        return Err(Error::denied(format!("nobody can be asked whether plugin \"{label}\" is approved"))
            .fact("reason", "this is not a terminal")
            .hint(format!(
                "after looking at it, approve exactly these bytes: strongroom plugin approve {label} --digest {}",
                component.sha256
            ))
            .into());
    }
    let mut known = propose::Known { programs: args.programs.iter().cloned().collect(), ..propose::Known::default() };
    let jobs = config.jobs.values().filter(|job| job.plugin == *label);
    jobs.for_each(|job| propose::buckets_named(&component.manifest, &job.settings, &mut known.buckets));
    config
        .targets
        .values()
        .for_each(|target| propose::buckets_named(&component.manifest, &target.options, &mut known.buckets));
    for (setting, bucket) in &args.buckets {
        known.buckets.entry(setting.clone()).or_default().insert(bucket.clone());
    }
    let search = environment::process("PATH").and_then(|path| path.into_string().ok()).unwrap_or_default();
    let mut grants = propose::grants(&component.manifest, &known, &search)?;
    if asks {
        output.complain(&crate::plugin::inspect::inspect(&component, None).to_string());
        grants = ask(&component, grants, &output)?;
    }
    let edited = crate::config::edit::approve(&text, label.as_str(), &component.sha256, &grants)?;
    // The vendor's text is in it: nothing of it may drive the terminal that it is reviewed on.
    let patch = vendor::lines(&crate::config::diff::unified(&path.display().to_string(), &text, &edited));
    if args.print {
        output.write(&patch)?;
        return Ok(Exit::Done);
    }
    if asks {
        output.complain(&format!("\n{patch}"));
        if !yes("write exactly this into the configuration?")? {
            return Err(Error::cancelled("nothing was written").into());
        }
    }
    // Never leaves a configuration behind that cannot be loaded.
    Config::parse(&edited, &path, &crate::config::file::directory_of(&path)?)?;
    super::audit::approved(globals, &config, label, &component.sha256)?;
    crate::config::file::replace(&path, &text, &edited)?;
    let shown =
        ShownApproval { plugin: label.as_str(), sha256: &component.sha256, grants: &grants, changed: text != edited };
    output.result(&shown, || {
        let what = if shown.changed { "approved" } else { "was approved already" };
        format!("{patch}plugin \"{}\" {what}: sha256 {}\n", shown.plugin, shown.sha256)
    })?;
    Ok(Exit::Done)
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

/// Asks for each grant. What is not granted is left out; the plugin is told `denied` when it tries.
fn ask(component: &Component, mut grants: RawGrants, output: &Output) -> Result<RawGrants> {
    let mut refused = Vec::new();
    for (name, exec) in &grants.exec {
        let request = component.manifest.request.exec.iter().find(|request| request.name == *name);
        let reason = request.map(|request| request.reason.as_str()).unwrap_or_default();
        output.complain(&format!("\ncommand \"{}\"\n{}", vendor::line(name, 128), propose::toml(exec)?));
        output.complain(&format!("  why, says the vendor: {}", vendor::line(reason, vendor::MAX_BYTES)));
        if !yes("grant it?")? {
            refused.push(name.clone());
        }
    }
    refused.iter().for_each(|name| drop(grants.exec.remove(name)));
    for request in &component.manifest.request.bucket {
        let reason = vendor::line(&request.reason, vendor::MAX_BYTES);
        output.complain(&format!(
            "\nbuckets named by \"{}\"; why, says the vendor: {reason}",
            vendor::line(&request.setting, 128)
        ));
    }
    let mut without = Vec::new();
    for (label, several) in &grants.bucket {
        for grant in several {
            output.complain(&format!("\nbucket \"{label}\"\n{}", propose::toml(grant)?));
        }
        if !yes("grant it?")? {
            without.push(label.clone());
        }
    }
    without.iter().for_each(|label| drop(grants.bucket.remove(label)));
    if grants.artifacts.is_some() && !yes("\nstore and read the artifacts of its own backups: grant it?")? {
        grants.artifacts = None;
    }
    Ok(grants)
}

fn yes(question: &str) -> Result<bool> {
    let mut err = std::io::stderr().lock();
    let mut answer = String::new();
    write!(err, "{question} [y/N] ")
        .and_then(|()| err.flush())
        .and_then(|()| std::io::stdin().read_line(&mut answer))
        .doing(|| "ask on the terminal".to_owned())?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}
