//! Fetches secrets where the configuration says, as late as possible.
//!
//! This module never prints a value, and no error of it holds one.

use super::SecretRef;
use super::environment::Lookup;
use crate::error::{Error, IoContext, Kind, Result};
use crate::secret::{MIN_SECRET_BYTES, Secret};
use std::collections::BTreeMap;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use zeroize::Zeroizing;

/// Longest secret in bytes: room for a file of identities, far below anything stored by mistake.
const MAX_BYTES: u64 = 64 << 10;

/// A secret, and what was noticed when it was fetched.
#[derive(Clone, Debug)]
pub struct Resolved {
    /// The secret.
    pub secret: Secret,
    /// Such as a file that others can read.
    pub warning: Option<String>,
}

/// Fetches one secret. `key` is the key of the configuration that refers to it, such as
/// `store.main.secret_key`: every error names it.
///
/// Of a file, one trailing newline is not part of the secret.
///
/// Errors: `Denied` (file not readable), `Invalid` (variable or file missing, since the configuration
/// names it; empty, not UTF-8, a NUL, longer than 64 KiB).
pub fn resolve(secret: &SecretRef, key: &str, environment: Lookup<'_>) -> Result<Resolved> {
    let (value, source, warning) = match secret {
        SecretRef::Env(name) => {
            let value = environment(name).ok_or_else(|| {
                Error::invalid(format!("the environment variable \"{name}\" of {key} is not set"))
                    .hint(format!("set {name} for strongroom, or change {key}"))
            })?;
            let value = value.into_string().map_err(|_| not_text(key, &format!("the variable \"{name}\"")))?;
            (Zeroizing::new(value), format!("the variable \"{name}\""), None)
        }
        SecretRef::File(path) => {
            let (value, warning) = read(path, key)?;
            (value, format!("the file \"{}\"", path.display()), warning)
        }
    };
    if value.is_empty() {
        return Err(Error::invalid(format!("the secret of {key} is empty")).fact("got", source));
    }
    if value.contains('\0') {
        return Err(Error::invalid(format!("the secret of {key} holds a NUL")).fact("got", source));
    }
    // Moved, not copied: what is left behind is an empty text.
    let mut value = value;
    Ok(Resolved { secret: Secret::new(std::mem::take(&mut *value)), warning })
}

fn read(path: &Path, key: &str) -> Result<(Zeroizing<String>, Option<String>)> {
    let attempt = || format!("read \"{}\", the secret of {key}", path.display());
    let hint = format!("create the file, readable by strongroom only, or change {key}");
    let file = std::fs::File::open(path).doing(attempt).map_err(|error| match error.kind() {
        Kind::NotFound => {
            Error::invalid(format!("the file \"{}\" of {key} is not there", path.display())).hint(hint).because(error)
        }
        _ => error.hint(hint),
    })?;
    let about = file.metadata().doing(attempt)?;
    // The buffer never grows, since growing would leave copies behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(usize::try_from(MAX_BYTES + 1).unwrap_or(usize::MAX)));
    file.take(MAX_BYTES + 1).read_to_end(&mut bytes).doing(attempt)?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(Error::invalid(format!("the secret of {key} is too long"))
            .fact("expected", format!("at most {}", crate::unit::bytes(MAX_BYTES)))
            .fact("got", format!("the file \"{}\"", path.display())));
    }
    let text = std::str::from_utf8(&bytes).map_err(|_| not_text(key, &format!("the file \"{}\"", path.display())))?;
    let text = text.strip_suffix('\n').map_or(text, |text| text.strip_suffix('\r').unwrap_or(text));
    let warning = (about.mode() & 0o004 != 0)
        .then(|| format!("everybody on this machine can read \"{}\", the secret of {key}", path.display()));
    Ok((Zeroizing::new(text.to_owned()), warning))
}

fn not_text(key: &str, source: &str) -> Error {
    Error::invalid(format!("the secret of {key} is not UTF-8")).fact("got", source)
}

/// Fetches the secrets of commands by the variable that they get them in. `path` is the table that
/// holds them, such as `job.orders.secrets`.
///
/// Errors: as [`resolve`]; `Invalid` for one shorter than 8 bytes, which could not be blotted out
/// of a program's messages without eating words.
pub fn resolve_all(
    secrets: &BTreeMap<String, SecretRef>,
    path: &str,
    environment: Lookup<'_>,
) -> Result<(BTreeMap<String, Secret>, Vec<String>)> {
    let mut resolved = BTreeMap::new();
    let mut warnings = Vec::new();
    for (name, secret) in secrets {
        let key = format!("{path}.{name}");
        let Resolved { secret, warning } = resolve(secret, &key, environment)?;
        if secret.expose().len() < MIN_SECRET_BYTES {
            return Err(Error::invalid(format!("the secret of {key} is too short"))
                .fact(
                    "expected",
                    format!("at least {MIN_SECRET_BYTES} bytes, so that it can be blotted out of messages"),
                )
                .hint("choose a longer secret; if it is none, such as a user name, it belongs in env"));
        }
        warnings.extend(warning);
        resolved.insert(name.clone(), secret);
    }
    Ok((resolved, warnings))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::OsString;
    use std::os::unix::ffi::OsStringExt;
    use std::os::unix::fs::PermissionsExt;

    fn environment(name: &str) -> Option<OsString> {
        match name {
            "GOOD" => Some("correct horse".into()),
            "SHORT" => Some("hunter2".into()),
            "BYTES" => Some(OsString::from_vec(vec![0xff; 9])),
            _ => None,
        }
    }

    fn env(name: &str) -> SecretRef {
        SecretRef::Env(name.to_owned())
    }

    fn check_refused(secret: &SecretRef, kind: Kind) {
        let error = resolve(secret, "job.a.secrets.P", &environment).unwrap_err();
        assert_eq!(error.kind(), kind, "{error:?}");
        assert!(error.message().contains("job.a.secrets.P"), "{error:?} does not name the key");
    }

    #[test]
    fn a_variable_is_read_and_a_missing_one_names_the_key() {
        assert_eq!(resolve(&env("GOOD"), "k", &environment).unwrap().secret.expose(), "correct horse");
        check_refused(&env("MISSING"), Kind::Invalid);
        check_refused(&env("BYTES"), Kind::Invalid);
    }

    #[test]
    fn of_a_file_one_trailing_newline_is_not_part_of_the_secret() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("secret");
        for (text, expected) in [("a b", "a b"), ("a b\n", "a b"), ("a b\r\n", "a b"), ("a\n\n", "a\n"), (" a ", " a ")]
        {
            std::fs::write(&path, text).unwrap();
            assert_eq!(resolve(&SecretRef::File(path.clone()), "k", &environment).unwrap().secret.expose(), expected);
        }
        for wrong in [&b""[..], b"\n", b"a\0b", b"\xff", &[b'a'; 65 << 10]] {
            std::fs::write(&path, wrong).unwrap();
            check_refused(&SecretRef::File(path.clone()), Kind::Invalid);
        }
        std::fs::remove_file(&path).unwrap();
        check_refused(&SecretRef::File(path), Kind::Invalid);
    }

    #[test]
    fn a_file_that_everybody_can_read_is_a_warning() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("secret");
        std::fs::write(&path, "correct horse").unwrap();
        for (mode, warned) in [(0o600, false), (0o640, false), (0o644, true)] {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            let resolved = resolve(&SecretRef::File(path.clone()), "k", &environment).unwrap();
            assert_eq!(resolved.warning.is_some(), warned, "{mode:o}");
        }
    }

    #[test]
    fn a_secret_of_a_command_that_could_not_be_blotted_out_is_refused_without_being_shown() {
        let secrets = BTreeMap::from([("P".to_owned(), env("SHORT"))]);
        let error = resolve_all(&secrets, "job.a.secrets", &environment).unwrap_err();
        assert_eq!(error.kind(), Kind::Invalid);
        assert!(!format!("{error:?}").contains("hunter2"));
    }
}
