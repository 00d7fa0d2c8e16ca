//! Where things are in this checkout.

use anyhow::{Context, Result};
use std::path::{Path, PathBuf};

/// Folders of this checkout, all absolute.
#[derive(Clone, Debug)]
pub struct Workspace {
    /// The folder that holds `Cargo.lock` and the README.
    pub root: PathBuf,
    /// The build folder that quickstart, tests and developers share.
    pub target: PathBuf,
}

impl Workspace {
    /// The checkout that this program was built from; `CARGO_TARGET_DIR` moves its build folder.
    pub fn find() -> Result<Self> {
        let here = Path::new(env!("CARGO_MANIFEST_DIR"));
        let root = here.parent().context("xtask/ has no parent folder")?.to_path_buf();
        let target = match std::env::var_os("CARGO_TARGET_DIR") {
            Some(dir) => std::path::absolute(dir).context("CARGO_TARGET_DIR cannot be made absolute")?,
            None => root.join("target"),
        };
        Ok(Self { root, target })
    }

    /// The host binary of the dev profile.
    pub fn host(&self) -> PathBuf {
        self.target.join("debug").join("strongroom")
    }

    /// A program of the release profile.
    pub fn release(&self, name: &str) -> PathBuf {
        self.target.join("release").join(name)
    }

    /// Where built plugins are: `target/plugins/NAME.wasm`.
    pub fn plugins(&self) -> PathBuf {
        self.target.join("plugins")
    }

    /// Names of the folders under `plugins/`, sorted.
    pub fn plugin_names(&self) -> Result<Vec<String>> {
        folders(&self.root.join("plugins"))
    }
}

/// Names of the folders directly in `dir` that hold a `Cargo.toml`, sorted.
pub fn folders(dir: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(dir).with_context(|| format!("could not list {}", dir.display()))? {
        let entry = entry?;
        if entry.path().join("Cargo.toml").is_file() {
            names.push(entry.file_name().to_string_lossy().into_owned());
        }
    }
    names.sort();
    Ok(names)
}
