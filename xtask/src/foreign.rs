//! Guests of other toolchains: Rust for WASI, Python and JavaScript, each made as its vendor would and
//! given its manifest by the host's own `plugin build --component`.

use crate::cache::Cache;
use crate::command;
use crate::workspace::Workspace;
use anyhow::{Context, Result};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// What Rust compiles for with a WASI.
pub const TARGET: &str = "wasm32-wasip2";

/// Builds all of them to `target/plugins/foreign/NAME.wasm`. One that is newer than all that it is
/// made of is left as it is.
pub fn build(workspace: &Workspace) -> Result<()> {
    for (name, make) in [
        ("wasip2", wasip2 as fn(&Workspace, &Path, &Path) -> Result<PathBuf>),
        ("python", python),
        ("javascript", javascript),
    ] {
        let folder = workspace.root.join("tests/foreign").join(name);
        let made = workspace.plugins().join("foreign").join(format!("{name}.wasm"));
        let inputs = [&folder, &workspace.root.join("wit"), &workspace.root.join("Cargo.lock"), &workspace.host()];
        if is_newer(&made, &inputs.map(PathBuf::as_path))? {
            continue;
        }
        let parent = made.parent().context("a plugin has a folder")?;
        std::fs::create_dir_all(parent).with_context(|| format!("could not make {}", parent.display()))?;
        let scratch = workspace.target.join("tmp").join(format!("{name}.wasm"));
        std::fs::create_dir_all(workspace.target.join("tmp"))?;
        let component = make(workspace, &folder, &scratch).with_context(|| format!("the guest in {name}"))?;
        command::run(workspace.host())
            .args(["plugin", "build"])
            .arg(&folder)
            .arg("--component")
            .arg(&component)
            .arg("--out")
            .arg(&made)
            .dir(&workspace.root)
            .read()?;
    }
    Ok(())
}

fn wasip2(workspace: &Workspace, _folder: &Path, _scratch: &Path) -> Result<PathBuf> {
    command::run("cargo")
        .args(["build", "--quiet", "--locked", "--package", "strongroom-guest-wasip2", "--profile", "plugin"])
        .args(["--target", TARGET])
        .dir(&workspace.root)
        .env("CARGO_TARGET_DIR", &workspace.target)
        .check()?;
    Ok(workspace.target.join(TARGET).join("plugin/strongroom_guest_wasip2.wasm"))
}

/// With its WASI, which the host makes inert.
fn python(workspace: &Workspace, folder: &Path, scratch: &Path) -> Result<PathBuf> {
    let tool = Cache::locate()?.path("componentize-py")?;
    command::run(tool.join("bin/componentize-py"))
        .arg("-d")
        .arg(workspace.root.join("wit"))
        .args(["-w", "commands", "componentize", "app", "-p", ".", "-o"])
        .arg(scratch)
        .dir(folder)
        .env("PYTHONPATH", &tool)
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .read()?;
    Ok(scratch.to_path_buf())
}

/// Without any WASI: its engine works with stubs.
fn javascript(workspace: &Workspace, folder: &Path, scratch: &Path) -> Result<PathBuf> {
    let tool = Cache::locate()?.path("jco")?;
    command::run(tool.join("node_modules/.bin/jco"))
        .arg("componentize")
        .arg(folder.join("app.js"))
        .arg("-w")
        .arg(workspace.root.join("wit"))
        .args([
            "-n",
            "commands",
            "--backend",
            "quickjs",
            "--backend-qjs-disable-async",
            "--backend-qjs-stub-wasi",
            "-o",
        ])
        .arg(scratch)
        .dir(&tool)
        .read()?;
    Ok(scratch.to_path_buf())
}

/// Whether a file is there and newer than everything in `inputs`.
fn is_newer(file: &Path, inputs: &[&Path]) -> Result<bool> {
    let Ok(made) = std::fs::metadata(file).and_then(|file| file.modified()) else { return Ok(false) };
    for input in inputs {
        if newest(input)? >= made {
            return Ok(false);
        }
    }
    Ok(true)
}

/// When the newest file of a folder, or a file itself, was changed.
fn newest(path: &Path) -> Result<SystemTime> {
    let metadata = std::fs::metadata(path).with_context(|| format!("could not look at {}", path.display()))?;
    let mut newest_of_all = metadata.modified()?;
    if metadata.is_dir() {
        for entry in std::fs::read_dir(path)? {
            newest_of_all = newest_of_all.max(newest(&entry?.path())?);
        }
    }
    Ok(newest_of_all)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn what_is_older_than_a_file_it_is_made_of_is_made_again() -> Result<()> {
        let dir = std::env::temp_dir().join(format!("strongroom-newer-{}", std::process::id()));
        let (made, folder) = (dir.join("made"), dir.join("folder"));
        std::fs::create_dir_all(&folder)?;
        assert!(!is_newer(&made, &[&folder])?, "a file that is not there");
        std::fs::write(&made, "")?;
        let input = std::fs::File::create(folder.join("input"))?;
        let now = SystemTime::now();
        std::fs::File::open(&folder)?.set_modified(now - Duration::from_secs(60))?;
        std::fs::File::options().write(true).open(&made)?.set_modified(now)?;
        input.set_modified(now - Duration::from_secs(60))?;
        assert!(is_newer(&made, &[&folder])?);
        input.set_modified(now + Duration::from_secs(60))?;
        assert!(!is_newer(&made, &[&folder])?);
        assert!(is_newer(&made, &[Path::new("no such input")]).is_err());
        std::fs::remove_dir_all(&dir)?;
        Ok(())
    }
}
