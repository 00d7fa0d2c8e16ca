//! `diagnose`: the way to each cluster step by step, how long certificates and tokens last, what the
//! identities that back up and restore may not do, and what in the cluster would keep a backup or a restore from working.
//! Changes nothing. The store and the host itself are the host's own checks.

mod inside;
mod quantity;
mod reach;
mod rights;
mod size;

use crate::policy::Policy;
use crate::settings::Settings;
use strongroom_plugin::prelude::*;

pub(crate) fn diagnose(request: &DiagnoseRequest<Settings>) -> Result<Vec<Check>> {
    let settings = &request.settings;
    let policy = Policy::parse(settings)?;
    let (mut checks, mut broken) = (Vec::new(), Vec::new());
    for label in &settings.clusters {
        let health = match kube::probe(label) {
            Ok(health) => health,
            Err(error) => {
                broken.push("grant".to_owned());
                checks.push(
                    Check::failed(format!("kubernetes.open.{label}"), format!("cluster {label} can be opened"))
                        .evidence(error.to_string())
                        .cause("the configuration has no such cluster, or the plugin is not granted it")
                        .remedy("strongroom plugin approve kubernetes"),
                );
                continue;
            }
        };
        checks.extend(reach::steps(label, &health));
        checks.push(reach::latency(label, &health, settings.slow_ms));
        checks.extend(reach::expiry(label, &health, settings.expiry_days, run::now()));
        match reach::broken_at(&health) {
            Some(step) => broken.push(step.to_owned()),
            None => checks.extend(inside::look(label, &policy, request.last.as_ref())),
        }
    }
    checks.extend(reach::together(settings.clusters.len(), &broken));
    checks.extend(last_backup(request.last.as_ref(), settings.max_age_hours, run::now()));
    Ok(checks)
}

/// Whether the last backup is younger than the settings ask for. Without them the host holds it against the job's
/// objective, and says whether it is complete.
fn last_backup(last: Option<&Made>, max_age_hours: Option<u64>, now: Timestamp) -> Option<Check> {
    let (id, title) = ("kubernetes.backup.age", "the last backup is recent");
    let max_age_hours = max_age_hours?;
    let Some(last) = last else {
        return Some(Check::warned(id, title).evidence("there is none").remedy("strongroom backup JOB"));
    };
    let hours = now.since(last.created).as_secs() / 3600;
    let evidence = format!("{} is {hours} h old (threshold: {max_age_hours} h)", last.backup_id);
    Some(if hours >= max_age_hours {
        Check::failed(id, title)
            .evidence(evidence)
            .cause("the schedule does not run, or its runs fail")
            .remedy("strongroom backup JOB")
    } else {
        Check::passed(id, title).evidence(evidence)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_backup_is_judged_by_the_age_that_the_settings_name() {
        let made = |hours: u64| Made {
            backup_id: "20261120T020000Z-x7k2m9qd".into(),
            created: Timestamp { ms: hours * 3_600_000 },
            plugin_version: "0.1.0".into(),
            settings_json: "{}".into(),
            source_id: None,
            facts: Vec::new(),
            skipped: Vec::new(),
            state: String::new(),
        };
        let now = Timestamp { ms: 48 * 3_600_000 };
        let outcome = |last: Option<&Made>, limit| last_backup(last, limit, now).map(|check| check.outcome);
        assert_eq!(outcome(None, Some(24)), Some(Outcome::Warned));
        assert_eq!(outcome(Some(&made(30)), Some(24)), Some(Outcome::Passed));
        assert_eq!(outcome(Some(&made(24)), Some(24)), Some(Outcome::Failed));
        assert_eq!(outcome(Some(&made(0)), None), None, "the job's objective is the host's to judge");
    }
}
