//! What a restore tells: one step for each object that needs a person's eye, one for each kind for
//! everything else, so that two hundred thousand objects are not as many lines.

use std::collections::BTreeMap;
use strongroom_plugin::{Outcome, Step};

/// Objects that are named one by one; the host keeps 20,000 steps.
const MAX_NAMED: usize = 12_000;

/// What became of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Deed {
    Created,
    Changed,
    Unchanged,
    /// It is there, and as recorded as far as it can be compared.
    Alike,
    /// It exists and stays as it is.
    Left,
    /// It is never restored, or not unless asked for.
    NotMeant,
    /// The cluster did not take it.
    Refused,
}

/// Counts deeds, and reports steps.
#[derive(Debug)]
pub(crate) struct Told {
    plan_only: bool,
    /// Steps are reported as they happen; else only the findings are kept.
    reports: bool,
    cluster: String,
    counts: BTreeMap<(String, Deed), u64>,
    total: u64,
    named: usize,
    unnamed: u64,
    findings: Vec<String>,
}

impl Told {
    /// Tells the host of each step.
    pub(crate) fn reporting(plan_only: bool) -> Self {
        Self { reports: true, ..Self::silent(plan_only) }
    }

    /// Keeps to itself what was refused.
    pub(crate) fn silent(plan_only: bool) -> Self {
        Self {
            plan_only,
            reports: false,
            cluster: String::new(),
            counts: BTreeMap::new(),
            total: 0,
            named: 0,
            unnamed: 0,
            findings: Vec::new(),
        }
    }

    /// What follows is about this cluster.
    pub(crate) fn cluster(&mut self, label: &str) {
        label.clone_into(&mut self.cluster);
    }

    /// Counts an object of a kind.
    pub(crate) fn count(&mut self, kind: &str, deed: Deed) {
        self.total += 1;
        *self.counts.entry((kind.to_owned(), deed)).or_default() += 1;
    }

    /// Names an object, up to the bound.
    pub(crate) fn name(&mut self, outcome: Outcome, action: &str, object: &str, note: String) {
        if outcome == Outcome::Failed {
            self.findings.push(format!("{action} {object}: {note}"));
            self.findings.truncate(MAX_NAMED);
        }
        if !self.reports {
            return;
        }
        if self.named < MAX_NAMED {
            self.named += 1;
            Step::new(outcome, action, format!("{}: {object}", self.cluster)).note(note).report();
        } else {
            self.unnamed += 1;
        }
    }

    /// Reports what became of the objects of this cluster, by kind, and forgets it.
    pub(crate) fn sum_up(&mut self) {
        for ((kind, deed), n) in std::mem::take(&mut self.counts) {
            if !self.reports {
                continue;
            }
            let target = format!("{}: {kind}", self.cluster);
            let objects = if n == 1 { "1 object".to_owned() } else { format!("{n} objects") };
            let step = match deed {
                Deed::Created => Step::passed("create", target).note(objects),
                Deed::Changed => Step::passed("change", target).note(objects),
                Deed::Unchanged => Step::skipped("leave as it is", target).note(format!("{objects} as recorded")),
                Deed::Alike => Step::skipped("leave as it is", target)
                    .note(format!("{objects} as recorded, but for values that cannot be compared and may differ")),
                Deed::Left if self.plan_only => {
                    Step::skipped("leave alone", target).note(format!("{objects} there, and not as recorded"))
                }
                Deed::Left => Step::skipped("leave alone", target)
                    .note(format!("{objects} {} already", if n == 1 { "exists" } else { "exist" })),
                Deed::NotMeant => Step::skipped("leave out", target).note(format!("{objects} not restored")),
                Deed::Refused => Step::failed("restore", target).note(format!("{objects} refused, named above")),
            };
            step.report();
        }
        if self.unnamed > 0 && self.reports {
            let more = std::mem::take(&mut self.unnamed);
            Step::warned("name", format!("{}: {more} more objects", self.cluster))
                .note("only the first are named one by one")
                .report();
        }
    }

    /// Whether no object was chosen at all.
    pub(crate) fn nothing_was_meant(&self) -> bool {
        self.total == 0
    }

    /// How many objects of any kind have this fate, before [`Self::sum_up`].
    pub(crate) fn n(&self, deed: Deed) -> u64 {
        self.counts.iter().filter(|((_, counted), _)| *counted == deed).map(|(_, n)| n).sum()
    }

    /// What was refused, and why.
    pub(crate) fn findings(&self) -> &[String] {
        &self.findings
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_are_counted_by_kind_and_refusals_are_kept() {
        let mut told = Told::silent(true);
        assert!(told.nothing_was_meant());
        told.cluster("prod");
        told.count("/ConfigMap", Deed::Created);
        told.count("/Secret", Deed::Created);
        told.count("/Secret", Deed::Refused);
        told.name(Outcome::Failed, "create", "/Secret a/b", "no".to_owned());
        told.name(Outcome::Skipped, "leave", "/Secret a/c", "yes".to_owned());
        assert_eq!((told.n(Deed::Created), told.n(Deed::Refused), told.n(Deed::Left)), (2, 1, 0));
        assert_eq!(told.findings(), ["create /Secret a/b: no"]);
        told.sum_up();
        assert!(told.n(Deed::Created) == 0 && !told.nothing_was_meant());
    }
}
