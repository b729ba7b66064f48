//! Figures of each channel, as a table for people and as JSON in the keys of the other benches. Pure.

use std::fmt;

use serde_json::{Value, json};

/// One thing that is measured, of each channel.
pub struct Figure {
    id: String,
    title: String,
    unit: &'static str,
    pub rows: Vec<Row>,
}

/// What was measured of one channel.
pub struct Row {
    name: &'static str,
    missing: Option<&'static str>,
    pub samples: Vec<f64>,
}

impl Row {
    pub fn new(name: &'static str) -> Self {
        Self { name, missing: None, samples: Vec::new() }
    }

    /// A channel that is not to be had here.
    pub fn missing(name: &'static str, why: &'static str) -> Self {
        Self { missing: Some(why), ..Self::new(name) }
    }

    /// Lowest, median, 99th percentile and highest; `None` without samples.
    fn spread(&self) -> Option<[f64; 4]> {
        let mut sorted = self.samples.clone();
        sorted.sort_by(f64::total_cmp);
        let last = sorted.len().checked_sub(1)?;
        let at = |part: f64| sorted[(last as f64 * part).round() as usize];
        Some([at(0.0), at(0.5), at(0.99), at(1.0)])
    }
}

impl Figure {
    pub fn new(id: impl Into<String>, title: impl Into<String>, unit: &'static str) -> Self {
        Self { id: id.into(), title: title.into(), unit, rows: Vec::new() }
    }

    /// The row of a channel, which there is.
    pub fn row(&mut self, name: &str) -> &mut Row {
        self.rows.iter_mut().find(|row| row.name == name).expect("every channel has a row")
    }

    /// Of many round trips the slow ones tell more than the slowest.
    fn is_latency(&self) -> bool {
        self.unit == "µs"
    }
}

impl fmt::Display for Figure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let last = if self.is_latency() { "99 %" } else { "max" };
        writeln!(f, "| {}, {} | median | min | {last} |\n|---|---:|---:|---:|", self.title, self.unit)?;
        for row in &self.rows {
            match (row.spread(), row.missing) {
                (Some([min, median, p99, max]), _) => {
                    let last = if self.is_latency() { p99 } else { max };
                    writeln!(f, "| {} | {median:.0} | {min:.0} | {last:.0} |", row.name)?;
                }
                (None, why) => {
                    writeln!(f, "| {} | not available: {} | | |", row.name, why.unwrap_or("not measured"))?;
                }
            }
        }
        Ok(())
    }
}

pub fn json(figures: &[Figure]) -> Value {
    let row = |row: &Row| match row.spread() {
        Some([min, median, p99, max]) => json!({
            "name": row.name, "kind": "ours",
            "median": median, "min": min, "max": max, "p99": p99, "samples": row.samples.len(),
        }),
        None => {
            let why = row.missing.unwrap_or("not measured");
            json!({ "name": row.name, "kind": "ours", "not_available": why })
        }
    };
    let table = |figure: &Figure| {
        json!({
            "id": figure.id,
            "title": figure.title,
            "unit": figure.unit,
            "better": if figure.is_latency() { "less" } else { "more" },
            "rows": figure.rows.iter().map(row).collect::<Vec<_>>(),
        })
    };
    json!({ "version": 1, "tables": figures.iter().map(table).collect::<Vec<_>>() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_and_gaps_are_both_told() {
        let mut figure = Figure::new("rt", "round trip", "µs");
        figure.rows = vec![Row::new("serial"), Row::missing("vsock", "none here")];
        figure.row("serial").samples = (0..=200).rev().map(f64::from).collect();
        let text = figure.to_string();
        assert!(text.contains("| serial | 100 | 0 | 198 |"), "{text}");
        assert!(text.contains("| vsock | not available: none here | | |"), "{text}");
        let value = json(&[figure]);
        assert_eq!(value["tables"][0]["rows"][0]["max"], 200.0);
        assert_eq!(value["tables"][0]["rows"][1]["not_available"], "none here");
    }
}
