//! Slots: the holes in a granted command line, and what may fill them.

/// What a slot accepts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlotRule {
    /// Where its values come from.
    pub kind: SlotKind,
    /// Longest value in bytes.
    pub max_bytes: usize,
    /// How many values it takes; more than 1 only where the slot is an argument of its own.
    pub max_count: usize,
}

/// Where the values of a slot come from.
#[derive(Clone, Debug)]
pub enum SlotKind {
    /// An anchored regular expression over the whole value.
    Pattern(regex::Regex, String),
    /// Exactly what the operator wrote in the job's setting of this name (a string, or a list of them).
    Setting(String),
    /// Filled by the host with the run's scratch directory.
    Scratch,
}

/// Text with `{slot}` holes, parsed once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    /// Literal text and holes in order.
    pub pieces: Vec<Piece>,
}

/// A piece of a [`Template`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    /// Text as written; `{{` and `}}` stand for braces.
    Text(String),
    /// The value of this slot.
    Slot(String),
}

impl PartialEq for SlotKind {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (SlotKind::Pattern(_, a), SlotKind::Pattern(_, b)) | (SlotKind::Setting(a), SlotKind::Setting(b)) => a == b,
            (SlotKind::Scratch, SlotKind::Scratch) => true,
            _ => false,
        }
    }
}

impl Eq for SlotKind {}
