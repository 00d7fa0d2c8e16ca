//! What lies in a cluster that can be reached: its kinds, quotas, namespaces that do not go away,
//! webhooks that nothing answers for.

use super::{quantity, rights, size};
use crate::clean::{at, text};
use crate::kind::is;
use crate::policy::Policy;
use crate::restore::served::group;
use serde_json::Value;
use strongroom_plugin::kube::{Cluster, Kind, Reference};
use strongroom_plugin::prelude::*;

/// Names that evidence holds.
const NAMED: usize = 12;
/// How much of a quota may be used, in per cent, before a restore into it is likely to be refused.
const QUOTA_PERCENT: f64 = 90.0;

pub(super) fn look(label: &str, policy: &Policy, last: Option<&Made>) -> Vec<Check> {
    let opened = kube::open(label).and_then(|cluster| Ok((cluster.kinds()?, cluster)));
    let (found, cluster) = match opened {
        Ok(opened) => opened,
        Err(error) => {
            return vec![
                Check::failed(format!("kubernetes.apis.{label}"), format!("{label}: every API answers"))
                    .evidence(error.to_string())
                    .remedy("kubectl api-resources"),
            ];
        }
    };
    let wanted: Vec<Kind> = found.kinds.iter().filter(|kind| policy.wants(kind)).cloned().collect();
    let failed: Vec<_> = found.failed.into_iter().filter(|(api, _)| policy.wants_group(group(api))).collect();
    let mut checks = vec![apis(label, &failed, found.kinds.len())];
    checks.push(rights::of_backup(label, &cluster, policy, &wanted));
    checks.push(rights::of_restore(label, &cluster, policy, &wanted));
    checks.extend(last.map(|last| versions(label, &found.kinds, last)));
    let find = |group: &str, name: &str| found.kinds.iter().find(|kind| is(kind, group, name));
    checks.push(size::judge(label, find("", "Pod").map(|pods| size::count(&cluster, pods)), last));
    if let Some(quotas) = find("", "ResourceQuota") {
        checks.push(listed(label, "quota", "quotas have room", &cluster, quotas, &mut full));
    }
    if let Some(namespaces) = find("", "Namespace") {
        checks.push(listed(
            label,
            "namespaces",
            "no namespace is stuck in being deleted",
            &cluster,
            namespaces,
            &mut terminating,
        ));
    }
    if let Some(services) = find("", "Service") {
        for name in ["ValidatingWebhookConfiguration", "MutatingWebhookConfiguration"] {
            if let Some(kind) = find("admissionregistration.k8s.io", name) {
                let mut unanswered = |object: &Value| {
                    unanswered(object, &|namespace, name| {
                        !matches!(
                            cluster.get(&Reference::new(services, Some(namespace), name)),
                            Err(Error::NotFound(_))
                        )
                    })
                };
                let what = name.to_lowercase();
                checks.push(listed(
                    label,
                    &what,
                    "every webhook that must answer has a service",
                    &cluster,
                    kind,
                    &mut unanswered,
                ));
            }
        }
    }
    checks
}

/// The first names, and how many more there are.
pub(super) fn some(names: &[String]) -> String {
    let mut shown = names.iter().take(NAMED).cloned().collect::<Vec<_>>().join(", ");
    if names.len() > NAMED {
        shown.push_str(&format!(" and {} more", names.len() - NAMED));
    }
    shown
}

fn apis(label: &str, failed: &[(String, String)], n_kinds: usize) -> Check {
    let (id, title) = (format!("kubernetes.apis.{label}"), format!("{label}: every API answers"));
    if failed.is_empty() {
        return Check::passed(id, title).evidence(format!("{n_kinds} kinds"));
    }
    let names: Vec<String> = failed.iter().map(|(group, why)| format!("{group}: {why}")).collect();
    Check::failed(id, title)
        .evidence(some(&names))
        .cause("the server behind an APIService does not run; its objects are missing from every backup")
        .remedy("kubectl get apiservices")
        .remedy("remove the APIService if nothing is meant to answer for it, or name its kinds in exclude_kinds")
}

/// Whether what the last backup holds could go back into this cluster.
fn versions(label: &str, kinds: &[Kind], last: &Made) -> Check {
    let (id, title) =
        (format!("kubernetes.versions.{label}"), format!("{label}: the cluster serves what the last backup holds"));
    let prefix = format!("{label}/");
    let (mut gone, mut other, mut n) = (Vec::new(), Vec::new(), 0);
    for (of, _) in last.facts_under(&prefix) {
        let Some((api_version, name)) = of.rsplit_once('/') else { continue };
        let group = api_version.split_once('/').map_or("", |(group, _)| group);
        n += 1;
        match kinds.iter().find(|kind| is(kind, group, name)) {
            None => gone.push(format!("{api_version} {name}")),
            Some(kind) if kind.api_version() != api_version => {
                other.push(format!("{name}: {api_version}, now {}", kind.api_version()));
            }
            Some(_) => {}
        }
    }
    if !gone.is_empty() {
        return Check::warned(id, title)
            .evidence(format!("{} of {n} kinds are gone: {}", gone.len(), some(&gone)))
            .cause("the cluster was upgraded past the versions, or a definition was removed")
            .remedy("strongroom backup JOB, so that the newest backup is at versions that the cluster serves")
            .remedy("keep an older cluster, or the definitions, for as long as those backups are kept");
    }
    if !other.is_empty() {
        return Check::warned(id, title)
            .evidence(format!("the cluster prefers another version: {}", some(&other)))
            .cause("the cluster was upgraded since; it may stop serving the old version with the next upgrade")
            .remedy("strongroom backup JOB");
    }
    Check::passed(id, title).evidence(format!("{n} kinds"))
}

/// A check over every object of a kind; `finding` says what is wrong with one.
fn listed(
    label: &str,
    what: &str,
    title: &str,
    cluster: &Cluster,
    kind: &Kind,
    finding: &mut dyn FnMut(&Value) -> Option<String>,
) -> Check {
    let (id, title) = (format!("kubernetes.{what}.{label}"), format!("{label}: {title}"));
    let mut found = Vec::new();
    let mut n = 0_u64;
    let all = cluster.list(kind).start().and_then(|mut listing| {
        while let Some(page) = listing.next_page()? {
            for json in page.objects {
                n += 1;
                found.extend(finding(&serde_json::from_str(&json)?));
            }
        }
        Ok(())
    });
    if let Err(error) = all {
        return Check::skipped(id, title).evidence(error.to_string());
    }
    if found.is_empty() {
        return Check::passed(id, title).evidence(format!("{n} were looked at"));
    }
    let check = Check::warned(id, title).evidence(format!("{} of {n}: {}", found.len(), some(&found)));
    match what {
        "quota" => check
            .cause("a restore into the namespace would be refused by its quota")
            .remedy("kubectl describe resourcequota -n NAMESPACE"),
        "namespaces" => check
            .cause("finalizers of its objects wait for a controller that is gone, or an API does not answer")
            .cause("nothing can be restored into it before it is gone")
            .remedy("kubectl get namespace NAME -o yaml, and look at status.conditions"),
        _ => check
            .cause("the service was removed and its configuration stayed: writes that it matches fail, restores too")
            .remedy("restore the service first, or delete the configuration"),
    }
}

/// A quota that is nearly used up.
fn full(quota: &Value) -> Option<String> {
    let amounts = |field: &str| at(quota, &["status", field]).and_then(Value::as_object);
    let (hard, used) = (amounts("hard")?, amounts("used")?);
    let worst = hard
        .iter()
        .filter_map(|(name, hard)| {
            let used_text = used.get(name)?.as_str()?;
            let (hard_text, used) = (hard.as_str()?, quantity::parse(used_text)?);
            let hard = quantity::parse(hard_text)?;
            let percent = if hard > 0.0 { used / hard * 100.0 } else { 100.0 };
            (percent >= QUOTA_PERCENT).then(|| format!("{name} {used_text} of {hard_text}"))
        })
        .collect::<Vec<_>>();
    if worst.is_empty() {
        return None;
    }
    let of = |field| text(quota, &["metadata", field]).unwrap_or_default();
    Some(format!("{}/{} ({})", of("namespace"), of("name"), worst.join(", ")))
}

fn terminating(namespace: &Value) -> Option<String> {
    let deleted = text(namespace, &["metadata", "deletionTimestamp"])?;
    Some(format!("{} (since {deleted})", text(namespace, &["metadata", "name"]).unwrap_or_default()))
}

/// Webhooks that must answer, and whose service is not there.
fn unanswered(configuration: &Value, exists: &dyn Fn(&str, &str) -> bool) -> Option<String> {
    let webhooks = at(configuration, &["webhooks"])?.as_array()?;
    let lost: Vec<&str> = webhooks
        .iter()
        .filter(|webhook| text(webhook, &["failurePolicy"]) != Some("Ignore"))
        .filter_map(|webhook| {
            let of = |field| text(webhook, &["clientConfig", "service", field]);
            (!exists(of("namespace")?, of("name")?)).then(|| text(webhook, &["name"]).unwrap_or_default())
        })
        .collect();
    (!lost.is_empty())
        .then(|| format!("{} ({})", text(configuration, &["metadata", "name"]).unwrap_or_default(), lost.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_quota_that_is_nearly_used_up_is_named() {
        let quota = |used: &str| {
            json!({
                "metadata": {"name": "small", "namespace": "shop"},
                "status": {"hard": {"pods": "10", "memory": "1Gi"}, "used": {"pods": used, "memory": "100Mi"}},
            })
        };
        assert_eq!(full(&quota("8")), None);
        assert_eq!(full(&quota("9")).as_deref(), Some("shop/small (pods 9 of 10)"));
        assert_eq!(full(&json!({})), None);
        let none = json!({"metadata": {}, "status": {"hard": {"pods": "0"}, "used": {"pods": "0"}}});
        assert!(full(&none).is_some());
    }

    #[test]
    fn namespaces_and_webhooks_that_would_stop_a_restore_are_named() {
        let stuck = json!({"metadata": {"name": "old", "deletionTimestamp": "2026-01-01T00:00:00Z"}});
        assert_eq!(terminating(&stuck).as_deref(), Some("old (since 2026-01-01T00:00:00Z)"));
        assert_eq!(terminating(&json!({"metadata": {"name": "x"}})), None);
        let hooks = |policy: &str| {
            json!({"metadata": {"name": "c"}, "webhooks": [
                {"name": "a.example.com", "failurePolicy": policy, "clientConfig": {"service": {"namespace": "ops", "name": "gone"}}},
                {"name": "b.example.com", "failurePolicy": "Fail", "clientConfig": {"url": "https://x.test"}},
                {"name": "c.example.com", "failurePolicy": "Fail", "clientConfig": {"service": {"namespace": "ops", "name": "here"}}},
            ]})
        };
        let exists = |_: &str, name: &str| name == "here";
        assert_eq!(unanswered(&hooks("Fail"), &exists).as_deref(), Some("c (a.example.com)"));
        assert_eq!(unanswered(&hooks("Ignore"), &exists), None);
    }

    #[test]
    fn versions_that_are_gone_are_named() {
        let kind = |group: &str, version: &str, name: &str| Kind {
            group: group.into(),
            version: version.into(),
            kind: name.into(),
            plural: "x".into(),
            namespaced: true,
            verbs: Vec::new(),
        };
        let last = |facts: &[&str]| Made {
            backup_id: "x".into(),
            created: Timestamp { ms: 0 },
            plugin_version: "0.1.0".into(),
            settings_json: "{}".into(),
            source_id: None,
            facts: facts.iter().map(|fact| ((*fact).to_owned(), "1".to_owned())).collect(),
            skipped: Vec::new(),
            state: String::new(),
        };
        let kinds = [kind("", "v1", "ConfigMap"), kind("example.com", "v2", "Shop")];
        for (facts, outcome) in [
            (&["prod/v1/ConfigMap", "prod.version", "other/v1/Gone"][..], Outcome::Passed),
            (&["prod/example.com/v1/Shop"], Outcome::Warned),
            (&["prod/example.com/v1/Gone"], Outcome::Warned),
        ] {
            assert_eq!(versions("prod", &kinds, &last(facts)).outcome, outcome, "{facts:?}");
        }
    }

    #[test]
    fn an_api_that_does_not_answer_fails() {
        assert_eq!(apis("prod", &[], 60).outcome, Outcome::Passed);
        assert_eq!(apis("prod", &[("x.io/v1".into(), "503".into())], 60).outcome, Outcome::Failed);
        let many: Vec<String> = (0..20).map(|n| n.to_string()).collect();
        assert!(some(&many).ends_with("and 8 more"));
    }
}
