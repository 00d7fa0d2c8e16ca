//! Text of others (plugins, programs, servers) made fit for a terminal: it cannot move the cursor,
//! set a title, hide itself or fill the screen.

use crate::plugin::speech::escape;

/// Longest text of a plugin that is shown, in bytes.
pub const MAX_BYTES: usize = crate::plugin::speech::MAX_TEXT_BYTES;

/// One line of text: control characters and what changes the direction of writing are escaped.
/// Longer than `max` bytes, it is cut and says so.
pub fn line(text: &str, max: usize) -> String {
    let mut shown = String::new();
    for (at, c) in text.trim_end().char_indices() {
        if at >= max {
            shown.push_str(&format!("… ({} more bytes)", text.trim_end().len() - at));
            break;
        }
        push(&mut shown, c);
    }
    shown
}

/// The same for text of several lines: newlines stay.
pub fn lines(text: &str) -> String {
    let mut shown = String::new();
    for c in text.chars() {
        if c == '\n' { shown.push(c) } else { push(&mut shown, c) }
    }
    shown
}

fn push(shown: &mut String, c: char) {
    shown.push_str(&escape(c));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_a_terminal_obeys_gets_through() {
        for hostile in
            ["\x1b[2J", "\x1b]0;title\x07", "a\rb", "\u{9b}31m", "a\u{202e}b", "\0", "\x08", "a\nb", "\u{2028}"]
        {
            let shown = line(hostile, MAX_BYTES);
            assert!(!shown.chars().any(char::is_control) && !shown.contains(['\u{202e}', '\u{2028}']), "{shown:?}");
        }
    }

    #[test]
    fn ordinary_text_of_any_language_stays_as_it_is() {
        for text in ["plain", "größer als 3 µm", "日本語", "🎉"] {
            assert_eq!(line(text, MAX_BYTES), text);
        }
    }

    #[test]
    fn a_long_text_is_cut_at_a_character_and_says_how_much_is_missing() {
        assert_eq!(line("ääää", 3), "ää… (4 more bytes)");
        assert!(line(&"x".repeat(1 << 20), MAX_BYTES).len() < MAX_BYTES + 40);
    }

    #[test]
    fn several_lines_stay_lines() {
        assert_eq!(lines("a\nb\x1b"), "a\nb\\u{1b}");
    }
}
