//! A program that takes a process's output: `binary://PATH?ARG[=VALUE]&…`, as containerd's logging drivers are named.
//!
//! It gets the output as descriptor 3, the errors as 4, and says that it is ready by closing 5; `CONTAINER_ID` and
//! `CONTAINER_NAMESPACE` tell it whose they are.

use std::{
    ffi::OsString,
    io,
    os::{fd::OwnedFd, unix::ffi::OsStringExt},
    time::Duration,
};

use percent_encoding::percent_decode_str;
use tokio::{io::AsyncReadExt, net::unix::pipe, time::timeout};

use crate::{
    child::{Child, Launch},
    error::{Context, Error, Result},
    ledger::Ledger,
};

/// How long it may take to say that it is ready.
const READY: Duration = Duration::from_secs(10);
/// How long it may take to write what it has after the end of the output. containerd's shims wait as long.
const FINISH: Duration = Duration::from_secs(12);
/// How long it may take to end after SIGTERM.
const GRACE: Duration = Duration::from_secs(1);

/// A running logger.
#[derive(Debug)]
pub(super) struct Logger {
    child: Child,
}

/// Our ends of what a logger reads.
pub(super) struct Outlets {
    pub stdout: pipe::Sender,
    pub stderr: pipe::Sender,
}

impl Logger {
    /// Starts the logger that `uri` names, without its scheme, and waits until it is ready.
    pub async fn start(uri: &str, id: &str, namespace: &str, ledger: &Ledger) -> Result<(Self, Outlets)> {
        let (program, query) = uri.split_once('?').unwrap_or((uri, ""));
        if !program.starts_with('/') {
            return Err(Error::invalid(format!("stdout: the logger {program:?} is no absolute path")));
        }
        let mut launch = Launch::new(OsString::from_vec(percent_decode_str(program).collect()));
        launch.args(arguments(query)).env("CONTAINER_ID", id).env("CONTAINER_NAMESPACE", namespace);
        let (stdout, stderr, ready) = (io::pipe(), io::pipe(), io::pipe());
        let failed = || format!("logger {program}");
        let (stdout, stderr, ready) =
            (stdout.with_context(failed)?, stderr.with_context(failed)?, ready.with_context(failed)?);
        for theirs in [OwnedFd::from(stdout.0), stderr.0.into(), ready.1.into()] {
            launch.pass_fd(theirs);
        }
        let mut is_ready = pipe::Receiver::from_owned_fd(ready.0.into()).with_context(failed)?;
        let outlets = Outlets {
            stdout: pipe::Sender::from_owned_fd(stdout.1.into()).with_context(failed)?,
            stderr: pipe::Sender::from_owned_fd(stderr.1.into()).with_context(failed)?,
        };
        let child = Child::spawn("logger", launch, ledger).await?;
        match timeout(READY, is_ready.read(&mut [0])).await {
            // It may write a byte, close, or have ended by now: then nobody reads, which the first write finds.
            Ok(Ok(_)) => Ok((Self { child }, outlets)),
            Ok(Err(error)) => Err(error).with_context(failed),
            Err(_) => {
                child.end(Duration::ZERO).await?;
                Err(Error::deadline(format!(
                    "{program} is not ready after {READY:?}: it must close descriptor 5"
                )))
            }
        }
    }

    /// Waits until it has written everything, now that the outlets are closed.
    pub async fn finish(self) {
        if self.child.wait(FINISH).await.is_ok() {
            return;
        }
        tracing::warn!("a logger still runs {FINISH:?} after the end of the output: it is ended");
        if let Err(error) = self.child.end(GRACE).await {
            tracing::warn!(%error, "a logger stays");
        }
    }
}

/// `a=b&c` as the words `a`, `b`, `c` and an empty one: containerd hands over each key with its first value.
fn arguments(query: &str) -> Vec<String> {
    let mut keys = Vec::new();
    let mut words = Vec::new();
    for (key, value) in form_urlencoded::parse(query.as_bytes()) {
        if !keys.contains(&key) {
            words.extend([key.clone().into_owned(), value.into_owned()]);
            keys.push(key);
        }
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_becomes_the_words_that_containerds_shims_make_of_it() {
        for (query, words) in [
            ("", &[][..]),
            ("_NERDCTL_INTERNAL_LOGGING=/var/lib/n", &["_NERDCTL_INTERNAL_LOGGING", "/var/lib/n"]),
            ("a=b&c&a=d&e%26=f+g", &["a", "b", "c", "", "e&", "f g"]),
        ] {
            assert_eq!(arguments(query), words, "{query}");
        }
    }
}
