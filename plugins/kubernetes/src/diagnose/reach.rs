//! The way to a cluster. Pure: what was seen is judged, nothing is asked.

use std::time::Duration;
use strongroom_plugin::kube::Health;
use strongroom_plugin::{Check, Outcome, Timestamp};

/// A step of the way: title, causes, remedies. `{}` stands for the cluster's label.
struct Step {
    name: &'static str,
    title: &'static str,
    causes: &'static [&'static str],
    remedies: &'static [&'static str],
}

const STEPS: &[Step] = &[
    Step {
        name: "dns",
        title: "the name of the API server is found",
        causes: &[
            "the name is misspelt in the kubeconfig or in [cluster.{}]",
            "the resolver of this machine does not know the name: another network, a VPN that is down, a resolver that fails",
        ],
        remedies: &[
            "nslookup the name from this machine",
            "use the address instead (kubectl config set-cluster), or add the name to /etc/hosts",
        ],
    },
    Step {
        name: "tcp",
        title: "the API server takes connections",
        causes: &[
            "a firewall between this machine and the port of the API server, usually 6443",
            "the API server does not run, or is being maintained",
            "another port: the evidence says which of the usual ones (6443, 443, 80, 8080) answer",
            "a proxy that this machine needs and that is not set, or is set and must not be used for this name",
        ],
        remedies: &[
            "timeout 10 bash -c 'echo >/dev/tcp/HOST/PORT', with host and port of the evidence",
            "iptables -L OUTPUT | grep PORT",
            "set HTTPS_PROXY, or NO_PROXY, or proxy in [cluster.{}]",
        ],
    },
    Step {
        name: "tls",
        title: "the certificate of the API server is good",
        causes: &[
            "the authority in the configuration is not the one that signed it",
            "it has ended, or this machine's clock is wrong",
            "it is for another name",
        ],
        remedies: &[
            "openssl s_client -connect HOST:6443 -servername HOST </dev/null",
            "compare the ca of [cluster.{}] with the cluster's own: kubectl get configmap -n kube-system kube-root-ca.crt",
        ],
    },
    Step {
        name: "authentication",
        title: "the API server knows the job's identity",
        causes: &["the token or certificate has ended", "it was revoked, or belongs to another cluster"],
        remedies: &[
            "kubectl create token SERVICE-ACCOUNT --duration=24h, and put it where [cluster.{}] reads it",
            "kubectl auth whoami --context CONTEXT",
        ],
    },
    Step {
        name: "health",
        title: "the API server is well",
        causes: &["etcd or a part of the control plane fails", "the API server is starting, or overloaded"],
        remedies: &[
            "kubectl get --raw '/readyz?verbose'",
            "kubectl cluster-info --request-timeout=300s, and where that helps a longer timeout in [cluster.{}]",
        ],
    },
];

/// One check for each step that was tried.
pub(super) fn steps(label: &str, health: &Health) -> Vec<Check> {
    let named = |text: &str| text.replace("{}", label);
    let check = |tried: &strongroom_plugin::kube::ProbeStep| {
        let known = STEPS.iter().find(|step| step.name == tried.step);
        let title = format!("{label}: {}", known.map_or(tried.step.as_str(), |step| step.title));
        let evidence = format!("{} ({} ms)", tried.evidence, tried.took.as_millis());
        let mut check =
            Check::new(tried.outcome, format!("kubernetes.{}.{label}", tried.step), title).evidence(evidence);
        if let (Outcome::Failed | Outcome::Warned, Some(step)) = (tried.outcome, known) {
            check = step.causes.iter().fold(check, |check, cause| check.cause(named(cause)));
            check = step.remedies.iter().fold(check, |check, remedy| check.remedy(named(remedy)));
        }
        check
    };
    health.steps.iter().map(check).collect()
}

/// The step at which the way ends; `None` when it leads to the cluster.
pub(super) fn broken_at(health: &Health) -> Option<&str> {
    health.steps.iter().find(|step| step.outcome == Outcome::Failed).map(|step| step.step.as_str())
}

/// Longest answer that is still called one: a client that gives up sooner calls the server dead.
const DEAD: Duration = Duration::from_secs(5);

/// How long the server took for its own health.
pub(super) fn latency(label: &str, health: &Health, slow_ms: u64) -> Check {
    let (id, title) = (format!("kubernetes.latency.{label}"), format!("{label}: the API server answers soon"));
    let Some(step) = health.steps.iter().find(|step| step.step == "health" && step.outcome != Outcome::Skipped) else {
        return Check::skipped(id, title).evidence("it was not reached");
    };
    let took = step.took;
    let evidence = format!("{} ms (thresholds: {slow_ms} ms, {} ms)", took.as_millis(), DEAD.as_millis());
    let check = match took {
        took if took >= DEAD => Check::failed(id, title),
        took if took >= Duration::from_millis(slow_ms) => Check::warned(id, title),
        _ => return Check::passed(id, title).evidence(evidence),
    };
    check
        .evidence(evidence)
        .cause("the control plane is overloaded, or etcd is slow")
        .cause("the network between here and there is slow")
        .remedy("kubectl get --raw /metrics | grep apiserver_current_inflight_requests")
        .remedy(format!("set requests_per_second in [cluster.{label}], so that a backup leaves room for others"))
}

/// How long certificate and token last.
pub(super) fn expiry(label: &str, health: &Health, days: u64, now: Timestamp) -> Vec<Check> {
    let judge = |what: &str, title: &str, ends: Option<Timestamp>, remedy: &str| {
        let (id, title) = (format!("kubernetes.{what}.{label}"), format!("{label}: {title}"));
        let Some(ends) = ends else {
            return Check::skipped(id, title).evidence("it does not say when it ends");
        };
        let left = ends.since(now).as_secs() / 86_400;
        let evidence = format!("it ends at {ends}, in {left} days (threshold: {days} days)");
        if ends <= now {
            Check::failed(id, title).evidence(format!("it ended at {ends}")).remedy(remedy)
        } else if left < days {
            Check::warned(id, title).evidence(evidence).remedy(remedy)
        } else {
            Check::passed(id, title).evidence(evidence)
        }
    };
    vec![
        judge(
            "certificate",
            "the API server's certificate lasts",
            health.certificate_ends,
            "kubeadm certs renew apiserver, or what renews certificates in this cluster",
        ),
        judge(
            "credential",
            "the job's token or certificate lasts",
            health.credential_ends,
            "kubectl create token SERVICE-ACCOUNT --duration=24h, or let something renew the file that the configuration names",
        ),
    ]
}

/// What several clusters that fail in the same way say together.
pub(super) fn together(n_clusters: usize, broken: &[String]) -> Option<Check> {
    let (id, title) = ("kubernetes.clusters.reachable", "the clusters can be reached");
    let first = broken.first()?;
    let check = Check::failed(id, title).evidence(format!(
        "{} of {n_clusters} cannot be: at {}",
        broken.len(),
        broken.join(", ")
    ));
    let all_alike = n_clusters > 1 && broken.len() == n_clusters && broken.iter().all(|step| step == first);
    Some(match first.as_str() {
        "dns" | "tcp" if all_alike => check
            .cause(
                "all of them fail at the same step: the reason is here, not there (resolver, route, firewall, proxy)",
            )
            .remedy("ip route show default")
            .remedy("cat /etc/resolv.conf, and ask each of its servers: nslookup NAME SERVER"),
        "authentication" if all_alike => {
            check.cause("all tokens fail: they were made at the same time, and have ended")
        }
        "tls" if all_alike => check.cause("all certificates fail: this machine's clock, or a proxy that opens TLS"),
        _ if broken.len() == n_clusters => check.cause("every cluster has a reason of its own, named above"),
        _ => check.cause("the others are backed up, and runs are incomplete until it is mended"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use strongroom_plugin::kube::ProbeStep;

    const DAY_MS: u64 = 86_400_000;

    fn health(steps: &[(&str, Outcome, u64)]) -> Health {
        let step = |(step, outcome, ms): &(&str, Outcome, u64)| ProbeStep {
            step: (*step).to_owned(),
            outcome: *outcome,
            evidence: "seen".into(),
            took: Duration::from_millis(*ms),
        };
        Health { steps: steps.iter().map(step).collect(), certificate_ends: None, credential_ends: None }
    }

    #[test]
    fn the_step_that_failed_comes_with_causes_and_remedies() {
        use Outcome::{Failed, Passed, Skipped};
        for step in STEPS {
            let found = steps("prod", &health(&[(step.name, Failed, 3)]));
            assert!(found[0].id == format!("kubernetes.{}.prod", step.name) && found[0].outcome == Failed);
            assert!(!found[0].causes.is_empty() && !found[0].remedies.is_empty() && found[0].evidence.contains("3 ms"));
            assert!(!format!("{:?}", found[0]).contains("{}"), "{:?}", found[0]);
        }
        let way = health(&[("dns", Passed, 1), ("tcp", Failed, 5_000), ("tls", Skipped, 0)]);
        assert_eq!(broken_at(&way), Some("tcp"));
        assert!(steps("prod", &way)[0].causes.is_empty());
        assert_eq!(latency("prod", &way, 1_000).outcome, Skipped);
    }

    #[test]
    fn a_slow_server_is_warned_of_and_a_dead_one_fails() {
        for (ms, outcome) in [(20, Outcome::Passed), (1_000, Outcome::Warned), (5_000, Outcome::Failed)] {
            assert_eq!(latency("a", &health(&[("health", Outcome::Passed, ms)]), 1_000).outcome, outcome, "{ms}");
        }
    }

    #[test]
    fn certificates_and_tokens_are_held_against_days() {
        let now = Timestamp { ms: 1_000 * DAY_MS };
        for (days, outcome) in
            [(31, Outcome::Passed), (30, Outcome::Passed), (29, Outcome::Warned), (0, Outcome::Failed)]
        {
            let ends = Some(Timestamp { ms: now.ms + days * DAY_MS });
            let health = Health { certificate_ends: ends, credential_ends: None, steps: Vec::new() };
            let found = expiry("prod", &health, 30, now);
            assert_eq!((found[0].outcome, found[1].outcome), (outcome, Outcome::Skipped), "{days}");
        }
    }

    #[test]
    fn clusters_that_fail_alike_point_at_this_machine() {
        let broken = |steps: &[&str]| steps.iter().map(|step| (*step).to_owned()).collect::<Vec<_>>();
        assert!(together(3, &[]).is_none());
        assert!(together(3, &broken(&["tcp", "tcp", "tcp"])).unwrap().causes[0].contains("here, not there"));
        assert!(together(3, &broken(&["tcp"])).unwrap().causes[0].contains("incomplete"));
        assert!(together(1, &broken(&["tcp"])).unwrap().causes[0].contains("of its own"));
        assert!(together(2, &broken(&["authentication", "authentication"])).unwrap().causes[0].contains("tokens"));
    }
}
