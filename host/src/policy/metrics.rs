//! Metrics as data: names that may be written, and names that may be queried. The interface that
//! asks comes later; what may be granted, and what a ceiling compares, is laid down here.
//!
//! This module parses no query: whoever does hands on every selector with its literal name.

use super::slot::quoted;
use super::{Decision, Mistake, Occasion, When, toml_key};
use std::collections::BTreeSet;

/// Metrics that the operator granted.
#[derive(Clone, Debug)]
pub struct MetricsGrant {
    /// What names that it writes begin with; `None`: it writes none.
    pub prefix: Option<String>,
    /// Names that it may query, in full.
    pub query: BTreeSet<String>,
    /// When it holds. It changes nothing that is backed up.
    pub when: When,
}

/// What a guest asks.
#[derive(Clone, Debug)]
pub enum MetricsCall<'a> {
    /// Write a value under this name.
    Write(&'a str),
    /// Query; the name of each selector, `None` for one without a literal name.
    Query(&'a [Option<&'a str>]),
}

/// A name as Prometheus has it, without colons, which are for recording rules.
fn is_name(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= 200
        && !name.starts_with(|c: char| c.is_ascii_digit())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

impl MetricsGrant {
    /// What is wrong with the grant by itself.
    pub fn check(&self) -> Vec<Mistake> {
        let mut mistakes = self.when.check();
        if let Some(prefix) = self.prefix.as_ref().filter(|prefix| !is_name(prefix)) {
            mistakes.push(Mistake {
                key: "prefix".to_owned(),
                message: format!("{} begins no name of a metric", quoted(prefix)),
                hint: "use letters, digits and _, such as \"shop_\"".to_owned(),
            });
        }
        for name in self.query.iter().filter(|name| !is_name(name)) {
            mistakes.push(Mistake {
                key: "query".to_owned(),
                message: format!("{} is not the name of a metric", quoted(name)),
                hint: "write names in full, without patterns".to_owned(),
            });
        }
        mistakes
    }

    /// Whether it lets the call go on.
    pub fn decide(&self, plugin: &str, call: &MetricsCall<'_>, occasion: Occasion) -> Decision {
        let rule = format!("plugin.{}.grant.metrics", toml_key(plugin));
        if let Err(why) = self.when.holds(occasion) {
            return Decision::deny(rule, why, "");
        }
        match call {
            MetricsCall::Write(name) => {
                let granted = self.prefix.as_ref().is_some_and(|prefix| name.starts_with(prefix.as_str()));
                if granted && is_name(name) {
                    return Decision::allow(rule, format!("writes the metric {}", quoted(name)));
                }
                Decision::deny(rule, format!("the metric {} is not one that it may write", quoted(name)), "")
            }
            MetricsCall::Query(selectors) => {
                let refused = selectors.iter().find(|name| name.is_none_or(|name| !self.query.contains(name)));
                match refused {
                    _ if selectors.is_empty() => Decision::deny(rule, "the query selects nothing by name", ""),
                    None => Decision::allow(rule, "queries granted metrics"),
                    Some(Some(name)) => {
                        Decision::deny(rule, format!("the metric {} is not one that it may query", quoted(name)), "")
                    }
                    Some(None) => Decision::deny(rule, "a selector of the query has no literal name", ""),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Effect, Verb};
    use super::*;

    fn grant() -> MetricsGrant {
        MetricsGrant {
            prefix: Some("shop_".to_owned()),
            query: ["up".to_owned(), "pg_up".to_owned()].into(),
            when: When { verbs: [Verb::Diagnose].into(), effect: Effect::Reads, scratch: false },
        }
    }

    #[test]
    fn only_granted_names_are_written_or_queried() {
        let diagnose = Occasion { verb: Verb::Diagnose, plan_only: false };
        for (call, allowed) in [
            (MetricsCall::Write("shop_size"), true),
            (MetricsCall::Write("shop"), false),
            (MetricsCall::Write("shop_a\nb"), false),
            (MetricsCall::Write("shop_\u{430}"), false),
            (MetricsCall::Query(&[Some("up"), Some("pg_up")]), true),
            (MetricsCall::Query(&[Some("up"), Some("secrets")]), false),
            (MetricsCall::Query(&[Some("up"), None]), false),
            (MetricsCall::Query(&[]), false),
        ] {
            assert_eq!(grant().decide("shop", &call, diagnose).allowed, allowed, "{call:?}");
        }
        let backup = Occasion { verb: Verb::Backup, plan_only: false };
        assert!(!grant().decide("shop", &MetricsCall::Write("shop_size"), backup).allowed);
    }

    #[test]
    fn names_with_patterns_cannot_be_granted() {
        assert!(grant().check().is_empty());
        let wrong = MetricsGrant { prefix: Some(String::new()), query: [".*".to_owned()].into(), ..grant() };
        assert_eq!(wrong.check().iter().map(|mistake| mistake.key.as_str()).collect::<Vec<_>>(), ["prefix", "query"]);
    }
}
