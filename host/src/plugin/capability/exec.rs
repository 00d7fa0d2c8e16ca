//! `exec`: commands that the operator granted, started by the host.

use super::bytes::{Downstream, GuestSource, Taken};
use crate::error::Result;
use crate::exec::{Exit, Process, Program, RAISE_MEMORY, RunIn};
use crate::plugin::bindings::strongroom::plugin::exec;
use crate::plugin::budget::Limit;
use crate::plugin::context::{Level, RunContext};
use crate::plugin::guard::{Deadline, Guard, Refusal};
use crate::plugin::ledger::Ledger;
use crate::plugin::state::{State, check_leashes};
use crate::policy::Call;
use crate::policy::exec::ExecCall;
use crate::stream::Source;
use std::sync::Arc;
use std::time::Duration;
use wasmtime::component::Resource;

/// Most bytes of standard output that `exec.run` returns.
const MAX_OUTPUT_BYTES: usize = 1 << 20;

/// A process in the guest's hands.
pub struct GuestProcess {
    process: Process,
    /// The pipe that it reads from, if the guest made it.
    upstream: Option<Downstream>,
    ledger: Arc<Ledger>,
    /// Its label.
    command: String,
}

impl GuestProcess {
    fn stdout(&mut self) -> Result<Source> {
        let source = self.process.stdout()?;
        if let Some(upstream) = &self.upstream {
            upstream.add(source.leash.clone());
        }
        Ok(source)
    }
}

impl State {
    /// The program that a call pins, whose file the policy is to compare. Commands elsewhere pin none.
    fn pinned(&self, call: &ExecCall<'_>) -> Option<String> {
        let is_here = matches!(self.run.place.run_in, RunIn::Local { .. });
        self.guard.policy().pinned_program(call).filter(|_| is_here).map(str::to_owned)
    }

    async fn start(
        &mut self,
        call: &ExecCall<'_>,
        program: Option<Result<Program>>,
        stdin: Option<Taken>,
        timeout_ms: Option<u64>,
    ) -> Result<GuestProcess, Refusal> {
        let program = program.transpose()?;
        // A process counts until it has ended, whatever the guest has let go of.
        self.processes.retain(|process| !process.is_over());
        if self.processes.len() >= self.run.limits.processes {
            return Err(self.guard.spent(Limit::Processes).into());
        }
        let scratch = match self.run.place.run_in {
            RunIn::Local { .. } => self.run.scratch.clone(),
            RunIn::Container { .. } | RunIn::Pod(_) => None,
        };
        let path = scratch.as_deref().and_then(std::path::Path::to_str);
        let function = if call.reads_output { "exec.run" } else { "exec.spawn" };
        let mut command =
            self.guard.policy().command_line(call, path).map_err(|decision| self.guard.deny(function, decision))?;
        let granted = command.timeout.unwrap_or(self.run.limits.stall);
        let stall = timeout_ms.map_or(granted, |ms| granted.min(Duration::from_millis(ms)));
        command.timeout = Some(stall);
        // Elsewhere there is no such limit.
        let is_here = matches!(self.run.place.run_in, RunIn::Local { .. });
        command.memory_bytes = is_here.then_some(self.run.limits.command_memory_bytes);
        let (stdin, upstream) = stdin.map_or((None, None), |taken| (Some(taken.source), taken.downstream));
        let place = Arc::clone(&self.run.place);
        let cancel = self.run.cancel.child_token();
        let process = crate::exec::spawn_opened(command, program, place, scratch, stdin, stall, cancel).await?;
        self.processes.push(process.end());
        let ledger = self.guard.ledger_always("process", call.command);
        Ok(GuestProcess { process, upstream, ledger, command: call.command.to_owned() })
    }

    /// Standard input leaves the guest's hands before the policy is asked.
    fn take_stdin(&mut self, stdin: Option<Resource<GuestSource>>) -> Result<Result<Option<Taken>>, Refusal> {
        stdin.map_or(Ok(Ok(None)), |stdin| Ok(self.take_source(stdin)?.map(Some)))
    }
}

impl exec::Host for State {
    async fn spawn(&mut self, invocation: exec::Invocation) -> Result<Resource<GuestProcess>, Refusal> {
        let stdin = self.take_stdin(invocation.stdin)??;
        let guard = self.guard.clone();
        let origin = stdin.as_ref().map(|taken| taken.source.origin.clone());
        let call = ExecCall {
            command: &invocation.command,
            slots: &invocation.slots,
            stdin: origin.as_ref(),
            reads_output: false,
            program: None,
        };
        let program = opened(&guard, self.pinned(&call)).await;
        let sha256 = digest_of(program.as_ref());
        let call = ExecCall { program: sha256.as_deref(), ..call };
        let work = async {
            let process = self.start(&call, program, stdin, invocation.timeout_ms).await?;
            Ok(self.table.push(process)?)
        };
        guard.pass("exec.spawn", Some(&Call::Exec(call.clone())), Deadline::Stall, work).await
    }

    async fn run(&mut self, invocation: exec::Invocation) -> Result<exec::Output, Refusal> {
        let stdin = self.take_stdin(invocation.stdin)??;
        let guard = self.guard.clone();
        let origin = stdin.as_ref().map(|taken| taken.source.origin.clone());
        let call = ExecCall {
            command: &invocation.command,
            slots: &invocation.slots,
            stdin: origin.as_ref(),
            reads_output: true,
            program: None,
        };
        let program = opened(&guard, self.pinned(&call)).await;
        let sha256 = digest_of(program.as_ref());
        let call = ExecCall { program: sha256.as_deref(), ..call };
        let work = async {
            let waits_for = stdin.as_ref().map(|taken| taken.source.waits_for.as_slice()).unwrap_or_default();
            check_leashes(waits_for, "the command")?;
            let process = self.start(&call, program, stdin, invocation.timeout_ms).await?;
            let output = process.process.run_to_end(MAX_OUTPUT_BYTES).await?;
            process.ledger.outcome(in_words(&output.exit));
            tell_of_memory(&self.run, &invocation.command, &output.exit);
            guard.moved(output.stdout.len());
            Ok(exec::Output { exit: exit_for_guest(output.exit), stdout: output.stdout })
        };
        // The process has its own deadline, which counts time without progress.
        guard.pass("exec.run", Some(&Call::Exec(call.clone())), Deadline::Own, work).await
    }
}

/// A guest decides by itself what a failure means, and knows nothing of this limit: people are told.
fn tell_of_memory(run: &RunContext, command: &str, exit: &Exit) {
    let is_limited = matches!(run.place.run_in, RunIn::Local { .. });
    if let Some(limit) = exit.at_memory_limit(run.limits.command_memory_bytes).filter(|_| is_limited) {
        let text = format!("command {command:?} failed, and {limit}; {RAISE_MEMORY}");
        run.reporter.log(Level::Warn, &text, &[]);
    }
}

/// Opens a program. Reading it is the host's work, and none of the guest's.
async fn opened(guard: &Guard, path: Option<String>) -> Option<Result<Program>> {
    let path = path?;
    guard.meter().charge();
    let opened = crate::exec::open_program(&path).await;
    guard.meter().resume();
    Some(opened)
}

fn digest_of(program: Option<&Result<Program>>) -> Option<String> {
    Some(program?.as_ref().ok()?.sha256().to_owned())
}

/// For the audit log.
fn in_words(exit: &Exit) -> String {
    match (exit.code, exit.signal) {
        (Some(code), _) => format!("exit {code}"),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => "ended".to_owned(),
    }
}

fn exit_for_guest(exit: Exit) -> exec::Exit {
    exec::Exit { code: exit.code, signal: exit.signal, stderr: exit.stderr }
}

impl exec::HostProcess for State {
    async fn stdout(&mut self, this: Resource<GuestProcess>) -> Result<Resource<GuestSource>, Refusal> {
        let guard = self.guard.clone();
        let ledger = Arc::clone(&self.table.get(&this)?.ledger);
        let work = async {
            let source = self.table.get_mut(&this)?.stdout()?;
            self.push_source(source, None, Arc::clone(&ledger))
        };
        guard.pass_on(&ledger, "exec.process.stdout", None, Deadline::Own, work).await
    }

    async fn wait(&mut self, this: Resource<GuestProcess>) -> Result<exec::Exit, Refusal> {
        let guard = self.guard.clone();
        let process = self.table.get_mut(&this)?;
        let ledger = Arc::clone(&process.ledger);
        let work = async {
            check_leashes(&process.process.waits_for(), "the wait for the process")?;
            let exit = process.process.wait().await?;
            let label = process.command.clone();
            ledger.outcome(in_words(&exit));
            tell_of_memory(&self.run, &label, &exit);
            Ok(exit_for_guest(exit))
        };
        // The process has its own deadline, which counts time without progress.
        guard.pass_on(&ledger, "exec.process.wait", None, Deadline::Own, work).await
    }

    async fn drop(&mut self, this: Resource<GuestProcess>) -> wasmtime::Result<()> {
        self.table.delete(this)?;
        Ok(())
    }
}
