//! Arguments that decide where a secret goes: which slots of a command line a plugin could aim with.
//!
//! Pure, and by convention: what a program makes of its arguments, only the program knows. A place that
//! might be meant so counts as one.

use crate::policy::slot::{Piece, SlotKind, SlotRule, Template};

/// What a slot can do to a secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Reach {
    /// It fills what decides: this option, or part of an address.
    Decides(String),
    /// A program may read it as a connection string or a URI, unless it can be neither.
    MayConnect,
}

/// Options of one letter, as the clients of databases have them: host, port and user of PostgreSQL's, port and user
/// of MySQL's, the address of Redis's.
const LETTERS: [char; 5] = ['h', 'p', 'U', 'P', 'u'];
/// The last word of a long option, or a key of a connection string.
const WORDS: [&str; 20] = [
    "host",
    "hosts",
    "hostname",
    "hostaddr",
    "port",
    "url",
    "uri",
    "server",
    "servers",
    "endpoint",
    "address",
    "addr",
    "proxy",
    "user",
    "username",
    "service",
    "socket",
    "sslmode",
    "sslrootcert",
    "passfile",
];
/// Options whose value may be a connection string instead of a name.
const DATABASES: [&str; 3] = ["dbname", "database", "maintenance-db"];
/// The same of one letter.
const DATABASE: char = 'd';
/// What no name of a database needs, and a connection string or a URI cannot do without.
const TELLING: [char; 3] = ['=', ':', '/'];

/// Every slot of these arguments that reaches a secret, in order. A slot that the host fills reaches none, and
/// what follows it in its argument is a path.
pub(super) fn reaches<'a>(args: &'a [Template], is_hosts: &dyn Fn(&str) -> bool) -> Vec<(&'a str, Reach)> {
    let mut found = Vec::new();
    let (mut before, mut all_positional) = (None, false);
    for arg in args {
        let literal = match arg.pieces.as_slice() {
            [Piece::Text(text)] => Some(text.as_str()),
            _ => None,
        };
        if literal.is_none() {
            let before = before.filter(|_| !all_positional);
            found.extend(of_argument(&arg.pieces, before, all_positional, is_hosts));
        }
        all_positional |= literal == Some("--");
        before = literal;
    }
    found
}

/// A probe that the rule admits although a program could read it as a connection string or a URI. Of a
/// setting the values are the operator's own words.
pub(super) fn admitted_connection(rule: &SlotRule) -> Option<String> {
    let SlotKind::Pattern(..) = rule.kind else { return None };
    let whole =
        ["host=a", "host=a port=1 dbname=b", "dbname=a host=b", "postgresql://a/b", "redis://a:1/0", "http://a"];
    let mut probes: Vec<String> = whole.map(str::to_owned).into();
    for c in TELLING {
        probes.push(c.to_string());
        for text in ["a", "A", "1", "ab", "a1"] {
            probes.extend([format!("{text}{c}"), format!("{c}{text}"), format!("{text}{c}{text}")]);
        }
    }
    probes.into_iter().find(|probe| rule.admits(probe, &serde_json::Value::Null).is_ok())
}

/// Whether a value could be a connection string or a URI.
pub(super) fn could_connect(value: &str) -> bool {
    value.contains(TELLING)
}

/// The slots of one argument. `before` is the argument in front of it where that is fixed and could be an
/// option.
fn of_argument<'a>(
    pieces: &'a [Piece],
    before: Option<&str>,
    is_positional: bool,
    is_hosts: &dyn Fn(&str) -> bool,
) -> Vec<(&'a str, Reach)> {
    let lead = match pieces.first() {
        Some(Piece::Text(text)) => text.as_str(),
        _ => "",
    };
    let before = before.filter(|text| text.starts_with('-') && text.len() > 1 && !text.contains('=') && *text != "--");
    let of_option = if lead.starts_with('-') && !is_positional {
        let (name, value) = lead.split_once('=').map_or((lead, None), |(name, value)| (name, Some(value)));
        if value.is_none() && (name == "-" || name.starts_with("--")) {
            // It chooses the option itself.
            Some(Reach::Decides(format!("the name of the option {name}…")))
        } else {
            by_option(name)
        }
    } else {
        before.and_then(by_option)
    };
    // Behind an option of its own, or one that is only a flag: nobody knows.
    let could_be_positional = of_option.is_none() && lead.is_empty();
    let is_connection = of_option == Some(Reach::MayConnect) || (before.is_none() && !lead.starts_with('-'));
    let (mut text, mut found) = (String::new(), Vec::new());
    for piece in pieces {
        match piece {
            Piece::Text(more) => text.push_str(more),
            Piece::Slot(name) if is_hosts(name) => text.push('/'),
            Piece::Slot(name) => {
                let reach = match of_option.clone() {
                    Some(Reach::Decides(what)) => Some(Reach::Decides(what)),
                    other => by_text(&text, is_connection).or(other),
                };
                let reach = reach.or_else(|| (could_be_positional && text.is_empty()).then_some(Reach::MayConnect));
                found.extend(reach.map(|reach| (name.as_str(), reach)));
                text.push('x');
            }
        }
    }
    found
}

/// What the value of an option decides, by its name with the dashes.
fn by_option(option: &str) -> Option<Reach> {
    let decides = || Some(Reach::Decides(option.to_owned()));
    let name = option.trim_start_matches('-');
    if is_telling(name) {
        return decides();
    }
    if DATABASES.contains(&name) {
        return Some(Reach::MayConnect);
    }
    if option.starts_with("--") {
        return None;
    }
    // A connection string right behind its letter: `-dhost=…`.
    if WORDS.iter().any(|word| name.strip_suffix(word).is_some_and(|letters| letters.ends_with(DATABASE))) {
        return decides();
    }
    // One letter with its value behind it, or several flags with one letter that takes the value.
    let letters = [name.chars().next(), name.chars().last()];
    if letters.iter().flatten().any(|letter| LETTERS.contains(letter)) {
        return decides();
    }
    letters.contains(&Some(DATABASE)).then_some(Reach::MayConnect)
}

/// What stands before a slot in the same argument: the beginning of a URI, or of a connection string.
fn by_text(text: &str, is_connection: bool) -> Option<Reach> {
    let key = text.strip_suffix('=').map(|text| text.rsplit(|c: char| !c.is_ascii_alphanumeric()).next().unwrap_or(""));
    if let Some((_, rest)) = text.split_once("://") {
        let in_query = key.is_some_and(is_telling);
        if in_query || !rest.contains('/') {
            return Some(Reach::Decides("a part of a URI that says where it leads".to_owned()));
        }
        return Some(Reach::MayConnect);
    }
    if !is_connection {
        return None;
    }
    if let Some(key) = key.filter(|key| is_telling(key)) {
        return Some(Reach::Decides(key.to_owned()));
    }
    let has_key = text.match_indices('=').any(|(at, _)| {
        let key = text[..at].rsplit(|c: char| !c.is_ascii_alphanumeric()).next().unwrap_or("");
        is_telling(key) || DATABASES.contains(&key)
    });
    // A path is none, and `if=…` of a program that has words of its own; the rest may become one.
    let is_other = text.contains('=') || text.starts_with(['/', '.']);
    (has_key || !is_other).then_some(Reach::MayConnect)
}

/// Whether the last word of a name says where something leads.
fn is_telling(name: &str) -> bool {
    let last = name.rsplit(['-', '_', '.']).next().unwrap_or(name).to_ascii_lowercase();
    WORDS.contains(&last.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reach(args: &[&str]) -> Vec<Option<bool>> {
        let args: Vec<_> = args.iter().map(|arg| Template::parse(arg).unwrap()).collect();
        let found = reaches(&args, &|name| name == "scratch");
        let of = |slot: &str| {
            let reach = found.iter().find(|(name, _)| *name == slot).map(|(_, reach)| reach);
            reach.map(|reach| matches!(reach, Reach::Decides(_)))
        };
        args.iter().flat_map(Template::slots).map(of).collect()
    }

    const DECIDES: Option<bool> = Some(true);
    const MAY_CONNECT: Option<bool> = Some(false);

    #[test]
    fn what_decides_is_found_however_it_is_written() {
        for args in [
            &["--host={x}"][..],
            &["--host", "{x}"],
            &["--host", "db-{x}"],
            &["-h", "{x}"],
            &["-h{x}"],
            &["-h={x}"],
            &["-Ath", "{x}"],
            &["-Ath{x}"],
            &["-p", "{x}"],
            &["-U{x}"],
            &["-P", "{x}"],
            &["-u", "{x}"],
            &["--port={x}"],
            &["--user={x}"],
            &["--username", "{x}"],
            &["--db-host={x}"],
            &["--redis.addr={x}"],
            &["-host", "{x}"],
            &["-host={x}"],
            &["--endpoint-url={x}"],
            &["--uri={x}"],
            &["--{x}"],
            &["--{x}=db"],
            &["-{x}"],
            &["redis://{x}:6379/0"],
            &["--", "redis://db{x}/0"],
            &["--target=redis://{x}/0"],
            &["-dhost={x}"],
            &["-Atdport={x}"],
            &["--socket={x}"],
            &["postgresql://db/shop?host={x}"],
            &["-d", "host={x} dbname=shop"],
            &["--dbname=port={x}"],
            &["dbname=shop user={x}"],
        ] {
            assert_eq!(reach(args), [DECIDES], "{args:?}");
        }
    }

    #[test]
    fn what_a_program_may_read_as_a_connection_string_is_found() {
        for args in [
            &["-d", "{x}"][..],
            &["-d{x}"],
            &["-Atd", "{x}"],
            &["--dbname={x}"],
            &["--dbname", "{x}"],
            &["--maintenance-db={x}"],
            &["{x}"],
            &["-X", "{x}"],
            &["--", "{x}"],
            &["host=db dbname={x}"],
            &["postgresql://db/{x}"],
            &["postgresql:{x}"],
            &["shop-{x}"],
        ] {
            assert_eq!(reach(args), [MAY_CONNECT], "{args:?}");
        }
    }

    #[test]
    fn what_decides_nothing_is_left_alone() {
        for args in [
            &["--file={x}"][..],
            &["--snapshot={x}"],
            &["-v", "name={x}"],
            &["-v", "row={x}"],
            &["--superuser-role={x}"],
            &["--support={x}"],
            &["/srv/{x}"],
            &["if={x}"],
            &["-f/srv/{x}"],
        ] {
            assert_eq!(reach(args), [None], "{args:?}");
        }
        assert_eq!(reach(&["{scratch}", "{scratch}/{x}"]), [None, None, None]);
        assert_eq!(reach(&["-h", "db", "--port=5432", "--table={x}", "-d", "{y}"]), [None, MAY_CONNECT]);
    }

    #[test]
    fn a_pattern_that_could_be_a_connection_string_is_told_by_what_it_admits() {
        for (pattern, could) in [
            ("[a-z0-9_-]+", false),
            ("shop|billing", false),
            ("[0-9A-F-]{1,40}", false),
            (".+", true),
            ("[^ ]+", true),
            ("[a-z=]+", true),
            ("[A-Z]+:[A-Z]+", true),
            ("[0-9]/[0-9]", true),
            ("postgresql://.*", true),
        ] {
            assert_eq!(admitted_connection(&SlotRule::pattern(pattern).unwrap()).is_some(), could, "{pattern}");
        }
        assert_eq!(admitted_connection(&SlotRule::setting("databases").unwrap()), None);
        assert!(could_connect("x=y") && could_connect("a://b") && !could_connect("shop_2-a.b"));
    }
}
