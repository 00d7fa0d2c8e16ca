//! The test kit: real servers in scratch directories.
pub mod container;
