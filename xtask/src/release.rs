//! `cargo xtask release`: what is published of a version, in one folder: the host binary, every plugin,
//! a bill of materials of all that was compiled into them (CycloneDX), the SHA-256 of each file, and a
//! minisign signature over that list.
//!
//! It is made of a commit, not of what lies about, and every plugin is built a second time at another
//! path: one that is not the same there is not published.

use crate::command;
use crate::reproduce;
use crate::stage;
use crate::workspace::Workspace;
use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// The list of checksums, in the form that `sha256sum --check` reads.
const CHECKSUMS: &str = "SHA256SUMS";

/// What the command was told.
struct Options {
    key: PathBuf,
    out: PathBuf,
}

/// Builds everything and writes it to the folder, `target/release-VERSION` unless `--out` says another.
pub fn run(workspace: &Workspace, arguments: &[String]) -> Result<bool> {
    let version = env!("CARGO_PKG_VERSION");
    let options = parse(arguments, workspace.target.join(format!("release-{version}")))?;
    if !options.key.is_file() {
        bail!(
            "there is no secret key at {}: make one with `minisign -G`, and publish its public half",
            options.key.display()
        );
    }
    check_committed(workspace)?;
    command::run("cargo")
        .args(["build", "--release", "--locked", "--workspace", "--bin", "strongroom"])
        .dir(&workspace.root)
        .env("CARGO_TARGET_DIR", &workspace.target)
        .check()?;
    let host = without_lines(&workspace.target.join("release/strongroom"))?;
    check_no_fail_points(&std::fs::read(&host).with_context(|| format!("could not read {}", host.display()))?)?;
    stage::host(workspace)?;
    let mut files = vec![(host, format!("strongroom-{version}"))];
    for name in workspace.plugin_names()? {
        stage::build_plugin(workspace, &format!("plugins/{name}"), &name)?;
        let built = workspace.plugins().join(format!("{name}.wasm"));
        check_reproducible(workspace, &name, &built)?;
        files.push((built, format!("{name}-{version}.wasm")));
    }
    gather(&options.out, &files, &bill_of_materials(workspace)?, version)?;
    sign(&options.out, &options.key)?;
    println!("{}", options.out.display());
    for name in listed(&options.out)? {
        println!("  {name}");
    }
    Ok(true)
}

/// The host without the tables of its source lines, four fifths of the file, which only a debugger reads. Names of
/// functions stay, for what is said of a panic.
fn without_lines(built: &Path) -> Result<PathBuf> {
    let small = built.with_extension("small");
    command::run("objcopy").arg("--strip-debug").arg(built).arg(&small).check()?;
    // What does not start any more is no release.
    let said = command::run(&small).arg("--version").read()?;
    if said.trim() != format!("strongroom {}", env!("CARGO_PKG_VERSION")) {
        bail!("the host that was built says \"{}\" of its version", said.trim());
    }
    Ok(small)
}

/// Refuses sources that nobody else can have.
fn check_committed(workspace: &Workspace) -> Result<()> {
    let changed = command::run("git").args(["status", "--porcelain"]).dir(&workspace.root).read()?;
    if !changed.is_empty() {
        bail!("a release is made of a commit, and these files are not as they were committed:\n{changed}");
    }
    Ok(())
}

/// The variables that tell fail points what to do (`host/src/failpoint.rs`): a release must not know them.
const OF_FAIL_POINTS: [&str; 2] = ["STRONGROOM_FAIL", "STRONGROOM_BREAK"];

/// Refuses a host that somebody can stop, kill or break by its environment.
fn check_no_fail_points(binary: &[u8]) -> Result<()> {
    for name in OF_FAIL_POINTS {
        if binary.windows(name.len()).any(|bytes| bytes == name.as_bytes()) {
            bail!(
                "the host has fail points: \"{name}\" is in it. It was built with debug assertions, which a release is not: \
                 look for them in [profile.release] and RUSTFLAGS"
            );
        }
    }
    Ok(())
}

/// Builds a plugin once more, somewhere else, and compares.
fn check_reproducible(workspace: &Workspace, name: &str, built: &Path) -> Result<()> {
    let place = workspace.target.join(format!("release-again-{name}"));
    if place.exists() {
        std::fs::remove_dir_all(&place).with_context(|| format!("could not remove {}", place.display()))?;
    }
    reproduce::check(workspace, &format!("plugins/{name}"), built, &place)?;
    std::fs::remove_dir_all(&place).with_context(|| format!("could not remove {}", place.display()))
}

fn parse(arguments: &[String], out: PathBuf) -> Result<Options> {
    let mut options = Options { key: PathBuf::new(), out };
    let mut words = arguments.iter();
    while let Some(word) = words.next() {
        let mut value = || words.next().map(PathBuf::from).with_context(|| format!("{word} needs a path"));
        match word.as_str() {
            "--key" => options.key = value()?,
            "--out" => options.out = value()?,
            other => bail!("\"{other}\" is not an option of cargo xtask release"),
        }
    }
    if options.key.as_os_str().is_empty() {
        bail!("a release is signed: name the secret key with --key");
    }
    Ok(options)
}

/// Copies the files, writes the bill of materials, and lists the SHA-256 of everything. The folder is
/// made anew; one that is there is refused.
fn gather(out: &Path, files: &[(PathBuf, String)], bill: &Value, version: &str) -> Result<()> {
    if out.exists() {
        bail!("{} is there already: move it away, a release is never written over", out.display());
    }
    std::fs::create_dir_all(out).with_context(|| format!("could not make {}", out.display()))?;
    for (from, name) in files {
        std::fs::copy(from, out.join(name)).with_context(|| format!("could not copy {}", from.display()))?;
    }
    let text = format!("{}\n", serde_json::to_string_pretty(bill)?);
    std::fs::write(out.join(format!("strongroom-{version}.cdx.json")), text)?;
    let sums = command::run("sha256sum").arg("--").args(listed(out)?).dir(out).read()?;
    std::fs::write(out.join(CHECKSUMS), format!("{sums}\n"))?;
    Ok(())
}

/// Signs the list of checksums; minisign asks for the password of a key that has one.
fn sign(out: &Path, key: &Path) -> Result<()> {
    let key = std::path::absolute(key)?;
    command::run("minisign").args(["-S", "-m", CHECKSUMS, "-s"]).arg(key).dir(out).check_asking()
}

/// Names of the files in a folder, sorted.
fn listed(dir: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}

/// Every package that is compiled into the host or a plugin, by `Cargo.lock`: name, version, licence,
/// checksum, and what needs what.
fn bill_of_materials(workspace: &Workspace) -> Result<Value> {
    let metadata =
        command::run("cargo").args(["metadata", "--format-version", "1", "--locked"]).dir(&workspace.root).read()?;
    let metadata: Value = serde_json::from_str(&metadata).context("cargo metadata is no JSON")?;
    let lock = std::fs::read_to_string(workspace.root.join("Cargo.lock"))?;
    bill(&metadata, &checksums(&lock))
}

/// Checksums of `Cargo.lock`, by name and version.
fn checksums(lock: &str) -> BTreeMap<(String, String), String> {
    let mut found = BTreeMap::new();
    for package in lock.split("[[package]]") {
        let value = |key: &str| {
            let line = package.lines().find_map(|line| line.strip_prefix(&format!("{key} = \"")))?;
            line.strip_suffix('"').map(str::to_owned)
        };
        if let (Some(name), Some(version), Some(checksum)) = (value("name"), value("version"), value("checksum")) {
            found.insert((name, version), checksum);
        }
    }
    found
}

/// The bill of what the roots need to be built and to run; what only tests need is not in it.
fn bill(metadata: &Value, checksums: &BTreeMap<(String, String), String>) -> Result<Value> {
    let array = |value: &Value, what: &str| value.as_array().cloned().with_context(|| format!("no {what}"));
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let packages: BTreeMap<String, Value> =
        array(&metadata["packages"], "packages")?.into_iter().map(|package| (text(&package["id"]), package)).collect();
    let mut needs = BTreeMap::new();
    for node in array(&metadata["resolve"]["nodes"], "dependency graph")? {
        let mut of_node = BTreeSet::new();
        for needed in array(&node["deps"], "dependencies of a package")? {
            let kinds = array(&needed["dep_kinds"], "kinds of a dependency")?;
            if kinds.iter().any(|kind| kind["kind"] != "dev") {
                of_node.insert(text(&needed["pkg"]));
            }
        }
        needs.insert(text(&node["id"]), of_node);
    }
    let is_published = |package: &Value| {
        let path = text(&package["manifest_path"]);
        package["source"].is_null() && (path.ends_with("/host/Cargo.toml") || path.contains("/plugins/"))
    };
    let roots: Vec<String> =
        packages.iter().filter(|(_, package)| is_published(package)).map(|(id, _)| id.clone()).collect();
    let mut seen = BTreeSet::new();
    let mut open = roots;
    while let Some(id) = open.pop() {
        if seen.insert(id.clone()) {
            open.extend(needs.get(&id).into_iter().flatten().cloned());
        }
    }
    let url = |package: &Value| format!("pkg:cargo/{}@{}", text(&package["name"]), text(&package["version"]));
    let mut components = Vec::new();
    let mut dependencies = Vec::new();
    for id in &seen {
        let package = packages.get(id).with_context(|| format!("no package {id}"))?;
        let mut component = json!({
            "type": "library",
            "bom-ref": url(package),
            "name": package["name"],
            "version": package["version"],
            "purl": url(package),
        });
        if let Some(licence) = package["license"].as_str() {
            component["licenses"] = json!([{ "expression": licence.replace('/', " OR ") }]);
        }
        if let Some(checksum) = checksums.get(&(text(&package["name"]), text(&package["version"]))) {
            component["hashes"] = json!([{ "alg": "SHA-256", "content": checksum }]);
        }
        components.push(component);
        let on: Vec<String> = needs.get(id).into_iter().flatten().filter_map(|id| packages.get(id)).map(url).collect();
        dependencies.push(json!({ "ref": url(package), "dependsOn": on }));
    }
    let version = env!("CARGO_PKG_VERSION");
    Ok(json!({
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": { "component": { "type": "application", "name": "strongroom", "version": version } },
        "components": components,
        "dependencies": dependencies,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_release_is_what_its_signed_list_says_and_a_changed_file_is_found() -> Result<()> {
        let dir = std::env::temp_dir().join(format!("strongroom-release-{}", std::process::id()));
        std::fs::create_dir_all(&dir)?;
        std::fs::write(dir.join("binary"), "not really a program")?;
        let (key, public, out) = (dir.join("key"), dir.join("key.pub"), dir.join("out"));
        command::run("minisign").args(["-G", "-W", "-s"]).arg(&key).arg("-p").arg(&public).read()?;
        let files = [(dir.join("binary"), "strongroom-1.0.0".to_owned())];
        gather(&out, &files, &json!({ "components": [] }), "1.0.0")?;
        sign(&out, &key)?;
        assert_eq!(
            listed(&out)?,
            ["SHA256SUMS", "SHA256SUMS.minisig", "strongroom-1.0.0", "strongroom-1.0.0.cdx.json"]
        );
        let verify =
            || command::run("minisign").args(["-V", "-q", "-m", CHECKSUMS, "-p"]).arg(&public).dir(&out).read();
        let check = || command::run("sha256sum").args(["--check", "--strict", "--quiet", CHECKSUMS]).dir(&out).read();
        verify()?;
        check()?;
        std::fs::write(out.join("strongroom-1.0.0"), "another program")?;
        assert!(check().is_err());
        let sums = std::fs::read_to_string(out.join(CHECKSUMS))?;
        std::fs::write(out.join(CHECKSUMS), format!("{sums} "))?;
        assert!(verify().is_err());
        let again = gather(&out, &files, &json!({}), "1.0.0").map_err(|error| error.to_string());
        assert!(again.is_err_and(|error| error.contains("never written over")));
        std::fs::remove_dir_all(&dir)?;
        Ok(())
    }

    #[test]
    fn a_host_that_knows_a_variable_of_the_fail_points_is_no_release() -> Result<()> {
        check_no_fail_points(b"\x7fELF STRONGROOM_STATE_DIR STRONGROOM_FAI")?;
        for name in ["STRONGROOM_FAIL", "STRONGROOM_BREAK"] {
            for binary in [name.to_owned(), format!("\0\0{name}\0"), format!("of STRONGROOM_{name}")] {
                let refused = check_no_fail_points(binary.as_bytes()).map_err(|error| error.to_string());
                assert!(refused.is_err_and(|error| error.contains(name)), "{binary:?}");
            }
        }
        // What is in the binary of the tests, which has them.
        let source = std::fs::read_to_string(Workspace::find()?.root.join("host/src/failpoint/armed.rs"))?;
        assert!(OF_FAIL_POINTS.iter().all(|name| source.contains(&format!("\"{name}\""))));
        Ok(())
    }

    #[test]
    fn the_bill_holds_what_is_compiled_in_with_licence_and_checksum_and_nothing_of_the_tests() -> Result<()> {
        let bill = bill_of_materials(&Workspace::find()?)?;
        let find = |name: &str| {
            let components = bill["components"].as_array().into_iter().flatten();
            components.filter(|component| component["name"] == name).cloned().collect::<Vec<_>>()
        };
        for name in ["strongroom", "strongroom-postgres", "strongroom-plugin", "wasmtime", "tokio", "wit-bindgen"] {
            let found = find(name);
            assert!(!found.is_empty(), "{name} is missing");
            assert!(found[0]["licenses"][0]["expression"].is_string(), "{name} has no licence");
            let ours = name.starts_with("strongroom");
            assert_eq!(found[0]["hashes"][0]["content"].as_str().map(str::len), (!ours).then_some(64), "{name}");
        }
        for name in ["insta", "proptest", "xtask", "strongroom-tests", "strongroom-guest-chaos"] {
            assert!(find(name).is_empty(), "{name} is in the bill");
        }
        Ok(())
    }

    #[test]
    fn a_release_without_a_key_is_refused() {
        let refused = |words: &[&str]| {
            let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
            parse(&words, PathBuf::new()).map(drop).map_err(|error| error.to_string()).err().unwrap_or_default()
        };
        assert!(refused(&[]).contains("--key"));
        assert!(refused(&["--key"]).contains("needs a path"));
        assert!(refused(&["--sing"]).contains("--sing"));
    }
}
