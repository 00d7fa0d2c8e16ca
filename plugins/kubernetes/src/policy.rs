//! Which objects a backup keeps. Pure: what is left out is what the settings say, and nothing else.

use crate::head::{Head, OneText};
use crate::kind::{is, is_secret};
use crate::pattern::{Globs, Kinds, ObjectPattern};
use crate::selector::Selector;
use crate::settings::Settings;
use strongroom_plugin::Result;
use strongroom_plugin::kube::Kind;

/// The settings, parsed.
#[derive(Debug)]
pub(crate) struct Policy {
    namespaces: Globs,
    exclude_namespaces: Globs,
    cluster_resources: bool,
    kinds: Kinds,
    exclude_kinds: Kinds,
    exclude_controlled: Kinds,
    exclude_objects: Vec<ObjectPattern>,
    exclude_secret_types: Vec<String>,
    labels: Selector,
    max_object_bytes: usize,
}

/// What becomes of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It is kept.
    Keep,
    /// The settings leave it out.
    Exclude,
    /// It is larger than the settings allow: it was to be captured, and is not.
    TooLarge,
}

impl Policy {
    /// Errors: `Invalid` for patterns and selectors that are none.
    pub(crate) fn parse(settings: &Settings) -> Result<Self> {
        let exclude_objects = settings.exclude_objects.iter().map(|text| ObjectPattern::parse(text));
        Ok(Self {
            namespaces: Globs::parse(&settings.namespaces)?,
            exclude_namespaces: Globs::parse(&settings.exclude_namespaces)?,
            cluster_resources: settings.cluster_resources,
            kinds: Kinds::parse(&settings.kinds)?,
            exclude_kinds: Kinds::parse(&settings.exclude_kinds)?,
            exclude_controlled: Kinds::parse(&settings.exclude_controlled)?,
            exclude_objects: exclude_objects.collect::<Result<_>>()?,
            exclude_secret_types: settings.exclude_secret_types.clone(),
            labels: Selector::parse(&settings.labels)?,
            max_object_bytes: settings.max_object_bytes,
        })
    }

    /// Whether objects of this kind are asked for: the settings want it, and it can be listed and
    /// made again. What can only be read (such as measurements) is nobody's to restore.
    pub(crate) fn wants(&self, kind: &Kind) -> bool {
        (kind.namespaced || self.cluster_resources || is(kind, "", "Namespace"))
            && kind.offers("list")
            && kind.offers("create")
            && self.kinds.none_or_any(kind)
            && !self.exclude_kinds.any(kind)
    }

    /// Whether kinds of this group may be wanted: one that does not answer is then missing from the backup.
    pub(crate) fn wants_group(&self, group: &str) -> bool {
        self.kinds.none_or_some_of(group) && !self.exclude_kinds.all_of(group)
    }

    /// The namespaces to ask for one by one, where the settings name them in full.
    pub(crate) fn literal_namespaces(&self) -> Option<Vec<&str>> {
        self.namespaces.literals()
    }

    /// What becomes of an object of a kind that is wanted. `bytes` is the length of its JSON.
    pub(crate) fn judge(&self, kind: &Kind, head: &Head<'_>, bytes: usize) -> Verdict {
        let name = head.metadata.name.as_ref();
        let namespace = head.namespace().or_else(|| is(kind, "", "Namespace").then_some(name));
        let inside = namespace
            .is_none_or(|namespace| self.namespaces.none_or_any(namespace) && !self.exclude_namespaces.any(namespace));
        let token = || {
            let of = head.secret_type.as_ref().and_then(OneText::text).unwrap_or_default();
            is_secret(kind) && self.exclude_secret_types.iter().any(|excluded| excluded == of)
        };
        let excluded = !inside
            || (head.is_controlled() && self.exclude_controlled.any(kind))
            || self.exclude_objects.iter().any(|pattern| pattern.matches(kind, head.namespace(), name))
            || !self.labels.chooses(|label| head.label(label))
            || token();
        if excluded {
            Verdict::Exclude
        } else if bytes > self.max_object_bytes {
            Verdict::TooLarge
        } else {
            Verdict::Keep
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(name: &str, namespaced: bool, verbs: &[&str]) -> Kind {
        let (group, kind) = name.split_once('/').unwrap();
        let verbs = verbs.iter().map(|verb| (*verb).to_owned()).collect();
        Kind { group: group.into(), version: "v1".into(), kind: kind.into(), plural: "x".into(), namespaced, verbs }
    }

    fn settings(json: &str) -> Settings {
        let mut value = serde_json::json!({"clusters": ["prod"]});
        let more: serde_json::Value = serde_json::from_str(json).unwrap();
        value.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn kinds_that_can_be_listed_and_made_again_are_wanted() {
        let all = Policy::parse(&settings("{}")).unwrap();
        let both = ["list", "create"];
        for (name, verbs, wanted) in [
            ("/ConfigMap", &both[..], true),
            ("/Secret", &both, true),
            ("example.com/Shop", &both, true),
            ("/Event", &both, false),
            ("events.k8s.io/Event", &both, false),
            ("coordination.k8s.io/Lease", &both, false),
            ("/Node", &both, false),
            ("metrics.k8s.io/PodMetrics", &["list", "get"], false),
            ("authorization.k8s.io/SubjectAccessReview", &["create"], false),
        ] {
            assert_eq!(all.wants(&kind(name, true, verbs)), wanted, "{name}");
        }
        let some = Policy::parse(&settings(r#"{"kinds":["apps/*"],"cluster_resources":false}"#)).unwrap();
        assert!(some.wants(&kind("apps/Deployment", true, &both)));
        assert!(!some.wants(&kind("/ConfigMap", true, &both)) && !some.wants(&kind("apps/X", false, &both)));
        assert!(some.wants_group("apps") && !some.wants_group("") && all.wants_group("metrics.k8s.io"));
        assert!(!all.wants_group("coordination.k8s.io"), "all of it is left out");
    }

    fn check(settings_json: &str, of: &str, object: &str, verdict: Verdict) {
        let policy = Policy::parse(&settings(settings_json)).unwrap();
        let head = Head::parse(object).unwrap();
        assert_eq!(policy.judge(&kind(of, true, &[]), &head, object.len()), verdict, "{settings_json} {object}");
    }

    #[test]
    fn the_settings_decide_which_objects_are_kept() {
        use Verdict::{Exclude, Keep, TooLarge};
        let owned = r#"{"metadata":{"name":"web-1","namespace":"shop","ownerReferences":[{"kind":"ReplicaSet","controller":true}]}}"#;
        check("{}", "/Pod", owned, Exclude);
        check("{}", "/Secret", owned, Keep);
        check(r#"{"exclude_controlled":[]}"#, "/Pod", owned, Keep);
        let plain = r#"{"metadata":{"name":"web","namespace":"shop","labels":{"app":"web"}}}"#;
        check("{}", "/Pod", plain, Keep);
        check(r#"{"namespaces":["sh*"]}"#, "/Pod", plain, Keep);
        check(r#"{"namespaces":["db"]}"#, "/Pod", plain, Exclude);
        check(r#"{"exclude_namespaces":["shop"]}"#, "/Pod", plain, Exclude);
        check(r#"{"labels":"app in (web)"}"#, "/Pod", plain, Keep);
        check(r#"{"labels":"app!=web"}"#, "/Pod", plain, Exclude);
        check(r#"{"max_object_bytes":20}"#, "/Pod", plain, TooLarge);
        check(r#"{"max_object_bytes":20,"namespaces":["db"]}"#, "/Pod", plain, Exclude);
        check("{}", "/ConfigMap", r#"{"metadata":{"name":"kube-root-ca.crt","namespace":"a"}}"#, Exclude);
        let namespace = r#"{"metadata":{"name":"shop"}}"#;
        check(r#"{"namespaces":["db"]}"#, "/Namespace", namespace, Exclude);
        check(r#"{"namespaces":["db"]}"#, "rbac.authorization.k8s.io/ClusterRole", namespace, Keep);
        let token = r#"{"metadata":{"name":"t","namespace":"a"},"type":"kubernetes.io/service-account-token"}"#;
        check("{}", "/Secret", token, Exclude);
        check("{}", "/ConfigMap", token, Keep);
    }
}
