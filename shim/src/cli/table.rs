//! Columns as Go's tabwriter sets them for runc: at least twelve wide, three apart, the last as it is.

use std::fmt;

const WIDTH: usize = 12;
const APART: usize = 3;

/// A table with a line of names.
#[derive(Debug)]
pub struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    pub fn new(names: &[&str]) -> Self {
        Self { rows: vec![names.iter().map(|name| name.to_string()).collect()] }
    }

    pub fn row(&mut self, row: impl IntoIterator<Item = String>) {
        self.rows.push(row.into_iter().collect());
    }

    fn width(&self, column: usize) -> usize {
        let cells = self.rows.iter().filter_map(|row| row.get(column));
        let longest = cells.map(|cell| cell.chars().count() + APART).max().unwrap_or(0);
        longest.max(WIDTH)
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for row in &self.rows {
            let Some((last, others)) = row.split_last() else { continue };
            for (column, cell) in others.iter().enumerate() {
                write!(f, "{cell:<width$}", width = self.width(column))?;
            }
            writeln!(f, "{last}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_set_as_runc_sets_them() {
        let mut table = Table::new(&["ID", "BUNDLE", "OWNER"]);
        assert_eq!(table.to_string(), "ID          BUNDLE      OWNER\n");
        table.row(["c1", "/tmp/cli/b", "root"].map(String::from));
        assert_eq!(table.to_string(), "ID          BUNDLE       OWNER\nc1          /tmp/cli/b   root\n");
    }
}
