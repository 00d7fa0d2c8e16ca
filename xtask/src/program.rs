//! Test programs, several at a time: one that waits for its last test leaves the cores to the next.
//!
//! cargo runs them one after another, and most of them end with a test that waits for something. What a program
//! prints is shown when it has ended, so that outputs do not mix.

use crate::command::{self, Run};
use crate::summary::Summary;
use anyhow::{Context, Result};
use std::collections::{BTreeMap, VecDeque};
use std::ffi::OsString;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

/// The test program whose modules are suites (`tests/tests/suites.rs`): linked once, run as a process for each.
pub const SUITES: &str = "suites";

/// One program with tests in it, or one suite of [`SUITES`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program {
    /// Package and target, such as `tests/kill` for a suite and `host` for the tests beside the code.
    pub name: String,
    /// The executable.
    pub path: PathBuf,
    /// The folder of its package, in which cargo would start it.
    pub dir: PathBuf,
    /// Its tests, all of which are run when none is named.
    pub tests: Vec<String>,
}

/// Builds with `cargo`, which is `cargo test --no-run` with JSON messages, and returns what it built, suites one by
/// one.
pub fn build(cargo: Run) -> Result<Option<Vec<Program>>> {
    let mut programs = Vec::new();
    if !cargo.lines(|line| programs.extend(program_of(line)))? {
        return Ok(None);
    }
    let apart: Result<Vec<_>> = programs.into_iter().map(Program::suites).collect();
    Ok(Some(apart?.concat()))
}

impl Program {
    /// The suites in it, or itself.
    fn suites(self) -> Result<Vec<Self>> {
        let Some(package) = self.name.strip_suffix(SUITES) else { return Ok(vec![self]) };
        let listed = command::run(&self.path).args(["--list", "--format", "terse"]).dir(&self.dir).read()?;
        let mut suites: BTreeMap<&str, Vec<String>> = BTreeMap::new();
        for test in listed.lines().filter_map(|line| line.strip_suffix(": test")) {
            let (suite, _) = test.split_once("::").with_context(|| format!("the test {test} is in no suite"))?;
            suites.entry(suite).or_default().push(test.to_owned());
        }
        let apart = |(suite, tests)| Self { name: format!("{package}{suite}"), tests, ..self.clone() };
        Ok(suites.into_iter().map(apart).collect())
    }

    /// It with those of its tests whose names contain one of `filters`, unless there are none of them.
    fn only(mut self, filters: &[String]) -> Option<Self> {
        if !filters.is_empty() && !self.tests.is_empty() {
            self.tests.retain(|test| filters.iter().any(|filter| test.contains(filter)));
            return (!self.tests.is_empty()).then_some(self);
        }
        Some(self)
    }

    /// Arguments that choose its tests; where it does not name them, those that `filters` name.
    fn choice<'a>(&'a self, filters: &'a [String]) -> Vec<&'a str> {
        match self.tests.as_slice() {
            [] => filters.iter().map(String::as_str).collect(),
            tests => std::iter::once("--exact").chain(tests.iter().map(String::as_str)).collect(),
        }
    }

    /// A command that runs those of its tests whose names contain one of `filters`.
    pub fn run_some(self, filters: &[String]) -> Option<Run> {
        let chosen = self.only(filters)?;
        Some(chosen.run(&chosen.choice(filters)))
    }

    /// A command that runs one test, by its whole name.
    pub fn run_exactly(&self, test: &str) -> Run {
        self.run(&["--exact", test])
    }

    /// It as cargo would start it.
    fn run(&self, arguments: &[&str]) -> Run {
        command::run(&self.path).args(arguments).dir(&self.dir).env("CARGO_MANIFEST_DIR", &self.dir)
    }
}

/// The test program that a message of cargo is about, if it is about one.
fn program_of(line: &str) -> Option<Program> {
    let message: serde_json::Value = serde_json::from_str(line).ok()?;
    if message["reason"] != "compiler-artifact" || message["profile"]["test"] != true {
        return None;
    }
    let dir = Path::new(message["manifest_path"].as_str()?).parent()?.to_path_buf();
    let (package, target) = (dir.file_name()?.to_string_lossy(), message["target"]["name"].as_str()?);
    let name = match message["target"]["kind"][0].as_str()? {
        "test" => format!("{package}/{target}"),
        "bin" => format!("{package} (binary {target})"),
        _ => package.into_owned(),
    };
    Some(Program { name, path: message["executable"].as_str()?.into(), dir, tests: Vec::new() })
}

/// How programs are run.
#[derive(Debug)]
pub struct Runner<'a> {
    /// Programs that run at the same time.
    pub n_at_once: usize,
    /// Arguments of each.
    pub arguments: Vec<String>,
    /// Parts of names of the tests to run, all without any.
    pub filters: Vec<String>,
    /// More variables of their environment.
    pub environment: Vec<(&'a str, OsString)>,
    /// A folder for what they print.
    pub output: PathBuf,
    /// Where it is kept how long each of them took: the longest begin first the next time.
    pub seconds: PathBuf,
}

/// What all programs together came to.
#[derive(Default)]
struct Outcome {
    summary: Summary,
    seconds: BTreeMap<String, f64>,
    has_failed: bool,
}

impl Runner<'_> {
    /// Runs all of them, hands each line that they print to `show`, and returns whether all succeeded, and the sum
    /// of their results.
    pub fn run(&self, programs: Vec<Program>, show: impl Fn(&str) + Sync) -> Result<(bool, Summary)> {
        std::fs::create_dir_all(&self.output).with_context(|| format!("could not make {}", self.output.display()))?;
        let known: BTreeMap<String, f64> =
            std::fs::read(&self.seconds).ok().and_then(|json| serde_json::from_slice(&json).ok()).unwrap_or_default();
        let programs = programs.into_iter().filter_map(|program| program.only(&self.filters)).collect();
        let queue = Mutex::new(in_order(programs, &known));
        let outcome = Mutex::new(Outcome { seconds: known, ..Outcome::default() });
        std::thread::scope(|scope| {
            let (queue, outcome, show) = (&queue, &outcome, &show);
            let workers: Vec<_> =
                (0..self.n_at_once).map(|i| scope.spawn(move || self.work(i, queue, outcome, show))).collect();
            workers.into_iter().try_for_each(|worker| {
                worker.join().unwrap_or_else(|_| Err(anyhow::anyhow!("a thread that runs test programs panicked")))
            })
        })?;
        let outcome = outcome.into_inner().unwrap_or_else(PoisonError::into_inner);
        std::fs::write(&self.seconds, serde_json::to_vec(&outcome.seconds)?)
            .with_context(|| format!("could not write {}", self.seconds.display()))?;
        Ok((!outcome.has_failed, outcome.summary))
    }

    /// Runs one after another until there are no more.
    fn work(
        &self,
        worker: usize,
        queue: &Mutex<VecDeque<Program>>,
        outcome: &Mutex<Outcome>,
        show: &(impl Fn(&str) + Sync),
    ) -> Result<()> {
        let output = self.output.join(format!("{worker}.txt"));
        loop {
            let next = queue.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
            let Some(program) = next else { return Ok(()) };
            let begun = Instant::now();
            let succeeded = self.run_one(&program, &output)?;
            let seconds = begun.elapsed().as_secs_f64();
            let printed = std::fs::read(&output).with_context(|| format!("could not read {}", output.display()))?;
            let mut outcome = outcome.lock().unwrap_or_else(PoisonError::into_inner);
            show(&format!("     Running {} ({seconds:.1} s)", program.name));
            let before = outcome.summary.failed;
            for line in String::from_utf8_lossy(&printed).lines() {
                outcome.summary.see(line);
                show(line);
            }
            if !succeeded && outcome.summary.failed == before {
                // It ended without a result: a crash, or a test that ended the process.
                outcome.summary.failed += 1;
                outcome.summary.failures.push(format!("{} ended without a result", program.name));
            }
            outcome.has_failed |= !succeeded;
            outcome.seconds.insert(program.name, seconds);
        }
    }

    /// Its output goes into a file and not through a pipe, which a server that a test left behind would hold open.
    fn run_one(&self, program: &Program, output: &Path) -> Result<bool> {
        let to = File::create(output).with_context(|| format!("could not make {}", output.display()))?;
        let status = Command::new(&program.path)
            .args(&self.arguments)
            .args(program.choice(&self.filters))
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .env("CARGO_MANIFEST_DIR", &program.dir)
            .current_dir(&program.dir)
            .stdin(Stdio::null())
            .stderr(to.try_clone()?)
            .stdout(to)
            .status()
            .with_context(|| format!("could not start {}", program.path.display()))?;
        Ok(status.success())
    }
}

/// Those of which it is not known how long they take first, then the longest.
fn in_order(mut programs: Vec<Program>, seconds: &BTreeMap<String, f64>) -> VecDeque<Program> {
    let of = |program: &Program| seconds.get(&program.name).copied().unwrap_or(f64::INFINITY);
    programs.sort_by(|a, b| of(b).total_cmp(&of(a)).then_with(|| a.name.cmp(&b.name)));
    programs.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(dir: &Path, name: &str, script: &str) -> Program {
        use std::os::unix::fs::PermissionsExt;
        let path = dir.join(name);
        std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        Program { name: name.to_owned(), path, dir: dir.to_path_buf(), tests: Vec::new() }
    }

    #[test]
    fn results_of_programs_are_summed_up_and_a_crash_is_a_failure() {
        let dir = std::env::temp_dir().join(format!("strongroom-program-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let runner = Runner {
            n_at_once: 2,
            arguments: vec!["--quick".to_owned()],
            filters: Vec::new(),
            environment: vec![("WHAT", "it".into())],
            output: dir.join("output"),
            seconds: dir.join("seconds.json"),
        };
        let programs = vec![
            shell(
                &dir,
                "good",
                "test $1 = --quick && echo \"test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured\"",
            ),
            shell(
                &dir,
                "bad",
                "echo \"test $WHAT ... FAILED\"; echo 'test result: FAILED. 1 passed; 1 failed; 0 ignored'; exit 101",
            ),
            shell(&dir, "crash", "echo oh >&2; kill -9 $$"),
        ];
        let shown = Mutex::new(Vec::new());
        let (succeeded, mut summary) =
            runner.run(programs, |line| shown.lock().unwrap().push(line.to_owned())).unwrap();
        summary.failures.sort();
        assert!(!succeeded);
        assert_eq!(summary.to_string(), "4 passed, 2 failed, 1 skipped");
        assert_eq!(summary.failures, ["crash ended without a result", "it"]);
        let shown = shown.into_inner().unwrap();
        assert!(shown.iter().any(|line| line == "oh") && shown.iter().any(|line| line.contains("Running good (")));
        let seconds: BTreeMap<String, f64> = serde_json::from_slice(&std::fs::read(&runner.seconds).unwrap()).unwrap();
        assert_eq!(seconds.keys().collect::<Vec<_>>(), ["bad", "crash", "good"]);
        std::fs::remove_dir_all(&dir).unwrap();
    }

    fn of(name: &str, tests: &[&str]) -> Program {
        let tests = tests.iter().map(|&test| test.to_owned()).collect();
        Program { name: name.to_owned(), path: "x".into(), dir: "y".into(), tests }
    }

    #[test]
    fn each_suite_is_a_program_of_its_own() {
        let dir = std::env::temp_dir().join(format!("strongroom-suites-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let listed = "echo 'kill::a: test'; echo 'store::b: test'; echo 'kill::deep::c: test'; echo 'd: benchmark'";
        let suites = Program { name: format!("tests/{SUITES}"), ..shell(&dir, "listing", listed) }.suites().unwrap();
        let found: Vec<_> = suites.iter().map(|suite| (suite.name.as_str(), suite.tests.join(" "))).collect();
        assert_eq!(found, [("tests/kill", "kill::a kill::deep::c".into()), ("tests/store", "store::b".into())]);
        let stray = Program { name: format!("tests/{SUITES}"), ..shell(&dir, "stray", "echo 'e: test'") };
        assert!(stray.suites().unwrap_err().to_string().contains("e is in no suite"));
        assert_eq!(of("host", &[]).suites().unwrap(), [of("host", &[])]);
        std::fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn filters_choose_among_the_tests_of_a_suite() {
        let suite = || of("tests/kill", &["kill::a", "kill::deep::c"]);
        let filters = ["deep".to_owned(), "other".to_owned()];
        assert_eq!(suite().choice(&[]), ["--exact", "kill::a", "kill::deep::c"]);
        assert_eq!(suite().only(&filters).unwrap().choice(&filters), ["--exact", "kill::deep::c"]);
        assert_eq!(suite().only(&filters[1..]), None);
        assert_eq!(of("host", &[]).only(&filters).unwrap().choice(&filters), ["deep", "other"]);
    }

    #[test]
    fn the_longest_begin_first_and_those_that_are_not_known_before_them() {
        let program = |name: &str| of(name, &[]);
        let seconds = [("a".to_owned(), 1.0), ("b".to_owned(), 9.0)].into();
        let order = in_order(["a", "b", "new"].map(program).to_vec(), &seconds);
        assert_eq!(order.into_iter().map(|program| program.name).collect::<Vec<_>>(), ["new", "b", "a"]);
    }

    #[test]
    fn a_test_program_is_told_from_what_else_cargo_makes() {
        let message = |kind: &str, is_test: bool| {
            serde_json::json!({
                "reason": "compiler-artifact", "manifest_path": "/w/tests/Cargo.toml", "executable": "/w/t/kill-1",
                "target": { "name": "kill", "kind": [kind] }, "profile": { "test": is_test },
            })
            .to_string()
        };
        let program =
            |name: &str| Some(Program { path: "/w/t/kill-1".into(), dir: "/w/tests".into(), ..of(name, &[]) });
        assert_eq!(program_of(&message("test", true)), program("tests/kill"));
        assert_eq!(program_of(&message("lib", true)), program("tests"));
        assert_eq!(program_of(&message("bin", true)), program("tests (binary kill)"));
        assert_eq!(program_of(&message("bin", false)), None);
        assert_eq!(program_of("warning: something"), None);
    }
}
