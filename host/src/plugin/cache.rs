//! Compiled components: kept in a private directory, and executed only if this host wrote them.
//!
//! The compiled form executes whatever is in the file. So a file counts only if a keyed MAC shows
//! that this host wrote it for exactly this component and this engine; its key lies elsewhere, in
//! the state directory. A file that does not fit is written anew, never repaired.

use super::compiler::{Bounds, Compiler};
use super::engine;
use super::limits::Limits;
use crate::error::{Error, IoContext, Result};
use crate::failpoint::{self, Point};
use std::fs::{self, OpenOptions};
use std::hash::{Hash, Hasher};
use std::io::{Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use wasmtime::Engine;
use wasmtime::component::Component;

/// Length of key and MAC in bytes.
const KEY_BYTES: usize = 32;
/// The largest file that is read back.
const MAX_FILE_BYTES: u64 = super::compiler::MAX_CODE_BYTES + KEY_BYTES as u64;

/// Where compiled components are kept, or nowhere; and who compiles those that are not there.
#[derive(Clone, Debug)]
pub struct Cache {
    place: Option<Place>,
    compiler: Compiler,
    stack_bytes: usize,
}

#[derive(Clone)]
struct Place {
    dir: PathBuf,
    key: [u8; KEY_BYTES],
}

impl std::fmt::Debug for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Place").field("dir", &self.dir).finish_non_exhaustive()
    }
}

impl Cache {
    /// Keeps nothing, and compiles in this process: for tests, and tools whose program is not strongroom.
    pub fn none() -> Self {
        Self { place: None, compiler: Compiler::Here, stack_bytes: Limits::default().stack_bytes }
    }

    /// The same for a plugin with these limits: its compiler is bounded by them, and what it gives has
    /// the stack that they say.
    #[must_use]
    pub fn within(&self, limits: &Limits) -> Self {
        let mut cache = Self { stack_bytes: limits.stack_bytes, ..self.clone() };
        if let Compiler::Child { bounds, .. } = &mut cache.compiler {
            *bounds = Bounds::of(limits);
        }
        cache
    }

    /// The engine that its components run on.
    pub(super) fn engine(&self) -> Result<Engine> {
        engine::with_stack(self.stack_bytes)
    }

    /// Keeps compiled components in `cache_dir/compiled` (mode 0700), with the key in
    /// `state_dir/compiled.key` (mode 0600, made at first use). What is not there, `compiler` makes.
    ///
    /// Errors: when a directory or the key cannot be made, or belongs to or is open to others.
    pub fn open(cache_dir: &Path, state_dir: &Path, compiler: Compiler) -> Result<Self> {
        let dir = cache_dir.join("compiled");
        private_dir(&dir)?;
        let key = read_or_make_key(state_dir)?;
        Ok(Self { place: Some(Place { dir, key }), compiler, stack_bytes: Limits::default().stack_bytes })
    }

    /// The compiled component: from the cache if it is there and authentic, else compiled now.
    ///
    /// Blocking: compiling takes some milliseconds for 100 KiB and tens of seconds for 40 MiB.
    pub(super) fn component(&self, engine: &Engine, sha256: &str, bytes: &[u8]) -> Result<Component> {
        let Some(place) = &self.place else {
            return deserialize(engine, &self.compiler.compile(bytes)?);
        };
        let name = format!("{sha256}-{}.bin", compatibility(engine));
        let path = place.dir.join(&name);
        if let Some(code) = place.read(&path, &name)
            && let Ok(component) = deserialize(engine, &code)
        {
            return Ok(component);
        }
        let code = self.compiler.compile(bytes)?;
        // Without the cache everything works, only slower.
        if let Err(error) = place.write(&path, &name, &code) {
            tracing::warn!(path = %path.display(), %error, "could not keep a compiled plugin");
        }
        deserialize(engine, &code)
    }
}

impl Place {
    /// The MAC covers the name as well, so that one component's code cannot stand in for another's.
    fn mac(&self, name: &str, code: &[u8]) -> blake3::Hash {
        let mut mac = blake3::Hasher::new_keyed(&self.key);
        mac.update(name.as_bytes()).update(&[0]).update(code);
        mac.finalize()
    }

    fn read(&self, path: &Path, name: &str) -> Option<Vec<u8>> {
        let mut file = OpenOptions::new().read(true).custom_flags(nofollow()).open(path).ok()?;
        let len = file.metadata().ok()?.len();
        if !(KEY_BYTES as u64..=MAX_FILE_BYTES).contains(&len) {
            return None;
        }
        let mut content = Vec::new();
        file.read_to_end(&mut content).ok()?;
        let code = content.split_off(KEY_BYTES.min(content.len()));
        let mac: [u8; KEY_BYTES] = content.try_into().ok()?;
        // blake3 compares hashes in constant time.
        (self.mac(name, &code) == blake3::Hash::from_bytes(mac)).then_some(code)
    }

    fn write(&self, path: &Path, name: &str, code: &[u8]) -> Result<()> {
        let mut file = tempfile::Builder::new()
            .prefix(".new-")
            .tempfile_in(&self.dir)
            .doing(|| format!("make a file in \"{}\"", self.dir.display()))?;
        let mac = self.mac(name, code);
        file.write_all(mac.as_bytes())
            .and_then(|()| file.write_all(code))
            .doing(|| format!("write \"{}\"", path.display()))?;
        failpoint::reach(Point::CacheWritten);
        file.persist(path).map_err(|e| e.error).doing(|| format!("write \"{}\"", path.display()))?;
        failpoint::reach(Point::CacheNamed);
        Ok(())
    }
}

/// Loads compiled code that this process compiled or that the cache has authenticated.
#[expect(unsafe_code, reason = "compiled code can only be loaded unsafely; see the safety comment")]
fn deserialize(engine: &Engine, code: &[u8]) -> Result<Component> {
    // SAFETY: `code` is what this program's own compiler gave for this engine (in this process, or over
    // a pipe from a child that is this program), or was read with a MAC over exactly these bytes whose
    // key only this host's user can read.
    unsafe { Component::deserialize(engine, code) }
        .map_err(|e| Error::failed("the compiled component cannot be loaded").because(format!("{e:#}")))
}

/// What compiled code depends on besides the component: version, flags and processor.
fn compatibility(engine: &Engine) -> String {
    struct Digest(blake3::Hasher);
    impl Hasher for Digest {
        fn finish(&self) -> u64 {
            0
        }
        fn write(&mut self, bytes: &[u8]) {
            self.0.update(bytes);
        }
    }
    let mut digest = Digest(blake3::Hasher::new());
    engine.precompile_compatibility_hash().hash(&mut digest);
    digest.0.finalize().to_hex()[..16].to_owned()
}

fn nofollow() -> i32 {
    i32::try_from(rustix::fs::OFlags::NOFOLLOW.bits()).unwrap_or_default()
}

/// Makes a directory that only this user can enter, or checks that it is one.
fn private_dir(dir: &Path) -> Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .doing(|| format!("make the directory \"{}\"", dir.display()))?;
    check_private(dir, "directory")
}

fn check_private(path: &Path, what: &str) -> Result<()> {
    let meta = fs::symlink_metadata(path).doing(|| format!("look at \"{}\"", path.display()))?;
    let own = rustix::process::geteuid().as_raw();
    if meta.file_type().is_symlink() || meta.uid() != own || meta.mode() & 0o077 != 0 {
        return Err(Error::denied(format!("the {what} \"{}\" is not private", path.display()))
            .fact("expected", format!("owned by user {own}, open to nobody else"))
            .fact("got", format!("owned by user {}, mode {:04o}", meta.uid(), meta.mode() & 0o7777))
            .hint(format!("remove it; it is made again: rm -r \"{}\"", path.display())));
    }
    Ok(())
}

fn read_or_make_key(state_dir: &Path) -> Result<[u8; KEY_BYTES]> {
    let path = state_dir.join("compiled.key");
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(state_dir)
        .doing(|| format!("make the directory \"{}\"", state_dir.display()))?;
    if !path.exists() {
        let mut key = [0; KEY_BYTES];
        getrandom::fill(&mut key)
            .map_err(|e| Error::failed("could not get random bytes for a key").because(e.to_string()))?;
        let mut file = tempfile::Builder::new()
            .prefix(".new-")
            .tempfile_in(state_dir)
            .doing(|| format!("make a file in \"{}\"", state_dir.display()))?;
        file.write_all(&key).doing(|| format!("write \"{}\"", path.display()))?;
        // Another process may have been first; then its key counts.
        match file.persist_noclobber(&path) {
            Ok(_) => {}
            Err(lost) if lost.error.kind() == std::io::ErrorKind::AlreadyExists => {}
            Err(lost) => return Err(lost.error).doing(|| format!("write \"{}\"", path.display())),
        }
    }
    check_private(&path, "key")?;
    let key = fs::read(&path).doing(|| format!("read \"{}\"", path.display()))?;
    key.try_into().map_err(|key: Vec<u8>| {
        Error::invalid(format!("\"{}\" is not a key", path.display()))
            .fact("expected", format!("{KEY_BYTES} bytes"))
            .fact("got", format!("{} bytes", key.len()))
            .hint(format!("remove it; it is made again: rm \"{}\"", path.display()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    const EMPTY: &[u8] = b"\0asm\x0d\0\x01\0";

    fn check_entries(cache_dir: &Path) -> Vec<PathBuf> {
        fs::read_dir(cache_dir.join("compiled")).unwrap().map(|entry| entry.unwrap().path()).collect()
    }

    #[test]
    fn a_compiled_component_is_read_back_and_a_changed_one_is_compiled_again() {
        let dir = tempfile::tempdir().unwrap();
        let (cache_dir, state_dir) = (dir.path().join("cache"), dir.path().join("state"));
        let engine = &engine::shared().unwrap();
        let cache = Cache::open(&cache_dir, &state_dir, Compiler::Here).unwrap();
        cache.component(engine, "aa", EMPTY).unwrap();
        let path = check_entries(&cache_dir).pop().unwrap();
        let good = fs::read(&path).unwrap();
        let place = cache.place.clone().unwrap();
        let name = path.file_name().unwrap().to_str().unwrap();
        assert!(place.read(&path, name).is_some(), "an own file is taken");

        let mut flipped = good.clone();
        *flipped.last_mut().unwrap() ^= 1;
        for (what, content) in [("flipped", flipped), ("cut", good[..good.len() - 1].to_vec()), ("empty", Vec::new())] {
            fs::write(&path, content).unwrap();
            assert!(place.read(&path, name).is_none(), "{what}");
        }
        cache.component(engine, "aa", EMPTY).unwrap();
        assert_eq!(fs::read(&path).unwrap(), good, "it was compiled and written again");

        assert!(place.read(&path, "another-name.bin").is_none(), "it does not stand in for another component");
        let other = Cache::open(&cache_dir, &dir.path().join("other-state"), Compiler::Here).unwrap().place.unwrap();
        assert!(other.read(&path, name).is_none(), "another host's key does not count");
    }

    #[test]
    fn a_directory_or_key_that_others_can_read_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let (cache_dir, state_dir) = (dir.path().join("cache"), dir.path().join("state"));
        Cache::open(&cache_dir, &state_dir, Compiler::Here).unwrap();
        for (path, mode) in [(cache_dir.join("compiled"), 0o700), (state_dir.join("compiled.key"), 0o600)] {
            assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, mode, "{}", path.display());
            fs::set_permissions(&path, fs::Permissions::from_mode(mode | 0o044)).unwrap();
            let error = Cache::open(&cache_dir, &state_dir, Compiler::Here).unwrap_err();
            assert!(error.to_string().contains("is not private"), "{error}");
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        }
        Cache::open(&cache_dir, &state_dir, Compiler::Here).unwrap();
    }
}
