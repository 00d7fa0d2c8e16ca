//! Grants of a private scratch directory: how much it may hold, and for which verbs. Pure.
//!
//! It changes nothing outside of the run: it is empty when a verb begins and gone when it ends.

use super::slot::quoted;
use super::{Decision, Effect, Mistake, Policy, Verb, When, toml_key};
use std::collections::BTreeSet;

/// The least that can be granted, in bytes.
pub const MIN_BYTES: u64 = 64 << 10;
/// The most that can be granted, in bytes: it lies on the disk of the host.
pub const MAX_BYTES: u64 = 1 << 40;

/// A private scratch directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScratchGrant {
    /// What its files may hold together, in bytes.
    pub bytes: u64,
    /// Verbs it holds for; never empty.
    pub verbs: BTreeSet<Verb>,
}

impl ScratchGrant {
    /// When it holds: a plan and a diagnosis may use it as well.
    pub fn when(&self) -> When {
        When { verbs: self.verbs.clone(), effect: Effect::Reads, scratch: false }
    }

    /// What is wrong with it by itself.
    pub fn check(&self) -> Vec<Mistake> {
        self.when().check()
    }
}

impl Policy {
    /// The scratch directory that holds on this occasion. Without one there is no refusal: a plugin
    /// with WASI sees no directory at all.
    pub fn scratch(&self) -> Option<&ScratchGrant> {
        self.grants.scratch.as_ref().filter(|grant| grant.when().holds(self.occasion).is_ok())
    }

    pub(super) fn decide_scratch(&self) -> Decision {
        let rule = format!("plugin.{}.grant.scratch", toml_key(&self.plugin));
        match self.scratch() {
            Some(grant) => {
                let most = crate::unit::bytes(grant.bytes);
                Decision::allow(rule, format!("a private scratch directory of at most {most}"))
            }
            None => {
                if let Some(withheld) = self.withheld("scratch") {
                    return withheld;
                }
                let verb = quoted(self.occasion.verb.name());
                Decision::deny(rule, format!("no scratch directory is granted for {verb}"), "")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Call, Grants, Occasion};
    use super::*;

    #[test]
    fn it_holds_for_its_verbs_in_a_plan_as_well_and_for_no_other() {
        let grant = ScratchGrant { bytes: MIN_BYTES, verbs: [Verb::Backup, Verb::Restore].into() };
        let policy = |verb, plan_only, scratch| Policy {
            plugin: "p".to_owned(),
            grants: Grants { scratch, ..Grants::default() },
            occasion: Occasion { verb, plan_only },
            settings: serde_json::Value::Null,
        };
        for (verb, plan_only, scratch, allowed) in [
            (Verb::Backup, false, Some(&grant), true),
            (Verb::Restore, false, Some(&grant), true),
            (Verb::Restore, true, Some(&grant), true),
            (Verb::Verify, false, Some(&grant), false),
            (Verb::Diagnose, false, Some(&grant), false),
            (Verb::Backup, false, None, false),
        ] {
            let policy = policy(verb, plan_only, scratch.cloned());
            let decision = policy.decide(&Call::Scratch);
            assert_eq!(decision.allowed, allowed, "{verb:?}: {decision:?}");
            assert_eq!(decision.rule, "plugin.p.grant.scratch");
            assert_eq!(policy.scratch().is_some(), allowed, "{verb:?}");
        }
        assert!(grant.check().is_empty());
        let none = ScratchGrant { verbs: BTreeSet::new(), ..grant };
        assert_eq!(none.check()[0].key, "verbs");
    }
}
