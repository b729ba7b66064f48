//! A standard stream of a guest process: a connection of its own where the agent serves that, else call by call.

use std::sync::Arc;

use protocols::guest::{STREAM_FRAME, STREAM_HELLO};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{
    client::{AgentClient, GuestProcess, Output},
    link::GuestStream,
};
use crate::error::{Context, Error, Result};

/// One read from the guest. Large enough that a round trip per block does not show, well below the 4 MiB of a message.
const BLOCK: usize = 256 << 10;
/// Before the bytes of a frame.
const HEADER: usize = 4;

/// What a process writes.
pub(crate) struct GuestOutput {
    agent: Arc<AgentClient>,
    process: GuestProcess,
    output: Output,
    connection: Option<GuestStream>,
    /// Bytes of the frame that are still to be read.
    left: usize,
    block: Vec<u8>,
}

impl GuestOutput {
    pub async fn open(agent: Arc<AgentClient>, process: GuestProcess, output: Output) -> Self {
        let name = match output {
            Output::Stdout => "stdout",
            Output::Stderr => "stderr",
        };
        let connection = connect(&agent, &process, name).await;
        let block = if connection.is_some() { vec![0; BLOCK] } else { Vec::new() };
        Self { agent, process, output, connection, left: 0, block }
    }

    /// Waits, without a deadline, for output. Empty is the end.
    pub async fn read(&mut self) -> Result<&[u8]> {
        let Some(connection) = &mut self.connection else {
            self.block = self.agent.read(&self.process, self.output, BLOCK as u32).await?;
            return Ok(&self.block);
        };
        if self.left == 0 {
            self.left = connection.read_u32().await.context("the guest's stream")? as usize;
            if self.left > STREAM_FRAME {
                return Err(Error::internal(format!("the guest sent a frame of {} bytes", self.left)));
            }
            if self.left == 0 {
                return Ok(&[]);
            }
        }
        let most = self.left.min(BLOCK);
        let length = connection.read(&mut self.block[..most]).await.context("the guest's stream")?;
        if length == 0 {
            return Err(Error::unavailable("the guest's stream broke"));
        }
        self.left -= length;
        Ok(&self.block[..length])
    }
}

/// What a process reads.
pub(crate) struct GuestInput {
    agent: Arc<AgentClient>,
    process: GuestProcess,
    connection: Option<GuestStream>,
}

impl GuestInput {
    pub async fn open(agent: Arc<AgentClient>, process: GuestProcess) -> Self {
        let connection = connect(&agent, &process, "stdin").await;
        Self { agent, process, connection }
    }

    /// Writes all of `data`, at most [`STREAM_FRAME`] bytes; waits, without a deadline, while the process does not read.
    pub async fn write(&mut self, data: &[u8]) -> Result<()> {
        let Some(connection) = &mut self.connection else {
            return self.agent.write_stdin(&self.process, data.to_vec()).await;
        };
        let mut frame = Vec::with_capacity(HEADER + data.len());
        frame.extend((data.len() as u32).to_be_bytes());
        frame.extend(data);
        connection.write_all(&frame).await.context("the guest's stream")?;
        connection.flush().await.context("the guest's stream")
    }

    /// Ends the input.
    pub async fn end(mut self) -> Result<()> {
        if self.connection.is_none() {
            return self.agent.close_stdin(&self.process).await;
        }
        self.write(&[]).await?;
        // The guest closes when it has taken all: before that, closing might overtake what is on its way.
        if let Some(connection) = &mut self.connection {
            let _ = connection.read(&mut [0]).await;
        }
        Ok(())
    }
}

/// A connection for the stream `name`, if the agent serves such.
async fn connect(agent: &AgentClient, process: &GuestProcess, name: &str) -> Option<GuestStream> {
    let mut connection = agent.connect_stream().await?;
    let line = format!("{STREAM_HELLO} {name} {} {}\n", process.container, process.exec);
    // A connection that breaks is found by whoever reads or writes next.
    let _ = connection.write_all(line.as_bytes()).await;
    let _ = connection.flush().await;
    Some(connection)
}
