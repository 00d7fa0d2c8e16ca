use super::*;
use crate::error::Kind;
use crate::exec::{Choice, PodSpec};
use crate::stream::Compression;
use mistake::Drawing;

const WHOLE: &str = include_str!("tests/whole.toml");
const KEYS: [&str; 2] = [
    "age13cgr9jv94r4840qycftjuqremdefuhqeasgkr5jc53xe0svwmyss2ny0pk",
    "age1hxn3kf7hhtup0x4j570fdyuvcyq4vd4vflx2n8yer0vwy5gff5zqjxas7c",
];
/// A store, a plugin and a job that are right, for mistakes elsewhere.
const FRAME: &str = "\
[store.disk]
type = \"local\"
path = \"backups\"
encryption = \"off\"

[plugin.pg]
source = \"pg.wasm\"

[job.orders]
plugin = \"pg\"
store = \"disk\"
";

fn parse(text: &str) -> Result<Config> {
    Config::parse(text, Path::new("strongroom.toml"), Path::new("/etc/strongroom"))
}

/// The mistakes of a text that must have some.
fn check_refused(text: &str) -> Mistakes {
    let error = parse(text).unwrap_err();
    assert_eq!(error.kind(), Kind::Invalid);
    let source = std::error::Error::source(&error).unwrap();
    source.downcast_ref::<Mistakes>().unwrap().clone()
}

/// Everything that the operator sees.
fn drawn(text: &str) -> String {
    let mistakes = check_refused(text);
    format!("{}{mistakes}\n", mistakes.draw(Drawing::Plain, 100))
}

/// One mistake alone, on one line, below what is right.
fn check_one(text: &str) -> String {
    let mistakes = check_refused(&format!("{FRAME}{text}"));
    let lines = mistakes.iter().map(|mistake| {
        let help = mistake.help.as_ref().map(|help| format!(" | {help}")).unwrap_or_default();
        format!("{} | {}{help}", mistake.message, mistake.label)
    });
    lines.collect::<Vec<_>>().join("\n")
}

fn label(text: &str) -> Label {
    text.parse().unwrap()
}

#[test]
fn every_key_is_read_and_means_what_it_says() {
    let config = parse(WHOLE).unwrap();
    assert!(config.warnings.is_empty(), "{:?}", config.warnings);
    insta::assert_debug_snapshot!(config);
}

#[test]
fn a_pod_is_the_one_that_the_configuration_names() {
    let pod = "{ cluster = \"prod\", namespace = \"db\", selector = \"app=pg\", container = \"postgres\", \
               service_account = \"pg\", image = \"sha256:0123\" }";
    let named = "{ cluster = \"prod\", namespace = \"db\", name = \"pg-0\" }";
    let text = format!(
        "{FRAME}run_in = {{ pod = {pod} }}\n[target.beside]\nrun_in = {{ pod = {named} }}\n\
         [cluster.prod]\nin_cluster = true\n"
    );
    let config = parse(&text).unwrap();
    let whole = PodSpec {
        cluster: "prod".to_owned(),
        namespace: "db".to_owned(),
        choice: Choice::Selector("app=pg".to_owned()),
        container: Some("postgres".to_owned()),
        service_account: Some("pg".to_owned()),
        image: Some("sha256:0123".to_owned()),
    };
    let name = Choice::Name("pg-0".to_owned());
    let bare = PodSpec { choice: name, container: None, service_account: None, image: None, ..whole.clone() };
    assert_eq!(config.jobs[&label("orders")].run_in, RunIn::Pod(whole));
    assert_eq!(config.targets[&label("beside")].run_in, RunIn::Pod(bare));
}

#[test]
fn what_is_not_set_is_as_the_documentation_says() {
    let config = parse(FRAME).unwrap();
    let store = &config.stores[&label("disk")];
    assert_eq!((store.level, store.part_bytes), (Compression::Level(2), 8 << 20));
    assert_eq!((store.parts_per_segment, store.parts_in_flight), (950, 4));
    assert_eq!(store.place, StorePlace::Local { path: "/etc/strongroom/backups".into() });
    let job = &config.jobs[&label("orders")];
    assert_eq!(job.run_in, RunIn::Local { user: None });
    assert_eq!(job.settings, serde_json::json!({}));
    assert_eq!(job.verify, VerifyConfig { depth: Depth::Contents, target: None, on_source: false });
    assert_eq!(config.plugins[&label("pg")].limits, Limits::default());
    let s3 = format!("[store.s3]\ntype = \"s3\"\nbucket = \"backups\"\nrecipients = {KEYS:?}\n");
    let config = parse(&s3).unwrap();
    let StorePlace::S3(s3) = &config.stores[&label("s3")].place else { panic!("not s3") };
    assert_eq!((s3.region.as_str(), s3.path_style, s3.prefix.as_str()), ("us-east-1", false, ""));
}

#[test]
fn every_mistake_is_found_at_once_with_its_place_and_what_to_write_instead() {
    let shown = drawn(
        r#"trusted_host = ["x"]

[store.main]
type = "s3"
buket = "backups"
recipients = ["age1nonsense", "age13cgr9jv94r4840qycftjuqremdefuhqeasgkr5jc53xe0svwmyss2ny0pk"]
level = 42
path = "/backups"

[store.cloud]
type = "gcs"

[plugin.postgres]
source = "oci://example.org/postgres:1"
sha256 = "abc"

[target.scratch]
run_in = { ssh = "db.example.org" }

[job.orders]
plugin = "postgers"
store = "mian"
secrets = { PGPASSWORD = "correct horse battery staple" }
settings = ["shop"]
schedule = "0 2 * * *"
keep = { daily = 7 }
verify = { depth = "restore" }
objective = 26
"#,
    );
    insta::assert_snapshot!(shown);
}

#[test]
fn what_is_not_toml_is_told_with_every_place() {
    let shown = drawn("[store.main]\ntype = local\npath = \"a\"\npath = \"b\"\n\n[job.orders\nplugin = 'x\n");
    insta::assert_snapshot!(shown);
}

#[test]
fn what_is_not_toml_shows_no_secret_either() {
    for text in [
        "[job.a]\nsecrets = { PGPASSWORD = hunter2 }\n",
        "[store.a]\nsecret_key = hunter2\n",
        "[store.a]\n\"secret_key\" = \"hunter2\nlevel = 3\n",
        "[store.a]\nidentity = AGE-SECRET-KEY-1hunter2\n",
        "[store.a]\nsecret_key = \"hunter2\"\npath = /a\n",
        "x = 1\nx = 2\nä-token = 'hunter2'\n",
    ] {
        let shown = drawn(text);
        assert!(!shown.contains("hunter2"), "{shown}");
    }
}

#[test]
fn an_identity_is_never_shown_wherever_it_stands() {
    let shown = drawn("wrong = 1 # AGE-SECRET-KEY-1HUNTER2\ntrusted_hosts = [\"AGE-SECRET-KEY-1HUNTER2 \"]\n");
    assert!(!shown.contains("HUNTER2"), "{shown}");
}

#[test]
fn a_secret_in_the_file_is_refused_and_never_shown() {
    let text = r#"
[store.main]
type = "s3"
bucket = "backups"
encryption = "off"
endpoint = "https://admin:hunter2-endpoint@s3.example.org"
access_key = "hunter2-access"
secret_key = ["hunter2-list"]
session_tokn = "hunter2-typo"
identity = { env = "hunter2 identity" }

[target.a]
env = { PGPASSWORD = "hunter2-env", DB_TOKEN = "hunter2-token" }
secrets = { A = "hunter2-text", B = { value = "hunter2-value" }, C = { env = "A", file = "b" }, "not a name" = "hunter2-name" }

[target.b]
secrets = "hunter2-all"

[target.c]
secrets = { P = { kubernetes = "db-password" }, Q = {}, R = { file = "" } }

[target.d]
password = "hunter2-key"
secrets = { P = """
hunter2-line
hunter2-line""" }
"#;
    let shown = drawn(text);
    assert!(!shown.contains("hunter2"), "{shown}");
    assert!(!format!("{:?}", parse(text)).contains("hunter2-"), "not in the error's debug form either");
    insta::assert_snapshot!(shown);
}

#[test]
fn what_is_not_built_yet_is_refused_and_says_what_to_use_now() {
    let mut found = Vec::new();
    for text in [
        "[store.a]\ntype = \"azure\"",
        "[bucket.a]\ntype = \"s3\"\npath = \"x\"",
        "[plugin.a]\nsource = \"oci://example.org/a\"",
        "schedule = \"0 2 * * *\"",
        "copy_to = [\"dr\"]",
        "verify = { schedule = \"daily\" }",
        "run_in = { ssh = \"db1\" }",
        "[bucket.b]\ntype = \"local\"\npath = \"x\"\n[plugin.a]\nsource = \"a.wasm\"\n[plugin.a.grant.bucket.b]\nmay = [\"list\", \"delete-version\"]\nverbs = [\"restore\"]\neffect = \"changes\"",
        "[bucket.b]\ntype = \"local\"\npath = \"x\"\n[plugin.a]\nsource = \"a.wasm\"\n[plugin.a.grant.bucket.b]\nmay = [\"read-config\"]\nverbs = [\"backup\"]\neffect = \"reads\"",
        "[bucket.b]\ntype = \"local\"\npath = \"x\"\n[plugin.a]\nsource = \"a.wasm\"\n[plugin.a.grant.bucket.b]\nmay = [\"write-config\"]\nverbs = [\"restore\"]\neffect = \"changes\"",
    ] {
        found.push(check_one(text));
    }
    let found = found.join("\n");
    insta::assert_snapshot!(found);
}

#[test]
fn a_cluster_has_one_way_and_one_identity_and_what_is_granted_of_it_exists() {
    let kube = |more: &str| {
        format!("[cluster.a]\nin_cluster = true\n[plugin.k]\nsource = \"k.wasm\"\n[plugin.k.grant.kube.a]\n{more}")
    };
    let plain = "may = [\"list\"]\nverbs = [\"backup\"]\neffect = \"reads\"\n";
    let mut found = Vec::new();
    for text in [
        "[cluster.a]".to_owned(),
        "[cluster.a]\ncontext = \"x\"\nin_cluster = true".to_owned(),
        "[cluster.a]\nin_cluster = false".to_owned(),
        "[cluster.a]\ncontext = \"x\"\nca = \"ca.pem\"".to_owned(),
        "[cluster.a]\napi = \"https://k:6443\"".to_owned(),
        "[cluster.a]\napi = \"http://k:6443\"\ntoken = { env = \"T\" }".to_owned(),
        "[cluster.a]\napi = \"https://k\"\ntoken = { env = \"T\" }\nclient_certificate = { file = \"c\" }\nclient_key = { file = \"k\" }".to_owned(),
        "[cluster.a]\napi = \"https://k\"\nclient_certificate = { file = \"c\" }".to_owned(),
        "[cluster.a]\ncontext = \"x\"\n[cluster.a.restore]".to_owned(),
        "[cluster.a]\ncontext = \"x\"\nproxy = \"socks5://p\"".to_owned(),
        kube(&format!("{plain}kinds = [\"ConfigMap\"]")),
        kube(&format!("{plain}kinds = [\"/ConfigMap\"]\nlabels = [\"app\"]")),
        kube("may = [\"apply\"]\nkinds = [\"*\"]\nverbs = [\"restore\"]\neffect = \"reads\""),
        format!("[plugin.k]\nsource = \"k.wasm\"\n[plugin.k.grant.kube.b]\n{plain}kinds = [\"*\"]"),
    ] {
        found.push(check_one(&text));
    }
    let found = found.join("\n");
    insta::assert_snapshot!(found);
}

#[test]
fn a_password_of_a_proxy_is_no_text_of_the_configuration() {
    let said = check_one("[cluster.a]\ncontext = \"x\"\nproxy = \"http://u:hunter2@p\"");
    assert!(said.contains("holds a user or a password") && said.contains("HTTPS_PROXY"), "{said}");
    assert!(!said.contains("hunter2"), "{said}");
}

/// A job of a plugin with two commands and artifacts, and more lines of the job.
fn with_grants(lines: &str) -> String {
    let exec = |name: &str, more: &str| {
        format!(
            "[plugin.pg.grant.exec.{name}]\nprogram = \"/bin/{name}\"\nverbs = [\"backup\", \"restore\"]\neffect = \"reads\"\n{more}\n"
        )
    };
    format!("{FRAME}{lines}\n[plugin.pg.grant.artifacts]\n{}{}", exec("dump", "secrets = [\"PW\"]"), exec("load", ""))
}

#[test]
fn a_job_narrows_its_plugins_grants_and_a_verb_the_jobs() {
    let lines =
        "grants = [\"exec.dump\", \"exec.load\"]\nrestore = { grants = [\"exec.load\"] }\nbackup = { grants = [] }\n";
    let config = parse(&with_grants(lines)).unwrap();
    let (job, plugin) = (&config.jobs[&label("orders")], &config.plugins[&label("pg")]);
    let held = |verb| job.narrowed(&plugin.grants, verb).names().into_iter().collect::<Vec<_>>().join(" ");
    assert_eq!(held(None), "exec.dump exec.load");
    assert_eq!(held(Some(Verb::Diagnose)), "exec.dump exec.load");
    assert_eq!(held(Some(Verb::Restore)), "exec.load");
    assert_eq!(held(Some(Verb::Backup)), "");
    let mut lent = job.clone();
    lent.lend(Verb::Restore, "bucket.lent");
    let mut grants = plugin.grants.clone();
    grants.buckets.insert("lent".to_owned(), Vec::new());
    let held = |job: &JobConfig, verb| job.narrowed(&grants, Some(verb)).names().contains("bucket.lent");
    assert_eq!((held(job, Verb::Restore), held(&lent, Verb::Restore), held(&lent, Verb::Backup)), (false, true, false));
}

#[test]
fn what_a_verb_has_of_its_own_lies_over_the_jobs_by_name() {
    let lines = "env = { A = \"job\", B = \"job\" }\nsecrets = { C = { env = \"C\" }, D = { env = \"D\" }, E = { file = \"e\" } }\n\
                 [job.orders.restore]\nenv = { A = \"verb\", C = \"verb\", F = \"verb\" }\n\
                 secrets = { B = { env = \"VERB_B\" }, D = { file = \"verb-d\" } }\n\
                 [job.orders.verify]\nenv = { A = \"test\" }\n";
    let config = parse(&format!("{FRAME}{lines}")).unwrap();
    let job = &config.jobs[&label("orders")];
    let shown = |verb| {
        let (env, secrets) = job.surroundings(&label("orders"), verb);
        let env = env.into_iter().map(|(name, value)| format!("{name}={value}"));
        let secrets =
            secrets.into_iter().map(|secret| format!("{}<{} {:?}", secret.name, secret.key, secret.reference));
        env.chain(secrets).collect::<Vec<_>>().join("\n")
    };
    insta::assert_snapshot!(format!("{}\n--\n{}\n--\n{}", shown(Verb::Backup), shown(Verb::Restore), shown(Verb::Verify)), @r#"
    A=job
    B=job
    C<job.orders.secrets.C Env("C")
    D<job.orders.secrets.D Env("D")
    E<job.orders.secrets.E File("/etc/strongroom/e")
    --
    A=verb
    C=verb
    F=verb
    E<job.orders.secrets.E File("/etc/strongroom/e")
    B<job.orders.restore.secrets.B Env("VERB_B")
    D<job.orders.restore.secrets.D File("/etc/strongroom/verb-d")
    --
    A=test
    B=job
    C<job.orders.secrets.C Env("C")
    D<job.orders.secrets.D Env("D")
    E<job.orders.secrets.E File("/etc/strongroom/e")
    "#);
    // No child of the host inherits any of them, and each is looked for when it is asked whether they are there.
    let named = config.secret_variables();
    assert!(["C", "D", "VERB_B"].iter().all(|name| named.contains(*name)), "{named:?}");
    let (wrong, _) = config.check_secrets(|_| None);
    let wrong: Vec<_> = wrong.iter().map(|error| error.message().to_owned()).collect();
    assert!(wrong.iter().any(|text| text.contains("job.orders.restore.secrets.D")), "{wrong:?}");
}

#[test]
fn mistakes_in_what_a_job_and_its_verbs_hold_have_their_place() {
    let digest = "0".repeat(64);
    let pinned = format!(
        "run_in = {{ container = \"db\" }}\n[plugin.pg.grant.exec.pinned]\nprogram = \"/bin/x\"\nsha256 = \"{digest}\"\nverbs = [\"backup\", \"diagnose\"]\neffect = \"reads\"\n"
    );
    let mut found = Vec::new();
    for lines in [
        "grants = [\"exec.dmup\"]",
        "grants = [\"dump\"]",
        "grants = [\"exec.dump\", \"bucket.media\"]",
        "grants = [\"exec.dump\"]\nrestore = { grants = [\"exec.load\"] }",
        "restore = { grants = [\"exec.laod\"] }",
        "restore = { env = { PGPASSWORD = \"x\" } }",
        "restore = { env = { A = \"x\" }, secrets = { A = { env = \"B\" } } }",
        "diagnose = { env = { STRONGROOM_X = \"x\" } }",
        "backup = { secrets = { A = \"hunter2hunter2\" } }",
        "verify = { secrets = { A = {} } }",
        "backup = { run_in = { user = \"x\" } }",
        &pinned,
    ] {
        let text = with_grants(lines);
        let mistakes = check_refused(&text);
        let all = mistakes.iter().map(|mistake| {
            let help = mistake.help.as_ref().map(|help| format!(" | {help}")).unwrap_or_default();
            format!("{} | {}{help}", mistake.message, mistake.label)
        });
        found.push(all.collect::<Vec<_>>().join("\n"));
    }
    insta::assert_snapshot!(found.join("\n"));
    // Where the plugin is not known, nothing is known of its grants.
    let unknown = check_refused(&FRAME.replace("plugin = \"pg\"", "plugin = \"gp\"\ngrants = [\"exec.x\"]"));
    assert_eq!(unknown.iter().count(), 1, "{unknown:?}");
    // What a job has narrowed away is no reason to refuse it.
    assert!(parse(&with_grants(&format!("grants = [\"exec.dump\"]\n{pinned}"))).is_ok());
    let restores = pinned.replace("\"backup\", \"diagnose\"", "\"restore\"");
    assert!(parse(&with_grants(&restores)).is_ok(), "a restore may go elsewhere");
}

#[test]
fn who_restores_may_be_somebody_else() {
    let config = parse(WHOLE).unwrap();
    let (_, cluster) = config.cluster("prod").unwrap();
    let context = |restores: bool| match cluster.way_for(restores) {
        crate::cluster::Way::Kubeconfig { context, .. } => context,
        other => panic!("{other:?}"),
    };
    assert_eq!((context(false).as_str(), context(true).as_str()), ("prod-reader", "prod-admin"));
    assert_eq!(cluster.identity_for(true).impersonate.as_deref(), Some("restorer"));
    let (_, other) = config.cluster("edge").unwrap();
    assert!(matches!(other.identity_for(true).credentials, Some(CredentialRefs::Token(_))));
    assert!(config.plugins[&label("resources")].grants.kube["prod"].iter().all(|grant| grant.namespaces.len() == 2));
}

#[test]
fn what_contradicts_itself_is_refused() {
    let grant = "[plugin.a]\nsource = \"a.wasm\"\n[plugin.a.grant.exec.run]\nprogram = \"/bin/run\"\nverbs = [\"backup\"]\neffect = \"reads\"\n";
    let s3 = "[store.a]\ntype = \"s3\"\nbucket = \"backups\"\n";
    let local = "[store.a]\ntype = \"local\"\n";
    let mut found = Vec::new();
    for text in [
        s3.to_owned(),
        format!("{s3}recipients = []"),
        format!("{s3}encryption = \"off\"\nrecipients = {KEYS:?}"),
        format!("{s3}recipients = [\"{0}\", \"{0}\"]", KEYS[0]),
        format!("{s3}recipients = [\"AGE-SECRET-KEY-1QQQQQQ\", \"ssh-ed25519 AAAA\"]"),
        format!("{s3}encryption = \"off\"\npart_bytes = \"1MiB\""),
        format!("{s3}encryption = \"off\"\npart_bytes = \"9MiB\""),
        format!("{local}path = \"a\"\nencryption = \"off\"\npart_bytes = \"256KiB\"\nparts_per_segment = 10"),
        format!("{local}path = \"a\"\nencryption = \"off\"\nupload_rate = \"1KiB\""),
        format!("{s3}encryption = \"off\"\naccess_key = {{ env = \"A\" }}"),
        format!("{s3}encryption = \"off\"\nendpoint = \"s3.example.org\""),
        format!("{s3}encryption = \"off\"\nprefix = \"a/../b\""),
        format!("{s3}encryption = \"maybe\""),
        "[store.a]\ntype = \"s3\"\nbucket = \"Not_A_Bucket\"\nencryption = \"off\"".to_owned(),
        format!("{local}encryption = \"off\"\nregion = \"x\""),
        format!("{local}path = \"~/backups\"\nencryption = \"off\""),
        format!("{local}path = \"\"\nencryption = \"off\"\npart_bytes = 99999999999999999999"),
        "[store.A]\ntype = \"local\"".to_owned(),
        "[bucket.a]\ntype = \"local\"".to_owned(),
        "run_in = { user = \"a\", container = \"b\" }".to_owned(),
        "run_in = { client = \"podman\" }".to_owned(),
        "run_in = { pod = { cluster = \"a\", namespace = \"b\" } }".to_owned(),
        "run_in = { user = \"a\", pod = { cluster = \"a\", namespace = \"\", name = \"c\", selector = \"d\" } }".to_owned(),
        "run_in = { container = \"--privileged\" }".to_owned(),
        "run_in = { container = \"a\", client = \"kubectl\" }".to_owned(),
        "run_in = { container = \"a\", client = [\"podman\"] }".to_owned(),
        "run_in = { container = \"a\", client = 7 }".to_owned(),
        "env = { A = \"x\" }\nsecrets = { A = { env = \"B\" } }".to_owned(),
        "env = { A = \"a\\u0000b\" }".to_owned(),
        "verify = { depth = \"restore\", target = \"nowhere\" }".to_owned(),
        "verify = { depth = \"restore\", on_source = \"yes\" }".to_owned(),
        "objective = \"0s\"".to_owned(),
        "objective = \"a while\"".to_owned(),
        "settings = { ratio = nan }".to_owned(),
        format!("{grant}args = [\"{{database}}\"]"),
        format!("{grant}args = [\"{{data\", 3]"),
        format!("{grant}slots = {{ x = \"(\" }}\nargs = [\"{{x}}\"]"),
        format!("{grant}slots = {{ x = {{}} }}\nargs = [\"{{x}}\"]"),
        format!("{grant}env = {{ LD_PRELOAD = \"/tmp/x.so\" }}"),
        format!("{grant}stdin = {{ text = \"a\", artifact = \"b\" }}"),
        format!("{grant}stdin = \"anything\""),
        format!("{grant}scratch = 1"),
        format!("{grant}sha256 = \"abc\""),
        "[plugin.a]\nsource = \"a.wasm\"\n[plugin.a.grant.exec.run]\nprogram = \"run\"\nverbs = []\neffect = \"reads\"".to_owned(),
        "[plugin.a]\nsource = \"a.wasm\"\n[plugin.a.grant.bucket.nowhere]\nmay = [\"write\"]\nverbs = [\"backup\"]\neffect = \"reads\"".to_owned(),
        "[plugin.a]\nsource = \"a.wasm\"\n[plugin.a.grant.exec.run]\n".to_owned(),
    ] {
        found.push(check_one(&text));
    }
    let found = found.join("\n");
    insta::assert_snapshot!(found);
}

#[test]
fn a_store_that_one_lost_key_would_close_for_ever_is_a_warning() {
    let text = format!(
        "[store.a]\ntype = \"local\"\npath = \"a\"\nrecipients = [\"{}\"]\n\n[plugin.p]\nsource = \"p.wasm\"\n[plugin.p.grant.artifacts]\n",
        KEYS[0]
    );
    let config = parse(&text).unwrap();
    insta::assert_snapshot!(config.warnings.draw_warnings(Drawing::Plain, 100), @r#"
      ! store.a has one recipient only
       ,-[strongroom.toml:4:14]
     3 | path = "a"
     4 | recipients = ["age13cgr9jv94r4840qycftjuqremdefuhqeasgkr5jc53xe0svwmyss2ny0pk"]
       :              ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^|^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
       :                                               `-- whoever loses this key loses every backup
     5 |
       `----
      help: add the public key of a second identity that is kept offline

      ! plugin.p has grants and no sha256
       ,-[strongroom.toml:6:9]
     5 |
     6 | [plugin.p]
       :         |
       :         `-- it will not run
     7 | source = "p.wasm"
       `----
      help: run `strongroom plugin approve p`
    "#);
}

#[test]
fn what_is_kept_and_in_which_zone_is_read_and_nothing_kept_is_a_mistake() {
    let job = |more: &str| parse(&format!("{FRAME}{more}")).map(|config| config.jobs[&label("orders")].clone());
    let kept = job("keep = { daily = 7, yearly = 2 }\ntimezone = \"Europe/Berlin\"").unwrap();
    assert_eq!(kept.keep, Some(Keep { daily: 7, yearly: 2, ..Keep::default() }));
    assert_eq!(kept.timezone.iana_name(), Some("Europe/Berlin"));
    let silent = job("").unwrap();
    assert_eq!((silent.keep, silent.timezone.iana_name()), (None, Some("UTC")));
    let found: Vec<_> = [
        "keep = {}",
        "keep = { daily = 0, weekly = 0 }",
        "keep = { daily = -1 }",
        "keep = { dayly = 7 }",
        "timezone = \"Europe/Bielefeld\"",
        "timezone = \"../../etc/passwd\"",
    ]
    .map(check_one)
    .into();
    insta::assert_snapshot!(found.join("\n"));
}

#[test]
fn an_unknown_job_names_the_nearest_one() {
    let config = parse(FRAME).unwrap();
    let near = config.job("order").unwrap_err();
    assert_eq!((near.kind(), near.hint_text()), (Kind::Invalid, Some("did you mean \"orders\"?")));
    let far = config.store("zzz").unwrap_err();
    assert_eq!(far.hint_text(), Some("add [store.zzz] to \"strongroom.toml\""));
    assert_eq!(far.facts()[0].1, "a store of \"strongroom.toml\": disk");
    assert!(config.target("x").unwrap_err().facts()[0].1.ends_with(": none"));
    assert!(config.plugin("pg").is_ok());
}

#[test]
fn a_file_is_read_relative_to_itself() {
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().join("strongroom.toml");
    std::fs::write(&path, FRAME).unwrap();
    std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let config = Config::load(&path, &ceiling::Ceilings::none()).unwrap();
    let base = scratch.path().canonicalize().unwrap();
    assert_eq!(config.plugins[&label("pg")].source, base.join("pg.wasm"));
    assert_eq!(config.path, path);
}

#[test]
fn the_schema_accepts_what_is_right_and_refuses_what_is_wrong() {
    let validator = jsonschema::validator_for(&schema::schema()).unwrap();
    let json = |text: &str| -> serde_json::Value {
        let table: toml::Table = text.parse().unwrap();
        // Dates have no JSON of their own; the schema leaves settings to the plugin anyway.
        serde_json::to_value(table).unwrap()
    };
    for right in [WHOLE, FRAME, ""] {
        let errors: Vec<_> = validator.iter_errors(&json(right)).map(|error| error.to_string()).collect();
        assert!(errors.is_empty(), "{errors:?}");
    }
    for wrong in [
        "unknown = 1",
        "[store.a]\npath = \"x\"",
        "[store.a]\ntype = \"gcs\"",
        "[store.A]\ntype = \"local\"",
        "[store.a]\ntype = \"local\"\nlevel = 20",
        "[store.a]\ntype = \"s3\"\nsecret_key = \"text\"",
        "[job.a]\nplugin = \"p\"\nstore = \"s\"\nschedule = \"daily\"",
        "[job.a]\nplugin = \"p\"\nstore = \"s\"\nobjective = 26",
    ] {
        assert!(!validator.is_valid(&json(wrong)), "{wrong}");
    }
}

#[test]
fn addresses_of_stores_are_understood_or_refused() {
    let s3 = |text: &str| match StoreConfig::from_url(text, None).unwrap().place {
        StorePlace::S3(s3) => (s3.bucket, s3.prefix, s3.region, s3.endpoint, s3.path_style),
        StorePlace::Local { path } => panic!("{text} is the directory {path:?}"),
    };
    let text = String::from;
    assert_eq!(s3("s3://backups"), (text("backups"), text(""), text("us-east-1"), None, false));
    assert_eq!(
        s3("s3://backups/a/b?endpoint=http://127.0.0.1:9000&region=eu-west-1"),
        (text("backups"), text("a/b"), text("eu-west-1"), Some(text("http://127.0.0.1:9000")), true)
    );
    assert!(!s3("s3://backups?endpoint=https://h&path_style=false").4);
    let local = StoreConfig::from_url("backups/main", Some(Path::new("id.txt"))).unwrap();
    assert_eq!(local.place, StorePlace::Local { path: "backups/main".into() });
    assert_eq!(local.identity, Some(SecretRef::File("id.txt".into())));
    for wrong in [
        "",
        "s3://",
        "s3://B",
        "s3://key:secret@backups",
        "s3://backups/a/../b",
        "s3://backups?endpoint=host",
        "s3://backups?endpoint=http://a:b@host",
        "s3://backups?secret_key=x",
        "s3://backups?path_style=1",
        "gs://backups",
        "file:///backups",
    ] {
        assert_eq!(StoreConfig::from_url(wrong, None).unwrap_err().kind(), Kind::Invalid, "{wrong}");
    }
}

proptest::proptest! {
    #![proptest_config(proptest::test_runner::Config { cases: 200, failure_persistence: None, ..Default::default() })]

    /// Whatever stands in the file, it is read or refused with places that can be drawn.
    #[test]
    fn no_file_makes_the_reader_stumble(at in 0..WHOLE.len(), length in 0_usize..40, put in "[\\[\\]{}=\"',\\n#0-9a-zä\u{1F389}. ]{0,8}") {
        let (from, to) = (at, (at + length).min(WHOLE.len()));
        let mut text = WHOLE.to_owned();
        if text.is_char_boundary(from) && text.is_char_boundary(to) {
            text.replace_range(from..to, &put);
        }
        if parse(&text).is_err() {
            let mistakes = check_refused(&text);
            assert!(!mistakes.is_empty());
            assert!(mistakes.placed().iter().all(|placed| placed.line >= 1 && placed.column >= 1));
            assert!(mistakes.draw(Drawing::Plain, 100).lines().count() > mistakes.len());
        }
    }
}

#[test]
fn parts_that_the_streaming_core_would_refuse_are_refused_by_the_configuration() {
    let check = |place: &str, line: &str| parse(&format!("[store.a]\n{place}\nencryption = \"off\"\n{line}\n"));
    let (s3, local) = ("type = \"s3\"\nbucket = \"backups\"", "type = \"local\"\npath = \"/backups\"");
    for (place, line) in [
        (s3, r#"part_bytes = "12MiB""#),
        (s3, r#"part_bytes = "6MiB""#),
        (local, r#"part_bytes = "3MiB""#),
        (local, r#"part_bytes = "128KiB""#),
        (local, "parts_per_segment = 1"),
    ] {
        assert!(check(place, line).is_err(), "{line}");
    }
    for (place, line) in [(s3, r#"part_bytes = "16MiB""#), (local, r#"part_bytes = "256KiB""#), (s3, "")] {
        let checked = check(place, line);
        assert!(checked.is_ok(), "{line}: {checked:?}");
    }
}

#[test]
fn a_secret_as_text_is_refused_wherever_a_plugin_or_a_command_would_get_it() {
    let grant = "[plugin.pg.grant.exec.dump]\nprogram = \"/bin/true\"\nverbs = [\"backup\"]\neffect = \"reads\"\n";
    for (text, key) in [
        (format!("{grant}env = {{ PGPASSWORD = \"hunter2!\" }}\n"), "env.PGPASSWORD"),
        ("[job.orders]\nsettings = { api_token = \"hunter2!\" }\n".to_owned(), "settings.api_token"),
        ("[target.there]\noptions = { \"admin-password\" = \"hunter2!\" }\n".to_owned(), "options.admin-password"),
        ("[job.orders]\nenv = { PGPASSWORD = \"hunter2!\" }\n".to_owned(), "env.PGPASSWORD"),
    ] {
        let shown = drawn(&text);
        assert!(shown.contains(&format!("{key} looks like a secret as text")), "{shown}");
        assert!(shown.contains("secrets = "), "{shown}");
        assert!(!shown.contains("hunter2"), "{shown}");
    }
    // A name, a path or a switch is none.
    let named = parse("[target.there]\noptions = { password_file = \"/x\", token = true, secret_name = \"x\" }\n");
    assert!(named.is_ok(), "{named:?}");
}

#[test]
fn a_job_sets_no_variable_of_strongrooms_own() {
    for key in ["env = { STRONGROOM_EXEC = \"x\" }", "secrets = { strongroom_exec = { env = \"X\" } }"] {
        let shown = drawn(&format!("[target.there]\n{key}\n"));
        assert!(shown.contains("may not set"), "{shown}");
    }
}
