//! Draws the progress of a run: bars on a terminal, a line every few seconds elsewhere, nothing
//! with `--quiet` or JSON.

use super::output::Output;
use super::vendor;
use crate::plugin::context::{CheckOutcome, Level, Step};
use crate::progress::{Progress, Silent};
use crate::unit;
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Time between two lines where nobody watches a terminal.
const LINE_EVERY: Duration = Duration::from_secs(5);
/// Bars on the screen at once; further artifacts are only counted.
const MAX_BARS: usize = 12;

/// The progress that fits where standard error goes. `verbose` is how often `-v` was given.
pub fn for_output(output: &Output, verbose: u8) -> Arc<dyn Progress> {
    if output.quiet || output.is_json() {
        return Arc::new(Silent);
    }
    if output.is_lively() && std::io::stderr().is_terminal() {
        return Arc::new(Bars::new(verbose));
    }
    let output = *output;
    Arc::new(Lines::new(verbose, LINE_EVERY, Box::new(move |line| output.complain(line))))
}

/// Bytes of the artifacts of a run.
#[derive(Debug, Default)]
struct Counts {
    open: BTreeMap<String, (u64, u64)>,
    n_done: u64,
    read: u64,
    stored: u64,
}

impl Counts {
    fn set(&mut self, name: &str, read: u64, stored: u64) {
        self.open.insert(name.to_owned(), (read, stored));
    }

    fn forget(&mut self, name: &str) {
        self.open.remove(name);
    }

    fn close(&mut self, name: &str, read: u64, stored: u64) {
        self.open.remove(name);
        self.n_done += 1;
        self.read += read;
        self.stored += stored;
    }

    /// `2 artifacts under way, 5 done: 93.1 MiB read, 20.0 MiB stored, 4.0 MiB/s`
    fn line(&self, elapsed: Duration) -> String {
        let read = self.read + self.open.values().map(|(read, _)| read).sum::<u64>();
        let stored = self.stored + self.open.values().map(|(_, stored)| stored).sum::<u64>();
        let open = match self.open.keys().next() {
            Some(name) if self.open.len() == 1 => format!("\"{}\" under way, ", vendor::line(name, 128)),
            Some(_) => format!("{} artifacts under way, ", self.open.len()),
            None => String::new(),
        };
        let millis = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX).max(1);
        let rate = u128::from(read) * 1000 / u128::from(millis);
        let rate = unit::bytes(u64::try_from(rate).unwrap_or(u64::MAX));
        format!("{open}{} done: {} read, {} stored, {rate}/s", self.n_done, unit::bytes(read), unit::bytes(stored))
    }
}

/// Whether a log line is shown: warnings always, notes with `-v`, the developer's with `-vv`.
fn is_shown(level: Level, verbose: u8) -> bool {
    match level {
        Level::Error | Level::Warn => true,
        Level::Info => verbose >= 1,
        Level::Debug => verbose >= 2,
    }
}

/// A plugin's line, attributed, escaped and cut.
fn log_line(level: Level, plugin: &str, text: &str) -> String {
    let level = match level {
        Level::Error => "error",
        Level::Warn => "warning",
        Level::Info => "info",
        Level::Debug => "debug",
    };
    format!("{level}: plugin \"{}\": {}", vendor::line(plugin, 64), vendor::line(text, vendor::MAX_BYTES))
}

fn warning_line(text: &str) -> String {
    format!("warning: {}", vendor::line(text, vendor::MAX_BYTES))
}

/// One step of a restore on one line.
pub fn step_line(step: &Step) -> String {
    let outcome = match step.outcome {
        CheckOutcome::Passed => "done",
        CheckOutcome::Warned => "done, with a warning",
        CheckOutcome::Failed => "failed",
        CheckOutcome::Skipped => "skipped",
    };
    let note = if step.note.is_empty() { String::new() } else { format!(" ({})", vendor::line(&step.note, 512)) };
    format!("{} {}: {outcome}{note}", vendor::line(&step.action, 256), vendor::line(&step.target, 256))
}

fn stage_line(name: &str, done: u64, total: Option<u64>) -> String {
    let name = vendor::line(name, 128);
    match total {
        Some(total) => format!("{name}: {done} of {total}"),
        None => format!("{name}: {done}"),
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Progress is only counted and drawn: what a panicking thread left behind is good enough.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

type Sink = Box<dyn Fn(&str) + Send + Sync>;

/// Plain lines: at most one each `every`, one for each step and shown log line, one at the end.
struct Lines {
    verbose: u8,
    every: Duration,
    began: Instant,
    state: Mutex<(Counts, Instant)>,
    sink: Sink,
}

impl Lines {
    fn new(verbose: u8, every: Duration, sink: Sink) -> Self {
        let began = Instant::now();
        Self { verbose, every, began, state: Mutex::new((Counts::default(), began)), sink }
    }

    /// Counts, and says something if it is time again.
    fn count(&self, what: impl FnOnce(&mut Counts), line: impl FnOnce(&Counts, Duration) -> String) {
        let mut state = locked(&self.state);
        what(&mut state.0);
        if state.1.elapsed() >= self.every {
            state.1 = Instant::now();
            (self.sink)(&line(&state.0, self.began.elapsed()));
        }
    }
}

impl Progress for Lines {
    fn artifact_started(&self, name: &str) {
        self.count(|counts| counts.set(name, 0, 0), Counts::line);
    }
    fn artifact_bytes(&self, name: &str, read: u64, stored: u64) {
        self.count(|counts| counts.set(name, read, stored), Counts::line);
    }
    fn artifact_done(&self, name: &str, read: u64, stored: u64) {
        self.count(|counts| counts.close(name, read, stored), Counts::line);
    }
    fn artifact_dropped(&self, name: &str) {
        self.count(|counts| counts.forget(name), Counts::line);
    }
    fn stage(&self, name: &str, done: u64, total: Option<u64>) {
        self.count(|_| {}, |_, _| stage_line(name, done, total));
    }
    fn step(&self, step: &Step) {
        (self.sink)(&step_line(step));
    }
    fn warn(&self, text: &str) {
        (self.sink)(&warning_line(text));
    }
    fn log(&self, level: Level, plugin: &str, text: &str) {
        if is_shown(level, self.verbose) {
            (self.sink)(&log_line(level, plugin, text));
        }
    }
    fn finish(&self) {
        let state = locked(&self.state);
        if state.0.n_done > 0 {
            (self.sink)(&state.0.line(self.began.elapsed()));
        }
    }
}

/// Bars on a terminal: one for each artifact under way, and one line for the stage.
struct Bars {
    verbose: u8,
    began: Instant,
    screen: MultiProgress,
    stage: ProgressBar,
    state: Mutex<(Counts, BTreeMap<String, ProgressBar>)>,
}

impl Bars {
    fn new(verbose: u8) -> Self {
        let screen = MultiProgress::with_draw_target(ProgressDrawTarget::stderr());
        let stage = screen.add(ProgressBar::new_spinner().with_style(style("{spinner} {msg}")));
        Self { verbose, began: Instant::now(), screen, stage, state: Mutex::default() }
    }

    fn say(&self, line: &str) {
        // A terminal that is gone ends nothing; the result still goes to standard output.
        let _ = self.screen.println(line);
    }
}

/// A template of our own; a wrong one would show in the first run and falls back to the default.
fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_spinner())
}

impl Progress for Bars {
    fn artifact_started(&self, name: &str) {
        let mut state = locked(&self.state);
        state.0.set(name, 0, 0);
        if state.1.len() < MAX_BARS {
            let template =
                "{spinner} {prefix:30!} {binary_bytes:>11} read  {msg}  {binary_bytes_per_sec:>12}  {elapsed}";
            let bar = ProgressBar::new_spinner().with_style(style(template)).with_prefix(vendor::line(name, 128));
            let bar = self.screen.insert_before(&self.stage, bar);
            bar.enable_steady_tick(Duration::from_millis(250));
            state.1.insert(name.to_owned(), bar);
        }
    }
    fn artifact_bytes(&self, name: &str, read: u64, stored: u64) {
        let mut state = locked(&self.state);
        state.0.set(name, read, stored);
        if let Some(bar) = state.1.get(name) {
            bar.set_message(format!("{:>10} stored", unit::bytes(stored)));
            bar.set_position(read);
        }
    }
    fn artifact_done(&self, name: &str, read: u64, stored: u64) {
        let mut state = locked(&self.state);
        state.0.close(name, read, stored);
        if let Some(bar) = state.1.remove(name) {
            bar.finish_and_clear();
        }
        self.stage.set_message(state.0.line(self.began.elapsed()));
    }
    fn artifact_dropped(&self, name: &str) {
        let mut state = locked(&self.state);
        state.0.forget(name);
        if let Some(bar) = state.1.remove(name) {
            bar.finish_and_clear();
        }
    }
    fn stage(&self, name: &str, done: u64, total: Option<u64>) {
        self.stage.set_message(stage_line(name, done, total));
        self.stage.tick();
    }
    fn step(&self, step: &Step) {
        self.say(&step_line(step));
    }
    fn warn(&self, text: &str) {
        self.say(&warning_line(text));
    }
    fn log(&self, level: Level, plugin: &str, text: &str) {
        if is_shown(level, self.verbose) {
            self.say(&log_line(level, plugin, text));
        }
    }
    fn finish(&self) {
        let mut state = locked(&self.state);
        for bar in std::mem::take(&mut state.1).into_values() {
            bar.finish_and_clear();
        }
        self.stage.finish_and_clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn collecting(verbose: u8, every: Duration) -> (Lines, Arc<Mutex<Vec<String>>>) {
        let lines = Arc::new(Mutex::new(Vec::new()));
        let into = Arc::clone(&lines);
        (Lines::new(verbose, every, Box::new(move |line| locked(&into).push(line.to_owned()))), lines)
    }

    #[test]
    fn many_events_in_a_short_time_are_one_line_at_the_end() {
        let (progress, lines) = collecting(0, Duration::from_secs(3600));
        for n in 0..1000 {
            let name = format!("a{n}");
            progress.artifact_started(&name);
            progress.artifact_bytes(&name, 1 << 20, 1 << 10);
            progress.artifact_done(&name, 1 << 20, 1 << 10);
            progress.stage("packing", n, Some(1000));
        }
        assert!(locked(&lines).is_empty());
        progress.finish();
        let lines = locked(&lines);
        assert_eq!(lines.len(), 1);
        assert!(lines[0].starts_with("1000 done: 1000.0 MiB read, 1000.0 KiB stored, "), "{lines:?}");
    }

    #[test]
    fn a_line_names_what_is_under_way_and_counts_its_bytes() {
        let mut counts = Counts::default();
        counts.open.insert("shop.dump".to_owned(), (4 << 20, 1 << 20));
        assert_eq!(
            counts.line(Duration::from_secs(2)),
            "\"shop.dump\" under way, 0 done: 4.0 MiB read, 1.0 MiB stored, 2.0 MiB/s"
        );
        counts.close("shop.dump", 6 << 20, 2 << 20);
        assert_eq!(counts.line(Duration::ZERO).split(", ").next(), Some("1 done: 6.0 MiB read"));
    }

    #[test]
    fn an_artifact_that_is_dropped_is_neither_open_nor_done() {
        let (progress, lines) = collecting(0, Duration::ZERO);
        progress.artifact_started("a");
        progress.artifact_dropped("a");
        assert!(locked(&lines).last().unwrap().starts_with("0 done: 0 B read"), "{lines:?}");
        progress.finish();
        assert_eq!(locked(&lines).len(), 2, "nothing was stored, so there is no sum");
    }
}
