//! What could go wrong with the next backup, and what already has: the host's own checks, then the
//! plugin's. Nothing is changed but a probe object in the store, which is removed again.

use super::artifact::NewArtifacts;
use super::{Job, made};
use crate::catalog::{Listed, Standing};
use crate::clock;
use crate::error::{Error, Kind, Result};
use crate::exec::{Choice, RunIn};
use crate::id::{BackupId, ObjectKey};
use crate::plugin::context::{Check, CheckOutcome};
use crate::plugin::verb::DiagnoseRequest;
use crate::policy::Verb;
use crate::policy::exec::ExecGrant;
use crate::record::Outcome;
use crate::store::Condition;
use crate::unit;
use bytes::Bytes;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Memory that must be free for a run, in bytes: the published formula at the defaults, twice.
const MIN_MEMORY_BYTES: u64 = 150 << 20;
/// Free space that scratch directories should have, in bytes.
const MIN_SCRATCH_BYTES: u64 = 1 << 30;
/// A store slower than this for one small request is worth a warning.
const SLOW: Duration = Duration::from_secs(2);
/// Clocks further apart than this make signatures of requests fail soon, and already confuse people.
const MAX_SKEW: Duration = Duration::from_secs(60);
/// Without an objective, a last good backup older than this is worth a warning.
const STALE: Duration = Duration::from_secs(26 * 3600);

/// Looks for trouble. `objective` is how old the last good backup may be.
pub async fn diagnose(job: &Job, objective: Option<Duration>) -> Result<Vec<Check>> {
    let mut checks = Vec::new();
    checks.push(memory());
    checks.push(scratch_space(job));
    checks.extend(programs(job).await);
    checks.push(secrets(job));
    checks.extend(store(job).await);
    let backups = job.catalog.backups(&job.name).await;
    let backups = match backups {
        Ok(backups) => job.catalog.with_verifications(backups).await.unwrap_or_default(),
        Err(error) => {
            checks.push(
                Finding::new("host.backups", "earlier backups")
                    .failed(chain(&error))
                    .because("the store cannot be listed")
                    .build(),
            );
            Vec::new()
        }
    };
    checks.extend(ages(&backups, objective));
    checks.extend(plugin(job, &backups).await?);
    Ok(checks)
}

async fn plugin(job: &Job, backups: &[Listed]) -> Result<Vec<Check>> {
    let run = BackupId::generate(clock::now())?;
    let cancel = job.cancel.child_token();
    let last = backups.iter().filter(|b| b.is_good()).filter_map(Listed::trusted).next_back();
    let request = DiagnoseRequest { settings: job.settings.clone(), last: last.map(made) };
    let artifacts = Arc::new(NewArtifacts::new(job, &run, &cancel));
    let chain = job.begin(Verb::Diagnose, false, &run).await?;
    let (context, _scratch) = job.context(Verb::Diagnose, false, &run, artifacts, &cancel)?;
    let recorder = job.recorder(&chain, &context);
    let answer = match job.plugin.start_observed(context, recorder.clone()).await {
        Ok(instance) => instance.diagnose(request).await,
        Err(error) => return super::closed(&chain, Err(error)).await,
    };
    // A log that cannot be written is no finding about the component: it fails the diagnosis.
    let answer = match recorder.finish() {
        Err(error) => return super::closed(&chain, Err(error)).await,
        Ok(()) => {
            let ended = chain.close_async(super::outcome_word(&answer)).await;
            ended.map(|()| answer)?
        }
    };
    match answer {
        Ok(checks) => Ok(checks),
        Err(_) if job.cancel.is_cancelled() => Err(Error::cancelled("the diagnosis was cancelled")),
        Err(error) => Ok(vec![
            Finding::new("host.plugin", "the plugin's own checks")
                .failed(with_facts(&error))
                .because("the plugin could not reach its component, or lacks a grant")
                .remedy(error.origin().hint_text().unwrap_or("strongroom config check"))
                .build(),
        ]),
    }
}

fn memory() -> Check {
    let finding = Finding::new("host.memory", "memory of this machine");
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let field = |name: &str| -> Option<u64> {
        let line = text.lines().find(|line| line.starts_with(name))?;
        line.split_whitespace().nth(1)?.parse::<u64>().ok().map(|kib| kib * 1024)
    };
    match (field("MemAvailable:"), field("MemTotal:")) {
        (Some(free), Some(total)) => {
            let evidence = format!(
                "{} available of {}, a run needs about {}",
                unit::bytes(free),
                unit::bytes(total),
                unit::bytes(MIN_MEMORY_BYTES)
            );
            if free < MIN_MEMORY_BYTES {
                finding
                    .warned(evidence)
                    .because("other processes use the memory")
                    .remedy("ps aux --sort=-rss | head")
                    .build()
            } else {
                finding.passed(evidence).build()
            }
        }
        _ => finding.skipped("/proc/meminfo does not say").build(),
    }
}

fn scratch_space(job: &Job) -> Check {
    let finding = Finding::new("host.disk", "space for scratch directories");
    let root = &job.scratch_root;
    match std::fs::create_dir_all(root)
        .map_err(|e| e.to_string())
        .and_then(|()| rustix::fs::statvfs(root).map_err(|e| e.to_string()))
    {
        Ok(stat) => {
            let free = stat.f_bavail.saturating_mul(stat.f_frsize);
            let evidence = format!("{} free at \"{}\"", unit::bytes(free), root.display());
            if free < MIN_SCRATCH_BYTES {
                finding
                    .warned(format!("{evidence}, below {}", unit::bytes(MIN_SCRATCH_BYTES)))
                    .because("a verification by restore needs room for what it restores")
                    .remedy(format!("df -h {}", root.display()))
                    .build()
            } else {
                finding.passed(evidence).build()
            }
        }
        Err(error) => {
            finding.failed(format!("\"{}\": {error}", root.display())).remedy("set TMPDIR to another place").build()
        }
    }
}

/// Which programs the grants name, whether they are there, and what version they say they are.
async fn programs(job: &Job) -> Vec<Check> {
    let programs: BTreeSet<(&str, Option<&str>)> =
        job.grants.exec.values().map(|grant| (grant.program.as_str(), grant.sha256.as_deref())).collect();
    let mut checks = Vec::new();
    for (program, sha256) in programs {
        let finding = Finding::new("host.program", format!("program \"{program}\""));
        checks.push(match crate::exec::probe(&job.place, program, sha256).await {
            Ok(version) => finding.passed(format!("{}: {version}", place_name(&job.place.run_in))).build(),
            Err(error) if error.kind() == Kind::Denied && sha256.is_some() => finding
                .failed(format!("{}: {}", place_name(&job.place.run_in), with_facts(&error)))
                .because("it is not the one that its grant pins by sha256, or it may not be run")
                .remedy(format!("sha256sum {program}"))
                .build(),
            Err(error) => finding
                .failed(format!("{}: {error}", place_name(&job.place.run_in)))
                .because("it is not installed there, or the grant names another path")
                .remedy(format!("ls -l {program}"))
                .remedy(format!("strongroom plugin approve {} writes the path that it finds", job.plugin.label()))
                .build(),
        });
    }
    checks
}

fn place_name(run_in: &RunIn) -> String {
    match run_in {
        RunIn::Local { user: None } => "on this machine".to_owned(),
        RunIn::Local { user: Some(user) } => format!("on this machine as user \"{user}\""),
        RunIn::Container { name, .. } => format!("in container \"{name}\""),
        RunIn::Pod(pod) => match &pod.choice {
            Choice::Name(name) => format!("in pod \"{name}\" in namespace \"{}\"", pod.namespace),
            Choice::Selector(selector) => format!("in a pod of \"{selector}\" in namespace \"{}\"", pod.namespace),
        },
    }
}

fn secrets(job: &Job) -> Check {
    let finding = Finding::new("host.secrets", "credentials that the grants name");
    let (mut wanted, mut missing) = (BTreeSet::new(), BTreeSet::new());
    for (verb, terms) in &job.terms {
        let grants = job.grants_for(*verb);
        let held = grants.exec.values().filter(|grant| grant.when.verbs.contains(verb));
        for name in held.flat_map(ExecGrant::all_secrets) {
            wanted.insert(name.to_owned());
            missing.extend((!terms.secrets.contains(name)).then(|| name.to_owned()));
        }
    }
    let missing: Vec<_> = missing.into_iter().collect();
    if wanted.is_empty() {
        finding.passed("no granted command takes one").build()
    } else if missing.is_empty() {
        finding.passed(format!("{} of {} present", wanted.len(), wanted.len())).build()
    } else {
        finding
            .warned(format!("not given: {}", missing.join(", ")))
            .because("the component may not need it (peer authentication, trust), or the job lacks it")
            .remedy(format!("add secrets = {{ {} = {{ env = \"…\" }} }} to [job.{}]", missing[0], job.name))
            .build()
    }
}

/// Writes, reads and removes a probe: reachability, rights, latency and clock in four requests.
async fn store(job: &Job) -> Vec<Check> {
    let reach = Finding::new("host.store", format!("store {}", job.store.describe()));
    let clock_check = Finding::new("host.clock", "this machine's clock against the store's");
    let probe = async {
        let id = BackupId::generate(clock::now())?;
        let key = ObjectKey::parse(&format!("{}/.probe-{id}", job.name))?;
        let begun = Instant::now();
        let put = job.store.put(&key, Bytes::from_static(b"strongroom probe"), Condition::Absent).await?;
        let written = begun.elapsed();
        let begun = Instant::now();
        let read = job.store.get(&key, 1024).await;
        let read_in = begun.elapsed();
        let info = job.store.head(&key).await;
        job.store.delete(&key, put.version.as_deref()).await?;
        let (bytes, _) = read?;
        if bytes.as_ref() != b"strongroom probe" {
            return Err(Error::damaged("the store gave back other bytes than it was given"));
        }
        Ok((written, read_in, info?.modified))
    };
    match probe.await {
        Ok((written, read, modified)) => {
            let evidence = format!("written in {}, read in {}", unit::duration(written), unit::duration(read));
            let reach = if written.max(read) > SLOW {
                reach
                    .warned(format!("{evidence}, more than {}", unit::duration(SLOW)))
                    .because("the network or the server is slow")
                    .build()
            } else {
                reach.passed(evidence).build()
            };
            let skew = clock::now().duration_since(modified).unsigned_abs();
            let evidence = format!("{} apart", unit::duration(skew));
            let clock_check = if skew > MAX_SKEW {
                clock_check
                    .failed(format!("{evidence}, more than {}", unit::duration(MAX_SKEW)))
                    .because("one of the clocks is wrong: signed requests fail at 15 minutes")
                    .remedy("timedatectl status")
                    .build()
            } else {
                clock_check.passed(evidence).build()
            };
            vec![reach, clock_check]
        }
        Err(error) => {
            let hint = error.origin().hint_text().unwrap_or("strongroom store check tells more").to_owned();
            vec![reach.failed(chain(&error)).because("network, credentials or rights").remedy(hint).build()]
        }
    }
}

/// The whole chain, and what is known of the place where it began: of a plugin that crashed, where.
fn with_facts(error: &Error) -> String {
    let facts = error.origin().facts().iter().map(|(label, value)| format!("\n{label}: {value}"));
    chain(error) + &facts.collect::<String>()
}

fn chain(error: &Error) -> String {
    let mut text = error.to_string();
    let mut at: &dyn std::error::Error = error;
    while let Some(next) = at.source() {
        text.push_str(&format!(": {next}"));
        at = next;
    }
    text
}

/// Age of the last good and of the last verified backup.
fn ages(backups: &[Listed], objective: Option<Duration>) -> Vec<Check> {
    let now = clock::now();
    let limit = objective.unwrap_or(STALE);
    let good = || backups.iter().filter(|b| b.is_good());
    let last = good().filter_map(Listed::trusted).next_back();
    let finding = Finding::new("host.age", "age of the last good backup");
    let age = match last {
        None => finding.warned("there is none").because("no run has succeeded yet").remedy("strongroom backup").build(),
        Some(record) => {
            let age = now.duration_since(record.finished).unsigned_abs();
            let evidence = format!("{} ({})", unit::duration(age), record.id);
            match (age > limit, objective) {
                (false, _) => finding.passed(evidence),
                (true, Some(objective)) => {
                    finding.failed(format!("{evidence}, the objective is {}", unit::duration(objective)))
                }
                (true, None) => finding.warned(format!("{evidence}, more than {}", unit::duration(STALE))),
            }
            .because("runs failed or did not start since")
            .remedy("look at the timer or CronJob that starts the job")
            .build()
        }
    };
    let verified = good()
        .filter_map(|b| b.verified.iter().rev().find(|v| v.passed))
        .map(|v| (v.at, v.depth.clone(), v.id.clone()))
        .max();
    let finding = Finding::new("host.verified", "the last verified backup");
    let verified = match verified {
        None if last.is_none() => finding.skipped("there is no backup to verify").build(),
        None => finding
            .warned("none has been verified")
            .because("a backup that was never restored is a hope")
            .remedy("strongroom verify --depth restore")
            .build(),
        Some((at, depth, id)) => finding
            .passed(format!("{id} to depth {depth}, {} ago", unit::duration(now.duration_since(at).unsigned_abs())))
            .build(),
    };
    let newest = backups.iter().filter_map(Listed::trusted).next_back();
    let finding = Finding::new("host.complete", "the newest backup is complete");
    let complete = match newest {
        None => finding.skipped("there is none").build(),
        Some(record) => match record.skipped.as_slice() {
            [] if record.outcome == Outcome::Complete => finding.passed(record.id.to_string()).build(),
            skipped => finding
                .warned(format!("{}: {} left out{}", record.id, skipped.len(), first_of(skipped)))
                .because("what was to be captured and was not is named in the record")
                .remedy(format!("strongroom show {} {}", record.job, record.id))
                .build(),
        },
    };
    let odd: Vec<_> = backups.iter().filter(|b| b.standing != Standing::Trusted).map(|b| b.id.to_string()).collect();
    let mut checks = vec![age, verified, complete];
    if !odd.is_empty() {
        checks.push(
            Finding::new("host.records", "records that are not believed")
                .warned(odd.join(", "))
                .because("another host wrote them and is not in trusted_hosts, or they were changed")
                .remedy("strongroom list shows the reason for each")
                .build(),
        );
    }
    checks
}

/// The first of what was skipped, and why.
fn first_of(skipped: &[(String, String)]) -> String {
    skipped.first().map(|(what, why)| format!(", such as {what}: {why}")).unwrap_or_default()
}

/// A check being built.
struct Finding(Check);

impl Finding {
    fn new(id: &str, title: impl Into<String>) -> Self {
        Self(Check {
            id: id.to_owned(),
            title: title.into(),
            outcome: CheckOutcome::Skipped,
            evidence: String::new(),
            causes: Vec::new(),
            remedies: Vec::new(),
        })
    }

    fn with(mut self, outcome: CheckOutcome, evidence: impl Into<String>) -> Self {
        self.0.outcome = outcome;
        self.0.evidence = evidence.into();
        self
    }

    fn passed(self, evidence: impl Into<String>) -> Self {
        self.with(CheckOutcome::Passed, evidence)
    }

    fn warned(self, evidence: impl Into<String>) -> Self {
        self.with(CheckOutcome::Warned, evidence)
    }

    fn failed(self, evidence: impl Into<String>) -> Self {
        self.with(CheckOutcome::Failed, evidence)
    }

    fn skipped(self, evidence: impl Into<String>) -> Self {
        self.with(CheckOutcome::Skipped, evidence)
    }

    fn because(mut self, cause: impl Into<String>) -> Self {
        self.0.causes.push(cause.into());
        self
    }

    fn remedy(mut self, remedy: impl Into<String>) -> Self {
        self.0.remedies.push(remedy.into());
        self
    }

    fn build(mut self) -> Check {
        if self.0.outcome == CheckOutcome::Passed {
            self.0.causes.clear();
            self.0.remedies.clear();
        }
        self.0
    }
}
