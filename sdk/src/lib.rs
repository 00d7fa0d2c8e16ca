//! What a Strongroom plugin is written with.
//!
//! A plugin is one type with four verbs. It names commands and artifacts; the host runs them,
//! moves the bytes, compresses, encrypts and stores them. A plugin never sees a credential, and
//! it sees bytes only where the operator granted `inspect`.
//!
//! ```no_run
//! use serde::Deserialize;
//! use strongroom_plugin::prelude::*;
//!
//! /// Backs up one directory with `tar`.
//! struct Tree;
//!
//! #[derive(Deserialize)]
//! #[serde(deny_unknown_fields)]
//! struct Settings {
//!     path: String,
//! }
//!
//! #[derive(Deserialize, Default)]
//! #[serde(deny_unknown_fields, default)]
//! struct Options {
//!     overwrite: bool,
//! }
//!
//! impl Plugin for Tree {
//!     type Settings = Settings;
//!     type Options = Options;
//!
//!     fn backup(request: BackupRequest<Settings>) -> Result<Report> {
//!         let tar = exec::command("pack").slot("path", &request.settings.path).spawn()?;
//!         // The bytes go from the program to the store inside the host.
//!         let transfer = storage::put("tree.tar", tar.stdout()?).media_type("application/x-tar").start()?;
//!         let artifact = transfer.wait()?;
//!         tar.wait()?.success()?;
//!         log::info!(bytes = artifact.size, "packed {}", request.settings.path);
//!         Ok(Report::new().fact("path", request.settings.path))
//!     }
//!
//!     fn verify(_request: VerifyRequest<Settings, Options>) -> Result<Vec<Check>> {
//!         let listed = exec::command("list").stdin(storage::get("tree.tar")?).run()?;
//!         Ok(vec![match listed.exit.success() {
//!             Ok(()) => Check::passed("tree.archive.reads", "the archive can be read to its end"),
//!             Err(error) => Check::failed("tree.archive.reads", "the archive can be read to its end")
//!                 .evidence(error.to_string())
//!                 .cause("the directory changed while it was packed")
//!                 .remedy("strongroom backup JOB"),
//!         }])
//!     }
//!
//!     fn restore(request: RestoreRequest<Settings, Options>) -> Result<()> {
//!         let path = &request.settings.path;
//!         if request.plan_only {
//!             Step::passed("unpack", path).report();
//!             return Ok(());
//!         }
//!         let label = if request.options.overwrite { "unpack_over" } else { "unpack" };
//!         let done = exec::command(label).slot("path", path).stdin(storage::get("tree.tar")?).run()?.success();
//!         match done {
//!             Ok(_) => Step::passed("unpack", path).report(),
//!             Err(error) => {
//!                 Step::failed("unpack", path).note("some files are there; remove them and start again").report();
//!                 return Err(error);
//!             }
//!         }
//!         Ok(())
//!     }
//!
//!     fn diagnose(request: DiagnoseRequest<Settings>) -> Result<Vec<Check>> {
//!         let age = request.last.map(|backup| run::now().since(backup.created));
//!         Ok(vec![Check::passed("tree.age", "age of the last backup").evidence(format!("{age:?}"))])
//!     }
//! }
//!
//! strongroom_plugin::export!(Tree);
//! # fn main() {}
//! ```
//!
//! The crate type is `["cdylib", "rlib"]`, the target `wasm32-unknown-unknown`; beside the crate
//! lies `plugin.toml`, which says what the plugin asks for. A component imports exactly the
//! functions that its code calls. Natively the crate builds too, so that unit tests, clippy and
//! documentation work; a call of the host panics there.

mod adapter;
mod archive;
// Public for the exports that `export!` makes in the plugin's own crate, and for nothing else.
#[doc(hidden)]
pub mod bindings;
mod bucket;
mod error;
mod settings;
mod time;

pub mod bytes;
pub mod exec;
pub mod kube;
pub mod log;
pub mod metrics;
pub mod report;
pub mod request;
pub mod run;
pub mod storage;

pub use error::{Error, Result};
pub use report::{Check, Outcome, Report, Step};
pub use request::{BackupRequest, Depth, DiagnoseRequest, Made, RestoreRequest, VerifyRequest};
pub use time::Timestamp;

use serde::de::DeserializeOwned;

/// What a plugin usually needs, for one `use`.
pub mod prelude {
    pub use crate::{
        BackupRequest, Check, Depth, DiagnoseRequest, Error, Made, Outcome, Plugin, Report, RestoreRequest, Result,
        Step, Timestamp, VerifyRequest, bytes, exec, kube, log, metrics, run, storage,
    };
}

/// The four verbs. Each is one call on a fresh instance: nothing is kept from one to the next but
/// what [`Report::state`] hands to the next backup.
///
/// The host has checked settings and options against the manifest's schema before; a value that
/// the types here refuse all the same ends the verb with [`Error::Invalid`], which names its path.
pub trait Plugin {
    /// The job's `settings` table.
    type Settings: DeserializeOwned;
    /// The options of a restore, and of the target that a verification restores into; every one
    /// needs a default, since `{}` is what comes without a target.
    type Options: DeserializeOwned;

    /// Stores artifacts and says what they are. An error leaves no backup.
    fn backup(request: BackupRequest<Self::Settings>) -> Result<Report>;

    /// Checks the backup in scope. An error says that checking itself failed; what is wrong with
    /// the backup is a [`Check`].
    fn verify(request: VerifyRequest<Self::Settings, Self::Options>) -> Result<Vec<Check>>;

    /// Brings the backup in scope back, or says what it would do. Each step is reported as it
    /// happens ([`Step::report`]), so that it is known even if the plugin then fails.
    fn restore(request: RestoreRequest<Self::Settings, Self::Options>) -> Result<()>;

    /// Looks for what would keep a backup or a restore from working. Changes nothing.
    fn diagnose(request: DiagnoseRequest<Self::Settings>) -> Result<Vec<Check>>;
}

/// Makes the type the plugin of this component. Once per crate.
#[macro_export]
macro_rules! export {
    ($plugin:ty) => {
        // The names of a component's exports are no symbols that a native linker takes.
        #[cfg(target_arch = "wasm32")]
        const _: () = {
            type StrongroomPlugin = $crate::__private::Adapter<$plugin>;
    $crate::bindings::export!(StrongroomPlugin with_types_in $crate::bindings);
        };
        #[cfg(not(target_arch = "wasm32"))]
        const _: $crate::__private::Adapter<$plugin> = $crate::__private::Adapter::new();
    };
}

/// For [`export!`] alone.
#[doc(hidden)]
pub mod __private {
    pub use crate::adapter::Adapter;
}
