//! The machine is lost: a configuration made from the store alone, for one restore.
//!
//! Everything in it comes from the signed record, the plugin that lies beside it with its signature, and
//! the command line. Nothing is granted before the operator has seen it and said `--grant-requested`;
//! and the plugin is not looked into before it is the recorded one, not revoked, and signed where a
//! ceiling of this machine demands it.

use super::restore::RestoreArgs;
use super::session::Session;
use super::{Globals, propose};
use crate::catalog::Listed;
use crate::config::ceiling::Ceilings;
use crate::config::{Config, StoreConfig, StorePlace, edit, environment};
use crate::error::{Error, IoContext, Result};
use crate::id::Label;
use crate::plugin::Trust;
use crate::plugin::component::{self, Component};
use crate::plugin::signature::{self, TrustedKey};
use crate::policy::Verb;
use crate::stream::Identity;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use tokio_util::sync::CancellationToken;
use toml::{Table, Value};

/// The configuration's name in messages.
const NAME: &str = "the configuration made for this restore";

/// A session whose configuration has the job of the backup that is asked for, and what it needs.
///
/// Errors: those of the store; `Denied` while the signer is not believed or nothing was granted.
pub(super) async fn session(
    args: &RestoreArgs,
    store: StoreConfig,
    globals: &Globals,
    cancel: CancellationToken,
) -> Result<Session> {
    let label: Label = "store".parse()?;
    let config = Config { stores: BTreeMap::from([(label.clone(), store.clone())]), ..Config::default() };
    let bare = Session::with(globals, config, cancel.clone())?;
    let catalog = bare.catalog(&label, args.trust_signer.as_deref()).await?;
    let listed = catalog.find(&args.job.parse()?, &args.id).await?;
    let record = listed.trusted().ok_or_else(|| listed.not_believed())?;
    let bytes = catalog.plugin(&record.plugin.sha256, component::MAX_BYTES as u64).await.map_err(|error| {
        error.while_doing(format!("could not read the plugin of backup {} from the store", record.id))
    })?;
    let sha256 = component::digest(&bytes);
    if sha256 != record.plugin.sha256 {
        return Err(Error::damaged("the plugin that lies in the store is not the one that made the backup")
            .fact("expected", format!("sha256 {}", record.plugin.sha256))
            .fact("got", format!("sha256 {sha256}"))
            .hint("get the vendor's plugin with the expected digest, write a configuration that names it, and restore with that"));
    }
    let ceilings = globals.ceilings()?;
    let trust = trust(args, &ceilings);
    let kept = catalog.signatures(&sha256).await?;
    let signature = match believed(&record.plugin.name, &bytes, &kept, &trust) {
        Ok(signature) => signature,
        Err(error) => return Err(refused(&bare, &record.job, &bytes, error)),
    };
    let component = Component::decode(&bytes).map_err(|error| refused(&bare, &record.job, &bytes, error))?;
    let source = keep(&bare.directories.cache, &sha256, &bytes, signature)?;
    let text = write(args, &store, &listed, &component, &source, &trust)?;
    let base = std::env::current_dir().doing(|| "find the current directory".to_owned())?;
    let config = Config::parse_under(&text, Path::new(NAME), &base, &ceilings)?;
    drop(bare);
    Session::with(globals, config, cancel)
}

/// Writes down that the plugin was refused, and returns the error.
fn refused(bare: &Session, job: &Label, bytes: &[u8], error: Error) -> Error {
    match bare.host_key() {
        Ok(key) => {
            let log = bare.audit(&std::sync::Arc::new(key));
            super::audit::refused(&log, &bare.config, job, Some(bytes), error)
        }
        Err(unwritten) => error.fact("audit log", unwritten.to_string()),
    }
}

/// Whose signatures count: the keys of the command line, or else those that the ceilings name; never one
/// that a ceiling does not.
fn trust(args: &RestoreArgs, ceilings: &Ceilings) -> Trust {
    let keys = if args.trusted_keys.is_empty() { ceilings.keys() } else { args.trusted_keys.clone() };
    ceilings.narrow(Trust { keys, ..Trust::default() })
}

/// The signature to load the plugin with: of those that the store holds, the first that is good, since
/// whoever can write to the store can put others beside it.
///
/// Errors: `Denied` when the plugin is revoked, or not signed as it must be.
fn believed<'a>(name: &str, bytes: &[u8], kept: &'a [String], trust: &Trust) -> Result<Option<&'a str>> {
    trust.check_revoked(name, &component::digest(bytes))?;
    let good = kept.iter().find(|text| signature::verify(bytes, text, &trust.keys).is_ok());
    let chosen = good.or(kept.first()).map(String::as_str);
    match trust.check_signature(name, bytes, chosen) {
        Ok(_) => Ok(chosen),
        Err(error) if kept.is_empty() => Err(error.fact("got", "none beside the plugin in the store").hint(
            "fetch the vendor's plugin with its signature and write a configuration that names them, or ask whoever owns the ceiling",
        )),
        Err(error) if trust.keys.is_empty() => {
            Err(error.hint("name the vendor's public key: --trusted-key RW…; the ceiling must allow it"))
        }
        Err(error) => Err(error),
    }
}

/// Writes the plugin where it can be loaded from, with its signature. The file is named by its digest,
/// which is checked again when it is loaded, as is the signature.
fn keep(cache: &Path, sha256: &str, bytes: &[u8], signature: Option<&str>) -> Result<PathBuf> {
    let folder = cache.join("from-stores");
    std::fs::create_dir_all(&folder).doing(|| format!("make \"{}\"", folder.display()))?;
    let path = folder.join(format!("{sha256}.wasm"));
    std::fs::write(&path, bytes).doing(|| format!("write \"{}\"", path.display()))?;
    let mut beside = path.clone().into_os_string();
    beside.push(signature::SUFFIX);
    let beside = PathBuf::from(beside);
    match signature {
        Some(text) => std::fs::write(&beside, text).doing(|| format!("write \"{}\"", beside.display()))?,
        // One of an earlier restore, of another store.
        None => match std::fs::remove_file(&beside) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(error).doing(|| format!("remove \"{}\"", beside.display()));
            }
            _ => {}
        },
    }
    Ok(path)
}

fn write(
    args: &RestoreArgs,
    store: &StoreConfig,
    listed: &Listed,
    component: &Component,
    source: &Path,
    trust: &Trust,
) -> Result<String> {
    let manifest = &component.manifest;
    let record = listed.trusted().ok_or_else(|| listed.not_believed())?;
    let label = manifest.name.as_str();

    let mut plugin = Table::new();
    plugin.insert("source".into(), text(source)?);
    if !trust.keys.is_empty() {
        let keys: Vec<&str> = trust.keys.iter().map(TrustedKey::as_str).collect();
        plugin.insert("trusted_keys".into(), keys.into());
    }
    let mut job = Table::new();
    job.insert("plugin".into(), label.into());
    job.insert("store".into(), "store".into());
    if let Some(settings) = from_json(&record.settings) {
        job.insert("settings".into(), settings);
    }
    let pairs =
        |pairs: &[(String, String)]| pairs.iter().map(|(k, v)| (k.clone(), Value::from(v.as_str()))).collect::<Table>();
    if !args.env.is_empty() {
        job.insert("env".into(), pairs(&args.env).into());
    }
    if !args.secrets.is_empty() {
        let secrets = args.secrets.iter().map(|(name, reference)| Ok((name.clone(), secret(reference)?)));
        job.insert("secrets".into(), secrets.collect::<Result<Table>>()?.into());
    }
    let mut root = Table::new();
    let labelled = |label: &str, table: Table| Value::from(Table::from_iter([(label.to_owned(), Value::from(table))]));
    root.insert("store".into(), labelled("store", store_table(args, store)?));
    root.insert("plugin".into(), labelled(label, plugin));
    root.insert("job".into(), labelled(&args.job, job));
    let mut buckets = Table::new();
    for (bucket, dir) in &args.buckets {
        let dir = std::path::absolute(dir).doing(|| format!("find \"{dir}\""))?;
        buckets.insert(
            bucket.clone(),
            Table::from_iter([("type".to_owned(), Value::from("local")), ("path".to_owned(), text(&dir)?)]).into(),
        );
    }
    if !buckets.is_empty() {
        root.insert("bucket".into(), buckets.into());
    }
    let document =
        toml::to_string(&root).map_err(|error| Error::failed("could not write a configuration").because(error))?;

    let mut known = propose::Known {
        programs: args.programs.iter().cloned().collect(),
        only: Some(Verb::Restore),
        ..propose::Known::default()
    };
    propose::buckets_named(manifest, &args.options_over(&serde_json::Value::Null), &mut known.buckets);
    let path = environment::process("PATH").and_then(|path| path.into_string().ok()).unwrap_or_default();
    let grants = propose::grants(manifest, &known, &path)?;
    if !args.grant_requested {
        return Err(ask(label, &component.sha256, &grants)?);
    }
    for (_, dir) in &args.buckets {
        std::fs::create_dir_all(dir).doing(|| format!("make \"{dir}\""))?;
    }
    edit::approve(&document, label, &component.sha256, &grants)
}

/// What would be granted, in full, as the error that stops a restore which has not said so.
fn ask(label: &str, sha256: &str, grants: &edit::RawGrants) -> Result<Error> {
    let error = Error::denied(format!(
        "plugin \"{label}\" of this backup needs grants to restore, and there is no configuration"
    ))
    .fact("plugin", format!("sha256 {sha256}, from the store, as the signed record names it"))
    .fact("would get", format!("\n{}", propose::toml(grants)?));
    Ok(error.hint(
        "add --grant-requested to grant exactly this for this restore, with --plan first to see what would be done",
    ))
}

fn store_table(args: &RestoreArgs, store: &StoreConfig) -> Result<Table> {
    let mut table = Table::new();
    match &store.place {
        StorePlace::Local { path } => {
            table.insert("type".into(), "local".into());
            let path = std::path::absolute(path).doing(|| format!("find \"{}\"", path.display()))?;
            table.insert("path".into(), text(&path)?);
        }
        StorePlace::S3(s3) => {
            table.insert("type".into(), "s3".into());
            table.insert("bucket".into(), s3.bucket.as_str().into());
            table.insert("region".into(), s3.region.as_str().into());
            table.insert("path_style".into(), s3.path_style.into());
            if !s3.prefix.is_empty() {
                table.insert("prefix".into(), s3.prefix.as_str().into());
            }
            if let Some(endpoint) = &s3.endpoint {
                table.insert("endpoint".into(), endpoint.as_str().into());
            }
        }
    }
    match &args.bare.identity {
        Some(file) => {
            let read = std::fs::read_to_string(file).doing(|| format!("read the identity \"{}\"", file.display()))?;
            let identity = Identity::parse(&zeroize::Zeroizing::new(read))?;
            let recipients: Vec<Value> = identity.to_recipients().to_strings().into_iter().map(Value::from).collect();
            table.insert("recipients".into(), recipients.into());
            let file = std::path::absolute(file).doing(|| format!("find \"{}\"", file.display()))?;
            table.insert("identity".into(), Table::from_iter([("file".to_owned(), text(&file)?)]).into());
        }
        None => drop(table.insert("encryption".into(), "off".into())),
    }
    Ok(table)
}

fn text(path: &Path) -> Result<Value> {
    let text = path.to_str().ok_or_else(|| Error::invalid(format!("\"{}\" is not UTF-8", path.display())))?;
    Ok(text.into())
}

/// `env:VARIABLE` or `file:PATH` as the configuration writes it.
fn secret(reference: &str) -> Result<Value> {
    match reference.split_once(':') {
        Some((kind @ ("env" | "file"), name)) if !name.is_empty() => {
            Ok(Table::from_iter([(kind.to_owned(), Value::from(name))]).into())
        }
        _ => Err(Error::invalid("a secret is given by reference, never as text")
            .fact("expected", "--secret NAME=env:VARIABLE or NAME=file:PATH")),
    }
}

/// JSON as TOML; `null` is left out, which TOML does not have.
fn from_json(json: &serde_json::Value) -> Option<Value> {
    Some(match json {
        serde_json::Value::Null => return None,
        serde_json::Value::Bool(flag) => (*flag).into(),
        serde_json::Value::Number(number) => match number.as_i64() {
            Some(n) => n.into(),
            None => number.as_f64()?.into(),
        },
        serde_json::Value::String(text) => text.as_str().into(),
        serde_json::Value::Array(list) => list.iter().filter_map(from_json).collect::<Vec<_>>().into(),
        serde_json::Value::Object(map) => {
            map.iter().filter_map(|(name, value)| Some((name.clone(), from_json(value)?))).collect::<Table>().into()
        }
    })
}
