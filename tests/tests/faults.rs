//! Stores and plugins that fail under the real binary: one error, the right exit code, nothing that looks
//! like a backup, and no upload left behind.

use rustix::process::Signal;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use strongroom::store::Store;
use strongroom::store::s3::S3Store;
use strongroom_tests::documented::check_documented;
use strongroom_tests::proxy::{Act, CHECKSUMS, Proxy, Rule};
use strongroom_tests::relay::{Relay, Setup, sh, sha256};
use strongroom_tests::s3::{self, ACCESS_KEY, S3Server, SECRET_KEY, Server};
use strongroom_tests::{Output, Sandbox, free_port, plugin, wait_until};

/// Two parts and a bit: small enough to be quick, large enough to be a real multipart upload.
const PRODUCE: &str = "head -c 20000000 /dev/urandom";
const SMALL_PARTS: &str = "part_bytes = \"8MiB\"";

/// One error with this exit code that says each of these, and no credential.
#[track_caller]
fn check_one_error(output: &Output, code: i32, says: &[&str]) {
    output.check_code(code);
    for text in says {
        output.check_stderr(text);
    }
    let errors = output.stderr.lines().filter(|line| line.starts_with("error:")).count();
    assert_eq!(errors, 1, "one error: {}", output.stderr);
    assert!(!output.stderr.contains(SECRET_KEY), "{}", output.stderr);
}

/// TOML of an S3 store at a port of the loopback; the keys are in the environment.
fn at(port: u16, bucket: &str) -> String {
    format!(
        "type = \"s3\"\nbucket = \"{bucket}\"\nendpoint = \"http://127.0.0.1:{port}\"\nregion = \"us-east-1\"\n\
         access_key = {{ env = \"ACCESS_KEY\" }}\nsecret_key = {{ env = \"SECRET_KEY\" }}"
    )
}

/// A relay whose store is a bucket at a port of the loopback.
fn relay_at(port: u16, bucket: &str) -> Relay {
    relay_with(port, bucket, SMALL_PARTS)
}

fn relay_with(port: u16, bucket: &str, store: &str) -> Relay {
    let mut relay =
        Relay::new(Setup { produce: sh(PRODUCE), place: at(port, bucket), store: store.into(), ..Setup::default() });
    relay.sandbox.set_env("ACCESS_KEY", ACCESS_KEY).set_env("SECRET_KEY", SECRET_KEY);
    relay
}

/// A real server, a proxy in front of it that does what `rules` say, and a relay that knows the proxy only.
struct Behind {
    server: S3Server,
    proxy: Proxy,
    relay: Relay,
}

impl Behind {
    async fn start(rules: Vec<Rule>) -> Self {
        let server = S3Server::start(Server::Versitygw).await.unwrap();
        let proxy = Proxy::start(server.port(), (ACCESS_KEY, SECRET_KEY), rules).await.unwrap();
        let relay = relay_at(proxy.port(), s3::BUCKET);
        Self { server, proxy, relay }
    }

    /// No backup is listed by who asks the server itself, and no upload was left there.
    async fn check_nothing_left(&self) {
        check_nothing_pending(&self.server).await;
        let direct = relay_at(self.server.port(), s3::BUCKET);
        assert_eq!(direct.listed(), Vec::<String>::new(), "{:#?}", self.proxy.requests());
    }
}

async fn check_nothing_pending(server: &S3Server) {
    let store: Arc<dyn Store> = Arc::new(S3Store::open(server.spec()).await.unwrap());
    let pending = store.pending_uploads("").await.unwrap();
    assert!(pending.is_empty(), "{pending:?}");
}

// Stores that cannot be used.

#[test]
fn a_store_that_is_not_there_is_said_with_its_address() {
    let port = free_port().unwrap();
    let address = format!("127.0.0.1:{port}");
    // Each waits for as long as it is patient, so they wait together.
    let check = |verb: &[&str], waits: &str| {
        let store = format!("{SMALL_PARTS}\npatience = \"12s\"\n");
        check_one_error(&relay_with(port, s3::BUCKET, &store).run(verb), 1, &[&address, "nothing listens", waits]);
    };
    std::thread::scope(|scope| {
        // Somebody waits for these: they do not try for minutes.
        for verb in
            [&["list"][..], &["show", "orders", "latest"], &["store", "check", "main"], &["store", "init", "main"]]
        {
            scope.spawn(move || check(verb, "attempts"));
        }
        // A run at night is patient, and says that it waits.
        scope.spawn(|| check(&["backup", "orders"], "the store is in trouble"));
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_does_not_let_in_is_denied_and_one_without_its_bucket_says_so() {
    for kind in [Server::Versitygw, Server::Minio] {
        let server = S3Server::start(kind).await.unwrap();
        let mut relay = relay_at(server.port(), s3::BUCKET);
        relay.sandbox.set_env("SECRET_KEY", "not-the-right-one");
        for verb in [&["backup", "orders"][..], &["list"], &["store", "init", "main"]] {
            check_one_error(&relay.run(verb), 4, &["secret key", "bucket \"backups\""]);
        }
        let relay = relay_at(server.port(), "missing");
        for verb in [&["backup", "orders"][..], &["list"], &["store", "init", "main"]] {
            check_one_error(&relay.run(verb), 1, &["bucket \"missing\"", "create"]);
        }
        check_nothing_pending(&server).await;
        assert_eq!(relay_at(server.port(), s3::BUCKET).listed(), Vec::<String>::new());
    }
}

#[test]
fn credentials_that_are_not_there_are_named_by_their_variable() {
    let mut relay = relay_at(1, s3::BUCKET);
    relay.sandbox.set_env("SECRET_KEY", "");
    check_one_error(&relay.run(&["backup", "orders"]), 2, &["SECRET_KEY", "store.main.secret_key"]);
}

/// A backup behind a proxy that does this fails with this code, and leaves nothing.
async fn check_fails_behind(rules: impl Into<Vec<Rule>>, code: i32, says: &[&str]) {
    let behind = Behind::start(rules.into()).await;
    check_one_error(&behind.relay.run(&["backup", "orders"]), code, says);
    assert!(behind.proxy.touched() > 0);
    behind.check_nothing_left().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_denies_in_the_middle_of_an_upload_is_no_backup() {
    let denied = || Act::Answer(403, "AccessDenied", "Access Denied");
    let part = Rule { after: 1, ..Rule::always("PUT", "partNumber=", denied()) };
    check_fails_behind([part], 4, &["AccessDenied", "out"]).await;
    check_fails_behind([Rule::always("POST", "?uploadId=", denied())], 4, &["AccessDenied", "out"]).await;
    check_fails_behind([Rule::always("PUT", "record.json", denied())], 4, &["AccessDenied", "record.json"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_acknowledges_and_drops_is_found_before_the_record_is_written() {
    check_fails_behind([Rule::always("POST", "?uploadId=", Act::Acknowledge)], 1, &["out"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_gateway_without_checksums_keeps_is_read_back_before_the_record_is_written() {
    let strip = || Rule::always("", "", Act::Strip(&CHECKSUMS));
    // The upload compares what it completed, in ten pieces, and the run what there is before it writes the record.
    let other = |after| Rule { after, ..Rule::always("GET", "/data/", Act::FlipResponse) };
    check_fails_behind([other(0), strip()], 1, &["data/out.0001", "is not what was sent"]).await;
    let says = ["data/out.0001", "acknowledged", "holds something else", "CRC64NVME", "store check"];
    check_fails_behind([other(10), strip()], 1, &says).await;
    check_survives(strip()).await;
}

/// Runs `strongroom` in a mount namespace of its own, after `prepare` has changed the folder `store`.
fn run_mounted(sandbox: &Sandbox, prepare: &str, verbs: &str) -> Output {
    use std::os::unix::fs::MetadataExt;
    let is_root = std::fs::metadata("/proc/self").unwrap().uid() == 0;
    let rights: &[&str] = if is_root { &["--mount"] } else { &["--user", "--map-root-user", "--mount"] };
    let binary = strongroom_tests::host_binary().unwrap_or_else(|error| panic!("{error:#}"));
    let script = format!("{prepare} && {}", verbs.replace("strongroom", &format!("'{}'", binary.display())));
    sandbox.command("unshare", rights.iter().chain(&["/bin/sh", "-c", &script])).run()
}

/// What is in the mounted store besides locks and the plugin: printed by the script of [`run_mounted`].
const FIND: &str = "find store -type f ! -name lock ! -name 'lease*' ! -path 'store/plugins/*'";

#[test]
fn a_full_store_is_no_backup_and_its_space_is_given_back() {
    let relay = Relay::new(Setup { produce: sh(PRODUCE), store: SMALL_PARTS.into(), ..Setup::default() });
    let mount = "mount -t tmpfs -o size=8m none store";
    let output = run_mounted(&relay.sandbox, mount, &format!("strongroom backup orders; code=$?; {FIND}; exit $code"));
    check_one_error(&output, 1, &["the disk is full"]);
    assert_eq!(output.stdout, "", "something was left");
    // What it needs is there again: a smaller backup fits.
    relay.configure(&Setup::default());
    run_mounted(&relay.sandbox, mount, "strongroom backup orders").check_code(0);
}

#[test]
fn a_store_that_may_only_be_read_is_denied_and_still_read() {
    let relay = Relay::new(Setup::default());
    let id = relay.backup();
    let before = relay.stored();
    let mount = "mount --bind store store && mount -o remount,ro,bind store";
    let output = run_mounted(&relay.sandbox, mount, "strongroom backup orders");
    check_one_error(&output, 4, &["ead-only", "store"]);
    run_mounted(&relay.sandbox, mount, "strongroom list").check_code(0).check_stdout(&id);
    assert_eq!(relay.stored(), before);
}

#[test]
fn a_folder_that_is_not_there_is_said_and_made_by_store_init() {
    let relay = Relay::new(Setup::default());
    std::fs::remove_dir_all(relay.store()).unwrap();
    check_one_error(&relay.run(&["backup", "orders"]), 1, &["store", "store init"]);
    assert!(!relay.store().exists(), "a mistyped path is not made by a backup");
    relay.run(&["store", "init", "main"]).check_code(0);
    relay.backup();
}

// Preparing and checking a store.

#[tokio::test(flavor = "multi_thread")]
async fn store_check_and_store_init_accept_every_real_store() {
    let versitygw = S3Server::start(Server::Versitygw).await.unwrap();
    let minio = S3Server::start(Server::Minio).await.unwrap();
    let local = Relay::new(Setup::default());
    for relay in [local, relay_at(versitygw.port(), s3::BUCKET), relay_at(minio.port(), s3::BUCKET)] {
        let checked = relay.run(&["store", "check", "main", "--output", "json"]);
        let checked = checked.check_code(0).json();
        check_documented(&checked, "StoreChecked");
        for id in
            ["store.conditional-put", "store.multipart", "store.clock", "store.abort", "store.conditional-replace"]
        {
            let check = checked["checks"].as_array().unwrap().iter().find(|check| check["id"] == id);
            assert_eq!(check.unwrap_or(&Value::Null)["outcome"], "passed", "{id}: {checked:#}");
        }
        let sheet = relay.run(&["store", "init", "main", "--output", "json"]).check_code(0).json();
        check_documented(&sheet, "RecoverySheet");
        assert!(!sheet.to_string().contains(SECRET_KEY) && !sheet.to_string().contains("AGE-SECRET-KEY"));
        relay.run(&["store", "init", "main"]).check_code(0).check_stdout("Recovery sheet");
        let id = relay.backup();
        relay.run(&["verify", "orders"]).check_code(0);
        // The sheet's address is all that is needed to find the backups again.
        let keys = [("AWS_ACCESS_KEY_ID", ACCESS_KEY), ("AWS_SECRET_ACCESS_KEY", SECRET_KEY)];
        let mut elsewhere = Sandbox::new();
        for (name, value) in keys {
            elsewhere.set_env(name, value);
        }
        let url = sheet["store_url"].as_str().unwrap();
        elsewhere.run(["list", "--store-url", url]).check_code(0).check_stdout(&id);
    }
    check_nothing_pending(&versitygw).await;
    check_nothing_pending(&minio).await;
}

#[test]
fn a_new_identity_is_made_once_and_named_in_the_configuration() {
    let sandbox = Sandbox::new();
    let before = "# mine\n[store.main]\ntype = \"local\" # a disk\npath = \"store\"\nencryption = \"off\"\n";
    sandbox.config(&before.replace("encryption = \"off\"\n", ""));
    let output = sandbox.run(["store", "init", "main", "--new-identity", "identity.txt"]);
    output.check_code(0).check_stdout("Recovery sheet").check_stdout("age1");
    let identity = std::fs::read_to_string(sandbox.path("identity.txt")).unwrap();
    let secret = identity.lines().find(|line| line.starts_with("AGE-SECRET-KEY-1")).unwrap();
    assert!(!output.stdout.contains(secret) && !output.stderr.contains(secret));
    use std::os::unix::fs::PermissionsExt;
    assert_eq!(std::fs::metadata(sandbox.path("identity.txt")).unwrap().permissions().mode() & 0o777, 0o600);
    let config = std::fs::read_to_string(sandbox.path("strongroom.toml")).unwrap();
    assert!(config.contains("# mine") && config.contains("# a disk") && config.contains("identity = {"), "{config}");
    sandbox.run(["config", "check"]).check_code(0);
    // An identity is never written over.
    let again = sandbox.run(["store", "init", "main", "--new-identity", "identity.txt"]);
    assert!(matches!(again.code, Some(1 | 2)), "{again:?}");
    assert_eq!(std::fs::read_to_string(sandbox.path("identity.txt")).unwrap(), identity);
    assert_eq!(std::fs::read_to_string(sandbox.path("strongroom.toml")).unwrap(), config);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_that_strips_the_condition_fails_store_check_and_is_refused_as_a_destination() {
    let behind = Behind::start(vec![Rule::always("", "", Act::Strip(&["If-None-Match"]))]).await;
    let checked = behind.relay.run(&["store", "check", "main"]);
    checked.check_code(5).check_stdout("overwrites objects although it is asked not to");
    let refused = behind.relay.run(&["store", "init", "main"]);
    check_one_error(&refused, 4, &["overwrites objects although it is asked not to"]);
    behind.check_nothing_left().await;
}

// Faults during a backup that it survives.

/// A backup behind a proxy that does this succeeds, and what it stored is whole.
async fn check_survives(rule: Rule) {
    let shown = format!("{rule:?}");
    let behind = Behind::start(vec![rule]).await;
    let id = behind.relay.backup();
    assert!(behind.proxy.touched() > 0, "{shown}: {:#?}", behind.proxy.requests());
    behind.relay.run(&["verify", "orders", &id]).check_code(0);
    assert_eq!(behind.relay.listed(), [id]);
    check_nothing_pending(&behind.server).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_burst_of_503_is_ridden_out() {
    check_survives(Rule::first(4, "PUT", "partNumber=", Act::Answer(503, "SlowDown", "slower"))).await;
    check_survives(Rule::first(2, "PUT", "record.json", Act::Answer(503, "SlowDown", "slower"))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reset_in_the_middle_of_a_part_is_ridden_out() {
    check_survives(Rule::first(2, "PUT", "partNumber=2", Act::ResetInRequest(1_000_000))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_is_lost_after_the_commit_is_still_a_backup() {
    check_survives(Rule::first(1, "POST", "?uploadId=", Act::LoseAnswer)).await;
    check_survives(Rule::first(1, "PUT", "record.json", Act::LoseAnswer)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_stands_still_and_hangs_up_is_ridden_out() {
    check_survives(Rule::first(2, "PUT", "partNumber=", Act::Stall(Duration::from_secs(1)))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_part_that_is_changed_on_its_way_is_never_stored() {
    check_fails_behind([Rule::first(1, "PUT", "partNumber=1", Act::FlipRequest)], 1, &["BadDigest", "changes bytes"])
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn interrupted_while_the_store_stands_still_a_backup_ends_and_leaves_no_upload() {
    for signal in [Signal::INT, Signal::TERM] {
        let behind =
            Behind::start(vec![Rule::always("PUT", "partNumber=2", Act::Stall(Duration::from_secs(600)))]).await;
        let running = behind.relay.sandbox.strongroom(["backup", "orders"]).start().unwrap();
        let at_part = || Ok((behind.proxy.touched() > 0).then_some(()));
        wait_until("the second part", Duration::from_secs(60), at_part).unwrap();
        running.signal(signal).unwrap();
        running.finish(Duration::from_secs(60)).unwrap().check_code(130);
        behind.check_nothing_left().await;
    }
}

// Plugins that misbehave.

/// A sandbox whose job `orders` is the guest `rogue`, which does what `deed` says.
fn rogue(deed: &str) -> Sandbox {
    let sandbox = Sandbox::new();
    let component = plugin("guests/rogue").unwrap_or_else(|error| panic!("{error:#}"));
    std::fs::create_dir_all(sandbox.path("store")).unwrap();
    do_next(&sandbox, &component, deed);
    sandbox
}

fn do_next(sandbox: &Sandbox, component: &Path, deed: &str) {
    sandbox.config(&format!(
        r#"
[store.main]
type = "local"
path = "store"
encryption = "off"

[plugin.rogue]
source = "{source}"
sha256 = "{digest}"
limits = {{ cpu = "2s" }}

[plugin.rogue.grant.artifacts]

[plugin.rogue.grant.exec.echo]
program = "/bin/echo"
args = ["{{word}}"]
slots = {{ word = "[a-z]{{1,20}}" }}
verbs = ["backup", "diagnose"]
effect = "reads"

[job.orders]
plugin = "rogue"
store = "main"
settings = {{ do = "{deed}" }}
"#,
        source = component.display(),
        digest = sha256(&std::fs::read(component).unwrap()),
    ));
}

/// What is left of a run in the folder for scratch directories.
fn scratch_of(sandbox: &Sandbox) -> Vec<PathBuf> {
    std::fs::read_dir(sandbox.path("tmp")).unwrap().flatten().map(|entry| entry.path()).collect()
}

/// What a plugin does, and what the error says of it.
const DEEDS: [(&str, &[&str]); 5] = [
    ("panic", &["it panicked", "nothing works", "rogue/src/lib.rs:", "give_up_on_everything", "vendor"]),
    ("trap", &["never reached", "strongroom_guest_rogue::act"]),
    ("loop", &["limit \"cpu\"", "strongroom_guest_rogue::act", "[plugin.rogue.limits] cpu = "]),
    ("memory", &["limit \"memory\"", "[plugin.rogue.limits] memory = "]),
    ("recurse", &["strongroom_guest_rogue::deeper"]),
];

#[test]
fn a_plugin_that_crashes_in_a_backup_is_quoted_and_leaves_nothing() {
    for (deed, says) in DEEDS {
        let sandbox = rogue(deed);
        check_one_error_of_a_plugin(&sandbox.run(["backup", "orders"]), says, "backup");
        let listed = sandbox.run(["list", "--output", "json"]);
        assert_eq!(listed.json()["backups"], serde_json::json!([]));
        assert_eq!(scratch_of(&sandbox), Vec::<PathBuf>::new());
    }
}

#[test]
fn a_plugin_that_crashes_in_a_verification_is_quoted_and_nothing_is_recorded_as_verified() {
    let component = plugin("guests/rogue").unwrap();
    let sandbox = rogue("spawn");
    sandbox.run(["backup", "orders"]).check_code(0);
    for (deed, says) in DEEDS {
        do_next(&sandbox, &component, deed);
        check_one_error_of_a_plugin(&sandbox.run(["verify", "orders"]), says, "verify");
        check_one_error_of_a_plugin(&sandbox.run(["restore", "orders", "latest"]), says, "restore");
        assert_eq!(scratch_of(&sandbox), Vec::<PathBuf>::new());
    }
    let shown = sandbox.run(["show", "orders", "latest", "--output", "json"]);
    assert_eq!(shown.json()["verified"], serde_json::json!([]));
}

/// As [`check_one_error`], but for what the plugin itself logged before.
#[track_caller]
fn check_one_error_of_a_plugin(output: &Output, says: &[&str], verb: &str) {
    output.check_code(1).check_stderr("plugin \"rogue\"");
    for text in says.iter().chain(&["in:", verb]) {
        output.check_stderr(text);
    }
    assert!(!output.stderr.contains("wasm backtrace") && !output.stderr.contains("0x"), "readable: {}", output.stderr);
}

#[test]
fn a_diagnosis_goes_on_when_its_plugin_crashes_and_says_where_it_did() {
    let sandbox = rogue("panic");
    let output = sandbox.run(["diagnose", "orders", "--output", "json"]);
    let found = output.check_code(5).json();
    check_documented(&found, "Findings");
    let plugin = found["checks"].as_array().unwrap().iter().find(|check| check["id"] == "host.plugin").unwrap();
    let evidence = plugin["evidence"].as_str().unwrap();
    assert!(evidence.contains("nothing works") && evidence.contains("give_up_on_everything"), "{evidence}");
}

#[test]
fn a_plugin_that_reports_success_without_storing_anything_has_made_no_backup() {
    let sandbox = rogue("nothing");
    let output = sandbox.run(["backup", "orders"]);
    check_one_error(&output, 1, &["plugin \"rogue\" reported success and stored nothing"]);
    assert_eq!(sandbox.run(["list", "--output", "json"]).json()["backups"], serde_json::json!([]));
}

#[test]
fn what_a_plugin_says_cannot_forge_a_line_or_command_the_terminal() {
    let output = rogue("speak").run(["backup", "orders"]);
    check_one_error(&output, 1, &["forged"]);
    assert!(!output.stderr.contains('\u{1b}') && !output.stderr.lines().any(|line| line.starts_with("line")));
}

// What an operator does meanwhile.

#[tokio::test(flavor = "multi_thread")]
async fn a_second_signal_ends_at_once_what_the_first_one_only_began_to_end() {
    let stall = || Act::Stall(Duration::from_secs(600));
    let rules = vec![Rule::always("PUT", "partNumber=2", stall()), Rule::always("DELETE", "uploadId=", stall())];
    let behind = Behind::start(rules).await;
    let running = behind.relay.sandbox.strongroom(["backup", "orders"]).start().unwrap();
    let seen = |what: &'static str| {
        let seen = move |request: &String| request.contains(what);
        wait_until(what, Duration::from_secs(60), || Ok(behind.proxy.requests().iter().any(seen).then_some(())))
    };
    seen("partNumber=2").unwrap();
    running.signal(Signal::INT).unwrap();
    // It cleans up, and the store does not answer to that either.
    seen("DELETE").unwrap();
    running.signal(Signal::TERM).unwrap();
    let output = running.finish(Duration::from_secs(30)).unwrap();
    output.check_code(130).check_stderr("once more ends at once");
}

#[test]
fn a_diagnosis_of_a_store_that_is_not_there_says_so_and_still_asks_the_component() {
    let relay = relay_at(free_port().unwrap(), s3::BUCKET);
    let output = relay.run(&["diagnose", "orders", "--output", "json"]);
    let found = output.check_code(5).json();
    check_documented(&found, "Findings");
    let outcome_of = |id: &str| {
        let checks = found["checks"].as_array().unwrap();
        checks.iter().find(|check| check["id"] == id).unwrap_or(&Value::Null)["outcome"].clone()
    };
    assert_eq!(outcome_of("host.store"), "failed");
    assert_eq!(outcome_of("host.backups"), "failed");
    assert_eq!(outcome_of("host.memory"), "passed");
    assert_eq!(outcome_of("relay.query"), "passed", "{found:#}");
}
