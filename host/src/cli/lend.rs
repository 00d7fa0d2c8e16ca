//! A directory that the command line names, lent to a plugin for one run as a bucket. What the
//! operator typed is the consent; the plugin must ask for such a bucket, and ceilings hold as for every
//! other grant.

use super::session::Session;
use crate::config::BucketConfig;
use crate::error::{Error, IoContext, Result};
use crate::id::Label;
use crate::plugin::manifest::PluginManifest;
use crate::policy::storage::{BucketGrant, BucketVerb};
use crate::policy::{Effect, Verb, When};
use std::path::Path;

/// The option by which a plugin is told where it restores to, and what it can do there.
pub(super) const TO: &str = "to";

/// Lends `dir` to the plugin of a job, for restores: to read, and to write where it is no plan. The
/// label is one that no bucket of the configuration has.
///
/// Errors: `Invalid` for a job that is none, and for a directory that cannot be one.
pub(super) fn lend(session: &mut Session, job: &str, dir: &Path) -> Result<Label> {
    let plugin = session.config.job(job)?.1.plugin.clone();
    let path = std::path::absolute(dir).doing(|| format!("find \"{}\"", dir.display()))?;
    let free = |n: &u32| !session.config.buckets.keys().any(|label| label.as_str() == name(*n));
    let label: Label = name((0..).find(free).unwrap_or_default()).parse()?;
    let grant = |may: &[BucketVerb], effect: Effect| BucketGrant {
        may: may.iter().copied().collect(),
        prefixes: vec![String::new()],
        inspect: effect == Effect::Reads,
        when: When { verbs: [Verb::Restore].into(), effect, scratch: false },
    };
    // Two of them: a plan withholds what changes something, and may still read.
    let grants = [
        grant(&[BucketVerb::List, BucketVerb::Read], Effect::Reads),
        grant(&[BucketVerb::Write, BucketVerb::Overwrite, BucketVerb::Delete], Effect::Changes),
    ];
    session.config.buckets.insert(label.clone(), BucketConfig::Local { path });
    if let Some(config) = session.config.plugins.get_mut(&plugin) {
        config.grants.buckets.entry(label.to_string()).or_default().extend(grants);
    }
    if let Some((_, config)) = session.config.jobs.iter_mut().find(|(label, _)| label.as_str() == job) {
        config.lend(Verb::Restore, &format!("bucket.{label}"));
    }
    Ok(label)
}

fn name(n: u32) -> String {
    if n == 0 { "command-line".to_owned() } else { format!("command-line-{n}") }
}

/// Whether a plugin knows this way of restoring: its option `to` has the word.
///
/// Errors: `Invalid` if not.
pub(super) fn check_knows(manifest: &PluginManifest, verb: &str, word: &str) -> Result<()> {
    let words = manifest.options["properties"][TO]["enum"].as_array();
    if words.into_iter().flatten().any(|known| known == word) {
        return Ok(());
    }
    Err(Error::invalid(format!("plugin \"{}\" knows no `{verb}`", manifest.name))
        .fact("expected", format!("a restore option \"{TO}\" that may be \"{word}\""))
        .hint("it is for backups of clusters; `strongroom plugin inspect` shows a plugin's options"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plugin_says_by_its_options_what_it_can_do() {
        let manifest = |options: &str| {
            let text = format!(
                "name = \"x\"\nversion = \"0.1.0\"\nsummary = \"x\"\nlicence = \"Apache-2.0\"\ncomponent = [\"0.1\"]\n{options}"
            );
            PluginManifest::parse(&text).unwrap()
        };
        let knows =
            manifest("[options]\ntype = \"object\"\n[options.properties.to]\ntype = \"string\"\nenum = [\"files\"]\n");
        check_knows(&knows, "export", "files").unwrap();
        assert!(check_knows(&knows, "diff", "compare").is_err());
        let error = check_knows(&manifest(""), "export", "files").unwrap_err();
        assert!(error.message().contains("export") && error.hint_text().is_some());
    }
}
