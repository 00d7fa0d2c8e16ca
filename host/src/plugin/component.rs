//! Decodes a component without compiling it: what it is, what it imports, and its manifest.
//!
//! Nothing of the component is run here, and nothing that it says is believed: sizes, nesting and
//! names are checked before they are used.

use super::capability::{CAPABILITIES, is_inert_wasi};
use super::manifest::{self, PluginManifest};
use crate::error::{Error, Result};
use crate::unit;
use std::borrow::Cow;
use std::collections::BTreeMap;
use wasmparser::{Parser, Payload, Validator, WasmFeatures};
use wit_parser::decoding::DecodedWasm;
use wit_parser::{Resolve, WorldItem, WorldKey};

/// Largest component that is looked at, in bytes. A Rust plugin has some 100 KiB; one that carries
/// a Python interpreter has 40 MiB.
pub const MAX_BYTES: usize = 64 << 20;

/// How deep modules and components may lie inside one another: the encoders produce 2.
const MAX_DEPTH: usize = 8;

/// The package of the contract.
pub(super) const PACKAGE: &str = "strongroom:plugin";

/// The package of WASI that has files.
pub(super) const WASI_FILES: &str = "wasi:filesystem";

/// A component as its bytes describe it.
#[derive(Clone, Debug)]
pub struct Component {
    /// SHA-256 of the bytes, in hex.
    pub sha256: String,
    /// Size in bytes.
    pub size: u64,
    /// The manifest, parsed and checked.
    pub manifest: PluginManifest,
    /// Interfaces that it imports, by name.
    pub imports: BTreeMap<String, Import>,
    /// Tools that made it: language, compiler and so on, with versions, as the component says.
    pub toolchain: Vec<(String, String)>,
}

/// An imported interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Import {
    /// Package, such as `strongroom:plugin`.
    pub package: String,
    /// Interface, such as `exec`.
    pub interface: String,
    /// Version, such as `0.1.0`.
    pub version: String,
    /// Functions, methods as `resource.method`, in the order in which they are declared.
    pub functions: Vec<String>,
}

impl Import {
    /// Whether it is an interface of the contract, and not inert WASI.
    pub fn is_contract(&self) -> bool {
        self.package == PACKAGE
    }
}

impl Component {
    /// Decodes a component, checks its manifest and holds imports against requests.
    ///
    /// Errors: `Invalid`, with what is wrong and where; `Limit` when it is too large.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        check_size(bytes)?;
        check_header(bytes)?;
        let outline = Outline::of(bytes)?;
        let text = outline.manifest()?;
        let manifest = PluginManifest::parse(text)?;
        Validator::new_with_features(features()).validate_all(bytes).map_err(|e| malformed(&e))?;
        let imports = imports(bytes)?;
        check_requests(&manifest, &imports)?;
        Ok(Self { sha256: digest(bytes), size: bytes.len() as u64, manifest, imports, toolchain: outline.toolchain })
    }

    /// Whether it imports this interface of the contract.
    pub fn imports_interface(&self, interface: &str) -> bool {
        self.imports.values().any(|import| import.is_contract() && import.interface == interface)
    }

    /// Whether it imports files of WASI.
    pub(super) fn imports_files(&self) -> bool {
        self.imports.values().any(|import| import.package == WASI_FILES)
    }

    /// Whether it imports anything of WASI.
    pub fn imports_wasi(&self) -> bool {
        self.imports.values().any(|import| !import.is_contract())
    }
}

/// SHA-256 in hex, as `sha256sum` prints it.
pub fn digest(bytes: &[u8]) -> String {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes);
    digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Adds the manifest as a custom section at the end of a component, where the outermost level is.
pub(super) fn embed_manifest(mut component: Vec<u8>, text: &str) -> Vec<u8> {
    use wasm_encoder::Encode;
    let section =
        wasm_encoder::CustomSection { name: Cow::Borrowed(manifest::SECTION), data: Cow::Borrowed(text.as_bytes()) };
    component.push(0);
    section.encode(&mut component);
    component
}

/// What the engine is built and configured for; anything else is refused here already.
fn features() -> WasmFeatures {
    WasmFeatures::default()
        - WasmFeatures::MEMORY64
        - WasmFeatures::CM_ASYNC
        - WasmFeatures::THREADS
        - WasmFeatures::EXCEPTIONS
        - WasmFeatures::GC
        - WasmFeatures::FUNCTION_REFERENCES
}

/// Refuses what is larger than [`MAX_BYTES`].
pub(super) fn check_size(bytes: &[u8]) -> Result<()> {
    if bytes.len() > MAX_BYTES {
        return Err(Error::limit("the component is too large")
            .fact("expected", format!("at most {}", unit::bytes(MAX_BYTES as u64)))
            .fact("got", unit::bytes(bytes.len() as u64)));
    }
    Ok(())
}

pub(super) fn check_header(bytes: &[u8]) -> Result<()> {
    if Parser::is_core_wasm(bytes) {
        return Err(Error::invalid("the file is a core WebAssembly module, not a component")
            .fact("expected", "a component with the section \"strongroom:manifest\"")
            .hint("build the crate with \"strongroom plugin build\""));
    }
    if !Parser::is_component(bytes) {
        let start: String = bytes.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
        return Err(Error::invalid("the file is not a WebAssembly component")
            .fact("expected", "a file that begins with 0061736d0d000100")
            .fact("got", if start.is_empty() { "an empty file".to_owned() } else { start })
            .hint("name the .wasm file that \"strongroom plugin build\" or the vendor made"));
    }
    Ok(())
}

fn malformed(error: &wasmparser::BinaryReaderError) -> Error {
    let offset = error.offset();
    if error.message().contains("unexpected end") {
        return Error::invalid(format!("the component is truncated: more was to follow at byte {offset}"))
            .hint("fetch or build the file again");
    }
    Error::invalid(format!("the component is malformed at byte {offset}")).because(error.message().to_owned())
}

/// What a walk over the sections finds.
struct Outline<'a> {
    /// Manifest sections with the depth they lie at.
    manifests: Vec<(usize, &'a [u8])>,
    toolchain: Vec<(String, String)>,
}

impl<'a> Outline<'a> {
    fn of(bytes: &'a [u8]) -> Result<Self> {
        let mut outline = Self { manifests: Vec::new(), toolchain: Vec::new() };
        let mut depth = 0_usize;
        for payload in Parser::new(0).parse_all(bytes) {
            match payload.map_err(|e| malformed(&e))? {
                Payload::ModuleSection { .. } | Payload::ComponentSection { .. } => {
                    depth += 1;
                    if depth > MAX_DEPTH {
                        return Err(Error::limit(format!("the component nests deeper than {MAX_DEPTH} levels")));
                    }
                }
                Payload::End(_) => depth = depth.saturating_sub(1),
                Payload::CustomSection(section) if section.name() == manifest::SECTION => {
                    outline.manifests.push((depth, section.data()));
                }
                Payload::CustomSection(section) => {
                    if let wasmparser::KnownCustom::Producers(producers) = section.as_known() {
                        outline.add_producers(producers);
                    }
                }
                _ => {}
            }
        }
        Ok(outline)
    }

    /// The section is a courtesy of the toolchain: what does not parse is left out.
    fn add_producers(&mut self, producers: wasmparser::ProducersSectionReader<'_>) {
        const MAX_TOOLS: usize = 64;
        for field in producers.into_iter().flatten() {
            for value in field.values.into_iter().flatten() {
                let tool = (super::speech::line(value.name), super::speech::line(value.version));
                if !self.toolchain.contains(&tool) && self.toolchain.len() < MAX_TOOLS {
                    self.toolchain.push(tool);
                }
            }
        }
    }

    fn manifest(&self) -> Result<&'a str> {
        if let Some((depth, _)) = self.manifests.iter().find(|(depth, _)| *depth > 0) {
            return Err(Error::invalid(format!(
                "a nested part of the component has a section \"{}\"",
                manifest::SECTION
            ))
            .fact("expected", "one manifest, at the outermost level")
            .fact("got", format!("one at level {depth}")));
        }
        let data = match self.manifests.as_slice() {
            [(_, data)] => *data,
            [] => {
                return Err(Error::invalid(format!("the component has no section \"{}\"", manifest::SECTION))
                    .hint("build the crate with \"strongroom plugin build\", which embeds plugin.toml"));
            }
            more => {
                return Err(Error::invalid(format!(
                    "the component has {} sections \"{}\"",
                    more.len(),
                    manifest::SECTION
                ))
                .fact("expected", "one manifest"));
            }
        };
        if data.len() > manifest::MAX_BYTES {
            return Err(Error::invalid("the manifest is too long")
                .fact("expected", format!("at most {}", unit::bytes(manifest::MAX_BYTES as u64)))
                .fact("got", unit::bytes(data.len() as u64)));
        }
        std::str::from_utf8(data).map_err(|e| Error::invalid("the manifest is not UTF-8").because(e))
    }
}

/// The imports by interface, each known; and the export is there.
fn imports(bytes: &[u8]) -> Result<BTreeMap<String, Import>> {
    let decoded = wit_parser::decoding::decode(bytes)
        .map_err(|e| Error::invalid("the component's interfaces cannot be read").because(format!("{e:#}")))?;
    let DecodedWasm::Component(resolve, world) = decoded else {
        return Err(Error::invalid("the file is a WIT package, not a component")
            .hint("build the crate with \"strongroom plugin build\""));
    };
    let world = &resolve.worlds[world];
    let mut imports = BTreeMap::new();
    for (key, item) in &world.imports {
        let name = super::speech::line(&resolve.name_world_key(key));
        let import = import(&resolve, key, item).ok_or_else(|| unknown_import(&name))?;
        check_known(&name, &import)?;
        imports.insert(name, import);
    }
    let wanted = format!("{PACKAGE}/component");
    let exports_component = world.exports.keys().any(|key| {
        let (package, interface, version) = split(&resolve.name_world_key(key)).unwrap_or_default();
        format!("{package}/{interface}") == wanted && is_contract_version(&version)
    });
    if !exports_component {
        let exports: Vec<_> =
            world.exports.keys().map(|key| super::speech::line(&resolve.name_world_key(key))).collect();
        return Err(Error::invalid("the component does not export the four verbs")
            .fact("expected", format!("an export \"{wanted}@{}.0\"", manifest::CONTRACT))
            .fact("got", if exports.is_empty() { "no export".to_owned() } else { exports.join(", ") }));
    }
    Ok(imports)
}

fn import(resolve: &Resolve, key: &WorldKey, item: &WorldItem) -> Option<Import> {
    let (WorldKey::Interface(_), WorldItem::Interface { id, .. }) = (key, item) else { return None };
    let (package, interface, version) = split(&resolve.name_world_key(key))?;
    let functions = resolve.interfaces[*id].functions.keys().map(|name| function_name(name)).collect();
    Some(Import { package, interface, version, functions })
}

/// `strongroom:plugin/exec@0.1.0` in its three parts.
fn split(name: &str) -> Option<(String, String, String)> {
    let (path, version) = name.split_once('@').unwrap_or((name, ""));
    let (package, interface) = path.split_once('/')?;
    Some((package.to_owned(), interface.to_owned(), version.to_owned()))
}

/// `[method]process.stdout` as people write it.
fn function_name(name: &str) -> String {
    name.rsplit(']').next().unwrap_or(name).to_owned()
}

fn is_contract_version(version: &str) -> bool {
    version.strip_prefix(manifest::CONTRACT).is_some_and(|patch| patch.starts_with('.'))
}

fn unknown_import(name: &str) -> Error {
    Error::invalid(format!("the component imports \"{name}\", which this host does not have"))
        .fact("expected", format!("interfaces of {PACKAGE}@{}.x, and those of WASI that are inert", manifest::CONTRACT))
}

fn check_known(name: &str, import: &Import) -> Result<()> {
    if !import.is_contract() {
        return if is_inert_wasi(&import.package, &import.interface) && import.version.starts_with("0.2.") {
            Ok(())
        } else {
            Err(unknown_import(name))
        };
    }
    let interface = CAPABILITIES.iter().filter(|c| c.interface == import.interface);
    if !is_contract_version(&import.version) || (interface.clone().next().is_none() && import.interface != "types") {
        return Err(unknown_import(name));
    }
    if let Some(function) = import.functions.iter().find(|f| !interface.clone().any(|c| c.function == f.as_str())) {
        return Err(unknown_import(&format!("{name}#{}", super::speech::line(function)))
            .hint("use a newer host, or a version of the plugin made for this one"));
    }
    Ok(())
}

/// An interface imported without any request for it, or a request for one that is not imported.
fn check_requests(manifest: &PluginManifest, imports: &BTreeMap<String, Import>) -> Result<()> {
    let imported =
        |interface| imports.values().any(|i| i.is_contract() && i.interface == interface && !i.functions.is_empty());
    let request = &manifest.request;
    // WASI without a request for it is inert, so that an import alone is no mistake.
    let has_files = imports.values().any(|import| import.package == WASI_FILES);
    if request.scratch.is_some() && !has_files {
        return Err(Error::invalid(format!(
            "plugin \"{}\" requests a scratch directory and does not import \"{WASI_FILES}\"",
            manifest.name
        ))
        .hint("take [request.scratch] out of plugin.toml: nobody should grant what is not used"));
    }
    let storage = request.artifacts.is_some() || !request.bucket.is_empty();
    for (interface, requested, keys) in [
        ("exec", !request.exec.is_empty(), "[[request.exec]]"),
        ("kube", !request.kube.is_empty(), "[[request.kube]]"),
        ("storage", storage, "[request.artifacts] or [[request.bucket]]"),
        ("metrics", request.metrics.is_some(), "[request.metrics]"),
    ] {
        match (imported(interface), requested) {
            (true, false) => {
                return Err(Error::invalid(format!(
                    "plugin \"{}\" imports \"{PACKAGE}/{interface}\" and its manifest requests nothing of it",
                    manifest.name
                ))
                .fact("expected", format!("{keys} in plugin.toml, with a reason"))
                .hint("the vendor has to say what the plugin wants and why; do not run it before"));
            }
            (false, true) => {
                return Err(Error::invalid(format!(
                    "plugin \"{}\" requests {keys} and does not import \"{PACKAGE}/{interface}\"",
                    manifest.name
                ))
                .hint("take the request out of plugin.toml: nobody should grant what is not used"));
            }
            _ => {}
        }
    }
    Ok(())
}
