//! Fetches secrets where the configuration says, as late as possible.
//!
//! This module never prints a value, and no error of it holds one.

use super::environment::Lookup;
use super::{Config, SecretRef, StoreConfig, StorePlace};
use crate::error::{Error, IoContext, Kind, Result};
use crate::policy::Verb;
use crate::secret::{Fetch, MIN_SECRET_BYTES, Secret, Secrets};
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
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

/// A secret of commands with the key of the configuration that refers to it.
#[derive(Clone, Debug)]
pub struct KeyedSecret<'a> {
    /// The name that grants use, and the variable that it is.
    pub name: String,
    /// Such as `job.orders.restore.secrets.PGPASSWORD`.
    pub key: String,
    /// Where it is.
    pub reference: &'a SecretRef,
}

/// The secrets of a table that refers to them, such as `target.scratch.secrets`.
pub fn of_table<'a>(secrets: &'a BTreeMap<String, SecretRef>, path: &str) -> Vec<KeyedSecret<'a>> {
    let keyed = |(name, reference): (&String, &'a SecretRef)| KeyedSecret {
        name: name.clone(),
        key: format!("{path}.{name}"),
        reference,
    };
    secrets.iter().map(keyed).collect()
}

/// The secrets of commands, to be fetched when a command starts. Each is fetched once before that, so
/// that what is missing is found before anything is done, and let go at once: a later one is what is
/// there later. Only what can be read once, such as a pipe, is held. Warnings besides.
///
/// Errors: as [`resolve`]; `Invalid` for one shorter than 8 bytes, which could not be blotted out
/// of a program's messages without eating words.
pub fn late(
    secrets: Vec<KeyedSecret<'_>>,
    environment: fn(&str) -> Option<OsString>,
) -> Result<(Secrets, Vec<String>)> {
    let mut sources: BTreeMap<String, Arc<Fetch>> = BTreeMap::new();
    let mut warnings = Vec::new();
    for KeyedSecret { name, key, reference } in secrets {
        let Resolved { secret, warning } = resolve_long(reference, &key, environment)?;
        warnings.extend(warning);
        let source: Arc<Fetch> = if is_there_again(reference) {
            let reference = reference.clone();
            Arc::new(move || Ok(resolve_long(&reference, &key, environment)?.secret))
        } else {
            Arc::new(move || Ok(secret.clone()))
        };
        sources.insert(name, source);
    }
    Ok((Secrets::new(sources), warnings))
}

/// Variables in which the platform's credentials of stores are; see `docs/configuration.md`.
const PLATFORM: [&str; 2] = ["AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"];

/// What the platform's credentials are here, as far as they are in the environment and long enough to be
/// blotted out.
pub fn of_platform(environment: fn(&str) -> Option<OsString>) -> Vec<Secret> {
    let text = |name| environment(name).and_then(|value| value.into_string().ok()).map(Secret::new);
    PLATFORM.into_iter().filter_map(text).filter(|secret| secret.expose().len() >= MIN_SECRET_BYTES).collect()
}

/// Who a secret is for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum For {
    Commands,
    Stores,
}

impl Config {
    /// Variables of the environment that hold secrets: those that this configuration refers to, and
    /// those of the platform's credentials. No child inherits them.
    pub fn secret_variables(&self) -> BTreeSet<String> {
        let named = self.secrets().into_iter().filter_map(|(_, reference, _)| match reference {
            SecretRef::Env(name) => Some(name.clone()),
            SecretRef::File(_) => None,
        });
        named.chain(PLATFORM.map(str::to_owned)).collect()
    }

    /// Fetches every secret that is referred to and lets it go: what is wrong with each that cannot be
    /// had here, and what was noticed of the others.
    pub fn check_secrets(&self, environment: fn(&str) -> Option<OsString>) -> (Vec<Error>, Vec<String>) {
        let (mut wrong, mut warnings) = (Vec::new(), Vec::new());
        for (key, reference, whose) in self.secrets() {
            let found = match (whose, is_there_again(reference)) {
                // What can be read once is left to who needs it.
                (_, false) => continue,
                (For::Commands, true) => resolve_long(reference, &key, environment),
                (For::Stores, true) => resolve(reference, &key, &environment),
            };
            match found {
                Ok(resolved) => warnings.extend(resolved.warning),
                Err(error) => wrong.push(error),
            }
        }
        (wrong, warnings)
    }

    /// Every reference with its key.
    fn secrets(&self) -> Vec<(String, &SecretRef, For)> {
        let mut all = Vec::new();
        for (label, store) in &self.stores {
            all.extend(
                store.secrets().map(|(name, reference)| (format!("store.{label}.{name}"), reference, For::Stores)),
            );
        }
        let jobs = self.jobs.iter().map(|(label, job)| (format!("job.{label}"), &job.secrets));
        let targets = self.targets.iter().map(|(label, target)| (format!("target.{label}"), &target.secrets));
        let verbs = self.jobs.iter().flat_map(|(label, job)| {
            let table = move |verb: &Verb| format!("job.{label}.{}", verb.name());
            job.verbs.iter().map(move |(verb, own)| (table(verb), &own.secrets))
        });
        for (path, secrets) in jobs.chain(verbs).chain(targets) {
            let key = |name: &str| format!("{path}.secrets.{name}");
            all.extend(secrets.iter().map(|(name, reference)| (key(name), reference, For::Commands)));
        }
        all
    }
}

impl StoreConfig {
    /// Its secrets by the key that refers to them.
    fn secrets(&self) -> impl Iterator<Item = (&'static str, &SecretRef)> {
        let s3 = match &self.place {
            StorePlace::S3(s3) => [
                ("access_key", s3.access_key.as_ref()),
                ("secret_key", s3.secret_key.as_ref()),
                ("session_token", s3.session_token.as_ref()),
            ],
            StorePlace::Local { .. } => [("access_key", None), ("secret_key", None), ("session_token", None)],
        };
        let all = s3.into_iter().chain([("identity", self.identity.as_ref())]);
        all.filter_map(|(name, reference)| Some((name, reference?)))
    }
}

fn resolve_long(reference: &SecretRef, key: &str, environment: fn(&str) -> Option<OsString>) -> Result<Resolved> {
    let resolved = resolve(reference, key, &environment)?;
    if resolved.secret.expose().len() < MIN_SECRET_BYTES {
        return Err(Error::invalid(format!("the secret of {key} is too short"))
            .fact("expected", format!("at least {MIN_SECRET_BYTES} bytes, so that it can be blotted out of messages"))
            .hint("choose a longer secret; if it is none, such as a user name, it belongs in env"));
    }
    Ok(resolved)
}

/// Whether it can be fetched a second time: not so from a pipe, which a shell makes of `<(…)`.
fn is_there_again(reference: &SecretRef) -> bool {
    match reference {
        SecretRef::Env(_) => true,
        SecretRef::File(path) => std::fs::metadata(path).map_or(true, |about| about.is_file()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
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
        let error = late(of_table(&secrets, "job.a.secrets"), environment).unwrap_err();
        assert_eq!(error.kind(), Kind::Invalid);
        assert!(!format!("{error:?}").contains("hunter2"));
    }

    #[test]
    fn a_secret_is_read_when_a_command_needs_it_and_a_pipe_is_read_once() {
        let scratch = tempfile::tempdir().unwrap();
        let (file, pipe) = (scratch.path().join("file"), scratch.path().join("pipe"));
        std::fs::write(&file, "correct horse").unwrap();
        rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR).unwrap();
        let writer = std::thread::spawn({
            let pipe = pipe.clone();
            move || std::fs::write(pipe, "battery staple")
        });
        let secrets =
            BTreeMap::from([("F".to_owned(), SecretRef::File(file.clone())), ("P".to_owned(), SecretRef::File(pipe))]);
        let (late, _) = late(of_table(&secrets, "job.a.secrets"), environment).unwrap();
        writer.join().unwrap().unwrap();
        std::fs::write(&file, "another horse").unwrap();
        let fetch = |name: &str| late.fetch(name).unwrap().unwrap();
        assert_eq!(fetch("F").expose(), "another horse");
        assert_eq!((fetch("P").expose(), fetch("P").expose()), ("battery staple", "battery staple"));
        std::fs::remove_file(&file).unwrap();
        let error = late.fetch("F").unwrap_err();
        assert!(format!("{error:?}").contains("job.a.secrets.F"), "{error:?}");
    }
}
