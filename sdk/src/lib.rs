//! strongroom-plugin
