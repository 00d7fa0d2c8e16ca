//! What the log costs: measured where it is used, for `docs/audit.md` and the benchmarks.

use super::{Beginning, Configuration, Log, Recorder, Summary};
use crate::catalog::HostKey;
use crate::clock;
use crate::error::Result;
use crate::id::BackupId;
use crate::plugin::{Ended, Noted, Observer};
use crate::policy::storage::{ArtifactCall, ArtifactGrant, ArtifactVerb};
use crate::policy::{Call, Grants, Occasion, Policy, Verb};
use crate::secret::{Redactor, Secret};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What lines cost on this machine.
#[derive(Clone, Copy, Debug)]
pub struct Cost {
    /// A call that has a line of its own and no flush: decided, told, line written. Median of the rounds.
    pub line: Duration,
    /// Bytes of such a line.
    pub line_bytes: u64,
    /// A flush of such a round. Median of the rounds.
    pub flush: Duration,
}

/// Calls of one round: fewer than the lines of one function that a run may have ([`super::MAX_LINES`]).
pub const CALLS: u32 = 500;

/// Measures `rounds` times [`CALLS`] calls in a log made in `dir`. Needs no runtime.
pub fn measure(dir: &Path, rounds: u32) -> Result<Cost> {
    let host = Arc::new(HostKey::ephemeral()?);
    let log = Log::new(dir, host.clone(), super::KEEP);
    let policy = Arc::new(Policy {
        plugin: "measured".to_owned(),
        grants: Grants { artifacts: Some(ArtifactGrant::default()), ..Grants::default() },
        occasion: Occasion { verb: Verb::Restore, plan_only: false },
        settings: serde_json::Value::Null,
    });
    let secrets = ["correct horse battery", "staple of the measurement"].map(|text| Secret::new(text.to_owned()));
    let (mut lines, mut flushes, mut bytes) = (Vec::new(), Vec::new(), 0);
    for _ in 0..rounds.max(1) {
        let beginning = Beginning {
            run: BackupId::generate(clock::now())?,
            job: Some("measured".to_owned()),
            verb: "restore",
            dry: false,
            configuration: Configuration::default(),
        };
        let chain = log.begin(&beginning)?;
        let recorder = Recorder::new(chain.clone(), Summary::new(&host, Redactor::new(&secrets)), policy.clone());
        let size = || std::fs::metadata(chain.path()).map(|about| about.len()).unwrap_or_default();
        let before = size();
        let began = Instant::now();
        for _ in 0..CALLS {
            let call =
                Call::Artifact(ArtifactCall { verb: ArtifactVerb::Get, name: "orders-2026-11-20.shop.custom.dump" });
            let decision = policy.decide(&call);
            let ended = Ended {
                function: "storage.get",
                call: Some((&call, &decision)),
                rule: &decision.rule,
                noted: Noted::default(),
                error: None,
                failed: 0,
                bytes: 1234,
                took: Duration::from_micros(321),
            };
            recorder.ended(&ended)?;
        }
        lines.push(began.elapsed() / CALLS);
        bytes += size() - before;
        let began = Instant::now();
        recorder.flush()?;
        flushes.push(began.elapsed());
        chain.close("ok")?;
    }
    let line_bytes = bytes / (u64::from(rounds.max(1)) * u64::from(CALLS));
    Ok(Cost { line: median(lines), line_bytes, flush: median(flushes) })
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times.get(times.len() / 2).copied().unwrap_or_default()
}
