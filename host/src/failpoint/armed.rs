//! Fail points where they exist.

use super::{Breakage, Point};
use std::collections::BTreeSet;
use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// What the variables say; read once.
#[derive(Debug, Default)]
struct Told {
    acts: Vec<Act>,
    trace: Option<PathBuf>,
    lease: Option<Duration>,
    broken: BTreeSet<Breakage>,
}

#[derive(Debug)]
struct Act {
    point: Point,
    /// At which time that it is reached, from 1.
    at: u64,
    reached: AtomicU64,
    what: What,
}

#[derive(Debug, PartialEq, Eq)]
enum What {
    Kill,
    Stop(PathBuf),
    /// With the value of this variable in the message.
    Panic(String),
}

fn told() -> &'static Told {
    static TOLD: OnceLock<Told> = OnceLock::new();
    TOLD.get_or_init(|| Told::parse(&variable("STRONGROOM_FAIL"), &variable("STRONGROOM_BREAK")))
}

#[expect(clippy::disallowed_methods, reason = "no release reads these variables, and no run depends on them")]
fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_default()
}

impl Told {
    fn parse(fail: &str, broken: &str) -> Self {
        let mut told = Self::default();
        for item in fail.split(',').filter(|item| !item.is_empty()) {
            let (name, what) = item.split_once('=').unwrap_or_else(|| panic!("STRONGROOM_FAIL: {item:?} has no ="));
            match name {
                "trace" => told.trace = Some(what.into()),
                "lease" => told.lease = Some(Duration::from_millis(number(what))),
                _ => told.acts.push(Act::parse(name, what)),
            }
        }
        told.broken = broken.split(',').filter(|name| !name.is_empty()).map(breakage).collect();
        told
    }
}

impl Act {
    fn parse(name: &str, what: &str) -> Self {
        let (name, at) = name.split_once('@').map_or((name, 1), |(name, at)| (name, number(at)));
        let point = Point::ALL.iter().find(|point| point.name() == name);
        let point = *point.unwrap_or_else(|| panic!("STRONGROOM_FAIL: there is no point {name:?}"));
        let what = match what.split_once(':') {
            None if what == "kill" => What::Kill,
            Some(("stop", path)) => What::Stop(path.into()),
            Some(("panic", variable)) => What::Panic(variable.to_owned()),
            _ => panic!("STRONGROOM_FAIL: {what:?} is neither kill, stop:PATH nor panic:VARIABLE"),
        };
        Self { point, at, reached: AtomicU64::new(0), what }
    }
}

fn number(text: &str) -> u64 {
    text.parse().unwrap_or_else(|_| panic!("STRONGROOM_FAIL: {text:?} is not a number"))
}

fn breakage(name: &str) -> Breakage {
    let found = Breakage::ALL.iter().find(|breakage| breakage.name() == name);
    *found.unwrap_or_else(|| panic!("STRONGROOM_BREAK: there is no breakage {name:?}"))
}

pub(super) fn reach(point: Point) {
    let told = told();
    if let Some(path) = &told.trace {
        trace(path, point);
    }
    for act in told.acts.iter().filter(|act| act.point == point) {
        if act.reached.fetch_add(1, Ordering::AcqRel) + 1 == act.at {
            match &act.what {
                What::Kill => kill(),
                What::Stop(path) => stop(path),
                What::Panic(name) => panic!("STRONGROOM_FAIL: it holds {}", variable(name)),
            }
        }
    }
}

/// One write, so that lines of threads and processes do not mix.
fn trace(path: &Path, point: Point) {
    let added = OpenOptions::new()
        .append(true)
        .create(true)
        .open(path)
        .and_then(|mut file| file.write_all(format!("{}\n", point.name()).as_bytes()));
    added.unwrap_or_else(|error| panic!("STRONGROOM_FAIL: could not write to {}: {error}", path.display()));
}

fn kill() -> ! {
    let killed = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
    panic!("STRONGROOM_FAIL: this process outlived SIGKILL: {killed:?}");
}

fn stop(path: &Path) {
    std::fs::write(path, "")
        .unwrap_or_else(|error| panic!("STRONGROOM_FAIL: could not make {}: {error}", path.display()));
    while path.exists() {
        std::thread::sleep(Duration::from_millis(2));
    }
}

pub(super) fn is_broken(breakage: Breakage) -> bool {
    told().broken.contains(&breakage)
}

pub(super) fn lease_duration() -> Option<Duration> {
    told().lease
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_told_is_understood_and_what_is_misspelt_panics() {
        let told = Told::parse(
            "record.written@3=kill,lease.taken=stop:/tmp/x,part.stored=panic:P,trace=/tmp/y,lease=250",
            "skip-confirm,record-first",
        );
        let acts: Vec<_> = told.acts.iter().map(|act| (act.point, act.at, &act.what)).collect();
        let stop = What::Stop("/tmp/x".into());
        let panic = What::Panic("P".to_owned());
        let parts = (Point::PartStored, 1, &panic);
        assert_eq!(acts, [(Point::RecordWritten, 3, &What::Kill), (Point::LeaseTaken, 1, &stop), parts]);
        assert_eq!((told.trace, told.lease), (Some("/tmp/y".into()), Some(Duration::from_millis(250))));
        assert_eq!(told.broken, [Breakage::RecordFirst, Breakage::SkipConfirm].into());
        for (fail, broken) in [
            ("record.writen=kill", ""),
            ("record.written", ""),
            ("record.written=die", ""),
            ("record.written@x=kill", ""),
            ("lease=soon", ""),
            ("", "skip-confirms"),
        ] {
            assert!(std::panic::catch_unwind(|| Told::parse(fail, broken)).is_err(), "{fail} {broken}");
        }
    }

    #[test]
    fn names_are_unique_and_nothing_happens_untold() {
        let names: BTreeSet<_> =
            Point::ALL.iter().map(|p| p.name()).chain(Breakage::ALL.iter().map(|b| b.name())).collect();
        assert_eq!(names.len(), Point::ALL.len() + Breakage::ALL.len());
        reach(Point::RecordWritten);
    }
}
