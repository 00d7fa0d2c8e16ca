//! Grants cut down to what was used: the narrower TOML that `audit unused` prints.
//!
//! Pure: it changes nothing but the text that it is given.

use crate::audit::unused::Used;
use crate::error::{Error, Result};
use crate::policy::Verb;
use crate::policy::kube::KubeVerb;
use serde::Serialize;
use std::collections::BTreeMap;
use toml_edit::{Array, DocumentMut, Item, Table, TableLike};

/// A grant, or a part of one, that no run used. Documented; keys are only ever added.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct UnusedGrant {
    /// The rule, such as `plugin.postgres.grant.exec.pg_dump`.
    pub rule: String,
    /// What of it: `all of it`, or a key with the words that were not used, such as `verbs: restore`.
    pub what: String,
}

/// What is left of the grants.
#[derive(Clone, Debug, Default)]
pub struct Narrowed {
    /// What no run used, in the order of the configuration.
    pub unused: Vec<UnusedGrant>,
    /// The grants of plugins that have more than they use, as they would be without it.
    pub toml: String,
}

/// Cuts the grants of a configuration down to `used`, by rule.
///
/// Errors: `Invalid` for a text that is not TOML.
pub fn narrow(document: &str, used: &BTreeMap<String, Used>) -> Result<Narrowed> {
    let mut read: DocumentMut =
        document.parse().map_err(|error| Error::invalid("the configuration is not TOML").because(error))?;
    let mut narrowed = Narrowed::default();
    let mut left = DocumentMut::new();
    let Some(plugins) = read.get_mut("plugin").and_then(Item::as_table_like_mut) else { return Ok(narrowed) };
    for (label, plugin) in plugins.iter_mut() {
        let path = format!("plugin.{}.grant", label.get());
        let Some(item) = plugin.get_mut("grant") else { continue };
        let Some(grant) = item.as_table_like_mut() else { continue };
        let before = narrowed.unused.len();
        each(grant, "exec", &path, used, &mut narrowed.unused, narrow_exec);
        each(grant, "bucket", &path, used, &mut narrowed.unused, narrow_bucket);
        each(grant, "kube", &path, used, &mut narrowed.unused, narrow_kube);
        narrow_artifacts(grant, &path, used, &mut narrowed.unused);
        narrow_scratch(grant, &path, used, &mut narrowed.unused);
        narrow_metrics(grant, &path, used, &mut narrowed.unused);
        if narrowed.unused.len() > before {
            let mut own = Table::new();
            own.set_implicit(true);
            own.insert("grant", item.clone());
            let all = left.entry("plugin").or_insert_with(|| {
                let mut table = Table::new();
                table.set_implicit(true);
                Item::Table(table)
            });
            if let Some(all) = all.as_table_mut() {
                all.insert(label.get(), Item::Table(own));
            }
        }
    }
    left.to_string().trim_start().clone_into(&mut narrowed.toml);
    Ok(narrowed)
}

/// What of one grant is left: whether any, and what was taken from it.
type Cut = (bool, Vec<String>);

/// Every grant of a kind.
fn each(
    grant: &mut dyn TableLike,
    kind: &str,
    path: &str,
    used: &BTreeMap<String, Used>,
    unused: &mut Vec<UnusedGrant>,
    narrow: fn(&mut Item, &Used) -> Cut,
) {
    let Some(grants) = grant.get_mut(kind).and_then(Item::as_table_like_mut) else { return };
    let mut without = Vec::new();
    for (name, item) in grants.iter_mut() {
        let rule = format!("{path}.{kind}.{}", name.get());
        let (is_left, cut) = match used.get(&rule) {
            None => (false, Vec::new()),
            Some(used) => narrow(item, used),
        };
        if !is_left {
            without.push(name.get().to_owned());
            unused.push(UnusedGrant { rule, what: "all of it".to_owned() });
        } else {
            unused.extend(cut.into_iter().map(|what| UnusedGrant { rule: rule.clone(), what }));
        }
    }
    without.iter().for_each(|name| drop(grants.remove(name)));
    if grants.is_empty() {
        grant.remove(kind);
    }
}

fn narrow_exec(item: &mut Item, used: &Used) -> Cut {
    let Some(table) = item.as_table_like_mut() else { return (true, Vec::new()) };
    let mut cut = Vec::new();
    let is_left = keep_verbs(table, used, &mut cut);
    drop_inspect(table, used, &mut cut);
    (is_left, cut)
}

fn narrow_bucket(item: &mut Item, used: &Used) -> Cut {
    narrow_place(item, used, &used.bucket_verbs.iter().map(|verb| verb.name()).collect::<Vec<_>>())
}

fn narrow_kube(item: &mut Item, used: &Used) -> Cut {
    let mut words: Vec<&str> = used.kube_verbs.iter().map(|verb| verb.name()).collect();
    // A plan is a dry run of what is granted to be applied.
    if used.kube_verbs.contains(&KubeVerb::DryRun) && !used.kube_verbs.contains(&KubeVerb::Apply) {
        words.push(KubeVerb::Apply.name());
    }
    narrow_place(item, used, &words)
}

/// A grant for a bucket or a cluster, of which there may be several; `words` are what was done.
fn narrow_place(item: &mut Item, used: &Used, words: &[&str]) -> Cut {
    let mut cut = Vec::new();
    let mut one = |table: &mut dyn TableLike| {
        let has_may = keep(table, "may", words, &mut cut);
        if !has_may || !keep_verbs(table, used, &mut cut) {
            return false;
        }
        drop_inspect(table, used, &mut cut);
        true
    };
    if let Some(table) = item.as_table_like_mut() {
        let is_left = one(table);
        return (is_left, cut);
    }
    // Several grants for one place, as tables or as a list.
    let n_left = if let Some(tables) = item.as_array_of_tables_mut() {
        let left: Vec<bool> = tables.iter_mut().map(|table| one(table)).collect();
        let mut left = left.into_iter();
        tables.retain(|_| left.next().unwrap_or(true));
        tables.len()
    } else if let Some(list) = item.as_array_mut() {
        let left: Vec<bool> =
            list.iter_mut().map(|value| value.as_inline_table_mut().is_none_or(|table| one(table))).collect();
        let mut left = left.into_iter();
        list.retain(|_| left.next().unwrap_or(true));
        list.len()
    } else {
        1
    };
    (n_left > 0, cut)
}

fn narrow_artifacts(
    grant: &mut dyn TableLike,
    path: &str,
    used: &BTreeMap<String, Used>,
    unused: &mut Vec<UnusedGrant>,
) {
    let rule = format!("{path}.artifacts");
    let Some(artifacts) = grant.get_mut("artifacts") else { return };
    match used.get(&rule) {
        None => {
            grant.remove("artifacts");
            unused.push(UnusedGrant { rule, what: "all of it".to_owned() });
        }
        Some(used) => {
            let inspects = artifacts.get("inspect").and_then(Item::as_array).is_some_and(|list| !list.is_empty());
            if inspects
                && !used.inspected
                && let Some(table) = artifacts.as_table_like_mut()
            {
                table.remove("inspect");
                unused.push(UnusedGrant { rule, what: "inspect".to_owned() });
            }
        }
    }
}

/// A directory that was opened and never used counts as used: the log tells that it was there.
fn narrow_scratch(grant: &mut dyn TableLike, path: &str, used: &BTreeMap<String, Used>, unused: &mut Vec<UnusedGrant>) {
    let rule = format!("{path}.scratch");
    let Some(scratch) = grant.get_mut("scratch").and_then(Item::as_table_like_mut) else { return };
    let mut cut = Vec::new();
    if used.get(&rule).is_some_and(|used| keep_verbs(scratch, used, &mut cut)) {
        unused.extend(cut.into_iter().map(|what| UnusedGrant { rule: rule.clone(), what }));
    } else {
        grant.remove("scratch");
        unused.push(UnusedGrant { rule, what: "all of it".to_owned() });
    }
}

fn narrow_metrics(grant: &mut dyn TableLike, path: &str, used: &BTreeMap<String, Used>, unused: &mut Vec<UnusedGrant>) {
    let rule = format!("{path}.metrics");
    let Some(metrics) = grant.get_mut("metrics").and_then(Item::as_table_like_mut) else { return };
    let Some(used) = used.get(&rule) else {
        grant.remove("metrics");
        unused.push(UnusedGrant { rule, what: "all of it".to_owned() });
        return;
    };
    let mut cut = Vec::new();
    keep_verbs(metrics, used, &mut cut);
    unused.extend(cut.into_iter().map(|what| UnusedGrant { rule: rule.clone(), what }));
}

fn keep_verbs(table: &mut dyn TableLike, used: &Used, cut: &mut Vec<String>) -> bool {
    keep(table, "verbs", &used.verbs.iter().map(|verb: &Verb| verb.name()).collect::<Vec<_>>(), cut)
}

/// Keeps of a list of words those that were used; whether one is left.
fn keep(table: &mut dyn TableLike, key: &str, words: &[&str], cut: &mut Vec<String>) -> bool {
    let Some(list) = table.get_mut(key).and_then(Item::as_array_mut) else { return true };
    let is_used = |word: Option<&str>| word.is_none_or(|word| words.contains(&word));
    let gone: Vec<_> =
        list.iter().filter_map(|value| value.as_str()).filter(|word| !is_used(Some(word))).map(str::to_owned).collect();
    if gone.is_empty() {
        return true;
    }
    cut.push(format!("{key}: {}", gone.join(", ")));
    list.retain(|value| is_used(value.as_str()));
    tidy(list);
    !list.is_empty()
}

/// What was first may have stood behind a comma.
fn tidy(list: &mut Array) {
    if let Some(first) = list.get_mut(0) {
        first.decor_mut().clear();
    }
}

fn drop_inspect(table: &mut dyn TableLike, used: &Used, cut: &mut Vec<String>) {
    if table.get("inspect").and_then(Item::as_bool) == Some(true) && !used.inspected {
        table.remove("inspect");
        cut.push("inspect".to_owned());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::storage::BucketVerb;
    use std::collections::BTreeSet;

    const DOCUMENT: &str = r#"
[job.a]
plugin = "p"

[plugin.p]
source = "p.wasm"

[plugin.p.grant.artifacts]
inspect = ["list"]

[plugin.p.grant.exec.dump]
program = "/bin/dump" # the reader
verbs = ["backup"]
effect = "reads"

[plugin.p.grant.exec.ask]
program = "/bin/ask"
verbs = ["diagnose", "restore", "verify"]
effect = "reads"
inspect = true

[plugin.p.grant.exec.load]
program = "/bin/load"
verbs = ["restore"]
effect = "changes"

[[plugin.p.grant.bucket.data]]
may = ["list", "read"]
verbs = ["backup"]
effect = "reads"

[[plugin.p.grant.bucket.data]]
may = ["write", "delete"]
verbs = ["restore"]
effect = "changes"

[plugin.q.grant.exec.all]
program = "/bin/all"
verbs = ["backup"]
effect = "reads"

[plugin.q.grant.metrics]
prefix = "q_"
verbs = ["backup", "diagnose"]
"#;

    fn used(verbs: &[Verb], bucket: &[BucketVerb], inspected: bool) -> Used {
        Used {
            verbs: verbs.iter().copied().collect(),
            bucket_verbs: bucket.iter().copied().collect(),
            inspected,
            ..Used::default()
        }
    }

    #[test]
    fn what_no_run_used_is_named_and_the_rest_stays_as_it_was_written() {
        let rules = BTreeMap::from([
            ("plugin.p.grant.artifacts".to_owned(), used(&[Verb::Backup], &[], false)),
            ("plugin.p.grant.exec.dump".to_owned(), used(&[Verb::Backup], &[], false)),
            ("plugin.p.grant.exec.ask".to_owned(), used(&[Verb::Verify], &[], false)),
            ("plugin.p.grant.bucket.data".to_owned(), used(&[Verb::Backup], &[BucketVerb::Read], false)),
            ("plugin.q.grant.exec.all".to_owned(), used(&[Verb::Backup], &[], false)),
            ("plugin.q.grant.metrics".to_owned(), used(&[Verb::Backup], &[], false)),
        ]);
        let narrowed = narrow(DOCUMENT, &rules).unwrap();
        let said: Vec<_> = narrowed.unused.iter().map(|unused| format!("{}: {}", unused.rule, unused.what)).collect();
        insta::assert_snapshot!(format!("{}\n\n{}", said.join("\n"), narrowed.toml), @r#"
        plugin.p.grant.exec.ask: verbs: diagnose, restore
        plugin.p.grant.exec.ask: inspect
        plugin.p.grant.exec.load: all of it
        plugin.p.grant.bucket.data: may: list
        plugin.p.grant.bucket.data: may: write, delete
        plugin.p.grant.artifacts: inspect
        plugin.q.grant.metrics: verbs: diagnose

        [plugin.p.grant.artifacts]

        [plugin.p.grant.exec.dump]
        program = "/bin/dump" # the reader
        verbs = ["backup"]
        effect = "reads"

        [plugin.p.grant.exec.ask]
        program = "/bin/ask"
        verbs = ["verify"]
        effect = "reads"

        [[plugin.p.grant.bucket.data]]
        may = ["read"]
        verbs = ["backup"]
        effect = "reads"

        [plugin.q.grant.exec.all]
        program = "/bin/all"
        verbs = ["backup"]
        effect = "reads"

        [plugin.q.grant.metrics]
        prefix = "q_"
        verbs = ["backup"]
        "#);
    }

    #[test]
    fn of_a_cluster_what_was_done_stays_and_a_plan_stands_for_its_restore() {
        let document = "[[plugin.k.grant.kube.prod]]\nmay = [\"list\", \"get\"]\nverbs = [\"backup\"]\n\n[[plugin.k.grant.kube.prod]]\nmay = [\"apply\", \"delete\"]\nverbs = [\"restore\"]\n";
        let used = |kube: &[KubeVerb]| {
            let verbs = [Verb::Backup, Verb::Restore].into();
            let used = Used { verbs, kube_verbs: kube.iter().copied().collect(), ..Used::default() };
            BTreeMap::from([("plugin.k.grant.kube.prod".to_owned(), used)])
        };
        let cut = |kube: &[KubeVerb]| {
            let narrowed = narrow(document, &used(kube)).unwrap();
            narrowed.unused.into_iter().map(|unused| unused.what).collect::<Vec<_>>()
        };
        assert_eq!(cut(&[KubeVerb::List, KubeVerb::DryRun]), ["may: get", "may: delete"]);
        assert_eq!(cut(&[KubeVerb::List, KubeVerb::Get, KubeVerb::Apply, KubeVerb::Delete]), [""; 0]);
        assert_eq!(narrow(document, &BTreeMap::new()).unwrap().unused.len(), 1, "all of it");
    }

    #[test]
    fn a_scratch_directory_stays_for_the_verbs_that_opened_it() {
        let document = "[plugin.w.grant.scratch]\nbytes = \"8MiB\" # enough\nverbs = [\"backup\", \"restore\"]\n";
        let rule = "plugin.w.grant.scratch".to_owned();
        let cut = |verbs: &[Verb]| {
            let rules = BTreeMap::from([(rule.clone(), used(verbs, &[], false))]);
            let narrowed = narrow(document, &rules).unwrap();
            (narrowed.unused.into_iter().map(|unused| unused.what).collect::<Vec<_>>(), narrowed.toml)
        };
        let (what, toml) = cut(&[Verb::Backup]);
        assert_eq!(what, ["verbs: restore"]);
        assert_eq!(toml, "[plugin.w.grant.scratch]\nbytes = \"8MiB\" # enough\nverbs = [\"backup\"]\n");
        assert_eq!(cut(&[Verb::Backup, Verb::Restore]), (Vec::new(), String::new()));
        assert_eq!(cut(&[Verb::Verify]).0, ["all of it"], "another verb's use is none of these");
        let narrowed = narrow(document, &BTreeMap::new()).unwrap();
        assert_eq!(narrowed.unused, [UnusedGrant { rule: rule.clone(), what: "all of it".to_owned() }]);
        assert!(!narrowed.toml.contains("scratch"), "{}", narrowed.toml);
    }

    #[test]
    fn what_is_used_in_full_needs_no_other_text() {
        let verbs: BTreeSet<Verb> = [Verb::Backup, Verb::Verify, Verb::Restore, Verb::Diagnose].into();
        let bucket = [BucketVerb::List, BucketVerb::Read, BucketVerb::Write, BucketVerb::Delete].into();
        let all = Used { verbs, bucket_verbs: bucket, inspected: true, ..Used::default() };
        let names = [
            "p.grant.artifacts",
            "p.grant.exec.dump",
            "p.grant.exec.ask",
            "p.grant.exec.load",
            "p.grant.bucket.data",
            "q.grant.exec.all",
            "q.grant.metrics",
        ];
        let rules = names.into_iter().map(|name| (format!("plugin.{name}"), all.clone())).collect();
        let narrowed = narrow(DOCUMENT, &rules).unwrap();
        assert_eq!((narrowed.unused, narrowed.toml.as_str()), (Vec::new(), ""));
    }

    #[test]
    fn what_is_left_is_a_configuration_that_the_host_accepts() {
        let narrowed = narrow(DOCUMENT, &BTreeMap::new()).unwrap();
        assert_eq!(narrowed.unused.len(), 7);
        assert!(narrowed.toml.parse::<DocumentMut>().is_ok(), "{}", narrowed.toml);
    }
}
