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
