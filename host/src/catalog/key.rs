//! Host keys: who signed a record, and whom this host believes.

use crate::error::{Error, IoContext, Result};
use crate::failpoint::{self, Point};
use crate::secret::{Redactor, Secret};
use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use std::collections::BTreeSet;
use std::fmt;
use std::io::Write;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::str::FromStr;
use zeroize::Zeroizing;

/// What a public key begins with, so that it is recognised in a configuration or on paper.
const PREFIX: &str = "srhost1-";
/// First line of the key's file.
const FILE_HEADER: &str = "# strongroom host key: signs the records of backups; keep it private";

/// The public half of a host key: 32 bytes of Ed25519, written `srhost1-` and base64url.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PublicKey([u8; 32]);

impl PublicKey {
    /// Whether `signature` over `message` was made with the private half.
    pub fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        UnparsedPublicKey::new(&ED25519, &self.0).verify(message, signature).is_ok()
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PREFIX}{}", URL_SAFE_NO_PAD.encode(self.0))
    }
}

impl FromStr for PublicKey {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        text.strip_prefix(PREFIX)
            .and_then(|rest| URL_SAFE_NO_PAD.decode(rest).ok())
            .and_then(|bytes| bytes.try_into().ok())
            .map(Self)
            .ok_or_else(|| {
                Error::invalid(format!("\"{}\" is not a host key", text.escape_debug()))
                    .fact("expected", "srhost1- and 43 letters, as `strongroom key show` prints it")
            })
    }
}

/// The key that signs this host's records.
pub struct HostKey {
    pair: Ed25519KeyPair,
    public: PublicKey,
    seed: Zeroizing<[u8; 32]>,
    /// Knows the seed in text: for what a panic says.
    _redactor: Redactor,
}

impl fmt::Debug for HostKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HostKey({})", self.public)
    }
}

impl HostKey {
    /// A new key that is kept nowhere; for dry runs and tests.
    pub fn ephemeral() -> Result<Self> {
        let mut seed = Zeroizing::new([0_u8; 32]);
        getrandom::fill(&mut seed[..])
            .map_err(|e| Error::failed("could not get random bytes for a host key").because(e.to_string()))?;
        Self::from_seed(&seed)
    }

    fn from_seed(seed: &[u8; 32]) -> Result<Self> {
        let pair = Ed25519KeyPair::from_seed_unchecked(seed)
            .map_err(|_| Error::failed("could not derive the host key from its seed"))?;
        let public = <[u8; 32]>::try_from(pair.public_key().as_ref())
            .map(PublicKey)
            .map_err(|_| Error::failed("the host key has no public half of 32 bytes"))?;
        let hex = blake3::Hash::from(*seed).to_hex().to_string();
        let base64 = [URL_SAFE_NO_PAD.encode(seed), STANDARD_NO_PAD.encode(seed)];
        let forms = base64.into_iter().chain([hex.to_uppercase(), hex]).map(Secret::new);
        let redactor = Redactor::new(&forms.collect::<Vec<_>>());
        Ok(Self { pair, public, seed: Zeroizing::new(*seed), _redactor: redactor })
    }

    /// The key in `path`, or `NotFound`. A file that others can read is refused.
    pub fn load(path: &Path) -> Result<Self> {
        let text = Zeroizing::new(
            std::fs::read_to_string(path).doing(|| format!("read the host key \"{}\"", path.display()))?,
        );
        let mode =
            std::fs::metadata(path).doing(|| format!("read the mode of \"{}\"", path.display()))?.permissions().mode();
        if mode & 0o077 != 0 {
            return Err(Error::denied(format!("the host key \"{}\" can be read by others", path.display()))
                .fact("expected", "mode 0600")
                .fact("got", format!("mode {:04o}", mode & 0o7777))
                .hint(format!(
                    "chmod 600 {}; if somebody may have read it, remove it and tell every `trusted_hosts`",
                    path.display()
                )));
        }
        let seed = text.lines().find(|line| !line.starts_with('#')).and_then(|line| {
            let bytes = Zeroizing::new(URL_SAFE_NO_PAD.decode(line.trim()).ok()?);
            <[u8; 32]>::try_from(bytes.as_slice()).ok().map(Zeroizing::new)
        });
        let seed = seed.ok_or_else(|| {
            Error::invalid(format!("\"{}\" does not hold a host key", path.display()))
                .fact("expected", "a line of 43 letters of base64url after the comment")
                .hint("bring the file back from a copy; a new key (remove the file) makes earlier records those of an unknown signer")
        })?;
        Self::from_seed(&seed)
    }

    /// The key in `path`; made, mode 0600, flushed to the disk, when there is none.
    pub fn load_or_create(path: &Path) -> Result<Self> {
        match Self::load(path) {
            Err(error) if error.kind() == crate::error::Kind::NotFound => {}
            other => return other,
        }
        let mut seed = Zeroizing::new([0_u8; 32]);
        getrandom::fill(&mut seed[..])
            .map_err(|e| Error::failed("could not get random bytes for a host key").because(e.to_string()))?;
        let folder = path.parent().unwrap_or(Path::new("."));
        std::fs::create_dir_all(folder).doing(|| format!("make the state directory \"{}\"", folder.display()))?;
        let text = Zeroizing::new(format!("{FILE_HEADER}\n{}\n", URL_SAFE_NO_PAD.encode(&seed[..])));
        let mut suffix = [0_u8; 8];
        getrandom::fill(&mut suffix)
            .map_err(|e| Error::failed("could not get random bytes for a file name").because(e.to_string()))?;
        let temporary = folder.join(format!(".host-key-{}", URL_SAFE_NO_PAD.encode(suffix)));
        let written = (|| {
            let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
            failpoint::reach(Point::KeyFlushed);
            // A link never replaces a key that another process has just made.
            std::fs::hard_link(&temporary, path)?;
            failpoint::reach(Point::KeyNamed);
            flush_up(folder)
        })();
        // Only the temporary name goes; the key has its own.
        let removed = std::fs::remove_file(&temporary);
        match written {
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Self::load(path),
            Err(error) => Err(error).doing(|| format!("write the host key \"{}\"", path.display())),
            Ok(()) => {
                removed.doing(|| format!("remove \"{}\"", temporary.display()))?;
                Self::from_seed(&seed)
            }
        }
    }

    /// The public half.
    pub fn public(&self) -> &PublicKey {
        &self.public
    }

    /// A key of its own for one purpose (BLAKE3's key derivation from the seed): it tells nothing of this
    /// key or of those for other purposes. `purpose` is a fixed text of this program.
    pub fn derive(&self, purpose: &'static str) -> Zeroizing<[u8; 32]> {
        Zeroizing::new(blake3::derive_key(purpose, &self.seed[..]))
    }

    /// Signs `message`: 64 bytes.
    pub fn sign(&self, message: &[u8]) -> Vec<u8> {
        self.pair.sign(message).as_ref().to_vec()
    }
}

/// Returns once the names in a folder are on the disk, and those of the folders above it as far as this
/// user may read them: whoever made those, in this run or before, did not flush them.
fn flush_up(folder: &Path) -> std::io::Result<()> {
    std::fs::File::open(folder)?.sync_all()?;
    for above in folder.ancestors().skip(1) {
        let Ok(dir) = std::fs::File::open(above) else { break };
        dir.sync_all()?;
    }
    Ok(())
}

/// Whose records are believed.
#[derive(Clone, Debug, Default)]
pub struct Trust(BTreeSet<PublicKey>);

impl Trust {
    /// Believes exactly these.
    pub fn new(keys: impl IntoIterator<Item = PublicKey>) -> Self {
        Self(keys.into_iter().collect())
    }

    /// Believes one more.
    pub fn add(&mut self, key: PublicKey) {
        self.0.insert(key);
    }

    /// Whether records signed by `key` are believed.
    pub fn believes(&self, key: &PublicKey) -> bool {
        self.0.contains(key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_made_once_and_read_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state/host.key");
        let made = HostKey::load_or_create(&path).unwrap();
        let read = HostKey::load_or_create(&path).unwrap();
        assert_eq!(made.public(), read.public());
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(std::fs::read_dir(path.parent().unwrap()).unwrap().count(), 1, "no temporary file is left");
        assert_eq!(made.public().to_string().parse::<PublicKey>().unwrap(), *read.public());
    }

    #[test]
    fn a_key_is_in_nothing_that_a_panic_says() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("host.key");
        let held = [HostKey::load_or_create(&path).unwrap(), HostKey::load(&path).unwrap()];
        let text = std::fs::read_to_string(&path).unwrap();
        let line = text.lines().last().unwrap();
        let seed = URL_SAFE_NO_PAD.decode(line).unwrap();
        let hex: String = seed.iter().map(|byte| format!("{byte:02X}")).collect();
        // Other tests teach redactors at the same time.
        let said = |text: &str| std::iter::repeat_with(|| crate::secret::blotted(text)).flatten().next().unwrap();
        for form in [line, &STANDARD_NO_PAD.encode(&seed), &hex] {
            assert!(!said(&format!("the key {form}.")).contains(form), "{form}");
        }
        let public = held[0].public().to_string();
        assert_eq!(*said(&public), public);
    }

    #[test]
    fn a_key_that_others_can_read_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("host.key");
        HostKey::load_or_create(&path).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        let error = HostKey::load_or_create(&path).unwrap_err();
        assert_eq!(error.kind(), crate::error::Kind::Denied, "{error:?}");
    }

    #[test]
    fn a_damaged_key_is_never_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("host.key");
        std::fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&path)
            .unwrap()
            .write_all(b"# x\nabc\n")
            .unwrap();
        assert!(HostKey::load_or_create(&path).is_err());
        assert_eq!(std::fs::read(&path).unwrap(), b"# x\nabc\n");
    }
}
