//! A report as JSON, for machines. The keys are a format: they are only ever added to. Pure.

use serde_json::{Map, Value, json};

use super::report::{Aim, Better, Figure, Kind, Report, Row, Table};

pub fn of(report: &Report) -> Value {
    let machine: Map<String, Value> =
        report.machine.iter().map(|(what, which)| ((*what).to_owned(), json!(which))).collect();
    json!({ "version": 1, "machine": machine, "tables": report.tables.iter().map(table).collect::<Vec<_>>() })
}

fn table(table: &Table) -> Value {
    json!({
        "id": table.id,
        "title": table.title,
        "unit": table.unit,
        "better": match table.better { Better::Less => "less", Better::More => "more" },
        "rows": table.rows.iter().map(row).collect::<Vec<_>>(),
        "notes": table.notes,
    })
}

fn row(row: &Row) -> Value {
    let mut value = json!({
        "name": row.name,
        "kind": match row.kind { Kind::Reference => "reference", Kind::Floor => "floor", Kind::Ours => "ours" },
    });
    match &row.figure {
        Figure::Missing(reason) => value["not_available"] = json!(reason),
        Figure::Measured { spread, ratio, verdict } => {
            value["median"] = json!(spread.median);
            value["min"] = json!(spread.min);
            value["max"] = json!(spread.max);
            value["samples"] = json!(spread.count);
            value["ratio"] = json!(ratio);
            value["aim"] = match verdict {
                None => Value::Null,
                Some(verdict) => {
                    let (of, most) = match verdict.aim {
                        Aim::Ratio(most) => ("ratio", most),
                        Aim::Value(most) => ("value", most),
                    };
                    json!({ "of": of, "at_most": most, "met": verdict.kept })
                }
            };
        }
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_and_gaps_are_both_told() {
        let mut first = Table::new("start", "t", "ms", 0);
        first.reference("runc", &[100.0]);
        first.ours("cold", &[700.0, 900.0], Some(Aim::Ratio(8.0)));
        first.missing(Kind::Floor, "clone by hand", "no");
        let report = Report { machine: vec![("cpus", "2".into())], tables: vec![first] };
        let value = of(&report);
        assert_eq!(value["machine"]["cpus"], "2");
        let rows = &value["tables"][0]["rows"];
        assert_eq!(rows[1]["median"], 800.0);
        assert_eq!(rows[1]["aim"], json!({ "of": "ratio", "at_most": 8.0, "met": true }));
        assert_eq!(rows[2], json!({ "name": "clone by hand", "kind": "floor", "not_available": "no" }));
    }
}
