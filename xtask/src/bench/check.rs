//! `--check`: whether ratios are still there, and still what the last table says. Absolute numbers move with the
//! machine.

use super::table::{Better, Finding, RATIO, Table};
use anyhow::{Result, bail};

/// How much worse a ratio of medians may be than in the last table: what a machine that others share needs.
pub const TOLERANCE: f64 = 0.15;

/// Compares every ratio that both tables have and returns what became worse, in words. Ratios of the last table that
/// were not measured now are among that where everything was asked for (`is_whole`).
///
/// Fails when there is nothing to compare: another amount of plaintext, or no ratio in common.
pub fn compare(last: &Table, now: &Table, is_whole: bool) -> Result<Vec<String>> {
    if last.bytes != now.bytes {
        bail!("the last table was measured with {} MiB and this one with {}", last.bytes >> 20, now.bytes >> 20);
    }
    let ratios = |table: &Table| table.findings.iter().filter(|finding| finding.unit == RATIO).cloned().collect();
    let (before, after): (Vec<Finding>, Vec<Finding>) = (ratios(last), ratios(now));
    let pairs: Vec<_> = after
        .iter()
        .filter_map(|now| before.iter().find(|before| before.id == now.id).map(|before| (before, now)))
        .collect();
    if pairs.is_empty() {
        bail!("nothing that was measured now is in the last table");
    }
    let worse = pairs.into_iter().filter(|(before, now)| match now.better {
        Better::Higher => now.value < before.value * (1.0 - TOLERANCE),
        Better::Lower => now.value > before.value * (1.0 + TOLERANCE),
    });
    let worse = worse.map(|(before, now)| {
        let percent = TOLERANCE * 100.0;
        format!("{}: {:.2} x, was {:.2} x: worse by more than {percent:.0} %", now.what, now.value, before.value)
    });
    let is_missing = |finding: &&Finding| is_whole && after.iter().all(|now| now.id != finding.id);
    let missing = before.iter().filter(is_missing);
    let missing = missing.map(|finding| format!("{}: not measured, was {:.2} x", finding.what, finding.value));
    Ok(worse.chain(missing).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::table::tests::finding;

    fn tables(before: f64, now: f64, better: Better) -> (Table, Table) {
        let table = |value| Table { findings: vec![finding("s3/a", value, better, None)], ..Table::default() };
        (table(before), table(now))
    }

    #[test]
    fn a_ratio_may_become_worse_by_the_tolerance_and_better_by_any() {
        for (before, now, better, is_worse) in [
            (2.0, 1.71, Better::Higher, false),
            (2.0, 1.69, Better::Higher, true),
            (2.0, 9.00, Better::Higher, false),
            (2.0, 2.29, Better::Lower, false),
            (2.0, 2.31, Better::Lower, true),
            (2.0, 0.10, Better::Lower, false),
        ] {
            let (last, now) = tables(before, now, better);
            assert_eq!(!compare(&last, &now, true).unwrap().is_empty(), is_worse, "{now:?}");
        }
        let (last, now) = tables(2.0, 1.0, Better::Higher);
        let expected = ["what s3/a is: 1.00 x, was 2.00 x: worse by more than 15 %"];
        assert_eq!(compare(&last, &now, true).unwrap(), expected);
    }

    #[test]
    fn a_ratio_that_is_gone_is_missed_where_everything_was_asked_for() {
        let (mut last, now) = tables(1.0, 1.0, Better::Higher);
        last.findings.push(finding("far/b", 2.0, Better::Higher, None));
        last.findings.push(Finding { unit: "ms".into(), ..finding("far/c", 2.0, Better::Higher, None) });
        assert_eq!(compare(&last, &now, true).unwrap(), ["what far/b is: not measured, was 2.00 x"]);
        assert!(compare(&last, &now, false).unwrap().is_empty());
    }

    #[test]
    fn what_cannot_be_compared_is_no_success() {
        let (last, mut now) = tables(1.0, 1.0, Better::Higher);
        now.findings[0].id = "s3/b".into();
        assert!(compare(&last, &now, false).unwrap_err().to_string().contains("nothing that was measured"));
        let (last, mut now) = tables(1.0, 1.0, Better::Higher);
        now.bytes = 1 << 20;
        assert!(compare(&last, &now, false).unwrap_err().to_string().contains("0 MiB and this one with 1"));
        let (last, mut now) = tables(1.0, 9.0, Better::Lower);
        now.findings[0].unit = "ms".into();
        assert!(compare(&last, &now, false).is_err(), "only ratios are compared");
    }
}
