//! Generated from `wit/`. Nothing of it leaves `plugin`.

#![allow(missing_docs, unreachable_pub, clippy::all, clippy::pedantic, reason = "generated code")]

wasmtime::component::bindgen!({
    path: "../wit",
    world: "plugin",
    imports: { default: async | trappable },
    exports: { default: async },
    with: {
        "strongroom:plugin/bytes.source": crate::plugin::capability::bytes::GuestSource,
        "strongroom:plugin/bytes.sink": crate::plugin::capability::bytes::GuestSink,
        "strongroom:plugin/exec.process": crate::plugin::capability::exec::GuestProcess,
        "strongroom:plugin/kube.cluster": crate::plugin::capability::kube::GuestCluster,
        "strongroom:plugin/kube.listing": crate::plugin::capability::kube::GuestListing,
        "strongroom:plugin/storage.transfer": crate::plugin::capability::storage::GuestTransfer,
        "strongroom:plugin/storage.archive": crate::plugin::capability::storage::GuestArchive,
        "strongroom:plugin/storage.archive-reader": crate::plugin::capability::storage::GuestArchiveReader,
        "strongroom:plugin/storage.bucket": crate::plugin::capability::storage::GuestBucket,
        "strongroom:plugin/storage.writing": crate::plugin::capability::storage::GuestWriting,
    },
    trappable_error_type: { "strongroom:plugin/types.error" => crate::plugin::guard::Refusal },
    require_store_data_send: true,
});
