//! Plugins, compiled once for all sandboxes: each would spend a second on it.

use crate::Sandbox;
use crate::relay::private;
use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// Where a sandbox keeps what it has compiled, and the key that says that it was compiled there.
const COMPILED: &str = "home/.cache/strongroom/compiled";
const KEY: &str = "home/.local/state/strongroom/compiled.key";

/// What one sandbox has compiled, for others: one of these for each plugin.
#[derive(Debug)]
pub struct Warm {
    name: &'static str,
    files: OnceLock<Files>,
}

/// Files of a sandbox by their paths in it.
type Files = Vec<(String, Vec<u8>)>;

impl Warm {
    /// Nothing yet, of this plugin.
    pub const fn new(name: &'static str) -> Self {
        Self { name, files: OnceLock::new() }
    }

    /// Gives `sandbox` what the one has compiled that `compile` returns; it is asked for only once, by one of the
    /// processes that `cargo xtask test` runs.
    pub fn give(&self, sandbox: &Sandbox, compile: impl FnOnce() -> Sandbox) {
        let files = self.files.get_or_init(|| match std::env::var_os(xtask::stage::WARM) {
            Some(folder) => shared(&PathBuf::from(folder).join(self.name), compile),
            None => compiled_in(&compile().path("")),
        });
        for (name, content) in files {
            private(&sandbox.write(name, content));
        }
        // As the host makes them.
        for folder in [COMPILED, "home/.cache/strongroom", "home/.local/state/strongroom"] {
            let own = fs::Permissions::from_mode(0o700);
            fs::set_permissions(sandbox.path(folder), own).expect("a folder of the sandbox");
        }
    }
}

/// What lies in `folder`, or is compiled now and laid there: one process compiles while others wait.
fn shared(folder: &Path, compile: impl FnOnce() -> Sandbox) -> Files {
    let whole = folder.join("whole");
    fs::create_dir_all(folder).expect("a folder of the test run");
    let lock = File::create(folder.join("lock")).expect("a lock in a folder of the test run");
    // Held until it is closed.
    lock.lock().expect("the lock of a plugin that is compiled");
    if !whole.is_dir() {
        let part = folder.join("part");
        for (name, content) in compiled_in(&compile().path("")) {
            let path = part.join(name);
            fs::create_dir_all(path.parent().expect("a folder")).expect("a folder of the test run");
            fs::write(path, content).expect("a file of the test run");
        }
        fs::rename(part, &whole).expect("a name for what was compiled");
    }
    compiled_in(&whole)
}

/// What was compiled in a sandbox or laid down like one.
fn compiled_in(root: &Path) -> Files {
    let read = |name: String| {
        let content = fs::read(root.join(&name)).unwrap_or_else(|error| panic!("{name}: {error}"));
        (name, content)
    };
    let compiled = fs::read_dir(root.join(COMPILED)).expect("a plugin was compiled");
    let names = compiled.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned());
    let is_whole = |name: &String| !name.starts_with('.');
    let mut files: Files = names.filter(is_whole).map(|name| read(format!("{COMPILED}/{name}"))).collect();
    assert!(!files.is_empty(), "nothing was compiled in {}", root.display());
    files.push(read(KEY.to_owned()));
    files
}
