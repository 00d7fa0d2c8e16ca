//! Label selectors, as `kubectl --selector` takes them: `app=shop,tier!=test,!draft,zone in (a, b)`. Pure.

use strongroom_plugin::{Error, Result};

/// A parsed selector: every requirement must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Selector(Vec<Requirement>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Requirement {
    key: String,
    wants: Wants,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Wants {
    There,
    Missing,
    In(Vec<String>),
    /// Also where the label is missing.
    NotIn(Vec<String>),
}

impl Selector {
    /// Parses one; the empty text chooses everything. Errors: `Invalid`.
    pub(crate) fn parse(text: &str) -> Result<Self> {
        let mut requirements = Vec::new();
        let mut rest = text.trim();
        while !rest.is_empty() {
            // A comma inside parentheses separates values.
            let mut depth = 0_usize;
            let end = rest
                .char_indices()
                .find(|(_, c)| {
                    match c {
                        '(' => depth += 1,
                        ')' => depth = depth.saturating_sub(1),
                        _ => {}
                    }
                    *c == ',' && depth == 0
                })
                .map_or(rest.len(), |(at, _)| at);
            requirements.push(Requirement::parse(rest[..end].trim()).ok_or_else(|| {
                Error::invalid(format!("{:?} is no requirement of a label selector, such as app=shop", &rest[..end]))
            })?);
            rest = rest.get(end + 1..).unwrap_or("").trim_start();
        }
        Ok(Self(requirements))
    }

    /// Whether everything is chosen.
    pub(crate) fn is_everything(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether labels, looked up by `label`, are chosen.
    pub(crate) fn chooses<'a>(&self, label: impl Fn(&str) -> Option<&'a str>) -> bool {
        self.0.iter().all(|requirement| {
            let found = label(&requirement.key);
            match &requirement.wants {
                Wants::There => found.is_some(),
                Wants::Missing => found.is_none(),
                Wants::In(values) => found.is_some_and(|found| values.iter().any(|value| value == found)),
                Wants::NotIn(values) => found.is_none_or(|found| !values.iter().any(|value| value == found)),
            }
        })
    }
}

impl Requirement {
    fn parse(text: &str) -> Option<Self> {
        let made = |key: &str, wants| {
            let key = key.trim();
            let ok = !key.is_empty() && !key.contains(|c: char| c.is_whitespace() || "=!(),".contains(c));
            ok.then(|| Self { key: key.to_owned(), wants })
        };
        if let Some(key) = text.strip_prefix('!') {
            return made(key, Wants::Missing);
        }
        if let Some((head, values)) = text.strip_suffix(')').and_then(|text| text.split_once('(')) {
            let values: Vec<String> = values.split(',').map(|value| value.trim().to_owned()).collect();
            let head = head.trim_end();
            return match head.strip_suffix(" notin") {
                Some(key) => made(key, Wants::NotIn(values)),
                None => made(head.strip_suffix(" in")?, Wants::In(values)),
            };
        }
        if let Some((key, value)) = text.split_once("!=") {
            return made(key, Wants::NotIn(vec![value.trim().to_owned()]));
        }
        if let Some((key, value)) = text.split_once("==").or_else(|| text.split_once('=')) {
            return made(key, Wants::In(vec![value.trim().to_owned()]));
        }
        made(text, Wants::There)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selectors_choose_as_kubectl_does() {
        let labels = [("app", "shop"), ("zone", "b"), ("empty", "")];
        let of = |key: &str| labels.iter().find(|(name, _)| *name == key).map(|(_, value)| *value);
        for (text, chosen) in [
            ("", true),
            ("app=shop", true),
            ("app==shop", true),
            ("app = shop , zone", true),
            ("app=web", false),
            ("app!=web", true),
            ("tier!=test", true),
            ("!tier", true),
            ("!app", false),
            ("tier", false),
            ("zone in (a, b),app=shop", true),
            ("zone in (a,c)", false),
            ("zone notin (a)", true),
            ("tier notin (a)", true),
            ("empty=", true),
            ("app=shop,zone in (c)", false),
        ] {
            assert_eq!(Selector::parse(text).unwrap().chooses(of), chosen, "{text}");
        }
        for wrong in ["=x", "a b", "a (b)", "!", ",", "zone in a"] {
            assert!(Selector::parse(wrong).is_err(), "{wrong:?}");
        }
    }
}
