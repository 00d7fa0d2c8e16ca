//! What a query asks for: parsed, never searched, with the operator's labels added to every selector.
//!
//! What is sent to the server is written anew from what was understood, and is understood in the same
//! way when it is read again: text that two parsers could read differently (comments, escapes, names in
//! braces) never leaves the host. Pure.

use super::series::Labels;
use crate::error::{Error, Result};
use promql_parser::label::{MatchOp, Matcher, Matchers};
use promql_parser::parser::{AtModifier, Expr, Offset, VectorSelector};
use std::collections::BTreeSet;
use std::time::Duration;

/// Longest query, in bytes.
pub const MAX_BYTES: usize = 4096;

/// Most words and signs of a query. Each can nest once at most, and the walk over the result takes
/// less than 2 KiB of stack for each; threads of the runtime have 2 MiB.
const MAX_TOKENS: usize = 400;

/// How far one query may look back or ahead in all, with ranges, offsets and sub-queries added up.
pub const MAX_REACH: Duration = Duration::from_secs(400 * 24 * 3600);

/// Most steps of a sub-query.
const MAX_STEPS: u128 = 11_000;

/// Functions that read series which no selector names.
const UNNAMED: [&str; 1] = ["info"];

/// A query that was understood.
#[derive(Clone, Debug)]
pub struct Query {
    /// The name of each selector, in order; `None` for one without a name, or with one that is not
    /// written out.
    pub names: Vec<Option<String>>,
    expr: Expr,
}

impl Query {
    /// Parses a query.
    ///
    /// Errors: `Invalid` for what is no query, `Limit` for one that is too long or reaches too far.
    pub fn parse(text: &str) -> Result<Self> {
        let too = |what: &str, most: String, got: usize| {
            Error::limit(format!("the query {what}"))
                .fact("expected", format!("at most {most}"))
                .fact("got", got.to_string())
        };
        if text.len() > MAX_BYTES {
            return Err(too("is too long", format!("{MAX_BYTES} bytes"), text.len()));
        }
        let n_tokens = tokens(text);
        if n_tokens > MAX_TOKENS {
            return Err(too("is too intricate", format!("{MAX_TOKENS} words and signs"), n_tokens));
        }
        let expr = promql_parser::parser::parse(text)
            .map_err(|error| Error::invalid("the query is not PromQL").because(error))?;
        let mut walk = Walk::default();
        walk.expr(&expr, Duration::ZERO)?;
        Ok(Self { names: walk.names, expr })
    }

    /// The distinct names of its selectors, as a line of the audit log has them.
    pub fn distinct_names(&self) -> BTreeSet<&str> {
        self.names.iter().map(|name| name.as_deref().unwrap_or("(none)")).collect()
    }

    /// The query as it is sent, with `labels` in every selector: a selector that asks for another value
    /// of one of them finds nothing.
    ///
    /// Errors: `Invalid` for a query that could be read in another way.
    pub fn text_with(&self, labels: &Labels) -> Result<String> {
        let mut expr = self.expr.clone();
        let fixed = labels.iter().map(|(name, value)| Matcher::new(MatchOp::Equal, name, value));
        let fixed: Vec<Matcher> = fixed.collect();
        restrict(&mut expr, &fixed);
        let text = expr.to_string();
        match promql_parser::parser::parse(&text) {
            Ok(again) if again == expr => Ok(text),
            _ => Err(Error::invalid("the query can be read in more than one way")
                .hint("write it in a plainer way: no odd escapes, numbers or durations")),
        }
    }
}

/// Words and signs, roughly: never fewer than a parser finds.
fn tokens(text: &str) -> usize {
    let is_word = |c: char| c.is_alphanumeric() || matches!(c, '_' | '.' | ':');
    let mut n = 0;
    let mut in_word = false;
    for c in text.chars() {
        let goes_on = in_word && is_word(c);
        n += usize::from(!goes_on && !c.is_whitespace());
        in_word = is_word(c);
    }
    n
}

/// Goes over every part of a query: collects names, adds up how far it reaches.
#[derive(Default)]
struct Walk {
    names: Vec<Option<String>>,
}

impl Walk {
    /// `reach` is what the parts around this one look back already.
    fn expr(&mut self, expr: &Expr, reach: Duration) -> Result<()> {
        match expr {
            Expr::Aggregate(aggregate) => {
                if let Some(param) = &aggregate.param {
                    self.expr(param, reach)?;
                }
                self.expr(&aggregate.expr, reach)
            }
            Expr::Unary(unary) => self.expr(&unary.expr, reach),
            Expr::Binary(binary) => {
                self.expr(&binary.lhs, reach)?;
                self.expr(&binary.rhs, reach)
            }
            Expr::Paren(paren) => self.expr(&paren.expr, reach),
            Expr::Subquery(subquery) => {
                let step = subquery.step.unwrap_or(Duration::from_secs(60)).as_millis().max(1);
                if subquery.range.as_millis() / step > MAX_STEPS {
                    return Err(
                        Error::limit("a sub-query has too many steps").fact("expected", format!("at most {MAX_STEPS}"))
                    );
                }
                let reach = further(reach, subquery.range, subquery.offset.as_ref(), subquery.at.as_ref())?;
                self.expr(&subquery.expr, reach)
            }
            Expr::NumberLiteral(_) | Expr::StringLiteral(_) => Ok(()),
            Expr::VectorSelector(selector) => self.selector(selector, Duration::ZERO, reach),
            Expr::MatrixSelector(matrix) => self.selector(&matrix.vs, matrix.range, reach),
            Expr::Call(call) => {
                if UNNAMED.contains(&call.func.name) {
                    return Err(Error::invalid(format!(
                        "the function {} reads series that the query does not name",
                        call.func.name
                    )));
                }
                call.args.args.iter().try_for_each(|argument| self.expr(argument, reach))
            }
            Expr::Extension(_) => Err(Error::invalid("the query holds what this host does not understand")),
        }
    }

    fn selector(&mut self, selector: &VectorSelector, range: Duration, reach: Duration) -> Result<()> {
        further(reach, range, selector.offset.as_ref(), selector.at.as_ref())?;
        let Matchers { matchers, or_matchers } = &selector.matchers;
        let named_in_braces = matchers.iter().any(|matcher| matcher.name == "__name__");
        self.names.push(if named_in_braces || !or_matchers.is_empty() { None } else { selector.name.clone() });
        Ok(())
    }
}

/// How far a part reaches with what is around it.
///
/// Errors: `Limit` beyond [`MAX_REACH`], `Invalid` for a time that is written out: it reaches anywhere.
fn further(reach: Duration, range: Duration, offset: Option<&Offset>, at: Option<&AtModifier>) -> Result<Duration> {
    if let Some(AtModifier::At(_)) = at {
        return Err(Error::invalid("the query names a time with @")
            .hint("ask with query-range for the time that is meant, or use offset, @ start() or @ end()"));
    }
    let offset = match offset {
        None => Duration::ZERO,
        Some(Offset::Pos(by) | Offset::Neg(by)) => *by,
    };
    let all = reach.saturating_add(range).saturating_add(offset);
    if all > MAX_REACH {
        return Err(Error::limit("the query reaches too far")
            .fact("expected", format!("at most {}", crate::unit::duration(MAX_REACH)))
            .fact("got", crate::unit::duration(all)));
    }
    Ok(all)
}

/// Adds matchers to every selector.
fn restrict(expr: &mut Expr, fixed: &[Matcher]) {
    match expr {
        Expr::Aggregate(aggregate) => {
            aggregate.param.iter_mut().for_each(|param| restrict(param, fixed));
            restrict(&mut aggregate.expr, fixed);
        }
        Expr::Unary(unary) => restrict(&mut unary.expr, fixed),
        Expr::Binary(binary) => {
            restrict(&mut binary.lhs, fixed);
            restrict(&mut binary.rhs, fixed);
        }
        Expr::Paren(paren) => restrict(&mut paren.expr, fixed),
        Expr::Subquery(subquery) => restrict(&mut subquery.expr, fixed),
        Expr::VectorSelector(selector) => add_to(selector, fixed),
        Expr::MatrixSelector(matrix) => add_to(&mut matrix.vs, fixed),
        Expr::Call(call) => call.args.args.iter_mut().for_each(|argument| restrict(argument, fixed)),
        // The walk refused extensions.
        Expr::NumberLiteral(_) | Expr::StringLiteral(_) | Expr::Extension(_) => {}
    }
}

fn add_to(selector: &mut VectorSelector, fixed: &[Matcher]) {
    let matchers = &mut selector.matchers.matchers;
    matchers.extend_from_slice(fixed);
    // As they are printed: what is read again is then equal.
    matchers.sort_by_cached_key(ToString::to_string);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;

    fn labels() -> Labels {
        Labels::from([("team".to_owned(), "shop \"a\\".to_owned())])
    }

    /// Names that a query selects, as text.
    fn names(text: &str) -> Vec<String> {
        let query = Query::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"));
        query.names.into_iter().map(|name| name.unwrap_or_else(|| "-".to_owned())).collect()
    }

    #[test]
    fn every_selector_is_found_wherever_it_stands() {
        for (text, expected) in [
            ("up", &["up"][..]),
            ("up == 1 # or secret\n or b", &["up", "b"]),
            ("sum by (x) (rate(a[5m])) / on (x) group_left (y) b{c=\"d\"} offset 1h", &["a", "b"]),
            ("topk(scalar(a), b)", &["a", "b"]),
            ("quantile(scalar(secret), b)", &["secret", "b"]),
            ("max_over_time(rate(a[5m])[1h:1m])", &["a"]),
            ("-(-(a))", &["a"]),
            ("absent(a{x=~\"b.*\"})", &["a"]),
            ("label_replace(a, \"__name__\", \"secret\", \"\", \"\")", &["a"]),
            ("a and (b or (c unless d))", &["a", "b", "c", "d"]),
            ("histogram_quantile(0.9, a)", &["a"]),
            ("a @ start()", &["a"]),
            ("1 + 1", &[]),
        ] {
            assert_eq!(names(text), expected, "{text}");
        }
    }

    #[test]
    fn a_selector_whose_name_is_not_written_out_has_none() {
        for text in [
            "{__name__=\"up\"}",
            "{__name__=~\"up|secret\"}",
            "{__name__!=\"up\"}",
            "{job=\"node\"}",
            "{\"up\"}",
            "{'secret', job=\"node\"}",
            "{\"__name__\"=\"secret\"}",
            "{`__name__`=\"secret\"}",
            "{job=\"a\" or __name__=\"secret\"}",
            "rate({__name__=\"secret\"}[5m])",
            "{job=\"a\", __name__=~\".+\"}[5m:1m]",
        ] {
            // What is no query is never sent; what is one has no name.
            if let Ok(query) = Query::parse(text) {
                assert!(query.names.contains(&None), "{text} {:?}", query.names);
            }
        }
        assert!(Query::parse("up{__name__=\"secret\"}").is_err_and(|error| error.kind() == Kind::Invalid));
        assert_eq!(names("up{job=\"a\" or job=\"b\"}"), ["-"]);
    }

    #[test]
    fn the_operators_labels_are_in_every_selector_of_what_is_sent() {
        for text in [
            "up",
            "up{team=\"other\"}",
            "up{team=~\".*\"} or b{x!=\"1\"}",
            "sum(rate(a[5m])) / topk(scalar(b), c offset 5m)",
            "max_over_time(rate(a{x=\"\\\"} or secret{y=\\\"\"}[5m])[1h:1m] offset 1d)",
            "a{x='} or secret{'}",
            "a{x=`} or secret{y=\"`}",
            "up # {team=\"other\"}",
            "a @ start() + max_over_time(b[5m] @ end() offset 1h)",
            "a offset -5m",
            "absent(a{x=\"1\"}) or absent_over_time(b[5m])",
            "label_replace(a, \"team\", \"other\", \"\", \"\")",
            "label_join(a, \"team\", \"\", \"x\", \"y\")",
            "count_values(\"team\", a)",
            "sum without (team) (a) / sum by (team) (b)",
            "a unless on (x) b and ignoring (team) c",
            "a * on (x) group_left (team) b",
            "a / ignoring (team) group_right b",
            "quantile(scalar(a), b) > bool c",
            "topk(5, a) or bottomk(1, -(b))",
            "histogram_quantile(0.9, sum by (le) (rate(a_bucket[5m])))",
            "sum_over_time(sum(a)[1h:] @ start())",
            "max_over_time(max_over_time(a[1h:5m])[2h:10m] offset 1h)",
            "vector(scalar(a)) + time() + 1",
            "a{}",
        ] {
            let query = Query::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"));
            let sent = query.text_with(&labels()).unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!(sent.matches("team=\"shop \\\"a\\\\\"").count(), query.names.len(), "{text} -> {sent}");
            assert!(!sent.contains('#'), "{sent}");
            // What the server reads has the names that were allowed, and no other.
            assert_eq!(Query::parse(&sent).unwrap().names, query.names, "{text} -> {sent}");
        }
    }

    #[test]
    fn what_reaches_too_far_is_too_long_or_reads_what_it_does_not_name_is_refused() {
        for text in [
            "a[2y]",
            "a offset 2y",
            "a offset -2y",
            "max_over_time(a[1d] offset 300d) + max_over_time(a[300d:1d] offset 300d)",
            "max_over_time(max_over_time(a[300d:1d])[300d:1d])",
            "max_over_time(a[100d:1s])",
            "a @ 0",
            "a @ 1700000000",
            "max_over_time(a[1h:1m] @ 0)",
            "info(a)",
            "a{",
            "",
            "up; drop",
            &format!("a{{x=\"{}\"}}", "y".repeat(MAX_BYTES)),
        ] {
            assert!(Query::parse(text).is_err(), "{text:.60}");
        }
    }

    #[test]
    fn no_query_is_too_deep_for_a_thread_of_the_runtime() {
        let n = MAX_TOKENS / 2;
        let texts = [
            format!("{}1{}", "(".repeat(n - 1), ")".repeat(n - 1)),
            format!("{}a", "-".repeat(2 * n - 2)),
            format!("a{}", " + a".repeat(n - 1)),
            format!("a{}", " ^ a".repeat(n - 1)),
            format!("{}a{}", "abs(".repeat(n / 2), ")".repeat(n / 2)),
            format!("{}a{}", "(".repeat(10_000), ")".repeat(10_000)),
            format!("{}1", "-".repeat(MAX_BYTES - 1)),
        ];
        let deep = std::thread::Builder::new().stack_size(1 << 20).spawn(move || {
            for text in texts {
                if let Ok(query) = Query::parse(&text) {
                    query.text_with(&labels()).unwrap();
                }
            }
        });
        deep.unwrap().join().unwrap();
    }
}
