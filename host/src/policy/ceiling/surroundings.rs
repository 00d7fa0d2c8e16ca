//! What comes with commands without being a grant: the variables of a job or a target, the client of a
//! container, a program of a kubeconfig. Each is code that runs as the user of the host, so a ceiling that
//! names programs names these as well.

use super::{Allowed, Arguments, Ceiling, ExecRule, Over, Place};
use crate::policy::exec::forbidden_name;
use crate::policy::slot::quoted;

/// What the host puts behind a client's own arguments first.
const CLIENT_VERB: &str = "exec";

type Result = std::result::Result<(), Over>;

impl Ceiling {
    /// Whether a job or a target may set a variable for these programs: one that no grant may set only where
    /// a rule for each of them names it in `dangerous_env`.
    pub fn variable(&self, name: &str, programs: &[&str]) -> Result {
        let Some(why) = forbidden_name(name) else { return Ok(()) };
        let not_named = programs.iter().find(|program| !self.allows_dangerous(name, program));
        if !programs.is_empty() && not_named.is_none() {
            return Ok(());
        }
        let whose = not_named.map_or_else(String::new, |program| format!(" for the program {}", quoted(program)));
        let reason = format!("no rule of the ceiling names {name} in \"dangerous_env\"{whose}: {why}");
        let place = not_named.and_then(|program| self.rule_for(program)).map(|rule| rule.place.clone());
        Err(self.beyond("env", reason, place))
    }

    /// Whether the client of a container may run: one of the places where it is looked for is that of a
    /// program that may be granted with these arguments, and with the verb that the host puts behind them.
    /// What follows that depends on the command, and is the container's.
    pub fn client(&self, places: &[String], arguments: &[String]) -> Result {
        let rules = match &self.exec {
            Allowed::Any => return Ok(()),
            Allowed::Nothing => &[][..],
            Allowed::Rules(rules) => rules,
        };
        let known: Vec<String> = arguments.iter().cloned().chain([CLIENT_VERB.to_owned()]).collect();
        // A path that climbs matches no pattern by itself.
        let direct = |place: &&String| !place.split('/').any(|part| part == "..");
        let mut nearest = None;
        for place in places.iter().filter(direct) {
            for rule in rules.iter().filter(|rule| rule.program.admits(place)) {
                match rule.covers_arguments(&Arguments::Filled(&known)) {
                    Ok(()) => return Ok(()),
                    Err((_, _, reason)) => nearest = nearest.or(Some((reason, rule.place.clone()))),
                }
            }
        }
        let shown = places.iter().map(|place| quoted(place)).collect::<Vec<_>>().join(", ");
        let none = || (format!("the ceiling has no rule for the program {shown}"), None);
        let (reason, place) = nearest.map_or_else(none, |(reason, place)| (reason, Some(place)));
        Err(self.beyond("client", reason, place))
    }

    /// Whether the kubeconfig of the cluster at this address may run a program to get credentials. While the
    /// address is not known, whether that of any cluster may.
    pub fn credentials_program(&self, server: Option<&str>) -> Result {
        let rules = match &self.kube {
            Allowed::Any => return Ok(()),
            Allowed::Nothing => &[][..],
            Allowed::Rules(rules) => rules,
        };
        let mut near = rules.iter().filter(|rule| server.is_none_or(|server| rule.server.admits(server)));
        if near.clone().any(|rule| rule.exec_credentials) {
            return Ok(());
        }
        let whose = server.map_or_else(String::new, |server| format!(" of the cluster at {}", quoted(server)));
        let reason = format!("the ceiling lets no kubeconfig{whose} run a program: no rule has \"exec_credentials\"");
        Err(self.beyond("exec_credentials", reason, near.next().map(|rule| rule.place.clone())))
    }

    /// The first rule for a program.
    fn rule_for(&self, program: &str) -> Option<&ExecRule> {
        match &self.exec {
            Allowed::Rules(rules) => rules.iter().find(|rule| rule.program.admits(program)),
            Allowed::Nothing | Allowed::Any => None,
        }
    }

    fn beyond(&self, key: &'static str, reason: String, rule: Option<Place>) -> Over {
        Over { key, reason, file: self.file.clone(), rule }
    }
}
