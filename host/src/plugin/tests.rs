//! The runtime against a guest that misbehaves in every way that it is told to.
//!
//! The guest is built once by `plugin build` itself, from `tests/guests/rogue`.

mod build;
pub(super) mod decode;
mod effects;
mod flow;
mod hostile;
mod memory;
mod never_allowed;
mod observed;

use super::build::{BuildOptions, Built, build as build_plugin};
use super::compiler::Compiler;
use super::context::RunContext;
use super::limits::Limits;
use super::verb::{BackupReport, BackupRequest};
use super::{Cache, Denials, Plugin};
use crate::bucket::SharedBucket;
use crate::error::{Error, Result};
use crate::exec::{Place, RunIn};
use crate::policy::exec::{ExecGrant, StdinGrant};
use crate::policy::slot::{SlotRule, Template};
use crate::policy::storage::{ArtifactGrant, BucketGrant, BucketVerb};
use crate::policy::{Effect, Grants, Occasion, Policy, Verb, When};
use memory::{Drawer, Notes, Shelf};
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use tokio_util::sync::CancellationToken;

/// The guest's crate.
fn rogue_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/guests/rogue")
}

fn build_rogue(out: &Path) -> Built {
    let options = BuildOptions {
        crate_dir: rogue_dir(),
        component: None,
        out: Some(out.to_owned()),
        cargo: env!("CARGO").into(),
    };
    build_plugin(&options).unwrap_or_else(|error| panic!("{error:?}"))
}

/// The guest's component, built once for all tests.
fn rogue() -> &'static [u8] {
    static BYTES: OnceLock<Vec<u8>> = OnceLock::new();
    BYTES.get_or_init(|| {
        let dir = tempfile::tempdir().unwrap();
        std::fs::read(build_rogue(&dir.path().join("rogue.wasm")).path).unwrap()
    })
}

/// A cache with the compiled guest, which is there as long as some test uses it: it is compiled once for tests that
/// overlap.
struct Compiled {
    cache: Cache,
    _dir: tempfile::TempDir,
}

impl Compiled {
    fn get() -> Arc<Self> {
        static NOW: Mutex<Weak<Compiled>> = Mutex::new(Weak::new());
        let mut now = NOW.lock().unwrap_or_else(PoisonError::into_inner);
        now.upgrade().unwrap_or_else(|| {
            let dir = tempfile::tempdir().unwrap();
            let cache = Cache::open(&dir.path().join("cache"), &dir.path().join("state"), Compiler::Here).unwrap();
            let engine = cache.engine().unwrap();
            cache.component(&engine, &super::component::digest(rogue()), rogue()).unwrap();
            let made = Arc::new(Self { cache, _dir: dir });
            *now = Arc::downgrade(&made);
            made
        })
    }
}

fn when(verbs: &[Verb], effect: Effect) -> When {
    When { verbs: verbs.iter().copied().collect(), effect, scratch: false }
}

fn exec(program: &str, args: &[&str]) -> ExecGrant {
    let slots = if args.is_empty() {
        BTreeMap::new()
    } else {
        [("word".to_owned(), SlotRule::pattern("[a-z]{1,20}").unwrap())].into()
    };
    ExecGrant {
        program: program.to_owned(),
        sha256: None,
        args: args.iter().map(|arg| Template::parse(arg).unwrap()).collect(),
        env: BTreeMap::new(),
        stdin: StdinGrant::None,
        slots,
        secrets: Vec::new(),
        secret_files: BTreeMap::new(),
        inspect: false,
        when: when(&[Verb::Backup, Verb::Diagnose], Effect::Reads),
        partial_stdin: false,
        detects_short_input: false,
        timeout: None,
    }
}

/// All that the guest's manifest requests.
pub(super) fn all_grants() -> Grants {
    let read = BTreeSet::from([BucketVerb::List, BucketVerb::Read]);
    let write = BTreeSet::from([BucketVerb::Write]);
    let bucket = |may, effect| BucketGrant {
        may,
        prefixes: vec![String::new()],
        inspect: false,
        when: when(&[Verb::Backup, Verb::Restore], effect),
    };
    Grants {
        exec: BTreeMap::from([
            ("echo".to_owned(), exec("/bin/echo", &["{word}"])),
            ("seen".to_owned(), ExecGrant { inspect: true, ..exec("/bin/echo", &["{word}"]) }),
            ("endless".to_owned(), exec("/usr/bin/yes", &[])),
            ("copy".to_owned(), ExecGrant { stdin: StdinGrant::Plugin, ..exec("/bin/cat", &[]) }),
        ]),
        buckets: BTreeMap::from([(
            "data".to_owned(),
            vec![bucket(read, Effect::Reads), bucket(write, Effect::Changes)],
        )]),
        kube: BTreeMap::new(),
        artifacts: Some(ArtifactGrant { inspect: vec![SlotRule::pattern("readable.*").unwrap()], requested: None }),
        scratch: None,
        metrics: None,
        withheld: BTreeMap::new(),
        ceilings: Vec::new(),
    }
}

/// One run of the guest, with everything in memory.
struct Bench {
    compiled: Arc<Compiled>,
    grants: Grants,
    limits: Limits,
    verb: Verb,
    shelf: Arc<Shelf>,
    notes: Arc<Notes>,
    drawer: Arc<Drawer>,
    cancel: CancellationToken,
}

impl Bench {
    fn new() -> Self {
        let limits = Limits::default();
        Self {
            compiled: Compiled::get(),
            grants: all_grants(),
            verb: Verb::Backup,
            shelf: Arc::new(Shelf::new(limits.open_transfers)),
            limits,
            notes: Arc::default(),
            drawer: Arc::default(),
            cancel: CancellationToken::new(),
        }
    }

    fn with(change: impl FnOnce(&mut Self)) -> Self {
        let mut bench = Self::new();
        change(&mut bench);
        bench
    }

    fn context(&self, deed: &str) -> RunContext {
        RunContext {
            metrics: Default::default(),
            policy: Arc::new(Policy {
                plugin: "rogue".to_owned(),
                grants: self.grants.clone(),
                occasion: Occasion { verb: self.verb, plan_only: false },
                settings: json!({ "do": deed }),
            }),
            place: Arc::new(Place {
                run_in: RunIn::Local { user: None },
                env: BTreeMap::new(),
                secrets: Default::default(),
                pod: None,
            }),
            buckets: BTreeMap::from([("data".to_owned(), Arc::clone(&self.drawer) as SharedBucket)]),
            clusters: BTreeMap::new(),
            marks: None,
            restoring: BTreeMap::new(),
            artifacts: Arc::clone(&self.shelf) as _,
            scratch: None,
            guest_dir: None,
            reporter: Arc::clone(&self.notes) as _,
            limits: self.limits.clone(),
            cancel: self.cancel.clone(),
        }
    }

    async fn load(&self) -> Plugin {
        let sha256 = super::component::digest(rogue());
        Plugin::load("rogue", rogue().to_vec(), &sha256, &self.grants, &self.compiled.cache.within(&self.limits))
            .await
            .unwrap_or_else(|e| panic!("{e:?}"))
    }

    /// Runs `backup` and gives its answer with what was denied.
    async fn backup(&self, deed: &str) -> (Result<BackupReport>, Denials) {
        let instance = self.load().await.start(self.context(deed)).await.unwrap_or_else(|e| panic!("{e:?}"));
        let denials = instance.denials();
        let request = BackupRequest { settings: json!({ "do": deed }), previous: None };
        (instance.backup(request).await, denials)
    }
}

/// An error with all that an operator is shown of it, the host's own error behind it included.
pub(super) fn in_full(error: &Error) -> String {
    let mut text = String::new();
    let mut at: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = at {
        text.push_str(&format!("{error}\n"));
        if let Some(error) = error.downcast_ref::<Error>() {
            for (label, value) in error.facts() {
                text.push_str(&format!("  {label}: {value}\n"));
            }
            if let Some(hint) = error.hint_text() {
                text.push_str(&format!("  hint: {hint}\n"));
            }
        }
        at = error.source();
    }
    text
}
