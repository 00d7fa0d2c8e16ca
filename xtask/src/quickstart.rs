//! `cargo xtask quickstart`: a real backup from nothing, seen from outside.
//!
//! Needs a Rust toolchain and nothing else. Every step is checked: an exit code that is not the expected
//! one, a tree that differs or a damage that is not found is a failure with everything that was printed.

use crate::command::{self, Output};
use crate::stage;
use crate::workspace::Workspace;
use anyhow::{Context, Result, bail};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::Instant;

/// What is printed fits on the smallest screen that anybody still has.
const SCREEN: (usize, usize) = (24, 80);

/// What was printed so far.
#[derive(Default)]
struct Screen {
    lines: Vec<String>,
}

impl Screen {
    /// Prints a line.
    fn line(&mut self, line: impl Into<String>) {
        let line = line.into();
        println!("{line}");
        self.lines.push(line);
    }

    /// Prints what was done and how.
    fn say(&mut self, what: &str, how: &str) {
        self.line(format!("  {what:<10} {how}"));
    }

    /// Fails when it does not fit.
    fn check(&self) -> Result<()> {
        let (most_lines, most_columns) = SCREEN;
        let widest = self.lines.iter().map(|line| line.chars().count()).max().unwrap_or(0);
        let n_lines = self.lines.len();
        if n_lines > most_lines || widest >= most_columns {
            bail!("quickstart printed {n_lines} lines of up to {widest} columns, which is more than a screen");
        }
        Ok(())
    }
}

/// What lies under a path, as far as a restore must bring it back.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Found {
    File { bytes: Vec<u8>, mode: u32 },
    Link { target: PathBuf },
    Folder { mode: u32 },
}

/// Everything under a folder by its path in it.
type Tree = BTreeMap<PathBuf, Found>;

/// The folder of the demonstration and the host that works in it.
struct Demo {
    dir: PathBuf,
    host: PathBuf,
}

/// `cargo xtask quickstart`.
pub fn run(workspace: &Workspace, arguments: &[String]) -> Result<bool> {
    if let Some(argument) = arguments.first() {
        bail!("quickstart takes no arguments, and \"{argument}\" was given");
    }
    show(workspace).map(|_screen| true)
}

/// The same as a stage of `cargo xtask test`: what is printed fits on a screen, too.
pub fn check(workspace: &Workspace) -> Result<()> {
    show(workspace)?.check()
}

/// Makes the folder anew and shows a backup's whole life in it.
fn show(workspace: &Workspace) -> Result<Screen> {
    let mut screen = Screen::default();
    let begun = Instant::now();
    let dir = workspace.target.join("quickstart");
    let dir = dir.strip_prefix(&workspace.root).unwrap_or(&dir).display().to_string();
    screen.line(format!("Strongroom quickstart: everything happens in {dir}"));
    screen.line("  (a first build takes some ten minutes; later ones take seconds)");
    stage::wasm_target()?;
    stage::host(workspace)?;
    for name in workspace.plugin_names()? {
        stage::build_plugin(workspace, &format!("plugins/{name}"), &name)?;
    }
    screen.say("built", &format!("the host and its plugins in {:.0} s", begun.elapsed().as_secs_f64()));

    let demo = Demo::prepare(workspace)?;
    let original = demo.make_files()?;
    let n_files = original.values().filter(|found| matches!(found, Found::File { .. })).count();
    screen.say("made", &format!("documents/: {n_files} files, links, and names that are not UTF-8"));

    demo.configure(workspace)?;
    screen.say("sealed", "store/, for a new key in identity.txt; recovery.txt says how");
    screen.say("approved", "plugin bucket by digest, with two grants, in strongroom.toml");

    let id = demo.back_up()?;
    screen.say("backed up", &format!("{id}: compressed, encrypted, signed"));
    let list = demo.strongroom(&["list"], 0)?;
    expect(&list.stdout, &id, "list shows the backup")?;
    demo.strongroom(&["verify", "documents"], 0)?;
    screen.say("verified", "every frame and every entry, against the signed record");

    fs::write(demo.dir.join("documents/letters/07.txt"), "overwritten by mistake\n")?;
    fs::remove_dir_all(demo.dir.join("documents/pictures"))?;
    screen.say("damaged", "documents/letters/07.txt overwritten, documents/pictures/ removed");
    demo.strongroom(&["diagnose", "documents"], 0)?;
    screen.say("diagnosed", "plugin, store, last backup: nothing stands in the way");

    demo.strongroom(&["restore", "documents", &id, "--option", "bucket=restored"], 0)?;
    compare(&original, &read_tree(&demo.dir.join("restored"))?)?;
    screen.say("restored", "into restored/: the same files, modes, links and folders as before");

    let (segment, offset) = demo.flip_a_byte()?;
    screen.say("flipped", &format!("one bit at byte {offset} of {segment}"));
    let verify = demo.strongroom(&["verify", "documents", "--depth", "stored"], 5)?;
    let artifact = segment.split('.').next().unwrap_or_default();
    expect(&format!("{}{}", verify.stdout, verify.stderr), artifact, "verify names the damaged artifact")?;
    screen.say("caught", &format!("verify ends with exit code 5 and names \"{artifact}\""));

    screen.line("To go on, with this host's key and not one of yours:");
    screen.line(format!("  cd {dir}; export STRONGROOM_STATE_DIR=$PWD/state"));
    screen.line("  alias strongroom=$PWD/../debug/strongroom");
    for next in
        ["strongroom show documents", "strongroom plugin inspect ../plugins/bucket.wasm", "strongroom backup --help"]
    {
        screen.line(format!("  {next}"));
    }
    Ok(screen)
}

/// Fails unless `text` has `part` in it.
fn expect(text: &str, part: &str, what: &str) -> Result<()> {
    if !text.contains(part) {
        bail!("{what}: \"{part}\" is not in\n{text}");
    }
    Ok(())
}

impl Demo {
    /// An empty folder; what an earlier quickstart left in it goes.
    fn prepare(workspace: &Workspace) -> Result<Self> {
        let dir = workspace.target.join("quickstart");
        if dir.exists() {
            fs::remove_dir_all(&dir).with_context(|| format!("could not clear {}", dir.display()))?;
        }
        for folder in ["", "documents", "restored", "state", "store"] {
            let folder = dir.join(folder);
            fs::create_dir_all(&folder)?;
            fs::set_permissions(&folder, fs::Permissions::from_mode(0o755))?;
        }
        Ok(Self { dir, host: workspace.host() })
    }

    /// Runs the host in the demonstration's folder, with its own state beside it.
    fn strongroom(&self, arguments: &[&str], expected: i32) -> Result<Output> {
        let output = command::run(&self.host)
            .args(arguments)
            .dir(&self.dir)
            .env("STRONGROOM_STATE_DIR", self.dir.join("state"))
            .env("STRONGROOM_CACHE_DIR", self.dir.join("cache"))
            .env("NO_COLOR", "1")
            .capture()?;
        if output.code != Some(expected) {
            bail!(
                "`strongroom {}` ended with {}, expected {expected}\n{}{}",
                arguments.join(" "),
                command::exit(output.code),
                output.stdout,
                output.stderr
            );
        }
        Ok(output)
    }

    /// A small tree with what real trees have.
    fn make_files(&self) -> Result<Tree> {
        let root = self.dir.join("documents");
        for folder in ["letters", "pictures", "bin", "empty", "deep/er/and/deeper"] {
            fs::create_dir_all(root.join(folder))?;
        }
        for n in 0..40 {
            let text = format!("Letter {n}: {}\n", "the quick brown fox jumps over the lazy dog; ".repeat(20 + n));
            fs::write(root.join(format!("letters/{n:02}.txt")), text)?;
        }
        for n in 0..6 {
            fs::write(root.join(format!("pictures/{n}.raw")), noise(n + 1, 700_000))?;
        }
        fs::write(root.join("deep/er/and/deeper/note"), "")?;
        let script = root.join("bin/hello");
        fs::write(&script, "#!/bin/sh\necho hello\n")?;
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755))?;
        symlink("letters/00.txt", root.join("first"))?;
        symlink("nowhere", root.join("dangling"))?;
        // Some file systems (macOS) take only UTF-8.
        if cfg!(target_os = "linux") {
            fs::write(root.join(OsString::from_vec(b"caf\xe9.txt".to_vec())), "Latin-1 in its name\n")?;
        }
        read_tree(&root)
    }

    /// Writes `strongroom.toml`, lets the host make the identity, and approves the plugin without questions: its digest
    /// is named, as a person who has read `plugin inspect` would name it.
    fn configure(&self, workspace: &Workspace) -> Result<()> {
        let plugin = workspace.plugins().join("bucket.wasm");
        let text = format!(
            "[store.main]\ntype = \"local\"\npath = \"store\"\n\n\
             [bucket.documents]\ntype = \"local\"\npath = \"documents\"\n\n\
             [bucket.restored]\ntype = \"local\"\npath = \"restored\"\n\n\
             [plugin.bucket]\nsource = \"{}\"\n\n\
             [job.documents]\nplugin = \"bucket\"\nstore = \"main\"\n\
             settings = {{ bucket = \"documents\" }}\n",
            plugin.display()
        );
        let path = self.dir.join("strongroom.toml");
        fs::write(&path, text)?;
        // A configuration that others can write is refused, and a umask may let them.
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
        let sheet = self.strongroom(&["store", "init", "main", "--new-identity", "identity.txt"], 0)?;
        expect(&sheet.stdout, "age1", "the recovery sheet names who can read the backups")?;
        fs::write(self.dir.join("recovery.txt"), &sheet.stdout)?;
        let inspected = self.strongroom(&["plugin", "inspect", &plugin.to_string_lossy(), "--output", "json"], 0)?;
        let digest = inspected
            .stdout
            .split(|c: char| !c.is_ascii_hexdigit())
            .find(|word| word.len() == 64)
            .context("plugin inspect names no digest")?;
        self.strongroom(&["plugin", "approve", "bucket", "--digest", digest], 0).map(drop)
    }

    /// Backs up and returns the id.
    fn back_up(&self) -> Result<String> {
        let output = self.strongroom(&["backup", "documents", "--output", "json"], 0)?;
        let id = output
            .stdout
            .split('"')
            .find(|word| word.len() == 25 && word.as_bytes()[15..17] == *b"Z-")
            .context("the output of backup names no id")?;
        Ok(id.to_owned())
    }

    /// Changes one bit in the middle of the largest segment, and returns its file name and where.
    fn flip_a_byte(&self) -> Result<(String, usize)> {
        let found =
            command::run("find").arg(self.dir.join("store")).args(["-type", "f", "-path", "*/data/*"]).read()?;
        let largest = found
            .lines()
            .max_by_key(|path| fs::metadata(path).map_or(0, |metadata| metadata.len()))
            .context("there is no segment in the store")?;
        let mut bytes = fs::read(largest)?;
        let offset = bytes.len() / 2;
        bytes[offset] ^= 1;
        // Whatever is in a store is write-protected against accidents; this is one.
        fs::set_permissions(largest, fs::Permissions::from_mode(0o600))?;
        fs::write(largest, bytes)?;
        let name = Path::new(largest).file_name().context("a segment has a name")?.to_string_lossy().into_owned();
        Ok((name, offset))
    }
}

/// Bytes that do not shrink, the same in every run (xorshift64).
fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend(state.to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

/// Everything under `root`.
fn read_tree(root: &Path) -> Result<Tree> {
    let mut tree = Tree::new();
    let mut folders = vec![root.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).with_context(|| format!("could not list {}", folder.display()))? {
            let path = entry?.path();
            let metadata = fs::symlink_metadata(&path)?;
            let mode = metadata.permissions().mode() & 0o7777;
            let found = if metadata.is_symlink() {
                Found::Link { target: fs::read_link(&path)? }
            } else if metadata.is_dir() {
                folders.push(path.clone());
                Found::Folder { mode }
            } else {
                Found::File { bytes: fs::read(&path)?, mode }
            };
            tree.insert(path.strip_prefix(root)?.to_path_buf(), found);
        }
    }
    Ok(tree)
}

/// Fails with the first path that differs.
fn compare(expected: &Tree, got: &Tree) -> Result<()> {
    for path in expected.keys().chain(got.keys()) {
        match (expected.get(path), got.get(path)) {
            (Some(there), Some(back)) if there == back => {}
            (Some(_), Some(_)) => bail!("\"{}\" came back with another content or mode", path.display()),
            (Some(_), None) => bail!("\"{}\" did not come back", path.display()),
            (None, _) => bail!("\"{}\" came back and was never there", path.display()),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(text: &str, mode: u32) -> Found {
        Found::File { bytes: text.into(), mode }
    }

    fn tree(entries: &[(&str, Found)]) -> Tree {
        entries.iter().map(|(path, found)| (PathBuf::from(path), found.clone())).collect()
    }

    #[test]
    fn a_tree_that_differs_in_anything_is_not_the_same() {
        let one = tree(&[("a", file("x", 0o644)), ("b", Found::Folder { mode: 0o755 })]);
        compare(&one, &one).unwrap();
        for (other, message) in [
            (tree(&[("a", file("x", 0o644))]), "\"b\" did not come back"),
            (
                tree(&[("a", file("y", 0o644)), ("b", Found::Folder { mode: 0o755 })]),
                "\"a\" came back with another content or mode",
            ),
            (
                tree(&[("a", file("x", 0o600)), ("b", Found::Folder { mode: 0o755 })]),
                "\"a\" came back with another content or mode",
            ),
        ] {
            assert_eq!(compare(&one, &other).unwrap_err().to_string(), message);
        }
        let more = tree(&[
            ("a", file("x", 0o644)),
            ("b", Found::Folder { mode: 0o755 }),
            ("c", Found::Folder { mode: 0o755 }),
        ]);
        assert_eq!(compare(&one, &more).unwrap_err().to_string(), "\"c\" came back and was never there");
    }
}
