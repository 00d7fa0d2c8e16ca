//! Compiling in a process of its own: hostile bytes meet the compiler where they can take nothing along.
//!
//! The runtime promises nothing for compiling hostile input, in time or in memory. So the same binary
//! is started once more ([`VERB`]), with an empty environment, without any file but its three pipes,
//! unable to open another, write a file or gain a right, and with bounds on memory, processor time
//! and waiting. The child bounds time and memory and not trust: what it gives back is executed.

use super::budget::Limit;
use super::engine;
use super::limits::Limits;
use crate::error::{Error, IoContext, Result};
use crate::unit;
use rustix::process::{Resource, Rlimit, setrlimit};
use std::ffi::OsString;
use std::io::{Read, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

/// The hidden verb of the child; it is not one of the command line's own.
pub const VERB: &str = "compile-component";

/// Largest compiled form in bytes: code is some times larger than its component.
pub(super) const MAX_CODE_BYTES: u64 = 1 << 30;
/// Most of the child's standard error that is read.
const MAX_SAID_BYTES: u64 = 4 << 10;
/// Most processors that the child works on: each thread reserves addresses, which are limited.
const MAX_PROCESSORS: usize = 4;

/// Where components are compiled.
#[derive(Clone, Debug)]
pub enum Compiler {
    /// In a child process, which is this program again.
    Child {
        /// The program; it must know [`VERB`].
        program: PathBuf,
        /// What it may use.
        bounds: Bounds,
    },
    /// In this process, without bounds: for tests and tools whose program is not strongroom.
    Here,
}

/// What compiling one component may use: the limits `compile_memory`, `compile_cpu` and
/// `compile_time` of its plugin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Addresses, in bytes (`RLIMIT_AS`).
    pub memory_bytes: u64,
    /// Processor time of all its threads, in seconds (`RLIMIT_CPU`).
    pub cpu_seconds: u64,
    /// Time on the clock.
    pub wall_clock: Duration,
}

impl Default for Bounds {
    fn default() -> Self {
        Self::of(&Limits::default())
    }
}

impl Bounds {
    /// Those of a plugin with these limits; a part of a second of processor time is a whole one.
    pub(super) fn of(limits: &Limits) -> Self {
        let begun = u64::from(limits.compile_cpu.subsec_nanos() > 0);
        Self {
            memory_bytes: limits.compile_memory_bytes,
            cpu_seconds: limits.compile_cpu.as_secs().saturating_add(begun),
            wall_clock: limits.compile_time,
        }
    }
}

impl Compiler {
    /// A child of the program that is running now, with the default bounds.
    ///
    /// Errors: `Failed` when the system does not say which program that is.
    pub fn child() -> Result<Self> {
        // The file that is running, also where another was installed over it meanwhile.
        let own = PathBuf::from("/proc/self/exe");
        let program =
            if own.exists() { own } else { std::env::current_exe().doing(|| "find this program".to_owned())? };
        Ok(Self::Child { program, bounds: Bounds::default() })
    }

    /// The compiled form of a component that was decoded and checked before.
    ///
    /// Blocking: some 50 ms for 100 KiB. Errors: `Invalid` for what does not compile, `Limit` for
    /// what takes more than the bounds.
    pub(super) fn compile(&self, bytes: &[u8]) -> Result<Vec<u8>> {
        match self {
            Self::Here => engine::compile(&engine::shared()?, bytes),
            Self::Child { program, bounds } => {
                let asked = Asked { bounds: *bounds, child: start(program, bounds)? };
                asked.answer(bytes)
            }
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "the host's own helper, with less than a command of a plugin gets")]
fn start(program: &PathBuf, bounds: &Bounds) -> Result<Child> {
    // What the host itself inherited must not reach a compiler that hostile bytes have taken over.
    crate::exec::keep_inherited_files_from_children();
    Command::new(program)
        .arg0("strongroom")
        .arg(VERB)
        .args([bounds.memory_bytes.to_string(), bounds.cpu_seconds.to_string()])
        .env_clear()
        .current_dir("/")
        // Ctrl-C is for the host, which ends its children itself.
        .process_group(0)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .doing(|| format!("start the compiler \"{}\"", program.display()))
}

/// A child that was asked. It is killed when this is dropped.
struct Asked {
    bounds: Bounds,
    child: Child,
}

impl Drop for Asked {
    fn drop(&mut self) {
        // Gone already is what was wanted.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Asked {
    fn answer(mut self, bytes: &[u8]) -> Result<Vec<u8>> {
        let lost = || Error::failed("the compiler's process has no pipes");
        let mut stdin = self.child.stdin.take().ok_or_else(lost)?;
        let stdout = self.child.stdout.take().ok_or_else(lost)?;
        let stderr = self.child.stderr.take().ok_or_else(lost)?;
        let (tell, told) = channel();
        std::thread::scope(|scope| {
            // A child that ends early closes its pipe; how it ended says why.
            scope.spawn(move || drop(stdin.write_all(bytes)));
            let said = scope.spawn(move || collect(stderr, MAX_SAID_BYTES));
            scope.spawn(move || {
                // Nobody may be waiting any more.
                let _ = tell.send(collect(stdout, MAX_CODE_BYTES + 1));
            });
            let code = match told.recv_timeout(self.bounds.wall_clock) {
                Ok(code) => code,
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                    // It must be gone before its pipes end, and with them the threads that read them.
                    let _ = self.child.kill();
                    let waited = unit::duration(self.bounds.wall_clock);
                    return Err(too_much(Limit::CompileTime, "time", &format!("{waited} on the clock")));
                }
            };
            if code.len() as u64 > MAX_CODE_BYTES {
                let _ = self.child.kill();
                return Err(Error::limit("compiling the component makes too much code")
                    .fact("limit", unit::bytes(MAX_CODE_BYTES))
                    .hint("no useful plugin has that much: ask its vendor"));
            }
            let status = self.child.wait().doing(|| "wait for the compiler".to_owned())?;
            let said = said.join().unwrap_or_default();
            if status.success() { Ok(code) } else { Err(self.why(status, &String::from_utf8_lossy(&said))) }
        })
    }

    /// A compiler that is out of memory aborts; one that is out of processor time is killed.
    fn why(&self, status: ExitStatus, said: &str) -> Error {
        const SIGXCPU: i32 = 24;
        let Bounds { memory_bytes, cpu_seconds, .. } = self.bounds;
        match (status.code(), status.signal()) {
            (Some(REFUSED), _) => {
                Error::invalid("the component cannot be compiled").because(super::speech::line(said.trim()))
            }
            (_, Some(SIGXCPU)) => too_much(Limit::CompileCpu, "time", &format!("{cpu_seconds} s of processor time")),
            _ if said.contains("memory allocation") || said.contains("out of memory") => {
                too_much(Limit::CompileMemory, "memory", &unit::bytes(memory_bytes))
            }
            _ => Error::failed("the compiler of plugins failed")
                .fact("ended with", status.to_string())
                .fact("said", super::speech::line(said.trim()))
                .hint(
                    "if this machine is short of memory, give it more; else the component is to blame: ask its vendor",
                ),
        }
    }
}

/// Exit code of a child that has looked at a component and refused it.
const REFUSED: i32 = 65;

/// Whoever loads it says which plugin it is.
fn too_much(limit: Limit, what: &str, most: &str) -> Error {
    let key = limit.key(&Limits::default());
    Error::limit(format!("compiling the component takes too much {what}: its limit \"{key}\" is used up"))
        .fact("limit", most)
        .hint(format!("if its vendor says that it needs more, raise {key} in the plugin's limits"))
}

fn collect(pipe: impl Read, most: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    // What came before an error is what there is; how the child ended decides.
    drop(pipe.take(most).read_to_end(&mut bytes));
    bytes
}

/// The child's whole life, if these are its arguments: bounds, a component from standard input, its
/// compiled form to standard output. `None` when the process is something else.
///
/// Called first of all in `main`, before any thread or file is there.
pub fn child(arguments: &[OsString]) -> Option<u8> {
    let [_, verb, memory, cpu] = arguments else { return None };
    if verb != VERB {
        return None;
    }
    let number = |text: &OsString| text.to_str().and_then(|text| text.parse::<u64>().ok());
    let (Some(memory), Some(cpu)) = (number(memory), number(cpu)) else { return Some(2) };
    let compiled = confine(memory, cpu).map_err(|error| (1, error.to_string())).and_then(|()| {
        let mut bytes = Vec::new();
        let most = super::component::MAX_BYTES as u64 + 1;
        std::io::stdin().lock().take(most).read_to_end(&mut bytes).map_err(|error| (1, error.to_string()))?;
        engine::unticked()
            .and_then(|engine| engine.precompile_component(&bytes))
            .map_err(|error| (REFUSED, format!("{error:#}")))
    });
    let (code, written) = match compiled {
        Ok(code) => (0, std::io::stdout().lock().write_all(&code)),
        Err((exit, why)) => (exit, std::io::stderr().lock().write_all(why.as_bytes())),
    };
    Some(if written.is_ok() { u8::try_from(code).unwrap_or(1) } else { 1 })
}

/// Gives up everything that compiling does not need. Each limit holds for good: it is the hard one.
fn confine(memory_bytes: u64, cpu_seconds: u64) -> std::io::Result<()> {
    let at_most = |most| Rlimit { current: Some(most), maximum: Some(most) };
    // Its parent is all it lives for. The thread that started it waits for it, and lives as long.
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?;
    rustix::thread::set_no_new_privs(true)?;
    let own = rustix::thread::sched_getaffinity(None)?;
    let mut few = rustix::thread::CpuSet::new();
    (0..rustix::thread::CpuSet::MAX_CPU)
        .filter(|cpu| own.is_set(*cpu))
        .take(MAX_PROCESSORS)
        .for_each(|cpu| few.set(cpu));
    rustix::thread::sched_setaffinity(None, &few)?;
    // Counted while files can still be read: how many processors there are is asked of the system.
    let _ = std::thread::available_parallelism();
    setrlimit(Resource::Core, at_most(0))?;
    setrlimit(Resource::Fsize, at_most(0))?;
    setrlimit(Resource::As, at_most(memory_bytes))?;
    // One second later the kernel kills what did not end at the signal.
    setrlimit(Resource::Cpu, Rlimit { current: Some(cpu_seconds), maximum: Some(cpu_seconds.saturating_add(1)) })?;
    // Three pipes, and never another file or socket.
    setrlimit(Resource::Nofile, at_most(3))?;
    Ok(())
}
