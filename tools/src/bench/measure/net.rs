//! What the network carries, and what it costs a start.
//!
//! Two guests of the same kind with a server each. To the one, packets go as they do in use: from a link in the sandbox's
//! network namespace, which filters join to the guest's tap. To the other they go by the tap alone, which is put into the
//! peer's namespace by hand.

use std::{
    io::{Read, Write},
    net::{Shutdown, SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use toml_edit::Value;

use crate::bench::{
    aims,
    engine::{Engine, Runtime},
    host::{namespace::Namespace, patience::wait},
    lineup::{Lineup, configure},
    options::Options,
    report::{Better, Table},
    stats::median,
};

/// The guest, and its peer.
const GUEST: [u8; 4] = [10, 231, 0, 2];
const PEER: [u8; 4] = [10, 231, 0, 1];
/// A port for each thing that a server does.
const ECHO: u16 = 7001;
const SINK: u16 = 7002;
const SOURCE: u16 = 7003;
/// Of a transfer: long enough that its beginning does not count.
const MIB: u64 = 256;
const BLOCK: usize = 64 << 10;
/// Round trips whose median is one sample, and their bytes.
const ROUNDS: usize = 200;
const MESSAGE: usize = 64;
/// For one read, write or connection on a busy machine that emulates.
const PATIENCE: Duration = Duration::from_secs(60);
/// Of a tap that nothing is joined to.
const TAP: &str = "tap0_kata";

pub fn measure(engine: &Engine, lineup: &Lineup, options: &Options) -> Result<Vec<Table>> {
    let usual = lineup.usual();
    ensure!(usual.runtime.config.is_some(), "ours has no configuration");
    let mut tables = carried(engine, &usual.runtime, options)?;
    tables.extend(start(engine, &usual.runtime, options)?);
    Ok(tables)
}

/// A guest, and where its peer is.
struct Pair {
    id: &'static str,
    peer: Namespace,
    _sandbox: Namespace,
}

impl Pair {
    /// As in use.
    fn joined(engine: &Engine, runtime: &Runtime) -> Result<Self> {
        let (sandbox, peer) = joined_namespaces()?;
        let pair = Self { id: "net-joined", peer, _sandbox: sandbox };
        pair.begin(engine, runtime)?;
        Ok(pair)
    }

    /// With its tap at the peer's.
    fn by_hand(engine: &Engine, runtime: &Runtime, options: &Options) -> Result<Self> {
        let config = options.work.join("net-none.toml");
        let base = runtime.config.as_deref().context("checked before")?;
        configure(base, &config, &[("runtime.internetworking_model", Value::from("none"))])?;
        let runtime = Runtime { config: Some(config), ..runtime.clone() };
        let (sandbox, peer) = joined_namespaces()?;
        // The guest is told of a link, whose own way to the peer is not to be there.
        peer.ip("link del eth0")?;
        sandbox.ip("link add eth0 type veth peer name unused")?;
        address(&sandbox, GUEST)?;
        let pair = Self { id: "net-by-hand", peer, _sandbox: sandbox };
        engine.start_in(&runtime, pair.id, &pair._sandbox.path(), &serve())?;
        pair._sandbox.ip(&format!("link set {TAP} netns {}", pair.peer.name()))?;
        pair.peer.ip(&format!("link set {TAP} name eth0"))?;
        address(&pair.peer, PEER)?;
        pair.wait_until_served()?;
        Ok(pair)
    }

    fn begin(&self, engine: &Engine, runtime: &Runtime) -> Result<()> {
        engine.start_in(runtime, self.id, &self._sandbox.path(), &serve())?;
        self.wait_until_served()
    }

    fn wait_until_served(&self) -> Result<()> {
        let served = wait(PATIENCE, None, || self.peer.within(|| connect(ECHO)).ok());
        served.map(drop).with_context(|| format!("the server in {} does not answer", self.id))
    }

    fn rate(&self, port: u16) -> Result<f64> {
        self.peer.within(|| if port == SINK { send() } else { receive() })
    }

    fn round_trip(&self) -> Result<f64> {
        self.peer.within(round_trip)
    }
}

/// A sandbox's namespace with one interface, and its peer's.
fn joined_namespaces() -> Result<(Namespace, Namespace)> {
    let (sandbox, peer) = (Namespace::new()?, Namespace::new()?);
    sandbox.ip(&format!("link add eth0 type veth peer name eth0 netns {}", peer.name()))?;
    address(&sandbox, GUEST)?;
    address(&peer, PEER)?;
    Ok((sandbox, peer))
}

fn address(namespace: &Namespace, address: [u8; 4]) -> Result<()> {
    let [a, b, c, d] = address;
    namespace.ip(&format!("addr add {a}.{b}.{c}.{d}/24 dev eth0"))?;
    namespace.ip("link set eth0 up")
}

/// The servers: programs whose standard streams are the connection itself.
fn serve() -> [String; 3] {
    let blocks = (MIB << 20) / BLOCK as u64;
    let script = format!(
        "nc -ll -p {ECHO} -e cat & nc -ll -p {SINK} -e dd of=/dev/null bs={BLOCK} & \
         exec nc -ll -p {SOURCE} -e dd if=/dev/zero bs={BLOCK} count={blocks}"
    );
    ["sh".into(), "-c".into(), script]
}

fn carried(engine: &Engine, runtime: &Runtime, options: &Options) -> Result<Vec<Table>> {
    let pairs = [Pair::by_hand(engine, runtime, options)?, Pair::joined(engine, runtime)?];
    let mut rates = [(SINK, [Vec::new(), Vec::new()]), (SOURCE, [Vec::new(), Vec::new()])];
    let mut trips = [Vec::new(), Vec::new()];
    for run in 0..=options.runs {
        for (number, pair) in pairs.iter().enumerate() {
            for (port, samples) in &mut rates {
                let rate = pair.rate(*port).with_context(|| format!("port {port} of {}", pair.id))?;
                samples[number].extend((run > 0).then_some(rate));
            }
            trips[number].extend((run > 0).then_some(pair.round_trip()?));
        }
    }
    for pair in &pairs {
        engine.remove(pair.id)?;
    }
    engine.settle(0)?;
    let mut tables = Vec::new();
    for (port, samples) in &rates {
        let (id, way) = if *port == SINK { ("in", "into") } else { ("out", "out of") };
        let mut table = Table::new(format!("net-{id}"), format!("TCP {way} a guest"), "MiB/s", 0);
        table.better = Better::More;
        compare(&mut table, samples);
        table.note(format!("{MIB} MiB to or from `dd` in the container, on a connection of its own."));
        tables.push(table);
    }
    let mut table = Table::new("net-latency", "TCP there and back", "ms", 3);
    compare(&mut table, &trips);
    table.note(format!("{MESSAGE} bytes to `cat` in the container and back: the median of {ROUNDS}."));
    tables.push(table);
    Ok(tables)
}

fn compare(table: &mut Table, [by_hand, joined]: &[Vec<f64>; 2]) {
    table.reference("the tap alone", by_hand);
    table.ours("ours, joined by filters", joined, Some(aims::NETWORK));
}

/// What one interface adds to a start.
fn start(engine: &Engine, runtime: &Runtime, options: &Options) -> Result<[Table; 2]> {
    let (mut none, mut one, mut more) = (Vec::new(), Vec::new(), Vec::new());
    let empty = Namespace::new()?;
    let (sandbox, _peer) = joined_namespaces()?;
    let start = |id: String, namespace: &Namespace| -> Result<f64> {
        let ms = engine.start_in(runtime, &id, &namespace.path(), &["sleep", "86400"])?;
        engine.remove(&id)?;
        engine.settle(0)?;
        Ok(ms)
    };
    for run in 0..=options.runs {
        let without = start(format!("net-none-{run}"), &empty)?;
        let with = start(format!("net-one-{run}"), &sandbox)?;
        if run > 0 {
            none.push(without);
            one.push(with);
            more.push(with - without);
        }
    }
    let mut table = Table::new("net-start", "`ctr run --detach … sleep` in a network namespace", "ms", 0);
    table.reference("no interface", &none);
    table.ours("one interface", &one, None);
    let mut added = Table::new("net-start-added", "what one interface adds to a start", "ms", 0);
    added.ours("the difference, run by run", &more, Some(aims::INTERFACE));
    Ok([table, added])
}

fn connect(port: u16) -> Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&SocketAddr::from((GUEST, port)), Duration::from_secs(2))?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(stream)
}

/// MiB/s into the guest, by when all has arrived.
fn send() -> Result<f64> {
    let mut stream = connect(SINK)?;
    let (block, began) = (vec![0; BLOCK], Instant::now());
    for _ in 0..(MIB << 20) / BLOCK as u64 {
        stream.write_all(&block)?;
    }
    stream.shutdown(Shutdown::Write)?;
    // dd ends at the end of its input, and with it the connection.
    let _ = stream.read(&mut [0; 1])?;
    Ok(per_second(began))
}

/// MiB/s out of the guest.
fn receive() -> Result<f64> {
    let mut stream = connect(SOURCE)?;
    let (mut block, mut left) = (vec![0; BLOCK], MIB << 20);
    // The first bytes come when the server has started its program.
    left -= stream.read(&mut block)? as u64;
    let began = Instant::now();
    while left > 0 {
        let length = stream.read(&mut block)?;
        ensure!(length > 0, "the server has ended {left} bytes early");
        left -= length as u64;
    }
    Ok(per_second(began))
}

fn per_second(began: Instant) -> f64 {
    MIB as f64 / began.elapsed().as_secs_f64()
}

/// Milliseconds there and back.
fn round_trip() -> Result<f64> {
    let mut stream = connect(ECHO)?;
    let mut samples = Vec::new();
    for round in 0..=ROUNDS {
        let (mut message, began) = ([0; MESSAGE], Instant::now());
        stream.write_all(&message)?;
        stream.read_exact(&mut message)?;
        // The first one waits for the server's program.
        samples.extend((round > 0).then_some(began.elapsed().as_secs_f64() * 1e3));
    }
    Ok(median(&samples))
}
