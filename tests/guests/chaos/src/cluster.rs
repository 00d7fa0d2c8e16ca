//! Calls of `kube` and of `metrics`: every function, with kinds and objects that are right, wrong or hostile.

use super::strongroom::plugin::bytes::{self, Source};
use super::strongroom::plugin::kube::{
    self, Cluster, Kind, Listing, Question, Reference, Selection, Unseen, WriteMode, WriteOptions,
};
use super::strongroom::plugin::metrics;
use super::{Hands, Random, any, some, word};

/// Labels of clusters: the granted one, and others.
const CLUSTERS: &[&str] = &["prod", "prod", "prod", "other", "", "Prod", "../prod"];

/// Group, version, plural and kind: two that are granted, one that is powerful, and none.
const KINDS: &[[&str; 4]] = &[
    ["", "v1", "configmaps", "ConfigMap"],
    ["", "v1", "configmaps", "ConfigMap"],
    ["", "v1", "secrets", "Secret"],
    ["", "v1", "pods", "Pod"],
    ["rbac.authorization.k8s.io", "v1", "clusterroles", "ClusterRole"],
    ["", "v1", "configmaps/../secrets", "ConfigMap"],
    ["example.org", "v9", "widgets", "Widget"],
];

/// Names of metrics: the granted prefix, the host's own, and others.
const METRICS: &[&str] = &["chaos_rows", "chaos_size", "chaos_", "backup_last_success_timestamp_seconds", "up", "a b"];

/// Queries: a granted name, others, and what is no query.
const QUERIES: &[&str] =
    &["up", "up + up", "{__name__=~\".*\"}", "secrets", "up[1d]", "rate(", "", "up # \n or secrets"];

fn kind(random: &mut Random) -> Kind {
    let [group, version, plural, kind] = KINDS[random.below(KINDS.len())].map(str::to_owned);
    Kind { group, version, kind, plural, namespaced: random.below(8) != 0, verbs: vec![] }
}

fn namespace(hands: &Hands, random: &mut Random) -> Option<String> {
    match random.below(8) {
        0 => None,
        1 => Some("kube-system".to_owned()),
        2 => Some(word(random)),
        _ => Some(hands.namespace.clone()),
    }
}

fn reference(hands: &Hands, random: &mut Random) -> Reference {
    let name = if random.below(3) == 0 { word(random) } else { ["first", "a", "b"][random.below(3)].to_owned() };
    Reference { kind: kind(random), namespace: namespace(hands, random), name }
}

/// An object as a plugin would send it, or what is none.
fn object(hands: &Hands, random: &mut Random) -> String {
    let namespace = namespace(hands, random).unwrap_or_default();
    let name = ["first", "a", "b", "c"][random.below(4)];
    let kind = ["ConfigMap", "ConfigMap", "Secret", "ClusterRole", "Pod"][random.below(5)];
    match random.below(8) {
        0 => word(random),
        1 => format!("{{\"kind\":\"{kind}\",\"metadata\":{{}}}}"),
        2 => "[".repeat(random.below(1_000)),
        _ => format!(
            "{{\"apiVersion\":\"v1\",\"kind\":\"{kind}\",\"metadata\":{{\"name\":\"{name}\",\
             \"namespace\":{namespace:?}}},\"data\":{{}}}}"
        ),
    }
}

fn options(random: &mut Random) -> WriteOptions {
    WriteOptions {
        mode: [WriteMode::Create, WriteMode::Merge, WriteMode::Replace][random.below(3)],
        dry_run: random.below(2) == 0,
        force: random.below(2) == 0,
        status: random.below(6) == 0,
    }
}

fn list<T>(random: &mut Random, mut one: impl FnMut(&mut Random) -> T) -> Vec<T> {
    // Now and then more than a call may name.
    let n = if random.below(40) == 0 { 1_001 } else { random.below(4) };
    (0..n).map(|_| one(random)).collect()
}

/// A source of these bytes, as if they had been stored.
fn stored(object: &str) -> Option<Source> {
    let (sink, source) = bytes::pipe().ok()?;
    drop((sink.write(object.as_bytes()), bytes::finish(sink)));
    Some(source)
}

/// One call of a cluster or of a list.
pub(crate) fn call(hands: &mut Hands, random: &mut Random) {
    match random.below(13) {
        0..=2 => hands.clusters.extend(kube::open(CLUSTERS[random.below(CLUSTERS.len())])),
        3 => drop(kube::probe(CLUSTERS[random.below(CLUSTERS.len())])),
        4 => {
            let clusters: Vec<&Cluster> = (0..random.below(3)).filter_map(|_| some(&hands.clusters, random)).collect();
            let lists: Vec<&Listing> = (0..random.below(3)).filter_map(|_| some(&hands.lists, random)).collect();
            drop(kube::first_ready(&clusters, &lists));
        }
        5 | 6 => {
            if let Some(listing) = some(&hands.lists, random) {
                match random.below(2) {
                    0 => drop(listing.next_page()),
                    _ => hands.sources.extend(listing.body([0, 1, 499, u32::MAX][random.below(4)])),
                }
            }
        }
        _ => of_cluster(hands, random),
    }
}

/// One call of any cluster that is open.
fn of_cluster(hands: &mut Hands, random: &mut Random) {
    let which = random.below(12);
    let unseen = match which {
        7 => any(&mut hands.sources, random),
        8 => stored(&object(hands, random)),
        _ => None,
    };
    let to = namespace(hands, random);
    let Some(cluster) = some(&hands.clusters, random) else { return };
    match which {
        0 => drop(cluster.version()),
        1 => drop(cluster.kinds()),
        2 | 3 => {
            let selection = Selection {
                kind: kind(random),
                namespace: namespace(hands, random),
                label_selector: (random.below(4) == 0).then(|| word(random)),
                field_selector: (random.below(4) == 0).then(|| word(random)),
            };
            let listing = cluster.objects(&selection);
            hands.lists.extend(listing);
        }
        4 => drop(cluster.get(&reference(hands, random))),
        5 => {
            let body = cluster.body(&reference(hands, random));
            hands.sources.extend(body);
        }
        6 => {
            let objects = list(random, |random| object(hands, random));
            drop(cluster.apply(&objects, options(random)));
        }
        7 | 8 => {
            let objects = unseen.map(|body| Unseen { body, namespace: to, owners: super::pairs(random) });
            drop(cluster.apply_unseen(objects.into_iter().collect(), options(random)));
        }
        9 => {
            let references = list(random, |random| reference(hands, random));
            drop(cluster.delete(&references));
        }
        10 => {
            let timeout_ms = random.below(30) as u64;
            drop(cluster.wait(&reference(hands, random), &word(random), &word(random), timeout_ms));
        }
        _ => match random.below(2) {
            0 => {
                let namespace = namespace(hands, random).unwrap_or_default();
                let log = cluster.logs(&namespace, &word(random), None, Some(u32::MAX));
                hands.sources.extend(log);
            }
            _ => {
                let questions = list(random, |random| Question {
                    verb: ["get", "list", "*", "escalate"][random.below(4)].to_owned(),
                    kind: kind(random),
                    namespace: namespace(hands, random),
                    restores: random.below(2) == 0,
                });
                drop(cluster.can_i(&questions));
            }
        },
    }
}

/// One call of `metrics`.
pub(crate) fn measure(random: &mut Random) {
    let name = if random.below(4) == 0 { word(random) } else { METRICS[random.below(METRICS.len())].to_owned() };
    let labels = super::pairs(random);
    let value = [0.0, 1.0, -1.0, f64::NAN, f64::INFINITY, f64::MAX][random.below(6)];
    let query = QUERIES[random.below(QUERIES.len())];
    match random.below(5) {
        0 => drop(metrics::add(&name, &labels, value)),
        1 => drop(metrics::set(&name, &labels, value)),
        2 => drop(metrics::observe(&name, &labels, value)),
        3 => drop(metrics::query(query)),
        _ => {
            let (start, end) = (random.below(100_000) as u64, random.next());
            drop(metrics::query_range(query, start, end, [0, 1, 1_000, u64::MAX][random.below(4)]));
        }
    }
}
