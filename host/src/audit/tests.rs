//! Chains as runs write them, and logs that somebody has changed.

mod batch;
mod crash;
mod tamper;

use super::verify::{Finding, Report, State, verify};
use super::*;
use crate::error::Kind;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

/// A log in a folder of its own.
struct Bench {
    folder: tempfile::TempDir,
    log: Log,
    /// Runs so far: their ids sort in the order in which they began.
    n_runs: AtomicU32,
}

impl Bench {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let log = Log::new(folder.path(), Arc::new(HostKey::ephemeral().unwrap()), KEEP);
        Self { folder, log, n_runs: AtomicU32::new(0) }
    }

    fn begin(&self) -> Arc<Chain> {
        self.log.begin(&self.beginning(&[])).unwrap_or_else(|error| panic!("{error:?}"))
    }

    fn beginning(&self, sections: &[(&str, &str)]) -> Beginning {
        let n = self.n_runs.fetch_add(1, Ordering::Relaxed);
        Beginning {
            run: format!("20261120T{n:06}Z-x7k2m9qd").parse().unwrap(),
            job: Some("orders".to_owned()),
            verb: "backup",
            dry: false,
            configuration: Configuration {
                path: if sections.is_empty() { String::new() } else { "/etc/strongroom.toml".to_owned() },
                sections: sections.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
            },
        }
    }

    /// A run of `n` calls that ended as it should; its file.
    fn run(&self, n: u64) -> PathBuf {
        let chain = self.begin();
        for n in 0..n {
            chain.append(call(n)).unwrap();
        }
        chain.close("ok").unwrap();
        chain.path().to_owned()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn verify(&self) -> Report {
        verify(self.folder.path(), self.log.keys(), None, &[]).unwrap_or_else(|error| panic!("{error:?}"))
    }

    fn findings(&self) -> Vec<Finding> {
        self.verify().findings
    }

    #[track_caller]
    fn check_whole(&self, states: &[State]) {
        let report = self.verify();
        assert_eq!(report.findings, Vec::new());
        assert_eq!(report.runs.iter().map(|run| run.state).collect::<Vec<_>>(), states, "{:?}", report.runs);
    }

    fn lines(&self, path: &Path) -> Vec<Line> {
        std::fs::read(path)
            .unwrap()
            .split(|b| *b == b'\n')
            .filter(|line| !line.is_empty())
            .map(|line| Line::open(line, self.log.keys()).unwrap())
            .collect()
    }
}

fn call(n: u64) -> Line {
    Line {
        function: Some("storage.bucket.delete".to_owned()),
        rule: Some("plugin.bucket.grant.bucket.documents".to_owned()),
        decision: Some(Verdict::Allowed),
        arguments: vec![Argument { name: "key".to_owned(), value: Some(format!("k{n}")), hash: None }],
        bytes: Some(n),
        outcome: Some("ok".to_owned()),
        ..Line::of(Event::Call)
    }
}

#[test]
fn a_log_of_several_runs_is_as_it_was_written_also_for_somebody_without_the_key() {
    let bench = Bench::new();
    let first = bench.run(3);
    bench.run(0);
    let open = bench.begin();
    bench.check_whole(&[State::Ended, State::Ended, State::Running]);
    open.close("failed").unwrap();
    bench.check_whole(&[State::Ended; 3]);
    let public = Keys::public_only(bench.log.keys().public.clone());
    assert_eq!(verify(bench.folder.path(), &public, None, &[]).unwrap().findings, Vec::new());
    let lines = bench.lines(&first);
    let events: Vec<_> = lines.iter().map(|line| line.event).collect();
    assert_eq!(events, [Event::Begin, Event::Call, Event::Call, Event::Call, Event::End]);
    assert!(lines.windows(2).all(|pair| pair[1].seq == pair[0].seq + 1 && pair[1].at >= pair[0].at));
    // By hand: each line names the hash of the one before.
    let text = std::fs::read_to_string(&first).unwrap();
    let hashes: Vec<_> = text.lines().map(|line| blake3::hash(line.as_bytes()).to_hex().to_string()).collect();
    assert_eq!(lines[1].prev, hashes[0]);
    assert!(std::fs::read_to_string(bench.path("index.jsonl")).unwrap().contains(&hashes[4]));
}

#[test]
fn another_hosts_key_finds_fault_with_every_file() {
    let bench = Bench::new();
    bench.run(1);
    let other = Keys::own(Arc::new(HostKey::ephemeral().unwrap()));
    let report = verify(bench.folder.path(), &other, None, &[]).unwrap();
    assert!(report.findings.iter().any(|f| f.file.ends_with("index.jsonl") && f.line == Some(1)), "{report:?}");
    assert!(report.findings.iter().any(|f| f.file.ends_with("head.json")), "{report:?}");
}

#[test]
fn a_log_that_is_not_there_has_no_fault() {
    let bench = Bench::new();
    bench.check_whole(&[]);
    bench.run(0);
    let report = verify(bench.folder.path(), bench.log.keys(), Some(&["20010101".to_owned()]), &[]).unwrap();
    assert_eq!((report.runs.len(), report.findings.len()), (0, 0));
}

#[test]
fn chains_of_runs_at_the_same_time_share_flushes_and_do_not_mix() {
    let bench = Bench::new();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let chain = bench.begin();
                std::thread::scope(|inner| {
                    for _ in 0..4 {
                        inner.spawn(|| {
                            for n in 0..25 {
                                chain.append(call(n)).unwrap();
                                chain.flush().unwrap();
                            }
                        });
                    }
                });
                chain.close("ok").unwrap();
            });
        }
    });
    bench.check_whole(&[State::Ended; 4]);
    assert_eq!(bench.verify().runs.iter().map(|run| run.lines).sum::<u64>(), 4 * 102);
}

#[test]
fn what_cannot_be_written_fails_and_names_the_file() {
    type Change = fn(&Path);
    let changes: [(&str, Change); 4] = [
        ("gone", |path| std::fs::remove_file(path).unwrap()),
        ("another file", |path| {
            let copy = path.with_extension("copy");
            std::fs::copy(path, &copy).unwrap();
            std::fs::rename(copy, path).unwrap();
        }),
        ("somebody changed it", |path| {
            std::fs::OpenOptions::new().write(true).open(path).unwrap().set_len(10).unwrap();
        }),
        ("somebody changed it", |path| {
            use std::io::Write;
            std::fs::OpenOptions::new().append(true).open(path).unwrap().write_all(b"x").unwrap();
        }),
    ];
    for (says, change) in changes {
        let bench = Bench::new();
        let chain = bench.begin();
        change(chain.path());
        chain.append(call(1)).unwrap();
        let error = chain.flush().unwrap_err();
        assert!(error.message().contains(&chain.path().display().to_string()), "{error:?}");
        assert!(error.facts()[0].1.contains(says), "{says}: {error:?}");
        for later in [chain.append(call(2)).map(drop), chain.anchor().map(drop), chain.close("ok"), chain.healthy()] {
            assert_eq!(later.unwrap_err().kind(), Kind::Failed, "nothing more is written");
        }
    }
}

#[test]
fn a_log_that_cannot_be_begun_fails_and_names_the_file() {
    let bench = Bench::new();
    std::fs::write(bench.path("runs"), "").unwrap();
    let error = bench.log.begin(&bench.beginning(&[])).unwrap_err();
    assert!(error.message().contains("runs"), "{error:?}");
    std::fs::remove_file(bench.path("runs")).unwrap();
    bench.run(1);
    for (file, what) in [("head.json", "head"), ("index.jsonl", "index")] {
        let kept = std::fs::read(bench.path(file)).unwrap();
        std::fs::write(bench.path(file), &kept[..kept.len() / 2]).unwrap();
        let error = bench.log.begin(&bench.beginning(&[])).unwrap_err();
        assert_eq!(error.kind(), Kind::Damaged, "{what}: {error:?}");
        assert!(error.message().contains(file) && error.hint_text().is_some(), "{error:?}");
        std::fs::write(bench.path(file), kept).unwrap();
    }
    bench.run(1);
}

#[test]
fn a_changed_configuration_is_told_once_and_by_section() {
    let bench = Bench::new();
    let said = |sections: &[(&str, &str)]| {
        let chain = bench.log.begin(&bench.beginning(sections)).unwrap();
        chain.close("ok").unwrap();
        let lines = bench.lines(chain.path());
        lines.into_iter().find(|line| line.event == Event::Configuration).and_then(|line| line.detail)
    };
    let one = [("job.a", "x"), ("plugin.p.grant", "narrow")];
    assert!(said(&one).unwrap().contains("first time"));
    assert_eq!(said(&one), None);
    let wider = [("job.b", "x"), ("plugin.p.grant", "wide")];
    assert!(said(&wider).unwrap().ends_with("job.b, plugin.p.grant, job.a (gone)"));
    assert_eq!(said(&wider), None);
    let text = std::fs::read_to_string(bench.path("head.json")).unwrap();
    assert!(!text.contains("narrow") && !text.contains("wide"), "only hashes are kept: {text}");
}

#[test]
fn old_logs_are_removed_only_when_a_record_anchors_them_and_the_index_says_so() {
    let mut bench = Bench::new();
    let (first, second) = (bench.run(1), bench.run(2));
    bench.log.keep = Duration::ZERO;
    let backup = bench.begin();
    assert!(first.exists(), "nothing anchors it yet");
    backup.append(call(1)).unwrap();
    let anchor = backup.anchor().unwrap();
    backup.close("failed").unwrap();
    bench.begin().close("ok").unwrap();
    assert!(first.exists(), "the record was not committed");

    let backup = bench.begin();
    let kept = backup.anchor().unwrap();
    backup.close("ok").unwrap();
    let third = bench.run(0);
    assert!(!first.exists() && !second.exists());
    assert!(backup.path().exists() && third.exists(), "their ends are not anchored yet");
    let report = verify(bench.folder.path(), bench.log.keys(), None, &[anchor, kept]).unwrap();
    assert_eq!(report.findings, Vec::new());
    assert_eq!(report.runs.iter().filter(|run| run.state == State::Removed).count(), 4);
}

#[test]
fn nothing_is_removed_on_the_word_of_a_line_that_somebody_else_wrote() {
    let mut bench = Bench::new();
    let (first, second) = (bench.run(1), bench.run(2));
    let backup = bench.begin();
    backup.anchor().unwrap();
    backup.close("ok").unwrap();
    // The first run's end now names the second run.
    let name = |path: &Path| path.file_stem().unwrap().to_str().unwrap().to_owned();
    let text = std::fs::read_to_string(bench.path("index.jsonl")).unwrap();
    let lines: Vec<_> = text.lines().map(str::to_owned).collect();
    let forged = lines[1].replace(&name(&first), &name(&second));
    let changed = text.replace(&lines[1], &forged).replace(&lines[3], &lines[3].replace(&name(&second), &name(&first)));
    std::fs::write(bench.path("index.jsonl"), changed).unwrap();
    bench.log.keep = Duration::ZERO;
    bench.begin().close("ok").unwrap();
    assert!(first.exists() && second.exists());
}

#[tokio::test]
async fn a_guest_that_is_denied_without_end_does_not_fill_the_disk() {
    use crate::plugin::{Noted, Observer};
    use crate::policy::storage::BucketCall;
    use crate::policy::{Call, Grants, Occasion, Policy, Verb};
    let bench = Bench::new();
    let policy = Arc::new(Policy {
        plugin: "rogue".to_owned(),
        grants: Grants::default(),
        occasion: Occasion { verb: Verb::Backup, plan_only: false },
        settings: serde_json::Value::Null,
    });
    let chain = bench.begin();
    let summary = Summary::new(bench.log.keys().host.as_ref().unwrap(), Default::default());
    let recorder = Recorder::new(chain.clone(), summary, policy.clone());
    let long = "x".repeat(1 << 20);
    for n in 0..MAX_LINES * 3 {
        let label = if n == 0 { &long } else { "y" };
        let call = Call::Bucket(BucketCall { bucket: label, verb: None, key: None, part: None });
        let decision = policy.decide(&call);
        assert_eq!(recorder.decided("storage.open-bucket", &call, &decision).await.unwrap(), Noted::default());
    }
    recorder.finish().unwrap();
    chain.close("failed").unwrap();
    let lines = bench.lines(chain.path());
    assert_eq!(lines.iter().filter(|line| line.event == Event::Deny).count() as u64, MAX_LINES);
    let counted = lines.iter().find(|line| line.event == Event::Counted).unwrap();
    assert_eq!(counted.calls, [Counted { function: "storage.open-bucket".to_owned(), calls: MAX_LINES * 2 }]);
    assert!(std::fs::metadata(chain.path()).unwrap().len() < 1 << 20);
    bench.check_whole(&[State::Ended]);
}

#[test]
#[expect(clippy::print_stdout, reason = "the numbers are for whoever runs it with --nocapture")]
fn what_a_line_costs_is_measured() {
    let folder = tempfile::tempdir().unwrap();
    let cost = cost::measure(folder.path(), 4).unwrap();
    // The number is for people: how fast this machine is just now decides no test.
    println!("a line: {:?}, {} bytes; a flush: {:?}", cost.line, cost.line_bytes, cost.flush);
    assert!((300..1200).contains(&cost.line_bytes), "{cost:?}");
}
