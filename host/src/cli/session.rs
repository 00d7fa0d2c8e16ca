//! From the configuration to a job that can run: opens the store, loads the plugin. What a verb does
//! not need is not opened for it. The secrets of commands stay references until a command starts; a
//! store's are fetched when it is opened, its identity when artifacts are about to be read.

mod cluster;

use super::{BareStore, Globals};
use crate::audit::Log;
use crate::bucket::OnDemand;
use crate::bucket::SharedBucket;
use crate::catalog::{Catalog, HostKey, PublicKey, Trust, lease};
use crate::config::place::Directories;
use crate::config::{
    BucketConfig, Config, JobConfig, PluginConfig, SecretRef, StoreConfig, StorePlace, environment, secret,
};
use crate::error::{Error, IoContext, Kind, Result};
use crate::exec::{Place, Pod, RunIn, Several};
use crate::failpoint;
use crate::id::Label;
use crate::metrics::Pending;
use crate::plugin::compiler::Compiler;
use crate::plugin::limits::Limits;
use crate::plugin::{Approval, Cache, Plugin, component, signature};
use crate::policy::Verb;
use crate::progress::Progress;
use crate::run::{Job, LateIdentity, Sealing, Terms};
use crate::secret::Secret;
use crate::store::bandwidth::Bandwidth;
use crate::store::pace::Pace;
use crate::store::retry::RetryPolicy;
use crate::store::s3::{S3Credentials, S3Spec};
use crate::store::{self, StoreSpec};
use crate::stream::{Budget, BudgetSettings, Recipients};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// One invocation of the command line, with its configuration.
pub struct Session {
    /// The configuration as meant.
    pub config: Config,
    /// Directories of this user.
    pub directories: Directories,
    /// Who watches.
    pub progress: Arc<dyn Progress>,
    /// Ends everything.
    pub cancel: CancellationToken,
    /// What the run wants changed of metrics.
    pub pending: Arc<Pending>,
    /// How patient it is with a store that does not answer.
    pub patience: RetryPolicy,
}

/// What a verb needs of a job.
#[derive(Clone, Debug)]
pub struct Needs {
    /// The verb: a job may have other credentials, and fewer grants, for each.
    pub verb: Verb,
    /// Artifacts are opened: the store's identity is resolved.
    pub identity: bool,
    /// Commands run at this target instead of the job's own place.
    pub target: Option<Label>,
}

impl Needs {
    /// What a verb needs that opens no artifact and has no target.
    pub fn of(verb: Verb) -> Self {
        Self { verb, identity: false, target: None }
    }
}

impl Session {
    /// A session with the configuration that the flags name.
    pub fn open(globals: &Globals, cancel: CancellationToken) -> Result<Self> {
        let config = globals.load().map_err(|error| super::audit::over_a_ceiling(globals, error))?;
        Self::with(globals, config, cancel)
    }

    /// A session with a configuration that was made, or read elsewhere.
    pub fn with(globals: &Globals, config: Config, cancel: CancellationToken) -> Result<Self> {
        let (directories, progress) = (globals.directories()?, globals.progress());
        let (pending, patience) = (Arc::default(), RetryPolicy::default());
        Ok(Self { config, directories, progress, cancel, pending, patience })
    }

    /// The same, for a question that somebody waits for.
    #[must_use]
    pub fn in_a_hurry(mut self) -> Self {
        self.patience = RetryPolicy::IN_A_HURRY;
        self
    }

    /// A session for a store that no configuration describes, where its address is given; else as
    /// [`Self::open`]. The label is the store's in either case, if it is known already.
    pub fn open_or_bare(
        globals: &Globals,
        bare: &BareStore,
        cancel: CancellationToken,
    ) -> Result<(Self, Option<Label>)> {
        let Some(store) = bare.config()? else {
            return Ok((Self::open(globals, cancel)?, None));
        };
        let label: Label = "store".parse()?;
        let config = Config { stores: BTreeMap::from([(label.clone(), store)]), ..Config::default() };
        Ok((Self::with(globals, config, cancel)?, Some(label)))
    }

    /// This host's key; made by the first run that needs it.
    pub fn host_key(&self) -> Result<HostKey> {
        HostKey::load_or_create(&self.host_key_file())
    }

    /// Where this host's key lies.
    pub fn host_key_file(&self) -> PathBuf {
        self.directories.state.join("host.key")
    }

    /// The log of what plugins do on this host.
    pub fn audit(&self, host_key: &Arc<HostKey>) -> Log {
        Log::new(&self.directories.state.join("audit"), host_key.clone(), self.config.audit_keep)
    }

    /// Whose records are believed: this host's, and those of `trusted_hosts`.
    fn trust(&self, own: &HostKey) -> Result<Trust> {
        let mut keys = vec![own.public().clone()];
        for text in &self.config.trusted_hosts {
            keys.push(text.parse::<PublicKey>().map_err(|error| error.while_doing("could not read trusted_hosts"))?);
        }
        Ok(Trust::new(keys))
    }

    /// The catalogue of a store; nothing is sent to it yet. `signer` is believed besides.
    pub async fn catalog(&self, store: &Label, signer: Option<&str>) -> Result<Catalog> {
        let config = self.config.store(store.as_str())?.1;
        let trust = self.trust(&self.host_key()?)?;
        let pace = pace(config, Limits::default().open_transfers);
        let catalog =
            Catalog::new(store::open_paced(self.spec(store, config)?, self.patience(config), pace).await?, trust);
        Ok(match signer {
            Some(key) => catalog.trusting(key.parse()?),
            None => catalog,
        })
    }

    /// The same for what nobody waits for: a store in trouble is given up soon.
    pub async fn catalog_in_a_hurry(&self, store: &Label) -> Result<Catalog> {
        let config = self.config.store(store.as_str())?.1;
        let trust = self.trust(&self.host_key()?)?;
        let opened = store::open_paced(self.spec(store, config)?, RetryPolicy::IN_A_HURRY, pace(config, 1)).await?;
        Ok(Catalog::new(opened, trust))
    }

    /// How patient it is with this store: as its configuration says, unless somebody waits for an answer.
    fn patience(&self, config: &StoreConfig) -> RetryPolicy {
        config.patience.map_or(self.patience, |wanted| self.patience.lasting(wanted))
    }

    /// Memory and workers for the transfers of a store.
    pub fn budget(config: &StoreConfig) -> Result<Arc<Budget>> {
        let n_parts_in_flight = config.parts_in_flight;
        Budget::new(BudgetSettings { n_parts_in_flight, part_bytes: config.part_bytes, ..BudgetSettings::default() })
    }

    /// A job, ready to run.
    pub async fn job(&self, name: &str, needs: Needs) -> Result<Job> {
        let (name, job) = self.config.job(name)?;
        let (store_label, store) = self.config.store(job.store.as_str())?;
        let (label, plugin) = self.config.plugin(job.plugin.as_str())?;
        let host_key = Arc::new(self.host_key()?);
        let audit = self.audit(&host_key);
        let refused = |bytes: Option<&[u8]>, error| super::audit::refused(&audit, &self.config, name, bytes, error);
        let bytes = read_component(&plugin.source).map_err(|error| refused(None, error))?;
        let signature = read_signature(&plugin.signature).map_err(|error| refused(Some(&bytes), error))?;
        let Some(sha256) = &plugin.sha256 else {
            let error = Error::denied(format!("plugin \"{label}\" was not approved: nothing of it runs"))
                .fact("expected", format!("sha256 in [plugin.{label}]"))
                .hint(format!("see what it asks for and approve it: strongroom plugin approve {label}"));
            return Err(refused(Some(&bytes), error));
        };
        if let Err(error) = self.check_buckets(label, plugin) {
            return Err(refused(Some(&bytes), error));
        }
        if let Err(error) = self.check_clusters(label, plugin) {
            return Err(refused(Some(&bytes), error));
        }
        let cache =
            Cache::open(&self.directories.cache, &self.directories.state, Compiler::child()?)?.within(&plugin.limits);
        let approval =
            Approval { sha256: sha256.clone(), signature: signature.clone(), trust: self.config.trust(plugin) };
        let loaded = match Plugin::load(label.as_str(), bytes.to_vec(), approval, &plugin.grants, &cache).await {
            Ok(loaded) => loaded,
            Err(error) => return Err(refused(Some(&bytes), error)),
        };
        loaded.component().manifest.check_settings(&job.settings).map_err(|error| {
            error.while_doing(format!("the settings of job \"{name}\" are not what plugin \"{label}\" takes"))
        })?;
        let catalog = Catalog::new(
            store::open_paced(
                self.spec(store_label, store)?,
                self.patience(store),
                pace(store, plugin.limits.open_transfers),
            )
            .await?,
            self.trust(&host_key)?,
        );
        // One that nobody could check is not worth keeping: it would stand in the way of a good one.
        let plugin_signature = loaded.signed().and(signature);
        Ok(Job {
            name: name.clone(),
            store: catalog.store().clone(),
            catalog,
            sealing: sealing(store)?,
            identity: if needs.identity { self.identity(store_label, store)? } else { None },
            plugin: loaded,
            plugin_bytes: bytes,
            plugin_signature,
            verb: needs.verb,
            grants: job.narrowed(&plugin.grants, None),
            terms: terms(name, job),
            limits: plugin.limits.clone(),
            place: Arc::new(self.place(name, job, &needs)?),
            buckets: self.buckets(),
            clusters: self.clusters(),
            metrics: super::measure::lent(self, name, job)?,
            settings: job.settings.clone(),
            host_key,
            audit,
            configuration: super::audit::configuration(&self.config),
            budget: Self::budget(store)?,
            scratch_root: std::env::temp_dir(),
            lock_dir: self.directories.state.join("locks"),
            restore_notes: self.directories.state.join("restores"),
            lease_duration: failpoint::lease_duration(lease::DURATION),
            new_source: None,
            progress: self.progress.clone(),
            cancel: self.cancel.clone(),
        })
    }

    /// Whether the buckets that are granted lie where every ceiling allows, with links followed: the
    /// configuration could only compare paths as they are written.
    fn check_buckets(&self, label: &Label, plugin: &PluginConfig) -> Result<()> {
        for ceiling in self.config.ceilings.list() {
            for (name, grants) in &plugin.grants.buckets {
                let Some((_, BucketConfig::Local { path })) =
                    self.config.buckets.iter().find(|(bucket, _)| bucket.as_str() == name)
                else {
                    continue;
                };
                // One that is not there is refused when it is opened.
                let real = path.canonicalize().unwrap_or_else(|_| path.clone());
                if let Some(over) = grants.iter().find_map(|grant| ceiling.bucket_grant(&real, grant).err()) {
                    return Err(Error::denied(format!("a grant of plugin \"{label}\" is over the ceiling"))
                        .fact("grant", format!("plugin.{label}.grant.bucket.{name}"))
                        .fact("bucket", format!("\"{}\"", real.display()))
                        .fact("ceiling", over.at())
                        .fact("reason", over.reason));
                }
            }
        }
        Ok(())
    }

    /// The identity that opens what is in a store; fetched when the first artifact is about to be opened.
    fn identity(&self, label: &Label, store: &StoreConfig) -> Result<Option<Arc<LateIdentity>>> {
        let Some(reference) = store.identity.clone() else {
            // Without encryption there is nothing to open.
            if !store.encrypted {
                return Ok(None);
            }
            return Err(Error::invalid(format!("store \"{label}\" is encrypted, and there is no identity to read it"))
                .fact("expected", format!("identity = {{ file = \"…\" }} in [store.{label}]"))
                .hint("the recovery sheet says where the identity is kept; `verify --depth stored` needs none"));
        };
        let (key, progress) = (format!("store.{label}.identity"), self.progress.clone());
        let fetch = move || resolve(&reference, &key, &progress);
        Ok(Some(LateIdentity::new(format!("the identity of store \"{label}\""), fetch)))
    }

    fn place(&self, name: &Label, job: &JobConfig, needs: &Needs) -> Result<Place> {
        let (run_in, env, secrets) = match &needs.target {
            None => {
                let (env, secrets) = job.surroundings(name, needs.verb);
                (&job.run_in, env, secrets)
            }
            Some(label) => {
                let target = self.config.target(label.as_str())?.1;
                let secrets = secret::of_table(&target.secrets, &format!("target.{label}.secrets"));
                (&target.run_in, target.env.clone(), secrets)
            }
        };
        let (secrets, warnings) = secret::late(secrets, environment::process)?;
        warnings.iter().for_each(|warning| self.progress.warn(warning));
        let secrets = secrets.withholding(self.config.secret_variables());
        let pod = match run_in {
            RunIn::Pod(spec) => {
                // Who opens artifacts sends what is in them into the pod.
                let (restores, several) =
                    if needs.identity { (true, Several::Refuse) } else { (false, Several::First) };
                Some(Pod::new(spec.clone(), self.cluster(&spec.cluster, restores)?, several))
            }
            RunIn::Local { .. } | RunIn::Container { .. } => None,
        };
        Ok(Place { run_in: run_in.clone(), env, secrets, pod })
    }

    /// Every bucket of the configuration; none is opened before it is used.
    fn buckets(&self) -> BTreeMap<String, SharedBucket> {
        let on_demand = |label: &Label, path: &Path| OnDemand::new(label.to_string(), path.to_owned());
        let bucket = |(label, BucketConfig::Local { path }): (&Label, &BucketConfig)| {
            (label.to_string(), Arc::new(on_demand(label, path)) as SharedBucket)
        };
        self.config.buckets.iter().map(bucket).collect()
    }

    /// Plain data for [`store::open`], with its secrets resolved.
    fn spec(&self, label: &Label, config: &StoreConfig) -> Result<StoreSpec> {
        let s3 = match &config.place {
            StorePlace::Local { path } => return Ok(StoreSpec::Local { path: path.clone() }),
            StorePlace::S3(s3) => s3,
        };
        let resolve =
            |reference: &SecretRef, key: &str| resolve(reference, &format!("store.{label}.{key}"), &self.progress);
        let credentials = match (&s3.access_key, &s3.secret_key) {
            (Some(access), Some(secret)) => Some(S3Credentials {
                access_key: resolve(access, "access_key")?,
                secret_key: resolve(secret, "secret_key")?,
                session_token: s3.session_token.as_ref().map(|token| resolve(token, "session_token")).transpose()?,
            }),
            _ => None,
        };
        Ok(StoreSpec::S3(S3Spec {
            bucket: s3.bucket.clone(),
            prefix: s3.prefix.clone(),
            region: s3.region.clone(),
            endpoint: s3.endpoint.clone(),
            path_style: s3.path_style,
            credentials,
            blotted: secret::of_platform(environment::process),
            allow_plaintext: false,
            stall: s3.stall,
            lock: s3.object_lock,
        }))
    }
}

/// What differs between the verbs of a job.
fn terms(label: &Label, job: &JobConfig) -> BTreeMap<Verb, Terms> {
    let of = |verb: Verb| Terms {
        narrowing: job.verbs.get(&verb).and_then(|own| own.grants.clone()),
        secrets: job.surroundings(label, verb).1.into_iter().map(|secret| secret.name).collect(),
    };
    [Verb::Backup, Verb::Verify, Verb::Restore, Verb::Diagnose].map(|verb| (verb, of(verb))).into()
}

/// Fetches the secret behind a reference; `key` is where the configuration has it.
fn resolve(reference: &SecretRef, key: &str, progress: &Arc<dyn Progress>) -> Result<Secret> {
    let secret::Resolved { secret, warning } = secret::resolve(reference, key, &environment::process)?;
    if let Some(warning) = warning {
        progress.warn(&warning);
    }
    Ok(secret)
}

impl Drop for Session {
    fn drop(&mut self) {
        self.progress.finish();
    }
}

/// How much of a store is used: no more parts at once than there are permits for.
fn pace(config: &StoreConfig, open_transfers: usize) -> Pace {
    let limit = |rate: Option<u64>| rate.map(|rate| Arc::new(Bandwidth::new(rate)));
    Pace {
        most_in_flight: config.parts_in_flight + open_transfers,
        upload: limit(config.upload_rate),
        download: limit(config.download_rate),
    }
}

/// How a store's artifacts are sealed.
fn sealing(config: &StoreConfig) -> Result<Sealing> {
    let recipients = if config.encrypted { Some(Arc::new(Recipients::parse(&config.recipients)?)) } else { None };
    Ok(Sealing { recipients, compression: config.level, parts_per_segment: config.parts_per_segment })
}

/// The text of a signature's file, if it is there.
///
/// Errors: `Denied`, and `Invalid` for what is no text.
pub fn read_signature(path: &Path) -> Result<Option<String>> {
    use std::io::Read;
    let attempt = || format!("read the signature \"{}\"", path.display());
    let file = match std::fs::File::open(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        opened => opened.doing(attempt)?,
    };
    let mut bytes = Vec::new();
    // One byte more than there may be: what is longer is refused as such, where it is looked into.
    let most = u64::try_from(signature::MAX_BYTES).unwrap_or(u64::MAX).saturating_add(1);
    file.take(most).read_to_end(&mut bytes).doing(attempt)?;
    String::from_utf8(bytes)
        .map(Some)
        .map_err(|error| Error::invalid(format!("the signature \"{}\" is not text", path.display())).because(error))
}

/// A component's bytes, read once, at most [`component::MAX_BYTES`].
///
/// Errors: `Invalid` when the file is not there, since the command line or the configuration names
/// it; `Limit`, `Denied`.
pub fn read_component(path: &Path) -> Result<Bytes> {
    use std::io::Read;
    let attempt = || format!("read the plugin \"{}\"", path.display());
    let file = std::fs::File::open(path).doing(attempt).map_err(|error| match error.kind() {
        Kind::NotFound => Error::invalid(format!("there is no plugin \"{}\"", path.display()))
            .hint("build it with `strongroom plugin build CRATE`, or correct `source`; paths are relative to the configuration file")
            .because(error),
        _ => error,
    })?;
    let limit = u64::try_from(component::MAX_BYTES).unwrap_or(u64::MAX);
    let mut bytes = Vec::new();
    file.take(limit.saturating_add(1)).read_to_end(&mut bytes).doing(attempt)?;
    if bytes.len() > component::MAX_BYTES {
        return Err(Error::limit(format!("the plugin \"{}\" is larger than a component may be", path.display()))
            .fact("expected", format!("at most {}", crate::unit::bytes(limit))));
    }
    Ok(bytes.into())
}
