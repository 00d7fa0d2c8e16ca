//! Rules for Prometheus: when somebody must look after a backup. Made from the jobs of a configuration
//! and the table of metrics; pure.
//!
//! Each rule names its job, so that a series which is not there is an alert as well. Every expression
//! takes the newest of all machines: a job that moved to another one, or to another plugin, is judged by
//! its last run. Names and thresholds are those of the operations guides that users have.

use super::builtin::{LAST_SUCCESS, RESTORED, VERIFIED};
use super::registry::JOB;
use super::series::Labels;
use serde::Serialize;
use std::time::Duration;

/// How old the last good backup may be where a job has no `objective`: a day, and two hours for a run
/// that takes longer than the one before.
pub const OBJECTIVE: Duration = Duration::from_secs(26 * 3600);
/// How long ago a backup may have been verified last: a month.
pub const VERIFY_EVERY: Duration = Duration::from_secs(31 * 24 * 3600);
/// How long ago a backup may have been restored somewhere last: a quarter.
pub const RESTORE_EVERY: Duration = Duration::from_secs(92 * 24 * 3600);
/// How long a backup may take.
pub const LONGEST_RUN: Duration = Duration::from_secs(3600);

/// How long a failure is told of.
const A_DAY: Duration = Duration::from_secs(24 * 3600);

/// Names by which on-call knows the overdue backups of a component, by the label of its plugin.
const OVERDUE: [(&str, &str); 2] = [("postgres", "PostgreSQLBackupFailure"), ("bucket", "MinIOBackupFailure")];

/// What rules are made for.
#[derive(Clone, Debug)]
pub struct Subject {
    /// Label of the job.
    pub job: String,
    /// Label of its plugin.
    pub plugin: String,
    /// Label of its store.
    pub store: String,
    /// How old its last good backup may be.
    pub objective: Option<Duration>,
    /// Whether something removes its old backups.
    pub is_pruned: bool,
}

/// A group of rules, as a file of Prometheus has it. Documented; keys are only ever added.
#[derive(Clone, Debug, Serialize)]
pub struct Group {
    /// Its name.
    pub name: String,
    /// Its rules, in order.
    pub rules: Vec<Rule>,
}

/// A rule: an alert, or a series that is kept under another name.
#[derive(Clone, Debug, Serialize)]
pub struct Rule {
    /// Name of the alert.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub alert: Option<String>,
    /// Name of the series that the rule makes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub record: Option<String>,
    /// When it fires, or what the series is, in PromQL.
    pub expr: String,
    /// How long that must hold.
    #[serde(rename = "for", skip_serializing_if = "Option::is_none")]
    pub lasting: Option<String>,
    /// Labels of the alert.
    #[serde(skip_serializing_if = "Labels::is_empty")]
    pub labels: Labels,
    /// What it says: `summary` and `description`.
    #[serde(skip_serializing_if = "Labels::is_empty")]
    pub annotations: Labels,
}

/// How soon somebody must look.
#[derive(Clone, Copy, Debug)]
enum Severity {
    Critical,
    Warning,
}

/// The rules for these jobs.
pub fn groups(subjects: &[Subject]) -> Vec<Group> {
    let mut groups: Vec<Group> = subjects.iter().map(of_job).collect();
    let mut stores: Vec<&str> = subjects.iter().map(|subject| subject.store.as_str()).collect();
    stores.sort_unstable();
    stores.dedup();
    if !stores.is_empty() {
        let rules = stores.into_iter().flat_map(of_store).collect();
        groups.push(Group { name: "strongroom-stores".to_owned(), rules });
    }
    let mut plugins: Vec<&str> = subjects.iter().map(|subject| subject.plugin.as_str()).collect();
    plugins.sort_unstable();
    plugins.dedup();
    if !plugins.is_empty() {
        let rules = plugins.into_iter().flat_map(names_of_component).collect();
        groups.push(Group { name: "strongroom-names".to_owned(), rules });
    }
    groups
}

/// A rule file as YAML.
pub fn yaml(groups: &[Group]) -> String {
    if groups.is_empty() {
        return "groups: []\n".to_owned();
    }
    let mut text = "groups:\n".to_owned();
    for group in groups {
        text.push_str(&format!("  - name: {}\n    rules:\n", quoted(&group.name)));
        for rule in &group.rules {
            let keys = [
                ("alert", rule.alert.as_ref()),
                ("record", rule.record.as_ref()),
                ("expr", Some(&rule.expr)),
                ("for", rule.lasting.as_ref()),
            ];
            let mut begin = "      - ";
            for (key, value) in keys.into_iter().filter_map(|(key, value)| Some((key, value?))) {
                text.push_str(&format!("{begin}{key}: {}\n", quoted(value)));
                begin = "        ";
            }
            for (key, map) in [("labels", &rule.labels), ("annotations", &rule.annotations)] {
                if !map.is_empty() {
                    text.push_str(&format!("        {key}:\n"));
                }
                for (name, value) in map {
                    text.push_str(&format!("          {name}: {}\n", quoted(value)));
                }
            }
        }
    }
    text
}

/// A text as YAML and JSON write it alike.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// A value of a label as PromQL writes it.
fn promql_text(value: &str) -> String {
    format!("\"{}\"", value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n"))
}

fn of_job(subject: &Subject) -> Group {
    let Subject { job, plugin, store, .. } = subject;
    let of = |metric: &str| format!("{metric}{{{JOB}={}}}", promql_text(job));
    let newest = |metric: &str| format!("max by ({JOB}) ({})", of(metric));
    let is_newest = |metric: &str, run: &str| format!("{} >= {}", newest(metric), newest(run));
    let older = |metric: &str, than: Duration| format!("time() - {} > {}", newest(metric), than.as_secs());
    let objective = subject.objective.unwrap_or(OBJECTIVE);
    let overdue = OVERDUE.iter().find(|(of, _)| of == plugin).map_or("BackupOverdue", |(_, name)| name);
    let labels: Labels =
        [("plugin", plugin), ("store", store), (JOB, job)].map(|(name, value)| (name.to_owned(), value.clone())).into();
    let alert = |name: &str, severity, lasting, expr, summary: String, description: String| {
        rule(name, severity, lasting, expr, labels.clone(), summary, description)
    };
    let diagnose = format!("Find the cause: strongroom diagnose {job}");
    let mut rules = vec![
        alert(
            overdue,
            Severity::Critical,
            Some("5m"),
            older(LAST_SUCCESS, objective),
            format!("No good backup of {job} for {}", crate::unit::duration(objective)),
            format!("The last backup of {job} that is whole is {{{{ $value | humanizeDuration }}}} old. {diagnose}"),
        ),
        alert(
            "BackupMetricsAbsent",
            Severity::Critical,
            Some("15m"),
            format!("absent({})", of(LAST_SUCCESS)),
            format!("Nothing is known of backups of {job}"),
            format!(
                "{job} never had a backup that is whole, or its metrics do not arrive. Look whether it runs, and at the textfile or the Pushgateway. {diagnose}"
            ),
        ),
        alert(
            "BackupExecutionError",
            Severity::Critical,
            None,
            is_newest("backup_last_failure_timestamp_seconds", "backup_last_run_timestamp_seconds"),
            format!("The last backup of {job} failed"),
            diagnose.clone(),
        ),
        alert(
            "BackupFailure",
            Severity::Critical,
            None,
            // Not the increase of a counter: Prometheus sees none in one that appears with a failure.
            format!("time() - {} < {}", newest("backup_last_failure_timestamp_seconds"), A_DAY.as_secs()),
            format!("A backup of {job} failed within a day"),
            format!("It may have succeeded since: strongroom list {job}. {diagnose}"),
        ),
        alert(
            "BackupIncomplete",
            Severity::Warning,
            None,
            is_newest("backup_last_incomplete_timestamp_seconds", "backup_last_run_timestamp_seconds"),
            format!("The last backup of {job} is incomplete"),
            format!("Something was skipped. See what: strongroom show {job} latest"),
        ),
        alert(
            "BackupDurationHigh",
            Severity::Warning,
            None,
            format!("{} > {}", newest("backup_duration_seconds"), LONGEST_RUN.as_secs()),
            format!("The last backup of {job} took long"),
            "It took {{ $value | humanizeDuration }}.".to_owned(),
        ),
        alert(
            "BackupVerificationFailure",
            Severity::Critical,
            None,
            is_newest(
                "backup_verification_last_failure_timestamp_seconds",
                "backup_verification_last_run_timestamp_seconds",
            ),
            format!("The last verification of {job} failed"),
            format!("A backup of {job} may be damaged. Verify it again: strongroom verify {job}, and make a new one."),
        ),
        alert(
            "BackupNotVerified",
            Severity::Warning,
            Some("1h"),
            never_or_older(&newest(VERIFIED), &newest(LAST_SUCCESS), VERIFY_EVERY),
            format!("No backup of {job} was verified for {}", crate::unit::duration(VERIFY_EVERY)),
            format!("Verify one: strongroom verify {job}"),
        ),
        alert(
            "DRTestOverdue",
            Severity::Warning,
            Some("1h"),
            never_or_older(&newest(RESTORED), &newest(LAST_SUCCESS), RESTORE_EVERY),
            format!("No backup of {job} was restored for {}", crate::unit::duration(RESTORE_EVERY)),
            format!("Restore one somewhere: strongroom verify {job} --depth restore --target TARGET"),
        ),
    ];
    if subject.is_pruned {
        rules.push(alert(
            "BackupPruneFailure",
            Severity::Warning,
            None,
            is_newest("backup_prune_last_failure_timestamp_seconds", "backup_prune_last_run_timestamp_seconds"),
            format!("Old backups of {job} could not be removed"),
            format!("The store fills up. Run it again: strongroom prune {job}"),
        ));
    }
    Group { name: format!("strongroom-{job}"), rules }
}

/// Something that was done too long ago, or never since there are backups.
fn never_or_older(done: &str, backup: &str, than: Duration) -> String {
    format!("time() - {done} > {} or {backup} unless on ({JOB}) {done}", than.as_secs())
}

fn of_store(store: &str) -> Vec<Rule> {
    let of = |metric: &str| format!("max by (store) ({metric}{{store={}}})", promql_text(store));
    let free = format!("{} / {}", of("backup_storage_free_bytes"), of("backup_storage_size_bytes"));
    let rule = |severity, percent: u32| {
        rule(
            "BackupStorageLow",
            severity,
            Some("10m"),
            format!("{free} < 0.{}", percent / 10),
            [("store".to_owned(), store.to_owned())].into(),
            format!("Less than {percent} % of the store {store} is free"),
            "{{ $value | humanizePercentage }} of it is free. Remove old backups with `strongroom prune`, or make room.".to_owned(),
        )
    };
    vec![rule(Severity::Warning, 20), rule(Severity::Critical, 10)]
}

/// Dashboards of a component have its name in the names of the metrics.
fn names_of_component(plugin: &str) -> Vec<Rule> {
    let prefix: String = plugin.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
    // A name of a metric begins with no digit.
    let prefix = if prefix.starts_with(|c: char| c.is_ascii_digit()) { format!("_{prefix}") } else { prefix };
    ["backup_success_total", "backup_failure_total", "backup_duration_seconds"]
        .into_iter()
        .map(|metric| Rule {
            alert: None,
            record: Some(format!("{prefix}_{metric}")),
            expr: format!("{metric}{{plugin={}}}", promql_text(plugin)),
            lasting: None,
            labels: Labels::new(),
            annotations: Labels::new(),
        })
        .collect()
}

fn rule(
    name: &str,
    severity: Severity,
    lasting: Option<&str>,
    expr: String,
    mut labels: Labels,
    summary: String,
    description: String,
) -> Rule {
    let severity = match severity {
        Severity::Critical => "critical",
        Severity::Warning => "warning",
    };
    labels.insert("severity".to_owned(), severity.to_owned());
    Rule {
        alert: Some(name.to_owned()),
        record: None,
        expr,
        lasting: lasting.map(str::to_owned),
        labels,
        annotations: [("summary".to_owned(), summary), ("description".to_owned(), description)].into(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::builtin;
    use super::super::promql::Query;
    use super::*;

    fn subject(job: &str, plugin: &str) -> Subject {
        let objective = Some(Duration::from_secs(7200));
        Subject { job: job.to_owned(), plugin: plugin.to_owned(), store: "main".to_owned(), objective, is_pruned: true }
    }

    #[test]
    fn every_rule_is_promql_over_metrics_of_the_table() {
        let groups = groups(&[subject("orders", "postgres"), subject("photos", "bucket"), subject("x", "9-my_redis")]);
        for rule in groups.iter().flat_map(|group| &group.rules) {
            let query = Query::parse(&rule.expr).unwrap_or_else(|error| panic!("{}: {error:?}", rule.expr));
            assert!(!query.names.is_empty());
            for name in query.names {
                assert!(name.as_deref().and_then(builtin::find).is_some(), "{name:?} in {}", rule.expr);
            }
            assert_eq!(rule.alert.is_some(), rule.labels.contains_key("severity"));
        }
        let recorded: Vec<_> =
            groups.iter().flat_map(|group| &group.rules).filter_map(|r| r.record.as_deref()).collect();
        assert!(
            recorded.contains(&"postgres_backup_success_total")
                && recorded.contains(&"_9_my_redis_backup_failure_total")
        );
    }

    /// What the operations guides that users have tell dashboards and on-call to look for.
    #[test]
    fn every_name_of_the_operations_guides_is_there() {
        let groups = groups(&["postgres", "bucket", "neo4j"].map(|plugin| subject(plugin, plugin)));
        let rules: Vec<&Rule> = groups.iter().flat_map(|group| &group.rules).collect();
        for alert in [
            "PostgreSQLBackupFailure",
            "MinIOBackupFailure",
            "BackupExecutionError",
            "BackupFailure",
            "BackupStorageLow",
            "BackupVerificationFailure",
            "BackupNotVerified",
            "DRTestOverdue",
        ] {
            assert!(rules.iter().any(|rule| rule.alert.as_deref() == Some(alert)), "{alert}");
        }
        for record in ["neo4j_backup_success_total", "neo4j_backup_failure_total", "neo4j_backup_duration_seconds"] {
            assert!(rules.iter().any(|rule| rule.record.as_deref() == Some(record)), "{record}");
        }
        assert!(builtin::find("backup_last_success_timestamp_seconds").is_some());
    }

    #[test]
    fn the_text_is_the_same_for_people_and_machines() {
        let groups = groups(&[subject("orders", "redis")]);
        let text = yaml(&groups);
        assert!(text.starts_with("groups:\n  - name: \"strongroom-orders\"\n    rules:\n      - alert: \"BackupOverdue\"\n        expr: \"time() - max by (backup_job) (backup_last_success_timestamp_seconds{backup_job=\\\"orders\\\"}) > 7200\"\n        for: \"5m\"\n        labels:\n          backup_job: \"orders\"\n          plugin: \"redis\"\n          severity: \"critical\"\n"), "{text}");
        assert_eq!(yaml(&[]), "groups: []\n");
    }
}
