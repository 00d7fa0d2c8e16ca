//! `strongroom plugin sign` and `strongroom plugin keygen`: the format of minisign.

use super::super::Globals;
use super::super::exit::Exit;
use super::super::session::read_component;
use crate::error::{Error, IoContext, Result};
use crate::plugin::component::Component;
use crate::plugin::signature;
use crate::secret::Secret;
use clap::Args;
use serde::Serialize;
use std::fs::OpenOptions;
use std::io::{IsTerminal, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

/// Longest file of a key or a password in bytes.
const MAX_KEY_BYTES: u64 = 16 << 10;

/// Arguments of `plugin sign`.
#[derive(Debug, Args)]
pub struct SignArgs {
    /// The component
    pub file: PathBuf,
    /// File with the secret key, of `plugin keygen` or `minisign -G`
    #[arg(long, value_name = "FILE")]
    pub key: PathBuf,
    /// File whose first line is the key's password [default: asked for on the terminal]
    #[arg(long, value_name = "FILE")]
    pub password_file: Option<PathBuf>,
    /// Comment that is signed as well [default: name, version and digest of the plugin]
    #[arg(long, value_name = "TEXT")]
    pub comment: Option<String>,
    /// Where to put the signature [default: FILE.minisig]
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
}

/// Arguments of `plugin keygen`.
#[derive(Debug, Args)]
pub struct KeygenArgs {
    /// Name of the files: NAME.key and NAME.pub
    pub name: PathBuf,
    /// Leave the secret key unencrypted: whoever can read the file can sign
    #[arg(long, conflicts_with = "password_file")]
    pub unencrypted: bool,
    /// File whose first line is the password [default: asked for on the terminal]
    #[arg(long, value_name = "FILE")]
    pub password_file: Option<PathBuf>,
}

/// The result of `plugin sign` as JSON. Documented; keys are only ever added.
#[derive(Debug, Serialize)]
struct ShownSignature {
    /// The file of the signature.
    signature: String,
    /// SHA-256 of the component.
    sha256: String,
    /// Number of the key, as minisign prints it.
    key_id: String,
    /// The public key, as `trusted_keys` takes it.
    public_key: String,
    /// The comment that was signed.
    comment: String,
}

/// The result of `plugin keygen` as JSON. Documented; keys are only ever added.
#[derive(Debug, Serialize)]
struct ShownKeys {
    /// The public key, as `trusted_keys` takes it.
    public_key: String,
    /// Number of the key, as minisign prints it.
    key_id: String,
    /// The file of the secret key.
    secret_file: String,
    /// The file of the public key.
    public_file: String,
    /// Whether the secret key is encrypted.
    encrypted: bool,
}

/// Signs a component that can be loaded: nobody should get a signature on something else.
pub(super) fn sign(args: &SignArgs, globals: &Globals) -> anyhow::Result<Exit> {
    let bytes = read_component(&args.file)?;
    let component = Component::decode(&bytes)
        .map_err(|error| error.while_doing(format!("could not sign \"{}\"", args.file.display())))?;
    let manifest = &component.manifest;
    let comment = match &args.comment {
        Some(comment) if comment.len() > 1024 || comment.chars().any(char::is_control) => {
            return Err(Error::invalid("the comment is not one line of up to 1024 bytes").into());
        }
        Some(comment) => comment.clone(),
        None => format!("plugin:{} version:{} sha256:{}", manifest.name, manifest.version, component.sha256),
    };
    let secret = read_secret(&args.key, "secret key")?;
    let password = match signature::is_encrypted(&secret)? {
        true => Some(password(args.password_file.as_deref(), &format!("password of \"{}\": ", args.key.display()))?),
        false => None,
    };
    let (text, signed) = signature::sign(&bytes, &secret, password.as_ref(), &comment)?;
    let out = args.out.clone().unwrap_or_else(|| {
        let mut beside = args.file.clone().into_os_string();
        beside.push(signature::SUFFIX);
        beside.into()
    });
    std::fs::write(&out, text).doing(|| format!("write \"{}\"", out.display()))?;
    let shown = ShownSignature {
        signature: out.display().to_string(),
        sha256: component.sha256,
        key_id: signed.key_id,
        public_key: signed.key,
        comment: signed.comment,
    };
    globals
        .output()
        .result(&shown, || format!("{}\n  by key {}: {:?}\n", shown.signature, shown.key_id, shown.comment))?;
    Ok(Exit::Done)
}

/// Makes a pair of keys in two new files.
pub(super) fn keygen(args: &KeygenArgs, globals: &Globals) -> anyhow::Result<Exit> {
    let file = |end: &str| {
        let mut name = args.name.clone().into_os_string();
        name.push(end);
        PathBuf::from(name)
    };
    let (secret_file, public_file) = (file(".key"), file(".pub"));
    for path in [&secret_file, &public_file] {
        if path.symlink_metadata().is_ok() {
            return Err(Error::conflict(format!("\"{}\" is there already", path.display()))
                .hint("a key is never overwritten: take another name")
                .into());
        }
    }
    let password = match args.unencrypted {
        true => None,
        false => Some(new_password(args.password_file.as_deref())?),
    };
    let keys = signature::generate(password.as_ref())?;
    create(&secret_file, keys.secret.expose(), 0o600)?;
    create(&public_file, &keys.public, 0o644)?;
    let shown = ShownKeys {
        public_key: keys.public_line,
        key_id: keys.key_id,
        secret_file: secret_file.display().to_string(),
        public_file: public_file.display().to_string(),
        encrypted: password.is_some(),
    };
    globals.output().result(&shown, || {
        let how =
            if shown.encrypted { "encrypted with the password" } else { "NOT encrypted: whoever can read it can sign" };
        format!(
            "{}  secret key {}, {how}\n{}  public key {}\n\nwho trusts it writes:\n  trusted_keys = [\"{}\"]\n",
            shown.secret_file, shown.key_id, shown.public_file, shown.key_id, shown.public_key
        )
    })?;
    Ok(Exit::Done)
}

fn create(path: &Path, text: &str, mode: u32) -> Result<()> {
    let attempt = || format!("write \"{}\"", path.display());
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path).doing(attempt)?;
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).doing(attempt)
}

/// A file that holds a secret: of this user or of root, and open to nobody else.
fn read_secret(path: &Path, what: &str) -> Result<Secret> {
    let attempt = || format!("read the {what} \"{}\"", path.display());
    let file = std::fs::File::open(path).doing(attempt)?;
    let about = file.metadata().doing(attempt)?;
    if about.is_file() && about.mode() & 0o077 != 0 {
        return Err(Error::denied(format!("others can read the {what} \"{}\"", path.display()))
            .fact("got", format!("mode {:04o}", about.mode() & 0o7777))
            .hint(format!("chmod go= \"{}\"", path.display())));
    }
    let mut text = Zeroizing::new(String::new());
    file.take(MAX_KEY_BYTES).read_to_string(&mut text).doing(attempt)?;
    Ok(Secret::new(text.to_string()))
}

fn password(file: Option<&Path>, prompt: &str) -> Result<Secret> {
    let Some(file) = file else {
        if !std::io::stdin().is_terminal() {
            return Err(Error::denied("nobody can be asked for the password")
                .fact("reason", "this is not a terminal")
                .hint("put it into a file that nobody else can read: --password-file FILE"));
        }
        return rpassword::prompt_password(prompt).map(Secret::new).doing(|| "ask for the password".to_owned());
    };
    let text = read_secret(file, "password")?;
    Ok(Secret::new(text.expose().lines().next().unwrap_or_default().to_owned()))
}

fn new_password(file: Option<&Path>) -> Result<Secret> {
    let first = password(file, "password for the new key: ")?;
    if first.expose().is_empty() {
        return Err(Error::invalid("an empty password protects nothing")
            .hint("say so if it is meant: strongroom plugin keygen NAME --unencrypted"));
    }
    if file.is_none() && password(None, "the same once more: ")?.expose() != first.expose() {
        return Err(Error::invalid("the two passwords are not the same"));
    }
    Ok(first)
}
