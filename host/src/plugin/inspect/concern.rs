//! What a pipeline can fail on: one word for each thing that somebody should look at.

use super::{ApprovalState, Component, Inspection, SignatureState};
use crate::plugin::manifest::RawStdin;
use crate::policy::exec::StdinGrant;
use crate::policy::kube::KubeGrant;
use crate::policy::{Effect, Grants};
use serde::Serialize;

/// Something about a plugin that somebody should look at. Of a file it is what is requested, of a
/// plugin of the configuration what is effective.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Concern {
    /// It runs commands.
    Exec,
    /// It writes the standard input of a command: code execution for a program that reads a language.
    StdinFromPlugin,
    /// Bytes of what is backed up enter the plugin.
    Inspect,
    /// It changes something when it restores.
    Changes,
    /// Commands of it get secrets.
    Secrets,
    /// It is the administrator of a cluster, or reads every Secret of one.
    ClusterAdministrator,
    /// It imports functions that no request covers.
    NeverAllowed,
    /// It imports WASI, which is inert.
    Wasi,
    /// There is no signature that is believed.
    Unsigned,
    /// A configuration has not approved these bytes.
    NotApproved,
    /// No ceiling is over the configuration.
    NoCeiling,
}

impl Concern {
    /// All of them, in order.
    pub const ALL: [Concern; 11] = [
        Concern::Exec,
        Concern::StdinFromPlugin,
        Concern::Inspect,
        Concern::Changes,
        Concern::Secrets,
        Concern::ClusterAdministrator,
        Concern::NeverAllowed,
        Concern::Wasi,
        Concern::Unsigned,
        Concern::NotApproved,
        Concern::NoCeiling,
    ];

    /// The word, as `--fail-on` takes it.
    pub fn name(self) -> &'static str {
        match self {
            Concern::Exec => "exec",
            Concern::StdinFromPlugin => "stdin-from-plugin",
            Concern::Inspect => "inspect",
            Concern::Changes => "changes",
            Concern::Secrets => "secrets",
            Concern::ClusterAdministrator => "cluster-administrator",
            Concern::NeverAllowed => "never-allowed",
            Concern::Wasi => "wasi",
            Concern::Unsigned => "unsigned",
            Concern::NotApproved => "not-approved",
            Concern::NoCeiling => "no-ceiling",
        }
    }

    /// The concern of this name.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|concern| concern.name() == text)
    }
}

/// What concerns somebody about a component, in order.
pub(super) fn of(inspection: &Inspection, component: &Component, grants: Option<&Grants>) -> Vec<Concern> {
    let request = &component.manifest.request;
    let is_true = |concern: &Concern| match (concern, grants) {
        (Concern::Exec, None) => !request.exec.is_empty(),
        (Concern::Exec, Some(grants)) => !grants.exec.is_empty(),
        (Concern::StdinFromPlugin, None) => {
            request.exec.iter().any(|exec| matches!(exec.grant.stdin, Some(RawStdin::Word(_))))
        }
        (Concern::StdinFromPlugin, Some(grants)) => grants.exec.values().any(|exec| exec.stdin == StdinGrant::Plugin),
        (Concern::Inspect, _) => match &inspection.effective {
            Some(effective) => effective.iter().any(|one| one.inspect),
            None => inspection.requests.iter().any(|one| one.inspect),
        },
        (Concern::Changes, _) => match &inspection.effective {
            Some(effective) => effective.iter().any(|one| one.effect == Effect::Changes),
            None => inspection.requests.iter().any(|one| one.effect == Effect::Changes),
        },
        (Concern::Secrets, None) => request.exec.iter().any(|exec| !exec.grant.secrets.is_empty()),
        (Concern::Secrets, Some(grants)) => grants.exec.values().any(|exec| !exec.secrets.is_empty()),
        (Concern::ClusterAdministrator, None) => {
            request.kube.iter().any(|kube| kube.as_grant().is_administrator())
        }
        (Concern::ClusterAdministrator, Some(grants)) => {
            grants.kube.values().flatten().any(KubeGrant::is_administrator)
        }
        (Concern::NeverAllowed, _) => {
            inspection.imports.iter().flat_map(|import| &import.functions).any(|function| !function.requested)
        }
        (Concern::Wasi, _) => component.imports_wasi(),
        (Concern::Unsigned, _) => inspection.signature.state != SignatureState::Good,
        (Concern::NotApproved, _) => inspection.approval.is_some_and(|approval| approval != ApprovalState::Approved),
        (Concern::NoCeiling, _) => inspection.ceilings.is_empty(),
    };
    Concern::ALL.into_iter().filter(is_true).collect()
}
