//! The streaming core: bytes from a source, through frames, to segments at rest, and back.
//!
//! This module never sees a plugin, a credential or the name of a store. It knows two ends,
//! [`Source`] and [`Segments`], and what lies between them.
//!
//! | stage | its inverse |
//! | --- | --- |
//! | [`writer`]: read, in order | [`reader`]: hand out, in order |
//! | [`frame`]: compress 2 MiB, as hard as [`level`] says | [`frame`]: decompress |
//! | [`digest`]: chaining values, merged | [`digest`]: each frame compared |
//! | `assemble` and [`tail`]: segments | `index`: tails parsed and proven |
//! | [`seal`]: age | [`seal`]: age |
//! | `upload` | ranged reads |
//!
//! [`budget`] holds the threads and the memory of all of them.

pub mod archive;
mod assemble;
pub(crate) mod blocking;
pub mod budget;
mod check;
pub mod digest;
pub mod frame;
mod index;
pub mod level;
pub mod memory;
pub mod pipe;
pub mod pool;
pub mod reader;
pub mod seal;
pub mod segment;
pub mod source;
pub mod tail;
pub mod tee;
mod upload;
pub mod writer;

#[cfg(test)]
mod tests;

pub use budget::{Budget, BudgetSettings, MIN_PART_BYTES};
pub(crate) use check::Look;
pub use check::check_stored;
pub use frame::Compression;
pub(crate) use index::segment_number;
pub use pipe::{PipeSink, pipe};
pub use pool::{Buffer, Room};
pub use reader::{ArtifactReader, open_artifact};
pub use seal::{Identity, Recipients};
pub use segment::{SealedSegments, SegmentWrite, Segments};
pub use source::{ByteSource, Leash, Origin, Proof, Source, SourceInfo};
pub use tee::tee;
pub use writer::{MIN_SEGMENT_BYTES, StoredArtifact, WriteOptions, write_artifact};
