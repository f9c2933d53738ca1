//! What commands print: tables for people, JSON and YAML for scripts.

use std::io::Write;

use clap::{Args, ValueEnum};
use serde::Serialize;

/// How results are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum Format {
    /// Columns for people.
    #[default]
    Table,
    /// One JSON document.
    Json,
    /// One YAML document.
    Yaml,
}

/// The flag for it.
#[derive(Debug, Args)]
pub struct OutputArgs {
    /// How results are printed
    #[arg(long, short, value_enum, default_value = "table")]
    output: Format,
}

/// Rows under headings.
#[derive(Debug)]
pub struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    /// An empty one.
    pub fn new(headings: &[&str]) -> Self {
        Self { rows: vec![headings.iter().map(|heading| (*heading).to_owned()).collect()] }
    }

    /// Adds a row, with a cell for each heading.
    pub fn row(&mut self, cells: Vec<String>) {
        self.rows.push(cells);
    }

    /// Columns as wide as their widest cell, three spaces between them.
    fn render(&self) -> String {
        let columns = self.rows[0].len();
        let widths: Vec<usize> = (0..columns)
            .map(|column| self.rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0))
            .collect();
        let line = |row: &Vec<String>| {
            let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
            cells.collect::<Vec<_>>().join("   ").trim_end().to_owned() + "\n"
        };
        self.rows.iter().map(line).collect()
    }
}

impl OutputArgs {
    /// Prints `data` in the form asked for; as a table, `table` of it.
    pub fn print<T: Serialize>(&self, data: &T, table: impl FnOnce() -> Table) -> super::super::Outcome {
        let text = match self.output {
            Format::Table => table().render(),
            Format::Json => serde_json::to_string_pretty(data)? + "\n",
            Format::Yaml => serde_saphyr::to_string(data)?,
        };
        std::io::stdout().write_all(text.as_bytes())?;
        Ok(())
    }
}

/// Bytes as people read them.
pub fn human(bytes: u64) -> String {
    indicatif::BinaryBytes(bytes).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let mut table = Table::new(&["NAME", "SIZE"]);
        table.row(vec!["backup-1".into(), "2 MiB".into()]);
        table.row(vec!["b".into(), String::new()]);
        assert_eq!(table.render(), "NAME       SIZE\nbackup-1   2 MiB\nb\n");
    }
}
