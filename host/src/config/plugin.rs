//! `[plugin.x]`: where the component is, what was approved, what it may use.

use super::fields::Fields;
use super::{Meaning, PluginConfig, ceiling};
use crate::id::Label;
use crate::plugin::limits::Limits;
use crate::policy::Grants;

impl Meaning<'_> {
    pub(super) fn plugin(&mut self, label: &Label, fields: &Fields) -> Option<PluginConfig> {
        let grants = fields.table("grant").map(|grant| self.grants(grant)).unwrap_or_default();
        let sha256 = self.sha256(label, fields, &grants);
        let limits = fields.table("limits").map(limits).unwrap_or_default();
        let text = fields.text("source")?;
        if let Some((scheme, _)) = text.split_once("://") {
            let shown = super::read::escape(scheme);
            self.mistakes
                .add(
                    fields.span_of("source"),
                    format!("{}.source: {shown}:// is not built yet", fields.path),
                    "expected the path of a file",
                )
                .help = Some("download the component, check its digest, and write its path".to_owned());
            return None;
        }
        let trusted_keys = fields.has("trusted_keys").then(|| ceiling::trusted_keys(fields, &mut self.mistakes));
        let source = self.path(fields, "source")?;
        let signature = if fields.has("signature") {
            self.path(fields, "signature")?
        } else {
            let mut beside = source.clone().into_os_string();
            beside.push(crate::plugin::signature::SUFFIX);
            beside.into()
        };
        Some(PluginConfig { source, sha256, signature, trusted_keys, grants, limits })
    }

    fn sha256(&mut self, label: &Label, fields: &Fields, grants: &Grants) -> Option<String> {
        let Some(text) = fields.text("sha256") else {
            let granted = !grants.exec.is_empty()
                || !grants.buckets.is_empty()
                || !grants.kube.is_empty()
                || grants.artifacts.is_some()
                || grants.scratch.is_some()
                || grants.metrics.is_some();
            if granted && !fields.has("sha256") {
                self.warnings
                    .add(fields.span.clone(), format!("{} has grants and no sha256", fields.path), "it will not run")
                    .help = Some(format!("run `strongroom plugin approve {label}`"));
            }
            return None;
        };
        let digest = super::digest(text);
        if digest.is_none() {
            let got = format!("expected 64 hex digits, got {} characters", text.chars().count());
            self.mistakes.add(fields.span_of("sha256"), format!("{}.sha256 is not a digest", fields.path), got).help =
                Some(format!("`strongroom plugin approve {label}` writes it"));
        }
        digest
    }
}

fn limits(fields: &Fields) -> Limits {
    let otherwise = Limits::default();
    Limits {
        memory_bytes: fields.whole("memory").unwrap_or(otherwise.memory_bytes),
        stack_bytes: fields.whole("stack").unwrap_or(otherwise.stack_bytes),
        table_elements: fields.whole("table_elements").unwrap_or(otherwise.table_elements),
        instances: fields.whole("instances").unwrap_or(otherwise.instances),
        cpu: fields.duration("cpu").unwrap_or(otherwise.cpu),
        wall_clock: fields.duration("wall_clock").unwrap_or(otherwise.wall_clock),
        stall: fields.duration("stall").unwrap_or(otherwise.stall),
        handles: fields.whole("handles").unwrap_or(otherwise.handles),
        open_streams: fields.whole("open_streams").unwrap_or(otherwise.open_streams),
        processes: fields.whole("processes").unwrap_or(otherwise.processes),
        command_memory_bytes: fields.whole("command_memory").unwrap_or(otherwise.command_memory_bytes),
        artifacts: fields.whole("artifacts").unwrap_or(otherwise.artifacts),
        archive_entries: fields.whole("archive_entries").unwrap_or(otherwise.archive_entries),
        entry_path_bytes: fields.whole("entry_path").unwrap_or(otherwise.entry_path_bytes),
        call_bytes: fields.whole("call_bytes").unwrap_or(otherwise.call_bytes),
        log_bytes: fields.whole("log_bytes").unwrap_or(otherwise.log_bytes),
        metric_series: fields.whole("metric_series").unwrap_or(otherwise.metric_series),
        scratch_files: fields.whole("scratch_files").unwrap_or(otherwise.scratch_files),
        scratch_open: fields.whole("scratch_open").unwrap_or(otherwise.scratch_open),
        open_transfers: fields.whole("open_transfers").unwrap_or(otherwise.open_transfers),
        compile_memory_bytes: fields.whole("compile_memory").unwrap_or(otherwise.compile_memory_bytes),
        compile_cpu: fields.duration("compile_cpu").unwrap_or(otherwise.compile_cpu),
        compile_time: fields.duration("compile_time").unwrap_or(otherwise.compile_time),
    }
}
