//! Grants of buckets and clusters against the requests for them, one request after the other.
//!
//! A label is the operator's and names no request, so a grant is held against every request of its kind.
//! What two requests ask for apart is never combined: one that lists Secrets and one that writes settings
//! are no request to write Secrets. What is left of a grant is what each request leaves of it by itself.

#[cfg(test)]
mod tests;

use super::{BucketRequest, KubeRequest, PluginManifest};
use crate::policy::kube::{KubeGrant, KubeVerb, is_powerful};
use crate::policy::storage::BucketGrant;
use crate::policy::{Effect, Verb, When};
use std::collections::BTreeSet;

/// Every kind that gives no power over the cluster.
const STAR: &str = "*";

impl PluginManifest {
    /// What is left of a grant of a bucket: nothing, or grants none of which is wider than it.
    pub(super) fn narrow_bucket(&self, granted: &BucketGrant) -> Vec<BucketGrant> {
        let narrowed = self.request.bucket.iter().filter_map(|request| bucket_within(granted, request));
        joined(narrowed, join_bucket)
    }

    /// The same of a grant of a cluster.
    pub(super) fn narrow_kube(&self, granted: &KubeGrant) -> Vec<KubeGrant> {
        let narrowed = self.request.kube.iter().filter_map(|request| kube_within(granted, request));
        joined(narrowed, join_kube)
    }
}

/// What a grant and one request both hold.
fn bucket_within(granted: &BucketGrant, request: &BucketRequest) -> Option<BucketGrant> {
    let mut grant = granted.clone();
    grant.may.retain(|verb| request.may.contains(verb) && (request.effect == Effect::Changes || !verb.changes()));
    grant.inspect &= request.inspect;
    // A grant that changes something holds on fewer occasions than one that reads: it stays what it is.
    grant.when = within(&granted.when, &request.verbs, request.effect, request.scratch);
    (!grant.may.is_empty() && !grant.when.verbs.is_empty()).then_some(grant)
}

fn kube_within(granted: &KubeGrant, request: &KubeRequest) -> Option<KubeGrant> {
    // Whoever may apply may ask what applying would do.
    let covers = |may: &BTreeSet<KubeVerb>, verb: KubeVerb| {
        may.contains(&verb) || (verb == KubeVerb::DryRun && may.contains(&KubeVerb::Apply))
    };
    let named: BTreeSet<KubeVerb> = granted.may.union(&request.may).copied().collect();
    let may = named.into_iter().filter(|verb| {
        let changes = request.effect == Effect::Changes || !verb.changes();
        covers(&granted.may, *verb) && covers(&request.may, *verb) && changes
    });
    let by_star = |kinds: &BTreeSet<String>, kind: &str| kinds.contains(STAR) && kind != STAR && !is_powerful(kind);
    // What both name, and what one of them names and the other covers by its star.
    let theirs =
        granted.kinds.iter().filter(|kind| request.kinds.contains(*kind) || by_star(&request.kinds, kind.as_str()));
    let ours = request.kinds.iter().filter(|kind| by_star(&granted.kinds, kind.as_str()));
    let grant = KubeGrant {
        may: may.collect(),
        kinds: theirs.chain(ours).cloned().collect(),
        inspect: granted.inspect && request.inspect,
        secret_data: granted.secret_data && request.secret_data,
        when: within(&granted.when, &request.verbs, request.effect, request.scratch),
        ..granted.clone()
    };
    (!grant.may.is_empty() && !grant.when.verbs.is_empty() && !grant.kinds.is_empty()).then_some(grant)
}

/// When both hold. Of a request that changes nothing it does not matter where its changes would stay.
fn within(granted: &When, verbs: &BTreeSet<Verb>, effect: Effect, scratch: bool) -> When {
    When {
        verbs: granted.verbs.intersection(verbs).copied().collect(),
        effect: granted.effect,
        scratch: granted.scratch && (scratch || effect == Effect::Reads),
    }
}

/// The same grants in fewer, where two differ in one thing only: two requests that ask for the same on two
/// occasions are one line for the person who decides.
fn joined<T>(grants: impl Iterator<Item = T>, joins: impl Fn(&mut T, &T) -> bool) -> Vec<T> {
    let mut all: Vec<T> = grants.collect();
    let mut at = 0;
    while at < all.len() {
        let (before, rest) = all.split_at_mut(at);
        if before.iter_mut().any(|earlier| joins(earlier, &rest[0])) {
            all.remove(at);
            // What was joined may now be like one that it was not like before.
            at = 0;
        } else {
            at += 1;
        }
    }
    all
}

/// Takes what `other` grants into `grant`, if together they grant just what each does.
fn join_bucket(grant: &mut BucketGrant, other: &BucketGrant) -> bool {
    let like = grant.prefixes == other.prefixes && grant.inspect == other.inspect && are_like(&grant.when, &other.when);
    let (same_may, same_verbs) = (grant.may == other.may, grant.when.verbs == other.when.verbs);
    if !like || !(same_may || same_verbs) {
        return false;
    }
    grant.may.extend(&other.may);
    grant.when.verbs.extend(&other.when.verbs);
    true
}

fn join_kube(grant: &mut KubeGrant, other: &KubeGrant) -> bool {
    // Namespaces, names and labels are those of the one grant that both are of.
    let like =
        grant.inspect == other.inspect && grant.secret_data == other.secret_data && are_like(&grant.when, &other.when);
    let same = [grant.may == other.may, grant.kinds == other.kinds, grant.when.verbs == other.when.verbs];
    if !like || same.iter().filter(|same| !**same).count() > 1 {
        return false;
    }
    grant.may.extend(&other.may);
    grant.kinds.extend(other.kinds.iter().cloned());
    grant.when.verbs.extend(&other.when.verbs);
    true
}

/// Whether they differ in their verbs at most.
fn are_like(one: &When, other: &When) -> bool {
    one.effect == other.effect && one.scratch == other.scratch
}
