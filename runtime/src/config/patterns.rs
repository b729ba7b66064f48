//! Patterns that a configuration names: regular expressions, and globs as Kata's lists of paths have them.

use regex::Regex;

/// Whether any of the expressions is found somewhere in `text`. Those that are none find nothing.
pub(super) fn found_by(expressions: &[String], text: &str) -> bool {
    expressions.iter().any(|expression| Regex::new(expression).is_ok_and(|found| found.is_match(text)))
}

/// The whole of a path, where `*` and `?` stand for what is between two slashes, and `[...]` for one of its letters.
pub(super) fn of_glob(glob: &str) -> Result<Regex, regex::Error> {
    let mut expression = String::from("^");
    let mut letters = glob.chars();
    while let Some(letter) = letters.next() {
        match letter {
            '*' => expression.push_str("[^/]*"),
            '?' => expression.push_str("[^/]"),
            '[' => class(&mut expression, &mut letters),
            '\\' => literal(&mut expression, letters.next().unwrap_or('\\')),
            other => literal(&mut expression, other),
        }
    }
    expression.push('$');
    Regex::new(&expression)
}

/// The rest of a `[...]`. One that does not end is no expression either.
fn class(expression: &mut String, letters: &mut std::str::Chars<'_>) {
    expression.push('[');
    let rest = letters.as_str();
    if let Some(rest) = rest.strip_prefix(['!', '^']) {
        *letters = rest.chars();
        expression.push_str("^/");
    }
    for letter in letters.by_ref() {
        match letter {
            ']' | '-' => expression.push(letter),
            other => literal(expression, other),
        }
        if letter == ']' {
            return;
        }
    }
}

fn literal(expression: &mut String, letter: char) {
    expression.push_str(&regex::escape(letter.encode_utf8(&mut [0; 4])));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_glob_stands_for_whole_paths() {
        for (glob, path, matches) in [
            ("/usr/bin/qemu", "/usr/bin/qemu", true),
            ("/usr/bin/qemu", "/usr/bin/qemu2", false),
            ("/usr/bin/qemu", "/x/usr/bin/qemu", false),
            ("/usr/bin/qemu-*", "/usr/bin/qemu-system-x86_64", true),
            ("/usr/bin/*", "/usr/bin/a/b", false),
            ("/usr/*/x", "/usr/bin/x", true),
            ("/usr/bin/q?", "/usr/bin/qe", true),
            ("/usr/bin/q?", "/usr/bin/q/", false),
            ("/opt/v[0-9]/x", "/opt/v3/x", true),
            ("/opt/v[0-9]/x", "/opt/va/x", false),
            ("/opt/v[!0-9]", "/opt/va", true),
            ("/opt/v[^0-9]", "/opt/v/", false),
            ("/opt/a.b", "/opt/aXb", false),
            ("/opt/\\*", "/opt/*", true),
            ("/opt/\\*", "/opt/a", false),
        ] {
            assert_eq!(of_glob(glob).unwrap().is_match(path), matches, "{glob} {path}");
        }
        assert!(of_glob("/opt/[a").is_err());
    }

    #[test]
    fn an_expression_is_looked_for_anywhere() {
        let list = |text: &str| vec![text.to_owned()];
        for (expression, name, found) in [
            ("kernel", "kernel_params", true),
            ("^kernel$", "kernel_params", false),
            ("default_(vcpus|memory)", "default_memory", true),
            (".*", "path", true),
            ("(", "(", false),
        ] {
            assert_eq!(found_by(&list(expression), name), found, "{expression} {name}");
        }
        assert!(!found_by(&[], "path"));
    }
}
