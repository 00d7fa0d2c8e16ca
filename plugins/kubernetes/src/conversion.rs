//! Definitions whose objects are converted by a webhook: those objects can be written only when the
//! workload behind the webhook is ready.

use crate::clean::{at, text};
use serde_json::Value;
use std::collections::BTreeSet;
use std::time::Duration;
use strongroom_plugin::kube::{Cluster, Kind, Reference};
use strongroom_plugin::{Error, Result};

/// Namespace and name of the Service that converts objects of a definition.
pub(crate) fn service(definition: &Value) -> Option<(String, String)> {
    if text(definition, &["spec", "conversion", "strategy"]) != Some("Webhook") {
        return None;
    }
    let at = |field: &str| text(definition, &["spec", "conversion", "webhook", "clientConfig", "service", field]);
    Some((at("namespace")?.to_owned(), at("name")?.to_owned()))
}

/// Group and kind of a definition, where it converts through a webhook.
pub(crate) fn converted(definition: &Value) -> Option<(String, String)> {
    if text(definition, &["spec", "conversion", "strategy"]) != Some("Webhook") {
        return None;
    }
    defined(definition)
}

/// Group and kind that a definition defines.
pub(crate) fn defined(definition: &Value) -> Option<(String, String)> {
    let group = text(definition, &["spec", "group"])?.to_owned();
    Some((group, text(definition, &["spec", "names", "kind"])?.to_owned()))
}

/// Waits until the Deployments behind these Services are available. Those that do not become so come back with
/// why: the cluster then refuses the objects, and says so for each.
pub(crate) fn wait(
    cluster: &Cluster,
    kinds: &[Kind],
    services: &BTreeSet<(String, String)>,
    timeout: Duration,
) -> Vec<(String, Error)> {
    let find = |group: &str, name: &str| kinds.iter().find(|kind| kind.group == group && kind.kind == name);
    let (Some(service), Some(deployment)) = (find("", "Service"), find("apps", "Deployment")) else {
        return Vec::new();
    };
    let waited = services.iter().map(|(namespace, name)| {
        let waited = wait_for(cluster, service, deployment, namespace, name, timeout);
        Some((Reference::new(service, Some(namespace), name.as_str()).to_string(), waited.err()?))
    });
    waited.flatten().collect()
}

fn wait_for(
    cluster: &Cluster,
    service: &Kind,
    deployment: &Kind,
    namespace: &str,
    name: &str,
    timeout: Duration,
) -> Result<()> {
    let found: Value = serde_json::from_str(&cluster.get(&Reference::new(service, Some(namespace), name))?)?;
    let mut listing = cluster.list(deployment).namespace(namespace).start()?;
    while let Some(page) = listing.next_page()? {
        for object in page.objects {
            let object: Value = serde_json::from_str(&object)?;
            if let Some(name) = text(&object, &["metadata", "name"]).filter(|_| selects(&found, &object)) {
                cluster.wait(&Reference::new(deployment, Some(namespace), name), "Available", "True", timeout)?;
            }
        }
    }
    Ok(())
}

/// Whether a Service sends to the pods of a Deployment.
fn selects(service: &Value, deployment: &Value) -> bool {
    let Some(selector) = at(service, &["spec", "selector"]).and_then(Value::as_object) else { return false };
    let label = |name: &str| text(deployment, &["spec", "template", "metadata", "labels", name]);
    !selector.is_empty() && selector.iter().all(|(name, value)| label(name) == value.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_definition_says_who_converts() {
        let definition = json!({"spec": {
            "group": "example.com", "names": {"kind": "Shop"},
            "conversion": {"strategy": "Webhook", "webhook": {"clientConfig": {"service": {"namespace": "ops", "name": "hook"}}}},
        }});
        assert_eq!(service(&definition), Some(("ops".into(), "hook".into())));
        assert_eq!(converted(&definition), Some(("example.com".into(), "Shop".into())));
        let plain =
            json!({"spec": {"group": "example.com", "names": {"kind": "Shop"}, "conversion": {"strategy": "None"}}});
        assert_eq!((service(&plain), converted(&plain)), (None, None));
        assert!(defined(&plain).is_some());
    }

    #[test]
    fn a_service_selects_by_every_label() {
        let service = |selector: Value| json!({"spec": {"selector": selector}});
        let deployment = json!({"spec": {"template": {"metadata": {"labels": {"app": "hook", "tier": "x"}}}}});
        assert!(selects(&service(json!({"app": "hook"})), &deployment));
        assert!(!selects(&service(json!({"app": "hook", "tier": "y"})), &deployment));
        assert!(!selects(&service(json!({})), &deployment) && !selects(&json!({}), &deployment));
    }
}
