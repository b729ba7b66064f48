//! Dependencies: each one used, and each licence one that this project may be shipped with.

use std::{fs, path::Path, process::Command};

use anyhow::{Context, Result, bail};
use serde_json::Value;

/// Licences that ask for no more than a notice. An expression is fine if one choice of it consists of these.
const ALLOWED: [&str; 12] = [
    "0BSD",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "CC0-1.0",
    "ISC",
    "MIT",
    "Unicode-3.0",
    "Unlicense",
    "Zlib",
];
/// Others that are taken, each with the reason: (package, licence as stated, reason).
const EXCEPTIONS: [(&str, &str, &str); 2] = [
    (
        "pathrs",
        "MPL-2.0 OR LGPL-3.0-or-later",
        "of libcontainer; MPL asks for the source of its own files alone",
    ),
    ("rust-criu", "", "of libcontainer; its manifest names a file, which holds the MIT text"),
];
/// Used by code that a build script generates: (package, dependency).
const GENERATED: [(&str, &str); 1] = [("protocols", "async-trait")];

pub fn check(root: &Path) -> Result<()> {
    let output = Command::new("cargo")
        .args(["metadata", "--format-version", "1", "--locked"])
        .current_dir(root)
        .output()
        .context("run cargo metadata")?;
    if !output.status.success() {
        bail!("cargo metadata: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    let metadata: Value = serde_json::from_slice(&output.stdout).context("read cargo metadata")?;
    let packages = metadata["packages"].as_array().context("cargo metadata names no packages")?;
    let mut faults: Vec<String> = packages.iter().filter_map(licence_fault).collect();
    for package in packages.iter().filter(|package| package["source"].is_null()) {
        faults.extend(unused(package)?);
    }
    for fault in &faults {
        eprintln!("{fault}");
    }
    if !faults.is_empty() {
        bail!("{} faults in dependencies", faults.len());
    }
    Ok(())
}

fn licence_fault(package: &Value) -> Option<String> {
    let name = package["name"].as_str().unwrap_or_default();
    let licence = package["license"].as_str().unwrap_or_default();
    let excepted = EXCEPTIONS.iter().any(|(package, known, _)| *package == name && *known == licence);
    (!excepted && !is_allowed(licence)).then(|| format!("{name}: licence {licence:?} is not on the list"))
}

/// `A OR B` needs one side, `A AND B` both; `/` is an old spelling of OR.
fn is_allowed(expression: &str) -> bool {
    let flat = expression.replace(['(', ')'], "").replace('/', " OR ");
    flat.split(" AND ").all(|part| part.split(" OR ").any(|licence| ALLOWED.contains(&licence.trim())))
}

/// Dependencies whose crate no source file of the package names.
fn unused(package: &Value) -> Result<Vec<String>> {
    let manifest = Path::new(package["manifest_path"].as_str().context("a package without a manifest")?);
    let dir = manifest.parent().context("a manifest without a folder")?;
    let mut text = String::new();
    for part in ["src", "tests", "benches", "examples", "build.rs"] {
        read_all(&dir.join(part), &mut text)?;
    }
    let name = package["name"].as_str().unwrap_or_default();
    let dependencies = package["dependencies"].as_array().into_iter().flatten();
    Ok(dependencies
        .filter_map(|dependency| dependency["rename"].as_str().or(dependency["name"].as_str()))
        .filter(|dependency| {
            !text.contains(&dependency.replace('-', "_")) && !GENERATED.contains(&(name, dependency))
        })
        .map(|dependency| format!("{name}: does not use its dependency {dependency}"))
        .collect())
}

fn read_all(path: &Path, text: &mut String) -> Result<()> {
    if path.is_dir() {
        for entry in fs::read_dir(path)? {
            read_all(&entry?.path(), text)?;
        }
    } else if path.is_file() && path.extension().is_some_and(|extension| extension == "rs") {
        text.push_str(&fs::read_to_string(path)?);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expressions_are_judged_by_their_choices() {
        for (expression, fine) in [
            ("MIT", true),
            ("MIT OR Apache-2.0", true),
            ("MIT/Apache-2.0", true),
            ("GPL-3.0 OR MIT", true),
            ("GPL-3.0", false),
            ("(MIT OR Apache-2.0) AND Unicode-3.0", true),
            ("MIT AND GPL-2.0", false),
            ("Apache-2.0 WITH LLVM-exception OR Apache-2.0 OR MIT", true),
            ("", false),
        ] {
            assert_eq!(is_allowed(expression), fine, "{expression}");
        }
    }
}
