//! Figures as they are reported: tables of rows, each beside its reference and its aim. Pure.

use std::fmt::{self, Write as _};

use super::stats::Spread;

/// Everything that one call of the bench found out.
#[derive(Debug, Default)]
pub struct Report {
    /// What was measured on: (what, which).
    pub machine: Vec<(&'static str, String)>,
    pub tables: Vec<Table>,
}

/// Figures of one kind and unit.
#[derive(Debug)]
pub struct Table {
    /// Good as a file name.
    pub id: String,
    pub title: String,
    pub unit: &'static str,
    pub digits: usize,
    pub better: Better,
    pub rows: Vec<Row>,
    pub notes: Vec<String>,
    /// The median that the others are compared with.
    reference: Option<f64>,
}

/// Which way is good.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Better {
    Less,
    More,
}

#[derive(Debug)]
pub struct Row {
    pub name: String,
    pub kind: Kind,
    pub figure: Figure,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Kind {
    /// What the others are compared with: runc.
    Reference,
    /// QEMU driven by hand: what nobody gets below with this kernel.
    Floor,
    Ours,
}

#[derive(Debug)]
pub enum Figure {
    Measured {
        spread: Spread,
        ratio: Option<f64>,
        verdict: Option<Verdict>,
    },
    /// Why there is none.
    Missing(String),
}

/// What a figure should be.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Aim {
    Ratio(f64),
    Value(f64),
}

/// An aim and whether it was met.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Verdict {
    pub aim: Aim,
    pub kept: bool,
}

impl Table {
    pub fn new(id: impl Into<String>, title: impl Into<String>, unit: &'static str, digits: usize) -> Self {
        Self {
            id: id.into(),
            title: title.into(),
            unit,
            digits,
            better: Better::Less,
            rows: Vec::new(),
            notes: Vec::new(),
            reference: None,
        }
    }

    /// Adds the row that later ones are compared with.
    pub fn reference(&mut self, name: &str, samples: &[f64]) {
        self.reference = Spread::of(samples).map(|spread| spread.median).filter(|median| *median > 0.0);
        self.add(Kind::Reference, name, samples, None);
    }

    pub fn ours(&mut self, name: &str, samples: &[f64], aim: Option<Aim>) {
        self.add(Kind::Ours, name, samples, aim);
    }

    pub fn floor(&mut self, name: &str, samples: &[f64]) {
        self.add(Kind::Floor, name, samples, None);
    }

    pub fn missing(&mut self, kind: Kind, name: &str, reason: impl Into<String>) {
        self.rows.push(Row { name: name.into(), kind, figure: Figure::Missing(reason.into()) });
    }

    pub fn note(&mut self, text: impl Into<String>) {
        self.notes.push(text.into());
    }

    /// What an aim allows in this table's unit.
    pub fn allowed(&self, aim: Aim) -> Option<f64> {
        match (aim, self.better) {
            (Aim::Value(value), _) => Some(value),
            (Aim::Ratio(ratio), Better::Less) => Some(self.reference? * ratio),
            (Aim::Ratio(ratio), Better::More) => Some(self.reference? / ratio),
        }
    }

    /// Adds a row; compared if there is a reference.
    pub fn add(&mut self, kind: Kind, name: &str, samples: &[f64], aim: Option<Aim>) {
        let Some(spread) = Spread::of(samples) else {
            return self.missing(kind, name, "nothing was measured");
        };
        let ratio = self.reference.filter(|_| kind != Kind::Reference).map(|reference| match self.better {
            Better::Less => spread.median / reference,
            Better::More => reference / spread.median,
        });
        let verdict = aim.and_then(|aim| {
            let (found, most) = match aim {
                Aim::Ratio(most) => (ratio?, most),
                Aim::Value(most) => (spread.median, most),
            };
            Some(Verdict { aim, kept: found <= most })
        });
        self.rows.push(Row { name: name.into(), kind, figure: Figure::Measured { spread, ratio, verdict } });
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = if self.kept { "met" } else { "MISSED" };
        match self.aim {
            Aim::Ratio(most) => write!(f, "≤ {} ×: {word}", (most * 100.0).round() / 100.0),
            Aim::Value(most) => write!(f, "≤ {most}: {word}"),
        }
    }
}

impl fmt::Display for Table {
    /// As Markdown. Columns that would be empty are left out.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let measured = || {
            self.rows.iter().filter_map(|row| match &row.figure {
                Figure::Measured { ratio, verdict, .. } => Some((ratio, verdict)),
                Figure::Missing(_) => None,
            })
        };
        let (ratios, aims) =
            (measured().any(|(ratio, _)| ratio.is_some()), measured().any(|(_, aim)| aim.is_some()));
        let mut head = format!("| {}, {} | median | min | max |", self.title, self.unit);
        if ratios {
            let _ = write!(
                head,
                " to {} |",
                self.rows.iter().find(|row| row.kind == Kind::Reference).map_or("runc", |row| &row.name)
            );
        }
        if aims {
            head.push_str(" aim |");
        }
        let columns = head.matches('|').count() - 1;
        writeln!(f, "{head}\n|{}", "---|".repeat(columns))?;
        let digits = self.digits;
        for row in &self.rows {
            match &row.figure {
                Figure::Missing(reason) => {
                    let reason = reason.replace('|', "/").replace('\n', " ");
                    writeln!(f, "| {} | not available: {reason} |{}", row.name, " |".repeat(columns - 2))?;
                }
                Figure::Measured { spread: Spread { median, min, max, .. }, ratio, verdict } => {
                    let mut line =
                        format!("| {} | {median:.digits$} | {min:.digits$} | {max:.digits$} |", row.name);
                    if ratios {
                        let ratio = ratio.map_or(String::new(), |ratio| format!("{ratio:.2}"));
                        write!(line, " {ratio} |")?;
                    }
                    if aims {
                        let verdict = verdict.map_or(String::new(), |verdict| verdict.to_string());
                        write!(line, " {verdict} |")?;
                    }
                    writeln!(f, "{line}")?;
                }
            }
        }
        for note in &self.notes {
            writeln!(f, "\n{note}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_compares_with_its_reference_and_judges() {
        let mut table = Table::new("start", "`ctr run`", "ms", 0);
        table.reference("runc", &[90.0, 100.0, 110.0]);
        table.ours("cold", &[900.0], Some(Aim::Ratio(8.0)));
        table.ours("clone", &[250.0], Some(Aim::Ratio(2.5)));
        table.missing(Kind::Ours, "pool", "no program\nkata-runtime|x");
        let expected = "| `ctr run`, ms | median | min | max | to runc | aim |\n\
            |---|---|---|---|---|---|\n\
            | runc | 100 | 90 | 110 |  |  |\n\
            | cold | 900 | 900 | 900 | 9.00 | ≤ 8 ×: MISSED |\n\
            | clone | 250 | 250 | 250 | 2.50 | ≤ 2.5 ×: met |\n\
            | pool | not available: no program kata-runtime/x | | | | |\n";
        assert_eq!(table.to_string(), expected);
        assert_eq!(table.allowed(Aim::Ratio(8.0)), Some(800.0));
    }

    #[test]
    fn where_more_is_better_the_ratio_is_turned_round() {
        let mut table = Table::new("rate", "starts", "1/s", 1);
        table.better = Better::More;
        table.reference("runc", &[20.0]);
        table.ours("clone", &[5.0], Some(Aim::Ratio(2.0)));
        let Figure::Measured { ratio, verdict, .. } = &table.rows[1].figure else { panic!() };
        assert_eq!((*ratio, verdict.unwrap().kept), (Some(4.0), false));
    }

    #[test]
    fn no_samples_are_no_figure() {
        let mut table = Table::new("x", "x", "ms", 0);
        table.reference("runc", &[]);
        table.ours("cold", &[1.0], Some(Aim::Ratio(1.0)));
        assert!(matches!(table.rows[0].figure, Figure::Missing(_)));
        assert!(matches!(table.rows[1].figure, Figure::Measured { ratio: None, verdict: None, .. }));
    }
}
