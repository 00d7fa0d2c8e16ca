//! From the configuration to a job that can run: opens the store, loads the plugin, resolves
//! secrets as late as possible. What is not needed for a verb is not opened for it.

use super::Globals;
use crate::bucket::SharedBucket;
use crate::bucket::local::LocalBucket;
use crate::catalog::{Catalog, HostKey, PublicKey, Trust, lease};
use crate::config::{BucketConfig, Config, JobConfig, SecretRef, StoreConfig, StorePlace, secret};
use crate::error::{Error, IoContext, Kind, Result};
use crate::exec::{Place, RunIn};
use crate::id::Label;
use crate::plugin::component::MAX_COMPONENT_BYTES;
use crate::plugin::{Denials, Engine, Plugin};
use crate::policy::Grants;
use crate::run::progress::Progress;
use crate::run::{Job, Sealing};
use crate::secret::Secret;
use crate::store::{self, S3Spec, Store, StoreSpec};
use crate::stream::{Budget, Identity, Recipients};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// One invocation of the command line, with its configuration.
pub struct Session<'a> {
    /// Options that every verb has.
    pub globals: &'a Globals,
    /// The configuration as meant.
    pub config: Config,
    /// Who watches.
    pub progress: Arc<dyn Progress>,
    /// Ends everything.
    pub cancel: CancellationToken,
}

/// What a verb needs of a job.
#[derive(Clone, Copy, Debug, Default)]
pub struct Needs<'a> {
    /// Artifacts are opened: the store's identity is resolved.
    pub identity: bool,
    /// Commands run at this target instead of the job's own place.
    pub target: Option<&'a Label>,
}

impl<'a> Session<'a> {
    /// The configuration that the options name, watched by `progress`.
    pub fn open(globals: &'a Globals, progress: Arc<dyn Progress>, cancel: CancellationToken) -> anyhow::Result<Self> {
        let config = globals.config()?;
        for warning in &config.warnings {
            progress.warning(warning);
        }
        Ok(Self { globals, config, progress, cancel })
    }

    /// This host's key; made by the first run that needs it.
    pub fn host_key(&self) -> Result<HostKey> {
        HostKey::load_or_create(&self.globals.state_dir()?.join("host.key"))
    }

    /// Whose records are believed: this host's, and those of `trusted_hosts`.
    pub fn trust(&self, own: &HostKey) -> Result<Trust> {
        let mut keys = vec![own.public().clone()];
        for text in &self.config.trusted_hosts {
            keys.push(text.parse::<PublicKey>()?);
        }
        Ok(Trust::new(keys))
    }

    /// A job by name; the error names the nearest one.
    pub fn job_config(&self, name: &Label) -> Result<&JobConfig> {
        self.config.jobs.get(name).ok_or_else(|| {
            let names: Vec<&str> = self.config.jobs.keys().map(Label::as_str).collect();
            unknown("job", name, &names, &self.config.path)
        })
    }

    /// A store by name; the error names the nearest one.
    pub fn store_config(&self, name: &Label) -> Result<&StoreConfig> {
        self.config.stores.get(name).ok_or_else(|| {
            let names: Vec<&str> = self.config.stores.keys().map(Label::as_str).collect();
            unknown("store", name, &names, &self.config.path)
        })
    }

    /// Opens a store; nothing is sent to it yet.
    pub async fn store(&self, name: &Label) -> Result<Arc<dyn Store>> {
        let config = self.store_config(name)?;
        store::open(store_spec(&format!("store.{name}"), config)?).await
    }

    /// The catalogue of a store.
    pub async fn catalog(&self, name: &Label) -> Result<Catalog> {
        let trust = self.trust(&self.host_key()?)?;
        Ok(Catalog::new(self.store(name).await?, trust))
    }

    /// The identity that opens what is in a store.
    pub fn identity(&self, name: &Label) -> Result<Option<Arc<Identity>>> {
        let config = self.store_config(name)?;
        if let Some(path) = self.globals.identity() {
            return read_identity(path).map(Some);
        }
        match &config.identity {
            Some(reference) => {
                let text = secret::resolve(reference, &format!("store.{name}.identity"))?;
                Identity::parse(text.expose()).map(Arc::new).map(Some)
            }
            None if !config.encrypted => Ok(None),
            None => Err(Error::invalid(format!("store \"{name}\" is encrypted, and no identity is given to read it"))
                .fact("expected", format!("identity = {{ file = \"…\" }} in [store.{name}], or --identity FILE"))
                .hint("the recovery sheet says where the identity is kept; `verify --depth stored` needs none")),
        }
    }

    /// A job, ready to run.
    pub async fn job(&self, name: &Label, needs: Needs<'_>) -> Result<Job> {
        let job = self.job_config(name)?;
        let store_config = self.store_config(&job.store)?;
        let plugin_config = self.config.plugins.get(&job.plugin).ok_or_else(|| {
            let names: Vec<&str> = self.config.plugins.keys().map(Label::as_str).collect();
            unknown("plugin", &job.plugin, &names, &self.config.path)
        })?;
        let bytes = read_component(&plugin_config.source)?;
        let engine = Engine::new(&self.globals.cache_dir()?, &self.globals.state_dir()?)?;
        let plugin = Plugin::load_approved(&engine, bytes, plugin_config.sha256.as_deref(), &job.plugin, &plugin_config.grants)
            .map_err(|error| error.while_doing(format!("could not load plugin \"{}\" from \"{}\"", job.plugin, plugin_config.source.display())))?;
        plugin.manifest().check_settings(&job.settings)?;

        let (run_in, env, secrets) = match needs.target {
            None => (&job.run_in, &job.env, &job.secrets),
            Some(target) => {
                let target = self.config.targets.get(target).ok_or_else(|| {
                    let names: Vec<&str> = self.config.targets.keys().map(Label::as_str).collect();
                    unknown("target", target, &names, &self.config.path)
                })?;
                (&target.run_in, &target.env, &target.secrets)
            }
        };
        let owner = needs.target.map_or_else(|| format!("job.{name}"), |target| format!("target.{target}"));
        let place = Place { run_in: run_in.clone(), env: env.clone(), secrets: resolve_all(secrets, &owner)? };

        let host_key = Arc::new(self.host_key()?);
        let catalog = Catalog::new(self.store(&job.store).await?, self.trust(&host_key)?);
        let identity = if needs.identity { self.identity(&job.store)? } else { None };
        self.assemble(name, catalog, store_config, identity, Arc::new(plugin), plugin_config.grants.clone(), plugin_config.limits.clone(), place, job.settings.clone(), host_key)
    }

    #[expect(clippy::too_many_arguments, reason = "the one place where the parts of a job come together")]
    fn assemble(
        &self,
        name: &Label,
        catalog: Catalog,
        store: &StoreConfig,
        identity: Option<Arc<Identity>>,
        plugin: Arc<Plugin>,
        grants: Grants,
        limits: crate::plugin::limits::Limits,
        place: Place,
        settings: serde_json::Value,
        host_key: Arc<HostKey>,
    ) -> Result<Job> {
        Ok(Job {
            name: name.clone(),
            store: catalog.store().clone(),
            catalog,
            sealing: sealing(store)?,
            identity,
            plugin,
            grants,
            limits,
            place: Arc::new(place),
            buckets: buckets(&self.config.buckets)?,
            settings,
            host_key,
            budget: Budget::for_this_machine(),
            scratch_root: self.globals.scratch_dir(),
            lock_dir: self.globals.state_dir()?.join("locks"),
            lease_duration: lease::DURATION,
            denials: Arc::new(Denials::default()),
            progress: self.progress.clone(),
            cancel: self.cancel.clone(),
        })
    }
}

/// How a store's artifacts are sealed.
fn sealing(config: &StoreConfig) -> Result<Sealing> {
    let recipients = if config.encrypted { Some(Arc::new(Recipients::parse(&config.recipients)?)) } else { None };
    Ok(Sealing {
        recipients,
        level: config.level,
        part_bytes: config.part_bytes,
        parts_per_segment: config.parts_per_segment,
        parts_in_flight: config.parts_in_flight,
    })
}

/// Plain data for [`store::open`], with its secrets resolved.
pub fn store_spec(owner: &str, config: &StoreConfig) -> Result<StoreSpec> {
    match &config.place {
        StorePlace::Local { path } => Ok(StoreSpec::Local { path: path.clone() }),
        StorePlace::S3(s3) => {
            let secret = |reference: &Option<SecretRef>, key: &str| -> Result<Option<Secret>> {
                reference.as_ref().map(|r| secret::resolve(r, &format!("{owner}.{key}"))).transpose()
            };
            Ok(StoreSpec::S3(S3Spec {
                bucket: s3.bucket.clone(),
                prefix: s3.prefix.clone(),
                region: s3.region.clone(),
                endpoint: s3.endpoint.clone(),
                path_style: s3.path_style,
                access_key: secret(&s3.access_key, "access_key")?,
                secret_key: secret(&s3.secret_key, "secret_key")?,
                session_token: secret(&s3.session_token, "session_token")?,
            }))
        }
    }
}

fn buckets(config: &BTreeMap<Label, BucketConfig>) -> Result<BTreeMap<String, SharedBucket>> {
    let mut open = BTreeMap::new();
    for (label, BucketConfig::Local { path }) in config {
        let bucket: SharedBucket = Arc::new(LocalBucket::open(path)?);
        open.insert(label.to_string(), bucket);
    }
    Ok(open)
}

fn resolve_all(secrets: &BTreeMap<String, SecretRef>, owner: &str) -> Result<BTreeMap<String, Secret>> {
    secrets.iter().map(|(name, r)| Ok((name.clone(), secret::resolve(r, &format!("{owner}.secrets.{name}"))?))).collect()
}

/// Reads an age identity file.
pub fn read_identity(path: &Path) -> Result<Arc<Identity>> {
    let text = secret::resolve(&SecretRef::File(path.to_owned()), "--identity")?;
    Identity::parse(text.expose()).map(Arc::new)
}

/// A component's bytes, read once, at most [`MAX_COMPONENT_BYTES`].
pub fn read_component(path: &Path) -> Result<Bytes> {
    use std::io::Read;
    let file = std::fs::File::open(path).doing(|| format!("open the plugin \"{}\"", path.display())).map_err(|error| {
        if error.kind() == Kind::NotFound {
            error.hint("build it with `strongroom plugin build CRATE`, or correct `source`; paths are relative to the configuration file")
        } else {
            error
        }
    })?;
    let mut bytes = Vec::new();
    let limit = MAX_COMPONENT_BYTES as u64;
    file.take(limit + 1).read_to_end(&mut bytes).doing(|| format!("read the plugin \"{}\"", path.display()))?;
    if bytes.len() as u64 > limit {
        return Err(Error::limit(format!("the plugin \"{}\" is larger than a component may be", path.display()))
            .fact("expected", format!("at most {}", crate::unit::bytes(limit))));
    }
    Ok(bytes.into())
}

fn unknown(what: &str, name: &Label, names: &[&str], path: &Path) -> Error {
    let error = Error::invalid(format!("there is no {what} \"{name}\"")).fact("where", path.display().to_string());
    let nearest = names.iter().map(|n| (strsim::jaro_winkler(n, name.as_str()), *n)).filter(|(s, _)| *s > 0.7).max_by(|a, b| a.0.total_cmp(&b.0));
    match (nearest, names) {
        (Some((_, near)), _) => error.hint(format!("did you mean \"{near}\"?")),
        (None, []) => error.hint(format!("add [{what}.{name}]; the README has an example")),
        (None, names) => error.hint(format!("there are: {}", names.join(", "))),
    }
}
