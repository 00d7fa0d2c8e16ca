use crate::plugin::manifest::{BucketRequest, KubeRequest, PluginManifest, Requests};
use crate::policy::kube::{KubeCall, KubeGrant, KubeObject, KubeVerb, NamePattern};
use crate::policy::storage::{BucketCall, BucketGrant, BucketVerb};
use crate::policy::{Call, Effect, Grants, Occasion, Policy, Verb, When};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

const VERBS: [Verb; 4] = [Verb::Backup, Verb::Verify, Verb::Restore, Verb::Diagnose];

fn manifest(request: Requests) -> PluginManifest {
    PluginManifest {
        name: "p".to_owned(),
        version: "1.0.0".to_owned(),
        summary: "s".to_owned(),
        licence: "Apache-2.0".to_owned(),
        component: vec!["0.1".to_owned()],
        minimum_host: None,
        settings: Value::Null,
        options: Value::Null,
        request,
    }
}

/// What is asked of a bucket: verbs, when, effect, `scratch`, `inspect`.
type OfBucket<'a> = (&'a [BucketVerb], &'a [Verb], Effect, bool, bool);
/// What is asked of a cluster: verbs, kinds, when, effect.
type OfCluster<'a> = (&'a [KubeVerb], &'a [&'a str], &'a [Verb], Effect);

fn buckets(requests: &[OfBucket<'_>]) -> PluginManifest {
    let bucket = requests.iter().map(|(may, verbs, effect, scratch, inspect)| BucketRequest {
        setting: "b".to_owned(),
        reason: "r".to_owned(),
        may: may.iter().copied().collect(),
        inspect: *inspect,
        verbs: verbs.iter().copied().collect(),
        effect: *effect,
        scratch: *scratch,
    });
    manifest(Requests { bucket: bucket.collect(), ..Requests::default() })
}

fn kube(requests: &[OfCluster<'_>]) -> PluginManifest {
    let kube = requests.iter().map(|(may, kinds, verbs, effect)| KubeRequest {
        setting: "c".to_owned(),
        reason: "r".to_owned(),
        may: may.iter().copied().collect(),
        kinds: kinds.iter().map(|kind| (*kind).to_owned()).collect(),
        inspect: false,
        // Only who lists asks to see what is in Secrets.
        secret_data: may.contains(&KubeVerb::List),
        verbs: verbs.iter().copied().collect(),
        effect: *effect,
        scratch: false,
    });
    manifest(Requests { kube: kube.collect(), ..Requests::default() })
}

fn bucket(may: &[BucketVerb], verbs: &[Verb], effect: Effect) -> BucketGrant {
    BucketGrant {
        may: may.iter().copied().collect(),
        prefixes: vec!["a/".to_owned()],
        inspect: true,
        when: When { verbs: verbs.iter().copied().collect(), effect, scratch: true },
    }
}

fn cluster(may: &[KubeVerb], kinds: &[&str], verbs: &[Verb], effect: Effect) -> KubeGrant {
    KubeGrant {
        may: may.iter().copied().collect(),
        kinds: kinds.iter().map(|kind| (*kind).to_owned()).collect(),
        namespaces: vec![NamePattern::new("shop")],
        names: Vec::new(),
        labels: BTreeMap::new(),
        inspect: true,
        secret_data: true,
        when: When { verbs: verbs.iter().copied().collect(), effect, scratch: true },
    }
}

/// Every verb of a bucket that these grants allow, by occasion.
fn allowed_in_bucket(grants: Vec<BucketGrant>) -> BTreeSet<(Verb, bool, BucketVerb)> {
    use BucketVerb::{Delete, List, Overwrite, Owners, Read, Write};
    let grants = Grants { buckets: [("b".to_owned(), grants)].into(), ..Grants::default() };
    let mut allowed = BTreeSet::new();
    for (occasion, asked) in occasions().flat_map(|occasion| {
        [List, Read, Write, Overwrite, Owners, Delete].into_iter().map(move |asked| (occasion, asked))
    }) {
        let policy = Policy { plugin: "p".to_owned(), grants: grants.clone(), occasion, settings: json!({}) };
        let call = BucketCall { bucket: "b", verb: Some(asked), key: Some("a/k"), part: None };
        if policy.decide(&Call::Bucket(call)).allowed {
            allowed.insert((occasion.verb, occasion.plan_only, asked));
        }
    }
    allowed
}

/// Every verb of a cluster with every kind, by occasion; and where a Secret's values are shown.
fn allowed_in_cluster(grants: Vec<KubeGrant>) -> BTreeSet<(Verb, bool, KubeVerb, &'static str, bool)> {
    let grants = Grants { kube: [("c".to_owned(), grants)].into(), ..Grants::default() };
    let mut allowed = BTreeSet::new();
    for (occasion, asked) in occasions().flat_map(|occasion| KubeVerb::ALL.map(|asked| (occasion, asked))) {
        for kind in ["/ConfigMap", "/Secret", "/Pod", "example.org/Widget"] {
            let policy = Policy { plugin: "p".to_owned(), grants: grants.clone(), occasion, settings: json!({}) };
            let object = KubeObject { kind, namespaced: true, namespace: Some("shop"), name: Some("x"), labels: None };
            let call = KubeCall { cluster: "c", verb: Some(asked), objects: &[object] };
            if policy.decide(&Call::Kube(call)).allowed {
                let shown = policy.kube_shows_secret("c", asked, &object);
                allowed.insert((occasion.verb, occasion.plan_only, asked, kind, shown));
            }
        }
    }
    allowed
}

fn occasions() -> impl Iterator<Item = Occasion> {
    VERBS.into_iter().flat_map(|verb| [false, true].map(|plan_only| Occasion { verb, plan_only }))
}

#[test]
fn what_two_requests_for_clusters_ask_for_apart_is_never_combined() {
    use KubeVerb::{Apply, DryRun, Get, List};
    let manifest = kube(&[
        (&[List], &["/Secret"], &[Verb::Backup], Effect::Reads),
        (&[Apply], &["/ConfigMap"], &[Verb::Restore], Effect::Changes),
    ]);
    // Each of these is within all that is asked for together, and asked for by nobody.
    for grant in [
        cluster(&[Apply], &["/Secret"], &[Verb::Restore], Effect::Changes),
        cluster(&[List], &["/Secret"], &[Verb::Restore], Effect::Reads),
        cluster(&[List], &["/ConfigMap"], &[Verb::Backup], Effect::Reads),
        cluster(&[Get], &["/Secret"], &[Verb::Backup], Effect::Reads),
    ] {
        assert!(manifest.narrow_kube(&grant).is_empty(), "{grant:?}");
    }
    // One that is wide is left with what each asks for.
    let wide = cluster(&KubeVerb::ALL, &["*", "/Secret", "/Pod"], &VERBS, Effect::Changes);
    let narrowed = manifest.narrow_kube(&wide);
    assert!(narrowed.iter().all(|grant| grant.namespaces == wide.namespaces && !grant.inspect), "{narrowed:?}");
    let expected = [
        (Verb::Backup, false, List, "/Secret", true),
        (Verb::Backup, true, List, "/Secret", true),
        // Whoever may apply may ask what it would do.
        (Verb::Restore, false, DryRun, "/ConfigMap", false),
        (Verb::Restore, true, DryRun, "/ConfigMap", false),
        (Verb::Restore, false, Apply, "/ConfigMap", false),
    ];
    assert_eq!(allowed_in_cluster(narrowed), expected.into());
}

#[test]
fn what_two_requests_for_buckets_ask_for_apart_is_never_combined() {
    use BucketVerb::{Delete, List, Read, Write};
    let manifest = buckets(&[
        (&[List, Read], &[Verb::Backup, Verb::Verify], Effect::Reads, false, true),
        (&[Write, Delete], &[Verb::Restore], Effect::Changes, false, false),
    ]);
    for grant in [
        bucket(&[Read], &[Verb::Restore], Effect::Reads),
        bucket(&[Delete], &[Verb::Verify], Effect::Changes),
        bucket(&[BucketVerb::Overwrite], &[Verb::Restore], Effect::Changes),
    ] {
        assert!(manifest.narrow_bucket(&grant).is_empty(), "{grant:?}");
    }
    let wide = [List, Read, Write, BucketVerb::Overwrite, Delete];
    let narrowed = manifest.narrow_bucket(&bucket(&wide, &VERBS, Effect::Changes));
    // `inspect` goes with the request that asks for it.
    assert!(narrowed.iter().all(|grant| grant.inspect == grant.may.contains(&Read)), "{narrowed:?}");
    assert!(narrowed.iter().all(|grant| grant.prefixes == ["a/"]), "{narrowed:?}");
    let expected = [
        // As the grant says that it changes something, it holds in no backup.
        (Verb::Verify, false, List),
        (Verb::Verify, false, Read),
        (Verb::Restore, false, Write),
        (Verb::Restore, false, Delete),
    ];
    assert_eq!(allowed_in_bucket(narrowed), expected.into());
}

#[test]
fn changes_of_a_verification_stay_in_scratch_places_only_if_they_are_asked_for_so() {
    use BucketVerb::{Delete, Write};
    for (scratch, expected) in
        [(true, vec![(Verb::Verify, false, Delete), (Verb::Verify, false, Write)]), (false, vec![])]
    {
        let manifest = buckets(&[(&[Write, Delete], &[Verb::Verify], Effect::Changes, scratch, false)]);
        let narrowed = manifest.narrow_bucket(&bucket(&[Write, Delete], &VERBS, Effect::Changes));
        assert_eq!(allowed_in_bucket(narrowed), expected.into_iter().collect(), "{scratch}");
    }
}

/// Of the pairs of requests that differ in several ways, every so many are tried.
const STRIDE: usize = 7;

/// Whatever is granted and asked for, what is left is no more than either.
#[test]
fn what_is_left_is_never_more_than_the_grant_or_than_the_requests() {
    use BucketVerb::{Delete, List, Owners, Read, Write};
    let sets: [&[BucketVerb]; 5] = [&[List], &[List, Read], &[Read, Write], &[Write, Owners, Delete], &[Delete]];
    let verbs: [&[Verb]; 4] = [&[Verb::Backup], &[Verb::Backup, Verb::Restore], &[Verb::Verify], &VERBS];
    let all: Vec<_> = sets
        .iter()
        .flat_map(|may| {
            verbs.iter().flat_map(move |verbs| [(*may, *verbs, Effect::Reads), (*may, *verbs, Effect::Changes)])
        })
        .collect();
    let grants: Vec<_> = all.iter().map(|(may, verbs, effect)| bucket(may, verbs, *effect)).collect();
    let granted: Vec<_> = grants.iter().map(|grant| allowed_in_bucket(vec![grant.clone()])).collect();
    let mut n_left = 0;
    for (n, (may, verbs, effect)) in all.iter().enumerate() {
        for (m, (other_may, other_verbs, other_effect)) in all.iter().enumerate().skip(n) {
            let n_different = [may != other_may, verbs != other_verbs, effect != other_effect];
            if n_different.iter().filter(|is| **is).count() > 1 && (m - n) % STRIDE != 0 {
                continue;
            }
            let manifest =
                buckets(&[(may, verbs, *effect, false, false), (other_may, other_verbs, *other_effect, true, false)]);
            for (grant, granted) in grants.iter().zip(&granted) {
                let left = allowed_in_bucket(manifest.narrow_bucket(grant));
                n_left += left.len();
                assert!(left.is_subset(granted), "{left:?} of {granted:?}");
                for (verb, _, asked) in &left {
                    let asks = |may: &[BucketVerb], verbs: &[Verb], effect: Effect| {
                        may.contains(asked) && verbs.contains(verb) && (effect == Effect::Changes || !asked.changes())
                    };
                    assert!(
                        asks(may, verbs, *effect) || asks(other_may, other_verbs, *other_effect),
                        "{asked:?} in {verb:?} is asked for by neither"
                    );
                }
            }
        }
    }
    assert!(n_left > 1_000, "{n_left}");
}

#[test]
fn requests_that_differ_in_one_thing_leave_one_grant() {
    use KubeVerb::{Get, List};
    let manifest = kube(&[
        (&[List, Get], &["*", "/Secret"], &[Verb::Backup], Effect::Reads),
        (&[List, Get], &["*", "/Secret"], &[Verb::Restore], Effect::Reads),
        (&[List, Get], &["/Pod"], &[Verb::Backup, Verb::Restore], Effect::Reads),
    ]);
    let grant = cluster(&[List, Get], &["*", "/Secret", "/Pod"], &VERBS, Effect::Reads);
    let [left] = manifest.narrow_kube(&grant).try_into().expect("one grant");
    assert_eq!(left.kinds, ["*", "/Secret", "/Pod"].map(str::to_owned).into());
    assert_eq!(left.when.verbs, [Verb::Backup, Verb::Restore].into());
}
