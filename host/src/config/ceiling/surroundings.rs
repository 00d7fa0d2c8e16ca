//! What comes with commands without being a grant, held against every ceiling: each is code that runs as
//! the user of the host. What a ceiling says of it is `policy::ceiling`'s.

use super::super::fields::Fields;
use super::super::{Config, Meaning, labelled};
use crate::cluster::Way;
use crate::exec::{RunIn, client_places};
use crate::policy::Verb;

impl Meaning<'_> {
    /// Variables of jobs and targets, clients of containers, programs of kubeconfigs.
    pub(in crate::config) fn under_ceilings_without_a_grant(&mut self, root: &Fields, config: &Config) {
        let programs = |plugin: Option<&str>| -> Vec<&str> {
            let plugins = config.plugins.iter().filter(|(label, _)| plugin.is_none_or(|one| label.as_str() == one));
            plugins.flat_map(|(_, plugin)| plugin.grants.exec.values()).map(|grant| grant.program.as_str()).collect()
        };
        for (label, fields) in labelled(root, "job") {
            let Some(job) = config.jobs.get(&label) else { continue };
            let programs = programs(Some(job.plugin.as_str()));
            self.variables_under_ceilings(fields, &programs);
            for verb in [Verb::Backup, Verb::Verify, Verb::Restore, Verb::Diagnose] {
                fields.table(verb.name()).into_iter().for_each(|own| self.variables_under_ceilings(own, &programs));
            }
            self.client_under_ceilings(fields, &job.run_in);
        }
        for (label, fields) in labelled(root, "target") {
            let Some(target) = config.targets.get(&label) else { continue };
            // Any job can restore into it.
            self.variables_under_ceilings(fields, &programs(None));
            self.client_under_ceilings(fields, &target.run_in);
        }
        for (label, fields) in labelled(root, "cluster") {
            if let Some(cluster) = config.clusters.get(&label)
                && let Way::Kubeconfig { exec_credentials: true, .. } = cluster.way
            {
                // Where its server is, the kubeconfig says: that is compared when it is about to be asked.
                self.under_ceilings(fields, |ceiling| ceiling.credentials_program(None));
            }
        }
    }

    fn variables_under_ceilings(&mut self, fields: &Fields, programs: &[&str]) {
        for entry in fields.map("env") {
            self.under_ceilings(fields, |ceiling| ceiling.variable(&entry.name, programs));
        }
    }

    fn client_under_ceilings(&mut self, fields: &Fields, run_in: &RunIn) {
        if let (Some(place), RunIn::Container { client, .. }) = (fields.table("run_in"), run_in)
            && let Some((program, arguments)) = client.split_first()
        {
            let places = client_places(program);
            self.under_ceilings(place, |ceiling| ceiling.client(&places, arguments));
        }
    }
}
