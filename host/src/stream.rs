//! The streaming core: bytes from a source, through frames, to segments at rest, and back.
//!
//! This module never sees a plugin, a credential or the name of a store. It knows two ends,
//! [`Source`] and [`Segments`], and what lies between them.

pub mod pipe;
pub mod segment;
pub mod source;

pub use segment::{SealedSegments, SegmentRead, SegmentWrite, Segments};
pub use source::{ByteSource, Leash, Origin, Source, SourceInfo};
