//! Loading: from bytes to something that can be started, one check after the other.

use super::bindings::PluginPre;
use super::cache::Cache;
use super::component::{self, Component};
use super::context::RunContext;
use super::engine;
use super::instance::Instance;
use super::linker;
use super::manifest::missing_grants;
use super::observer::{Observer, Unobserved};
use super::state::State;
use crate::error::{Error, Result};
use crate::policy::Grants;
use crate::record::PluginIdentity;
use std::sync::Arc;

/// A plugin that was checked, compiled and linked with what is granted; cheap to copy.
#[derive(Clone)]
pub struct Plugin(Arc<Inner>);

struct Inner {
    label: String,
    component: Component,
    pre: PluginPre<State>,
}

impl Plugin {
    /// Loads a plugin from bytes that were read once.
    ///
    /// `label` is its name in the configuration, `sha256` the digest that was approved, `grants`
    /// what the operator grants. In this order: size, digest, manifest, imports, imports against
    /// requests, requests against grants, compiling (or the cache), linking.
    ///
    /// Errors: `Denied` when the digest is not the approved one, or when nothing is granted of an
    /// interface that it needs (the hint is the TOML that is missing); `Invalid` or `Limit` for a
    /// component that is not as it must be.
    pub async fn load(label: &str, bytes: Vec<u8>, sha256: &str, grants: &Grants, cache: &Cache) -> Result<Self> {
        let (label, sha256, grants, cache) = (label.to_owned(), sha256.to_owned(), grants.clone(), cache.clone());
        tokio::task::spawn_blocking(move || Self::load_blocking(label, &bytes, &sha256, &grants, &cache))
            .await
            .map_err(|e| Error::failed("the host failed while it loaded a plugin").because(e))?
    }

    fn load_blocking(label: String, bytes: &[u8], sha256: &str, grants: &Grants, cache: &Cache) -> Result<Self> {
        check_digest(&label, bytes, sha256)?;
        let component = Component::decode(bytes)
            .and_then(|component| component.manifest.check_host().map(|()| component))
            .map_err(|error| error.while_doing(format!("could not load plugin \"{label}\"")))?;
        check_grants(&label, &component, grants)?;
        let engine = engine::shared()?;
        let compiled = cache.component(engine, &component.sha256, bytes)?;
        let linker = linker::for_plugin(engine, &component, &component.manifest.effective(grants))?;
        let pre = linker.instantiate_pre(&compiled).and_then(PluginPre::new).map_err(|e| {
            Error::invalid(format!("plugin \"{label}\" does not fit the contract")).because(format!("{e:#}"))
        })?;
        Ok(Self(Arc::new(Inner { label, component, pre })))
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

fn check_digest(label: &str, bytes: &[u8], expected: &str) -> Result<()> {
    let got = component::digest(bytes);
    if expected.eq_ignore_ascii_case(&got) {
        return Ok(());
    }
    Err(Error::denied(format!("plugin \"{label}\" is not the one that was approved"))
        .fact("expected", format!("sha256 {expected}"))
        .fact("got", format!("sha256 {got}"))
        .hint(format!("see what it can do and approve it: strongroom plugin approve {label}")))
}

fn check_grants(label: &str, component: &Component, grants: &Grants) -> Result<()> {
    let imports = |interface| component.imports_interface(interface);
    match missing_grants(&component.manifest, label, imports("exec"), imports("storage"), grants) {
        None => Ok(()),
        Some(missing) => Err(Error::denied(format!("plugin \"{label}\" imports what it is granted nothing of"))
            .fact("missing", format!("\n{}", missing.trim_end()))
            .hint(format!(
                "grant it with \"strongroom plugin approve {label}\", or write the lines into the configuration"
            ))),
    }
}
