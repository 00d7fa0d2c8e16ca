//! What a pipeline of processes costs: time from the first start to the last end, CPU of the whole tree, and
//! its peak memory. Linux only: what is not in `/proc` is not measured.

use super::role::Said;
use anyhow::{Context, Result, bail};
use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// How often memory is looked at: seldom, since looking costs CPU on the cores that are measured. The kernel keeps
/// each process's peak, so only what a process takes in its last moments can be missed.
const SAMPLE_EVERY: Duration = Duration::from_millis(50);
/// The same where memory is what is measured.
const SAMPLE_CLOSELY: Duration = Duration::from_millis(2);
/// How often new processes are looked for: asking is dearer than reading.
const SEARCH_EVERY: Duration = Duration::from_millis(100);
/// How much of what a failed pipeline said is shown, of standard error and of its output each.
const EXCERPT_BYTES: u64 = 64 << 10;
/// The name of producers and consumers, which are not the client and are left out.
const ROLE: &str = "xtask";

/// One process of a pipeline.
#[derive(Clone, Debug)]
pub struct Process {
    program: PathBuf,
    args: Vec<OsString>,
    env: Vec<(String, OsString)>,
    dir: Option<PathBuf>,
}

impl Process {
    /// A program without arguments.
    pub fn new(program: impl Into<PathBuf>) -> Self {
        Self { program: program.into(), args: Vec::new(), env: Vec::new(), dir: None }
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<S: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.args.extend(args.into_iter().map(|arg| arg.as_ref().to_owned()));
        self
    }

    /// Sets a variable of its environment.
    #[must_use]
    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.env.push((name.to_owned(), value.as_ref().to_owned()));
        self
    }

    /// Starts it in this folder.
    #[must_use]
    pub fn dir(mut self, dir: &Path) -> Self {
        self.dir = Some(dir.to_owned());
        self
    }

    /// The program and its arguments, for whoever runs them elsewhere.
    pub fn words(&self) -> Vec<String> {
        let args = self.args.iter().map(|arg| arg.to_string_lossy().into_owned());
        std::iter::once(self.program.display().to_string()).chain(args).collect()
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.args(&self.args).env_clear().envs(self.env.iter().map(|(name, value)| (name, value)));
        // What every contender gets, and nothing of whoever runs the benchmark.
        for name in ["PATH", "HOME", "LANG"] {
            if let Some(value) = std::env::var_os(name).filter(|_| self.env.iter().all(|(own, _)| own != name)) {
                command.env(name, value);
            }
        }
        if let Some(dir) = &self.dir {
            command.current_dir(dir);
        }
        command
    }

    fn shown(&self) -> String {
        let name = self.program.file_name().unwrap_or_default().to_string_lossy();
        let args: Vec<_> = self.args.iter().map(|arg| arg.to_string_lossy()).collect();
        format!("{name} {}", args.join(" "))
    }
}

/// Processes, each reading what the one before it writes. The first reads nothing.
#[derive(Clone, Debug)]
pub struct Pipeline {
    /// In the order of the data.
    pub processes: Vec<Process>,
    /// Where the last one writes.
    pub output: PathBuf,
    /// The log of the roles that take part ([`Said`]); their CPU is not the client's.
    pub log: PathBuf,
    sample_every: Duration,
}

/// What one run cost.
#[derive(Clone, Debug, PartialEq)]
pub struct Measured {
    /// Wall time in seconds.
    pub seconds: f64,
    /// When it began, in seconds since 1970.
    pub began: f64,
    /// CPU time of the whole tree without producer and consumer, in seconds.
    pub cpu_seconds: f64,
    /// Highest sum of the peaks of processes alive together, without producer and consumer, in bytes.
    pub peak_bytes: u64,
    /// The processes of that sum, each with its peak in bytes.
    pub peak_of: Vec<(String, u64)>,
    /// Bytes that producer or consumer moved.
    pub moved_bytes: u64,
    /// When the first role began, in seconds since 1970, if one took part.
    pub role_began: Option<f64>,
}

impl Pipeline {
    /// A pipeline whose memory is looked at now and then.
    pub fn new(processes: Vec<Process>, output: PathBuf, log: PathBuf) -> Self {
        Self { processes, output, log, sample_every: SAMPLE_EVERY }
    }

    /// Also what its processes take in their last moments counts as peak memory; its time is not to be believed.
    #[must_use]
    pub fn watched_closely(mut self) -> Self {
        self.sample_every = SAMPLE_CLOSELY;
        self
    }

    /// Runs it to its end. Fails, with what was said on standard error and what the last process printed, unless every
    /// process exits with 0.
    pub fn run(&self) -> Result<Measured> {
        if self.log.exists() {
            std::fs::remove_file(&self.log)?;
        }
        let said = self.output.with_extension("stderr");
        let errors = File::create(&said).with_context(|| format!("could not make {}", said.display()))?;
        let output = File::create(&self.output)?;
        let cpu_before = cpu_of_children()?;
        let (began, start) = (super::role::now()?, Instant::now());
        let mut children: Vec<Child> = Vec::new();
        for (n, process) in self.processes.iter().enumerate() {
            let is_last = n + 1 == self.processes.len();
            let before = children.last_mut().and_then(|child| child.stdout.take());
            let mut command = process.command();
            command
                .stdin(before.map_or_else(Stdio::null, Stdio::from))
                .stdout(if is_last { Stdio::from(output.try_clone()?) } else { Stdio::piped() })
                .stderr(errors.try_clone()?);
            children.push(command.spawn().with_context(|| format!("could not start `{}`", process.shown()))?);
        }
        let watch = Watch::start(children.iter().map(Child::id).collect(), self.sample_every);
        let mut failed = Vec::new();
        for (process, child) in self.processes.iter().zip(&mut children) {
            let status = child.wait()?;
            if !status.success() {
                failed.push(format!("`{}` ended with {status}", process.shown()));
            }
        }
        let seconds = start.elapsed().as_secs_f64();
        let peak_of = watch.end();
        if !failed.is_empty() {
            let [said, printed] = [&said, &self.output].map(|path| excerpt(path).unwrap_or_default());
            bail!("{}\n{said}{printed}", failed.join("\n"));
        }
        let roles = Said::read(&self.log)?;
        let roles_cpu: f64 = roles.iter().map(|said| said.cpu_seconds).sum();
        Ok(Measured {
            seconds,
            began,
            cpu_seconds: (cpu_of_children()? - cpu_before - roles_cpu).max(0.0),
            peak_bytes: sum(&peak_of),
            peak_of,
            moved_bytes: roles.iter().map(|said| said.bytes).sum(),
            role_began: roles.first().map(|said| said.began),
        })
    }
}

/// The beginning of a file; nothing where it is no text, as the end of a pipeline of compressed bytes.
fn excerpt(path: &Path) -> Result<String> {
    let mut bytes = Vec::new();
    File::open(path)?.take(EXCERPT_BYTES).read_to_end(&mut bytes)?;
    Ok(String::from_utf8(bytes)?)
}

/// CPU time of all children that were waited for, and of theirs, in seconds.
fn cpu_of_children() -> Result<f64> {
    let stat = std::fs::read_to_string("/proc/self/stat").context("the benchmark needs Linux")?;
    children_ticks(&stat).map(|ticks| ticks / TICKS_PER_SECOND).context("/proc/self/stat is not as proc(5) says")
}

/// `USER_HZ`, which is 100 on every architecture that Rust knows.
const TICKS_PER_SECOND: f64 = 100.0;

/// `cutime` and `cstime`, fields 16 and 17 of proc(5); the name in field 2 may hold anything.
fn children_ticks(stat: &str) -> Option<f64> {
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(13);
    let (user, system): (f64, f64) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
    Some(user + system)
}

/// A thread that looks at the memory of a tree of processes until it is told to stop.
struct Watch {
    over: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<Vec<(String, u64)>>,
}

impl Watch {
    fn start(roots: Vec<u32>, sample_every: Duration) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let inside = Arc::clone(&over);
        let thread = std::thread::spawn(move || {
            let (mut peak, mut tree, mut search) = (Vec::new(), BTreeSet::new(), Instant::now());
            loop {
                if Instant::now() >= search {
                    search += SEARCH_EVERY;
                    tree.clear();
                    roots.iter().for_each(|root| find(*root, None, &mut tree));
                }
                let all = tree.iter().filter_map(|pid| status(*pid));
                // What has become a producer or a consumer since it was found counts no more.
                let own = all.filter(|memory| memory.name != ROLE).map(|memory| (memory.name, memory.peak_bytes));
                let now: Vec<_> = own.collect();
                if sum(&now) > sum(&peak) {
                    peak = now;
                }
                if inside.load(Ordering::Acquire) {
                    break;
                }
                // Memory has no events to wait for.
                std::thread::sleep(sample_every);
            }
            peak
        });
        Self { over, thread }
    }

    /// The processes whose sum was the highest, each with its peak in bytes.
    fn end(self) -> Vec<(String, u64)> {
        self.over.store(true, Ordering::Release);
        self.thread.join().unwrap_or_default()
    }
}

fn sum(processes: &[(String, u64)]) -> u64 {
    processes.iter().map(|(_, bytes)| bytes).sum()
}

/// Memory of a process.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Memory {
    name: String,
    peak_bytes: u64,
    /// Its command line.
    command: Vec<u8>,
}

/// Adds a process and its descendants, without producers and consumers.
fn find(pid: u32, parent: Option<&Memory>, found: &mut BTreeSet<u32>) {
    let Some(memory) = status(pid) else { return };
    // Between its start and its program's, a child still is its parent's memory, and has its command line.
    let is_unborn = parent.is_some_and(|parent| parent.command == memory.command);
    if memory.name == ROLE || is_unborn {
        return;
    }
    found.insert(pid);
    let Ok(threads) = std::fs::read_dir(format!("/proc/{pid}/task")) else { return };
    for thread in threads.flatten() {
        let children = std::fs::read_to_string(thread.path().join("children")).unwrap_or_default();
        for child in children.split_whitespace().filter_map(|child| child.parse().ok()) {
            find(child, Some(&memory), found);
        }
    }
}

/// Reads `/proc/PID/status`; a process that is gone or has ended has no memory.
fn status(pid: u32) -> Option<Memory> {
    let command = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    parse_status(&std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?, command)
}

fn parse_status(text: &str, command: Vec<u8>) -> Option<Memory> {
    let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(":\t"));
    let kib = |name: &str| field(name)?.trim().strip_suffix(" kB")?.parse::<u64>().ok().map(|kib| kib * 1024);
    Some(Memory { name: field("Name")?.to_owned(), peak_bytes: kib("VmHWM")?, command })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pipeline(name: &str, processes: Vec<Process>) -> Pipeline {
        let dir = std::env::temp_dir().join(format!("strongroom-measure-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        Pipeline::new(processes, dir.join("out"), dir.join("log"))
    }

    fn clean(pipeline: &Pipeline) {
        std::fs::remove_dir_all(pipeline.output.parent().unwrap()).unwrap();
    }

    #[test]
    fn a_pipeline_hands_bytes_on_and_writes_the_last_ones_to_its_output() {
        let sh = |script: &str| Process::new("/bin/sh").args(["-c", script]);
        let line = pipeline(
            "bytes",
            vec![sh("echo hello"), sh("tr a-z A-Z").env("X", "1"), sh("cat; pwd").dir(Path::new("/"))],
        );
        let measured = line.run().unwrap();
        assert_eq!(std::fs::read_to_string(&line.output).unwrap(), "HELLO\n/\n");
        assert!(measured.seconds > 0.0 && measured.role_began.is_none());
        clean(&line);
    }

    #[test]
    fn a_process_that_fails_fails_the_pipeline_with_what_it_said() {
        let sh = |script: &str| Process::new("/bin/sh").args(["-c", script]);
        let line = pipeline("fails", vec![sh("echo no luck >&2; echo '{}'; exit 3"), sh("cat")]);
        let error = line.run().unwrap_err().to_string();
        for said in ["exit status: 3", "no luck\n", "{}\n"] {
            assert!(error.contains(said), "{error}");
        }
        clean(&line);
    }

    #[test]
    fn fields_of_proc_are_found_whatever_a_process_calls_itself() {
        let stat = "7 (a) b) c) S 1 7 7 0 -1 4194304 95 200 0 0 3 4 250 50 20 0 1 0 1 1 1";
        assert_eq!(children_ticks(stat), Some(300.0));
        assert_eq!(children_ticks("7 (short) S 1"), None);
        let text = "Name:\tzstd\nState:\tR\nVmSize:\t    2048 kB\nVmHWM:\t    1024 kB\n";
        let memory = Memory { name: "zstd".into(), peak_bytes: 1 << 20, command: b"zstd".to_vec() };
        assert_eq!(parse_status(text, b"zstd".to_vec()), Some(memory));
        assert_eq!(parse_status("Name:\tended\n", Vec::new()), None);
    }
}
