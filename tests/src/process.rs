//! Processes of this machine, by what a test gave them to be known by.

/// Command lines of the processes that have this variable in their environment, whatever its value.
///
/// A run gives the variables of its job to every command that it starts, so a name that no other test
/// uses finds what a run has left behind.
pub fn with_variable(name: &str) -> Vec<String> {
    let begin = format!("{name}=");
    let processes = std::fs::read_dir("/proc").expect("the list of processes").flatten().map(|entry| entry.path());
    let has = |path: &std::path::PathBuf| {
        let environ = std::fs::read(path.join("environ")).unwrap_or_default();
        environ.split(|byte| *byte == 0).any(|variable| variable.starts_with(begin.as_bytes()))
    };
    let line = |path: std::path::PathBuf| {
        String::from_utf8_lossy(&std::fs::read(path.join("cmdline")).unwrap_or_default()).replace('\0', " ")
    };
    processes.filter(has).map(line).collect()
}
