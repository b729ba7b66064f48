//! What libcontainer logs when it fails, in the words that runc has for it, which engines know.

use nix::errno::Errno;

/// What only passes on what was said before.
const ECHOES: [&str; 5] = [
    "failed to prepare rootfs",
    "failed to initialize container process",
    "failed to wait for init ready",
    "failed to run intermediate process",
    "failed to run container process",
];
/// What a mount that fails begins with; its fields follow.
const MOUNT: &str = "failed to mount Mount {";
/// Numbers of errors go up to here.
const LAST_ERRNO: i32 = 133;

/// The first of the lines, and those that say more, with the kernel's reason at the end. As they are where no reason is
/// known; `None` if there are none.
pub fn of(lines: &[&str]) -> Option<String> {
    let is_echo = |line: &str| ECHOES.iter().any(|echo| line.starts_with(echo));
    let (first, rest) = lines.split_first()?;
    let rest: Vec<_> = rest.iter().filter(|line| !is_echo(line)).collect();
    let all = [first].into_iter().chain(rest);
    let Some(reason) = lines.iter().find_map(|line| reason(line)) else {
        return Some(all.copied().collect::<Vec<_>>().join("; "));
    };
    let reason = if binding(first) && reason == Errno::EINVAL { Errno::ENOTDIR } else { reason };
    let reason = reason.desc().to_lowercase(); // Engines look for small letters.
    let text: Vec<_> = all.map(|line| mounting(line).unwrap_or_else(|| without_error(line))).collect();
    Some(format!("{}: {reason}", text.join("; ")))
}

/// Of `failed to mount Mount { destination: "/x", …, source: Some("y"), … }: …`.
fn mounting(line: &str) -> Option<String> {
    let mount = line.strip_prefix(MOUNT)?;
    let quoted = |field: &str| mount.split_once(field)?.1.split('"').nth(1);
    let (destination, source) = (quoted("destination: ")?, quoted("source: Some(").unwrap_or_default());
    let options = mount.split_once("options: Some([").and_then(|(_, rest)| rest.split_once("])"));
    let options = options.map(|(all, _)| all.replace('"', "").replace(", ", ","));
    let options = options.filter(|all| !all.is_empty()).map(|all| format!(": options {all}"));
    Some(format!("error mounting {source:?} to rootfs at {destination:?}{}", options.unwrap_or_default()))
}

/// Whether a bind mount failed. The kernel calls it an invalid argument to attach a file to a directory, or the other way
/// round, where the older call that runc makes says that the one is not the other.
fn binding(line: &str) -> bool {
    line.starts_with(MOUNT) && ["\"bind\"", "\"rbind\""].iter().any(|word| line.contains(word))
}

/// A line without its field `err`, which is a structure.
fn without_error(line: &str) -> String {
    let Some((before, field)) = line.split_once(" err=") else { return line.into() };
    let mut depth = 0;
    let mut in_quotes = false;
    let end = field.find(|char| {
        match char {
            '"' => in_quotes = !in_quotes,
            '(' | '{' | '[' if !in_quotes => depth += 1,
            ')' | '}' | ']' if !in_quotes => depth -= 1,
            _ => {}
        }
        char == ' ' && depth == 0 && !in_quotes
    });
    format!("{before}{}", end.map_or("", |end| &field[end..]))
}

/// The kernel's.
fn reason(line: &str) -> Option<Errno> {
    let named = || {
        let (_, name) = line.split_once("Nix(")?;
        let name = name.split(')').next()?;
        (1..=LAST_ERRNO).map(Errno::from_raw).find(|errno| format!("{errno:?}") == name)
    };
    let numbered = || {
        let (_, code) = line.split_once("Os { code: ")?;
        Some(Errno::from_raw(code.split(',').next()?.parse().ok()?))
    };
    named().or_else(numbered)
}

#[cfg(test)]
mod tests {
    use super::*;

    const OF_A_KIND: &str = "failed to mount Mount { destination: \"/x\", typ: Some(\"nosuchfs\"), source: Some(\"y\"), \
                         options: Some([\"ro\", \"a=1\"]), uid_mappings: None, gid_mappings: None }: syscall";

    #[test]
    fn a_mount_that_fails_is_told_as_runc_tells_it() {
        let echoes = ["failed to initialize container process: failed to prepare rootfs"];
        let lines = |error| [&[OF_A_KIND, error], &echoes[..]].concat();
        let told = of(&lines("failed to prepare rootfs err=Mount(Syscall(Nix(ENODEV)))"));
        assert_eq!(
            told.as_deref(),
            Some("error mounting \"y\" to rootfs at \"/x\": options ro,a=1: no such device")
        );
        let error = "failed to prepare rootfs err=Mount(Pathrs(Error(RawOsError { operation: \"openat2 subpath\", \
                     source: Openat2 { path: \"/x\", source: Os { code: 20, kind: NotADirectory, message: \"Not a directory\" } } })))";
        let told = of(&lines(error));
        assert_eq!(
            told.as_deref(),
            Some("error mounting \"y\" to rootfs at \"/x\": options ro,a=1: not a directory")
        );
    }

    #[test]
    fn a_file_on_a_directory_is_what_engines_look_for() {
        let line = "failed to mount Mount { destination: \"/d\", typ: Some(\"bind\"), source: Some(\"/f\"), \
                    options: Some([\"rbind\"]) }: syscall Nix(EINVAL)";
        let told = of(&[line]);
        assert_eq!(
            told.as_deref(),
            Some("error mounting \"/f\" to rootfs at \"/d\": options rbind: not a directory")
        );
    }

    #[test]
    fn what_else_fails_keeps_its_own_words() {
        for (lines, expected) in [
            (
                &[
                    "failed to set rlimit err=Nix(EINVAL) rlimit=Limit { hard: 1, soft: 5 }",
                    "failed to run container process x",
                ][..],
                "failed to set rlimit rlimit=Limit { hard: 1, soft: 5 }: invalid argument",
            ),
            (
                &["failed to prepare rootfs err=Unknown(\"a b\")"],
                "failed to prepare rootfs err=Unknown(\"a b\")",
            ),
            (
                &["failed to set sysctl a=1: Permission denied", "and more"],
                "failed to set sysctl a=1: Permission denied; and more",
            ),
        ] {
            assert_eq!(of(lines).as_deref(), Some(expected));
        }
        assert_eq!(of(&[]), None);
    }
}
