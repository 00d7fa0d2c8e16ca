use super::*;
use crate::config::Config;
use crate::config::mistake::Drawing;
use std::os::unix::fs::PermissionsExt;

const CEILING: &str = r#"
[[exec]]
program = "/bin/(cat|true)"
args = ["--"]

[[bucket]]
path = "/srv/data"
may = ["read"]

[artifacts]

[scratch]
bytes = "1MiB"
verbs = ["backup"]
"#;

fn config(grants: &str) -> String {
    format!(
        "[bucket.photos]\ntype = \"local\"\npath = \"/srv/photos\"\n\n[bucket.data]\ntype = \"local\"\n\
         path = \"/srv/data/shop\"\n\n[plugin.shop]\nsource = \"shop.wasm\"\n{grants}"
    )
}

fn under(ceilings: &[&str], grants: &str) -> Result<Config> {
    let ceilings = ceilings
        .iter()
        .enumerate()
        .try_fold(Ceilings::none(), |all, (n, text)| all.with(&format!("ceiling{n}.toml"), text))
        .unwrap_or_else(|error| panic!("{error:?}"));
    Config::parse_under(&config(grants), Path::new("strongroom.toml"), Path::new("/"), &ceilings)
}

/// The mistakes of what is refused, drawn.
#[track_caller]
fn drawn(result: Result<Config>) -> String {
    let error = result.expect_err("refused");
    let source = std::error::Error::source(&error).and_then(|source| source.downcast_ref::<Mistakes>());
    source.unwrap_or_else(|| panic!("{error:?}")).draw(Drawing::Plain, 100)
}

const CAT: &str = "[plugin.shop.grant.exec.read]\nprogram = \"/bin/cat\"\nargs = [\"--\"]\nverbs = [\"backup\"]\neffect = \"reads\"\n";

#[test]
fn a_grant_over_the_ceiling_is_a_mistake_that_names_both_lines() {
    assert!(under(&[CEILING], CAT).is_ok());
    let text = drawn(under(&[CEILING], &CAT.replace("[\"--\"]", "[\"/etc/shadow\"]")));
    for words in [
        "plugin.shop.grant.exec.read is over the ceiling ceiling0.toml:2",
        "[strongroom.toml:13:8]",
        "\"/etc/shadow\" is none of the ceiling's",
        "[ceiling0.toml:2:1]",
        "this rule comes closest",
        "a ceiling can only be changed there",
    ] {
        assert!(text.contains(words), "no {words:?} in\n{text}");
    }
}

#[test]
fn every_kind_of_grant_is_held_against_every_ceiling() {
    let bucket = |label: &str, may: &str| {
        format!("[plugin.shop.grant.bucket.{label}]\nmay = [{may}]\nverbs = [\"backup\"]\neffect = \"reads\"\n")
    };
    let scratch =
        |bytes: &str, verb: &str| format!("[plugin.shop.grant.scratch]\nbytes = \"{bytes}\"\nverbs = [\"{verb}\"]\n");
    for (grants, words) in [
        (CAT.replace("/bin/cat", "/bin/sh"), "no rule for the program \"/bin/sh\""),
        (CAT.replace("\"reads\"", "\"reads\"\ninspect = true"), "lets none of its bytes into the plugin"),
        (bucket("photos", "\"read\""), "no rule for the directory \"/srv/photos\""),
        (bucket("data", "\"list\""), "does not allow \"list\""),
        ("[plugin.shop.grant.artifacts]\ninspect = [\"a\"]\n".to_owned(), "lets no bytes of artifacts into the plugin"),
        (scratch("2MiB", "backup"), "allows a scratch directory of at most 1.0 MiB"),
        (scratch("1MiB", "restore"), "does not allow it for restore"),
    ] {
        assert!(drawn(under(&[CEILING], &grants)).contains(words), "{grants}");
        assert!(under(&[], &grants).is_ok(), "without a ceiling: {grants}");
    }
    assert!(under(&[CEILING], &bucket("data", "\"read\"")).is_ok());
    assert!(under(&[CEILING], "[plugin.shop.grant.artifacts]\n").is_ok());
    assert!(under(&[CEILING], &scratch("1MiB", "backup")).is_ok());
    assert!(under(&["scratch = \"any\"\n"], &scratch("1GiB", "restore")).is_ok());
    assert!(drawn(under(&[""], &scratch("1MiB", "backup"))).contains("does not name \"scratch\" at all"));
    // One that allows everything does not make up for one that does not.
    let any = "exec = \"any\"\nbucket = \"any\"\nartifacts = \"any\"\n";
    assert!(under(&[any], &CAT.replace("/bin/cat", "/bin/sh")).is_ok());
    assert!(under(&[any, CEILING], &CAT.replace("/bin/cat", "/bin/sh")).is_err());
    assert!(drawn(under(&[""], CAT)).contains("does not name \"exec\" at all"));
}

#[test]
fn a_dangerous_variable_may_be_granted_only_where_every_ceiling_says_so() {
    let grant = format!("{CAT}env = {{ LD_LIBRARY_PATH = \"/opt/lib\" }}\n");
    let allows = CEILING.replace("args = [\"--\"]", "args = [\"--\"]\ndangerous_env = [\"LD_LIBRARY_PATH\"]");
    assert!(under(&[], &grant).is_err(), "no ceiling says so");
    assert!(under(&[CEILING], &grant).is_err());
    assert!(under(&[&allows], &grant).is_ok());
    assert!(under(&[&allows, "exec = \"any\""], &grant).is_err());
}

/// A store, and a job and a target with these lines.
fn with_job(job: &str, target: &str) -> String {
    format!(
        "{CAT}\n[store.main]\ntype = \"local\"\npath = \"/srv/store\"\nencryption = \"off\"\n\n\
         [target.lab]\n{target}\n\n[job.shop]\nplugin = \"shop\"\nstore = \"main\"\n{job}\n"
    )
}

#[test]
fn what_surrounds_commands_is_no_way_round_a_ceiling() {
    let named = CEILING.replace("args = [\"--\"]", "args = [\"--\"]\ndangerous_env = [\"LD_PRELOAD\"]");
    let other = format!("{CEILING}\n[[exec]]\nprogram = \"/bin/ls\"\ndangerous_env = [\"LD_PRELOAD\"]\n");
    let env = "env = { LD_PRELOAD = \"/tmp/mine.so\", PGHOST = \"db\" }";
    let in_a_verb = format!("restore = {{ {env} }}");
    for (job, target, whose) in [(env, "", ".shop"), ("", env, ".lab"), (&in_a_verb, "", ".shop.restore")] {
        let text = with_job(job, target);
        assert!(under(&[], &text).is_ok(), "without a ceiling it is the operator's");
        for ceiling in [CEILING, &other] {
            let drawn = drawn(under(&[ceiling], &text));
            for words in [
                ".shop is over the ceiling ceiling0.toml:2",
                "no rule of the ceiling names LD_PRELOAD in \"dangerous_env\" for the program \"/bin/cat\"",
                "[strongroom.toml:",
                "[ceiling0.toml:2:1]",
                "a ceiling can only be changed there",
            ] {
                let words = words.replace(".shop", whose);
                assert!(drawn.contains(&words), "no {words:?} in\n{drawn}");
            }
            assert_eq!(drawn.matches("is over the ceiling").count(), 1, "{drawn}");
        }
        assert!(under(&[&named], &text).is_ok());
        assert!(drawn(under(&[&named, "exec = \"any\"\nartifacts = \"any\"\n"], &text)).contains("ceiling1.toml"));
    }
    // A program that no rule names has no command, and so no use for a variable.
    assert!(drawn(under(&[&named], &with_job(env, "").replace(CAT, ""))).contains("no rule of the ceiling names"));
}

#[test]
fn the_client_of_a_container_is_a_program_like_any_other() {
    let docker =
        format!("{CEILING}\n[[exec]]\nprogram = \"/usr/bin/docker\"\nargs = [\"--host=unix://.*\", \"exec\"]\n");
    let client = |client: &str| format!("run_in = {{ container = \"db\"{client} }}");
    for (lines, words) in [
        (client(", client = [\"/tmp/anything\"]"), "no rule for the program \"/tmp/anything\""),
        (client(""), "no rule for the program \"/usr/local/bin/docker\", \"/usr/bin/docker\", \"/bin/docker\""),
        (client(", client = \"podman\""), "no rule for the program \"/usr/local/bin/podman\""),
        // A program that may run does not run with whatever the host puts behind it.
        (client(", client = [\"/bin/cat\"]"), "\"exec\" is none of the ceiling's"),
    ] {
        for text in [with_job(&lines, ""), with_job("", &lines)] {
            let drawn = drawn(under(&[CEILING], &text));
            assert!(drawn.contains(words) && drawn.contains(".run_in is over the ceiling ceiling0.toml"), "{drawn}");
            assert!(under(&[], &text).is_ok() && under(&["exec = \"any\""], &text).is_ok());
        }
    }
    for lines in [client(""), client(", client = [\"/usr/bin/docker\", \"--host=unix:///run/d\"]")] {
        assert!(under(&[&docker], &with_job(&lines, "")).is_ok(), "{lines}");
    }
    let wrong = client(", client = [\"/usr/bin/docker\", \"--config\", \"/tmp\"]");
    let drawn = drawn(under(&[&docker], &with_job(&wrong, "")));
    assert!(
        drawn.contains("\"--config\" is none of the ceiling's") && drawn.contains("[ceiling0.toml:16:1]"),
        "{drawn}"
    );
    let open = "[[exec]]\nprogram = \"/(bin|usr)/.*\"\n";
    let climbs = client(", client = [\"/usr/../tmp/mine\"]");
    assert!(under(&[open], &with_job(&climbs, "")).is_err());
}

#[test]
fn a_text_for_standard_input_is_part_of_what_a_ceiling_allows() {
    let grant = format!("{CAT}stdin = {{ text = \"SELECT 1;\\nSELECT 2;\\n\", hold = true }}\n");
    let allows =
        |patterns: &str| CEILING.replace("args = [\"--\"]", &format!("args = [\"--\"]\nstdin_text = [{patterns}]"));
    assert!(under(&[], &grant).is_ok() && under(&["exec = \"any\""], &grant).is_ok());
    for ceiling in [CEILING.to_owned(), allows("\"SELECT 1;\""), allows("'SELECT 1;.*'")] {
        let drawn = drawn(under(&[&ceiling], &grant));
        assert!(drawn.contains("does not give it the text \"SELECT 1;"), "{drawn}");
        assert!(drawn.contains("is over the ceiling ceiling0.toml:2"), "{drawn}");
    }
    for patterns in ["'(?s).*'", "'SELECT 1;\\n(SELECT [0-9];\\n)*'"] {
        assert!(under(&[&allows(patterns)], &grant).is_ok(), "{patterns}");
    }
}

#[test]
fn a_program_of_a_kubeconfig_runs_only_where_a_rule_for_clusters_says_so() {
    let cluster = "[cluster.prod]\ncontext = \"prod\"\nexec_credentials = true\n";
    let rule = |more: &str| format!("[[kube]]\nserver = \"https://k\"\nmay = [\"list\"]\nkinds = [\"*\"]\n{more}\n");
    assert!(under(&[], cluster).is_ok() && under(&["kube = \"any\""], cluster).is_ok());
    assert!(under(&[CEILING], &cluster.replace("true", "false")).is_ok());
    for (ceiling, at) in [(rule(""), "ceiling0.toml:1"), (String::new(), "ceiling0.toml")] {
        let drawn = drawn(under(&[&ceiling], cluster));
        assert!(drawn.contains(&format!("cluster.prod is over the ceiling {at}")), "{drawn}");
        assert!(
            drawn.contains("no rule has \"exec_credentials\"") && drawn.contains("[strongroom.toml:13:20]"),
            "{drawn}"
        );
    }
    assert!(under(&[&rule("exec_credentials = true")], cluster).is_ok());
    let ceilings = Ceilings::none().with("c.toml", &rule("exec_credentials = true")).unwrap().list();
    assert_eq!(ceilings[0].credentials_program(Some("https://k")), Ok(()));
    let over = ceilings[0].credentials_program(Some("https://other")).unwrap_err();
    assert!(over.reason.contains("https://other"), "{over:?}");
}

#[test]
fn trust_is_narrowed_by_a_ceiling_and_never_widened() {
    let [one, two] = [(); 2].map(|()| crate::plugin::signature::generate(None).unwrap().public_line);
    let digest = "AB".repeat(32);
    let text = format!("trusted_keys = [\"{one}\", \"{two}\"]\n[plugin.shop]\nsource = \"shop.wasm\"\n");
    let ceiling = format!("signatures = \"required\"\ntrusted_keys = [\"{two}\"]\nrevoked = [\"{digest}\"]\n");
    let parse =
        |ceilings: &Ceilings| Config::parse_under(&text, Path::new("s.toml"), Path::new("/"), ceilings).unwrap();
    let trust = |config: &Config| config.trust(&config.plugins[&"shop".parse().unwrap()]);
    let free = trust(&parse(&Ceilings::none()));
    assert_eq!((free.keys.len(), free.required, free.revoked.len()), (2, false, 0));
    let held = trust(&parse(&Ceilings::none().with("c", &ceiling).unwrap()));
    assert_eq!(held.keys.iter().map(TrustedKey::as_str).collect::<Vec<_>>(), [two.as_str()]);
    assert!(held.required && held.revoked.contains(&digest.to_lowercase()));
}

#[test]
fn a_ceiling_that_is_wrong_is_refused_with_every_mistake() {
    let wrong = "exex = \"any\"\nrevoked = [\"abc\"]\ntrusted_keys = [\"key\"]\n[[exec]]\nprogram = \"(\"\n[[bucket]]\npath = \"data\"\nmay = [\"eat\"]\n";
    let error = Ceilings::none().with("c.toml", wrong).unwrap_err();
    let text =
        std::error::Error::source(&error).and_then(|s| s.downcast_ref::<Mistakes>()).unwrap().draw(Drawing::Plain, 100);
    for words in [
        "unknown key \"exex\"",
        "not a digest",
        "not a public key",
        "not a pattern",
        "not an absolute path",
        "\"eat\" is not known",
    ] {
        assert!(text.contains(words), "no {words:?} in\n{text}");
    }
}

#[test]
fn a_ceiling_that_others_can_change_is_refused_wherever_they_could() {
    let dir = tempfile::tempdir().unwrap();
    let chmod = |path: &Path, mode: u32| std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    let (above, inner) = (dir.path().join("above"), dir.path().join("above/inner"));
    std::fs::create_dir_all(&inner).unwrap();
    let file = inner.join("ceiling.toml");
    std::fs::write(&file, "exec = \"any\"\n").unwrap();
    for (path, mode) in [(&above, 0o755), (&inner, 0o755), (&file, 0o644)] {
        chmod(path, mode);
    }
    let named = [file.clone()];
    assert!(Ceilings::load(&named).is_ok());
    for (path, mode, fine) in
        [(&file, 0o646, 0o644), (&file, 0o664, 0o644), (&inner, 0o757, 0o755), (&above, 0o775, 0o755)]
    {
        chmod(path, mode);
        let error = Ceilings::load(&named).unwrap_err();
        assert_eq!(error.kind(), Kind::Denied, "{}", path.display());
        assert!(error.hint_text().unwrap().starts_with("chmod go-w"), "{error:?}");
        chmod(path, fine);
    }
    // A link counts with the directory that it lies in.
    let open = dir.path().join("open");
    std::fs::create_dir(&open).unwrap();
    std::os::unix::fs::symlink(&file, open.join("link.toml")).unwrap();
    chmod(&open, 0o777);
    assert_eq!(Ceilings::load(&[open.join("link.toml")]).unwrap_err().kind(), Kind::Denied);
    chmod(&open, 0o755);
    assert!(Ceilings::load(&[open.join("link.toml")]).is_ok());
    let missing = Ceilings::load(&[dir.path().join("none.toml")]).unwrap_err();
    assert_eq!(missing.kind(), Kind::Invalid);
    assert_eq!(Ceilings::load(&[inner]).unwrap_err().kind(), Kind::Denied, "a directory is no ceiling");
}

#[test]
fn the_command_line_never_reads_a_configuration_without_its_ceilings() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/cli");
    let mut folders = vec![root.clone(), root.with_extension("rs")];
    let mut n_files = 0;
    while let Some(path) = folders.pop() {
        if path.is_dir() {
            folders.extend(std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
            continue;
        }
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(!text.contains("Config::parse("), "{} reads a configuration without ceilings", path.display());
        n_files += 1;
    }
    assert!(n_files > 10);
}
