//! Is this backup plausible beside the last ones? A backup that shrinks to half is worth a warning
//! on the day it happens, not on the day it is needed.

use crate::record::BackupRecord;
use crate::unit;

/// How many earlier backups of the same source are looked at.
pub const LOOK_BACK: usize = 7;

/// Warnings about `record`, beside the last complete backups of the same source, newest last.
///
/// Size and artifact count are held against the median of the last seven; below half is a warning.
/// A fact that is a number and whose name ends in `count`, `rows`, `objects`, `tables` or `databases`
/// is held against its own median in the same way.
pub fn warnings(record: &BackupRecord, earlier: &[&BackupRecord]) -> Vec<String> {
    let same: Vec<_> = earlier.iter().rev().filter(|past| past.source_id == record.source_id).take(LOOK_BACK).collect();
    if same.is_empty() {
        return Vec::new();
    }
    let n = same.len();
    let mut warnings = Vec::new();
    let mut compare = |what: &str, now: u64, past: Vec<u64>, show: fn(u64) -> String| {
        if let Some(median) = median(past)
            && now < median.div_ceil(2)
        {
            warnings.push(format!(
                "{what} is {}, less than half of {}, the median of the last {n} backups of this source",
                show(now),
                show(median)
            ));
        }
    };
    compare("size", size(record), same.iter().map(|past| size(past)).collect(), unit::bytes);
    let artifacts = |r: &BackupRecord| r.artifacts.len() as u64;
    compare("the number of artifacts", artifacts(record), same.iter().map(|past| artifacts(past)).collect(), |n| {
        n.to_string()
    });
    for (name, value) in &record.facts {
        let Some(now) = count(name, value) else { continue };
        let past: Vec<u64> = same
            .iter()
            .filter_map(|r| r.facts.iter().find(|(other, _)| other == name).and_then(|(n, v)| count(n, v)))
            .collect();
        compare(&format!("fact \"{name}\""), now, past, |n| n.to_string());
    }
    warnings
}

/// Plaintext bytes of all artifacts.
pub fn size(record: &BackupRecord) -> u64 {
    record.artifacts.iter().fold(0, |sum, artifact| sum.saturating_add(artifact.size))
}

fn count(name: &str, value: &str) -> Option<u64> {
    let counts = ["count", "rows", "objects", "tables", "databases", "files"];
    counts.iter().any(|ending| name.ends_with(ending)).then(|| value.parse().ok()).flatten()
}

fn median(mut values: Vec<u64>) -> Option<u64> {
    values.sort_unstable();
    let n = values.len();
    match n {
        0 => None,
        _ if n % 2 == 1 => Some(values[n / 2]),
        _ => Some(values[n / 2 - 1].midpoint(values[n / 2])),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{ArtifactRecord, FORMAT, HostIdentity, Outcome, PluginIdentity};
    use crate::stream::Origin;

    fn record(size: u64, rows: u64, source: &str) -> BackupRecord {
        BackupRecord {
            format: FORMAT,
            job: "orders".parse().unwrap(),
            id: "20261120T020000Z-aaaaaaaa".parse().unwrap(),
            started: jiff::Timestamp::UNIX_EPOCH,
            finished: jiff::Timestamp::UNIX_EPOCH,
            outcome: Outcome::Complete,
            plugin: PluginIdentity { name: "p".into(), version: "1.0.0".into(), sha256: String::new() },
            host: HostIdentity { version: String::new(), machine: String::new() },
            settings: serde_json::Value::Null,
            source_id: Some(source.into()),
            artifacts: vec![ArtifactRecord {
                name: "a".parse().unwrap(),
                size,
                blake3: String::new(),
                media_type: None,
                origin: Origin::Plugin,
                encrypted: false,
                segments: Vec::new(),
                index: None,
            }],
            facts: vec![("shop.rows".into(), rows.to_string())],
            skipped: Vec::new(),
            not_captured: Vec::new(),
            needs: Vec::new(),
            state: String::new(),
            warnings: Vec::new(),
            extra: Default::default(),
        }
    }

    #[test]
    fn a_backup_below_half_of_the_median_is_warned_of_and_one_at_half_is_not() {
        let past: Vec<_> = [100, 110, 90, 100, 5000].map(|size| record(size, 10, "db")).into();
        let past: Vec<_> = past.iter().collect();
        assert_eq!(warnings(&record(50, 10, "db"), &past), Vec::<String>::new());
        let found = warnings(&record(49, 4, "db"), &past);
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(found[0].starts_with("size is 49 B, less than half of 100 B"), "{found:?}");
        assert!(found[1].starts_with("fact \"shop.rows\" is 4"), "{found:?}");
    }

    #[test]
    fn only_the_last_seven_of_the_same_source_count() {
        let mut past: Vec<_> = vec![record(1_000_000, 10, "db"); 5];
        past.extend(vec![record(100, 10, "db"); 7]);
        past.extend(vec![record(1_000_000, 10, "other"); 7]);
        let past: Vec<_> = past.iter().collect();
        assert_eq!(warnings(&record(60, 10, "db"), &past), Vec::<String>::new());
        assert_eq!(warnings(&record(60, 10, "new"), &past), Vec::<String>::new());
    }
}
