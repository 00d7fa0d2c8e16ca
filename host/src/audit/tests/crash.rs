//! Runs that were killed: told apart from tampering, and closed by the next run.

use super::*;
use std::io::Write;

/// A chain whose run ended without a word: what the kernel leaves of a killed process.
fn killed(bench: &Bench, n: u64) -> PathBuf {
    let chain = bench.begin();
    for n in 0..n {
        chain.append(call(n)).unwrap();
    }
    chain.path().to_owned()
}

fn append(path: &Path, bytes: &[u8]) {
    std::fs::OpenOptions::new().append(true).open(path).unwrap().write_all(bytes).unwrap();
}

#[test]
fn a_killed_run_is_no_finding_and_the_next_run_closes_its_chain() {
    let bench = Bench::new();
    let path = killed(&bench, 2);
    bench.check_whole(&[State::Killed]);
    bench.run(0);
    bench.check_whole(&[State::Killed, State::Ended]);
    let last = bench.lines(&path).pop().unwrap();
    assert_eq!((last.event, last.seq, last.outcome.as_deref()), (Event::Crash, 4, Some("killed")));
    // From here on it is anchored: what is cut off is missed.
    let bytes = std::fs::read(&path).unwrap();
    let kept = bytes[..bytes.len() - 1].rsplitn(2, |b| *b == b'\n').nth(1).unwrap().len() + 1;
    std::fs::write(&path, &bytes[..kept]).unwrap();
    assert_eq!(bench.findings()[0].line, Some(4), "{:?}", bench.findings());
}

#[test]
fn half_a_line_is_what_a_crash_leaves_and_is_cut_off_with_a_word() {
    let bench = Bench::new();
    let path = killed(&bench, 1);
    append(&path, b"{\"seq\":3,\"prev\":\"0");
    bench.check_whole(&[State::Killed]);
    bench.run(0);
    bench.check_whole(&[State::Killed, State::Ended]);
    let last = bench.lines(&path).pop().unwrap();
    assert!(last.detail.unwrap().contains("18 bytes"), "how much was cut off is said");
}

#[test]
fn a_chain_that_somebody_changed_after_the_crash_stays_a_finding() {
    type Change = fn(Vec<u8>) -> Vec<u8>;
    let changes: [Change; 3] = [
        |mut bytes| {
            bytes[20] ^= 1;
            bytes
        },
        |bytes| [&bytes[..], b"{}\n"].concat(),
        |bytes| bytes.split_inclusive(|b| *b == b'\n').skip(1).flatten().copied().collect(),
    ];
    for (n, change) in changes.into_iter().enumerate() {
        let bench = Bench::new();
        let path = killed(&bench, 2);
        let changed = change(std::fs::read(&path).unwrap());
        std::fs::write(&path, &changed).unwrap();
        assert_eq!(bench.findings().len(), 1, "change {n} before the next run");
        bench.run(0);
        assert_eq!(bench.findings().len(), 1, "change {n} after it");
        assert_eq!(std::fs::read(&path).unwrap(), changed, "evidence is left as it is");
    }
    let bench = Bench::new();
    std::fs::remove_file(killed(&bench, 2)).unwrap();
    assert_eq!(bench.findings().len(), 1, "its file is gone");
    bench.run(0);
    assert_eq!(bench.findings().len(), 1, "and stays gone");
}

#[test]
fn killed_between_any_two_steps_of_the_index_the_log_goes_on() {
    // After the first line of the chain, before the index knows of it.
    let bench = Bench::new();
    bench.run(1);
    let [index, head] = ["index.jsonl", "head.json"].map(|name| bench.path(name));
    let before = [&index, &head].map(|path| std::fs::read(path).unwrap());
    let path = killed(&bench, 0);
    std::fs::write(&index, &before[0]).unwrap();
    std::fs::write(&head, &before[1]).unwrap();
    assert_eq!(bench.lines(&path).len(), 1);
    bench.check_whole(&[State::Ended, State::Killed]);
    bench.run(0);
    bench.check_whole(&[State::Ended, State::Killed, State::Ended]);

    // In the middle of the index's line, and after it, before the head is written.
    for whole in [false, true] {
        let bench = Bench::new();
        bench.run(1);
        let [index, head] = ["index.jsonl", "head.json"].map(|name| bench.path(name));
        let before = [&index, &head].map(|path| std::fs::read(path).unwrap());
        killed(&bench, 0);
        let grown = std::fs::read(&index).unwrap();
        let end = if whole { grown.len() } else { before[0].len() + 40 };
        std::fs::write(&index, &grown[..end]).unwrap();
        std::fs::write(&head, &before[1]).unwrap();
        bench.check_whole(&[State::Ended, State::Killed]);
        bench.run(0);
        bench.check_whole(&[State::Ended, State::Killed, State::Ended]);
    }

    // After the last line of the chain, before the index knows that it is closed.
    let bench = Bench::new();
    let chain = bench.begin();
    let open = [&bench.path("index.jsonl"), &bench.path("head.json")].map(|path| std::fs::read(path).unwrap());
    chain.close("ok").unwrap();
    drop(chain);
    std::fs::write(bench.path("index.jsonl"), &open[0]).unwrap();
    std::fs::write(bench.path("head.json"), &open[1]).unwrap();
    bench.check_whole(&[State::Ended]);
    bench.run(0);
    bench.check_whole(&[State::Ended, State::Ended]);
}

#[test]
fn the_chain_of_a_run_that_lives_is_left_alone() {
    let bench = Bench::new();
    let alive = bench.begin();
    bench.run(1);
    alive.append(call(1)).unwrap();
    alive.close("ok").unwrap();
    bench.check_whole(&[State::Ended, State::Ended]);
    assert!(bench.lines(alive.path()).iter().all(|line| line.event != Event::Crash));
}
