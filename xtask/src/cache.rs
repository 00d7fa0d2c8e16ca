//! The cache of built test servers and tools: outside the tree, keyed by version, shared by every
//! checkout on the machine.
//!
//! Guarantee: whatever lies under its name is whole. It is built aside, renamed into place, and its
//! version is written after it; a run that is killed leaves only its own scratch folder, which the next
//! build removes. A lock keeps two runs from building the same thing.

use crate::command;
use anyhow::{Context, Result, bail};
use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// The environment variable that moves the cache.
pub const VARIABLE: &str = "STRONGROOM_TEST_CACHE";

/// A folder that holds what tests need and what takes long to get.
#[derive(Clone, Debug)]
pub struct Cache {
    root: PathBuf,
}

impl Cache {
    /// `$STRONGROOM_TEST_CACHE`, else `/var/cache/strongroom-test` for root, whose servers run as other
    /// users that cannot enter root's home, else `~/.cache/strongroom-test`.
    pub fn locate() -> Result<Self> {
        if let Some(dir) = std::env::var_os(VARIABLE).filter(|dir| !dir.is_empty()) {
            let root = std::path::absolute(dir).with_context(|| format!("{VARIABLE} cannot be made absolute"))?;
            return Ok(Self { root });
        }
        if is_root()? {
            return Ok(Self { root: PathBuf::from("/var/cache/strongroom-test") });
        }
        let home = std::env::var_os("HOME").with_context(|| format!("HOME is not set; set {VARIABLE}"))?;
        Ok(Self { root: Path::new(&home).join(".cache").join("strongroom-test") })
    }

    /// Its folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Where `name` is, such as `bin/minio` or `postgres-18`; fails with the command that gets it when it
    /// is not there.
    pub fn path(&self, name: &str) -> Result<PathBuf> {
        let path = self.root.join(name);
        if !path.exists() {
            bail!("\"{name}\" is not in {}: run `cargo xtask test prerequisites`", self.root.display());
        }
        Ok(path)
    }

    /// Whether `name` is there in this version.
    pub fn holds(&self, name: &str, version: &str) -> bool {
        let recorded = fs::read_to_string(self.version_file(name)).unwrap_or_default();
        recorded.trim() == version && self.root.join(name).exists()
    }

    /// Makes sure that `name` is there in this version. `build` gets an empty scratch folder inside the
    /// cache (so that renaming is atomic) and returns the file or folder it made there.
    pub fn ensure(&self, name: &str, version: &str, build: impl FnOnce(&Path) -> Result<PathBuf>) -> Result<PathBuf> {
        let place = self.root.join(name);
        if self.holds(name, version) {
            return Ok(place);
        }
        let parent = place.parent().context("a cached thing has a folder")?;
        let aside = self.root.join("build");
        for dir in [&self.root, parent, &aside] {
            fs::create_dir_all(dir).with_context(|| format!("could not make {}", dir.display()))?;
            fs::set_permissions(dir, fs::Permissions::from_mode(0o755))?;
        }
        let lock = File::create(self.root.join("lock")).context("could not make the cache's lock file")?;
        lock.lock().context("could not lock the cache")?;
        if self.holds(name, version) {
            return Ok(place);
        }
        eprintln!("  getting {name} {version}");
        let scratch = aside.join(name.replace('/', "-"));
        remove(&scratch)?;
        fs::create_dir_all(&scratch)?;
        let made = build(&scratch).with_context(|| format!("could not get {name} {version}"))?;
        make_readable(&made)?;
        // The version goes first and comes last: between the two the thing counts as missing.
        remove(&self.version_file(name))?;
        remove(&place)?;
        fs::rename(&made, &place).with_context(|| format!("could not move {name} into place"))?;
        let unfinished = scratch.join(".version");
        fs::write(&unfinished, format!("{version}\n"))?;
        fs::rename(&unfinished, self.version_file(name))?;
        remove(&scratch)?;
        Ok(place)
    }

    fn version_file(&self, name: &str) -> PathBuf {
        self.root.join(format!("{name}.version"))
    }
}

/// Whether this process runs as root.
pub fn is_root() -> Result<bool> {
    Ok(command::run("id").arg("-u").read()? == "0")
}

/// Removes a file or a folder; what is not there is removed already.
fn remove(path: &Path) -> Result<()> {
    let kind = match fs::symlink_metadata(path) {
        Ok(metadata) => metadata.file_type(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error).with_context(|| format!("could not look at {}", path.display())),
    };
    if kind.is_dir() {
        // Go writes its module cache read-only.
        command::run("chmod").arg("-R").arg("u+w").arg(path).read()?;
        fs::remove_dir_all(path)
    } else {
        fs::remove_file(path)
    }
    .with_context(|| format!("could not remove {}", path.display()))
}

/// Lets every user read it: PostgreSQL refuses to run as root.
fn make_readable(path: &Path) -> Result<()> {
    command::run("chmod").args(["-R", "a+rX"]).arg(path).read().map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scratch(name: &str) -> Cache {
        let root = std::env::temp_dir().join(format!("strongroom-cache-{name}-{}", std::process::id()));
        remove(&root).unwrap();
        Cache { root }
    }

    fn write(text: &'static str) -> impl FnOnce(&Path) -> Result<PathBuf> {
        move |dir| {
            let made = dir.join("made");
            fs::write(&made, text)?;
            Ok(made)
        }
    }

    #[test]
    fn a_thing_is_built_once_for_each_version() {
        let cache = scratch("once");
        let place = cache.ensure("bin/thing", "1", write("one")).unwrap();
        cache.ensure("bin/thing", "1", |_| bail!("built again")).unwrap();
        assert_eq!(fs::read_to_string(&place).unwrap(), "one");
        cache.ensure("bin/thing", "2", write("two")).unwrap();
        assert_eq!(fs::read_to_string(&place).unwrap(), "two");
        assert!(cache.holds("bin/thing", "2") && !cache.holds("bin/thing", "1"));
        remove(cache.root()).unwrap();
    }

    #[test]
    fn a_build_that_fails_leaves_what_was_there() {
        let cache = scratch("fails");
        cache.ensure("bin/thing", "1", write("one")).unwrap();
        let error = cache.ensure("bin/thing", "2", |_| bail!("no network")).unwrap_err();
        assert_eq!(format!("{error:#}"), "could not get bin/thing 2: no network");
        assert!(cache.holds("bin/thing", "1"));
        remove(cache.root()).unwrap();
    }

    #[test]
    fn what_is_missing_names_the_command_that_gets_it() {
        let cache = scratch("missing");
        let error = cache.path("bin/minio").unwrap_err().to_string();
        assert!(error.ends_with("run `cargo xtask test prerequisites`"), "{error}");
    }
}
