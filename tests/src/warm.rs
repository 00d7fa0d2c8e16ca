//! Plugins, compiled once for all sandboxes of a process: each would spend a second on it.

use crate::Sandbox;
use crate::relay::private;
use std::os::unix::fs::PermissionsExt;
use std::sync::OnceLock;

/// Where a sandbox keeps what it has compiled, and the key that says that it was compiled there.
const COMPILED: &str = "home/.cache/strongroom/compiled";
const KEY: &str = "home/.local/state/strongroom/compiled.key";

/// What one sandbox has compiled, for others: one of these for each plugin.
#[derive(Debug, Default)]
pub struct Warm(OnceLock<Files>);

/// Files of a sandbox by their paths in it.
type Files = Vec<(String, Vec<u8>)>;

impl Warm {
    /// Nothing yet.
    pub const fn new() -> Self {
        Self(OnceLock::new())
    }

    /// Gives `sandbox` what the one has compiled that `compile` returns; it is asked for only once.
    pub fn give(&self, sandbox: &Sandbox, compile: impl FnOnce() -> Sandbox) {
        for (name, content) in self.0.get_or_init(|| compiled(&compile())) {
            private(&sandbox.write(name, content));
        }
        // As the host makes them.
        for folder in [COMPILED, "home/.cache/strongroom", "home/.local/state/strongroom"] {
            let own = std::fs::Permissions::from_mode(0o700);
            std::fs::set_permissions(sandbox.path(folder), own).expect("a folder of the sandbox");
        }
    }
}

fn compiled(sandbox: &Sandbox) -> Files {
    let read = |name: String| {
        let content = std::fs::read(sandbox.path(&name)).unwrap_or_else(|error| panic!("{name}: {error}"));
        (name, content)
    };
    let compiled = std::fs::read_dir(sandbox.path(COMPILED)).expect("a plugin was compiled");
    let names = compiled.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned());
    let mut files: Files = names.map(|name| read(format!("{COMPILED}/{name}"))).collect();
    files.push(read(KEY.to_owned()));
    files
}
