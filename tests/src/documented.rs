//! What `--output json` prints, held against the page that documents it: `docs/output.md`.

use crate::root;
use serde_json::Value;
use std::collections::BTreeMap;

/// Every shape of the page: its keys, each with what it holds.
type Shapes = BTreeMap<String, BTreeMap<String, String>>;

fn shapes() -> Shapes {
    let page = std::fs::read_to_string(root().join("docs/output.md")).expect("docs/output.md");
    let mut shapes = Shapes::new();
    let mut name = String::new();
    for line in page.lines() {
        if let Some(heading) = line.strip_prefix("### ") {
            heading.clone_into(&mut name);
            shapes.entry(name.clone()).or_default();
        } else if let Some(row) = line.strip_prefix("| `") {
            let cells: Vec<&str> = row.split(" | ").collect();
            let key = cells[0].trim_end_matches('`').to_owned();
            shapes.get_mut(&name).expect("a table has a heading").insert(key, cells[1].to_owned());
        }
    }
    shapes
}

/// Fails unless `value` has exactly the keys that the page documents for `shape`, and beneath them what
/// the page says they hold.
#[track_caller]
pub fn check_documented(value: &Value, shape: &str) {
    let mut wrong = Vec::new();
    compare(&shapes(), value, shape, shape, &mut wrong);
    assert!(wrong.is_empty(), "not as docs/output.md says: {wrong:#?} in\n{value:#}");
}

fn compare(shapes: &Shapes, value: &Value, shape: &str, path: &str, wrong: &mut Vec<String>) {
    let Some(keys) = shapes.get(shape) else {
        return wrong.push(format!("{path}: \"{shape}\" is not on the page"));
    };
    // A word of a closed list.
    if let Value::String(word) = value {
        if !keys.contains_key(word) {
            wrong.push(format!("{path}: \"{word}\" is not a word of \"{shape}\""));
        }
        return;
    }
    let Some(object) = value.as_object() else {
        return wrong.push(format!("{path}: not an object"));
    };
    for key in object.keys().filter(|key| !keys.contains_key(*key)) {
        wrong.push(format!("{path}.{key}: not documented"));
    }
    for (key, holds) in keys {
        let path = format!("{path}.{key}");
        match object.get(key) {
            None if holds.contains("may be absent") => {}
            None => wrong.push(format!("{path}: missing")),
            Some(value) => holding(shapes, value, holds, &path, wrong),
        }
    }
}

fn holding(shapes: &Shapes, value: &Value, holds: &str, path: &str, wrong: &mut Vec<String>) {
    let holds = holds.trim_end_matches(", may be absent");
    if let Some(inner) = holds.strip_suffix(" or `null`") {
        if !value.is_null() {
            holding(shapes, value, inner, path, wrong);
        }
        return;
    }
    if let Some(inner) = holds.strip_prefix("list of ") {
        let Some(list) = value.as_array() else {
            return wrong.push(format!("{path}: not a list"));
        };
        for (n, value) in list.iter().enumerate() {
            holding(shapes, value, inner, &format!("{path}[{n}]"), wrong);
        }
        return;
    }
    let fits = match holds {
        "text" => value.is_string(),
        "number" => value.is_number(),
        "`true` or `false`" => value.is_boolean(),
        "time" => value.as_str().is_some_and(|text| text.ends_with('Z') && text.contains('T')),
        link => match link.strip_prefix('[').and_then(|rest| rest.split_once("](#")) {
            Some((shape, _)) => return compare(shapes, value, shape, path, wrong),
            // Documented on another page.
            None => value.is_object(),
        },
    };
    if !fits {
        wrong.push(format!("{path}: not {holds}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wrong(value: &Value, shape: &str) -> Vec<String> {
        let mut wrong = Vec::new();
        compare(&shapes(), value, shape, shape, &mut wrong);
        wrong
    }

    #[test]
    fn what_the_page_does_not_say_is_found() {
        let good = serde_json::json!({"job": "a", "backup": null, "outcome": "passed", "checks": []});
        assert_eq!(wrong(&good, "Findings"), Vec::<String>::new());
        for (key, value, says) in [
            ("surprise", serde_json::json!(1), "not documented"),
            ("job", serde_json::json!(1), "not text"),
            ("outcome", serde_json::json!("splendid"), "not a word"),
            ("checks", serde_json::json!([{}]), "missing"),
        ] {
            let mut bad = good.clone();
            bad[key] = value;
            let wrong = wrong(&bad, "Findings");
            assert!(wrong.iter().any(|line| line.contains(says)), "{key}: {wrong:?}");
        }
    }
}
