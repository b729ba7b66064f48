//! Data packed by one of the kernel's compressors, unpacked by the distribution's own programs.

use std::{
    io::Write,
    process::{Command, Stdio},
    thread,
};

use anyhow::{Context, Result, bail};

/// (first bytes, program, arguments, package that has it)
const FORMATS: [(&[u8], &str, &[&str], &str); 4] = [
    (b"\xfd7zXZ\0", "xz", &["-dc", "--single-stream"], "xz-utils"),
    (b"\x1f\x8b", "gzip", &["-dc"], "gzip"),
    (b"\x28\xb5\x2f\xfd", "zstd", &["-dc"], "zstd"),
    (b"\x02\x21\x4c\x18", "lz4", &["-dc"], "lz4"),
];

/// Unpacks `data`; what is not packed is returned as it is. The kernel appends bytes of its own to its payload, so a
/// program that complains about the end after it has written something has done its work.
pub fn unpack(data: &[u8]) -> Result<Vec<u8>> {
    let Some((_, program, arguments, package)) = FORMATS.iter().find(|(magic, ..)| data.starts_with(magic))
    else {
        return Ok(data.to_vec());
    };
    let mut child = Command::new(program)
        .args(*arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("run {program} (package {package})"))?;
    let mut input = child.stdin.take().context("the program has no input")?;
    let data = data.to_vec();
    // It may stop reading before the appended bytes.
    let writer = thread::spawn(move || drop(input.write_all(&data)));
    let output = child.wait_with_output().with_context(|| format!("run {program}"))?;
    let _ = writer.join();
    if output.stdout.is_empty() {
        bail!("{program}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(output.stdout)
}
