//! The artifacts of the backup in scope: being made, or read back.

mod new;
mod stored;

pub use new::NewArtifacts;
pub use stored::StoredArtifacts;
