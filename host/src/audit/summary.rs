//! Arguments in short: readable where they may be read, keyed hashes where they hold a secret.

use super::line::{Argument, MAX_TEXT_BYTES};
use super::{Keys, PURPOSE_VALUES};
use crate::catalog::HostKey;
use crate::policy::kube::{KubeCall, KubeVerb};
use crate::policy::metrics::MetricsCall;
use crate::policy::storage::{ArtifactVerb, BucketVerb};
use crate::policy::{Call, Policy};
use crate::secret::{MIN_SECRET_BYTES, Redactor};
use std::collections::BTreeMap;
use zeroize::Zeroizing;

/// Most arguments of one line; the rest is one hash.
const MAX_ARGUMENTS: usize = 64;

/// Words that stand before a secret in a connection string or on a command line.
const TELLING: [&str; 7] = ["password", "passwd", "pwd", "secret", "token", "apikey", "api_key"];

/// Writes arguments in short. Holds the job's secrets to find them, and writes none.
pub struct Summary {
    redactor: Redactor,
    key: Zeroizing<[u8; 32]>,
}

impl Summary {
    /// For a run whose secrets this finds, those that it learns later included.
    pub fn new(host: &HostKey, redactor: Redactor) -> Self {
        Self { redactor, key: host.derive(PURPOSE_VALUES) }
    }

    /// The arguments of a call. Of an allowed command it is the whole command line, with the variables that
    /// the grant sets and the names of its secrets.
    pub(super) fn of(&self, call: &Call<'_>, policy: &Policy) -> Vec<Argument> {
        let mut all = Vec::new();
        match call {
            Call::Exec(exec) => {
                self.push(&mut all, "command", exec.command);
                match policy.command_line(exec, Some("{scratch}")) {
                    Ok(line) => {
                        self.push(&mut all, "program", &line.program);
                        line.sha256.iter().for_each(|pinned| self.push(&mut all, "sha256", pinned));
                        line.args.iter().for_each(|arg| self.push(&mut all, "argument", arg));
                        // What fills only a variable is in no argument.
                        for (name, value) in &line.env {
                            self.push(&mut all, "variable", &format!("{name}={value}"));
                        }
                        line.secrets.iter().for_each(|name| self.push(&mut all, "secret", name));
                        line.secret_files.values().for_each(|name| self.push(&mut all, "secret", name));
                    }
                    Err(_) => exec.slots.iter().for_each(|(name, value)| {
                        let name = format!("slot.{}", super::line::cut(name));
                        self.push(&mut all, &name, value);
                    }),
                }
                if let Some(origin) = exec.stdin {
                    self.push(&mut all, "stdin", &origin.to_string());
                }
            }
            Call::Bucket(bucket) => {
                self.push(&mut all, "bucket", bucket.bucket);
                self.push(&mut all, "verb", bucket.verb.map_or("open", BucketVerb::name));
                for (name, value) in [("key", bucket.key), ("part", bucket.part)] {
                    value.into_iter().for_each(|value| self.push(&mut all, name, value));
                }
            }
            Call::Artifact(artifact) => {
                self.push(&mut all, "verb", artifact.verb.name());
                if artifact.verb != ArtifactVerb::List {
                    self.push(&mut all, "artifact", artifact.name);
                }
            }
            Call::Scratch => {
                let most = policy.scratch().map_or(0, |grant| grant.bytes);
                self.push(&mut all, "bytes", &most.to_string());
            }
            Call::Kube(kube) => self.of_kube(&mut all, kube),
            Call::Metrics(MetricsCall::Write(name)) => self.push(&mut all, "metric", name),
            Call::Metrics(MetricsCall::Query(names)) => {
                let names: std::collections::BTreeSet<_> = names.iter().map(|name| name.unwrap_or("(none)")).collect();
                names.into_iter().for_each(|name| self.push(&mut all, "metric", name));
            }
            Call::Read { origin, .. } => self.push(&mut all, "origin", &origin.to_string()),
        }
        all
    }

    /// Of one object what it is called; of many how many of each kind, and a digest of the list of their
    /// names, in order: a million objects are some lines of the log, and each can still be proven.
    fn of_kube(&self, all: &mut Vec<Argument>, call: &KubeCall<'_>) {
        self.push(all, "cluster", call.cluster);
        self.push(all, "verb", call.verb.map_or("ask", KubeVerb::name));
        match call.objects {
            [] => {}
            [one] => {
                self.push(all, "kind", one.kind);
                for (name, value) in [("namespace", one.namespace), ("name", one.name)] {
                    value.into_iter().for_each(|value| self.push(all, name, value));
                }
            }
            many => {
                self.push(all, "objects", &many.len().to_string());
                let mut kinds: BTreeMap<&str, usize> = BTreeMap::new();
                let mut names = blake3::Hasher::new();
                for object in many {
                    *kinds.entry(object.kind).or_default() += 1;
                    let namespace = object.namespace.unwrap_or_default();
                    let line = format!("{} {namespace}/{}\n", object.kind, object.name.unwrap_or_default());
                    names.update(line.as_bytes());
                }
                kinds.iter().for_each(|(kind, n)| self.push(all, "kind", &format!("{n} {kind}")));
                self.push(all, "names", &format!("blake3 {}", names.finalize().to_hex()));
            }
        }
    }

    /// Text without secrets, cut.
    pub(super) fn text(&self, text: &str) -> String {
        // Cut generously first: a message may quote a megabyte of a guest's.
        let mut end = text.len().min(MAX_TEXT_BYTES * 8);
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        super::line::cut(&self.redactor.text(&text[..end]))
    }

    fn push(&self, all: &mut Vec<Argument>, name: &str, value: &str) {
        if all.len() < MAX_ARGUMENTS {
            all.push(self.argument(name, value));
        } else if let Some(last) = all.last_mut() {
            // Chained, so that one hash stands for all that follow.
            let before = last.hash.take().or_else(|| last.value.take()).unwrap_or_default();
            let hash = Some(self.hash(&format!("{before}\n{name}\n{value}")));
            *last = Argument { name: "more".to_owned(), value: None, hash };
        }
    }

    fn argument(&self, name: &str, value: &str) -> Argument {
        let name = name.to_owned();
        // What is shorter than any secret holds none.
        let is_long = value.len() >= MIN_SECRET_BYTES;
        if is_long && (holds_credentials(value) || self.redactor.finds(value)) {
            return Argument { name, value: None, hash: Some(self.hash(value)) };
        }
        let hash = (value.len() > MAX_TEXT_BYTES).then(|| self.hash(value));
        Argument { name, value: Some(super::line::cut(value)), hash }
    }

    fn hash(&self, value: &str) -> String {
        hash(&self.key, value.as_bytes())
    }
}

impl std::fmt::Debug for Summary {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Summary(…)")
    }
}

impl Keys {
    /// The keyed hash of a value, as lines write it; `None` without the host's key.
    pub fn hash_value(&self, value: &[u8]) -> Option<String> {
        self.values.as_ref().map(|key| hash(key, value))
    }
}

fn hash(key: &[u8; 32], value: &[u8]) -> String {
    blake3::keyed_hash(key, value).to_hex()[..32].to_owned()
}

/// Whether a text looks like one that holds a password: a URL with one, or `password=…`.
fn holds_credentials(text: &str) -> bool {
    // Most values have neither, and this is done for every argument of every line.
    if !text.contains(['=', ':']) {
        return false;
    }
    let in_url = text.split("://").skip(1).any(|rest| {
        let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
        authority.rsplit_once('@').is_some_and(|(user, _)| user.contains(':'))
    });
    let lower = text.to_ascii_lowercase();
    let named = |word: &str| {
        lower.match_indices(word).any(|(at, _)| {
            let rest = lower[at + word.len()..].trim_start();
            rest.strip_prefix(['=', ':']).is_some_and(|value| !value.trim().is_empty())
        })
    };
    in_url || TELLING.iter().any(|word| named(word))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secret::Secret;

    #[test]
    fn what_holds_a_secret_is_a_hash_in_every_form_of_it() {
        let secret = Secret::new("correct horse".to_owned());
        let host = HostKey::ephemeral().unwrap();
        let summary = Summary::new(&host, Redactor::new([&secret]));
        for value in [
            "correct horse",
            "x-correct%20horse-y",
            "Y29ycmVjdCBob3JzZQ==",
            "postgresql://app:hunter2hunter2@db/shop",
            "redis://:hunter2hunter2@cache",
            "host=db Password = hunter2hunter2",
            "token:abcd",
        ] {
            let argument = summary.argument("argument", value);
            assert_eq!(argument.value, None, "{value}");
            assert_eq!(argument, summary.argument("argument", value), "equal values have equal hashes");
            assert_ne!(
                argument.hash,
                Summary::new(&HostKey::ephemeral().unwrap(), Redactor::default()).argument("a", "token:x").hash
            );
        }
        for value in ["shop", "postgresql://app@db/shop", "password", "https://db:5432/x", "a@b:c"] {
            assert_eq!(summary.argument("argument", value).value.as_deref(), Some(value));
        }
    }

    #[test]
    fn what_fills_only_a_variable_is_in_the_line_of_its_command() {
        use crate::policy::exec::{ExecCall, ExecGrant};
        use crate::policy::slot::{SlotRule, Template};
        use crate::policy::{Grants, Occasion, Verb};
        let template = |text: &str| Template::parse(text).unwrap();
        let grant = ExecGrant {
            args: vec![template("-X")],
            env: [("PGDATABASE", "{database}"), ("PGAPPNAME", "strongroom"), ("PGOPTIONS", "-c note={database}")]
                .map(|(name, text)| (name.to_owned(), template(text)))
                .into(),
            slots: BTreeMap::from([("database".to_owned(), SlotRule::pattern(".*").unwrap())]),
            secrets: vec!["PGPASSWORD".to_owned()],
            ..ExecGrant::reading("/usr/bin/psql")
        };
        let policy = Policy {
            plugin: "pg".to_owned(),
            grants: Grants { exec: [("query".to_owned(), grant)].into(), ..Grants::default() },
            occasion: Occasion { verb: Verb::Backup, plan_only: false },
            settings: serde_json::json!({}),
        };
        let secret = Secret::new("correct horse".to_owned());
        let summary = Summary::new(&HostKey::ephemeral().unwrap(), Redactor::new([&secret]));
        let of = |value: &str| {
            let slots = [("database".to_owned(), value.to_owned())];
            let call = ExecCall { command: "query", slots: &slots, stdin: None, reads_output: false, program: None };
            summary.of(&Call::Exec(call), &policy)
        };
        let shown = |value: &str| -> Vec<String> {
            of(value).iter().map(|one| format!("{}: {}", one.name, one.value.as_deref().unwrap_or("#"))).collect()
        };
        insta::assert_snapshot!(shown("shop").join("\n"), @r"
        command: query
        program: /usr/bin/psql
        argument: -X
        variable: PGAPPNAME=strongroom
        variable: PGDATABASE=shop
        variable: PGOPTIONS=-c note=shop
        secret: PGPASSWORD
        ");
        for value in ["correct horse", "Y29ycmVjdCBob3JzZQ==", "postgresql://app:hunter2hunter2@db/shop"] {
            let hidden = shown(value);
            assert_eq!(hidden.iter().filter(|one| *one == "variable: #").count(), 2, "{hidden:?}");
            assert!(!hidden.concat().contains(value), "{hidden:?}");
        }
        let long = of(&"x".repeat(1000));
        assert!(long.iter().all(|one| one.value.as_ref().is_none_or(|value| value.len() < MAX_TEXT_BYTES + 40)));
    }

    #[test]
    fn long_and_many_arguments_are_bounded_and_still_told_apart() {
        let summary = Summary::new(&HostKey::ephemeral().unwrap(), Redactor::default());
        let long = |end: &str| summary.argument("key", &format!("{}{end}", "k".repeat(100_000)));
        assert!(long("a").value.as_ref().unwrap().len() < MAX_TEXT_BYTES + 40);
        assert_ne!(long("a").hash, long("b").hash);
        let many = |n: usize| {
            let mut all = Vec::new();
            (0..n).for_each(|n| summary.push(&mut all, "argument", &n.to_string()));
            all
        };
        assert_eq!((many(64).len(), many(10_000).len()), (64, 64));
        assert_ne!(many(9_999), many(10_000));
        assert_eq!(many(10_000)[63].name, "more");
    }
}
