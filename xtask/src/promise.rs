//! `cargo xtask soak promises`: promises of `docs/reliability.md` are broken on purpose, and the tests that guard them
//! must fail. Of the ten, 8 and 9 (what a plugin may do, and secrets) have no breakage.
//!
//! The breakages are in the host under test, as steps that `STRONGROOM_BREAK` takes away
//! (`host/src/failpoint.rs`); a release has none of them. Each test is run whole first, and must pass.

use crate::cache::{self, Cache};
use crate::program::Program;
use crate::soak::{Length, Outcome};
use crate::stage;
use crate::summary::Summary;
use crate::workspace::Workspace;
use anyhow::{Context, Result, bail};
use std::collections::BTreeSet;

/// One way of breaking a promise, and the test that notices.
#[derive(Clone, Copy, Debug)]
pub struct Breach {
    /// The number of the promise in `docs/reliability.md`.
    pub promise: u8,
    /// What is broken: a name of `strongroom::failpoint::Breakage`.
    pub breakage: &'static str,
    /// The file of the test, from the root.
    pub file: &'static str,
    /// Its name as the test runner prints it, with the modules that it is in.
    pub test: &'static str,
}

const fn breach(promise: u8, breakage: &'static str, file: &'static str, test: &'static str) -> Breach {
    Breach { promise, breakage, file, test }
}

/// Every breakage once or more, in the order of the promises.
pub const BREACHES: &[Breach] = &[
    breach(
        1,
        "record-first",
        "tests/tests/kill.rs",
        "killed_anywhere_a_local_store_shows_only_whole_backups_and_the_next_run_succeeds",
    ),
    breach(
        1,
        "skip-confirm",
        "tests/tests/producer.rs",
        "what_the_store_lost_before_the_record_is_written_is_no_backup",
    ),
    breach(
        1,
        "ignore-answer",
        "host/src/store/s3/checksum.rs",
        "store::s3::checksum::tests::a_server_that_knows_the_best_one_is_not_sent_md5_unless_it_forgets",
    ),
    breach(1, "ignore-answer", "tests/tests/store_faults.rs", "an_answer_with_another_checksum_is_no_backup"),
    breach(
        1,
        "skip-file-flush",
        "tests/tests/power.rs",
        "a_power_cut_at_any_step_of_a_backup_leaves_no_record_without_its_bytes",
    ),
    breach(
        1,
        "skip-name-flush",
        "tests/tests/power.rs",
        "a_power_cut_at_any_step_of_a_backup_leaves_no_record_without_its_bytes",
    ),
    breach(
        1,
        "skip-folder-flush",
        "tests/tests/power.rs",
        "a_power_cut_at_any_step_of_a_backup_leaves_no_record_without_its_bytes",
    ),
    breach(
        2,
        "ignore-frame-digest",
        "host/src/stream/tests/damage.rs",
        "stream::tests::damage::every_flipped_byte_of_a_small_artifact_is_found",
    ),
    breach(
        2,
        "ignore-frame-digest",
        "tests/tests/damage_cli.rs",
        "no_byte_of_a_frame_leaves_the_host_before_it_is_proven",
    ),
    breach(
        2,
        "ignore-chaining",
        "host/src/stream/tests/damage.rs",
        "stream::tests::damage::segments_that_are_missing_cut_swapped_doubled_or_from_elsewhere_are_found",
    ),
    breach(2, "ignore-stored-digest", "tests/tests/rest.rs", "a_flipped_byte_is_found_and_named"),
    breach(2, "ignore-signature", "tests/tests/rest.rs", "an_edited_record_is_listed_as_such_and_never_restored"),
    breach(2, "accept-broken-input", "tests/tests/rest.rs", "a_flipped_byte_is_found_and_named"),
    breach(
        3,
        "never-take-over",
        "tests/tests/kill.rs",
        "killed_anywhere_a_bucket_shows_only_whole_backups_and_the_next_run_succeeds",
    ),
    breach(
        3,
        "ignore-age",
        "tests/tests/kill.rs",
        "killed_anywhere_a_local_store_shows_only_whole_backups_and_the_next_run_succeeds",
    ),
    breach(3, "skip-restore-flush", "tests/tests/power.rs", "a_restore_that_ended_well_is_on_the_disk"),
    breach(
        4,
        "accept-failed-producer",
        "tests/tests/producer.rs",
        "a_program_that_fails_is_no_backup_when_its_plugin_does_not_look",
    ),
    breach(
        5,
        "forget-verified",
        "host/src/run/retention/tests.rs",
        "run::retention::tests::the_last_verified_one_stays_for_each_depth_unless_a_later_verification_failed",
    ),
    breach(
        5,
        "forget-needs",
        "host/src/run/retention/tests.rs",
        "run::retention::tests::what_a_kept_one_needs_is_kept_with_what_that_needs",
    ),
    breach(6, "own-payload-key", "tests/tests/rest.rs", "a_backup_can_be_read_with_age_and_zstd_alone"),
    breach(7, "keep-parts", "tests/tests/producer.rs", "a_gibibyte_passes_through_with_memory_that_does_not_grow"),
    breach(
        7,
        "release-parts",
        "host/src/stream/tests/faults.rs",
        "stream::tests::faults::a_stalled_store_holds_the_source_back_within_the_published_memory",
    ),
    breach(7, "keep-entries", "tests/tests/bucket.rs", "twenty_thousand_small_files_are_one_archive_in_little_memory"),
    breach(10, "other-tail", "tests/tests/fixtures.rs", "what_earlier_versions_stored_is_listed_verified_and_restored"),
    breach(
        10,
        "forget-format",
        "tests/tests/fixtures.rs",
        "what_earlier_versions_stored_is_listed_verified_and_restored",
    ),
];

impl Breach {
    /// The test program, and the test in it.
    fn place(&self) -> (String, String) {
        match self.file.strip_prefix("tests/tests/").and_then(|name| name.strip_suffix(".rs")) {
            Some(suite) => (format!("tests/{suite}"), format!("{suite}::{}", self.test)),
            None => ("host".to_owned(), self.test.to_owned()),
        }
    }
}

/// Runs every breach, or those whose breakages are named. Nothing here depends on the length.
pub fn run(workspace: &Workspace, names: &[String], _length: Length) -> Result<Outcome> {
    if let Some(unknown) = names.iter().find(|name| BREACHES.iter().all(|breach| breach.breakage != *name)) {
        bail!("there is no breakage \"{unknown}\"");
    }
    stage::host(workspace)?;
    stage::plugins(workspace)?;
    let programs = stage::test_programs(workspace)?;
    let wanted = |breach: &&Breach| names.is_empty() || names.iter().any(|name| name == breach.breakage);
    let breaches: Vec<_> = BREACHES.iter().filter(wanted).collect();
    let mut unnoticed = Vec::new();
    let mut whole = BTreeSet::new();
    for breach in &breaches {
        if whole.insert(breach.test) {
            let summary = test(workspace, &programs, breach, None)?;
            if (summary.passed, summary.failed) != (1, 0) {
                bail!("{} does not pass with nothing broken: {summary}", breach.test);
            }
        }
        let summary = test(workspace, &programs, breach, Some(breach.breakage))?;
        let is_noticed = (summary.passed, summary.failed) == (0, 1);
        let word = if is_noticed { "noticed" } else { "NOT NOTICED" };
        println!("promise {}: {} is {word} by {}", breach.promise, breach.breakage, breach.test);
        if !is_noticed {
            unnoticed.push(breach.breakage);
        }
    }
    let noticed = breaches.len() - unnoticed.len();
    let mut done = format!("{noticed} of {} breakages noticed", breaches.len());
    if !unnoticed.is_empty() {
        done.push_str(&format!("; not noticed: {}", unnoticed.join(", ")));
    }
    Ok(Outcome { passed: unnoticed.is_empty(), done })
}

/// Runs the test of a breach alone, quietly.
fn test(workspace: &Workspace, programs: &[Program], breach: &Breach, broken: Option<&str>) -> Result<Summary> {
    let (name, test) = breach.place();
    let program = programs.iter().find(|program| program.name == name);
    let program = program.with_context(|| format!("there is no test program {name}"))?;
    let mut summary = Summary::default();
    let run = program
        .run_exactly(&test)
        .env("STRONGROOM_BIN", workspace.host())
        .env("STRONGROOM_PLUGINS", workspace.plugins())
        .env(cache::VARIABLE, Cache::locate()?.root())
        .env("INSTA_UPDATE", "no")
        .env("RUST_BACKTRACE", "0");
    let run = match broken {
        Some(name) => run.env("STRONGROOM_BREAK", name),
        None => run.env_remove("STRONGROOM_BREAK"),
    };
    run.lines(|line| summary.see(line))?;
    Ok(summary)
}
