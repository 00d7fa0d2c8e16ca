//! strongroom-bucket
