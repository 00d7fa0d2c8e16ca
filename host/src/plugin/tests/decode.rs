//! Components that must not be loaded, each with the reason why.

use super::{Compiled, Grants, all_grants, rogue, rogue_dir};
use crate::error::{Kind, Result};
use crate::plugin::component::{Component, digest, embed_manifest};
use crate::plugin::manifest::SECTION;
use crate::plugin::{Cache, Plugin};
use std::borrow::Cow;
use wasm_encoder::{
    Component as Encoded, ComponentImportSection, ComponentTypeRef, ComponentTypeSection, CustomSection, InstanceType,
    NestedComponentSection,
};

pub(in crate::plugin) fn manifest() -> String {
    std::fs::read_to_string(rogue_dir().join("plugin.toml")).unwrap()
}

/// The guest's component without its manifest, which `plugin build` puts at the end.
pub(in crate::plugin) fn bare() -> Vec<u8> {
    let text = manifest();
    let embedded = embed_manifest(Vec::new(), &text);
    rogue().strip_suffix(embedded.as_slice()).expect("the manifest is the last section").to_vec()
}

#[track_caller]
fn check_refused(bytes: &[u8], kind: Kind, words: &[&str]) {
    let error = Component::decode(bytes).expect_err(words[0]);
    let text = super::in_full(&error);
    assert_eq!(error.kind(), kind, "{text}");
    for word in words {
        assert!(text.contains(word), "no {word:?} in\n{text}");
    }
}

/// Grants of one interface.
fn only(interface: &str) -> Grants {
    use crate::policy::kube::{KubeGrant, KubeVerb};
    use crate::policy::metrics::MetricsGrant;
    use crate::policy::{Effect, Verb};
    let all = all_grants();
    let when = super::when(&[Verb::Backup], Effect::Reads);
    let kube = KubeGrant {
        may: [KubeVerb::List].into(),
        kinds: ["*".to_owned()].into(),
        namespaces: Vec::new(),
        names: Vec::new(),
        labels: Default::default(),
        inspect: false,
        secret_data: false,
        when: when.clone(),
    };
    let metrics =
        MetricsGrant { prefix: Some("rogue_".to_owned()), query: Default::default(), labels: Default::default(), when };
    match interface {
        "exec" => Grants { exec: all.exec, ..Grants::default() },
        "storage" => Grants { artifacts: all.artifacts, ..Grants::default() },
        "kube" => Grants { kube: [("a".to_owned(), vec![kube])].into(), ..Grants::default() },
        _ => Grants { metrics: Some(metrics), ..Grants::default() },
    }
}

/// Whatever was checked before: what is not granted is not there to be called.
#[test]
fn the_linker_holds_the_granted_interfaces_and_no_other() {
    let (component, shared) = (Component::decode(rogue()).unwrap(), Compiled::get());
    let engine = &shared.cache.engine().unwrap();
    let compiled = shared.cache.component(engine, &component.sha256, rogue()).unwrap();
    let linked = |grants: &Grants| {
        let linker = crate::plugin::linker::for_plugin(engine, &component, grants).unwrap();
        linker.instantiate_pre(&compiled).map(drop).map_err(|error| format!("{error:#}"))
    };
    assert_eq!(linked(&all_grants()), Ok(()));
    // Asked one by one: a name that is taken already is there to be called.
    for granted in ["exec", "storage", "kube", "metrics"] {
        let grants = only(granted);
        for (interface, function) in [("exec", "run"), ("storage", "artifacts"), ("kube", "open"), ("metrics", "add")] {
            let mut linker = crate::plugin::linker::for_plugin(engine, &component, &grants).unwrap();
            let name = format!("strongroom:plugin/{interface}@0.1.0");
            let taken = linker.instance(&name).unwrap().func_wrap(function, |_, (): ()| Ok(()));
            let is_there = taken.is_err();
            assert_eq!(is_there, interface == granted, "{interface}, where only {granted} is granted");
        }
    }
    let without_exec = Grants { exec: Default::default(), ..all_grants() };
    let without_storage = Grants { artifacts: None, buckets: Default::default(), ..all_grants() };
    for (grants, interface) in [(without_exec, "exec"), (without_storage, "storage")] {
        let error = linked(&grants).unwrap_err();
        assert!(error.contains(&format!("strongroom:plugin/{interface}@")), "{error}");
    }
}

fn importing(name: &str) -> Vec<u8> {
    let mut component = Encoded::new();
    let mut types = ComponentTypeSection::new();
    types.instance(&InstanceType::new());
    component.section(&types);
    let mut imports = ComponentImportSection::new();
    imports.import(name, ComponentTypeRef::Instance(0));
    component.section(&imports);
    embed_manifest(component.finish(), &manifest())
}

#[test]
fn what_is_not_a_component_is_said_to_be_what_it_is() {
    check_refused(b"", Kind::Invalid, &["not a WebAssembly component", "an empty file"]);
    check_refused(b"#!/bin/sh\n", Kind::Invalid, &["not a WebAssembly component", "got: 23212f62"]);
    check_refused(b"\0asm\x01\0\0\0", Kind::Invalid, &["core WebAssembly module", "plugin build"]);
    check_refused(&wasm_encoder::Module::new().finish(), Kind::Invalid, &["core WebAssembly module"]);
    check_refused(&vec![0; (64 << 20) + 1], Kind::Limit, &["too large", "at most 64.0 MiB"]);
}

#[test]
fn a_truncated_component_is_refused_wherever_it_was_cut() {
    let whole = rogue();
    for at in [9, 100, whole.len() / 2, whole.len() - manifest().len(), whole.len() - 1] {
        let error = Component::decode(&whole[..at]).expect_err("cut");
        assert_eq!(error.kind(), Kind::Invalid, "{at}: {error:?}");
        assert!(error.message().contains("truncated") || error.message().contains("no section"), "{at}: {error}");
    }
}

#[test]
fn a_flipped_byte_never_panics() {
    let whole = rogue();
    for at in (0..whole.len()).step_by(997) {
        let mut bytes = whole.to_vec();
        bytes[at] ^= 0x55;
        // Some flips change a name or a constant and leave a valid component: that is the digest's business.
        let _ = Component::decode(&bytes);
    }
}

#[test]
fn the_manifest_is_there_once_and_at_the_outermost_level() {
    check_refused(&bare(), Kind::Invalid, &["no section \"strongroom:manifest\"", "plugin build"]);
    check_refused(&embed_manifest(rogue().to_vec(), &manifest()), Kind::Invalid, &["has 2 sections"]);
    let text = manifest();
    let mut inner = Encoded::new();
    inner.section(&CustomSection { name: Cow::Borrowed(SECTION), data: Cow::Borrowed(text.as_bytes()) });
    let mut outer = Encoded::new();
    outer.section(&NestedComponentSection(&inner));
    check_refused(&embed_manifest(outer.finish(), &text), Kind::Invalid, &["nested part", "one at level 1"]);
}

#[test]
fn imports_that_the_host_does_not_have_are_named() {
    for name in [
        "wasi:sockets/tcp@0.3.0",
        "wasi:keyvalue/store@0.2.0",
        "wasi:http/outgoing-handler@0.2.0",
        "wasi:cli/environment@0.3.0",
        "strongroom:plugin/files@0.1.0",
        "strongroom:plugin/exec@0.2.0",
        "evil:corp/backdoor",
    ] {
        check_refused(&importing(name), Kind::Invalid, &[&format!("imports \"{name}\""), "does not have"]);
    }
}

#[test]
fn a_component_without_the_four_verbs_is_refused() {
    check_refused(&importing("wasi:cli/stdout@0.2.0"), Kind::Invalid, &["four verbs", "no export"]);
}

#[test]
fn imports_and_requests_must_agree() {
    let cut = |from: &str, to: Option<&str>| {
        let text = manifest();
        let start = text.find(from).unwrap();
        let end = to.map_or(text.len(), |to| text.find(to).unwrap());
        embed_manifest(bare(), &format!("{}{}", &text[..start], &text[end..]))
    };
    check_refused(
        &cut("[[request.exec]]", Some("[[request.bucket]]")),
        Kind::Invalid,
        &["imports \"strongroom:plugin/exec\"", "requests nothing of it", "[[request.exec]] in plugin.toml"],
    );
    let without_storage = cut("[request.artifacts]", Some("[[request.exec]]"));
    assert!(Component::decode(&without_storage).is_ok(), "buckets are requested still");
    // The other way round: what nothing of it can use is not asked for either.
    for (request, words) in [
        ("[request.metrics]\nreason = \"x\"\nprefix = \"rogue_\"\n", "does not import \"strongroom:plugin/metrics\""),
        (
            "[[request.kube]]\nsetting = \"bucket\"\nreason = \"x\"\nmay = [\"list\"]\nkinds = [\"*\"]\nverbs = [\"backup\"]\neffect = \"reads\"\n",
            "does not import \"strongroom:plugin/kube\"",
        ),
        (
            "[request.scratch]\nreason = \"x\"\nbytes = \"1MiB\"\nverbs = [\"backup\"]\n",
            "does not import \"wasi:filesystem\"",
        ),
    ] {
        let bytes = embed_manifest(bare(), &format!("{}\n{request}", manifest()));
        check_refused(&bytes, Kind::Invalid, &["requests", words, "nobody should grant what is not used"]);
    }
}

/// A component of these sections, with a manifest, and nothing that it would be refused for before.
fn of_sections(fill: impl FnOnce(&mut Encoded)) -> Vec<u8> {
    let mut component = Encoded::new();
    fill(&mut component);
    embed_manifest(component.finish(), &manifest())
}

/// A component with this core module inside.
fn of_module(fill: impl FnOnce(&mut wasm_encoder::Module)) -> Vec<u8> {
    let mut module = wasm_encoder::Module::new();
    fill(&mut module);
    of_sections(|component| {
        component.section(&wasm_encoder::ModuleSection(&module));
    })
}

#[test]
fn every_feature_of_webassembly_that_is_left_out_is_refused() {
    use wasm_encoder::{
        FieldType, FunctionSection, HeapType, MemorySection, MemoryType, RefType, StorageType, TagKind, TagSection,
        TagType, TypeSection, ValType,
    };
    use wasmparser::{Validator, WasmFeatures};
    let memory = |memory64, shared| {
        of_module(|module| {
            let mut memories = MemorySection::new();
            memories.memory(MemoryType { minimum: 1, maximum: Some(1), memory64, shared, page_size_log2: None });
            module.section(&memories);
        })
    };
    let tag = of_module(|module| {
        let mut types = TypeSection::new();
        types.ty().function([], []);
        module.section(&types);
        let mut tags = TagSection::new();
        tags.tag(TagType { kind: TagKind::Exception, func_type_idx: 0 });
        module.section(&tags);
    });
    let structure = of_module(|module| {
        let mut types = TypeSection::new();
        types.ty().struct_([FieldType { element_type: StorageType::Val(ValType::I32), mutable: false }]);
        module.section(&types);
    });
    let typed_reference = of_module(|module| {
        let mut types = TypeSection::new();
        types.ty().function([], []);
        let reference = RefType { nullable: true, heap_type: HeapType::Concrete(0) };
        types.ty().function([ValType::Ref(reference)], []);
        module.section(&types);
        let mut functions = FunctionSection::new();
        functions.function(1);
        module.section(&functions);
        let mut code = wasm_encoder::CodeSection::new();
        let mut body = wasm_encoder::Function::new([]);
        body.instructions().end();
        code.function(&body);
        module.section(&code);
    });
    let future = of_sections(|component| {
        let mut types = ComponentTypeSection::new();
        types.defined_type().future(None);
        component.section(&types);
    });
    for (feature, words, bytes) in [
        (WasmFeatures::MEMORY64, "memory64", memory(true, false)),
        (WasmFeatures::THREADS, "threads", memory(false, true)),
        (WasmFeatures::EXCEPTIONS, "exceptions", tag),
        (WasmFeatures::GC, "gc", structure),
        (WasmFeatures::FUNCTION_REFERENCES, "function references", typed_reference),
        (WasmFeatures::CM_ASYNC, "async", future),
    ] {
        check_refused(&bytes, Kind::Invalid, &["malformed", words]);
        // It is refused for this alone, by the host: the engine's parser takes it as it comes.
        assert!(WasmFeatures::default().contains(feature), "{words} is left out by nobody else");
        let taken = Validator::new_with_features(WasmFeatures::default()).validate_all(&bytes);
        taken.map_or_else(|error| panic!("{words}: {error}"), drop);
    }
}

async fn load(sha256: &str, grants: &Grants) -> Result<Plugin> {
    Plugin::load("rogue", rogue().to_vec(), sha256, grants, &Compiled::get().cache).await
}

#[tokio::test]
async fn a_digest_that_is_not_the_approved_one_is_denied() {
    let error = load(&"0".repeat(64), &all_grants()).await.err().expect("refused");
    assert_eq!(error.kind(), Kind::Denied);
    let text = super::in_full(&error);
    assert!(text.contains("not the one that was approved") && text.contains(&digest(rogue())), "{text}");
}

#[tokio::test]
async fn an_interface_of_which_nothing_is_granted_is_refused_with_the_toml_that_is_missing() {
    let sha256 = digest(rogue());
    let error = load(&sha256, &Grants { exec: Default::default(), ..all_grants() }).await.err().expect("refused");
    let text = super::in_full(&error);
    assert_eq!(error.kind(), Kind::Denied, "{text}");
    for line in
        ["[plugin.rogue.grant.exec.echo]", "/echo\"", "args = [\"{word}\"]", "verbs = [\"backup\", \"diagnose\"]"]
    {
        assert!(text.contains(line), "no {line:?} in\n{text}");
    }
    assert!(!text.contains("grant.artifacts"), "{text}");

    let nothing = Grants { exec: all_grants().exec, ..Grants::default() };
    let text = super::in_full(&load(&sha256, &nothing).await.err().expect("refused"));
    assert!(
        text.contains("[plugin.rogue.grant.artifacts]") && text.contains("[[plugin.rogue.grant.bucket.LABEL]]"),
        "{text}"
    );
}

#[tokio::test]
async fn a_granted_command_that_is_not_requested_is_an_error_that_names_the_nearest_one() {
    let sha256 = digest(rogue());
    let mut grants = all_grants();
    let echo = grants.exec["echo"].clone();
    for (name, hint) in [("ecko", "did you mean \"echo\"?"), ("shell", "plugin approve rogue")] {
        grants.exec.insert(name.to_owned(), echo.clone());
        let error = load(&sha256, &grants).await.err().expect("refused");
        let text = super::in_full(&error);
        assert_eq!(error.kind(), Kind::Invalid, "{text}");
        for words in [
            "granted a command that it does not request",
            &format!("grant: plugin.rogue.grant.exec.{name}"),
            "requested: echo, seen, endless, watched, feed, copy",
            hint,
        ] {
            assert!(text.contains(words), "no {words:?} in\n{text}");
        }
        let component = Component::decode(rogue()).unwrap();
        let shown = crate::plugin::inspect::inspect(&component, Some(&grants)).to_string();
        assert!(shown.contains(&format!("granted, never requested: exec \"{name}\"")), "{shown}");
        grants.exec.remove(name);
    }
    load(&sha256, &grants).await.unwrap_or_else(|e| panic!("{}", super::in_full(&e)));
}

#[tokio::test]
async fn one_grant_of_an_interface_is_enough_to_load() {
    let mut grants = all_grants();
    grants.exec.retain(|name, _| name == "echo");
    grants.buckets.clear();
    load(&digest(rogue()), &grants).await.unwrap_or_else(|e| panic!("{}", super::in_full(&e)));
}

/// The guest with a component inside that imports what no plugin may.
fn with_nested(import: &str) -> Vec<u8> {
    let mut inner = Encoded::new();
    let mut types = ComponentTypeSection::new();
    types.instance(&InstanceType::new());
    inner.section(&types);
    let mut imports = ComponentImportSection::new();
    imports.import(import, ComponentTypeRef::Instance(0));
    inner.section(&imports);
    let mut section = Encoded::new();
    section.section(&NestedComponentSection(&inner));
    // Without the eight bytes that begin a component, it is a section of another one.
    let mut bytes = bare();
    bytes.extend_from_slice(&section.finish()[8..]);
    embed_manifest(bytes, &manifest())
}

#[tokio::test]
async fn imports_of_a_nested_component_reach_nothing() {
    for import in ["wasi:sockets/tcp@0.2.0", "strongroom:plugin/kube@0.1.0", "evil:corp/backdoor"] {
        let bytes = with_nested(import);
        let component = Component::decode(&bytes).unwrap_or_else(|e| panic!("{}", super::in_full(&e)));
        // Nobody instantiates it, and nothing is linked for it: what the component imports is as before.
        assert_eq!(component.imports, Component::decode(rogue()).unwrap().imports);
        let sha256 = digest(&bytes);
        Plugin::load("rogue", bytes, &sha256, &all_grants(), &Cache::none())
            .await
            .unwrap_or_else(|e| panic!("{}", super::in_full(&e)));
    }
}

#[tokio::test]
async fn bytes_that_were_revoked_or_are_not_signed_as_they_must_be_are_not_looked_into() {
    use crate::plugin::signature;
    use crate::plugin::{Approval, Trust};
    let keys = signature::generate(None).unwrap();
    let trusted = signature::TrustedKey::parse(&keys.public_line).unwrap();
    // No component at all: what is refused before it is looked into is refused for this reason.
    let bytes = b"nothing like a component".to_vec();
    let (good, _) = signature::sign(&bytes, &keys.secret, None, "c").unwrap();
    let (other, _) = signature::sign(b"other bytes", &keys.secret, None, "c").unwrap();
    let approval = |signature: Option<&String>, revoked: bool, required: bool, sha256: &str| Approval {
        sha256: sha256.to_owned(),
        signature: signature.cloned(),
        trust: Trust {
            keys: vec![trusted.clone()],
            required,
            revoked: revoked.then(|| digest(&bytes)).into_iter().collect(),
        },
    };
    let own = digest(&bytes);
    let zeros = "0".repeat(64);
    for (words, approval) in [
        ("was revoked", approval(Some(&good), true, true, &zeros)),
        ("not the one that was approved", approval(Some(&other), false, true, &zeros)),
        ("could not believe the signature", approval(Some(&other), false, false, &own)),
        ("is not signed", approval(None, false, true, &own)),
        // Only now is it looked into.
        ("not a WebAssembly component", approval(Some(&good), false, true, &own)),
    ] {
        let error = Plugin::load("x", bytes.clone(), approval, &all_grants(), &Cache::none()).await.err().expect(words);
        let text = super::in_full(&error);
        assert!(text.contains(words), "no {words:?} in\n{text}");
        let expected = if words.starts_with("not a Web") { Kind::Invalid } else { Kind::Denied };
        assert_eq!(error.kind(), expected, "{text}");
    }
}
