//! The configuration as written: a spanned TOML document checked against the table of keys.
//!
//! This level knows shapes and not meanings: it resolves no label and touches no file.

use super::SecretRef;
use super::fields::{Datum, Field, Fields, Named};
use super::key::{Key, Names, Section, Shape};
use super::mistake::Mistakes;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::PathBuf;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// Reads a document. What is wrong is added to `mistakes`; what is right is returned.
pub(super) fn read(text: &str, section: &'static Section, mistakes: &mut Mistakes) -> Fields {
    let (document, errors) = DeTable::parse_recoverable(text);
    for error in &errors {
        let span = error.span().unwrap_or(0..0);
        mistakes.add(span, "this is not TOML", error.message().replace('\n', ", ")).help =
            Some("the rest is checked once the file can be read".to_owned());
    }
    if !errors.is_empty() {
        // What was recovered is a guess, and mistakes found in it would mislead. It does not tell
        // either where secrets are, so whatever stands behind such a name is blotted out.
        mask_by_name(text, mistakes);
        return Fields::default();
    }
    Reader { mistakes }.section("", section, document.get_ref(), 0..0)
}

/// Masks the rest of every line from a `name =` on whose name says that its value is a secret.
fn mask_by_name(text: &str, mistakes: &mut Mistakes) {
    let mut start = 0;
    for line in text.split_inclusive('\n') {
        let secret = line.match_indices('=').find(|(at, _)| {
            let name = line[..*at].trim_end().trim_end_matches(['"', '\'']);
            let from = name.rfind(|c: char| !(c.is_alphanumeric() || matches!(c, '_' | '-'))).map_or(0, |n| n + 1);
            // A character of several bytes may stand there.
            name.get(from..).is_some_and(looks_secret)
        });
        if let Some((at, _)) = secret {
            mistakes.mask(start + at + 1..start + line.len());
        }
        start += line.len();
    }
}

struct Reader<'m> {
    mistakes: &'m mut Mistakes,
}

fn join(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}

impl Reader<'_> {
    fn section(&mut self, path: &str, section: &'static Section, table: &DeTable<'_>, span: Range<usize>) -> Fields {
        let mut known = BTreeMap::new();
        let mut given = BTreeSet::new();
        for (name, value) in table {
            let written = name.get_ref().as_ref();
            let full = join(path, written);
            match section.keys.iter().find(|key| key.name == written) {
                Some(Key { shape: Shape::NotBuilt(instead), .. }) => {
                    self.mistakes
                        .add(name.span(), format!("{full} is not built yet"), "this version would ignore it")
                        .help = Some((*instead).to_owned());
                }
                Some(key) => {
                    given.insert(key.name);
                    if let Some(field) = self.value(&full, &key.shape, value) {
                        known.insert(key.name, field);
                    }
                }
                None => given.extend(self.unknown(path, section, written, name.span(), value)),
            }
        }
        for key in section.keys.iter().filter(|key| key.required && !given.contains(key.name)) {
            self.mistakes
                .add(span.clone(), format!("{} is missing", join(path, key.name)), format!("needs {}", key.name))
                .help = Some(key.doc.to_owned());
        }
        Fields { path: path.to_owned(), span, known, given }
    }

    /// Tells about a key that does not exist; returns the one that was probably meant.
    fn unknown(
        &mut self,
        path: &str,
        section: &'static Section,
        written: &str,
        span: Range<usize>,
        value: &Spanned<DeValue<'_>>,
    ) -> Option<&'static str> {
        let built = section.keys.iter().filter(|key| !matches!(key.shape, Shape::NotBuilt(_)));
        let near = nearest(written, section.keys.iter().map(|key| key.name));
        let meant_secret = near
            .and_then(|near| section.keys.iter().find(|key| key.name == near))
            .is_some_and(|key| matches!(key.shape, Shape::Secret | Shape::Map(_, Shape::Secret)));
        if meant_secret || looks_secret(written) {
            self.mask_texts(value);
        }
        let place = if path.is_empty() { String::new() } else { format!(" in [{path}]") };
        let help = match near {
            Some(near) => format!("did you mean \"{near}\"?"),
            None => format!("known here: {}", built.map(|key| key.name).collect::<Vec<_>>().join(", ")),
        };
        self.mistakes.add(span, format!("unknown key \"{}\"{place}", escape(written)), "not known here").help =
            Some(help);
        near
    }

    fn mask_texts(&mut self, value: &Spanned<DeValue<'_>>) {
        match value.get_ref() {
            DeValue::Table(table) => table.iter().for_each(|(_, inner)| self.mask_texts(inner)),
            DeValue::Array(list) => list.iter().for_each(|inner| self.mask_texts(inner)),
            _ => self.mistakes.mask(value.span()),
        }
    }

    fn value(&mut self, path: &str, shape: &'static Shape, value: &Spanned<DeValue<'_>>) -> Option<Field> {
        let datum = self.datum(path, shape, value)?;
        Some(Field { datum, span: value.span() })
    }

    fn datum(&mut self, path: &str, shape: &'static Shape, value: &Spanned<DeValue<'_>>) -> Option<Datum> {
        let span = value.span();
        match (shape, value.get_ref()) {
            (Shape::Text, DeValue::String(text)) => {
                if text.contains('\0') {
                    self.mistakes.add(span, format!("{path} holds a NUL character"), "no text may hold one");
                    return None;
                }
                Some(Datum::Text(text.to_string()))
            }
            (Shape::Flag, DeValue::Boolean(flag)) => Some(Datum::Flag(*flag)),
            (Shape::Whole(least, most), DeValue::Integer(_)) => {
                self.whole(path, value, *least, *most, &|n| n.to_string()).map(Datum::Whole)
            }
            (Shape::Size(least, most), DeValue::Integer(_)) => {
                self.whole(path, value, *least, *most, &show_size).map(Datum::Whole)
            }
            (Shape::Size(least, most), DeValue::String(text)) => match crate::unit::parse_bytes(text) {
                Ok(n) => self.within(path, span, n, *least, *most, &show_size).map(Datum::Whole),
                Err(error) => self.refuse(path, span, &error),
            },
            (Shape::Duration, DeValue::String(text)) => match crate::unit::parse_duration(text) {
                Ok(duration) if duration.is_zero() => {
                    self.mistakes.add(span, format!("{path} is zero"), "expected a duration such as \"30s\"");
                    None
                }
                Ok(duration) => Some(Datum::Duration(duration)),
                Err(error) => self.refuse(path, span, &error),
            },
            (Shape::Word(words), DeValue::String(text)) => {
                if words.known.contains(&text.as_ref()) {
                    return Some(Datum::Text(text.to_string()));
                }
                let known = words.known.iter().map(|word| format!("\"{word}\"")).collect::<Vec<_>>().join(", ");
                if let Some((word, instead)) = words.not_built.iter().find(|(word, _)| *word == text.as_ref()) {
                    self.mistakes
                        .add(span, format!("{path} = \"{word}\" is not built yet"), format!("expected {known}"))
                        .help = Some((*instead).to_owned());
                } else {
                    let near = nearest(text, words.known.iter().copied());
                    self.mistakes
                        .add(span, format!("{path} = \"{}\" is not known", escape(text)), format!("expected {known}"))
                        .help = near.map(|near| format!("did you mean \"{near}\"?"));
                }
                None
            }
            (Shape::Json, DeValue::Table(table)) => {
                self.refuse_secrets_as_text(path, table);
                self.json(path, value).map(Datum::Json)
            }
            (Shape::Secret, DeValue::Table(table)) => self.secret(path, table, span).map(Datum::Secret),
            (Shape::Secret, _) => {
                self.mask_texts(value);
                let message = format!("{path} holds a secret as text");
                self.mistakes.add(span, message, "expected a reference, got the value itself").help = Some(
                    "write { env = \"NAME\" } or { file = \"PATH\" }, and replace the secret: it was in a file"
                        .to_owned(),
                );
                None
            }
            (Shape::List(shape), DeValue::Array(list)) => {
                let mut fields = Vec::new();
                for (n, inner) in list.iter().enumerate() {
                    fields.extend(self.value(&format!("{path}[{n}]"), shape, inner));
                }
                // A list that lost an element is wrong as a whole; what was wrong has been told.
                (fields.len() == list.len()).then_some(Datum::List(fields))
            }
            (Shape::Map(names, shape), DeValue::Table(table)) => Some(Datum::Map(self.map(path, *names, shape, table))),
            (Shape::Table(section), DeValue::Table(table)) => {
                Some(Datum::Table(self.section(path, section, table, span)))
            }
            (Shape::Tables(section), DeValue::Table(table)) => {
                Some(Datum::Tables(vec![self.section(path, section, table, span)]))
            }
            (Shape::Tables(section), DeValue::Array(list))
                if list.iter().all(|inner| matches!(inner.get_ref(), DeValue::Table(_))) =>
            {
                let tables = list.iter().filter_map(|inner| match inner.get_ref() {
                    DeValue::Table(table) => Some(self.section(path, section, table, inner.span())),
                    _ => None,
                });
                Some(Datum::Tables(tables.collect()))
            }
            (Shape::Union(shapes), got) => match shapes.iter().find(|shape| fits(shape, got)) {
                Some(shape) => self.datum(path, shape, value),
                None => self.mismatch(path, shape, value),
            },
            _ => self.mismatch(path, shape, value),
        }
    }

    fn map(&mut self, path: &str, names: Names, shape: &'static Shape, table: &DeTable<'_>) -> Vec<Named> {
        let mut entries = Vec::new();
        for (name, value) in table {
            let written = name.get_ref().as_ref();
            if !names.admits(written) {
                self.mistakes.add(
                    name.span(),
                    format!("\"{}\" cannot be a name in {path}", escape(written)),
                    format!("expected {}", names.pattern()),
                );
                if matches!(shape, Shape::Secret) {
                    self.mask_texts(value);
                }
                continue;
            }
            let full = join(path, written);
            // The name is a better mark than the table's header: an inline table has none.
            let field = match (shape, value.get_ref()) {
                (Shape::Table(section), DeValue::Table(inner)) => {
                    let fields = self.section(&full, section, inner, name.span());
                    Some(Field { datum: Datum::Table(fields), span: value.span() })
                }
                (Shape::Tables(section), DeValue::Table(inner)) => {
                    let fields = self.section(&full, section, inner, name.span());
                    Some(Field { datum: Datum::Tables(vec![fields]), span: value.span() })
                }
                _ => self.value(&full, shape, value),
            };
            entries.extend(field.map(|field| Named { name: written.to_owned(), name_span: name.span(), field }));
        }
        entries
    }

    fn secret(&mut self, path: &str, table: &DeTable<'_>, span: Range<usize>) -> Option<SecretRef> {
        let mut found = Vec::new();
        for (name, value) in table {
            let written = name.get_ref().as_ref();
            match (written, value.get_ref()) {
                ("env", DeValue::String(variable)) if Names::Variable.admits(variable) => {
                    found.push(SecretRef::Env(variable.to_string()));
                }
                ("env", _) => {
                    self.mask_texts(value);
                    self.mistakes
                        .add(
                            value.span(),
                            format!("{path}.env is not the name of an environment variable"),
                            "expected a name",
                        )
                        .help = Some(format!("expected {}", Names::Variable.pattern()));
                    return None;
                }
                ("file", DeValue::String(file)) if !file.is_empty() && !file.contains('\0') => {
                    found.push(SecretRef::File(PathBuf::from(file.as_ref())));
                }
                ("file", _) => {
                    self.mask_texts(value);
                    self.mistakes.add(
                        value.span(),
                        format!("{path}.file is not a path"),
                        "expected the path of a file",
                    );
                    return None;
                }
                ("kubernetes" | "kube", _) => {
                    self.mistakes
                        .add(name.span(), format!("{path}.{written} is not built yet"), "this version cannot read it")
                        .help =
                        Some("mount the Kubernetes secret into the pod and write { file = \"PATH\" }".to_owned());
                    return None;
                }
                _ => {
                    self.mask_texts(value);
                    self.mistakes
                        .add(
                            name.span(),
                            format!("unknown key \"{}\" in {path}", escape(written)),
                            "not a reference to a secret",
                        )
                        .help = Some("write { env = \"NAME\" } or { file = \"PATH\" }".to_owned());
                    return None;
                }
            }
        }
        if found.len() == 1 {
            return found.pop();
        }
        self.mistakes
            .add(
                span,
                format!("{path} does not name one secret"),
                format!("expected one of env and file, got {}", found.len()),
            )
            .help = Some("write { env = \"NAME\" } or { file = \"PATH\" }".to_owned());
        None
    }

    fn whole(
        &mut self,
        path: &str,
        value: &Spanned<DeValue<'_>>,
        least: u64,
        most: u64,
        show: &dyn Fn(u64) -> String,
    ) -> Option<u64> {
        let DeValue::Integer(integer) = value.get_ref() else { return None };
        match u64::from_str_radix(integer.as_str().trim_start_matches('+'), integer.radix()) {
            Ok(n) => self.within(path, value.span(), n, least, most, show),
            Err(_) => {
                let label = format!("expected {} to {}, got {}", show(least), show(most), escape(&integer.to_string()));
                self.mistakes.add(value.span(), format!("{path} is out of range"), label);
                None
            }
        }
    }

    fn within(
        &mut self,
        path: &str,
        span: Range<usize>,
        n: u64,
        least: u64,
        most: u64,
        show: &dyn Fn(u64) -> String,
    ) -> Option<u64> {
        if (least..=most).contains(&n) {
            return Some(n);
        }
        let label = format!("expected {} to {}, got {}", show(least), show(most), show(n));
        self.mistakes.add(span, format!("{path} is out of range"), label);
        None
    }

    fn refuse<T>(&mut self, path: &str, span: Range<usize>, error: &crate::error::Error) -> Option<T> {
        let label =
            error.facts().iter().map(|(label, value)| format!("{label} {value}")).collect::<Vec<_>>().join(", ");
        self.mistakes.add(span, format!("{path}: {}", error.message()), label).help =
            error.hint_text().map(str::to_owned);
        None
    }

    fn mismatch<T>(&mut self, path: &str, shape: &'static Shape, value: &Spanned<DeValue<'_>>) -> Option<T> {
        let label = format!("expected {}, got {}", expected(shape), got(value.get_ref()));
        // A list of secrets, or one without its braces, still holds them.
        if matches!(shape, Shape::Map(_, Shape::Secret)) || looks_secret(path.rsplit('.').next().unwrap_or(path)) {
            self.mask_texts(value);
        }
        self.mistakes.add(value.span(), format!("{path} has the wrong type"), label);
        None
    }

    /// What is handed to a plugin as it is written here is no place for a secret: the plugin reads
    /// it, and it is recorded with the backup.
    fn refuse_secrets_as_text(&mut self, path: &str, table: &DeTable<'_>) {
        for (name, value) in table {
            let name_text = name.get_ref().as_ref();
            if looks_secret(name_text) && matches!(value.get_ref(), DeValue::String(_)) {
                self.mistakes.mask(value.span());
                let message = format!("{} looks like a secret as text", join(path, name_text));
                self.mistakes.add(name.span(), message, "a plugin reads this, and backups record it").help =
                    Some("write secrets = { VARIABLE = { env = \"NAME\" } } or { file = \"PATH\" }".to_owned());
            }
        }
    }

    fn json(&mut self, path: &str, value: &Spanned<DeValue<'_>>) -> Option<Value> {
        Some(match value.get_ref() {
            DeValue::String(text) => Value::String(text.to_string()),
            DeValue::Boolean(flag) => Value::Bool(*flag),
            DeValue::Integer(integer) => {
                let n = i64::from_str_radix(integer.as_str().trim_start_matches('+'), integer.radix());
                if let Ok(n) = n {
                    Value::from(n)
                } else {
                    self.mistakes.add(value.span(), format!("{path} is out of range"), "expected a number of 64 bits");
                    return None;
                }
            }
            DeValue::Float(float) => {
                let number = float.as_str().parse().ok().and_then(serde_json::Number::from_f64);
                let Some(number) = number else {
                    let label = format!("expected a finite number, got {}", escape(&float.to_string()));
                    self.mistakes.add(value.span(), format!("{path} cannot be handed to a plugin"), label);
                    return None;
                };
                Value::Number(number)
            }
            DeValue::Datetime(at) => Value::String(at.to_string()),
            DeValue::Array(list) => Value::Array(
                list.iter().enumerate().filter_map(|(n, inner)| self.json(&format!("{path}[{n}]"), inner)).collect(),
            ),
            DeValue::Table(table) => Value::Object(
                table
                    .iter()
                    .filter_map(|(name, inner)| {
                        let name = name.get_ref().as_ref();
                        Some((name.to_owned(), self.json(&join(path, name), inner)?))
                    })
                    .collect(),
            ),
        })
    }
}

fn show_size(n: u64) -> String {
    crate::unit::bytes(n)
}

/// Whether a shape of a union is the one that was meant, judged by the TOML type alone.
fn fits(shape: &Shape, value: &DeValue<'_>) -> bool {
    match value {
        DeValue::String(_) => matches!(shape, Shape::Text | Shape::Word(_) | Shape::Duration | Shape::Size(..)),
        DeValue::Table(_) => matches!(shape, Shape::Table(_) | Shape::Tables(_) | Shape::Map(..) | Shape::Json),
        DeValue::Array(_) => matches!(shape, Shape::List(_) | Shape::Tables(_)),
        DeValue::Integer(_) => matches!(shape, Shape::Whole(..) | Shape::Size(..)),
        DeValue::Boolean(_) => matches!(shape, Shape::Flag),
        DeValue::Float(_) | DeValue::Datetime(_) => false,
    }
}

fn expected(shape: &Shape) -> String {
    match shape {
        Shape::Text | Shape::NotBuilt(_) => "text".to_owned(),
        Shape::Flag => "true or false".to_owned(),
        Shape::Whole(least, most) => format!("a whole number from {least} to {most}"),
        Shape::Size(..) => "a size such as \"8MiB\"".to_owned(),
        Shape::Duration => "a duration such as \"30s\"".to_owned(),
        Shape::Word(words) => words.known.iter().map(|word| format!("\"{word}\"")).collect::<Vec<_>>().join(" or "),
        Shape::Json | Shape::Map(..) | Shape::Table(_) => "a table".to_owned(),
        Shape::Secret => "a reference to a secret".to_owned(),
        Shape::List(inner) => format!("a list of {}", expected_many(inner)),
        Shape::Tables(_) => "a table or a list of tables".to_owned(),
        Shape::Union(shapes) => shapes.iter().map(expected).collect::<Vec<_>>().join(" or "),
    }
}

fn expected_many(shape: &Shape) -> String {
    match shape {
        Shape::Text => "texts".to_owned(),
        other => expected(other),
    }
}

fn got(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "text",
        DeValue::Integer(_) => "a whole number",
        DeValue::Float(_) => "a number with a point",
        DeValue::Boolean(true) => "true",
        DeValue::Boolean(false) => "false",
        DeValue::Datetime(_) => "a date or time",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}

/// The candidate nearest to `written`, if it is near enough to have been meant.
pub(super) fn nearest<'a>(written: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let folded = written.to_lowercase().replace('-', "_");
    candidates
        .map(|candidate| (strsim::normalized_damerau_levenshtein(&folded, &candidate.replace('-', "_")), candidate))
        .filter(|(likeness, _)| *likeness >= 0.55)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, candidate)| candidate)
}

/// Whether a name says that its value is a secret, and not merely where one is.
pub(super) fn looks_secret(name: &str) -> bool {
    const WORDS: [&str; 6] = ["PASSPHRASE", "CREDENTIAL", "CREDENTIALS", "APIKEY", "SECRETKEY", "SECRETS"];
    const LAST: [&str; 3] = ["PASS", "PWD", "AUTH"];
    const ENDS: [&str; 4] = ["PASSWORD", "PASSWD", "SECRET", "TOKEN"];
    const PAIRS: [&str; 3] = ["API_KEY", "PRIVATE_KEY", "ACCESS_KEY"];
    let name = name.to_uppercase().replace(['-', '.'], "_");
    if ["_FILE", "_PATH", "_DIR", "_NAME", "_ID", "_TTL"].iter().any(|end| name.ends_with(end)) {
        return false;
    }
    name.split('_').any(|word| WORDS.contains(&word) || ENDS.iter().any(|end| word.ends_with(end)))
        || name.rsplit('_').next().is_some_and(|word| LAST.contains(&word))
        || PAIRS.iter().any(|pair| name.ends_with(pair))
}

/// Text of the operator's, fit for a message.
pub(super) fn escape(text: &str) -> String {
    text.chars().take(80).flat_map(char::escape_debug).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_key_is_named_only_if_it_is_near() {
        let keys = ["recipients", "region", "part_bytes", "path"];
        let near = |written| nearest(written, keys.into_iter());
        assert_eq!(near("recipient"), Some("recipients"));
        assert_eq!(near("Recipients"), Some("recipients"));
        assert_eq!(near("part-bytes"), Some("part_bytes"));
        assert_eq!(near("paht"), Some("path"));
        assert_eq!(near("colour"), None);
        assert_eq!(near(""), None);
    }

    #[test]
    fn names_that_hold_secrets_are_told_from_names_that_point_to_them() {
        for secret in [
            "PGPASSWORD",
            "db_password",
            "API_TOKEN",
            "secret_key",
            "MYSQL_PWD",
            "REDISCLI_AUTH",
            "AWS_SECRET_ACCESS_KEY",
            "pass",
        ] {
            assert!(looks_secret(secret), "{secret}");
        }
        for plain in [
            "PGHOST",
            "PGUSER",
            "PGPASSFILE",
            "PASSWORD_FILE",
            "TOKEN_PATH",
            "COMPASS",
            "AUTHOR",
            "TOKENIZERS_PARALLELISM",
            "AWS_ACCESS_KEY_ID",
            "SSH_AUTH_SOCK",
            "region",
        ] {
            assert!(!looks_secret(plain), "{plain}");
        }
    }
}
