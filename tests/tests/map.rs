//! The map of the project, checked by reading its sources: levels, homes of libraries, names, sizes, and
//! what the README says is where. Each rule says why it is there when it fails.

use regex::Regex;
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::Path;
use strongroom_tests::{files, root};

/// Modules of the host by level, lowest first. A module imports from the levels below its own.
const LEVELS: &[&[&str]] = &[
    &["error", "id", "unit", "secret", "clock", "keytext", "failpoint", "footprint"],
    &["policy", "stream", "record"],
    &["store", "bucket", "cluster", "metrics"],
    &["exec"],
    &["plugin", "catalog"],
    &["run", "progress", "audit"],
    &["config", "cli", "main", "lib"],
];

/// Levels whose modules may import from one another: words that everything shares, pure data, a run
/// with what it tells whoever watches and what it writes down, and the command line with its configuration. The others (stores, buckets, clusters; plugins and the catalog)
/// stay apart, so that each can be understood and replaced alone.
const OPEN_LEVELS: &[usize] = &[0, 1, 5, 6];

/// Libraries that have one home: changing one of them touches one folder.
const HOMES: &[(&str, &[&str])] = &[
    ("wasmtime", &["plugin"]),
    ("wasmtime_wasi", &["plugin"]),
    ("aws_sdk_s3", &["store"]),
    ("promql_parser", &["metrics"]),
    ("clap", &["cli", "config"]),
];

/// Names that say nothing about what is inside.
const BANNED_NAMES: &[&str] = &["utils", "util", "helpers", "helper", "common", "manager", "misc", "mod"];

/// The longest file, in lines; a longer one holds more than one concept.
const MAX_LINES: usize = 900;

/// Files that are one long table and nothing else.
const TABLES: &[&str] = &[];

/// A source file of the checkout.
struct Source {
    /// Path from the root, with `/`.
    path: String,
    /// Its text.
    text: String,
}

fn sources(folder: &str) -> Vec<Source> {
    let root = root();
    let mut found = Vec::new();
    for path in files(&root.join(folder)).unwrap() {
        if path.extension().is_some_and(|extension| extension == "rs") {
            let name = path.strip_prefix(&root).unwrap().to_string_lossy().into_owned();
            found.push(Source { path: name, text: std::fs::read_to_string(&path).unwrap() });
        }
    }
    assert!(!found.is_empty(), "no sources under {folder}");
    found
}

/// The first module of a file of the host: `host/src/store/s3.rs` is in `store`.
fn module(path: &str) -> &str {
    let inside = path.strip_prefix("host/src/").expect("a source of the host");
    inside.split(['/', '.']).next().expect("a path has a first part")
}

fn level(module: &str) -> Option<usize> {
    LEVELS.iter().position(|modules| modules.contains(&module))
}

/// The code that is shipped: no comments, no unit tests.
fn shipped(source: &Source) -> String {
    if source.path.ends_with("/tests.rs") || source.path.contains("/tests/") {
        return String::new();
    }
    let text = match source.text.find("#[cfg(test)]\nmod tests {") {
        Some(at) => &source.text[..at],
        None => &source.text,
    };
    text.lines().map(|line| line.split_once("//").map_or(line, |(code, _)| code)).collect::<Vec<_>>().join("\n")
}

/// Modules that `code` names after `crate::`, alone or in braces.
fn imports(code: &str) -> BTreeSet<String> {
    let single = Regex::new(r"\bcrate::([a-z_]+)").unwrap();
    let mut found: BTreeSet<String> = single.captures_iter(code).map(|m| m[1].to_owned()).collect();
    for (at, opening) in code.match_indices("crate::{") {
        let mut depth = 1;
        let mut word = String::new();
        let mut at_start = true;
        for c in code[at + opening.len()..].chars() {
            match c {
                '{' => depth += 1,
                '}' => depth -= 1,
                ',' if depth == 1 => at_start = true,
                c if c.is_whitespace() => continue,
                _ => {}
            }
            if at_start && (c.is_ascii_lowercase() || c == '_') {
                word.push(c);
            } else if !word.is_empty() {
                found.insert(std::mem::take(&mut word));
                at_start = c == ',';
            }
            if depth == 0 {
                break;
            }
        }
    }
    found
}

fn check_nothing(found: &[String], why: &str) {
    let mut text = String::new();
    for line in found {
        writeln!(text, "  {line}").unwrap();
    }
    assert!(found.is_empty(), "{why}:\n{text}");
}

#[test]
fn grouped_and_single_imports_are_both_seen() {
    let code = "use crate::{error::{Error, Result}, store::Store,\n    run};\nfn x() { crate::policy::When; }";
    assert_eq!(imports(code).into_iter().collect::<Vec<_>>(), ["error", "policy", "run", "store"]);
}

#[test]
fn a_module_imports_only_from_levels_below_its_own() {
    let mut wrong = Vec::new();
    for source in sources("host/src") {
        let own = module(&source.path);
        let Some(own_level) = level(own) else {
            wrong.push(format!("{}: module \"{own}\" is on no level", source.path));
            continue;
        };
        let code = shipped(&source);
        for import in imports(&code).iter().filter(|import| *import != own) {
            match level(import) {
                Some(other) if other < own_level => {}
                Some(other) if other == own_level && OPEN_LEVELS.contains(&other) => {}
                Some(other) => {
                    wrong.push(format!("{}: {own} (level {own_level}) imports {import} (level {other})", source.path));
                }
                // A macro or an item of the crate's root.
                None => wrong.push(format!("{}: imports crate::{import}, which is on no level", source.path)),
            }
        }
        // As many steps up as the module lies deep lead to the root, past every level.
        let depth = source.path.matches('/').count() - 1;
        if code.contains(&"super::".repeat(depth)) {
            wrong.push(format!("{}: leaves its module with super::; say crate::", source.path));
        }
    }
    check_nothing(&wrong, "dependencies point one way (docs/architecture.md)");
}

#[test]
fn each_library_with_a_home_is_used_only_there() {
    let mut wrong = Vec::new();
    for source in sources("host/src") {
        let code = shipped(&source);
        for (library, homes) in HOMES {
            let named = Regex::new(&format!(r"\b{library}(::|;)")).unwrap();
            if named.is_match(&code) && !homes.contains(&module(&source.path)) {
                wrong.push(format!("{}: names {library}, whose home is {}", source.path, homes.join(" and ")));
            }
        }
    }
    check_nothing(&wrong, "a library with a home is named nowhere else");
}

#[test]
fn only_the_command_line_prints() {
    let print = Regex::new(r"\b(e?print(ln)?|dbg)!").unwrap();
    let mut wrong = Vec::new();
    for source in sources("host/src").iter().chain(&sources("sdk/src")) {
        let is_cli = source.path.starts_with("host/") && module(&source.path) == "cli";
        if !is_cli && print.is_match(&shipped(source)) {
            wrong.push(source.path.clone());
        }
    }
    check_nothing(&wrong, "what is printed anywhere else escapes --output json and the escaping of vendors' text");
}

#[test]
fn files_hold_one_concept() {
    let mut wrong = Vec::new();
    for folder in ["host", "sdk", "plugins", "tests", "xtask"] {
        for source in sources(folder) {
            let lines = source.text.lines().count();
            if lines > MAX_LINES && !TABLES.contains(&source.path.as_str()) {
                wrong.push(format!("{}: {lines} lines, at most {MAX_LINES}", source.path));
            }
        }
    }
    check_nothing(&wrong, "split a long file by concept");
}

#[test]
fn no_file_has_a_name_that_says_nothing() {
    let mut wrong = Vec::new();
    for folder in ["host", "sdk", "plugins", "tests", "xtask"] {
        for source in sources(folder) {
            if source.path.split(['/', '.']).any(|part| BANNED_NAMES.contains(&part)) {
                wrong.push(source.path);
            }
        }
    }
    check_nothing(&wrong, "name a module after what it holds");
}

#[test]
fn every_file_of_tests_is_compiled() {
    // What is in no program is not run, and nobody would see it.
    let manifest = std::fs::read_to_string(root().join("tests/Cargo.toml")).unwrap();
    let suites = std::fs::read_to_string(root().join("tests/tests/suites.rs")).unwrap();
    let is_compiled = |name: &str| {
        suites.contains(&format!("\nmod {name};\n")) || manifest.contains(&format!("path = \"tests/{name}.rs\""))
    };
    let folder = root().join("tests/tests");
    let stray: Vec<_> = files(&folder)
        .unwrap()
        .iter()
        .filter_map(|path| path.strip_prefix(&folder).ok()?.to_str()?.strip_suffix(".rs"))
        // What lies in a folder belongs to the suite of that name.
        .filter(|name| !name.contains('/'))
        .filter(|name| !is_compiled(name))
        .map(|name| format!("tests/tests/{name}.rs"))
        .collect();
    check_nothing(&stray, "a suite is named in tests/tests/suites.rs, another program in tests/Cargo.toml");
}

#[test]
fn every_guest_program_is_named_in_a_test() {
    let guests = root().join("tests/guests");
    let tests: String =
        sources("tests").into_iter().chain(sources("host")).map(|source| source.text).collect::<Vec<_>>().join("\n");
    let mut wrong = Vec::new();
    for entry in std::fs::read_dir(&guests).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let is_guest = entry.path().join("Cargo.toml").is_file() || name.ends_with(".rs");
        let stem = name.trim_end_matches(".rs");
        if is_guest && !tests.contains(&format!("\"{stem}\"")) && !tests.contains(&format!("guests/{stem}")) {
            wrong.push(name);
        }
    }
    check_nothing(&wrong, "a guest program without a test shows nothing");
}

/// First column of the map in the README: names before two spaces.
fn map_of_the_readme(readme: &str) -> BTreeSet<String> {
    let section = readme.split("\n## Map\n").nth(1).expect("README.md has a section \"Map\"");
    let block = section.split("```").nth(1).expect("the map is a block of code");
    block
        .lines()
        .skip(1)
        .filter(|line| !line.starts_with(' ') && !line.is_empty())
        .flat_map(|line| line.split("  ").next().unwrap_or_default().split(' '))
        .map(|name| name.trim_end_matches('/').to_owned())
        .collect()
}

#[test]
fn the_map_in_the_readme_lists_exactly_what_is_there() {
    let readme = std::fs::read_to_string(root().join("README.md")).unwrap();
    let there: BTreeSet<String> = std::fs::read_dir(root())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .filter(|name| !name.starts_with('.') && name != "target")
        .collect();
    assert_eq!(map_of_the_readme(&readme), there, "README.md, section \"Map\"");
}

#[test]
fn every_page_and_every_interface_is_linked_from_where_a_reader_looks() {
    let read = |path: &str| std::fs::read_to_string(root().join(path)).unwrap();
    let mut wrong = Vec::new();
    for (folder, extension, index) in [
        ("wit", "wit", "docs/contract.md"),
        ("docs", "md", "README.md"),
        ("docs/decisions", "md", "docs/architecture.md"),
        ("docs/changes", "md", "README.md"),
    ] {
        let text = read(index);
        for entry in std::fs::read_dir(root().join(folder)).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            let is_page = path.extension().is_some_and(|found| found == extension);
            let is_linked = text.contains(&name) || (folder == "docs/changes" && text.contains("docs/changes"));
            if is_page && !is_linked {
                wrong.push(format!("{folder}/{name} is not named in {index}"));
            }
        }
    }
    check_nothing(&wrong, "a page that nothing points to is not read");
}

#[test]
fn links_between_pages_lead_somewhere() {
    let link = Regex::new(r"\]\(([^)#:]+)(#[^)]*)?\)").unwrap();
    let mut wrong = Vec::new();
    let mut pages: Vec<_> = files(&root().join("docs")).unwrap();
    pages.extend(["README.md", "SECURITY.md"].map(|name| root().join(name)));
    for page in pages.iter().filter(|page| page.extension().is_some_and(|extension| extension == "md")) {
        let text = std::fs::read_to_string(page).unwrap();
        let folder: &Path = page.parent().unwrap();
        for target in link.captures_iter(&text) {
            if !folder.join(&target[1]).exists() {
                wrong.push(format!("{}: {}", page.strip_prefix(root()).unwrap().display(), &target[1]));
            }
        }
    }
    check_nothing(&wrong, "links that lead nowhere");
}

#[test]
fn every_decision_says_what_was_given_up_and_when_to_look_again() {
    let mut wrong = Vec::new();
    for page in files(&root().join("docs/decisions")).unwrap() {
        let text = std::fs::read_to_string(&page).unwrap();
        for section in ["## Context", "## Decision", "## Given up", "## Revisit"] {
            if !text.contains(section) {
                wrong.push(format!("{}: no section \"{section}\"", page.file_name().unwrap().to_string_lossy()));
            }
        }
    }
    check_nothing(&wrong, "a decision without its cost cannot be judged later");
}

/// Pages that say what is shown by which test, each row of a table with at least one.
const SHOWN: [&str; 3] = ["docs/bad-input.md", "docs/reliability.md", "docs/security.md"];

#[test]
fn every_test_that_a_page_names_exists() {
    let named = Regex::new(r"`([^` ]+\.rs)::([a-z0-9_]+)`").unwrap();
    let mut wrong = Vec::new();
    for page in SHOWN {
        let text = std::fs::read_to_string(root().join(page)).unwrap();
        for test in named.captures_iter(&text) {
            let source = std::fs::read_to_string(root().join(&test[1])).unwrap_or_default();
            if !source.contains(&format!("fn {}(", &test[2])) {
                wrong.push(format!("{page}: {}::{}", &test[1], &test[2]));
            }
        }
        // Tables whose last column is "tests": every row has one.
        let mut shows = false;
        for line in text.lines() {
            match line.strip_prefix("| ") {
                None => shows = false,
                Some(_) if line.ends_with("| tests |") => shows = true,
                Some(row) if shows && !row.starts_with("---") && !named.is_match(row) => {
                    wrong.push(format!("{page}: no test: {line}"));
                }
                Some(_) => {}
            }
        }
    }
    check_nothing(&wrong, "what a page says is shown is shown by a test");
}

/// The bullets below a heading, each as one line.
fn bullets(text: &str, heading: &str) -> Vec<String> {
    let section = text.split(heading).nth(1).expect("the section").split("\n## ").next().unwrap_or_default();
    let all = section.split("\n- ").skip(1).map(|one| one.split("\n\n").next().unwrap_or_default());
    all.map(|one| one.split_whitespace().collect::<Vec<_>>().join(" ")).collect()
}

#[test]
fn what_the_security_page_says_holds_is_shown_by_tests_sentence_by_sentence() {
    let read = |path: &str| std::fs::read_to_string(root().join(path)).unwrap();
    let said = bullets(&read("SECURITY.md"), "\n## What holds in this version\n");
    assert!(said.len() > 8, "{said:#?}");
    let page = read("docs/security.md");
    let section = page.split("\n## What SECURITY.md says holds, sentence by sentence\n").nth(1).expect("the section");
    let section = section.split("\n## ").next().unwrap();
    let rows: Vec<_> =
        section.lines().filter_map(|line| line.strip_prefix("| ")?.split(" | ").next()).skip(1).collect();
    let unsaid = rows.iter().filter(|row| **row != "---" && !said.iter().any(|bullet| bullet.contains(**row)));
    let mut wrong: Vec<_> = unsaid.map(|row| format!("SECURITY.md does not say: {row}")).collect();
    let unshown = said.iter().filter(|bullet| !rows.iter().any(|row| bullet.contains(row)));
    wrong.extend(unshown.map(|bullet| format!("docs/security.md has no row for: {bullet}")));
    check_nothing(&wrong, "what is promised to people who report is shown");
}

/// Lines on which something unsafe begins without a comment above them that says why it is sound.
fn unjustified(text: &str) -> Vec<usize> {
    let opens = Regex::new(r"\bunsafe\s*(\{|impl\b|extern\b)").unwrap();
    let lines: Vec<&str> = text.lines().collect();
    let belongs = |line: &str| line.starts_with("//") || line.starts_with("#[");
    let is_justified = |n: usize| {
        let above = lines[..n].iter().rev().map(|line| line.trim()).take_while(|line| belongs(line));
        above.into_iter().any(|line| line.starts_with("// SAFETY: "))
    };
    let code = |line: &str| line.split("//").next().unwrap_or_default().to_owned();
    (0..lines.len()).filter(|n| opens.is_match(&code(lines[*n])) && !is_justified(*n)).map(|n| n + 1).collect()
}

#[test]
fn what_is_unsafe_says_why_it_is_sound() {
    let good = "// SAFETY: it is.\n#[expect(unsafe_code)]\nunsafe impl A for B {}\n    // SAFETY: so is this.\n    unsafe { x() };";
    assert_eq!(unjustified(good), Vec::<usize>::new());
    assert_eq!(unjustified("// It is fine.\nlet a = unsafe { x() };\n// unsafe { only words }\n"), [2]);
    assert_eq!(unjustified("// SAFETY: of another line.\nlet a = 1;\nlet b = unsafe { x() };\n"), [3]);
    let mut wrong = Vec::new();
    let mut n_unsafe = 0;
    let allowed = Regex::new(r"(?s)unsafe_code,.{0,80}?reason = ").unwrap();
    for folder in ["host", "sdk", "plugins", "tests", "xtask"] {
        // This file has examples of what is wrong.
        for source in sources(folder).into_iter().filter(|source| source.path != "tests/tests/map.rs") {
            n_unsafe += source.text.matches("// SAFETY: ").count();
            wrong.extend(unjustified(&source.text).into_iter().map(|line| format!("{}:{line}", source.path)));
            // Where it is needed, it is allowed by name and reason; the workspace denies the rest.
            let is_allowed = allowed.is_match(&source.text);
            if source.text.contains("unsafe {") && !is_allowed {
                wrong.push(format!("{}: unsafe code that is allowed without a reason", source.path));
            }
        }
    }
    assert!(n_unsafe > 3, "{n_unsafe} places: is anything read at all?");
    let manifest = std::fs::read_to_string(root().join("Cargo.toml")).unwrap();
    assert!(manifest.contains("unsafe_code = \"deny\""), "the workspace denies what is not allowed by name");
    check_nothing(&wrong, "every unsafe block says why it is sound, in place: `// SAFETY: …`");
}
