//! Where a report goes: a terminal, a file of JSON, a folder with charts and the tables.

use std::{fmt::Write as _, fs, path::Path};

use anyhow::{Context, Result};

use super::{
    chart, json,
    report::{Report, Table},
};

pub fn print_machine(machine: &[(&'static str, String)]) {
    print!("{}", machine_table(machine));
}

pub fn print(table: &Table) {
    println!("\n{table}");
}

pub fn write_json(report: &Report, path: &Path) -> Result<()> {
    fs::write(path, format!("{:#}\n", json::of(report))).with_context(|| format!("write {}", path.display()))
}

/// One SVG for each table, and `figures.md` that shows them all. Charts of tables that were not measured stay.
pub fn write_charts(report: &Report, dir: &Path) -> Result<()> {
    fs::create_dir_all(dir).with_context(|| format!("create {}", dir.display()))?;
    let mut page = format!(
        "# Figures\n\nWritten by `tools/dev bench`; what they mean is in [performance.md](../performance.md).\n\n{}",
        machine_table(&report.machine)
    );
    for table in &report.tables {
        let title = table.title.replace('`', "");
        // Writing to a string does not fail.
        let _ = write!(page, "\n## {}{}\n", title[..1].to_uppercase(), &title[1..]);
        if let Some(svg) = chart::svg(table) {
            let name = format!("{}.svg", table.id);
            fs::write(dir.join(&name), svg).with_context(|| format!("write {name} in {}", dir.display()))?;
            let _ = write!(page, "\n![{title}]({name})\n");
        }
        let _ = write!(page, "\n{table}");
    }
    fs::write(dir.join("figures.md"), page).with_context(|| format!("write figures.md in {}", dir.display()))
}

fn machine_table(machine: &[(&'static str, String)]) -> String {
    let mut text = "| measured on | |\n|---|---|\n".to_owned();
    for (what, which) in machine {
        let _ = writeln!(text, "| {what} | {which} |"); // Writing to a string does not fail.
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_gets_a_chart_for_each_table_and_a_page() {
        let dir = tempfile::tempdir().unwrap();
        let mut table = Table::new("start", "a start", "ms", 0);
        table.reference("runc", &[1.0]);
        let report = Report { machine: vec![("CPUs", "2".into())], tables: vec![table] };
        let charts = dir.path().join("charts");
        write_charts(&report, &charts).unwrap();
        let page = fs::read_to_string(charts.join("figures.md")).unwrap();
        assert!(
            page.contains("| CPUs | 2 |") && page.contains("## A start") && page.contains("(start.svg)"),
            "{page}"
        );
        assert!(fs::read_to_string(charts.join("start.svg")).unwrap().starts_with("<svg"));
    }
}
