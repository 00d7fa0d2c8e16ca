use super::*;
use clap::CommandFactory;

fn check_every_verb(command: &clap::Command, path: &str, check: &dyn Fn(&clap::Command, &str)) {
    for verb in command.get_subcommands().filter(|verb| verb.get_name() != "help") {
        let path = format!("{path} {}", verb.get_name());
        if verb.has_subcommands() {
            check_every_verb(verb, &path, check);
        } else {
            check(verb, &path);
        }
    }
}

#[test]
fn the_command_line_is_consistent() {
    Cli::command().debug_assert();
}

#[test]
fn every_verb_has_an_example_that_parses() {
    check_every_verb(&Cli::command(), "strongroom", &|verb, path| {
        let help = verb.get_after_help().map(ToString::to_string).unwrap_or_default();
        let examples: Vec<_> = help.lines().map(str::trim).filter(|line| line.starts_with("strongroom ")).collect();
        assert!(!examples.is_empty(), "{path} has no example");
        for example in examples {
            // What follows two spaces or a > is a comment or the shell's.
            let line = example.split("  ").next().unwrap_or(example).split(" > ").next().unwrap_or(example);
            let words = line.split(' ').map(|word| word.trim_matches('\''));
            if let Err(error) = Cli::try_parse_from(words) {
                panic!("{path}: the example `{line}` does not parse: {error}");
            }
        }
    });
}

#[test]
fn every_argument_has_its_help() {
    check_every_verb(&Cli::command(), "strongroom", &|verb, path| {
        assert!(verb.get_about().is_some(), "{path} says nothing about itself");
        for argument in verb.get_arguments().filter(|argument| argument.get_id() != "help") {
            assert!(argument.get_help().is_some(), "{path} {} has no help", argument.get_id());
        }
    });
}

#[test]
fn the_help_is_one_screen() {
    let mut command = Cli::command().term_width(100);
    insta::assert_snapshot!(command.render_help());
}

#[test]
fn nonsense_is_refused_by_the_parser() {
    for line in [
        "strongroom backup",
        "strongroom backup a b",
        "strongroom restore orders",
        "strongroom restore orders latest --option x",
        "strongroom verify orders --depth everything",
        "strongroom list --store main --store-url /x",
        "strongroom plugin approve postgres --program pg_dump=relative",
        "strongroom --quiet --verbose list",
        "strongroom --output yaml list",
    ] {
        let error = Cli::try_parse_from(line.split(' ')).unwrap_err();
        assert_eq!(error.exit_code(), 2, "{line}");
    }
}

#[test]
fn a_bare_store_needs_no_configuration() {
    let cli =
        Cli::try_parse_from(["strongroom", "list", "--store-url", "s3://backups/a/b/?endpoint=http://h:1"]).unwrap();
    let Command::List(args) = cli.command else { panic!("not list") };
    let store = args.bare.config().unwrap().unwrap();
    let crate::config::StorePlace::S3(s3) = store.place else { panic!("not s3") };
    assert_eq!((s3.bucket.as_str(), s3.prefix.as_str(), s3.path_style), ("backups", "a/b", true));
    assert!(!store.encrypted && store.identity.is_none());
}
