//! What a run leaves of metrics: merged into the registry of this machine when it has ended, written to
//! the textfile, pushed.
//!
//! Nothing here changes how a run ends: whatever goes wrong is a warning. A run that never began (a job
//! that does not exist, a configuration that is wrong) has no metrics.

use super::session::Session;
use crate::clock;
use crate::config::{JobConfig, MetricsServer, StorePlace, environment, secret};
use crate::error::Result;
use crate::id::Label;
use crate::metrics::builtin::{Deed, Ending, LAST_SUCCESS, RESTORED, Sizes, Subject, VERIFIED};
use crate::metrics::{Changes, Credentials, Labels, Metrics, Registry, Server};
use crate::record::{BackupRecord, Outcome};
use jiff::Timestamp;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A run that is being measured.
pub(super) struct Measure {
    job: Label,
    store: Label,
    plugin: Label,
    subject: Subject,
    began: Instant,
}

impl Measure {
    /// Begins to measure a run of this job; `None` where there is no such job, which is for others to say.
    pub(super) fn begin(session: &Session, job: &str) -> Option<Self> {
        let (label, config) = session.config.job(job).ok()?;
        let (plugin, store) = (config.plugin.clone(), config.store.clone());
        Some(Self { job: label.clone(), subject: subject(label, config), plugin, store, began: Instant::now() })
    }

    /// A backup ended.
    pub(super) async fn backup(self, session: &Session, made: std::result::Result<&BackupRecord, ()>) {
        let mut changes = session.pending.take();
        let (ending, at) = match made {
            Ok(record) if record.outcome == Outcome::Incomplete => (Ending::Incomplete, record.finished),
            Ok(record) => (Ending::Success, record.finished),
            Err(()) => (Ending::Failure, clock::now()),
        };
        self.subject.ended(&mut changes, Deed::Backup, ending, at, self.began.elapsed());
        if let Ok(record) = made {
            let sizes = Sizes {
                size_bytes: record.artifacts.iter().map(|artifact| artifact.size).sum(),
                stored_bytes: record.artifacts.iter().map(crate::record::ArtifactRecord::stored_bytes).sum(),
                n_skipped: record.skipped.len(),
            };
            self.subject.sizes(&mut changes, sizes);
        }
        self.merge(session, changes).await;
    }

    /// A verification ended; `is_restore`: by a restore.
    pub(super) async fn verified(self, session: &Session, passed: bool, is_restore: bool) {
        let mut changes = session.pending.take();
        let at = clock::now();
        self.subject.ended(&mut changes, Deed::Verify, ending(passed), at, self.began.elapsed());
        if passed && is_restore {
            self.subject.test_restored(&mut changes, at);
        }
        self.merge(session, changes).await;
    }

    /// A restore ended that was not a plan.
    pub(super) async fn restored(self, session: &Session, succeeded: bool) {
        let mut changes = session.pending.take();
        self.subject.ended(&mut changes, Deed::Restore, ending(succeeded), clock::now(), self.began.elapsed());
        self.merge(session, changes).await;
    }

    /// A prune ended that was no dry run.
    pub(super) async fn pruned(self, session: &Session, succeeded: bool, n_removed: usize) {
        let mut changes = session.pending.take();
        self.subject.ended(&mut changes, Deed::Prune, ending(succeeded), clock::now(), self.began.elapsed());
        self.subject.removed(&mut changes, n_removed);
        self.merge(session, changes).await;
    }

    /// A run ended of which only the plugin's own metrics are kept.
    pub(super) async fn plugin_only(self, session: &Session) {
        let changes = session.pending.take();
        if !changes.is_empty() {
            self.merge(session, changes).await;
        }
    }

    async fn merge(&self, session: &Session, mut changes: Changes) {
        let registry = Registry::new(&session.directories.state);
        self.look_back(session, &registry, &mut changes).await;
        self.measure_room(session, &mut changes);
        let limit = session.config.plugins.get(&self.plugin).map(|plugin| plugin.limits.metric_series);
        let limit = limit.unwrap_or_else(|| crate::plugin::limits::Limits::default().metric_series);
        let textfile = session.config.metrics.textfile.clone();
        let merging = {
            let registry = registry.clone();
            move || registry.merge(&changes, limit, clock::now(), textfile.as_deref())
        };
        match tokio::task::spawn_blocking(merging).await {
            Ok(Ok(merged)) => merged.warnings.iter().for_each(|warning| session.progress.warn(warning)),
            Ok(Err(error)) => warn(session, "the metrics of this run are lost", &error),
            Err(error) => session.progress.warn(&format!("the metrics of this run are lost: {error}")),
        }
        if let Some(gateway) = &session.config.metrics.pushgateway
            && let Err(error) = push(session, gateway, registry).await
        {
            warn(session, "the metrics were not pushed", &error);
        }
    }

    /// A machine that knows of no success of the job, because it is new or its state is lost, learns from
    /// the store when it was backed up, verified and restored last.
    async fn look_back(&self, session: &Session, registry: &Registry, changes: &mut Changes) {
        let known = {
            let (registry, job) = (registry.clone(), self.job.to_string());
            tokio::task::spawn_blocking(move || registry.knows(LAST_SUCCESS, &job)).await
        };
        // A registry that cannot be read says so when it is merged.
        if !matches!(known, Ok(Ok(false))) {
            return;
        }
        let found = async {
            let catalog = session.catalog_in_a_hurry(&self.store).await?;
            let backups = catalog.backups(&self.job).await?;
            let backups: Vec<_> = backups.into_iter().filter(|backup| backup.trusted().is_some()).collect();
            let good = backups.iter().filter(|backup| backup.is_good()).filter_map(|backup| backup.trusted());
            let success = good.map(|record| record.finished).max();
            // Those that were verified last are among the newest.
            let newest = backups.len().saturating_sub(LOOKED_AT);
            let verified = catalog.with_verifications(backups.into_iter().skip(newest).collect()).await?;
            let passed = |depth: Option<&str>| -> Option<Timestamp> {
                let all = verified.iter().flat_map(|backup| &backup.verified);
                all.filter(|one| one.passed && depth.is_none_or(|depth| one.depth == depth)).map(|one| one.at).max()
            };
            Ok::<_, crate::error::Error>((success, passed(None), passed(Some("restore"))))
        };
        match tokio::time::timeout(LOOK_BACK_TIMEOUT, found).await {
            Ok(Ok((success, verified, restored))) => {
                for (metric, at) in [(LAST_SUCCESS, success), (VERIFIED, verified), (RESTORED, restored)] {
                    if let Some(at) = at {
                        self.subject.known(changes, metric, at);
                    }
                }
            }
            Ok(Err(error)) => tracing::info!(job = %self.job, %error, "could not ask the store for earlier backups"),
            Err(_) => tracing::info!(job = %self.job, "the store did not say in time which backups there are"),
        }
    }

    fn measure_room(&self, session: &Session, changes: &mut Changes) {
        let Some(config) = session.config.stores.get(&self.store) else { return };
        let StorePlace::Local { path } = &config.place else { return };
        // A store that is not there has failed the run.
        if let Ok(about) = rustix::fs::statvfs(path) {
            let free = about.f_bavail.saturating_mul(about.f_frsize);
            self.subject.room(changes, free, about.f_blocks.saturating_mul(about.f_frsize));
        }
    }
}

/// Most backups whose verifications are read on a new machine.
const LOOKED_AT: usize = 32;
/// Longest time that a new machine asks the store for earlier backups: nobody waits for a metric.
const LOOK_BACK_TIMEOUT: Duration = Duration::from_secs(60);

fn ending(succeeded: bool) -> Ending {
    if succeeded { Ending::Success } else { Ending::Failure }
}

fn subject(label: &Label, config: &JobConfig) -> Subject {
    Subject::job(label.as_str(), config.plugin.as_str(), config.store.as_str())
}

fn warn(session: &Session, what: &str, error: &crate::error::Error) {
    let facts: String = error.facts().iter().map(|(name, value)| format!("; {name}: {value}")).collect();
    let causes = std::iter::successors(std::error::Error::source(error), |error| error.source());
    let causes: String = causes.map(|cause| format!(": {cause}")).collect();
    session.progress.warn(&format!("{what}: {error}{facts}{causes}"));
}

/// Sends everything that this machine knows, one run after the other, so that what is sent last is what
/// was merged last.
async fn push(session: &Session, gateway: &MetricsServer, registry: Registry) -> Result<()> {
    let server = server(session, gateway, "pushgateway")?;
    let failed = |error| crate::error::Error::failed("the host failed while it read its metrics").because(error);
    let (text, lock) = tokio::task::spawn_blocking(move || {
        let lock = registry.lock_for_sending()?;
        Ok::<_, crate::error::Error>((registry.text()?, lock))
    })
    .await
    .map_err(failed)??;
    let group = [("job", "strongroom".to_owned()), ("instance", crate::run::machine())];
    let group: Labels = group.map(|(name, value)| (name.to_owned(), value)).into();
    let pushed = server.push(&group, text).await;
    drop(lock);
    pushed
}

/// What a run lends to its plugin of metrics.
pub(super) fn lent(session: &Session, label: &Label, config: &JobConfig) -> Result<Metrics> {
    let granted =
        session.config.plugins.get(&config.plugin).and_then(|plugin| config.narrowed(&plugin.grants, None).metrics);
    // Its credentials are fetched only for a plugin that may ask.
    let prometheus = match &session.config.metrics.prometheus {
        Some(server) if granted.is_some_and(|grant| !grant.query.is_empty()) => Some(server),
        _ => None,
    };
    let prometheus =
        prometheus.map(|prometheus| server(session, prometheus, "prometheus").map(Arc::new)).transpose()?;
    Ok(Metrics { pending: session.pending.clone(), labels: subject(label, config).plugin_labels(), prometheus })
}

/// The way to a server of the configuration, with its credentials.
fn server(session: &Session, config: &MetricsServer, key: &str) -> Result<Server> {
    let resolve = |reference, part: &str| {
        let resolved = secret::resolve(reference, &format!("metrics.{key}.{part}"), &environment::process)?;
        resolved.warning.iter().for_each(|warning| session.progress.warn(warning));
        Ok::<_, crate::error::Error>(resolved.secret)
    };
    let credentials = match (&config.token, &config.basic) {
        (Some(token), _) => Credentials::Token(resolve(token, "token")?),
        (None, Some((user, password))) => Credentials::Basic(user.clone(), resolve(password, "password")?),
        (None, None) => Credentials::None,
    };
    Server::new(&config.url, &credentials, config.ca.as_deref())
        .map_err(|error| error.while_doing(format!("could not use metrics.{key}")))
}
