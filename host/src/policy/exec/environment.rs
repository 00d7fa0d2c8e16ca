//! Names of variables that a grant may not set, with the reason.
//!
//! A pure table. The job's own `env` is the operator's and is not held against it.

/// `NAME` or `PREFIX*`, and what a program does with it.
const FORBIDDEN: &[(&str, &str)] = &[
    ("STRONGROOM_*", "strongroom itself reads it"),
    ("LD_*", "the loader takes code from it"),
    ("DYLD_*", "the loader takes code from it"),
    ("GLIBC_TUNABLES", "it changes the C library"),
    ("GCONV_PATH", "the C library loads code from it"),
    ("LOCPATH", "the C library loads data from it"),
    ("NLSPATH", "the C library loads data from it"),
    ("MALLOC_*", "it changes the C library"),
    ("HOSTALIASES", "it redirects host names"),
    ("LOCALDOMAIN", "it redirects host names"),
    ("RES_OPTIONS", "it redirects host names"),
    ("RESOLV_*", "it redirects host names"),
    ("PATH", "it chooses which programs run"),
    ("HOME", "programs read their settings and credentials there"),
    ("XDG_*", "programs read their settings there"),
    ("IFS", "it changes how a shell reads its script"),
    ("ENV", "a shell runs it"),
    ("BASH_ENV", "a shell runs it"),
    ("BASH_FUNC_*", "a shell runs it"),
    ("BASHOPTS", "it changes how a shell reads its script"),
    ("SHELLOPTS", "it changes how a shell reads its script"),
    ("SHELL", "programs run it"),
    ("PS4", "a shell runs it"),
    ("PROMPT_COMMAND", "a shell runs it"),
    ("EDITOR", "programs run it"),
    ("VISUAL", "programs run it"),
    ("PAGER", "programs run it"),
    ("LESSOPEN", "less runs it"),
    ("LESSCLOSE", "less runs it"),
    ("PYTHON*", "Python takes code from it"),
    ("PERL*", "Perl takes code from it"),
    ("RUBY*", "Ruby takes code from it"),
    ("GEM_*", "Ruby takes code from it"),
    ("NODE_*", "Node takes code from it"),
    ("LUA_*", "Lua takes code from it"),
    ("CLASSPATH", "Java takes code from it"),
    ("JAVA_*", "Java takes code from it"),
    ("JDK_*", "Java takes code from it"),
    ("_JAVA_*", "Java takes code from it"),
    ("OPENSSL_*", "OpenSSL loads code from it"),
    ("SSL_CERT_*", "it chooses which servers are believed"),
    ("SSLKEYLOGFILE", "session keys are written to it"),
    ("CURL_*", "it redirects transfers"),
    ("GIT_*", "git runs programs from it"),
    ("SSH_*", "it chooses programs and credentials"),
    ("KRB5*", "it chooses credentials"),
    ("KUBECONFIG", "it chooses servers and credentials"),
    ("DOCKER_*", "it chooses where containers run"),
    ("CONTAINER_*", "it chooses where containers run"),
    ("AWS_CONFIG_FILE", "it chooses servers and credentials"),
    ("AWS_SHARED_CREDENTIALS_FILE", "it chooses credentials"),
    ("TAR_OPTIONS", "tar runs programs from it"),
    ("RSYNC_*", "rsync runs programs from it"),
    ("TERMINFO*", "programs load data from it"),
    ("TERMCAP", "programs load data from it"),
    ("PGSERVICE", "it chooses where a password goes"),
    ("PGSERVICEFILE", "it chooses where a password goes"),
    ("PGSYSCONFDIR", "it chooses where a password goes"),
    ("PGPASSFILE", "it chooses which passwords are read"),
    ("PSQLRC", "psql runs it"),
    ("PSQL_*", "psql runs programs from it"),
    ("MYSQL_HOME", "programs read their settings there"),
];

/// Variables that decide where a secret goes: their value is never a slot.
const DESTINATIONS: &[&str] = &[
    "PGHOST*",
    "PGPORT",
    "PGUSER",
    "PGSSL*",
    "PGREQUIRE*",
    "PGCHANNELBINDING",
    "PGGSS*",
    "PGKRB*",
    "PGOPTIONS",
    "PGTARGETSESSIONATTRS",
    "*HOST",
    "*HOSTS",
    "*PORT",
    "*URL",
    "*URI",
    "*SERVER",
    "*SERVERS",
    "*ENDPOINT",
    "*ADDRESS",
    "*ADDR",
    "*PROXY",
    "*USER",
    "*USERNAME",
];

/// Variables above that hold the path of a file with credentials: a grant may name one for a secret
/// that the host itself puts into a file, since then nobody but the operator chose what is in it.
const SECRET_FILES: &[&str] = &["PGPASSFILE", "PGSERVICEFILE", "AWS_SHARED_CREDENTIALS_FILE", "KUBECONFIG"];

/// Whether a secret may be given as a file through this variable, although no grant may set it otherwise.
pub(super) fn takes_secret_file(name: &str) -> bool {
    SECRET_FILES.iter().any(|pattern| matches(pattern, name))
}

/// Why a grant may not set the variable `name`; `None` when it may. Case does not matter.
pub fn forbidden_name(name: &str) -> Option<&'static str> {
    FORBIDDEN.iter().find(|(pattern, _)| matches(pattern, name)).map(|(_, reason)| *reason)
}

/// Whether the variable decides where a secret goes (host, port, user, TLS, service).
pub fn names_a_destination(name: &str) -> bool {
    DESTINATIONS.iter().any(|pattern| matches(pattern, name))
}

/// `[A-Za-z_][A-Za-z0-9_]{0,127}`.
pub(super) fn is_name(name: &str) -> bool {
    (1..=128).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
        && !name.as_bytes()[0].is_ascii_digit()
}

fn matches(pattern: &str, name: &str) -> bool {
    let name = name.to_ascii_uppercase();
    match (pattern.strip_suffix('*'), pattern.strip_prefix('*')) {
        (Some(start), _) => name.starts_with(start),
        (_, Some(end)) => name.ends_with(end),
        _ => name == pattern,
    }
}
