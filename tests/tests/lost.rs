//! The machine is lost: what is left is the binary, the store with its credentials, the age identity,
//! and the public key on the recovery sheet. In an empty directory, as the README says.

use strongroom_tests::documents::{Documents, Setup};
use strongroom_tests::relay::{private, sha256};
use strongroom_tests::s3::{self, ACCESS_KEY, BUCKET, S3Server, SECRET_KEY, Server};
use strongroom_tests::tree::{self, differences};
use strongroom_tests::{Output, Sandbox, files, object_lock, root};

/// A backup of a small tree in a real S3 server, encrypted; its id and the key that signed it.
fn backed_up(server: &S3Server) -> (Documents, String, String) {
    let store = format!(
        "type = \"s3\"\nbucket = \"{BUCKET}\"\nprefix = \"production\"\nregion = \"us-east-1\"\n\
         endpoint = \"http://127.0.0.1:{}\"\npath_style = true\n\
         access_key = {{ file = \"access\" }}\nsecret_key = {{ file = \"secret\" }}",
        server.port()
    );
    let documents = Documents::with(&Setup { store: Some(store), ..Setup::default() });
    for (name, text) in [("access", ACCESS_KEY), ("secret", SECRET_KEY)] {
        private(&documents.sandbox.write(name, text));
    }
    std::fs::create_dir(documents.source().join("folder")).unwrap();
    std::fs::write(documents.source().join("folder/a file"), "of great value").unwrap();
    std::os::unix::fs::symlink("a file", documents.source().join("folder/link")).unwrap();
    tree::noise(&documents.source().join("of 20 MB"), 20_000_000);
    documents.run(&["store", "check", "main"]).check_code(0);
    let id = documents.backup(0);
    documents.run(&["verify", "documents", "--depth", "restore", "--target", "found"]).check_code(0);
    let shown = documents.run(&["key", "show"]);
    let key =
        shown.check_code(0).stdout.split_whitespace().find(|word| word.starts_with("srhost1-")).unwrap().to_owned();
    (documents, id, key)
}

/// The words of the README's two commands, with this test's store, key and job in their places.
fn commands_of_the_readme(url: &str, key: &str) -> Vec<Vec<String>> {
    let readme = std::fs::read_to_string(root().join("README.md")).unwrap();
    let section = readme.split("## When the machine is lost").nth(1).expect("the section");
    let block = section.split("```").nth(1).expect("a block of commands").replace("\\\n", " ");
    let commands = block.lines().filter(|line| line.starts_with("strongroom "));
    let word = |word: &str| match word {
        "'s3://backups/production?region=eu-west-1'" => url.to_owned(),
        "srhost1-…" => key.to_owned(),
        "orders" => "documents".to_owned(),
        word => word.to_owned(),
    };
    commands.map(|line| line.split_whitespace().skip(1).map(word).collect()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_machine_is_restored_with_the_commands_of_the_readme() {
    let server = S3Server::start(Server::Versitygw).await.unwrap();
    let (documents, id, key) = backed_up(&server);
    let mut empty = Sandbox::new();
    std::fs::copy(documents.sandbox.path("identity.txt"), empty.path("identity.txt")).unwrap();
    private(&empty.path("identity.txt"));
    empty.set_env("AWS_ACCESS_KEY_ID", ACCESS_KEY).set_env("AWS_SECRET_ACCESS_KEY", SECRET_KEY);

    let endpoint = format!("http://127.0.0.1:{}", server.port());
    let url = format!("s3://{BUCKET}/production?region=us-east-1&endpoint={endpoint}&path_style=true");
    let commands = commands_of_the_readme(&url, &key);
    assert_eq!(commands.len(), 2, "list and restore: {commands:?}");
    empty.run(&commands[0]).check_code(0).check_stdout(&id).check_stdout(&key);

    // As the README says for a tree of files, first as a plan.
    let with: Vec<_> = commands[1]
        .iter()
        .map(String::as_str)
        .chain(["--bucket", "found=./found", "--option", "to_bucket=found"])
        .collect();
    empty.run(&with).check_code(0).check_stdout("nothing was changed");
    assert_eq!(tree::count(&empty.path("found")), 0);
    let without_grant = with.iter().filter(|word| **word != "--grant-requested");
    empty.run(without_grant).check_code(4).check_stderr("--grant-requested").check_stderr("[[bucket.found]]");
    let without_plan: Vec<_> = with.iter().copied().filter(|word| *word != "--plan").collect();
    empty.run(&without_plan).check_code(0);
    assert_eq!(differences(&documents.source(), &empty.path("found")), [""; 0]);
    // Nothing is written over, here neither.
    empty.run(&without_plan).check_code(1).check_stderr("there already");
}

/// Makes the keys `NAME.key` and `NAME.pub` in a sandbox, and returns the public key.
fn keygen(sandbox: &Sandbox, name: &str) -> String {
    let made = sandbox.run(["plugin", "keygen", name, "--unencrypted", "--output", "json"]);
    made.check_code(0).json()["public_key"].as_str().unwrap().to_owned()
}

/// A sandbox with the job `orders` of a signed plugin, and the public key of its vendor.
fn signed_job(store: &str) -> (Sandbox, String, String) {
    let sandbox = Sandbox::new();
    let component = std::fs::read(strongroom_tests::plugin("guests/relay").unwrap()).unwrap();
    let digest = sha256(&component);
    std::fs::create_dir(sandbox.path("store")).unwrap();
    sandbox.write("relay.wasm", component);
    let vendor = keygen(&sandbox, "vendor");
    sandbox.run(["plugin", "sign", "relay.wasm", "--key", "vendor.key"]).check_code(0);
    configure_signed(&sandbox, store, &digest, &[&vendor]);
    (sandbox, digest, vendor)
}

/// A store that is a folder of the sandbox, as TOML lines.
const FOLDER: &str = "type = \"local\"\npath = \"store\"";

fn configure_signed(sandbox: &Sandbox, store: &str, digest: &str, keys: &[&str]) {
    sandbox.config(&format!(
        "signatures = \"required\"\ntrusted_keys = {keys:?}\n\n[store.main]\n{store}\n\
         encryption = \"off\"\n\n[plugin.relay]\nsource = \"relay.wasm\"\nsha256 = \"{digest}\"\n\n\
         [plugin.relay.grant.artifacts]\n\n[plugin.relay.grant.exec.produce]\nprogram = \"/bin/echo\"\n\
         args = [\"of great value\"]\nverbs = [\"backup\"]\neffect = \"reads\"\n\n\
         [job.orders]\nplugin = \"relay\"\nstore = \"main\"\n"
    ));
}

/// The verb of a lost machine, a plan of it, under a ceiling with these first lines.
fn restore_under(url: &str, key: &str, top: &str, more: &[&str]) -> (Sandbox, Output) {
    let mut empty = Sandbox::new();
    empty.set_env("AWS_ACCESS_KEY_ID", ACCESS_KEY).set_env("AWS_SECRET_ACCESS_KEY", SECRET_KEY);
    let ceiling = empty.write("ceiling.toml", format!("{top}\nexec = \"any\"\nartifacts = \"any\"\n"));
    std::fs::set_permissions(&ceiling, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
    let ceiling = ceiling.display().to_string();
    let words = ["restore", "orders", "latest", "--store-url", url, "--trust-signer", key, "--grant-requested"];
    let output = empty.run(words.iter().chain(&["--plan", "--ceiling", &ceiling]).chain(more));
    (empty, output)
}

#[test]
fn a_lost_machine_that_demands_signatures_checks_the_one_that_the_store_has_kept() {
    let (made, digest, vendor) = signed_job(FOLDER);
    made.run(["backup", "orders"]).check_code(0);
    let shown = made.run(["key", "show"]).check_code(0).stdout.clone();
    let signer = shown.split_whitespace().find(|word| word.starts_with("srhost1-")).unwrap();
    let beside = made.path("store/plugins").join(format!("{digest}.wasm.minisig"));
    let kept = std::fs::read_to_string(&beside).unwrap();
    assert_eq!(kept, std::fs::read_to_string(made.path("relay.wasm.minisig")).unwrap());

    let url = made.path("store").display().to_string();
    let required = "signatures = \"required\"";
    let with_key = format!("{required}\ntrusted_keys = [\"{vendor}\"]");
    let other = keygen(&made, "other");
    let cases: [(&str, &str, &[&str], i32, &str); 6] = [
        ("the key of the ceiling", &with_key, &[], 0, "nothing was changed"),
        ("a key that the command names", required, &["--trusted-key", &vendor], 0, "nothing was changed"),
        ("no key at all", required, &[], 4, "--trusted-key"),
        ("another key", required, &["--trusted-key", &other], 4, "by a key that is not trusted"),
        ("a key that the ceiling does not name", &with_key, &["--trusted-key", &other], 4, "not trusted"),
        ("revoked", &format!("{with_key}\nrevoked = [\"{digest}\"]"), &[], 4, "was revoked"),
    ];
    for (what, top, more, code, says) in cases {
        let (empty, output) = restore_under(&url, signer, top, more);
        assert_eq!(output.code, Some(code), "{what}: {output:#?}");
        assert!(output.stdout.contains(says) || output.stderr.contains(says), "{what}: no {says:?} in {output:#?}");
        if code == 4 {
            // It was not even looked into, and that is written down.
            let denied = empty.run(["audit", "show", "--decision", "denied", "--output", "json"]);
            let lines = denied.check_code(0).json()["lines"].as_array().unwrap().clone();
            assert_eq!(lines.len(), 1, "{what}: {lines:#?}");
            assert_eq!((&lines[0]["event"], &lines[0]["sha256"]), (&"load".into(), &digest.as_str().into()), "{what}");
        }
    }

    // Whoever can write to the store can take the signature away or change it, and gains nothing.
    std::fs::write(&beside, kept.replace("version:1.2.3", "version:9.9.9")).unwrap();
    restore_under(&url, signer, &with_key, &[]).1.check_error(4, &["not one over these bytes and this comment"]);
    std::fs::remove_file(&beside).unwrap();
    restore_under(&url, signer, &with_key, &[]).1.check_error(4, &["is not signed", "none beside the plugin"]);
    // Without the demand it is not needed.
    restore_under(&url, signer, "", &[]).1.check_code(0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signature_that_was_overwritten_or_deleted_is_found_in_its_older_version() {
    const KEEPS_VERSIONS: &str = "versions";
    let server = S3Server::start(Server::Versitygw).await.unwrap();
    object_lock::create_bucket(server.port(), KEEPS_VERSIONS, None).await.unwrap();
    let endpoint = format!("http://127.0.0.1:{}", server.port());
    let (made, digest, vendor) = signed_job(&format!(
        "type = \"s3\"\nbucket = \"{KEEPS_VERSIONS}\"\nregion = \"us-east-1\"\nendpoint = \"{endpoint}\"\npath_style = true\n\
         access_key = {{ file = \"access\" }}\nsecret_key = {{ file = \"secret\" }}"
    ));
    for (name, text) in [("access", ACCESS_KEY), ("secret", SECRET_KEY)] {
        private(&made.write(name, text));
    }
    made.run(["backup", "orders"]).check_code(0);
    let shown = made.run(["key", "show"]).check_code(0).stdout.clone();
    let signer = shown.split_whitespace().find(|word| word.starts_with("srhost1-")).unwrap();
    let url = format!("s3://{KEEPS_VERSIONS}?region=us-east-1&endpoint={endpoint}&path_style=true");
    let top = format!("signatures = \"required\"\ntrusted_keys = [\"{vendor}\"]");
    let (client, key) = (s3::client(server.port()), format!("plugins/{digest}.wasm.minisig"));
    let object =
        || (client.put_object().bucket(KEEPS_VERSIONS).key(&key), client.delete_object().bucket(KEEPS_VERSIONS));
    object().0.body(b"another text".to_vec().into()).send().await.unwrap();
    restore_under(&url, signer, &top, &[]).1.check_code(0);
    object().1.key(&key).send().await.unwrap();
    restore_under(&url, signer, &top, &[]).1.check_code(0);
    // One by a newer key is kept as well, under whatever name is free; what was there before is still found.
    let newer = keygen(&made, "newer");
    let config = std::fs::read_to_string(made.path("strongroom.toml")).unwrap();
    made.config(&config.replace(&format!("{vendor:?}"), &format!("{newer:?}")));
    made.run(["plugin", "sign", "relay.wasm", "--key", "newer.key"]).check_code(0);
    made.run(["backup", "orders"]).check_code(0);
    let text = std::fs::read(made.path("relay.wasm.minisig")).unwrap();
    let kept = client.list_objects_v2().bucket(KEEPS_VERSIONS).prefix(format!("plugins/{digest}.wasm.")).send();
    let kept: Vec<_> = kept.await.unwrap().contents().iter().filter_map(|one| one.key().map(str::to_owned)).collect();
    let [kept] = &kept[..] else { panic!("one name: {kept:?}") };
    let body = client.get_object().bucket(KEEPS_VERSIONS).key(kept).send().await.unwrap().body.collect().await.unwrap();
    assert_eq!(body.into_bytes(), text);
    for trusted in [&vendor, &newer] {
        let top = format!("signatures = \"required\"\ntrusted_keys = [\"{trusted}\"]");
        restore_under(&url, signer, &top, &[]).1.check_code(0);
    }
}

#[test]
fn a_plugin_that_was_damaged_in_the_store_is_named_by_the_next_backup_and_never_run() {
    let (made, digest, _) = signed_job(FOLDER);
    made.run(["backup", "orders"]).check_code(0);
    let kept = made.path("store/plugins").join(format!("{digest}.wasm"));
    let whole = std::fs::read(&kept).unwrap();
    let shown = made.run(["key", "show"]).check_code(0).stdout.clone();
    let signer = shown.split_whitespace().find(|word| word.starts_with("srhost1-")).unwrap();
    let url = made.path("store").display().to_string();
    for at in [0, whole.len() / 2, whole.len() - 1] {
        let mut damaged = whole.clone();
        damaged[at] ^= 1;
        std::fs::write(&kept, damaged).unwrap();
        let backup = made.run(["backup", "orders"]);
        backup.check_error(
            1,
            &[&format!("plugins/{digest}.wasm"), "is not the one it is named after", "remove that object"],
        );
        let (empty, restored) = restore_under(&url, signer, "", &[]);
        restored.check_error(1, &["is not the one that made the backup", &digest, "write a configuration"]);
        assert!(!empty.path("home/.cache").exists() || files(&empty.path("home/.cache")).unwrap().is_empty());
    }
    // As it says: without it the next backup keeps the plugin again.
    std::fs::remove_file(&kept).unwrap();
    made.run(["backup", "orders"]).check_code(0);
    assert_eq!(std::fs::read(&kept).unwrap(), whole);
    restore_under(&url, signer, "", &[]).1.check_code(0);
}

#[test]
fn signatures_that_were_checked_are_kept_each_once_and_any_of_them_restores() {
    let (made, digest, vendor) = signed_job(FOLDER);
    let other = keygen(&made, "other");
    let beside = made.path("store/plugins").join(format!("{digest}.wasm.minisig"));
    // Without a key to check it with, it may be anything.
    let config = std::fs::read_to_string(made.path("strongroom.toml")).unwrap();
    let unchecked = config.lines().filter(|line| !line.starts_with("signatures") && !line.starts_with("trusted_keys"));
    made.config(&unchecked.collect::<Vec<_>>().join("\n"));
    made.run(["backup", "orders"]).check_code(0);
    assert!(!beside.exists());

    configure_signed(&made, FOLDER, &digest, &[&vendor, &other]);
    made.run(["backup", "orders"]).check_code(0);
    let kept = std::fs::read_to_string(&beside).unwrap();
    // The vendor changes keys: the old signature stays, since what is in a store is written once, and the
    // one of today lies beside it.
    made.run(["plugin", "sign", "relay.wasm", "--key", "other.key"]).check_code(0);
    for _ in 0..2 {
        made.run(["backup", "orders"]).check_code(0);
    }
    assert_eq!(std::fs::read_to_string(&beside).unwrap(), kept);
    let current = std::fs::read_to_string(made.path("relay.wasm.minisig")).unwrap();
    let mut all: Vec<_> = files(&made.path("store/plugins")).unwrap();
    all.retain(|file| file.to_string_lossy().ends_with(".minisig") && *file != beside);
    assert_eq!(all.len(), 1, "once: {all:?}");
    assert_eq!(std::fs::read_to_string(&all[0]).unwrap(), current);
    // Whoever trusts either key can restore.
    let shown = made.run(["key", "show"]).check_code(0).stdout.clone();
    let signer = shown.split_whitespace().find(|word| word.starts_with("srhost1-")).unwrap();
    let url = made.path("store").display().to_string();
    let top = |key: &str| format!("signatures = \"required\"\ntrusted_keys = [\"{key}\"]");
    for key in [&vendor, &other] {
        restore_under(&url, signer, &top(key), &[]).1.check_code(0);
    }
    std::fs::remove_file(&all[0]).unwrap();
    restore_under(&url, signer, &top(&other), &[]).1.check_error(4, &["by a key that is not trusted"]);
}
