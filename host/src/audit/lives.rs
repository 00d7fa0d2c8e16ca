//! Lines about the life of a plugin: that it was loaded, under which ceilings and by whose signature,
//! or why it was not.

use super::line::{Argument, Event, Line, Verdict, cut};
use super::outcome;
use crate::error::{Error, Kind};
use crate::plugin::Plugin;
use crate::policy::ceiling::Ceiling;
use std::sync::Arc;

/// A plugin was loaded: who signed it, where that was checked, and every ceiling that was over its
/// grants, with the digest of the ceiling's text.
pub fn loaded(plugin: &Plugin, ceilings: &[Arc<Ceiling>]) -> Line {
    let signature = match plugin.signed() {
        Some(signed) => format!("key {} ({})", signed.key_id, signed.comment),
        None => "not checked".to_owned(),
    };
    Line {
        outcome: Some("ok".to_owned()),
        detail: Some(format!("plugin \"{}\" of the configuration", plugin.label())),
        arguments: std::iter::once(argument("signature", &signature)).chain(of_ceilings(ceilings)).collect(),
        ..Line::of(Event::Load)
    }
}

/// A plugin with these bytes was refused when it was loaded: the step that refused it, with its facts.
/// Without a digest its file could not be read, or is larger than a component may be.
pub fn refused(sha256: Option<String>, ceilings: &[Arc<Ceiling>], error: &Error) -> Line {
    // What could not be looked at is refused as well. What somebody stopped was not.
    let decides = error.kind() != Kind::Cancelled;
    Line {
        sha256,
        decision: decides.then_some(Verdict::Denied),
        outcome: Some(outcome(Some(error)).to_owned()),
        detail: Some(cut(&told(error))),
        arguments: of_ceilings(ceilings).collect(),
        ..Line::of(Event::Load)
    }
}

/// Nothing was loaded, since the configuration grants more than a ceiling allows.
pub fn over_a_ceiling(configuration: &str, ceilings: &[Arc<Ceiling>], mistake: &str) -> Line {
    Line {
        decision: Some(Verdict::Denied),
        outcome: Some("denied".to_owned()),
        detail: Some(cut(&format!("the configuration is over a ceiling: {mistake}"))),
        arguments: std::iter::once(argument("configuration", configuration)).chain(of_ceilings(ceilings)).collect(),
        ..Line::of(Event::Load)
    }
}

fn of_ceilings(ceilings: &[Arc<Ceiling>]) -> impl Iterator<Item = Argument> {
    ceilings.iter().map(|ceiling| argument("ceiling", &format!("{} sha256 {}", ceiling.file, ceiling.sha256)))
}

fn argument(name: &str, value: &str) -> Argument {
    Argument { name: name.to_owned(), value: Some(cut(value)), hash: None }
}

/// What an error and its sources say, with the facts of the first.
fn told(error: &Error) -> String {
    let facts = error.facts().iter().map(|(label, value)| format!("{label}: {value}"));
    let sources = std::iter::successors(std::error::Error::source(error), |source| source.source());
    let texts = std::iter::once(error.message().to_owned()).chain(facts).chain(sources.map(ToString::to_string));
    texts.collect::<Vec<_>>().join("; ")
}
