//! What a guest says is data: cut, escaped, and never taken for the host's own words.

/// Longest text of a guest that is passed on, in bytes.
pub const MAX_TEXT_BYTES: usize = 1024;

/// A guest's text for one line: control characters escaped, cut at 1 KiB.
///
/// Characters that change the direction or the look of what surrounds them are escaped too, so
/// that a message cannot rewrite the line it is shown in.
pub fn line(text: &str) -> String {
    let mut shown = String::new();
    for c in text.chars() {
        let piece = escape(c);
        if shown.len() + piece.len() > MAX_TEXT_BYTES {
            shown.push('…');
            break;
        }
        shown.push_str(&piece);
    }
    shown
}

/// A text for one line that is not cut: for what somebody decides on, of which no part may be hidden
/// behind the rest.
pub fn whole(text: &str) -> String {
    text.chars().map(escape).collect()
}

/// At most `max` texts, each as [`line()`].
pub fn lines(texts: Vec<String>, max: usize) -> Vec<String> {
    texts.into_iter().take(max).map(|text| line(&text)).collect()
}

/// One character as it may be shown: itself, or its escape where a terminal would obey it, or where it
/// changes the look of what surrounds it. The one place that decides this.
pub fn escape(c: char) -> String {
    if is_harmless(c) { c.to_string() } else { c.escape_unicode().to_string() }
}

/// Whether a character changes nothing but its own place: no control character, no mark that turns the
/// direction of writing, hides or joins.
pub fn is_harmless(c: char) -> bool {
    !c.is_control()
        && c != '\u{061c}'
        && !matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{e0000}'..='\u{e007f}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_and_direction_characters_are_escaped() {
        assert_eq!(line("a\x1b[2Jb\nc\u{202e}d"), "a\\u{1b}[2Jb\\u{a}c\\u{202e}d");
        assert_eq!(line("größe 5 µs"), "größe 5 µs");
    }

    #[test]
    fn long_text_is_cut_at_one_kibibyte() {
        let shown = line(&"ä".repeat(5000));
        assert!(shown.len() <= MAX_TEXT_BYTES + '…'.len_utf8());
        assert!(shown.ends_with('…'));
    }
}
