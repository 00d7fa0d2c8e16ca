//! Aligned tables for people.

use super::vendor;

/// Where the text of a column stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Align {
    /// At the left: names.
    Left,
    /// At the right: numbers.
    Right,
}

/// A table with a heading line. Cells are escaped when they are added.
#[derive(Clone, Debug)]
pub struct Table {
    columns: Vec<(&'static str, Align)>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with these columns.
    pub fn new(columns: &[(&'static str, Align)]) -> Self {
        Self { columns: columns.to_vec(), rows: Vec::new() }
    }

    /// Adds a row; missing cells are empty, further ones are left out.
    pub fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        let mut cells: Vec<_> = cells.into_iter().map(|cell| vendor::line(&cell, vendor::MAX_BYTES)).collect();
        cells.resize(self.columns.len(), String::new());
        self.rows.push(cells);
    }

    /// The text, one line each, two spaces between columns, none at the ends of lines.
    pub fn render(&self) -> String {
        let width = |column: usize| {
            let cells = self.rows.iter().map(|row| row[column].chars().count());
            cells.chain([self.columns[column].0.chars().count()]).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..self.columns.len()).map(width).collect();
        let heading: Vec<String> = self.columns.iter().map(|(name, _)| (*name).to_owned()).collect();
        let mut text = String::new();
        for row in std::iter::once(&heading).chain(&self.rows) {
            let mut line = String::new();
            for ((cell, (_, align)), width) in row.iter().zip(&self.columns).zip(&widths) {
                let padding = " ".repeat(width - cell.chars().count());
                match align {
                    Align::Left => line.extend([cell, padding.as_str(), "  "]),
                    Align::Right => line.extend([padding.as_str(), cell, "  "]),
                }
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }
}

/// Lines of `name: value` with the values below one another, each line after `indent`.
pub fn pairs<'a>(pairs: impl IntoIterator<Item = (&'a str, String)>, indent: &str) -> String {
    let pairs: Vec<_> = pairs.into_iter().map(|(name, value)| (vendor::line(name, 64), value)).collect();
    let width = pairs.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
    pairs.iter().fold(String::new(), |mut text, (name, value)| {
        let padding = " ".repeat(width - name.chars().count());
        let value = vendor::lines(value).replace('\n', &format!("\n{indent}{}", " ".repeat(width + 2)));
        text.push_str(&format!("{indent}{name}:{padding} {value}\n"));
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_lines_end_without_spaces() {
        let mut table = Table::new(&[("NAME", Align::Left), ("SIZE", Align::Right), ("NOTE", Align::Left)]);
        table.row(["a".to_owned(), "9 B".to_owned(), String::new()]);
        table.row(["größer".to_owned(), "1.0 KiB".to_owned(), "\x1b[31m".to_owned()]);
        assert_eq!(table.render(), "NAME       SIZE  NOTE\na           9 B\ngrößer  1.0 KiB  \\u{1b}[31m\n");
    }

    #[test]
    fn values_stand_below_one_another_and_go_on_in_their_column() {
        assert_eq!(
            pairs([("got", "a\nb".to_owned()), ("expected", "c".to_owned())], "  "),
            "  got:      a\n            b\n  expected: c\n"
        );
    }
}
