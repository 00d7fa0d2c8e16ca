//! What `wit-bindgen` makes of `wit/`. Nothing of it is public: the modules beside this one wrap it.

#![allow(unsafe_code, missing_docs, unreachable_pub, clippy::all, clippy::pedantic, reason = "generated")]

wit_bindgen::generate!({
    path: "../wit",
    world: "plugin",
    pub_export_macro: true,
    default_bindings_module: "strongroom_plugin::bindings",
});
