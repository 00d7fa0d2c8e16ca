//! `cargo xtask fixture`: a small backup made by this version, kept in `tests/fixtures/backups` and restored by
//! every later version.
//!
//! It never touches a fixture that is there: what a version once wrote stays as it was. The keys in a fixture are
//! made for it, are public from then on, and seal nothing but what is in it.

use crate::command::{self, Run};
use crate::stage;
use crate::workspace::Workspace;
use anyhow::{Context, Result, bail};
use std::fmt::Write as _;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

/// Where fixtures are, one folder for each version that made one.
const FIXTURES: &str = "tests/fixtures/backups";

/// The smallest parts that there are: a segment is full after 2.75 MiB.
const SMALL_SEGMENTS: &str = "part_bytes = \"256KiB\"\nparts_per_segment = 11";

/// A job of the fixture whose artifact is a file.
struct Produced {
    job: &'static str,
    store: &'static str,
    /// The file in the scratch folder that its command writes out.
    source: &'static str,
    /// Lines of its settings.
    settings: &'static str,
    /// Exit code of its backup.
    code: i32,
}

const PRODUCED: &[Produced] = &[
    Produced { job: "orders", store: "sealed", source: "text", settings: "", code: 0 },
    Produced { job: "several", store: "sealed", source: "several", settings: "", code: 0 },
    Produced { job: "nothing", store: "sealed", source: "empty", settings: "", code: 0 },
    Produced { job: "partial", store: "sealed", source: "text", settings: "skip = \"table secrets\"", code: 3 },
    Produced { job: "twice", store: "plain", source: "text", settings: "artifacts = [\"one\", \"two\"]", code: 0 },
    Produced { job: "hollow", store: "plain", source: "empty", settings: "", code: 0 },
];

/// Jobs whose artifact is the archive of a tree.
const TREES: &[(&str, &str)] = &[("files", "sealed"), ("open-files", "plain")];

/// Makes the fixture of the version that is checked out. Fails when there is one.
pub fn run(workspace: &Workspace, arguments: &[String]) -> Result<bool> {
    if !arguments.is_empty() {
        bail!("fixture takes no arguments: it makes the one of this version");
    }
    stage::host(workspace)?;
    stage::plugins(workspace)?;
    let said = command::run(workspace.host()).arg("--version").read()?;
    let version = said.split_whitespace().last().context("the host says no version")?;
    let place = workspace.root.join(FIXTURES).join(version);
    if place.exists() {
        bail!("{} is there, and what a version once wrote is never changed: raise the version first", place.display());
    }
    let scratch = std::env::temp_dir().join(format!("strongroom-fixture-{}", std::process::id()));
    let made = make(workspace, &scratch, version);
    let kept = made.and_then(|()| keep(&scratch, &place));
    fs::remove_dir_all(&scratch).with_context(|| format!("could not remove {}", scratch.display()))?;
    kept?;
    println!("made {}", place.display());
    Ok(true)
}

/// The host in the scratch folder, with nothing of this machine's user.
fn host(workspace: &Workspace, scratch: &Path) -> Run {
    command::run(workspace.host())
        .dir(scratch)
        .env("STRONGROOM_STATE_DIR", scratch.join("state"))
        .env("STRONGROOM_CACHE_DIR", scratch.join("cache"))
        .env("NO_COLOR", "1")
        .args(["--config", "strongroom.toml"])
}

fn make(workspace: &Workspace, scratch: &Path, version: &str) -> Result<()> {
    for folder in ["sealed", "plain", "kept"] {
        fs::create_dir_all(scratch.join(folder))?;
    }
    for name in ["identity.txt", "second-identity.txt"] {
        command::run("age-keygen").dir(scratch).args(["-o", name]).read()?;
        fs::copy(scratch.join(name), scratch.join("kept").join(name))?;
    }
    sources(scratch)?;
    tree(&scratch.join("tree"))?;
    fs::write(scratch.join("strongroom.toml"), configuration(workspace, scratch)?)?;
    fs::set_permissions(scratch.join("strongroom.toml"), PermissionsExt::from_mode(0o600))?;

    let mut artifacts = String::new();
    let jobs = PRODUCED.iter().map(|made| (made.job, made.code)).chain(TREES.iter().map(|(job, _)| (*job, 0)));
    for (job, code) in jobs {
        let output = host(workspace, scratch).args(["backup", job]).capture()?;
        if output.code != Some(code) {
            bail!(
                "the backup of \"{job}\" ended with {}\n{}{}",
                command::exit(output.code),
                output.stdout,
                output.stderr
            );
        }
    }
    for made in PRODUCED {
        let names = if made.settings.starts_with("artifacts") { &["one", "two"][..] } else { &["out"] };
        let bytes = fs::metadata(scratch.join(made.source))?.len();
        let sum = b3sum(&scratch.join(made.source))?;
        for name in names {
            writeln!(artifacts, "{}\t{}\t{name}\t{bytes}\t{sum}", made.store, made.job)?;
        }
    }
    for job in ["orders", "several", "files", "twice"] {
        host(workspace, scratch).args(["verify", job, "latest", "--depth", "contents"]).read()?;
    }
    let kept = scratch.join("kept");
    fs::write(kept.join("artifacts.tsv"), artifacts)?;
    fs::write(kept.join("tree.tsv"), listing(&scratch.join("tree"))?)?;
    fs::copy(scratch.join("state/host.key"), kept.join("host.key"))?;
    for store in ["sealed", "plain"] {
        keep_store(&scratch.join(store), &kept.join(store))?;
    }
    fs::write(kept.join("README.md"), readme(version))?;
    Ok(())
}

fn readme(version: &str) -> String {
    format!(
        "# Backups made by strongroom {version}\n\n\
        Made by `cargo xtask fixture`, read by `tests/tests/fixtures.rs` for ever, and never changed.\n\n\
        **The keys here are test keys.** `identity.txt`, `second-identity.txt` and `host.key` are known to everybody and\n\
        protect nothing but these files. Use them nowhere else.\n\n\
        | file | what it is |\n| --- | --- |\n\
        | `sealed/` | a store whose segments are sealed for both identities |\n\
        | `plain/` | a store without encryption |\n\
        | `artifacts.tsv` | store, job, artifact, bytes and BLAKE3 of each artifact that was a file, by `b3sum` before the backup |\n\
        | `tree.tsv` | the tree of the jobs `files` and `open-files`: kind, path, mode, bytes or target, BLAKE3 |\n\
        | `host.key` | the key that signed the records |\n\n\
        The job `partial` is incomplete, `several` has two segments, `nothing` and `hollow` are empty, and `orders`,\n\
        `several`, `files` and `twice` were verified. The stores' folders `plugins/` and `.tmp/` are left out: the format of\n\
        plugins is the contract's business, and a fixture is small.\n"
    )
}

/// The files that commands write out.
fn sources(scratch: &Path) -> Result<()> {
    let text: String = (1..=12_000).map(|i| format!("{i}\tcustomer {}\tactive\n", i % 977)).collect();
    fs::write(scratch.join("text"), &text)?;
    fs::write(scratch.join("empty"), "")?;
    // More than a segment holds, in as few bytes as that takes: two frames, the second of which is noise and text.
    let mut state = 1_u64;
    let mut several: Vec<u8> = std::iter::repeat_with(|| {
        // xorshift64*
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        state.wrapping_mul(0x2545_F491_4F6C_DD1D).to_le_bytes()
    })
    .flatten()
    .take((2 << 20) + (900 << 10))
    .collect();
    several.extend(text.as_bytes());
    fs::write(scratch.join("several"), several).context("could not write what is backed up")
}

/// A small tree with what a file system has: folders, links, rights, names that are not text, nothing in a file.
fn tree(root: &Path) -> Result<()> {
    fs::create_dir_all(root.join("folder/inner"))?;
    fs::create_dir(root.join("empty folder"))?;
    fs::write(root.join("a.txt"), "hello\n")?;
    fs::write(root.join("folder/run.sh"), "#!/bin/sh\nexit 0\n")?;
    fs::set_permissions(root.join("folder/run.sh"), PermissionsExt::from_mode(0o750))?;
    fs::write(root.join("folder/inner/empty"), "")?;
    fs::write(root.join("ümlaut 日本"), "name")?;
    fs::write(root.join(std::ffi::OsStr::from_bytes(b"\xff\xfe")), "no text")?;
    fs::write(root.join("large"), "x".repeat(200_000))?;
    symlink("a.txt", root.join("link"))?;
    symlink("../nowhere", root.join("folder/dangling"))?;
    symlink("folder", root.join("link to a folder"))?;
    Ok(())
}

/// Kind, path, mode, bytes or target, and BLAKE3 of everything in a tree, sorted; names escaped as Rust does.
fn listing(root: &Path) -> Result<String> {
    let mut lines = Vec::new();
    let mut folders = vec![root.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder)? {
            let path = entry?.path();
            let name = path.strip_prefix(root)?.as_os_str().as_bytes().escape_ascii().to_string();
            let metadata = fs::symlink_metadata(&path)?;
            let mode = metadata.permissions().mode() & 0o7777;
            lines.push(if metadata.is_dir() {
                folders.push(path);
                format!("dir\t{name}\t{mode:04o}\t\t\n")
            } else if metadata.is_symlink() {
                format!("link\t{name}\t\t{}\t\n", fs::read_link(&path)?.display())
            } else {
                format!("file\t{name}\t{mode:04o}\t{}\t{}\n", metadata.len(), b3sum(&path)?)
            });
        }
    }
    lines.sort();
    Ok(lines.concat())
}

fn b3sum(path: &Path) -> Result<String> {
    command::run("b3sum").arg("--no-names").arg(path).read()
}

fn configuration(workspace: &Workspace, scratch: &Path) -> Result<String> {
    let recipient = |name: &str| command::run("age-keygen").dir(scratch).args(["-y", name]).read();
    let recipients = [recipient("identity.txt")?, recipient("second-identity.txt")?];
    let sha256 = |path: &Path| -> Result<String> {
        let sum = command::run("sha256sum").arg(path).read()?;
        Ok(sum.split_whitespace().next().unwrap_or_default().to_owned())
    };
    let relay = workspace.plugins().join("guests/relay.wasm");
    let bucket = workspace.plugins().join("bucket.wasm");
    let (relay_sum, bucket_sum) = (sha256(&relay)?, sha256(&bucket)?);
    let mut text = format!(
        "[store.sealed]\ntype = \"local\"\npath = \"sealed\"\nrecipients = {recipients:?}\nidentity = {{ file = \"identity.txt\" }}\n{SMALL_SEGMENTS}\n\n\
        [store.plain]\ntype = \"local\"\npath = \"plain\"\nencryption = \"off\"\n\n\
        [bucket.tree]\ntype = \"local\"\npath = \"tree\"\n\n\
        [plugin.bucket]\nsource = {bucket:?}\nsha256 = {bucket_sum:?}\n\
        [plugin.bucket.grant.artifacts]\n\
        [plugin.bucket.grant.bucket.tree]\nmay = [\"list\", \"read\"]\nverbs = [\"backup\", \"verify\", \"diagnose\"]\neffect = \"reads\"\n\n"
    );
    for Produced { job, store, source, settings, .. } in PRODUCED {
        write!(
            text,
            "[plugin.{job}]\nsource = {relay:?}\nsha256 = {relay_sum:?}\n\
            [plugin.{job}.grant.artifacts]\n\
            [plugin.{job}.grant.exec.produce]\nprogram = \"/bin/cat\"\nargs = [{source:?}]\nverbs = [\"backup\"]\neffect = \"reads\"\n\
            [plugin.{job}.grant.exec.check]\nprogram = \"/bin/sh\"\nargs = [\"-c\", \"cat > /dev/null\"]\n\
            stdin = {{ artifact = \"[A-Za-z0-9._-]+\", made_by = \"produce\" }}\nverbs = [\"verify\"]\neffect = \"reads\"\n\n\
            [job.{job}]\nplugin = {job:?}\nstore = {store:?}\n[job.{job}.settings]\n{settings}\n\n",
            source = scratch.join(source),
        )?;
    }
    for (job, store) in TREES {
        write!(
            text,
            "[job.{job}]\nplugin = \"bucket\"\nstore = {store:?}\n[job.{job}.settings]\nbucket = \"tree\"\n\n"
        )?;
    }
    Ok(text)
}

/// Copies what is in a store for ever: no temporary files, no plugins.
fn keep_store(from: &Path, to: &Path) -> Result<()> {
    let mut folders: Vec<PathBuf> = vec![PathBuf::new()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(from.join(&folder))? {
            let entry = entry?;
            let inner = folder.join(entry.file_name());
            if entry.file_type()?.is_dir() {
                if inner != Path::new(".tmp") && inner != Path::new("plugins") {
                    folders.push(inner);
                }
            } else {
                let target = to.join(&inner);
                fs::create_dir_all(target.parent().context("an object has a folder")?)?;
                fs::write(&target, fs::read(entry.path())?)
                    .with_context(|| format!("could not write {}", target.display()))?;
            }
        }
    }
    Ok(())
}

/// Moves the finished fixture to its place: whole, or not there.
fn keep(scratch: &Path, place: &Path) -> Result<()> {
    let parent = place.parent().context("a fixture has a folder")?;
    fs::create_dir_all(parent)?;
    let aside = parent.join(format!(".unfinished-{}", std::process::id()));
    command::run("cp").arg("-r").arg(scratch.join("kept")).arg(&aside).read()?;
    command::run("chmod").args(["-R", "u+rwX,go+rX"]).arg(&aside).read()?;
    fs::rename(&aside, place).with_context(|| format!("could not move the fixture to {}", place.display()))
}
