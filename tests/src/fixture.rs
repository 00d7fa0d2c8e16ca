//! Backups that earlier versions made, in `tests/fixtures/backups`: read for ever, never changed.
//! `cargo xtask fixture` makes the one of a new version.

use crate::relay::private;
use crate::{Sandbox, files, root};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// What one version left behind.
#[derive(Clone, Debug)]
pub struct Fixture {
    /// The version, which is also the folder's name.
    pub version: String,
    /// Its folder in the checkout.
    pub folder: PathBuf,
    /// The artifacts that were files before the backup.
    pub artifacts: Vec<Artifact>,
}

/// An artifact as it was before the backup.
#[derive(Clone, Debug)]
pub struct Artifact {
    /// `sealed` or `plain`.
    pub store: String,
    /// The job that stored it.
    pub job: String,
    /// Its name.
    pub name: String,
    /// Its size.
    pub bytes: u64,
    /// What `b3sum` said of it.
    pub blake3: String,
}

impl Fixture {
    /// Every fixture there is, of which there is at least one.
    pub fn all() -> Vec<Self> {
        let folders = std::fs::read_dir(root().join("tests/fixtures/backups")).expect("the folder of fixtures");
        let mut all: Vec<Self> = folders.map(|entry| Self::read(entry.expect("a fixture").path())).collect();
        all.sort_by(|one, two| one.version.cmp(&two.version));
        assert!(!all.is_empty(), "there is no fixture: run `cargo xtask fixture`");
        all
    }

    fn read(folder: PathBuf) -> Self {
        let version = folder.file_name().expect("a folder has a name").to_string_lossy().into_owned();
        let text = std::fs::read_to_string(folder.join("artifacts.tsv")).expect("artifacts.tsv");
        let artifacts = text.lines().map(|line| {
            let [store, job, name, bytes, blake3] = line.split('\t').collect::<Vec<_>>()[..] else {
                panic!("{version}: {line:?}")
            };
            Artifact {
                store: store.to_owned(),
                job: job.to_owned(),
                name: name.to_owned(),
                bytes: bytes.parse().expect("a size"),
                blake3: blake3.to_owned(),
            }
        });
        Self { artifacts: artifacts.collect(), version, folder }
    }

    /// Lines of `tree.tsv`: the tree of the jobs `files` and `open-files`.
    pub fn tree(&self) -> Vec<String> {
        let text = std::fs::read_to_string(self.folder.join("tree.tsv")).expect("tree.tsv");
        text.lines().map(str::to_owned).collect()
    }

    /// The objects of a store by key.
    pub fn objects(&self, store: &str) -> BTreeMap<String, Vec<u8>> {
        let root = self.folder.join(store);
        let paths = files(&root).expect("the files of a store");
        let key = |path: &Path| path.strip_prefix(&root).expect("beneath it").to_str().expect("text").to_owned();
        paths.into_iter().map(|path| (key(&path), std::fs::read(&path).expect("an object"))).collect()
    }

    /// A copy of it in a sandbox, whose host is the one that made it: keys and stores, without a configuration.
    pub fn unpack(&self) -> Sandbox {
        let sandbox = Sandbox::new();
        for path in files(&self.folder).expect("the files of a fixture") {
            let name = path.strip_prefix(&self.folder).expect("beneath it").to_path_buf();
            sandbox.write(name, std::fs::read(&path).expect("a file of a fixture"));
        }
        for name in ["identity.txt", "second-identity.txt"] {
            private(&sandbox.path(name));
        }
        let key = std::fs::read(sandbox.path("host.key")).expect("a key");
        private(&sandbox.write("home/.local/state/strongroom/host.key", key));
        sandbox
    }
}
