//! Where things lie on this machine, by the platform's convention: configuration, state, cache.
//! This module finds places; it creates nothing.

use crate::error::{Error, Result};
use etcetera::base_strategy::{BaseStrategy, choose_base_strategy};
use std::path::{Path, PathBuf};

/// Name of the configuration file.
pub const FILE_NAME: &str = "strongroom.toml";
/// The configuration of the whole machine, looked for last.
pub const MACHINE_WIDE: &str = "/etc/strongroom/strongroom.toml";
const DIRECTORY: &str = "strongroom";

/// Directories of this user by the platform's convention, or by flag and environment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Directories {
    /// Holds the configuration unless another file is named.
    pub config: PathBuf,
    /// What must survive: the host's key, locks.
    pub state: PathBuf,
    /// What can be made again: compiled plugins.
    pub cache: PathBuf,
}

impl Directories {
    /// `state` and `cache` are the values of `--state-dir` and `--cache-dir`, which include those
    /// of `STRONGROOM_STATE_DIR` and `STRONGROOM_CACHE_DIR`; they win.
    ///
    /// Errors: `NotFound` when this user has no home and both are not given.
    pub fn find(state: Option<&Path>, cache: Option<&Path>) -> Result<Self> {
        let convention = choose_base_strategy().map(|base| Self {
            config: base.config_dir().join(DIRECTORY),
            state: base.state_dir().unwrap_or_else(|| base.data_dir()).join(DIRECTORY),
            cache: base.cache_dir().join(DIRECTORY),
        });
        Self::with(convention.map_err(|error| error.to_string()), state, cache)
    }

    fn with(convention: Result<Self, String>, state: Option<&Path>, cache: Option<&Path>) -> Result<Self> {
        let found = match (convention, state, cache) {
            (Ok(found), ..) => found,
            (Err(_), Some(state), Some(cache)) => {
                Self { config: PathBuf::from("/etc/strongroom"), state: state.to_owned(), cache: cache.to_owned() }
            }
            (Err(error), ..) => {
                return Err(Error::not_found("this user has no home directory")
                    .hint("set HOME, or give --state-dir and --cache-dir")
                    .because(error));
            }
        };
        Ok(Self {
            config: found.config,
            state: state.map_or(found.state, Path::to_owned),
            cache: cache.map_or(found.cache, Path::to_owned),
        })
    }

    /// The configuration file: the one that is named (`--config`, `STRONGROOM_CONFIG`), else the
    /// first that exists of `./strongroom.toml`, this user's and [`MACHINE_WIDE`].
    ///
    /// Errors: `NotFound`, with everything that was looked at. A named file is not looked for.
    pub fn config_file(&self, named: Option<&Path>) -> Result<PathBuf> {
        if let Some(named) = named {
            return Ok(named.to_owned());
        }
        self.first_of(&[PathBuf::from(FILE_NAME), self.config.join(FILE_NAME), PathBuf::from(MACHINE_WIDE)])
    }

    fn first_of(&self, candidates: &[PathBuf]) -> Result<PathBuf> {
        // A dangling link or an unreadable file is somebody's intention: reading it says what is wrong.
        if let Some(found) = candidates.iter().find(|path| path.symlink_metadata().is_ok()) {
            return Ok(found.clone());
        }
        let looked = candidates.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ");
        Err(Error::new(crate::error::Kind::Invalid, "there is no configuration")
            .fact("looked for", looked)
            .hint("write strongroom.toml (README, sixty seconds to a first backup), or name it with --config"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn by_convention() -> Directories {
        Directories { config: "/home/a/.config/x".into(), state: "/home/a/state".into(), cache: "/home/a/cache".into() }
    }

    #[test]
    fn flags_win_over_the_convention_each_by_itself() {
        let found = Directories::with(Ok(by_convention()), Some(Path::new("/var/lib/s")), None).unwrap();
        assert_eq!(found, Directories { state: "/var/lib/s".into(), ..by_convention() });
    }

    #[test]
    fn without_a_home_both_directories_must_be_given() {
        let without = || Err("no home".to_owned());
        assert!(Directories::with(without(), Some(Path::new("/s")), None).is_err());
        let found = Directories::with(without(), Some(Path::new("/s")), Some(Path::new("/c"))).unwrap();
        assert_eq!(found.cache, Path::new("/c"));
    }

    #[test]
    fn the_first_file_that_exists_is_taken_and_a_missing_one_lists_them_all() {
        let scratch = tempfile::tempdir().unwrap();
        let [near, far] = ["near.toml", "far.toml"].map(|name| scratch.path().join(name));
        let candidates = [near.clone(), far.clone()];
        let error = by_convention().first_of(&candidates).unwrap_err();
        assert!(error.facts()[0].1.contains("near.toml") && error.facts()[0].1.contains("far.toml"), "{error:?}");
        std::fs::write(&far, "").unwrap();
        assert_eq!(by_convention().first_of(&candidates).unwrap(), far);
        std::fs::write(&near, "").unwrap();
        assert_eq!(by_convention().first_of(&candidates).unwrap(), near);
    }

    #[test]
    fn a_named_file_is_taken_as_it_is() {
        let named = Path::new("/nowhere/at/all.toml");
        assert_eq!(by_convention().config_file(Some(named)).unwrap(), named);
    }
}
