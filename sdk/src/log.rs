//! Log lines of the run: fields first, then the text.
//!
//! ```no_run
//! # use strongroom_plugin::log;
//! # let (name, tables) = ("shop", 3);
//! log::info!(database = name, tables, "dumped");
//! log::warn!("{tables} tables could not be counted");
//! ```

use crate::bindings::strongroom::plugin::run as wit;
use std::fmt;

/// How serious a line is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// For the plugin's developer.
    Debug,
    /// A step of note.
    Info,
    /// Something was recovered from.
    Warn,
    /// Something is missing or damaged.
    Error,
}

/// One line; the macros of this module are shorter.
pub fn line(level: Level, message: fmt::Arguments<'_>, fields: &[(&str, String)]) {
    let level = match level {
        Level::Debug => wit::Level::Debug,
        Level::Info => wit::Level::Info,
        Level::Warn => wit::Level::Warn,
        Level::Error => wit::Level::Error,
    };
    let fields: Vec<(String, String)> = fields.iter().map(|(key, value)| ((*key).to_owned(), value.clone())).collect();
    wit::log(level, &message.to_string(), &fields);
}

/// For the macros below.
#[doc(hidden)]
#[macro_export]
macro_rules! __log {
    (@fields [$($done:tt)*] $level:ident, $key:ident = $value:expr, $($rest:tt)+) => {
        $crate::__log!(@fields [$($done)* (stringify!($key), ::std::string::ToString::to_string(&$value)),] $level, $($rest)+)
    };
    (@fields [$($done:tt)*] $level:ident, $key:ident, $($rest:tt)+) => {
        $crate::__log!(@fields [$($done)* (stringify!($key), ::std::string::ToString::to_string(&$key)),] $level, $($rest)+)
    };
    (@fields [$($done:tt)*] $level:ident, $($format:tt)+) => {
        $crate::log::line($crate::log::Level::$level, format_args!($($format)+), &[$($done)*])
    };
}

/// A line for the plugin's developer.
#[doc(hidden)]
#[macro_export]
macro_rules! __log_debug { ($($line:tt)+) => { $crate::__log!(@fields [] Debug, $($line)+) }; }

/// A step of note.
#[doc(hidden)]
#[macro_export]
macro_rules! __log_info { ($($line:tt)+) => { $crate::__log!(@fields [] Info, $($line)+) }; }

/// Something was recovered from.
#[doc(hidden)]
#[macro_export]
macro_rules! __log_warn { ($($line:tt)+) => { $crate::__log!(@fields [] Warn, $($line)+) }; }

/// Something is missing or damaged.
#[doc(hidden)]
#[macro_export]
macro_rules! __log_error { ($($line:tt)+) => { $crate::__log!(@fields [] Error, $($line)+) }; }

#[doc(inline)]
pub use {
    crate::__log_debug as debug, crate::__log_error as error, crate::__log_info as info, crate::__log_warn as warn,
};
