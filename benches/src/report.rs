//! Tables, in Markdown that can be read on a terminal as it is.

use std::fmt::{self, Display, Write};

/// A table; all rows have as many cells as the header.
#[derive(Debug, Clone, Default)]
pub struct Table {
    header: Vec<String>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// An empty table with these columns.
    pub fn new(header: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self { header: header.into_iter().map(Into::into).collect(), rows: Vec::new() }
    }

    /// Adds a row; missing cells are empty.
    pub fn row(&mut self, cells: impl IntoIterator<Item = impl Into<String>>) {
        let mut row: Vec<String> = cells.into_iter().map(Into::into).collect();
        row.resize(self.header.len(), String::new());
        self.rows.push(row);
    }
}

/// The first column is aligned to the left, all others to the right.
impl Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines = || std::iter::once(&self.header).chain(&self.rows);
        let widths: Vec<usize> = (0..self.header.len())
            .map(|column| lines().map(|row| row[column].chars().count()).max().unwrap_or(0).max(3))
            .collect();
        for (number, row) in lines().enumerate() {
            for (column, (cell, width)) in row.iter().zip(&widths).enumerate() {
                if column == 0 { write!(f, "| {cell:<width$} |")? } else { write!(f, " {cell:>width$} |")? }
            }
            f.write_char('\n')?;
            if number == 0 {
                for (column, width) in widths.iter().enumerate() {
                    let dashes = "-".repeat(width - 1);
                    if column == 0 { write!(f, "|:{dashes}- |")? } else { write!(f, " {dashes}:|")? }
                }
                f.write_char('\n')?;
            }
        }
        Ok(())
    }
}

/// A number with so many digits after the point, thousands apart.
pub fn number(value: f64, digits: usize) -> String {
    if !value.is_finite() {
        return "–".to_owned();
    }
    let plain = format!("{value:.digits$}");
    let (whole, fraction) = plain.split_at(plain.find('.').unwrap_or(plain.len()));
    let (sign, whole) = whole.split_at(usize::from(whole.starts_with('-')));
    let mut text = sign.to_owned();
    for (place, digit) in whole.chars().enumerate() {
        if place > 0 && (whole.len() - place) % 3 == 0 && whole.len() > 4 {
            text.push('\u{202f}');
        }
        text.push(digit);
    }
    text + fraction
}

/// A ratio, with the digits that its size deserves.
pub fn ratio(value: f64) -> String {
    number(
        value,
        if value >= 100.0 {
            0
        } else if value >= 10.0 {
            1
        } else {
            2
        },
    )
}

/// What the figures were measured on.
pub fn machine() -> String {
    let read = |path| std::fs::read_to_string(path).unwrap_or_default();
    let cpu = read("/proc/cpuinfo")
        .lines()
        .find_map(|line| {
            line.strip_prefix("model name")?.split_once(": ").map(|(_, name)| name.trim().to_owned())
        })
        .unwrap_or_else(|| "unknown CPU".to_owned());
    let kernel = read("/proc/sys/kernel/osrelease");
    let kernel = kernel.split('-').next().unwrap_or_default().trim();
    // Not `available_parallelism`: this process is pinned to one of them.
    let count = read("/proc/cpuinfo").lines().filter(|line| line.starts_with("processor")).count();
    format!("{cpu}, {count} CPUs, Linux {kernel}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let mut table = Table::new(["peer", "ns"]);
        table.row(["tokio", "1505"]);
        table.row(["mio"]);
        let expected = "| peer  |   ns |\n|:----- | ---:|\n| tokio | 1505 |\n| mio   |      |\n";
        assert_eq!(table.to_string(), expected);
    }

    #[test]
    fn thousands_are_set_apart() {
        assert_eq!(number(1234.0, 0), "1234");
        assert_eq!(number(1_234_567.25, 1), "1\u{202f}234\u{202f}567.2");
        assert_eq!(number(f64::NAN, 2), "–");
    }
}
