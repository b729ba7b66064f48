//! The server's half of a stand-in: hears what it was sent, and tells it the end.
//!
//! A stand-in's connection is its life: when it breaks, the stand-in was killed, and the process in the guest is too.

use std::{os::unix::net::UnixListener, sync::Arc};

use nix::libc::SIGKILL;
use runtime::{
    container::Container,
    error::{Context, Error, Result},
    process::Process,
};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{
        UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
    task::JoinSet,
};

use super::{
    execs::{Execs, reaped},
    message::{HELLO_LIMIT, LENGTH, Message, heard},
    spawn,
};
use crate::keeper::Keeper;

/// Serves the stand-ins that connect, until all containers have ended and every stand-in knows.
pub async fn attend(listener: UnixListener, keeper: Arc<Keeper>) -> Result<()> {
    listener.set_nonblocking(true).context("listen for stand-ins")?;
    let listener = tokio::net::UnixListener::from_std(listener).context("listen for stand-ins")?;
    let execs = Arc::new(Execs::new());
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let (stream, _) = accepted.context("accept a stand-in")?;
                let (keeper, execs) = (keeper.clone(), execs.clone());
                connections.spawn(async move {
                    if let Err(error) = serve(stream, &keeper, &execs).await {
                        tracing::warn!(%error, "a stand-in");
                    }
                });
            }
            Some(_) = connections.join_next() => {
                let over = keeper.sandbox().is_some_and(|sandbox| sandbox.is_over()) && !keeper.is_wanted();
                if connections.is_empty() && over {
                    return Ok(());
                }
            }
        }
    }
}

async fn serve(stream: UnixStream, keeper: &Keeper, execs: &Execs) -> Result<()> {
    let (reader, mut writer) = stream.into_split();
    let mut reader = BufReader::new(reader);
    let mut line = String::new();
    (&mut reader).take(HELLO_LIMIT).read_line(&mut line).await.context("read its name")?;
    if line.is_empty() {
        return Ok(()); // What it was to stand for did not come to be.
    }
    let stranger = || Error::invalid(format!("{line:?} names no process"));
    let (container, exec, pid) = heard(&line).ok_or_else(stranger)?;
    let sandbox = keeper.sandbox().ok_or_else(stranger)?;
    let container = sandbox.container(container)?;
    let process = container.process(exec)?;
    let _counted = exec.map(|_| execs.count(container.id().as_str()));
    send(&mut writer, Message::Attended).await?;
    tokio::select! {
        exit = end(&process) => {
            let exited = Message::Exited(exit?);
            if exec.is_none() {
                execs.gone(container.id().as_str()).await;
                if container.has_lacked_memory() {
                    sandbox.repeat_kill(pid, spawn::victim()?).await;
                }
            }
            send(&mut writer, exited).await?;
            if exec.is_some() {
                reaped(pid).await;
            }
        }
        () = listen(&mut reader, &process) => {
            tracing::warn!(container = %container.id(), exec, "its stand-in was killed: so is the process");
            kill(&container, exec, &process).await?;
            process.wait().await?;
        }
    }
    match exec {
        Some(exec) => forget(&container, exec, &process).await,
        None => Ok(()),
    }
}

/// The code of the process's end, once all that it wrote is taken.
async fn end(process: &Process) -> Result<u32> {
    let exit = process.wait().await?;
    process.output_taken().await;
    Ok(exit.code)
}

/// Does what the stand-in says, until it is gone.
async fn listen(reader: &mut BufReader<OwnedReadHalf>, process: &Process) {
    let mut bytes = [0; LENGTH];
    while reader.read_exact(&mut bytes).await.is_ok() {
        let done = match Message::decode(bytes) {
            Some(Message::Signal(signal)) => process.kill(signal).await,
            Some(Message::Resize { rows, columns }) => process.resize(columns.into(), rows.into()).await,
            Some(Message::Attended | Message::Exited(_)) | None => return,
        };
        if let Err(error) = done {
            tracing::debug!(%error, "what a stand-in was sent has no effect");
        }
    }
}

async fn kill(container: &Container, exec: Option<&str>, process: &Process) -> Result<()> {
    let killed = match exec {
        None => container.kill_all(SIGKILL as u32).await,
        Some(_) => process.kill(SIGKILL as u32).await,
    };
    match killed {
        // It has ended meanwhile.
        Err(error) if error.kind() == runtime::error::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// An exec that has ended is nobody's any more.
async fn forget(container: &Container, exec: &str, process: &Process) -> Result<()> {
    process.wait().await?;
    container.delete_exec(exec).await.map(drop)
}

async fn send(writer: &mut OwnedWriteHalf, message: Message) -> Result<()> {
    writer.write_all(&message.encode()).await.context("tell a stand-in")
}
