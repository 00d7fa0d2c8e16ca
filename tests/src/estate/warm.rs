//! The plugin `kubernetes`, compiled once for all sandboxes of a process: each would spend a second on it.

use super::Estate;
use crate::Sandbox;
use crate::relay::private;
use std::os::unix::fs::PermissionsExt;
use std::sync::OnceLock;

/// Where a sandbox keeps what it has compiled, and the key that says that it was compiled there.
const COMPILED: &str = "home/.cache/strongroom/compiled";
const KEY: &str = "home/.local/state/strongroom/compiled.key";

/// Files of a sandbox by their paths in it.
type Files = Vec<(String, Vec<u8>)>;

/// Gives a sandbox what another one has compiled.
pub(super) fn warm(sandbox: &Sandbox) {
    static FILES: OnceLock<Files> = OnceLock::new();
    for (name, content) in FILES.get_or_init(compile) {
        private(&sandbox.write(name, content));
    }
    let folder = std::fs::Permissions::from_mode(0o700);
    std::fs::set_permissions(sandbox.path(COMPILED), folder).expect("a folder of the sandbox");
}

/// A sandbox whose cluster answers nothing compiles the plugin to find that out.
fn compile() -> Files {
    let nowhere = "api = \"https://127.0.0.1:1\"\ntoken = { file = \"token\" }".to_owned();
    let estate = Estate::cold(&[("nowhere", nowhere)], "clusters = [\"nowhere\"]", "");
    private(&estate.sandbox.write("token", "none"));
    estate.run(&["diagnose", "clusters"]).check_code(5);
    let read = |name: String| {
        let content = std::fs::read(estate.sandbox.path(&name)).unwrap_or_else(|error| panic!("{name}: {error}"));
        (name, content)
    };
    let compiled = std::fs::read_dir(estate.sandbox.path(COMPILED)).expect("a plugin was compiled");
    let names = compiled.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned());
    let mut files: Files = names.map(|name| read(format!("{COMPILED}/{name}"))).collect();
    files.push(read(KEY.to_owned()));
    files
}
