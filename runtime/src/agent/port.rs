//! What is asked of the agent beside its calls, each on a connection of its own; see `protocols::guest::PORT_PORT`.

use std::time::Duration;

use protocols::guest::{PORT_CONNECT, PORT_HELLO, PORT_NO, PORT_OK, PORT_PORT};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::timeout,
};

use super::{client::AgentClient, link::GuestStream};
use crate::error::{Context, Error, ErrorKind, Result};

/// Longer than the agent gives a server to answer.
const DEADLINE: Duration = Duration::from_secs(15);
/// Of the line that answers.
const LINE_LIMIT: usize = 200;

impl AgentClient {
    /// A connection to a TCP port of the guest's own, to be carried. [`ErrorKind::Unimplemented`] if the agent makes none,
    /// [`ErrorKind::Unavailable`] if nobody listens there.
    pub(crate) async fn connect_port(&self, port: u16) -> Result<GuestStream> {
        self.ask(&format!("{PORT_CONNECT} {port}")).await
    }

    /// A connection for what `protocols::guest::PORT_PORT` says can be asked.
    pub(crate) async fn ask(&self, what: &str) -> Result<GuestStream> {
        let answered = timeout(DEADLINE, self.ask_soon(what)).await;
        answered.unwrap_or_else(|_| {
            Err(Error::deadline(format!("the agent does not answer within {DEADLINE:?}")))
        })
    }

    async fn ask_soon(&self, what: &str) -> Result<GuestStream> {
        let connection = self.connect_beside(PORT_PORT).await;
        let mut connection = connection.map_err(|error| {
            Error::new(ErrorKind::Unimplemented, format!("the agent cannot {what}: {error}"))
        })?;
        let line = format!("{PORT_HELLO} {what}\n");
        connection.write_all(line.as_bytes()).await.with_context(|| format!("ask the agent to {what}"))?;
        connection.flush().await.with_context(|| format!("ask the agent to {what}"))?;
        let mut line = Vec::new();
        while line.len() < LINE_LIMIT {
            match connection.read_u8().await.context("the agent's answer")? {
                b'\n' => break,
                byte => line.push(byte),
            }
        }
        // The guest's word: for people to read, and escaped.
        let answer = String::from_utf8_lossy(&line);
        match answer.strip_prefix(PORT_NO) {
            _ if answer == PORT_OK => Ok(connection),
            Some(why) => Err(Error::unavailable(format!("{what} in the guest: {:?}", why.trim()))),
            None => Err(Error::internal(format!("the agent answers {answer:?}"))),
        }
    }
}
