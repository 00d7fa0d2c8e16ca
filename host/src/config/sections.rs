//! The text of each section, so that the audit log can say what changed between two runs.

use std::collections::BTreeMap;
use std::fmt;
use toml::{Table, Value};

/// The text of each section by its name: `job.orders`, and of plugins one level deeper, such as
/// `plugin.pg.grant`. Comments and order are not part of it. `Debug` shows names only.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Sections(BTreeMap<String, String>);

impl Sections {
    /// Of a text that was read as a configuration; empty for one that is not TOML.
    pub(super) fn of(text: &str) -> Self {
        let mut sections = BTreeMap::new();
        let root: Table = toml::from_str(text).unwrap_or_default();
        for (name, value) in &root {
            match value {
                Value::Table(labelled) if labelled.values().all(Value::is_table) => {
                    for (label, value) in labelled {
                        let path = format!("{name}.{label}");
                        match value {
                            Value::Table(keys) if name == "plugin" => {
                                for (key, value) in keys {
                                    sections.insert(format!("{path}.{key}"), value.to_string());
                                }
                            }
                            value => drop(sections.insert(path, value.to_string())),
                        }
                    }
                }
                value => drop(sections.insert(name.clone(), value.to_string())),
            }
        }
        Self(sections)
    }

    /// Name and text of each.
    pub fn texts(&self) -> &BTreeMap<String, String> {
        &self.0
    }
}

impl fmt::Debug for Sections {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_shows_in_its_own_section_and_comments_in_none() {
        let text = "trusted_hosts = [\"a\"]\n[job.a]\nplugin = \"p\"\n[plugin.p]\nsource = \"p.wasm\"\n[plugin.p.grant.artifacts]\n";
        let names: Vec<_> = Sections::of(text).0.into_keys().collect();
        assert_eq!(names, ["job.a", "plugin.p.grant", "plugin.p.source", "trusted_hosts"]);
        assert_eq!(Sections::of(text), Sections::of(&format!("# why\n{text}")));
        let wider = text.replace(".artifacts]", ".exec.x]\nprogram = \"/bin/sh\"");
        let (before, after) = (Sections::of(text), Sections::of(&wider));
        let changed: Vec<_> = after.0.iter().filter(|(name, text)| before.0.get(*name) != Some(*text)).collect();
        assert_eq!(changed.len(), 1);
        assert_eq!(changed[0].0, "plugin.p.grant");
    }
}
