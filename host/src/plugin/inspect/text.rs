//! An inspection for people.

use super::{ApprovalState, Inspection, Interface, SignatureState};
use crate::policy::{Effect, Verb};
use std::fmt;

impl fmt::Display for Inspection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} {}  {:?}", self.name, self.version, self.summary)?;
        writeln!(f, "  sha256     {}", self.sha256)?;
        writeln!(f, "  size       {}", crate::unit::bytes(self.size_bytes))?;
        writeln!(f, "  licence    {}", self.licence)?;
        writeln!(f, "  contract   strongroom:plugin {}", self.contract.join(", "))?;
        if let Some(minimum) = &self.minimum_host {
            writeln!(f, "  host       {minimum} or newer")?;
        }
        if !self.toolchain.is_empty() {
            let tools: Vec<_> = self
                .toolchain
                .iter()
                .map(|tool| format!("{} {}", tool.name, tool.version).trim_end().to_owned())
                .collect();
            writeln!(f, "  toolchain  {}", tools.join(", "))?;
        }
        write_worth(f, self)?;
        writeln!(f, "\nimports")?;
        for interface in &self.imports {
            write_interface(f, interface)?;
        }
        writeln!(f, "\nrequests")?;
        if self.requests.is_empty() {
            writeln!(f, "  none")?;
        }
        for request in &self.requests {
            let when = when(&request.verbs, request.effect, request.scratch, request.inspect);
            writeln!(f, "  {} {:?}  {when}\n    {}", request.kind, request.name, request.what)?;
            for slot in &request.slots {
                writeln!(f, "    slot {slot}")?;
            }
            if !request.secrets.is_empty() {
                writeln!(f, "    secrets: {}", request.secrets.join(", "))?;
            }
            writeln!(f, "    why: {:?}", request.reason)?;
        }
        if let Some(effective) = &self.effective {
            writeln!(f, "\neffective under this configuration")?;
            if effective.is_empty() {
                writeln!(f, "  nothing")?;
            }
            for one in effective {
                let when = when(&one.verbs, one.effect, false, one.inspect);
                writeln!(f, "  {} {:?}  {when}\n    {}", one.kind, one.name, one.what)?;
            }
        }
        if !self.notes.is_empty() {
            writeln!(f, "\nnotes")?;
        }
        for note in &self.notes {
            writeln!(f, "  {note}")?;
        }
        Ok(())
    }
}

/// Signature, approval and ceilings: what the file itself cannot say.
fn write_worth(f: &mut fmt::Formatter<'_>, inspection: &Inspection) -> fmt::Result {
    let signature = &inspection.signature;
    let key = signature.key_id.as_deref().unwrap_or("unknown");
    match signature.state {
        SignatureState::None => writeln!(f, "  signature  none")?,
        SignatureState::Unchecked => writeln!(f, "  signature  by key {key}, not checked: no key is trusted")?,
        SignatureState::Good => {
            let comment = signature.comment.as_deref().unwrap_or_default();
            writeln!(f, "  signature  good, by key {key}: {comment:?}")?;
        }
        SignatureState::Refused => {
            let reason = signature.reason.as_deref().unwrap_or_default();
            writeln!(f, "  signature  not believed: {reason}")?;
        }
    }
    if let Some(approval) = inspection.approval {
        let words = match approval {
            ApprovalState::Approved => "approved",
            ApprovalState::NeverApproved => "not approved: nothing of it runs",
            ApprovalState::OtherBytes => "other bytes were approved: nothing of it runs",
            ApprovalState::Revoked => "revoked: it never runs again",
        };
        writeln!(f, "  approval   {words}")?;
    }
    let ceilings = if inspection.ceilings.is_empty() { "none".to_owned() } else { inspection.ceilings.join(", ") };
    writeln!(f, "  ceiling    {ceilings}")
}

fn write_interface(f: &mut fmt::Formatter<'_>, interface: &Interface) -> fmt::Result {
    if interface.inert {
        return writeln!(f, "  {}  inert, {} functions", interface.name, interface.functions.len());
    }
    if let Some(bytes) = interface.scratch_bytes {
        let what = super::scratch_what(bytes);
        return writeln!(f, "  {}  {what}, {} functions", interface.name, interface.functions.len());
    }
    if interface.functions.is_empty() {
        return Ok(());
    }
    writeln!(f, "  {}", interface.name)?;
    for function in &interface.functions {
        let risk = function.risk.map_or("inert", super::Risk::name);
        let beyond = match (function.requested, function.granted) {
            (false, _) => "  (imported, never allowed)",
            (true, Some(false)) => "  (not granted)",
            (true, _) => "",
        };
        writeln!(f, "    {:<20} {risk:<9} {}{beyond}", function.name, function.does)?;
    }
    Ok(())
}

pub(super) fn when(verbs: &[Verb], effect: Effect, scratch: bool, inspect: bool) -> String {
    let verbs: Vec<_> = verbs.iter().map(|verb| verb.name()).collect();
    let effect = match effect {
        Effect::Reads => "reads",
        Effect::Changes if scratch => "changes scratch places",
        Effect::Changes => "changes",
    };
    format!("for {}; {effect}{}", verbs.join(", "), if inspect { "; its bytes enter the plugin" } else { "" })
}
