//! What a plugin is linked with: the granted interfaces, and WASI that can do nothing.
//!
//! An interface that is not granted is not there: a component that imports it cannot be made to run.

use super::bindings::strongroom::plugin as contract;
use super::component::Component;
use super::log::{LineWriter, Log};
use super::state::State;
use crate::error::{Error, Result};
use crate::policy::Grants;
use tokio::io::AsyncWrite;
use wasmtime::Engine;
use wasmtime::component::{HasSelf, Linker};
use wasmtime_wasi::cli::{IsTerminal, StdoutStream, WasiCli, WasiCliView};
use wasmtime_wasi::filesystem::{WasiFilesystem, WasiFilesystemView};
use wasmtime_wasi::p2::bindings::{cli, filesystem, random, sockets};
use wasmtime_wasi::random::{WasiRandom, WasiRandomView};
use wasmtime_wasi::sockets::{WasiSockets, WasiSocketsView};
use wasmtime_wasi::{WasiCtx, WasiCtxBuilder};

/// Most random bytes of one call of WASI.
const MAX_RANDOM_BYTES: u64 = 64 << 10;

/// A linker with what is granted to this component. `grants` are the effective ones.
pub(super) fn for_plugin(engine: &Engine, component: &Component, grants: &Grants) -> Result<Linker<State>> {
    let mut linker = Linker::new(engine);
    add(&mut linker, component, grants)
        .map_err(|e| Error::failed("could not link the plugin").because(format!("{e:#}")))?;
    Ok(linker)
}

fn add(linker: &mut Linker<State>, component: &Component, grants: &Grants) -> wasmtime::Result<()> {
    contract::types::add_to_linker::<_, HasSelf<State>>(linker, |state| state)?;
    contract::run::add_to_linker::<_, HasSelf<State>>(linker, |state| state)?;
    contract::bytes::add_to_linker::<_, HasSelf<State>>(linker, |state| state)?;
    if grants.artifacts.is_some() || !grants.buckets.is_empty() {
        contract::storage::add_to_linker::<_, HasSelf<State>>(linker, |state| state)?;
    }
    if !grants.exec.is_empty() {
        contract::exec::add_to_linker::<_, HasSelf<State>>(linker, |state| state)?;
    }
    if !grants.kube.is_empty() {
        contract::kube::add_to_linker::<_, HasSelf<State>>(linker, |state| state)?;
    }
    if component.imports_wasi() {
        add_inert_wasi(linker)?;
    }
    Ok(())
}

/// The interfaces of `capability::INERT_WASI`. Sockets are there, since Python imports them whatever it
/// does, and each is refused before it is made. No HTTP.
fn add_inert_wasi(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    wasmtime_wasi::p2::add_to_linker_proxy_interfaces_async(linker)?;
    cli::environment::add_to_linker::<State, WasiCli>(linker, WasiCliView::cli)?;
    cli::exit::add_to_linker::<State, WasiCli>(linker, WasiCliView::cli)?;
    cli::terminal_input::add_to_linker::<State, WasiCli>(linker, WasiCliView::cli)?;
    cli::terminal_output::add_to_linker::<State, WasiCli>(linker, WasiCliView::cli)?;
    cli::terminal_stdin::add_to_linker::<State, WasiCli>(linker, WasiCliView::cli)?;
    cli::terminal_stdout::add_to_linker::<State, WasiCli>(linker, WasiCliView::cli)?;
    cli::terminal_stderr::add_to_linker::<State, WasiCli>(linker, WasiCliView::cli)?;
    random::insecure::add_to_linker::<State, WasiRandom>(linker, WasiRandomView::random)?;
    random::insecure_seed::add_to_linker::<State, WasiRandom>(linker, WasiRandomView::random)?;
    filesystem::types::add_to_linker::<State, WasiFilesystem>(linker, WasiFilesystemView::filesystem)?;
    filesystem::preopens::add_to_linker::<State, WasiFilesystem>(linker, WasiFilesystemView::filesystem)?;
    let network = sockets::network::LinkOptions::default();
    sockets::network::add_to_linker::<State, WasiSockets>(linker, &network, WasiSocketsView::sockets)?;
    sockets::instance_network::add_to_linker::<State, WasiSockets>(linker, WasiSocketsView::sockets)?;
    sockets::tcp_create_socket::add_to_linker::<State, WasiSockets>(linker, WasiSocketsView::sockets)?;
    sockets::udp_create_socket::add_to_linker::<State, WasiSockets>(linker, WasiSocketsView::sockets)?;
    sockets::tcp::add_to_linker::<State, WasiSockets>(linker, WasiSocketsView::sockets)?;
    sockets::udp::add_to_linker::<State, WasiSockets>(linker, WasiSocketsView::sockets)?;
    sockets::ip_name_lookup::add_to_linker::<State, WasiSockets>(linker, WasiSocketsView::sockets)?;
    Ok(())
}

/// A WASI without files, arguments, environment and network; output becomes log lines.
pub(super) fn inert_wasi(log: &Log) -> WasiCtx {
    WasiCtxBuilder::new()
        .stdout(ToLog(log.clone()))
        .stderr(ToLog(log.clone()))
        .allow_tcp(false)
        .allow_udp(false)
        .allow_ip_name_lookup(false)
        .max_random_size(MAX_RANDOM_BYTES)
        .build()
}

struct ToLog(Log);

impl IsTerminal for ToLog {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for ToLog {
    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        Box::new(LineWriter::new(self.0.clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plugin::capability::INERT_WASI;
    use crate::plugin::engine;

    /// The version of WASI that the runtime defines; a component with another 0.2 is matched to it.
    const VERSION: &str = "0.2.12";

    /// One item of each interface.
    const ITEMS: &[(&str, &str)] = &[
        ("environment", "get-environment"),
        ("exit", "exit"),
        ("stdin", "get-stdin"),
        ("stdout", "get-stdout"),
        ("stderr", "get-stderr"),
        ("terminal-input", "terminal-input"),
        ("terminal-output", "terminal-output"),
        ("terminal-stdin", "get-terminal-stdin"),
        ("terminal-stdout", "get-terminal-stdout"),
        ("terminal-stderr", "get-terminal-stderr"),
        ("wall-clock", "now"),
        ("monotonic-clock", "now"),
        ("types", "descriptor"),
        ("preopens", "get-directories"),
        ("error", "error"),
        ("poll", "poll"),
        ("streams", "input-stream"),
        ("random", "get-random-bytes"),
        ("insecure", "get-insecure-random-bytes"),
        ("insecure-seed", "insecure-seed"),
        ("network", "network"),
        ("instance-network", "instance-network"),
        ("tcp", "tcp-socket"),
        ("tcp-create-socket", "create-tcp-socket"),
        ("udp", "udp-socket"),
        ("udp-create-socket", "create-udp-socket"),
        ("ip-name-lookup", "resolve-addresses"),
    ];

    /// Whether the item is there: what is there cannot be defined again.
    fn is_defined(linker: &mut Linker<State>, interface: &str, item: &str) -> bool {
        let mut instance = linker.instance(&format!("{interface}@{VERSION}")).unwrap();
        instance.func_wrap(item, |_, (): ()| Ok(())).is_err()
    }

    #[test]
    fn every_interface_that_may_be_imported_as_inert_is_linked_and_no_other_is() {
        let mut linker = Linker::new(engine::shared().unwrap());
        add_inert_wasi(&mut linker).unwrap();
        for (package, interfaces) in INERT_WASI {
            for interface in *interfaces {
                let (_, item) = ITEMS.iter().find(|(name, _)| name == interface).expect(interface);
                assert!(
                    is_defined(&mut linker, &format!("{package}/{interface}"), item),
                    "{package}/{interface}#{item}"
                );
            }
        }
        for (interface, item) in [("wasi:http/types", "fields"), ("wasi:http/outgoing-handler", "handle")] {
            assert!(!is_defined(&mut linker, interface, item), "{interface}");
        }
    }
}
