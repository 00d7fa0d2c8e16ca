//! Whether a plugin is the same bytes wherever it is built: from a copy of the sources at another path, with
//! another build folder, another home and another name for cargo's own folder.
//!
//! What must be the same is the compiler (`rust-toolchain.toml`) and `Cargo.lock`.

use crate::command;
use crate::soak::{Length, Outcome};
use crate::stage;
use crate::workspace::Workspace;
use anyhow::{Context, Result, bail};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

/// Builds the crate in folder `krate` of a copy of this checkout beneath `place`, which is empty and is the
/// caller's to remove, and fails unless it is what `built` holds. Nothing is downloaded.
pub fn check(workspace: &Workspace, krate: &str, built: &Path, place: &Path) -> Result<()> {
    let again = build_elsewhere(workspace, krate, place)?;
    let read = |path: &Path| std::fs::read(path).with_context(|| format!("could not read {}", path.display()));
    if read(built)? == read(&again)? {
        return Ok(());
    }
    let digest = |path: &Path| command::run("sha256sum").arg(path).read();
    bail!(
        "{krate} is not the same when it is built elsewhere:\n  {}\n  {}\nnames of folders in them differ: `strings` shows which",
        digest(built)?,
        digest(&again)?
    )
}

/// Every plugin, as often as asked for, as a long harness.
pub fn every_plugin(workspace: &Workspace, names: &[String], length: Length) -> Result<Outcome> {
    let rounds = match length {
        Length::Count(n) => n.max(1),
        Length::Minutes(_) => 1,
    };
    stage::host(workspace)?;
    let all = workspace.plugin_names()?;
    let chosen: Vec<&String> = all.iter().filter(|name| names.is_empty() || names.contains(name)).collect();
    for name in &chosen {
        stage::build_plugin(workspace, &format!("plugins/{name}"), name)?;
        for _ in 0..rounds {
            let place = empty_folder(name)?;
            let built = workspace.plugins().join(format!("{name}.wasm"));
            let checked = check(workspace, &format!("plugins/{name}"), &built, &place);
            std::fs::remove_dir_all(&place).with_context(|| format!("could not remove {}", place.display()))?;
            checked?;
        }
    }
    Ok(Outcome { passed: true, done: format!("{} plugins built {} times elsewhere", chosen.len(), rounds) })
}

/// An empty folder outside of the checkout.
fn empty_folder(name: &str) -> Result<PathBuf> {
    let place = std::env::temp_dir().join(format!("strongroom-reproduce-{}-{name}", std::process::id()));
    std::fs::create_dir_all(&place).with_context(|| format!("could not make {}", place.display()))?;
    Ok(place)
}

/// Builds the crate somewhere else, and returns the component.
fn build_elsewhere(workspace: &Workspace, krate: &str, place: &Path) -> Result<PathBuf> {
    let (sources, home, cargo) = (place.join("a rather/other/place"), place.join("home"), place.join("cargo"));
    for folder in [&sources, &home, &cargo] {
        std::fs::create_dir_all(folder).with_context(|| format!("could not make {}", folder.display()))?;
    }
    copy(&workspace.root, &sources)?;
    // The same downloads, under another name.
    let own = cargo_home()?;
    for folder in ["registry", "git"].map(Path::new).into_iter().filter(|folder| own.join(folder).exists()) {
        symlink(own.join(folder), cargo.join(folder)).context("could not make a link")?;
    }
    let component = place.join("component.wasm");
    let mut build = command::run(workspace.host())
        .args(["plugin", "build"])
        .arg(sources.join(krate))
        .arg("--out")
        .arg(&component)
        .dir(place)
        .env("CARGO_TARGET_DIR", place.join("target"))
        .env("CARGO_HOME", &cargo)
        .env("CARGO_NET_OFFLINE", "true")
        .env("HOME", &home);
    // rustup finds its compilers beneath the home that is not there any more.
    if let Some(rustup) = rustup_home() {
        build = build.env("RUSTUP_HOME", rustup);
    }
    build.read()?;
    Ok(component)
}

/// Copies sources: everything but build folders and what begins with a dot.
fn copy(from: &Path, to: &Path) -> Result<()> {
    for entry in std::fs::read_dir(from).with_context(|| format!("could not list {}", from.display()))? {
        let entry = entry?;
        let (name, kind) = (entry.file_name(), entry.file_type()?);
        if name == "target" || name.to_string_lossy().starts_with('.') {
            continue;
        }
        let place = to.join(&name);
        if kind.is_dir() {
            std::fs::create_dir(&place).with_context(|| format!("could not make {}", place.display()))?;
            copy(&entry.path(), &place)?;
        } else if kind.is_file() {
            std::fs::copy(entry.path(), &place).with_context(|| format!("could not write {}", place.display()))?;
        }
    }
    Ok(())
}

fn cargo_home() -> Result<PathBuf> {
    let home = || std::env::var_os("HOME").map(|home| Path::new(&home).join(".cargo"));
    std::env::var_os("CARGO_HOME").map(PathBuf::from).or_else(home).context("neither CARGO_HOME nor HOME is set")
}

fn rustup_home() -> Option<PathBuf> {
    let home = || std::env::var_os("HOME").map(|home| Path::new(&home).join(".rustup"));
    std::env::var_os("RUSTUP_HOME").map(PathBuf::from).or_else(home).filter(|path| path.is_dir())
}
