//! Verbs that are planned and not built: they are not in the help, and who types one is told what
//! to use now.

use crate::error::Error;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use std::ffi::OsString;

/// Verb, and what to use now.
const UNBUILT: &[(&str, &str)] = &[
    ("status", "use `strongroom list` and `strongroom diagnose JOB`"),
    ("copy", "use a second job with the other store, or the bucket's own replication"),
    ("serve", "call `strongroom backup JOB` from a systemd timer or a CronJob; the README has both"),
    ("man", "use `strongroom help VERB`"),
    ("plugin new", "copy one of the folders in plugins/; the README says how a plugin looks"),
    ("plugin test", "use `cargo test` in the plugin's folder, and `strongroom backup JOB --dry-run`"),
    ("plugin push", "publish the .wasm file as any other file"),
    ("plugin pull", "download the .wasm file and name its path in [plugin.…] source"),
];

/// The error for a verb that is planned, if it is one that clap did not know.
pub(super) fn answer(error: &clap::Error, arguments: &[OsString]) -> Option<Error> {
    if error.kind() != ErrorKind::InvalidSubcommand {
        return None;
    }
    let Some(ContextValue::String(typed)) = error.get(ContextKind::InvalidSubcommand) else { return None };
    let at = arguments.iter().position(|argument| argument.as_os_str() == typed.as_str())?;
    let after_plugin = at > 0 && arguments[at - 1] == "plugin";
    let verb = if after_plugin { format!("plugin {typed}") } else { typed.clone() };
    let (verb, instead) = UNBUILT.iter().find(|(name, _)| *name == verb)?;
    Some(Error::invalid(format!("`strongroom {verb}` is not built yet")).hint(*instead))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn check_answer(line: &str) -> Option<Error> {
        let arguments: Vec<OsString> = line.split(' ').map(OsString::from).collect();
        let error = super::super::Cli::command().try_get_matches_from(&arguments).unwrap_err();
        answer(&error, &arguments)
    }

    #[test]
    fn every_planned_verb_is_answered_with_what_to_use_now() {
        for (verb, _) in UNBUILT {
            for line in [format!("strongroom {verb}"), format!("strongroom --quiet {verb} x --flag")] {
                let error = check_answer(&line).unwrap_or_else(|| panic!("{line} is not answered"));
                assert!(error.message().contains(verb) && error.hint_text().is_some(), "{error:?}");
            }
        }
    }

    #[test]
    fn other_words_are_left_to_the_parser() {
        assert!(check_answer("strongroom bakcup").is_none());
        assert!(check_answer("strongroom new").is_none());
        assert!(check_answer("strongroom plugin serve").is_none());
    }

    #[test]
    fn no_planned_verb_is_in_the_help() {
        let mut command = super::super::Cli::command();
        command.build();
        for (verb, _) in UNBUILT {
            let found = verb.split(' ').try_fold(&command, |at, word| at.find_subcommand(word));
            assert!(found.is_none(), "{verb} is built: take it off the list");
        }
    }
}
