//! Metrics as data: names that may be written, and names that may be queried.
//!
//! This module parses no query: whoever does hands on every selector with its literal name.

use super::slot::quoted;
use super::{Decision, Effect, Mistake, Occasion, Policy, Verb, When, toml_key, toml_text};
use std::collections::{BTreeMap, BTreeSet};

/// What names begin with that only the host writes: the alerts of operators rely on them.
pub const RESERVED: [&str; 2] = ["backup_", "strongroom_"];

/// Metrics that the operator granted.
#[derive(Clone, Debug)]
pub struct MetricsGrant {
    /// What names that it writes begin with; `None`: it writes none.
    pub prefix: Option<String>,
    /// Names that it may query, in full.
    pub query: BTreeSet<String>,
    /// Labels that are added to every selector of a query.
    pub labels: BTreeMap<String, String>,
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

/// Longest name of a metric or of a label, in bytes.
pub const MAX_NAME_BYTES: usize = 200;

/// A name as Prometheus has it, without colons, which are for recording rules.
pub fn is_name(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= MAX_NAME_BYTES
        && !name.starts_with(|c: char| c.is_ascii_digit())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

/// Whether only the host writes it.
fn is_reserved(name: &str) -> bool {
    RESERVED.iter().any(|prefix| name.starts_with(prefix))
}

impl MetricsGrant {
    /// When it holds for these verbs; it never changes anything.
    pub fn when(verbs: BTreeSet<Verb>) -> When {
        When { verbs, effect: Effect::Reads, scratch: false }
    }

    /// Every verb: what it holds for unless it says otherwise.
    pub fn all_verbs() -> BTreeSet<Verb> {
        [Verb::Backup, Verb::Verify, Verb::Restore, Verb::Diagnose].into()
    }

    /// What is wrong with the grant by itself.
    pub fn check(&self) -> Vec<Mistake> {
        let mut mistakes = self.when.check();
        let mut say = |key: String, message: String, hint: &str| {
            mistakes.push(Mistake { key, message, hint: hint.to_owned() });
        };
        match &self.prefix {
            Some(prefix) if !is_name(prefix) => say(
                "prefix".to_owned(),
                format!("{} begins no name of a metric", quoted(prefix)),
                "use letters, digits and _, such as \"shop_\"",
            ),
            Some(prefix) if is_reserved(prefix) => say(
                "prefix".to_owned(),
                format!("{} begins names that only the host writes", quoted(prefix)),
                "choose another prefix, such as the plugin's name",
            ),
            _ => {}
        }
        for name in self.query.iter().filter(|name| !is_name(name)) {
            say(
                "query".to_owned(),
                format!("{} is not the name of a metric", quoted(name)),
                "write names in full, without patterns",
            );
        }
        for name in self.labels.keys().filter(|name| !is_name(name) || name.starts_with("__")) {
            say(
                format!("labels.{name}"),
                format!("{} is not the name of a label", quoted(name)),
                "use letters, digits and _, not beginning with __",
            );
        }
        mistakes
    }

    /// Whether it lets the call go on.
    pub fn decide(&self, plugin: &str, call: &MetricsCall<'_>, occasion: Occasion) -> Decision {
        let rule = rule(plugin);
        if let Err(why) = self.when.holds(occasion) {
            let missing = self.when.missing(&rule, occasion);
            return Decision::deny(rule, why, missing);
        }
        let widened = |key: &str, names: &BTreeSet<&str>| {
            let names: Vec<_> = names.iter().map(|name| toml_text(name)).collect();
            format!("[{rule}]\n{key} = [{}]", names.join(", "))
        };
        match call {
            MetricsCall::Write(name) if !is_name(name) => {
                Decision::deny(rule, format!("{} is not the name of a metric", quoted(name)), "")
            }
            MetricsCall::Write(name) if is_reserved(name) => {
                Decision::deny(rule, format!("the metric {} is one that only the host writes", quoted(name)), "")
            }
            MetricsCall::Write(name) => {
                if self.prefix.as_ref().is_some_and(|prefix| name.starts_with(prefix.as_str())) {
                    return Decision::allow(rule, format!("writes the metric {}", quoted(name)));
                }
                let first = name.split_inclusive('_').next().unwrap_or(name);
                let missing = format!("[{rule}]\nprefix = {}", toml_text(first));
                Decision::deny(rule, format!("the metric {} is not one that it may write", quoted(name)), missing)
            }
            MetricsCall::Query(selectors) => {
                let refused = selectors.iter().find(|name| name.is_none_or(|name| !self.query.contains(name)));
                match refused {
                    _ if selectors.is_empty() => Decision::deny(rule, "the query selects nothing by name", ""),
                    None => Decision::allow(rule, "queries granted metrics"),
                    Some(Some(name)) => {
                        let all = self.query.iter().map(String::as_str).chain([*name]).collect();
                        let missing = if is_name(name) { widened("query", &all) } else { String::new() };
                        let reason = format!("the metric {} is not one that it may query", quoted(name));
                        Decision::deny(rule, reason, missing)
                    }
                    Some(None) => Decision::deny(rule, "a selector of the query has no literal name", ""),
                }
            }
        }
    }
}

fn rule(plugin: &str) -> String {
    format!("plugin.{}.grant.metrics", toml_key(plugin))
}

impl Policy {
    pub(super) fn decide_metrics(&self, call: &MetricsCall<'_>) -> Decision {
        match &self.grants.metrics {
            Some(grant) => grant.decide(&self.plugin, call, self.occasion),
            None => {
                if let Some(withheld) = self.withheld("metrics") {
                    return withheld;
                }
                let rule = rule(&self.plugin);
                let reason = "the plugin has no metrics".to_owned();
                Decision::deny(rule.clone(), reason, format!("[{rule}]\nprefix = \"…\" or query = [\"…\"]"))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grant() -> MetricsGrant {
        MetricsGrant {
            prefix: Some("shop_".to_owned()),
            query: ["up".to_owned(), "pg_up".to_owned()].into(),
            labels: BTreeMap::new(),
            when: MetricsGrant::when([Verb::Diagnose].into()),
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
            (MetricsCall::Write("\u{455}hop_size"), false),
            (MetricsCall::Write("SHOP_size"), false),
            (MetricsCall::Query(&[Some("up"), Some("pg_up")]), true),
            (MetricsCall::Query(&[Some("up"), Some("secrets")]), false),
            (MetricsCall::Query(&[Some("up"), None]), false),
            (MetricsCall::Query(&[]), false),
        ] {
            assert_eq!(grant().decide("shop", &call, diagnose).allowed, allowed, "{call:?}");
        }
        let backup = Occasion { verb: Verb::Backup, plan_only: false };
        assert!(!grant().decide("shop", &MetricsCall::Write("shop_size"), backup).allowed);
        let policy = Policy {
            plugin: "shop".to_owned(),
            grants: super::super::Grants::default(),
            occasion: diagnose,
            settings: serde_json::Value::Null,
        };
        assert!(!policy.decide_metrics(&MetricsCall::Write("shop_size")).allowed);
    }

    #[test]
    fn no_plugin_writes_what_alerts_rely_on_whatever_its_prefix() {
        let diagnose = Occasion { verb: Verb::Diagnose, plan_only: false };
        for prefix in ["b", "backup", "backup_", "strong"] {
            let grant = MetricsGrant { prefix: Some(prefix.to_owned()), ..grant() };
            for name in ["backup_last_success_timestamp_seconds", "strongroom_x"] {
                assert!(!grant.decide("shop", &MetricsCall::Write(name), diagnose).allowed, "{prefix} {name}");
            }
        }
        let grant = MetricsGrant { prefix: Some("backup_last_".to_owned()), ..grant() };
        assert_eq!(grant.check()[0].key, "prefix");
    }

    #[test]
    fn names_with_patterns_cannot_be_granted() {
        assert!(grant().check().is_empty());
        let wrong = MetricsGrant {
            prefix: Some(String::new()),
            query: [".*".to_owned()].into(),
            labels: [("__name__".to_owned(), "up".to_owned())].into(),
            ..grant()
        };
        let keys: Vec<_> = wrong.check().into_iter().map(|mistake| mistake.key).collect();
        assert_eq!(keys, ["prefix", "query", "labels.__name__"]);
    }
}
