//! Programs that are run to their end within a bound.

use std::{
    io::{self, Read},
    os::fd::AsFd,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
};

/// Output is kept for error messages and small answers only.
const OUTPUT_LIMIT: usize = 1 << 20;

/// What a program that ended well has said, and how long it took.
#[derive(Debug)]
pub struct Done {
    pub output: String,
    pub ms: f64,
}

/// Runs a program to its end; fails if that is not a good one or takes longer than `deadline`.
pub fn run(mut command: Command, deadline: Duration) -> Result<Done> {
    let name = command.get_program().to_string_lossy().into_owned();
    // The end of both outputs is the end of the program: an event with a bound, which `wait` does not have.
    let (mut output, theirs) = io::pipe().context("make a pipe")?;
    command.stdin(Stdio::null()).stdout(theirs.try_clone().context("make a pipe")?).stderr(theirs);
    let began = Instant::now();
    let mut child = command.spawn().with_context(|| format!("start {name}"))?;
    drop(command); // It holds the other end of the pipe.
    let mut text = Vec::new();
    let ended = read_to_end(&mut output, &mut text, began + deadline);
    let ms = began.elapsed().as_secs_f64() * 1e3;
    if !matches!(ended, Ok(true)) {
        let _ = child.kill(); // It may have ended just now.
    }
    let status = child.wait().with_context(|| format!("wait for {name}"))?;
    let output = String::from_utf8_lossy(&text).into_owned();
    if !ended.with_context(|| format!("read what {name} says"))? {
        bail!("{name} did not end within {} s: {}", deadline.as_secs(), output.trim());
    }
    if !status.success() {
        bail!("{name}: {status}: {}", output.trim());
    }
    Ok(Done { output, ms })
}

/// False if the end does not come in time.
fn read_to_end(from: &mut io::PipeReader, to: &mut Vec<u8>, deadline: Instant) -> io::Result<bool> {
    let mut block = [0; 4096];
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(false);
        }
        // Rounded up, so that the last millisecond is not spent turning round.
        let left = PollTimeout::try_from(left.as_millis() + 1).unwrap_or(PollTimeout::MAX);
        match poll(&mut [PollFd::new(from.as_fd(), PollFlags::POLLIN)], left) {
            Ok(0) | Err(Errno::EINTR) => continue,
            Ok(_) => {}
            Err(errno) => return Err(errno.into()),
        }
        match from.read(&mut block)? {
            0 => return Ok(true),
            count if to.len() < OUTPUT_LIMIT => to.extend_from_slice(&block[..count]),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sh(script: &str, deadline: Duration) -> Result<Done> {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        run(command, deadline)
    }

    #[test]
    fn output_time_and_failure_are_told() {
        let done = sh("sleep 0.05; echo out; echo err >&2", Duration::from_secs(20)).unwrap();
        assert_eq!(done.output, "out\nerr\n");
        assert!((50.0..10_000.0).contains(&done.ms), "{}", done.ms);
        let error = sh("echo why; exit 3", Duration::from_secs(20)).unwrap_err().to_string();
        assert!(error.contains("why") && error.contains('3'), "{error}");
    }

    #[test]
    fn a_program_that_does_not_end_is_ended() {
        let began = Instant::now();
        let error = sh("exec sleep 60", Duration::from_millis(50)).unwrap_err().to_string();
        assert!(error.contains("did not end"), "{error}");
        assert!(began.elapsed() < Duration::from_secs(30));
    }
}
