//! `run`: log, progress, steps and time. Always granted, and bounded.

use crate::clock;
use crate::plugin::bindings::strongroom::plugin::{run, types};
use crate::plugin::budget::MAX_STEPS;
use crate::plugin::context::{CheckOutcome, Level, Step};
use crate::plugin::guard::{Deadline, Refusal};
use crate::plugin::speech;
use crate::plugin::state::State;
use std::time::Duration;

impl run::Host for State {
    async fn log(&mut self, level: run::Level, message: String, fields: Vec<(String, String)>) -> wasmtime::Result<()> {
        let guard = self.guard.clone();
        let work = async {
            let level = match level {
                run::Level::Debug => Level::Debug,
                run::Level::Info => Level::Info,
                run::Level::Warn => Level::Warn,
                run::Level::Error => Level::Error,
            };
            self.log.line(level, &message, &fields);
            Ok(())
        };
        Ok(guard.pass("run.log", None, Deadline::Own, work).await?)
    }

    async fn progress(&mut self, step: String, done: u64, total: Option<u64>) -> wasmtime::Result<()> {
        let guard = self.guard.clone();
        let work = async {
            self.run.reporter.progress(&speech::line(&step), done, total);
            Ok(())
        };
        Ok(guard.pass("run.progress", None, Deadline::Own, work).await?)
    }

    async fn report_step(&mut self, step: types::Step) -> wasmtime::Result<()> {
        let guard = self.guard.clone();
        let work = async {
            self.n_steps += 1;
            if self.n_steps > MAX_STEPS {
                return Err(Refusal::End(wasmtime::Error::msg(format!("more than {MAX_STEPS} steps of a restore"))));
            }
            self.run.reporter.step(Step {
                action: speech::line(&step.action),
                target: speech::line(&step.target),
                outcome: outcome(step.outcome),
                note: match step.outcome {
                    types::Outcome::Failed => self.guard.explained(&step.note),
                    _ => speech::line(&step.note),
                },
            });
            Ok(())
        };
        Ok(guard.pass("run.report-step", None, Deadline::Own, work).await?)
    }

    async fn now_ms(&mut self) -> wasmtime::Result<u64> {
        Ok(self.guard.pass("run.now-ms", None, Deadline::Own, async { Ok(clock::millis(clock::now())) }).await?)
    }

    async fn sleep_ms(&mut self, duration: u64) -> wasmtime::Result<()> {
        let work = async {
            tokio::time::sleep(Duration::from_millis(duration)).await;
            Ok(())
        };
        Ok(self.guard.pass("run.sleep-ms", None, Deadline::Own, work).await?)
    }
}

/// An outcome in the host's terms.
pub(in crate::plugin) fn outcome(outcome: types::Outcome) -> CheckOutcome {
    match outcome {
        types::Outcome::Passed => CheckOutcome::Passed,
        types::Outcome::Warned => CheckOutcome::Warned,
        types::Outcome::Failed => CheckOutcome::Failed,
        types::Outcome::Skipped => CheckOutcome::Skipped,
    }
}
