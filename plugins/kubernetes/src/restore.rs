//! `restore`: objects back into clusters, or what that would do. What exists stays as it is unless the
//! options say otherwise, and an object that a cluster refuses stops none of the others.

pub(crate) mod engine;
pub(crate) mod served;
pub(crate) mod told;

use crate::inventory::{ClusterInventory, Inventory};
use crate::mapping::Mapping;
use crate::rules::Keep;
use crate::selection::Selection;
use crate::settings::{Existing, Options, Settings};
use engine::{Engine, How};
use std::time::Duration;
use strongroom_plugin::kube::Mode;
use strongroom_plugin::prelude::*;
use told::Told;

pub(crate) fn restore(request: &RestoreRequest<Settings, Options>) -> Result<()> {
    let options = &request.options;
    let selection = Selection::parse(options)?;
    let inventory = Inventory::read()?;
    let chosen = chosen(&inventory, &selection, options)?;
    let how = how(options, request.plan_only);
    let mut told = Told::reporting(request.plan_only);
    let mut error = None;
    for cluster in chosen {
        let label = target(cluster, options);
        told.cluster(&label);
        if let Err(failed) = Engine::open(&label, cluster, &selection, &how).and_then(|engine| engine.run(&mut told)) {
            Step::failed("restore cluster", &label)
                .note(format!("{failed}; what is listed as done stays, and the restore can be started again"))
                .report();
            error = Some(failed);
        }
        told.sum_up();
    }
    if let Some(error) = error {
        return Err(error);
    }
    if told.nothing_was_meant() {
        return Err(Error::invalid("nothing in the backup is chosen by the options"));
    }
    Ok(())
}

/// The clusters of the backup that are meant. Errors: `Invalid` for options that name one that is not in it.
pub(crate) fn chosen<'a>(
    inventory: &'a Inventory,
    selection: &Selection,
    options: &Options,
) -> Result<Vec<&'a ClusterInventory>> {
    let known = |label: &String| inventory.clusters.iter().any(|cluster| &cluster.label == label);
    if let Some(unknown) = options.to_clusters.keys().find(|label| !known(label)) {
        return Err(Error::invalid(format!("options.to_clusters: cluster {unknown:?} is not in the backup")));
    }
    let chosen: Vec<_> = inventory.clusters.iter().filter(|cluster| selection.cluster(&cluster.label)).collect();
    if chosen.is_empty() {
        let labels: Vec<&str> = inventory.clusters.iter().map(|cluster| cluster.label.as_str()).collect();
        return Err(Error::invalid(format!("options.clusters: the backup holds {}", labels.join(", "))));
    }
    Ok(chosen)
}

/// The label of the cluster that a cluster of the backup is restored into.
pub(crate) fn target(cluster: &ClusterInventory, options: &Options) -> String {
    options.to_clusters.get(&cluster.label).unwrap_or(&cluster.label).clone()
}

fn how(options: &Options, plan_only: bool) -> How {
    How {
        mode: match options.existing {
            Existing::Leave => Mode::Create,
            Existing::Merge => Mode::Merge,
            Existing::Replace => Mode::Replace,
        },
        dry_run: plan_only,
        force: options.force,
        status: options.status,
        keep: Keep::of(options),
        mapping: Mapping::of(options),
        wait: Duration::from_secs(options.wait_seconds),
        scratch: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clusters_are_chosen_and_named_anew() {
        let cluster = |label: &str| ClusterInventory { label: label.to_owned(), ..ClusterInventory::default() };
        let inventory = Inventory { clusters: vec![cluster("a"), cluster("b")], ..Inventory::new() };
        let options = |json: serde_json::Value| serde_json::from_value::<Options>(json).unwrap();
        let labels = |options: &Options| {
            let selection = Selection::parse(options).unwrap();
            let chosen = chosen(&inventory, &selection, options)?;
            Ok::<_, Error>(chosen.into_iter().map(|cluster| target(cluster, options)).collect::<Vec<_>>())
        };
        assert_eq!(labels(&Options::default()).unwrap(), ["a", "b"]);
        let one = options(serde_json::json!({"clusters": ["b"], "to_clusters": {"b": "c"}}));
        assert_eq!(labels(&one).unwrap(), ["c"]);
        assert!(labels(&options(serde_json::json!({"clusters": ["x"]}))).is_err());
        assert!(labels(&options(serde_json::json!({"to_clusters": {"x": "a"}}))).is_err());
    }

    #[test]
    fn existing_objects_are_left_alone_unless_told() {
        assert_eq!(how(&Options::default(), false).mode, Mode::Create);
        let merge = Options { existing: Existing::Merge, ..Options::default() };
        assert_eq!((how(&merge, true).mode, how(&merge, true).dry_run), (Mode::Merge, true));
    }
}
