//! strongroom-postgres
