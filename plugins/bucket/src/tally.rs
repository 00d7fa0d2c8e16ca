//! Counting what a backup holds, as facts, and comparing counts with facts.

use strongroom_plugin::{Made, Report};

/// How many entries of each kind, and how many bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    /// Regular files.
    pub(crate) files: u64,
    /// Directories.
    pub(crate) directories: u64,
    /// Symbolic links.
    pub(crate) links: u64,
    /// Bytes of the files.
    pub(crate) bytes: u64,
}

/// Names of the facts, in the order of the fields.
const FILES: &str = "files";
const DIRECTORIES: &str = "directories";
const LINKS: &str = "links";
const BYTES: &str = "bytes-listed";

impl Tally {
    /// Counts an entry by its `type` attribute.
    pub(crate) fn count(&mut self, kind: Option<&str>, bytes: u64) {
        match kind {
            Some("dir") => self.directories += 1,
            Some("symlink") => self.links += 1,
            _ => {
                self.files += 1;
                self.bytes = self.bytes.saturating_add(bytes);
            }
        }
    }

    /// Entries of every kind.
    pub(crate) fn entries(&self) -> u64 {
        self.files + self.directories + self.links
    }

    /// Writes the facts of a backup.
    pub(crate) fn into_facts(self, report: Report) -> Report {
        report
            .fact(FILES, self.files)
            .fact(DIRECTORIES, self.directories)
            .fact(LINKS, self.links)
            .fact(BYTES, self.bytes)
    }

    /// Reads them back; `None` when one is missing or not a number.
    pub(crate) fn of(made: &Made) -> Option<Self> {
        let fact = |name| made.fact(name)?.parse().ok();
        Some(Self { files: fact(FILES)?, directories: fact(DIRECTORIES)?, links: fact(LINKS)?, bytes: fact(BYTES)? })
    }

    /// What a person reads.
    pub(crate) fn show(&self) -> String {
        let Self { files, directories, links, bytes } = self;
        format!("{files} files of {} together, {directories} directories, {links} links", size(*bytes))
    }
}

/// A size in binary units.
pub(crate) fn size(bytes: u64) -> String {
    const UNITS: [(&str, u32); 4] = [("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)];
    match UNITS.iter().find(|(_, shift)| bytes >> shift > 0) {
        Some((unit, shift)) => {
            let tenths = (u128::from(bytes) * 10) >> shift;
            format!("{}.{} {unit}", tenths / 10, tenths % 10)
        }
        None => format!("{bytes} B"),
    }
}

/// A list of names for a person: the first few, and how many more.
pub(crate) fn some_of(names: &[String], total: u64) -> String {
    let shown: Vec<_> = names.iter().take(10).map(|name| format!("{name:?}")).collect();
    let more = total.saturating_sub(u64::try_from(shown.len()).unwrap_or(0));
    match more {
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_counted_by_their_type() {
        let mut tally = Tally::default();
        for (kind, bytes) in [(Some("file"), 5), (None, 7), (Some("dir"), 0), (Some("symlink"), 0)] {
            tally.count(kind, bytes);
        }
        assert_eq!(tally, Tally { files: 2, directories: 1, links: 1, bytes: 12 });
        assert_eq!(tally.entries(), 4);
        assert_eq!(tally.show(), "2 files of 12 B together, 1 directories, 1 links");
    }

    #[test]
    fn sizes_and_lists_are_short() {
        assert_eq!(
            [size(0), size(1023), size(1536), size(5 << 30), size(u64::MAX)].join(" "),
            "0 B 1023 B 1.5 KiB 5.0 GiB 16777215.9 TiB"
        );
        let names: Vec<_> = (0..12).map(|i| i.to_string()).collect();
        assert!(some_of(&names, 12).ends_with("\"9\" and 2 more"));
        assert_eq!(some_of(&names[..1], 1), "\"0\"");
    }
}
