//! What is asked on a terminal: approving where buckets are chosen, and passwords of signing keys. And the
//! patch that takes the place of the questions, given to the programs that apply patches.
#![allow(clippy::unwrap_used, reason = "the lint takes helpers of a test file for shipped code")]

use std::fs;
use strongroom_tests::meter::Meter;
use strongroom_tests::relay::sha256;
use strongroom_tests::terminal::Typed::{Hidden, Line};
use strongroom_tests::terminal::{Seen, Typed, converse};
use strongroom_tests::{Sandbox, plugin, program};

/// A sandbox whose job `documents` names a bucket, with another bucket that nobody names.
fn documents() -> Sandbox {
    let sandbox = Sandbox::new();
    fs::copy(plugin("bucket").unwrap(), sandbox.path("bucket.wasm")).unwrap();
    for folder in ["backups", "documents", "found"] {
        fs::create_dir(sandbox.path(folder)).unwrap();
    }
    sandbox.config(
        r#"# of the whole team
[store.main]
type = "local"
path = "backups"
encryption = "off"

[bucket.documents] # what people wrote
type = "local"
path = "documents"

[bucket.found]
type = "local"
path = "found"

[plugin.bucket]
source = "bucket.wasm"

[job.documents] # every night
plugin = "bucket"
store = "main"
settings = { bucket = "documents" }
"#,
    );
    sandbox
}

fn config_of(sandbox: &Sandbox) -> String {
    fs::read_to_string(sandbox.path("strongroom.toml")).unwrap()
}

const APPROVE: [&str; 3] = ["plugin", "approve", "bucket"];
const WRITE: &str = "write exactly this into the configuration? [y/N]";

#[test]
fn approving_asks_which_buckets_are_meant_and_offers_those_that_jobs_name() {
    let sandbox = documents();
    let before = config_of(&sandbox);
    let seen = converse(
        &sandbox,
        &APPROVE,
        &[
            Line("which bucket is \"bucket\"?", ""),
            Line("which bucket is \"to_bucket\"?", ""),
            Line("grant it? [y/N]", "y"),
            Line(WRITE, "y"),
        ],
    );
    // Nothing for both: nothing is granted of any bucket, and the plugin does not run.
    seen.check_code(0).check_shown("y for documents, other label(s), or nothing for none:");
    seen.check_shown("why, says the vendor: lists the bucket").check_shown("label(s) of buckets, or nothing for none:");
    let written = config_of(&sandbox);
    assert!(!written.contains("grant.bucket"), "{written}");
    sandbox.run(["backup", "documents"]).check_code(4);

    // The offer for one, another bucket for the other; each grant is shown whole before it is asked for.
    let answers = [
        Line("y for documents", "y"),
        Line("label(s) of buckets", "found"),
        Line("grant it? [y/N]", "y"),
        Line("grant it? [y/N]", "y"),
        Line("grant it? [y/N]", "y"),
        Line(WRITE, "y"),
    ];
    let seen = converse(&sandbox, &APPROVE, &answers);
    seen.check_code(0).check_shown("bucket \"documents\"").check_shown("bucket \"found\"").check_shown("approved");
    let written = config_of(&sandbox);
    assert!(written.contains("[plugin.bucket.grant.bucket.documents]"), "{written}");
    assert!(written.contains("grant.bucket.found"), "{written}");
    for comment in before.lines().filter_map(|line| line.split_once('#')).map(|(_, comment)| comment) {
        assert!(written.contains(comment), "{comment:?} is lost in {written}");
    }
    sandbox.run(["backup", "documents"]).check_code(0);

    // One that is refused is left out; a label that is none is an error that writes nothing.
    let answers = [
        Line("y for documents", "y"),
        Line("label(s) of buckets", ""),
        Line("grant it? [y/N]", "n"),
        Line("grant it? [y/N]", "y"),
        Line(WRITE, "y"),
    ];
    converse(&sandbox, &APPROVE, &answers).check_code(0);
    assert!(!config_of(&sandbox).contains("grant.bucket"));
    let (kept, unknown) = (config_of(&sandbox), [Line("y for documents", "secrets")]);
    converse(&sandbox, &APPROVE, &unknown).check_code(2).check_shown("there is no bucket \"secrets\"");
    assert_eq!(config_of(&sandbox), kept);
}

/// A sandbox whose job `resources` names a cluster and namespaces; another cluster is there.
fn resources() -> Sandbox {
    let sandbox = Sandbox::new();
    fs::copy(plugin("kubernetes").unwrap(), sandbox.path("kubernetes.wasm")).unwrap();
    fs::create_dir(sandbox.path("backups")).unwrap();
    let recipient = age::x25519::Identity::generate().to_public().to_string();
    sandbox.config(&format!(
        r#"[store.main]
type = "local"
path = "backups"
recipients = [{recipient:?}]

[cluster.prod] # mind the step
in_cluster = true

[cluster.spare]
in_cluster = true

[plugin.kubernetes]
source = "kubernetes.wasm"

[job.resources]
plugin = "kubernetes"
store = "main"
settings = {{ clusters = ["prod"], namespaces = ["shop", "shop-*"] }}
"#,
    ));
    sandbox
}

#[test]
fn approving_asks_which_clusters_namespaces_and_kinds_are_meant() {
    const APPROVE: [&str; 3] = ["plugin", "approve", "kubernetes"];
    const GRANT: &str = "grant it? y, other kinds than these, or nothing to refuse:";
    let sandbox = resources();
    // Offered is what the job names; the second grant is for other kinds, and the third is refused.
    let seen = converse(
        &sandbox,
        &APPROVE,
        &[
            Line("which bucket is \"to_bucket\"?", ""),
            Line("y for prod, other label(s), or nothing for none:", "y"),
            Line("which cluster is \"to_clusters\"?", ""),
            Line("y for shop, shop-*, other names, or nothing for none:", "y"),
            Line(GRANT, "y"),
            Line(GRANT, "/ConfigMap, ConfigMap"),
            Line(GRANT, "/ConfigMap /Service"),
            Line(GRANT, "y"),
            Line(GRANT, ""),
            Line("grant it? [y/N]", "y"),
            Line(WRITE, "y"),
        ],
    );
    seen.check_code(0).check_shown("why, says the vendor: lists what is backed up").check_shown("approved");
    let written = config_of(&sandbox);
    assert!(written.contains("# mind the step"), "{written}");
    assert_eq!(written.matches("[[plugin.kubernetes.grant.kube.prod]]").count(), 2, "{written}");
    assert_eq!(written.matches("namespaces = [\"shop\", \"shop-*\"]").count(), 3, "two grants and the job: {written}");
    assert!(written.contains("kinds = [\"/ConfigMap\", \"/Service\"]"), "{written}");
    assert!(written.contains("may = [\"dry-run\"]") && !written.contains("may = [\"apply\"]"), "{written}");
    sandbox.run(["config", "check"]).check_code(0);

    // Another cluster, all of it; a label that is none is an error that writes nothing.
    let answers = [
        Line("which bucket is \"to_bucket\"?", ""),
        Line("y for prod", "spare"),
        Line("which cluster is \"to_clusters\"?", "n"),
        Line("which namespaces of cluster \"spare\"?", "*"),
        Line(GRANT, "y"),
        Line(GRANT, "n"),
        Line("whoever holds this is the cluster's administrator", "n"),
        Line("grant it? [y/N]", "y"),
        Line(WRITE, "y"),
    ];
    converse(&sandbox, &APPROVE, &answers).check_code(0);
    let written = config_of(&sandbox);
    assert!(written.contains("grant.kube.spare]") && !written.contains("grant.kube.prod"), "{written}");
    assert_eq!(written.matches("namespaces = ").count(), 1, "the job's alone: {written}");
    let unknown = [Line("which bucket is", ""), Line("y for prod", "production")];
    converse(&sandbox, &APPROVE, &unknown).check_code(2).check_shown("there is no cluster \"production\"");
    assert_eq!(config_of(&sandbox), written);

    // Who wants test restores says where they may be.
    let answers = [
        Line("which bucket is", ""),
        Line("y for prod", "n"),
        Line("which cluster is \"to_clusters\"?", "spare"),
        Line("which namespaces of cluster \"spare\"?", "shop"),
        Line("which namespaces of cluster \"spare\" may test restores make and remove?", "try-*"),
        Line(GRANT, "n"),
        Line(GRANT, "y"),
        Line("grant it? [y/N]", "y"),
        Line(WRITE, "y"),
    ];
    converse(&sandbox, &APPROVE, &answers).check_code(0);
    let scratch = config_of(&sandbox);
    assert!(scratch.contains("namespaces = [\"try-*\"]") && scratch.contains("scratch = true"), "{scratch}");

    // No namespace is no cluster; and what is printed for a review is what would be written.
    let answers = [
        Line("which bucket is", ""),
        Line("y for prod", "y"),
        Line("which cluster is", ""),
        Line("which namespaces of cluster \"prod\"?", ""),
        Line("grant it? [y/N]", "y"),
        Line(WRITE, "y"),
    ];
    converse(&sandbox, &APPROVE, &answers).check_code(0);
    assert!(!config_of(&sandbox).contains("grant.kube"));
    let print = ["plugin", "approve", "kubernetes", "--print", "--namespace", "prod=shop"];
    sandbox.run(print).check_code(0).check_stdout("+namespaces = [\"shop\"]");
    assert!(!config_of(&sandbox).contains("grant.kube"), "nothing was written");
}

#[test]
fn approving_asks_for_metrics_name_by_name() {
    const APPROVE: [&str; 3] = ["plugin", "approve", "meter"];
    const ARTIFACTS: Typed<'_> = Line("artifacts of its own backups: grant it? [y/N]", "y");
    let meter = Meter::new();
    let sandbox = &meter.sandbox;
    let some = [
        ARTIFACTS,
        Line(
            "which may it ask for? y for backup_last_success_timestamp_seconds, meter_rows, up,",
            "meter_rows up other",
        ),
        Line("grant it? [y/N]", "y"),
        Line(WRITE, "y"),
    ];
    let seen = converse(sandbox, &APPROVE, &some);
    seen.check_code(0).check_shown("why, says the vendor: numbers to write and numbers to read");
    seen.check_shown("it would see those metrics of everybody");
    let granted = || {
        let text = config_of(sandbox);
        text.split("[plugin.meter.grant.metrics]\n").nth(1).map(|rest| rest.split("\n\n").next().unwrap().to_owned())
    };
    assert_eq!(granted().unwrap(), "prefix = \"meter_\"\nquery = [\"meter_rows\", \"up\"]");
    let none = [ARTIFACTS, Line("which may it ask for?", ""), Line("grant it? [y/N]", "y"), Line(WRITE, "y")];
    converse(sandbox, &APPROVE, &none).check_code(0);
    assert_eq!(granted().unwrap(), "prefix = \"meter_\"");
    let refused = [ARTIFACTS, Line("which may it ask for?", "y"), Line("grant it? [y/N]", "n"), Line(WRITE, "y")];
    converse(sandbox, &APPROVE, &refused).check_code(0);
    assert_eq!(granted(), None);
    sandbox.run(["plugin", "approve", "meter", "--print"]).check_code(0).check_stdout("+prefix = \"meter_\"");
    assert_eq!(granted(), None, "nothing was written");
}

#[test]
fn approving_asks_how_large_a_scratch_directory_may_be() {
    const APPROVE: [&str; 3] = ["plugin", "approve", "wasip2"];
    const SCRATCH: &str = "removed when the run ends: y for 64MiB, another size, or nothing:";
    let sandbox = Sandbox::new();
    fs::copy(plugin("foreign/wasip2").unwrap(), sandbox.path("wasip2.wasm")).unwrap();
    fs::create_dir(sandbox.path("backups")).unwrap();
    sandbox.config(
        "[store.main]\ntype = \"local\"\npath = \"backups\"\nencryption = \"off\"\n\n\
         [plugin.wasip2]\nsource = \"wasip2.wasm\"\n\n[job.shop]\nplugin = \"wasip2\"\nstore = \"main\"\n",
    );
    // One command, with its slot, which is asked about once; the others are refused.
    let begin = [
        Line("grant it? [y/N]", "n"),
        Line("what may fill it?", "shop[.]txt"),
        Line("grant it? [y/N]", "y"),
        Line("grant it? [y/N]", "n"),
        Line("artifacts of its own backups: grant it? [y/N]", "y"),
    ];
    let approve = |scratch: &[Typed<'_>]| {
        let answers = [&begin[..], scratch, &[Line(WRITE, "y")]].concat();
        converse(&sandbox, &APPROVE, &answers)
    };
    let seen = approve(&[Line(SCRATCH, "as much as you like"), Line(SCRATCH, "8MiB")]);
    seen.check_code(0).check_shown("why, says the vendor: files that the tests look for").check_shown("approved");
    let written = config_of(&sandbox);
    assert!(
        written.contains("[plugin.wasip2.grant.scratch]\nbytes = \"8MiB\"\nverbs = [\"backup\", \"restore\"]"),
        "{written}"
    );
    assert!(written.contains("slots = { file = \"shop[.]txt\" }") && !written.contains("exec.count"), "{written}");
    sandbox.run(["config", "check"]).check_code(0);
    approve(&[Line(SCRATCH, "y")]).check_code(0);
    assert!(config_of(&sandbox).contains("bytes = \"64MiB\""));
    approve(&[Line(SCRATCH, "")]).check_code(0);
    assert!(!config_of(&sandbox).contains("grant.scratch"));
}

#[test]
fn passwords_of_keys_are_asked_for_and_never_shown() {
    let sandbox = documents();
    let (right, wrong) = ("correct horse battery", "another password");
    let hidden = |seen: &Seen| {
        for password in [right, wrong] {
            assert!(!seen.text.contains(password), "the password is shown:\n{}", seen.text);
        }
    };
    let keygen = ["plugin", "keygen", "vendor"];
    let (first, again) = ("password for the new key: ", "the same once more: ");
    let differ = converse(&sandbox, &keygen, &[Hidden(first, right), Hidden(again, wrong)]);
    differ.check_code(2).check_shown("the two passwords are not the same");
    hidden(&differ);
    converse(&sandbox, &keygen, &[Hidden(first, "")]).check_code(2).check_shown("an empty password protects nothing");
    assert!(!sandbox.path("vendor.key").exists() && !sandbox.path("vendor.pub").exists());

    let made = converse(&sandbox, &keygen, &[Hidden(first, right), Hidden(again, right)]);
    made.check_code(0).check_shown("encrypted with the password");
    hidden(&made);
    let sign = ["plugin", "sign", "bucket.wasm", "--key", "vendor.key"];
    let refused = converse(&sandbox, &sign, &[Hidden("password of \"vendor.key\": ", wrong)]);
    refused.check_code(4).check_shown("does not open");
    hidden(&refused);
    assert!(!sandbox.path("bucket.wasm.minisig").exists());
    let signed = converse(&sandbox, &sign, &[Hidden("password of \"vendor.key\": ", right)]);
    signed.check_code(0).check_shown("bucket.wasm.minisig");
    hidden(&signed);
    let minisign = program("minisign").unwrap_or_else(|error| panic!("{error:#}"));
    sandbox.command(minisign, ["-V", "-p", "vendor.pub", "-m", "bucket.wasm"]).run().check_code(0);
}

#[test]
fn the_patch_that_is_printed_is_taken_by_patch_and_by_git() {
    let digest = sha256(&fs::read(plugin("bucket").unwrap()).unwrap());
    // With and without a newline at the end of the file.
    for end in ["\n", ""] {
        let [written, patched, applied] = [(); 3].map(|()| {
            let sandbox = documents();
            let text = config_of(&sandbox);
            fs::write(sandbox.path("strongroom.toml"), format!("{}{end}", text.trim_end())).unwrap();
            sandbox
        });
        written.run(["plugin", "approve", "bucket", "--digest", &digest]).check_code(0);
        let print = ["plugin", "approve", "bucket", "--print"];
        for (sandbox, program_name, arguments) in [
            (&patched, "patch", &["--strip=1", "--silent"][..]),
            (&applied, "git", &["apply", "--whitespace=error", "-"]),
        ] {
            let patch = sandbox.run(print).check_code(0).stdout.clone();
            let program = program(program_name).unwrap_or_else(|error| panic!("{error:#}"));
            sandbox.command(program, arguments).stdin(patch).run().check_code(0);
            assert_eq!(config_of(sandbox), config_of(&written), "{program_name}, end {end:?}");
            sandbox.run(["backup", "documents"]).check_code(0);
        }
    }
}
