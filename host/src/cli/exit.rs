//! Exit codes: what a script may rely on.

use crate::error::{Error, Kind};
use crate::plugin::context::{Check, CheckOutcome, Step};
use crate::record::Outcome;
use std::fmt;

/// How the process ends. The numbers are documented and never change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// 0: everything that was asked for was done.
    Done,
    /// 1: it failed; nothing was recorded or changed.
    Failed,
    /// 2: the command line or the configuration is wrong.
    Usage,
    /// 3: it was done, and something was skipped.
    Incomplete,
    /// 4: a policy, a server or the operating system refused it.
    Denied,
    /// 5: a check of `verify` or `diagnose` failed.
    CheckFailed,
    /// 6: a restore stopped after it had changed the target.
    Changed,
    /// 130: the operator stopped it.
    Cancelled,
}

impl Exit {
    /// The number.
    pub fn code(self) -> u8 {
        match self {
            Exit::Done => 0,
            Exit::Failed => 1,
            Exit::Usage => 2,
            Exit::Incomplete => 3,
            Exit::Denied => 4,
            Exit::CheckFailed => 5,
            Exit::Changed => 6,
            Exit::Cancelled => 130,
        }
    }

    /// Of a verb that ended with an error. The outermost error decides, unless a restore had
    /// changed something: that decides whatever came after it.
    pub fn of_error(error: &anyhow::Error) -> Self {
        if error.chain().any(<dyn std::error::Error>::is::<AfterChange>) {
            return Exit::Changed;
        }
        match error.chain().find_map(|cause| cause.downcast_ref::<Error>()).map(Error::kind) {
            Some(Kind::Invalid) => Exit::Usage,
            Some(Kind::Denied) => Exit::Denied,
            Some(Kind::Cancelled) => Exit::Cancelled,
            _ => Exit::Failed,
        }
    }

    /// Of a backup that was recorded.
    pub fn of_outcome(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Complete => Exit::Done,
            Outcome::Incomplete => Exit::Incomplete,
        }
    }

    /// Of a verification or a diagnosis: a check that failed decides; warnings do not.
    pub fn of_checks(checks: &[Check]) -> Self {
        if checks.iter().any(|check| check.outcome == CheckOutcome::Failed) { Exit::CheckFailed } else { Exit::Done }
    }
}

impl From<Exit> for std::process::ExitCode {
    fn from(exit: Exit) -> Self {
        exit.code().into()
    }
}

/// Marks the error of a restore that had already changed its target: exit code 6.
#[derive(Debug)]
pub struct AfterChange {
    /// Why it stopped.
    pub error: Error,
    /// What it had done, in its order.
    pub steps: Vec<Step>,
}

impl fmt::Display for AfterChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the restore stopped after it had changed the target")
    }
}

impl std::error::Error for AfterChange {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_error_has_its_code() {
        use Kind::{Cancelled, Conflict, Damaged, Denied, Failed, Invalid, Limit, NotFound, TimedOut, Unavailable};
        let codes = [NotFound, Conflict, Unavailable, TimedOut, Limit, Damaged, Failed, Invalid, Denied, Cancelled]
            .map(|kind| Exit::of_error(&Error::new(kind, "x").into()).code());
        assert_eq!(codes, [1, 1, 1, 1, 1, 1, 1, 2, 4, 130]);
    }

    #[test]
    fn the_outermost_error_decides_through_context() {
        let inner = Error::denied("refused").while_doing("could not list");
        assert_eq!(Exit::of_error(&anyhow::Error::from(inner).context("at night")), Exit::Denied);
        let reworded = Error::failed("could not list").because(Error::denied("refused"));
        assert_eq!(Exit::of_error(&reworded.into()), Exit::Failed);
        assert_eq!(Exit::of_error(&anyhow::anyhow!("something else")), Exit::Failed);
    }

    #[test]
    fn a_restore_that_had_changed_something_says_so_whatever_stopped_it() {
        for kind in [Kind::Cancelled, Kind::Denied, Kind::Failed] {
            assert_eq!(
                Exit::of_error(&AfterChange { error: Error::new(kind, "stopped"), steps: Vec::new() }.into()).code(),
                6
            );
        }
    }

    #[test]
    fn checks_fail_and_do_not_merely_warn() {
        let check = |outcome| Check {
            id: "a".to_owned(),
            title: String::new(),
            outcome,
            evidence: String::new(),
            causes: Vec::new(),
            remedies: Vec::new(),
        };
        use CheckOutcome::{Failed, Passed, Skipped, Warned};
        assert_eq!(Exit::of_checks(&[check(Passed), check(Warned), check(Skipped)]), Exit::Done);
        assert_eq!(Exit::of_checks(&[check(Passed), check(Failed)]), Exit::CheckFailed);
    }
}
