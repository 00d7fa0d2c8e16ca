//! `plugin build`: from a crate and its `plugin.toml` to one component, or from a component of
//! another toolchain and a `plugin.toml`.
//!
//! The same sources give the same bytes: names of directories of this machine are taken out, and
//! nothing depends on the time.

use super::component::{Component, embed_manifest};
use super::manifest::PluginManifest;
use crate::error::{Error, IoContext, Result};
use serde_json::Value;
use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;

/// The target of plugins that import nothing but the contract.
const TARGET: &str = "wasm32-unknown-unknown";
/// The profile of plugins; `release` where the workspace has none of that name.
const PROFILE: &str = "plugin";

/// What to build, and with what.
#[derive(Clone, Debug)]
pub struct BuildOptions {
    /// The directory with `plugin.toml` and, unless there is a component already, `Cargo.toml`.
    pub crate_dir: PathBuf,
    /// A component that another toolchain made: only the manifest is put into it then.
    pub component: Option<PathBuf>,
    /// Where to write the component; `<name>.wasm` in the crate's directory unless set.
    pub out: Option<PathBuf>,
    /// The cargo to use: the value of `CARGO`, or `cargo`.
    pub cargo: OsString,
}

/// A plugin that was built.
#[derive(Clone, Debug)]
pub struct Built {
    /// Where it is.
    pub path: PathBuf,
    /// What it is.
    pub component: Component,
}

/// Builds a plugin, or puts the manifest into a component that is there, and checks it as a host
/// would that loads it. Blocking; cargo's own messages go to standard error.
///
/// Errors: `Invalid` for a manifest or a component that is not as it must be, `Failed` when cargo
/// fails. The file is written as a whole or not at all.
pub fn build(options: &BuildOptions) -> Result<Built> {
    let manifest_path = options.crate_dir.join("plugin.toml");
    let text = fs::read_to_string(&manifest_path).doing(|| format!("read \"{}\"", manifest_path.display()))?;
    let manifest = PluginManifest::parse(&text)
        .map_err(|error| error.while_doing(format!("could not read \"{}\"", manifest_path.display())))?;
    let bare = match &options.component {
        Some(path) => fs::read(path).doing(|| format!("read \"{}\"", path.display()))?,
        None => component_of_crate(options)?,
    };
    // Checked before the manifest goes in: behind what is no component, it would only make that worse.
    super::component::check_header(&bare).map_err(|error| match &options.component {
        Some(path) => error.while_doing(format!("\"{}\" cannot be made a plugin", path.display())),
        None => error,
    })?;
    let bytes = embed_manifest(bare, &text);
    let component = Component::decode(&bytes).map_err(|error| {
        error.while_doing(match &options.component {
            Some(path) => format!("\"{}\" with \"{}\" is not a plugin", path.display(), manifest_path.display()),
            None => format!("the crate in \"{}\" is not a plugin", options.crate_dir.display()),
        })
    })?;
    let path = options.out.clone().unwrap_or_else(|| options.crate_dir.join(format!("{}.wasm", manifest.name)));
    write(&path, &bytes)?;
    Ok(Built { path, component })
}

/// Builds the crate and wraps its module.
fn component_of_crate(options: &BuildOptions) -> Result<Vec<u8>> {
    let module_path = compile(options)?;
    let module = fs::read(&module_path).doing(|| format!("read \"{}\"", module_path.display()))?;
    wit_component::ComponentEncoder::default()
        .validate(true)
        .module(&module)
        .and_then(|mut encoder| encoder.encode())
        .map_err(|e| {
            Error::invalid(format!("\"{}\" cannot be made a component", module_path.display()))
                .hint("is the plugin exported with the SDK's macro?")
                .because(format!("{e:#}"))
        })
}

/// Runs cargo and finds the module that it made.
fn compile(options: &BuildOptions) -> Result<PathBuf> {
    let project = Project::of(options)?;
    let mut cargo = cargo(options);
    cargo.args(["build", "--lib", "--target", TARGET, "--profile", project.profile]);
    cargo.args(["--message-format", "json-render-diagnostics"]);
    // Function names stay in: without them the backtrace of a panic would be numbers.
    cargo.arg("--config").arg(format!("profile.{}.strip=\"none\"", project.profile));
    cargo.arg("--config").arg(format!("profile.{}.debug=false", project.profile));
    cargo.arg("--config").arg(format!("target.{TARGET}.rustflags={}", project.rustflags()));
    let output = cargo
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .output()
        .doing(|| format!("run \"{}\"", options.cargo.display()))?;
    if !output.status.success() {
        return Err(Error::failed(format!("cargo could not build \"{}\"", options.crate_dir.display()))
            .fact("got", output.status.to_string())
            .hint(format!("cargo has said why above; the target is needed too: rustup target add {TARGET}")));
    }
    let manifest = options.crate_dir.join("Cargo.toml").canonicalize().doing(|| "find Cargo.toml".to_owned())?;
    let mut modules = messages(&output.stdout).filter(|message| {
        message["reason"] == "compiler-artifact" && message["manifest_path"].as_str().map(Path::new) == Some(&manifest)
    });
    modules
        .find_map(|message| {
            message["filenames"]
                .as_array()?
                .iter()
                .filter_map(Value::as_str)
                .find(|name| name.ends_with(".wasm"))
                .map(PathBuf::from)
        })
        .ok_or_else(|| {
            Error::invalid(format!("the crate in \"{}\" makes no WebAssembly module", options.crate_dir.display()))
                .fact("expected", "[lib] crate-type = [\"cdylib\"] in Cargo.toml")
        })
}

fn messages(stdout: &[u8]) -> impl Iterator<Item = Value> {
    stdout.split(|byte| *byte == b'\n').filter_map(|line| serde_json::from_slice(line).ok())
}

/// A child of this host, not of a plugin: it runs before there is one.
#[expect(clippy::disallowed_methods, reason = "cargo is the operator's own tool; nothing of a plugin runs here")]
fn cargo(options: &BuildOptions) -> std::process::Command {
    let mut cargo = std::process::Command::new(&options.cargo);
    cargo.current_dir(&options.crate_dir).stdin(Stdio::null());
    cargo
}

/// What cargo knows of the crate's workspace.
struct Project {
    profile: &'static str,
    /// Directories of this machine, with the names that stand for them in the component.
    directories: BTreeSet<(PathBuf, &'static str)>,
}

impl Project {
    fn of(options: &BuildOptions) -> Result<Self> {
        let output = cargo(options)
            .args(["metadata", "--format-version", "1", "--filter-platform", TARGET])
            .stderr(Stdio::inherit())
            .output()
            .doing(|| format!("run \"{}\"", options.cargo.display()))?;
        let bad = || Error::failed(format!("cargo cannot read the crate in \"{}\"", options.crate_dir.display()));
        if !output.status.success() {
            return Err(bad().fact("got", output.status.to_string()).hint("cargo has said why above"));
        }
        let metadata: Value = serde_json::from_slice(&output.stdout).map_err(|e| bad().because(e))?;
        let root = PathBuf::from(metadata["workspace_root"].as_str().ok_or_else(bad)?);
        let path = root.join("Cargo.toml");
        let manifest = fs::read_to_string(&path).doing(|| format!("read \"{}\"", path.display()))?;
        let manifest: toml::Table = manifest.parse().map_err(|e: toml::de::Error| bad().because(e))?;
        let has_profile = manifest.get("profile").is_some_and(|profiles| profiles.get(PROFILE).is_some());
        let foreign =
            metadata["packages"].as_array().into_iter().flatten().filter(|package| !package["source"].is_null());
        let sources = foreign.filter_map(|package| Path::new(package["manifest_path"].as_str()?).parent()?.parent());
        let mut directories: BTreeSet<_> = sources.map(|path| (path.to_owned(), "/dependencies")).collect();
        directories.insert((root, "/plugin"));
        Ok(Self { profile: if has_profile { PROFILE } else { "release" }, directories })
    }

    /// Flags that put the same names into the component wherever it is built, as TOML.
    fn rustflags(&self) -> String {
        let flags =
            self.directories.iter().map(|(path, name)| format!("--remap-path-prefix={}={name}", path.display()));
        toml::Value::Array(flags.map(toml::Value::String).collect()).to_string()
    }
}

/// Writes the file as a whole or not at all.
fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let doing = || format!("write \"{}\"", path.display());
    let mut file = tempfile::Builder::new().prefix(".new-").tempfile_in(dir).doing(doing)?;
    file.write_all(bytes).doing(doing)?;
    file.as_file().set_permissions(fs::Permissions::from_mode(0o644)).doing(doing)?;
    file.persist(path).map_err(|e| e.error).doing(doing)?;
    Ok(())
}
