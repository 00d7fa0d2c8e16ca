//! What may come from outside, as functions over arbitrary bytes: one for each thing that is read and not
//! trusted.
//!
//! The same functions are property tests (`tests/tests/hostile.rs`, random bytes), fuzz targets
//! (`tests/fuzz`, bytes that a fuzzer chose) and the judges of what was once found (`tests/fixtures/hostile`).
//! Each takes its bytes as instructions: which valid thing to begin with, and what to change in it. So
//! random bytes get as deep as a valid thing gets, and nearly every change is a small one.
//!
//! A function panics when a promise is broken. It never sleeps, asks no clock and touches no file but a built
//! guest program.

mod archive;
mod config;
mod edit;
mod manifest;
pub mod memory;
mod record;
mod segment;
mod text;

pub use edit::Input;

use strongroom::error::{Error, Kind};

/// One thing that is read and not trusted.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Its name, also that of its fuzz target and of its folder of fixtures.
    pub name: &'static str,
    /// What holds for whatever is read.
    pub promise: &'static str,
    /// The most that one call may hold on its thread, in bytes, beside what it is given. Sizes that an input
    /// claims must not get near to it.
    pub most_bytes: usize,
    check: fn(&mut Input<'_>),
}

const MIB: usize = 1 << 20;

/// Every target, by name.
pub const TARGETS: &[Target] = &[
    Target {
        name: "archive",
        promise: "a tar is read entry by entry or refused; what was read packs and reads back the same",
        most_bytes: 32 * MIB,
        check: archive::tar,
    },
    Target {
        name: "archive-index",
        promise: "with an index, a body is what was packed or an error, in the stream and at its place",
        most_bytes: 32 * MIB,
        check: archive::indexed,
    },
    Target {
        name: "component",
        promise: "a component has one manifest at its outermost level, or it is refused",
        most_bytes: 32 * MIB,
        check: manifest::component,
    },
    Target {
        name: "config",
        promise: "a configuration means the same each time, or every mistake has file, line and column and shows no secret",
        most_bytes: 64 * MIB,
        check: config::config,
    },
    Target {
        name: "frame",
        promise: "a frame decodes into exactly its room or is refused",
        most_bytes: 8 * MIB,
        check: segment::frame,
    },
    Target {
        name: "lease",
        promise: "a lease is taken at first sight only when it says that it is free",
        most_bytes: 4 * MIB,
        check: record::lease,
    },
    Target {
        name: "manifest",
        promise: "a manifest writes and reads back the same, or is refused in words without control characters",
        most_bytes: 64 * MIB,
        check: manifest::text,
    },
    Target {
        name: "name",
        promise: "names, keys and patterns have one way to be written, or are refused",
        most_bytes: 4 * MIB,
        check: text::name,
    },
    Target {
        name: "record",
        promise: "a signed document is exactly what was signed; what is accepted writes and reads back the same",
        most_bytes: 8 * MIB,
        check: record::record,
    },
    Target {
        name: "sealed",
        promise: "an age file opens to what was sealed, or not at all",
        most_bytes: 4 * MIB,
        check: segment::sealed,
    },
    Target {
        name: "segment",
        promise: "an artifact is read as it was written, or refused by name, and nothing unproven leaves before",
        most_bytes: 32 * MIB,
        check: segment::segment,
    },
    Target {
        name: "slot",
        promise: "a slot admits what its pattern says and never an option or a control character that it does not name",
        most_bytes: 16 * MIB,
        check: text::slot,
    },
    Target {
        name: "tail",
        promise: "a tail that is accepted is written with the same bytes",
        most_bytes: 4 * MIB,
        check: segment::tail,
    },
    Target {
        name: "verified",
        promise: "what a verification found is exactly what was signed",
        most_bytes: 8 * MIB,
        check: record::verified,
    },
];

/// The target of this name.
pub fn target(name: &str) -> &'static Target {
    TARGETS.iter().find(|target| target.name == name).unwrap_or_else(|| panic!("there is no target \"{name}\""))
}

impl Target {
    /// Runs it with these instructions; panics when its promise, or the bound of its memory, is broken.
    ///
    /// The memory is measured where [`memory::Counting`] is the program's allocator.
    pub fn run(&self, instructions: &[u8]) {
        let held = memory::peak_of(|| (self.check)(&mut Input::new(instructions)));
        assert!(held <= self.most_bytes, "{}: {held} bytes were held, of at most {}", self.name, self.most_bytes);
    }
}

/// The error is of one of these kinds, and says something that a terminal can show.
#[track_caller]
fn check_error(error: &Error, kinds: &[Kind]) {
    assert!(kinds.contains(&error.kind()), "expected {kinds:?}, got {error:?}");
    let mut at = error;
    loop {
        let facts = at.facts().iter().map(|(_, fact)| fact.as_str());
        for text in [at.message()].into_iter().chain(facts).chain(at.hint_text()) {
            let control = text.chars().find(|c| c.is_control() && *c != '\n');
            assert!(!text.is_empty() && control.is_none(), "{control:?} in {text:?} of {error:?}");
        }
        let Some(next) = std::error::Error::source(at).and_then(|source| source.downcast_ref::<Error>()) else {
            return;
        };
        at = next;
    }
}

/// The error with everything behind it, as one text.
fn in_full(error: &Error) -> String {
    format!("{error:?}")
}
