//! x
use crate::workspace::Workspace;
/// y
pub fn run(_: &Workspace, _: &[String]) -> anyhow::Result<bool> {
    anyhow::bail!("x")
}
