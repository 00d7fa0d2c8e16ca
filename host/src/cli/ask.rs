//! Questions on a terminal.

use crate::error::{IoContext, Result};
use std::io::{IsTerminal, Write};

/// Whether somebody is there who can be asked.
pub(super) fn is_possible() -> bool {
    std::io::stdin().is_terminal() && std::io::stderr().is_terminal()
}

/// Asks, and returns whether the answer was yes; anything else is no.
pub(super) fn yes(question: &str) -> Result<bool> {
    Ok(matches!(answer(&format!("{question} [y/N]"))?.as_str(), "y" | "Y" | "yes"))
}

/// Asks, and returns the line that was typed, without spaces around it.
pub(super) fn answer(question: &str) -> Result<String> {
    let mut err = std::io::stderr().lock();
    let mut answer = String::new();
    write!(err, "{question} ")
        .and_then(|()| err.flush())
        .and_then(|()| std::io::stdin().read_line(&mut answer))
        .doing(|| "ask on the terminal".to_owned())?;
    Ok(answer.trim().to_owned())
}
