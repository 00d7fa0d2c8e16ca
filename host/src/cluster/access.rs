//! What the host's own identity may do, as the cluster says.

use super::failure::Doing;
use super::request::{Ask, JSON};
use super::{Cluster, Kind, failure};
use crate::error::Result;
use http::Method;
use serde_json::{Value, json};

/// A question to the cluster's access control.
#[derive(Clone, Debug)]
pub struct Question {
    /// In the cluster's words, such as `list`.
    pub verb: String,
    /// The kind.
    pub kind: Kind,
    /// None is all namespaces, and what lies in none.
    pub namespace: Option<String>,
}

impl Cluster {
    /// Whether the host's own identity may do this: a `SelfSubjectAccessReview`, which changes nothing.
    pub async fn can_i(&self, question: &Question) -> Result<bool> {
        let Question { verb, kind, namespace } = question;
        let review = json!({
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectAccessReview",
            "spec": { "resourceAttributes": {
                "verb": verb, "group": kind.group, "version": kind.version, "resource": kind.plural, "namespace": namespace,
            }},
        });
        let target = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews".to_owned();
        let doing = Doing::plain("ask what the host may do");
        let mut ask = Ask::send(Method::POST, target, JSON, review.to_string().into_bytes(), doing);
        ask.repeatable = true;
        let body = self.send_ok(&ask).await?;
        let answer: Value = serde_json::from_slice(&body).map_err(|error| failure::not_json(self, &error))?;
        Ok(answer["status"]["allowed"].as_bool().unwrap_or(false))
    }
}
