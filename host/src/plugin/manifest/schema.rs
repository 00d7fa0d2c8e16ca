//! JSON Schema for settings and restore options: checked when the manifest is read, applied when a
//! job runs. Nothing is fetched: a reference to another document is an error.

use crate::error::{Error, Result};
use jsonschema::error::{TypeKind, ValidationErrorKind};
use jsonschema::paths::LocationSegment;
use serde_json::Value;

/// The longest value that a message shows, in characters.
const MAX_SHOWN_CHARS: usize = 80;

fn validator(schema: &Value) -> std::result::Result<jsonschema::Validator, String> {
    // The linear-time engine: a vendor's pattern must not be able to spin on an operator's text.
    jsonschema::options()
        .with_pattern_options(jsonschema::PatternOptions::regex())
        .build(schema)
        .map_err(|error| error.to_string())
}

/// Whether this is a JSON Schema, of an object.
pub(super) fn check(what: &str, schema: &Value) -> std::result::Result<(), String> {
    if schema.is_null() {
        return Ok(());
    }
    validator(schema).map_err(|error| format!("is not a JSON Schema: {error}"))?;
    if schema.get("type").and_then(Value::as_str) != Some("object") {
        return Err(format!("the schema has to be of type \"object\", since {what} are a table"));
    }
    Ok(())
}

/// Applies a schema; without one, only an empty table is valid.
pub(super) fn validate(root: &'static str, plugin: &str, schema: &Value, value: &Value) -> Result<()> {
    let mistakes: Vec<Mistake> = if schema.is_null() {
        let keys = value.as_object().map(|table| table.keys().cloned().collect()).unwrap_or_default();
        no_settings(root, keys)
    } else {
        let validator = validator(schema).map_err(|why| {
            Error::invalid(format!("plugin \"{plugin}\" has an invalid schema for {root}")).because(why)
        })?;
        validator.iter_errors(value).map(|error| Mistake::from(root, &error)).collect()
    };
    let mut mistakes = mistakes.into_iter();
    let Some(first) = mistakes.next() else { return Ok(()) };
    let more: Vec<Mistake> = mistakes.collect();
    let mut error = Error::invalid(format!("\"{}\" is not what plugin \"{plugin}\" takes", first.path))
        .fact("expected", first.expected)
        .fact("got", first.got);
    for mistake in more {
        error = error.fact("also", format!("{}: expected {}, got {}", mistake.path, mistake.expected, mistake.got));
    }
    Err(error.hint(format!("see the schema of {root} with \"strongroom plugin inspect\"")))
}

fn no_settings(root: &str, keys: Vec<String>) -> Vec<Mistake> {
    let mistake = |key| Mistake {
        path: format!("{root}.{key}"),
        expected: "no key: the plugin takes none".to_owned(),
        got: "one".to_owned(),
    };
    keys.into_iter().map(mistake).collect()
}

struct Mistake {
    path: String,
    expected: String,
    got: String,
}

impl Mistake {
    fn from(root: &str, error: &jsonschema::ValidationError<'_>) -> Self {
        let mut path = root.to_owned();
        for segment in error.instance_path().segments() {
            match segment {
                LocationSegment::Property(name) => path.push_str(&format!(".{name}")),
                LocationSegment::Index(n) => path.push_str(&format!("[{n}]")),
            }
        }
        let shown = show(error.instance());
        let (expected, got) = match error.kind() {
            ValidationErrorKind::Type { kind: TypeKind::Single(kind) } => (format!("type {kind}"), shown),
            ValidationErrorKind::Type { kind: TypeKind::Multiple(_) } => ("another type".to_owned(), shown),
            ValidationErrorKind::Required { property } => {
                (format!("key {}", show(property)), "a table without it".to_owned())
            }
            ValidationErrorKind::AdditionalProperties { unexpected }
            | ValidationErrorKind::UnevaluatedProperties { unexpected } => {
                ("only keys of the schema".to_owned(), unexpected.join(", "))
            }
            ValidationErrorKind::Enum { options } => (format!("one of {}", show(options)), shown),
            ValidationErrorKind::Pattern { pattern } => (format!("a match of {pattern}"), shown),
            ValidationErrorKind::MinItems { limit } => (format!("at least {limit} items"), shown),
            ValidationErrorKind::MaxItems { limit } => (format!("at most {limit} items"), shown),
            ValidationErrorKind::MinLength { limit } => (format!("at least {limit} characters"), shown),
            ValidationErrorKind::MaxLength { limit } => (format!("at most {limit} characters"), shown),
            ValidationErrorKind::Minimum { limit } => (format!("at least {limit}"), shown),
            ValidationErrorKind::Maximum { limit } => (format!("at most {limit}"), shown),
            ValidationErrorKind::UniqueItems => ("items that differ".to_owned(), shown),
            kind => (format!("a value that \"{}\" accepts", kind.keyword()), shown),
        };
        Self { path, expected, got }
    }
}

/// A value as JSON, cut.
fn show(value: &Value) -> String {
    let text = value.to_string();
    let mut shown: String = text.chars().take(MAX_SHOWN_CHARS).collect();
    if shown.len() < text.len() {
        shown.push('…');
    }
    shown
}
