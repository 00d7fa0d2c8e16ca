//! Beyond SIGKILL: what is visible after a crash is on the disk. The real binary runs under `strace`, and a
//! model of the disk says what a power cut at any of its steps would leave.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};
use strongroom_tests::documents::Documents;
use strongroom_tests::durable::{Disk, Event, broken_by_a_power_cut, traced};
use strongroom_tests::relay::{Relay, Setup, sh};

/// A job whose backup is of two artifacts of several segments each.
fn relay() -> Relay {
    Relay::new(Setup {
        produce: sh("head -c 5000000 /dev/urandom"),
        settings: "artifacts = [\"a\", \"b\"]".into(),
        store: "part_bytes = \"1MiB\"\nparts_per_segment = 4".into(),
        ..Setup::default()
    })
}

/// What a power cut during the job's first backup, or just after it, would break.
fn broken_backup(relay: &Relay, broken: Option<&str>) -> Vec<String> {
    let key = relay.sandbox.path("home/.local/state/strongroom/host.key");
    let events = traced(&relay.sandbox, &["backup", "orders"], broken, 0).unwrap();
    assert!(key.is_file());
    let named = |event: &&Event| matches!(event, Event::Rename(_, to) if to.starts_with(relay.store()));
    // Two segments of each artifact and the record; the plugin in the first one.
    assert!(events.iter().filter(named).count() >= 5, "{events:#?}");
    broken_by_a_power_cut(&events, &relay.store(), &[key])
}

#[test]
fn a_power_cut_at_any_step_of_a_backup_leaves_no_record_without_its_bytes() {
    let relay = relay();
    assert_eq!(broken_backup(&relay, None), Vec::<String>::new());
    // A second one finds folders and key there already.
    assert_eq!(broken_backup(&relay, None), Vec::<String>::new());
}

#[test]
fn every_flush_that_is_left_out_is_found() {
    for (broken, says) in [
        ("skip-file-flush", "has its name before its bytes are on the disk"),
        ("skip-name-flush", "record.json may be lost after the end"),
        ("skip-folder-flush", "may be lost"),
    ] {
        let found = broken_backup(&relay(), Some(broken));
        assert!(found.iter().any(|line| line.contains(says)), "{broken}: {found:?}");
    }
}

/// Restores documents of these names into a bucket; what the host did, and the bucket.
fn restored(names: &[&str], broken: Option<&str>) -> (Documents, Vec<Event>) {
    let documents = Documents::new();
    for name in names {
        let path = documents.source().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, name).unwrap();
    }
    let id = documents.backup(0);
    let events = traced(&documents.sandbox, &["restore", "documents", &id, "--target", "found"], broken, 0).unwrap();
    (documents, events)
}

/// Names beneath the bucket that a restore writes into, which a power cut after its end would take.
fn lost_after_a_restore(broken: Option<&str>) -> Vec<PathBuf> {
    let (documents, events) = restored(&["a", "b/c"], broken);
    let mut disk = Disk::default();
    events.iter().for_each(|event| disk.apply(event));
    let found = documents.found();
    let written: Vec<_> = disk.beneath(&found).map(PathBuf::from).collect();
    assert!(written.contains(&found.join("b/c")), "{written:?}");
    written.into_iter().filter(|path| !disk.survives(path)).collect()
}

/// The object that came into the bucket while the line of the audit log before it was not there, or might still
/// have been lost. Lines about other calls may come between its flush and the change.
fn before_their_line(events: &[Event], bucket: &Path, runs: &Path) -> Vec<PathBuf> {
    let (mut found, mut n_changes, mut n_lines) = (Vec::new(), 0, 0);
    let (mut is_written, mut is_flushed) = (false, false);
    for event in events {
        match event {
            Event::Write(path, line) if path.starts_with(runs) && is_before_a_write(line) => {
                (is_written, is_flushed) = (true, false);
                n_lines += 1;
            }
            Event::Flush(path) if path.starts_with(runs) => is_flushed = is_written,
            Event::Rename(_, to) | Event::Link(_, to) if to.starts_with(bucket) => {
                n_changes += 1;
                if !is_flushed {
                    found.push(to.clone());
                }
            }
            _ => {}
        }
    }
    assert_eq!((n_changes, n_lines), (1, 1), "an object comes into {}: {events:#?}", bucket.display());
    found
}

fn is_before_a_write(line: &str) -> bool {
    [r#"\"event\":\"before\""#, "storage.bucket.write"].iter().all(|part| line.contains(part))
}

#[test]
fn a_change_is_not_made_before_its_line_of_the_audit_log_is_on_the_disk() {
    let (documents, mut events) = restored(&["a"], None);
    let runs = documents.sandbox.path("home/.local/state/strongroom/audit/runs");
    assert_eq!(before_their_line(&events, &documents.found(), &runs), Vec::<PathBuf>::new());
    // Were the flushes left out, it would be seen.
    events.retain(|event| !matches!(event, Event::Flush(path) if path.starts_with(&runs)));
    assert!(!before_their_line(&events, &documents.found(), &runs).is_empty());
}

#[test]
fn a_restore_that_ended_well_is_on_the_disk() {
    assert_eq!(lost_after_a_restore(None), Vec::<PathBuf>::new());
    assert!(!lost_after_a_restore(Some("skip-restore-flush")).is_empty());
}

#[test]
fn a_power_cut_during_a_prune_brings_no_record_back_whose_data_is_gone() {
    let relay = relay();
    let config = relay.sandbox.path("strongroom.toml");
    let text = std::fs::read_to_string(&config).unwrap();
    std::fs::write(config, text.replace("[job.orders]\n", "[job.orders]\nkeep = { last = 1 }\n")).unwrap();
    let first = relay.backup();
    relay.backup();
    let mut events = traced(&relay.sandbox, &["prune", "orders", "--yes"], None, 0).unwrap();
    let record = relay.store().join("orders").join(&first).join("record.json");
    assert!(events.contains(&Event::Remove(record)), "{events:#?}");
    // A day and more later its data goes.
    for path in relay.stored() {
        let days = Duration::from_secs(8 * 24 * 3600);
        std::fs::File::open(path).unwrap().set_modified(SystemTime::now() - days).unwrap();
    }
    events.extend(traced(&relay.sandbox, &["prune", "orders", "--yes"], None, 0).unwrap());
    let data = relay.store().join("orders").join(&first).join("data");
    let is_data = |event: &&Event| matches!(event, Event::Remove(path) if path.starts_with(&data) && *path != data);
    assert!(events.iter().filter(is_data).count() >= 4, "{events:#?}");
    assert_eq!(broken_by_a_power_cut(&events, &relay.store(), &[]), Vec::<String>::new());
    // Were the flush after the removal of the record left out, it would be seen.
    let folder = data.parent().unwrap().to_path_buf();
    events.retain(|event| *event != Event::Flush(folder.clone()));
    let found = broken_by_a_power_cut(&events, &relay.store(), &[]);
    assert!(found.iter().any(|line| line.contains("may come back")), "{found:?}");
}
