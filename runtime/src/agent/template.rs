//! The host's words to a guest that is to become a template, or that is a clone of one. See
//! `protocols::guest::TEMPLATE_WAKE`.

use std::{
    io,
    path::Path,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use protocols::guest::{
    AGENT_PORT, SERIAL_PORT_NAME, TEMPLATE_AWAKE, TEMPLATE_BECOME, TEMPLATE_SERVE, TEMPLATE_TIME,
    TEMPLATE_WAKE,
};
use tokio::{
    fs::File,
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
    time::timeout,
};

use super::address::AgentAddr;
use crate::{
    config::AgentConfig,
    error::{Context, Error, Result},
};

/// Bytes before an answer that may be the end of an older conversation.
const GARBAGE_LIMIT: usize = 1 << 20;
/// How far behind the host's a clone's clock may be.
const CLOCK_ERROR: Duration = Duration::from_millis(25);
/// How often a host is asked to be quicker than that.
const TELLINGS: usize = 8;
/// More than the kernel's pool holds.
const SEED_BYTES: usize = 64;

/// Has the agent of a booting VM become a template, and waits until it is.
pub async fn become_template(port: &Path, config: &AgentConfig) -> Result<()> {
    let becoming = async {
        let mut port = UnixStream::connect(port).await.context("the agent's port")?;
        let line = format!("{TEMPLATE_BECOME} {}", hex(&random::<8>().await?));
        port.write_all(format!("{line}\n").as_bytes()).await.context("write to the agent's port")?;
        answer(&mut port, &line).await.map(drop)
    };
    let deadline = config.boot_deadline();
    timeout(deadline, becoming).await.map_err(|_| {
        Error::deadline(format!(
            "the guest's agent did not answer within {deadline:?}; see the guest's console with enable_debug = true, or \
             raise agent.kata.dial_timeout"
        ))
    })?
}

/// Tells a clone that it is one. Returns its port, on which a conversation may begin. Cancel-safe: the caller sets the
/// bound.
pub async fn wake(port: &Path, address: &AgentAddr, rescan: bool) -> Result<UnixStream> {
    let mut port = UnixStream::connect(port).await.context("the clone's port")?;
    let (nonce, seed) = (hex(&random::<8>().await?), hex(&random::<SEED_BYTES>().await?));
    let served = match address {
        AgentAddr::Vsock { .. } | AgentAddr::HybridVsock { .. } => format!("vsock://-1:{AGENT_PORT}"),
        AgentAddr::Serial { .. } | AgentAddr::Unix { .. } => format!("serial://{SERIAL_PORT_NAME}"),
    };
    let line = format!("{TEMPLATE_WAKE} {nonce} {seed} {} {served}\n", u8::from(rescan));
    port.write_all(line.as_bytes()).await.context("write to the clone's port")?;
    let faults = answer(&mut port, &format!("{TEMPLATE_AWAKE} {nonce}")).await?;
    if !faults.is_empty() {
        return Err(Error::internal(format!("the clone could not become itself: {faults}")));
    }
    tell_time(&mut port).await?;
    port.write_all(format!("{TEMPLATE_SERVE}\n").as_bytes()).await.context("write to the clone's port")?;
    Ok(port)
}

/// Sets the clone's wall clock. It is behind by the way there, which is no longer than the way there and back.
async fn tell_time(port: &mut UnixStream) -> Result<()> {
    for _ in 0..TELLINGS {
        let began = Instant::now();
        let time = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
        let line = format!("{TEMPLATE_TIME} {time}");
        port.write_all(format!("{line}\n").as_bytes()).await.context("write to the clone's port")?;
        answer(port, &line).await?;
        if began.elapsed() < CLOCK_ERROR {
            return Ok(());
        }
    }
    tracing::warn!("this host is so busy that the clone's clock may be behind by more than {CLOCK_ERROR:?}");
    Ok(())
}

/// Waits for the line that begins with `expected`, and not a byte further; returns the rest of it.
async fn answer(port: &mut UnixStream, expected: &str) -> Result<String> {
    let mut line = Vec::new();
    for _ in 0..GARBAGE_LIMIT {
        match port.read_u8().await.context("read the guest's port")? {
            b'\n' => {
                let text = String::from_utf8_lossy(&line);
                if let Some(at) = text.find(expected) {
                    return Ok(text[at + expected.len()..].trim().to_owned());
                }
                line.clear();
            }
            byte => line.push(byte),
        }
    }
    Err(Error::internal("the guest's port gives no answer"))
}

async fn random<const N: usize>() -> Result<[u8; N]> {
    let mut bytes = [0; N];
    let read = async { File::open("/dev/urandom").await?.read_exact(&mut bytes).await.map(drop) };
    read.await.map_err(|error: io::Error| Error::from(error).context("/dev/urandom"))?;
    Ok(bytes)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
