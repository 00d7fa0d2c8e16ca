//! `cargo xtask soak`: the long forms of harnesses that `cargo xtask test` runs in their short form.
//!
//! A harness is one line of `HARNESSES`. The test behind it takes its turns from [`turns`], which gives a few in
//! an ordinary run and as many as were asked for under soak; so there is one test and not two. What a
//! harness did last is a row in `docs/reliability.md`, written here and nowhere else.

use crate::cache::{self, Cache};
use crate::command;
use crate::fuzz;
use crate::promise;
use crate::reproduce;
use crate::stage;
use crate::workspace::Workspace;
use anyhow::{Context, Result, bail};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::path::Path;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// How many turns a test under soak takes.
pub const COUNT: &str = "STRONGROOM_SOAK_COUNT";
/// For how many minutes a test under soak begins new turns.
pub const MINUTES: &str = "STRONGROOM_SOAK_MINUTES";
/// The seed of a test's random places, to repeat a run.
pub const SEED: &str = "STRONGROOM_SEED";
/// The seed of an ordinary run, which is to be the same every time.
const USUAL_SEED: u64 = 20_261_121;
/// What a test says at its end stands behind this, anywhere in a line.
const SAID: &str = "soak: ";
/// The page with the table of last results.
const PAGE: &str = "docs/reliability.md";
/// The lines around the table.
const MARKS: (&str, &str) = ("<!-- soak: written by cargo xtask soak -->", "<!-- soak: end -->");
/// Stands behind a commit where the tree had changes that it does not have.
const CHANGED: &str = "+";
/// Head of the table.
const HEAD: &str = "| harness | what it shows | result | how much | took | on | commit |\n| --- | --- | --- | --- | --- | --- | --- |\n";

/// How long a harness runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Length {
    /// This many turns.
    Count(u64),
    /// New turns are begun for this many minutes, for each part of the harness.
    Minutes(u64),
}

impl Length {
    /// The option that asks for it.
    fn option(self) -> &'static str {
        match self {
            Self::Count(_) => "--count",
            Self::Minutes(_) => "--minutes",
        }
    }
}

/// Which lengths a harness can be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Takes {
    Either,
    /// A number of turns, and no time.
    Count,
    /// It always does the same.
    Nothing,
}

impl Takes {
    fn understands(self, length: Length) -> bool {
        self == Self::Either || (self == Self::Count && matches!(length, Length::Count(_)))
    }
}

/// A long harness.
struct Harness {
    name: &'static str,
    /// What it shows, for help and for the page.
    what: &'static str,
    /// How long it runs when nothing else is said.
    usual: Length,
    /// What else can be said.
    takes: Takes,
    how: How,
}

/// What a harness starts.
enum How {
    /// Tests of one suite whose turns come from [`turns`], or that read [`COUNT`] and [`MINUTES`].
    Test {
        /// The file in `tests/tests`.
        suite: &'static str,
        /// Part of the names of the tests.
        filter: &'static str,
    },
    /// Something of this crate: gets the names behind the harness's own, and says how much it did.
    Own(fn(&Workspace, &[String], Length) -> Result<Outcome>),
}

/// What came of a harness.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Whether nothing failed.
    pub passed: bool,
    /// How much was done, such as `1000 kills`.
    pub done: String,
}

/// Every long harness. To add one: a line here, and a test that takes its turns from [`turns`].
const HARNESSES: &[Harness] = &[
    Harness {
        name: "damage",
        what: "every flip, cut, swap and deletion in stored segments is found and named, and no unproven byte comes out",
        usual: Length::Count(5_000),
        takes: Takes::Either,
        how: How::Test { suite: "damage", filter: "" },
    },
    Harness {
        name: "damage-cli",
        what: "every bit flipped at random in a stored backup is found and named through the command line",
        usual: Length::Count(1_000),
        takes: Takes::Either,
        how: How::Test { suite: "damage_cli", filter: "flips" },
    },
    Harness {
        name: "properties",
        what: "what may come from outside is refused with a place or gives itself back, in bounded memory: random cases",
        usual: Length::Count(20_000),
        takes: Takes::Either,
        how: How::Test { suite: "hostile", filter: "" },
    },
    Harness {
        name: "chaos",
        what: "a guest calls every function at random, with any handle: no panic, no hang, nothing left behind",
        usual: Length::Count(80),
        takes: Takes::Either,
        how: How::Test { suite: "chaos", filter: "" },
    },
    Harness {
        name: "kill",
        what: "SIGKILL to backup, verify, restore and prune at named points and random times: only whole backups are visible, and the next run succeeds",
        usual: Length::Count(1_000),
        takes: Takes::Count,
        how: How::Test { suite: "kill", filter: "killed_" },
    },
    Harness {
        name: "reproduce",
        what: "every plugin is the same bytes when it is built elsewhere: other paths, build folder, home and cargo folder",
        usual: Length::Count(1),
        takes: Takes::Count,
        how: How::Own(reproduce::every_plugin),
    },
    Harness {
        name: "pod",
        what: "the connection to a command in a pod is cut at random places, on its way out, on its way in, and in a backup of PostgreSQL: never a success, and no cut input is taken for a whole one",
        usual: Length::Count(200),
        takes: Takes::Either,
        how: How::Test { suite: "pod", filter: "_cut_" },
    },
    Harness {
        name: "pod-bytes",
        what: "more bytes than 32 bits can count go out of a pod into a backup, and out of that into a pod, unchanged",
        usual: Length::Count(1),
        takes: Takes::Either,
        how: How::Test { suite: "pod", filter: "gigabytes" },
    },
    Harness {
        name: "promises",
        what: "promises 1 to 7 and 10 are broken on purpose, and the tests that guard them fail; names behind it choose breakages",
        usual: Length::Count(0),
        takes: Takes::Nothing,
        how: How::Own(promise::run),
    },
    Harness {
        name: "fuzz",
        what: "the same functions, looked for by coverage; names behind it choose targets",
        usual: Length::Minutes(3),
        takes: Takes::Either,
        how: How::Own(fuzz::run),
    },
];

/// Runs the harnesses that are named, or all of them. Returns whether all of them passed.
///
/// `fuzz TARGET…` chooses targets; `--count N` and `--minutes N` are the length; `--list` shows what there is.
pub fn run(workspace: &Workspace, arguments: &[String]) -> Result<bool> {
    let asked = parse(arguments)?;
    if asked.list {
        print!("{}", list());
        return Ok(true);
    }
    // Asked once, before the first row changes the page.
    let commit = commit(workspace);
    if commit.ends_with(CHANGED) {
        println!("== WARNING: there are changes that no commit has, so each row will say {commit}: commit them first");
    }
    let mut all_passed = true;
    for (harness, rest) in asked.harnesses {
        let length = asked.length.unwrap_or(harness.usual);
        println!("== soak {}: {}", harness.name, harness.what);
        let begun = Instant::now();
        let outcome = match &harness.how {
            How::Test { suite, filter } => test(workspace, suite, filter, length),
            How::Own(own) => own(workspace, &rest, length),
        };
        let outcome = outcome.unwrap_or_else(|error| Outcome { passed: false, done: format!("{error:#}") });
        let took = minutes_and_seconds(begun.elapsed());
        let result = if outcome.passed { "passed" } else { "FAILED" };
        println!("== soak {}: {result}, {}, {took}", harness.name, outcome.done);
        let row = row(harness, &outcome, &took, &commit)?;
        write_row(&workspace.root.join(PAGE), harness.name, &row)?;
        all_passed &= outcome.passed;
    }
    Ok(all_passed)
}

/// What the command line asks for.
struct Asked {
    /// Each with the names behind it.
    harnesses: Vec<(&'static Harness, Vec<String>)>,
    length: Option<Length>,
    list: bool,
}

fn parse(arguments: &[String]) -> Result<Asked> {
    let mut asked = Asked { harnesses: Vec::new(), length: None, list: false };
    let mut arguments = arguments.iter();
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--list" => asked.list = true,
            "--count" | "--minutes" => {
                let number = arguments.next().with_context(|| format!("{argument} needs a number"))?;
                let number = number.parse().with_context(|| format!("{argument} needs a number, got {number:?}"))?;
                let length = if argument == "--count" { Length::Count(number) } else { Length::Minutes(number) };
                if asked.length.replace(length).is_some() {
                    bail!("--count and --minutes contradict each other");
                }
            }
            name => match (HARNESSES.iter().find(|harness| harness.name == name), asked.harnesses.last_mut()) {
                (Some(harness), _) => asked.harnesses.push((harness, Vec::new())),
                (None, Some((Harness { how: How::Own(_), .. }, rest))) => rest.push(name.to_owned()),
                (None, _) => bail!("\"{name}\" is not a harness\n\n{}", list()),
            },
        }
    }
    if asked.harnesses.is_empty() {
        asked.harnesses = HARNESSES.iter().map(|harness| (harness, Vec::new())).collect();
    }
    if let Some(length) = asked.length {
        asked.harnesses.iter().try_for_each(|(harness, _)| harness.refuse(length))?;
    }
    Ok(asked)
}

impl Harness {
    /// Fails for a length that it would ignore: its row would tell of a run that was not asked for.
    fn refuse(&self, length: Length) -> Result<()> {
        if self.takes.understands(length) {
            return Ok(());
        }
        let expected = match self.takes {
            Takes::Count => "it takes a number of turns: use --count N",
            Takes::Either | Takes::Nothing => "it always does the same: run it without a length",
        };
        let others = HARNESSES.iter().filter(|harness| harness.takes.understands(length)).map(|harness| harness.name);
        let (name, option, others) = (self.name, length.option(), others.collect::<Vec<_>>().join(", "));
        bail!("harness \"{name}\" does not understand {option}; {expected}\nthose that do: {others}")
    }
}

fn list() -> String {
    let mut text = "harnesses of soak:\n".to_owned();
    for harness in HARNESSES {
        let usual = match (harness.takes, harness.usual) {
            (Takes::Nothing, _) => "always the same".to_owned(),
            (Takes::Count, Length::Count(n)) => format!("{n} turns; takes no --minutes"),
            (_, Length::Count(n)) => format!("{n} turns"),
            (_, Length::Minutes(n)) => format!("{n} minutes each"),
        };
        text.push_str(&format!("  {} ({usual})\n      {}\n", harness.name, harness.what));
    }
    text
}

/// Runs tests in their long form, one after another so that they do not slow one another down.
fn test(workspace: &Workspace, suite: &str, filter: &str, length: Length) -> Result<Outcome> {
    stage::host(workspace)?;
    stage::plugins(workspace)?;
    let (variable, value) = match length {
        Length::Count(n) => (COUNT, n),
        Length::Minutes(n) => (MINUTES, n),
    };
    let name = format!("tests/{suite}");
    let program = stage::test_programs(workspace)?.into_iter().find(|program| program.name == name);
    let tests = program.and_then(|program| program.run_some(&[filter.to_owned()])).context("no such test")?;
    let mut summary = crate::summary::Summary::default();
    let mut done = Vec::new();
    let succeeded = tests
        .args(["--nocapture", "--test-threads=1"])
        .env("STRONGROOM_BIN", workspace.host())
        .env("STRONGROOM_PLUGINS", workspace.plugins())
        .env(cache::VARIABLE, Cache::locate()?.root())
        .env("INSTA_UPDATE", "no")
        .env(variable, value.to_string())
        .lines(|line| {
            println!("{line}");
            summary.see(line);
            done.extend(line.split_once(SAID).map(|(_, said)| said.to_owned()));
        })?;
    if summary.passed == 0 {
        bail!("no test was run");
    }
    done.push(format!("{summary}"));
    Ok(Outcome { passed: succeeded && summary.failed == 0, done: done.join("; ") })
}

/// The commit that is soaked, with [`CHANGED`] behind it if the tree is not what it says. The page of the results is
/// written by soak itself and does not count.
fn commit(workspace: &Workspace) -> String {
    let git = |arguments: &[&str]| command::run("git").args(arguments).dir(&workspace.root).read();
    let but_the_page = format!(":(exclude){PAGE}");
    let described = git(&["describe", "--always"]);
    let changed = git(&["status", "--porcelain", "--untracked-files=no", "--", ".", &but_the_page]);
    match (described, changed) {
        (Ok(commit), Ok(changed)) if changed.is_empty() => commit,
        (Ok(commit), Ok(_)) => commit + CHANGED,
        // A checkout without its history can be soaked too.
        _ => "unknown".to_owned(),
    }
}

fn row(harness: &Harness, outcome: &Outcome, took: &str, commit: &str) -> Result<String> {
    let on = command::run("date").args(["-u", "+%Y-%m-%d"]).read()?;
    let result = if outcome.passed { "passed" } else { "**failed**" };
    let cells = [harness.name, harness.what, result, &outcome.done, took, &on, commit];
    let cells: Vec<String> = cells.iter().map(|cell| cell.replace('|', "/").replace('\n', " ")).collect();
    Ok(format!("| {} |\n", cells.join(" | ")))
}

fn minutes_and_seconds(duration: Duration) -> String {
    let seconds = duration.as_secs();
    format!("{} min {} s", seconds / 60, seconds % 60)
}

/// Puts the row of `name` into the page's table; the other rows stay as they are.
fn write_row(page: &Path, name: &str, row: &str) -> Result<()> {
    let text = std::fs::read_to_string(page).with_context(|| format!("could not read {}", page.display()))?;
    let new = with_row(&text, name, row).with_context(|| format!("could not update {}", page.display()))?;
    std::fs::write(page, new).with_context(|| format!("could not write {}", page.display()))
}

/// The page with this row, which stands where the harness's last one stood, or at the end.
fn with_row(text: &str, name: &str, row: &str) -> Result<String> {
    let (before, rest) = text.split_once(MARKS.0).with_context(|| format!("the page has no line {:?}", MARKS.0))?;
    let (table, after) = rest.split_once(MARKS.1).with_context(|| format!("the page has no line {:?}", MARKS.1))?;
    let begins = format!("| {name} |");
    let mut rows: Vec<String> = table
        .lines()
        .filter(|line| line.starts_with("| ") && !line.starts_with("| harness |") && !line.starts_with("| --- |"))
        .map(|line| format!("{line}\n"))
        .collect();
    match rows.iter_mut().find(|old| old.starts_with(&begins)) {
        Some(old) => row.clone_into(old),
        None => rows.push(row.to_owned()),
    }
    Ok(format!("{before}{}\n\n{HEAD}{}\n{}{after}", MARKS.0, rows.concat(), MARKS.1))
}

/// The turns of a test: `short` of them in an ordinary run; under `cargo xtask soak` as many as were asked
/// for, or as many as begin within the minutes. `what` names one turn in the plural, such as `kills`.
///
/// Says at its end how many there were, which is what soak shows.
pub fn turns(short: u64, what: &'static str) -> Turns {
    let number = |name| std::env::var(name).ok().and_then(|value: String| value.parse::<u64>().ok());
    let (most, until) = match (number(COUNT), number(MINUTES)) {
        (_, Some(minutes)) => (u64::MAX, Some(Instant::now() + Duration::from_secs(60 * minutes))),
        (None, None) => (short, None),
        (Some(count), None) => (count, None),
    };
    Turns { next: 0, most, until, what, has_said: false }
}

/// Whether this is the long form of a test.
pub fn is_long() -> bool {
    [COUNT, MINUTES].iter().any(|name| std::env::var_os(name).is_some())
}

/// The seed of this process's random places: what [`SEED`] says, else always the same in an ordinary run and
/// another one each time under soak. Said on standard output where soak shows it.
pub fn seed() -> u64 {
    static ONE: OnceLock<u64> = OnceLock::new();
    *ONE.get_or_init(|| {
        let seed = match std::env::var(SEED) {
            Ok(text) => text.parse().unwrap_or_else(|_| panic!("{SEED} needs a number, got {text:?}")),
            // What nobody can guess, cut to a number that a person can copy.
            Err(_) if is_long() => RandomState::new().build_hasher().finish() % 1_000_000_000,
            Err(_) => USUAL_SEED,
        };
        println!("{SAID}seed {seed}");
        seed
    })
}

/// What [`turns`] gives: the number of each turn, from 0.
#[derive(Debug)]
pub struct Turns {
    next: u64,
    most: u64,
    until: Option<Instant>,
    what: &'static str,
    has_said: bool,
}

impl Iterator for Turns {
    type Item = u64;

    fn next(&mut self) -> Option<u64> {
        // One turn at least: a length of nothing is no result.
        let is_over = self.next > 0 && self.until.is_some_and(|until| Instant::now() >= until);
        if self.next >= self.most || is_over {
            // Whoever takes turns beside others asks once for each of them.
            if !std::mem::replace(&mut self.has_said, true) {
                println!("{SAID}{} {}", self.next, self.what);
            }
            return None;
        }
        self.next += 1;
        Some(self.next - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(arguments: &[&str]) -> Result<Asked> {
        parse(&arguments.iter().map(|argument| (*argument).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn harnesses_targets_and_a_length_are_told_apart() {
        let both = asked(&["damage", "fuzz", "record", "tail", "--minutes", "7"]).unwrap();
        let names: Vec<_> = both.harnesses.iter().map(|(harness, rest)| (harness.name, rest.len())).collect();
        assert_eq!((names, both.length), (vec![("damage", 0), ("fuzz", 2)], Some(Length::Minutes(7))));
        assert_eq!(asked(&[]).unwrap().harnesses.len(), HARNESSES.len());
        for (wrong, why) in [
            (&["record"][..], "\"record\" is not a harness"),
            (&["damage", "record"], "\"record\" is not a harness"),
            (&["--count"], "--count needs a number"),
            (&["--count", "x"], "--count needs a number, got \"x\""),
            (&["--count", "1", "--minutes", "1"], "contradict"),
            (
                &["damage", "kill", "--minutes", "9"],
                "\"kill\" does not understand --minutes; it takes a number of turns",
            ),
            (&["reproduce", "--minutes", "9"], "\"reproduce\" does not understand --minutes"),
            (&["promises", "--count", "9"], "\"promises\" does not understand --count; it always does the same"),
            (&["--minutes", "9"], "those that do: damage, damage-cli, properties, chaos, pod, pod-bytes, fuzz"),
        ] {
            let error = asked(wrong).map(|_| ()).unwrap_err().to_string();
            assert!(error.contains(why), "{wrong:?}: {error}");
        }
        assert_eq!(asked(&["kill", "reproduce", "--count", "7"]).unwrap().length, Some(Length::Count(7)));
    }

    #[test]
    fn a_commit_says_whether_the_tree_is_another_and_not_whether_soak_wrote_its_page() {
        let root = std::env::temp_dir().join(format!("strongroom-soak-{}", std::process::id()));
        let workspace = Workspace { target: root.join("target"), root: root.clone() };
        let git = |arguments: &[&str]| {
            let who = ["-c", "user.name=x", "-c", "user.email=x@example.org"];
            command::run("git").args(who).args(arguments).dir(&root).read().unwrap()
        };
        let write = |name: &str, text: &str| std::fs::write(root.join(name), text).unwrap();
        std::fs::create_dir_all(root.join("docs")).unwrap();
        assert_eq!(commit(&workspace), "unknown");
        git(&["init", "--quiet"]);
        write("code", "1");
        write(PAGE, "1");
        git(&["add", "."]);
        git(&["commit", "--quiet", "--message", "one"]);
        let clean = git(&["rev-parse", "--short", "HEAD"]);
        write(PAGE, "2");
        write("note", "not tracked");
        assert_eq!(commit(&workspace), clean);
        write("code", "2");
        assert_eq!(commit(&workspace), clean + CHANGED);
        std::fs::remove_dir_all(root).unwrap();
    }

    #[test]
    fn a_row_replaces_the_harness_s_own_and_no_other() {
        let page = format!("# Page\n\n{}\n\n{}\n\nAfter.\n", MARKS.0, MARKS.1);
        let once = with_row(&page, "damage", "| damage | one |\n").unwrap();
        let twice = with_row(&once, "fuzz", "| fuzz | one |\n").unwrap();
        let again = with_row(&twice, "damage", "| damage | two |\n").unwrap();
        let expected =
            format!("# Page\n\n{}\n\n{HEAD}| damage | two |\n| fuzz | one |\n\n{}\n\nAfter.\n", MARKS.0, MARKS.1);
        assert_eq!(again, expected);
        assert!(with_row("# Page\n", "damage", "| damage |\n").is_err());
    }
}
