//! Everything that somebody without the host's key could do to the files, one after the other.

use super::*;
use crate::record::{AuditAnchor, IndexAnchor};

/// A log of two ended runs with their files.
fn two_runs() -> (Bench, PathBuf, PathBuf) {
    let bench = Bench::new();
    let (one, two) = (bench.run(2), bench.run(3));
    bench.check_whole(&[State::Ended, State::Ended]);
    (bench, one, two)
}

/// A log of one short run, for what is done to every byte.
fn one_run() -> (Bench, PathBuf) {
    let bench = Bench::new();
    let path = bench.run(1);
    bench.check_whole(&[State::Ended]);
    (bench, path)
}

fn lines_of(path: &Path) -> Vec<Vec<u8>> {
    std::fs::read(path).unwrap().split_inclusive(|b| *b == b'\n').map(<[u8]>::to_vec).collect()
}

/// Writes `changed`, which must be found in this file at `line`; then the file is as before.
#[track_caller]
fn check_found(bench: &Bench, path: &Path, changed: &[u8], line: impl Into<Option<u64>>, what: &str) {
    let kept = std::fs::read(path).unwrap();
    assert_ne!(kept, changed, "{what} changes nothing");
    std::fs::write(path, changed).unwrap();
    let findings = bench.findings();
    let shown = path.display().to_string();
    let found = findings.iter().find(|finding| finding.file == shown);
    let found = found.unwrap_or_else(|| panic!("{what} was not found in {shown}: {findings:?}"));
    if let Some(line) = line.into() {
        assert_eq!(found.line, Some(line), "{what}: {findings:?}");
    }
    std::fs::write(path, kept).unwrap();
}

/// The line of a byte, from 1.
fn line_of(bytes: &[u8], at: usize) -> u64 {
    1 + bytes[..at].iter().filter(|b| **b == b'\n').count() as u64
}

#[test]
fn every_flipped_bit_is_found_and_its_line_is_named() {
    let (bench, one) = one_run();
    for path in [one, bench.path("index.jsonl"), bench.path("head.json")] {
        let bytes = std::fs::read(&path).unwrap();
        for at in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[at] ^= 1 << (at % 8);
            let line = if path.ends_with("head.json") { None } else { Some(line_of(&bytes, at)) };
            check_found(&bench, &path, &changed, line, &format!("bit {} of byte {at}", at % 8));
        }
    }
    assert_eq!(bench.findings(), Vec::new(), "it is as before");
}

#[test]
fn every_cut_is_found() {
    let (bench, one) = one_run();
    for path in [one, bench.path("index.jsonl"), bench.path("head.json")] {
        let bytes = std::fs::read(&path).unwrap();
        for end in 0..bytes.len() {
            check_found(&bench, &path, &bytes[..end], None, &format!("cut at {end}"));
        }
    }
}

#[test]
fn lines_that_are_removed_doubled_moved_or_added_are_found() {
    let (bench, one, two) = two_runs();
    let made_up = b"{\"seq\":2}\n".to_vec();
    for (path, other) in
        [(one.clone(), two.clone()), (two, one), (bench.path("index.jsonl"), bench.path("index.jsonl"))]
    {
        let (lines, strange) = (lines_of(&path), lines_of(&other));
        for at in 0..lines.len() {
            let number = at as u64 + 1;
            let mut removed = lines.clone();
            removed.remove(at);
            check_found(&bench, &path, &removed.concat(), None, &format!("line {number} removed"));
            let mut doubled = lines.clone();
            doubled.insert(at, lines[at].clone());
            check_found(&bench, &path, &doubled.concat(), number + 1, &format!("line {number} doubled"));
            let mut added = lines.clone();
            added.insert(at, made_up.clone());
            check_found(&bench, &path, &added.concat(), number, &format!("made-up line {number}"));
            for to in (0..lines.len()).filter(|to| *to != at) {
                let mut swapped = lines.clone();
                swapped.swap(at, to);
                check_found(
                    &bench,
                    &path,
                    &swapped.concat(),
                    number.min(to as u64 + 1),
                    &format!("{at} and {to} swapped"),
                );
            }
            if path != other && at < strange.len() {
                // A line of the other run, in its place and with its number.
                let mut spliced = lines.clone();
                spliced[at] = strange[at].clone();
                check_found(&bench, &path, &spliced.concat(), number, &format!("line {number} of another run"));
                let rest = [&lines[..at], &strange[at..]].concat();
                check_found(&bench, &path, &rest.concat(), number, &format!("the rest of another run from {number}"));
            }
        }
        let mut longer = lines.clone();
        longer.push(made_up.clone());
        check_found(&bench, &path, &longer.concat(), lines.len() as u64 + 1, "a line behind the last");
        if path.parent() == Some(&bench.path("runs")) {
            let torn = [lines.concat(), b"{\"seq".to_vec()].concat();
            check_found(&bench, &path, &torn, lines.len() as u64 + 1, "half a line behind the last");
        }
    }
}

#[test]
fn files_that_are_gone_swapped_or_strange_are_found() {
    let (bench, one, two) = two_runs();
    let names = |bench: &Bench| -> Vec<String> { bench.findings().into_iter().map(|finding| finding.file).collect() };
    let shown = |path: &Path| path.display().to_string();
    for path in [&one, &two, &bench.path("index.jsonl"), &bench.path("head.json")] {
        let kept = std::fs::read(path).unwrap();
        std::fs::remove_file(path).unwrap();
        assert!(!names(&bench).is_empty(), "{} is gone", path.display());
        std::fs::write(path, kept).unwrap();
    }
    let [index, head] =
        [bench.path("index.jsonl"), bench.path("head.json")].map(|path| (std::fs::read(&path).unwrap(), path));
    std::fs::remove_file(&index.1).unwrap();
    std::fs::remove_file(&head.1).unwrap();
    assert_eq!(names(&bench), [shown(&one), shown(&two)], "chains that no index names");
    std::fs::write(&index.1, &index.0).unwrap();
    std::fs::write(&head.1, &head.0).unwrap();

    let (first, second) = (std::fs::read(&one).unwrap(), std::fs::read(&two).unwrap());
    std::fs::write(&one, &second).unwrap();
    std::fs::write(&two, &first).unwrap();
    assert_eq!(names(&bench).len(), 2, "swapped");
    std::fs::write(&one, &first).unwrap();
    std::fs::write(&two, &second).unwrap();

    let strange = bench.path("runs/20010101T000000Z-aaaaaaaa.jsonl");
    std::fs::write(&strange, &first).unwrap();
    assert_eq!(names(&bench), [shown(&strange)]);
    std::fs::remove_file(strange).unwrap();
    std::fs::write(bench.path("runs/notes.txt"), "x").unwrap();
    assert_eq!(names(&bench).len(), 1);
}

#[test]
fn an_index_that_was_rolled_back_with_its_files_is_found_by_its_head_and_all_of_it_by_a_record() {
    let bench = Bench::new();
    bench.run(1);
    let old: Vec<_> = ["index.jsonl", "head.json"].map(|name| (name, std::fs::read(bench.path(name)).unwrap())).into();
    let backup = bench.begin();
    backup.append(call(1)).unwrap();
    let anchor = backup.anchor().unwrap();
    backup.close("ok").unwrap();
    let check =
        |anchors: &[AuditAnchor]| verify(bench.folder.path(), bench.log.keys(), None, anchors).unwrap().findings;
    assert_eq!(check(std::slice::from_ref(&anchor)), Vec::new());

    // Without a copy of the old head, the index cannot be made shorter.
    std::fs::write(bench.path("index.jsonl"), &old[0].1).unwrap();
    std::fs::remove_file(backup.path()).unwrap();
    assert!(check(&[]).iter().any(|f| f.what.contains("its head says")), "{:?}", check(&[]));

    // With one, only what is kept elsewhere tells.
    std::fs::write(bench.path("head.json"), &old[1].1).unwrap();
    assert_eq!(check(&[]), Vec::new());
    let found = check(&[anchor]);
    assert!(found.iter().any(|f| f.file.ends_with("index.jsonl")), "{found:?}");
}

#[test]
fn a_record_that_says_otherwise_is_found_even_where_the_host_itself_wrote_the_log_again() {
    let bench = Bench::new();
    let backup = bench.begin();
    backup.append(call(1)).unwrap();
    let good = backup.anchor().unwrap();
    backup.close("ok").unwrap();
    let check = |anchor: AuditAnchor| verify(bench.folder.path(), bench.log.keys(), None, &[anchor]).unwrap().findings;
    assert_eq!(check(good.clone()), Vec::new());
    let other = "f".repeat(64);
    for (anchor, file) in [
        (AuditAnchor { hash: other.clone(), ..good.clone() }, ".jsonl"),
        (AuditAnchor { lines: 99, ..good.clone() }, ".jsonl"),
        (AuditAnchor { run: "20010101T000000Z-aaaaaaaa".to_owned(), ..good.clone() }, "aaaaaaaa.jsonl"),
        (AuditAnchor { index: IndexAnchor { hash: other, ..good.index.clone() }, ..good.clone() }, "index.jsonl"),
        (AuditAnchor { index: IndexAnchor { lines: 99, ..good.index.clone() }, ..good }, "index.jsonl"),
    ] {
        let found = check(anchor);
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].file.ends_with(file), "{found:?}");
    }
}
