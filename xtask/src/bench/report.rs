//! The table for people: on the terminal line by line, and as Markdown between two marks of a page.

use super::rows::ROWS;
use super::table::{Cell, Finding, RATIO, Table};
use anyhow::{Context, Result};

/// Begins the part of the page that is written by the benchmark.
pub const BEGIN: &str = "<!-- made by cargo xtask bench --save -->";
/// Ends it.
pub const END: &str = "<!-- end -->";

/// A cell for the terminal.
pub fn line(cell: &Cell) -> String {
    format!(
        "{:<10} {:<14} {:>5}  {:<20} {:>6.0} MB/s  {:>5.2} CPU-s/GiB  {:>4.0} MiB  {:>6.1} MB stored",
        cell.place,
        cell.input.name(),
        level(cell),
        cell.contender.name(),
        cell.mb_per_s,
        cell.cpu_s_per_gib,
        cell.peak_mib,
        super::table::float(cell.stored_bytes) / 1e6,
    )
}

/// A finding for the terminal.
pub fn finding(finding: &Finding) -> String {
    format!("{}: {}{}", finding.what, number(finding.value, &finding.unit), verdict(finding))
}

fn verdict(finding: &Finding) -> String {
    match (finding.goal, finding.is_met()) {
        (Some(goal), Some(met)) => {
            let goal = number(goal, &finding.unit);
            format!(" (goal {goal}: {})", if met { "met" } else { "NOT MET" })
        }
        _ => String::new(),
    }
}

fn number(value: f64, unit: &str) -> String {
    match unit {
        RATIO => format!("{value:.2} x"),
        "CPU-s/GiB" => format!("{value:.2} {unit}"),
        "MiB" => format!("{value:.1} {unit}"),
        "/s" => format!("{value:.0} a second"),
        "µs" => format!("{value:.1} {unit}"),
        _ => format!("{value:.0} {unit}"),
    }
}

fn level(cell: &Cell) -> String {
    cell.level.map_or_else(|| "own".to_owned(), |level| level.to_string())
}

/// The whole table as Markdown.
pub fn markdown(table: &Table) -> String {
    let mut text = String::new();
    text.push_str("| | |\n| --- | --- |\n");
    for (name, value) in &table.about {
        text.push_str(&format!("| {name} | {value} |\n"));
    }
    text.push_str("\n### Goals\n\n| | figure | goal | |\n| --- | --- | --- | --- |\n");
    for finding in table.findings.iter().filter(|finding| finding.goal.is_some()) {
        let met = if finding.is_met() == Some(true) { "met" } else { "**not met**" };
        let goal = finding.goal.map(|goal| number(goal, &finding.unit)).unwrap_or_default();
        text.push_str(&format!("| {} | {} | {goal} | {met} |\n", finding.what, number(finding.value, &finding.unit)));
    }
    for row in ROWS {
        section(&mut text, table, row.name, row.what);
    }
    text
}

fn section(text: &mut String, table: &Table, row: &str, what: &str) {
    let cells: Vec<_> = table.cells.iter().filter(|cell| cell.row == row).collect();
    let others: Vec<_> =
        table.findings.iter().filter(|finding| finding.row() == row && finding.goal.is_none()).collect();
    if cells.is_empty() && others.is_empty() {
        return;
    }
    text.push_str(&format!("\n### {what}\n"));
    if !cells.is_empty() {
        text.push_str("\n| to or from | input | level | contender | MB/s | CPU-s/GiB | peak MiB | stored MB |\n");
        text.push_str("| --- | --- | --- | --- | --- | --- | --- | --- |\n");
    }
    for cell in cells {
        // A bar would begin a new column.
        let contender = cell.contender.name().replace('|', "\\|");
        text.push_str(&format!(
            "| {} | {} | {} | {contender} | {:.0} | {:.2} | {:.0} | {:.1} |\n",
            cell.place,
            cell.input.name(),
            level(cell),
            cell.mb_per_s,
            cell.cpu_s_per_gib,
            cell.peak_mib,
            super::table::float(cell.stored_bytes) / 1e6,
        ));
    }
    if !others.is_empty() {
        text.push_str("\n| beside the goals | figure |\n| --- | --- |\n");
    }
    for finding in others {
        let what = finding.what.replace('|', "\\|");
        text.push_str(&format!("| {what} | {} |\n", number(finding.value, &finding.unit)));
    }
}

/// The page with the part between the marks replaced.
pub fn replace(page: &str, part: &str) -> Result<String> {
    let (before, rest) = page.split_once(BEGIN).with_context(|| format!("the page has no \"{BEGIN}\""))?;
    let (_, after) = rest.split_once(END).with_context(|| format!("the page has no \"{END}\""))?;
    Ok(format!("{before}{BEGIN}\n\n{}\n\n{END}{after}", part.trim_end()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::table::tests::table;

    #[test]
    fn a_page_shows_goals_with_figures_and_whether_they_are_met() {
        let text = markdown(&table());
        for line in [
            "| restic | 0.19.1 |",
            "| what s3/mixed/2/best is | 1.80 x | 1.70 x | met |",
            "| what start/list is | 60.00 x | 50.00 x | **not met** |",
            "### Backup to S3 (the sink)",
            "| sink | mixed | 2 | strongroom | 537 | 4.00 | 60 | 500.0 |",
            "| sink | mixed | own | restic | 537 | 4.00 | 60 | 500.0 |",
        ] {
            assert!(text.lines().any(|found| found == line), "no line {line:?} in\n{text}");
        }
    }

    #[test]
    fn only_what_is_between_the_marks_is_replaced() {
        let page = format!("reasons\n{BEGIN}\nold\n{END}\nmore reasons\n");
        let new = replace(&page, "new\n").unwrap();
        assert_eq!(new, format!("reasons\n{BEGIN}\n\nnew\n\n{END}\nmore reasons\n"));
        assert_eq!(replace(&new, "new\n").unwrap(), new);
        assert!(replace("no marks", "new").is_err());
    }

    #[test]
    fn a_line_for_the_terminal_says_what_was_measured() {
        let table = table();
        assert!(line(&table.cells[0]).contains("strongroom"));
        assert_eq!(finding(&table.findings[1]), "what start/list is: 60.00 x (goal 50.00 x: NOT MET)");
    }
}
