//! `diagnose`: the way to each cluster step by step, how long certificates and tokens last, what the
//! identities that back up and restore may not do, and what in the cluster would keep a backup or a restore from working.
//! Changes nothing. The store and the host itself are the host's own checks.

mod inside;
mod quantity;
mod reach;
mod rights;

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

fn last_backup(last: Option<&Made>, max_age_hours: u64, now: Timestamp) -> Vec<Check> {
    let (id, title) = ("kubernetes.backup.age", "the last backup is recent");
    let Some(last) = last else {
        return vec![Check::warned(id, title).evidence("there is none").remedy("strongroom backup JOB")];
    };
    let hours = now.since(last.created).as_secs() / 3600;
    let evidence = format!("{} is {hours} h old (threshold: {max_age_hours} h)", last.backup_id);
    let age = if hours >= max_age_hours {
        Check::failed(id, title)
            .evidence(evidence)
            .cause("the schedule does not run, or its runs fail")
            .remedy("strongroom backup JOB")
    } else {
        Check::passed(id, title).evidence(evidence)
    };
    let (id, title) = ("kubernetes.backup.complete", "the last backup is complete");
    let complete = match last.skipped.as_slice() {
        [] => Check::passed(id, title).evidence("nothing was skipped"),
        [(what, why), ..] => Check::warned(id, title)
            .evidence(format!("{} were skipped, such as {what}: {why}", last.skipped.len()))
            .remedy(format!("strongroom show JOB {}", last.backup_id)),
    };
    vec![age, complete]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_backup_is_judged_by_age_and_by_what_it_skipped() {
        let made = |hours: u64, skipped: usize| Made {
            backup_id: "20261120T020000Z-x7k2m9qd".into(),
            created: Timestamp { ms: hours * 3_600_000 },
            plugin_version: "0.1.0".into(),
            settings_json: "{}".into(),
            source_id: None,
            facts: Vec::new(),
            skipped: vec![("cluster b".into(), "gone".into()); skipped],
            state: String::new(),
        };
        let now = Timestamp { ms: 48 * 3_600_000 };
        let outcomes =
            |last: Option<&Made>| last_backup(last, 24, now).iter().map(|check| check.outcome).collect::<Vec<_>>();
        assert_eq!(outcomes(None), [Outcome::Warned]);
        assert_eq!(outcomes(Some(&made(30, 0))), [Outcome::Passed, Outcome::Passed]);
        assert_eq!(outcomes(Some(&made(24, 2))), [Outcome::Failed, Outcome::Warned]);
    }
}
