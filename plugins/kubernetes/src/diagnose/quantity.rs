//! Quantities of resources, such as `500m`, `2Gi`, `1e3`. Pure.

/// What one binary unit is of the one below it.
const BINARY: f64 = 1_024.0;

/// The value of a quantity; `None` for what is none.
pub(super) fn parse(text: &str) -> Option<f64> {
    let end = text.find(|c: char| c.is_ascii_alphabetic() && !matches!(c, 'e' | 'E')).unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    // `1E` is an exa-one, `1E3` a thousand.
    let (number, unit) = match number.strip_suffix('E') {
        Some(number) if unit.is_empty() || unit == "i" => (number, if unit.is_empty() { "E" } else { "Ei" }),
        _ => (number, unit),
    };
    let factor = match unit {
        "" => 1.0,
        "n" => 1e-9,
        "u" => 1e-6,
        "m" => 1e-3,
        "k" => 1e3,
        "M" => 1e6,
        "G" => 1e9,
        "T" => 1e12,
        "P" => 1e15,
        "E" => 1e18,
        "Ki" => BINARY.powi(1),
        "Mi" => BINARY.powi(2),
        "Gi" => BINARY.powi(3),
        "Ti" => BINARY.powi(4),
        "Pi" => BINARY.powi(5),
        "Ei" => BINARY.powi(6),
        _ => return None,
    };
    let number: f64 = number.parse().ok()?;
    (number.is_finite() && number >= 0.0).then_some(number * factor)
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn quantities_are_read_with_their_units() {
        for (text, value) in [
            ("0", 0.0),
            ("12", 12.0),
            ("0.5", 0.5),
            ("500m", 0.5),
            ("2k", 2e3),
            ("1Gi", 1_073_741_824.0),
            ("1e3", 1e3),
            ("1E3", 1e3),
            ("1E", 1e18),
            ("1Ei", 1_024_f64.powi(6)),
        ] {
            assert_eq!(parse(text), Some(value), "{text}");
        }
        for wrong in ["", "x", "1x", "Gi", "-1", "1 Gi", "inf", "nan"] {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
    }
}
