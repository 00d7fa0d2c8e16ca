//! Which keys are meant, and where each of them goes.

use crate::glob::Glob;
use std::cell::RefCell;
use std::collections::HashSet;
use strongroom_plugin::{Error, Result};

/// Keys that are included and not excluded. A glob that matches a directory means all beneath it.
#[derive(Debug)]
pub(crate) struct Selection {
    include: Vec<Glob>,
    exclude: Vec<Glob>,
    /// Exclusions that matched something.
    used: RefCell<HashSet<usize>>,
}

impl Selection {
    /// Parses both lists; an empty `include` means everything.
    pub(crate) fn parse(include: &[String], exclude: &[String]) -> Result<Self> {
        let parse = |globs: &[String]| globs.iter().map(|glob| Glob::parse(glob)).collect::<Result<Vec<_>>>();
        Ok(Self { include: parse(include)?, exclude: parse(exclude)?, used: RefCell::default() })
    }

    /// Whether the key is meant.
    pub(crate) fn holds(&self, key: &str) -> bool {
        let excluded = self.exclude.iter().position(|glob| covers(glob, key));
        if let Some(at) = excluded {
            self.used.borrow_mut().insert(at);
            return false;
        }
        self.include.is_empty() || self.include.iter().any(|glob| covers(glob, key))
    }

    /// Whether everything is meant.
    pub(crate) fn is_everything(&self) -> bool {
        self.include.is_empty() && self.exclude.is_empty()
    }

    /// Exclusions that matched nothing so far, as they were written.
    pub(crate) fn unused_exclusions(&self) -> Vec<&str> {
        let used = self.used.borrow();
        self.exclude.iter().enumerate().filter(|(at, _)| !used.contains(at)).map(|(_, glob)| glob.text()).collect()
    }
}

/// Whether a glob matches the key or a directory above it.
fn covers(glob: &Glob, key: &str) -> bool {
    glob.matches(key) || above(key).any(|dir| glob.matches(dir))
}

/// The directories above a key, from the top down.
pub(crate) fn above(key: &str) -> impl Iterator<Item = &str> {
    key.match_indices('/').map(|(at, _)| &key[..at]).filter(|dir| !dir.is_empty())
}

/// Where keys of a backup go: the text at their beginning is replaced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mapping {
    from: String,
    to: String,
}

impl Mapping {
    /// `to` takes the place of `from`; without `to`, keys stay as they are.
    pub(crate) fn new(from: &str, to: Option<&str>) -> Result<Self> {
        let to = to.unwrap_or(from);
        if to != from && !to.is_empty() && !to.ends_with('/') {
            return Err(Error::invalid(format!("to_prefix {to:?} does not end with a slash")));
        }
        Ok(Self { from: from.to_owned(), to: to.to_owned() })
    }

    /// Where a key goes. Errors: `Failed` for a key that the backup cannot hold.
    pub(crate) fn key(&self, key: &str) -> Result<String> {
        key.strip_prefix(&self.from)
            .map(|rest| format!("{}{rest}", self.to))
            .ok_or_else(|| Error::failed(format!("{key:?} is in the backup of prefix {:?}", self.from)))
    }

    /// The text that every restored key begins with.
    pub(crate) fn to(&self) -> &str {
        &self.to
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn selection(include: &[&str], exclude: &[&str]) -> Selection {
        let owned = |globs: &[&str]| globs.iter().map(|glob| (*glob).to_owned()).collect::<Vec<_>>();
        Selection::parse(&owned(include), &owned(exclude)).unwrap()
    }

    #[test]
    fn a_directory_means_all_beneath_it_and_exclusions_win() {
        let chosen = selection(&["docs", "**/*.md"], &["docs/private", "nothing"]);
        for key in ["docs", "docs/a", "docs/b/c", "x/y.md"] {
            assert!(chosen.holds(key), "{key}");
        }
        for key in ["docs/private", "docs/private/a.md", "doc", "docs2/a"] {
            assert!(!chosen.holds(key), "{key}");
        }
        assert_eq!(chosen.unused_exclusions(), ["nothing"]);
        assert!(selection(&[], &[]).holds("anything") && selection(&[], &[]).is_everything());
    }

    #[test]
    fn keys_move_from_one_prefix_to_another() {
        let moved = |from, to, key| Mapping::new(from, to).unwrap().key(key);
        assert_eq!(moved("", Some("r/"), "a/b").unwrap(), "r/a/b");
        assert_eq!(moved("a/", Some("r/"), "a/b").unwrap(), "r/b");
        assert_eq!(moved("a/", Some(""), "a/b").unwrap(), "b");
        assert_eq!(moved("a", None, "ab").unwrap(), "ab");
        assert!(moved("a/", Some("r/"), "b").is_err());
        assert!(Mapping::new("", Some("r")).is_err());
        assert_eq!(above("a/b/c").collect::<Vec<_>>(), ["a", "a/b"]);
    }
}
