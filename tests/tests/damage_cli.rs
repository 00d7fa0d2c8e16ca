//! Damage to what lies in a store, through the command line: seeded flips, cuts, swaps, old segments and
//! deletions. Every one is found, and named by artifact, segment and place.
//!
//! The flips are [`FLIPS`] in number; `cargo xtask soak damage-cli` makes more.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use strongroom_tests::Output;
use strongroom_tests::dice::Dice;
use strongroom_tests::relay::{Relay, Setup, sh};
use xtask::soak::turns;

/// Flips that a plain run does.
const FLIPS: u64 = 100;
/// The most bytes between the place that an error names and the flipped byte: a frame at rest and its tags.
const MOST_BYTES_OFF: u64 = 2_105_344 + 33 * 16;
/// The nonce in front of an age file's payload is proven by the first message behind it, which is what is named.
const NONCE_BYTES: u64 = 16;
/// Every so many flips are looked at by every verb, and not by the quickest alone.
const THOROUGH: u64 = 5;

/// Three artifacts that differ, the first of three segments.
const ARTIFACTS: &str = "artifacts = [\"a\", \"b\"]";
const PRODUCE: &str = "head -c 6000000 /dev/urandom";
const SMALL: &str = "part_bytes = \"1MiB\"\nparts_per_segment = 3";

/// A relay with backups, and what is told of its restores.
struct Stored {
    relay: Relay,
    copy: PathBuf,
}

impl Stored {
    fn new() -> Self {
        let relay = Relay::new(setup(""));
        let copy = relay.sandbox.path("copy");
        let consume = format!("cat > {0}.tmp && mv {0}.tmp {0}", copy.display());
        relay.configure(&setup(&consume));
        Self { relay, copy }
    }

    /// Artifact, number and path of every segment of a backup.
    fn segments(&self, id: &str) -> Vec<(String, u32, PathBuf)> {
        let parse = |path: PathBuf| {
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            let mut parts = name.split('.');
            let (artifact, number) = (parts.next().unwrap().to_owned(), parts.next().unwrap().parse().unwrap());
            (artifact, number, path)
        };
        self.relay.segments(id).into_iter().map(parse).collect()
    }

    fn record(&self, id: &str) -> PathBuf {
        self.relay.store().join("orders").join(id).join("record.json")
    }

    /// `verify --depth stored` finds it and names the segment; returns the offset, where it names one.
    #[track_caller]
    fn check_stored(&self, id: &str, artifact: &str, number: u32, what: &str) -> Option<u64> {
        let output = self.relay.run(&["verify", "orders", id, "--depth", "stored", "--output", "json"]);
        let (offset, evidence) = check_named(&output, artifact, number, what);
        // The digest of a whole segment does not tell where in it the damage is, and says who does.
        let is_missing = evidence.contains(" is missing");
        assert_ne!(offset.is_some() || is_missing, evidence.contains("verify --depth contents"), "{what}: {evidence}");
        offset
    }

    /// The other verbs find it as well, and no consumer sees an end of it.
    #[track_caller]
    fn check_thorough(&self, id: &str, artifact: &str, number: u32, what: &str) -> Option<u64> {
        let output = self.relay.run(&["verify", "orders", id, "--depth", "contents", "--output", "json"]);
        let (offset, evidence) = check_named(&output, artifact, number, what);
        assert!(!evidence.contains("verify --depth contents"), "{what}: that is what was done: {evidence}");
        let restored = self.relay.run(&["restore", "orders", id]);
        assert!(matches!(restored.code, Some(1 | 6)), "{what}: {restored:#?}");
        // The artifact before the damaged one is whole, and may be restored; the damaged one is not.
        let copied = std::fs::metadata(&self.copy).is_ok();
        assert!(!copied || artifact != "a", "{what}: a consumer saw an end of what is damaged");
        drop(std::fs::remove_file(&self.copy));
        let mut named = format!("artifact \"{artifact}\" segment {number:04}");
        if let Some(offset) = offset {
            named += &format!(" at stored offset {offset}");
        }
        assert!(restored.stderr.contains(&named), "{what}: {named} in {restored:#?}");
        offset
    }
}

fn setup(consume: &str) -> Setup {
    Setup {
        produce: sh(PRODUCE),
        consume: sh(consume),
        settings: ARTIFACTS.into(),
        store: SMALL.into(),
        ..Setup::default()
    }
}

/// Without encryption, where no seal refuses what a frame's own digest would let pass; and with segments of many
/// frames, so that a wrong one has long left before the checksum of its segment tells.
fn configure_unsealed(relay: &Relay, consume: &str) {
    let store = "part_bytes = \"1MiB\"\nparts_per_segment = 20".into();
    relay.configure(&Setup { produce: sh("head -c 24000000 /dev/urandom"), store, ..setup(consume) });
    let config = relay.sandbox.path("strongroom.toml");
    let text = std::fs::read_to_string(&config).unwrap();
    let of_keys = |line: &&str| line.starts_with("recipients = ") || line.starts_with("identity = ");
    let without: Vec<_> = text.lines().filter(|line| !of_keys(line)).collect();
    let plain = without.join("\n").replace("[store.main]\n", "[store.main]\nencryption = \"off\"\n");
    std::fs::write(config, plain).unwrap();
}

/// A verification that failed for this artifact and segment and no other; returns the offset that it names, and
/// all that it says.
#[track_caller]
fn check_named(output: &Output, artifact: &str, number: u32, what: &str) -> (Option<u64>, String) {
    assert_eq!(output.code, Some(5), "{what}: {output:#?}");
    let found = output.json();
    let checks = found["checks"].as_array().unwrap();
    let failed = checks.iter().filter(|check| check["outcome"] == "failed" && check["id"] != "host.plugin");
    let failed: Vec<_> = failed.filter(|check| check["id"].as_str().unwrap().starts_with("host.")).collect();
    assert_eq!(failed.len(), 1, "{what}: {found:#}");
    assert_eq!(failed[0]["title"], format!("artifact \"{artifact}\""), "{what}");
    let evidence = failed[0]["evidence"].as_str().unwrap();
    let named = format!("artifact \"{artifact}\" segment {number:04}");
    let Some((_, rest)) = evidence.split_once(&named) else { panic!("{what}: {evidence}") };
    let offset =
        rest.strip_prefix(" at stored offset ").and_then(|rest| rest.split(|c: char| !c.is_ascii_digit()).next());
    let is_whole = rest.starts_with(": its bytes are not the recorded ones");
    assert!(offset.is_some() || is_whole || rest.starts_with(" is missing"), "{what}: {evidence}");
    (offset.and_then(|digits| digits.parse().ok()), evidence.to_owned())
}

/// The place that was named is that of a flip at `at`, or before it by no more than a frame and what belongs to it.
#[track_caller]
fn check_place(offset: Option<u64>, at: usize, what: &str) {
    let (offset, at) = (offset.unwrap_or_else(|| panic!("{what}: no offset")), u64::try_from(at).unwrap());
    assert!(offset <= at + NONCE_BYTES && at <= offset + MOST_BYTES_OFF, "{what}: offset {offset}");
}

/// Damages a file by `damage` and puts it back afterwards.
fn with_damage(path: &Path, damage: impl FnOnce(&mut Vec<u8>), check: impl FnOnce()) {
    let whole = std::fs::read(path).unwrap();
    let mut bytes = whole.clone();
    damage(&mut bytes);
    assert_ne!(whole, bytes);
    overwrite(path, &bytes);
    check();
    overwrite(path, &whole);
}

/// Of some byte of a file.
fn place_in(path: &Path, dice: &mut Dice) -> usize {
    usize::try_from(dice.below(std::fs::metadata(path).unwrap().len())).unwrap()
}

fn overwrite(path: &Path, bytes: &[u8]) {
    std::fs::write(path, bytes).unwrap();
}

#[test]
fn a_hundred_seeded_flips_are_each_found_and_named() {
    let stored = Stored::new();
    let id = stored.relay.backup();
    let segments = stored.segments(&id);
    assert!(segments.len() >= 6, "{segments:?}");
    let record = stored.record(&id);
    let mut dice = Dice::seeded();
    for n in turns(FLIPS, "flips of a stored backup") {
        // One in eight hits the record, the others a segment.
        let is_thorough = n % THOROUGH == 0;
        let bit = 1_u8 << dice.below(8);
        if dice.below(8) == 0 {
            let at = place_in(&record, &mut dice);
            let what = format!("flip {n}: bit {bit:#x} of byte {at} of the record");
            with_damage(&record, |bytes| bytes[at] ^= bit, || check_record_is_refused(&stored, &id, &what));
            continue;
        }
        let (artifact, number, path) = dice.pick(&segments);
        let at = place_in(path, &mut dice);
        let what = format!("flip {n}: bit {bit:#x} of byte {at} of {artifact}.{number:04}");
        let check = || {
            assert_eq!(stored.check_stored(&id, artifact, *number, &what), None, "{what}: it cannot know where");
            if is_thorough {
                // Where reading stopped: at the frame with the flip, or at what the segment says of itself.
                check_place(stored.check_thorough(&id, artifact, *number, &what), at, &what);
            }
        };
        with_damage(path, |bytes| bytes[at] ^= bit, check);
    }
    // The damage was all there was.
    stored.relay.run(&["verify", "orders", &id]).check_code(0);
}

/// A record that is not what was signed is listed as such and used by nobody.
#[track_caller]
fn check_record_is_refused(stored: &Stored, id: &str, what: &str) {
    let listed = stored.relay.run(&["list", "orders", "--output", "json"]);
    assert_eq!(listed.code, Some(0), "{what}: {listed:#?}");
    let listed = listed.json();
    let trusted = listed["backups"].as_array().unwrap().iter().any(|row| row["id"] == id && row["signer"] == "own");
    assert!(!trusted, "{what}: {listed:#}");
    for verb in [&["verify", "orders", id, "--depth", "stored"][..], &["restore", "orders", id]] {
        let output = stored.relay.run(verb);
        assert!(matches!(output.code, Some(1 | 4)), "{what}: {output:#?}");
        assert!(output.stderr.contains(id) && output.stderr.contains("hint:"), "{what}: {output:#?}");
    }
    assert!(!stored.copy.exists(), "{what}");
}

#[test]
fn cuts_additions_and_deletions_are_each_found_and_named() {
    let stored = Stored::new();
    let id = stored.relay.backup();
    for (artifact, number, path) in stored.segments(&id) {
        let len = usize::try_from(std::fs::metadata(&path).unwrap().len()).unwrap();
        for keep in [0, 1, len / 2, len - 1] {
            let what = format!("{artifact}.{number:04} cut to {keep} of {len} bytes");
            let check = || {
                let offset = stored.check_stored(&id, &artifact, number, &what);
                assert_eq!(offset, u64::try_from(keep).ok(), "{what}: where it ends");
            };
            with_damage(&path, |bytes| bytes.truncate(keep), check);
        }
        let what = format!("a byte more at the end of {artifact}.{number:04}");
        let check = || {
            let offset = stored.check_stored(&id, &artifact, number, &what);
            assert_eq!(offset, u64::try_from(len).ok(), "{what}: where it should end");
        };
        with_damage(&path, |bytes| bytes.push(0), check);
        let what = format!("{artifact}.{number:04} deleted");
        let whole = std::fs::read(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        assert_eq!(stored.check_stored(&id, &artifact, number, &what), None);
        if number == 2 {
            assert_eq!(stored.check_thorough(&id, &artifact, number, &what), None);
        }
        overwrite(&path, &whole);
    }
    // Without its record it is no backup at all.
    let record = stored.record(&id);
    let whole = std::fs::read(&record).unwrap();
    for keep in [0, 1, whole.len() / 2, whole.len() - 1] {
        let what = format!("the record cut to {keep} of {} bytes", whole.len());
        with_damage(&record, |bytes| bytes.truncate(keep), || check_record_is_refused(&stored, &id, &what));
    }
    std::fs::remove_file(&record).unwrap();
    assert_eq!(stored.relay.listed(), Vec::<String>::new());
    stored.relay.run(&["restore", "orders", &id]).check_code(1).check_stderr("no backup");
}

#[test]
fn segments_in_each_others_place_are_found_and_named() {
    let stored = Stored::new();
    let (old, new) = (stored.relay.backup(), stored.relay.backup());
    let by_name = |id: &str| -> BTreeMap<(String, u32), PathBuf> {
        stored.segments(id).into_iter().map(|(artifact, number, path)| ((artifact, number), path)).collect()
    };
    let (of_old, of_new) = (by_name(&old), by_name(&new));
    // Between segments of an artifact, between artifacts, and an older backup's in its place.
    let swaps = [
        (("a", 1), of_new[&("a".to_owned(), 2)].clone()),
        (("a", 2), of_new[&("a".to_owned(), 1)].clone()),
        (("b", 1), of_new[&("a".to_owned(), 1)].clone()),
        (("a", 3), of_new[&("b".to_owned(), 3)].clone()),
        (("a", 1), of_old[&("a".to_owned(), 1)].clone()),
        (("b", 3), of_old[&("b".to_owned(), 3)].clone()),
    ];
    for ((artifact, number), from) in swaps {
        let what = format!("{artifact}.{number:04} replaced by {}", from.display());
        let foreign = std::fs::read(&from).unwrap();
        let check = || {
            stored.check_stored(&new, artifact, number, &what);
            stored.check_thorough(&new, artifact, number, &what);
        };
        with_damage(&of_new[&(artifact.to_owned(), number)], |bytes| *bytes = foreign, check);
    }
    // A whole older backup under a newer one's name: the record is not of this place.
    let (from, to) = (std::fs::read(stored.record(&old)).unwrap(), stored.record(&new));
    let what = "an older record in a newer one's place";
    with_damage(&to, |bytes| *bytes = from, || check_record_is_refused(&stored, &new, what));
    for id in [old, new] {
        stored.relay.run(&["verify", "orders", &id]).check_code(0);
    }
}

#[test]
fn no_byte_of_a_frame_leaves_the_host_before_it_is_proven() {
    let stored = Stored::new();
    configure_unsealed(&stored.relay, "");
    let id = stored.relay.backup();
    let (artifact, number, path) =
        stored.segments(&id).into_iter().find(|(name, n, _)| name == "a" && *n == 1).unwrap();
    // What a consumer has seen when the damage is met is a beginning of what was backed up.
    let whole = stored.relay.sandbox.path("whole");
    let seen = stored.relay.sandbox.path("seen");
    let consume = |to: &Path| {
        let script = format!("cat > {0}; mv {0} {0}.$(ls {0}.* 2>/dev/null | wc -l)", to.display());
        configure_unsealed(&stored.relay, &script);
    };
    consume(&whole);
    stored.relay.run(&["restore", "orders", &id]).check_code(0);
    let whole = std::fs::read(whole.with_extension("0")).unwrap();
    consume(&seen);
    let check = || {
        let output = stored.relay.run(&["restore", "orders", &id]);
        assert!(matches!(output.code, Some(1 | 6)), "{output:#?}");
        assert!(output.stderr.contains(&format!("artifact \"{artifact}\" segment {number:04}")), "{output:#?}");
    };
    with_damage(&path, |bytes| bytes[8_500_000] ^= 4, check);
    // The consumer is ended, perhaps before it could rename what it has.
    let seen = [seen.clone(), seen.with_extension("0")].into_iter().find(|path| path.exists());
    let seen = seen.map_or_else(Vec::new, |path| std::fs::read(path).unwrap());
    assert!(!seen.is_empty(), "the first frames are whole, and reach the consumer");
    assert!(
        seen.len() < whole.len() && whole.starts_with(&seen),
        "{} bytes left that were never backed up",
        seen.len()
    );
}
