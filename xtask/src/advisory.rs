//! Known weaknesses of what is compiled in: `cargo deny check advisories`, where its database can be had.
//!
//! The database lies on the network, which a build machine may not reach. So whoever runs the checks says
//! where it comes from; if nobody did, that is said, and never passed over in silence.

use crate::command;
use anyhow::{Result, bail};
use std::path::Path;

/// The variable that says where the database comes from.
pub const VARIABLE: &str = "STRONGROOM_ADVISORIES";

/// Where the database comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Database {
    /// From the network, as `deny.toml` names it.
    Fetch,
    /// As an earlier run has fetched it; older than cargo-deny allows, it is an error there.
    Kept,
    /// Nobody said.
    Unsaid,
}

impl Database {
    fn parse(value: Option<&str>) -> Result<Self> {
        match value {
            None | Some("") => Ok(Self::Unsaid),
            Some("fetch") => Ok(Self::Fetch),
            Some("kept") => Ok(Self::Kept),
            Some(other) => bail!(
                "{VARIABLE} is \"{other}\": \"fetch\" gets the database of advisories from the network, \"kept\" uses what an earlier run has fetched"
            ),
        }
    }

    /// Arguments of cargo-deny before the word `check`.
    fn arguments(self) -> &'static [&'static str] {
        match self {
            Self::Fetch => &[],
            Self::Kept | Self::Unsaid => &["--offline"],
        }
    }
}

/// Checks every dependency against the advisories with this cargo-deny, or says that it was not done, why,
/// and how to.
pub fn check(program: &Path, root: &Path) -> Result<()> {
    let value = std::env::var(VARIABLE).ok();
    let database = Database::parse(value.as_deref())?;
    if database == Database::Unsaid {
        println!("{}", unchecked());
        return Ok(());
    }
    command::run(program)
        .args(["--workspace", "--locked"])
        .args(database.arguments())
        .args(["check", "--hide-inclusion-graph", "advisories"])
        .dir(root)
        .check()
}

/// What is said where nothing was checked.
fn unchecked() -> String {
    format!(
        "  advisories: NOT CHECKED, because {VARIABLE} is not set and their database is on the network\n  \
         where that can be reached: {VARIABLE}=fetch cargo xtask test deny\n  \
         with what was fetched before: {VARIABLE}=kept cargo xtask test deny"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_database_is_fetched_kept_or_said_to_be_missing() -> Result<()> {
        assert_eq!(Database::parse(Some("fetch"))?, Database::Fetch);
        assert_eq!(Database::parse(Some("kept"))?, Database::Kept);
        for nothing in [None, Some("")] {
            assert_eq!(Database::parse(nothing)?, Database::Unsaid);
        }
        let error = Database::parse(Some("yes")).map_err(|error| error.to_string()).err().unwrap_or_default();
        assert!(error.contains("\"yes\"") && error.contains("\"fetch\"") && error.contains("\"kept\""), "{error}");
        let said = unchecked();
        assert!(said.contains("NOT CHECKED") && said.contains("STRONGROOM_ADVISORIES=fetch"), "{said}");
        Ok(())
    }

    /// Commits a database with one advisory to the folder `database`, as the real one is laid out.
    fn commit(database: &Path, package: &str) -> Result<()> {
        let folder = database.join("crates").join(package);
        std::fs::create_dir_all(&folder)?;
        let text = format!(
            "```toml\n[advisory]\nid = \"RUSTSEC-2099-0001\"\npackage = \"{package}\"\ndate = \"2026-01-01\"\n\n\
             [versions]\npatched = [\">= 999.0.0\"]\n```\n\n# An invented weakness\n\nIt stands for a real one.\n"
        );
        std::fs::write(folder.join("RUSTSEC-2099-0001.md"), text)?;
        let git = |words: &[&str]| command::run("git").arg("-C").arg(database).args(words).read().map(drop);
        git(&["init", "--quiet", "--initial-branch", "main"])?;
        git(&["add", "."])?;
        git(&["-c", "user.name=test", "-c", "user.email=test@example.org", "commit", "--quiet", "-m", "one"])
    }

    #[test]
    fn an_advisory_against_a_dependency_fails_and_one_against_another_crate_does_not() -> Result<()> {
        let program = crate::cache::Cache::locate()?.path("bin/cargo-deny")?;
        let workspace = crate::workspace::Workspace::find()?;
        let config = std::fs::read_to_string(workspace.root.join("deny.toml"))?;
        assert!(config.contains("[advisories]\nyanked = \"deny\"\n"), "deny.toml says what an advisory means");
        for (package, code) in [("tokio", 1), ("no-crate-of-this-name", 0)] {
            let dir = std::env::temp_dir().join(format!("strongroom-advisories-{}-{package}", std::process::id()));
            let database = dir.join("remote");
            commit(&database, package)?;
            // Whether a version was yanked is asked of the registry, and not part of this.
            let own = format!("[advisories]\ndb-path = {:?}\nyanked = \"allow\"\n", dir.join("database"));
            let own = config.replace("[advisories]\nyanked = \"deny\"\n", &own);
            std::fs::write(dir.join("deny.toml"), own)?;
            // Git is told to find the address of the real database in this folder.
            let output = command::run(&program)
                .args(["--workspace", "--locked", "--config"])
                .arg(dir.join("deny.toml"))
                .args(["check", "--hide-inclusion-graph", "advisories"])
                .dir(&workspace.root)
                .env("GIT_CONFIG_COUNT", "1")
                .env("GIT_CONFIG_KEY_0", format!("url.file://{}.insteadOf", database.display()))
                .env("GIT_CONFIG_VALUE_0", "https://github.com/RustSec/advisory-db")
                .capture()?;
            std::fs::remove_dir_all(&dir)?;
            assert_eq!(output.code, Some(code), "{package}: {output:?}");
            assert_eq!(output.stderr.contains("RUSTSEC-2099-0001"), code == 1, "{package}: {output:?}");
        }
        Ok(())
    }
}
