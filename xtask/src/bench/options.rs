//! The command line of `cargo xtask bench`.

use super::input::Input;
use super::rows::ROWS;
use anyhow::{Context, Result, bail};

/// Plaintext of a run unless told otherwise, in bytes: so much that starting up is a small part of it.
const BYTES: u64 = 1 << 30;
/// Plaintext of a quick run, in bytes.
const QUICK_BYTES: u64 = 64 << 20;
/// Objects of a cluster unless told otherwise: a backup of them takes a second or two.
const OBJECTS: u64 = 20_000;
/// Objects in a quick run.
const QUICK_OBJECTS: u64 = 5_000;
/// Rounds of a row unless told otherwise.
const ROUNDS: usize = 5;

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Names of the rows.
    pub rows: Vec<String>,
    /// Kinds of input, of the rows that have several.
    pub inputs: Vec<Input>,
    /// How often each contender runs.
    pub rounds: usize,
    /// Plaintext of a run, in bytes.
    pub bytes: u64,
    /// Objects of a cluster; ten times as many where memory is looked at.
    pub objects: u64,
    /// Compare with the last table, and fail beyond the tolerance.
    pub check: bool,
    /// Make this the last table.
    pub save: bool,
}

impl Options {
    /// Parses the arguments; an error says what there is.
    pub fn parse(arguments: &[String]) -> Result<Self> {
        let usual = || ROWS.iter().filter(|row| !row.is_long).map(|row| row.name.to_owned());
        let mut options = Self {
            rows: usual().collect(),
            inputs: Input::ALL.to_vec(),
            rounds: ROUNDS,
            bytes: BYTES,
            objects: OBJECTS,
            check: false,
            save: false,
        };
        let mut words = arguments.iter();
        while let Some(word) = words.next() {
            let mut value = || words.next().with_context(|| format!("{word} needs a value"));
            match word.as_str() {
                "--check" => options.check = true,
                "--save" => options.save = true,
                "--long" => options.rows = ROWS.iter().map(|row| row.name.to_owned()).collect(),
                "--quick" => (options.rounds, options.bytes, options.objects) = (1, QUICK_BYTES, QUICK_OBJECTS),
                "--rounds" => options.rounds = value()?.parse().context("--rounds takes a number")?,
                "--mib" => options.bytes = value()?.parse::<u64>().context("--mib takes a number")? << 20,
                "--objects" => options.objects = value()?.parse().context("--objects takes a number")?,
                "--input" => options.inputs = vec![input(value()?)?],
                "--only" => options.rows = value()?.split(',').map(str::to_owned).collect(),
                _ => bail!("\"{word}\" is not an option of bench: {USAGE}"),
            }
        }
        let names: Vec<_> = ROWS.iter().map(|row| row.name).collect();
        if let Some(unknown) = options.rows.iter().find(|name| !names.contains(&name.as_str())) {
            bail!("there is no row \"{unknown}\"; rows: {}", names.join(", "));
        }
        if options.save && (options.inputs.len() < Input::ALL.len() || options.objects != OBJECTS) {
            bail!("--save takes whole rows, which --input and --objects change");
        }
        if options.rounds == 0 || options.bytes == 0 || options.objects < QUICK_OBJECTS {
            bail!("nothing is measured in no rounds, of no bytes, or of less than {QUICK_OBJECTS} objects");
        }
        Ok(options)
    }

    /// Whether no row and no input is left out that runs when nothing is said.
    pub fn is_whole(&self) -> bool {
        let mut usual = ROWS.iter().filter(|row| !row.is_long);
        self.inputs.len() == Input::ALL.len() && usual.all(|row| self.rows.iter().any(|name| name == row.name))
    }
}

fn input(name: &str) -> Result<Input> {
    Input::parse(name).with_context(|| format!("--input takes mixed, text or incompressible, not \"{name}\""))
}

const USAGE: &str = "--only ROW,ROW  --input NAME  --rounds N  --mib N  --objects N  --quick  --long  --check  --save";

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Options> {
        Options::parse(&line.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
    }

    #[test]
    fn without_options_every_row_runs_that_is_not_long() {
        let options = parse("").unwrap();
        assert!(options.rows.iter().any(|row| row == "s3") && !options.rows.iter().any(|row| row == "memory-long"));
        assert!(parse("--long").unwrap().rows.iter().any(|row| row == "memory-long"));
    }

    #[test]
    fn a_run_is_whole_unless_a_row_or_an_input_is_left_out() {
        for (line, is_whole) in
            [("", true), ("--rounds 3 --check", true), ("--long", true), ("--only s3", false), ("--input mixed", false)]
        {
            assert_eq!(parse(line).unwrap().is_whole(), is_whole, "{line}");
        }
    }

    #[test]
    fn options_are_taken_and_what_is_none_is_refused() {
        let options = parse("--quick --only s3,start --rounds 2 --check").unwrap();
        assert_eq!((options.rows, options.rounds, options.bytes), (vec!["s3".into(), "start".into()], 2, 64 << 20));
        for (line, message) in [
            ("--only nothing", "there is no row \"nothing\""),
            ("--rounds", "--rounds needs a value"),
            ("--rounds 0", "no rounds"),
            ("--objects 10", "less than 5000 objects"),
            ("--input mixed --save", "whole rows"),
            ("--objects 6000 --save", "whole rows"),
            ("--input nothing", "--input takes"),
            ("--fast", "\"--fast\" is not an option"),
        ] {
            let error = format!("{:#}", parse(line).unwrap_err());
            assert!(error.contains(message), "{error}");
        }
    }
}
