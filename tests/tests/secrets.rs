//! Secrets reach no guest, log, error, record or audit line: canaries are planted wherever a secret can
//! come from, everything that a run writes is searched for every form of them.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use strongroom_tests::relay::{Relay, Setup, private, sh};
use strongroom_tests::{files, wait_until};

/// A secret by environment, one by file, and a connection string that holds a third.
const BY_ENV: &str = "canary+env/9b1f=secret";
const BY_FILE: &str = "canary file 77d2 & more";
const PASSWORD: &str = "canaryPwd0815xyz";
const BY_URI: &str = "postgresql://app:canaryPwd0815xyz@db.example.org:5432/shop?sslmode=require";

fn base64(bytes: &[u8], alphabet: &[u8; 64]) -> String {
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let word = chunk.iter().fold(0_u32, |word, byte| word << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        (0..=chunk.len()).for_each(|i| text.push(char::from(alphabet[(word >> (18 - 6 * i)) as usize & 63])));
    }
    text
}

/// Every form that is searched for: as it is, percent-encoded, base64 of both alphabets at each
/// alignment (without the letters that depend on what stands around it).
fn forms(secret: &str) -> Vec<String> {
    const STANDARD: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    const URL: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._~".contains(&b);
    let percent = |upper: bool| -> String {
        let code = |b: u8| if upper { format!("%{b:02X}") } else { format!("%{b:02x}") };
        secret.bytes().map(|b| if plain(b) { char::from(b).to_string() } else { code(b) }).collect()
    };
    let mut all = vec![secret.to_owned(), percent(true), percent(false), percent(true).replace("%20", "+")];
    for alphabet in [STANDARD, URL] {
        for shift in 0..3 {
            let text = base64(&[&vec![b' '; shift], secret.as_bytes()].concat(), alphabet);
            let first = (shift * 8_usize).div_ceil(6);
            let end = (shift + secret.len()) * 8 / 6;
            all.push(text[first..end].to_owned());
        }
    }
    all
}

/// All canaries in all forms.
fn canaries() -> Vec<String> {
    [BY_ENV, BY_FILE, PASSWORD, BY_URI].iter().flat_map(|secret| forms(secret)).collect()
}

#[track_caller]
fn check_none(canaries: &[String], place: &str, bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    for canary in canaries {
        assert!(!text.contains(canary.as_str()), "{place} holds \"{canary}\"");
    }
}

/// A shell script that says every secret in every form, also cut into pieces that are written one after
/// the other, to standard output or error.
fn say(to: &str) -> String {
    let pieces = "printf %s \"$S\" | while IFS= read -r -n 1 c; do printf %s \"$c\"; done; echo";
    format!(
        "say() {{ S=$1; echo \"plain $S\"; printf %s \"$S\" | base64 -w0; echo; printf ' %s' \"$S\" | base64 -w0; echo; \
         printf '  %s' \"$S\" | base64 -w0 | tr '+/' '-_'; echo; \
         printf %s \"$S\" | od -An -tx1 -v | tr -d '\\n' | sed 's/ /%/g'; echo; \
         printf %s \"$S\" | sed 's/%/%25/g;s/ /%20/g;s/&/%26/g;s/+/%2B/g;s,/,%2F,g;s/=/%3D/g;s/:/%3A/g;s/@/%40/g;s/?/%3F/g'; echo; \
         {pieces}; }} ; for s in \"$BY_ENV\" \"$BY_FILE\" \"$BY_URI\"; do say \"$s\"; done >&{to}"
    )
}

/// A relay whose commands get all the secrets. The files that hold them lie outside of what is searched.
fn relay(produce: &str, query: &str, outside: &Path) -> Relay {
    let bash = |script: &str| vec!["/bin/bash".to_owned(), "-c".to_owned(), script.to_owned()];
    let names = "secrets = [\"BY_ENV\", \"BY_FILE\", \"BY_URI\"]";
    let mut relay = Relay::new(Setup { produce: bash(produce), produce_more: names.into(), ..Setup::default() });
    let file = outside.join("secret");
    std::fs::write(&file, format!("{BY_FILE}\n")).unwrap();
    private(&file);
    relay.sandbox.set_env("FROM_ENV", BY_ENV).set_env("FROM_URI", BY_URI);
    let path = relay.sandbox.path("strongroom.toml");
    let config = std::fs::read_to_string(&path).unwrap();
    let asked = format!(
        "program = \"/bin/bash\"\nargs = [\"-c\", {query:?}]\n{names}",
        query = query.replace('{', "{{").replace('}', "}}")
    );
    let config = config.replace("program = \"/bin/sh\"\nargs = [\"-c\", \"echo fine\"]", &asked);
    let secrets = format!(
        "\n[job.orders.secrets]\nBY_ENV = {{ env = \"FROM_ENV\" }}\nBY_FILE = {{ file = {:?} }}\nBY_URI = {{ env = \"FROM_URI\" }}\n",
        file.display().to_string()
    );
    std::fs::write(&path, format!("{config}{secrets}")).unwrap();
    relay
}

#[test]
fn no_canary_is_in_anything_that_any_verb_writes() {
    let outside = tempfile::tempdir().unwrap();
    let canaries = canaries();
    let proof = outside.path().join("said");
    let fails = format!(
        "{{ {say}; }} 2>> {proof}; {say_again}; exit 3",
        say = say("2"),
        say_again = say("2"),
        proof = proof.display()
    );
    let good = format!("{}; echo data", say("2"));
    for (produce, code) in [(fails, 1), (good, 0)] {
        let relay = relay(&produce, &format!("{}; {}", say("1"), say("2")), outside.path());
        let identity = std::fs::read_to_string(relay.sandbox.path("identity.txt")).unwrap();
        let verbs: [(&[&str], i32); 13] = [
            (&["backup", "orders", "-vv"], code),
            (&["backup", "orders", "--output", "json"], code),
            (&["backup", "orders", "--dry-run", "-v"], code),
            (&["verify", "orders", "-vv"], code),
            (&["verify", "orders", "--output", "json"], code),
            (&["restore", "orders", "latest", "-vv"], code),
            (&["restore", "orders", "latest", "--output", "json"], code),
            (&["diagnose", "orders", "-vv"], -1),
            (&["diagnose", "orders", "--output", "json"], -1),
            (&["list", "--output", "json"], 0),
            (&["show", "orders", "latest", "--output", "json"], code),
            (&["audit", "show", "--output", "json"], 0),
            (&["config", "check", "-vv"], 0),
        ];
        for (args, code) in verbs {
            let output = relay.run(args);
            if code >= 0 {
                output.check_code(code);
            }
            for (place, text) in [("standard output", &output.stdout), ("standard error", &output.stderr)] {
                check_none(&canaries, &format!("{place} of {args:?}"), text.as_bytes());
                assert!(!text.contains(identity.trim()), "{place} of {args:?} holds the identity");
            }
        }
        let key = std::fs::read_to_string(relay.sandbox.path("home/.local/state/strongroom/host.key")).unwrap();
        let seed = key.lines().last().unwrap();
        let mut n_searched = 0;
        for file in files(relay.sandbox.dir()).unwrap() {
            let (name, bytes) = (file.display().to_string(), std::fs::read(&file).unwrap());
            check_none(&canaries, &name, &bytes);
            let text = String::from_utf8_lossy(&bytes);
            assert!(name.ends_with("host.key") || !text.contains(seed), "{name} holds the host's key");
            assert!(name.ends_with("identity.txt") || !text.contains(identity.trim()), "{name} holds the identity");
            n_searched += 1;
        }
        // Configuration, identity, key, compiled plugin, audit log of every run, and the store.
        assert!(n_searched >= 12, "{n_searched}");
    }
    // The commands did say all of it.
    let said = std::fs::read_to_string(proof).unwrap();
    for secret in [BY_ENV, BY_FILE, BY_URI] {
        assert!(forms(secret).iter().filter(|form| said.contains(form.as_str())).count() >= 5, "{said}");
    }
}

#[test]
fn a_secret_goes_into_the_environment_of_its_command_only_and_no_core_is_dumped() {
    let outside = tempfile::tempdir().unwrap();
    let marker = outside.path().join("pid");
    let wait = format!("echo $$ > {}; exec sleep 605", marker.display());
    let relay = relay(&wait, "true", outside.path());
    let running = relay.sandbox.strongroom(["backup", "orders"]).start().unwrap();
    let child = wait_until("the command", std::time::Duration::from_secs(60), || {
        let text = std::fs::read_to_string(&marker).unwrap_or_default();
        Ok(text.ends_with('\n').then(|| text.trim().to_owned()))
    })
    .unwrap();
    let canaries = canaries();
    for pid in [running.pid().to_string(), child.clone()] {
        check_none(&canaries, "a command line", &std::fs::read(format!("/proc/{pid}/cmdline")).unwrap());
        let limits = std::fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
        let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
        assert_eq!(core.split_whitespace().nth(4), Some("0"), "{core}");
    }
    // Of a process that may not be dumped, these files belong to root, whoever runs it.
    assert_eq!(std::fs::metadata(format!("/proc/{}/environ", running.pid())).unwrap().uid(), 0);
    running.signal(rustix::process::Signal::INT).unwrap();
    running.finish(std::time::Duration::from_secs(30)).unwrap().check_code(130);
}

#[test]
fn forms_of_a_secret_are_those_that_programs_write() {
    let sandbox = strongroom_tests::Sandbox::new();
    for secret in [BY_ENV, BY_FILE, BY_URI] {
        let output = sandbox.command("/bin/sh", ["-c", "base64 -w0"]).stdin(secret).run();
        assert!(output.stdout.contains(&forms(secret)[4]), "{}", output.stdout);
    }
    assert_eq!(sh("x").len(), 3);
}
