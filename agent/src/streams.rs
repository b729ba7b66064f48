//! The standard streams of processes, each on a connection of its own; see `protocols::guest::STREAM_PORT`.

use std::io;

use protocols::guest::{STREAM_FRAME, STREAM_HELLO};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader, split};

use crate::{
    channel::line::{LINE_LIMIT, read_line},
    error::{Error, Result},
    guest::Guest,
    process::{Output, Process},
};

/// Before the bytes of a frame.
const HEADER: usize = 4;
/// What a pipe holds, and what channels like to carry at once.
const BLOCK: usize = 64 << 10;

/// Serves the stream that the first line of `connection` names, to its end.
pub async fn serve(guest: &Guest, connection: impl AsyncRead + AsyncWrite + Unpin + Send) -> io::Result<()> {
    let mut connection = BufReader::with_capacity(LINE_LIMIT, connection);
    let line = read_line(&mut connection).await?;
    let (stream, container, exec) = parse(&line).ok_or_else(|| {
        io::Error::new(io::ErrorKind::InvalidInput, format!("{line:?} names no stream of a process"))
    })?;
    let served = async {
        let container = guest.container(container)?;
        let process = container.process(exec)?;
        match stream {
            "stdin" => take_in(&process, connection).await,
            "stdout" => give_out(&process, Output::Stdout, connection).await,
            _ => give_out(&process, Output::Stderr, connection).await,
        }?;
        container.forget_if_done(exec);
        Ok::<_, Error>(())
    };
    served.await.map_err(|error| io::Error::other(format!("{line}: {error}")))
}

fn parse(line: &str) -> Option<(&str, &str, &str)> {
    let mut words = line.split(' ');
    let (hello, stream) = (words.next()?, words.next()?);
    let good = hello == STREAM_HELLO && matches!(stream, "stdin" | "stdout" | "stderr");
    let names = (stream, words.next()?, words.next()?);
    (good && words.next().is_none()).then_some(names)
}

async fn give_out(
    process: &Process,
    output: Output,
    connection: impl AsyncRead + AsyncWrite + Unpin + Send,
) -> Result<()> {
    let (mut host, mut connection) = split(connection);
    let mut frame = vec![0; HEADER + BLOCK];
    let gone = async {
        // The host says nothing more, so whatever comes is its end.
        let _ = host.read(&mut [0]).await;
    };
    tokio::pin!(gone);
    loop {
        let length = tokio::select! {
            biased;
            length = process.read_into(output, &mut frame[HEADER..]) => length.unwrap_or_default(),
            () = &mut gone => {
                process.close_output(output).await;
                return Ok(());
            }
        };
        frame[..HEADER].copy_from_slice(&(length as u32).to_be_bytes());
        let written = async {
            connection.write_all(&frame[..HEADER + length]).await?;
            connection.flush().await
        };
        if let Err(error) = written.await {
            process.close_output(output).await;
            return Err(error.into());
        }
        if length == 0 {
            // Closing is the host's: a back end may drop what it has not yet delivered when the guest closes.
            gone.await;
            return Ok(());
        }
    }
}

async fn take_in(
    process: &Process,
    mut connection: impl AsyncRead + AsyncWrite + Unpin + Send,
) -> Result<()> {
    let mut block = vec![0; BLOCK];
    loop {
        let mut left = connection.read_u32().await? as usize;
        if left == 0 {
            process.close_stdin().await;
            return Ok(());
        }
        if left > STREAM_FRAME {
            return Err(Error::invalid(format!("a frame of {left} bytes")));
        }
        while left > 0 {
            let most = left.min(BLOCK);
            let length = connection.read(&mut block[..most]).await?;
            if length == 0 {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
            }
            process.write(&block[..length]).await?;
            left -= length;
        }
    }
}
