//! Whether the target serves what was recorded: the kind, in the version in which it was recorded. Asked
//! once for each kind, so that ten thousand objects of a version that is gone are one answer.

use crate::inventory::Archive;
use crate::kind::is;
use std::collections::HashSet;
use strongroom_plugin::kube::{Cluster, Kind, Question};
use strongroom_plugin::{Error, Result};

/// What the target says of the kind of an archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Served {
    /// Objects can be written.
    Yes,
    /// Objects can be written once what this plan would do is done.
    Coming,
    /// Objects cannot be written, and why.
    No(String),
}

/// Asks for the kind of an archive. `found` and `down` are the kinds of the target and the APIs that do
/// not answer; `coming` are group and kind of what a plan would define.
///
/// Errors: the target does not answer.
pub(crate) fn served(
    cluster: &Cluster,
    found: &[Kind],
    down: &[(String, String)],
    coming: &HashSet<(String, String)>,
    archive: &Archive,
) -> Result<Served> {
    let there = found.iter().find(|kind| is(kind, &archive.group, &archive.kind));
    let is_coming = || coming.contains(&(archive.group.clone(), archive.kind.clone()));
    let kind = archive.kind();
    match there {
        Some(there) if there.version == kind.version => Ok(Served::Yes),
        // Another version is preferred now, and this one may still be served: whoever asks what may be
        // done with it is told when it is not.
        Some(there) => {
            let question = Question { verb: "create".to_owned(), kind: kind.clone(), namespace: None, restores: false };
            match cluster.can_i(&[question]) {
                Err(Error::NotFound(_)) if is_coming() => Ok(Served::Coming),
                Err(Error::NotFound(_)) => Ok(Served::No(gone(archive.objects, &kind, there))),
                Err(error @ (Error::Unavailable(_) | Error::TimedOut(_))) => Err(error),
                // Then the server says so for each object.
                Ok(_) | Err(_) => Ok(Served::Yes),
            }
        }
        None if is_coming() => Ok(Served::Coming),
        None => Ok(Served::No(absent(archive, down))),
    }
}

/// Why a version is not served any more.
fn gone(n: u64, recorded: &Kind, there: &Kind) -> String {
    let (from, to) = (recorded.api_version(), there.api_version());
    format!(
        "{n} objects: they are recorded as {from}, which the cluster does not serve; it serves {to}. \
         Restore them into a cluster that serves {from}, or let the definition serve it again until they are there"
    )
}

/// Why a kind is not there at all.
fn absent(archive: &Archive, down: &[(String, String)]) -> String {
    let n = archive.objects;
    let of_group = |(version, _): &&(String, String)| group(version) == archive.group;
    match down.iter().find(of_group) {
        Some((version, why)) => {
            format!(
                "{n} objects: the API {version} does not answer: {why}; kubectl get apiservices says what is behind it"
            )
        }
        None => {
            format!("{n} objects: the cluster does not have this kind; restore its definition as well, or install it")
        }
    }
}

/// The group of `group/version`.
pub(crate) fn group(api_version: &str) -> &str {
    api_version.rsplit_once('/').map_or("", |(group, _)| group)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn archive(group: &str) -> Archive {
        Archive {
            artifact: "x".into(),
            group: group.into(),
            version: "v1".into(),
            kind: "Shop".into(),
            plural: "shops".into(),
            namespaced: true,
            objects: 7,
            bytes: 10,
            restarted: false,
            converted: false,
        }
    }

    #[test]
    fn a_version_that_is_gone_is_named_with_the_one_that_is_there() {
        let recorded = archive("example.org").kind();
        let there = Kind { version: "v2".into(), ..recorded.clone() };
        let said = gone(7, &recorded, &there);
        assert!(said.starts_with("7 objects: they are recorded as example.org/v1"), "{said}");
        assert!(said.contains("it serves example.org/v2"), "{said}");
    }

    #[test]
    fn an_api_that_is_down_is_told_from_a_kind_that_is_not_there() {
        let down = [("example.org/v1".to_owned(), "no backend".to_owned())];
        assert!(absent(&archive("example.org"), &down).contains("example.org/v1 does not answer: no backend"));
        assert!(absent(&archive("other.org"), &down).contains("does not have this kind"));
        assert_eq!((group("apps/v1"), group("v1")), ("apps", ""));
    }
}
