//! Promise 6: what is written here is restored by `age`, `zstd` and `b3sum` alone, through the
//! script that the documentation names. Needs these tools and `jq`, and fails without them.

use super::*;
use std::path::Path;
use std::process::Output;

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/restore-by-hand.sh");

/// A backup's folder as a local store has it.
fn lay_out(backup: &Path, segments: &MemorySegments, record: &ArtifactRecord) {
    let data = backup.join("data");
    std::fs::create_dir_all(&data).unwrap();
    let suffix = if record.encrypted { "zst.age" } else { "zst" };
    for (number, bytes) in segments.visible() {
        std::fs::write(data.join(format!("{}.{number:04}.{suffix}", record.name)), bytes).unwrap();
    }
    let json = serde_json::json!({ "artifacts": [record] });
    std::fs::write(backup.join("record.json"), json.to_string()).unwrap();
}

#[expect(clippy::disallowed_methods, reason = "the script under test is what a person runs without the host")]
fn run_script(backup: &Path, output: &Path, identity: Option<&Path>) -> Output {
    let mut command = std::process::Command::new("sh");
    command.arg(SCRIPT).arg(backup).arg("shop.dump").arg(output).args(identity);
    command.output().unwrap()
}

fn check_refused(backup: &Path, output: &Path, identity: Option<&Path>, expected: &str) {
    let ran = run_script(backup, output, identity);
    let said = String::from_utf8_lossy(&ran.stderr).into_owned();
    assert!(!ran.status.success() && said.contains(expected), "expected {expected:?}, got {said}");
    assert!(!output.exists(), "{expected}");
}

#[test]
fn an_artifact_is_restored_by_hand_and_what_is_not_right_is_refused() {
    let kit = Kit::new();
    let secret = Identity::generate();
    let plain = noise(5 * FRAME_BYTES + 3, 30);
    for options in [options(), WriteOptions { compression: Compression::Raw, ..options() }, sealed_for(&secret)] {
        let (segments, record) = kit.store(&plain, options);
        let here = tempfile::tempdir().unwrap();
        let (backup, output, key) = (here.path().join("backup"), here.path().join("out"), here.path().join("key.txt"));
        lay_out(&backup, &segments, &record);
        std::fs::write(&key, secret.to_secret().expose()).unwrap();
        let identity = record.encrypted.then_some(key.as_path());

        let ran = run_script(&backup, &output, identity);
        assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
        assert!(std::fs::read(&output).unwrap() == plain);
        let ran = run_script(&backup, &output, identity);
        assert!(!ran.status.success(), "it overwrote a file");
        std::fs::remove_file(&output).unwrap();

        let suffix = if record.encrypted { "zst.age" } else { "zst" };
        let segment = |number: usize| backup.join(format!("data/shop.dump.{number:04}.{suffix}"));
        let last = record.segments.len();
        let kept = std::fs::read(segment(last)).unwrap();
        std::fs::remove_file(segment(last)).unwrap();
        check_refused(&backup, &output, identity, "expected 3 segments of \"shop.dump\", got 2");
        std::fs::write(segment(last), &kept).unwrap();
        std::fs::write(segment(last + 1), &kept).unwrap();
        check_refused(&backup, &output, identity, "got 4");
        std::fs::remove_file(segment(last + 1)).unwrap();
        // The raw frame's last block: plaintext that zstd can not tell from the right one.
        let mut flipped = kept.clone();
        flipped[1000] ^= 1;
        std::fs::write(segment(last), &flipped).unwrap();
        check_refused(&backup, &output, identity, "");
        std::fs::write(segment(last), &kept).unwrap();
        if record.encrypted {
            check_refused(&backup, &output, None, "name the file of an age identity");
            std::fs::write(&key, Identity::generate().to_secret().expose()).unwrap();
            check_refused(&backup, &output, identity, "could not decrypt");
        }
        std::fs::remove_file(backup.join("record.json")).unwrap();
        check_refused(&backup, &output, identity, "without a record there is no backup");
    }
}

#[test]
fn an_empty_artifact_is_restored_by_hand() {
    let kit = Kit::new();
    let (segments, record) = kit.store(&[], options());
    let here = tempfile::tempdir().unwrap();
    lay_out(here.path(), &segments, &record);
    let output = here.path().join("out");
    let ran = run_script(here.path(), &output, None);
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
    assert_eq!(std::fs::read(&output).unwrap(), b"");
}
