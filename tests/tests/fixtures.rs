//! What earlier versions wrote is listed, verified and restored by this one, and by hand.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use strongroom_tests::fixture::Fixture;
use strongroom_tests::relay::sha256;
use strongroom_tests::{Sandbox, plugin, program, root};

/// Jobs of trees, and the store of each.
const TREES: [(&str, &str); 2] = [("files", "sealed"), ("open-files", "plain")];

/// Configures every job of the fixture; commands write what they are given into files of the folder `back`.
fn configure(fixture: &Fixture, sandbox: &Sandbox, identity: &str) {
    let wasm = |name: &str| {
        let path = plugin(name).unwrap_or_else(|error| panic!("{error:#}"));
        let sum = sha256(&std::fs::read(&path).unwrap());
        (path, sum)
    };
    let ((relay, relay_sum), (bucket, bucket_sum)) = (wasm("guests/relay"), wasm("bucket"));
    for folder in ["tree", "back", "found"] {
        std::fs::create_dir_all(sandbox.path(folder)).unwrap();
    }
    let back = sandbox.path("back");
    let mut text = format!(
        "[store.sealed]\ntype = \"local\"\npath = \"sealed\"\nidentity = {{ file = {identity:?} }}\n\
        recipients = [{recipient:?}]\n\
        [store.plain]\ntype = \"local\"\npath = \"plain\"\nencryption = \"off\"\n\
        [bucket.tree]\ntype = \"local\"\npath = \"tree\"\n\
        [bucket.found]\ntype = \"local\"\npath = \"found\"\n\
        [target.found]\noptions = {{ to_bucket = \"found\" }}\n\
        [plugin.bucket]\nsource = {bucket:?}\n",
        recipient = recipient(sandbox, identity),
    );
    for (job, store) in TREES {
        text.push_str(&format!(
            "[job.{job}]\nplugin = \"bucket\"\nstore = \"{store}\"\n[job.{job}.settings]\nbucket = \"tree\"\n"
        ));
    }
    let jobs: BTreeSet<_> = fixture.artifacts.iter().map(|artifact| (&artifact.job, &artifact.store)).collect();
    for (job, store) in jobs {
        text.push_str(&format!(
            "[plugin.{job}]\nsource = {relay:?}\nsha256 = {relay_sum:?}\n[plugin.{job}.grant.artifacts]\n\
            [plugin.{job}.grant.exec.check]\nprogram = \"/bin/sh\"\nargs = [\"-c\", \"cat > /dev/null\"]\n\
            stdin = {{ artifact = \"[A-Za-z0-9._-]+\", made_by = \"produce\" }}\nverbs = [\"verify\"]\neffect = \"reads\"\n\
            [plugin.{job}.grant.exec.consume]\nprogram = \"/bin/sh\"\nargs = [\"-c\", {script:?}]\n\
            stdin = {{ artifact = \"[A-Za-z0-9._-]+\", made_by = \"produce\" }}\nverbs = [\"restore\"]\neffect = \"changes\"\n\
            [job.{job}]\nplugin = {job:?}\nstore = {store:?}\n",
            script = format!("cat > \"$(mktemp {}/{job}.XXXXXX)\"", back.display()),
        ));
    }
    sandbox.config(&text);
    sandbox.run(["plugin", "approve", "bucket", "--digest", &bucket_sum]).check_code(0);
}

fn recipient(sandbox: &Sandbox, identity: &str) -> String {
    let tool = program("age-keygen").unwrap_or_else(|error| panic!("{error:#}"));
    let shown = sandbox.command(tool, ["-y", identity]).dir(sandbox.dir()).run();
    shown.check_code(0).stdout.trim().to_owned()
}

fn b3sum(sandbox: &Sandbox, path: &Path) -> String {
    let tool = program("b3sum").unwrap_or_else(|error| panic!("{error:#}"));
    let output = sandbox.command(tool, [OsStr::new("--no-names"), path.as_os_str()]).run();
    output.check_code(0).stdout.trim().to_owned()
}

#[test]
fn what_earlier_versions_stored_is_listed_verified_and_restored() {
    for fixture in Fixture::all() {
        // Either of the two recipients is enough.
        for identity in ["identity.txt", "second-identity.txt"] {
            let sandbox = fixture.unpack();
            configure(&fixture, &sandbox, identity);
            let jobs: BTreeSet<_> = fixture.artifacts.iter().map(|artifact| artifact.job.as_str()).collect();
            for job in &jobs {
                check_job(&fixture, &sandbox, job);
            }
            for (job, _) in TREES {
                check_tree(&fixture, &sandbox, job);
            }
        }
    }
}

fn check_job(fixture: &Fixture, sandbox: &Sandbox, job: &str) {
    let is_whole = job != "partial";
    let listed = sandbox.run(["list", job, "--output", "json"]);
    let backups = listed.check_code(0).json()["backups"].as_array().cloned().unwrap();
    assert_eq!(backups.len(), 1, "{}: {job}", fixture.version);
    assert_eq!(backups[0]["outcome"], if is_whole { "complete" } else { "incomplete" }, "{job}");
    let shown = sandbox.run(["show", job, "latest", "--output", "json"]);
    let verified = shown.check_code(0).json()["verified"].as_array().map_or(0, Vec::len);
    assert_eq!(verified > 0, ["orders", "several", "twice"].contains(&job), "{}", shown.stdout);
    let allowed: &[&str] = if is_whole { &[] } else { &["--allow-incomplete"] };
    let code = if is_whole { 0 } else { 3 };
    // What is there of an incomplete backup is whole, and is verified like any other.
    for depth in ["stored", "contents"] {
        let verify = sandbox.run(["verify", job, "latest", "--depth", depth, "--output", "json"]);
        assert_eq!(verify.code, Some(0), "{}: {job}, {depth}: {verify:#?}", fixture.version);
    }
    sandbox.run(["restore", job, "latest"].iter().chain(allowed)).check_code(code);
    let prefix = format!("{job}.");
    let back = std::fs::read_dir(sandbox.path("back")).unwrap().map(|entry| entry.unwrap().path());
    let back = back.filter(|path| path.file_name().unwrap().to_string_lossy().starts_with(&prefix));
    let mut got: Vec<_> = back.map(|path| (path.metadata().unwrap().len(), b3sum(sandbox, &path))).collect();
    let of_job = fixture.artifacts.iter().filter(|artifact| artifact.job == job);
    let mut expected: Vec<_> = of_job.map(|artifact| (artifact.bytes, artifact.blake3.clone())).collect();
    got.sort();
    expected.sort();
    assert_eq!(got, expected, "{}: {job}", fixture.version);
}

fn check_tree(fixture: &Fixture, sandbox: &Sandbox, job: &str) {
    let found = sandbox.path("found");
    std::fs::remove_dir_all(&found).unwrap();
    std::fs::create_dir(&found).unwrap();
    sandbox.run(["verify", job, "latest", "--depth", "contents"]).check_code(0);
    sandbox.run(["restore", job, "latest", "--target", "found"]).check_code(0);
    for line in fixture.tree() {
        let [kind, name, mode, content, blake3] = line.split('\t').collect::<Vec<_>>()[..] else { panic!("{line:?}") };
        let path = found.join(OsStr::from_bytes(&unescaped(name)));
        let about = path.symlink_metadata().unwrap_or_else(|error| panic!("{}: {line}: {error}", fixture.version));
        let rights = format!("{:04o}", about.permissions().mode() & 0o7777);
        match kind {
            "dir" => assert_eq!((about.is_dir(), rights.as_str()), (true, mode), "{line}"),
            "link" => assert_eq!(std::fs::read_link(&path).unwrap(), Path::new(content), "{line}"),
            "file" => {
                assert_eq!((about.len().to_string().as_str(), rights.as_str()), (content, mode), "{line}");
                assert_eq!(b3sum(sandbox, &path), blake3, "{line}");
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(strongroom_tests::tree::count(&found), fixture.tree().len(), "{}: {job}", fixture.version);
}

/// A name as `escape_ascii` wrote it.
fn unescaped(name: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = name.as_bytes();
    while let [first, more @ ..] = rest {
        if let [b'\\', b'x', high, low, after @ ..] = rest {
            let digits = [*high, *low];
            bytes.push(u8::from_str_radix(std::str::from_utf8(&digits).unwrap(), 16).unwrap());
            rest = after;
        } else {
            bytes.push(*first);
            rest = more;
        }
    }
    bytes
}

#[test]
fn what_earlier_versions_stored_is_restored_by_hand() {
    let script = root().join("tests/restore-by-hand.sh");
    let path = std::env::var("PATH").unwrap();
    for fixture in Fixture::all() {
        let sandbox = fixture.unpack();
        for (i, artifact) in fixture.artifacts.iter().enumerate() {
            let job = sandbox.path(&artifact.store).join(&artifact.job);
            let backups: Vec<_> = std::fs::read_dir(&job).unwrap().map(|entry| entry.unwrap().path()).collect();
            let [backup] = &backups[..] else { panic!("{}: {backups:?}", fixture.version) };
            for identity in ["identity.txt", "second-identity.txt"] {
                let out = sandbox.path(format!("by-hand-{i}-{identity}"));
                let identity = sandbox.path(identity);
                let mut args =
                    vec![script.as_os_str(), backup.as_os_str(), OsStr::new(&artifact.name), out.as_os_str()];
                if artifact.store == "sealed" {
                    args.push(identity.as_os_str());
                }
                sandbox.command("sh", args).env("PATH", &path).run().check_code(0);
                assert_eq!(b3sum(&sandbox, &out), artifact.blake3, "{}: {artifact:?}", fixture.version);
            }
        }
    }
}

#[test]
fn every_fixture_has_every_feature() {
    for fixture in Fixture::all() {
        let records = |store: &str| -> String {
            let objects = fixture.objects(store);
            let records = objects.iter().filter(|(key, _)| key.ends_with("/record.json"));
            records.map(|(_, bytes)| String::from_utf8(bytes.clone()).unwrap()).collect()
        };
        let (sealed, plain) = (records("sealed"), records("plain"));
        for wanted in ["\"encrypted\": true", "\"incomplete\"", "\"size\": 0", "\"index\": \"objects.index\""] {
            assert!(sealed.contains(wanted), "{}: no {wanted}", fixture.version);
        }
        assert!(plain.contains("\"encrypted\": false"), "{}", fixture.version);
        let keys: Vec<String> = fixture.objects("sealed").into_keys().collect();
        for wanted in [".0002.zst.age", "/verified/"] {
            assert!(keys.iter().any(|key| key.contains(wanted)), "{}: no {wanted}", fixture.version);
        }
        let readme = std::fs::read_to_string(fixture.folder.join("README.md")).unwrap();
        assert!(readme.contains("test keys"), "{}: its keys are not said to be test keys", fixture.version);
    }
}
