//! What `inspect` calls "imported, never allowed" is denied, whatever an operator grants.

use super::decode::{bare, manifest};
use super::{Bench, all_grants, in_full};
use crate::error::Kind;
use crate::plugin::component::{Component, digest, embed_manifest};
use crate::plugin::inspect::inspect;
use crate::plugin::verb::{BackupRequest, Depth, DiagnoseRequest, RestoreRequest, VerifyRequest};
use crate::plugin::{Cache, Plugin};
use crate::policy::{Grants, Verb};
use serde_json::json;
use std::collections::BTreeSet;

/// Functions that need no handle which only a granted function gives, and a deed that calls each at once.
const DEEDS: &[(&str, &str)] = &[
    ("exec.run", "run"),
    ("storage.put", "pipe"),
    ("storage.create-archive", "archive"),
    ("storage.artifacts", "list-artifacts"),
    ("storage.get", "read-artifact"),
    ("storage.open-archive", "read-unseen-entry"),
    ("storage.open-bucket", "bucket-read-config"),
];

/// The guest's manifest without the part from one line to another; several ways to request less than is imported.
fn variants() -> Vec<(&'static str, String)> {
    let text = manifest();
    let cut = |from: &str, to: Option<&str>| {
        let start = text.find(from).expect(from);
        let end = to.map_or(text.len(), |to| text.find(to).expect(to));
        format!("{}{}", &text[..start], &text[end..])
    };
    vec![
        ("no artifacts", cut("[request.artifacts]", Some("[[request.exec]]"))),
        ("no bucket", cut("[[request.bucket]]", None)),
        ("nothing to look into", text.replace("inspect = true\n", "").replace("inspect = [\"readable.*\"]\n", "")),
    ]
}

/// The functions that nothing requests, of those that can be called without a handle.
fn unrequested(component: &Component, grants: &Grants) -> BTreeSet<String> {
    let inspection = inspect(component, Some(grants));
    let all = inspection.imports.iter().flat_map(|import| {
        let interface = import.name.split(['/', '@']).nth(1).unwrap_or_default().to_owned();
        import.functions.iter().map(move |function| (format!("{interface}.{}", function.name), function.requested))
    });
    // A handle is in the name of a function on one. Of the others, these take the handles that they are about.
    let takes_handles = ["storage.first-done", "storage.finish-archive"];
    all.filter(|(name, requested)| {
        let is_method = name.matches('.').count() > 1;
        !requested && !is_method && !takes_handles.contains(&name.as_str())
    })
    .map(|(name, _)| name)
    .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_function_without_a_request_that_needs_no_handle_is_denied_in_every_verb() {
    let mut tried = BTreeSet::new();
    for (what, text) in variants() {
        let bytes = embed_manifest(bare(), &text);
        let component = Component::decode(&bytes).unwrap_or_else(|e| panic!("{what}: {}", in_full(&e)));
        // Everything is granted; what is not requested is not effective.
        let grants = all_grants();
        let functions = unrequested(&component, &grants);
        assert!(!functions.is_empty(), "{what}");
        let sha256 = digest(&bytes);
        let plugin = Plugin::load("rogue", bytes, &sha256, &grants, &Cache::none())
            .await
            .unwrap_or_else(|e| panic!("{what}: {}", in_full(&e)));
        for function in &functions {
            let (_, deed) = DEEDS.iter().find(|(name, _)| name == function).unwrap_or_else(|| {
                panic!("{what}: add a deed of the guest that calls {function}");
            });
            for verb in [Verb::Backup, Verb::Verify, Verb::Restore, Verb::Diagnose] {
                let bench = Bench::with(|bench| bench.verb = verb);
                bench.shelf.lay("readable.txt", b"seen");
                let instance = plugin.start(bench.context(deed)).await.unwrap();
                let denials = instance.denials();
                let (settings, options, backup) = (json!({ "do": deed }), json!({}), super::flow::made());
                let error = match verb {
                    Verb::Backup => instance.backup(BackupRequest { settings, previous: None }).await.err(),
                    Verb::Verify => {
                        let request = VerifyRequest { settings, depth: Depth::Contents, backup, options };
                        instance.verify(request).await.err()
                    }
                    Verb::Restore => instance.restore(RestoreRequest { settings, options, backup }).await.err(),
                    Verb::Diagnose => instance.diagnose(DiagnoseRequest { settings, last: None }).await.err(),
                };
                let error = error.unwrap_or_else(|| panic!("{what}: {function} was allowed in {verb:?}"));
                assert_eq!(error.kind(), Kind::Denied, "{what}: {function} in {verb:?}: {}", in_full(&error));
                let last = denials.list().last().map(|denial| denial.function.to_owned());
                assert_eq!(last.as_ref(), Some(function), "{what}: {verb:?}");
            }
        }
        tried.extend(functions);
    }
    // Each of them is without a request in one of the variants, or this would show nothing of it.
    assert_eq!(tried, DEEDS.iter().map(|(function, _)| (*function).to_owned()).collect());
}

/// The same of the interfaces that this guest does not import.
#[test]
fn clusters_and_metrics_without_a_request_are_denied() {
    use crate::plugin::manifest::PluginManifest;
    use crate::policy::kube::KubeCall;
    use crate::policy::metrics::{MetricsCall, MetricsGrant};
    use crate::policy::{Call, Occasion, Policy};
    let with = |request: &str| PluginManifest::parse(&format!("{}\n{request}", manifest())).unwrap();
    let writes = with("[request.metrics]\nreason = \"r\"\nprefix = \"p_\"\n");
    let asks = with("[request.metrics]\nreason = \"r\"\nquery = [\"up\"]\n");
    let metrics = MetricsGrant {
        prefix: Some("p_".to_owned()),
        query: ["up".to_owned()].into(),
        labels: Default::default(),
        when: MetricsGrant::when(MetricsGrant::all_verbs()),
    };
    let granted = Grants { metrics: Some(metrics), ..all_grants() };
    let write = Call::Metrics(MetricsCall::Write("p_x"));
    let query = Call::Metrics(MetricsCall::Query(&[Some("up")]));
    let open = Call::Kube(KubeCall { cluster: "c", verb: None, objects: &[] });
    let allowed = |manifest: &PluginManifest, call: &Call<'_>| {
        let occasion = Occasion { verb: Verb::Backup, plan_only: false };
        let grants = manifest.effective(&granted);
        Policy { plugin: "p".to_owned(), grants, occasion, settings: json!({}) }.decide(call).allowed
    };
    assert_eq!((allowed(&writes, &write), allowed(&writes, &query)), (true, false));
    assert_eq!((allowed(&asks, &write), allowed(&asks, &query)), (false, true));
    assert!(!allowed(&writes, &open), "no cluster is requested");
}
