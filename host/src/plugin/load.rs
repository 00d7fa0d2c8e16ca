//! Loading: from bytes to something that can be started, one check after the other.
//!
//! The order is a promise: nothing looks into bytes that were not approved, nothing compiles what was
//! not decoded, and nothing runs what was not granted. The bytes are read once, by the caller.

use super::bindings::PluginPre;
use super::cache::Cache;
use super::component::{self, Component};
use super::context::RunContext;
use super::instance::Instance;
use super::linker;
use super::manifest::{missing_grants, unknown_commands};
use super::observer::{Observer, Unobserved};
use super::signature::{self, Signed, TrustedKey};
use super::state::State;
use crate::error::{Error, Result};
use crate::policy::Grants;
use crate::record::PluginIdentity;
use std::collections::BTreeSet;
use std::sync::Arc;

/// What must be true of a component's bytes before anything looks into them.
#[derive(Clone, Debug, Default)]
pub struct Approval {
    /// The digest that was approved, in hex.
    pub sha256: String,
    /// The text of its signature's file, if there is one.
    pub signature: Option<String>,
    /// Whom to believe.
    pub trust: Trust,
}

/// Whose signatures count, and what never runs.
#[derive(Clone, Debug, Default)]
pub struct Trust {
    /// Keys that are trusted to sign this plugin; several while keys are changed.
    pub keys: Vec<TrustedKey>,
    /// Whether a plugin without a good signature is refused.
    pub required: bool,
    /// SHA-256 of components that must never run, in lower case.
    pub revoked: BTreeSet<String>,
}

impl From<&str> for Approval {
    /// Of exactly these bytes, whoever signed them.
    fn from(sha256: &str) -> Self {
        Self { sha256: sha256.to_owned(), ..Self::default() }
    }
}

impl From<&String> for Approval {
    fn from(sha256: &String) -> Self {
        sha256.as_str().into()
    }
}

/// A plugin that was checked, compiled and linked with what is granted; cheap to copy.
#[derive(Clone)]
pub struct Plugin(Arc<Inner>);

struct Inner {
    label: String,
    component: Component,
    signed: Option<Signed>,
    pre: PluginPre<State>,
}

impl Plugin {
    /// Loads a plugin from bytes that were read once.
    ///
    /// `label` is its name in the configuration, `approval` what was approved and who is trusted,
    /// `grants` what the operator grants and which ceilings are over it. In this order, each with an
    /// error of its own: size, revocation, digest, signature, manifest, imports, imports against
    /// requests, requests against grants, grants against ceilings, compiling (or the cache), linking.
    ///
    /// Errors: `Denied` when the bytes are revoked, not the approved ones or not signed as they must
    /// be, when nothing is granted of an interface that it needs (the hint is the TOML that is
    /// missing), or when a grant is over a ceiling; `Invalid` for a granted command that it does not
    /// request; `Invalid` or `Limit` for a component that is not as it must be.
    pub async fn load(
        label: &str,
        bytes: Vec<u8>,
        approval: impl Into<Approval>,
        grants: &Grants,
        cache: &Cache,
    ) -> Result<Self> {
        let (label, approval, grants, cache) = (label.to_owned(), approval.into(), grants.clone(), cache.clone());
        tokio::task::spawn_blocking(move || Self::load_blocking(label, &bytes, &approval, &grants, &cache))
            .await
            .map_err(|e| Error::failed("the host failed while it loaded a plugin").because(e))?
    }

    fn load_blocking(label: String, bytes: &[u8], approval: &Approval, grants: &Grants, cache: &Cache) -> Result<Self> {
        component::check_size(bytes)?;
        let signed = approval.check(&label, bytes)?;
        let component = Component::decode(bytes)
            .and_then(|component| component.manifest.check_host().map(|()| component))
            .map_err(|error| error.while_doing(format!("could not load plugin \"{label}\"")))?;
        check_grants(&label, &component, grants)?;
        let effective = component.manifest.effective(grants);
        check_ceilings(&label, &effective)?;
        let engine = &cache.engine()?;
        let compiled = cache
            .component(engine, &component.sha256, bytes)
            .map_err(|error| error.while_doing(format!("could not compile plugin \"{label}\"")))?;
        let linker = linker::for_plugin(engine, &component, &effective)?;
        let pre = linker.instantiate_pre(&compiled).and_then(PluginPre::new).map_err(|e| {
            Error::invalid(format!("plugin \"{label}\" does not fit the contract")).because(format!("{e:#}"))
        })?;
        Ok(Self(Arc::new(Inner { label, component, signed, pre })))
    }

    /// Starts it for one run. The grants of the run's policy are cut down to the manifest's requests.
    pub async fn start(&self, run: RunContext) -> Result<Instance> {
        self.start_observed(run, Arc::new(Unobserved)).await
    }

    /// Starts it for one run in which every call is shown to `observer`.
    pub async fn start_observed(&self, run: RunContext, observer: Arc<dyn Observer>) -> Result<Instance> {
        Instance::start(self, run, observer).await
    }

    /// Its name in the configuration.
    pub fn label(&self) -> &str {
        &self.0.label
    }

    /// What it is, as decoded.
    pub fn component(&self) -> &Component {
        &self.0.component
    }

    /// Who signed it, if a signature was there and there were keys to check it with.
    pub fn signed(&self) -> Option<&Signed> {
        self.0.signed.as_ref()
    }

    /// What a record says of it.
    pub fn identity(&self) -> PluginIdentity {
        let component = &self.0.component;
        PluginIdentity {
            name: component.manifest.name.clone(),
            version: component.manifest.version.clone(),
            sha256: component.sha256.clone(),
        }
    }

    pub(super) fn pre(&self) -> &PluginPre<State> {
        &self.0.pre
    }
}

impl Approval {
    /// Whether these are the bytes that may be looked into: not revoked, the approved ones, signed as
    /// they must be. Who signed them, if that was checked.
    ///
    /// Errors: `Denied`; `Invalid` for a signature file that is none.
    pub fn check(&self, label: &str, bytes: &[u8]) -> Result<Option<Signed>> {
        let got = component::digest(bytes);
        self.trust.check_revoked(label, &got)?;
        if !self.sha256.eq_ignore_ascii_case(&got) {
            return Err(Error::denied(format!("plugin \"{label}\" is not the one that was approved"))
                .fact("expected", format!("sha256 {}", self.sha256))
                .fact("got", format!("sha256 {got}"))
                .hint(format!("see what it can do and approve it: strongroom plugin approve {label}")));
        }
        self.trust.check_signature(label, bytes, self.signature.as_deref())
    }
}

impl Trust {
    /// Refuses a digest that was revoked.
    pub fn check_revoked(&self, label: &str, sha256: &str) -> Result<()> {
        if !self.revoked.contains(sha256) {
            return Ok(());
        }
        Err(Error::denied(format!("plugin \"{label}\" was revoked: it never runs again"))
            .fact("sha256", sha256)
            .hint("use another version of it; `revoked` in the configuration or a ceiling names this one"))
    }

    /// Checks a signature over the same bytes that were approved, where one is there or required.
    /// Without any trusted key a signature says nothing, and is not looked at unless it is required.
    pub fn check_signature(&self, label: &str, bytes: &[u8], signature: Option<&str>) -> Result<Option<Signed>> {
        match signature {
            None if self.required => Err(Error::denied(format!("plugin \"{label}\" is not signed, and it has to be"))
                .fact("expected", format!("a file beside it whose name ends in \"{}\"", signature::SUFFIX))
                .hint("fetch the signature from the vendor, or sign it yourself: strongroom plugin sign")),
            Some(text) if self.required || !self.keys.is_empty() => signature::verify(bytes, text, &self.keys)
                .map(Some)
                .map_err(|error| error.while_doing(format!("could not believe the signature of plugin \"{label}\""))),
            _ => Ok(None),
        }
    }
}

/// Whether every granted command is one that the plugin requests, and every interface that it imports has
/// something granted of it.
fn check_grants(label: &str, component: &Component, grants: &Grants) -> Result<()> {
    let unknown = unknown_commands(&component.manifest, grants);
    if let Some(first) = unknown.first() {
        let mut error = Error::invalid(format!("plugin \"{label}\" is granted a command that it does not request"));
        for command in &unknown {
            error = error.fact("grant", format!("plugin.{label}.grant.exec.{}", command.name));
        }
        let requested: Vec<_> = component.manifest.request.exec.iter().map(|request| request.name.as_str()).collect();
        let requested = if requested.is_empty() { "no command".to_owned() } else { requested.join(", ") };
        return Err(error.fact("requested", requested).hint(match first.nearest {
            Some(nearest) => format!("did you mean \"{nearest}\"?"),
            None => format!("take it out, or let \"strongroom plugin approve {label}\" write the grants anew"),
        }));
    }
    let imports = |interface: &str| component.imports_interface(interface);
    match missing_grants(&component.manifest, label, imports, grants) {
        None => Ok(()),
        Some(missing) => Err(Error::denied(format!("plugin \"{label}\" imports what it is granted nothing of"))
            .fact("missing", format!("\n{}", missing.trim_end()))
            .hint(format!(
                "grant it with \"strongroom plugin approve {label}\", or write the lines into the configuration"
            ))),
    }
}

/// The configuration has shown this with both places; here it holds whoever made the grants.
fn check_ceilings(label: &str, grants: &Grants) -> Result<()> {
    for ceiling in &grants.ceilings {
        let exec = grants.exec.iter().map(|(name, grant)| (format!("exec.{name}"), ceiling.exec_grant(grant)));
        let artifacts = grants.artifacts.iter().map(|grant| ("artifacts".to_owned(), ceiling.artifact_grant(grant)));
        let scratch = grants.scratch.iter().map(|grant| ("scratch".to_owned(), ceiling.scratch_grant(grant)));
        let metrics = grants.metrics.iter().map(|grant| ("metrics".to_owned(), ceiling.metrics_grant(grant)));
        for (what, checked) in exec.chain(artifacts).chain(scratch).chain(metrics) {
            if let Err(over) = checked {
                return Err(Error::denied(format!("a grant of plugin \"{label}\" is over the ceiling"))
                    .fact("grant", format!("plugin.{label}.grant.{what}"))
                    .fact("ceiling", over.at())
                    .fact("reason", over.reason));
            }
        }
    }
    Ok(())
}
