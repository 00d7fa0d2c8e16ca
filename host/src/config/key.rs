//! The table of keys: every key that the configuration knows, with its shape and its documentation.
//!
//! Decoding, the advice for unknown keys and `config schema` all read this table, so that a key
//! cannot exist in one of them alone. Pure data.

use crate::policy::scratch::{MAX_BYTES, MIN_BYTES};
use crate::store::bandwidth::{MAX_BYTES_PER_SECOND, MIN_BYTES_PER_SECOND};

/// A table of the configuration: its keys, in the order in which they are documented.
#[derive(Debug)]
pub struct Section {
    /// What a person calls one of these, such as `store`; for messages.
    pub name: &'static str,
    /// One line.
    pub doc: &'static str,
    /// Its keys.
    pub keys: &'static [Key],
}

/// One key.
#[derive(Debug)]
pub struct Key {
    /// As it is written.
    pub name: &'static str,
    /// What it holds.
    pub shape: Shape,
    /// Whether the table is wrong without it.
    pub required: bool,
    /// One or two lines: what it does, its unit, its default.
    pub doc: &'static str,
}

/// What a key holds.
#[derive(Debug)]
pub enum Shape {
    /// Any text.
    Text,
    /// `true` or `false`.
    Flag,
    /// A whole number from the first to the second, both included.
    Whole(u64, u64),
    /// A number of bytes, or a text such as `"8MiB"`; from the first to the second, both included.
    Size(u64, u64),
    /// A text such as `"30s"`.
    Duration,
    /// One of these words.
    Word(&'static Words),
    /// A table of the plugin's own, handed on as JSON.
    Json,
    /// A secret by reference.
    Secret,
    /// A list.
    List(&'static Shape),
    /// A table whose keys the operator chooses.
    Map(Names, &'static Shape),
    /// A table with known keys.
    Table(&'static Section),
    /// Such a table, or several of them.
    Tables(&'static Section),
    /// Any of these; told apart by their TOML type.
    Union(&'static [Shape]),
    /// Planned and not built: what to use now.
    NotBuilt(&'static str),
}

/// The words that a [`Shape::Word`] accepts.
#[derive(Debug)]
pub struct Words {
    /// Accepted.
    pub known: &'static [&'static str],
    /// Planned and not built, with what to use now.
    pub not_built: &'static [(&'static str, &'static str)],
}

/// What the keys of a [`Shape::Map`] may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Names {
    /// An operator's label, see [`crate::id::Label`].
    Label,
    /// A label of the plugin's: `[A-Za-z0-9_-]{1,64}`.
    Vendor,
    /// An environment variable: `[A-Za-z_][A-Za-z0-9_]*`.
    Variable,
}

impl Names {
    /// The names as an anchored regular expression, for people and for the schema.
    pub fn pattern(self) -> &'static str {
        match self {
            Names::Label => "^[a-z0-9][a-z0-9_-]{0,62}$",
            Names::Vendor => "^[A-Za-z0-9_-]{1,64}$",
            Names::Variable => "^[A-Za-z_][A-Za-z0-9_]{0,127}$",
        }
    }

    /// Whether `name` is one of them.
    pub fn admits(self, name: &str) -> bool {
        let plain = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        let word = |b: &u8| b.is_ascii_alphanumeric() || *b == b'_';
        let Some((first, rest)) = name.as_bytes().split_first() else { return false };
        match self {
            Names::Label => {
                plain(first) && rest.len() <= 62 && rest.iter().all(|b| plain(b) || matches!(b, b'_' | b'-'))
            }
            Names::Vendor => rest.len() <= 63 && name.as_bytes().iter().all(|b| word(b) || *b == b'-'),
            Names::Variable => !first.is_ascii_digit() && rest.len() <= 127 && name.as_bytes().iter().all(word),
        }
    }
}

const fn must(name: &'static str, shape: Shape, doc: &'static str) -> Key {
    Key { name, shape, required: true, doc }
}

const fn may(name: &'static str, shape: Shape, doc: &'static str) -> Key {
    Key { name, shape, required: false, doc }
}

const fn not_built(name: &'static str, instead: &'static str) -> Key {
    Key { name, shape: Shape::NotBuilt(instead), required: false, doc: "Not built yet." }
}

/// The whole file.
pub static ROOT: Section = Section {
    name: "configuration",
    doc: "Configuration of Strongroom, the backup host with sandboxed plugins.",
    keys: &[
        may(
            "trusted_hosts",
            Shape::List(&Shape::Text),
            "Public keys of other hosts whose backup records are believed, as `strongroom key show` prints them there.",
        ),
        may(
            "trusted_keys",
            Shape::List(&Shape::Text),
            "minisign public keys that are trusted to sign plugins: the second line of a vendor's .pub file, several while keys change.",
        ),
        may(
            "signatures",
            Shape::Word(&Words { known: &["required", "optional"], not_built: &[] }),
            "\"required\": a plugin without a good signature does not run. \"optional\" unless set: one that is there must be good.",
        ),
        may("revoked", Shape::List(&Shape::Text), "SHA-256 of components that must never run, whatever is approved."),
        may("store", Shape::Map(Names::Label, &Shape::Table(&STORE)), "Places where backups are kept, by label."),
        may(
            "bucket",
            Shape::Map(Names::Label, &Shape::Table(&BUCKET)),
            "Buckets that plugins read or write as data, by label.",
        ),
        may("plugin", Shape::Map(Names::Label, &Shape::Table(&PLUGIN)), "Plugins and what they may do, by label."),
        may(
            "target",
            Shape::Map(Names::Label, &Shape::Table(&TARGET)),
            "Places to restore into, and to verify by restore, by label.",
        ),
        may("job", Shape::Map(Names::Label, &Shape::Table(&JOB)), "What is backed up, by label."),
        may("cluster", Shape::Map(Names::Label, &Shape::Table(&CLUSTER)), "Kubernetes clusters, by label."),
        may("metrics", Shape::Table(&METRICS), "Where metrics go, and where plugins may ask for some."),
        may("audit", Shape::Table(&AUDIT), "The log of what plugins did; `strongroom audit` reads and checks it."),
    ],
};

static AUDIT: Section = Section {
    name: "audit",
    doc: "The log of what plugins did. It lies in the directory `audit` of the state directory.",
    keys: &[may(
        "keep",
        Shape::Duration,
        "How long the log of a run is kept at least; \"400d\" unless set. Older ones are removed once the record of a backup anchors them.",
    )],
};

static METRICS: Section = Section {
    name: "metrics",
    doc: "Where metrics go. They are kept in the directory `metrics` of the state directory in any case.",
    keys: &[
        may(
            "textfile",
            Shape::Text,
            "A file for the textfile collector of node_exporter, relative to this file; its name ends in .prom.",
        ),
        may(
            "pushgateway",
            Shape::Union(&[Shape::Text, Shape::Table(&METRICS_SERVER)]),
            "URL of a Pushgateway that gets the metrics after each run, or a table with credentials.",
        ),
        may(
            "prometheus",
            Shape::Union(&[Shape::Text, Shape::Table(&METRICS_SERVER)]),
            "URL of the Prometheus that plugins may query where they are granted it, or a table with credentials.",
        ),
    ],
};

static METRICS_SERVER: Section = Section {
    name: "server of metrics",
    doc: "A server, and how to say who we are. No redirect is followed, and no proxy is used.",
    keys: &[
        must("url", Shape::Text, "Its URL, such as \"https://prometheus.example.org\"; never with a password in it."),
        may("token", Shape::Secret, "A bearer token."),
        may("username", Shape::Text, "A user, with `password`."),
        may("password", Shape::Secret, "The user's password."),
        may("ca", Shape::Text, "A PEM file with the only authorities that are believed; the system's unless set."),
    ],
};

static STORE_TYPES: Words = Words {
    known: &["local", "s3"],
    not_built: &[
        ("gcs", "use type = \"s3\" with endpoint = \"https://storage.googleapis.com\" and an HMAC key"),
        ("azure", "use an S3 gateway in front of it and type = \"s3\", or type = \"local\" on a mounted share"),
    ],
};

/// The smallest part that S3 takes, except the last of an object, in bytes.
/// <https://docs.aws.amazon.com/AmazonS3/latest/userguide/qfacts.html>
pub const MIN_S3_PART_BYTES: u64 = 5 << 20;

static STORE: Section = Section {
    name: "store",
    doc: "A place where backups are kept.",
    keys: &[
        must("type", Shape::Word(&STORE_TYPES), "\"local\" (a directory) or \"s3\" (S3 and servers like it)."),
        may("path", Shape::Text, "type = \"local\": the directory, relative to this file."),
        may("bucket", Shape::Text, "type = \"s3\": the bucket; it must exist."),
        may("prefix", Shape::Text, "type = \"s3\": everything lies below this prefix. Empty unless set."),
        may("region", Shape::Text, "type = \"s3\": \"us-east-1\" unless set."),
        may(
            "endpoint",
            Shape::Text,
            "type = \"s3\": URL of a server other than AWS, such as \"https://s3.example.org:9000\".",
        ),
        may(
            "path_style",
            Shape::Flag,
            "type = \"s3\": the bucket in the path and not in the host name. True when `endpoint` is set.",
        ),
        may(
            "access_key",
            Shape::Secret,
            "type = \"s3\": id of the access key; the platform's standard chain unless set.",
        ),
        may("secret_key", Shape::Secret, "type = \"s3\": the secret access key."),
        may("session_token", Shape::Secret, "type = \"s3\": session token of temporary credentials."),
        may(
            "recipients",
            Shape::List(&Shape::Text),
            "age public keys (age1…) that can read the backups; use two, one of them offline.",
        ),
        may(
            "encryption",
            Shape::Word(&Words { known: &["on", "off"], not_built: &[] }),
            "\"on\" unless set; \"off\" stores bare zstd, without recipients.",
        ),
        may(
            "identity",
            Shape::Secret,
            "The age identity; needed only to read (verify contents, restore), never to back up.",
        ),
        may(
            "level",
            Shape::Union(&[Shape::Whole(1, 19), Shape::Word(&Words { known: &["auto"], not_built: &[] })]),
            "zstd level, 1 to 19; 2 unless set. \"auto\": from 1 to 6, higher while the store is what a backup waits for, lower while the processor is.",
        ),
        may(
            "part_bytes",
            Shape::Size(256 << 10, 512 << 20),
            "Size of an uploaded part: a power of two; \"8MiB\" unless set, which is the least for S3.",
        ),
        may("parts_per_segment", Shape::Whole(2, 10_000), "Parts in one object at most; 950 unless set."),
        may(
            "parts_in_flight",
            Shape::Whole(1, 64),
            "Parts under way that all transfers share, at most; 4 unless set, and one more for each transfer. Fewer while the store asks to slow down. Memory: part_bytes x (parts_in_flight + transfers open at once), of a sum that docs/performance.md has.",
        ),
        may(
            "upload_rate",
            Shape::Size(MIN_BYTES_PER_SECOND, MAX_BYTES_PER_SECOND),
            "Bytes a second that are sent to the store at most, such as \"20MiB\"; no limit unless set.",
        ),
        may(
            "download_rate",
            Shape::Size(MIN_BYTES_PER_SECOND, MAX_BYTES_PER_SECOND),
            "Bytes a second that are read from the store at most; no limit unless set.",
        ),
        may(
            "object_lock",
            Shape::Table(&OBJECT_LOCK),
            "type = \"s3\": locks whatever is written, but for leases; the bucket must have object lock turned on. What was overwritten or deleted is found by its versions: allow s3:ListBucketVersions.",
        ),
        may(
            "stall",
            Shape::Duration,
            "type = \"s3\": longest time without progress of one request before it is tried again, five times that for the completion of an upload; \"60s\" unless set.",
        ),
        may(
            "patience",
            Shape::Duration,
            "How long one request is tried again while the store is in trouble; \"10m\" unless set. A question that somebody waits for, such as list or show, is given up within 30s.",
        ),
    ],
};

static OBJECT_LOCK: Section = Section {
    name: "object lock",
    doc: "How long what is written cannot be removed, and who may remove it earlier.",
    keys: &[
        must(
            "mode",
            Shape::Word(&Words { known: &["compliance", "governance"], not_built: &[] }),
            "\"compliance\": nobody, before its time; \"governance\": whoever has a right of its own for it.",
        ),
        must("days", Shape::Whole(1, 36_500), "Days from the moment of writing; longer than backups are kept."),
    ],
};

static BUCKET: Section = Section {
    name: "bucket",
    doc: "An object store, or a directory tree, that plugins read or write as data.",
    keys: &[
        must(
            "type",
            Shape::Word(&Words {
                known: &["local"],
                not_built: &[
                    ("s3", "mount it or copy it with its own client, and use type = \"local\""),
                    ("gcs", "mount it or copy it with its own client, and use type = \"local\""),
                    ("azure", "mount it or copy it with its own client, and use type = \"local\""),
                ],
            }),
            "\"local\": a directory tree.",
        ),
        must("path", Shape::Text, "Root of the tree, relative to this file."),
    ],
};

static CLUSTER: Section = Section {
    name: "cluster",
    doc: "A Kubernetes cluster: where it is, by exactly one of `context`, `api` and `in_cluster`, and who we are there.",
    keys: &[
        may("context", Shape::Text, "A context of a kubeconfig."),
        may(
            "kubeconfig",
            Shape::Text,
            "With `context`: the file, relative to this one. What KUBECONFIG names, or ~/.kube/config, unless set.",
        ),
        may(
            "exec_credentials",
            Shape::Flag,
            "With `context`: the kubeconfig may run the program that it names to get credentials. False unless set.",
        ),
        may("api", Shape::Text, "Address of the API server, such as \"https://10.0.0.1:6443\"."),
        may(
            "ca",
            Shape::Text,
            "With `api`: file of the certificates (PEM) that its certificate is signed by. The machine's own unless set.",
        ),
        may("in_cluster", Shape::Flag, "The cluster that strongroom runs in, with the pod's service account."),
        may("token", Shape::Secret, "Bearer token; read again when the server refuses it."),
        may("client_certificate", Shape::Secret, "Client certificate (PEM), instead of a token."),
        may("client_key", Shape::Secret, "Its key (PEM)."),
        may("as", Shape::Text, "User to act as, which the cluster must allow (impersonation)."),
        may("restore", Shape::Table(&CLUSTER_RESTORE), "Who we are when we restore, or verify; as always unless set."),
        may(
            "proxy",
            Shape::Text,
            "URL of a proxy. That of the kubeconfig unless set, else what HTTPS_PROXY and NO_PROXY say, but for `in_cluster` and servers of this machine.",
        ),
        may("timeout", Shape::Duration, "How long the server may say nothing; \"60s\" unless set."),
        may(
            "patience",
            Shape::Duration,
            "How long one request is tried again to a server that has answered before; \"2m\" unless set. Once that was in vain, each further request has four attempts within 30s, until the server answers again.",
        ),
        may(
            "requests_per_second",
            Shape::Whole(1, 100_000),
            "Requests in a second at most; no limit unless set, since the server has its own.",
        ),
        may("in_flight", Shape::Whole(1, 256), "Requests at once, of all that a run asks of it; 16 unless set."),
    ],
};

static CLUSTER_RESTORE: Section = Section {
    name: "cluster restore",
    doc: "Who we are in a cluster when we restore, or verify: a backup then needs no right to change anything.",
    keys: &[
        may("context", Shape::Text, "Another context of the same kubeconfig."),
        may("token", Shape::Secret, "Bearer token."),
        may("client_certificate", Shape::Secret, "Client certificate (PEM), instead of a token."),
        may("client_key", Shape::Secret, "Its key (PEM)."),
        may("as", Shape::Text, "User to act as, which the cluster must allow (impersonation)."),
    ],
};

static PLUGIN: Section = Section {
    name: "plugin",
    doc: "A plugin, pinned by digest, and what it may do.",
    keys: &[
        must("source", Shape::Text, "Path of the component (.wasm), relative to this file."),
        may(
            "sha256",
            Shape::Text,
            "The digest that was approved, 64 hex digits; without it nothing runs. Written by `plugin approve`.",
        ),
        may("grant", Shape::Table(&GRANT), "What it may do; nothing unless granted. Written by `plugin approve`."),
        may("limits", Shape::Table(&LIMITS), "What one run may use at most."),
        may(
            "signature",
            Shape::Text,
            "File of its signature; the file beside it that ends in .wasm.minisig unless set.",
        ),
        may(
            "trusted_keys",
            Shape::List(&Shape::Text),
            "minisign public keys that may sign this plugin, instead of the file's `trusted_keys`.",
        ),
    ],
};

static GRANT: Section = Section {
    name: "grant",
    doc: "What a plugin may do.",
    keys: &[
        may(
            "exec",
            Shape::Map(Names::Vendor, &Shape::Table(&EXEC)),
            "Command lines, by the label that the plugin uses.",
        ),
        may(
            "bucket",
            Shape::Map(Names::Label, &Shape::Tables(&BUCKET_GRANT)),
            "Buckets, by label; one grant or several, such as one to read and one to restore.",
        ),
        may("artifacts", Shape::Table(&ARTIFACTS), "The artifacts of its own backups."),
        may("scratch", Shape::Table(&SCRATCH), "A private scratch directory, for a plugin that imports WASI."),
        may(
            "kube",
            Shape::Map(Names::Label, &Shape::Tables(&KUBE_GRANT)),
            "Resources of clusters, by label; one grant or several, such as one to read and one to restore.",
        ),
        may("metrics", Shape::Table(&METRICS_GRANT), "Metrics: what it may write, and what it may ask Prometheus for."),
    ],
};

static VERBS: Shape = Shape::Word(&Words { known: &["backup", "verify", "restore", "diagnose"], not_built: &[] });
static EFFECT: Words = Words { known: &["reads", "changes"], not_built: &[] };

static EXEC: Section = Section {
    name: "exec grant",
    doc: "One command line.",
    keys: &[
        must("program", Shape::Text, "Absolute path of the program, where the command runs."),
        may(
            "sha256",
            Shape::Text,
            "The only program that may lie there, by the SHA-256 of its file, 64 hex digits; for commands on this machine. Any unless set.",
        ),
        may("args", Shape::List(&Shape::Text), "Arguments; {slot} stands for a slot's value, {{ and }} for braces."),
        may("env", Shape::Map(Names::Variable, &Shape::Text), "Environment, with {slot} holes like `args`."),
        may(
            "stdin",
            Shape::Union(&[Shape::Word(&Words { known: &["plugin"], not_built: &[] }), Shape::Table(&STDIN)]),
            "What it reads: nothing unless set; a fixed text, an artifact, or \"plugin\" (whatever the plugin gives).",
        ),
        may(
            "slots",
            Shape::Map(Names::Vendor, &Shape::Union(&[Shape::Text, Shape::Table(&SLOT)])),
            "What may fill the holes, by slot: an anchored regular expression, or a table.",
        ),
        may(
            "secrets",
            Shape::List(&Shape::Text),
            "Names of the job's secrets that the command gets, as environment variables.",
        ),
        may(
            "secret_files",
            VARIABLES,
            "Secrets that the command gets as a file in memory, by the variable that holds its path: { PGPASSFILE = \"PGPASS\" }.",
        ),
        may("inspect", Shape::Flag, "Whether the plugin may read the output. False unless set."),
        must("verbs", Shape::List(&VERBS), "Verbs that it holds for: backup, verify, restore, diagnose."),
        must("effect", Shape::Word(&EFFECT), "\"reads\" or \"changes\"."),
        may("scratch", Shape::Flag, "It changes only scratch places, so that `verify` may use it. False unless set."),
        may(
            "partial_stdin",
            Shape::Flag,
            "A program that stops reading early and exits with 0 succeeded. False unless set.",
        ),
        may(
            "detects_short_input",
            Shape::Flag,
            "The program itself fails when its input ends too soon. False unless set.",
        ),
        may("timeout", Shape::Duration, "Longest time without progress, such as \"10m\"; `limits.stall` unless set."),
    ],
};

static STDIN: Section = Section {
    name: "stdin",
    doc: "Standard input of a command: a fixed text, or an artifact.",
    keys: &[
        may("text", Shape::Text, "Exactly this text."),
        may("hold", Shape::Flag, "With `text`: standard input stays open after it. False unless set."),
        may("artifact", Shape::Text, "An artifact of the backup in scope whose name matches this pattern."),
        may("made_by", Shape::Text, "With `artifact`: the label of the command that must have made it."),
    ],
};

static SLOT: Section = Section {
    name: "slot",
    doc: "What may fill a slot: exactly one of `pattern`, `glob` and `setting`.",
    keys: &[
        may("pattern", Shape::Text, "A regular expression over the whole value."),
        may("glob", Shape::Text, "`*` stands for letters, digits, `_`, `.` and `-`."),
        may("setting", Shape::Text, "Exactly what the job's setting of this name holds."),
        may("max_bytes", Shape::Whole(1, 1 << 20), "Longest value in bytes."),
        may("max_count", Shape::Whole(1, 10_000), "How many values, where the slot is an argument of its own."),
    ],
};

static BUCKET_GRANT: Section = Section {
    name: "bucket grant",
    doc: "What may be done with a bucket.",
    keys: &[
        must(
            "may",
            Shape::List(&Shape::Word(&Words {
                known: &["list", "read", "write", "overwrite", "owners", "delete"],
                // Only buckets with versions and a configuration have them, and a grant of `write-config` would
                // name the parts.
                not_built: &[
                    ("delete-version", "a directory has one version of a file: use \"delete\""),
                    ("read-config", "keep what configures the bucket beside its data, with its own client"),
                    ("write-config", "configure the bucket with its own client before the restore"),
                ],
            })),
            "What may be done: list, read, write, overwrite, owners, delete. Without owners, a write keeps no owner, no set-id bit and no extended attribute but user.*.",
        ),
        may("prefixes", Shape::List(&Shape::Text), "Keys that it holds for, by prefix. The whole bucket unless set."),
        may("inspect", Shape::Flag, "Whether the plugin may read the objects' bytes itself. False unless set."),
        must("verbs", Shape::List(&VERBS), "Verbs that it holds for: backup, verify, restore, diagnose."),
        must("effect", Shape::Word(&EFFECT), "\"reads\" or \"changes\"."),
        may("scratch", Shape::Flag, "It changes only scratch places, so that `verify` may use it. False unless set."),
    ],
};

static KUBE_GRANT: Section = Section {
    name: "kube grant",
    doc: "What may be done with the resources of a cluster.",
    keys: &[
        must(
            "may",
            Shape::List(&Shape::Word(&Words {
                known: &["list", "get", "dry-run", "apply", "delete", "logs"],
                not_built: &[],
            })),
            "What may be done: list, get, dry-run (ask the server what a change would do), apply, delete, logs (of pods).",
        ),
        must(
            "kinds",
            Shape::List(&Shape::Text),
            "Kinds as group/Kind, the core group as /Kind, such as \"/ConfigMap\". \"*\" is every kind that gives no power over the cluster; the others (pods and what makes them, Secrets, RBAC, webhooks, definitions) count only when named. Secrets that are tokens are \"/TokenSecret\" when they are written.",
        ),
        may(
            "namespaces",
            Shape::List(&Shape::Text),
            "Namespaces, where * stands for any characters. All of them, and what lies in none, unless set.",
        ),
        may("names", Shape::List(&Shape::Text), "Names of objects, where * stands for any characters. All unless set."),
        may(
            "labels",
            Shape::List(&Shape::Text),
            "Labels that objects must have, each as \"key=value\", where * stands for any characters of the value.",
        ),
        may(
            "inspect",
            Shape::Flag,
            "Whether the plugin may read the bodies that it stores, and logs. False unless set; lists and single objects it sees.",
        ),
        may(
            "secret_data",
            Shape::Flag,
            "Whether it sees the values of Secrets. False unless set; it stores them unseen.",
        ),
        must("verbs", Shape::List(&VERBS), "Verbs that it holds for: backup, verify, restore, diagnose."),
        must("effect", Shape::Word(&EFFECT), "\"reads\" or \"changes\"."),
        may("scratch", Shape::Flag, "It changes only scratch places, so that `verify` may use it. False unless set."),
    ],
};

static ARTIFACTS: Section = Section {
    name: "artifacts grant",
    doc: "The artifacts of the plugin's own backups.",
    keys: &[may(
        "inspect",
        Shape::List(&Shape::Text),
        "Patterns of the artifacts whose bytes the plugin may read itself. None unless set.",
    )],
};

static SCRATCH: Section = Section {
    name: "scratch grant",
    doc: "A private directory, /scratch for the plugin: empty when a verb begins, gone when it ends.",
    keys: &[
        must(
            "bytes",
            Shape::Size(MIN_BYTES, MAX_BYTES),
            "What its files may hold together, such as \"64MiB\"; limits.scratch_files bounds how many there are.",
        ),
        must("verbs", Shape::List(&VERBS), "Verbs that it holds for: backup, verify, restore, diagnose."),
    ],
};

static METRICS_GRANT: Section = Section {
    name: "metrics grant",
    doc: "Metrics: names that the plugin may write, and names that it may query.",
    keys: &[
        may(
            "prefix",
            Shape::Text,
            "What names that it writes begin with, such as \"shop_\". It writes none unless set. backup_ and strongroom_ are the host's own.",
        ),
        may(
            "query",
            Shape::List(&Shape::Text),
            "Names of metrics that it may ask Prometheus for, in full. None unless set.",
        ),
        may(
            "labels",
            Shape::Map(Names::Variable, &Shape::Text),
            "Labels that are added to every selector of its queries: it sees no series without them.",
        ),
        may(
            "verbs",
            Shape::List(&VERBS),
            "Verbs that it holds for: backup, verify, restore, diagnose. All unless set.",
        ),
    ],
};

static LIMITS: Section = Section {
    name: "limits",
    doc: "What one run of a plugin may use at most.",
    keys: &[
        may("memory", Shape::Size(1 << 20, 4 << 30), "Linear memory of the guest; \"256MiB\" unless set."),
        may("stack", Shape::Size(64 << 10, 64 << 20), "Stack of the guest's calls; \"512KiB\" unless set."),
        may("table_elements", Shape::Whole(1, 1 << 30), "Elements of one table of the guest; 1048576 unless set."),
        may("instances", Shape::Whole(1, 10_000), "Core instances, and as many tables and memories; 128 unless set."),
        may("cpu", Shape::Duration, "Time that the guest itself computes; \"10m\" unless set."),
        may("wall_clock", Shape::Duration, "One call of a verb; \"48h\" unless set."),
        may(
            "stall",
            Shape::Duration,
            "Longest time without progress of a call that moves or awaits bytes; \"15m\" unless set.",
        ),
        may("handles", Shape::Whole(16, 1_000_000), "Resource handles alive at once; 20000 unless set."),
        may("open_streams", Shape::Whole(1, 65_536), "Sources, sinks and transfers alive at once; 1024 unless set."),
        may("processes", Shape::Whole(1, 4_096), "Processes alive at once; 64 unless set."),
        may(
            "command_memory",
            Shape::Size(16 << 20, 1 << 50),
            "Private memory that each process of a command on this machine may write; \"8GiB\" unless set.",
        ),
        may("artifacts", Shape::Whole(1, 1_000_000), "Artifacts of one backup; 10000 unless set."),
        may(
            "archive_entries",
            Shape::Whole(1, 1 << 40),
            "Entries of all archives of one backup; 1000000000 unless set.",
        ),
        may("entry_path", Shape::Size(16, 64 << 10), "Longest path of an entry of an archive; \"4KiB\" unless set."),
        may(
            "call_bytes",
            Shape::Size(64 << 10, 256 << 20),
            "Bytes copied from the guest in one call; \"16MiB\" unless set.",
        ),
        may("log_bytes", Shape::Size(1 << 10, 1 << 30), "Log text of one run; \"4MiB\" unless set."),
        may(
            "metric_series",
            Shape::Whole(1, 1_000_000),
            "Series of metrics that one run writes, by name and labels; 1000 unless set.",
        ),
        may(
            "scratch_files",
            Shape::Whole(1, 100_000),
            "Files and directories in the plugin's scratch directory; 10000 unless set.",
        ),
        may("scratch_open", Shape::Whole(1, 1_024), "Files and directories of it open at once; 64 unless set."),
        may("open_transfers", Shape::Whole(1, 64), "Artifacts being stored at once, the next waits; 4 unless set."),
        may(
            "compile_memory",
            Shape::Size(256 << 20, 64 << 30),
            "Memory of the process that compiles the plugin; \"6GiB\" unless set.",
        ),
        may("compile_cpu", Shape::Duration, "Processor time of that process, in whole seconds; \"10m\" unless set."),
        may("compile_time", Shape::Duration, "How long it may take; \"10m\" unless set."),
    ],
};

const RUN_IN: Shape = Shape::Table(&RUN_IN_SECTION);
static RUN_IN_SECTION: Section = Section {
    name: "run_in",
    doc: "Where commands run: this machine unless set; { user = … }, { container = … } or { pod = … }.",
    keys: &[
        may("user", Shape::Text, "On this machine as this user; strongroom itself must be allowed to become it."),
        may("container", Shape::Text, "In this running container, by name or id."),
        may(
            "client",
            Shape::Union(&[
                Shape::Word(&Words { known: &["docker", "podman"], not_built: &[] }),
                Shape::List(&Shape::Text),
            ]),
            "With `container`: \"docker\" (the default), \"podman\", or the client's path and what comes before its verb.",
        ),
        may("pod", Shape::Table(&POD), "In a pod: { cluster = …, namespace = …, selector = …, container = … }."),
        not_built("ssh", "run strongroom on that machine, or name its server in the job's `env`"),
    ],
};

static POD: Section = Section {
    name: "pod",
    doc: "A running pod, through the API server of its cluster. Programs and paths are the container's.",
    keys: &[
        must("cluster", Shape::Text, "Label of the cluster."),
        must("namespace", Shape::Text, "Namespace of the pod."),
        may(
            "selector",
            Shape::Text,
            "Label selector of the pod, such as \"app=pg,role=primary\"; of several that are ready a backup takes the first by name, and a restore none. Whoever can make a pod that it matches receives secrets and restored data.",
        ),
        may("name", Shape::Text, "Name of the pod, instead of a selector."),
        may("container", Shape::Text, "Name of the container; may be left out where the pod has one only."),
        may("service_account", Shape::Text, "The service account that the pod must have, else it is not used."),
        may(
            "image",
            Shape::Text,
            "The image that the container must have, by name or as \"sha256:…\", else it is not used.",
        ),
    ],
};

const VARIABLES: Shape = Shape::Map(Names::Variable, &Shape::Text);
const SECRETS: Shape = Shape::Map(Names::Variable, &Shape::Secret);

const RUN_IN_DOC: &str =
    "Where its commands run: this machine unless set; { user = \"postgres\" } or { container = \"db\" }.";
const ENV_DOC: &str = "Environment of its commands: hosts, ports, users. Never passwords.";
const GRANTS_DOC: &str = "Of the plugin's grants those that hold in this job, by name: \"exec.LABEL\", \"bucket.LABEL\", \"kube.LABEL\", \"artifacts\", \"scratch\", \"metrics\". All unless set.";
const VERB_ENV_DOC: &str =
    "Environment of its commands in this verb, over the job's by name; not where a target says its own.";
const VERB_SECRETS_DOC: &str =
    "Secrets of its commands in this verb, over the job's by name; not where a target says its own.";
const VERB_GRANTS_DOC: &str = "Of the grants that hold in this job those that hold in this verb. All unless set.";
const SECRETS_DOC: &str = "Secrets of its commands by environment variable: { env = \"NAME\" } or { file = \"PATH\" }. A command gets only those its grant names.";

static TARGET: Section = Section {
    name: "target",
    doc: "A place to restore into, and to verify by restore.",
    keys: &[
        may("run_in", RUN_IN, RUN_IN_DOC),
        may("env", VARIABLES, ENV_DOC),
        may("secrets", SECRETS, SECRETS_DOC),
        may("options", Shape::Json, "Restore options of this place; those of the command line win."),
    ],
};

static JOB: Section = Section {
    name: "job",
    doc: "What is backed up: a plugin, its settings, and the store that receives it.",
    keys: &[
        must("plugin", Shape::Text, "Label of the plugin."),
        must("store", Shape::Text, "Label of the store."),
        may("run_in", RUN_IN, RUN_IN_DOC),
        may("env", VARIABLES, ENV_DOC),
        may("secrets", SECRETS, SECRETS_DOC),
        may("grants", Shape::List(&Shape::Text), GRANTS_DOC),
        may("settings", Shape::Json, "Settings of the plugin; `plugin inspect` shows which there are."),
        may("backup", Shape::Table(&VERB), "What is different in a backup."),
        may("verify", Shape::Table(&VERIFY), "What `strongroom verify` does unless told otherwise."),
        may("restore", Shape::Table(&VERB), "What is different in a restore."),
        may("diagnose", Shape::Table(&VERB), "What is different in a diagnosis."),
        may(
            "objective",
            Shape::Duration,
            "How old the last good backup may be before `diagnose` fails, such as \"26h\".",
        ),
        may("keep", Shape::Table(&KEEP), "Which backups `strongroom prune` keeps; it does nothing without."),
        may(
            "timezone",
            Shape::Text,
            "Time zone of the days, weeks, months and years of `keep`, such as \"Europe/Berlin\"; \"UTC\" unless set.",
        ),
        not_built("schedule", "call `strongroom backup JOB` from a systemd timer or a CronJob; the README has both"),
        not_built("copy_to", "use a second job with the other store, or the bucket's own replication"),
        not_built("notify", "use OnFailure= of the systemd unit, or an alert on the CronJob"),
    ],
};

static VERB: Section = Section {
    name: "verb of a job",
    doc: "What is different in one verb of a job: other credentials, fewer grants.",
    keys: &[
        may("env", VARIABLES, VERB_ENV_DOC),
        may("secrets", SECRETS, VERB_SECRETS_DOC),
        may("grants", Shape::List(&Shape::Text), VERB_GRANTS_DOC),
    ],
};

/// More periods than any job has backups for: 27 years of days.
const MOST_PERIODS: u64 = 10_000;

static KEEP: Section = Section {
    name: "keep",
    doc: "Which backups are kept, by source: the newest of each of the last so many periods that have one. What a rule does not name it does not keep.",
    keys: &[
        may("last", Shape::Whole(0, MOST_PERIODS), "The newest backups, whenever they were made."),
        may("hourly", Shape::Whole(0, MOST_PERIODS), "The newest of an hour, for so many hours that have one."),
        may("daily", Shape::Whole(0, MOST_PERIODS), "The newest of a day."),
        may("weekly", Shape::Whole(0, MOST_PERIODS), "The newest of a week, which begins on Monday."),
        may("monthly", Shape::Whole(0, MOST_PERIODS), "The newest of a month."),
        may("yearly", Shape::Whole(0, MOST_PERIODS), "The newest of a year."),
    ],
};

static VERIFY: Section = Section {
    name: "verify",
    doc: "What `strongroom verify` does unless told otherwise.",
    keys: &[
        may(
            "depth",
            Shape::Word(&Words { known: &["stored", "contents", "restore"], not_built: &[] }),
            "\"stored\" (the bytes are those recorded), \"contents\" (the component's reader accepts them; the default) or \"restore\".",
        ),
        may("target", Shape::Text, "depth = \"restore\": label of the target to restore into."),
        may(
            "on_source",
            Shape::Flag,
            "depth = \"restore\": allowed beside the source itself, without a target. False unless set.",
        ),
        may("env", VARIABLES, VERB_ENV_DOC),
        may("secrets", SECRETS, VERB_SECRETS_DOC),
        may("grants", Shape::List(&Shape::Text), VERB_GRANTS_DOC),
        not_built("schedule", "call `strongroom verify JOB` from a systemd timer or a CronJob; the README has both"),
    ],
};

#[cfg(test)]
mod tests {
    use super::*;

    fn check_section(section: &'static Section, path: &str) {
        let mut seen = std::collections::BTreeSet::new();
        for key in section.keys {
            assert!(seen.insert(key.name), "{path}.{} is listed twice", key.name);
            assert!(key.doc.ends_with('.'), "{path}.{} has no sentence of documentation", key.name);
            check_shape(&key.shape, &format!("{path}.{}", key.name));
        }
    }

    fn check_shape(shape: &'static Shape, path: &str) {
        match shape {
            Shape::Table(section) | Shape::Tables(section) => check_section(section, path),
            Shape::List(inner) | Shape::Map(_, inner) => check_shape(inner, path),
            Shape::Union(shapes) => shapes.iter().for_each(|shape| check_shape(shape, path)),
            Shape::NotBuilt(instead) => assert!(!instead.is_empty(), "{path} does not say what to use now"),
            _ => {}
        }
    }

    #[test]
    fn every_key_is_listed_once_and_documented() {
        check_section(&ROOT, "");
    }

    #[test]
    fn names_are_admitted_as_their_patterns_say() {
        for names in [Names::Label, Names::Vendor, Names::Variable] {
            let pattern = regex::Regex::new(names.pattern()).unwrap();
            let long = "a".repeat(63);
            let longer = "a".repeat(64);
            let longest = "A".repeat(129);
            for name in
                ["", "a", "A", "0", "-", "_", "a-b", "A_B", "_a", "0a", "a.b", "ä", "a b", &long, &longer, &longest]
            {
                assert_eq!(names.admits(name), pattern.is_match(name), "{names:?} {name:?}");
            }
        }
    }
}
