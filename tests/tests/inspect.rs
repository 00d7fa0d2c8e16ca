//! What `plugin inspect` says of the plugins of this repository: all of it, before anything runs.

use strongroom_tests::{Sandbox, insta, plugin};

/// The inspection of a plugin's file, in an empty directory and without a configuration.
fn inspect(name: &str, more: &[&str]) -> strongroom_tests::Output {
    let path = plugin(name).unwrap_or_else(|error| panic!("{error:#}"));
    let sandbox = Sandbox::new();
    let args = ["plugin", "inspect", path.to_str().unwrap()];
    sandbox.strongroom(args.iter().chain(more)).run()
}

#[test]
fn plugins_import_nothing_but_the_contract_and_give_a_reason_for_every_request() {
    for name in ["bucket", "postgres"] {
        let inspection = inspect(name, &["--output", "json"]);
        let json = inspection.check_code(0).json();
        let imports = json["imports"].as_array().unwrap();
        assert!(!imports.is_empty());
        for import in imports {
            let interface = import["name"].as_str().unwrap();
            assert!(interface.starts_with("strongroom:plugin/"), "{name} imports {interface}");
            for function in import["functions"].as_array().unwrap() {
                assert_eq!(function["requested"], true, "{name} imports {function} and asks for nothing that needs it");
            }
        }
        let requests = json["requests"].as_array().unwrap();
        assert!(!requests.is_empty());
        for request in requests {
            let reason = request["reason"].as_str().unwrap_or_default();
            assert!(reason.split_whitespace().count() >= 3, "{name} gives no reason for {request}");
        }
        assert!(!inspection.stdout.contains("wasi"), "{}", inspection.stdout);
    }
}

#[test]
fn a_pipeline_fails_on_secrets_and_on_nothing_that_does_not_hold() {
    inspect("postgres", &["--fail-on", "wasi,secrets"]).check_code(5).check_stderr("fails on: secrets");
    inspect("bucket", &["--fail-on", "wasi,secrets,exec"]).check_code(0);
}

#[test]
fn the_bucket_plugin_asks_for_this_and_no_more() {
    let inspection = inspect("bucket", &[]);
    // Size and compilers are those of the machine that built it.
    let builds = |line: &&str| !line.starts_with("  size  ") && !line.starts_with("  toolchain  ");
    let shown = inspection.shown().lines().filter(builds).collect::<Vec<_>>().join("\n");
    insta::assert_snapshot!(shown, @r#"
    exit code 0
    --- stdout
    bucket 0.1.0  "A labelled bucket as data: directory trees with names, modes, times, links and holes"
      sha256     <digest>
      licence    Apache-2.0
      contract   strongroom:plugin 0.1
      signature  none
      ceiling    none

    imports
      strongroom:plugin/bytes@0.1.0
        pipe                 bounded   makes a pipe inside the host
        finish               bounded   ends a pipe well
      strongroom:plugin/run@0.1.0
        log                  bounded   writes a log line of the run
        progress             bounded   reports progress
        report-step          bounded   reports a step of a restore
        now-ms               bounded   reads the clock
      strongroom:plugin/storage@0.1.0
        archive.add          stores    adds a stream to an archive
        archive.add-bytes    stores    adds its own bytes to an archive
        archive-reader.next  moves     hands on the next entry of an archive
        writing.wait         changes   waits for an object to be written
        bucket.objects       moves     lists keys of a bucket
        bucket.attributes    moves     reads headers, tags and modes of an object
        bucket.read          moves     hands on an object's bytes, without seeing them
        bucket.write         changes   writes an object of a bucket
        bucket.delete        changes   deletes an object of a bucket
        create-archive       stores    begins an artifact that holds many small things
        finish-archive       stores    ends an archive
        open-archive         moves     opens an archive of the backup in scope
        open-bucket          moves     opens a bucket that is granted by its label

    requests
      bucket "bucket"  for backup, diagnose; reads
        list, read
        why: "lists the bucket and hands its objects to the store; diagnose lists it and reads attributes"
      bucket "to_bucket"  for verify, restore; reads
        list, read
        why: "looks for what is in the way of a restore, and compares what came back with what was backed up"
      bucket "to_bucket"  for restore; changes
        write, overwrite, owners
        why: "writes what is restored, with its owners; overwrite only when the restore is told to"
      bucket "to_bucket"  for verify; changes scratch places
        write, owners, delete
        why: "restores a backup beneath strongroom-verify-ID/ to test it, and removes it again"
      artifacts "artifacts"  for backup, verify, restore; reads
        stores and reads back its own artifacts, without seeing them
        why: "stores and reads the archive of its own backups; the plugin itself reads none of its bytes"

    notes
      no ceiling: whoever writes the configuration may grant anything
    "#);
}
