//! Who uses whom: between crates as ARCHITECTURE.md has it, and among the files of a crate without circles.
//!
//! Files are read as text. An edge is a path that begins with `crate::`, `super::` or `self::`, or with a module that the
//! file declares. A path that ends at a name which a `mod.rs` or `lib.rs` only re-exports counts for the file behind it,
//! and the re-export itself counts for nothing: such a file is a table of contents. Test modules do not count.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};

/// (crate, crates of ours that it may use)
const CRATES: [(&str, &[&str]); 7] = [
    ("protocols", &[]),
    ("runtime", &["protocols"]),
    ("hypervisor-qemu", &["runtime"]),
    ("shim", &["runtime", "hypervisor-qemu"]),
    ("agent", &["protocols"]),
    ("integration", &["agent", "hypervisor-qemu", "protocols", "runtime", "shim"]),
    ("tools", &[]),
];
/// What a backend may use of the engine.
const BACKEND_MAY: [&str; 7] = ["vm", "ledger", "config", "error", "child", "fault", "ids"];
/// Words that the engine must not know outside its configuration.
const ENGINE_MUST_NOT: [&str; 2] = ["qemu", "containerd"];

/// Checks the workspace at `root`; prints every fault.
pub fn check(root: &Path) -> Result<()> {
    let mut faults = Vec::new();
    for (name, allowed) in CRATES {
        check_manifest(root, name, allowed, &mut faults)?;
        let files = Files::read(&root.join(name).join("src"))?;
        faults
            .extend(files.circles().into_iter().map(|circle| format!("{name}: files in a circle: {circle}")));
        match name {
            "hypervisor-qemu" => faults.extend(files.outside("runtime::", &BACKEND_MAY)),
            "runtime" => faults.extend(files.words(&ENGINE_MUST_NOT, "config")),
            _ => {}
        }
    }
    for fault in &faults {
        eprintln!("{fault}");
    }
    if !faults.is_empty() {
        bail!("{} arrows point the wrong way", faults.len());
    }
    Ok(())
}

fn check_manifest(root: &Path, name: &str, allowed: &[&str], faults: &mut Vec<String>) -> Result<()> {
    let path = root.join(name).join("Cargo.toml");
    let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    let manifest: toml::Table = text.parse().with_context(|| path.display().to_string())?;
    let used = manifest
        .get("dependencies")
        .and_then(toml::Value::as_table)
        .into_iter()
        .flat_map(|table| table.keys());
    for other in used.filter(|used| CRATES.iter().any(|(ours, _)| ours == used)) {
        if !allowed.contains(&other.as_str()) {
            faults.push(format!("{name}: must not use {other}"));
        }
    }
    Ok(())
}

/// The source files of a crate, by module path; the root's is empty.
struct Files {
    sources: BTreeMap<Vec<String>, Source>,
}

struct Source {
    path: PathBuf,
    /// Without comments, strings and test modules.
    code: String,
}

impl Files {
    fn read(src: &Path) -> Result<Self> {
        let mut sources = BTreeMap::new();
        read_into(src, src, &mut sources)?;
        Ok(Self { sources })
    }

    /// Which file a path from `from` leads to, if it is another one of this crate.
    fn target(&self, from: &[String], path: &[String]) -> Option<Vec<String>> {
        let mut at = match path.first()?.as_str() {
            "crate" => Vec::new(),
            "super" => from[..from.len().checked_sub(1)?].to_vec(),
            _ => from.to_vec(),
        };
        let mut rest: &[String] = match path[0].as_str() {
            "crate" | "super" | "self" => &path[1..],
            _ => path,
        };
        loop {
            match rest.first() {
                Some(name) if name == "super" => {
                    at.pop()?;
                    rest = &rest[1..];
                }
                Some(name) if self.sources.contains_key(&child(&at, name)) => {
                    at.push(name.clone());
                    rest = &rest[1..];
                }
                Some(name) => match self.behind_reexport(&at, name) {
                    Some(file) => {
                        at = file;
                        rest = &rest[1..];
                    }
                    None => break,
                },
                None => break,
            }
        }
        (at != from).then_some(at)
    }

    /// The file behind a name that the table of contents `at` re-exports.
    fn behind_reexport(&self, at: &[String], name: &str) -> Option<Vec<String>> {
        let code = &self.sources.get(at)?.code;
        reexports(code).into_iter().find(|path| path.last().is_some_and(|last| last == name)).and_then(
            |path| {
                let target = self.target(at, &path)?;
                self.sources.contains_key(&target).then_some(target)
            },
        )
    }

    fn edges(&self, from: &[String]) -> BTreeSet<Vec<String>> {
        let code = without_reexports(&self.sources[from].code);
        let children: Vec<String> = self
            .sources
            .keys()
            .filter(|path| path.len() == from.len() + 1 && path.starts_with(from))
            .filter_map(|path| path.last().cloned())
            .collect();
        let mut starts = vec!["crate".to_owned(), "super".to_owned(), "self".to_owned()];
        starts.extend(children);
        paths(&code, &starts).iter().filter_map(|path| self.target(from, path)).collect()
    }

    /// Every circle, as the files along it.
    fn circles(&self) -> Vec<String> {
        let edges: BTreeMap<_, _> =
            self.sources.keys().map(|from| (from.clone(), self.edges(from))).collect();
        let mut circles = BTreeSet::new();
        for start in edges.keys() {
            if let Some(way) = way_back(&edges, start) {
                let mut names: Vec<String> = way.iter().map(|path| self.name(path)).collect();
                names.sort();
                circles.insert(names.join(" <-> "));
            }
        }
        circles.into_iter().collect()
    }

    fn name(&self, path: &[String]) -> String {
        self.sources.get(path).map_or_else(String::new, |source| source.path.display().to_string())
    }

    /// Uses of another crate's modules beyond `allowed`.
    fn outside(&self, prefix: &str, allowed: &[&str]) -> Vec<String> {
        let start = vec![prefix.trim_end_matches("::").to_owned()];
        let mut faults = BTreeSet::new();
        for source in self.sources.values() {
            for path in paths(&source.code, &start) {
                if path.get(1).is_some_and(|module| !allowed.contains(&module.as_str())) {
                    faults.insert(format!("{}: must not use {}", source.path.display(), path.join("::")));
                }
            }
        }
        faults.into_iter().collect()
    }

    /// Files that use a word as part of a name, outside the module `except`.
    fn words(&self, words: &[&str], except: &str) -> Vec<String> {
        let files = self.sources.iter().filter(|(path, _)| path.first().is_none_or(|first| first != except));
        files
            .flat_map(|(_, source)| {
                let code = source.code.to_lowercase();
                words
                    .iter()
                    .filter(move |word| code.contains(**word))
                    .map(|word| format!("{}: must not know {word}", source.path.display()))
            })
            .collect()
    }
}

fn child(at: &[String], name: &str) -> Vec<String> {
    at.iter().cloned().chain([name.to_owned()]).collect()
}

fn read_into(root: &Path, dir: &Path, sources: &mut BTreeMap<Vec<String>, Source>) -> Result<()> {
    for entry in fs::read_dir(dir).with_context(|| format!("read {}", dir.display()))? {
        let path = entry?.path();
        if path.is_dir() {
            read_into(root, &path, sources)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let relative = path.strip_prefix(root)?.with_extension("");
            let mut module: Vec<String> =
                relative.iter().map(|part| part.to_string_lossy().into_owned()).collect();
            if module.last().is_some_and(|last| last == "mod" || module.len() == 1 && last == "lib") {
                module.pop();
            }
            let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
            sources.insert(module, Source { path, code: code_of(&text) });
        }
    }
    Ok(())
}

/// The text without comments, the contents of strings, and everything from the test module on.
fn code_of(text: &str) -> String {
    let text = text.split("#[cfg(test)]\nmod ").next().unwrap_or_default();
    let mut code = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let skip = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if first == '"' {
            code.push('"');
            string_length(rest)
        } else {
            code.push(first);
            first.len_utf8()
        };
        rest = &rest[skip..];
    }
    code
}

/// The length of the string literal at the start of `text`, with both quotes.
fn string_length(text: &str) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return at + 1,
            _ => {}
        }
    }
    text.len()
}

/// Every path in `code` that begins with one of `starts`, with groups in braces taken apart.
fn paths(code: &str, starts: &[String]) -> Vec<Vec<String>> {
    let mut found = Vec::new();
    for start in starts {
        let needle = format!("{start}::");
        for (at, _) in code.match_indices(&needle) {
            let before = code[..at].chars().next_back();
            if before.is_some_and(|c| c.is_alphanumeric() || matches!(c, '_' | ':' | '$')) {
                continue;
            }
            let mut rest = &code[at + needle.len()..];
            tree(&mut rest, &mut vec![start.clone()], &mut found);
        }
    }
    found
}

/// Reads one use tree; `prefix` is what stands before it.
fn tree(rest: &mut &str, prefix: &mut Vec<String>, found: &mut Vec<Vec<String>>) {
    *rest = rest.trim_start();
    if let Some(inner) = rest.strip_prefix('{') {
        *rest = inner;
        loop {
            *rest = rest.trim_start();
            match rest.chars().next() {
                Some('}') => {
                    *rest = &rest[1..];
                    return;
                }
                Some(',') => *rest = &rest[1..],
                Some(c) if c.is_alphanumeric() || c == '_' || c == '{' || c == '*' => {
                    tree(rest, prefix, found)
                }
                _ => return,
            }
        }
    }
    let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
    let name = rest[..end].to_owned();
    *rest = rest[end..].strip_prefix('*').unwrap_or(&rest[end..]);
    let depth = prefix.len();
    if !name.is_empty() && name != "self" {
        prefix.push(name);
    }
    if let Some(more) = rest.strip_prefix("::") {
        *rest = more;
        tree(rest, prefix, found);
    } else {
        found.push(prefix.clone());
        if let Some(renamed) = rest.trim_start().strip_prefix("as ") {
            *rest = renamed.trim_start_matches(|c: char| c.is_alphanumeric() || c == '_' || c == ' ');
        }
    }
    prefix.truncate(depth);
}

/// The statements `pub use …;` and `pub(crate) use …;`.
fn reexport_statements(code: &str) -> Vec<&str> {
    code.split_inclusive(';')
        .filter_map(|statement| {
            let at = statement
                .rfind("pub use ")
                .or_else(|| statement.rfind("pub(crate) use "))
                .or_else(|| statement.rfind("pub(super) use "))?;
            Some(&statement[at..])
        })
        .collect()
}

fn reexports(code: &str) -> Vec<Vec<String>> {
    let mut found = Vec::new();
    for statement in reexport_statements(code) {
        let mut rest = statement.split_once("use ").map_or("", |(_, rest)| rest);
        tree(&mut rest, &mut Vec::new(), &mut found);
    }
    found
}

fn without_reexports(code: &str) -> String {
    let mut code = code.to_owned();
    for statement in reexport_statements(&code.clone()) {
        code = code.replace(statement, "");
    }
    code
}

/// The nodes of a way from `start` back to itself.
fn way_back(
    edges: &BTreeMap<Vec<String>, BTreeSet<Vec<String>>>,
    start: &Vec<String>,
) -> Option<Vec<Vec<String>>> {
    let mut came_from: BTreeMap<Vec<String>, Vec<String>> = BTreeMap::new();
    let mut queue = vec![start.clone()];
    while let Some(node) = queue.pop() {
        for next in edges.get(&node).into_iter().flatten() {
            if next == start {
                let mut way = vec![node.clone()];
                let mut at = &node;
                while at != start {
                    at = &came_from[at];
                    way.push(at.clone());
                }
                return Some(way);
            }
            if !came_from.contains_key(next) {
                came_from.insert(next.clone(), node.clone());
                queue.push(next.clone());
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn circles(files: &[(&str, &str)]) -> Vec<String> {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        Files::read(dir.path()).unwrap().circles()
    }

    #[test]
    fn two_files_that_import_each_other_are_found_even_through_a_third() {
        let files = [
            ("lib.rs", "mod a; mod b; mod c;"),
            ("a.rs", "use crate::b::B;"),
            ("b.rs", "use crate::{c::C};"),
        ];
        assert!(circles(&[files[0], files[1], files[2], ("c.rs", "")]).is_empty());
        assert_eq!(circles(&[files[0], files[1], files[2], ("c.rs", "fn f() { super::a::x() }")]).len(), 1);
    }

    #[test]
    fn a_table_of_contents_is_looked_through() {
        let contents = "mod one; mod two; pub use one::One; pub(crate) use two::{Two, Other as O};";
        let files = |one: &'static str| {
            circles(&[
                ("lib.rs", "mod m; mod user;"),
                ("m/mod.rs", contents),
                ("m/one.rs", one),
                ("m/two.rs", ""),
                ("user.rs", "use crate::m::{One, Two};"),
            ])
        };
        assert!(files("use super::Two;").is_empty());
        assert!(files("use crate::m::Two;").is_empty());
        assert_eq!(files("use crate::user::X;").len(), 1);
    }

    #[test]
    fn comments_strings_and_tests_do_not_count() {
        let a = "// crate::b::x\nfn f() { \"crate::b::y\"; }\n#[cfg(test)]\nmod tests { use crate::b::Z; }";
        assert!(circles(&[("lib.rs", ""), ("a.rs", a), ("b.rs", "use crate::a::f;")]).is_empty());
    }

    #[test]
    fn a_parent_that_calls_its_child_must_not_be_called_back() {
        let parent = "mod child; pub struct P; fn f() { child::g() }";
        assert_eq!(
            circles(&[("lib.rs", ""), ("p/mod.rs", parent), ("p/child.rs", "use super::P;")]).len(),
            1
        );
        assert!(circles(&[("lib.rs", ""), ("p/mod.rs", parent), ("p/child.rs", "")]).is_empty());
    }
}
