//! Prints one error: what, where, expected, got, next step, and the chain of causes once.

use super::exit::AfterChange;
use super::output::Output;
use super::{table, vendor};
use crate::config::mistake::{Mistakes, Placed};
use crate::error::{Error, Kind};
use crate::plugin::context::Step;
use serde::Serialize;

/// The error with what to do next, where nothing in its chain says it.
pub fn with_next_step(error: Error, next: impl FnOnce() -> String) -> Error {
    let mut chain = std::iter::successors(Some(&error), |error| {
        std::error::Error::source(*error).and_then(|source| source.downcast_ref::<Error>())
    });
    if error.kind() == Kind::Cancelled || chain.any(|error| error.hint_text().is_some()) {
        return error;
    }
    error.hint(next())
}

/// An error as JSON: `{ "error": … }`. Documented; keys are only ever added.
#[derive(Debug, Serialize)]
pub struct Report {
    /// The error.
    pub error: Part,
    /// Of a restore that stopped after it had changed the target: what it had done, in its order.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub steps: Vec<Step>,
}

/// One error of the chain.
#[derive(Debug, Serialize)]
pub struct Part {
    /// The decision of the caller, such as `not-found`; only of the outermost.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kind: Option<&'static str>,
    /// What was attempted on what.
    pub message: String,
    /// Evidence.
    pub facts: Vec<Fact>,
    /// What to do next.
    pub hint: Option<String>,
    /// What caused it, outermost first; only of the outermost.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub chain: Option<Vec<Part>>,
    /// Mistakes of the configuration, each with its place.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub mistakes: Vec<Placed>,
}

/// A line of evidence.
#[derive(Debug, Serialize)]
pub struct Fact {
    /// Such as `expected`.
    pub name: String,
    /// Such as `8 MiB`.
    pub value: String,
}

/// Prints an error where it belongs: text to standard error, JSON to standard output.
pub fn print(error: &anyhow::Error, output: &Output) {
    if output.is_json() {
        if let Err(failed) = output.result(&report(error), String::new) {
            output.complain(&format!("error: could not write the error as JSON: {failed}"));
        }
        return;
    }
    output.complain(&text(error, output));
}

/// The error for people.
pub fn text(error: &anyhow::Error, output: &Output) -> String {
    let mut text = String::new();
    for (depth, cause) in error.chain().enumerate() {
        if let Some(mistakes) = cause.downcast_ref::<Mistakes>() {
            // The excerpts come first, so that the last line on the screen is the summary.
            text = format!("{}{text}  because: {mistakes}\n", mistakes.draw(output.drawing(), output.width()));
            continue;
        }
        let part = part(cause);
        let lead = if depth == 0 { "error" } else { "  because" };
        let indent = if depth == 0 { "  " } else { "    " };
        text.push_str(&format!("{lead}: {}\n", vendor::lines(&part.message).replace('\n', &format!("\n{indent}"))));
        let hint = part.hint.into_iter().map(|hint| ("hint".to_owned(), hint));
        let pairs: Vec<_> = part.facts.into_iter().map(|fact| (fact.name, fact.value)).chain(hint).collect();
        text.push_str(&table::pairs(pairs.iter().map(|(name, value)| (name.as_str(), value.clone())), indent));
    }
    text
}

/// The error for programs.
pub fn report(error: &anyhow::Error) -> Report {
    let mut causes = error.chain();
    let mut outermost = causes.next().map_or_else(|| part(error.as_ref()), part);
    let rest: Vec<_> = causes.collect();
    outermost.mistakes =
        rest.iter().filter_map(|cause| cause.downcast_ref::<Mistakes>()).flat_map(Mistakes::placed).collect();
    let kind = error.chain().find_map(|cause| cause.downcast_ref::<Error>()).map_or(Kind::Failed, Error::kind);
    outermost.kind = Some(name(kind));
    outermost.chain = Some(rest.into_iter().map(part).collect());
    let stopped = error.chain().find_map(|cause| cause.downcast_ref::<AfterChange>());
    Report { error: outermost, steps: stopped.map(|stopped| stopped.steps.clone()).unwrap_or_default() }
}

fn part(cause: &(dyn std::error::Error + 'static)) -> Part {
    let ours = cause.downcast_ref::<Error>();
    let fact = |(name, value): &(&'static str, String)| Fact { name: (*name).to_owned(), value: value.clone() };
    Part {
        kind: None,
        message: cause.to_string(),
        facts: ours.map(|error| error.facts().iter().map(fact).collect()).unwrap_or_default(),
        hint: ours.and_then(Error::hint_text).map(str::to_owned),
        chain: None,
        mistakes: Vec::new(),
    }
}

fn name(kind: Kind) -> &'static str {
    match kind {
        Kind::Invalid => "invalid",
        Kind::NotFound => "not-found",
        Kind::Conflict => "conflict",
        Kind::Denied => "denied",
        Kind::Unavailable => "unavailable",
        Kind::TimedOut => "timed-out",
        Kind::Limit => "limit",
        Kind::Damaged => "damaged",
        Kind::Cancelled => "cancelled",
        Kind::Failed => "failed",
    }
}

#[cfg(test)]
mod tests {
    use super::super::output::{Colour, Format};
    use super::*;

    const PLAIN: Output = Output { format: Format::Text, quiet: false, colour: Colour::Never };

    fn denied() -> anyhow::Error {
        Error::denied("plugin \"postgres\" may not run \"pg_dump\" for database \"billing\"")
            .fact("granted", "pg_dump for databases \"shop-*\"")
            .fact("got", "billing")
            .hint("widen [plugin.postgres.grant.exec.pg_dump.slots] in strongroom.toml")
            .while_doing("could not back up \"orders\"")
            .into()
    }

    #[test]
    fn an_error_is_told_once_with_evidence_and_the_next_step() {
        insta::assert_snapshot!(text(&denied(), &PLAIN), @r#"
        error: could not back up "orders"
          because: plugin "postgres" may not run "pg_dump" for database "billing"
            granted: pg_dump for databases "shop-*"
            got:     billing
            hint:    widen [plugin.postgres.grant.exec.pg_dump.slots] in strongroom.toml
        "#);
    }

    #[test]
    fn an_error_as_json_has_the_documented_shape() {
        let json = serde_json::to_string_pretty(&report(&denied())).unwrap();
        insta::assert_snapshot!(json, @r#"
        {
          "error": {
            "kind": "denied",
            "message": "could not back up \"orders\"",
            "facts": [],
            "hint": null,
            "chain": [
              {
                "message": "plugin \"postgres\" may not run \"pg_dump\" for database \"billing\"",
                "facts": [
                  {
                    "name": "granted",
                    "value": "pg_dump for databases \"shop-*\""
                  },
                  {
                    "name": "got",
                    "value": "billing"
                  }
                ],
                "hint": "widen [plugin.postgres.grant.exec.pg_dump.slots] in strongroom.toml"
              }
            ]
          }
        }
        "#);
    }

    #[test]
    fn what_others_said_cannot_drive_the_terminal() {
        let error = Error::failed("plugin \"x\" reported: \"\x1b[2J\"").fact("got", "a\x07\nb").into();
        insta::assert_snapshot!(text(&error, &PLAIN), @r#"
        error: plugin "x" reported: "\u{1b}[2J"
          got: a\u{7}
               b
        "#);
    }
}
