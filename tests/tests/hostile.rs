//! What comes from outside and is not trusted, as property tests: the functions of `strongroom_tests::hostile`
//! with random instructions, and with those that a fuzzer once found something with.
//!
//! `cargo xtask soak properties` takes more turns, `cargo xtask soak fuzz` looks for new ones. `STRONGROOM_SEED` repeats
//! a run.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{RngAlgorithm, TestError, TestRng, TestRunner};
use std::collections::BTreeSet;
use std::path::PathBuf;
use strongroom_tests::hostile::{self, TARGETS, memory};
use strongroom_tests::root;
use xtask::soak::{seed, turns};

#[global_allocator]
static ALLOCATOR: memory::Counting = memory::Counting;

/// Where instructions are kept that once broke a promise.
fn found(name: &str) -> PathBuf {
    root().join("tests/fixtures/hostile").join(name)
}

/// Random instructions.
fn instructions() -> impl Strategy<Value = Vec<u8>> {
    let small = vec(prop_oneof![3 => any::<u8>(), 1 => 0_u8..8], 0..80);
    prop_oneof![4 => small, 1 => vec(any::<u8>(), 0..400)]
}

/// Gives a target the same instructions for the same seed, and other ones than it gives to another target.
fn runner(name: &str, seed: u64) -> TestRunner {
    let mut key = [0; 32];
    key[..8].copy_from_slice(&seed.to_le_bytes());
    key[8..16].copy_from_slice(&fingerprint(name.as_bytes()).to_le_bytes());
    TestRunner::new_with_rng(ProptestConfig::default(), TestRng::from_seed(RngAlgorithm::ChaCha, &key))
}

/// Runs a target with what was found, and with random instructions.
fn check(name: &str, cases: u64) {
    let target = hostile::target(name);
    for path in strongroom_tests::files(&found(name)).unwrap_or_default() {
        let instructions = std::fs::read(&path).unwrap();
        let result = std::panic::catch_unwind(|| target.run(&instructions));
        assert!(result.is_ok(), "{} breaks it again: {}", path.display(), target.promise);
    }
    let mut runner = runner(name, seed());
    let strategy = instructions();
    for _ in turns(cases, "cases") {
        let tree = strategy.new_tree(&mut runner).unwrap();
        let result = runner.run_one(tree, |instructions| {
            target.run(&instructions);
            Ok(())
        });
        if let Err(TestError::Fail(why, instructions)) = result {
            let file = std::env::temp_dir().join(format!("strongroom-{name}-{:016x}", fingerprint(&instructions)));
            let kept = std::fs::write(&file, &instructions);
            panic!(
                "{}: {why}\nwith b\"{}\", which is in {} ({kept:?}); keep it in {}",
                target.promise,
                instructions.escape_ascii(),
                file.display(),
                found(name).display()
            );
        }
    }
}

/// A name for a file of these bytes (FNV-1a).
fn fingerprint(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

#[test]
fn a_tar_is_read_or_refused_and_packs_again_to_the_same() {
    check("archive", 400);
}

#[test]
fn with_an_index_a_body_is_what_was_packed_or_an_error() {
    check("archive-index", 300);
}

#[test]
fn a_component_has_one_manifest_at_its_outermost_level_or_is_refused() {
    check("component", 60);
}

#[test]
fn a_configuration_is_understood_or_every_mistake_has_its_place() {
    check("config", 500);
}

#[test]
fn a_frame_decodes_into_exactly_its_room_or_is_refused() {
    check("frame", 400);
}

#[test]
fn a_lease_is_taken_at_first_sight_only_when_it_says_that_it_is_free() {
    check("lease", 400);
}

#[test]
fn a_manifest_is_read_back_the_same_or_refused_in_words_that_can_be_shown() {
    check("manifest", 300);
}

#[test]
fn names_keys_and_patterns_have_one_way_to_be_written() {
    check("name", 1_500);
}

#[test]
fn a_record_is_exactly_what_was_signed() {
    check("record", 1_000);
}

#[test]
fn an_age_file_opens_to_what_was_sealed_or_not_at_all() {
    check("sealed", 300);
}

#[test]
fn an_artifact_is_read_as_it_was_written_or_refused_by_name() {
    check("segment", 400);
}

#[test]
fn a_slot_admits_what_its_pattern_says_and_nothing_else() {
    check("slot", 500);
}

#[test]
fn a_tail_that_is_accepted_is_written_with_the_same_bytes() {
    check("tail", 1_500);
}

#[test]
fn what_a_verification_found_is_exactly_what_was_signed() {
    check("verified", 800);
}

#[test]
fn a_seed_gives_a_target_the_same_instructions_again_and_no_others() {
    let strategy = instructions();
    let first = |name, seed| -> Vec<Vec<u8>> {
        let mut runner = runner(name, seed);
        (0..8).map(|_| strategy.new_tree(&mut runner).unwrap().current()).collect()
    };
    assert_eq!(first("frame", 7), first("frame", 7));
    assert_ne!(first("frame", 7), first("frame", 8));
    assert_ne!(first("frame", 7), first("tail", 7));
}

#[test]
fn what_a_thread_holds_is_counted() {
    let held = memory::peak_of(|| {
        drop(std::hint::black_box(vec![1_u8; 3 << 20]));
        drop(std::hint::black_box(vec![1_u8; 1 << 20]));
    });
    assert!((3 << 20..(3 << 20) + 65_536).contains(&held), "{held}");
}

#[test]
fn every_target_is_tested_and_fuzzed() {
    let here = std::fs::read_to_string(root().join("tests/tests/hostile.rs")).unwrap();
    let fuzz = std::fs::read_to_string(root().join("tests/fuzz/Cargo.toml")).unwrap();
    let names: BTreeSet<String> = TARGETS.iter().map(|target| target.name.to_owned()).collect();
    for name in &names {
        assert!(here.contains(&format!("check(\"{name}\", ")), "no test of \"{name}\"");
        assert!(
            fuzz.contains(&format!("path = \"fuzz_targets/{name}.rs\"")),
            "\"{name}\" is not in tests/fuzz/Cargo.toml"
        );
        let target = root().join(format!("tests/fuzz/fuzz_targets/{name}.rs"));
        let text = std::fs::read_to_string(&target).unwrap();
        assert!(text.contains(&format!("target(\"{name}\")")), "{}", target.display());
    }
    for path in strongroom_tests::files(&root().join("tests/fixtures/hostile")).unwrap() {
        let folder = path.parent().and_then(|folder| folder.file_name()).unwrap().to_string_lossy().into_owned();
        assert!(names.contains(&folder), "{} is of no target", path.display());
    }
}
