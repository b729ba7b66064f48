//! `tools/dev bench channel`: round trip and throughput of each channel to the agent, in clones of a template.
//!
//! It stands here and not in `tools`, which knows nothing of the engine, because the channels are the engine's own.

mod figures;

use std::{env, fs, path::PathBuf, time::Instant};

use anyhow::{Context, Result, bail};
use figures::{Figure, Row};
use futures::future::{join_all, try_join_all};
use integration::channel::{ChannelVm, Start, bounded, raw};
use runtime::{
    agent::{AgentLink, GuestStream},
    vm::Channel,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const CHANNELS: [(&str, Channel); 3] =
    [("serial", Channel::Serial), ("vhost-user-vsock", Channel::VhostUserVsock), ("vsock", Channel::Vsock)];
const ROUND_TRIPS: usize = 2000;
/// Of all streams of one measurement together.
const LENGTH: u64 = 128 << 20;
const STREAMS: [u64; 2] = [1, 8];
const BLOCK: usize = 64 << 10;

/// Which way much data goes.
#[derive(Clone, Copy)]
enum Way {
    ToGuest,
    ToHost,
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> Result<()> {
    let (runs, json) = options()?;
    let mut figures = vec![Figure::new("channel-round-trip", "round trip of one byte", "µs")];
    for (id, title) in [("to-guest", "to the guest"), ("to-host", "to the host")] {
        for streams in STREAMS {
            let plural = if streams == 1 { "" } else { "s" };
            let title = format!("throughput {title}, {streams} stream{plural}");
            figures.push(Figure::new(format!("channel-{id}-{streams}"), title, "MiB/s"));
        }
    }
    let mut links = Vec::new();
    for (name, channel) in CHANNELS {
        let Some(mut vm) = ChannelVm::start(channel, Start::Cloned).await else {
            for figure in &mut figures {
                figure.rows.push(Row::missing(name, "this machine has no /dev/vhost-vsock"));
            }
            continue;
        };
        for figure in &mut figures {
            figure.rows.push(Row::new(name));
        }
        links.push((name, vm.link().await, vm));
    }
    // In turn, so that what disturbs the machine disturbs all; the first run warms up.
    for run in 0..=runs {
        for (name, link, _) in &links {
            let mut samples = vec![round_trips(link).await?];
            for way in [Way::ToGuest, Way::ToHost] {
                for streams in STREAMS {
                    samples.push(vec![throughput(link, way, streams).await?]);
                }
            }
            if run > 0 {
                for (figure, samples) in figures.iter_mut().zip(samples) {
                    figure.row(name).samples.extend(samples);
                }
            }
        }
    }
    for (_, link, vm) in links {
        drop(link);
        vm.stop().await;
    }
    for figure in &figures {
        print!("\n{figure}");
    }
    if let Some(path) = json {
        let text = format!("{:#}\n", figures::json(&figures));
        fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
    }
    Ok(())
}

fn options() -> Result<(usize, Option<PathBuf>)> {
    let (mut runs, mut json) = (7, None);
    let mut args = env::args().skip(1);
    while let Some(option) = args.next() {
        let value = args.next().with_context(|| format!("{option} needs a value"))?;
        match option.as_str() {
            "--runs" => runs = value.parse().context("--runs")?,
            "--json" => json = Some(value.into()),
            _ => bail!("unknown option {option}"),
        }
    }
    if runs == 0 {
        bail!("--runs 0 measures nothing");
    }
    Ok((runs, json))
}

/// One after the other, each in microseconds.
async fn round_trips(link: &AgentLink) -> Result<Vec<f64>> {
    let mut stream = raw(link, "echo").await;
    let mut samples = Vec::with_capacity(ROUND_TRIPS);
    let measured = async {
        for _ in 0..ROUND_TRIPS {
            let began = Instant::now();
            stream.write_all(b"x").await?;
            stream.flush().await?;
            stream.read_u8().await?;
            samples.push(began.elapsed().as_secs_f64() * 1e6);
        }
        anyhow::Ok(())
    };
    bounded("the round trips", measured).await?;
    Ok(samples)
}

/// MiB/s of all streams together, from when they are open until the last byte has arrived.
async fn throughput(link: &AgentLink, way: Way, streams: u64) -> Result<f64> {
    let length = LENGTH / streams;
    let opened = join_all((0..streams).map(|_| async move {
        match way {
            // A source begins at once, so it is told to when the clock runs.
            Way::ToGuest => raw(link, format_args!("drain {length}")).await,
            Way::ToHost => link_to(link).await,
        }
    }))
    .await;
    let began = Instant::now();
    let moved = opened.into_iter().map(|stream| match way {
        Way::ToGuest => futures::future::Either::Left(fill(stream, length)),
        Way::ToHost => futures::future::Either::Right(pour(stream, length)),
    });
    bounded("much data", try_join_all(moved)).await?;
    Ok((LENGTH >> 20) as f64 / began.elapsed().as_secs_f64())
}

async fn link_to(link: &AgentLink) -> GuestStream {
    bounded("open a stream", link.connect_when_up(integration::channel::PORT)).await
}

async fn fill(mut stream: GuestStream, length: u64) -> Result<()> {
    let block = vec![0; BLOCK];
    for _ in 0..length / BLOCK as u64 {
        stream.write_all(&block).await?;
    }
    stream.flush().await?;
    let mut answer = vec![0; format!("{length}\n").len()];
    stream.read_exact(&mut answer).await?;
    Ok(())
}

async fn pour(mut stream: GuestStream, length: u64) -> Result<()> {
    stream.write_all(format!("pour {length}\n").as_bytes()).await?;
    stream.flush().await?;
    let (mut block, mut left) = (vec![0; BLOCK], length);
    while left > 0 {
        let most = left.min(BLOCK as u64) as usize;
        let read = stream.read(&mut block[..most]).await?;
        if read == 0 {
            bail!("the stream ended {left} bytes early");
        }
        left -= read as u64;
    }
    Ok(())
}
