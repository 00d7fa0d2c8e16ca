//! What a command printed, as a test compares it: whole, with whatever differs between two runs replaced.

use regex::Regex;
use std::sync::LazyLock;

/// What differs from run to run, in this order: the first pattern that fits a place wins.
static FILTERS: LazyLock<Vec<(Regex, &'static str)>> = LazyLock::new(|| {
    let table = [
        (r"\d{8}T\d{6}Z-[a-z0-9]{8}", "<id>"),
        (r"\d{4}-\d{2}-\d{2}[T ]\d{2}:\d{2}(:\d{2}(\.\d+)?)?( ?(Z|UTC))?", "<time>"),
        (r"AGE-SECRET-KEY-1[A-Z0-9]+", "<identity>"),
        (r"\bage1[a-z0-9]{58}\b", "<recipient>"),
        (r"\b[0-9a-f]{64}\b", "<digest>"),
        (r"\b[0-9a-f]{16}\b", "<checksum>"),
        (r"\b(127\.0\.0\.1|localhost|\[::1\]):\d{2,5}\b", "$1:<port>"),
        (r"\bpid \d+", "pid <pid>"),
        (r"\b\d+(\.\d+)? ([KMGTPE]i)?B/s", "<rate>"),
        (r"\b\d+ d \d+ h\b|\b\d+ h \d+ min\b|\b\d+ min \d+ s\b|\b\d+(\.\d+)? (s|ms)\b", "<duration>"),
    ];
    table.into_iter().map(|(pattern, with)| (Regex::new(pattern).expect("a pattern of the table"), with)).collect()
});

/// `text` with ids, times, keys, digests, ports, durations and rates replaced, and each of `paths` by its
/// name.
pub fn filtered(text: &str, paths: &[(&str, &str)]) -> String {
    let mut text = text.to_owned();
    for (path, name) in paths {
        text = text.replace(path, name);
    }
    for (pattern, with) in FILTERS.iter() {
        text = pattern.replace_all(&text, *with).into_owned();
    }
    // A terminal does not show spaces at the end of a line, and an editor removes them from a snapshot.
    text.lines().map(str::trim_end).collect::<Vec<_>>().join("\n")
}

/// Compares the whole output of a command, exit code included, with an inline snapshot:
/// `check_snapshot!(sandbox.run(["list"]), @"…")`.
#[macro_export]
macro_rules! check_snapshot {
    ($output:expr, $($snapshot:tt)*) => {
        $crate::insta::assert_snapshot!($output.shown(), $($snapshot)*)
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_differs_between_runs_is_replaced_and_nothing_else() {
        let shown = filtered(
            "/tmp/x1/store: 20261120T020000Z-x7k2m9qd at 2026-11-20T02:00:00Z took 3 min 5 s, 12.0 MiB at 4.0 MiB/s\n\
             127.0.0.1:40213 in 12 ms   \n2 files",
            &[("/tmp/x1", "$DIR")],
        );
        assert_eq!(
            shown,
            "$DIR/store: <id> at <time> took <duration>, 12.0 MiB at <rate>\n127.0.0.1:<port> in <duration>\n2 files"
        );
    }
}
