//! Where a program is on this machine, for what proposes a grant. Never used to run one: a grant names
//! the whole path.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// Directories of programs on every machine, as a `PATH`.
pub const STANDARD_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Directories that hold programs by version, the newest of which is meant; before `PATH`, where
/// Debian's `psql` and its like are wrappers in Perl.
const VERSIONED: &[(&str, &str)] = &[("/usr/lib/postgresql", "bin"), ("/opt/postgresql", "bin")];

/// Where a program is: an absolute path is itself; else the newest version, else on `path`.
pub fn find_program(program: &str, path: &str) -> Option<String> {
    if program.starts_with('/') {
        return is_program(Path::new(program)).then(|| program.to_owned());
    }
    let versioned = VERSIONED
        .iter()
        .flat_map(|(root, below)| newest_first(Path::new(root)).into_iter().map(move |d| d.join(below)));
    let on_path = path.split(':').filter(|dir| dir.starts_with('/')).map(PathBuf::from);
    let found = versioned.chain(on_path).map(|dir| dir.join(program)).find(|path| is_program(path))?;
    found.to_str().map(str::to_owned)
}

fn newest_first(root: &Path) -> Vec<PathBuf> {
    let mut found: Vec<(u64, PathBuf)> = std::fs::read_dir(root)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| Some((entry.file_name().to_str()?.parse().ok()?, entry.path())))
        .collect();
    found.sort_by(|a, b| b.cmp(a));
    found.into_iter().map(|(_, path)| path).collect()
}

fn is_program(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|about| about.is_file() && about.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_is_found_on_the_path_or_is_itself() {
        assert_eq!(find_program("sh", "/nonexistent:/bin").as_deref(), Some("/bin/sh"));
        assert_eq!(find_program("/bin/sh", "").as_deref(), Some("/bin/sh"));
        assert_eq!(find_program("sh", "relative:"), None);
        assert_eq!(find_program("/etc/passwd", ""), None);
        assert_eq!(find_program("strongroom-no-such-program", "/bin"), None);
    }
}
