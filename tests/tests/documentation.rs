//! Pages that say what the code says: they are compared with it, so they cannot fall behind.

use std::fmt::Write as _;
use std::path::Path;
use strongroom::config::Config;
use strongroom::config::key::{Key, Names, ROOT, Section, Shape};
use strongroom_tests::root;

/// Between these lines of `docs/configuration.md` lies what is made from the table of keys.
const BEGIN: &str = "<!-- made from host/src/config/key.rs -->\n";
const END: &str = "<!-- end -->\n";

/// The reference of the configuration: every key with its shape and documentation.
fn reference() -> String {
    let mut text = String::new();
    write_section(&mut text, "", &ROOT);
    text
}

fn write_section(text: &mut String, path: &str, section: &'static Section) {
    let heading = if path.is_empty() { "The file".to_owned() } else { format!("`{path}`") };
    writeln!(text, "\n### {heading}\n\n{}\n\n| key | holds | what it does |\n| --- | --- | --- |", section.doc)
        .unwrap();
    let (planned, built): (Vec<&Key>, Vec<&Key>) =
        section.keys.iter().partition(|key| matches!(key.shape, Shape::NotBuilt(_)));
    for key in &built {
        let required = if key.required { ", required" } else { "" };
        let (holds, doc) = (holds(&key.shape), key.doc.replace('|', "\\|"));
        writeln!(text, "| `{}` | {holds}{required} | {doc} |", key.name).unwrap();
    }
    if !planned.is_empty() {
        writeln!(text, "\nNot built yet, and refused with this advice:\n").unwrap();
    }
    for key in planned {
        if let Shape::NotBuilt(instead) = &key.shape {
            writeln!(text, "- `{}`: {instead}", key.name).unwrap();
        }
    }
    for key in built {
        let below = if path.is_empty() { key.name.to_owned() } else { format!("{path}.{}", key.name) };
        write_tables(text, &below, &key.shape);
    }
}

/// The sections that lie beneath a key.
fn write_tables(text: &mut String, path: &str, shape: &'static Shape) {
    match shape {
        Shape::Table(section) | Shape::Tables(section) => write_section(text, path, section),
        Shape::Map(Names::Variable, _) => {}
        Shape::Map(_, inner) => write_tables(text, &format!("{path}.LABEL"), inner),
        Shape::List(inner) => write_tables(text, path, inner),
        Shape::Union(shapes) => shapes.iter().for_each(|shape| write_tables(text, path, shape)),
        _ => {}
    }
}

/// What a shape holds, for a person.
fn holds(shape: &Shape) -> String {
    match shape {
        Shape::Text => "text".to_owned(),
        Shape::Flag => "`true` or `false`".to_owned(),
        Shape::Whole(least, most) => format!("{least} to {most}"),
        Shape::Size(least, most) => {
            format!("size, {} to {}", strongroom::unit::bytes(*least), strongroom::unit::bytes(*most))
        }
        Shape::Duration => "duration".to_owned(),
        Shape::Word(words) => words.known.iter().map(|word| format!("`\"{word}\"`")).collect::<Vec<_>>().join(" or "),
        Shape::Json => "table of the plugin's own".to_owned(),
        Shape::Secret => "secret".to_owned(),
        Shape::List(inner) => format!("list of {}", holds(inner)),
        Shape::Map(Names::Variable, inner) => format!("{} by variable", holds(inner)),
        Shape::Map(_, inner) => format!("{} by label", holds(inner)),
        Shape::Table(_) => "table".to_owned(),
        Shape::Tables(_) => "table, or list of them".to_owned(),
        Shape::Union(shapes) => shapes.iter().map(holds).collect::<Vec<_>>().join(", or "),
        Shape::NotBuilt(_) => String::new(),
    }
}

#[test]
fn the_configuration_page_has_every_key_as_the_host_knows_it() {
    let path = root().join("docs/configuration.md");
    let page = std::fs::read_to_string(&path).unwrap();
    let (before, rest) = page.split_once(BEGIN).expect("the page has a line where the reference begins");
    let (_, after) = rest.split_once(END).expect("the page has a line where the reference ends");
    let expected = format!("{before}{BEGIN}{}\n{END}{after}", reference());
    if page != expected {
        // A changed table of keys is one command away from a changed page.
        let made = root().join("target/configuration.md");
        std::fs::write(&made, expected).unwrap();
        panic!("docs/configuration.md is not what the table of keys says: cp {} {}", made.display(), path.display());
    }
}

/// Blocks of TOML on a page.
fn toml_blocks(page: &str) -> Vec<String> {
    let text = std::fs::read_to_string(root().join(page)).unwrap();
    text.split("```toml\n").skip(1).map(|rest| rest.split("```").next().unwrap().to_owned()).collect()
}

/// What a reader fills in, filled in.
fn filled_in(block: &str) -> String {
    block
        .replacen("age1…", "age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p", 1)
        .replace("age1…", "age1wegd5q0cf8uv3zjqd75tyt0wsq8x9v0whjlgkzc4rcyx00cu548qw6pmnm")
        .replace("srhost1-…", "srhost1-AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA")
        .replace("sha256 = \"…\"", &format!("sha256 = \"{}\"", "0".repeat(64)))
}

#[test]
fn every_configuration_that_a_page_shows_is_one_that_the_host_accepts() {
    let mut n_checked = 0;
    for page in ["README.md", "docs/configuration.md"] {
        for block in toml_blocks(page).iter().filter(|block| block.contains("[job.")) {
            let parsed = Config::parse(&filled_in(block), Path::new(page), &root());
            assert!(parsed.is_ok(), "{page}:\n{block}\n{:?}", parsed.err());
            n_checked += 1;
        }
    }
    assert_eq!(n_checked, 3, "configurations were found where they are known to be");
}
